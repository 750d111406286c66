/* test_fold.c - fold.h: applying, resuming, reading, and readers that outlive their owner. */
#include "pleat/fold.h"
#include "support/store_room.h"

static struct pleat_fold *fold_of(struct room *room, struct pleat_cursor_value *ret_cursor, int expected) {
    struct pleat_fold *fold = NULL;
    int rc = pleat_fold_open(room->path, &room->options, 0, 0, &fold, ret_cursor, &room->err);
    cr_assert_eq(rc, expected, "fold open: %s", room->err.message);
    return fold;
}

static struct pleat_fold_update put_of(const char *key, const char *value, const char *version) {
    return (struct pleat_fold_update){PLEAT_FOLD_PUT, text_slice(key), text_slice(value), text_slice(version)};
}

static bool fold_holds(struct pleat_fold *fold, const char *key, const char *expected, const char *version) {
    struct pleat_value value;
    int rc = pleat_fold_get(fold, text_slice(key), &value, NULL);
    if (rc != 0) {
        return rc == PLEAT_ABSENT && expected == NULL;
    }
    bool same = expected != NULL && value.bytes == strlen(expected) && memcmp(value.data, expected, value.bytes) == 0 &&
                value.version_bytes == strlen(version) &&
                (value.version_bytes == 0 || memcmp(value.version, version, value.version_bytes) == 0);
    pleat_value_release(&value);
    return same;
}

Test(fold, says_where_to_resume) {
    struct room room;
    struct pleat_cursor_value cursor;
    room_begin(&room);
    struct pleat_fold *fold = fold_of(&room, &cursor, PLEAT_ABSENT);
    struct pleat_fold_update updates[] = {put_of("a", "1", "r1"), put_of("b", "", "")};
    OK(pleat_fold_apply(fold, updates, 2, TEXT("at 7"), NULL, &room.err));
    OK(pleat_fold_close(fold, &room.err));
    fold = fold_of(&room, &cursor, 0);
    cr_assert_eq(cursor.bytes, 4);
    cr_assert_eq(memcmp(cursor.value, "at 7", 4), 0);
    cr_assert(fold_holds(fold, "a", "1", "r1"));
    cr_assert(fold_holds(fold, "b", "", ""));
    cr_assert(fold_holds(fold, "c", NULL, ""));
    OK(pleat_fold_close(fold, &room.err));
    OK(pleat_fold_close(NULL, &room.err));
    room_end(&room);
}

Test(fold, applies_every_kind_in_order_under_one_sequence) {
    struct room room;
    room_begin(&room);
    struct pleat_fold *fold = fold_of(&room, NULL, PLEAT_ABSENT);
    struct pleat_fold_update updates[] = {
        put_of("deleted", "x", "1"),
        put_of("purged", "x", "1"),
        put_of("twice", "x", "1"),
        {PLEAT_FOLD_DELETE, TEXT("deleted"), NONE, NONE},
        {PLEAT_FOLD_PURGE, TEXT("purged"), NONE, NONE},
        {PLEAT_FOLD_DELETE, TEXT("was never there"), NONE, NONE},
        put_of("twice", "y", "2"),
    };
    OK(pleat_fold_apply(fold, updates, 7, TEXT("1"), NULL, &room.err));
    OK(pleat_fold_apply(fold, NULL, 0, TEXT("2"), NULL, &room.err));
    cr_assert(fold_holds(fold, "deleted", NULL, ""));
    cr_assert(fold_holds(fold, "purged", NULL, ""));
    cr_assert(fold_holds(fold, "twice", "y", "2"));
    struct pleat_cursor_value cursor;
    OK(pleat_fold_cursor(fold, PLEAT_APPLIED, &cursor, &room.err));
    cr_assert_eq(cursor.sequence, 2);
    OK(pleat_fold_sync(fold, &room.err));
    OK(pleat_fold_cursor(fold, PLEAT_DURABLE, &cursor, &room.err));
    cr_assert_eq(cursor.value[0], '2');
    OK(pleat_fold_settle(fold, NULL, NULL, &room.err));
    cr_assert(fold_holds(fold, "twice", "y", "2"));
    OK(pleat_fold_close(fold, &room.err));
    room_end(&room);
}

Test(fold, expected_cursor_is_a_fence) {
    struct room room;
    room_begin(&room);
    struct pleat_fold *fold = fold_of(&room, NULL, PLEAT_ABSENT);
    struct pleat_fold_update update = put_of("k", "v", "");
    struct pleat_slice none = NONE, one = TEXT("1"), empty = {"", 0};
    REFUSED(PLEAT_ERR_MISMATCH, "", pleat_fold_apply(fold, &update, 1, TEXT("2"), &one, &room.err));
    REFUSED(PLEAT_ERR_MISMATCH, "", pleat_fold_apply(fold, &update, 1, TEXT("2"), &empty, &room.err));
    cr_assert(fold_holds(fold, "k", NULL, ""));
    OK(pleat_fold_apply(fold, &update, 1, TEXT(""), &none, &room.err));
    REFUSED(PLEAT_ERR_MISMATCH, "", pleat_fold_apply(fold, &update, 1, TEXT("2"), &none, &room.err));
    OK(pleat_fold_apply(fold, &update, 1, TEXT("1"), &empty, &room.err));
    OK(pleat_fold_apply(fold, &update, 1, TEXT("2"), &one, &room.err));
    OK(pleat_fold_close(fold, &room.err));
    room_end(&room);
}

Test(fold, bad_update_is_named_by_its_index_and_nothing_is_applied) {
    struct room room;
    static char big[70000];
    struct pleat_cursor_value cursor;
    room_begin(&room);
    struct pleat_fold *fold = fold_of(&room, NULL, PLEAT_ABSENT);
    struct pleat_fold_update good = put_of("k", "v", "");
    struct pleat_fold_update bad[] = {
        {PLEAT_FOLD_PUT, {big, 65536}, TEXT("v"), NONE},  {(enum pleat_fold_kind)0, TEXT("k"), NONE, NONE},
        {(enum pleat_fold_kind)4, TEXT("k"), NONE, NONE}, {PLEAT_FOLD_PUT, {NULL, 3}, TEXT("v"), NONE},
        {PLEAT_FOLD_PUT, TEXT("k"), {NULL, 3}, NONE},     {PLEAT_FOLD_PUT, TEXT("k"), TEXT("v"), {big, 33}},
    };
    static const char *const parts[] = {"65536", "kind is 0", "kind is 4", "key is NULL", "value is NULL", "33"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct pleat_fold_update updates[] = {good, bad[i]};
        REFUSED(PLEAT_ERR_INVALID, "update 1 of 2", pleat_fold_apply(fold, updates, 2, TEXT("1"), NULL, &room.err));
        cr_assert_not_null(strstr(room.err.message, parts[i]), "\"%s\" without \"%s\"", room.err.message, parts[i]);
        cr_assert(fold_holds(fold, "k", NULL, ""));
    }
    REFUSED(PLEAT_ERR_INVALID, "1025",
            pleat_fold_apply(fold, &good, 1, (struct pleat_slice){big, 1025}, NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_fold_apply(fold, NULL, 1, TEXT("1"), NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_fold_apply(NULL, &good, 1, TEXT("1"), NULL, &room.err));
    cr_assert_eq(pleat_fold_cursor(fold, PLEAT_APPLIED, &cursor, &room.err), PLEAT_ABSENT);
    OK(pleat_fold_apply(fold, &good, 1, TEXT("1"), NULL, &room.err));
    OK(pleat_fold_close(fold, &room.err));
    room_end(&room);
}

static int collect(void *context, const struct pleat_row *row) {
    char *text = context;
    size_t used = strlen(text);
    (void)snprintf(text + used, 200 - used, "%.*s=%.*s@%.*s ", (int)row->key.bytes, (const char *)row->key.data,
                   (int)row->value.bytes, (const char *)row->value.data, (int)row->version.bytes,
                   (const char *)row->version.data);
    return strstr(text, "stop") != NULL ? -1000 : 0;
}

Test(fold, ranges_and_prefixes_are_streamed_in_order) {
    struct room room;
    char text[200] = "";
    room_begin(&room);
    struct pleat_fold *fold = NULL;
    struct pleat_fold_reader *reader;
    cr_assert_eq(pleat_fold_open(room.path, &room.options, '.', 1, &fold, NULL, &room.err), PLEAT_ABSENT);
    struct pleat_fold_update updates[] = {put_of("a.1", "1", "v"), put_of("a.2", "2", ""), put_of("b.1", "3", ""),
                                          put_of("c.1", "stop", "")};
    OK(pleat_fold_apply(fold, updates, 4, TEXT("1"), NULL, &room.err));
    OK(pleat_fold_reader_new(fold, &reader, &room.err));
    for (int round = 0; round < 2; round++) {
        text[0] = '\0';
        OK(pleat_fold_each(fold, TEXT("a."), collect, text, &room.err));
        cr_assert_str_eq(text, "a.1=1@v a.2=2@ ");
        text[0] = '\0';
        OK(pleat_fold_range(fold, TEXT("a.2"), TEXT("c"), 0, collect, text, &room.err));
        cr_assert_str_eq(text, "a.2=2@ b.1=3@ ");
        text[0] = '\0';
        OK(pleat_fold_range(fold, NONE, NONE, 2, collect, text, &room.err));
        cr_assert_str_eq(text, "a.1=1@v a.2=2@ ");
        text[0] = '\0';
        cr_assert_eq(pleat_fold_each(fold, NONE, collect, text, &room.err), -1000);
        text[0] = '\0';
        OK(pleat_fold_reader_each(reader, TEXT("b"), collect, text, &room.err));
        OK(pleat_fold_reader_range(reader, TEXT("a.2"), TEXT("b"), 0, collect, text, &room.err));
        cr_assert_str_eq(text, "b.1=3@ a.2=2@ ");
        OK(pleat_flush(pleat_fold_db(fold), &room.err));
    }
    pleat_fold_reader_free(reader);
    OK(pleat_fold_close(fold, &room.err));
    room_end(&room);
}

Test(fold, reader_outlives_its_owner_and_keeps_the_store_open) {
    struct room room;
    struct pleat_fold_reader *first, *second;
    struct pleat_cursor_value cursor;
    struct pleat_value value;
    struct pleat_fold *other = NULL;
    room_begin(&room);
    struct pleat_fold *fold = fold_of(&room, NULL, PLEAT_ABSENT);
    struct pleat_fold_update update = put_of("k", "v", "r9");
    OK(pleat_fold_apply(fold, &update, 1, TEXT("1"), NULL, &room.err));
    OK(pleat_fold_reader_new(fold, &first, &room.err));
    OK(pleat_fold_reader_new(fold, &second, &room.err));
    OK(pleat_fold_close(fold, &room.err));
    REFUSED(PLEAT_ERR_BUSY, "", pleat_fold_open(room.path, &room.options, 0, 0, &other, NULL, &room.err));
    cr_assert_null(other);
    OK(pleat_fold_reader_get(first, TEXT("k"), &value, &room.err));
    cr_assert_eq(value.version_bytes, 2);
    pleat_value_release(&value);
    pleat_fold_reader_free(first);
    OK(pleat_fold_reader_cursor(second, PLEAT_APPLIED, &cursor, &room.err));
    cr_assert_eq(cursor.value[0], '1');
    pleat_fold_reader_free(second);
    pleat_fold_reader_free(NULL);
    fold = fold_of(&room, &cursor, 0);
    cr_assert(fold_holds(fold, "k", "v", "r9"));
    OK(pleat_fold_close(fold, &room.err));
    room_end(&room);
}

Test(fold, close_is_refused_while_a_value_is_out_and_works_afterwards) {
    struct room room;
    static char big[2000];
    struct pleat_value value;
    room_begin(&room);
    memset(big, 'b', sizeof big - 1);
    struct pleat_fold *fold = fold_of(&room, NULL, PLEAT_ABSENT);
    struct pleat_fold_update update = put_of("k", big, "");
    OK(pleat_fold_apply(fold, &update, 1, TEXT("1"), NULL, &room.err));
    OK(pleat_fold_get(fold, TEXT("k"), &value, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "1 pinned", pleat_fold_close(fold, &room.err));
    OK(pleat_fold_apply(fold, &update, 1, TEXT("2"), NULL, &room.err)); /* a refused call changes nothing */
    pleat_value_release(&value);
    OK(pleat_fold_close(fold, &room.err));
    room_end(&room);
}

Test(fold, grouping_is_fixed_when_it_is_created) {
    struct room room;
    struct pleat_fold *fold = NULL;
    room_begin(&room);
    cr_assert_eq(pleat_fold_open(room.path, &room.options, '.', 2, &fold, NULL, &room.err), PLEAT_ABSENT);
    cr_assert_not_null(pleat_fold_space(fold));
    OK(pleat_fold_close(fold, &room.err));
    fold = NULL;
    REFUSED(PLEAT_ERR_INVALID, "group", pleat_fold_open(room.path, &room.options, '/', 2, &fold, NULL, &room.err));
    cr_assert_null(fold);
    cr_assert_eq(pleat_fold_open(room.path, &room.options, '.', 2, &fold, NULL, &room.err), PLEAT_ABSENT);
    OK(pleat_fold_close(fold, &room.err));
    room_end(&room);
}

Test(fold, grouped_fold_keeps_its_content_when_opened_without_groups) {
    struct room room;
    struct pleat_fold *fold = NULL;
    room_begin(&room);
    cr_assert_eq(pleat_fold_open(room.path, &room.options, '.', 2, &fold, NULL, &room.err), PLEAT_ABSENT);
    struct pleat_fold_update update = put_of("k", "v", "");
    OK(pleat_fold_apply(fold, &update, 1, TEXT("1"), NULL, &room.err));
    OK(pleat_fold_close(fold, &room.err));
    fold = NULL;
    OK(pleat_fold_open(room.path, &room.options, 0, 0, &fold, NULL, &room.err));
    cr_assert(fold_holds(fold, "k", "v", ""), "the cursor says 1, but the content is not there");
    OK(pleat_fold_close(fold, &room.err));
    room_end(&room);
}

Test(fold, begun_without_groups_is_not_continued_beside_its_content) {
    struct room room;
    struct pleat_fold *other = NULL;
    room_begin(&room);
    struct pleat_fold *fold = fold_of(&room, NULL, PLEAT_ABSENT);
    struct pleat_fold_update update = put_of("k", "v", "");
    OK(pleat_fold_apply(fold, &update, 1, TEXT("1"), NULL, &room.err));
    OK(pleat_fold_close(fold, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "group_delimiters is 2",
            pleat_fold_open(room.path, &room.options, '.', 2, &other, NULL, &room.err));
    cr_assert_null(other);
    room_end(&room);
}

Test(fold, null_handles_are_refused) {
    struct room room;
    struct pleat_fold_reader *reader;
    struct pleat_cursor_value cursor;
    struct pleat_value value;
    room_begin(&room);
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_fold_open(room.path, NULL, 0, 0, NULL, NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_fold_sync(NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_fold_settle(NULL, NULL, NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_fold_cursor(NULL, PLEAT_APPLIED, &cursor, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_fold_get(NULL, TEXT("k"), &value, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_fold_reader_new(NULL, &reader, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_fold_reader_get(NULL, TEXT("k"), &value, &room.err));
    cr_assert_null(pleat_fold_db(NULL));
    cr_assert_null(pleat_fold_space(NULL));
    room_end(&room);
}
