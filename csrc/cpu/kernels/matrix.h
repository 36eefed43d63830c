// Matrices in memory of any type and stride, and how their rows come into the working precision.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>

#include "rounding.h"

namespace hyperbolic::HYPERBOLIC_ISA {

using cpu::Matrix;

template <class T>
HYPERBOLIC_INLINE void copy_row(const Matrix& a, int64_t row, int64_t first, int64_t count, T* out) {
  int64_t start = row * a.row_stride + first * a.col_stride, step = a.col_stride;
  auto convert = [&](const auto* p, auto f) {
    p += start;
    if (step == 1) {
      for (int64_t k = 0; k < count; k++) out[k] = f(p[k]);
    } else {
      for (int64_t k = 0; k < count; k++) out[k] = f(p[k * step]);
    }
  };
  switch (a.dtype) {
    case Dtype::float32:
      return convert(static_cast<const float*>(a.data), [](float v) { return T(v); });
    case Dtype::float64:
      return convert(static_cast<const double*>(a.data), [](double v) { return T(v); });
    case Dtype::bfloat16:
      return convert(static_cast<const uint16_t*>(a.data), [](uint16_t v) { return T(from_bfloat16(v)); });
    case Dtype::float16:
      return convert(static_cast<const uint16_t*>(a.data), [](uint16_t v) { return T(from_half(v)); });
  }
}

// Scratch memory, aligned for every vector.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t size)
      : memory_(static_cast<T*>(std::aligned_alloc(64, (size_t(size) * sizeof(T) + 127) / 64 * 64)), &std::free) {
    if (!memory_) throw std::bad_alloc();
  }
  T* get() const { return memory_.get(); }

 private:
  std::unique_ptr<T, decltype(&std::free)> memory_;
};

}  // namespace hyperbolic::HYPERBOLIC_ISA
