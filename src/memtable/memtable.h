/*
 * memtable.h - the newest updates, in memory: an adaptive radix tree with one inserter and lock-free readers.
 *
 * A generation has one arena (from a pool that never gives memory back to the system) and one memtable a space, all in
 * that arena, with one blocked Bloom filter over all of them. Records of a key are chained newest first.
 *
 *   M1  One thread inserts at a time; any number read at once, without locks and without retries.
 *   M2  A node changes only by: appending a child and then release-storing the count; swapping one child pointer;
 *       being replaced by a grown or split copy. Old nodes stay readable until the arena is released.
 *   M3  The caller publishes a commit's sequence number only after its inserts; readers pass the sequence that they
 *       may see, and records above it are skipped.
 *   M4  memtable_insert cannot fail: the caller has reserved arena_available >= the sum of memtable_entry_bytes_max.
 *   M5  Within one commit (equal sequences) a later insert of a key replaces the earlier.
 *   M6  An insert goes on from where its key's way has come only in a node that is in the tree: a way that stands in
 *       one that the inserts of its group have replaced begins again.
 */
#ifndef PLEAT_MEMTABLE_MEMTABLE_H
#define PLEAT_MEMTABLE_MEMTABLE_H

#include "base/mem.h"
#include "base/source.h"
#include "pleat/pleat.h"

#include <stddef.h>
#include <stdint.h>

struct arena;
struct arena_pool;
struct memtable;

/* keep_count: how many default-sized arenas the pool keeps for reuse once they are released. */
int arena_pool_new(const struct mem *mem, size_t default_bytes, size_t keep_count, struct arena_pool **ret_pool,
                   struct pleat_error *err);
/* Every arena must have been released. NULL is allowed. */
void arena_pool_free(struct arena_pool *pool);
/* An empty arena with room for at least `bytes` (address space; memory is committed on first touch). Any thread. */
int arena_acquire(struct arena_pool *pool, size_t bytes, struct arena **ret_arena, struct pleat_error *err);
/* No reader may be left in it. NULL is allowed. Any thread. */
void arena_release(struct arena_pool *pool, struct arena *arena);
/* Bytes handed out (records, nodes, filter) and bytes that still can be. For the inserter, for others a hint. */
size_t arena_used(const struct arena *arena);
size_t arena_available(const struct arena *arena);

/* Makes the pages ahead of both ends ready, so that inserts do not fault: those of `ahead_bytes` more of records and a
 * quarter of that of nodes. By any thread that keeps the arena held, beside the inserter. Advice; costs what the
 * touches would have cost, nothing where it was done. */
void arena_prepare(struct arena_pool *pool, struct arena *arena, size_t ahead_bytes);
/* Makes the arena of the next acquire now, prepared, unless one is kept already or keep_count are in use. Any thread;
 * a failure is none. */
void arena_pool_prepare(struct arena_pool *pool, size_t ahead_bytes);

/* Inside a generation: could any memtable of this arena hold a key of this hash (hash_key)? One cache line. */
bool arena_may_contain(const struct arena *arena, uint64_t hash);
/* Prefetches the line that arena_may_contain will read. */
void arena_prefetch(const struct arena *arena, uint64_t hash);

/* An empty memtable; its storage (under 256 bytes) is in the arena and goes with it. NULL when the arena has no room
 * for it. */
struct memtable *memtable_new(struct arena *arena);
/* Arena bytes that one insert can take at the very most: the record, and a node of 1 KiB where one has to grow. It is a
 * bound for reservations and far above what an insert takes as a rule. */
size_t memtable_entry_bytes_max(size_t key_bytes, size_t value_bytes);
/* Inserts `count` entries of one commit in order; entries[i] goes to tables[i] (all of one arena). Keys, values and
 * attributes are copied. Warms 16 at a time with interleaved prefetches. Infallible (M4). Owner: the inserter. */
void memtable_insert(struct memtable *const *tables, const struct entry *entries, size_t count);

/* How far a key's way down the tree was walked ahead of its insert. */
struct memtable_way {
    uint64_t hash;           /* hash_key of the key */
    _Atomic uint32_t *place; /* the slot that it goes on from */
    const void *holder;      /* the node that the slot is in, NULL for the root */
    uint32_t from;           /* position in the key behind the last branch */
    uint16_t levels;         /* nodes passed */
    bool asked;              /* for the record that the path of the next node is in */
};

#define MEMTABLE_GROUP 16u
/* Entries of one commit on their way in, for an inserter that has other work to do meanwhile: the memory that the
 * insert is going to touch is asked for a level of the tree at a time, and comes between the steps. The caller fills
 * tables, entries and count. */
struct memtable_group {
    size_t count; /* at most MEMTABLE_GROUP */
    struct memtable *tables[MEMTABLE_GROUP];
    struct entry entries[MEMTABLE_GROUP];
    /* owned by the memtable from memtable_group_begin on */
    bool moving;
    struct memtable_way ways[MEMTABLE_GROUP];
    const void *replaced[MEMTABLE_GROUP]; /* nodes, by the group's own inserts: ways that stand in them begin again */
    size_t replaced_count;
};
/* Sets out, and goes down as far as the memory is likely to be in the processor's cache. Changes nothing. */
void memtable_group_begin(struct memtable_group *group);
/* One level further down. Changes nothing; may be called any number of times. Nothing else is inserted meanwhile. */
void memtable_group_step(struct memtable_group *group);
/* memtable_insert of the group. Owner: the inserter. */
void memtable_group_insert(struct memtable_group *group);

/* The newest record of `key` with sequence <= `sequence`: 0 with *ret_entry borrowed from the arena (may be a
 * tombstone), or PLEAT_ABSENT. The arena's filter is NOT consulted here. */
int memtable_get(const struct memtable *table, const uint8_t *key, size_t key_bytes, uint64_t sequence,
                 struct entry *ret_entry);

/* A key with about as many keys before it as from it on, at least one on each side: 0 with *ret_key borrowed from the
 * arena, or PLEAT_ABSENT when there are too few. An estimate from the top of the tree, for sharing work out: even where
 * keys spread evenly or count up, two thirds on one side in the worst of those. Cost: a thousand nodes at most. */
int memtable_middle(const struct memtable *table, struct pleat_slice *ret_key);

/* A source over what `sequence` may see: per key its newest record <= sequence. Borrowed bytes of `bounds` must outlive
 * it; the arena must, too. */
int memtable_source_new(const struct mem *mem, const struct memtable *table, const struct source_bounds *bounds,
                        uint64_t sequence, struct source **ret_source, struct pleat_error *err);

/* Goes a step on the way down the tree to where the source's bounds lie, and asks for the memory of the next: for a
 * reader who has other work in between. True while there are more. Not needed: the first call that positions goes the
 * rest. */
bool memtable_source_approach(struct source *source);

struct memtable_stats {
    uint64_t records;    /* inserted, replaced ones included */
    uint64_t tombstones; /* of them */
    uint64_t bytes;      /* of keys and values inserted */
};
void memtable_stats_read(const struct memtable *table, struct memtable_stats *ret_stats);

/* Walks the whole tree and asserts order, counts, prefixes and chains. For DEBUG_ASSERT and tests. */
bool memtable_check(const struct memtable *table);

#endif
