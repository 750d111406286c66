/*
 * index.c - fuzzes the index of a table: which block a key is in.
 *
 *     byte 0   bits 0, 1: 0 a node, 1 a directory and a page of it, else an index is built
 *              bit 2: what the children cover is as the last of them says, and a directory's places in the file so
 *              bit 3: the length of the tails fits   bit 4: a directory has such a page as the one that follows
 *              bit 5: a node covers 4 GiB more
 *     byte 1   bytes of a key to look for, which follow
 *     then     the node's image; or u8 page, u8 blocks and u16 place of the section in the footer, u16 bytes of the
 *              directory, that, and the page's image; or u8 bytes of a page, and separators: u8 bytes shared with the
 *              one before, u8 bytes more and those, u8 stored bytes of a block
 *
 * Whatever is accepted answers as a walk over its separators does, and has no other form.
 */
#include "fuzz/fuzz.h"
#include "sstable/table_index.h"

#include <stdlib.h>

#define SEPARATORS_MAX 4096
#define FILE_BYTES_MAX (1u << 20) /* slots are as many as a file has room for blocks */

struct separators {
    struct pleat_slice all[SEPARATORS_MAX]; /* owned */
    uint32_t count;
};

static void separators_add(struct separators *separators, uint8_t *bytes, size_t n) {
    FUZZ_CHECK(separators->count < SEPARATORS_MAX);
    separators->all[separators->count++] = (struct pleat_slice){bytes, n};
}

static void separators_clear(struct separators *separators) {
    while (separators->count > 0) {
        free((void *)(uintptr_t)separators->all[--separators->count].data);
    }
}

/* How many separators are less than the key, or not greater when `equal`: what a search must find. */
static uint32_t separators_below(const struct separators *separators, struct pleat_slice key, bool equal) {
    uint32_t below = 0;
    for (uint32_t i = 0; i < separators->count; i++) {
        int order = fuzz_order(separators->all[i], key);
        below += order < 0 || (order == 0 && equal);
    }
    return below;
}

/* Calls `check` with the key, and with separators and what is next to each. */
static void each_key(const struct separators *separators, struct pleat_slice key,
                     void (*check)(void *context, struct pleat_slice key), void *context) {
    check(context, key);
    uint32_t step = separators->count / 64 + 1;
    for (uint32_t i = 0; i < separators->count; i += step) {
        struct pleat_slice separator = separators->all[i];
        uint8_t *longer = fuzz_copy(separator.data, separator.bytes, 1);
        check(context, separator);
        check(context, (struct pleat_slice){separator.data, separator.bytes - 1});
        check(context, (struct pleat_slice){longer, separator.bytes + 1});
        longer[separator.bytes] = 0xff;
        check(context, (struct pleat_slice){longer, separator.bytes + 1});
        longer[separator.bytes - 1]--;
        check(context, (struct pleat_slice){longer, separator.bytes});
        free(longer);
    }
}

/* ---- one node --------------------------------------------------------------------------------------------------- */

struct node_check {
    const uint8_t *image;
    struct index_node node;
    struct separators separators;
};

static void check_find(void *context, struct pleat_slice key) {
    const struct node_check *check = context;
    uint8_t *exact = fuzz_copy(key.data, key.bytes, 0);
    FUZZ_CHECK(index_node_find(check->image, exact, key.bytes, false) ==
               separators_below(&check->separators, key, true));
    FUZZ_CHECK(index_node_find(check->image, exact, key.bytes, true) ==
               separators_below(&check->separators, key, false));
    free(exact);
}

/* Its parts put together again are the same image (one whose children lie too far apart is accepted, but not made). */
static void check_encoded(const struct node_check *check, const uint8_t *image, size_t bytes, uint64_t covered,
                          const struct mem *mem) {
    struct index_node_parts parts = {0};
    struct table_bytes again = {0};
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < check->node.count; i++) {
        struct table_handle child = index_node_child(&check->node, i, covered);
        rc = index_node_add_child(mem, &parts, child.stored_bytes, child.image_bytes, NULL);
        FUZZ_CHECK(rc == 0 || (rc == PLEAT_ERR_INVALID && child.offset >= INDEX_NODE_COVERED_MAX));
    }
    for (uint32_t i = 0; i < check->separators.count; i++) {
        struct pleat_slice separator = check->separators.all[i];
        FUZZ_CHECK(index_node_add_separator(mem, &parts, separator.data, separator.bytes, NULL) == 0);
    }
    if (rc == 0) {
        FUZZ_CHECK(index_node_encode(mem, &parts, &again, NULL) == 0);
        FUZZ_CHECK(again.bytes == bytes && memcmp(again.data, image, bytes) == 0);
    }
    mem_free(mem, again.data);
    index_node_parts_fini(mem, &parts);
}

/* X1 and X2 of a node that was accepted; its separators stay in check->separators. */
static void check_node(struct node_check *check, const uint8_t *image, size_t bytes, uint64_t covered,
                       struct pleat_slice key, const struct mem *mem) {
    separators_clear(&check->separators);
    check->image = image;
    check->node = index_node_of(image);
    uint64_t end = 0;
    for (uint32_t i = 0; i < check->node.count; i++) {
        struct table_handle child = index_node_child(&check->node, i, covered);
        FUZZ_CHECK(child.offset == end && table_handle_is_sound(&child));
        end += TABLE_HEADER_BYTES + (uint64_t)child.stored_bytes;
    }
    FUZZ_CHECK(end == covered);
    for (uint32_t i = 0; i + 1 < check->node.count; i++) {
        size_t n = index_node_separator_bytes(&check->node, i);
        uint8_t *separator = fuzz_copy(NULL, 0, n);
        index_node_separator(&check->node, i, separator);
        separators_add(&check->separators, separator, n);
        FUZZ_CHECK(n > 0 && n <= LIMIT_KEY_BYTES);
        FUZZ_CHECK(i == 0 || fuzz_order(check->separators.all[i - 1], check->separators.all[i]) < 0);
    }
    each_key(&check->separators, key, check_find, check);
    check_encoded(check, image, bytes, covered, mem);
}

/* Where the offsets of a node are by the word of its header. */
static uint64_t node_offsets(const uint8_t *image, uint64_t count) {
    return INDEX_NODE_STRINGS + index_node_prefix_room(load_u32(image + INDEX_NODE_PREFIX)) +
           (count - 1) * INDEX_NODE_HEAD_BYTES;
}

/* What the children cover when the last one is stored raw; 0 when the image has no room for them. */
static uint64_t node_covered(const uint8_t *image, size_t bytes, uint32_t *ret_count) {
    uint64_t count = bytes >= INDEX_NODE_STRINGS ? load_u32(image + INDEX_NODE_COUNT) : 0;
    *ret_count = (uint32_t)count;
    uint64_t offsets = count > 0 ? node_offsets(image, count) : 0;
    if (count == 0 || offsets + count * 8 > bytes) {
        *ret_count = 0;
        return 0;
    }
    return (uint64_t)load_u32(image + offsets + (count - 1) * 4) + TABLE_HEADER_BYTES +
           load_u32(image + offsets + count * 8 - 4);
}

static void node_fit(uint8_t *image, size_t bytes) {
    uint32_t count;
    if (node_covered(image, bytes, &count) == 0) {
        return;
    }
    uint64_t ends = (uint64_t)(count - 1) * 4;
    uint64_t taken = node_offsets(image, count) + (uint64_t)(count - 1) * 2 + (uint64_t)count * 8;
    if (bytes == taken || bytes > taken + ends) {
        store_u32(image + INDEX_NODE_TAILS, bytes == taken ? 0 : (uint32_t)(bytes - taken - ends));
    }
}

static void fuzz_node(struct fuzz_input *input, uint8_t mode, struct pleat_slice key, const struct mem *mem) {
    static struct node_check check;
    struct pleat_slice rest = fuzz_rest(input);
    uint8_t *image = fuzz_copy(rest.data, rest.bytes, 0);
    uint32_t count, at = 0;
    if ((mode & 8) != 0) {
        node_fit(image, rest.bytes);
    }
    uint64_t covered = (mode & 4) != 0 ? node_covered(image, rest.bytes, &count) : 1000;
    covered += (mode & 32) != 0 ? (uint64_t)1 << 32 : 0;
    if (index_node_verify(image, rest.bytes, covered, &at) == NULL) {
        check_node(&check, image, rest.bytes, covered, key, mem);
    }
    separators_clear(&check.separators);
    free(image);
}

/* ---- a directory and a page ------------------------------------------------------------------------------------- */

struct directory {
    uint8_t *image;
    size_t bytes;
    struct table_footer footer;
};

static uint32_t directory_pages(const struct directory *directory) {
    uint64_t pages = directory->bytes >= TABLE_INDEX_STARTS ? load_u32(directory->image + TABLE_INDEX_PAGES) : 0;
    return pages * TABLE_INDEX_START <= directory->bytes - TABLE_INDEX_STARTS ? (uint32_t)pages : 0;
}

static void add_u64(uint8_t *p, uint64_t x) {
    store_u64(p, load_u64(p) + x);
}

/* Makes the page's blocks so many, over so many bytes; later ones, and the pages behind the blocks, move. */
static void directory_agree_page(struct directory *directory, uint32_t page, const uint8_t *image, size_t bytes) {
    uint32_t pages = directory_pages(directory), count;
    uint64_t covered = node_covered(image, bytes, &count);
    if (pages == 0 || covered == 0) {
        return;
    }
    uint8_t *offsets = directory->image + TABLE_INDEX_STARTS, *blocks = offsets + (size_t)pages * 8;
    uint8_t *pages_at = directory->image + TABLE_INDEX_PAGES_AT;
    bool last = page + 1 == pages;
    uint64_t offset = load_u64(last ? pages_at : offsets + ((size_t)page + 1) * 8);
    uint32_t block = last ? directory->footer.blocks : load_u32(blocks + ((size_t)page + 1) * 4);
    uint64_t farther = load_u64(offsets + (size_t)page * 8) + covered - offset;
    uint32_t more = load_u32(blocks + (size_t)page * 4) + count - block;
    for (uint32_t i = page + 1; i < pages; i++) {
        add_u64(offsets + (size_t)i * 8, farther);
        store_u32(blocks + (size_t)i * 4, load_u32(blocks + (size_t)i * 4) + more);
    }
    add_u64(pages_at, farther);
    add_u64(directory->image + TABLE_INDEX_PAGES_END, farther);
    directory->footer.blocks += more;
}

/* The footer, and where the pages end, as the directory's own node has them. */
static void directory_agree(struct directory *directory, uint32_t blocks_of_last) {
    uint32_t pages = directory_pages(directory), count;
    if (pages == 0) {
        return;
    }
    size_t lists = TABLE_INDEX_STARTS + (size_t)pages * TABLE_INDEX_START;
    uint64_t covered = node_covered(directory->image + lists, directory->bytes - lists, &count);
    uint64_t end = load_u64(directory->image + TABLE_INDEX_PAGES_AT) + covered;
    store_u64(directory->image + TABLE_INDEX_PAGES_END, end);
    directory->footer.index.handle.offset = end < FILE_BYTES_MAX ? end : FILE_BYTES_MAX;
    directory->footer.blocks = load_u32(directory->image + lists - 4) + blocks_of_last;
}

/* X4 of a page that was accepted. */
static void check_page(struct node_check *check, const struct table_index *index, uint32_t page, const uint8_t *image,
                       size_t bytes, struct pleat_slice key, const struct mem *mem) {
    size_t room = bytes < LIMIT_KEY_BYTES ? bytes : LIMIT_KEY_BYTES; /* as table_page.c bounds it */
    uint8_t *scratch = fuzz_copy(NULL, 0, room);
    uint32_t at = 0;
    if (table_index_page_verify(index, page, image, bytes, scratch, &at) == NULL) {
        check_node(check, image, bytes, table_index_covered(index, page), key, mem);
        FUZZ_CHECK(check->node.count ==
                   table_index_first_block(index, page + 1) - table_index_first_block(index, page));
        for (uint32_t i = 0; i < check->separators.count; i++) {
            struct pleat_slice separator = check->separators.all[i];
            FUZZ_CHECK(index_node_find(index->top_image, separator.data, separator.bytes, false) == page);
            FUZZ_CHECK(index_node_find(index->top_image, separator.data, separator.bytes, true) == page);
        }
    }
    free(scratch);
}

static void check_directory(struct node_check *check, const struct table_index *index,
                            const struct directory *directory, struct pleat_slice key, const struct mem *mem) {
    uint32_t block_after = 0;
    uint64_t offset = 0;
    struct table_handle longest = {0, index->stored_bytes_max, index->image_bytes_max};
    FUZZ_CHECK(table_handle_is_sound(&longest) && longest.stored_bytes + TABLE_HEADER_BYTES <= index->pages_at);
    FUZZ_CHECK(index->pages_end <= directory->footer.index.handle.offset && index->pages_at < index->pages_end);
    FUZZ_CHECK(index->top.count == index->pages && load_u32(index->image + TABLE_INDEX_ZERO) == 0);
    for (uint32_t page = 0; page < index->pages; page++) {
        uint32_t first = table_index_first_block(index, page);
        struct table_handle place = table_index_page(index, page);
        FUZZ_CHECK(first == block_after && table_index_first_offset(index, page) == offset);
        FUZZ_CHECK(table_index_page_of(index, first) == page);
        FUZZ_CHECK(table_index_page_of(index, table_index_first_block(index, page + 1) - 1) == page);
        FUZZ_CHECK(place.offset >= index->pages_at &&
                   place.offset + TABLE_HEADER_BYTES + place.stored_bytes <= index->pages_end);
        block_after = table_index_first_block(index, page + 1);
        offset += table_index_covered(index, page);
        FUZZ_CHECK(offset > table_index_first_offset(index, page) && offset <= index->pages_at);
    }
    FUZZ_CHECK(block_after == index->blocks && offset == index->pages_at);
    size_t lists = TABLE_INDEX_STARTS + (size_t)index->pages * TABLE_INDEX_START;
    check_node(check, index->image + lists, directory->bytes - lists, index->pages_end - index->pages_at, key, mem);
}

static void fuzz_directory(struct fuzz_input *input, uint8_t mode, struct pleat_slice key, const struct mem *mem) {
    static struct node_check check;
    uint32_t page = fuzz_u8(input), count = 1;
    struct table_footer footer = {.blocks = fuzz_u8(input)};
    footer.index.handle.offset = fuzz_u16(input);
    struct pleat_slice given = fuzz_slice(input, fuzz_u16(input)), rest = fuzz_rest(input);
    footer.index.handle.stored_bytes = footer.index.handle.image_bytes = (uint32_t)given.bytes;
    uint8_t *image = fuzz_copy(rest.data, rest.bytes, 0);
    struct directory directory = {mem_copy(mem, given.data, given.bytes), given.bytes, footer};
    FUZZ_CHECK(directory.image != NULL);
    uint32_t pages = directory_pages(&directory);
    page = pages > 0 ? page % pages : 0;
    (void)node_covered(image, rest.bytes, &count);
    if ((mode & 8) != 0) {
        size_t lists = TABLE_INDEX_STARTS + (size_t)pages * TABLE_INDEX_START;
        node_fit(image, rest.bytes);
        if (pages > 0) {
            node_fit(directory.image + lists, directory.bytes - lists);
        }
    }
    if ((mode & 4) != 0) {
        directory_agree(&directory, count);
    }
    if ((mode & 16) != 0) {
        directory_agree_page(&directory, page, image, rest.bytes);
        uint64_t end = directory.bytes >= TABLE_INDEX_STARTS ? load_u64(directory.image + TABLE_INDEX_PAGES_END) : 0;
        directory.footer.index.handle.offset = end < FILE_BYTES_MAX ? end : FILE_BYTES_MAX;
    }
    struct table_index index;
    int rc = table_index_open(mem, directory.image, &directory.footer, "000001.tbl", &index, NULL);
    FUZZ_CHECK(rc == 0 || rc == PLEAT_ERR_CORRUPT);
    if (rc == 0) {
        check_directory(&check, &index, &directory, key, mem);
        check_page(&check, &index, page, image, rest.bytes, key, mem);
        table_index_fini(mem, &index);
    }
    separators_clear(&check.separators);
    free(image);
}

/* ---- building --------------------------------------------------------------------------------------------------- */

struct built {
    struct table_index index;
    struct table_index_builder builder;
    struct separators separators; /* of both floors */
    uint64_t offsets[SEPARATORS_MAX + 1];
};

/* Where a key leads on both floors is where a walk over all separators does. */
static void check_built_find(void *context, struct pleat_slice key) {
    const struct built *built = context;
    for (int before = 0; before < 2; before++) {
        uint32_t expected = separators_below(&built->separators, key, before == 0);
        uint32_t page = index_node_find(built->index.top_image, key.data, key.bytes, before != 0);
        struct table_handle place = table_index_page(&built->index, page);
        const uint8_t *image = built->builder.images.data + (place.offset - built->index.pages_at) -
                               (size_t)page * TABLE_HEADER_BYTES;
        const struct index_node node = index_node_of(image);
        uint32_t child = index_node_find(image, key.data, key.bytes, before != 0);
        FUZZ_CHECK(table_index_first_block(&built->index, page) + child == expected);
        FUZZ_CHECK(table_index_first_offset(&built->index, page) +
                       index_node_child(&node, child, table_index_covered(&built->index, page)).offset ==
                   built->offsets[expected]);
    }
}

/* Blocks, and separators between them as far as they ascend. */
static void build_blocks(struct built *built, struct fuzz_input *input, const struct mem *mem) {
    static uint8_t separator[512];
    size_t separator_bytes = 0;
    bool first = true;
    do {
        size_t shared = fuzz_u8(input);
        struct pleat_slice more = fuzz_slice(input, fuzz_u8(input));
        shared = shared < separator_bytes ? shared : separator_bytes;
        uint32_t stored = 1u + fuzz_u8(input);
        struct pleat_slice tail = {separator + shared, separator_bytes - shared};
        if (!first && fuzz_order(tail, more) < 0 && shared + more.bytes <= sizeof separator) {
            memcpy(separator + shared, more.data, more.bytes);
            separator_bytes = shared + more.bytes;
            separators_add(&built->separators, fuzz_copy(separator, separator_bytes, 0), separator_bytes);
            FUZZ_CHECK(table_index_add_separator(mem, &built->builder, separator, separator_bytes, NULL) == 0);
        } else if (!first) {
            continue;
        }
        built->offsets[built->builder.blocks] = built->builder.covered_bytes;
        FUZZ_CHECK(table_index_add_block(mem, &built->builder, stored, stored, NULL) == 0);
        first = false;
    } while (fuzz_left(input) > 0 && built->separators.count < SEPARATORS_MAX);
}

/* Every page that was built is accepted, by the directory that was built. */
static void build_pages(struct built *built, const struct mem *mem, struct directory *ret_directory) {
    struct table_bytes out = {0};
    struct table_index_builder *builder = &built->builder;
    FUZZ_CHECK(table_index_close(mem, builder, NULL) == 0);
    uint64_t pages_at = builder->covered_bytes, pages_end = pages_at;
    for (uint32_t page = 0; page < builder->pages; page++) {
        uint32_t bytes = table_index_start_of(builder, page).image_bytes;
        FUZZ_CHECK(table_index_page_stored(mem, builder, bytes, NULL) == 0);
        pages_end += TABLE_HEADER_BYTES + (uint64_t)bytes;
    }
    FUZZ_CHECK(table_index_directory(mem, builder, pages_at, pages_end, &out, NULL) == 0);
    *ret_directory = (struct directory){.image = mem_copy(mem, out.data, out.bytes), .bytes = out.bytes};
    ret_directory->footer = (struct table_footer){.blocks = builder->blocks};
    ret_directory->footer.index.handle = (struct table_handle){pages_end, (uint32_t)out.bytes, (uint32_t)out.bytes};
    mem_free(mem, out.data);
}

static void fuzz_built(struct fuzz_input *input, struct pleat_slice key, const struct mem *mem) {
    static struct node_check check;
    static struct built built;
    struct directory directory;
    built.builder = (struct table_index_builder){.page_bytes = fuzz_u8(input)};
    build_blocks(&built, input, mem);
    build_pages(&built, mem, &directory);
    FUZZ_CHECK(table_index_open(mem, directory.image, &directory.footer, "000001.tbl", &built.index, NULL) == 0);
    check_directory(&check, &built.index, &directory, key, mem);
    FUZZ_CHECK(built.index.pages == built.builder.pages && built.index.blocks == built.separators.count + 1);
    const uint8_t *image = built.builder.images.data;
    for (uint32_t page = 0; page < built.index.pages; page++) {
        size_t bytes = table_index_page(&built.index, page).image_bytes;
        uint8_t *exact = fuzz_copy(image, bytes, 0), *scratch = fuzz_copy(NULL, 0, bytes);
        uint32_t at = 0;
        FUZZ_CHECK(table_index_page_verify(&built.index, page, exact, bytes, scratch, &at) == NULL);
        check_page(&check, &built.index, page, exact, bytes, key, mem);
        free(scratch);
        free(exact);
        image += bytes;
    }
    each_key(&built.separators, key, check_built_find, &built);
    separators_clear(&check.separators);
    separators_clear(&built.separators);
    table_index_fini(mem, &built.index);
    table_index_builder_fini(mem, &built.builder);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fuzz_input input = {data, data + size};
    uint8_t mode = fuzz_u8(&input);
    struct pleat_slice key = fuzz_slice(&input, fuzz_u8(&input));
    struct fuzz_mem memory;
    fuzz_mem_init(&memory, size, 64, FILE_BYTES_MAX);
    if ((mode & 3) == 0) {
        fuzz_node(&input, mode, key, &memory.mem);
    } else if ((mode & 3) == 1) {
        fuzz_directory(&input, mode, key, &memory.mem);
    } else {
        fuzz_built(&input, key, &memory.mem);
    }
    fuzz_mem_fini(&memory);
    return 0;
}
