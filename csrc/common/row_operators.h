// The operators on rows. This list is the only one: each device makes its kernels from it, with X(name, formula), and
// registers them by name. The formulas are the structs of math/*_maps.h.
#pragma once

#include "memory.h"

// In four groups, which nvcc compiles side by side.
#define HYPERBOLIC_LORENTZ_MAPS(X)         \
  X("lorentz_expmap0", lorentz::Expmap0) \
  X("lorentz_logmap0", lorentz::Logmap0) \
  X("lorentz_expmap", lorentz::Expmap)   \
  X("lorentz_logmap", lorentz::Logmap)

#define HYPERBOLIC_LORENTZ_DISTANCES(X) \
  X("lorentz_dist", lorentz::Dist)    \
  X("lorentz_dist0", lorentz::Dist0)  \
  X("lorentz_dist_exp0", lorentz::DistExp0<1>)

#define HYPERBOLIC_POINCARE_MAPS(X)          \
  X("poincare_expmap0", poincare::Expmap0) \
  X("poincare_logmap0", poincare::Logmap0) \
  X("poincare_expmap", poincare::Expmap)   \
  X("poincare_logmap", poincare::Logmap)   \
  X("poincare_mobius_add", poincare::MobiusAdd)

#define HYPERBOLIC_POINCARE_DISTANCES(X) \
  X("poincare_dist", poincare::Dist)   \
  X("poincare_dist0", poincare::Dist0) \
  X("poincare_dist_exp0", poincare::DistExp0)

#define HYPERBOLIC_ROW_OPERATORS(X) \
  HYPERBOLIC_LORENTZ_MAPS(X)      \
  HYPERBOLIC_LORENTZ_DISTANCES(X) \
  HYPERBOLIC_POINCARE_MAPS(X)     \
  HYPERBOLIC_POINCARE_DISTANCES(X)

// An entry of a table: `row_kernel` is the device's own.
#define HYPERBOLIC_ROW_KERNEL(name, formula) row_kernel<formula>(name),

namespace hyperbolic {

#define HYPERBOLIC_COUNT(name, formula) +1
inline constexpr int row_operators = HYPERBOLIC_ROW_OPERATORS(HYPERBOLIC_COUNT);
#undef HYPERBOLIC_COUNT

// The arguments are vectors, then scalars, and those of a backward then the cotangent of the result.
struct RowOperator {
  const char* name;
  int vectors, scalars;
  bool returns_vector;
};

inline constexpr int max_operands = 4, max_dims = 64;

}  // namespace hyperbolic
