// Who computes the operators: the CPU on the session's threads, or an NVIDIA GPU on the session's stream.
#pragma once

#include <array>

#include "context.h"

namespace vivim::ort
{
struct Cpu
{
    static constexpr char const* kProvider = nullptr;
    static bool streams() { return true; }
    static bool scansPlainly() { return true; }

    static void convolve(Context const& context, std::array<Tensor, 3> const& in, vivim_conv_desc const& desc,
        int32_t taps, void* output, void const* tail);
    // `initial` and `final`: of a node that goes on from a state, or null.
    static void scan(Context const& context, std::array<Tensor, 7> const& in, vivim_scan_desc const& desc, void* output,
        void const* initial, void* final);
    // u, delta, B, C, A, skip, bias.
    static void scanS6(
        Context const& context, std::array<Tensor, 7> const& in, vivim_s6_desc const& desc, void* output);
};

// Needs cuda::library().
struct Cuda
{
    static constexpr char const* kProvider = "CUDAExecutionProvider";
    static bool streams();      // whether the kernels that were found go on from a state; the first releases' do not
    static bool scansPlainly(); // and whether they have the plain scan

    static void convolve(Context const& context, std::array<Tensor, 3> const& in, vivim_conv_desc const& desc,
        int32_t taps, void* output, void const* tail);
    // `initial` and `final`: of a node that goes on from a state, or null.
    static void scan(Context const& context, std::array<Tensor, 7> const& in, vivim_scan_desc const& desc, void* output,
        void const* initial, void* final);
    // u, delta, B, C, A, skip, bias.
    static void scanS6(
        Context const& context, std::array<Tensor, 7> const& in, vivim_s6_desc const& desc, void* output);
};
} // namespace vivim::ort
