// The operators of both providers in a stand-in of ONNX Runtime, which has a table of functions, domains, kernels and
// contexts, but no graph: stand_in_test, with VIVIM_KERNELS naming a libvivim_kernels.so that computes in host memory.
//
// Every definition that RegisterCustomOps makes is created and run as ONNX Runtime would. What the CUDA definitions give
// must equal what those of the CPU give, their workspace must come from the session's allocator and go back to it, and
// they must ask for the session's stream. Prints a line a finding; exit code 1 where one is wrong.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "../runtime/abi.h"
#include "../vivim_ort.h"

extern "C" OrtStatus* RegisterCustomOps(OrtSessionOptions* options, OrtApiBase const* base);

struct OrtStatus { std::string message; };
struct OrtCustomOpDomain
{
    std::string name;
    std::vector<OrtCustomOp const*> operators;
};
struct OrtSessionOptions { OrtCustomOpDomain* domain; };
struct OrtKernelInfo { std::map<std::string, std::vector<int64_t>> attributes; };
struct OrtMemoryInfo { char const* name; };
struct OrtTensorTypeAndShapeInfo { std::vector<int64_t> dims; };
struct OrtValue
{
    std::vector<int64_t> dims;
    std::vector<uint8_t> bytes;
};
struct OrtKernelContext
{
    std::vector<OrtValue> inputs;
    OrtValue output;
    size_t elementSize;
    OrtValue state{}; // the second output, float32
};

namespace
{
using namespace vivim::ort;

int failures = 0, allocations = 0, releases = 0, infos = 0, streams = 0;
OrtMemoryInfo const memory{"stand-in"};

void report(bool good, std::string const& what)
{
    std::printf("%-5s %s\n", good ? "ok" : "WRONG", what.c_str());
    failures += !good;
}

// Fills what it gives, so that nobody reads what was never written.
void* allocate(OrtAllocator*, size_t bytes)
{
    ++allocations;
    void* data = nullptr;
    if (posix_memalign(&data, 256, bytes))
        return nullptr;
    std::memset(data, 0xff, bytes);
    return data;
}

void release(OrtAllocator*, void* data)
{
    ++releases;
    std::free(data);
}

OrtAllocator allocator{vivim::ort::kApiVersion, allocate, release, nullptr};

void* table[400];

template <size_t Position, class Function, class Body> void put(Entry<Position, Function> const&, Body body)
{
    typename Entry<Position, Function>::Pointer const pointer = body;
    table[Position] = reinterpret_cast<void*>(pointer);
}

OrtStatus* failed(char const* message) { return new OrtStatus{message}; }

void fillTable()
{
    put(createStatus, [](int, char const* message) { return failed(message); });
    put(errorMessage, [](OrtStatus const* status) { return status->message.c_str(); });
    put(releaseStatus, [](OrtStatus* status) { delete status; });
    put(createCustomOpDomain, [](char const* name, OrtCustomOpDomain** out) -> OrtStatus* {
        *out = new OrtCustomOpDomain{name, {}};
        return nullptr;
    });
    put(customOpDomainAdd, [](OrtCustomOpDomain* domain, OrtCustomOp const* op) -> OrtStatus* {
        domain->operators.push_back(op);
        return nullptr;
    });
    put(addCustomOpDomain, [](OrtSessionOptions* options, OrtCustomOpDomain* domain) -> OrtStatus* {
        options->domain = domain;
        return nullptr;
    });
    put(kernelInfoInt, [](OrtKernelInfo const* info, char const* name, int64_t* out) -> OrtStatus* {
        auto const found = info->attributes.find(name);
        if (found == info->attributes.end())
            return failed("no such attribute");
        *out = found->second[0];
        return nullptr;
    });
    put(kernelInfoInts, [](OrtKernelInfo const* info, char const* name, int64_t* out, size_t* count) -> OrtStatus* {
        auto const found = info->attributes.find(name);
        if (found == info->attributes.end())
            return failed("no such attribute");
        if (out)
            std::copy(found->second.begin(), found->second.end(), out);
        *count = found->second.size();
        return nullptr;
    });
    put(kernelContextInput, [](OrtKernelContext const* context, size_t index, OrtValue const** out) -> OrtStatus* {
        *out = &context->inputs[index];
        return nullptr;
    });
    put(kernelContextOutput,
        [](OrtKernelContext* context, size_t index, int64_t const* dims, size_t count, OrtValue** out) -> OrtStatus* {
            OrtValue& output = index ? context->state : context->output;
            output.dims.assign(dims, dims + count);
            size_t numbers = 1;
            for (int64_t const dim : output.dims)
                numbers *= size_t(dim);
            output.bytes.assign(numbers * (index ? 4 : context->elementSize), 0xff);
            *out = &output;
            return nullptr;
        });
    put(getTensorMutableData, [](OrtValue* value, void** out) -> OrtStatus* {
        *out = value->bytes.data();
        return nullptr;
    });
    put(getTensorTypeAndShape, [](OrtValue const* value, OrtTensorTypeAndShapeInfo** out) -> OrtStatus* {
        ++infos;
        *out = new OrtTensorTypeAndShapeInfo{value->dims};
        return nullptr;
    });
    put(releaseTensorTypeAndShapeInfo, [](OrtTensorTypeAndShapeInfo* info) {
        --infos;
        delete info;
    });
    put(getDimensionsCount, [](OrtTensorTypeAndShapeInfo const* info, size_t* out) -> OrtStatus* {
        *out = info->dims.size();
        return nullptr;
    });
    put(getDimensions, [](OrtTensorTypeAndShapeInfo const* info, int64_t* out, size_t count) -> OrtStatus* {
        std::copy_n(info->dims.begin(), count, out);
        return nullptr;
    });
    put(tensorMemoryInfo, [](OrtValue const*, OrtMemoryInfo const** out) -> OrtStatus* {
        *out = &memory;
        return nullptr;
    });
    put(kernelContextAllocator,
        [](OrtKernelContext const*, OrtMemoryInfo const* info, OrtAllocator** out) -> OrtStatus* {
            if (info != &memory)
                return failed("memory of somewhere else");
            *out = &allocator;
            return nullptr;
        });
    put(releaseAllocator, [](OrtAllocator*) {});
    put(kernelContextStream, [](OrtKernelContext const*, void** stream) -> OrtStatus* {
        ++streams;
        *stream = nullptr;
        return nullptr;
    });
    put(parallelFor,
        [](OrtKernelContext const*, void (*task)(void*, size_t), size_t count, size_t, void* data) -> OrtStatus* {
            for (size_t i = 0; i < count; ++i)
                task(data, i);
            return nullptr;
        });
}

uint64_t randomState = 1;

// Numbers of -1 .. 1 that every type has exactly: multiples of 1/16.
OrtValue tensor(std::vector<int64_t> dims, int element, float scale = 1.f, float shift = 0.f)
{
    OrtValue value{dims, {}};
    size_t numbers = 1;
    for (int64_t const dim : dims)
        numbers *= size_t(dim);
    for (size_t i = 0; i < numbers; ++i)
    {
        randomState = randomState * 6364136223846793005u + 1442695040888963407u;
        int const sixteenths = int(randomState >> 40) % 33 - 16;
        float const number = float(sixteenths) / 16.f * scale + shift;
        uint32_t bits;
        std::memcpy(&bits, &number, 4);
        uint16_t half = uint16_t(bits >> 16);
        if (element == kFloat16)
        {
            int exponent;
            float const fraction = std::frexp(std::fabs(number), &exponent);
            half = number == 0.f
                ? 0
                : uint16_t(bits >> 31 << 15 | uint32_t(exponent + 14) << 10 | (uint32_t(fraction * 2048.f) & 0x3ff));
        }
        uint8_t const* const from =
            element == kFloat ? reinterpret_cast<uint8_t*>(&bits) : reinterpret_cast<uint8_t*>(&half);
        value.bytes.insert(value.bytes.end(), from, from + (element == kFloat ? 4 : 2));
    }
    return value;
}

double number(OrtValue const& value, size_t i, int element)
{
    if (element == kFloat)
    {
        float result;
        std::memcpy(&result, &value.bytes[4 * i], 4);
        return result;
    }
    uint16_t half;
    std::memcpy(&half, &value.bytes[2 * i], 2);
    if (element == kBfloat16)
    {
        uint32_t const bits = uint32_t(half) << 16;
        float result;
        std::memcpy(&result, &bits, 4);
        return result;
    }
    int const exponent = half >> 10 & 31;
    if (exponent == 31)
        return NAN;
    return std::ldexp((exponent ? 0x400 : 0) + (half & 0x3ff), (exponent ? exponent : 1) - 25) * (half >> 15 ? -1 : 1);
}

OrtKernelContext contextOf(std::string const& name, int element)
{
    constexpr int64_t K = 3, B = 2, L = 70, D = 24, R = 8, N = 16, G = 2;
    std::vector<OrtValue> inputs;
    if (name == "CausalConv1d")
        inputs = {tensor({B, L, 2 * D}, element), tensor({K, D, 4}, kFloat), tensor({K, D}, kFloat)};
    else if (name == "StreamingConv1d")
        inputs = {tensor({B, L, 2 * D}, element), tensor({B, 3, D}, element), tensor({K, D, 4}, kFloat),
            tensor({K, D}, kFloat)};
    else if (name == "S6Scan")
        inputs = {tensor({B, D, L}, element), tensor({B, D, L}, element, 0.5f), tensor({B, G, N, L}, element),
            tensor({B, G, N, L}, element), tensor({D, N}, kFloat, 4.f, -5.f), tensor({D}, kFloat),
            tensor({D}, kFloat, 1.f, -2.f)};
    else
        inputs = {tensor({K, B, L, D}, element), tensor({K, B, L, R + 2 * N}, element), tensor({B, L, 2 * D}, element),
            tensor({K, D, N}, kFloat, 4.f, -5.f), tensor({K, D, R}, kFloat, 0.5f), tensor({K, D}, kFloat, 1.f, -2.f),
            tensor({K, D}, kFloat)};
    if (name == "StreamingScan")
        inputs.push_back(tensor({B, N, D}, kFloat, 4.f));
    return {std::move(inputs), {}, element == kFloat ? size_t(4) : size_t(2)};
}

// Creates the operator and calls it; the message of what it refuses.
std::string run(OrtCustomOp const* op, OrtKernelContext& context, int64_t rows)
{
    OrtApi const* const api = reinterpret_cast<OrtApi const*>(table);
    OrtKernelInfo const info{{{"rows", {rows}}, {"directions", {0, 1, 2}}, {"mean", {1}}, {"softplus", {1}}}};
    void* kernel = nullptr;
    std::unique_ptr<OrtStatus> status(op->createKernelV2(op, api, &info, &kernel));
    if (status)
        return status->message;
    status.reset(op->computeV2(kernel, &context));
    op->destroyKernel(kernel);
    return status ? status->message : "";
}
} // namespace

int main()
{
    fillTable();
    OrtApiBase const base{[](uint32_t) { return reinterpret_cast<OrtApi const*>(table); }, nullptr};
    OrtSessionOptions options{};
    std::unique_ptr<OrtStatus> const status(RegisterCustomOps(&options, &base));
    report(!status && options.domain && options.domain->name == "vivim", "operators of domain vivim are registered");
    std::map<std::string, std::vector<OrtCustomOp const*>> byProvider;
    for (OrtCustomOp const* const op : options.domain->operators)
        byProvider[op->executionProvider(op) ? op->executionProvider(op) : "CPU"].push_back(op);
    std::vector<OrtCustomOp const*> const &cpu = byProvider["CPU"], &cuda = byProvider["CUDAExecutionProvider"];
    report(cpu.size() == 19, "five operators for three types on the CPU, and four for float32");
    report(cuda.size() == 15,
        "as many for CUDA, whose kernels are "
            + std::string(vivim_ort_cuda_kernels() ? vivim_ort_cuda_kernels() : "missing"));
    for (size_t i = 0; i < cuda.size() && i < cpu.size(); ++i)
    {
        std::string const name = cpu[i]->name(cpu[i]);
        int const element = cpu[i]->inputType(cpu[i], 0);
        report(name == cuda[i]->name(cuda[i]) && element == cuda[i]->inputType(cuda[i], 0), "the same order");
        randomState = 7;
        OrtKernelContext ours = contextOf(name, element);
        randomState = 7;
        OrtKernelContext theirs = contextOf(name, element);
        int const streamsBefore = streams;
        std::string const message = run(cpu[i], ours, 5) + run(cuda[i], theirs, 5);
        report(message.empty(), name + " of type " + std::to_string(element) + " runs" + message);
        report(streams == streamsBefore + 1, "CUDA asked for the stream, the CPU did not");
        report(ours.output.dims == theirs.output.dims, "the same shape");
        double difference = 0, norm = 0;
        for (size_t j = 0; j < ours.output.bytes.size() / ours.elementSize; ++j)
        {
            double const a = number(ours.output, j, element), b = number(theirs.output, j, element);
            difference += (a - b) * (a - b), norm += a * a;
        }
        // Two float32 orders of the sums, and one rounding of the data's type; each direction is rounded on the GPU.
        double const tolerance = element == kFloat ? 1e-6 : element == kFloat16 ? 0x1p-9 : 0x1p-6;
        double const error = std::sqrt(difference / norm);
        char text[32];
        std::snprintf(text, sizeof(text), "%.1e", error);
        report(error <= tolerance && norm > 0, "equal results: " + std::string(text));
        if (name != "StreamingScan")
            continue;
        report(ours.state.dims == std::vector<int64_t>{2, 16, 24} && theirs.state.dims == ours.state.dims, "a state");
        difference = norm = 0;
        for (size_t j = 0; j < ours.state.bytes.size() / 4; ++j)
        {
            double const a = number(ours.state, j, kFloat), b = number(theirs.state, j, kFloat);
            difference += (a - b) * (a - b), norm += a * a;
        }
        report(std::sqrt(difference / norm) <= 1e-6 && norm > 0, "equal states, in float32 for every type");
    }
    report(allocations > 0 && allocations == releases, "the workspace came from the session and went back");
    if (!cuda.empty())
    {
        OrtKernelContext wrong = contextOf("SelectiveScan", kFloat);
        wrong.inputs[1].dims[3] -= 1;
        std::string const message = run(cuda[1], wrong, 5);
        report(message.find("input dbc has shape (3, 2, 70, 39); expected (3, 2, 70, 40)") == 0, "refused: " + message);
        OrtKernelContext odd = contextOf("SelectiveScan", kFloat);
        report(run(cuda[1], odd, 4).find("rows") != std::string::npos, "rows that do not divide are refused");
        OrtKernelContext many = contextOf("S6Scan", kFloat);
        many.inputs[2] = many.inputs[3] = tensor({2, 2, 257, 70}, kFloat);
        many.inputs[4] = tensor({24, 257}, kFloat);
        report(run(cuda[4], many, 5) == "states is 257; it must be 1 to 256", "more states than there are kernels for");
    }
    report(infos == 0, "nothing is left behind");
    delete options.domain;
    return failures ? 1 : 0;
}
