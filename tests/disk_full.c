/*
 * disk_full.c - a store with its threads on a small real file system that is filled and freed again and again.
 *
 *     disk_full FOLDER [--seed S] [--seconds N] [--rounds N] [--by-write]
 *
 * FOLDER is on the small file system (disk_full.py makes one). In every round a file beside the store, the hog, takes
 * all the space and gives some of it back, over and over, while commits and deletes go on and readers read:
 *
 *   - a commit answers 0 or PLEAT_ERR_NO_SPACE, and is wholly in or wholly out (against a model of every key);
 *   - reads never fail, and see both halves of every commit or none;
 *   - the handle is never read-only, nothing dies of SIGBUS, and once the hog is gone commits succeed, without a
 * reopen;
 *   - a store that is closed, or refused an open, on a full disk has everything when it is opened with space again.
 */
#include "pleat/pleat.h"
#include "support/random.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>

#define KEYS 300
#define SPACES 2
#define VALUE_BYTES_MAX 6000
#define RESUME_SECONDS 20

enum hog_wish { HOG_AWAY, HOG_PLAYS, HOG_HOLDS };

static struct {
    char store[300], hog[300];
    struct random random;
    struct pleat_options options;
    struct pleat_db *db;
    struct pleat_batch *batch;
    struct pleat_space *spaces[SPACES];
    uint64_t model[SPACES][KEYS]; /* the commit that put the key, or 0 */
    uint64_t pair;                /* what the key "pair" of both spaces holds */
    uint64_t n;
    uint64_t commits, refused, reads, opens_refused, rounds;
    pthread_mutex_t mutex; /* the readers' against open and close */
    _Atomic int wish, done_wish;
    _Atomic bool stop;
    _Atomic bool failed;
} run;

static void __attribute__((format(printf, 1, 2))) complain(const char *format, ...) {
    if (!atomic_exchange(&run.failed, true)) {
        va_list arguments;
        va_start(arguments, format);
        fprintf(stderr, "FAILED: disk_full, round %" PRIu64 ", sequence %" PRIu64 ": ", run.rounds, run.n);
        (void)vfprintf(stderr, format, arguments);
        fprintf(stderr, "\n");
        va_end(arguments);
    }
}

/* ---- the hog ------------------------------------------------------------------------------------------------------
 */

static void pause_us(uint64_t microseconds) {
    struct timespec wait = {(time_t)(microseconds / 1000000), (long)(microseconds % 1000000) * 1000};
    (void)nanosleep(&wait, NULL);
}

/* Takes all there is; returns its size. */
static off_t hog_fill(int fd, off_t size) {
    static char block[65536];
    memset(block, 'h', sizeof block);
    for (size_t n = sizeof block; n >= 512;) {
        ssize_t put = pwrite(fd, block, n, size);
        size += put > 0 ? put : 0;
        n = put == (ssize_t)n ? n : n / 2;
    }
    return size;
}

static void *hog_run(void *context) {
    struct random random = {*(uint64_t *)context};
    int fd = open(run.hog, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    off_t size = 0;
    if (fd < 0) {
        complain("no hog: %s", strerror(errno));
        return NULL;
    }
    while (!atomic_load(&run.stop)) {
        int wish = atomic_load(&run.wish);
        if (wish == HOG_AWAY) {
            size = 0;
        } else {
            size = hog_fill(fd, size);
        }
        if (wish == HOG_PLAYS && random_below(&random, 3) > 0) {
            off_t back = (off_t)random_below(&random, random_below(&random, 2) == 0 ? 20000 : 800000);
            pause_us(random_below(&random, 10000));
            size = size > back ? size - back : 0;
        }
        if (ftruncate(fd, size) != 0) {
            complain("the hog cannot shrink: %s", strerror(errno));
        }
        atomic_store(&run.done_wish, wish);
        pause_us(wish == HOG_PLAYS ? random_below(&random, 4000) : 1000);
    }
    (void)close(fd);
    (void)unlink(run.hog);
    return NULL;
}

static void hog_wish(enum hog_wish wish) {
    atomic_store(&run.wish, (int)wish);
    atomic_store(&run.done_wish, -1);
    while (atomic_load(&run.done_wish) != (int)wish && !atomic_load(&run.failed)) {
        pause_us(200);
    }
}

/* ---- the store ----------------------------------------------------------------------------------------------------
 */

static struct pleat_slice key_of(size_t key, char buffer[16]) {
    int n = snprintf(buffer, 16, "key%05zu", key);
    return (struct pleat_slice){buffer, (size_t)n};
}

/* Of pseudo-random bytes, so that no codec makes it small. */
static size_t value_of(uint64_t n, size_t key, uint8_t *buffer) {
    struct random random = {n * 1000003 + key};
    size_t bytes = (size_t)random_below(&random, VALUE_BYTES_MAX);
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t word = random_next(&random);
        memcpy(buffer + i, &word, bytes - i < 8 ? bytes - i : 8);
    }
    return bytes;
}

static int store_open(struct pleat_error *err) {
    static const char *const names[SPACES] = {"left", "right"};
    int rc = pleat_open(run.store, &run.options, &run.db, err);
    for (int i = 0; rc == 0 && i < SPACES; i++) {
        struct pleat_slice name = {names[i], strlen(names[i])};
        rc = pleat_space_open(run.db, name, PLEAT_SPACE_OPTIONS(.codec = PLEAT_CODEC_NONE), &run.spaces[i], err);
    }
    rc = rc == 0 ? pleat_batch_new(run.db, &run.batch, err) : rc;
    if (rc < 0 && run.db != NULL) {
        (void)pleat_close(run.db, NULL);
        run.db = NULL;
    }
    return rc;
}

static int store_close(struct pleat_error *err) {
    pleat_batch_free(run.batch);
    run.batch = NULL;
    int rc = pleat_close(run.db, err);
    run.db = NULL;
    return rc;
}

/* One commit over both spaces; the model follows when it is in. */
static int store_commit(struct pleat_error *err) {
    static uint8_t value[VALUE_BYTES_MAX];
    static uint64_t changed[SPACES][KEYS];
    char buffer[16];
    uint64_t n = run.n + 1, sequence = 0;
    struct pleat_slice pair = {"pair", 4}, now = {&n, sizeof n};
    int rc = 0;
    memcpy(changed, run.model, sizeof changed);
    pleat_batch_clear(run.batch);
    uint64_t deletes = random_below(&run.random, 3); /* rounds of growth and of shrinking */
    for (uint64_t i = random_below(&run.random, 9); rc == 0 && i > 0; i--) {
        size_t space = (size_t)random_below(&run.random, SPACES), key = (size_t)random_below(&run.random, KEYS);
        bool put = random_below(&run.random, 4) >= deletes;
        struct pleat_slice name = key_of(key, buffer);
        rc = put ? pleat_batch_put(run.batch, run.spaces[space], name,
                                   (struct pleat_slice){value, value_of(n, key, value)}, err)
                 : pleat_batch_delete(run.batch, run.spaces[space], name, err);
        changed[space][key] = put ? n : 0;
    }
    for (int i = 0; rc == 0 && i < SPACES; i++) {
        rc = pleat_batch_put(run.batch, run.spaces[i], pair, now, err);
    }
    rc = rc == 0 ? pleat_commit(run.db, run.batch, NULL, &sequence, err) : rc;
    if (rc == 0) {
        if (sequence != n) {
            complain("commit %" PRIu64 " got sequence %" PRIu64, n, sequence);
        }
        memcpy(run.model, changed, sizeof changed);
        run.n = run.pair = n;
        run.commits++;
    } else if (rc == PLEAT_ERR_NO_SPACE && err->code == rc) {
        run.refused++;
    } else {
        complain("a commit answered %d: %s", rc, err->message);
    }
    if (pleat_health(run.db, err) < 0) {
        complain("the handle is read-only: %s", err->message);
    }
    return rc;
}

/* A key against the model. */
static void store_check_key(size_t space, size_t key) {
    static uint8_t expected[VALUE_BYTES_MAX];
    char buffer[16];
    struct pleat_error err = {0};
    struct pleat_value value;
    uint64_t put_by = run.model[space][key];
    int rc = pleat_get(run.spaces[space], NULL, key_of(key, buffer), &value, &err);
    bool right = rc == (put_by != 0 ? 0 : PLEAT_ABSENT);
    if (rc == 0) {
        size_t bytes = put_by != 0 ? value_of(put_by, key, expected) : 0;
        right = right && value.bytes == bytes && (bytes == 0 || memcmp(value.data, expected, bytes) == 0);
        pleat_value_release(&value);
    }
    if (!right) {
        complain("key %zu of space %zu answers %d, put by %" PRIu64 ": %s", key, space, rc, put_by, err.message);
    }
}

static int count_row(void *context, const struct pleat_row *row) {
    (void)row;
    ++*(size_t *)context;
    return 0;
}

static void store_check(void) {
    struct pleat_error err = {0};
    struct pleat_check check;
    for (size_t space = 0; space < SPACES; space++) {
        size_t rows = 0, expected = run.pair != 0;
        for (size_t key = 0; key < KEYS; key++) {
            store_check_key(space, key);
            expected += run.model[space][key] != 0;
        }
        if (pleat_scan(run.spaces[space], NULL, count_row, &rows, &err) < 0 || rows != expected) {
            complain("a scan of space %zu has %zu rows, expected %zu: %s", space, rows, expected, err.message);
        }
    }
    if (pleat_check(run.db, &check, &err) < 0) {
        complain("check: %s", err.message);
    }
}

/* ---- readers ------------------------------------------------------------------------------------------------------
 */

static void *reader_run(void *context) {
    struct random random = {*(uint64_t *)context};
    struct pleat_slice pair = {"pair", 4};
    while (!atomic_load(&run.stop) && !atomic_load(&run.failed)) {
        (void)pthread_mutex_lock(&run.mutex);
        struct pleat_snapshot *snapshot = NULL;
        struct pleat_error err = {0};
        uint64_t seen[SPACES] = {0};
        int rc = run.db != NULL ? pleat_snapshot_new(run.db, &snapshot, &err) : 1;
        for (int i = 0; i < SPACES && rc == 0; i++) {
            struct pleat_value value;
            size_t rows = 0;
            rc = pleat_get(run.spaces[i], snapshot, pair, &value, &err);
            if (rc == 0) {
                memcpy(&seen[i], value.data, value.bytes < 8 ? value.bytes : 8);
                pleat_value_release(&value);
            }
            rc = rc == PLEAT_ABSENT ? 0 : rc;
            if (rc == 0 && random_below(&random, 8) == 0) {
                rc = pleat_scan(run.spaces[i], PLEAT_ITER_OPTIONS(.snapshot = snapshot), count_row, &rows, &err);
            }
        }
        if (rc < 0 || seen[0] != seen[1]) {
            complain("a reader got %d and sees %" PRIu64 " and %" PRIu64 ": %s", rc, seen[0], seen[1], err.message);
        }
        pleat_snapshot_free(snapshot);
        run.reads++;
        (void)pthread_mutex_unlock(&run.mutex);
        pause_us(200);
    }
    return NULL;
}

/* ---- rounds -------------------------------------------------------------------------------------------------------
 */

/* The hog is gone: commits go through, without a reopen. A flush that failed may be waited for. */
static void round_resume(void) {
    struct pleat_error err = {0};
    uint64_t end = (uint64_t)time(NULL) + RESUME_SECONDS;
    hog_wish(HOG_AWAY);
    while (!atomic_load(&run.failed) && store_commit(&err) < 0) {
        if ((uint64_t)time(NULL) > end) {
            complain("there is space, and no commit went through for %d s: %s", RESUME_SECONDS, err.message);
        }
        memset(&err, 0, sizeof err);
    }
}

/* Close and open on a full disk: each succeeds or says NO_SPACE, and nothing is lost. */
static void round_reopen(void) {
    struct pleat_error err = {0};
    hog_wish(HOG_HOLDS);
    (void)pthread_mutex_lock(&run.mutex);
    int rc = store_close(&err);
    if (rc < 0 && rc != PLEAT_ERR_NO_SPACE) {
        complain("close answered %d: %s", rc, err.message);
    }
    memset(&err, 0, sizeof err);
    rc = store_open(&err);
    if (rc < 0 && rc != PLEAT_ERR_NO_SPACE) {
        complain("open answered %d: %s", rc, err.message);
    }
    hog_wish(HOG_AWAY);
    run.opens_refused += rc < 0;
    memset(&err, 0, sizeof err);
    if (rc < 0 && store_open(&err) < 0) {
        complain("with space again, open says: %s", err.message);
    }
    (void)pthread_mutex_unlock(&run.mutex);
    uint64_t applied = 0;
    if (run.db != NULL) {
        pleat_position_read(run.db, PLEAT_APPLIED, NULL, &applied);
    }
    if (applied != run.n) {
        complain("opened at %" PRIu64, applied);
    }
}

static void round_run(void) {
    uint64_t refused = run.refused;
    hog_wish(HOG_PLAYS);
    for (int i = 0; i < 150 && run.refused < refused + 4 && !atomic_load(&run.failed); i++) {
        struct pleat_error err = {0};
        (void)store_commit(&err);
        store_check_key((size_t)random_below(&run.random, SPACES), (size_t)random_below(&run.random, KEYS));
    }
    round_resume();
    if (run.rounds % 7 == 6 && !atomic_load(&run.failed)) {
        round_reopen();
    }
    if (run.rounds % 5 == 4 && !atomic_load(&run.failed)) {
        store_check();
    }
    run.rounds++;
}

static void options_set(bool by_write, uint64_t seed) {
    static const uint32_t durabilities[] = {PLEAT_SYNC_INTERVAL, PLEAT_SYNC_NONE, PLEAT_SYNC_EACH};
    run.options = (struct pleat_options){
        .size = sizeof(struct pleat_options),
        .durability = durabilities[seed % 3],
        .sync_interval_ms = 5,
        .memtable_bytes = 128 << 10,
        .cache_bytes = 256 << 10,
        .table_bytes = 128 << 10,
        .level_base_bytes = 256 << 10,
        .level_ratio = 4,
        .level0_tables = 2,
        .log_by_write = by_write,
        .table_files_max = 3,
    };
}

int main(int argc, char **argv) {
    uint64_t seconds = 5, rounds = UINT64_MAX;
    bool by_write = false;
    run.random = random_begin("disk_full");
    for (int i = 2; i < argc; i++) {
        uint64_t number = i + 1 < argc ? strtoull(argv[i + 1], NULL, 0) : 0;
        by_write = by_write || strcmp(argv[i], "--by-write") == 0;
        seconds = strcmp(argv[i], "--seconds") == 0 ? number : seconds;
        rounds = strcmp(argv[i], "--rounds") == 0 ? number : rounds;
        run.random.state = strcmp(argv[i], "--seed") == 0 ? number : run.random.state;
    }
    if (argc < 2) {
        fprintf(stderr, "usage: disk_full FOLDER [--seed S] [--seconds N] [--rounds N] [--by-write]\n");
        return 2;
    }
    (void)snprintf(run.store, sizeof run.store, "%.250s/store", argv[1]);
    (void)snprintf(run.hog, sizeof run.hog, "%.250s/hog", argv[1]);
    options_set(by_write, run.random.state);
    uint64_t seeds[2] = {random_next(&run.random), random_next(&run.random)};
    struct pleat_error err = {0};
    pthread_t hog, reader;
    (void)pthread_mutex_init(&run.mutex, NULL);
    if (store_open(&err) < 0) {
        complain("open: %s", err.message);
    }
    if (pthread_create(&hog, NULL, hog_run, &seeds[0]) != 0 ||
        pthread_create(&reader, NULL, reader_run, &seeds[1]) != 0) {
        complain("no thread");
        return 1;
    }
    uint64_t end = (uint64_t)time(NULL) + seconds;
    while (!atomic_load(&run.failed) && run.rounds < rounds &&
           (run.rounds < 3 || (uint64_t)time(NULL) < end)) { /* some, on a busy machine as well */
        round_run();
    }
    if (!atomic_load(&run.failed)) {
        round_reopen();
        store_check();
    }
    atomic_store(&run.stop, true);
    (void)pthread_join(reader, NULL);
    (void)pthread_join(hog, NULL);
    if (run.db != NULL && store_close(&err) < 0) {
        complain("the last close: %s", err.message);
    }
    if (!atomic_load(&run.failed) && run.refused == 0) {
        complain("the disk was never full");
    }
    printf("%" PRIu64 " rounds, %" PRIu64 " commits, %" PRIu64 " refused, %" PRIu64 " opens refused, %" PRIu64
           " rounds of readers: %s\n",
           run.rounds, run.commits, run.refused, run.opens_refused, run.reads, run.failed ? "FAILED" : "all right");
    return run.failed;
}
