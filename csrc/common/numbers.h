// Single numbers of any type in memory, and what keeps rounded points where they belong: strictly inside the ball, and
// finite on the hyperboloid.
#pragma once

#include "../math/rounding.h"
#include "../math/wide.h"
#include "memory.h"

namespace hyperbolic::HYPERBOLIC_ISA {

HYPERBOLIC_INLINE double read(const Input& a, int64_t i) {
  switch (a.dtype) {
    case Dtype::float32:
      return static_cast<const float*>(a.data)[i];
    case Dtype::float64:
      return static_cast<const double*>(a.data)[i];
    case Dtype::bfloat16:
      return from_bfloat16(static_cast<const uint16_t*>(a.data)[i]);
    default:
      return from_half(static_cast<const uint16_t*>(a.data)[i]);
  }
}

// Rounded once.
HYPERBOLIC_INLINE void write(double value, const Result& to, int64_t i) {
  switch (to.dtype) {
    case Dtype::float32:
      static_cast<float*>(to.data)[i] = float(value);
      break;
    case Dtype::float64:
      static_cast<double*>(to.data)[i] = value;
      break;
    case Dtype::bfloat16:
      static_cast<uint16_t*>(to.data)[i] = to_bfloat16(value);
      break;
    case Dtype::float16:
      static_cast<uint16_t*>(to.data)[i] = to_half(value);
      break;
  }
}

HYPERBOLIC_INLINE double largest_of(Dtype dtype) {
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

// Whether c|x|^2 is not below 1. That is decided by a sum in double where it is far from 1, else by one in Wide: |x|^2
// is good to 1e-31 there, and the last bit of a coordinate moves it by 1e-16 at least. square(W) sums in the type W.
template <class Square>
HYPERBOLIC_INLINE bool is_outside(double c, const Square& square) {
  return square(0.0) * c - 1.0 > -1e-9 && head(square(Wide(0.0)) * Wide(c) - 1.0) > -1e-30;
}

// Steps a coordinate towards 0 by its last bit.
template <class Bits>
HYPERBOLIC_INLINE void step_inwards(Bits& a) {
  if (Bits(a << 1) != 0) a = Bits(a - 1);
}

// Steps every coordinate of a point towards 0 until it is inside the ball; all(step) steps each of them.
template <class Square, class All>
HYPERBOLIC_INLINE void move_inside(const Result& x, double c, const Square& square, const All& all) {
  for (int i = 0; i < MOST_STEPS_INSIDE && is_outside(c, square); i++) {
    if (x.dtype == Dtype::float64) {
      all(static_cast<uint64_t*>(x.data));
    } else if (x.dtype == Dtype::float32) {
      all(static_cast<uint32_t*>(x.data));
    } else {
      all(static_cast<uint16_t*>(x.data));
    }
  }
}

}  // namespace hyperbolic::HYPERBOLIC_ISA
