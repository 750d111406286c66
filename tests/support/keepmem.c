/* keepmem.c - see keepmem.h. */
#include "support/keepmem.h"

#include <string.h>

#define KEPT_MAX 32

static struct kept {
    void *block;
    size_t bytes;
} kept[KEPT_MAX];
static size_t kept_count;

static void *keep_alloc(const struct mem *mem, size_t bytes) {
    (void)mem;
    return mem_system.alloc(&mem_system, bytes);
}

static void *keep_resize(const struct mem *mem, void *block, size_t bytes) {
    (void)mem;
    return mem_system.resize(&mem_system, block, bytes);
}

static void keep_release(const struct mem *mem, void *block) {
    (void)mem;
    mem_system.release(&mem_system, block);
}

static void *keep_map(const struct mem *mem, size_t bytes, bool huge) {
    (void)mem;
    for (size_t i = kept_count; i > 0; i--) {
        if (kept[i - 1].bytes == bytes) {
            void *block = kept[i - 1].block;
            kept[i - 1] = kept[--kept_count];
            return memset(block, 0, bytes);
        }
    }
    return mem_system.map(&mem_system, bytes, huge);
}

static void keep_unmap(const struct mem *mem, void *block, size_t bytes) {
    (void)mem;
    if (kept_count == KEPT_MAX) { /* the oldest goes: sizes that nobody asks for any more must not fill the list */
        mem_system.unmap(&mem_system, kept[0].block, kept[0].bytes);
        memmove(kept, kept + 1, (KEPT_MAX - 1) * sizeof *kept);
        kept_count--;
    }
    kept[kept_count++] = (struct kept){block, bytes};
}

const struct mem *keepmem(void) {
    static const struct mem keep = {keep_alloc, keep_resize, keep_release, keep_map, keep_unmap, NULL, NULL};
    (void)keep; /* unused under a sanitizer */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return &mem_system;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
    return &mem_system;
#endif
#endif
    return &keep;
}
