// libvivim_trt_register.so: registers libvivim_trt.so, which lies beside it, as soon as it is opened.
//
// `polygraphy --plugins` and `trtexec --staticPlugins` only open a library; ours must be asked for its creators. Opening
// this one asks: it looks for a TensorRT that the process has loaded, and has its registry load the plugin. Without one
// it does nothing but say so. It links nothing of TensorRT.

#include <NvInferRuntime.h>

#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <link.h>
#include <string>

namespace
{

using GetRegistry = nvinfer1::IPluginRegistry* (*)();

// Called for every loaded library; stops at the first that is a TensorRT and has a registry.
int findRegistry(dl_phdr_info* info, size_t, void* found)
{
    char const* const base = std::strrchr(info->dlpi_name, '/');
    std::string const name = base ? base + 1 : info->dlpi_name;
    if (name.rfind("libnvinfer.so", 0) != 0 && name.rfind("libtensorrt_rtx.so", 0) != 0)
    {
        return 0;
    }
    void* const library = dlopen(info->dlpi_name, RTLD_LAZY | RTLD_NOLOAD);
    if (library == nullptr)
    {
        return 0;
    }
    void* const symbol = dlsym(library, "getPluginRegistry");
    dlclose(library); // one reference less: whoever loaded it keeps it
    std::memcpy(found, &symbol, sizeof symbol);
    return symbol != nullptr;
}

void registerPlugins()
{
    Dl_info self{};
    if (dladdr(reinterpret_cast<void const*>(&registerPlugins), &self) == 0)
    {
        return;
    }
    std::string const here = self.dli_fname;
    std::string const plugin = here.substr(0, here.rfind('/') + 1) + "libvivim_trt.so";
    GetRegistry getRegistry = nullptr;
    dl_iterate_phdr(findRegistry, &getRegistry);
    if (getRegistry == nullptr)
    {
        std::fprintf(stderr, "%s: no TensorRT is loaded in this process; nothing was registered\n", here.c_str());
        return;
    }
    nvinfer1::IPluginRegistry* const registry = getRegistry();
    if (registry->getCreator("SelectiveScan", "1", "vivim") != nullptr)
    {
        return; // somebody was faster
    }
    if (registry->loadLibrary(plugin.c_str()) == nullptr)
    {
        std::fprintf(stderr, "%s: TensorRT did not take %s; its log says why\n", here.c_str(), plugin.c_str());
    }
}

__attribute__((constructor)) void onLoad() { registerPlugins(); }

} // namespace
