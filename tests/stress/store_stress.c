/*
 * store_stress.c - writers, fences, readers, snapshots, the background and maintenance at once, for ThreadSanitizer.
 *
 *     store_stress [--seconds N] [--seed S] [--shake N] [seconds]
 *
 * Two writers, each with its own cursor: commit k of writer w writes k under all keys of its fixed set (in two spaces),
 * so that a state is right when all of the set equals the cursor; one key of a rolling set of ROLL is written and the
 * one of ROLL / 2 commits ago is deleted, so that a state's rolling set follows from the cursor alone. Between their
 * own commits both fight for the cursor "fence" by expecting what they read.
 *
 * Three readers check every snapshot: it is exactly the state of its cursors, at or after what had been acknowledged
 * before it began, never older than an earlier one; gets and scans of the latest state likewise. One maintainer
 * flushes, compacts, settles, syncs, checks, and clears, drops and recreates spaces. At the end the store is closed,
 * opened, and compared.
 */
#include "db/db.h"

#include "stress/stress.h"

#define WRITERS 2
#define READERS 3
#define SET 8
#define ROLL 256

struct stress {
    struct pleat_db *db;
    struct pleat_space *spaces[2];
    _Atomic uint64_t acknowledged[WRITERS]; /* release by the writer; pairs with the acquire of the readers */
    _Atomic uint64_t fence;                 /* the same, of the fence */
    _Atomic uint64_t durable_heard;         /* by on_durable: relaxed, checked at the end */
    _Atomic uint64_t snapshots, scans, gets;
};

struct worker {
    struct stress *stress;
    unsigned index;
};

static struct pleat_slice name_of(char *buffer, size_t bytes, const char *kind, unsigned writer, uint64_t number) {
    int n = snprintf(buffer, bytes, "w%u.%s.%03" PRIu64, writer, kind, number);
    return (struct pleat_slice){buffer, (size_t)n};
}

static struct pleat_slice cursor_name(unsigned writer) {
    return (struct pleat_slice){writer == 0 ? "w0" : writer == 1 ? "w1" : "fence", writer < WRITERS ? 2 : 5};
}

/* A cursor is a number of eight bytes. */
static uint64_t cursor_number(const struct pleat_cursor_value *cursor) {
    uint64_t number = 0;
    if (cursor->bytes == sizeof number) {
        memcpy(&number, cursor->value, sizeof number);
    }
    return number;
}

/* ---- writers ---------------------------------------------------------------------------------------------------- */

static void write_own(struct stress *stress, struct pleat_batch *batch, unsigned writer, uint64_t k) {
    struct pleat_error err = {0};
    char name[32];
    uint64_t value[30];
    for (size_t i = 0; i < sizeof value / sizeof value[0]; i++) {
        value[i] = k;
    }
    pleat_batch_clear(batch);
    for (uint64_t i = 0; i < SET; i++) {
        size_t bytes = i == 0 ? sizeof value : sizeof value[0]; /* one is large enough to be pinned */
        MUST(pleat_batch_put(batch, stress->spaces[i % 2], name_of(name, sizeof name, "set", writer, i),
                             (struct pleat_slice){value, bytes}, &err));
    }
    MUST(pleat_batch_put(batch, stress->spaces[0], name_of(name, sizeof name, "roll", writer, k % ROLL),
                         (struct pleat_slice){&k, sizeof k}, &err));
    MUST(pleat_batch_delete(batch, stress->spaces[0], name_of(name, sizeof name, "roll", writer, (k + ROLL / 2) % ROLL),
                            &err));
    MUST(pleat_batch_set_cursor(batch, &(struct pleat_cursor){.name = cursor_name(writer), .value = {&k, sizeof k}},
                                &err));
    MUST(pleat_commit(stress->db, batch,
                      PLEAT_COMMIT_OPTIONS(.sync = k % 61 == 0 ? PLEAT_COMMIT_SYNC : PLEAT_COMMIT_SYNC_DEFAULT), NULL,
                      &err));
    atomic_store_explicit(&stress->acknowledged[writer], k, memory_order_release); /* pairs with the readers' acquire */
}

/* One attempt to move the fence on by one. */
static void write_fence(struct stress *stress, struct pleat_batch *batch) {
    struct pleat_error err = {0};
    struct pleat_cursor_value cursor;
    struct pleat_slice name = cursor_name(WRITERS);
    int rc = pleat_cursor_read(stress->db, name, PLEAT_APPLIED, &cursor, &err);
    uint64_t before = rc == 0 ? cursor_number(&cursor) : 0, after = before + 1;
    struct pleat_slice expected = {&before, sizeof before};
    pleat_batch_clear(batch);
    MUST(pleat_batch_expect_cursor(batch, name, rc == PLEAT_ABSENT ? NULL : &expected, &err));
    MUST(pleat_batch_set_cursor(batch, &(struct pleat_cursor){.name = name, .value = {&after, sizeof after}}, &err));
    MUST(pleat_batch_put(batch, stress->spaces[0], (struct pleat_slice){"fence", 5},
                         (struct pleat_slice){&after, sizeof after}, &err));
    rc = pleat_commit(stress->db, batch, NULL, NULL, &err);
    if (rc == 0) {
        /* Release; pairs with the readers' acquire. Each value is won once, so the sum is the last of them. */
        atomic_fetch_add_explicit(&stress->fence, 1, memory_order_release);
    } else if (rc != PLEAT_ERR_MISMATCH) {
        stress_fail("fence", rc, &err);
    }
}

static void *writer_run(void *context) {
    struct worker *worker = context;
    struct stress *stress = worker->stress;
    struct pleat_error err = {0};
    struct pleat_batch *batch;
    MUST(pleat_batch_new(stress->db, &batch, &err));
    for (uint64_t k = 1; !stress_stopping(); k++) {
        write_own(stress, batch, worker->index, k);
        if (k % 3 == 0) {
            write_fence(stress, batch);
        }
    }
    pleat_batch_free(batch);
    return NULL;
}

/* ---- readers ---------------------------------------------------------------------------------------------------- */

/* The last commit up to k that wrote key `slot` of the rolling set, or 0 when the last that touched it deleted it. */
static uint64_t roll_expected(uint64_t k, uint64_t slot) {
    uint64_t put = k >= slot ? k - (k - slot) % ROLL : 0;
    uint64_t offset = (slot + ROLL / 2) % ROLL; /* commits whose delete is of this slot */
    uint64_t deleted = k >= offset ? k - (k - offset) % ROLL : 0;
    return put > deleted ? put : 0;
}

struct scan_state {
    unsigned writer;
    uint64_t k, slot; /* the next slot that must be shown, if present */
    bool right;
};

static int scan_roll(void *context, const struct pleat_row *row) {
    struct scan_state *scan = context;
    char name[32];
    uint64_t value = 0;
    while (scan->slot < ROLL && roll_expected(scan->k, scan->slot) == 0) {
        scan->slot++;
    }
    if (scan->slot == ROLL) {
        scan->right = false;
        return 1;
    }
    struct pleat_slice key = name_of(name, sizeof name, "roll", scan->writer, scan->slot);
    if (row->value.bytes == sizeof value) {
        memcpy(&value, row->value.data, sizeof value);
    }
    if (row->key.bytes != key.bytes || memcmp(row->key.data, key.data, key.bytes) != 0 ||
        row->value.bytes != sizeof value || value != roll_expected(scan->k, scan->slot)) {
        scan->right = false;
        return 1;
    }
    scan->slot++;
    return 0;
}

static uint64_t read_number(struct stress *stress, struct pleat_space *space, const struct pleat_snapshot *snapshot,
                            struct pleat_slice key) {
    struct pleat_error err = {0};
    struct pleat_value value;
    int rc = pleat_get(space, snapshot, key, &value, &err);
    uint64_t first = 0;
    if (rc < 0) {
        stress_fail("get", rc, &err);
    }
    if (rc == 0) {
        memcpy(&first, value.data, sizeof first);
        for (size_t i = 0; i < value.bytes / sizeof first; i++) {
            uint64_t word;
            memcpy(&word, (const uint8_t *)value.data + i * sizeof word, sizeof word);
            EXPECT(word == first, "a value is half of one and half of another");
        }
        pleat_value_release(&value);
    }
    atomic_fetch_add_explicit(&stress->gets, 1, memory_order_relaxed); /* a count: no partner */
    return first;
}

static void check_snapshot(struct stress *stress, uint64_t *last, uint64_t *last_fence) {
    struct pleat_error err = {0};
    struct pleat_snapshot *snapshot;
    struct pleat_cursor_value cursor;
    char name[32];
    uint64_t before[WRITERS];
    for (unsigned w = 0; w < WRITERS; w++) { /* acquire; pairs with the writers' release */
        before[w] = atomic_load_explicit(&stress->acknowledged[w], memory_order_acquire);
    }
    uint64_t fence_before = atomic_load_explicit(&stress->fence, memory_order_acquire); /* the same */
    MUST(pleat_snapshot_new(stress->db, &snapshot, &err));
    for (unsigned w = 0; w < WRITERS; w++) {
        int rc = pleat_snapshot_cursor(snapshot, cursor_name(w), &cursor, &err);
        uint64_t k = rc == 0 ? cursor_number(&cursor) : 0;
        EXPECT(k >= before[w], "a snapshot is older than what was acknowledged before it");
        EXPECT(k >= last[w], "a snapshot is older than an earlier one");
        last[w] = k;
        for (uint64_t i = 0; i < SET; i++) {
            EXPECT(read_number(stress, stress->spaces[i % 2], snapshot, name_of(name, sizeof name, "set", w, i)) == k,
                   "a key of a snapshot is not that of its cursor");
        }
        struct scan_state scan = {.writer = w, .k = k, .right = true};
        (void)snprintf(name, sizeof name, "w%u.roll.", w);
        struct pleat_slice prefix = {name, strlen(name)};
        (void)pleat_scan(stress->spaces[0], PLEAT_ITER_OPTIONS(.snapshot = snapshot, .prefix = prefix), scan_roll,
                         &scan, &err);
        while (scan.slot < ROLL && roll_expected(k, scan.slot) == 0) {
            scan.slot++;
        }
        EXPECT(scan.right && scan.slot == ROLL, "a scan of a snapshot is not that of its cursor");
    }
    int rc = pleat_snapshot_cursor(snapshot, cursor_name(WRITERS), &cursor, &err);
    uint64_t fence = rc == 0 ? cursor_number(&cursor) : 0;
    EXPECT(fence >= fence_before && fence >= *last_fence, "the fence went back");
    *last_fence = fence;
    EXPECT(read_number(stress, stress->spaces[0], snapshot, (struct pleat_slice){"fence", 5}) == fence,
           "the fence's key is not its cursor");
    pleat_snapshot_free(snapshot);
    atomic_fetch_add_explicit(&stress->snapshots, 1, memory_order_relaxed); /* a count: no partner */
}

struct set_scan {
    uint64_t value;
    unsigned rows;
    bool same;
};

static int scan_set(void *context, const struct pleat_row *row) {
    struct set_scan *scan = context;
    uint64_t value = 0;
    memcpy(&value, row->value.data, sizeof value);
    scan->same = scan->same && (scan->rows == 0 || value == scan->value);
    scan->value = value;
    scan->rows++;
    return 0;
}

/* A scan of the latest state is of one state, and no older than what was acknowledged. */
static void check_latest(struct stress *stress, unsigned w, bool reverse) {
    struct pleat_error err = {0};
    char name[32];
    uint64_t before = atomic_load_explicit(&stress->acknowledged[w], memory_order_acquire); /* pairs with the writers */
    EXPECT(read_number(stress, stress->spaces[1], NULL, name_of(name, sizeof name, "set", w, 1)) >= before,
           "a get is older than what was acknowledged before it");
    struct set_scan scan = {.same = true};
    (void)snprintf(name, sizeof name, "w%u.set.", w);
    struct pleat_slice prefix = {name, strlen(name)};
    MUST(
        pleat_scan(stress->spaces[0], PLEAT_ITER_OPTIONS(.prefix = prefix, .reverse = reverse), scan_set, &scan, &err));
    EXPECT(scan.same && scan.value >= before && (scan.rows == SET / 2 || (before == 0 && scan.rows == 0)),
           "a scan is of two states, or too old");
    atomic_fetch_add_explicit(&stress->scans, 1, memory_order_relaxed); /* a count: no partner */
}

static void *reader_run(void *context) {
    struct worker *worker = context;
    uint64_t last[WRITERS] = {0}, last_fence = 0;
    for (uint64_t round = 0; !stress_stopping(); round++) {
        if ((round + worker->index) % 4 == 0) {
            check_snapshot(worker->stress, last, &last_fence);
        } else {
            check_latest(worker->stress, (unsigned)(round % WRITERS), round % 3 == 0);
        }
    }
    return NULL;
}

/* ---- maintenance ------------------------------------------------------------------------------------------------ */

static void maintain_scratch(struct stress *stress, uint64_t round) {
    struct pleat_error err = {0};
    struct pleat_space *scratch;
    struct pleat_batch *batch;
    struct pleat_snapshot *snapshot;
    MUST(pleat_space_open(stress->db, (struct pleat_slice){"scratch", 7}, NULL, &scratch, &err));
    MUST(pleat_batch_new(stress->db, &batch, &err));
    for (uint64_t i = 0; i < 20; i++) {
        uint64_t key = i * round;
        MUST(pleat_batch_put(batch, scratch, (struct pleat_slice){&key, sizeof key},
                             (struct pleat_slice){&round, sizeof round}, &err));
    }
    MUST(pleat_commit(stress->db, batch, NULL, NULL, &err));
    pleat_batch_free(batch);
    /* Also what the other one is compacting right now. */
    struct pleat_space *churn;
    MUST(pleat_space_open(stress->db, (struct pleat_slice){"churn", 5}, NULL, &churn, &err));
    MUST(pleat_space_clear(churn, &err));
    uint64_t zero = 0;
    MUST(pleat_snapshot_new(stress->db, &snapshot, &err));
    if (round % 2 == 0) {
        MUST(pleat_space_clear(scratch, &err));
        EXPECT(pleat_exists(scratch, NULL, (struct pleat_slice){&zero, sizeof zero}, &err) == PLEAT_ABSENT, "clear");
    } else {
        MUST(pleat_space_drop(scratch, &err));
    }
    EXPECT(read_number(stress, scratch, snapshot, (struct pleat_slice){&zero, sizeof zero}) == round,
           "a snapshot lost what a clear or drop removed");
    pleat_snapshot_free(snapshot);
}

static void *maintainer_run(void *context) {
    struct stress *stress = ((struct worker *)context)->stress;
    struct pleat_stats stats = {.size = sizeof stats};
    for (uint64_t round = 1; !stress_stopping(); round++) {
        struct pleat_error err = {0};
        struct pleat_check check;
        uint64_t sequence;
        switch (round % 8) {
        case 0:
            MUST(pleat_flush(stress->db, &err));
            break;
        case 1:
            MUST(pleat_compact(stress->spaces[round / 8 % 2], NULL, NULL, &err));
            break;
        case 2:
            MUST(pleat_check(stress->db, &check, &err));
            break;
        case 3:
            MUST(pleat_sync(stress->db, &err));
            break;
        case 4:
            pleat_position_read(stress->db, PLEAT_APPLIED, NULL, &sequence);
            MUST(pleat_wait_durable(stress->db, sequence, 20000, &err));
            break;
        case 5:
            MUST(pleat_stats_read(stress->db, &stats, &err));
            break;
        default:
            maintain_scratch(stress, round);
            break;
        }
        thread_sleep_ns(2000000);
    }
    return NULL;
}

/* A second one, so that full compactions, clears and settles run beside each other. */
static void *compactor_run(void *context) {
    struct stress *stress = ((struct worker *)context)->stress;
    for (uint64_t round = 1; !stress_stopping(); round++) {
        struct pleat_error err = {0};
        struct pleat_space *churn;
        struct pleat_batch *batch;
        MUST(pleat_space_open(stress->db, (struct pleat_slice){"churn", 5}, NULL, &churn, &err));
        MUST(pleat_batch_new(stress->db, &batch, &err));
        for (uint64_t i = 0; i < 500; i++) {
            uint64_t key = i * round;
            MUST(pleat_batch_put(batch, churn, (struct pleat_slice){&key, sizeof key}, (struct pleat_slice){"x", 1},
                                 &err));
        }
        MUST(pleat_commit(stress->db, batch, NULL, NULL, &err));
        pleat_batch_free(batch);
        MUST(pleat_compact(round % 3 != 0 ? churn : stress->spaces[round % 2], NULL, NULL, &err));
        if (round % 5 == 0) {
            MUST(pleat_space_clear(churn, &err));
        }
        thread_sleep_ns(3000000);
    }
    return NULL;
}

static void on_durable(void *context, uint64_t history, uint64_t sequence) {
    struct stress *stress = context;
    uint64_t heard = atomic_load_explicit(&stress->durable_heard, memory_order_relaxed);
    (void)history;
    while (heard < sequence && !atomic_compare_exchange_weak_explicit(&stress->durable_heard, &heard, sequence,
                                                                      memory_order_relaxed, memory_order_relaxed)) {
    }
}

static void stress_open(struct stress *stress, const char *path) {
    struct pleat_error err = {0};
    struct pleat_options *options =
        PLEAT_OPTIONS(.memtable_bytes = 32 << 10, .cache_bytes = 256 << 10, .table_bytes = 8 << 10,
                      .table_files_max = 2, .level_base_bytes = 32 << 10, .level_ratio = 4, .sync_interval_ms = 5,
                      .on_durable = on_durable, .on_durable_context = stress);
    MUST(db_open_with(path, options, &shake_vfs, &shake_mem, &stress->db, &err));
    stress->spaces[0] = pleat_default_space(stress->db);
    MUST(pleat_space_open(stress->db, (struct pleat_slice){"second", 6}, PLEAT_SPACE_OPTIONS(.block_bytes = 256),
                          &stress->spaces[1], &err));
}

int main(int argc, char **argv) {
    static struct stress stress;
    static void *(*const runs[])(void *) = {writer_run, writer_run,     reader_run,   reader_run,
                                            reader_run, maintainer_run, compactor_run};
    enum { WORKERS = sizeof runs / sizeof runs[0] };
    struct thread threads[WORKERS];
    struct worker workers[WORKERS];
    struct pleat_error err = {0};
    char path[300];
    stress_begin("store_stress", 4, argc, argv);
    (void)snprintf(path, sizeof path, "%s/store", stress_run.path);
    stress_open(&stress, path);
    for (unsigned i = 0; i < WORKERS; i++) {
        workers[i] = (struct worker){&stress, i < WRITERS ? i : i - WRITERS};
        stress_start(&threads[i], runs[i], &workers[i]);
    }
    thread_sleep_ns((uint64_t)(stress_run.seconds * 1e9));
    atomic_store_explicit(&stress_run.stop, true, memory_order_relaxed);
    for (unsigned i = 0; i < WORKERS; i++) {
        thread_join(&threads[i]);
    }
    uint64_t applied, last[WRITERS], fence = atomic_load(&stress.fence);
    for (unsigned w = 0; w < WRITERS; w++) {
        last[w] = atomic_load(&stress.acknowledged[w]);
    }
    pleat_position_read(stress.db, PLEAT_APPLIED, NULL, &applied);
    MUST(pleat_close(stress.db, &err));
    EXPECT(atomic_load(&stress.durable_heard) == applied, "the callback did not hear of the last commit");
    stress_open(&stress, path);
    uint64_t found = last[0], found_fence = fence, after;
    pleat_position_read(stress.db, PLEAT_APPLIED, NULL, &after);
    EXPECT(after == applied, "a close lost commits");
    check_snapshot(&stress, last, &found_fence);
    EXPECT(last[0] == found && found_fence == fence, "a close lost a cursor");
    MUST(pleat_close(stress.db, &err));
    EXPECT(shake_live() == 0, "memory is left behind");
    stress_end();
    printf("%" PRIu64 " commits, %" PRIu64 " snapshots, %" PRIu64 " scans, %" PRIu64 " gets: all right\n", applied,
           atomic_load(&stress.snapshots), atomic_load(&stress.scans), atomic_load(&stress.gets));
    return 0;
}
