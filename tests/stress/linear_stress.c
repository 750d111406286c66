/*
 * linear_stress.c - all reads and commits of all threads fit one order: that of the sequence numbers.
 *
 *     linear_stress [--seconds N] [--seed S] [--shake N] [seconds]
 *
 * Writers put and delete a few keys in two spaces, each value a number that is used once; some commits expect the
 * cursor "fence" to be what they have read, and fight for it. One thread clears the second space now and then, flushes
 * and compacts. Readers get, ask for existence, get many, scan both ways, walk iterators that were made long before,
 * read snapshots, cursors and positions. Everybody logs what was called when, and what came of it.
 *
 * After a fraction of a second all stop, and linear.h judges the logs: whether every read finds a place between the
 * commits that fits what it saw, what had ended before it began, and what began after it had ended. Then they go on.
 *
 * The clock is the system's monotonic one, or, for every other seed, a counter that all threads share: the first orders
 * nothing between threads, so that ThreadSanitizer loses nothing; the second has no two equal times.
 */
#include "stress/stress.h"
#include "support/linear.h"

#include "db/db.h"

#define WRITERS 3
#define READERS 3
#define THREADS (WRITERS + READERS + 1)
#define SPACE_KEYS 12
#define FENCE (2 * SPACE_KEYS) /* cursors, as keys of the model: the one that is fought for, */
#define LAST (FENCE + 1)       /* and the one that every commit sets */
#define KEYS (LAST + 1)
#define PART_SECONDS 0.4
#define EVENTS_MAX 30000 /* of a thread and part */

struct linear {
    struct pleat_db *db;
    struct pleat_space *spaces[2];
    bool counted; /* the clock is the counter */
    _Atomic uint64_t counter;
    _Atomic bool part_ends;              /* relaxed: a request */
    struct linear_log logs[2 * THREADS]; /* the second half: of iterators that are held */
    uint64_t values[KEYS];
    struct linear_state state;
    uint64_t commits, reads, lost_fences, parts;
};

static struct linear linear;

struct worker {
    unsigned index;
    uint64_t number; /* of the last value that it made */
    struct random random;
    struct linear_log *log, *held_log;
    uint64_t lost_fences;
};

static struct worker workers[THREADS];

static uint64_t now(void) {
    return linear.counted ? atomic_fetch_add_explicit(&linear.counter, 1, memory_order_acq_rel) /* with itself */
                          : stress_now_ns();
}

static bool part_goes_on(const struct worker *worker) {
    return !atomic_load_explicit(&linear.part_ends, memory_order_relaxed) && worker->log->event_count < EVENTS_MAX;
}

/* Keys of both spaces share prefixes; the model numbers them through. */
static struct pleat_slice key_name(char buffer[16], uint32_t key) {
    int n = snprintf(buffer, 16, "k/%02u", key % SPACE_KEYS);
    return (struct pleat_slice){buffer, (size_t)n};
}

static uint64_t value_number(struct pleat_slice value) {
    uint64_t number = 0;
    EXPECT(value.bytes >= sizeof number, "a value is cut short");
    memcpy(&number, value.data, sizeof number);
    for (size_t i = sizeof number; i < value.bytes; i++) {
        EXPECT(((const uint8_t *)value.data)[i] == (uint8_t)number, "a value is of two commits");
    }
    return number;
}

/* ---- writers ---------------------------------------------------------------------------------------------------- */

static uint64_t cursor_number(const struct pleat_cursor_value *cursor) {
    return value_number((struct pleat_slice){cursor->value, cursor->bytes});
}

static const struct pleat_slice fence_name = {"fence", 5}, last_name = {"last", 4};

/* Fills batch and log alike: the later of two updates of a key wins in both. */
static void commit_fill(struct worker *worker, struct pleat_batch *batch) {
    struct pleat_error err = {0};
    uint8_t value[400];
    uint64_t number = (uint64_t)worker->index << 48 | ++worker->number;
    uint64_t updates = random_below(&worker->random, 6);
    pleat_batch_clear(batch);
    memset(value, (uint8_t)number, sizeof value);
    memcpy(value, &number, sizeof number);
    for (uint64_t i = 0; i < updates; i++) {
        char name[16];
        uint32_t key = (uint32_t)random_below(&worker->random, FENCE);
        struct pleat_space *space = linear.spaces[key / SPACE_KEYS];
        if (random_below(&worker->random, 4) == 0) {
            MUST(pleat_batch_delete(batch, space, key_name(name, key), &err));
            linear_item(worker->log, key, LINEAR_ABSENT);
        } else {
            size_t bytes = random_below(&worker->random, 4) == 0 ? sizeof value : 8 + number % 40;
            MUST(pleat_batch_put(batch, space, key_name(name, key), (struct pleat_slice){value, bytes}, &err));
            linear_item(worker->log, key, number);
        }
    }
    struct pleat_slice position = {&number, sizeof number};
    MUST(pleat_batch_set_cursor(batch, &(struct pleat_cursor){.name = last_name, .value = position}, &err));
    linear_item(worker->log, LAST, number);
}

static void write_plain(struct worker *worker, struct pleat_batch *batch) {
    struct pleat_error err = {0};
    uint64_t sequence = 0;
    uint32_t sync = random_below(&worker->random, 50) == 0 ? PLEAT_COMMIT_SYNC : PLEAT_COMMIT_SYNC_DEFAULT;
    linear_begin(worker->log, true, 0);
    commit_fill(worker, batch);
    worker->log->events[worker->log->event_count - 1].begin = now();
    MUST(pleat_commit(linear.db, batch, PLEAT_COMMIT_OPTIONS(.sync = sync), &sequence, &err));
    linear_end(worker->log, sequence, now());
    if (sync == PLEAT_COMMIT_SYNC) {
        uint64_t durable;
        pleat_position_read(linear.db, PLEAT_DURABLE, NULL, &durable);
        EXPECT(durable >= sequence, "a synced commit is not durable");
    }
}

/* A commit that expects the cursor it has read: whatever comes of it says what the cursor was. */
static void write_fence(struct worker *worker, struct pleat_batch *batch) {
    struct pleat_error err = {0};
    struct pleat_cursor_value cursor;
    bool present = false;
    uint64_t sequence = 0;
    linear_begin(worker->log, false, now());
    int rc = pleat_cursor_read(linear.db, fence_name, PLEAT_APPLIED, &cursor, &err);
    EXPECT(rc == 0 || rc == PLEAT_ABSENT, err.message);
    linear_end(worker->log, cursor.sequence, now());
    uint64_t before = rc == 0 ? cursor_number(&cursor) : LINEAR_ABSENT;
    linear_item(worker->log, FENCE, before);

    linear_begin(worker->log, true, 0);
    commit_fill(worker, batch);
    uint64_t after = (uint64_t)worker->index << 48 | worker->number;
    struct pleat_slice expected = {&before, sizeof before};
    MUST(pleat_batch_expect_cursor(batch, fence_name, rc == 0 ? &expected : NULL, &err));
    MUST(pleat_batch_set_cursor(batch, &(struct pleat_cursor){.name = fence_name, .value = {&after, sizeof after}},
                                &err));
    linear_item(worker->log, FENCE, after);
    shake_here();
    uint64_t begin = worker->log->events[worker->log->event_count - 1].begin = now();
    rc = pleat_commit(linear.db, batch, PLEAT_COMMIT_OPTIONS(.actual = &cursor, .actual_present = &present), &sequence,
                      &err);
    uint64_t end = now();
    if (rc == 0) {
        linear_end(worker->log, sequence, end);
    } else {
        ANSWERS(PLEAT_ERR_MISMATCH, rc);
        linear_forget(worker->log);
        worker->lost_fences++;
    }
    /* In the state in front of it the cursor was as expected; or at the refusal it was another. */
    linear_begin(worker->log, false, begin);
    linear_item(worker->log, FENCE, rc == 0 ? before : present ? cursor_number(&cursor) : LINEAR_ABSENT);
    linear_end(worker->log, rc == 0 ? sequence - 1 : LINEAR_UNKNOWN, end);
    EXPECT(rc == 0 || (present ? cursor_number(&cursor) : LINEAR_ABSENT) != before, "refused for the expected cursor");
}

static void *writer_run(void *context) {
    struct worker *worker = context;
    struct pleat_error err = {0};
    struct pleat_batch *batch;
    MUST(pleat_batch_new(linear.db, &batch, &err));
    shake_offer();
    while (part_goes_on(worker)) {
        if (random_below(&worker->random, 6) == 0) {
            write_fence(worker, batch);
        } else {
            write_plain(worker, batch);
        }
        shake_here();
    }
    shake_withdraw();
    pleat_batch_free(batch);
    return NULL;
}

/* ---- readers ---------------------------------------------------------------------------------------------------- */

static void read_get(struct worker *worker, const struct pleat_snapshot *snapshot, uint32_t key, bool timed) {
    struct pleat_error err = {0};
    struct pleat_space *space = linear.spaces[key / SPACE_KEYS];
    struct pleat_value value;
    char name[16];
    uint64_t seen = LINEAR_ABSENT;
    int rc;
    if (timed) {
        linear_begin(worker->log, false, now());
    }
    switch (random_below(&worker->random, 4)) {
    case 0:
        rc = pleat_exists(space, snapshot, key_name(name, key), &err);
        seen = rc == 0 ? LINEAR_PRESENT : LINEAR_ABSENT;
        break;
    case 1: {
        uint8_t buffer[400];
        size_t bytes = 0;
        rc = pleat_get_into(space, snapshot, key_name(name, key), buffer, sizeof buffer, &bytes, &err);
        seen = rc == 0 ? value_number((struct pleat_slice){buffer, bytes}) : LINEAR_ABSENT;
        break;
    }
    default:
        rc = pleat_get(space, snapshot, key_name(name, key), &value, &err);
        if (rc == 0) {
            seen = value_number((struct pleat_slice){value.data, value.bytes});
            pleat_value_release(&value);
        }
        break;
    }
    if (timed) {
        linear_end(worker->log, LINEAR_UNKNOWN, now());
    }
    EXPECT(rc == 0 || rc == PLEAT_ABSENT, err.message);
    linear_item(worker->log, key, seen);
}

static void read_many(struct worker *worker) {
    enum { COUNT = 5 };
    struct pleat_error err = {0};
    char names[COUNT][16];
    uint32_t keys[COUNT];
    struct pleat_slice slices[COUNT];
    struct pleat_value values[COUNT];
    int status[COUNT];
    uint32_t space = (uint32_t)random_below(&worker->random, 2);
    for (unsigned i = 0; i < COUNT; i++) {
        keys[i] = space * SPACE_KEYS + (uint32_t)random_below(&worker->random, SPACE_KEYS);
        slices[i] = key_name(names[i], keys[i]);
    }
    linear_begin(worker->log, false, now());
    MUST(pleat_get_many(linear.spaces[space], NULL, slices, COUNT, values, status, &err));
    linear_end(worker->log, LINEAR_UNKNOWN, now());
    for (unsigned i = 0; i < COUNT; i++) {
        uint64_t seen = LINEAR_ABSENT;
        if (status[i] == 0) {
            seen = value_number((struct pleat_slice){values[i].data, values[i].bytes});
            pleat_value_release(&values[i]);
        }
        linear_item(worker->log, keys[i], seen);
    }
}

struct seen_rows {
    uint64_t values[SPACE_KEYS];
};

static int see_row(void *context, const struct pleat_row *row) {
    struct seen_rows *seen = context;
    char name[16] = {0};
    EXPECT(row->key.bytes == 4, "a row that no commit wrote");
    memcpy(name, row->key.data, 4);
    uint64_t key = strtoull(name + 2, NULL, 10);
    EXPECT(key < SPACE_KEYS && seen->values[key] == 0, "a row that no commit wrote, or twice");
    seen->values[key] = value_number(row->value);
    return 0;
}

static void log_rows(struct linear_log *log, uint32_t space, const struct seen_rows *seen) {
    for (uint32_t key = 0; key < SPACE_KEYS; key++) {
        linear_item(log, space * SPACE_KEYS + key, seen->values[key]);
    }
}

static void read_scan(struct worker *worker) {
    struct pleat_error err = {0};
    struct seen_rows seen = {{0}};
    uint32_t space = (uint32_t)random_below(&worker->random, 2);
    struct pleat_iter_options *options = PLEAT_ITER_OPTIONS(.reverse = random_below(&worker->random, 2) == 0);
    if (random_below(&worker->random, 2) == 0) {
        options->prefix = (struct pleat_slice){"k/", 2};
    }
    linear_begin(worker->log, false, now());
    MUST(pleat_scan(linear.spaces[space], options, see_row, &seen, &err));
    linear_end(worker->log, LINEAR_UNKNOWN, now());
    log_rows(worker->log, space, &seen);
}

/* All of both spaces through a snapshot, at leisure: it is of the moment of its making, and says which. */
static void read_snapshot(struct worker *worker) {
    struct pleat_error err = {0};
    struct pleat_snapshot *snapshot;
    struct pleat_cursor_value cursor;
    linear_begin(worker->log, false, now());
    MUST(pleat_snapshot_new(linear.db, &snapshot, &err));
    uint64_t end = now();
    linear_end(worker->log, pleat_snapshot_sequence(snapshot), end);
    for (uint32_t key = FENCE; key <= LAST; key++) {
        int rc = pleat_snapshot_cursor(snapshot, key == FENCE ? fence_name : last_name, &cursor, &err);
        EXPECT(rc == 0 || rc == PLEAT_ABSENT, err.message);
        linear_item(worker->log, key, rc == 0 ? cursor_number(&cursor) : LINEAR_ABSENT);
    }
    for (uint32_t space = 0; space < 2; space++) {
        struct seen_rows seen = {{0}};
        shake_here();
        MUST(pleat_scan(linear.spaces[space], PLEAT_ITER_OPTIONS(.snapshot = snapshot), see_row, &seen, &err));
        log_rows(worker->log, space, &seen);
    }
    for (int i = 0; i < 4; i++) {
        read_get(worker, snapshot, (uint32_t)random_below(&worker->random, FENCE), false);
    }
    pleat_snapshot_free(snapshot);
}

static void read_position(struct worker *worker) {
    struct pleat_error err = {0};
    struct pleat_cursor_value cursor;
    uint64_t sequence, draw = random_below(&worker->random, 4);
    linear_begin(worker->log, false, now());
    if (draw == 0) {
        pleat_position_read(linear.db, PLEAT_APPLIED, NULL, &sequence);
        linear_end(worker->log, sequence, now());
        return;
    }
    int rc = pleat_cursor_read(linear.db, draw == 1 ? fence_name : last_name, PLEAT_APPLIED, &cursor, &err);
    linear_end(worker->log, cursor.sequence, now());
    EXPECT(rc == 0 || rc == PLEAT_ABSENT, err.message);
    linear_item(worker->log, draw == 1 ? FENCE : LAST, rc == 0 ? cursor_number(&cursor) : LINEAR_ABSENT);
}

struct held {
    struct pleat_iter *iter;
    struct seen_rows seen;
    uint32_t space;
    bool any;
};

/* A row or two of an iterator that was made some calls ago. */
static void read_held(struct worker *worker, struct held *held, bool finish) {
    struct pleat_error err = {0};
    int rc = 0;
    if (held->iter == NULL) {
        *held = (struct held){.space = (uint32_t)random_below(&worker->random, 2)};
        linear_begin(worker->held_log, false, now());
        MUST(pleat_iter_new(linear.spaces[held->space], NULL, &held->iter, &err));
        linear_end(worker->held_log, LINEAR_UNKNOWN, now());
    }
    for (int i = 0; rc == 0 && (finish || i < 2); i++) {
        rc = held->any ? pleat_iter_next(held->iter, &err) : pleat_iter_first(held->iter, &err);
        held->any = true;
        if (rc == 0) {
            struct pleat_row row = {.key = pleat_iter_key(held->iter), .value = pleat_iter_value(held->iter)};
            (void)see_row(&held->seen, &row);
        }
    }
    if (rc != 0) {
        ANSWERS(PLEAT_END, rc);
        pleat_iter_free(held->iter);
        held->iter = NULL;
        log_rows(worker->held_log, held->space, &held->seen);
    }
}

static void *reader_run(void *context) {
    struct worker *worker = context;
    struct held held = {.iter = NULL};
    shake_offer();
    while (part_goes_on(worker)) {
        switch (random_below(&worker->random, 16)) {
        case 0:
            read_snapshot(worker);
            break;
        case 1:
        case 2:
            read_scan(worker);
            break;
        case 3:
        case 4:
            read_many(worker);
            break;
        case 5:
        case 6:
            read_position(worker);
            break;
        case 7:
        case 8:
            read_held(worker, &held, false);
            break;
        default:
            read_get(worker, NULL, (uint32_t)random_below(&worker->random, FENCE), true);
            break;
        }
    }
    if (held.iter != NULL) {
        read_held(worker, &held, true);
    }
    shake_withdraw();
    return NULL;
}

/* ---- maintenance, parts ----------------------------------------------------------------------------------------- */

static void *maintainer_run(void *context) {
    struct worker *worker = context;
    struct pleat_error err = {0};
    while (part_goes_on(worker)) {
        switch (random_below(&worker->random, 6)) {
        case 0:
        case 1: /* a commit that does not say its number, of all keys of the space */
            linear_begin(worker->log, true, now());
            MUST(pleat_space_clear(linear.spaces[1], &err));
            linear_end(worker->log, LINEAR_UNKNOWN, now());
            for (uint32_t key = SPACE_KEYS; key < FENCE; key++) {
                linear_item(worker->log, key, LINEAR_ABSENT);
            }
            break;
        case 2:
            MUST(pleat_compact(linear.spaces[random_below(&worker->random, 2)], NULL, NULL, &err));
            break;
        case 3:
            MUST(pleat_settle(linear.db, NULL, NULL, &err));
            break;
        default:
            MUST(pleat_flush(linear.db, &err));
            break;
        }
        thread_sleep_ns(random_below(&worker->random, 3000000));
    }
    return NULL;
}

static void linear_open(void) {
    struct pleat_error err = {0};
    struct random random = stress_random(linear.parts + 1);
    struct pleat_options *options =
        PLEAT_OPTIONS(.memtable_bytes = (8u << 10) << random_below(&random, 4), .cache_bytes = 64 << 10,
                      .table_bytes = 4 << 10, .level_base_bytes = 16 << 10, .level_ratio = 3, .level0_tables = 2,
                      .table_files_max = 2, .sync_interval_ms = 5, .log_by_write = random_below(&random, 4) == 0);
    char path[300];
    (void)snprintf(path, sizeof path, "%s/store", stress_run.path);
    MUST(db_open_with(path, options, &shake_vfs, &shake_mem, &linear.db, &err));
    linear.spaces[0] = pleat_default_space(linear.db);
    MUST(pleat_space_open(linear.db, (struct pleat_slice){"cleared", 7}, PLEAT_SPACE_OPTIONS(.block_bytes = 128),
                          &linear.spaces[1], &err));
}

/* All threads for a while, then the verdict. */
static void part_run(void) {
    struct thread threads[THREADS];
    char text[500];
    atomic_store_explicit(&linear.part_ends, false, memory_order_relaxed);
    for (unsigned i = 0; i < THREADS; i++) {
        stress_start(&threads[i],
                     i < WRITERS             ? writer_run
                     : i < WRITERS + READERS ? reader_run
                                             : maintainer_run,
                     &workers[i]);
    }
    thread_sleep_ns((uint64_t)(PART_SECONDS * 1e9));
    atomic_store_explicit(&linear.part_ends, true, memory_order_relaxed);
    for (unsigned i = 0; i < THREADS; i++) {
        thread_join(&threads[i]);
    }
    if (!linear_check(linear.logs, 2 * (size_t)THREADS, &linear.state, text, sizeof text)) {
        stress_fail(text, 0, NULL);
    }
    for (unsigned i = 0; i < 2 * THREADS; i++) {
        for (size_t j = 0; j < linear.logs[i].event_count; j++) {
            linear.commits += linear.logs[i].events[j].commit;
            linear.reads += !linear.logs[i].events[j].commit;
        }
        linear_log_clear(&linear.logs[i]);
    }
    linear.parts++;
}

/* Now and then a part begins with an opened store: its state is the one that the last part ended with. */
static void part_reopen(void) {
    struct pleat_error err = {0};
    uint64_t sequence;
    MUST(pleat_close(linear.db, &err));
    EXPECT(shake_live() == 0, "memory is left behind");
    linear_open();
    pleat_position_read(linear.db, PLEAT_APPLIED, NULL, &sequence);
    EXPECT(sequence == linear.state.sequence, "a close changed the sequence");
}

int main(int argc, char **argv) {
    struct pleat_error err = {0};
    stress_begin("linear_stress", 3, argc, argv);
    uint64_t ends = stress_now_ns() + (uint64_t)(stress_run.seconds * 1e9);
    linear.counted = stress_run.seed % 2 == 1;
    linear.state = (struct linear_state){.values = linear.values, .keys = KEYS};
    linear_open();
    for (unsigned i = 0; i < THREADS; i++) {
        linear.logs[i].thread = linear.logs[THREADS + i].thread = i;
        workers[i] = (struct worker){.index = i,
                                     .random = stress_random(1000 + i),
                                     .log = &linear.logs[i],
                                     .held_log = &linear.logs[THREADS + i]};
    }
    shake_interrupts_start();
    do {
        part_run();
        if (linear.parts % 3 == 0) {
            part_reopen();
        }
    } while (stress_now_ns() < ends);
    shake_interrupts_stop();
    MUST(pleat_close(linear.db, &err));
    EXPECT(shake_live() == 0, "memory is left behind");
    for (unsigned i = 0; i < THREADS; i++) {
        linear.lost_fences += workers[i].lost_fences;
        linear_log_fini(&linear.logs[i]);
        linear_log_fini(&linear.logs[THREADS + i]);
    }
    printf("%" PRIu64 " commits, %" PRIu64 " lost fences and %" PRIu64 " reads in %" PRIu64
           " parts, by the %s: all in order\n",
           linear.commits, linear.lost_fences, linear.reads, linear.parts, linear.counted ? "counter" : "clock");
    stress_end();
    return 0;
}
