// Backend 'cpp-node': messages and their first derivatives, node first, as SO(2) convolutions in the frames of the edges.
//
// Sums over channels in are done once per source node, for all of its outgoing edges. For a coefficient f of a pair of
// degrees (Terms in frames.hpp), with channels in i, orders q of degree k, channels out o and hidden values h,
//
//     P[q, o, h] = sum_i A[f, i, o, h] x[i, q]            for a source node
//     T[q, o]    = sum_h P[q, o, h] g[h]                  for an edge
//     y[to, o]  += sign sum_q D^k[from, q] T[q, o]        for an edge, in its frame D^k
//
// So no edge has radial weights, except for features of the edge itself (x_ij), which are mixed edge first. Edges are taken
// in blocks of B, and all edges in one register of a block have the same source node. Several nodes are evaluated together:
// A is read once for all of them, and their P stays in cache until it is used. The backward pass computes P again.
//
// cpp.py calls the functions at the end of this file.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <vector>

#include "frames.hpp"
#include "mixing.hpp"
#include "passes.hpp"
#include "radial.hpp"

namespace {

constexpr int64_t TOGETHER = 32;  // blocks in a group, at most: their hidden values stay in the L2 cache

// ---------------------------------------------------------------- blocks of edges

template <class T>
class OutEdges {  // blocks of edges, sorted by source node: all edges in one register have the same one
public:
    std::vector<Part> own;  // the features without the channels of nodes: those of the edges themselves

    explicit OutEdges(const Problem& p) : own(p.features, p.features + p.num_features) {
        for (Part& part : own) part.channels = part.of_edge, part.of_node = part.first = 0, part.node = part.dnode = nullptr;
        std::vector<int64_t> end(p.num_nodes + 1), sorted(p.num_edges);  // a counting sort by source node
        for (int64_t e = 0; e < p.num_edges; ++e) ++end[p.src[e] + 1];
        std::partial_sum(end.begin(), end.end(), end.begin());
        for (int64_t i = 0; i < p.num_edges; ++i) sorted[end[p.src[p.order[i]]]++] = i;
        for (int64_t node = 0, first = 0; node < p.num_nodes; ++node) {
            for (; first < end[node]; first += LANES<T>) add(node, sorted.data() + first, end[node] - first);
            first = end[node];
        }
        if (registers.size() % 2) registers.push_back({registers.back().node, 0});
        places.resize(registers.size() * LANES<T>, places.empty() ? 0 : places.back());
    }

    int64_t count() const { return registers.size() / 2; }
    int64_t node(int64_t block, int v) const { return registers[2 * block + v].node; }

    Block<T> operator[](int64_t number) const {
        Block<T> b;
        b.first = number * B<T>, b.D = 1, b.places = places.data();
        for (int v = 0; v < 2; ++v) b.rows[v] = registers[2 * number + v].rows;
        return b;
    }

private:
    struct Register {
        int64_t node, rows;
    };
    std::vector<Register> registers;
    std::vector<int64_t> places;  // for each row, a position in the order of the plan; padding repeats the last one

    void add(int64_t node, const int64_t* edges, int64_t count) {
        registers.push_back({node, std::min(LANES<T>, count)});
        for (int64_t r = 0; r < LANES<T>; ++r) places.push_back(edges[std::min(r, count - 1)]);
    }
};

// ---------------------------------------------------------------- from T to messages in the frame

// y[to] += sign sum_q D[from, q] values[q], for each channel; D is null for degree 0.
template <class T>
void steer(const Terms<T>& t, const T* D, int64_t orders, int64_t channels, const T* values, T* y) {
    for (int j = 0; j < t.count; ++j) {
        for (int64_t o = 0; o < channels; ++o) {
            for (int v = 0; v < 2; ++v) {
                const T* value = values + o * B<T> + v * LANES<T>;
                Vector<T> sum = {};
                for (int64_t q = 0; q < orders && D; ++q) {
                    sum += at(D + (t.from[j] * orders + q) * B<T> + v * LANES<T>).v * at(value + q * channels * B<T>).v;
                }
                at(y + (t.to[j] * channels + o) * B<T> + v * LANES<T>).v += D ? t.sign[j] * sum : at(value).v;
            }
        }
    }
}

// The derivatives of steer with respect to the values.
template <class T>
void steer_gradient(const Terms<T>& t, const T* D, int64_t orders, int64_t channels, const T* dy, T* dvalues) {
    for (int64_t q = 0; q < orders; ++q) {
        for (int64_t o = 0; o < channels; ++o) {
            for (int v = 0; v < 2; ++v) {
                Vector<T> sum = {};
                for (int j = 0; j < t.count; ++j) {
                    const Vector<T> d = at(dy + (t.to[j] * channels + o) * B<T> + v * LANES<T>).v;
                    sum += D ? t.sign[j] * at(D + (t.from[j] * orders + q) * B<T> + v * LANES<T>).v * d : d;
                }
                at(dvalues + (q * channels + o) * B<T> + v * LANES<T>).v = sum;
            }
        }
    }
}

// The derivatives of steer with respect to the frame.
template <class T>
void steer_gradient_of_frame(const Terms<T>& t, int64_t orders, int64_t channels, const T* values, const T* dy, T* dD) {
    for (int j = 0; j < t.count; ++j) {
        for (int64_t q = 0; q < orders; ++q) {
            for (int v = 0; v < 2; ++v) {
                Vector<T> sum = {};
                for (int64_t o = 0; o < channels; ++o) {
                    sum += at(values + (q * channels + o) * B<T> + v * LANES<T>).v *
                           at(dy + (t.to[j] * channels + o) * B<T> + v * LANES<T>).v;
                }
                at(dD + (t.from[j] * orders + q) * B<T> + v * LANES<T>).v += t.sign[j] * sum;
            }
        }
    }
}

// ---------------------------------------------------------------- what nodes send

// One feature of some nodes, and the derivatives with respect to it.
template <class T>
struct Sent {
    int64_t channels, orders, rows;  // a row is an order of a node
    Array<T> x;                      // [rows, channels + 1]; the last column is zero, the bias of a product
    Array<T> dx;                     // [rows, padded channels]

    Sent(const Part& part, const std::vector<int64_t>& nodes)
        : channels(part.of_node),
          orders(2 * part.degree + 1),
          rows(nodes.size() * orders),
          x(rows * (channels + 1), 0) {
        for (size_t i = 0; i < nodes.size(); ++i) {
            const T* from = static_cast<const T*>(part.node) + nodes[i] * channels * orders;
            for (int64_t q = 0; q < orders && channels; ++q) {
                for (int64_t c = 0; c < channels; ++c) x[(i * orders + q) * (channels + 1) + c] = from[c * orders + q];
            }
        }
        if (part.dnode) dx = Array<T>(rows * padded<T>(channels), 0);
    }

    // Add the derivatives with respect to one node to an array [channels, orders].
    void add_gradient(int64_t node, T* to) const {
        for (int64_t q = 0; q < orders; ++q) {
            const T* from = dx + (node * orders + q) * padded<T>(channels);
            for (int64_t c = 0; c < channels; ++c) to[c * orders + q] += from[c];
        }
    }
};

template <class T>
struct Coefficient {  // a coefficient f of one pair: computes P, and derivatives with respect to its factors
    const Sent<T>& sent;
    const T* A;     // [channels in, width]
    int64_t width;  // channels out x 33

    Coefficient(const Sent<T>& sent, const Weights<T>& w, int64_t f)
        : sent(sent), A(w.last + f * w.channels_in * w.channels_out * VALUES), width(w.channels_out * VALUES) {}

    int64_t size() const { return sent.orders * width; }  // of P for one node

    void make(T* P) const {
        static_assert(VALUES >= B<T>, "a row has at least one block of columns");
        for (int64_t c = 0; c < width; c += B<T>) {
            const int64_t first = std::min(c, width - B<T>);  // the last block overlaps the one before
            product<true, T>(sent.rows, sent.x, sent.channels + 1, One(), sent.channels, A + first, width, P + first,
                             width, sent.x + sent.channels);
        }
    }

    // Add the derivatives with respect to A to dA, [channels in, padded width]. Reads up to a block beyond the end of dP.
    void add_gradient_by_weights(const T* dP, T* dA) const {
        const int64_t row = padded<T>(width);
        for (int64_t c = 0; c < width; c += B<T>) {
            product<false, T>(sent.channels, sent.x, One(), sent.channels + 1, sent.rows, dP + c, width, dA + c, row);
        }
    }

    // Add the derivatives with respect to features to sent.dx. Args: transposed: A as [width, padded channels in].
    void add_gradient_by_features(const T* dP, const T* transposed) const {
        const int64_t row = padded<T>(sent.channels);
        for (int64_t c = 0; c < row; c += B<T>) {
            product<false, T>(sent.rows, dP, width, One(), width, transposed + c, row, sent.dx + c, row);
        }
    }
};

// ---------------------------------------------------------------- weights that act on features of nodes

template <class T>
struct NodeWeights {  // of one pair, for its channels of nodes
    Array<T> transposed;  // A, [F, width, padded channels in]
    Array<T> gradient;    // derivatives with respect to A, [F, channels in, padded width]
    int64_t channels;

    NodeWeights(const Problem& p, const Weights<T>& w) : channels(p.features[w.pair.feature].of_node) {
        const int64_t width = w.channels_out * VALUES, row = padded<T>(channels);
        if (p.gradients) gradient = Array<T>(w.F * channels * padded<T>(width), 0);
        if (!p.features[w.pair.feature].dnode) return;
        transposed = Array<T>(w.F * width * row, 0);
        for (int64_t f = 0; f < w.F; ++f) {
            for (int64_t i = 0; i < channels; ++i) {
                const T* from = w.last + (f * w.channels_in + i) * width;
                T* to = transposed + f * width * row + i;
                for (int64_t n = 0; n < width; ++n) to[n * row] = from[n];
            }
        }
    }

    void add_gradient(const Weights<T>& w, WeightsGradient<T>& sum) const {
        sum.begin(w);
        const int64_t row = padded<T>(w.channels_out * VALUES);
        for (int64_t f = 0; f < w.F; ++f) {
            for (int64_t i = 0; i < channels; ++i) {
                const T* from = gradient + (f * channels + i) * row;
                int64_t number = (f * w.channels_in + i) * w.channels_out;
                for (int64_t o = 0; o < w.channels_out; ++o, ++number, from += VALUES) {
                    add_to<T>(sum.last + number * HIDDEN, from, HIDDEN);
                    sum.bias[number * LANES<T>] += from[HIDDEN];
                }
            }
        }
    }
};

// ---------------------------------------------------------------- groups of blocks

template <class T>
struct Group {  // blocks that are evaluated together, and the source nodes of their edges
    std::vector<Block<T>> blocks;
    std::vector<int64_t> nodes, senders;  // senders: for both registers of each block, an index into nodes
    std::vector<Sent<T>> sent;            // each feature of these nodes

    Group(const Problem& p, const OutEdges<T>& all, int64_t first, int64_t last) {
        for (int64_t b = first; b < last; ++b) {
            for (int v = 0; v < 2; ++v) {
                if (nodes.empty() || nodes.back() != all.node(b, v)) nodes.push_back(all.node(b, v));
                senders.push_back(nodes.size() - 1);
            }
            blocks.push_back(all[b]);
        }
        for (int64_t i = 0; i < p.num_features; ++i) sent.emplace_back(p.features[i], nodes);
    }
};

template <class T>
struct OnBlock {  // a radial network on one block
    Hidden<T> hidden;
    alignas(64) T rows[B<T> * HIDDEN], d[HIDDEN * B<T>];  // hidden values, transposed; derivatives with respect to them

    const T* values() const { return hidden.second.output; }
};

template <class T>
class NodeFirst {  // the Worker of passes.hpp: evaluates groups of blocks, in one thread
public:
    using Blocks = OutEdges<T>;
    Edges<T> edges;

    NodeFirst(const Problem& p, const Networks<T>& networks, const Blocks& all)
        : edges(p, all.own.data()), p(p), networks(networks), all(all), mixing(edges, networks) {
        for (const auto& network : networks) {
            for (const auto& w : network->weights) largest = std::max(largest, numbers(w));
        }
        values = Array<T>(largest * B<T>), dvalues = Array<T>(largest * B<T>);
    }

    void forward(int64_t begin, int64_t end) {
        for_groups(begin, end, edges.sent.width + edges.made.width, [this](Group<T>& group) {
            for (auto& block : group.blocks) edges.load_for_messages(block);
            for (const auto& network : networks) {
                evaluate(*network, group);
                for (const auto& w : network->weights) forward_of(w, group);
            }
            for (auto& block : group.blocks) edges.store_messages(block);
        });
    }

    void gradient(int64_t begin, int64_t end) {
        for (const auto& network : networks) {
            gradients.push_back(std::make_unique<RadialGradient<T>>(*network));
            on_nodes.emplace_back();
            for (const auto& w : network->weights) on_nodes.back().emplace_back(p, w);
        }
        if (begin < end) edges.nodes.own(all.node(begin, 0), all.node(end - 1, 1) + 1);
        const int64_t width = 2 * edges.sent.width + (p.dframes ? 2 : 1) * edges.made.width;
        for_groups(begin, end, width, [&](Group<T>& group) {
            for (auto& block : group.blocks) edges.load_for_gradient(block);
            for (size_t n = 0; n < networks.size(); ++n) gradient_of(n, group);
            for (auto& block : group.blocks) edges.store_gradients(block);
            for (int64_t i = 0; i < p.num_features; ++i) {
                for (size_t node = 0; node < group.nodes.size() && p.features[i].dnode; ++node) {
                    group.sent[i].add_gradient(node, edges.nodes.of(group.nodes[node], i));
                }
            }
        });
    }

    // Hand over the derivatives with respect to the parameters of a network.
    std::unique_ptr<RadialGradient<T>> take_gradient(int64_t n) {
        for (size_t i = 0; i < on_nodes[n].size(); ++i) {
            on_nodes[n][i].add_gradient(networks[n]->weights[i], gradients[n]->weights[i]);
        }
        on_nodes[n].clear();
        return std::move(gradients[n]);
    }

private:
    const Problem& p;
    const Networks<T>& networks;
    const Blocks& all;
    Mixing<T> mixing;
    int64_t largest = 0;             // elements of T for the largest pair
    Array<T> values, dvalues;        // T of one block, and derivatives with respect to it
    Array<T> P, dP;                  // for all nodes of a group
    std::vector<OnBlock<T>> radial;  // for all blocks of a group
    std::vector<std::unique_ptr<RadialGradient<T>>> gradients;  // with respect to the parameters of each network
    std::vector<std::vector<NodeWeights<T>>> on_nodes;          // for each network, those of its pairs

    // Call task with groups of the blocks begin, ..., end - 1, each as large as block_bytes and TOGETHER allow.
    template <class Task>
    void for_groups(int64_t begin, int64_t end, int64_t width, Task task) {
        const int64_t columns = width + 2 * edges.frame_offset.back() + 2 * p.num_scalars;
        const int64_t size = sizeof(T) * (B<T> * columns + 4 * largest * VALUES) + sizeof(OnBlock<T>);
        const int64_t most = std::clamp(p.block_bytes / size, int64_t(1), TOGETHER);
        radial = std::vector<OnBlock<T>>(std::min(most, end - begin));
        const int64_t numbers = 2 * radial.size() * largest * VALUES;
        P = Array<T>(numbers), dP = Array<T>(numbers + B<T>, 0);
        in_groups(begin, end, most, [&](int64_t first, int64_t last) {
            Group<T> group(p, all, first, last);
            task(group);
        });
    }

    void evaluate(const Radial<T>& network, const Group<T>& group) {
        for (size_t b = 0; b < group.blocks.size(); ++b) radial[b].hidden.evaluate(network, group.blocks[b].scalars);
    }

    // For one pair: the frames and the messages of a block, and the number of elements of T.
    T* frame(T* frames, const Weights<T>& w) const { return w.k ? edges.frame(frames, w.k, 0) : nullptr; }
    T* message(T* y, const Weights<T>& w) const { return edges.made.template column<T>(y, 0, w.pair.message, 0); }
    static int64_t numbers(const Weights<T>& w) { return (2 * w.k + 1) * w.channels_out; }

    // Call task(where P of the node begins, first row, number of rows, number of registers) for each register of a block, or
    // once for both if they have the same node.
    template <class Task>
    static void for_nodes(const Group<T>& group, size_t b, int64_t size, Task task) {
        const int64_t *sender = &group.senders[2 * b], *rows = group.blocks[b].rows;
        if (sender[0] == sender[1] && rows[0] == LANES<T>) {
            task(sender[0] * size, 0, rows[0] + rows[1], std::integral_constant<int, 2>());
        } else {
            for (int v = 0; v < 2; ++v) task(sender[v] * size, v * LANES<T>, rows[v], std::integral_constant<int, 1>());
        }
    }

    // T = sum_h P g, for a block.
    void contract(const Weights<T>& w, const Group<T>& group, size_t b) {
        for_nodes(group, b, numbers(w) * VALUES, [&](int64_t place, int64_t column, int64_t, auto registers) {
            const T *of_node = P + place, *g = radial[b].values() + column;
            product<true, T, registers>(numbers(w), of_node, Values(), One(), HIDDEN, g, B<T>, values + column, B<T>,
                                        of_node + HIDDEN);
        });
    }

    void forward_of(const Weights<T>& w, Group<T>& group) {
        const Part& part = p.features[w.pair.feature];
        for (size_t b = 0; b < group.blocks.size() && part.of_edge; ++b) {
            mixing.forward(w, part.first, radial[b].values(), group.blocks[b]);
        }
        for (int64_t f = 0; f < w.F && part.of_node; ++f) {
            const Coefficient<T> c(group.sent[w.pair.feature], w, f);
            const Terms<T> terms(f, w.k, w.l, 1);
            c.make(P);
            for (size_t b = 0; b < group.blocks.size(); ++b) {
                const Block<T>& block = group.blocks[b];
                contract(w, group, b);
                steer<T>(terms, frame(block.frames, w), 2 * w.k + 1, w.channels_out, values, message(block.y, w));
            }
        }
    }

    void gradient_of(size_t n, Group<T>& group) {
        const Radial<T>& network = *networks[n];
        evaluate(network, group);
        for (size_t b = 0; b < group.blocks.size(); ++b) {
            transpose(radial[b].values(), HIDDEN, radial[b].rows, HIDDEN);
            std::fill_n(radial[b].d, HIDDEN * B<T>, T(0));
        }
        for (size_t i = 0; i < network.weights.size(); ++i) {
            gradient_of(network.weights[i], group, on_nodes[n][i], gradients[n]->weights[i]);
        }
        for (size_t b = 0; b < group.blocks.size(); ++b) {
            Block<T>& block = group.blocks[b];
            radial[b].hidden.gradient(network, radial[b].d, block.scalars, block.dscalars, *gradients[n]);
        }
    }

    void gradient_of(const Weights<T>& w, Group<T>& group, NodeWeights<T>& on_nodes, WeightsGradient<T>& sum) {
        const Part& part = p.features[w.pair.feature];
        for (size_t b = 0; b < group.blocks.size() && part.of_edge; ++b) {
            mixing.gradient(w, part.first, radial[b].values(), radial[b].rows, group.blocks[b], radial[b].d, sum);
        }
        for (int64_t f = 0; f < w.F && part.of_node; ++f) {
            const Coefficient<T> c(group.sent[w.pair.feature], w, f);
            const Terms<T> terms(f, w.k, w.l, 1);
            c.make(P);
            std::fill_n(static_cast<T*>(dP), group.nodes.size() * c.size(), T(0));
            for (size_t b = 0; b < group.blocks.size(); ++b) gradient_of_block(w, terms, group, b);
            const int64_t width = padded<T>(c.width), row = padded<T>(part.of_node);
            if (p.gradients) c.add_gradient_by_weights(dP, on_nodes.gradient + f * part.of_node * width);
            if (part.dnode) c.add_gradient_by_features(dP, on_nodes.transposed + f * c.width * row);
        }
    }

    void gradient_of_block(const Weights<T>& w, const Terms<T>& terms, Group<T>& group, size_t b) {
        const Block<T>& block = group.blocks[b];
        const int64_t orders = 2 * w.k + 1;
        const T *D = frame(block.frames, w), *dy = message(block.dy, w);
        if (p.dframes) {
            contract(w, group, b);
            steer<T>(terms, D, orders, w.channels_out, values, message(block.y, w));
            if (D) steer_gradient_of_frame<T>(terms, orders, w.channels_out, values, dy, frame(block.dframes, w));
        }
        steer_gradient<T>(terms, D, orders, w.channels_out, dy, dvalues);
        for_nodes(group, b, numbers(w) * VALUES, [&](int64_t place, int64_t column, int64_t rows, auto registers) {
            const T *of_node = P + place, *d = dvalues + column, *g = radial[b].rows + column * HIDDEN;
            T *by_node = dP + place, *by_values = radial[b].d + column;
            product<false, T, registers>(HIDDEN, of_node, One(), Values(), numbers(w), d, B<T>, by_values, B<T>);
            for (int64_t h = 0; h < HIDDEN; h += B<T>) {
                const auto row = std::integral_constant<int64_t, B<T>>();
                product<false, T>(numbers(w), d, row, One(), rows, g + h, HIDDEN, by_node + h, VALUES);
            }
            for (int64_t n = 0; n < numbers(w); ++n, d += B<T>, by_node += VALUES) {
                by_node[HIDDEN] += std::accumulate(d, d + registers * LANES<T>, T(0));
            }
        });
    }
};

}  // namespace

// Write the messages.
extern "C" int forward_float32(const Problem* p) { return forward<NodeFirst<float>, float>(p); }
extern "C" int forward_float64(const Problem* p) { return forward<NodeFirst<double>, double>(p); }

// From derivatives with respect to the messages, write those with respect to parameters, scalars, frames and features of
// edges, and add those with respect to features of nodes.
extern "C" int gradient_float32(const Problem* p) { return gradient<NodeFirst<float>, float>(p); }
extern "C" int gradient_float64(const Problem* p) { return gradient<NodeFirst<double>, double>(p); }
