// Where formulas leave vectors, and rows that are points: those of the ball stay strictly inside, those of the
// hyperboloid finite.
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

HYPERBOLIC_INLINE void move_inside(const Result& x, int64_t dim, double c) {
  auto square = [&](auto zero) {
    using W = decltype(zero);
    return sums<1, W>(dim, [&](At at, W* t) {
      const W a = read({x.data, x.dtype}, at.k);
      t[0] = a * a;
    })[0];
  };
  move_inside(x, c, square, [&](auto* p) { each(dim, [&](At at) { step_inwards(p[at.k]); }); });
}

}  // namespace hyperbolic::HYPERBOLIC_ISA
