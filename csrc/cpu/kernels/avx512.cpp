#ifdef __x86_64__
#define HYPERBOLIC_ISA avx512
#define HYPERBOLIC_VECTOR_BYTES 64
#include "all.h"
#endif
