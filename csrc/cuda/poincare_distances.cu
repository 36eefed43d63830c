// The distances of the ball.
#define HYPERBOLIC_ISA cuda
#include "rows.cuh"

namespace hyperbolic::cuda {

static constexpr RowKernel kernels[] = {HYPERBOLIC_POINCARE_DISTANCES(HYPERBOLIC_ROW_KERNEL)};
constexpr RowKernels poincare_distances = {kernels, int(std::size(kernels))};

}  // namespace hyperbolic::cuda
