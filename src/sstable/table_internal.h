/*
 * table_internal.h - the open table, shared by the files that read one.
 */
#ifndef PLEAT_SSTABLE_TABLE_INTERNAL_H
#define PLEAT_SSTABLE_TABLE_INTERNAL_H

#include "base/assert.h"
#include "base/limits.h"
#include "sstable/block.h"
#include "sstable/table_format.h"
#include "sstable/table_index.h"

/* Frozen after table_open, but for the slots. */
struct table {
    const struct table_store *store;
    struct table_index *index;
    uint8_t *filter; /* NULL: none */
    struct vfs_file *file;
    uint64_t seed;
    size_t charged_bytes;
    struct table_grouping grouping;
    struct table_footer footer;
    struct table_meta meta; /* as in the file, equal to the manifest's */
    char name[TABLE_NAME_BYTES];
};

/* Opens the file by number alone; compares with `expected` unless it is NULL. */
int table_open_as(const struct table_store *store, uint64_t number, const struct table_meta *expected,
                  struct table **ret_table, struct pleat_error *err);

/* One load of a block. When `piece` is not NULL it has room for the header and stored bytes of any block of the table,
 * and holds those of `block` after the load (piece_block says whether the load took place). */
struct table_load {
    struct table *table;
    uint8_t *piece;
    uint32_t block;
    bool piece_filled;
};
/* Reads, verifies and decodes load->block into `image`: what cache_fetch calls on a miss. */
int table_load_block(void *context, uint8_t *image, size_t image_bytes, struct pleat_error *err);

/* Inside an epoch: the frame of a block, from its slot or loaded. */
static inline int table_fetch(struct table *table, struct table_load *load, enum cache_use use,
                              struct cache_frame **ret_frame, struct pleat_error *err) {
    struct cache_slot *slot = &table->index->slots[load->block];
    struct cache_frame *frame = cache_slot_load(slot);
    if (LIKELY(frame != NULL)) {
        if (use == CACHE_GET) {
            cache_touch(frame);
        }
        *ret_frame = frame;
        return 0;
    }
    return cache_fetch(table->store->cache, slot, table->index->handles[load->block].image_bytes, use,
                       table_load_block, load, ret_frame, err);
}

/* Room for the key of any block: a key is never longer than the image that it is in. */
static inline size_t table_key_room(const struct table *table) {
    size_t longest = table->index->image_bytes_max < LIMIT_KEY_BYTES ? table->index->image_bytes_max : LIMIT_KEY_BYTES;
    return longest + BLOCK_READ_BEYOND;
}

#endif
