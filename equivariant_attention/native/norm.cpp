// Norms of features, and features of given norms in the directions of others, as modules/norm.py has them; and their
// first derivatives.
//
// norm.py calls the functions at the end of this file.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "threads.hpp"

namespace {

struct Part {  // one degree: [rows, orders], a row being a channel of a node
    int64_t rows, orders;
    const void *values, *scale;  // scale: the norms that the output is to have, [rows]
    void *dvalues, *dscale;      // null where not wanted
    void* output;                // the norms, or the features; derivatives by them in the backward pass
};

struct Norm {
    int64_t num_parts;
    double smallest;
    const Part* parts;
    Threads threads;
};

template <class T>
struct Row {
    const T* v;
    int64_t orders;
    T square = 0, norm, inverse;
    bool small;  // the norm is raised to the smallest, and constant

    Row(const T* v, int64_t orders, T smallest) : v(v), orders(orders) {
        for (int64_t a = 0; a < orders; ++a) square += v[a] * v[a];
        small = square < smallest * smallest;
        norm = small ? smallest : std::sqrt(square);
        inverse = 1 / norm;
    }

    T dot(const T* d) const {
        T sum = 0;
        for (int64_t a = 0; a < orders; ++a) sum += v[a] * d[a];
        return sum;
    }
};

// Call task(part, number of the row, row) for all rows.
template <class T, class Task>
int for_rows(const Norm& p, Task task) {
    return status_of([&] {
        const int64_t shares = p.threads.count;
        in_parallel(p.threads, shares, [&](int64_t i) {
            for (int64_t n = 0; n < p.num_parts; ++n) {
                const Part& part = p.parts[n];
                const T* v = static_cast<const T*>(part.values);
                for (int64_t r = i * part.rows / shares; r < (i + 1) * part.rows / shares; ++r) {
                    task(part, r, Row<T>(v + r * part.orders, part.orders, T(p.smallest)));
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
        const T factor = row.small ? 0 : static_cast<const T*>(part.output)[r] * row.inverse;
        T* dv = static_cast<T*>(part.dvalues) + r * row.orders;
        for (int64_t a = 0; a < row.orders; ++a) dv[a] = row.small ? 0 : factor * row.v[a];
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
        for (int64_t a = 0; a < row.orders; ++a) dv[a] = row.small ? 0 : factor * (d[a] - row.v[a] * row.inverse * along);
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
