// Powers of two by polynomials, which the compiler turns into vector code where it finds them in a loop.
#pragma once

#include <cstdint>
#include <cstring>

namespace {

// 2^(n + r), n in [-126, 126] and |r| <= 1/2: minimax of degree 5, relative error 1e-7
inline float exp2_split(int32_t n, float r) {
    float p = 0.00134004321f;
    p = p * r + 0.00967603710f;
    p = p * r + 0.0555032721f;
    p = p * r + 0.240221074f;
    p = p * r + 0.693147207f;
    p = p * r + 1.00000008f;
    const int32_t b = (n + 127) << 23;
    float scale;
    std::memcpy(&scale, &b, 4);
    return p * scale;
}

// 2^t for t <= 0 (underflow stops at 2^-126)
inline float exp2_negative(float t) {
    t = t > -126.0f ? t : -126.0f;
    const int32_t n = static_cast<int32_t>(t - 0.5f);  // to nearest, as t <= 0
    return exp2_split(n, t - static_cast<float>(n));
}

}  // namespace
