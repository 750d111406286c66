/*
 * mem.h - the one seam for every allocation of the library.
 *
 * A store is given one `struct mem` when it opens and passes it down; no room calls the C allocator itself. Tests put
 * a counting allocator that fails the N-th call behind the same functions. A NULL return always means "out of
 * memory": the caller unwinds and answers PLEAT_ERR_NO_MEMORY with nothing changed.
 *
 *   alloc/resize/release   ordinary heap blocks, any size, 16-byte aligned
 *   map/unmap              page-aligned zeroed address space, committed on first touch; `huge` asks for 2 MiB pages
 *   populate               advice, and may be NULL: commits pages of a map now, so that no later touch waits for them
 *
 * Threads: every function may be called from any thread at any time.
 */
#ifndef PLEAT_BASE_MEM_H
#define PLEAT_BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>

struct mem {
    void *(*alloc)(const struct mem *mem, size_t bytes);
    void *(*resize)(const struct mem *mem, void *block, size_t bytes);
    void (*release)(const struct mem *mem, void *block);
    void *(*map)(const struct mem *mem, size_t bytes, bool huge);
    void (*unmap)(const struct mem *mem, void *block, size_t bytes);
    void (*populate)(const struct mem *mem, void *pages, size_t bytes);
    void *context;
};

/* The C library's allocator and anonymous mappings. */
extern const struct mem mem_system;

/* Uninitialised block of `bytes` (> 0), or NULL. Owned by the caller until mem_free. */
void *mem_alloc(const struct mem *mem, size_t bytes);
/* Zeroed array of count * bytes, or NULL (also when the product overflows). */
void *mem_zalloc(const struct mem *mem, size_t count, size_t bytes);
/* Grows or shrinks `block` (NULL allowed); on NULL the old block is untouched and still owned. */
void *mem_resize(const struct mem *mem, void *block, size_t bytes);
/* Copy of `bytes` bytes at `data` (a zero-length copy is still a block), or NULL. */
void *mem_copy(const struct mem *mem, const void *data, size_t bytes);
/* NULL is allowed. */
void mem_free(const struct mem *mem, void *block);
/* Zeroed page-aligned address space, or NULL; `huge` is advice. */
void *mem_map(const struct mem *mem, size_t bytes, bool huge);
void mem_unmap(const struct mem *mem, void *block, size_t bytes);
/* Whole pages of a map. What they hold stays; beside others who read and write them. */
void mem_populate(const struct mem *mem, void *pages, size_t bytes);

#endif
