// Linear maps of channels: f <- W f for each degree, with one matrix W for all orders (modules/linear.py), and the first
// derivatives. f may be the concatenation of two features, which are read where they lie. linear.py calls the functions at
// the end of this file.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "columns.hpp"
#include "threads.hpp"

namespace {

constexpr int64_t COLUMNS = 512;  // about as many columns (an order of a node each) are multiplied by W at a time

struct Part {  // one of the concatenated features
    int64_t channels;    // 0 where there is no such feature
    const void* values;  // [nodes, channels, orders]
    void* dvalues;       // where derivatives are written, null where they are not needed
};

struct Degree {
    int64_t orders, channels_in, channels_out;
    const void* weight;  // W, [channels out, channels in]: those of the first part, then those of the second
    void* dweight;       // null where not needed
    void* output;        // [nodes, channels out, orders]; in the backward pass the derivatives with respect to it
    Part parts[2];
};

struct Linear {
    int64_t num_nodes, num_degrees;
    const Degree* degrees;
    Threads threads;
};

// out[m, n] += sum over columns c of a[m, c] b[n, c], for a tile of M x N elements held in registers.
template <int M, int N, class T>
void add_dots(const T* a, const T* b, int64_t columns, int64_t stride, T* out, int64_t width) {
    Vector<T> sum[M][N] = {};
    for (int64_t c = 0; c < columns; c += LANES<T>) {
#pragma GCC unroll 4
        for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
            for (int n = 0; n < N; ++n) sum[m][n] += at(a + m * stride + c).v * at(b + n * stride + c).v;
        }
    }
    for (int m = 0; m < M; ++m) {
        for (int n = 0; n < N; ++n) {
            for (int64_t i = 0; i < LANES<T>; ++i) out[m * width + n] += sum[m][n][i];
        }
    }
}

// Strided memory: channel c of node n begins at at + n * node + c * channel.
template <class T>
struct Place {
    T* at;
    int64_t node, channel;
};

// Copy [nodes, channels, orders]. The few orders of a channel are copied as whole registers where that stays within both
// arrays: what is written beyond the orders of a channel lies in a later channel or node, and is overwritten when that is
// copied.
template <int REGISTERS, class T>
void copy(int64_t nodes, int64_t channels, int64_t orders, Place<const T> from, const T* from_end, Place<T> to, T* to_end) {
    constexpr int64_t WIDTH = REGISTERS * LANES<T>;
    for (int64_t n = 0; n < nodes; ++n) {
        const T* x = from.at + n * from.node;
        T* y = to.at + n * to.node;
        const bool fits = x + (channels - 1) * from.channel + WIDTH <= from_end && y + (channels - 1) * to.channel + WIDTH <= to_end;
        for (int64_t c = 0; c < channels; ++c, x += from.channel, y += to.channel) {
            if (fits && REGISTERS) {
                for (int i = 0; i < REGISTERS; ++i) at(y + i * LANES<T>).v = at(x + i * LANES<T>).v;
            } else {
                std::copy_n(x, orders, y);
            }
        }
    }
}

template <class T>
void copy(int64_t nodes, int64_t channels, int64_t orders, Place<const T> from, const T* from_end, Place<T> to, T* to_end) {
    const auto any = orders <= LANES<T> ? copy<1, T> : orders <= 2 * LANES<T> ? copy<2, T> : copy<0, T>;
    any(nodes, channels, orders, from, from_end, to, to_end);
}

template <class T>
struct Worker {  // multiplies some nodes of one degree; each thread has its own
    const Degree& degree;
    int64_t last_node;        // the number of all nodes, at whose end memory ends
    int64_t columns, stride;  // orders of the nodes taken together, padded to whole registers; elements from row to row
    Array<T> x, y;            // input [channels in, columns] and output [channels out, columns]

    Worker(const Degree& degree, int64_t nodes, int64_t last_node)
        : degree(degree),
          last_node(last_node),
          columns(padded<T>(nodes * degree.orders)),
          stride(columns + B<T>),
          x(degree.channels_in * stride),
          y(degree.channels_out * stride) {}

    static int64_t nodes_together(const Degree& degree) { return std::max(int64_t(1), COLUMNS / degree.orders); }

    void load(const void* values, int64_t channels, int64_t begin, int64_t end, T* to) const {
        const int64_t orders = degree.orders, size = channels * orders;
        const T* from = static_cast<const T*>(values);
        copy<T>(end - begin, channels, orders, {from + begin * size, size, orders}, from + last_node * size,
                {to, orders, stride}, to + channels * stride);
        for (int64_t c = 0; c < channels; ++c) {
            std::fill(to + c * stride + (end - begin) * orders, to + c * stride + columns, T(0));
        }
    }

    void store(const T* from, int64_t channels, int64_t begin, int64_t end, void* values) const {
        const int64_t orders = degree.orders, size = channels * orders;
        T* to = static_cast<T*>(values);
        copy<T>(end - begin, channels, orders, {from, orders, stride}, from + channels * stride,
                {to + begin * size, size, orders}, to + end * size);
    }

    // out = W in, or W^T in with row and column strides exchanged.
    template <class Row, class Column>
    void multiply(int64_t outputs, Row row, Column column, int64_t inputs, const T* in, T* out) const {
        std::fill_n(out, outputs * stride, T(0));
        for (int64_t c = 0; c < columns; c += B<T>) {
            product<false>(outputs, static_cast<const T*>(degree.weight), row, column, inputs, in + c, stride,
                           out + c, stride);
        }
    }

    void forward(int64_t begin, int64_t end) const {
        load_parts(begin, end);
        multiply(degree.channels_out, degree.channels_in, One(), degree.channels_in, x, y);
        store(y, degree.channels_out, begin, end, degree.output);
    }

    void gradient(int64_t begin, int64_t end, T* dweight) const {
        load(degree.output, degree.channels_out, begin, end, y);
        if (dweight) {
            load_parts(begin, end);
            add_gradient_of_weight(dweight);
        }
        if (!degree.parts[0].dvalues && !degree.parts[1].dvalues) return;
        multiply(degree.channels_in, One(), degree.channels_in, degree.channels_out, y, x);
        for_parts([&](const Part& part, T* of_part) {
            if (part.dvalues) store(of_part, part.channels, begin, end, part.dvalues);
        });
    }

    void load_parts(int64_t begin, int64_t end) const {
        for_parts([&](const Part& part, T* of_part) { load(part.values, part.channels, begin, end, of_part); });
    }

    // Call task(part, where its channels begin in x) for each of the concatenated features.
    template <class Task>
    void for_parts(Task task) const {
        const Part &first = degree.parts[0], &second = degree.parts[1];
        task(first, x);
        if (second.channels) task(second, x + first.channels * stride);
    }

    void add_gradient_of_weight(T* dweight) const {
        const int64_t outputs = degree.channels_out, inputs = degree.channels_in;
        for (int64_t o = 0; o < outputs;) {
            const int64_t m = outputs - o >= 4 ? 4 : 1;
            for (int64_t i = 0; i < inputs;) {
                const int64_t n = inputs - i >= 4 ? 4 : 1;
                const auto add = m == 4 ? (n == 4 ? add_dots<4, 4, T> : add_dots<4, 1, T>)
                                        : (n == 4 ? add_dots<1, 4, T> : add_dots<1, 1, T>);
                add(y + o * stride, x + i * stride, columns, stride, dweight + o * inputs + i, inputs);
                i += n;
            }
            o += m;
        }
    }
};

// Call task(worker, begin, end) for ranges of nodes that make up a thread's share of the nodes of a degree.
template <class T, class Task>
void for_share(const Linear& p, const Degree& degree, int64_t share, Task task) {
    const int64_t begin = share * p.num_nodes / p.threads.count, end = (share + 1) * p.num_nodes / p.threads.count;
    const int64_t together = std::min(end - begin, Worker<T>::nodes_together(degree));
    if (!together) return;
    const Worker<T> worker(degree, together, p.num_nodes);
    for (int64_t n = begin; n < end; n += together) task(worker, n, std::min(n + together, end));
}

template <class T>
int forward(const Linear* p) {
    return status_of([=] {
        in_parallel(p->threads, p->threads.count, [=](int64_t share) {
            for (int64_t l = 0; l < p->num_degrees; ++l) {
                for_share<T>(*p, p->degrees[l], share, [](const Worker<T>& worker, int64_t begin, int64_t end) {
                    worker.forward(begin, end);
                });
            }
        });
    });
}

template <class T>
int gradient(const Linear* p) {
    return status_of([=] {
        const int64_t threads = p->threads.count;
        std::vector<Array<T>> sums(threads * p->num_degrees);  // of each thread, added up in a fixed order
        in_parallel(p->threads, threads, [&](int64_t share) {
            for (int64_t l = 0; l < p->num_degrees; ++l) {
                const Degree& degree = p->degrees[l];
                Array<T>& sum = sums[l * threads + share];
                if (degree.dweight) sum = Array<T>(degree.channels_in * degree.channels_out, 0);
                for_share<T>(*p, degree, share, [&](const Worker<T>& worker, int64_t begin, int64_t end) {
                    worker.gradient(begin, end, sum);
                });
            }
        });
        for (int64_t l = 0; l < p->num_degrees; ++l) {
            T* dweight = static_cast<T*>(p->degrees[l].dweight);
            const int64_t size = p->degrees[l].channels_in * p->degrees[l].channels_out;
            for (int64_t i = 0; dweight && i < size; ++i) {
                dweight[i] = 0;
                for (int64_t share = 0; share < threads; ++share) dweight[i] += sums[l * threads + share][i];
            }
        }
    });
}

}  // namespace

extern "C" int forward_float32(const Linear* p) { return forward<float>(p); }
extern "C" int forward_float64(const Linear* p) { return forward<double>(p); }
extern "C" int gradient_float32(const Linear* p) { return gradient<float>(p); }
extern "C" int gradient_float64(const Linear* p) { return gradient<double>(p); }
