// The distances of the hyperboloid.
#define HYPERBOLIC_ISA cuda
#include "rows.cuh"

namespace hyperbolic::cuda {

namespace {

constexpr RowKernel kernels[] = {
    row_kernel<lorentz::Dist>("lorentz_dist"),
    row_kernel<lorentz::Dist0>("lorentz_dist0"),
    row_kernel<lorentz::DistExp0<1>>("lorentz_dist_exp0"),
};

}  // namespace

constexpr RowKernels lorentz_distances = {kernels, int(std::size(kernels))};

}  // namespace hyperbolic::cuda
