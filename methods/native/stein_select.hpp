// Exact selection of an order statistic among non-negative floats, given as their bits (which order as integers), and
// what the medians taken with it share.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace {

constexpr float MEDIAN_FLOOR = 1e-20f;  // as in kernels.py
constexpr int BISECTION_LOW_BITS = 11;  // 31 - BISECTION_STEPS of kernels.py
constexpr float FAR = 1e30f;            // above every median we accept: a larger one means a seed that has diverged

using Bits = int32_t __attribute__((may_alias));  // of floats that were stored as such

inline bool finite_all(const float* v, int64_t n) {
    int bad = 0;  // by bits: does not depend on how the compiler treats NaN
    for (int64_t i = 0; i < n; ++i) {
        int32_t b;
        std::memcpy(&b, v + i, 4);
        bad |= (b & 0x7f800000) == 0x7f800000;
    }
    return !bad;
}

#ifdef __AVX2__
struct Compress {  // for each 8-bit mask: the lanes that are set, moved to the front
    alignas(32) int32_t lanes[256][8] = {};
    Compress() {
        for (int mask = 0; mask < 256; ++mask)
            for (int lane = 0, n = 0; lane < 8; ++lane)
                if (mask >> lane & 1) lanes[mask][n++] = lane;
    }
};
const Compress compress;
#endif

// Copies the values of v[0..n) in [low, high] to out (room for n + 8), in order; returns how many.
int64_t collect(const Bits* v, int64_t n, int32_t low, int32_t high, int32_t* out) {
    int64_t count = 0, i = 0;
#ifdef __AVX2__
    const __m256i lows = _mm256_set1_epi32(low), highs = _mm256_set1_epi32(high);
    for (; i + 8 <= n; i += 8) {
        const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(v + i));
        const __m256i out_of = _mm256_or_si256(_mm256_cmpgt_epi32(lows, a), _mm256_cmpgt_epi32(a, highs));
        const int mask = ~_mm256_movemask_ps(_mm256_castsi256_ps(out_of)) & 255;
        const __m256i lanes = _mm256_load_si256(reinterpret_cast<const __m256i*>(compress.lanes[mask]));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + count), _mm256_permutevar8x32_epi32(a, lanes));
        count += __builtin_popcount(mask);
    }
#endif
    for (; i < n; ++i) {  // branch-free: a value outside is overwritten by the next one
        out[count] = v[i];
        count += (v[i] >= low) & (v[i] <= high);
    }
    return count;
}

// The value of given rank (from 0) among v[0..n), on bits: non-negative floats order as integers.  A strided sample gives
// a bracket, one pass counts below it and collects inside it (Floyd & Rivest 1975); exact whatever the sample says.
// `room` holds at least select_room(n) values.
int32_t select(const Bits* v, int64_t n, int64_t rank, int32_t* room) {
    if (n > 2048) {
        int64_t size = static_cast<int64_t>(std::cbrt(static_cast<double>(n) * static_cast<double>(n)));
        const int64_t stride = (n / size) | 1;  // odd, so that it walks through the columns of a padded row
        size = n / stride;
        for (int64_t i = 0; i < size; ++i) room[i] = v[i * stride];
        const double at = static_cast<double>(rank) / static_cast<double>(n) * static_cast<double>(size);
        const double margin = 2.0 * std::sqrt(static_cast<double>(size));  // four standard deviations
        const int64_t low_rank = static_cast<int64_t>(at - margin), high_rank = static_cast<int64_t>(at + margin);
        const int32_t low = at < margin ? INT32_MIN : select(room, size, low_rank, room + size);
        const int32_t high = high_rank >= size ? INT32_MAX : select(room, size, high_rank, room + size);
        int64_t below = 0;
        for (int64_t i = 0; i < n; ++i) below += v[i] < low;
        const int64_t count = collect(v, n, low, high, room);
        if (below <= rank && rank < below + count && count <= n / 2)
            return select(room, count, rank - below, room + count);
    }
    std::copy(v, v + n, room);
    std::nth_element(room, room + rank, room + n);
    return room[rank];
}

inline int64_t select_room(int64_t n) { return 2 * n + 4096; }

}  // namespace
