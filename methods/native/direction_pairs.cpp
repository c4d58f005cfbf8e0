// The Stein variational direction on one CPU core, float32 (formula: `stein_direction` in repulsion.py):
//
//     phi_i = (1/M) sum_j [k_ij s_j - 2 (L/m) k'_ij (x_i - y_j)],   m the lower median of all |x_i - y_j|^2
//
// Three passes over an [N, M] array: distances, selection of the median, sums.
#include "stein_profile.hpp"

namespace {

struct Work {  // reused between calls of a thread
    std::vector<float> yt, gt, D, k, dk;
    std::vector<int32_t> room;
};

template <int KERNEL, int DIM>  // DIM = 0: any dimension
void one_seed(int64_t N, int64_t M, int64_t dim, int bandwidth, const float* x, const float* y, const float* g,
              float* phi, Work& w) {
    const int64_t d = DIM ? DIM : dim;
    auto fail = [&] { std::fill(phi, phi + N * d, std::numeric_limits<float>::quiet_NaN()); };
    if (!finite_all(x, N * d) || !finite_all(y, M * d) || !finite_all(g, M * d)) return fail();
    w.yt.resize(d * M), w.gt.resize(d * M), w.D.resize(N * M), w.k.resize(M), w.dk.resize(M);
    w.room.resize(select_room(N * M));
    for (int64_t j = 0; j < M; ++j)
        for (int64_t c = 0; c < d; ++c) w.yt[c * M + j] = y[j * d + c], w.gt[c * M + j] = g[j * d + c];
    const float *yt = w.yt.data(), *gt = w.gt.data();
    float *k = w.k.data(), *dk = w.dk.data();

    for (int64_t i = 0; i < N; ++i) {
        float* row = w.D.data() + i * M;
        std::fill(row, row + M, 0.0f);
        for (int64_t c = 0; c < d; ++c) {
            const float xi = x[i * d + c], *yc = yt + c * M;
#pragma omp simd
            for (int64_t j = 0; j < M; ++j) row[j] += (xi - yc[j]) * (xi - yc[j]);
        }
    }
    float m = lower_median(w.D.data(), N, M, M, bandwidth, w.room.data());
    if (!(m < FAR)) return fail();
    m = m > MEDIAN_FLOOR ? m : MEDIAN_FLOOR;
    const float scale = static_cast<float>(std::log(static_cast<double>(N) + 1.0)) / m;

    const float each = 1.0f / static_cast<float>(M);
    for (int64_t i = 0; i < N; ++i) {
        const float *row = w.D.data() + i * M, *xi = x + i * d;
        float attraction[DIM ? DIM : 1] = {}, repulsion[DIM ? DIM : 1] = {};
        if (DIM) {
#pragma omp simd reduction(+ : attraction, repulsion)
            for (int64_t j = 0; j < M; ++j) {
                float s = row[j] * scale, kj, dkj;
                s = s < FAR ? s : FAR;
                profile<KERNEL>(s, kj, dkj);
                for (int c = 0; c < DIM; ++c) {
                    attraction[c] += kj * gt[c * M + j];
                    repulsion[c] += dkj * (xi[c] - yt[c * M + j]);
                }
            }
            for (int c = 0; c < DIM; ++c) phi[i * d + c] = (attraction[c] - 2 * scale * repulsion[c]) * each;
            continue;
        }
#pragma omp simd
        for (int64_t j = 0; j < M; ++j) {
            float s = row[j] * scale;
            s = s < FAR ? s : FAR;
            profile<KERNEL>(s, k[j], dk[j]);
        }
        for (int64_t c = 0; c < d; ++c) {
            const float *yc = yt + c * M, *gc = gt + c * M;
            float pull = 0, push = 0;
#pragma omp simd reduction(+ : pull, push)
            for (int64_t j = 0; j < M; ++j) pull += k[j] * gc[j], push += dk[j] * (xi[c] - yc[j]);
            phi[i * d + c] = (pull - 2 * scale * push) * each;
        }
    }
}

}  // namespace

// Row-major float32: x, phi [S, N, d]; y, g = score at y [S, M, d].  Returns 0, or 1 for an unknown kernel.
extern "C" int sivibench_stein_direction(int64_t S, int64_t N, int64_t M, int64_t d, int kernel, int bandwidth,
                                         const float* x, const float* y, const float* g, float* phi) {
    static thread_local Work work;
    using Run = void (*)(int64_t, int64_t, int64_t, int, const float*, const float*, const float*, float*, Work&);
    static const Run runs[2][2] = {{one_seed<GAUSSIAN, 0>, one_seed<GAUSSIAN, 2>}, {one_seed<IMQ, 0>, one_seed<IMQ, 2>}};
    if (kernel != GAUSSIAN && kernel != IMQ) return 1;
    for (int64_t s = 0; s < S; ++s)
        runs[kernel][d == 2](N, M, d, bandwidth, x + s * N * d, y + s * M * d, g + s * M * d, phi + s * N * d, work);
    return 0;
}
