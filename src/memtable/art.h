/*
 * art.h - the adaptive radix tree over records: what memtable.c and memtable_source.c ask of it.
 *
 * The tree is one root slot (see art_node.h) in an arena; everything below it lies in the same arena and goes with it.
 * art_link belongs to the inserter, the rest is for any thread at any time (M1, M2).
 */
#ifndef PLEAT_MEMTABLE_ART_H
#define PLEAT_MEMTABLE_ART_H

#include "memtable/art_node.h"

/* A memtable as it lies in the arena. */
struct memtable {
    struct arena *arena;
    uint8_t *base; /* of the arena */
    _Atomic uint32_t root;

    /* owned by the inserter, read by others as hints; off the line that every descent starts from */
    uint8_t separation[64];
    unsigned levels; /* of the inserter alone: nodes on the way of the last insert */
    _Atomic uint64_t records;
    _Atomic uint64_t tombstones;
    _Atomic uint64_t bytes;
};

/* Readers are given a const table; loading an atomic needs a pointer without const. Nothing is stored through it. */
static inline struct memtable *memtable_mutable(const struct memtable *table) {
    return (struct memtable *)(uintptr_t)table;
}

/* Links a record whose bytes are complete into the tree, from where its key's way has come: a new key, the head of its
 * chain, or, when the head has the same sequence, in its place (M5). Returns the node that a larger copy has replaced
 * (N4), else NULL. */
const void *art_link(struct arena *arena, struct memtable_way *way, uint32_t reference);

/* The newest record of the key, or NULL. */
struct record *art_find(uint8_t *base, _Atomic uint32_t *root, const uint8_t *key, size_t key_bytes);

/* Walks a key's way one level down and asks for the memory of the next. Changes nothing but the way. Returns whether
 * it may go on: not when what is next is up to art_link. */
static inline bool art_walk_ahead(uint8_t *base, struct memtable_way *way, const uint8_t *key, size_t key_bytes) {
    uint32_t current = atomic_load_explicit(way->place, memory_order_relaxed); /* own stores: the inserter alone */
    if (current == 0 || slot_is_record(current)) {
        return false;
    }
    struct node *node = slot_node(base, current);
    size_t depth = node->depth;
    if (UNLIKELY(depth - way->from > TAIL_BYTES && !way->asked)) { /* a path that is read from a record: node_path */
        __builtin_prefetch(record_at(base, node->sample)->bytes + way->from);
        way->asked = true;
        return true;
    }
    if (key_bytes <= depth || node_match(base, node, key, key_bytes, way->from) < depth) {
        return false;
    }
    _Atomic uint32_t *child = node_find(node, key[depth]);
    if (child == NULL) {
        return false;
    }
    node_prefetch(base, atomic_load_explicit(child, memory_order_relaxed)); /* as above */
    way->place = child;
    way->holder = node;
    way->from = (uint32_t)depth + 1;
    way->levels++;
    way->asked = false;
    return true;
}

/* One level of an iterator's way: a node, and where in it the walk goes on. */
struct art_frame {
    struct node *node;
    uint64_t order;  /* NODE_8, NODE_16: child positions in byte order, a nibble each, at the moment of entering */
    uint16_t count;  /* of them */
    int16_t ahead;   /* next place to visit: 0 the term, 4 and 16: 1 + rank, 48 and 256: 1 + byte; -1: none left */
};

#define ART_FRAMES_INLINE 16u

/* Walks the slots of records under `top` in key order, in one direction from each seek on. It holds nodes that may
 * since have been replaced: they are complete for every sequence that was published before the walker was made. */
struct art_walker {
    const struct mem *mem;
    uint8_t *base;
    const uint8_t *prefix; /* borrowed */
    size_t prefix_bytes;
    uint32_t top;     /* the subtree that is walked; until `arrived` one above it */
    size_t top_from;  /* position where its path begins */
    bool arrived;
    struct art_frame *frames;
    size_t frame_count;
    size_t frame_capacity;
    bool backward;
    struct art_frame inline_frames[ART_FRAMES_INLINE];
};

/* Confines the walk to keys with this prefix, which must outlive the walker. */
void art_walker_init(struct art_walker *walker, const struct mem *mem, struct memtable *table, const uint8_t *prefix,
                     size_t prefix_bytes);
void art_walker_fini(struct art_walker *walker);
/* One node on the way down to the subtree, so that whoever has other work waits for none: the next one is asked for.
 * True while there are more. What is not gone of the way is gone by the first begin or seek. */
bool art_walker_approach(struct art_walker *walker);

/* Each writes a record's slot, or 0 when there is none left. Returns 0 or PLEAT_ERR_NO_MEMORY (very deep trees). */
int art_walker_begin(struct art_walker *walker, bool backward, uint32_t *ret_slot);
/* Forward: the first key >= `key`. Backward: the last key < `key`. `key` must have the walker's prefix. */
int art_walker_seek(struct art_walker *walker, const uint8_t *key, size_t key_bytes, bool backward,
                    uint32_t *ret_slot);
int art_walker_step(struct art_walker *walker, uint32_t *ret_slot);

/* A record with about as many keys before it as from it on, at least one on each side; NULL when the tree has no such.
 * Judged by its top: some 64 subtrees side by side, which are taken to hold equally many. */
const struct record *art_middle(uint8_t *base, uint32_t root);

#endif
