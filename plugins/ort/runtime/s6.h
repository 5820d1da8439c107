// vivim::S6Scan as a node: the plain scan of vivim_s6.h.
//
//   u, delta (B, D, L), B, C (B, G, N, L), A (D, N), skip, bias (D); softplus -> (B, D, L)
#pragma once

#include "operators.h"
#include "vivim_s6.h"

namespace vivim::ort
{
template <class Processor> class S6Scan
{
public:
    static constexpr char const* kName = "S6Scan";
    enum { kU, kDelta, kB, kC, kA, kSkip, kBias, kInputs };
    static constexpr bool kIsParameter[kInputs] = {false, false, false, false, true, true, true};
    static constexpr size_t kOptional = kInputs;
    static constexpr Axis kOutput[] = {{kU, 0}, {kU, 1}, {kU, 2}};
    static constexpr size_t kOutputRank = 3, kOutputs = 1;

    S6Scan(OrtApi const* api, OrtKernelInfo const* info)
    {
        check(api, kernelInfoInt(api, info, "softplus", &m_softplus));
    }

    void compute(Context const& context, vivim_dtype type) const
    {
        auto const in = inputsOf<kInputs>(context);
        expectRank("u", in[kU].shape, 3);
        expectRank("B", in[kB].shape, 4);
        expectRank("A", in[kA].shape, 2);
        int64_t const batch = in[kU].shape[0], width = in[kU].shape[1], length = in[kU].shape[2];
        int64_t const groups = in[kB].shape[1], states = in[kA].shape[1];
        vivim_s6_desc desc{};
        desc.batch = narrowed("the batch", batch);
        desc.length = narrowed("the number of tokens", length);
        desc.width = narrowed("the width", width);
        desc.groups = narrowed("the number of groups", groups);
        desc.states = narrowed("the number of states", states);
        desc.softplus = m_softplus != 0;
        desc.dtype = type;
        expectShape("delta", in[kDelta].shape, {batch, width, length});
        expectShape("B", in[kB].shape, {batch, groups, states, length});
        expectShape("C", in[kC].shape, {batch, groups, states, length});
        expectShape("A", in[kA].shape, {width, states});
        expectShape("skip", in[kSkip].shape, {width});
        expectShape("bias", in[kBias].shape, {width});
        Processor::scanS6(context, in, desc, context.output(0, {batch, width, length}));
    }

private:
    int64_t m_softplus = 1;
};
} // namespace vivim::ort
