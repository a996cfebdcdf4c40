// Numbers, alone (W = 1) or with a tangent beside them (W = 2), which is their derivative along one direction. A pass that
// is written for a Number<W, T> is built for both: with tangents, it makes the derivative of what it makes without.
//
// In memory a column of W = 2 has its B tangents after its B values; one of W = 1 has no tangents.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "../native/columns.hpp"

namespace {

template <int W, class T>
constexpr int64_t COLUMN = W * B<T>;  // from one column to the next

template <class T>
struct Dual {
    Vector<T> v, t;  // value and tangent
};

template <int W, class T>
struct NumberOf {
    using Type = Dual<T>;
};
template <class T>
struct NumberOf<1, T> {
    using Type = Vector<T>;
};
template <int W, class T>
using Number = typename NumberOf<W, T>::Type;

template <class T>
ALWAYS_INLINE Dual<T> operator+(const Dual<T>& a, const Dual<T>& b) {
    return {a.v + b.v, a.t + b.t};
}
template <class T>
ALWAYS_INLINE Dual<T> operator-(const Dual<T>& a, const Dual<T>& b) {
    return {a.v - b.v, a.t - b.t};
}
template <class T>
ALWAYS_INLINE Dual<T> operator*(const Dual<T>& a, const Dual<T>& b) {
    return {a.v * b.v, a.t * b.v + a.v * b.t};
}
template <class T>
ALWAYS_INLINE Dual<T> operator*(T a, const Dual<T>& b) {
    return {a * b.v, a * b.t};
}
template <class T>
ALWAYS_INLINE Dual<T>& operator+=(Dual<T>& a, const Dual<T>& b) {
    a.v += b.v, a.t += b.t;
    return a;
}

template <int W, class T>
ALWAYS_INLINE Number<W, T> load(const T* p) {
    if constexpr (W == 2) {
        return {at(p).v, at(p + B<T>).v};
    } else {
        return at(p).v;
    }
}

template <int W, class T>
ALWAYS_INLINE void store(T* p, const Number<W, T>& n) {
    if constexpr (W == 2) {
        at(p).v = n.v, at(p + B<T>).v = n.t;
    } else {
        at(p).v = n;
    }
}

template <int W, class T>
ALWAYS_INLINE void add(T* p, const Number<W, T>& n) {
    store<W>(p, load<W>(p) + n);
}

// The same for all rows; no tangent is a tangent of zero.
template <int W, class T>
ALWAYS_INLINE Number<W, T> everywhere(T value, const T* tangent) {
    if constexpr (W == 2) {
        return {Vector<T>{} + value, Vector<T>{} + (tangent ? *tangent : T(0))};
    } else {
        return Vector<T>{} + value;
    }
}

template <class T>
ALWAYS_INLINE Vector<T> inverse_root(Vector<T> x) {
    for (int64_t r = 0; r < LANES<T>; ++r) x[r] = 1 / std::sqrt(x[r]);
    return x;
}
template <class T>
ALWAYS_INLINE Dual<T> inverse_root(const Dual<T>& x) {
    const Vector<T> s = inverse_root<T>(x.v);
    return {s, T(-0.5) * s * s * s * x.t};
}

// The derivative of ReLU by its input: none where the output is zero, and NaN stays NaN.
template <class T>
ALWAYS_INLINE Vector<T> where_not_zero(Vector<T> output, Vector<T> d) {
    return output == 0 ? Vector<T>{} : d;
}
template <class T>
ALWAYS_INLINE Dual<T> where_not_zero(const Dual<T>& output, const Dual<T>& d) {
    return {where_not_zero<T>(output.v, d.v), where_not_zero<T>(output.v, d.t)};
}

template <class T>
ALWAYS_INLINE Vector<T> rectified(Vector<T> y) {
    return y < 0 ? Vector<T>{} : y;
}
template <class T>
ALWAYS_INLINE Dual<T> rectified(const Dual<T>& y) {
    const Vector<T> output = rectified<T>(y.v);
    return {output, where_not_zero<T>(output, y.t)};
}

// What a pass returns: with tangents, these; without, the values.
template <class T>
ALWAYS_INLINE Vector<T> asked(Vector<T> value) {
    return value;
}
template <class T>
ALWAYS_INLINE Vector<T> asked(const Dual<T>& n) {
    return n.t;
}
template <int W, class T>
T* asked_of(T* column) {
    return column + (W - 1) * B<T>;
}

// out[o] = sum_k A[o, k] x[k] + A[o, inner], for rows of A that lie so far apart. Args: tangent, of A, or null.
template <int W, class T, class Row, class Inner>
void linear(int64_t count, const T* A, const T* tangent, Row row, Inner inner, const T* x, T* out) {
    constexpr Constant<COLUMN<W, T>> C;
    product<true, T>(count, A, row, One(), inner, x, C, out, C, A + inner);
    if constexpr (W == 2) {
        T* const along = out + B<T>;
        if (tangent) {
            product<true, T>(count, tangent, row, One(), inner, x, C, along, C, tangent + inner);
        } else {
            for (int64_t o = 0; o < count; ++o) std::fill_n(along + o * C, B<T>, T(0));
        }
        product<false, T>(count, A, row, One(), inner, x + B<T>, C, along, C);
    }
}

// Its derivatives with respect to x, dx[k] += sum_o A[o, k] d[o].
template <int W, class T, class Row, class Inner>
void linear_gradient(int64_t count, const T* A, const T* tangent, Row row, Inner inner, const T* d, T* dx) {
    constexpr Constant<COLUMN<W, T>> C;
    for (int w = 0; w < W; ++w) {
        product<false, T>(inner, A, One(), row, count, d + w * B<T>, C, dx + w * B<T>, C);
    }
    if (W == 2 && tangent) product<false, T>(inner, tangent, One(), row, count, d, C, dx + B<T>, C);
}

// Columns as rows, [W B, count], as add_outer multiplies them with columns: tangents with values, values with tangents.
template <int W, class T>
void opposite(const T* columns, int64_t count, T* rows) {
    for (int w = 0; w < W; ++w) {
        transpose(columns + (W - 1 - w) * B<T>, count, rows + w * B<T> * count, count, COLUMN<W, T>);
    }
}

}  // namespace
