// What tensors' side and kernels' side of the GPU operators know of each other: plain structs, which kernels get by
// value, and functions that launch.
#pragma once

#include <cuda_runtime.h>

#include "../common/row_operators.h"

namespace hyperbolic::cuda {

inline constexpr unsigned WARP = 32, MOST_THREADS = 256;
// Work for more blocks than this goes around.
inline constexpr int64_t MOST_BLOCKS = 1 << 20;
// Bytes at the beginning of a block's memory: what the warps of a team exchange.
inline constexpr int64_t EXCHANGE = MOST_THREADS / WARP * 16;
// Rows and columns of a tile that a block repairs at a time.
inline constexpr int64_t PATCH_ROWS = 32, PATCH_COLUMNS = 256;

// The shape of a launch, and how much of a block's memory it takes.
struct Launch {
  int64_t blocks;
  unsigned lanes, teams;  // threads of a team, teams of a block
  size_t shared;
  cudaStream_t stream;
};

// Rows too long for a block's memory are staged in `scratch`, `size` bytes a block.
struct Staging {
  int64_t pitch;  // bytes from one team's row to the next one's
  char* scratch;
  int64_t size;
};

struct Operand : Input {
  int64_t step;               // between coordinates
  int64_t strides[max_dims];  // between rows, along each dimension of the batch
};

// Double-doubles to be added up in order of the parts, those of `of[0]` followed by those of `of[1]` and so on, and
// rounded into the results: `width` numbers of each for every segment, `total` of them.
struct Sums {
  double* parts;
  int64_t segments, pieces, total;
  struct {
    Result result;
    int64_t width;
  } of[max_operands];
};

// A batch of rows, as many in each segment: what a sum is over. A block serves `piece` of them at a time.
struct Batch {
  int64_t segment, piece, dim, dims, sizes[max_dims];
  Operand operand[max_operands];
  Result result[max_operands];
  Sums sums;
  Staging staging;
};

struct RowKernel : RowOperator {
  cudaError_t (*forward)(bool wide, const Batch&, const Launch&);
  cudaError_t (*backward)(bool wide, const Batch&, const Launch&);
};

struct RowKernels {
  const RowKernel* kernels;
  int count;
};
extern const RowKernels lorentz_maps, lorentz_distances, poincare_maps, poincare_distances;

cudaError_t add_parts(const Sums&, cudaStream_t);

// The pairs of contiguous rows, float or if `wide` double, for which an entry of a matrix is NaN. `tiles` counts these
// in each tile of the matrix. Own rows are those of the side that a gradient is for.
struct Pairs {
  bool wide;
  int64_t dim;
  const void *own, *other;
  Input c;
  struct {
    Result memory;
    int64_t own, other, own_stride, other_stride;
  } entries;
  struct {
    const int32_t* counts;
    int64_t own_size, other_size, own_stride, other_stride;
  } tiles;
};

// Cotangents of the entries, and what the gradient at own rows is added to: contiguous, wide numbers for the type of the
// rows. If wanted, parts_by_c gets the gradient by c, a double-double for each own row and one for what by_c is already.
struct Gradient {
  Input g;
  int64_t own_stride, other_stride;
  void* result;
  const double* by_c;
  double* parts_by_c;
  Staging staging;
};

struct RepairKernel {
  cudaError_t (*distances)(const Pairs&, const Launch&);
  cudaError_t (*gradient)(const Pairs&, const Gradient&, const Launch&);
};
extern const RepairKernel lorentz_repair, poincare_repair;

}  // namespace hyperbolic::cuda
