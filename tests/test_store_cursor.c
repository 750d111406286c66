/* test_store_cursor.c - the promises of pleat.h on cursors, fences, incarnations, durability and its modes. */
#include "support/store_room.h"

#include <inttypes.h>
#include <time.h>

static struct pleat_batch *batch_of(struct room *room) {
    struct pleat_batch *batch;
    cr_assert_eq(pleat_batch_new(room->db, &batch, &room->err), 0);
    return batch;
}

static bool cursor_is(struct room *room, enum pleat_position position, const char *name, const char *expected) {
    struct pleat_cursor_value cursor;
    int rc = pleat_cursor_read(room->db, text_slice(name), position, &cursor, &room->err);
    if (rc != 0) {
        return rc == PLEAT_ABSENT && expected == NULL && cursor.history > 0;
    }
    return expected != NULL && cursor.bytes == strlen(expected) && memcmp(cursor.value, expected, cursor.bytes) == 0;
}

/* ---- cursors ---------------------------------------------------------------------------------------------------- */

Test(cursor, absent_one_differs_from_an_empty_one) {
    struct room room;
    room_begin(&room);
    room_open(&room);
    cr_assert(cursor_is(&room, PLEAT_APPLIED, "", NULL));
    cr_assert(cursor_is(&room, PLEAT_DURABLE, "", NULL));
    (void)room_set_cursor(&room, "", "");
    for (int i = 0; i < 2; i++) {
        cr_assert(cursor_is(&room, PLEAT_APPLIED, "", ""));
        cr_assert(cursor_is(&room, PLEAT_APPLIED, "other", NULL));
        room_reopen(&room);
    }
    room_end(&room);
}

static int list_cursors(void *context, struct pleat_slice name, const struct pleat_cursor_value *cursor) {
    char *text = context;
    size_t used = strlen(text);
    (void)snprintf(text + used, 200 - used, "%.*s=%.*s;", (int)name.bytes, (const char *)name.data, (int)cursor->bytes,
                   (const char *)cursor->value);
    return strstr(text, "stop") != NULL ? 1234 : 0;
}

Test(cursor, named_ones_are_listed_in_byte_order) {
    struct room room;
    char text[200] = "";
    room_begin(&room);
    room_open(&room);
    (void)room_set_cursor(&room, "b", "2");
    (void)room_set_cursor(&room, "", "0");
    (void)room_set_cursor(&room, "aa", "1");
    (void)room_set_cursor(&room, "b", "22");
    OK(pleat_cursor_list(room.db, PLEAT_APPLIED, list_cursors, text, &room.err));
    cr_assert_str_eq(text, "=0;aa=1;b=22;");
    text[0] = '\0';
    OK(pleat_cursor_list(room.db, PLEAT_DURABLE, list_cursors, text, &room.err));
    cr_assert_str_eq(text, "", "nothing is durable yet");
    OK(pleat_sync(room.db, &room.err));
    OK(pleat_cursor_list(room.db, PLEAT_DURABLE, list_cursors, text, &room.err));
    cr_assert_str_eq(text, "=0;aa=1;b=22;");
    (void)room_set_cursor(&room, "a", "stop");
    text[0] = '\0';
    cr_assert_eq(pleat_cursor_list(room.db, PLEAT_APPLIED, list_cursors, text, &room.err), 1234);
    cr_assert_str_eq(text, "=0;a=stop;");
    room_end(&room);
}

Test(cursor, same_name_twice_in_a_batch_the_later_wins) {
    struct room room;
    room_begin(&room);
    room_open(&room);
    struct pleat_batch *batch = batch_of(&room);
    OK(pleat_batch_set_cursor(batch, &(struct pleat_cursor){.value = TEXT("first")}, &room.err));
    OK(pleat_batch_set_cursor(batch, &(struct pleat_cursor){.name = TEXT("n"), .value = TEXT("x")}, &room.err));
    OK(pleat_batch_set_cursor(batch, &(struct pleat_cursor){.value = TEXT("later")}, &room.err));
    OK(pleat_commit(room.db, batch, NULL, NULL, &room.err));
    pleat_batch_free(batch);
    for (int i = 0; i < 2; i++) {
        cr_assert(cursor_is(&room, PLEAT_APPLIED, "", "later"));
        cr_assert(cursor_is(&room, PLEAT_APPLIED, "n", "x"));
        room_reopen(&room);
    }
    room_end(&room);
}

/* The cursor and its incarnation are gone, in memory, from a killed store's log, and from the tables' manifest. */
Test(cursor, removed_one_is_as_if_it_had_never_been_set) {
    struct room room;
    room_begin(&room);
    room_open(&room);
    struct pleat_batch *batch = batch_of(&room);
    struct pleat_cursor cursor = {.name = TEXT("n"), .value = TEXT("x"), .incarnation = TEXT("stream-1")};
    OK(pleat_batch_set_cursor(batch, &cursor, &room.err));
    OK(pleat_commit(room.db, batch, NULL, NULL, &room.err));
    (void)room_set_cursor(&room, "m", "stays");
    pleat_batch_clear(batch);
    uint64_t before = room_sequence(&room, PLEAT_APPLIED), sequence;
    OK(pleat_batch_remove_cursor(batch, TEXT("n"), &room.err));
    OK(pleat_batch_remove_cursor(batch, TEXT("never was"), &room.err));
    cr_assert_eq(pleat_batch_count(batch), 0);
    struct pleat_snapshot *snapshot;
    OK(pleat_snapshot_new(room.db, &snapshot, &room.err));
    OK(pleat_commit(room.db, batch, NULL, &sequence, &room.err));
    cr_assert_eq(sequence, before + 1, "removing is a commit");
    struct pleat_cursor_value found;
    OK(pleat_snapshot_cursor(snapshot, TEXT("n"), &found, &room.err));
    cr_assert_eq(found.bytes, 1, "a snapshot keeps what it saw");
    pleat_snapshot_free(snapshot);
    cr_assert(cursor_is(&room, PLEAT_DURABLE, "n", NULL), "nothing is durable yet");
    pleat_batch_free(batch);
    for (int i = 0; i < 3; i++) {
        char text[200] = "";
        OK(pleat_sync(room.db, &room.err));
        for (int position = PLEAT_APPLIED; position <= PLEAT_DURABLE; position++) {
            cr_assert(cursor_is(&room, (enum pleat_position)position, "n", NULL));
            cr_assert(cursor_is(&room, (enum pleat_position)position, "m", "stays"));
        }
        OK(pleat_cursor_list(room.db, PLEAT_APPLIED, list_cursors, text, &room.err));
        cr_assert_str_eq(text, "m=stays;");
        if (i == 0) { /* a killed store's log */
            char path[sizeof room.path];
            room_copy(&room, "killed", path, sizeof path);
            room_close(&room);
            memcpy(room.path, path, sizeof path);
            room_open(&room);
        } else {
            room_reopen(&room);
        }
    }
    batch = batch_of(&room);
    cursor.incarnation = TEXT("stream-2"); /* would be refused beside the old one */
    OK(pleat_batch_set_cursor(batch, &cursor, &room.err));
    OK(pleat_commit(room.db, batch, NULL, NULL, &room.err));
    cr_assert(cursor_is(&room, PLEAT_APPLIED, "n", "x"));
    pleat_batch_free(batch);
    room_end(&room);
}

Test(cursor, set_and_removed_in_one_batch_the_later_wins) {
    struct room room;
    room_begin(&room);
    room_open(&room);
    (void)room_set_cursor(&room, "a", "1");
    struct pleat_batch *batch = batch_of(&room);
    struct pleat_cursor a = {.name = TEXT("a"), .value = TEXT("2")}, b = {.name = TEXT("b"), .value = TEXT("2")};
    OK(pleat_batch_remove_cursor(batch, TEXT("a"), &room.err));
    OK(pleat_batch_set_cursor(batch, &a, &room.err));
    OK(pleat_batch_set_cursor(batch, &b, &room.err));
    OK(pleat_batch_remove_cursor(batch, TEXT("b"), &room.err));
    OK(pleat_commit(room.db, batch, NULL, NULL, &room.err));
    pleat_batch_free(batch);
    for (int i = 0; i < 2; i++) {
        cr_assert(cursor_is(&room, PLEAT_APPLIED, "a", "2"));
        cr_assert(cursor_is(&room, PLEAT_APPLIED, "b", NULL));
        room_reopen(&room);
    }
    batch = batch_of(&room);
    static char name[256];
    REFUSED(PLEAT_ERR_INVALID, "256", pleat_batch_remove_cursor(batch, (struct pleat_slice){name, 256}, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_batch_remove_cursor(NULL, TEXT("a"), &room.err));
    pleat_batch_free(batch);
    room_end(&room);
}

Test(cursor, removing_makes_room_for_another_name) {
    struct room room;
    room_begin(&room);
    room_open(&room);
    struct pleat_batch *batch = batch_of(&room);
    for (unsigned i = 0; i < 1024; i++) {
        char name[8];
        (void)snprintf(name, sizeof name, "%04u", i);
        struct pleat_cursor cursor = {.name = text_slice(name), .value = TEXT("x")};
        OK(pleat_batch_set_cursor(batch, &cursor, &room.err));
    }
    OK(pleat_commit(room.db, batch, NULL, NULL, &room.err));
    pleat_batch_clear(batch);
    struct pleat_cursor one_more = {.name = TEXT("0500 and a half"), .value = TEXT("y")};
    OK(pleat_batch_set_cursor(batch, &one_more, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "1025", pleat_commit(room.db, batch, NULL, NULL, &room.err));
    OK(pleat_batch_remove_cursor(batch, TEXT("never was"), &room.err));
    REFUSED(PLEAT_ERR_INVALID, "1025", pleat_commit(room.db, batch, NULL, NULL, &room.err));
    OK(pleat_batch_remove_cursor(batch, TEXT("1000"), &room.err));
    OK(pleat_commit(room.db, batch, NULL, NULL, &room.err));
    pleat_batch_free(batch);
    for (int i = 0; i < 2; i++) {
        cr_assert(cursor_is(&room, PLEAT_APPLIED, "0500 and a half", "y"));
        cr_assert(cursor_is(&room, PLEAT_APPLIED, "1000", NULL));
        cr_assert(cursor_is(&room, PLEAT_APPLIED, "0999", "x"));
        cr_assert(cursor_is(&room, PLEAT_APPLIED, "1001", "x"));
        room_reopen(&room);
    }
    room_end(&room);
}

/* Applied already: no cursor that the batch removes is there, and what it sets is behind. Removals alone say nothing.
 */
Test(cursor, removing_is_skipped_with_what_the_batch_sets) {
    struct room room;
    room_begin(&room);
    room_open(&room);
    (void)room_set_cursor(&room, "a", "1");
    struct pleat_batch *batch = batch_of(&room);
    OK(pleat_batch_put(batch, room.space, TEXT("k"), TEXT("v"), &room.err));
    OK(pleat_batch_expect_cursor(batch, TEXT("a"), &TEXT("1"), &room.err));
    OK(pleat_batch_remove_cursor(batch, TEXT("a"), &room.err));
    OK(pleat_commit(room.db, batch, PLEAT_COMMIT_OPTIONS(.skip_if_applied = true), NULL, &room.err));
    cr_assert(room_holds(room.space, "k", "v"));
    REFUSED(PLEAT_ERR_MISMATCH, "none is stored", pleat_commit(room.db, batch, NULL, NULL, &room.err));
    pleat_batch_clear(batch);
    struct pleat_cursor b = {.name = TEXT("b"), .value = TEXT("1")};
    for (int i = 0; i < 2; i++) {
        pleat_batch_clear(batch);
        OK(pleat_batch_put(batch, room.space, TEXT("k"), TEXT("w"), &room.err));
        OK(pleat_batch_remove_cursor(batch, TEXT("a"), &room.err));
        OK(pleat_batch_set_cursor(batch, &b, &room.err));
        cr_assert_eq(pleat_commit(room.db, batch, PLEAT_COMMIT_OPTIONS(.skip_if_applied = true), NULL, &room.err),
                     i == 0 ? 0 : PLEAT_SKIPPED);
        cr_assert(room_holds(room.space, "k", i == 0 ? "w" : "x"));
        (void)room_put(&room, room.space, "k", "x");
    }
    (void)room_set_cursor(&room, "a", "2");
    OK(pleat_commit(room.db, batch, PLEAT_COMMIT_OPTIONS(.skip_if_applied = true), NULL, &room.err));
    cr_assert(cursor_is(&room, PLEAT_APPLIED, "a", NULL), "the cursor that it removes was there again");
    pleat_batch_clear(batch);
    OK(pleat_batch_delete(batch, room.space, TEXT("k"), &room.err));
    OK(pleat_batch_remove_cursor(batch, TEXT("never was"), &room.err));
    OK(pleat_commit(room.db, batch, PLEAT_COMMIT_OPTIONS(.skip_if_applied = true), NULL, &room.err));
    cr_assert(room_holds(room.space, "k", NULL), "what removes alone is never skipped");
    pleat_batch_free(batch);
    room_end(&room);
}

Test(cursor, of_the_longest_name_value_and_incarnation_comes_back) {
    struct room room;
    static char name[255], value[1024], incarnation[64];
    struct pleat_cursor_value found;
    room_begin(&room);
    room_open(&room);
    memset(name, 0xff, sizeof name);
    memset(value, 'v', sizeof value);
    memset(incarnation, 0, sizeof incarnation);
    struct pleat_batch *batch = batch_of(&room);
    struct pleat_cursor cursor = {{name, 255}, {value, 1024}, {incarnation, 64}, false};
    OK(pleat_batch_set_cursor(batch, &cursor, &room.err));
    OK(pleat_commit(room.db, batch, NULL, NULL, &room.err));
    pleat_batch_free(batch);
    for (int i = 0; i < 2; i++) {
        OK(pleat_cursor_read(room.db, cursor.name, PLEAT_APPLIED, &found, &room.err));
        cr_assert_eq(found.bytes, 1024);
        cr_assert_eq(memcmp(found.value, value, 1024), 0);
        cr_assert_eq(found.incarnation_bytes, 64);
        cr_assert_eq(memcmp(found.incarnation, incarnation, 64), 0);
        cr_assert_eq(found.sequence, 1);
        cr_assert_gt(found.history, 0);
        room_reopen(&room);
    }
    room_end(&room);
}

/* ---- fences ----------------------------------------------------------------------------------------------------- */

Test(fence, commit_that_expects_another_cursor_changes_nothing_and_learns_it) {
    struct room room;
    struct pleat_cursor_value actual;
    bool present = true;
    room_begin(&room);
    room_open(&room);
    struct pleat_batch *batch = batch_of(&room);
    struct pleat_commit_options options = {.size = sizeof options, .actual = &actual, .actual_present = &present};
    OK(pleat_batch_put(batch, room.space, TEXT("k"), TEXT("v"), &room.err));
    OK(pleat_batch_set_cursor(batch, &(struct pleat_cursor){.value = TEXT("2")}, &room.err));
    OK(pleat_batch_expect_cursor(batch, NONE, &TEXT("1"), &room.err));
    REFUSED(PLEAT_ERR_MISMATCH, "", pleat_commit(room.db, batch, &options, NULL, &room.err));
    cr_assert(!present);
    cr_assert_eq(room_sequence(&room, PLEAT_APPLIED), 0);
    cr_assert(room_holds(room.space, "k", NULL));
    (void)room_set_cursor(&room, "", "11");
    REFUSED(PLEAT_ERR_MISMATCH, "", pleat_commit(room.db, batch, &options, NULL, &room.err));
    cr_assert(present);
    cr_assert_eq(actual.bytes, 2);
    cr_assert_eq(memcmp(actual.value, "11", 2), 0);
    cr_assert_eq(actual.sequence, 1);
    (void)room_set_cursor(&room, "", "1");
    OK(pleat_commit(room.db, batch, &options, NULL, &room.err));
    cr_assert(cursor_is(&room, PLEAT_APPLIED, "", "2"));
    cr_assert(room_holds(room.space, "k", "v"));
    REFUSED(PLEAT_ERR_MISMATCH, "", pleat_commit(room.db, batch, NULL, NULL, &room.err));
    pleat_batch_free(batch);
    room_end(&room);
}

Test(fence, expecting_none_holds_only_before_the_first) {
    struct room room;
    room_begin(&room);
    room_open(&room);
    struct pleat_batch *batch = batch_of(&room);
    OK(pleat_batch_set_cursor(batch, &(struct pleat_cursor){.name = TEXT("n"), .value = TEXT("")}, &room.err));
    OK(pleat_batch_expect_cursor(batch, TEXT("n"), NULL, &room.err));
    OK(pleat_commit(room.db, batch, NULL, NULL, &room.err));
    REFUSED(PLEAT_ERR_MISMATCH, "", pleat_commit(room.db, batch, NULL, NULL, &room.err));
    pleat_batch_clear(batch);
    OK(pleat_batch_set_cursor(batch, &(struct pleat_cursor){.name = TEXT("n"), .value = TEXT("x")}, &room.err));
    OK(pleat_batch_expect_cursor(batch, TEXT("n"), &NONE, &room.err));
    OK(pleat_commit(room.db, batch, NULL, NULL, &room.err));
    room_reopen(&room);
    pleat_batch_free(batch);
    cr_assert(cursor_is(&room, PLEAT_APPLIED, "n", "x"));
    room_end(&room);
}

Test(fence, every_expectation_of_a_batch_must_hold) {
    struct room room;
    room_begin(&room);
    room_open(&room);
    (void)room_set_cursor(&room, "a", "1");
    struct pleat_batch *batch = batch_of(&room);
    OK(pleat_batch_put(batch, room.space, TEXT("k"), TEXT("v"), &room.err));
    OK(pleat_batch_expect_cursor(batch, TEXT("a"), &TEXT("1"), &room.err));
    OK(pleat_batch_expect_cursor(batch, TEXT("b"), &TEXT("1"), &room.err));
    REFUSED(PLEAT_ERR_MISMATCH, "", pleat_commit(room.db, batch, NULL, NULL, &room.err));
    cr_assert(room_holds(room.space, "k", NULL));
    (void)room_set_cursor(&room, "b", "1");
    OK(pleat_commit(room.db, batch, NULL, NULL, &room.err));
    pleat_batch_free(batch);
    room_end(&room);
}

Test(fence, batch_that_was_applied_before_is_skipped) {
    struct room room;
    room_begin(&room);
    room_open(&room);
    struct pleat_commit_options skip = {.size = sizeof skip, .skip_if_applied = true};
    struct pleat_batch *batch = batch_of(&room);
    OK(pleat_batch_put(batch, room.space, TEXT("k"), TEXT("v"), &room.err));
    OK(pleat_batch_set_cursor(batch, &(struct pleat_cursor){.value = TEXT("b")}, &room.err));
    OK(pleat_commit(room.db, batch, &skip, NULL, &room.err));
    uint64_t sequence = 99;
    cr_assert_eq(pleat_commit(room.db, batch, &skip, &sequence, &room.err), PLEAT_SKIPPED);
    cr_assert_eq(sequence, 99, "nothing is written");
    cr_assert_eq(room_sequence(&room, PLEAT_APPLIED), 1);
    OK(pleat_batch_set_cursor(batch, &(struct pleat_cursor){.value = TEXT("a")}, &room.err));
    cr_assert_eq(pleat_commit(room.db, batch, &skip, NULL, &room.err), PLEAT_SKIPPED, "an older one too");
    OK(pleat_batch_set_cursor(batch, &(struct pleat_cursor){.value = TEXT("")}, &room.err));
    cr_assert_eq(pleat_commit(room.db, batch, &skip, NULL, &room.err), PLEAT_SKIPPED);
    OK(pleat_batch_set_cursor(batch, &(struct pleat_cursor){.value = TEXT("b\0")}, &room.err));
    OK(pleat_commit(room.db, batch, &skip, NULL, &room.err));
    /* Of two cursors only one had been applied: not skipped. */
    OK(pleat_batch_set_cursor(batch, &(struct pleat_cursor){.name = TEXT("new"), .value = TEXT("a")}, &room.err));
    OK(pleat_commit(room.db, batch, &skip, NULL, &room.err));
    cr_assert_eq(pleat_commit(room.db, batch, &skip, NULL, &room.err), PLEAT_SKIPPED);
    /* Without a cursor there is nothing to compare. */
    pleat_batch_clear(batch);
    OK(pleat_batch_put(batch, room.space, TEXT("k"), TEXT("w"), &room.err));
    OK(pleat_commit(room.db, batch, &skip, NULL, &room.err));
    pleat_batch_free(batch);
    room_end(&room);
}

Test(fence, other_incarnation_is_refused_unless_replaced) {
    struct room room;
    struct pleat_cursor_value actual;
    bool present = false;
    room_begin(&room);
    room_open(&room);
    struct pleat_commit_options options = {.size = sizeof options, .actual = &actual, .actual_present = &present};
    struct pleat_batch *batch = batch_of(&room);
    struct pleat_cursor cursor = {.value = TEXT("1"), .incarnation = TEXT("stream one")};
    OK(pleat_batch_set_cursor(batch, &cursor, &room.err));
    OK(pleat_commit(room.db, batch, NULL, NULL, &room.err));
    room_reopen(&room);
    pleat_batch_free(batch);
    batch = batch_of(&room);
    cursor.incarnation = TEXT("stream two");
    OK(pleat_batch_set_cursor(batch, &cursor, &room.err));
    REFUSED(PLEAT_ERR_MISMATCH, "incarnation of 10 bytes is not the stored one of 10 bytes",
            pleat_commit(room.db, batch, &options, NULL, &room.err));
    cr_assert(present);
    cr_assert_eq(actual.incarnation_bytes, 10);
    cr_assert_eq(memcmp(actual.incarnation, "stream one", 10), 0);
    cr_assert_eq(room_sequence(&room, PLEAT_APPLIED), 1);
    cursor.replace_incarnation = true;
    OK(pleat_batch_set_cursor(batch, &cursor, &room.err));
    OK(pleat_commit(room.db, batch, NULL, NULL, &room.err));
    struct pleat_cursor_value found;
    OK(pleat_cursor_read(room.db, NONE, PLEAT_APPLIED, &found, &room.err));
    cr_assert_eq(memcmp(found.incarnation, "stream two", 10), 0);
    /* Not said: accepted, and the stored one is kept. */
    cursor = (struct pleat_cursor){.value = TEXT("2")};
    pleat_batch_clear(batch);
    OK(pleat_batch_set_cursor(batch, &cursor, &room.err));
    OK(pleat_commit(room.db, batch, NULL, NULL, &room.err));
    OK(pleat_cursor_read(room.db, NONE, PLEAT_APPLIED, &found, &room.err));
    cr_assert_eq(found.incarnation_bytes, 10, "what was not said is not forgotten");
    pleat_batch_free(batch);
    room_end(&room);
}

/* The new stream counts from its own beginning: its small positions were not applied before. */
Test(fence, batch_of_a_new_incarnation_is_not_skipped) {
    struct room room;
    room_begin(&room);
    room_open(&room);
    struct pleat_commit_options skip = {.size = sizeof skip, .skip_if_applied = true};
    struct pleat_cursor cursor = {.value = TEXT("0100"), .incarnation = TEXT("stream a")};
    struct pleat_batch *batch = batch_of(&room);
    OK(pleat_batch_set_cursor(batch, &cursor, &room.err));
    OK(pleat_commit(room.db, batch, &skip, NULL, &room.err));
    pleat_batch_clear(batch);
    cursor = (struct pleat_cursor){
        .value = TEXT("0001"), .incarnation = TEXT("stream b"), .replace_incarnation = true};
    OK(pleat_batch_put(batch, room.space, TEXT("key"), TEXT("of b"), &room.err));
    OK(pleat_batch_set_cursor(batch, &cursor, &room.err));
    OK(pleat_commit(room.db, batch, &skip, NULL, &room.err));
    cr_assert(cursor_is(&room, PLEAT_APPLIED, "", "0001"));
    struct pleat_value value;
    OK(pleat_get(room.space, NULL, TEXT("key"), &value, &room.err));
    pleat_value_release(&value);
    cr_assert_eq(pleat_commit(room.db, batch, &skip, NULL, &room.err), PLEAT_SKIPPED, "the same again");
    pleat_batch_free(batch);
    room_end(&room);
}

/* ---- durability ------------------------------------------------------------------------------------------------- */

Test(durable, lags_behind_applied_until_a_sync) {
    struct room room;
    room_begin(&room);
    room.options.durability = PLEAT_SYNC_NONE;
    room_open(&room);
    uint64_t sequence = room_set_cursor(&room, "", "1");
    cr_assert_eq(room_sequence(&room, PLEAT_APPLIED), sequence);
    cr_assert_eq(room_sequence(&room, PLEAT_DURABLE), 0);
    cr_assert(cursor_is(&room, PLEAT_APPLIED, "", "1"));
    cr_assert(cursor_is(&room, PLEAT_DURABLE, "", NULL));
    cr_assert_eq(pleat_wait_durable(room.db, sequence, 2, &room.err), PLEAT_TIMEOUT);
    REFUSED(PLEAT_ERR_INVALID, "2", pleat_wait_durable(room.db, sequence + 1, 0, &room.err));
    OK(pleat_sync(room.db, &room.err));
    OK(pleat_wait_durable(room.db, sequence, 0, &room.err));
    cr_assert_eq(room_sequence(&room, PLEAT_DURABLE), sequence);
    cr_assert(cursor_is(&room, PLEAT_DURABLE, "", "1"));
    (void)room_set_cursor(&room, "", "2");
    cr_assert(cursor_is(&room, PLEAT_DURABLE, "", "1"), "the durable cursor is the one of the durable state");
    OK(pleat_flush(room.db, &room.err));
    cr_assert(cursor_is(&room, PLEAT_DURABLE, "", "2"), "tables are durable too");
    (void)room_set_cursor(&room, "", "3");
    room_reopen(&room);
    cr_assert(cursor_is(&room, PLEAT_DURABLE, "", "3"), "and a close");
    room_end(&room);
}

Test(durable, sync_each_makes_one_sync_a_commit_of_one_writer) {
    struct room room;
    room_begin(&room);
    room.options.durability = PLEAT_SYNC_EACH;
    room_open(&room);
    for (uint64_t i = 1; i <= 20; i++) {
        cr_assert_eq(room_put(&room, room.space, "k", "v"), i);
        cr_assert_eq(room_sequence(&room, PLEAT_DURABLE), i);
        cr_assert_eq(room_stats(&room).syncs, i);
    }
    struct pleat_batch *batch = batch_of(&room);
    OK(pleat_batch_put(batch, room.space, TEXT("k"), TEXT("w"), &room.err));
    OK(pleat_commit(room.db, batch, PLEAT_COMMIT_OPTIONS(.sync = PLEAT_COMMIT_NO_SYNC), NULL, &room.err));
    cr_assert_eq(room_stats(&room).syncs, 20, "the commit's own wish goes before the mode");
    cr_assert_eq(room_sequence(&room, PLEAT_DURABLE), 20);
    OK(pleat_sync(room.db, &room.err));
    OK(pleat_sync(room.db, &room.err));
    cr_assert_eq(room_stats(&room).syncs, 21, "nothing to sync, no sync");
    pleat_batch_free(batch);
    room_end(&room);
}

Test(durable, commit_may_ask_for_a_sync_in_every_mode) {
    static const uint32_t modes[] = {PLEAT_SYNC_INTERVAL, PLEAT_SYNC_NONE, PLEAT_SYNC_EACH};
    for (int by_write = 0; by_write < 2; by_write++) {
        for (size_t i = 0; i < 3; i++) {
            struct room room;
            room_begin(&room);
            room.options.durability = modes[i];
            room.options.log_by_write = by_write == 1;
            room_open(&room);
            struct pleat_batch *batch = batch_of(&room);
            OK(pleat_batch_put(batch, room.space, TEXT("k"), TEXT("w"), &room.err));
            OK(pleat_commit(room.db, batch, PLEAT_COMMIT_OPTIONS(.sync = PLEAT_COMMIT_SYNC), NULL, &room.err));
            cr_assert_eq(room_sequence(&room, PLEAT_DURABLE), 1);
            pleat_batch_free(batch);
            room_reopen(&room);
            cr_assert(room_holds(room.space, "k", "w"));
            room_end(&room);
        }
    }
}

struct heard {
    uint64_t history, sequence, calls;
};

static void on_durable(void *context, uint64_t history, uint64_t sequence) {
    struct heard *heard = context;
    cr_assert_gt(sequence, heard->sequence, "it only advances");
    *heard = (struct heard){history, sequence, heard->calls + 1};
}

Test(durable, callback_hears_every_advance) {
    struct room room;
    struct heard heard = {0, 0, 0};
    room_begin(&room);
    room.options.on_durable = on_durable;
    room.options.on_durable_context = &heard;
    room.options.durability = PLEAT_SYNC_NONE;
    room_open(&room);
    (void)room_put(&room, room.space, "a", "1");
    cr_assert_eq(heard.calls, 0);
    OK(pleat_sync(room.db, &room.err));
    cr_assert_eq(heard.calls, 1);
    cr_assert_eq(heard.sequence, 1);
    uint64_t history;
    pleat_position_read(room.db, PLEAT_DURABLE, &history, NULL);
    cr_assert_eq(heard.history, history);
    OK(pleat_sync(room.db, &room.err));
    cr_assert_eq(heard.calls, 1);
    (void)room_put(&room, room.space, "b", "1");
    OK(pleat_flush(room.db, &room.err));
    cr_assert_eq(heard.sequence, 2);
    (void)room_put(&room, room.space, "c", "1");
    room_close(&room);
    cr_assert_eq(heard.sequence, 3);
    room_end(&room);
}

Test(durable, interval_makes_it_so_in_the_background) {
    struct room room;
    room_begin(&room);
    room.options.background = PLEAT_BACKGROUND_THREADS;
    room.options.sync_interval_ms = 20;
    room_open(&room);
    uint64_t sequence = room_set_cursor(&room, "", "1");
    OK(pleat_wait_durable(room.db, sequence, 10000, &room.err));
    cr_assert(cursor_is(&room, PLEAT_DURABLE, "", "1"));
    struct timespec pause = {0, 50000000};
    (void)nanosleep(&pause, NULL);
    uint64_t syncs = room_stats(&room).syncs;
    (void)nanosleep(&pause, NULL);
    (void)nanosleep(&pause, NULL);
    cr_assert_eq(room_stats(&room).syncs, syncs, "an idle store does not sync");
    sequence = room_set_cursor(&room, "", "2");
    OK(pleat_wait_durable(room.db, sequence, 10000, &room.err));
    room_end(&room);
}

Test(durable, interval_of_bytes_asks_for_a_sync) {
    struct room room;
    static char value[20000];
    room_begin(&room);
    memset(value, 'x', sizeof value - 1);
    room.options.background = PLEAT_BACKGROUND_THREADS;
    room.options.sync_interval_ms = 3600000;
    room.options.sync_interval_bytes = 10000;
    room.options.memtable_bytes = 16 << 20;
    room_open(&room);
    (void)room_put(&room, room.space, "before", "the first sync may be due at once");
    uint64_t sequence = room_put(&room, room.space, "big", value);
    OK(pleat_wait_durable(room.db, sequence, 10000, &room.err));
    room_end(&room);
}

Test(durable, step_mode_syncs_by_interval_in_a_step) {
    struct room room;
    room_begin(&room);
    room.options.sync_interval_ms = 1;
    room_open(&room);
    (void)room_put(&room, room.space, "k", "v");
    struct timespec pause = {0, 3000000};
    (void)nanosleep(&pause, NULL);
    OK(pleat_step(room.db, &room.err));
    cr_assert_eq(room_sequence(&room, PLEAT_DURABLE), 1);
    cr_assert_eq(pleat_step(room.db, &room.err), PLEAT_END);
    room_end(&room);
}
