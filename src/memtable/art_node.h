/*
 * art_node.h - the nodes of the radix tree: layouts, finding a child, what a path holds.
 *
 * A slot (the root, a child, a term) is a reference: 0 for none, with SLOT_RECORD set the newest record of a key,
 * otherwise a node. A node says at which position of the key it branches (`depth`); keys that end just there, being
 * prefixes of the others, hang in `term`. Bytes between the parent's branch and this one are common to the whole
 * subtree (path compression): the last 12 of them are in `tail`, longer ones are read from `sample`, any record below.
 * Because a node tells an absolute position, splitting its path puts a node above it and leaves it untouched.
 *
 *     type u8 | count u8 | depth u16 | term u32 | sample u32 | tail[12] |
 *        8:   keys, 8 bytes in a word       | child[8]        64 bytes
 *       16:   keys, 2 words of 8            | child[16]      104
 *       48:   index[256] in 32 words        | child[48]      472    index: 1 + position in child, 0 for none
 *      256:                                   child[256]    1048
 *
 * Nodes begin at lines of the processor's cache. Those at the bottom, which are nearly all of them and hardly ever in
 * the cache, have few children: the smallest type is one line whole, and of the next the first line is enough for the
 * first six.
 *
 *   N1  type, depth, sample and tail never change after the node was linked.
 *   N2  8 and 16: child i and its key byte are stored before `count` (release) exceeds i. 48: the child before its
 *       index byte (release). 256: the slot itself (release). A child's slot may later be swapped (release).
 *   N3  Each node has at least two of {term, children}; depth grows strictly downwards.
 *   N4  A full node is replaced by a copy of the next type; the old one stays as it was, for those who are in it.
 *
 * Key and index bytes live in whole words that are loaded and stored atomically, so that looking at all of them at once
 * is no data race: bytes beyond `count` are masked off.
 */
#ifndef PLEAT_MEMTABLE_ART_NODE_H
#define PLEAT_MEMTABLE_ART_NODE_H

#include "base/bytes.h"
#include "memtable/record.h"

#define SLOT_RECORD 0x80000000u
#define TAIL_BYTES 12u
#define NODE_LINE_BYTES 64u

enum node_type { NODE_8, NODE_16, NODE_48, NODE_256 };

struct node {
    uint8_t type;          /* enum node_type */
    _Atomic uint8_t count; /* children; not kept for NODE_256 */
    uint16_t depth;
    _Atomic uint32_t term;
    uint32_t sample;
    uint8_t tail[TAIL_BYTES]; /* path bytes [depth - 12, depth), as many of them as there were when it was made */
};

struct node8 {
    struct node header;
    _Atomic uint64_t keys;
    _Atomic uint32_t child[8];
};

struct node16 {
    struct node header;
    _Atomic uint64_t keys[2];
    _Atomic uint32_t child[16];
};

struct node48 {
    struct node header;
    _Atomic uint64_t index[32];
    _Atomic uint32_t child[48];
};

struct node256 {
    struct node header;
    _Atomic uint32_t child[256];
};

static_assert(sizeof(struct node) == 24, "the layout drawn above");
static_assert(sizeof(struct node8) == 64 && sizeof(struct node16) == 104, "the layout drawn above");
static_assert(sizeof(struct node48) == 472 && sizeof(struct node256) == 1048, "the layout drawn above");

/* The most that one insert can allocate for nodes: a full NODE_48 grows (a split or a new branch takes a NODE_8). */
#define NODE_GROWTH_BYTES_MAX 1088u
static_assert(NODE_GROWTH_BYTES_MAX >= sizeof(struct node256) && NODE_GROWTH_BYTES_MAX % NODE_LINE_BYTES == 0,
              "an upper bound of arena bytes");

static inline bool slot_is_record(uint32_t slot) {
    return (slot & SLOT_RECORD) != 0;
}

static inline struct record *slot_record(uint8_t *base, uint32_t slot) {
    return record_at(base, slot & ~SLOT_RECORD);
}

static inline struct node *slot_node(uint8_t *base, uint32_t slot) {
    return arena_pointer(base, slot);
}

/* Acquire; pairs with the release stores of art.c that link a record or a node: its bytes are visible. */
static inline uint32_t slot_load(_Atomic uint32_t *slot) {
    return atomic_load_explicit(slot, memory_order_acquire);
}

/* Number of children that may be looked at. Acquire; pairs with the release in node_append (N2). */
static inline unsigned node_count(struct node *node) {
    return atomic_load_explicit(&node->count, memory_order_acquire);
}

/* Key byte i of a NODE_8 or NODE_16. Relaxed: ordered by the count that was loaded before. */
static inline uint8_t node_key(struct node *node, unsigned i) {
    if (node->type == NODE_8) {
        return (uint8_t)(atomic_load_explicit(&((struct node8 *)node)->keys, memory_order_relaxed) >> (8 * i));
    }
    struct node16 *node16 = (struct node16 *)node;
    return (uint8_t)(atomic_load_explicit(&node16->keys[i / 8], memory_order_relaxed) >> (8 * (i % 8)));
}

/* Children of a NODE_8, NODE_16 or NODE_48 in order of arrival; of a NODE_256 by byte. */
static inline _Atomic uint32_t *node_children(struct node *node) {
    switch ((enum node_type)node->type) {
    case NODE_8:
        return ((struct node8 *)node)->child;
    case NODE_16:
        return ((struct node16 *)node)->child;
    case NODE_48:
        return ((struct node48 *)node)->child;
    case NODE_256:
        break;
    }
    return ((struct node256 *)node)->child;
}

/* Index byte of a NODE_48. Acquire; pairs with the release in node_append (N2). */
static inline unsigned node48_index(struct node48 *node, uint8_t byte) {
    uint64_t word = atomic_load_explicit(&node->index[byte / 8], memory_order_acquire);
    return (unsigned)(word >> (8 * (byte % 8))) & 0xff;
}

/* Marks (at their top bit) bytes of `word` that equal `byte`: exact up to and including the lowest match. */
static inline uint64_t word_matches(uint64_t word, uint8_t byte) {
    uint64_t x = word ^ (0x0101010101010101ull * byte);
    return (x - 0x0101010101010101ull) & ~x & 0x8080808080808080ull;
}

/* The slot of the child for `byte`, or NULL. */
static inline _Atomic uint32_t *node_find(struct node *node, uint8_t byte) {
    switch ((enum node_type)node->type) {
    case NODE_8: {
        struct node8 *node8 = (struct node8 *)node;
        unsigned count = node_count(node);
        uint64_t match = word_matches(atomic_load_explicit(&node8->keys, memory_order_relaxed), byte);
        unsigned i = match != 0 ? (unsigned)__builtin_ctzll(match) / 8 : 8;
        return i < count ? &node8->child[i] : NULL;
    }
    case NODE_16: {
        struct node16 *node16 = (struct node16 *)node;
        unsigned count = node_count(node);
        uint64_t low = word_matches(atomic_load_explicit(&node16->keys[0], memory_order_relaxed), byte);
        uint64_t high = word_matches(atomic_load_explicit(&node16->keys[1], memory_order_relaxed), byte);
        unsigned in_low = low != 0 ? (unsigned)__builtin_ctzll(low) / 8 : 16;
        unsigned in_high = high != 0 ? (unsigned)__builtin_ctzll(high) / 8 + 8 : 16;
        unsigned i = in_low < in_high ? in_low : in_high;
        return i < count ? &node16->child[i] : NULL;
    }
    case NODE_48: {
        struct node48 *node48 = (struct node48 *)node;
        unsigned index = node48_index(node48, byte);
        return index != 0 ? &node48->child[index - 1] : NULL;
    }
    case NODE_256:
        break;
    }
    _Atomic uint32_t *slot = &((struct node256 *)node)->child[byte];
    return atomic_load_explicit(slot, memory_order_relaxed) != 0 ? slot : NULL;
}

/* The path bytes from position `from` (the parent's branch + 1) to the node's depth. */
static inline const uint8_t *node_path(uint8_t *base, struct node *node, size_t from) {
    size_t bytes = node->depth - from;
    return bytes <= TAIL_BYTES ? node->tail + (TAIL_BYTES - bytes) : record_at(base, node->sample)->bytes + from;
}

/* The first position in [from, depth) where the key leaves the node's path or ends; depth when it does not. */
static inline size_t node_match(uint8_t *base, struct node *node, const uint8_t *key, size_t key_bytes, size_t from) {
    if (from == node->depth) {
        return from;
    }
    size_t limit = key_bytes < node->depth ? key_bytes : node->depth;
    return from + key_common(node_path(base, node, from), limit - from, key + from, limit - from);
}

/* What is about to be read: the first line of a node, two of a record, whose key reaches into the second. */
static inline void node_prefetch(uint8_t *base, uint32_t slot) {
    const uint8_t *p = arena_pointer(base, slot & ~SLOT_RECORD);
    __builtin_prefetch(p);
    if (slot_is_record(slot)) {
        __builtin_prefetch(p + 64);
    }
}

#endif
