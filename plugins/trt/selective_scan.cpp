#include "selective_scan.h"

#include "messages.h"

namespace vivim::trt
{

using namespace nvinfer1;

namespace
{

// The kernels' own rule for a description, which refuses what they cannot compute.
int32_t defaultTactic(vivim_scan_desc const& desc) { return chosenTactic(vivim_scan_default_tactic(&desc)); }

} // namespace

void SelectiveScan::outputShape(DimsExprs const* in, DimsExprs& out) const
{
    out.nbDims = 3; // (B, L, D)
    for (int32_t i = 0; i < 3; ++i)
        out.d[i] = in[kXc].d[i + 1];
}

void SelectiveScan::checkShapes(PluginTensorDesc const* in, PluginTensorDesc const& out, bool complete) const
{
    Dims const& xc = in[kXc].dims;
    int64_t const directions = mAttributes.directionCount, shared = xc.d[0];
    int64_t const batch = xc.d[1], length = xc.d[2], width = xc.d[3];
    int64_t const states = in[kALog2e].dims.d[2], rank = in[kDtWeight].dims.d[2];
    int64_t const columns = rank == kUnknown || states == kUnknown ? kUnknown : rank + 2 * states;
    checkLength(kXc, length);
    checkWidth(kXc, width);
    expectShape(in, kXc, {shared == 1 ? 1 : directions, batch, length, width},
        "(K, B, L, D), or 1 instead of K; K is the number of directions");
    expectShape(in, kDbc, {directions, batch, length, columns}, "(K, B, L, R + 2N)");
    expectShape(
        in, kXz, {batch, length, width == kUnknown ? kUnknown : 2 * width}, "(B, L, 2D), the whole output of in_proj");
    expectShape(in, kALog2e, {directions, width, states}, "(K, D, N)");
    expectShape(in, kDtWeight, {directions, width, rank}, "(K, D, R)");
    expectShape(in, kDtBias, {directions, width}, "(K, D)");
    expectShape(in, kDSkip, {directions, width}, "(K, D)");
    expectOutput(out, {batch, length, width}, "(B, L, D)");
    if (complete)
        defaultTactic(describe(in));
}

size_t SelectiveScan::workspace(PluginTensorDesc const* bounds) const
{
    vivim_scan_desc desc = describe(bounds);
    // A bound on L need not be a length that can occur.
    desc.length -= desc.length % desc.rows;
    size_t const bytes = vivim_scan_workspace(&desc, -1);
    if (bytes == 0)
        defaultTactic(desc); // throws where 0 stands for a wrong description
    return bytes;
}

int32_t SelectiveScan::launch(PluginTensorDesc const* in, void const* const* inputs, void* const* outputs,
    void* workspace, cudaStream_t stream) const
{
    vivim_scan_desc const desc = describe(in);
    int32_t const tactic = mTactic > 0 ? mTactic - 1 : defaultTactic(desc);
    auto const parameter = [&](int32_t index) { return static_cast<float const*>(inputs[index]); };
    // TensorRT does not say how large the workspace is: it is what getWorkspaceSize asked for at the largest shape.
    return vivim_selective_scan(&desc, tactic, inputs[kXc], inputs[kDbc], inputs[kXz], parameter(kALog2e),
        parameter(kDtWeight), parameter(kDtBias), parameter(kDSkip), outputs[0], workspace,
        vivim_scan_workspace(&desc, tactic), stream);
}

void StreamingScan::stateShape(DimsExprs const* in, DimsExprs& out) const
{
    out.nbDims = 3; // (B, N, D)
    out.d[0] = in[kXc].d[1];
    out.d[1] = in[kALog2e].d[2];
    out.d[2] = in[kXc].d[3];
}

void StreamingScan::checkState(PluginTensorDesc const* in, PluginTensorDesc const& state) const
{
    Dims const& xc = in[kXc].dims;
    int64_t const states = in[kALog2e].dims.d[2];
    expectShape(in, kInitial, {xc.d[1], states, xc.d[3]}, "(B, N, D)");
    expectOutput(state, {xc.d[1], states, xc.d[3]}, "(B, N, D)");
}

int32_t StreamingScan::launch(PluginTensorDesc const* in, void const* const* inputs, void* const* outputs,
    void* workspace, cudaStream_t stream) const
{
    vivim_scan_desc const desc = describe(in);
    int32_t const tactic = mTactic > 0 ? mTactic - 1 : defaultTactic(desc);
    auto const parameter = [&](int32_t index) { return static_cast<float const*>(inputs[index]); };
    return vivim_streaming_scan(&desc, tactic, inputs[kXc], inputs[kDbc], inputs[kXz], parameter(kALog2e),
        parameter(kDtWeight), parameter(kDtBias), parameter(kDSkip), parameter(kInitial), outputs[0],
        static_cast<float*>(outputs[1]), workspace, vivim_scan_workspace(&desc, tactic), stream);
}

vivim_scan_desc SelectiveScan::describe(PluginTensorDesc const* in) const
{
    Dims const& xc = in[kXc].dims;
    vivim_scan_desc desc{};
    desc.batch = kernelSize("xc", xc.d[1]);
    desc.length = kernelSize("xc", xc.d[2]);
    desc.width = kernelSize("xc", xc.d[3]);
    desc.rows = mAttributes.rows;
    desc.rank = kernelSize("dt_weight", in[kDtWeight].dims.d[2]);
    desc.states = kernelSize("A_log2e", in[kALog2e].dims.d[2]);
    desc.direction_count = mAttributes.directionCount;
    for (int32_t k = 0; k < desc.direction_count; ++k)
        desc.directions[k] = mAttributes.directions[k];
    desc.shared_input = xc.d[0] == 1;
    desc.mean = mAttributes.mean;
    desc.gate_width = kernelSize("xz", in[kXz].dims.d[2]);
    desc.dtype = kernelType(in[kXc].type);
    return desc;
}

} // namespace vivim::trt
