/*
 * cache_slab.h - memory for frames: size classes in slabs, and single blocks.
 *
 * A slab is 2 MiB (less in a small cache), aligned and asked for as a huge page, and carved into frames of one class.
 * Classes are spaced by an eighth. A frame that no class holds, or whose class has not earned a slab yet, is a single
 * block of the allocator: an odd size costs its own bytes and not a slab.
 *
 *   S1  memory_bytes of a frame is what it takes from the pool: the class size, or the single block's.
 *   S2  slab_bytes_total = slabs mapped * slab_bytes; free_bytes = frames free or not yet carved in slabs that are not
 *       draining, plus whole empty slabs; draining_bytes = slabs that are given back when their last frame is freed.
 *   S3  A class lists exactly its slabs that have a free frame and are not draining.
 *
 * Threads: everything here is guarded by the mutex of the cache.
 */
#ifndef PLEAT_CACHE_CACHE_SLAB_H
#define PLEAT_CACHE_CACHE_SLAB_H

#include "cache/cache.h"

enum {
    CACHE_CLASS_COUNT = 66,       /* up to 72 KiB: a 64 KiB block with header and tail fits */
    CACHE_CLASS_BYTES_MAX = 73728,
    CACHE_LINE_BYTES = 64,
    CACHE_TAIL_BYTES = 64, /* zeroed, readable beyond the data */
    CACHE_HEADER_BYTES = 128,
};

enum cache_frame_state {
    CACHE_FRAME_FREE,
    CACHE_FRAME_LOADING,
    CACHE_FRAME_LIVE,
    CACHE_FRAME_LIMBO,
};

struct cache_slab;

struct cache_frame_inner {
    /* cold line, guarded by cache->mutex except where noted */
    struct cache_slab *slab; /* NULL: a single block */
    struct cache_slot *slot; /* LIVE: where it is found */
    struct cache_frame_inner *next;     /* LIVE: younger in the queue; FREE: of the slab; LIMBO: the next victim */
    struct cache_frame_inner *previous; /* LIVE: older in the queue */
    void *block;             /* the allocation of a single frame */
    size_t memory_bytes;     /* S1; frozen while not FREE */
    uint8_t state;           /* enum cache_frame_state */
    uint8_t class_index;
    uint8_t place; /* enum cache_place: its queue */
    uint8_t padding[13];
    /* hot line */
    struct cache_frame frame;
    struct epoch_retired retired;
    struct cache *cache; /* frozen while the frame is not FREE */
};

struct cache_slab {
    struct cache_slab *next; /* all slabs of the pool */
    struct cache_slab *previous;
    struct cache_slab *open_next; /* S3, or the list of empty slabs */
    struct cache_slab *open_previous;
    uint8_t *base;
    void *mapping;
    size_t mapping_bytes;
    struct cache_frame_inner *free; /* frames given back */
    uint32_t frames;                /* room for so many */
    uint32_t carved;                /* frames made so far; the memory behind them is untouched */
    uint32_t used;                  /* not FREE */
    uint32_t limbo;                 /* of those, in LIMBO; counted by cache_clock.c */
    uint8_t class_index;
    bool is_draining;
};

struct cache_class {
    struct cache_slab *open; /* S3 */
    uint64_t slabs;          /* not draining */
    uint64_t single_bytes;   /* single blocks of this class */
};

struct cache_memory {
    const struct mem *mem;    /* frozen, and the two below */
    size_t slab_bytes;        /* 0: this cache is too small for slabs */
    size_t slab_frame_bytes_max;
    struct cache_class classes[CACHE_CLASS_COUNT];
    struct cache_slab *slabs;
    struct cache_slab *empty;
    struct cache_slab *fresh; /* the youngest slab, or NULL: not drained while it is being filled */
    uint64_t exchange_step_bytes; /* frozen: bytes taken between two exchanges of slabs */
    uint64_t exchange_wait_bytes; /* bytes still to be taken before the next */
    uint64_t slab_bytes_total;
    uint64_t free_bytes;
    uint64_t draining_bytes;
    uint64_t limbo_bytes; /* LIMBO frames in slabs that are not draining */
    uint64_t single_bytes;
};

void cache_memory_init(struct cache_memory *memory, const struct mem *mem, uint64_t capacity);
/* Every frame must be FREE. */
void cache_memory_fini(struct cache_memory *memory);

/* The memory that a frame of `bytes` data bytes needs: header, data, tail, whole lines. 0: too large for size_t. */
size_t cache_memory_frame_bytes(size_t bytes);
/* A frame from a slab, or NULL when there is none for it. May map a slab when `room` allows, or, with `may_exceed`,
 * when the class badly needs one. */
struct cache_frame_inner *cache_memory_take_slab(struct cache_memory *memory, size_t frame_bytes, uint64_t room,
                                                 bool may_exceed);
/* A frame of its own, or NULL when the allocator refuses. */
struct cache_frame_inner *cache_memory_take_single(struct cache_memory *memory, size_t frame_bytes);
/* Takes a frame back. With `is_over` an emptied slab is unmapped at once. */
void cache_memory_give(struct cache_memory *memory, struct cache_frame_inner *inner, bool is_over);
/* Unmaps one empty slab; false: there is none. */
bool cache_memory_shrink(struct cache_memory *memory);
/* The slab with the fewest frames to evict, marked draining, or NULL. The caller evicts its LIVE frames. */
struct cache_slab *cache_memory_drain(struct cache_memory *memory);
/* Frame `index` < slab->carved. */
struct cache_frame_inner *cache_slab_frame(const struct cache_memory *memory, const struct cache_slab *slab,
                                           uint32_t index);
size_t cache_class_bytes(unsigned class_index);
/* Asserts S2 and S3; cost: every slab. */
void cache_memory_check(const struct cache_memory *memory);

#endif
