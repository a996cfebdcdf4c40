// Features and messages of a block of rows: gathered into columns, turned into the frames of the edges, mixed, and back.
//
// A row is an edge, or two edges that share radial weights; D is the number of edges in a row. A block is B rows. The frame of
// an edge is the Wigner-D matrix of a rotation that turns the edge to the polar axis. There kernels are SO(2) convolutions,
// as in eSCN (arXiv 2302.03655): they connect order m with +m and -m alone.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "duals.hpp"
#include "problem.hpp"

namespace {

// ---------------------------------------------------------------- mixing along the axis

// The orders that coefficient f (of w_0, a_1, b_1, a_2, ...) connects, for each of the D edges in a row, with signs:
// y_0 += w_0 x_0;  y_-m += a_m x_-m, y_+m += a_m x_+m;  y_-m -= b_m x_+m, y_+m += b_m x_-m.
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

// The derivatives of mix: those with respect to x are added to dx, those with respect to R are written to dR, which may be R
// itself, and their sums over rows, lane by lane, are added to dbias.
template <int J, int W, class T>
void mix_gradient(const T* R, int64_t inputs, int64_t outputs, const T* const* x, T* const* dx, const T* const* dy,
                  const T* sign, T* dR, T* dbias) {
    constexpr int64_t C = COLUMN<W, T>, N = LANES<T>;
    for (int64_t i = 0; i < inputs; ++i) {
        Number<W, T> from[J][2], sum[J][2] = {};
        for (int j = 0; j < J; ++j) {
            for (int v = 0; v < 2; ++v) from[j][v] = sign[j] * load<W>(x[j] + i * C + v * N);
        }
        for (int64_t o = 0; o < outputs; ++o) {
            const int64_t number = i * outputs + o;
            Number<W, T> by_r[2] = {};
            for (int v = 0; v < 2; ++v) {
                const int64_t place = number * C + v * N;
                const auto r = load<W>(R + place);
                for (int j = 0; j < J; ++j) {
                    const auto d = load<W>(dy[j] + o * C + v * N);
                    sum[j][v] += r * d;
                    by_r[v] += from[j][v] * d;
                }
                store<W>(dR + place, by_r[v]);
            }
            at(dbias + number * N).v += result<T>(by_r[0]) + result<T>(by_r[1]);
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
void mix_gradient(int count, const T* R, int64_t inputs, int64_t outputs, const T* const* x, T* const* dx,
                  const T* const* dy, const T* sign, T* dR, T* dbias) {
    (count == 4   ? mix_gradient<4, W, T>
     : count == 2 ? mix_gradient<2, W, T>
                  : mix_gradient<1, W, T>)(R, inputs, outputs, x, dx, dy, sign, dR, dbias);
}

// ---------------------------------------------------------------- values on a block of rows

template <class T, int W = 1>
struct Side {  // where columns of features, or of messages, lie: [edge of a row, part, order, channel]
    const Part* parts;
    int64_t count, width = 0;  // parts (degrees), and columns of one edge
    int64_t of_nodes = 0;      // elements that one node has
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

    // The first channel of one order of one part, of an edge of a row.
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
struct Block {  // B rows, of which the last may be padding
    int64_t first, D;                 // position of the first edge in the order of the plan, or in places; edges in each row
    int64_t rows[2];                  // rows in each register; others are copies of the last, whose results are not stored
    const int64_t* places = nullptr;  // for each row, a position in the order of the plan; null if positions are consecutive
    Array<T> scalars, dscalars, x, dx, y, dy, frames, dframes;

    int64_t planned(int64_t row, int64_t edge) const {
        return places ? places[first + row] : first + D * std::min(row, rows[0] + rows[1] - 1) + edge;
    }

    template <class Task>
    void for_rows(Task task) const {
        for (int v = 0; v < 2; ++v) {
            for (int64_t r = 0; r < rows[v]; ++r) task(v * LANES<T> + r);
        }
    }
};

// out[a] = sum_b F[a, b] x[b] for each channel, with a frame F of n x n columns; or with F transposed, which turns back.
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

// The derivatives of turn with respect to F: dF[a, b] += sum over channels of after[a] before[b].
template <int W, class T>
void turn_gradient(const T* after, const T* before, int64_t n, int64_t channels, T* dF) {
    constexpr int64_t C = COLUMN<W, T>, N = LANES<T>;
    for (int64_t a = 0; a < n; ++a) {
        for (int64_t b = 0; b < n; ++b) {
            for (int v = 0; v < 2; ++v) {
                Vector<T> sum = {};
                for (int64_t c = 0; c < channels; ++c) {
                    sum += result<T>(load<W>(after + (a * channels + c) * C + v * N) *
                                    load<W>(before + (b * channels + c) * C + v * N));
                }
                at(dF + (a * n + b) * B<T> + v * N).v += sum;
            }
        }
    }
}

// Gather B rows of a tensor [total, channels, orders] into columns [orders, all], all being the channels of a column; or add
// them to these. Registers are loaded along rows and transposed.
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
                    square[i] = at(from + start).v;  // may read into the next row, which is ignored below
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

// The inverse of gather: call store(row, place, values, count) for the elements place, ..., place + count - 1 of each row
// [channels, orders]. Args: rows: how many rows of each register there are.
template <int W, class T, class Store>
ALWAYS_INLINE void scatter(const T* from, int64_t all, const int64_t* rows, int64_t channels, int64_t orders, Store store) {
    constexpr int64_t N = LANES<T>;
    const int64_t size = channels * orders;
    for (int64_t half = 0; half < B<T>; half += N) {
        for (int64_t first = 0; first < size && rows[half / N]; first += N) {
            Vector<T> square[N] = {};
            int64_t c = first / orders, a = first % orders;
#pragma GCC unroll 16
            for (int i = 0; i < N; ++i) {
                if (first + i < size) square[i] = at(from + (a * all + c) * COLUMN<W, T> + half).v;
                if (++a == orders) a = 0, ++c;
            }
            transpose<T>(square);
            for (int64_t r = 0; r < rows[half / N]; ++r) store(half + r, first, square[r], std::min(N, size - first));
        }
    }
}

// Copy the first count elements of a register, in pieces whose sizes are known at compile time.
template <class T, int64_t SIZE = LANES<T>>
void put(const T* from, int64_t count, T* to) {
    if (count & SIZE) {
        std::memcpy(to, from, SIZE * sizeof(T));
        from += SIZE, to += SIZE;
    }
    if constexpr (SIZE > 1) put<T, SIZE / 2>(from, count, to);
}

template <class T>
class NodeSums {  // the sums of one thread for derivatives with respect to features of nodes
public:
    explicit NodeSums(const Problem& p) : side(p.features, p.num_features) {}

    // Allocate sums for a range of nodes: in a batch of graphs, a thread meets the nodes of a few graphs only.
    void own(int64_t begin, int64_t end) {
        first = begin, last = end;
        values = Array<T>(std::max(int64_t(0), last - first) * side.of_nodes + LANES<T>, 0);
    }

    // The sums of one node and part, [channels, 2l+1]; a whole register may be written from any of its elements on.
    T* of(int64_t node, int64_t part) { return values + (node - first) * side.of_nodes + side.node_offset[part]; }

    // Add the sums of this thread to the derivatives with respect to a node.
    void add(int64_t node) const {
        if (node < first || node >= last) return;
        const T* from = values + (node - first) * side.of_nodes;
        for (int64_t part = 0; part < side.count; ++part) {
            const int64_t size = (2 * side.parts[part].degree + 1) * side.parts[part].of_node;
            T* to = static_cast<T*>(side.parts[part].dnode);
            if (!to) continue;
            for (int64_t i = 0; i < size; ++i) to[node * size + i] += from[side.node_offset[part] + i];
        }
    }

private:
    const Side<T> side;
    int64_t first = 0, last = 0;
    Array<T> values;
};

template <class T, int W = 1>
class Edges {  // loads and stores the tensors of a block, in one thread
public:
    const Problem& p;
    const Side<T, W> sent, made;
    std::vector<int64_t> frame_offset{0};
    NodeSums<T> nodes;

    Edges(const Problem& p, const Part* sent_parts)
        : p(p),
          sent(sent_parts, p.num_features),
          made(p.messages, p.num_messages),
          nodes(p),
          apart(std::max(sent.largest(), made.largest()) * C) {
        for (int64_t l = 0; l <= p.max_degree; ++l) {
            frame_offset.push_back(frame_offset.back() + (p.frame(l) ? (2 * l + 1) * (2 * l + 1) : 0));
        }
    }

    // Whether a backward pass needs the messages too: for their tangents, or for derivatives with respect to frames.
    bool makes_messages() const { return W == 2 || p.dframes; }

    // Load everything that a block needs for its messages, or for their derivatives.
    void load_for_messages(Block<T>& b) {
        load_scalars(b);
        load_frames(b);
        load_sent(b);
        b.y = Array<T>(b.D * made.width * C, 0);
    }

    void load_for_gradient(Block<T>& b) {
        load_scalars(b);
        load_frames(b);
        load_sent(b);
        load_arriving(b);
        b.dx = Array<T>(b.D * sent.width * C, 0);
        if (p.dscalars) b.dscalars = Array<T>(b.D * p.num_scalars * C, 0);
        if (makes_messages()) b.y = Array<T>(b.D * made.width * C, 0);
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
        b.for_rows([&](int64_t r) {
            for (int64_t d = 0; p.dscalars && d < b.D; ++d) {
                T* to = static_cast<T*>(p.dscalars) + edge(b, r, d) * p.num_scalars;
                for (int64_t i = 0; i < p.num_scalars; ++i) to[i] = result_of<W, T>(b.dscalars)[(d * p.num_scalars + i) * C + r];
            }
        });
        for (int64_t part = 0; part < sent.count; ++part) {
            const Part& f = sent.parts[part];
            for (int64_t d = 0; d < b.D; ++d) {
                const T* from = turned_back(b, sent, b.dx, part, d);
                if (f.dnode) {
                    scatter<W>(from, f.channels, b.rows, f.of_node, 2 * f.degree + 1,
                            [&](int64_t r, int64_t place, const Vector<T>& v, int64_t) {
                        at(nodes.of(p.src[edge(b, r, d)], part) + place).v += v;  // lanes beyond the row are zero
                    });
                }
                if (f.dedge) store_of_edges(b, d, f, from, f.first, static_cast<T*>(f.dedge));
            }
        }
    }

    T* frame(T* frames, int64_t l, int64_t d) const {
        return frames + (d * frame_offset.back() + frame_offset[l]) * C;
    }
    T* dframe(const Block<T>& b, int64_t l, int64_t d) const {
        return b.dframes + (d * frame_offset.back() + frame_offset[l]) * B<T>;
    }
    int64_t edge(const Block<T>& b, int64_t row, int64_t d) const { return p.order[b.planned(row, d)]; }

private:
    static constexpr int64_t C = COLUMN<W, T>;
    Array<T> apart;  // workspace: one part of one edge of each row, in the coordinates of the graph rather than a frame

    // Gather rows of [edges, size], and for W = 2 those of their tangents (null where zero).
    void gather_numbers(const void* from, const void* tangents, const int64_t* rows, int64_t size, T* to) const {
        gather<false, W>(static_cast<const T*>(from), p.num_edges, rows, size, 1, to, size);
        if (W == 1) return;
        if (tangents) {
            gather<false, W>(static_cast<const T*>(tangents), p.num_edges, rows, size, 1, to + B<T>, size);
        } else {
            fill(to + B<T>, size);
        }
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

    void gather_sent(const Block<T>& b, int64_t part, int64_t d, T* to) const {
        const Part& f = sent.parts[part];
        gather_sent(b, f, d, f.node, f.edge, to);
        if (W == 2) gather_sent(b, f, d, f.tnode, f.tedge, to + B<T>);
    }

    // The features of nodes and edges, added up; null where they are zero.
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
        for (int v = 0; v < 2; ++v) {
            for (int64_t i = 0; i < size && b.rows[v] < LANES<T>; ++i) {
                std::fill_n(to + i * C + v * LANES<T> + b.rows[v], LANES<T> - b.rows[v], T(0));
            }
        }
        if (W == 2) fill(to + B<T>, size);
    }

    static void fill(T* columns, int64_t count) {
        for (int64_t i = 0; i < count; ++i) std::fill_n(columns + i * C, B<T>, T(0));
    }

    // Gather all parts and turn them into the frames of their edges.
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

    // One part turned back out of the frames: values for W = 1, tangents for W = 2.
    const T* turned_back(const Block<T>& b, const Side<T, W>& side, T* values, int64_t part, int64_t d) {
        const Part& f = side.parts[part];
        T* const from = side.column(values, d, part, 0);
        if (!f.degree) return result_of<W>(from);
        turn<true, W, T>(frame(b.frames, f.degree, d), 2 * f.degree + 1, f.channels, from, apart);
        return result_of<W, T>(apart);
    }

    // Write the columns of some channels, from the first on, to the rows of the edges.
    void store_of_edges(const Block<T>& b, int64_t d, const Part& f, const T* from, int64_t first, T* to) const {
        const int64_t orders = 2 * f.degree + 1;
        scatter<W>(from + first * C, f.channels, b.rows, f.of_edge, orders,
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
                b.for_rows([&](int64_t r) {
                    T* to = static_cast<T*>(p.dframes[l]) + b.planned(r, d) * size;
                    for (int64_t i = 0; i < size; ++i) to[i] = from[i * B<T> + r];
                });
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
