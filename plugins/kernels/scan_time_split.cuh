// Directional selective scan, time-split: S lanes share a channel, each takes kRun consecutive steps of a tile of
// S * kRun. Every exponential is computed once, and no second pass is needed.
//
//   The recurrence is that of scan_state_split.cuh. For each state, a lane computes h from zero over its steps and the
//   decay P = exp(A sum dt) of all of them; pairs (P, h) compose as (P2, h2) after (P1, h1) = (P2 P1, P2 h1 + h2), so
//   log2(S) shuffles give each lane what came before it, the carry of the last tile included (it enters through the
//   first lane); a second sweep over the decays, kept in registers, gives the states and y. A state that comes in is the
//   first carry, and the one that goes out is the last.
//
// Layout. As in scan_state_split.cuh. Shared memory of a block, in this order; a row of a tile is kept as S runs of
// kRun floats padded by 4, so that the 16-byte reads of S lanes fall into different banks:
//   time    float [kChannels][kRowFloats]     dt, later C . h
//   input   float [kChannels][kRowFloats]     dt u
//   states  float [2 * 16][kRowFloats]        B | C, state by state
//   low     float [kTile][R4]                 R4 = 4 ceil(R / 4)
//   weight  float [R4][kChannels]
//   decay   float [kChannels][16]             A_log2e
//   carry   float [2][kChannels][16]          state at the end of the last tile and of this one, by turns
//   tokens  int   [2][kTile]                  of this tile and the next; -1 after the end
//   inputs  T     [kTile][kChannels]          u, as it is in global memory
//   raw     bytes [kTile][16 ceil(W / 16)]    rows of dbc, as they are in global memory
//
// Who does what. Grid: x channel block, z batch * K + k. Roles as in scan_state_split.cuh with S for G. Per tile: (1)
// wait for the copies, widen and transpose the own rows of dbc; barrier; (2) dt, tokens of the next tile; barrier; (3)
// start the copies of the next tile, then the states one after the other; barrier; (4) add the skip and write y.
//
// Invariants. No atomics and a fixed order of operations: bitwise repeatable. Steps after the end have dt = 0 and
// B = C = 0: decay 1, no input. Channels from D on compute on what shared memory holds and are never stored.
#pragma once

#include "common.cuh"

namespace vivim
{
// S lanes a channel, kRun steps a lane, kThreads a block. See the table in kernels.cu.
template <class T, int S, int kRun, int kThreads> struct TimeSplit
{
    static constexpr int kChannels = kThreads / S;
    static constexpr int kTileSteps = S * kRun;
    static constexpr int kPaddedRun = kRun + 4;
    static constexpr int kRowFloats = S * kPaddedRun + 4; // 4 more: neighbouring channels start in different banks
    static_assert(kRun % 4 == 0 && kThreads % 32 == 0 && 32 % S == 0, "whole warps and 16-byte reads");

    struct Layout
    {
        int input, states, low, weight, decay, carry, tokens, inputs, raw, bytes; // byte offsets
    };
    static __host__ __device__ constexpr Layout layout(int rank, int states)
    {
        Layout at{};
        at.input = kChannels * kRowFloats * 4;
        at.states = at.input + kChannels * kRowFloats * 4;
        at.low = at.states + 2 * kStates * kRowFloats * 4;
        at.weight = at.low + kTileSteps * paddedRank(rank) * 4;
        at.decay = at.weight + paddedRank(rank) * kChannels * 4;
        at.carry = at.decay + kChannels * kStates * 4;
        at.tokens = at.carry + 2 * kChannels * kStates * 4;
        at.inputs = at.tokens + 2 * kTileSteps * 4;
        at.raw = at.inputs + kTileSteps * kChannels * int(sizeof(T));
        at.bytes = at.raw + kTileSteps * rawRowBytes(rank, states, sizeof(T));
        return at;
    }
    static __device__ __forceinline__ int position(int step) { return step / kRun * kPaddedRun + step % kRun; }

    // (P, h) of this lane after those of the lanes before it, `offset` lanes at a time; lanes with none before stay.
    // kDecay: P is needed again. In PTX, because the shuffle says itself which lanes have a source, and the compiler
    // spends 3 moves a step on selecting.
    template <bool kDecay> static __device__ __forceinline__ void compose(float& h, float& P, int lane, int offset)
    {
#if defined(VIVIM_EMULATE)
        float const hBefore = __shfl_up_sync(kWholeWarp, h, offset, S);
        float const PBefore = kDecay ? __shfl_up_sync(kWholeWarp, P, offset, S) : 1.f;
        if (lane >= offset)
            h = fmaf(P, hBefore, h), P *= PBefore;
#else
        constexpr int kSegment = (32 - S) << 8; // shuffles stay inside S lanes
        if (kDecay)
            asm volatile("{ .reg .pred p; .reg .f32 a, b; shfl.sync.up.b32 a|p, %0, %2, %3, -1;"
                         " shfl.sync.up.b32 b, %1, %2, %3, -1; @p fma.rn.f32 %0, %1, a, %0; @p mul.rn.f32 %1, %1, b; }"
                : "+f"(h), "+f"(P)
                : "r"(offset), "n"(kSegment));
        else
            asm volatile(
                "{ .reg .pred p; .reg .f32 a; shfl.sync.up.b32 a|p, %0, %2, %3, -1; @p fma.rn.f32 %0, %1, a, %0; }"
                : "+f"(h)
                : "f"(P), "r"(offset), "n"(kSegment));
#endif
    }

    static __device__ __forceinline__ void run(ScanArguments<T> const& a, char* shared)
    {
        Layout const at = layout(a.rank, a.states);
        float* const time = reinterpret_cast<float*>(shared);
        float* const input = reinterpret_cast<float*>(shared + at.input);
        float* const states = reinterpret_cast<float*>(shared + at.states);
        float* const low = reinterpret_cast<float*>(shared + at.low);
        float* const weight = reinterpret_cast<float*>(shared + at.weight);
        float* decay = reinterpret_cast<float*>(shared + at.decay);
        float* const carry = reinterpret_cast<float*>(shared + at.carry);
        int* const tokens = reinterpret_cast<int*>(shared + at.tokens);
        T* const inputs = reinterpret_cast<T*>(shared + at.inputs);
        char* const raw = shared + at.raw;

        int const thread = threadIdx.x;
        int const scanChannel = thread / S, lane = thread % S;
        int const channel = thread % kChannels, firstStep = thread / kChannels; // staging: and every S-th step on
        int const firstChannel = int(blockIdx.x) * kChannels;
        int const k = blockIdx.z % a.directions.count, b = blockIdx.z / a.directions.count;
        int const direction = a.directions[k];
        int const padded = paddedRank(a.rank);
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
        for (int i = thread; i < kChannels * kStates; i += kThreads)
        {
            int const c = i / kStates, n = i % kStates;
            bool const real = n < a.states && firstChannel + c < a.width;
            decay[i] = real ? a.A_log2e[(kd + c) * a.states + n] : 0.f;
            carry[i] =
                real && a.initial && k == 0 ? a.initial[(size_t(b) * a.states + n) * a.width + firstChannel + c] : 0.f;
        }
        // Padding (rank to a multiple of 4, states to 16) is written by nobody else.
        if (padded > a.rank)
            for (int i = thread; i < kTileSteps * padded; i += kThreads)
                low[i] = 0.f;
        if (a.states < kStates)
            for (int i = thread; i < 2 * kStates * kRowFloats; i += kThreads)
                states[i] = 0.f;

        decay += scanChannel * kStates;
        float *before = carry + scanChannel * kStates, *after = before + kChannels * kStates;

        auto const findTokens = [&](int tileBegin) {
            int* const to = tokens + tileBegin / kTileSteps % 2 * kTileSteps;
            for (int i = thread; i < kTileSteps; i += kThreads)
                to[i] =
                    tileBegin + i < a.length ? tokenOfStep(direction, tileBegin + i, a.length, a.rows, a.columns) : -1;
        };
        auto const startCopies = [&](int tileBegin) {
            int const* const from = tokens + tileBegin / kTileSteps % 2 * kTileSteps;
            copyRows<T, kThreads, kTileSteps>(a, raw, dbc, from);
            copyInputs<T, kThreads, kTileSteps, kChannels>(inputs, xc, from, a.width, firstChannel);
        };
        findTokens(0);
        __syncthreads();
        startCopies(0);

        for (int tileBegin = 0; tileBegin < a.length; tileBegin += kTileSteps)
        {
            int const count = min(kTileSteps, a.length - tileBegin);
            int const* const token = tokens + tileBegin / kTileSteps % 2 * kTileSteps;

            // (1) Own copies only, and everyone is past the scan of the last tile: no barrier before.
            waitForCopies();
            auto const store = [=](int row, int column, float value) {
                if (column < padded)
                    low[row * padded + column] = value;
                else
                    states[(column - padded) * kRowFloats + position(row)] = value;
            };
            convertRows<T, kThreads, kTileSteps>(a, raw, count, store, [&](int row, int column, auto const& values) {
#pragma unroll
                for (int i = 0; i < int(16 / sizeof(T)); ++i)
                    store(row, column + i, values[i]);
            });
            __syncthreads(); // low, states and inputs are there

            // (2) dt
            float u[kRun];
            {
                float dt[kRun];
#pragma unroll
                for (int i = 0; i < kRun; ++i)
                {
                    int const step = firstStep + i * S;
                    u[i] = inside && step < count ? toFloat(inputs[step * kChannels + channel]) : 0.f;
                    dt[i] = bias;
                }
#pragma unroll 1
                for (int r = 0; r < padded; r += 4)
                {
                    float w[4];
#pragma unroll
                    for (int j = 0; j < 4; ++j)
                        w[j] = weight[(r + j) * kChannels + channel];
#pragma unroll
                    for (int i = 0; i < kRun; ++i)
                    {
                        float v[4];
                        loadFloats(v, low + (firstStep + i * S) * padded + r);
#pragma unroll
                        for (int j = 0; j < 4; ++j)
                            dt[i] = fmaf(w[j], v[j], dt[i]);
                    }
                }
#pragma unroll
                for (int i = 0; i < kRun; ++i)
                {
                    int const step = firstStep + i * S, to = channel * kRowFloats + position(step);
                    dt[i] = step < count ? softplus(dt[i]) : 0.f;
                    time[to] = dt[i];
                    input[to] = dt[i] * u[i];
                }
            }
            if (tileBegin + kTileSteps < a.length)
                findTokens(tileBegin + kTileSteps);
            __syncthreads(); // time, input and the next tokens are there; raw and inputs are free

            // (3) scan
            if (tileBegin + kTileSteps < a.length)
                startCopies(tileBegin + kTileSteps);
            float* const ownTime = time + scanChannel * kRowFloats + lane * kPaddedRun;
            float dt[kRun], dtu[kRun], y[kRun], sum = 0.f;
            loadFloats(dt, ownTime);
            loadFloats(dtu, input + scanChannel * kRowFloats + lane * kPaddedRun);
#pragma unroll
            for (int i = 0; i < kRun; ++i)
                sum += dt[i], y[i] = 0.f;
#pragma unroll 1
            for (int n = 0; n < kStates; ++n)
            {
                float const* const B = states + n * kRowFloats + lane * kPaddedRun;
                float const* const C = B + kStates * kRowFloats;
                float factor[kRun], added[kRun], v[kRun];
                loadFloats(v, B);
                // The carry enters through lane 0, so that the state that a lane ends with is the true one.
                float const A = decay[n], carried = lane == 0 ? before[n] : 0.f;
                float h = carried, P = exp2Fast(sum * A);
#pragma unroll
                for (int i = 0; i < kRun; ++i)
                {
                    factor[i] = exp2Fast(dt[i] * A);
                    added[i] = dtu[i] * v[i];
                    h = fmaf(factor[i], h, added[i]);
                }
#pragma unroll
                for (int offset = 1; offset < S / 2; offset *= 2)
                    compose<true>(h, P, lane, offset);
                compose<false>(h, P, lane, S / 2);
                if (lane == S - 1)
                    after[n] = h;
                float const hBefore = __shfl_up_sync(kWholeWarp, h, 1, S);
                h = lane == 0 ? carried : hBefore;
                loadFloats(v, C);
#pragma unroll
                for (int i = 0; i < kRun; ++i)
                {
                    h = fmaf(factor[i], h, added[i]);
                    y[i] = fmaf(v[i], h, y[i]);
                }
            }
            float* const swapped = before;
            before = after, after = swapped;
#pragma unroll
            for (int i = 0; i < kRun / 4; ++i) // over the own dt, which is in registers
                reinterpret_cast<float4*>(ownTime)[i] = make_float4(y[4 * i], y[4 * i + 1], y[4 * i + 2], y[4 * i + 3]);
            __syncthreads(); // C . h is there; states, low and input are free

            // (4) y
            if (inside)
            {
                T* const y = a.yDirections + kb * a.length * a.width + firstChannel + channel;
#pragma unroll
                for (int i = 0; i < kRun; ++i)
                {
                    int const step = firstStep + i * S, to = token[step];
                    if (to >= 0)
                        y[size_t(to) * a.width] =
                            fromFloat<T>(fmaf(skip, u[i], time[channel * kRowFloats + position(step)]));
                }
            }
        }

        // The last tile's barrier is behind everyone: its carries are there.
        if (a.final && k == 0 && firstChannel + scanChannel < a.width)
            for (int n = lane; n < a.states; n += S)
                a.final[(size_t(b) * a.states + n) * a.width + firstChannel + scanChannel] = before[n];
    }
};

// 3 blocks an SM: more do not fit in shared memory, and 168 registers a thread hold the decays of a run.
template <class T, int S, int kRun, int kThreads>
__global__ void __launch_bounds__(kThreads, 3) timeSplit(ScanArguments<T> a)
{
    VIVIM_SHARED_MEMORY(shared);
    TimeSplit<T, S, kRun, kThreads>::run(a, shared);
}
} // namespace vivim
