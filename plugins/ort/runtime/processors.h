// Who computes the operators: the CPU on the session's threads, or an NVIDIA GPU on the session's stream.
#pragma once

#include <array>

#include "context.h"

namespace vivim::ort
{
struct Cpu
{
    static constexpr char const* kProvider = nullptr;

    static void convolve(Context const& context, std::array<Tensor, 3> const& in, vivim_conv_desc const& desc,
        int32_t taps, void* output);
    static void scan(
        Context const& context, std::array<Tensor, 7> const& in, vivim_scan_desc const& desc, void* output);
};

// Needs cuda::library().
struct Cuda
{
    static constexpr char const* kProvider = "CUDAExecutionProvider";

    static void convolve(Context const& context, std::array<Tensor, 3> const& in, vivim_conv_desc const& desc,
        int32_t taps, void* output);
    static void scan(
        Context const& context, std::array<Tensor, 7> const& in, vivim_scan_desc const& desc, void* output);
};
} // namespace vivim::ort
