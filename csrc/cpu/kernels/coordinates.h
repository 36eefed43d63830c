// Loops over the coordinates of a row, in vectors of the instruction set that is being compiled for.
//
// A formula says what happens to one coordinate and gets it as a double, a vector of doubles, or the DoubleDouble of
// either: `sums<2>(dim, [&](auto at, auto* t) { auto a = at(x), b = at(y); t[0] = a * b; t[1] = (a - b) * (a - b); })`.
// The GPU's coordinates.h hands the same lambdas to the threads of a warp.
#pragma once

#include <array>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include "../../common/coordinates.h"

#ifndef HYPERBOLIC_VECTOR_BYTES
#define HYPERBOLIC_VECTOR_BYTES 16
#endif

namespace hyperbolic::HYPERBOLIC_ISA {

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(HYPERBOLIC_VECTOR_BYTES)));
};
template <class T>
using Pack = typename VectorOf<T>::type;

template <class T>
inline constexpr int lanes = HYPERBOLIC_VECTOR_BYTES / sizeof(T);

// As many floats as V has doubles.
template <class V>
struct HalfOf {
  typedef float type __attribute__((vector_size(sizeof(V) / 2)));
};

template <class V>
HYPERBOLIC_INLINE V to_double(typename HalfOf<V>::type a) {
#ifdef __AVX512F__  // where GCC 12 would convert each half by itself; masked, for it warns about the plain ones
  if constexpr (sizeof(V) == 64) return V(_mm512_maskz_cvtps_pd(0xff, __m256(a)));
#endif
  return __builtin_convertvector(a, V);
}

template <class V>
HYPERBOLIC_INLINE typename HalfOf<V>::type to_float(V a) {
#ifdef __AVX512F__
  if constexpr (sizeof(V) == 64) return typename HalfOf<V>::type(_mm512_maskz_cvtpd_ps(0xff, __m512d(a)));
#endif
  return __builtin_convertvector(a, typename HalfOf<V>::type);
}

template <class V, class T>
HYPERBOLIC_INLINE V load(const T* p) {  // unaligned
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

template <class V, class T>
HYPERBOLIC_INLINE void store(T* p, V v) {
  std::memcpy(p, &v, sizeof v);
}

// Half of the lanes of V, more than two of them.
template <class V>
struct HalfVector {
  typedef typename Word<V>::Scalar type __attribute__((vector_size(sizeof(V) / 2)));
};

template <class V>
HYPERBOLIC_INLINE typename HalfVector<V>::type half(V v, int which) {
  // By elements: through its address, the vector would live in memory, and with it the accumulator that it was.
  typename HalfVector<V>::type h{};
  constexpr int n = Word<V>::lanes / 2;
  for (int i = 0; i < n; i++) h[i] = v[which * n + i];
  return h;
}

template <class V>
HYPERBOLIC_INLINE typename Word<V>::Scalar horizontal_sum(V v) {
  if constexpr (Word<V>::lanes == 2) {
    return v[0] + v[1];
  } else {
    return horizontal_sum(half(v, 0) + half(v, 1));
  }
}

HYPERBOLIC_INLINE double horizontal_sum(double a) { return a; }

template <class V>
HYPERBOLIC_INLINE Wide horizontal_sum(DoubleDouble<V> a) {
  if constexpr (Word<V>::lanes == 1) {
    return a;
  } else if constexpr (Word<V>::lanes == 2) {
    return Wide(a.hi[0], a.lo[0]) + Wide(a.hi[1], a.lo[1]);
  } else {
    using H = DoubleDouble<typename HalfVector<V>::type>;
    return horizontal_sum(H(half(a.hi, 0), half(a.lo, 0)) + H(half(a.hi, 1), half(a.lo, 1)));
  }
}

// Coordinate k and, for a vector V, those that follow it. Floats become doubles, doubles DoubleDoubles. A pointer
// to wide scratch memory (double for float data) reads as it is.
template <class V>
struct At {
  int64_t k;

  HYPERBOLIC_INLINE V operator()(const float* p) const {
    if constexpr (Word<V>::lanes == 1) {
      return p[k];
    } else {
      return to_double<V>(load<typename HalfOf<V>::type>(p + k));
    }
  }
  HYPERBOLIC_INLINE DoubleDouble<V> operator()(const double* p) const { return load<V>(p + k); }

  HYPERBOLIC_INLINE void put(float* p, V v) const {
    if constexpr (Word<V>::lanes == 1) {
      p[k] = float(v);
    } else {
      store(p + k, to_float(v));
    }
  }
  HYPERBOLIC_INLINE void put(double* p, DoubleDouble<V> v) const { store(p + k, v.hi); }
  HYPERBOLIC_INLINE void put(double* p, V v) const { store(p + k, v); }
};

template <class F>
HYPERBOLIC_INLINE void each(int64_t dim, F f) {
  constexpr int step = lanes<double>;
  int64_t k = 0;
  for (; k + step <= dim; k += step) f(At<Pack<double>>{k});
  for (; k < dim; k++) f(At<double>{k});
}

template <class W, class V>
using Lift = std::conditional_t<std::is_same_v<W, double>, V, DoubleDouble<V>>;

// The sums over all coordinates of the N terms that f writes. W is the wide type of the data.
template <int N, class W, class F>
HYPERBOLIC_INLINE std::array<W, N> sums(int64_t dim, F f) {
  constexpr int step = lanes<double>;
  std::array<W, N> total{};
  int64_t k = 0;
  if (dim >= step) {
    Lift<W, Pack<double>> acc[N] = {}, t[N];
    for (; k + step <= dim; k += step) {
      f(At<Pack<double>>{k}, t);
      for (int n = 0; n < N; n++) acc[n] = acc[n] + t[n];
    }
    for (int n = 0; n < N; n++) total[n] = horizontal_sum(acc[n]);
  }
  for (; k < dim; k++) {
    W t[N];
    f(At<double>{k}, t);
    for (int n = 0; n < N; n++) total[n] = total[n] + t[n];
  }
  return total;
}

// Of the lanes of `size`, the one with the largest; the index of each is block * step + lane.
template <class V, class I>
HYPERBOLIC_INLINE auto top_lane(V size, I block, I lane, int64_t step) {
  using T = typename Word<V>::Scalar;
  if constexpr (Word<V>::lanes == 2) {
    if (size[1] > size[0]) return Peak<T>{size[1], int64_t(block[1]) * step + lane[1]};
    return Peak<T>{size[0], int64_t(block[0]) * step + lane[0]};
  } else {
    auto first = half(size, 0), second = half(size, 1);
    auto larger = second > first;
    return top_lane(larger ? second : first, larger ? half(block, 1) : half(block, 0),
                    larger ? half(lane, 1) : half(lane, 0), step);
  }
}

template <class T>
HYPERBOLIC_INLINE Peak<T> peak(const T* p, int64_t dim) {
  using V = Pack<T>;
  using I = typename Word<V>::Int;
  constexpr int step = lanes<T>;
  Peak<T> top{0, 0};
  int64_t k = 0;
  if (dim >= step) {
    V best{};
    I place{}, block{}, lane{};
    for (int i = 0; i < step; i++) lane[i] = i;
    for (; k + step <= dim; k += step) {
      V a = abs(load<V>(p + k));
      I larger = a > best;
      best = larger ? a : best;
      place = larger ? block : place;
      block += 1;
    }
    top = top_lane(best, place, lane, step);
  }
  for (; k < dim; k++) {
    T a = std::abs(p[k]);
    if (a > top.size) top = {a, k};
  }
  return top;
}

// The largest |f(at)|, NaN aside.
template <class F>
HYPERBOLIC_INLINE double largest(int64_t dim, F f) {
  constexpr int step = lanes<double>;
  double top = 0;
  int64_t k = 0;
  if (dim >= step) {
    Pack<double> best{};
    for (; k + step <= dim; k += step) best = max(abs(f(At<Pack<double>>{k})), best);
    for (int i = 0; i < step; i++) top = max(best[i], top);
  }
  for (; k < dim; k++) top = max(abs(f(At<double>{k})), top);
  return top;
}

// Where a formula puts a vector: a row of a tensor. Other headers have sums to add to.
template <class T>
HYPERBOLIC_INLINE bool wanted(T* out) {
  return out != nullptr;
}
template <class A, class T, class V>
HYPERBOLIC_INLINE void emit(A at, T* out, V v) {
  at.put(out, v);
}

}  // namespace hyperbolic::HYPERBOLIC_ISA
