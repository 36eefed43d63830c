// Formulas of the ball: those of hyperbolic/reference/poincare.py, as functions of a few products of the vectors.
// Everything near the rim hangs on alpha = 1 - c|x|^2, which is accumulated wide.
#pragma once

#include "row.h"

namespace hyperbolic::HYPERBOLIC_ISA::poincare {

// The length of the difference, in units of 1/down, the squares of two vectors, and 1 - c times these.
template <class W>
struct Gap {
  double down;
  W length, xx, yy, alpha, beta;
};

template <class W, class T>
HYPERBOLIC_INLINE Gap<W> gap(const T* x, const T* y, int64_t dim, W c) {
  double down = 1.0;
  if constexpr (needs_scaling<W>) {
    down = 1.0 / binade(largest(dim, [&](auto at) { return at(x).hi - at(y).hi; }));
  }
  auto s = sums<3, W>(dim, [&](auto at, auto* t) {
    auto a = at(x), b = at(y);
    auto delta = in_units<W>(a - b, down);
    t[0] = delta * delta;
    t[1] = a * a;
    t[2] = b * b;
  });
  return {down, sqrt(s[0]), s[1], s[2], rim(x, dim, s[1], c), rim(y, dim, s[2], c)};
}

template <class S>
HYPERBOLIC_INLINE S dist_of(const S& length, const S& alpha, const S& beta, const S& c) {
  S denominator = alpha * beta;
  return scale(length * asinhc_root(c * length * length / denominator) / sqrt(denominator), 2.0);
}

template <class W, class T>
HYPERBOLIC_CALL W dist(const T* x, const T* y, int64_t dim, W c) {
  Gap<W> p = gap(x, y, dim, c);
  return dist_of(scale(p.length, 1.0 / p.down), p.alpha, p.beta, c);
}

// The vector-Jacobian product for the cotangent g: gx and gy are where to, gc is added to.
template <class W, class T, class Out>
HYPERBOLIC_CALL void dist_pull(const T* x, const T* y, int64_t dim, W c, W g, Out gx, Out gy, W& gc) {
  using S = Dual<W, 4>;
  Gap<W> p = gap(x, y, dim, c);
  S cc = variable<S>(c, 3), alpha = rim_of(variable<S>(p.xx, 1), cc, p.alpha);
  S beta = rim_of(variable<S>(p.yy, 2), cc, p.beta);
  S d = dist_of(variable<S>(scale(p.length, 1.0 / p.down), 0), alpha, beta, cc);
  // the unit vector along x - y; 0 at coincident points, where the gradient is 0
  W along = head(p.length) == 0 ? W(0.0) : g * d.d[0] / p.length;
  auto combine = [&](Out out, const T* own, const T* other, W coefficient) {
    each(dim, [&](auto at) {
      auto a = at(own), b = at(other);
      emit(at, out, along * in_units<W>(a - b, p.down) + coefficient * a);
    });
  };
  if (wanted(gx)) combine(gx, x, y, scale(g * d.d[1], 2.0));
  if (wanted(gy)) combine(gy, y, x, scale(g * d.d[2], 2.0));
  gc = gc + g * d.d[3];
}

struct Dist {
  static constexpr int vectors = 2, scalars = 1;
  static constexpr bool returns_vector = false;

  template <class W, class T>
  static HYPERBOLIC_INLINE W value(const Row<W, T>& row) {
    return dist<W>(row.vector[0], row.vector[1], row.dim, row.scalar[0]);
  }

  template <class W, class T, class Out>
  static HYPERBOLIC_INLINE void pull(const Row<W, T>& row, const Out* target, W* g) {
    dist_pull(row.vector[0], row.vector[1], row.dim, row.scalar[0], row.g, target[0], target[1], g[0]);
  }
};

}  // namespace hyperbolic::HYPERBOLIC_ISA::poincare
