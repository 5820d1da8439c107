// A node's call, as its operator sees it: tensors in and out, the session's threads, memory of the session's allocators.
#pragma once

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "../cpu/kernels.h"
#include "abi.h"

namespace vivim::ort
{
using Shape = std::vector<int64_t>;

// Throws what ONNX Runtime says.
void check(OrtApi const* api, OrtStatus* status);

// Runs a callback's body; an exception becomes a status, since none may pass through C.
template <class Body> OrtStatus* guarded(OrtApi const* api, Body&& body)
{
    try
    {
        body();
        return nullptr;
    }
    catch (std::exception const& error)
    {
        return createStatus(api, kFail, error.what());
    }
}

Shape shapeOf(OrtApi const* api, OrtTensorTypeAndShapeInfo const* info);

void expectRank(char const* name, Shape const& shape, size_t rank);
void expectShape(char const* name, Shape const& shape, Shape const& expected);
// A number as the kernels take it.
int32_t narrowed(char const* name, int64_t value);

struct Tensor
{
    void const* data;
    Shape shape;
    OrtMemoryInfo const* memory; // where it lies
};

// Memory of the session, given back at the end.
class Room
{
public:
    Room(OrtApi const* api, OrtKernelContext* context, OrtMemoryInfo const* memory, size_t bytes);
    ~Room();
    Room(Room const&) = delete;
    Room& operator=(Room const&) = delete;
    void* data() const { return m_data; }

private:
    OrtApi const* m_api;
    OrtAllocator* m_allocator = nullptr;
    void* m_data = nullptr;
};

class Context
{
public:
    Context(OrtApi const* table, OrtKernelContext* call) : api(table), context(call) {}

    // Without data where a node leaves it out.
    Tensor input(size_t index) const;
    void* output(size_t index, Shape const& shape) const;

    OrtApi const* const api;
    OrtKernelContext* const context;
};

// The threads of the session.
class SessionThreads final : public cpu::Workers
{
public:
    // `memory`: of the tensors, on the CPU.
    SessionThreads(Context const& context, OrtMemoryInfo const* memory) : m_context(context), m_memory(memory) {}

    void run(int64_t count, Task task, void const* operation) override;
    void* room(size_t bytes) override;
    int64_t threads() const override;

private:
    Context const& m_context;
    OrtMemoryInfo const* m_memory;
    std::unique_ptr<Room> m_room;
};
} // namespace vivim::ort
