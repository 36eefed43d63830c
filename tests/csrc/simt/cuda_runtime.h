// CUDA for a compiler that has none: what the kernels of csrc/cuda use of the language and its runtime, on the host.
//
// A block's threads are fibers of one thread of the host. Each runs until it waits for others, so shuffles, votes and
// barriers exchange data as they do on a GPU, and a team that does not arrive at them together hangs, which is
// reported. Fibers take turns in a random order: what relies on one lacks a barrier.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <type_traits>

// --- language --------------------------------------------------------------------------------------------------------

#define __global__
#define __device__
#define __shared__
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

// --- threads ---------------------------------------------------------------------------------------------------------

namespace simt {

constexpr unsigned warp = 32;

// What the threads that meet bring; twice, because the first to leave may be at the next meeting before the last.
struct Meeting {
  unsigned arrived = 0, count = 0;
  char values[2][warp][16];
};

[[noreturn]] void fail(const char* what);
unsigned lane();
// Waits until all `expected` threads of a meeting are here. Which of its two sets of values this was.
unsigned wait(Meeting& meeting, unsigned expected);
// The meeting of these lanes of this thread's warp.
Meeting& meeting(unsigned mask);

template <class T>
const Meeting& meet(unsigned mask, T value, unsigned& which) {
  static_assert(sizeof value <= 16);
  if (!(mask >> lane() & 1)) fail("a thread waits for others but not for itself");
  Meeting& m = meeting(mask);
  which = m.count % 2;
  std::memcpy(m.values[which][lane()], &value, sizeof value);
  wait(m, unsigned(__builtin_popcount(mask)));
  return m;
}

}  // namespace simt

template <class T>
T __shfl_xor_sync(unsigned mask, T value, unsigned distance) {
  unsigned which;
  const simt::Meeting& m = simt::meet(mask, value, which);
  const unsigned from = simt::lane() ^ distance;
  if (!(mask >> from & 1)) simt::fail("a thread reads from one that it does not wait for");
  std::memcpy(&value, m.values[which][from], sizeof value);
  return value;
}

inline unsigned __ballot_sync(unsigned mask, bool vote) {
  unsigned which, votes = 0;
  const simt::Meeting& m = simt::meet(mask, vote, which);
  for (unsigned i = 0; i < simt::warp; i++) votes |= unsigned(mask >> i & 1 && m.values[which][i][0]) << i;
  return votes;
}

inline void __syncwarp(unsigned mask = ~0u) {
  unsigned which;
  simt::meet(mask, false, which);
}

void __syncthreads();

inline int __ffs(unsigned bits) { return __builtin_ffs(int(bits)); }

template <class T>
T __ldg(const T* p) {
  if (reinterpret_cast<uintptr_t>(p) % alignof(T)) simt::fail("an access is not aligned");
  return *p;
}

// --- runtime ---------------------------------------------------------------------------------------------------------

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
using cudaStream_t = struct CUstream_st*;

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

namespace simt {

// Refused as a GPU would: without threads or blocks, or with more memory than `kernel` has been granted.
cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, const std::function<void()>& thread);

}  // namespace simt

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value);

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               const Arguments&... arguments) {
  return simt::launch(*config, reinterpret_cast<const void*>(kernel), [&] { kernel(arguments...); });
}
