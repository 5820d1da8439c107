// The plain S6 scan, channels first: G lanes share a channel, each keeps S of its states in registers and walks the steps
// one after the other. With length-split the sequence is cut into chunks that run side by side, as in
// scan_state_split.cuh.
//
//   dt_l = softplus(delta_l + bias)            or delta_l + bias
//   h_l  = exp(dt_l A) h_{l-1} + dt_l u_l B_l   N states a channel, N <= G S, float32
//   y_l  = C_l . h_l + skip u_l
//
// Layout. u, delta, y (B, D, L) and B, C (B, groups, N, L), time innermost; the E = D / groups channels of a group lie
// side by side. Shared memory of a block, in this order:
//   time  float2 [kChannels][kTile + 1]   dt and u; once a step is scanned, y in the place of u
//   rows  float  [kTile][kPitch]          B | C, each padded to G S states with zeros
//
// Who does what. Grid: x = group * blocks of a group + channel block, y chunk, z batch: a block's channels are of one
// group, so that they share the rows. The threads of a block take two roles:
//   staging  thread = row * kTile + step: the threads of a row read neighbouring steps, so that global accesses coalesce
//            (64 bytes of fp16), and find their columns of shared memory in banks of their own;
//   scan     thread = channel * G + lane: neighbours share a channel, so that the sum over states is a shuffle.
// Per tile of kTile steps: (1) stage: softplus where time is read, rows turned so that a lane's states are neighbours;
// barrier; (2) scan; barrier; (3) write y: by the thread that staged the place, which then stages the next tile there.
// The data type is asked where a tile is staged and written, and the loop that scans exists once for all three. Nothing
// is read ahead: rows of 16-bit numbers begin anywhere, where asynchronous copies do not reach; while a block waits,
// others of its SM scan.
//
// Invariants. No atomics and a fixed order of additions: bitwise repeatable. Steps after the end have dt = u = 0 and
// B = C = 0, which leaves h as it is. y takes the place of u only after a sum over all lanes that have read it.
// Channels beyond the group compute on what shared memory holds and are never stored.
#pragma once

#include "common.cuh"
#include "vivim_kernels.h"

namespace vivim
{
struct S6Arguments
{
    void const* u;     // (B, D, L)
    void const* delta; // (B, D, L)
    void const* B;     // (B, groups, N, L)
    void const* C;     // (B, groups, N, L)
    float const* A;    // (D, N), powers of e
    float const* skip; // (D), or null
    float const* bias; // (D), or null
    void* y;           // (B, D, L)
    float* chunkState; // length-split: (chunks - 1, B, D, G S), state at the end of a chunk that began at zero
    float* chunkTime;  // length-split: (chunks - 1, B, D), sum of dt over a chunk
    int batch, length, width, groups, states;
    int softplus, dtype;
    int chunks, chunkLength; // chunkLength is a multiple of kTile
};

// G lanes a channel with S states each, kThreads a block. See withS6Variant in s6_calls.cuh.
template <int G, int S, int kThreads> struct S6Split
{
    static constexpr int kPadded = G * S; // states that a channel has here; those from N on stay zero
    static constexpr int kThreadCount = kThreads, kChannels = kThreads / G;
    // Steps: whole sectors of 16-bit rows. With more states half of it, or the rows of N = 256 do not fit into the
    // 64 KiB of sm_75.
    static constexpr int kTile = kPadded > 64 ? 16 : 32;
    static constexpr int kRowsAtOnce = kThreads / kTile;
    // Whole vectors of a lane's states, and not a multiple of 32 banks from step to step.
    static constexpr int kPitch = 2 * kPadded + (S % 4 == 0 ? 4 : S);
    // Blocks an SM: 256 threads of 255 registers where 16 lanes have 16 states each, which 168 spill on sm_87; 384 of
    // 168 where one has; else 512 of 128.
    static constexpr int kBlocks = (S < 16 ? 512 : G == 1 ? 384 : 256) / kThreads;
    static constexpr int kTimeBytes = kChannels * (kTile + 1) * 8;
    static constexpr int kBytes = kTimeBytes + kTile * kPitch * 4;
    static_assert(kTile % G == 0 && kThreads % 32 == 0 && 32 % G == 0 && kTimeBytes % 16 == 0, "whole warps");

    // Calls take(a number of the type of the data).
    template <class Take> static __device__ __forceinline__ void byType(int dtype, Take const& take)
    {
        if (dtype == VIVIM_FLOAT32)
            take(float{});
        else if (dtype == VIVIM_FLOAT16)
            take(__half{});
        else
            take(__nv_bfloat16{});
    }

    // kOutput: pass 2, which starts from the chunks before and writes y; else pass 1, which starts from zero and stores
    // end state and sum of dt.
    template <bool kOutput> static __device__ __forceinline__ void run(S6Arguments const& a, char* shared)
    {
        float2* const time = reinterpret_cast<float2*>(shared);
        float* const rows = reinterpret_cast<float*>(shared + kTimeBytes);

        int const thread = threadIdx.x;
        int const scanChannel = thread / G, lane = thread % G;
        int const stagedStep = thread % kTile, firstRow = thread / kTile; // staging: and every kRowsAtOnce-th row on
        int const inner = a.width / a.groups, blocks = (inner + kChannels - 1) / kChannels;
        int const group = blockIdx.x / blocks, part = blockIdx.x % blocks, b = blockIdx.z;
        int const channels = min(kChannels, inner - part * kChannels);
        int const firstChannel = group * inner + part * kChannels;
        int const chunk = blockIdx.y, begin = chunk * a.chunkLength, end = min(begin + a.chunkLength, a.length);
        size_t const first = (size_t(b) * a.width + firstChannel) * a.length;    // of u, delta and y
        size_t const row = (size_t(b) * a.groups + group) * a.states * a.length; // of B and C

        bool const inside = scanChannel < channels;
        int const scanned = firstChannel + (inside ? scanChannel : 0);
        float const skip = a.skip ? a.skip[scanned] : 0.f;
        float A[S], h[S];
#pragma unroll
        for (int n = 0; n < S; ++n)
        {
            int const state = lane * S + n;
            A[n] = state < a.states ? a.A[size_t(scanned) * a.states + state] * kLog2e : 0.f;
            h[n] = 0.f;
        }
        if (kOutput)
        {
            size_t const step = size_t(a.batch) * a.width;
            size_t from = size_t(b) * a.width + scanned;
#pragma unroll 4
            for (int c = 0; c < chunk; ++c, from += step)
            {
                float const total = a.chunkTime[from];
                float ended[S];
                loadFloats(ended, a.chunkState + from * kPadded + lane * S);
#pragma unroll
                for (int n = 0; n < S; ++n)
                    h[n] = fmaf(exp2Fast(total * A[n]), h[n], ended[n]);
            }
        }
        // Padding states are written by nobody else.
        for (int n = a.states + firstRow; n < kPadded; n += kRowsAtOnce)
            rows[stagedStep * kPitch + n] = rows[stagedStep * kPitch + kPadded + n] = 0.f;

        float sum = 0.f;
        for (int tileBegin = begin; tileBegin < end; tileBegin += kTile)
        {
            bool const valid = tileBegin + stagedStep < end;
            size_t const at = size_t(tileBegin) + stagedStep;

            // (1) dt, u, B and C
            byType(a.dtype, [&](auto element) {
                using T = decltype(element);
                T const* const u = static_cast<T const*>(a.u) + first + at;
                T const* const delta = static_cast<T const*>(a.delta) + first + at;
#pragma unroll 4
                for (int c = firstRow; c < channels; c += kRowsAtOnce)
                {
                    float2 t = make_float2(0.f, 0.f);
                    if (valid)
                    {
                        float const bias = a.bias ? a.bias[firstChannel + c] : 0.f;
                        float const v = toFloat(delta[size_t(c) * a.length]) + bias;
                        t = make_float2(a.softplus ? softplus(v) : v, toFloat(u[size_t(c) * a.length]));
                    }
                    time[c * (kTile + 1) + stagedStep] = t;
                }
                T const* const B = static_cast<T const*>(a.B) + row + at;
                T const* const C = static_cast<T const*>(a.C) + row + at;
#pragma unroll 4
                for (int n = firstRow; n < a.states; n += kRowsAtOnce)
                {
                    float* const to = rows + stagedStep * kPitch + n;
                    to[0] = valid ? toFloat(B[size_t(n) * a.length]) : 0.f;
                    if (kOutput)
                        to[kPadded] = valid ? toFloat(C[size_t(n) * a.length]) : 0.f;
                }
            });
            __syncthreads(); // time and rows are there

            // (2) scan
            float2* const steps = time + scanChannel * (kTile + 1);
#pragma unroll(kPadded == 1 ? 4 : 1)
            for (int step = 0; step < kTile; step += G)
            {
                float y[G];
#pragma unroll
                for (int j = 0; j < G; ++j)
                {
                    float2 const t = steps[step + j];
                    float const du = t.x * t.y;
                    float const* const states = rows + (step + j) * kPitch + lane * S;
                    float B[S], C[S];
                    loadFloats(B, states);
                    if (kOutput)
                        loadFloats(C, states + kPadded);
                    y[j] = 0.f;
#pragma unroll
                    for (int n = 0; n < S; ++n)
                    {
                        h[n] = fmaf(exp2Fast(t.x * A[n]), h[n], du * B[n]);
                        if (kOutput)
                            y[j] = fmaf(C[n], h[n], y[j]);
                    }
                    if (!kOutput)
                        sum += t.x;
                }
                if (kOutput)
                {
                    transposeSums<G / 2>(y, lane);
                    float& place = steps[step + lane].y;
                    place = a.skip ? fmaf(skip, place, y[0]) : y[0];
                }
            }
            __syncthreads(); // y is there; rows are free

            // (3) y
            if (kOutput && valid)
                byType(a.dtype, [&](auto element) {
                    using T = decltype(element);
                    T* const y = static_cast<T*>(a.y) + first + at;
#pragma unroll 4
                    for (int c = firstRow; c < channels; c += kRowsAtOnce)
                        y[size_t(c) * a.length] = fromFloat<T>(time[c * (kTile + 1) + stagedStep].y);
                });
        }

        if (!kOutput && inside)
        {
            size_t const to = (size_t(chunk) * a.batch + b) * a.width + scanned;
#pragma unroll
            for (int n = 0; n < S; ++n)
                a.chunkState[to * kPadded + lane * S + n] = h[n];
            if (lane == 0)
                a.chunkTime[to] = sum;
        }
    }
};

// The scan, or pass 2 of length-split: gridDim.y = chunks.
template <int G, int S, int kThreads>
__global__ void __launch_bounds__(kThreads, S6Split<G, S, kThreads>::kBlocks) s6Scan(S6Arguments a)
{
    VIVIM_SHARED_MEMORY(shared);
    S6Split<G, S, kThreads>::template run<true>(a, shared);
}

// Pass 1 of length-split: gridDim.y = chunks - 1.
template <int G, int S, int kThreads>
__global__ void __launch_bounds__(kThreads, S6Split<G, S, kThreads>::kBlocks) s6Ends(S6Arguments a)
{
    VIVIM_SHARED_MEMORY(shared);
    S6Split<G, S, kThreads>::template run<false>(a, shared);
}
} // namespace vivim
