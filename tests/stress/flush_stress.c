/*
 * flush_stress.c - flushes whose parts several workers write, beside readers who miss nothing.
 *
 *     flush_stress [--seconds N] [--seed S] [seconds]
 *
 * One thread puts the keys 0, 1, 2, ... of two spaces, both in each commit, so that every run goes deep and is written
 * in halves by whoever is free. Now and then it clears and refills a third space, whose runs are for level 0, flushes,
 * or waits until all is settled. Readers take snapshots and look whether a stretch of keys is whole, and whether the
 * last key is the last.
 */
#include "stress/stress.h"

#include "db/db.h"

#define READERS 3
#define STRETCH 40
#define OTHER_KEYS 64

static struct flush_test {
    struct pleat_db *db;
    struct pleat_space *spaces[2];
    struct pleat_space *other;
    _Atomic uint64_t keys;  /* that are there; release by the writer, pairs with the acquire of the readers */
    _Atomic uint64_t reads; /* a count: no partner */
} test;

static struct pleat_slice key_of(uint64_t number, char key[32]) {
    int bytes = snprintf(key, 32, "stream.%012" PRIu64, number);
    return (struct pleat_slice){key, (size_t)bytes};
}

static void put_next(struct pleat_batch *batch, uint64_t first, uint64_t count) {
    struct pleat_error err = {0};
    char key[32], value[120];
    memset(value, 'v', sizeof value);
    pleat_batch_clear(batch);
    for (uint64_t number = first; number < first + count; number++) {
        struct pleat_slice slice = key_of(number, key);
        memcpy(value, &number, sizeof number);
        for (unsigned i = 0; i < 2; i++) {
            MUST(pleat_batch_put(batch, test.spaces[i], slice, (struct pleat_slice){value, sizeof value}, &err));
        }
    }
    MUST(pleat_commit(test.db, batch, NULL, NULL, &err));
    atomic_store_explicit(&test.keys, first + count, memory_order_release); /* pairs with the readers' acquire */
}

static void refill_other(struct pleat_batch *batch, uint64_t round) {
    struct pleat_error err = {0};
    char key[32];
    if (round % 3 == 0) {
        MUST(pleat_space_clear(test.other, &err));
    }
    pleat_batch_clear(batch);
    for (uint64_t number = 0; number < OTHER_KEYS; number++) {
        MUST(pleat_batch_put(batch, test.other, key_of(number, key), (struct pleat_slice){&round, sizeof round}, &err));
    }
    MUST(pleat_commit(test.db, batch, NULL, NULL, &err));
}

static void *writer_run(void *context) {
    struct random random = stress_random(1);
    struct pleat_error err = {0};
    struct pleat_batch *batch;
    uint64_t keys = 0;
    MUST(pleat_batch_new(test.db, &batch, &err));
    for (uint64_t round = 0; !stress_stopping(); round++) {
        uint64_t count = 1 + random_below(&random, 60);
        put_next(batch, keys, count);
        keys += count;
        switch (random_below(&random, 40)) {
        case 0:
        case 1:
            refill_other(batch, round);
            break;
        case 2:
            MUST(pleat_flush(test.db, &err));
            break;
        case 3:
            MUST(random_below(&random, 4) == 0 ? pleat_settle(test.db, NULL, NULL, &err) : 0);
            break;
        default:
            break;
        }
    }
    pleat_batch_free(batch);
    return context;
}

struct stretch {
    uint64_t next;
    uint64_t end;
};

static int stretch_row(void *context, const struct pleat_row *row) {
    struct stretch *stretch = context;
    char key[32];
    struct pleat_slice expected = key_of(stretch->next, key);
    EXPECT(row->key.bytes == expected.bytes && memcmp(row->key.data, key, expected.bytes) == 0, "a key is missing");
    EXPECT(memcmp(row->value.data, &stretch->next, sizeof stretch->next) == 0, "the value of another key");
    stretch->next++;
    return 0;
}

/* All keys of [first, end) of a space, as a snapshot or the present shows it. */
static void see_stretch(struct pleat_space *space, const struct pleat_snapshot *snapshot, uint64_t first,
                        uint64_t end) {
    struct pleat_error err = {0};
    char lower[32], upper[32];
    struct stretch stretch = {first, end};
    MUST(pleat_scan(space,
                    PLEAT_ITER_OPTIONS(.snapshot = snapshot, .has_lower = true, .lower = key_of(first, lower),
                                       .has_upper = true, .upper = key_of(end, upper)),
                    stretch_row, &stretch, &err));
    EXPECT(stretch.next == end, "the end of a stretch is missing");
}

static int last_row(void *context, const struct pleat_row *row) {
    memcpy(context, row->value.data, sizeof(uint64_t));
    return 0;
}

static void *reader_run(void *context) {
    struct random random = stress_random(10 + *(unsigned *)context);
    struct pleat_error err = {0};
    while (!stress_stopping()) {
        struct pleat_snapshot *snapshot;
        uint64_t keys = atomic_load_explicit(&test.keys, memory_order_acquire); /* pairs with put_next */
        struct pleat_space *space = test.spaces[random_below(&random, 2)];
        if (keys == 0) {
            thread_sleep_ns(100000);
            continue;
        }
        uint64_t first = random_below(&random, keys);
        uint64_t end = first + STRETCH < keys ? first + STRETCH : keys;
        if (random_below(&random, 2) == 0) {
            see_stretch(space, NULL, first, end);
        } else {
            uint64_t last[2] = {0, 0};
            MUST(pleat_snapshot_new(test.db, &snapshot, &err));
            for (unsigned i = 0; i < 2; i++) {
                MUST(pleat_scan(test.spaces[i], PLEAT_ITER_OPTIONS(.snapshot = snapshot, .reverse = true, .limit = 1),
                                last_row, &last[i], &err));
            }
            EXPECT(last[0] == last[1] && last[0] >= keys - 1, "two spaces of one commit differ");
            see_stretch(space, snapshot, first, end);
            pleat_snapshot_free(snapshot);
        }
        (void)atomic_fetch_add_explicit(&test.reads, 1, memory_order_relaxed);
        thread_sleep_ns(random_below(&random, 200000)); /* the flushes are what is to go on */
    }
    return NULL;
}

static void open_store(const char *path) {
    struct pleat_error err = {0};
    MUST(db_open_with(path,
                      PLEAT_OPTIONS(.memtable_bytes = 64 << 10, .table_bytes = 64 << 10, .background_threads = 3,
                                    .durability = PLEAT_SYNC_NONE, .cache_bytes = 1 << 20,
                                    .table_files_max = 2),
                      &shake_vfs, &shake_mem, &test.db, &err));
    MUST(pleat_space_open(test.db, (struct pleat_slice){"one", 3}, NULL, &test.spaces[0], &err));
    MUST(pleat_space_open(test.db, (struct pleat_slice){"two", 3}, NULL, &test.spaces[1], &err));
    MUST(pleat_space_open(test.db, (struct pleat_slice){"other", 5}, NULL, &test.other, &err));
}

int main(int argc, char **argv) {
    struct thread writer, readers[READERS];
    unsigned numbers[READERS];
    struct pleat_error err = {0};
    char path[300];
    stress_begin("flush_stress", 4, argc, argv);
    shake_start(stress_run.seed, 0);
    (void)snprintf(path, sizeof path, "%s/store", stress_run.path);
    open_store(path);
    stress_start(&writer, writer_run, NULL);
    for (unsigned i = 0; i < READERS; i++) {
        numbers[i] = i;
        stress_start(&readers[i], reader_run, &numbers[i]);
    }
    thread_sleep_ns((uint64_t)(stress_run.seconds * 1e9));
    atomic_store_explicit(&stress_run.stop, true, memory_order_relaxed);
    thread_join(&writer);
    for (unsigned i = 0; i < READERS; i++) {
        thread_join(&readers[i]);
    }
    uint64_t keys = atomic_load(&test.keys);
    for (unsigned i = 0; i < 2; i++) { /* as it is, and as it was left */
        struct pleat_check check;
        see_stretch(test.spaces[0], NULL, 0, keys);
        see_stretch(test.spaces[1], NULL, 0, keys);
        MUST(pleat_check(test.db, &check, &err));
        MUST(pleat_close(test.db, &err));
        if (i == 0) {
            open_store(path);
        }
    }
    EXPECT(shake_live() == 0, "memory is left behind");
    printf("%" PRIu64 " keys in order, %" PRIu64 " reads: all right\n", keys, atomic_load(&test.reads));
    stress_end();
    return 0;
}
