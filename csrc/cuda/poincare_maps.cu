// The maps of the ball.
#define HYPERBOLIC_ISA cuda
#include "rows.cuh"

namespace hyperbolic::cuda {

static constexpr RowKernel kernels[] = {HYPERBOLIC_POINCARE_MAPS(HYPERBOLIC_ROW_KERNEL)};
constexpr RowKernels poincare_maps = {kernels, int(std::size(kernels))};

}  // namespace hyperbolic::cuda
