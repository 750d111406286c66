/*
 * table_reader.c - opening a table, loading blocks, and point lookups.
 *
 *     table_get:  index (table_page.c) -> slot -> frame (loaded on a miss) -> block_get
 *
 * The file is verified in two layers. What decides about memory safety (lengths, order of separators, block images) is
 * checked whatever the checksums say; what decides about truth (identity, counts, key range) is compared with the meta
 * that the manifest keeps (T3). A block is checked at each load, before its frame is published, and then never again.
 *
 * A load reads header and stored bytes with one call into the stack, or into the heap when they are long, or takes them
 * from the window of a walk over many blocks. The time goes into the system call and the decoder; the copy of a raw
 * block is noise beside them.
 */
#include "sstable/table_internal.h"
#include "sstable/table_window.h"

#include "base/bytes.h"
#include "base/error.h"
#include "base/mutation.h"
#include "sstable/block_inline.h"

#include <string.h>

/* A load runs below a get: its buffer must not be what overflows a small thread stack. */
#define TABLE_LOAD_STACK_BYTES 16384

/* ---- the file --------------------------------------------------------------------------------------------------- */

int table_read(const struct table *table, uint64_t offset, void *buffer, size_t n, struct pleat_error *err) {
    int rc = table_file_pin(table->file, err);
    if (rc == 0) {
        rc = table->store->vfs->file_read(table->file->file, offset, buffer, n, err);
        table_file_unpin(table->file);
    }
    return rc;
}

int table_read_piece(const struct table *table, const struct table_handle *handle, uint8_t *piece,
                     struct pleat_error *err) {
    int rc = table_read(table, handle->offset, piece, TABLE_HEADER_BYTES + (size_t)handle->stored_bytes, err);
    return rc < 0 ? rc : table_piece_verify(piece, table->seed, handle, table->name, err);
}

int table_read_section(const struct table *table, const struct table_section *section, uint8_t **ret_image,
                       struct pleat_error *err) {
    int rc = table_file_pin(table->file, err);
    if (rc == 0) {
        rc = table_section_read(table->store, table->file->file, table->seed, section, table->name, ret_image, err);
        table_file_unpin(table->file);
    }
    return rc;
}

void table_will_read(const struct table *table, uint64_t offset, uint64_t n) {
    if (table_file_pin(table->file, NULL) == 0) {
        table->store->vfs->file_will_read(table->file->file, offset, n);
        table_file_unpin(table->file);
    }
}

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

static int table_open_sections(struct table *table, const struct table_meta *expected, struct pleat_error *err) {
    const struct table_store *store = table->store;
    int rc = table_footer_read(store, table->file->file, table->meta.number, table->name, &table->footer, err);
    if (rc < 0) {
        return rc;
    }
    uint8_t *image = NULL;
    rc = table_read_section(table, &table->footer.properties, &image, err);
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
    rc = table_read_section(table, &table->footer.index, &image, err);
    if (rc < 0) {
        return rc;
    }
    rc = table_index_open(store->mem, image, &table->footer, table->name, &table->index, err);
    return rc < 0 ? rc : table_filter_open(table, err);
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
    int rc = table_file_new(store, number, &table->file, err);
    rc = rc < 0 ? rc : table_file_pin(table->file, err);
    if (rc < 0) {
        goto failed;
    }
    rc = table_open_sections(table, expected, err);
    table_file_unpin(table->file);
    if (rc < 0) {
        goto failed;
    }
    table->charged_bytes = sizeof *table + sizeof *table->file + table->index.memory_bytes;
    if (table->filter != NULL) {
        table->charged_bytes += table->footer.filter.handle.image_bytes +
                                filter_parts(table->filter) * (sizeof(struct cache_slot) + sizeof(uint64_t));
    }
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
        cache_slots_clear(store->cache, table->index.slots, (size_t)table->index.blocks + table->index.pages);
        if (table->filter != NULL) {
            cache_slots_clear(store->cache, table->filter_slots, filter_parts(table->filter));
        }
        cache_charge(store->cache, -(int64_t)table->charged_bytes);
    }
    table_file_free(table->file);
    table_index_fini(store->mem, &table->index);
    mem_free(store->mem, table->filter);
    mem_free(store->mem, table->filter_slots);
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
static int table_block_verify_ends(const struct table *table, uint32_t block, const uint8_t *image, uint64_t offset,
                                   struct pleat_error *err) {
    const struct table_meta *meta = &table->meta;
    if (block == 0) {
        uint32_t first = block_seek(image, meta->smallest, meta->smallest_bytes);
        if (first != 0) {
            return error_corrupt(err, table->name, offset, "keys of the first block below the smallest", 0, first);
        }
    }
    if (block + 1 == table->index.blocks && !table_block_ends_with(image, meta->largest, meta->largest_bytes)) {
        return error_corrupt(err, table->name, offset, "largest key, equal", 1, 0);
    }
    return 0;
}

/* X3 at one separator: how many keys of the block are below it. */
static int table_block_verify_separator(const struct table *table, const struct table_place *place, bool behind,
                                        const uint8_t *image, uint64_t offset, struct pleat_error *err) {
    struct table_separator separator;
    int rc = behind ? table_separator_behind(table, place, &separator, err)
                    : table_separator_before(table, place, &separator, err);
    if (rc == 0) {
        uint32_t below = block_seek(image, separator.bytes.data, separator.bytes.bytes);
        uint32_t expected = behind ? block_count(image) : 0;
        if (below != expected) {
            rc = error_corrupt(err, table->name, offset,
                               behind ? "keys of a block below the next separator"
                                      : "keys of a block below its separator",
                               expected, below);
        }
    }
    table_separator_fini(table, &separator);
    return rc == PLEAT_ABSENT ? 0 : rc;
}

/* X3: an image that is sound in itself must also be the one that the index promised. */
static int table_block_verify(const struct table *table, const struct table_place *place, uint64_t offset,
                              const uint8_t *image, size_t image_bytes, struct pleat_error *err) {
    size_t at = 0;
    const char *wrong = block_verify_keys(image, image_bytes, table->meta.key_bytes_max, &at);
    if (wrong != NULL) {
        return error_corrupt(err, table->name, offset, wrong, 0, at);
    }
    int rc = table_block_verify_separator(table, place, false, image, offset, err);
    rc = rc < 0 ? rc : table_block_verify_separator(table, place, true, image, offset, err);
    return rc < 0 ? rc : table_block_verify_ends(table, place->block, image, offset, err);
}

/* From the stored bytes, verified, to the image, verified. */
static int table_load_decode(const struct table_load *load, const struct table_handle *handle, const uint8_t *piece,
                             uint8_t *image, struct pleat_error *err) {
    const struct table *table = load->table;
    int rc = table_piece_decode(piece, handle, image, table->name, err);
    if (rc < 0) {
        return rc;
    }
    if (piece[TABLE_HEADER_CODEC] != PLEAT_CODEC_NONE) {
        block_offsets_unpack(image, handle->image_bytes);
    }
    return table_block_verify(table, load->place, handle->offset, image, handle->image_bytes, err);
}

/* By a read of its own. */
static int table_load_alone(struct table_load *load, const struct table_handle *handle, uint8_t *image,
                            struct pleat_error *err) {
    const struct table *table = load->table;
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
    int rc = table_read_piece(table, handle, piece, err);
    rc = rc < 0 ? rc : table_load_decode(load, handle, piece, image, err);
    load->stored = rc == 0 ? load->piece : NULL;
    mem_free(table->store->mem, heap);
    return rc;
}

int table_load_block(void *context, uint8_t *image, size_t image_bytes, struct pleat_error *err) {
    struct table_load *load = context;
    const struct table *table = load->table;
    const struct table_handle handle = table_place_handle(table, load->place);
    ASSERT(image_bytes == handle.image_bytes);
    const uint8_t *piece = load->window != NULL ? table_window_piece(table, load->window, &handle) : NULL;
    if (piece == NULL) {
        return table_load_alone(load, &handle, image, err);
    }
    int rc = table_piece_verify(piece, table->seed, &handle, table->name, err);
    rc = rc < 0 ? rc : table_load_decode(load, &handle, piece, image, err);
    load->stored = rc == 0 ? piece : NULL;
    return rc;
}

/* ---- lookups ---------------------------------------------------------------------------------------------------- */

int table_locate(struct table *table, const uint8_t *key, size_t key_bytes, struct table_place *ret_place,
                 struct pleat_error *err) {
    int rc = table_find(table, key, key_bytes, false, CACHE_GET, ret_place, err);
    if (LIKELY(rc == 0)) {
        __builtin_prefetch(&table->index.slots[ret_place->block]);
    }
    return rc;
}

void table_locate_cached(const struct table *table, const uint8_t *key, size_t key_bytes,
                         struct table_place *ret_place) {
    uint32_t page = index_node_find(table->index.top_image, key, key_bytes, false);
    struct cache_frame *frame = cache_slot_load(&table->index.page_slots[page]);
    ret_place->node = NULL;
    if (frame == NULL) {
        return;
    }
    const uint8_t *image = cache_frame_data(frame);
    index_node_prefetch(image);
    cache_touch_page(frame);
    table_place_set(table, page, image, index_node_find(image, key, key_bytes, false), ret_place);
    __builtin_prefetch(&table->index.slots[ret_place->block]);
}

void table_prefetch_block(const struct table *table, uint32_t block) {
    struct cache_frame *frame = cache_slot_load(&table->index.slots[block]);
    if (frame != NULL) {
        const uint8_t *image = cache_frame_data(frame);
        __builtin_prefetch(frame);
        __builtin_prefetch(image);
        __builtin_prefetch(image + 64); /* the rest of the fingerprints, of a block of the usual size */
    }
}

int table_get_at(struct table *table, const struct table_place *place, const uint8_t *key, size_t key_bytes,
                 uint64_t hash, enum cache_use use, struct entry *ret_entry, struct cache_frame **ret_frame,
                 struct pleat_error *err) {
    struct table_load load = {.table = table, .place = place};
    struct cache_frame *frame = cache_slot_load(&table->index.slots[place->block]);
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
    struct table_place place;
    int rc = table_locate(table, key, key_bytes, &place, err);
    return rc < 0 ? rc : table_get_at(table, &place, key, key_bytes, hash, use, ret_entry, ret_frame, err);
}

/* ---- places in the cache, handed on ----------------------------------------------------------------------------- */

int table_block_place(struct table *table, uint32_t block, struct table_place *ret_place, struct pleat_error *err) {
    if (block >= table->index.blocks) {
        return PLEAT_ABSENT;
    }
    uint32_t page = table_index_page_of(&table->index, block);
    return table_find_block(table, block, page, CACHE_CARRY, ret_place, err);
}

size_t table_block_lower(const struct table *table, const struct table_place *place, uint8_t *ret_key) {
    const struct index_node node = index_node_of(place->node), *in = &node;
    uint32_t i = place->child;
    if (i == 0) {
        in = &table->index.top;
        i = place->page;
    }
    if (i == 0) {
        memcpy(ret_key, table->meta.smallest, table->meta.smallest_bytes);
        return table->meta.smallest_bytes;
    }
    index_node_separator(in, i - 1, ret_key);
    return index_node_separator_bytes(in, i - 1);
}

uint8_t table_block_score(const struct table *table, uint32_t block) {
    const struct cache_frame *frame = cache_slot_load(&table->index.slots[block]);
    return frame != NULL ? cache_score(frame) : 0;
}

bool table_is_used(const struct table *table) {
    struct epoch_slot *slot;
    if (epoch_enter(cache_epoch(table->store->cache), &slot) < 0) {
        return false;
    }
    bool is_used = false;
    for (uint32_t block = 0; !is_used && block < table->index.blocks; block++) {
        is_used = table_block_score(table, block) > 0;
    }
    epoch_leave(slot);
    return is_used;
}

int table_block_carry(struct table *table, const struct table_place *place, uint8_t score, struct pleat_error *err) {
    struct table_load load = {.table = table, .place = place};
    struct cache_frame *frame;
    int rc = table_fetch(table, &load, CACHE_CARRY, &frame, err);
    if (rc == 0) {
        cache_score_raise(frame, score);
    }
    return rc;
}

void table_block_drop(struct table *table, uint32_t block) {
    cache_slot_drop(table->store->cache, &table->index.slots[block]);
}
