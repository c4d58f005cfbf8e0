// Score of an equal mixture of unit Gaussians at many points, float32:  out(x) = sum_m w_m(x) c_m - x,
//
//     w_m(x) = exp(-|x - c_m|^2 / 2) / sum over m,   relative to the nearest component, so that no sum is empty.
//
// LANES points at a time lie side by side, so that nothing is summed across a vector; distances are computed twice, which
// is cheaper than to keep them.
#include <algorithm>
#include <cmath>

#include "exp2.hpp"

namespace {

constexpr int LANES = 64;

template <int D>
void block(int64_t count, int64_t m, const float* x, const float* centres, float* out) {
    float at[D][LANES], sums[D][LANES] = {}, total[LANES] = {}, nearest[LANES];
    for (int i = 0; i < LANES; ++i) {
        const int64_t row = std::min<int64_t>(i, count - 1);  // the last block may be short
        for (int c = 0; c < D; ++c) at[c][i] = x[row * D + c];
        nearest[i] = INFINITY;
    }
    auto distance = [&](const float* centre, int i) {
        float total = 0;
        for (int c = 0; c < D; ++c) total += (at[c][i] - centre[c]) * (at[c][i] - centre[c]);
        return total;
    };
    for (int64_t k = 0; k < m; ++k) {
        const float* centre = centres + k * D;
#pragma omp simd
        for (int i = 0; i < LANES; ++i) {
            const float found = distance(centre, i);
            nearest[i] = found < nearest[i] ? found : nearest[i];
        }
    }
    constexpr float RATE = 0.5f * 1.44269504f;  // to powers of two
    for (int64_t k = 0; k < m; ++k) {
        const float* centre = centres + k * D;
#pragma omp simd
        for (int i = 0; i < LANES; ++i) {
            const float weight = exp2_negative(RATE * (nearest[i] - distance(centre, i)));
            total[i] += weight;
            for (int c = 0; c < D; ++c) sums[c][i] += weight * centre[c];
        }
    }
    for (int64_t i = 0; i < count; ++i)
        for (int c = 0; c < D; ++c) out[i * D + c] = sums[c][i] / total[i] - at[c][i];
}

template <int D>
int all(int64_t n, int64_t m, const float* x, const float* centres, float* out) {
    for (int64_t first = 0; first < n; first += LANES)
        block<D>(std::min<int64_t>(LANES, n - first), m, x + first * D, centres, out + first * D);
    return 0;
}

int one_seed(int64_t n, int64_t m, int64_t d, const float* x, const float* centres, float* out) {
    switch (d) {
        case 1: return all<1>(n, m, x, centres, out);
        case 2: return all<2>(n, m, x, centres, out);
        case 3: return all<3>(n, m, x, centres, out);
        case 4: return all<4>(n, m, x, centres, out);
        default: return 1;
    }
}

}  // namespace

// Row-major float32: x and out [S, n, d], centres [S, m, d].  1 if d is not between 1 and 4.  What is not finite in a
// centre or in a point gives values that are not finite.
extern "C" int sivibench_unit_mixture(int64_t S, int64_t n, int64_t m, int64_t d, const float* x, const float* centres,
                                      float* out) {
    int unknown = 0;
    for (int64_t s = 0; s < S && !unknown; ++s)
        unknown = one_seed(n, m, d, x + s * n * d, centres + s * m * d, out + s * n * d);
    return unknown;
}
