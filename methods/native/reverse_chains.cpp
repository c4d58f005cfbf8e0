// HMC chains on the reverse conditional q(z | x) of a Gaussian semi-implicit family, q(x | z) = N(mu(z), diag sigma^2)
// with a ReLU network mu: all transitions of a step of UIVI in one call, one seed after the other on one CPU core,
// float32.  The same as methods/parts/hmc.py; the network's parameters are packed once.
// Plain C interface: compiled on first use (bench.native).
#include <cmath>

#include "relu_layers.hpp"

namespace {

// n chains: place [n, k], log density [n], its gradient [n, k], and mu there [n, d]
struct Chains {
    float *z, *log_prob, *gradient, *mean;

    void take(int64_t c, int64_t k, int64_t d, const Chains& from) const {
        std::copy_n(from.z + c * k, k, z + c * k);
        std::copy_n(from.gradient + c * k, k, gradient + c * k);
        std::copy_n(from.mean + c * d, d, mean + c * d);
        log_prob[c] = from.log_prob[c];
    }
};

struct Work {
    Buffer<float> chains, moved, momentum, residual;
    std::vector<Buffer<float>> hidden;
    Forward forward;
    Backward backward;
};

inline Chains chains_in(Buffer<float>& buffer, int64_t n, int64_t k, int64_t d) {
    float* at = room(buffer, n * (2 * k + d + 1));
    return {at, at + n * (2 * k + d), at + n * k, at + 2 * n * k};
}

// log q(z) + log q(x | z), up to a constant, for one seed's network, sigma [d] and x [n, d]
class Reverse {
   public:
    Reverse(const Network& net, int64_t seed, const float* sigma, const float* x, Work& work)
        : net(net), k(net.widths[0]), d(net.widths[net.layers]), sigma(sigma), x(x), work(work) {
        work.forward.pack(net, seed);
        work.backward.pack(net, seed, true);
        work.hidden.resize(net.layers - 1);
        for (int64_t i = 0; i + 1 < net.layers; ++i)
            hidden.push_back(room(work.hidden[i], STRIP * line(net.widths[i + 1])));
    }

    // What belongs to the places of n chains.
    void evaluate(int64_t n, const Chains& at) const {
        float* residual = room(work.residual, STRIP * d);
        for (int64_t start = 0; start < n; start += STRIP) {
            const int64_t rows = std::min(STRIP, n - start);
            const float *z = at.z + start * k, *own_x = x + start * d;
            float *mean = at.mean + start * d, *gradient = at.gradient + start * k;
            work.forward.run(net, 0, rows, z, hidden.data(), mean);
            for (int64_t r = 0; r < rows; ++r) {
                float squares = 0;
                for (int64_t j = 0; j < k; ++j) squares += z[r * k + j] * z[r * k + j];
                for (int64_t j = 0; j < d; ++j) {
                    const float off = (own_x[r * d + j] - mean[r * d + j]) / sigma[j];
                    residual[r * d + j] = off / sigma[j];
                    squares += off * off;
                }
                at.log_prob[start + r] = -0.5f * squares;
            }
            work.backward.run(net, 0, rows, residual, hidden.data(), gradient, [](int64_t, const float*, int64_t) {});
            for (int64_t j = 0; j < rows * k; ++j) gradient[j] -= z[j];
        }
    }

   private:
    const Network& net;
    const int64_t k, d;
    const float *sigma, *x;
    Work& work;
    std::vector<float*> hidden;
};

// As in hmc.transition; a trajectory that left the range of floats (gain NaN) is rejected.
inline float acceptance(float gain) { return gain != gain ? 0.0f : std::exp(std::min(gain, 0.0f)); }

}  // namespace

extern "C" {

// Per seed: from z [n, k], burn_in + samples transitions of `leapfrog` steps with momenta [., n, k] and uniforms [., n];
// step, a scalar, is adapted in the burn-in (hmc.adapted with target and rate); mean [n, d] becomes the average of
// mu(z) over the other transitions.  x [n, d], sigma [d].
int sivibench_reverse_chains(int64_t seeds, int64_t n, int64_t layers, const int64_t* widths,
                             const float* const* weights, const int64_t* weight_strides, const float* const* biases,
                             const int64_t* bias_strides, const float* sigma, const float* x, const float* z,
                             const float* momenta, const float* uniforms, int64_t burn_in, int64_t samples,
                             int64_t leapfrog, float target, float rate, float* step, float* mean) {
    static thread_local Work work;
    const Network net{layers, widths, weights, weight_strides, biases, bias_strides};
    const int64_t k = widths[0], d = widths[layers];
    const Chains at = chains_in(work.chains, n, k, d), moved = chains_in(work.moved, n, k, d);
    float* p = room(work.momentum, n * k);
    for (int64_t seed = 0; seed < seeds; ++seed, sigma += d, x += n * d, z += n * k, ++step, mean += n * d) {
        const Reverse reverse(net, seed, sigma, x, work);
        std::copy_n(z, n * k, at.z);
        reverse.evaluate(n, at);
        std::fill_n(mean, n * d, 0.0f);
        for (int64_t t = 0; t < burn_in + samples; ++t, momenta += n * k, uniforms += n) {
            std::copy_n(momenta, n * k, p);
            for (int64_t l = 0; l < leapfrog; ++l) {
                const Chains& from = l == 0 ? at : moved;
                for (int64_t j = 0; j < n * k; ++j) {
                    p[j] += 0.5f * *step * from.gradient[j];
                    moved.z[j] = from.z[j] + *step * p[j];
                }
                reverse.evaluate(n, moved);
                for (int64_t j = 0; j < n * k; ++j) p[j] += 0.5f * *step * moved.gradient[j];
            }
            float accepted = 0;
            for (int64_t c = 0; c < n; ++c) {
                float kinetic = 0;
                for (int64_t j = c * k; j < (c + 1) * k; ++j) kinetic += p[j] * p[j] - momenta[j] * momenta[j];
                const float accept = acceptance(moved.log_prob[c] - at.log_prob[c] - 0.5f * kinetic);
                accepted += accept;
                if (uniforms[c] < accept) at.take(c, k, d, moved);
            }
            if (t < burn_in)
                *step += rate * (accepted / n - target) / target * *step;
            else
                for (int64_t j = 0; j < n * d; ++j) mean[j] += at.mean[j];
        }
        for (int64_t j = 0; j < n * d; ++j) mean[j] /= samples;
    }
    return 0;
}

}  // extern "C"
