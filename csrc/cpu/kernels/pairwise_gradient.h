// The gradient of a weighted sum of all distances at one side's points, a tile at a time.
//
// At y_j it is sum_i w_ij (a_j h_i y_j - k_i k_j x_i)/sqrt(c) with w = g/sinh D, h = cosh r_i (plus cosh D in the
// ball): one more matrix product, of the tile with the passing rows. Its terms cancel by sinh(r_i + r_j)/sinh D, so
// entries for which that is too much, or sinh D not known well enough, are left to a product in double or to the
// formulas for two points.
#pragma once

#include "pairwise.h"
#include "wide_sum.h"

namespace hyperbolic::HYPERBOLIC_ISA {

template <class T>
__attribute__((noinline)) void pair_gradient(const Pairs& p, const T* x, const T* y, double g, WideSum gy, double* gc) {
  WideFor<T> c = p.c, slope = 0.0;
  if (Model(p.model) == Model::lorentz) {
    lorentz::dist_pull(x, y, p.x.cols, c, WideFor<T>(g), WideSum{}, gy, slope);
  } else {
    poincare::dist_pull(x, y, p.x.cols, c, WideFor<T>(g), WideSum{}, gy, slope);
  }
  if (gc) *gc += head(slope);
}

// The sums over passing rows for a block of fixed ones, in precision P.
template <class P>
class Weighted {
 public:
  Weighted(int64_t fixed_capacity, int64_t passing_capacity, int64_t stride)
      : ld_(fixed_capacity),
        stride_(stride),
        tile_(passing_capacity * ld_),
        partial_(ld_ * stride),
        own_(ld_),
        sum_(ld_ * stride),
        own_sum_(ld_) {
    std::memset(sum_.get(), 0, sizeof(double) * size_t(ld_ * stride));
    std::memset(own_sum_.get(), 0, sizeof(double) * size_t(ld_));
  }

  P* tile() const { return tile_.get(); }
  int64_t ld() const { return ld_; }

  // Products in the tile become weights k_i g/sinh D, NaN where that must not come from here; g is passing.count rows
  // of ld() columns. Returns how many. The rest of the gradient goes to `own` and, in units of 2 c sqrt(c), to gc.
  int64_t weigh(const Side<P>& passing, const Side<P>& fixed, const P* g, Model model, Tolerance<P> tolerance,
                double* gc) {
    using V = Pack<P>;
    typename Word<V>::Int nan{};
    std::memset(own_.get(), 0, sizeof(P) * size_t(ld_));
    V by_c{};
    auto each_entry = [&](auto is_ball, auto with_c) {
      entries(passing, fixed, tile(), ld_, tolerance.slack, [&](int64_t i, int64_t j, auto e, V ux, V uy, V nx, V ny) {
        V gij = load<V>(g + i * ld_ + j);
        V slope = tested_slope(e, ux, uy, nx, ny, tolerance);
        auto known = slope == slope;
        V w = gij * slope;
        auto failed = (known | (gij == 0)) == 0;
        nan += failed;
        V used = known ? w : V{};
        V h = ux + P(1);
        if constexpr (is_ball) h += known ? e.t + P(1) : V{};
        store(own_.get() + j, load<V>(own_.get() + j) + used * h);
        if constexpr (with_c) {
          V by = curvature_slope(is_ball ? Model::poincare : Model::lorentz, e, slope, ux, uy);
          by_c += known ? gij * by : V{};
        }
        store(tile() + i * ld_ + j, failed ? w : used * broadcast<V>(passing.k.get()[i]));
      });
    };
    if (model == Model::poincare) {
      gc ? each_entry(std::true_type{}, std::true_type{}) : each_entry(std::true_type{}, std::false_type{});
    } else {
      gc ? each_entry(std::false_type{}, std::true_type{}) : each_entry(std::false_type{}, std::false_type{});
    }
    if (gc) *gc += double(horizontal_sum(by_c));
    return count_nan<V>(nan);
  }

  // Adds what the tile, now free of NaN, and `weigh` have found.
  void add(const Side<P>& passing, int64_t fixed_count) {
    for (int64_t j = 0; j < fixed_count; j++) own_sum_.get()[j] += double(own_.get()[j]);
    multiply(round_up(fixed_count, block_rows), passing.width, passing.count, tile(), int64_t(1), ld_,
             passing.rows.get(), stride_, int64_t(block_columns<P>), partial_.get(), stride_, pending_ > 0, long_chunk);
    if (++pending_ == most_pending) flush(fixed_count);
  }

  // The gradient, in units that `combine` knows, added to total.
  void finish(const Side<P>& fixed, double unit, WideSum total) {
    if (pending_) flush(fixed.count);
    for (int64_t j = 0; j < fixed.count; j++) {
      const double along = unit * fixed.radial.get()[j] * own_sum_.get()[j], across = unit * double(fixed.k.get()[j]);
      const double* sum = sum_.get() + j * stride_;
      each(fixed.dim, [&](auto at) {
        auto v = along * high(at(fixed.row(j))) - across * high(at(sum));
        emit(at, WideSum{total.hi + j * fixed.dim, total.lo + j * fixed.dim}, v);
      });
    }
  }

 private:
  // Gradients may round a little more than distances.
  static constexpr int64_t long_chunk = 192;
  // Tiles whose sums are added in P before they go to double.
  static constexpr int most_pending = 16;

  void flush(int64_t fixed_count) {
    for (int64_t i = 0; i < fixed_count * stride_; i++) sum_.get()[i] += double(partial_.get()[i]);
    pending_ = 0;
  }

  int64_t ld_, stride_;
  Buffer<P> tile_, partial_, own_;
  Buffer<double> sum_, own_sum_;
  int pending_ = 0;
};

// g of the tile's entries: rows are passing points, columns fixed ones.
template <class P>
inline void load_weights(const Matrix& g, int64_t begin, int64_t count, int64_t first, int64_t columns, P* out,
                         int64_t ld) {
  if (g.col_stride == 1 || g.row_stride != 1) {
    for (int64_t i = 0; i < count; i++) {
      copy_row(g, begin + i, first, columns, out + i * ld);
      for (int64_t j = columns; j < ld; j++) out[i * ld + j] = 0;
    }
    return;
  }
  // Read along memory and turned here.
  Matrix turned = {g.data, g.dtype, g.cols, g.rows, g.col_stride, g.row_stride};
  const int64_t width = round_up(count, lanes<P>);
  Buffer<P> rows(ld * width);
  std::memset(rows.get(), 0, sizeof(P) * size_t(ld * width));
  for (int64_t j = 0; j < columns; j++) copy_row(turned, first + j, begin, count, rows.get() + j * width);
  transpose(ld, width, rows.get(), width, out, ld);
}

// What failed in the tile, from the formulas for two points; 0 takes its place.
template <class T, class P>
inline void exact_gradients(const Pairs& p, const Side<T>& passing, const Side<T>& fixed, P* tile, int64_t ld,
                            const T* g, int64_t failed, WideSum total, double* gc) {
  for (int64_t i = 0; failed > 0 && i < passing.count; i++) {
    for (int64_t j = 0; j < fixed.count; j++) {
      P& w = tile[i * ld + j];
      if (w == w) continue;
      w = 0;
      pair_gradient(p, passing.row(i), fixed.row(j), double(g[i * ld + j]),
                    WideSum{total.hi + j * p.x.cols, total.lo + j * p.x.cols}, gc);
      failed--;
    }
  }
}

// The gradient of sum g d, where weights(tiles, begin, products, out) writes the tile of g that begins at row `begin`.
template <class T, class Weights>
inline void weighted_gradient(const Pairs& p, int64_t first, int64_t begin, int64_t end, Weights weights, double* words,
                              double* gc) {
  Distances<T> tiles(p, first);
  const int64_t dim = p.x.cols, ld = tiles.ld();
  const WideSum total = {words, words + fixed_rows(dim) * dim};
  const Model model = tiles.model();
  const double unit = 1 / std::sqrt(p.c);
  const Side<T>&fixed = tiles.fixed, &passing = tiles.passing;
  Weighted<T> sums(ld, passing.capacity, fixed.stride);
  Buffer<T> g(round_up(tiles.step(), lanes<T>) * ld);
  std::unique_ptr<Weighted<double>> wide_sums;
  std::unique_ptr<Buffer<double>> wide_g;
  double by_c = 0;  // of the tiles, in units of 2 c sqrt(c)
  for (; begin < end; begin += tiles.step()) {
    tiles.load(begin, end);
    products(passing, fixed, sums.tile(), ld);
    weights(tiles, begin, sums.tile(), g.get());
    double tile_by_c = 0;
    double* by = gc ? &tile_by_c : nullptr;
    int64_t failed = sums.weigh(passing, fixed, g.get(), model, Tolerance<T>::own(dim), by);
    bool widen = std::is_same_v<T, float> && failed * rare > passing.count * fixed.count;
    if (!widen) {
      exact_gradients(p, passing, fixed, sums.tile(), ld, g.get(), failed, total, gc);
      sums.add(passing, fixed.count);
    }
    if constexpr (std::is_same_v<T, float>) {
      if (widen) {
        const Side<double>&wide_fixed = tiles.wide_fixed(), &wide_passing = tiles.wide_passing();
        if (!wide_sums) {
          wide_sums = std::make_unique<Weighted<double>>(ld, wide_passing.capacity, wide_fixed.stride);
          wide_g = std::make_unique<Buffer<double>>(tiles.step() * ld);
        }
        for (int64_t i = 0; i < passing.count * ld; i++) wide_g->get()[i] = g.get()[i];
        products(wide_passing, wide_fixed, wide_sums->tile(), ld);
        tile_by_c = 0;
        const auto tolerance = Tolerance<double>::for_float(dim);
        failed = wide_sums->weigh(wide_passing, wide_fixed, wide_g->get(), model, tolerance, by);
        exact_gradients(p, passing, fixed, wide_sums->tile(), ld, g.get(), failed, total, gc);
        wide_sums->add(wide_passing, fixed.count);
      }
    }
    by_c += tile_by_c;
  }
  sums.finish(fixed, unit, total);
  if (wide_sums) wide_sums->finish(tiles.wide_fixed(), unit, total);
  if (gc) *gc += by_c * unit / (2 * p.c);
}

template <class T>
inline void pairwise_gradient(const Pairs& p, int64_t first, int64_t begin, int64_t end, const Matrix& g,
                              double* total, double* gc) {
  auto weights = [&](const Distances<T>& tiles, int64_t row, const T*, T* out) {
    load_weights(g, row, tiles.passing.count, first, tiles.fixed.count, out, tiles.ld());
  };
  weighted_gradient<T>(p, first, begin, end, weights, total, gc);
}

}  // namespace hyperbolic::HYPERBOLIC_ISA
