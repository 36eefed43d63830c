// Operators on rows, for a range of rows: finds each row's arguments, hands them to the formula and rounds what it
// returns.
#pragma once

#include "../../math/lorentz_maps.h"
#include "../../math/poincare_maps.h"
#include "points.h"

namespace hyperbolic::HYPERBOLIC_ISA {

template <class Op, class W, class T>
class Reader {
 public:
  Reader(const Rows& rows, int64_t begin)
      : rows_(rows),
        walk_(rows, begin),
        fetch_{Fetch<T>(rows.operand[0], rows.dim), Fetch<T>(rows.operand[Op::vectors - 1], rows.dim)} {}

  Row<W, T> operator()() const {
    Row<W, T> row{};
    row.dim = rows_.dim;
    for (int i = 0; i < Op::vectors; i++) row.vector[i] = fetch_[i](walk_[i]);
    for (int i = 0; i < Op::scalars; i++) {
      const double a = read(rows_.operand[Op::vectors + i], walk_[Op::vectors + i]);
      row.scalar[i] = i == 0 ? positive_or_nan(a) : a;  // the first is the curvature
    }
    return row;
  }

  void next() { walk_.next(); }
  const Walk& walk() const { return walk_; }

 private:
  const Rows& rows_;
  Walk walk_;
  Fetch<T> fetch_[2];
};

template <class Op, class T>
void forward(const Rows& rows, int64_t begin, int64_t end) {
  using W = WideFor<T>;
  Reader<Op, W, T> reader(rows, begin);
  const Result& result = rows.result[0];
  const int64_t dim = rows.dim;
  if constexpr (!Op::returns_vector) {
    for (int64_t i = begin; i < end; i++, reader.next()) {
      write(head(Op::template value<W>(reader())), result, i);
    }
  } else {
    const bool direct = result.dtype == dtype_of<T>;
    Buffer<double> scratch(dim);
    for (int64_t i = begin; i < end; i++, reader.next()) {
      Row<W, T> row = reader();
      const Result out = at_element(result, i * dim);
      T* place = static_cast<T*>(out.data);
      bool done = direct;
      if (direct) {
        Op::value(row, Target<T>{place, nullptr, {}});
        if (Op::point == Point::ball && !inside(place, dim, head(row.scalar[0]))) {
          move_inside(out, dim, head(row.scalar[0]));
        }
        if (Op::point == Point::lorentz && sizeof(T) == 4) {
          // what is not finite has a sum that is not
          auto [sum] = sums<1, W>(dim, [&](auto at, auto* t) { t[0] = scale(at(place), 0.0); });
          done = head(sum) == 0;
        }
      }
      if (done) continue;
      Op::value(row, Target<T>{nullptr, scratch.get(), {}});
      if (Op::point == Point::lorentz) shorten(scratch.get(), dim, result.dtype);
      round_values(scratch.get(), dim, out.dtype, out.data);
      if (Op::point == Point::ball) move_inside(out, dim, head(row.scalar[0]));
    }
  }
}

template <class Op, class T>
void backward(const Rows& rows, int64_t begin, int64_t end, double* const* sums, int64_t low) {
  using W = WideFor<T>;
  constexpr int arguments = Op::vectors + Op::scalars;
  Reader<Op, W, T> reader(rows, begin);
  const Operand& cotangent = rows.operand[arguments];
  Fetch<T> fetch(Op::returns_vector ? cotangent : Operand{{nullptr, dtype_of<T>}, 1, nullptr}, rows.dim);
  const int64_t dim = rows.dim;
  bool written[arguments], direct[arguments];
  W total[Op::scalars] = {};
  for (int a = 0; a < arguments; a++) {
    written[a] = !sums[a] && rows.result[a].data;
    direct[a] = written[a] && rows.result[a].dtype == dtype_of<T>;
  }
  const bool copied[2] = {written[0] && !direct[0], Op::vectors == 2 && written[1] && !direct[1]};
  Buffer<double> scratch[2] = {Buffer<double>(copied[0] ? dim : 0), Buffer<double>(copied[1] ? dim : 0)};
  for (int64_t i = begin; i < end; i++, reader.next()) {
    Row<W, T> row = reader();
    if constexpr (Op::returns_vector) {
      row.cotangent = fetch(reader.walk()[arguments]);
    } else {
      row.g = read(cotangent, reader.walk()[arguments]);
    }
    Target<T> target[2] = {};
    for (int a = 0; a < Op::vectors; a++) {
      target[a] = {direct[a] ? static_cast<T*>(rows.result[a].data) + i * dim : nullptr,
                   copied[a] ? scratch[a].get() : nullptr,
                   sums[a] ? WideSum{sums[a], sums[a] + low} : WideSum{}};
    }
    W g[Op::scalars] = {};
    Op::pull(row, target, g);
    for (int a = 0; a < Op::vectors; a++) {
      if (!copied[a]) continue;
      const Result out = at_element(rows.result[a], i * dim);
      round_values(scratch[a].get(), dim, out.dtype, out.data);
    }
    for (int s = 0; s < Op::scalars; s++) {
      const int a = Op::vectors + s;
      if (written[a]) write(head(g[s]), rows.result[a], i);
      total[s] = total[s] + g[s];
    }
  }
  for (int s = 0; s < Op::scalars; s++) {
    double* sum = sums[Op::vectors + s];
    if (sum) emit(At<double>{0}, WideSum{sum, sum + low}, total[s]);
  }
}

template <class Op>
constexpr cpu::RowKernel row_kernel(const char* name) {
  return {{name, Op::vectors, Op::scalars, Op::returns_vector},
          [](const Rows& rows, int64_t begin, int64_t end) {
            rows.wide ? forward<Op, double>(rows, begin, end) : forward<Op, float>(rows, begin, end);
          },
          [](const Rows& rows, int64_t begin, int64_t end, double* const* sums, int64_t low) {
            rows.wide ? backward<Op, double>(rows, begin, end, sums, low)
                      : backward<Op, float>(rows, begin, end, sums, low);
          }};
}

inline constexpr cpu::RowKernel row_kernels[] = {HYPERBOLIC_ROW_OPERATORS(HYPERBOLIC_ROW_KERNEL)};

}  // namespace hyperbolic::HYPERBOLIC_ISA
