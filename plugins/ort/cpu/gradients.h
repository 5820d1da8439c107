// Gradients of the recurrence in the middle of a scan, for training on the CPU. kernels.h says what tasks and workers are.
//
//   h_l = 2^(dt_l A) h_{l-1} + dt_l u_l B_l,  y_l = C_l h_l + skip u_l
//
// for sequences that are in the order of their direction already, time steps made: what is around it (projection,
// softplus, order, gate) is left to the caller. All is float32.
#pragma once

#include "kernels.h"

namespace vivim::cpu
{
constexpr int64_t kGradientChannels = 32; // of a task: a sum over them is made before it is written
constexpr int64_t kGradientSteps = 16;    // between two states that are kept; those between are made once more

struct Gradients
{
    float const *dt, *u;   // (S, L, D)
    float const *B, *C;    // (S, L, N)
    float const* A_log2e;  // (D, N)
    float const* skip;     // (D)
    float const* initial;  // (S, N, D), the state before the first step; null: zeros
    float const* grad;     // (S, L, D), of y
    float* y;              // (S, L, D)
    float *gradDt, *gradU; // (S, L, D)
    float *gradB, *gradC;  // (S, L, N)
    float* gradA;          // (S, N, D), of A_log2e
    int64_t sequences, length, width;
    int states;
    float* room;  // gradientRoom() numbers a task
    float* parts; // (blocks of channels, 2, S, L, N), sums for gradB and gradC; null where there is one block
};

inline int64_t gradientBlocks(Gradients const& a) { return quotient(a.width, kGradientChannels); }
inline int64_t gradientSegments(Gradients const& a) { return quotient(a.length, kGradientSteps); }

// Rows of N vectors, one for every 4, 8 or 16 channels, that a task needs at most: states kept and of a segment,
// decays, sums for B and C, and of each vector of channels the adjoint state, A and its gradient.
inline int64_t gradientRoom(Gradients const& a)
{
    constexpr int64_t kLargestVector = 16;
    int64_t const kept = gradientSegments(a) + 3, work = 4 * kGradientSteps + 1;
    return a.states * (kept * kGradientChannels + work * kLargestVector);
}

// Throws std::invalid_argument as the other operators do.
void scanGradients(Gradients gradients, Workers& workers);
} // namespace vivim::cpu
