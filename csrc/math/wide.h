// Wide numbers: arithmetic with at least twice the digits of the data. double serves float data; DoubleDouble, an
// unevaluated sum of two doubles with 106 bits, serves double data. Formulas are templates over W, either of them.
//
// Knuth's two-sum; two-product by fma; the operations follow Hida, Li and Bailey, "Algorithms for quad-double
// precision floating point arithmetic" (2001). Word is double or a vector of doubles.
#pragma once

#include "base.h"

namespace hyperbolic::HYPERBOLIC_ISA {

template <class V>
struct DoubleDouble {
  V hi, lo;

  DoubleDouble() = default;  // trivial: GCC compiles members that it writes itself without the target of their file
  HYPERBOLIC_INLINE DoubleDouble(V h) : hi(h), lo{} {}  // NOLINT: exact, so implicit
  HYPERBOLIC_INLINE DoubleDouble(V h, V l) : hi(h), lo(l) {}
};

using Wide = DoubleDouble<double>;

template <class V>
HYPERBOLIC_INLINE DoubleDouble<V> two_sum(V a, V b) {
  V s = a + b, t = s - a;
  return {s, (a - (s - t)) + (b - t)};
}

template <class V>
HYPERBOLIC_INLINE DoubleDouble<V> quick_two_sum(V a, V b) {  // |a| >= |b|
  V s = a + b;
  return {s, b - (s - a)};
}

template <class V>
HYPERBOLIC_INLINE DoubleDouble<V> two_prod(V a, V b) {
  V p = a * b;
  return {p, fma(a, b, -p)};
}

template <class V>
HYPERBOLIC_INLINE DoubleDouble<V> operator-(DoubleDouble<V> a) {
  return {-a.hi, -a.lo};
}

template <class V>
HYPERBOLIC_INLINE DoubleDouble<V> operator+(DoubleDouble<V> a, DoubleDouble<V> b) {
  DoubleDouble<V> s = two_sum(a.hi, b.hi), t = two_sum(a.lo, b.lo);
  s = quick_two_sum(s.hi, s.lo + t.hi);
  return quick_two_sum(s.hi, s.lo + t.lo);
}

template <class V>
HYPERBOLIC_INLINE DoubleDouble<V> operator-(DoubleDouble<V> a, DoubleDouble<V> b) {
  return a + (-b);
}

template <class V>
HYPERBOLIC_INLINE DoubleDouble<V> operator*(DoubleDouble<V> a, DoubleDouble<V> b) {
  DoubleDouble<V> p = two_prod(a.hi, b.hi);
  return quick_two_sum(p.hi, p.lo + (a.hi * b.lo + a.lo * b.hi));
}

template <class V>
HYPERBOLIC_INLINE DoubleDouble<V> operator/(DoubleDouble<V> a, DoubleDouble<V> b) {
  V q1 = a.hi / b.hi;
  DoubleDouble<V> r = a - b * DoubleDouble<V>(q1);
  V q2 = r.hi / b.hi;
  r = r - b * DoubleDouble<V>(q2);
  V q3 = r.hi / b.hi;
  return quick_two_sum(q1, q2) + DoubleDouble<V>(q3);
}

// As calls for scalars: the formulas are long, and inlined, this arithmetic makes minutes of compilation out of them.
#define HYPERBOLIC_CALLED(op)                           \
  HYPERBOLIC_OUTLINE Wide operator op(Wide a, Wide b) { \
    return operator op<double>(a, b);                   \
  }
HYPERBOLIC_CALLED(+)
HYPERBOLIC_CALLED(*)
HYPERBOLIC_CALLED(/)
#undef HYPERBOLIC_CALLED
HYPERBOLIC_CALL Wide operator-(Wide a, Wide b) { return a + (-b); }

// With a plain number on either side.
#define HYPERBOLIC_MIXED(op)                                                                          \
  template <class V>                                                                                  \
  HYPERBOLIC_INLINE DoubleDouble<V> operator op(DoubleDouble<V> a, double b) {                        \
    return a op DoubleDouble<V>(broadcast<V>(b));                                                     \
  }                                                                                                   \
  template <class V>                                                                                  \
  HYPERBOLIC_INLINE DoubleDouble<V> operator op(double a, DoubleDouble<V> b) {                        \
    return DoubleDouble<V>(broadcast<V>(a)) op b;                                                     \
  }
HYPERBOLIC_MIXED(+)
HYPERBOLIC_MIXED(-)
HYPERBOLIC_MIXED(*)
HYPERBOLIC_MIXED(/)
#undef HYPERBOLIC_MIXED

// A scalar with a vector, which may be either operand.
#define HYPERBOLIC_BROADCAST(op)                                                                      \
  template <class V, class = std::enable_if_t<(Word<V>::lanes > 1)>>                                  \
  HYPERBOLIC_INLINE DoubleDouble<V> operator op(DoubleDouble<V> a, Wide b) {                          \
    return a op DoubleDouble<V>(broadcast<V>(b.hi), broadcast<V>(b.lo));                              \
  }                                                                                                   \
  template <class V, class = std::enable_if_t<(Word<V>::lanes > 1)>>                                  \
  HYPERBOLIC_INLINE DoubleDouble<V> operator op(Wide a, DoubleDouble<V> b) {                          \
    return DoubleDouble<V>(broadcast<V>(a.hi), broadcast<V>(a.lo)) op b;                              \
  }
HYPERBOLIC_BROADCAST(+)
HYPERBOLIC_BROADCAST(-)
HYPERBOLIC_BROADCAST(*)
HYPERBOLIC_BROADCAST(/)
#undef HYPERBOLIC_BROADCAST

template <class V>
HYPERBOLIC_INLINE DoubleDouble<V>& operator+=(DoubleDouble<V>& a, DoubleDouble<V> b) {
  return a = a + b;
}

template <class V>
HYPERBOLIC_INLINE DoubleDouble<V> sqrt(DoubleDouble<V> a) {
  V s = sqrt(a.hi);
  auto usable = (s > 0) & (s < std::numeric_limits<double>::infinity());
  V r = usable ? s : broadcast<V>(1.0);
  V correction = (a - two_prod(r, r)).hi / (r + r);
  DoubleDouble<V> root = quick_two_sum(r, correction);
  return {usable ? root.hi : s, usable ? root.lo : V{}};
}

// Rounded to double: for comparisons and for results.
HYPERBOLIC_INLINE double head(double a) { return a; }
HYPERBOLIC_INLINE double head(Wide a) { return a.hi; }

// The wide number that serves data of type T.
template <class T>
using WideFor = std::conditional_t<sizeof(T) == 8, Wide, double>;

}  // namespace hyperbolic::HYPERBOLIC_ISA
