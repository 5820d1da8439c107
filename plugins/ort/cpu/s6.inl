// The plain S6 scan (s6.h), a part of kernels.inl: its numerics and vectors are used here.
//
// Time is innermost in memory and channels are what vectors hold, so that N may be anything: kSteps steps of 16 channels
// are brought in, time steps made where time is contiguous, and turned into rows of channels; B and C into rows of
// states. The recurrence then is that of the fused scan, and its results are turned back.
namespace s6
{
// Some steps of a task's channels. Rows are of channels, and lie one after the other as the recurrence reads them.
struct Tile { alignas(64) float dt[kSteps][kScanChannels], du[kSteps][kScanChannels], y[kSteps][kScanChannels]; };

// `count` numbers at `from`, as float32 in `room`, which has kSteps.
template <class T> inline void take(T const* from, int count, float* room)
{
    int i = 0;
    for (; i + kLanes <= count; i += kLanes)
        store(room + i, load(from + i));
    for (; i < count; ++i)
        room[i] = toFloat(from[i]);
}

template <class T> inline void give(T* to, int count, float const* room)
{
    int i = 0;
    for (; i + kLanes <= count; i += kLanes)
        store(to + i, load(room + i));
    for (; i < count; ++i)
        fromFloat(room[i], to + i);
}

// `States` is N where it is known to the compiler, or 0.
template <class T, int States> void channels(S6 const& a, int64_t b, int64_t group, int64_t first, int count)
{
    int const states = States ? States : a.states;
    int64_t const inner = a.width / a.groups, length = a.length, channel = group * inner + first;
    T const* const u = static_cast<T const*>(a.u) + (b * a.width + channel) * length;
    T const* const delta = static_cast<T const*>(a.delta) + (b * a.width + channel) * length;
    T* const y = static_cast<T*>(a.y) + (b * a.width + channel) * length;
    T const* const B = static_cast<T const*>(a.B) + (b * a.groups + group) * states * length;
    T const* const C = static_cast<T const*>(a.C) + (b * a.groups + group) * states * length;

    typedef Vector Row[kVectors];
    size_t const row = sizeof(Row);
    Vector fixedA[States ? States : 1][kVectors], fixedH[States ? States : 1][kVectors];
    Row* const A = States ? fixedA : static_cast<Row*>(__builtin_alloca_with_align(states * row, 512));
    Row* const h = States ? fixedH : static_cast<Row*>(__builtin_alloca_with_align(states * row, 512));
    // B and C of a step side by side, (kSteps, 2N).
    float* const columns = static_cast<float*>(__builtin_alloca_with_align(size_t(kSteps) * 2 * states * 4, 512));
    Channels<false> const some{count};
    for (int n = 0; n < states; ++n)
        for (int v = 0; v < kVectors; ++v)
        {
            A[n][v] = some.gather(a.A + channel * states, states, n, v) * kLog2e;
            h[n][v] = Vector{};
        }

    Tile tile;
    if (count < kScanChannels) // lanes without a channel compute with zeros
        for (int s = 0; s < kSteps; ++s)
            for (int c = count; c < kScanChannels; ++c)
                tile.dt[s][c] = tile.du[s][c] = 0.f;
    alignas(64) float time[kSteps], input[kSteps];
    for (int64_t begin = 0; begin < length; begin += kSteps)
    {
        int const steps = length - begin < kSteps ? int(length - begin) : kSteps;
        // 1. Time steps and inputs, channel by channel.
        for (int c = 0; c < count; ++c)
        {
            take(delta + c * length + begin, steps, time);
            take(u + c * length + begin, steps, input);
            Vector const bias = all(a.bias ? a.bias[channel + c] : 0.f);
            for (int s = 0; s < steps; s += kLanes)
            {
                Vector const sum = load(time + s) + bias;
                Vector const dt = a.softplus ? softplus(sum) : sum;
                store(time + s, dt);
                store(input + s, dt * load(input + s));
            }
            for (int s = 0; s < steps; ++s)
            {
                tile.dt[s][c] = time[s];
                tile.du[s][c] = input[s];
            }
        }
        for (int n = 0; n < states; ++n)
        {
            take(B + n * length + begin, steps, time);
            take(C + n * length + begin, steps, input);
            for (int s = 0; s < steps; ++s)
            {
                columns[s * 2 * states + n] = time[s];
                columns[s * 2 * states + states + n] = input[s];
            }
        }
        // 2. The recurrence.
        for (int s = 0; s < steps; ++s)
        {
            float const* const b_s = columns + s * 2 * states;
            float const* const c_s = b_s + states;
            for (int v = 0; v < kVectors; ++v)
            {
                Vector const dt = load(tile.dt[s] + v * kLanes), du = load(tile.du[s] + v * kLanes);
                Vector even = Vector{}, odd = Vector{};
#pragma GCC unroll 16
                for (int n = 0; n < states; ++n)
                {
                    h[n][v] = exp2(dt * A[n][v]) * h[n][v] + du * b_s[n];
                    (n % 2 ? odd : even) += h[n][v] * c_s[n];
                }
                store(tile.y[s] + v * kLanes, even + odd);
            }
        }
        // 3. Turned back, with the skip.
        for (int c = 0; c < count; ++c)
        {
            for (int s = 0; s < steps; ++s)
                time[s] = tile.y[s][c];
            if (a.skip)
            {
                take(u + c * length + begin, steps, input);
                Vector const skip = all(a.skip[channel + c]);
                for (int s = 0; s < steps; s += kLanes)
                    store(time + s, load(time + s) + skip * load(input + s));
            }
            give(y + c * length + begin, steps, time);
        }
    }
}

template <class T> void taskOf(S6 const& a, int64_t task)
{
    int64_t const parts = s6TasksOfGroup(a), inner = a.width / a.groups;
    int64_t const first = task % parts * kScanChannels, group = task / parts % a.groups, b = task / parts / a.groups;
    int const count = int(inner - first < kScanChannels ? inner - first : kScanChannels);
    switch (a.states)
    {
    case 1: return channels<T, 1>(a, b, group, first, count);
    case 8: return channels<T, 8>(a, b, group, first, count);
    case 16: return channels<T, 16>(a, b, group, first, count);
    default: return channels<T, 0>(a, b, group, first, count);
    }
}
} // namespace s6

void scanS6(S6 const& a, int64_t task)
{
    switch (a.type)
    {
    case VIVIM_FLOAT32: return s6::taskOf<float>(a, task);
    case VIVIM_FLOAT16: return s6::taskOf<Half>(a, task);
    case VIVIM_BFLOAT16: return s6::taskOf<Bfloat>(a, task);
    }
}
