/*
 * model_store.c - random calls on the whole store against a reference, under several option sets at once.
 *
 *     model_store [--seed S] [--seconds N] [--actions N]
 *
 * A history (history.h) is applied operation by operation; between them come gets, scans with bounds and prefixes both
 * ways, snapshots and iterators that are held over flushes, compactions, clears, drops and writes, settles, checks and
 * reopens. Every answer is compared with the reference state. The same actions run under every option set of the seed,
 * in step mode and with background threads: limits and codecs must not show.
 *
 * A clear of a space may also be a drop and a new space of the same name: the content and the sequence are the same.
 *
 * A failure prints one line that replays it (with threads: the same calls, not the same timing).
 */
#include "db/db.h"
#include "support/history.h"
#include "support/random.h"
#include "support/simfs.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>

#define HELD_MAX 4
#define OPTION_SETS 4

struct held_snapshot {
    struct pleat_snapshot *snapshot;
    struct pleat_space *spaces[HISTORY_SPACES];
    struct history_state state;
};

/* An iterator with the rows that it must show and where it stands. */
struct held_iterator {
    struct pleat_iter *iter;
    struct pleat_snapshot *snapshot; /* its own, or NULL */
    size_t space;
    size_t count;
    uint8_t keys[HISTORY_KEYS]; /* ranks, ascending */
    uint64_t put_by[HISTORY_KEYS];
    bool keys_only;
    bool positioned;
    int at; /* -1: before the first; count: after the last */
};

struct model {
    struct history history;
    struct pleat_options options;
    struct random random;
    struct simfs *fs;
    struct pleat_db *db;
    struct pleat_batch *batch;
    struct pleat_space *spaces[HISTORY_SPACES];
    struct history_state state;
    struct held_snapshot snapshots[HELD_MAX];
    struct held_iterator iterators[HELD_MAX];
    bool failed;
    const char *doing;
    char text[700];
};

static uint8_t ranked[HISTORY_KEYS]; /* rank -> key of the history; filled once in main */

static void __attribute__((format(printf, 2, 3))) model_complain(struct model *model, const char *format, ...) {
    if (!model->failed) {
        char what[560];
        va_list arguments;
        va_start(arguments, format);
        (void)vsnprintf(what, sizeof what, format, arguments);
        va_end(arguments);
        (void)snprintf(model->text, sizeof model->text, "%s at sequence %" PRIu64 ": %s", model->doing,
                       model->state.sequence, what);
        model->failed = true;
    }
}

static int slice_order(struct pleat_slice a, struct pleat_slice b) {
    size_t common = a.bytes < b.bytes ? a.bytes : b.bytes;
    int order = common > 0 ? memcmp(a.data, b.data, common) : 0;
    return order != 0 ? order : (a.bytes > b.bytes) - (a.bytes < b.bytes);
}

static int rank_order(const void *a, const void *b) {
    return slice_order(history_key(*(const uint8_t *)a), history_key(*(const uint8_t *)b));
}

/* A key of the universe, or a beginning of one: it need not be there. */
static struct pleat_slice model_draw_key(struct model *model) {
    struct pleat_slice key = history_key((size_t)random_below(&model->random, HISTORY_KEYS));
    if (key.bytes > 0 && random_below(&model->random, 3) == 0) {
        key.bytes = (size_t)random_below(&model->random, key.bytes);
    }
    return key;
}

static struct pleat_iter_options model_draw_range(struct model *model) {
    struct pleat_iter_options options = {.size = sizeof options};
    uint64_t draw = random_below(&model->random, 8);
    if (draw & 1) {
        options.has_lower = true;
        options.lower = model_draw_key(model);
    }
    if (draw & 2) {
        options.has_upper = true;
        options.upper = model_draw_key(model);
    }
    if (draw & 4) {
        options.prefix = model_draw_key(model);
    }
    options.keys_only = random_below(&model->random, 4) == 0;
    options.skip_cache = random_below(&model->random, 4) == 0;
    return options;
}

static bool range_holds(const struct pleat_iter_options *options, struct pleat_slice key) {
    return (!options->has_lower || slice_order(key, options->lower) >= 0) &&
           (!options->has_upper || slice_order(key, options->upper) < 0) &&
           (options->prefix.bytes == 0 ||
            (key.bytes >= options->prefix.bytes && memcmp(key.data, options->prefix.data, options->prefix.bytes) == 0));
}

/* The rows that a range of the state has, in order. */
static size_t range_rows(const struct pleat_iter_options *options, const struct history_state *state, size_t space,
                         uint8_t *ret_keys, uint64_t *ret_put_by) {
    size_t count = 0;
    for (size_t rank = 0; rank < HISTORY_KEYS; rank++) {
        uint8_t key = ranked[rank];
        if (state->put_by[space][key] != 0 && range_holds(options, history_key(key))) {
            ret_keys[count] = key;
            ret_put_by[count++] = state->put_by[space][key];
        }
    }
    return count;
}

static bool row_is(const struct model *model, size_t space, uint8_t key, uint64_t put_by, struct pleat_slice found,
                   struct pleat_slice value, struct pleat_slice version, bool keys_only) {
    uint8_t expected[4096];
    if (slice_order(history_key(key), found) != 0) {
        return false;
    }
    if (keys_only) {
        return value.bytes == 0 && version.bytes == 0;
    }
    size_t bytes = history_value(&model->history, put_by, space, key, expected);
    return slice_order(value, (struct pleat_slice){expected, bytes}) == 0 && version.bytes == sizeof put_by &&
           memcmp(version.data, &put_by, sizeof put_by) == 0;
}

/* ---- reads ------------------------------------------------------------------------------------------------------ */

static void model_get(struct model *model, const struct held_snapshot *held) {
    size_t space = (size_t)random_below(&model->random, HISTORY_SPACES);
    size_t key = (size_t)random_below(&model->random, HISTORY_KEYS);
    const struct history_state *state = held != NULL ? &held->state : &model->state;
    struct pleat_space *from = held != NULL ? held->spaces[space] : model->spaces[space];
    struct pleat_snapshot *snapshot = held != NULL ? held->snapshot : NULL;
    uint64_t put_by = state->put_by[space][key];
    uint8_t expected[4096], found[4096];
    size_t expected_bytes = history_value(&model->history, put_by, space, key, expected), bytes = 0;
    size_t room = (size_t)random_below(&model->random, model->history.value_bytes_max + 2);
    struct pleat_error err = {0};
    model->doing = "get";
    int rc = pleat_get_into(from, snapshot, history_key(key), found, room, &bytes, &err);
    size_t copied = bytes < room ? bytes : room;
    if (rc != (put_by != 0 ? 0 : PLEAT_ABSENT) || (rc == 0 && bytes != expected_bytes) ||
        (rc == 0 && copied > 0 && memcmp(found, expected, copied) != 0)) {
        model_complain(model, "key %zu of space %zu answers %d with %zu bytes (put by %" PRIu64 ") %s", key, space, rc,
                       bytes, put_by, err.message);
    }
    struct pleat_slice keys[5];
    struct pleat_value values[5];
    int status[5];
    size_t indexes[5];
    for (size_t i = 0; i < 5; i++) {
        indexes[i] = (size_t)random_below(&model->random, HISTORY_KEYS);
        keys[i] = history_key(indexes[i]);
    }
    rc = pleat_get_many(from, snapshot, keys, 5, values, status, &err);
    for (size_t i = 0; rc == 0 && i < 5; i++) {
        uint64_t by = state->put_by[space][indexes[i]];
        if (status[i] == 0) {
            if (by == 0 || !row_is(model, space, (uint8_t)indexes[i], by, keys[i],
                                   (struct pleat_slice){values[i].data, values[i].bytes},
                                   (struct pleat_slice){values[i].version, values[i].version_bytes}, false)) {
                model_complain(model, "get_many of key %zu", indexes[i]);
            }
            pleat_value_release(&values[i]);
        } else if (by != 0) {
            model_complain(model, "get_many does not find key %zu", indexes[i]);
        }
    }
    if (rc < 0) {
        model_complain(model, "get_many: %s", err.message);
    }
}

struct scan_check {
    struct model *model;
    const uint8_t *keys;
    const uint64_t *put_by;
    size_t space, count, next;
    bool reverse, keys_only;
    uint64_t stop_at; /* the callback's own end; UINT64_MAX: none */
};

static int scan_row(void *context, const struct pleat_row *row) {
    struct scan_check *check = context;
    if (check->next == check->count) {
        return 77;
    }
    size_t at = check->reverse ? check->count - 1 - check->next : check->next;
    check->next++;
    if (!row_is(check->model, check->space, check->keys[at], check->put_by[at], row->key, row->value, row->version,
                check->keys_only)) {
        return 78;
    }
    return check->next == check->stop_at ? -5000 : 0;
}

static void model_scan(struct model *model, const struct held_snapshot *held) {
    uint8_t keys[HISTORY_KEYS];
    uint64_t put_by[HISTORY_KEYS];
    size_t space = (size_t)random_below(&model->random, HISTORY_SPACES);
    struct pleat_iter_options options = model_draw_range(model);
    struct pleat_error err = {0};
    model->doing = "scan";
    options.snapshot = held != NULL ? held->snapshot : NULL;
    options.reverse = random_below(&model->random, 2) == 0;
    options.limit = random_below(&model->random, 3) == 0 ? random_below(&model->random, 10) : 0;
    struct scan_check check = {.model = model,
                               .keys = keys,
                               .put_by = put_by,
                               .space = space,
                               .reverse = options.reverse,
                               .keys_only = options.keys_only,
                               .stop_at = UINT64_MAX};
    check.count = range_rows(&options, held != NULL ? &held->state : &model->state, space, keys, put_by);
    size_t expected = options.limit != 0 && options.limit < check.count ? (size_t)options.limit : check.count;
    if (expected > 0 && random_below(&model->random, 4) == 0) {
        check.stop_at = 1 + random_below(&model->random, expected);
        expected = (size_t)check.stop_at;
    }
    int rc = pleat_scan(held != NULL ? held->spaces[space] : model->spaces[space], &options, scan_row, &check, &err);
    if (rc != (check.stop_at != UINT64_MAX ? -5000 : 0) || check.next != expected) {
        model_complain(model, "space %zu%s%s%s%s: answers %d after %zu rows of %zu %s", space,
                       options.reverse ? " reverse" : "", options.has_lower ? " lower" : "",
                       options.has_upper ? " upper" : "", options.prefix.bytes > 0 ? " prefix" : "", rc, check.next,
                       expected, err.message);
    }
}

/* ---- snapshots -------------------------------------------------------------------------------------------------- */

static void model_snapshot(struct model *model) {
    struct held_snapshot *held = &model->snapshots[random_below(&model->random, HELD_MAX)];
    struct pleat_error err = {0};
    char text[400];
    model->doing = "snapshot";
    if (held->snapshot == NULL) {
        if (pleat_snapshot_new(model->db, &held->snapshot, &err) < 0) {
            model_complain(model, "%s", err.message);
            return;
        }
        held->state = model->state;
        memcpy(held->spaces, model->spaces, sizeof held->spaces);
        if (pleat_snapshot_sequence(held->snapshot) != model->state.sequence) {
            model_complain(model, "is at %" PRIu64, pleat_snapshot_sequence(held->snapshot));
        }
        return;
    }
    uint64_t draw = random_below(&model->random, 6);
    if (draw < 2) {
        model_get(model, held);
    } else if (draw < 4) {
        model_scan(model, held);
    } else if (!history_compare(&model->history, model->db, held->spaces, held->snapshot, text, sizeof text)) {
        model_complain(model, "of %" PRIu64 ": %s", held->state.sequence, text);
    } else if (draw == 5) {
        pleat_snapshot_free(held->snapshot);
        held->snapshot = NULL;
    }
}

/* ---- iterators -------------------------------------------------------------------------------------------------- */

static void iterator_close(struct held_iterator *held) {
    pleat_iter_free(held->iter);
    pleat_snapshot_free(held->snapshot);
    held->iter = NULL;
    held->snapshot = NULL;
}

static void iterator_open(struct model *model, struct held_iterator *held) {
    struct pleat_iter_options options = model_draw_range(model);
    struct pleat_error err = {0};
    held->space = (size_t)random_below(&model->random, HISTORY_SPACES);
    held->keys_only = options.keys_only;
    held->count = range_rows(&options, &model->state, held->space, held->keys, held->put_by);
    held->at = -1;
    held->positioned = false;
    if (random_below(&model->random, 2) == 0 && pleat_snapshot_new(model->db, &held->snapshot, &err) == 0) {
        options.snapshot = held->snapshot;
    }
    if (pleat_iter_new(model->spaces[held->space], &options, &held->iter, &err) < 0) {
        model_complain(model, "%s", err.message);
    }
}

/* One move; `at` follows by the rules of pleat.h. */
static int iterator_move(struct model *model, struct held_iterator *held, const char **ret_what,
                         struct pleat_error *err) {
    int count = (int)held->count;
    uint64_t draw = random_below(&model->random, 12);
    if (draw < 4) {
        *ret_what = "next";
        held->at += held->positioned && held->at < count;
        return pleat_iter_next(held->iter, err);
    }
    if (draw < 8) {
        *ret_what = "prev";
        held->at -= held->positioned && held->at >= 0;
        return pleat_iter_prev(held->iter, err);
    }
    held->positioned = true;
    if (draw == 8) {
        *ret_what = "first";
        held->at = 0;
        return pleat_iter_first(held->iter, err);
    }
    if (draw == 9) {
        *ret_what = "last";
        held->at = count - 1;
        return pleat_iter_last(held->iter, err);
    }
    struct pleat_slice key = model_draw_key(model);
    held->at = 0;
    while (held->at < count && slice_order(history_key(held->keys[held->at]), key) < 0) {
        held->at++;
    }
    if (draw == 10) {
        *ret_what = "seek";
        return pleat_iter_seek(held->iter, key, err);
    }
    *ret_what = "seek_before";
    held->at--;
    return pleat_iter_seek_before(held->iter, key, err);
}

static void model_iterator(struct model *model) {
    struct held_iterator *held = &model->iterators[random_below(&model->random, HELD_MAX)];
    model->doing = "iterator";
    if (held->iter == NULL) {
        iterator_open(model, held);
        return;
    }
    uint64_t moves = 1 + random_below(&model->random, 12);
    for (uint64_t i = 0; i < moves && !model->failed; i++) {
        struct pleat_error err = {0};
        const char *what;
        int rc = iterator_move(model, held, &what, &err);
        bool on = held->positioned && held->at >= 0 && held->at < (int)held->count;
        if (rc != (on ? 0 : PLEAT_END)) {
            model_complain(model, "%s answers %d at %d of %zu %s", what, rc, held->at, held->count, err.message);
        } else if (on &&
                   !row_is(model, held->space, held->keys[held->at], held->put_by[held->at], pleat_iter_key(held->iter),
                           pleat_iter_value(held->iter), pleat_iter_version(held->iter), held->keys_only)) {
            model_complain(model, "%s shows another row at %d of %zu", what, held->at, held->count);
        } else if (!on && pleat_iter_key(held->iter).bytes != 0) {
            model_complain(model, "%s shows a key off the end", what);
        }
    }
    if (random_below(&model->random, 6) == 0) {
        iterator_close(held);
    }
}

/* ---- writes and the background ---------------------------------------------------------------------------------- */

/* Drops the space and makes it again: what a clear does, with another handle. */
static int model_drop(struct model *model, size_t space, struct pleat_error *err) {
    int rc = pleat_space_drop(model->spaces[space], err);
    return rc < 0 ? rc : history_spaces(model->db, model->spaces, err);
}

static void model_write(struct model *model) {
    struct pleat_error err = {0};
    uint64_t n = model->state.sequence + 1;
    size_t space;
    int rc;
    model->doing = "write";
    if (history_is_clear(&model->history, n, &space) && space > 0 && random_below(&model->random, 2) == 0) {
        model->doing = "drop";
        rc = model_drop(model, space, &err);
    } else {
        rc = history_apply(&model->history, n, model->db, model->spaces, model->batch,
                           random_below(&model->random, 20) == 0, &err);
    }
    if (rc < 0) {
        model_complain(model, "%s", err.message);
    }
    history_state_step(&model->history, &model->state);
}

static void model_close(struct model *model) {
    struct pleat_error err = {0};
    for (size_t i = 0; i < HELD_MAX; i++) {
        iterator_close(&model->iterators[i]);
        pleat_snapshot_free(model->snapshots[i].snapshot);
        model->snapshots[i].snapshot = NULL;
    }
    pleat_batch_free(model->batch);
    model->batch = NULL;
    if (pleat_close(model->db, &err) < 0) {
        model_complain(model, "close: %s", err.message);
    }
    model->db = NULL;
    if (simfs_open_handles(model->fs) != 0) {
        model_complain(model, "%" PRIu64 " handles are left", simfs_open_handles(model->fs));
    }
}

static void model_open(struct model *model) {
    struct pleat_error err = {0};
    uint64_t applied = 0;
    model->doing = "open";
    int rc = db_open_with("store", &model->options, simfs_vfs(model->fs), &mem_system, &model->db, &err);
    rc = rc == 0 ? history_spaces(model->db, model->spaces, &err) : rc;
    rc = rc == 0 ? pleat_batch_new(model->db, &model->batch, &err) : rc;
    if (rc < 0) {
        model_complain(model, "%s", err.message);
        return;
    }
    pleat_position_read(model->db, PLEAT_APPLIED, NULL, &applied);
    if (applied != model->state.sequence) {
        model_complain(model, "at %" PRIu64, applied);
    }
}

static void model_background(struct model *model) {
    struct pleat_error err = {0};
    struct pleat_check check;
    struct pleat_stats stats = {.size = sizeof stats};
    char text[400];
    size_t space = (size_t)random_below(&model->random, HISTORY_SPACES);
    uint64_t draw = random_below(&model->random, 24);
    int rc = 0;
    if (draw < 12) {
        model->doing = "step";
        rc = model->options.background == PLEAT_BACKGROUND_STEPS ? pleat_step(model->db, &err) : 0;
    } else if (draw < 15) {
        model->doing = "flush";
        rc = pleat_flush(model->db, &err);
    } else if (draw == 15) {
        model->doing = "compact";
        rc = pleat_compact(model->spaces[space], NULL, NULL, &err);
    } else if (draw == 16) {
        model->doing = "settle";
        rc = pleat_settle(model->db, NULL, NULL, &err);
    } else if (draw == 17) {
        model->doing = "sync";
        rc = pleat_sync(model->db, &err);
    } else if (draw == 18) {
        model->doing = "check";
        rc = pleat_check(model->db, &check, &err);
    } else if (draw == 19) {
        model->doing = "stats";
        rc = pleat_stats_read(model->db, &stats, &err);
        if (stats.applied_sequence != model->state.sequence || stats.spaces != HISTORY_SPACES) {
            model_complain(model, "sequence %" PRIu64 ", %" PRIu64 " spaces", stats.applied_sequence, stats.spaces);
        }
    } else if (draw == 20) {
        model->doing = "reopen";
        model_close(model);
        model_open(model);
    } else {
        model->doing = "compare";
        if (!history_compare(&model->history, model->db, model->spaces, NULL, text, sizeof text)) {
            model_complain(model, "%s", text);
        }
    }
    if (rc < 0) {
        model_complain(model, "%s", err.message);
    }
}

static void model_draw_options(struct model *model, uint64_t seed, unsigned set) {
    struct random random = {seed * 31 + set};
    bool threads = set % 2 == 1;
    model->options = (struct pleat_options){
        .size = sizeof model->options,
        .background = threads ? PLEAT_BACKGROUND_THREADS : PLEAT_BACKGROUND_STEPS,
        .background_threads = 1 + (uint32_t)random_below(&random, 3),
        .memtable_bytes = 1024 << random_below(&random, 6),
        .cache_bytes = 65536 << random_below(&random, 3),
        .table_bytes = 1024 << random_below(&random, 4),
        .level_base_bytes = 1024 << random_below(&random, 6),
        .level_ratio = 2 + (uint32_t)random_below(&random, 9),
        .level0_tables = 1 + (uint32_t)random_below(&random, 8),
        .durability = 1 + (uint32_t)random_below(&random, 3),
        .sync_interval_ms = 1 + random_below(&random, 20),
        .log_by_write = random_below(&random, 2) == 0,
        .table_files_max = 1u << random_below(&random, 6),
    };
}

/* The same actions under one option set. */
static bool model_run(uint64_t seed, unsigned set, uint64_t actions) {
    static struct model model;
    memset(&model, 0, sizeof model);
    model.history = (struct history){.seed = seed, .updates_max = 1 + (unsigned)(seed % 12), .clears = true};
    model.history.value_bytes_max = (size_t[]){20, 60, 300, 1500}[seed / 5 % 4];
    model.random = (struct random){seed ^ 0x30de1};
    model.fs = simfs_new(seed);
    model_draw_options(&model, seed, set);
    model_open(&model);
    for (uint64_t i = 0; i < actions && !model.failed; i++) {
        uint64_t draw = random_below(&model.random, 32);
        if (draw < 14) {
            model_write(&model);
        } else if (draw < 17) {
            model_get(&model, NULL);
        } else if (draw < 20) {
            model_scan(&model, NULL);
        } else if (draw < 23) {
            model_snapshot(&model);
        } else if (draw < 27) {
            model_iterator(&model);
        } else {
            model_background(&model);
        }
    }
    if (!model.failed) {
        model_close(&model);
        model_open(&model);
        char text[400];
        if (!model.failed && !history_compare(&model.history, model.db, model.spaces, NULL, text, sizeof text)) {
            model_complain(&model, "%s", text);
        }
    }
    model_close(&model);
    simfs_free(model.fs);
    if (model.failed) {
        fprintf(stderr, "FAILED: model_store --seed 0x%" PRIx64 " --actions %" PRIu64 " (option set %u): %s\n", seed,
                actions, set, model.text);
    }
    return !model.failed;
}

int main(int argc, char **argv) {
    struct random random = random_begin("model_store");
    uint64_t seed = random_next(&random), seconds = 8, actions = 600, seeds = 0;
    bool replay = false, failed = false;
    for (int i = 1; i + 1 < argc; i += 2) {
        uint64_t number = strtoull(argv[i + 1], NULL, 0);
        if (strcmp(argv[i], "--seed") == 0) {
            seed = number;
            replay = true;
        } else if (strcmp(argv[i], "--seconds") == 0) {
            seconds = number;
        } else if (strcmp(argv[i], "--actions") == 0) {
            actions = number;
        } else {
            fprintf(stderr, "unknown argument %s\n", argv[i]);
            return 2;
        }
    }
    for (size_t i = 0; i < HISTORY_KEYS; i++) {
        ranked[i] = (uint8_t)i;
    }
    qsort(ranked, HISTORY_KEYS, sizeof ranked[0], rank_order);
    uint64_t deadline = (uint64_t)time(NULL) + seconds;
    do {
        for (unsigned set = 0; set < OPTION_SETS && !failed; set++) {
            failed = !model_run(seed, set, actions);
        }
        seeds++;
        seed = random_next(&random);
    } while (!failed && !replay && (uint64_t)time(NULL) < deadline);
    printf("%" PRIu64 " histories under %d option sets: %s\n", seeds, OPTION_SETS, failed ? "FAILED" : "all right");
    return failed;
}
