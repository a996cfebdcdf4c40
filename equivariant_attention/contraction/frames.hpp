// What edges carry, on a block of rows in the edges' frames: in and out of columns, turned, and mixed along the axis.
//
// A row is an edge, or two edges that share radial weights; D is the number of edges in a row.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "duals.hpp"
#include "problem.hpp"

namespace {

// ---------------------------------------------------------------- mixing along the axis

// What one coefficient f takes to what: from order to order, of each of the D edges in a row. w_0 takes order 0 to order
// 0, a_m takes -m to -m and +m to +m, b_m takes -m to +m and +m, with its sign changed, to -m.
template <class T>
struct Terms {
    int count = 0;
    int64_t edge[4], from[4], to[4];
    T sign[4];

    Terms(int64_t f, int64_t k, int64_t l, int64_t D) {
        const int64_t m = (f + 1) / 2;
        const bool crossed = f && f % 2 == 0;
        for (int64_t d = 0; d < D; ++d) {
            for (int64_t n = -m; n <= m; n += std::max(int64_t(1), 2 * m)) {
                edge[count] = d;
                from[count] = k + (crossed ? -n : n);
                to[count] = l + n;
                sign[count++] = crossed && n < 0 ? -1 : 1;
            }
        }
    }
};

// y[j][o] += sign[j] sum_i R[i, o] x[j][i], for J terms.
template <int J, int W, class T>
void mix(const T* R, int64_t inputs, int64_t outputs, const T* const* x, T* const* y, const T* sign) {
    constexpr int64_t C = COLUMN<W, T>, N = LANES<T>;
    for (int64_t o = 0; o < outputs; ++o) {
        Number<W, T> sum[J][2] = {};
        for (int64_t i = 0; i < inputs; ++i) {
            for (int v = 0; v < 2; ++v) {
                const auto r = load<W>(R + (i * outputs + o) * C + v * N);
                for (int j = 0; j < J; ++j) sum[j][v] += r * load<W>(x[j] + i * C + v * N);
            }
        }
        for (int j = 0; j < J; ++j) {
            for (int v = 0; v < 2; ++v) add<W>(y[j] + o * C + v * N, sign[j] * sum[j][v]);
        }
    }
}

// The derivatives of mix by x, added to dx, and by R, in the place of R and summed over rows in dbias.
template <int J, int W, class T>
void mix_gradient(T* R, int64_t inputs, int64_t outputs, const T* const* x, T* const* dx, const T* const* dy,
                  const T* sign, T* dbias) {
    constexpr int64_t C = COLUMN<W, T>, N = LANES<T>;
    for (int64_t i = 0; i < inputs; ++i) {
        Number<W, T> from[J][2], sum[J][2] = {};
        for (int j = 0; j < J; ++j) {
            for (int v = 0; v < 2; ++v) from[j][v] = sign[j] * load<W>(x[j] + i * C + v * N);
        }
        for (int64_t o = 0; o < outputs; ++o) {
            const int64_t number = i * outputs + o;
            Number<W, T> dR[2] = {};
            for (int v = 0; v < 2; ++v) {
                T* const place = R + number * C + v * N;
                const auto r = load<W>(place);
                for (int j = 0; j < J; ++j) {
                    const auto d = load<W>(dy[j] + o * C + v * N);
                    sum[j][v] += r * d;
                    dR[v] += from[j][v] * d;
                }
                store<W>(place, dR[v]);
            }
            at(dbias + number * N).v += asked<T>(dR[0]) + asked<T>(dR[1]);
        }
        for (int j = 0; j < J; ++j) {
            for (int v = 0; v < 2; ++v) add<W>(dx[j] + i * C + v * N, sign[j] * sum[j][v]);
        }
    }
}

template <int W, class T>
void mix(int count, const T* R, int64_t inputs, int64_t outputs, const T* const* x, T* const* y, const T* sign) {
    (count == 4 ? mix<4, W, T> : count == 2 ? mix<2, W, T> : mix<1, W, T>)(R, inputs, outputs, x, y, sign);
}

template <int W, class T>
void mix_gradient(int count, T* R, int64_t inputs, int64_t outputs, const T* const* x, T* const* dx,
                  const T* const* dy, const T* sign, T* dbias) {
    (count == 4   ? mix_gradient<4, W, T>
     : count == 2 ? mix_gradient<2, W, T>
                  : mix_gradient<1, W, T>)(R, inputs, outputs, x, dx, dy, sign, dbias);
}

// ---------------------------------------------------------------- values on a block of rows

template <class T, int W = 1>
struct Side {  // the features or the messages of an edge, degree by degree: [2l+1, channels] columns each
    const Part* parts;
    int64_t count, width = 0;  // of all columns
    int64_t of_nodes = 0;      // of those that come from a node
    std::vector<int64_t> offset, node_offset;

    Side(const Part* parts, int64_t count) : parts(parts), count(count) {
        for (int64_t i = 0; i < count; ++i) {
            const int64_t orders = 2 * parts[i].degree + 1;
            offset.push_back(width);
            node_offset.push_back(of_nodes);
            width += orders * parts[i].channels;
            of_nodes += orders * parts[i].of_node;
        }
    }

    // Of an edge of a row, the channels of one part and order.
    template <class U>
    U* column(U* values, int64_t edge, int64_t part, int64_t order) const {
        return values + (edge * width + offset[part] + order * parts[part].channels) * COLUMN<W, T>;
    }

    int64_t largest() const {
        int64_t size = 0;
        for (int64_t i = 0; i < count; ++i) size = std::max(size, (2 * parts[i].degree + 1) * parts[i].channels);
        return size;
    }
};

template <class T>
struct Block {
    int64_t first, count, D;  // where in the order of the plan it starts; rows; edges in each
    Array<T> scalars, dscalars, x, dx, y, dy, frames, dframes;

    // The rows that fill the block up are its last one again, and nothing that they make is stored.
    int64_t planned(int64_t row, int64_t edge) const { return first + D * std::min(row, count - 1) + edge; }
};

// out[a] = sum_b F[a, b] x[b], for matrices of n x n columns and each of the channels; or with F transposed.
template <bool TRANSPOSED, int W, class T>
void turn(const T* F, int64_t n, int64_t channels, const T* x, T* out) {
    constexpr int64_t C = COLUMN<W, T>, N = LANES<T>;
    for (int64_t a = 0; a < n; ++a) {
        for (int64_t c = 0; c < channels; ++c) {
            Number<W, T> sum[2] = {};
            for (int64_t b = 0; b < n; ++b) {
                const T *f = F + (TRANSPOSED ? b * n + a : a * n + b) * C, *value = x + (b * channels + c) * C;
                for (int v = 0; v < 2; ++v) sum[v] += load<W>(f + v * N) * load<W>(value + v * N);
            }
            for (int v = 0; v < 2; ++v) store<W>(out + (a * channels + c) * C + v * N, sum[v]);
        }
    }
}

// dF[a, b] += sum over channels of after[a] before[b].
template <int W, class T>
void turn_gradient(const T* after, const T* before, int64_t n, int64_t channels, T* dF) {
    constexpr int64_t C = COLUMN<W, T>, N = LANES<T>;
    for (int64_t a = 0; a < n; ++a) {
        for (int64_t b = 0; b < n; ++b) {
            for (int v = 0; v < 2; ++v) {
                Vector<T> sum = {};
                for (int64_t c = 0; c < channels; ++c) {
                    sum += asked<T>(load<W>(after + (a * channels + c) * C + v * N) *
                                    load<W>(before + (b * channels + c) * C + v * N));
                }
                at(dF + (a * n + b) * B<T> + v * N).v += sum;
            }
        }
    }
}

// Some rows of a tensor [rows, channels, orders] to columns [orders, of all channels], or added to these.
template <bool ADD, int W, class T>
ALWAYS_INLINE void gather(const T* from, int64_t total, const int64_t* rows, int64_t channels, int64_t orders, T* to, int64_t all) {
    constexpr int64_t N = LANES<T>;
    const int64_t size = channels * orders;
    for (int64_t half = 0; half < B<T>; half += N) {
        for (int64_t first = 0; first < size; first += N) {
            Vector<T> square[N];
#pragma GCC unroll 16
            for (int i = 0; i < N; ++i) {
                const int64_t start = rows[half + i] * size + first;
                if (start + N <= total * size) {
                    square[i] = at(from + start).v;  // the next row too, where this one ends
                } else {
                    square[i] = Vector<T>{};
                    std::copy_n(from + start, size - first, reinterpret_cast<T*>(&square[i]));
                }
            }
            transpose<T>(square);
            int64_t c = first / orders, a = first % orders;
#pragma GCC unroll 16
            for (int i = 0; i < N; ++i) {
                if (first + i < size) {
                    auto& column = at(to + (a * all + c) * COLUMN<W, T> + half);
                    column.v = ADD ? column.v + square[i] : square[i];
                }
                if (++a == orders) a = 0, ++c;
            }
        }
    }
}

// Columns [orders, of all channels] to rows [channels, orders]; store(row, place, values, count) takes some of a row's.
template <int W, class T, class Store>
ALWAYS_INLINE void scatter(const T* from, int64_t all, int64_t rows, int64_t channels, int64_t orders, Store store) {
    constexpr int64_t N = LANES<T>;
    const int64_t size = channels * orders;
    for (int64_t half = 0; half < rows; half += N) {
        for (int64_t first = 0; first < size; first += N) {
            Vector<T> square[N] = {};
            int64_t c = first / orders, a = first % orders;
#pragma GCC unroll 16
            for (int i = 0; i < N; ++i) {
                if (first + i < size) square[i] = at(from + (a * all + c) * COLUMN<W, T> + half).v;
                if (++a == orders) a = 0, ++c;
            }
            transpose<T>(square);
            for (int64_t r = half; r < std::min(rows, half + N); ++r) {
                store(r, first, square[r - half], std::min(N, size - first));
            }
        }
    }
}

// The first numbers of a register, in pieces of sizes that are known here.
template <class T, int64_t SIZE = LANES<T>>
void put(const T* from, int64_t count, T* to) {
    if (count & SIZE) {
        std::memcpy(to, from, SIZE * sizeof(T));
        from += SIZE, to += SIZE;
    }
    if constexpr (SIZE > 1) put<T, SIZE / 2>(from, count, to);
}

template <class T, int W = 1>
class Edges {  // reads and writes what edges carry, one thread's
public:
    const Problem& p;
    const Side<T, W> sent, made;
    std::vector<int64_t> frame_offset{0};

    explicit Edges(const Problem& p)
        : p(p),
          sent(p.features, p.num_features),
          made(p.messages, p.num_messages),
          apart(std::max(sent.largest(), made.largest()) * C) {
        for (int64_t l = 0; l <= p.max_degree; ++l) {
            frame_offset.push_back(frame_offset.back() + (p.frame(l) ? (2 * l + 1) * (2 * l + 1) : 0));
        }
    }

    int64_t num_blocks() const { return blocks_of(p.num_shared / 2) + blocks_of(p.num_edges - p.num_shared); }

    Block<T> block(int64_t number) const {
        const int64_t shared = blocks_of(p.num_shared / 2);
        Block<T> b;
        b.D = number < shared ? 2 : 1;
        const int64_t row = (number < shared ? number : number - shared) * B<T>;
        const int64_t rows = number < shared ? p.num_shared / 2 : p.num_edges - p.num_shared;
        b.first = (number < shared ? 0 : p.num_shared) + b.D * row;
        b.count = std::min(B<T>, rows - row);
        return b;
    }

    void load_scalars(Block<T>& b) const {
        b.scalars = Array<T>(p.num_scalars * C);
        int64_t rows[B<T>];
        for (int64_t r = 0; r < B<T>; ++r) rows[r] = edge(b, r, 0);
        gather_numbers(p.scalars, p.tscalars, rows, p.num_scalars, b.scalars);
    }

    void load_frames(Block<T>& b) const {
        b.frames = Array<T>(b.D * frame_offset.back() * C);
        if (p.dframes) b.dframes = Array<T>(b.D * frame_offset.back() * B<T>, 0);
        for (int64_t l = 1; l <= p.max_degree; ++l) {
            for (int64_t d = 0; p.frame(l) && d < b.D; ++d) {
                int64_t rows[B<T>];
                for (int64_t r = 0; r < B<T>; ++r) rows[r] = b.planned(r, d);
                gather_numbers(p.frame(l), p.tframe(l), rows, (2 * l + 1) * (2 * l + 1), frame(b.frames, l, d));
            }
        }
    }

    void load_sent(Block<T>& b) {
        b.x = Array<T>(b.D * sent.width * C);
        load(b, sent, b.x, [&](int64_t part, int64_t d, T* to) { gather_sent(b, part, d, to); });
    }

    void load_arriving(Block<T>& b) {
        b.dy = Array<T>(b.D * made.width * C);
        load(b, made, b.dy, [&](int64_t part, int64_t d, T* to) { gather_arriving(b, part, d, to); });
    }

    void store_messages(const Block<T>& b) {
        for (int64_t part = 0; part < made.count; ++part) {
            for (int64_t d = 0; d < b.D; ++d) {
                store_of_edges(b, d, made.parts[part], turned_back(b, made, b.y, part, d), 0,
                               static_cast<T*>(made.parts[part].edge));
            }
        }
    }

    void store_gradients(const Block<T>& b) {
        if (p.dframes) store_gradient_of_frames(b);
        for (int64_t r = 0; p.dscalars && r < b.count; ++r) {
            for (int64_t d = 0; d < b.D; ++d) {
                T* to = static_cast<T*>(p.dscalars) + edge(b, r, d) * p.num_scalars;
                for (int64_t i = 0; i < p.num_scalars; ++i) to[i] = asked_of<W, T>(b.dscalars)[i * C + r];
            }
        }
        for (int64_t part = 0; part < sent.count; ++part) {
            const Part& f = sent.parts[part];
            for (int64_t d = 0; d < b.D; ++d) {
                const T* from = turned_back(b, sent, b.dx, part, d);
                if (f.dnode) {
                    scatter<W>(from, f.channels, b.count, f.of_node, 2 * f.degree + 1,
                            [&](int64_t r, int64_t place, const Vector<T>& v, int64_t) {
                        const int64_t node = p.src[edge(b, r, d)] - first_node;
                        at(dnodes + node * sent.of_nodes + sent.node_offset[part] + place).v += v;  // zeros after its end
                    });
                }
                if (f.dedge) store_of_edges(b, d, f, from, f.first, static_cast<T*>(f.dedge));
            }
        }
    }

    // Room for the derivatives of the nodes that send along some blocks: in a batch of graphs, those of a few graphs.
    void own_nodes(int64_t begin, int64_t end) {
        first_node = p.num_nodes;
        for (int64_t i = begin; i < end; ++i) {
            const Block<T> b = block(i);
            for (int64_t e = b.first; e < b.first + b.D * b.count; ++e) {
                first_node = std::min(first_node, p.src[p.order[e]]);
                last_node = std::max(last_node, p.src[p.order[e]] + 1);
            }
        }
        dnodes = Array<T>(std::max(int64_t(0), last_node - first_node) * sent.of_nodes + LANES<T>, 0);
    }

    // Add what this thread found for a node to its derivatives.
    void add_node(int64_t node) const {
        if (node < first_node || node >= last_node) return;
        const T* from = dnodes + (node - first_node) * sent.of_nodes;
        for (int64_t part = 0; part < sent.count; ++part) {
            const int64_t size = (2 * sent.parts[part].degree + 1) * sent.parts[part].of_node;
            T* to = static_cast<T*>(sent.parts[part].dnode);
            if (!to) continue;
            for (int64_t i = 0; i < size; ++i) to[node * size + i] += from[sent.node_offset[part] + i];
        }
    }

private:
    static constexpr int64_t C = COLUMN<W, T>;
    Array<T> apart;  // one part of one edge, before it is turned
    int64_t first_node = 0, last_node = 0;
    Array<T> dnodes;

    static int64_t blocks_of(int64_t rows) { return (rows + B<T> - 1) / B<T>; }
    int64_t edge(const Block<T>& b, int64_t row, int64_t d) const { return p.order[b.planned(row, d)]; }
    T* frame(T* frames, int64_t l, int64_t d) const {
        return frames + (d * frame_offset.back() + frame_offset[l]) * C;
    }

    T* dframe(const Block<T>& b, int64_t l, int64_t d) const {
        return b.dframes + (d * frame_offset.back() + frame_offset[l]) * B<T>;
    }

    // Some rows of so many numbers each, of all edges, and of their tangents, null where zero.
    void gather_numbers(const void* from, const void* tangents, const int64_t* rows, int64_t size, T* to) const {
        gather<false, W>(static_cast<const T*>(from), p.num_edges, rows, size, 1, to, size);
        if (W == 1) return;
        if (tangents) {
            gather<false, W>(static_cast<const T*>(tangents), p.num_edges, rows, size, 1, to + B<T>, size);
        } else {
            fill(to + B<T>, size);
        }
    }

    void gather_sent(const Block<T>& b, int64_t part, int64_t d, T* to) const {
        const Part& f = sent.parts[part];
        gather_sent(b, f, d, f.node, f.edge, to);
        if (W == 2) gather_sent(b, f, d, f.tnode, f.tedge, to + B<T>);
    }

    // Values, or tangents; null where they are zero.
    void gather_sent(const Block<T>& b, const Part& f, int64_t d, const void* of_nodes, const void* of_edges, T* to) const {
        const int64_t orders = 2 * f.degree + 1;
        int64_t rows[B<T>];
        if (!of_nodes || f.of_node < f.channels) fill(to, orders * f.channels);
        for (int64_t r = 0; r < B<T> && of_nodes; ++r) rows[r] = p.src[edge(b, r, d)];
        const T *node = static_cast<const T*>(of_nodes), *own = static_cast<const T*>(of_edges);
        if (node) gather<false, W>(node, p.num_nodes, rows, f.of_node, orders, to, f.channels);
        for (int64_t r = 0; r < B<T> && own; ++r) rows[r] = edge(b, r, d);
        if (own) gather<true, W>(own, p.num_edges, rows, f.of_edge, orders, to + f.first * C, f.channels);
    }

    void gather_arriving(const Block<T>& b, int64_t part, int64_t d, T* to) const {
        const Part& f = made.parts[part];
        const int64_t size = (2 * f.degree + 1) * f.channels;
        int64_t rows[B<T>];
        for (int64_t r = 0; r < B<T>; ++r) rows[r] = edge(b, r, d);
        const T* from = static_cast<const T*>(f.dedge);
        gather<false, W>(from, p.num_edges, rows, f.channels, 2 * f.degree + 1, to, f.channels);
        for (int64_t i = 0; i < size; ++i) {
            for (int64_t r = b.count; r < B<T>; ++r) to[i * C + r] = 0;
        }
        if (W == 2) fill(to + B<T>, size);
    }

    static void fill(T* columns, int64_t count) {
        for (int64_t i = 0; i < count; ++i) std::fill_n(columns + i * C, B<T>, T(0));
    }

    // Gather all parts and turn them into the frames.
    template <class Gather>
    void load(const Block<T>& b, const Side<T, W>& side, T* values, Gather gather) {
        for (int64_t part = 0; part < side.count; ++part) {
            const Part& f = side.parts[part];
            for (int64_t d = 0; d < b.D; ++d) {
                T* to = side.column(values, d, part, 0);
                gather(part, d, f.degree ? static_cast<T*>(apart) : to);
                if (f.degree) turn<false, W, T>(frame(b.frames, f.degree, d), 2 * f.degree + 1, f.channels, apart, to);
            }
        }
    }

    // What is asked for, turned back out of the frames.
    const T* turned_back(const Block<T>& b, const Side<T, W>& side, T* values, int64_t part, int64_t d) {
        const Part& f = side.parts[part];
        T* const from = side.column(values, d, part, 0);
        if (!f.degree) return asked_of<W>(from);
        turn<true, W, T>(frame(b.frames, f.degree, d), 2 * f.degree + 1, f.channels, from, apart);
        return asked_of<W, T>(apart);
    }

    // Channels of columns, from the first on, to where edges have them.
    void store_of_edges(const Block<T>& b, int64_t d, const Part& f, const T* from, int64_t first, T* to) const {
        const int64_t orders = 2 * f.degree + 1;
        scatter<W>(from + first * C, f.channels, b.count, f.of_edge, orders,
                [&](int64_t r, int64_t place, const Vector<T>& v, int64_t n) {
            put(reinterpret_cast<const T*>(&v), n, to + edge(b, r, d) * f.of_edge * orders + place);
        });
    }

    void store_gradient_of_frames(const Block<T>& b) {
        for (int64_t part = 0; part < sent.count; ++part) {
            for (int64_t d = 0; d < b.D; ++d) {
                gather_sent(b, part, d, apart);
                add_gradient_of_frame(b, sent, b.dx, part, d);
            }
        }
        for (int64_t part = 0; part < made.count; ++part) {
            for (int64_t d = 0; d < b.D; ++d) {
                gather_arriving(b, part, d, apart);
                add_gradient_of_frame(b, made, b.y, part, d);
            }
        }
        for (int64_t l = 1; l <= p.max_degree; ++l) {
            const int64_t size = (2 * l + 1) * (2 * l + 1);
            for (int64_t d = 0; p.frame(l) && d < b.D; ++d) {
                const T* from = dframe(b, l, d);
                for (int64_t r = 0; r < b.count; ++r) {
                    T* to = static_cast<T*>(p.dframes[l]) + b.planned(r, d) * size;
                    for (int64_t i = 0; i < size; ++i) to[i] = from[i * B<T> + r];
                }
            }
        }
    }

    void add_gradient_of_frame(const Block<T>& b, const Side<T, W>& side, const T* after, int64_t part, int64_t d) {
        const Part& f = side.parts[part];
        if (!f.degree) return;
        turn_gradient<W, T>(side.column(after, d, part, 0), apart, 2 * f.degree + 1, f.channels, dframe(b, f.degree, d));
    }
};

}  // namespace
