#include "library.h"

#include <cstdlib>
#include <dlfcn.h>
#include <memory>
#include <vector>

namespace vivim::cuda
{
namespace
{
constexpr char kName[] = "libvivim_kernels.so";

std::string folderOfThisLibrary()
{
    Dl_info info{};
    if (!dladdr(reinterpret_cast<void const*>(&library), &info) || !info.dli_fname)
        return ".";
    std::string const path = info.dli_fname;
    size_t const slash = path.rfind('/');
    return slash == std::string::npos ? "." : path.substr(0, slash);
}

std::unique_ptr<Library const> opened(std::string const& path)
{
    void* const handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL); // stays open: operators call it until the end
    if (!handle)
        return nullptr;
    auto found = std::make_unique<Library>();
    found->path = path;
    bool complete = true;
    auto const get = [&](auto& function, char const* name) {
        function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(handle, name));
        complete = complete && function;
    };
    get(found->causalConv1d, "vivim_causal_conv1d");
    get(found->selectiveScan, "vivim_selective_scan");
    get(found->defaultTactic, "vivim_scan_default_tactic");
    get(found->workspace, "vivim_scan_workspace");
    get(found->error, "vivim_kernels_error");
    bool const whole = complete;
    get(found->streamingConv1d, "vivim_streaming_conv1d");
    get(found->streamingScan, "vivim_streaming_scan");
    get(found->s6Scan, "vivim_s6_scan");
    get(found->s6DefaultTactic, "vivim_s6_default_tactic");
    get(found->s6Workspace, "vivim_s6_workspace");
    complete = whole;
    return complete ? std::unique_ptr<Library const>(std::move(found)) : nullptr;
}

std::unique_ptr<Library const> find()
{
    if (char const* const named = std::getenv("VIVIM_KERNELS"))
        return opened(named);
    std::string const here = folderOfThisLibrary();
    for (std::string const& folder : {here, here + "/../gpu"})
        if (auto found = opened(folder + "/" + kName))
            return found;
    return nullptr;
}
} // namespace

Library const* library()
{
    static std::unique_ptr<Library const> const found = find();
    return found.get();
}
} // namespace vivim::cuda
