/*
 * threads_stress.c - calls of every kind beside one another, and stores that are closed under threads that live on.
 *
 *     threads_stress [--seconds N] [--seed S] [--shake N] [seconds]
 *
 * Two stores share a cache and live for a fraction of a second, again and again. Half of the threads are started for
 * each life and end around the close: it begins as soon as their last call has returned, not when they are joined. The
 * others last from life to life, with whatever the library keeps for a thread. What they do:
 *
 *   commit   with and without a sync, and waiting until durable; a callback that reads the store
 *   spaces   several threads open, fill, clear and drop the same three spaces: each call works, or is refused because
 *            another thread has dropped the space; what a snapshot shows stays
 *   values   pinned by one thread, looked at and released by another, behind flushes, compactions and drops
 *   share    one snapshot that several threads read, and whoever lets go last frees
 *   settle   and compact, cancelled at random, several at once
 *   ask      statistics, health, lists, positions, checks
 *   fold     (fold.h) an owner that applies and closes while readers read on other threads; the last one closes
 */
#include "stress/stress.h"

#include "db/db.h"
#include "pleat/fold.h"

#define STORES 2
#define SPACES 3
#define LASTING 5
#define FRESH 5
#define PINS 8
#define BIG_BYTES 700

/* A snapshot that threads share. */
struct shared {
    struct pleat_snapshot *snapshot;
    unsigned refs; /* guarded by the store's mutex */
    uint64_t sum;
};

struct store {
    struct pleat_db *db;
    pthread_mutex_t mutex;
    struct pleat_value *pins[PINS];  /* guarded by mutex: handed from thread to thread */
    struct shared *shared;           /* guarded by mutex: holds one reference */
    _Atomic uint64_t heard;          /* relaxed: by the callback, checked behind the close */
    _Atomic(struct pleat_db *) open; /* the same db, release by main, pairs with the acquire of the callback */
};

static struct {
    struct store stores[STORES];
    struct pleat_cache *cache;
    _Atomic uint64_t life;    /* release by main when the stores are open; pairs with the acquires of the lasting */
    _Atomic bool life_ends;   /* relaxed: a request */
    _Atomic unsigned working; /* release by each thread behind its last call; pairs with the acquire of main */
    _Atomic uint64_t calls;   /* a count: no partner */
    uint64_t lives;
} test;

struct worker {
    unsigned index;
    struct random random;
    struct thread thread;
};

static bool life_goes_on(void) {
    return !atomic_load_explicit(&test.life_ends, memory_order_relaxed);
}

static const struct pleat_slice space_names[SPACES] = {{"one", 3}, {"two", 3}, {"three", 5}};

/* ---- commits ---------------------------------------------------------------------------------------------------- */

static void put_some(struct store *store, struct pleat_space *space, struct random *random, bool *ret_refused) {
    struct pleat_error err = {0};
    struct pleat_batch *batch;
    uint8_t value[BIG_BYTES];
    MUST(pleat_batch_new(store->db, &batch, &err));
    for (uint64_t i = 0; i < 1 + random_below(random, 12); i++) {
        uint64_t key = random_below(random, 64);
        memset(value, (int)random_below(random, 256), sizeof value);
        size_t bytes = random_below(random, 3) == 0 ? sizeof value : 16;
        int rc = pleat_batch_put(batch, space, (struct pleat_slice){&key, sizeof key},
                                 (struct pleat_slice){value, bytes}, &err);
        if (rc == PLEAT_ERR_INVALID && ret_refused != NULL) {
            *ret_refused = true;
            break;
        }
        MUST(rc);
    }
    uint32_t sync = (uint32_t)random_below(random, 3); /* as the store says, with, without */
    uint64_t sequence;
    int rc = pleat_commit(store->db, batch, PLEAT_COMMIT_OPTIONS(.sync = sync), &sequence, &err);
    pleat_batch_free(batch);
    if (rc == PLEAT_ERR_INVALID && ret_refused != NULL) {
        *ret_refused = true;
        return;
    }
    MUST(rc);
    if (random_below(random, 4) == 0) {
        rc = pleat_wait_durable(store->db, sequence, random_below(random, 20), &err);
        EXPECT(rc == 0 || rc == PLEAT_TIMEOUT, err.message);
    }
}

static void act_commit(struct store *store, struct random *random) {
    put_some(store, pleat_default_space(store->db), random, NULL);
}

static void on_durable(void *context, uint64_t history, uint64_t sequence) {
    struct store *store = context;
    struct pleat_error err = {0};
    uint64_t heard = atomic_load_explicit(&store->heard, memory_order_relaxed), key = sequence % 64, durable;
    (void)history;
    while (heard < sequence && !atomic_compare_exchange_weak_explicit(&store->heard, &heard, sequence,
                                                                      memory_order_relaxed, memory_order_relaxed)) {
    }
    struct pleat_db *db = atomic_load_explicit(&store->open, memory_order_acquire); /* pairs with life_open */
    if (db == NULL) {
        return; /* the handle is not handed out yet, or being closed */
    }
    pleat_position_read(db, PLEAT_DURABLE, NULL, &durable);
    EXPECT(durable >= sequence, "the callback is ahead of the durable position");
    int rc = pleat_exists(pleat_default_space(db), NULL, (struct pleat_slice){&key, sizeof key}, &err);
    EXPECT(rc == 0 || rc == PLEAT_ABSENT, err.message);
}

/* ---- spaces that several threads drop --------------------------------------------------------------------------- */

static int sum_row(void *context, const struct pleat_row *row) {
    uint64_t *sum = context;
    for (size_t i = 0; i < row->value.bytes; i++) {
        *sum = *sum * 31 + ((const uint8_t *)row->value.data)[i];
    }
    *sum += 7919;
    return 0;
}

/* 0, or a refusal because another thread was there first. */
static bool worked_or_dropped(int rc, const struct pleat_error *err) {
    if (rc != 0 && (rc != PLEAT_ERR_INVALID || strstr(err->message, "dropped") == NULL)) {
        stress_fail("a call of a space", rc, err);
    }
    return rc == 0;
}

static void act_spaces(struct store *store, struct random *random) {
    struct pleat_error err = {0};
    struct pleat_space *space;
    struct pleat_snapshot *snapshot;
    bool refused = false;
    uint64_t before = 0, after = 0, sum = 0, key = 1;
    MUST(pleat_space_open(store->db, space_names[random_below(random, SPACES)], NULL, &space, &err));
    put_some(store, space, random, &refused);
    MUST(pleat_snapshot_new(store->db, &snapshot, &err));
    MUST(pleat_scan(space, PLEAT_ITER_OPTIONS(.snapshot = snapshot), sum_row, &before, &err));
    switch (random_below(random, 4)) {
    case 0:
        if (worked_or_dropped(pleat_space_drop(space, &err), &err)) {
            ANSWERS(PLEAT_ERR_INVALID, pleat_exists(space, NULL, (struct pleat_slice){&key, sizeof key}, &err));
        }
        break;
    case 1:
        (void)worked_or_dropped(pleat_space_clear(space, &err), &err);
        break;
    case 2:
        (void)worked_or_dropped(pleat_compact(space, NULL, NULL, &err), &err);
        break;
    default:
        (void)worked_or_dropped(pleat_scan(space, NULL, sum_row, &sum, &err), &err);
        break;
    }
    MUST(pleat_scan(space, PLEAT_ITER_OPTIONS(.snapshot = snapshot), sum_row, &after, &err));
    EXPECT(before == after, "a snapshot lost what a drop or clear removed");
    pleat_snapshot_free(snapshot);
}

/* ---- values and snapshots that change hands --------------------------------------------------------------------- */

static void value_check(const struct pleat_value *value) {
    const uint8_t *bytes = value->data;
    for (size_t i = 1; i < value->bytes; i++) {
        EXPECT(bytes[i] == bytes[0], "a pinned value changed");
    }
}

/* Pins a value into a slot, and lets go of the one that another thread has put there. */
static void act_values(struct store *store, struct random *random) {
    struct pleat_error err = {0};
    struct pleat_value *value = calloc(1, sizeof *value);
    uint64_t key = random_below(random, 64), slot = random_below(random, PINS);
    int rc = pleat_get(pleat_default_space(store->db), NULL, (struct pleat_slice){&key, sizeof key}, value, &err);
    EXPECT(rc == 0 || rc == PLEAT_ABSENT, err.message);
    if (rc == PLEAT_ABSENT) {
        free(value);
        return;
    }
    value_check(value);
    (void)pthread_mutex_lock(&store->mutex);
    struct pleat_value *old = store->pins[slot];
    store->pins[slot] = value;
    (void)pthread_mutex_unlock(&store->mutex);
    if (old != NULL) {
        value_check(old);
        pleat_value_release(old);
        free(old);
    }
}

/* Lets go of a reference; the last one frees. */
static void shared_unref(struct store *store, struct shared *shared) {
    (void)pthread_mutex_lock(&store->mutex);
    bool last = --shared->refs == 0;
    (void)pthread_mutex_unlock(&store->mutex);
    if (last) {
        pleat_snapshot_free(shared->snapshot);
        free(shared);
    }
}

static void shared_replace(struct store *store, struct shared *next) {
    (void)pthread_mutex_lock(&store->mutex);
    struct shared *old = store->shared;
    store->shared = next;
    (void)pthread_mutex_unlock(&store->mutex);
    if (old != NULL) {
        shared_unref(store, old);
    }
}

static void act_share(struct store *store, struct random *random) {
    struct pleat_error err = {0};
    struct pleat_space *space = pleat_default_space(store->db);
    (void)pthread_mutex_lock(&store->mutex);
    struct shared *shared = store->shared;
    if (shared != NULL) {
        shared->refs++;
    }
    (void)pthread_mutex_unlock(&store->mutex);
    if (shared != NULL) {
        uint64_t sum = 0;
        MUST(pleat_scan(space, PLEAT_ITER_OPTIONS(.snapshot = shared->snapshot), sum_row, &sum, &err));
        EXPECT(sum == shared->sum, "a shared snapshot changed");
        shared_unref(store, shared);
    }
    if (shared == NULL || random_below(random, 8) == 0) {
        struct shared *next = calloc(1, sizeof *next);
        next->refs = 1;
        MUST(pleat_snapshot_new(store->db, &next->snapshot, &err));
        MUST(pleat_scan(space, PLEAT_ITER_OPTIONS(.snapshot = next->snapshot), sum_row, &next->sum, &err));
        shared_replace(store, next);
    }
}

/* ---- the background, and questions ------------------------------------------------------------------------------ */

static int cancel_at_random(void *context, const struct pleat_progress *progress) {
    (void)progress;
    return random_below(context, 3) == 0;
}

static void act_settle(struct store *store, struct random *random) {
    struct pleat_error err = {0};
    int rc;
    switch (random_below(random, 4)) {
    case 0:
        rc = pleat_settle(store->db, cancel_at_random, random, &err);
        break;
    case 1:
        rc = pleat_compact(pleat_default_space(store->db), cancel_at_random, random, &err);
        break;
    case 2:
        rc = pleat_sync(store->db, &err);
        break;
    default:
        rc = pleat_flush(store->db, &err);
        break;
    }
    if (rc != PLEAT_ERR_CANCELLED) {
        MUST(rc);
    }
}

static int list_space(void *context, struct pleat_slice name) {
    (*(unsigned *)context)++;
    EXPECT(name.bytes > 0 && name.bytes <= 7, "a space without a name");
    return 0;
}

static int list_cursor(void *context, struct pleat_slice name, const struct pleat_cursor_value *cursor) {
    (void)context;
    (void)name;
    EXPECT(cursor->bytes == sizeof(uint64_t), "a cursor is cut short");
    return 0;
}

static void act_ask(struct store *store, struct random *random) {
    struct pleat_error err = {0};
    struct pleat_stats stats = {.size = sizeof stats};
    struct pleat_check check;
    unsigned spaces = 0;
    uint64_t applied, durable;
    MUST(pleat_health(store->db, &err));
    pleat_position_read(store->db, PLEAT_DURABLE, NULL, &durable);
    MUST(pleat_stats_read(store->db, &stats, &err));
    pleat_position_read(store->db, PLEAT_APPLIED, NULL, &applied);
    EXPECT(stats.durable_sequence >= durable && stats.applied_sequence >= stats.durable_sequence &&
               applied >= stats.applied_sequence,
           "positions go back");
    MUST(pleat_space_list(store->db, list_space, &spaces, &err));
    EXPECT(spaces >= 1 && spaces <= 1 + SPACES, "spaces are missing, or there twice");
    MUST(pleat_cursor_list(store->db, PLEAT_DURABLE, list_cursor, NULL, &err));
    if (random_below(random, 8) == 0) {
        MUST(pleat_check(store->db, &check, &err));
    }
}

/* ---- threads ---------------------------------------------------------------------------------------------------- */

static void worker_life(struct worker *worker) {
    static const struct {
        void (*act)(struct store *store, struct random *random);
        unsigned times; /* those that wait for no disk, more often */
    } acts[] = {{act_commit, 8}, {act_spaces, 1}, {act_values, 40}, {act_share, 8}, {act_settle, 1}, {act_ask, 2}};
    while (life_goes_on()) {
        struct store *store = &test.stores[random_below(&worker->random, STORES)];
        uint64_t act = random_below(&worker->random, sizeof acts / sizeof acts[0]);
        for (unsigned i = 0; i < acts[act].times && life_goes_on(); i++) {
            acts[act].act(store, &worker->random);
            (void)atomic_fetch_add_explicit(&test.calls, 1, memory_order_relaxed);
        }
    }
    (void)atomic_fetch_sub_explicit(&test.working, 1, memory_order_release); /* pairs with the acquire in life_wait */
}

static void *fresh_run(void *context) {
    worker_life(context);
    return NULL;
}

static void *lasting_run(void *context) {
    uint64_t seen = 0;
    while (!stress_stopping()) {
        uint64_t life = atomic_load_explicit(&test.life, memory_order_acquire); /* pairs with the release in life_run */
        if (life == seen) {
            thread_sleep_ns(200000);
            continue;
        }
        seen = life;
        worker_life(context);
    }
    return NULL;
}

/* ---- the fold --------------------------------------------------------------------------------------------------- */

#define FOLD_READERS 2
#define FOLD_KEYS 6

static struct pleat_slice fold_key(char buffer[16], uint64_t key) {
    int n = snprintf(buffer, 16, "a.b%" PRIu64 ".c", key);
    return (struct pleat_slice){buffer, (size_t)n};
}

struct fold_reader {
    struct pleat_fold_reader *reader;
    _Atomic uint64_t *applied; /* release by the owner; pairs with the acquire of the reader */
    _Atomic unsigned *working;
    struct thread thread;
};

static int fold_row(void *context, const struct pleat_row *row) {
    uint64_t *rows = context, n;
    EXPECT(row->value.bytes == sizeof n, "a value of a fold is cut short");
    memcpy(&n, row->value.data, sizeof n);
    EXPECT(rows[0] == 0 || rows[1] == n, "a range of a fold is of two states");
    rows[0]++;
    rows[1] = n;
    return 0;
}

static void *fold_reader_run(void *context) {
    struct fold_reader *reader = context;
    struct pleat_error err = {0};
    uint64_t last = 0;
    for (uint64_t round = 0; last == 0 || life_goes_on(); round++) {
        struct pleat_value value;
        struct pleat_cursor_value cursor;
        char text[16];
        uint64_t n = 0, rows[2] = {0, 0};
        uint64_t before = atomic_load_explicit(reader->applied, memory_order_acquire); /* pairs with the owner */
        int rc = pleat_fold_reader_cursor(reader->reader, PLEAT_APPLIED, &cursor, &err);
        EXPECT(rc == 0 || (rc == PLEAT_ABSENT && before == 0), "a cursor of a fold is gone");
        rc = pleat_fold_reader_get(reader->reader, fold_key(text, round % FOLD_KEYS), &value, &err);
        if (rc == 0) {
            memcpy(&n, value.data, sizeof n);
            pleat_value_release(&value);
        }
        EXPECT(n >= before && n >= last, "a get of a fold is older than what was applied");
        last = n;
        if (round % 2 == 0) {
            MUST(pleat_fold_reader_each(reader->reader, (struct pleat_slice){"a.", 2}, fold_row, rows, &err));
        } else {
            MUST(pleat_fold_reader_range(reader->reader, (struct pleat_slice){"a", 1}, (struct pleat_slice){NULL, 0}, 0,
                                         fold_row, rows, &err));
        }
        EXPECT(rows[0] == (last == 0 && rows[0] == 0 ? 0 : FOLD_KEYS) && rows[1] >= last, "rows of a fold are missing");
    }
    pleat_fold_reader_free(reader->reader);                                    /* perhaps the last: closes the store */
    (void)atomic_fetch_sub_explicit(reader->working, 1, memory_order_release); /* pairs with the acquire in fold_run */
    return NULL;
}

/* The owner: applies, and closes while its readers go on. Opens again when the last has let go. */
static void *fold_run(void *context) {
    struct worker *worker = context;
    struct pleat_error err = {0};
    _Atomic uint64_t applied = 0;
    _Atomic unsigned working = FOLD_READERS;
    struct fold_reader readers[FOLD_READERS];
    struct pleat_fold *fold;
    struct pleat_cursor_value cursor;
    char path[300];
    uint64_t n = 0;
    (void)snprintf(path, sizeof path, "%s/fold", stress_run.path);
    int rc = pleat_fold_open(path, PLEAT_OPTIONS(.memtable_bytes = 16 << 10), '.', 2, &fold, &cursor, &err);
    EXPECT(rc == 0 || rc == PLEAT_ABSENT, err.message);
    if (rc == 0) {
        memcpy(&n, cursor.value, sizeof n);
    }
    atomic_store(&applied, n);
    for (unsigned i = 0; i < FOLD_READERS; i++) {
        readers[i] = (struct fold_reader){.applied = &applied, .working = &working};
        MUST(pleat_fold_reader_new(fold, &readers[i].reader, &err));
        stress_start(&readers[i].thread, fold_reader_run, &readers[i]);
    }
    for (uint64_t rounds = 20 + random_below(&worker->random, 200); rounds > 0; rounds--) {
        struct pleat_fold_update updates[FOLD_KEYS];
        char text[FOLD_KEYS][16];
        n++;
        for (uint64_t i = 0; i < FOLD_KEYS; i++) {
            updates[i] = (struct pleat_fold_update){
                .kind = PLEAT_FOLD_PUT, .key = fold_key(text[i], i), .value = {&n, sizeof n}};
        }
        MUST(pleat_fold_apply(fold, updates, FOLD_KEYS, (struct pleat_slice){&n, sizeof n}, NULL, &err));
        atomic_store_explicit(&applied, n, memory_order_release); /* pairs with the readers' acquire */
    }
    MUST(pleat_fold_close(fold, &err));
    for (unsigned i = 0; i < FOLD_READERS; i++) {
        thread_join(&readers[i].thread);
    }
    EXPECT(atomic_load_explicit(&working, memory_order_acquire) == 0, "a reader did not end"); /* with the readers */
    return NULL;
}

/* ---- lives ------------------------------------------------------------------------------------------------------ */

static void life_open(struct random *random) {
    for (unsigned i = 0; i < STORES; i++) {
        struct pleat_error err = {0};
        struct pleat_db *db;
        char path[300];
        (void)snprintf(path, sizeof path, "%s/store.%u", stress_run.path, i);
        struct pleat_options *options =
            PLEAT_OPTIONS(.cache = test.cache, .memtable_bytes = (16u << 10) << random_below(random, 3),
                          .table_bytes = 8 << 10, .level_base_bytes = 32 << 10, .level_ratio = 3, .sync_interval_ms = 3,
                          .background_threads = 1 + (uint32_t)random_below(random, 2),
                          .table_files_max = 1 + (uint32_t)random_below(random, 4), .on_durable = on_durable,
                          .on_durable_context = &test.stores[i]);
        atomic_store(&test.stores[i].heard, 0);
        MUST(db_open_with(path, options, &shake_vfs, &shake_mem, &db, &err));
        test.stores[i].db = db;
        atomic_store_explicit(&test.stores[i].open, db, memory_order_release); /* pairs with on_durable */
    }
}

/* As soon as the last call of every thread has returned: they may still be on their way out. */
static void life_close(void) {
    struct pleat_error err = {0};
    for (unsigned i = 0; i < STORES; i++) {
        struct store *store = &test.stores[i];
        uint64_t applied;
        atomic_store_explicit(&store->open, NULL, memory_order_release);
        shared_replace(store, NULL);
        for (unsigned slot = 0; slot < PINS; slot++) {
            if (store->pins[slot] != NULL) {
                ANSWERS(PLEAT_ERR_INVALID,
                        store->pins[slot]->pin != NULL ? pleat_close(store->db, &err) : PLEAT_ERR_INVALID);
                value_check(store->pins[slot]);
                pleat_value_release(store->pins[slot]);
                free(store->pins[slot]);
                store->pins[slot] = NULL;
            }
        }
        pleat_position_read(store->db, PLEAT_APPLIED, NULL, &applied);
        MUST(pleat_close(store->db, &err));
        EXPECT(atomic_load(&store->heard) <= applied, "more was called durable than was applied");
        store->db = NULL;
    }
}

static void life_run(struct random *random) {
    struct worker fresh[FRESH], folder;
    life_open(random);
    atomic_store_explicit(&test.life_ends, false, memory_order_relaxed);
    atomic_store_explicit(&test.working, LASTING + FRESH, memory_order_relaxed);
    /* Release; pairs with the acquire in lasting_run. */
    atomic_store_explicit(&test.life, ++test.lives, memory_order_release);
    for (unsigned i = 0; i < FRESH; i++) {
        fresh[i] = (struct worker){.index = i, .random = stress_random(1000 * test.lives + i)};
        stress_start(&fresh[i].thread, fresh_run, &fresh[i]);
    }
    folder.random = stress_random(1000 * test.lives + 999);
    stress_start(&folder.thread, fold_run, &folder);
    thread_sleep_ns(100000000 + random_below(random, 200000000));
    atomic_store_explicit(&test.life_ends, true, memory_order_relaxed);
    while (atomic_load_explicit(&test.working, memory_order_acquire) > 0) { /* pairs with the release in worker_life */
        thread_yield();
    }
    life_close();
    for (unsigned i = 0; i < FRESH; i++) {
        thread_join(&fresh[i].thread);
    }
    thread_join(&folder.thread);
}

int main(int argc, char **argv) {
    struct worker lasting[LASTING];
    struct pleat_error err = {0};
    stress_begin("threads_stress", 3, argc, argv);
    struct random random = stress_random(1);
    uint64_t ends = stress_now_ns() + (uint64_t)(stress_run.seconds * 1e9);
    MUST(pleat_cache_new(256 << 10, &test.cache, &err));
    for (unsigned i = 0; i < STORES; i++) {
        (void)pthread_mutex_init(&test.stores[i].mutex, NULL);
    }
    for (unsigned i = 0; i < LASTING; i++) {
        lasting[i] = (struct worker){.index = i, .random = stress_random(100 + i)};
        stress_start(&lasting[i].thread, lasting_run, &lasting[i]);
    }
    do {
        life_run(&random);
        EXPECT(shake_live() == 0, "memory is left behind");
    } while (stress_now_ns() < ends);
    atomic_store_explicit(&stress_run.stop, true, memory_order_relaxed);
    for (unsigned i = 0; i < LASTING; i++) {
        thread_join(&lasting[i].thread);
    }
    pleat_cache_free(test.cache);
    printf("%" PRIu64 " calls in %" PRIu64 " lives of %d stores: all right\n", atomic_load(&test.calls), test.lives,
           STORES);
    stress_end();
    return 0;
}
