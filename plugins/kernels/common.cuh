// What the kernels share: sizes, arguments, numerics, the order of the tokens, and the staging of rows.
//
// Numerics. All arithmetic is float32. Exponentials are ex2.approx.ftz (one instruction of the special function unit,
// at most 2 ulp) with log2(e) folded into the argument: A_log2e = A log2(e). fp16x2 and bf16 exponentials are no faster
// where the unit is the limit and 10 to 1000 times less exact; a polynomial would cost issue slots, of which there are
// none to spare.
//
// Order. The tokens form a grid of `rows` x `columns`, row-major; tokenOfStep() says which one step l of a direction
// visits. All arrays are stored at token positions: a direction is a way to walk, never a copy.
#pragma once

#include "launch.cuh"

#include <cstdint>

namespace vivim
{
constexpr int kStates = 16;  // N that the kernels compute; fewer are padded with states that stay zero
constexpr int kTaps = 4;     // of the causal convolution
constexpr int kMaxRank = 64; // R: shared memory is laid out for it
constexpr int kMaxDirections = 4;
constexpr int kChannelGroup = 8; // D is a multiple of it: 16 bytes of fp16, so that xc is copied by whole vectors
constexpr unsigned kWholeWarp = 0xffffffffu;
constexpr float kLog2e = 1.4426950408889634f;

// Up to four directions in one register, one byte each: an array would be indexed in local memory.
struct Directions
{
    uint32_t packed;
    int count;
    __host__ __device__ __forceinline__ int operator[](int k) const { return int(packed >> (8 * k)) & 3; }
};

// Adjacent channels that move as one vector.
template <class T, int V> struct alignas(sizeof(T) * V) Channels { T value[V]; };

template <class T> struct ScanArguments
{
    T const* xc;           // (K or 1, B, L, D)
    T const* dbc;          // (K, B, L, R + 2N): [low | B | C]
    float const* A_log2e;  // (K, D, N)
    float const* dtWeight; // (K, D, R)
    float const* dtBias;   // (K, D)
    float const* dSkip;    // (K, D)
    T* yDirections;        // (K, B, L, D)
    float* chunkState;     // length-split: (chunks - 1, K, B, D, 16), state at the end of a chunk that began at zero
    float* chunkTime;      // length-split: (chunks - 1, K, B, D), sum of dt over a chunk
    float const* initial;  // (B, N, D), state of the first direction before its first step; null: zeros
    float* final;          // (B, N, D), and after its last; null: nobody asks. Never the memory of `initial`
    int batch, length, width, rows, columns, rank, states;
    Directions directions;
    int sharedInput;
    int chunks, chunkLength; // chunkLength is a multiple of kTile of scan_state_split.cuh
    // Rows of dbc move in vectors of 1 << vectorLog2 bytes, the widest that row bytes are a multiple of;
    // 1 << lanesLog2 threads share a row.
    int vectorLog2, vectors, lanesLog2;
};

// ---- numerics ----

__device__ __forceinline__ float toFloat(float v) { return v; }
__device__ __forceinline__ float toFloat(__half v) { return __half2float(v); }
__device__ __forceinline__ float toFloat(__nv_bfloat16 v) { return __bfloat162float(v); }

template <class T> __device__ __forceinline__ T fromFloat(float v);
template <> __device__ __forceinline__ float fromFloat<float>(float v) { return v; }
template <> __device__ __forceinline__ __half fromFloat<__half>(float v) { return __float2half_rn(v); }
template <> __device__ __forceinline__ __nv_bfloat16 fromFloat<__nv_bfloat16>(float v)
{
    return __float2bfloat16_rn(v);
}

__device__ __forceinline__ float exp2Fast(float x)
{
#if defined(VIVIM_EMULATE)
    return x < -126.f ? 0.f : exp2f(x); // ftz: results below the normal numbers are zero
#else
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
#endif
}

__device__ __forceinline__ float reciprocalFast(float x)
{
#if defined(VIVIM_EMULATE)
    return 1.f / x;
#else
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
#endif
}

// log(1 + exp(v)) = max(v, 0) + log1p(e), e = exp(-|v|) in (0, 1]. log1p(e) / e is a polynomial of degree 8 within 3e-8
// (relative; minimax by reweighted least squares) before rounding, so that a tiny dt too is right in all its digits.
__device__ __forceinline__ float softplus(float v)
{
    float const e = exp2Fast(-fabsf(v) * kLog2e);
    float p = 5.232737865e-03f;
    p = fmaf(p, e, -2.950541303e-02f);
    p = fmaf(p, e, 7.822623849e-02f);
    p = fmaf(p, e, -1.366326958e-01f);
    p = fmaf(p, e, 1.910601854e-01f);
    p = fmaf(p, e, -2.484298497e-01f);
    p = fmaf(p, e, 3.331909776e-01f);
    p = fmaf(p, e, -4.999949336e-01f);
    p = fmaf(p, e, 9.999999404e-01f);
    return fmaf(e, p, fmaxf(v, 0.f));
}

// v / (1 + exp(-v)). For v -> -inf the exponential is inf and its reciprocal 0.
__device__ __forceinline__ float silu(float v) { return v * reciprocalFast(1.f + exp2Fast(-kLog2e * v)); }

// Transposing butterfly: G partial sums of G steps go in, lane g keeps in y[0] the total of step g; kHalf is G / 2 at
// first. Unrolled by template: with a loop over kHalf, nvcc indexes 16 sums in local memory.
template <int kHalf, int G> __device__ __forceinline__ void transposeSums(float (&y)[G], int lane)
{
    if constexpr (kHalf >= 1)
    {
        bool const upper = (lane & kHalf) != 0;
#pragma unroll
        for (int i = 0; i < kHalf; ++i)
        {
            float const sent = upper ? y[i] : y[i + kHalf], kept = upper ? y[i + kHalf] : y[i];
            y[i] = kept + __shfl_xor_sync(kWholeWarp, sent, kHalf);
        }
        transposeSums<kHalf / 2>(y, lane);
    }
}

// ---- the order of the tokens ----

// Directions: 0 rows forward, 1 rows backward, 2 columns forward, 3 columns backward.
__device__ __forceinline__ int tokenOfStep(int direction, int step, int length, int rows, int columns)
{
    if (direction & 1)
        step = length - 1 - step;
    if (direction < 2)
        return step;
    int const column = step / rows;
    return (step - column * rows) * columns + column;
}

// ---- staging ----

// Starts a copy of 1 << log2Bytes bytes from global to shared memory. It is there after waitForCopies() for the thread
// itself, after a barrier too for the others. sm_75 and 2-byte vectors copy at once.
__device__ __forceinline__ void copyAsync(void* to, void const* from, int log2Bytes)
{
#if defined(VIVIM_EMULATE)
    emulation::copyLater(to, from, 1 << log2Bytes);
#else
#if __CUDA_ARCH__ >= 800
    unsigned const shared = static_cast<unsigned>(__cvta_generic_to_shared(to));
    if (log2Bytes == 4)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(from) : "memory");
    else if (log2Bytes == 3)
        asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(shared), "l"(from) : "memory");
    else if (log2Bytes == 2)
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared), "l"(from) : "memory");
#else
    if (log2Bytes == 4)
        *static_cast<uint4*>(to) = *static_cast<uint4 const*>(from);
    else if (log2Bytes == 3)
        *static_cast<uint2*>(to) = *static_cast<uint2 const*>(from);
    else if (log2Bytes == 2)
        *static_cast<unsigned*>(to) = *static_cast<unsigned const*>(from);
#endif
    else
        *static_cast<uint16_t*>(to) = *static_cast<uint16_t const*>(from);
#endif
}

__device__ __forceinline__ void waitForCopies()
{
#if defined(VIVIM_EMULATE)
    emulation::finishCopies(__FILE__, __LINE__);
#elif __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

template <int kCount> __device__ __forceinline__ void loadFloats(float (&to)[kCount], float const* from)
{
    if constexpr (kCount % 4 == 0)
    {
#pragma unroll
        for (int i = 0; i < kCount / 4; ++i)
        {
            float4 const q = reinterpret_cast<float4 const*>(from)[i];
            to[4 * i] = q.x, to[4 * i + 1] = q.y, to[4 * i + 2] = q.z, to[4 * i + 3] = q.w;
        }
    }
    else if constexpr (kCount == 2)
    {
        float2 const q = *reinterpret_cast<float2 const*>(from);
        to[0] = q.x, to[1] = q.y;
    }
    else
    {
#pragma unroll
        for (int i = 0; i < kCount; ++i)
            to[i] = from[i];
    }
}

// Widens a 16-byte vector.
__device__ __forceinline__ void widen(float (&to)[4], float const* from) { loadFloats(to, from); }
template <class T> __device__ __forceinline__ void widen(float (&to)[8], T const* from)
{
    uint4 const bits = *reinterpret_cast<uint4 const*>(from);
    unsigned const words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < 4; ++i)
    {
        T pair[2];
        memcpy(pair, &words[i], sizeof pair);
        to[2 * i] = toFloat(pair[0]), to[2 * i + 1] = toFloat(pair[1]);
    }
}

__host__ __device__ constexpr int roundUp(int value, int unit) { return (value + unit - 1) / unit * unit; }
// Columns of low in shared memory: whole float4, the rest zero.
__host__ __device__ constexpr int paddedRank(int rank) { return roundUp(rank, 4); }
// Bytes of a raw row of dbc in shared memory.
__host__ __device__ constexpr int rawRowBytes(int rank, int states, int elementBytes)
{
    return roundUp((rank + 2 * states) * elementBytes, 16);
}

// Starts the copies of the rows of dbc that this thread stages: vector `lane`, lane + lanes, ... of rows first,
// first + step, ...; the same thread later reads what it copied (forEachRaw), so no barrier is between.
template <class T, int kThreads, int kSteps>
__device__ __forceinline__ void copyRows(ScanArguments<T> const& a, char* raw, T const* dbc, int const* tokens)
{
    int const lane = threadIdx.x & ((1 << a.lanesLog2) - 1);
    int const columns = a.rank + 2 * a.states, pitch = rawRowBytes(a.rank, a.states, sizeof(T));
#pragma unroll 1
    for (int row = threadIdx.x >> a.lanesLog2; row < kSteps; row += kThreads >> a.lanesLog2)
    {
        int const token = tokens[row];
        if (token < 0)
            break;
        char const* const from = reinterpret_cast<char const*>(dbc + size_t(token) * columns);
#pragma unroll 1
        for (int v = lane; v < a.vectors; v += 1 << a.lanesLog2)
            copyAsync(raw + row * pitch + (v << a.vectorLog2), from + (v << a.vectorLog2), a.vectorLog2);
    }
}

// Starts the copies of kChannels channels of xc for each step of a tile. Channels beyond D are left out.
template <class T, int kThreads, int kSteps, int kChannels>
__device__ __forceinline__ void copyInputs(T* raw, T const* xc, int const* tokens, int width, int firstChannel)
{
    constexpr int kPerVector = 16 / sizeof(T), kVectors = kChannels / kPerVector;
    static_assert(kChannels % kChannelGroup == 0 && kThreads % kVectors == 0, "rows of whole vectors");
    int const channel = threadIdx.x % kVectors * kPerVector;
    if (firstChannel + channel >= width)
        return;
    for (int row = threadIdx.x / kVectors; row < kSteps; row += kThreads / kVectors)
    {
        int const token = tokens[row];
        if (token < 0)
            break;
        copyAsync(raw + row * kChannels + channel, xc + size_t(token) * width + firstChannel + channel, 4);
    }
}

// Calls store(row, column, value) for every element that this thread copied, with value 0 in rows from `count` on; or
// storeVector(row, column, values) for every 16-byte vector, where each lies inside low, B or C. Columns are those of
// the padded row [low: paddedRank | B: 16 | C: 16].
template <class T, int kThreads, int kSteps, class Store, class StoreVector>
__device__ __forceinline__ void convertRows(
    ScanArguments<T> const& a, char const* raw, int count, Store const& store, StoreVector const& storeVector)
{
    constexpr int kPerVector = 16 / sizeof(T);
    int const lane = threadIdx.x & ((1 << a.lanesLog2) - 1);
    int const pitch = rawRowBytes(a.rank, a.states, sizeof(T)), padded = paddedRank(a.rank);
    bool const whole = a.vectorLog2 == 4 && a.rank % kPerVector == 0 && a.states == kStates;
#pragma unroll 1
    for (int row = threadIdx.x >> a.lanesLog2; row < kSteps; row += kThreads >> a.lanesLog2)
    {
#pragma unroll 1
        for (int v = lane; v < a.vectors; v += 1 << a.lanesLog2)
        {
            T const* const from = reinterpret_cast<T const*>(raw + row * pitch + (v << a.vectorLog2));
            if (whole)
            {
                float values[kPerVector] = {};
                if (row < count)
                    widen(values, from);
                storeVector(row, v * kPerVector, values);
                continue;
            }
            int const elements = (1 << a.vectorLog2) / int(sizeof(T));
#pragma unroll 1
            for (int i = 0; i < elements; ++i)
            {
                int column = v * elements + i;
                if (column >= a.rank + a.states)
                    column += kStates - a.states;
                if (column >= a.rank)
                    column += padded - a.rank;
                store(row, column, row < count ? toFloat(from[i]) : 0.f);
            }
        }
    }
}
} // namespace vivim
