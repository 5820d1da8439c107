// What all calls of the C interface share: how they fail, and checks of what every one of them is given.
#pragma once

#include "launch.cuh"
#include "vivim_kernels.h"

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <initializer_list>

namespace vivim
{
inline thread_local char errorText[256] = "";

__attribute__((format(printf, 2, 3))) inline int32_t fail(int32_t status, char const* format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(errorText, sizeof errorText, format, arguments);
    va_end(arguments);
    return status;
}

inline int32_t checkLaunch(char const* kernel, std::string const& error)
{
    return error.empty() ? VIVIM_OK : fail(VIVIM_CUDA_ERROR, "%s: %s", kernel, error.c_str());
}

inline int32_t checkType(int32_t dtype)
{
    if (dtype < VIVIM_FLOAT32 || dtype > VIVIM_BFLOAT16)
        return fail(VIVIM_BAD_ARGUMENT, "dtype is %d; it must be 0 (float32), 1 (float16) or 2 (bfloat16)", dtype);
    return VIVIM_OK;
}

inline int32_t checkTactic(int32_t tactic, int32_t lowest, int32_t count)
{
    if (tactic < lowest || tactic >= count)
        return fail(VIVIM_BAD_ARGUMENT, "tactic is %d; it must be %d to %d", tactic, lowest, count - 1);
    return VIVIM_OK;
}

struct Named
{
    char const* name;
    void const* pointer;
};
inline int32_t checkPointers(std::initializer_list<Named> list, int alignment = 16)
{
    for (Named const& p : list)
    {
        if (!p.pointer)
            return fail(VIVIM_BAD_ARGUMENT, "%s is null", p.name);
        if (reinterpret_cast<uintptr_t>(p.pointer) % alignment)
            return fail(VIVIM_BAD_ARGUMENT, "%s is not aligned to %d bytes", p.name, alignment);
    }
    return VIVIM_OK;
}

inline int32_t checkWorkspace(void const* workspace, size_t bytes, size_t needed)
{
    if (!workspace)
        return fail(VIVIM_BAD_WORKSPACE, "workspace is null; %zu bytes are needed", needed);
    if (reinterpret_cast<uintptr_t>(workspace) % 16)
        return fail(VIVIM_BAD_WORKSPACE, "workspace is not aligned to 16 bytes");
    if (bytes < needed)
        return fail(VIVIM_BAD_WORKSPACE, "workspace_bytes is %zu; %zu bytes are needed", bytes, needed);
    return VIVIM_OK;
}

// Bytes of a part of a workspace: a multiple of 256, so that the next one begins at such.
inline size_t wholePart(size_t bytes) { return (bytes + 255) & ~size_t(255); }

inline int divideUp(int64_t a, int64_t b) { return int((a + b - 1) / b); }
inline size_t elementBytes(int32_t dtype) { return dtype == VIVIM_FLOAT32 ? 4 : 2; }

// No exception leaves the library: strings of messages may fail to allocate, threads of the emulator to start.
template <class Body> int32_t guarded(Body const& body) noexcept
{
    try
    {
        return body();
    }
    catch (std::exception const& e)
    {
        return fail(VIVIM_CUDA_ERROR, "%s", e.what());
    }
    catch (...)
    {
        return fail(VIVIM_CUDA_ERROR, "an unknown exception");
    }
}
} // namespace vivim
