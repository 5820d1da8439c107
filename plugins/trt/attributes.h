// What a node says besides its tensors, as named plugin fields: read by the creators, written into engines.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "NvInfer.h"
#include "vivim_kernels.h"

namespace vivim::trt
{

struct Attributes
{
    int32_t rows = 0;                                       // of the token grid; columns = L / rows
    int32_t directionCount = 0;                             // K
    std::array<int32_t, VIVIM_MAX_DIRECTIONS> directions{}; // codes of vivim_kernels.h; the first K count
    int32_t mean = 0;                                       // SelectiveScan: 1 averages the directions, 0 adds them
    int32_t softplus = 0;                                   // S6Scan: whether time steps go through it
};

// Which of all fields an operator has. SelectiveScan's are CausalConv1d's and `mean`; S6Scan knows of no directions.
struct FieldRange { int32_t first, count; };
constexpr FieldRange kConvFields{0, 2}, kScanFields{0, 3}, kS6Fields{3, 1};
using Fields = std::array<nvinfer1::PluginField, 4>; // all of them: an operator's begin at its `first`

// One line that differs where two nodes compute differently.
std::string textOf(Attributes const& attributes, FieldRange range);

// The fields as a creator lists them: names without values.
Fields listFields();

// The fields of a node, integers of 32 or 64 bits. Throws Refusal for one that is missing, unknown, or has a value that
// it cannot have: an unknown one may come from a later version, where it changes what is computed.
Attributes readFields(nvinfer1::PluginFieldCollection const* fields, FieldRange range);

// The fields that give `attributes` when read; they point into it.
Fields writeFields(Attributes const& attributes);

} // namespace vivim::trt
