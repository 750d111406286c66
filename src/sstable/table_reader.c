/*
 * table_reader.c - opening a table and point lookups.
 *
 *     table_get:  index -> slot -> frame (loaded on a miss) -> block_get
 *
 * The file is verified in two layers. What decides about memory safety (lengths, order of separators, block images) is
 * checked whatever the checksums say; what decides about truth (identity, counts, key range) is compared with the meta
 * that the manifest keeps (T3). A block is checked at each load, before its frame is published, and then never again.
 *
 * A load reads header and stored bytes with one call into the stack, or into the heap when they are long. The time goes
 * into the system call and the decoder; the copy of a raw block is noise beside them.
 */
#include "sstable/table_internal.h"

#include "base/bytes.h"
#include "base/error.h"
#include "base/mutation.h"
#include "sstable/block_inline.h"

#include <string.h>

/* A load runs below a get: its buffer must not be what overflows a small thread stack. */
#define TABLE_LOAD_STACK_BYTES 16384

/* ---- opening ---------------------------------------------------------------------------------------------------- */

static int table_meta_compare(const struct table *table, const struct table_meta *expected, struct pleat_error *err) {
    const struct table_meta *found = &table->meta;
    const struct {
        const char *what;
        uint64_t expected;
        uint64_t found;
    } rows[] = {
        {"file length against the manifest", expected->file_bytes, found->file_bytes},
        {"footer checksum against the manifest", expected->footer_checksum, found->footer_checksum},
        {"entries against the manifest", expected->entries, found->entries},
        {"tombstones against the manifest", expected->tombstones, found->tombstones},
        {"key and value bytes against the manifest", expected->key_value_bytes, found->key_value_bytes},
        {"least sequence against the manifest", expected->sequence_min, found->sequence_min},
        {"greatest sequence against the manifest", expected->sequence_max, found->sequence_max},
        {"least deadline against the manifest", expected->deadline_min_ms, found->deadline_min_ms},
        {"blocks against the manifest", expected->blocks, found->blocks},
        {"longest key against the manifest", expected->key_bytes_max, found->key_bytes_max},
        {"codec against the manifest", expected->codec, found->codec},
        {"filter against the manifest", expected->filter, found->filter},
        {"length of the smallest key against the manifest", expected->smallest_bytes, found->smallest_bytes},
        {"length of the largest key against the manifest", expected->largest_bytes, found->largest_bytes},
    };
    uint64_t offset = table->footer.properties.handle.offset;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (rows[i].expected != rows[i].found) {
            return error_corrupt(err, table->name, offset, rows[i].what, rows[i].expected, rows[i].found);
        }
    }
    if (key_compare(expected->smallest, expected->smallest_bytes, found->smallest, found->smallest_bytes) != 0) {
        return error_corrupt(err, table->name, offset, "smallest key against the manifest, equal", 1, 0);
    }
    if (key_compare(expected->largest, expected->largest_bytes, found->largest, found->largest_bytes) != 0) {
        return error_corrupt(err, table->name, offset, "largest key against the manifest, equal", 1, 0);
    }
    return 0;
}

static int table_open_filter(struct table *table, struct pleat_error *err) {
    const struct table_section *section = &table->footer.filter;
    if (section->handle.stored_bytes == 0) {
        return 0;
    }
    int rc = table_section_read(table->store, table->file, table->seed, section, table->name, &table->filter, err);
    if (rc < 0) {
        return rc;
    }
    const char *wrong = filter_verify(table->filter, section->handle.image_bytes);
    if (wrong != NULL) {
        return error_corrupt(err, table->name, section->handle.offset, wrong, 0, 1);
    }
    return 0;
}

static int table_open_sections(struct table *table, const struct table_meta *expected, struct pleat_error *err) {
    const struct table_store *store = table->store;
    int rc = table_footer_read(store, table->file, table->meta.number, table->name, &table->footer, err);
    if (rc < 0) {
        return rc;
    }
    uint8_t *image = NULL;
    rc = table_section_read(store, table->file, table->seed, &table->footer.properties, table->name, &image, err);
    if (rc < 0) {
        return rc;
    }
    rc = table_properties_decode(store->mem, image, &table->footer, table->name, &table->meta, &table->grouping, err);
    mem_free(store->mem, image);
    if (rc == 0 && expected != NULL && !MUTATION(table_meta)) {
        rc = table_meta_compare(table, expected, err);
    }
    if (rc < 0) {
        return rc;
    }
    rc = table_section_read(store, table->file, table->seed, &table->footer.index, table->name, &image, err);
    if (rc < 0) {
        return rc;
    }
    rc = table_index_new(store->mem, image, &table->footer, table->name, &table->index, err);
    mem_free(store->mem, image);
    return rc < 0 ? rc : table_open_filter(table, err);
}

int table_open_as(const struct table_store *store, uint64_t number, const struct table_meta *expected,
                  struct table **ret_table, struct pleat_error *err) {
    struct table *table = mem_zalloc(store->mem, 1, sizeof *table);
    if (table == NULL) {
        return error_no_memory(err, "a table", sizeof *table);
    }
    table->store = store;
    table->meta.number = number;
    table->seed = table_seed(store->store_id, number);
    table_name(number, table->name);
    int rc = store->vfs->file_open(store->dir, table->name, VFS_FILE_READ, 0, &table->file, err);
    if (rc < 0) {
        table->file = NULL;
        goto failed;
    }
    rc = table_open_sections(table, expected, err);
    if (rc < 0) {
        goto failed;
    }
    table->charged_bytes = sizeof *table + table->index->memory_bytes + table->footer.filter.handle.image_bytes;
    cache_charge(store->cache, (int64_t)table->charged_bytes);
    *ret_table = table;
    return 0;
failed:
    table_close(table);
    return rc;
}

int table_open(const struct table_store *store, const struct table_meta *meta, struct table **ret_table,
               struct pleat_error *err) {
    return table_open_as(store, meta->number, meta, ret_table, err);
}

void table_close(struct table *table) {
    if (table == NULL) {
        return;
    }
    const struct table_store *store = table->store;
    if (table->charged_bytes > 0) {
        cache_slots_clear(store->cache, table->index->slots, table->index->blocks);
        cache_charge(store->cache, -(int64_t)table->charged_bytes);
    }
    if (table->file != NULL) {
        store->vfs->file_close(table->file);
    }
    table_index_free(store->mem, table->index);
    mem_free(store->mem, table->filter);
    table_meta_fini(store->mem, &table->meta);
    mem_free(store->mem, table);
}

/* ---- blocks ----------------------------------------------------------------------------------------------------- */

/* Whether the block's last key is exactly this. */
static bool table_block_ends_with(const uint8_t *image, const uint8_t *key, size_t key_bytes) {
    uint32_t suffix_bytes;
    const uint8_t *suffix = block_entry_suffix(block_entry_at(image, block_count(image) - 1), &suffix_bytes);
    size_t prefix_bytes = block_prefix_bytes(image);
    return prefix_bytes + suffix_bytes == key_bytes &&
           block_bytes_equal(image + load_u32(image + BLOCK_AT_PREFIX_AT), key, prefix_bytes) &&
           block_bytes_equal(suffix, key + prefix_bytes, suffix_bytes);
}

/* X3 at the table's ends: levels are ordered by the metas alone, so a key beyond them would be shown out of order. */
static int table_block_verify_ends(const struct table *table, uint32_t block, const uint8_t *image,
                                   struct pleat_error *err) {
    const struct table_meta *meta = &table->meta;
    uint64_t offset = table->index->handles[block].offset;
    if (block == 0) {
        uint32_t first = block_seek(image, meta->smallest, meta->smallest_bytes);
        if (first != 0) {
            return error_corrupt(err, table->name, offset, "keys of the first block below the smallest", 0, first);
        }
    }
    if (block == table->index->separators && !table_block_ends_with(image, meta->largest, meta->largest_bytes)) {
        return error_corrupt(err, table->name, offset, "largest key, equal", 1, 0);
    }
    return 0;
}

/* X3: an image that is sound in itself must also be the one that the index promised. */
static int table_block_verify(const struct table *table, uint32_t block, const uint8_t *image, size_t image_bytes,
                              struct pleat_error *err) {
    const struct table_index *index = table->index;
    uint64_t offset = index->handles[block].offset;
    size_t at = 0;
    const char *wrong = block_verify(image, image_bytes, &at);
    if (wrong != NULL) {
        return error_corrupt(err, table->name, offset, wrong, 0, at);
    }
    if (block > 0) {
        struct pleat_slice lower = table_index_separator(index, block - 1);
        uint32_t first = block_seek(image, lower.data, lower.bytes);
        if (first != 0) {
            return error_corrupt(err, table->name, offset, "keys of a block below its separator", 0, first);
        }
    }
    if (block < index->separators) {
        struct pleat_slice upper = table_index_separator(index, block);
        uint32_t end = block_seek(image, upper.data, upper.bytes);
        if (end != block_count(image)) {
            return error_corrupt(err, table->name, offset, "keys of a block below the next separator",
                                 block_count(image), end);
        }
    }
    return table_block_verify_ends(table, block, image, err);
}

int table_load_block(void *context, uint8_t *image, size_t image_bytes, struct pleat_error *err) {
    struct table_load *load = context;
    const struct table *table = load->table;
    const struct table_handle *handle = &table->index->handles[load->block];
    ASSERT(image_bytes == handle->image_bytes);
    uint8_t stack[TABLE_LOAD_STACK_BYTES];
    size_t piece_bytes = TABLE_HEADER_BYTES + (size_t)handle->stored_bytes;
    uint8_t *heap = NULL;
    uint8_t *piece = load->piece;
    if (piece == NULL && piece_bytes <= sizeof stack) {
        piece = stack;
    } else if (piece == NULL) {
        piece = heap = mem_alloc(table->store->mem, piece_bytes);
        if (heap == NULL) {
            return error_no_memory(err, "the stored bytes of a block", piece_bytes);
        }
    }
    int rc = table_piece_read(table->store, table->file, table->seed, handle, table->name, piece, err);
    if (rc == 0) {
        rc = table_piece_decode(piece, handle, image, table->name, err);
    }
    if (rc == 0 && piece[TABLE_HEADER_CODEC] != PLEAT_CODEC_NONE) {
        block_offsets_unpack(image, image_bytes);
    }
    if (rc == 0) {
        rc = table_block_verify(table, load->block, image, image_bytes, err);
    }
    load->piece_filled = rc == 0;
    mem_free(table->store->mem, heap);
    return rc;
}

/* ---- lookups ---------------------------------------------------------------------------------------------------- */

void table_prefetch(const struct table *table, uint64_t hash) {
    if (table->filter != NULL) {
        filter_prefetch(table->filter, hash);
    }
}

bool table_may_contain(const struct table *table, uint64_t hash) {
    return table->filter == NULL || filter_may_contain(table->filter, hash);
}

uint32_t table_locate(const struct table *table, const uint8_t *key, size_t key_bytes) {
    uint32_t block = table_index_find(table->index, key, key_bytes);
    __builtin_prefetch(&table->index->slots[block]);
    return block;
}

void table_prefetch_block(const struct table *table, uint32_t block) {
    struct cache_frame *frame = cache_slot_load(&table->index->slots[block]);
    if (frame != NULL) {
        const uint8_t *image = cache_frame_data(frame);
        __builtin_prefetch(frame);
        __builtin_prefetch(image);
        __builtin_prefetch(image + 64); /* the rest of the fingerprints, of a block of the usual size */
    }
}

int table_get_at(struct table *table, uint32_t block, const uint8_t *key, size_t key_bytes, uint64_t hash,
                 enum cache_use use, struct entry *ret_entry, struct cache_frame **ret_frame,
                 struct pleat_error *err) {
    struct table_load load = {.table = table, .block = block};
    struct cache_frame *frame = cache_slot_load(&table->index->slots[block]);
    if (LIKELY(frame != NULL)) {
        __builtin_prefetch(cache_frame_data(frame)); /* beside the frame's own line, which a touch reads */
    }
    int rc = table_fetch(table, &load, use, &frame, err);
    if (UNLIKELY(rc < 0)) {
        return rc;
    }
    *ret_frame = frame;
    return block_get(cache_frame_data(frame), key, key_bytes, hash, ret_entry);
}

int table_get(struct table *table, const uint8_t *key, size_t key_bytes, uint64_t hash, enum cache_use use,
              struct entry *ret_entry, struct cache_frame **ret_frame, struct pleat_error *err) {
    uint32_t block = table_locate(table, key, key_bytes);
    return table_get_at(table, block, key, key_bytes, hash, use, ret_entry, ret_frame, err);
}

/* ---- places in the cache, handed on ----------------------------------------------------------------------------- */

uint32_t table_blocks(const struct table *table) {
    return table->index->blocks;
}

struct pleat_slice table_block_lower(const struct table *table, uint32_t block) {
    return block > 0 ? table_index_separator(table->index, block - 1)
                     : (struct pleat_slice){table->meta.smallest, table->meta.smallest_bytes};
}

uint8_t table_block_score(const struct table *table, uint32_t block) {
    const struct cache_frame *frame = cache_slot_load(&table->index->slots[block]);
    return frame != NULL ? cache_score(frame) : 0;
}

bool table_is_used(const struct table *table) {
    struct epoch_slot *slot;
    if (epoch_enter(cache_epoch(table->store->cache), &slot) < 0) {
        return false;
    }
    bool is_used = false;
    for (uint32_t block = 0; !is_used && block < table->index->blocks; block++) {
        is_used = table_block_score(table, block) > 0;
    }
    epoch_leave(slot);
    return is_used;
}

int table_block_carry(struct table *table, uint32_t block, uint8_t score, struct pleat_error *err) {
    struct table_load load = {.table = table, .block = block};
    struct cache_frame *frame;
    int rc = table_fetch(table, &load, CACHE_CARRY, &frame, err);
    if (rc == 0) {
        cache_score_raise(frame, score);
    }
    return rc;
}

void table_block_drop(struct table *table, uint32_t block) {
    cache_slot_drop(table->store->cache, &table->index->slots[block]);
}
