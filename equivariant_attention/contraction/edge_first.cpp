// Backend 'cpp': messages and their first and second derivatives, edge first, as SO(2) convolutions (as in frame.py).
//
// In its frame every edge is the polar axis, and a kernel connects order m with +m and -m alone: the SO(2) convolutions of
// eSCN (Passaro and Zitnick, arXiv 2302.03655). Their coefficients are computed from the radial weights of equation (8) of
// arXiv 2006.10503 (mixing.hpp).
//
// Rows (frames.hpp) are taken in blocks of B, and every quantity of a block is a column of B values (columns.hpp). The radial
// weights R = A g of a block are computed a few at a time, used at once while they are in the L1 cache, and overwritten; so
// are the hidden values g of the radial networks. The backward pass computes them again.
//
// Second derivatives are the pass of first derivatives on dual numbers, W = 2 (duals.hpp).
//
// cpp.py calls the functions at the end of this file.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "frames.hpp"
#include "mixing.hpp"
#include "passes.hpp"
#include "radial.hpp"

namespace {

template <class T>
class PlannedBlocks {  // blocks of rows, in the order of the plan: first those of pairs of edges that share radial weights
public:
    explicit PlannedBlocks(const Problem& p) : p(p) {}

    int64_t count() const { return blocks_of(p.num_shared / 2) + blocks_of(p.num_edges - p.num_shared); }

    Block<T> operator[](int64_t number) const {
        const int64_t shared = blocks_of(p.num_shared / 2);
        Block<T> b;
        b.D = number < shared ? 2 : 1;
        const int64_t row = (number < shared ? number : number - shared) * B<T>;
        const int64_t rows = number < shared ? p.num_shared / 2 : p.num_edges - p.num_shared;
        b.first = (number < shared ? 0 : p.num_shared) + b.D * row;
        for (int v = 0; v < 2; ++v) b.rows[v] = std::clamp(rows - row - v * LANES<T>, int64_t(0), LANES<T>);
        return b;
    }

private:
    const Problem& p;

    static int64_t blocks_of(int64_t rows) { return (rows + B<T> - 1) / B<T>; }
};

template <class T, int W>
class EdgeFirst {  // the Worker of passes.hpp: evaluates blocks, in one thread
public:
    using Blocks = PlannedBlocks<T>;
    Edges<T, W> edges;

    EdgeFirst(const Problem& p, const Networks<T>& networks, const Blocks& all)
        : edges(p, p.features), p(p), networks(networks), all(all), mixing(edges, networks) {}

    void forward(int64_t begin, int64_t end) {
        for_blocks(begin, end, edges.sent.width + edges.made.width, [this](std::vector<Block<T>>& blocks) {
            for (auto& block : blocks) edges.load_for_messages(block);
            for (const auto& network : networks) {
                for (auto& block : blocks) {
                    hidden.evaluate(*network, block.scalars);
                    for (const auto& w : network->weights) mixing.forward(w, 0, hidden.second.output, block);
                }
            }
            for (auto& block : blocks) edges.store_messages(block);
        });
    }

    // First derivatives; for W = 2 their tangents, and those of the messages.
    void gradient(int64_t begin, int64_t end) {
        for (const auto& network : networks) gradients.push_back(std::make_unique<RadialGradient<T>>(*network));
        own_nodes(begin, end);
        const int64_t width = 2 * edges.sent.width + (1 + edges.makes_messages()) * edges.made.width;
        for_blocks(begin, end, width, [&](std::vector<Block<T>>& blocks) {
            for (auto& block : blocks) edges.load_for_gradient(block);
            for (size_t n = 0; n < networks.size(); ++n) {
                for (auto& block : blocks) gradient_of(*networks[n], block, *gradients[n]);
            }
            for (auto& block : blocks) {
                if (W == 2) edges.store_messages(block);
                edges.store_gradients(block);
            }
        });
    }

    std::unique_ptr<RadialGradient<T>> take_gradient(int64_t n) { return std::move(gradients[n]); }

private:
    static constexpr int64_t C = COLUMN<W, T>;
    const Problem& p;
    const Networks<T>& networks;
    const Blocks& all;
    std::vector<std::unique_ptr<RadialGradient<T>>> gradients;  // with respect to the parameters of each network
    Mixing<T, W> mixing;
    Hidden<T, W> hidden;

    // Call task with groups of the blocks begin, ..., end - 1. A group reads all weights once, so groups are large, up to
    // block_bytes; but three times the size of the weights is enough, and leaves more of the cache to everything else.
    template <class Task>
    void for_blocks(int64_t begin, int64_t end, int64_t width, Task task) {
        const int64_t size = sizeof(T) * C * (2 * (width + edges.frame_offset.back()) + p.num_scalars);
        int64_t weights = 0;
        for (const auto& network : networks) weights += sizeof(T) * VALUES * (network->rows + HIDDEN);
        in_groups(begin, end, std::max(int64_t(1), std::min(p.block_bytes, 3 * weights) / size), [&](int64_t first, int64_t last) {
            std::vector<Block<T>> blocks;
            for (int64_t b = first; b < last; ++b) blocks.push_back(all[b]);
            task(blocks);
        });
    }

    // Make room for derivatives with respect to the nodes that the edges of these blocks start from.
    void own_nodes(int64_t begin, int64_t end) {
        int64_t first = p.num_nodes, last = 0;
        for (int64_t i = begin; i < end; ++i) {
            const Block<T> b = all[i];
            for (int64_t e = b.first; e < b.first + b.D * (b.rows[0] + b.rows[1]); ++e) {
                first = std::min(first, p.src[p.order[e]]);
                last = std::max(last, p.src[p.order[e]] + 1);
            }
        }
        edges.nodes.own(first, last);
    }

    void gradient_of(const Radial<T>& network, Block<T>& b, RadialGradient<T>& sum) {
        hidden.evaluate(network, b.scalars);
        alignas(64) T rows[C * HIDDEN], d[2 * HIDDEN * C];
        std::fill_n(d, mixing.separate(b) * HIDDEN * C, T(0));
        opposite<W>(hidden.second.output, HIDDEN, rows);
        for (size_t i = 0; i < network.weights.size(); ++i) {
            mixing.gradient(network.weights[i], 0, hidden.second.output, rows, b, d, sum.weights[i]);
        }
        for (int64_t e = 0; e < mixing.separate(b); ++e) {
            T* const dscalars = p.dscalars ? b.dscalars + e * p.num_scalars * C : nullptr;
            hidden.gradient(network, d + e * HIDDEN * C, b.scalars, dscalars, sum);
        }
    }
};

}  // namespace

// Write the messages.
extern "C" int forward_float32(const Problem* p) { return forward<EdgeFirst<float, 1>, float>(p); }
extern "C" int forward_float64(const Problem* p) { return forward<EdgeFirst<double, 1>, double>(p); }

// From derivatives with respect to the messages, write those with respect to parameters, scalars, frames and features of
// edges, and add those with respect to features of nodes.
extern "C" int gradient_float32(const Problem* p) { return gradient<EdgeFirst<float, 1>, float>(p); }
extern "C" int gradient_float64(const Problem* p) { return gradient<EdgeFirst<double, 1>, double>(p); }

// From the same, and tangents of all tensors that messages are made from, write the tangents of the messages and of
// everything that gradient writes.
extern "C" int second_float32(const Problem* p) { return gradient<EdgeFirst<float, 2>, float>(p); }
extern "C" int second_float64(const Problem* p) { return gradient<EdgeFirst<double, 2>, double>(p); }
