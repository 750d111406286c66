/*
 * test_table_damage.c - damaged, foreign and hostile table files, failed allocations and failed system calls.
 *
 * The claim is always the same: an error that says so, or the right answer; never a wrong one, a crash or a leak.
 */
#include "sstable/index_node.h"
#include "sstable/table_format.h"
#include "support/failmem.h"
#include "support/table_room.h"

struct file_bytes {
    uint8_t *data;
    size_t bytes;
};

static struct file_bytes file_load(struct room *room, uint64_t number) {
    char name[TABLE_NAME_BYTES];
    struct vfs_file *file;
    uint64_t bytes;
    table_name(number, name);
    cr_assert_eq(vfs_posix.file_open(room->store.dir, name, VFS_FILE_READ, 0, &file, NULL), 0);
    cr_assert_eq(vfs_posix.file_size(file, &bytes, NULL), 0);
    struct file_bytes copy = {malloc(bytes), bytes};
    cr_assert_eq(vfs_posix.file_read(file, 0, copy.data, bytes, NULL), 0);
    vfs_posix.file_close(file);
    return copy;
}

static void file_store(struct room *room, uint64_t number, const uint8_t *data, size_t bytes) {
    char name[TABLE_NAME_BYTES];
    struct vfs_file *file;
    table_name(number, name);
    (void)vfs_posix.dir_unlink(room->store.dir, name, NULL);
    cr_assert_eq(vfs_posix.file_open(room->store.dir, name, VFS_FILE_CREATE_NEW, 0600, &file, NULL), 0);
    cr_assert_eq(vfs_posix.file_write(file, 0, data, bytes, NULL), 0);
    vfs_posix.file_close(file);
}

static void file_patch(struct room *room, uint64_t number, uint64_t offset, const void *data, size_t bytes) {
    char path[128];
    char name[TABLE_NAME_BYTES];
    table_name(number, name);
    (void)snprintf(path, sizeof path, "%s/%s", room->path, name);
    FILE *file = fopen(path, "r+b");
    cr_assert_not_null(file);
    cr_assert(fseek(file, (long)offset, SEEK_SET) == 0 && fwrite(data, 1, bytes, file) == bytes && fclose(file) == 0);
}

/* Every row by get, and a scan: what is answered is right (get_checked asserts), what is not is CORRUPT. Returns how
 * many calls reported damage. */
static unsigned read_damaged(struct room *room, struct table *table, const struct rows *rows) {
    unsigned errors = 0;
    for (size_t i = 0; i < rows->count; i++) {
        int rc = get_checked(room, table, rows, rows->data[i].key, rows->data[i].entry.key_bytes);
        cr_assert(rc >= 0 || rc == PLEAT_ERR_CORRUPT, "%d %s", rc, room->error.message);
        errors += rc < 0;
    }
    struct source_bounds bounds = {0};
    struct source *source = new_source(table, &bounds);
    int rc = source->ops->first(source);
    for (size_t i = 0; rc == 0; i++, rc = source->ops->next(source)) {
        expect_at(source, rc, rows, i, 0, rows->count);
    }
    cr_assert(rc == PLEAT_END || rc == PLEAT_ERR_CORRUPT);
    cr_assert(rc == PLEAT_END || source->error.message[0] != '\0');
    errors += rc < 0;
    source_free(source);
    return errors;
}

static void expect_corrupt(struct room *room, int rc, const char *file) {
    cr_assert_eq(rc, PLEAT_ERR_CORRUPT, "%d %s", rc, room->error.message);
    cr_assert(strstr(room->error.message, file) != NULL && strstr(room->error.message, "found") != NULL, "%s",
              room->error.message);
}

/* Reads a file as it lies there, believing or not believing the meta; nothing may crash. */
static void read_hostile(struct room *room, uint64_t number) {
    struct table_meta meta;
    struct table *table = NULL;
    error_clear(&room->error);
    if (table_meta_read(&room->store, number, &meta, &room->error) < 0) {
        return;
    }
    struct table_check check = {0};
    (void)table_verify(&room->store, &meta, NULL, &check, NULL);
    if (table_open(&room->store, &meta, &table, NULL) == 0) {
        struct source_bounds bounds = {.lower = (const uint8_t *)"svc.000001", .lower_bytes = 10};
        struct source *source = NULL;
        uint8_t last[LIMIT_KEY_BYTES] = {0};
        size_t last_bytes = SIZE_MAX;
        uint64_t steps = 0;
        int rc = table_source_new(table, &bounds, &source, NULL);
        if (rc < 0) { /* a page of the index cannot be read */
            bounds.lower = NULL;
            source = new_source(table, &bounds);
        }
        for (rc = source->ops->first(source); rc == 0 && steps < 100000; rc = source->ops->next(source), steps++) {
            struct table_block block;
            (void)table_source_block(source, &block);
            cr_assert(last_bytes == SIZE_MAX ||
                      key_compare(last, last_bytes, source->entry.key, source->entry.key_bytes) < 0); /* S4 */
            memcpy(last, source->entry.key, source->entry.key_bytes);
            last_bytes = source->entry.key_bytes;
        }
        for (rc = source->ops->last(source); rc == 0; rc = source->ops->prev(source)) {
        }
        source_free(source);
        struct epoch_slot *slot;
        struct entry entry;
        struct cache_frame *frame;
        cr_assert_eq(epoch_enter(cache_epoch(room->store.cache), &slot), 0);
        (void)table_get(table, last, 4, hash_key(last, 4), CACHE_GET, &entry, &frame, NULL);
        epoch_leave(slot);
        table_close(table);
    }
    table_meta_fini(&mem_system, &meta);
}

/* ---- damage ----------------------------------------------------------------------------------------------------- */

Test(table_damage, every_flipped_byte_is_found_and_no_answer_is_wrong) {
    struct room room;
    room_open(&room, &mem_system);
    struct rows rows = rows_grouped(4, 6, 20, false);
    struct table_builder_options options = options_small();
    options.block_bytes = 256;
    struct table_meta meta = build(&room, &rows, &options);
    struct file_bytes file = file_load(&room, 7);
    for (size_t i = 0; i < file.bytes; i++) {
        uint8_t damaged = (uint8_t)(file.data[i] ^ (1u << (i % 8)));
        file_patch(&room, 7, i, &damaged, 1);
        struct table *table = NULL;
        error_clear(&room.error);
        int rc = table_open(&room.store, &meta, &table, &room.error);
        if (rc == 0) {
            cr_assert_gt(read_damaged(&room, table, &rows), 0, "byte %zu lies in a block, yet none is damaged", i);
            table_close(table);
        } else {
            expect_corrupt(&room, rc, "000007.tbl");
        }
        struct table_check check = {0};
        error_clear(&room.error);
        expect_corrupt(&room, table_verify(&room.store, &meta, NULL, &check, &room.error), "000007.tbl");
        file_patch(&room, 7, i, &file.data[i], 1);
    }
    check_table(&room, &meta, &rows);
    free(file.data);
    table_meta_fini(&mem_system, &meta);
    rows_free(&rows);
    room_close(&room);
}

Test(table_damage, a_file_of_any_other_length_is_refused) {
    struct room room;
    room_open(&room, &mem_system);
    struct rows rows = rows_grouped(3, 5, 20, false);
    struct table_builder_options options = options_small();
    struct table_meta meta = build(&room, &rows, &options), read;
    struct file_bytes file = file_load(&room, 7);
    uint8_t *longer = calloc(1, file.bytes * 2);
    memcpy(longer, file.data, file.bytes);
    memcpy(longer + file.bytes, file.data, file.bytes);
    for (size_t bytes = 0; bytes <= file.bytes * 2; bytes++) {
        if (bytes == file.bytes) {
            continue;
        }
        file_store(&room, 7, longer, bytes);
        struct table *table = NULL;
        error_clear(&room.error);
        expect_corrupt(&room, table_open(&room.store, &meta, &table, &room.error), "000007.tbl");
        error_clear(&room.error);
        expect_corrupt(&room, table_meta_read(&room.store, 7, &read, &room.error), "000007.tbl");
    }
    free(longer);
    free(file.data);
    table_meta_fini(&mem_system, &meta);
    rows_free(&rows);
    room_close(&room);
}

Test(table_damage, a_file_of_another_number_or_store_is_refused) {
    struct room room;
    room_open(&room, &mem_system);
    struct rows rows = rows_grouped(3, 5, 20, false);
    struct table_builder_options options = options_small();
    struct table_meta meta = build(&room, &rows, &options), read;
    struct file_bytes file = file_load(&room, 7);
    file_store(&room, 8, file.data, file.bytes);
    expect_corrupt(&room, table_meta_read(&room.store, 8, &read, &room.error), "file number");
    room.store.store_id[0] ^= 1;
    error_clear(&room.error);
    expect_corrupt(&room, table_meta_read(&room.store, 7, &read, &room.error), "store identity");
    room.store.store_id[0] ^= 1;
    /* The same name, number and length, other contents: only the manifest's meta can tell. */
    rows.data[0].value[1]++;
    options.number = 9;
    struct table_meta other = build(&room, &rows, &options);
    other.number = 7;
    struct table *table = NULL;
    error_clear(&room.error);
    expect_corrupt(&room, table_open(&room.store, &other, &table, &room.error), "000007.tbl");
    error_clear(&room.error);
    meta.number = 10;
    cr_assert_eq(table_open(&room.store, &meta, &table, &room.error), PLEAT_ERR_CORRUPT); /* it is missing */
    free(file.data);
    table_meta_fini(&mem_system, &meta);
    table_meta_fini(&mem_system, &other);
    rows_free(&rows);
    room_close(&room);
}

/* A piece of a table that was of the same number once, or of another place, has a right length and a wrong seed. */
Test(table_damage, blocks_that_changed_places_are_found) {
    struct room room;
    room_open(&room, &mem_system);
    struct rows rows = rows_grouped(8, 6, 20, true);
    struct table_builder_options options = options_small();
    options.codec = PLEAT_CODEC_NONE;
    struct table_meta meta = build(&room, &rows, &options);
    struct file_bytes file = file_load(&room, 7);
    size_t first = TABLE_HEADER_BYTES + load_u32(file.data + TABLE_HEADER_STORED);
    size_t second = TABLE_HEADER_BYTES + load_u32(file.data + first + TABLE_HEADER_STORED);
    cr_assert_eq(first, second, "the rows are of one size, so are the blocks");
    file_patch(&room, 7, 0, file.data + first, first);
    file_patch(&room, 7, first, file.data, first);
    struct table *table = open_table(&room, &meta);
    cr_assert_gt(read_damaged(&room, table, &rows), 0);
    error_clear(&room.error);
    (void)get_checked(&room, table, &rows, rows.data[0].key, rows.data[0].entry.key_bytes);
    expect_corrupt(&room, room.error.code, "checksum");
    table_close(table);
    free(file.data);
    table_meta_fini(&mem_system, &meta);
    rows_free(&rows);
    room_close(&room);
}

/* The same place of a table of the same shape: length and offset are right, only whose block it is is not. */
Test(table_damage, a_block_of_another_table_is_found) {
    struct room room;
    room_open(&room, &mem_system);
    struct rows rows = rows_grouped(8, 6, 20, true);
    struct table_builder_options options = options_small();
    options.codec = PLEAT_CODEC_NONE;
    struct table_meta meta = build(&room, &rows, &options);
    rows.data[0].value[1]++;
    options.number = 9;
    struct table_meta other = build(&room, &rows, &options);
    rows.data[0].value[1]--;
    struct file_bytes file = file_load(&room, 9);
    file_patch(&room, 7, 0, file.data, TABLE_HEADER_BYTES + load_u32(file.data + TABLE_HEADER_STORED));
    struct table *table = open_table(&room, &meta);
    error_clear(&room.error);
    (void)get_checked(&room, table, &rows, rows.data[0].key, rows.data[0].entry.key_bytes);
    expect_corrupt(&room, room.error.code, "checksum");
    table_close(table);
    free(file.data);
    table_meta_fini(&mem_system, &meta);
    table_meta_fini(&mem_system, &other);
    rows_free(&rows);
    room_close(&room);
}

Test(table_damage, a_meta_that_differs_in_any_field_is_refused) {
    struct room room;
    room_open(&room, &mem_system);
    struct rows rows = rows_grouped(3, 5, 20, false);
    struct table_builder_options options = options_small();
    struct table_meta meta = build(&room, &rows, &options);
    for (unsigned field = 0; field < 17; field++) {
        struct table_meta wrong;
        cr_assert_eq(table_meta_copy(&mem_system, &meta, &wrong), 0);
        uint64_t *const words[] = {&wrong.file_bytes, &wrong.entries, &wrong.tombstones, &wrong.key_value_bytes,
                                   &wrong.sequence_min, &wrong.sequence_max, &wrong.deadline_min_ms,
                                   &wrong.footer_checksum};
        if (field < 8) {
            ++*words[field];
        } else {
            wrong.smallest[0] ^= field == 8;
            wrong.largest[0] ^= field == 9;
            wrong.smallest_bytes -= field == 10;
            wrong.largest_bytes -= field == 11;
            wrong.blocks += field == 12;
            wrong.key_bytes_max += field == 13;
            wrong.codec ^= field == 14 ? 3 : 0;
            wrong.filter ^= field == 15 ? 3 : 0;
        }
        struct table *table = NULL;
        error_clear(&room.error);
        int rc = table_open(&room.store, &wrong, &table, &room.error);
        if (field < 16) {
            expect_corrupt(&room, rc, "manifest");
        } else {
            cr_assert_eq(rc, 0, "the copy itself is right");
            table_close(table);
        }
        table_meta_fini(&mem_system, &wrong);
    }
    table_meta_fini(&mem_system, &meta);
    rows_free(&rows);
    room_close(&room);
}

static void footer_reseal(struct file_bytes *file, const struct room *room, uint64_t number) {
    uint8_t *p = file->data + file->bytes - TABLE_FOOTER_BYTES;
    uint64_t seed = table_seed(room->store.store_id, number);
    store_u64(p + TABLE_FOOTER_CHECKSUM,
              hash_bytes(p, TABLE_FOOTER_CHECKSUM, hash_mix(seed, file->bytes - TABLE_FOOTER_BYTES)));
}

Test(table_damage, another_format_is_refused_as_what_it_is) {
    struct room room;
    room_open(&room, &mem_system);
    struct rows rows = rows_grouped(3, 5, 20, false);
    struct table_builder_options options = options_small();
    struct table_meta meta = build(&room, &rows, &options), read;
    struct file_bytes file = file_load(&room, 7);
    store_u32(file.data + file.bytes - TABLE_FOOTER_BYTES + TABLE_FOOTER_FORMAT, TABLE_FORMAT + 1);
    footer_reseal(&file, &room, 7);
    file_store(&room, 7, file.data, file.bytes);
    cr_assert_eq(table_meta_read(&room.store, 7, &read, &room.error), PLEAT_ERR_NEWER, "%s", room.error.message);
    store_u32(file.data + file.bytes - TABLE_FOOTER_BYTES + TABLE_FOOTER_FORMAT, TABLE_FORMAT - 1);
    footer_reseal(&file, &room, 7);
    file_store(&room, 7, file.data, file.bytes);
    error_clear(&room.error);
    cr_assert_eq(table_meta_read(&room.store, 7, &read, &room.error), PLEAT_ERR_INVALID); /* no damage */
    cr_assert_not_null(strstr(room.error.message, "before the first release"), "%s", room.error.message);
    free(file.data);
    table_meta_fini(&mem_system, &meta);
    rows_free(&rows);
    room_close(&room);
}

/* Seals a section whose image was changed; `pin` says whether the footer follows. */
static void section_reseal(struct file_bytes *file, const struct room *room, uint64_t number, unsigned place,
                           bool pin) {
    uint8_t *section = file->data + file->bytes - TABLE_FOOTER_BYTES + place;
    struct table_handle handle = {.offset = load_u64(section + TABLE_SECTION_OFFSET)};
    uint8_t *piece = file->data + handle.offset;
    handle.stored_bytes = load_u32(piece + TABLE_HEADER_STORED);
    handle.image_bytes = load_u32(piece + TABLE_HEADER_IMAGE);
    uint64_t checksum = table_header_encode(piece, table_seed(room->store.store_id, number), &handle,
                                            piece[TABLE_HEADER_CODEC]);
    if (pin) {
        store_u64(section + TABLE_SECTION_CHECKSUM, checksum);
        footer_reseal(file, room, number);
    }
}

/* The order of a level's tables is that of their metas: a block with keys beyond them must not be shown. */
Test(table_damage, keys_beyond_the_smallest_and_the_largest_are_found_at_load) {
    struct room room;
    room_open(&room, &mem_system);
    struct rows rows = rows_grouped(8, 6, 20, true);
    struct table_builder_options options = options_small();
    options.codec = PLEAT_CODEC_NONE; /* the properties are then stored as they are */
    for (unsigned largest = 0; largest < 2; largest++) {
        options.number = 7 + largest;
        struct table_meta meta = build(&room, &rows, &options), forged;
        struct file_bytes file = file_load(&room, options.number);
        uint8_t *footer = file.data + file.bytes - TABLE_FOOTER_BYTES;
        uint8_t *properties = file.data + load_u64(footer + TABLE_FOOTER_PROPERTIES) + TABLE_HEADER_BYTES;
        uint8_t *keys_end = properties + TABLE_PROPERTIES_KEYS + meta.smallest_bytes;
        if (largest) {
            keys_end[meta.largest_bytes - 1]--;
        } else {
            keys_end[-1]++;
        }
        section_reseal(&file, &room, options.number, TABLE_FOOTER_PROPERTIES, true);
        file_store(&room, options.number, file.data, file.bytes);
        error_clear(&room.error);
        cr_assert_eq(table_meta_read(&room.store, options.number, &forged, &room.error), 0, "%s", room.error.message);
        struct table *table = open_table(&room, &forged);
        const struct row *row = &rows.data[largest ? rows.count - 1 : 0];
        error_clear(&room.error);
        (void)get_checked(&room, table, &rows, row->key, row->entry.key_bytes);
        expect_corrupt(&room, room.error.code, largest ? "largest key" : "below the smallest");
        cr_assert_gt(read_damaged(&room, table, &rows), 0);
        table_close(table);
        free(file.data);
        table_meta_fini(&mem_system, &meta);
        table_meta_fini(&mem_system, &forged);
    }
    rows_free(&rows);
    room_close(&room);
}

/* Where things are in the index section of a table whose pieces are stored as they are. */
struct index_view {
    uint8_t *footer;
    uint8_t *directory;
    uint8_t *first_blocks;
    uint8_t *top;
    uint32_t pages;
};

static struct index_view index_view_of(const struct file_bytes *file) {
    struct index_view view = {.footer = file->data + file->bytes - TABLE_FOOTER_BYTES};
    view.directory = file->data + load_u64(view.footer + TABLE_FOOTER_INDEX) + TABLE_HEADER_BYTES;
    view.pages = load_u32(view.directory + TABLE_INDEX_PAGES);
    view.first_blocks = view.directory + TABLE_INDEX_STARTS + (size_t)view.pages * 8;
    view.top = view.directory + TABLE_INDEX_STARTS + (size_t)view.pages * TABLE_INDEX_START;
    return view;
}

static uint8_t *node_at(uint8_t *image, const uint8_t *array) {
    return image + (array - image);
}

/* The directories: each of these has right checksums (but the first) and must be refused for what it says, by name,
 * before anything is made of it. Returns the text to be found; NULL: no more of them. */
static const char *forge_directory(unsigned which, const struct index_view *view, const struct file_bytes *file) {
    const struct index_node top = index_node_of(view->top);
    switch (which) {
    case 0:
        view->top[INDEX_NODE_STRINGS + 4]++;
        return "section checksum";
    case 1:
        store_u64(node_at(view->top, top.heads), load_u64(top.heads + 8));
        return "separator";
    case 2:
        store_u32(node_at(view->top, top.images), 0x7fffffff);
        return "length of a block or page";
    case 3:
        store_u32(view->footer + TABLE_FOOTER_FILTER + TABLE_SECTION_IMAGE, 0x7fffffff);
        return "length of a section";
    case 4:
        store_u16(node_at(view->top, top.lengths), 0);
        return "length of a separator";
    case 5: {
        uint8_t *properties = file->data + load_u64(view->footer + TABLE_FOOTER_PROPERTIES) + TABLE_HEADER_BYTES;
        store_u32(properties + TABLE_PROPERTIES_KEY_BYTES_MAX, 3);
        return "length of the longest key";
    }
    case 6:
        store_u64(view->directory + TABLE_INDEX_PAGES_AT, file->bytes);
        return "end of the blocks";
    case 7:
        store_u64(view->directory + TABLE_INDEX_STARTS + 8, 0);
        return "order of the pages";
    case 8:
        store_u32(view->first_blocks, 1);
        return "first page";
    case 9:
        store_u32(view->directory + TABLE_INDEX_PAGES, view->pages - 1);
        return "of the index";
    case 10:
        store_u32(view->directory + TABLE_INDEX_STORED_MAX, 0);
        return "longest block";
    case 11:
        store_u32(view->first_blocks + 4, 0x7fffffff);
        return "order of the pages";
    case 12:
        store_u32(node_at(view->top, top.offsets), 1);
        return "place of the first child";
    case 13:
        store_u32(view->top + INDEX_NODE_PREFIX, load_u32(view->top + INDEX_NODE_PREFIX) + 8);
        return "length of the index";
    case 14:
        store_u64(view->directory + TABLE_INDEX_PAGES_END, load_u64(view->directory + TABLE_INDEX_PAGES_END) - 1);
        return "end of the pages";
    case 15:
        store_u32(view->footer + TABLE_FOOTER_BLOCKS, 0x7fffffff);
        return "blocks";
    default:
        return NULL;
    }
}

Test(table_damage, forged_directories_are_refused_at_open) {
    struct room room;
    room_open(&room, &mem_system);
    struct rows rows = rows_grouped(8, 6, 20, true);
    struct table_builder_options options = options_small();
    options.codec = PLEAT_CODEC_NONE; /* the index is then stored as it is */
    struct table_meta meta = build(&room, &rows, &options), read;
    struct file_bytes file = file_load(&room, 7);
    uint8_t *right = malloc(file.bytes);
    memcpy(right, file.data, file.bytes);
    unsigned which = 0;
    for (;; which++) {
        memcpy(file.data, right, file.bytes);
        struct index_view view = index_view_of(&file);
        cr_assert_geq(view.pages, 3);
        const char *text = forge_directory(which, &view, &file);
        if (text == NULL) {
            break;
        }
        section_reseal(&file, &room, 7, which == 5 ? TABLE_FOOTER_PROPERTIES : TABLE_FOOTER_INDEX, which != 0);
        file_store(&room, 7, file.data, file.bytes);
        error_clear(&room.error);
        expect_corrupt(&room, table_meta_read(&room.store, 7, &read, &room.error), text);
    }
    cr_assert_eq(which, 16);
    free(right);
    free(file.data);
    table_meta_fini(&mem_system, &meta);
    rows_free(&rows);
    room_close(&room);
}

/* A page of the index under a right checksum, refused at its load for what it says (X4). */
static const char *forge_page(unsigned which, uint8_t *image, const struct index_node *node) {
    switch (which) {
    case 0:
        store_u64(node_at(image, node->heads), load_u64(node->heads + 8) + 1);
        return "order of the separators";
    case 1: /* in order, but not below the separator behind the page */
        store_u64(node_at(image, node->heads) + ((size_t)node->count - 2) * 8, UINT64_MAX);
        return "separator";
    case 2: /* nor above the one before it */
        store_u64(node_at(image, node->heads), 0);
        return "separator";
    case 3:
        store_u32(node_at(image, node->images), 0x7fffffff);
        return "length of a block";
    case 4:
        store_u32(node_at(image, node->offsets) + 4, 5);
        return "length of a block";
    case 5:
        store_u32(image + INDEX_NODE_COUNT, node->count - 1);
        return "length of the index";
    case 6:
        store_u32(image + INDEX_NODE_ZERO, 1);
        return "header of the index";
    case 7: /* sound in itself, but longer than any block is said to be */
        store_u32(node_at(image, node->images), 255 * 25);
        return "length of a block";
    default:
        return NULL;
    }
}

Test(table_damage, forged_pages_of_the_index_are_refused_at_load) {
    struct room room;
    room_open(&room, &mem_system);
    struct rows rows = rows_grouped(8, 6, 20, true);
    struct table_builder_options options = options_small();
    options.codec = PLEAT_CODEC_NONE;
    struct table_meta meta = build(&room, &rows, &options);
    struct file_bytes file = file_load(&room, 7);
    uint8_t *right = malloc(file.bytes);
    memcpy(right, file.data, file.bytes);
    unsigned which = 0;
    for (;; which++) {
        memcpy(file.data, right, file.bytes);
        struct index_view view = index_view_of(&file);
        const struct index_node top = index_node_of(view.top);
        uint64_t pages_at = load_u64(view.directory + TABLE_INDEX_PAGES_AT);
        uint64_t pages_end = load_u64(view.directory + TABLE_INDEX_PAGES_END);
        struct table_handle handle = index_node_child(&top, 1, pages_end - pages_at);
        handle.offset += pages_at;
        uint8_t *piece = file.data + handle.offset;
        const struct index_node node = index_node_of(piece + TABLE_HEADER_BYTES);
        const char *text = forge_page(which, piece + TABLE_HEADER_BYTES, &node);
        if (text == NULL) {
            break;
        }
        (void)table_header_encode(piece, table_seed(room.store.store_id, 7), &handle, PLEAT_CODEC_NONE);
        file_store(&room, 7, file.data, file.bytes);
        struct table *table = open_table(&room, &meta);
        unsigned found = 0;
        for (size_t i = 0; i < rows.count; i++) {
            int rc = get_checked(&room, table, &rows, rows.data[i].key, rows.data[i].entry.key_bytes);
            cr_assert(rc >= 0 || rc == PLEAT_ERR_CORRUPT);
            found += rc < 0 && strstr(room.error.message, text) != NULL;
        }
        cr_assert_gt(found, 0, "page %u: no '%s' but '%s'", which, text, room.error.message);
        cr_assert_gt(read_damaged(&room, table, &rows), 0);
        table_close(table);
        struct table_check check = {0};
        error_clear(&room.error);
        expect_corrupt(&room, table_verify(&room.store, &meta, NULL, &check, &room.error), text);
    }
    cr_assert_eq(which, 8);
    free(right);
    free(file.data);
    table_meta_fini(&mem_system, &meta);
    rows_free(&rows);
    room_close(&room);
}

/* Damages one piece and seals it again, so that the checksums are right and everything behind them is exercised. */
static void forge(struct random *random, struct room *room, struct file_bytes *file, uint64_t number) {
    uint64_t seed = table_seed(room->store.store_id, number);
    uint8_t *footer = file->data + file->bytes - TABLE_FOOTER_BYTES;
    static const unsigned places[] = {TABLE_FOOTER_INDEX, TABLE_FOOTER_FILTER, TABLE_FOOTER_PROPERTIES};
    uint64_t which = random_below(random, 12);
    uint8_t *place = which < 3 ? footer + places[which] : NULL;
    struct table_handle handle = {0};
    if (which == 3) {
        footer[random_below(random, TABLE_FOOTER_CHECKSUM)] = (uint8_t)random_next(random);
        footer_reseal(file, room, number);
        return;
    }
    if (place != NULL) {
        handle.offset = load_u64(place);
    } else {
        uint64_t end = load_u64(footer + TABLE_FOOTER_INDEX);
        /* a block near the front, or any block or page */
        for (uint64_t skip = random_below(random, which < 8 ? 6 : 40), at = 0; at < end && skip-- > 0;) {
            handle.offset = at;
            at += TABLE_HEADER_BYTES + load_u32(file->data + at + TABLE_HEADER_STORED);
        }
    }
    uint8_t *piece = file->data + handle.offset;
    handle.stored_bytes = load_u32(piece + TABLE_HEADER_STORED);
    handle.image_bytes = load_u32(piece + TABLE_HEADER_IMAGE);
    static const uint8_t edges[] = {0, 1, 0x7f, 0x80, 0xff};
    for (uint64_t n = 1 + random_below(random, 3); n > 0; n--) {
        uint64_t front = handle.stored_bytes < 90 ? handle.stored_bytes : 90;
        size_t at = random_below(random, random_below(random, 2) == 0 ? handle.stored_bytes : front);
        piece[TABLE_HEADER_BYTES + at] = edges[random_below(random, sizeof edges)];
    }
    uint64_t checksum = table_header_encode(piece, seed, &handle, piece[TABLE_HEADER_CODEC]);
    if (place != NULL) {
        store_u64(place + TABLE_SECTION_CHECKSUM, checksum);
        footer_reseal(file, room, number);
    }
}

Test(table_damage, forged_checksums_lead_to_no_memory_error_and_no_disorder) {
    struct room room;
    room_open(&room, &mem_system);
    struct random random = random_begin("table_damage/forged");
    struct rows rows = rows_grouped(5, 8, 20, false);
    for (unsigned variant = 0; variant < 4; variant++) {
        struct table_builder_options options = options_small();
        options.codec = variant % 2 == 0 ? PLEAT_CODEC_LZ4 : PLEAT_CODEC_NONE;
        options.filter = variant < 2 ? FILTER_FUSE : FILTER_BLOOM;
        options.number = 30 + variant;
        struct table_meta meta = build(&room, &rows, &options);
        struct file_bytes file = file_load(&room, options.number);
        uint8_t *right = malloc(file.bytes);
        memcpy(right, file.data, file.bytes);
        for (int round = 0; round < 700; round++) {
            memcpy(file.data, right, file.bytes);
            forge(&random, &room, &file, options.number);
            file_store(&room, options.number, file.data, file.bytes);
            read_hostile(&room, options.number);
        }
        free(right);
        free(file.data);
        table_meta_fini(&mem_system, &meta);
    }
    rows_free(&rows);
    room_close(&room);
}

/* ---- failures --------------------------------------------------------------------------------------------------- */

/* Builds, opens, gets, scans, copies blocks, verifies. The first failure ends it; nothing is left behind. */
static int run_all(struct room *room, const struct rows *rows) {
    struct table_builder_options options = options_small();
    options.grouping = (struct table_grouping){.delimiters = 2, .delimiter = '.'};
    struct table_meta meta;
    struct table *table = NULL;
    struct source *source = NULL;
    int rc = build_quietly(room, rows, &options, &meta);
    if (rc < 0) {
        int names = 0;
        (void)vfs_posix.dir_list(room->store.dir, room_count, &names, NULL);
        cr_assert_eq(names, 0, "a failed build leaves no file");
        return rc;
    }
    rc = table_open(&room->store, &meta, &table, &room->error);
    for (size_t i = 0; rc >= 0 && i < rows->count; i += 5) {
        rc = get_checked(room, table, rows, rows->data[i].key, rows->data[i].entry.key_bytes);
    }
    struct source_bounds bounds = {.fill_cache = true};
    rc = rc < 0 ? rc : table_source_new(table, &bounds, &source, &room->error);
    if (rc >= 0) {
        size_t i = 0;
        for (rc = source->ops->first(source); rc == 0; rc = source->ops->next(source), i++) {
            expect_at(source, rc, rows, i, 0, rows->count);
            struct table_block block;
            rc = table_source_block(source, &block);
            if (rc < 0) {
                break;
            }
        }
        if (rc < 0) {
            room->error = source->error;
        }
    }
    source_free(source);
    table_close(table);
    struct table_check check = {0};
    rc = rc < 0 ? rc : table_verify(&room->store, &meta, NULL, &check, &room->error);
    table_meta_fini(room->store.mem, &meta);
    (void)vfs_posix.dir_list(room->store.dir, room_unlink, room, NULL);
    return rc;
}

Test(table_failure, every_failed_allocation_is_an_error_and_leaks_nothing) {
    struct rows rows = rows_grouped(4, 6, 20, false);
    rows_add(&rows, "z", 1, 40000); /* a block that does not fit the stack when it is read */
    rows_settle(&rows, false);
    struct failmem fail;
    failmem_init(&fail);
    struct room room;
    room_open(&room, &fail.mem);
    for (int for_ever = 0; for_ever < 2; for_ever++) {
        for (uint64_t n = 1;; n++) {
            fail.calls = 0;
            fail.fail_at = n;
            fail.fail_for_ever = for_ever != 0;
            error_clear(&room.error);
            int rc = run_all(&room, &rows);
            cr_assert_eq(fail.live, 0, "allocation %llu leaks %lld", (unsigned long long)n, (long long)fail.live);
            if (rc == 0) {
                cr_assert_gt(n, 20);
                break;
            }
            cr_assert_eq(rc, PLEAT_ERR_NO_MEMORY, "allocation %llu: %d %s", (unsigned long long)n, rc,
                         room.error.message);
            cr_assert_neq(room.error.message[0], '\0');
        }
    }
    fail.fail_at = 0;
    rows_free(&rows);
    room_close(&room);
}

Test(table_failure, every_failed_system_call_is_an_error_and_leaks_nothing) {
    struct rows rows = rows_grouped(40, 40, 400, true); /* more than one write */
    struct failmem fail;
    failmem_init(&fail);
    struct room room;
    room_open(&room, &fail.mem);
    for (int for_ever = 0; for_ever < 2; for_ever++) {
        for (uint64_t n = 1;; n += 1 + n / 6) {
            fault.calls = 0;
            fault.fail_at = n;
            fault.for_ever = for_ever != 0;
            error_clear(&room.error);
            int rc = run_all(&room, &rows);
            cr_assert_eq(fail.live, 0);
            if (fault.calls < n) {
                cr_assert_eq(rc, 0, "%s", room.error.message);
                cr_assert_gt(n, 20);
                break;
            }
            cr_assert_eq(rc, PLEAT_ERR_IO, "call %llu: %d %s", (unsigned long long)n, rc, room.error.message);
            cr_assert_eq(room.error.os_errno, EIO);
        }
    }
    fault.fail_at = 0;
    rows_free(&rows);
    room_close(&room);
}

Test(table_failure, a_source_goes_on_after_a_failed_load) {
    struct rows rows = rows_grouped(8, 8, 20, true);
    struct room room;
    room_open(&room, &mem_system);
    struct table_builder_options options = options_small();
    struct table_meta meta = build(&room, &rows, &options);
    struct table *table = open_table(&room, &meta);
    struct source_bounds bounds = {0};
    struct source *source = new_source(table, &bounds);
    size_t i = 0;
    int rc = source->ops->first(source);
    fault.calls = 0;
    fault.fail_at = 3;
    fault.for_ever = false;
    for (; rc == 0; i++) {
        rc = source->ops->next(source);
    }
    cr_assert_eq(rc, PLEAT_ERR_IO);
    cr_assert(i > 0 && i < rows.count && source->error.os_errno == EIO);
    check_walks(source, &rows, 0, rows.count);
    source_free(source);
    table_close(table);
    table_meta_fini(&mem_system, &meta);
    rows_free(&rows);
    room_close(&room);
}

Test(table_failure, an_abandoned_builder_leaves_no_file) {
    struct rows rows = rows_grouped(4, 40, 20, true);
    struct room room;
    room_open(&room, &mem_system);
    struct table_builder_options options = options_small();
    struct table_builder *builder, *second;
    cr_assert_eq(table_builder_new(&room.store, &options, &builder, NULL), 0);
    cr_assert_eq(table_builder_new(&room.store, &options, &second, &room.error), PLEAT_ERR_EXISTS, "%s",
                 room.error.message);
    for (size_t i = 0; i < rows.count; i++) {
        cr_assert_eq(table_builder_add(builder, &rows.data[i].entry, NULL), 0);
    }
    cr_assert(table_builder_entries(builder) == rows.count && table_builder_bytes(builder) > 1000);
    table_builder_free(builder);
    table_builder_free(NULL);
    table_close(NULL);
    int names = 0;
    (void)vfs_posix.dir_list(room.store.dir, room_count, &names, NULL);
    cr_assert_eq(names, 0);
    rows_free(&rows);
    room_close(&room);
}

/* ---- dump ------------------------------------------------------------------------------------------------------- */

struct dump_seen {
    uint64_t end;
    uint64_t entries;
    unsigned blocks, index_pages, filter_pages, others;
    const char *last;
    int stop_with;
};

static int dump_part(void *context, const struct table_part *part, const uint8_t *image) {
    struct dump_seen *seen = context;
    cr_assert(part->offset == seen->end && image != NULL && part->image_bytes > 0);
    seen->end += part->stored_bytes;
    seen->entries += part->entries;
    seen->blocks += strcmp(part->what, "block") == 0;
    seen->index_pages += strcmp(part->what, "index page") == 0;
    seen->filter_pages += strcmp(part->what, "filter page") == 0;
    seen->others += strstr(" index filter properties footer", part->what) != NULL;
    seen->last = part->what;
    return seen->stop_with;
}

Test(table_dump, parts_tile_the_file) {
    struct rows rows = rows_grouped(4, 40, 20, false);
    struct room room;
    room_open(&room, &mem_system);
    for (uint8_t filter = 0; filter <= FILTER_FUSE; filter++) {
        struct table_builder_options options = options_small();
        options.number += filter;
        options.filter = filter;
        struct table_meta meta = build(&room, &rows, &options);
        struct dump_seen seen = {0};
        cr_assert_eq(table_dump(&room.store, options.number, dump_part, &seen, &room.error), 0, "%s",
                     room.error.message);
        cr_assert(seen.end == meta.file_bytes && seen.entries == rows.count && strcmp(seen.last, "footer") == 0);
        cr_assert(seen.blocks == meta.blocks && seen.others == 3u + (filter != FILTER_NONE));
        cr_assert(seen.index_pages > 1 && seen.index_pages <= meta.blocks / 4 + 1);
        cr_assert_eq(seen.filter_pages, filter != FILTER_NONE);
        seen = (struct dump_seen){.stop_with = 77};
        cr_assert_eq(table_dump(&room.store, options.number, dump_part, &seen, NULL), 77);
        table_meta_fini(&mem_system, &meta);
    }
    rows_free(&rows);
    room_close(&room);
}
