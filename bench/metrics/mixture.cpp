// Sum over components of densities of diagonal Gaussians, relative to the highest peak of any component:
//
//     total_i = sum_m 2^(peak_m - sum_j ((x_ij - c_jm) r_jm)^2),   peak_m <= 0,   r_jm = sqrt(log2(e) / 2) / sd_jm
//
// POINTS points at a time over blocks of components that stay in the first-level cache.  Sums of a block are single,
// those of the blocks double precision.  Below 2^-126 a term counts as 2^-126.
#include <algorithm>

#include "exp2.hpp"

namespace {

constexpr int64_t BLOCK = 1024;  // components
constexpr int POINTS = 4;        // share the loads of a component

template <int POINTS, int D>
void points(int64_t m, const float* x, const float* centres, const float* rates, const float* peaks, double* totals) {
    std::fill(totals, totals + POINTS, 0.0);
    for (int64_t first = 0; first < m; first += BLOCK) {
        const int64_t count = std::min(BLOCK, m - first);
        float sums[POINTS] = {};
#pragma omp simd reduction(+ : sums)
        for (int64_t k = first; k < first + count; ++k) {
            float exponents[POINTS];
            for (int i = 0; i < POINTS; ++i) exponents[i] = peaks[k];
            for (int j = 0; j < D; ++j) {
                const float centre = centres[j * m + k], rate = rates[j * m + k];
                for (int i = 0; i < POINTS; ++i) {
                    const float distance = (x[i * D + j] - centre) * rate;
                    exponents[i] -= distance * distance;
                }
            }
            for (int i = 0; i < POINTS; ++i) sums[i] += exp2_negative(exponents[i]);
        }
        for (int i = 0; i < POINTS; ++i) totals[i] += sums[i];
    }
}

template <int D>
int all(int64_t n, int64_t m, const float* x, const float* centres, const float* rates, const float* peaks,
        double* totals) {
    int64_t i = 0;
    for (; i + POINTS <= n; i += POINTS) points<POINTS, D>(m, x + i * D, centres, rates, peaks, totals + i);
    for (; i < n; ++i) points<1, D>(m, x + i * D, centres, rates, peaks, totals + i);
    return 0;
}

}  // namespace

// x [n, d], centres and rates [d, m], peaks [m]: float; totals [n]: double.  1 if d is not between 1 and 8.
extern "C" int sivibench_mixture(int64_t n, int64_t m, int64_t d, const float* x, const float* centres,
                                 const float* rates, const float* peaks, double* totals) {
    switch (d) {
        case 1: return all<1>(n, m, x, centres, rates, peaks, totals);
        case 2: return all<2>(n, m, x, centres, rates, peaks, totals);
        case 3: return all<3>(n, m, x, centres, rates, peaks, totals);
        case 4: return all<4>(n, m, x, centres, rates, peaks, totals);
        case 5: return all<5>(n, m, x, centres, rates, peaks, totals);
        case 6: return all<6>(n, m, x, centres, rates, peaks, totals);
        case 7: return all<7>(n, m, x, centres, rates, peaks, totals);
        case 8: return all<8>(n, m, x, centres, rates, peaks, totals);
        default: return 1;
    }
}
