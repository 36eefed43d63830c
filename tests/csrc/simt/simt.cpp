#include <sys/mman.h>
#include <torch/csrc/stable/c/shim.h>
#include <torch/headeronly/util/shim_utils.h>
#include <ucontext.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "cuda_runtime.h"

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace hyperbolic::cuda {
constexpr size_t most_shared = 96 << 10;
alignas(16) double2 shared_memory[most_shared / sizeof(double2) + 64];
}  // namespace hyperbolic::cuda

namespace simt {

namespace {

using hyperbolic::cuda::most_shared;
using hyperbolic::cuda::shared_memory;

constexpr size_t stack = 256 << 10, granted = 48 << 10;
constexpr char poison = char(0xff);  // of shared memory: what nothing has written is NaN

struct Fiber {
  std::unique_ptr<char, void (*)(char*)> memory{
      static_cast<char*>(mmap(nullptr, stack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)),
      [](char* p) { munmap(p, stack); }};
  ucontext_t context;
  bool done;
};

std::vector<Fiber> fibers;
ucontext_t scheduler;
unsigned current;
bool progress;
const std::function<void()>* program;
Meeting block;
std::map<std::pair<unsigned, unsigned>, Meeting> warps;
std::map<const void*, size_t> grants;
std::mt19937 chance;

void pause() { swapcontext(&fibers[current].context, &scheduler); }

void enter() {
  (*program)();
  fibers[current].done = progress = true;
  pause();
}

void run_block(unsigned threads) {
  warps.clear();
  block = Meeting();
  std::memset(shared_memory, poison, sizeof shared_memory);
  for (unsigned i = 0; i < threads; i++) {
    Fiber& f = fibers[i];
    f.done = false;
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.memory.get();
    f.context.uc_stack.ss_size = stack;
    f.context.uc_link = nullptr;
    makecontext(&f.context, &enter, 0);
  }
  std::vector<unsigned> order(threads);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), chance);
  for (bool running = true; running;) {
    running = progress = false;
    for (unsigned i : order) {
      current = i;
      if (fibers[current].done) continue;
      running = true;
      threadIdx = dim3(current % blockDim.x, current / blockDim.x, 0);
      swapcontext(&scheduler, &fibers[current].context);
    }
    if (running && !progress) fail("threads wait for others that do not come");
  }
}

}  // namespace

void fail(const char* what) {
  std::fprintf(stderr, "simt: block %u, thread (%u, %u): %s\n", blockIdx.x, threadIdx.x, threadIdx.y, what);
  std::abort();
}

unsigned lane() { return current % warp; }

unsigned wait(Meeting& m, unsigned expected) {
  const unsigned mine = m.count;
  if (++m.arrived == expected) {
    m.arrived = 0;
    m.count++;
    progress = true;
  } else {
    while (m.count == mine) pause();
  }
  return mine % 2;
}

Meeting& meeting(unsigned mask) { return warps[{current / warp, mask}]; }

cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, const std::function<void()>& thread) {
  const dim3 grid = config.gridDim, size = config.blockDim;
  const unsigned threads = size.x * size.y;
  const size_t allowed = grants.count(kernel) ? grants[kernel] : granted;
  if (!grid.x || !threads || threads > 1024 || size.z != 1 || config.dynamicSmemBytes > allowed) {
    return cudaErrorInvalidValue;
  }
  while (fibers.size() < threads) fibers.emplace_back();
  gridDim = grid, blockDim = size, program = &thread;
  for (blockIdx = dim3(0, 0, 0); blockIdx.x < grid.x; blockIdx.x++) {
    run_block(threads);
    const char* memory = reinterpret_cast<const char*>(shared_memory);
    for (size_t i = config.dynamicSmemBytes; i < sizeof shared_memory; i++) {
      if (memory[i] != poison) fail("a block writes beyond its memory");
    }
  }
  return cudaSuccess;
}

}  // namespace simt

void __syncthreads() { simt::wait(simt::block, blockDim.x * blockDim.y); }

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  if (size_t(value) > simt::most_shared) return cudaErrorInvalidValue;
  simt::grants[kernel] = size_t(value);
  return cudaSuccess;
}

// --- of torch, what a build without CUDA lacks -----------------------------------------------------------------------

AOTITorchError aoti_torch_create_device_guard(int32_t, DeviceGuardHandle* guard) {
  *guard = nullptr;
  return TORCH_SUCCESS;
}
AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle) { return TORCH_SUCCESS; }

AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return TORCH_SUCCESS;
}

AOTITorchError torch_c10_cuda_check_msg(int32_t error, const char*, const char*, uint32_t, bool, char** message) {
  if (error != cudaSuccess) *message = strdup("simt: the launch was refused");
  return TORCH_SUCCESS;
}
void torch_c10_cuda_free_error_msg(char* message) { std::free(message); }
