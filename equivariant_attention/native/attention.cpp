// Multi-head attention over the incoming edges of every node, as modules/attention.py has it, and its derivatives up to the
// second.
//
// attention.py calls the functions at the end of this file.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "columns.hpp"
#include "threads.hpp"

namespace {

constexpr int NO_SUCH_NODE = 2;  // calls.py makes an error of it

struct Part {  // one degree: [rows, heads, numbers]
    int64_t numbers;
    const void* values;
    void* gradient;       // null where not needed
    const void* tangent;  // of the values, null where zero
};

struct Attention {
    int64_t num_nodes, num_edges, heads, num_values, num_keys;
    double scale;            // of the products of queries and keys
    const int64_t* dst;      // node that every edge leads to
    const Part *values, *keys, *queries;
    void* const* outputs;    // of every degree of the values; in the backward pass their derivatives, or null
    void* const* toutputs;   // in the second backward pass, tangents of the outputs
    const void* envelope;    // [edges], or null
    void* denvelope;
    Threads threads;
};

// The edges into every node, in their order.
struct Incoming {
    Array<int64_t> first, edges;  // those into node i: edges[first[i]], ..., edges[first[i + 1] - 1]

    explicit Incoming(const Attention& p) : first(p.num_nodes + 2, 0), edges(p.num_edges) {
        for (int64_t e = 0; e < p.num_edges; ++e) ++first[p.dst[e] + 2];
        for (int64_t i = 2; i < p.num_nodes + 2; ++i) first[i] += first[i - 1];
        for (int64_t e = 0; e < p.num_edges; ++e) edges[first[p.dst[e] + 1]++] = e;
    }
};

// Call task(numbers), as a constant for one or two channels of degree 0 to 3: so short a loop takes longer to set up than to
// run.
template <class Task>
ALWAYS_INLINE void with_numbers(int64_t numbers, Task task) {
    switch (numbers) {
        case 1: return task(Constant<1>());
        case 2: return task(Constant<2>());
        case 3: return task(Constant<3>());
        case 5: return task(Constant<5>());
        case 6: return task(Constant<6>());
        case 7: return task(Constant<7>());
        case 10: return task(Constant<10>());
        case 14: return task(Constant<14>());
        default: return task(numbers);
    }
}

template <class T>
struct Node {  // one node, and the edges into it
    const Attention& p;
    int64_t node, count;
    const int64_t* edges;

    Node(const Attention& p, const Incoming& incoming, int64_t node)
        : p(p), node(node), count(incoming.first[node + 1] - incoming.first[node]), edges(incoming.edges + incoming.first[node]) {}

    const T* values(const Part& part, int64_t row) const {
        return static_cast<const T*>(part.values) + row * p.heads * part.numbers;
    }
    T* gradient(const Part& part, int64_t row) const {
        return part.gradient ? static_cast<T*>(part.gradient) + row * p.heads * part.numbers : nullptr;
    }
    const T* tangent(const Part& part, int64_t row) const {
        return part.tangent ? static_cast<const T*>(part.tangent) + row * p.heads * part.numbers : nullptr;
    }
    T* output(int64_t i) const { return static_cast<T*>(p.outputs[i]) + node * p.heads * p.values[i].numbers; }
    T envelope(int64_t edge) const { return p.envelope ? static_cast<const T*>(p.envelope)[edge] : T(1); }
    bool counts(int64_t edge) const { return !(envelope(edge) < std::numeric_limits<T>::min()); }

    // s[e, h] += <a[h], b[e, h]>, over one degree of all edges.
    void add_products(const T* a, const Part& b, T* s) const { add_products(a, b.values, b.numbers, s); }
    void add_products(const T* a, const void* b, int64_t numbers, T* s) const {
        if (!a || !b) return;
        with_numbers(numbers, [&](auto n) {
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
    void add_scaled(int64_t numbers, const T* factor, const T* from, T* to) const {
        with_numbers(numbers, [&](auto n) {
            for (int64_t h = 0; h < p.heads; ++h) {
                for (int64_t j = 0; j < n; ++j) to[h * n + j] += factor[h] * from[h * n + j];
            }
        });
    }

    // The softmax without its last factor, the envelope: s, [count, heads].
    void softmax(T* s) const {
        std::fill_n(s, count * p.heads, T(0));
        for (int64_t i = 0; i < p.num_keys; ++i) add_products(values(p.queries[i], node), p.keys[i], s);
        for (int64_t h = 0; h < p.heads; ++h) {
            T largest = -std::numeric_limits<T>::infinity(), sum = 0;
            for (int64_t e = 0; e < count; ++e) {
                T& logit = s[e * p.heads + h];
                logit *= T(p.scale);
                if (p.envelope) logit = counts(edges[e]) ? logit + std::log(envelope(edges[e])) : std::numeric_limits<T>::lowest();
                if (!(logit <= largest)) largest = logit;  // NaN is passed on
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
            std::fill_n(out, p.heads * p.values[i].numbers, T(0));
            for (int64_t e = 0; e < count; ++e) {
                add_scaled(p.values[i].numbers, s + e * p.heads, values(p.values[i], edges[e]), out);
            }
        }
    }

    // Args: s, d, weights: room for [count, heads].
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
                std::fill_n(dvalue, p.heads * p.values[i].numbers, T(0));
                add_scaled(p.values[i].numbers, weights + e * p.heads, dout, dvalue);
            }
        }
        softmax_gradient(s, d);
        for (int64_t i = 0; i < p.num_keys; ++i) {
            T* dquery = gradient(p.queries[i], node);
            if (dquery) std::fill_n(dquery, p.heads * p.keys[i].numbers, T(0));
            for (int64_t e = 0; e < count; ++e) {
                if (dquery) add_scaled(p.keys[i].numbers, d + e * p.heads, values(p.keys[i], edges[e]), dquery);
                if (T* dkey = gradient(p.keys[i], edges[e])) {
                    std::fill_n(dkey, p.heads * p.keys[i].numbers, T(0));
                    add_scaled(p.keys[i].numbers, d + e * p.heads, values(p.queries[i], node), dkey);
                }
            }
        }
    }

    // The tangents of the outputs, and of the derivatives, without an envelope. Args: a, ta, d, td: workspace for
    // [count, heads]; they become the weights, the derivatives with respect to the logits, and the tangents of both.
    void second(T* a, T* ta, T* d, T* td) const {
        softmax(a);
        for (T* zero : {ta, d, td}) std::fill_n(zero, count * p.heads, T(0));
        for (int64_t i = 0; i < p.num_keys; ++i) {
            add_products(tangent(p.queries[i], node), p.keys[i], ta);
            add_products(values(p.queries[i], node), p.keys[i].tangent, p.keys[i].numbers, ta);
        }
        for (int64_t h = 0; h < p.heads; ++h) tangent_of_softmax(h, a, ta);
        for (int64_t i = 0; i < p.num_values; ++i) second_of_value(p.values[i], i, a, ta, d, td);
        for (int64_t h = 0; h < p.heads; ++h) second_of_softmax(h, a, ta, d, td);
        for (int64_t i = 0; i < p.num_keys; ++i) second_of_key(p.keys[i], p.queries[i], d, td);
    }

    // From tangents of the products of queries and keys to those of the weights, in their place.
    void tangent_of_softmax(int64_t h, const T* a, T* t) const {
        T mean = 0;
        for (int64_t i = h; i < count * p.heads; i += p.heads) mean += a[i] * (t[i] *= T(p.scale));
        for (int64_t i = h; i < count * p.heads; i += p.heads) t[i] = a[i] * (t[i] - mean);
    }

    // From derivatives with respect to the weights and their tangents to those with respect to the products, in their place.
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
        T* const out = static_cast<T*>(p.toutputs[i]) + node * p.heads * part.numbers;
        const T* dout = p.outputs[i] ? output(i) : nullptr;
        std::fill_n(out, p.heads * part.numbers, T(0));
        add_products(dout, part, d);
        add_products(dout, part.tangent, part.numbers, td);
        for (int64_t e = 0; e < count; ++e) {
            add_scaled(part.numbers, ta + e * p.heads, values(part, edges[e]), out);
            if (part.tangent) add_scaled(part.numbers, a + e * p.heads, tangent(part, edges[e]), out);
            if (T* dvalue = gradient(part, edges[e])) {
                std::fill_n(dvalue, p.heads * part.numbers, T(0));
                if (dout) add_scaled(part.numbers, ta + e * p.heads, dout, dvalue);
            }
        }
    }

    void second_of_key(const Part& key, const Part& query, const T* d, const T* td) const {
        T* dquery = gradient(query, node);
        if (dquery) std::fill_n(dquery, p.heads * query.numbers, T(0));
        for (int64_t e = 0; e < count; ++e) {
            if (dquery) add_scaled(key.numbers, td + e * p.heads, values(key, edges[e]), dquery);
            if (dquery && key.tangent) add_scaled(key.numbers, d + e * p.heads, tangent(key, edges[e]), dquery);
            T* dkey = gradient(key, edges[e]);
            if (!dkey) continue;
            std::fill_n(dkey, p.heads * key.numbers, T(0));
            add_scaled(key.numbers, td + e * p.heads, values(query, node), dkey);
            if (query.tangent) add_scaled(key.numbers, d + e * p.heads, tangent(query, node), dkey);
        }
    }

    // From derivatives d with respect to the attention weights, those with respect to the envelope; and, in the place of d,
    // those with respect to the products of queries and keys.
    void softmax_gradient(const T* s, T* d) const {
        for (int64_t h = 0; h < p.heads; ++h) {
            // Derivatives of the softmax are rounded to memory before they are used twice. Where one weight is 1, its
            // derivative is then its mean to the last bit, and the difference 0; a fused multiply-add of the envelope and
            // this difference would leave a rounding error, which keys and queries multiply.
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

// Call task for every node, with room for [edges into the node, heads] numbers, four times.
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
            const Array<T> room(4 * size);
            for (int64_t n = begin; n < end; ++n) {
                task(Node<T>(p, incoming, n), room, room + size, room + 2 * size, room + 3 * size);
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

// Write the derivatives with respect to values, keys and queries, and add those with respect to the envelope.
extern "C" int gradient_float32(const Attention* p) { return gradient<float>(p); }
extern "C" int gradient_float64(const Attention* p) { return gradient<double>(p); }

// Without an envelope: write the tangents of the outputs, and of these derivatives.
extern "C" int second_float32(const Attention* p) { return second<float>(p); }
extern "C" int second_float64(const Attention* p) { return second<double>(p); }
