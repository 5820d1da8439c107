// The plain scan behind the C interface: its tactics, the kernel for a number of states, workspace, launches.
#pragma once

#include "s6_scan.cuh"
#include "status.cuh"

#include <algorithm>

namespace vivim
{
// ---- variants: which kernel computes N states ----

// Calls run(kernel type) for the kernel with the fewest padding states that a lane each has, where `lanes`, the least
// number of lanes a channel, leaves a choice: one lane has up to 16 states. N of the networks that are known are 1
// (VMamba), 8 (MambaVision) and 16; a kernel for each of them and two for all that is above.
template <class Run> auto withS6Variant(int lanes, int states, Run const& run)
{
    if (states == 1)
        return run(S6Split<1, 1, 64>{});
    if (states <= 16 && lanes == 1)
        return run(S6Split<1, 16, 64>{});
    if (states <= 8)
        return run(S6Split<4, 2, 128>{});
    if (states <= 16)
        return run(S6Split<4, 4, 128>{});
    if (states <= 64)
        return run(S6Split<16, 4, 128>{});
    return run(S6Split<16, 16, 128>{});
}

// ---- tactics ----

struct S6Tactic
{
    char const* name;
    int lanes;  // least threads that share a channel
    int chunks; // at most; more than 1: length-split
};

// Parallelism is B D lanes chunks threads, as in kTactics of kernels.cu. Batch 1 of a vision network has 200 to 4000
// channels (D of all its directions) and 49 to 16384 steps.
constexpr S6Tactic kS6Tactics[] = {
    // Batches, and networks of four directions in their last stages.
    {"lanes 4", 4, 1},
    // Short sequences of few channels: chunks of one or two tiles.
    {"lanes 4 x4", 4, 4},
    // Middle stages, 14 x 14 to 64 x 64 tokens.
    {"lanes 4 x16", 4, 16},
    // Volumes and first stages.
    {"lanes 4 x64", 4, 64},
    // Fewest instructions a state: batches that fill the GPU by themselves.
    {"lanes 1", 1, 1},
    // The same for GPUs of few SMs.
    {"lanes 1 x16", 1, 16},
};
constexpr int kS6TacticCount = int(sizeof kS6Tactics / sizeof kS6Tactics[0]);

// Blocks of 128 threads that keep a large GPU busy: as kBusyBlocks of kernels.cu, a rule from counts and not from timings.
constexpr int64_t kS6BusyBlocks = 96;

inline int s6DefaultTactic(vivim_s6_desc const& d)
{
    // Blocks of 128 threads without length-split.
    auto const blocks = [&](S6Tactic const& t) {
        return withS6Variant(t.lanes, d.states, [&](auto kernel) {
            using Kernel = decltype(kernel);
            int64_t const some = int64_t(d.batch) * d.groups * divideUp(d.width / d.groups, Kernel::kChannels);
            return some * Kernel::kThreadCount / 128;
        });
    };
    int chosen = 0;
    for (int i = 0; i < kS6TacticCount; ++i)
    {
        S6Tactic const& t = kS6Tactics[i];
        // One lane a channel where that still is twice as much as is needed.
        if (t.lanes == 1 && t.chunks == 1 && blocks(t) >= 2 * kS6BusyBlocks)
            return i;
        // The fewest chunks that keep it busy, each of 4 steps or more for each of those whose carries they fold.
        if (t.lanes > 1 && blocks(kS6Tactics[chosen]) * kS6Tactics[chosen].chunks < kS6BusyBlocks
            && int64_t(d.length) >= int64_t(4) * t.chunks * t.chunks)
            chosen = i;
    }
    return chosen;
}

// ---- checks ----

inline int32_t checkS6(vivim_s6_desc const* d)
{
    constexpr int kMaxLength = 1 << 30, kMaxBatch = kMaxGrid;
    if (!d)
        return fail(VIVIM_BAD_ARGUMENT, "desc is null");
    if (d->batch < 1 || d->batch > kMaxBatch)
        return fail(VIVIM_BAD_ARGUMENT, "batch is %d; it must be 1 to %d", d->batch, kMaxBatch);
    if (d->length < 1 || d->length > kMaxLength)
        return fail(VIVIM_BAD_ARGUMENT, "length is %d; it must be 1 to %d", d->length, kMaxLength);
    if (d->groups < 1)
        return fail(VIVIM_BAD_ARGUMENT, "groups is %d; it must be at least 1", d->groups);
    if (d->width < 1 || d->width % d->groups)
        return fail(VIVIM_BAD_ARGUMENT, "width is %d; it must be a multiple of groups, %d", d->width, d->groups);
    if (d->states < 1 || d->states > VIVIM_S6_MAX_STATES)
        return fail(VIVIM_BAD_ARGUMENT, "states is %d; it must be 1 to %d", d->states, VIVIM_S6_MAX_STATES);
    if (d->softplus != 0 && d->softplus != 1)
        return fail(VIVIM_BAD_ARGUMENT, "softplus is %d; it must be 0 or 1", d->softplus);
    return checkType(d->dtype);
}

// ---- workspace ----

struct S6Workspace { size_t chunkTime = 0, bytes = 0; }; // chunkState is at its beginning

inline S6Workspace s6WorkspaceOf(vivim_s6_desc const& d, S6Tactic const& t)
{
    return withS6Variant(t.lanes, d.states, [&](auto kernel) {
        using Kernel = decltype(kernel);
        // The most chunks that any length up to this one has: a workspace made for the longest must hold every shorter.
        size_t const handing = t.chunks > 1 ? size_t(std::min(t.chunks, divideUp(d.length, Kernel::kTile)) - 1) : 0;
        size_t const channels = handing * d.batch * d.width * sizeof(float);
        S6Workspace w;
        w.chunkTime = wholePart(channels * Kernel::kPadded);
        w.bytes = std::max(w.chunkTime + wholePart(channels), size_t(256)); // 0 says that the description is wrong
        return w;
    });
}

// ---- launches ----

template <int G, int S, int kThreads>
int32_t launchS6(S6Split<G, S, kThreads>, S6Tactic const& t, S6Arguments a, void* stream)
{
    using Kernel = S6Split<G, S, kThreads>;
    a.chunkLength = t.chunks > 1 ? roundUp(divideUp(a.length, t.chunks), Kernel::kTile) : a.length;
    a.chunks = divideUp(a.length, a.chunkLength);
    dim3 grid(a.groups * divideUp(a.width / a.groups, Kernel::kChannels), a.chunks - 1, a.batch);
    if (a.chunks > 1)
        if (int32_t const status = checkLaunch("length-split plain scan, pass 1",
                launch(&s6Ends<G, S, kThreads>, grid, kThreads, Kernel::kBytes, stream, a)))
            return status;
    grid.y = a.chunks;
    return checkLaunch("plain scan", launch(&s6Scan<G, S, kThreads>, grid, kThreads, Kernel::kBytes, stream, a));
}

inline int32_t s6(vivim_s6_desc const* desc, int32_t tactic, void const* u, void const* delta, void const* B,
    void const* C, float const* A, float const* skip, float const* bias, void* y, void* workspace,
    size_t workspace_bytes, void* stream)
{
    if (int32_t const status = checkS6(desc))
        return status;
    if (int32_t const status = checkTactic(tactic, 0, kS6TacticCount))
        return status;
    if (int32_t const status =
            checkPointers({{"u", u}, {"delta", delta}, {"B", B}, {"C", C}, {"y", y}}, int(elementBytes(desc->dtype))))
        return status;
    if (int32_t const status = checkPointers({{"A", A}}, sizeof(float)))
        return status;
    for (Named const& p : {Named{"skip", skip}, Named{"bias", bias}})
        if (p.pointer)
            if (int32_t const status = checkPointers({p}, sizeof(float)))
                return status;
    S6Tactic const& t = kS6Tactics[tactic];
    S6Workspace const at = s6WorkspaceOf(*desc, t);
    if (int32_t const status = checkWorkspace(workspace, workspace_bytes, at.bytes))
        return status;

    S6Arguments a{};
    a.u = u, a.delta = delta, a.B = B, a.C = C, a.A = A, a.skip = skip, a.bias = bias, a.y = y;
    a.chunkState = static_cast<float*>(workspace);
    a.chunkTime = reinterpret_cast<float*>(static_cast<char*>(workspace) + at.chunkTime);
    a.batch = desc->batch, a.length = desc->length, a.width = desc->width, a.groups = desc->groups;
    a.states = desc->states, a.softplus = desc->softplus, a.dtype = desc->dtype;
    return withS6Variant(t.lanes, desc->states, [&](auto kernel) { return launchS6(kernel, t, a, stream); });
}
} // namespace vivim
