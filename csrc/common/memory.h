// Numbers as tensors keep them in memory: plain data, for every compiler.
#pragma once

#include <cstdint>

namespace hyperbolic {

enum class Dtype { float32, float64, bfloat16, float16 };

// In bytes. Inlined, because files for different instruction sets have it in common.
inline __attribute__((always_inline)) int64_t size_of(Dtype dtype) {
  return dtype == Dtype::float64 ? 8 : dtype == Dtype::float32 ? 4 : 2;
}

struct Input {
  const void* data;
  Dtype dtype;
};

// Contiguous; null where it is not wanted.
struct Result {
  void* data;
  Dtype dtype;
};

}  // namespace hyperbolic
