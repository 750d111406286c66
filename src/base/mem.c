/* mem.c - the system allocator behind mem.h: the only file that names the C library's allocator. */
#include "base/mem.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

static void *system_alloc(const struct mem *mem, size_t bytes) {
    (void)mem;
    return malloc(bytes);
}

static void *system_resize(const struct mem *mem, void *block, size_t bytes) {
    (void)mem;
    return realloc(block, bytes);
}

static void system_release(const struct mem *mem, void *block) {
    (void)mem;
    free(block);
}

static void *system_map(const struct mem *mem, size_t bytes, bool huge) {
    (void)mem;
    void *block = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (block == MAP_FAILED) {
        return NULL;
    }
    if (huge) {
        (void)madvise(block, bytes, MADV_HUGEPAGE); /* advice: small pages are slower, not wrong */
    }
    return block;
}

static void system_unmap(const struct mem *mem, void *block, size_t bytes) {
    (void)mem;
    (void)munmap(block, bytes);
}

static void system_populate(const struct mem *mem, void *pages, size_t bytes) {
    (void)mem;
    (void)madvise(pages, bytes, MADV_POPULATE_WRITE); /* an older kernel refuses: pages then come with their touch */
}

const struct mem mem_system = {system_alloc,    system_resize, system_release, system_map, system_unmap,
                               system_populate, NULL};

void *mem_alloc(const struct mem *mem, size_t bytes) {
    return mem->alloc(mem, bytes > 0 ? bytes : 1);
}

void *mem_zalloc(const struct mem *mem, size_t count, size_t bytes) {
    if (bytes != 0 && count > SIZE_MAX / bytes) {
        return NULL;
    }
    void *block = mem_alloc(mem, count * bytes);
    if (block != NULL) {
        memset(block, 0, count * bytes);
    }
    return block;
}

void *mem_resize(const struct mem *mem, void *block, size_t bytes) {
    return mem->resize(mem, block, bytes > 0 ? bytes : 1);
}

void *mem_copy(const struct mem *mem, const void *data, size_t bytes) {
    void *block = mem_alloc(mem, bytes);
    if (block != NULL && bytes > 0) {
        memcpy(block, data, bytes);
    }
    return block;
}

void mem_free(const struct mem *mem, void *block) {
    if (block != NULL) {
        mem->release(mem, block);
    }
}

void *mem_map(const struct mem *mem, size_t bytes, bool huge) {
    return mem->map(mem, bytes, huge);
}

void mem_unmap(const struct mem *mem, void *block, size_t bytes) {
    if (block != NULL) {
        mem->unmap(mem, block, bytes);
    }
}

void mem_populate(const struct mem *mem, void *pages, size_t bytes) {
    if (mem->populate != NULL && bytes > 0) {
        mem->populate(mem, pages, bytes);
    }
}
