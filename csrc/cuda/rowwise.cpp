// The operators on rows and their backward on the GPU: allocation, and which rows a block takes.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>

#include "../common/row_call.h"
#include "device.h"

namespace hyperbolic::cuda {

namespace {

// A team takes this many rows in turn where there are enough of them for so many blocks.
constexpr int64_t turns = 4, enough_blocks = 1024;
// Sums are made of at most about this many parts. A constant, because results must not depend on the card.
constexpr int64_t most_pieces = 1 << 13;

// A call, and the kernel that serves it.
class Call : RowCall {
 public:
  Call(const RowKernel& kernel, StableIValue* stack, int count)
      : RowCall(kernel, stack, count), kernel_(kernel), device_(args[0].tensor) {
    for (const Argument& a : args) device_.expect(a.tensor);
  }

  static const RowKernel& kernel(int i) {
    for (const RowKernels* table : {&lorentz_maps, &lorentz_distances, &poincare_maps, &poincare_distances}) {
      if (i < table->count) return table->kernels[i];
      i -= table->count;
    }
    STD_TORCH_CHECK(false, "hyperbolic: no such operator");
  }

  Tensor forward() const {
    Tensor out = device_.empty(result_shape(), result_type());
    if (out.numel() == 0) return out;
    Batch batch = batch_of(Layout(*this, nullptr));
    batch.result[0] = result(out);
    batch.sums.segments = 1;
    run(kernel_.forward, vectors + returns_vector, batch);
    return out;
  }

  std::vector<Tensor> backward() const {
    const int arguments = vectors + scalars;
    std::vector<Tensor> out;
    out.reserve(arguments);
    for (int a = 0; a < arguments; a++) out.push_back(device_.empty(args[a].shape(), scalar_type(args[a].dtype)));
    if (rows == 0) {
      for (Tensor& g : out) torch::stable::zero_(g);
      return out;
    }
    // An argument has a row for each of the batch, or one for all, or else it gets a pass of its own.
    Batch all = batch_of(Layout(*this, nullptr));
    all.sums.segments = 1;
    bool any = false;
    for (int a = 0; a < arguments; a++) {
      const int64_t own = args[a].rows();
      if (own == rows) {
        all.result[a] = result(out[a]);
      } else if (own == 1) {
        add(all, a, out[a]);
      } else {
        Batch apart = batch_of(Layout(*this, &args[a]));
        apart.sums.segments = own;
        add(apart, a, out[a]);
        run(kernel_.backward, 2 * vectors + returns_vector, apart);
        continue;
      }
      any = true;
    }
    if (any) run(kernel_.backward, 2 * vectors + returns_vector, all);
    return out;
  }

 private:
  static Result result(const Tensor& out) { return {out.mutable_data_ptr(), dtype_of(out)}; }

  Batch batch_of(const Layout& layout) const {
    Batch batch{};
    batch.dim = dim;
    batch.dims = int64_t(layout.sizes.size());
    std::copy(layout.sizes.begin(), layout.sizes.end(), batch.sizes);
    for (size_t a = 0; a < args.size(); a++) {
      const Argument& arg = args[a];
      batch.operand[a].data = memory(arg.tensor);
      batch.operand[a].dtype = arg.dtype;
      batch.operand[a].step = arg.core ? arg.stride[arg.rank] : 1;
      std::copy(layout.strides[a].begin(), layout.strides[a].end(), batch.operand[a].strides);
    }
    return batch;
  }

  // The cotangent of argument a becomes a sum over the rows of each segment.
  void add(Batch& batch, int a, const Tensor& out) const {
    batch.sums.of[a] = {result(out), row_size(a)};
    batch.sums.total += row_size(a);
  }

  // A pass over the batch by blocks that stage so many rows for each team.
  void run(cudaError_t (*kernel)(bool, const Batch&, const Launch&), int staged, Batch& batch) const {
    const bool wide = dtype == Dtype::float64;
    Sums& sums = batch.sums;
    batch.segment = rows / sums.segments;
    const unsigned lanes = dim < long_row ? lanes_for(dim) : MOST_THREADS;
    unsigned teams = std::max(1u, block_threads / lanes);
    while (teams / 2 >= batch.segment) teams /= 2;
    const int64_t number = wide ? 8 : 4;
    Plan plan(device_, lanes, teams, staged, pitch(dim * number, lanes * number), 2 * sums.total);
    teams = plan.launch.teams;
    batch.piece = teams * std::clamp<int64_t>(rows / (teams * enough_blocks), 1, turns);
    if (sums.total) {
      const int64_t wanted = std::max<int64_t>(1, most_pieces / sums.segments);
      batch.piece = std::max(batch.piece, divide_up(batch.segment, wanted));
    }
    sums.pieces = divide_up(batch.segment, batch.piece);
    Tensor parts;
    if (sums.total && sums.pieces > 1) {
      parts = device_.words(2 * sums.segments * sums.pieces * sums.total);
      sums.parts = static_cast<double*>(parts.mutable_data_ptr());
    }
    plan.prepare(device_, sums.segments * sums.pieces);
    batch.staging = plan.staging;
    STD_CUDA_CHECK(kernel(wide, batch, plan.launch));
    if (sums.parts) STD_CUDA_CHECK(add_parts(sums, device_.stream()));
  }

  const RowKernel& kernel_;
  Device device_;
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hyperbolic, CUDA, m) {
  implement<Call>(m, std::make_integer_sequence<int, row_operators>());
}

}  // namespace hyperbolic::cuda
