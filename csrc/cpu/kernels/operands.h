// Arguments and results of operators on rows in memory: of any type, stride and broadcasting.
//
// Rows of the working type, float or double, are read and written where they are; those of other types, or with
// coordinates that do not follow each other, pass through scratch memory.
#pragma once

#include "../../common/numbers.h"
#include "matrix.h"
#include "wide_sum.h"

namespace hyperbolic::HYPERBOLIC_ISA {

using cpu::Operand;
using cpu::Rows;

inline const void* at_element(const Input& a, int64_t i) {
  return static_cast<const char*>(a.data) + i * size_of(a.dtype);
}
inline Result at_element(const Result& a, int64_t i) {
  return {static_cast<char*>(a.data) + i * size_of(a.dtype), a.dtype};
}

template <class T>
inline constexpr Dtype dtype_of = sizeof(T) == 8 ? Dtype::float64 : Dtype::float32;

// A row to be written, in its own type or in double, or sums to be added to.
template <class T>
struct Target {
  T* row;
  double* wide;
  WideSum sum;
};
template <class T>
HYPERBOLIC_INLINE bool wanted(Target<T> out) {
  return out.row || out.wide || out.sum.hi;
}
template <class A, class T, class V>
HYPERBOLIC_INLINE void emit(A at, Target<T> out, V v) {
  if (out.row) {
    at.put(out.row, v);
  } else if (out.wide) {
    at.put(out.wide, v);
  } else {
    emit(at, out.sum, v);
  }
}

// Where the arguments of consecutive rows are.
class Walk {
 public:
  Walk(const Rows& rows, int64_t row) : rows_(rows) {
    for (int64_t d = rows.dims - 1; d >= 0; d--) {
      index_[d] = row % rows.sizes[d];
      row /= rows.sizes[d];
      for (int a = 0; a < rows.operands; a++) offset_[a] += index_[d] * rows.operand[a].strides[d];
    }
  }

  void next() {
    for (int64_t d = rows_.dims - 1; d >= 0; d--) {
      bool wraps = ++index_[d] == rows_.sizes[d];
      for (int a = 0; a < rows_.operands; a++) {
        const int64_t stride = rows_.operand[a].strides[d];
        offset_[a] += wraps ? stride * (1 - rows_.sizes[d]) : stride;
      }
      if (!wraps) return;
      index_[d] = 0;
    }
  }

  int64_t operator[](int a) const { return offset_[a]; }

 private:
  const Rows& rows_;
  int64_t offset_[max_operands] = {}, index_[max_dims] = {};
};

// A row of an argument in the working type: itself, or a copy.
template <class T>
class Fetch {
 public:
  Fetch(const Operand& a, int64_t dim)
      : a_(a), dim_(dim), direct_(a.dtype == dtype_of<T> && (a.step == 1 || dim == 1)), copy_(direct_ ? 0 : dim) {}

  const T* operator()(int64_t offset) const {
    if (direct_) return static_cast<const T*>(a_.data) + offset;
    copy_row(Matrix{at_element(a_, offset), a_.dtype, 1, dim_, 0, a_.step}, 0, 0, dim_, copy_.get());
    return copy_.get();
  }

 private:
  Operand a_;
  int64_t dim_;
  bool direct_;
  Buffer<T> copy_;
};

}  // namespace hyperbolic::HYPERBOLIC_ISA
