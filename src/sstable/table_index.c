/*
 * table_index.c - see table_index.h: the two floors of an index, built and proved.
 *
 * Pages are encoded as they are closed and kept until the blocks are written, since they lie behind them in the file.
 */
#include "sstable/table_index.h"

#include "base/assert.h"
#include "base/error.h"
#include "base/mutation.h"

#include <string.h>

/* A page has so many blocks at least, unless they are huge: what is smaller than a pointer to it is not worth one. */
#define TABLE_INDEX_PAGE_BLOCKS_MIN 4u
#define TABLE_INDEX_PAGE_BYTES_MAX 4096u
#define TABLE_INDEX_CHILD_BYTES 18u /* of a node, for a child whose separator has no tail */

/* ---- building --------------------------------------------------------------------------------------------------- */

size_t table_index_page_bytes(size_t block_bytes) {
    return block_bytes / 4 < TABLE_INDEX_PAGE_BYTES_MAX ? block_bytes / 4 : TABLE_INDEX_PAGE_BYTES_MAX;
}

size_t table_separator_bytes(const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes) {
    size_t bytes = key_common(a, a_bytes, b, b_bytes) + 1;
    ASSERT(bytes <= b_bytes); /* T1: a < b, so b does not end where they still agree */
    return bytes;
}

static struct table_index_start *table_index_open_start(struct table_index_builder *builder) {
    return &((struct table_index_start *)(void *)builder->starts.data)[builder->pages];
}

int table_index_close(const struct mem *mem, struct table_index_builder *builder, struct pleat_error *err) {
    size_t before = builder->images.bytes;
    int rc = index_node_encode(mem, &builder->page, &builder->images, err);
    if (rc < 0) {
        return rc;
    }
    if (builder->images.bytes - before > UINT32_MAX) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "a page of the index of %zu bytes, the limit is %u",
                         builder->images.bytes - before, UINT32_MAX);
    }
    table_index_open_start(builder)->image_bytes = (uint32_t)(builder->images.bytes - before);
    index_node_parts_clear(&builder->page);
    builder->pages++;
    return 0;
}

/* Long separators fill a page, too; what they have in common counts, as it is known only in the end. Huge blocks fill
 * one whatever their number. */
static bool table_index_page_is_full(const struct table_index_builder *builder) {
    const struct index_node_parts *page = &builder->page;
    bool is_long = (size_t)page->count * TABLE_INDEX_CHILD_BYTES >= builder->page_bytes ||
                   page->separators.bytes >= builder->page_bytes * 4;
    return page->covered_bytes >= INDEX_NODE_COVERED_MAX || (page->count >= TABLE_INDEX_PAGE_BLOCKS_MIN && is_long);
}

int table_index_add_separator(const struct mem *mem, struct table_index_builder *builder, const uint8_t *separator,
                              size_t separator_bytes, struct pleat_error *err) {
    struct index_node_parts *parts = &builder->page;
    if (table_index_page_is_full(builder)) {
        int rc = table_index_close(mem, builder, err);
        if (rc < 0) {
            return rc;
        }
        parts = &builder->top;
    }
    return index_node_add_separator(mem, parts, separator, separator_bytes, err);
}

int table_index_add_block(const struct mem *mem, struct table_index_builder *builder, uint32_t stored_bytes,
                          uint32_t image_bytes, struct pleat_error *err) {
    int rc = 0;
    if (builder->page.count == 0) {
        struct table_index_start start = {builder->covered_bytes, builder->blocks, 0};
        rc = table_bytes_append(mem, &builder->starts, &start, sizeof start, err);
    }
    rc = rc < 0 ? rc : index_node_add_child(mem, &builder->page, stored_bytes, image_bytes, err);
    if (rc < 0) {
        return rc;
    }
    builder->covered_bytes += TABLE_HEADER_BYTES + (uint64_t)stored_bytes;
    builder->blocks++;
    builder->stored_bytes_max = stored_bytes > builder->stored_bytes_max ? stored_bytes : builder->stored_bytes_max;
    builder->image_bytes_max = image_bytes > builder->image_bytes_max ? image_bytes : builder->image_bytes_max;
    return 0;
}

int table_index_page_stored(const struct mem *mem, struct table_index_builder *builder, uint32_t stored_bytes,
                            struct pleat_error *err) {
    ASSERT(builder->top.count < builder->pages);
    uint32_t image_bytes = table_index_start_of(builder, builder->top.count).image_bytes;
    return index_node_add_child(mem, &builder->top, stored_bytes, image_bytes, err);
}

int table_index_directory(const struct mem *mem, const struct table_index_builder *builder, uint64_t pages_at,
                          uint64_t pages_end, struct table_bytes *out, struct pleat_error *err) {
    ASSERT(builder->top.count == builder->pages && builder->covered_bytes == pages_at);
    size_t lists = (size_t)builder->pages * TABLE_INDEX_START;
    int rc = table_bytes_reserve(mem, out, TABLE_INDEX_STARTS + lists, err);
    if (rc < 0) {
        return rc;
    }
    uint8_t *p = out->data + out->bytes;
    store_u32(p + TABLE_INDEX_PAGES, builder->pages);
    store_u32(p + TABLE_INDEX_ZERO, 0);
    store_u64(p + TABLE_INDEX_PAGES_AT, pages_at);
    store_u64(p + TABLE_INDEX_PAGES_END, pages_end);
    store_u32(p + TABLE_INDEX_STORED_MAX, builder->stored_bytes_max);
    store_u32(p + TABLE_INDEX_IMAGE_MAX, builder->image_bytes_max);
    for (uint32_t page = 0; page < builder->pages; page++) {
        struct table_index_start start = table_index_start_of(builder, page);
        store_u64(p + TABLE_INDEX_STARTS + (size_t)page * 8, start.offset);
        store_u32(p + TABLE_INDEX_STARTS + (size_t)builder->pages * 8 + (size_t)page * 4, start.block);
    }
    out->bytes += TABLE_INDEX_STARTS + lists;
    return index_node_encode(mem, &builder->top, out, err);
}

void table_index_builder_fini(const struct mem *mem, struct table_index_builder *builder) {
    index_node_parts_fini(mem, &builder->page);
    index_node_parts_fini(mem, &builder->top);
    mem_free(mem, builder->images.data);
    mem_free(mem, builder->starts.data);
    *builder = (struct table_index_builder){0};
}

/* ---- opening ---------------------------------------------------------------------------------------------------- */

/* Places in the file, and counts that bound what is allocated. */
static const char *table_index_verify_header(const struct table_index *index, const struct table_footer *footer) {
    uint64_t section = footer->index.handle.offset;
    if (index->pages_at >= index->pages_end || index->pages_end > section) {
        return "end of the blocks, or of the pages of the index";
    }
    if (index->blocks > index->pages_at / (TABLE_HEADER_BYTES + 1)) {
        return "blocks in the index";
    }
    struct table_handle longest = {0, index->stored_bytes_max, index->image_bytes_max};
    if (!table_handle_is_sound(&longest) || TABLE_HEADER_BYTES + (uint64_t)longest.stored_bytes > index->pages_at) {
        return "longest block in the index";
    }
    return NULL;
}

/* X4, the directory's half. */
static const char *table_index_verify_starts(const struct table_index *index, uint32_t *ret_at) {
    if (table_index_first_offset(index, 0) != 0 || table_index_first_block(index, 0) != 0) {
        return "first page of the index";
    }
    for (uint32_t page = 0; page < index->pages; page++) {
        *ret_at = page;
        if (table_index_first_offset(index, page + 1) <= table_index_first_offset(index, page) ||
            table_index_first_block(index, page + 1) <= table_index_first_block(index, page)) {
            return "order of the pages of the index";
        }
    }
    return NULL;
}

static const char *table_index_verify(struct table_index *index, const struct table_footer *footer, uint32_t *ret_at) {
    const uint8_t *image = index->image;
    uint64_t image_bytes = footer->index.handle.image_bytes;
    *ret_at = 0;
    if (image_bytes < TABLE_INDEX_STARTS) {
        return "length of the index";
    }
    index->pages = load_u32(image + TABLE_INDEX_PAGES);
    index->blocks = footer->blocks;
    index->pages_at = load_u64(image + TABLE_INDEX_PAGES_AT);
    index->pages_end = load_u64(image + TABLE_INDEX_PAGES_END);
    index->stored_bytes_max = load_u32(image + TABLE_INDEX_STORED_MAX);
    index->image_bytes_max = load_u32(image + TABLE_INDEX_IMAGE_MAX);
    uint64_t lists = (uint64_t)index->pages * TABLE_INDEX_START;
    if (index->pages == 0 || load_u32(image + TABLE_INDEX_ZERO) != 0 || lists > image_bytes - TABLE_INDEX_STARTS) {
        return "pages of the index";
    }
    const char *wrong = table_index_verify_header(index, footer);
    if (wrong != NULL) {
        return wrong;
    }
    index->first_offsets = image + TABLE_INDEX_STARTS;
    index->first_blocks = index->first_offsets + (size_t)index->pages * 8;
    const uint8_t *node = image + TABLE_INDEX_STARTS + lists;
    wrong = index_node_verify(node, (size_t)(image_bytes - TABLE_INDEX_STARTS - lists),
                              index->pages_end - index->pages_at, ret_at);
    if (wrong != NULL) {
        return wrong;
    }
    index->top_image = node;
    index->top = index_node_of(node);
    return index->top.count == index->pages ? table_index_verify_starts(index, ret_at) : "pages of the index";
}

int table_index_open(const struct mem *mem, uint8_t *image, const struct table_footer *footer, const char *name,
                     struct table_index *ret_index, struct pleat_error *err) {
    struct table_index index = {.image = image};
    uint32_t at = 0;
    const char *wrong = table_index_verify(&index, footer, &at);
    if (wrong != NULL) {
        mem_free(mem, image);
        return error_corrupt(err, name, footer->index.handle.offset, wrong, 0, at);
    }
    size_t count = (size_t)index.blocks + index.pages;
    index.slots = mem_zalloc(mem, count, sizeof *index.slots);
    if (index.slots == NULL) {
        mem_free(mem, image);
        return error_no_memory(err, "the slots of a table", count * sizeof *index.slots);
    }
    index.page_slots = index.slots + index.blocks;
    index.memory_bytes = footer->index.handle.image_bytes + count * sizeof *index.slots;
    *ret_index = index;
    return 0;
}

void table_index_fini(const struct mem *mem, struct table_index *index) {
    mem_free(mem, index->slots);
    mem_free(mem, index->image);
    *index = (struct table_index){0};
}

/* ---- pages ------------------------------------------------------------------------------------------------------ */

uint32_t table_index_page_of(const struct table_index *index, uint32_t block) {
    uint32_t first = 0, end = index->pages;
    while (end - first > 1) {
        uint32_t middle = first + (end - first) / 2;
        if (table_index_first_block(index, middle) <= block) {
            first = middle;
        } else {
            end = middle;
        }
    }
    return first;
}

const char *table_index_page_verify(const struct table_index *index, uint32_t page, const uint8_t *image,
                                    size_t image_bytes, uint8_t *scratch, uint32_t *ret_at) {
    uint64_t covered = table_index_covered(index, page);
    const char *wrong = index_node_verify(image, image_bytes, covered, ret_at);
    if (wrong != NULL) {
        return wrong;
    }
    const struct index_node node = index_node_of(image);
    if (node.count != table_index_first_block(index, page + 1) - table_index_first_block(index, page)) {
        return "blocks in a page of the index";
    }
    for (uint32_t i = 0; i < node.count; i++) {
        struct table_handle handle = index_node_child(&node, i, covered);
        if (handle.stored_bytes > index->stored_bytes_max || handle.image_bytes > index->image_bytes_max) {
            *ret_at = i;
            return "length of a block or page in the index";
        }
    }
    for (uint32_t i = 0; node.count > 1 && i < 2 && !MUTATION(table_page_order); i++) { /* the first and the last */
        uint32_t separator = i == 0 ? 0 : node.count - 2;
        size_t bytes = index_node_separator_bytes(&node, separator);
        index_node_separator(&node, separator, scratch);
        /* Equal to the one in front of the page it would hide the page's first block from every key. */
        if (index_node_find(index->top_image, scratch, bytes, false) != page ||
            index_node_find(index->top_image, scratch, bytes, true) != page) {
            *ret_at = separator;
            return "order of the separators";
        }
    }
    return NULL;
}
