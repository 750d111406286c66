/*
 * table_page.c - the pages of a table's index and filter: loading them, searching the one, asking the other.
 *
 *     key   -> directory -> page of the index -> block          two searches, one load when the page is not in memory
 *     hash  -> directory -> page of the filter -> yes or no     or "may contain", without it
 *
 * A page of the index is needed for an answer, and is touched by each search. A page of the filter only spares reads:
 * it is touched when it has spared one, so that pages of which all keys are found, as those of the deepest level are
 * by a workload that asks for what is there, are the first to go when memory is short, and pages of upper levels,
 * which most keys are kept away from, the last. One that is missing is loaded when the cache has room, and else for
 * few hashes, FILTER_CHANCE_BYTES of it for each that asks: a workload that begins to ask for absent keys gets its
 * pages back after some reads, and one that does not pays a fraction of a read for the try.
 *
 *   PG1  Nothing of a page is believed before its checksum and form were proved at its load (X4, FI1); then never
 *        again.
 */
#include "sstable/table_internal.h"

#include "base/bytes.h"
#include "base/error.h"
#include "base/mutation.h"
#include "sstable/filter_internal.h"

#include <string.h>

/* A load runs below a get: its buffer must not be what overflows a small thread stack. */
#define TABLE_PAGE_STACK_BYTES 8192

/* ---- separators ------------------------------------------------------------------------------------------------- */

static int table_separator_put(const struct table *table, const struct index_node *node, uint32_t i,
                               struct table_separator *ret_separator, struct pleat_error *err) {
    size_t bytes = index_node_separator_bytes(node, i);
    uint8_t *room = ret_separator->inside;
    if (bytes > sizeof ret_separator->inside) {
        room = ret_separator->heap = mem_alloc(table->store->mem, bytes);
        if (room == NULL) {
            return error_no_memory(err, "a separator of a table", bytes);
        }
    }
    index_node_separator(node, i, room);
    ret_separator->bytes = (struct pleat_slice){room, bytes};
    return 0;
}

int table_separator_before(const struct table *table, const struct table_place *place,
                           struct table_separator *ret_separator, struct pleat_error *err) {
    ret_separator->heap = NULL;
    if (place->child > 0) {
        const struct index_node node = index_node_of(place->node);
        return table_separator_put(table, &node, place->child - 1, ret_separator, err);
    }
    return place->page > 0 ? table_separator_put(table, &table->index.top, place->page - 1, ret_separator, err)
                           : PLEAT_ABSENT;
}

int table_separator_behind(const struct table *table, const struct table_place *place,
                           struct table_separator *ret_separator, struct pleat_error *err) {
    const struct index_node node = index_node_of(place->node);
    ret_separator->heap = NULL;
    if (place->child + 1 < node.count) {
        return table_separator_put(table, &node, place->child, ret_separator, err);
    }
    return place->page + 1 < table->index.pages
               ? table_separator_put(table, &table->index.top, place->page, ret_separator, err)
               : PLEAT_ABSENT;
}

void table_separator_fini(const struct table *table, struct table_separator *separator) {
    mem_free(table->store->mem, separator->heap);
}

/* ---- pages of the index ----------------------------------------------------------------------------------------- */

static int table_page_verify(const struct table *table, uint32_t page, const uint8_t *image, size_t image_bytes,
                             struct pleat_error *err) {
    uint32_t at = 0;
    uint8_t stack[4096];
    uint8_t *scratch = stack;
    /* A separator is never longer than the image that holds it. */
    if (image_bytes > sizeof stack) {
        size_t room = image_bytes < LIMIT_KEY_BYTES ? image_bytes : LIMIT_KEY_BYTES;
        scratch = mem_alloc(table->store->mem, room);
        if (scratch == NULL) {
            return error_no_memory(err, "the separators of a table", room);
        }
    }
    const char *wrong = table_index_page_verify(&table->index, page, image, image_bytes, scratch, &at);
    if (scratch != stack) {
        mem_free(table->store->mem, scratch);
    }
    uint64_t offset = table_index_page(&table->index, page).offset;
    return wrong == NULL ? 0 : error_corrupt(err, table->name, offset, wrong, 0, at);
}

int table_page_read(const struct table *table, uint32_t page, uint8_t *image, struct pleat_error *err) {
    const struct table_handle handle = table_index_page(&table->index, page);
    const struct mem *mem = table->store->mem;
    uint8_t stack[TABLE_PAGE_STACK_BYTES];
    size_t piece_bytes = TABLE_HEADER_BYTES + (size_t)handle.stored_bytes;
    uint8_t *heap = piece_bytes > sizeof stack ? mem_alloc(mem, piece_bytes) : NULL;
    if (piece_bytes > sizeof stack && heap == NULL) {
        return error_no_memory(err, "the stored bytes of a page", piece_bytes);
    }
    uint8_t *piece = heap != NULL ? heap : stack;
    int rc = table_read_piece(table, &handle, piece, err);
    rc = rc < 0 ? rc : table_piece_decode(piece, &handle, image, table->name, err);
    mem_free(mem, heap);
    return rc < 0 ? rc : table_page_verify(table, page, image, handle.image_bytes, err);
}

struct table_page_load {
    struct table *table;
    uint32_t page; /* or part of the filter */
};

static int table_page_load_index(void *context, uint8_t *image, size_t image_bytes, struct pleat_error *err) {
    const struct table_page_load *load = context;
    ASSERT(image_bytes == table_index_page(&load->table->index, load->page).image_bytes);
    return table_page_read(load->table, load->page, image, err);
}

int table_page_load(struct table *table, uint32_t page, enum cache_use use, const uint8_t **ret_image,
                    struct pleat_error *err) {
    struct table_page_load load = {table, page};
    struct cache_frame *frame = NULL;
    int rc = cache_fetch(table->store->cache, &table->index.page_slots[page],
                         table_index_page(&table->index, page).image_bytes, CACHE_CARRY, table_page_load_index, &load,
                         &frame, err);
    if (rc < 0) {
        return rc;
    }
    if (use == CACHE_GET) {
        cache_touch_page(frame);
    }
    *ret_image = cache_frame_data(frame);
    return 0;
}

int table_find(struct table *table, const uint8_t *key, size_t key_bytes, bool before, enum cache_use use,
               struct table_place *ret_place, struct pleat_error *err) {
    uint32_t page = index_node_find(table->index.top_image, key, key_bytes, before);
    const uint8_t *image;
    int rc = table_page_fetch(table, page, use, &image, err);
    if (rc < 0) {
        return rc;
    }
    table_place_set(table, page, image, index_node_find(image, key, key_bytes, before), ret_place);
    return 0;
}

int table_find_behind(struct table *table, const struct table_place *from, const uint8_t *key, size_t key_bytes,
                      bool before, enum cache_use use, struct table_place *ret_place, struct pleat_error *err) {
    uint32_t last = load_u32(from->node + INDEX_NODE_COUNT) - 1;
    uint32_t child = index_node_find_from(from->node, from->child, key, key_bytes, before);
    if (child < last || from->page + 1 == table->index.pages) {
        table_place_set(table, from->page, from->node, child, ret_place);
        return 0;
    }
    return table_find(table, key, key_bytes, before, use, ret_place, err); /* it may be in a later page */
}

int table_find_block(struct table *table, uint32_t block, uint32_t page_hint, enum cache_use use,
                     struct table_place *ret_place, struct pleat_error *err) {
    const struct table_index *index = &table->index;
    uint32_t page = page_hint;
    if (block < table_index_first_block(index, page) || block >= table_index_first_block(index, page + 1)) {
        page = table_index_page_of(index, block);
    }
    const uint8_t *image;
    int rc = table_page_fetch(table, page, use, &image, err);
    if (rc == 0) {
        table_place_set(table, page, image, block - table_index_first_block(index, page), ret_place);
    }
    return rc;
}

/* ---- pages of the filter ---------------------------------------------------------------------------------------- */

int table_filter_open(struct table *table, struct pleat_error *err) {
    const struct table_section *section = &table->footer.filter;
    uint64_t offset = table->index.pages_end, image_bytes = 0;
    if (section->handle.stored_bytes == 0) {
        return offset == table->footer.index.handle.offset
                   ? 0
                   : error_corrupt(err, table->name, offset, "end of the pages", table->footer.index.handle.offset,
                                   offset);
    }
    int rc = table_read_section(table, section, &table->filter, err);
    if (rc < 0) {
        return rc;
    }
    const char *wrong = filter_directory_verify(table->filter, section->handle.image_bytes, &image_bytes);
    if (wrong != NULL) {
        return error_corrupt(err, table->name, section->handle.offset, wrong, 0, 1);
    }
    size_t parts = filter_parts(table->filter);
    table->filter_slots = mem_zalloc(table->store->mem, parts, sizeof(struct cache_slot) + sizeof(uint64_t));
    if (table->filter_slots == NULL) {
        return error_no_memory(err, "the slots of a filter", parts * (sizeof(struct cache_slot) + sizeof(uint64_t)));
    }
    table->filter_offsets = (uint64_t *)(void *)(table->filter_slots + parts);
    for (uint32_t part = 0; part < parts; part++) {
        uint64_t at, bytes;
        filter_part_place(table->filter, part, &at, &bytes);
        table->filter_offsets[part] = offset;
        offset += bytes > 0 ? TABLE_HEADER_BYTES + bytes : 0;
    }
    if (offset != table->footer.index.handle.offset) {
        return error_corrupt(err, table->name, section->handle.offset, "end of the pages of the filter",
                             table->footer.index.handle.offset, offset);
    }
    return 0;
}

int table_filter_read(const struct table *table, uint32_t part, uint8_t *data, size_t bytes, struct pleat_error *err) {
    const struct table_handle handle = {.offset = table->filter_offsets[part], .stored_bytes = (uint32_t)bytes,
                                        .image_bytes = (uint32_t)bytes};
    uint8_t *piece = mem_alloc(table->store->mem, TABLE_HEADER_BYTES + bytes);
    if (piece == NULL) {
        return error_no_memory(err, "the stored bytes of a filter", TABLE_HEADER_BYTES + bytes);
    }
    int rc = table_read_piece(table, &handle, piece, err);
    rc = rc < 0 ? rc : table_piece_decode(piece, &handle, data, table->name, err);
    mem_free(table->store->mem, piece);
    return rc;
}

bool table_filter_suits(const struct table *table, const struct table_builder_options *options) {
    const struct table_grouping *ours = &table->grouping, *theirs = &options->grouping;
    return table->filter != NULL && table->meta.filter == options->filter && ours->bytes == theirs->bytes &&
           ours->delimiters == theirs->delimiters && ours->delimiter == theirs->delimiter;
}

int table_filter_image(const struct table *table, uint8_t **ret_image, struct pleat_error *err) {
    const struct mem *mem = table->store->mem;
    uint64_t at, bytes, image_bytes = 0;
    size_t directory_bytes = filter_directory_bytes(table->filter);
    const char *wrong = filter_directory_verify(table->filter, directory_bytes, &image_bytes);
    ASSERT(wrong == NULL); /* it was verified when the table was opened */
    uint8_t *image = image_bytes <= SIZE_MAX ? mem_zalloc(mem, 1, (size_t)image_bytes) : NULL;
    if (image == NULL) {
        return error_no_memory(err, "a filter", image_bytes);
    }
    memcpy(image, table->filter, directory_bytes);
    int rc = 0;
    for (uint32_t part = 0; rc == 0 && part < filter_parts(table->filter); part++) {
        filter_part_place(table->filter, part, &at, &bytes);
        rc = bytes > 0 ? table_filter_read(table, part, image + at, (size_t)bytes, err) : 0;
    }
    if (rc < 0) {
        mem_free(mem, image);
        return rc;
    }
    *ret_image = image;
    return 0;
}

static int table_page_load_filter(void *context, uint8_t *data, size_t bytes, struct pleat_error *err) {
    const struct table_page_load *load = context;
    return table_filter_read(load->table, load->page, data, bytes, err);
}

/* 0 with the page, PLEAT_ABSENT when the cache is too small to keep it, or an error. */
static int table_filter_load(struct table *table, uint32_t part, struct cache_frame **ret_frame,
                             struct pleat_error *err) {
    struct table_page_load load = {table, part};
    uint64_t at, bytes;
    filter_part_place(table->filter, part, &at, &bytes);
    if (!cache_keeps(table->store->cache, (size_t)bytes)) {
        return PLEAT_ABSENT;
    }
    return cache_fetch(table->store->cache, &table->filter_slots[part], (size_t)bytes, CACHE_CARRY,
                       table_page_load_filter, &load, ret_frame, err);
}

void table_prefetch(const struct table *table, uint64_t hash) {
    if (table->filter == NULL) {
        return;
    }
    struct filter_question question = filter_question_of(table->filter, hash);
    struct cache_frame *frame = cache_slot_load(&table->filter_slots[question.part]);
    if (frame != NULL) {
        filter_answer_prefetch(&question, cache_frame_data(frame));
    }
}

/* One key in so many loads a page that has no room. */
static inline uint32_t table_filter_chance(const struct filter_question *question) {
    return (uint32_t)((uint64_t)question->units * question->shape / FILTER_CHANCE_BYTES) + 1;
}

int table_may_contain(struct table *table, uint64_t hash, struct pleat_error *err) {
    if (table->filter == NULL) {
        return 1;
    }
    struct filter_question question = filter_question_of(table->filter, hash);
    if (UNLIKELY(question.units == 0)) {
        return filter_answer(&question, NULL);
    }
    struct cache_frame *frame = cache_slot_load(&table->filter_slots[question.part]);
    if (UNLIKELY(frame == NULL)) {
        /* Low bits of the hash: the upper ones chose the part. */
        if (!cache_has_room(table->store->cache) && (uint32_t)hash % table_filter_chance(&question) != 0) {
            return !MUTATION(table_page_missing);
        }
        int rc = table_filter_load(table, question.part, &frame, err);
        if (rc != 0) {
            return rc < 0 ? rc : 1;
        }
    }
    if (filter_answer(&question, cache_frame_data(frame))) {
        return 1;
    }
    cache_touch(frame);
    return 0;
}

int table_ask(struct table *table, uint64_t hash, struct pleat_error *err) {
    struct epoch_slot *slot;
    int rc = epoch_enter(cache_epoch(table->store->cache), &slot);
    if (rc < 0) {
        return error_set(err, rc, 0, "%s: no memory to register a reader", table->name);
    }
    rc = table_may_contain(table, hash, err);
    epoch_leave(slot);
    return rc;
}

/* ---- carrying --------------------------------------------------------------------------------------------------- */

int table_page_carry(struct table *table, uint64_t page, struct pleat_error *err) {
    uint32_t parts = table->filter != NULL ? filter_parts(table->filter) : 0;
    if (page >= (uint64_t)table->index.pages + parts || !cache_has_room(table->store->cache)) {
        return PLEAT_ABSENT;
    }
    if (page < table->index.pages) {
        const uint8_t *image;
        return table_page_fetch(table, (uint32_t)page, CACHE_CARRY, &image, err);
    }
    struct cache_frame *frame;
    uint32_t part = (uint32_t)(page - table->index.pages);
    uint64_t at, bytes;
    filter_part_place(table->filter, part, &at, &bytes);
    int rc = bytes > 0 ? table_filter_load(table, part, &frame, err) : 0;
    return rc < 0 ? rc : 0;
}
