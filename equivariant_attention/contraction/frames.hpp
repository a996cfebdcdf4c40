// What edges carry, on a block of rows in the edges' frames: in and out of columns, turned, and mixed along the axis.
//
// A row is an edge, or two edges that share radial weights; D is the number of edges in a row.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../native/columns.hpp"
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
template <int J, class T>
void mix(const T* R, int64_t inputs, int64_t outputs, const T* const* x, T* const* y, const T* sign) {
    for (int64_t o = 0; o < outputs; ++o) {
        Vector<T> sum[J][2] = {};
        for (int64_t i = 0; i < inputs; ++i) {
            for (int v = 0; v < 2; ++v) {
                const Vector<T> r = at(R + (i * outputs + o) * B<T> + v * LANES<T>).v;
                for (int j = 0; j < J; ++j) sum[j][v] += r * at(x[j] + i * B<T> + v * LANES<T>).v;
            }
        }
        for (int j = 0; j < J; ++j) {
            for (int v = 0; v < 2; ++v) at(y[j] + o * B<T> + v * LANES<T>).v += sign[j] * sum[j][v];
        }
    }
}

// The derivatives of mix by x, added to dx, and by R, in the place of R and summed over rows in dbias.
template <int J, class T>
void mix_gradient(T* R, int64_t inputs, int64_t outputs, const T* const* x, T* const* dx, const T* const* dy,
                  const T* sign, T* dbias) {
    for (int64_t i = 0; i < inputs; ++i) {
        Vector<T> from[J][2], sum[J][2] = {};
        for (int j = 0; j < J; ++j) {
            for (int v = 0; v < 2; ++v) from[j][v] = sign[j] * at(x[j] + i * B<T> + v * LANES<T>).v;
        }
        for (int64_t o = 0; o < outputs; ++o) {
            const int64_t number = i * outputs + o;
            Vector<T> dR[2] = {};
            for (int v = 0; v < 2; ++v) {
                auto& r = at(R + number * B<T> + v * LANES<T>);
                for (int j = 0; j < J; ++j) {
                    const Vector<T> d = at(dy[j] + o * B<T> + v * LANES<T>).v;
                    sum[j][v] += r.v * d;
                    dR[v] += from[j][v] * d;
                }
                r.v = dR[v];
            }
            at(dbias + number * LANES<T>).v += dR[0] + dR[1];
        }
        for (int j = 0; j < J; ++j) {
            for (int v = 0; v < 2; ++v) at(dx[j] + i * B<T> + v * LANES<T>).v += sign[j] * sum[j][v];
        }
    }
}

template <class T>
void mix(int count, const T* R, int64_t inputs, int64_t outputs, const T* const* x, T* const* y, const T* sign) {
    (count == 4 ? mix<4, T> : count == 2 ? mix<2, T> : mix<1, T>)(R, inputs, outputs, x, y, sign);
}

template <class T>
void mix_gradient(int count, T* R, int64_t inputs, int64_t outputs, const T* const* x, T* const* dx,
                  const T* const* dy, const T* sign, T* dbias) {
    (count == 4   ? mix_gradient<4, T>
     : count == 2 ? mix_gradient<2, T>
                  : mix_gradient<1, T>)(R, inputs, outputs, x, dx, dy, sign, dbias);
}

// ---------------------------------------------------------------- values on a block of rows

template <class T>
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
        return values + (edge * width + offset[part] + order * parts[part].channels) * B<T>;
    }

    int64_t largest() const {
        int64_t size = 0;
        for (int64_t i = 0; i < count; ++i) size = std::max(size, (2 * parts[i].degree + 1) * parts[i].channels);
        return size;
    }
};

template <class T>
struct Block {
    int64_t first, D;                 // where in the order of the plan, or of places, it starts; edges in each row
    int64_t rows[2];                  // in each register; the others fill it up, and nothing that they make is stored
    const int64_t* places = nullptr;  // in the order of the plan, of every row; if null, they are one after the other
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

// out[a] += sum_b F[a, b] x[b], for matrices of n x n columns and each of the channels; or with F transposed.
template <bool TRANSPOSED, class T>
void turn(const T* F, int64_t n, int64_t channels, const T* x, T* out) {
    for (int64_t a = 0; a < n; ++a) {
        for (int64_t c = 0; c < channels; ++c) {
            Vector<T> sum[2] = {};
            for (int64_t b = 0; b < n; ++b) {
                const T *f = F + (TRANSPOSED ? b * n + a : a * n + b) * B<T>, *value = x + (b * channels + c) * B<T>;
                for (int v = 0; v < 2; ++v) sum[v] += at(f + v * LANES<T>).v * at(value + v * LANES<T>).v;
            }
            for (int v = 0; v < 2; ++v) at(out + (a * channels + c) * B<T> + v * LANES<T>).v = sum[v];
        }
    }
}

// dF[a, b] += sum over channels of after[a] before[b].
template <class T>
void turn_gradient(const T* after, const T* before, int64_t n, int64_t channels, T* dF) {
    for (int64_t a = 0; a < n; ++a) {
        for (int64_t b = 0; b < n; ++b) {
            for (int v = 0; v < 2; ++v) {
                Vector<T> sum = {};
                for (int64_t c = 0; c < channels; ++c) {
                    sum += at(after + (a * channels + c) * B<T> + v * LANES<T>).v *
                           at(before + (b * channels + c) * B<T> + v * LANES<T>).v;
                }
                at(dF + (a * n + b) * B<T> + v * LANES<T>).v += sum;
            }
        }
    }
}

// Some rows of a tensor [rows, channels, orders] to columns [orders, of all channels], or added to these.
template <bool ADD, class T>
void gather(const T* from, int64_t total, const int64_t* rows, int64_t channels, int64_t orders, T* to, int64_t all) {
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
                    auto& column = at(to + (a * all + c) * B<T> + half);
                    column.v = ADD ? column.v + square[i] : square[i];
                }
                if (++a == orders) a = 0, ++c;
            }
        }
    }
}

// Columns [orders, of all channels] to rows [channels, orders], so many of each register; store(row, place, values,
// count) takes some of a row's.
template <class T, class Store>
void scatter(const T* from, int64_t all, const int64_t* rows, int64_t channels, int64_t orders, Store store) {
    constexpr int64_t N = LANES<T>;
    const int64_t size = channels * orders;
    for (int64_t half = 0; half < B<T>; half += N) {
        for (int64_t first = 0; first < size && rows[half / N]; first += N) {
            Vector<T> square[N] = {};
            int64_t c = first / orders, a = first % orders;
#pragma GCC unroll 16
            for (int i = 0; i < N; ++i) {
                if (first + i < size) square[i] = at(from + (a * all + c) * B<T> + half).v;
                if (++a == orders) a = 0, ++c;
            }
            transpose<T>(square);
            for (int64_t r = 0; r < rows[half / N]; ++r) store(half + r, first, square[r], std::min(N, size - first));
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

template <class T>
class NodeSums {  // derivatives by features of nodes, one thread's
public:
    explicit NodeSums(const Problem& p) : side(p.features, p.num_features) {}

    // Room for those of some nodes: in a batch of graphs, the nodes of a few graphs.
    void own(int64_t begin, int64_t end) {
        first = begin, last = end;
        values = Array<T>(std::max(int64_t(0), last - first) * side.of_nodes + LANES<T>, 0);
    }

    // Those by one part, [channels, 2l+1], with memory for a register after their end.
    T* of(int64_t node, int64_t part) { return values + (node - first) * side.of_nodes + side.node_offset[part]; }

    // Add what this thread found for a node to its derivatives.
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

template <class T>
class Edges {  // reads and writes what edges carry, one thread's
public:
    const Problem& p;
    const Side<T> sent, made;
    std::vector<int64_t> frame_offset{0};
    NodeSums<T> nodes;

    Edges(const Problem& p, const Part* sent_parts)
        : p(p),
          sent(sent_parts, p.num_features),
          made(p.messages, p.num_messages),
          nodes(p),
          apart(std::max(sent.largest(), made.largest()) * B<T>) {
        for (int64_t l = 0; l <= p.max_degree; ++l) {
            frame_offset.push_back(frame_offset.back() + (p.frame(l) ? (2 * l + 1) * (2 * l + 1) : 0));
        }
    }

    // All that a block needs for its messages, or for their derivatives.
    void load_for_messages(Block<T>& b) {
        load_scalars(b);
        load_frames(b);
        load_sent(b);
        b.y = Array<T>(b.D * made.width * B<T>, 0);
    }

    void load_for_gradient(Block<T>& b) {
        load_scalars(b);
        load_frames(b);
        load_sent(b);
        load_arriving(b);
        b.dx = Array<T>(b.D * sent.width * B<T>, 0);
        if (p.dscalars) b.dscalars = Array<T>(p.num_scalars * B<T>, 0);
        if (p.dframes) b.y = Array<T>(b.D * made.width * B<T>, 0);
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
                for (int64_t i = 0; i < p.num_scalars; ++i) to[i] = b.dscalars[i * B<T> + r];
            }
        });
        for (int64_t part = 0; part < sent.count; ++part) {
            const Part& f = sent.parts[part];
            for (int64_t d = 0; d < b.D; ++d) {
                const T* from = turned_back(b, sent, b.dx, part, d);
                if (f.dnode) {
                    scatter(from, f.channels, b.rows, f.of_node, 2 * f.degree + 1,
                            [&](int64_t r, int64_t place, const Vector<T>& v, int64_t) {
                        at(nodes.of(p.src[edge(b, r, d)], part) + place).v += v;  // zeros after its end
                    });
                }
                if (f.dedge) store_of_edges(b, d, f, from, f.first, static_cast<T*>(f.dedge));
            }
        }
    }

    T* frame(T* frames, int64_t l, int64_t d) const {
        return frames + (d * frame_offset.back() + frame_offset[l]) * B<T>;
    }
    int64_t edge(const Block<T>& b, int64_t row, int64_t d) const { return p.order[b.planned(row, d)]; }

private:
    Array<T> apart;  // one part of one edge, before it is turned

    void load_scalars(Block<T>& b) const {
        b.scalars = Array<T>(p.num_scalars * B<T>);
        int64_t rows[B<T>];
        for (int64_t r = 0; r < B<T>; ++r) rows[r] = edge(b, r, 0);
        const T* from = static_cast<const T*>(p.scalars);
        gather<false, T>(from, p.num_edges, rows, p.num_scalars, 1, b.scalars, p.num_scalars);
    }

    void load_frames(Block<T>& b) const {
        b.frames = Array<T>(b.D * frame_offset.back() * B<T>);
        if (p.dframes) b.dframes = Array<T>(b.D * frame_offset.back() * B<T>, 0);
        for (int64_t l = 1; l <= p.max_degree; ++l) {
            const int64_t size = (2 * l + 1) * (2 * l + 1);
            for (int64_t d = 0; p.frame(l) && d < b.D; ++d) {
                int64_t rows[B<T>];
                for (int64_t r = 0; r < B<T>; ++r) rows[r] = b.planned(r, d);
                const T* from = static_cast<const T*>(p.frame(l));
                gather<false, T>(from, p.num_edges, rows, size, 1, frame(b.frames, l, d), size);
            }
        }
    }

    void load_sent(Block<T>& b) {
        b.x = Array<T>(b.D * sent.width * B<T>);
        load(b, sent, b.x, [&](int64_t part, int64_t d, T* to) { gather_sent(b, part, d, to); });
    }

    void load_arriving(Block<T>& b) {
        b.dy = Array<T>(b.D * made.width * B<T>);
        load(b, made, b.dy, [&](int64_t part, int64_t d, T* to) { gather_arriving(b, part, d, to); });
    }

    void gather_sent(const Block<T>& b, int64_t part, int64_t d, T* to) const {
        const Part& f = sent.parts[part];
        const int64_t orders = 2 * f.degree + 1;
        int64_t rows[B<T>];
        if (f.of_node < f.channels) std::fill_n(to, orders * f.channels * B<T>, T(0));
        for (int64_t r = 0; r < B<T> && f.of_node; ++r) rows[r] = p.src[edge(b, r, d)];
        const T *node = static_cast<const T*>(f.node), *own = static_cast<const T*>(f.edge);
        if (f.of_node) gather<false>(node, p.num_nodes, rows, f.of_node, orders, to, f.channels);
        for (int64_t r = 0; r < B<T> && f.of_edge; ++r) rows[r] = edge(b, r, d);
        if (f.of_edge) gather<true>(own, p.num_edges, rows, f.of_edge, orders, to + f.first * B<T>, f.channels);
    }

    void gather_arriving(const Block<T>& b, int64_t part, int64_t d, T* to) const {
        const Part& f = made.parts[part];
        const int64_t size = (2 * f.degree + 1) * f.channels;
        int64_t rows[B<T>];
        for (int64_t r = 0; r < B<T>; ++r) rows[r] = edge(b, r, d);
        const T* from = static_cast<const T*>(f.dedge);
        gather<false, T>(from, p.num_edges, rows, f.channels, 2 * f.degree + 1, to, f.channels);
        for (int v = 0; v < 2; ++v) {
            for (int64_t i = 0; i < size && b.rows[v] < LANES<T>; ++i) {
                std::fill_n(to + i * B<T> + v * LANES<T> + b.rows[v], LANES<T> - b.rows[v], T(0));
            }
        }
    }

    // Gather all parts and turn them into the frames.
    template <class Gather>
    void load(const Block<T>& b, const Side<T>& side, T* values, Gather gather) {
        for (int64_t part = 0; part < side.count; ++part) {
            const Part& f = side.parts[part];
            for (int64_t d = 0; d < b.D; ++d) {
                T* to = side.column(values, d, part, 0);
                gather(part, d, f.degree ? static_cast<T*>(apart) : to);
                if (f.degree) turn<false, T>(frame(b.frames, f.degree, d), 2 * f.degree + 1, f.channels, apart, to);
            }
        }
    }

    // Values turned back out of the frames.
    const T* turned_back(const Block<T>& b, const Side<T>& side, T* values, int64_t part, int64_t d) {
        const Part& f = side.parts[part];
        const T* from = side.column(values, d, part, 0);
        if (!f.degree) return from;
        turn<true, T>(frame(b.frames, f.degree, d), 2 * f.degree + 1, f.channels, from, apart);
        return apart;
    }

    // Channels of columns, from the first on, to where edges have them.
    void store_of_edges(const Block<T>& b, int64_t d, const Part& f, const T* from, int64_t first, T* to) const {
        const int64_t orders = 2 * f.degree + 1;
        scatter(from + first * B<T>, f.channels, b.rows, f.of_edge, orders,
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
                const T* from = frame(b.dframes, l, d);
                b.for_rows([&](int64_t r) {
                    T* to = static_cast<T*>(p.dframes[l]) + b.planned(r, d) * size;
                    for (int64_t i = 0; i < size; ++i) to[i] = from[i * B<T> + r];
                });
            }
        }
    }

    void add_gradient_of_frame(const Block<T>& b, const Side<T>& side, const T* after, int64_t part, int64_t d) {
        const Part& f = side.parts[part];
        if (!f.degree) return;
        turn_gradient<T>(side.column(after, d, part, 0), apart, 2 * f.degree + 1, f.channels, frame(b.dframes, f.degree, d));
    }
};

}  // namespace
