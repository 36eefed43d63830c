// Registers the kernels with the operators that Python declares (hyperbolic/ops).
#include <torch/csrc/stable/library.h>

#include "cpu/kernels/table.h"

// The instruction set in use, for hyperbolic.kernels(), which finds this function by name.
extern "C" __attribute__((visibility("default"))) const char* hyperbolic_isa() {
  return hyperbolic::cpu::kernels().isa;
}
