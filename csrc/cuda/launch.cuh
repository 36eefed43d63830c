// How a kernel is launched.
#pragma once

#include "table.h"

namespace hyperbolic::cuda {

// What a block gets of its multiprocessor's memory without asking.
constexpr size_t granted = 48 << 10;

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), const Launch& l, const Arguments&... arguments) {
  if (l.shared > granted) {
    const cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize, int(l.shared));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(l.blocks));
  config.blockDim = dim3(l.lanes, l.teams);
  config.dynamicSmemBytes = l.shared;
  config.stream = l.stream;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace hyperbolic::cuda
