// What the formulas need from the language: one spelling for host, device, scalars and vectors.
//
// The headers of this folder hold every formula once. They are compiled for the CPU once per instruction set (see
// cpu/kernels), each time in a namespace of its own, and for the GPU by nvcc.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#ifdef __CUDACC__
#define HYPERBOLIC_INLINE __device__ __forceinline__
#else
// Forced, because a function that is not inlined loses the vector registers of its caller.
#define HYPERBOLIC_INLINE inline __attribute__((always_inline))
#endif

// A function too long to be inlined everywhere, and one that never is. nvcc left to choose inlines both, for minutes.
#ifdef __CUDACC__
#define HYPERBOLIC_CALL inline __device__ __noinline__
#define HYPERBOLIC_OUTLINE HYPERBOLIC_CALL
#else
#define HYPERBOLIC_CALL inline
#define HYPERBOLIC_OUTLINE inline __attribute__((noinline))
#endif

// A constant that is taken by reference, for which a GPU needs a copy of its own.
#ifdef __CUDACC__
#define HYPERBOLIC_CONSTANT static constexpr __device__
#else
#define HYPERBOLIC_CONSTANT inline constexpr
#endif

#ifndef HYPERBOLIC_ISA
#define HYPERBOLIC_ISA portable
#endif

namespace hyperbolic::HYPERBOLIC_ISA {

// A curvature or temperature for formulas: NaN, and so all that comes of it, unless it is positive and finite.
HYPERBOLIC_INLINE double positive_or_nan(double a) {
  return a > 0 && a <= std::numeric_limits<double>::max() ? a : std::numeric_limits<double>::quiet_NaN();
}

// --- words: scalars, or vectors of the compiler ------------------------------------------------------------------
// Arithmetic, comparison and `mask ? a : b` are spelled alike for both. The rest is here.

template <class V, class = void>
struct Word {  // a scalar
  using Scalar = V;
  using Int = std::conditional_t<sizeof(V) == 8, int64_t, int32_t>;
  static constexpr int lanes = 1;
};

template <class V>
struct Word<V, std::void_t<decltype(std::declval<V&>()[0])>> {  // a vector
  using Scalar = std::decay_t<decltype(std::declval<V&>()[0])>;
  using Int = decltype(std::declval<V>() < std::declval<V>());
  static constexpr int lanes = sizeof(V) / sizeof(Scalar);
};

template <class V>
HYPERBOLIC_INLINE V broadcast(typename Word<V>::Scalar a) {
  if constexpr (Word<V>::lanes == 1) {
    return a;
  } else {
    return V{} + a;
  }
}

template <class V>
HYPERBOLIC_INLINE typename Word<V>::Int bits(V a) {
  typename Word<V>::Int i;
  std::memcpy(&i, &a, sizeof a);
  return i;
}

template <class V>
HYPERBOLIC_INLINE V from_bits(typename Word<V>::Int i) {
  V a;
  std::memcpy(&a, &i, sizeof a);
  return a;
}

template <class V>
HYPERBOLIC_INLINE V sqrt(V a) {
  if constexpr (Word<V>::lanes == 1) {
    return std::sqrt(a);
  } else {
    V r;
    for (int i = 0; i < Word<V>::lanes; i++) r[i] = std::sqrt(a[i]);
    return r;
  }
}

// a b + c with one rounding.
template <class V>
HYPERBOLIC_INLINE V fma(V a, V b, V c) {
  if constexpr (Word<V>::lanes == 1) {
    return std::fma(a, b, c);
  } else {
    V r;
    for (int i = 0; i < Word<V>::lanes; i++) r[i] = std::fma(a[i], b[i], c[i]);
    return r;
  }
}

template <class V>
HYPERBOLIC_INLINE V abs(V a) {
  return a < 0 ? -a : a;
}

template <class V>
HYPERBOLIC_INLINE V max(V a, V b) {
  return a > b ? a : b;
}

}  // namespace hyperbolic::HYPERBOLIC_ISA
