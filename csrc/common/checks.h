// Operators can be called directly, with anything: what does not fit is refused here, before its memory is read.
#pragma once

#include <string>
#include <string_view>

#include "tensors.h"

namespace hyperbolic {

// What the arguments of a call have in common: dimensions D, N and M.
class Shapes {
 public:
  Shapes(int model, const char* op) : op_(std::string(model ? "poincare_" : "lorentz_") + op) {}

  const std::string& op() const { return op_; }

  // Argument `name` ends in these dimensions, such as "N, D", along which it is as large as those before it.
  void ends(const char* name, const Tensor& a, std::string_view dims) {
    dtype_of(a, op_, name);
    const int64_t own = count(dims), first = a.dim() - own;
    STD_TORCH_CHECK(first >= 0, op_, ": ", name, " must have shape (..., ", dims, "), got ", text(a));
    product(a.sizes().data(), a.dim());
    for (int64_t i = 0; i < own; i++) {
      const char letter = dims[3 * i];
      const int64_t size = a.size(first + i);
      STD_TORCH_CHECK(size > 0 || letter != 'D', op_, ": ", name, " must have at least one element along D, got ",
                      text(a));
      auto& [owner, wanted] = sizes_[std::string_view("DNM").find(letter)];
      if (!owner) owner = name, wanted = size;
      STD_TORCH_CHECK(size == wanted, op_, ": ", name, " must have size ", wanted, " along ", letter, " as ", owner,
                      " has, got ", text(a));
    }
  }

  // It has these dimensions and no others.
  void is(const char* name, const Tensor& a, std::string_view dims) {
    ends(name, a, dims);
    STD_TORCH_CHECK(a.dim() == count(dims), op_, ": ", name, " must have shape (", dims, "), got ",
                    text(a));
  }

  void is_number(const char* name, const Tensor& a) const {
    dtype_of(a, op_, name);
    STD_TORCH_CHECK(a.numel() == 1, op_, ": ", name, " must be one number, got ", text(a));
  }

  // Positive rows of y for each row of x.
  void are_labels(const Tensor& labels, const Tensor& x) const {
    STD_TORCH_CHECK(labels.scalar_type() == ScalarType::Long && labels.dim() == 1 && labels.size(0) == x.size(0), op_,
                    ": labels must be a tensor of int64 of shape (", x.size(0), ",), got ", labels.scalar_type(), " ",
                    text(labels));
  }

  static int64_t count(std::string_view dims) { return int64_t(dims.size() + 2) / 3; }

 private:
  std::string op_;
  struct {
    const char* owner;
    int64_t size;
  } sizes_[3] = {};
};

}  // namespace hyperbolic
