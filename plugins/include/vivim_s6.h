/* The plain S6 scan, the contract of mamba_ssm's selective_scan_fn without the gate (vivim.scan.s6 defines it):
 *
 *   dt_l = softplus(delta_l + bias)            or delta_l + bias
 *   h_l  = exp(dt_l A) h_{l-1} + dt_l B_l u_l   h (D, N), float32
 *   y_l  = C_l h_l + skip u_l
 *
 * Channels first, time innermost: u, delta and y are (B, D, L); B and C are (B, G, N, L), and the D / G channels of a
 * group lie side by side. A (D, N), bias and skip (D) are float32, A in powers of e.
 */
#ifndef VIVIM_S6_H
#define VIVIM_S6_H

#include <stdint.h>

#ifdef __cplusplus
extern "C"
{
#endif

#define VIVIM_S6_MAX_STATES 256

typedef struct
{
    int32_t batch;
    int32_t length; /* L */
    int32_t width;  /* D, a multiple of groups */
    int32_t groups; /* G */
    int32_t states; /* N */
    int32_t softplus;
    int32_t dtype; /* vivim_dtype of u, delta, B, C and y */
} vivim_s6_desc;

#ifdef __cplusplus
}
#endif

#endif
