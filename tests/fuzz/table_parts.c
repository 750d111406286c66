/*
 * table_parts.c - fuzzes the footer and the properties of a table, each behind its checksum.
 *
 *     byte 0   bit 0: a footer, else properties   bit 1: what other parts say of it is made to agree
 *
 * Both have one form: what decodes is encoded again to the same bytes.
 */
#include "fuzz/fuzz.h"
#include "fuzz/repair.h"
#include "sstable/table_format.h"

#include <stdlib.h>

#define NUMBER 9

static const uint8_t store_id[TABLE_STORE_ID_BYTES] = "store of fuzzing";

/* The input is the end of a file; in front of it are zeros, so that sections have room. */
static void check_footer(struct pleat_slice end, bool repair, struct fuzz_mem *memory) {
    enum { FRONT_BYTES = 1024 };
    size_t bytes = FRONT_BYTES + end.bytes;
    uint8_t *file = fuzz_copy(NULL, 0, bytes);
    memcpy(file + FRONT_BYTES, end.data, end.bytes);
    if (repair) {
        (void)repair_table(file, bytes, store_id, NUMBER);
    }
    char name[TABLE_NAME_BYTES];
    table_name(NUMBER, name);
    struct fuzz_disk disk;
    fuzz_disk_init(&disk);
    fuzz_disk_put(&disk, name, file, bytes);
    struct table_store store = {.vfs = &disk.vfs, .dir = fuzz_disk_dir(&disk), .mem = &memory->mem};
    memcpy(store.store_id, store_id, sizeof store.store_id);
    struct vfs_file *open = NULL;
    struct table_footer footer;
    FUZZ_CHECK(disk.vfs.file_open(store.dir, name, VFS_FILE_READ, 0, &open, NULL) == 0);
    int rc = table_footer_read(&store, open, NUMBER, name, &footer, NULL);
    FUZZ_CHECK(rc == 0 || rc == PLEAT_ERR_CORRUPT || rc == PLEAT_ERR_NEWER || rc == PLEAT_ERR_INVALID);
    if (rc == 0) {
        uint8_t again[TABLE_FOOTER_BYTES];
        FUZZ_CHECK(footer.file_bytes == bytes && footer.number == NUMBER);
        table_footer_encode(again, store_id, table_seed(store_id, NUMBER), &footer);
        FUZZ_CHECK(memcmp(again, file + bytes - TABLE_FOOTER_BYTES, sizeof again) == 0);
        const struct table_section *sections[] = {&footer.index, &footer.filter, &footer.properties};
        for (size_t i = 0; i < 3; i++) {
            uint8_t *image = NULL;
            if (sections[i]->handle.stored_bytes > 0 &&
                table_section_read(&store, open, table_seed(store_id, NUMBER), sections[i], name, &image, NULL) == 0) {
                mem_free(&memory->mem, image);
            }
        }
    }
    disk.vfs.file_close(open);
    free(file);
}

static void check_properties(struct pleat_slice image, bool agree, struct fuzz_mem *memory) {
    uint8_t *exact = fuzz_copy(image.data, image.bytes, 0);
    struct table_footer footer = {.number = NUMBER, .file_bytes = 4096, .entries = 5, .blocks = 2};
    footer.properties.handle = (struct table_handle){2000, (uint32_t)image.bytes, (uint32_t)image.bytes};
    if (agree && image.bytes >= TABLE_PROPERTIES_KEYS) {
        footer.entries = load_u64(exact + TABLE_PROPERTIES_ENTRIES);
        footer.blocks = load_u32(exact + TABLE_PROPERTIES_BLOCKS);
        footer.filter.handle.stored_bytes = exact[TABLE_PROPERTIES_FILTER];
    }
    struct table_meta meta;
    struct table_grouping grouping;
    int rc = table_properties_decode(&memory->mem, exact, &footer, "000009.tbl", &meta, &grouping, NULL);
    FUZZ_CHECK(rc == 0 || rc == PLEAT_ERR_CORRUPT);
    if (rc == 0) {
        FUZZ_CHECK(table_properties_bytes(&meta) == image.bytes);
        uint8_t *again = fuzz_copy(NULL, 0, image.bytes);
        table_properties_encode(again, &meta, &grouping);
        FUZZ_CHECK(memcmp(again, exact, image.bytes) == 0);
        free(again);
        FUZZ_CHECK(table_group_bytes(&grouping, meta.largest, meta.largest_bytes) <= meta.largest_bytes);
        struct table_meta copy;
        FUZZ_CHECK(table_meta_copy(&memory->mem, &meta, &copy) == 0);
        table_meta_fini(&memory->mem, &meta);
        table_meta_fini(&memory->mem, &copy);
    }
    free(exact);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fuzz_input input = {data, data + size};
    uint8_t mode = fuzz_u8(&input);
    struct pleat_slice rest = fuzz_rest(&input);
    struct fuzz_mem memory;
    /* A section's image may be 255 times as long as its bytes, which may be the zeros in front (M3). */
    fuzz_mem_init(&memory, size + 1024, 256, 4096);
    if ((mode & 1) != 0) {
        check_footer(rest, (mode & 2) != 0, &memory);
    } else {
        check_properties(rest, (mode & 2) != 0, &memory);
    }
    fuzz_mem_fini(&memory);
    return 0;
}
