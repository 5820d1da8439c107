// The one place where kernels meet their machine: nvcc and a GPU, or g++ and the emulator (VIVIM_EMULATE). Both offer
//   launch(kernel, grid, threads, sharedBytes, stream, arguments...)   "" or what went wrong
//   sharedMemoryLimit()                                               bytes of shared memory that a block may have
//   VIVIM_SHARED_MEMORY(name)                                         the block's dynamic shared memory
#pragma once

#include <cstddef>
#include <string>

namespace vivim
{
constexpr unsigned kMaxGrid = 65535; // blocks along y and along z, on every architecture
} // namespace vivim

#if defined(VIVIM_EMULATE)

#include "../emulation/cuda_emulator.h"

#define VIVIM_SHARED_MEMORY(name) char* const name = reinterpret_cast<char*>(emulation::block->shared.data())

namespace vivim
{
template <class... Parameters, class... Arguments>
std::string launch(
    void (*kernel)(Parameters...), dim3 grid, int threads, size_t sharedBytes, void*, Arguments const&... arguments)
{
    if (sharedBytes > emulation::control().sharedLimit)
        return "out of shared memory";
    if (grid.y > kMaxGrid || grid.z > kMaxGrid)
        return "invalid configuration argument";
    return emulation::runGrid(grid, threads, sharedBytes, [=] { kernel(arguments...); });
}
inline size_t sharedMemoryLimit() { return emulation::control().sharedLimit; }
} // namespace vivim

#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <type_traits>

#define VIVIM_SHARED_MEMORY(name) extern __shared__ __align__(16) char name[]

namespace vivim
{
// Blocks get this much without asking.
constexpr size_t kDefaultSharedMemory = 48 << 10;

template <class... Parameters, class... Arguments>
std::string launch(
    void (*kernel)(Parameters...), dim3 grid, int threads, size_t sharedBytes, void* stream, Arguments... arguments)
{
    static_assert((std::is_same_v<Parameters, Arguments> && ...), "arguments are passed by address");
    void const* const function = reinterpret_cast<void const*>(kernel);
    cudaError_t error = cudaSuccess;
    if (sharedBytes > kDefaultSharedMemory)
        error = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, int(sharedBytes));
    if (error == cudaSuccess)
    {
        void* pointers[] = {&arguments...};
        error = cudaLaunchKernel(
            function, grid, dim3(unsigned(threads)), pointers, sharedBytes, static_cast<cudaStream_t>(stream));
    }
    // Launches report some errors only here; and an error that stays would be blamed on the next call.
    cudaError_t const last = cudaGetLastError();
    if (error == cudaSuccess)
        error = last;
    return error == cudaSuccess ? "" : cudaGetErrorString(error);
}
inline size_t sharedMemoryLimit()
{
    int device = 0, bytes = 0;
    if (cudaGetDevice(&device) != cudaSuccess
        || cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) != cudaSuccess)
        bytes = int(kDefaultSharedMemory), cudaGetLastError();
    return size_t(bytes);
}
} // namespace vivim

#endif
