// Matrix products of tiles that lie in the cache.
//
// Not those of torch: this one may not lower its precision (torch.set_float32_matmul_precision), gives the same
// bits for any number of threads and any tiling, and leaves its result in the cache for what follows.
#pragma once

#include <algorithm>

#include "coordinates.h"

namespace hyperbolic::HYPERBOLIC_ISA {

// The block of the result that is held in registers, half of which it fills.
inline constexpr int block_rows = HYPERBOLIC_VECTOR_BYTES == 64 ? 8 : 4;
template <class T>
inline constexpr int block_columns = 2 * lanes<T>;

// Terms that are added one after the other, by default. Sums of such sums round far less than one long sum.
inline constexpr int64_t short_chunk = 64;

constexpr int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// c (+)= a b for one block. a(i, k) = a[i * row + k * column]; rows of b and c are ldb and ldc apart. A call of its
// own: inlined, its pointers do not find registers.
template <class T>
__attribute__((noinline)) void multiply_block(int64_t terms, const T* a, int64_t row, int64_t column, const T* b,
                                              int64_t ldb, T* c, int64_t ldc, bool add) {
  using V = Pack<T>;
  V sum[block_rows][2] = {};
  for (int64_t k = 0; k < terms; k++) {
    V b0 = load<V>(b), b1 = load<V>(b + lanes<T>);
#pragma GCC unroll 8
    for (int i = 0; i < block_rows; i++) {
      sum[i][0] += a[i * row] * b0;
      sum[i][1] += a[i * row] * b1;
    }
    a += column;
    b += ldb;
  }
#pragma GCC unroll 8
  for (int i = 0; i < block_rows; i++) {
    T* p = c + i * ldc;
    store(p, add ? load<V>(p) + sum[i][0] : sum[i][0]);
    store(p + lanes<T>, add ? load<V>(p + lanes<T>) + sum[i][1] : sum[i][1]);
  }
}

// c (+)= a b, where rows are padded to block_rows and columns to block_columns. b(k, j) is at
// b[(j / block) * panel + k * ldb + j % block], so that b is a matrix (panel = block) or a row of packed panels.
template <class T>
inline void multiply(int64_t rows, int64_t columns, int64_t terms, const T* a, int64_t row, int64_t column,
                     const T* b, int64_t ldb, int64_t panel, T* c, int64_t ldc, bool add,
                     int64_t chunk = short_chunk) {
  for (int64_t j = 0; j < columns; j += block_columns<T>, b += panel) {
    for (int64_t i = 0; i < rows; i += block_rows) {
      for (int64_t k = 0; k < terms; k += chunk) {
        multiply_block(std::min(chunk, terms - k), a + i * row + k * column, row, column, b + k * ldb, ldb,
                       c + i * ldc + j, ldc, add || k > 0);
      }
    }
  }
}

// The columns of a vectors.size() x size() block become its rows.
template <class V>
HYPERBOLIC_INLINE void transpose_block(V (&v)[Word<V>::lanes]) {
  using I = typename Word<V>::Int;
  constexpr int n = Word<V>::lanes;
#pragma GCC unroll 8
  for (int s = n / 2; s >= 1; s /= 2) {
    I low, high;
    for (int i = 0; i < n; i++) {
      low[i] = (i & s) ? n + i - s : i;
      high[i] = (i & s) ? n + i : i + s;
    }
#pragma GCC unroll 16
    for (int i = 0; i < n; i++) {
      if (i & s) continue;
      V a = v[i], b = v[i + s];
      v[i] = __builtin_shuffle(a, b, low);
      v[i + s] = __builtin_shuffle(a, b, high);
    }
  }
}

// out(j, i) = a(i, j); rows of a are lda apart, those of out ldo. Sizes are padded to the lanes of a vector.
template <class T>
inline void transpose(int64_t rows, int64_t columns, const T* a, int64_t lda, T* out, int64_t ldo) {
  constexpr int n = lanes<T>;
  for (int64_t j = 0; j < columns; j += n) {
    for (int64_t i = 0; i < rows; i += n) {
      Pack<T> v[n];
      for (int k = 0; k < n; k++) v[k] = load<Pack<T>>(a + (i + k) * lda + j);
      transpose_block(v);
      for (int k = 0; k < n; k++) store(out + (j + k) * ldo + i, v[k]);
    }
  }
}

}  // namespace hyperbolic::HYPERBOLIC_ISA
