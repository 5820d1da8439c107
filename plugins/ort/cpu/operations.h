// The kernels' arguments from the descriptions that all interfaces share (vivim_kernels.h).
#pragma once

#include <algorithm>

#include "kernels.h"

namespace vivim::cpu
{
template <class Description> Order orderOf(Description const& desc)
{
    Order order{desc.length, desc.rows, desc.direction_count, {}};
    std::copy(desc.directions, desc.directions + VIVIM_MAX_DIRECTIONS, order.directions);
    return order;
}

inline Conv convOf(vivim_conv_desc const& desc, int32_t taps, void const* x, float const* weight, float const* bias,
    void* xc, void const* tail = nullptr)
{
    return {
        x, weight, bias, xc, orderOf(desc), desc.batch, desc.width, desc.x_width, taps, vivim_dtype(desc.dtype), tail};
}

inline Scan scanOf(vivim_scan_desc const& desc, void const* xc, void const* dbc, void const* xz, float const* A_log2e,
    float const* dtWeight, float const* dtBias, float const* dSkip, void* y, float const* initial = nullptr,
    float* final = nullptr)
{
    return {xc, dbc, xz, A_log2e, dtWeight, dtBias, dSkip, y, orderOf(desc), desc.batch, desc.width, desc.gate_width,
        desc.rank, desc.states, desc.shared_input != 0, desc.mean != 0, vivim_dtype(desc.dtype), nullptr, false,
        initial, final};
}
} // namespace vivim::cpu
