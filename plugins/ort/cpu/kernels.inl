// The kernels, written once and compiled once for each instruction set: VIVIM_ISA names it, VIVIM_VECTOR_BYTES is the
// width of its vectors. Vectors are those of GCC and Clang, which become AVX, AVX-512 or NEON by the compiler's flags.
//
//   conv   xc = silu(bias + sum_j weight_j x(j steps back)), tokens outside, channels inside
//   scan   16 channels of one clip are a task, which walks its directions one after the other: the state (N x 16) stays
//          in registers, kSteps steps are made at a time: time steps (projection, softplus), recurrence, output
//   scanS6 in s6.inl, the plain scan of other people's networks
//   scanGradients in gradients.inl, for training
//   depthwise   gelu(bias + sum of 3 x 3 (x 3) neighbours), channels last: one row of pixels is a task
//   addNorm   x + y and its LayerNorm: kNormRows rows are a task
//   mergeScales   the classes of relu(bias + scales, upsampled): one row of pixels is a task
//
// Numerics. All arithmetic is float32. 2^x has a relative error of 1e-7 and is exactly 1 at 0, so that a state that does
// not decay stays what it is however many steps there are. The sum over the directions is taken in their order, skip
// included, and rounded to the data's type once.
//
// Nothing of the standard library is used here: an inline function of it, compiled for AVX-512, could be what the linker
// keeps for the whole library.
#include "gradients.h"
#include "s6.h"

#if defined(__SSE__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace vivim::cpu::VIVIM_ISA
{
namespace
{
constexpr int kLanes = VIVIM_VECTOR_BYTES / 4;
constexpr int kVectors = kScanChannels / kLanes; // of a task's channels
constexpr int kSteps = 64;  // of the scan at a time: what is between its three phases fits the L1 cache
constexpr int kAhead = 8;   // steps that rows are asked for before they are needed
constexpr int kPanel = 512; // channels whose taps stay in the L1 cache
constexpr float kLog2e = 1.44269504f;

typedef float Vector __attribute__((vector_size(VIVIM_VECTOR_BYTES)));
typedef int32_t Integers __attribute__((vector_size(VIVIM_VECTOR_BYTES)));
typedef uint32_t Bits __attribute__((vector_size(VIVIM_VECTOR_BYTES)));
typedef uint16_t Shorts __attribute__((vector_size(VIVIM_VECTOR_BYTES / 2)));
typedef float UnalignedVector __attribute__((vector_size(VIVIM_VECTOR_BYTES), aligned(4), may_alias));
typedef uint16_t UnalignedShorts __attribute__((vector_size(VIVIM_VECTOR_BYTES / 2), aligned(2), may_alias));

// ---- numerics ----

inline Vector all(float value) { return Vector{} + value; }

// One instruction each, which the compiler does not make of a comparison; b where either is not a number.
inline Vector larger(Vector a, Vector b)
{
#if defined(__AVX512F__)
    return _mm512_maskz_max_ps(0xffff, a, b);
#elif defined(__AVX2__)
    return _mm256_max_ps(a, b);
#elif defined(__SSE__)
    return _mm_max_ps(a, b);
#else
    return a > b ? a : b;
#endif
}

inline Vector smaller(Vector a, Vector b)
{
#if defined(__AVX512F__)
    return _mm512_maskz_min_ps(0xffff, a, b);
#elif defined(__AVX2__)
    return _mm256_min_ps(a, b);
#elif defined(__SSE__)
    return _mm_min_ps(a, b);
#else
    return a < b ? a : b;
#endif
}

// 2^x. Below -126 the result is 0 or the smallest normal number, above 127 it is infinite or large.
inline Vector exp2(Vector x)
{
#if defined(__AVX512F__)
    // The masked forms, all lanes on: GCC 12 warns of what the plain ones are made of.
    constexpr __mmask16 kAll = 0xffff;
    Vector const whole = _mm512_maskz_roundscale_ps(kAll, x, _MM_FROUND_TO_NEAREST_INT);
    Vector const r = x - whole;
#else
    x = smaller(all(127.f), larger(all(-126.f), x));
    // Adding 1.5 * 2^23 rounds to the integer that then stands in the lowest bits.
    Vector const shifted = x + 12582912.f;
    Vector const r = x - (shifted - 12582912.f);
#endif
    Vector p = all(1.5350015e-4f);
    p = p * r + 1.3398797e-3f;
    p = p * r + 9.618448e-3f;
    p = p * r + 5.5503327e-2f;
    p = p * r + 2.4022648e-1f;
    p = p * r + 6.931472e-1f;
    p = p * r + 1.f;
#if defined(__AVX512F__)
    return _mm512_maskz_scalef_ps(kAll, p, whole);
#else
    return reinterpret_cast<Vector>(reinterpret_cast<Integers>(p) + (reinterpret_cast<Integers>(shifted) << 23));
#endif
}

inline Vector silu(Vector x) { return x / (exp2(x * -kLog2e) + 1.f); }

// log(1 + e^x) = max(x, 0) + 2 atanh(s), s = e / (2 + e), e = e^-|x|: exact to a few ulp for any x.
inline Vector softplus(Vector x)
{
    Vector const e = exp2(larger(-x, x) * -kLog2e);
    Vector const s = e / (e + 2.f);
    Vector const q = s * s;
    Vector p = all(0.28178335f);
    p = p * q + 0.27960603f;
    p = p * q + 0.4002491f;
    p = p * q + 0.66666315f;
    p = p * q + 2.f;
    return larger(all(0.f), x) + s * p;
}

// x times the normal distribution's integral. erf by Abramowitz and Stegun 7.1.26, absolute error 1.5e-7.
inline Vector gelu(Vector x)
{
    Vector const z = larger(-x, x) * 0.70710678f;
    Vector const t = 1.f / (z * 0.3275911f + 1.f);
    Vector p = all(1.061405429f);
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    Vector const tail = p * t * exp2(z * z * -kLog2e); // 1 - erf(|x| / sqrt(2))
    return larger(all(0.f), x) - 0.5f * larger(-x, x) * tail;
}

// ---- memory ----

struct Half { uint16_t bits; };

struct Bfloat { uint16_t bits; };

template <class To, class From> inline To bitsOf(From from)
{
    static_assert(sizeof(To) == sizeof(From), "");
    To to;
    __builtin_memcpy(&to, &from, sizeof(to));
    return to;
}

inline float toFloat(float value) { return value; }
inline float toFloat(Bfloat value) { return bitsOf<float>(uint32_t(value.bits) << 16); }
inline float toFloat(Half value)
{
    uint32_t const magnitude = uint32_t(value.bits & 0x7fff) << 13, sign = uint32_t(value.bits & 0x8000) << 16;
    if (magnitude >= 0x0f800000)
        return bitsOf<float>(magnitude | 0x7f800000 | sign); // infinite, or not a number
    return bitsOf<float>(bitsOf<uint32_t>(bitsOf<float>(magnitude) * 0x1p112f) | sign);
}

// To nearest, ties to even; what is not a number stays so.
inline void fromFloat(float value, float* to) { *to = value; }
inline void fromFloat(float value, Bfloat* to)
{
    uint32_t const bits = bitsOf<uint32_t>(value);
    if ((bits & 0x7fffffff) > 0x7f800000)
        to->bits = uint16_t(bits >> 16 | 0x40);
    else
        to->bits = uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline void fromFloat(float value, Half* to)
{
    uint32_t const bits = bitsOf<uint32_t>(value), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    uint32_t result;
    if (magnitude > 0x7f800000)
        result = 0x7e00;
    else if (magnitude >= 0x477ff000)
        result = 0x7c00; // 65520 and more round to infinity
    else if (magnitude >= 0x38800000)
        result = (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13;
    else
        result = bitsOf<uint32_t>(bitsOf<float>(magnitude) + 0.5f) - 0x3f000000; // subnormal: the addition rounds
    to->bits = uint16_t(sign | result);
}

inline Vector load(float const* from) { return *reinterpret_cast<UnalignedVector const*>(from); }
inline void store(float* to, Vector value) { *reinterpret_cast<UnalignedVector*>(to) = value; }

inline Vector load(Bfloat const* from)
{
    Shorts const bits = *reinterpret_cast<UnalignedShorts const*>(from);
    return reinterpret_cast<Vector>(__builtin_convertvector(bits, Bits) << 16);
}
inline void store(Bfloat* to, Vector value)
{
    Bits const bits = reinterpret_cast<Bits>(value);
    Bits const rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16, kept = bits >> 16 | 0x40;
    Bits const isNumber = reinterpret_cast<Bits>((bits & 0x7fffffff) <= 0x7f800000);
    Bits const result = (rounded & isNumber) | (kept & ~isNumber);
    *reinterpret_cast<UnalignedShorts*>(to) = __builtin_convertvector(result, Shorts);
}

inline Vector load(Half const* from)
{
#if defined(__AVX512F__)
    return _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<__m256i const*>(from)));
#elif defined(__F16C__)
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<__m128i const*>(from)));
#elif defined(__ARM_NEON)
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&from->bits)));
#else
    Vector value{};
    for (int i = 0; i < kLanes; ++i)
        value[i] = toFloat(from[i]);
    return value;
#endif
}
inline void store(Half* to, Vector value)
{
#if defined(__AVX512F__)
    __m256i const bits = _mm512_maskz_cvtps_ph(0xffff, value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bits);
#elif defined(__F16C__)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__ARM_NEON)
    vst1_u16(&to->bits, vreinterpret_u16_f16(vcvt_f16_f32(value)));
#else
    for (int i = 0; i < kLanes; ++i)
        fromFloat(value[i], to + i);
#endif
}

// A row of numbers as float32: itself, or in `room`.
inline float const* widened(float const* from, int64_t, float*) { return from; }
template <class T> inline float const* widened(T const* from, int64_t count, float* room)
{
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes)
        store(room + i, load(from + i));
    for (; i < count; ++i)
        room[i] = toFloat(from[i]);
    return room;
}

// Some lanes of a vector, at the end of a row.
template <class T> inline Vector loadSome(T const* from, int64_t count)
{
    Vector value{};
    for (int i = 0; i < kLanes && i < count; ++i)
        value[i] = toFloat(from[i]);
    return value;
}
template <class T> inline void storeSome(T* to, int64_t count, Vector value)
{
    for (int i = 0; i < kLanes && i < count; ++i)
        fromFloat(value[i], to + i);
}

// Channels of a task: whole, or fewer at the end of a row whose width is no multiple of kScanChannels.
template <bool Whole> struct Channels
{
    int count;

    template <class T> Vector load(T const* row, int v) const
    {
        return Whole ? VIVIM_ISA::load(row + v * kLanes) : loadSome(row + v * kLanes, count - v * kLanes);
    }
    template <class T> void store(T* row, int v, Vector value) const
    {
        if (Whole)
            VIVIM_ISA::store(row + v * kLanes, value);
        else
            storeSome(row + v * kLanes, count - v * kLanes, value);
    }
    // Column `column` of `count` rows of `stride` numbers.
    Vector gather(float const* rows, int64_t stride, int64_t column, int v) const
    {
        Vector value{};
        for (int i = 0; i < kLanes && v * kLanes + i < count; ++i)
            value[i] = rows[(v * kLanes + i) * stride + column];
        return value;
    }
};

// ---- order ----

// The tokens of a direction, step by step. A direction along the rows is one along the columns of a single row.
class Walk
{
public:
    Walk(Order const& order, int k)
        : m_rows(order.directions[k] < 2 ? 1 : order.rows),
          m_columns(order.length / m_rows),
          m_isBackward(order.directions[k] & 1)
    {
    }

    // To a step, or to a token.
    void toStep(int64_t step)
    {
        if (m_isBackward)
            step = m_rows * m_columns - 1 - step;
        m_row = step % m_rows, m_column = step / m_rows;
    }
    void toToken(int64_t token) { m_row = token / m_columns, m_column = token % m_columns; }

    int64_t token() const { return m_row * m_columns + m_column; }

    // One step on, or back; what lies outside is no token.
    void next() { m_isBackward ? up() : down(); }
    void previous() { m_isBackward ? down() : up(); }
    bool isInside() const { return m_column >= 0 && m_column < m_columns; }

private:
    void down()
    {
        if (++m_row == m_rows)
            m_row = 0, ++m_column;
    }
    void up()
    {
        if (--m_row < 0)
            m_row = m_rows - 1, --m_column;
    }

    int64_t m_rows, m_columns, m_row = 0, m_column = 0;
    bool m_isBackward;
};

// ---- convolution ----

// Taps is 4 where that is known to the compiler, or 0.
template <class T, int Taps> void convTokens(Conv const& a, int64_t task)
{
    int const taps = Taps ? Taps : a.taps;
    int64_t const length = a.order.length, parts = (length + kConvTokens - 1) / kConvTokens;
    int64_t const first = task % parts * kConvTokens;
    int64_t const tokens = length - first < kConvTokens ? length - first : kConvTokens;
    int64_t const b = task / parts % a.batch, k = task / parts / a.batch;
    T const* const x = static_cast<T const*>(a.x) + b * length * a.xWidth;
    T* const xc = static_cast<T*>(a.xc) + ((k * a.batch + b) * length + first) * a.width;
    T const* const tail = a.tail ? static_cast<T const*>(a.tail) + b * (taps - 1) * a.width : nullptr;

    // The rows that each token's taps meet; the first taps meet none at the start of a scan.
    T const* sources[kConvTokens][Taps ? Taps : kMaxTaps];
    int8_t firstTap[kConvTokens];
    for (int64_t i = 0; i < tokens; ++i)
    {
        Walk walk(a.order, int(k));
        walk.toToken(first + i);
        int tap = taps;
        for (; tap > 0 && walk.isInside(); walk.previous())
            sources[i][--tap] = x + walk.token() * a.xWidth;
        if (tail && k == 0) // the newest first: `tap` taps of token i, i < taps - 1, lie before the start
            for (int64_t back = taps - 2; tap > 0; --back)
                sources[i][--tap] = tail + back * a.width;
        firstTap[i] = int8_t(tap);
    }

    alignas(64) float weight[(Taps ? Taps : kMaxTaps) * kPanel];
    for (int64_t panel = 0; panel < a.width; panel += kPanel)
    {
        int64_t const channels = a.width - panel < kPanel ? a.width - panel : kPanel;
        float const* const bias = a.bias + k * a.width + panel;
        for (int64_t d = 0; d < channels; ++d)
            for (int tap = 0; tap < taps; ++tap)
                weight[tap * kPanel + d] = a.weight[(k * a.width + panel + d) * taps + tap];
        for (int64_t i = 0; i < tokens; ++i)
        {
            T* const out = xc + i * a.width + panel;
            int64_t d = 0;
            for (; d + kLanes <= channels; d += kLanes)
            {
                Vector total = load(bias + d);
                for (int tap = firstTap[i]; tap < taps; ++tap)
                    total += load(weight + tap * kPanel + d) * load(sources[i][tap] + panel + d);
                store(out + d, silu(total));
            }
            if (d < channels)
            {
                Vector total = loadSome(bias + d, channels - d);
                for (int tap = firstTap[i]; tap < taps; ++tap)
                    total += loadSome(weight + tap * kPanel + d, channels - d)
                        * loadSome(sources[i][tap] + panel + d, channels - d);
                storeSome(out + d, channels - d, silu(total));
            }
        }
    }
}

template <class T> void convOf(Conv const& a, int64_t task)
{
    a.taps == 4 ? convTokens<T, 4>(a, task) : convTokens<T, 0>(a, task);
}

void conv(Conv const& a, int64_t task)
{
    switch (a.type)
    {
    case VIVIM_FLOAT32: return convOf<float>(a, task);
    case VIVIM_FLOAT16: return convOf<Half>(a, task);
    case VIVIM_BFLOAT16: return convOf<Bfloat>(a, task);
    }
}

// ---- scan ----

// What the sum of the directions becomes: their mean, times the gate.
template <class T> struct Output
{
    T const* gate; // of a token's first channel, or null
    float scale;

    template <class C> Vector operator()(Vector total, C channels, int64_t token, int64_t gateWidth, int v) const
    {
        if (!gate)
            return total * scale;
        return total * (scale * silu(channels.load(gate + token * gateWidth, v)));
    }
};

template <class T> Output<T> outputOf(Scan const& a, int64_t b, int64_t d)
{
    T const* const xz = static_cast<T const*>(a.xz);
    return {xz ? xz + b * a.order.length * a.gateWidth + a.gateWidth - a.width + d : nullptr,
        a.mean ? 1.f / float(a.order.directionCount) : 1.f};
}

// One direction of one task. `States` is N where it is known to the compiler, or 0.
template <class T, int States, bool Whole>
void scanDirection(Scan const& a, int k, int64_t b, int64_t d, Channels<Whole> channels)
{
    int const states = States ? States : a.states;
    int64_t const length = a.order.length, columns = a.rank + 2 * states;
    int64_t const parameters = k * a.width + d; // row of the direction's first channel in the parameters
    T const* const xc = static_cast<T const*>(a.xc) + ((a.sharedInput ? 0 : k * a.batch) + b) * length * a.width + d;
    T const* const dbc = static_cast<T const*>(a.dbc) + (k * a.batch + b) * length * columns;
    T* const y = static_cast<T*>(a.y) + b * length * a.width + d;
    float* const sums = a.sums ? a.sums + ((a.split ? k * a.batch : 0) + b) * length * a.width + d : nullptr;
    Output<T> const output = outputOf<T>(a, b, d);
    int64_t const state = b * states * a.width + d;
    float const* const initial = a.initial && k == 0 ? a.initial + state : nullptr;
    bool const isFirst = a.split || k == 0, isLast = !a.split && k == a.order.directionCount - 1;

    Vector fixedA[States ? States : 1][kVectors], fixedH[States ? States : 1][kVectors];
    typedef Vector Row[kVectors];
    size_t const row = sizeof(Row);
    Row* const A = States ? fixedA : static_cast<Row*>(__builtin_alloca_with_align(states * row, 512));
    Row* const weight = static_cast<Row*>(__builtin_alloca_with_align(a.rank * row, 512));
    Row* const h = States ? fixedH : static_cast<Row*>(__builtin_alloca_with_align(states * row, 512));
    Vector bias[kVectors], skip[kVectors];
    for (int v = 0; v < kVectors; ++v)
    {
        for (int n = 0; n < states; ++n)
        {
            A[n][v] = channels.gather(a.A_log2e + parameters * states, states, n, v);
            h[n][v] = initial ? channels.load(initial + n * a.width, v) : Vector{};
        }
        for (int r = 0; r < a.rank; ++r)
            weight[r][v] = channels.gather(a.dtWeight + parameters * a.rank, a.rank, r, v);
        bias[v] = channels.load(a.dtBias + parameters, v);
        skip[v] = channels.load(a.dSkip + parameters, v);
    }

    constexpr bool kWide = sizeof(T) == sizeof(float);
    float* const room = kWide ? nullptr : static_cast<float*>(__builtin_alloca_with_align(kSteps * columns * 4, 512));
    int64_t tokens[kSteps];
    float const* lows[kSteps]; // low | B | C of a step
    Vector dt[kSteps][kVectors], u[kSteps][kVectors], out[kSteps][kVectors];
    Walk walk(a.order, k), ahead(a.order, k);
    walk.toStep(0);
    ahead.toStep(length > kAhead ? kAhead : 0);
    for (int64_t begin = 0; begin < length; begin += kSteps)
    {
        int const steps = length - begin < kSteps ? int(length - begin) : kSteps;
        // 1. The time steps of some tokens.
        for (int s = 0; s < steps; ++s, walk.next())
        {
            int64_t const token = tokens[s] = walk.token();
            if (begin + s + kAhead < length)
            {
                __builtin_prefetch(xc + ahead.token() * a.width);
                __builtin_prefetch(dbc + ahead.token() * columns);
                ahead.next();
            }
            float const* const low = lows[s] = widened(dbc + token * columns, columns, room + s * columns);
            Vector total[kVectors];
            for (int v = 0; v < kVectors; ++v)
                total[v] = bias[v];
            for (int r = 0; r < a.rank; ++r)
                for (int v = 0; v < kVectors; ++v)
                    total[v] += weight[r][v] * low[r];
            for (int v = 0; v < kVectors; ++v)
            {
                dt[s][v] = softplus(total[v]);
                u[s][v] = channels.load(xc + token * a.width, v);
            }
        }
        // 2. The recurrence.
        for (int s = 0; s < steps; ++s)
        {
            float const* const B = lows[s] + a.rank;
            float const* const C = B + states;
            for (int v = 0; v < kVectors; ++v)
            {
                Vector const time = dt[s][v], du = dt[s][v] * u[s][v];
                Vector even = skip[v] * u[s][v], odd = Vector{};
#pragma GCC unroll 16
                for (int n = 0; n < states; ++n)
                {
                    h[n][v] = exp2(time * A[n][v]) * h[n][v] + du * B[n];
                    (n % 2 ? odd : even) += h[n][v] * C[n];
                }
                out[s][v] = even + odd;
            }
        }
        // 3. Added to what other directions gave; the last one puts out.
        for (int s = 0; s < steps; ++s)
        {
            int64_t const at = tokens[s] * a.width;
            for (int v = 0; v < kVectors; ++v)
            {
                Vector const total = isFirst ? out[s][v] : channels.load(sums + at, v) + out[s][v];
                if (isLast)
                    channels.store(y + at, v, output(total, channels, tokens[s], a.gateWidth, v));
                else
                    channels.store(sums + at, v, total);
            }
        }
    }
    if (a.final && k == 0)
        for (int n = 0; n < states; ++n)
            for (int v = 0; v < kVectors; ++v)
                channels.store(a.final + state + n * a.width, v, h[n][v]);
}

template <class T, bool Whole> void scanChannels(Scan const& a, int first, int last, int64_t b, int64_t d, int count)
{
    for (int k = first; k < last; ++k)
    {
        if (a.states == 16)
            scanDirection<T, 16, Whole>(a, k, b, d, Channels<Whole>{count});
        else
            scanDirection<T, 0, Whole>(a, k, b, d, Channels<Whole>{count});
    }
}

template <class T> void scanOf(Scan const& a, int64_t task)
{
    int64_t const parts = (a.width + kScanChannels - 1) / kScanChannels;
    int64_t const d = task % parts * kScanChannels, b = task / parts % a.batch;
    int const k = int(task / parts / a.batch); // 0 where all directions are one task
    int const first = a.split ? k : 0, last = a.split ? k + 1 : a.order.directionCount;
    if (d + kScanChannels <= a.width)
        scanChannels<T, true>(a, first, last, b, d, kScanChannels);
    else
        scanChannels<T, false>(a, first, last, b, d, int(a.width - d));
}

void scan(Scan const& a, int64_t task)
{
    switch (a.type)
    {
    case VIVIM_FLOAT32: return scanOf<float>(a, task);
    case VIVIM_FLOAT16: return scanOf<Half>(a, task);
    case VIVIM_BFLOAT16: return scanOf<Bfloat>(a, task);
    }
}

template <class T, bool Whole>
void combineChannels(Scan const& a, int64_t b, int64_t first, int64_t last, int64_t d, Channels<Whole> channels)
{
    int64_t const clip = a.order.length * a.width;
    T* const y = static_cast<T*>(a.y) + b * clip + d;
    Output<T> const output = outputOf<T>(a, b, d);
    for (int64_t token = first; token < last; ++token)
    {
        for (int v = 0; v < kVectors; ++v)
        {
            float const* from = a.sums + b * clip + token * a.width + d;
            Vector total = channels.load(from, v);
            for (int k = 1; k < a.order.directionCount; ++k)
                total += channels.load(from += a.batch * clip, v);
            channels.store(y + token * a.width, v, output(total, channels, token, a.gateWidth, v));
        }
    }
}

template <class T> void combineOf(Scan const& a, int64_t task)
{
    int64_t const length = a.order.length, parts = (length + kCombineTokens - 1) / kCombineTokens;
    int64_t const first = task % parts * kCombineTokens, b = task / parts;
    int64_t const last = length - first < kCombineTokens ? length : first + kCombineTokens;
    int64_t d = 0;
    for (; d + kScanChannels <= a.width; d += kScanChannels)
        combineChannels<T>(a, b, first, last, d, Channels<true>{kScanChannels});
    if (d < a.width)
        combineChannels<T>(a, b, first, last, d, Channels<false>{int(a.width - d)});
}

void combine(Scan const& a, int64_t task)
{
    switch (a.type)
    {
    case VIVIM_FLOAT32: return combineOf<float>(a, task);
    case VIVIM_FLOAT16: return combineOf<Half>(a, task);
    case VIVIM_BFLOAT16: return combineOf<Bfloat>(a, task);
    }
}
// ---- depthwise convolution ----

// The rows of x that one row of y is made of, and where their weights are.
struct DepthwiseRows
{
    float const* x[9];
    float const* weight[9];
    int count = 0;
};

template <bool Whole>
void depthwiseChannels(Depthwise const& a, DepthwiseRows const& rows, float* y, int64_t c, int count)
{
    constexpr int kBlock = 4; // columns at once, which share the loads
    Channels<Whole> const channels{count};
    for (int v = 0; v < kVectors; ++v)
    {
        Vector const bias = channels.load(a.bias + c, v);
        int64_t w = 0;
        while (w < a.width)
        {
            if (w >= 1 && w + kBlock < a.width)
            {
                Vector total[kBlock] = {bias, bias, bias, bias};
                for (int r = 0; r < rows.count; ++r)
                {
                    float const* const from = rows.x[r] + (w - 1) * a.channels + c;
                    Vector x[kBlock + 2];
                    for (int i = 0; i < kBlock + 2; ++i)
                        x[i] = channels.load(from + i * a.channels, v);
                    for (int tap = 0; tap < 3; ++tap)
                    {
                        Vector const weight = channels.load(rows.weight[r] + tap * a.channels + c, v);
                        for (int i = 0; i < kBlock; ++i)
                            total[i] += weight * x[i + tap];
                    }
                }
                for (int i = 0; i < kBlock; ++i)
                    channels.store(y + (w + i) * a.channels + c, v, gelu(total[i]));
                w += kBlock;
                continue;
            }
            Vector total = bias;
            for (int r = 0; r < rows.count; ++r)
            {
                for (int tap = 0; tap < 3; ++tap)
                {
                    int64_t const source = w + tap - 1;
                    if (source < 0 || source >= a.width)
                        continue;
                    total += channels.load(rows.weight[r] + tap * a.channels + c, v)
                        * channels.load(rows.x[r] + source * a.channels + c, v);
                }
            }
            channels.store(y + w * a.channels + c, v, gelu(total));
            ++w;
        }
    }
}

void depthwise(Depthwise const& a, int64_t task)
{
    int64_t const h = task % a.height, t = task / a.height % a.frames, b = task / a.height / a.frames;
    DepthwiseRows rows;
    for (int kt = 0; kt < a.kernelFrames; ++kt)
    {
        int64_t const frame = t + kt - a.kernelFrames / 2;
        if (frame < 0 || frame >= a.frames)
            continue;
        for (int kh = 0; kh < 3; ++kh)
        {
            int64_t const row = h + kh - 1;
            if (row < 0 || row >= a.height)
                continue;
            rows.x[rows.count] = a.x + ((b * a.frames + frame) * a.height + row) * a.width * a.channels;
            rows.weight[rows.count++] = a.weight + (kt * 3 + kh) * 3 * a.channels;
        }
    }
    float* const y = a.y + task * a.width * a.channels;
    int64_t c = 0;
    for (; c + kScanChannels <= a.channels; c += kScanChannels)
        depthwiseChannels<true>(a, rows, y, c, kScanChannels);
    if (c < a.channels)
        depthwiseChannels<false>(a, rows, y, c, int(a.channels - c));
}

// ---- residual sum and norm ----

inline float sumOf(Vector value)
{
    float total = 0.f;
    for (int i = 0; i < kLanes; ++i)
        total += value[i];
    return total;
}

// Two passes over a row that is in the L1 cache by then: no difference of large numbers.
void addNorm(AddNorm const& a, int64_t task)
{
    int64_t const first = task * kNormRows, last = first + kNormRows < a.rows ? first + kNormRows : a.rows;
    int64_t const whole = a.width / kLanes * kLanes, rest = a.width - whole;
    for (int64_t row = first; row < last; ++row)
    {
        float const *const x = a.x + row * a.width, *const y = a.y + row * a.width;
        float *const sum = a.sum + row * a.width, *const normed = a.normed + row * a.width;
        Vector total{};
        for (int64_t c = 0; c < whole; c += kLanes)
        {
            Vector const value = load(x + c) + load(y + c);
            store(sum + c, value);
            total += value;
        }
        if (rest)
        {
            Vector const value = loadSome(x + whole, rest) + loadSome(y + whole, rest);
            storeSome(sum + whole, rest, value);
            total += value;
        }
        float const mean = sumOf(total) / float(a.width);
        Vector squares{};
        for (int64_t c = 0; c < whole; c += kLanes)
        {
            Vector const value = load(sum + c) - mean;
            squares += value * value;
        }
        float variance = sumOf(squares);
        for (int64_t c = whole; c < a.width; ++c)
            variance += (sum[c] - mean) * (sum[c] - mean);
        float const scale = 1.f / __builtin_sqrtf(variance / float(a.width) + a.epsilon);
        for (int64_t c = 0; c < whole; c += kLanes)
            store(normed + c, (load(sum + c) - mean) * scale * load(a.gamma + c) + load(a.beta + c));
        for (int64_t c = whole; c < a.width; ++c)
            normed[c] = (sum[c] - mean) * scale * a.gamma[c] + a.beta[c];
    }
}

// ---- the decoder's scales ----

// The two neighbours of a point of the larger grid in the smaller one, and how much of the second.
struct Between
{
    int64_t first, second;
    float share;

    Between(int64_t point, int64_t larger, int64_t smaller)
    {
        // In double: of a wide image the place itself takes most of a float's digits.
        double at = (double(point) + 0.5) * double(smaller) / double(larger) - 0.5;
        at = at > 0.0 ? at : 0.0;
        first = int64_t(at);
        first = first < smaller - 1 ? first : smaller - 1;
        second = first + 1 < smaller ? first + 1 : first;
        share = float(at - double(first));
    }
};

// First down, between the rows of the smaller scales, into `blended`; then along it, pixel by pixel.
void mergeScales(MergeScales const& a, int64_t task)
{
    constexpr int kScales = MergeScales::kScales;
    // Channels at a time: what is blended of them stays in the L1 cache, and on the stack, for any width.
    constexpr int64_t kMost = 8 * kScanChannels, kBlended = 32768 / 4;
    int64_t const height = a.scales[0].height, width = a.scales[0].width;
    int64_t const f = task / height, h = task % height;
    int64_t columns = 0;
    for (int s = 1; s < kScales; ++s)
        columns += a.scales[s].width;
    int64_t const fitting = kBlended / columns / kScanChannels * kScanChannels;
    int64_t const chunk = fitting < kScanChannels ? kScanChannels : fitting < kMost ? fitting : kMost;
    float* const blended = static_cast<float*>(__builtin_alloca_with_align(size_t(columns * chunk) * 4, 512));
    float* const logits = a.logits + (f * a.classes * height + h) * width; // of the first class
    alignas(64) float value[kMost];
    for (int64_t panel = 0; panel < a.channels; panel += chunk)
    {
        int64_t const count = a.channels - panel < chunk ? a.channels - panel : chunk;
        int64_t const whole = count / kLanes * kLanes, rest = count - whole;
        float* row = blended;
        float const* rows[kScales] = {};
        for (int s = 1; s < kScales; ++s)
        {
            MergeScales::Scale const& scale = a.scales[s];
            Between const between(h, height, scale.height);
            float const* const x = scale.x + f * scale.height * scale.width * a.channels + panel;
            rows[s] = row;
            for (int64_t w = 0; w < scale.width; ++w, row += chunk)
            {
                float const* const upper = x + (between.first * scale.width + w) * a.channels;
                float const* const lower = x + (between.second * scale.width + w) * a.channels;
                for (int64_t c = 0; c < whole; c += kLanes)
                    store(row + c, (1.f - between.share) * load(upper + c) + between.share * load(lower + c));
                if (rest)
                    store(row + whole,
                        (1.f - between.share) * loadSome(upper + whole, rest)
                            + between.share * loadSome(lower + whole, rest));
            }
        }
        for (int64_t w = 0; w < width; ++w)
        {
            Between const b1(w, width, a.scales[1].width), b2(w, width, a.scales[2].width);
            Between const b3(w, width, a.scales[3].width);
            float const *const left1 = rows[1] + b1.first * chunk, *const right1 = rows[1] + b1.second * chunk;
            float const *const left2 = rows[2] + b2.first * chunk, *const right2 = rows[2] + b2.second * chunk;
            float const *const left3 = rows[3] + b3.first * chunk, *const right3 = rows[3] + b3.second * chunk;
            float const* const x = a.scales[0].x + (task * width + w) * a.channels + panel;
            auto const merged = [&](int64_t c, Vector total) {
                total += (1.f - b1.share) * load(left1 + c) + b1.share * load(right1 + c);
                total += (1.f - b2.share) * load(left2 + c) + b2.share * load(right2 + c);
                total += (1.f - b3.share) * load(left3 + c) + b3.share * load(right3 + c);
                store(value + c, larger(Vector{}, total)); // what is no number stays none
            };
            for (int64_t c = 0; c < whole; c += kLanes)
                merged(c, load(a.bias + panel + c) + load(x + c));
            if (rest)
                merged(whole, loadSome(a.bias + panel + whole, rest) + loadSome(x + whole, rest));
            for (int64_t k = 0; k < a.classes; ++k)
            {
                float const* const weight = a.weight + k * a.channels + panel;
                Vector total{};
                for (int64_t c = 0; c < whole; c += kLanes)
                    total += load(value + c) * load(weight + c);
                if (rest)
                    total += load(value + whole) * loadSome(weight + whole, rest);
                float& logit = logits[k * height * width + w];
                logit = (panel ? logit : a.classBias[k]) + sumOf(total);
            }
        }
    }
}

#include "s6.inl"
#include "gradients.inl"
} // namespace

#define VIVIM_TEXT_(name) #name
#define VIVIM_TEXT(name) VIVIM_TEXT_(name)
extern Kernels const kKernels = {
    VIVIM_TEXT(VIVIM_ISA), conv, scan, combine, depthwise, scanS6, addNorm, mergeScales, scanGradients};
} // namespace vivim::cpu::VIVIM_ISA
