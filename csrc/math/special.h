// Functions that hyperbolic formulas are smooth in: of squares, so that there is no singularity at the origin.
//
// Each comes with its slope. The slopes cancel for small arguments and are series there; for Wide the closed form takes
// over sooner, because a derivative needs the digits of double and some to spare, not all of Wide's.
#pragma once

#include "elementary.h"

namespace hyperbolic::HYPERBOLIC_ISA {

template <class W, int N>
HYPERBOLIC_INLINE W series(const double (&coefficients)[N][2], W q) {
  W s = constant<W>(coefficients[N - 1][0], coefficients[N - 1][1]);
  for (int n = N - 2; n >= 0; n--) s = s * q + constant<W>(coefficients[n][0], coefficients[n][1]);
  return s;
}

template <class W>
HYPERBOLIC_INLINE double series_switch(double for_double, double for_wide) {
  return std::is_same_v<W, double> ? for_double : for_wide;
}

// cosh(sqrt q), whose slope is half of the next.
template <class W>
HYPERBOLIC_INLINE W cosh_root(W q) {
  return cosh(sqrt(q));
}

// sinh(sqrt q)/sqrt q
template <class W>
HYPERBOLIC_INLINE W sinhc_root(W q) {
  W s = sqrt(q);
  return head(s) == 0 ? W(1.0) : sinh(s) / s;
}

template <class W>
HYPERBOLIC_CALL W sinhc_root_slope(W q) {
  if (head(q) < series_switch<W>(1.0, 0.03125)) {
    const double coefficients[10][2] = {  // n/(2n+1)!
        {0.16666666666666666, 9.25185853854297e-18},     {0.016666666666666666, 2.312964634635743e-19},
        {0.0005952380952380953, -5.36938218754726e-20},  {1.1022927689594357e-05, -7.433573096185888e-22},
        {1.252605419272086e-07, 5.990819446168883e-24},  {9.635426302092969e-10, 2.3812979247948356e-26},
        {5.353014612273871e-12, 1.5024529730963123e-28}, {2.2491658034764165e-14, 1.3207074184689146e-30},
        {7.398571721961897e-17, 4.52026515254595e-34},   {1.9572941063391261e-19, -1.6064416776676844e-36},
    };
    return series<W>(coefficients, q);
  }
  W s = sqrt(q);
  return scale(cosh(s) - sinh(s) / s, 0.5) / q;
}

// asinh(sqrt q)/sqrt q
template <class W>
HYPERBOLIC_INLINE W asinhc_root(W q) {
  W s = sqrt(q);
  return head(s) == 0 ? W(1.0) : asinh(s) / s;
}

// Given the value at q.
template <class W>
HYPERBOLIC_CALL W asinhc_root_slope(W q, W value) {
  if (head(q) < series_switch<W>(0.015625, 0.000244140625)) {
    const double coefficients[9][2] = {  // (-1)^n binomial(2n, n) n/(4^n (2n+1))
        {-0.16666666666666666, -9.25185853854297e-18}, {0.15, 5.551115123125783e-18},
        {-0.13392857142857142, -3.96508223080413e-18}, {0.12152777777777778, 1.5419764230904951e-18},
        {-0.11186079545454546, 1.261617073437678e-18}, {0.10411658653846154, 2.135044278125301e-18},
        {-0.09775390625, -5.551115123125783e-18},      {0.09241440716911764, 6.530723674265627e-18},
        {-0.08785448576274671, -1.460819769243627e-18},
    };
    return series<W>(coefficients, q);
  }
  return scale(1.0 / sqrt(q + 1.0) - value, 0.5) / q;
}

// asinh(exp(level) k) for k > 0, also where the exponential overflows.
template <class W>
HYPERBOLIC_CALL W asinh_exp(W level, W k) {
  W exponent = level + log(k);
  // There asinh(t) = log(2 t) to more digits than Wide has.
  return head(exponent) > 300.0 ? exponent + ln2<W>() : asinh(exp(exponent));
}

template <class W>
HYPERBOLIC_CALL W asinh_exp_slope(W level, W k) {
  return 1.0 / sqrt(exp(scale(level, -2.0)) + k * k);
}

}  // namespace hyperbolic::HYPERBOLIC_ISA
