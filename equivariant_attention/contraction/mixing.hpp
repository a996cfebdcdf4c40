// Messages of what edges send, by radial weights of their own, a few of which are made at a time.

#pragma once

#include <algorithm>
#include <cstdint>

#include "frames.hpp"
#include "passes.hpp"
#include "radial.hpp"

namespace {

template <class T>
class Mixing {  // one thread's
public:
    Mixing(const Edges<T>& edges, const Networks<T>& networks) : edges(edges) {
        int64_t most = 0;
        for (const auto& network : networks) {
            for (const auto& w : network->weights) most = std::max(most, w.together() * w.channels_out);
        }
        R = Array<T>(most * B<T>);
    }

    // Add the messages of one pair to y. Args: first, the channel of the weights that the first channel of x is; g, the
    // hidden values.
    void forward(const Weights<T>& w, int64_t first, const T* g, const Block<T>& b) {
        for_radial_weights(w, first, g, b, [&](const Terms<T>& t, int64_t i, int64_t n, const T*) {
            mix_block(w, b, t, i, n);
        });
    }

    // Derivatives. Args: rows, the hidden values, [B, 32]; dg, by g, added to.
    void gradient(const Weights<T>& w, int64_t first, const T* g, const T* rows, const Block<T>& b, T* dg,
                  WeightsGradient<T>& dw) {
        for_radial_weights(w, first, g, b, [&](const Terms<T>& t, int64_t i, int64_t n, const T* A) {
            const int64_t number = (A - w.last) / VALUES, count = n * w.channels_out;
            if (edges.p.dframes) mix_block(w, b, t, i, n);
            mix_block_gradient(w, b, t, i, n, dw.bias + number * LANES<T>);
            product<false, T>(HIDDEN, A, One(), Values(), count, R, B<T>, dg, B<T>);
            if (edges.p.gradients) add_outer<T>(count, R, rows, HIDDEN, dw.last + number * HIDDEN);
        });
    }

private:
    const Edges<T>& edges;
    Array<T> R;  // radial weights

    // Make radial weights, and call task(terms, the first of their channels in, how many channels in, their A).
    template <class Task>
    void for_radial_weights(const Weights<T>& w, int64_t first, const T* g, const Block<T>& b, Task task) {
        const int64_t channels = edges.sent.parts[w.pair.feature].channels;
        for (int64_t f = 0; f < w.F; ++f) {
            const Terms<T> terms(f, w.k, w.l, b.D);
            for (int64_t i = 0; i < channels; i += w.together()) {
                const int64_t n = std::min(w.together(), channels - i);
                const T* A = w.last + (f * w.channels_in + first + i) * w.channels_out * VALUES;
                product<true, T>(n * w.channels_out, A, Values(), One(), HIDDEN, g, B<T>, R, B<T>, A + HIDDEN);
                task(terms, i, n, A);
            }
        }
    }

    void mix_block(const Weights<T>& w, const Block<T>& b, const Terms<T>& t, int64_t i, int64_t n) {
        const T* x[4];
        T* y[4];
        for (int j = 0; j < t.count; ++j) {
            x[j] = edges.sent.template column<const T>(b.x, t.edge[j], w.pair.feature, t.from[j]) + i * B<T>;
            y[j] = edges.made.template column<T>(b.y, t.edge[j], w.pair.message, t.to[j]);
        }
        mix<T>(t.count, R, n, w.channels_out, x, y, t.sign);
    }

    void mix_block_gradient(const Weights<T>& w, const Block<T>& b, const Terms<T>& t, int64_t i, int64_t n, T* dbias) {
        const T *x[4], *dy[4];
        T* dx[4];
        for (int j = 0; j < t.count; ++j) {
            x[j] = edges.sent.template column<const T>(b.x, t.edge[j], w.pair.feature, t.from[j]) + i * B<T>;
            dx[j] = edges.sent.template column<T>(b.dx, t.edge[j], w.pair.feature, t.from[j]) + i * B<T>;
            dy[j] = edges.made.template column<const T>(b.dy, t.edge[j], w.pair.message, t.to[j]);
        }
        mix_gradient<T>(t.count, R, n, w.channels_out, x, dx, dy, t.sign, dbias);
    }
};

}  // namespace
