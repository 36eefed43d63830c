// Where formulas leave vectors, and what keeps rounded points where they belong: strictly inside the ball, and finite
// on the hyperboloid.
#pragma once

#include "operands.cuh"

namespace hyperbolic::HYPERBOLIC_ISA {

// A staged row of the result's type, or sums to be added to.
struct Target {
  Result row;
  WideSum sum;
  // Coordinates are multiplied by this, and what they were is compared with the largest so far.
  double factor = 1.0;
  double* largest = nullptr;
};

HYPERBOLIC_INLINE bool wanted(const Target& out) { return out.row.data || wanted(out.sum); }

template <class W>
HYPERBOLIC_INLINE void emit(At at, const Target& out, W v) {
  if (!out.row.data) return emit(at, out.sum, Wide(v));
  const double value = head(v);
  if (out.largest && std::fabs(value) > *out.largest) *out.largest = std::fabs(value);
  write(value * out.factor, out.row, at.k);
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

// Evaluates a vector; once more, shortened to the longest of its direction, if its type cannot hold it.
template <class Evaluate>
HYPERBOLIC_INLINE void emit_finite(Target out, Evaluate evaluate) {
  const double limit = largest_of(out.row.dtype);
  for (bool again = true; again;) {
    double largest = 0.0;
    out.largest = &largest;
    evaluate(out);
    const double size = largest_of_team(largest);
    again = out.factor == 1.0 && size > limit && size <= std::numeric_limits<double>::max();
    out.factor = limit / size;
  }
}

// One step of the last bit towards 0.
template <class Bits>
HYPERBOLIC_INLINE void step_inwards(Bits* p, int64_t dim) {
  each(dim, [&](At at) {
    if (Bits(p[at.k] << 1) != 0) p[at.k] = Bits(p[at.k] - 1);
  });
}

// Steps every coordinate towards 0 by its last bit until c|x|^2 < 1. That is decided by a sum in double where it is far
// from 1, else by one in Wide: |x|^2 is good to 1e-31 there, and a step moves it by 1e-16 at least.
HYPERBOLIC_INLINE void move_inside(const Result& x, int64_t dim, double c) {
  auto square = [&](auto unit) {
    using W = decltype(unit);
    return sums<1, W>(dim, [&](At at, W* t) {
      const W a = read({x.data, x.dtype}, at.k);
      t[0] = a * a;
    })[0];
  };
  auto outside = [&] { return square(0.0) * c - 1.0 > -1e-9 && head(square(Wide(0.0)) * c - 1.0) > -1e-30; };
  for (int i = 0; i < MOST_STEPS_INSIDE && outside(); i++) {
    if (x.dtype == Dtype::float64) {
      step_inwards(static_cast<uint64_t*>(x.data), dim);
    } else if (x.dtype == Dtype::float32) {
      step_inwards(static_cast<uint32_t*>(x.data), dim);
    } else {
      step_inwards(static_cast<uint16_t*>(x.data), dim);
    }
  }
}

}  // namespace hyperbolic::HYPERBOLIC_ISA
