// The sums of exp(-d/temperature) that the contrastive loss is made of, and their backward.
#include <torch/csrc/stable/library.h>

#include <cmath>
#include <limits>

#include "gradient.h"

namespace hyperbolic::cpu {

namespace {

// x and y are matrices, c and temperature numbers: log sum_j exp(-d(x_i, y_j)/temperature), one for each row of x.
template <int model>
Tensor logsumexp(const Tensor& x, const Tensor& y, const Tensor& c, const Tensor& temperature) {
  const Pairs pairs{model, is_wide(x, y), number(widened(c), 0), matrix(y, 0), matrix(x, 0)};
  const double tau = number(widened(temperature), 0);
  const int64_t rows = x.size(0);
  Tensor out = empty({rows}, pairs.wide ? ScalarType::Double : ScalarType::Float);
  if (rows == 0) return out;
  const PairwiseKernels& kernel = kernels().pairwise;
  const int64_t block = kernel.block(pairs.x.cols), blocks = divide_up(rows, block);
  const Pieces pieces(y.size(0), blocks);
  std::vector<double> peak(rows * pieces.count, -std::numeric_limits<double>::infinity()), sum(rows * pieces.count);
  torch::stable::parallel_for(0, blocks * pieces.count, 1, [&](int64_t task, int64_t last) {
    for (; task < last; task++) {
      const int64_t piece = task / blocks, first = task % blocks * block, place = piece * rows + first;
      kernel.logsumexp(pairs, tau, first, pieces.begin(piece), pieces.end(piece), &peak[place], &sum[place]);
    }
  });
  std::vector<double> result(rows);
  for (int64_t i = 0; i < rows; i++) {
    double top = -std::numeric_limits<double>::infinity(), total = 0;
    for (int64_t piece = 0; piece < pieces.count; piece++) top = std::fmax(top, peak[piece * rows + i]);
    for (int64_t piece = 0; piece < pieces.count; piece++) {
      total += sum[piece * rows + i] * std::exp(peak[piece * rows + i] - top);
    }
    result[i] = top + std::log(total);
  }
  kernels().round(result.data(), rows, dtype_of(out), out.mutable_data_ptr());
  return out;
}

std::vector<double> values(const Tensor& a) {
  std::vector<double> result(a.numel());
  for (int64_t i = 0; i < a.numel(); i++) result[i] = number(a, i * a.stride(0));
  return result;
}

template <int model>
std::tuple<Tensor, Tensor, Tensor, Tensor> logsumexp_backward(const Tensor& x, const Tensor& y, const Tensor& c,
                                                              const Tensor& temperature, const Tensor& value,
                                                              const Tensor& g) {
  const bool wide = is_wide(x, y);
  const double tau = number(widened(temperature), 0), curvature = number(widened(c), 0);
  const std::vector<double> value_of = values(value), g_of = values(g);
  double by_c = 0, by_temperature = 0;
  auto side = [&](const Tensor& own, const Tensor& other, bool own_is_x) {
    const Pairs pairs{model, wide, curvature, matrix(other, 0), matrix(own, 0)};
    const Softmax softmax{tau, own_is_x, value_of.data(), g_of.data()};
    // both derivatives by numbers come from one side
    double *to_c = own_is_x ? nullptr : &by_c, *to_temperature = own_is_x ? nullptr : &by_temperature;
    auto at_block = [&](int64_t, int64_t first, int64_t begin, int64_t end, double* total, double* gc, double* gt) {
      kernels().pairwise.logsumexp_gradient(pairs, softmax, first, begin, end, total, gc, gt);
    };
    return block_gradients(own, other.size(0), Batch(), to_c, to_temperature, at_block);
  };
  Tensor gx = side(x, y, true), gy = side(y, x, false);
  auto scalar = [](double a, const Tensor& like) {
    Tensor out = empty({like.sizes().begin(), like.sizes().end()}, like.scalar_type());
    kernels().round(&a, 1, dtype_of(out), out.mutable_data_ptr());
    return out;
  };
  return {gx, gy, scalar(by_c, c), scalar(by_temperature, temperature)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hyperbolic, CPU, m) {
  m.impl("lorentz_logsumexp", TORCH_BOX(&logsumexp<0>));
  m.impl("poincare_logsumexp", TORCH_BOX(&logsumexp<1>));
  m.impl("lorentz_logsumexp_backward", TORCH_BOX(&logsumexp_backward<0>));
  m.impl("poincare_logsumexp_backward", TORCH_BOX(&logsumexp_backward<1>));
}

}  // namespace hyperbolic::cpu
