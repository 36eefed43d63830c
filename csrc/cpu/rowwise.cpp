// The operators on rows and their backward: broadcasting, allocation, threads.
#include <torch/csrc/stable/library.h>

#include "../common/row_call.h"
#include "kernels/table.h"

namespace hyperbolic::cpu {

namespace {

// A thread is worth waking for this many coordinates, or rows.
constexpr int64_t least_work = 1 << 14, row_work = 64;
// Sums over rows are split in at most this many pieces, and no shorter ones than this. Constants, because results must
// not depend on the number of threads.
constexpr int64_t most_pieces = 256, least_piece = 64;

// A call, and the kernel that serves it.
class Call : RowCall {
 public:
  Call(const RowKernel& kernel, StableIValue* stack, int count) : RowCall(kernel, stack, count), kernel_(kernel) {}

  static const RowKernel& kernel(int i) { return kernels().rows[i]; }

  Tensor forward() const {
    Tensor out = empty(result_shape(), result_type());
    if (rows == 0) return out;
    const Layout layout(*this, nullptr);
    Rows batch = rows_of(layout);
    batch.result[0] = result(out);
    torch::stable::parallel_for(0, rows, grain(), [&](int64_t begin, int64_t end) {
      kernel_.forward(batch, begin, end);
    });
    return out;
  }

  std::vector<Tensor> backward() const {
    const int arguments = vectors + scalars;
    std::vector<Tensor> out;
    out.reserve(arguments);
    for (int a = 0; a < arguments; a++) out.push_back(empty(args[a].shape(), scalar_type(args[a].dtype)));
    if (rows == 0) {
      for (Tensor& g : out) torch::stable::zero_(g);
      return out;
    }
    // An argument has a row for each of the batch, or one for all, or else it gets a pass of its own.
    std::vector<int> written, summed;
    for (int a = 0; a < arguments; a++) {
      const int64_t own = args[a].rows();
      if (own == rows) {
        written.push_back(a);
      } else if (own == 1) {
        summed.push_back(a);
      } else {
        sum_by_row(a, own, rows / own, out[a]);
      }
    }
    if (!written.empty() || !summed.empty()) sum_over_all(written, summed, out);
    return out;
  }

 private:
  // The batch as the kernels see it.
  Rows rows_of(const Layout& layout) const {
    Rows batch{};
    batch.wide = dtype == Dtype::float64;
    batch.dim = dim;
    batch.dims = int64_t(layout.sizes.size());
    batch.sizes = layout.sizes.data();
    batch.operands = int(args.size());
    for (size_t a = 0; a < args.size(); a++) {
      const Argument& arg = args[a];
      batch.operand[a] = {{memory(arg.tensor), arg.dtype}, arg.core ? arg.stride[arg.rank] : 1,
                          layout.strides[a].data()};
    }
    return batch;
  }

  static Result result(const Tensor& out) { return {out.mutable_data_ptr(), dtype_of(out)}; }

  int64_t grain() const { return std::max<int64_t>(1, least_work / (dim + row_work)); }

  void round(const double* values, const Tensor& out, int64_t start, int64_t count) const {
    const Dtype to = dtype_of(out);
    kernels().round(values, count, to, static_cast<char*>(out.mutable_data_ptr()) + start * size_of(to));
  }

  // One pass over the batch, in pieces of rows that are added up in order.
  void sum_over_all(const std::vector<int>& written, const std::vector<int>& summed, const std::vector<Tensor>& out)
      const {
    const Layout layout(*this, nullptr);
    Rows batch = rows_of(layout);
    for (int a : written) batch.result[a] = result(out[a]);
    if (summed.empty()) {
      torch::stable::parallel_for(0, rows, grain(), [&](int64_t begin, int64_t end) {
        double* const sums[max_operands] = {};
        kernel_.backward(batch, begin, end, sums, 0);
      });
      return;
    }
    int64_t width = 0, place[max_operands];
    for (int a : summed) {
      place[a] = width;
      width += row_size(a);
    }
    const int64_t piece = std::max(least_piece, divide_up(rows, most_pieces)), pieces = divide_up(rows, piece);
    std::vector<double> partial(2 * pieces * width);
    torch::stable::parallel_for(0, pieces, divide_up(grain(), piece), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        double* sums[max_operands] = {};
        for (int a : summed) sums[a] = &partial[2 * i * width + place[a]];
        kernel_.backward(batch, i * piece, std::min(rows, (i + 1) * piece), sums, width);
      }
    });
    kernels().add(partial.data(), pieces, width);
    for (int a : summed) round(&partial[place[a]], out[a], 0, row_size(a));
  }

  // The cotangent of argument a, each of whose rows is shared by as many of the batch: `shared` of them.
  void sum_by_row(int a, int64_t own, int64_t shared, const Tensor& out) const {
    const Layout layout(*this, &args[a]);
    const Rows batch = rows_of(layout);
    const int64_t width = row_size(a);
    const int64_t wanted = std::max<int64_t>(1, most_pieces / own);
    const int64_t piece = std::max(least_piece, divide_up(shared, wanted)), pieces = divide_up(shared, piece);
    std::vector<double> partial(pieces > 1 ? 2 * own * pieces * width : 0);
    auto add = [&](int64_t row, int64_t i, double* to) {
      double* sums[max_operands] = {};
      sums[a] = to;
      const int64_t first = row * shared;
      kernel_.backward(batch, first + i * piece, first + std::min(shared, (i + 1) * piece), sums, width);
    };
    const int64_t least = divide_up(grain(), std::min(shared, piece));
    torch::stable::parallel_for(0, own * pieces, least, [&](int64_t begin, int64_t end) {
      std::vector<double> local(pieces > 1 ? 0 : 2 * width);
      for (int64_t i = begin; i < end; i++) {
        if (pieces > 1) {
          add(i / pieces, i % pieces, &partial[2 * i * width]);
          continue;
        }
        std::fill(local.begin(), local.end(), 0.0);
        add(i, 0, local.data());
        round(local.data(), out, i * width, width);
      }
    });
    if (pieces == 1) return;
    for (int64_t row = 0; row < own; row++) {
      double* total = &partial[2 * row * pieces * width];
      kernels().add(total, pieces, width);
      round(total, out, row * width, width);
    }
  }

  const RowKernel& kernel_;
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hyperbolic, CPU, m) {
  if (!usable_kernels()) return;
  implement<Call>(m, std::make_integer_sequence<int, row_operators>());
}

}  // namespace hyperbolic::cpu
