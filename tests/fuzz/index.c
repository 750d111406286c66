/*
 * index.c - fuzzes the index section of a table: which block a key is in.
 *
 *     byte 0   bit 0: the section lies where its blocks end   bit 1: so many blocks as it says   bit 2: the length fits
 *     byte 1   bytes of a key to look for, which follow; then the image
 *
 * Whatever is accepted answers as a walk over its separators does.
 */
#include "fuzz/fuzz.h"
#include "sstable/table_index.h"

#include <stdlib.h>

static void check_find(const struct table_index *index, struct pleat_slice key) {
    uint8_t *exact = fuzz_copy(key.data, key.bytes, 0);
    uint32_t found = index->separators, before = index->separators;
    for (uint32_t i = index->separators; i-- > 0;) {
        int order = fuzz_order(table_index_separator(index, i), key);
        found = order > 0 ? i : found;
        before = order >= 0 ? i : before;
    }
    FUZZ_CHECK(table_index_find(index, exact, key.bytes) == found);
    FUZZ_CHECK(table_index_find_before(index, exact, key.bytes) == before);
    free(exact);
}

static void check_index(const struct table_index *index, struct pleat_slice key) {
    FUZZ_CHECK(index->blocks == index->separators + 1);
    check_find(index, key);
    for (uint32_t i = 0; i < index->separators && i < 64; i++) {
        struct pleat_slice separator = table_index_separator(index, i);
        FUZZ_CHECK(separator.bytes > 0 && (i == 0 || fuzz_order(table_index_separator(index, i - 1), separator) < 0));
        check_find(index, separator);
        check_find(index, (struct pleat_slice){separator.data, separator.bytes - 1});
        uint8_t *longer = fuzz_copy(separator.data, separator.bytes, 1);
        check_find(index, (struct pleat_slice){longer, separator.bytes + 1});
        longer[separator.bytes] = 0xff;
        check_find(index, (struct pleat_slice){longer, separator.bytes + 1});
        free(longer);
    }
}

/* Its parts put together again are the same image. */
static void check_built(const struct table_index *index, const uint8_t *image, size_t bytes, const struct mem *mem) {
    struct table_index_parts parts = {0};
    uint8_t *again = NULL;
    size_t again_bytes = 0;
    for (uint32_t i = 0; i < index->blocks; i++) {
        FUZZ_CHECK(table_index_parts_block(mem, &parts, &index->handles[i], NULL) == 0);
    }
    for (uint32_t i = 0; i < index->separators; i++) {
        struct pleat_slice separator = table_index_separator(index, i);
        FUZZ_CHECK(table_index_parts_separator(mem, &parts, separator.data, separator.bytes, NULL) == 0);
    }
    FUZZ_CHECK(table_index_parts_image(mem, &parts, &again, &again_bytes, NULL) == 0);
    FUZZ_CHECK(again_bytes == bytes && memcmp(again, image, bytes) == 0);
    mem_free(mem, again);
    table_index_parts_fini(mem, &parts);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fuzz_input input = {data, data + size};
    uint8_t mode = fuzz_u8(&input);
    struct pleat_slice key = fuzz_slice(&input, fuzz_u8(&input)), rest = fuzz_rest(&input);
    uint8_t *image = fuzz_copy(rest.data, rest.bytes, 0);
    struct table_footer footer = {.blocks = 3};
    footer.index.handle = (struct table_handle){1000, (uint32_t)rest.bytes, (uint32_t)rest.bytes};
    if (rest.bytes >= TABLE_INDEX_HANDLES) {
        uint64_t blocks = load_u32(image + TABLE_INDEX_BLOCKS);
        uint64_t lists = TABLE_INDEX_HANDLES + blocks * TABLE_INDEX_HANDLE + (blocks - 1) * 2, end = 0;
        footer.blocks = (mode & 2) != 0 ? (uint32_t)blocks : footer.blocks;
        if ((mode & 4) != 0 && lists <= rest.bytes) {
            store_u64(image + TABLE_INDEX_SEPARATORS, rest.bytes - lists);
        }
        for (uint64_t i = 0; i < blocks && TABLE_INDEX_HANDLES + (i + 1) * TABLE_INDEX_HANDLE <= rest.bytes; i++) {
            end += TABLE_HEADER_BYTES + load_u32(image + TABLE_INDEX_HANDLES + i * TABLE_INDEX_HANDLE);
        }
        footer.index.handle.offset = (mode & 1) != 0 ? end : 1000;
    }
    struct fuzz_mem memory;
    struct table_index *index = NULL;
    fuzz_mem_init(&memory, size, 64, 4096);
    int rc = table_index_new(&memory.mem, image, &footer, "000001.tbl", &index, NULL);
    FUZZ_CHECK(rc == 0 || rc == PLEAT_ERR_CORRUPT);
    if (rc == 0) {
        check_index(index, key);
        check_built(index, image, rest.bytes, &memory.mem);
        table_index_free(&memory.mem, index);
    }
    fuzz_mem_fini(&memory);
    free(image);
    return 0;
}
