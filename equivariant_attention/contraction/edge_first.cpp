// Messages, edge first, in the frames of the edges, as frame.py has them, and their derivatives, on a CPU.
//
// Rows are taken in blocks of B: every number of a block is a column of B values, one per row, two vector registers wide.
// So whatever the channels and degrees, sums over channels, orders and hidden values add registers up, and no sum runs
// across one. The radial weights R = A g of a block are made a few at a time, where they stay in the innermost cache, used
// at once, and overwritten; so are the hidden values g of the radial networks. The backward pass makes them again.
//
// The derivative of a derivative along a direction is the same pass with a tangent beside every number, W = 2.
//
// cpp.py calls the functions at the end of this file.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "frames.hpp"
#include "radial.hpp"

namespace {

template <class T>
using Networks = std::vector<std::unique_ptr<Radial<T>>>;

template <class T, int W>
class Worker {  // evaluates blocks, one thread's
public:
    std::vector<std::unique_ptr<RadialGradient<T>>> gradients;  // of every network
    Edges<T, W> edges;

    Worker(const Problem& p, const Networks<T>& networks) : edges(p), p(p), networks(networks) {
        int64_t most = 0;
        for (const auto& network : networks) {
            for (const auto& w : network->weights) most = std::max(most, w.together() * w.channels_out);
        }
        R = Array<T>(most * C);
    }

    void forward(int64_t begin, int64_t end) {
        for_blocks(begin, end, edges.sent.width + edges.made.width, [this](std::vector<Block<T>>& blocks) {
            for (auto& block : blocks) {
                edges.load_scalars(block);
                edges.load_frames(block);
                edges.load_sent(block);
                block.y = Array<T>(block.D * edges.made.width * C, 0);
            }
            for (const auto& network : networks) {
                for (auto& block : blocks) {
                    hidden.evaluate(*network, block.scalars);
                    for (const auto& w : network->weights) {
                        for_radial_weights(w, block, [&](const Terms<T>& t, int64_t i, int64_t n, const T*) {
                            mix_block(w, block, t, i, n);
                        });
                    }
                }
            }
            for (auto& block : blocks) edges.store_messages(block);
        });
    }

    // With tangents, those of the messages too.
    void gradient(int64_t begin, int64_t end) {
        for (const auto& network : networks) gradients.push_back(std::make_unique<RadialGradient<T>>(*network));
        edges.own_nodes(begin, end);
        const int64_t width = 2 * edges.sent.width + (1 + makes_messages) * edges.made.width;
        for_blocks(begin, end, width, [&](std::vector<Block<T>>& blocks) {
            for (auto& block : blocks) {
                edges.load_scalars(block);
                edges.load_frames(block);
                edges.load_sent(block);
                edges.load_arriving(block);
                block.dx = Array<T>(block.D * edges.sent.width * C, 0);
                if (p.dscalars) block.dscalars = Array<T>(p.num_scalars * C, 0);
                if (makes_messages) block.y = Array<T>(block.D * edges.made.width * C, 0);
            }
            for (size_t n = 0; n < networks.size(); ++n) {
                for (auto& block : blocks) gradient_of(*networks[n], block, *gradients[n]);
            }
            for (auto& block : blocks) {
                if (W == 2) edges.store_messages(block);
                edges.store_gradients(block);
            }
        });
    }

private:
    static constexpr int64_t C = COLUMN<W, T>;
    const Problem& p;
    const Networks<T>& networks;
    const bool makes_messages = W == 2 || p.dframes;  // while it makes derivatives
    Array<T> R;                                       // radial weights
    Hidden<T, W> hidden;

    // Call task with as many of the blocks begin, ..., end - 1 at a time as there is room for.
    template <class Task>
    void for_blocks(int64_t begin, int64_t end, int64_t width, Task task) {
        const int64_t size = sizeof(T) * C * (2 * (width + edges.frame_offset.back()) + p.num_scalars);
        const int64_t most = std::max(int64_t(1), p.room / size);
        for (int64_t count = (end - begin + most - 1) / most, i = 0; i < count; ++i) {
            std::vector<Block<T>> blocks;
            for (int64_t b = begin + i * (end - begin) / count; b < begin + (i + 1) * (end - begin) / count; ++b) {
                blocks.push_back(edges.block(b));
            }
            task(blocks);
        }
    }

    // Make radial weights, and call task(terms, the first of their channels in, how many channels in, their A).
    template <class Task>
    void for_radial_weights(const Weights<T>& w, const Block<T>& b, Task task) {
        for (int64_t f = 0; f < w.F; ++f) {
            const Terms<T> terms(f, w.k, w.l, b.D);
            for (int64_t i = 0; i < w.channels_in; i += w.together()) {
                const int64_t n = std::min(w.together(), w.channels_in - i);
                const T* A = w.last + (f * w.channels_in + i) * w.channels_out * VALUES;
                const int64_t count = n * w.channels_out;
                linear<W, T>(count, A, w.tangent_of(A), Values(), Hiddens(), hidden.second.output, R);
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

    void mix_block_gradient(const Weights<T>& w, const Block<T>& b, const Terms<T>& t, int64_t i, int64_t n, T* dbias) {
        const T *x[4], *dy[4];
        T* dx[4];
        for (int j = 0; j < t.count; ++j) {
            x[j] = edges.sent.template column<const T>(b.x, t.edge[j], w.pair.feature, t.from[j]) + i * C;
            dx[j] = edges.sent.template column<T>(b.dx, t.edge[j], w.pair.feature, t.from[j]) + i * C;
            dy[j] = edges.made.template column<const T>(b.dy, t.edge[j], w.pair.message, t.to[j]);
        }
        mix_gradient<W, T>(t.count, R, n, w.channels_out, x, dx, dy, t.sign, dbias);
    }

    void gradient_of(const Radial<T>& network, Block<T>& b, RadialGradient<T>& sum) {
        hidden.evaluate(network, b.scalars);
        alignas(64) T rows[C * HIDDEN], d[HIDDEN * C] = {};
        opposite<W>(hidden.second.output, HIDDEN, rows);
        for (size_t i = 0; i < network.weights.size(); ++i) {
            const Weights<T>& w = network.weights[i];
            WeightsGradient<T>& dw = sum.weights[i];
            for_radial_weights(w, b, [&](const Terms<T>& t, int64_t i, int64_t n, const T* A) {
                const int64_t number = (A - w.last) / VALUES, count = n * w.channels_out;
                if (makes_messages) mix_block(w, b, t, i, n);
                mix_block_gradient(w, b, t, i, n, dw.bias + number * LANES<T>);
                linear_gradient<W, T>(count, A, w.tangent_of(A), Values(), Hiddens(), R, d);
                if (p.gradients) add_outer<T, W>(count, R, rows, Hiddens(), dw.last + number * HIDDEN);
            });
        }
        hidden.gradient(network, d, b.scalars, b.dscalars, sum);
    }
};

// ---------------------------------------------------------------- all blocks

template <class T, int W>
struct Run {
    const Problem& p;
    Networks<T> networks;
    std::vector<std::unique_ptr<Worker<T, W>>> workers;  // one per thread, and at least two blocks for each
    int64_t num_blocks;

    explicit Run(const Problem& p) : p(p), networks(p.num_networks), num_blocks(Edges<T>(p).num_blocks()) {
        workers.resize(std::max(int64_t(1), std::min(p.threads.count, num_blocks / 2)));
        in_parallel(p.threads, p.num_networks, [this](int64_t n) {
            const Problem& q = this->p;
            const int64_t first = n * PARAMETERS;
            networks[n] = std::make_unique<Radial<T>>(q, q.networks[n], q.parameters + first,
                                                      q.tangents ? q.tangents + first : nullptr);
        });
    }

    // Call a member of every worker with its share of the blocks.
    void work(void (Worker<T, W>::*member)(int64_t, int64_t)) {
        const int64_t count = workers.size();
        in_parallel(p.threads, count, [=](int64_t i) {
            workers[i] = std::make_unique<Worker<T, W>>(p, networks);
            ((*workers[i]).*member)(i * num_blocks / count, (i + 1) * num_blocks / count);
        });
    }

    void gradient() {
        work(&Worker<T, W>::gradient);
        if (p.gradients) in_parallel(p.threads, p.num_networks, [this](int64_t n) { store(n); });
        in_parallel(p.threads, p.threads.count, [this](int64_t i) {
            for (int64_t node = i * p.num_nodes / p.threads.count; node < (i + 1) * p.num_nodes / p.threads.count; ++node) {
                for (const auto& worker : workers) worker->edges.add_node(node);
            }
        });
    }

    void store(int64_t n) {
        RadialGradient<T>& sum = *workers[0]->gradients[n];
        for (size_t w = 1; w < workers.size(); ++w) sum.add(*workers[w]->gradients[n], *networks[n]);
        sum.store(*networks[n], p.gradients + n * PARAMETERS);
    }
};

template <class T>
int forward(const Problem* p) {
    return checked(*p, [=] { Run<T, 1>(*p).work(&Worker<T, 1>::forward); });
}

template <class T, int W>
int gradient(const Problem* p) {
    return checked(*p, [=] { Run<T, W>(*p).gradient(); });
}

}  // namespace

// Write the messages.
extern "C" int forward_float32(const Problem* p) { return forward<float>(p); }
extern "C" int forward_float64(const Problem* p) { return forward<double>(p); }

// From derivatives by the messages, write those by parameters, scalars, frames and what edges have of their own, and add
// those by features of nodes.
extern "C" int gradient_float32(const Problem* p) { return gradient<float, 1>(p); }
extern "C" int gradient_float64(const Problem* p) { return gradient<double, 1>(p); }

// From the same and tangents of all but these derivatives, write the tangents of the messages, and what gradient writes,
// of its tangents.
extern "C" int second_float32(const Problem* p) { return gradient<float, 2>(p); }
extern "C" int second_float64(const Problem* p) { return gradient<double, 2>(p); }
