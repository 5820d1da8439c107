/* The kernels of Vivim Edge as plain functions: what the TensorRT plugin, PyTorch and the tests share.
 *
 * Two operators over a grid of L = rows x columns tokens (row-major; Vivim: rows = T frames, columns = H*W), for K
 * directions: 0 rows forward, 1 rows backward, 2 columns forward, 3 columns backward. Step l of direction 0 visits token
 * l; 1: L-1-l; 2: (l % rows) * columns + l / rows; 3: the reverse of 2. Everything is stored at token positions.
 *
 *   conv   xc[k,b,i,d] = silu(bias[k,d] + sum_j weight[k,d,j] x[b, token before i by taps-1-j steps, d]),  taps = 4
 *   scan   dt = softplus(dt_weight low + dt_bias);  h <- exp(dt A) h + dt u B;  y_k = C h + d_skip u
 *          y = (sum or mean over k of y_k) * silu(z)
 *
 * with u = xc, low | B | C the columns of dbc, and z the last D columns of xz. The state h and all arithmetic are float32.
 *
 * Pointers are device pointers (host pointers in the emulated build), 16-byte aligned. Functions return 0 or a
 * vivim_status; vivim_kernels_error() then says what was wrong, naming the input. Nothing is allocated; every call is
 * asynchronous on `stream` (a cudaStream_t) and bitwise repeatable.
 */
#ifndef VIVIM_KERNELS_H
#define VIVIM_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "vivim_s6.h"

#if defined(__GNUC__)
#define VIVIM_API __attribute__((visibility("default")))
#else
#define VIVIM_API
#endif

#ifdef __cplusplus
extern "C"
{
#endif

enum { VIVIM_MAX_DIRECTIONS = 4 };

typedef enum { VIVIM_FLOAT32 = 0, VIVIM_FLOAT16 = 1, VIVIM_BFLOAT16 = 2 } vivim_dtype;

typedef enum {
    VIVIM_OK = 0,
    VIVIM_BAD_ARGUMENT = 1,  /* a shape, dtype, direction, tactic or pointer that the kernels cannot take */
    VIVIM_BAD_WORKSPACE = 2, /* null, or smaller than the workspace function said */
    VIVIM_CUDA_ERROR = 3     /* the launch failed; the message is CUDA's */
} vivim_status;

typedef struct
{
    int32_t batch;                            /* B >= 1 */
    int32_t length;                           /* L >= 1, a multiple of rows */
    int32_t width;                            /* D, a multiple of 8 */
    int32_t rows;                             /* >= 1 */
    int32_t x_width;                          /* elements from one token of x to the next, >= D: 2D reads the first
                                                  half of in_proj's output in place */
    int32_t direction_count;                  /* K, 1 to 4 */
    int32_t directions[VIVIM_MAX_DIRECTIONS]; /* each 0 to 3 */
    int32_t dtype;                            /* vivim_dtype of x and xc */
} vivim_conv_desc;

typedef struct
{
    int32_t batch;                            /* B >= 1 */
    int32_t length;                           /* L >= 1, a multiple of rows */
    int32_t width;                            /* D, a multiple of 8 */
    int32_t rows;                             /* >= 1 */
    int32_t rank;                             /* R, 1 to 64 */
    int32_t states;                           /* N, 1 to 16 */
    int32_t direction_count;                  /* K, 1 to 4 */
    int32_t directions[VIVIM_MAX_DIRECTIONS]; /* each 0 to 3 */
    int32_t shared_input;                     /* 1: xc is (1, B, L, D) and serves all directions; 0: (K, B, L, D) */
    int32_t mean;                             /* 1: mean of the directions; 0: sum */
    int32_t gate_width;                       /* elements from one token of xz to the next, >= D, the gate in the last
                                                  D of them; 0: no gate, xz is null */
    int32_t dtype;                            /* vivim_dtype of xc, dbc, xz and y */
} vivim_scan_desc;

/* xc (K, B, L, D) from x (B, L, x_width), weight float32 (K, D, 4), bias float32 (K, D). */
VIVIM_API int32_t vivim_causal_conv1d(
    vivim_conv_desc const* desc, void const* x, float const* weight, float const* bias, void* xc, void* stream);

/* The ways to compute a scan. They agree to rounding; which is fastest depends on the shape and the GPU. */
VIVIM_API int32_t vivim_scan_tactic_count(void);
/* Name of a tactic, 0 <= tactic < count, for people and timing tables; null outside. */
VIVIM_API char const* vivim_scan_tactic_name(int32_t tactic);
/* A good tactic for a shape, by rule and without timing; negative where the description is wrong. */
VIVIM_API int32_t vivim_scan_default_tactic(vivim_scan_desc const* desc);

/* Bytes of workspace that a tactic needs for a shape, never less for a larger batch or length; a tactic of -1 asks for
 * the most that any tactic needs. Where the description is wrong: 0, and an error message. */
VIVIM_API size_t vivim_scan_workspace(vivim_scan_desc const* desc, int32_t tactic);

/* y (B, L, D) from xc, dbc (K, B, L, R + 2N), xz (B, L, gate_width) or null, and float32 A_log2e (K, D, N) =
 * A log2(e), dt_weight (K, D, R), dt_bias (K, D), d_skip (K, D). */
VIVIM_API int32_t vivim_selective_scan(vivim_scan_desc const* desc, int32_t tactic, void const* xc, void const* dbc,
    void const* xz, float const* A_log2e, float const* dt_weight, float const* dt_bias, float const* d_skip, void* y,
    void* workspace, size_t workspace_bytes, void* stream);

/* The same for a film that comes in pieces, frame by frame: the first direction goes on where the piece before ended, and
 * the others stay within the piece. Over the pieces of a sequence in order, direction 0 gives what one call for all of it
 * gives.
 *
 *   tail     (B, 3, D), dtype of x: what the first direction of the convolution met last; null for zeros
 *   initial  float32 (B, N, D): h of the first direction before its first step; null for zeros
 *   final    float32 (B, N, D): h of the first direction after its last step; never the memory of `initial`, which blocks
 *            still read when another has written its part
 *
 * The tail to give next are the last 3 tokens of [tail | x] in the order of the first direction. */
VIVIM_API int32_t vivim_streaming_conv1d(vivim_conv_desc const* desc, void const* x, void const* tail,
    float const* weight, float const* bias, void* xc, void* stream);

VIVIM_API int32_t vivim_streaming_scan(vivim_scan_desc const* desc, int32_t tactic, void const* xc, void const* dbc,
    void const* xz, float const* A_log2e, float const* dt_weight, float const* dt_bias, float const* d_skip,
    float const* initial, void* y, float* final, void* workspace, size_t workspace_bytes, void* stream);

/* The plain scan of vivim_s6.h, up to VIVIM_S6_MAX_STATES states; its ways to compute, a good one for a shape, and their
 * workspace are as those of the scan above. u, delta, B, C and y are aligned to their elements, A, skip and bias to 4
 * bytes; skip and bias may be null. Nothing is in powers of 2 here: A is as vivim_s6.h has it. */
VIVIM_API int32_t vivim_s6_tactic_count(void);
VIVIM_API char const* vivim_s6_tactic_name(int32_t tactic);
VIVIM_API int32_t vivim_s6_default_tactic(vivim_s6_desc const* desc);
VIVIM_API size_t vivim_s6_workspace(vivim_s6_desc const* desc, int32_t tactic);
VIVIM_API int32_t vivim_s6_scan(vivim_s6_desc const* desc, int32_t tactic, void const* u, void const* delta,
    void const* B, void const* C, float const* A, float const* skip, float const* bias, void* y, void* workspace,
    size_t workspace_bytes, void* stream);

/* What the last failing call of this thread said; empty if none failed. Valid until the thread's next call. */
VIVIM_API char const* vivim_kernels_error(void);
/* A digest of the kernels' sources: part of timing-cache keys, as results and timings may differ where it does. */
VIVIM_API char const* vivim_kernels_revision(void);

#ifdef __cplusplus
}
#endif

#endif
