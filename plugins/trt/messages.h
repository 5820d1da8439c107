// Errors within the plugin are exceptions; here they become what TensorRT takes: a code, and a line in its log.
#pragma once

#include <cstdint>
#include <exception>
#include <stdexcept>
#include <string>

#include "NvInfer.h"
#include "vivim_kernels.h"

namespace vivim::trt
{

// Something that the plugin cannot take. The message says what was received, what was expected and, for a tensor, its
// name; the code is what TensorRT gets back.
class Refusal : public std::runtime_error
{
public:
    explicit Refusal(std::string const& message, int32_t code = VIVIM_BAD_ARGUMENT)
        : std::runtime_error(message),
          mCode(code)
    {
    }

    int32_t code() const noexcept { return mCode; }

private:
    int32_t mCode;
};

// An exception that is none of ours: out of memory, in practice.
constexpr int32_t kUnexpected = 100;

// Where TensorRT keeps its loggers; null takes them away.
void setFinder(nvinfer1::ILoggerFinder* finder) noexcept;

// Log an error in the name of an operator: to TensorRT's logger, or to stderr while there is none.
void reportError(char const* name, char const* message) noexcept;

// The body of a method that returns a status: 0, or the code of what was thrown.
template <class Body>
int32_t statusOf(char const* name, Body&& body) noexcept
{
    try
    {
        body();
        return 0;
    }
    catch (Refusal const& refusal)
    {
        reportError(name, refusal.what());
        return refusal.code();
    }
    catch (std::exception const& error)
    {
        reportError(name, error.what());
    }
    catch (...)
    {
        reportError(name, "an unknown exception");
    }
    return kUnexpected;
}

// The body of a method that returns a value: what it returns, or `failure` where it throws.
template <class Value, class Body>
Value valueOf(char const* name, Value failure, Body&& body) noexcept
{
    Value value = failure;
    return statusOf(name, [&] { value = body(); }) == 0 ? value : failure;
}

} // namespace vivim::trt
