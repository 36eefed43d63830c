// Exponential and logarithmic maps of the hyperboloid.
#pragma once

#include "lorentz.h"

namespace hyperbolic::HYPERBOLIC_ISA::lorentz {

// Just above 700: exp(r) is finite in double, and so are the products of it in the pullback of shortening a tangent.
HYPERBOLIC_CONSTANT double OVERFLOW_RADIUS = 700.5;

// Above, log(2 x) is asinh(x) to all digits of Wide.
HYPERBOLIC_CONSTANT double LOG_REACH = 38.0;

// The radius asinh(sqrt(c) largest) at which a coordinate can reach `largest`, or where exp(r) overflows double.
template <class S>
HYPERBOLIC_INLINE S radius_limit(const S& c, const S& largest) {
  using W = PlainOf<S>;
  S limit = scale(log(c), 0.5) + log(largest) + ln2<W>();
  if (head(limit) >= OVERFLOW_RADIUS) return number<S>(W(OVERFLOW_RADIUS));
  if (head(limit) > LOG_REACH) return limit;
  S reach = sqrt(c) * largest;
  return reach * asinhc_root(reach * reach);
}

// sinh(t)/t v, t = sqrt(c)|v|, shortened to where the coordinates are at most `largest`.
struct Exp0 {
  static constexpr int scalars = 2;
  static constexpr Point point = Point::lorentz;

  template <class S>
  static HYPERBOLIC_INLINE S of(const S& n, const S& c, const S& largest) {
    double t = std::sqrt(head(c)) * head(n);
    if (t > 0.5 * std::log(head(c)) + std::log(head(largest)) || t > OVERFLOW_RADIUS) {
      S length = sqrt(c) * n, limit = radius_limit(c, largest);
      if (head(length) > head(limit)) return sinhc_root(limit * limit) * limit / length;
    }
    return sinhc_root(c * n * n);
  }
};

struct Log0 {
  static constexpr int scalars = 1;
  static constexpr Point point = Point::none;

  template <class S>
  static HYPERBOLIC_INLINE S of(const S& n, const S& c) {
    return asinh_ratio(n, c);
  }
};

struct Dist0Of {
  static constexpr int scalars = 1;

  template <class S>
  static HYPERBOLIC_INLINE S of(const S& n, const S& c) {
    return n * asinh_ratio(n, c);
  }
};

using Expmap0 = RadialMap<Exp0>;
using Logmap0 = RadialMap<Log0>;
using Dist0 = RadialScalar<Dist0Of>;

// (D/sinh D)(y - cosh(D) x) = -f (x - y) - 2 q f x.
struct Logmap {
  static constexpr int vectors = 2, scalars = 1;
  static constexpr bool returns_vector = true;
  static constexpr Point point = Point::none;

  template <class S>
  struct Factors {
    S q, f;
  };

  template <class S, class W>
  static HYPERBOLIC_INLINE Factors<S> factors(const Pair<W>& pair, W curvature) {
    Products<S> p = products<S>(pair, curvature);
    double up = 1.0 / pair.down;
    S c = scale(scale(p.c, up), up), h = chord(p, c, pair.magnify), q = scale(c * h * h, 0.25);
    return {q, asinhc_root(q) / sqrt(q + 1.0)};
  }

  template <class W, class T, class Out>
  static HYPERBOLIC_CALL void value(const Row<W, T>& row, Out out) {
    const T *x = row.vector[0], *y = row.vector[1];
    Pair<W> pair = measure<DIFFERENCE, W>(x, y, row.dim);
    Factors<W> k = factors<W>(pair, row.scalar[0]);
    W on_x = scale(-(k.q * k.f), 2.0);
    each(row.dim, [&](auto at) {
      auto a = at(x);
      emit(at, out, on_x * a - k.f * (a - at(y)));
    });
  }

  template <class W, class T, class Out>
  static HYPERBOLIC_CALL void pull(const Row<W, T>& row, const Out* target, W* g) {
    const T *x = row.vector[0], *y = row.vector[1];
    Pair<W> pair = measure<DIFFERENCE, W>(x, y, row.dim);
    auto k = factors<Dual<W, PRODUCTS>>(pair, row.scalar[0]);
    auto s = sums<2, W>(row.dim, [&](auto at, auto* t) {
      auto a = at(x), c = at(row.cotangent);
      t[0] = (a - at(y)) * c;
      t[1] = a * c;
    });
    // s are constants; twice q f by the product rule
    W by_f = -(s[0] + scale(k.q.v * s[1], 2.0)), by_q = -scale(k.f.v * s[1], 2.0);
    Dual<W, PRODUCTS> total;
    for (int i = 0; i < PRODUCTS; i++) total.d[i] = by_f * k.f.d[i] + by_q * k.q.d[i];
    W on_y = k.f.v, on_x = -(on_y + scale(k.q.v * on_y, 2.0));
    hyperbolic::HYPERBOLIC_ISA::pull<DIFFERENCE>(pair, slopes(total, W(1.0)), x, y, row.dim, target[0], target[1],
                                                 row.cotangent, on_x, on_y);
    g[0] = g[0] + total.d[5];
  }
};

// cosh(t) x + sinh(t)/t v with t = sqrt(c)|v|_L. For inward tangents that cancels, and it is taken apart into v less
// its part along x, which cosh(r) does not shrink, and a multiple of x whose numerator is a product.
struct Expmap {
  static constexpr int vectors = 2, scalars = 1;
  static constexpr bool returns_vector = true;
  static constexpr Point point = Point::lorentz;
  static constexpr Third kind = Third::difference_of_squares;

  template <class S>
  struct Factors {
    S on_v, on_x;
    bool inward;  // then on_v is that of the part of v across x
  };

  // v comes first in the pair: x is what the rest of it is taken across.
  template <class S, class W>
  static HYPERBOLIC_INLINE Factors<S> factors(const Pair<W>& pair, W curvature) {
    Products<S> p = products<S>(pair, curvature);
    double up = 1.0 / pair.down;
    const S &vv = p.xx, &xx = p.yy, &xv = p.xy;
    S c = scale(scale(p.c, up), up), e = coshr(xx, c);
    S square = c * ((vv + c * p.gram) / (c * xx + 1.0));  // t^2
    S shortened = number<S>(W(1.0));
    // Short of where coordinates at radius r + t or their derivatives overflow double whatever the direction.
    constexpr double reach = needs_scaling<W> ? 0x1p860 : 0x1p500;
    constexpr double log_reach = needs_scaling<W> ? 596.0 : 346.0;
    double t = std::sqrt(head(square)), r = std::asinh(std::sqrt(head(c * xx)));
    if (t + r > std::min(0.5 * std::log(head(p.c)) + log_reach, OVERFLOW_RADIUS)) {
      S n = sqrt(xx), root = sqrt(c);
      S room = radius_limit(p.c, number<S>(W(reach))) - root * n * asinh_ratio(n, c), length = sqrt(square);
      if (head(length) > head(room)) {
        shortened = room / length;
        square = room * room;
      }
    }
    S k = shortened * sinhc_root(square), cosh = cosh_root(square);
    bool inward = head(xv) < 0 && head(c * xx) > 0.25 && std::sinh(std::min(t, 1.0)) > 0.5;
    if (!inward) return {k, cosh, false};
    // Divided by cosh(t), so that nothing overflows.
    S across = p.gram / xx, along = k * xv / (xx * e), over = k / cosh;
    S along_over = over * xv / (xx * e);
    return {k, ((1.0 / cosh - along_over) * (along + 1.0) + c * k * across * over) / (1.0 - e * along_over), true};
  }

  template <class W, class T, class Out>
  static HYPERBOLIC_CALL void value(const Row<W, T>& row, Out out) {
    const T *x = row.vector[0], *v = row.vector[1];
    Pair<W> pair = measure<kind, W>(v, x, row.dim);
    Factors<W> f = factors<W>(pair, row.scalar[0]);
    if (!f.inward) {
      each(row.dim, [&](auto at) { emit(at, out, f.on_x * at(x) + f.on_v * at(v)); });
      return;
    }
    Combination<W> k = x_across(pair, f.on_v);
    k.u = k.u + scale(f.on_x, pair.unit);
    k = in_units(k, 1.0 / pair.down);
    combine(pair, v, x, static_cast<const T*>(nullptr), row.dim,
            [&](auto at, auto vector) { emit(at, out, vector(k)); });
  }

  template <class W, class T, class Out>
  static HYPERBOLIC_CALL void pull(const Row<W, T>& row, const Out* target, W* g) {
    const T *x = row.vector[0], *v = row.vector[1];
    Pair<W> pair = measure<kind, W>(v, x, row.dim);
    auto f = factors<Dual<W, PRODUCTS>>(pair, row.scalar[0]);
    auto s = sums<2, W>(row.dim, [&](auto at, auto* t) {
      auto c = at(row.cotangent), a = in_units<W>(at(v), pair.down), b = in_units<W>(at(x), pair.down);
      if (f.inward) {
        auto o = a * pair.uj - in_units<W>(at(x), pair.own) * pair.xj;
        t[0] = o * c;
      } else {
        t[0] = a * c;
      }
      t[1] = b * c;
    });
    double up = 1.0 / pair.down;
    W by_v = scale(s[0], up), by_x = scale(s[1], up);
    W on_x = f.on_x.v, ratio = 0.0;
    if (f.inward) {
      // the part across x is v - (x.v/|x|^2) x
      W uj = pair.uj;
      by_v = by_v / uj - pair.ou / (pair.uu * uj) * scale(by_x, pair.own / pair.down);
      ratio = pair.xy / pair.yy;
      on_x = on_x - f.on_v.v * ratio;
    }
    Dual<W, PRODUCTS> total;
    for (int i = 0; i < PRODUCTS; i++) total.d[i] = by_v * f.on_v.d[i] + by_x * f.on_x.d[i];
    PairSlopes<W> slope = slopes(total, W(1.0));
    if (f.inward) {
      W turn = f.on_v.v * by_x / pair.yy;
      slope.xy = slope.xy - turn;
      slope.yy = slope.yy + turn * ratio;
    }
    hyperbolic::HYPERBOLIC_ISA::pull<kind>(pair, slope, v, x, row.dim, target[1], target[0], row.cotangent, f.on_v.v,
                                           on_x);
    g[0] = g[0] + total.d[5];
  }
};

}  // namespace hyperbolic::HYPERBOLIC_ISA::lorentz
