// SIMD columns: vector registers, memory for them, products of matrices with them, and transposition.
//
// A column holds one quantity (a channel of one order, say) of B rows at once, a row being an edge or a node: it is two vector
// registers wide. So arithmetic on columns uses whole registers, and sums over channels, orders or hidden values add
// registers, never the lanes within one, whatever the sizes of a layer are.

#pragma once

#include <pthread.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <type_traits>
#include <utility>

#define ALWAYS_INLINE __attribute__((always_inline)) inline

namespace {  // internal linkage: the compiler may inline everything

#if defined(__AVX512F__)
constexpr int REGISTER = 64, TILE = 8;  // bytes of a vector register; columns whose sums fit into registers together
#elif defined(__AVX__)
constexpr int REGISTER = 32, TILE = 6;
#elif defined(__aarch64__)
constexpr int REGISTER = 16, TILE = 8;
#else
constexpr int REGISTER = 16, TILE = 6;
#endif

template <class T>
struct Register {
    typedef T Vector __attribute__((vector_size(REGISTER)));
};
template <class T>
using Vector = typename Register<T>::Vector;
template <class T>
constexpr int64_t LANES = REGISTER / sizeof(T);
template <class T>
constexpr int64_t B = 2 * LANES<T>;

template <class T>
struct __attribute__((packed, may_alias)) InMemory {  // a register in unaligned memory; Clang ignores this of a typedef
    Vector<T> v;
};

template <class T>
inline InMemory<T>& at(T* p) {
    return *reinterpret_cast<InMemory<T>*>(p);
}
template <class T>
inline const InMemory<T>& at(const T* p) {
    return *reinterpret_cast<const InMemory<T>*>(p);
}

// A pool of freed memory, kept from call to call. Memory from the system has page faults: the first touch of every page costs
// about as much as a thousand multiplications of registers.
class MemoryPool {
public:
    // Memory of at least so many bytes; size is set to what it has.
    static void* take(std::size_t& size) {
        if (size >= LEAST) {
            std::lock_guard<std::mutex> lock(mutex);
            const auto found = memory().lower_bound(size);
            if (found != memory().end() && found->first <= 2 * size) {
                void* p = found->second;
                size = found->first;
                total -= size;
                memory().erase(found);
                return p;
            }
        }
        return ::operator new(size, ALIGNMENT);
    }

    static void give(void* p, std::size_t size) {
        if (size >= LEAST && size <= MOST) {
            std::lock_guard<std::mutex> lock(mutex);
            if (total + size > MOST) clear();  // its pieces may have sizes that are never needed again
            try {
                memory().emplace(size, p);
                total += size;
                return;
            } catch (const std::bad_alloc&) {
            }
        }
        ::operator delete(p, ALIGNMENT);
    }

private:
    static constexpr std::align_val_t ALIGNMENT{64};
    static constexpr std::size_t LEAST = 1 << 14, MOST = 1 << 26;  // bytes: of a piece worth keeping, and of all together

    static inline std::mutex mutex;
    static inline std::size_t total = 0;
    // A forked process has only one thread: a mutex that another thread held would stay locked forever.
    static inline const int at_fork = pthread_atfork([] { mutex.lock(); }, [] { mutex.unlock(); }, [] { mutex.unlock(); });

    static std::multimap<std::size_t, void*>& memory() {
        static auto* const all = new std::multimap<std::size_t, void*>;  // never destroyed: threads may outlive static objects
        return *all;
    }
    static void clear() {
        for (const auto& piece : memory()) ::operator delete(piece.second, ALIGNMENT);
        memory().clear();
        total = 0;
    }
};

template <class T>
class Array {  // an owning array: aligned, and not initialised unless a value is given
public:
    explicit Array(int64_t size = 0) {
        if (!size) return;
        Free free{size * sizeof(T)};
        data_ = {static_cast<T*>(MemoryPool::take(free.size)), free};
    }
    Array(int64_t size, T value) : Array(size) { std::fill_n(data_.get(), size, value); }
    operator T*() const { return data_.get(); }

private:
    struct Free {
        std::size_t size;
        void operator()(T* p) const { MemoryPool::give(p, size); }
    };
    std::unique_ptr<T, Free> data_{nullptr, Free{0}};
};

template <int64_t N>
using Constant = std::integral_constant<int64_t, N>;  // passed in place of an int64_t that is known at compile time
using One = Constant<1>;

// out[o] = start[o] + sum_k a[o * row + k * column] x[k] for M columns out. start is the bias, or out itself where there is
// none; dx and dout are the strides of x and out, from column to column. V registers of each column are computed, 1 or 2.
template <int M, bool BIAS, class T, int V, class Row, class Column, class Inner, class FromX, class FromOut>
ALWAYS_INLINE void tile(const T* a, Row row, Column column, Inner inner, const T* x, FromX dx, T* out, FromOut dout,
                        const T* bias) {
    Vector<T> sum[M][V], values[V];
#pragma GCC unroll 16
    for (int o = 0; o < M; ++o) {
        for (int v = 0; v < V; ++v) {
            sum[o][v] = BIAS ? Vector<T>{} + bias[o * row] : at(out + o * dout + v * LANES<T>).v;
        }
    }
    for (int64_t k = 0; k < inner; ++k) {
        for (int v = 0; v < V; ++v) values[v] = at(x + k * dx + v * LANES<T>).v;
#pragma GCC unroll 16
        for (int o = 0; o < M; ++o) {
            const T factor = a[o * row + k * column];
            for (int v = 0; v < V; ++v) sum[o][v] += factor * values[v];
        }
    }
#pragma GCC unroll 16
    for (int o = 0; o < M; ++o) {
        for (int v = 0; v < V; ++v) at(out + o * dout + v * LANES<T>).v = sum[o][v];
    }
}

// tile for a number of columns that is known at run time only, M at most.
template <bool BIAS, int M, class T, int V, class... Others>
ALWAYS_INLINE void tile_of(int64_t count, Others... others) {
    if (count == M) {
        tile<M, BIAS, T, V>(others...);
    } else if constexpr (M > 1) {
        tile_of<BIAS, M - 1, T, V>(count, others...);
    }
}

// tile for any number of columns, split into tiles of nearly equal size: a small tile has too few independent sums to keep
// the processor's pipeline busy.
template <bool BIAS, class T, int V = 2, class Row, class Column, class Inner, class FromX, class FromOut>
void product(int64_t count, const T* a, Row row, Column column, Inner inner, const T* x, FromX dx, T* out, FromOut dout,
             const T* bias = nullptr) {
    constexpr int MOST = 2 * TILE / V;
    const int64_t tiles = (count + MOST - 1) / MOST;
    for (int64_t t = 0; t < tiles; ++t) {
        const int64_t o = t * count / tiles, end = (t + 1) * count / tiles;
        tile_of<BIAS, MOST, T, V>(end - o, a + o * row, row, column, inner, x, dx, out + o * dout, dout,
                               BIAS ? bias + o * row : bias);
    }
}

// dA[o] += sum over rows r of d[o, r] x[r], where d[o] are columns of W blocks, and x has their rows, [W B, width].
template <class T, int W = 1, class Width>
void add_outer(int64_t count, const T* d, const T* x, Width width, T* dA) {
    constexpr Constant<W * B<T>> rows;
    for (int64_t c = 0; c < width; c += B<T>) {
        product<false>(count, d, rows, One(), rows, x + c, width, dA + c, width);
    }
}

// Of two registers seen as 2 x 2 blocks of STEP lanes, exchange the off-diagonal blocks: a step of a transposition.
template <int STEP, class T, std::size_t... I>
ALWAYS_INLINE void exchange(Vector<T>& a, Vector<T>& b, std::index_sequence<I...>) {
    constexpr int N = LANES<T>;
    const Vector<T> before = a;
#ifdef __clang__
    a = __builtin_shufflevector(before, b, (I & STEP ? N + I - STEP : I)...);
    b = __builtin_shufflevector(before, b, (I & STEP ? N + I : I + STEP)...);
#else  // every version of GCC has this one
    typedef std::conditional_t<sizeof(T) == 4, int32_t, int64_t> Places __attribute__((vector_size(REGISTER)));
    a = __builtin_shuffle(before, b, Places{(I & STEP ? N + I - STEP : I)...});
    b = __builtin_shuffle(before, b, Places{(I & STEP ? N + I : I + STEP)...});
#endif
}

// Transpose a square matrix whose rows are registers.
template <class T, int STEP = LANES<T> / 2>
ALWAYS_INLINE void transpose(Vector<T> (&square)[LANES<T>]) {
#pragma GCC unroll 16
    for (int i = 0; i < LANES<T>; ++i) {
        if (!(i & STEP)) exchange<STEP, T>(square[i], square[i + STEP], std::make_index_sequence<LANES<T>>());
    }
    if constexpr (STEP > 1) transpose<T, STEP / 2>(square);
}

// Write the columns of a block, with stride step, as rows, [B, width].
template <class T>
void transpose(const T* columns, int64_t count, T* rows, int64_t width, int64_t step = B<T>) {
    constexpr int64_t N = LANES<T>;
    const int64_t whole = count / N * N;
    for (int64_t r = 0; r < B<T>; r += N) {
        for (int64_t c = 0; c < whole; c += N) {
            Vector<T> square[N];
#pragma GCC unroll 16
            for (int i = 0; i < N; ++i) square[i] = at(columns + (c + i) * step + r).v;
            transpose<T>(square);
#pragma GCC unroll 16
            for (int i = 0; i < N; ++i) at(rows + (r + i) * width + c).v = square[i];
        }
    }
    for (int64_t r = 0; r < B<T>; ++r) {
        for (int64_t c = whole; c < count; ++c) rows[r * width + c] = columns[c * step + r];
    }
}

template <class T>
int64_t padded(int64_t width) {
    return (width + B<T> - 1) / B<T> * B<T>;
}

}  // namespace
