// CausalConv1d in TensorRT: vivim_causal_conv1d, reading the first half of in_proj's output in place.
#pragma once

#include "plugin.h"

namespace vivim::trt
{

class CausalConv1d final : public Plugin
{
public:
    static constexpr Signature kSignature{
        "CausalConv1d", kConvFields, 3, {{{"xz", 3, false}, {"weight", 3, true}, {"bias", 2, true}}}, 4};

    explicit CausalConv1d(Attributes const& attributes) : Plugin(kSignature, attributes) {}

private:
    enum { kXz, kWeight, kBias }; // the inputs

    Plugin* copy() const override { return new CausalConv1d(*this); }
    void outputShape(nvinfer1::DimsExprs const* in, nvinfer1::DimsExprs& out) const override;
    void checkShapes(
        nvinfer1::PluginTensorDesc const* in, nvinfer1::PluginTensorDesc const& out, bool complete) const override;
    int32_t launch(nvinfer1::PluginTensorDesc const* in, void const* const* inputs, void* const* outputs,
        void* workspace, cudaStream_t stream) const override;
};

// vivim_streaming_conv1d: what the first direction met before its first step is one more input.
class StreamingConv1d final : public Plugin
{
public:
    static constexpr Signature kSignature{"StreamingConv1d", kConvFields, 4,
        {{{"xz", 3, false}, {"tail", 3, false}, {"weight", 3, true}, {"bias", 2, true}}}, 4};

    explicit StreamingConv1d(Attributes const& attributes) : Plugin(kSignature, attributes) {}

private:
    enum { kXz, kTail, kWeight, kBias }; // the inputs

    Plugin* copy() const override { return new StreamingConv1d(*this); }
    void outputShape(nvinfer1::DimsExprs const* in, nvinfer1::DimsExprs& out) const override;
    void checkShapes(
        nvinfer1::PluginTensorDesc const* in, nvinfer1::PluginTensorDesc const& out, bool complete) const override;
    int32_t launch(nvinfer1::PluginTensorDesc const* in, void const* const* inputs, void* const* outputs,
        void* workspace, cudaStream_t stream) const override;
};

} // namespace vivim::trt
