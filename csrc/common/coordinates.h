// What loops over the coordinates of a row return and add to. The loops themselves are each device's own.
#pragma once

#include "../math/wide.h"

namespace hyperbolic::HYPERBOLIC_ISA {

// The largest size of a number in memory, and where it is; 0 and 0 where there is none. A NaN is no number.
template <class T>
struct Peak {
  T size;
  int64_t index;
};

// Sums that several rows add to, one double-double a number, whose words lie apart: near the rim of what a type holds, a
// partial sum in one word would round away digits of the radial part that the whole has.
struct WideSum {
  double *hi, *lo;
};

HYPERBOLIC_INLINE bool wanted(WideSum out) { return out.hi != nullptr; }

}  // namespace hyperbolic::HYPERBOLIC_ISA
