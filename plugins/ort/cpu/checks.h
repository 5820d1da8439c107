// What an operation cannot take is refused with what was received and expected.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>

namespace vivim::cpu
{
inline void expect(bool good, char const* what, int64_t value, std::string const& expected)
{
    if (!good)
        throw std::invalid_argument(std::string(what) + " is " + std::to_string(value) + "; expected " + expected);
}

inline void expectPointers(std::initializer_list<void const*> pointers)
{
    for (void const* const pointer : pointers)
        if (!pointer)
            throw std::invalid_argument("a tensor is null; expected all of them");
}
} // namespace vivim::cpu
