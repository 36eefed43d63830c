// A tile of the matrix of pairs: a block of rows that stays in the cache ("fixed") against rows that pass by
// ("passing"). A tile has a row for each passing point and a column for each fixed one.
#pragma once

#include "../../math/pairwise.h"
#include "../../math/rim.h"
#include "matrix.h"
#include "product.h"

namespace hyperbolic::HYPERBOLIC_ISA {

template <class T>
inline RowInvariants invariants(const T* row, int64_t dim, Model model, double c) {
  using W = WideFor<T>;
  auto [square] = sums<1, W>(dim, [&](auto at, auto* t) {
    auto x = at(row);
    t[0] = x * x;
  });
  const W alpha = model == Model::poincare ? rim<W>(row, dim, square, c) : W(1.0);
  return row_invariants<W>(model, square, alpha, c);
}

template <class T>
inline void describe(const cpu::Pairs& p, int64_t begin, int64_t end, double* out) {
  const int64_t dim = p.x.cols;
  Buffer<T> row(dim);
  for (int64_t i = begin; i < end; i++) {
    copy_row(p.x, i, 0, dim, row.get());
    const RowInvariants a = invariants(row.get(), dim, Model(p.model), p.c);
    double* numbers = out + i * cpu::numbers_per_row;
    numbers[0] = a.u, numbers[1] = a.k, numbers[2] = a.n, numbers[3] = a.radial;
  }
}

// Rows of one side in the precision of a product, with what an entry needs to know of each.
template <class P>
struct Side {
  int64_t capacity, dim, width, stride;
  Buffer<P> rows, panels, u, k, n;
  Buffer<double> radial;
  int64_t count = 0;

  Side(int64_t most, int64_t d, bool packed)
      : capacity(round_up(most, block_columns<P>)),
        dim(d),
        width(round_up(d, block_columns<P>)),
        // Not a power of two: rows that lie so far apart would fall on one another in the cache.
        stride(width + lanes<P>),
        rows(capacity * stride),
        panels(packed ? capacity * stride : 0),
        u(capacity),
        k(capacity),
        n(capacity),
        radial(capacity) {
    std::memset(rows.get(), 0, sizeof(P) * size_t(capacity * stride));
  }

  P* row(int64_t i) const { return rows.get() + i * stride; }

  // `known`, if given, says of every row of the matrix what would else be found here.
  void load(const Matrix& a, const double* known, int64_t first, int64_t number, Model model, double c) {
    count = number;
    for (int64_t i = 0; i < count; i++) {
      copy_row(a, first + i, 0, dim, row(i));
      if (known) {
        const double* numbers = known + (first + i) * cpu::numbers_per_row;
        set(i, {numbers[0], numbers[1], numbers[2], numbers[3]});
      } else {
        set(i, invariants(row(i), dim, model, c));
      }
    }
    pad();
  }

  template <class Q>
  void widen(const Side<Q>& a, Model model, double c) {
    count = a.count;
    for (int64_t i = 0; i < count; i++) {
      for (int64_t j = 0; j < dim; j++) row(i)[j] = a.row(i)[j];
      set(i, invariants(a.row(i), dim, model, c));
    }
    pad();
  }

  // For the fixed side: coordinates along the columns, block_columns rows a panel.
  void pack() {
    for (int64_t i = 0; i < count; i += block_columns<P>) {
      transpose(block_columns<P>, round_up(dim, lanes<P>), row(i), stride, panels.get() + i * stride, block_columns<P>);
    }
  }

  int64_t columns() const { return round_up(count, block_columns<P>); }

 private:
  void set(int64_t i, const RowInvariants& a) {
    u.get()[i] = P(a.u);
    k.get()[i] = P(a.k);
    n.get()[i] = P(a.n);
    radial.get()[i] = a.radial;
  }

  // Entries with rows that are not there pass every test.
  void pad() {
    for (int64_t i = count; i < capacity; i++) {
      u.get()[i] = 1;
      k.get()[i] = n.get()[i] = 0;
    }
  }
};

// Columns of a tile, and passing rows, for points of `dim` coordinates: what fits the second-level cache together.
constexpr int64_t cached_values = 1 << 16;
inline int64_t fixed_rows(int64_t dim) {
  return std::clamp<int64_t>(cached_values / dim / block_columns<float>, 1, 8) * block_columns<float>;
}
inline int64_t passing_rows(int64_t dim) {
  return std::clamp<int64_t>(cached_values / dim / block_rows, 2, 192 / block_rows) * block_rows;
}

// The inner products of all passing with all fixed rows.
template <class P>
inline void products(const Side<P>& passing, const Side<P>& fixed, P* tile, int64_t ld) {
  multiply(round_up(passing.count, block_rows), fixed.columns(), fixed.dim, passing.rows.get(), passing.stride,
           int64_t(1), fixed.panels.get(), int64_t(block_columns<P>), block_columns<P> * fixed.stride, tile, ld, false);
}

// Calls f(i, j, entry, u of row i, u of column j) with vectors of columns j for every passing row i.
template <class P, class F>
HYPERBOLIC_INLINE void entries(const Side<P>& passing, const Side<P>& fixed, const P* tile, int64_t ld, P slack, F f) {
  using V = Pack<P>;
  for (int64_t i = 0; i < passing.count; i++) {
    V ux = broadcast<V>(passing.u.get()[i]), kx = broadcast<V>(passing.k.get()[i]),
      nx = broadcast<V>(passing.n.get()[i]);
    for (int64_t j = 0; j < fixed.count; j += lanes<P>) {
      V uy = load<V>(fixed.u.get() + j), ky = load<V>(fixed.k.get() + j), ny = load<V>(fixed.n.get() + j);
      f(i, j, entry(load<V>(tile + i * ld + j), kx, ky, ux, uy, nx, ny, slack), ux, uy, nx, ny);
    }
  }
}

// How many lanes of a vector are NaN.
template <class V>
HYPERBOLIC_INLINE int64_t count_nan(typename Word<V>::Int nan) {
  int64_t n = 0;
  for (int i = 0; i < Word<V>::lanes; i++) n -= nan[i];
  return n;
}

template <class I>
HYPERBOLIC_INLINE bool any_of(I mask) {
  uint64_t words[sizeof(I) / 8], any = 0;
  std::memcpy(words, &mask, sizeof mask);
  for (uint64_t w : words) any |= w;
  return any != 0;
}

// A tile with more failures than one in so many is computed again in double: dearer than single pairs below that.
constexpr int64_t rare = 8;

}  // namespace hyperbolic::HYPERBOLIC_ISA
