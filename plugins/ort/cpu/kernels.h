// The operators on the CPU: what ONNX Runtime's operators, PyTorch and the tests share.
//
// An operator is cut into tasks that are independent and may run in any order on any thread; what a task computes does
// not depend on how many threads there are, nor on how the operator was cut. Shapes, the order of the tokens and the
// meaning of every tensor are those of vivim_kernels.h; parameters are float32, data is of one of three types.
#pragma once

#include <cstddef>
#include <cstdint>

#include "vivim_kernels.h"

namespace vivim::cpu
{
constexpr int kMaxTaps = 8;
constexpr int kMaxStates = 256;
constexpr int kMaxRank = 1024;
constexpr int64_t kConvTokens = 256;    // of a task of the convolution: its rows stay in the L2 cache
constexpr int64_t kScanChannels = 16;   // of a task of the scan: one cache line of float32
constexpr int64_t kCombineTokens = 256; // of a task that adds up directions
constexpr int64_t kNormRows = 64;       // of a task of the sum and its norm

// a / b, rounded up.
constexpr int64_t quotient(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Order
{
    int64_t length, rows;
    int directionCount;
    int directions[VIVIM_MAX_DIRECTIONS];
};

struct Conv
{
    void const* x;       // (B, L, xWidth), of which the first D channels are read
    float const* weight; // (K, D, taps)
    float const* bias;   // (K, D)
    void* xc;            // (K, B, L, D)
    Order order;
    int64_t batch, width, xWidth;
    int taps;
    vivim_dtype type; // of x and xc
    void const* tail; // (B, taps - 1, D), what the first direction met before its first step; null: zeros
};

struct Scan
{
    void const* xc;        // (K or 1, B, L, D)
    void const* dbc;       // (K, B, L, R + 2N): low | B | C
    void const* xz;        // (B, L, gateWidth), the gate in its last D channels; no gate where gateWidth is 0
    float const* A_log2e;  // (K, D, N)
    float const* dtWeight; // (K, D, R)
    float const* dtBias;   // (K, D)
    float const* dSkip;    // (K, D)
    void* y;               // (B, L, D)
    Order order;
    int64_t batch, width, gateWidth;
    int rank, states;
    bool sharedInput, mean;
    vivim_dtype type; // of xc, dbc, xz and y
    // Where sums wait for the next direction: (B, L, D), or with `split`, where each direction is a task of its own,
    // (K, B, L, D).
    float* sums;
    bool split;
    float const* initial; // (B, N, D), state of the first direction before its first step; null: zeros
    float* final;         // (B, N, D), and after its last; null: nobody asks. May be the memory of `initial`
};

// Depthwise convolution of channels-last images over (frames, rows, columns), zeros outside, then GELU (with erf).
struct Depthwise
{
    float const* x;      // (B, T, H, W, C)
    float const* weight; // (kernelFrames, 3, 3, C)
    float const* bias;   // (C)
    float* y;            // as x
    int64_t batch, frames, height, width, channels;
    int kernelFrames; // 1 or 3
};

// A residual sum and its LayerNorm over rows.
struct AddNorm
{
    float const *x, *y;        // (rows, width)
    float const *gamma, *beta; // (width)
    float *sum, *normed;       // (rows, width)
    int64_t rows, width;
    float epsilon;
};

// The end of the decoder: scales in channels last, the smaller ones upsampled to the first (bilinear, half-pixel centres,
// edges held), their sum and the bias, ReLU, and one weighted sum a class.
struct MergeScales
{
    static constexpr int kScales = 4;
    struct Scale
    {
        float const* x; // (F, height, width, E)
        int64_t height, width;
    };
    Scale scales[kScales];
    float const* bias;      // (E)
    float const* weight;    // (K, E)
    float const* classBias; // (K)
    float* logits;          // (F, K, height, width) of the first scale
    int64_t frames, channels, classes;
};

struct S6;        // s6.h
struct Gradients; // gradients.h

// One instruction set's implementation. `combine` follows a scan that is split.
struct Kernels
{
    char const* name;
    void (*conv)(Conv const& conv, int64_t task);
    void (*scan)(Scan const& scan, int64_t task);
    void (*combine)(Scan const& scan, int64_t task);
    void (*depthwise)(Depthwise const& depthwise, int64_t task);
    void (*s6)(S6 const& s6, int64_t task);
    void (*addNorm)(AddNorm const& norm, int64_t task);
    void (*mergeScales)(MergeScales const& merge, int64_t task);
    void (*scanGradients)(Gradients const& gradients, int64_t task);
};

namespace baseline
{
extern Kernels const kKernels;
} // namespace baseline
namespace avx2
{
extern Kernels const kKernels;
}
namespace avx512
{
extern Kernels const kKernels;
}

// The best that this CPU has; VIVIM_CPU_ISA=avx512|avx2|baseline in the environment asks for a lesser one.
Kernels const& kernels();

// Who runs the tasks and lends memory.
class Workers
{
public:
    virtual ~Workers() = default;
    using Task = void (*)(void const* operation, int64_t task);
    // Calls every task of 0 .. count-1 once and returns when all have ended.
    virtual void run(int64_t count, Task task, void const* operation) = 0;
    // Memory that lives until the next call of `room` or the end of the workers; aligned to 64 bytes.
    virtual void* room(size_t bytes) = 0;
    // How many tasks run at the same time, for the choice of how an operator is cut.
    virtual int64_t threads() const = 0;
};

// Of this machine that this process may use; 1 where that is not known.
int64_t processors();

// Throw std::invalid_argument, which says what was received and expected, for what the kernels cannot take.
void convolve(Conv const& conv, Workers& workers);
void scan(Scan scan, Workers& workers);
void convolveDepthwise(Depthwise const& depthwise, Workers& workers);
void addNorm(AddNorm const& norm, Workers& workers);
void mergeScales(MergeScales const& merge, Workers& workers);
} // namespace vivim::cpu
