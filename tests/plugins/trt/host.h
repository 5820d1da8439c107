// Loads libvivim_trt.so as TensorRT does, and describes tensors to it as TensorRT does; for the tests.
#pragma once

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <dlfcn.h>

#include "NvInfer.h"

namespace host
{

using namespace nvinfer1;

// The library, loaded and asked for its creators. It stays loaded.
class Library
{
public:
    explicit Library(char const* path)
    {
        void* const handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (!handle)
            throw std::runtime_error(dlerror());
        using GetCreators = IPluginCreatorInterface* const* (*)(int32_t&);
        auto const get = reinterpret_cast<GetCreators>(dlsym(handle, "getCreators"));
        mSetLoggerFinder = reinterpret_cast<SetLoggerFinder>(dlsym(handle, "setLoggerFinder"));
        if (!get || !mSetLoggerFinder)
            throw std::runtime_error(std::string(path) + " exports no getCreators or no setLoggerFinder");
        int32_t count = 0;
        IPluginCreatorInterface* const* const list = get(count);
        creators.assign(list, list + count);
    }

    void setLoggerFinder(ILoggerFinder* finder) const { mSetLoggerFinder(finder); }

    IPluginCreatorV3One& creator(char const* name) const
    {
        for (IPluginCreatorInterface* const each : creators)
        {
            auto* const creator = static_cast<IPluginCreatorV3One*>(each);
            if (!std::strcmp(creator->getPluginName(), name))
                return *creator;
        }
        throw std::runtime_error(std::string("no creator is called ") + name);
    }

    std::vector<IPluginCreatorInterface*> creators;

private:
    using SetLoggerFinder = void (*)(ILoggerFinder*);
    SetLoggerFinder mSetLoggerFinder;
};

// A plugin and its capabilities.
struct Node
{
    explicit Node(IPluginV3* made) : plugin(made) {}

    explicit operator bool() const { return plugin != nullptr; }
    IPluginV3OneCore& core() const { return *as<IPluginV3OneCore>(PluginCapabilityType::kCORE); }
    IPluginV3OneBuild& build() const { return *as<IPluginV3OneBuild>(PluginCapabilityType::kBUILD); }
    IPluginV3OneRuntime& runtime() const { return *as<IPluginV3OneRuntime>(PluginCapabilityType::kRUNTIME); }

    std::unique_ptr<IPluginV3> plugin;

private:
    template <class Capability>
    Capability* as(PluginCapabilityType type) const
    {
        return static_cast<Capability*>(plugin->getCapabilityInterface(type));
    }
};

// A node's attributes, in integers as wide as Integer.
template <class Integer>
class FieldsOf
{
public:
    FieldsOf& add(char const* name, std::vector<Integer> values)
    {
        mValues.push_back(std::move(values));
        auto const type = sizeof(Integer) == 8 ? PluginFieldType::kINT64 : PluginFieldType::kINT32;
        mFields.emplace_back(name, mValues.back().data(), type, static_cast<int32_t>(mValues.back().size()));
        return *this;
    }

    PluginFieldCollection const* collection()
    {
        mCollection = {static_cast<int32_t>(mFields.size()), mFields.data()};
        return &mCollection;
    }

private:
    std::vector<std::vector<Integer>> mValues; // moving a vector leaves its elements where they are
    std::vector<PluginField> mFields;
    PluginFieldCollection mCollection{};
};

inline Dims dimsOf(std::vector<int64_t> const& sizes)
{
    Dims dims{};
    dims.nbDims = static_cast<int32_t>(sizes.size());
    for (size_t i = 0; i < sizes.size(); ++i)
        dims.d[i] = sizes[i];
    return dims;
}

// What TensorRT's log would show: the last error.
class Log final : public ILogger, public ILoggerFinder
{
public:
    void log(Severity severity, AsciiChar const* message) noexcept override
    {
        if (severity == Severity::kERROR)
            last = message;
    }
    ILogger* findLogger() override { return this; }
#if NV_TENSORRT_MAJOR >= 11 // where both bases have it
    InterfaceInfo getInterfaceInfo() const noexcept override { return ILogger::getInterfaceInfo(); }
#endif

    std::string last;
};

// The tensors of a node, inputs first and the outputs last, with sizes that are known.
class Tensors
{
public:
    void add(std::vector<int64_t> const& sizes, DataType type)
    {
        PluginTensorDesc desc{};
        desc.dims = dimsOf(sizes);
        desc.type = type;
        desc.format = TensorFormat::kLINEAR;
        all.push_back(desc);
    }

    int32_t inputs() const { return static_cast<int32_t>(all.size()) - outputs; }
    PluginTensorDesc const* in() const { return all.data(); }
    PluginTensorDesc const* out() const { return all.data() + inputs(); }

    // As the builder describes them: bounds besides the sizes.
    std::vector<DynamicPluginTensorDesc> dynamic() const
    {
        std::vector<DynamicPluginTensorDesc> described;
        for (PluginTensorDesc const& desc : all)
        {
            DynamicPluginTensorDesc each{};
            each.desc = desc;
            each.min = each.max = each.opt = desc.dims;
            described.push_back(each);
        }
        return described;
    }

    std::vector<PluginTensorDesc> all;
    int32_t outputs = 1;
};

} // namespace host
