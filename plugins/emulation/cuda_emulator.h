// Runs the CUDA C++ kernels on the CPU, so that their tests need no GPU.
//
// Every CUDA thread of a block is a fiber on one OS thread; the blocks of a grid are spread over the OS threads. A
// fiber runs until it waits at a barrier or a shuffle, then the next runnable one is taken: in ascending, descending or
// shuffled order. What this shows that a GPU hides:
//   - a missing barrier, as a result that depends on the order or is wrong (readers meet NaN or the previous tile);
//   - a barrier or shuffle that not all threads reach, as an error that names the block (runGrid);
//   - reads of shared memory that nobody wrote: it starts as NaN (all bits set);
//   - reads of an asynchronous copy before the wait: the copy is done at the wait, until then its target is NaN.
// What it does not show: memory order weaker than program order, and races inside a warp between two shuffles (a
// shuffle synchronises the warp here; in CUDA it does not order memory).
//
// Covered: dynamic shared memory, __syncthreads, __syncwarp, shuffles up and xor of 32-bit values, fp16 and bf16
// storage types, copyAsync/waitForCopies of kernels/common.cuh. A barrier (or wait for copies) is known by its file and
// line, and any one can be removed at run time: that is how tests prove that each of them is needed.
#pragma once
#undef _FORTIFY_SOURCE // its longjmp refuses to jump between stacks

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <ucontext.h>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

// ---- the parts of the CUDA language and headers that the kernels use ----

struct dim3
{
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

using std::max;
using std::min;

namespace vivim::emulation
{
inline uint32_t bitsOf(float f)
{
    uint32_t bits;
    std::memcpy(&bits, &f, sizeof bits);
    return bits;
}
inline float floatOf(uint32_t bits)
{
    float f;
    std::memcpy(&f, &bits, sizeof f);
    return f;
}
} // namespace vivim::emulation

// By hand, because g++ knows _Float16 in C++ from version 12 or 13 on, by machine.
struct __half { uint16_t v; };
inline float __half2float(__half h)
{
    using namespace vivim::emulation;
    uint32_t const sign = uint32_t(h.v & 0x8000u) << 16, rest = h.v & 0x7fffu;
    if (rest < 0x400u)
        return floatOf(sign | bitsOf(float(rest) * 0x1p-24f)); // subnormal
    return floatOf(sign | ((rest << 13) + (rest < 0x7c00u ? 0x38000000u : 0x70000000u)));
}
inline __half __float2half_rn(float f)
{
    using namespace vivim::emulation;
    uint32_t const sign = bitsOf(f) >> 16 & 0x8000u, rest = bitsOf(f) & 0x7fffffffu;
    uint32_t half;
    if (rest > 0x7f800000u)
        half = 0x7e00u; // NaN
    else if (rest >= 0x477ff000u)
        half = 0x7c00u; // 65520 and above
    else if (rest < 0x38800000u)
        half = bitsOf(floatOf(rest) + 0.5f) - bitsOf(0.5f); // subnormal: the sum rounds to multiples of 2^-24
    else
        half = (rest - 0x38000000u + 0xfffu + (rest >> 13 & 1)) >> 13;
    return {uint16_t(sign | half)};
}

struct __nv_bfloat16 { uint16_t v; };
inline float __bfloat162float(__nv_bfloat16 h) { return vivim::emulation::floatOf(uint32_t(h.v) << 16); }
inline __nv_bfloat16 __float2bfloat16_rn(float f)
{
    uint32_t const bits = vivim::emulation::bitsOf(f);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return {uint16_t((bits >> 16) | 64)}; // a NaN stays one
    return {uint16_t((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16)};
}

namespace vivim::emulation
{
enum class Order : int { kForward = 0, kReverse = 1, kRandom = 2 };

constexpr size_t kSharedLimit = 99 << 10; // bytes a block may have, as on sm_86 and sm_89

// What tests set; one for the process.
struct Control
{
    std::atomic<int> order{0};
    std::atomic<unsigned> seed{1234};
    std::atomic<int> maxThreads{0};     // OS threads; 0: as many as the machine has
    std::atomic<int> skippedLine{0};    // the barrier that is removed; 0: none
    std::string skippedFile;            // last component of its path
    std::atomic<int> skippedLaunch{-1}; // of the launches since then, the one it is removed in; -1: in all
    std::atomic<int> launches{0};       // launches since then
    std::atomic<bool> skipped{false};   // whether a thread came to it
    std::atomic<size_t> sharedLimit{kSharedLimit};
};
inline Control& control()
{
    static Control instance;
    return instance;
}

// ---- fibers ----

struct Context
{
    jmp_buf registers;
#if defined(__SANITIZE_ADDRESS__)
    void* fakeStack = nullptr;
#endif
};

struct Barrier
{
    int expected = 0, arrived = 0;
    unsigned generation = 0;
};

struct Copy
{
    void* to;
    void const* from;
    int bytes;
};

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStackBytes = 256 << 10; // red zones around every variable
#else
constexpr size_t kStackBytes = 64 << 10;
#endif

struct Fiber
{
    Context context;
    ucontext_t first;
    std::unique_ptr<char[]> stack;
    std::vector<Copy> copies;
    bool started = false, done = false;
    Barrier* awaited = nullptr; // blocked while its generation is the one below
    unsigned generation = 0;
    unsigned shuffles = 0;
    dim3 threadIdx;
    int linear = 0;

    bool blocked() const { return awaited && awaited->generation == generation; }
};

struct Block
{
    std::vector<Fiber> fibers;
    std::vector<uint4> shared;
    Barrier all;
    std::vector<Barrier> warps;
    std::vector<std::array<std::array<uint32_t, 32>, 2>> exchange; // [warp][parity][lane]: two shuffles never meet
    std::function<void()> body;
    Context scheduler;
    Fiber* current = nullptr;
    bool removes = false; // whether barriers may be removed in this launch
    dim3 blockIdx, blockDim, gridDim;
#if defined(__SANITIZE_ADDRESS__)
    void const* schedulerStack = nullptr;
    size_t schedulerStackBytes = 0;
#endif
};

inline thread_local Block* block = nullptr;

// AddressSanitizer has to be told of every change of the stack; the jump itself is plain setjmp and longjmp, because
// swapcontext costs two system calls.
#if defined(__SANITIZE_ADDRESS__)
#endif

__attribute__((noinline, no_sanitize("address"))) inline void jump(Context& to)
{
    // __builtin_longjmp's cousin in glibc, reached by its own name: AddressSanitizer's interceptor of longjmp would
    // unpoison what it takes for the rest of one stack.
    _longjmp(to.registers, 1);
}

inline void resumeScheduler()
{
    Fiber* const fiber = block->current;
    if (_setjmp(fiber->context.registers) == 0)
    {
#if defined(__SANITIZE_ADDRESS__)
        __sanitizer_start_switch_fiber(
            fiber->done ? nullptr : &fiber->context.fakeStack, block->schedulerStack, block->schedulerStackBytes);
#endif
        jump(block->scheduler);
    }
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fiber->context.fakeStack, &block->schedulerStack, &block->schedulerStackBytes);
#endif
}

inline void enterFiber()
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &block->schedulerStack, &block->schedulerStackBytes);
#endif
    block->body();
    block->current->done = true;
    resumeScheduler();
}

inline void resumeFiber(Fiber& fiber)
{
    block->current = &fiber;
    if (_setjmp(block->scheduler.registers) == 0)
    {
#if defined(__SANITIZE_ADDRESS__)
        __sanitizer_start_switch_fiber(&block->scheduler.fakeStack, fiber.stack.get(), kStackBytes);
#endif
        if (fiber.started)
            jump(fiber.context);
        fiber.started = true;
        getcontext(&fiber.first);
        fiber.first.uc_stack.ss_sp = fiber.stack.get();
        fiber.first.uc_stack.ss_size = kStackBytes;
        fiber.first.uc_link = nullptr;
        makecontext(&fiber.first, enterFiber, 0);
        setcontext(&fiber.first);
    }
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(block->scheduler.fakeStack, nullptr, nullptr);
#endif
}

inline void arrive(Barrier& barrier)
{
    if (++barrier.arrived == barrier.expected)
    {
        barrier.arrived = 0;
        ++barrier.generation;
        return;
    }
    Fiber* const fiber = block->current;
    fiber->awaited = &barrier;
    fiber->generation = barrier.generation;
    resumeScheduler();
    fiber->awaited = nullptr;
}

inline bool removed(char const* file, int line)
{
    Control& c = control();
    if (!block->removes || c.skippedLine.load(std::memory_order_relaxed) != line)
        return false;
    char const* const slash = std::strrchr(file, '/');
    if (c.skippedFile != (slash ? slash + 1 : file))
        return false;
    c.skipped = true;
    return true;
}

// ---- blocks and grids ----

// Runs one block; false when some threads wait for others that will not come.
inline bool runBlock(Block& b, unsigned seed)
{
    block = &b;
    int const count = int(b.fibers.size());
    std::fill(b.shared.begin(), b.shared.end(), uint4{~0u, ~0u, ~0u, ~0u}); // NaN
    b.all = {count, 0, 0};
    for (size_t w = 0; w < b.warps.size(); ++w)
        b.warps[w] = {std::min(32, count - int(w) * 32), 0, 0};
    Order const order = Order(control().order.load());
    std::vector<int> sequence(count);
    for (int i = 0; i < count; ++i)
    {
        Fiber& f = b.fibers[i];
        f.started = f.done = false, f.awaited = nullptr, f.shuffles = 0, f.linear = i;
        f.copies.clear();
        f.threadIdx = dim3(i % b.blockDim.x, i / b.blockDim.x % b.blockDim.y, i / (b.blockDim.x * b.blockDim.y));
        sequence[i] = order == Order::kReverse ? count - 1 - i : i;
    }
    std::mt19937 random(seed);
    for (int left = count; left > 0;)
    {
        if (order == Order::kRandom)
            std::shuffle(sequence.begin(), sequence.end(), random);
        bool progress = false;
        for (int i : sequence)
        {
            Fiber& f = b.fibers[i];
            if (f.done || f.blocked())
                continue;
            progress = true;
            resumeFiber(f);
            left -= f.done;
        }
        if (!progress)
            return false;
    }
    return true;
}

// Runs a grid and returns an empty text, or what went wrong.
inline std::string runGrid(dim3 grid, int threads, size_t sharedBytes, std::function<void()> const& body)
{
    size_t const total = size_t(grid.x) * grid.y * grid.z;
    int const launch = control().launches++, only = control().skippedLaunch;
    std::atomic<size_t> next{0};
    std::mutex lock;
    std::string error;
    auto const work = [&] {
        Block b;
        b.removes = only < 0 || only == launch;
        b.blockDim = dim3(unsigned(threads)), b.gridDim = grid, b.body = body;
        b.fibers.resize(threads);
        for (Fiber& f : b.fibers)
            f.stack.reset(new char[kStackBytes]);
        b.shared.resize((sharedBytes + sizeof(uint4) - 1) / sizeof(uint4));
        b.warps.resize((threads + 31) / 32);
        b.exchange.resize(b.warps.size());
        for (size_t i; (i = next++) < total;)
        {
            b.blockIdx = dim3(unsigned(i % grid.x), unsigned(i / grid.x % grid.y), unsigned(i / grid.x / grid.y));
            if (runBlock(b, control().seed.load() + unsigned(i)))
                continue;
            std::lock_guard<std::mutex> const guard(lock);
            error = "deadlock in block (" + std::to_string(b.blockIdx.x) + ", " + std::to_string(b.blockIdx.y) + ", "
                + std::to_string(b.blockIdx.z) + "): not all threads reached a barrier or a shuffle";
            next = total;
        }
    };
    size_t const limit = control().maxThreads > 0 ? size_t(control().maxThreads.load())
                                                  : std::max(1u, std::thread::hardware_concurrency());
    std::vector<std::thread> workers;
    for (size_t i = 0; i < std::min(total, limit); ++i)
        workers.emplace_back(work);
    for (std::thread& w : workers)
        w.join();
    return error;
}

// ---- what the kernels call ----

inline void syncThreads(char const* file, int line)
{
    if (!removed(file, line))
        arrive(block->all);
}
inline void syncWarp(char const* file, int line)
{
    if (!removed(file, line))
        arrive(block->warps[block->current->linear / 32]);
}

// The value that each lane offers is seen by all lanes of its warp; returns that of lane source(lane).
template <class V, class Source> V shuffle(V value, Source source)
{
    static_assert(sizeof(V) == 4, "32-bit values only");
    Fiber* const fiber = block->current;
    int const warp = fiber->linear / 32, lane = fiber->linear % 32;
    auto& slots = block->exchange[warp][fiber->shuffles++ & 1];
    std::memcpy(&slots[lane], &value, 4);
    arrive(block->warps[warp]);
    std::memcpy(&value, &slots[source(lane)], 4);
    return value;
}

inline void copyLater(void* to, void const* from, int bytes)
{
    std::memset(to, 0xff, bytes);
    block->current->copies.push_back({to, from, bytes});
}
inline void finishCopies(char const* file, int line)
{
    if (removed(file, line))
        return;
    for (Copy const& c : block->current->copies)
        std::memcpy(c.to, c.from, c.bytes);
    block->current->copies.clear();
}
} // namespace vivim::emulation

template <class V> V __shfl_xor_sync(unsigned, V value, int mask, int = 32)
{
    return vivim::emulation::shuffle(value, [=](int lane) { return lane ^ mask; });
}
template <class V> V __shfl_up_sync(unsigned, V value, int offset, int width = 32)
{
    return vivim::emulation::shuffle(value, [=](int lane) { return lane % width >= offset ? lane - offset : lane; });
}

#define threadIdx (vivim::emulation::block->current->threadIdx)
#define blockIdx (vivim::emulation::block->blockIdx)
#define blockDim (vivim::emulation::block->blockDim)
#define gridDim (vivim::emulation::block->gridDim)
#define __syncthreads() vivim::emulation::syncThreads(__FILE__, __LINE__)
#define __syncwarp() vivim::emulation::syncWarp(__FILE__, __LINE__)
