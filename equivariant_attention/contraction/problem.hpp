// The arguments of the functions that compute messages. The ctypes structures of cpp.py have the same fields.

#pragma once

#include <algorithm>
#include <cstdint>

#include "../native/threads.hpp"

namespace {

constexpr int NO_SUCH_NODE = 2, NO_SUCH_EDGE = 3;  // returned statuses; calls.py raises the errors that they stand for

// A feature or a message of one degree. A feature has the channels of the source node, [nodes, of_node, 2 degree + 1]; those
// of the edge itself, [edges, of_edge, 2 degree + 1], are added to it from channel first on. A message is [edges, of_edge,
// 2 degree + 1]. Names: dx are derivatives of a loss with respect to x, tx is the tangent of x.
struct Part {
    int64_t degree, channels, of_node, of_edge, first;
    const void* node;
    void *edge, *dnode, *dedge;  // derivatives are null where not needed; those with respect to messages are an input
    const void *tnode, *tedge;   // tangents of features, null where zero
};

struct Network {  // rows of its last layer, and how many those of the networks before have; its pairs
    int64_t rows, first_row, first_pair, num_pairs;
};

// A feature and a message, with radial weights R[o, i, J] = output[first + o * step_out + i * step_in + J].
struct Pair {
    int64_t feature, message, first, step_out, step_in;
    const void* coupling;  // [F, F], the change of basis from coefficients J to those of the orders: w_0, a_1, b_1, a_2, ...
};

struct Problem {
    int64_t num_nodes, num_edges, num_shared, num_scalars, num_features, num_messages, num_networks, max_degree;
    int64_t block_bytes;  // how much memory the blocks that a thread evaluates together may take
    const Part *features, *messages;
    const Network* networks;
    const Pair* pairs;                // network by network
    const void* const* parameters;    // of all networks; Parameters (radial.hpp) says where those of one network are
    void* const* gradients;           // derivatives with respect to the parameters; null where not needed
    const void* const* frames;        // by degree, Wigner-D matrices [edges, 2l+1, 2l+1] in the order of the plan, or null
    void* const* dframes;
    const int64_t *src, *order;       // source node of each edge; edges in the order of the plan: first pairs that share
    const void* scalars;
    void* dscalars;
    const void *const *tangents, *const *tframes, *tscalars;  // of parameters, frames and scalars, null where zero
    Threads threads;

    const void* frame(int64_t degree) const { return frames ? frames[degree] : nullptr; }
    const void* tframe(int64_t degree) const { return tframes ? tframes[degree] : nullptr; }
};

inline bool all_below(int64_t end, const int64_t* numbers, int64_t count) {
    return std::all_of(numbers, numbers + count, [=](int64_t i) { return 0 <= i && i < end; });
}

// Run a task, if the indices of all nodes and edges are in range.
template <class Task>
int checked(const Problem& p, Task task) {
    if (!all_below(p.num_nodes, p.src, p.num_edges)) return NO_SUCH_NODE;
    if (!all_below(p.num_edges, p.order, p.num_edges)) return NO_SUCH_EDGE;
    return status_of(task);
}

}  // namespace
