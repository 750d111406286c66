/*
 * table_builder.c - writing a table file from entries in order, or from whole blocks of other tables.
 *
 *     add -> block builder (looks ahead past the target, cuts where neighbours share least)
 *              -> table_writer.h: compressed, buffered, written
 *         -> filter: the hash of every key, and one a group
 *     finish -> pages of index and filter, their directories, properties, footer, sync
 *
 * An entry is copied once (into the block), compressed once and written once. Compression is more than half of the
 * cost; its state is allocated with the builder. Keys of one group are neighbours, so that remembering the last group
 * is enough to hash each group once.
 *
 *   W1  A builder that failed stays failed: the file is of no use and table_builder_free removes it.
 *   W2  Nothing refers to the file before finish returned 0, which synced it.
 */
#include "sstable/table.h"

#include "base/assert.h"
#include "base/bytes.h"
#include "base/error.h"
#include "base/mutation.h"
#include "base/hash.h"
#include "base/limits.h"
#include "sstable/block.h"
#include "sstable/block_inline.h"
#include "sstable/table_format.h"
#include "sstable/table_internal.h"
#include "sstable/table_keep.h"
#include "sstable/table_writer.h"

struct table_builder {
    const struct table_store *store;
    struct table_builder_options options;
    struct table_writer writer;
    struct block_builder *block;
    struct filter_builder *filter; /* NULL: none */
    struct table *like;            /* whose filter is to be copied; NULL: none */
    uint8_t *like_image;           /* that filter */
    struct table_index_builder index;
    struct table_bytes last_key;   /* of the last block that was stored */
    struct table_bytes group;      /* of the last entry; empty: none */
    struct table_bytes scratch;    /* key of an entry of a block that is passed through */
    struct table_meta meta;        /* counts so far */
    struct table_keep keep;        /* for the table's slots */
    int failure;                   /* W1 */
    bool finished;
};

/* ---- life ------------------------------------------------------------------------------------------------------- */

static int table_builder_prepare(struct table_builder *builder, struct pleat_error *err) {
    const struct mem *mem = builder->store->mem;
    int rc = block_builder_new(mem, &builder->block, err);
    if (rc < 0) {
        builder->block = NULL;
        return rc;
    }
    if (builder->options.filter != FILTER_NONE) {
        /* Pages ten times as long as blocks. */
        uint64_t part_keys = (uint64_t)builder->options.block_bytes * 8;
        rc = filter_builder_new(mem, (enum filter_kind)builder->options.filter,
                                part_keys < FILTER_PART_KEYS ? (uint32_t)part_keys : FILTER_PART_KEYS,
                                &builder->filter, err);
        if (rc < 0) {
            builder->filter = NULL;
            return rc;
        }
    }
    return table_writer_open(&builder->writer, builder->store, builder->options.number, builder->options.codec,
                             builder->options.block_bytes, err);
}

int table_builder_new(const struct table_store *store, const struct table_builder_options *options,
                      struct table_builder **ret_builder, struct pleat_error *err) {
    ASSERT(options->block_bytes > 0 && options->block_bytes <= (1u << 30));
    ASSERT(options->codec == PLEAT_CODEC_LZ4 || options->codec == PLEAT_CODEC_NONE);
    ASSERT(options->filter <= FILTER_FUSE);
    ASSERT(options->grouping.bytes == 0 || options->grouping.delimiters == 0);
    struct table_builder *builder = mem_zalloc(store->mem, 1, sizeof *builder);
    if (builder == NULL) {
        return error_no_memory(err, "a table builder", sizeof *builder);
    }
    builder->store = store;
    builder->options = *options;
    builder->index.page_bytes = table_index_page_bytes(options->block_bytes);
    int rc = table_builder_prepare(builder, err);
    if (rc < 0) {
        table_builder_free(builder);
        return rc;
    }
    *ret_builder = builder;
    return 0;
}

void table_builder_free(struct table_builder *builder) {
    if (builder == NULL) {
        return;
    }
    const struct table_store *store = builder->store;
    table_writer_fini(&builder->writer);
    block_builder_free(builder->block);
    filter_builder_free(builder->filter);
    mem_free(store->mem, builder->like_image);
    table_index_builder_fini(store->mem, &builder->index);
    mem_free(store->mem, builder->last_key.data);
    mem_free(store->mem, builder->group.data);
    mem_free(store->mem, builder->scratch.data);
    table_meta_fini(store->mem, &builder->meta);
    table_keep_fini(&builder->keep, store);
    mem_free(store->mem, builder);
}

/* ---- blocks ----------------------------------------------------------------------------------------------------- */

/* Before a block is stored: its separator from the one before, and its last key remembered for the next (T1, T2). */
static int table_builder_begin_block(struct table_builder *builder, struct pleat_slice first, struct pleat_slice last,
                                     struct pleat_error *err) {
    const struct mem *mem = builder->store->mem;
    if (builder->index.blocks == UINT32_MAX) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "%s: more than %u blocks", builder->writer.name, UINT32_MAX);
    }
    if (builder->index.blocks > 0) {
        const struct table_bytes *before = &builder->last_key;
        ASSERT(key_compare(before->data, before->bytes, first.data, first.bytes) < 0); /* T1 */
        size_t bytes = table_separator_bytes(before->data, before->bytes, first.data, first.bytes);
        int rc = table_index_add_separator(mem, &builder->index, first.data, bytes, err);
        if (rc < 0) {
            return rc;
        }
    } else {
        builder->meta.smallest = mem_copy(mem, first.data, first.bytes);
        if (builder->meta.smallest == NULL) {
            return error_no_memory(err, "the smallest key of a table", first.bytes);
        }
        builder->meta.smallest_bytes = (uint32_t)first.bytes;
    }
    builder->last_key.bytes = 0;
    return table_bytes_append(mem, &builder->last_key, last.data, last.bytes, err);
}

/* Keeps the image of the block that comes next, if its readers are there. */
static void table_builder_keep(struct table_builder *builder, struct pleat_slice first, const uint8_t *image,
                               size_t image_bytes) {
    const struct table_builder_options *options = &builder->options;
    uint8_t score = options->heat != NULL ? options->heat(options->heat_context, first, image_bytes) : 0;
    if (score > 0) {
        table_keep_block(&builder->keep, builder->store, builder->index.blocks, image, image_bytes, score - 1);
    }
}

static int table_builder_end_block(struct table_builder *builder, const struct table_section *stored,
                                   struct pleat_error *err) {
    return table_index_add_block(builder->store->mem, &builder->index, stored->handle.stored_bytes,
                                 stored->handle.image_bytes, err);
}

static int table_builder_emit(struct table_builder *builder, size_t count, struct pleat_error *err) {
    struct block_builder *block = builder->block;
    struct pleat_slice first = block_builder_key(block, 0);
    struct pleat_slice last = block_builder_key(block, count - 1);
    int rc = table_builder_begin_block(builder, first, last, err);
    if (rc < 0) {
        return rc;
    }
    uint8_t *image;
    size_t image_bytes;
    rc = block_builder_take(block, count, &image, &image_bytes, err);
    if (rc < 0) {
        return rc;
    }
    table_builder_keep(builder, first, image, image_bytes);
    struct table_section stored;
    rc = table_writer_store_block(&builder->writer, image, image_bytes, &stored, err);
    return rc < 0 ? rc : table_builder_end_block(builder, &stored, err);
}

/* Stores blocks until what is collected fits into one; until nothing is collected when `all`. */
static int table_builder_drain(struct table_builder *builder, bool all, struct pleat_error *err) {
    struct block_builder *block = builder->block;
    int rc = 0;
    while (rc == 0 && block_builder_count(block) > 0 &&
           (all || block_builder_bytes(block) > builder->options.block_bytes)) {
        rc = table_builder_emit(builder, block_builder_cut(block, builder->options.block_bytes), err);
    }
    return rc;
}

/* ---- entries ---------------------------------------------------------------------------------------------------- */

static int table_builder_add_group(struct table_builder *builder, const uint8_t *key, size_t key_bytes,
                                   struct pleat_error *err) {
    struct table_bytes *group = &builder->group;
    /* A key that begins with a group that ends at a fixed place is in that group. */
    if (group->bytes > 0 && key_has_prefix(key, key_bytes, group->data, group->bytes)) {
        return 0;
    }
    group->bytes = 0;
    size_t group_bytes = table_group_bytes(&builder->options.grouping, key, key_bytes);
    if (group_bytes == 0) {
        return 0;
    }
    int rc = table_bytes_append(builder->store->mem, group, key, group_bytes, err);
    return rc < 0 ? rc : filter_builder_add(builder->filter, table_group_hash(key, group_bytes), err);
}

/* What the meta and the filter learn from an entry. */
static inline int table_builder_count(struct table_builder *builder, const struct entry *entry, uint64_t hash,
                                      struct pleat_error *err) {
    struct table_meta *meta = &builder->meta;
    meta->entries++;
    meta->tombstones += entry->kind == ENTRY_DELETE;
    meta->key_value_bytes += (uint64_t)entry->key_bytes + entry->value_bytes;
    if (entry->key_bytes > meta->key_bytes_max) {
        meta->key_bytes_max = entry->key_bytes;
    }
    if (entry->deadline_ms != 0 && (meta->deadline_min_ms == 0 || entry->deadline_ms < meta->deadline_min_ms)) {
        meta->deadline_min_ms = entry->deadline_ms;
    }
    if (builder->filter == NULL) {
        return 0;
    }
    int rc = filter_builder_add(builder->filter, hash, err);
    if (rc == 0 && (builder->options.grouping.bytes | builder->options.grouping.delimiters) != 0) {
        rc = table_builder_add_group(builder, entry->key, entry->key_bytes, err);
    }
    return rc;
}

static int table_builder_failed(const struct table_builder *builder, struct pleat_error *err) {
    ASSERT(!builder->finished);
    if (LIKELY(builder->failure == 0)) {
        return 0;
    }
    return error_set(err, builder->failure, 0, "%s: writing it failed before", builder->writer.name);
}

int table_builder_add(struct table_builder *builder, const struct entry *entry, struct pleat_error *err) {
    int rc = table_builder_failed(builder, err);
    if (rc < 0) {
        return rc;
    }
    ASSERT(entry->key_bytes <= LIMIT_KEY_BYTES);
    uint64_t hash = hash_key(entry->key, entry->key_bytes);
    rc = block_builder_add(builder->block, entry, hash, err);
    if (rc == 0) {
        rc = table_builder_count(builder, entry, hash, err);
    }
    if (rc == 0 && block_builder_bytes(builder->block) > builder->options.block_bytes) {
        rc = table_builder_drain(builder, false, err);
    }
    builder->failure = rc;
    return rc;
}

static int table_builder_count_block(struct table_builder *builder, const struct table_block *block,
                                     struct pleat_error *err) {
    struct table_bytes *scratch = &builder->scratch;
    size_t room = (block->image_bytes < LIMIT_KEY_BYTES ? block->image_bytes : LIMIT_KEY_BYTES) + BLOCK_READ_BEYOND;
    int rc = table_bytes_reserve(builder->store->mem, scratch, room, err);
    size_t prefix_bytes = rc == 0 ? block_prefix_copy(block->image, scratch->data) : 0;
    const uint8_t *p = block_entry_at(block->image, 0);
    for (uint32_t i = 0; rc == 0 && i < block->entries; i++) {
        struct entry entry;
        p = block_entry_read(p, prefix_bytes, scratch->data, &entry);
        rc = table_builder_count(builder, &entry, hash_key(entry.key, entry.key_bytes), err);
    }
    return rc;
}

int table_builder_add_block(struct table_builder *builder, const struct table_block *block, struct pleat_error *err) {
    int rc = table_builder_failed(builder, err);
    if (rc < 0) {
        return rc;
    }
    ASSERT(block->entries > 0 && block->stored_bytes <= UINT32_MAX && block->image_bytes <= UINT32_MAX);
    rc = table_builder_drain(builder, true, err);
    if (rc == 0) {
        rc = table_builder_begin_block(builder, block->first_key, block->last_key, err);
    }
    if (rc == 0) {
        rc = table_builder_count_block(builder, block, err);
    }
    struct table_section stored;
    if (rc == 0) {
        rc = table_writer_copy(&builder->writer, block, &stored, err);
    }
    if (rc == 0) {
        table_builder_keep(builder, block->first_key, block->image, block->image_bytes);
        rc = table_builder_end_block(builder, &stored, err);
    }
    builder->failure = rc;
    return rc;
}

uint64_t table_builder_bytes(const struct table_builder *builder) {
    return table_writer_at(&builder->writer) + block_builder_bytes(builder->block);
}

uint64_t table_builder_entries(const struct table_builder *builder) {
    return builder->meta.entries;
}

bool table_builder_set_like(struct table_builder *builder, struct table *like) {
    bool suits = builder->filter != NULL && table_filter_suits(like, &builder->options);
    builder->like = suits ? like : NULL;
    return suits;
}

bool table_builder_has_kept(const struct table_builder *builder) {
    return builder->keep.frames.bytes > 0;
}

void table_builder_give(struct table_builder *builder, struct table *table) {
    ASSERT(builder->finished);
    table_keep_give(&builder->keep, builder->store, table);
}

/* ---- finish ----------------------------------------------------------------------------------------------------- */

static int table_builder_finish_meta(struct table_builder *builder, struct pleat_error *err) {
    struct table_meta *meta = &builder->meta;
    meta->largest = mem_copy(builder->store->mem, builder->last_key.data, builder->last_key.bytes);
    if (meta->largest == NULL) {
        return error_no_memory(err, "the largest key of a table", builder->last_key.bytes);
    }
    meta->largest_bytes = (uint32_t)builder->last_key.bytes;
    meta->number = builder->options.number;
    meta->sequence_min = builder->options.sequence_min;
    meta->sequence_max = builder->options.sequence_max;
    meta->blocks = builder->index.blocks;
    meta->codec = builder->options.codec;
    meta->filter = builder->options.filter;
    return 0;
}

static int table_builder_finish_index_pages(struct table_builder *builder, struct pleat_error *err) {
    const struct mem *mem = builder->store->mem;
    struct table_index_builder *index = &builder->index;
    int rc = table_index_close(mem, index, err);
    const uint8_t *image = index->images.data;
    for (uint32_t page = 0; rc == 0 && page < index->pages; page++) {
        size_t image_bytes = table_index_start_of(index, page).image_bytes;
        struct table_section stored;
        rc = table_writer_store(&builder->writer, image, image_bytes, true, &stored, err);
        rc = rc < 0 ? rc : table_index_page_stored(mem, index, stored.handle.stored_bytes, err);
        image += image_bytes;
    }
    return rc;
}

static int table_builder_finish_index(struct table_builder *builder, uint64_t pages_at, uint64_t pages_end,
                                      struct table_footer *footer, struct pleat_error *err) {
    struct table_bytes *scratch = &builder->scratch;
    scratch->bytes = 0;
    int rc = table_index_directory(builder->store->mem, &builder->index, pages_at, pages_end, scratch, err);
    return rc < 0 ? rc : table_writer_store(&builder->writer, scratch->data, scratch->bytes, true, &footer->index, err);
}

/* The pages of the filter; *ret_image: the builder's, its directory still to be stored. */
static int table_builder_finish_filter_pages(struct table_builder *builder, const uint8_t **ret_image,
                                             struct pleat_error *err) {
    *ret_image = NULL;
    if (builder->filter == NULL) {
        return 0;
    }
    size_t image_bytes;
    int rc = builder->like != NULL ? table_filter_image(builder->like, &builder->like_image, NULL) : PLEAT_ABSENT;
    *ret_image = builder->like_image;
    rc = rc != 0 ? filter_builder_finish(builder->filter, ret_image, &image_bytes, err) : 0;
    for (uint32_t part = 0; rc == 0 && part < filter_parts(*ret_image); part++) {
        uint64_t at, bytes;
        struct table_section stored;
        filter_part_place(*ret_image, part, &at, &bytes);
        if (bytes > 0) {
            rc = table_writer_store(&builder->writer, *ret_image + at, (size_t)bytes, false, &stored, err);
        }
    }
    return rc;
}

/* Index and filter: the pages of both, then both directories. */
static int table_builder_finish_sections(struct table_builder *builder, struct table_footer *footer,
                                         struct pleat_error *err) {
    const uint8_t *filter = NULL;
    uint64_t pages_at = table_writer_at(&builder->writer);
    int rc = table_builder_finish_index_pages(builder, err);
    uint64_t pages_end = table_writer_at(&builder->writer);
    rc = rc < 0 ? rc : table_builder_finish_filter_pages(builder, &filter, err);
    rc = rc < 0 ? rc : table_builder_finish_index(builder, pages_at, pages_end, footer, err);
    footer->filter.handle.offset = table_writer_at(&builder->writer);
    if (rc < 0 || filter == NULL) {
        return rc;
    }
    return table_writer_store(&builder->writer, filter, filter_directory_bytes(filter), false, &footer->filter, err);
}

static int table_builder_finish_properties(struct table_builder *builder, struct table_footer *footer,
                                           struct pleat_error *err) {
    struct table_bytes *scratch = &builder->scratch;
    size_t bytes = table_properties_bytes(&builder->meta);
    scratch->bytes = 0;
    int rc = table_bytes_reserve(builder->store->mem, scratch, bytes, err);
    if (rc < 0) {
        return rc;
    }
    table_properties_encode(scratch->data, &builder->meta, &builder->options.grouping);
    return table_writer_store(&builder->writer, scratch->data, bytes, false, &footer->properties, err);
}

static int table_builder_finish_file(struct table_builder *builder, struct table_footer *footer,
                                     struct pleat_error *err) {
    uint8_t bytes[TABLE_FOOTER_BYTES];
    struct table_meta *meta = &builder->meta;
    meta->file_bytes = table_writer_at(&builder->writer) + TABLE_FOOTER_BYTES;
    footer->number = meta->number;
    footer->file_bytes = meta->file_bytes;
    footer->entries = meta->entries;
    footer->blocks = meta->blocks;
    table_footer_encode(bytes, builder->store->store_id, builder->writer.seed, footer);
    meta->footer_checksum = footer->checksum;
    return table_writer_end(&builder->writer, bytes, err);
}

int table_builder_finish(struct table_builder *builder, struct table_meta *ret_meta, struct pleat_error *err) {
    int rc = table_builder_failed(builder, err);
    if (rc < 0) {
        return rc;
    }
    if (builder->meta.entries == 0) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "%s: a table without entries", builder->writer.name);
    }
    struct table_footer footer = {0};
    rc = table_builder_drain(builder, true, err);
    rc = rc < 0 ? rc : table_builder_finish_meta(builder, err);
    rc = rc < 0 ? rc : table_builder_finish_sections(builder, &footer, err);
    rc = rc < 0 ? rc : table_builder_finish_properties(builder, &footer, err);
    rc = rc < 0 ? rc : table_builder_finish_file(builder, &footer, err);
    builder->failure = rc;
    if (rc < 0) {
        return rc;
    }
    builder->finished = true;
    *ret_meta = builder->meta;
    builder->meta.smallest = NULL;
    builder->meta.largest = NULL;
    return 0;
}
