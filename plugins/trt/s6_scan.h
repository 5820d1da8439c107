// S6Scan in TensorRT: vivim_s6_scan, the plain scan, whose ways to compute are tactics that TensorRT times.
#pragma once

#include "plugin.h"

namespace vivim::trt
{

class S6Scan final : public Plugin
{
public:
    static constexpr Signature kSignature{"S6Scan", kS6Fields, 7,
        {{{"u", 3, false}, {"delta", 3, false}, {"B", 4, false}, {"C", 4, false}, {"A", 2, true}, {"skip", 1, true},
            {"bias", 1, true}}},
        3};

    explicit S6Scan(Attributes const& attributes) : Plugin(kSignature, attributes) {}

private:
    enum { kU, kDelta, kB, kC, kA, kSkip, kBias }; // the inputs

    Plugin* copy() const override { return new S6Scan(*this); }
    void outputShape(nvinfer1::DimsExprs const* in, nvinfer1::DimsExprs& out) const override { out = in[kU]; }
    void checkShapes(
        nvinfer1::PluginTensorDesc const* in, nvinfer1::PluginTensorDesc const& out, bool complete) const override;
    size_t workspace(nvinfer1::PluginTensorDesc const* bounds) const override;
    int32_t tacticCount() const noexcept override { return vivim_s6_tactic_count(); }
    int32_t launch(nvinfer1::PluginTensorDesc const* in, void const* const* inputs, void* const* outputs,
        void* workspace, cudaStream_t stream) const override;

    vivim_s6_desc describe(nvinfer1::PluginTensorDesc const* in) const;
};

} // namespace vivim::trt
