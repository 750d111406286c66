/*
 * kill_store.c - a store in a real process that is killed at random moments, at counted system calls, and again while
 * it recovers; and one that is stopped while another wants the store.
 *
 *     kill_store [--seed S] [--seconds N] [--rounds N] [--round R] [--folder F]
 *
 * In every round 1 to 4 processes open the same store one after the other and apply a history (history.h) to it, each
 * with durability, kind of log and sizes of its own:
 *
 *   - half of them have the store's threads and are killed by the parent after a random while, which for those behind
 * the first is short, so that they die while they recover;
 *   - the other half run in steps and kill themselves at the N-th system call: in front of it, behind it, or half-way
 *     through a write (syscalls.h).
 *
 * They tell through shared memory what they asked for, what returned and what was called durable. Then the parent opens
 * the store: every commit that returned is there, at most the one in flight besides, and the state is that of exactly
 * this prefix (F2, F3). A stopped process keeps its store: another open is refused and names it; when it goes on,
 * nothing has happened to it (F9).
 */
#include "pleat/pleat.h"
#include "support/history.h"
#include "support/random.h"
#include "support/syscalls.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

/* What a process leaves for the parent; it may die between any two stores. */
struct told {
    _Atomic uint64_t tried;    /* the commit that was asked for */
    _Atomic uint64_t returned; /* the last that returned */
    _Atomic uint64_t opened;   /* lives whose open returned */
    _Atomic int closes;        /* it holds the store no longer for sure */
    _Atomic int failed;
    char text[600];
};

struct run {
    uint64_t seed;
    uint64_t round;
    struct history history;
    struct random random;
    struct told *told;
    char store[300];
    uint64_t lives, at_call, in_recovery, between, stops;
    bool failed;
};

static void __attribute__((format(printf, 2, 3))) complain(struct run *run, const char *format, ...) {
    char what[600];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    if (!run->failed) {
        fprintf(stderr, "FAILED: kill_store --seed 0x%" PRIx64 " (round %" PRIu64 "): %s\n", run->seed, run->round,
                what);
        run->failed = true;
    }
}

static void pause_us(uint64_t microseconds) {
    struct timespec wait = {(time_t)(microseconds / 1000000), (long)(microseconds % 1000000) * 1000};
    (void)nanosleep(&wait, NULL);
}

static void folder_clear(const char *path) {
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;) {
        char name[600];
        (void)snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        if (entry->d_name[0] != '.') {
            (void)unlink(name);
        }
    }
    if (dir != NULL) {
        (void)closedir(dir);
    }
    (void)rmdir(path);
}

static struct pleat_options life_options(struct random *random, bool threads) {
    static const uint32_t durabilities[] = {PLEAT_SYNC_INTERVAL, PLEAT_SYNC_EACH, PLEAT_SYNC_NONE};
    return (struct pleat_options){
        .size = sizeof(struct pleat_options),
        .background = threads ? PLEAT_BACKGROUND_THREADS : PLEAT_BACKGROUND_STEPS,
        .memtable_bytes = 1024u << random_below(random, 6),
        .cache_bytes = 65536,
        .table_bytes = 2048u << random_below(random, 3),
        .level_base_bytes = 4096,
        .level_ratio = 2 + (uint32_t)random_below(random, 3),
        .level0_tables = 1 + (uint32_t)random_below(random, 3),
        .sync_interval_ms = 1 + random_below(random, 4),
        .durability = durabilities[random_below(random, 3)],
        .log_by_write = random_below(random, 2) == 0,
        .table_files_max = 1 + (uint32_t)random_below(random, 8),
    };
}

/* ---- the process that dies ----------------------------------------------------------------------------------------
 */

static _Noreturn void life_failed(struct run *run, const char *what, const struct pleat_error *err) {
    (void)snprintf(run->told->text, sizeof run->told->text, "%s: %s", what, err->message);
    atomic_store(&run->told->failed, 1);
    _exit(1);
}

/* One commit, and what goes with it now and then. */
static int life_step(struct run *run, struct pleat_db *db, struct pleat_space **spaces, struct pleat_batch *batch,
                     uint64_t n, bool threads, struct pleat_error *err) {
    uint64_t draw = random_below(&run->random, 32);
    atomic_store(&run->told->tried, n);
    int rc = history_apply(&run->history, n, db, spaces, batch, draw == 0, err);
    if (rc < 0) {
        return rc;
    }
    atomic_store(&run->told->returned, n);
    if (draw == 1) {
        rc = pleat_flush(db, err);
    } else if (draw == 2) {
        rc = pleat_compact(spaces[random_below(&run->random, HISTORY_SPACES)], NULL, NULL, err);
    } else if (draw == 3) {
        rc = pleat_sync(db, err);
    } else if (draw < 16 && !threads) {
        rc = pleat_step(db, err);
    }
    return rc < 0 ? rc : 0;
}

static _Noreturn void life(struct run *run, bool threads) {
    struct pleat_options options = life_options(&run->random, threads);
    struct pleat_error err = {0};
    struct pleat_db *db;
    struct pleat_batch *batch;
    struct pleat_space *spaces[HISTORY_SPACES];
    if (pleat_open(run->store, &options, &db, &err) < 0) {
        life_failed(run, "open", &err);
    }
    uint64_t applied;
    pleat_position_read(db, PLEAT_APPLIED, NULL, &applied);
    if (applied < atomic_load(&run->told->returned) || applied > atomic_load(&run->told->tried)) {
        (void)snprintf(err.message, sizeof err.message, "at %" PRIu64 ", expected %" PRIu64 " to %" PRIu64, applied,
                       atomic_load(&run->told->returned), atomic_load(&run->told->tried));
        life_failed(run, "open after a kill", &err);
    }
    atomic_store(&run->told->returned, applied); /* seen: it may not go away again */
    atomic_fetch_add(&run->told->opened, 1);
    if (history_spaces(db, spaces, &err) < 0 || pleat_batch_new(db, &batch, &err) < 0) {
        life_failed(run, "spaces", &err);
    }
    uint64_t end = applied + 60 + random_below(&run->random, 400);
    for (uint64_t n = applied + 1; n <= end; n++) {
        if (life_step(run, db, spaces, batch, n, threads, &err) < 0) {
            life_failed(run, "commit", &err);
        }
    }
    atomic_store(&run->told->closes, 1);
    pleat_batch_free(batch);
    if (pleat_close(db, &err) < 0) {
        life_failed(run, "close", &err);
    }
    _exit(0);
}

/* ---- the parent ---------------------------------------------------------------------------------------------------
 */

/* Starts a process, with threads or one that kills itself at a system call. */
static pid_t life_start(struct run *run, bool threads, uint64_t calls) {
    static const enum syscalls_act acts[] = {SYSCALLS_KILL_BEFORE, SYSCALLS_KILL_HALF, SYSCALLS_KILL_BEHIND};
    uint64_t seed = random_next(&run->random), at = 1 + random_below(&run->random, calls);
    enum syscalls_act act = acts[random_below(&run->random, 3)];
    pid_t pid = fork();
    if (pid == 0) {
        run->random = (struct random){seed};
        if (threads) {
            syscalls_sync_for_real();
        } else {
            syscalls_plan((struct syscalls_plan){.kinds = SYSCALLS_ANY, .at = at, .act = act});
        }
        life(run, threads);
    }
    return pid;
}

/* Waits for the end, and says whether it was killed. */
static bool life_end(struct run *run, pid_t pid) {
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (atomic_load(&run->told->failed) != 0) {
        complain(run, "%s", run->told->text);
    } else if (!(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) &&
               !(WIFEXITED(status) && WEXITSTATUS(status) == 0)) {
        complain(run, "the process ended with status 0x%x", (unsigned)status);
    }
    return WIFSIGNALED(status);
}

/* The store as the kills left it. */
static void round_check(struct run *run) {
    struct pleat_options options = life_options(&run->random, random_below(&run->random, 2) == 0);
    struct pleat_error err = {0};
    struct pleat_db *db;
    struct pleat_space *spaces[HISTORY_SPACES];
    struct pleat_check check;
    uint64_t applied, returned = atomic_load(&run->told->returned), tried = atomic_load(&run->told->tried);
    char text[400];
    if (pleat_open(run->store, &options, &db, &err) < 0) {
        complain(run, "open: %s", err.message);
        return;
    }
    pleat_position_read(db, PLEAT_APPLIED, NULL, &applied);
    if (applied < returned || applied > tried) {
        complain(run, "opened at %" PRIu64 ", expected %" PRIu64 " to %" PRIu64, applied, returned, tried);
    } else if (history_spaces(db, spaces, &err) < 0 || pleat_check(db, &check, &err) < 0) {
        complain(run, "%s", err.message);
    } else if (!history_compare(&run->history, db, spaces, NULL, text, sizeof text)) {
        complain(run, "%s", text);
    }
    atomic_store(&run->told->returned, applied);
    atomic_store(&run->told->tried, applied);
    if (pleat_close(db, &err) < 0) {
        complain(run, "close: %s", err.message);
    }
}

static bool life_is_over(pid_t pid) {
    siginfo_t info = {0};
    return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == pid;
}

/* Stops the process, and finds its store refused; lets it go on. */
static void life_stop(struct run *run, pid_t pid) {
    struct pleat_error err = {0};
    struct pleat_db *db = NULL;
    char name[40];
    int status;
    while (atomic_load(&run->told->opened) == 0 && !life_is_over(pid)) {
        pause_us(200);
    }
    pause_us(random_below(&run->random, 3000));
    if (life_is_over(pid)) {
        return;
    }
    if (kill(pid, SIGSTOP) != 0 || waitpid(pid, &status, WUNTRACED) != pid || !WIFSTOPPED(status)) {
        complain(run, "the process cannot be stopped");
        return;
    }
    (void)snprintf(name, sizeof name, "process %ld", (long)pid);
    uint64_t before = atomic_load(&run->told->returned);
    bool holds = atomic_load(&run->told->closes) == 0;
    for (int read_only = 0; holds && read_only < 2; read_only++) {
        memset(&err, 0, sizeof err);
        int rc = pleat_open(run->store, PLEAT_OPTIONS(.read_only = read_only == 1), &db, &err);
        if (rc != PLEAT_ERR_BUSY || strstr(err.message, name) == NULL) {
            complain(run, "an open beside a stopped process answered %d: %s", rc, err.message);
        }
        if (rc == 0) {
            (void)pleat_close(db, NULL);
        }
    }
    (void)kill(pid, SIGCONT);
    while (holds && atomic_load(&run->told->returned) == before && !life_is_over(pid)) {
        pause_us(200); /* it goes on, or the test hangs until it is told to end */
    }
    run->stops += holds;
}

static void round_run(struct run *run) {
    uint64_t lives = 1 + random_below(&run->random, 4);
    atomic_store(&run->told->opened, 0);
    atomic_store(&run->told->closes, 0);
    for (uint64_t i = 0; i < lives && !run->failed; i++) {
        bool threads = random_below(&run->random, 2) == 0;
        bool stops = threads && i == 0 && run->round % 8 == 3;
        uint64_t opened = atomic_load(&run->told->opened), before = atomic_load(&run->told->returned);
        pid_t pid = life_start(run, threads, i == 0 ? 1500 : 120);
        if (pid < 0) {
            complain(run, "no process: %s", strerror(errno));
            return;
        }
        if (stops) {
            life_stop(run, pid);
        } else if (threads) {
            pause_us(random_below(&run->random, i == 0 ? 60000 : 4000));
        }
        if (threads && !stops) {
            (void)kill(pid, SIGKILL);
        }
        bool killed = life_end(run, pid);
        run->lives++;
        run->at_call += killed && !threads;
        run->in_recovery += killed && i > 0 && atomic_load(&run->told->opened) == opened;
        run->between += killed && atomic_load(&run->told->returned) > before;
    }
    if (!run->failed) {
        round_check(run);
    }
}

/* A store lives for 20 rounds. */
static void rounds_run(struct run *run, uint64_t rounds, uint64_t end) {
    struct random random = {run->seed};
    for (run->round = 0; run->round < rounds && (uint64_t)time(NULL) < end && !run->failed; run->round++) {
        if (run->round % 20 == 0) {
            folder_clear(run->store);
            run->history = (struct history){
                .seed = random_next(&random), .updates_max = 6, .value_bytes_max = 300, .clears = true};
            memset(run->told, 0, sizeof *run->told);
        }
        run->random = (struct random){random_next(&random)};
        round_run(run);
    }
}

int main(int argc, char **argv) {
    struct random random = random_begin("kill_store");
    struct run run = {.seed = random_next(&random)};
    uint64_t seconds = 5, rounds = UINT64_MAX;
    const char *base = getenv("TMPDIR");
    for (int i = 1; i + 1 < argc; i += 2) {
        uint64_t number = strtoull(argv[i + 1], NULL, 0);
        run.seed = strcmp(argv[i], "--seed") == 0 ? number : run.seed;
        seconds = strcmp(argv[i], "--seconds") == 0 ? number : seconds;
        rounds = strcmp(argv[i], "--rounds") == 0 ? number : rounds;
        base = strcmp(argv[i], "--folder") == 0 ? argv[i + 1] : base;
    }
    char folder[256];
    (void)snprintf(folder, sizeof folder, "%.200s/pleat-kill-store-XXXXXX", base != NULL ? base : "/tmp");
    run.told = mmap(NULL, sizeof *run.told, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (mkdtemp(folder) == NULL || run.told == MAP_FAILED) {
        fprintf(stderr, "no folder %s: %s\n", folder, strerror(errno));
        return 2;
    }
    (void)snprintf(run.store, sizeof run.store, "%s/store", folder);
    rounds_run(&run, rounds, rounds != UINT64_MAX ? UINT64_MAX : (uint64_t)time(NULL) + seconds);
    if (!run.failed) {
        folder_clear(run.store);
        folder_clear(folder);
    }
    printf("%" PRIu64 " rounds, %" PRIu64 " processes, %" PRIu64 " killed at a system call, %" PRIu64
           " while they recovered, %" PRIu64 " behind a commit, %" PRIu64 " stopped: %s\n",
           run.round, run.lives, run.at_call, run.in_recovery, run.between, run.stops,
           run.failed ? "FAILED" : "all right");
    return run.failed;
}
