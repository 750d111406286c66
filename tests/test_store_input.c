/* test_store_input.c - what pleat.h refuses: every call with arguments that make no sense, and nothing changed. */
#include "base/limits.h"
#include "support/store_room.h"

Test(input, options_outside_their_limits_are_refused_by_name_value_and_limit) {
    struct room room;
    struct pleat_db *db = NULL;
    room_begin(&room);
#define REFUSED_OPTION(part, ...)                                                                                      \
    REFUSED(PLEAT_ERR_INVALID, part, pleat_open(room.path, PLEAT_OPTIONS(__VA_ARGS__), &db, &room.err))
    REFUSED_OPTION("durability is 4", .durability = 4);
    REFUSED_OPTION("open_mode is 3", .open_mode = 3);
    REFUSED_OPTION("file_mode is 512", .file_mode = 01000);
    REFUSED_OPTION("cache_bytes is 1,", .cache_bytes = 1);
    REFUSED_OPTION("memtable_bytes is 1023, the limits are 1024 to", .memtable_bytes = 1023);
    REFUSED_OPTION("memtable_bytes is 7516192769,", .memtable_bytes = (7ull << 30) + 1);
    REFUSED_OPTION("table_bytes is 1,", .table_bytes = 1);
    REFUSED_OPTION("table_bytes is 4294967297,", .table_bytes = (4ull << 30) + 1);
    REFUSED_OPTION("level_base_bytes is 1,", .level_base_bytes = 1);
    REFUSED_OPTION("level_ratio is 1,", .level_ratio = 1);
    REFUSED_OPTION("level0_tables is 17,", .level0_tables = 17);
    REFUSED_OPTION("value_bytes_max is 4294967296,", .value_bytes_max = 1ull << 32);
    REFUSED_OPTION("background is 2,", .background = 2);
    REFUSED_OPTION("background_threads is 65,", .background_threads = 65);
    REFUSED_OPTION("sync_interval_ms is", .sync_interval_ms = UINT64_MAX);
    REFUSED_OPTION("sync_interval_bytes is", .sync_interval_bytes = UINT64_MAX);
    struct pleat_options zero = {0};
    REFUSED(PLEAT_ERR_INVALID, "size", pleat_open(room.path, &zero, &db, &room.err));
    struct {
        struct pleat_options options;
        uint64_t newer;
    } longer = {.options = room.options, .newer = 1};
    longer.options.size = sizeof longer;
    REFUSED(PLEAT_ERR_NEWER, "", pleat_open(room.path, &longer.options, &db, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_open(NULL, NULL, &db, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_open(room.path, NULL, NULL, &room.err));
    struct pleat_cache *cache;
    REFUSED(PLEAT_ERR_INVALID, "65535", pleat_cache_new(65535, &cache, &room.err));
    cr_assert_neq(access(room.path, F_OK), 0, "refused options make nothing");
    cr_assert_null(db);
    longer.newer = 0;
    OK(pleat_open(room.path, &longer.options, &room.db, &room.err));
    room_end(&room);
}

/* What the limits allow is possible: twice the memtable is an arena, and of the address space of that there is enough.
 */
Test(input, options_at_their_limits_open_a_store) {
    struct room room;
    room_begin(&room);
    room.options.memtable_bytes = 7ull << 30;
    room.options.table_bytes = 4ull << 30;
    room.options.value_bytes_max = UINT32_MAX;
    room_open(&room);
    struct pleat_batch *batch;
    OK(pleat_batch_new(room.db, &batch, &room.err));
    struct pleat_slice value = {"one byte, in truth", LIMIT_ENTRY_BYTES};
    REFUSED(PLEAT_ERR_INVALID, "4294967168 bytes together, the limit is 4294967167",
            pleat_batch_put(batch, room.space, TEXT("k"), value, &room.err));
    OK(pleat_batch_put(batch, room.space, TEXT("k"), TEXT("v"), &room.err));
    OK(pleat_commit(room.db, batch, NULL, NULL, &room.err));
    OK(pleat_flush(room.db, &room.err));
    pleat_batch_free(batch);
    room_end(&room);
}

Test(input, space_names_and_options_are_checked) {
    struct room room;
    struct pleat_space *space = NULL;
    static char name[256];
    room_begin(&room);
    room_open(&room);
    memset(name, 'n', sizeof name);
    REFUSED(PLEAT_ERR_INVALID, "256 bytes",
            pleat_space_open(room.db, (struct pleat_slice){name, 256}, NULL, &space, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "0 bytes", pleat_space_open(room.db, TEXT(""), NULL, &space, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_space_open(room.db, NONE, NULL, &space, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_space_open(NULL, TEXT("s"), NULL, &space, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_space_open(room.db, TEXT("s"), NULL, NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "codec is 3",
            pleat_space_open(room.db, TEXT("s"), PLEAT_SPACE_OPTIONS(.codec = 3), &space, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "block_bytes is 63",
            pleat_space_open(room.db, TEXT("s"), PLEAT_SPACE_OPTIONS(.block_bytes = 63), &space, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "group_bytes is 4 and group_delimiters is 1",
            pleat_space_open(room.db, TEXT("s"), PLEAT_SPACE_OPTIONS(.group_bytes = 4, .group_delimiters = 1), &space,
                             &room.err));
    struct {
        struct pleat_space_options options;
        uint64_t newer;
    } longer = {.options = {.size = sizeof longer}, .newer = 1};
    REFUSED(PLEAT_ERR_NEWER, "", pleat_space_open(room.db, TEXT("s"), &longer.options, &space, &room.err));
    cr_assert_null(space);
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_space_drop(NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_space_clear(NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_space_list(room.db, NULL, NULL, &room.err));
    cr_assert_null(pleat_default_space(NULL));
    cr_assert_eq(room_stats(&room).spaces, 1, "nothing was made");
    OK(pleat_space_open(room.db, (struct pleat_slice){name, 255}, NULL, &space, &room.err));
    room_reopen(&room);
    OK(pleat_space_open(room.db, (struct pleat_slice){name, 255}, PLEAT_SPACE_OPTIONS(.open_mode = PLEAT_MUST_EXIST),
                        &space, &room.err));
    room_end(&room);
}

Test(input, updates_that_are_refused_leave_the_batch_as_it_was) {
    struct room room, other;
    struct pleat_batch *batch;
    void *bytes;
    static char big[70000];
    room_begin(&room);
    room.options.value_bytes_max = 1000;
    room_open(&room);
    room_begin(&other);
    room_open(&other);
    OK(pleat_batch_new(room.db, &batch, &room.err));
    OK(pleat_batch_put(batch, room.space, TEXT("k"), TEXT("v"), &room.err));
    uint64_t before = pleat_batch_bytes(batch);
    struct pleat_slice key = {big, 65536}, null = {NULL, 3}, k = TEXT("k"), v = TEXT("v");
    REFUSED(PLEAT_ERR_INVALID, "65536 bytes, the limit is 65535",
            pleat_batch_put(batch, room.space, key, v, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "65536 bytes, the limit is 65535",
            pleat_batch_delete(batch, room.space, key, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "65536", pleat_batch_reserve(batch, room.space, key, 1, NULL, &bytes, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "1001 bytes, the limit is 1000",
            pleat_batch_put(batch, room.space, k, (struct pleat_slice){big, 1001}, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "1001 bytes, the limit is 1000",
            pleat_batch_reserve(batch, room.space, k, 1001, NULL, &bytes, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "", pleat_batch_reserve(batch, room.space, k, SIZE_MAX, NULL, &bytes, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "33 bytes",
            pleat_batch_put_with(batch, room.space, k, v, &(struct pleat_attributes){.version = {big, 33}}, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL",
            pleat_batch_put_with(batch, room.space, k, v, &(struct pleat_attributes){.version = null}, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_batch_put(batch, room.space, null, v, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_batch_put(batch, room.space, k, null, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_batch_put(NULL, room.space, k, v, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_batch_put(batch, NULL, k, v, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_batch_delete(batch, NULL, k, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_batch_reserve(batch, room.space, k, 1, NULL, NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "another store", pleat_batch_put(batch, other.space, k, v, &room.err));
    cr_assert_eq(pleat_batch_bytes(batch), before);
    cr_assert_eq(pleat_batch_count(batch), 1);
    REFUSED(PLEAT_ERR_INVALID, "another store", pleat_commit(other.db, batch, NULL, NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_commit(NULL, batch, NULL, NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_commit(room.db, NULL, NULL, NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "sync is 3",
            pleat_commit(room.db, batch, PLEAT_COMMIT_OPTIONS(.sync = 3), NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_batch_new(NULL, &batch, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_batch_new(room.db, NULL, &room.err));
    cr_assert_eq(room_sequence(&room, PLEAT_APPLIED), 0);
    OK(pleat_batch_put(batch, room.space, (struct pleat_slice){big, 65535}, (struct pleat_slice){big, 1000},
                       &room.err));
    OK(pleat_commit(room.db, batch, NULL, NULL, &room.err));
    pleat_batch_clear(NULL);
    cr_assert_eq(pleat_batch_count(NULL) + pleat_batch_bytes(NULL), 0);
    pleat_batch_free(batch);
    room_end(&room);
    room_end(&other);
}

/* Options of commits and iterators grow at their end like all others. */
Test(input, newer_options_are_refused_only_where_they_ask_for_something) {
    struct room room;
    struct pleat_batch *batch;
    struct pleat_iter *iter;
    struct {
        struct pleat_commit_options options;
        uint64_t newer;
    } commit = {.options = {.size = sizeof commit}, .newer = 1};
    struct {
        struct pleat_iter_options options;
        uint64_t newer;
    } walk = {.options = {.size = sizeof walk}, .newer = 1};
    room_begin(&room);
    room_open(&room);
    OK(pleat_batch_new(room.db, &batch, &room.err));
    OK(pleat_batch_put(batch, room.space, TEXT("k"), TEXT("v"), &room.err));
    REFUSED(PLEAT_ERR_NEWER, "", pleat_commit(room.db, batch, &commit.options, NULL, &room.err));
    REFUSED(PLEAT_ERR_NEWER, "", pleat_iter_new(room.space, &walk.options, &iter, &room.err));
    cr_assert_eq(room_sequence(&room, PLEAT_APPLIED), 0);
    commit.options.size = walk.options.size = 0;
    REFUSED(PLEAT_ERR_INVALID, "size", pleat_commit(room.db, batch, &commit.options, NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "size", pleat_iter_new(room.space, &walk.options, &iter, &room.err));
    commit.newer = walk.newer = 0;
    commit.options.size = sizeof commit;
    walk.options.size = sizeof walk;
    OK(pleat_commit(room.db, batch, &commit.options, NULL, &room.err));
    OK(pleat_iter_new(room.space, &walk.options, &iter, &room.err));
    pleat_iter_free(iter);
    pleat_batch_free(batch);
    room_end(&room);
}

Test(input, cursors_are_checked) {
    struct room room;
    struct pleat_batch *batch;
    struct pleat_cursor_value found;
    static char big[2000];
    struct pleat_slice null = {NULL, 3};
    room_begin(&room);
    room_open(&room);
    OK(pleat_batch_new(room.db, &batch, &room.err));
#define REFUSED_CURSOR(part, ...)                                                                                      \
    REFUSED(PLEAT_ERR_INVALID, part, pleat_batch_set_cursor(batch, &(struct pleat_cursor){__VA_ARGS__}, &room.err))
    REFUSED_CURSOR("name of 256 bytes, the limit is 255", .name = {big, 256});
    REFUSED_CURSOR("cursor of 1025 bytes, the limit is 1024", .value = {big, 1025});
    REFUSED_CURSOR("incarnation of 65 bytes, the limit is 64", .incarnation = {big, 65});
    REFUSED_CURSOR("NULL", .name = null);
    REFUSED_CURSOR("NULL", .value = null);
    REFUSED_CURSOR("NULL", .incarnation = null);
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_batch_set_cursor(batch, NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_batch_set_cursor(NULL, &(struct pleat_cursor){.value = null}, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "256",
            pleat_batch_expect_cursor(batch, (struct pleat_slice){big, 256}, NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "1025",
            pleat_batch_expect_cursor(batch, NONE, &(struct pleat_slice){big, 1025}, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_batch_expect_cursor(batch, null, NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_batch_expect_cursor(batch, NONE, &null, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_batch_expect_cursor(NULL, NONE, NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "256",
            pleat_cursor_read(room.db, (struct pleat_slice){big, 256}, PLEAT_APPLIED, &found, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_cursor_read(room.db, null, PLEAT_APPLIED, &found, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_cursor_read(NULL, NONE, PLEAT_APPLIED, &found, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_cursor_read(room.db, NONE, PLEAT_APPLIED, NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "position is 7",
            pleat_cursor_read(room.db, NONE, (enum pleat_position)7, &found, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_cursor_list(room.db, PLEAT_APPLIED, NULL, NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_snapshot_cursor(NULL, NONE, &found, &room.err));
    OK(pleat_commit(room.db, batch, NULL, NULL, &room.err));
    cr_assert_eq(room_sequence(&room, PLEAT_APPLIED), 0, "nothing had been added");
    pleat_batch_free(batch);
    room_end(&room);
}

Test(input, cursor_names_have_a_limit_in_number) {
    struct room room;
    struct pleat_batch *batch;
    char name[16];
    room_begin(&room);
    room_open(&room);
    OK(pleat_batch_new(room.db, &batch, &room.err));
    for (int i = 0; i < 1024; i++) {
        (void)snprintf(name, sizeof name, "%d", i);
        OK(pleat_batch_set_cursor(batch, &(struct pleat_cursor){.name = text_slice(name)}, &room.err));
    }
    OK(pleat_commit(room.db, batch, NULL, NULL, &room.err));
    OK(pleat_commit(room.db, batch, NULL, NULL, &room.err));
    pleat_batch_clear(batch);
    OK(pleat_batch_set_cursor(batch, &(struct pleat_cursor){.name = TEXT("one more")}, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "1025 named cursors, the limit is 1024",
            pleat_commit(room.db, batch, NULL, NULL, &room.err));
    pleat_batch_free(batch);
    room_reopen(&room);
    room_end(&room);
}

Test(input, reads_are_checked) {
    struct room room, other;
    struct pleat_value value;
    struct pleat_snapshot *snapshot;
    struct pleat_iter *iter;
    struct pleat_check check;
    struct pleat_stats stats = {.size = 4};
    static char big[70000];
    size_t bytes;
    char buffer[4];
    struct pleat_slice key = {big, 65536}, null = {NULL, 3}, k = TEXT("k");
    room_begin(&room);
    room_open(&room);
    room_begin(&other);
    room_open(&other);
    OK(pleat_snapshot_new(other.db, &snapshot, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "65536 bytes, the limit is 65535", pleat_get(room.space, NULL, key, &value, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_get(room.space, NULL, null, &value, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_get(NULL, NULL, k, &value, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_get(room.space, NULL, k, NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "another store", pleat_get(room.space, snapshot, k, &value, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "65536", pleat_exists(room.space, NULL, key, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "65536", pleat_get_into(room.space, NULL, key, buffer, 4, &bytes, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_get_into(room.space, NULL, k, NULL, 4, &bytes, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_get_into(room.space, NULL, k, buffer, 4, NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_get_many(room.space, NULL, &k, 1, NULL, NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_snapshot_new(NULL, &snapshot, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_snapshot_new(room.db, NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "another store",
            pleat_iter_new(room.space, PLEAT_ITER_OPTIONS(.snapshot = snapshot), &iter, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "lower of 65537",
            pleat_iter_new(room.space, PLEAT_ITER_OPTIONS(.lower = {big, 65537}, .has_lower = true), &iter, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "upper is NULL",
            pleat_iter_new(room.space, PLEAT_ITER_OPTIONS(.upper = {NULL, 1}, .has_upper = true), &iter, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "prefix of 65537",
            pleat_iter_new(room.space, PLEAT_ITER_OPTIONS(.prefix = {big, 65537}), &iter, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_iter_new(NULL, NULL, &iter, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_iter_new(room.space, NULL, NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_scan(room.space, NULL, NULL, NULL, &room.err));
    OK(pleat_iter_new(room.space, NULL, &iter, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "65537", pleat_iter_seek(iter, (struct pleat_slice){big, 65537}, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_iter_seek_before(iter, null, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_iter_first(NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_iter_last(NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_iter_next(NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_iter_prev(NULL, &room.err));
    pleat_iter_free(iter);
    pleat_snapshot_free(snapshot);
    pleat_value_release(NULL);
    REFUSED(PLEAT_ERR_INVALID, "size is 4", pleat_stats_read(room.db, &stats, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_stats_read(room.db, NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_check(room.db, NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_check(NULL, &check, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_sync(NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_flush(NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_settle(NULL, NULL, NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_compact(NULL, NULL, NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_step(NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_health(NULL, &room.err));
    REFUSED(PLEAT_ERR_INVALID, "NULL", pleat_wait_durable(NULL, 0, 0, &room.err));
    room_end(&room);
    room_end(&other);
}
