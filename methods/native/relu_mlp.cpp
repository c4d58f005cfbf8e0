// A ReLU network over a batch of rows and its gradients, one seed after the other on one CPU core, float32: the
// activations of a strip of rows stay in a core's cache, and the biases and gates are applied while they are made.
// Matrices are row-major with features along the vectors; hidden values have rows of whole vectors of LINE floats.
// (relu_network.hpp has the rows along the vectors and keeps no hidden values: for networks that are only evaluated.)
// Plain C interface: compiled on first use (bench.native).
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "products.hpp"

namespace {

constexpr int64_t LINE = 16;    // floats of a cache line; as in relu_mlp.py
constexpr int64_t STRIP = 512;  // rows
constexpr int64_t NARROW = 4;   // columns that cost less as sums along the rows than as part of a vector
constexpr int LANES = WIDTH<float>;

inline int64_t line(int64_t n) { return padded(n, LINE); }

// the first of at most LANES values that belong to `width` columns
inline void store_part(float* row, int64_t v, int64_t width, const Vector<float>& values) {
    const int64_t first = v * LANES, n = std::min<int64_t>(LANES, width - first);
    for (int64_t l = 0; l < n; ++l) row[first + l] = values[l];
}

struct Network {
    int64_t layers;               // linear maps, a ReLU between them
    const int64_t* widths;        // layers + 1 of them
    const float* const* weights;  // of seed s at weights[i] + s * weight_strides[i]: [widths[i + 1], widths[i]]
    const int64_t* weight_strides;

    const float* weight(int64_t layer, int64_t seed) const { return weights[layer] + seed * weight_strides[layer]; }
    int64_t widest_hidden() const {
        int64_t widest = LINE;
        for (int64_t i = 1; i < layers; ++i) widest = std::max(widest, line(widths[i]));
        return widest;
    }
    // floats for a layer's bias and its weights in rows of whole lines, whichever way round
    int64_t packed_size(int64_t layer) const {
        return line(widths[layer + 1]) + line(widths[layer]) * line(widths[layer + 1]);
    }
};

// Where each layer's packed parameters lie.
inline void place(const Network& net, Buffer<float>& buffer, std::vector<float*>& packed) {
    int64_t total = 0;
    for (int64_t i = 0; i < net.layers; ++i) total += net.packed_size(i);
    float* at = room(buffer, total);
    packed.clear();
    for (int64_t i = 0; i < net.layers; at += net.packed_size(i++)) packed.push_back(at);
}

// Rows of `n` values as rows of whole lines; what is added is 0.
inline void widen(int64_t rows, int64_t n, const float* from, float* to) {
    for (int64_t r = 0; r < rows; ++r, from += n, to += line(n)) {
        std::copy(from, from + n, to);
        std::fill(to + n, to + line(n), 0.0f);
    }
}

typedef float Four __attribute__((vector_size(16)));
#if defined(__clang__)
#define SIVIBENCH_PICK(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
typedef int Places __attribute__((vector_size(16)));
#define SIVIBENCH_PICK(a, b, i, j, k, l) __builtin_shuffle(a, b, Places{i, j, k, l})
#endif

inline Four four(const float* from) {
    Four v;
    std::memcpy(&v, from, sizeof v);
    return v;
}

// 4 x 4 in registers: left to itself the compiler gathers, one value at a time
inline void transpose_block(const float* from, int64_t ld_from, float* to, int64_t ld_to) {
    const Four a = four(from), b = four(from + ld_from), c = four(from + 2 * ld_from), d = four(from + 3 * ld_from);
    const Four ab = SIVIBENCH_PICK(a, b, 0, 4, 1, 5), AB = SIVIBENCH_PICK(a, b, 2, 6, 3, 7);
    const Four cd = SIVIBENCH_PICK(c, d, 0, 4, 1, 5), CD = SIVIBENCH_PICK(c, d, 2, 6, 3, 7);
    const Four rows[4] = {SIVIBENCH_PICK(ab, cd, 0, 1, 4, 5), SIVIBENCH_PICK(ab, cd, 2, 3, 6, 7),
                          SIVIBENCH_PICK(AB, CD, 0, 1, 4, 5), SIVIBENCH_PICK(AB, CD, 2, 3, 6, 7)};
    for (int i = 0; i < 4; ++i) std::memcpy(to + i * ld_to, rows + i, sizeof(Four));
}

// from [rows, n] to its transpose [n, line(rows)], a line of it at a time: few rows are read at once
inline void transpose(int64_t rows, int64_t n, const float* from, float* to) {
    const int64_t ld = line(rows);
    for (int64_t r0 = 0; r0 < rows; r0 += LINE) {
        const int64_t own = std::min(LINE, rows - r0), whole = own == LINE ? n / 4 * 4 : 0;
        for (int64_t k = 0; k < whole; k += 4)
            for (int64_t r = r0; r < r0 + LINE; r += 4) transpose_block(from + r * n + k, n, to + k * ld + r, ld);
        for (int64_t k = whole; k < n; ++k) {
            float* at = to + k * ld + r0;
            for (int64_t r = 0; r < own; ++r) at[r] = from[(r0 + r) * n + k];
            std::fill(at + own, at + LINE, 0.0f);
        }
    }
}

// total[0..n) is (fresh) or gains the sum of the rows of g [rows, ld]
inline void sum_rows(bool fresh, int64_t rows, int64_t n, const float* g, int64_t ld, float* total) {
    if (fresh) std::fill(total, total + n, 0.0f);
    for (int64_t r = 0; r < rows; ++r, g += ld)
        for (int64_t k = 0; k < n; ++k) total[k] += g[k];
}

// total [n_g, n_h] is (fresh) or gains g^T h, summed over rows; g [rows, ld_g], h [rows, ld_h] of whole vectors
inline void sum_outer(bool fresh, int64_t rows, int64_t n_g, const float* g, int64_t ld_g, int64_t n_h, const float* h,
                      int64_t ld_h, float* total) {
    const int64_t whole = n_h / LANES;
    product<float>(n_g, padded<float>(n_h) / LANES, rows, g, 1, ld_g, h, ld_h,
                   [&](int64_t r, int64_t v, const Vector<float>& sum) {
                       float* at = total + r * n_h + v * LANES;
                       if (v < whole) return store(at, fresh ? sum : load(at) + sum);
                       for (int64_t k = 0; k < n_h - v * LANES; ++k) at[k] = fresh ? sum[k] : at[k] + sum[k];
                   });
}

// put(r, j, sum over k < inner of a[r, k] b[j, k]), j < n <= NARROW; rows of a and b are whole vectors
template <class Put>
void dots(int64_t rows, int64_t inner, const float* a, int64_t lda, int64_t n, const float* b, int64_t ldb,
          const Put& put) {
    const int64_t vectors = padded<float>(inner) / LANES;
    const Vector<float> zero = {};
    Vector<float> lane, own = zero + static_cast<float>(inner - (vectors - 1) * LANES);  // of the last vector
    for (int l = 0; l < LANES; ++l) lane[l] = static_cast<float>(l);
    for (int64_t r = 0; r < rows; ++r, a += lda) {
        Vector<float> sum[NARROW] = {};
        for (int64_t v = 0; v < vectors; ++v) {
            Vector<float> ar = load(a + v * LANES);
            if (v == vectors - 1) ar = lane < own ? ar : zero;  // beside an infinite value the padding is NaN
            for (int64_t j = 0; j < n; ++j) sum[j] += ar * load(b + j * ldb + v * LANES);
        }
        for (int64_t j = 0; j < n; ++j) put(r, j, sum_of<float>(sum[j]));
    }
}

struct Work {
    Buffer<float> packed, inputs, here, there, turned;
    std::vector<float*> layers;
};

}  // namespace

extern "C" {

// Per seed: x [n, widths[0]] -> hidden[i] [n, line(widths[i + 1])] after the ReLU, and out [n, widths[layers]].
int sivibench_relu_mlp_forward(int64_t seeds, int64_t n, int64_t layers, const int64_t* widths,
                               const float* const* weights, const int64_t* weight_strides, const float* const* biases,
                               const int64_t* bias_strides, const float* x, float* const* hidden, float* out) {
    static thread_local Work work;
    const Network net{layers, widths, weights, weight_strides};
    const int64_t last = layers - 1;
    const bool narrow = layers > 1 && widths[layers] <= NARROW;
    place(net, work.packed, work.layers);
    for (int64_t seed = 0; seed < seeds; ++seed) {
        for (int64_t i = 0; i < layers; ++i) {
            float *bias = work.layers[i], *own = bias + line(widths[i + 1]);
            widen(1, widths[i + 1], biases[i] + seed * bias_strides[i], bias);
            if (i == last && narrow)
                widen(widths[i + 1], widths[i], net.weight(i, seed), own);
            else
                transpose(widths[i + 1], widths[i], net.weight(i, seed), own);
        }
        for (int64_t start = 0; start < n; start += STRIP) {
            const int64_t rows = std::min(STRIP, n - start), first = seed * n + start;
            const float* from = x + first * widths[0];
            int64_t ld = widths[0];
            for (int64_t i = 0; i < layers; ++i) {
                const int64_t width = widths[i + 1], next = line(width);
                const float *bias = work.layers[i], *own = bias + next;
                if (i == last && narrow) {
                    float* to = out + first * width;
                    dots(rows, widths[i], from, ld, width, own, line(widths[i]),
                         [&](int64_t r, int64_t j, float sum) { to[r * width + j] = sum + bias[j]; });
                } else if (i == last) {
                    float* to = out + first * width;
                    product<float>(rows, padded<float>(width) / LANES, widths[i], from, ld, 1, own, next,
                                   [&](int64_t r, int64_t v, const Vector<float>& sum) {
                                       store_part(to + r * width, v, width, sum + load(bias + v * LANES));
                                   });
                } else {
                    float* to = hidden[i] + first * next;
                    const Vector<float> zero = {};
                    product<float>(rows, next / LANES, widths[i], from, ld, 1, own, next,
                                   [&](int64_t r, int64_t v, const Vector<float>& sum) {
                                       const Vector<float> value = sum + load(bias + v * LANES);
                                       store(to + r * next + v * LANES, value < zero ? zero : value);  // NaN stays
                                   });
                    from = to, ld = next;
                }
            }
        }
    }
    return 0;
}

// Per seed: g [n, widths[layers]] -> gx [n, widths[0]] unless null, and the gradients in weights and biases unless
// weight_gradients is null.
int sivibench_relu_mlp_backward(int64_t seeds, int64_t n, int64_t layers, const int64_t* widths,
                                const float* const* weights, const int64_t* weight_strides, const float* x,
                                const float* const* hidden, const float* g, float* gx, float* const* weight_gradients,
                                float* const* bias_gradients) {
    static thread_local Work work;
    const Network net{layers, widths, weights, weight_strides};
    const int64_t widest = net.widest_hidden();
    const bool narrow = gx && layers > 1 && widths[0] <= NARROW;
    place(net, work.packed, work.layers);
    float* inputs = layers > 1 ? nullptr : room(work.inputs, STRIP * line(widths[0]));
    float* spare[2] = {room(work.here, STRIP * widest), room(work.there, STRIP * widest)};
    float* turned = room(work.turned, widths[0] * widths[1]);
    for (int64_t seed = 0; seed < seeds; ++seed) {
        for (int64_t i = 0; i < layers; ++i)
            if (i == 0 && narrow)
                transpose(widths[1], widths[0], net.weight(0, seed), work.layers[0]);
            else if (i > 0 || gx)
                widen(widths[i + 1], widths[i], net.weight(i, seed), work.layers[i]);
        for (int64_t start = 0; start < n; start += STRIP) {
            const int64_t rows = std::min(STRIP, n - start), first = seed * n + start;
            const float* own_x = x + first * widths[0];
            const float* to_out = g + first * widths[layers];  // gradient in the outputs of the layer at hand
            int64_t ld = widths[layers];
            for (int64_t i = layers - 1; i >= 0; --i) {
                const int64_t width = widths[i + 1], inner = widths[i], before = line(inner);
                const float* in = i == 0 ? own_x : hidden[i - 1] + first * before;
                if (weight_gradients) {
                    const bool fresh = start == 0;
                    float* total = weight_gradients[i] + seed * width * inner;
                    sum_rows(fresh, rows, width, to_out, ld, bias_gradients[i] + seed * width);
                    if (i > 0) {
                        sum_outer(fresh, rows, width, to_out, ld, inner, in, before, total);
                    } else if (layers > 1) {  // few inputs, many outputs: the transpose
                        sum_outer(fresh, rows, inner, in, inner, width, to_out, ld, turned);
                    } else {  // which would want the rows of g to be of whole vectors
                        widen(rows, inner, in, inputs);
                        sum_outer(fresh, rows, width, to_out, ld, inner, inputs, before, total);
                    }
                }
                if (i == 0 && !gx) break;
                const float* own = work.layers[i];
                if (i == 0 && narrow) {
                    float* to = gx + first * inner;
                    dots(rows, width, to_out, ld, inner, own, line(width),
                         [&](int64_t r, int64_t j, float sum) { to[r * inner + j] = sum; });
                } else if (i == 0) {
                    float* to = gx + first * inner;
                    product<float>(rows, padded<float>(inner) / LANES, width, to_out, ld, 1, own, before,
                                   [&](int64_t r, int64_t v, const Vector<float>& sum) {
                                       store_part(to + r * inner, v, inner, sum);
                                   });
                } else {
                    float* to = spare[i % 2];
                    const Vector<float> zero = {};
                    product<float>(rows, before / LANES, width, to_out, ld, 1, own, before,
                                   [&](int64_t r, int64_t v, const Vector<float>& sum) {
                                       const int64_t at = r * before + v * LANES;
                                       store(to + at, load(in + at) <= zero ? zero : sum);  // as torch has it for NaN
                                   });
                    to_out = to, ld = before;
                }
            }
        }
        if (weight_gradients && layers > 1) {
            float* total = weight_gradients[0] + seed * widths[1] * widths[0];
            for (int64_t k = 0; k < widths[0]; ++k)
                for (int64_t r = 0; r < widths[1]; ++r) total[r * widths[0] + k] = turned[k * widths[1] + r];
        }
    }
    return 0;
}

}  // extern "C"
