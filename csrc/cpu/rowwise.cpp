// The operators on rows and their backward: broadcasting, allocation, threads.
#include <torch/csrc/stable/library.h>

#include <array>
#include <string>
#include <utility>

#include "tensors.h"

namespace hyperbolic::cpu {

namespace {

// A thread is worth waking for this many coordinates, or rows.
constexpr int64_t least_work = 1 << 14, row_work = 64;
// Sums over rows are split in at most this many pieces, and no shorter ones than this. Constants, because results must
// not depend on the number of threads.
constexpr int64_t most_pieces = 256, least_piece = 64;

Dtype promoted(Dtype a, Dtype b) {
  if (a == b) return a;
  return a == Dtype::float64 || b == Dtype::float64 ? Dtype::float64 : Dtype::float32;
}

// What the layout is made from, read once: each question to a tensor is a call through the ABI.
struct Argument {
  Tensor tensor;
  int64_t core;  // how many trailing dimensions are its own: 1 for a vector
  const int64_t *size, *stride;
  int64_t rank;  // of the batch
  Dtype dtype;

  Argument(Tensor t, bool vector)
      : tensor(std::move(t)),
        core(vector),
        size(tensor.sizes().data()),
        stride(tensor.strides().data()),
        rank(tensor.dim() - core),
        dtype(dtype_of(tensor)) {}

  // Dimension d of a batch of the given rank: its own one, or -1 where it is the same for all.
  int64_t own(int64_t d, int64_t batch_rank) const {
    const int64_t mine = d - (batch_rank - rank);
    return mine < 0 || size[mine] == 1 ? -1 : mine;
  }
  int64_t rows() const {
    int64_t n = 1;
    for (int64_t d = 0; d < rank; d++) n *= size[d];
    return n;
  }
  std::vector<int64_t> shape() const { return {size, size + rank + core}; }
};

ScalarType scalar_type(Dtype dtype) {
  switch (dtype) {
    case Dtype::float32:
      return ScalarType::Float;
    case Dtype::float64:
      return ScalarType::Double;
    case Dtype::bfloat16:
      return ScalarType::BFloat16;
    default:
      return ScalarType::Half;
  }
}

// One call: the arguments, and the batch that they broadcast to.
class Call {
 public:
  Call(const RowKernel& kernel, StableIValue* stack, int count) : kernel_(kernel) {
    args_.reserve(count);
    for (int a = 0; a < count; a++) {
      bool vector = a < kernel.vectors || (a == kernel.vectors + kernel.scalars && kernel.returns_vector);
      args_.emplace_back(torch::stable::detail::to<Tensor>(stack[a]), vector);
    }
    int64_t rank = 0;
    for (const Argument& a : args_) rank = std::max(rank, a.rank);
    shape_.assign(rank, 1);
    for (const Argument& a : args_) {
      for (int64_t d = 0; d < rank; d++) {
        if (a.own(d, rank) >= 0) shape_[d] = a.size[a.own(d, rank)];
      }
    }
    for (int64_t size : shape_) rows_ *= size;
    dtype_ = args_[0].dtype;
    for (int a = 1; a < kernel.vectors; a++) dtype_ = promoted(dtype_, args_[a].dtype);
    dim_ = args_[0].size[args_[0].rank];
  }

  Tensor forward() const {
    std::vector<int64_t> shape = shape_;
    if (kernel_.returns_vector) shape.push_back(dim_);
    const bool raised = !kernel_.returns_vector && dtype_ != Dtype::float64;
    Tensor out = empty(shape, raised ? ScalarType::Float : scalar_type(dtype_));
    if (rows_ == 0) return out;
    Layout layout(*this, nullptr);
    layout.rows.result[0] = result(out);
    torch::stable::parallel_for(0, rows_, grain(), [&](int64_t begin, int64_t end) {
      kernel_.forward(layout.rows, begin, end);
    });
    return out;
  }

  std::vector<Tensor> backward() const {
    const int arguments = kernel_.vectors + kernel_.scalars;
    std::vector<Tensor> out;
    out.reserve(arguments);
    for (int a = 0; a < arguments; a++) out.push_back(empty(args_[a].shape(), scalar_type(args_[a].dtype)));
    if (rows_ == 0) {
      for (Tensor& g : out) torch::stable::zero_(g);
      return out;
    }
    // An argument has a row for each of the batch, or one for all, or else it gets a pass of its own.
    std::vector<int> written, summed;
    for (int a = 0; a < arguments; a++) {
      const int64_t own = args_[a].rows();
      if (own == rows_) {
        written.push_back(a);
      } else if (own == 1) {
        summed.push_back(a);
      } else {
        sum_by_row(a, own, rows_ / own, out[a]);
      }
    }
    if (!written.empty() || !summed.empty()) sum_over_all(written, summed, out);
    return out;
  }

 private:
  // The batch as the kernels see it, with dimensions merged where they can be. If an argument is given, those that its
  // rows are shared along come last.
  struct Layout {
    Rows rows{};
    std::vector<int64_t> sizes;
    std::array<std::vector<int64_t>, max_operands> strides;

    Layout(const Call& call, const Argument* outer) {
      const int64_t rank = int64_t(call.shape_.size());
      const int n = int(call.args_.size());
      auto append = [&](int64_t d) {
        int64_t stride[max_operands];
        bool merges = !sizes.empty();
        for (int a = 0; a < n; a++) {
          const int64_t own = call.args_[a].own(d, rank);
          stride[a] = own < 0 ? 0 : call.args_[a].stride[own];
          merges = merges && strides[a].back() == stride[a] * call.shape_[d];
        }
        if (!merges) sizes.push_back(1);
        sizes.back() *= call.shape_[d];
        for (int a = 0; a < n; a++) {
          if (!merges) strides[a].push_back(0);
          strides[a].back() = stride[a];
        }
      };
      for (bool shared : {false, true}) {
        for (int64_t d = 0; d < rank; d++) {
          if (call.shape_[d] != 1 && shared == (outer && outer->own(d, rank) < 0)) append(d);
        }
      }
      rows.wide = call.dtype_ == Dtype::float64;
      rows.dim = call.dim_;
      rows.dims = int64_t(sizes.size());
      rows.sizes = sizes.data();
      rows.operands = n;
      for (int a = 0; a < n; a++) {
        const Argument& arg = call.args_[a];
        rows.operand[a] = {arg.tensor.const_data_ptr(), arg.dtype, arg.core ? arg.stride[arg.rank] : 1,
                           strides[a].data()};
      }
    }
  };

  static Operand result(const Tensor& out) { return {out.mutable_data_ptr(), dtype_of(out), 1, nullptr}; }

  // How many numbers a row of argument a is.
  int64_t row_size(int a) const { return args_[a].core ? dim_ : 1; }

  int64_t grain() const { return std::max<int64_t>(1, least_work / (dim_ + row_work)); }

  void round(const double* values, const Tensor& out, int64_t start, int64_t count) const {
    const Dtype dtype = dtype_of(out);
    kernels().round(values, count, dtype, static_cast<char*>(out.mutable_data_ptr()) + start * size_of(dtype));
  }

  // One pass over the batch, in pieces of rows that are added up in order.
  void sum_over_all(const std::vector<int>& written, const std::vector<int>& summed, const std::vector<Tensor>& out)
      const {
    Layout layout(*this, nullptr);
    for (int a : written) layout.rows.result[a] = result(out[a]);
    if (summed.empty()) {
      torch::stable::parallel_for(0, rows_, grain(), [&](int64_t begin, int64_t end) {
        double* const sums[max_operands] = {};
        kernel_.backward(layout.rows, begin, end, sums, 0);
      });
      return;
    }
    int64_t width = 0, place[max_operands];
    for (int a : summed) {
      place[a] = width;
      width += row_size(a);
    }
    const int64_t piece = std::max(least_piece, divide_up(rows_, most_pieces)), pieces = divide_up(rows_, piece);
    std::vector<double> partial(2 * pieces * width);
    torch::stable::parallel_for(0, pieces, divide_up(grain(), piece), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        double* sums[max_operands] = {};
        for (int a : summed) sums[a] = &partial[2 * i * width + place[a]];
        kernel_.backward(layout.rows, i * piece, std::min(rows_, (i + 1) * piece), sums, width);
      }
    });
    kernels().add(partial.data(), pieces, width);
    for (int a : summed) round(&partial[place[a]], out[a], 0, row_size(a));
  }

  // The cotangent of argument a, each of whose rows is shared by as many of the batch: `shared` of them.
  void sum_by_row(int a, int64_t own, int64_t shared, const Tensor& out) const {
    Layout layout(*this, &args_[a]);
    const int64_t width = row_size(a);
    const int64_t wanted = std::max<int64_t>(1, most_pieces / own);
    const int64_t piece = std::max(least_piece, divide_up(shared, wanted)), pieces = divide_up(shared, piece);
    std::vector<double> partial(pieces > 1 ? 2 * own * pieces * width : 0);
    auto add = [&](int64_t row, int64_t i, double* to) {
      double* sums[max_operands] = {};
      sums[a] = to;
      const int64_t first = row * shared;
      kernel_.backward(layout.rows, first + i * piece, first + std::min(shared, (i + 1) * piece), sums, width);
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
  std::vector<Argument> args_;
  std::vector<int64_t> shape_;
  int64_t rows_ = 1, dim_;
  Dtype dtype_;
};

template <size_t op>
void forward(StableIValue* stack, uint64_t inputs, uint64_t) {
  stack[0] = torch::stable::detail::from(Call((*kernels().rows)[op], stack, int(inputs)).forward());
}

template <size_t op>
void backward(StableIValue* stack, uint64_t inputs, uint64_t) {
  std::vector<Tensor> out = Call((*kernels().rows)[op], stack, int(inputs)).backward();
  for (size_t i = 0; i < out.size(); i++) stack[i] = torch::stable::detail::from(out[i]);
}

template <size_t... op>
void implement(torch::stable::detail::StableLibrary& m, std::index_sequence<op...>) {
  const RowKernels& rows = *kernels().rows;
  (m.impl(rows[op].name, &forward<op>), ...);
  (m.impl((std::string(rows[op].name) + "_backward").c_str(), &backward<op>), ...);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hyperbolic, CPU, m) { implement(m, std::make_index_sequence<row_operators>()); }

}  // namespace hyperbolic::cpu
