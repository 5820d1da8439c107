// Puts libvivim_trt.so into the plugin registry of a real TensorRT and drives both plugins as far as that needs no GPU:
// vivim_trt_registry_test LIBNVINFER LIBRARY. One line a check; the first that fails ends the run with exit code 1.

#include <cstdio>
#include <cstdlib>

#include "host.h"

namespace
{

using namespace host;

void check(bool holds, std::string const& what)
{
    std::printf("%s %s\n", holds ? "ok  " : "FAIL", what.c_str());
    if (!holds)
        std::exit(1);
}

bool isInterface(IVersionedInterface const& object, char const* kind)
{
    InterfaceInfo const info = object.getInterfaceInfo();
    return !std::strcmp(info.kind, kind) && info.major == 1 && info.minor == 0;
}

// S6Scan, the last, knows of no directions.
enum class Kind { kConv, kScan, kPlain };

void checkOperator(IPluginRegistry& registry, char const* operatorName, Kind kind)
{
    std::string const name = std::string(operatorName) + ": ";
    IPluginCreatorInterface* const found = registry.getCreator(operatorName, "1", "vivim");
    check(found != nullptr, name + "the registry has its creator");
    check(isInterface(*found, "PLUGIN CREATOR_V3ONE"), name + "the creator is a V3One 1.0");
    auto& creator = *static_cast<IPluginCreatorV3One*>(found);
    FieldsOf<int32_t> fields;
    if (kind == Kind::kPlain)
        fields.add("softplus", {1});
    else
        fields.add("rows", {5}).add("directions", {0, 1, 2});
    if (kind == Kind::kScan)
        fields.add("mean", {1});
    Node node(creator.createPlugin("layer", fields.collection(), TensorRTPhase::kBUILD));
    check(bool(node), name + "a plugin is made from a node's attributes");
    check(isInterface(*node.plugin, "PLUGIN") && isInterface(node.core(), "PLUGIN_V3ONE_CORE")
            && isInterface(node.build(), "PLUGIN_V3ONE_BUILD") && isInterface(node.runtime(), "PLUGIN_V3ONE_RUNTIME"),
        name + "it has the three capabilities");
    Node const clone(node.plugin->clone());
    Node const attached(clone.runtime().attachToContext(nullptr));
    check(bool(clone) && bool(attached), name + "it is cloned and attached to a context");
    node.plugin.reset();
    PluginFieldCollection const* const stored = attached.runtime().getFieldsToSerialize();
    auto const value = [&](int32_t field, int32_t i) {
        return static_cast<int32_t const*>(stored->fields[field].data)[i];
    };
    bool const kept = kind == Kind::kPlain
        ? stored->nbFields == 1 && !std::strcmp(stored->fields[0].name, "softplus") && value(0, 0) == 1
        : stored->nbFields == (kind == Kind::kScan ? 3 : 2) && value(0, 0) == 5 && stored->fields[1].length == 3
            && value(1, 2) == 2;
    check(kept, name + "its fields are those of the node");
    Node const restored(creator.createPlugin("again", stored, TensorRTPhase::kRUNTIME));
    check(bool(restored) && std::string(restored.build().getTimingCacheID()) == attached.build().getTimingCacheID(),
        name + "it is made anew from what an engine stores");
}

} // namespace

int main(int argc, char** argv)
{
    if (argc != 3)
    {
        std::fprintf(stderr, "usage: vivim_trt_registry_test LIBNVINFER LIBRARY\n");
        return 2;
    }
    std::setvbuf(stdout, nullptr, _IOLBF, 0);
    void* const tensorrt = dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL);
    check(tensorrt != nullptr, tensorrt ? "TensorRT is loaded" : dlerror());
    auto const getRegistry = reinterpret_cast<IPluginRegistry* (*)()>(dlsym(tensorrt, "getPluginRegistry"));
    check(getRegistry != nullptr, "it has a registry");
    IPluginRegistry& registry = *getRegistry();
    IPluginRegistry::PluginLibraryHandle const first = registry.loadLibrary(argv[2]);
    IPluginRegistry::PluginLibraryHandle const second = registry.loadLibrary(argv[2]);
    check(first != nullptr, "it loads the library");
    int32_t count = 0;
    IPluginCreatorInterface* const* const creators = registry.getAllCreators(&count);
    int32_t ours = 0;
    for (int32_t i = 0; i < count; ++i)
        if (isInterface(*creators[i], "PLUGIN CREATOR_V3ONE"))
            ours += !std::strcmp(static_cast<IPluginCreatorV3One*>(creators[i])->getPluginNamespace(), "vivim");
    check(ours == 5, "loaded twice, it is registered once");
    checkOperator(registry, "CausalConv1d", Kind::kConv);
    checkOperator(registry, "SelectiveScan", Kind::kScan);
    checkOperator(registry, "StreamingConv1d", Kind::kConv);
    checkOperator(registry, "StreamingScan", Kind::kScan);
    checkOperator(registry, "S6Scan", Kind::kPlain);
    registry.deregisterLibrary(first);
    if (second != nullptr && second != first)
        registry.deregisterLibrary(second);
    check(registry.getCreator("SelectiveScan", "1", "vivim") == nullptr, "it is gone once it is deregistered");
    check(registry.loadLibrary(argv[2]) != nullptr, "and can be loaded again");
    std::printf("all checks passed with headers of TensorRT %d.%d\n", NV_TENSORRT_MAJOR, NV_TENSORRT_MINOR);
}
