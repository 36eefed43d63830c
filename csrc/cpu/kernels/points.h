// What keeps rounded points where they belong: strictly inside the ball, and finite on the hyperboloid.
#pragma once

#include "operands.h"

namespace hyperbolic::HYPERBOLIC_ISA {

// Steps every coordinate towards 0 by its last bit until c|x|^2 < 1. That is decided by a sum in double where it is far
// from 1, else by one in Wide: |x|^2 is good to 1e-31 there, and a step moves it by 1e-16 at least.
inline void move_inside(const Operand& x, int64_t start, int64_t dim, double c) {
  auto excess = [&](auto unit) {
    decltype(unit) square = 0.0;
    for (int64_t k = 0; k < dim; k++) {
      decltype(unit) a = read(x, start + k);
      square = square + a * a;
    }
    return square * unit - 1.0;
  };
  auto step = [&](auto* p) {
    using Bits = std::decay_t<decltype(*p)>;
    for (int64_t k = 0; k < dim; k++) {
      if (Bits(p[k] << 1) != 0) p[k] = Bits(p[k] - 1);
    }
  };
  for (int i = 0; i < MOST_STEPS_INSIDE && excess(c) > -1e-9 && head(excess(Wide(c))) > -1e-30; i++) {
    void* row = at_element(const_cast<void*>(x.data), x.dtype, start);
    if (x.dtype == Dtype::float64) {
      step(static_cast<uint64_t*>(row));
    } else if (x.dtype == Dtype::float32) {
      step(static_cast<uint32_t*>(row));
    } else {
      step(static_cast<uint16_t*>(row));
    }
  }
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

inline double largest_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::float32:
      return std::numeric_limits<float>::max();
    case Dtype::bfloat16:
      return LARGEST_BFLOAT16;
    case Dtype::float16:
      return LARGEST_HALF;
    default:
      return std::numeric_limits<double>::max();
  }
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
