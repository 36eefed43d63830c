// The maps of the hyperboloid.
#define HYPERBOLIC_ISA cuda
#include "rows.cuh"

namespace hyperbolic::cuda {

static constexpr RowKernel kernels[] = {HYPERBOLIC_LORENTZ_MAPS(HYPERBOLIC_ROW_KERNEL)};
constexpr RowKernels lorentz_maps = {kernels, int(std::size(kernels))};

}  // namespace hyperbolic::cuda
