/*
 * table_index.h - which block of a table a key is in: a directory that stays in memory, over pages that come and go.
 *
 *     directory        [ separators and places of the pages; first block of each ]         in memory while open
 *                          |              |              |
 *     pages            [ separators and places of some 100 blocks ] ...                    frames of the cache
 *                          |    |    |
 *     blocks           [..] [..] [..] ...                                                  frames of the cache
 *
 * Both floors are nodes (index_node.h), so that a search is two of them. In memory for good are the directory, some 20
 * bytes a page, and one cache slot for each block and page; a page takes 18 bytes a block and what a frame costs, and
 * goes when it is not used, like any frame.
 *
 *   X3  A loaded block has only keys in [separator[i-1], separator[i]), the first one none below the meta's smallest,
 *       and the last one ends with its largest (checked at each load, table_reader.c): T1 holds between blocks, and the
 *       order of a level's tables (V2) is that of their keys, whoever wrote the files.
 *   X4  A loaded page has just the blocks and the bytes of the file that the directory gives it, and its separators lie
 *       between those beside it (checked at each load, table_page.c): a block has one number, and one place.
 *
 * Threads: frozen after table_index_open, but for the slots, which are the cache's.
 */
#ifndef PLEAT_SSTABLE_TABLE_INDEX_H
#define PLEAT_SSTABLE_TABLE_INDEX_H

#include "cache/cache.h"
#include "sstable/index_node.h"

#include <stddef.h>
#include <stdint.h>

/* ---- building --------------------------------------------------------------------------------------------------- */

/* Where a page begins. */
struct table_index_start {
    uint64_t offset; /* of its first block, in the file */
    uint32_t block;  /* the number of that */
    uint32_t image_bytes; /* of the page, once it is closed */
};

/* Zero-initialised but for page_bytes. */
struct table_index_builder {
    size_t page_bytes;            /* a page is closed when it has so many ... */
    struct index_node_parts page; /* the one that is open */
    struct index_node_parts top;  /* separators between pages, and the places of those that were stored */
    struct table_bytes images;    /* of the pages that were closed, one behind another */
    struct table_bytes starts;    /* struct table_index_start, also of the open one */
    uint64_t covered_bytes;       /* by all blocks */
    uint32_t blocks;
    uint32_t pages;               /* closed */
    uint32_t stored_bytes_max;    /* over the blocks */
    uint32_t image_bytes_max;
};
/* Bytes of a page for blocks of so many bytes. */
size_t table_index_page_bytes(size_t block_bytes);
/* Length of the separator between a block that ends with a and one that begins with b: so many bytes of b. a < b. */
size_t table_separator_bytes(const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes);
/* Between two blocks, in order; may close the page that the first of them is in. */
int table_index_add_separator(const struct mem *mem, struct table_index_builder *builder, const uint8_t *separator,
                              size_t separator_bytes, struct pleat_error *err);
int table_index_add_block(const struct mem *mem, struct table_index_builder *builder, uint32_t stored_bytes,
                          uint32_t image_bytes, struct pleat_error *err);
/* After the last block: closes the last page. */
int table_index_close(const struct mem *mem, struct table_index_builder *builder, struct pleat_error *err);
/* Tells that the next page, in order, was stored with so many bytes. */
int table_index_page_stored(const struct mem *mem, struct table_index_builder *builder, uint32_t stored_bytes,
                            struct pleat_error *err);
/* The directory, once all pages were stored from pages_at to pages_end; appended to `out`. */
int table_index_directory(const struct mem *mem, const struct table_index_builder *builder, uint64_t pages_at,
                          uint64_t pages_end, struct table_bytes *out, struct pleat_error *err);
static inline struct table_index_start table_index_start_of(const struct table_index_builder *builder, uint32_t page) {
    return ((const struct table_index_start *)(const void *)builder->starts.data)[page];
}
void table_index_builder_fini(const struct mem *mem, struct table_index_builder *builder);

/* ---- reading ---------------------------------------------------------------------------------------------------- */

struct table_index {
    uint8_t *image;                /* the directory */
    struct cache_slot *slots;      /* of the blocks */
    struct cache_slot *page_slots; /* behind them */
    const uint8_t *first_offsets;  /* u64 a page */
    const uint8_t *first_blocks;   /* u32 a page */
    const uint8_t *top_image;      /* of the node over the pages */
    struct index_node top;         /* the same */
    uint64_t pages_at;             /* where the blocks end and the pages begin */
    uint64_t pages_end;
    size_t memory_bytes;
    uint32_t blocks;
    uint32_t pages;
    uint32_t stored_bytes_max;     /* over the blocks */
    uint32_t image_bytes_max;
};

/* Verifies the image of the index section of `name` and takes it over (mem_free), also when it fails. Ends with
 * table_index_fini. */
int table_index_open(const struct mem *mem, uint8_t *image, const struct table_footer *footer, const char *name,
                     struct table_index *ret_index, struct pleat_error *err);
/* The slots must be empty. A zeroed one is allowed. */
void table_index_fini(const struct mem *mem, struct table_index *index);

static inline uint32_t table_index_first_block(const struct table_index *index, uint32_t page) {
    return page < index->pages ? load_u32(index->first_blocks + (size_t)page * 4) : index->blocks;
}
static inline uint64_t table_index_first_offset(const struct table_index *index, uint32_t page) {
    return page < index->pages ? load_u64(index->first_offsets + (size_t)page * 8) : index->pages_at;
}
/* Bytes of the file that the blocks of a page take. */
static inline uint64_t table_index_covered(const struct table_index *index, uint32_t page) {
    return table_index_first_offset(index, page + 1) - table_index_first_offset(index, page);
}
/* Where a page is stored. */
static inline struct table_handle table_index_page(const struct table_index *index, uint32_t page) {
    struct table_handle handle = index_node_child(&index->top, page, index->pages_end - index->pages_at);
    handle.offset += index->pages_at;
    return handle;
}
/* The page that a block is in. */
uint32_t table_index_page_of(const struct table_index *index, uint32_t block);

/* X4: NULL, or what is wrong with the image of a page. `scratch` has room for any separator of it. */
const char *table_index_page_verify(const struct table_index *index, uint32_t page, const uint8_t *image,
                                    size_t image_bytes, uint8_t *scratch, uint32_t *ret_at);

#endif
