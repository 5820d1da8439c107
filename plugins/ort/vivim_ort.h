/* libvivim_ort.so: the operators of Vivim for ONNX Runtime, and the same kernels as plain functions for everybody else.
 *
 * ONNX Runtime calls RegisterCustomOps (SessionOptions.register_custom_ops_library). The functions below compute on the
 * CPU what vivim_kernels.h describes, in host memory, any width, 1 to 8 taps, ranks up to 1024, up to 256 states. They
 * return 0 or VIVIM_BAD_ARGUMENT, and vivim_cpu_error() then says what was wrong. Results do not depend on the number of
 * threads: 1 or more, 0 for as many as there are processors.
 */
#ifndef VIVIM_ORT_H
#define VIVIM_ORT_H

#include "vivim_kernels.h"
#include "vivim_s6.h"

#ifdef __cplusplus
extern "C"
{
#endif

/* Of the distribution vivim-edge-native that this library belongs to. */
VIVIM_API char const* vivim_ort_version(void);
/* Of the kernels that run on this CPU: avx512, avx2 or baseline (SSE2, NEON). VIVIM_CPU_ISA asks for a lesser one. */
VIVIM_API char const* vivim_ort_instruction_set(void);
/* The file of the CUDA kernels that sessions with the CUDA provider call; null where none is found. */
VIVIM_API char const* vivim_ort_cuda_kernels(void);

VIVIM_API int32_t vivim_cpu_causal_conv1d(vivim_conv_desc const* desc, int32_t taps, void const* x, float const* weight,
    float const* bias, void* xc, int32_t threads);

VIVIM_API int32_t vivim_cpu_selective_scan(vivim_scan_desc const* desc, void const* xc, void const* dbc, void const* xz,
    float const* A_log2e, float const* dt_weight, float const* dt_bias, float const* d_skip, void* y, int32_t threads);

/* The same for a film that comes in pieces; tail, initial and final as in vivim_kernels.h, with taps - 1 tokens of tail.
 * Here `final` may be the memory of `initial`. */
VIVIM_API int32_t vivim_cpu_streaming_conv1d(vivim_conv_desc const* desc, int32_t taps, void const* x, void const* tail,
    float const* weight, float const* bias, void* xc, int32_t threads);

VIVIM_API int32_t vivim_cpu_streaming_scan(vivim_scan_desc const* desc, void const* xc, void const* dbc, void const* xz,
    float const* A_log2e, float const* dt_weight, float const* dt_bias, float const* d_skip, float const* initial,
    void* y, float* final, int32_t threads);

/* The plain scan of vivim_s6.h, up to 256 states; skip and bias may be null. */
VIVIM_API int32_t vivim_cpu_s6_scan(vivim_s6_desc const* desc, void const* u, void const* delta, void const* B,
    void const* C, float const* A, float const* skip, float const* bias, void* y, int32_t threads);

/* Gradients of the recurrence of a scan, for training: for sequences that are in the order of their direction, with time
 * steps dt that are made already,
 *
 *   h_l = 2^(dt_l A_log2e) h_{l-1} + dt_l u_l B_l,  y_l = C_l h_l + skip u_l
 *
 * All is float32: dt, u, y, their gradients and grad, that of y, are (S, L, D); B and C (S, L, N); A_log2e (D, N); skip
 * (D); initial, the state before the first step, (S, N, D), or null for zeros; grad_A (S, N, D), of A_log2e. */
typedef struct
{
    int32_t sequences; /* S */
    int32_t length;    /* L */
    int32_t width;     /* D */
    int32_t states;    /* N, up to 256 */
} vivim_gradients_desc;

VIVIM_API int32_t vivim_cpu_scan_gradients(vivim_gradients_desc const* desc, float const* dt, float const* u,
    float const* B, float const* C, float const* A_log2e, float const* skip, float const* initial, float const* grad,
    float* y, float* grad_dt, float* grad_u, float* grad_B, float* grad_C, float* grad_A, int32_t threads);

/* What the last failing call of this thread said. */
VIVIM_API char const* vivim_cpu_error(void);

#ifdef __cplusplus
}
#endif

#endif
