// A ReLU network on a strip of inputs, feature by feature: one strip passes all layers before the next one.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "products.hpp"

namespace {

struct ReluNetwork {
    int64_t layers;               // linear maps, a ReLU between them
    const int64_t* widths;        // layers + 1 of them
    const float* const* weights;  // [widths[i + 1], widths[i]], row-major
    const float* const* biases;   // [widths[i + 1]]

    int64_t widest() const { return *std::max_element(widths, widths + layers + 1); }

    // Maps `vectors` vectors of each row of `here` [widths[0], stride]; `here` and `there` have room for the widest
    // layer.  Returns where the output lies, one of the two.
    float* through(int64_t vectors, int64_t stride, float* here, float* there) const {
        for (int64_t layer = 0; layer < layers; ++layer) {
            const float* bias = biases[layer];
            const float lowest = layer + 1 < layers ? 0.0f : -std::numeric_limits<float>::infinity();
            const Vector<float> floor = Vector<float>{} + lowest;
            product<float>(widths[layer + 1], vectors, widths[layer], weights[layer], widths[layer], 1, here, stride,
                           [&](int64_t r, int64_t v, const Vector<float>& sum) {
                               const Vector<float> value = sum + bias[r];
                               store(there + r * stride + v * WIDTH<float>, value < floor ? floor : value);
                           });
            std::swap(here, there);
        }
        return here;
    }
};

}  // namespace
