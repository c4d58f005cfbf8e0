// The layers of a ReLU network over strips of rows, one seed's on one CPU core, float32: the activations of a strip
// stay in a core's cache, and biases and gates are applied while they are made.
// Matrices are row-major with features along the vectors; hidden values have rows of whole vectors of LINE floats.
// (relu_network.hpp has the rows along the vectors and keeps no hidden values: for networks that are only evaluated.)
#pragma once

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
    const float* const* biases;  // [widths[i + 1]], likewise; gradients in the inputs need none
    const int64_t* bias_strides;

    const float* weight(int64_t layer, int64_t seed) const { return weights[layer] + seed * weight_strides[layer]; }
    const float* bias(int64_t layer, int64_t seed) const { return biases[layer] + seed * bias_strides[layer]; }
    int64_t widest_hidden() const {
        int64_t widest = LINE;
        for (int64_t i = 1; i < layers; ++i) widest = std::max(widest, line(widths[i]));
        return widest;
    }
};

// One seed's parameters of each layer: the bias, and the weights in rows of whole lines, whichever way round.
class Packed {
   public:
    void place(const Network& net) {
        int64_t total = 0;
        for (int64_t i = 0; i < net.layers; ++i) total += size(net, i);
        float* at = room(buffer, total);
        biases.clear(), weights.clear();
        for (int64_t i = 0; i < net.layers; at += size(net, i++)) {
            biases.push_back(at);
            weights.push_back(at + line(net.widths[i + 1]));
        }
    }
    std::vector<float*> biases, weights;

   private:
    Buffer<float> buffer;
    static int64_t size(const Network& net, int64_t i) {
        return line(net.widths[i + 1]) + line(net.widths[i]) * line(net.widths[i + 1]);
    }
};

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

// Evaluation of a network with one seed's parameters.
class Forward {
   public:
    void pack(const Network& net, int64_t seed) {
        packed.place(net);
        for (int64_t i = 0; i < net.layers; ++i) {
            const int64_t width = net.widths[i + 1], inner = net.widths[i];
            widen(1, width, net.bias(i, seed), packed.biases[i]);
            if (sums(net, i))
                widen(width, inner, net.weight(i, seed), packed.weights[i]);
            else
                transpose(width, inner, net.weight(i, seed), packed.weights[i]);
        }
    }

    // Rows first, ..., first + rows - 1 of x [., widths[0]] -> those of hidden[i] [., line(widths[i + 1])], after the
    // ReLU, and of out [., widths[layers]].
    void run(const Network& net, int64_t first, int64_t rows, const float* x, float* const* hidden, float* out) const {
        const float* from = x + first * net.widths[0];
        int64_t ld = net.widths[0];
        for (int64_t i = 0; i < net.layers; ++i) {
            const int64_t width = net.widths[i + 1], next = line(width), inner = net.widths[i];
            const float *bias = packed.biases[i], *own = packed.weights[i];
            float* to = i + 1 == net.layers ? out + first * width : hidden[i] + first * next;
            const Vector<float> zero = {};
            if (sums(net, i)) {
                dots(rows, inner, from, ld, width, own, line(inner),
                     [&](int64_t r, int64_t j, float sum) { to[r * width + j] = sum + bias[j]; });
            } else if (i + 1 == net.layers) {
                product<float>(rows, padded<float>(width) / LANES, inner, from, ld, 1, own, next,
                               [&](int64_t r, int64_t v, const Vector<float>& sum) {
                                   store_part(to + r * width, v, width, sum + load(bias + v * LANES));
                               });
            } else {
                product<float>(rows, next / LANES, inner, from, ld, 1, own, next,
                               [&](int64_t r, int64_t v, const Vector<float>& sum) {
                                   const Vector<float> value = sum + load(bias + v * LANES);
                                   store(to + r * next + v * LANES, value < zero ? zero : value);  // NaN stays
                               });
            }
            from = to, ld = next;
        }
    }

   private:
    Packed packed;
    static bool sums(const Network& net, int64_t i) {  // a narrow last layer
        return i > 0 && i + 1 == net.layers && net.widths[net.layers] <= NARROW;
    }
};

// Gradients of a network with one seed's parameters.
class Backward {
   public:
    // to_inputs: whether the gradient in the inputs will be wanted.
    void pack(const Network& net, int64_t seed, bool to_inputs) {
        packed.place(net);
        for (int i : {0, 1}) spare[i] = room(buffers[i], STRIP * net.widest_hidden());
        for (int64_t i = to_inputs ? 0 : 1; i < net.layers; ++i) {
            const int64_t width = net.widths[i + 1], inner = net.widths[i];
            if (sums(net, i))
                transpose(width, inner, net.weight(i, seed), packed.weights[i]);
            else
                widen(width, inner, net.weight(i, seed), packed.weights[i]);
        }
    }

    // For rows first, ..., first + rows - 1, at most STRIP of them: from the gradient in the outputs, g
    // [., widths[layers]], to that in the inputs, gx [., widths[0]], unless it is null; hidden as Forward left it.
    // Calls at(i, h, ld) with the gradient h [rows, ld] in the outputs of layer i (before the ReLU), from the last
    // layer to the first.
    template <class At>
    void run(const Network& net, int64_t first, int64_t rows, const float* g, const float* const* hidden, float* gx,
             const At& at) const {
        const float* to_out = g + first * net.widths[net.layers];
        int64_t ld = net.widths[net.layers];
        for (int64_t i = net.layers - 1; i >= 0; --i) {
            at(i, to_out, ld);
            if (i == 0 && !gx) return;
            const int64_t width = net.widths[i + 1], inner = net.widths[i], before = line(inner);
            const float* own = packed.weights[i];
            float* to = i == 0 ? gx + first * inner : spare[i % 2];
            if (sums(net, i)) {
                dots(rows, width, to_out, ld, inner, own, line(width),
                     [&](int64_t r, int64_t j, float sum) { to[r * inner + j] = sum; });
            } else if (i == 0) {
                product<float>(rows, padded<float>(inner) / LANES, width, to_out, ld, 1, own, before,
                               [&](int64_t r, int64_t v, const Vector<float>& sum) {
                                   store_part(to + r * inner, v, inner, sum);
                               });
            } else {
                const float* in = hidden[i - 1] + first * before;
                const Vector<float> zero = {};
                product<float>(rows, before / LANES, width, to_out, ld, 1, own, before,
                               [&](int64_t r, int64_t v, const Vector<float>& sum) {
                                   const int64_t place = r * before + v * LANES;
                                   store(to + place, load(in + place) <= zero ? zero : sum);  // as torch has it for NaN
                               });
            }
            to_out = to, ld = before;
        }
    }

   private:
    Packed packed;
    Buffer<float> buffers[2];
    float* spare[2];
    static bool sums(const Network& net, int64_t i) {  // narrow inputs
        return i == 0 && net.layers > 1 && net.widths[0] <= NARROW;
    }
};

}  // namespace
