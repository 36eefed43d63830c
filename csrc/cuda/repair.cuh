// The entries of a distance matrix, or of its backward's weights, that a product of tiles could not answer for and left
// NaN: from the formulas for two points. A pair is a team's; what is NaN among 32 entries, a warp finds together.
#pragma once

#include "../math/lorentz.h"
#include "../math/poincare.h"
#include "launch.cuh"
#include "operands.cuh"

namespace hyperbolic::HYPERBOLIC_ISA {

struct LorentzPair {
  template <class W, class T>
  static HYPERBOLIC_INLINE W dist(const T* x, const T* y, int64_t dim, W c) {
    return lorentz::dist(x, y, dim, c);
  }
  template <class W, class T>
  static HYPERBOLIC_INLINE void pull(const T* x, const T* y, int64_t dim, W c, W g, WideSum gx, W& gc) {
    lorentz::dist_pull(x, y, dim, c, g, gx, WideSum{}, gc);
  }
};

struct PoincarePair {
  template <class W, class T>
  static HYPERBOLIC_INLINE W dist(const T* x, const T* y, int64_t dim, W c) {
    return poincare::dist(x, y, dim, c);
  }
  template <class W, class T>
  static HYPERBOLIC_INLINE void pull(const T* x, const T* y, int64_t dim, W c, W g, WideSum gx, W& gc) {
    poincare::dist_pull(x, y, dim, c, g, gx, WideSum{}, gc);
  }
};

HYPERBOLIC_INLINE bool is_nan(const Pairs& p, int64_t i, int64_t j) {
  const auto& e = p.entries;
  const double v = read({e.memory.data, e.memory.dtype}, i * e.own_stride + j * e.other_stride);
  return v != v;
}

HYPERBOLIC_INLINE void drop_lowest(unsigned& bits, unsigned count) {
  for (; count > 0; count--) bits &= bits - 1;
}

// f(j) for each j in [begin, end) where row i is NaN. The teams of a warp share them out and run side by side.
template <class F>
HYPERBOLIC_INLINE void each_nan(const Pairs& p, int64_t i, int64_t begin, int64_t end, F f) {
  const unsigned lane = (threadIdx.y * blockDim.x + threadIdx.x) % WARP, teams = WARP / blockDim.x;
  for (int64_t j = begin; j < end; j += WARP) {
    unsigned found = __ballot_sync(~0u, j + lane < end && is_nan(p, i, j + lane));
    drop_lowest(found, lane / blockDim.x);
    while (found) {
      f(j + __ffs(found) - 1);
      drop_lowest(found, teams);
    }
  }
}

HYPERBOLIC_INLINE int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A block takes a patch of a tile, and in it a warp a row at a time.
template <class Pair, class T>
__global__ void __launch_bounds__(MOST_THREADS) repair(const __grid_constant__ Pairs p) {
  using W = WideFor<T>;
  const auto& e = p.entries;
  const auto& t = p.tiles;
  const W c = positive_or_nan(read(p.c, 0));
  const T *own = static_cast<const T*>(p.own), *other = static_cast<const T*>(p.other);
  const int64_t across = divide_up(e.other, t.other_size), patches_across = divide_up(t.other_size, PATCH_COLUMNS);
  const int64_t patches = divide_up(t.own_size, PATCH_ROWS) * patches_across;
  const int64_t blocks = divide_up(e.own, t.own_size) * across * patches;
  for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
    const int64_t tile = block / patches, row = tile / across, column = tile % across;
    if (!t.counts[row * t.own_stride + column * t.other_stride]) continue;
    const int64_t patch = block % patches, first = row * t.own_size + patch / patches_across * PATCH_ROWS;
    const int64_t begin = column * t.other_size + patch % patches_across * PATCH_COLUMNS;
    const int64_t last = std::min(std::min(first + PATCH_ROWS, (row + 1) * t.own_size), e.own);
    const int64_t end = std::min(std::min(begin + PATCH_COLUMNS, (column + 1) * t.other_size), e.other);
    const unsigned warp = (threadIdx.y * blockDim.x + threadIdx.x) / WARP;
    for (int64_t i = first + warp; i < last; i += MOST_THREADS / WARP) {
      each_nan(p, i, begin, end, [&](int64_t j) {
        const double d = head(Pair::template dist<W>(own + i * p.dim, other + j * p.dim, p.dim, c));
        if (threadIdx.x == 0) write(d, e.memory, i * e.own_stride + j * e.other_stride);
      });
    }
  }
}

// Added once for all pairs of a row.
HYPERBOLIC_INLINE void add(Wide all, Wide& to) { to = to + all; }
HYPERBOLIC_INLINE void add(Wide all, double& to) { to += all.hi; }

// A block, of one warp, takes a row of one side: its teams add up the pairs that they have, and then what they have
// added up.
template <class Pair, class T>
__global__ void __launch_bounds__(WARP)
    repair_gradient(const __grid_constant__ Pairs p, const __grid_constant__ Gradient to) {
  using W = WideFor<T>;
  const auto& t = p.tiles;
  const W c = positive_or_nan(read(p.c, 0));
  const T *own = static_cast<const T*>(p.own), *other = static_cast<const T*>(p.other);
  // a number for each coordinate, and one for c
  const int64_t total = p.dim + 1;
  double* const words = Stage<T>(to.staging).words(0);
  const WideSum sum = {words + 2 * threadIdx.y * total, words + (2 * threadIdx.y + 1) * total};
  for (int64_t i = blockIdx.x; i < p.entries.own; i += gridDim.x) {
    each(p.dim, [&](At at) { sum.hi[at.k] = sum.lo[at.k] = 0.0; });
    W by_c = 0.0;
    bool any = false;
    const int32_t* counts = t.counts + i / t.own_size * t.own_stride;
    for (int64_t begin = 0; begin < p.entries.other; begin += t.other_size, counts += t.other_stride) {
      if (!*counts) continue;
      any = true;
      each_nan(p, i, begin, std::min(begin + t.other_size, p.entries.other), [&](int64_t j) {
        const W g = read(to.g, i * to.own_stride + j * to.other_stride);
        Pair::template pull<W>(own + i * p.dim, other + j * p.dim, p.dim, c, g, sum, by_c);
      });
    }
    if (threadIdx.x == 0) sum.hi[p.dim] = Wide(by_c).hi, sum.lo[p.dim] = Wide(by_c).lo;
    __syncwarp();
    for (int64_t k = threadIdx.y * blockDim.x + threadIdx.x; k < total; k += WARP) {
      Wide all = 0.0;
      for (unsigned team = 0; team < blockDim.y; team++) {
        all = all + Wide(words[2 * team * total + k], words[(2 * team + 1) * total + k]);
      }
      if (k == p.dim) {
        double* const part = to.parts_by_c + 2 * i;
        if (to.by_c) part[0] = all.hi, part[1] = all.lo;
        if (to.by_c && i == p.entries.own - 1) part[2] = *to.by_c, part[3] = 0.0;
      } else if (any) {
        add(all, static_cast<W*>(to.result)[i * p.dim + k]);
      }
    }
    __syncwarp();
  }
}

template <class Pair>
constexpr RepairKernel repair_kernel() {
  return {[](const Pairs& p, const Launch& l) {
            return p.wide ? launch(repair<Pair, double>, l, p) : launch(repair<Pair, float>, l, p);
          },
          [](const Pairs& p, const Gradient& to, const Launch& l) {
            return p.wide ? launch(repair_gradient<Pair, double>, l, p, to)
                          : launch(repair_gradient<Pair, float>, l, p, to);
          }};
}

}  // namespace hyperbolic::HYPERBOLIC_ISA
