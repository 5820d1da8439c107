/* The two CUDA names that TensorRT's headers use, as CUDA itself declares them.
 *
 * The plugin only hands the stream through to libvivim_kernels, so it compiles without a CUDA toolkit; and it cannot
 * come to call CUDA by itself unnoticed. */
#ifndef VIVIM_OPAQUE_CUDA_RUNTIME_API_H
#define VIVIM_OPAQUE_CUDA_RUNTIME_API_H

typedef struct CUstream_st* cudaStream_t;
typedef struct CUevent_st* cudaEvent_t;

#endif
