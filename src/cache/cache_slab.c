/*
 * cache_slab.c - see cache_slab.h.
 *
 * Slabs calcify when the sizes of a workload shift: class A keeps slabs full of free frames while class B has none.
 * The cure has two halves. A class without a free frame takes single blocks meanwhile, so that nobody waits; those
 * push the pool over the budget, and the clock then drains the slab with the fewest frames in use, whatever its class.
 * Its memory goes back to the system. While the budget has room, a class gets its first slab once its single blocks
 * add up to an eighth of one. When there is no room, a class with half a slab of single blocks gets one all the same,
 * now and then, and the emptiest slab is drained for it: sizes migrate, and single blocks stay few.
 *
 * Frames are carved off a slab one by one, so that a fresh slab touches only the memory that is filled. An emptied
 * slab loses its class and is kept for the next that needs one, while the budget has room.
 */
#include "cache/cache_slab.h"

#include "base/assert.h"

#include <assert.h>
#include <string.h>

enum {
    CACHE_SLAB_BYTES_MAX = 2 << 20,
    CACHE_SLAB_BYTES_MIN = 4096,
    CACHE_SLABS_WANTED = 128, /* a budget is divided into at least so many slabs ... */
    CACHE_SLAB_FRAMES_MIN = 8, /* ... and a slab into at least so many frames: what is left at its end is small */
    CACHE_SLAB_EARNED = 8,   /* a class gets its first slab when single blocks of it hold 1 / so much of one */
    CACHE_SLAB_DESERVED = 2, /* another slab gives way for one when they hold 1 / so much: it will not stay hollow */
    CACHE_EXCHANGE_SHARE = 8, /* at most once while 1 / so much of the capacity is taken: bounds what drains evict */
};

static_assert(sizeof(struct cache_frame_inner) == CACHE_HEADER_BYTES, "two lines of header");
static_assert(offsetof(struct cache_frame_inner, frame) == CACHE_LINE_BYTES, "the hot line is the one before the data");
static_assert(CACHE_HEADER_BYTES - CACHE_LINE_BYTES == CACHE_FRAME_BYTES, "cache_frame_data relies on it");

void cache_memory_init(struct cache_memory *memory, const struct mem *mem, uint64_t capacity) {
    memset(memory, 0, sizeof *memory);
    memory->mem = mem;
    size_t slab_bytes = CACHE_SLAB_BYTES_MAX;
    while (slab_bytes > CACHE_SLAB_BYTES_MIN && slab_bytes > capacity / CACHE_SLABS_WANTED) {
        slab_bytes /= 2;
    }
    memory->slab_bytes = slab_bytes;
    memory->exchange_step_bytes = capacity / CACHE_EXCHANGE_SHARE;
    memory->slab_frame_bytes_max = slab_bytes / CACHE_SLAB_FRAMES_MIN;
    if (memory->slab_frame_bytes_max > CACHE_CLASS_BYTES_MAX) {
        memory->slab_frame_bytes_max = CACHE_CLASS_BYTES_MAX;
    }
}

/* ---- classes ---------------------------------------------------------------------------------------------------- */

/* Sizes in lines: 1, 2, ... 16, then eight steps to each doubling. Needs 1 <= frame_bytes <= CACHE_CLASS_BYTES_MAX. */
static unsigned cache_class_of(size_t frame_bytes) {
    size_t lines_below = (frame_bytes - 1) / CACHE_LINE_BYTES;
    if (lines_below < 8) {
        return (unsigned)lines_below + 1;
    }
    unsigned shift = 60u - (unsigned)__builtin_clzll(lines_below);
    return shift * 8 + (unsigned)(lines_below >> shift) + 1;
}

size_t cache_class_bytes(unsigned class_index) {
    if (class_index <= 16) {
        return (size_t)class_index * CACHE_LINE_BYTES;
    }
    unsigned shift = (class_index - 9) / 8;
    return (size_t)(class_index - shift * 8) * CACHE_LINE_BYTES << shift;
}

size_t cache_memory_frame_bytes(size_t bytes) {
    if (bytes > SIZE_MAX / 2) {
        return 0;
    }
    size_t lines = (bytes + CACHE_LINE_BYTES - 1) / CACHE_LINE_BYTES;
    return CACHE_HEADER_BYTES + lines * CACHE_LINE_BYTES + CACHE_TAIL_BYTES;
}

/* ---- lists of open slabs ---------------------------------------------------------------------------------------- */

static void cache_slab_open(struct cache_slab **list, struct cache_slab *slab) {
    slab->open_previous = NULL;
    slab->open_next = *list;
    if (*list != NULL) {
        (*list)->open_previous = slab;
    }
    *list = slab;
}

static void cache_slab_shut(struct cache_slab **list, struct cache_slab *slab) {
    if (slab->open_previous != NULL) {
        slab->open_previous->open_next = slab->open_next;
    } else {
        *list = slab->open_next;
    }
    if (slab->open_next != NULL) {
        slab->open_next->open_previous = slab->open_previous;
    }
    slab->open_next = NULL;
    slab->open_previous = NULL;
}

/* ---- slabs ------------------------------------------------------------------------------------------------------ */

/* Maps `slab->base`: aligned as a huge page wants it, which may take a mapping of twice the size. */
static bool cache_slab_map(struct cache_memory *memory, struct cache_slab *slab) {
    size_t bytes = memory->slab_bytes;
    bool is_huge = bytes == CACHE_SLAB_BYTES_MAX;
    slab->mapping_bytes = bytes;
    slab->mapping = mem_map(memory->mem, bytes, is_huge);
    if (slab->mapping != NULL && is_huge && (uintptr_t)slab->mapping % bytes != 0) {
        mem_unmap(memory->mem, slab->mapping, bytes);
        slab->mapping_bytes = 2 * bytes; /* the half that is never touched costs address space only */
        slab->mapping = mem_map(memory->mem, 2 * bytes, true);
    }
    if (slab->mapping == NULL) {
        return false;
    }
    uintptr_t skip = is_huge ? (0 - (uintptr_t)slab->mapping) % bytes : 0;
    slab->base = (uint8_t *)slab->mapping + skip;
    return true;
}

/* A slab without a class, on no open list; NULL when memory is out. */
static struct cache_slab *cache_slab_new(struct cache_memory *memory) {
    struct cache_slab *slab = mem_zalloc(memory->mem, 1, sizeof *slab);
    if (slab == NULL) {
        return NULL;
    }
    if (!cache_slab_map(memory, slab)) {
        mem_free(memory->mem, slab);
        return NULL;
    }
    slab->next = memory->slabs;
    if (memory->slabs != NULL) {
        memory->slabs->previous = slab;
    }
    memory->slabs = slab;
    memory->fresh = slab;
    memory->slab_bytes_total += memory->slab_bytes;
    return slab;
}

/* Unmaps a slab that is on no open list. */
static void cache_slab_free(struct cache_memory *memory, struct cache_slab *slab) {
    ASSERT(slab->used == 0);
    memory->fresh = memory->fresh == slab ? NULL : memory->fresh;
    if (slab->previous != NULL) {
        slab->previous->next = slab->next;
    } else {
        memory->slabs = slab->next;
    }
    if (slab->next != NULL) {
        slab->next->previous = slab->previous;
    }
    memory->slab_bytes_total -= memory->slab_bytes;
    mem_unmap(memory->mem, slab->mapping, slab->mapping_bytes);
    mem_free(memory->mem, slab);
}

/* Frames of the slab that can be taken. */
static uint64_t cache_slab_free_bytes(const struct cache_slab *slab) {
    return (uint64_t)(slab->frames - slab->used) * cache_class_bytes(slab->class_index);
}

/* Makes a slab without a class one of `class_index`. */
static void cache_slab_adopt(struct cache_memory *memory, struct cache_slab *slab, unsigned class_index) {
    slab->class_index = (uint8_t)class_index;
    slab->frames = (uint32_t)(memory->slab_bytes / cache_class_bytes(class_index));
    slab->free = NULL;
    slab->carved = 0;
    slab->used = 0;
    slab->limbo = 0;
    slab->is_draining = false;
    memory->classes[class_index].slabs++;
    memory->free_bytes += cache_slab_free_bytes(slab);
    cache_slab_open(&memory->classes[class_index].open, slab);
}

bool cache_memory_shrink(struct cache_memory *memory) {
    struct cache_slab *slab = memory->empty;
    if (slab == NULL) {
        return false;
    }
    cache_slab_shut(&memory->empty, slab);
    memory->free_bytes -= memory->slab_bytes;
    cache_slab_free(memory, slab);
    return true;
}

void cache_memory_fini(struct cache_memory *memory) {
    while (cache_memory_shrink(memory)) {
    }
    ASSERT(memory->slabs == NULL && memory->single_bytes == 0);
}

struct cache_frame_inner *cache_slab_frame(const struct cache_memory *memory, const struct cache_slab *slab,
                                           uint32_t index) {
    (void)memory;
    return (struct cache_frame_inner *)(void *)(slab->base + (size_t)index * cache_class_bytes(slab->class_index));
}

struct cache_slab *cache_memory_drain(struct cache_memory *memory) {
    struct cache_slab *best = NULL;
    for (struct cache_slab *slab = memory->slabs; slab != NULL; slab = slab->next) {
        if (!slab->is_draining && slab->used > 0 && slab != memory->fresh &&
            (best == NULL || (uint64_t)(slab->used - slab->limbo) * cache_class_bytes(slab->class_index) <
                                 (uint64_t)(best->used - best->limbo) * cache_class_bytes(best->class_index))) {
            best = slab;
        }
    }
    if (best == NULL) {
        return NULL;
    }
    struct cache_class *class = &memory->classes[best->class_index];
    if (best->used < best->frames) {
        cache_slab_shut(&class->open, best);
    }
    class->slabs--;
    memory->free_bytes -= cache_slab_free_bytes(best);
    memory->limbo_bytes -= (uint64_t)best->limbo * cache_class_bytes(best->class_index);
    memory->draining_bytes += memory->slab_bytes;
    best->is_draining = true;
    return best;
}

/* ---- frames ----------------------------------------------------------------------------------------------------- */

static void cache_exchange_count(struct cache_memory *memory, size_t bytes) {
    memory->exchange_wait_bytes -= bytes < memory->exchange_wait_bytes ? bytes : memory->exchange_wait_bytes;
}

static struct cache_frame_inner *cache_slab_take(struct cache_memory *memory, struct cache_slab *slab) {
    struct cache_frame_inner *inner = slab->free;
    if (inner != NULL) {
        ASSERT(inner->state == CACHE_FRAME_FREE);
        slab->free = inner->next;
    } else {
        inner = cache_slab_frame(memory, slab, slab->carved);
        slab->carved++;
    }
    size_t bytes = cache_class_bytes(slab->class_index);
    slab->used++;
    memory->free_bytes -= bytes;
    cache_exchange_count(memory, bytes);
    if (slab->used == slab->frames) {
        cache_slab_shut(&memory->classes[slab->class_index].open, slab);
    }
    inner->slab = slab;
    inner->block = NULL;
    inner->memory_bytes = bytes;
    inner->class_index = slab->class_index;
    return inner;
}

struct cache_frame_inner *cache_memory_take_slab(struct cache_memory *memory, size_t frame_bytes, uint64_t room,
                                                 bool may_exceed) {
    if (frame_bytes > memory->slab_frame_bytes_max) {
        return NULL;
    }
    unsigned class_index = cache_class_of(frame_bytes);
    if (cache_class_bytes(class_index) > memory->slab_frame_bytes_max) {
        return NULL;
    }
    struct cache_class *class = &memory->classes[class_index];
    struct cache_slab *slab = class->open;
    if (slab != NULL) {
        return cache_slab_take(memory, slab);
    }
    if (class->slabs == 0 && class->single_bytes < memory->slab_bytes / CACHE_SLAB_EARNED) {
        return NULL;
    }
    slab = memory->empty;
    if (slab != NULL) {
        cache_slab_shut(&memory->empty, slab);
        memory->free_bytes -= memory->slab_bytes;
    } else if (room >= memory->slab_bytes) {
        slab = cache_slab_new(memory);
    } else if (may_exceed && memory->exchange_wait_bytes == 0 &&
               class->single_bytes >= memory->slab_bytes / CACHE_SLAB_DESERVED) {
        memory->exchange_wait_bytes = memory->exchange_step_bytes;
        slab = cache_slab_new(memory);
    }
    if (slab == NULL) {
        return NULL;
    }
    cache_slab_adopt(memory, slab, class_index);
    return cache_slab_take(memory, slab);
}

struct cache_frame_inner *cache_memory_take_single(struct cache_memory *memory, size_t frame_bytes) {
    void *block = mem_alloc(memory->mem, frame_bytes + CACHE_LINE_BYTES);
    if (block == NULL) {
        return NULL;
    }
    uintptr_t skip = (0 - (uintptr_t)block) % CACHE_LINE_BYTES;
    struct cache_frame_inner *inner = (struct cache_frame_inner *)(void *)((char *)block + skip);
    inner->slab = NULL;
    inner->block = block;
    inner->memory_bytes = frame_bytes + CACHE_LINE_BYTES;
    inner->class_index = (uint8_t)(frame_bytes <= CACHE_CLASS_BYTES_MAX ? cache_class_of(frame_bytes) : 0);
    memory->classes[inner->class_index].single_bytes += inner->memory_bytes;
    memory->single_bytes += inner->memory_bytes;
    cache_exchange_count(memory, inner->memory_bytes);
    return inner;
}

/* The last frame of a slab was given back. */
static void cache_slab_emptied(struct cache_memory *memory, struct cache_slab *slab, bool is_over) {
    if (slab->is_draining) {
        memory->draining_bytes -= memory->slab_bytes;
    } else {
        cache_slab_shut(&memory->classes[slab->class_index].open, slab);
        memory->classes[slab->class_index].slabs--;
        memory->free_bytes -= cache_slab_free_bytes(slab);
    }
    if (is_over) {
        cache_slab_free(memory, slab);
        return;
    }
    slab->is_draining = false;
    memory->free_bytes += memory->slab_bytes;
    cache_slab_open(&memory->empty, slab);
}

void cache_memory_give(struct cache_memory *memory, struct cache_frame_inner *inner, bool is_over) {
#ifdef PLEAT_DEBUG
    memset(inner->frame.data, 0xdb, inner->frame.bytes); /* whoever reads a frame too long is to see nonsense */
#endif
    struct cache_slab *slab = inner->slab;
    inner->state = CACHE_FRAME_FREE;
    if (slab == NULL) {
        memory->classes[inner->class_index].single_bytes -= inner->memory_bytes;
        memory->single_bytes -= inner->memory_bytes;
        mem_free(memory->mem, inner->block);
        return;
    }
    if (!slab->is_draining) {
        if (slab->used == slab->frames) {
            cache_slab_open(&memory->classes[slab->class_index].open, slab);
        }
        memory->free_bytes += inner->memory_bytes;
    }
    inner->next = slab->free;
    slab->free = inner;
    slab->used--;
    if (slab->used == 0) {
        cache_slab_emptied(memory, slab, is_over);
    }
}

void cache_memory_check(const struct cache_memory *memory) {
    uint64_t total = 0;
    uint64_t free_bytes = 0;
    uint64_t limbo_bytes = 0;
    uint64_t draining = 0;
    for (const struct cache_slab *slab = memory->slabs; slab != NULL; slab = slab->next) {
        ASSERT(slab->used <= slab->carved && slab->carved <= slab->frames && slab->limbo <= slab->used); /* S2 */
        total += memory->slab_bytes;
        if (slab->is_draining) {
            draining += memory->slab_bytes;
        } else if (slab->used == 0) {
            free_bytes += memory->slab_bytes;
        } else {
            free_bytes += cache_slab_free_bytes(slab);
            limbo_bytes += (uint64_t)slab->limbo * cache_class_bytes(slab->class_index);
        }
    }
    ASSERT(total == memory->slab_bytes_total && draining == memory->draining_bytes);       /* S2 */
    ASSERT(free_bytes == memory->free_bytes && limbo_bytes == memory->limbo_bytes);        /* S2 */
    for (unsigned i = 0; i < CACHE_CLASS_COUNT; i++) {
        for (const struct cache_slab *slab = memory->classes[i].open; slab != NULL; slab = slab->open_next) {
            ASSERT(slab->class_index == i && !slab->is_draining && slab->used < slab->frames); /* S3 */
        }
    }
}
