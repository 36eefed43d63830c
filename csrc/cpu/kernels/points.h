// Rows that are points: those of the ball stay strictly inside, those of the hyperboloid finite.
#pragma once

#include "operands.h"

namespace hyperbolic::HYPERBOLIC_ISA {

inline void move_inside(const Result& x, int64_t dim, double c) {
  auto square = [&](auto zero) {
    decltype(zero) sum = zero;
    for (int64_t k = 0; k < dim; k++) {
      decltype(zero) a = read({x.data, x.dtype}, k);
      sum = sum + a * a;
    }
    return sum;
  };
  move_inside(x, c, square, [&](auto* p) {
    for (int64_t k = 0; k < dim; k++) step_inwards(p[k]);
  });
}

template <class T>
HYPERBOLIC_INLINE bool inside(const T* row, int64_t dim, double c) {
  auto [square] = sums<1, double>(dim, [&](auto at, auto* t) {
    auto a = at(row);
    if constexpr (sizeof(T) == 8) {
      t[0] = a.hi * a.hi;
    } else {
      t[0] = a * a;
    }
  });
  return c * square < 1 - 1e-9;
}

// Shortens a vector that the type cannot hold to the longest of its direction.
inline void shorten(double* row, int64_t dim, Dtype dtype) {
  double size = 0, limit = largest_of(dtype);
  for (int64_t k = 0; k < dim; k++) {
    if (std::fabs(row[k]) > size) size = std::fabs(row[k]);
  }
  if (!(size > limit) || !(size <= std::numeric_limits<double>::max())) return;
  for (int64_t k = 0; k < dim; k++) row[k] = row[k] * (limit / size);
}

}  // namespace hyperbolic::HYPERBOLIC_ISA
