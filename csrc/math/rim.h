// How far a point is from the rim of the ball, and whether it is inside at all.
#pragma once

#include "pair.h"

namespace hyperbolic::HYPERBOLIC_ISA {

// Below this, 1 - c|x|^2 is found in Wide for float data too: to the last digit in float, however little is left.
inline constexpr double NEAR_RIM = 0x1p-23;

template <class T>
HYPERBOLIC_OUTLINE double rim_of_floats(const T* x, int64_t dim, double c) {
  Wide square = sums<1, Wide>(dim, [&](auto at, auto* t) {
    auto a = at(x);
    t[0] = two_prod(a, a);
  })[0];
  return head(1.0 - square * Wide(c));
}

// alpha = 1 - c|x|^2 from |x|^2. NaN on the rim, outside and for what is not finite, which makes the whole row NaN.
template <class W, class T>
HYPERBOLIC_INLINE W rim(const T* x, int64_t dim, W square, W c) {
  W alpha = 1.0 - c * square;
  if constexpr (std::is_same_v<W, double>) {
    if (!(alpha > NEAR_RIM)) alpha = rim_of_floats(x, dim, c);
  }
  return head(alpha) > 0 ? alpha : W(std::numeric_limits<double>::quiet_NaN());
}

// alpha with its derivatives, those of 1 - c|x|^2, given its value.
template <class W>
HYPERBOLIC_INLINE W rim_of(const W&, const W&, W alpha) {
  return alpha;
}
template <class W, int N>
HYPERBOLIC_INLINE Dual<W, N> rim_of(const Dual<W, N>& square, const Dual<W, N>& c, W alpha) {
  Dual<W, N> r;
  r.v = alpha;
  for (int i = 0; i < N; i++) r.d[i] = -(c.d[i] * square.v + c.v * square.d[i]);
  return r;
}

}  // namespace hyperbolic::HYPERBOLIC_ISA
