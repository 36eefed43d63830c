// From tensors to the memory that the kernels see: types, batches that broadcast, matrices.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "../math/base.h"
#include "kernels/table.h"

namespace hyperbolic::cpu {

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

inline int64_t size_of(Dtype dtype) {
  return dtype == Dtype::float64 ? 8 : dtype == Dtype::float32 ? 4 : 2;
}

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

// The shape that the leading dimensions of all arguments broadcast to.
class Batch {
 public:
  // `core`: how many trailing dimensions of the argument are its own.
  void add(std::string_view op, const char* name, const Tensor& a, int64_t core) {
    int64_t own = a.dim() - core;
    if (own > int64_t(shape_.size())) shape_.insert(shape_.begin(), own - shape_.size(), 1);
    for (int64_t d = 0; d < own; d++) {
      int64_t& size = shape_[shape_.size() - own + d];
      STD_TORCH_CHECK(size == 1 || a.size(d) == 1 || a.size(d) == size, op, ": ", name,
                      " must have a batch shape that broadcasts with ", text(shape_.data(), int64_t(shape_.size())),
                      ", got ", text(a));
      if (a.size(d) != 1) size = a.size(d);
    }
  }

  const std::vector<int64_t>& shape() const { return shape_; }

  int64_t count() const { return product(shape_.data(), int64_t(shape_.size())); }

  // In elements, where the part of `a` that element `index` of the batch sees begins.
  int64_t offset(const Tensor& a, int64_t core, int64_t index) const {
    int64_t result = 0;
    walk(a, core, index, [&](int64_t d, int64_t i) { result += i * a.stride(d); });
    return result;
  }

  // Which of the leading elements of `a`, counted in order, element `index` of the batch sees.
  int64_t element(const Tensor& a, int64_t core, int64_t index) const {
    int64_t result = 0, step = 1;
    walk(a, core, index, [&](int64_t d, int64_t i) {
      result += i * step;
      step *= a.size(d);
    });
    return result;
  }

 private:
  // f(dimension of a, index in it), the last dimension first
  template <class F>
  void walk(const Tensor& a, int64_t core, int64_t index, F f) const {
    int64_t own = a.dim() - core, rank = shape_.size();
    for (int64_t d = rank - 1; d >= rank - own; d--) {
      int64_t mine = d - (rank - own);
      f(mine, a.size(mine) == 1 ? 0 : index % shape_[d]);
      index /= shape_[d];
    }
  }

  std::vector<int64_t> shape_;
};

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

inline const char* address(const Tensor& a, int64_t offset) {
  return static_cast<const char*>(memory(a)) + offset * size_of(dtype_of(a));
}

inline Matrix matrix(const Tensor& a, int64_t offset) {
  int64_t n = a.dim();
  return {address(a, offset), dtype_of(a), a.size(n - 2), a.size(n - 1), a.stride(n - 2), a.stride(n - 1)};
}

// In float64: a number of another type is exact in it.
inline Tensor widened(const Tensor& a) { return torch::stable::to(a, ScalarType::Double); }

// A float64 number.
inline double number(const Tensor& a, int64_t offset) {
  return *reinterpret_cast<const double*>(address(a, offset));
}

// One that must be positive, such as a curvature.
inline double positive(const Tensor& a, int64_t offset) { return portable::positive_or_nan(number(a, offset)); }

}  // namespace hyperbolic::cpu
