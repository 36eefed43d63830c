// Entries of tiles from the formulas for two points.
#define HYPERBOLIC_ISA cuda
#include "repair.cuh"

namespace hyperbolic::cuda {

constexpr RepairKernel lorentz_repair = repair_kernel<LorentzPair>();
constexpr RepairKernel poincare_repair = repair_kernel<PoincarePair>();

}  // namespace hyperbolic::cuda
