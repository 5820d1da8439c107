// Runs every tactic, type and some odd shapes in buffers of the exact size, for AddressSanitizer and
// UndefinedBehaviorSanitizer to watch, without a state and with one, and the plain scan. With the argument "overrun", y is
// one row too short, with "overrun state" the state that goes out, with "overread state" the one that comes in, with
// "overread plain" the plain scan's C: the sanitizer must say so.
#include "vivim_kernels.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

namespace
{
struct Free
{
    void operator()(char* p) const { ::operator delete[](p, std::align_val_t(16)); }
};
using Buffer = std::unique_ptr<char[], Free>;

// Small numbers of either sign; as float or as two halves they are all harmless.
Buffer filled(size_t bytes, bool isFloat)
{
    Buffer b(static_cast<char*>(::operator new[](bytes, std::align_val_t(16))));
    for (size_t i = 0; i < bytes / 4; ++i)
    {
        float const f = float(int(i * 2654435761u >> 20) % 2001 - 1000) / 1000.f;
        uint32_t const halves = 0x38003400u ^ uint32_t(i * 40503u & 0x80008000u); // 0.5 and 0.25 as float16
        if (isFloat)
            std::memcpy(b.get() + 4 * i, &f, 4);
        else
            std::memcpy(b.get() + 4 * i, &halves, 4);
    }
    if (bytes % 4)
        std::memset(b.get() + bytes / 4 * 4, 0, bytes % 4);
    return b;
}

void check(int32_t status)
{
    if (status)
        std::fprintf(stderr, "%s\n", vivim_kernels_error()), std::exit(1);
}

// What is one row too short.
struct Missing { size_t y, initial, final; };

void runScan(vivim_scan_desc const& d, int tactic, Missing missing)
{
    size_t const e = d.dtype == VIVIM_FLOAT32 ? 4 : 2, k = d.direction_count, w = d.width;
    size_t const tokens = size_t(d.batch) * d.length, bytes = vivim_scan_workspace(&d, tactic);
    bool const isFloat = e == 4;
    Buffer const xc = filled((d.shared_input ? 1 : k) * tokens * w * e, isFloat);
    Buffer const dbc = filled(k * tokens * (d.rank + 2 * d.states) * e, isFloat);
    Buffer const xz = d.gate_width ? filled(tokens * d.gate_width * e, isFloat) : nullptr;
    Buffer const a = filled(k * w * d.states * 4, true), weight = filled(k * w * d.rank * 4, true);
    for (size_t i = 0; i < k * w * d.states; ++i)
        reinterpret_cast<float*>(a.get())[i] -= 1.5f;
    Buffer const bias = filled(k * w * 4, true), skip = filled(k * w * 4, true);
    Buffer const y = filled(tokens * w * e - missing.y * w * e, isFloat), workspace = filled(bytes, false);
    size_t const state = size_t(d.batch) * d.states * w * 4;
    Buffer const initial = filled(state - missing.initial * w * 4, true),
                 last = filled(state - missing.final * w * 4, true);
    auto const floats = [](Buffer const& b) { return reinterpret_cast<float const*>(b.get()); };
    check(vivim_selective_scan(&d, tactic, xc.get(), dbc.get(), xz.get(), floats(a), floats(weight), floats(bias),
        floats(skip), y.get(), workspace.get(), bytes, nullptr));
    check(vivim_streaming_scan(&d, tactic, xc.get(), dbc.get(), xz.get(), floats(a), floats(weight), floats(bias),
        floats(skip), floats(initial), y.get(), reinterpret_cast<float*>(last.get()), workspace.get(), bytes, nullptr));
}

// All buffers begin at the first element that they may: only the plain scan reads rows that are aligned to nothing.
void runPlain(vivim_s6_desc const& d, int tactic, bool withVectors, bool shortC)
{
    size_t const e = d.dtype == VIVIM_FLOAT32 ? 4 : 2, tokens = size_t(d.batch) * d.length;
    size_t const columns = tokens * d.groups * d.states * e, bytes = vivim_s6_workspace(&d, tactic);
    bool const isFloat = e == 4;
    Buffer const u = filled(tokens * d.width * e, isFloat), delta = filled(tokens * d.width * e, isFloat);
    Buffer const B = filled(columns, isFloat), C = filled(columns - (shortC ? d.length * e : 0), isFloat);
    Buffer const A = filled(size_t(d.width) * d.states * 4, true), skip = filled(d.width * 4, true);
    Buffer const bias = filled(d.width * 4, true), y = filled(tokens * d.width * e, isFloat);
    Buffer const workspace = filled(bytes, false);
    for (size_t i = 0; i < size_t(d.width) * d.states; ++i)
        reinterpret_cast<float*>(A.get())[i] -= 1.5f;
    auto const floats = [](Buffer const& b) { return reinterpret_cast<float const*>(b.get()); };
    check(vivim_s6_scan(&d, tactic, u.get(), delta.get(), B.get(), C.get(), floats(A),
        withVectors ? floats(skip) : nullptr, withVectors ? floats(bias) : nullptr, y.get(), workspace.get(), bytes,
        nullptr));
}

void runConv(vivim_conv_desc const& d)
{
    size_t const e = d.dtype == VIVIM_FLOAT32 ? 4 : 2, k = d.direction_count, tokens = size_t(d.batch) * d.length;
    Buffer const x = filled(tokens * d.x_width * e, e == 4), weight = filled(k * d.width * 16, true);
    Buffer const bias = filled(k * d.width * 4, true), xc = filled(k * tokens * d.width * e, e == 4);
    check(vivim_causal_conv1d(&d, x.get(), reinterpret_cast<float const*>(weight.get()),
        reinterpret_cast<float const*>(bias.get()), xc.get(), nullptr));
    Buffer const tail = filled(size_t(d.batch) * 3 * d.width * e, e == 4);
    check(vivim_streaming_conv1d(&d, x.get(), tail.get(), reinterpret_cast<float const*>(weight.get()),
        reinterpret_cast<float const*>(bias.get()), xc.get(), nullptr));
}
} // namespace

int main(int count, char** arguments)
{
    char const* const asked = count > 1 ? arguments[1] : "";
    Missing const missing{
        !std::strcmp(asked, "overrun"), !std::strcmp(asked, "overread state"), !std::strcmp(asked, "overrun state")};
    // batch, length, width, rows, rank, states, K, directions, shared, mean, gate, dtype
    vivim_scan_desc const scans[] = {
        {1, 165, 24, 5, 8, 16, 3, {0, 1, 2}, 0, 1, 48, VIVIM_FLOAT16},
        {2, 33, 8, 3, 7, 5, 4, {0, 2, 1, 3}, 1, 0, 17, VIVIM_BFLOAT16},
        {1, 130, 40, 1, 63, 16, 1, {3}, 0, 1, 0, VIVIM_FLOAT16},
        {1, 20, 16, 20, 3, 16, 2, {1, 3}, 0, 1, 32, VIVIM_FLOAT32},
        {1, 1, 8, 1, 64, 1, 1, {2}, 0, 1, 0, VIVIM_FLOAT32},
    };
    int runs = 0;
    for (vivim_scan_desc const& d : scans)
        for (int tactic = 0; tactic < vivim_scan_tactic_count(); ++tactic, ++runs)
            runScan(d, tactic, missing);
    // batch, length, width, groups, states, softplus, dtype: the states of every kernel, odd lengths
    vivim_s6_desc const plains[] = {
        {2, 97, 10, 2, 1, 1, VIVIM_FLOAT16},
        {1, 70, 7, 1, 5, 1, VIVIM_BFLOAT16},
        {2, 33, 6, 3, 16, 1, VIVIM_FLOAT32},
        {1, 131, 35, 1, 20, 0, VIVIM_FLOAT16},
        {1, 1, 9, 1, 70, 1, VIVIM_FLOAT32},
        {1, 40, 9, 1, 256, 1, VIVIM_BFLOAT16},
    };
    bool const shortC = !std::strcmp(asked, "overread plain");
    for (vivim_s6_desc const& d : plains)
        for (int tactic = 0; tactic < vivim_s6_tactic_count(); ++tactic, ++runs)
            runPlain(d, tactic, tactic % 2 == 0, shortC);
    vivim_conv_desc const convolutions[] = {
        {2, 165, 24, 5, 48, 4, {0, 1, 2, 3}, VIVIM_FLOAT16},
        {1, 33, 8, 3, 9, 2, {2, 1}, VIVIM_BFLOAT16},
        {1, 2, 72, 2, 72, 1, {3}, VIVIM_FLOAT32},
    };
    for (vivim_conv_desc const& d : convolutions)
        runConv(d), ++runs;
    std::printf("%d runs without a finding\n", runs);
}
