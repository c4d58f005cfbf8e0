// A ReLU network over a batch of rows and its gradients, one seed after the other on one CPU core, float32.
// Plain C interface: compiled on first use (bench.native).
#include "relu_layers.hpp"

namespace {

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

}  // namespace

extern "C" {

// Per seed: x [n, widths[0]] -> hidden[i] [n, line(widths[i + 1])] after the ReLU, and out [n, widths[layers]].
int sivibench_relu_mlp_forward(int64_t seeds, int64_t n, int64_t layers, const int64_t* widths,
                               const float* const* weights, const int64_t* weight_strides, const float* const* biases,
                               const int64_t* bias_strides, const float* x, float* const* hidden, float* out) {
    static thread_local Forward forward;
    const Network net{layers, widths, weights, weight_strides, biases, bias_strides};
    for (int64_t seed = 0; seed < seeds; ++seed) {
        forward.pack(net, seed);
        for (int64_t start = 0; start < n; start += STRIP)
            forward.run(net, seed * n + start, std::min(STRIP, n - start), x, hidden, out);
    }
    return 0;
}

// Per seed: g [n, widths[layers]] -> gx [n, widths[0]] unless null, and the gradients in weights and biases unless
// weight_gradients is null.
int sivibench_relu_mlp_backward(int64_t seeds, int64_t n, int64_t layers, const int64_t* widths,
                                const float* const* weights, const int64_t* weight_strides, const float* x,
                                const float* const* hidden, const float* g, float* gx, float* const* weight_gradients,
                                float* const* bias_gradients) {
    static thread_local Backward backward;
    static thread_local Buffer<float> wide, transposed;
    const Network net{layers, widths, weights, weight_strides, nullptr, nullptr};
    float* inputs = layers > 1 ? nullptr : room(wide, STRIP * line(widths[0]));
    float* turned = room(transposed, widths[0] * widths[1]);
    for (int64_t seed = 0; seed < seeds; ++seed) {
        backward.pack(net, seed, gx != nullptr);
        for (int64_t start = 0; start < n; start += STRIP) {
            const int64_t rows = std::min(STRIP, n - start), first = seed * n + start;
            const bool fresh = start == 0;
            backward.run(net, first, rows, g, hidden, gx, [&](int64_t i, const float* to_out, int64_t ld) {
                if (!weight_gradients) return;
                const int64_t width = widths[i + 1], inner = widths[i], before = line(inner);
                const float* in = i == 0 ? x + first * inner : hidden[i - 1] + first * before;
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
            });
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
