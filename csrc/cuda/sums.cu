// Adds up the parts of sums over rows, the same way every time.
#define HYPERBOLIC_ISA cuda
#include "launch.cuh"
#include "operands.cuh"

namespace hyperbolic::cuda {

namespace {

// A block serves blockDim.x columns of a segment; blockDim.y threads share the parts of each.
__global__ void __launch_bounds__(MOST_THREADS) add(const __grid_constant__ Sums s) {
  const int64_t across = (s.total + blockDim.x - 1) / blockDim.x;
  for (int64_t block = blockIdx.x; block < s.segments * across; block += gridDim.x) {
    const int64_t segment = block / across, k = (block - segment * across) * blockDim.x + threadIdx.x;
    const double* parts = s.parts + 2 * (segment * s.pieces * s.total + k);
    Wide sum = 0.0;
    for (int64_t i = threadIdx.y; k < s.total && i < s.pieces; i += blockDim.y) {
      sum = sum + Wide(parts[2 * i * s.total], parts[2 * i * s.total + 1]);
    }
    double2* column = shared_memory + threadIdx.x;
    column[threadIdx.y * blockDim.x] = {sum.hi, sum.lo};
    for (unsigned half = blockDim.y / 2; half > 0; half /= 2) {
      __syncthreads();
      if (threadIdx.y >= half) continue;
      const double2 other = column[(threadIdx.y + half) * blockDim.x];
      sum = sum + Wide(other.x, other.y);
      column[threadIdx.y * blockDim.x] = {sum.hi, sum.lo};
    }
    if (threadIdx.y == 0 && k < s.total) write_sum(s, segment, k, sum.hi);
    __syncthreads();
  }
}

}  // namespace

cudaError_t add_parts(const Sums& s, cudaStream_t stream) {
  unsigned columns = 1;
  while (columns < s.total && columns < WARP) columns *= 2;
  const int64_t blocks = s.segments * ((s.total + columns - 1) / columns);
  const Launch l = {blocks < MOST_BLOCKS ? blocks : MOST_BLOCKS, columns, MOST_THREADS / columns,
                    MOST_THREADS * sizeof(double2), stream};
  return launch(add, l, s);
}

}  // namespace hyperbolic::cuda
