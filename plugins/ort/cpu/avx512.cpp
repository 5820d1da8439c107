// AVX-512 F, DQ, BW and VL.
#define VIVIM_ISA avx512
#define VIVIM_VECTOR_BYTES 64
#include "kernels.inl"
