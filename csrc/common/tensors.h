// What all operators do with tensors, on every device: their types, shapes and memory.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "memory.h"

namespace hyperbolic {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Dtype dtype_of(const Tensor& a, std::string_view op = "hyperbolic", const char* name = "an argument") {
  switch (a.scalar_type()) {
    case ScalarType::Float:
      return Dtype::float32;
    case ScalarType::Double:
      return Dtype::float64;
    case ScalarType::BFloat16:
      return Dtype::bfloat16;
    case ScalarType::Half:
      return Dtype::float16;
    default:
      STD_TORCH_CHECK(false, op, ": ", name, " must be a tensor of float16, bfloat16, float32 or float64, got ",
                      a.scalar_type());
  }
}

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline std::string text(const int64_t* sizes, int64_t rank) {
  std::string result = "(";
  for (int64_t d = 0; d < rank; d++) result += (d ? ", " : "") + std::to_string(sizes[d]);
  return result + (rank == 1 ? ",)" : ")");
}
inline std::string text(const Tensor& a) { return text(a.sizes().data(), a.dim()); }

// How many numbers a shape has. More than 2^48 fit no memory, and the size in bytes of some hundred times as many is
// still a number of 64 bits.
inline int64_t product(const int64_t* sizes, int64_t rank) {
  constexpr int64_t most = int64_t(1) << 48;
  if (std::find(sizes, sizes + rank, 0) != sizes + rank) return 0;
  int64_t n = 1;
  for (int64_t d = 0; d < rank; d++) {
    STD_TORCH_CHECK(sizes[d] <= most / n, "hyperbolic: shapes must have at most 2^48 elements, got ",
                    text(sizes, rank));
    n *= sizes[d];
  }
  return n;
}

// Contiguous. Straight through the shim, which costs a fraction of a trip through the dispatcher.
inline Tensor empty(const std::vector<int64_t>& shape, ScalarType dtype,
                    int32_t device_type = aoti_torch_device_type_cpu(), int32_t device = -1) {
  std::vector<int64_t> strides(shape.size());
  int64_t step = 1;
  for (size_t d = shape.size(); d-- > 0; step *= std::max<int64_t>(1, shape[d])) strides[d] = step;
  const int32_t code = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(int64_t(shape.size()), shape.data(), strides.data(), code,
                                                         device_type, device, &handle));
  return Tensor(handle);
}

inline const void* memory(const Tensor& a) {
  const void* data = a.const_data_ptr();
  STD_TORCH_CHECK(data || a.numel() == 0, "hyperbolic: a tensor of shape ", text(a), " has no memory");
  return data;
}

}  // namespace hyperbolic
