// What tile kernels leave to the formulas for two points: {model}_repair and {model}_repair_backward.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>

#include "../common/checks.h"
#include "device.h"

namespace hyperbolic::cuda {

namespace {

// Two sides of pairs in the working type: for data of other types or strides, copies.
struct Sides {
  bool wide;
  Tensor x, y;

  Sides(const Tensor& a, const Tensor& b)
      : wide(dtype_of(a) == Dtype::float64 || dtype_of(b) == Dtype::float64), x(in_type(a)), y(in_type(b)) {}

 private:
  Tensor in_type(const Tensor& a) const {
    return torch::stable::contiguous(torch::stable::to(a, wide ? ScalarType::Double : ScalarType::Float));
  }
};

Input input(const Tensor& a) { return {a.const_data_ptr(), dtype_of(a)}; }

// The matrix `d`, called `name`, and how many NaN each of its tiles has.
void check(int model, const char* name, const Tensor& d, const Tensor& x, const Tensor& y, const Tensor& c,
           const Tensor& tiles, int64_t tile_rows, int64_t tile_columns) {
  Shapes shapes(model, "repair");
  shapes.is("x", x, "N, D");
  shapes.is("y", y, "M, D");
  shapes.is(name, d, "N, M");
  shapes.is_number("c", c);
  STD_TORCH_CHECK(tile_rows >= 1 && tile_columns >= 1, shapes.op(), ": tiles must have rows and columns, got ", tile_rows,
                  " by ", tile_columns);
  const int64_t down = divide_up(d.size(0), tile_rows), across = divide_up(d.size(1), tile_columns);
  STD_TORCH_CHECK(tiles.scalar_type() == ScalarType::Int && tiles.dim() == 2 && tiles.size(0) == down &&
                      tiles.size(1) == across,
                  shapes.op(), ": tiles must be int32 of shape (", down, ", ", across, "), got ", tiles.scalar_type(), " ",
                  text(tiles));
}

// The gradient at x, or what has no own side, sees the matrix as it is; that at y its transpose.
Pairs pairs(const Sides& sides, const Tensor& d, const Tensor& c, const Tensor& tiles, int64_t tile_rows,
            int64_t tile_columns, bool of_x) {
  const int own = of_x ? 0 : 1, other = 1 - own;
  // no larger than the matrix, which is then one tile
  const int64_t size[2] = {std::min(tile_rows, d.size(0)), std::min(tile_columns, d.size(1))};
  Pairs p{};
  p.wide = sides.wide;
  p.dim = sides.x.size(1);
  p.own = (of_x ? sides.x : sides.y).const_data_ptr();
  p.other = (of_x ? sides.y : sides.x).const_data_ptr();
  p.c = input(c);
  p.entries = {{const_cast<void*>(d.const_data_ptr()), dtype_of(d)}, d.size(own), d.size(other), d.stride(own),
               d.stride(other)};
  p.tiles = {static_cast<const int32_t*>(tiles.const_data_ptr()), size[own], size[other], tiles.stride(own),
             tiles.stride(other)};
  return p;
}

template <const RepairKernel& kernel>
void repair(const Tensor& d, const Tensor& x, const Tensor& y, const Tensor& c, const Tensor& tiles, int64_t tile_rows,
            int64_t tile_columns) {
  check(&kernel == &poincare_repair, "d", d, x, y, c, tiles, tile_rows, tile_columns);
  if (d.numel() == 0) return;
  const Device device(d);
  for (const Tensor& a : {x, y, c, tiles}) device.expect(a);
  const Sides sides(x, y);
  const Pairs p = pairs(sides, d, c, tiles, tile_rows, tile_columns, true);
  const unsigned lanes = lanes_for(p.dim);
  Plan plan(device, lanes, MOST_THREADS / lanes, 0, 0, 0);
  const int64_t patches = divide_up(p.tiles.own_size, PATCH_ROWS) * divide_up(p.tiles.other_size, PATCH_COLUMNS);
  plan.prepare(device, tiles.numel() * patches);
  STD_CUDA_CHECK(kernel.distances(p, plan.launch));
}

// Adds to the gradient at one side and, if wanted, to that by c.
template <const RepairKernel& kernel>
void add_gradient(const Device& device, const Pairs& p, const Tensor& g, bool of_x, const Tensor& result,
                  const Tensor* gc) {
  const int64_t own = p.entries.own, words = p.wide ? 2 : 1;
  STD_TORCH_CHECK(result.scalar_type() == ScalarType::Double && result.is_contiguous() &&
                      result.numel() == own * p.dim * words,
                  "hyperbolic: gradients must be contiguous and of float64, in two words for float64 data, else in one");
  const unsigned lanes = lanes_for(p.dim);
  Plan plan(device, lanes, WARP / lanes, 0, 0, 2 * (p.dim + 1));
  plan.prepare(device, own);
  Tensor parts;
  Gradient to{};
  to.g = input(g);
  to.own_stride = g.stride(of_x ? 0 : 1);
  to.other_stride = g.stride(of_x ? 1 : 0);
  to.result = result.mutable_data_ptr();
  to.staging = plan.staging;
  if (gc) {
    parts = device.words(2 * (own + 1));
    to.by_c = static_cast<const double*>(gc->const_data_ptr());
    to.parts_by_c = static_cast<double*>(parts.mutable_data_ptr());
  }
  STD_CUDA_CHECK(kernel.gradient(p, to, plan.launch));
  if (!gc) return;
  Sums sums{};
  sums.parts = to.parts_by_c;
  sums.segments = sums.total = 1;
  sums.pieces = own + 1;
  sums.of[0] = {{gc->mutable_data_ptr(), Dtype::float64}, 1};
  STD_CUDA_CHECK(add_parts(sums, device.stream()));
}

template <const RepairKernel& kernel>
void repair_backward(const Tensor& w, const Tensor& g, const Tensor& x, const Tensor& y, const Tensor& c,
                     const Tensor& gx, const Tensor& gy, const Tensor& gc, const Tensor& tiles, int64_t tile_rows,
                     int64_t tile_columns) {
  check(&kernel == &poincare_repair, "w", w, x, y, c, tiles, tile_rows, tile_columns);
  check(&kernel == &poincare_repair, "g", g, x, y, c, tiles, tile_rows, tile_columns);
  STD_TORCH_CHECK(gc.scalar_type() == ScalarType::Double && gc.numel() == 1,
                  "repair: gc must be one number of float64, got ", gc.scalar_type(), " ", text(gc));
  if (w.numel() == 0) return;
  const Device device(w);
  for (const Tensor& a : {g, x, y, c, gx, gy, gc, tiles}) device.expect(a);
  const Sides sides(x, y);
  const auto of = [&](bool of_x) { return pairs(sides, w, c, tiles, tile_rows, tile_columns, of_x); };
  add_gradient<kernel>(device, of(true), g, true, gx, &gc);
  add_gradient<kernel>(device, of(false), g, false, gy, nullptr);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hyperbolic, CUDA, m) {
  m.impl("lorentz_repair", TORCH_BOX(&repair<lorentz_repair>));
  m.impl("poincare_repair", TORCH_BOX(&repair<poincare_repair>));
  m.impl("lorentz_repair_backward", TORCH_BOX(&repair_backward<lorentz_repair>));
  m.impl("poincare_repair_backward", TORCH_BOX(&repair_backward<poincare_repair>));
}

}  // namespace hyperbolic::cuda
