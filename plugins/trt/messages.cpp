#include "messages.h"

#include <atomic>
#include <cstdio>

namespace vivim::trt
{
namespace
{

// Set when TensorRT loads the library, read by whichever thread has something to say.
std::atomic<nvinfer1::ILoggerFinder*> gFinder{nullptr};

nvinfer1::ILogger* findLogger()
{
    nvinfer1::ILoggerFinder* const finder = gFinder.load();
    return finder ? finder->findLogger() : nullptr;
}

} // namespace

void setFinder(nvinfer1::ILoggerFinder* finder) noexcept { gFinder.store(finder); }

void reportError(char const* name, char const* message) noexcept
{
    try
    {
        std::string const line = std::string("vivim::") + name + ": " + message;
        if (nvinfer1::ILogger* const logger = findLogger())
            logger->log(nvinfer1::ILogger::Severity::kERROR, line.c_str());
        else
            std::fprintf(stderr, "%s\n", line.c_str());
    }
    catch (...)
    {
        std::fprintf(stderr, "vivim::%s: %s\n", name, message);
    }
}

} // namespace vivim::trt
