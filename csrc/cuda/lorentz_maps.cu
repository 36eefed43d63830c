// The maps of the hyperboloid.
#define HYPERBOLIC_ISA cuda
#include "rows.cuh"

namespace hyperbolic::cuda {

namespace {

constexpr RowKernel kernels[] = {
    row_kernel<lorentz::Expmap0>("lorentz_expmap0"),
    row_kernel<lorentz::Logmap0>("lorentz_logmap0"),
    row_kernel<lorentz::Expmap>("lorentz_expmap"),
    row_kernel<lorentz::Logmap>("lorentz_logmap"),
};

}  // namespace

constexpr RowKernels lorentz_maps = {kernels, int(std::size(kernels))};

}  // namespace hyperbolic::cuda
