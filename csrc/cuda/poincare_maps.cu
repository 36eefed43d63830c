// The maps of the ball.
#define HYPERBOLIC_ISA cuda
#include "rows.cuh"

namespace hyperbolic::cuda {

namespace {

constexpr RowKernel kernels[] = {
    row_kernel<poincare::Expmap0>("poincare_expmap0"),
    row_kernel<poincare::Logmap0>("poincare_logmap0"),
    row_kernel<poincare::Expmap>("poincare_expmap"),
    row_kernel<poincare::Logmap>("poincare_logmap"),
    row_kernel<poincare::MobiusAdd>("poincare_mobius_add"),
};

}  // namespace

constexpr RowKernels poincare_maps = {kernels, int(std::size(kernels))};

}  // namespace hyperbolic::cuda
