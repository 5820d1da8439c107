// What the gradients of the recurrence take, and how they are cut into tasks.
#include "gradients.h"

#include <string>

#include "checks.h"

namespace vivim::cpu
{
namespace
{
constexpr int64_t kSumNumbers = 1 << 14; // of a task that adds up blocks of channels

// Adds up the blocks of channels, in their order, for a part of (S, L, N).
void sumBlocks(void const* operation, int64_t task)
{
    Gradients const& a = *static_cast<Gradients const*>(operation);
    int64_t const numbers = a.sequences * a.length * a.states, blocks = gradientBlocks(a);
    int64_t const begin = task * kSumNumbers, end = begin + kSumNumbers < numbers ? begin + kSumNumbers : numbers;
    for (int64_t i = begin; i < end; ++i)
        a.gradB[i] = a.parts[i], a.gradC[i] = a.parts[numbers + i];
    for (int64_t block = 1; block < blocks; ++block)
        for (int64_t i = begin; i < end; ++i)
        {
            a.gradB[i] += a.parts[2 * block * numbers + i];
            a.gradC[i] += a.parts[(2 * block + 1) * numbers + i];
        }
}
} // namespace

void scanGradients(Gradients gradients, Workers& workers)
{
    expect(gradients.sequences >= 1, "the number of sequences", gradients.sequences, "1 or more");
    expect(gradients.length >= 1, "the number of tokens", gradients.length, "1 or more");
    expect(gradients.width >= 1, "the width", gradients.width, "1 or more");
    expect(gradients.states >= 1 && gradients.states <= kMaxStates, "the number of states", gradients.states,
        "1 to " + std::to_string(kMaxStates));
    Gradients const& a = gradients;
    expectPointers({a.dt, a.u, a.B, a.C, a.A_log2e, a.skip, a.grad, a.y, a.gradDt, a.gradU, a.gradB, a.gradC, a.gradA});
    int64_t const blocks = gradientBlocks(gradients), tasks = gradients.sequences * blocks;
    int64_t const numbers = gradients.sequences * gradients.length * gradients.states;
    int64_t const room = tasks * gradientRoom(gradients), parts = blocks > 1 ? 2 * blocks * numbers : 0;
    gradients.room = static_cast<float*>(workers.room(size_t(room + parts) * sizeof(float)));
    gradients.parts = parts ? gradients.room + room : nullptr;
    workers.run(
        tasks,
        [](void const* operation, int64_t task) {
            kernels().scanGradients(*static_cast<Gradients const*>(operation), task);
        },
        &gradients);
    if (parts)
        workers.run(quotient(numbers, kSumNumbers), sumBlocks, &gradients);
}
} // namespace vivim::cpu
