#include "operators.h"

#include <stdexcept>
#include <string>

namespace vivim::ort
{
Attributes::Attributes(OrtApi const* api, OrtKernelInfo const* info)
{
    int64_t value = 0;
    check(api, kernelInfoInt(api, info, "rows", &value));
    rows = narrowed("rows", value);
    size_t count = 0;
    check(api, kernelInfoInts(api, info, "directions", nullptr, &count));
    if (count < 1 || count > VIVIM_MAX_DIRECTIONS)
        throw std::invalid_argument("directions has " + std::to_string(count) + " codes; expected 1 to 4");
    directions.resize(count);
    check(api, kernelInfoInts(api, info, "directions", directions.data(), &count));
    for (int64_t const code : directions)
        if (code < 0 || code > 3)
            throw std::invalid_argument("directions holds " + std::to_string(code) + "; expected codes of 0 to 3");
}
} // namespace vivim::ort
