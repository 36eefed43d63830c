// Gradients at one side of all pairs: tasks, partial sums and rounding.
#pragma once

#include "tasks.h"

namespace hyperbolic::cpu {

// The gradient at `own`, of shape (..., rows, dim), whose leading dimensions the batch broadcasts, while `passing` rows
// of the other side pass by. f(element of the batch, first row, begin, end, total, by_c, by_temperature) adds what the
// other side's rows [begin, end) contribute to a block of rows. Numbers that are wanted are added to by_c[element] and
// by_temperature[element].
template <class F>
Tensor block_gradients(const Tensor& own, int64_t passing, const Batch& batch, double* by_c, double* by_temperature,
                       const F& f) {
  const int64_t rows = own.size(own.dim() - 2), dim = own.size(own.dim() - 1);
  Tensor out = empty({own.sizes().begin(), own.sizes().end()}, own.scalar_type());
  if (out.numel() == 0) return out;
  if (passing == 0 || batch.count() == 0) return torch::stable::zero_(out);
  char* result = static_cast<char*>(out.mutable_data_ptr());
  const Dtype dtype = dtype_of(out);
  // A set of points that broadcasts is seen by several elements of the batch.
  const int64_t sets = out.numel() / (rows * dim), size = sets * rows * dim;
  std::vector<std::vector<int64_t>> seen_by(sets);
  for (int64_t b = 0; b < batch.count(); b++) seen_by[batch.element(own, 2, b)].push_back(b);

  const int64_t block = kernels().pairwise.block(dim), blocks = divide_up(rows, block);
  const Pieces pieces(passing, sets * blocks);
  const int64_t parts = blocks * pieces.count;
  // Sums are double-doubles: high words, then low words.
  std::vector<double> partial(pieces.count > 1 ? 2 * pieces.count * size : 0);
  std::vector<double> numbers_c(by_c ? batch.count() * parts : 0);
  std::vector<double> numbers_temperature(by_temperature ? batch.count() * parts : 0);
  torch::stable::parallel_for(0, sets * parts, 1, [&](int64_t task, int64_t last) {
    std::vector<double> local(2 * block * dim);
    for (; task < last; task++) {
      const int64_t piece = task % pieces.count, tile = task / pieces.count, set = tile / blocks;
      const int64_t first = tile % blocks * block, count = std::min(block, rows - first) * dim;
      const int64_t place = (set * rows + first) * dim;
      std::fill(local.begin(), local.end(), 0.0);
      for (int64_t b : seen_by[set]) {
        const int64_t part = b * parts + tile % blocks * pieces.count + piece;
        f(b, first, pieces.begin(piece), pieces.end(piece), local.data(), by_c ? &numbers_c[part] : nullptr,
          by_temperature ? &numbers_temperature[part] : nullptr);
      }
      if (pieces.count == 1) {
        kernels().round(local.data(), count, dtype, result + place * size_of(dtype));
      } else {
        std::copy_n(&local[0], count, &partial[2 * piece * size + place]);
        std::copy_n(&local[block * dim], count, &partial[(2 * piece + 1) * size + place]);
      }
    }
  });
  if (pieces.count > 1) {
    kernels().add(partial.data(), pieces.count, size);
    kernels().round(partial.data(), size, dtype, result);
  }
  for (size_t i = 0; i < numbers_c.size(); i++) by_c[i / parts] += numbers_c[i];
  for (size_t i = 0; i < numbers_temperature.size(); i++) by_temperature[i / parts] += numbers_temperature[i];
  return out;
}

}  // namespace hyperbolic::cpu
