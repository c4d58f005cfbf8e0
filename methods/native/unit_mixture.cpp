// Score of an equal mixture of unit Gaussians at many points, float32:  out(x) = sum_m w_m(x) c_m - x,
//
//     w_m(x) = exp(-|x - c_m|^2 / 2) / sum over m,   relative to the nearest component, so that no sum is empty.
//
// LANES points at a time lie side by side, so that nothing is summed across a vector.
#include <algorithm>
#include <cmath>
#include <vector>

#include "exp2.hpp"

namespace {

constexpr int LANES = 64;
constexpr float RATE = 0.5f * 1.44269504f;  // of squared distances, to powers of two

struct Work {  // reused between calls of a thread
    std::vector<float> at, weights;
};

template <int D>  // 0: any dimension
void block(int64_t count, int64_t m, int64_t dim, const float* x, const float* centres, float* out, Work& work) {
    const int64_t d = D ? D : dim;
    float *at = work.at.data(), *weights = work.weights.data();  // [d, LANES] and [m, LANES]
    float nearest[LANES], total[LANES] = {};
    for (int i = 0; i < LANES; ++i) {
        const int64_t row = std::min<int64_t>(i, count - 1);  // the last block may be short
        for (int64_t c = 0; c < d; ++c) at[c * LANES + i] = x[row * d + c];
        nearest[i] = INFINITY;
    }
    for (int64_t k = 0; k < m; ++k) {
        float squared[LANES] = {};
        for (int64_t c = 0; c < d; ++c) {
            const float centre = centres[k * d + c];
#pragma omp simd
            for (int i = 0; i < LANES; ++i) {
                const float difference = at[c * LANES + i] - centre;
                squared[i] += difference * difference;
            }
        }
#pragma omp simd
        for (int i = 0; i < LANES; ++i) {
            weights[k * LANES + i] = squared[i];
            nearest[i] = squared[i] < nearest[i] ? squared[i] : nearest[i];
        }
    }
    for (int64_t k = 0; k < m; ++k)
#pragma omp simd
        for (int i = 0; i < LANES; ++i) {
            const float weight = exp2_negative(RATE * (nearest[i] - weights[k * LANES + i]));
            weights[k * LANES + i] = weight;
            total[i] += weight;
        }
    for (int64_t c = 0; c < d; ++c) {
        float sums[LANES] = {};
        for (int64_t k = 0; k < m; ++k) {
            const float centre = centres[k * d + c];
#pragma omp simd
            for (int i = 0; i < LANES; ++i) sums[i] += weights[k * LANES + i] * centre;
        }
        for (int64_t i = 0; i < count; ++i)  // without a nearest component nothing is known
            out[i * d + c] = nearest[i] < INFINITY ? sums[i] / total[i] - at[c * LANES + i] : NAN;
    }
}

}  // namespace

// Row-major float32: x and out [S, n, d], centres [S, m, d].  What is not finite in a centre or in a point gives values
// that are not finite.
extern "C" int sivibench_unit_mixture(int64_t S, int64_t n, int64_t m, int64_t d, const float* x, const float* centres,
                                      float* out) {
    static thread_local Work work;
    work.at.resize(d * LANES), work.weights.resize(m * LANES);
    const auto run = d == 2 ? block<2> : block<0>;
    for (int64_t s = 0; s < S; ++s, x += n * d, out += n * d, centres += m * d)
        for (int64_t first = 0; first < n; first += LANES)
            run(std::min<int64_t>(LANES, n - first), m, d, x + first * d, centres, out + first * d, work);
    return 0;
}
