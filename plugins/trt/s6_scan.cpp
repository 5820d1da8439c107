#include "s6_scan.h"

#include "messages.h"

namespace vivim::trt
{

using namespace nvinfer1;

namespace
{

// The kernels' own rule for a description, which refuses what they cannot compute.
int32_t defaultTactic(vivim_s6_desc const& desc) { return chosenTactic(vivim_s6_default_tactic(&desc)); }

} // namespace

void S6Scan::checkShapes(PluginTensorDesc const* in, PluginTensorDesc const& out, bool complete) const
{
    Dims const& u = in[kU].dims;
    int64_t const batch = u.d[0], width = u.d[1], length = u.d[2];
    int64_t const groups = in[kB].dims.d[1], states = in[kA].dims.d[1];
    if (groups != kUnknown && width != kUnknown && (groups < 1 || width % groups))
        throw Refusal("input u has D = " + std::to_string(width) + " channels; expected a multiple of the "
            + std::to_string(groups) + " groups of B");
    expectShape(in, kDelta, {batch, width, length}, "(B, D, L), that of u");
    expectShape(in, kB, {batch, groups, states, length}, "(B, G, N, L); N is that of A");
    expectShape(in, kC, {batch, groups, states, length}, "(B, G, N, L); N is that of A");
    expectShape(in, kA, {width, states}, "(D, N)");
    expectShape(in, kSkip, {width}, "(D)");
    expectShape(in, kBias, {width}, "(D)");
    expectOutput(out, {batch, width, length}, "(B, D, L)");
    if (complete)
        defaultTactic(describe(in));
}

size_t S6Scan::workspace(PluginTensorDesc const* bounds) const
{
    vivim_s6_desc const desc = describe(bounds);
    size_t const bytes = vivim_s6_workspace(&desc, -1);
    if (bytes == 0)
        defaultTactic(desc); // throws where 0 stands for a wrong description
    return bytes;
}

int32_t S6Scan::launch(PluginTensorDesc const* in, void const* const* inputs, void* const* outputs, void* workspace,
    cudaStream_t stream) const
{
    vivim_s6_desc const desc = describe(in);
    int32_t const tactic = mTactic > 0 ? mTactic - 1 : defaultTactic(desc);
    auto const parameter = [&](int32_t index) { return static_cast<float const*>(inputs[index]); };
    // TensorRT does not say how large the workspace is: it is what getWorkspaceSize asked for at the largest shape.
    return vivim_s6_scan(&desc, tactic, inputs[kU], inputs[kDelta], inputs[kB], inputs[kC], parameter(kA),
        parameter(kSkip), parameter(kBias), outputs[0], workspace, vivim_s6_workspace(&desc, tactic), stream);
}

vivim_s6_desc S6Scan::describe(PluginTensorDesc const* in) const
{
    Dims const& u = in[kU].dims;
    vivim_s6_desc desc{};
    desc.batch = kernelSize("u", u.d[0]);
    desc.width = kernelSize("u", u.d[1]);
    desc.length = kernelSize("u", u.d[2]);
    desc.groups = kernelSize("B", in[kB].dims.d[1]);
    desc.states = kernelSize("A", in[kA].dims.d[1]);
    desc.softplus = mAttributes.softplus;
    desc.dtype = kernelType(in[kU].type);
    return desc;
}

} // namespace vivim::trt
