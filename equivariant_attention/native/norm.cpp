// Norms of features, features rescaled to given norms, and the norm nonlinearities of modules/norm.py: features rescaled to
// ReLU(norm + bias), or to ReLU(LayerNorm(norms)). With first derivatives, and for the LayerNorm also second ones.
//
// Names: dv is the derivative of a loss with respect to v, tv the tangent of v; u = v / |v| is the unit vector of a feature
// v, "along" a component along u, and "across" the factor of what is perpendicular to it.
//
// norm.py calls the functions at the end of this file.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "columns.hpp"
#include "threads.hpp"

namespace {

struct Part {  // one degree: [nodes, channels, orders]
    int64_t channels, orders;
    double noise;                // norms below this fraction of the largest norm of their node count as zero
    const void *values, *scale;  // scale: of rescaled, the norms of the output, [nodes, channels]; of biased, the biases,
    const void* shift;           // [channels]; of normalised, scale and shift are weight and bias of a LayerNorm, [channels]
    void *dvalues, *dscale, *dshift;        // null where not needed
    const void *tvalues, *tscale, *tshift;  // in the pass of second derivatives, tangents; null where zero
    void* output;                // norms or features; in a backward pass the derivatives with respect to them, or null
    void* toutput;               // in the pass of second derivatives, the tangents of the output
};

struct Norm {
    int64_t num_nodes, num_parts;
    double smallest, eps;  // norms below smallest are raised to it; eps of the LayerNorm
    const Part* parts;
    Threads threads;

    int64_t channels() const {
        int64_t sum = 0;
        for (int64_t n = 0; n < num_parts; ++n) sum += parts[n].channels;
        return sum;
    }
};

template <class T>
struct Row {  // one channel of a node: a vector of 2l+1 components
    const T* v;
    int64_t orders;
    T norm, inverse;
    bool constant;  // the norm was raised to the smallest, or is rounding noise, and has no derivative

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
template <int64_t ORDERS, class T, class S>
void squares_of(const T* v, int64_t channels, int64_t orders, S* squares) {
    if (ORDERS) orders = ORDERS;  // known at compile time
    for (int64_t c = 0; c < channels; ++c) {
        S square = 0;
        for (int64_t a = 0; a < orders; ++a) square += S(v[c * orders + a]) * v[c * orders + a];
        squares[c] = square;
    }
}

template <class T, class S>
void squares_of(const Part& part, int64_t node, S* squares) {
    const T* v = static_cast<const T*>(part.values) + node * part.channels * part.orders;
    switch (part.orders) {
        case 1: return squares_of<1, T>(v, part.channels, 1, squares);
        case 3: return squares_of<3>(v, part.channels, 3, squares);
        case 5: return squares_of<5>(v, part.channels, 5, squares);
        case 7: return squares_of<7>(v, part.channels, 7, squares);
        default: return squares_of<0>(v, part.channels, part.orders, squares);
    }
}

// Call task(share, part, node, squares, noise) for all nodes and parts: the indices of the thread's share, of the part and of
// the node, the squared norms of its channels, and the square below which these are noise. S is the type of the squares.
template <class T, class S, class Task>
int for_parts(const Norm& p, Task task) {
    return status_of([&] {
        const int64_t channels = p.channels(), shares = p.threads.count;
        in_parallel(p.threads, shares, [&](int64_t i) {
            const Array<S> squares(channels);
            for (int64_t node = i * p.num_nodes / shares; node < (i + 1) * p.num_nodes / shares; ++node) {
                S* square = squares;
                for (int64_t n = 0; n < p.num_parts; square += p.parts[n++].channels) squares_of<T>(p.parts[n], node, square);
                const S largest = *std::max_element<const S*>(squares, square);
                square = squares;
                for (int64_t n = 0; n < p.num_parts; square += p.parts[n++].channels) {
                    const double noise = p.parts[n].noise;
                    if (p.parts[n].output) task(i, n, node, square, S(noise * noise) * largest);
                }
            }
        });
    });
}

// Call task(share, part, index of the row, row) for all rows of all parts.
template <class T, class Task>
int for_rows(const Norm& p, Task task) {
    return for_parts<T, T>(p, [&](int64_t share, int64_t n, int64_t node, const T* squares, T noise) {
        const Part& part = p.parts[n];
        for (int64_t c = 0; c < part.channels; ++c) {
            const int64_t r = node * part.channels + c;
            const T* v = static_cast<const T*>(part.values) + r * part.orders;
            task(share, n, r, Row<T>(v, part.orders, squares[c], squares[c] < noise, T(p.smallest)));
        }
    });
}

template <class T>
int norms(const Norm* p) {
    return for_rows<T>(*p, [=](int64_t, int64_t n, int64_t r, const Row<T>& row) { static_cast<T*>(p->parts[n].output)[r] = row.norm; });
}

template <class T>
int norms_gradient(const Norm* p) {
    return for_rows<T>(*p, [=](int64_t, int64_t n, int64_t r, const Row<T>& row) {
        const Part& part = p->parts[n];
        if (!part.dvalues) return;
        const T factor = row.constant ? 0 : static_cast<const T*>(part.output)[r] * row.inverse;
        T* dv = static_cast<T*>(part.dvalues) + r * row.orders;
        for (int64_t a = 0; a < row.orders; ++a) dv[a] = row.constant ? 0 : factor * row.v[a];
    });
}

template <class T>
int rescaled(const Norm* p) {
    return for_rows<T>(*p, [=](int64_t, int64_t n, int64_t r, const Row<T>& row) {
        const Part& part = p->parts[n];
        const T scale = static_cast<const T*>(part.scale)[r];
        T* out = static_cast<T*>(part.output) + r * row.orders;
        for (int64_t a = 0; a < row.orders; ++a) out[a] = scale * (row.v[a] * row.inverse);
    });
}

template <class T>
int rescaled_gradient(const Norm* p) {
    return for_rows<T>(*p, [=](int64_t, int64_t n, int64_t r, const Row<T>& row) {
        const Part& part = p->parts[n];
        const T* d = static_cast<const T*>(part.output) + r * row.orders;
        const T along = row.dot(d) * row.inverse;
        if (part.dscale) static_cast<T*>(part.dscale)[r] = along;
        if (!part.dvalues) return;
        const T factor = static_cast<const T*>(part.scale)[r] * row.inverse;
        T* dv = static_cast<T*>(part.dvalues) + r * row.orders;
        for (int64_t a = 0; a < row.orders; ++a) dv[a] = row.constant ? 0 : factor * (d[a] - row.v[a] * row.inverse * along);
    });
}

// Features rescaled to ReLU(norm + bias).
template <class T>
int biased(const Norm* p) {
    return for_rows<T>(*p, [=](int64_t, int64_t n, int64_t r, const Row<T>& row) {
        const Part& part = p->parts[n];
        const T sum = row.norm + static_cast<const T*>(part.scale)[r % part.channels], scale = sum < 0 ? 0 : sum;
        T* out = static_cast<T*>(part.output) + r * row.orders;
        for (int64_t a = 0; a < row.orders; ++a) out[a] = scale * (row.v[a] * row.inverse);
    });
}

// Sums over nodes, one for each channel. Each thread has sums of its own, which are added up in a fixed order at the end.
template <class T>
class Sums {
public:
    explicit Sums(const Norm& p) : p(p), channels(p.channels()), sums(p.threads.count * channels) {
        for (int64_t n = 0, c = 0; n < p.num_parts; c += p.parts[n++].channels) first.push_back(c);
    }
    T* of(int64_t share, int64_t n) { return sums.data() + share * channels + first[n]; }

    void store(int64_t n, void* to) {
        for (int64_t c = 0; to && c < p.parts[n].channels; ++c) {
            T sum = 0;
            for (int64_t i = 0; i < p.threads.count; ++i) sum += of(i, n)[c];
            static_cast<T*>(to)[c] = sum;
        }
    }

private:
    const Norm& p;
    int64_t channels;
    std::vector<T> sums;
    std::vector<int64_t> first;
};

// dv, the derivative with respect to v of the output s(|v|) v / |v|. Args: d, that with respect to the output; scale, s(|v|);
// along = <d, v> / |v|; by_norm, the derivative with respect to |v| that comes through s.
template <class T>
void store_gradient(const Row<T>& row, const T* d, T scale, T along, T by_norm, T* dv) {
    const T across = scale * row.inverse, inward = (by_norm - across * along) * row.inverse;
    for (int64_t a = 0; a < row.orders; ++a) dv[a] = row.constant ? 0 : across * d[a] + inward * row.v[a];
}

template <class T>
int biased_gradient(const Norm* p) {
    Sums<T> dbias(*p);
    const int status = for_rows<T>(*p, [&](int64_t share, int64_t n, int64_t r, const Row<T>& row) {
        const Part& part = p->parts[n];
        const int64_t c = r % part.channels;
        const T* d = static_cast<const T*>(part.output) + r * row.orders;
        const T sum = row.norm + static_cast<const T*>(part.scale)[c], scale = sum < 0 ? 0 : sum;
        const T along = row.dot(d) * row.inverse, by_norm = sum > 0 ? along : 0;
        dbias.of(share, n)[c] += by_norm;
        if (part.dvalues) store_gradient(row, d, scale, along, by_norm, static_cast<T*>(part.dvalues) + r * row.orders);
    });
    for (int64_t n = 0; n < p->num_parts; ++n) dbias.store(n, p->parts[n].dscale);
    return status;
}

// ReLU(LayerNorm(norms)) of one part of a node. In double precision, as with few channels the derivatives are small
// differences of large values.
template <class T>
struct Normalised {
    std::vector<Row<T>> rows;
    std::vector<double> normal, output;  // the normalised norms (mean 0, variance 1), and ReLU(normal * weight + bias)
    std::vector<double> along, by_norm;  // derivatives with respect to the output, and to the norms
    double inverse = 0;                  // 1 / sqrt(variance + eps)

    void evaluate(const Norm& p, const Part& part, int64_t node, const double* squares, double noise) {
        const int64_t channels = part.channels;
        const T *w = static_cast<const T*>(part.scale), *b = static_cast<const T*>(part.shift);
        rows.clear();
        normal.resize(channels);
        output.resize(channels);
        along.resize(channels);
        by_norm.resize(channels);
        double mean = 0, variance = 0;
        for (int64_t c = 0; c < channels; ++c) {
            const T* v = static_cast<const T*>(part.values) + (node * channels + c) * part.orders;
            rows.emplace_back(v, part.orders, T(squares[c]), squares[c] < noise, T(p.smallest));
            const bool is_exact = !rows[c].constant && rows[c].norm <= std::numeric_limits<T>::max();
            normal[c] = is_exact ? std::sqrt(squares[c]) : rows[c].norm;
            mean += normal[c];
        }
        mean /= channels;
        for (int64_t c = 0; c < channels; ++c) {
            normal[c] -= mean;
            variance += normal[c] * normal[c];
        }
        inverse = 1 / std::sqrt(variance / channels + p.eps);
        for (int64_t c = 0; c < channels; ++c) {
            normal[c] *= inverse;
            const double y = normal[c] * w[c] + b[c];
            output[c] = y < 0 ? 0 : y;
        }
    }

    // From along to by_norm; derivatives with respect to weight and bias of the LayerNorm are added to dscale and dshift.
    void gradient(const Part& part, T* dscale, T* dshift) {
        const T* w = static_cast<const T*>(part.scale);
        double mean = 0, product = 0;
        for (int64_t c = 0; c < part.channels; ++c) {
            const double d = output[c] > 0 ? along[c] : 0;
            dscale[c] += d * normal[c];
            dshift[c] += d;
            by_norm[c] = d * w[c];
            mean += by_norm[c];
            product += by_norm[c] * normal[c];
        }
        mean /= part.channels;
        product /= part.channels;
        for (int64_t c = 0; c < part.channels; ++c) by_norm[c] = inverse * (by_norm[c] - mean - normal[c] * product);
    }
};

template <class T>
void store_each_part(const Norm& norm, Sums<T>& dscale, Sums<T>& dshift) {
    for (int64_t n = 0; n < norm.num_parts; ++n) {
        dscale.store(n, norm.parts[n].dscale);
        dshift.store(n, norm.parts[n].dshift);
    }
}

template <class T>
int normalised(const Norm* p) {
    std::vector<Normalised<T>> of_share(p->threads.count);
    return for_parts<T, double>(*p, [&](int64_t share, int64_t n, int64_t node, const double* squares, double noise) {
        const Part& part = p->parts[n];
        Normalised<T>& norms = of_share[share];
        norms.evaluate(*p, part, node, squares, noise);
        T* out = static_cast<T*>(part.output) + node * part.channels * part.orders;
        for (int64_t c = 0; c < part.channels; ++c, out += part.orders) {
            const Row<T>& row = norms.rows[c];
            const T scale = T(norms.output[c]);
            for (int64_t a = 0; a < part.orders; ++a) out[a] = scale * (row.v[a] * row.inverse);
        }
    });
}

template <class T>
int normalised_gradient(const Norm* p) {
    std::vector<Normalised<T>> of_share(p->threads.count);
    Sums<T> dscale(*p), dshift(*p);
    const int status = for_parts<T, double>(*p, [&](int64_t share, int64_t n, int64_t node, const double* squares, double noise) {
        const Part& part = p->parts[n];
        Normalised<T>& norms = of_share[share];
        norms.evaluate(*p, part, node, squares, noise);
        const int64_t first = node * part.channels * part.orders;
        const T* d = static_cast<const T*>(part.output) + first;
        for (int64_t c = 0; c < part.channels; ++c) {
            norms.along[c] = norms.rows[c].dot(d + c * part.orders) * norms.rows[c].inverse;
        }
        norms.gradient(part, dscale.of(share, n), dshift.of(share, n));
        for (int64_t c = 0; part.dvalues && c < part.channels; ++c) {
            T* dv = static_cast<T*>(part.dvalues) + first + c * part.orders;
            const T scale = T(norms.output[c]), along = T(norms.along[c]), by_norm = T(norms.by_norm[c]);
            store_gradient(norms.rows[c], d + c * part.orders, scale, along, by_norm, dv);
        }
    });
    store_each_part(*p, dscale, dshift);
    return status;
}

// Normalised, with a tangent of every value.
template <class T>
struct NormalisedSecond {
    Normalised<T> norms;
    std::vector<double> tnorm, toutput, tnormal, d, td, by_norm, tby_norm;
    double product = 0;  // mean over channels of normal * (tnorm - mean of tnorm)

    // <a, b> of one row, summed in double precision.
    static double dot(const T* a, const T* b, int64_t orders) {
        double sum = 0;
        for (int64_t i = 0; i < orders; ++i) sum += double(a[i]) * b[i];
        return sum;
    }

    static const T* row_of(const void* values, const Part& part, int64_t node, int64_t c) {
        return values ? static_cast<const T*>(values) + (node * part.channels + c) * part.orders : nullptr;
    }
    static double element(const void* values, int64_t c) { return values ? static_cast<const T*>(values)[c] : T(0); }

    void evaluate(const Norm& p, const Part& part, int64_t node, const double* squares, double noise) {
        norms.evaluate(p, part, node, squares, noise);
        const int64_t channels = part.channels;
        for (auto* values : {&tnorm, &toutput, &tnormal, &d, &td, &by_norm, &tby_norm}) values->assign(channels, 0);
        double mean = 0;
        for (int64_t c = 0; c < channels; ++c) {
            const Row<T>& row = norms.rows[c];
            const T* tangent = row_of(part.tvalues, part, node, c);
            if (tangent && !row.constant) tnorm[c] = dot(row.v, tangent, part.orders) * row.inverse;
            mean += tnorm[c] / channels;
        }
        product = 0;
        for (int64_t c = 0; c < channels; ++c) product += norms.normal[c] * (tnorm[c] - mean) / channels;
        for (int64_t c = 0; c < channels; ++c) {
            tnormal[c] = norms.inverse * (tnorm[c] - mean - norms.normal[c] * product);
            if (norms.output[c] > 0) {
                const double by_scale = norms.normal[c] * element(part.tscale, c) + element(part.tshift, c);
                toutput[c] = tnormal[c] * element(part.scale, c) + by_scale;
            }
        }
    }

    // From d and td to by_norm, the derivatives with respect to the norms, and their tangents. The tangents of the derivatives
    // with respect to weight and bias of the LayerNorm are added to dscale and dshift.
    void gradient(const Part& part, T* dscale, T* dshift) {
        double mean = 0, tmean = 0, along = 0, talong = 0;
        const double channels = double(part.channels);
        for (int64_t c = 0; c < part.channels; ++c) {
            const bool passes = norms.output[c] > 0;
            const double w = element(part.scale, c), by = passes ? d[c] : 0, tby = passes ? td[c] : 0;
            dscale[c] += T(tby * norms.normal[c] + by * tnormal[c]);
            dshift[c] += T(tby);
            by_norm[c] = by * w;
            tby_norm[c] = tby * w + by * element(part.tscale, c);
            mean += by_norm[c] / channels;
            tmean += tby_norm[c] / channels;
            along += by_norm[c] * norms.normal[c] / channels;
            talong += (tby_norm[c] * norms.normal[c] + by_norm[c] * tnormal[c]) / channels;
        }
        for (int64_t c = 0; c < part.channels; ++c) {
            const double inner = by_norm[c] - mean - norms.normal[c] * along;
            const double tinner = tby_norm[c] - tmean - tnormal[c] * along - norms.normal[c] * talong;
            by_norm[c] = norms.inverse * inner;
            tby_norm[c] = norms.inverse * (tinner - norms.inverse * product * inner);
        }
    }

    // The tangents of one channel of the output, tout, and of the derivatives with respect to its input, tdv (unless null).
    void row(const Part& part, int64_t node, int64_t c, const T* dout, T* tout, T* tdv) {
        const Row<T>& row = norms.rows[c];
        const T* tangent = row_of(part.tvalues, part, node, c);
        const double inverse = row.inverse, o = norms.output[c], to = toutput[c];
        for (int64_t a = 0; a < part.orders; ++a) {
            const double u = row.v[a] * inverse, tu = tangent && !row.constant ? (tangent[a] - u * tnorm[c]) * inverse : 0;
            tout[a] = T(to * u + o * tu);
            if (!tdv) continue;
            const double across = o * inverse, tacross = (to - o * inverse * tnorm[c]) * inverse;
            const double rest = dout[a] - u * d[c], trest = -tu * d[c] - u * td[c];
            const double value = tacross * rest + across * trest + tby_norm[c] * u + by_norm[c] * tu;
            tdv[a] = row.constant ? T(0) : T(value);
        }
    }

    // d = <dout, u> and its tangent.
    void contract(const Part& part, int64_t node, int64_t c, const T* dout) {
        const Row<T>& row = norms.rows[c];
        const T* tangent = row_of(part.tvalues, part, node, c);
        d[c] = dot(row.v, dout, part.orders) * row.inverse;
        const bool moves = tangent && !row.constant;
        td[c] = moves ? (dot(tangent, dout, part.orders) - d[c] * tnorm[c]) * row.inverse : 0;
    }
};

template <class T>
int normalised_second(const Norm* p) {
    std::vector<NormalisedSecond<T>> of_share(p->threads.count);
    Sums<T> dscale(*p), dshift(*p);
    const int status = for_parts<T, double>(*p, [&](int64_t share, int64_t n, int64_t node, const double* squares, double noise) {
        const Part& part = p->parts[n];
        NormalisedSecond<T>& norms = of_share[share];
        norms.evaluate(*p, part, node, squares, noise);
        const int64_t first = node * part.channels * part.orders;
        const T* dout = static_cast<const T*>(part.output) + first;
        for (int64_t c = 0; c < part.channels; ++c) norms.contract(part, node, c, dout + c * part.orders);
        norms.gradient(part, dscale.of(share, n), dshift.of(share, n));
        T* const tout = static_cast<T*>(part.toutput) + first;
        T* const tdv = part.dvalues ? static_cast<T*>(part.dvalues) + first : nullptr;
        for (int64_t c = 0; c < part.channels; ++c) {
            const int64_t at_row = c * part.orders;
            norms.row(part, node, c, dout + at_row, tout + at_row, tdv ? tdv + at_row : nullptr);
        }
    });
    store_each_part(*p, dscale, dshift);
    return status;
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
extern "C" int biased_float32(const Norm* p) { return biased<float>(p); }
extern "C" int biased_float64(const Norm* p) { return biased<double>(p); }
extern "C" int biased_gradient_float32(const Norm* p) { return biased_gradient<float>(p); }
extern "C" int biased_gradient_float64(const Norm* p) { return biased_gradient<double>(p); }
extern "C" int normalised_float32(const Norm* p) { return normalised<float>(p); }
extern "C" int normalised_float64(const Norm* p) { return normalised<double>(p); }
extern "C" int normalised_gradient_float32(const Norm* p) { return normalised_gradient<float>(p); }
extern "C" int normalised_gradient_float64(const Norm* p) { return normalised_gradient<double>(p); }
extern "C" int normalised_second_float32(const Norm* p) { return normalised_second<float>(p); }
extern "C" int normalised_second_float64(const Norm* p) { return normalised_second<double>(p); }
