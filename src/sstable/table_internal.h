/*
 * table_internal.h - the open table, shared by the files that read one.
 */
#ifndef PLEAT_SSTABLE_TABLE_INTERNAL_H
#define PLEAT_SSTABLE_TABLE_INTERNAL_H

#include "base/assert.h"
#include "base/limits.h"
#include "sstable/block.h"
#include "sstable/table_files.h"
#include "sstable/table_format.h"
#include "sstable/table_index.h"

/* Frozen after table_open, but for the slots. */
struct table {
    const struct table_store *store;
    struct table_file *file;
    struct table_index index;
    uint8_t *filter;                 /* its directory; NULL: none */
    struct cache_slot *filter_slots; /* one a part */
    uint64_t *filter_offsets;        /* of the pages in the file, one a part; in the same allocation */
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

/* Of the table's file, which is opened for it if need be: file_read; a piece, its checksum verified (room for header
 * and stored bytes); a section, decoded: owned by the caller (mem_free). */
int table_read(const struct table *table, uint64_t offset, void *buffer, size_t n, struct pleat_error *err);
int table_read_piece(const struct table *table, const struct table_handle *handle, uint8_t *piece,
                     struct pleat_error *err);
int table_read_section(const struct table *table, const struct table_section *section, uint8_t **ret_image,
                       struct pleat_error *err);
/* file_will_read. */
void table_will_read(const struct table *table, uint64_t offset, uint64_t n);

/* ---- table_page.c ------------------------------------------------------------------------------------------------ */

/* Verifies the filter's directory and makes slots for its pages. */
int table_filter_open(struct table *table, struct pleat_error *err);
/* Reads, verifies and decodes a page of the index into `image`, room for what table_index_page says. */
int table_page_read(const struct table *table, uint32_t page, uint8_t *image, struct pleat_error *err);
/* Reads and verifies the data of a part of the filter, which has some. */
int table_filter_read(const struct table *table, uint32_t part, uint8_t *data, size_t bytes, struct pleat_error *err);
/* Whether its filter is of the kind, and over the groups, that a table of these options has. */
bool table_filter_suits(const struct table *table, const struct table_builder_options *options);
/* All of the filter as one image (filter.h), read and verified: owned by the caller (mem_free). The table has one. */
int table_filter_image(const struct table *table, uint8_t **ret_image, struct pleat_error *err);
/* table_page_fetch, when the page is not in memory. */
int table_page_load(struct table *table, uint32_t page, enum cache_use use, const uint8_t **ret_image,
                    struct pleat_error *err);

/* Inside an epoch: the image of a page of the index, valid until epoch_leave. */
static inline int table_page_fetch(struct table *table, uint32_t page, enum cache_use use, const uint8_t **ret_image,
                                   struct pleat_error *err) {
    struct cache_frame *frame = cache_slot_load(&table->index.page_slots[page]);
    if (LIKELY(frame != NULL)) {
        index_node_prefetch(cache_frame_data(frame));
        if (use == CACHE_GET) {
            cache_touch_page(frame);
        }
        *ret_image = cache_frame_data(frame);
        return 0;
    }
    return table_page_load(table, page, use, ret_image, err);
}

/* Child `child` of a page. */
static inline void table_place_set(const struct table *table, uint32_t page, const uint8_t *node, uint32_t child,
                                   struct table_place *ret_place) {
    *ret_place = (struct table_place){
        .node = node, .page = page, .child = child, .block = table_index_first_block(&table->index, page) + child};
}
/* Inside an epoch: the place of the block where the key is if it is anywhere; or, with `before`, of the last one that
 * can hold a lesser key. */
int table_find(struct table *table, const uint8_t *key, size_t key_bytes, bool before, enum cache_use use,
               struct table_place *ret_place, struct pleat_error *err);
/* The same for a key that is not below that of `from`, a place found in the same epoch: one page fewer to look for when
 * it is near. */
int table_find_behind(struct table *table, const struct table_place *from, const uint8_t *key, size_t key_bytes,
                      bool before, enum cache_use use, struct table_place *ret_place, struct pleat_error *err);
/* Inside an epoch: the place of a block by its number; page_hint: of a block nearby, or any. */
int table_find_block(struct table *table, uint32_t block, uint32_t page_hint, enum cache_use use,
                     struct table_place *ret_place, struct pleat_error *err);

/* Where a block is in the file. */
static inline struct table_handle table_place_handle(const struct table *table, const struct table_place *place) {
    const struct index_node node = index_node_of(place->node);
    struct table_handle handle =
        index_node_child(&node, place->child, table_index_covered(&table->index, place->page));
    handle.offset += table_index_first_offset(&table->index, place->page);
    return handle;
}

/* A separator put together. */
struct table_separator {
    struct pleat_slice bytes;
    uint8_t *heap; /* NULL: it fits */
    uint8_t inside[256];
};
/* The separator in front of a block, or behind it: 0, or PLEAT_ABSENT when the table begins, or ends, there. Ends with
 * table_separator_fini in any case. */
int table_separator_before(const struct table *table, const struct table_place *place,
                           struct table_separator *ret_separator, struct pleat_error *err);
int table_separator_behind(const struct table *table, const struct table_place *place,
                           struct table_separator *ret_separator, struct pleat_error *err);
void table_separator_fini(const struct table *table, struct table_separator *separator);

/* ---- table_reader.c ---------------------------------------------------------------------------------------------- */

struct table_window;

/* One load of a block, from `window` when that is not NULL. When `piece` is not NULL it has room for the header and
 * stored bytes of any block of the table. After the load `stored` points to those of this block, in the window or in
 * `piece`; it stays NULL without either, and when no load took place. */
struct table_load {
    struct table *table;
    const struct table_place *place; /* whose node stays valid meanwhile */
    struct table_window *window;
    uint8_t *piece;
    const uint8_t *stored;
};
/* Reads, verifies and decodes the block into `image`: what cache_fetch calls on a miss. */
int table_load_block(void *context, uint8_t *image, size_t image_bytes, struct pleat_error *err);

/* Inside an epoch: the frame of a block, from its slot or loaded. */
static inline int table_fetch(struct table *table, struct table_load *load, enum cache_use use,
                              struct cache_frame **ret_frame, struct pleat_error *err) {
    struct cache_slot *slot = &table->index.slots[load->place->block];
    struct cache_frame *frame = cache_slot_load(slot);
    if (LIKELY(frame != NULL)) {
        if (use == CACHE_GET) {
            cache_touch(frame);
        }
        *ret_frame = frame;
        return 0;
    }
    return cache_fetch(table->store->cache, slot, table_place_handle(table, load->place).image_bytes, use,
                       table_load_block, load, ret_frame, err);
}

/* Room for the key of any block, which is never longer than the meta's longest (checked at each load). */
static inline size_t table_key_room(const struct table *table) {
    return (size_t)table->meta.key_bytes_max + BLOCK_READ_BEYOND;
}

#endif
