/*
 * table_verify.c - reading a whole table file to check it, to know its meta, or to show its parts.
 *
 * A check trusts nothing that opening did not already prove: it reads every block from the file, past the cache, and
 * compares what it counts with what the meta claims. Opening has verified footer, properties and the directories of
 * index and filter, the pieces tile the file (M1, X2, X4), and the pages are read here, so that with the blocks every
 * byte has been under a checksum.
 */
#include "sstable/table_internal.h"

#include "base/bytes.h"
#include "base/error.h"
#include "base/hash.h"
#include "sstable/block_inline.h"

#include <string.h>

struct table_walk {
    struct table *table;
    const struct table_grouping *grouping;
    uint8_t *piece;
    uint8_t *image;
    uint8_t *key;      /* of the entry being looked at */
    uint8_t *key_last; /* of the one before */
    size_t key_last_bytes;
    uint8_t *filter;          /* the whole image; NULL: none */
    uint8_t *page_image;      /* of `page` of the index */
    size_t page_room;
    uint32_t page;            /* UINT32_MAX: none was read */
    struct table_place place; /* of the block being looked at */
    struct table_handle handle;
    struct table_meta counted;
};

static int table_walk_begin(struct table_walk *walk, struct table *table, struct pleat_error *err) {
    const struct mem *mem = table->store->mem;
    const struct table_index *index = &table->index;
    *walk = (struct table_walk){.table = table, .grouping = &table->grouping, .page = UINT32_MAX};
    size_t piece_bytes = TABLE_HEADER_BYTES + (size_t)index->stored_bytes_max;
    size_t image_bytes = (size_t)index->image_bytes_max + BLOCK_READ_BEYOND;
    walk->piece = mem_alloc(mem, piece_bytes);
    walk->image = mem_alloc(mem, image_bytes);
    walk->key = mem_alloc(mem, table_key_room(table));
    walk->key_last = mem_alloc(mem, table_key_room(table));
    if (walk->piece == NULL || walk->image == NULL || walk->key == NULL || walk->key_last == NULL) {
        return error_no_memory(err, "checking a table", piece_bytes + image_bytes + 2 * table_key_room(table));
    }
    return 0;
}

static void table_walk_end(struct table_walk *walk) {
    const struct mem *mem = walk->table->store->mem;
    mem_free(mem, walk->piece);
    mem_free(mem, walk->image);
    mem_free(mem, walk->key);
    mem_free(mem, walk->key_last);
    mem_free(mem, walk->filter);
    mem_free(mem, walk->page_image);
}

/* Reads a page of the index into the walk's own memory. */
static int table_walk_page(struct table_walk *walk, uint32_t page, struct pleat_error *err) {
    if (page == walk->page) {
        return 0;
    }
    size_t bytes = table_index_page(&walk->table->index, page).image_bytes;
    if (bytes > walk->page_room) {
        uint8_t *image = mem_resize(walk->table->store->mem, walk->page_image, bytes);
        if (image == NULL) {
            return error_no_memory(err, "a page of an index", bytes);
        }
        walk->page_image = image;
        walk->page_room = bytes;
    }
    int rc = table_page_read(walk->table, page, walk->page_image, err);
    walk->page = rc == 0 ? page : UINT32_MAX;
    return rc;
}

/* Blocks are walked in order. */
static int table_walk_load(struct table_walk *walk, uint32_t block, struct pleat_error *err) {
    struct table *table = walk->table;
    uint32_t page = table_index_page_of(&table->index, block);
    int rc = table_walk_page(walk, page, err);
    if (rc < 0) {
        return rc;
    }
    table_place_set(table, page, walk->page_image, block - table_index_first_block(&table->index, page), &walk->place);
    walk->handle = table_place_handle(table, &walk->place);
    size_t image_bytes = walk->handle.image_bytes;
    struct table_load load = {.table = table, .piece = walk->piece, .place = &walk->place};
    memset(walk->image + image_bytes, 0, BLOCK_READ_BEYOND);
    return table_load_block(&load, walk->image, image_bytes, err);
}

static int table_walk_wrong(const struct table_walk *walk, const char *what, uint64_t expected, uint64_t found,
                            struct pleat_error *err) {
    return error_corrupt(err, walk->table->name, walk->handle.offset, what, expected, found);
}

/* Puts the image of the filter together from its pages. */
static int table_walk_filter(struct table_walk *walk, struct pleat_error *err) {
    const struct table *table = walk->table;
    if (table->filter == NULL) {
        return 0;
    }
    uint32_t parts = filter_parts(table->filter);
    uint64_t at, bytes;
    filter_part_place(table->filter, parts - 1, &at, &bytes);
    uint64_t room = at + bytes;
    walk->filter = room <= SIZE_MAX ? mem_alloc(table->store->mem, (size_t)room) : NULL;
    if (walk->filter == NULL) {
        return error_no_memory(err, "the filter of a table", room);
    }
    memcpy(walk->filter, table->filter, filter_directory_bytes(table->filter));
    int rc = 0;
    for (uint32_t part = 0; rc == 0 && part < parts; part++) {
        filter_part_place(table->filter, part, &at, &bytes);
        rc = bytes > 0 ? table_filter_read(table, part, walk->filter + at, (size_t)bytes, err) : 0;
    }
    return rc;
}

/* ---- check ------------------------------------------------------------------------------------------------------ */

/* T1, T5, T2 against the key before, which in another block is the last of that block. */
static int table_verify_key(struct table_walk *walk, uint32_t i, const struct entry *entry, struct pleat_error *err) {
    const struct table_meta *meta = &walk->table->meta;
    if (walk->counted.entries == 0) {
        int order = key_compare(entry->key, entry->key_bytes, meta->smallest, meta->smallest_bytes);
        return order == 0 ? 0 : table_walk_wrong(walk, "smallest key, equal", 1, 0, err);
    }
    if (key_compare(walk->key_last, walk->key_last_bytes, entry->key, entry->key_bytes) >= 0) {
        return table_walk_wrong(walk, "order of the keys, at entry", i, i, err);
    }
    if (i > 0) {
        return 0;
    }
    struct table_separator separator;
    int rc = table_separator_before(walk->table, &walk->place, &separator, err);
    if (rc == 0) {
        size_t bytes = table_separator_bytes(walk->key_last, walk->key_last_bytes, entry->key, entry->key_bytes);
        if (bytes != separator.bytes.bytes || memcmp(separator.bytes.data, entry->key, bytes) != 0) {
            rc = table_walk_wrong(walk, "shortest separator before a block", bytes, separator.bytes.bytes, err);
        }
    }
    table_separator_fini(walk->table, &separator);
    return rc;
}

static int table_verify_filter(struct table_walk *walk, const struct entry *entry, uint64_t hash,
                               struct pleat_error *err) {
    if (walk->filter != NULL && !filter_may_contain(walk->filter, hash)) {
        return table_walk_wrong(walk, "key in the filter", 1, 0, err);
    }
    size_t group_bytes = table_group_bytes(walk->grouping, entry->key, entry->key_bytes);
    if (walk->filter != NULL && group_bytes > 0 &&
        !filter_may_contain(walk->filter, table_group_hash(entry->key, group_bytes))) {
        return table_walk_wrong(walk, "group in the filter", 1, 0, err);
    }
    struct entry found;
    if (block_get(walk->image, entry->key, entry->key_bytes, hash, &found) != 0) {
        return table_walk_wrong(walk, "key by its fingerprint", 1, 0, err);
    }
    return 0;
}

static int table_verify_entry(struct table_walk *walk, uint32_t i, const struct entry *entry,
                              struct pleat_error *err) {
    int rc = table_verify_key(walk, i, entry, err);
    if (rc == 0) {
        rc = table_verify_filter(walk, entry, hash_key(entry->key, entry->key_bytes), err);
    }
    struct table_meta *counted = &walk->counted;
    counted->entries++;
    counted->tombstones += entry->kind == ENTRY_DELETE;
    counted->key_value_bytes += (uint64_t)entry->key_bytes + entry->value_bytes;
    if (entry->key_bytes > counted->key_bytes_max) {
        counted->key_bytes_max = entry->key_bytes;
    }
    if (entry->deadline_ms != 0 &&
        (counted->deadline_min_ms == 0 || entry->deadline_ms < counted->deadline_min_ms)) {
        counted->deadline_min_ms = entry->deadline_ms;
    }
    return rc;
}

static int table_verify_block(struct table_walk *walk, uint32_t block, struct pleat_error *err) {
    int rc = table_walk_load(walk, block, err);
    if (rc < 0) {
        return rc;
    }
    uint32_t count = block_count(walk->image);
    const uint8_t *p = block_entry_at(walk->image, 0);
    size_t prefix_bytes = block_prefix_copy(walk->image, walk->key);
    for (uint32_t i = 0; rc == 0 && i < count; i++) {
        struct entry entry;
        p = block_entry_read(p, prefix_bytes, walk->key, &entry);
        rc = table_verify_entry(walk, i, &entry, err);
        memcpy(walk->key_last, entry.key, entry.key_bytes);
        walk->key_last_bytes = entry.key_bytes;
    }
    return rc;
}

static int table_verify_counts(const struct table_walk *walk, struct pleat_error *err) {
    const struct table_meta *meta = &walk->table->meta;
    const struct table_meta *counted = &walk->counted;
    if (key_compare(walk->key_last, walk->key_last_bytes, meta->largest, meta->largest_bytes) != 0) {
        return table_walk_wrong(walk, "largest key, equal", 1, 0, err);
    }
    const struct {
        const char *what;
        uint64_t expected;
        uint64_t found;
    } rows[] = {
        {"entries counted", meta->entries, counted->entries},
        {"tombstones counted", meta->tombstones, counted->tombstones},
        {"key and value bytes counted", meta->key_value_bytes, counted->key_value_bytes},
        {"longest key found", meta->key_bytes_max, counted->key_bytes_max},
        {"least deadline found", meta->deadline_min_ms, counted->deadline_min_ms},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (rows[i].expected != rows[i].found) {
            return table_walk_wrong(walk, rows[i].what, rows[i].expected, rows[i].found, err);
        }
    }
    return 0;
}

int table_verify(const struct table_store *store, const struct table_meta *meta, const struct table_grouping *grouping,
                 struct table_check *ret_check, struct pleat_error *err) {
    struct table *table;
    int rc = table_open(store, meta, &table, err);
    if (rc < 0) {
        return rc;
    }
    struct table_walk walk;
    rc = table_walk_begin(&walk, table, err);
    walk.grouping = grouping != NULL ? grouping : &table->grouping;
    rc = rc < 0 ? rc : table_walk_filter(&walk, err);
    for (uint32_t block = 0; rc == 0 && block < table->index.blocks; block++) {
        rc = table_verify_block(&walk, block, err);
    }
    if (rc == 0) {
        rc = table_verify_counts(&walk, err);
    }
    if (rc == 0) {
        ret_check->blocks += table->index.blocks;
        ret_check->entries += walk.counted.entries;
        ret_check->bytes += table->meta.file_bytes;
    }
    table_walk_end(&walk);
    table_close(table);
    return rc;
}

/* ---- meta and dump ---------------------------------------------------------------------------------------------- */

int table_meta_read(const struct table_store *store, uint64_t number, struct table_meta *ret_meta,
                    struct pleat_error *err) {
    struct table *table;
    int rc = table_open_as(store, number, NULL, &table, err);
    if (rc < 0) {
        return rc;
    }
    *ret_meta = table->meta;
    table->meta.smallest = NULL;
    table->meta.largest = NULL;
    table_close(table);
    return 0;
}

typedef int table_dump_callback(void *context, const struct table_part *part, const uint8_t *image);

static int table_dump_section(const struct table *table, const char *what, const struct table_section *section,
                              table_dump_callback *callback, void *context, struct pleat_error *err) {
    if (section->handle.stored_bytes == 0) {
        return 0;
    }
    uint8_t *image;
    int rc = table_read_section(table, section, &image, err);
    if (rc < 0) {
        return rc;
    }
    struct table_part part = {
        .what = what,
        .offset = section->handle.offset,
        .stored_bytes = TABLE_HEADER_BYTES + (uint64_t)section->handle.stored_bytes,
        .image_bytes = section->handle.image_bytes,
        .checksum = section->checksum,
    };
    rc = callback(context, &part, image);
    mem_free(table->store->mem, image);
    return rc;
}

static int table_dump_blocks(struct table *table, table_dump_callback *callback, void *context,
                             struct pleat_error *err) {
    struct table_walk walk;
    int rc = table_walk_begin(&walk, table, err);
    for (uint32_t block = 0; rc == 0 && block < table->index.blocks; block++) {
        rc = table_walk_load(&walk, block, err);
        if (rc < 0) {
            break;
        }
        const struct table_handle *handle = &walk.handle;
        struct table_part part = {
            .what = "block",
            .offset = handle->offset,
            .stored_bytes = TABLE_HEADER_BYTES + (uint64_t)handle->stored_bytes,
            .image_bytes = handle->image_bytes,
            .entries = block_count(walk.image),
            .checksum = load_u64(walk.piece + TABLE_HEADER_CHECKSUM),
        };
        rc = callback(context, &part, walk.image);
    }
    table_walk_end(&walk);
    return rc;
}

/* Shows one piece that is neither a block nor a section. */
static int table_dump_page(const struct table *table, const char *what, const struct table_handle *handle,
                           const uint8_t *image, table_dump_callback *callback, void *context,
                           struct pleat_error *err) {
    uint8_t header[TABLE_HEADER_BYTES];
    int rc = table_read(table, handle->offset, header, sizeof header, err);
    struct table_part part = {
        .what = what,
        .offset = handle->offset,
        .stored_bytes = TABLE_HEADER_BYTES + (uint64_t)handle->stored_bytes,
        .image_bytes = handle->image_bytes,
        .checksum = load_u64(header + TABLE_HEADER_CHECKSUM),
    };
    return rc < 0 ? rc : callback(context, &part, image);
}

static int table_dump_pages(struct table *table, table_dump_callback *callback, void *context,
                            struct pleat_error *err) {
    struct table_walk walk;
    int rc = table_walk_begin(&walk, table, err);
    for (uint32_t page = 0; rc == 0 && page < table->index.pages; page++) {
        const struct table_handle handle = table_index_page(&table->index, page);
        rc = table_walk_page(&walk, page, err);
        rc = rc < 0 ? rc : table_dump_page(table, "index page", &handle, walk.page_image, callback, context, err);
    }
    uint32_t parts = table->filter != NULL ? filter_parts(table->filter) : 0;
    rc = rc != 0 ? rc : table_walk_filter(&walk, err);
    for (uint32_t part = 0; rc == 0 && part < parts; part++) {
        uint64_t at, bytes;
        filter_part_place(table->filter, part, &at, &bytes);
        const struct table_handle handle = {table->filter_offsets[part], (uint32_t)bytes, (uint32_t)bytes};
        rc = bytes == 0 ? 0
                        : table_dump_page(table, "filter page", &handle, walk.filter + at, callback, context, err);
    }
    table_walk_end(&walk);
    return rc;
}

static int table_dump_footer(const struct table *table, table_dump_callback *callback, void *context,
                             struct pleat_error *err) {
    uint8_t footer[TABLE_FOOTER_BYTES];
    struct table_part part = {
        .what = "footer",
        .offset = table->meta.file_bytes - TABLE_FOOTER_BYTES,
        .stored_bytes = TABLE_FOOTER_BYTES,
        .image_bytes = TABLE_FOOTER_BYTES,
        .checksum = table->footer.checksum,
    };
    int rc = table_read(table, part.offset, footer, sizeof footer, err);
    return rc < 0 ? rc : callback(context, &part, footer);
}

int table_dump(const struct table_store *store, uint64_t number, table_dump_callback *callback, void *context,
               struct pleat_error *err) {
    struct table *table;
    int rc = table_open_as(store, number, NULL, &table, err);
    if (rc < 0) {
        return rc;
    }
    rc = table_dump_blocks(table, callback, context, err);
    rc = rc != 0 ? rc : table_dump_pages(table, callback, context, err);
    rc = rc != 0 ? rc : table_dump_section(table, "index", &table->footer.index, callback, context, err);
    rc = rc != 0 ? rc : table_dump_section(table, "filter", &table->footer.filter, callback, context, err);
    rc = rc != 0 ? rc : table_dump_section(table, "properties", &table->footer.properties, callback, context, err);
    rc = rc != 0 ? rc : table_dump_footer(table, callback, context, err);
    table_close(table);
    return rc;
}
