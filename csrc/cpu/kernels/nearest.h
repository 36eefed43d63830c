// The k best rows of a bank for each of a block of queries, exactly, as the bank passes by.
//
// The product says for every pair how near it can be at best, given its rounding error. Only pairs that could enter a
// query's list are measured by the formula for two points, and their scores alone decide.
#pragma once

#include <vector>

#include "pairwise.h"

namespace hyperbolic::HYPERBOLIC_ISA {

using cpu::Candidate;

// The best `most` candidates so far of one query, the worst of them first.
class Best {
 public:
  Best(Candidate* memory, int64_t most) : heap_(memory), most_(most) {}

  void offer(Candidate a) {
    if (count_ < most_) {
      heap_[count_++] = a;
      std::push_heap(heap_, heap_ + count_, Before{});
    } else if (Before{}(a, heap_[0])) {
      std::pop_heap(heap_, heap_ + count_, Before{});
      heap_[count_ - 1] = a;
      std::push_heap(heap_, heap_ + count_, Before{});
    }
  }

  // What a candidate must score to have a chance.
  double least() const { return count_ < most_ ? -std::numeric_limits<double>::infinity() : heap_[0].score; }
  int64_t count() const { return count_; }

 private:
  struct Before {
    bool operator()(const Candidate& a, const Candidate& b) const {
      return a.score > b.score || (a.score == b.score && a.index < b.index);
    }
  };

  Candidate* heap_;
  int64_t most_, count_ = 0;
};

// The highest score that each pair may have, in place of its product.
template <class P>
__attribute__((noinline))  // GCC 12 crashes on it inlined
void highest_scores(const Side<P>& passing, const Side<P>& fixed, P* tile, int64_t ld,
                           const double* bonus, double unit, P slack) {
  using V = Pack<P>;
  // Rounding in the sums and the logarithm below, and of the bonus.
  constexpr P loose = 8 * std::numeric_limits<P>::epsilon();
  entries(passing, fixed, tile, ld, slack, [&](int64_t i, int64_t j, auto e, auto, auto, auto, auto) {
    V t = e.t - e.bound;
    t = t > 0 ? t : V{};
    V d = log1p_positive(t + sqrt(t * (t + P(2)))) * P(unit), b = broadcast<V>(P(bonus[i]));
    V score = (b - d) + (abs(b) + d) * loose;
    // what under- or overflowed may be anything, and so may a bonus that is infinite
    auto known = (e.t < largest_t<P>) & (e.t > smallest_t<P>) & (score == score);
    store(tile + i * ld + j, known ? score : broadcast<V>(std::numeric_limits<P>::infinity()));
  });
}

// Calls f(i, j) for the entries that reach least[j].
template <class P, class F>
inline void candidates(const Side<P>& passing, int64_t columns, const P* tile, int64_t ld, const double* least, F f) {
  using V = Pack<P>;
  Buffer<P> floor(ld);
  for (int64_t j = 0; j < ld; j++) {
    P rounded = j < columns ? P(least[j]) : std::numeric_limits<P>::infinity();
    floor.get()[j] = j < columns && double(rounded) > least[j]
                         ? std::nextafter(rounded, -std::numeric_limits<P>::infinity())
                         : rounded;
  }
  for (int64_t i = 0; i < passing.count; i++) {
    typename Word<V>::Int any{};
    for (int64_t j = 0; j < columns; j += lanes<P>) {
      any |= load<V>(tile + i * ld + j) >= load<V>(floor.get() + j);
    }
    if (!any_of(any)) continue;
    for (int64_t j = 0; j < columns; j++) {
      if (tile[i * ld + j] >= floor.get()[j]) f(i, j);
    }
  }
}

template <class T>
inline void nearest(const Pairs& p, double depth_weight, int64_t k, int64_t first, int64_t begin, int64_t end,
                    Candidate* out, int64_t* counts) {
  Distances<T> tiles(p, first);
  const int64_t dim = p.x.cols, ld = tiles.ld();
  const double unit = 1 / std::sqrt(p.c), nothing = -std::numeric_limits<double>::infinity();
  const Side<T>&fixed = tiles.fixed, &passing = tiles.passing;
  Buffer<T> tile(passing.capacity * ld), origin(fixed.stride);
  Buffer<double> bonus(passing.capacity), least(ld);
  std::memset(origin.get(), 0, sizeof(T) * size_t(fixed.stride));
  std::unique_ptr<Buffer<double>> wide_tile;
  std::vector<Best> best;
  for (int64_t j = 0; j < fixed.count; j++) best.emplace_back(out + j * k, k);
  std::fill_n(least.get(), ld, nothing);
  for (; begin < end; begin += tiles.step()) {
    tiles.load(begin, end);
    for (int64_t i = 0; i < passing.count; i++) {
      bonus.get()[i] = depth_weight == 0 ? 0 : depth_weight * pair_dist(p, origin.get(), passing.row(i));
    }
    products(passing, fixed, tile.get(), ld);
    highest_scores(passing, fixed, tile.get(), ld, bonus.get(), unit, Tolerance<T>::own(dim).slack);
    auto measure = [&](int64_t i, int64_t j) {
      double score = bonus.get()[i] - pair_dist(p, fixed.row(j), passing.row(i));
      best[j].offer({score == score ? score : nothing, begin + i});
      least.get()[j] = best[j].least();
    };
    if constexpr (std::is_same_v<T, float>) {
      // Far out, a product of floats says little.
      int64_t many = 0;
      candidates(passing, fixed.count, tile.get(), ld, least.get(), [&](int64_t, int64_t) { many++; });
      if (many * rare > passing.count * fixed.count) {
        if (!wide_tile) wide_tile = std::make_unique<Buffer<double>>(passing.capacity * ld);
        products(tiles.wide_passing(), tiles.wide_fixed(), wide_tile->get(), ld);
        highest_scores(tiles.wide_passing(), tiles.wide_fixed(), wide_tile->get(), ld, bonus.get(), unit,
                       Tolerance<double>::for_float(dim).slack);
        candidates(tiles.wide_passing(), fixed.count, wide_tile->get(), ld, least.get(), measure);
        continue;
      }
    }
    candidates(passing, fixed.count, tile.get(), ld, least.get(), measure);
  }
  for (int64_t j = 0; j < fixed.count; j++) counts[j] = best[j].count();
}

inline void rescore(const Pairs& p, double depth_weight, int64_t query, Candidate* list, int64_t count) {
  const int64_t dim = p.x.cols;
  Buffer<double> from(dim), to(dim), origin(dim);
  std::fill_n(origin.get(), dim, 0.0);
  copy_row(p.y, query, 0, dim, from.get());
  for (int64_t i = 0; i < count; i++) {
    copy_row(p.x, list[i].index, 0, dim, to.get());
    double bonus = depth_weight == 0 ? 0 : depth_weight * pair_dist(p, origin.get(), to.get());
    double score = bonus - pair_dist(p, from.get(), to.get());
    if (score == score) list[i].score = score;
  }
}

}  // namespace hyperbolic::HYPERBOLIC_ISA
