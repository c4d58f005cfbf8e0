// Score of an equal mixture of unit Gaussians at many points, float32:  out(x) = sum_m w_m(x) c_m - x,
//
//     w_m(x) = exp(-|x - c_m|^2 / 2) / sum over m,   relative to the nearest component, so that no sum is empty.
//
// A block of points lies side by side along the vectors, so that nothing is summed across one, and meets the components
// a tile at a time: the tile's weights stay in the fastest cache, and the sums shrink when a nearer component is found.
#include <algorithm>
#include <cmath>

#include "exp2.hpp"
#include "products.hpp"

namespace {

constexpr int64_t WIDE = WIDTH<float>;
constexpr int64_t MOST = 6 * WIDE;          // points of a block
constexpr int64_t TILE = 128;               // components
constexpr float RATE = 0.5f * 1.44269504f;  // of squared distances, to powers of two

struct Work {  // reused between calls of a thread
    Buffer<float> at, weights, moment;
};

void points(int64_t count, int64_t m, int64_t d, const float* x, const float* centres, float* out, Work& work) {
    const int64_t vectors = padded<float>(count) / WIDE, lanes = vectors * WIDE;
    float *at = room(work.at, d * lanes), *weights = room(work.weights, TILE * lanes);
    float* moment = room(work.moment, d * lanes);  // weighted sums of the centres
    float nearest[MOST], total[MOST] = {};
    for (int64_t i = 0; i < lanes; ++i) {
        const int64_t row = std::min(i, count - 1);
        for (int64_t c = 0; c < d; ++c) at[c * lanes + i] = x[row * d + c];
        nearest[i] = INFINITY;
    }
    std::fill_n(moment, d * lanes, 0.0f);
    for (int64_t first = 0; first < m; first += TILE, centres += TILE * d) {
        const int64_t tile = std::min(TILE, m - first);
        float before[MOST], of_tile[MOST] = {};
        alignas(64) float shrink[MOST];
        std::copy_n(nearest, lanes, before);
        product<float, SquaredDifference>(tile, vectors, d, centres, d, 1, at, lanes,
                                          [&](int64_t k, int64_t v, const Vector<float>& squared) {
                                              store(weights + k * lanes + v * WIDE, squared);
                                          });
        for (int64_t k = 0; k < tile; ++k)
#pragma omp simd
            for (int64_t i = 0; i < lanes; ++i)
                nearest[i] = weights[k * lanes + i] < nearest[i] ? weights[k * lanes + i] : nearest[i];
#pragma omp simd
        for (int64_t i = 0; i < lanes; ++i) shrink[i] = exp2_negative(RATE * (nearest[i] - before[i]));
        for (int64_t k = 0; k < tile; ++k)
#pragma omp simd
            for (int64_t i = 0; i < lanes; ++i) {
                const float weight = exp2_negative(RATE * (nearest[i] - weights[k * lanes + i]));
                weights[k * lanes + i] = weight;
                of_tile[i] += weight;
            }
#pragma omp simd  // tile by tile as the moment: summed one by one, a total of many would be less exact than it
        for (int64_t i = 0; i < lanes; ++i) total[i] = total[i] * shrink[i] + of_tile[i];
        product<float>(d, vectors, tile, centres, 1, d, weights, lanes,
                       [&](int64_t c, int64_t v, const Vector<float>& sum) {
                           float* to = moment + c * lanes + v * WIDE;
                           store(to, load(to) * load(shrink + v * WIDE) + sum);
                       });
    }
    for (int64_t c = 0; c < d; ++c)
        for (int64_t i = 0; i < count; ++i)  // without a nearest component nothing is known
            out[i * d + c] = nearest[i] < INFINITY ? moment[c * lanes + i] / total[i] - at[c * lanes + i] : NAN;
}

}  // namespace

// Row-major float32: x and out [S, n, d], centres [S, m, d].  What is not finite in a centre or in a point gives values
// that are not finite; weights are at least 2^-126, so a centre beyond 1e34 is felt from anywhere.
extern "C" int sivibench_unit_mixture(int64_t S, int64_t n, int64_t m, int64_t d, const float* x, const float* centres,
                                      float* out) {
    static thread_local Work work;
    const int64_t blocks = (n + MOST - 1) / MOST;  // of about equal size
    for (int64_t s = 0; s < S; ++s, x += n * d, out += n * d, centres += m * d)
        for (int64_t b = 0; b < blocks; ++b) {
            const int64_t first = b * n / blocks, count = (b + 1) * n / blocks - first;
            points(count, m, d, x + first * d, centres, out + first * d, work);
        }
    return 0;
}
