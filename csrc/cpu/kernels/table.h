// What each instruction set provides: plain functions on memory, compiled once per instruction set and chosen among
// when the library is loaded. The files one folder up call them with tensors' memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../../common/row_operators.h"

namespace hyperbolic::cpu {

struct Matrix {
  const void* data;
  Dtype dtype;
  int64_t rows, cols, row_stride, col_stride;
};

// Two sets of points of which all pairs are taken. `wide` says that the result is float64. What `describe` finds
// about every row of x may be given; it is found when a row is read otherwise.
struct Pairs {
  int model;
  bool wide;
  double c;
  Matrix x, y;
  const double* x_rows = nullptr;
};

inline constexpr int numbers_per_row = 4;

struct Candidate {
  double score;
  int64_t index;
};

// The sums of exp(-d/temperature) over all pairs of a row and the distance to one of the others, the positive: the
// logarithms, which of the other side's rows is the positive, and the cotangents of both results. By rows of y, the
// fixed side, if `fixed`, else of x, the passing one.
struct Softmax {
  double temperature;
  bool fixed;
  const int64_t* labels;
  const double *partition, *g, *positive_g;
};

struct PairwiseKernels {
  // Rows of y that one task keeps at hand while rows of x pass by, and vice versa.
  int64_t (*block)(int64_t dim);
  // What a tile needs to know of rows [begin, end) of x: numbers_per_row each, from out[begin * numbers_per_row] on.
  void (*describe)(const Pairs&, int64_t begin, int64_t end, double* out);
  // Distances of rows [begin, end) of x to the block of y that starts at `first`, into out[i * out_stride + j].
  void (*dist)(const Pairs&, int64_t first, int64_t begin, int64_t end, void* out, int64_t out_stride);
  // Adds to total (block x dim high words, then as many low ones) the gradient at the block of y of sum g d over rows
  // [begin, end) of x, with g of shape x.rows x y.rows, and to *gc, if given, that by c.
  void (*gradient)(const Pairs&, int64_t first, int64_t begin, int64_t end, const Matrix& g, double* total, double* gc);
  // For each of the block of queries y the k rows among [begin, end) of the bank x with the highest
  // depth_weight d0 - d, as a heap in out[j * k]; counts[j] of them.
  void (*nearest)(const Pairs&, double depth_weight, int64_t k, int64_t first, int64_t begin, int64_t end,
                  Candidate* out, int64_t* counts);
  // The scores again, with twice the digits of double inside.
  void (*rescore)(const Pairs&, double depth_weight, int64_t query, Candidate* list, int64_t count);
  // For each of the block of y: sum over rows [begin, end) of x of exp(-d/temperature), as sum[j] exp(peak[j]), and
  // in positive[j], if it is among these rows, the distance to row labels[first + j].
  void (*contrast)(const Pairs&, double temperature, const int64_t* labels, int64_t first, int64_t begin, int64_t end,
                   double* peak, double* sum, double* positive);
  // As `gradient`, of the results of `contrast` weighed by their cotangents; the derivative of the sums by the
  // temperature too if wanted.
  void (*contrast_gradient)(const Pairs&, const Softmax&, int64_t first, int64_t begin, int64_t end, double* total,
                            double* gc, double* by_temperature);
};

struct Operand : Input {
  int64_t step;            // between coordinates
  const int64_t* strides;  // between rows, along each dimension of the batch
};

// A batch of rows, `wide` if the working type is double. Results are contiguous in the order of the batch: that of the
// operator, or the cotangents of its arguments, null where they are not wanted.
struct Rows {
  bool wide;
  int64_t dim, dims;
  const int64_t* sizes;
  int operands;
  Operand operand[max_operands];
  Result result[max_operands];
};

struct RowKernel : RowOperator {
  void (*forward)(const Rows&, int64_t begin, int64_t end);
  // Cotangents of arguments for which `sums` has a place, of one row, are added up there and not written: high words,
  // and each one's low word `low` further on.
  void (*backward)(const Rows&, int64_t begin, int64_t end, double* const* sums, int64_t low);
};

struct Kernels {
  const char* isa;
  // cosh D - 1 of two rows of floats, points scaled to c = 1.
  float (*metric)(const float* x, const float* y, size_t dim);
  // Rounds numbers once.
  void (*round)(const double* values, int64_t count, Dtype dtype, void* out);
  // Adds double-doubles, each part size high words and then as many low ones, into the first.
  void (*add)(double* parts, int64_t count, int64_t size);
  PairwiseKernels pairwise;
  const RowKernel* rows;  // row_operators of them
};

// Those of the best instruction set that this machine runs and the library has, at most the one that HYPERBOLIC_KERNELS
// names; null if there is none. The operators are then left to the reference: whoever registers one asks first.
const Kernels* usable_kernels();

inline const Kernels& kernels() { return *usable_kernels(); }

}  // namespace hyperbolic::cpu
