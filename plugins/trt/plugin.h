// What the operators' IPluginV3 adapters share: formats, checks of counts and types, fields, clones, messages.
//
// TensorRT asks through nvinfer1's interfaces, whose methods are noexcept. Every such method is here, catches, and
// calls the few protected methods below, in which an operator says what is its own; they throw Refusal for what they
// cannot take.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "NvInfer.h"
#include "attributes.h"
#include "vivim_kernels.h"

namespace vivim::trt
{

constexpr char kVersion[] = "1";
constexpr char kNamespace[] = "vivim";
constexpr int32_t kMaxInputs = 8;
constexpr int32_t kMaxOutputs = 2;

struct Input
{
    char const* name; // in vivim_kernels.h and in the ONNX operator; messages use it
    int32_t rank;
    bool parameter; // float32 always; other inputs and the output share the network's data type
};

// What an operator looks like from outside.
struct Signature
{
    char const* name;
    FieldRange fields;
    int32_t inputCount;
    std::array<Input, kMaxInputs> inputs;
    int32_t outputRank;
    int32_t stateRank = 0; // of a second output, a state, which is float32 whatever the network is; 0: there is none

    constexpr int32_t outputCount() const { return stateRank ? 2 : 1; }
};

class Plugin : public nvinfer1::IPluginV3,
               public nvinfer1::IPluginV3OneCore,
               public nvinfer1::IPluginV3OneBuild,
               public nvinfer1::IPluginV3OneRuntime
{
public:
    // IPluginV3
    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept final;
    nvinfer1::IPluginV3* clone() noexcept final;

    // IPluginV3OneCore
    nvinfer1::AsciiChar const* getPluginName() const noexcept final { return mSignature.name; }
    nvinfer1::AsciiChar const* getPluginVersion() const noexcept final { return kVersion; }
    nvinfer1::AsciiChar const* getPluginNamespace() const noexcept final { return kNamespace; }

    // IPluginV3OneBuild
    int32_t getNbOutputs() const noexcept final { return mSignature.outputCount(); }
    int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const* in, int32_t inputCount,
        nvinfer1::DynamicPluginTensorDesc const* out, int32_t outputCount) noexcept final;
    int32_t getOutputDataTypes(nvinfer1::DataType* types, int32_t outputCount, nvinfer1::DataType const* inputTypes,
        int32_t inputCount) const noexcept final;
    int32_t getOutputShapes(nvinfer1::DimsExprs const* in, int32_t inputCount, nvinfer1::DimsExprs const* shapeInputs,
        int32_t shapeInputCount, nvinfer1::DimsExprs* out, int32_t outputCount,
        nvinfer1::IExprBuilder& builder) noexcept final;
    bool supportsFormatCombination(int32_t position, nvinfer1::DynamicPluginTensorDesc const* inOut, int32_t inputCount,
        int32_t outputCount) noexcept final;
    size_t getWorkspaceSize(nvinfer1::DynamicPluginTensorDesc const* in, int32_t inputCount,
        nvinfer1::DynamicPluginTensorDesc const* out, int32_t outputCount) const noexcept final;
    int32_t getNbTactics() noexcept final { return tacticCount(); }
    int32_t getValidTactics(int32_t* tactics, int32_t count) noexcept final;
    char const* getTimingCacheID() noexcept final { return mTimingKey.c_str(); }
    char const* getMetadataString() noexcept final { return mTimingKey.c_str(); }

    // IPluginV3OneRuntime
    int32_t setTactic(int32_t tactic) noexcept final;
    int32_t onShapeChange(nvinfer1::PluginTensorDesc const* in, int32_t inputCount,
        nvinfer1::PluginTensorDesc const* out, int32_t outputCount) noexcept final;
    int32_t enqueue(nvinfer1::PluginTensorDesc const* inputDesc, nvinfer1::PluginTensorDesc const* outputDesc,
        void const* const* inputs, void* const* outputs, void* workspace, cudaStream_t stream) noexcept final;
    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept final;
    nvinfer1::PluginFieldCollection const* getFieldsToSerialize() noexcept final;

protected:
    Plugin(Signature const& signature, Attributes const& attributes);
    Plugin(Plugin const&) = default;
    Plugin& operator=(Plugin const&) = delete;

    // A dimension that TensorRT does not know yet; it agrees with every other.
    static constexpr int64_t kUnknown = -1;

    virtual Plugin* copy() const = 0;
    virtual void outputShape(nvinfer1::DimsExprs const* in, nvinfer1::DimsExprs& out) const = 0;
    // Of the second output, where the signature has one.
    virtual void stateShape(nvinfer1::DimsExprs const* in, nvinfer1::DimsExprs& out) const;
    virtual void checkState(nvinfer1::PluginTensorDesc const* in, nvinfer1::PluginTensorDesc const& state) const;
    // How the shapes hang together; ranks and types are right already. Where `complete`, all dimensions are known.
    virtual void checkShapes(
        nvinfer1::PluginTensorDesc const* in, nvinfer1::PluginTensorDesc const& out, bool complete) const = 0;
    // Bytes that enqueue may use for these inputs or any smaller; the dimensions are bounds and need not fit together.
    virtual size_t workspace(nvinfer1::PluginTensorDesc const* bounds) const;
    virtual int32_t tacticCount() const noexcept { return 0; }
    // The call of the kernels; returns their status. Ranks, types and shapes are checked.
    virtual int32_t launch(nvinfer1::PluginTensorDesc const* in, void const* const* inputs, void* const* outputs,
        void* workspace, cudaStream_t stream) const = 0;

    void expectShape(nvinfer1::PluginTensorDesc const* in, int32_t index, std::initializer_list<int64_t> expected,
        char const* meaning) const;
    void expectOutput(
        nvinfer1::PluginTensorDesc const& out, std::initializer_list<int64_t> expected, char const* meaning) const;
    // L is a multiple of rows, and D of 8; the messages name the input of that index.
    void checkLength(int32_t index, int64_t length) const;
    void checkWidth(int32_t index, int64_t width) const;

    Signature const& mSignature;
    Attributes const mAttributes;
    int32_t mTactic = 0; // 1 to tacticCount(); 0: the kernels' own rule

private:
    void checkCounts(int32_t inputCount, int32_t outputCount) const;
    void checkTypes(nvinfer1::PluginTensorDesc const* in, nvinfer1::PluginTensorDesc const* out) const;
    void checkAllShapes(
        nvinfer1::PluginTensorDesc const* in, nvinfer1::PluginTensorDesc const* out, bool complete) const;

    std::string const mTimingKey;
    Fields mFields;
    nvinfer1::PluginFieldCollection mCollection{};
};

// The kernels' name for a data type that supportsFormatCombination let pass.
int32_t kernelType(nvinfer1::DataType type);

// A dimension as the kernels take it; `name` is its tensor's.
int32_t kernelSize(char const* name, int64_t size);

// A tactic that the kernels chose for a description; Refusal with their words where they can compute none.
int32_t chosenTactic(int32_t tactic);

} // namespace vivim::trt
