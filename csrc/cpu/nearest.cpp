// nearest: the bank in pieces, whose lists are merged.
#include <torch/csrc/stable/library.h>

#include <cmath>

#include "tasks.h"

namespace hyperbolic::cpu {

namespace {

// Scores in double may order what is nearly tied wrongly. So some more are kept than wanted, and measured again.
constexpr int64_t spare = 8;

bool before(const Candidate& a, const Candidate& b) {
  return a.score > b.score || (a.score == b.score && a.index < b.index);
}

template <int model>
Tensor nearest(const Tensor& query, const Tensor& bank, const Tensor& c, int64_t k, double depth_weight) {
  Shapes shapes(model, "nearest");
  shapes.is("query", query, "N, D");
  shapes.is("bank", bank, "M, D");
  shapes.is_number("c", c);
  STD_TORCH_CHECK(k >= 1 && k <= bank.size(0), shapes.op(), ": k must be from 1 to the ", bank.size(0),
                  " rows of bank, got ", k);
  STD_TORCH_CHECK(std::isfinite(depth_weight), shapes.op(), ": depth_weight must be finite, got ", depth_weight);
  const Pairs pairs{model, is_wide(query, bank), positive(widened(c), 0), matrix(bank, 0), matrix(query, 0)};
  const int64_t queries = query.size(0), most = std::min(k + (pairs.wide ? 0 : spare), bank.size(0));
  Tensor out = empty({queries, k}, ScalarType::Long);
  if (queries == 0) return out;
  const PairwiseKernels& kernel = kernels().pairwise;
  const int64_t block = kernel.block(pairs.x.cols), blocks = divide_up(queries, block);
  const Pieces pieces(bank.size(0), blocks);
  std::vector<Candidate> lists(queries * pieces.count * most);
  std::vector<int64_t> counts(queries * pieces.count);
  // Piece by piece, so that a piece's lists for a block of queries lie side by side.
  torch::stable::parallel_for(0, blocks * pieces.count, 1, [&](int64_t task, int64_t last) {
    for (; task < last; task++) {
      const int64_t piece = task / blocks, first = task % blocks * block;
      kernel.nearest(pairs, depth_weight, most, first, pieces.begin(piece), pieces.end(piece),
                     &lists[(piece * queries + first) * most], &counts[piece * queries + first]);
    }
  });
  int64_t* indices = static_cast<int64_t*>(out.mutable_data_ptr());
  torch::stable::parallel_for(0, queries, 1, [&](int64_t i, int64_t last) {
    std::vector<Candidate> merged;
    for (; i < last; i++) {
      merged.clear();
      for (int64_t piece = 0; piece < pieces.count; piece++) {
        const Candidate* list = &lists[(piece * queries + i) * most];
        merged.insert(merged.end(), list, list + counts[piece * queries + i]);
      }
      std::partial_sort(merged.begin(), merged.begin() + most, merged.end(), before);
      if (!pairs.wide) {
        kernel.rescore(pairs, depth_weight, i, merged.data(), most);
        std::sort(merged.begin(), merged.begin() + most, before);
      }
      for (int64_t j = 0; j < k; j++) indices[i * k + j] = merged[j].index;
    }
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hyperbolic, CPU, m) {
  if (!usable_kernels()) return;
  m.impl("lorentz_nearest", TORCH_BOX(&nearest<0>));
  m.impl("poincare_nearest", TORCH_BOX(&nearest<1>));
}

}  // namespace hyperbolic::cpu
