// The passes of KPG-IS that are not the target's score, for one seed on one CPU core, float32: gather the Gaussian draws
// that are used, map them through the network, and weigh all draws into the direction.  The mathematics is that of
// `dense` in kpg_direction.py.  Plain C interface: compiled on first use (bench.native).
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "exp2.hpp"
#include "products.hpp"
#include "relu_network.hpp"
#include "stein_select.hpp"

namespace {

// exp for arguments of any size, between 2^-126 and 2^126
inline float exp_clamped(float v) {
    float t = v * 1.44269504f;
    t = t > -126.0f ? t : -126.0f;
    t = t < 126.0f ? t : 126.0f;
    const float magic = t + 12582912.0f;  // 1.5 * 2^23: the sum's low bits are the nearest integer
    int32_t bits;
    std::memcpy(&bits, &magic, 4);
    const int32_t n = bits - 0x4b400000;
    return exp2_split(n, t - static_cast<float>(n));
}

struct Work {  // reused between calls of a thread; nothing in it outlives one call's meaning
    std::vector<int32_t> room;
    std::vector<float> distances, row, zt, yt, ft, half_z, odds;
};

}  // namespace

// Gaussian draws of rows first..last-1 that are used, packed: z = m + s eps [n, k], xi [n, d] and log odds
// log N(z; m, s^2) - log q(z) [n]; count[j] of each row.  Returns n <= (last - first) max(l, c).
// u is null where every draw is used (stratified).  A row with fewer draws than it needs repeats its last one with
// infinite odds, hence no weight.
extern "C" int sivibench_kpg_gather(int64_t first, int64_t last, int64_t l, int64_t c, int64_t k, int64_t d,
                                        const float* u, const float* alpha, const float* m, const float* s,
                                        const float* eps, const float* xi, float* z_out, float* xi_out, float* odds,
                                        int64_t* count) {
    int64_t n = 0;
    for (int64_t j = first; j < last; ++j) {
        const float *mj = m + j * k, *sj = s + j * k, *uj = u ? u + j * l : nullptr;
        float log_s = 0;
        for (int64_t a = 0; a < k; ++a) log_s += std::log(sj[a]);
        const int64_t before = n, indices = u ? l : c;
        for (int64_t i = 0; i < indices; ++i) {
            if (u && uj[i] < alpha[j]) continue;
            const int64_t slot = !u || c == l ? i : std::min(n - before, c - 1);
            const float *e = eps + (j * c + slot) * k, *x = xi + (j * c + slot) * d;
            float *z = z_out + n * k, *copy = xi_out + n * d, squares = 0;
            for (int64_t a = 0; a < k; ++a) {
                z[a] = mj[a] + sj[a] * e[a];
                squares += z[a] * z[a] - e[a] * e[a];
            }
            for (int64_t a = 0; a < d; ++a) copy[a] = x[a];
            odds[n] = u && n - before >= c ? FAR : 0.5f * squares - log_s;
            ++n;
        }
        count[j] = n - before;
    }
    return static_cast<int>(n);
}

// x' = mu(z) + sigma xi and u = xi / sigma at n rows, [n, d] each; mu a ReLU network of `layers` linear maps from
// widths[i] to widths[i + 1] values, weights[i] row-major.  A strip of draws passes all layers before the next one.
extern "C" int sivibench_kpg_forward(int64_t n, int64_t layers, const int64_t* widths, const float* const* weights,
                                     const float* const* biases, const float* sigma, const float* z, const float* xi,
                                     float* y, float* u) {
    static thread_local std::vector<float> strips;
    constexpr int64_t VECTORS = 12, STRIP = VECTORS * WIDTH<float>;
    const ReluNetwork network{layers, widths, weights, biases};
    const int64_t widest = network.widest(), k = widths[0], d = widths[layers];
    if (static_cast<int64_t>(strips.size()) < 2 * widest * STRIP) strips.resize(2 * widest * STRIP);
    float *here = strips.data(), *there = here + widest * STRIP;
    for (int64_t first = 0; first < n; first += STRIP) {
        const int64_t rows = std::min(STRIP, n - first);
        for (int64_t a = 0; a < k; ++a)
            for (int64_t i = 0; i < STRIP; ++i) here[a * STRIP + i] = i < rows ? z[(first + i) * k + a] : 0.0f;
        const float* mean = network.through(VECTORS, STRIP, here, there);
        for (int64_t i = 0; i < rows; ++i)
            for (int64_t a = 0; a < d; ++a) {
                const int64_t at = (first + i) * d + a;
                y[at] = mean[a * STRIP + i] + sigma[a] * xi[at], u[at] = xi[at] / sigma[a];
            }
    }
    return 0;
}

// Direction [N, d] from the shared draws (z, y, f; l rows) and the packed ones (own_y, own_f, odds; n rows, count[j] of
// them for x_j).  bisection: round the median as kernels.median does.
extern "C" int sivibench_kpg_direction(int64_t N, int64_t l, int64_t c, int64_t n, int64_t k, int64_t d, int bisection,
                                        const float* x, const float* m, const float* s, const float* alpha,
                                        const float* u, const float* z, const float* y, const float* f,
                                        const float* own_y, const float* own_f, const float* own_odds,
                                        const int64_t* count, float* out) {
    static thread_local Work w;
    auto fail = [&] { return std::fill(out, out + N * d, std::numeric_limits<float>::quiet_NaN()), 0; };
    if (!finite_all(x, N * d) || !finite_all(y, l * d) || !finite_all(f, l * d) || !finite_all(own_y, n * d) ||
        !finite_all(own_f, n * d) || !finite_all(alpha, N) || !finite_all(m, N * k) || !finite_all(s, N * k))
        return fail();
    w.zt.resize(k * l), w.yt.resize(d * l), w.ft.resize(d * l), w.half_z.assign(l, 0.0f);
    for (int64_t i = 0; i < l; ++i) {
        for (int64_t a = 0; a < d; ++a) w.yt[a * l + i] = y[i * d + a], w.ft[a * l + i] = f[i * d + a];
        for (int64_t a = 0; a < k; ++a) {
            w.zt[a * l + i] = z[i * k + a];
            w.half_z[i] += 0.5f * z[i * k + a] * z[i * k + a];
        }
    }
    // the squared distances of x_j to all shared draws
    w.row.resize(l), w.odds.resize(l);
    float *D = w.row.data(), *odds = w.odds.data();
    auto distances_of = [&](int64_t j) {
        for (int64_t a = 0; a < d; ++a) {
            const float xa = x[j * d + a], *ya = w.yt.data() + a * l;
            if (a == 0)
#pragma omp simd
                for (int64_t i = 0; i < l; ++i) D[i] = (xa - ya[i]) * (xa - ya[i]);
            else
#pragma omp simd
                for (int64_t i = 0; i < l; ++i) D[i] += (xa - ya[i]) * (xa - ya[i]);
        }
    };

    // ---- the median of the distances of the draws that are used
    const int64_t total = (u ? 0 : N * l) + n + N * l;  // room; with u, N l of them are used
    if (static_cast<int64_t>(w.distances.size()) < total) w.distances.resize(total);
    float* used = w.distances.data();  // packed ones first, in the order of own_y
    int64_t at = 0;
    for (int64_t j = 0; j < N; ++j)
        for (int64_t t = 0; t < count[j]; ++t, ++at) {
            float v = 0;
            for (int64_t a = 0; a < d; ++a) {
                const float difference = x[j * d + a] - own_y[at * d + a];
                v += difference * difference;
            }
            used[at] = v;
        }
    for (int64_t j = 0; j < N; ++j) {
        distances_of(j);
        const float *uj = u ? u + j * l : nullptr, limit = alpha[j];
        if (u)
            for (int64_t i = 0; i < l; ++i) used[at] = D[i], at += uj[i] < limit;
        else
            std::copy(D, D + l, used + at), at += l;
    }
    if (static_cast<int64_t>(w.room.size()) < select_room(at)) w.room.resize(select_room(at));
    int32_t bits = select(reinterpret_cast<const Bits*>(used), at, (at - 1) / 2, w.room.data());
    if (bisection) bits = (bits & -(1 << BISECTION_LOW_BITS)) | (1 << (BISECTION_LOW_BITS - 1));
    float median;
    std::memcpy(&median, &bits, 4);
    if (!(median < FAR)) return fail();
    median = median > MEDIAN_FLOOR ? median : MEDIAN_FLOOR;
    const float scale = static_cast<float>(std::log(static_cast<double>(l) + 1.0)) / median;

    // ---- the weighted sums
    int64_t t = 0;
    for (int64_t j = 0; j < N; ++j) {
        float *o = out + j * d, a_j = alpha[j], b_j = 1.0f - a_j, log_s = 0;
        distances_of(j);
        for (int64_t a = 0; a < k; ++a) log_s += std::log(s[j * k + a]);
        for (int64_t i = 0; i < l; ++i) odds[i] = w.half_z[i] - log_s;
        for (int64_t a = 0; a < k; ++a) {
            const float ma = m[j * k + a], ra = 1.0f / s[j * k + a], *za = w.zt.data() + a * l;
#pragma omp simd
            for (int64_t i = 0; i < l; ++i) odds[i] -= 0.5f * ((za[i] - ma) * ra) * ((za[i] - ma) * ra);
        }
        const float share = (u ? 1.0f : a_j) / static_cast<float>(l);
        const float own_share = u ? 1.0f / static_cast<float>(l) : b_j / static_cast<float>(c);
        const float* uj = u ? u + j * l : nullptr;
#pragma omp simd
        for (int64_t i = 0; i < l; ++i) D[i] = share * exp_clamped(-scale * D[i]) / (a_j + b_j * exp_clamped(odds[i]));
        if (u)
#pragma omp simd
            for (int64_t i = 0; i < l; ++i) D[i] = uj[i] < a_j ? D[i] : 0.0f;
        for (int64_t a = 0; a < d; ++a) {
            const float* fa = w.ft.data() + a * l;
            float sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < l; ++i) sum += D[i] * fa[i];
            o[a] = sum;
        }
        float* v = used + t;  // distances of the packed draws of x_j become their weights
        const float* odd = own_odds + t;
#pragma omp simd
        for (int64_t i = 0; i < count[j]; ++i)
            v[i] = own_share * exp_clamped(-scale * v[i]) / (a_j + b_j * exp_clamped(odd[i]));
        if (d == 2) {
            float s0 = 0, s1 = 0;
            const float* g = own_f + t * 2;
#pragma omp simd reduction(+ : s0, s1)
            for (int64_t i = 0; i < count[j]; ++i) s0 += v[i] * g[2 * i], s1 += v[i] * g[2 * i + 1];
            o[0] += s0, o[1] += s1;
        } else
            for (int64_t i = 0; i < count[j]; ++i)
                for (int64_t a = 0; a < d; ++a) o[a] += v[i] * own_f[(t + i) * d + a];
        t += count[j];
    }
    return 0;
}
