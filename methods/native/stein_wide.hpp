// All pairs of the kernel Stein discrepancy in many dimensions, for kernels of the squared distance.
//
// Everything that costs N M d is one of six products of small dense matrices, which run at the speed of the registers:
//
//     D_ij = |x_i - y_j|^2 (by differences: no cancellation),  a = f g^T,  then with k and P = k' a
//     gf = k g,  gg = k^T f,  gx = diag(P 1) x - P y,  gy = diag(P^T 1) y - P^T x     (x, y about the mean of y)
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "products.hpp"
#include "stein_profile.hpp"

namespace {

constexpr int64_t WIDE_DIM = 32;  // from here on this pays

struct Wide {  // reused between calls of a thread; nothing in it outlives one call's meaning
    Buffer<int32_t> room;
    Buffer<float> yt, gt, D, K, P, x, y, f, g, centre, rows, columns;
};

// [n, d] to [d][stride], the padding of a row zero
inline void transpose(const float* from, int64_t n, int64_t d, int64_t stride, float* to) {
    constexpr int64_t TILE = 16;
    for (int64_t c0 = 0; c0 < d; c0 += TILE)
        for (int64_t j0 = 0; j0 < n; j0 += TILE)
            for (int64_t c = c0; c < std::min(d, c0 + TILE); ++c)
                for (int64_t j = j0; j < std::min(n, j0 + TILE); ++j) to[c * stride + j] = from[j * d + c];
    for (int64_t c = 0; c < d; ++c) std::fill(to + c * stride + n, to + (c + 1) * stride, 0.0f);
}

// [n, d] minus centre (if any) to [n][dp], the padding of a row zero
inline void spread(const float* from, const float* centre, int64_t n, int64_t d, int64_t dp, float* to) {
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t c = 0; c < d; ++c) to[i * dp + c] = centre ? from[i * d + c] - centre[c] : from[i * d + c];
        std::fill(to + i * dp + d, to + (i + 1) * dp, 0.0f);
    }
}

inline void put_row(float* row, int64_t d, int64_t v, const Vector<float>& value) {
    const int64_t first = v * WIDTH<float>;
    if (first + WIDTH<float> <= d) return store<float>(row + first, value);
    for (int64_t l = 0; first + l < d; ++l) row[first + l] = value[l];
}

template <int KERNEL>
void wide_seed(int64_t N, int64_t M, int64_t d, int bandwidth, bool ustat, const float* x, const float* y,
               const float* f, const float* g, float* loss, float* gx, float* gy, float* gf, float* gg, Wide& w) {
    static_assert(KERNEL == GAUSSIAN || KERNEL == IMQ, "kernels of the squared distance");
    constexpr int64_t W = WIDTH<float>;
    const int64_t Mp = padded<float>(M), dp = padded<float>(d);
    const float nan = std::numeric_limits<float>::quiet_NaN();
    auto fail = [&] {  // a seed that has diverged stays visibly diverged
        *loss = nan;
        std::fill(gx, gx + N * d, nan), std::fill(gf, gf + N * d, nan);
        std::fill(gy, gy + M * d, nan), std::fill(gg, gg + M * d, nan);
    };
    if (!finite_all(x, N * d) || !finite_all(y, M * d) || !finite_all(f, N * d) || !finite_all(g, M * d)) return fail();

    float *yt = room(w.yt, d * Mp), *gt = room(w.gt, d * Mp), *D = room(w.D, N * Mp), *P = room(w.P, N * Mp);
    transpose(y, M, d, Mp, yt), transpose(g, M, d, Mp, gt);
    auto into = [Mp](float* to) {
        return [=](int64_t i, int64_t v, const Vector<float>& value) { store<float>(to + i * Mp + v * W, value); };
    };
    product<float, SquaredDifference>(N, Mp / W, d, x, d, 1, yt, Mp, into(D));
    product<float>(N, Mp / W, d, f, d, 1, gt, Mp, into(P));  // a, until P takes its place
    for (int64_t i = 0; i < N; ++i) std::fill(D + i * Mp + M, D + (i + 1) * Mp, FAR);

    float m = lower_median(D, N, M, Mp, bandwidth, room(w.room, select_room(N * Mp)));
    if (!(m < FAR)) return fail();
    const bool through_median = bandwidth == EXACT && m > MEDIAN_FLOOR;
    const float median = m;
    m = m > MEDIAN_FLOOR ? m : MEDIAN_FLOOR;
    const float L = static_cast<float>(std::log(static_cast<double>(N) + 1.0)), scale = L / m;

    const double pairs = ustat ? static_cast<double>(N) * (N - 1) : static_cast<double>(N) * M;
    float *K = room(w.K, N * Mp), *row_sum = room(w.rows, N), *column_sum = room(w.columns, Mp);
    std::fill(column_sum, column_sum + Mp, 0.0f);
    double total = 0, pull = 0;  // sum k a, sum P s
    int64_t ties = 0;
    std::vector<int64_t> tied_rows;
    for (int64_t i = 0; i < N; ++i) {
        float *row = D + i * Mp, *k_row = K + i * Mp, *p_row = P + i * Mp;
        const int32_t skip = ustat ? static_cast<int32_t>(i) : -1;
        float sum_ka = 0, sum_ps = 0, sum_p = 0;
        int32_t hits = 0;
#pragma omp simd reduction(+ : sum_ka, sum_ps, sum_p, hits)
        for (int32_t j = 0; j < static_cast<int32_t>(Mp); ++j) {
            float s = row[j] * scale, k, dk;
            s = s < FAR ? s : FAR;
            profile<KERNEL>(s, k, dk);
            const float a = j == skip ? 0.0f : p_row[j];
            k = j == skip ? 0.0f : k;
            const float p = dk * a;
            k_row[j] = k, p_row[j] = p, column_sum[j] += p;
            sum_ka += k * a, sum_ps += p * s, sum_p += p;
            hits += row[j] == median;
        }
        total += sum_ka, pull += sum_ps, row_sum[i] = sum_p;
        if (hits) ties += hits, tied_rows.push_back(i);
    }

    float* centre = room(w.centre, d);
    std::fill(centre, centre + d, 0.0f);
    for (int64_t j = 0; j < M; ++j)
        for (int64_t c = 0; c < d; ++c) centre[c] += y[j * d + c];
    for (int64_t c = 0; c < d; ++c) centre[c] /= static_cast<float>(M);
    float *xc = room(w.x, N * dp), *yc = room(w.y, M * dp), *fp = room(w.f, N * dp), *gp = room(w.g, M * dp);
    spread(x, centre, N, d, dp, xc), spread(y, centre, M, d, dp, yc);
    spread(f, nullptr, N, d, dp, fp), spread(g, nullptr, M, d, dp, gp);

    const float value = static_cast<float>(1.0 / pairs), weight = static_cast<float>(2.0 * scale / pairs);
    *loss = static_cast<float>(total / pairs);
    auto pulled = [=](const float* sums, const float* points, float* to) {
        return [=](int64_t i, int64_t v, const Vector<float>& sum) {
            put_row(to + i * d, d, v, weight * (sums[i] * load(points + i * dp + v * W) - sum));
        };
    };
    auto averaged = [=](float* to) {
        return [=](int64_t i, int64_t v, const Vector<float>& sum) { put_row(to + i * d, d, v, value * sum); };
    };
    product<float>(N, dp / W, M, P, Mp, 1, yc, dp, pulled(row_sum, xc, gx));
    product<float>(M, dp / W, N, P, 1, Mp, xc, dp, pulled(column_sum, yc, gy));
    product<float>(N, dp / W, M, K, Mp, 1, gp, dp, averaged(gf));
    product<float>(M, dp / W, N, K, 1, Mp, fp, dp, averaged(gg));

    if (!through_median || !ties) return;
    const double each = -2.0 * pull / m / pairs / static_cast<double>(ties);  // shared evenly between ties
    for (const int64_t i : tied_rows)
        for (int64_t j = 0; j < M; ++j) {
            if (D[i * Mp + j] != median) continue;
            for (int64_t c = 0; c < d; ++c) {
                const float push = static_cast<float>(each * (x[i * d + c] - y[j * d + c]));
                gx[i * d + c] += push, gy[j * d + c] -= push;
            }
        }
}

}  // namespace
