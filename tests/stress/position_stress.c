/*
 * position_stress.c - a position is one picture: sequence, cursors and content are of the same commit.
 *
 *     position_stress [--seconds N] [--seed S] [seconds]
 *
 * One thread commits and nothing else takes sequence numbers. Commit n puts n under every key and sets every cursor to
 * n; so wherever a position is read, all that it says is one number: the cursor and the sequence beside it (D6), the
 * rows of a snapshot and its sequence (D1), the durable cursors and the durable sequence (D4). Readers do nothing but
 * take positions and compare.
 *
 * What could come between sequence and cursors is a handful of instructions of the writer. Therefore it is the writer
 * that is interrupted (shake.h), at any instruction, and sleeps there while the readers look.
 */
#include "stress/stress.h"

#include "db/db.h"

#define READERS 2
#define NAMES 3 /* of keys and of cursors */

static struct position_test {
    struct pleat_db *db;
    _Atomic uint64_t acknowledged; /* release by the writer, pairs with the acquire of the readers */
    _Atomic uint64_t reads;        /* a count: no partner */
} test;

static const struct pleat_slice names[NAMES] = {{"", 0}, {"m", 1}, {"z", 1}};

static void *writer_run(void *context) {
    struct random random = stress_random(1);
    struct pleat_error err = {0};
    struct pleat_batch *batch;
    MUST(pleat_batch_new(test.db, &batch, &err));
    shake_offer();
    for (uint64_t n = 1; !stress_stopping(); n++) {
        uint64_t sequence = 0;
        struct pleat_slice number = {&n, sizeof n};
        uint32_t sync = random_below(&random, 64) == 0 ? PLEAT_COMMIT_SYNC : PLEAT_COMMIT_SYNC_DEFAULT;
        pleat_batch_clear(batch);
        for (unsigned i = 0; i < NAMES; i++) {
            MUST(pleat_batch_put(batch, pleat_default_space(test.db), names[i], number, &err));
            MUST(pleat_batch_set_cursor(batch, &(struct pleat_cursor){.name = names[i], .value = number}, &err));
        }
        MUST(pleat_commit(test.db, batch, PLEAT_COMMIT_OPTIONS(.sync = sync), &sequence, &err));
        EXPECT(sequence == n, "a commit does not take exactly one number");
        atomic_store_explicit(&test.acknowledged, n, memory_order_release); /* pairs with the readers' acquire */
    }
    shake_withdraw();
    pleat_batch_free(batch);
    return context;
}

static uint64_t number_of(const void *data, size_t bytes) {
    uint64_t number = 0;
    EXPECT(bytes == sizeof number, "a number is cut short");
    memcpy(&number, data, sizeof number);
    return number;
}

static void see_cursor(int rc, const struct pleat_cursor_value *cursor) {
    EXPECT(rc == (cursor->sequence > 0 ? 0 : PLEAT_ABSENT), "a cursor is there before its commit, or not after it");
    EXPECT(rc != 0 || number_of(cursor->value, cursor->bytes) == cursor->sequence,
           "a cursor is not the one of the sequence beside it");
}

static uint64_t see_read(struct random *random, enum pleat_position position) {
    struct pleat_error err = {0};
    struct pleat_cursor_value cursor = {0};
    int rc = pleat_cursor_read(test.db, names[random_below(random, NAMES)], position, &cursor, &err);
    see_cursor(rc, &cursor);
    return cursor.sequence;
}

static int see_listed(void *context, struct pleat_slice name, const struct pleat_cursor_value *cursor) {
    uint64_t *sequence = context;
    (void)name;
    see_cursor(0, cursor);
    *sequence = cursor->sequence;
    return 0;
}

static int see_row(void *context, const struct pleat_row *row) {
    uint64_t *number = context, found = number_of(row->value.data, row->value.bytes);
    EXPECT(*number == 0 || *number == found, "a scan shows rows of two commits");
    *number = found;
    return 0;
}

static uint64_t see_snapshot(void) {
    struct pleat_error err = {0};
    struct pleat_snapshot *snapshot;
    struct pleat_cursor_value cursor;
    uint64_t number = 0;
    MUST(pleat_snapshot_new(test.db, &snapshot, &err));
    uint64_t sequence = pleat_snapshot_sequence(snapshot);
    for (unsigned i = 0; i < NAMES; i++) {
        see_cursor(pleat_snapshot_cursor(snapshot, names[i], &cursor, &err), &cursor);
        EXPECT(cursor.sequence == sequence, "a snapshot's cursor names another sequence");
    }
    MUST(pleat_scan(pleat_default_space(test.db), PLEAT_ITER_OPTIONS(.snapshot = snapshot), see_row, &number, &err));
    EXPECT(number == sequence, "a snapshot shows another commit than it names");
    pleat_snapshot_free(snapshot);
    return sequence;
}

static uint64_t see_get(struct random *random) {
    struct pleat_error err = {0};
    uint64_t number = 0;
    size_t bytes = 0;
    int rc = pleat_get_into(pleat_default_space(test.db), NULL, names[random_below(random, NAMES)], &number,
                            sizeof number, &bytes, &err);
    EXPECT(rc == 0 ? bytes == sizeof number : rc == PLEAT_ABSENT, "a key cannot be read");
    return number;
}

/* The state of one read: the number of the commit that it showed. */
static uint64_t see(struct random *random) {
    struct pleat_error err = {0};
    uint64_t at = 0;
    uint64_t way = random_below(random, 32);
    if (way < 18) {
        return see_read(random, PLEAT_APPLIED);
    }
    if (way < 22) {
        return see_snapshot();
    }
    if (way < 26) {
        return see_get(random);
    }
    if (way < 28) {
        pleat_position_read(test.db, PLEAT_APPLIED, NULL, &at);
    } else if (way < 30) {
        MUST(pleat_scan(pleat_default_space(test.db), PLEAT_ITER_OPTIONS(.reverse = way == 28), see_row, &at, &err));
    } else {
        MUST(pleat_cursor_list(test.db, PLEAT_APPLIED, see_listed, &at, &err));
    }
    return at;
}

static void *reader_run(void *context) {
    struct random random = stress_random(10 + *(unsigned *)context);
    uint64_t last = 0, last_durable = 0, reads = 0;
    for (; !stress_stopping(); reads++) {
        uint64_t acknowledged = atomic_load_explicit(&test.acknowledged, memory_order_acquire); /* with the writer */
        uint64_t at = see(&random);
        EXPECT(at >= acknowledged && at >= last, "a state older than one that was acknowledged or seen before");
        last = at;
        if (random_below(&random, 8) == 0) {
            uint64_t durable = see_read(&random, PLEAT_DURABLE);
            EXPECT(durable >= last_durable, "the durable position goes back");
            last_durable = durable;
        }
    }
    (void)atomic_fetch_add_explicit(&test.reads, reads, memory_order_relaxed);
    return NULL;
}

static void test_open(void) {
    struct pleat_error err = {0};
    char path[300];
    (void)snprintf(path, sizeof path, "%s/store", stress_run.path);
    MUST(db_open_with(path, PLEAT_OPTIONS(.memtable_bytes = 64 << 10, .sync_interval_ms = 2), &shake_vfs, &shake_mem,
                      &test.db, &err));
}

int main(int argc, char **argv) {
    struct thread writer, readers[READERS];
    unsigned numbers[READERS];
    struct pleat_error err = {0};
    stress_begin("position_stress", 3, argc, argv);
    shake_start(stress_run.seed, 0);
    test_open();
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
    test_open();
    EXPECT(see_snapshot() == atomic_load(&test.acknowledged), "a close lost commits, or made some");
    MUST(pleat_close(test.db, &err));
    EXPECT(shake_live() == 0, "memory is left behind");
    printf("%" PRIu64 " commits, %" PRIu64 " reads: all right\n", atomic_load(&test.acknowledged),
           atomic_load(&test.reads));
    stress_end();
    return 0;
}
