// Loops over the coordinates of a row, which a team of threads has in common: those of one threadIdx.y.
//
// The names are those of cpu/kernels/coordinates.h, so formulas need not know which they run on. A thread visits every
// blockDim.x-th coordinate, and what is summed or compared over all of them reaches the whole team, the same bits in
// each thread: threads of a team branch alike. A team is a part of a warp, a power of two, or else a whole block. Rows
// lie where all of a team can see them.
#pragma once

#include <array>

#include "../common/coordinates.h"
#include "table.h"

namespace hyperbolic::HYPERBOLIC_ISA {

// A block's own.
extern __shared__ double2 shared_memory[];

// The threads of this one's team within its warp.
HYPERBOLIC_INLINE unsigned team_mask() {
  if (blockDim.x >= WARP) return ~0u;
  const unsigned lane = (threadIdx.y * blockDim.x + threadIdx.x) % WARP;
  return ((1u << blockDim.x) - 1) << (lane - threadIdx.x);
}

// Until all of a team are here and see what the others wrote.
HYPERBOLIC_INLINE void sync_team() {
  if (blockDim.x > WARP) {
    __syncthreads();
  } else {
    __syncwarp(team_mask());
  }
}

// --- reductions ----------------------------------------------------------------------------------------------------

HYPERBOLIC_INLINE double exchanged(unsigned mask, double a, unsigned distance) {
  return __shfl_xor_sync(mask, a, distance);
}
HYPERBOLIC_INLINE Wide exchanged(unsigned mask, Wide a, unsigned distance) {
  return {exchanged(mask, a.hi, distance), exchanged(mask, a.lo, distance)};
}
template <class T>
HYPERBOLIC_INLINE Peak<T> exchanged(unsigned mask, Peak<T> a, unsigned distance) {
  return {__shfl_xor_sync(mask, a.size, distance), __shfl_xor_sync(mask, a.index, distance)};
}

// Each of the values joined over the team. `join` commutes, so that partners get the same bits.
template <class V, size_t N, class Join>
HYPERBOLIC_INLINE void reduce(std::array<V, N>& values, Join join) {
  const unsigned mask = team_mask(), width = blockDim.x < WARP ? blockDim.x : WARP;
  for (unsigned distance = width / 2; distance > 0; distance /= 2) {
    for (V& v : values) v = join(v, exchanged(mask, v, distance));
  }
  if (blockDim.x == width) return;
  V* slots = reinterpret_cast<V*>(shared_memory);
  for (V& v : values) {
    __syncthreads();
    if (threadIdx.x % WARP == 0) slots[threadIdx.x / WARP] = v;
    __syncthreads();
    v = slots[0];
    for (unsigned warp = 1; warp < blockDim.x / WARP; warp++) v = join(v, slots[warp]);
  }
}

// --- loops ---------------------------------------------------------------------------------------------------------

// Coordinate k. Floats become doubles, doubles DoubleDoubles.
struct At {
  int64_t k;

  HYPERBOLIC_INLINE double operator()(const float* p) const { return p[k]; }
  HYPERBOLIC_INLINE Wide operator()(const double* p) const { return p[k]; }
};

template <class F>
HYPERBOLIC_INLINE void each(int64_t dim, F f) {
  for (int64_t k = threadIdx.x; k < dim; k += blockDim.x) f(At{k});
}

// The sums over all coordinates of the N terms that f writes. W is the wide type of the data.
template <int N, class W, class F>
HYPERBOLIC_INLINE std::array<W, N> sums(int64_t dim, F f) {
  std::array<W, N> total{};
  each(dim, [&](At at) {
    W t[N];
    f(at, t);
    for (int n = 0; n < N; n++) total[n] = total[n] + t[n];
  });
  reduce(total, [](W a, W b) { return a + b; });
  return total;
}

template <class T>
HYPERBOLIC_INLINE Peak<T> peak(const T* p, int64_t dim) {
  std::array<Peak<T>, 1> top{};
  each(dim, [&](At at) {
    const T a = std::abs(p[at.k]);
    if (a > top[0].size) top[0] = {a, at.k};
  });
  reduce(top, [](Peak<T> a, Peak<T> b) {
    return a.size > b.size || (a.size == b.size && a.index < b.index) ? a : b;
  });
  return top[0];
}

HYPERBOLIC_INLINE double largest_of_team(double size) {
  std::array<double, 1> top{size};
  reduce(top, [](double a, double b) { return a > b ? a : b; });
  return top[0];
}

// The largest |f(at)|, NaN aside.
template <class F>
HYPERBOLIC_INLINE double largest(int64_t dim, F f) {
  double top = 0;
  each(dim, [&](At at) {
    const double a = std::fabs(f(at));
    if (a > top) top = a;
  });
  return largest_of_team(top);
}

// --- sums that several rows add to ---------------------------------------------------------------------------------

// Each thread adds to its own coordinates.
HYPERBOLIC_INLINE void emit(At at, WideSum out, Wide v) {
  const Wide sum = Wide(out.hi[at.k], out.lo[at.k]) + v;
  out.hi[at.k] = sum.hi;
  out.lo[at.k] = sum.lo;
}

}  // namespace hyperbolic::HYPERBOLIC_ISA
