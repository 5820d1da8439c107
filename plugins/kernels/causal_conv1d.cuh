// Causal depthwise convolution of 4 taps, bias and SiLU, along each of K directions.
//
//   xc[k,b,i,d] = silu(bias[k,d] + sum_j weight[k,d,j] x[b, token 3 - j steps before i in direction k, d])
//   with zeros before the first step, or in direction k = 0 the tail, if there is one: the inputs of the 3 steps before.
//
// Layout. x (B, L, xWidth), of which the first D columns are read; tail (B, 3, D); weight (K, D, 4) and bias (K, D) float32;
// xc (K, B, L, D). Channels are adjacent, so a step is a coalesced row wherever its token lies.
//
// Who does what. A thread owns V adjacent channels and kRun consecutive steps of one direction; it walks them with the
// last three inputs in registers, so each costs one load (and three more a run). Grid: x runs, kRunsPerBlock a block;
// y = channel block * K + k; z batch. The K blocks that read the same rows run near each other and meet in L2.
//
// Invariants. Fixed order of additions, no atomics: bitwise repeatable. Any L, rows and D % 8 == 0; nothing outside
// x[.., 0:D] is read.
#pragma once

#include "common.cuh"

namespace vivim
{
struct ConvTile
{
    static constexpr int kLanes = 32;       // threads across channels: 128 bytes a warp and step for 2-byte types
    static constexpr int kRun = 8;          // steps a thread: 3/8 more loads than steps, enough blocks at L = 320
    static constexpr int kRunsPerBlock = 8; // 256 threads
    static constexpr int kThreads = kLanes * kRunsPerBlock;
    static constexpr int kSteps = kRun * kRunsPerBlock;
};

template <class T> struct ConvArguments
{
    T const* x;
    float const* weight;
    float const* bias;
    T* xc;
    T const* tail; // (B, 3, D), or null
    int batch, length, width, rows, columns, xWidth;
    Directions directions;
};

// V: channels a thread; 2 where the rows of x are aligned to pairs, else 1.
template <class T, int V> __global__ void __launch_bounds__(ConvTile::kThreads) causalConv1d(ConvArguments<T> a)
{
    using Vector = Channels<T, V>;
    int const k = blockIdx.y % a.directions.count;
    int const lane = threadIdx.x % ConvTile::kLanes, run = threadIdx.x / ConvTile::kLanes;
    int const channel = (int(blockIdx.y) / a.directions.count * ConvTile::kLanes + lane) * V;
    int const first = int(blockIdx.x) * ConvTile::kSteps + run * ConvTile::kRun;
    if (channel >= a.width || first >= a.length)
        return;
    int const direction = a.directions[k];
    T const* const x = a.x + size_t(blockIdx.z) * a.length * a.xWidth + channel;
    T* const xc = a.xc + (size_t(k) * a.batch + blockIdx.z) * a.length * a.width + channel;

    float weight[V][kTaps], bias[V], window[V][kTaps]; // window[v][j]: the input 3 - j steps ago
#pragma unroll
    for (int v = 0; v < V; ++v)
    {
        size_t const c = size_t(k) * a.width + channel + v;
        loadFloats(weight[v], a.weight + c * kTaps);
        bias[v] = a.bias[c];
    }
#pragma unroll
    for (int j = 1; j < kTaps; ++j)
    {
        int const step = first - kTaps + j;
        bool const carried = step < 0 && k == 0 && a.tail; // step is -3 to -1: a run is longer than the taps reach
        Vector in{};
        if (step >= 0)
            in = *reinterpret_cast<Vector const*>(
                x + size_t(tokenOfStep(direction, step, a.length, a.rows, a.columns)) * a.xWidth);
        else if (carried)
            in = *reinterpret_cast<Vector const*>(
                a.tail + (size_t(blockIdx.z) * (kTaps - 1) + kTaps - 1 + step) * a.width + channel);
#pragma unroll
        for (int v = 0; v < V; ++v)
            window[v][j] = step >= 0 || carried ? toFloat(in.value[v]) : 0.f;
    }

    // From step to step without a division: along the row, or down the column until it ends.
    int token = tokenOfStep(direction, first, a.length, a.rows, a.columns);
    int const stride = direction < 2 ? 1 : a.columns, sign = direction & 1 ? -1 : 1;
    int const wrap = direction < 2 ? 0 : a.length - 1; // from the last row of a column to the first of the next
    int left = direction < 2 ? a.length : a.rows - first % a.rows; // steps until the column ends
#pragma unroll
    for (int i = 0; i < ConvTile::kRun; ++i)
    {
        if (first + i >= a.length)
            break;
        Vector const in = *reinterpret_cast<Vector const*>(x + size_t(token) * a.xWidth);
        Vector out;
#pragma unroll
        for (int v = 0; v < V; ++v)
        {
#pragma unroll
            for (int j = 0; j + 1 < kTaps; ++j)
                window[v][j] = window[v][j + 1];
            window[v][kTaps - 1] = toFloat(in.value[v]);
            float sum = bias[v];
#pragma unroll
            for (int j = 0; j < kTaps; ++j)
                sum = fmaf(weight[v][j], window[v][j], sum);
            out.value[v] = fromFloat<T>(silu(sum));
        }
        *reinterpret_cast<Vector*>(xc + size_t(token) * a.width) = out;
        bool const turn = --left == 0;
        token += sign * (turn ? stride - wrap : stride);
        if (turn)
            left = a.rows;
    }
}
} // namespace vivim
