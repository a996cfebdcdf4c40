// Messages in the frames of the edges, as frame.py has them, and their first derivatives, on a CPU.
//
// A row is an edge, or a pair of edges that share radial weights; D is the number of edges in a row. Rows are taken in
// blocks of B: every number of a block is a column of B values, one per row, two vector registers wide. So whatever the
// channels and degrees, sums over channels, orders and hidden values add registers up, and no sum runs across one. The
// radial weights R = A g of a block are made a few at a time, where they stay in the innermost cache, used at once, and
// overwritten; so are the hidden values g of the radial networks. The backward pass makes them again.
//
// compiled.py calls the functions at the end of this file.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

#include "../native/columns.hpp"
#include "../native/threads.hpp"

namespace {

constexpr int64_t HIDDEN = 32, VALUES = HIDDEN + 1;  // of a radial network, the last a one for its biases
constexpr int64_t PARAMETERS = 10;                   // tensors of a radial network
constexpr double EPSILON = 1e-5;                     // of LayerNorm
constexpr int NO_SUCH_NODE = 2, NO_SUCH_EDGE = 3;    // what a function returns; calls.py tells
constexpr int64_t RADIAL_WEIGHTS = 128;              // of a row, that are made together

// ---------------------------------------------------------------- what compiled.py passes, field by field as it is there

struct Part {  // a feature of the nodes, or a message of the edges: [nodes or edges, channels, 2 degree + 1]
    int64_t degree, channels;
    void *values, *gradient;
};

struct Network {
    int64_t feature, message;  // which part it takes to which
    const void* coupling;      // [F, F], from the coefficients J to the orders w_0, a_1, b_1, a_2, ...
};

struct Problem {
    int64_t num_nodes, num_edges, num_pairs, num_scalars, num_features, num_messages, num_networks, max_degree;
    int64_t channel, room;  // of the vector; bytes for the blocks that a thread evaluates together
    const Part *features, *messages;
    const Network* networks;
    const void* const* parameters;  // of a network: of both hidden layers weight, bias, scale, shift; of the last two
    void* const* gradients;         // null where not wanted, as are all others
    const void* const* frames;      // by degree, [edges, 2l+1, 2l+1] in the order of the plan; null where there is none
    void* const* dframes;
    const int64_t *src, *order;  // source node of every edge; the edges in the order of the plan, pairs first
    const void *scalars, *vector;
    void *dscalars, *dvector;
    Threads threads;

    const void* frame(int64_t degree) const { return frames ? frames[degree] : nullptr; }
};

using Values = std::integral_constant<int64_t, VALUES>;

// ---------------------------------------------------------------- hidden layers

// Take from every column of 32 values their mean.
template <class T>
void centre(T* values, int64_t columns) {
    std::vector<T> mean(columns);
    for (int64_t h = 0; h < HIDDEN; ++h) {
        for (int64_t i = 0; i < columns; ++i) mean[i] += values[h * columns + i];
    }
    for (int64_t i = 0; i < columns; ++i) mean[i] /= HIDDEN;
    for (int64_t h = 0; h < HIDDEN; ++h) {
        for (int64_t i = 0; i < columns; ++i) values[h * columns + i] -= mean[i];
    }
}

// Linear, LayerNorm and ReLU. Weight and bias are centred, so that what they make has mean zero.
template <class T>
struct Layer {
    int64_t inputs;
    Array<T> weight;  // [32, inputs + 1], the bias last
    const T *scale, *shift;

    Layer(int64_t inputs, const void* const* parameters)
        : inputs(inputs),
          weight(HIDDEN * (inputs + 1)),
          scale(static_cast<const T*>(parameters[2])),
          shift(static_cast<const T*>(parameters[3])) {
        const auto *w = static_cast<const T*>(parameters[0]), *b = static_cast<const T*>(parameters[1]);
        for (int64_t h = 0; h < HIDDEN; ++h) {
            std::copy_n(w + h * inputs, inputs, weight + h * (inputs + 1));
            weight[h * (inputs + 1) + inputs] = b[h];
        }
        centre<T>(weight, inputs + 1);
    }
};

template <class T>
void add_to(T* sum, const T* values, int64_t count) {
    for (int64_t i = 0; i < count; ++i) sum[i] += values[i];
}

// Its derivatives. What is summed over rows alone is so lane by lane, and over lanes at the end.
template <class T>
struct LayerGradient {
    int64_t inputs, lanes;  // lanes of a weight: 1 where an outer product sums over all rows
    Array<T> weight, bias, scale, shift;

    LayerGradient(int64_t inputs, int64_t lanes)
        : inputs(inputs),
          lanes(lanes),
          weight(HIDDEN * inputs * lanes, 0),
          bias(HIDDEN * LANES<T>, 0),
          scale(HIDDEN * LANES<T>, 0),
          shift(HIDDEN * LANES<T>, 0) {}

    void add(const LayerGradient& other) {
        add_to<T>(weight, other.weight, HIDDEN * inputs * lanes);
        add_to<T>(bias, other.bias, HIDDEN * LANES<T>);
        add_to<T>(scale, other.scale, HIDDEN * LANES<T>);
        add_to<T>(shift, other.shift, HIDDEN * LANES<T>);
    }

    // To where PyTorch has them: those by weights that were not centred yet.
    void store(void* const* gradients) const {
        T* g[4];
        for (int i = 0; i < 4; ++i) g[i] = static_cast<T*>(gradients[i]);
        sum(weight, lanes, HIDDEN * inputs, g[0]);
        sum(bias, LANES<T>, HIDDEN, g[1]);
        sum(scale, LANES<T>, HIDDEN, g[2]);
        sum(shift, LANES<T>, HIDDEN, g[3]);
        centre<T>(g[0], inputs);
        centre<T>(g[1], 1);
    }

private:
    static void sum(const T* from, int64_t lanes, int64_t count, T* to) {
        for (int64_t i = 0; i < count; ++i, from += lanes) to[i] = std::accumulate(from, from + lanes, T(0));
    }
};

template <class T>
struct Activation {  // of one layer on one block
    alignas(64) T normal[HIDDEN * B<T>], output[HIDDEN * B<T>], inverse[B<T>];

    void evaluate(const Layer<T>& layer, const T* x) {
        const int64_t n = layer.inputs;
        const T *w = layer.weight, *scale = layer.scale, *shift = layer.shift;
        if (n == HIDDEN) {
            product<true>(HIDDEN, w, Values(), One(), HIDDEN, x, B<T>, normal, B<T>, w + HIDDEN);
        } else {
            product<true>(HIDDEN, w, n + 1, One(), n, x, B<T>, normal, B<T>, w + n);
        }
        constexpr int64_t N = LANES<T>;
        Vector<T> squares[2][2] = {}, factor[2];
        for (int64_t h = 0; h < HIDDEN; ++h) {
            for (int v = 0; v < 2; ++v) {
                const Vector<T> z = at(normal + h * B<T> + v * N).v;
                squares[h % 2][v] += z * z;
            }
        }
        for (int v = 0; v < 2; ++v) {
            factor[v] = (squares[0][v] + squares[1][v]) / T(HIDDEN) + T(EPSILON);
            for (int64_t r = 0; r < N; ++r) factor[v][r] = 1 / std::sqrt(factor[v][r]);
            at(inverse + v * N).v = factor[v];
        }
        for (int64_t h = 0; h < HIDDEN; ++h) {
            for (int v = 0; v < 2; ++v) {
                const int64_t i = h * B<T> + v * N;
                const Vector<T> z = at(normal + i).v * factor[v], y = z * scale[h] + shift[h];
                at(normal + i).v = z;
                at(output + i).v = y < 0 ? Vector<T>{} : y;  // NaN stays NaN
            }
        }
    }

    // Derivatives. Args: d, by the output, overwritten; x, the input; rows, the same as rows, [B, 32], or null where it
    // is narrow; dx, by the input, added to, or null.
    void gradient(const Layer<T>& layer, T* d, const T* x, const T* rows, T* dx, LayerGradient<T>& sum) const {
        constexpr int64_t N = LANES<T>;
        const T* scale = layer.scale;
        T *dscale = sum.scale, *dshift = sum.shift, *dbias = sum.bias;
        Vector<T> along[2] = {}, factor[2] = {at(inverse).v, at(inverse + N).v};
        for (int64_t h = 0; h < HIDDEN; ++h) {
            Vector<T> by_scale = at(dscale + h * N).v, by_shift = at(dshift + h * N).v;
            for (int v = 0; v < 2; ++v) {
                const int64_t i = h * B<T> + v * N;
                const Vector<T> z = at(normal + i).v, dy = at(output + i).v == 0 ? Vector<T>{} : at(d + i).v;
                by_scale += dy * z;
                by_shift += dy;
                at(d + i).v = dy * scale[h];
                along[v] += at(d + i).v * z;
            }
            at(dscale + h * N).v = by_scale;
            at(dshift + h * N).v = by_shift;
        }
        for (int v = 0; v < 2; ++v) along[v] /= T(HIDDEN);
        for (int64_t h = 0; h < HIDDEN; ++h) {
            Vector<T> by_bias = at(dbias + h * N).v;
            for (int v = 0; v < 2; ++v) {
                const int64_t i = h * B<T> + v * N;
                at(d + i).v = (at(d + i).v - at(normal + i).v * along[v]) * factor[v];
                by_bias += at(d + i).v;
            }
            at(dbias + h * N).v = by_bias;
        }
        if (rows) {
            add_outer<T>(HIDDEN, d, rows, HIDDEN, sum.weight);
        } else {
            add_outer_by_lane(d, x, layer.inputs, sum.weight);
        }
        const T* w = layer.weight;
        if (dx) product<false>(layer.inputs, w, One(), layer.inputs + 1, HIDDEN, d, B<T>, dx, B<T>);
    }

private:
    static void add_outer_by_lane(const T* d, const T* x, int64_t inputs, T* dA) {
        for (int64_t h = 0; h < HIDDEN; ++h) {
            const Vector<T> d0 = at(d + h * B<T>).v, d1 = at(d + h * B<T> + LANES<T>).v;
            for (int64_t i = 0; i < inputs; ++i) {
                at(dA).v += d0 * at(x + i * B<T>).v + d1 * at(x + i * B<T> + LANES<T>).v;
                dA += LANES<T>;
            }
        }
    }
};

// ---------------------------------------------------------------- radial networks

template <class T>
struct Kernel {  // of a pair of degrees: its radial network, made ready
    int64_t feature, message, k, l, channels_in, channels_out, F;
    Layer<T> first, second;
    Array<T> last;  // A, [F, channels in, channels out, 33], in the basis of the orders

    Kernel(const Problem& p, const Network& n, const void* const* parameters)
        : feature(n.feature),
          message(n.message),
          k(p.features[feature].degree),
          l(p.messages[message].degree),
          channels_in(p.features[feature].channels),
          channels_out(p.messages[message].channels),
          F(2 * std::min(k, l) + 1),
          first(p.num_scalars, parameters),
          second(HIDDEN, parameters + 4),
          last(numbers() * VALUES, 0) {
        const auto *w = static_cast<const T*>(parameters[8]), *b = static_cast<const T*>(parameters[9]);
        const auto* coupling = static_cast<const T*>(n.coupling);
        for (int64_t o = 0; o < channels_out; ++o) {
            for (int64_t i = 0; i < channels_in; ++i) {
                for (int64_t f = 0; f < F; ++f) {
                    T* a = last + ((f * channels_in + i) * channels_out + o) * VALUES;
                    for (int64_t J = 0; J < F; ++J) {
                        const T factor = coupling[f * F + J];
                        const int64_t row = (o * channels_in + i) * F + J;
                        for (int64_t h = 0; h < HIDDEN; ++h) a[h] += factor * w[row * HIDDEN + h];
                        a[HIDDEN] += factor * b[row];
                    }
                }
            }
        }
    }

    int64_t numbers() const { return F * channels_in * channels_out; }
    int64_t together() const { return std::min(channels_in, std::max(int64_t(1), RADIAL_WEIGHTS / channels_out)); }
};

template <class T>
struct KernelGradient {
    LayerGradient<T> first, second;
    Array<T> last, bias;  // [F, channels in, channels out, 32], and as many registers

    explicit KernelGradient(const Kernel<T>& kernel)
        : first(kernel.first.inputs, LANES<T>),
          second(HIDDEN, 1),
          last(kernel.numbers() * HIDDEN, 0),
          bias(kernel.numbers() * LANES<T>, 0) {}

    void add(const KernelGradient& other, int64_t numbers) {
        first.add(other.first);
        second.add(other.second);
        add_to<T>(last, other.last, numbers * HIDDEN);
        add_to<T>(bias, other.bias, numbers * LANES<T>);
    }

    void store(const Kernel<T>& kernel, const Network& n, void* const* gradients) const {
        first.store(gradients);
        second.store(gradients + 4);
        const auto* coupling = static_cast<const T*>(n.coupling);
        auto *dw = static_cast<T*>(gradients[8]), *db = static_cast<T*>(gradients[9]);
        std::vector<T> sums(kernel.F);
        for (int64_t o = 0; o < kernel.channels_out; ++o) {
            for (int64_t i = 0; i < kernel.channels_in; ++i) {
                const int64_t first_f = i * kernel.channels_out + o, step = kernel.channels_in * kernel.channels_out;
                for (int64_t f = 0; f < kernel.F; ++f) {
                    const T* lanes = bias + (first_f + f * step) * LANES<T>;
                    sums[f] = std::accumulate(lanes, lanes + LANES<T>, T(0));
                }
                for (int64_t J = 0; J < kernel.F; ++J) {
                    const int64_t row = (o * kernel.channels_in + i) * kernel.F + J;
                    T w[HIDDEN] = {}, b = 0;
                    for (int64_t f = 0; f < kernel.F; ++f) {
                        const T factor = coupling[f * kernel.F + J];
                        const T* a = last + (first_f + f * step) * HIDDEN;
                        for (int64_t h = 0; h < HIDDEN; ++h) w[h] += factor * a[h];
                        b += factor * sums[f];
                    }
                    std::copy_n(w, HIDDEN, dw + row * HIDDEN);
                    db[row] = b;
                }
            }
        }
    }
};

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
    int64_t count, width = 0;
    std::vector<int64_t> offset;

    Side(const Part* parts, int64_t count) : parts(parts), count(count) {
        for (int64_t i = 0; i < count; ++i) {
            offset.push_back(width);
            width += (2 * parts[i].degree + 1) * parts[i].channels;
        }
    }

    // Of an edge of a row, the channels of one part and order.
    template <class U>
    U* column(U* values, int64_t edge, int64_t part, int64_t order) const {
        return values + (edge * width + offset[part] + order * parts[part].channels) * B<T>;
    }
};

template <class T>
struct Block {
    int64_t first, count, D;  // where in the order of the plan it starts; rows; edges in each
    Array<T> scalars, dscalars, x, dx, y, dy, frames, dframes;

    // The rows that fill the block up are its last one again, and nothing that they make is stored.
    int64_t planned(int64_t row, int64_t edge) const { return first + D * std::min(row, count - 1) + edge; }
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

template <class T>
class Worker {  // evaluates blocks, one thread's
public:
    Worker(const Problem& p, const std::vector<std::unique_ptr<Kernel<T>>>& kernels)
        : p(p), kernels(kernels), sent(p.features, p.num_features), made(p.messages, p.num_messages) {
        int64_t size = 0;
        frame_offset.push_back(0);
        for (int64_t l = 0; l <= p.max_degree; ++l) {
            frame_offset.push_back(frame_offset.back() + (p.frame(l) ? (2 * l + 1) * (2 * l + 1) : 0));
        }
        for (const auto* side : {&sent, &made}) {
            for (int64_t i = 0; i < side->count; ++i) {
                size = std::max(size, (2 * side->parts[i].degree + 1) * side->parts[i].channels);
            }
        }
        apart = Array<T>(size * B<T>);
        int64_t weights = 0;
        for (const auto& kernel : kernels) weights = std::max(weights, kernel->together() * kernel->channels_out);
        R = Array<T>(weights * B<T>);
    }

    void forward(int64_t begin, int64_t end) {
        for_blocks(begin, end, sent.width + made.width, [this](std::vector<Block<T>>& blocks) {
            for (auto& block : blocks) {
                load_scalars(block);
                load_frames(block);
                load_sent(block);
                block.y = Array<T>(block.D * made.width * B<T>, 0);
            }
            for (const auto& kernel : kernels) {
                for (auto& block : blocks) {
                    hidden(*kernel, block);
                    for_radial_weights(*kernel, block, [&](const Terms<T>& t, int64_t i, int64_t n, const T*) {
                        mix_block(*kernel, block, t, i, n);
                    });
                }
            }
            for (auto& block : blocks) store_messages(block);
        });
    }

    void gradient(int64_t begin, int64_t end) {
        const bool frames = p.dframes;
        for (const auto& kernel : kernels) gradients.push_back(std::make_unique<KernelGradient<T>>(*kernel));
        own_nodes(begin, end);
        for_blocks(begin, end, 2 * sent.width + (1 + frames) * made.width, [&](std::vector<Block<T>>& blocks) {
            for (auto& block : blocks) {
                load_scalars(block);
                load_frames(block);
                load_sent(block);
                load_arriving(block);
                block.dx = Array<T>(block.D * sent.width * B<T>, 0);
                if (p.dscalars) block.dscalars = Array<T>(p.num_scalars * B<T>, 0);
                if (frames) block.y = Array<T>(block.D * made.width * B<T>, 0);
            }
            for (size_t n = 0; n < kernels.size(); ++n) {
                for (auto& block : blocks) gradient_of(*kernels[n], block, *gradients[n]);
            }
            for (auto& block : blocks) store_gradients(block);
        });
    }

    std::vector<std::unique_ptr<KernelGradient<T>>> gradients;

    // Add what this thread found for a node to its derivatives.
    void add_node(int64_t node) const {
        if (node < first_node || node >= last_node) return;
        const T* from = dnodes + (node - first_node) * sent.width;
        for (int64_t part = 0; part < sent.count; ++part) {
            const int64_t size = (2 * sent.parts[part].degree + 1) * sent.parts[part].channels;
            T* to = static_cast<T*>(sent.parts[part].gradient);
            if (!to) continue;
            for (int64_t i = 0; i < size; ++i) to[node * size + i] += from[sent.offset[part] + i];
        }
    }

private:
    const Problem& p;
    const std::vector<std::unique_ptr<Kernel<T>>>& kernels;
    Side<T> sent, made;
    std::vector<int64_t> frame_offset;
    Array<T> apart, R;  // one part of one edge, before it is turned; radial weights
    Activation<T> first, second;
    int64_t first_node = 0, last_node = 0;
    Array<T> dnodes;

    // Call task with as many of the blocks begin, ..., end - 1 at a time as there is room for.
    template <class Task>
    void for_blocks(int64_t begin, int64_t end, int64_t width, Task task) {
        const int64_t size = sizeof(T) * B<T> * (2 * (width + frame_offset.back()) + p.num_scalars);
        const int64_t most = std::max(int64_t(1), p.room / size);
        for (int64_t count = (end - begin + most - 1) / most, i = 0; i < count; ++i) {
            std::vector<Block<T>> blocks;
            for (int64_t b = begin + i * (end - begin) / count; b < begin + (i + 1) * (end - begin) / count; ++b) {
                blocks.push_back(block(b));
            }
            task(blocks);
        }
    }

    Block<T> block(int64_t number) const {
        const int64_t shared = (p.num_pairs + B<T> - 1) / B<T>;
        Block<T> b;
        b.D = number < shared ? 2 : 1;
        const int64_t row = (number < shared ? number : number - shared) * B<T>;
        const int64_t rows = number < shared ? p.num_pairs : p.num_edges - 2 * p.num_pairs;
        b.first = (number < shared ? 0 : 2 * p.num_pairs) + b.D * row;
        b.count = std::min(B<T>, rows - row);
        return b;
    }

    // ---- in and out of columns

    // Some rows of a tensor [count, channels, orders] to columns [orders, channels].
    static void gather(const T* from, int64_t count, const int64_t* rows, int64_t channels, int64_t orders, T* to) {
        constexpr int64_t N = LANES<T>;
        const int64_t size = channels * orders;
        for (int64_t half = 0; half < B<T>; half += N) {
            for (int64_t first = 0; first < size; first += N) {
                Vector<T> square[N];
#pragma GCC unroll 16
                for (int i = 0; i < N; ++i) {
                    const int64_t start = rows[half + i] * size + first;
                    if (start + N <= count * size) {
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
                    if (first + i < size) at(to + (a * channels + c) * B<T> + half).v = square[i];
                    if (++a == orders) a = 0, ++c;
                }
            }
        }
    }

    // Columns [orders, channels] to rows [channels, orders]; store(row, place, values, count) takes some of a row's.
    template <class Store>
    static void scatter(const T* from, int64_t rows, int64_t channels, int64_t orders, Store store) {
        constexpr int64_t N = LANES<T>;
        const int64_t size = channels * orders;
        for (int64_t half = 0; half < rows; half += N) {
            for (int64_t first = 0; first < size; first += N) {
                Vector<T> square[N] = {};
                int64_t c = first / orders, a = first % orders;
#pragma GCC unroll 16
                for (int i = 0; i < N; ++i) {
                    if (first + i < size) square[i] = at(from + (a * channels + c) * B<T> + half).v;
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
    template <int64_t SIZE = LANES<T>>
    static void put(const T* from, int64_t count, T* to) {
        if (count & SIZE) {
            std::memcpy(to, from, SIZE * sizeof(T));
            from += SIZE, to += SIZE;
        }
        if constexpr (SIZE > 1) put<SIZE / 2>(from, count, to);
    }

    void load_scalars(Block<T>& b) const {
        b.scalars = Array<T>(p.num_scalars * B<T>);
        int64_t rows[B<T>];
        for (int64_t r = 0; r < B<T>; ++r) rows[r] = p.order[b.planned(r, 0)];
        gather(static_cast<const T*>(p.scalars), p.num_edges, rows, p.num_scalars, 1, b.scalars);
    }

    void load_frames(Block<T>& b) const {
        b.frames = Array<T>(b.D * frame_offset.back() * B<T>);
        if (p.dframes) b.dframes = Array<T>(b.D * frame_offset.back() * B<T>, 0);
        for (int64_t l = 1; l <= p.max_degree; ++l) {
            for (int64_t d = 0; p.frame(l) && d < b.D; ++d) {
                int64_t rows[B<T>];
                for (int64_t r = 0; r < B<T>; ++r) rows[r] = b.planned(r, d);
                const T* from = static_cast<const T*>(p.frame(l));
                gather(from, p.num_edges, rows, (2 * l + 1) * (2 * l + 1), 1, frame(b.frames, l, d));
            }
        }
    }

    T* frame(T* frames, int64_t l, int64_t d) const {
        return frames + (d * frame_offset.back() + frame_offset[l]) * B<T>;
    }

    void gather_sent(const Block<T>& b, int64_t part, int64_t d, T* to) const {
        const Part& f = sent.parts[part];
        int64_t rows[B<T>];
        for (int64_t r = 0; r < B<T>; ++r) rows[r] = p.src[p.order[b.planned(r, d)]];
        gather(static_cast<const T*>(f.values), p.num_nodes, rows, f.channels, 2 * f.degree + 1, to);
        if (f.degree != 1 || !p.vector) return;
        for (int64_t r = 0; r < B<T>; ++r) {
            const T* v = static_cast<const T*>(p.vector) + 3 * p.order[b.planned(r, d)];
            for (int64_t a = 0; a < 3; ++a) to[(a * f.channels + p.channel) * B<T> + r] += v[a];
        }
    }

    void gather_arriving(const Block<T>& b, int64_t part, int64_t d, T* to) const {
        const Part& f = made.parts[part];
        const int64_t size = (2 * f.degree + 1) * f.channels;
        int64_t rows[B<T>];
        for (int64_t r = 0; r < B<T>; ++r) rows[r] = p.order[b.planned(r, d)];
        gather(static_cast<const T*>(f.gradient), p.num_edges, rows, f.channels, 2 * f.degree + 1, to);
        for (int64_t i = 0; i < size; ++i) {
            for (int64_t r = b.count; r < B<T>; ++r) to[i * B<T> + r] = 0;
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

    void store_messages(const Block<T>& b) {
        for (int64_t part = 0; part < made.count; ++part) {
            const int64_t channels = made.parts[part].channels, orders = 2 * made.parts[part].degree + 1;
            for (int64_t d = 0; d < b.D; ++d) {
                const T* from = turned_back(b, made, b.y, part, d);
                T* to = static_cast<T*>(made.parts[part].values);
                scatter(from, b.count, channels, orders, [&](int64_t r, int64_t place, const Vector<T>& v, int64_t n) {
                    put(reinterpret_cast<const T*>(&v), n, to + p.order[b.planned(r, d)] * channels * orders + place);
                });
            }
        }
    }

    void store_gradients(const Block<T>& b) {
        if (p.dframes) store_gradient_of_frames(b);
        for (int64_t r = 0; p.dscalars && r < b.count; ++r) {
            for (int64_t d = 0; d < b.D; ++d) {
                T* to = static_cast<T*>(p.dscalars) + p.order[b.planned(r, d)] * p.num_scalars;
                for (int64_t i = 0; i < p.num_scalars; ++i) to[i] = b.dscalars[i * B<T> + r];
            }
        }
        for (int64_t part = 0; part < sent.count; ++part) {
            const int64_t channels = sent.parts[part].channels, orders = 2 * sent.parts[part].degree + 1;
            for (int64_t d = 0; d < b.D; ++d) {
                const T* from = turned_back(b, sent, b.dx, part, d);
                scatter(from, b.count, channels, orders, [&](int64_t r, int64_t place, const Vector<T>& v, int64_t) {
                    const int64_t node = p.src[p.order[b.planned(r, d)]] - first_node;
                    at(dnodes + node * sent.width + sent.offset[part] + place).v += v;  // zeros where the row has ended
                });
                for (int64_t r = 0; orders == 3 && p.dvector && r < b.count; ++r) {
                    T* to = static_cast<T*>(p.dvector) + 3 * p.order[b.planned(r, d)];
                    for (int64_t a = 0; a < 3; ++a) to[a] = from[(a * channels + p.channel) * B<T> + r];
                }
            }
        }
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
                for (int64_t r = 0; r < b.count; ++r) {
                    T* to = static_cast<T*>(p.dframes[l]) + b.planned(r, d) * size;
                    for (int64_t i = 0; i < size; ++i) to[i] = from[i * B<T> + r];
                }
            }
        }
    }

    void add_gradient_of_frame(const Block<T>& b, const Side<T>& side, const T* after, int64_t part, int64_t d) {
        const Part& f = side.parts[part];
        if (!f.degree) return;
        turn_gradient<T>(side.column(after, d, part, 0), apart, 2 * f.degree + 1, f.channels,
                      frame(b.dframes, f.degree, d));
    }

    // ---- along the axis

    void hidden(const Kernel<T>& kernel, const Block<T>& b) {
        first.evaluate(kernel.first, b.scalars);
        second.evaluate(kernel.second, first.output);
    }

    // Make radial weights, and call task(terms, the first of their channels in, how many channels in, their A).
    template <class Task>
    void for_radial_weights(const Kernel<T>& kernel, const Block<T>& b, Task task) {
        for (int64_t f = 0; f < kernel.F; ++f) {
            const Terms<T> terms(f, kernel.k, kernel.l, b.D);
            for (int64_t i = 0; i < kernel.channels_in; i += kernel.together()) {
                const int64_t n = std::min(kernel.together(), kernel.channels_in - i);
                const T* A = kernel.last + (f * kernel.channels_in + i) * kernel.channels_out * VALUES;
                const int64_t count = n * kernel.channels_out;
                product<true, T>(count, A, Values(), One(), HIDDEN, second.output, B<T>, R, B<T>, A + HIDDEN);
                task(terms, i, n, A);
            }
        }
    }

    void mix_block(const Kernel<T>& kernel, const Block<T>& b, const Terms<T>& t, int64_t i, int64_t n) {
        const T* x[4];
        T* y[4];
        for (int j = 0; j < t.count; ++j) {
            x[j] = sent.template column<const T>(b.x, t.edge[j], kernel.feature, t.from[j]) + i * B<T>;
            y[j] = made.template column<T>(b.y, t.edge[j], kernel.message, t.to[j]);
        }
        mix<T>(t.count, R, n, kernel.channels_out, x, y, t.sign);
    }

    void mix_block_gradient(const Kernel<T>& kernel, const Block<T>& b, const Terms<T>& t, int64_t i, int64_t n,
                            T* dbias) {
        const T *x[4], *dy[4];
        T* dx[4];
        for (int j = 0; j < t.count; ++j) {
            x[j] = sent.template column<const T>(b.x, t.edge[j], kernel.feature, t.from[j]) + i * B<T>;
            dx[j] = sent.template column<T>(b.dx, t.edge[j], kernel.feature, t.from[j]) + i * B<T>;
            dy[j] = made.template column<const T>(b.dy, t.edge[j], kernel.message, t.to[j]);
        }
        mix_gradient<T>(t.count, R, n, kernel.channels_out, x, dx, dy, t.sign, dbias);
    }

    void gradient_of(const Kernel<T>& kernel, Block<T>& b, KernelGradient<T>& sum) {
        hidden(kernel, b);
        alignas(64) T rows[B<T> * HIDDEN], d[HIDDEN * B<T>] = {}, dfirst[HIDDEN * B<T>] = {};
        transpose(second.output, HIDDEN, rows, HIDDEN);
        for_radial_weights(kernel, b, [&](const Terms<T>& t, int64_t i, int64_t n, const T* A) {
            const int64_t number = (A - kernel.last) / VALUES, count = n * kernel.channels_out;
            if (p.dframes) mix_block(kernel, b, t, i, n);
            mix_block_gradient(kernel, b, t, i, n, sum.bias + number * LANES<T>);
            product<false, T>(HIDDEN, A, One(), Values(), count, R, B<T>, d, B<T>);
            if (p.gradients) add_outer<T>(count, R, rows, HIDDEN, sum.last + number * HIDDEN);
        });
        transpose(first.output, HIDDEN, rows, HIDDEN);
        second.gradient(kernel.second, d, first.output, rows, dfirst, sum.second);
        first.gradient(kernel.first, dfirst, b.scalars, nullptr, b.dscalars, sum.first);
    }

    // Room for the derivatives of the nodes that send along these blocks: in a batch of graphs, those of a few graphs.
    void own_nodes(int64_t begin, int64_t end) {
        first_node = p.num_nodes;
        for (int64_t i = begin; i < end; ++i) {
            const Block<T> b = block(i);
            for (int64_t e = b.first; e < b.first + b.D * b.count; ++e) {
                first_node = std::min(first_node, p.src[p.order[e]]);
                last_node = std::max(last_node, p.src[p.order[e]] + 1);
            }
        }
        dnodes = Array<T>(std::max(int64_t(0), last_node - first_node) * sent.width + LANES<T>, 0);
    }
};

// ---------------------------------------------------------------- all blocks

template <class T>
struct Run {
    const Problem& p;
    int64_t num_blocks;
    std::vector<std::unique_ptr<Kernel<T>>> kernels;
    std::vector<std::unique_ptr<Worker<T>>> workers;  // one per thread, and at least two blocks for each

    explicit Run(const Problem& p) : p(p), kernels(p.num_networks) {
        num_blocks = (p.num_pairs + B<T> - 1) / B<T> + (p.num_edges - 2 * p.num_pairs + B<T> - 1) / B<T>;
        workers.resize(std::max(int64_t(1), std::min(p.threads.count, num_blocks / 2)));
        in_parallel(p.threads, p.num_networks, [this](int64_t n) {
            const Problem& q = this->p;
            kernels[n] = std::make_unique<Kernel<T>>(q, q.networks[n], q.parameters + n * PARAMETERS);
        });
    }

    // Call a member of every worker with its share of the blocks.
    void work(void (Worker<T>::*member)(int64_t, int64_t)) {
        const int64_t count = workers.size();
        in_parallel(p.threads, count, [=](int64_t i) {
            workers[i] = std::make_unique<Worker<T>>(p, kernels);
            ((*workers[i]).*member)(i * num_blocks / count, (i + 1) * num_blocks / count);
        });
    }

    void gradient() {
        work(&Worker<T>::gradient);
        if (p.gradients) in_parallel(p.threads, p.num_networks, [this](int64_t n) { store(n); });
        in_parallel(p.threads, p.threads.count, [this](int64_t i) {
            for (int64_t node = i * p.num_nodes / p.threads.count; node < (i + 1) * p.num_nodes / p.threads.count; ++node) {
                for (const auto& worker : workers) worker->add_node(node);
            }
        });
    }

    void store(int64_t n) {
        KernelGradient<T>& sum = *workers[0]->gradients[n];
        for (size_t w = 1; w < workers.size(); ++w) sum.add(*workers[w]->gradients[n], kernels[n]->numbers());
        sum.store(*kernels[n], p.networks[n], p.gradients + n * PARAMETERS);
    }
};

bool all_below(int64_t end, const int64_t* numbers, int64_t count) {
    return std::all_of(numbers, numbers + count, [=](int64_t i) { return 0 <= i && i < end; });
}

// Run a task, if all that is found by a number is there.
template <class Task>
int checked(const Problem& p, Task task) {
    if (!all_below(p.num_nodes, p.src, p.num_edges)) return NO_SUCH_NODE;
    if (!all_below(p.num_edges, p.order, p.num_edges)) return NO_SUCH_EDGE;
    return status_of(task);
}

template <class T>
int forward(const Problem* p) {
    return checked(*p, [=] { Run<T>(*p).work(&Worker<T>::forward); });
}

template <class T>
int gradient(const Problem* p) {
    return checked(*p, [=] { Run<T>(*p).gradient(); });
}

}  // namespace

// Write the messages.
extern "C" int forward_float32(const Problem* p) { return forward<float>(p); }
extern "C" int forward_float64(const Problem* p) { return forward<double>(p); }

// From derivatives by the messages, write those by parameters, scalars, vector and frames, and add those by features.
extern "C" int gradient_float32(const Problem* p) { return gradient<float>(p); }
extern "C" int gradient_float64(const Problem* p) { return gradient<double>(p); }
