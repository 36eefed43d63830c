// What formulas need to know about two vectors: their products and the squared area that they span, in one pass over
// the coordinates and without cancellation; and the gradients of these.
#pragma once

#ifdef __CUDACC__
#include "../cuda/coordinates.h"
#else
#include "../cpu/kernels/coordinates.h"
#endif
#include "dual.h"

namespace hyperbolic::HYPERBOLIC_ISA {

// Double data is scaled by powers of two so that no square leaves the range; the square of a float cannot.
template <class W>
inline constexpr bool needs_scaling = std::is_same_v<W, Wide>;

// A coordinate in units of 1/down.
template <class W, class V>
HYPERBOLIC_INLINE V in_units(V a, double down) {
  if constexpr (needs_scaling<W>) {
    return scale(a, down);
  } else {
    return a;
  }
}

// X and Y are x and y times `down`; U is y times `own`, and `unit` = down/own, so Y = unit U. The oblique vector
// o = X U_j - U X_j, j being where U is largest, spans the same area with U as U_j X does, but is not much longer than
// its part perpendicular to U: what is left to subtract does not cancel. Its coordinates are cross products, each
// exact but for one rounding, so collinear vectors leave exactly nothing and nearly collinear ones all their digits.
template <class W>
struct Pair {
  double down, own, unit, magnify;
  double xj, uj;
  W oo, ou, uu;      // products of the oblique vector and U
  W xx, yy, xy;      // products of X and Y
  W third;           // |X - Y|^2 magnify^2, or |X|^2 - |Y|^2
  W gram;            // (|X|^2 |Y|^2 - (X.Y)^2) magnify^2
};

// Derivatives by the last five of these.
template <class W>
struct PairSlopes {
  W xx, yy, xy, third, gram;
};

enum class Third { square_of_difference, difference_of_squares };

template <Third kind, class W, class T>
HYPERBOLIC_INLINE Pair<W> measure(const T* x, const T* y, int64_t dim) {
  Pair<W> p;
  p.down = p.own = p.unit = p.magnify = 1.0;
  Peak<T> top = peak(y, dim);
  if constexpr (needs_scaling<W>) {
    double up = binade(std::max(double(top.size), largest(dim, [&](auto at) { return at(x).hi; })));
    p.down = 1.0 / up;
    double own = binade(top.size);
    p.own = 1.0 / own;
    p.unit = own / up;
    if (kind == Third::square_of_difference) {
      p.magnify = up / binade(largest(dim, [&](auto at) { return at(x).hi - at(y).hi; }));
    }
  }
  p.xj = double(x[top.index]) * p.down;
  p.uj = double(y[top.index]) * p.own;
  if (p.uj == 0) p.xj = 0, p.uj = 1;  // then o is X
  auto s = sums<4, W>(dim, [&](auto at, auto* t) {
    auto a = in_units<W>(at(x), p.down), u = in_units<W>(at(y), p.own), b = in_units<W>(at(y), p.down);
    auto o = a * p.uj - u * p.xj;
    auto delta = a - b;
    t[0] = o * o;
    t[1] = o * u;
    t[2] = u * u;
    if constexpr (kind == Third::square_of_difference) {
      delta = in_units<W>(delta, p.magnify);
      t[3] = delta * delta;
    } else {
      t[3] = delta * (a + b);
    }
  });
  p.oo = s[0], p.ou = s[1], p.uu = s[2], p.third = s[3];
  W uj = p.uj, xj = p.xj, square = uj * uj;
  // X = (o + X_j U)/U_j
  p.xx = (p.oo + xj * (scale(p.ou, 2.0) + xj * p.uu)) / square;
  W xu = (p.ou + xj * p.uu) / uj;
  p.xy = scale(xu, p.unit);
  p.yy = scale(scale(p.uu, p.unit), p.unit);
  W bottom = head(p.uu) == 0 ? W(1.0) : p.uu;
  W rejected = (p.oo - p.ou * p.ou / bottom) / square;
  p.gram = scale(scale(rejected, p.magnify), p.magnify) * p.yy;
  return p;
}

// A vector in terms of X - Y (times magnify), the oblique vector, U, X, and another vector in memory.
template <class W>
struct Combination {
  W difference = 0.0, oblique = 0.0, u = 0.0, x = 0.0, other = 0.0;
};

// In units of x rather than X.
template <class W>
HYPERBOLIC_INLINE Combination<W> in_units(Combination<W> k, double units) {
  return {scale(k.difference, units), scale(k.oblique, units), scale(k.u, units), scale(k.x, units), k.other};
}

// `put(at, vectors)` for each coordinate, where vectors(combination) is that of the combination.
template <class W, class T, class F>
HYPERBOLIC_INLINE void combine(const Pair<W>& p, const T* x, const T* y, const T* other, int64_t dim, F put) {
  each(dim, [&](auto at) {
    auto a = in_units<W>(at(x), p.down), u = in_units<W>(at(y), p.own), b = in_units<W>(at(y), p.down);
    auto o = a * p.uj - u * p.xj, delta = in_units<W>(a - b, p.magnify);
    put(at, [&](const Combination<W>& k) {
      auto v = (k.difference * delta + k.oblique * o) + (k.u * u + k.x * a);
      return other ? v + k.other * at(other) : v;
    });
  });
}

// X less its part along U, and Y likewise less its part along X times |X|^2: (o + X_j U)/U_j is X.
template <class W>
HYPERBOLIC_INLINE Combination<W> x_across(const Pair<W>& p, W factor) {
  Combination<W> k;
  k.oblique = factor / W(p.uj);
  k.u = head(p.uu) == 0 ? W(0.0) : -(k.oblique * p.ou / p.uu);
  return k;
}

template <class W>
HYPERBOLIC_INLINE Combination<W> y_across(const Pair<W>& p, W factor) {
  Combination<W> k;
  W uj = p.uj, xj = p.xj, over = scale(factor, p.unit) / (uj * uj);
  k.u = over * (p.oo + xj * p.ou);
  k.oblique = -(over * (p.ou + xj * p.uu));
  return k;
}

// Adds to or writes into gx and gy the gradients by x and y of what has the given slopes, plus multiples of another
// vector.
template <Third kind, class W, class T, class Out>
HYPERBOLIC_INLINE void pull(const Pair<W>& p, PairSlopes<W> s, const T* x, const T* y, int64_t dim, Out gx, Out gy,
                            const T* other = nullptr, W other_x = 0.0, W other_y = 0.0) {
  W difference = 0.0, area = scale(scale(scale(s.gram, 2.0), p.magnify), p.magnify);
  if constexpr (kind == Third::square_of_difference) {
    difference = scale(scale(s.third, 2.0), p.magnify);
  } else {
    s.xx = s.xx + s.third;
    s.yy = s.yy - s.third;
  }
  Combination<W> by_x = x_across(p, area * p.yy), by_y = y_across(p, area);
  by_x.difference = difference, by_y.difference = -difference;
  by_x.u = by_x.u + scale(s.xy, p.unit), by_y.u = by_y.u + scale(scale(s.yy, 2.0), p.unit);
  by_x.x = scale(s.xx, 2.0), by_y.x = s.xy;
  by_x.other = other_x, by_y.other = other_y;
  by_x = in_units(by_x, p.down), by_y = in_units(by_y, p.down);
  combine(p, x, y, other, dim, [&](auto at, auto vector) {
    if (wanted(gx)) emit(at, gx, vector(by_x));
    if (wanted(gy)) emit(at, gy, vector(by_y));
  });
}

}  // namespace hyperbolic::HYPERBOLIC_ISA
