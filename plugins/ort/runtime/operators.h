// The operators as nodes: attributes and shapes, the same for every processor that computes them.
//
// A Processor computes what a description says, from tensors whose shapes were checked:
//
//   Processor::convolve(context, tensors, description, taps, output, tail)
//   Processor::scan(context, tensors, description, output, initial, final)
//
// With `Streaming` a node goes on from a state (vivim_kernels.h), which is one more input, and for the scan one more
// output; both are float32 whatever the data are, but for the tail.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "context.h"

namespace vivim::ort
{
// The attributes that the two operators have in common.
struct Attributes
{
    int32_t rows;
    std::vector<int64_t> directions;

    Attributes(OrtApi const* api, OrtKernelInfo const* info);

    template <class Description> void describe(Description& desc) const
    {
        desc.rows = rows;
        desc.direction_count = int32_t(directions.size());
        std::copy(directions.begin(), directions.end(), desc.directions);
    }
};

// Where a dimension of an output comes from.
struct Axis { size_t input, axis; };

template <size_t Count> std::array<Tensor, Count> inputsOf(Context const& context)
{
    std::array<Tensor, Count> tensors;
    for (size_t i = 0; i < Count; ++i)
        tensors[i] = context.input(i);
    return tensors;
}

template <class Processor, bool Streaming = false> class CausalConv1d
{
public:
    static constexpr char const* kName = Streaming ? "StreamingConv1d" : "CausalConv1d";
    enum { kXz, kTail, kWeight = Streaming ? 2 : 1, kBias, kInputs };
    static constexpr bool kIsParameter[4] = {false, !Streaming, true, true};
    static constexpr size_t kOptional = kInputs;                                        // none
    static constexpr Axis kOutput[] = {{kWeight, 0}, {kXz, 0}, {kXz, 1}, {kWeight, 1}}; // (K, B, L, D)
    static constexpr size_t kOutputRank = 4, kOutputs = 1;

    CausalConv1d(OrtApi const* api, OrtKernelInfo const* info) : m_attributes(api, info) {}

    void compute(Context const& context, vivim_dtype type) const
    {
        auto const in = inputsOf<kInputs>(context);
        expectRank("xz", in[kXz].shape, 3);
        expectRank("weight", in[kWeight].shape, 3);
        int64_t const batch = in[kXz].shape[0], length = in[kXz].shape[1];
        int64_t const width = in[kWeight].shape[1], taps = in[kWeight].shape[2];
        vivim_conv_desc desc{};
        m_attributes.describe(desc);
        desc.batch = narrowed("the batch", batch);
        desc.length = narrowed("the number of tokens", length);
        desc.width = narrowed("the width", width);
        desc.x_width = narrowed("the width of xz", in[kXz].shape[2]);
        desc.dtype = type;
        expectShape("weight", in[kWeight].shape, {desc.direction_count, width, taps});
        expectShape("bias", in[kBias].shape, {desc.direction_count, width});
        if (Streaming)
            expectShape("tail", in[kTail].shape, {batch, taps - 1, width});
        void* const output = context.output(0, {desc.direction_count, batch, length, width});
        Processor::convolve(context, {in[kXz], in[kWeight], in[kBias]}, desc, narrowed("the number of taps", taps),
            output, Streaming ? in[kTail].data : nullptr);
    }

private:
    Attributes const m_attributes;
};

template <class Processor, bool Streaming = false> class SelectiveScan
{
public:
    static constexpr char const* kName = Streaming ? "StreamingScan" : "SelectiveScan";
    enum { kXc, kDbc, kXz, kALog2e, kDtWeight, kDtBias, kDSkip, kInitial, kInputs = Streaming ? 8 : 7 };
    static constexpr bool kIsParameter[8] = {false, false, false, true, true, true, true, true};
    static constexpr size_t kOptional = kXz;                          // a node without it has no gate
    static constexpr Axis kOutput[] = {{kXc, 1}, {kXc, 2}, {kXc, 3}}; // (B, L, D)
    static constexpr size_t kOutputRank = 3, kOutputs = Streaming ? 2 : 1;

    SelectiveScan(OrtApi const* api, OrtKernelInfo const* info) : m_attributes(api, info)
    {
        check(api, kernelInfoInt(api, info, "mean", &m_mean));
    }

    void compute(Context const& context, vivim_dtype type) const
    {
        auto const in = inputsOf<kInputs>(context);
        expectRank("xc", in[kXc].shape, 4);
        bool const isGated = in[kXz].data != nullptr;
        if (isGated)
            expectRank("xz", in[kXz].shape, 3);
        expectRank("A_log2e", in[kALog2e].shape, 3);
        expectRank("dt_weight", in[kDtWeight].shape, 3);
        int64_t const shared = in[kXc].shape[0], batch = in[kXc].shape[1], length = in[kXc].shape[2];
        int64_t const width = in[kXc].shape[3], states = in[kALog2e].shape[2], rank = in[kDtWeight].shape[2];
        vivim_scan_desc desc{};
        m_attributes.describe(desc);
        int64_t const directions = desc.direction_count;
        desc.batch = narrowed("the batch", batch);
        desc.length = narrowed("the number of tokens", length);
        desc.width = narrowed("the width", width);
        desc.gate_width = isGated ? narrowed("the width of xz", in[kXz].shape[2]) : 0;
        desc.rank = narrowed("the rank", rank);
        desc.states = narrowed("the number of states", states);
        desc.shared_input = shared == 1;
        desc.mean = m_mean != 0;
        desc.dtype = type;
        expectShape("xc", in[kXc].shape, {shared == 1 ? 1 : directions, batch, length, width});
        expectShape("dbc", in[kDbc].shape, {directions, batch, length, rank + 2 * states});
        if (isGated)
            expectShape("xz", in[kXz].shape, {batch, length, std::max<int64_t>(desc.gate_width, width)});
        expectShape("A_log2e", in[kALog2e].shape, {directions, width, states});
        expectShape("dt_weight", in[kDtWeight].shape, {directions, width, rank});
        expectShape("dt_bias", in[kDtBias].shape, {directions, width});
        expectShape("d_skip", in[kDSkip].shape, {directions, width});
        void* const y = context.output(0, {batch, length, width});
        std::array<Tensor, 7> const data{
            in[kXc], in[kDbc], in[kXz], in[kALog2e], in[kDtWeight], in[kDtBias], in[kDSkip]};
        if constexpr (Streaming)
        {
            expectShape("initial", in[kInitial].shape, {batch, states, width});
            void* const final = context.output(1, {batch, states, width});
            Processor::scan(context, data, desc, y, in[kInitial].data, final);
        }
        else
            Processor::scan(context, data, desc, y, nullptr, nullptr);
    }

private:
    Attributes const m_attributes;
    int64_t m_mean = 1;
};

template <class Processor> using StreamingConv1d = CausalConv1d<Processor, true>;

template <class Processor> class StreamingScan : public SelectiveScan<Processor, true>
{
    using Base = SelectiveScan<Processor, true>;

public:
    using Base::Base;
    static constexpr Axis kState[] = {{Base::kXc, 1}, {Base::kALog2e, 2}, {Base::kXc, 3}}; // (B, N, D)
};

// vivim::DepthwiseConvGelu2d over (F, H, W, C) and vivim::DepthwiseConvGelu3d over (B, T, H, W, C), channels last. Of the
// CPU alone: a file has them where it was exported for one.
template <int Dimensions> class DepthwiseConvGelu
{
public:
    static constexpr char const* kName = Dimensions == 2 ? "DepthwiseConvGelu2d" : "DepthwiseConvGelu3d";
    enum { kX, kWeight, kBias, kInputs };
    static constexpr bool kIsParameter[kInputs] = {false, true, true};
    static constexpr size_t kOptional = kInputs; // none
    static constexpr Axis kOutput[] = {{kX, 0}, {kX, 1}, {kX, 2}, {kX, 3}, {kX, 4}};
    static constexpr size_t kOutputRank = Dimensions + 2, kOutputs = 1;

    DepthwiseConvGelu(OrtApi const*, OrtKernelInfo const*) {}

    void compute(Context const& context, vivim_dtype) const
    {
        auto const in = inputsOf<kInputs>(context);
        Shape const& x = in[kX].shape;
        expectRank("x", x, Dimensions + 2);
        int64_t const frames = Dimensions == 2 ? 1 : x[1], channels = x.back();
        expectShape("weight", in[kWeight].shape, Dimensions == 2 ? Shape{3, 3, channels} : Shape{3, 3, 3, channels});
        expectShape("bias", in[kBias].shape, {channels});
        auto const numbers = [&](size_t i) { return static_cast<float const*>(in[i].data); };
        cpu::Depthwise const depthwise{numbers(kX), numbers(kWeight), numbers(kBias),
            static_cast<float*>(context.output(0, x)), x[0], frames, x[Dimensions - 1], x[Dimensions], channels,
            Dimensions == 2 ? 1 : 3};
        SessionThreads threads(context, in[kX].memory);
        cpu::convolveDepthwise(depthwise, threads);
    }
};

// vivim::AddLayerNorm: a residual sum, and its LayerNorm over the last axis. Of the CPU alone, as the next one.
class AddLayerNorm
{
public:
    static constexpr char const* kName = "AddLayerNorm";
    enum { kX, kY, kGamma, kBeta, kInputs };
    static constexpr bool kIsParameter[kInputs] = {};
    static constexpr size_t kOptional = kInputs;                   // none
    static constexpr Axis kOutput[] = {{kX, 0}, {kX, 1}, {kX, 2}}; // of both outputs
    static constexpr size_t kOutputRank = 3, kOutputs = 2;

    AddLayerNorm(OrtApi const* api, OrtKernelInfo const* info)
    {
        check(api, kernelInfoFloat(api, info, "epsilon", &m_epsilon));
    }

    void compute(Context const& context, vivim_dtype) const
    {
        auto const in = inputsOf<kInputs>(context);
        Shape const& x = in[kX].shape;
        expectRank("x", x, 3);
        expectShape("y", in[kY].shape, x);
        expectShape("gamma", in[kGamma].shape, {x.back()});
        expectShape("beta", in[kBeta].shape, {x.back()});
        auto const numbers = [&](size_t i) { return static_cast<float const*>(in[i].data); };
        auto const output = [&](size_t i) { return static_cast<float*>(context.output(i, x)); };
        SessionThreads threads(context, in[kX].memory);
        cpu::addNorm({numbers(kX), numbers(kY), numbers(kGamma), numbers(kBeta), output(0), output(1), x[0] * x[1],
                         x[2], m_epsilon},
            threads);
    }

private:
    float m_epsilon = 0.f;
};

// vivim::MergeScales: four scales (F, H, W, E), of which the first is the largest, to logits (F, K, H, W).
class MergeScales
{
public:
    static constexpr char const* kName = "MergeScales";
    enum { kFirst, kSecond, kThird, kFourth, kBias, kWeight, kClassBias, kInputs };
    static constexpr bool kIsParameter[kInputs] = {};
    static constexpr size_t kOptional = kInputs; // none
    static constexpr Axis kOutput[] = {{kFirst, 0}, {kWeight, 0}, {kFirst, 1}, {kFirst, 2}};
    static constexpr size_t kOutputRank = 4, kOutputs = 1;

    MergeScales(OrtApi const*, OrtKernelInfo const*) {}

    void compute(Context const& context, vivim_dtype) const
    {
        auto const in = inputsOf<kInputs>(context);
        auto const numbers = [&](size_t i) { return static_cast<float const*>(in[i].data); };
        cpu::MergeScales merge{};
        for (size_t i = 0; i < cpu::MergeScales::kScales; ++i)
        {
            Shape const& shape = in[kFirst + i].shape;
            expectRank("a scale", shape, 4);
            expectShape("a scale", shape, {in[kFirst].shape[0], shape[1], shape[2], in[kFirst].shape[3]});
            merge.scales[i] = {numbers(kFirst + i), shape[1], shape[2]};
        }
        expectRank("weight", in[kWeight].shape, 2);
        merge.frames = in[kFirst].shape[0], merge.channels = in[kFirst].shape[3], merge.classes = in[kWeight].shape[0];
        expectShape("bias", in[kBias].shape, {merge.channels});
        expectShape("weight", in[kWeight].shape, {merge.classes, merge.channels});
        expectShape("class_bias", in[kClassBias].shape, {merge.classes});
        merge.bias = numbers(kBias), merge.weight = numbers(kWeight), merge.classBias = numbers(kClassBias);
        auto const& first = merge.scales[0];
        Shape const logits{merge.frames, merge.classes, first.height, first.width};
        merge.logits = static_cast<float*>(context.output(0, logits));
        SessionThreads threads(context, in[kFirst].memory);
        cpu::mergeScales(merge, threads);
    }
};
} // namespace vivim::ort
