// Sum or mean of the directions, times the gate.
//
//   y[b,i,d] = scale (y_0 + y_1 + ..)[b,i,d] silu(z[b,i,d])         added in the order of the directions
//
// Layout. yDirections (K, B, L, D), y (B, L, D), z the last D of gateWidth elements of each token of xz.
//
// Who does what. Grid: x tokens, y channel blocks of kLanes vectors; a thread takes V channels of every
// (gridDim.x kTokens)-th token. Bound by memory: K + 2 elements moved for each one written.
//
// Invariants. float32 sums in fixed order, one rounding at the end: bitwise repeatable.
#pragma once

#include "common.cuh"

namespace vivim
{
struct CombineTile
{
    static constexpr int kLanes = 32; // 32 vectors: 512 bytes of fp16 or fp32 in a row
    static constexpr int kTokens = 8; // 256 threads
    static constexpr int kThreads = kLanes * kTokens;
};

template <class T> struct CombineArguments
{
    T const* yDirections;
    T const* gate; // the first channel of z, or null
    T* y;
    size_t tokens; // B L
    int width, gateWidth, directionCount;
    float scale; // 1 or 1 / K
};

// V: 16 bytes where the rows of the gate are aligned to them, else one element.
template <class T, int V> __global__ void __launch_bounds__(CombineTile::kThreads) combine(CombineArguments<T> a)
{
    int const channel = (int(blockIdx.y) * CombineTile::kLanes + int(threadIdx.x) % CombineTile::kLanes) * V;
    if (channel >= a.width)
        return;
    size_t const step = size_t(gridDim.x) * CombineTile::kTokens;
    for (size_t token = size_t(blockIdx.x) * CombineTile::kTokens + threadIdx.x / CombineTile::kLanes; token < a.tokens;
        token += step)
    {
        float total[V] = {}, value[V];
        for (int k = 0; k < a.directionCount; ++k)
        {
            T const* const from = a.yDirections + (k * a.tokens + token) * a.width + channel;
            if constexpr (V == 1)
                value[0] = toFloat(*from);
            else
                widen(value, from);
#pragma unroll
            for (int v = 0; v < V; ++v)
                total[v] += value[v];
        }
        if (a.gate)
        {
            T const* const from = a.gate + token * a.gateWidth + channel;
            if constexpr (V == 1)
                value[0] = toFloat(*from);
            else
                widen(value, from);
        }
        Channels<T, V> out;
#pragma unroll
        for (int v = 0; v < V; ++v)
            out.value[v] = fromFloat<T>(a.scale * total[v] * (a.gate ? silu(value[v]) : 1.f));
        *reinterpret_cast<Channels<T, V>*>(a.y + token * a.width + channel) = out;
    }
}
} // namespace vivim
