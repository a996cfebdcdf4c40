// What cpp.py passes to the functions that make messages: the structures here and there have the same fields.

#pragma once

#include <algorithm>
#include <cstdint>

#include "../native/threads.hpp"

namespace {

constexpr int NO_SUCH_NODE = 2, NO_SUCH_EDGE = 3;  // what a function returns; calls.py makes errors of them

// A feature or a message of one degree. A feature has channels of the source node, [nodes, of_node, 2 degree + 1], to
// which those of the edge, [edges, of_edge, 2 degree + 1], are added from channel first on. A message is [edges, of_edge,
// 2 degree + 1].
struct Part {
    int64_t degree, channels, of_node, of_edge, first;
    const void* node;
    void *edge, *dnode, *dedge;  // derivatives, null where they are not needed; those of messages are an input
    const void *tnode, *tedge;   // tangents of features, null where zero
};

struct Network {  // parameters: of both hidden layers weight, bias, scale, shift; of the last weight and bias; some may be null
    int64_t rows;
    int64_t first_pair, num_pairs;
};

// Takes a feature to a message, with radial weights R[o, i, J] = output[first + o * step_out + i * step_in + J].
struct Pair {
    int64_t feature, message, first, step_out, step_in;
    const void* coupling;  // [F, F], from the coefficients J to the orders w_0, a_1, b_1, a_2, ...
};

struct Problem {
    int64_t num_nodes, num_edges, num_shared, num_scalars, num_features, num_messages, num_networks, max_degree;
    int64_t block_bytes;  // bytes for the blocks that a thread evaluates together
    const Part *features, *messages;
    const Network* networks;
    const Pair* pairs;                // network by network
    const void* const* parameters;    // network by network
    void* const* gradients;
    const void* const* frames;        // by degree, [edges, 2l+1, 2l+1] in the order of the plan; null where there is none
    void* const* dframes;
    const int64_t *src, *order;       // source node of every edge; the edges in the order of the plan, those that share first
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

// Run a task, if the numbers of all nodes and edges are in range.
template <class Task>
int checked(const Problem& p, Task task) {
    if (!all_below(p.num_nodes, p.src, p.num_edges)) return NO_SUCH_NODE;
    if (!all_below(p.num_edges, p.order, p.num_edges)) return NO_SUCH_EDGE;
    return status_of(task);
}

}  // namespace
