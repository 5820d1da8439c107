// The plain S6 scan on the CPU: what ONNX Runtime's operator, PyTorch and the tests share. vivim_s6.h says what it
// computes, kernels.h what tasks and workers are.
#pragma once

#include "kernels.h"
#include "vivim_s6.h"

namespace vivim::cpu
{
struct S6
{
    void const* u;     // (B, D, L)
    void const* delta; // (B, D, L)
    void const* B;     // (B, G, N, L)
    void const* C;     // (B, G, N, L)
    float const* A;    // (D, N), powers of e
    float const* skip; // (D), or null for none
    float const* bias; // (D), or null for none
    void* y;           // (B, D, L)
    int64_t batch, length, width, groups;
    int states;
    bool softplus;
    vivim_dtype type; // of u, delta, B, C and y
};

inline S6 s6Of(vivim_s6_desc const& desc, void const* u, void const* delta, void const* B, void const* C,
    float const* A, float const* skip, float const* bias, void* y)
{
    return {u, delta, B, C, A, skip, bias, y, desc.batch, desc.length, desc.width, desc.groups, desc.states,
        desc.softplus != 0, vivim_dtype(desc.dtype)};
}

// Tasks of 16 channels of one group of one picture: kernels().s6 computes one.
inline int64_t s6TasksOfGroup(S6 const& a) { return quotient(a.width / a.groups, kScanChannels); }

// Throws std::invalid_argument as the other operators do.
void scanS6(S6 const& s6, Workers& workers);
} // namespace vivim::cpu
