// Norms of features, and features of given norms in the directions of others, as modules/norm.py has them; and their
// first derivatives.
//
// norm.py calls the functions at the end of this file.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "columns.hpp"
#include "threads.hpp"

namespace {

struct Part {  // one degree: [nodes, channels, orders]
    int64_t channels, orders;
    double noise;                // norms below this part of the largest of their node count as zero
    const void *values, *scale;  // scale: the norms that the output is to have, [nodes, channels]
    void *dvalues, *dscale;      // null where not wanted
    void* output;                // the norms, or the features; derivatives by them, or null, in the backward pass
};

struct Norm {
    int64_t num_nodes, num_parts;
    double smallest;
    const Part* parts;
    Threads threads;
};

template <class T>
struct Row {  // one channel of a node
    const T* v;
    int64_t orders;
    T norm, inverse;
    bool constant;  // the norm is raised to the smallest, or noise, whose inverse is 0

    Row(const T* v, int64_t orders, T square, bool is_noise, T smallest) : v(v), orders(orders) {
        constant = is_noise || square < smallest * smallest;
        norm = constant ? smallest : std::sqrt(square);
        inverse = is_noise ? 0 : 1 / norm;
    }

    T dot(const T* d) const {
        T sum = 0;
        for (int64_t a = 0; a < orders; ++a) sum += v[a] * d[a];
        return sum;
    }
};

// The squares of the norms of a node's channels.
template <int64_t ORDERS, class T>
void squares_of(const T* v, int64_t channels, int64_t orders, T* squares) {
    if (ORDERS) orders = ORDERS;  // which the compiler knows
    for (int64_t c = 0; c < channels; ++c) {
        T square = 0;
        for (int64_t a = 0; a < orders; ++a) square += v[c * orders + a] * v[c * orders + a];
        squares[c] = square;
    }
}

template <class T>
void squares_of(const Part& part, int64_t node, T* squares) {
    const T* v = static_cast<const T*>(part.values) + node * part.channels * part.orders;
    switch (part.orders) {
        case 1: return squares_of<1>(v, part.channels, 1, squares);
        case 3: return squares_of<3>(v, part.channels, 3, squares);
        case 5: return squares_of<5>(v, part.channels, 5, squares);
        case 7: return squares_of<7>(v, part.channels, 7, squares);
        default: return squares_of<0>(v, part.channels, part.orders, squares);
    }
}

// Call task(part, number of the row, row) for all rows.
template <class T, class Task>
int for_rows(const Norm& p, Task task) {
    return status_of([&] {
        int64_t channels = 0;
        for (int64_t n = 0; n < p.num_parts; ++n) channels += p.parts[n].channels;
        const int64_t shares = p.threads.count;
        in_parallel(p.threads, shares, [&](int64_t i) {
            const Array<T> squares(channels);
            for (int64_t node = i * p.num_nodes / shares; node < (i + 1) * p.num_nodes / shares; ++node) {
                T* square = squares;
                for (int64_t n = 0; n < p.num_parts; square += p.parts[n++].channels) squares_of(p.parts[n], node, square);
                const T largest = *std::max_element<const T*>(squares, square);
                square = squares;
                for (int64_t n = 0; n < p.num_parts; ++n) {
                    const Part& part = p.parts[n];
                    const T noise = T(part.noise * part.noise) * largest;
                    for (int64_t r = node * part.channels; r < (node + 1) * part.channels; ++r, ++square) {
                        if (!part.output) continue;
                        const T* v = static_cast<const T*>(part.values) + r * part.orders;
                        task(part, r, Row<T>(v, part.orders, *square, *square < noise, T(p.smallest)));
                    }
                }
            }
        });
    });
}

template <class T>
int norms(const Norm* p) {
    return for_rows<T>(*p, [](const Part& part, int64_t r, const Row<T>& row) { static_cast<T*>(part.output)[r] = row.norm; });
}

template <class T>
int norms_gradient(const Norm* p) {
    return for_rows<T>(*p, [](const Part& part, int64_t r, const Row<T>& row) {
        if (!part.dvalues) return;
        const T factor = row.constant ? 0 : static_cast<const T*>(part.output)[r] * row.inverse;
        T* dv = static_cast<T*>(part.dvalues) + r * row.orders;
        for (int64_t a = 0; a < row.orders; ++a) dv[a] = row.constant ? 0 : factor * row.v[a];
    });
}

template <class T>
int rescaled(const Norm* p) {
    return for_rows<T>(*p, [](const Part& part, int64_t r, const Row<T>& row) {
        const T scale = static_cast<const T*>(part.scale)[r];
        T* out = static_cast<T*>(part.output) + r * row.orders;
        for (int64_t a = 0; a < row.orders; ++a) out[a] = scale * (row.v[a] * row.inverse);
    });
}

template <class T>
int rescaled_gradient(const Norm* p) {
    return for_rows<T>(*p, [](const Part& part, int64_t r, const Row<T>& row) {
        const T* d = static_cast<const T*>(part.output) + r * row.orders;
        const T along = row.dot(d) * row.inverse;
        if (part.dscale) static_cast<T*>(part.dscale)[r] = along;
        if (!part.dvalues) return;
        const T factor = static_cast<const T*>(part.scale)[r] * row.inverse;
        T* dv = static_cast<T*>(part.dvalues) + r * row.orders;
        for (int64_t a = 0; a < row.orders; ++a) dv[a] = row.constant ? 0 : factor * (d[a] - row.v[a] * row.inverse * along);
    });
}

}  // namespace

extern "C" int norms_float32(const Norm* p) { return norms<float>(p); }
extern "C" int norms_float64(const Norm* p) { return norms<double>(p); }
extern "C" int norms_gradient_float32(const Norm* p) { return norms_gradient<float>(p); }
extern "C" int norms_gradient_float64(const Norm* p) { return norms_gradient<double>(p); }
extern "C" int rescaled_float32(const Norm* p) { return rescaled<float>(p); }
extern "C" int rescaled_float64(const Norm* p) { return rescaled<double>(p); }
extern "C" int rescaled_gradient_float32(const Norm* p) { return rescaled_gradient<float>(p); }
extern "C" int rescaled_gradient_float64(const Norm* p) { return rescaled_gradient<double>(p); }
