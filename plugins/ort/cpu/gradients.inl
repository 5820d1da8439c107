// Gradients of the recurrence (gradients.h), a part of kernels.inl: its numerics and vectors are used here.
//
// A task is up to kGradientChannels channels of one sequence. It goes through the steps once forwards and keeps every
// kGradientSteps-th state, then segment after segment backwards: the states of a segment are made again with their decays,
// and the adjoint state s runs against them,
//
//   s_l = 2^(dt_{l+1} A) s_{l+1} + C_l g_l
//   dC_l = h_l g_l,  dB_l = s_l dt_l u_l,  d(dt_l u_l) = B_l s_l,  d(dt_l A) = ln 2 s_l h_{l-1} 2^(dt_l A)
//
// Sums over channels are made in vectors of them and added up across a vector once a segment; those over time, for A, a
// segment at a time.
namespace gradients
{
// A row of channels from some vector on: all lanes of it, or fewer at the end.
struct Lanes
{
    int64_t count;

    Vector load(float const* row) const { return count >= kLanes ? VIVIM_ISA::load(row) : loadSome(row, count); }
    void store(float* row, Vector value) const
    {
        if (count >= kLanes)
            VIVIM_ISA::store(row, value);
        else
            storeSome(row, count, value);
    }
};

// `States` is N where it is known to the compiler, or 0.
template <int States> void channels(Gradients const& a, int64_t task)
{
    constexpr float kLn2 = 0.693147181f;
    int const states = States ? States : a.states;
    int64_t const blocks = gradientBlocks(a), sequence = task / blocks, block = task % blocks;
    int64_t const first = block * kGradientChannels, length = a.length, width = a.width;
    int64_t const count = width - first < kGradientChannels ? width - first : kGradientChannels;
    int64_t const vectors = quotient(count, kLanes), segments = gradientSegments(a);

    Vector* room = reinterpret_cast<Vector*>(a.room + task * gradientRoom(a));
    auto const rows = [&](int64_t number) {
        Vector* const result = room;
        room += number * states;
        return result;
    };
    Vector* const kept = rows(vectors * segments);
    Vector* const adjoint = rows(vectors);
    Vector* const sumA = rows(vectors);
    Vector* const rate = rows(vectors);
    Vector* const history = rows(kGradientSteps + 1);
    Vector* const decays = rows(kGradientSteps);
    Vector* const sumB = rows(kGradientSteps);
    Vector* const sumC = rows(kGradientSteps);

    int64_t const start = sequence * length * width + first;
    float const* const B = a.B + sequence * length * states;
    float const* const C = a.C + sequence * length * states;

    // 1. Forwards, for the states that segments start from.
    for (int64_t v = 0; v < vectors; ++v)
    {
        Lanes const lanes{count - v * kLanes};
        int64_t const channel = first + v * kLanes;
        Vector h[States ? States : kMaxStates];
        Vector* const A = rate + v * states;
        for (int n = 0; n < states; ++n)
        {
            Vector value{};
            for (int i = 0; i < kLanes && i < lanes.count; ++i)
                value[i] = a.A_log2e[(channel + i) * states + n];
            A[n] = value;
            h[n] = a.initial ? lanes.load(a.initial + (sequence * states + n) * width + channel) : Vector{};
            adjoint[v * states + n] = sumA[v * states + n] = Vector{};
        }
        for (int64_t l = 0; l < length; ++l)
        {
            if (l % kGradientSteps == 0)
                for (int n = 0; n < states; ++n)
                    kept[(v * segments + l / kGradientSteps) * states + n] = h[n];
            int64_t const at = start + v * kLanes + l * width;
            Vector const dt = lanes.load(a.dt + at), du = dt * lanes.load(a.u + at);
            float const* const b = B + l * states;
#pragma GCC unroll 16
            for (int n = 0; n < states; ++n)
                h[n] = exp2(dt * A[n]) * h[n] + du * b[n];
        }
    }

    // 2. Segments, from the last to the first.
    float* const toB = a.parts ? a.parts + (2 * block * a.sequences + sequence) * length * states
                               : a.gradB + sequence * length * states;
    float* const toC = a.parts ? a.parts + ((2 * block + 1) * a.sequences + sequence) * length * states
                               : a.gradC + sequence * length * states;
    for (int64_t segment = segments - 1; segment >= 0; --segment)
    {
        int64_t const begin = segment * kGradientSteps;
        int const steps = int(length - begin < kGradientSteps ? length - begin : kGradientSteps);
        for (int i = 0; i < steps * states; ++i)
            sumB[i] = sumC[i] = Vector{};
        for (int64_t v = 0; v < vectors; ++v)
        {
            Lanes const lanes{count - v * kLanes};
            Vector const* const A = rate + v * states;
            Vector const skip = lanes.load(a.skip + first + v * kLanes);
            int64_t const from = start + v * kLanes + begin * width;
            for (int n = 0; n < states; ++n)
                history[n] = kept[(v * segments + segment) * states + n];
            for (int s = 0; s < steps; ++s)
            {
                int64_t const at = from + s * width;
                Vector const input = lanes.load(a.u + at), dt = lanes.load(a.dt + at), du = dt * input;
                float const *const b = B + (begin + s) * states, *const c = C + (begin + s) * states;
                Vector const* const before = history + s * states;
                Vector *const after = history + (s + 1) * states, *const decay = decays + s * states;
                Vector even = skip * input, odd = Vector{};
#pragma GCC unroll 16
                for (int n = 0; n < states; ++n)
                {
                    decay[n] = exp2(dt * A[n]);
                    after[n] = decay[n] * before[n] + du * b[n];
                    (n % 2 ? odd : even) += after[n] * c[n];
                }
                lanes.store(a.y + at, even + odd);
            }
            Vector* const back = adjoint + v * states;
            Vector part[States ? States : kMaxStates];
            for (int n = 0; n < states; ++n)
                part[n] = Vector{};
            for (int s = steps - 1; s >= 0; --s)
            {
                int64_t const at = from + s * width;
                Vector const input = lanes.load(a.u + at), dt = lanes.load(a.dt + at), du = dt * input;
                Vector const g = lanes.load(a.grad + at);
                float const *const b = B + (begin + s) * states, *const c = C + (begin + s) * states;
                Vector const *const before = history + s * states, *const after = before + states;
                Vector const* const decay = decays + s * states;
                Vector ofInput = Vector{}, ofTime = Vector{};
#pragma GCC unroll 16
                for (int n = 0; n < states; ++n)
                {
                    Vector const h = back[n] + g * c[n];
                    sumC[s * states + n] += after[n] * g;
                    sumB[s * states + n] += h * du;
                    ofInput += h * b[n];
                    back[n] = h * decay[n];
                    Vector const ofExponent = back[n] * before[n];
                    part[n] += ofExponent * dt;
                    ofTime += ofExponent * A[n];
                }
                lanes.store(a.gradDt + at, ofTime * kLn2 + ofInput * input);
                lanes.store(a.gradU + at, ofInput * dt + g * skip);
            }
            for (int n = 0; n < states; ++n)
                sumA[v * states + n] += part[n];
        }
        for (int i = 0; i < steps * states; ++i)
        {
            toB[begin * states + i] = sumOf(sumB[i]);
            toC[begin * states + i] = sumOf(sumC[i]);
        }
    }
    for (int64_t v = 0; v < vectors; ++v)
        for (int n = 0; n < states; ++n)
            Lanes{count - v * kLanes}.store(
                a.gradA + (sequence * states + n) * width + first + v * kLanes, sumA[v * states + n] * kLn2);
}
} // namespace gradients

void scanGradients(Gradients const& a, int64_t task)
{
    switch (a.states)
    {
    case 8: return gradients::channels<8>(a, task);
    case 16: return gradients::channels<16>(a, task);
    default: return gradients::channels<0>(a, task);
    }
}
