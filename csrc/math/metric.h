// What orders pairs of points as their distance does, for approximate indexes: in float, from four sums over the
// coordinates. Points are scaled to c = 1.
#pragma once

#include "base.h"

namespace hyperbolic::HYPERBOLIC_ISA {

// Adds the terms of one coordinate, or of several: |x|^2, |y|^2, |x - y|^2 and (x - y).(x + y).
template <class V>
HYPERBOLIC_INLINE void add_metric_terms(V x, V y, V& xx, V& yy, V& dd, V& ds) {
  V difference = x - y;
  xx += x * x;
  yy += y * y;
  dd += difference * difference;
  ds += difference * (x + y);
}

// cosh D - 1 = (|x - y|^2 - (x0 - y0)^2)/2, the difference of the time components from (x - y).(x + y) = x0^2 - y0^2.
// Close points cost no digits, but those on one ray do: the relative error is about eps cosh(r_x) cosh(r_y) there, and
// a few eps at equal radii.
template <class T>
HYPERBOLIC_INLINE T coshd_minus_1(T xx, T yy, T dd, T ds) {
  T rise = ds / (std::sqrt(1 + xx) + std::sqrt(1 + yy));
  return max(T(0), (dd - rise * rise) / 2);
}

}  // namespace hyperbolic::HYPERBOLIC_ISA
