// What the passes over all pairs of the kernel Stein discrepancy share: kernels and the median.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "exp2.hpp"
#include "stein_select.hpp"

namespace {

enum Kernel { GAUSSIAN = 0, IMQ = 1, LAPLACE = 2, RIESZ = 3 };
enum Bandwidth { EXACT = 0, DETACHED = 1, BISECTION = 2 };

template <int KERNEL>
inline void profile(float s, float& k, float& dk) {
    if (KERNEL == GAUSSIAN || KERNEL == LAPLACE) {
        k = exp2_negative(s * -1.44269504f);
        dk = -k;
    } else if (KERNEL == IMQ) {
        k = 1.0f / std::sqrt(1.0f + s);
        dk = -0.5f * k * k * k;
    } else {
        k = s;
        dk = 1.0f;
    }
}

// The lower median of the N M real values of D [N, Mp], whose padding lies above it, as the bandwidth rule wants it.
// `room` holds at least select_room(N Mp).
inline float lower_median(const float* D, int64_t N, int64_t M, int64_t Mp, int bandwidth, int32_t* room) {
    // ranks from below are those of the real values
    int32_t bits = select(reinterpret_cast<const Bits*>(D), N * Mp, (N * M - 1) / 2, room);
    if (bandwidth == BISECTION) bits = (bits & -(1 << BISECTION_LOW_BITS)) | (1 << (BISECTION_LOW_BITS - 1));
    float m;
    std::memcpy(&m, &bits, 4);
    return m;
}

inline float sign(float v) { return static_cast<float>(v > 0) - static_cast<float>(v < 0); }

}  // namespace
