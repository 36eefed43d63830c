// Where tensors are, and how a launch is laid out there.
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include "../common/tensors.h"
#include "table.h"

namespace hyperbolic::cuda {

// The device of a tensor, current for as long as this lives, and its current stream.
class Device {
 public:
  explicit Device(const Tensor& a) : type_(type_of(a)), index_(a.get_device_index()), guard_(index_) {
    void* stream;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index_, &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  cudaStream_t stream() const { return stream_; }

  Tensor empty(const std::vector<int64_t>& shape, ScalarType dtype) const {
    return hyperbolic::empty(shape, dtype, type_, index_);
  }
  // Memory for kernels alone.
  Tensor words(int64_t count) const { return empty({count}, ScalarType::Double); }

  void expect(const Tensor& a) const {
    STD_TORCH_CHECK(type_of(a) == type_ && a.get_device_index() == index_,
                    "hyperbolic: all tensors must be on one device");
  }

 private:
  static int32_t type_of(const Tensor& a) {
    int32_t type;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(a.get(), &type));
    return type;
  }

  int32_t type_, index_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

// --- how threads are laid out --------------------------------------------------------------------------------------

// A thread has about this many of a row's coordinates, and not fewer, because each of a team evaluates the formula.
constexpr int64_t coordinates_per_thread = 16;
// From here on a row is a block's.
constexpr int64_t long_row = 2048;
constexpr unsigned block_threads = 128;
// What every architecture from sm_80 on can give to a block, and what a launch takes in its place at most.
constexpr int64_t most_shared = 96 << 10, most_scratch = 64 << 20;

inline unsigned lanes_for(int64_t dim) {
  unsigned lanes = 1;
  while (lanes < WARP && lanes * coordinates_per_thread < dim) lanes *= 2;
  return lanes;
}

// Of a row in a block's memory, in bytes: a multiple of 16, and an odd one of what a team reads at once, so that the
// teams of a warp, which read their rows side by side, meet in no bank.
inline int64_t pitch(int64_t bytes, int64_t read_at_once) {
  const int64_t unit = std::clamp<int64_t>(read_at_once, 16, 128);
  return (divide_up(bytes, unit) | 1) * unit;
}

// Blocks of teams that have `rows` rows of `pitch` bytes and some double words each; no more than there is work for.
struct Plan {
  Launch launch;
  Staging staging{};
  Tensor scratch;

  Plan(const Device& device, unsigned lanes, unsigned teams, int64_t rows, int64_t pitch, int64_t words)
      : launch{0, lanes, teams, 0, device.stream()} {
    const int64_t team = rows * pitch + 8 * words;
    while (launch.teams > 1 && EXCHANGE + launch.teams * team > most_shared) launch.teams /= 2;
    staging.pitch = pitch;
    staging.size = launch.teams * team;
    launch.shared = EXCHANGE + (fits() ? staging.size : 0);
  }

  // Once it is known how many blocks there is work for.
  void prepare(const Device& device, int64_t blocks) {
    launch.blocks = std::min(blocks, MOST_BLOCKS);
    if (fits()) return;
    launch.blocks = std::min(launch.blocks, std::max<int64_t>(1, most_scratch / staging.size));
    scratch = device.words(divide_up(launch.blocks * staging.size, 8));
    staging.scratch = static_cast<char*>(scratch.mutable_data_ptr());
  }

 private:
  bool fits() const { return EXCHANGE + staging.size <= most_shared; }
};

}  // namespace hyperbolic::cuda
