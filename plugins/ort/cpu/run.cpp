// Which instruction set this CPU gets, what the kernels can take, and how an operator is cut into tasks.
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>

#include "checks.h"
#include "kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace vivim::cpu
{
namespace
{
#if defined(__x86_64__)
enum class Level { none, avx2, avx512 };

// What processor and system have, asked of them: __builtin_cpu_supports says nothing where compiler-rt of zig is linked.
Level levelOfThisCpu()
{
    unsigned a, b, c, d, features;
    if (!__get_cpuid(1, &a, &b, &features, &d))
        return Level::none;
    constexpr unsigned kFma = 1u << 12, kSavesState = 1u << 27, kAvx = 1u << 28, kF16c = 1u << 29;
    constexpr unsigned kFirst = kFma | kSavesState | kAvx | kF16c;
    if ((features & kFirst) != kFirst || !__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return Level::none;
    unsigned low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0)); // the registers that the system saves
    constexpr unsigned kYmm = 0x6, kZmm = 0xe6;
    constexpr unsigned kAvx2 = 1u << 5, kAvx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; // F, DQ, BW, VL
    if ((low & kYmm) != kYmm || !(b & kAvx2))
        return Level::none;
    return (low & kZmm) == kZmm && (b & kAvx512) == kAvx512 ? Level::avx512 : Level::avx2;
}
#endif

Kernels const& best()
{
    char const* const wanted = std::getenv("VIVIM_CPU_ISA");
    auto const allowed = [&](char const* name) { return !wanted || !*wanted || !std::strcmp(wanted, name); };
#if defined(__x86_64__)
    Level const level = levelOfThisCpu();
    if (allowed("avx512") && level == Level::avx512)
        return avx512::kKernels;
    if (allowed("avx2") && level >= Level::avx2)
        return avx2::kKernels;
#endif
    (void)allowed;
    return baseline::kKernels;
}

void check(Order const& order, int64_t batch, int64_t width)
{
    expect(batch >= 1, "the batch", batch, "1 or more");
    expect(order.length >= 1, "the number of tokens", order.length, "1 or more");
    expect(width >= 1, "the width", width, "1 or more");
    expect(order.rows >= 1, "rows", order.rows, "1 or more");
    expect(order.length % order.rows == 0, "the number of tokens", order.length,
        "a multiple of rows, " + std::to_string(order.rows));
    expect(order.directionCount >= 1 && order.directionCount <= VIVIM_MAX_DIRECTIONS, "the number of directions",
        order.directionCount, "1 to 4");
    for (int k = 0; k < order.directionCount; ++k)
        expect(order.directions[k] >= 0 && order.directions[k] <= 3, "a direction", order.directions[k], "0 to 3");
}

void checkType(vivim_dtype type)
{
    expect(type >= VIVIM_FLOAT32 && type <= VIVIM_BFLOAT16, "the data type", type, "a vivim_dtype");
}

// Whether a task a direction ends sooner than a task for all of them, on that many threads.
bool splitPays(int64_t tasks, int directions, int64_t threads)
{
    // Adding up costs about a tenth of a direction.
    return 1.1 * double(quotient(tasks * directions, threads)) < double(directions * quotient(tasks, threads));
}
} // namespace

Kernels const& kernels()
{
    static Kernels const& chosen = best();
    return chosen;
}

int64_t processors()
{
    unsigned const count = std::thread::hardware_concurrency();
    return count ? count : 1;
}

void convolve(Conv const& conv, Workers& workers)
{
    check(conv.order, conv.batch, conv.width);
    checkType(conv.type);
    expect(conv.xWidth >= conv.width, "the width of x", conv.xWidth, "at least " + std::to_string(conv.width));
    expect(
        conv.taps >= 1 && conv.taps <= kMaxTaps, "the number of taps", conv.taps, "1 to " + std::to_string(kMaxTaps));
    expectPointers({conv.x, conv.weight, conv.bias, conv.xc});
    workers.run(
        conv.order.directionCount * conv.batch * quotient(conv.order.length, kConvTokens),
        [](void const* operation, int64_t task) { kernels().conv(*static_cast<Conv const*>(operation), task); }, &conv);
}

void scan(Scan scan, Workers& workers)
{
    check(scan.order, scan.batch, scan.width);
    checkType(scan.type);
    expect(scan.rank >= 1 && scan.rank <= kMaxRank, "the rank", scan.rank, "1 to " + std::to_string(kMaxRank));
    expect(scan.states >= 1 && scan.states <= kMaxStates, "the number of states", scan.states,
        "1 to " + std::to_string(kMaxStates));
    expect(scan.gateWidth == 0 || scan.gateWidth >= scan.width, "the width of xz", scan.gateWidth,
        "0, or at least " + std::to_string(scan.width));
    expectPointers({scan.xc, scan.dbc, scan.A_log2e, scan.dtWeight, scan.dtBias, scan.dSkip, scan.y});
    if (scan.gateWidth)
        expectPointers({scan.xz});
    else
        scan.xz = nullptr;
    int64_t const directions = scan.order.directionCount;
    int64_t const tasks = scan.batch * quotient(scan.width, kScanChannels);
    scan.split = directions > 1 && splitPays(tasks, int(directions), workers.threads());
    bool const inPlace = !scan.split && (directions == 1 || scan.type == VIVIM_FLOAT32);
    size_t const numbers = size_t(scan.batch * scan.order.length * scan.width) * size_t(scan.split ? directions : 1);
    scan.sums = static_cast<float*>(inPlace ? scan.y : workers.room(4 * numbers));
    workers.run(
        scan.split ? directions * tasks : tasks,
        [](void const* operation, int64_t task) { kernels().scan(*static_cast<Scan const*>(operation), task); }, &scan);
    if (!scan.split)
        return;
    workers.run(
        scan.batch * quotient(scan.order.length, kCombineTokens),
        [](void const* operation, int64_t task) { kernels().combine(*static_cast<Scan const*>(operation), task); },
        &scan);
}

void convolveDepthwise(Depthwise const& depthwise, Workers& workers)
{
    expect(depthwise.kernelFrames == 1 || depthwise.kernelFrames == 3, "the number of frames of the weight",
        depthwise.kernelFrames, "1 or 3");
    expectPointers({depthwise.x, depthwise.weight, depthwise.bias, depthwise.y});
    workers.run(
        depthwise.batch * depthwise.frames * depthwise.height,
        [](void const* operation, int64_t task) {
            kernels().depthwise(*static_cast<Depthwise const*>(operation), task);
        },
        &depthwise);
}

void addNorm(AddNorm const& norm, Workers& workers)
{
    expect(norm.width >= 1, "the width", norm.width, "1 or more");
    expectPointers({norm.x, norm.y, norm.gamma, norm.beta, norm.sum, norm.normed});
    workers.run(
        quotient(norm.rows, kNormRows),
        [](void const* operation, int64_t task) { kernels().addNorm(*static_cast<AddNorm const*>(operation), task); },
        &norm);
}

void mergeScales(MergeScales const& merge, Workers& workers)
{
    expect(merge.channels >= 1, "the number of channels", merge.channels, "1 or more");
    expect(merge.classes >= 1, "the number of classes", merge.classes, "1 or more");
    for (MergeScales::Scale const& scale : merge.scales)
    {
        expect(scale.height >= 1, "the height of a scale", scale.height, "1 or more");
        expect(scale.width >= 1, "the width of a scale", scale.width, "1 or more");
        expectPointers({scale.x});
    }
    expectPointers({merge.bias, merge.weight, merge.classBias, merge.logits});
    workers.run(
        merge.frames * merge.scales[0].height,
        [](void const* operation, int64_t task) {
            kernels().mergeScales(*static_cast<MergeScales const*>(operation), task);
        },
        &merge);
}
} // namespace vivim::cpu
