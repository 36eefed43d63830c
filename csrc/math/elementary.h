// Elementary functions of wide numbers: the standard library's for double, to about 30 digits for Wide.
//
// Where the exact result leaves double, these do as the standard functions do; NaN stays NaN.
#pragma once

#include "wide.h"

namespace hyperbolic::HYPERBOLIC_ISA {

HYPERBOLIC_CALL double exp(double x) { return std::exp(x); }
HYPERBOLIC_CALL double expm1(double x) { return std::expm1(x); }
HYPERBOLIC_CALL double log(double x) { return std::log(x); }
HYPERBOLIC_CALL double asinh(double x) { return std::asinh(x); }
HYPERBOLIC_CALL double sinh(double x) { return std::sinh(x); }
HYPERBOLIC_CALL double cosh(double x) { return std::cosh(x); }

// Exact for a power of two.
template <class V>
HYPERBOLIC_INLINE V scale(V a, double power) {
  return a * power;
}
template <class V>
HYPERBOLIC_INLINE DoubleDouble<V> scale(DoubleDouble<V> a, double power) {
  return {a.hi * power, a.lo * power};
}

template <class W>
HYPERBOLIC_INLINE W constant(double hi, [[maybe_unused]] double lo) {
  if constexpr (std::is_same_v<W, double>) {
    return hi;
  } else {
    return W(hi, lo);
  }
}

// The natural logarithm of 2 in three words.
inline constexpr double LN2_HI = 0.6931471805599453, LN2_LO = 2.3190468138462996e-17, LN2_REST = 5.707708438416212e-34;

template <class W>
HYPERBOLIC_INLINE W ln2() {
  return constant<W>(LN2_HI, LN2_LO);
}

// 2^k for -1022 <= k <= 1023.
HYPERBOLIC_INLINE double power_of_two(int k) { return from_bits<double>(int64_t(k + 1023) << 52); }

// A power of two near a finite size, such that it and its inverse are normal; 1 for 0, Inf and NaN.
HYPERBOLIC_CALL double binade(double size) {
  if (!(size > 0) || !(size < std::numeric_limits<double>::infinity())) return 1.0;
  int k;
  std::frexp(size, &k);
  return power_of_two(k < -1000 ? -1000 : k > 1000 ? 1000 : k);
}

// x 2^k in two steps, because 2^k itself overflows before the product does.
HYPERBOLIC_INLINE Wide ldexp(Wide x, int k) {
  int half = k / 2;
  return scale(scale(x, power_of_two(half)), power_of_two(k - half));
}

// Where exp and expm1 of a Wide are done by series; elsewhere their result is 0, -1, Inf or NaN.
HYPERBOLIC_INLINE bool exponential_in_range(double x) { return x > -745.0 && x < 709.78; }

// expm1(x - k ln 2) and the integer k nearest to x / ln 2.
HYPERBOLIC_CALL Wide expm1_reduced(Wide x, int& k) {
  double n = std::nearbyint(x.hi / LN2_HI);
  k = int(n);
  Wide r = x - two_prod(n, LN2_HI);
  r = r - two_prod(n, LN2_LO);
  r = r - Wide(n * LN2_REST);
  constexpr int halvings = 6;
  r = scale(r, 1.0 / (1 << halvings));
  // The terms 1/n! from the eighth on are below an ulp of the first: one word holds enough of them.
  double tail = 1.6059043836821613e-10 * r.hi;
  tail = (tail + 2.08767569878681e-09) * r.hi;
  tail = (tail + 2.505210838544172e-08) * r.hi;
  tail = (tail + 2.755731922398589e-07) * r.hi;
  tail = (tail + 2.7557319223985893e-06) * r.hi;
  tail = (tail + 2.48015873015873e-05) * r.hi;
  Wide e = r * (Wide(0.0001984126984126984, 1.7209558293420705e-22) + Wide(tail));
  e = (e + Wide(0.001388888888888889, -5.300543954373577e-20)) * r;
  e = (e + Wide(0.008333333333333333, 1.1564823173178714e-19)) * r;
  e = (e + Wide(0.041666666666666664, 2.3129646346357427e-18)) * r;
  e = (e + Wide(0.16666666666666666, 9.25185853854297e-18)) * r;
  e = (e + 0.5) * r;
  e = (e + 1.0) * r;
  for (int i = 0; i < halvings; i++) e = e * (e + 2.0);  // expm1(2 r) = expm1(r) (2 + expm1(r))
  return e;
}

HYPERBOLIC_CALL Wide exp(Wide x) {
  if (!exponential_in_range(x.hi)) return std::exp(x.hi);
  int k;
  Wide e = expm1_reduced(x, k);
  return ldexp(e + 1.0, k);
}

HYPERBOLIC_CALL Wide expm1(Wide x) {
  if (!exponential_in_range(x.hi)) return std::expm1(x.hi);
  int k;
  Wide e = expm1_reduced(x, k);
  return k == 0 ? e : ldexp(e + 1.0, k) - 1.0;
}

HYPERBOLIC_CALL Wide sinh(Wide x) {
  if (!exponential_in_range(x.hi) || !exponential_in_range(-x.hi)) return std::sinh(x.hi);
  bool negative = x.hi < 0;
  Wide e = expm1(negative ? -x : x);
  Wide s = scale(e + e / (e + 1.0), 0.5);
  return negative ? -s : s;
}

HYPERBOLIC_CALL Wide cosh(Wide x) {
  if (!exponential_in_range(x.hi) || !exponential_in_range(-x.hi)) return std::cosh(x.hi);
  Wide e = exp(x.hi < 0 ? -x : x);
  return scale(e + 1.0 / e, 0.5);
}

HYPERBOLIC_CALL Wide log(Wide x) {
  if (!(x.hi > 0 && x.hi < std::numeric_limits<double>::infinity())) return std::log(x.hi);
  // Of a significand close to 1, so that exp(-log) in the Newton step stays far from underflow.
  int k;
  double significand = std::frexp(x.hi, &k);
  if (significand < 0.7071067811865476) k--;
  Wide scaled = ldexp(x, -k), y = std::log(scaled.hi);
  Wide m = scaled * exp(-y) - 1.0;
  return y + (m - scale(m * m, 0.5)) + ln2<Wide>() * Wide(double(k));
}

// One Newton step doubles the digits of the standard function, which are right to a few ULP.
HYPERBOLIC_CALL Wide asinh(Wide x) {
  double y = std::asinh(x.hi), size = std::fabs(x.hi);
  // Below 1e-90 the cube underflows and x is its own asinh; above 1e300 sinh would overflow in the Newton step.
  if (!(size > 1e-90)) return x;
  if (!(size < 1e300)) return y;
  Wide y0 = std::fabs(y), e = expm1(y0), inverse = 1.0 / (e + 1.0);
  Wide m = ((x.hi < 0 ? -x : x) - scale(e + e * inverse, 0.5)) / scale(e + 1.0 + inverse, 0.5);
  Wide root = y0 + m;
  return x.hi < 0 ? -root : root;
}

}  // namespace hyperbolic::HYPERBOLIC_ISA
