// The sums of exp(-d/temperature) and the distances of positives, of which the contrastive loss is made, and their
// backward.
#include <torch/csrc/stable/library.h>

#include <cmath>
#include <limits>

#include "gradient.h"

namespace hyperbolic::cpu {

namespace {

void check(int model, const Tensor& x, const Tensor& y, const Tensor& labels, const Tensor& c,
           const Tensor& temperature, std::initializer_list<std::pair<const char*, const Tensor&>> rows) {
  Shapes shapes(model, "contrast");
  shapes.is("x", x, "N, D");
  shapes.is("y", y, "M, D");
  shapes.are_labels(labels, x);
  shapes.is_number("c", c);
  shapes.is_number("temperature", temperature);
  for (const auto& [name, a] : rows) shapes.is(name, a, "N");
}

// Where each row's positive is, checked.
const int64_t* rows_of(const Tensor& labels, int64_t rows) {
  const int64_t* index = static_cast<const int64_t*>(labels.const_data_ptr());
  for (int64_t i = 0; i < labels.numel(); i++) {
    STD_TORCH_CHECK(index[i] >= 0 && index[i] < rows, "pairwise.contrastive_loss: labels must be rows of y");
  }
  return index;
}

// x and y are matrices, c and temperature numbers: for each row of x log sum_j exp(-d(x_i, y_j)/temperature) and the
// distance to row labels_i of y.
template <int model>
std::tuple<Tensor, Tensor> contrast(const Tensor& x, const Tensor& y, const Tensor& labels_given, const Tensor& c,
                                    const Tensor& temperature) {
  check(model, x, y, labels_given, c, temperature, {});
  Pairs pairs{model, is_wide(x, y), positive(widened(c), 0), matrix(y, 0), matrix(x, 0)};
  const double tau = positive(widened(temperature), 0);
  const int64_t rows = x.size(0);
  const ScalarType dtype = pairs.wide ? ScalarType::Double : ScalarType::Float;
  Tensor partition = empty({rows}, dtype), positive = empty({rows}, dtype);
  if (rows == 0) return {partition, positive};
  const Tensor contiguous = torch::stable::contiguous(labels_given);
  const int64_t* labels = rows_of(contiguous, y.size(0));
  const PairwiseKernels& kernel = kernels().pairwise;
  const int64_t block = kernel.block(pairs.x.cols), blocks = divide_up(rows, block);
  const Pieces pieces(y.size(0), blocks);
  const std::vector<double> passing = described(pairs);
  pairs.x_rows = passing.data();
  std::vector<double> peak(rows * pieces.count, -std::numeric_limits<double>::infinity()), sum(rows * pieces.count);
  std::vector<double> result(rows), to_positive(rows);
  torch::stable::parallel_for(0, blocks * pieces.count, 1, [&](int64_t task, int64_t last) {
    for (; task < last; task++) {
      const int64_t piece = task / blocks, first = task % blocks * block, place = piece * rows + first;
      kernel.contrast(pairs, tau, labels, first, pieces.begin(piece), pieces.end(piece), &peak[place], &sum[place],
                      &to_positive[first]);
    }
  });
  for (int64_t i = 0; i < rows; i++) {
    double top = -std::numeric_limits<double>::infinity(), total = 0;
    for (int64_t piece = 0; piece < pieces.count; piece++) top = std::fmax(top, peak[piece * rows + i]);
    for (int64_t piece = 0; piece < pieces.count; piece++) {
      total += sum[piece * rows + i] * std::exp(peak[piece * rows + i] - top);
    }
    result[i] = top + std::log(total);
  }
  kernels().round(result.data(), rows, dtype_of(partition), partition.mutable_data_ptr());
  kernels().round(to_positive.data(), rows, dtype_of(positive), positive.mutable_data_ptr());
  return {partition, positive};
}

std::vector<double> values(const Tensor& given) {
  const Tensor a = widened(given);
  std::vector<double> result(a.numel());
  for (int64_t i = 0; i < a.numel(); i++) result[i] = number(a, i * a.stride(0));
  return result;
}

template <int model>
std::tuple<Tensor, Tensor, Tensor, Tensor> contrast_backward(const Tensor& x, const Tensor& y, const Tensor& labels,
                                                             const Tensor& c, const Tensor& temperature,
                                                             const Tensor& partition, const Tensor& g,
                                                             const Tensor& h) {
  check(model, x, y, labels, c, temperature, {{"partition", partition}, {"g", g}, {"h", h}});
  const bool wide = is_wide(x, y);
  const double tau = positive(widened(temperature), 0), curvature = positive(widened(c), 0);
  const std::vector<double> partition_of = values(partition), g_of = values(g), h_of = values(h);
  const Tensor contiguous = torch::stable::contiguous(labels);
  const int64_t* rows = rows_of(contiguous, y.size(0));
  double by_c = 0, by_temperature = 0;
  auto side = [&](const Tensor& own, const Tensor& other, bool own_is_x) {
    Pairs pairs{model, wide, curvature, matrix(other, 0), matrix(own, 0)};
    const std::vector<double> passing = described(pairs);
    pairs.x_rows = passing.data();
    const Softmax softmax{tau, own_is_x, rows, partition_of.data(), g_of.data(), h_of.data()};
    // both derivatives by numbers come from one side
    double *to_c = own_is_x ? nullptr : &by_c, *to_temperature = own_is_x ? nullptr : &by_temperature;
    auto at_block = [&](int64_t, int64_t first, int64_t begin, int64_t end, double* total, double* gc, double* gt) {
      kernels().pairwise.contrast_gradient(pairs, softmax, first, begin, end, total, gc, gt);
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
  if (!usable_kernels()) return;
  m.impl("lorentz_contrast", TORCH_BOX(&contrast<0>));
  m.impl("poincare_contrast", TORCH_BOX(&contrast<1>));
  m.impl("lorentz_contrast_backward", TORCH_BOX(&contrast_backward<0>));
  m.impl("poincare_contrast_backward", TORCH_BOX(&contrast_backward<1>));
}

}  // namespace hyperbolic::cpu
