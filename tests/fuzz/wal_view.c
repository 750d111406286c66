/*
 * wal_view.c - fuzzes the decoders of a log record's payload, behind its checksum: entries and cursors.
 *
 * What decodes is written into a fresh record, and must come out of it the same.
 */
#include "base/limits.h"
#include "fuzz/fuzz.h"
#include "wal/wal.h"

#include <stdlib.h>

static void check_entry(const struct entry *a, uint32_t a_space, const struct entry *b, uint32_t b_space) {
    FUZZ_CHECK(a_space == b_space && a->kind == b->kind && a->has_flag == b->has_flag && a->flag == b->flag);
    FUZZ_CHECK(a->deadline_ms == b->deadline_ms);
    FUZZ_CHECK(fuzz_equal((struct pleat_slice){a->key, a->key_bytes}, (struct pleat_slice){b->key, b->key_bytes}));
    FUZZ_CHECK(
        fuzz_equal((struct pleat_slice){a->value, a->value_bytes}, (struct pleat_slice){b->value, b->value_bytes}));
    FUZZ_CHECK(fuzz_equal((struct pleat_slice){a->version, a->version_bytes},
                          (struct pleat_slice){b->version, b->version_bytes}));
}

/* Each entry of the view is in the record, in order, and no other. */
static void check_entries(struct wal_view view, const struct wal_record *record) {
    struct wal_view written;
    struct entry a, b;
    uint32_t a_space, b_space;
    wal_record_view(record, &written);
    while (wal_view_entry(&view, &a_space, &a) == 0) {
        FUZZ_CHECK(wal_view_entry(&written, &b_space, &b) == 0);
        check_entry(&a, a_space, &b, b_space);
    }
    FUZZ_CHECK(wal_view_entry(&written, &b_space, &b) == PLEAT_END);
}

static int write_entries(struct wal_view view, struct wal_record *record) {
    struct entry entry;
    uint32_t space;
    int rc;
    while ((rc = wal_view_entry(&view, &space, &entry)) == 0) {
        FUZZ_CHECK(entry.key_bytes <= LIMIT_KEY_BYTES && entry.version_bytes <= LIMIT_VERSION_BYTES);
        FUZZ_CHECK(wal_record_add(record, space, &entry, NULL, NULL) == 0);
    }
    return rc;
}

static int write_cursors(struct wal_view view, struct wal_record *record) {
    struct wal_cursor cursor, last;
    int rc;
    while ((rc = wal_view_cursor(&view, &cursor)) == 0) {
        FUZZ_CHECK(cursor.name_bytes <= LIMIT_CURSOR_NAME_BYTES && cursor.value_bytes <= LIMIT_CURSOR_BYTES &&
                   cursor.incarnation_bytes <= LIMIT_INCARNATION_BYTES);
        if (wal_record_set_cursor(record, &cursor, NULL) != 0) {
            FUZZ_CHECK(record->cursor_count == LIMIT_CURSORS);
            continue;
        }
        struct wal_view written;
        wal_record_view(record, &written);
        bool found = false;
        while (wal_view_cursor(&written, &last) == 0) {
            found = found || (fuzz_equal((struct pleat_slice){last.name, last.name_bytes},
                                         (struct pleat_slice){cursor.name, cursor.name_bytes}) &&
                              last.removes == cursor.removes &&
                              fuzz_equal((struct pleat_slice){last.value, last.value_bytes},
                                         (struct pleat_slice){cursor.value, cursor.value_bytes}));
        }
        FUZZ_CHECK(found);
    }
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fuzz_input input = {data, data + size};
    struct wal_view view = {0};
    view.entry_count = fuzz_u8(&input);
    view.cursor_count = fuzz_u8(&input);
    struct pleat_slice entries = fuzz_slice(&input, fuzz_u16(&input)), cursors = fuzz_rest(&input);
    uint8_t *entries_copy = fuzz_copy(entries.data, entries.bytes, 0);
    uint8_t *cursors_copy = fuzz_copy(cursors.data, cursors.bytes, 0);
    view.entries = entries_copy;
    view.entries_end = entries_copy + entries.bytes;
    view.cursors = cursors_copy;
    view.cursors_end = cursors_copy + cursors.bytes;
    struct fuzz_mem memory;
    struct wal_record record;
    fuzz_mem_init(&memory, size, 64, 64 << 10);
    wal_record_init(&record, &memory.mem);
    int rc = write_entries(view, &record);
    FUZZ_CHECK(rc == PLEAT_END || rc == PLEAT_ERR_CORRUPT);
    if (rc == PLEAT_END) {
        check_entries(view, &record);
    }
    rc = write_cursors(view, &record);
    FUZZ_CHECK(rc == PLEAT_END || rc == PLEAT_ERR_CORRUPT);
    wal_record_fini(&record);
    fuzz_mem_fini(&memory);
    free(entries_copy);
    free(cursors_copy);
    return 0;
}
