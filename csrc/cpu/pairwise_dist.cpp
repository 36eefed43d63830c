// pairwise_dist and its backward: batches, tasks and threads.
#include <torch/csrc/stable/library.h>

#include "gradient.h"

namespace hyperbolic::cpu {

namespace {

// The pairs of every element of a batch, whose x is described where it passes more than one block by.
class AllPairs {
 public:
  template <class F>
  AllPairs(int64_t batches, int64_t blocks, const F& pairs) {
    for (int64_t b = 0; b < batches; b++) {
      pairs_.push_back(pairs(b));
      if (blocks < 2) continue;
      rows_.push_back(described(pairs_[b]));
      pairs_[b].x_rows = rows_[b].data();
    }
  }
  const Pairs& operator[](int64_t b) const { return pairs_[b]; }

 private:
  std::vector<Pairs> pairs_;
  std::vector<std::vector<double>> rows_;
};

// What all arguments, named as in the schema, broadcast to; g may be null.
Batch batch_of(int model, const Tensor& x, const Tensor& y, const Tensor& c, const Tensor* g) {
  Shapes shapes(model, "pairwise_dist");
  Batch batch;
  auto add = [&](const char* name, const Tensor& a, std::string_view dims) {
    shapes.ends(name, a, dims);
    batch.add(shapes.op(), name, a, Shapes::count(dims));
  };
  add("a0", x, "N, D");
  add("a1", y, "M, D");
  add("a2", c, "");
  if (g) add("a3", *g, "N, M");
  return batch;
}

template <int model>
Tensor pairwise_dist(const Tensor& x, const Tensor& y, const Tensor& c_given) {
  const Batch batch = batch_of(model, x, y, c_given, nullptr);
  const Tensor c = widened(c_given);
  const bool wide = is_wide(x, y);
  const int64_t n = x.size(x.dim() - 2), m = y.size(y.dim() - 2);
  std::vector<int64_t> shape = batch.shape();
  shape.insert(shape.end(), {n, m});
  product(shape.data(), int64_t(shape.size()));
  Tensor out = empty(shape, wide ? ScalarType::Double : ScalarType::Float);
  if (out.numel() == 0) return out;
  char* memory = static_cast<char*>(out.mutable_data_ptr());
  const PairwiseKernels& kernel = kernels().pairwise;
  const int64_t block = kernel.block(x.size(x.dim() - 1)), blocks = divide_up(m, block), batches = batch.count();
  const AllPairs pairs(batches, blocks, [&](int64_t b) {
    return Pairs{model, wide, positive(c, batch.offset(c, 0, b)), matrix(x, batch.offset(x, 2, b)),
                 matrix(y, batch.offset(y, 2, b))};
  });
  const Pieces pieces(n, batches * blocks);
  torch::stable::parallel_for(0, batches * blocks * pieces.count, 1, [&](int64_t task, int64_t last) {
    for (; task < last; task++) {
      int64_t piece = task % pieces.count, tile = task / pieces.count, b = tile / blocks;
      kernel.dist(pairs[b], tile % blocks * block, pieces.begin(piece), pieces.end(piece),
                  memory + b * n * m * (wide ? 8 : 4), m);
    }
  });
  return out;
}

Matrix transposed(const Matrix& a) { return {a.data, a.dtype, a.cols, a.rows, a.col_stride, a.row_stride}; }

template <int model>
Tensor gradient(const Tensor& own, const Tensor& other, const Tensor& c, const Tensor& g, bool own_is_x,
                const Batch& batch, double* by_c) {
  const PairwiseKernels& kernel = kernels().pairwise;
  const int64_t blocks = divide_up(own.size(own.dim() - 2), kernel.block(own.size(own.dim() - 1)));
  const AllPairs pairs(batch.count(), blocks, [&](int64_t b) {
    return Pairs{model, is_wide(own, other), positive(c, batch.offset(c, 0, b)),
                 matrix(other, batch.offset(other, 2, b)), matrix(own, batch.offset(own, 2, b))};
  });
  auto at_block = [&](int64_t b, int64_t first, int64_t begin, int64_t end, double* total, double* gc, double*) {
    Matrix weights = matrix(g, batch.offset(g, 2, b));
    kernel.gradient(pairs[b], first, begin, end, own_is_x ? transposed(weights) : weights, total, gc);
  };
  return block_gradients(own, other.size(other.dim() - 2), batch, by_c, nullptr, at_block);
}

template <int model>
std::tuple<Tensor, Tensor, Tensor> pairwise_dist_backward(const Tensor& x, const Tensor& y, const Tensor& c_given,
                                                          const Tensor& g) {
  const Batch batch = batch_of(model, x, y, c_given, &g);
  const Tensor c = widened(c_given);
  std::vector<double> by_c(batch.count()), sums(std::max<int64_t>(1, c.numel()));
  Tensor gx = gradient<model>(x, y, c, g, true, batch, nullptr);
  Tensor gy = gradient<model>(y, x, c, g, false, batch, by_c.data());
  for (int64_t b = 0; b < batch.count(); b++) sums[batch.element(c, 0, b)] += by_c[b];
  Tensor gc = empty({c.sizes().begin(), c.sizes().end()}, c_given.scalar_type());
  kernels().round(sums.data(), c.numel(), dtype_of(gc), gc.mutable_data_ptr());
  return {gx, gy, gc};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hyperbolic, CPU, m) {
  if (!usable_kernels()) return;
  m.impl("lorentz_pairwise_dist", TORCH_BOX(&pairwise_dist<0>));
  m.impl("poincare_pairwise_dist", TORCH_BOX(&pairwise_dist<1>));
  m.impl("lorentz_pairwise_dist_backward", TORCH_BOX(&pairwise_dist_backward<0>));
  m.impl("poincare_pairwise_dist_backward", TORCH_BOX(&pairwise_dist_backward<1>));
}

}  // namespace hyperbolic::cpu
