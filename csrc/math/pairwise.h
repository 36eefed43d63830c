// One entry of the distance matrix, and of its backward, from an inner product that a matrix product delivers.
//
// With u = cosh r - 1 of each point, t = cosh D - 1 = u_x u_y + u_x + u_y - k_x k_y x.y, where k = sqrt(c) on the
// hyperboloid and 2 sqrt(c)/(1 - c|x|^2) in the ball: the ball's points are those of the hyperboloid, scaled. The
// product's rounding error reaches t undiminished while t may be small, so each entry is tested, and what fails is
// left to a formula that sees both rows. docs/numerics.md derives tests and bounds.
#pragma once

#include "wide.h"

namespace hyperbolic::HYPERBOLIC_ISA {

enum class Model { lorentz, poincare };

// What an entry needs to know of a row.
struct RowInvariants {
  double u;       // cosh r - 1
  double k;       // factor of the coordinates
  double n;       // sinh r = k |x|
  double radial;  // of the row itself in the gradient of t
};

// From |x|^2 and, in the ball, alpha = 1 - c|x|^2: if that is NaN, every entry fails its test.
template <class W>
HYPERBOLIC_INLINE RowInvariants row_invariants(Model model, W square, W alpha, W c) {
  W q = c * square;
  if (model == Model::lorentz) {
    W e = sqrt(q + 1.0);
    return {head(q / (e + 1.0)), std::sqrt(head(c)), std::sqrt(head(q)), head(c / e)};
  }
  double a = head(alpha), root = std::sqrt(head(c));
  return {2 * head(q) / a, 2 * root / a, 2 * std::sqrt(head(q)) / a, 2 * head(c) / a};
}

// log(1 + w) for w >= 0 up to the square root of the largest number, good to 2 ULP, NaN for NaN.
template <class V>
HYPERBOLIC_INLINE V log1p_positive(V w) {
  using S = typename Word<V>::Scalar;
  using I = typename Word<V>::Int;
  constexpr int digits = std::numeric_limits<S>::digits - 1;
  constexpr bool wide = sizeof(S) == 8;
  using B = std::conditional_t<wide, int64_t, int32_t>;
  constexpr B half_root = wide ? B(0x3fe6a09e667f3bcdLL) : B(0x3f3504f3);  // sqrt(1/2)
  constexpr B one = wide ? B(0x3ff0000000000000LL) : B(0x3f800000);
  // 1 + w = 2^e (1 + r), where r is as exact as w: a power of two times w, and a sum that cancels benignly
  I e = (bits<V>(w + S(1)) - half_root) >> digits;
  V scale = from_bits<V>(one - (e << digits));
  V r = fma(w, scale, scale - S(1));
  // log(1 + r) = 2 artanh(r/(2 + r)), |r/(2 + r)| < .172
  V z = r / (r + S(2));
  V z2 = z * z;
  constexpr int last = wide ? 10 : 4;
  V p = broadcast<V>(S(1) / (2 * last + 1));
  for (int i = last - 1; i >= 0; i--) p = p * z2 + S(1) / (2 * i + 1);
  V ef;
  if constexpr (Word<V>::lanes == 1) {
    ef = V(e);
  } else {
    ef = __builtin_convertvector(e, V);
  }
  return ef * S(0.6931471805599453094) + (z + z) * p;
}

// The constants of the tests. A product's error is at most `slack` times the sum of absolute terms; measured.
template <class S>
struct Tolerance {
  static constexpr bool wide = sizeof(S) == 8;
  // Relative error of a distance, of sinh D in its gradient, and condition number up to which a gradient is summed
  // by a matrix product: its terms exceed the result by that factor.
  double dist, sinh, condition;
  S slack;

  // For results of type S itself, or in double for results in float.
  static HYPERBOLIC_INLINE Tolerance own(int64_t dim) {
    return wide ? Tolerance{1e-14, 2e-14, 16, slack_for(dim)} : Tolerance{1e-6, 2e-6, 8, slack_for(dim)};
  }
  static HYPERBOLIC_INLINE Tolerance for_float(int64_t dim) { return {1e-7, 1e-7, 1e8, slack_for(dim)}; }

 private:
  static HYPERBOLIC_INLINE S slack_for(int64_t dim) {
    return S((2 + std::sqrt(double(dim)) / 4) * std::numeric_limits<S>::epsilon() / 2);
  }
};

template <class V>
struct Entry {
  V t, s, bound;  // cosh D - 1, sinh D, and how far rounding may have moved t
};

// Of t: beyond these, something underflows or overflows on the way to the result.
template <class S>
inline constexpr S smallest_t = sizeof(S) == 8 ? S(1e-250) : S(1e-25);
template <class S>
inline constexpr S largest_t = sizeof(S) == 8 ? S(1e150) : S(1e18);

template <class V>
HYPERBOLIC_INLINE Entry<V> entry(V product, V kx, V ky, V ux, V uy, V nx, V ny, typename Word<V>::Scalar slack) {
  using S = typename Word<V>::Scalar;
  // where t + 1 is sinh D to the last digit, and t^2 might overflow
  constexpr S far = sizeof(S) == 8 ? S(1 << 28) : S(1 << 14);
  V positive = ux * uy + (ux + uy);
  V t = positive - (kx * ky) * product;
  V s = t > far ? t + S(1) : sqrt(t * (t + S(2)));
  return {t, s, (positive + nx * ny) * slack};
}

// D of an entry, NaN where its error may exceed the tolerance.
template <class V>
HYPERBOLIC_INLINE V tested_distance(Entry<V> e, typename Word<V>::Scalar tolerance) {
  using S = typename Word<V>::Scalar;
  V d = log1p_positive(e.t + e.s);
  auto keep = (e.bound <= e.s * d * tolerance) & (e.t > smallest_t<S>) & (e.t < largest_t<S> * largest_t<S>);
  return keep ? d : broadcast<V>(std::numeric_limits<S>::quiet_NaN());
}

// 1/sinh D of an entry, NaN where the gradient of the distance must not come from a matrix product.
template <class V>
HYPERBOLIC_INLINE V tested_slope(Entry<V> e, V ux, V uy, V nx, V ny, Tolerance<typename Word<V>::Scalar> tolerance) {
  using S = typename Word<V>::Scalar;
  V condition = nx * (uy + S(1)) + ny * (ux + S(1));  // sinh(r_x + r_y)
  auto keep = (e.bound * (e.t + S(1)) <= e.s * e.s * S(tolerance.sinh)) &
              (condition <= e.s * S(tolerance.condition)) & (e.t > smallest_t<S>) & (e.t < largest_t<S>);
  return keep ? S(1) / e.s : broadcast<V>(std::numeric_limits<S>::quiet_NaN());
}

// Coefficients of 2 tanh(D/2) - D = sqrt(q) (f_1 q + f_2 q^2 + ...), q = sinh^2(D/2).
struct FlatSeries {
  static constexpr int terms = 18;
  double f[terms + 1] = {};

  constexpr FlatSeries() {
    double a = 1;  // of q^m in 1/sqrt(1 + q)
    for (int m = 1; m <= terms; m++) {
      a *= -(2.0 * m - 1) / (2.0 * m);
      f[m] = a * 4 * m / (2 * m + 1);
    }
  }
};

// 2 c sqrt(c) times the derivative of the distance by c.
template <class V>
HYPERBOLIC_INLINE V curvature_slope(Model model, Entry<V> e, V slope, V ux, V uy) {
  using S = typename Word<V>::Scalar;
  constexpr FlatSeries series;
  V q = e.t * S(0.5);
  auto near = q < S(0.125);
  V small = near ? q : V{};
  V p{};
  for (int m = sizeof(S) == 8 ? FlatSeries::terms : 9; m >= 1; m--) p = (p + S(series.f[m])) * small;
  V tanh = e.t * slope;  // of D/2
  V flat = near ? sqrt(small) * p : (tanh + tanh) - log1p_positive(e.t + e.s);
  if (model == Model::poincare) return flat + tanh * (ux + uy);
  V difference = ux - uy;
  return flat - difference * difference * slope / ((ux + S(1)) * (uy + S(1)));
}

}  // namespace hyperbolic::HYPERBOLIC_ISA
