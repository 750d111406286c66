/*
 * system_faults.c - a real store on real files while the system calls below the vfs are interrupted, cut short or fail.
 *
 *     system_faults [--seed S] [--seconds N] [--all] [--case CASE --at N --errno E]
 *
 * A history (history.h) runs in step mode: open, commits, steps, syncs, flush, compaction, check, reads, close, reopen.
 * syscalls.h strikes the N-th call.
 *
 *     interrupted   EINTR once; short: half of the bytes       nothing may be noticed
 *     storm         every other call EINTR and every read and write short: the same
 *     refused       no reservations, no mappings of files, no advice, an unknown file system: the same
 *     failed        the N-th call fails, once or with all later ones of its kind: a clean error (F7), nothing left
 *                   open or mapped, the handle goes on when it says that it is healthy, the next open shows everything
 *     full          no reservations, and the N-th write of the log finds the disk full in the middle of a record
 *     descriptors   RLIMIT_NOFILE falls to what is open and rises again, with the store's own threads
 *     signals       a timer whose handler does not restart calls, with the store's own threads
 *
 * The folder is below TMPDIR, /dev/shm or /tmp, and is removed at the end.
 */
#include "pleat/pleat.h"
#include "support/history.h"
#include "support/random.h"
#include "support/syscalls.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>

#define OPERATIONS 24

enum fault_case { INTERRUPTED, SHORTENED, STORM, REFUSED, FAILED, FULL, DESCRIPTORS, SIGNALS, CASES };
static const char *const case_names[CASES] = {"interrupted", "short", "storm",       "refused",
                                              "failed",      "full",  "descriptors", "signals"};

struct trial {
    struct history history;
    struct pleat_options options;
    struct random random;
    struct pleat_db *db;
    struct pleat_batch *batch;
    struct pleat_space *spaces[HISTORY_SPACES];
    uint64_t n;      /* the last commit that returned 0 */
    uint64_t tried;  /* the last that was asked for */
    uint64_t errors; /* that came */
    bool failed;
    const char *doing;
    char text[768];
};

static char folder[256];
static char store[300];

/* ---- folders ----------------------------------------------------------------------------------------------------- */

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

static void __attribute__((format(printf, 2, 3))) complain(struct trial *trial, const char *format, ...) {
    if (!trial->failed) {
        char what[600];
        va_list arguments;
        va_start(arguments, format);
        (void)vsnprintf(what, sizeof what, format, arguments);
        va_end(arguments);
        (void)snprintf(trial->text, sizeof trial->text, "%s at sequence %" PRIu64 ": %s", trial->doing, trial->n, what);
        trial->failed = true;
    }
}

/* ---- one life of a store ------------------------------------------------------------------------------------------
 */

static int trial_open(struct trial *trial, struct pleat_error *err) {
    trial->doing = "open";
    int rc = pleat_open(store, &trial->options, &trial->db, err);
    if (rc < 0) {
        return rc;
    }
    uint64_t applied;
    pleat_position_read(trial->db, PLEAT_APPLIED, NULL, &applied);
    if (applied < trial->n || applied > trial->tried) {
        complain(trial, "opened at %" PRIu64 ", expected %" PRIu64 " to %" PRIu64, applied, trial->n, trial->tried);
    }
    trial->n = trial->tried = applied;
    trial->doing = "spaces";
    rc = history_spaces(trial->db, trial->spaces, err);
    return rc == 0 ? pleat_batch_new(trial->db, &trial->batch, err) : rc;
}

static int trial_close(struct trial *trial, struct pleat_error *err) {
    trial->doing = "close";
    pleat_batch_free(trial->batch);
    trial->batch = NULL;
    int rc = pleat_close(trial->db, err);
    trial->db = NULL;
    return rc;
}

static int trial_count(void *context, const struct pleat_row *row) {
    (void)row;
    ++*(uint64_t *)context;
    return 0;
}

static int trial_commit(struct trial *trial, struct pleat_error *err) {
    trial->doing = "commit";
    trial->tried = trial->n + 1;
    int rc = history_apply(&trial->history, trial->n + 1, trial->db, trial->spaces, trial->batch, trial->tried % 5 == 0,
                           err);
    trial->n += rc == 0;
    return rc;
}

/* Everything a client does, until an error. */
static int trial_work(struct trial *trial, struct pleat_error *err) {
    int rc = trial->db == NULL ? trial_open(trial, err) : 0;
    for (uint64_t end = trial->n + OPERATIONS; rc == 0 && trial->n < end;) {
        rc = trial_commit(trial, err);
        if (rc == 0 && trial->n % 4 == 0 && trial->options.background == PLEAT_BACKGROUND_STEPS) {
            trial->doing = "step";
            rc = pleat_step(trial->db, err);
            rc = rc < 0 ? rc : 0;
        }
    }
    if (rc == 0) {
        trial->doing = "compact";
        rc = pleat_compact(trial->spaces[1], NULL, NULL, err);
    }
    for (size_t i = 0; rc == 0 && i < HISTORY_SPACES; i++) {
        uint64_t rows = 0;
        trial->doing = "scan";
        rc = pleat_scan(trial->spaces[i], NULL, trial_count, &rows, err);
    }
    if (rc == 0) {
        struct pleat_check check;
        trial->doing = "check";
        rc = pleat_check(trial->db, &check, err);
    }
    if (rc == 0) {
        rc = trial_commit(trial, err); /* so that the close has something to write */
    }
    return rc == 0 ? trial_close(trial, err) : rc;
}

static void trial_compare(struct trial *trial) {
    char text[400];
    if (!trial->failed && !history_compare(&trial->history, trial->db, trial->spaces, NULL, text, sizeof text)) {
        complain(trial, "%s", text);
    }
}

/* Nothing is left behind, and the next life finds everything that returned. */
static void trial_end(struct trial *trial) {
    struct pleat_error err = {0};
    syscalls_no_plan();
    if (syscalls_descriptors() != 0 || syscalls_mapped_bytes() != 0) {
        complain(trial, "%" PRId64 " descriptors and %" PRId64 " mapped bytes are left", syscalls_descriptors(),
                 syscalls_mapped_bytes());
    }
    if (!trial->failed && trial_open(trial, &err) < 0) {
        complain(trial, "%s", err.message);
    }
    if (trial->db != NULL) {
        trial_compare(trial);
        if (trial_close(trial, &err) < 0) {
            complain(trial, "%s", err.message);
        }
    }
}

static void trial_begin(struct trial *trial, uint64_t seed) {
    static const uint32_t durabilities[] = {PLEAT_SYNC_INTERVAL, PLEAT_SYNC_EACH, PLEAT_SYNC_NONE};
    folder_clear(store);
    memset(trial, 0, sizeof *trial);
    trial->random = (struct random){seed};
    trial->history = (struct history){.seed = seed, .updates_max = 6, .value_bytes_max = 200};
    trial->options = (struct pleat_options){
        .size = sizeof(struct pleat_options),
        .background = PLEAT_BACKGROUND_STEPS,
        .memtable_bytes = 2048,
        .cache_bytes = 65536,
        .table_bytes = 2048,
        .level_base_bytes = 4096,
        .level_ratio = 2,
        .level0_tables = 2,
        .sync_interval_ms = 1,
        .durability = durabilities[seed % 3],
        .log_by_write = seed / 3 % 2 == 1,
        .table_files_max = 1 + (uint32_t)(seed % 4),
    };
}

/* ---- what nobody may notice ---------------------------------------------------------------------------------------
 */

static struct syscalls_plan quiet_plan(enum fault_case which, uint64_t at) {
    switch (which) {
    case INTERRUPTED:
        return (struct syscalls_plan){
            .kinds = SYSCALLS_INTERRUPTIBLE, .at = at, .act = SYSCALLS_FAIL, .os_errno = EINTR};
    case SHORTENED:
        return (struct syscalls_plan){.kinds = SYSCALLS_SHORTENABLE, .at = at, .act = SYSCALLS_SHORT};
    case STORM: /* a write that is cut short and then interrupted, and so on */
        return (struct syscalls_plan){.kinds = SYSCALLS_INTERRUPTIBLE,
                                      .at = at,
                                      .again = true,
                                      .alternate = true,
                                      .act = at % 2 == 0 ? SYSCALLS_FAIL : SYSCALLS_SHORT_THEN_FAIL,
                                      .os_errno = EINTR};
    default:
        break;
    }
    static const struct {
        unsigned kinds;
        int os_errno;
    } refusals[] = {
        {SYSCALLS_RESERVE, EOPNOTSUPP}, {SYSCALLS_RESERVE, ENOSYS},
        {SYSCALLS_MAP_FILE, ENOMEM},    {SYSCALLS_MAP_FILE, ENODEV},
        {SYSCALLS_STATFS, ENOSYS},      {SYSCALLS_ADVISE, EINVAL},
        {SYSCALLS_ADVISE, ENOMEM},      {SYSCALLS_STATFS | SYSCALLS_ADVISE | SYSCALLS_MAP_FILE, EAGAIN},
    };
    size_t i = (size_t)(at % (sizeof refusals / sizeof refusals[0]));
    return (struct syscalls_plan){
        .kinds = refusals[i].kinds, .at = 1, .again = true, .act = SYSCALLS_FAIL, .os_errno = refusals[i].os_errno};
}

/* Returns the calls that the plan's kinds make in all. */
static uint64_t run_quiet(struct trial *trial, enum fault_case which, uint64_t at) {
    struct pleat_error err = {0};
    struct syscalls_plan plan = quiet_plan(which, at);
    if (plan.act == SYSCALLS_SHORT_THEN_FAIL) {
        plan.kinds = SYSCALLS_SHORTENABLE;
    }
    trial->options.log_by_write = trial->options.log_by_write && which != REFUSED; /* else nothing is mapped */
    syscalls_plan(plan);
    for (int life = 0; life < 2 && !trial->failed; life++) {
        if (trial_work(trial, &err) < 0) {
            complain(trial, "%s", err.message);
            (void)trial_close(trial, NULL);
        }
    }
    uint64_t calls = syscalls_counted();
    if (which >= STORM && syscalls_struck() == 0) {
        complain(trial, "nothing was struck");
    }
    return calls;
}

/* ---- failures -----------------------------------------------------------------------------------------------------
 */

static const int errnos[] = {EIO, ENOSPC, EDQUOT, EMFILE, ENFILE, ENOMEM};
#define ERRNOS (sizeof errnos / sizeof errnos[0])

/* Whether that failure may make a handle read-only (F7): only a write or a sync whose outcome is not known. */
static bool failure_may_poison(unsigned kind, int os_errno) {
    bool full = os_errno == ENOSPC || os_errno == EDQUOT;
    return kind == SYSCALLS_SYNC || kind == SYSCALLS_TRUNCATE ||
           (!full && (kind & (SYSCALLS_WRITE | SYSCALLS_RENAME)) != 0);
}

/* errnum: an index; from ERRNOS on, the call and all later ones of its kind fail. */
static uint64_t run_failed(struct trial *trial, uint64_t at, unsigned errnum, bool unreserved) {
    struct pleat_error err = {0};
    bool again = errnum >= ERRNOS;
    int os_errno = errnos[errnum % ERRNOS];
    unsigned kinds = SYSCALLS_ANY & ~(unsigned)(unreserved ? SYSCALLS_RESERVE : 0);
    if (again) { /* of one kind: else nothing works at all */
        kinds = 1u << (at % SYSCALLS_KINDS);
        at = 1 + at / SYSCALLS_KINDS;
    }
    syscalls_plan(
        (struct syscalls_plan){.kinds = kinds, .at = at, .again = again, .act = SYSCALLS_FAIL, .os_errno = os_errno});
    uint64_t calls = 0;
    for (int life = 0; life < 2 && !trial->failed; life++) {
        int rc = trial_work(trial, &err);
        calls = syscalls_counted();
        if (rc == 0) {
            continue;
        }
        bool struck = syscalls_struck() > 0;
        unsigned kind = syscalls_struck_kind();
        syscalls_no_plan();
        trial->errors++;
        if (!struck || err.code != rc || err.message[0] == '\0') {
            complain(trial, "answered %d, code %d, %s: %s", rc, err.code, struck ? "struck" : "not struck",
                     err.message);
        }
        int health = trial->db != NULL ? pleat_health(trial->db, NULL) : 0;
        if (health < 0 && !again && !failure_may_poison(kind, os_errno)) {
            complain(trial, "the handle is read-only after: %s", err.message);
        }
        if (trial->db != NULL && trial->batch != NULL) {
            trial_compare(trial);
        }
        if (trial->db != NULL && (health < 0 || trial->batch == NULL)) {
            (void)trial_close(trial, NULL);
        }
        memset(&err, 0, sizeof err);
        if (!trial->failed && trial_work(trial, &err) < 0) { /* on with the same handle, or a new one */
            complain(trial, "the cause is gone: %s", err.message);
        }
        if (trial->db != NULL) {
            (void)trial_close(trial, NULL);
        }
    }
    return calls;
}

/* The state as another process finds it: a copy of the folder. */
static void trial_check_copy(struct trial *trial) {
    char command[1200], kept[300];
    (void)snprintf(kept, sizeof kept, "%s/copy", folder);
    (void)snprintf(command, sizeof command, "rm -rf '%s' && cp -r '%s' '%s'", kept, store, kept);
    struct trial copy = *trial;
    struct pleat_error err = {0};
    if (system(command) != 0) {
        complain(trial, "the folder cannot be copied");
        return;
    }
    char path[300];
    memcpy(path, store, sizeof path);
    memcpy(store, kept, sizeof store);
    copy.db = NULL;
    copy.batch = NULL;
    copy.tried = copy.n;
    if (trial_open(&copy, &err) < 0) {
        complain(&copy, "%s", err.message);
    } else {
        trial_compare(&copy);
    }
    (void)trial_close(&copy, NULL);
    memcpy(store, path, sizeof store);
    folder_clear(kept);
    if (copy.failed) {
        complain(trial, "a copy of the folder: %s", copy.text);
    }
}

/* F7 on a real log without a reservation: a record that found no room is out, also for a reader of the files, though
 * all that its tail lacks is zeros. */
static uint64_t run_full(struct trial *trial, uint64_t at) {
    static const uint8_t zeros[20000];
    struct pleat_error err = {0};
    trial->options.memtable_bytes = 65536;
    syscalls_plan((struct syscalls_plan){
        .kinds = SYSCALLS_RESERVE, .at = 1, .again = true, .act = SYSCALLS_FAIL, .os_errno = EOPNOTSUPP});
    int rc = trial_open(trial, &err);
    for (int i = 0; i < 3 && rc == 0; i++) {
        rc = trial_commit(trial, &err);
    }
    if (rc < 0) {
        complain(trial, "%s", err.message);
    }
    for (uint64_t attempt = 0; attempt < 1 + at % 3 && !trial->failed; attempt++) {
        trial->doing = "a commit on a full disk";
        trial->tried = trial->n;
        pleat_batch_clear(trial->batch);
        rc = pleat_batch_put(trial->batch, trial->spaces[0], (struct pleat_slice){"k", 1},
                             (struct pleat_slice){zeros, sizeof zeros}, &err);
        syscalls_plan((struct syscalls_plan){.kinds = SYSCALLS_WRITE,
                                             .at = 1,
                                             .act = SYSCALLS_SHORT_THEN_FAIL,
                                             .os_errno = at % 2 == 0 ? ENOSPC : EDQUOT});
        rc = rc == 0 ? pleat_commit(trial->db, trial->batch, NULL, NULL, &err) : rc;
        if (rc != PLEAT_ERR_NO_SPACE || pleat_health(trial->db, NULL) != 0 || syscalls_struck() != 1) {
            complain(trial, "answered %d, health is %d", rc, pleat_health(trial->db, NULL));
        }
        syscalls_no_plan();
        trial_check_copy(trial);
    }
    for (int i = 0; i < 3 && !trial->failed; i++) {
        if (trial_commit(trial, &err) < 0) {
            complain(trial, "with space again: %s", err.message);
        }
        trial_check_copy(trial);
    }
    (void)trial_close(trial, &err);
    return 12;
}

/* ---- with the store's own threads ----------------------------------------------------------------------------------
 */

static int descriptors_open(void) {
    int count = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (dir != NULL && readdir(dir) != NULL) {
        count++;
    }
    if (dir != NULL) {
        (void)closedir(dir);
    }
    return count - 3; /* ".", ".." and the list's own */
}

/* EMFILE for real. Reads may fail while a table has to be opened, and never answer wrongly. */
static uint64_t run_descriptors(struct trial *trial, uint64_t at) {
    struct pleat_error err = {0};
    struct rlimit all, few;
    (void)getrlimit(RLIMIT_NOFILE, &all);
    few = all;
    trial->options.background = at % 2 == 0 ? PLEAT_BACKGROUND_THREADS : PLEAT_BACKGROUND_STEPS;
    int rc = trial_open(trial, &err);
    for (int round = 0; round < 4 && rc == 0 && !trial->failed; round++) {
        few.rlim_cur = (rlim_t)descriptors_open() + at % 4;
        (void)setrlimit(RLIMIT_NOFILE, &few);
        for (int i = 0; i < 30 && !trial->failed; i++) {
            struct pleat_error refused = {0};
            uint64_t rows;
            int answer = i % 3 != 0 ? trial_commit(trial, &refused)
                                    : pleat_scan(trial->spaces[i % HISTORY_SPACES], NULL, trial_count, &rows, &refused);
            if (answer < 0 && (refused.os_errno != EMFILE || refused.code != answer)) {
                complain(trial, "answered %d: %s (errno %d)", answer, refused.message, refused.os_errno);
            }
            trial->errors += answer < 0;
        }
        (void)setrlimit(RLIMIT_NOFILE, &all);
        if (pleat_health(trial->db, &err) < 0) {
            complain(trial, "the handle is read-only: %s", err.message);
        }
        rc = trial_commit(trial, &err);
        rc = rc == 0 ? pleat_settle(trial->db, NULL, NULL, &err) : rc;
        trial_compare(trial);
    }
    (void)setrlimit(RLIMIT_NOFILE, &all);
    if (rc < 0) {
        complain(trial, "with descriptors again: %s", err.message);
    }
    if (trial_close(trial, &err) < 0) {
        complain(trial, "%s", err.message);
    }
    return 8;
}

static void on_signal(int number) {
    (void)number;
}

static uint64_t run_signals(struct trial *trial, uint64_t at) {
    struct pleat_error err = {0};
    struct sigaction action = {.sa_handler = on_signal}, old;
    struct itimerval often = {{0, 50 + (suseconds_t)(at % 7) * 40}, {0, 100}}, never = {{0, 0}, {0, 0}};
    trial->options.background = PLEAT_BACKGROUND_THREADS;
    (void)sigaction(SIGALRM, &action, &old); /* without SA_RESTART */
    (void)setitimer(ITIMER_REAL, &often, NULL);
    for (int life = 0; life < 3 && !trial->failed; life++) {
        if (trial_work(trial, &err) < 0) {
            complain(trial, "%s", err.message);
            (void)trial_close(trial, NULL);
        }
    }
    (void)setitimer(ITIMER_REAL, &never, NULL);
    (void)sigaction(SIGALRM, &old, NULL);
    return 4;
}

/* ---- all of them ---------------------------------------------------------------------------------------------------
 */

struct sweep {
    uint64_t seed, seconds, at, deadline;
    uint64_t runs, errors;
    unsigned errnum;
    int only;
    bool all;
    bool failed;
};

/* Returns how many `at` there are to try; one that is never reached strikes nothing. */
static uint64_t sweep_one(struct sweep *sweep, enum fault_case which, uint64_t at, unsigned errnum) {
    static struct trial trial;
    trial_begin(&trial, sweep->seed);
    uint64_t calls = 0;
    switch (which) {
    case FAILED:
        calls = run_failed(&trial, at, errnum, false);
        break;
    case FULL:
        calls = run_full(&trial, at);
        break;
    case DESCRIPTORS:
        calls = run_descriptors(&trial, at);
        break;
    case SIGNALS:
        calls = run_signals(&trial, at);
        break;
    default:
        calls = run_quiet(&trial, which, at);
        break;
    }
    trial_end(&trial);
    sweep->runs++;
    sweep->errors += trial.errors;
    if (trial.failed) {
        fprintf(stderr, "FAILED: system_faults --seed 0x%" PRIx64 " --case %s --at %" PRIu64 " --errno %u: %s\n",
                sweep->seed, case_names[which], at, errnum, trial.text);
        sweep->failed = true;
    }
    return calls;
}

/* How many `at` a case has; where there is nothing to count, `at` chooses what is refused. */
static uint64_t sweep_calls(struct sweep *sweep, enum fault_case which) {
    return which == STORM || which == REFUSED ? 8 : sweep_one(sweep, which, UINT64_MAX / 2 - 1, 0);
}

static void sweep_all(struct sweep *sweep) {
    for (enum fault_case which = 0; which < CASES; which++) {
        unsigned errnum_count = which == FAILED ? 2 * ERRNOS : 1;
        if (sweep->only >= 0 && sweep->only != (int)which) {
            continue;
        }
        uint64_t calls = sweep_calls(sweep, which), runs = sweep->runs;
        for (uint64_t at = 1; at <= calls; at++) {
            for (unsigned errnum = 0; errnum < errnum_count && !sweep->failed; errnum++) {
                (void)sweep_one(sweep, which, at, errnum);
            }
        }
        if (sweep->failed) {
            return;
        }
        printf("seed 0x%" PRIx64 ": %s, %" PRIu64 " runs over %" PRIu64 " calls\n", sweep->seed, case_names[which],
               sweep->runs - runs, calls);
        (void)fflush(stdout);
    }
}

/* Every case in turn, until the time is up. */
static void sweep_sample(struct sweep *sweep, struct random *random) {
    uint64_t calls[CASES];
    for (int i = 0; i < 20; i++) {
        for (enum fault_case which = 0; which < CASES; which++) {
            if (sweep->only >= 0 && sweep->only != (int)which) {
                continue;
            }
            if (i == 0) {
                calls[which] = sweep_calls(sweep, which);
            } else if ((uint64_t)time(NULL) >= sweep->deadline) {
                return;
            }
            unsigned errnum = which == FAILED ? (unsigned)random_below(random, 2 * ERRNOS) : 0;
            if (!sweep->failed) {
                (void)sweep_one(sweep, which, 1 + random_below(random, calls[which]), errnum);
            }
            if (sweep->failed) {
                return;
            }
        }
    }
}

int main(int argc, char **argv) {
    struct random random = random_begin("system_faults");
    struct sweep sweep = {.seed = random_next(&random), .seconds = 5, .only = -1};
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "0";
        uint64_t number = strtoull(value, NULL, 0);
        if (strcmp(argv[i], "--all") == 0) {
            sweep.all = true;
            continue;
        }
        sweep.seed = strcmp(argv[i], "--seed") == 0 ? number : sweep.seed;
        sweep.seconds = strcmp(argv[i], "--seconds") == 0 ? number : sweep.seconds;
        sweep.at = strcmp(argv[i], "--at") == 0 ? number : sweep.at;
        sweep.errnum = strcmp(argv[i], "--errno") == 0 ? (unsigned)number : sweep.errnum;
        for (int k = 0; k < CASES && strcmp(argv[i], "--case") == 0; k++) {
            sweep.only = strcmp(value, case_names[k]) == 0 ? k : sweep.only;
        }
        i++;
    }
    const char *base = getenv("TMPDIR");
    if (base == NULL) {
        base = access("/dev/shm", W_OK | X_OK) == 0 ? "/dev/shm" : "/tmp"; /* any real files will do, so the fastest */
    }
    (void)snprintf(folder, sizeof folder, "%.200s/pleat-system-faults-XXXXXX", base);
    if (mkdtemp(folder) == NULL) {
        fprintf(stderr, "no folder %s: %s\n", folder, strerror(errno));
        return 2;
    }
    (void)snprintf(store, sizeof store, "%s/store", folder);
    sweep.deadline = (uint64_t)time(NULL) + sweep.seconds;
    if (sweep.at > 0 && sweep.only >= 0) {
        (void)sweep_one(&sweep, (enum fault_case)sweep.only, sweep.at, sweep.errnum);
    } else {
        uint64_t scenarios = 3, first = sweep.seed;
        for (uint64_t i = 0;
             !sweep.failed && (sweep.all ? i < scenarios : i == 0 || (uint64_t)time(NULL) < sweep.deadline); i++) {
            sweep.seed = i == 0 ? first : sweep.all ? first + i : random_next(&random);
            if (sweep.all) {
                sweep_all(&sweep);
            } else {
                sweep_sample(&sweep, &random);
            }
        }
    }
    folder_clear(store);
    folder_clear(folder);
    printf("%" PRIu64 " runs, %" PRIu64 " errors: %s\n", sweep.runs, sweep.errors,
           sweep.failed ? "FAILED" : "all right");
    return sweep.failed;
}
