/*
 * clear_stress.c - what was cleared is never seen beside what was put since.
 *
 *     clear_stress [--seconds N] [--seed S] [seconds]
 *
 * One thread puts key k % 3 of a space, clears the space, puts the next key, and so on: no state has two keys. Readers
 * do nothing but take positions, by scans, iterators, get_many and snapshots, and look for two keys; they are
 * interrupted at any instruction (shake.h), because a position is taken by a handful of them; nothing else shakes,
 * because it would take the time in which that happens. What a read shows is
 * never older than what had been acknowledged; and the positions that a thread is told never go back, whoever tells.
 */
#include "stress/stress.h"

#include "db/db.h"

#define READERS 4
#define CLEAR_KEYS 3

static struct clear_test {
    struct pleat_db *db;
    struct pleat_space *space;
    _Atomic uint64_t acknowledged; /* sequence; release by the writer, pairs with the acquire of the readers */
    _Atomic uint64_t reads;        /* a count: no partner */
} test;

static const struct pleat_slice keys[CLEAR_KEYS] = {{"x", 1}, {"y", 1}, {"z", 1}};

static void *writer_run(void *context) {
    struct random random = stress_random(1);
    struct pleat_error err = {0};
    struct pleat_batch *batch;
    MUST(pleat_batch_new(test.db, &batch, &err));
    for (uint64_t k = 0; !stress_stopping(); k++) {
        uint64_t sequence;
        pleat_batch_clear(batch);
        MUST(pleat_batch_put(batch, test.space, keys[k % CLEAR_KEYS], (struct pleat_slice){&k, sizeof k}, &err));
        MUST(pleat_commit(test.db, batch, NULL, &sequence, &err));
        EXPECT(sequence == 2 * k + 1, "a clear does not take exactly one number");
        atomic_store_explicit(&test.acknowledged, sequence, memory_order_release); /* pairs with the readers' acquire */
        thread_sleep_ns(random_below(&random, 400000));
        MUST(pleat_space_clear(test.space, &err));
        atomic_store_explicit(&test.acknowledged, sequence + 1, memory_order_release); /* the same */
    }
    pleat_batch_free(batch);
    return context;
}

/* What one read saw: how many keys, and the number under the last of them. */
struct seen {
    unsigned rows;
    uint64_t k;
};

static int see_row(void *context, const struct pleat_row *row) {
    struct seen *seen = context;
    EXPECT(row->value.bytes == sizeof seen->k, "a value is cut short");
    memcpy(&seen->k, row->value.data, sizeof seen->k);
    seen->rows++;
    return 0;
}

static void see_many(struct seen *seen) {
    struct pleat_error err = {0};
    struct pleat_value values[CLEAR_KEYS];
    int status[CLEAR_KEYS];
    MUST(pleat_get_many(test.space, NULL, keys, CLEAR_KEYS, values, status, &err));
    for (int i = 0; i < CLEAR_KEYS; i++) {
        if (status[i] == 0) {
            (void)see_row(seen, &(struct pleat_row){.value = {values[i].data, values[i].bytes}});
            pleat_value_release(&values[i]);
        }
    }
}

/* Returns the sequence that the snapshot names; commit k is number 2 k + 1, the clear behind it 2 k + 2. */
static uint64_t see_snapshot(struct seen *seen) {
    struct pleat_error err = {0};
    struct pleat_snapshot *snapshot;
    MUST(pleat_snapshot_new(test.db, &snapshot, &err));
    uint64_t sequence = pleat_snapshot_sequence(snapshot);
    MUST(pleat_scan(test.space, PLEAT_ITER_OPTIONS(.snapshot = snapshot), see_row, seen, &err));
    pleat_snapshot_free(snapshot);
    EXPECT(seen->rows == sequence % 2, "a snapshot is not of the state that it names");
    EXPECT(seen->rows == 0 || 2 * seen->k + 1 == sequence, "a snapshot shows another commit than it names");
    return sequence;
}

static void *reader_run(void *context) {
    struct random random = stress_random(10 + *(unsigned *)context);
    struct pleat_error err = {0};
    uint64_t last = 0;
    shake_offer();
    while (!stress_stopping()) {
        struct seen seen = {0};
        uint64_t at,
            acknowledged = atomic_load_explicit(&test.acknowledged, memory_order_acquire); /* with the writer */
        uint64_t floor = acknowledged > last ? acknowledged : last;
        uint64_t way = random_below(&random, 64);
        if (way == 0) {
            at = see_snapshot(&seen);
        } else if (way == 1) {
            pleat_position_read(test.db, PLEAT_APPLIED, NULL, &at);
        } else {
            if (way < 34) {
                see_many(&seen);
            } else {
                MUST(pleat_scan(test.space, PLEAT_ITER_OPTIONS(.reverse = way % 2 == 0), see_row, &seen, &err));
            }
            EXPECT(seen.rows <= 1, "what was cleared is seen beside what was put since");
            /* No key at all is the state behind any clear: the first that is not too old. */
            at = seen.rows == 1 ? 2 * seen.k + 1 : (floor + 1) / 2 * 2;
        }
        EXPECT(at >= floor, "a state older than one that was acknowledged or seen before");
        last = at;
        (void)atomic_fetch_add_explicit(&test.reads, 1, memory_order_relaxed);
    }
    shake_withdraw();
    return NULL;
}

int main(int argc, char **argv) {
    struct thread writer, readers[READERS];
    unsigned numbers[READERS];
    struct pleat_error err = {0};
    char path[300];
    stress_begin("clear_stress", 4, argc, argv);
    shake_start(stress_run.seed, 0);
    (void)snprintf(path, sizeof path, "%s/store", stress_run.path);
    MUST(db_open_with(path, PLEAT_OPTIONS(.memtable_bytes = 64 << 10), &shake_vfs, &shake_mem, &test.db, &err));
    MUST(pleat_space_open(test.db, (struct pleat_slice){"cleared", 7}, NULL, &test.space, &err));
    shake_interrupts_start();
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
    shake_interrupts_stop();
    MUST(pleat_close(test.db, &err));
    EXPECT(shake_live() == 0, "memory is left behind");
    printf("%" PRIu64 " commits and clears, %" PRIu64 " reads: all right\n", atomic_load(&test.acknowledged),
           atomic_load(&test.reads));
    stress_end();
    return 0;
}
