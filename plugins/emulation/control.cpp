// What the tests of the emulated build set, as plain functions.
#include "cuda_emulator.h"
#include "vivim_kernels.h"

using vivim::emulation::control;

extern "C"
{
// Order of the threads of a block: 0 ascending, 1 descending, 2 shuffled by `seed` anew at every turn.
VIVIM_API void vivim_emulation_set_order(int32_t order, uint32_t seed)
{
    control().order = order;
    control().seed = seed;
}

// OS threads that the blocks of a grid are spread over; 0: as many as the machine has.
VIVIM_API void vivim_emulation_set_threads(int32_t count) { control().maxThreads = count; }

// Removes the barrier on a line of a source file (last component of its path) until the next call; line 0: none.
// launch: in which of the kernel launches from now on, counted from 0; -1: in all of them.
VIVIM_API void vivim_emulation_remove_barrier(char const* file, int32_t line, int32_t launch)
{
    control().launches = 0;
    control().skippedLaunch = launch;
    control().skippedFile = file;
    control().skipped = false;
    control().skippedLine = line;
}

// Whether a thread has come to the removed barrier.
VIVIM_API int32_t vivim_emulation_barrier_was_reached() { return control().skipped; }

// Shared memory that a block may have; 0: 99 KiB, as on sm_86 and sm_89.
VIVIM_API void vivim_emulation_set_shared_limit(uint32_t bytes)
{
    control().sharedLimit = bytes ? bytes : vivim::emulation::kSharedLimit;
}
}
