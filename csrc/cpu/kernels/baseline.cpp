#define HYPERBOLIC_ISA baseline
#define HYPERBOLIC_VECTOR_BYTES 16
#include "all.h"
