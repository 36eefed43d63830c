// The kernels of one instruction set. Included by one file per set, which is compiled for that set. All of it lives in
// a namespace of its own: what the files had in common, such as a function of the standard library that is not inlined,
// the linker would merge, and the baseline might run what needs AVX-512.
#pragma once

#include "contrast.h"
#include "metric.h"
#include "nearest.h"
#include "rows.h"

namespace hyperbolic::HYPERBOLIC_ISA {

#define HYPERBOLIC_NAME_(x) #x
#define HYPERBOLIC_NAME(x) HYPERBOLIC_NAME_(x)

extern const cpu::Kernels kernels;
const cpu::Kernels kernels = {
    HYPERBOLIC_NAME(HYPERBOLIC_ISA),
    &metric,
    &round_values,
    &add_parts,
    {
        &fixed_rows,
        [](const Pairs& p, int64_t begin, int64_t end, double* out) {
          p.wide ? describe<double>(p, begin, end, out) : describe<float>(p, begin, end, out);
        },
        [](const Pairs& p, int64_t first, int64_t begin, int64_t end, void* out, int64_t out_stride) {
          p.wide ? pairwise_dist(p, first, begin, end, static_cast<double*>(out), out_stride)
                 : pairwise_dist(p, first, begin, end, static_cast<float*>(out), out_stride);
        },
        [](const Pairs& p, int64_t first, int64_t begin, int64_t end, const Matrix& g, double* total, double* gc) {
          p.wide ? pairwise_gradient<double>(p, first, begin, end, g, total, gc)
                 : pairwise_gradient<float>(p, first, begin, end, g, total, gc);
        },
        [](const Pairs& p, double depth_weight, int64_t k, int64_t first, int64_t begin, int64_t end, Candidate* out,
           int64_t* counts) {
          p.wide ? nearest<double>(p, depth_weight, k, first, begin, end, out, counts)
                 : nearest<float>(p, depth_weight, k, first, begin, end, out, counts);
        },
        &rescore,
        [](const Pairs& p, double temperature, const int64_t* labels, int64_t first, int64_t begin, int64_t end,
           double* peak, double* sum, double* positive) {
          p.wide ? contrast<double>(p, temperature, labels, first, begin, end, peak, sum, positive)
                 : contrast<float>(p, temperature, labels, first, begin, end, peak, sum, positive);
        },
        [](const Pairs& p, const Softmax& s, int64_t first, int64_t begin, int64_t end, double* total, double* gc,
           double* by_temperature) {
          p.wide ? contrast_gradient<double>(p, s, first, begin, end, total, gc, by_temperature)
                 : contrast_gradient<float>(p, s, first, begin, end, total, gc, by_temperature);
        },
    },
    row_kernels,
};

}  // namespace hyperbolic::HYPERBOLIC_ISA
