/*
 * soak_real.c - the soak's real file system: one store through hundreds of lives, each with threads of all kinds.
 *
 * Three writers turn a wheel each (wheel.h), so that the store is compared with its cursors alone, however long the
 * soak lasts, and its live data stays the same size. Two readers compare snapshots and scans, one thread keeps the
 * background busy, and two create, fill, clear and drop spaces of their own beside one another. A life ends with a
 * settle, a check and a close, behind which no memory, no descriptor and no file is left that the manifest does not
 * name; or it is the life of a child process, which is killed, and whose store is then opened here: it holds every
 * commit that returned and nothing that was not asked for (F3).
 */
#include "stress/soak.h"

#include "db/db.h"
#include "support/random.h"
#include "support/shake.h"
#include "support/wheel.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define WHEELS 3
#define READERS 2
#define PLAYERS 2 /* with spaces of their own */
#define THREADS (WHEELS + READERS + PLAYERS + 1)
#define DISK_BYTES_MAX (64u << 10) /* of the settled store: wheels and players, whatever has happened */
#define BLOCKS_MAX 600             /* of memory that an open, settled store holds on to */

extern char **environ;

/* In memory that a killed child leaves behind. */
struct board {
    _Atomic uint64_t asked[WHEELS];        /* release before a commit; pairs with acquires */
    _Atomic uint64_t acknowledged[WHEELS]; /* release behind it; the same */
    _Atomic uint64_t ready;                /* the child has opened the store; the same */
};

struct life {
    struct pleat_db *db;
    struct pleat_space *spaces[WHEEL_SPACES];
    struct board *board;
    _Atomic bool stop;              /* relaxed: a request */
    _Atomic uint64_t durable_heard; /* relaxed: checked when all threads have ended */
    uint64_t seed;
};

struct worker {
    struct life *life;
    unsigned index;
    struct random random;
};

static bool life_goes_on(const struct life *life) {
    return !atomic_load_explicit(&life->stop, memory_order_relaxed);
}

static void on_durable(void *context, uint64_t history, uint64_t sequence) {
    struct life *life = context;
    uint64_t heard = atomic_load_explicit(&life->durable_heard, memory_order_relaxed);
    (void)history;
    while (heard < sequence && !atomic_compare_exchange_weak_explicit(&life->durable_heard, &heard, sequence,
                                                                      memory_order_relaxed, memory_order_relaxed)) {
    }
}

static void life_open(struct life *life, const char *path, uint64_t seed) {
    struct random random = {seed};
    struct pleat_error err = {0};
    static const uint32_t durabilities[] = {PLEAT_SYNC_INTERVAL, PLEAT_SYNC_EACH, PLEAT_SYNC_NONE};
    struct pleat_options *options =
        PLEAT_OPTIONS(.memtable_bytes = (16u << 10) << random_below(&random, 4),
                      .cache_bytes = (64u << 10) << random_below(&random, 4), .table_bytes = 8 << 10,
                      .level_base_bytes = (16u << 10) << random_below(&random, 3),
                      .level_ratio = 2 + (uint32_t)random_below(&random, 4),
                      .level0_tables = 1 + (uint32_t)random_below(&random, 4),
                      .background_threads = 1 + (uint32_t)random_below(&random, 3), .sync_interval_ms = 5,
                      .table_files_max = 1u << random_below(&random, 5),
                      .durability = durabilities[random_below(&random, 3)],
                      .log_by_write = random_below(&random, 3) == 0, .on_durable = on_durable,
                      .on_durable_context = life);
    life->seed = seed;
    SOAK_MUST(db_open_with(path, options, &shake_vfs, &shake_mem, &life->db, &err));
    SOAK_MUST(wheel_spaces(life->db, life->spaces, &err));
    soak_add(&soak.opens, 1);
}

/* ---- threads of a life ------------------------------------------------------------------------------------------ */

static void *writer_run(void *context) {
    struct worker *worker = context;
    struct life *life = worker->life;
    struct pleat_error err = {0};
    struct pleat_batch *batch;
    uint64_t k;
    SOAK_MUST(pleat_batch_new(life->db, &batch, &err));
    SOAK_MUST(wheel_cursor(life->db, NULL, worker->index, &k, &err));
    while (life_goes_on(life)) {
        k++;
        SOAK_MUST(wheel_fill(batch, life->spaces, worker->index, k, &err));
        atomic_store_explicit(&life->board->asked[worker->index], k, memory_order_release); /* pairs with acquires */
        SOAK_MUST(pleat_commit(life->db, batch,
                               PLEAT_COMMIT_OPTIONS(.sync = random_below(&worker->random, 100) == 0
                                                                ? PLEAT_COMMIT_SYNC
                                                                : PLEAT_COMMIT_SYNC_DEFAULT),
                               NULL, &err));
        atomic_store_explicit(&life->board->acknowledged[worker->index], k, memory_order_release); /* the same */
        soak_add(&soak.commits, 1);
        soak_add(&soak.operations, 1);
        if (random_below(&worker->random, 64) == 0) {
            thread_sleep_ns(random_below(&worker->random, 5000000));
        }
    }
    pleat_batch_free(batch);
    return NULL;
}

static void compare_all(struct life *life, const struct pleat_snapshot *snapshot, uint64_t ret_k[WHEELS]) {
    char text[300];
    if (!wheel_compare(life->db, life->spaces, snapshot, WHEELS, ret_k, text, sizeof text)) {
        soak_fail("%s", text);
    }
    soak_add(&soak.reads, 1);
    soak_add(&soak.operations, 1);
}

static void *reader_run(void *context) {
    struct worker *worker = context;
    struct life *life = worker->life;
    struct pleat_snapshot *kept = NULL;
    uint64_t kept_k[WHEELS] = {0};
    while (life_goes_on(life)) {
        struct pleat_error err = {0};
        uint64_t before[WHEELS], k[WHEELS];
        for (unsigned w = 0; w < WHEELS; w++) { /* acquire; pairs with the writers' release */
            before[w] = atomic_load_explicit(&life->board->acknowledged[w], memory_order_acquire);
        }
        compare_all(life, NULL, k);
        for (unsigned w = 0; w < WHEELS; w++) {
            if (k[w] < before[w]) {
                soak_fail("wheel %u is at %" PRIu64 ", acknowledged was %" PRIu64, w, k[w], before[w]);
            }
        }
        if (kept == NULL) {
            SOAK_MUST(pleat_snapshot_new(life->db, &kept, &err));
            compare_all(life, kept, kept_k);
        } else {
            compare_all(life, kept, k);
            if (memcmp(k, kept_k, sizeof k) != 0) {
                soak_fail("a snapshot has changed: wheel 0 went from %" PRIu64 " to %" PRIu64, kept_k[0], k[0]);
            }
            if (random_below(&worker->random, 8) == 0) {
                pleat_snapshot_free(kept);
                kept = NULL;
            }
        }
        thread_sleep_ns(random_below(&worker->random, 2000000));
    }
    pleat_snapshot_free(kept);
    return NULL;
}

/* A space of its own that is made, filled, read, cleared or dropped, again and again, from life to life. */
static void *player_run(void *context) {
    struct worker *worker = context;
    struct life *life = worker->life;
    char name[16];
    int n = snprintf(name, sizeof name, "player.%u", worker->index);
    struct pleat_batch *batch;
    struct pleat_error err = {0};
    SOAK_MUST(pleat_batch_new(life->db, &batch, &err));
    while (life_goes_on(life)) {
        struct pleat_space *space;
        uint64_t rows = 1 + random_below(&worker->random, 40), tag = random_next(&worker->random);
        SOAK_MUST(pleat_space_open(life->db, (struct pleat_slice){name, (size_t)n}, NULL, &space, &err));
        SOAK_MUST(pleat_space_clear(space, &err));
        pleat_batch_clear(batch);
        for (uint64_t i = 0; i < rows; i++) {
            SOAK_MUST(pleat_batch_put(batch, space, (struct pleat_slice){&i, sizeof i},
                                      (struct pleat_slice){&tag, sizeof tag}, &err));
        }
        SOAK_MUST(pleat_commit(life->db, batch, NULL, NULL, &err));
        if (random_below(&worker->random, 3) == 0) {
            SOAK_MUST(pleat_flush(life->db, &err));
        }
        for (uint64_t i = 0; i < 42; i++) {
            struct pleat_value value;
            int rc = pleat_get(space, NULL, (struct pleat_slice){&i, sizeof i}, &value, &err);
            if (rc != (i < rows ? 0 : PLEAT_ABSENT) || (rc == 0 && memcmp(value.data, &tag, sizeof tag) != 0)) {
                soak_fail("key %" PRIu64 " of %" PRIu64 " in a fresh space answers %d %s", i, rows, rc, err.message);
            }
            if (rc == 0) {
                pleat_value_release(&value);
            }
        }
        if (random_below(&worker->random, 2) == 0) {
            SOAK_MUST(pleat_space_drop(space, &err));
            if (pleat_exists(space, NULL, (struct pleat_slice){"x", 1}, &err) != PLEAT_ERR_INVALID) {
                soak_fail("a dropped space answers%s", "");
            }
        }
        soak_add(&soak.operations, 47 + rows);
        thread_sleep_ns(random_below(&worker->random, 10000000));
    }
    pleat_batch_free(batch);
    return NULL;
}

static int cancel_sometimes(void *context, const struct pleat_progress *progress) {
    (void)progress;
    return random_below(context, 2) == 0;
}

static void *maintainer_run(void *context) {
    struct worker *worker = context;
    struct life *life = worker->life;
    while (life_goes_on(life)) {
        struct pleat_error err = {0};
        struct pleat_check check;
        struct pleat_stats stats = {.size = sizeof stats};
        struct pleat_space *space = life->spaces[random_below(&worker->random, WHEEL_SPACES)];
        int rc = 0;
        switch (random_below(&worker->random, 7)) {
        case 0:
            rc = pleat_compact(space, NULL, NULL, &err);
            break;
        case 1:
            rc = pleat_settle(life->db, cancel_sometimes, &worker->random, &err);
            rc = rc == PLEAT_ERR_CANCELLED ? 0 : rc;
            break;
        case 2:
            rc = pleat_check(life->db, &check, &err);
            break;
        case 3:
            rc = pleat_sync(life->db, &err);
            break;
        case 4:
            rc = pleat_stats_read(life->db, &stats, &err);
            break;
        default:
            rc = pleat_flush(life->db, &err);
            break;
        }
        SOAK_MUST(rc);
        soak_add(&soak.operations, 1);
        thread_sleep_ns(random_below(&worker->random, 8000000));
    }
    return NULL;
}

static void life_run(struct life *life, uint64_t ns) {
    struct thread threads[THREADS];
    struct worker workers[THREADS];
    atomic_store_explicit(&life->stop, false, memory_order_relaxed);
    for (unsigned i = 0; i < THREADS; i++) {
        void *(*run)(void *) = i < WHEELS                       ? writer_run
                               : i < WHEELS + READERS           ? reader_run
                               : i < WHEELS + READERS + PLAYERS ? player_run
                                                                : maintainer_run;
        workers[i] = (struct worker){life, i, {life->seed ^ (i + 1) * 0xd6e8feb86659fd93ull}};
        if (thread_start(&threads[i], "soak", run, &workers[i]) != 0) {
            soak_fail("thread %u does not start", i);
        }
    }
    thread_sleep_ns(ns);
    atomic_store_explicit(&life->stop, true, memory_order_relaxed);
    for (unsigned i = 0; i < THREADS; i++) {
        thread_join(&threads[i]);
    }
}

/* ---- a life in this process ------------------------------------------------------------------------------------- */

/* How many are open. names: filled with what they stand for. */
static unsigned descriptors(char *names, size_t names_bytes) {
    unsigned count = 0;
    size_t used = 0;
    DIR *directory = opendir("/proc/self/fd");
    if (directory == NULL) {
        soak_fail("/proc/self/fd: errno %d", errno);
    }
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        char target[128];
        ssize_t n = readlinkat(dirfd(directory), entry->d_name, target, sizeof target - 1);
        if (n > 0 && used < names_bytes) {
            target[n] = '\0';
            used += (size_t)snprintf(names + used, names_bytes - used, " %s", target);
        }
        count += n > 0;
    }
    (void)closedir(directory);
    return count;
}

static void life_here(struct life *life, const char *path, uint64_t seed, const uint64_t least[WHEELS],
                      const uint64_t most[WHEELS], uint64_t ns) {
    struct pleat_error err = {0};
    struct pleat_check check;
    struct pleat_stats stats = {.size = sizeof stats};
    uint64_t k[WHEELS], applied;
    char names[600], names_before[600];
    unsigned files = descriptors(names_before, sizeof names_before);
    life_open(life, path, seed);
    compare_all(life, NULL, k);
    for (unsigned w = 0; w < WHEELS; w++) {
        if (k[w] < least[w] || k[w] > most[w]) {
            soak_fail("wheel %u opened at %" PRIu64 ", expected %" PRIu64 " to %" PRIu64, w, k[w], least[w], most[w]);
        }
        atomic_store(&life->board->asked[w], k[w]);
        atomic_store(&life->board->acknowledged[w], k[w]);
    }
    life_run(life, ns);
    SOAK_MUST(pleat_settle(life->db, NULL, NULL, &err));
    compare_all(life, NULL, k);
    SOAK_MUST(pleat_check(life->db, &check, &err));
    SOAK_MUST(pleat_stats_read(life->db, &stats, &err));
    soak_add(&soak.bytes_given, stats.bytes_given);
    soak_add(&soak.bytes_written, stats.bytes_log + stats.bytes_flushed + stats.bytes_compacted_out);
    pleat_position_read(life->db, PLEAT_APPLIED, NULL, &applied);
    int64_t blocks = shake_live();
    if (blocks > BLOCKS_MAX) {
        soak_fail("a settled store holds %" PRId64 " blocks of memory, the bound is %d", blocks, BLOCKS_MAX);
    }
    if ((uint64_t)blocks > atomic_load(&soak.blocks_max)) {
        atomic_store(&soak.blocks_max, (uint64_t)blocks);
    }
    SOAK_MUST(pleat_close(life->db, &err));
    unsigned files_left = descriptors(names, sizeof names);
    for (int i = 0; files_left != files && i < 50; i++) { /* the C library opens this and that for a moment */
        thread_sleep_ns(2000000);
        files_left = descriptors(names, sizeof names);
    }
    if (shake_live() != 0 || files_left != files) {
        soak_fail("behind a close %" PRId64 " blocks are left, and %u descriptors instead of %u:%s, before:%s",
                  shake_live(), files_left, files, names, names_before);
    }
    if (atomic_load(&life->durable_heard) > applied) {
        soak_fail("%" PRIu64 " was called durable, only %" PRIu64 " were applied", atomic_load(&life->durable_heard),
                  applied);
    }
    uint64_t bytes = soak_check_directory(path, &vfs_posix, &mem_system);
    if (bytes > DISK_BYTES_MAX) {
        soak_fail("the settled store has %" PRIu64 " bytes, the bound is %u", bytes, DISK_BYTES_MAX);
    }
    if (bytes > atomic_load(&soak.disk_bytes_max)) {
        atomic_store(&soak.disk_bytes_max, bytes);
    }
    soak_add(&soak.lives, 1);
}

/* ---- the life of a child ---------------------------------------------------------------------------------------- */

static struct board *board_map(const char *path, bool create) {
    int fd = open(path, O_RDWR | O_CLOEXEC | (create ? O_CREAT | O_TRUNC : 0), 0600);
    if (fd < 0 || (create && ftruncate(fd, sizeof(struct board)) != 0)) {
        soak_fail("%s: errno %d", path, errno);
    }
    struct board *board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (board == MAP_FAILED) {
        soak_fail("%s: errno %d", path, errno);
    }
    (void)close(fd);
    return board;
}

int soak_real_child(const char *path, const char *board, uint64_t seed) {
    static struct life life;
    life.board = board_map(board, false);
    life_open(&life, path, seed);
    atomic_store(&life.board->ready, 1);
    life_run(&life, 60000000000u);
    return 1; /* the parent should have killed it long ago */
}

/* Starts the child, kills it at a random moment, and notes what it had asked for and what had been acknowledged. */
static void child_life(struct life *life, const char *path, const char *program, uint64_t seed, struct random *random) {
    char number[24], board_path[300];
    int status = 0;
    pid_t pid;
    (void)snprintf(number, sizeof number, "%" PRIu64, seed);
    (void)snprintf(board_path, sizeof board_path, "%s.board", path);
    struct board *board = board_map(board_path, true);
    for (unsigned w = 0; w < WHEELS; w++) {
        atomic_store(&board->asked[w], atomic_load(&life->board->asked[w]));
        atomic_store(&board->acknowledged[w], atomic_load(&life->board->acknowledged[w]));
    }
    const char *arguments[] = {program, "--child", path, board_path, number, NULL};
    char *copies[6] = {NULL};
    for (int i = 0; i < 5; i++) {
        copies[i] = strdup(arguments[i]);
    }
    if (posix_spawn(&pid, program, NULL, NULL, copies, environ) != 0) {
        soak_fail("%s does not start", program);
    }
    /* Mostly in the middle of its work, now and then already in its open. */
    bool early = random_below(random, 4) == 0;
    for (int i = 0; !early && atomic_load(&board->ready) == 0 && i < 20000; i++) {
        thread_sleep_ns(1000000);
    }
    thread_sleep_ns(random_below(random, early ? 30000000 : 400000000));
    if (kill(pid, SIGKILL) != 0 || waitpid(pid, &status, 0) != pid || !WIFSIGNALED(status) ||
        WTERMSIG(status) != SIGKILL) {
        soak_fail("the child ended by itself: status %d", status);
    }
    for (int i = 0; i < 5; i++) {
        free(copies[i]);
    }
    for (unsigned w = 0; w < WHEELS; w++) {
        atomic_store(&life->board->asked[w], atomic_load(&board->asked[w]));
        atomic_store(&life->board->acknowledged[w], atomic_load(&board->acknowledged[w]));
        soak_add(&soak.commits, atomic_load(&board->acknowledged[w]) - atomic_load(&life->board->acknowledged[w]));
    }
    (void)munmap(board, sizeof *board);
    (void)unlink(board_path);
    soak_add(&soak.kills, 1);
}

void soak_real_life(const char *path, const char *program, uint64_t seed, uint64_t ns) {
    static struct board board; /* zero at first, as the store is */
    struct life life = {.board = &board};
    struct random random = {seed};
    uint64_t least[WHEELS], most[WHEELS];
    (void)random_next(&random);
    if (random_below(&random, 2) == 0) {
        child_life(&life, path, program, random_next(&random), &random);
    }
    for (unsigned w = 0; w < WHEELS; w++) {
        least[w] = atomic_load(&board.acknowledged[w]);
        most[w] = atomic_load(&board.asked[w]);
    }
    life_here(&life, path, random_next(&random), least, most,
              ns != 0 ? ns : 50000000 + random_below(&random, 800000000));
}
