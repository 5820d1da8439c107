// The version of the interfaces in NvInfer.h beside this file: the first of a major version, which its later ones keep.
#pragma once

#if VIVIM_TENSORRT_MAJOR == 10
#define NV_TENSORRT_MAJOR 10
#define NV_TENSORRT_MINOR 3
#elif VIVIM_TENSORRT_MAJOR == 11
#define NV_TENSORRT_MAJOR 11
#define NV_TENSORRT_MINOR 0
#else
#error "VIVIM_TENSORRT_MAJOR is not 10 or 11"
#endif
#define NV_TENSORRT_PATCH 0
