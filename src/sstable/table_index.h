/*
 * table_index.h - which block of a table a key is in: separators, block places, cache slots, all in memory.
 *
 * Separator i stands between block i and block i+1 and is *exclusive*:
 *
 *     block i      block i+1      block i+2
 *     ... a   |    b ... c   |    d ...          a < separator[i] <= b,  c < separator[i+1] <= d
 *
 * The shortest such bytes are the first common(a, b) + 1 of b, and they have two properties that an inclusive separator
 * lacks: a seek to a group's prefix never lands in the block before the group, and a scan bounded by that prefix ends
 * without loading the block behind it, even where the prefix is itself a key. There is one separator fewer than blocks;
 * what is greater than the last is in the last block.
 *
 * In memory the common prefix of all separators is compared once; behind it the first 8 bytes of each, as big-endian
 * numbers, are searched without branches (prototype: 18 ns at 4,096 blocks, 81 at a million; 129 and 490 for a binary
 * search over strings). The strings are consulted only where heads tie.
 *
 *   X1  Separators ascend strictly (checked when loaded), each at most LIMIT_KEY_BYTES long.
 *   X2  Blocks tile the file from 0 to the index section: handle i+1 begins where the stored bytes of handle i end.
 *   X3  A loaded block has only keys in [separator[i-1], separator[i]), the first one none below the meta's smallest,
 *       and the last one ends with its largest (checked at each load, table_reader.c): T1 holds between blocks, and the
 *       order of a level's tables (V2) is that of their keys, whoever wrote the files.
 *
 * Threads: frozen after table_index_new, but for the slots, which are the cache's.
 */
#ifndef PLEAT_SSTABLE_TABLE_INDEX_H
#define PLEAT_SSTABLE_TABLE_INDEX_H

#include "cache/cache.h"
#include "sstable/table_format.h"

#include <stddef.h>
#include <stdint.h>

/* ---- building --------------------------------------------------------------------------------------------------- */

/* Bytes that grow; zero-initialised. */
struct table_bytes {
    uint8_t *data;
    size_t bytes;
    size_t capacity;
};
/* Room for `more` bytes behind those held. */
int table_bytes_reserve(const struct mem *mem, struct table_bytes *buffer, size_t more, struct pleat_error *err);
int table_bytes_append(const struct mem *mem, struct table_bytes *buffer, const void *data, size_t bytes,
                       struct pleat_error *err);

/* Collects the parts of the index image; zero-initialised. */
struct table_index_parts {
    struct table_bytes handles;
    struct table_bytes lengths;
    struct table_bytes separators;
    uint32_t blocks;
};
/* Length of the separator between a block that ends with a and one that begins with b: so many bytes of b. a < b. */
size_t table_separator_bytes(const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes);
int table_index_parts_separator(const struct mem *mem, struct table_index_parts *parts, const uint8_t *separator,
                                size_t separator_bytes, struct pleat_error *err);
int table_index_parts_block(const struct mem *mem, struct table_index_parts *parts, const struct table_handle *handle,
                            struct pleat_error *err);
/* *ret_image: owned by the caller. */
int table_index_parts_image(const struct mem *mem, const struct table_index_parts *parts, uint8_t **ret_image,
                            size_t *ret_bytes, struct pleat_error *err);
void table_index_parts_fini(const struct mem *mem, struct table_index_parts *parts);

/* ---- reading ---------------------------------------------------------------------------------------------------- */

struct table_index {
    uint64_t *heads;                /* of separators, behind the common prefix */
    uint32_t *separator_offsets;    /* separators + 1, into `bytes` */
    uint8_t *bytes;
    struct table_handle *handles;   /* blocks */
    struct cache_slot *slots;       /* blocks */
    size_t memory_bytes;
    uint32_t blocks;
    uint32_t separators;            /* blocks - 1 */
    uint32_t prefix_bytes;          /* common to all separators */
    uint32_t stored_bytes_max;      /* over the blocks */
    uint32_t image_bytes_max;
};

/* Decodes and verifies the image of the index section at `section` of `name`. *ret_index: table_index_free. */
int table_index_new(const struct mem *mem, const uint8_t *image, const struct table_footer *footer, const char *name,
                    struct table_index **ret_index, struct pleat_error *err);
/* The slots must be empty. NULL is allowed. */
void table_index_free(const struct mem *mem, struct table_index *index);

/* The block where `key` is if it is anywhere: the first whose separator is greater, else the last. */
uint32_t table_index_find(const struct table_index *index, const uint8_t *key, size_t key_bytes);
/* The last block that can hold a key less than `key`: the first whose separator is not less, else the last. */
uint32_t table_index_find_before(const struct table_index *index, const uint8_t *key, size_t key_bytes);

static inline struct pleat_slice table_index_separator(const struct table_index *index, uint32_t i) {
    uint32_t from = index->separator_offsets[i];
    return (struct pleat_slice){index->bytes + from, index->separator_offsets[i + 1] - from};
}

#endif
