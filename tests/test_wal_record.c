/* test_wal_record.c - log records built in memory and viewed, and the names of segments. */
#include "support/wal_disk.h"

/* ---- records ---------------------------------------------------------------------------------------------------- */

static void assert_entry_equal(const struct entry *a, const struct entry *b) {
    cr_assert_eq(a->kind, b->kind);
    cr_assert_eq(key_compare(a->key, a->key_bytes, b->key, b->key_bytes), 0);
    cr_assert_eq(a->value_bytes, b->value_bytes);
    cr_assert_eq(a->value == NULL, a->value_bytes == 0, "an empty value has no pointer");
    cr_assert(a->value_bytes == 0 || memcmp(a->value, b->value, a->value_bytes) == 0);
    cr_assert_eq(a->has_flag, b->has_flag);
    cr_assert_eq(a->flag, b->flag);
    cr_assert_eq(key_compare(a->version, a->version_bytes, b->version, b->version_bytes), 0);
    cr_assert_eq(a->deadline_ms, b->deadline_ms);
}

Test(wal_record, entries_come_back_as_they_were_added) {
    static const uint32_t key_sizes[] = {0, 1, 2, 127, 128, 16383, 16384, 65535};
    static const uint32_t value_sizes[] = {0, 1, 127, 128, 16383, 16384, 1 << 20};
    static const uint32_t spaces[] = {0, 127, 128, UINT32_MAX};
    enum { COUNT = 8 * 7 * 16 };
    static struct entry entries[COUNT];
    static uint32_t used_spaces[COUNT];
    uint8_t *noise = malloc(1 << 20);
    struct random random = random_begin("wal_record/entries_come_back");
    for (size_t i = 0; i < 1 << 20; i++) {
        noise[i] = (uint8_t)random_next(&random);
    }
    struct wal_record record;
    wal_record_init(&record, &mem_system);
    for (size_t i = 0; i < COUNT; i++) {
        entries[i] = (struct entry){
            .key = noise + i,
            .key_bytes = i % 8 == 0 ? 0 : key_sizes[i % 8] - (uint32_t)(i % 8 == 7 ? i % 2 : 0),
            .kind = (i / 56 & 1) != 0 ? ENTRY_DELETE : ENTRY_PUT,
            .has_flag = (i / 56 & 2) != 0,
            .flag = (i / 56 & 2) != 0 ? 0xff : 0,
            .version = (i / 56 & 4) != 0 ? noise + 5 : NULL,
            .version_bytes = (i / 56 & 4) != 0 ? (uint8_t)(1 + i % LIMIT_VERSION_BYTES) : 0,
            .deadline_ms = (i / 56 & 8) != 0 ? UINT64_MAX - i : 0,
        };
        if (entries[i].kind == ENTRY_PUT) {
            entries[i].value_bytes = value_sizes[i / 8 % 7] > 65536 && i > 100 ? 3 : value_sizes[i / 8 % 7];
            entries[i].value = entries[i].value_bytes > 0 ? noise : NULL;
        }
        used_spaces[i] = spaces[i % 4];
        cr_assert_eq(wal_record_add(&record, used_spaces[i], &entries[i], NULL, NULL), 0);
    }
    struct wal_view view;
    wal_record_view(&record, &view);
    cr_assert_eq(view.entry_count, COUNT);
    for (size_t i = 0; i < COUNT; i++) {
        struct entry entry;
        uint32_t space;
        cr_assert_eq(wal_view_entry(&view, &space, &entry), 0);
        cr_assert_eq(space, used_spaces[i]);
        assert_entry_equal(&entry, &entries[i]);
    }
    struct entry entry;
    uint32_t space;
    struct wal_cursor cursor;
    cr_assert_eq(wal_view_entry(&view, &space, &entry), PLEAT_END);
    cr_assert_eq(wal_view_cursor(&view, &cursor), PLEAT_END);
    wal_record_fini(&record);
    free(noise);
}

Test(wal_record, an_empty_record_has_a_view_that_ends) {
    struct wal_record record;
    wal_record_init(&record, &mem_system);
    struct wal_view view;
    wal_record_view(&record, &view);
    struct entry entry;
    uint32_t space;
    struct wal_cursor cursor;
    cr_assert_eq(wal_view_entry(&view, &space, &entry), PLEAT_END);
    cr_assert_eq(wal_view_cursor(&view, &cursor), PLEAT_END);
    cr_assert_eq(wal_record_bytes(&record), WAL_RECORD_HEADER_BYTES);
    wal_record_fini(&record);
    wal_record_fini(&record);
}

Test(wal_record, reserved_room_is_zero_and_takes_the_value) {
    struct wal_record record;
    wal_record_init(&record, &mem_system);
    struct entry entry = {.key = (const uint8_t *)"k", .key_bytes = 1, .value_bytes = 1000, .kind = ENTRY_PUT};
    for (int round = 0; round < 2; round++) {
        void *room = NULL;
        cr_assert_eq(wal_record_add(&record, 1, &entry, &room, NULL), 0);
        for (int i = 0; i < 1000; i++) {
            cr_assert_eq(((uint8_t *)room)[i], 0, "bytes of an earlier batch must not show");
        }
        memset(room, 0xab, 1000);
        struct wal_view view;
        wal_record_view(&record, &view);
        struct entry read;
        uint32_t space;
        cr_assert_eq(wal_view_entry(&view, &space, &read), 0);
        cr_assert(read.value_bytes == 1000 && read.value[0] == 0xab && read.value[999] == 0xab);
        wal_record_clear(&record);
    }
    void *room = &record;
    entry.value_bytes = 0;
    cr_assert_eq(wal_record_add(&record, 1, &entry, &room, NULL), 0);
    cr_assert_null(room, "an empty value has no room");
    wal_record_fini(&record);
}

static struct wal_cursor cursor_named(const char *name, const char *value, const char *incarnation, bool replace) {
    return (struct wal_cursor){
        .name = (const uint8_t *)name,
        .name_bytes = (uint32_t)strlen(name),
        .value = (const uint8_t *)value,
        .value_bytes = (uint32_t)strlen(value),
        .incarnation = (const uint8_t *)incarnation,
        .incarnation_bytes = (uint32_t)strlen(incarnation),
        .replace_incarnation = replace,
    };
}

static void assert_next_cursor(struct wal_view *view, const struct wal_cursor *wanted) {
    struct wal_cursor cursor;
    cr_assert_eq(wal_view_cursor(view, &cursor), 0);
    cr_assert_eq(key_compare(cursor.name, cursor.name_bytes, wanted->name, wanted->name_bytes), 0);
    cr_assert_eq(key_compare(cursor.value, cursor.value_bytes, wanted->value, wanted->value_bytes), 0);
    cr_assert_eq(key_compare(cursor.incarnation, cursor.incarnation_bytes, wanted->incarnation,
                             wanted->incarnation_bytes),
                 0);
    cr_assert_eq(cursor.replace_incarnation, wanted->replace_incarnation);
}

Test(wal_record, a_later_cursor_of_the_same_name_replaces_the_earlier) {
    struct wal_record record;
    wal_record_init(&record, &mem_system);
    struct wal_cursor first = cursor_named("", "1", "", false);
    struct wal_cursor other = cursor_named("other", "x", "stream", true);
    struct wal_cursor again = cursor_named("", "a longer position", "", false);
    struct wal_cursor prefix = cursor_named("othe", "", "", false);
    cr_assert_eq(wal_record_set_cursor(&record, &first, NULL), 0);
    cr_assert_eq(wal_record_set_cursor(&record, &other, NULL), 0);
    cr_assert_eq(wal_record_set_cursor(&record, &again, NULL), 0);
    cr_assert_eq(wal_record_set_cursor(&record, &prefix, NULL), 0);
    struct wal_view view;
    wal_record_view(&record, &view);
    cr_assert_eq(view.cursor_count, 3);
    assert_next_cursor(&view, &other);
    assert_next_cursor(&view, &again);
    assert_next_cursor(&view, &prefix);
    struct wal_cursor cursor;
    cr_assert_eq(wal_view_cursor(&view, &cursor), PLEAT_END);
    wal_record_fini(&record);
}

static int cursor_of_bytes(const uint8_t *bytes, size_t n, struct wal_cursor *ret_cursor) {
    struct wal_view view = {.cursors = bytes, .cursors_end = bytes + n, .cursor_count = 1};
    return wal_view_cursor(&view, ret_cursor);
}

Test(wal_record, a_removed_cursor_has_a_name_alone) {
    struct wal_cursor cursor;
    const uint8_t sound[] = {1, 0, 0, 2, 'n'};
    cr_assert_eq(cursor_of_bytes(sound, sizeof sound, &cursor), 0);
    cr_assert(cursor.removes && !cursor.replace_incarnation && cursor.name_bytes == 1 && cursor.name[0] == 'n');
    const uint8_t wrong[][6] = {{1, 1, 0, 2, 'n', 'v'}, {1, 0, 1, 2, 'n', 'i'}, {1, 0, 0, 3, 'n'}, {1, 0, 0, 4, 'n'},
                                {1, 0, 0, 6, 'n'}};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        cr_assert_eq(cursor_of_bytes(wrong[i], i < 2 ? 6 : 5, &cursor), PLEAT_ERR_CORRUPT, "%zu", i);
    }
}

Test(wal_record, cursors_are_limited_in_number_but_may_still_be_replaced) {
    struct wal_record record;
    wal_record_init(&record, &mem_system);
    uint8_t value[LIMIT_CURSOR_BYTES] = {1};
    struct wal_cursor cursor = {.value = value, .value_bytes = sizeof value};
    uint8_t name[LIMIT_CURSOR_NAME_BYTES] = {0};
    cursor.name = name;
    cursor.name_bytes = sizeof name;
    for (uint32_t i = 0; i < LIMIT_CURSORS; i++) {
        store_u32(name, i);
        cr_assert_eq(wal_record_set_cursor(&record, &cursor, NULL), 0);
    }
    size_t used = record.cursors_used;
    store_u32(name, LIMIT_CURSORS);
    cr_assert_eq(wal_record_set_cursor(&record, &cursor, NULL), PLEAT_ERR_INVALID);
    store_u32(name, 5);
    cr_assert_eq(wal_record_set_cursor(&record, &cursor, NULL), 0);
    cr_assert_eq(record.cursors_used, used);
    cr_assert_eq(record.cursor_count, LIMIT_CURSORS);
    wal_record_fini(&record);
}

Test(wal_record, over_the_limits_is_refused_and_changes_nothing) {
    struct wal_record record;
    wal_record_init(&record, &mem_system);
    struct entry entry = {.key = (const uint8_t *)"k", .key_bytes = 1, .kind = ENTRY_DELETE};
    struct wal_cursor cursor = cursor_named("n", "v", "", false);
    cr_assert_eq(wal_record_add(&record, 1, &entry, NULL, NULL), 0);
    struct wal_record saved = record;
    struct pleat_error err = {0};
    entry.kind = ENTRY_PUT;
    entry.value_bytes = UINT32_MAX;
    entry.value = (const uint8_t *)"never read";
    record.used = LIMIT_RECORD_BYTES - 4000000000u; /* as if that much had been added */
    struct wal_record full = record;
    cr_assert_eq(wal_record_add(&record, 1, &entry, NULL, &err), PLEAT_ERR_INVALID);
    cr_assert_neq(err.message[0], '\0');
    cr_assert_eq(memcmp(&record, &full, sizeof record), 0);
    record.capacity = SIZE_MAX; /* room there is, but not that much may be used */
    full = record;
    cr_assert_eq(wal_record_add(&record, 1, &entry, NULL, NULL), PLEAT_ERR_INVALID);
    cr_assert_eq(memcmp(&record, &full, sizeof record), 0);
    record.used = LIMIT_RECORD_BYTES - 16;
    full = record;
    cr_assert_eq(wal_record_set_cursor(&record, &cursor, NULL), PLEAT_ERR_INVALID);
    cr_assert_eq(memcmp(&record, &full, sizeof record), 0);
    record = saved;
    record.entries = UINT32_MAX;
    entry.value_bytes = 0;
    cr_assert_eq(wal_record_add(&record, 1, &entry, NULL, NULL), PLEAT_ERR_INVALID);
    record = saved;
    wal_record_fini(&record);
}

Test(wal_record, clear_keeps_the_memory) {
    struct failmem fail;
    failmem_init(&fail);
    struct wal_record record;
    wal_record_init(&record, &fail.mem);
    sample_fill(&record, 7, 5000);
    uint64_t calls = fail.calls;
    cr_assert_gt(calls, 0);
    sample_fill(&record, 7, 5000);
    cr_assert_eq(fail.calls, calls);
    wal_record_fini(&record);
    cr_assert_eq(fail.live, 0);
}

Test(wal_record, any_failed_allocation_leaves_the_record_as_it_was) {
    for (int for_ever = 0; for_ever < 2; for_ever++) {
        for (uint64_t n = 1;; n++) {
            struct failmem fail;
            failmem_init(&fail);
            fail.fail_at = n;
            fail.fail_for_ever = for_ever != 0;
            struct wal_record record;
            wal_record_init(&record, &fail.mem);
            int failures = 0;
            for (uint32_t i = 0; i < 100; i++) {
                char text[600];
                memset(text, (int)('a' + i % 26), sizeof text);
                struct entry entry = {.key = (const uint8_t *)text, .key_bytes = 500, .kind = ENTRY_DELETE};
                struct wal_cursor cursor = {.name = (const uint8_t *)&i, .name_bytes = 4,
                                            .value = (const uint8_t *)text, .value_bytes = 600};
                struct wal_record before = record;
                int rc = i % 2 == 0 ? wal_record_add(&record, i, &entry, NULL, NULL)
                                    : wal_record_set_cursor(&record, &cursor, NULL);
                if (rc != 0) {
                    cr_assert_eq(rc, PLEAT_ERR_NO_MEMORY);
                    cr_assert_eq(memcmp(&before, &record, sizeof record), 0);
                    failures++;
                }
            }
            wal_record_fini(&record);
            cr_assert_eq(fail.live, 0);
            if (failures == 0) {
                cr_assert_gt(n, 4);
                break;
            }
        }
    }
}

/* ---- names ------------------------------------------------------------------------------------------------------ */

Test(wal_name, round_trips_and_takes_nothing_else) {
    static const uint64_t numbers[] = {1, 9, 999999, 1000000, 123456789012345, UINT64_MAX};
    char name[WAL_NAME_BYTES];
    uint64_t back;
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        wal_name(numbers[i], name);
        cr_assert(wal_name_parse(name, &back));
        cr_assert_eq(back, numbers[i]);
    }
    wal_name(123, name);
    cr_assert_str_eq(name, "000123.wal");
    static const char *const others[] = {"", ".wal", "123.wal", "00123.wal", "0000123.wal", "000123", "000123.wal.",
                                         "000123.wa", "000123.WAL", "-00123.wal", "+00123.wal", " 000123.wal",
                                         "000123 .wal", "000000.wal", "0x0123.wal", "000123.tbl", "00012a.wal",
                                         "18446744073709551616.wal", "99999999999999999999.wal", "MANIFEST"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        cr_assert_not(wal_name_parse(others[i], &back), "%s", others[i]);
    }
}
