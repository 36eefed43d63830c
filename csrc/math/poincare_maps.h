// Exponential and logarithmic maps and the addition of the ball.
#pragma once

#include "lorentz.h"
#include "poincare.h"

namespace hyperbolic::HYPERBOLIC_ISA::poincare {

// tanh of this is 1 to more digits than any format has, and its square and hyperbolic functions are in range.
inline constexpr double SATURATED = 300.0;

template <class S>
HYPERBOLIC_INLINE S tanhc_root(const S& q) {
  return sinhc_root(q) / cosh_root(q);
}

// artanh(t)/t = asinh(t/sqrt(1 - t^2))/t for t = sqrt(c) n and alpha = 1 - t^2
template <class S>
HYPERBOLIC_INLINE S artanh_ratio(const S& n, const S& c, const S& alpha) {
  return asinhc_root(c * (n * n) / alpha) / sqrt(alpha);
}

struct Exp0 {
  static constexpr int scalars = 1;
  static constexpr Point point = Point::ball;

  template <class S>
  static HYPERBOLIC_INLINE S of(const S& n, const S& c) {
    S t = sqrt(c) * n;
    return head(t) > SATURATED ? 1.0 / t : tanhc_root(c * n * n);
  }
};

struct Log0 {
  static constexpr int scalars = 1;
  static constexpr Point point = Point::none;

  template <class S>
  static HYPERBOLIC_INLINE S of(const S& n, const S& c, const S& alpha) {
    return artanh_ratio(n, c, alpha);
  }
};

struct Dist0Of {
  static constexpr int scalars = 1;

  template <class S>
  static HYPERBOLIC_INLINE S of(const S& n, const S& c, const S& alpha) {
    return scale(n * artanh_ratio(n, c, alpha), 2.0);
  }
};

using Expmap0 = RadialMap<Exp0>;
using Logmap0 = RadialMap<Log0, true>;
using Dist0 = RadialScalar<Dist0Of, true>;
using DistExp0 = lorentz::DistExp0<2>;  // the metric at the origin is 4 times the Euclidean one

template <class S>
struct Factors {
  S on_x, on_s;
};

// c|s|^2 x + alpha s over c|s|^2 + alpha beta, s = x + y.
template <class S>
HYPERBOLIC_INLINE Factors<S> add(const S& ss, const S& alpha, const S& beta, const S& c) {
  S square = c * ss, bottom = square + alpha * beta;
  return {square / bottom, alpha / bottom};
}

// A multiple of x plus one of s = x + sign y, by functions `of` |s|^2, alpha, beta and c.
template <class Formula>
struct Translation : Formula {
  static constexpr int vectors = 2, scalars = 1;
  static constexpr bool returns_vector = true;

  template <class W, class T, class Out>
  static HYPERBOLIC_CALL void value(const Row<W, T>& row, Out out) {
    const T *x = row.vector[0], *y = row.vector[1];
    constexpr double sign = Formula::sign;
    auto p = sums<3, W>(row.dim, [&](auto at, auto* t) {
      auto a = at(x), b = at(y), s = a + scale(b, sign);
      t[0] = s * s;
      t[1] = a * a;
      t[2] = b * b;
    });
    W c = row.scalar[0];
    Factors<W> k = Formula::template of<W>(p[0], rim(x, row.dim, p[1], c), rim(y, row.dim, p[2], c), c);
    each(row.dim, [&](auto at) {
      auto a = at(x);
      emit(at, out, k.on_x * a + k.on_s * (a + scale(at(y), sign)));
    });
  }

  template <class W, class T, class Out>
  static HYPERBOLIC_CALL void pull(const Row<W, T>& row, const Out* target, W* g) {
    using S = Dual<W, 4>;
    const T *x = row.vector[0], *y = row.vector[1];
    constexpr double sign = Formula::sign;
    auto p = sums<5, W>(row.dim, [&](auto at, auto* t) {
      auto a = at(x), b = at(y), s = a + scale(b, sign), c = at(row.cotangent);
      t[0] = s * s;
      t[1] = a * a;
      t[2] = b * b;
      t[3] = a * c;
      t[4] = s * c;
    });
    W curvature = row.scalar[0];
    S cc = variable<S>(curvature, 3), alpha = rim_of(variable<S>(p[1], 1), cc, rim(x, row.dim, p[1], curvature));
    S beta = rim_of(variable<S>(p[2], 2), cc, rim(y, row.dim, p[2], curvature));
    Factors<S> k = Formula::template of<S>(variable<S>(p[0], 0), alpha, beta, cc);
    W slope[4];
    for (int i = 0; i < 4; i++) slope[i] = p[3] * k.on_x.d[i] + p[4] * k.on_s.d[i];
    W both = k.on_x.v + k.on_s.v, on_s = scale(slope[0], 2.0);
    W on_x = scale(slope[1], 2.0), on_y = scale(slope[2], 2.0), by_y = scale(k.on_s.v, sign);
    each(row.dim, [&](auto at) {
      auto a = at(x), b = at(y), c = at(row.cotangent);
      auto s = on_s * (a + scale(b, sign));
      if (wanted(target[0])) emit(at, target[0], both * c + (s + on_x * a));
      if (wanted(target[1])) emit(at, target[1], by_y * c + (scale(s, sign) + on_y * b));
    });
    g[0] = g[0] + slope[3];
  }
};

struct Addition {
  static constexpr double sign = 1.0;
  static constexpr Point point = Point::ball;

  template <class S>
  static HYPERBOLIC_INLINE Factors<S> of(const S& ss, const S& alpha, const S& beta, const S& c) {
    return add(ss, alpha, beta, c);
  }
};

// -(D/sinh D)(c|x-y|^2 x + alpha (x-y))/beta
struct Logarithm {
  static constexpr double sign = -1.0;
  static constexpr Point point = Point::none;

  template <class S>
  static HYPERBOLIC_INLINE Factors<S> of(const S& ss, const S& alpha, const S& beta, const S& c) {
    S square = c * ss, q = square / (alpha * beta);
    S k = -(asinhc_root(q) / (beta * sqrt(q + 1.0)));
    return {square * k, alpha * k};
  }
};

using MobiusAdd = Translation<Addition>;
using Logmap = Translation<Logarithm>;

// x (+) step v, where step = tanh(t)/(t alpha) and t = sqrt(c)|v|/alpha. The step has beta = sech^2 t: as 1 - tanh^2 t
// it would be lost from t = 18 on.
struct Expmap {
  static constexpr int vectors = 2, scalars = 1;
  static constexpr bool returns_vector = true;
  static constexpr Point point = Point::ball;

  template <class S>
  struct Step {
    S size, beta;
  };

  template <class S>
  static HYPERBOLIC_INLINE Step<S> step(const S& alpha, const S& n, const S& c) {
    bool saturated = std::sqrt(head(c)) * head(n) > SATURATED * head(alpha);
    if (saturated) return {1.0 / (sqrt(c) * n), number<S>(4.0 * exp(PlainOf<S>(-2.0 * SATURATED)))};
    S w = n / alpha, q = c * w * w, cosh = cosh_root(q);
    return {tanhc_root(q) / alpha, 1.0 / (cosh * cosh)};
  }

  // |x|^2 and the length of v in units of 1/down.
  template <class W, class T>
  static HYPERBOLIC_INLINE std::array<W, 2> measure(const T* x, const T* v, int64_t dim, double& down) {
    down = 1.0;
    if constexpr (needs_scaling<W>) {
      down = 1.0 / binade(largest(dim, [&](auto at) { return at(v).hi; }));
    }
    auto s = sums<2, W>(dim, [&](auto at, auto* t) {
      auto a = at(x), b = in_units<W>(at(v), down);
      t[0] = a * a;
      t[1] = b * b;
    });
    return {s[0], sqrt(s[1])};
  }

  template <class W, class T, class Out>
  static HYPERBOLIC_CALL void value(const Row<W, T>& row, Out out) {
    const T *x = row.vector[0], *v = row.vector[1];
    W c = row.scalar[0];
    double down;
    auto [xx, n] = measure<W>(x, v, row.dim, down);
    W alpha = rim(x, row.dim, xx, c);
    Step<W> y = step<W>(alpha, scale(n, 1.0 / down), c);
    auto s = sums<1, W>(row.dim, [&](auto at, auto* t) {
      auto b = at(x) + y.size * at(v);
      t[0] = b * b;
    });
    Factors<W> k = add<W>(s[0], alpha, y.beta, c);
    each(row.dim, [&](auto at) {
      auto a = at(x);
      emit(at, out, k.on_x * a + k.on_s * (a + y.size * at(v)));
    });
  }

  template <class W, class T, class Out>
  static HYPERBOLIC_CALL void pull(const Row<W, T>& row, const Out* target, W* g) {
    using S = Dual<W, 3>;
    using R = Dual<W, 4>;
    const T *x = row.vector[0], *v = row.vector[1];
    W c = row.scalar[0];
    double down;
    auto [xx, n] = measure<W>(x, v, row.dim, down);
    W alpha = rim(x, row.dim, xx, c);
    S by_c = variable<S>(c, 2);
    Step<S> y = step(rim_of(variable<S>(xx, 0), by_c, alpha), variable<S>(scale(n, 1.0 / down), 1), by_c);
    W size = y.size.v;
    auto p = sums<5, W>(row.dim, [&](auto at, auto* t) {
      auto a = at(x), b = at(v), s = a + size * b, e = at(row.cotangent);
      t[0] = s * s;
      t[1] = s * b;
      t[2] = a * e;
      t[3] = b * e;
      t[4] = s * e;
    });
    R ss = variable<R>(p[0], 0), square = variable<R>(xx, 1), beta = variable<R>(y.beta.v, 2), cc = variable<R>(c, 3);
    Factors<R> k = add(ss, rim_of(square, cc, alpha), beta, cc);
    W slope[4];
    for (int i = 0; i < 4; i++) slope[i] = p[2] * k.on_x.d[i] + p[4] * k.on_s.d[i];
    // the step and its beta are functions of |x|^2, |v| and c in turn, and s of the step
    W by_size = k.on_s.v * p[3] + scale(slope[0] * p[1], 2.0);
    W by[3];
    for (int i = 0; i < 3; i++) by[i] = by_size * y.size.d[i] + slope[2] * y.beta.d[i];
    W both = k.on_x.v + k.on_s.v, on_s = scale(slope[0], 2.0), on_x = scale(slope[1] + by[0], 2.0);
    W along = head(n) == 0 ? W(0.0) : scale(by[1] / n, down);
    W times = size * k.on_s.v, on_s_by_v = size * on_s;
    each(row.dim, [&](auto at) {
      auto a = at(x), b = at(v), s = a + size * b, e = at(row.cotangent);
      if (wanted(target[0])) emit(at, target[0], both * e + (on_s * s + on_x * a));
      if (wanted(target[1])) emit(at, target[1], times * e + (on_s_by_v * s + along * b));
    });
    g[0] = g[0] + slope[3] + by[2];
  }
};

}  // namespace hyperbolic::HYPERBOLIC_ISA::poincare
