// The plugin for Python's ctypes: a node made, put into an engine, restored and run as TensorRT would, on memory of the
// caller (of the host with the emulated kernels, of the device with the real ones). Used by tests/plugins.
//
// Tensors are described by three lists, inputs first and the output last: TensorRT's data types, ranks, and all sizes
// one after the other. Functions return 0, or the code of the method that refused; drive_error() is its message.

#include "host.h"

namespace
{

using namespace host;

Log gLog;

Tensors tensorsOf(int32_t count, int32_t const* types, int32_t const* ranks, int64_t const* sizes)
{
    Tensors tensors;
    for (int32_t i = 0; i < count; sizes += ranks[i++])
        tensors.add(std::vector<int64_t>(sizes, sizes + ranks[i]), static_cast<DataType>(types[i]));
    return tensors;
}

Node& nodeOf(void* handle) { return *static_cast<Node*>(handle); }

} // namespace

#define DRIVE_API extern "C" __attribute__((visibility("default")))

DRIVE_API char const* drive_error() { return gLog.last.c_str(); }

// A node for drive_free(), or null. Attributes are described by their names, how many values each has, and all values one
// after the other.
DRIVE_API void* drive_make(char const* library, char const* name, int32_t count, char const* const* names,
    int32_t const* lengths, int64_t const* values)
{
    try
    {
        gLog.last.clear();
        Library const loaded(library);
        loaded.setLoggerFinder(&gLog);
        FieldsOf<int64_t> fields;
        for (int32_t i = 0; i < count; values += lengths[i++])
            fields.add(names[i], std::vector<int64_t>(values, values + lengths[i]));
        IPluginCreatorV3One& creator = loaded.creator(name);
        Node const built(creator.createPlugin(name, fields.collection(), TensorRTPhase::kBUILD));
        if (!built)
            return nullptr;
        PluginFieldCollection const* const stored = built.runtime().getFieldsToSerialize();
        Node const restored(creator.createPlugin(name, stored, TensorRTPhase::kRUNTIME));
        return restored ? new Node(restored.runtime().attachToContext(nullptr)) : nullptr;
    }
    catch (std::exception const& error)
    {
        gLog.last = error.what();
        return nullptr;
    }
}

DRIVE_API void drive_free(void* handle) { delete &nodeOf(handle); }

DRIVE_API int32_t drive_tactics(void* handle) { return nodeOf(handle).build().getNbTactics(); }

DRIVE_API int32_t drive_workspace(
    void* handle, int32_t count, int32_t const* types, int32_t const* ranks, int64_t const* sizes, size_t* bytes)
{
    std::vector<DynamicPluginTensorDesc> const io = tensorsOf(count, types, ranks, sizes).dynamic();
    IPluginV3OneBuild& build = nodeOf(handle).build();
    int32_t const outputs = build.getNbOutputs(), inputs = count - outputs;
    for (int32_t i = 0; i < count; ++i)
        if (!build.supportsFormatCombination(i, io.data(), count - outputs, outputs))
        {
            gLog.last = "the format of tensor " + std::to_string(i) + " is not supported";
            return -1;
        }
    *bytes = build.getWorkspaceSize(io.data(), inputs, io.data() + inputs, outputs);
    return build.configurePlugin(io.data(), inputs, io.data() + inputs, outputs);
}

DRIVE_API int32_t drive_enqueue(void* handle, int32_t tactic, int32_t count, int32_t const* types, int32_t const* ranks,
    int64_t const* sizes, void const* const* inputs, void* const* outputs, void* workspace, void* stream)
{
    Tensors tensors = tensorsOf(count, types, ranks, sizes);
    tensors.outputs = nodeOf(handle).build().getNbOutputs();
    IPluginV3OneRuntime& runtime = nodeOf(handle).runtime();
    if (int32_t const code = runtime.setTactic(tactic))
        return code;
    if (int32_t const code = runtime.onShapeChange(tensors.in(), tensors.inputs(), tensors.out(), tensors.outputs))
        return code;
    return runtime.enqueue(tensors.in(), tensors.out(), inputs, outputs, workspace, static_cast<cudaStream_t>(stream));
}
