// The Lorentz metric for indexes outside of torch, such as that of icl/ann.py, which find it by name.
#include "kernels/table.h"

// The address of a function (x, y, dim): the best for this machine, so that its callers do not choose at every pair.
// Null if there is none.
extern "C" __attribute__((visibility("default"))) const void* hyperbolic_lorentz_metric() {
  const hyperbolic::cpu::Kernels* kernels = hyperbolic::cpu::usable_kernels();
  return kernels ? reinterpret_cast<const void*>(kernels->metric) : nullptr;
}
