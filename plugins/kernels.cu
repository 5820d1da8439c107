// The C interface of include/vivim_kernels.h: checks, the table of tactics, workspace, launches.
//
// The same code runs on a GPU (nvcc) and emulated (g++, VIVIM_EMULATE): launch() of kernels/launch.cuh is all that
// differs.
#include "vivim_kernels.h"

#include "kernels/causal_conv1d.cuh"
#include "kernels/combine.cuh"
#include "kernels/s6_calls.cuh"
#include "kernels/scan_state_split.cuh"
#include "kernels/scan_time_split.cuh"
#include "kernels/status.cuh"

#include <algorithm>

#if !defined(VIVIM_KERNELS_REVISION)
#define VIVIM_KERNELS_REVISION "" // compiled alone, by a test or a tool; CMakeLists.txt gives a digest of the sources
#endif

namespace vivim
{
namespace
{
// ---- tactics ----

enum class Family { kStateSplit, kTimeSplit };

struct Tactic
{
    char const* name;
    Family family;
    int lanes;   // threads that share a channel
    int threads; // of a block
    int chunks;  // at most; more than 1: length-split
    int run;     // time-split: steps a lane
};

// Parallelism is K B D lanes chunks threads; what it costs is instructions (lanes: partial sums are shuffled; chunks:
// exponentials are computed twice; docs/kernels.md counts them). Batch 1 of Vivim has 384 to 3072 channels K B D for
// some 10^4 to 10^5 threads of a GPU, and sequences of 320 to 20480 steps.
constexpr Tactic kTactics[] = {
    // Balance of parallelism and instructions where D is large (B3 stages 3 and 4).
    {"state-split g4", Family::kStateSplit, 4, 128, 1, 0},
    // Twice the threads for a third more instructions; the last stage, few steps.
    {"state-split g8", Family::kStateSplit, 8, 128, 1, 0},
    // One state a thread: short sequences of few channels.
    {"state-split g16", Family::kStateSplit, 16, 128, 1, 0},
    // Fewest instructions a state: batches that fill the GPU by themselves. 64 threads, or shared memory limits an SM
    // to two blocks.
    {"state-split g1", Family::kStateSplit, 1, 64, 1, 0},
    // Long sequences of few channels (B3 stage 1: 384 blocks of 320 steps).
    {"length-split g2 x64", Family::kStateSplit, 2, 128, 64, 0},
    // The same for 16 SMs and fewer: half the carry to fold, the cheapest loop.
    {"length-split g1 x32", Family::kStateSplit, 1, 64, 32, 0},
    // Middle stages: 384 blocks of 320 steps at B3 stage 2.
    {"length-split g4 x16", Family::kStateSplit, 4, 128, 16, 0},
    // B3 stage 3: 480 blocks of 160 steps.
    {"length-split g4 x8", Family::kStateSplit, 4, 128, 8, 0},
    // Every exponential once: GPUs with few SMs, where exponentials are the limit. 128 threads, so that two blocks fit
    // in the shared memory of sm_80 and sm_87.
    {"time-split s8 k16", Family::kTimeSplit, 8, 128, 1, 16},
    // Twice the blocks at a shuffle scan every 8 steps instead of 16.
    {"time-split s16 k8", Family::kTimeSplit, 16, 128, 1, 8},
};
constexpr int kTacticCount = int(sizeof kTactics / sizeof kTactics[0]);

constexpr int tacticNamed(char const* name)
{
    for (int i = 0; i < kTacticCount; ++i)
    {
        int c = 0;
        while (name[c] && name[c] == kTactics[i].name[c])
            ++c;
        if (name[c] == kTactics[i].name[c])
            return i;
    }
    return -1;
}

// Blocks of 128 threads from which a split of the length costs a large GPU (132 to 170 SMs) more than it brings, as it
// doubles the exponentials; a smaller GPU is filled all the more. A rule from counts, not from timings.
constexpr int64_t kBusyBlocks = 96;

int defaultTactic(vivim_scan_desc const& d)
{
    constexpr int kWide = tacticNamed("state-split g1"), kPlain = tacticNamed("state-split g4");
    constexpr int kNarrow = tacticNamed("state-split g8"), kShort = tacticNamed("state-split g16");
    constexpr int kLong = tacticNamed("length-split g2 x64"), kMiddle = tacticNamed("length-split g4 x16");
    static_assert(kWide >= 0 && kPlain >= 0 && kNarrow >= 0 && kShort >= 0 && kLong >= 0 && kMiddle >= 0, "a name");
    auto const blocks = [&](int tactic) {
        int const channels = kTactics[tactic].threads / kTactics[tactic].lanes;
        return int64_t(d.batch) * d.direction_count * ((d.width + channels - 1) / channels);
    };
    for (int tactic : {kWide, kPlain, kNarrow})
        if (blocks(tactic) >= kBusyBlocks * (tactic == kWide ? 8 : 1)) // 64 threads, and 5 to 6 blocks fit an SM
            return tactic;
    // Chunks of 4 steps or more for each of the chunks whose carries they fold.
    return d.length >= 64 * 64 * 4 ? kLong : d.length >= 16 * 16 * 4 ? kMiddle : kShort;
}

// ---- checks ----

// What both descriptions have. Bounds above are those of grids and of 32-bit step numbers.
template <class Desc> int32_t checkCommon(Desc const* d)
{
    constexpr int kMaxBatch = kMaxGrid / kMaxDirections, kMaxLength = 1 << 30;
    constexpr int kMaxWidth = kMaxGrid / kMaxDirections * ConvTile::kLanes; // a channel a thread, where x_width is odd
    if (!d)
        return fail(VIVIM_BAD_ARGUMENT, "desc is null");
    if (d->batch < 1 || d->batch > kMaxBatch)
        return fail(VIVIM_BAD_ARGUMENT, "batch is %d; it must be 1 to %d", d->batch, kMaxBatch);
    if (d->length < 1 || d->length > kMaxLength)
        return fail(VIVIM_BAD_ARGUMENT, "length is %d; it must be 1 to %d", d->length, kMaxLength);
    if (d->width < 1 || d->width > kMaxWidth || d->width % kChannelGroup)
        return fail(VIVIM_BAD_ARGUMENT, "width is %d; it must be a multiple of %d, %d to %d", d->width, kChannelGroup,
            kChannelGroup, kMaxWidth);
    if (d->rows < 1)
        return fail(VIVIM_BAD_ARGUMENT, "rows is %d; it must be at least 1", d->rows);
    if (d->length % d->rows)
        return fail(VIVIM_BAD_ARGUMENT, "rows is %d, which does not divide length %d", d->rows, d->length);
    if (d->direction_count < 1 || d->direction_count > kMaxDirections)
        return fail(
            VIVIM_BAD_ARGUMENT, "direction_count is %d; it must be 1 to %d", d->direction_count, kMaxDirections);
    for (int k = 0; k < d->direction_count; ++k)
        if (d->directions[k] < 0 || d->directions[k] > 3)
            return fail(VIVIM_BAD_ARGUMENT, "directions[%d] is %d; it must be 0 to 3", k, d->directions[k]);
    return checkType(d->dtype);
}

int32_t checkConv(vivim_conv_desc const* d)
{
    if (int32_t const status = checkCommon(d))
        return status;
    if (d->x_width < d->width)
        return fail(VIVIM_BAD_ARGUMENT, "x_width is %d; it must be at least width, %d", d->x_width, d->width);
    return VIVIM_OK;
}

int32_t checkScan(vivim_scan_desc const* d)
{
    if (int32_t const status = checkCommon(d))
        return status;
    if (d->rank < 1 || d->rank > kMaxRank)
        return fail(VIVIM_BAD_ARGUMENT, "rank is %d; it must be 1 to %d", d->rank, kMaxRank);
    if (d->states < 1 || d->states > kStates)
        return fail(VIVIM_BAD_ARGUMENT, "states is %d; it must be 1 to %d", d->states, kStates);
    if (d->shared_input != 0 && d->shared_input != 1)
        return fail(VIVIM_BAD_ARGUMENT, "shared_input is %d; it must be 0 or 1", d->shared_input);
    if (d->mean != 0 && d->mean != 1)
        return fail(VIVIM_BAD_ARGUMENT, "mean is %d; it must be 0 or 1", d->mean);
    if (d->gate_width != 0 && d->gate_width < d->width)
        return fail(VIVIM_BAD_ARGUMENT, "gate_width is %d; it must be 0 (no gate) or at least width, %d", d->gate_width,
            d->width);
    return VIVIM_OK;
}

// ---- shapes ----

template <class Desc> Directions packDirections(Desc const& d)
{
    Directions packed{0, d.direction_count};
    for (int k = 0; k < d.direction_count; ++k)
        packed.packed |= uint32_t(d.directions[k]) << (8 * k);
    return packed;
}

// Steps of a chunk: whole tiles.
int chunkLength(vivim_scan_desc const& d, Tactic const& t) { return roundUp(divideUp(d.length, t.chunks), kTile); }
// One direction without a gate is its own result.
bool writesDirectly(vivim_scan_desc const& d) { return d.direction_count == 1 && d.gate_width == 0; }

// Parts of the workspace, each at a multiple of 256 bytes.
struct Workspace { size_t yDirections = 0, chunkState = 0, chunkTime = 0, bytes = 0; };
Workspace workspaceOf(vivim_scan_desc const& d, Tactic const& t)
{
    size_t const sequences = size_t(d.direction_count) * d.batch;
    // The most chunks that any length up to this one has, not those of this one: a workspace made for the longest clip
    // must hold every shorter one.
    size_t const chunks = t.chunks > 1 ? std::min(t.chunks, divideUp(d.length, kTile)) : 1;
    Workspace w;
    w.chunkState =
        w.yDirections + (writesDirectly(d) ? 0 : wholePart(sequences * d.length * d.width * elementBytes(d.dtype)));
    w.chunkTime = w.chunkState + wholePart((chunks - 1) * sequences * d.width * kStates * sizeof(float));
    w.bytes = w.chunkTime + wholePart((chunks - 1) * sequences * d.width * sizeof(float));
    w.bytes = std::max(w.bytes, size_t(256)); // 0 says that the description is wrong
    return w;
}

// ---- launches ----

template <class T> int32_t launchConv(vivim_conv_desc const& d, void const* x, void const* tail, float const* weight,
    float const* bias, void* xc, void* stream)
{
    ConvArguments<T> const a{static_cast<T const*>(x), weight, bias, static_cast<T*>(xc), static_cast<T const*>(tail),
        d.batch, d.length, d.width, d.rows, d.length / d.rows, d.x_width, packDirections(d)};
    auto const run = [&](auto kernel, int channels) {
        dim3 const grid(divideUp(d.length, ConvTile::kSteps),
            divideUp(d.width, ConvTile::kLanes * channels) * d.direction_count, d.batch);
        return checkLaunch("causal_conv1d", launch(kernel, grid, ConvTile::kThreads, 0, stream, a));
    };
    return d.x_width % 2 == 0 ? run(&causalConv1d<T, 2>, 2) : run(&causalConv1d<T, 1>, 1);
}

// kMayChunk: whether a tactic of this G uses length-split, so that pass 1 has to be compiled.
template <class T, int G, int kThreads, bool kMayChunk>
int32_t launchStateSplit(ScanArguments<T> const& a, void* stream)
{
    using Kernel = StateSplit<T, G, kThreads>;
    size_t const bytes = Kernel::layout(a.rank, a.states).bytes;
    dim3 grid(divideUp(a.width, Kernel::kChannels), a.chunks - 1, a.directions.count * a.batch);
    if constexpr (kMayChunk)
        if (a.chunks > 1)
            if (int32_t const status = checkLaunch("length-split scan, pass 1",
                    launch(&stateSplitEnds<T, G, kThreads>, grid, kThreads, bytes, stream, a)))
                return status;
    grid.y = a.chunks;
    return checkLaunch("state-split scan", launch(&stateSplit<T, G, kThreads>, grid, kThreads, bytes, stream, a));
}

// Without room in shared memory for its tile (64 KiB on sm_75, ranks above 32 in float32), as state-split g4: a tactic
// that fails would be one that the caller has to know about.
template <class T, int S, int kRun, int kThreads> int32_t launchTimeSplit(ScanArguments<T> const& a, void* stream)
{
    using Kernel = TimeSplit<T, S, kRun, kThreads>;
    size_t const bytes = Kernel::layout(a.rank, a.states).bytes;
    if (bytes > sharedMemoryLimit())
        return launchStateSplit<T, 4, 128, true>(a, stream);
    dim3 const grid(divideUp(a.width, Kernel::kChannels), 1, a.directions.count * a.batch);
    return checkLaunch("time-split scan", launch(&timeSplit<T, S, kRun, kThreads>, grid, kThreads, bytes, stream, a));
}

// Kernels are templates: every row of kTactics must have its case.
template <class T> int32_t launchTactic(Tactic const& t, ScanArguments<T> const& a, void* stream)
{
    if (t.family == Family::kTimeSplit)
        return t.lanes == 8 ? launchTimeSplit<T, 8, 16, 128>(a, stream) : launchTimeSplit<T, 16, 8, 128>(a, stream);
    switch (t.lanes)
    {
    case 1: return launchStateSplit<T, 1, 64, true>(a, stream);
    case 2: return launchStateSplit<T, 2, 128, true>(a, stream);
    case 4: return launchStateSplit<T, 4, 128, true>(a, stream);
    case 8: return launchStateSplit<T, 8, 128, false>(a, stream);
    default: return launchStateSplit<T, 16, 128, false>(a, stream);
    }
}

template <class T> int32_t launchCombine(CombineArguments<T> const& a, void* stream)
{
    constexpr int kPerVector = 16 / sizeof(T);
    // Few enough blocks that one wave holds them, each with some tokens to stream through.
    constexpr int kMaxBlocks = 2048;
    auto const run = [&](auto kernel, int channels) {
        dim3 const grid(std::min(divideUp(int64_t(a.tokens), CombineTile::kTokens), kMaxBlocks),
            divideUp(a.width, CombineTile::kLanes * channels));
        return checkLaunch("combine", launch(kernel, grid, CombineTile::kThreads, 0, stream, a));
    };
    return a.gateWidth % kPerVector == 0 ? run(&combine<T, kPerVector>, kPerVector) : run(&combine<T, 1>, 1);
}

template <class T>
int32_t launchScan(vivim_scan_desc const& d, Tactic const& t, void const* xc, void const* dbc, void const* xz,
    float const* A_log2e, float const* dtWeight, float const* dtBias, float const* dSkip, float const* initial, void* y,
    float* final, char* workspace, void* stream)
{
    Workspace const at = workspaceOf(d, t);
    ScanArguments<T> a{};
    a.xc = static_cast<T const*>(xc);
    a.dbc = static_cast<T const*>(dbc);
    a.A_log2e = A_log2e;
    a.dtWeight = dtWeight;
    a.dtBias = dtBias;
    a.dSkip = dSkip;
    a.initial = initial;
    a.final = final;
    a.yDirections = writesDirectly(d) ? static_cast<T*>(y) : reinterpret_cast<T*>(workspace + at.yDirections);
    a.chunkState = reinterpret_cast<float*>(workspace + at.chunkState);
    a.chunkTime = reinterpret_cast<float*>(workspace + at.chunkTime);
    a.batch = d.batch, a.length = d.length, a.width = d.width, a.rows = d.rows, a.columns = d.length / d.rows;
    a.rank = d.rank, a.states = d.states;
    a.directions = packDirections(d);
    a.sharedInput = d.shared_input;
    a.chunkLength = t.chunks > 1 ? chunkLength(d, t) : d.length;
    a.chunks = divideUp(d.length, a.chunkLength);

    int const rowBytes = (d.rank + 2 * d.states) * int(sizeof(T));
    a.vectorLog2 = 4;
    while (rowBytes % (1 << a.vectorLog2))
        --a.vectorLog2;
    a.vectors = rowBytes >> a.vectorLog2;
    while (1 << a.lanesLog2 < std::min(a.vectors, 32))
        ++a.lanesLog2;

    if (int32_t const status = launchTactic(t, a, stream))
        return status;
    if (writesDirectly(d))
        return VIVIM_OK;
    CombineArguments<T> const c{a.yDirections,
        d.gate_width ? static_cast<T const*>(xz) + (d.gate_width - d.width) : nullptr, static_cast<T*>(y),
        size_t(d.batch) * d.length, d.width, d.gate_width, d.direction_count,
        d.mean ? 1.f / float(d.direction_count) : 1.f};
    return launchCombine(c, stream);
}

// ---- calls ----

int32_t convolve(vivim_conv_desc const* desc, void const* x, void const* tail, float const* weight, float const* bias,
    void* xc, void* stream)
{
    if (int32_t const status = checkConv(desc))
        return status;
    if (int32_t const status = checkPointers({{"x", x}, {"weight", weight}, {"bias", bias}, {"xc", xc}}))
        return status;
    if (tail)
        if (int32_t const status = checkPointers({{"tail", tail}}))
            return status;
    switch (desc->dtype)
    {
    case VIVIM_FLOAT32: return launchConv<float>(*desc, x, tail, weight, bias, xc, stream);
    case VIVIM_FLOAT16: return launchConv<__half>(*desc, x, tail, weight, bias, xc, stream);
    default: return launchConv<__nv_bfloat16>(*desc, x, tail, weight, bias, xc, stream);
    }
}

int32_t scan(vivim_scan_desc const* desc, int32_t tactic, void const* xc, void const* dbc, void const* xz,
    float const* A_log2e, float const* dt_weight, float const* dt_bias, float const* d_skip, float const* initial,
    void* y, float* final, void* workspace, size_t workspace_bytes, void* stream)
{
    if (int32_t const status = checkScan(desc))
        return status;
    if (int32_t const status = checkTactic(tactic, 0, kTacticCount))
        return status;
    if (int32_t const status = checkPointers({{"xc", xc}, {"dbc", dbc}, {"A_log2e", A_log2e}, {"dt_weight", dt_weight},
            {"dt_bias", dt_bias}, {"d_skip", d_skip}, {"y", y}}))
        return status;
    if (desc->gate_width)
    {
        if (int32_t const status = checkPointers({{"xz", xz}}))
            return status;
    }
    else if (xz)
        return fail(VIVIM_BAD_ARGUMENT, "xz is given, but gate_width is 0 (no gate)");
    if (initial)
    {
        if (int32_t const status = checkPointers({{"initial", initial}}))
            return status;
        uintptr_t const bytes = uintptr_t(desc->batch) * desc->states * desc->width * sizeof(float);
        uintptr_t const in = reinterpret_cast<uintptr_t>(initial), out = reinterpret_cast<uintptr_t>(final);
        if (in < out + bytes && out < in + bytes)
            return fail(VIVIM_BAD_ARGUMENT, "final shares memory with initial, which other blocks still read");
    }
    Tactic const& t = kTactics[tactic];
    if (int32_t const status = checkWorkspace(workspace, workspace_bytes, workspaceOf(*desc, t).bytes))
        return status;
    char* const w = static_cast<char*>(workspace);
    auto const run = [&](auto element) {
        return launchScan<decltype(element)>(
            *desc, t, xc, dbc, xz, A_log2e, dt_weight, dt_bias, d_skip, initial, y, final, w, stream);
    };
    switch (desc->dtype)
    {
    case VIVIM_FLOAT32: return run(float{});
    case VIVIM_FLOAT16: return run(__half{});
    default: return run(__nv_bfloat16{});
    }
}

} // namespace
} // namespace vivim

using namespace vivim;

int32_t vivim_scan_tactic_count(void) { return kTacticCount; }

char const* vivim_scan_tactic_name(int32_t tactic)
{
    return tactic >= 0 && tactic < kTacticCount ? kTactics[tactic].name : nullptr;
}

int32_t vivim_scan_default_tactic(vivim_scan_desc const* desc) { return checkScan(desc) ? -1 : defaultTactic(*desc); }

size_t vivim_scan_workspace(vivim_scan_desc const* desc, int32_t tactic)
{
    if (checkScan(desc) || checkTactic(tactic, -1, kTacticCount))
        return 0;
    if (tactic >= 0)
        return workspaceOf(*desc, kTactics[tactic]).bytes;
    size_t most = 0;
    for (Tactic const& t : kTactics)
        most = std::max(most, workspaceOf(*desc, t).bytes);
    return most;
}

int32_t vivim_causal_conv1d(
    vivim_conv_desc const* desc, void const* x, float const* weight, float const* bias, void* xc, void* stream)
{
    return guarded([&] { return convolve(desc, x, nullptr, weight, bias, xc, stream); });
}

int32_t vivim_streaming_conv1d(vivim_conv_desc const* desc, void const* x, void const* tail, float const* weight,
    float const* bias, void* xc, void* stream)
{
    return guarded([&] { return convolve(desc, x, tail, weight, bias, xc, stream); });
}

int32_t vivim_selective_scan(vivim_scan_desc const* desc, int32_t tactic, void const* xc, void const* dbc,
    void const* xz, float const* A_log2e, float const* dt_weight, float const* dt_bias, float const* d_skip, void* y,
    void* workspace, size_t workspace_bytes, void* stream)
{
    return guarded([&] {
        return scan(desc, tactic, xc, dbc, xz, A_log2e, dt_weight, dt_bias, d_skip, nullptr, y, nullptr, workspace,
            workspace_bytes, stream);
    });
}

int32_t vivim_streaming_scan(vivim_scan_desc const* desc, int32_t tactic, void const* xc, void const* dbc,
    void const* xz, float const* A_log2e, float const* dt_weight, float const* dt_bias, float const* d_skip,
    float const* initial, void* y, float* final, void* workspace, size_t workspace_bytes, void* stream)
{
    return guarded([&]() -> int32_t {
        if (int32_t const status = checkPointers({{"final", final}}))
            return status;
        return scan(desc, tactic, xc, dbc, xz, A_log2e, dt_weight, dt_bias, d_skip, initial, y, final, workspace,
            workspace_bytes, stream);
    });
}

int32_t vivim_s6_tactic_count(void) { return kS6TacticCount; }

char const* vivim_s6_tactic_name(int32_t tactic)
{
    return tactic >= 0 && tactic < kS6TacticCount ? kS6Tactics[tactic].name : nullptr;
}

int32_t vivim_s6_default_tactic(vivim_s6_desc const* desc) { return checkS6(desc) ? -1 : s6DefaultTactic(*desc); }

size_t vivim_s6_workspace(vivim_s6_desc const* desc, int32_t tactic)
{
    if (checkS6(desc) || checkTactic(tactic, -1, kS6TacticCount))
        return 0;
    if (tactic >= 0)
        return s6WorkspaceOf(*desc, kS6Tactics[tactic]).bytes;
    size_t most = 0;
    for (S6Tactic const& t : kS6Tactics)
        most = std::max(most, s6WorkspaceOf(*desc, t).bytes);
    return most;
}

int32_t vivim_s6_scan(vivim_s6_desc const* desc, int32_t tactic, void const* u, void const* delta, void const* B,
    void const* C, float const* A, float const* skip, float const* bias, void* y, void* workspace,
    size_t workspace_bytes, void* stream)
{
    return guarded(
        [&] { return s6(desc, tactic, u, delta, B, C, A, skip, bias, y, workspace, workspace_bytes, stream); });
}

char const* vivim_kernels_error(void) { return errorText; }

char const* vivim_kernels_revision(void) { return VIVIM_KERNELS_REVISION; }
