#include <cstdlib>
#include <cstring>
#include <iterator>

#include "kernels/table.h"

// setup.py says which instruction sets the library has: all, or those that one machine needs.
namespace hyperbolic {

#ifdef HYPERBOLIC_HAS_AVX512
namespace avx512 {
extern const cpu::Kernels kernels;
}
#endif
#ifdef HYPERBOLIC_HAS_AVX2
namespace avx2 {
extern const cpu::Kernels kernels;
}
#endif
#ifdef HYPERBOLIC_HAS_BASELINE
namespace baseline {
extern const cpu::Kernels kernels;
}
#endif

namespace cpu {

namespace {

struct InstructionSet {
  const char* name;
  bool runs;               // on this machine
  const Kernels* kernels;  // null where the library was built without
};

const Kernels* choose() {
#ifdef __x86_64__
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512cd") &&
                          __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                          __builtin_cpu_supports("avx512vl");
#else
  const bool has_avx2 = false, has_avx512 = false;
#endif
  InstructionSet best_first[] = {
      {"avx512", has_avx512, nullptr}, {"avx2", has_avx2, nullptr}, {"baseline", true, nullptr}};
#ifdef HYPERBOLIC_HAS_AVX512
  best_first[0].kernels = &avx512::kernels;
#endif
#ifdef HYPERBOLIC_HAS_AVX2
  best_first[1].kernels = &avx2::kernels;
#endif
#ifdef HYPERBOLIC_HAS_BASELINE
  best_first[2].kernels = &baseline::kernels;
#endif
  const char* wanted = std::getenv("HYPERBOLIC_KERNELS");
  bool allowed = !wanted || !*wanted;
  for (const InstructionSet& set : best_first) {
    allowed = allowed || !std::strcmp(wanted, set.name);
    if (allowed && set.runs && set.kernels) return set.kernels;
  }
  return nullptr;
}

}  // namespace

const Kernels* usable_kernels() {
  static const Kernels* const chosen = choose();
  return chosen;
}

}  // namespace cpu
}  // namespace hyperbolic

// The instruction set in use, "" if none can be, for hyperbolic.kernels(), which finds both functions by name.
extern "C" __attribute__((visibility("default"))) const char* hyperbolic_isa() {
  const hyperbolic::cpu::Kernels* kernels = hyperbolic::cpu::usable_kernels();
  return kernels ? kernels->isa : "";
}

// Those that the library has. setup.py looks for this text in the file, to see whether it has enough of them.
extern "C" __attribute__((visibility("default"))) const char* hyperbolic_isas() {
  return "hyperbolic kernels:"
#ifdef HYPERBOLIC_HAS_AVX512
         " avx512"
#endif
#ifdef HYPERBOLIC_HAS_AVX2
         " avx2"
#endif
#ifdef HYPERBOLIC_HAS_BASELINE
         " baseline"
#endif
      ;
}
