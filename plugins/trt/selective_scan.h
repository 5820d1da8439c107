// SelectiveScan and StreamingScan in TensorRT: vivim_selective_scan, whose ways to compute are tactics that TensorRT times.
#pragma once

#include "plugin.h"

namespace vivim::trt
{

class SelectiveScan : public Plugin
{
public:
    static constexpr Signature kSignature{"SelectiveScan", kScanFields, 7,
        {{{"xc", 4, false}, {"dbc", 4, false}, {"xz", 3, false}, {"A_log2e", 3, true}, {"dt_weight", 3, true},
            {"dt_bias", 2, true}, {"d_skip", 2, true}}},
        3};

    explicit SelectiveScan(Attributes const& attributes) : Plugin(kSignature, attributes) {}

protected:
    enum { kXc, kDbc, kXz, kALog2e, kDtWeight, kDtBias, kDSkip, kInitial }; // the inputs

    SelectiveScan(Signature const& signature, Attributes const& attributes) : Plugin(signature, attributes) {}

    Plugin* copy() const override { return new SelectiveScan(*this); }
    void outputShape(nvinfer1::DimsExprs const* in, nvinfer1::DimsExprs& out) const override;
    void checkShapes(
        nvinfer1::PluginTensorDesc const* in, nvinfer1::PluginTensorDesc const& out, bool complete) const override;
    size_t workspace(nvinfer1::PluginTensorDesc const* bounds) const override;
    int32_t tacticCount() const noexcept override { return vivim_scan_tactic_count(); }
    int32_t launch(nvinfer1::PluginTensorDesc const* in, void const* const* inputs, void* const* outputs,
        void* workspace, cudaStream_t stream) const override;

    vivim_scan_desc describe(nvinfer1::PluginTensorDesc const* in) const;
};

// vivim_streaming_scan: one more input and output, the state of the first direction before and after. TensorRT gives
// them memory of their own, as the kernels ask for.
class StreamingScan final : public SelectiveScan
{
public:
    static constexpr Signature kSignature{"StreamingScan", kScanFields, 8,
        {{{"xc", 4, false}, {"dbc", 4, false}, {"xz", 3, false}, {"A_log2e", 3, true}, {"dt_weight", 3, true},
            {"dt_bias", 2, true}, {"d_skip", 2, true}, {"initial", 3, true}}},
        3, 3};

    explicit StreamingScan(Attributes const& attributes) : SelectiveScan(kSignature, attributes) {}

private:
    Plugin* copy() const override { return new StreamingScan(*this); }
    void stateShape(nvinfer1::DimsExprs const* in, nvinfer1::DimsExprs& out) const override;
    void checkState(nvinfer1::PluginTensorDesc const* in, nvinfer1::PluginTensorDesc const& state) const override;
    int32_t launch(nvinfer1::PluginTensorDesc const* in, void const* const* inputs, void* const* outputs,
        void* workspace, cudaStream_t stream) const override;
};

} // namespace vivim::trt
