// Products of small dense matrices on one core, by blocks of registers: the inner loop of the fused operations.
//
// Vectors are the compiler's own (GCC, Clang), as wide as the machine has them, so one text serves all processors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16;
#endif

template <class T>
struct Lanes {
    static constexpr int count = VECTOR_BYTES / sizeof(T);
    typedef T type __attribute__((vector_size(VECTOR_BYTES)));
};
template <class T>
using Vector = typename Lanes<T>::type;
template <class T>
constexpr int WIDTH = Lanes<T>::count;

template <class T>
inline Vector<T> load(const T* from) {
    Vector<T> v;
    std::memcpy(&v, from, VECTOR_BYTES);
    return v;
}

template <class T>
inline void store(T* to, const Vector<T>& v) {
    std::memcpy(to, &v, VECTOR_BYTES);
}

template <class T>
inline T sum_of(const Vector<T>& v) {
    T total = 0;
    for (int l = 0; l < WIDTH<T>; ++l) total += v[l];
    return total;
}

inline int64_t padded(int64_t n, int64_t width) { return (n + width - 1) / width * width; }

// n rounded up so that rows of that many values start on whole vectors
template <class T>
inline int64_t padded(int64_t n) {
    return padded(n, WIDTH<T>);
}

// Allocates on whole cache lines: a vector that straddles two of them costs twice.
template <class T>
struct OnLines {
    using value_type = T;
    OnLines() = default;
    template <class U>
    OnLines(const OnLines<U>&) {}
    T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t(64))); }
    void deallocate(T* p, std::size_t) { ::operator delete(p, std::align_val_t(64)); }
    bool operator==(const OnLines&) const { return true; }
    bool operator!=(const OnLines&) const { return false; }
};
template <class T>
using Buffer = std::vector<T, OnLines<T>>;

// room for n values; what was in it before is of no meaning
template <class T>
inline T* room(Buffer<T>& v, int64_t n) {
    if (static_cast<int64_t>(v.size()) < n) v.resize(n);
    return v.data();
}

// Keeps v in a register: gcc would otherwise load it again for each use, and loads are what the inner loop is short of.
template <class V>
inline __attribute__((always_inline)) void keep(V& v) {
#if defined(__AVX__)
    asm("" : "+v"(v));
#else
    (void)v;
#endif
}

struct Multiply {
    template <class V>
    static inline V add(V sum, V a, V b) {
        return sum + a * b;
    }
};

struct SquaredDifference {
    template <class V>
    static inline V add(V sum, V a, V b) {
        const V difference = a - b;
        return sum + difference * difference;
    }
};

template <class T, int R, int V, class Op, class Store>
inline __attribute__((always_inline)) void block(int64_t inner, const T* a, int64_t row, int64_t column, const T* b,
                                                 int64_t ldb, int64_t r0, int64_t v0, const Store& put) {
    Vector<T> sum[R][V] = {};
    a += r0 * row, b += v0 * WIDTH<T>;
    for (int64_t k = 0; k < inner; ++k, a += column, b += ldb) {
        Vector<T> bk[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) bk[v] = load(b + v * WIDTH<T>), keep(bk[v]);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
            const Vector<T> ar = a[r * row] - Vector<T>{};
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) sum[r][v] = Op::add(sum[r][v], ar, bk[v]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) put(r0 + r, v0 + v, sum[r][v]);
}

// Never inlined: in a large function gcc would keep the blocks' sums and vectors in memory.
template <class T, int R, class Op, class Store>
__attribute__((noinline)) void strip(int64_t vectors, int64_t inner, const T* a, int64_t row, int64_t column,
                                     const T* b, int64_t ldb, int64_t r0, int64_t v0, const Store& put) {
    if (vectors == 3) block<T, R, 3, Op>(inner, a, row, column, b, ldb, r0, v0, put);
    if (vectors == 2) block<T, R, 2, Op>(inner, a, row, column, b, ldb, r0, v0, put);
    if (vectors == 1) block<T, R, 1, Op>(inner, a, row, column, b, ldb, r0, v0, put);
}

// put(r, v, sum over k of a[r, k] b[k, v]) for every row r of a and every vector v of a row of b; Op may replace the
// product.  a[r, k] lies at a[r * row + k * column], b[k, v] at b[k * ldb + v * WIDTH].  Blocks of 4 rows and 3 vectors
// fill 16 registers; what is left over is spread, so that no block is much smaller than the others.
template <class T, class Op = Multiply, class Store>
void product(int64_t rows, int64_t vectors, int64_t inner, const T* a, int64_t row, int64_t column, const T* b,
             int64_t ldb, const Store& put) {
    const int64_t columns_of_blocks = (vectors + 2) / 3, rows_of_blocks = (rows + 3) / 4;
    for (int64_t j = 0; j < columns_of_blocks; ++j) {
        const int64_t v0 = j * vectors / columns_of_blocks, nv = (j + 1) * vectors / columns_of_blocks - v0;
        for (int64_t i = 0; i < rows_of_blocks; ++i) {
            const int64_t r0 = i * rows / rows_of_blocks, nr = (i + 1) * rows / rows_of_blocks - r0;
            if (nr == 4) strip<T, 4, Op>(nv, inner, a, row, column, b, ldb, r0, v0, put);
            if (nr == 3) strip<T, 3, Op>(nv, inner, a, row, column, b, ldb, r0, v0, put);
            if (nr == 2) strip<T, 2, Op>(nv, inner, a, row, column, b, ldb, r0, v0, put);
            if (nr == 1) strip<T, 1, Op>(nv, inner, a, row, column, b, ldb, r0, v0, put);
        }
    }
}

}  // namespace
