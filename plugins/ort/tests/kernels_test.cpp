// The kernels against plain loops in double precision: kernels_test [quick]
//
// Shapes are those of the four stages of b3 and odd ones; `quick` leaves the long ones out, for sanitizers and emulated
// processors. Every case runs with several numbers of threads and with its tasks in another order, and must give the
// same bits. Prints a line a case; exit code 1 where one fails.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "../cpu/gradients.h"
#include "../cpu/kernels.h"
#include "../cpu/operations.h"
#include "../cpu/s6.h"
#include "../vivim_ort.h"

namespace
{
using Numbers = std::vector<float>;

int failures = 0;

void report(bool good, char const* what, std::string const& name, double value)
{
    std::printf("%-5s %-9s %-32s %.1e\n", good ? "ok" : "WRONG", what, name.c_str(), value);
    failures += !good;
}

// ---- numbers ----

uint64_t randomState = 1;

// Uniform in -1 .. 1.
float random()
{
    randomState = randomState * 6364136223846793005u + 1442695040888963407u;
    return float(int64_t(randomState) >> 40) * 0x1p-23f;
}

Numbers randoms(size_t count, float scale, float shift = 0.f)
{
    Numbers values(count);
    for (float& value : values)
        value = shift + scale * random();
    return values;
}

// Rounds to nearest, ties to even, by arithmetic of doubles: another way than the kernels'.
float rounded(float value, vivim_dtype type)
{
    if (type == VIVIM_FLOAT32 || value == 0.f || !std::isfinite(value))
        return value;
    int const digits = type == VIVIM_FLOAT16 ? 11 : 8, least = type == VIVIM_FLOAT16 ? -24 : -133;
    int exponent;
    std::frexp(value, &exponent);
    double const unit = std::ldexp(1.0, std::max(exponent - digits, least));
    double const result = std::nearbyint(double(value) / unit) * unit;
    if (type == VIVIM_FLOAT16 && std::fabs(result) > 65504.0)
        return std::copysign(INFINITY, value);
    return float(result);
}

// Numbers as the kernels read them. Half and bfloat16 are made from the rounded value's exact bits.
std::vector<uint8_t> stored(Numbers& values, vivim_dtype type)
{
    std::vector<uint8_t> bytes(values.size() * (type == VIVIM_FLOAT32 ? 4 : 2));
    for (size_t i = 0; i < values.size(); ++i)
    {
        values[i] = rounded(values[i], type);
        uint32_t bits;
        std::memcpy(&bits, &values[i], 4);
        if (type == VIVIM_FLOAT32)
            std::memcpy(&bytes[4 * i], &bits, 4);
        if (type == VIVIM_BFLOAT16)
            std::memcpy(&bytes[2 * i], reinterpret_cast<uint8_t*>(&bits) + 2, 2);
        if (type == VIVIM_FLOAT16)
        {
            int exponent;
            double const fraction = std::frexp(std::fabs(values[i]), &exponent); // 0.5 .. 1
            uint32_t half = bits >> 31 << 15;
            if (values[i] == 0.f)
                exponent = -24;
            if (std::isinf(values[i]))
                half |= 0x7c00;
            else if (exponent > -14)
                half |= uint32_t(exponent + 14) << 10 | (uint32_t(fraction * 2048.0) & 0x3ff);
            else
                half |= uint32_t(std::ldexp(std::fabs(values[i]), 24));
            bytes[2 * i] = uint8_t(half), bytes[2 * i + 1] = uint8_t(half >> 8);
        }
    }
    return bytes;
}

Numbers read(std::vector<uint8_t> const& bytes, vivim_dtype type)
{
    Numbers values(bytes.size() / (type == VIVIM_FLOAT32 ? 4 : 2));
    for (size_t i = 0; i < values.size(); ++i)
    {
        if (type == VIVIM_FLOAT32)
        {
            std::memcpy(&values[i], &bytes[4 * i], 4);
            continue;
        }
        uint16_t half;
        std::memcpy(&half, &bytes[2 * i], 2);
        uint32_t const wide = uint32_t(half) << 16;
        int const exponent = half >> 10 & 31;
        if (type == VIVIM_BFLOAT16)
            std::memcpy(&values[i], &wide, 4);
        else if (exponent == 31)
            values[i] = half & 0x3ff ? NAN : half >> 15 ? -INFINITY : INFINITY;
        else
            values[i] = std::ldexp(float((exponent ? 0x400 : 0) + (half & 0x3ff)), (exponent ? exponent : 1) - 25)
                * (half >> 15 ? -1.f : 1.f);
    }
    return values;
}

double relativeL2(Numbers const& values, std::vector<double> const& expected)
{
    double difference = 0, norm = 0;
    for (size_t i = 0; i < values.size(); ++i)
    {
        difference += (values[i] - expected[i]) * (values[i] - expected[i]);
        norm += expected[i] * expected[i];
    }
    return std::sqrt(difference / norm);
}

// ---- loops that define the operators ----

double silu(double x) { return x / (1 + std::exp(-x)); }
double softplus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::fabs(x))); }

int64_t tokenOf(int64_t step, int64_t length, int64_t rows, int direction)
{
    if (direction & 1)
        step = length - 1 - step;
    return direction < 2 ? step : step % rows * (length / rows) + step / rows;
}

struct Case
{
    char const* name;
    int32_t batch, length, rows, width, rank, states;
    std::vector<int> directions;
    bool mean = true, shared = false, gate = true;
    float dtBias = -3.f; // dt about 0.05
    bool isLong = false;
    float decay = 1.f; // factor of A
};

template <class Description> Description describe(Case const& some, vivim_dtype type)
{
    Description desc{};
    desc.batch = some.batch, desc.length = some.length, desc.width = some.width, desc.rows = some.rows;
    desc.direction_count = int32_t(some.directions.size());
    std::copy(some.directions.begin(), some.directions.end(), desc.directions);
    desc.dtype = type;
    return desc;
}

// Tasks last to first in a single thread, cut as for `threads`.
class Backwards final : public vivim::cpu::Workers
{
public:
    explicit Backwards(int64_t threads) : m_threads(threads) {}
    void run(int64_t count, Task task, void const* operation) override
    {
        for (int64_t i = count; i-- > 0;)
            task(operation, i);
    }
    void* room(size_t bytes) override
    {
        m_room.assign(bytes / 4 + 16, NAN);
        return m_room.data() + (64 - uintptr_t(m_room.data()) % 64) / 4;
    }
    int64_t threads() const override { return m_threads; }

private:
    int64_t m_threads;
    Numbers m_room;
};

// float32: rounding of 2^x (1e-7), of softplus and of the sums, which grows with the root of their length. Others: of the
// result, half an ulp at most.
double tolerance(vivim_dtype type, int32_t rank = 1)
{
    if (type != VIVIM_FLOAT32)
        return type == VIVIM_FLOAT16 ? 0x1p-11 : 0x1p-8;
    return rank <= 32 ? 2e-7 : 2e-7 * std::sqrt(rank / 16.0);
}

char const* nameOf(vivim_dtype type)
{
    return type == VIVIM_FLOAT32 ? " fp32" : type == VIVIM_FLOAT16 ? " fp16" : " bf16";
}

void testScan(Case const& some, vivim_dtype type)
{
    size_t const K = some.directions.size(), B = some.batch, L = some.length, D = some.width, R = some.rank,
                 N = some.states;
    size_t const columns = R + 2 * N;
    Numbers xc = randoms((some.shared ? 1 : K) * B * L * D, 1.7f), dbc = randoms(K * B * L * columns, 1.7f);
    Numbers xz = randoms(B * L * 2 * D, 1.7f), A = randoms(K * D * N, 8.f, -12.f);
    for (float& value : A)
        value *= some.decay;
    Numbers const w = randoms(K * D * R, 1.f / std::sqrt(float(R))), bias = randoms(K * D, 2.f, some.dtBias);
    Numbers const skip = randoms(K * D, 1.f, 1.f);
    auto const xcStored = stored(xc, type), dbcStored = stored(dbc, type), xzStored = stored(xz, type);

    std::vector<double> expected(B * L * D), h(N);
    for (size_t k = 0; k < K; ++k)
        for (size_t b = 0; b < B; ++b)
            for (size_t d = 0; d < D; ++d)
            {
                std::fill(h.begin(), h.end(), 0.0);
                size_t const row = k * D + d;
                for (size_t l = 0; l < L; ++l)
                {
                    size_t const token = size_t(tokenOf(int64_t(l), some.length, some.rows, some.directions[k]));
                    float const* const low = &dbc[((k * B + b) * L + token) * columns];
                    double time = bias[row];
                    for (size_t r = 0; r < R; ++r)
                        time += double(w[row * R + r]) * low[r];
                    time = softplus(time);
                    double const u = xc[(((some.shared ? 0 : k) * B + b) * L + token) * D + d];
                    double y = skip[row] * u;
                    for (size_t n = 0; n < N; ++n)
                    {
                        h[n] = std::exp2(time * A[row * N + n]) * h[n] + time * u * low[R + n];
                        y += h[n] * low[R + N + n];
                    }
                    expected[(b * L + token) * D + d] += y;
                }
            }
    for (size_t i = 0; i < expected.size(); ++i)
    {
        if (some.mean)
            expected[i] /= double(K);
        if (some.gate)
            expected[i] *= silu(xz[i / D * 2 * D + D + i % D]);
    }

    auto desc = describe<vivim_scan_desc>(some, type);
    desc.rank = some.rank, desc.states = some.states, desc.shared_input = some.shared, desc.mean = some.mean;
    desc.gate_width = some.gate ? 2 * some.width : 0;
    std::vector<uint8_t> y(expected.size() * (type == VIVIM_FLOAT32 ? 4 : 2)), again(y.size());
    std::string const name = std::string(some.name) + nameOf(type);
    if (vivim_cpu_selective_scan(&desc, xcStored.data(), dbcStored.data(), xzStored.data(), A.data(), w.data(),
            bias.data(), skip.data(), y.data(), 1))
        throw std::runtime_error(vivim_cpu_error());
    double const error = relativeL2(read(y, type), expected);
    report(error <= tolerance(type, some.rank), "scan", name, error);
    for (int32_t const threads : {2, 3, 16})
    {
        std::fill(again.begin(), again.end(), 0xff);
        vivim_cpu_selective_scan(&desc, xcStored.data(), dbcStored.data(), xzStored.data(), A.data(), w.data(),
            bias.data(), skip.data(), again.data(), threads);
        if (again != y)
            report(false, "threads", name, threads);
        Backwards workers(threads);
        std::fill(again.begin(), again.end(), 0xff);
        scan(vivim::cpu::scanOf(desc, xcStored.data(), dbcStored.data(), xzStored.data(), A.data(), w.data(),
                 bias.data(), skip.data(), again.data()),
            workers);
        if (again != y)
            report(false, "backwards", name, threads);
    }
}

void testConv(Case const& some, int32_t taps, vivim_dtype type)
{
    size_t const K = some.directions.size(), B = some.batch, L = some.length, D = some.width, T = taps;
    Numbers x = randoms(B * L * 2 * D, 1.7f);
    Numbers const weight = randoms(K * D * T, 0.5f), bias = randoms(K * D, 1.f);
    auto const xStored = stored(x, type);
    std::vector<double> expected(K * B * L * D);
    for (size_t k = 0; k < K; ++k)
        for (size_t b = 0; b < B; ++b)
            for (size_t l = 0; l < L; ++l)
                for (size_t d = 0; d < D; ++d)
                {
                    int const direction = some.directions[k];
                    double total = bias[k * D + d];
                    for (size_t tap = 0; tap < T && tap <= l; ++tap) // steps back
                    {
                        size_t const token = size_t(tokenOf(int64_t(l - tap), some.length, some.rows, direction));
                        total += double(weight[(k * D + d) * T + T - 1 - tap]) * x[(b * L + token) * 2 * D + d];
                    }
                    size_t const token = size_t(tokenOf(int64_t(l), some.length, some.rows, direction));
                    expected[((k * B + b) * L + token) * D + d] = silu(total);
                }
    auto desc = describe<vivim_conv_desc>(some, type);
    desc.x_width = 2 * some.width;
    std::vector<uint8_t> xc(expected.size() * (type == VIVIM_FLOAT32 ? 4 : 2)), again(xc.size());
    std::string const name = std::string(some.name) + nameOf(type);
    if (vivim_cpu_causal_conv1d(&desc, taps, xStored.data(), weight.data(), bias.data(), xc.data(), 1))
        throw std::runtime_error(vivim_cpu_error());
    double const error = relativeL2(read(xc, type), expected);
    report(error <= tolerance(type), "conv", name, error);
    vivim_cpu_causal_conv1d(&desc, taps, xStored.data(), weight.data(), bias.data(), again.data(), 3);
    if (again != xc)
        report(false, "threads", name, 3);
}

// The plain scan, channels first: vivim_s6.h. `plain`: without softplus, skip and bias.
struct S6Case
{
    char const* name;
    int32_t batch, groups, inner, states, length;
    bool plain = false;
    float bias = -3.f, decay = 1.f;
};

void testS6(S6Case const& some, vivim_dtype type)
{
    size_t const B = some.batch, G = some.groups, E = some.inner, N = some.states, L = some.length, D = G * E;
    // Without a softplus the time step itself must not be negative.
    Numbers u = randoms(B * D * L, 1.7f), delta = randoms(B * D * L, 0.4f, some.plain ? 0.4f : 0.f);
    Numbers b = randoms(B * G * N * L, 1.7f), c = randoms(B * G * N * L, 1.7f), A = randoms(D * N, 5.f, -7.f);
    for (float& value : A)
        value *= some.decay;
    Numbers const skip = randoms(D, 1.f, 1.f), bias = randoms(D, 2.f, some.bias);
    auto const uStored = stored(u, type), deltaStored = stored(delta, type);
    auto const bStored = stored(b, type), cStored = stored(c, type);

    std::vector<double> expected(B * D * L), h(N);
    for (size_t i = 0; i < B * D; ++i)
    {
        std::fill(h.begin(), h.end(), 0.0);
        size_t const d = i % D, group = (i / D * G + d / E) * N;
        for (size_t l = 0; l < L; ++l)
        {
            double const x = u[i * L + l], raw = delta[i * L + l];
            double const time = some.plain ? raw : softplus(raw + double(bias[d]));
            double y = some.plain ? 0.0 : skip[d] * x;
            for (size_t n = 0; n < N; ++n)
            {
                h[n] = std::exp(time * A[d * N + n]) * h[n] + time * x * b[(group + n) * L + l];
                y += h[n] * c[(group + n) * L + l];
            }
            expected[i * L + l] = y;
        }
    }

    vivim_s6_desc const desc{some.batch, some.length, int32_t(D), some.groups, some.states, !some.plain, int32_t(type)};
    std::vector<uint8_t> y(uStored.size()), again(y.size());
    auto const run = [&](std::vector<uint8_t>& to, int64_t threads) {
        Backwards workers(threads);
        std::fill(to.begin(), to.end(), uint8_t(0xff));
        scanS6(vivim::cpu::s6Of(desc, uStored.data(), deltaStored.data(), bStored.data(), cStored.data(), A.data(),
                   some.plain ? nullptr : skip.data(), some.plain ? nullptr : bias.data(), to.data()),
            workers);
    };
    std::string const name = std::string(some.name) + nameOf(type);
    run(y, 1);
    double const error = relativeL2(read(y, type), expected);
    report(error <= tolerance(type), "s6", name, error);
    run(again, 16);
    if (again != y)
        report(false, "threads", name, 16);
}

void testDepthwise(int64_t batch, int64_t frames, int64_t height, int64_t width, int64_t channels, int kernelFrames)
{
    Numbers const x = randoms(size_t(batch * frames * height * width * channels), 2.f);
    Numbers const weight = randoms(size_t(kernelFrames * 9 * channels), 0.6f), bias = randoms(size_t(channels), 1.f);
    std::vector<double> expected(x.size());
    for (int64_t i = 0; i < int64_t(x.size()); ++i)
    {
        int64_t const c = i % channels, w = i / channels % width, h = i / channels / width % height;
        int64_t const t = i / channels / width / height % frames, b = i / channels / width / height / frames;
        double total = bias[size_t(c)];
        for (int64_t k = 0; k < kernelFrames * 9; ++k)
        {
            int64_t const tt = t + k / 9 - kernelFrames / 2, hh = h + k / 3 % 3 - 1, ww = w + k % 3 - 1;
            if (tt < 0 || tt >= frames || hh < 0 || hh >= height || ww < 0 || ww >= width)
                continue;
            total += double(weight[size_t(k * channels + c)])
                * x[size_t((((b * frames + tt) * height + hh) * width + ww) * channels + c)];
        }
        expected[size_t(i)] = 0.5 * total * (1 + std::erf(total / std::sqrt(2.0)));
    }
    Numbers y(x.size(), NAN);
    Backwards workers(1);
    convolveDepthwise(
        {x.data(), weight.data(), bias.data(), y.data(), batch, frames, height, width, channels, kernelFrames},
        workers);
    double const error = relativeL2(y, expected);
    std::string const name = std::to_string(height) + " x " + std::to_string(width) + " x " + std::to_string(channels);
    report(error <= 2e-7, kernelFrames == 3 ? "3x3x3" : "3x3", name, error);
}

void testAddNorm(int64_t rows, int64_t width, float shift)
{
    size_t const count = size_t(rows * width);
    Numbers const x = randoms(count, 2.f, shift), y = randoms(count, 1.f);
    Numbers const gamma = randoms(size_t(width), 1.f, 1.f), beta = randoms(size_t(width), 0.5f);
    constexpr float kEpsilon = 1e-5f;
    std::vector<double> sum(count), normed(count);
    for (size_t i = 0; i < count; ++i)
        sum[i] = double(x[i] + y[i]); // rounded as residual sums are
    for (size_t row = 0; row < count; row += size_t(width))
    {
        double mean = 0, variance = 0;
        for (size_t c = 0; c < size_t(width); ++c)
            mean += sum[row + c] / double(width);
        for (size_t c = 0; c < size_t(width); ++c)
            variance += (sum[row + c] - mean) * (sum[row + c] - mean) / double(width);
        for (size_t c = 0; c < size_t(width); ++c)
            normed[row + c] = (sum[row + c] - mean) / std::sqrt(variance + kEpsilon) * gamma[c] + beta[c];
    }
    Numbers sumFound(count, NAN), normedFound(count, NAN);
    Backwards workers(1);
    addNorm({x.data(), y.data(), gamma.data(), beta.data(), sumFound.data(), normedFound.data(), rows, width, kEpsilon},
        workers);
    std::string const name = std::to_string(rows) + " x " + std::to_string(width);
    double const error = relativeL2(normedFound, normed);
    report(relativeL2(sumFound, sum) == 0, "sum", name, relativeL2(sumFound, sum));
    // The mean is known to half an ulp, 6e-8 of itself, of numbers that differ from it by 1.3.
    report(error <= 2e-7 + 6e-8 * std::fabs(double(shift)), "norm", name, error);
}

// Bilinear as PyTorch and ONNX define it (half-pixel centres), by way of the distance to every pixel.
double upsampled(Numbers const& x, int64_t height, int64_t width, int64_t channels, int64_t frame, int64_t c, int64_t h,
    int64_t w, int64_t fullHeight, int64_t fullWidth)
{
    auto const weight = [](int64_t point, int64_t pixel, int64_t larger, int64_t smaller) {
        double at = (double(point) + 0.5) * double(smaller) / double(larger) - 0.5;
        at = std::min(std::max(at, 0.0), double(smaller - 1));
        return std::max(0.0, 1.0 - std::fabs(at - double(pixel)));
    };
    double total = 0;
    for (int64_t i = 0; i < height; ++i)
        for (int64_t j = 0; j < width; ++j)
            total += weight(h, i, fullHeight, height) * weight(w, j, fullWidth, width)
                * x[size_t(((frame * height + i) * width + j) * channels + c)];
    return total;
}

void testMergeScales(int64_t frames, int64_t channels, int64_t classes, std::vector<int64_t> const& sizes)
{
    int64_t const height = sizes[0], width = sizes[1];
    std::vector<Numbers> scales;
    for (size_t s = 0; s < 4; ++s)
        scales.push_back(randoms(size_t(frames * sizes[2 * s] * sizes[2 * s + 1] * channels), 1.f));
    Numbers const bias = randoms(size_t(channels), 0.5f), weight = randoms(size_t(classes * channels), 1.f);
    Numbers const classBias = randoms(size_t(classes), 1.f);
    std::vector<double> expected(size_t(frames * classes * height * width));
    for (int64_t f = 0; f < frames; ++f)
        for (int64_t h = 0; h < height; ++h)
            for (int64_t w = 0; w < width; ++w)
                for (int64_t c = 0; c < channels; ++c)
                {
                    double total = bias[size_t(c)];
                    for (size_t s = 0; s < 4; ++s)
                        total +=
                            upsampled(scales[s], sizes[2 * s], sizes[2 * s + 1], channels, f, c, h, w, height, width);
                    for (int64_t k = 0; k < classes; ++k)
                        expected[size_t(((f * classes + k) * height + h) * width + w)] += (c ? 0 : classBias[size_t(k)])
                            + std::max(total, 0.0) * double(weight[size_t(k * channels + c)]);
                }
    vivim::cpu::MergeScales merge{};
    for (size_t s = 0; s < 4; ++s)
        merge.scales[s] = {scales[s].data(), sizes[2 * s], sizes[2 * s + 1]};
    Numbers found(expected.size(), NAN);
    merge.bias = bias.data(), merge.weight = weight.data(), merge.classBias = classBias.data();
    merge.logits = found.data(), merge.frames = frames, merge.channels = channels, merge.classes = classes;
    Backwards workers(1);
    mergeScales(merge, workers);
    double const error = relativeL2(found, expected);
    std::string const name = std::to_string(height) + " x " + std::to_string(width) + " x " + std::to_string(channels);
    // 16 products of random signs each, of weights that were rounded, then a sum of `channels` more.
    report(error <= 5e-7, "merge", name, error);
}

// Gradients of the recurrence, by the chain rule through every state in double precision, one channel after the other.
void testGradients(
    char const* name, size_t S, size_t L, size_t D, size_t N, bool hasInitial = false, float dtScale = 0.1f)
{
    Numbers const dt = randoms(S * L * D, dtScale, dtScale), u = randoms(S * L * D, 1.7f);
    Numbers const B = randoms(S * L * N, 1.7f), C = randoms(S * L * N, 1.7f), A = randoms(D * N, 8.f, -12.f);
    Numbers const skip = randoms(D, 1.f, 1.f), initial = randoms(S * N * D, 1.f), grad = randoms(S * L * D, 1.f);
    std::vector<double> y(S * L * D), gradDt(y.size()), gradU(y.size()), gradB(S * L * N), gradC(S * L * N);
    std::vector<double> gradA(S * N * D), states(L + 1);
    for (size_t s = 0; s < S; ++s)
        for (size_t d = 0; d < D; ++d)
            for (size_t n = 0; n < N; ++n)
            {
                double const a = A[d * N + n];
                auto const at = [&](size_t l) { return (s * L + l) * D + d; };
                states[0] = hasInitial ? initial[(s * N + n) * D + d] : 0.0;
                for (size_t l = 0; l < L; ++l)
                {
                    size_t const column = (s * L + l) * N + n;
                    states[l + 1] = std::exp2(dt[at(l)] * a) * states[l] + double(dt[at(l)]) * u[at(l)] * B[column];
                    y[at(l)] += states[l + 1] * C[column] + (n ? 0.0 : double(skip[d]) * u[at(l)]);
                    gradU[at(l)] += n ? 0.0 : double(skip[d]) * grad[at(l)];
                }
                double back = 0;
                for (size_t l = L; l-- > 0;)
                {
                    size_t const column = (s * L + l) * N + n;
                    back += double(C[column]) * grad[at(l)];
                    gradC[column] += states[l + 1] * grad[at(l)];
                    gradB[column] += back * dt[at(l)] * u[at(l)];
                    gradU[at(l)] += back * dt[at(l)] * B[column];
                    double const decay = std::exp2(dt[at(l)] * a),
                                 ofExponent = back * states[l] * decay * std::log(2.0);
                    gradDt[at(l)] += back * u[at(l)] * B[column] + ofExponent * a;
                    gradA[(s * N + n) * D + d] += ofExponent * dt[at(l)];
                    back *= decay;
                }
            }
    std::vector<std::vector<double> const*> const expected = {&y, &gradDt, &gradU, &gradB, &gradC, &gradA};
    auto const computed = [&](auto run) {
        std::vector<Numbers> found;
        for (std::vector<double> const* const numbers : expected)
            found.emplace_back(numbers->size(), NAN);
        run(found);
        return found;
    };
    float const* const first = hasInitial ? initial.data() : nullptr;
    vivim_gradients_desc const desc{int32_t(S), int32_t(L), int32_t(D), int32_t(N)};
    auto const onThreads = [&](int32_t threads) {
        return computed([&](std::vector<Numbers>& f) {
            if (vivim_cpu_scan_gradients(&desc, dt.data(), u.data(), B.data(), C.data(), A.data(), skip.data(), first,
                    grad.data(), f[0].data(), f[1].data(), f[2].data(), f[3].data(), f[4].data(), f[5].data(), threads))
                throw std::runtime_error(vivim_cpu_error());
        });
    };
    auto const found = onThreads(1);
    double worst = 0;
    for (size_t i = 0; i < expected.size(); ++i)
    {
        bool const isZero = std::all_of(expected[i]->begin(), expected[i]->end(), [](double v) { return v == 0.0; });
        bool const staysZero = std::all_of(found[i].begin(), found[i].end(), [](float v) { return v == 0.f; });
        worst = std::max(worst, isZero ? (staysZero ? 0.0 : INFINITY) : relativeL2(found[i], *expected[i]));
    }
    // As of the scan, and the sums over L for A, of which each segment's is exact to its own rounding.
    report(worst <= 1e-6, "gradients", name, worst);
    auto const same = [&](std::vector<Numbers> const& again) {
        bool equal = true;
        for (size_t i = 0; i < again.size(); ++i)
            equal = equal && !std::memcmp(again[i].data(), found[i].data(), 4 * again[i].size());
        return equal;
    };
    for (int32_t const threads : {2, 3, 16})
        if (!same(onThreads(threads)))
            report(false, "threads", name, threads);
    Backwards workers(3);
    auto const again = computed([&](std::vector<Numbers>& f) {
        scanGradients({dt.data(), u.data(), B.data(), C.data(), A.data(), skip.data(), first, grad.data(), f[0].data(),
                          f[1].data(), f[2].data(), f[3].data(), f[4].data(), f[5].data(), int64_t(S), int64_t(L),
                          int64_t(D), int(N), nullptr, nullptr},
            workers);
    });
    if (!same(again))
        report(false, "backwards", name, 3);
}

// A state that does not decay (A = 0) and takes in nothing must stay what it is: 2^0 is exactly 1.
void testMemory()
{
    constexpr int32_t L = 5000, D = 16, N = 16;
    vivim_scan_desc desc{};
    desc.batch = 1, desc.length = L, desc.width = D, desc.rows = 1, desc.rank = 1, desc.states = N;
    desc.direction_count = 1;
    Numbers xc(L * D), dbc(L * (1 + 2 * N)), A(D * N), w(D), bias(D, 0.5413f), skip(D), y(L * D);
    for (int32_t l = 0; l < L; ++l)
        for (int32_t n = 0; n < N; ++n)
        {
            dbc[l * (1 + 2 * N) + 1 + n] = 1.f;
            dbc[l * (1 + 2 * N) + 1 + N + n] = n == 0;
        }
    for (int32_t d = 0; d < D; ++d)
        xc[d] = 1.f;
    vivim_cpu_selective_scan(
        &desc, xc.data(), dbc.data(), nullptr, A.data(), w.data(), bias.data(), skip.data(), y.data(), 1);
    bool const same = std::all_of(y.begin(), y.end(), [&](float value) { return value == y[0] && value > 0.5f; });
    report(same, "memory", "a state without decay stays", y.back() - y[0]);
}

// Frame after frame, the first direction gives what one sequence gives, to the bit: the same steps in the same order.
void testPieces(int32_t width, int32_t states, vivim_dtype type)
{
    size_t const B = 2, frame = 70, frames = 3, L = frame * frames, D = size_t(width), R = 3, N = size_t(states);
    size_t const columns = R + 2 * N, bytes = type == VIVIM_FLOAT32 ? 4 : 2;
    Numbers x = randoms(B * L * D, 1.7f), dbc = randoms(B * L * columns, 1.7f);
    Numbers const A = randoms(D * N, 0.4f, -0.6f), w = randoms(D * R, 0.6f), bias = randoms(D, 2.f, -3.f);
    Numbers const skip = randoms(D, 1.f, 1.f), weight = randoms(D * 4, 0.5f);
    auto const xStored = stored(x, type), dbcStored = stored(dbc, type);
    auto const piece = [&](std::vector<uint8_t> const& of, size_t row, size_t first, size_t count) {
        std::vector<uint8_t> result;
        for (size_t b = 0; b < B; ++b)
            result.insert(result.end(), of.begin() + (b * L + first) * row * bytes,
                of.begin() + (b * L + first + count) * row * bytes);
        return result;
    };
    vivim_scan_desc scan{int32_t(B), int32_t(L), width, 1, int32_t(R), states, 1, {0}, 0, 0, 0, type};
    vivim_conv_desc conv{int32_t(B), int32_t(L), width, 1, width, 1, {0}, type};
    std::vector<uint8_t> xc(B * L * D * bytes), y(xc.size()), part, partY;
    vivim_cpu_causal_conv1d(&conv, 4, xStored.data(), weight.data(), bias.data(), xc.data(), 1);
    vivim_cpu_selective_scan(
        &scan, xc.data(), dbcStored.data(), nullptr, A.data(), w.data(), bias.data(), skip.data(), y.data(), 1);
    Numbers h(B * N * D), last(h.size());
    std::vector<uint8_t> tail(B * 3 * D * bytes);
    bool same = true;
    scan.length = conv.length = int32_t(frame);
    for (size_t t = 0; t < frames; ++t)
    {
        auto const in = piece(xStored, D, t * frame, frame), low = piece(dbcStored, columns, t * frame, frame);
        part.assign(in.size(), 0xff), partY.assign(in.size(), 0xff);
        vivim_cpu_streaming_conv1d(&conv, 4, in.data(), tail.data(), weight.data(), bias.data(), part.data(), 2);
        vivim_cpu_streaming_scan(&scan, part.data(), low.data(), nullptr, A.data(), w.data(), bias.data(), skip.data(),
            h.data(), partY.data(), last.data(), 2);
        same = same && part == piece(xc, D, t * frame, frame) && partY == piece(y, D, t * frame, frame);
        h = last;
        tail = piece(xStored, D, (t + 1) * frame - 3, 3);
    }
    bool const moved = std::any_of(h.begin(), h.end(), [](float value) { return value != 0.f; });
    report(same && moved, "pieces", std::to_string(width) + " channels" + nameOf(type), 0);
}

// What the kernels cannot take is refused with a message that names it; nothing is written.
void testRefusals()
{
    vivim_scan_desc const good{1, 6, 16, 2, 4, 16, 1, {0, 0, 0, 0}, 0, 1, 0, VIVIM_FLOAT32};
    auto const refused = [&](char const* word, auto change) {
        vivim_scan_desc desc = good;
        change(desc);
        int32_t const status =
            vivim_cpu_selective_scan(&desc, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, 1);
        report(status == VIVIM_BAD_ARGUMENT && std::strstr(vivim_cpu_error(), word), "refusal", vivim_cpu_error(), 0);
    };
    refused("multiple of rows", [](auto& desc) { desc.rows = 4; });
    refused("rank", [](auto& desc) { desc.rank = 5000; });
    refused("states", [](auto& desc) { desc.states = 0; });
    refused("direction", [](auto& desc) { desc.directions[0] = 4; });
    refused("directions", [](auto& desc) { desc.direction_count = 5; });
    refused("data type", [](auto& desc) { desc.dtype = 3; });
    refused("width of xz", [](auto& desc) { desc.gate_width = 8; });
    vivim_gradients_desc const gradients{2, 6, 16, 300};
    int32_t const refusedToo = vivim_cpu_scan_gradients(&gradients, nullptr, nullptr, nullptr, nullptr, nullptr,
        nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, 1);
    report(
        refusedToo == VIVIM_BAD_ARGUMENT && std::strstr(vivim_cpu_error(), "states"), "refusal", vivim_cpu_error(), 0);
    vivim_conv_desc const conv{1, 6, 16, 2, 8, 1, {0, 0, 0, 0}, VIVIM_FLOAT32};
    int32_t const status = vivim_cpu_causal_conv1d(&conv, 4, nullptr, nullptr, nullptr, nullptr, 1);
    report(
        status == VIVIM_BAD_ARGUMENT && std::strstr(vivim_cpu_error(), "width of x"), "refusal", vivim_cpu_error(), 0);
}
} // namespace

int main(int count, char** words)
{
    bool const quick = count > 1 && !std::strcmp(words[1], "quick");
    std::vector<Case> const cases = {
        {"b3 stage 1", 1, 20480, 5, 128, 4, 16, {0, 1, 2}, true, false, true, -3.f, true},
        {"b3 stage 2", 1, 5120, 5, 256, 8, 16, {0, 1, 2}, true, false, true, -3.f, true},
        {"b3 stage 3", 1, 1280, 5, 640, 20, 16, {0, 1, 2}, true, false, true, -3.f, true},
        {"b3 stage 4", 1, 320, 5, 1024, 32, 16, {0, 1, 2}, true, false, true, -3.f, true},
        {"tiny steps", 1, 20480, 5, 16, 4, 16, {0, 1, 2}, true, false, true, -12.f, true},
        {"four directions, two clips", 2, 63, 7, 48, 3, 16, {3, 1, 2, 0}},
        {"sum of a shared input", 3, 100, 4, 24, 2, 16, {0, 1}, false, true},
        {"no gate", 1, 70, 5, 32, 2, 16, {2}, true, false, false},
        {"width of no vector", 2, 77, 11, 37, 3, 16, {2, 3}},
        {"fewer channels than lanes", 1, 5, 5, 3, 1, 16, {0, 1, 2}},
        {"one token", 2, 1, 1, 16, 1, 16, {0, 2}},
        {"a row a token", 1, 9, 9, 16, 1, 16, {2, 3}},
        {"8 states", 1, 130, 5, 40, 5, 8, {0, 1, 2}},
        {"5 states", 1, 130, 5, 40, 5, 5, {0, 3}},
        {"128 states, rank 300", 1, 66, 6, 18, 300, 128, {0, 3}},
        {"huge steps", 1, 300, 5, 32, 4, 16, {0, 1, 2}, true, false, true, 60.f},
        {"extreme decays", 1, 300, 5, 32, 4, 16, {0, 1, 2}, true, false, true, 2.f, false, 1e4f},
        {"wider than a panel", 1, 12, 3, 1100, 2, 16, {0, 2}},
    };
    try
    {
        std::printf("instruction set: %s\n", vivim_ort_instruction_set());
        for (Case const& some : cases)
        {
            if (quick && some.isLong)
                continue;
            for (vivim_dtype const type : {VIVIM_FLOAT32, VIVIM_FLOAT16, VIVIM_BFLOAT16})
            {
                testScan(some, type);
                testConv(some, 4, type);
                if (!some.isLong)
                    testConv(some, 3, type);
            }
        }
        std::vector<S6Case> const scans = {
            {"VMamba, N 1, 4 groups", 2, 4, 24, 1, 196},
            {"MambaVision, N 8", 1, 1, 40, 8, 65},
            {"Vim, N 16", 1, 1, 48, 16, 197},
            {"N 64, odd channels", 1, 2, 5, 64, 70},
            {"N 5, fewer channels than lanes", 2, 3, 1, 5, 33},
            {"one token", 2, 1, 16, 16, 1},
            {"no softplus, skip or bias", 1, 2, 18, 16, 50, true},
            {"huge steps", 1, 1, 16, 16, 100, false, 60.f},
            {"extreme decays", 1, 1, 16, 16, 100, false, 2.f, 1e4f},
        };
        for (S6Case const& some : scans)
            for (vivim_dtype const type : {VIVIM_FLOAT32, VIVIM_FLOAT16, VIVIM_BFLOAT16})
                testS6(some, type);
        for (int const kernelFrames : {1, 3})
        {
            int64_t const frames = kernelFrames == 1 ? 1 : 5;
            testDepthwise(2, frames, 16, 16, 64, kernelFrames);
            testDepthwise(1, frames, 7, 11, 37, kernelFrames);
            testDepthwise(1, frames, 1, 1, 16, kernelFrames);
            testDepthwise(3, frames, 2, 5, 3, kernelFrames);
            testDepthwise(1, 2, 3, 6, 17, kernelFrames);
        }
        testAddNorm(130, 64, 0.f);
        testAddNorm(5, 37, 1.f);
        testAddNorm(64, 3, -2.f);
        testAddNorm(3, 1, 0.f);
        testAddNorm(70, 320, 100.f);
        testMergeScales(2, 64, 1, {16, 16, 8, 8, 4, 4, 2, 2});
        testMergeScales(1, 200, 3, {7, 11, 4, 6, 2, 3, 1, 2});
        testMergeScales(1, 40, 1, {3, 400, 3, 230, 2, 100, 1, 9}); // too wide for 48 channels at a time
        testMergeScales(1, 5, 2, {1, 1, 1, 1, 1, 1, 1, 1});
        testGradients("two blocks of channels", 2, 63, 48, 16);
        testGradients("a state that comes in", 2, 70, 32, 16, true);
        testGradients("width of no vector", 2, 77, 37, 16, true);
        testGradients("fewer channels than lanes", 3, 16, 3, 8);
        testGradients("one token", 2, 1, 16, 16);
        testGradients("5 states, a segment and one", 1, 17, 40, 5);
        testGradients("128 states", 1, 66, 18, 128, true);
        testGradients("huge steps", 1, 100, 32, 16, true, 60.f);
        testGradients("steps of almost nothing", 1, 500, 32, 16, true, 1e-4f);
        if (!quick)
        {
            testGradients("b3 stage 1", 1, 20480, 128, 16);
            testGradients("b3 stage 4", 1, 320, 1024, 16);
        }
        testMemory();
        for (vivim_dtype const type : {VIVIM_FLOAT32, VIVIM_FLOAT16, VIVIM_BFLOAT16})
        {
            testPieces(48, 16, type);
            testPieces(37, 5, type);
        }
        testRefusals();
    }
    catch (std::exception const& error)
    {
        report(false, "exception", error.what(), 0);
    }
    return failures ? 1 : 0;
}
