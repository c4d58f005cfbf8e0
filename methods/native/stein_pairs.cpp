// All pairs of the kernel Stein discrepancy on one CPU core, float32: loss and the four gradients, in closed form.
//
// The mathematics is that of `closed_form` in stein.py; this file only arranges it so that an [N, M] array is passed
// over three times (statistic, selection of the median, gradients) instead of some thirty.  Standard library
// only, plain C interface: compiled on first use (bench.native).
//
// Layout: y, g and their gradients are transposed to [d][Mp], so that the inner loop runs over j and vectorises; Mp is M
// rounded up to 16, and padded columns have g = 0 and D = FAR, hence no influence.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "stein_profile.hpp"
#include "stein_wide.hpp"

namespace {

constexpr int ROWS = 4;    // rows per block: shares the loads of y, g and their gradients
constexpr int FLUSH = 64;  // rows summed in float before they are added to a double

// derivative of the distance part of D in x, without its constant: x - y (the 2 comes later), or its sign
template <int KERNEL>
inline float slope(float difference) {
    if (KERNEL == GAUSSIAN || KERNEL == IMQ) return difference;
    return static_cast<float>(difference > 0) - static_cast<float>(difference < 0);
}

struct Work {  // reused between calls of a thread; nothing in it outlives one call's meaning
    std::vector<int32_t> room;
    std::vector<float> yt, gt, D, gy, gg, K, P, A, row_weight, column_weight;
    std::vector<double> gy_sum, gg_sum, column_sum;
};

template <int KERNEL, int DIM>
void one_seed(int64_t N, int64_t M, int64_t dim, int bandwidth, bool ustat, const float* x, const float* y,
              const float* f, const float* g, float* loss, float* gx, float* gy, float* gf, float* gg, Work& w) {
    constexpr bool L2 = KERNEL == GAUSSIAN || KERNEL == IMQ;
    const int64_t d = DIM ? DIM : dim, Mp = (M + 15) / 16 * 16;
    const float nan = std::numeric_limits<float>::quiet_NaN();
    auto fail = [&] {  // a seed that has diverged stays visibly diverged
        *loss = nan;
        std::fill(gx, gx + N * d, nan), std::fill(gf, gf + N * d, nan);
        std::fill(gy, gy + M * d, nan), std::fill(gg, gg + M * d, nan);
    };
    if (!finite_all(x, N * d) || !finite_all(y, M * d) || !finite_all(f, N * d) || !finite_all(g, M * d)) return fail();

    w.yt.assign(d * Mp, 0.0f), w.gt.assign(d * Mp, 0.0f);
    for (int64_t j = 0; j < M; ++j)
        for (int64_t c = 0; c < d; ++c) w.yt[c * Mp + j] = y[j * d + c], w.gt[c * Mp + j] = g[j * d + c];
    const float *yt = w.yt.data(), *gt = w.gt.data();

    // ---- pass 1: D(x_i, y_j)
    if (static_cast<int64_t>(w.D.size()) < N * Mp) w.D.resize(N * Mp);
    float* D = w.D.data();
    w.column_weight.assign(Mp, 0.0f);
    if (KERNEL == RIESZ)
        for (int64_t c = 0; c < d; ++c)
            for (int64_t j = 0; j < Mp; ++j) w.column_weight[j] += std::fabs(yt[c * Mp + j]);  // |y_j|_1
    for (int64_t i = 0; i < N; ++i) {
        float* row = D + i * Mp;
        std::fill(row, row + Mp, 0.0f);
        float norm = 0;
        for (int64_t c = 0; c < d; ++c) {
            const float xi = x[i * d + c], *yc = yt + c * Mp;
            norm += std::fabs(xi);
#pragma omp simd
            for (int64_t j = 0; j < Mp; ++j) {
                const float difference = xi - yc[j];
                row[j] += L2 ? difference * difference : std::fabs(difference);
            }
        }
        if (KERNEL == RIESZ)
            for (int64_t j = 0; j < Mp; ++j) {
                const float v = norm + w.column_weight[j] - row[j];
                row[j] = v > 0 ? v : 0.0f;
            }
        std::fill(row + M, row + Mp, FAR);
    }

    // ---- pass 2: the median
    if (static_cast<int64_t>(w.room.size()) < select_room(N * Mp)) w.room.resize(select_room(N * Mp));
    float m = lower_median(D, N, M, Mp, bandwidth, w.room.data());
    if (!(m < FAR)) return fail();
    const bool through_median = bandwidth == EXACT && m > MEDIAN_FLOOR;
    const float median = m;
    m = m > MEDIAN_FLOOR ? m : MEDIAN_FLOOR;
    const float L = static_cast<float>(std::log(static_cast<double>(N) + 1.0)), scale = L / m;

    // ---- pass 3: k, P = k' <f, g> and what they give, ROWS rows at a time
    const double pairs = ustat ? static_cast<double>(N) * (N - 1) : static_cast<double>(N) * M;
    w.gy.assign(d * Mp, 0.0f), w.gg.assign(d * Mp, 0.0f), w.gy_sum.assign(d * Mp, 0.0), w.gg_sum.assign(d * Mp, 0.0);
    w.column_weight.assign(Mp, 0.0f), w.column_sum.assign(Mp, 0.0), w.row_weight.assign(N, 0.0f);
    w.K.resize(ROWS * Mp), w.P.resize(ROWS * Mp), w.A.resize(Mp);
    float *K = w.K.data(), *P = w.P.data(), *A = w.A.data();
    double total = 0, pull = 0;  // sum k a, sum P s
    int64_t ties = 0;
    std::vector<int64_t> tied_rows;
    for (int64_t first = 0; first < N; first += ROWS) {
        const int64_t rows = std::min<int64_t>(ROWS, N - first);
        for (int64_t r = 0; r < ROWS; ++r) {
            const int64_t i = first + r;
            float *k_row = K + r * Mp, *p_row = P + r * Mp;
            if (r >= rows) {  // the last block may be short
                std::fill(k_row, k_row + Mp, 0.0f), std::fill(p_row, p_row + Mp, 0.0f);
                continue;
            }
            const float* row = D + i * Mp;
            if (!DIM) {
                std::fill(A, A + Mp, 0.0f);
                for (int64_t c = 0; c < d; ++c) {
                    const float fi = f[i * d + c], *gc = gt + c * Mp;
#pragma omp simd
                    for (int64_t j = 0; j < Mp; ++j) A[j] += fi * gc[j];
                }
            }
            float fi[DIM ? DIM : 1];
            for (int c = 0; c < DIM; ++c) fi[c] = f[i * DIM + c];
            const int32_t skip = ustat ? static_cast<int32_t>(i) : -1;
            float sum_ka = 0, sum_ps = 0, sum_p = 0;
            int32_t hits = 0;
#pragma omp simd reduction(+ : sum_ka, sum_ps, sum_p, hits)
            for (int32_t j = 0; j < static_cast<int32_t>(Mp); ++j) {
                float a = 0;
                if (DIM)
                    for (int c = 0; c < DIM; ++c) a += fi[c] * gt[c * Mp + j];
                else
                    a = A[j];
                float s = row[j] * scale, k, dk;
                s = s < FAR ? s : FAR;
                profile<KERNEL>(s, k, dk);
                a = j == skip ? 0.0f : a;
                k = j == skip ? 0.0f : k;
                const float p = dk * a;
                k_row[j] = k, p_row[j] = p;
                sum_ka += k * a, sum_ps += p * s;
                if (KERNEL == RIESZ) sum_p += p;
                hits += row[j] == median;
            }
            total += sum_ka, pull += sum_ps, w.row_weight[i] = sum_p * scale;
            if (hits) ties += hits, tied_rows.push_back(i);
        }
        for (int64_t c = 0; c < d; ++c) {
            float xr[ROWS], fr[ROWS];
            for (int64_t r = 0; r < ROWS; ++r) {
                const int64_t i = r < rows ? first + r : first;
                xr[r] = x[i * d + c], fr[r] = f[i * d + c];
            }
            const float *yc = yt + c * Mp, *gc = gt + c * Mp;
            float *gyc = w.gy.data() + c * Mp, *ggc = w.gg.data() + c * Mp;
            float sx0 = 0, sx1 = 0, sx2 = 0, sx3 = 0, sf0 = 0, sf1 = 0, sf2 = 0, sf3 = 0;
#pragma omp simd reduction(+ : sx0, sx1, sx2, sx3, sf0, sf1, sf2, sf3)
            for (int64_t j = 0; j < Mp; ++j) {
                const float yj = yc[j], gj = gc[j];
                const float w0 = P[j] * slope<KERNEL>(xr[0] - yj), w1 = P[Mp + j] * slope<KERNEL>(xr[1] - yj);
                const float w2 = P[2 * Mp + j] * slope<KERNEL>(xr[2] - yj);
                const float w3 = P[3 * Mp + j] * slope<KERNEL>(xr[3] - yj);
                sx0 += w0, sx1 += w1, sx2 += w2, sx3 += w3;
                gyc[j] -= (w0 + w1) + (w2 + w3);
                const float k0 = K[j], k1 = K[Mp + j], k2 = K[2 * Mp + j], k3 = K[3 * Mp + j];
                sf0 += k0 * gj, sf1 += k1 * gj, sf2 += k2 * gj, sf3 += k3 * gj;
                ggc[j] += (k0 * fr[0] + k1 * fr[1]) + (k2 * fr[2] + k3 * fr[3]);
            }
            const float sx[ROWS] = {sx0, sx1, sx2, sx3}, sf[ROWS] = {sf0, sf1, sf2, sf3};
            for (int64_t r = 0; r < rows; ++r) gx[(first + r) * d + c] = sx[r], gf[(first + r) * d + c] = sf[r];
        }
        if (KERNEL == RIESZ)
            for (int64_t j = 0; j < Mp; ++j)
                w.column_weight[j] += (P[j] + P[Mp + j]) + (P[2 * Mp + j] + P[3 * Mp + j]);
        if ((first / ROWS + 1) % (FLUSH / ROWS) == 0 || first + ROWS >= N) {
            for (int64_t t = 0; t < d * Mp; ++t) {
                w.gy_sum[t] += w.gy[t], w.gg_sum[t] += w.gg[t];
                w.gy[t] = w.gg[t] = 0.0f;
            }
            for (int64_t j = 0; j < Mp; ++j) w.column_sum[j] += w.column_weight[j], w.column_weight[j] = 0.0f;
        }
    }

    // ---- constants, the two norms of riesz, and the gradient through the median (shared evenly between ties)
    const double value = 1.0 / pairs, weight = (L2 ? 2.0 : KERNEL == RIESZ ? -1.0 : 1.0) * scale / pairs;
    *loss = static_cast<float>(total * value);
    for (int64_t i = 0; i < N; ++i)
        for (int64_t c = 0; c < d; ++c) {
            const int64_t t = i * d + c;
            double v = gx[t] * weight;
            if (KERNEL == RIESZ) v += sign(x[t]) * (w.row_weight[i] / pairs);
            gx[t] = static_cast<float>(v), gf[t] = static_cast<float>(gf[t] * value);
        }
    for (int64_t j = 0; j < M; ++j)
        for (int64_t c = 0; c < d; ++c) {
            const int64_t t = j * d + c;
            double v = w.gy_sum[c * Mp + j] * weight;
            if (KERNEL == RIESZ) v += sign(y[t]) * (w.column_sum[j] * scale / pairs);
            gy[t] = static_cast<float>(v), gg[t] = static_cast<float>(w.gg_sum[c * Mp + j] * value);
        }
    if (!through_median || !ties) return;
    const double each = -pull / m / pairs / static_cast<double>(ties);  // dloss/dm per tied pair
    for (const int64_t i : tied_rows)
        for (int64_t j = 0; j < M; ++j) {
            if (D[i * Mp + j] != median) continue;
            for (int64_t c = 0; c < d; ++c) {
                const int64_t s = i * d + c, t = j * d + c;
                const float difference = x[s] - y[t];
                double dx = L2 ? 2.0 * difference : sign(difference), dy = -dx;
                if (KERNEL == RIESZ) dx = sign(x[s]) - dx, dy = sign(y[t]) - dy;
                gx[s] += static_cast<float>(each * dx), gy[t] += static_cast<float>(each * dy);
            }
        }
}

}  // namespace

// Row-major float32: x, f, gx, gf [S, N, d]; y, g, gy, gg [S, M, d]; loss [S].  Returns 0, or 1 for an unknown kernel.
extern "C" int sivibench_stein_pairs(int64_t S, int64_t N, int64_t M, int64_t d, int kernel, int bandwidth, int ustat,
                                     const float* x, const float* y, const float* f, const float* g, float* loss,
                                     float* gx, float* gy, float* gf, float* gg) {
    static thread_local Work work;
    using Run = void (*)(int64_t, int64_t, int64_t, int, bool, const float*, const float*, const float*, const float*,
                         float*, float*, float*, float*, float*, Work&);
    static const Run runs[4][2] = {{one_seed<GAUSSIAN, 0>, one_seed<GAUSSIAN, 2>},
                                   {one_seed<IMQ, 0>, one_seed<IMQ, 2>},
                                   {one_seed<LAPLACE, 0>, one_seed<LAPLACE, 2>},
                                   {one_seed<RIESZ, 0>, one_seed<RIESZ, 2>}};
    if (kernel < 0 || kernel > 3) return 1;
    if (d >= WIDE_DIM && (kernel == GAUSSIAN || kernel == IMQ)) {
        static thread_local Wide wide;
        const auto run = kernel == GAUSSIAN ? wide_seed<GAUSSIAN> : wide_seed<IMQ>;
        for (int64_t s = 0; s < S; ++s)
            run(N, M, d, bandwidth, ustat != 0, x + s * N * d, y + s * M * d, f + s * N * d, g + s * M * d, loss + s,
                gx + s * N * d, gy + s * M * d, gf + s * N * d, gg + s * M * d, wide);
        return 0;
    }
    const Run run = runs[kernel][d == 2];
    for (int64_t s = 0; s < S; ++s)
        run(N, M, d, bandwidth, ustat != 0, x + s * N * d, y + s * M * d, f + s * N * d, g + s * M * d, loss + s,
            gx + s * N * d, gy + s * M * d, gf + s * N * d, gg + s * M * d, work);
    return 0;
}
