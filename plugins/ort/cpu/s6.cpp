// What the plain scan takes, and how it is cut into tasks.
#include "s6.h"

#include <string>

#include "checks.h"

namespace vivim::cpu
{
void scanS6(S6 const& s6, Workers& workers)
{
    expect(s6.batch >= 1, "the batch", s6.batch, "1 or more");
    expect(s6.length >= 1, "the number of tokens", s6.length, "1 or more");
    expect(s6.width >= 1, "the width", s6.width, "1 or more");
    expect(s6.groups >= 1, "the number of groups", s6.groups, "1 or more");
    expect(s6.width % s6.groups == 0, "the width", s6.width, "a multiple of groups, " + std::to_string(s6.groups));
    expect(s6.states >= 1 && s6.states <= VIVIM_S6_MAX_STATES, "the number of states", s6.states,
        "1 to " + std::to_string(VIVIM_S6_MAX_STATES));
    expect(s6.type >= VIVIM_FLOAT32 && s6.type <= VIVIM_BFLOAT16, "the data type", s6.type, "a vivim_dtype");
    expectPointers({s6.u, s6.delta, s6.B, s6.C, s6.A, s6.y});
    workers.run(
        s6.batch * s6.groups * s6TasksOfGroup(s6),
        [](void const* operation, int64_t task) { kernels().s6(*static_cast<S6 const*>(operation), task); }, &s6);
}
} // namespace vivim::cpu
