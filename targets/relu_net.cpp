// Regression by a net with one hidden ReLU layer: log likelihood, its gradient in the weights, and the product of its
// second derivative with a vector, for many weight vectors ("particles") on one CPU core, float32 or float64.
//
//     a = u W1 (the last input is 1),  m = [a > 0],  f = sum_h m_h a_h w2_h + b2,  r = gamma (y - f)
//     M = sum_i r_i u_i m_i^T,   grad W1 = M diag(w2),   grad w2 = sum_k W1_k M_k,   grad b2 = sum_i r_i
//
// Only the gates m and M tie the gradient to the weights, and at fixed m it is bilinear in (W1, w2); so the second
// derivative along v needs, besides them, one product forward and one back:
//
//     df = m . (u (V1 diag w2 + W1 diag v2)) + vb,  dr = -gamma df,  M' = sum_i dr_i u_i m_i^T
//     dgrad W1 = M' diag(w2) + M diag(v2),   dgrad w2 = sum_k W1_k M'_k + V1_k M_k,   dgrad b2 = sum_i dr_i
//
// One particle is finished before the next begins, ROWS rows at a time: its activations never leave the cache.
#include <algorithm>
#include <type_traits>

#include "products.hpp"

namespace {

constexpr int64_t ROWS = 128;  // rows of data whose activations are held at once

template <class T>
struct Net {
    using Bits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
    using Gate = Vector<Bits>;  // one bit per vector of hidden units, in the lane of the unit

    int64_t B, p, H, d, vectors, Hp;
    T gamma;
    Buffer<T> w1, v1, c, open, w2, v2, M, scaled;
    Buffer<Vector<T>> f;

    Net(int64_t B, int64_t p, int64_t H, double gamma)
        : B(B), p(p), H(H), d(p * H + H + 1), vectors((H + WIDTH<T> - 1) / WIDTH<T>), Hp(vectors * WIDTH<T>),
          gamma(static_cast<T>(gamma)), w1(p * Hp), v1(p * Hp), c(p * Hp), open(ROWS * Hp), w2(Hp), v2(Hp), M(p * Hp),
          scaled(ROWS * p), f(ROWS) {}

    // [p, H] to rows of whole vectors; the padding stays as it was made, zero
    void spread(const T* from, T* to) const {
        for (int64_t k = 0; k < p; ++k) std::copy(from + k * H, from + (k + 1) * H, to + k * Hp);
    }

    static Vector<T> ones(Gate chosen) {
        const Vector<T> one = T(1) - Vector<T>{};
        Gate bits;
        std::memcpy(&bits, &one, VECTOR_BYTES);
        bits &= chosen;
        Vector<T> result;
        std::memcpy(&result, &bits, VECTOR_BYTES);
        return result;
    }

    // M += sum_i weight_i u_i open_i^T over n rows, weight_i = f[i][0]
    void pull_back(int64_t n, const T* u) {
        for (int64_t i = 0; i < n; ++i) {
            const T weight = f[i][0];
            for (int64_t k = 0; k < p; ++k) scaled[i * p + k] = weight * u[i * p + k];
        }
        T* sum = M.data();
        const int64_t stride = Hp;
        product<T>(p, vectors, n, scaled.data(), 1, p, open.data(), Hp, [=](int64_t k, int64_t v, Vector<T> value) {
            T* at = sum + k * stride + v * WIDTH<T>;
            store<T>(at, load(at) + value);
        });
    }

    void score(const T* x, const T* u, const T* y, T* value, T* gradient, Bits* gates, T* moments) {
        spread(x, w1.data());
        std::copy(x + p * H, x + p * H + H, w2.begin());
        std::fill(M.begin(), M.end(), T(0));
        const T b2 = x[d - 1];
        double squares = 0, sum = 0;
        for (int64_t first = 0; first < B; first += ROWS) {
            const int64_t n = std::min(ROWS, B - first);
            Bits* gate = gates + first * WIDTH<T>;
            std::fill(gate, gate + n * WIDTH<T>, Bits(0));
            std::fill(f.begin(), f.begin() + n, Vector<T>{});
            T* m = open.data();
            Vector<T>* sums = f.data();
            const T* out = w2.data();
            const int64_t stride = Hp;
            product<T>(n, vectors, p, u + first * p, p, 1, w1.data(), Hp, [=](int64_t i, int64_t v, Vector<T> a) {
                const Gate positive = a > T(0) - Vector<T>{};
                const Vector<T> one = ones(positive);
                store<T>(m + i * stride + v * WIDTH<T>, one);
                Bits* at = gate + i * WIDTH<T>;
                store<Bits>(at, load(at) | (positive & (Bits(1) << v)));
                sums[i] += one * a * load(out + v * WIDTH<T>);  // a product, not a choice: NaN stays
            });
            T part = 0, part_squares = 0;
            for (int64_t i = 0; i < n; ++i) {
                const T misfit = y[first + i] - (sum_of<T>(f[i]) + b2), r = gamma * misfit;
                part_squares += r * misfit, part += r;
                f[i][0] = r;
            }
            squares += part_squares, sum += part;
            pull_back(n, u + first * p);
        }
        *value = static_cast<T>(-0.5 * squares);
        for (int64_t k = 0; k < p; ++k)
            for (int64_t h = 0; h < H; ++h) gradient[k * H + h] = w2[h] * M[k * Hp + h];
        T* g2 = gradient + p * H;
        std::fill(g2, g2 + H, T(0));
        for (int64_t k = 0; k < p; ++k)
            for (int64_t h = 0; h < H; ++h) g2[h] += w1[k * Hp + h] * M[k * Hp + h];
        gradient[d - 1] = static_cast<T>(sum);
        std::copy(M.begin(), M.end(), moments);
    }

    void second(const T* x, const T* v, const T* u, const Bits* gates, const T* moments, T* result) {
        spread(x, w1.data()), spread(v, v1.data());
        std::copy(x + p * H, x + p * H + H, w2.begin()), std::copy(v + p * H, v + p * H + H, v2.begin());
        for (int64_t k = 0; k < p; ++k)
            for (int64_t h = 0; h < Hp; ++h) c[k * Hp + h] = v1[k * Hp + h] * w2[h] + w1[k * Hp + h] * v2[h];
        std::fill(M.begin(), M.end(), T(0));
        const T vb = v[d - 1];
        double sum = 0;
        for (int64_t first = 0; first < B; first += ROWS) {
            const int64_t n = std::min(ROWS, B - first);
            std::fill(f.begin(), f.begin() + n, Vector<T>{});
            T* m = open.data();
            Vector<T>* sums = f.data();
            const Bits* gate = gates + first * WIDTH<T>;
            const int64_t stride = Hp;
            product<T>(n, vectors, p, u + first * p, p, 1, c.data(), Hp, [=](int64_t i, int64_t v, Vector<T> a) {
                const Vector<T> one = ones((load(gate + i * WIDTH<T>) & (Bits(1) << v)) != Gate{});
                store<T>(m + i * stride + v * WIDTH<T>, one);
                sums[i] += one * a;
            });
            T part = 0;
            for (int64_t i = 0; i < n; ++i) {
                const T dr = -gamma * (sum_of<T>(f[i]) + vb);
                part += dr;
                f[i][0] = dr;
            }
            sum += part;
            pull_back(n, u + first * p);
        }
        for (int64_t k = 0; k < p; ++k)
            for (int64_t h = 0; h < H; ++h)
                result[k * H + h] = w2[h] * M[k * Hp + h] + v2[h] * moments[k * Hp + h];
        T* g2 = result + p * H;
        std::fill(g2, g2 + H, T(0));
        for (int64_t k = 0; k < p; ++k)
            for (int64_t h = 0; h < H; ++h)
                g2[h] += w1[k * Hp + h] * M[k * Hp + h] + v1[k * Hp + h] * moments[k * Hp + h];
        result[d - 1] = static_cast<T>(sum);
    }
};

template <class T>
int run_score(int64_t G, int64_t n, int64_t B, int64_t p, int64_t H, double gamma, const T* x, const T* u, const T* y,
              T* value, T* gradient, void* gates, T* moments) {
    Net<T> net(B, p, H, gamma);
    using Bits = typename Net<T>::Bits;
    for (int64_t g = 0; g < G; ++g)
        for (int64_t s = g * n; s < (g + 1) * n; ++s)
            net.score(x + s * net.d, u + g * B * p, y + g * B, value + s, gradient + s * net.d,
                      static_cast<Bits*>(gates) + s * B * WIDTH<T>, moments + s * p * net.Hp);
    return 0;
}

template <class T>
int run_second(int64_t G, int64_t n, int64_t B, int64_t p, int64_t H, double gamma, const T* x, const T* v, const T* u,
               const void* gates, const T* moments, T* result) {
    Net<T> net(B, p, H, gamma);
    using Bits = typename Net<T>::Bits;
    for (int64_t g = 0; g < G; ++g)
        for (int64_t s = g * n; s < (g + 1) * n; ++s)
            net.second(x + s * net.d, v + s * net.d, u + g * B * p, static_cast<const Bits*>(gates) + s * B * WIDTH<T>,
                       moments + s * p * net.Hp, result + s * net.d);
    return 0;
}

}  // namespace

// Row-major: x, v, gradient, result [G, n, d]; u [G, B, p]; y [G, B]; value [G, n]; gates [G, n, B] vectors and moments
// [G, n, p, H padded to whole vectors] carry the first pass to the second.  wide: float64.
extern "C" int sivibench_relu_net_width(int wide) { return wide ? WIDTH<double> : WIDTH<float>; }

extern "C" int sivibench_relu_net_score(int wide, int64_t G, int64_t n, int64_t B, int64_t p, int64_t H, double gamma,
                                        const void* x, const void* u, const void* y, void* value, void* gradient,
                                        void* gates, void* moments) {
    if (wide) {
        using T = double;
        return run_score<T>(G, n, B, p, H, gamma, (const T*)x, (const T*)u, (const T*)y, (T*)value, (T*)gradient, gates,
                            (T*)moments);
    }
    using T = float;
    return run_score<T>(G, n, B, p, H, gamma, (const T*)x, (const T*)u, (const T*)y, (T*)value, (T*)gradient, gates,
                        (T*)moments);
}

extern "C" int sivibench_relu_net_second(int wide, int64_t G, int64_t n, int64_t B, int64_t p, int64_t H, double gamma,
                                         const void* x, const void* v, const void* u, const void* gates,
                                         const void* moments, void* result) {
    if (wide) {
        using T = double;
        return run_second<T>(G, n, B, p, H, gamma, (const T*)x, (const T*)v, (const T*)u, gates, (const T*)moments,
                             (T*)result);
    }
    using T = float;
    return run_second<T>(G, n, B, p, H, gamma, (const T*)x, (const T*)v, (const T*)u, gates, (const T*)moments,
                         (T*)result);
}
