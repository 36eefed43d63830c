// Rows in memory of any type and stride, and in a block's own memory, where formulas read and leave them.
#pragma once

#include "../common/numbers.h"
#include "coordinates.h"
#include "table.h"

namespace hyperbolic::HYPERBOLIC_ISA {

// Number k of a segment's sums, to where its result is.
HYPERBOLIC_INLINE void write_sum(const Sums& sums, int64_t segment, int64_t k, double value) {
  for (const auto& sum : sums.of) {
    if (k < sum.width) return write(value, sum.result, segment * sum.width + k);
    k -= sum.width;
  }
}

// A block's memory as rows of the working type T, one of each kind for every team, and after them double words. Rows
// begin at multiples of 16 bytes.
template <class T>
class Stage {
 public:
  HYPERBOLIC_INLINE explicit Stage(const Staging& s) : pitch_(s.pitch) {
    char* block = reinterpret_cast<char*>(shared_memory) + EXCHANGE;
    memory_ = s.scratch ? s.scratch + int64_t(blockIdx.x) * s.size : block;
  }
  HYPERBOLIC_INLINE T* row(int kind) const {
    return reinterpret_cast<T*>(memory_ + (int64_t(kind) * blockDim.y + threadIdx.y) * pitch_);
  }
  HYPERBOLIC_INLINE double* words(int kinds) const {
    return reinterpret_cast<double*>(memory_ + int64_t(kinds) * blockDim.y * pitch_);
  }

 private:
  char* memory_;
  int64_t pitch_;
};

template <class E>
inline constexpr int numbers_in_16_bytes = 16 / sizeof(E);

HYPERBOLIC_INLINE bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

template <class E, class T, class Convert>
HYPERBOLIC_INLINE void copy_in(const E* from, int64_t step, int64_t dim, T* to, Convert convert) {
  constexpr int n = numbers_in_16_bytes<E>;
  const int64_t whole = step == 1 && aligned(from) ? dim / n * n : 0;
#pragma unroll 4
  for (int64_t k = int64_t(threadIdx.x) * n; k < whole; k += int64_t(blockDim.x) * n) {
    // not through the cache of what may change, so that the next load need not wait for this store
    const uint4 chunk = __ldg(reinterpret_cast<const uint4*>(from + k));
    if constexpr (std::is_same_v<E, T>) {
      *reinterpret_cast<uint4*>(to + k) = chunk;
    } else {
      E values[n];
      std::memcpy(values, &chunk, sizeof chunk);
      for (int i = 0; i < n; i++) to[k + i] = convert(values[i]);
    }
  }
  for (int64_t k = whole + threadIdx.x; k < dim; k += blockDim.x) to[k] = convert(from[k * step]);
}

// The row of `a` at `offset`, in the working type.
template <class T>
HYPERBOLIC_INLINE void fetch(const Operand& a, int64_t offset, int64_t dim, T* to) {
  switch (a.dtype) {
    case Dtype::float32:
      return copy_in(static_cast<const float*>(a.data) + offset, a.step, dim, to, [](float v) { return T(v); });
    case Dtype::float64:
      return copy_in(static_cast<const double*>(a.data) + offset, a.step, dim, to, [](double v) { return T(v); });
    case Dtype::bfloat16:
      return copy_in(static_cast<const uint16_t*>(a.data) + offset, a.step, dim, to,
                     [](uint16_t v) { return T(from_bfloat16(v)); });
    case Dtype::float16:
      return copy_in(static_cast<const uint16_t*>(a.data) + offset, a.step, dim, to,
                     [](uint16_t v) { return T(from_half(v)); });
  }
}

template <class E>
HYPERBOLIC_INLINE void copy_out(const E* from, E* to, int64_t dim) {
  constexpr int n = numbers_in_16_bytes<E>;
  const int64_t whole = aligned(to) ? dim / n * n : 0;
  for (int64_t k = int64_t(threadIdx.x) * n; k < whole; k += int64_t(blockDim.x) * n) {
    *reinterpret_cast<uint4*>(to + k) = *reinterpret_cast<const uint4*>(from + k);
  }
  for (int64_t k = whole + threadIdx.x; k < dim; k += blockDim.x) to[k] = from[k];
}

// A staged row of a result's type, to element `start` of the result.
HYPERBOLIC_INLINE void copy_out(const Result& row, const Result& to, int64_t start, int64_t dim) {
  switch (to.dtype) {
    case Dtype::float32:
      return copy_out(static_cast<const float*>(row.data), static_cast<float*>(to.data) + start, dim);
    case Dtype::float64:
      return copy_out(static_cast<const double*>(row.data), static_cast<double*>(to.data) + start, dim);
    default:
      return copy_out(static_cast<const uint16_t*>(row.data), static_cast<uint16_t*>(to.data) + start, dim);
  }
}

}  // namespace hyperbolic::HYPERBOLIC_ISA
