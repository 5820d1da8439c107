#include "context.h"

#include <limits>
#include <new>

namespace vivim::ort
{
namespace
{
std::string text(Shape const& shape)
{
    std::string result = "(";
    for (int64_t const dim : shape)
        result += (result.size() > 1 ? ", " : "") + std::to_string(dim);
    return result + ")";
}
} // namespace

void check(OrtApi const* api, OrtStatus* status)
{
    if (!status)
        return;
    std::string const message = errorMessage(api, status);
    releaseStatus(api, status);
    throw std::runtime_error(message);
}

Shape shapeOf(OrtApi const* api, OrtTensorTypeAndShapeInfo const* info)
{
    size_t count = 0;
    check(api, getDimensionsCount(api, info, &count));
    Shape shape(count);
    check(api, getDimensions(api, info, shape.data(), count));
    return shape;
}

void expectRank(char const* name, Shape const& shape, size_t rank)
{
    if (shape.size() != rank)
        throw std::invalid_argument(std::string("input ") + name + " has shape " + text(shape) + "; expected "
            + std::to_string(rank) + " dimensions");
}

void expectShape(char const* name, Shape const& shape, Shape const& expected)
{
    if (shape != expected)
        throw std::invalid_argument(
            std::string("input ") + name + " has shape " + text(shape) + "; expected " + text(expected));
}

int32_t narrowed(char const* name, int64_t value)
{
    if (value < 0 || value > std::numeric_limits<int32_t>::max())
        throw std::invalid_argument(std::string(name) + " is " + std::to_string(value) + "; expected 0 to 2^31 - 1");
    return int32_t(value);
}

Room::Room(OrtApi const* api, OrtKernelContext* context, OrtMemoryInfo const* memory, size_t bytes) : m_api(api)
{
    if (bytes == 0)
        return;
    check(api, kernelContextAllocator(api, context, memory, &m_allocator));
    m_data = m_allocator->allocate(m_allocator, bytes);
    if (m_data)
        return;
    releaseAllocator(m_api, m_allocator);
    throw std::bad_alloc();
}

Room::~Room()
{
    if (!m_allocator)
        return;
    m_allocator->release(m_allocator, m_data);
    releaseAllocator(m_api, m_allocator);
}

Tensor Context::input(size_t index) const
{
    OrtValue const* value = nullptr;
    check(api, kernelContextInput(api, context, index, &value));
    if (!value)
        return {nullptr, {}, nullptr};
    OrtTensorTypeAndShapeInfo* info = nullptr;
    check(api, getTensorTypeAndShape(api, value, &info));
    Tensor tensor{nullptr, {}, nullptr};
    OrtStatus* const status = guarded(api, [&] { tensor.shape = shapeOf(api, info); });
    releaseTensorTypeAndShapeInfo(api, info);
    check(api, status);
    void* data = nullptr;
    check(api, getTensorMutableData(api, const_cast<OrtValue*>(value), &data));
    tensor.data = data;
    check(api, tensorMemoryInfo(api, value, &tensor.memory));
    return tensor;
}

void* Context::output(size_t index, Shape const& shape) const
{
    OrtValue* value = nullptr;
    check(api, kernelContextOutput(api, context, index, shape.data(), shape.size(), &value));
    void* data = nullptr;
    check(api, getTensorMutableData(api, value, &data));
    return data;
}

void SessionThreads::run(int64_t count, Task task, void const* operation)
{
    struct Work
    {
        Task task;
        void const* operation;
    } work{task, operation};
    auto const one = [](void* data, size_t index) {
        auto const& some = *static_cast<Work const*>(data);
        some.task(some.operation, int64_t(index));
    };
    check(m_context.api, parallelFor(m_context.api, m_context.context, one, size_t(count), 0, &work));
}

void* SessionThreads::room(size_t bytes)
{
    m_room.reset();
    m_room = std::make_unique<Room>(m_context.api, m_context.context, m_memory, bytes);
    return m_room->data();
}

// ONNX Runtime does not tell; at most this many are of use.
int64_t SessionThreads::threads() const { return cpu::processors(); }
} // namespace vivim::ort
