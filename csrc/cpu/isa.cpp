#include <cstdlib>
#include <cstring>
#include <iterator>

#include "kernels/table.h"

namespace hyperbolic {

namespace baseline {
extern const cpu::Kernels kernels;
}
#ifdef __x86_64__
namespace avx2 {
extern const cpu::Kernels kernels;
}
namespace avx512 {
extern const cpu::Kernels kernels;
}
#endif

namespace cpu {

namespace {

const Kernels& choose() {
  const char* wanted = std::getenv("HYPERBOLIC_KERNELS");
  auto allowed = [&](const Kernels& k) { return !wanted || !*wanted || !std::strcmp(wanted, k.isa); };
#ifdef __x86_64__
  __builtin_cpu_init();
  bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512cd") &&
                    __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vl");
  if (has_avx512 && allowed(avx512::kernels)) return avx512::kernels;
  if (has_avx2 && allowed(avx2::kernels)) return avx2::kernels;
#endif
  return baseline::kernels;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace cpu
}  // namespace hyperbolic
