/* Counts what a process asks the C library for, when it is preloaded: NumPy's arrays, OpenCV's and FFmpeg's buffers.
   Python's own small objects come from its arenas and are not seen. glibc only. */
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void*, size_t),
    *__libc_memalign(size_t, size_t);

static atomic_llong calls, bytes;

static void count(size_t size)
{
    atomic_fetch_add_explicit(&calls, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&bytes, (long long)size, memory_order_relaxed);
}

void* malloc(size_t size)
{
    count(size);
    return __libc_malloc(size);
}
void* calloc(size_t number, size_t size)
{
    count(number * size);
    return __libc_calloc(number, size);
}
void* realloc(void* old, size_t size)
{
    count(size);
    return __libc_realloc(old, size);
}
void* memalign(size_t alignment, size_t size)
{
    count(size);
    return __libc_memalign(alignment, size);
}
void* aligned_alloc(size_t alignment, size_t size)
{
    count(size);
    return __libc_memalign(alignment, size);
}
int posix_memalign(void** result, size_t alignment, size_t size)
{
    count(size);
    *result = __libc_memalign(alignment, size);
    return *result ? 0 : ENOMEM;
}

long long allocation_calls(void) { return calls; }
long long allocation_bytes(void) { return bytes; }
