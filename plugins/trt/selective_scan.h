// SelectiveScan in TensorRT: vivim_selective_scan, whose ways to compute are tactics that TensorRT times.
#pragma once

#include "plugin.h"

namespace vivim::trt
{

class SelectiveScan final : public Plugin
{
public:
    static constexpr Signature kSignature{"SelectiveScan", kScanFields, 7,
        {{{"xc", 4, false}, {"dbc", 4, false}, {"xz", 3, false}, {"A_log2e", 3, true}, {"dt_weight", 3, true},
            {"dt_bias", 2, true}, {"d_skip", 2, true}}},
        3};

    explicit SelectiveScan(Attributes const& attributes) : Plugin(kSignature, attributes) {}

private:
    enum { kXc, kDbc, kXz, kALog2e, kDtWeight, kDtBias, kDSkip }; // the inputs

    Plugin* copy() const override { return new SelectiveScan(*this); }
    void outputShape(nvinfer1::DimsExprs const* in, nvinfer1::DimsExprs& out) const override;
    void checkShapes(
        nvinfer1::PluginTensorDesc const* in, nvinfer1::PluginTensorDesc const& out, bool complete) const override;
    size_t workspace(nvinfer1::PluginTensorDesc const* bounds) const override;
    int32_t tacticCount() const noexcept override { return vivim_scan_tactic_count(); }
    int32_t launch(nvinfer1::PluginTensorDesc const* in, void const* const* inputs, void* output, void* workspace,
        cudaStream_t stream) const override;

    vivim_scan_desc describe(nvinfer1::PluginTensorDesc const* in) const;
};

} // namespace vivim::trt
