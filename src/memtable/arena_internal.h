/*
 * arena_internal.h - the arena as the rooms of the memtable see it: references, allocation, the filter's bits.
 *
 * A reference is an offset in the arena in units of 8 bytes, so that 31 bits span 16 GiB and the top bit of a tree slot
 * is free to say "record". Offset 0 is never handed out: reference 0 means none.
 *
 *     base                                                                                    base + bytes
 *      | guard 64 | filter: lines of 64 bytes | records ->   ...   room   ...   <- nodes |
 *                                             ^ record_start      ^ record_end  ^ node_start
 *
 * Records and nodes grow towards each other, so that they share the room whatever the key shapes are, while nodes,
 * which are read by every descent, stay dense.
 *
 *   A1  record_end <= node_start: what the two sides were promised by the reservation (M4) never overlaps.
 *   A2  Nothing handed out is assumed to be zero; a recycled arena holds the bytes of its former life.
 *   A3  The filter of an arena that is acquired is empty.
 *
 * Threads: base, bytes, filter_lines and record_start are frozen while the arena is held; the two ends belong to the
 * inserter and are read by others as hints; filter words are written by the inserter alone.
 */
#ifndef PLEAT_MEMTABLE_ARENA_INTERNAL_H
#define PLEAT_MEMTABLE_ARENA_INTERNAL_H

#include "base/assert.h"
#include "memtable/memtable.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdint.h>

#define ARENA_UNIT_BYTES 8u
#define ARENA_GUARD_BYTES 64u
#define ARENA_BYTES_MAX ((uint64_t)ARENA_UNIT_BYTES << 31)

#define FILTER_LINE_WORDS 8u
#define FILTER_LINE_BYTES (FILTER_LINE_WORDS * 8u)
#define FILTER_PROBES 6u
/* One filter byte for so many arena bytes: about 11 bits a key at 130 bytes a record. */
#define FILTER_SHARE 94u

static_assert(ARENA_BYTES_MAX == 16ull << 30, "a reference spans 16 GiB");

struct arena {
    /* frozen while held */
    uint8_t *base;
    size_t bytes;
    uint64_t filter_lines;
    size_t record_start;
    bool is_default; /* of the pool's default size: worth keeping */

    /* guarded by the pool's mutex */
    struct arena *next;
    size_t prepared_records; /* pages up to here ... */
    size_t prepared_nodes;   /* ... and from here on are there, or somebody is about to touch them */

    /* owned by the inserter; kept off the line that readers load the frozen fields from */
    uint8_t separation[64];
    _Atomic size_t record_end;
    _Atomic size_t node_start;
};

static inline void *arena_pointer(uint8_t *base, uint32_t reference) {
    return base + (size_t)reference * ARENA_UNIT_BYTES;
}

static inline size_t arena_round(size_t bytes) {
    return (bytes + (ARENA_UNIT_BYTES - 1)) & ~(size_t)(ARENA_UNIT_BYTES - 1);
}

/* Room for a record of `bytes`; infallible, because the caller has reserved it (M4). Relaxed throughout: only the
 * inserter allocates, and others read the ends as hints without ordering. */
static inline uint32_t arena_allocate_record(struct arena *arena, size_t bytes) {
    size_t start = atomic_load_explicit(&arena->record_end, memory_order_relaxed);
    size_t end = start + arena_round(bytes);
    ASSERT(end <= atomic_load_explicit(&arena->node_start, memory_order_relaxed)); /* A1 */
    atomic_store_explicit(&arena->record_end, end, memory_order_relaxed);
    return (uint32_t)(start / ARENA_UNIT_BYTES);
}

/* Room for a node of `bytes`, from the other end; as above. */
static inline uint32_t arena_allocate_node(struct arena *arena, size_t bytes) {
    size_t end = atomic_load_explicit(&arena->node_start, memory_order_relaxed);
    size_t taken = arena_round(bytes);
    ASSERT(end - atomic_load_explicit(&arena->record_end, memory_order_relaxed) >= taken); /* A1 */
    atomic_store_explicit(&arena->node_start, end - taken, memory_order_relaxed);
    return (uint32_t)((end - taken) / ARENA_UNIT_BYTES);
}

/* The filter line of a hash: its high bits, scaled to the number of lines. */
static inline uint8_t *arena_filter_line(const struct arena *arena, uint64_t hash) {
    return arena->base + ARENA_GUARD_BYTES + ((hash >> 32) * arena->filter_lines >> 32) * FILTER_LINE_BYTES;
}

/* Nine bits a probe, from the top of a product, so that they do not repeat what chose the line. */
static inline uint64_t arena_filter_probes(uint64_t hash) {
    return (hash * 0x9e3779b97f4a7c15ull) >> (64 - 9 * FILTER_PROBES);
}

/* Adds a hash. Relaxed: the commit's sequence number, published afterwards (M3), orders it for readers. */
static inline void arena_filter_add(struct arena *arena, uint64_t hash) {
    _Atomic uint64_t *line = (_Atomic uint64_t *)(void *)arena_filter_line(arena, hash);
    uint64_t probes = arena_filter_probes(hash);
    for (unsigned i = 0; i < FILTER_PROBES; i++, probes >>= 9) {
        _Atomic uint64_t *word = &line[(probes >> 6) & (FILTER_LINE_WORDS - 1)];
        uint64_t bit = (uint64_t)1 << (probes & 63);
        atomic_store_explicit(word, atomic_load_explicit(word, memory_order_relaxed) | bit, memory_order_relaxed);
    }
}

#endif
