// The SO(2) convolution of one pair of degrees: features in the frames of the edges to messages in these frames. The radial
// weights of each edge are computed a few at a time, used at once and overwritten.
//
// As in eSCN (arXiv 2302.03655), order 0 is multiplied by w_0, and orders (+m, -m) by the matrix (a_m, b_m; -b_m, a_m). These
// F coefficients are the F radial weights R_J in another basis; the change of basis is part of A (radial.hpp).

#pragma once

#include <algorithm>
#include <cstdint>

#include "frames.hpp"
#include "passes.hpp"
#include "radial.hpp"

namespace {

template <class T, int W = 1>
class Mixing {  // with the workspace of one thread
public:
    Mixing(const Edges<T, W>& edges, const Networks<T>& networks) : edges(edges) {
        int64_t most = 0;
        for (const auto& network : networks) {
            for (const auto& w : network->weights) most = std::max(most, w.together() * w.channels_out);
        }
        R = Array<T>(most * C);
        dR = Array<T>(most * C);
    }

    // Add the messages of one pair to y. Args: first: the channel in of the weights that belongs to the first channel of x;
    // g: the hidden values.
    void forward(const Weights<T>& w, int64_t first, const T* g, const Block<T>& b) {
        for_radial_weights(w, first, g, b, [&](const Terms<T>& t, int64_t i, int64_t n, const T*) {
            mix_block(w, b, t, i, n);
        });
    }

    // How many derivatives with respect to g a row has: one for each of its edges if those with respect to scalars, which
    // every edge has of its own, are needed; otherwise one, their sum.
    int64_t separate(const Block<T>& b) const { return edges.p.dscalars ? b.D : 1; }

    // First derivatives. Args: rows: the hidden values, transposed by opposite(); dg: derivatives with respect to g are added
    // to it, for each edge of a row in turn where they are separate.
    void gradient(const Weights<T>& w, int64_t first, const T* g, const T* rows, const Block<T>& b, T* dg,
                  WeightsGradient<T>& dw) {
        dw.begin(w);
        for_radial_weights(w, first, g, b, [&](const Terms<T>& t, int64_t i, int64_t n, const T* A) {
            const int64_t number = (A - w.last) / VALUES, count = n * w.channels_out;
            const int64_t parts = separate(b), terms = t.count / parts;
            if (edges.makes_messages()) mix_block(w, b, t, i, n);
            for (int64_t e = 0; e < parts; ++e) {
                T* const into = e + 1 < parts ? dR : R;  // the last overwrites R, which is no longer needed
                mix_block_gradient(w, b, t, e * terms, terms, i, n, into, dw.bias + number * LANES<T>);
                linear_gradient<W, T>(count, A, w.tangent_of(A), Values(), Hiddens(), into, dg + e * HIDDEN * C);
            }
            if (!edges.p.gradients) return;
            if (parts == 2) add_to<T>(R, dR, count * C);
            add_outer<T, W>(count, R, rows, Hiddens(), dw.last + number * HIDDEN);
        });
    }

private:
    static constexpr int64_t C = COLUMN<W, T>;
    const Edges<T, W>& edges;
    Array<T> R, dR;  // radial weights, and derivatives with respect to them

    // Compute some radial weights at a time, and call task(terms, first channel in, number of channels in, their rows of A).
    template <class Task>
    void for_radial_weights(const Weights<T>& w, int64_t first, const T* g, const Block<T>& b, Task task) {
        const int64_t channels = edges.sent.parts[w.pair.feature].channels;
        for (int64_t f = 0; f < w.F; ++f) {
            const Terms<T> terms(f, w.k, w.l, b.D);
            for (int64_t i = 0; i < channels; i += w.together()) {
                const int64_t n = std::min(w.together(), channels - i);
                const T* A = w.last + (f * w.channels_in + first + i) * w.channels_out * VALUES;
                linear<W, T>(n * w.channels_out, A, w.tangent_of(A), Values(), Hiddens(), g, R);
                task(terms, i, n, A);
            }
        }
    }

    void mix_block(const Weights<T>& w, const Block<T>& b, const Terms<T>& t, int64_t i, int64_t n) {
        const T* x[4];
        T* y[4];
        for (int j = 0; j < t.count; ++j) {
            x[j] = edges.sent.template column<const T>(b.x, t.edge[j], w.pair.feature, t.from[j]) + i * C;
            y[j] = edges.made.template column<T>(b.y, t.edge[j], w.pair.message, t.to[j]);
        }
        mix<W, T>(t.count, R, n, w.channels_out, x, y, t.sign);
    }

    // The derivatives of mix_block, for count terms from the begin-th on.
    void mix_block_gradient(const Weights<T>& w, const Block<T>& b, const Terms<T>& t, int64_t begin, int64_t count,
                            int64_t i, int64_t n, T* into, T* dbias) {
        const T *x[4], *dy[4];
        T* dx[4];
        for (int64_t j = 0; j < count; ++j) {
            const int64_t edge = t.edge[begin + j], from = t.from[begin + j], to = t.to[begin + j];
            x[j] = edges.sent.template column<const T>(b.x, edge, w.pair.feature, from) + i * C;
            dx[j] = edges.sent.template column<T>(b.dx, edge, w.pair.feature, from) + i * C;
            dy[j] = edges.made.template column<const T>(b.dy, edge, w.pair.message, to);
        }
        mix_gradient<W, T>(count, R, n, w.channels_out, x, dx, dy, t.sign + begin, into, dbias);
    }
};

}  // namespace
