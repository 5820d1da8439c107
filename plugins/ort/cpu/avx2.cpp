// AVX2, FMA and F16C.
#define VIVIM_ISA avx2
#define VIVIM_VECTOR_BYTES 32
#include "kernels.inl"
