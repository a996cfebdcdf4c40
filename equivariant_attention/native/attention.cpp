// Multi-head attention over the incoming edges of each node, and its first and second derivatives. modules/attention.py has
// the equation. attention.py calls the functions at the end of this file.
//
// Names: da is the derivative of a loss with respect to a, ta the tangent of a (its derivative along a given direction).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "columns.hpp"
#include "threads.hpp"

namespace {

constexpr int NO_SUCH_NODE = 2;  // the status for which calls.py raises an IndexError

struct Part {  // one degree of values, keys (a row is an edge) or queries (a row is a node): [rows, heads, size]
    int64_t size;         // elements of one head: channels of the head x orders
    const void* values;
    void* gradient;       // where derivatives are written, null where they are not needed
    const void* tangent;  // null where zero
};

struct Attention {
    int64_t num_nodes, num_edges, heads, num_values, num_keys;
    double scale;            // what the inner products of queries and keys are multiplied by
    const int64_t* dst;      // destination node of each edge
    const Part *values, *keys, *queries;
    void* const* outputs;    // of each degree of the values; in a backward pass the derivatives with respect to it, or null
    void* const* toutputs;   // in the pass of second derivatives, where the tangents of the outputs are written
    const void* envelope;    // [edges], or null
    void* denvelope;         // derivatives with respect to the envelope are added here; null where they are not needed
    Threads threads;
};

// The incoming edges of each node, in the order of the edges (a counting sort by destination).
struct Incoming {
    Array<int64_t> first, edges;  // those of node i are edges[first[i]], ..., edges[first[i + 1] - 1]

    explicit Incoming(const Attention& p) : first(p.num_nodes + 2, 0), edges(p.num_edges) {
        for (int64_t e = 0; e < p.num_edges; ++e) ++first[p.dst[e] + 2];
        for (int64_t i = 2; i < p.num_nodes + 2; ++i) first[i] += first[i - 1];
        for (int64_t e = 0; e < p.num_edges; ++e) edges[first[p.dst[e] + 1]++] = e;
    }
};

// Call task(size), with the size as a compile-time constant for one or two channels of degrees 0 to 3: loops this short
// take longer to set up than to run.
template <class Task>
ALWAYS_INLINE void with_size(int64_t size, Task task) {
    switch (size) {
        case 1: return task(Constant<1>());
        case 2: return task(Constant<2>());
        case 3: return task(Constant<3>());
        case 5: return task(Constant<5>());
        case 6: return task(Constant<6>());
        case 7: return task(Constant<7>());
        case 10: return task(Constant<10>());
        case 14: return task(Constant<14>());
        default: return task(size);
    }
}

template <class T>
struct Node {  // one node and its incoming edges
    const Attention& p;
    int64_t node, count;
    const int64_t* edges;

    Node(const Attention& p, const Incoming& incoming, int64_t node)
        : p(p), node(node), count(incoming.first[node + 1] - incoming.first[node]), edges(incoming.edges + incoming.first[node]) {}

    const T* values(const Part& part, int64_t row) const {
        return static_cast<const T*>(part.values) + row * p.heads * part.size;
    }
    T* gradient(const Part& part, int64_t row) const {
        return part.gradient ? static_cast<T*>(part.gradient) + row * p.heads * part.size : nullptr;
    }
    const T* tangent(const Part& part, int64_t row) const {
        return part.tangent ? static_cast<const T*>(part.tangent) + row * p.heads * part.size : nullptr;
    }
    T* output(int64_t i) const { return static_cast<T*>(p.outputs[i]) + node * p.heads * p.values[i].size; }
    T envelope(int64_t edge) const { return p.envelope ? static_cast<const T*>(p.envelope)[edge] : T(1); }
    // Whether an edge has an influence: its envelope is not zero, nor too small for a logarithm.
    bool counts(int64_t edge) const { return !(envelope(edge) < std::numeric_limits<T>::min()); }

    // s[e, h] += <a[h], b[e, h]> for one degree and all incoming edges e.
    void add_products(const T* a, const Part& b, T* s) const { add_products(a, b.values, b.size, s); }
    void add_products(const T* a, const void* b, int64_t size, T* s) const {
        if (!a || !b) return;
        with_size(size, [&](auto n) {
            for (int64_t e = 0; e < count; ++e) {
                const T* of_edge = static_cast<const T*>(b) + edges[e] * p.heads * n;
                for (int64_t h = 0; h < p.heads; ++h) {
                    T sum = 0;
                    for (int64_t j = 0; j < n; ++j) sum += a[h * n + j] * of_edge[h * n + j];
                    s[e * p.heads + h] += sum;
                }
            }
        });
    }

    // to[h] += factor[h] from[h].
    void add_scaled(int64_t size, const T* factor, const T* from, T* to) const {
        with_size(size, [&](auto n) {
            for (int64_t h = 0; h < p.heads; ++h) {
                for (int64_t j = 0; j < n; ++j) to[h * n + j] += factor[h] * from[h * n + j];
            }
        });
    }

    // s[e, h] = softmax over e of (scale <query, key> + log envelope), [count, heads]: the attention weights apart from the
    // factor u_ij before the fraction in the equation.
    void softmax(T* s) const {
        std::fill_n(s, count * p.heads, T(0));
        for (int64_t i = 0; i < p.num_keys; ++i) add_products(values(p.queries[i], node), p.keys[i], s);
        for (int64_t h = 0; h < p.heads; ++h) {
            T largest = -std::numeric_limits<T>::infinity(), sum = 0;
            for (int64_t e = 0; e < count; ++e) {
                T& logit = s[e * p.heads + h];
                logit *= T(p.scale);
                if (p.envelope) logit = counts(edges[e]) ? logit + std::log(envelope(edges[e])) : std::numeric_limits<T>::lowest();
                if (!(logit <= largest)) largest = logit;  // written so that NaN propagates
            }
            for (int64_t e = 0; e < count; ++e) sum += s[e * p.heads + h] = std::exp(s[e * p.heads + h] - largest);
            for (int64_t e = 0; e < count; ++e) s[e * p.heads + h] /= sum;
        }
    }

    void forward(T* s) const {
        softmax(s);
        for (int64_t e = 0; e < count; ++e) {
            for (int64_t h = 0; h < p.heads; ++h) s[e * p.heads + h] *= envelope(edges[e]);
        }
        for (int64_t i = 0; i < p.num_values; ++i) {
            T* out = output(i);
            std::fill_n(out, p.heads * p.values[i].size, T(0));
            for (int64_t e = 0; e < count; ++e) {
                add_scaled(p.values[i].size, s + e * p.heads, values(p.values[i], edges[e]), out);
            }
        }
    }

    // First derivatives. Args: s, d, weights: workspaces, [count, heads] each. They become the softmax, the derivatives with
    // respect to the inner products of queries and keys, and the attention weights.
    void backward(T* s, T* d, T* weights) const {
        softmax(s);
        std::fill_n(d, count * p.heads, T(0));
        for (int64_t e = 0; e < count; ++e) {
            for (int64_t h = 0; h < p.heads; ++h) weights[e * p.heads + h] = s[e * p.heads + h] * envelope(edges[e]);
        }
        for (int64_t i = 0; i < p.num_values; ++i) {
            if (!p.outputs[i]) continue;
            const T* dout = output(i);
            add_products(dout, p.values[i], d);
            for (int64_t e = 0; e < count && p.values[i].gradient; ++e) {
                T* dvalue = gradient(p.values[i], edges[e]);
                std::fill_n(dvalue, p.heads * p.values[i].size, T(0));
                add_scaled(p.values[i].size, weights + e * p.heads, dout, dvalue);
            }
        }
        softmax_gradient(s, d);
        for (int64_t i = 0; i < p.num_keys; ++i) {
            T* dquery = gradient(p.queries[i], node);
            if (dquery) std::fill_n(dquery, p.heads * p.keys[i].size, T(0));
            for (int64_t e = 0; e < count; ++e) {
                if (dquery) add_scaled(p.keys[i].size, d + e * p.heads, values(p.keys[i], edges[e]), dquery);
                if (T* dkey = gradient(p.keys[i], edges[e])) {
                    std::fill_n(dkey, p.heads * p.keys[i].size, T(0));
                    add_scaled(p.keys[i].size, d + e * p.heads, values(p.queries[i], node), dkey);
                }
            }
        }
    }

    // The tangents of the outputs and of the first derivatives, without an envelope. Args: a, ta, d, td: workspaces, [count,
    // heads] each. They become the attention weights, the derivatives with respect to the inner products of queries and
    // keys, and the tangents of both.
    void second(T* a, T* ta, T* d, T* td) const {
        softmax(a);
        for (T* zero : {ta, d, td}) std::fill_n(zero, count * p.heads, T(0));
        for (int64_t i = 0; i < p.num_keys; ++i) {
            add_products(tangent(p.queries[i], node), p.keys[i], ta);
            add_products(values(p.queries[i], node), p.keys[i].tangent, p.keys[i].size, ta);
        }
        for (int64_t h = 0; h < p.heads; ++h) tangent_of_softmax(h, a, ta);
        for (int64_t i = 0; i < p.num_values; ++i) second_of_value(p.values[i], i, a, ta, d, td);
        for (int64_t h = 0; h < p.heads; ++h) second_of_softmax(h, a, ta, d, td);
        for (int64_t i = 0; i < p.num_keys; ++i) second_of_key(p.keys[i], p.queries[i], d, td);
    }

    // Args: t: tangents of the inner products, overwritten by tangents of the weights a.
    void tangent_of_softmax(int64_t h, const T* a, T* t) const {
        T mean = 0;
        for (int64_t i = h; i < count * p.heads; i += p.heads) mean += a[i] * (t[i] *= T(p.scale));
        for (int64_t i = h; i < count * p.heads; i += p.heads) t[i] = a[i] * (t[i] - mean);
    }

    // Args: d, td: derivatives with respect to the weights a, and tangents of these, overwritten by derivatives with respect
    // to the inner products, and tangents of those.
    void second_of_softmax(int64_t h, const T* a, const T* ta, T* d, T* td) const {
        T mean = 0, tmean = 0;
        for (int64_t i = h; i < count * p.heads; i += p.heads) {
            mean += a[i] * d[i];
            tmean += ta[i] * d[i] + a[i] * td[i];
        }
        for (int64_t i = h; i < count * p.heads; i += p.heads) {
            td[i] = T(p.scale) * (ta[i] * (d[i] - mean) + a[i] * (td[i] - tmean));
            d[i] = T(p.scale) * a[i] * (d[i] - mean);
        }
    }

    void second_of_value(const Part& part, int64_t i, const T* a, const T* ta, T* d, T* td) const {
        T* const out = static_cast<T*>(p.toutputs[i]) + node * p.heads * part.size;
        const T* dout = p.outputs[i] ? output(i) : nullptr;
        std::fill_n(out, p.heads * part.size, T(0));
        add_products(dout, part, d);
        add_products(dout, part.tangent, part.size, td);
        for (int64_t e = 0; e < count; ++e) {
            add_scaled(part.size, ta + e * p.heads, values(part, edges[e]), out);
            if (part.tangent) add_scaled(part.size, a + e * p.heads, tangent(part, edges[e]), out);
            if (T* dvalue = gradient(part, edges[e])) {
                std::fill_n(dvalue, p.heads * part.size, T(0));
                if (dout) add_scaled(part.size, ta + e * p.heads, dout, dvalue);
            }
        }
    }

    void second_of_key(const Part& key, const Part& query, const T* d, const T* td) const {
        T* dquery = gradient(query, node);
        if (dquery) std::fill_n(dquery, p.heads * query.size, T(0));
        for (int64_t e = 0; e < count; ++e) {
            if (dquery) add_scaled(key.size, td + e * p.heads, values(key, edges[e]), dquery);
            if (dquery && key.tangent) add_scaled(key.size, d + e * p.heads, tangent(key, edges[e]), dquery);
            T* dkey = gradient(key, edges[e]);
            if (!dkey) continue;
            std::fill_n(dkey, p.heads * key.size, T(0));
            add_scaled(key.size, td + e * p.heads, values(query, node), dkey);
            if (query.tangent) add_scaled(key.size, d + e * p.heads, tangent(query, node), dkey);
        }
    }

    // Args: d: derivatives with respect to the attention weights, overwritten by those with respect to the inner products of
    // queries and keys. Derivatives with respect to the envelope are added to p.denvelope.
    void softmax_gradient(const T* s, T* d) const {
        for (int64_t h = 0; h < p.heads; ++h) {
            // Derivatives with respect to the softmax are rounded by storing them, before they are read twice. Where one
            // weight is 1, d equals its mean to the last bit then, and d - mean is exactly 0. A fused multiply-add of the
            // envelope and this difference would leave a rounding error, which keys and queries multiply.
            for (int64_t e = 0; e < count && p.envelope; ++e) {
                const int64_t i = e * p.heads + h;
                if (p.denvelope) static_cast<T*>(p.denvelope)[edges[e]] += s[i] * d[i];
                d[i] *= envelope(edges[e]);
            }
            T mean = 0;
            for (int64_t e = 0; e < count; ++e) mean += s[e * p.heads + h] * d[e * p.heads + h];
            for (int64_t e = 0; e < count; ++e) {
                const int64_t i = e * p.heads + h;
                const T by_logit = s[i] * (d[i] - mean);
                const bool is_constant = p.envelope && !counts(edges[e]);
                if (p.denvelope && !is_constant) static_cast<T*>(p.denvelope)[edges[e]] += by_logit / envelope(edges[e]);
                d[i] = is_constant ? 0 : by_logit * T(p.scale);
            }
        }
    }
};

// Call task(node, four workspaces of [incoming edges, heads]) for every node, in parallel.
template <class T, class Task>
int for_nodes(const Attention& p, Task task) {
    if (!std::all_of(p.dst, p.dst + p.num_edges, [&](int64_t i) { return 0 <= i && i < p.num_nodes; })) return NO_SUCH_NODE;
    return status_of([&] {
        const Incoming incoming(p);
        const int64_t shares = std::min(p.num_nodes, 8 * p.threads.count);
        in_parallel(p.threads, shares, [&](int64_t i) {
            const int64_t begin = i * p.num_nodes / shares, end = (i + 1) * p.num_nodes / shares;
            int64_t most = 0;
            for (int64_t n = begin; n < end; ++n) most = std::max(most, incoming.first[n + 1] - incoming.first[n]);
            const int64_t size = most * p.heads;
            const Array<T> workspace(4 * size);
            for (int64_t n = begin; n < end; ++n) {
                task(Node<T>(p, incoming, n), workspace, workspace + size, workspace + 2 * size, workspace + 3 * size);
            }
        });
    });
}

template <class T>
int forward(const Attention* p) {
    return for_nodes<T>(*p, [](const Node<T>& node, T* s, T*, T*, T*) { node.forward(s); });
}

template <class T>
int gradient(const Attention* p) {
    return for_nodes<T>(*p, [](const Node<T>& node, T* s, T* d, T* weights, T*) { node.backward(s, d, weights); });
}

template <class T>
int second(const Attention* p) {
    return for_nodes<T>(*p, [](const Node<T>& node, T* a, T* ta, T* d, T* td) { node.second(a, ta, d, td); });
}

}  // namespace

// Write the outputs.
extern "C" int forward_float32(const Attention* p) { return forward<float>(p); }
extern "C" int forward_float64(const Attention* p) { return forward<double>(p); }

// Write the derivatives with respect to values, keys and queries, and add those with respect to the envelope to denvelope.
extern "C" int gradient_float32(const Attention* p) { return gradient<float>(p); }
extern "C" int gradient_float64(const Attention* p) { return gradient<double>(p); }

// Without an envelope: write the tangents of the outputs and of the first derivatives.
extern "C" int second_float32(const Attention* p) { return second<float>(p); }
extern "C" int second_float64(const Attention* p) { return second<double>(p); }
