// Dual numbers, for derivatives in forward mode. Number<1, T> is a value; Number<2, T> is a value and its tangent, the
// derivative of the value along a given tangent of all inputs. A pass that is written for Number<W, T> computes values for
// W = 1 and their tangents for W = 2: second derivatives are the pass of first derivatives on dual numbers.
//
// In memory a column has B values, and for W = 2 then B tangents.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "../native/columns.hpp"

namespace {

template <int W, class T>
constexpr int64_t COLUMN = W * B<T>;  // the size of a column

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

// A scalar, such as a parameter, for all rows. Args: tangent: that of the scalar; null stands for zero.
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

// The backward pass of ReLU: d where its output is not zero (so NaN stays NaN), otherwise 0.
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

// What a pass computes: values for W = 1, tangents for W = 2.
template <class T>
ALWAYS_INLINE Vector<T> result(Vector<T> value) {
    return value;
}
template <class T>
ALWAYS_INLINE Vector<T> result(const Dual<T>& n) {
    return n.t;
}
template <int W, class T>
T* result_of(T* column) {
    return column + (W - 1) * B<T>;
}

// out[o] = sum_k A[o, k] x[k] + A[o, inner]. Args: row, the stride of A from row to row; tangent, that of A, or null.
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

// The derivatives of linear with respect to x: dx[k] += sum_o A[o, k] d[o].
template <int W, class T, class Row, class Inner>
void linear_gradient(int64_t count, const T* A, const T* tangent, Row row, Inner inner, const T* d, T* dx) {
    constexpr Constant<COLUMN<W, T>> C;
    for (int w = 0; w < W; ++w) {
        product<false, T>(inner, A, One(), row, count, d + w * B<T>, C, dx + w * B<T>, C);
    }
    if (W == 2 && tangent) product<false, T>(inner, tangent, One(), row, count, d, C, dx + B<T>, C);
}

// Transpose columns to rows, [W B, count], for add_outer, whose product d x has the tangent d tx + td x: so for W = 2 the
// tangents come first, opposite to the values of d.
template <int W, class T>
void opposite(const T* columns, int64_t count, T* rows) {
    for (int w = 0; w < W; ++w) {
        transpose(columns + (W - 1 - w) * B<T>, count, rows + w * B<T> * count, count, COLUMN<W, T>);
    }
}

}  // namespace
