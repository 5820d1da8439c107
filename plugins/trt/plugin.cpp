#include "plugin.h"

#include <limits>

#include "messages.h"

namespace vivim::trt
{

using namespace nvinfer1;

namespace
{

std::string shapeText(int64_t const* sizes, size_t count)
{
    std::string text = "(";
    for (size_t i = 0; i < count; ++i)
        text += (i ? ", " : "") + (sizes[i] < 0 ? std::string("?") : std::to_string(sizes[i]));
    return text + ")";
}

std::string shapeText(Dims const& dims) { return shapeText(dims.d, static_cast<size_t>(dims.nbDims)); }

bool isDataType(DataType type)
{
    return type == DataType::kFLOAT || type == DataType::kHALF || type == DataType::kBF16;
}

std::string typeName(DataType type)
{
    switch (type)
    {
    case DataType::kFLOAT: return "data type float32";
    case DataType::kHALF: return "data type float16";
    case DataType::kBF16: return "data type bfloat16";
    default: return "data type " + std::to_string(static_cast<int32_t>(type)) + " of TensorRT";
    }
}

// "input xz", or "the output" for a null name. Made only for a message: enqueue checks too, and allocates nothing.
std::string label(char const* name) { return name ? std::string("input ") + name : "the output"; }

void checkShape(char const* name, Dims const& dims, std::initializer_list<int64_t> expected, char const* meaning)
{
    bool agrees = dims.nbDims == static_cast<int32_t>(expected.size());
    for (size_t i = 0; agrees && i < expected.size(); ++i)
    {
        int64_t const size = expected.begin()[i];
        agrees = size < 0 || dims.d[i] < 0 || dims.d[i] == size;
    }
    if (!agrees)
        throw Refusal(label(name) + " has shape " + shapeText(dims) + "; expected "
            + shapeText(expected.begin(), expected.size()) + " = " + meaning);
}

void checkRank(char const* name, int32_t rank, int32_t expected)
{
    if (rank != expected)
        throw Refusal(
            label(name) + " has " + std::to_string(rank) + " dimensions; expected " + std::to_string(expected));
}

void checkTensor(char const* name, PluginTensorDesc const& desc, int32_t rank, DataType type)
{
    checkRank(name, desc.dims.nbDims, rank);
    if (desc.type != type)
        throw Refusal(label(name) + " has " + typeName(desc.type) + "; expected " + typeName(type));
    if (desc.format != TensorFormat::kLINEAR)
        throw Refusal(label(name) + " has tensor format " + std::to_string(static_cast<int32_t>(desc.format))
            + "; expected LINEAR");
}

} // namespace

int32_t kernelType(DataType type)
{
    switch (type)
    {
    case DataType::kFLOAT: return VIVIM_FLOAT32;
    case DataType::kHALF: return VIVIM_FLOAT16;
    case DataType::kBF16: return VIVIM_BFLOAT16;
    default: throw Refusal("the data is " + typeName(type) + "; expected float32, float16 or bfloat16");
    }
}

int32_t kernelSize(char const* name, int64_t size)
{
    if (size < 0 || size > std::numeric_limits<int32_t>::max())
        throw Refusal(label(name) + " has a dimension of " + std::to_string(size)
            + "; expected one that is known and below 2^31");
    return static_cast<int32_t>(size);
}

int32_t chosenTactic(int32_t tactic)
{
    if (tactic < 0)
        throw Refusal(vivim_kernels_error());
    return tactic;
}

Plugin::Plugin(Signature const& signature, Attributes const& attributes)
    : mSignature(signature),
      mAttributes(attributes),
      mTimingKey(std::string(signature.name) + " " + textOf(attributes, signature.fields)
          + " kernels=" + vivim_kernels_revision())
{
}

// --- IPluginV3 ------------------------------------------------------------------------------------------------------

IPluginCapability* Plugin::getCapabilityInterface(PluginCapabilityType type) noexcept
{
    switch (type)
    {
    case PluginCapabilityType::kCORE: return static_cast<IPluginV3OneCore*>(this);
    case PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuild*>(this);
    case PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime*>(this);
    }
    return nullptr;
}

IPluginV3* Plugin::clone() noexcept
{
    return valueOf<IPluginV3*>(mSignature.name, nullptr, [&] { return copy(); });
}

// --- IPluginV3OneBuild ----------------------------------------------------------------------------------------------

int32_t Plugin::configurePlugin(DynamicPluginTensorDesc const* in, int32_t inputCount,
    DynamicPluginTensorDesc const* out, int32_t outputCount) noexcept
{
    return statusOf(mSignature.name, [&] {
        checkCounts(inputCount, outputCount);
        std::array<PluginTensorDesc, kMaxInputs> inputs{};
        for (int32_t i = 0; i < inputCount; ++i)
            inputs[i] = in[i].desc;
        std::array<PluginTensorDesc, kMaxOutputs> outputs{};
        for (int32_t i = 0; i < outputCount; ++i)
            outputs[i] = out[i].desc;
        checkTypes(inputs.data(), outputs.data());
        checkAllShapes(inputs.data(), outputs.data(), false);
    });
}

int32_t Plugin::getOutputDataTypes(
    DataType* types, int32_t outputCount, DataType const* inputTypes, int32_t inputCount) const noexcept
{
    return statusOf(mSignature.name, [&] {
        checkCounts(inputCount, outputCount);
        types[0] = inputTypes[0];
        if (mSignature.stateRank)
            types[1] = DataType::kFLOAT;
    });
}

int32_t Plugin::getOutputShapes(DimsExprs const* in, int32_t inputCount, DimsExprs const*, int32_t, DimsExprs* out,
    int32_t outputCount, IExprBuilder&) noexcept
{
    return statusOf(mSignature.name, [&] {
        checkCounts(inputCount, outputCount);
        for (int32_t i = 0; i < inputCount; ++i)
            checkRank(mSignature.inputs[i].name, in[i].nbDims, mSignature.inputs[i].rank);
        outputShape(in, out[0]);
        if (mSignature.stateRank)
            stateShape(in, out[1]);
    });
}

bool Plugin::supportsFormatCombination(
    int32_t position, DynamicPluginTensorDesc const* inOut, int32_t inputCount, int32_t outputCount) noexcept
{
    return valueOf(mSignature.name, false, [&] {
        checkCounts(inputCount, outputCount);
        PluginTensorDesc const& desc = inOut[position].desc;
        bool const parameter = position < inputCount ? mSignature.inputs[position].parameter : position > inputCount;
        bool const typed = parameter ? desc.type == DataType::kFLOAT
            : position == 0          ? isDataType(desc.type)
                                     : desc.type == inOut[0].desc.type;
        return typed && desc.format == TensorFormat::kLINEAR;
    });
}

size_t Plugin::getWorkspaceSize(DynamicPluginTensorDesc const* in, int32_t inputCount, DynamicPluginTensorDesc const*,
    int32_t outputCount) const noexcept
{
    return valueOf<size_t>(mSignature.name, 0, [&] {
        checkCounts(inputCount, outputCount);
        std::array<PluginTensorDesc, kMaxInputs> bounds{};
        for (int32_t i = 0; i < inputCount; ++i)
        {
            bounds[i] = in[i].desc;
            bounds[i].dims = in[i].max;
            checkRank(mSignature.inputs[i].name, bounds[i].dims.nbDims, mSignature.inputs[i].rank);
        }
        return workspace(bounds.data());
    });
}

int32_t Plugin::getValidTactics(int32_t* tactics, int32_t count) noexcept
{
    return statusOf(mSignature.name, [&] {
        if (count != tacticCount())
            throw Refusal(std::to_string(count) + " tactics were asked for; expected " + std::to_string(tacticCount()));
        for (int32_t i = 0; i < count; ++i)
            tactics[i] = i + 1; // 0 is TensorRT's default
    });
}

// --- IPluginV3OneRuntime --------------------------------------------------------------------------------------------

int32_t Plugin::setTactic(int32_t tactic) noexcept
{
    return statusOf(mSignature.name, [&] {
        if (tactic < 0 || tactic > tacticCount())
            throw Refusal("the tactic is " + std::to_string(tactic) + "; expected 0 to " + std::to_string(tacticCount())
                + ": was the engine built with another version of the plugin?");
        mTactic = tactic;
    });
}

int32_t Plugin::onShapeChange(
    PluginTensorDesc const* in, int32_t inputCount, PluginTensorDesc const* out, int32_t outputCount) noexcept
{
    return statusOf(mSignature.name, [&] {
        checkCounts(inputCount, outputCount);
        checkTypes(in, out);
        checkAllShapes(in, out, true);
    });
}

int32_t Plugin::enqueue(PluginTensorDesc const* inputDesc, PluginTensorDesc const* outputDesc,
    void const* const* inputs, void* const* outputs, void* workspace, cudaStream_t stream) noexcept
{
    return statusOf(mSignature.name, [&] {
        // Some ten comparisons: a caller that left out onShapeChange must not make the kernels read beyond a
        // tensor.
        checkTypes(inputDesc, outputDesc);
        checkAllShapes(inputDesc, outputDesc, true);
        if (int32_t const status = launch(inputDesc, inputs, outputs, workspace, stream))
            throw Refusal(vivim_kernels_error(), status);
    });
}

IPluginV3* Plugin::attachToContext(IPluginResourceContext*) noexcept { return clone(); }

PluginFieldCollection const* Plugin::getFieldsToSerialize() noexcept
{
    // Written anew each time: in a clone they would still point into the original. TensorRT keeps the tactic itself.
    mFields = writeFields(mAttributes);
    mCollection = {mSignature.fields.count, mFields.data() + mSignature.fields.first};
    return &mCollection;
}

// --- For the operators ----------------------------------------------------------------------------------------------

size_t Plugin::workspace(PluginTensorDesc const*) const { return 0; }

void Plugin::stateShape(DimsExprs const*, DimsExprs&) const { throw Refusal("there is no second output"); }

void Plugin::checkState(PluginTensorDesc const*, PluginTensorDesc const&) const {}

void Plugin::expectShape(
    PluginTensorDesc const* in, int32_t index, std::initializer_list<int64_t> expected, char const* meaning) const
{
    checkShape(mSignature.inputs[index].name, in[index].dims, expected, meaning);
}

void Plugin::expectOutput(
    PluginTensorDesc const& out, std::initializer_list<int64_t> expected, char const* meaning) const
{
    checkShape(nullptr, out.dims, expected, meaning);
}

void Plugin::checkLength(int32_t index, int64_t length) const
{
    if (length != kUnknown && (length < 1 || length % mAttributes.rows))
        throw Refusal(label(mSignature.inputs[index].name) + " has L = " + std::to_string(length)
            + " tokens; expected a multiple of rows = " + std::to_string(mAttributes.rows));
}

void Plugin::checkWidth(int32_t index, int64_t width) const
{
    if (width != kUnknown && (width < 1 || width % 8))
        throw Refusal(label(mSignature.inputs[index].name) + " has D = " + std::to_string(width)
            + " channels; expected a multiple of 8");
}

void Plugin::checkCounts(int32_t inputCount, int32_t outputCount) const
{
    if (inputCount != mSignature.inputCount || outputCount != mSignature.outputCount())
        throw Refusal(std::to_string(inputCount) + " inputs and " + std::to_string(outputCount) + " outputs; expected "
            + std::to_string(mSignature.inputCount) + " and " + std::to_string(mSignature.outputCount()));
}

void Plugin::checkTypes(PluginTensorDesc const* in, PluginTensorDesc const* out) const
{
    DataType const type = in[0].type;
    if (!isDataType(type))
        throw Refusal(
            label(mSignature.inputs[0].name) + " has " + typeName(type) + "; expected float32, float16 or bfloat16");
    for (int32_t i = 0; i < mSignature.inputCount; ++i)
    {
        Input const& input = mSignature.inputs[i];
        checkTensor(input.name, in[i], input.rank, input.parameter ? DataType::kFLOAT : type);
    }
    checkTensor(nullptr, out[0], mSignature.outputRank, type);
    if (mSignature.stateRank)
        checkTensor(nullptr, out[1], mSignature.stateRank, DataType::kFLOAT);
}

void Plugin::checkAllShapes(PluginTensorDesc const* in, PluginTensorDesc const* out, bool complete) const
{
    checkShapes(in, out[0], complete);
    if (mSignature.stateRank)
        checkState(in, out[1]);
}

} // namespace vivim::trt
