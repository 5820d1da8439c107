// What of ONNX Runtime's C interface an operator library needs, declared by hand: no header or library of ONNX Runtime
// is needed to build. The interface is a table of functions which only ever grows (ONNX Runtime asserts the positions
// of each release when it is compiled), so that what is here works with ONNX Runtime 1.18 and everything later.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C"
{
struct OrtApi;    // the table
struct OrtStatus; // null is success
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtMemoryInfo;
struct OrtValue;
struct OrtTensorTypeAndShapeInfo;
struct OrtShapeInferContext;

struct OrtApiBase
{
    OrtApi const* (*getApi)(uint32_t version);
    char const* (*getVersionString)();
};

// Later versions have more behind these.
struct OrtAllocator
{
    uint32_t version;
    void* (*allocate)(OrtAllocator*, size_t);
    void (*release)(OrtAllocator*, void*);
    OrtMemoryInfo const* (*info)(OrtAllocator const*);
};

// Operators call back through these. A null function is one that the operator does not have.
struct OrtCustomOp
{
    uint32_t version;
    void* (*createKernel)(OrtCustomOp const*, OrtApi const*, OrtKernelInfo const*);
    char const* (*name)(OrtCustomOp const*);
    char const* (*executionProvider)(OrtCustomOp const*); // null: the CPU
    int (*inputType)(OrtCustomOp const*, size_t);
    size_t (*inputCount)(OrtCustomOp const*);
    int (*outputType)(OrtCustomOp const*, size_t);
    size_t (*outputCount)(OrtCustomOp const*);
    void (*compute)(void*, OrtKernelContext*);
    void (*destroyKernel)(void*);
    int (*inputCharacteristic)(OrtCustomOp const*, size_t);
    int (*outputCharacteristic)(OrtCustomOp const*, size_t);
    int (*inputMemory)(OrtCustomOp const*, size_t);
    int (*variadicInputLeast)(OrtCustomOp const*);
    int (*variadicInputHomogeneous)(OrtCustomOp const*);
    int (*variadicOutputLeast)(OrtCustomOp const*);
    int (*variadicOutputHomogeneous)(OrtCustomOp const*);
    OrtStatus* (*createKernelV2)(OrtCustomOp const*, OrtApi const*, OrtKernelInfo const*, void**);
    OrtStatus* (*computeV2)(void*, OrtKernelContext*);
    OrtStatus* (*inferShapes)(OrtCustomOp const*, OrtShapeInferContext*);
    int (*startVersion)(OrtCustomOp const*);
    int (*endVersion)(OrtCustomOp const*);
    size_t (*mayInplace)(int**, int**);
    void (*releaseMayInplace)(int*, int*);
    size_t (*aliases)(int**, int**);
    void (*releaseAliases)(int*, int*);
};
static_assert(sizeof(OrtCustomOp) == 26 * sizeof(void*), "the layout is ONNX Runtime's");
} // extern "C"

namespace vivim::ort
{
constexpr uint32_t kApiVersion = 18; // the oldest ONNX Runtime that is served
constexpr int kRequired = 0;         // characteristic of an input or output
constexpr int kMayBeAbsent = 1;      // of an input that a node may leave out
constexpr int kFail = 1;             // ORT_FAIL

// ONNXTensorElementDataType
constexpr int kFloat = 1, kFloat16 = 10, kBfloat16 = 16;

// One function of the table: its position and type.
template <size_t Position, class Function> struct Entry;
template <size_t Position, class Result, class... Arguments> struct Entry<Position, Result(Arguments...)>
{
    static constexpr size_t kPosition = Position;
    using Pointer = Result (*)(Arguments...);

    Result operator()(OrtApi const* api, Arguments... arguments) const
    {
        return reinterpret_cast<Pointer const*>(api)[Position](arguments...);
    }
};

inline constexpr Entry<0, OrtStatus*(int code, char const* message)> createStatus;
inline constexpr Entry<2, char const*(OrtStatus const*)> errorMessage;
inline constexpr Entry<26, OrtStatus*(char const* domain, OrtCustomOpDomain** out)> createCustomOpDomain;
inline constexpr Entry<27, OrtStatus*(OrtCustomOpDomain*, OrtCustomOp const*)> customOpDomainAdd;
inline constexpr Entry<28, OrtStatus*(OrtSessionOptions*, OrtCustomOpDomain*)> addCustomOpDomain;
inline constexpr Entry<51, OrtStatus*(OrtValue*, void** out)> getTensorMutableData;
inline constexpr Entry<57, OrtStatus*(OrtTensorTypeAndShapeInfo** out)> createTensorTypeAndShapeInfo;
inline constexpr Entry<58, OrtStatus*(OrtTensorTypeAndShapeInfo*, int type)> setTensorElementType;
inline constexpr Entry<59, OrtStatus*(OrtTensorTypeAndShapeInfo*, int64_t const* dims, size_t)> setDimensions;
inline constexpr Entry<60, OrtStatus*(OrtTensorTypeAndShapeInfo const*, int* out)> getTensorElementType;
inline constexpr Entry<61, OrtStatus*(OrtTensorTypeAndShapeInfo const*, size_t* out)> getDimensionsCount;
inline constexpr Entry<62, OrtStatus*(OrtTensorTypeAndShapeInfo const*, int64_t* dims, size_t)> getDimensions;
inline constexpr Entry<63, OrtStatus*(OrtTensorTypeAndShapeInfo const*, char const** names, size_t)>
    getSymbolicDimensions;
inline constexpr Entry<65, OrtStatus*(OrtValue const*, OrtTensorTypeAndShapeInfo** out)> getTensorTypeAndShape;
inline constexpr Entry<85, OrtStatus*(OrtKernelInfo const*, char const*, float* out)> kernelInfoFloat;
inline constexpr Entry<86, OrtStatus*(OrtKernelInfo const*, char const*, int64_t* out)> kernelInfoInt;
inline constexpr Entry<90, OrtStatus*(OrtKernelContext const*, size_t, OrtValue const** out)> kernelContextInput;
inline constexpr Entry<91, OrtStatus*(OrtKernelContext*, size_t, int64_t const* dims, size_t, OrtValue** out)>
    kernelContextOutput;
inline constexpr Entry<93, void(OrtStatus*)> releaseStatus;
inline constexpr Entry<99, void(OrtTensorTypeAndShapeInfo*)> releaseTensorTypeAndShapeInfo;
inline constexpr Entry<132, void(OrtAllocator*)> releaseAllocator;
inline constexpr Entry<163, OrtStatus*(OrtKernelInfo const*, char const*, int64_t* out, size_t* count)> kernelInfoInts;
inline constexpr Entry<193, OrtStatus*(OrtKernelContext const*, void** stream)> kernelContextStream;
inline constexpr Entry<194, OrtStatus*(OrtValue const*, OrtMemoryInfo const** out)> tensorMemoryInfo;
inline constexpr Entry<253, OrtStatus*(OrtKernelContext const*, OrtMemoryInfo const*, OrtAllocator** out)>
    kernelContextAllocator;
inline constexpr Entry<268, OrtStatus*(OrtShapeInferContext const*, size_t, OrtTensorTypeAndShapeInfo** out)>
    shapeInferInput;
inline constexpr Entry<270, OrtStatus*(OrtShapeInferContext const*, size_t, OrtTensorTypeAndShapeInfo const*)>
    shapeInferSetOutput;
inline constexpr Entry<271, OrtStatus*(OrtTensorTypeAndShapeInfo*, char const** names, size_t)> setSymbolicDimensions;
inline constexpr Entry<274,
    OrtStatus*(OrtKernelContext const*, void (*)(void*, size_t), size_t total, size_t batches, void* data)>
    parallelFor;
} // namespace vivim::ort
