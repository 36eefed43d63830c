// Sums that several kernels add to, one double-double a number.
#pragma once

#include "coordinates.h"

namespace hyperbolic::HYPERBOLIC_ISA {

template <class V>
HYPERBOLIC_INLINE void emit(At<V> at, WideSum out, DoubleDouble<V> v) {
  DoubleDouble<V> sum = DoubleDouble<V>(load<V>(out.hi + at.k), load<V>(out.lo + at.k)) + v;
  store(out.hi + at.k, sum.hi);
  store(out.lo + at.k, sum.lo);
}

template <class V>
HYPERBOLIC_INLINE void emit(At<V> at, WideSum out, V v) {
  emit(at, out, DoubleDouble<V>(v));
}

template <class V>
HYPERBOLIC_INLINE V high(V v) {
  return v;
}
template <class V>
HYPERBOLIC_INLINE V high(DoubleDouble<V> v) {
  return v.hi;
}

inline void add_parts(double* parts, int64_t count, int64_t size) {
  for (int64_t part = 1; part < count; part++) {
    const double* p = parts + 2 * part * size;
    each(size, [&](auto at) {
      auto v = at(p);
      v.lo = at(p + size).hi;
      emit(at, WideSum{parts, parts + size}, v);
    });
  }
}

}  // namespace hyperbolic::HYPERBOLIC_ISA
