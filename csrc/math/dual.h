// Numbers with their derivatives in N variables: a scalar formula evaluated on them returns its gradient too, so that
// each is written once for values and derivatives.
#pragma once

#include "special.h"

namespace hyperbolic::HYPERBOLIC_ISA {

template <class W, int N>
struct Dual {
  W v;
  W d[N];
};

template <class S>
struct Plain {  // of which wide type a number is, with or without derivatives
  using type = S;
};
template <class W, int N>
struct Plain<Dual<W, N>> {
  using type = W;
};
template <class S>
using PlainOf = typename Plain<S>::type;

// Variable i with value v, or, where there are no derivatives, v.
template <class S>
HYPERBOLIC_INLINE S variable(PlainOf<S> v, [[maybe_unused]] int i) {
  if constexpr (std::is_same_v<S, PlainOf<S>>) {
    return v;
  } else {
    S a{v, {}};
    a.d[i] = 1.0;
    return a;
  }
}

// v, which depends on no variable.
template <class S>
HYPERBOLIC_INLINE S number(PlainOf<S> v) {
  if constexpr (std::is_same_v<S, PlainOf<S>>) {
    return v;
  } else {
    return {v, {}};
  }
}

template <class W>
HYPERBOLIC_INLINE W plain(W a) {
  return a;
}
template <class W, int N>
HYPERBOLIC_INLINE W plain(const Dual<W, N>& a) {
  return a.v;
}

// f(a), given its value and slope.
template <class W, int N>
HYPERBOLIC_INLINE Dual<W, N> chain(const Dual<W, N>& a, W value, W slope) {
  Dual<W, N> r;
  r.v = value;
  for (int i = 0; i < N; i++) r.d[i] = slope * a.d[i];
  return r;
}

template <class W, int N>
HYPERBOLIC_INLINE double head(const Dual<W, N>& a) {
  return head(a.v);
}

template <class W, int N>
HYPERBOLIC_INLINE Dual<W, N> operator-(const Dual<W, N>& a) {
  Dual<W, N> r;
  r.v = -a.v;
  for (int i = 0; i < N; i++) r.d[i] = -a.d[i];
  return r;
}

template <class W, int N>
HYPERBOLIC_INLINE Dual<W, N> operator+(const Dual<W, N>& a, const Dual<W, N>& b) {
  Dual<W, N> r;
  r.v = a.v + b.v;
  for (int i = 0; i < N; i++) r.d[i] = a.d[i] + b.d[i];
  return r;
}

template <class W, int N>
HYPERBOLIC_INLINE Dual<W, N> operator-(const Dual<W, N>& a, const Dual<W, N>& b) {
  Dual<W, N> r;
  r.v = a.v - b.v;
  for (int i = 0; i < N; i++) r.d[i] = a.d[i] - b.d[i];
  return r;
}

template <class W, int N>
HYPERBOLIC_INLINE Dual<W, N> operator*(const Dual<W, N>& a, const Dual<W, N>& b) {
  Dual<W, N> r;
  r.v = a.v * b.v;
  for (int i = 0; i < N; i++) r.d[i] = a.d[i] * b.v + a.v * b.d[i];
  return r;
}

template <class W, int N>
HYPERBOLIC_INLINE Dual<W, N> operator/(const Dual<W, N>& a, const Dual<W, N>& b) {
  Dual<W, N> r;
  r.v = a.v / b.v;
  W inverse = 1.0 / b.v;
  for (int i = 0; i < N; i++) r.d[i] = (a.d[i] - r.v * b.d[i]) * inverse;
  return r;
}

// With constants.
template <class W, int N>
HYPERBOLIC_INLINE Dual<W, N> operator+(Dual<W, N> a, double b) {
  a.v = a.v + b;
  return a;
}
template <int N>
HYPERBOLIC_INLINE Dual<Wide, N> operator+(Dual<Wide, N> a, Wide b) {
  a.v = a.v + b;
  return a;
}
template <class W, int N>
HYPERBOLIC_INLINE Dual<W, N> operator-(Dual<W, N> a, double b) {
  return a + -b;
}
template <class W, int N>
HYPERBOLIC_INLINE Dual<W, N> operator-(double a, const Dual<W, N>& b) {
  return -b + a;
}
template <class W, int N>
HYPERBOLIC_INLINE Dual<W, N> scale(const Dual<W, N>& a, double power) {
  Dual<W, N> r;
  r.v = scale(a.v, power);
  for (int i = 0; i < N; i++) r.d[i] = scale(a.d[i], power);
  return r;
}
template <class W, int N>
HYPERBOLIC_INLINE Dual<W, N> operator/(double a, const Dual<W, N>& b) {
  W inverse = 1.0 / b.v, value = inverse * a;
  return chain(b, value, -(value * inverse));
}

// The slope at 0 counts as 0: the choice that makes gradients of distances vanish at coincident points.
template <class W, int N>
HYPERBOLIC_INLINE Dual<W, N> sqrt(const Dual<W, N>& a) {
  W root = sqrt(a.v);
  return chain(a, root, head(root) == 0 ? W(0.0) : 0.5 / root);
}

template <class W, int N>
HYPERBOLIC_INLINE Dual<W, N> exp(const Dual<W, N>& a) {
  W e = exp(a.v);
  return chain(a, e, e);
}

template <class W, int N>
HYPERBOLIC_INLINE Dual<W, N> expm1(const Dual<W, N>& a) {
  W e = expm1(a.v);
  return chain(a, e, e + 1.0);
}

template <class W, int N>
HYPERBOLIC_INLINE Dual<W, N> log(const Dual<W, N>& a) {
  return chain(a, log(a.v), W(1.0 / a.v));
}

template <class W, int N>
HYPERBOLIC_INLINE Dual<W, N> cosh_root(const Dual<W, N>& q) {
  return chain(q, cosh_root(q.v), scale(sinhc_root(q.v), 0.5));
}

template <class W, int N>
HYPERBOLIC_INLINE Dual<W, N> sinhc_root(const Dual<W, N>& q) {
  return chain(q, sinhc_root(q.v), sinhc_root_slope(q.v));
}

template <class W, int N>
HYPERBOLIC_INLINE Dual<W, N> asinhc_root(const Dual<W, N>& q) {
  W value = asinhc_root(q.v);
  return chain(q, value, asinhc_root_slope(q.v, value));
}

template <class W, int N>
HYPERBOLIC_INLINE Dual<W, N> asinh_exp(W level, const Dual<W, N>& k) {
  return chain(k, asinh_exp(level, k.v), asinh_exp_slope(level, k.v));
}

}  // namespace hyperbolic::HYPERBOLIC_ISA
