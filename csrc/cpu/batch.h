// From tensors to what the kernels over all pairs see: batches that broadcast, matrices, numbers.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "../common/tensors.h"
#include "../math/base.h"
#include "kernels/table.h"

namespace hyperbolic::cpu {

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
