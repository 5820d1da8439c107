// The kernels as plain functions, on threads of their own.
#include "vivim_ort.h"

#include <atomic>
#include <cstdlib>
#include <exception>
#include <new>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "cpu/gradients.h"
#include "cpu/kernels.h"
#include "cpu/operations.h"
#include "cpu/s6.h"
#include "cuda/library.h"

namespace vivim::cpu
{
namespace
{
// Starts threads for every call: some 50 us, where the shortest operator worth having takes milliseconds, and nothing
// is left behind in a process that forks.
class OwnThreads final : public Workers
{
public:
    explicit OwnThreads(int32_t threads) : m_threads(threads > 0 ? threads : processors()) {}
    ~OwnThreads() override { std::free(m_room); }

    void run(int64_t count, Task task, void const* operation) override
    {
        std::atomic<int64_t> next{0};
        auto const work = [&] {
            for (int64_t i; (i = next.fetch_add(1)) < count;)
                task(operation, i);
        };
        std::vector<std::thread> others;
        int64_t const helpers = (count < m_threads ? count : m_threads) - 1;
        try
        {
            for (int64_t i = 0; i < helpers; ++i)
                others.emplace_back(work);
        }
        catch (std::system_error const&)
        {
            // The system gives no more threads: those that there are do the work.
        }
        work();
        for (std::thread& other : others)
            other.join();
    }

    void* room(size_t bytes) override
    {
        std::free(m_room);
        m_room = nullptr;
        if (posix_memalign(&m_room, 64, bytes))
            throw std::bad_alloc();
        return m_room;
    }

    int64_t threads() const override { return m_threads; }

private:
    int64_t m_threads;
    void* m_room = nullptr;
};

thread_local std::string message;

template <class Body> int32_t guarded(Body&& body)
{
    try
    {
        body();
        return VIVIM_OK;
    }
    catch (std::exception const& error)
    {
        message = error.what();
        return VIVIM_BAD_ARGUMENT;
    }
}
} // namespace
} // namespace vivim::cpu

extern "C"
{
char const* vivim_ort_version() { return VIVIM_VERSION; }

char const* vivim_ort_instruction_set() { return vivim::cpu::kernels().name; }

char const* vivim_ort_cuda_kernels() { return vivim::cuda::library() ? vivim::cuda::library()->path.c_str() : nullptr; }

int32_t vivim_cpu_causal_conv1d(vivim_conv_desc const* desc, int32_t taps, void const* x, float const* weight,
    float const* bias, void* xc, int32_t threads)
{
    using namespace vivim::cpu;
    return guarded([&] {
        OwnThreads workers(threads);
        convolve(convOf(*desc, taps, x, weight, bias, xc), workers);
    });
}

int32_t vivim_cpu_selective_scan(vivim_scan_desc const* desc, void const* xc, void const* dbc, void const* xz,
    float const* A_log2e, float const* dt_weight, float const* dt_bias, float const* d_skip, void* y, int32_t threads)
{
    using namespace vivim::cpu;
    return guarded([&] {
        OwnThreads workers(threads);
        scan(scanOf(*desc, xc, dbc, xz, A_log2e, dt_weight, dt_bias, d_skip, y), workers);
    });
}

int32_t vivim_cpu_streaming_conv1d(vivim_conv_desc const* desc, int32_t taps, void const* x, void const* tail,
    float const* weight, float const* bias, void* xc, int32_t threads)
{
    using namespace vivim::cpu;
    return guarded([&] {
        OwnThreads workers(threads);
        convolve(convOf(*desc, taps, x, weight, bias, xc, tail), workers);
    });
}

int32_t vivim_cpu_streaming_scan(vivim_scan_desc const* desc, void const* xc, void const* dbc, void const* xz,
    float const* A_log2e, float const* dt_weight, float const* dt_bias, float const* d_skip, float const* initial,
    void* y, float* final, int32_t threads)
{
    using namespace vivim::cpu;
    return guarded([&] {
        OwnThreads workers(threads);
        scan(scanOf(*desc, xc, dbc, xz, A_log2e, dt_weight, dt_bias, d_skip, y, initial, final), workers);
    });
}

int32_t vivim_cpu_s6_scan(vivim_s6_desc const* desc, void const* u, void const* delta, void const* B, void const* C,
    float const* A, float const* skip, float const* bias, void* y, int32_t threads)
{
    using namespace vivim::cpu;
    return guarded([&] {
        OwnThreads workers(threads);
        scanS6(s6Of(*desc, u, delta, B, C, A, skip, bias, y), workers);
    });
}

int32_t vivim_cpu_scan_gradients(vivim_gradients_desc const* desc, float const* dt, float const* u, float const* B,
    float const* C, float const* A_log2e, float const* skip, float const* initial, float const* grad, float* y,
    float* grad_dt, float* grad_u, float* grad_B, float* grad_C, float* grad_A, int32_t threads)
{
    using namespace vivim::cpu;
    return guarded([&] {
        OwnThreads workers(threads);
        scanGradients({dt, u, B, C, A_log2e, skip, initial, grad, y, grad_dt, grad_u, grad_B, grad_C, grad_A,
                          desc->sequences, desc->length, desc->width, desc->states, nullptr, nullptr},
            workers);
    });
}

char const* vivim_cpu_error() { return vivim::cpu::message.c_str(); }
}
