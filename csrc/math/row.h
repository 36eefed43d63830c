// One row of an operator's arguments, and the shape that operators of one vector at the origin share.
//
// An operator is a struct: how many vectors and scalars it takes, whether it returns a vector, and `value` and `pull`
// for one row. `pull`, the vector-Jacobian product, adds to or writes into the targets of the vectors, which may be
// unwanted, and adds to the cotangents of the scalars.
#pragma once

#include "rim.h"

namespace hyperbolic::HYPERBOLIC_ISA {

template <class W, class T>
struct Row {
  int64_t dim;
  const T* vector[2];
  W scalar[2];
  // the cotangent of the result, one of them
  const T* cotangent;
  W g;
};

// The length of a vector in units of 1/down, its square, and its product, in these units, with the cotangent if there
// is one.
template <class W>
struct Length {
  double down;
  W n, square, product;
};

template <bool with_product, class W, class T>
HYPERBOLIC_INLINE Length<W> length(const T* v, [[maybe_unused]] const T* cotangent, int64_t dim) {
  double down = 1.0;
  if constexpr (needs_scaling<W>) {
    down = 1.0 / binade(largest(dim, [&](auto at) { return at(v).hi; }));
  }
  auto s = sums<1 + with_product, W>(dim, [&](auto at, auto* t) {
    auto a = in_units<W>(at(v), down);
    t[0] = a * a;
    if constexpr (with_product) t[1] = a * at(cotangent);
  });
  return {down, sqrt(s[0]), s[0], s[with_product]};
}

inline constexpr int RADIAL = 3;  // length and up to two scalars

// Of a point of the ball, a formula gets alpha = 1 - c n^2 too.
template <class Formula, bool of_ball_point, class S, class W, class T>
HYPERBOLIC_INLINE S radial(const Length<W>& l, const Row<W, T>& row) {
  const double up = 1.0 / l.down;
  S n = variable<S>(scale(l.n, up), 0), c = variable<S>(row.scalar[0], 1);
  if constexpr (of_ball_point) {
    W alpha = rim(row.vector[0], row.dim, scale(scale(l.square, up), up), row.scalar[0]);
    return Formula::template of<S>(n, c, rim_of(n * n, c, alpha));
  } else if constexpr (Formula::scalars == 2) {
    return Formula::template of<S>(n, c, variable<S>(row.scalar[1], 2));
  } else {
    return Formula::template of<S>(n, c);
  }
}

// v times a function `of` its length and the scalars.
template <class Formula, bool of_ball_point = false>
struct RadialMap : Formula {
  static constexpr int vectors = 1;
  static constexpr bool returns_vector = true;

  template <class W, class T, class Out>
  static HYPERBOLIC_CALL void value(const Row<W, T>& row, Out out) {
    const T* v = row.vector[0];
    W k = radial<Formula, of_ball_point, W>(length<false, W>(v, v, row.dim), row);
    each(row.dim, [&](auto at) { emit(at, out, k * at(v)); });
  }

  template <class W, class T, class Out>
  static HYPERBOLIC_CALL void pull(const Row<W, T>& row, const Out* target, W* g) {
    const T *v = row.vector[0], *cotangent = row.cotangent;
    Length<W> l = length<true, W>(v, cotangent, row.dim);
    auto k = radial<Formula, of_ball_point, Dual<W, RADIAL>>(l, row);
    // v (slope/n) (v.g), all but the slope in units of 1/down
    W along = head(l.n) == 0 ? W(0.0) : k.d[0] * l.product / l.n;
    if (wanted(target[0])) {
      each(row.dim, [&](auto at) { emit(at, target[0], k.v * at(cotangent) + along * at(v)); });
    }
    W product = scale(l.product, 1.0 / l.down);
    for (int i = 0; i < Formula::scalars; i++) g[i] = g[i] + k.d[1 + i] * product;
  }
};

// A function `of` the length of v and the scalars.
template <class Formula, bool of_ball_point = false>
struct RadialScalar : Formula {
  static constexpr int vectors = 1;
  static constexpr bool returns_vector = false;

  template <class W, class T>
  static HYPERBOLIC_CALL W value(const Row<W, T>& row) {
    const T* v = row.vector[0];
    return radial<Formula, of_ball_point, W>(length<false, W>(v, v, row.dim), row);
  }

  template <class W, class T, class Out>
  static HYPERBOLIC_CALL void pull(const Row<W, T>& row, const Out* target, W* g) {
    const T* v = row.vector[0];
    Length<W> l = length<false, W>(v, v, row.dim);
    auto f = radial<Formula, of_ball_point, Dual<W, RADIAL>>(l, row);
    // 0 at the origin, where there is no direction
    W along = head(l.n) == 0 ? W(0.0) : scale(row.g * f.d[0] / l.n, l.down);
    if (wanted(target[0])) each(row.dim, [&](auto at) { emit(at, target[0], along * at(v)); });
    for (int i = 0; i < Formula::scalars; i++) g[i] = g[i] + row.g * f.d[1 + i];
  }
};

// What the kernels see to after rounding: points of the ball stay inside, those of the hyperboloid finite.
enum class Point { none, ball, lorentz };

}  // namespace hyperbolic::HYPERBOLIC_ISA
