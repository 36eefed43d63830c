// Between the half formats and numbers with more digits, rounded once. V is double or a vector of doubles; uint16_t
// holds the bits of a half format.
#pragma once

#include "base.h"

namespace hyperbolic::HYPERBOLIC_ISA {

// As many numbers of 4 and 2 bytes as V has doubles.
template <class V, bool = (Word<V>::lanes > 1)>
struct Narrow {
  using Float = float;
  using Int = int32_t;
  using Short = uint16_t;
};
template <class V>
struct Narrow<V, true> {
  typedef float Float __attribute__((vector_size(sizeof(V) / 2)));
  typedef int32_t Int __attribute__((vector_size(sizeof(V) / 2)));
  typedef uint16_t Short __attribute__((vector_size(sizeof(V) / 4)));
};

template <class To, class From>
HYPERBOLIC_INLINE To converted(From a) {
  if constexpr (std::is_arithmetic_v<From>) {
    return To(a);
  } else {
    return __builtin_convertvector(a, To);
  }
}

// The bits of v as a float, with the last one set if anything was lost: rounding that once more, to fewer digits, is
// rounding once (Boldo and Melquiond, 2008).
template <class V>
HYPERBOLIC_INLINE typename Narrow<V>::Int round_to_odd(V v) {
  using I = typename Narrow<V>::Int;
  auto f = converted<typename Narrow<V>::Float>(v);
  V lost = v - converted<V>(f);
  I b;
  std::memcpy(&b, &f, sizeof b);
  I inexact = converted<I>(lost != 0), above = converted<I>(lost > 0);
  I even = (b & 1) == 0, finite = (b & 0x7f800000) != 0x7f800000, positive = b >= 0;
  return inexact & even & finite ? (above == positive ? b + 1 : b - 1) : b;
}

template <class V>
HYPERBOLIC_INLINE typename Narrow<V>::Short to_bfloat16(V v) {
  using I = typename Narrow<V>::Int;
  I b = round_to_odd(v);
  I rounded = (b >> 16) + (((b & 0xffff) + 0x7fff + ((b >> 16) & 1)) >> 16);
  return converted<typename Narrow<V>::Short>(I((b & 0x7fffffff) > 0x7f800000 ? b - b + 0x7fc0 : rounded));
}

template <class V>
HYPERBOLIC_INLINE typename Narrow<V>::Short to_half(V v) {
  using I = typename Narrow<V>::Int;
  I b = round_to_odd(v), a = b & 0x7fffffff, zero = b - b;
  I regular = (a - 0x38000000 + 0xfff + ((a >> 13) & 1)) >> 13;
  // a subnormal: a sum whose last bit is the last one of the result
  typename Narrow<V>::Float shifted;
  std::memcpy(&shifted, &a, sizeof a);
  shifted = shifted + 0.5f;
  I small;
  std::memcpy(&small, &shifted, sizeof small);
  I r = a < 0x38800000 ? small - 0x3f000000 : regular;
  r = a >= 0x477ff000 ? zero + 0x7c00 : r;  // from 65520 on
  r = a > 0x7f800000 ? zero + 0x7e00 : r;
  return converted<typename Narrow<V>::Short>(I(r | ((b >> 16) & 0x8000)));
}

// One step of the last bit brings back a point that rounding has moved out of the ball; the others are for the error of
// the formula itself.
inline constexpr int MOST_STEPS_INSIDE = 4;

inline constexpr double LARGEST_BFLOAT16 = 0x1.fep127, LARGEST_HALF = 65504;

HYPERBOLIC_INLINE float from_bfloat16(uint16_t a) { return from_bits<float>(int32_t(uint32_t(a) << 16)); }

HYPERBOLIC_INLINE float from_half(uint16_t a) {
  // Exponent and significand moved into place are the number but for 2^112, which also makes subnormals right.
  float size = from_bits<float>(int32_t(uint32_t(a & 0x7fff) << 13)) * from_bits<float>(0x77800000);
  int32_t special = (a & 0x7c00) == 0x7c00 ? 0x7f800000 : 0;
  return from_bits<float>(bits(size) | special | int32_t(uint32_t(a & 0x8000) << 16));
}

}  // namespace hyperbolic::HYPERBOLIC_ISA
