// Formulas of the hyperboloid: those of hyperbolic/reference/lorentz.py and lorentz_distance.py, where their derivation
// is, as functions of a few products of the vectors.
#pragma once

#include "row.h"

namespace hyperbolic::HYPERBOLIC_ISA::lorentz {

// sinh of the radius above which the product of four coordinates leaves double.
inline constexpr double FAR = 1e60;

// The products of two vectors, as numbers that a formula can be differentiated by.
template <class S>
struct Products {
  S xx, yy, xy, third, gram, c;
};

inline constexpr int PRODUCTS = 6;

template <class S, class W>
HYPERBOLIC_INLINE Products<S> products(const Pair<W>& p, W c) {
  return {variable<S>(p.xx, 0),    variable<S>(p.yy, 1),   variable<S>(p.xy, 2),
          variable<S>(p.third, 3), variable<S>(p.gram, 4), variable<S>(c, 5)};
}

template <class W>
HYPERBOLIC_INLINE PairSlopes<W> slopes(const Dual<W, PRODUCTS>& f, W g) {
  return {g * f.d[0], g * f.d[1], g * f.d[2], g * f.d[3], g * f.d[4]};
}

template <class S>
HYPERBOLIC_INLINE S coshr(const S& square, const S& c) {
  return sqrt(c * square + 1.0);
}

// (cosh r - 1)/c
template <class S>
HYPERBOLIC_INLINE S coshr_minus_1(const S& square, const S& c) {
  return square / (coshr(square, c) + 1.0);
}

// h, the ambient chord: sinh(D/2) = sqrt(c) h/2. In the units of the products.
template <class S>
HYPERBOLIC_INLINE S chord(const Products<S>& p, const S& c, double magnify) {
  if (head(p.xy) > 0) {
    S factor = 2.0 / (coshr(p.xx, c) * coshr(p.yy, c) + c * p.xy + 1.0);
    return scale(sqrt((p.third + c * p.gram) * factor), 1.0 / magnify);
  }
  // every term is positive
  S a = coshr_minus_1(p.xx, c), b = coshr_minus_1(p.yy, c);
  return sqrt(scale(c * a * b + a + b - p.xy, 2.0));
}

// asinh(sqrt(c) n)/(sqrt(c) n)
template <class S>
HYPERBOLIC_INLINE S asinh_ratio(const S& n, const S& c) {
  S s = sqrt(c) * n;
  return head(s) > FAR ? (log(s) + ln2<PlainOf<S>>()) / s : asinhc_root(c * n * n);
}

// The distance of the points in the directions of X and Y at radii a = sqrt(c)|X| p and b = sqrt(c)|Y| q, where
// gap = a - b: who knows more about the radii knows it better than their difference.
// sinh^2(D/2) = sinh^2((a-b)/2) + sinh(a) sinh(b) |X^-Y^|^2/4, both terms divided by exp(m), where m is about the
// logarithm of the larger: a constant that cannot overflow and drops out of the result.
template <class S>
HYPERBOLIC_CALL S dist_polar(const Products<S>& u, const S& nx, const S& ny, const S& p, const S& q, const S& gap) {
  using W = PlainOf<S>;
  S root = sqrt(u.c), a = root * nx * p, b = root * ny * q;
  bool swap = head(b) > head(a);
  const S &high = swap ? b : a, &low = swap ? a : b, &longer = swap ? ny : nx;
  // |X||Y| - X.Y, from the area where the angle is acute
  S wedge = head(u.xy) > 0 ? u.gram / (nx * ny + u.xy) : nx * ny - u.xy;
  // |X^-Y^|^2 sinh(low) exp(-low) with low/low cancelled: a point at the origin is nothing special
  S reach = (swap ? p : q) * root * wedge;
  if (head(longer) != 0) reach = reach / longer;
  S fade = head(low) < 1.0 ? exp(-low) * sinhc_root(low * low) : scale(expm1(scale(low, -2.0)), -0.5) / low;
  S angular = scale(expm1(scale(high, -2.0)) * fade * reach, -0.25);
  S rise = swap ? -gap : gap, fall = expm1(-rise);
  W m = plain(rise);
  S square = angular;  // which varies where a point is at the origin, though it is 0 there
  if (head(angular) > 0) {
    S level = a + b + log(angular);
    if (head(level) > head(m)) m = plain(level);
    square = exp(level - number<S>(m));
  }
  square = square + scale(fall * fall, 0.25) * exp(rise - number<S>(m));
  S k = sqrt(square);
  if (head(k) == 0) return number<S>(W(0.0));
  return scale(asinh_exp(scale(m, 0.5), k), 2.0) / root;
}

// The distance, of points whose products are given in units of 1/down.
template <class S, class W>
HYPERBOLIC_INLINE S dist_of(const Products<S>& p, const Pair<W>& pair) {
  double up = 1.0 / pair.down;
  S nx = sqrt(p.xx), ny = sqrt(p.yy), root = scale(sqrt(p.c), up);
  if (head(root) * std::max(head(nx), head(ny)) > FAR) {
    S a = scale(nx, up), b = scale(ny, up);
    S ratio_a = asinh_ratio(a, p.c), ratio_b = asinh_ratio(b, p.c);
    S gap = (a * ratio_a - b * ratio_b) * sqrt(p.c);
    return dist_polar(p, nx, ny, scale(ratio_a, up), scale(ratio_b, up), gap);
  }
  S c = scale(scale(p.c, up), up), h = chord(p, c, pair.magnify);
  return scale(h * asinhc_root(scale(c * h * h, 0.25)), up);
}

inline constexpr Third DIFFERENCE = Third::square_of_difference;

template <class W, class T>
HYPERBOLIC_CALL W dist(const T* x, const T* y, int64_t dim, W c) {
  Pair<W> pair = measure<DIFFERENCE, W>(x, y, dim);
  return dist_of(products<W>(pair, c), pair);
}

// The vector-Jacobian product for the cotangent g: gx and gy are where to, gc is added to.
template <class W, class T, class Out>
HYPERBOLIC_CALL void dist_pull(const T* x, const T* y, int64_t dim, W c, W g, Out gx, Out gy, W& gc) {
  Pair<W> pair = measure<DIFFERENCE, W>(x, y, dim);
  auto d = dist_of(products<Dual<W, PRODUCTS>>(pair, c), pair);
  pull<DIFFERENCE>(pair, slopes(d, g), x, y, dim, gx, gy);
  gc = gc + g * d.d[5];
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

// The distance of the points that the tangents u and v at the origin reach, for the model whose metric there is
// Factor^2 times the Euclidean one. Squares of radii below the switch leave double; there a tangent is its point.
template <int Factor>
struct DistExp0 {
  static constexpr int vectors = 2, scalars = 1;
  static constexpr bool returns_vector = false;
  static constexpr Third kind = Third::difference_of_squares;
  static constexpr double FLAT = 1e-60;

  template <class W>
  static HYPERBOLIC_INLINE bool flat(const Pair<W>& p, W c) {
    return std::sqrt(head(c)) * (std::sqrt(head(p.xx)) + std::sqrt(head(p.yy))) < FLAT * p.down;
  }

  template <class S, class W>
  static HYPERBOLIC_INLINE S of(const Pair<W>& pair, W curvature) {
    Products<S> p = products<S>(pair, curvature);
    // 2u at c is u at 4c with all lengths doubled
    p.c = scale(p.c, double(Factor * Factor));
    double up = 1.0 / pair.down;
    S nx = sqrt(p.xx), ny = sqrt(p.yy), total = nx + ny;
    S gap = scale(p.third * sqrt(p.c), up);
    if (head(total) != 0) gap = gap / total;
    S one = number<S>(W(up));
    return scale(dist_polar(p, nx, ny, one, one, gap), double(Factor));
  }

  template <class W, class T>
  static HYPERBOLIC_CALL W value(const Row<W, T>& row) {
    W c = row.scalar[0];
    Pair<W> pair = measure<kind, W>(row.vector[0], row.vector[1], row.dim);
    if (needs_scaling<W> && flat(pair, c)) {
      return scale(dist<W>(row.vector[0], row.vector[1], row.dim, c), double(Factor));
    }
    return of<W>(pair, c);
  }

  template <class W, class T, class Out>
  static HYPERBOLIC_CALL void pull(const Row<W, T>& row, const Out* target, W* g) {
    const T *u = row.vector[0], *v = row.vector[1];
    W c = row.scalar[0];
    Pair<W> pair = measure<kind, W>(u, v, row.dim);
    if (needs_scaling<W> && flat(pair, c)) {
      dist_pull(u, v, row.dim, c, scale(row.g, double(Factor)), target[0], target[1], g[0]);
      return;
    }
    auto d = of<Dual<W, PRODUCTS>>(pair, c);
    hyperbolic::HYPERBOLIC_ISA::pull<kind>(pair, slopes(d, row.g), u, v, row.dim, target[0], target[1]);
    g[0] = g[0] + row.g * d.d[5];
  }
};

}  // namespace hyperbolic::HYPERBOLIC_ISA::lorentz
