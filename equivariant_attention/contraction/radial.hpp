// Radial networks on a block of rows: hidden layers, and the last layers in the basis of the orders, ready to be used.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "../native/columns.hpp"
#include "problem.hpp"

namespace {

constexpr int64_t HIDDEN = 32, VALUES = HIDDEN + 1;  // of a radial network, the last a one for its biases
constexpr int64_t PARAMETERS = 10;                   // tensors of a radial network
constexpr double EPSILON = 1e-5;                     // of LayerNorm
constexpr int64_t RADIAL_WEIGHTS = 128;              // of a row, that are made together

using Values = std::integral_constant<int64_t, VALUES>;

// ---------------------------------------------------------------- hidden layers

// Take from every column of 32 values their mean.
template <class T>
void centre(T* values, int64_t columns) {
    std::vector<T> mean(columns);
    for (int64_t h = 0; h < HIDDEN; ++h) {
        for (int64_t i = 0; i < columns; ++i) mean[i] += values[h * columns + i];
    }
    for (int64_t i = 0; i < columns; ++i) mean[i] /= HIDDEN;
    for (int64_t h = 0; h < HIDDEN; ++h) {
        for (int64_t i = 0; i < columns; ++i) values[h * columns + i] -= mean[i];
    }
}

// Linear, LayerNorm if there is one, and ReLU. Before a LayerNorm weight and bias are centred: what they make has mean zero.
template <class T>
struct Layer {
    int64_t inputs;
    Array<T> weight;         // [32, inputs + 1], the bias last
    const T *scale, *shift;  // of the LayerNorm, or null

    Layer(int64_t inputs, const void* const* parameters)
        : inputs(inputs),
          weight(HIDDEN * (inputs + 1)),
          scale(static_cast<const T*>(parameters[2])),
          shift(static_cast<const T*>(parameters[3])) {
        const auto *w = static_cast<const T*>(parameters[0]), *b = static_cast<const T*>(parameters[1]);
        for (int64_t h = 0; h < HIDDEN; ++h) {
            std::copy_n(w + h * inputs, inputs, weight + h * (inputs + 1));
            weight[h * (inputs + 1) + inputs] = b[h];
        }
        if (scale) centre<T>(weight, inputs + 1);
    }
};

template <class T>
void add_to(T* sum, const T* values, int64_t count) {
    for (int64_t i = 0; i < count; ++i) sum[i] += values[i];
}

// Its derivatives. What is summed over rows alone is so lane by lane, and over lanes at the end: all but the weights of
// the inputs that make up whole groups of 32, where outer products sum over the rows.
template <class T>
struct LayerGradient {
    int64_t inputs, whole, rest;  // whole: how many inputs are in groups
    Array<T> weight, by_lane;     // [groups, 32, 32], and [32, rest] registers
    Array<T> bias, scale, shift;

    explicit LayerGradient(int64_t inputs)
        : inputs(inputs),
          whole(inputs / HIDDEN * HIDDEN),
          rest(inputs - whole),
          weight(HIDDEN * whole, 0),
          by_lane(HIDDEN * rest * LANES<T>, 0),
          bias(HIDDEN * LANES<T>, 0),
          scale(HIDDEN * LANES<T>, 0),
          shift(HIDDEN * LANES<T>, 0) {}

    void add(const LayerGradient& other) {
        add_to<T>(weight, other.weight, HIDDEN * whole);
        add_to<T>(by_lane, other.by_lane, HIDDEN * rest * LANES<T>);
        add_to<T>(bias, other.bias, HIDDEN * LANES<T>);
        add_to<T>(scale, other.scale, HIDDEN * LANES<T>);
        add_to<T>(shift, other.shift, HIDDEN * LANES<T>);
    }

    // To where PyTorch has them: those by weights that were not centred yet.
    void store(void* const* gradients) const {
        T* g[4];
        for (int i = 0; i < 4; ++i) g[i] = static_cast<T*>(gradients[i]);
        for (int64_t h = 0; h < HIDDEN; ++h) {
            for (int64_t c = 0; c < whole; c += HIDDEN) {
                std::copy_n(weight + (c + h) * HIDDEN, HIDDEN, g[0] + h * inputs + c);
            }
            sum(by_lane + h * rest * LANES<T>, rest, g[0] + h * inputs + whole);
        }
        sum(bias, HIDDEN, g[1]);
        if (!g[2]) return;
        sum(scale, HIDDEN, g[2]);
        sum(shift, HIDDEN, g[3]);
        centre<T>(g[0], inputs);
        centre<T>(g[1], 1);
    }

private:
    static void sum(const T* from, int64_t count, T* to) {
        for (int64_t i = 0; i < count; ++i, from += LANES<T>) to[i] = std::accumulate(from, from + LANES<T>, T(0));
    }
};

template <class T>
struct Activation {  // of one layer on one block
    alignas(64) T normal[HIDDEN * B<T>], output[HIDDEN * B<T>], inverse[B<T>];

    void evaluate(const Layer<T>& layer, const T* x) {
        const int64_t n = layer.inputs;
        const T *w = layer.weight, *scale = layer.scale, *shift = layer.shift;
        if (n == HIDDEN) {
            product<true>(HIDDEN, w, Values(), One(), HIDDEN, x, B<T>, normal, B<T>, w + HIDDEN);
        } else {
            product<true>(HIDDEN, w, n + 1, One(), n, x, B<T>, normal, B<T>, w + n);
        }
        if (scale) {
            normalise(scale, shift);
        } else {
            for (int64_t i = 0; i < HIDDEN * B<T>; i += LANES<T>) rectify(at(normal + i).v, i);
        }
    }

    void normalise(const T* scale, const T* shift) {
        constexpr int64_t N = LANES<T>;
        Vector<T> squares[2][2] = {}, factor[2];
        for (int64_t h = 0; h < HIDDEN; ++h) {
            for (int v = 0; v < 2; ++v) {
                const Vector<T> z = at(normal + h * B<T> + v * N).v;
                squares[h % 2][v] += z * z;
            }
        }
        for (int v = 0; v < 2; ++v) {
            factor[v] = (squares[0][v] + squares[1][v]) / T(HIDDEN) + T(EPSILON);
            for (int64_t r = 0; r < N; ++r) factor[v][r] = 1 / std::sqrt(factor[v][r]);
            at(inverse + v * N).v = factor[v];
        }
        for (int64_t h = 0; h < HIDDEN; ++h) {
            for (int v = 0; v < 2; ++v) {
                const int64_t i = h * B<T> + v * N;
                const Vector<T> z = at(normal + i).v * factor[v], y = z * scale[h] + shift[h];
                at(normal + i).v = z;
                rectify(y, i);
            }
        }
    }

    void rectify(const Vector<T>& y, int64_t i) { at(output + i).v = y < 0 ? Vector<T>{} : y; }  // NaN stays NaN

    // Derivatives. Args: d, by the output, overwritten; x, the input; dx, by the input, added to, or null.
    void gradient(const Layer<T>& layer, T* d, const T* x, T* dx, LayerGradient<T>& sum) const {
        if (layer.scale) {
            gradient_of_norm(layer.scale, d, sum);
        } else {
            for (int64_t i = 0; i < HIDDEN * B<T>; i += LANES<T>) at(d + i).v = by_output(d, i);
        }
        for (int64_t h = 0; h < HIDDEN; ++h) {
            at(sum.bias + h * LANES<T>).v += at(d + h * B<T>).v + at(d + h * B<T> + LANES<T>).v;
        }
        for (int64_t c = 0; c < sum.whole; c += HIDDEN) {
            alignas(64) T rows[B<T> * HIDDEN];
            transpose(x + c * B<T>, HIDDEN, rows, HIDDEN);
            add_outer<T>(HIDDEN, d, rows, HIDDEN, sum.weight + c * HIDDEN);
        }
        add_outer_by_lane(d, x + sum.whole * B<T>, sum.rest, sum.by_lane);
        const T* w = layer.weight;
        if (dx) product<false>(layer.inputs, w, One(), layer.inputs + 1, HIDDEN, d, B<T>, dx, B<T>);
    }

private:
    Vector<T> by_output(const T* d, int64_t i) const { return at(output + i).v == 0 ? Vector<T>{} : at(d + i).v; }

    void gradient_of_norm(const T* scale, T* d, LayerGradient<T>& sum) const {
        constexpr int64_t N = LANES<T>;
        Vector<T> along[2] = {}, factor[2] = {at(inverse).v, at(inverse + N).v};
        for (int64_t h = 0; h < HIDDEN; ++h) {
            Vector<T> by_scale = at(sum.scale + h * N).v, by_shift = at(sum.shift + h * N).v;
            for (int v = 0; v < 2; ++v) {
                const int64_t i = h * B<T> + v * N;
                const Vector<T> z = at(normal + i).v, dy = by_output(d, i);
                by_scale += dy * z;
                by_shift += dy;
                at(d + i).v = dy * scale[h];
                along[v] += at(d + i).v * z;
            }
            at(sum.scale + h * N).v = by_scale;
            at(sum.shift + h * N).v = by_shift;
        }
        for (int v = 0; v < 2; ++v) along[v] /= T(HIDDEN);
        for (int64_t h = 0; h < HIDDEN; ++h) {
            for (int v = 0; v < 2; ++v) {
                const int64_t i = h * B<T> + v * N;
                at(d + i).v = (at(d + i).v - at(normal + i).v * along[v]) * factor[v];
            }
        }
    }

    static void add_outer_by_lane(const T* d, const T* x, int64_t inputs, T* dA) {
        for (int64_t h = 0; h < HIDDEN; ++h) {
            const Vector<T> d0 = at(d + h * B<T>).v, d1 = at(d + h * B<T> + LANES<T>).v;
            for (int64_t i = 0; i < inputs; ++i) {
                at(dA).v += d0 * at(x + i * B<T>).v + d1 * at(x + i * B<T> + LANES<T>).v;
                dA += LANES<T>;
            }
        }
    }
};

// ---------------------------------------------------------------- last layers

template <class T>
struct Weights {  // of a pair of degrees: its rows of the last layer
    const Pair& pair;
    int64_t k, l, channels_in, channels_out, F;
    Array<T> last;  // A, [F, channels in, channels out, 33], in the basis of the orders

    Weights(const Problem& p, const Pair& pair, const void* const* parameters)
        : pair(pair),
          k(p.features[pair.feature].degree),
          l(p.messages[pair.message].degree),
          channels_in(p.features[pair.feature].channels),
          channels_out(p.messages[pair.message].channels),
          F(2 * std::min(k, l) + 1),
          last(numbers() * VALUES, 0) {
        const auto *w = static_cast<const T*>(parameters[8]), *b = static_cast<const T*>(parameters[9]);
        const auto* coupling = static_cast<const T*>(pair.coupling);
        for (int64_t o = 0; o < channels_out; ++o) {
            for (int64_t i = 0; i < channels_in; ++i) {
                for (int64_t f = 0; f < F; ++f) {
                    T* a = last + ((f * channels_in + i) * channels_out + o) * VALUES;
                    for (int64_t J = 0; J < F; ++J) {
                        const T factor = coupling[f * F + J];
                        for (int64_t h = 0; h < HIDDEN; ++h) a[h] += factor * w[row(o, i, J) * HIDDEN + h];
                        if (b) a[HIDDEN] += factor * b[row(o, i, J)];
                    }
                }
            }
        }
    }

    int64_t row(int64_t o, int64_t i, int64_t J) const { return pair.first + o * pair.step_out + i * pair.step_in + J; }
    int64_t numbers() const { return F * channels_in * channels_out; }
    int64_t together() const { return std::min(channels_in, std::max(int64_t(1), RADIAL_WEIGHTS / channels_out)); }
};

template <class T>
struct WeightsGradient {
    Array<T> last, bias;  // [F, channels in, channels out, 32], and as many registers

    explicit WeightsGradient(const Weights<T>& weights)
        : last(weights.numbers() * HIDDEN, 0), bias(weights.numbers() * LANES<T>, 0) {}

    void add(const WeightsGradient& other, int64_t numbers) {
        add_to<T>(last, other.last, numbers * HIDDEN);
        add_to<T>(bias, other.bias, numbers * LANES<T>);
    }

    void store(const Weights<T>& weights, void* const* gradients) const {
        const auto* coupling = static_cast<const T*>(weights.pair.coupling);
        auto *dw = static_cast<T*>(gradients[8]), *db = static_cast<T*>(gradients[9]);
        std::vector<T> sums(weights.F);
        for (int64_t o = 0; o < weights.channels_out; ++o) {
            for (int64_t i = 0; i < weights.channels_in; ++i) {
                const int64_t first_f = i * weights.channels_out + o, step = weights.channels_in * weights.channels_out;
                for (int64_t f = 0; f < weights.F; ++f) {
                    const T* lanes = bias + (first_f + f * step) * LANES<T>;
                    sums[f] = std::accumulate(lanes, lanes + LANES<T>, T(0));
                }
                for (int64_t J = 0; J < weights.F; ++J) {
                    const int64_t row = weights.row(o, i, J);
                    T w[HIDDEN] = {}, b = 0;
                    for (int64_t f = 0; f < weights.F; ++f) {
                        const T factor = coupling[f * weights.F + J];
                        const T* a = last + (first_f + f * step) * HIDDEN;
                        for (int64_t h = 0; h < HIDDEN; ++h) w[h] += factor * a[h];
                        b += factor * sums[f];
                    }
                    std::copy_n(w, HIDDEN, dw + row * HIDDEN);
                    if (db) db[row] = b;
                }
            }
        }
    }
};

// ---------------------------------------------------------------- whole networks

template <class T>
struct Radial {  // a radial network, made ready
    Layer<T> first, second;
    std::vector<Weights<T>> weights;  // of every pair that it serves

    Radial(const Problem& p, const Network& n, const void* const* parameters)
        : first(p.num_scalars, parameters), second(HIDDEN, parameters + 4) {
        weights.reserve(n.num_pairs);
        for (int64_t i = 0; i < n.num_pairs; ++i) weights.emplace_back(p, p.pairs[n.first_pair + i], parameters);
    }
};

template <class T>
struct RadialGradient {
    LayerGradient<T> first, second;
    std::vector<WeightsGradient<T>> weights;

    explicit RadialGradient(const Radial<T>& radial) : first(radial.first.inputs), second(HIDDEN) {
        weights.reserve(radial.weights.size());
        for (const auto& w : radial.weights) weights.emplace_back(w);
    }

    void add(const RadialGradient& other, const Radial<T>& radial) {
        first.add(other.first);
        second.add(other.second);
        for (size_t i = 0; i < weights.size(); ++i) weights[i].add(other.weights[i], radial.weights[i].numbers());
    }

    void store(const Radial<T>& radial, void* const* gradients) const {
        first.store(gradients);
        second.store(gradients + 4);
        for (size_t i = 0; i < weights.size(); ++i) weights[i].store(radial.weights[i], gradients);
    }
};

template <class T>
struct Hidden {  // both hidden layers on one block
    Activation<T> first, second;

    void evaluate(const Radial<T>& radial, const T* scalars) {
        first.evaluate(radial.first, scalars);
        second.evaluate(radial.second, first.output);
    }

    // Derivatives, from those by the output of the second, d, overwritten.
    void gradient(const Radial<T>& radial, T* d, const T* scalars, T* dscalars, RadialGradient<T>& sum) const {
        alignas(64) T dfirst[HIDDEN * B<T>] = {};
        second.gradient(radial.second, d, first.output, dfirst, sum.second);
        first.gradient(radial.first, dfirst, scalars, dscalars, sum.first);
    }
};

}  // namespace
