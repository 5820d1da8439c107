#include "causal_conv1d.h"

namespace vivim::trt
{

using namespace nvinfer1;

void CausalConv1d::outputShape(DimsExprs const* in, DimsExprs& out) const
{
    out.nbDims = 4; // (K, B, L, D)
    out.d[0] = in[kWeight].d[0];
    out.d[1] = in[kXz].d[0];
    out.d[2] = in[kXz].d[1];
    out.d[3] = in[kWeight].d[1];
}

void CausalConv1d::checkShapes(PluginTensorDesc const* in, PluginTensorDesc const& out, bool) const
{
    int64_t const directions = mAttributes.directionCount, taps = 4;
    int64_t const batch = in[kXz].dims.d[0], length = in[kXz].dims.d[1], width = in[kWeight].dims.d[1];
    checkLength(kXz, length);
    checkWidth(kWeight, width);
    expectShape(in, kXz, {batch, length, width == kUnknown ? kUnknown : 2 * width},
        "(B, L, 2D), the whole output of in_proj; D is that of weight");
    expectShape(in, kWeight, {directions, width, taps}, "(K, D, taps); K is the number of directions");
    expectShape(in, kBias, {directions, width}, "(K, D)");
    expectOutput(out, {directions, batch, length, width}, "(K, B, L, D)");
}

int32_t CausalConv1d::launch(
    PluginTensorDesc const* in, void const* const* inputs, void* output, void*, cudaStream_t stream) const
{
    Dims const& xz = in[kXz].dims;
    vivim_conv_desc desc{};
    desc.batch = kernelSize("xz", xz.d[0]);
    desc.length = kernelSize("xz", xz.d[1]);
    desc.width = kernelSize("weight", in[kWeight].dims.d[1]);
    desc.rows = mAttributes.rows;
    desc.x_width = kernelSize("xz", xz.d[2]);
    desc.direction_count = mAttributes.directionCount;
    for (int32_t k = 0; k < desc.direction_count; ++k)
        desc.directions[k] = mAttributes.directions[k];
    desc.dtype = kernelType(in[kXz].type);
    return vivim_causal_conv1d(&desc, inputs[kXz], static_cast<float const*>(inputs[kWeight]),
        static_cast<float const*>(inputs[kBias]), output, stream);
}

} // namespace vivim::trt
