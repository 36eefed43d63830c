// The distance matrix and its backward, a tile at a time.
//
// Each entry comes from the cheapest of three that passes its test: a product in the precision of the data, for float
// data where many fail a product in double, and what is left from the formulas for two points.
#pragma once

#include "tile.h"

#include "../../math/lorentz.h"
#include "../../math/poincare.h"

namespace hyperbolic::HYPERBOLIC_ISA {

using cpu::Pairs;

template <class T>
__attribute__((noinline)) double pair_dist(const Pairs& p, const T* x, const T* y) {
  WideFor<T> c = p.c;
  return head(Model(p.model) == Model::lorentz ? lorentz::dist<WideFor<T>>(x, y, p.x.cols, c)
                                               : poincare::dist<WideFor<T>>(x, y, p.x.cols, c));
}

// Distances in units of 1/sqrt(c) from products in `tile`, in place. Returns how many are NaN for having failed.
template <class P>
inline int64_t distances(const Side<P>& passing, const Side<P>& fixed, P* tile, int64_t ld,
                         Tolerance<P> tolerance) {
  typename Word<Pack<P>>::Int nan{};
  entries(passing, fixed, tile, ld, tolerance.slack, [&](int64_t i, int64_t j, auto e, auto, auto, auto, auto) {
    auto d = tested_distance(e, P(tolerance.dist));
    nan += d != d;
    store(tile + i * ld + j, d);
  });
  return count_nan<Pack<P>>(nan);
}

// The distances of a block of y, the fixed side, to rows of x that pass by.
template <class T>
class Distances {
 public:
  Distances(const Pairs& p, int64_t first)
      : p_(p),
        dim_(p.x.cols),
        fixed(fixed_rows(dim_), dim_, true),
        passing(passing_rows(dim_), dim_, false),
        tile_(passing.capacity * ld()) {
    fixed.load(p.y, nullptr, first, std::min(fixed_rows(dim_), p.y.rows - first), model(), p.c);
    fixed.pack();
  }

  Model model() const { return Model(p_.model); }
  // Between rows of a tile; like the stride of a side no power of two.
  int64_t ld() const { return fixed.capacity + lanes<T>; }
  int64_t step() const { return passing_rows(dim_); }

  void load(int64_t begin, int64_t end) {
    passing.load(p_.x, p_.x_rows, begin, std::min(step(), end - begin), model(), p_.c);
    widened_ = false;
  }

  // In units of 1/sqrt(c), from `products` of the rows just loaded.
  T* of(const T* products) {
    std::memcpy(tile_.get(), products, sizeof(T) * size_t(passing.count * ld()));
    return resolve();
  }

  T* compute() {
    products(passing, fixed, tile_.get(), ld());
    return resolve();
  }

  // The same two sides in double, for tiles in which many entries of a product of floats fail their tests.
  const Side<double>& wide_fixed() {
    if (!wide_fixed_) {
      wide_fixed_ = std::make_unique<Side<double>>(fixed_rows(dim_), dim_, true);
      wide_fixed_->widen(fixed, model(), p_.c);
      wide_fixed_->pack();
    }
    return *wide_fixed_;
  }
  const Side<double>& wide_passing() {
    if (!wide_passing_) wide_passing_ = std::make_unique<Side<double>>(step(), dim_, false);
    if (!widened_) wide_passing_->widen(passing, model(), p_.c);
    widened_ = true;
    return *wide_passing_;
  }

 private:
  T* resolve() {
    T* tile = tile_.get();
    int64_t failed = distances(passing, fixed, tile, ld(), Tolerance<T>::own(dim_));
    if (!failed) return tile;
    if constexpr (std::is_same_v<T, float>) {
      if (failed * rare > passing.count * fixed.count) {
        if (!wide_tile_) wide_tile_ = std::make_unique<Buffer<double>>(passing.capacity * ld());
        double* better = wide_tile_->get();
        products(wide_passing(), wide_fixed(), better, ld());
        distances(wide_passing(), wide_fixed(), better, ld(), Tolerance<double>::for_float(dim_));
        for (int64_t i = 0; i < passing.count * ld(); i++) {
          if (tile[i] != tile[i]) tile[i] = float(better[i]);
        }
      }
    }
    const double root = std::sqrt(p_.c);
    for (int64_t i = 0; i < passing.count; i++) {
      for (int64_t j = 0; j < fixed.count; j++) {
        T& d = tile[i * ld() + j];
        if (d != d) d = T(root * pair_dist(p_, passing.row(i), fixed.row(j)));
      }
    }
    return tile;
  }

  const Pairs& p_;
  int64_t dim_;

 public:
  Side<T> fixed, passing;

 private:
  Buffer<T> tile_;
  std::unique_ptr<Side<double>> wide_fixed_, wide_passing_;
  std::unique_ptr<Buffer<double>> wide_tile_;
  bool widened_ = false;
};

template <class T>
inline void pairwise_dist(const Pairs& p, int64_t first, int64_t begin, int64_t end, T* out, int64_t out_stride) {
  Distances<T> tiles(p, first);
  const T unit = T(1 / std::sqrt(p.c));
  for (; begin < end; begin += tiles.step()) {
    tiles.load(begin, end);
    const T* d = tiles.compute();
    for (int64_t i = 0; i < tiles.passing.count; i++) {
      T* result = out + (begin + i) * out_stride + first;
      for (int64_t j = 0; j < tiles.fixed.count; j++) result[j] = d[i * tiles.ld() + j] * unit;
    }
  }
}

}  // namespace hyperbolic::HYPERBOLIC_ISA
