// libvivim_trt_register.so: registers libvivim_trt.so, which lies beside it, as soon as it is opened.
//
// `polygraphy --plugins` and `trtexec --staticPlugins` only open a library; ours must be asked for its creators. Opening
// this one asks: it looks for a TensorRT that the process has loaded, and has its registry load the plugin. Without one,
// or where that one is of another major version, whose registry has its functions elsewhere, it does nothing but say so.
// It links nothing of TensorRT.

#include <NvInferRuntime.h>

#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <link.h>
#include <string>

#include "host_version.h"

namespace
{

using vivim::trt::HostVersion;
using GetRegistry = nvinfer1::IPluginRegistry* (*)();

struct Host
{
    GetRegistry registry = nullptr;
    HostVersion version;
    std::string name;
};

// Called for every loaded library; stops at the first that is a TensorRT and has a registry.
int findHost(dl_phdr_info* info, size_t, void* result)
{
    char const* const base = std::strrchr(info->dlpi_name, '/');
    std::string const name = base ? base + 1 : info->dlpi_name;
    bool isHost = false;
    for (char const* known : {"libnvinfer.so", "libnvinfer_lean.so", "libtensorrt_rtx.so"})
        isHost = isHost || name.rfind(known, 0) == 0;
    void* const library = isHost ? dlopen(info->dlpi_name, RTLD_LAZY | RTLD_NOLOAD) : nullptr;
    if (library == nullptr)
        return 0;
    Host& host = *static_cast<Host*>(result);
    host.registry = reinterpret_cast<GetRegistry>(dlsym(library, "getPluginRegistry"));
    dlclose(library); // one reference less: whoever loaded it keeps it
    host.version = vivim::trt::hostVersion(info->dlpi_name);
    host.name = info->dlpi_name;
    return host.registry != nullptr;
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
    Host host;
    dl_iterate_phdr(findHost, &host);
    if (host.registry == nullptr)
    {
        std::fprintf(stderr, "%s: no TensorRT is loaded in this process; nothing was registered\n", here.c_str());
        return;
    }
    if (!host.version.fits())
    {
        std::fprintf(stderr,
            "%s: built for TensorRT %d, and this process has %s, of version %d.%d with the interfaces of %d; nothing "
            "was registered. Build the plugin with the headers of that version\n",
            here.c_str(), vivim::trt::kHeadersMajor, host.name.c_str(), host.version.version / 10000,
            host.version.version / 100 % 100, host.version.interfaces());
        return;
    }
    nvinfer1::IPluginRegistry* const registry = host.registry();
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
