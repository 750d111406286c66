/*
 * fork_guard.c - one page that the kernel hands to a forked child wiped to zero: see thread.h.
 *
 * A child has the memory of its parent but none of its threads: its store's mutexes may be locked for ever, and its
 * mapped log is the parent's. Comparing getpid() is a system call on every operation and is wrong once pids repeat; a
 * handler of pthread_atfork cannot be taken back. A load of one word is right and costs nothing.
 */
#include "platform/thread.h"

#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>

#define FORK_GUARD_MAGIC UINT64_C(0x6f776e65722d7067)

struct fork_guard {
    _Atomic uint64_t magic;
};

struct fork_guard *fork_guard_new(void) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    void *block = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED) {
        return NULL;
    }
    if (madvise(block, page, MADV_WIPEONFORK) != 0) {
        (void)munmap(block, page);
        return NULL;
    }
    struct fork_guard *guard = block;
    /* relaxed; pairs with the load below: whoever got the guard got it after this store. */
    atomic_store_explicit(&guard->magic, FORK_GUARD_MAGIC, memory_order_relaxed);
    return guard;
}

bool fork_guard_is_owner(const struct fork_guard *guard) {
    /* relaxed; pairs with the store above. In a child the load reads what the kernel put there. */
    return guard == NULL || atomic_load_explicit(&guard->magic, memory_order_relaxed) == FORK_GUARD_MAGIC;
}

void fork_guard_free(struct fork_guard *guard) {
    if (guard != NULL) {
        (void)munmap(guard, (size_t)sysconf(_SC_PAGESIZE));
    }
}
