// Drives libvivim_trt.so as TensorRT drives it, without TensorRT and without a GPU: vivim_trt_host_test LIBRARY.
// One line a check; the first that fails ends the run with exit code 1.

#include "host.h"

#include <cstdio>
#include <cstdlib>
#include <new>
#include <utility>

#include "vivim_kernels.h"

namespace
{

using namespace host;

// Allocations by operator new, the library's too: this definition serves the whole process.
long gAllocations = 0;

void check(bool holds, std::string const& what)
{
    std::printf("%s %s\n", holds ? "ok  " : "FAIL", what.c_str());
    if (!holds)
        std::exit(1);
}

// Whether the last message holds `text`; it is forgotten.
bool taken(Log& log, std::string const& text)
{
    bool const found = log.last.find(text) != std::string::npos;
    if (!found)
        std::printf("     the log holds: %s\n", log.last.c_str());
    log.last.clear();
    return found;
}

// The sizes of one Vivim layer, with the letters of vivim_kernels.h.
struct Sizes { int64_t B = 2, L = 20, D = 16, R = 8, N = 16, K = 3, shared = 0, G = 2; };

Tensors convTensors(Sizes s, DataType type = DataType::kHALF)
{
    Tensors tensors;
    tensors.add({s.B, s.L, 2 * s.D}, type);
    tensors.add({s.K, s.D, 4}, DataType::kFLOAT);
    tensors.add({s.K, s.D}, DataType::kFLOAT);
    tensors.add({s.K, s.B, s.L, s.D}, type);
    return tensors;
}

Tensors scanTensors(Sizes s, DataType type = DataType::kHALF)
{
    Tensors tensors;
    tensors.add({s.shared ? 1 : s.K, s.B, s.L, s.D}, type);
    tensors.add({s.K, s.B, s.L, s.R + 2 * s.N}, type);
    tensors.add({s.B, s.L, 2 * s.D}, type);
    tensors.add({s.K, s.D, s.N}, DataType::kFLOAT);
    tensors.add({s.K, s.D, s.R}, DataType::kFLOAT);
    tensors.add({s.K, s.D}, DataType::kFLOAT);
    tensors.add({s.K, s.D}, DataType::kFLOAT);
    tensors.add({s.B, s.L, s.D}, type);
    return tensors;
}

// The same with a state: one more input, and for the scan one more output.
Tensors streamingConvTensors(Sizes s, DataType type = DataType::kHALF)
{
    Tensors tensors;
    tensors.add({s.B, s.L, 2 * s.D}, type);
    tensors.add({s.B, 3, s.D}, type);
    tensors.add({s.K, s.D, 4}, DataType::kFLOAT);
    tensors.add({s.K, s.D}, DataType::kFLOAT);
    tensors.add({s.K, s.B, s.L, s.D}, type);
    return tensors;
}

Tensors streamingScanTensors(Sizes s, DataType type = DataType::kHALF)
{
    Tensors tensors = scanTensors(s, type);
    PluginTensorDesc const y = tensors.all.back();
    tensors.all.pop_back();
    tensors.add({s.B, s.N, s.D}, DataType::kFLOAT);
    tensors.all.push_back(y);
    tensors.add({s.B, s.N, s.D}, DataType::kFLOAT);
    tensors.outputs = 2;
    return tensors;
}

// The plain scan, channels first.
Tensors plainTensors(Sizes s, DataType type = DataType::kHALF)
{
    Tensors tensors;
    tensors.add({s.B, s.D, s.L}, type);
    tensors.add({s.B, s.D, s.L}, type);
    tensors.add({s.B, s.G, s.N, s.L}, type);
    tensors.add({s.B, s.G, s.N, s.L}, type);
    tensors.add({s.D, s.N}, DataType::kFLOAT);
    tensors.add({s.D}, DataType::kFLOAT);
    tensors.add({s.D}, DataType::kFLOAT);
    tensors.add({s.B, s.D, s.L}, type);
    return tensors;
}

// One operator under test: its name, its inputs' names and a maker of valid tensors.
struct Operator
{
    char const* name;
    bool scan;
    std::vector<char const*> inputs;
    Tensors (*tensors)(Sizes, DataType);
    int32_t outputs = 1;
    bool plain = false; // S6Scan, a scan of no directions
};

Operator const kOperators[] = {
    {"CausalConv1d", false, {"xz", "weight", "bias"}, convTensors},
    {"SelectiveScan", true, {"xc", "dbc", "xz", "A_log2e", "dt_weight", "dt_bias", "d_skip"}, scanTensors},
    {"StreamingConv1d", false, {"xz", "tail", "weight", "bias"}, streamingConvTensors},
    {"StreamingScan", true, {"xc", "dbc", "xz", "A_log2e", "dt_weight", "dt_bias", "d_skip", "initial"},
        streamingScanTensors, 2},
    {"S6Scan", true, {"u", "delta", "B", "C", "A", "skip", "bias"}, plainTensors, 1, true},
};

template <class Integer>
FieldsOf<Integer> goodFields(Operator const& op)
{
    FieldsOf<Integer> fields;
    if (op.plain)
        fields.add("softplus", {1});
    else
        fields.add("rows", {5}).add("directions", {0, 1, 2});
    if (op.scan && !op.plain)
        fields.add("mean", {1});
    return fields;
}

Node make(Library const& library, Operator const& op, PluginFieldCollection const* fields)
{
    return Node(library.creator(op.name).createPlugin("layer", fields, TensorRTPhase::kBUILD));
}

Node makeGood(Library const& library, Operator const& op)
{
    return make(library, op, goodFields<int32_t>(op).collection());
}

int32_t shapeChange(Node const& node, Tensors const& t)
{
    return node.runtime().onShapeChange(t.in(), t.inputs(), t.out(), t.outputs);
}

int32_t configure(Node const& node, std::vector<DynamicPluginTensorDesc> const& t)
{
    int32_t const outputs = node.build().getNbOutputs(), inputs = static_cast<int32_t>(t.size()) - outputs;
    return node.build().configurePlugin(t.data(), inputs, t.data() + inputs, outputs);
}

size_t workspaceOf(Node const& node, std::vector<DynamicPluginTensorDesc> const& t)
{
    int32_t const outputs = node.build().getNbOutputs(), inputs = static_cast<int32_t>(t.size()) - outputs;
    return node.build().getWorkspaceSize(t.data(), inputs, t.data() + inputs, outputs);
}

void checkLibrary(Library const& library)
{
    check(library.creators.size() == 5, "getCreators lists five creators");
    for (IPluginCreatorInterface* const creator : library.creators)
        check(!std::strcmp(creator->getInterfaceInfo().kind, "PLUGIN CREATOR_V3ONE"), "a creator is a V3One");
}

void checkCreator(Library const& library, Operator const& op)
{
    std::string const name = std::string(op.name) + ": ";
    IPluginCreatorV3One& creator = library.creator(op.name);
    check(!std::strcmp(creator.getPluginNamespace(), "vivim") && !std::strcmp(creator.getPluginVersion(), "1"),
        name + "its creator is version 1 in namespace vivim");
    PluginFieldCollection const& fields = *creator.getFieldNames();
    std::vector<char const*> names{"rows", "directions"};
    if (op.plain)
        names = {"softplus"};
    else if (op.scan)
        names.push_back("mean");
    bool listed = fields.nbFields == static_cast<int32_t>(names.size());
    for (size_t i = 0; listed && i < names.size(); ++i)
        listed = !std::strcmp(fields.fields[i].name, names[i]);
    check(listed, name + "its creator lists the ONNX node's attributes");

    Node const node = makeGood(library, op);
    check(bool(node), name + "it is made from 32-bit attributes");
    check(bool(make(library, op, goodFields<int64_t>(op).collection())), name + "it is made from 64-bit attributes");
    check(!std::strcmp(node.core().getPluginName(), op.name) && !std::strcmp(node.core().getPluginNamespace(), "vivim")
            && !std::strcmp(node.core().getPluginVersion(), "1"),
        name + "its name, version and namespace are its creator's");
    check(node.build().getNbOutputs() == op.outputs, name + "it says how many outputs it has");
}

void checkWrongFields(Library const& library, Log& log, Operator const& op)
{
    using Values = std::vector<int64_t>;
    struct Row
    {
        char const* what;
        std::vector<std::pair<char const*, Values>> fields; // and a good mean for SelectiveScan
        char const* message;
    };
    int64_t const big = int64_t(1) << 32; // whose lower half is 0: must not be cut off
    Row const rows[] = {
        {"no rows", {{"directions", {0}}}, "rows is missing"},
        {"rows of 0", {{"rows", {0}}, {"directions", {0}}}, "rows holds 0"},
        {"rows beyond 32 bits", {{"rows", {big + 5}}, {"directions", {0}}}, "rows holds"},
        {"two rows", {{"rows", {5, 5}}, {"directions", {0}}}, "rows has 2 values"},
        {"rows given twice", {{"rows", {5}}, {"rows", {5}}, {"directions", {0}}}, "rows is given twice"},
        {"no directions", {{"rows", {5}}}, "directions is missing"},
        {"empty directions", {{"rows", {5}}, {"directions", {}}}, "directions is empty"},
        {"direction 4", {{"rows", {5}}, {"directions", {0, 4}}}, "directions holds 4"},
        {"direction -1", {{"rows", {5}}, {"directions", {-1}}}, "directions holds -1"},
        {"five directions", {{"rows", {5}}, {"directions", {0, 1, 2, 3, 0}}}, "directions has 5 values"},
        {"an unknown attribute", {{"rows", {5}}, {"directions", {0}}, {"taps", {4}}}, "taps is not one"},
    };
    auto const refused = [&](FieldsOf<int64_t>& fields, std::string const& what, char const* message) {
        check(!make(library, op, fields.collection()) && taken(log, message),
            std::string(op.name) + ": " + what + " is refused with a message");
    };
    for (Row const& row : rows)
    {
        FieldsOf<int64_t> fields;
        for (auto const& [name, values] : row.fields)
            fields.add(name, values);
        if (op.scan)
            fields.add("mean", {1});
        refused(fields, row.what, row.message);
    }
    FieldsOf<int64_t> withoutMean, withMean;
    withoutMean.add("rows", {5}).add("directions", {0});
    withMean.add("rows", {5}).add("directions", {0}).add("mean", {2});
    if (op.scan)
        refused(withoutMean, "no mean", "mean is missing");
    refused(withMean, "mean of 2", op.scan ? "mean holds 2" : "mean is not one");

    PluginField const real{"rows", "", PluginFieldType::kFLOAT32, 1};
    PluginFieldCollection const typed{1, &real};
    check(!make(library, op, &typed) && taken(log, "rows has field type 1"),
        std::string(op.name) + ": rows of another type is refused with a message");
    PluginField const nothing{"rows", nullptr, PluginFieldType::kINT32, 1};
    PluginFieldCollection const empty{1, &nothing};
    check(!make(library, op, &empty) && taken(log, "rows is empty"),
        std::string(op.name) + ": rows without data is refused with a message");
    check(!make(library, op, nullptr) && taken(log, "rows is missing"),
        std::string(op.name) + ": no attributes at all are refused with a message");
}

void checkWrongPlainFields(Library const& library, Log& log, Operator const& op)
{
    std::string const name = std::string(op.name) + ": ";
    FieldsOf<int64_t> two, twice, outside, other;
    two.add("softplus", {1, 1});
    twice.add("softplus", {1}).add("softplus", {1});
    outside.add("softplus", {2});
    other.add("softplus", {1}).add("rows", {5});
    check(!make(library, op, two.collection()) && taken(log, "softplus has 2 values"), name + "two values are refused");
    check(!make(library, op, twice.collection()) && taken(log, "softplus is given twice"), name + "and one twice");
    check(!make(library, op, outside.collection()) && taken(log, "softplus holds 2"), name + "softplus is 0 or 1");
    check(!make(library, op, other.collection()) && taken(log, "rows is not one"), name + "rows of others are refused");
    check(!make(library, op, nullptr) && taken(log, "softplus is missing"), name + "softplus is needed");
}

void checkFormats(Node const& node, Log& log, Operator const& op)
{
    std::string const name = std::string(op.name) + ": ";
    int32_t const inputs = static_cast<int32_t>(op.inputs.size());
    for (DataType const type : {DataType::kFLOAT, DataType::kHALF, DataType::kBF16})
    {
        Tensors const tensors = op.tensors({}, type);
        auto io = tensors.dynamic();
        bool all = true;
        for (int32_t i = 0; i < inputs + op.outputs; ++i)
            all = all && node.build().supportsFormatCombination(i, io.data(), inputs, op.outputs);
        check(all, name + "data type " + std::to_string(int32_t(type)) + " is supported");
        for (int32_t i = 0; i < inputs + op.outputs; ++i)
        {
            std::string const tensor = i < inputs ? op.inputs[i] : "the output";
            auto changed = io;
            changed[i].desc.format = TensorFormat::kCHW32;
            bool refused = !node.build().supportsFormatCombination(i, changed.data(), inputs, op.outputs);
            changed = io;
            // For a parameter and float32 data the wrong type is half; int8 is wrong everywhere.
            bool const parameter = i != inputs && tensors.all[i].type == DataType::kFLOAT && i > 0;
            changed[i].desc.type = parameter || type == DataType::kFLOAT ? DataType::kHALF : DataType::kFLOAT;
            if (i > 0)
                refused = refused && !node.build().supportsFormatCombination(i, changed.data(), inputs, op.outputs);
            changed[i].desc.type = DataType::kINT8;
            refused = refused && !node.build().supportsFormatCombination(i, changed.data(), inputs, op.outputs);
            check(refused, name + "another format or type of " + tensor + " is not supported");
        }
        DataType output[2] = {DataType::kINT32, DataType::kFLOAT};
        std::vector<DataType> types;
        for (int32_t i = 0; i < inputs; ++i)
            types.push_back(tensors.all[i].type);
        check(node.build().getOutputDataTypes(output, op.outputs, types.data(), inputs) == 0 && output[0] == type
                && output[1] == DataType::kFLOAT,
            name + "the output has the data's type, and a state is float32");
        check(shapeChange(node, tensors) == 0 && configure(node, io) == 0, name + "its shapes are accepted");
    }
    // What no negotiation would let through, and a hand-made engine might.
    for (int32_t i = 0; i < inputs + op.outputs; ++i)
    {
        Tensors tensors = op.tensors({}, DataType::kHALF);
        tensors.all[i].type = DataType::kINT8;
        std::string const tensor = i < inputs ? std::string("input ") + op.inputs[i] : "the output";
        check(shapeChange(node, tensors) != 0 && taken(log, tensor + " has data type")
                && configure(node, tensors.dynamic()) != 0 && taken(log, tensor + " has data type"),
            name + "a wrong type of " + tensor + " is refused by name");
        tensors = op.tensors({}, DataType::kHALF);
        tensors.all[i].format = TensorFormat::kHWC8;
        check(shapeChange(node, tensors) != 0 && taken(log, tensor + " has tensor format"),
            name + "a wrong format of " + tensor + " is refused by name");
    }
}

void checkOutputShape(Node const& node, Log& log, Operator const& op)
{
    // Each dimension is a pointer that TensorRT owns and that the plugin only hands on; the builder is not called.
    int32_t const inputs = static_cast<int32_t>(op.inputs.size());
    Tensors const tensors = op.tensors({}, DataType::kHALF);
    static char places[8][Dims::MAX_DIMS];
    std::vector<DimsExprs> in(op.inputs.size());
    for (int32_t i = 0; i < inputs; ++i)
    {
        in[i].nbDims = tensors.all[i].dims.nbDims;
        for (int32_t d = 0; d < in[i].nbDims; ++d)
            in[i].d[d] = reinterpret_cast<IDimensionExpr const*>(&places[i][d]);
    }
    alignas(16) static char memory[256];
    auto& builder = reinterpret_cast<IExprBuilder&>(memory);
    DimsExprs outs[2]{};
    bool right = node.build().getOutputShapes(in.data(), inputs, nullptr, 0, outs, op.outputs, builder) == 0;
    for (int32_t i = 0; i < op.outputs; ++i)
    {
        DimsExprs const& out = outs[i];
        Dims const& expected = tensors.out()[i].dims;
        right = right && out.nbDims == expected.nbDims;
        for (int32_t d = 0; right && d < out.nbDims; ++d)
        {
            auto const* const place = reinterpret_cast<char const*>(out.d[d]);
            int32_t const input = static_cast<int32_t>((place - &places[0][0]) / Dims::MAX_DIMS);
            int32_t const axis = static_cast<int32_t>((place - &places[0][0]) % Dims::MAX_DIMS);
            right = tensors.all[input].dims.d[axis] == expected.d[d];
        }
    }
    check(right, std::string(op.name) + ": the outputs' shapes follow from the inputs'");
    in[1].nbDims = 1;
    check(node.build().getOutputShapes(in.data(), inputs, nullptr, 0, outs, op.outputs, builder) != 0
            && taken(log, std::string("input ") + op.inputs[1]),
        std::string(op.name) + ": a wrong rank is refused before there are shapes");
}

void checkWrongShapes(Node const& node, Log& log, Operator const& op)
{
    std::string const name = std::string(op.name) + ": ";
    int32_t const inputs = static_cast<int32_t>(op.inputs.size());
    // Every size of every tensor changed alone makes the node impossible; the message names an input.
    for (int32_t i = 0; i < inputs + op.outputs; ++i)
    {
        Tensors const good = op.tensors({}, DataType::kHALF);
        std::string const tensor = i < inputs ? op.inputs[i] : "the output";
        for (int32_t axis = 0; axis < good.all[i].dims.nbDims; ++axis)
        {
            Tensors tensors = good;
            tensors.all[i].dims.d[axis] += 5; // 5 more tokens are still a multiple of rows
            bool const refused = shapeChange(node, tensors) != 0;
            bool const named = taken(log, "; expected ");
            check(refused && named && configure(node, tensors.dynamic()) != 0 && taken(log, "; expected "),
                name + "dimension " + std::to_string(axis) + " of " + tensor + " cannot change alone");
        }
        Tensors tensors = good;
        tensors.all[i].dims.nbDims -= 1;
        check(shapeChange(node, tensors) != 0 && taken(log, tensor + " has"),
            name + "the rank of " + tensor + " is checked");
    }
    auto const refused = [&](Sizes sizes, char const* message) {
        return shapeChange(node, op.tensors(sizes, DataType::kHALF)) != 0 && taken(log, message);
    };
    Sizes sizes;
    if (op.plain)
    {
        sizes.G = 3;
        check(refused(sizes, "input u has D = 16 channels; expected a multiple of the 3 groups of B"),
            name + "D that G does not divide is refused");
        sizes = {};
        sizes.N = 257;
        check(refused(sizes, "states is 257; it must be 1 to 256"), name + "N = 257 is refused");
        sizes = {};
        sizes.L = 0;
        check(refused(sizes, "length is 0"), name + "no tokens are refused");
        sizes = {};
        sizes.N = 1, sizes.D = 7, sizes.G = 7, sizes.L = 21;
        check(shapeChange(node, op.tensors(sizes, DataType::kHALF)) == 0, name + "any L and D are taken");
        return;
    }
    sizes.L = 21;
    check(refused(sizes, "L = 21 tokens; expected a multiple of rows = 5"),
        name + "L that rows do not divide is refused");
    sizes = {};
    sizes.D = 12;
    check(refused(sizes, "D = 12 channels; expected a multiple of 8"), name + "D that 8 does not divide is refused");
    sizes = {};
    sizes.K = 2;
    check(refused(sizes, op.scan ? "input xc has shape (2, " : "input weight has shape (2, "),
        name + "two directions' tensors are refused by a node of three");
    sizes = {};
    sizes.L = 0;
    check(refused(sizes, "L = 0"), name + "no tokens are refused");
    if (op.scan)
    {
        sizes = {};
        sizes.R = 65;
        check(refused(sizes, ""), name + "R = 65 is refused");
        sizes = {};
        sizes.N = 17;
        check(refused(sizes, ""), name + "N = 17 is refused");
        sizes = {};
        sizes.shared = 1;
        check(shapeChange(node, op.tensors(sizes, DataType::kHALF)) == 0, name + "xc may be shared by the directions");
    }
}

void checkCounts(Node const& node, Log& log, Operator const& op)
{
    std::string const name = std::string(op.name) + ": ";
    Tensors const t = op.tensors({}, DataType::kHALF);
    auto const io = t.dynamic();
    for (int32_t const inputs : {t.inputs() - 1, t.inputs() + 1, 0})
    {
        DataType type[2] = {};
        DataType const types[9] = {};
        IPluginV3OneBuild& build = node.build();
        bool refused =
            node.runtime().onShapeChange(t.in(), inputs, t.out(), op.outputs) != 0 && taken(log, "inputs and");
        refused =
            refused && build.configurePlugin(io.data(), inputs, io.data(), op.outputs) != 0 && taken(log, "inputs and");
        refused = refused && build.getOutputDataTypes(type, op.outputs, types, inputs) != 0 && taken(log, "inputs and");
        refused =
            refused && !build.supportsFormatCombination(0, io.data(), inputs, op.outputs) && taken(log, "inputs and");
        refused = refused && build.getWorkspaceSize(io.data(), inputs, io.data(), op.outputs) == 0
            && taken(log, "inputs and");
        check(refused, name + std::to_string(inputs) + " inputs are refused");
    }
    check(node.runtime().onShapeChange(t.in(), t.inputs(), t.out(), 3) != 0 && taken(log, "3 outputs"),
        name + "three outputs are refused");
}

void checkDynamicSizes(Node const& node, Log& log, Operator const& op)
{
    // A dynamic batch while the engine is built: -1 where it is, and a profile of 1 to 4.
    std::string const name = std::string(op.name) + ": ";
    Sizes sizes;
    sizes.B = 4;
    auto const at4 = op.tensors(sizes, DataType::kHALF).dynamic();
    sizes.B = 1;
    auto io = op.tensors(sizes, DataType::kHALF).dynamic();
    size_t const small = workspaceOf(node, io);
    for (size_t i = 0; i < io.size(); ++i)
    {
        io[i].max = at4[i].max;
        for (int32_t d = 0; d < io[i].desc.dims.nbDims; ++d)
            if (io[i].min.d[d] != io[i].max.d[d])
                io[i].desc.dims.d[d] = -1;
    }
    check(configure(node, io) == 0, name + "a dynamic batch is accepted");
    check(workspaceOf(node, io) == workspaceOf(node, at4) && workspaceOf(node, io) >= small,
        name + "the workspace is that of the largest shape");
    auto wrong = io;
    wrong[1].desc.dims.d[wrong[1].desc.dims.nbDims - 1] += 1;
    check(configure(node, wrong) != 0 && taken(log, std::string("input ") + op.inputs[1]),
        name + "a wrong size beside a dynamic one is refused by name");
    if (!op.scan)
    {
        check(workspaceOf(node, io) == 0, name + "it needs no workspace");
        return;
    }
    check(workspaceOf(node, io) > 0, name + "it needs a workspace");
    if (op.plain)
    {
        auto many = at4;
        many[4].max.d[1] = 257;
        check(workspaceOf(node, many) == 0 && taken(log, "states is 257"), name + "no workspace for N = 257");
        return; // that it grows with B and L is tests/plugins/test_s6_kernels.py
    }
    // 23 can be a bound on L, though 5 rows never have 23 tokens.
    auto bound = at4;
    for (int32_t const i : {0, 1})
        bound[i].max.d[2] = 23;
    bound[2].max.d[1] = 23;
    check(workspaceOf(node, bound) == workspaceOf(node, at4), name + "a bound on L need not be a multiple of rows");
    bound = at4;
    bound[3].max.d[2] = 17;
    check(workspaceOf(node, bound) == 0 && !log.last.empty(), name + "no workspace for N = 17, and a message");
    log.last.clear();

    // enqueue trusts this: TensorRT allocates for the largest shape, whichever runs.
    vivim_scan_desc desc{};
    desc.width = 16, desc.rows = 1, desc.rank = 8, desc.states = 16, desc.direction_count = 3, desc.mean = 1;
    desc.directions[1] = 1, desc.directions[2] = 2, desc.gate_width = 32, desc.dtype = VIVIM_FLOAT16;
    bool grows = true;
    for (desc.batch = 1; desc.batch <= 2; ++desc.batch)
        for (desc.length = 1; desc.length <= 6000; ++desc.length)
        {
            vivim_scan_desc more = desc, longer = desc;
            more.batch += 1, longer.length += 1;
            size_t const most = vivim_scan_workspace(&desc, -1);
            bool const here = vivim_scan_workspace(&more, -1) >= most && vivim_scan_workspace(&longer, -1) >= most;
            if (grows && !here)
                std::printf("     %zu bytes at B = %d, L = %d; less for one clip or one token more\n", most, desc.batch,
                    desc.length);
            grows = grows && here;
            for (int32_t tactic = 0; tactic < vivim_scan_tactic_count(); ++tactic)
                grows = grows && vivim_scan_workspace(&desc, tactic) <= most;
        }
    check(grows, name + "the kernels' workspace never shrinks with B or L, and no tactic needs more than the most");
}

void checkTactics(Node const& node, Log& log, Operator const& op)
{
    std::string const name = std::string(op.name) + ": ";
    int32_t const count = node.build().getNbTactics();
    int32_t const ours = op.plain ? vivim_s6_tactic_count() : op.scan ? vivim_scan_tactic_count() : 0;
    check(count == ours, name + std::to_string(count) + " tactics");
    std::vector<int32_t> tactics(static_cast<size_t>(count) + 1, -7);
    bool listed = node.build().getValidTactics(tactics.data(), count) == 0 && tactics.back() == -7;
    for (int32_t i = 0; i < count; ++i)
        listed = listed && tactics[i] == i + 1 && node.runtime().setTactic(tactics[i]) == 0;
    check(listed, name + "tactics are 1 to n and can be set");
    check(node.runtime().setTactic(0) == 0, name + "tactic 0, the default, can be set");
    check(node.runtime().setTactic(count + 1) != 0 && taken(log, "the tactic is") && node.runtime().setTactic(-1) != 0
            && taken(log, "the tactic is"),
        name + "other tactics are refused");
    check(node.build().getValidTactics(tactics.data(), count + 1) != 0 && taken(log, "tactics were asked for"),
        name + "a wrong number of tactics is refused");
}

void checkCopies(Library const& library, Operator const& op)
{
    std::string const name = std::string(op.name) + ": ";
    auto const same = [&](Node const& node, PluginFieldCollection const& fields) {
        auto const values = [&](int32_t i) { return static_cast<int32_t const*>(fields.fields[i].data); };
        if (op.plain)
            return fields.nbFields == 1 && !std::strcmp(fields.fields[0].name, "softplus") && values(0)[0] == 1
                && shapeChange(node, op.tensors({}, DataType::kHALF)) == 0;
        bool equal = fields.nbFields == (op.scan ? 3 : 2) && !std::strcmp(fields.fields[0].name, "rows")
            && values(0)[0] == 5 && !std::strcmp(fields.fields[1].name, "directions") && fields.fields[1].length == 3
            && values(1)[0] == 0 && values(1)[1] == 1 && values(1)[2] == 2;
        return equal && (!op.scan || (!std::strcmp(fields.fields[2].name, "mean") && values(2)[0] == 1))
            && shapeChange(node, op.tensors({}, DataType::kHALF)) == 0;
    };
    Node node = makeGood(library, op);
    node.runtime().getFieldsToSerialize(); // a copy must not keep pointing at these
    Node const clone(node.plugin->clone());
    Node const attached(clone.runtime().attachToContext(nullptr));
    std::string const key = node.build().getTimingCacheID();
    node.plugin.reset();
    check(same(clone, *clone.runtime().getFieldsToSerialize()), name + "a clone outlives its original");
    check(same(attached, *attached.runtime().getFieldsToSerialize()), name + "it attaches to a context");
    PluginFieldCollection const* const stored = attached.runtime().getFieldsToSerialize();
    Node const restored(library.creator(op.name).createPlugin("layer", stored, TensorRTPhase::kRUNTIME));
    check(
        restored && same(restored, *restored.runtime().getFieldsToSerialize()), name + "it is restored from an engine");
    check(key == restored.build().getTimingCacheID() && key.find(vivim_kernels_revision()) != std::string::npos,
        name + "its timing-cache id names the kernels' revision: " + key);

    FieldsOf<int32_t> other;
    if (op.plain)
        other.add("softplus", {0});
    else
        other.add("rows", {4}).add("directions", {0, 1, 2});
    if (op.scan && !op.plain)
        other.add("mean", {1});
    check(key != make(library, op, other.collection()).build().getTimingCacheID(),
        name + "another attribute has another timing-cache id");
}

void checkEnqueueErrors(Node const& node, Log& log, Operator const& op)
{
    std::string const name = std::string(op.name) + ": ";
    Tensors t = op.tensors({}, DataType::kFLOAT);
    alignas(16) static char memory[1 << 16] = {};
    std::vector<void const*> inputs(op.inputs.size(), memory);
    void* outputs[2] = {memory, memory + (1 << 15)}; // a state that goes out is not where one comes in
    for (size_t i = 0; i < inputs.size(); ++i)
    {
        if (!std::strcmp(op.inputs[i], "tail") || !std::strcmp(op.inputs[i], "initial")
            || (op.plain && i >= 5)) // skip and bias
            continue;                // null stands for zeros
        auto missing = inputs;
        missing[i] = nullptr;
        int32_t const code = node.runtime().enqueue(t.in(), t.out(), missing.data(), outputs, memory, nullptr);
        check(code != 0 && !log.last.empty(), name + "no memory for " + op.inputs[i] + " is refused: " + log.last);
        log.last.clear();
    }
    if (op.scan)
    {
        int32_t const code = node.runtime().enqueue(t.in(), t.out(), inputs.data(), outputs, nullptr, nullptr);
        check(code == VIVIM_BAD_WORKSPACE && !log.last.empty(), name + "no workspace is refused: " + log.last);
        log.last.clear();
    }
    if (op.outputs == 2)
    {
        void* shared[2] = {memory, memory};
        int32_t const code = node.runtime().enqueue(t.in(), t.out(), inputs.data(), shared, memory, nullptr);
        check(code != 0 && taken(log, "final shares memory with initial"), name + "a state in place is refused");
    }
    t.all[0].dims.d[1] += 1;
    check(node.runtime().enqueue(t.in(), t.out(), inputs.data(), outputs, memory, nullptr) != 0
            && taken(log, "; expected "),
        name + "enqueue refuses shapes that onShapeChange was not shown");
}

void checkAllocations(Node const& node, Operator const& op)
{
    Tensors const tensors = op.tensors({}, DataType::kHALF);
    long const before = gAllocations;
    bool const good = shapeChange(node, tensors) == 0 && gAllocations == before;
    check(good, std::string(op.name) + ": checking good shapes allocates nothing");
}

} // namespace

// Replaces the whole process's. Not inlined: g++ would take the pairs of new and free for mismatched.
__attribute__((noinline)) void* operator new(size_t size)
{
    ++gAllocations;
    if (void* const memory = std::malloc(size ? size : 1))
        return memory;
    throw std::bad_alloc();
}
__attribute__((noinline)) void operator delete(void* memory) noexcept { std::free(memory); }
__attribute__((noinline)) void operator delete(void* memory, size_t) noexcept { std::free(memory); }

int main(int argc, char** argv)
{
    if (argc != 2)
    {
        std::fprintf(stderr, "usage: vivim_trt_host_test LIBRARY\n");
        return 2;
    }
    std::setvbuf(stdout, nullptr, _IOLBF, 0);
    try
    {
        Library const library(argv[1]);
        Log log;
        check(!library.creator("SelectiveScan").createPlugin("layer", nullptr, TensorRTPhase::kBUILD),
            "without a logger, a message goes to stderr");
        library.setLoggerFinder(&log);
        checkLibrary(library);
        for (Operator const& op : kOperators)
        {
            checkCreator(library, op);
            (op.plain ? checkWrongPlainFields : checkWrongFields)(library, log, op);
            Node const node = makeGood(library, op);
            checkFormats(node, log, op);
            checkOutputShape(node, log, op);
            checkWrongShapes(node, log, op);
            checkCounts(node, log, op);
            checkDynamicSizes(node, log, op);
            checkTactics(node, log, op);
            checkCopies(library, op);
            checkEnqueueErrors(node, log, op);
            checkAllocations(node, op);
        }
        check(log.last.empty(), "nothing was logged but what was refused");
        library.setLoggerFinder(nullptr);
    }
    catch (std::exception const& error)
    {
        std::printf("FAIL %s\n", error.what());
        return 1;
    }
    std::printf(
        "all checks passed with TensorRT headers %d.%d.%d\n", NV_TENSORRT_MAJOR, NV_TENSORRT_MINOR, NV_TENSORRT_PATCH);
}
