// RegisterCustomOps, which SessionOptions.register_custom_ops_library() calls: every operator for every data type, on
// the CPU and, where the CUDA kernels are found, on the CUDA provider. A registered operator wins over the body that a
// file has for it.
#include <iterator>
#include <type_traits>

#include "../cuda/library.h"
#include "../vivim_ort.h"
#include "abi.h"
#include "operators.h"
#include "processors.h"
#include "s6.h"

namespace vivim::ort
{
namespace
{
constexpr int elementType(vivim_dtype type)
{
    return type == VIVIM_FLOAT16 ? kFloat16 : type == VIVIM_BFLOAT16 ? kBfloat16 : kFloat;
}

// Whether an operator's second output is a state, with axes of its own.
template <class Operator, class = void> struct HasState : std::false_type
{
};
template <class Operator> struct HasState<Operator, std::void_t<decltype(Operator::kState)>> : std::true_type
{
};

// What ONNX Runtime is told of an operator with one data type.
template <class Operator, class Processor, vivim_dtype Type> struct Definition : OrtCustomOp
{
    OrtApi const* api;

    explicit Definition(OrtApi const* table) : OrtCustomOp{}, api(table)
    {
        version = kApiVersion;
        name = [](OrtCustomOp const*) { return Operator::kName; };
        executionProvider = [](OrtCustomOp const*) { return Processor::kProvider; };
        inputType = [](OrtCustomOp const*, size_t i) { return Operator::kIsParameter[i] ? kFloat : elementType(Type); };
        inputCount = [](OrtCustomOp const*) { return size_t(Operator::kInputs); };
        outputType = [](OrtCustomOp const*, size_t i) { return kHasState && i ? kFloat : elementType(Type); };
        outputCount = [](OrtCustomOp const*) { return size_t(Operator::kOutputs); };
        inputCharacteristic = [](OrtCustomOp const*, size_t i) {
            return i == Operator::kOptional ? kMayBeAbsent : kRequired;
        };
        outputCharacteristic = [](OrtCustomOp const*, size_t) { return kRequired; };
        inputMemory = [](OrtCustomOp const*, size_t) { return 0; }; // of the execution provider
        startVersion = [](OrtCustomOp const*) { return 1; };
        endVersion = [](OrtCustomOp const*) { return 0x7fffffff; };
        createKernelV2 = [](OrtCustomOp const*, OrtApi const* table, OrtKernelInfo const* info, void** kernel) {
            return guarded(table, [&] { *kernel = new Kernel{table, Operator(table, info)}; });
        };
        computeV2 = [](void* kernel, OrtKernelContext* context) {
            auto const& some = *static_cast<Kernel const*>(kernel);
            return guarded(some.api, [&] { some.node.compute(Context(some.api, context), Type); });
        };
        destroyKernel = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
        inferShapes = [](OrtCustomOp const* op, OrtShapeInferContext* context) {
            OrtApi const* const table = static_cast<Definition const*>(op)->api;
            return guarded(table, [&] {
                inferShapesOf(table, context, Operator::kOutput, Operator::kOutputRank, 0,
                    kHasState ? 1 : Operator::kOutputs, false);
                if constexpr (kHasState)
                    inferShapesOf(table, context, Operator::kState, std::size(Operator::kState), 1, 2, true);
            });
        };
    }

private:
    static constexpr bool kHasState = HasState<Operator>::value;

    struct Kernel
    {
        OrtApi const* api;
        Operator node;
    };

    // The first definition is asked for all of an operator's types: the output's is that of the first input. A dimension
    // may be a number or, where it is open, a name; the output is left unsaid where one is neither.
    // `first` to `last`: the outputs that have these axes; a state is float32.
    static void inferShapesOf(OrtApi const* api, OrtShapeInferContext* context, Axis const* axes, size_t rank,
        size_t first, size_t last, bool isState)
    {
        OrtTensorTypeAndShapeInfo* data = nullptr; // as below, the context's
        int type = kFloat;
        check(api, shapeInferInput(api, context, 0, &data));
        if (!isState)
            check(api, getTensorElementType(api, data, &type));
        Shape dims;
        std::vector<char const*> names;
        for (size_t i = 0; i < rank; ++i)
        {
            Axis const from = axes[i];
            OrtTensorTypeAndShapeInfo* info = nullptr;
            check(api, shapeInferInput(api, context, from.input, &info));
            Shape const shape = shapeOf(api, info);
            std::vector<char const*> symbols(shape.size());
            check(api, getSymbolicDimensions(api, info, symbols.data(), symbols.size()));
            if (from.axis >= shape.size())
                return;
            char const* const symbol = symbols[from.axis] ? symbols[from.axis] : "";
            if (shape[from.axis] < 0 && !*symbol)
                return;
            dims.push_back(shape[from.axis]);
            names.push_back(symbol);
        }
        OrtTensorTypeAndShapeInfo* result = nullptr;
        check(api, createTensorTypeAndShapeInfo(api, &result));
        OrtStatus* const status = guarded(api, [&] {
            check(api, setDimensions(api, result, dims.data(), dims.size()));
            check(api, setSymbolicDimensions(api, result, names.data(), names.size()));
            check(api, setTensorElementType(api, result, type));
            for (size_t i = first; i < last; ++i)
                check(api, shapeInferSetOutput(api, context, i, result));
        });
        releaseTensorTypeAndShapeInfo(api, result);
        check(api, status);
    }
};

template <class Operator, class Processor, vivim_dtype Type> void add(OrtApi const* api, OrtCustomOpDomain* domain)
{
    // Sessions keep pointers to it for as long as they live.
    static Definition<Operator, Processor, Type> const definition(api);
    check(api, customOpDomainAdd(api, domain, &definition));
}

template <class Processor, vivim_dtype Type> void addOperators(OrtApi const* api, OrtCustomOpDomain* domain)
{
    add<CausalConv1d<Processor>, Processor, Type>(api, domain);
    add<SelectiveScan<Processor>, Processor, Type>(api, domain);
    if (Processor::streams())
    {
        add<StreamingConv1d<Processor>, Processor, Type>(api, domain);
        add<StreamingScan<Processor>, Processor, Type>(api, domain);
    }
    if (Processor::scansPlainly())
        add<S6Scan<Processor>, Processor, Type>(api, domain);
}

template <class Processor> void addTypes(OrtApi const* api, OrtCustomOpDomain* domain)
{
    addOperators<Processor, VIVIM_FLOAT32>(api, domain);
    addOperators<Processor, VIVIM_FLOAT16>(api, domain);
    addOperators<Processor, VIVIM_BFLOAT16>(api, domain);
}
} // namespace
} // namespace vivim::ort

extern "C" VIVIM_API OrtStatus* RegisterCustomOps(OrtSessionOptions* options, OrtApiBase const* base)
{
    using namespace vivim::ort;
    OrtApi const* const api = base->getApi(kApiVersion);
    if (!api)
        return nullptr; // an older ONNX Runtime: the bodies run
    return guarded(api, [&] {
        OrtCustomOpDomain* domain = nullptr;
        check(api, createCustomOpDomain(api, "vivim", &domain));
        addTypes<Cpu>(api, domain);
        add<DepthwiseConvGelu<2>, Cpu, VIVIM_FLOAT32>(api, domain);
        add<DepthwiseConvGelu<3>, Cpu, VIVIM_FLOAT32>(api, domain);
        add<AddLayerNorm, Cpu, VIVIM_FLOAT32>(api, domain);
        add<MergeScales, Cpu, VIVIM_FLOAT32>(api, domain);
        if (vivim::cuda::library())
            addTypes<Cuda>(api, domain);
        check(api, addCustomOpDomain(api, options, domain));
    });
}
