// AISIVI's estimate of grad log q for one seed on one CPU core, float32: inner draws through the conditional flow and
// the network of mu, and their importance weights, strip by strip.  The mathematics is that of `AISIVI.estimate` in
// aisivi.py and of conditional_flow.py.  Plain C interface: compiled on first use (bench.native).
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "products.hpp"
#include "relu_network.hpp"
#include "stein_profile.hpp"

namespace {

constexpr int VECTORS = 12;
constexpr int64_t STRIP = VECTORS * WIDTH<float>;
constexpr float LOG2_E = 1.44269504f, LOG_2 = 0.693147181f;
constexpr float TO_ONE = 0.541324855f;         // log(e - 1): softplus of it is 1
constexpr float SMALLEST_SCALE = 1e-7f;        // as in conditional_flow.py
constexpr float NO_WEIGHT = -3e38f;            // stands for log 0

inline float exp_negative(float v) { return exp2_negative(v * LOG2_E); }

// log(1 + e) for 0 <= e <= 1: minimax of degree 8 in log(1 + e) / e, relative error 2e-7
inline float log1p_unit(float e) {
    float p = 0.00525345793f;
    p = p * e - 0.0295885075f;
    p = p * e + 0.0783616677f;
    p = p * e - 0.136747703f;
    p = p * e + 0.191114306f;
    p = p * e - 0.248443693f;
    p = p * e + 0.333192706f;
    p = p * e - 0.499995023f;
    p = p * e + 1.0f;
    return p * e;
}

// log of a normal positive number: its exponent, and a minimax of degree 8 for a mantissa in [0.707, 1.414)
inline float log_normal(float v) {
    int32_t bits;
    std::memcpy(&bits, &v, 4);
    const int32_t n = (bits - 0x3f3504f3) >> 23;
    const int32_t mantissa = bits - n * (1 << 23);
    float r;
    std::memcpy(&r, &mantissa, 4);
    r -= 1.0f;
    float p = 0.0874169543f;
    p = p * r - 0.143767357f;
    p = p * r + 0.149495676f;
    p = p * r - 0.165607929f;
    p = p * r + 0.199569449f;
    p = p * r - 0.250021487f;
    p = p * r + 0.333341837f;
    p = p * r - 0.499999881f;
    p = p * r + 1.0f;
    return p * r + LOG_2 * static_cast<float>(n);
}

inline float positive_part(float v) { return v < 0.0f ? 0.0f : v; }  // NaN stays

inline int is_finite(float v) {
    int32_t b;
    std::memcpy(&b, &v, 4);
    return (b & 0x7f800000) != 0x7f800000;
}

// One coupling's parameters, in the order in which the caller gives them.
struct Coupling {
    const float *from_z, *from_x, *bias, *out, *out_bias, *log_scale, *shift;
};
constexpr int PER_COUPLING = 7;

// What a thread keeps between calls; nothing in it outlives one call's meaning.
struct Work {
    Buffer<float> y, hidden, s, t, here, there, context, log_tau, log_w;
};

// (a, b) -> (a, b softplus(s) + t), then exp(log_scale) and shift; `vectors` vectors of
// each row of y [k, STRIP] in place, log_tau less log |dy|.
// context [h]: the first layer's share of x.
void couple(const Coupling& c, int64_t parity, int64_t k, int64_t h, int64_t vectors, const float* context, float* y,
            float* log_tau, Work& w) {
    const int64_t kept = (k + 1 - parity) / 2, moved = k - kept, n = vectors * WIDTH<float>;
    float *hidden = w.hidden.data(), *s = w.s.data(), *t = w.t.data();
    product<float>(h, vectors, kept, c.from_z + parity, k, 2, y + parity * STRIP, 2 * STRIP,
                   [&](int64_t r, int64_t v, const Vector<float>& sum) {
                       const Vector<float> value = sum + context[r], zero = {};
                       store(hidden + r * STRIP + v * WIDTH<float>, value < zero ? zero : value);
                   });
    const int64_t first = 1 - parity;  // moved coordinates are first, first + 2, ..
    auto head = [&](int64_t offset, float* to) {
        const float* bias = c.out_bias + offset + first;
        product<float>(moved, vectors, h, c.out + (offset + first) * h, 2 * h, 1, hidden, STRIP,
                       [&](int64_t r, int64_t v, const Vector<float>& sum) {
                           store(to + r * STRIP + v * WIDTH<float>, sum + bias[2 * r]);
                       });
    };
    head(0, s), head(k, t);
    for (int64_t m = 0; m < moved; ++m) {
        float *ym = y + (first + 2 * m) * STRIP, *sm = s + m * STRIP, *tm = t + m * STRIP;
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) {
            const float v = sm[i] + TO_ONE;
            const float scale = positive_part(v) + log1p_unit(exp_negative(-std::fabs(v))) + SMALLEST_SCALE;
            ym[i] = ym[i] * scale + tm[i];
            log_tau[i] -= log_normal(scale);
        }
    }
    float total = 0;
    for (int64_t a = 0; a < k; ++a) {
        const float factor = std::exp(c.log_scale[a]), shift = c.shift[a];
        float* ya = y + a * STRIP;
        total += c.log_scale[a];
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) ya[i] = ya[i] * factor + shift;
    }
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) log_tau[i] -= total;
}

}  // namespace

// The estimate [n, d] at x [n, d] from base noise eps [inner, n, k].
// flow: 7 arrays per coupling, see Coupling, with h hidden units; widths, weights, biases: the network of mu.
extern "C" int sivibench_aisivi(int64_t n, int64_t inner, int64_t k, int64_t d, int64_t couplings, int64_t h,
                                const float* const* flow, int64_t layers, const int64_t* widths,
                                const float* const* weights, const float* const* biases, const float* sigma,
                                const float* x, const float* eps, float* out) {
    static thread_local Work w;
    const ReluNetwork network{layers, widths, weights, biases};
    const int64_t widest = network.widest();
    float *y = room(w.y, k * STRIP), *context = room(w.context, couplings * h), *log_tau = room(w.log_tau, STRIP);
    float *log_w = room(w.log_w, STRIP), *here = room(w.here, widest * STRIP), *there = room(w.there, widest * STRIP);
    room(w.hidden, h * STRIP), room(w.s, k * STRIP), room(w.t, k * STRIP);
    Buffer<float> sums(d);
    for (int64_t j = 0; j < n; ++j) {
        const float* xj = x + j * d;
        for (int64_t c = 0; c < couplings; ++c) {
            const float *from_x = flow[PER_COUPLING * c + 1], *bias = flow[PER_COUPLING * c + 2];
            for (int64_t r = 0; r < h; ++r) {
                float sum = bias[r];
                for (int64_t a = 0; a < d; ++a) sum += from_x[r * d + a] * xj[a];
                context[c * h + r] = sum;
            }
        }
        float largest = NO_WEIGHT, total = 0;  // weights are relative to exp(largest)
        std::fill(sums.begin(), sums.end(), 0.0f);
        for (int64_t first = 0; first < inner; first += STRIP) {
            const int64_t rows = std::min(STRIP, inner - first), m = padded<float>(rows), vectors = m / WIDTH<float>;
            std::fill(log_tau, log_tau + m, 0.0f);
            for (int64_t a = 0; a < k; ++a) {
                float* ya = y + a * STRIP;
                for (int64_t i = 0; i < m; ++i) ya[i] = i < rows ? eps[((first + i) * n + j) * k + a] : 0.0f;
#pragma omp simd
                for (int64_t i = 0; i < m; ++i) log_tau[i] -= 0.5f * ya[i] * ya[i];
            }
            for (int64_t c = 0; c < couplings; ++c) {
                const float* const* p = flow + PER_COUPLING * c;
                couple({p[0], p[1], p[2], p[3], p[4], p[5], p[6]}, c % 2, k, h, vectors, context + c * h, y, log_tau, w);
            }
            for (int64_t a = 0; a < k; ++a) {  // the sigmoid, and the log of its slope
                const float* ya = y + a * STRIP;
                float* z = here + a * STRIP;
#pragma omp simd
                for (int64_t i = 0; i < m; ++i) {
                    const float e = exp_negative(-std::fabs(ya[i])), share = 1.0f / (1.0f + e);
                    z[i] = ya[i] >= 0.0f ? share : e * share;
                    log_tau[i] += std::fabs(ya[i]) + 2.0f * log1p_unit(e);
                }
            }
            float* mean = network.through(vectors, STRIP, here, there);
            for (int64_t i = 0; i < m; ++i) log_w[i] = -log_tau[i];
            for (int64_t a = 0; a < d; ++a) {
                const float inverse = 1.0f / sigma[a], white = xj[a] * inverse;
                float* centre = mean + a * STRIP;
#pragma omp simd
                for (int64_t i = 0; i < m; ++i) {
                    centre[i] *= inverse;
                    log_w[i] -= 0.5f * (white - centre[i]) * (white - centre[i]);
                }
            }
            float most = NO_WEIGHT;
#pragma omp simd reduction(max : most)
            for (int64_t i = 0; i < m; ++i) {
                log_w[i] = i < rows && is_finite(log_w[i]) ? log_w[i] : NO_WEIGHT;
                most = most > log_w[i] ? most : log_w[i];
            }
            if (most > largest) {
                const float factor = std::exp(largest - most);
                total *= factor, largest = most;
                for (float& sum : sums) sum *= factor;
            }
            float part = 0;
#pragma omp simd reduction(+ : part)
            for (int64_t i = 0; i < m; ++i) {
                log_w[i] = log_w[i] > NO_WEIGHT ? exp_negative(log_w[i] - largest) : 0.0f;
                part += log_w[i];
            }
            total += part;
            for (int64_t a = 0; a < d; ++a) {
                const float* centre = mean + a * STRIP;
                float sum = 0;
#pragma omp simd reduction(+ : sum)
                for (int64_t i = 0; i < m; ++i) sum += log_w[i] > 0.0f ? log_w[i] * centre[i] : 0.0f;
                sums[a] += sum;
            }
        }
        for (int64_t a = 0; a < d; ++a)
            out[j * d + a] = total > 0.0f ? (sums[a] / total - xj[a] / sigma[a]) / sigma[a]
                                          : std::numeric_limits<float>::quiet_NaN();
    }
    return 0;
}
