// How work over all pairs is cut into tasks.
#pragma once

#include "../common/checks.h"
#include "batch.h"

namespace hyperbolic::cpu {

// Fewer tasks than this are split along the rows that pass by, so that every thread has work. A constant, because
// results must not depend on the number of threads.
constexpr int64_t enough_tasks = 16;
// Rows that pass by are split in multiples of this.
constexpr int64_t least_rows = 1 << 9;

inline bool is_wide(const Tensor& x, const Tensor& y) {
  return x.scalar_type() == ScalarType::Double || y.scalar_type() == ScalarType::Double;
}

// What `describe` finds about every row of x, for pairs whose x passes by more than once.
inline std::vector<double> described(const Pairs& pairs) {
  constexpr int64_t rows_per_task = 64;
  std::vector<double> rows(pairs.x.rows * numbers_per_row);
  torch::stable::parallel_for(0, pairs.x.rows, rows_per_task, [&](int64_t begin, int64_t end) {
    kernels().pairwise.describe(pairs, begin, end, rows.data());
  });
  return rows;
}

// Pieces of `rows` for each of `tasks` blocks of columns.
struct Pieces {
  int64_t rows, size, count;

  Pieces(int64_t all, int64_t tasks) : rows(all) {
    int64_t wanted = tasks ? divide_up(enough_tasks, tasks) : 1;
    size = std::max<int64_t>(1, divide_up(divide_up(rows, wanted), least_rows)) * least_rows;
    count = std::max<int64_t>(1, divide_up(rows, size));
  }
  int64_t begin(int64_t i) const { return std::min(rows, i * size); }
  int64_t end(int64_t i) const { return std::min(rows, (i + 1) * size); }
};

}  // namespace hyperbolic::cpu
