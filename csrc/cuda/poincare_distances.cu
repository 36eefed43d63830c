// The distances of the ball.
#define HYPERBOLIC_ISA cuda
#include "rows.cuh"

namespace hyperbolic::cuda {

namespace {

constexpr RowKernel kernels[] = {
    row_kernel<poincare::Dist>("poincare_dist"),
    row_kernel<poincare::Dist0>("poincare_dist0"),
    row_kernel<poincare::DistExp0>("poincare_dist_exp0"),
};

}  // namespace

constexpr RowKernels poincare_distances = {kernels, int(std::size(kernels))};

}  // namespace hyperbolic::cuda
