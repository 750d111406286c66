/* test_store_read.c - the promises of pleat.h on reading: values, snapshots, iterators, scans, settling, statistics. */
#include "support/random.h"
#include "support/store_room.h"

#include <inttypes.h>

/* Commits `count` keys "k000".. with their number as value, over as many commits as asked for. */
static void fill(struct room *room, struct pleat_space *space, int first, int count, int step, const char *suffix) {
    for (int i = first; i < first + count; i += step) {
        char key[16], value[64];
        (void)snprintf(key, sizeof key, "k%03d", i);
        (void)snprintf(value, sizeof value, "%d%s", i, suffix);
        (void)room_put(room, space, key, value);
    }
}

/* ---- values ----------------------------------------------------------------------------------------------------- */

Test(value, pinned_content_stays_whatever_happens_to_the_store) {
    struct room room;
    struct pleat_value from_memtable, from_table;
    static char old[3000], new[3000];
    room_begin(&room);
    room_open(&room);
    memset(old, 'o', sizeof old - 1);
    memset(new, 'n', sizeof new - 1);
    (void)room_put(&room, room.space, "table", old);
    OK(pleat_flush(room.db, &room.err));
    (void)room_put(&room, room.space, "memory", old);
    OK(pleat_get(room.space, NULL, TEXT("table"), &from_table, &room.err));
    OK(pleat_get(room.space, NULL, TEXT("memory"), &from_memtable, &room.err));
    for (int round = 0; round < 4; round++) {
        (void)room_put(&room, room.space, "table", new);
        (void)room_put(&room, room.space, "memory", new);
        OK(pleat_flush(room.db, &room.err));
        OK(pleat_compact(room.space, NULL, NULL, &room.err));
        fill(&room, room.space, 0, 200, 1, "................................................");
        if (round == 2) {
            OK(pleat_space_clear(room.space, &room.err));
        }
        OK(pleat_settle(room.db, NULL, NULL, &room.err));
        cr_assert_eq(from_table.bytes, sizeof old - 1);
        cr_assert_eq(memcmp(from_table.data, old, sizeof old - 1), 0);
        cr_assert_eq(memcmp(from_memtable.data, old, sizeof old - 1), 0);
    }
    pleat_value_release(&from_table);
    pleat_value_release(&from_memtable);
    room_end(&room);
}

Test(value, of_every_size_comes_back_around_the_inline_limit) {
    struct room room;
    static char value[300 << 10];
    static const size_t sizes[] = {0, 1, 191, 192, 193, 8191, 8192, 8193, 65536, 300 << 10};
    struct pleat_value found;
    struct pleat_batch *batch;
    room_begin(&room);
    room_open(&room);
    memset(value, 'z', sizeof value);
    OK(pleat_batch_new(room.db, &batch, &room.err));
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        OK(pleat_batch_put(batch, room.space, (struct pleat_slice){&sizes[i], sizeof sizes[i]},
                           (struct pleat_slice){value, sizes[i]}, &room.err));
    }
    OK(pleat_commit(room.db, batch, NULL, NULL, &room.err));
    pleat_batch_free(batch);
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            OK(pleat_get(room.space, NULL, (struct pleat_slice){&sizes[i], sizeof sizes[i]}, &found, &room.err));
            cr_assert_eq(found.bytes, sizes[i]);
            cr_assert(sizes[i] == 0 || memcmp(found.data, value, sizes[i]) == 0);
            pleat_value_release(&found);
        }
        room_reopen(&room);
    }
    room_end(&room);
}

Test(value, get_into_copies_what_fits_and_says_the_full_length) {
    struct room room;
    char buffer[8];
    size_t bytes = 99;
    room_begin(&room);
    room_open(&room);
    (void)room_put(&room, room.space, "k", "0123456789");
    for (int round = 0; round < 2; round++) {
        memset(buffer, '#', sizeof buffer);
        OK(pleat_get_into(room.space, NULL, TEXT("k"), buffer, 4, &bytes, &room.err));
        cr_assert_eq(bytes, 10);
        cr_assert_eq(memcmp(buffer, "0123####", 8), 0);
        OK(pleat_get_into(room.space, NULL, TEXT("k"), NULL, 0, &bytes, &room.err));
        cr_assert_eq(bytes, 10);
        cr_assert_eq(pleat_get_into(room.space, NULL, TEXT("x"), buffer, 8, &bytes, &room.err), PLEAT_ABSENT);
        cr_assert_eq(pleat_exists(room.space, NULL, TEXT("k"), &room.err), 0);
        cr_assert_eq(pleat_exists(room.space, NULL, TEXT("x"), &room.err), PLEAT_ABSENT);
        OK(pleat_flush(room.db, &room.err));
    }
    room_end(&room);
}

Test(value, get_many_answers_each_key_at_one_position) {
    struct room room;
    struct pleat_snapshot *snapshot;
    struct pleat_slice keys[] = {TEXT("a"), TEXT("missing"), TEXT("b"), TEXT("a"), TEXT("big")};
    struct pleat_value values[5];
    static char big[1000];
    int status[5];
    room_begin(&room);
    room_open(&room);
    memset(big, 'x', sizeof big - 1);
    (void)room_put(&room, room.space, "a", "1");
    (void)room_put(&room, room.space, "big", big);
    OK(pleat_flush(room.db, &room.err));
    (void)room_put(&room, room.space, "b", "2");
    OK(pleat_snapshot_new(room.db, &snapshot, &room.err));
    (void)room_put(&room, room.space, "b", NULL);
    for (int round = 0; round < 2; round++) {
        OK(pleat_get_many(room.space, round == 0 ? snapshot : NULL, keys, 5, values, status, &room.err));
        static const int expected[2][5] = {{0, PLEAT_ABSENT, 0, 0, 0}, {0, PLEAT_ABSENT, PLEAT_ABSENT, 0, 0}};
        for (int i = 0; i < 5; i++) {
            cr_assert_eq(status[i], expected[round][i], "key %d: %d", i, status[i]);
            if (status[i] == 0) {
                pleat_value_release(&values[i]);
            }
        }
    }
    struct pleat_slice bad[] = {TEXT("big"), {NULL, 3}};
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_get_many(room.space, NULL, bad, 2, values, status, &room.err));
    OK(pleat_get_many(room.space, NULL, NULL, 0, NULL, NULL, &room.err));
    pleat_snapshot_free(snapshot);
    room_end(&room); /* closes: nothing is out */
}

/* Keys in both memtables' places and in tables of several levels, values that are copied and values that are pinned. */
static void fill_many(struct room *room, struct random *random) {
    static char long_value[900];
    memset(long_value, 'v', sizeof long_value - 1);
    for (int i = 0; i < 500; i++) {
        char key[16], value[32];
        (void)snprintf(key, sizeof key, "k%03d", (int)random_below(random, 200));
        (void)snprintf(value, sizeof value, "%d", i);
        uint64_t draw = random_below(random, 5);
        (void)room_put(room, room->space, key, draw == 0 ? NULL : draw == 1 ? long_value : value);
        if (i % 90 == 89) {
            cr_assert_eq(pleat_flush(room->db, &room->err), 0, "%s", room->err.message);
            cr_assert_geq(pleat_step(room->db, &room->err), 0, "%s", room->err.message);
        }
    }
}

Test(value, get_many_is_as_many_gets) {
    struct random random = random_begin("value/get_many");
    struct room room;
    struct pleat_snapshot *snapshot;
    enum { KEYS = 100 };
    static char texts[KEYS][16];
    struct pleat_slice keys[KEYS];
    static struct pleat_value values[KEYS];
    int status[KEYS];
    room_begin(&room);
    room_open(&room);
    fill_many(&room, &random);
    OK(pleat_snapshot_new(room.db, &snapshot, &room.err));
    fill_many(&room, &random);
    for (int round = 0; round < 40; round++) {
        size_t count = (size_t)random_below(&random, KEYS + 1);
        const struct pleat_snapshot *at = round % 2 == 0 ? snapshot : NULL;
        for (size_t i = 0; i < count; i++) { /* a third of them absent, some of them twice */
            (void)snprintf(texts[i], sizeof texts[i], "k%03d", (int)random_below(&random, 300));
            keys[i] = text_slice(texts[i]);
        }
        OK(pleat_get_many(room.space, at, keys, count, values, status, &room.err));
        for (size_t i = 0; i < count; i++) {
            struct pleat_value alone;
            int rc = pleat_get(room.space, at, keys[i], &alone, &room.err);
            cr_assert_eq(status[i], rc, "key %s of %zu: %d, alone %d", texts[i], count, status[i], rc);
            if (rc == 0) {
                cr_assert_eq(values[i].bytes, alone.bytes);
                cr_assert_eq(memcmp(values[i].data, alone.data, alone.bytes), 0);
                pleat_value_release(&alone);
                pleat_value_release(&values[i]);
            }
        }
    }
    pleat_snapshot_free(snapshot);
    room_end(&room); /* closes: nothing is out */
}

/* The first block of every table of the store, which no cache holds yet, becomes zeros. */
static void damage_tables(const struct room *room) {
    DIR *directory = opendir(room->path);
    cr_assert_not_null(directory);
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        if (strstr(entry->d_name, ".tbl") != NULL) {
            static const char zeros[64];
            int fd = openat(dirfd(directory), entry->d_name, O_WRONLY);
            cr_assert(fd >= 0);
            cr_assert_eq(pwrite(fd, zeros, sizeof zeros, 0), (ssize_t)sizeof zeros);
            (void)close(fd);
        }
    }
    (void)closedir(directory);
}

Test(value, a_get_many_that_fails_leaves_nothing_pinned) {
    struct room room;
    enum { KEYS = 40 };
    static char big[1000], texts[KEYS][16];
    struct pleat_slice keys[KEYS];
    static struct pleat_value values[KEYS];
    int status[KEYS];
    room_begin(&room);
    room_open(&room);
    memset(big, 'x', sizeof big - 1);
    (void)room_put(&room, room.space, "k030", "in a table");
    OK(pleat_flush(room.db, &room.err));
    damage_tables(&room);
    for (int i = 0; i < KEYS; i++) {
        (void)snprintf(texts[i], sizeof texts[i], "k%03d", i);
        keys[i] = text_slice(texts[i]);
        if (i != 30) {
            (void)room_put(&room, room.space, texts[i], big);
        }
    }
    REFUSED(PLEAT_ERR_CORRUPT, ".tbl", pleat_get_many(room.space, NULL, keys, KEYS, values, status, &room.err));
    OK(pleat_get_many(room.space, NULL, keys, 30, values, status, &room.err));
    for (int i = 0; i < 30; i++) {
        cr_assert_eq(status[i], 0);
        pleat_value_release(&values[i]);
    }
    room_end(&room); /* closes: nothing is out */
}

/* ---- snapshots -------------------------------------------------------------------------------------------------- */

Test(snapshot, never_changes) {
    struct room room;
    struct pleat_snapshot *snapshot;
    struct pleat_space *space;
    struct pleat_cursor_value cursor;
    room_begin(&room);
    room_open(&room);
    OK(pleat_space_open(room.db, TEXT("s"), NULL, &space, &room.err));
    (void)room_put(&room, room.space, "old", "1");
    OK(pleat_flush(room.db, &room.err));
    (void)room_put(&room, space, "k", "s");
    (void)room_put(&room, room.space, "k", "1");
    uint64_t sequence = room_set_cursor(&room, "", "c1");
    OK(pleat_snapshot_new(room.db, &snapshot, &room.err));
    cr_assert_eq(pleat_snapshot_sequence(snapshot), sequence);
    for (int event = 0; event < 7; event++) {
        if (event == 1) {
            (void)room_put(&room, room.space, "k", "2");
            (void)room_put(&room, room.space, "new", "2");
            (void)room_put(&room, room.space, "old", NULL);
            (void)room_set_cursor(&room, "", "c2");
        } else if (event == 2) {
            OK(pleat_flush(room.db, &room.err));
        } else if (event == 3) {
            OK(pleat_compact(room.space, NULL, NULL, &room.err));
        } else if (event == 4) {
            OK(pleat_space_clear(room.space, &room.err));
        } else if (event == 5) {
            OK(pleat_space_drop(space, &room.err));
        } else if (event == 6) {
            struct pleat_space *other; /* takes the slot of the dropped one */
            OK(pleat_space_open(room.db, TEXT("t"), NULL, &other, &room.err));
            (void)room_put(&room, other, "k", "t");
            cr_assert(room_holds_at(other, snapshot, "k", NULL), "the space was made after the snapshot");
        }
        cr_assert(room_holds_at(room.space, snapshot, "k", "1"), "event %d", event);
        cr_assert(room_holds_at(room.space, snapshot, "old", "1"), "event %d", event);
        cr_assert(room_holds_at(room.space, snapshot, "new", NULL), "event %d", event);
        cr_assert(room_holds_at(space, snapshot, "k", "s"), "event %d", event);
        OK(pleat_snapshot_cursor(snapshot, NONE, &cursor, &room.err));
        cr_assert_eq(memcmp(cursor.value, "c1", 2), 0);
        cr_assert_eq(cursor.sequence, sequence);
        cr_assert_eq(pleat_snapshot_cursor(snapshot, TEXT("none"), &cursor, &room.err), PLEAT_ABSENT);
        cr_assert_eq(room_stats(&room).snapshots, 1);
    }
    pleat_snapshot_free(snapshot);
    pleat_snapshot_free(NULL);
    room_end(&room);
}

/* ---- iterators -------------------------------------------------------------------------------------------------- */

#define WALK_BYTES 400

/* The keys that an iterator with these options shows, forward or backward. */
static void walk(struct room *room, const struct pleat_iter_options *options, bool forward, char *text) {
    struct pleat_iter *iter;
    int rc = pleat_iter_new(room->space, options, &iter, &room->err);
    cr_assert_eq(rc, 0, "%s", room->err.message);
    text[0] = '\0';
    rc = forward ? pleat_iter_first(iter, &room->err) : pleat_iter_last(iter, &room->err);
    while (rc == 0) {
        struct pleat_slice key = pleat_iter_key(iter);
        size_t used = strlen(text);
        for (size_t i = 0; i < key.bytes; i++) {
            int byte = ((const uint8_t *)key.data)[i];
            used += (size_t)snprintf(text + used, WALK_BYTES - used, byte > 32 && byte < 127 ? "%c" : "<%02x>", byte);
        }
        (void)snprintf(text + used, WALK_BYTES - used, ",");
        rc = forward ? pleat_iter_next(iter, &room->err) : pleat_iter_prev(iter, &room->err);
    }
    cr_assert_eq(rc, PLEAT_END);
    cr_assert_eq(pleat_iter_key(iter).bytes, 0);
    pleat_iter_free(iter);
}

struct shown {
    struct pleat_iter_options options;
    const char *forward, *backward;
};

Test(iterator, bounds_and_prefixes_are_exact_both_ways) {
    struct room room;
    char text[WALK_BYTES];
    static const struct shown rows[] = {
        {{0},
         ",<00>,a,aa,ab,b,<ff>,<ff><00>,<ff><ff>,<ff><ff><ff>,",
         "<ff><ff><ff>,<ff><ff>,<ff><00>,<ff>,b,ab,aa,a,<00>,,"},
        {{.prefix = {"", 0}, .has_lower = true},
         ",<00>,a,aa,ab,b,<ff>,<ff><00>,<ff><ff>,<ff><ff><ff>,",
         "<ff><ff><ff>,<ff><ff>,<ff><00>,<ff>,b,ab,aa,a,<00>,,"},
        {{.prefix = {"a", 1}}, "a,aa,ab,", "ab,aa,a,"},
        {{.prefix = {"\xff", 1}}, "<ff>,<ff><00>,<ff><ff>,<ff><ff><ff>,", "<ff><ff><ff>,<ff><ff>,<ff><00>,<ff>,"},
        {{.prefix = {"\xff\xff", 2}}, "<ff><ff>,<ff><ff><ff>,", "<ff><ff><ff>,<ff><ff>,"},
        {{.prefix = {"\xff\xff\xff\xff", 4}}, "", ""},
        {{.prefix = {"zz", 2}}, "", ""},
        {{.lower = {"a", 1}, .has_lower = true, .upper = {"b", 1}, .has_upper = true}, "a,aa,ab,", "ab,aa,a,"},
        {{.lower = {"b", 1}, .has_lower = true, .upper = {"a", 1}, .has_upper = true}, "", ""},
        {{.lower = {"a", 1}, .has_lower = true, .upper = {"a", 1}, .has_upper = true}, "", ""},
        {{.upper = {"", 0}, .has_upper = true}, "", ""},
        {{.upper = {"\0", 1}, .has_upper = true}, ",", ","},
        {{.lower = {"\0", 1}, .has_lower = true, .upper = {"a", 1}, .has_upper = true}, "<00>,", "<00>,"},
        {{.lower = {"aab", 3}, .has_lower = true, .prefix = {"a", 1}}, "ab,", "ab,"},
        {{.upper = {"ab", 2}, .has_upper = true, .prefix = {"a", 1}}, "a,aa,", "aa,a,"},
        {{.lower = {"b", 1}, .has_lower = true, .prefix = {"a", 1}}, "", ""},
        {{.upper = {"a", 1}, .has_upper = true, .prefix = {"a", 1}}, "", ""},
        {{.upper = {"\xff\xff", 2}, .has_upper = true, .prefix = {"\xff", 1}}, "<ff>,<ff><00>,", "<ff><00>,<ff>,"},
    };
    static const struct pleat_slice keys[] = {{"", 0},       {"\0", 1},       {"a", 1},           {"aa", 2},
                                              {"ab", 2},     {"b", 1},        {"dead", 4},        {"\xff", 1},
                                              {"\xff\0", 2}, {"\xff\xff", 2}, {"\xff\xff\xff", 3}};
    room_begin(&room);
    room_open(&room);
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        struct pleat_batch *batch;
        OK(pleat_batch_new(room.db, &batch, &room.err));
        OK(pleat_batch_put(batch, room.space, keys[i], TEXT("v"), &room.err));
        OK(pleat_commit(room.db, batch, NULL, NULL, &room.err));
        pleat_batch_free(batch);
        if (i == 4 || i == 8) {
            OK(pleat_flush(room.db, &room.err));
        }
    }
    (void)room_put(&room, room.space, "dead", NULL);
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
            struct pleat_iter_options options = rows[i].options;
            options.size = sizeof options;
            options.keys_only = round == 1;
            walk(&room, &options, true, text);
            cr_assert_str_eq(text, rows[i].forward, "round %d, row %zu: %s", round, i, text);
            walk(&room, &options, false, text);
            cr_assert_str_eq(text, rows[i].backward, "round %d, row %zu backward: %s", round, i, text);
        }
        if (round == 1) {
            OK(pleat_compact(room.space, NULL, NULL, &room.err));
        }
    }
    room_end(&room);
}

Test(iterator, turns_at_both_ends) {
    struct room room;
    struct pleat_iter *iter;
    room_begin(&room);
    room_open(&room);
    (void)room_put(&room, room.space, "a", "1");
    (void)room_put(&room, room.space, "b", "2");
    OK(pleat_iter_new(room.space, NULL, &iter, &room.err));
    cr_assert_eq(pleat_iter_next(iter, &room.err), PLEAT_END, "on no entry until it is positioned");
    cr_assert_eq(pleat_iter_prev(iter, &room.err), PLEAT_END);
    cr_assert_eq(pleat_iter_key(iter).bytes, 0);
    OK(pleat_iter_last(iter, &room.err));
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(pleat_iter_next(iter, &room.err), PLEAT_END);
        cr_assert_eq(pleat_iter_next(iter, &room.err), PLEAT_END);
        OK(pleat_iter_prev(iter, &room.err));
        cr_assert_eq(memcmp(pleat_iter_key(iter).data, "b", 1), 0);
        OK(pleat_iter_prev(iter, &room.err));
        cr_assert_eq(memcmp(pleat_iter_value(iter).data, "1", 1), 0);
        cr_assert_eq(pleat_iter_prev(iter, &room.err), PLEAT_END);
        cr_assert_eq(pleat_iter_prev(iter, &room.err), PLEAT_END);
        OK(pleat_iter_next(iter, &room.err));
        cr_assert_eq(memcmp(pleat_iter_key(iter).data, "a", 1), 0);
        OK(pleat_iter_next(iter, &room.err));
    }
    OK(pleat_iter_seek(iter, TEXT("aa"), &room.err));
    cr_assert_eq(memcmp(pleat_iter_key(iter).data, "b", 1), 0);
    OK(pleat_iter_seek(iter, NONE, &room.err));
    cr_assert_eq(memcmp(pleat_iter_key(iter).data, "a", 1), 0);
    OK(pleat_iter_seek_before(iter, TEXT("b"), &room.err));
    cr_assert_eq(memcmp(pleat_iter_key(iter).data, "a", 1), 0);
    cr_assert_eq(pleat_iter_seek_before(iter, TEXT("a"), &room.err), PLEAT_END);
    OK(pleat_iter_next(iter, &room.err));
    cr_assert_eq(pleat_iter_seek(iter, TEXT("c"), &room.err), PLEAT_END);
    OK(pleat_iter_prev(iter, &room.err));
    pleat_iter_free(iter);
    pleat_iter_free(NULL);
    room_end(&room);
}

Test(iterator, shows_its_own_state_while_all_is_deleted_under_it) {
    struct room room;
    struct pleat_iter *iter;
    room_begin(&room);
    room_open(&room);
    fill(&room, room.space, 0, 50, 1, "");
    OK(pleat_flush(room.db, &room.err));
    fill(&room, room.space, 50, 50, 1, "");
    OK(pleat_iter_new(room.space, NULL, &iter, &room.err));
    int rc = pleat_iter_first(iter, &room.err), count = 0;
    for (; rc == 0; rc = pleat_iter_next(iter, &room.err)) {
        char key[16];
        struct pleat_slice at = pleat_iter_key(iter);
        int bytes = snprintf(key, sizeof key, "k%03d", count);
        cr_assert(at.bytes == (size_t)bytes && memcmp(at.data, key, at.bytes) == 0);
        (void)room_put(&room, room.space, key, NULL);
        if (count % 25 == 7) {
            OK(pleat_flush(room.db, &room.err));
            OK(pleat_compact(room.space, NULL, NULL, &room.err));
        }
        count++;
    }
    cr_assert_eq(rc, PLEAT_END);
    cr_assert_eq(count, 100);
    pleat_iter_free(iter);
    OK(pleat_iter_new(room.space, NULL, &iter, &room.err));
    cr_assert_eq(pleat_iter_first(iter, &room.err), PLEAT_END);
    cr_assert_eq(pleat_iter_last(iter, &room.err), PLEAT_END);
    pleat_iter_free(iter);
    room_end(&room);
}

Test(iterator, key_only_one_shows_no_values_versions_or_flags) {
    struct room room;
    struct pleat_iter *iter;
    struct pleat_batch *batch;
    uint8_t flag = 0;
    room_begin(&room);
    room_open(&room);
    OK(pleat_batch_new(room.db, &batch, &room.err));
    OK(pleat_batch_put_with(batch, room.space, TEXT("k"), TEXT("v"), &(struct pleat_attributes){TEXT("ver"), true, 9},
                            &room.err));
    OK(pleat_commit(room.db, batch, NULL, NULL, &room.err));
    pleat_batch_free(batch);
    for (int round = 0; round < 2; round++) {
        OK(pleat_iter_new(room.space, PLEAT_ITER_OPTIONS(.keys_only = true), &iter, &room.err));
        OK(pleat_iter_first(iter, &room.err));
        cr_assert_eq(pleat_iter_key(iter).bytes, 1);
        cr_assert_eq(pleat_iter_value(iter).bytes, 0);
        cr_assert_eq(pleat_iter_version(iter).bytes, 0);
        cr_assert(!pleat_iter_flag(iter, &flag));
        pleat_iter_free(iter);
        OK(pleat_iter_new(room.space, NULL, &iter, &room.err));
        OK(pleat_iter_last(iter, &room.err));
        cr_assert_eq(pleat_iter_value(iter).bytes, 1);
        cr_assert_eq(pleat_iter_version(iter).bytes, 3);
        cr_assert(pleat_iter_flag(iter, &flag));
        cr_assert_eq(flag, 9);
        pleat_iter_free(iter);
        OK(pleat_flush(room.db, &room.err));
    }
    room_end(&room);
}

/* ---- scans ------------------------------------------------------------------------------------------------------ */

struct scan {
    struct room *room;
    int count, stop_at, answer, first, last;
    bool writes;
};

static int scan_row(void *context, const struct pleat_row *row) {
    struct scan *scan = context;
    char key[16];
    (void)snprintf(key, sizeof key, "%.*s", (int)row->key.bytes, (const char *)row->key.data);
    scan->first = scan->count == 0 ? atoi(key + 1) : scan->first;
    scan->last = atoi(key + 1);
    scan->count++;
    if (scan->writes) {
        cr_assert(room_holds(scan->room->space, "never", NULL));
        (void)room_put(scan->room, scan->room->space, key, NULL);
        (void)room_put(scan->room, scan->room->space, "z", key);
        if (scan->count % 20 == 0) {
            cr_assert_eq(pleat_flush(scan->room->db, NULL), 0);
            cr_assert_eq(pleat_settle(scan->room->db, NULL, NULL, NULL), 0);
        }
    }
    return scan->count == scan->stop_at ? scan->answer : 0;
}

Test(scan, hands_on_the_return_of_the_callback_unchanged) {
    struct room room;
    static const int answers[] = {1, 2, 3, -1, -3, INT32_MAX, INT32_MIN};
    room_begin(&room);
    room_open(&room);
    fill(&room, room.space, 0, 60, 1, "");
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        struct scan scan = {.stop_at = 10, .answer = answers[i]};
        cr_assert_eq(pleat_scan(room.space, NULL, scan_row, &scan, &room.err), answers[i]);
        cr_assert_eq(scan.count, 10);
    }
    struct scan all = {0}, limited = {0}, reverse = {0}, fewer = {0};
    OK(pleat_scan(room.space, NULL, scan_row, &all, &room.err));
    cr_assert_eq(all.count, 60);
    OK(pleat_scan(room.space, PLEAT_ITER_OPTIONS(.limit = 7), scan_row, &limited, &room.err));
    cr_assert(limited.count == 7 && limited.first == 0 && limited.last == 6);
    OK(pleat_scan(room.space, PLEAT_ITER_OPTIONS(.limit = 7, .reverse = true), scan_row, &reverse, &room.err));
    cr_assert(reverse.count == 7 && reverse.first == 59 && reverse.last == 53);
    OK(pleat_scan(room.space, PLEAT_ITER_OPTIONS(.limit = 1000, .prefix = TEXT("k00")), scan_row, &fewer, &room.err));
    cr_assert_eq(fewer.count, 10);
    room_end(&room);
}

Test(scan, callback_may_write_and_sees_the_state_at_the_call) {
    for (int mode = 0; mode < 2; mode++) {
        struct room room;
        room_begin(&room);
        room.options.background = mode == 0 ? PLEAT_BACKGROUND_STEPS : PLEAT_BACKGROUND_THREADS;
        room.options.memtable_bytes = 4096;
        room_open(&room);
        fill(&room, room.space, 0, 100, 1, "");
        struct scan scan = {.room = &room, .writes = true};
        OK(pleat_scan(room.space, PLEAT_ITER_OPTIONS(.upper = TEXT("y"), .has_upper = true), scan_row, &scan,
                      &room.err));
        cr_assert_eq(scan.count, 100);
        struct scan after = {0};
        OK(pleat_scan(room.space, PLEAT_ITER_OPTIONS(.upper = TEXT("y"), .has_upper = true), scan_row, &after,
                      &room.err));
        cr_assert_eq(after.count, 0);
        cr_assert(room_holds(room.space, "z", "k099"));
        room_end(&room);
    }
}

/* ---- reads over many layers ------------------------------------------------------------------------------------- */

#define LAYER_GROUPS 6
#define LAYER_KEYS 120 /* 20 a group */
#define LAYERS 19      /* runs in level 0: reads merge up to as many sources, and two more */

struct layers {
    struct room room;
    struct random random;
    struct pleat_space *space;
    struct pleat_snapshot *snapshot;
    int now[LAYER_KEYS]; /* 0: absent */
    int then[LAYER_KEYS]; /* at the snapshot */
};

/* What a read has to show, and how far it has come. */
struct expected {
    const int *values;
    int at, end, step; /* key numbers, in the direction of the read */
    bool keys_only;
};

#define LAYER_KEY_BYTES 32

static void layer_key(int number, char *key) {
    (void)snprintf(key, LAYER_KEY_BYTES, "g%d.key%03d", number / 20, number);
}

static int expected_row(void *context, const struct pleat_row *row) {
    struct expected *expected = context;
    char key[LAYER_KEY_BYTES], value[16];
    while (expected->at != expected->end && expected->values[expected->at] == 0) {
        expected->at += expected->step;
    }
    cr_assert_neq(expected->at, expected->end, "%.*s too much", (int)row->key.bytes, (const char *)row->key.data);
    layer_key(expected->at, key);
    (void)snprintf(value, sizeof value, "%d", expected->values[expected->at]);
    expected->at += expected->step;
    cr_assert(row->key.bytes == strlen(key) && memcmp(row->key.data, key, row->key.bytes) == 0);
    cr_assert_eq(row->value.bytes, expected->keys_only ? 0 : strlen(value), "%s", key);
    cr_assert(expected->keys_only || memcmp(row->value.data, value, row->value.bytes) == 0, "%s", key);
    return 0;
}

/* A scan of a group or of any range, of now or of the snapshot; then the same by an iterator that turns at will. */
static void layers_read(struct layers *layers) {
    struct room *room = &layers->room;
    struct random *random = &layers->random;
    char lower[LAYER_KEY_BYTES], upper[LAYER_KEY_BYTES], prefix[16];
    bool of_group = random_below(random, 2) == 0;
    bool at_snapshot = layers->snapshot != NULL && random_below(random, 3) == 0;
    int group = (int)random_below(random, LAYER_GROUPS);
    int low = of_group ? group * 20 : (int)random_below(random, LAYER_KEYS);
    int high = of_group ? low + 20 : low + (int)random_below(random, (uint64_t)(LAYER_KEYS - low) + 1);
    struct pleat_iter_options options = {.size = sizeof options,
                                         .snapshot = at_snapshot ? layers->snapshot : NULL,
                                         .keys_only = random_below(random, 4) == 0,
                                         .reverse = random_below(random, 2) == 0};
    (void)snprintf(prefix, sizeof prefix, "g%d.", group);
    layer_key(low, lower);
    layer_key(high, upper);
    options.prefix = of_group ? text_slice(prefix) : NONE;
    options.has_lower = options.has_upper = !of_group;
    options.lower = text_slice(lower);
    options.upper = text_slice(upper);
    const int *values = at_snapshot ? layers->then : layers->now;
    struct expected expected = {.values = values, .keys_only = options.keys_only};
    expected.at = options.reverse ? high - 1 : low;
    expected.end = options.reverse ? low - 1 : high;
    expected.step = options.reverse ? -1 : 1;
    cr_assert_eq(pleat_scan(layers->space, &options, expected_row, &expected, &room->err), 0, "%s", room->err.message);
    for (; expected.at != expected.end; expected.at += expected.step) {
        cr_assert_eq(values[expected.at], 0, "key %d is missing", expected.at);
    }
    struct pleat_iter *iter;
    cr_assert_eq(pleat_iter_new(layers->space, &options, &iter, &room->err), 0);
    int at = low - 1, rc = pleat_iter_first(iter, &room->err);
    bool forward = true;
    for (int move = 0; move < 40; move++) {
        do {
            at += forward ? 1 : -1;
        } while (at >= low && at < high && values[at] == 0);
        cr_assert_eq(rc, at >= low && at < high ? 0 : PLEAT_END, "move %d", move);
        if (rc == 0) {
            char key[LAYER_KEY_BYTES];
            layer_key(at, key);
            cr_assert_eq(memcmp(pleat_iter_key(iter).data, key, strlen(key)), 0);
        }
        forward = rc != 0 ? !forward : random_below(random, 5) == 0 ? !forward : forward;
        rc = forward ? pleat_iter_next(iter, &room->err) : pleat_iter_prev(iter, &room->err);
    }
    pleat_iter_free(iter);
}

/* Puts and deletes in a third of the keys. */
static void layers_write(struct layers *layers, int layer) {
    for (int i = 0; i < LAYER_KEYS; i++) {
        if (random_below(&layers->random, 3) == 0) {
            char key[LAYER_KEY_BYTES], value[16];
            bool deletes = random_below(&layers->random, 3) == 0;
            layers->now[i] = deletes ? 0 : layer * 1000 + i + 1;
            layer_key(i, key);
            (void)snprintf(value, sizeof value, "%d", layers->now[i]);
            (void)room_put(&layers->room, layers->space, key, deletes ? NULL : value);
        }
    }
}

Test(scan, over_any_number_of_layers_shows_the_newest_both_ways) {
    struct layers layers = {.random = random_begin("store/layers")};
    struct room room;
    room_begin(&room);
    room.options.level0_tables = 16; /* nothing is merged before it is asked for */
    room_open(&room);
    layers.room = room;
    OK(pleat_space_open(room.db, TEXT("s"), PLEAT_SPACE_OPTIONS(.group_delimiter = '.', .group_delimiters = 1),
                        &layers.space, &layers.room.err));
    for (int layer = 0; layer < 2 * LAYERS; layer++) {
        layers_write(&layers, layer);
        for (int i = 0; i < 30; i++) {
            layers_read(&layers);
        }
        if (layer == 2) {
            OK(pleat_snapshot_new(room.db, &layers.snapshot, &room.err));
            memcpy(layers.then, layers.now, sizeof layers.then);
        }
        OK(pleat_flush(room.db, &room.err));
        if (layer == 1) {
            OK(pleat_compact(layers.space, NULL, NULL, &room.err));
        } else if (layer == LAYERS + 1) {
            OK(pleat_space_clear(layers.space, &room.err));
            memset(layers.now, 0, sizeof layers.now);
        }
    }
    pleat_snapshot_free(layers.snapshot);
    room_end(&room);
}

/* ---- settling --------------------------------------------------------------------------------------------------- */

static int count_progress(void *context, const struct pleat_progress *progress) {
    int *calls = context;
    (void)progress;
    ++*calls;
    return *calls < 0 ? 5 : 0;
}

Test(settle, leaves_no_debt_and_can_be_cancelled) {
    for (int mode = 0; mode < 2; mode++) {
        struct room room;
        int calls = 0, cancel = -1000000;
        room_begin(&room);
        room.options.background = mode == 0 ? PLEAT_BACKGROUND_STEPS : PLEAT_BACKGROUND_THREADS;
        room.options.memtable_bytes = 4096;
        room.options.table_bytes = 2048;
        room.options.level_base_bytes = 4096;
        room.options.level_ratio = 2;
        room_open(&room);
        for (int round = 0; round < 4; round++) {
            fill(&room, room.space, 0, 300, 1, "..............................................");
        }
        if (mode == 0) {
            REFUSED(PLEAT_ERR_CANCELLED, "", pleat_settle(room.db, count_progress, &cancel, &room.err));
        }
        OK(pleat_settle(room.db, count_progress, &calls, &room.err));
        struct pleat_stats stats = room_stats(&room);
        cr_assert_eq(stats.debt_bytes, 0);
        cr_assert_eq(stats.memtable_entries, 0);
        cr_assert_eq(stats.frozen_bytes, 0);
        cr_assert_geq(stats.flushes, 1);
        cr_assert_eq(stats.durable_sequence, stats.applied_sequence);
        struct pleat_check check;
        OK(pleat_check(room.db, &check, &room.err));
        cr_assert_gt(check.tables, 0);
        cr_assert_geq(check.entries, 300);
        OK(pleat_compact(room.space, NULL, NULL, &room.err));
        OK(pleat_check(room.db, &check, &room.err));
        cr_assert_eq(check.entries, 300, "one version of each key is left");
        stats = room_stats(&room);
        cr_assert_eq(stats.levels[0].tables, 0);
        cr_assert_eq(stats.levels[6].entries + stats.levels[5].entries + stats.levels[4].entries +
                         stats.levels[3].entries + stats.levels[2].entries + stats.levels[1].entries,
                     300);
        for (int i = 0; i < 300; i++) {
            char key[16];
            (void)snprintf(key, sizeof key, "k%03d", i);
            cr_assert_eq(pleat_exists(room.space, NULL, text_slice(key), &room.err), 0);
            (void)room_put(&room, room.space, key, NULL);
        }
        OK(pleat_compact(room.space, NULL, NULL, &room.err));
        OK(pleat_check(room.db, &check, &room.err));
        cr_assert_eq(check.entries, 0, "tombstones with nothing below them are dropped");
        room_end(&room);
    }
}

Test(settle, steps_run_one_job_each_until_nothing_is_left) {
    struct room room;
    int steps = 0;
    room_begin(&room);
    room.options.memtable_bytes = 4096;
    room.options.table_bytes = 2048;
    room.options.level_base_bytes = 4096;
    room.options.durability = PLEAT_SYNC_NONE;
    room_open(&room);
    for (int round = 0; round < 4; round++) {
        fill(&room, room.space, 0, 200, 1, "..............................................");
    }
    int rc;
    while ((rc = pleat_step(room.db, &room.err)) == 0) {
        cr_assert_lt(++steps, 1000);
    }
    cr_assert_eq(rc, PLEAT_END);
    cr_assert_gt(steps, 0);
    room_close(&room);
    room.options.background = PLEAT_BACKGROUND_THREADS;
    room_open(&room);
    REFUSED(PLEAT_ERR_INVALID, "PLEAT_BACKGROUND_STEPS", pleat_step(room.db, &room.err));
    room_end(&room);
}

/* ---- statistics ------------------------------------------------------------------------------------------------- */

Test(stats, count_what_was_given_and_written) {
    struct room room;
    struct pleat_batch *batch;
    room_begin(&room);
    room_open(&room);
    OK(pleat_batch_new(room.db, &batch, &room.err));
    OK(pleat_batch_put(batch, room.space, TEXT("key"), TEXT("value"), &room.err));
    OK(pleat_batch_delete(batch, room.space, TEXT("other"), &room.err));
    OK(pleat_commit(room.db, batch, NULL, NULL, &room.err));
    OK(pleat_commit(room.db, batch, NULL, NULL, &room.err));
    pleat_batch_free(batch);
    struct pleat_stats stats = room_stats(&room);
    cr_assert_eq(stats.commits, 2);
    cr_assert_eq(stats.updates, 4);
    cr_assert_eq(stats.bytes_given, 2 * (3 + 5 + 5));
    cr_assert_gt(stats.bytes_log, stats.bytes_given);
    cr_assert_eq(stats.applied_sequence, 2);
    cr_assert_eq(stats.memtable_entries, 4);
    cr_assert_eq(stats.spaces, 1);
    cr_assert_eq(stats.flushes, 0);
    cr_assert_eq(stats.cache_capacity_bytes, 1 << 20);
    cr_assert_eq(stats.size, sizeof stats);
    OK(pleat_flush(room.db, &room.err));
    stats = room_stats(&room);
    cr_assert_eq(stats.flushes, 1);
    cr_assert_gt(stats.bytes_flushed, 0);
    cr_assert_eq(stats.memtable_entries, 0);
    uint64_t tables = 0;
    for (int i = 0; i < PLEAT_LEVELS; i++) {
        tables += stats.levels[i].tables;
    }
    cr_assert_eq(tables, 1);
    /* A caller of an older header: only what it has room for is written. */
    struct pleat_stats small;
    memset(&small, 0x5a, sizeof small);
    small.size = offsetof(struct pleat_stats, durable_sequence);
    OK(pleat_stats_read(room.db, &small, &room.err));
    cr_assert_eq(small.applied_sequence, 2);
    cr_assert_eq(small.durable_sequence, 0x5a5a5a5a5a5a5a5a);
    cr_assert_eq(small.size, offsetof(struct pleat_stats, durable_sequence));
    room_end(&room);
}

/* A tree that is written over and settled, so that every block of it is replaced. */
static void rewrite(struct room *room, int step) {
    fill(room, room->space, 0, 1000, step, ".......................................................");
    cr_assert_eq(pleat_flush(room->db, &room->err), 0, "%s", room->err.message);
    cr_assert_eq(pleat_settle(room->db, NULL, NULL, &room->err), 0, "%s", room->err.message);
}

static uint64_t misses_of_all_keys(struct room *room) {
    uint64_t before = room_stats(room).cache_misses;
    for (int i = 0; i < 1000; i++) {
        char key[16];
        (void)snprintf(key, sizeof key, "k%03d", i);
        cr_assert_eq(pleat_exists(room->space, NULL, text_slice(key), &room->err), 0, "%s", room->err.message);
    }
    return room_stats(room).cache_misses - before;
}

Test(stats, blocks_that_are_read_stay_cached_while_their_tables_are_replaced) {
    struct room room;
    room_begin(&room);
    room_open(&room);
    rewrite(&room, 1);
    cr_assert_gt(misses_of_all_keys(&room), 5, "several blocks");
    cr_assert_eq(misses_of_all_keys(&room), 0);
    for (int round = 0; round < 4; round++) {
        uint64_t flushes = room_stats(&room).flushes;
        rewrite(&room, 3); /* fewer changes than a score has points */
        cr_assert_gt(room_stats(&room).flushes, flushes);
        cr_assert_eq(misses_of_all_keys(&room), 0, "round %d", round);
    }
    cr_assert_gt(room_stats(&room).compactions, 0);
    room_end(&room);
}

/* What a flush adds to level 0 lies in the cache beside the older blocks: only where there is room for both. */
Test(stats, blocks_of_level_0_are_carried_only_into_a_cache_with_room) {
    uint64_t used = 0;
    for (int is_small = 0; is_small < 2; is_small++) {
        struct room room;
        room_begin(&room);
        room.options.cache_bytes = is_small ? used + used / 4 : room.options.cache_bytes;
        room_open(&room);
        rewrite(&room, 1);
        for (int round = 0; round < 3; round++) {
            (void)misses_of_all_keys(&room);
        }
        used = room_stats(&room).cache_used_bytes;
        fill(&room, room.space, 0, 1000, 9, "....");
        OK(pleat_flush(room.db, &room.err));
        uint64_t carried = room_stats(&room).cache_used_bytes;
        cr_assert(is_small ? carried <= used + used / 8 : carried > used, "%" PRIu64 " bytes, then %" PRIu64, used,
                  carried);
        cr_assert_eq(misses_of_all_keys(&room) > 0, is_small, "the level 0 blocks are loaded by who reads them");
        room_end(&room);
    }
}

Test(stats, blocks_that_nobody_reads_are_loaded_by_nothing) {
    struct room room;
    room_begin(&room);
    room_open(&room);
    rewrite(&room, 1);
    (void)misses_of_all_keys(&room);
    uint64_t read = room_stats(&room).cache_used_bytes;
    for (int round = 0; round < 5; round++) { /* a point of the score each, and then it is forgotten */
        rewrite(&room, 1);
    }
    uint64_t unread = room_stats(&room).cache_used_bytes;
    cr_assert_lt(unread, read / 4, "%" PRIu64 " bytes when nothing is read, %" PRIu64 " when it was", unread, read);
    room_end(&room);
}

Test(stats, same_history_gives_the_same_counters) {
    struct pleat_stats found[2];
    for (int run = 0; run < 2; run++) {
        struct room room;
        room_begin(&room);
        room.options.memtable_bytes = 4096;
        room.options.durability = PLEAT_SYNC_EACH;
        room_open(&room);
        for (int round = 0; round < 3; round++) {
            fill(&room, room.space, 0, 200, 1, "...............................");
        }
        OK(pleat_settle(room.db, NULL, NULL, &room.err));
        found[run] = room_stats(&room);
        room_end(&room);
    }
    cr_assert_eq(found[0].bytes_log, found[1].bytes_log);
    cr_assert_eq(found[0].bytes_flushed, found[1].bytes_flushed);
    cr_assert_eq(found[0].bytes_compacted_in, found[1].bytes_compacted_in);
    cr_assert_eq(found[0].bytes_compacted_out, found[1].bytes_compacted_out);
    cr_assert_eq(found[0].flushes, found[1].flushes);
    cr_assert_eq(found[0].compactions, found[1].compactions);
    cr_assert_eq(found[0].syncs, 600);
    cr_assert_eq(found[1].syncs, 600);
}
