// Operators on rows. A block takes pieces of a batch; in it, each team takes a row at a time: stages its arguments in
// the block's memory in 16-byte accesses, hands them to the formula, and copies out what that left there.
#pragma once

#include "../math/lorentz_maps.h"
#include "../math/poincare_maps.h"
#include "launch.cuh"
#include "points.cuh"

namespace hyperbolic::HYPERBOLIC_ISA {

// Where the arguments of a row are.
HYPERBOLIC_INLINE void locate(const Batch& b, int64_t row, int operands, int64_t* offset) {
  for (int a = 0; a < operands; a++) offset[a] = 0;
  for (int64_t d = b.dims - 1; d >= 0; d--) {
    const int64_t rest = d ? row / b.sizes[d] : 0, index = row - rest * b.sizes[d];
    for (int a = 0; a < operands; a++) offset[a] += index * b.operand[a].strides[d];
    row = rest;
  }
}

// f(row) for each row of block `block`'s piece that is this team's; rows of a segment follow each other.
template <class F>
HYPERBOLIC_INLINE void each_row(const Batch& b, int64_t block, F f) {
  const int64_t segment = block / b.sums.pieces, first = (block - segment * b.sums.pieces) * b.piece;
  const int64_t begin = segment * b.segment, end = first + b.piece < b.segment ? first + b.piece : b.segment;
  for (int64_t i = first + threadIdx.y; i < end; i += blockDim.y) f(begin + i);
}

// The arguments of a row, staged.
template <class Op, class T>
HYPERBOLIC_INLINE Row<WideFor<T>, T> fetch_row(const Batch& b, const Stage<T>& stage, const int64_t* offset) {
  Row<WideFor<T>, T> row{};
  row.dim = b.dim;
  for (int i = 0; i < Op::vectors; i++) {
    fetch(b.operand[i], offset[i], b.dim, stage.row(i));
    row.vector[i] = stage.row(i);
  }
  for (int i = 0; i < Op::scalars; i++) {
    const double a = read(b.operand[Op::vectors + i], offset[Op::vectors + i]);
    row.scalar[i] = i == 0 ? positive_or_nan(a) : a;  // the first is the curvature
  }
  return row;
}

template <class Op, class T>
__global__ void __launch_bounds__(MOST_THREADS) forward(const __grid_constant__ Batch b) {
  using W = WideFor<T>;
  constexpr int arguments = Op::vectors + Op::scalars;
  const Stage<T> stage(b.staging);
  const Result result = b.result[0];
  for (int64_t block = blockIdx.x; block < b.sums.pieces; block += gridDim.x) {
    each_row(b, block, [&](int64_t i) {
      int64_t offset[arguments];
      locate(b, i, arguments, offset);
      sync_team();  // the row before has been copied out
      const Row<W, T> row = fetch_row<Op>(b, stage, offset);
      sync_team();
      if constexpr (!Op::returns_vector) {
        const double value = head(Op::template value<W>(row));
        if (threadIdx.x == 0) write(value, result, i);
      } else {
        const Target out{{stage.row(Op::vectors), result.dtype}, {}};
        // of doubles, the formulas see to that
        if constexpr (Op::point == Point::lorentz && sizeof(T) == 4) {
          emit_finite(out, [&](const Target& to) { Op::value(row, to); });
        } else {
          Op::value(row, out);
        }
        if constexpr (Op::point == Point::ball) move_inside(out.row, b.dim, head(row.scalar[0]));
        sync_team();
        copy_out(out.row, result, i * b.dim, b.dim);
      }
    });
  }
}

// What the teams of a block have added up, added up in their order: a part of a sum, or all of it.
HYPERBOLIC_INLINE void add_teams(const Sums& sums, const double* words, int64_t block) {
  __syncthreads();
  const int64_t threads = blockDim.x * blockDim.y;
  for (int64_t k = threadIdx.y * blockDim.x + threadIdx.x; k < sums.total; k += threads) {
    Wide sum = 0.0;
    for (unsigned team = 0; team < blockDim.y; team++) {
      const double* p = words + 2 * team * sums.total + k;
      sum = sum + Wide(p[0], p[sums.total]);
    }
    if (sums.pieces > 1) {
      double* part = sums.parts + 2 * (block * sums.total + k);
      part[0] = sum.hi, part[1] = sum.lo;
    } else {
      write_sum(sums, block, k, sum.hi);
    }
  }
  __syncthreads();
}

template <class Op, class T>
__global__ void __launch_bounds__(MOST_THREADS) backward(const __grid_constant__ Batch b) {
  using W = WideFor<T>;
  constexpr int vectors = Op::vectors, scalars = Op::scalars, arguments = vectors + scalars;
  constexpr int staged = 2 * vectors + Op::returns_vector;
  const Stage<T> stage(b.staging);
  double* const words = stage.words(staged);
  double* const hi = words + 2 * threadIdx.y * b.sums.total;
  for (int64_t block = blockIdx.x; block < b.sums.segments * b.sums.pieces; block += gridDim.x) {
    Target target[2] = {};
    W total[scalars] = {};
    int64_t place = 0;
    for (int a = 0; a < vectors; a++) {
      if (b.result[a].data) target[a].row = {stage.row(vectors + Op::returns_vector + a), b.result[a].dtype};
      if (b.sums.of[a].width) target[a].sum = {hi + place, hi + b.sums.total + place};
      place += b.sums.of[a].width;
    }
    each(b.sums.total, [&](At at) { hi[at.k] = hi[b.sums.total + at.k] = 0.0; });
    sync_team();
    each_row(b, block, [&](int64_t i) {
      int64_t offset[arguments + 1];
      locate(b, i, arguments + 1, offset);
      sync_team();  // the row before has been copied out
      Row<W, T> row = fetch_row<Op>(b, stage, offset);
      const Operand& cotangent = b.operand[arguments];
      if constexpr (Op::returns_vector) {
        fetch(cotangent, offset[arguments], b.dim, stage.row(vectors));
        row.cotangent = stage.row(vectors);
      } else {
        row.g = read(cotangent, offset[arguments]);
      }
      sync_team();
      W g[scalars] = {};
      Op::pull(row, target, g);
      sync_team();
      for (int a = 0; a < vectors; a++) {
        if (b.result[a].data) copy_out(target[a].row, b.result[a], i * b.dim, b.dim);
      }
      for (int s = 0; s < scalars; s++) {
        const Result& result = b.result[vectors + s];
        if (result.data && threadIdx.x == 0) write(head(g[s]), result, i);
        total[s] = total[s] + g[s];
      }
    });
    if (b.sums.total == 0) continue;
    for (int s = 0; s < scalars; s++) {
      if (b.sums.of[vectors + s].width && threadIdx.x == 0) emit(At{place}, WideSum{hi, hi + b.sums.total}, total[s]);
      place += b.sums.of[vectors + s].width;
    }
    add_teams(b.sums, words, block);
  }
}

template <class Op>
constexpr RowKernel row_kernel(const char* name) {
  return {{name, Op::vectors, Op::scalars, Op::returns_vector},
          [](bool wide, const Batch& b, const Launch& l) {
            return wide ? launch(forward<Op, double>, l, b) : launch(forward<Op, float>, l, b);
          },
          [](bool wide, const Batch& b, const Launch& l) {
            return wide ? launch(backward<Op, double>, l, b) : launch(backward<Op, float>, l, b);
          }};
}

}  // namespace hyperbolic::HYPERBOLIC_ISA
