#include "processors.h"

#include <stdexcept>
#include <string>

#include "../cpu/operations.h"
#include "../cpu/s6.h"
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

void Cpu::convolve(Context const& context, std::array<Tensor, 3> const& in, vivim_conv_desc const& desc, int32_t taps,
    void* output, void const* tail)
{
    SessionThreads threads(context, in[0].memory);
    cpu::convolve(cpu::convOf(desc, taps, in[0].data, parameter(in[1]), parameter(in[2]), output, tail), threads);
}

void Cpu::scan(Context const& context, std::array<Tensor, 7> const& in, vivim_scan_desc const& desc, void* output,
    void const* initial, void* final)
{
    SessionThreads threads(context, in[0].memory);
    cpu::scan(
        cpu::scanOf(desc, in[0].data, in[1].data, in[2].data, parameter(in[3]), parameter(in[4]), parameter(in[5]),
            parameter(in[6]), output, static_cast<float const*>(initial), static_cast<float*>(final)),
        threads);
}

void Cpu::scanS6(Context const& context, std::array<Tensor, 7> const& in, vivim_s6_desc const& desc, void* output)
{
    SessionThreads threads(context, in[0].memory);
    cpu::scanS6(cpu::s6Of(desc, in[0].data, in[1].data, in[2].data, in[3].data, parameter(in[4]), parameter(in[5]),
                    parameter(in[6]), output),
        threads);
}

bool Cuda::scansPlainly()
{
    cuda::Library const& library = *cuda::library();
    return library.s6Scan && library.s6DefaultTactic && library.s6Workspace;
}

bool Cuda::streams() { return cuda::library()->streamingConv1d && cuda::library()->streamingScan; }

void Cuda::convolve(Context const& context, std::array<Tensor, 3> const& in, vivim_conv_desc const& desc, int32_t taps,
    void* output, void const* tail)
{
    if (taps != 4)
        throw std::invalid_argument("weight has " + std::to_string(taps) + " taps; the CUDA kernels take 4");
    void* const stream = streamOf(context);
    expectSuccess(tail
            ? cuda::library()->streamingConv1d(
                  &desc, in[0].data, tail, parameter(in[1]), parameter(in[2]), output, stream)
            : cuda::library()->causalConv1d(&desc, in[0].data, parameter(in[1]), parameter(in[2]), output, stream));
}

void Cuda::scan(Context const& context, std::array<Tensor, 7> const& in, vivim_scan_desc const& desc, void* output,
    void const* initial, void* final)
{
    cuda::Library const& library = *cuda::library();
    int32_t const tactic = library.defaultTactic(&desc);
    if (tactic < 0)
        throw std::invalid_argument(library.error());
    size_t const bytes = library.workspace(&desc, tactic);
    // Given back before the kernels have run: whoever gets it next uses the same stream, after them.
    Room const workspace(context.api, context.context, in[0].memory, bytes);
    void* const stream = streamOf(context);
    expectSuccess(final
            ? library.streamingScan(&desc, tactic, in[0].data, in[1].data, in[2].data, parameter(in[3]),
                  parameter(in[4]), parameter(in[5]), parameter(in[6]), static_cast<float const*>(initial), output,
                  static_cast<float*>(final), workspace.data(), bytes, stream)
            : library.selectiveScan(&desc, tactic, in[0].data, in[1].data, in[2].data, parameter(in[3]),
                  parameter(in[4]), parameter(in[5]), parameter(in[6]), output, workspace.data(), bytes, stream));
}

void Cuda::scanS6(Context const& context, std::array<Tensor, 7> const& in, vivim_s6_desc const& desc, void* output)
{
    cuda::Library const& library = *cuda::library();
    int32_t const tactic = library.s6DefaultTactic(&desc);
    if (tactic < 0)
        throw std::invalid_argument(library.error());
    size_t const bytes = library.s6Workspace(&desc, tactic);
    Room const workspace(context.api, context.context, in[0].memory, bytes); // given back early, as that of scan()
    expectSuccess(library.s6Scan(&desc, tactic, in[0].data, in[1].data, in[2].data, in[3].data, parameter(in[4]),
        parameter(in[5]), parameter(in[6]), output, workspace.data(), bytes, streamOf(context)));
}
} // namespace vivim::ort
