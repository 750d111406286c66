/* scenario.c - see scenario.h. */
#include "support/scenario.h"

#include "base/mem.h"
#include "db/db.h"
#include "support/history.h"

#include <inttypes.h>
#include <string.h>

#define OPERATIONS 70
#define WIDE_BYTES 66000

enum { SPACE_DEFAULT, SPACE_GROUPED, SPACE_RAW, SPACE_WIDE, SPACE_LATE, SPACE_PASSING };

static const struct pleat_slice space_names[SCENARIO_SPACES] = {{"default", 7}, {"grouped", 7},  {"\0raw", 4},
                                                                {"wide", 4},    {"late\xff", 5}, {"passing", 7}};
static const struct pleat_slice cursor_names[SCENARIO_CURSORS] = {{"", 0}, {"empty", 5}, {"second", 6}};

struct pleat_slice scenario_space_name(size_t space) {
    return space_names[space];
}

struct pleat_slice scenario_cursor_name(size_t cursor) {
    return cursor_names[cursor];
}

const char *scenario_end_name(enum scenario_end end) {
    static const char *const names[] = {"closed", "killed", "synced", "flushed", "segments", "crashed", "crashed-min"};
    return names[end];
}

/* ---- files ------------------------------------------------------------------------------------------------------ */

void files_take(struct files *files, struct simfs *fs) {
    files->count = 0;
    while (files->count < SCENARIO_FILES_MAX &&
           simfs_name_at(fs, SCENARIO_PATH, files->count, files->files[files->count].name)) {
        struct file *file = &files->files[files->count++];
        file->data = simfs_read_file(fs, SCENARIO_PATH, file->name, &file->bytes);
    }
}

struct simfs *files_disk(const struct files *files) {
    struct simfs *fs = simfs_new(1);
    for (size_t i = 0; i < files->count; i++) {
        simfs_write_file(fs, SCENARIO_PATH, files->files[i].name, files->files[i].data, files->files[i].bytes);
    }
    return fs;
}

void files_free(struct files *files) {
    for (size_t i = 0; i < files->count; i++) {
        free(files->files[i].data);
    }
    files->count = 0;
}

const struct file *files_find(const struct files *files, const char *name) {
    for (size_t i = 0; i < files->count; i++) {
        if (strcmp(files->files[i].name, name) == 0) {
            return &files->files[i];
        }
    }
    return NULL;
}

/* ---- the model -------------------------------------------------------------------------------------------------- */

static void *model_alloc(struct scenario *scenario, size_t bytes) {
    if (scenario->block_count == scenario->block_capacity) {
        scenario->block_capacity = scenario->block_capacity > 0 ? 2 * scenario->block_capacity : 256;
        scenario->blocks = realloc(scenario->blocks, scenario->block_capacity * sizeof *scenario->blocks);
    }
    void *block = scenario->blocks != NULL ? calloc(1, bytes > 0 ? bytes : 1) : NULL;
    if (block == NULL) {
        abort();
    }
    scenario->blocks[scenario->block_count++] = block;
    return block;
}

static struct pleat_slice model_copy(struct scenario *scenario, const void *data, size_t bytes) {
    void *copy = model_alloc(scenario, bytes);
    memcpy(copy, bytes > 0 ? data : "", bytes);
    return (struct pleat_slice){copy, bytes};
}

static int slice_compare(struct pleat_slice a, struct pleat_slice b) {
    size_t common = a.bytes < b.bytes ? a.bytes : b.bytes;
    int order = common > 0 ? memcmp(a.data, b.data, common) : 0;
    return order != 0 ? order : (a.bytes > b.bytes) - (a.bytes < b.bytes);
}

/* The state after the last one, which begins as a copy of it. */
static struct scenario_state *model_next(struct scenario *scenario, uint64_t sequence) {
    struct scenario_state *state = &scenario->states[sequence];
    *state = scenario->states[sequence - 1];
    state->sequence = sequence;
    for (size_t i = 0; i < SCENARIO_SPACES; i++) {
        struct scenario_space *space = &state->spaces[i];
        struct scenario_row *rows = model_alloc(scenario, (space->count + 16) * sizeof *rows); /* 16: a batch at most */
        if (space->count > 0) {
            memcpy(rows, space->rows, space->count * sizeof *rows);
        }
        space->rows = rows;
    }
    return state;
}

/* row NULL: a delete. */
static void model_update(struct scenario_space *space, struct pleat_slice key, const struct scenario_row *row) {
    size_t at = 0;
    while (at < space->count && slice_compare(space->rows[at].key, key) < 0) {
        at++;
    }
    bool found = at < space->count && slice_compare(space->rows[at].key, key) == 0;
    size_t behind = space->count - at;
    if (row == NULL && found) {
        memmove(space->rows + at, space->rows + at + 1, (behind - 1) * sizeof *space->rows);
        space->count--;
    } else if (row != NULL) {
        if (!found) {
            memmove(space->rows + at + 1, space->rows + at, behind * sizeof *space->rows);
            space->count++;
        }
        space->rows[at] = *row;
    }
}

/* ---- the store -------------------------------------------------------------------------------------------------- */

struct run {
    struct scenario *scenario;
    struct simfs *fs;
    struct pleat_options options;
    struct pleat_db *db;
    struct pleat_batch *batch;
    struct pleat_space *spaces[SCENARIO_SPACES];
    struct pleat_error err;
};

static int run_open_space(struct run *run, size_t space) {
    static const struct pleat_space_options options[SCENARIO_SPACES] = {
        [SPACE_GROUPED] = {.size = sizeof options[0],
                           .group_delimiter = '.',
                           .group_delimiters = 2,
                           .block_bytes = 128},
        [SPACE_RAW] = {.size = sizeof options[0], .codec = PLEAT_CODEC_NONE, .block_bytes = 128, .group_bytes = 4},
        [SPACE_WIDE] = {.size = sizeof options[0], .block_bytes = 1 << 20},
        [SPACE_LATE] = {.size = sizeof options[0]},
        [SPACE_PASSING] = {.size = sizeof options[0]},
    };
    if (space == SPACE_DEFAULT) {
        run->spaces[0] = pleat_default_space(run->db);
        return 0;
    }
    return pleat_space_open(run->db, space_names[space], &options[space], &run->spaces[space], &run->err);
}

static int run_open(struct run *run) {
    int rc = db_open_with(SCENARIO_PATH, &run->options, simfs_vfs(run->fs), &mem_system, &run->db, &run->err);
    const struct scenario_state *state = &run->scenario->states[run->scenario->sequence];
    for (size_t i = 0; rc == 0 && i < SCENARIO_SPACES; i++) {
        rc = state->spaces[i].live ? run_open_space(run, i) : 0;
    }
    return rc == 0 ? pleat_batch_new(run->db, &run->batch, &run->err) : rc;
}

static int run_close(struct run *run) {
    pleat_batch_free(run->batch);
    run->batch = NULL;
    int rc = pleat_close(run->db, &run->err);
    run->db = NULL;
    return rc;
}

static int run_create_space(struct run *run, size_t space) {
    struct scenario_space *model = &run->scenario->states[run->scenario->sequence].spaces[space];
    model->live = true;
    model->created_at = run->scenario->sequence;
    return run_open_space(run, space);
}

static int run_put(struct run *run, struct scenario_space *model, size_t space, struct pleat_slice key,
                   size_t value_bytes) {
    struct scenario *scenario = run->scenario;
    struct random *random = &scenario->random;
    uint8_t *value = model_alloc(scenario, value_bytes);
    for (size_t i = 0; i < value_bytes; i++) { /* half of it compresses */
        value[i] = (uint8_t)(i % 16 < 8 && value_bytes < 1000 ? random_next(random) : 'a' + i / 64 % 3);
    }
    uint8_t version[32];
    memset(version, (int)random_below(random, 256), sizeof version);
    size_t version_bytes = random_below(random, 3) == 0 ? random_below(random, 33) : 8;
    struct scenario_row row = {
        .key = model_copy(scenario, key.data, key.bytes),
        .value = {value, value_bytes},
        .version = model_copy(scenario, version, version_bytes),
        .has_flag = random_below(random, 2) == 0,
    };
    row.flag = row.has_flag ? (uint8_t)random_next(random) : 0;
    model_update(model, key, &row);
    struct pleat_attributes attributes = {.version = row.version, .has_flag = row.has_flag, .flag = row.flag};
    return pleat_batch_put_with(run->batch, run->spaces[space], key, row.value, &attributes, &run->err);
}

static int run_cursor(struct run *run, struct scenario_state *state, size_t cursor, struct pleat_slice value,
                      const char *incarnation) {
    struct scenario_cursor *model = &state->cursors[cursor];
    struct pleat_cursor given = {.name = cursor_names[cursor], .value = value, .replace_incarnation = true};
    if (incarnation != NULL) {
        given.incarnation = (struct pleat_slice){incarnation, strlen(incarnation)};
    }
    model->set = true;
    model->value = model_copy(run->scenario, value.data, value.bytes);
    model->incarnation = model_copy(run->scenario, given.incarnation.data, given.incarnation.bytes);
    return pleat_batch_set_cursor(run->batch, &given, &run->err);
}

static int run_commit(struct run *run) {
    struct scenario *scenario = run->scenario;
    struct random *random = &scenario->random;
    uint64_t sequence = scenario->sequence + 1;
    struct scenario_state *state = model_next(scenario, sequence);
    char text[24];
    int rc = 0;
    pleat_batch_clear(run->batch);
    for (unsigned left = (unsigned)random_below(random, 7); rc == 0 && left > 0; left--) {
        size_t space = random_below(random, SCENARIO_SPACES);
        if (!state->spaces[space].live || space == SPACE_WIDE) {
            continue;
        }
        struct pleat_slice key = history_key(random_below(random, HISTORY_KEYS));
        if (random_below(random, 4) == 0) {
            model_update(&state->spaces[space], key, NULL);
            rc = pleat_batch_delete(run->batch, run->spaces[space], key, &run->err);
        } else {
            size_t bytes = random_below(random, 8) == 0 ? 0 : random_below(random, 60);
            rc = run_put(run, &state->spaces[space], space, key, bytes);
        }
    }
    if (rc == 0 &&
        sequence % 40 == 3) { /* a large value in a block of its own, packed: no other table of the space overlaps it */
        rc = run_put(run, &state->spaces[SPACE_WIDE], SPACE_WIDE, history_key(4 + sequence / 10), WIDE_BYTES);
    }
    int n = snprintf(text, sizeof text, "%" PRIu64, sequence);
    rc = rc == 0 ? run_cursor(run, state, 0, (struct pleat_slice){text, (size_t)n}, NULL) : rc;
    if (rc == 0 && random_below(random, 4) == 0) {
        rc = run_cursor(run, state, 1, (struct pleat_slice){NULL, 0}, NULL);
    }
    if (rc == 0 && random_below(random, 3) == 0) {
        rc = run_cursor(run, state, 2, (struct pleat_slice){text, (size_t)n}, sequence % 2 == 0 ? "stream-a" : "b");
    }
    uint64_t got = 0;
    rc = rc == 0 ? pleat_commit(run->db, run->batch, NULL, &got, &run->err) : rc;
    if (rc == 0) {
        scenario->sequence = sequence;
        if (got != sequence) {
            (void)snprintf(run->err.message, sizeof run->err.message, "commit %" PRIu64 " got sequence %" PRIu64,
                           sequence, got);
            return PLEAT_ERR_INVALID;
        }
    }
    return rc;
}

static int run_remove_content(struct run *run, size_t space, bool drop) {
    struct scenario_state *state = model_next(run->scenario, run->scenario->sequence + 1);
    state->spaces[space].count = 0;
    state->spaces[space].live = !drop;
    int rc = drop ? pleat_space_drop(run->spaces[space], &run->err) : pleat_space_clear(run->spaces[space], &run->err);
    run->scenario->sequence += rc == 0;
    return rc;
}

static void run_note_durable(struct run *run) {
    uint64_t durable;
    pleat_position_read(run->db, PLEAT_DURABLE, NULL, &durable);
    run->scenario->durable = durable > run->scenario->durable ? durable : run->scenario->durable;
}

static int run_between(struct run *run, unsigned operation) {
    struct scenario *scenario = run->scenario;
    uint64_t draw = random_below(&scenario->random, 16);
    int rc = 0;
    if (operation == OPERATIONS / 4 || draw == 9) {
        rc = run_remove_content(run, SPACE_GROUPED + random_below(&scenario->random, 2), false);
    } else if (operation == OPERATIONS / 3) {
        rc = run_remove_content(run, SPACE_PASSING, true);
    } else if (operation == OPERATIONS / 2) {
        rc = run_create_space(run, SPACE_LATE);
    } else if (draw < 6) {
        rc = pleat_step(run->db, &run->err);
    } else if (draw == 6) {
        rc = pleat_flush(run->db, &run->err);
    } else if (draw == 7) {
        rc = pleat_sync(run->db, &run->err);
    } else if (draw == 8 && operation % 2 == 0) {
        rc = run_close(run);
        scenario->durable = scenario->sequence;
        rc = rc == 0 ? run_open(run) : rc;
    }
    if (rc >= 0 && operation % (OPERATIONS / SCENARIO_MOMENTS) == OPERATIONS / SCENARIO_MOMENTS - 1) {
        struct simfs *image = simfs_crash(run->fs, SIMFS_KILL, 0);
        files_take(&scenario->moments[scenario->moment_count++], image);
        simfs_free(image);
    }
    return rc < 0 ? rc : 0;
}

/* The last steps before the end. */
static int run_end(struct run *run) {
    int rc = 0;
    switch (run->scenario->end) {
    case SCENARIO_CLOSED:
        rc = run_close(run);
        run->scenario->durable = run->scenario->sequence;
        return rc;
    case SCENARIO_SYNCED:
        rc = pleat_sync(run->db, &run->err);
        break;
    case SCENARIO_FLUSHED:
        rc = pleat_flush(run->db, &run->err);
        break;
    case SCENARIO_SEGMENTS: {
        rc = pleat_flush(run->db, &run->err);
        uint64_t segment = run->db->active_segment->number;
        for (unsigned i = 0; rc == 0 && i < 40 && run->db->active_segment->number == segment; i++) {
            rc = run_commit(run);
        }
        for (unsigned i = 0; rc == 0 && i < 3; i++) {
            rc = run_commit(run);
        }
        break;
    }
    default:
        break;
    }
    if (rc == 0) {
        run_note_durable(run);
    }
    return rc;
}

bool scenario_run(struct scenario *scenario, uint64_t seed, enum scenario_end end) {
    static const uint32_t durabilities[] = {PLEAT_SYNC_INTERVAL, PLEAT_SYNC_NONE, PLEAT_SYNC_EACH};
    memset(scenario, 0, sizeof *scenario);
    scenario->seed = seed;
    scenario->end = end;
    scenario->random.state = seed;
    scenario->states[0].spaces[SPACE_DEFAULT].live = true;
    struct run run = {.scenario = scenario, .fs = simfs_new(seed)};
    run.options = (struct pleat_options){
        .size = sizeof run.options,
        .background = PLEAT_BACKGROUND_STEPS,
        .memtable_bytes = 3072,
        .cache_bytes = 65536,
        .table_bytes = 2048,
        .level_base_bytes = 4096,
        .level_ratio = 3,
        .level0_tables = 1 + (uint32_t)(seed % 4),
        .durability = durabilities[seed / 3 % 3],
        .log_by_write = seed % 2 == 1,
    };
    int rc = run_open(&run);
    for (size_t i = SPACE_GROUPED; rc == 0 && i < SCENARIO_SPACES; i++) {
        rc = i != SPACE_LATE ? run_create_space(&run, i) : 0;
    }
    for (unsigned i = 0; rc == 0 && i < OPERATIONS; i++) {
        rc = run_commit(&run);
        rc = rc == 0 ? run_between(&run, i) : rc;
        if (rc == 0) {
            run_note_durable(&run);
        }
    }
    rc = rc == 0 ? run_end(&run) : rc;
    if (rc < 0) {
        fprintf(stderr, "scenario 0x%" PRIx64 " %s: %s\n", seed, scenario_end_name(end), run.err.message);
    }
    enum simfs_model model = end == SCENARIO_CRASHED       ? SIMFS_STRICT
                             : end == SCENARIO_CRASHED_MIN ? SIMFS_MIN
                                                           : SIMFS_KILL;
    struct simfs *image = simfs_crash(run.fs, model, seed);
    files_take(&scenario->files, image);
    simfs_free(image);
    pleat_batch_free(run.batch);
    (void)pleat_close(run.db, NULL);
    simfs_free(run.fs);
    return rc == 0;
}

void scenario_free(struct scenario *scenario) {
    files_free(&scenario->files);
    for (size_t i = 0; i < scenario->moment_count; i++) {
        files_free(&scenario->moments[i]);
    }
    for (size_t i = 0; i < scenario->block_count; i++) {
        free(scenario->blocks[i]);
    }
    free(scenario->blocks);
}
