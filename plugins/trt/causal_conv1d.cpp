#include "causal_conv1d.h"

namespace vivim::trt
{

using namespace nvinfer1;

namespace
{

vivim_conv_desc describe(Attributes const& attributes, Dims const& xz, Dims const& weight, DataType type)
{
    vivim_conv_desc desc{};
    desc.batch = kernelSize("xz", xz.d[0]);
    desc.length = kernelSize("xz", xz.d[1]);
    desc.width = kernelSize("weight", weight.d[1]);
    desc.rows = attributes.rows;
    desc.x_width = kernelSize("xz", xz.d[2]);
    desc.direction_count = attributes.directionCount;
    for (int32_t k = 0; k < desc.direction_count; ++k)
        desc.directions[k] = attributes.directions[k];
    desc.dtype = kernelType(type);
    return desc;
}

void convolvedShape(DimsExprs const& xz, DimsExprs const& weight, DimsExprs& out)
{
    out.nbDims = 4; // (K, B, L, D)
    out.d[0] = weight.d[0];
    out.d[1] = xz.d[0];
    out.d[2] = xz.d[1];
    out.d[3] = weight.d[1];
}

constexpr int64_t kTaps = 4;

} // namespace

void CausalConv1d::outputShape(DimsExprs const* in, DimsExprs& out) const { convolvedShape(in[kXz], in[kWeight], out); }

void CausalConv1d::checkShapes(PluginTensorDesc const* in, PluginTensorDesc const& out, bool) const
{
    int64_t const directions = mAttributes.directionCount;
    int64_t const batch = in[kXz].dims.d[0], length = in[kXz].dims.d[1], width = in[kWeight].dims.d[1];
    checkLength(kXz, length);
    checkWidth(kWeight, width);
    expectShape(in, kXz, {batch, length, width == kUnknown ? kUnknown : 2 * width},
        "(B, L, 2D), the whole output of in_proj; D is that of weight");
    expectShape(in, kWeight, {directions, width, kTaps}, "(K, D, taps); K is the number of directions");
    expectShape(in, kBias, {directions, width}, "(K, D)");
    expectOutput(out, {directions, batch, length, width}, "(K, B, L, D)");
}

int32_t CausalConv1d::launch(
    PluginTensorDesc const* in, void const* const* inputs, void* const* outputs, void*, cudaStream_t stream) const
{
    vivim_conv_desc const desc = describe(mAttributes, in[kXz].dims, in[kWeight].dims, in[kXz].type);
    return vivim_causal_conv1d(&desc, inputs[kXz], static_cast<float const*>(inputs[kWeight]),
        static_cast<float const*>(inputs[kBias]), outputs[0], stream);
}

void StreamingConv1d::outputShape(DimsExprs const* in, DimsExprs& out) const
{
    convolvedShape(in[kXz], in[kWeight], out);
}

void StreamingConv1d::checkShapes(PluginTensorDesc const* in, PluginTensorDesc const& out, bool) const
{
    int64_t const directions = mAttributes.directionCount;
    int64_t const batch = in[kXz].dims.d[0], length = in[kXz].dims.d[1], width = in[kWeight].dims.d[1];
    checkLength(kXz, length);
    checkWidth(kWeight, width);
    expectShape(in, kXz, {batch, length, width == kUnknown ? kUnknown : 2 * width},
        "(B, L, 2D), the whole output of in_proj; D is that of weight");
    expectShape(in, kTail, {batch, kTaps - 1, width}, "(B, taps - 1, D)");
    expectShape(in, kWeight, {directions, width, kTaps}, "(K, D, taps); K is the number of directions");
    expectShape(in, kBias, {directions, width}, "(K, D)");
    expectOutput(out, {directions, batch, length, width}, "(K, B, L, D)");
}

int32_t StreamingConv1d::launch(
    PluginTensorDesc const* in, void const* const* inputs, void* const* outputs, void*, cudaStream_t stream) const
{
    vivim_conv_desc const desc = describe(mAttributes, in[kXz].dims, in[kWeight].dims, in[kXz].type);
    return vivim_streaming_conv1d(&desc, inputs[kXz], inputs[kTail], static_cast<float const*>(inputs[kWeight]),
        static_cast<float const*>(inputs[kBias]), outputs[0], stream);
}

} // namespace vivim::trt
