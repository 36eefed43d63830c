#ifdef __x86_64__
#define HYPERBOLIC_ISA avx2
#define HYPERBOLIC_VECTOR_BYTES 32
#include "all.h"
#endif
