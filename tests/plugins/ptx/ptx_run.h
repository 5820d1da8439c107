// What the instructions of PTX do, for the C++ that translate.py makes of them: on the fibers of the CPU emulator.
//
// Every access is checked for its alignment, and one to shared memory for its bounds: a wrong one ends the process.
#pragma once

#include "emulation/cuda_emulator.h"

#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

#include <cstdlib>
#include <type_traits>

namespace
{

namespace emulation = vivim::emulation;

[[noreturn]] inline void fail(char const* what, uint64_t address, int size)
{
    std::fprintf(stderr, "PTX: %s at %llx, %d bytes\n", what, static_cast<unsigned long long>(address), size);
    std::abort();
}

// ---- which kernels ran ----

std::mutex notes;
std::string ran;

inline bool note(char const* kernel)
{
    std::lock_guard<std::mutex> const guard(notes);
    ran.append(kernel).append(" ");
    return true;
}

// ---- registers ----

// A value as another type: bits stay what they are between integers and floats.
template <class To, class From> To as(From from)
{
    if constexpr (std::is_same_v<To, float> != std::is_same_v<From, float>)
    {
        static_assert(sizeof(To) == sizeof(From), "the same bits");
        To to;
        std::memcpy(&to, &from, sizeof to);
        return to;
    }
    else
        return static_cast<To>(from);
}

template <class Register, class Value> void set(Register& to, Value value) { to = as<Register>(value); }

template <class Half, class Whole> void split(Half& low, Half& high, Whole whole)
{
    low = static_cast<Half>(whole);
    high = static_cast<Half>(whole >> (8 * sizeof(Half)));
}
template <class Whole, class Half> Whole join(Half low, Half high)
{
    return static_cast<Whole>(low) | static_cast<Whole>(high) << (8 * sizeof(Half));
}

// ---- memory ----

inline char* sharedAt(uint32_t offset, int size)
{
    auto& shared = emulation::block->shared;
    if (offset % size || offset + size > shared.size() * sizeof shared[0])
        fail("shared memory", offset, size);
    return reinterpret_cast<char*>(shared.data()) + offset;
}
inline char* globalAt(uint64_t address, int size)
{
    if (address % size)
        fail("misaligned memory", address, size);
    return reinterpret_cast<char*>(address);
}
template <class T> T load(char const* from)
{
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}
template <class T> void store(char* to, T value) { std::memcpy(to, &value, sizeof value); }
inline void copyAsync(char* to, char const* from, int bytes) { emulation::copyLater(to, from, bytes); }

// ---- arithmetic ----

// Shifts by the width and more give 0, or the sign.
template <class T> T shl(T value, uint32_t count) { return count >= 8 * sizeof(T) ? T(0) : T(value << count); }
template <class T> T shr(T value, uint32_t count)
{
    if (count >= 8 * sizeof(T))
        return std::is_signed_v<T> && value < 0 ? T(-1) : T(0);
    return T(value >> count);
}
inline uint32_t bfi(uint32_t from, uint32_t into, uint32_t position, uint32_t length)
{
    uint32_t const mask = (length >= 32 ? ~0u : (1u << length) - 1) << position;
    return (into & ~mask) | ((from << position) & mask);
}

inline float flush(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.f, x) : x; }
inline float ex2(float x) { return flush(exp2f(flush(x))); }
inline float rcp(float x) { return flush(1.f / flush(x)); }

// ---- shuffles ----

enum class Shuffle { kUp, kXor };

// shfl.sync as the PTX manual defines it: `segment` holds the mask of the segment in bits 8 to 12 and the clamp below.
inline uint32_t shuffle(
    Shuffle mode, uint32_t value, uint32_t distance, uint32_t segment, uint32_t members, bool& inside)
{
    if (members != ~0u)
        fail("a shuffle of some lanes", members, 4);
    emulation::Fiber* const fiber = emulation::block->current;
    int const warp = fiber->linear / 32;
    uint32_t const lane = fiber->linear % 32, mask = segment >> 8 & 31, clamp = segment & 31;
    auto& slots = emulation::block->exchange[warp][fiber->shuffles++ & 1];
    slots[lane] = value;
    emulation::arrive(emulation::block->warps[warp]);
    uint32_t const limit = (lane & mask) | (clamp & ~mask & 31);
    distance &= 31;
    uint32_t const source = mode == Shuffle::kUp ? lane - distance : lane ^ distance;
    inside = mode == Shuffle::kUp ? int(source) >= int(limit) : source <= limit;
    return slots[inside ? source & 31 : lane];
}

} // namespace

// The names of the kernels that ran, each followed by a blank.
extern "C" __attribute__((visibility("default"))) char const* vivim_ptx_ran() { return ran.c_str(); }
