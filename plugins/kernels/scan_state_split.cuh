// Directional selective scan, state-split: G lanes share a channel, each keeps 16 / G of its states in registers and
// walks the steps one after the other. With length-split the sequence is cut into chunks that run side by side.
//
//   dt_l = softplus(dt_bias + dt_weight . low_l)
//   h_l  = exp(dt_l A) h_{l-1} + dt_l u_l B_l                     16 states a channel, float32
//   y_l  = C_l . h_l + d_skip u_l                                 for each direction k of its own
//
// Length-split, two passes over chunks c = 0 .. m-1. A chunk maps its carry-in h to P h + e, with P = exp(S A), S the
// sum of dt over the chunk, and e its end state from zero. Pass 1 (chunks 0 .. m-2) stores e and S. Pass 2 (chunks
// 0 .. m-1) folds (S, e) of the chunks before it, in order, into its carry-in and writes y. Nearly every exponential is
// computed twice; the grid is m times larger. Without length-split there is one chunk and pass 2 alone.
//
// A state that comes in (of direction k = 0 alone) is what pass 2 begins to fold from; the one that goes out is h of the
// last chunk of pass 2. Every block of pass 2 reads the first and one writes the second: they must not share memory.
//
// Layout. u = xc (K or 1, B, L, D), dbc (K, B, L, R + 2N) at token positions; y to yDirections (K, B, L, D).
// Shared memory of a block, in this order:
//   time    float2 [kTile][kChannels]       dt and dt u
//   output  float  [kTile][kChannels]       d_skip u, then y
//   rows    float  [kTile][R4 + 32]         low (padded to R4 = 4 ceil(R / 4)) | B | C
//   weight  float  [R4][kChannels]
//   tokens  int    [2][kTile]               of this tile and the next; -1 after the end
//   inputs  T      [kTile][kChannels]       u, as it is in global memory
//   raw     bytes  [kTile][16 ceil(W / 16)] rows of dbc, as they are in global memory
//
// Who does what. Grid: x channel block, y chunk, z batch * K + k. The threads of a block take two roles:
//   scan     thread = channel * G + lane: neighbours share a channel, so that the sum over states is a shuffle;
//   staging  thread = step * kChannels + channel: neighbours take neighbouring channels, so that global accesses
//            coalesce and dt_weight reads do not conflict.
// Per tile of kTile steps: (1) wait for the copies, widen the own rows of dbc; barrier; (2) dt and d_skip u by staging
// role, tokens of the next tile; barrier; (3) start the copies of the next tile, then scan this one while they fly;
// barrier; (4) write y.
//
// Invariants. No atomics and a fixed order of additions: bitwise repeatable. Steps after the end have dt = 0 and
// B = C = 0, which leaves h as it is. Channels from D on compute on what shared memory holds and are never stored.
#pragma once

#include "common.cuh"

namespace vivim
{
constexpr int kTile = 16; // steps: divisible by every G; 4 staged rows a thread at G = 4; tiles of 2 to 6 KB in flight

// G lanes a channel, kThreads a block. See the table in kernels.cu.
template <class T, int G, int kThreads> struct StateSplit
{
    static constexpr int kLaneStates = kStates / G;
    static constexpr int kChannels = kThreads / G;
    static constexpr int kLaneSteps = kTile / G;                   // steps a thread stages
    static constexpr int kGroup = kLaneSteps < 8 ? kLaneSteps : 8; // of them at a time: 8 sums in registers
    // Blocks an SM: 512 threads of 128 registers; 384 of 168 where a thread has all the states of a channel.
    static constexpr int kBlocks = (G == 1 ? 384 : 512) / kThreads;
    static_assert(kStates % G == 0 && kTile % G == 0 && kThreads % 32 == 0 && 32 % G == 0, "whole warps");

    struct Layout
    {
        int output, rows, weight, tokens, inputs, raw, bytes; // byte offsets
    };
    static __host__ __device__ constexpr int rowFloats(int rank) { return paddedRank(rank) + 2 * kStates; }
    static __host__ __device__ constexpr Layout layout(int rank, int states)
    {
        Layout at{};
        at.output = kTile * kChannels * 8;
        at.rows = at.output + kTile * kChannels * 4;
        at.weight = at.rows + kTile * rowFloats(rank) * 4;
        at.tokens = at.weight + paddedRank(rank) * kChannels * 4;
        at.inputs = at.tokens + 2 * kTile * 4;
        at.raw = at.inputs + kTile * kChannels * int(sizeof(T));
        at.bytes = at.raw + kTile * rawRowBytes(rank, states, sizeof(T));
        return at;
    }

    // kOutput: pass 2, which starts from the chunks before and writes y; else pass 1, which starts from zero and stores
    // end state and sum of dt.
    template <bool kOutput> static __device__ __forceinline__ void run(ScanArguments<T> const& a, char* shared)
    {
        Layout const at = layout(a.rank, a.states);
        float2* const time = reinterpret_cast<float2*>(shared);
        float* const output = reinterpret_cast<float*>(shared + at.output);
        float* const rows = reinterpret_cast<float*>(shared + at.rows);
        float* const weight = reinterpret_cast<float*>(shared + at.weight);
        int* const tokens = reinterpret_cast<int*>(shared + at.tokens);
        T* const inputs = reinterpret_cast<T*>(shared + at.inputs);
        char* const raw = shared + at.raw;

        int const thread = threadIdx.x;
        int const scanChannel = thread / G, lane = thread % G;
        int const channel = thread % kChannels, firstStep = thread / kChannels; // staging: and every G-th step on
        int const firstChannel = int(blockIdx.x) * kChannels;
        int const k = blockIdx.z % a.directions.count, b = blockIdx.z / a.directions.count;
        int const direction = a.directions[k];
        int const padded = paddedRank(a.rank), stride = rowFloats(a.rank);
        int const chunk = blockIdx.y, begin = chunk * a.chunkLength, end = min(begin + a.chunkLength, a.length);
        size_t const kb = size_t(k) * a.batch + b;
        T const* const xc = a.xc + (a.sharedInput ? size_t(b) : kb) * a.length * a.width;
        T const* const dbc = a.dbc + kb * a.length * (a.rank + 2 * a.states);

        bool const inside = firstChannel + channel < a.width;
        size_t const kd = size_t(k) * a.width + firstChannel;
        float const bias = inside ? a.dtBias[kd + channel] : 0.f, skip = inside ? a.dSkip[kd + channel] : 0.f;
        for (int i = thread; i < padded * kChannels; i += kThreads)
        {
            int const c = i % kChannels, r = i / kChannels;
            weight[i] = r < a.rank && firstChannel + c < a.width ? a.dtWeight[(kd + c) * a.rank + r] : 0.f;
        }
        // Padding columns (rank to a multiple of 4, states to 16) are written by nobody else.
        if (padded > a.rank || a.states < kStates)
            for (int i = thread; i < kTile * stride; i += kThreads)
                rows[i] = 0.f;

        int const scanned = min(firstChannel + scanChannel, a.width - 1);
        float A[kLaneStates], h[kLaneStates];
#pragma unroll
        for (int n = 0; n < kLaneStates; ++n)
        {
            int const state = lane * kLaneStates + n;
            A[n] = state < a.states ? a.A_log2e[(size_t(k) * a.width + scanned) * a.states + state] : 0.f;
            h[n] = 0.f;
            // Pass 1 starts from zero: what comes in is folded by pass 2, like the chunks before.
            if (kOutput && a.initial && k == 0 && state < a.states)
                h[n] = a.initial[(size_t(b) * a.states + state) * a.width + scanned];
        }
        if (kOutput)
        {
            size_t const step = size_t(a.directions.count) * a.batch * a.width;
            size_t from = kb * a.width + scanned;
#pragma unroll 4
            for (int c = 0; c < chunk; ++c, from += step)
            {
                float const total = a.chunkTime[from];
                float ended[kLaneStates];
                loadFloats(ended, a.chunkState + from * kStates + lane * kLaneStates);
#pragma unroll
                for (int n = 0; n < kLaneStates; ++n)
                    h[n] = fmaf(exp2Fast(total * A[n]), h[n], ended[n]);
            }
        }

        auto const findTokens = [&](int tileBegin) {
            int* const to = tokens + (tileBegin - begin) / kTile % 2 * kTile;
            int const step = tileBegin + thread;
            if (thread < kTile)
                to[thread] = step < end ? tokenOfStep(direction, step, a.length, a.rows, a.columns) : -1;
        };
        auto const startCopies = [&](int tileBegin) {
            int const* const from = tokens + (tileBegin - begin) / kTile % 2 * kTile;
            copyRows<T, kThreads, kTile>(a, raw, dbc, from);
            copyInputs<T, kThreads, kTile, kChannels>(inputs, xc, from, a.width, firstChannel);
        };
        findTokens(begin);
        __syncthreads();
        startCopies(begin);

        float sum = 0.f;
        for (int tileBegin = begin; tileBegin < end; tileBegin += kTile)
        {
            int const count = min(kTile, end - tileBegin);
            int const* const token = tokens + (tileBegin - begin) / kTile % 2 * kTile;

            // (1) Own copies only, and everyone is past the scan of the last tile: no barrier before.
            waitForCopies();
            convertRows<T, kThreads, kTile>(
                a, raw, count, [&](int row, int column, float value) { rows[row * stride + column] = value; },
                [&](int row, int column, auto const& values) {
                    float4* const to = reinterpret_cast<float4*>(rows + row * stride + column);
                    to[0] = make_float4(values[0], values[1], values[2], values[3]);
                    if constexpr (sizeof(T) == 2)
                        to[1] = make_float4(values[4], values[5], values[6], values[7]);
                });
            __syncthreads(); // rows and inputs are there

            // (2) dt and the skip
#pragma unroll 1
            for (int group = 0; group < kLaneSteps; group += kGroup)
            {
                float dt[kGroup];
#pragma unroll
                for (int i = 0; i < kGroup; ++i)
                    dt[i] = bias;
#pragma unroll 1
                for (int r = 0; r < padded; r += 4)
                {
                    float w[4];
#pragma unroll
                    for (int j = 0; j < 4; ++j)
                        w[j] = weight[(r + j) * kChannels + channel];
#pragma unroll
                    for (int i = 0; i < kGroup; ++i)
                    {
                        float low[4];
                        loadFloats(low, rows + (firstStep + (group + i) * G) * stride + r);
#pragma unroll
                        for (int j = 0; j < 4; ++j)
                            dt[i] = fmaf(w[j], low[j], dt[i]);
                    }
                }
#pragma unroll
                for (int i = 0; i < kGroup; ++i)
                {
                    int const step = firstStep + (group + i) * G, at = step * kChannels + channel;
                    bool const valid = step < count;
                    float const u = valid && inside ? toFloat(inputs[at]) : 0.f, d = valid ? softplus(dt[i]) : 0.f;
                    time[at] = make_float2(d, d * u);
                    if (kOutput)
                        output[at] = skip * u;
                }
            }
            if (tileBegin + kTile < end)
                findTokens(tileBegin + kTile);
            __syncthreads(); // time and the next tokens are there; raw and inputs are free

            // (3) scan
            if (tileBegin + kTile < end)
                startCopies(tileBegin + kTile);
#pragma unroll 1
            for (int first = 0; first < kTile; first += G)
            {
                float y[G];
#pragma unroll
                for (int j = 0; j < G; ++j)
                {
                    float2 const t = time[(first + j) * kChannels + scanChannel];
                    float const* const row = rows + (first + j) * stride + padded + lane * kLaneStates;
                    float B[kLaneStates], C[kLaneStates];
                    loadFloats(B, row);
                    if (kOutput)
                        loadFloats(C, row + kStates);
                    y[j] = 0.f;
#pragma unroll
                    for (int n = 0; n < kLaneStates; ++n)
                    {
                        h[n] = fmaf(exp2Fast(t.x * A[n]), h[n], t.y * B[n]);
                        if (kOutput)
                            y[j] = fmaf(C[n], h[n], y[j]);
                    }
                    if (!kOutput)
                        sum += t.x;
                }
                if (kOutput)
                {
                    transposeSums<G / 2>(y, lane);
                    output[(first + lane) * kChannels + scanChannel] += y[0];
                }
            }
            __syncthreads(); // output is there; rows and time are free

            // (4) y
            if (kOutput && inside)
            {
                T* const y = a.yDirections + kb * a.length * a.width + firstChannel + channel;
#pragma unroll
                for (int i = 0; i < kLaneSteps; ++i)
                {
                    int const step = firstStep + i * G, to = token[step];
                    if (to >= 0)
                        y[size_t(to) * a.width] = fromFloat<T>(output[step * kChannels + channel]);
                }
            }
        }

        if (!kOutput && firstChannel + scanChannel < a.width)
        {
            size_t const to = (size_t(chunk) * a.directions.count * a.batch + kb) * a.width + scanned;
#pragma unroll
            for (int n = 0; n < kLaneStates; ++n)
                a.chunkState[to * kStates + lane * kLaneStates + n] = h[n];
            if (lane == 0)
                a.chunkTime[to] = sum;
        }
        if (kOutput && a.final)
            storeFinal(a, h);
    }

    // h of the last chunk of direction 0. Where it goes is worked out here from the start: what the loop has of it would
    // have to be kept over the loop, and costs a register too many on sm_120.
    static __device__ __forceinline__ void storeFinal(ScanArguments<T> const& a, float const (&h)[kLaneStates])
    {
        int const thread = threadIdx.x, lane = thread % G, scanned = int(blockIdx.x) * kChannels + thread / G;
        int const k = blockIdx.z % a.directions.count, b = blockIdx.z / a.directions.count;
        if (k == 0 && int(blockIdx.y) == a.chunks - 1 && scanned < a.width)
        {
#pragma unroll
            for (int n = 0; n < kLaneStates; ++n)
            {
                int const state = lane * kLaneStates + n;
                if (state < a.states)
                    a.final[(size_t(b) * a.states + state) * a.width + scanned] = h[n];
            }
        }
    }
};

// The scan, or pass 2 of length-split: gridDim.y = chunks.
template <class T, int G, int kThreads> __global__ void __launch_bounds__(kThreads, StateSplit<T, G, kThreads>::kBlocks)
    stateSplit(ScanArguments<T> a)
{
    VIVIM_SHARED_MEMORY(shared);
    StateSplit<T, G, kThreads>::template run<true>(a, shared);
}

// Pass 1 of length-split: gridDim.y = chunks - 1.
template <class T, int G, int kThreads> __global__ void __launch_bounds__(kThreads, StateSplit<T, G, kThreads>::kBlocks)
    stateSplitEnds(ScanArguments<T> a)
{
    VIVIM_SHARED_MEMORY(shared);
    StateSplit<T, G, kThreads>::template run<false>(a, shared);
}
} // namespace vivim
