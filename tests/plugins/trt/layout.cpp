// Prints what a plugin library and TensorRT must agree in: sizes, offsets, values, names of interfaces, and positions in
// the tables of virtual functions. Compiled with TensorRT's headers and with plugins/trt/interfaces; the outputs of one
// major version are the same, line by line (tests/plugins/test_interfaces.py).
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <type_traits>

#include <NvInfer.h>
#include <NvInferRuntime.h>

#include "plugin.h"

using namespace nvinfer1;

namespace
{

// The position of a virtual function: in the Itanium C++ ABI a pointer to one holds 1 + 8 * position (x86-64), or on
// AArch64 8 * position, with the mark in the second word.
template <class Function> void position(char const* name, Function function)
{
    ptrdiff_t words[2];
    static_assert(sizeof function == sizeof words, "two words");
    std::memcpy(words, &function, sizeof words);
    std::printf("%s %td %td\n", name, words[0], words[1]);
}

template <class Interface> void isBase(char const* name)
{
    std::printf("%s is abstract %d, size %zu\n", name, std::is_abstract_v<Interface>, sizeof(Interface));
}

template <class Base> size_t offsetInPlugin()
{
    alignas(vivim::trt::Plugin) static char memory[sizeof(vivim::trt::Plugin)];
    auto* const plugin = reinterpret_cast<vivim::trt::Plugin*>(memory);
    return size_t(reinterpret_cast<char*>(static_cast<Base*>(plugin)) - memory);
}

#define POSITION(Class, method) position(#Class "::" #method, &Class::method)
#define MEMBER(Struct, member) std::printf(#Struct "." #member " %zu\n", offsetof(Struct, member))
#define SIZE(Struct) std::printf(#Struct " %zu, aligned to %zu\n", sizeof(Struct), alignof(Struct))
#define VALUE(value) std::printf(#value " %d\n", int(value))

// A logger whose methods are called as TensorRT's are.
struct Logger : ILogger
{
    void log(Severity, AsciiChar const*) noexcept override {}
};
struct Finder : ILoggerFinder
{
    ILogger* findLogger() override { return nullptr; }
};

} // namespace

int main()
{
    VALUE(NV_TENSORRT_MAJOR);
    SIZE(Dims);
    MEMBER(Dims, nbDims);
    MEMBER(Dims, d);
    VALUE(Dims::MAX_DIMS);
    SIZE(PluginTensorDesc);
    MEMBER(PluginTensorDesc, dims);
    MEMBER(PluginTensorDesc, type);
    MEMBER(PluginTensorDesc, format);
    MEMBER(PluginTensorDesc, scale);
    SIZE(DynamicPluginTensorDesc);
    MEMBER(DynamicPluginTensorDesc, desc);
    MEMBER(DynamicPluginTensorDesc, min);
    MEMBER(DynamicPluginTensorDesc, max);
    MEMBER(DynamicPluginTensorDesc, opt);
    SIZE(DimsExprs);
    MEMBER(DimsExprs, nbDims);
    MEMBER(DimsExprs, d);
    SIZE(PluginField);
    MEMBER(PluginField, name);
    MEMBER(PluginField, data);
    MEMBER(PluginField, type);
    MEMBER(PluginField, length);
    SIZE(PluginFieldCollection);
    MEMBER(PluginFieldCollection, nbFields);
    MEMBER(PluginFieldCollection, fields);
    SIZE(InterfaceInfo);
    MEMBER(InterfaceInfo, kind);
    MEMBER(InterfaceInfo, major);
    MEMBER(InterfaceInfo, minor);
    std::printf("InterfaceInfo in registers %d\n", std::is_trivially_copyable_v<InterfaceInfo>);

    VALUE(DataType::kFLOAT);
    VALUE(DataType::kHALF);
    VALUE(DataType::kBF16);
    VALUE(DataType::kINT64);
    VALUE(TensorFormat::kLINEAR);
    VALUE(TensorFormat::kCHW32);
    VALUE(PluginFieldType::kFLOAT32);
    VALUE(PluginFieldType::kINT32);
    VALUE(PluginFieldType::kINT64);
    VALUE(PluginFieldType::kUNKNOWN);
    VALUE(PluginCapabilityType::kCORE);
    VALUE(PluginCapabilityType::kBUILD);
    VALUE(PluginCapabilityType::kRUNTIME);
    VALUE(TensorRTPhase::kBUILD);
    VALUE(TensorRTPhase::kRUNTIME);
    VALUE(ILogger::Severity::kERROR);
    VALUE(ILogger::Severity::kVERBOSE);

    isBase<IVersionedInterface>("IVersionedInterface");
    POSITION(IVersionedInterface, getAPILanguage);
    POSITION(IVersionedInterface, getInterfaceInfo);
    isBase<ILogger>("ILogger");
    POSITION(ILogger, log);
    POSITION(ILoggerFinder, findLogger);
    isBase<IPluginV3>("IPluginV3");
    POSITION(IPluginV3, getCapabilityInterface);
    POSITION(IPluginV3, clone);
    isBase<IPluginV3OneCore>("IPluginV3OneCore");
    POSITION(IPluginV3OneCore, getPluginName);
    POSITION(IPluginV3OneCore, getPluginVersion);
    POSITION(IPluginV3OneCore, getPluginNamespace);
    isBase<IPluginV3OneBuild>("IPluginV3OneBuild");
    POSITION(IPluginV3OneBuild, configurePlugin);
    POSITION(IPluginV3OneBuild, getOutputDataTypes);
    POSITION(IPluginV3OneBuild, getOutputShapes);
    POSITION(IPluginV3OneBuild, supportsFormatCombination);
    POSITION(IPluginV3OneBuild, getNbOutputs);
    POSITION(IPluginV3OneBuild, getWorkspaceSize);
    POSITION(IPluginV3OneBuild, getValidTactics);
    POSITION(IPluginV3OneBuild, getNbTactics);
    POSITION(IPluginV3OneBuild, getTimingCacheID);
    POSITION(IPluginV3OneBuild, getFormatCombinationLimit);
    POSITION(IPluginV3OneBuild, getMetadataString);
    VALUE(IPluginV3OneBuild::kDEFAULT_FORMAT_COMBINATION_LIMIT);
    isBase<IPluginV3OneRuntime>("IPluginV3OneRuntime");
    POSITION(IPluginV3OneRuntime, setTactic);
    POSITION(IPluginV3OneRuntime, onShapeChange);
    POSITION(IPluginV3OneRuntime, enqueue);
    POSITION(IPluginV3OneRuntime, attachToContext);
    POSITION(IPluginV3OneRuntime, getFieldsToSerialize);
    isBase<IPluginCreatorV3One>("IPluginCreatorV3One");
    POSITION(IPluginCreatorV3One, createPlugin);
    POSITION(IPluginCreatorV3One, getFieldNames);
    POSITION(IPluginCreatorV3One, getPluginName);
    POSITION(IPluginCreatorV3One, getPluginVersion);
    POSITION(IPluginCreatorV3One, getPluginNamespace);
    POSITION(IPluginRegistry, loadLibrary);
    POSITION(IPluginRegistry, deregisterLibrary);
    POSITION(IPluginRegistry, getAllCreators);
    POSITION(IPluginRegistry, getCreator);

    Logger logger;
    Finder finder;
    std::printf("Logger %zu, Finder %zu\n", sizeof logger, sizeof finder);
#if NV_TENSORRT_MAJOR >= 11
    for (IVersionedInterface* const each :
        {static_cast<IVersionedInterface*>(&logger), static_cast<IVersionedInterface*>(&finder)})
        std::printf("%s %d.%d\n", each->getInterfaceInfo().kind, each->getInterfaceInfo().major,
            each->getInterfaceInfo().minor);
#endif
    std::printf("Plugin %zu: core %zu, build %zu, runtime %zu\n", sizeof(vivim::trt::Plugin),
        offsetInPlugin<IPluginV3OneCore>(), offsetInPlugin<IPluginV3OneBuild>(), offsetInPlugin<IPluginV3OneRuntime>());
}
