/*
 * index_node.h - one node of a table's index: the places of its children, and the separators between them.
 *
 * Separator i stands between child i and child i+1 and is *exclusive*:
 *
 *     child i      child i+1      child i+2
 *     ... a   |    b ... c   |    d ...          a < separator[i] <= b,  c < separator[i+1] <= d
 *
 * The shortest such bytes are the first common(a, b) + 1 of b, and they have two properties that an inclusive separator
 * lacks: a seek to a group's prefix never lands in the block before the group, and a scan bounded by that prefix ends
 * without loading the block behind it, even where the prefix is itself a key. There is one separator fewer than
 * children; what is greater than the last is in the last child.
 *
 * One image, on disk (inside LZ4) and in memory alike. The common prefix of all separators stands once; the 8 bytes
 * behind it are a big-endian number each, which are searched without branches (prototype: 18 ns at 4,096, against 129
 * for a binary search over strings); what a separator has behind those is its tail, which most lack: then a child takes
 * 18 bytes.
 *
 *     0          4             8            12     16
 *     | count n | prefix p | tails t | zero | prefix [p], zero to a multiple of 8 | head u64 [n-1] | offset u32 [n]
 *       | image u32 [n] | length u16 [n-1] | tail end u32 [n-1], when t > 0 | tails [t] |
 *
 * A child is a stored piece of the file (table_format.h). Its offset counts from where the first one begins; pieces
 * touch each other, so that the stored bytes of one follow from where the next begins.
 *
 *   X1  Separators ascend strictly, each 1 to LIMIT_KEY_BYTES long.
 *   X2  Children tile what the node covers: the first begins at 0, the last ends at the end.
 *
 * index_node_verify proves both, and bounds whatever else is computed from the image.
 */
#ifndef PLEAT_SSTABLE_INDEX_NODE_H
#define PLEAT_SSTABLE_INDEX_NODE_H

#include "base/bytes.h"
#include "base/limits.h"
#include "sstable/block_inline.h"
#include "sstable/table_bytes.h"
#include "sstable/table_format.h"

#include <stddef.h>
#include <stdint.h>

#define INDEX_NODE_COUNT 0  /* u32 */
#define INDEX_NODE_PREFIX 4 /* u32 bytes */
#define INDEX_NODE_TAILS 8  /* u32 bytes */
#define INDEX_NODE_ZERO 12  /* u32 */
#define INDEX_NODE_STRINGS 16 /* the prefix, then the heads: a search reads from here on */
#define INDEX_NODE_HEAD_BYTES 8

/* Offsets of children are kept in 32 bits: a node with children of so many bytes takes no other. */
#define INDEX_NODE_COVERED_MAX ((uint64_t)1 << 31)

/* ---- building --------------------------------------------------------------------------------------------------- */

/* What a node is made of, collected in order; zero-initialised. */
struct index_node_parts {
    struct table_bytes places;     /* {u32 offset, u32 image bytes} a child */
    struct table_bytes lengths;    /* u16 a separator */
    struct table_bytes separators; /* whole, one behind another */
    uint64_t covered_bytes;        /* by the children so far */
    uint32_t count;                /* of the children */
};
int index_node_add_separator(const struct mem *mem, struct index_node_parts *parts, const uint8_t *separator,
                             size_t separator_bytes, struct pleat_error *err);
int index_node_add_child(const struct mem *mem, struct index_node_parts *parts, uint32_t stored_bytes,
                         uint32_t image_bytes, struct pleat_error *err);
/* Appends the image to `out`; one separator fewer than children were added. */
int index_node_encode(const struct mem *mem, const struct index_node_parts *parts, struct table_bytes *out,
                      struct pleat_error *err);
/* Empty again, the memory kept. */
void index_node_parts_clear(struct index_node_parts *parts);
void index_node_parts_fini(const struct mem *mem, struct index_node_parts *parts);

/* ---- reading ---------------------------------------------------------------------------------------------------- */

/* Where the arrays of an image are; cheap, made where it is needed. */
struct index_node {
    const uint8_t *heads;
    const uint8_t *offsets;
    const uint8_t *images;
    const uint8_t *lengths;
    const uint8_t *tail_ends;
    const uint8_t *prefix;
    const uint8_t *tails;
    uint32_t count;
    uint32_t prefix_bytes;
    uint32_t tail_bytes;
};

static inline size_t index_node_prefix_room(size_t prefix_bytes) {
    return (prefix_bytes + 7) & ~(size_t)7;
}

static inline struct index_node index_node_of(const uint8_t *image) {
    struct index_node node = {.prefix = image + INDEX_NODE_STRINGS, .count = load_u32(image + INDEX_NODE_COUNT),
                              .prefix_bytes = load_u32(image + INDEX_NODE_PREFIX),
                              .tail_bytes = load_u32(image + INDEX_NODE_TAILS)};
    size_t n = node.count;
    node.heads = node.prefix + index_node_prefix_room(node.prefix_bytes);
    node.offsets = node.heads + (n - 1) * INDEX_NODE_HEAD_BYTES;
    node.images = node.offsets + n * 4;
    node.lengths = node.images + n * 4;
    node.tail_ends = node.lengths + (n - 1) * 2;
    node.tails = node.tail_ends + (node.tail_bytes > 0 ? (n - 1) * 4 : 0);
    return node;
}

/* NULL, or what is wrong with an image whose children cover so many bytes of the file; *ret_at: at which child. */
const char *index_node_verify(const uint8_t *image, size_t image_bytes, uint64_t covered_bytes, uint32_t *ret_at);

/* The slow ends of a search. */
uint32_t index_node_find_beside(const uint8_t *image, const uint8_t *key, size_t key_bytes);
uint32_t index_node_find_tied(const uint8_t *image, uint32_t first, const uint8_t *key, size_t key_bytes, bool before);

/* The child where `key` is if it is anywhere: the first whose separator is greater, else the last. With `before` the
 * last child that can hold a lesser key: the first whose separator is not less, else the last. */
static inline uint32_t index_node_find(const uint8_t *image, const uint8_t *key, size_t key_bytes, bool before) {
    uint32_t separators = load_u32(image + INDEX_NODE_COUNT) - 1;
    size_t prefix_bytes = load_u32(image + INDEX_NODE_PREFIX);
    if (UNLIKELY(separators == 0)) {
        return 0;
    }
    if (UNLIKELY(key_bytes < prefix_bytes ||
                 !block_bytes_equal(key, image + INDEX_NODE_STRINGS, prefix_bytes))) {
        return index_node_find_beside(image, key, key_bytes);
    }
    uint64_t head = key_head(key, key_bytes, prefix_bytes);
    const uint8_t *heads = image + INDEX_NODE_STRINGS + index_node_prefix_room(prefix_bytes), *base = heads;
    uint32_t length = separators;
    while (length > 1) {
        uint32_t half = length / 2;
        const uint8_t *upper = base + (size_t)half * INDEX_NODE_HEAD_BYTES;
        base = load_u64(upper - INDEX_NODE_HEAD_BYTES) < head ? upper : base;
        length -= half;
    }
    uint32_t first = (uint32_t)((size_t)(base - heads) / INDEX_NODE_HEAD_BYTES) + (load_u64(base) < head);
    if (LIKELY(first == separators || load_u64(heads + (size_t)first * INDEX_NODE_HEAD_BYTES) != head)) {
        return first;
    }
    return index_node_find_tied(image, first, key, key_bytes, before);
}

/* index_node_find of a key that is not below separator `from` - 1, which mostly is one of the next few: looks at those
 * first. The key may be in a later node: then the last child, as ever. */
static inline uint32_t index_node_find_from(const uint8_t *image, uint32_t from, const uint8_t *key, size_t key_bytes,
                                            bool before) {
    enum { NEXT_FEW = 4 };
    const struct index_node node = index_node_of(image);
    if (from + NEXT_FEW < node.count && key_bytes >= node.prefix_bytes &&
        block_bytes_equal(key, node.prefix, node.prefix_bytes)) {
        uint64_t head = key_head(key, key_bytes, node.prefix_bytes);
        for (uint32_t i = from; i < from + NEXT_FEW; i++) {
            uint64_t separator = load_u64(node.heads + (size_t)i * INDEX_NODE_HEAD_BYTES);
            if (separator > head) {
                return i;
            }
            if (separator == head) {
                break; /* they tie */
            }
        }
    }
    return index_node_find(image, key, key_bytes, before);
}

/* Asks for the lines that a search of the node will read. */
static inline void index_node_prefetch(const uint8_t *image) {
    for (size_t at = 0; at < 1024; at += 64) { /* of a node of the usual size; advice, so nothing is read beyond it */
        __builtin_prefetch((const void *)((uintptr_t)image + at));
    }
}

/* The place of a child, relative to where the node's first begins. */
struct table_handle index_node_child(const struct index_node *node, uint32_t i, uint64_t covered_bytes);

static inline size_t index_node_separator_bytes(const struct index_node *node, uint32_t i) {
    return load_u16(node->lengths + (size_t)i * 2);
}
/* Writes separator i to `ret_bytes`, which has room for it. */
void index_node_separator(const struct index_node *node, uint32_t i, uint8_t *ret_bytes);

#endif
