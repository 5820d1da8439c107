// What TensorRT looks up when it loads the library: getCreators, whose creators it registers, and setLoggerFinder.
// Nothing of libnvinfer is linked: all of TensorRT that is used is in its headers.

#include "causal_conv1d.h"
#include "host_version.h"
#include "messages.h"
#include "s6_scan.h"
#include "selective_scan.h"

#include <cstdio>

namespace vivim::trt
{
namespace
{

using namespace nvinfer1;

// Makes an operator from a node's attributes, and anew from an engine's fields: the two are the same.
template <class Operator>
class Creator final : public IPluginCreatorV3One
{
public:
    IPluginV3* createPlugin(AsciiChar const*, PluginFieldCollection const* fields, TensorRTPhase) noexcept override
    {
        return valueOf<IPluginV3*>(
            kName, nullptr, [&] { return new Operator(readFields(fields, Operator::kSignature.fields)); });
    }

    // TensorRT's ONNX parser takes from a node the attributes that are listed here.
    PluginFieldCollection const* getFieldNames() noexcept override { return &mCollection; }
    AsciiChar const* getPluginName() const noexcept override { return kName; }
    AsciiChar const* getPluginVersion() const noexcept override { return kVersion; }
    AsciiChar const* getPluginNamespace() const noexcept override { return kNamespace; }

private:
    static constexpr char const* kName = Operator::kSignature.name;

    Fields mFields = listFields();
    PluginFieldCollection mCollection{
        Operator::kSignature.fields.count, mFields.data() + Operator::kSignature.fields.first};
};

} // namespace
} // namespace vivim::trt

extern "C" VIVIM_API nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count)
{
    static vivim::trt::Creator<vivim::trt::CausalConv1d> conv;
    static vivim::trt::Creator<vivim::trt::SelectiveScan> scan;
    static vivim::trt::Creator<vivim::trt::StreamingConv1d> streamingConv;
    static vivim::trt::Creator<vivim::trt::StreamingScan> streamingScan;
    static vivim::trt::Creator<vivim::trt::S6Scan> s6Scan;
    static nvinfer1::IPluginCreatorInterface* const creators[] = {
        &conv, &scan, &streamingConv, &streamingScan, &s6Scan};
    count = 5;
    return creators;
}

// 100300 for the headers of TensorRT 10.3: whoever loads the library can compare it with what it is loaded into.
extern "C" VIVIM_API int32_t vivim_trt_headers_version() { return vivim::trt::kHeadersVersion; }

extern "C" VIVIM_API void setLoggerFinder(nvinfer1::ILoggerFinder* finder)
{
    // TensorRT 11 changed the interface of the logger and no other that is used here. A logger of the other kind would
    // crash at the first message, so that messages then go to stderr, as they do without one.
    Dl_info caller{};
    if (finder && dladdr(__builtin_return_address(0), &caller) && !vivim::trt::hostVersion(caller.dli_fname).fits())
    {
        std::fprintf(stderr,
            "libvivim_trt.so: built for TensorRT %d, loaded by %s; its messages go to stderr. Build it with the "
            "headers of that version\n",
            vivim::trt::kHeadersMajor, caller.dli_fname);
        finder = nullptr;
    }
    vivim::trt::setFinder(finder);
}
