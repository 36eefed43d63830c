// Runs of numbers from double to the formats of tensors, rounded once.
#pragma once

#include "../../math/rounding.h"
#include "coordinates.h"
#include "table.h"

namespace hyperbolic::HYPERBOLIC_ISA {

inline void round_values(const double* values, int64_t count, Dtype dtype, void* out) {
  auto all = [&](auto* to, auto round) {
    constexpr int step = lanes<double>;
    int64_t i = 0;
    for (; i + step <= count; i += step) store(to + i, round(load<Pack<double>>(values + i)));
    for (; i < count; i++) to[i] = round(values[i]);
  };
  switch (dtype) {
    case Dtype::float32:
      return all(static_cast<float*>(out), [](auto v) { return converted<typename Narrow<decltype(v)>::Float>(v); });
    case Dtype::float64:
      return all(static_cast<double*>(out), [](auto v) { return v; });
    case Dtype::bfloat16:
      return all(static_cast<uint16_t*>(out), [](auto v) { return to_bfloat16(v); });
    case Dtype::float16:
      return all(static_cast<uint16_t*>(out), [](auto v) { return to_half(v); });
  }
}

}  // namespace hyperbolic::HYPERBOLIC_ISA
