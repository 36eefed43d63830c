// log sum_j exp(-d(x_i, y_j)/temperature) for every i, the distance to i's positive, and their gradients, without the
// matrix of distances: the tiles are reduced as they are made, and made again in the backward.
#pragma once

#include "pairwise_gradient.h"

namespace hyperbolic::HYPERBOLIC_ISA {

using cpu::Softmax;

// exp(a) for a <= 0, good to 2 ULP; 0 below the normal numbers.
template <class V>
HYPERBOLIC_INLINE V exp_negative(V a) {
  using S = typename Word<V>::Scalar;
  constexpr bool wide = sizeof(S) == 8;
  constexpr int digits = std::numeric_limits<S>::digits - 1, bias = std::numeric_limits<S>::max_exponent - 1;
  // ln 2 in two parts, the first of so few digits that its multiples are exact
  constexpr S ln2_high = wide ? S(0x1.62e42feep-1) : S(0x1.62ep-1);
  constexpr S ln2_low = wide ? S(0x1.a39ef35793c76p-33) : S(0x1.0bfbe8p-15);
  constexpr S lowest = wide ? S(-708) : S(-87);
  // adding 1.5 2^digits rounds to an integer and leaves it in the low bits
  constexpr S rounder = wide ? S(0x1.8p52) : S(0x1.8p23f);
  V safe = a > lowest ? a : broadcast<V>(lowest);
  V shifted = safe * S(1.44269504088896340736) + rounder;
  V n = shifted - rounder;
  V r = fma(n, broadcast<V>(-ln2_low), fma(n, broadcast<V>(-ln2_high), safe));
  constexpr int last = wide ? 13 : 7;
  V p = broadcast<V>(S(1) / last);
  for (int i = last - 1; i >= 1; i--) p = (p * r + S(1)) * (S(1) / i);
  p = p * r + S(1);
  typename Word<V>::Int e = bits<V>(shifted) - bits<S>(rounder);
  V scale = from_bits<V>((e + bias) << digits);
  return a > lowest ? p * scale : (a == a ? V{} : a);
}

// For each of the block of y the logarithm of the sum over the rows [begin, end) of x that pass by, as the largest
// exponent and the sum relative to it, and the distance to that row which is its positive, if it passes.
template <class T>
inline void contrast(const Pairs& p, double temperature, const int64_t* labels, int64_t first, int64_t begin,
                     int64_t end, double* peak, double* sum, double* positive) {
  using V = Pack<T>;
  Distances<T> tiles(p, first);
  const int64_t ld = tiles.ld(), columns = tiles.fixed.count;
  const T factor = T(1 / (std::sqrt(p.c) * temperature));
  Buffer<T> nearest(ld), part(ld);
  for (int64_t j = 0; j < columns; j++) {
    peak[j] = -std::numeric_limits<double>::infinity();
    sum[j] = 0;
  }
  for (; begin < end; begin += tiles.step()) {
    tiles.load(begin, end);
    const T* d = tiles.compute();
    const int64_t rows = tiles.passing.count;
    for (int64_t j = 0; j < columns; j += lanes<T>) {
      V least = load<V>(d + j);
      for (int64_t i = 1; i < rows; i++) {
        V other = load<V>(d + i * ld + j);
        least = other < least ? other : least;
      }
      V total{};
      for (int64_t i = 0; i < rows; i++) total += exp_negative((least - load<V>(d + i * ld + j)) * factor);
      store(nearest.get() + j, least);
      store(part.get() + j, total);
    }
    for (int64_t j = 0; j < columns; j++) {
      double top = -double(nearest.get()[j]) * double(factor), s = double(part.get()[j]);
      if (top > peak[j]) {
        sum[j] = sum[j] * std::exp(peak[j] - top) + s;
        peak[j] = top;
      } else {
        sum[j] += s * std::exp(top - peak[j]);
      }
      const int64_t i = labels[first + j] - begin;
      if (i >= 0 && i < rows) positive[j] = double(d[i * ld + j]) / std::sqrt(p.c);
    }
  }
}

// The gradient of sum_i g_i partition_i + h_i positive_i at a block of one side, fixed here as `y`. by_temperature may
// be null.
template <class T>
inline void contrast_gradient(const Pairs& p, const Softmax& s, int64_t first, int64_t begin, int64_t end,
                              double* total, double* gc, double* by_temperature) {
  using V = Pack<T>;
  const T factor = T(1 / (std::sqrt(p.c) * s.temperature));
  Buffer<T> columns_partition(s.fixed ? fixed_rows(p.x.cols) : 0), columns_g(s.fixed ? fixed_rows(p.x.cols) : 0);
  auto weights = [&](Distances<T>& tiles, int64_t row, const T* products, T* g) {
    const int64_t ld = tiles.ld(), count = tiles.fixed.count;
    const T* d = tiles.of(products);
    double moved = 0;
    for (int64_t i = 0; i < tiles.passing.count; i++) {
      V along{};
      for (int64_t j = 0; j < ld; j += lanes<T>) {
        V partition, outer;
        if (s.fixed) {
          partition = load<V>(columns_partition.get() + j);
          outer = load<V>(columns_g.get() + j);
        } else {
          partition = broadcast<V>(T(s.partition[row + i]));
          outer = broadcast<V>(T(-s.g[row + i] / s.temperature));
        }
        V distance = load<V>(d + i * ld + j);
        V exponent = -distance * factor - partition;
        // at most 0 but for rounding
        V w = outer * exp_negative(exponent > 0 ? V{} : exponent);
        store(g + i * ld + j, w);
        if (j + lanes<T> <= count) {
          along += w * distance;
        } else {
          for (int64_t k = j; k < count; k++) moved += double(w[k - j]) * double(distance[k - j]);
        }
      }
      moved += double(horizontal_sum(along));
      for (int64_t j = count; j < ld; j++) g[i * ld + j] = 0;
    }
    const int64_t rows = tiles.passing.count;
    for (int64_t own = 0; own < (s.fixed ? count : rows); own++) {
      const int64_t at = s.labels[own + (s.fixed ? first : row)] - (s.fixed ? row : first);
      if (at < 0 || at >= (s.fixed ? rows : count)) continue;
      g[s.fixed ? at * ld + own : own * ld + at] += T(s.positive_g[own + (s.fixed ? first : row)]);
    }
    if (by_temperature) *by_temperature -= moved / (std::sqrt(p.c) * s.temperature);
  };
  if (s.fixed) {
    const int64_t count = std::min(fixed_rows(p.x.cols), p.y.rows - first);
    for (int64_t j = 0; j < fixed_rows(p.x.cols); j++) {
      columns_partition.get()[j] = j < count ? T(s.partition[first + j]) : T(0);
      columns_g.get()[j] = j < count ? T(-s.g[first + j] / s.temperature) : T(0);
    }
  }
  weighted_gradient<T>(p, first, begin, end, weights, total, gc);
}

}  // namespace hyperbolic::HYPERBOLIC_ISA
