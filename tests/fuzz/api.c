/*
 * api.c - fuzzes the whole API: the input is a program of calls, each of which is also made on a model; every answer is
 * compared.
 *
 * The first bytes draw the limits, tiny, so that a few calls flush and compact. The store is in step mode, on the
 * simulated disk. A call is one byte and what it needs behind it; a program ends with its bytes.
 *
 * Some of what a store does needs two jobs at once: a merge inside level 0 happens only while older tables of it are
 * the inputs of another job. So a step may be met in the middle: when it has written so many pieces of its output, the
 * program goes on from inside that write with commits, flushes and a step of its own, and only then does the outer job
 * end. What two threads would do is thereby in one, and the same bytes are the same run.
 */
#include "db/db.h"
#include "fuzz/api_model.h"
#include "support/simfs.h"

#include <stdlib.h>

#define HELD 3
#define CALLS_MAX 200
#define PENDING_MAX 24

struct pending {
    bool is_delete;
    size_t space;
    struct model_row row;
};

struct held_snapshot {
    struct pleat_snapshot *snapshot;
    struct pleat_space *spaces[MODEL_SPACES];
    struct model_state state;
};

struct held_iter {
    struct pleat_iter *iter;
    struct model_space rows; /* what it must show */
    bool keys_only, positioned;
    int at; /* -1: before the first; rows.count: behind the last */
};

struct api {
    struct fuzz_input input;
    struct simfs *fs;
    struct vfs vfs; /* of fs, but for writes to tables, in the middle of which other calls may be made */
    struct fuzz_mem memory;
    struct pleat_options options;
    struct pleat_db *db;
    struct vfs_file *table; /* the newest: what a job writes */
    unsigned meanwhile;     /* the step under way is met at so many writes from now; 0: it is not */
    struct pleat_batch *batch;
    struct pleat_space *spaces[MODEL_SPACES];
    struct model_state state;
    struct pending pending[PENDING_MAX];
    size_t pending_count;
    struct held_snapshot snapshots[HELD];
    struct held_iter iters[HELD];
    struct pleat_error err;
};

static struct api the_api; /* one, for what the disk calls */

#define OK(call) FUZZ_CHECK_TEXT((call) == 0, "%s", api->err.message)

/* ---- drawing ---------------------------------------------------------------------------------------------------- */

/* Awkward keys by number, or bytes of the input. */
static struct pleat_slice draw_key(struct api *api) {
    static const struct pleat_slice awkward[] = {
        {"", 0},
        {"\0", 1},
        {"\0\0", 2},
        {"\xff", 1},
        {"\xff\xff", 2},
        {"a", 1},
        {"ab", 2},
        {"abc", 3},
        {"ab\xff", 3},
        {"a.b", 3},
        {"a.b.c", 5},
        {"a.b.d", 5},
        {"a.c.d", 5},
        {"svc.000001.route.1", 18},
        {"svc.000001.route.2", 18},
        {"svc.000002.route.1", 18},
        {"\xff\xff\xff\xff\xff\xff\xff\xff\xff", 9},
        {"ab\0", 3},
    };
    enum { AWKWARD = sizeof awkward / sizeof awkward[0] };
    uint8_t draw = fuzz_u8(&api->input);
    return draw < 200 ? awkward[draw % AWKWARD] : fuzz_slice(&api->input, (draw - 200u) % MODEL_KEY_BYTES);
}

static struct pleat_iter_options draw_range(struct api *api) {
    struct pleat_iter_options options = {.size = sizeof options};
    uint8_t draw = fuzz_u8(&api->input);
    options.has_lower = (draw & 1) != 0;
    options.lower = (draw & 1) != 0 ? draw_key(api) : options.lower;
    options.has_upper = (draw & 2) != 0;
    options.upper = (draw & 2) != 0 ? draw_key(api) : options.upper;
    options.prefix = (draw & 4) != 0 ? draw_key(api) : options.prefix;
    options.keys_only = (draw & 8) != 0;
    options.skip_cache = (draw & 16) != 0;
    options.reverse = (draw & 32) != 0;
    return options;
}

static size_t draw_space(struct api *api) {
    return fuzz_u8(&api->input) % MODEL_SPACES;
}

/* ---- comparing -------------------------------------------------------------------------------------------------- */

static void check_row(const struct model_row *row, const struct pleat_row *found, bool keys_only) {
    uint8_t buffer[MODEL_VALUE_BYTES];
    FUZZ_CHECK(fuzz_equal(model_key(row), found->key));
    if (keys_only) {
        FUZZ_CHECK(found->value.bytes == 0 && found->version.bytes == 0 && !found->has_flag);
        return;
    }
    FUZZ_CHECK(fuzz_equal(found->value, model_bytes(row->seed, row->value_bytes, buffer)));
    FUZZ_CHECK(fuzz_equal(found->version, model_bytes(row->seed, row->version_bytes, buffer)));
    FUZZ_CHECK(found->has_flag == row->has_flag && (!row->has_flag || found->flag == row->flag));
}

static void check_get(struct api *api, const struct model_state *state, struct pleat_space *const *spaces,
                      const struct pleat_snapshot *snapshot) {
    size_t space = draw_space(api), at;
    struct pleat_slice key = draw_key(api);
    struct pleat_value value;
    uint8_t buffer[64];
    size_t bytes = 0;
    bool present;
    at = model_find(&state->spaces[space], key, &present);
    int expected = present ? 0 : PLEAT_ABSENT;
    FUZZ_CHECK(pleat_exists(spaces[space], snapshot, key, &api->err) == expected);
    FUZZ_CHECK(pleat_get_into(spaces[space], snapshot, key, buffer, sizeof buffer, &bytes, &api->err) == expected);
    FUZZ_CHECK(!present || bytes == state->spaces[space].rows[at].value_bytes);
    FUZZ_CHECK(pleat_get(spaces[space], snapshot, key, &value, &api->err) == expected);
    if (present) {
        struct pleat_row row = {.key = key,
                                .value = {value.data, value.bytes},
                                .version = {value.version, value.version_bytes},
                                .has_flag = value.has_flag,
                                .flag = value.flag};
        check_row(&state->spaces[space].rows[at], &row, false);
        pleat_value_release(&value);
    }
}

struct scan {
    struct model_space rows;
    struct pleat_iter_options options;
    size_t next;
};

static int scan_row(void *context, const struct pleat_row *row) {
    struct scan *scan = context;
    FUZZ_CHECK(scan->next < scan->rows.count);
    size_t at = scan->options.reverse ? scan->rows.count - 1 - scan->next : scan->next;
    check_row(&scan->rows.rows[at], row, scan->options.keys_only);
    scan->next++;
    return 0;
}

static void check_scan(struct api *api, const struct model_state *state, struct pleat_space *const *spaces,
                       const struct pleat_snapshot *snapshot) {
    size_t space = draw_space(api);
    struct scan scan = {.options = draw_range(api), .rows = state->spaces[space]};
    uint8_t limit = fuzz_u8(&api->input);
    scan.options.snapshot = snapshot;
    scan.options.limit = limit < 128 ? 0 : limit - 127u;
    model_cut(&scan.rows, &scan.options);
    OK(pleat_scan(spaces[space], &scan.options, scan_row, &scan, &api->err));
    bool limited = scan.options.limit != 0 && scan.options.limit < scan.rows.count;
    FUZZ_CHECK(scan.next == (limited ? scan.options.limit : scan.rows.count));
}

static void check_cursors(struct api *api) {
    struct pleat_cursor_value value;
    for (size_t i = 0; i < MODEL_CURSORS; i++) {
        struct pleat_slice name = {"second", i == 0 ? 0 : 6};
        const struct model_cursor *cursor = &api->state.cursors[i];
        int rc = pleat_cursor_read(api->db, name, PLEAT_APPLIED, &value, &api->err);
        FUZZ_CHECK(rc == (cursor->present ? 0 : PLEAT_ABSENT) && value.sequence == api->state.sequence);
        FUZZ_CHECK(!cursor->present || fuzz_equal((struct pleat_slice){value.value, value.bytes},
                                                  (struct pleat_slice){cursor->value, cursor->bytes}));
    }
}

/* ---- writes ----------------------------------------------------------------------------------------------------- */

/* Rows that the space would have at most, were the batch applied. */
static size_t rows_bound(const struct api *api, size_t space) {
    size_t rows = api->state.spaces[space].count;
    for (size_t i = 0; i < api->pending_count; i++) {
        rows += api->pending[i].space == space;
    }
    return rows;
}

static void call_put(struct api *api) {
    size_t space = draw_space(api);
    struct pending *pending = &api->pending[api->pending_count];
    struct pleat_slice key = draw_key(api);
    uint8_t how = fuzz_u8(&api->input), size = fuzz_u8(&api->input), buffer[MODEL_VALUE_BYTES],
            version[MODEL_VALUE_BYTES];
    if (api->pending_count == PENDING_MAX || rows_bound(api, space) == MODEL_ROWS) {
        return;
    }
    *pending = (struct pending){.space = space};
    memcpy(pending->row.key, key.bytes > 0 ? key.data : "", key.bytes);
    pending->row.key_bytes = (uint8_t)key.bytes;
    pending->row.seed = how;
    pending->row.value_bytes = (uint16_t)(size < 200 ? size : (size - 199u) * 100u);
    pending->row.version_bytes = (how & 6) == 2 ? how % 33 : 0;
    pending->row.has_flag = (how & 24) == 8;
    pending->row.flag = pending->row.has_flag ? how : 0;
    struct pleat_slice value = model_bytes(how, pending->row.value_bytes, buffer);
    struct pleat_attributes attributes = {.version = model_bytes(how, pending->row.version_bytes, version),
                                          .has_flag = pending->row.has_flag,
                                          .flag = pending->row.flag};
    if ((how & 32) != 0) {
        void *room = NULL;
        OK(pleat_batch_reserve(api->batch, api->spaces[space], key, value.bytes, &attributes, &room, &api->err));
        if (value.bytes > 0) {
            memcpy(room, value.data, value.bytes);
        }
    } else {
        OK(pleat_batch_put_with(api->batch, api->spaces[space], key, value, &attributes, &api->err));
    }
    api->pending_count++;
}

static void call_delete(struct api *api) {
    struct pending *pending = &api->pending[api->pending_count];
    size_t space = draw_space(api);
    struct pleat_slice key = draw_key(api);
    if (api->pending_count == PENDING_MAX) {
        return;
    }
    *pending = (struct pending){.is_delete = true, .space = space};
    memcpy(pending->row.key, key.bytes > 0 ? key.data : "", key.bytes);
    pending->row.key_bytes = (uint8_t)key.bytes;
    OK(pleat_batch_delete(api->batch, api->spaces[space], key, &api->err));
    api->pending_count++;
}

static void batch_clear(struct api *api) {
    pleat_batch_clear(api->batch);
    api->pending_count = 0;
}

static struct model_cursor draw_cursor(struct api *api) {
    struct model_cursor cursor = {.present = true};
    struct pleat_slice value = fuzz_slice(&api->input, fuzz_u8(&api->input) % (MODEL_CURSOR_BYTES + 1));
    cursor.bytes = (uint8_t)value.bytes;
    memcpy(cursor.value, value.bytes > 0 ? value.data : "", value.bytes);
    return cursor;
}

static void commit_applied(struct api *api, bool sets, size_t which, const struct model_cursor *cursor) {
    for (size_t i = 0; i < api->pending_count; i++) {
        struct pending *pending = &api->pending[i];
        if (pending->is_delete) {
            model_delete(&api->state.spaces[pending->space], model_key(&pending->row));
        } else {
            model_put(&api->state.spaces[pending->space], &pending->row);
        }
    }
    if (sets) {
        api->state.cursors[which] = *cursor;
    }
    api->state.sequence += sets || api->pending_count > 0;
}

/* how: 1 sets a cursor (with 64: removes it), 2 expects one, 4 (with 2) expects the right one, 8 skip_if_applied, 16
 * sync. */
static void call_commit(struct api *api) {
    uint8_t how = fuzz_u8(&api->input);
    size_t which = (how >> 5) % MODEL_CURSORS;
    struct pleat_slice name = {"second", which == 0 ? 0 : 6};
    const struct model_cursor *stored = &api->state.cursors[which];
    struct model_cursor cursor = {0}, expected = *stored;
    bool sets = (how & 1) != 0, mismatch = false, skip = false;
    bool removes = sets && (how & 64) != 0;
    if (removes) {
        OK(pleat_batch_remove_cursor(api->batch, name, &api->err));
    } else if (sets) {
        cursor = draw_cursor(api);
        struct pleat_cursor given = {.name = name, .value = {cursor.value, cursor.bytes}};
        OK(pleat_batch_set_cursor(api->batch, &given, &api->err));
    }
    if ((how & 2) != 0) {
        expected = (how & 4) != 0 ? *stored : draw_cursor(api);
        struct pleat_slice value = {expected.value, expected.bytes};
        OK(pleat_batch_expect_cursor(api->batch, name, expected.present ? &value : NULL, &api->err));
        mismatch = expected.present != stored->present ||
                   (stored->present && !fuzz_equal(value, (struct pleat_slice){stored->value, stored->bytes}));
    }
    if ((how & 8) != 0) {
        bool is_behind = stored->present && fuzz_order((struct pleat_slice){cursor.value, cursor.bytes},
                                                       (struct pleat_slice){stored->value, stored->bytes}) <= 0;
        skip = sets && !removes && is_behind;
    }
    uint64_t sequence = 0;
    int rc = pleat_commit(api->db, api->batch,
                          PLEAT_COMMIT_OPTIONS(.skip_if_applied = (how & 8) != 0,
                                               .sync = (how & 16) != 0 ? PLEAT_COMMIT_SYNC : PLEAT_COMMIT_SYNC_DEFAULT),
                          &sequence, &api->err);
    if (rc == PLEAT_SKIPPED) {
        FUZZ_CHECK(skip);
    } else if (rc == PLEAT_ERR_MISMATCH) {
        FUZZ_CHECK(mismatch);
    } else {
        FUZZ_CHECK_TEXT(rc == 0 && !mismatch && !skip, "%d %s", rc, api->err.message);
        bool counts = sets || api->pending_count > 0;
        commit_applied(api, sets, which, &cursor);
        FUZZ_CHECK(!counts || sequence == api->state.sequence);
    }
    batch_clear(api);
    check_cursors(api);
}

static void open_spaces(struct api *api) {
    static const struct pleat_space_options options[MODEL_SPACES] = {
        {.size = sizeof options[0]},
        {.size = sizeof options[0], .codec = PLEAT_CODEC_NONE, .block_bytes = 64, .group_bytes = 2},
        {.size = sizeof options[0], .block_bytes = 128, .group_delimiters = 2, .group_delimiter = '.'},
    };
    api->spaces[0] = pleat_default_space(api->db);
    for (size_t i = 1; i < MODEL_SPACES; i++) {
        OK(pleat_space_open(api->db, (struct pleat_slice){i == 1 ? "one" : "two", 3}, &options[i], &api->spaces[i],
                            &api->err));
    }
}

static void call_clear(struct api *api, bool drop) {
    size_t space = draw_space(api);
    batch_clear(api); /* a batch for a dropped space is refused; the model has none of that */
    if (drop && space > 0) {
        struct pleat_space *dropped = api->spaces[space];
        OK(pleat_space_drop(dropped, &api->err));
        open_spaces(api);
        FUZZ_CHECK(pleat_exists(dropped, NULL, (struct pleat_slice){"a", 1}, &api->err) < 0);
    } else {
        OK(pleat_space_clear(api->spaces[space], &api->err));
    }
    api->state.spaces[space].count = 0;
    api->state.sequence++;
}

/* ---- snapshots and iterators ------------------------------------------------------------------------------------ */

static void snapshot_free(struct held_snapshot *held) {
    pleat_snapshot_free(held->snapshot);
    held->snapshot = NULL;
}

static void call_snapshot(struct api *api) {
    uint8_t draw = fuzz_u8(&api->input);
    struct held_snapshot *held = &api->snapshots[draw % HELD];
    if (held->snapshot == NULL) {
        OK(pleat_snapshot_new(api->db, &held->snapshot, &api->err));
        held->state = api->state;
        memcpy(held->spaces, api->spaces, sizeof held->spaces);
        FUZZ_CHECK(pleat_snapshot_sequence(held->snapshot) == api->state.sequence);
    } else if (draw < 80) {
        check_get(api, &held->state, held->spaces, held->snapshot);
    } else if (draw < 200) {
        check_scan(api, &held->state, held->spaces, held->snapshot);
    } else {
        snapshot_free(held);
    }
}

static void iter_free(struct held_iter *held) {
    pleat_iter_free(held->iter);
    held->iter = NULL;
}

static void iter_new(struct api *api, struct held_iter *held) {
    size_t space = draw_space(api);
    struct pleat_iter_options options = draw_range(api);
    options.reverse = false;
    held->keys_only = options.keys_only;
    held->rows = api->state.spaces[space];
    held->positioned = false;
    held->at = -1;
    model_cut(&held->rows, &options);
    OK(pleat_iter_new(api->spaces[space], &options, &held->iter, &api->err));
}

/* One move; `at` follows by the rules of pleat.h. */
static int iter_move(struct api *api, struct held_iter *held, uint8_t draw) {
    int count = (int)held->rows.count;
    bool equal;
    if (draw < 100) {
        held->at += held->positioned && held->at < count;
        return pleat_iter_next(held->iter, &api->err);
    }
    if (draw < 200) {
        held->at -= held->positioned && held->at >= 0;
        return pleat_iter_prev(held->iter, &api->err);
    }
    held->positioned = true;
    if (draw < 210) {
        held->at = 0;
        return pleat_iter_first(held->iter, &api->err);
    }
    if (draw < 220) {
        held->at = count - 1;
        return pleat_iter_last(held->iter, &api->err);
    }
    struct pleat_slice key = draw_key(api);
    held->at = (int)model_find(&held->rows, key, &equal);
    if (draw < 238) {
        return pleat_iter_seek(held->iter, key, &api->err);
    }
    held->at--;
    return pleat_iter_seek_before(held->iter, key, &api->err);
}

static void call_iter(struct api *api) {
    struct held_iter *held = &api->iters[fuzz_u8(&api->input) % HELD];
    if (held->iter == NULL) {
        iter_new(api, held);
        return;
    }
    uint8_t moves = fuzz_u8(&api->input);
    if (moves >= 240) {
        iter_free(held);
        return;
    }
    for (unsigned i = 0; i <= moves % 8u; i++) {
        int rc = iter_move(api, held, fuzz_u8(&api->input));
        bool on = held->positioned && held->at >= 0 && held->at < (int)held->rows.count;
        FUZZ_CHECK_TEXT(rc == (on ? 0 : PLEAT_END), "%d at %d of %zu", rc, held->at, held->rows.count);
        struct pleat_row row = {.key = pleat_iter_key(held->iter),
                                .value = pleat_iter_value(held->iter),
                                .version = pleat_iter_version(held->iter)};
        row.has_flag = pleat_iter_flag(held->iter, &row.flag);
        if (on) {
            check_row(&held->rows.rows[held->at], &row, held->keys_only);
        } else {
            FUZZ_CHECK(row.key.bytes == 0 && row.value.bytes == 0 && !row.has_flag);
        }
    }
}

/* ---- the store's life ------------------------------------------------------------------------------------------- */

static void api_open(struct api *api) {
    uint64_t applied = 0;
    OK(db_open_with("store", &api->options, &api->vfs, &api->memory.mem, &api->db, &api->err));
    open_spaces(api);
    OK(pleat_batch_new(api->db, &api->batch, &api->err));
    pleat_position_read(api->db, PLEAT_APPLIED, NULL, &applied);
    FUZZ_CHECK(applied == api->state.sequence);
}

static void api_close(struct api *api) {
    for (size_t i = 0; i < HELD; i++) {
        iter_free(&api->iters[i]);
        snapshot_free(&api->snapshots[i]);
    }
    pleat_batch_free(api->batch);
    api->pending_count = 0;
    OK(pleat_close(api->db, &api->err));
    FUZZ_CHECK(simfs_open_handles(api->fs) == 0);
}

static void check_space(struct api *api, size_t space, bool reverse) {
    struct scan scan = {.options = {.size = sizeof scan.options, .reverse = reverse}, .rows = api->state.spaces[space]};
    OK(pleat_scan(api->spaces[space], &scan.options, scan_row, &scan, &api->err));
    FUZZ_CHECK(scan.next == scan.rows.count);
}

static void check_all(struct api *api) {
    struct pleat_check check;
    OK(pleat_check(api->db, &check, &api->err));
    for (unsigned i = 0; i < 2 * MODEL_SPACES; i++) {
        check_space(api, i % MODEL_SPACES, i >= MODEL_SPACES);
    }
    check_cursors(api);
}

/* An update of a space, as often as not of a key that it has. */
static void update_in(struct api *api, size_t space) {
    const struct model_space *rows = &api->state.spaces[space];
    struct pending *pending = &api->pending[api->pending_count];
    uint8_t draw = fuzz_u8(&api->input), size = fuzz_u8(&api->input), buffer[MODEL_VALUE_BYTES];
    struct pleat_slice key = draw < 128 && rows->count > 0 ? model_key(&rows->rows[size % rows->count]) : draw_key(api);
    if (api->pending_count == PENDING_MAX || rows_bound(api, space) == MODEL_ROWS) {
        return;
    }
    *pending = (struct pending){.is_delete = draw % 2 == 0, .space = space, .row.seed = draw};
    memcpy(pending->row.key, key.bytes > 0 ? key.data : "", key.bytes);
    pending->row.key_bytes = (uint8_t)key.bytes;
    key = model_key(&pending->row);
    if (pending->is_delete) {
        OK(pleat_batch_delete(api->batch, api->spaces[space], key, &api->err));
    } else {
        pending->row.value_bytes = size;
        OK(pleat_batch_put(api->batch, api->spaces[space], key, model_bytes(draw, size, buffer), &api->err));
    }
    api->pending_count++;
}

/* Between a step's beginning and its end: a few generations and a job over them. Nothing that would wait for the job.
 */
static void meanwhile(struct api *api) {
    uint8_t draw = fuzz_u8(&api->input);
    size_t space = draw_space(api);
    for (unsigned generation = 0; generation < 2 + draw % 4u; generation++) {
        for (unsigned updates = 1 + fuzz_u8(&api->input) % 4u; updates > 0; updates--) {
            update_in(api, space);
        }
        call_commit(api);
        OK(pleat_flush(api->db, &api->err));
    }
    int rc = pleat_step(api->db, &api->err);
    FUZZ_CHECK_TEXT(rc == 0 || rc == PLEAT_END, "%s", api->err.message);
    check_space(api, space, draw >= 128);
}

/* A compaction's write to a table holds no lock (a flush's holds none either, but commits would wait for it). */
static int api_file_write(struct vfs_file *file, uint64_t offset, const void *data, size_t n, struct pleat_error *err) {
    struct api *api = &the_api;
    int rc = simfs_vfs(api->fs)->file_write(file, offset, data, n, err);
    if (rc == 0 && api->meanwhile > 0 && api->db->compacting > 0 && !api->db->flushing && file == api->table &&
        --api->meanwhile == 0) {
        meanwhile(api);
    }
    return rc;
}

/* The newest table is told from the manifest by its name. */
static int api_file_open(struct vfs_dir *dir, const char *name, enum vfs_file_mode how, uint32_t mode,
                         struct vfs_file **ret_file, struct pleat_error *err) {
    int rc = simfs_vfs(the_api.fs)->file_open(dir, name, how, mode, ret_file, err);
    uint64_t number;
    if (rc == 0 && how == VFS_FILE_CREATE_NEW) {
        the_api.table = table_name_parse(name, &number) ? *ret_file : NULL;
    }
    return rc;
}

static void step_and_meanwhile(struct api *api, unsigned writes) {
    api->meanwhile = writes;
    int rc = pleat_step(api->db, &api->err);
    FUZZ_CHECK_TEXT(rc == 0 || rc == PLEAT_END, "%s", api->err.message);
    for (size_t i = 0; api->meanwhile == 0 && i < MODEL_SPACES; i++) { /* before the next clear hides what came of it */
        check_space(api, i, false);
    }
    api->meanwhile = 0;
}

static void call_background(struct api *api) {
    uint8_t draw = fuzz_u8(&api->input);
    if (draw < 60) {
        step_and_meanwhile(api, 1 + draw % 2u);
    } else if (draw < 120) {
        for (unsigned i = 0; i <= draw % 4u; i++) {
            int rc = pleat_step(api->db, &api->err);
            FUZZ_CHECK_TEXT(rc == 0 || rc == PLEAT_END, "%s", api->err.message);
        }
    } else if (draw < 180) {
        OK(pleat_flush(api->db, &api->err));
    } else if (draw < 210) {
        OK(pleat_compact(api->spaces[draw % MODEL_SPACES], NULL, NULL, &api->err));
    } else if (draw < 220) {
        OK(pleat_settle(api->db, NULL, NULL, &api->err));
    } else if (draw < 230) {
        OK(pleat_sync(api->db, &api->err));
    } else if (draw < 245) {
        check_all(api);
    } else {
        api_close(api);
        api_open(api);
    }
}

static void api_call(struct api *api) {
    uint8_t draw = fuzz_u8(&api->input) % 32;
    if (draw < 9) {
        call_put(api);
    } else if (draw < 12) {
        call_delete(api);
    } else if (draw < 17) {
        call_commit(api);
    } else if (draw < 19) {
        check_get(api, &api->state, api->spaces, NULL);
    } else if (draw < 21) {
        check_scan(api, &api->state, api->spaces, NULL);
    } else if (draw < 23) {
        call_snapshot(api);
    } else if (draw < 26) {
        call_iter(api);
    } else if (draw < 30) {
        call_background(api);
    } else if (draw == 30) {
        call_clear(api, true);
    } else {
        call_clear(api, false);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct api *api = &the_api;
    memset(api, 0, sizeof *api);
    api->input = (struct fuzz_input){data, data + size};
    uint8_t draw = fuzz_u8(&api->input), more = fuzz_u8(&api->input);
    api->options = (struct pleat_options){
        .size = sizeof api->options,
        .background = PLEAT_BACKGROUND_STEPS,
        .memtable_bytes = 1024u << (draw & 3),
        .cache_bytes = 65536,
        .table_bytes = 1024u << ((draw >> 2) & 3),
        .level_base_bytes = 1024u << ((draw >> 4) & 3),
        .level_ratio = 2 + (draw >> 6),
        .level0_tables = 1 + more % 4u,
        .durability = 1 + (more >> 2) % 3u,
        .log_by_write = (more & 128) != 0,
        .table_files_max = 1 + (more >> 4) % 4u,
    };
    fuzz_mem_init(&api->memory, size, 1024, 1 << 20);
    api->memory.mapped_bound = 8 << 20;
    api->fs = simfs_new(1);
    api->vfs = *simfs_vfs(api->fs);
    api->vfs.file_open = api_file_open;
    api->vfs.file_write = api_file_write;
    api_open(api);
    for (unsigned i = 0; i < CALLS_MAX && fuzz_left(&api->input) > 0; i++) {
        api_call(api);
    }
    check_all(api);
    api_close(api);
    api_open(api);
    check_all(api);
    api_close(api);
    simfs_free(api->fs);
    fuzz_mem_fini(&api->memory);
    return 0;
}
