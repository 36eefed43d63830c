// The metric of an approximate index, one pair a call.
#pragma once

#include "../../math/metric.h"
#include "coordinates.h"

namespace hyperbolic::HYPERBOLIC_ISA {

inline float metric(const float* x, const float* y, size_t dim) {
  using V = Pack<float>;
  V xx{}, yy{}, dd{}, ds{};
  size_t k = 0;
  for (; k + lanes<float> <= dim; k += lanes<float>) {
    add_metric_terms(load<V>(x + k), load<V>(y + k), xx, yy, dd, ds);
  }
  if (k < dim) {
    float last_x[lanes<float>] = {}, last_y[lanes<float>] = {};
    std::memcpy(last_x, x + k, (dim - k) * sizeof(float));
    std::memcpy(last_y, y + k, (dim - k) * sizeof(float));
    add_metric_terms(load<V>(last_x), load<V>(last_y), xx, yy, dd, ds);
  }
  return coshd_minus_1(horizontal_sum(xx), horizontal_sum(yy), horizontal_sum(dd), horizontal_sum(ds));
}

}  // namespace hyperbolic::HYPERBOLIC_ISA
