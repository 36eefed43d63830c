// A call of an operator on rows: what its arguments broadcast to, how that lies in memory, and how it is registered.
#pragma once

#include <torch/csrc/stable/library.h>

#include <array>
#include <utility>

#include "row_operators.h"
#include "tensors.h"

namespace hyperbolic {

inline Dtype promoted(Dtype a, Dtype b) {
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

  Argument(Tensor t, bool vector, const char* op, const char* name)
      : tensor(std::move(t)),
        core(vector),
        size(tensor.sizes().data()),
        stride(tensor.strides().data()),
        rank(tensor.dim() - core),
        dtype(dtype_of(tensor, op, name)) {}

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

inline ScalarType scalar_type(Dtype dtype) {
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
struct RowCall : RowOperator {
  std::vector<Argument> args;
  std::vector<int64_t> shape;
  int64_t rows = 1, dim;
  Dtype dtype;  // of a vector that is returned

  RowCall(const RowOperator& op, StableIValue* stack, int count) : RowOperator(op) {
    static constexpr const char* names[max_operands] = {"a0", "a1", "a2", "a3"};  // those of the schema
    args.reserve(count);
    for (int a = 0; a < count; a++) {
      bool vector = a < vectors || (a == vectors + scalars && returns_vector);
      args.emplace_back(torch::stable::detail::to<Tensor>(stack[a]), vector, name, names[a]);
    }
    int64_t rank = 0;
    for (const Argument& a : args) rank = std::max(rank, a.rank);
    STD_TORCH_CHECK(args[0].rank >= 0 && rank <= max_dims, name,
                    ": a0 must have shape (..., D), with at most ", max_dims, " dimensions before D, got ",
                    text(args[0].tensor));
    dim = args[0].size[args[0].rank];
    STD_TORCH_CHECK(dim > 0, name, ": a0 must have at least one element along D, got ", text(args[0].tensor));
    shape.assign(rank, 1);
    for (int a = 0; a < count; a++) {
      const Argument& arg = args[a];
      STD_TORCH_CHECK(!arg.core || (arg.rank >= 0 && arg.size[arg.rank] == dim), name, ": ", names[a],
                      " must have size ", dim, " along D as a0 has, got ", text(arg.tensor));
      for (int64_t d = 0; d < rank; d++) {
        if (arg.own(d, rank) < 0) continue;
        const int64_t size = arg.size[arg.own(d, rank)];
        STD_TORCH_CHECK(shape[d] == 1 || shape[d] == size, name, ": ", names[a],
                        " must have a batch shape that broadcasts with ", text(shape.data(), rank), ", got ",
                        text(arg.tensor));
        shape[d] = size;
      }
    }
    std::vector<int64_t> all = shape;
    all.push_back(dim);
    rows = product(all.data(), rank + 1) / dim;
    dtype = args[0].dtype;
    for (int a = 1; a < vectors; a++) dtype = promoted(dtype, args[a].dtype);
  }

  std::vector<int64_t> result_shape() const {
    std::vector<int64_t> result = shape;
    if (returns_vector) result.push_back(dim);
    return result;
  }
  ScalarType result_type() const {
    return !returns_vector && dtype != Dtype::float64 ? ScalarType::Float : scalar_type(dtype);
  }

  // How many numbers a row of argument a is.
  int64_t row_size(int a) const { return args[a].core ? dim : 1; }
};

// How a batch's rows follow each other, with dimensions merged where they can be. If an argument is given, those that
// its rows are shared along come last.
struct Layout {
  std::vector<int64_t> sizes;
  std::array<std::vector<int64_t>, max_operands> strides;

  Layout(const RowCall& call, const Argument* outer) {
    const int64_t rank = int64_t(call.shape.size());
    const int n = int(call.args.size());
    auto append = [&](int64_t d) {
      int64_t stride[max_operands];
      bool merges = !sizes.empty();
      for (int a = 0; a < n; a++) {
        const int64_t own = call.args[a].own(d, rank);
        stride[a] = own < 0 ? 0 : call.args[a].stride[own];
        merges = merges && strides[a].back() == stride[a] * call.shape[d];
      }
      if (!merges) sizes.push_back(1);
      sizes.back() *= call.shape[d];
      for (int a = 0; a < n; a++) {
        if (!merges) strides[a].push_back(0);
        strides[a].back() = stride[a];
      }
    };
    for (bool shared : {false, true}) {
      for (int64_t d = 0; d < rank; d++) {
        if (call.shape[d] != 1 && shared == (outer && outer->own(d, rank) < 0)) append(d);
      }
    }
  }
};

// --- registration --------------------------------------------------------------------------------------------------

// Call is a device's RowCall with `forward` and `backward`, and Call::kernel(i) serves operator i.
template <class Call, int i>
void run_forward(StableIValue* stack, uint64_t inputs, uint64_t) {
  stack[0] = torch::stable::detail::from(Call(Call::kernel(i), stack, int(inputs)).forward());
}

template <class Call, int i>
void run_backward(StableIValue* stack, uint64_t inputs, uint64_t) {
  const std::vector<Tensor> out = Call(Call::kernel(i), stack, int(inputs)).backward();
  for (size_t k = 0; k < out.size(); k++) stack[k] = torch::stable::detail::from(out[k]);
}

template <class Call, int... i>
void implement(torch::stable::detail::StableLibrary& m, std::integer_sequence<int, i...>) {
  (m.impl(Call::kernel(i).name, &run_forward<Call, i>), ...);
  (m.impl((std::string(Call::kernel(i).name) + "_backward").c_str(), &run_backward<Call, i>), ...);
}

}  // namespace hyperbolic
