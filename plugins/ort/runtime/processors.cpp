#include "processors.h"

#include <stdexcept>
#include <string>

#include "../cpu/operations.h"
#include "../cuda/library.h"

namespace vivim::ort
{
namespace
{
float const* parameter(Tensor const& tensor) { return static_cast<float const*>(tensor.data); }

// What the CUDA kernels say of a call.
void expectSuccess(int32_t status)
{
    if (status)
        throw std::runtime_error(cuda::library()->error());
}

void* streamOf(Context const& context)
{
    void* stream = nullptr;
    check(context.api, kernelContextStream(context.api, context.context, &stream));
    return stream;
}
} // namespace

void Cpu::convolve(
    Context const& context, std::array<Tensor, 3> const& in, vivim_conv_desc const& desc, int32_t taps, void* output)
{
    SessionThreads threads(context, in[0].memory);
    cpu::convolve(cpu::convOf(desc, taps, in[0].data, parameter(in[1]), parameter(in[2]), output), threads);
}

void Cpu::scan(Context const& context, std::array<Tensor, 7> const& in, vivim_scan_desc const& desc, void* output)
{
    SessionThreads threads(context, in[0].memory);
    cpu::scan(cpu::scanOf(desc, in[0].data, in[1].data, in[2].data, parameter(in[3]), parameter(in[4]),
                  parameter(in[5]), parameter(in[6]), output),
        threads);
}

void Cuda::convolve(
    Context const& context, std::array<Tensor, 3> const& in, vivim_conv_desc const& desc, int32_t taps, void* output)
{
    if (taps != 4)
        throw std::invalid_argument("weight has " + std::to_string(taps) + " taps; the CUDA kernels take 4");
    expectSuccess(cuda::library()->causalConv1d(
        &desc, in[0].data, parameter(in[1]), parameter(in[2]), output, streamOf(context)));
}

void Cuda::scan(Context const& context, std::array<Tensor, 7> const& in, vivim_scan_desc const& desc, void* output)
{
    cuda::Library const& library = *cuda::library();
    int32_t const tactic = library.defaultTactic(&desc);
    if (tactic < 0)
        throw std::invalid_argument(library.error());
    size_t const bytes = library.workspace(&desc, tactic);
    // Given back before the kernels have run: whoever gets it next uses the same stream, after them.
    Room const workspace(context.api, context.context, in[0].memory, bytes);
    expectSuccess(library.selectiveScan(&desc, tactic, in[0].data, in[1].data, in[2].data, parameter(in[3]),
        parameter(in[4]), parameter(in[5]), parameter(in[6]), output, workspace.data(), bytes, streamOf(context)));
}
} // namespace vivim::ort
