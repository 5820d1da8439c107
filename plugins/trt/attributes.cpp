#include "attributes.h"

#include <cstring>
#include <limits>
#include <vector>

#include "messages.h"

namespace vivim::trt
{
namespace
{

using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;

constexpr std::array<char const*, std::tuple_size<Fields>::value> kNames{"rows", "directions", "mean", "softplus"};

// The integers of a field, whatever their width: ONNX has 64 bits, our creators list 32, and callers choose either.
std::vector<int64_t> integers(PluginField const& field)
{
    if (!field.data || field.length < 1)
        throw Refusal(std::string("attribute ") + field.name + " is empty; expected integers");
    std::vector<int64_t> values;
    for (int32_t i = 0; i < field.length; ++i)
    {
        if (field.type == PluginFieldType::kINT32)
            values.push_back(static_cast<int32_t const*>(field.data)[i]);
        else if (field.type == PluginFieldType::kINT64)
            values.push_back(static_cast<int64_t const*>(field.data)[i]);
        else
            throw Refusal(std::string("attribute ") + field.name + " has field type "
                + std::to_string(static_cast<int32_t>(field.type)) + "; expected INT32 or INT64");
    }
    return values;
}

int32_t inRange(char const* name, int64_t value, int64_t low, int64_t high)
{
    if (value < low || value > high)
        throw Refusal(std::string("attribute ") + name + " holds " + std::to_string(value) + "; expected "
            + std::to_string(low) + " to " + std::to_string(high));
    return static_cast<int32_t>(value);
}

int32_t single(char const* name, std::vector<int64_t> const& values, int64_t low, int64_t high)
{
    if (values.size() != 1)
        throw Refusal(
            std::string("attribute ") + name + " has " + std::to_string(values.size()) + " values; expected one");
    return inRange(name, values[0], low, high);
}

void setField(Attributes& attributes, PluginField const& field)
{
    std::vector<int64_t> const values = integers(field);
    if (!std::strcmp(field.name, "rows"))
    {
        attributes.rows = single(field.name, values, 1, std::numeric_limits<int32_t>::max());
    }
    else if (!std::strcmp(field.name, "mean"))
    {
        attributes.mean = single(field.name, values, 0, 1);
    }
    else if (!std::strcmp(field.name, "softplus"))
    {
        attributes.softplus = single(field.name, values, 0, 1);
    }
    else
    {
        if (values.size() > attributes.directions.size())
            throw Refusal("attribute directions has " + std::to_string(values.size()) + " values; expected 1 to "
                + std::to_string(attributes.directions.size()));
        attributes.directionCount = static_cast<int32_t>(values.size());
        for (size_t k = 0; k < values.size(); ++k)
            attributes.directions[k] = inRange(field.name, values[k], 0, 3);
    }
}

int32_t indexOf(char const* name, FieldRange range)
{
    for (int32_t i = range.first; i < range.first + range.count; ++i)
        if (name && !std::strcmp(name, kNames[i]))
            return i;
    throw Refusal(std::string("attribute ") + (name ? name : "without a name")
        + " is not one of this version's; was the model or the engine made for another?");
}

} // namespace

std::string textOf(Attributes const& attributes, FieldRange range)
{
    if (range.first == kS6Fields.first)
        return "softplus=" + std::to_string(attributes.softplus);
    std::string line = "rows=" + std::to_string(attributes.rows) + " directions=";
    for (int32_t k = 0; k < attributes.directionCount; ++k)
        line += (k ? "," : "") + std::to_string(attributes.directions[k]);
    return line + " mean=" + std::to_string(attributes.mean);
}

Fields listFields()
{
    Fields fields;
    for (size_t i = 0; i < fields.size(); ++i)
        fields[i] = PluginField{kNames[i], nullptr, PluginFieldType::kINT32, 1};
    return fields;
}

Attributes readFields(PluginFieldCollection const* fields, FieldRange range)
{
    Attributes attributes;
    std::array<bool, std::tuple_size<Fields>::value> seen{};
    for (int32_t i = 0; fields && i < fields->nbFields; ++i)
    {
        PluginField const& field = fields->fields[i];
        int32_t const index = indexOf(field.name, range);
        if (seen[index])
            throw Refusal(std::string("attribute ") + field.name + " is given twice");
        seen[index] = true;
        setField(attributes, field);
    }
    for (int32_t i = range.first; i < range.first + range.count; ++i)
        if (!seen[i])
            throw Refusal(std::string("attribute ") + kNames[i] + " is missing");
    return attributes;
}

Fields writeFields(Attributes const& attributes)
{
    return {PluginField{kNames[0], &attributes.rows, PluginFieldType::kINT32, 1},
        PluginField{kNames[1], attributes.directions.data(), PluginFieldType::kINT32, attributes.directionCount},
        PluginField{kNames[2], &attributes.mean, PluginFieldType::kINT32, 1},
        PluginField{kNames[3], &attributes.softplus, PluginFieldType::kINT32, 1}};
}

} // namespace vivim::trt
