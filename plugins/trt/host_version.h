// Which TensorRT a plugin has met. Its interfaces are those of one major version; a library of another one looks for
// functions where they are not.
#pragma once

#include <cstdint>
#include <dlfcn.h>

#include "NvInferVersion.h"

namespace vivim::trt
{

// The interfaces that this was built for.
constexpr int32_t kHeadersMajor = NV_TENSORRT_MAJOR;
constexpr int32_t kHeadersVersion = NV_TENSORRT_MAJOR * 10000 + NV_TENSORRT_MINOR * 100 + NV_TENSORRT_PATCH;

// A loaded library as it names itself.
struct HostVersion
{
    int32_t version = 0; // 101601 for 10.16.1; 0: it is no TensorRT

    // TensorRT for RTX 1.x (10701 for 1.7.1) has the interfaces of TensorRT 11.
    int32_t interfaces() const { return version == 0 || version >= 20000 ? version / 10000 : 11; }
    bool fits() const { return version == 0 || interfaces() == kHeadersMajor; }
};

// The version of the library of that file, which is loaded.
inline HostVersion hostVersion(char const* file)
{
    HostVersion host;
    if (void* const library = dlopen(file, RTLD_LAZY | RTLD_NOLOAD))
    {
        if (auto const ask = reinterpret_cast<int32_t (*)()>(dlsym(library, "getInferLibVersion")))
            host.version = ask();
        dlclose(library); // one reference less: whoever loaded it keeps it
    }
    return host;
}

} // namespace vivim::trt
