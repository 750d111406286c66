/* test_store.c - the promises of pleat.h on writing: open, spaces, batches, commits, cursors, durability. */
#include "support/store_room.h"

#include <inttypes.h>
#include <sys/resource.h>

/* ---- open and close --------------------------------------------------------------------------------------------- */

Test(store, is_created_and_opened_again) {
    struct room room;
    room_begin(&room);
    room_open(&room);
    cr_assert_eq(room_put(&room, room.space, "a", "1"), 1);
    uint64_t before, history;
    pleat_position_read(room.db, PLEAT_APPLIED, &before, NULL);
    room_reopen(&room);
    cr_assert(room_holds(room.space, "a", "1"));
    cr_assert_eq(room_put(&room, room.space, "b", "2"), 2, "sequences go on");
    pleat_position_read(room.db, PLEAT_APPLIED, &history, NULL);
    cr_assert_eq(history, before, "a clean close goes on with the history");
    room_end(&room);
}

Test(store, open_modes_say_what_must_be_there) {
    struct room room;
    struct pleat_db *db = NULL;
    room_begin(&room);
    room.options.open_mode = PLEAT_MUST_EXIST;
    REFUSED(PLEAT_ERR_NOT_FOUND, "", pleat_open(room.path, &room.options, &db, &room.err));
    cr_assert_neq(access(room.path, F_OK), 0, "a refused open makes nothing");
    cr_assert_null(db);
    room.options.open_mode = PLEAT_MUST_NOT_EXIST;
    room_open(&room);
    room_close(&room);
    REFUSED(PLEAT_ERR_EXISTS, "", pleat_open(room.path, &room.options, &db, &room.err));
    room.options.open_mode = PLEAT_MUST_EXIST;
    room_open(&room);
    room_close(&room);
    room.options.open_mode = PLEAT_OPEN_OR_CREATE;
    room_open(&room);
    room_end(&room);
}

Test(store, files_are_the_owners_alone_unless_asked) {
    struct room room;
    struct stat found;
    char name[300];
    (void)umask(0);
    for (int i = 0; i < 2; i++) {
        room_begin(&room);
        room.options.file_mode = i == 0 ? 0 : 0640;
        room_open(&room);
        cr_assert_eq(stat(room.path, &found), 0);
        cr_assert_eq(found.st_mode & 0777, i == 0 ? 0700u : 0750u, "directory: %o", found.st_mode & 0777);
        (void)snprintf(name, sizeof name, "%s/MANIFEST", room.path);
        cr_assert_eq(stat(name, &found), 0);
        cr_assert_eq(found.st_mode & 0777, i == 0 ? 0600u : 0640u, "manifest: %o", found.st_mode & 0777);
        room_end(&room);
    }
}

Test(store, close_is_refused_while_something_is_out) {
    struct room room;
    struct pleat_snapshot *snapshot;
    struct pleat_iter *iter;
    struct pleat_value value;
    char big[1000];
    room_begin(&room);
    room_open(&room);
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    (void)room_put(&room, room.space, "big", big);
    OK(pleat_snapshot_new(room.db, &snapshot, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "1 snapshots", pleat_close(room.db, &room.err));
    pleat_snapshot_free(snapshot);
    OK(pleat_iter_new(room.space, NULL, &iter, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "1 iterators", pleat_close(room.db, &room.err));
    pleat_iter_free(iter);
    OK(pleat_get(room.space, NULL, TEXT("big"), &value, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "1 pinned values", pleat_close(room.db, &room.err));
    cr_assert(room_holds(room.space, "big", big), "a refused close leaves the store as it is");
    (void)room_put(&room, room.space, "more", "x");
    pleat_value_release(&value);
    pleat_value_release(&value);
    cr_assert_eq(pleat_close(NULL, NULL), 0);
    room_end(&room);
}

Test(store, shared_cache_serves_two_stores) {
    struct room room;
    struct pleat_cache *cache;
    struct pleat_db *other;
    char path[300];
    room_begin(&room);
    OK(pleat_cache_new(1 << 20, &cache, &room.err));
    room.options.cache_bytes = 0;
    room.options.cache = cache;
    room_open(&room);
    (void)snprintf(path, sizeof path, "%s/other", room.parent);
    OK(pleat_open(path, &room.options, &other, &room.err));
    struct room second = room;
    second.db = other;
    second.space = pleat_default_space(other);
    (void)room_put(&room, room.space, "k", "one");
    (void)room_put(&second, second.space, "k", "two");
    OK(pleat_flush(room.db, &room.err));
    OK(pleat_flush(other, &room.err));
    cr_assert(room_holds(room.space, "k", "one"));
    cr_assert(room_holds(second.space, "k", "two"));
    room_close(&room);
    cr_assert(room_holds(second.space, "k", "two"));
    room_close(&second);
    room.db = NULL;
    pleat_cache_free(cache);
    pleat_cache_free(NULL);
    room_end(&room);
}

static void hear_log(void *context, int level, const char *message) {
    char *heard = context;
    size_t used = strlen(heard);
    cr_assert(level >= PLEAT_LOG_ERROR && level <= PLEAT_LOG_INFO);
    (void)snprintf(heard + used, 2000 - used, "%s\n", message);
}

/* A space each, and a table each, which no cache holds. */
static void many_tables(struct room *room, struct pleat_space **spaces, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "space %u", i);
        cr_assert_eq(pleat_space_open(room->db, text_slice(name), NULL, &spaces[i], &room->err), 0);
        (void)room_put(room, spaces[i], "k", name);
    }
    cr_assert_eq(pleat_settle(room->db, NULL, NULL, &room->err), 0, "%s", room->err.message);
    struct pleat_stats stats = room_stats(room);
    uint64_t tables = 0;
    for (unsigned level = 0; level < PLEAT_LEVELS; level++) {
        tables += stats.levels[level].tables;
    }
    cr_assert_eq(tables, count);
    room_reopen(room);
    for (unsigned i = 0; i < count; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "space %u", i);
        cr_assert_eq(pleat_space_open(room->db, text_slice(name), NULL, &spaces[i], &room->err), 0);
    }
}

static unsigned tables_open(void) {
    unsigned count = 0;
    DIR *directory = opendir("/proc/self/fd");
    cr_assert_not_null(directory);
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        char target[700];
        ssize_t n = readlinkat(dirfd(directory), entry->d_name, target, sizeof target - 1);
        target[n < 0 ? 0 : n] = '\0';
        count += strstr(target, ".tbl") != NULL;
    }
    (void)closedir(directory);
    return count;
}

#define MANY 40

Test(store, keeps_as_many_table_files_open_as_it_may) {
    struct room room;
    room_begin(&room);
    for (uint32_t most = 1; most <= 2 * MANY; most = most * 3 + 1) {
        struct pleat_space *spaces[MANY];
        struct pleat_check check;
        room.options.table_files_max = most;
        room_open(&room);
        many_tables(&room, spaces, MANY);
        for (unsigned round = 0; round < 2; round++) {
            for (unsigned i = 0; i < MANY; i++) {
                char name[16];
                (void)snprintf(name, sizeof name, "space %u", i);
                cr_assert(room_holds(spaces[i], "k", name));
                cr_assert_leq(tables_open(), most);
            }
        }
        cr_assert_eq(room_stats(&room).table_files_open, tables_open());
        cr_assert_eq(room_stats(&room).table_files_open, most < MANY ? most : MANY);
        cr_assert_eq(room_stats(&room).table_file_opens, MANY, "cached blocks opened files again");
        OK(pleat_check(room.db, &check, &room.err));
        cr_assert_eq(check.tables, MANY);
        cr_assert_leq(tables_open(), most);
        room_close(&room);
        cr_assert_eq(tables_open(), 0);
        room_remove_directory(room.path);
    }
    room.options.table_files_max = (1u << 20) + 1;
    REFUSED(PLEAT_ERR_INVALID, "1048577", pleat_open(room.path, &room.options, &room.db, &room.err));
    room_end(&room);
}

/* The process may have far fewer descriptors than the store has tables; what reads have taken of them, the log and the
 * manifest get back. */
Test(store, makes_do_with_few_descriptors) {
    struct room room;
    struct pleat_space *spaces[MANY];
    struct rlimit all, few;
    room_begin(&room);
    room_open(&room);
    many_tables(&room, spaces, MANY);
    room_close(&room);
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &all), 0);
    few = all;
    few.rlim_cur = 24;
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
    room_open(&room);
    many_tables(&room, spaces, MANY);
    for (unsigned i = 0; i < MANY; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "space %u", i);
        cr_assert(room_holds(spaces[i], "k", name), "space %u", i);
    }
    char value[1001];
    memset(value, 'x', sizeof value - 1);
    value[sizeof value - 1] = '\0';
    uint64_t flushes = room_stats(&room).flushes;
    for (unsigned i = 0; i < 400; i++) {
        char key[16];
        (void)snprintf(key, sizeof key, "%u", i);
        (void)room_put(&room, room.space, key, value);
        (void)pleat_step(room.db, NULL);
    }
    cr_assert_geq(room_stats(&room).flushes, flushes + 4);
    OK(pleat_space_drop(spaces[3], &room.err));
    OK(pleat_flush(room.db, &room.err));
    struct pleat_check check;
    OK(pleat_check(room.db, &check, &room.err));
    struct stat before, after;
    char path[300];
    (void)snprintf(path, sizeof path, "%s/MANIFEST", room.path);
    cr_assert_eq(stat(path, &before), 0);
    room_close(&room);
    cr_assert_eq(stat(path, &after), 0);
    cr_assert_neq(after.st_ino, before.st_ino, "the close could not write the manifest anew");
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &all), 0);
    room_end(&room);
}

/* Once open, a store says of a table that is gone what its next open would say. */
Test(store, says_that_a_missing_table_is_damage) {
    struct room room;
    struct pleat_space *spaces[MANY];
    struct pleat_value value;
    struct pleat_check check;
    room_begin(&room);
    room.options.table_files_max = 1;
    room_open(&room);
    many_tables(&room, spaces, MANY);
    char command[400];
    (void)snprintf(command, sizeof command, "rm -f '%s'/*.tbl", room.path);
    cr_assert_eq(system(command), 0); /* NOLINT: a test's own paths */
    for (unsigned i = 0; i < MANY; i++) {
        REFUSED(PLEAT_ERR_CORRUPT, "missing", pleat_get(spaces[i], NULL, TEXT("k"), &value, &room.err));
    }
    REFUSED(PLEAT_ERR_CORRUPT, "missing", pleat_check(room.db, &check, &room.err));
    room_end(&room);
}

Test(store, log_callback_hears_of_a_recovery_without_bytes_of_the_user) {
    struct room room, killed;
    static char heard[2000];
    room_begin(&room);
    room.options.on_log = hear_log;
    room.options.on_log_context = heard;
    room_open(&room);
    (void)room_put(&room, room.space, "secret key", "secret value");
    killed = room;
    room_copy(&room, "killed", killed.path, sizeof killed.path);
    heard[0] = '\0';
    room_open(&killed);
    cr_assert_not_null(strstr(heard, "recovered 1 commits"), "%s", heard);
    cr_assert_null(strstr(heard, "secret"));
    room_close(&killed);
    room_end(&room);
}

Test(store, version_and_status_names_are_texts) {
    cr_assert_str_eq(pleat_version(), "0.1.0");
    cr_assert_str_eq(pleat_status_name(PLEAT_ERR_CORRUPT), "PLEAT_ERR_CORRUPT");
    cr_assert_str_eq(pleat_status_name(12345), "unknown status");
    for (int status = PLEAT_ERR_FORKED; status <= PLEAT_TIMEOUT; status++) {
        cr_assert_eq(strncmp(pleat_status_name(status), "PLEAT_", 6), 0, "status %d has no name", status);
    }
}

/* ---- spaces ----------------------------------------------------------------------------------------------------- */

static int list_names(void *context, struct pleat_slice name) {
    char *text = context;
    size_t used = strlen(text);
    memcpy(text + used, name.data, name.bytes);
    text[used + name.bytes] = ',';
    text[used + name.bytes + 1] = '\0';
    return strcmp(text, "default,stop,") == 0 ? -42 : 0;
}

static struct pleat_space *space_of(struct room *room, const char *name) {
    struct pleat_space *space = NULL;
    int rc = pleat_space_open(room->db, text_slice(name), NULL, &space, &room->err);
    cr_assert_eq(rc, 0, "space: %s", room->err.message);
    return space;
}

Test(space, are_isolated_and_survive_a_reopen) {
    struct room room;
    room_begin(&room);
    room_open(&room);
    for (int i = 0; i < 2; i++) {
        struct pleat_space *a = space_of(&room, "a"), *b = space_of(&room, "b");
        cr_assert_eq(a, space_of(&room, "a"), "one handle a space");
        cr_assert_eq(space_of(&room, "default"), room.space);
        if (i == 0) {
            (void)room_put(&room, room.space, "k", "default");
            (void)room_put(&room, a, "k", "in a");
            (void)room_put(&room, b, "other", "in b");
        }
        cr_assert(room_holds(room.space, "k", "default"));
        cr_assert(room_holds(a, "k", "in a"));
        cr_assert(room_holds(b, "k", NULL));
        cr_assert(room_holds(a, "other", NULL));
        room_reopen(&room);
    }
    room_end(&room);
}

Test(space, are_listed_in_order_of_creation) {
    struct room room;
    char text[200] = "";
    room_begin(&room);
    room_open(&room);
    struct pleat_space *zebra = space_of(&room, "zebra");
    (void)space_of(&room, "ant");
    OK(pleat_space_list(room.db, list_names, text, &room.err));
    cr_assert_str_eq(text, "default,zebra,ant,");
    OK(pleat_space_drop(zebra, &room.err));
    (void)space_of(&room, "zebra");
    text[0] = '\0';
    OK(pleat_space_list(room.db, list_names, text, &room.err));
    cr_assert_str_eq(text, "default,ant,zebra,");
    OK(pleat_space_drop(space_of(&room, "ant"), &room.err));
    OK(pleat_space_drop(space_of(&room, "zebra"), &room.err));
    (void)space_of(&room, "stop");
    (void)space_of(&room, "never seen");
    text[0] = '\0';
    cr_assert_eq(pleat_space_list(room.db, list_names, text, &room.err), -42, "the return is handed on unchanged");
    cr_assert_str_eq(text, "default,stop,");
    room_end(&room);
}

Test(space, dropped_one_is_gone_and_its_handle_refused) {
    struct room room;
    struct pleat_value value;
    struct pleat_iter *iter;
    struct pleat_batch *batch, *before;
    room_begin(&room);
    room_open(&room);
    struct pleat_space *gone = space_of(&room, "gone");
    (void)room_put(&room, gone, "k", "v");
    OK(pleat_batch_new(room.db, &batch, &room.err));
    OK(pleat_batch_new(room.db, &before, &room.err));
    OK(pleat_batch_put(before, gone, TEXT("late"), TEXT("v"), &room.err));
    OK(pleat_batch_put(before, room.space, TEXT("late"), TEXT("v"), &room.err));
    uint64_t sequence = room_sequence(&room, PLEAT_APPLIED);
    OK(pleat_space_drop(gone, &room.err));
    cr_assert_eq(room_sequence(&room, PLEAT_APPLIED), sequence + 1, "a drop takes a sequence number");
    cr_assert_eq(room_sequence(&room, PLEAT_DURABLE), sequence + 1, "and is durable when it returns");
    REFUSED(PLEAT_ERR_INVALID, "dropped", pleat_get(gone, NULL, TEXT("k"), &value, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "dropped", pleat_exists(gone, NULL, TEXT("k"), &room.err));
    REFUSED(PLEAT_ERR_INVALID, "dropped", pleat_iter_new(gone, NULL, &iter, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "dropped", pleat_batch_put(batch, gone, TEXT("k"), TEXT("v"), &room.err));
    REFUSED(PLEAT_ERR_INVALID, "dropped", pleat_space_drop(gone, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "dropped", pleat_space_clear(gone, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "dropped", pleat_compact(gone, NULL, NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "dropped", pleat_commit(room.db, before, NULL, NULL, &room.err));
    cr_assert(room_holds(room.space, "late", NULL), "a refused commit is wholly out");
    cr_assert_eq(room_sequence(&room, PLEAT_APPLIED), sequence + 1);
    struct pleat_space *again = space_of(&room, "gone");
    cr_assert_neq(again, gone);
    cr_assert(room_holds(again, "k", NULL), "a new space of the name is empty");
    (void)room_put(&room, again, "k", "new");
    REFUSED(PLEAT_ERR_INVALID, "dropped", pleat_get(gone, NULL, TEXT("k"), &value, &room.err));
    pleat_batch_free(batch);
    pleat_batch_free(before);
    room_reopen(&room);
    cr_assert(room_holds(space_of(&room, "gone"), "k", "new"));
    REFUSED(PLEAT_ERR_INVALID, "default", pleat_space_drop(room.space, &room.err));
    room_end(&room);
}

Test(space, slots_are_used_again_and_again) {
    struct room room;
    room_begin(&room);
    room_open(&room);
    for (int i = 0; i < 40; i++) {
        char name[20], value[20];
        (void)snprintf(name, sizeof name, "space %d", i);
        (void)snprintf(value, sizeof value, "%d", i);
        struct pleat_space *space = space_of(&room, name);
        cr_assert(room_holds(space, "k", NULL));
        (void)room_put(&room, space, "k", value);
        if (i % 3 == 0) {
            OK(pleat_flush(room.db, &room.err));
        }
        cr_assert(room_holds(space, "k", value));
        OK(pleat_space_drop(space, &room.err));
        if (i % 10 == 9) {
            room_reopen(&room);
        }
    }
    cr_assert_eq(room_stats(&room).spaces, 1);
    room_end(&room);
}

Test(space, clear_empties_that_space_alone) {
    struct room room;
    room_begin(&room);
    room_open(&room);
    struct pleat_space *other = space_of(&room, "other");
    (void)room_put(&room, room.space, "flushed", "1");
    (void)room_put(&room, other, "flushed", "1");
    OK(pleat_flush(room.db, &room.err));
    (void)room_put(&room, room.space, "fresh", "2");
    (void)room_put(&room, other, "fresh", "2");
    (void)room_set_cursor(&room, "", "c");
    uint64_t sequence = room_sequence(&room, PLEAT_APPLIED);
    OK(pleat_space_clear(room.space, &room.err));
    cr_assert_eq(room_sequence(&room, PLEAT_APPLIED), sequence + 1);
    struct pleat_cursor_value cursor;
    OK(pleat_cursor_read(room.db, NONE, PLEAT_APPLIED, &cursor, &room.err));
    cr_assert_eq(cursor.bytes, 1, "a clear leaves the cursors");
    for (int i = 0; i < 2; i++) {
        cr_assert(room_holds(room.space, "flushed", NULL));
        cr_assert(room_holds(room.space, "fresh", NULL));
        cr_assert(room_holds(other = space_of(&room, "other"), "flushed", "1"));
        cr_assert(room_holds(other, "fresh", "2"));
        room_reopen(&room);
    }
    cr_assert_eq(room_put(&room, room.space, "k", "v"), sequence + 2);
    room_end(&room);
}

Test(space, options_that_are_set_must_equal_the_stored_ones) {
    struct room room;
    struct pleat_space *space;
    struct pleat_slice name = TEXT("s");
    room_begin(&room);
    room_open(&room);
    OK(pleat_space_open(room.db, name,
                        PLEAT_SPACE_OPTIONS(.codec = PLEAT_CODEC_NONE, .block_bytes = 512, .group_delimiter = '.',
                                            .group_delimiters = 2),
                        &space, &room.err));
    for (int i = 0; i < 2; i++) {
        OK(pleat_space_open(room.db, name, NULL, &space, &room.err));
        OK(pleat_space_open(room.db, name, PLEAT_SPACE_OPTIONS(.block_bytes = 512), &space, &room.err));
        OK(pleat_space_open(room.db, name, PLEAT_SPACE_OPTIONS(.group_delimiter = '.', .group_delimiters = 2), &space,
                            &room.err));
        REFUSED(PLEAT_ERR_INVALID, "1024",
                pleat_space_open(room.db, name, PLEAT_SPACE_OPTIONS(.block_bytes = 1024), &space, &room.err));
        REFUSED(PLEAT_ERR_INVALID, "codec",
                pleat_space_open(room.db, name, PLEAT_SPACE_OPTIONS(.codec = PLEAT_CODEC_LZ4), &space, &room.err));
        REFUSED(PLEAT_ERR_INVALID, "group_delimiters is 3",
                pleat_space_open(room.db, name, PLEAT_SPACE_OPTIONS(.group_delimiter = '.', .group_delimiters = 3),
                                 &space, &room.err));
        REFUSED(PLEAT_ERR_INVALID, "group_delimiter",
                pleat_space_open(room.db, name, PLEAT_SPACE_OPTIONS(.group_delimiter = '/', .group_delimiters = 2),
                                 &space, &room.err));
        REFUSED(PLEAT_ERR_INVALID, "group_delimiter",
                pleat_space_open(room.db, name, PLEAT_SPACE_OPTIONS(.group_delimiter = 0, .group_delimiters = 2),
                                 &space, &room.err));
        REFUSED(PLEAT_ERR_INVALID, "group_bytes",
                pleat_space_open(room.db, name, PLEAT_SPACE_OPTIONS(.group_bytes = 4), &space, &room.err));
        room_reopen(&room);
    }
    REFUSED(PLEAT_ERR_EXISTS, "",
            pleat_space_open(room.db, name, PLEAT_SPACE_OPTIONS(.open_mode = PLEAT_MUST_NOT_EXIST), &space, &room.err));
    REFUSED(
        PLEAT_ERR_NOT_FOUND, "",
        pleat_space_open(room.db, TEXT("t"), PLEAT_SPACE_OPTIONS(.open_mode = PLEAT_MUST_EXIST), &space, &room.err));
    OK(pleat_space_open(room.db, TEXT("\0binary\xff"), PLEAT_SPACE_OPTIONS(.open_mode = PLEAT_MUST_NOT_EXIST), &space,
                        &room.err));
    room_end(&room);
}

/* ---- batches ---------------------------------------------------------------------------------------------------- */

Test(batch, later_update_of_the_same_key_wins) {
    struct room room;
    struct pleat_batch *batch;
    room_begin(&room);
    room_open(&room);
    OK(pleat_batch_new(room.db, &batch, &room.err));
    OK(pleat_batch_put(batch, room.space, TEXT("twice"), TEXT("first"), &room.err));
    OK(pleat_batch_put(batch, room.space, TEXT("twice"), TEXT("second"), &room.err));
    OK(pleat_batch_put(batch, room.space, TEXT("gone"), TEXT("x"), &room.err));
    OK(pleat_batch_delete(batch, room.space, TEXT("gone"), &room.err));
    OK(pleat_batch_delete(batch, room.space, TEXT("back"), &room.err));
    OK(pleat_batch_put(batch, room.space, TEXT("back"), TEXT(""), &room.err));
    cr_assert_eq(pleat_batch_count(batch), 6);
    cr_assert_gt(pleat_batch_bytes(batch), 30);
    OK(pleat_commit(room.db, batch, NULL, NULL, &room.err));
    for (int i = 0; i < 3; i++) {
        cr_assert(room_holds(room.space, "twice", "second"));
        cr_assert(room_holds(room.space, "gone", NULL));
        cr_assert(room_holds(room.space, "back", ""), "an empty value is present");
        if (i == 0) {
            pleat_batch_free(batch);
            OK(pleat_flush(room.db, &room.err));
        } else {
            room_reopen(&room);
        }
    }
    pleat_batch_free(NULL);
    room_end(&room);
}

Test(batch, empty_one_is_a_commit_only_with_a_cursor) {
    struct room room;
    struct pleat_batch *batch;
    uint64_t sequence = 77;
    struct pleat_cursor cursor = {.value = TEXT("at")};
    room_begin(&room);
    room_open(&room);
    (void)room_put(&room, room.space, "k", "v");
    OK(pleat_batch_new(room.db, &batch, &room.err));
    OK(pleat_commit(room.db, batch, NULL, &sequence, &room.err));
    cr_assert_eq(room_sequence(&room, PLEAT_APPLIED), 1, "no sequence number is taken");
    OK(pleat_batch_set_cursor(batch, &cursor, &room.err));
    cr_assert_eq(pleat_batch_count(batch), 0);
    OK(pleat_commit(room.db, batch, NULL, &sequence, &room.err));
    cr_assert_eq(sequence, 2);
    OK(pleat_commit(room.db, batch, NULL, &sequence, &room.err));
    cr_assert_eq(sequence, 3, "a batch is left as it was and can be committed again");
    pleat_batch_free(batch);
    room_reopen(&room);
    struct pleat_cursor_value found;
    OK(pleat_cursor_read(room.db, NONE, PLEAT_DURABLE, &found, &room.err));
    cr_assert_eq(found.sequence, 3);
    cr_assert_eq(found.bytes, 2);
    room_end(&room);
}

Test(batch, reserved_room_is_filled_in_place) {
    struct room room;
    struct pleat_batch *batch;
    struct pleat_value value;
    void *bytes;
    room_begin(&room);
    room_open(&room);
    OK(pleat_batch_new(room.db, &batch, &room.err));
    OK(pleat_batch_reserve(batch, room.space, TEXT("r"), 500, &(struct pleat_attributes){.version = TEXT("v1")}, &bytes,
                           &room.err));
    memset(bytes, 'r', 500);
    OK(pleat_batch_put(batch, room.space, TEXT("s"), TEXT("after"), &room.err));
    OK(pleat_batch_reserve(batch, room.space, TEXT("empty"), 0, NULL, &bytes, &room.err));
    OK(pleat_batch_reserve(batch, room.space, TEXT("last"), 3, NULL, &bytes, &room.err));
    memcpy(bytes, "end", 3);
    OK(pleat_commit(room.db, batch, NULL, NULL, &room.err));
    pleat_batch_free(batch);
    room_reopen(&room);
    OK(pleat_get(room.space, NULL, TEXT("r"), &value, &room.err));
    cr_assert_eq(value.bytes, 500);
    for (size_t i = 0; i < 500; i++) {
        cr_assert_eq(((const char *)value.data)[i], 'r');
    }
    cr_assert_eq(value.version_bytes, 2);
    pleat_value_release(&value);
    cr_assert(room_holds(room.space, "s", "after"));
    cr_assert(room_holds(room.space, "empty", ""));
    cr_assert(room_holds(room.space, "last", "end"));
    room_end(&room);
}

Test(batch, cleared_one_is_as_new) {
    struct room room;
    struct pleat_batch *batch;
    struct pleat_cursor cursor = {.value = TEXT("c")};
    struct pleat_cursor_value found;
    room_begin(&room);
    room_open(&room);
    OK(pleat_batch_new(room.db, &batch, &room.err));
    uint64_t empty = pleat_batch_bytes(batch);
    for (int i = 0; i < 3; i++) {
        OK(pleat_batch_put(batch, room.space, TEXT("never"), TEXT("x"), &room.err));
        OK(pleat_batch_set_cursor(batch, &cursor, &room.err));
        OK(pleat_batch_expect_cursor(batch, NONE, &(struct pleat_slice){"no", 2}, &room.err));
        pleat_batch_clear(batch);
        cr_assert_eq(pleat_batch_count(batch), 0);
        cr_assert_eq(pleat_batch_bytes(batch), empty);
    }
    OK(pleat_batch_put(batch, room.space, TEXT("k"), TEXT("v"), &room.err));
    OK(pleat_commit(room.db, batch, NULL, NULL, &room.err));
    pleat_batch_free(batch);
    cr_assert(room_holds(room.space, "never", NULL));
    cr_assert(room_holds(room.space, "k", "v"));
    cr_assert_eq(pleat_cursor_read(room.db, NONE, PLEAT_APPLIED, &found, &room.err), PLEAT_ABSENT);
    room_end(&room);
}

Test(batch, larger_than_the_memtable_is_one_commit) {
    struct room room;
    struct pleat_batch *batch;
    static char value[5000];
    struct pleat_value found;
    room_begin(&room);
    room_open(&room);
    memset(value, 'v', sizeof value);
    (void)room_put(&room, room.space, "before", "x");
    OK(pleat_batch_new(room.db, &batch, &room.err));
    for (int i = 0; i < 200; i++) { /* a megabyte into memtables of 64 KiB */
        char key[16];
        int bytes = snprintf(key, sizeof key, "k%03d", i);
        OK(pleat_batch_put(batch, room.space, (struct pleat_slice){key, (size_t)bytes},
                           (struct pleat_slice){value, sizeof value}, &room.err));
    }
    uint64_t sequence;
    for (uint64_t round = 0; round < 3; round++) {
        OK(pleat_commit(room.db, batch, NULL, &sequence, &room.err));
        cr_assert_eq(sequence, 2 + round);
    }
    pleat_batch_free(batch);
    for (int round = 0; round < 2; round++) {
        OK(pleat_get(room.space, NULL, TEXT("k199"), &found, &room.err));
        cr_assert_eq(found.bytes, sizeof value);
        cr_assert_eq(memcmp(found.data, value, sizeof value), 0);
        pleat_value_release(&found);
        cr_assert(room_holds(room.space, "before", "x"));
        room_reopen(&room);
    }
    room_end(&room);
}

Test(batch, key_of_every_length_and_kind_comes_back) {
    struct room room;
    struct pleat_batch *batch;
    static uint8_t key[65535];
    static const size_t lengths[] = {0, 1, 255, 256, 65534, 65535};
    struct pleat_value value;
    room_begin(&room);
    room_open(&room);
    OK(pleat_batch_new(room.db, &batch, &room.err));
    for (int fill = 0; fill < 2; fill++) {
        memset(key, fill == 0 ? 0 : 0xff, sizeof key);
        for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
            OK(pleat_batch_put(batch, room.space, (struct pleat_slice){key, lengths[i]},
                               (struct pleat_slice){&lengths[i], sizeof lengths[i]}, &room.err));
        }
    }
    OK(pleat_commit(room.db, batch, NULL, NULL, &room.err));
    pleat_batch_free(batch);
    for (int round = 0; round < 3; round++) {
        for (int fill = 0; fill < 2; fill++) {
            memset(key, fill == 0 ? 0 : 0xff, sizeof key);
            for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
                OK(pleat_get(room.space, NULL, (struct pleat_slice){key, lengths[i]}, &value, &room.err));
                cr_assert_eq(value.bytes, sizeof lengths[i]);
                cr_assert_eq(memcmp(value.data, &lengths[i], sizeof lengths[i]), 0);
                pleat_value_release(&value);
            }
            cr_assert_eq(pleat_exists(room.space, NULL, (struct pleat_slice){key, 2}, &room.err), PLEAT_ABSENT);
        }
        if (round == 0) {
            room_reopen(&room);
        } else {
            OK(pleat_compact(room.space, NULL, NULL, &room.err));
        }
    }
    room_end(&room);
}

Test(batch, versions_and_flags_stand_beside_values) {
    struct room room;
    struct pleat_batch *batch;
    struct pleat_value value;
    char version[32];
    room_begin(&room);
    room_open(&room);
    OK(pleat_batch_new(room.db, &batch, &room.err));
    memset(version, 'V', sizeof version);
    for (uint8_t i = 0; i <= 32; i++) {
        struct pleat_attributes attributes = {.version = {version, i}, .has_flag = i % 2 == 1, .flag = i};
        OK(pleat_batch_put_with(batch, room.space, (struct pleat_slice){&i, 1}, TEXT("x"), &attributes, &room.err));
    }
    OK(pleat_commit(room.db, batch, NULL, NULL, &room.err));
    pleat_batch_free(batch);
    for (int round = 0; round < 2; round++) {
        for (uint8_t i = 0; i <= 32; i++) {
            OK(pleat_get(room.space, NULL, (struct pleat_slice){&i, 1}, &value, &room.err));
            cr_assert_eq(value.version_bytes, i);
            cr_assert(i == 0 || memcmp(value.version, version, i) == 0);
            cr_assert_eq(value.has_flag, i % 2 == 1);
            cr_assert(!value.has_flag || value.flag == i);
            cr_assert_eq(value.bytes, 1);
            pleat_value_release(&value);
        }
        room_reopen(&room);
    }
    room_end(&room);
}
