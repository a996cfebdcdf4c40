// Radial networks on a block of rows: their hidden layers, with derivatives, and their last layers A, which are changed from
// the coefficients J of equation (8) to the coefficients of the orders (frames.hpp).

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "duals.hpp"
#include "problem.hpp"

namespace {

constexpr int64_t HIDDEN = 32, VALUES = HIDDEN + 1;  // hidden values; and a one, which multiplies the biases
constexpr double EPSILON = 1e-5;                     // of LayerNorm
constexpr int64_t RADIAL_WEIGHTS = 128;              // about as many of a row are computed together

using Hiddens = Constant<HIDDEN>;
using Values = Constant<VALUES>;

// ---------------------------------------------------------------- parameters

template <class T>
struct HiddenParameters {  // of a hidden layer; or null
    T *weight, *bias, *scale, *shift;
};

// The parameters of network n, or what belongs to them, in a table for all networks: weight, bias, scale and shift of the first
// hidden layer, each of all networks, [networks, ...]; the same of the second; the biases of all last layers, one network
// after the other; and the weight of each last layer. All are null for a table that is null.
template <class T>
struct Parameters {
    HiddenParameters<T> first{}, second{};
    T *weight = nullptr, *bias = nullptr;  // of the last layer

    template <class Pointer>
    Parameters(const Problem& p, Pointer* table, int64_t n) {
        if (!table) return;
        const auto at = [=](int64_t i, int64_t offset) { return table[i] ? static_cast<T*>(table[i]) + offset : nullptr; };
        const int64_t vector = n * HIDDEN;
        first = {at(0, vector * p.num_scalars), at(1, vector), at(2, vector), at(3, vector)};
        second = {at(4, vector * HIDDEN), at(5, vector), at(6, vector), at(7, vector)};
        bias = at(8, p.networks[n].first_row);
        weight = at(9 + n, 0);
    }
};

// ---------------------------------------------------------------- hidden layers

// Subtract from each column of a matrix [32, columns] its mean.
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

// Weight and bias side by side, [32, inputs + 1]; null if both are.
template <class T>
Array<T> side_by_side(int64_t inputs, const T* w, const T* b) {
    if (!w && !b) return Array<T>();
    Array<T> both(HIDDEN * (inputs + 1), 0);
    for (int64_t h = 0; h < HIDDEN; ++h) {
        if (w) std::copy_n(w + h * inputs, inputs, both + h * (inputs + 1));
        if (b) both[h * (inputs + 1) + inputs] = b[h];
    }
    return both;
}

// Linear, LayerNorm (if there is one), and ReLU. Where a LayerNorm follows, weight and bias are centred, so that the output of
// Linear has mean zero, which the LayerNorm need not subtract.
template <class T>
struct Layer {
    int64_t inputs;
    Array<T> weight, tangent;  // [32, inputs + 1], the bias last; and its tangent, null where zero
    const T *scale, *shift;    // of the LayerNorm, or null
    const T *tscale, *tshift;  // their tangents, or null

    Layer(int64_t inputs, const HiddenParameters<const T>& own, const HiddenParameters<const T>& tangents)
        : inputs(inputs),
          weight(side_by_side(inputs, own.weight, own.bias)),
          tangent(side_by_side(inputs, tangents.weight, tangents.bias)),
          scale(own.scale),
          shift(own.shift),
          tscale(tangents.scale),
          tshift(tangents.shift) {
        if (scale) centre<T>(weight, inputs + 1);
        if (scale && tangent) centre<T>(tangent, inputs + 1);
    }
};

template <class T>
void add_to(T* sum, const T* values, int64_t count) {
    for (int64_t i = 0; i < count; ++i) sum[i] += values[i];
}

// The derivatives with respect to a Layer, which are sums over rows. Most are summed lane by lane, and over lanes at the end.
// Only derivatives with respect to weights of inputs in whole groups of 32 are matrix products, which sum over rows at once.
template <class T>
struct LayerGradient {
    int64_t inputs, whole, rest;  // inputs in whole groups of 32, and the others
    Array<T> weight, by_lane;     // for these, [groups, 32, 32], and [32, rest] registers
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

    // Write the derivatives to PyTorch's tensors: with respect to the parameters of the model, which are not centred.
    void store(const HiddenParameters<T>& to) const {
        for (int64_t h = 0; h < HIDDEN; ++h) {
            for (int64_t c = 0; c < whole; c += HIDDEN) {
                std::copy_n(weight + (c + h) * HIDDEN, HIDDEN, to.weight + h * inputs + c);
            }
            sum(by_lane + h * rest * LANES<T>, rest, to.weight + h * inputs + whole);
        }
        sum(bias, HIDDEN, to.bias);
        if (!to.scale) return;
        sum(scale, HIDDEN, to.scale);
        sum(shift, HIDDEN, to.shift);
        centre<T>(to.weight, inputs);
        centre<T>(to.bias, 1);
    }

private:
    static void sum(const T* from, int64_t count, T* to) {
        for (int64_t i = 0; i < count; ++i, from += LANES<T>) to[i] = std::accumulate(from, from + LANES<T>, T(0));
    }
};

template <class T, int W = 1>
struct Activation {  // the values of one layer on one block, and their derivatives
    static constexpr int64_t C = COLUMN<W, T>, N = LANES<T>;
    alignas(64) T normal[HIDDEN * C], output[HIDDEN * C], inverse[C];

    void evaluate(const Layer<T>& layer, const T* x) {
        const int64_t n = layer.inputs;
        if (n == HIDDEN) {
            linear<W, T>(HIDDEN, layer.weight, layer.tangent, Values(), Hiddens(), x, normal);
        } else {
            linear<W, T>(HIDDEN, layer.weight, layer.tangent, n + 1, n, x, normal);
        }
        if (layer.scale) {
            normalise(layer);
        } else {
            for_registers([&](int64_t i, int64_t, int) { store<W>(output + i, rectified<T>(load<W>(normal + i))); });
        }
    }

    // First derivatives. Args: d: those with respect to the output, overwritten; x: the input; dx: those with respect to the
    // input are added to it, unless it is null; sum: those with respect to the layer are added to it.
    void gradient(const Layer<T>& layer, T* d, const T* x, T* dx, LayerGradient<T>& sum) const {
        T* dbias = sum.bias;
        if (layer.scale) gradient_of_norm(layer, d, sum);
        for (int64_t h = 0; h < HIDDEN; ++h) {
            Number<W, T> total = {};
            for (int v = 0; v < 2; ++v) {
                const int64_t i = h * C + v * N;
                if (!layer.scale) store<W>(d + i, by_output(d, i));
                total += load<W>(d + i);
            }
            at(dbias + h * N).v += result<T>(total);
        }
        for (int64_t c = 0; c < sum.whole; c += HIDDEN) {
            alignas(64) T rows[C * HIDDEN];
            opposite<W>(x + c * C, HIDDEN, rows);
            add_outer<T, W>(HIDDEN, d, rows, Hiddens(), sum.weight + c * HIDDEN);
        }
        add_outer_by_lane(d, x + sum.whole * C, sum.rest, sum.by_lane);
        if (dx) linear_gradient<W, T>(HIDDEN, layer.weight, layer.tangent, layer.inputs + 1, layer.inputs, d, dx);
    }

private:
    // Call task(offset, hidden value, half of the column) for every register.
    template <class Task>
    static ALWAYS_INLINE void for_registers(Task task) {
        for (int64_t h = 0; h < HIDDEN; ++h) {
            for (int v = 0; v < 2; ++v) task(h * C + v * N, h, v);
        }
    }

    void normalise(const Layer<T>& layer) {
        // Copied to local variables: the compiler would otherwise read the members again after each store.
        const T *scale = layer.scale, *shift = layer.shift, *tscale = layer.tscale, *tshift = layer.tshift;
        Number<W, T> squares[2][2] = {}, factor[2];  // even and odd values in two independent sums
        for (int64_t h = 0; h < HIDDEN; h += 2) {
#pragma GCC unroll 2
            for (int odd = 0; odd < 2; ++odd) {
#pragma GCC unroll 2
                for (int v = 0; v < 2; ++v) {
                    const auto z = load<W>(normal + (h + odd) * C + v * N);
                    squares[odd][v] += z * z;
                }
            }
        }
        for (int v = 0; v < 2; ++v) {
            const T epsilon = T(EPSILON);
            factor[v] = inverse_root<T>(T(1) / HIDDEN * (squares[0][v] + squares[1][v]) + everywhere<W>(epsilon, NONE));
            store<W>(inverse + v * N, factor[v]);
        }
        for_registers([&](int64_t i, int64_t h, int v) {
            const auto z = load<W>(normal + i) * factor[v];
            const auto a = everywhere<W>(scale[h], of(tscale, h)), b = everywhere<W>(shift[h], of(tshift, h));
            store<W>(normal + i, z);
            store<W>(output + i, rectified<T>(z * a + b));
        });
    }

    static constexpr const T* NONE = nullptr;
    static const T* of(const T* tangent, int64_t h) { return tangent ? tangent + h : nullptr; }
    static ALWAYS_INLINE Number<W, T> scale_of(const Layer<T>& layer, int64_t h) {
        return everywhere<W>(layer.scale[h], of(layer.tscale, h));
    }
    Number<W, T> by_output(const T* d, int64_t i) const {
        return where_not_zero<T>(load<W>(output + i), load<W>(d + i));
    }

    void gradient_of_norm(const Layer<T>& layer, T* d, LayerGradient<T>& sum) const {
        T *dscale = sum.scale, *dshift = sum.shift;  // local, as in normalise
        Number<W, T> along[2] = {}, factor[2] = {load<W>(inverse), load<W>(inverse + N)};
        for (int64_t h = 0; h < HIDDEN; ++h) {
            Number<W, T> by_scale = {}, by_shift = {};
            for (int v = 0; v < 2; ++v) {
                const int64_t i = h * C + v * N;
                const auto z = load<W>(normal + i), dy = by_output(d, i), dz = dy * scale_of(layer, h);
                by_scale += dy * z;
                by_shift += dy;
                store<W>(d + i, dz);
                along[v] += dz * z;
            }
            at(dscale + h * N).v += result<T>(by_scale);
            at(dshift + h * N).v += result<T>(by_shift);
        }
        for (int v = 0; v < 2; ++v) along[v] = T(1) / HIDDEN * along[v];
        for_registers([&](int64_t i, int64_t, int v) {
            store<W>(d + i, (load<W>(d + i) - load<W>(normal + i) * along[v]) * factor[v]);
        });
    }

    static void add_outer_by_lane(const T* d, const T* x, int64_t inputs, T* dA) {
        for (int64_t h = 0; h < HIDDEN; ++h) {
            const auto d0 = load<W>(d + h * C), d1 = load<W>(d + h * C + N);
            for (int64_t i = 0; i < inputs; ++i) {
                at(dA).v += result<T>(d0 * load<W>(x + i * C) + d1 * load<W>(x + i * C + N));
                dA += N;
            }
        }
    }
};

// ---------------------------------------------------------------- last layers

template <class T>
struct Weights {  // the rows of a last layer that belong to one pair of degrees
    const Pair& pair;
    int64_t k, l, channels_in, channels_out, F;
    Array<T> last, tangent;  // A for coefficients of the orders, [F, channels in, channels out, 33], and its tangent, or null

    Weights(const Problem& p, const Pair& pair, const Parameters<const T>& own, const Parameters<const T>& tangents)
        : pair(pair),
          k(p.features[pair.feature].degree),
          l(p.messages[pair.message].degree),
          channels_in(p.features[pair.feature].channels),
          channels_out(p.messages[pair.message].channels),
          F(2 * std::min(k, l) + 1),
          last(aligned(own)) {
        if (tangents.weight || tangents.bias) tangent = aligned(tangents);
    }

    const T* tangent_of(const T* A) const { return tangent ? tangent + (A - last) : nullptr; }
    int64_t row(int64_t o, int64_t i, int64_t J) const { return pair.first + o * pair.step_out + i * pair.step_in + J; }
    int64_t numbers() const { return F * channels_in * channels_out; }
    int64_t together() const { return std::min(channels_in, std::max(int64_t(1), RADIAL_WEIGHTS / channels_out)); }

private:
    Array<T> aligned(const Parameters<const T>& parameters) const {
        const T *w = parameters.weight, *b = parameters.bias;
        const auto* coupling = static_cast<const T*>(pair.coupling);
        Array<T> A(numbers() * VALUES, 0);
        for (int64_t o = 0; o < channels_out; ++o) {
            for (int64_t i = 0; i < channels_in; ++i) {
                for (int64_t f = 0; f < F; ++f) {
                    T* a = A + ((f * channels_in + i) * channels_out + o) * VALUES;
                    for (int64_t J = 0; J < F; ++J) {
                        const T factor = coupling[f * F + J];
                        for (int64_t h = 0; w && h < HIDDEN; ++h) a[h] += factor * w[row(o, i, J) * HIDDEN + h];
                        if (b) a[HIDDEN] += factor * b[row(o, i, J)];
                    }
                }
            }
        }
        return A;
    }
};

template <class T>
struct WeightsGradient {
    Array<T> last, bias;  // [F, channels in, channels out, 32]; without the 32, a register for each; null where zero

    // Allocate, unless that was done, before anything is added.
    void begin(const Weights<T>& weights) {
        if (last) return;
        last = Array<T>(weights.numbers() * HIDDEN, 0), bias = Array<T>(weights.numbers() * LANES<T>, 0);
    }

    void add(const WeightsGradient& other, const Weights<T>& weights) {
        if (!other.last) return;
        begin(weights);
        add_to<T>(last, other.last, weights.numbers() * HIDDEN);
        add_to<T>(bias, other.bias, weights.numbers() * LANES<T>);
    }

    // Add the derivatives to those with respect to the network; added, as other pairs may read the same outputs.
    void store(const Weights<T>& weights, T* dw, T* db) const {
        if (!last) return;
        const auto* coupling = static_cast<const T*>(weights.pair.coupling);
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
                    T *w = dw + row * HIDDEN, b = 0;
                    for (int64_t f = 0; f < weights.F; ++f) {
                        const T factor = coupling[f * weights.F + J];
                        const T* a = last + (first_f + f * step) * HIDDEN;
                        for (int64_t h = 0; h < HIDDEN; ++h) w[h] += factor * a[h];
                        b += factor * sums[f];
                    }
                    if (db) db[row] += b;
                }
            }
        }
    }
};

// ---------------------------------------------------------------- whole networks

template <class T>
struct Radial {  // the parameters of a radial network, as blocks use them
    int64_t rows;
    Layer<T> first, second;
    std::vector<Weights<T>> weights;  // of each pair that reads its output

    Radial(const Problem& p, int64_t n) : Radial(p, p.networks[n], {p, p.parameters, n}, {p, p.tangents, n}) {}

private:
    Radial(const Problem& p, const Network& n, const Parameters<const T>& own, const Parameters<const T>& tangents)
        : rows(n.rows), first(p.num_scalars, own.first, tangents.first), second(HIDDEN, own.second, tangents.second) {
        weights.reserve(n.num_pairs);
        for (int64_t i = 0; i < n.num_pairs; ++i) weights.emplace_back(p, p.pairs[n.first_pair + i], own, tangents);
    }
};

template <class T>
struct RadialGradient {
    LayerGradient<T> first, second;
    std::vector<WeightsGradient<T>> weights;

    explicit RadialGradient(const Radial<T>& radial)
        : first(radial.first.inputs), second(HIDDEN), weights(radial.weights.size()) {}

    void add(const RadialGradient& other, const Radial<T>& radial) {
        first.add(other.first);
        second.add(other.second);
        for (size_t i = 0; i < weights.size(); ++i) weights[i].add(other.weights[i], radial.weights[i]);
    }

    void store(const Radial<T>& radial, const Parameters<T>& to) const {
        first.store(to.first);
        second.store(to.second);
        std::fill_n(to.weight, radial.rows * HIDDEN, T(0));
        if (to.bias) std::fill_n(to.bias, radial.rows, T(0));
        for (size_t i = 0; i < weights.size(); ++i) weights[i].store(radial.weights[i], to.weight, to.bias);
    }
};

template <class T, int W = 1>
struct Hidden {  // both hidden layers on one block
    Activation<T, W> first, second;

    void evaluate(const Radial<T>& radial, const T* scalars) {
        first.evaluate(radial.first, scalars);
        second.evaluate(radial.second, first.output);
    }

    // First derivatives. Args: d: those with respect to the output of the second layer, overwritten.
    void gradient(const Radial<T>& radial, T* d, const T* scalars, T* dscalars, RadialGradient<T>& sum) const {
        alignas(64) T dfirst[HIDDEN * COLUMN<W, T>] = {};
        second.gradient(radial.second, d, first.output, dfirst, sum.second);
        first.gradient(radial.first, dfirst, scalars, dscalars, sum.first);
    }
};

}  // namespace
