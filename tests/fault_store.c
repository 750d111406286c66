/*
 * fault_store.c - the whole store when single calls of the disk or the allocator fail, and when the disk is full.
 *
 *     fault_store [--seed S] [--seconds N] [--all] [--kind disk|memory|quota --at N --variant V]
 *
 * A history (history.h) runs in step mode with tiny limits on a simulated disk, with flushes, compactions, syncs,
 * clears and reopens. The N-th call fails, once or for ever, whole or by half. Whoever sees the error checks (F7, F8):
 *
 *   - it has a code and a text, and the operation is wholly in or wholly out;
 *   - once the cause is gone, reads are those of a state of the history;
 *   - a handle that is healthy goes on; one that is not refuses every write with its sticky error, and reads go on;
 *   - after a failed allocation and on a full disk the handle is always healthy;
 *   - crash images hold everything that was reported durable, a reopen everything that returned;
 *   - close leaves no handle, no memory, no lock behind, and no sync was asked for twice.
 *
 * By default N is sampled; --all takes every N with every variant. A failure prints one line that replays it.
 */
#include "db/db.h"
#include "support/failmem.h"
#include "support/history.h"
#include "support/random.h"
#include "support/simfs.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>

enum fault_kind { FAULT_DISK, FAULT_MEMORY, FAULT_QUOTA, FAULT_KINDS };
static const char *const kind_names[FAULT_KINDS] = {"disk", "memory", "quota"};
static const uint64_t variants[FAULT_KINDS] = {8, 2, 1};

struct run {
    struct history history;
    struct pleat_options options;
    enum fault_kind kind;
    struct simfs *fs;
    struct failmem fail;
    struct random random;
    struct pleat_db *db;
    struct pleat_batch *batch;
    struct pleat_space *spaces[HISTORY_SPACES];
    uint64_t until;
    uint64_t n;        /* the sequence that the store is at */
    uint64_t tried;    /* the highest operation that was asked for */
    uint64_t returned; /* the highest that returned 0 */
    uint64_t durable;  /* reported durable */
    uint64_t seen;     /* errors that came */
    bool armed;
    bool failed;
    bool verbose; /* prints every error: when one run is replayed */
    const char *doing;
    char text[768];
};

static struct pleat_options run_options(uint64_t seed) {
    static const uint32_t durabilities[] = {PLEAT_SYNC_INTERVAL, PLEAT_SYNC_EACH, PLEAT_SYNC_NONE};
    return (struct pleat_options){
        .size = sizeof(struct pleat_options),
        .background = PLEAT_BACKGROUND_STEPS,
        .memtable_bytes = 1024 + seed % 3 * 1024,
        .cache_bytes = 65536,
        .table_bytes = 1024 + seed % 5 * 512,
        .level_base_bytes = 2048,
        .level_ratio = 2 + (uint32_t)(seed % 3),
        .level0_tables = 1 + (uint32_t)(seed % 3),
        .sync_interval_ms = 1,
        .durability = durabilities[seed % 3],
        .log_by_write = seed / 3 % 2 == 1,
    };
}

static void __attribute__((format(printf, 2, 3))) run_complain(struct run *run, const char *format, ...) {
    if (!run->failed) {
        va_list arguments;
        char what[600];
        va_start(arguments, format);
        (void)vsnprintf(what, sizeof what, format, arguments);
        va_end(arguments);
        (void)snprintf(run->text, sizeof run->text, "%s at sequence %" PRIu64 ": %s", run->doing, run->n, what);
        run->failed = true;
    }
}

static void run_disarm(struct run *run) {
    run->armed = false;
    simfs_faults_clear(run->fs);
    simfs_quota(run->fs, UINT64_MAX);
    run->fail.fail_at = 0;
    run->fail.fail_for_ever = false;
}

static void run_note_durable(struct run *run) {
    uint64_t durable;
    pleat_position_read(run->db, PLEAT_DURABLE, NULL, &durable);
    if (durable > run->tried) {
        run_complain(run, "durable is %" PRIu64 ", only %" PRIu64 " were asked for", durable, run->tried);
    }
    run->durable = durable > run->durable ? durable : run->durable;
}

static int run_open(struct run *run, struct pleat_error *err) {
    run->doing = "open";
    struct pleat_db *before = run->db;
    int rc = db_open_with("store", &run->options, simfs_vfs(run->fs), &run->fail.mem, &run->db, err);
    if (rc < 0) {
        if (run->db != before) {
            run_complain(run, "a failed open wrote ret_db");
        }
        return rc;
    }
    uint64_t applied;
    pleat_position_read(run->db, PLEAT_APPLIED, NULL, &applied);
    if (applied < run->returned || applied > run->tried) {
        run_complain(run, "opened at %" PRIu64 ", expected %" PRIu64 " to %" PRIu64, applied, run->returned,
                     run->tried);
    }
    run->n = run->returned = run->tried = applied;
    run->durable = 0; /* what was durable was checked above: from here on it is this life's */
    return 0;
}

/* Closes whatever is open, in any state, and looks for what stayed behind. */
static int run_close(struct run *run, struct pleat_error *err) {
    run->doing = "close";
    pleat_batch_free(run->batch);
    run->batch = NULL;
    int rc = pleat_close(run->db, err);
    run->db = NULL;
    if (rc == 0) {
        run->durable = run->n;
    }
    if (simfs_open_handles(run->fs) != 0 || atomic_load(&run->fail.live) != 0) {
        run_complain(run, "%" PRIu64 " handles and %" PRId64 " blocks are left", simfs_open_handles(run->fs),
                     (int64_t)atomic_load(&run->fail.live));
    }
    return rc;
}

/* One action: 0 or an error. */
static int run_act(struct run *run, struct pleat_error *err) {
    if (run->db == NULL) {
        return run_open(run, err);
    }
    if (run->batch == NULL) {
        run->doing = "spaces";
        int rc = history_spaces(run->db, run->spaces, err);
        return rc == 0 ? pleat_batch_new(run->db, &run->batch, err) : rc;
    }
    uint64_t draw = random_below(&run->random, 32);
    int rc;
    if (draw < 16) {
        size_t space;
        run->doing = history_is_clear(&run->history, run->n + 1, &space) ? "clear" : "commit";
        run->tried = run->n + 1;
        rc = history_apply(&run->history, run->n + 1, run->db, run->spaces, run->batch, draw < 2, err);
        if (rc == 0) {
            run->n = run->returned = run->tried;
        }
    } else if (draw < 24) {
        run->doing = "step";
        rc = pleat_step(run->db, err);
    } else if (draw < 26) {
        run->doing = "sync";
        rc = pleat_sync(run->db, err);
    } else if (draw < 27) {
        run->doing = "flush";
        rc = pleat_flush(run->db, err);
    } else if (draw < 28) {
        run->doing = "compact";
        rc = pleat_compact(run->spaces[random_below(&run->random, HISTORY_SPACES)], NULL, NULL, err);
    } else if (draw < 30) {
        struct pleat_check check;
        run->doing = "check";
        rc = pleat_check(run->db, &check, err);
    } else if (draw < 31) {
        struct pleat_snapshot *snapshot;
        run->doing = "snapshot";
        rc = pleat_snapshot_new(run->db, &snapshot, err);
        if (rc == 0) {
            pleat_snapshot_free(snapshot);
        }
    } else {
        return run_close(run, err);
    }
    run_note_durable(run);
    return rc < 0 ? rc : 0;
}

/* Any crash from here keeps at least what was reported durable, and no more than what was asked for. */
static void run_check_images(struct run *run, uint64_t floor) {
    for (int i = 0; i < 2 && !run->failed; i++) {
        enum simfs_model model = (enum simfs_model)(1 + random_below(&run->random, SIMFS_MODELS - 1));
        uint64_t seed = random_next(&run->random);
        struct simfs *image = simfs_crash(run->fs, model, seed);
        struct pleat_db *db = NULL;
        struct pleat_error err = {0};
        struct pleat_space *spaces[HISTORY_SPACES];
        char text[400] = "";
        uint64_t applied = 0;
        int rc = db_open_with("store", &run->options, simfs_vfs(image), &mem_system, &db, &err);
        if (rc == 0) {
            pleat_position_read(db, PLEAT_APPLIED, NULL, &applied);
            rc = history_spaces(db, spaces, &err);
        }
        if (rc < 0) {
            run_complain(run, "image %s: open: %s", simfs_model_name(model), err.message);
        } else if (applied < floor || applied > run->tried) {
            run_complain(run, "image %s: at %" PRIu64 ", expected %" PRIu64 " to %" PRIu64, simfs_model_name(model),
                         applied, floor, run->tried);
        } else if (!history_compare(&run->history, db, spaces, NULL, text, sizeof text)) {
            run_complain(run, "image %s: %s", simfs_model_name(model), text);
        }
        (void)pleat_close(db, NULL);
        simfs_free(image);
    }
}

/* A poisoned handle: writes are refused with the sticky error, reads go on. */
static void run_check_read_only(struct run *run, int health) {
    struct pleat_error err = {0};
    char text[400];
    uint64_t before, after;
    pleat_position_read(run->db, PLEAT_APPLIED, NULL, &before);
    int flush = pleat_flush(run->db, &err), sync = pleat_sync(run->db, &err), step = pleat_step(run->db, &err);
    int commit = health;
    if (run->batch != NULL) {
        commit = history_apply(&run->history, before + 1, run->db, run->spaces, run->batch, false, &err);
    }
    pleat_position_read(run->db, PLEAT_APPLIED, NULL, &after);
    if (flush != health || sync != health || step != health || commit != health || after != before) {
        run_complain(run, "health is %d, but flush %d, sync %d, step %d, commit %d", health, flush, sync, step, commit);
    }
    if (run->batch != NULL && !history_compare(&run->history, run->db, run->spaces, NULL, text, sizeof text)) {
        run_complain(run, "reads of a read-only handle: %s", text);
    }
}

/* An action answered an error: judges it, takes the cause away, and leaves the run where it can go on. */
static void run_judge(struct run *run, int rc, const struct pleat_error *err) {
    char text[400];
    run->seen++;
    if (run->verbose) {
        fprintf(stderr, "%s at sequence %" PRIu64 ": %s\n", run->doing, run->n, err->message);
    }
    if (!run->armed) {
        run_complain(run, "an error that nothing caused: %s", err->message);
        return;
    }
    if (err->code != rc || err->message[0] == '\0') {
        run_complain(run, "answered %d with code %d and the text \"%s\"", rc, err->code, err->message);
    }
    if (run->kind == FAULT_MEMORY && rc != PLEAT_ERR_NO_MEMORY) {
        run_complain(run, "a failed allocation answered %d: %s", rc, err->message);
    }
    if (run->kind == FAULT_QUOTA && rc != PLEAT_ERR_NO_SPACE) {
        run_complain(run, "a full disk answered %d: %s", rc, err->message);
    }
    run_disarm(run);
    run_check_images(run, run->durable);
    if (run->failed || run->db == NULL) {
        if (run->db == NULL && (simfs_open_handles(run->fs) != 0 || atomic_load(&run->fail.live) != 0)) {
            run_complain(run, "%" PRIu64 " handles and %" PRId64 " blocks are left: %s", simfs_open_handles(run->fs),
                         (int64_t)atomic_load(&run->fail.live), err->message);
        }
        return;
    }
    uint64_t applied;
    int health = pleat_health(run->db, NULL);
    pleat_position_read(run->db, PLEAT_APPLIED, NULL, &applied);
    if (applied != run->n && applied != run->tried) {
        run_complain(run, "an error left sequence %" PRIu64 ", expected %" PRIu64 " or %" PRIu64, applied, run->n,
                     run->tried);
    }
    if (health == 0 && applied != run->n) {
        run_complain(run, "a healthy handle holds the commit that answered: %s", err->message);
    }
    run->n = applied;
    if (run->batch != NULL && !history_compare(&run->history, run->db, run->spaces, NULL, text, sizeof text)) {
        run_complain(run, "after \"%s\": %s", err->message, text);
    }
    if (health < 0 && run->kind != FAULT_DISK) {
        run_complain(run, "the handle is read-only after: %s", err->message);
    }
    if (health < 0 && !run->failed) {
        struct pleat_error ignored;
        run_check_read_only(run, health);
        (void)run_close(run, &ignored); /* says the sticky error again */
        run_check_images(run, run->durable);
    }
}

static void run_arm(struct run *run, uint64_t at, uint64_t variant) {
    static const int errnos[] = {EIO, EIO, EIO, EIO, ENOSPC, ENOSPC, EMFILE, EMFILE};
    run->armed = true;
    if (run->kind == FAULT_DISK) {
        simfs_fault_add(run->fs, (struct simfs_fault){.calls = SIMFS_ANY,
                                                      .at = at,
                                                      .os_errno = errnos[variant],
                                                      .for_ever = variant % 2 == 1,
                                                      .half = variant == 2 || variant == 3});
    } else if (run->kind == FAULT_MEMORY) {
        run->fail.fail_at = atomic_load(&run->fail.calls) + at;
        run->fail.fail_for_ever = variant == 1;
    } else {
        simfs_quota(run->fs, simfs_used_bytes(run->fs) + at);
    }
}

/* Runs the history with one fault. at 0: none. Returns how many calls a run without a fault makes. */
static uint64_t run_one(struct run *run, uint64_t seed, enum fault_kind kind, uint64_t at, uint64_t variant,
                        bool verbose) {
    memset(run, 0, sizeof *run);
    run->verbose = verbose;
    run->history = (struct history){.seed = seed, .updates_max = 5, .value_bytes_max = 90, .clears = true};
    run->options = run_options(seed);
    run->kind = kind;
    run->fs = simfs_new(seed);
    run->random = (struct random){seed ^ 0xfa017};
    run->until = 50;
    failmem_init(&run->fail);
    if (at > 0) {
        run_arm(run, at, variant);
    }
    while (!run->failed && run->n < run->until) {
        struct pleat_error err = {0};
        int rc = run_act(run, &err);
        if (rc < 0) {
            run_judge(run, rc, &err);
            if (kind == FAULT_QUOTA && !run->failed && run->seen < 30) { /* grown by a little, and full again */
                uint64_t more = random_below(&run->random, 6000);
                int again = run_act(run, &err);
                if (again < 0) {
                    run_complain(run, "with space again: %s", err.message);
                }
                run->armed = true;
                simfs_quota(run->fs, simfs_used_bytes(run->fs) + more);
            }
        }
    }
    for (int i = 0; i < 2 && run->db != NULL && !run->failed; i++) { /* the close may be what fails */
        struct pleat_error err = {0};
        int rc = run_close(run, &err);
        if (rc < 0) {
            run_judge(run, rc, &err);
        }
    }
    run_disarm(run);
    if (!run->failed) {
        struct pleat_error err = {0};
        char text[400];
        int rc = run_open(run, &err);
        rc = rc == 0 ? history_spaces(run->db, run->spaces, &err) : rc;
        if (rc < 0) {
            run_complain(run, "the last open: %s", err.message);
        } else if (!history_compare(&run->history, run->db, run->spaces, NULL, text, sizeof text)) {
            run_complain(run, "%s", text);
        }
    }
    struct pleat_error ignored;
    (void)run_close(run, &ignored);
    if (simfs_sync_retries(run->fs) != 0) {
        run_complain(run, "%" PRIu64 " syncs were asked for again", simfs_sync_retries(run->fs));
    }
    uint64_t calls = kind == FAULT_DISK     ? simfs_calls(run->fs, SIMFS_ANY)
                     : kind == FAULT_MEMORY ? atomic_load(&run->fail.calls)
                                            : 40000;
    simfs_free(run->fs);
    return calls;
}

/* F7 to the letter: a failed write or sync of the log makes the handle read-only with that error, until a reopen. */
static bool sticky_after(unsigned call, bool half) {
    static struct run run;
    struct pleat_error err = {0};
    memset(&run, 0, sizeof run);
    run.history = (struct history){.seed = 3, .updates_max = 3, .value_bytes_max = 40};
    run.options = run_options(1);
    run.options.durability = PLEAT_SYNC_EACH;
    run.options.log_by_write = true;
    run.options.memtable_bytes = 64 << 10;
    run.fs = simfs_new(3);
    failmem_init(&run.fail);
    int rc = run_open(&run, &err);
    rc = rc == 0 ? history_spaces(run.db, run.spaces, &err) : rc;
    rc = rc == 0 ? pleat_batch_new(run.db, &run.batch, &err) : rc;
    rc = rc == 0 ? history_apply(&run.history, 1, run.db, run.spaces, run.batch, false, &err) : rc;
    run.n = run.returned = run.durable = 1;
    run.tried = 2;
    run.doing = "sticky error";
    if (rc == 0) {
        simfs_fault_add(run.fs, (struct simfs_fault){.calls = call, .at = 1, .os_errno = EIO, .half = half});
        rc = history_apply(&run.history, 2, run.db, run.spaces, run.batch, false, &err);
        int health = pleat_health(run.db, NULL);
        if (rc != PLEAT_ERR_IO || health != rc) {
            run_complain(&run, "the commit answered %d, health is %d", rc, health);
        }
        run_check_read_only(&run, health);
        run_check_images(&run, 1);
    } else {
        run_complain(&run, "%s", err.message);
    }
    (void)run_close(&run, &err);
    if (!run.failed && run_open(&run, &err) < 0) {
        run_complain(&run, "reopening: %s", err.message);
    }
    (void)run_close(&run, &err);
    if (simfs_sync_retries(run.fs) != 0) {
        run_complain(&run, "a sync was asked for again");
    }
    simfs_free(run.fs);
    if (run.failed) {
        fprintf(stderr, "FAILED: fault_store (a failing call of kind 0x%x%s): %s\n", call, half ? ", half" : "",
                run.text);
    }
    return !run.failed;
}

struct sweep {
    uint64_t seed;
    uint64_t runs, errors;
    bool verbose;
    bool failed;
};

static bool sweep_one(struct sweep *sweep, enum fault_kind kind, uint64_t at, uint64_t variant) {
    static struct run run;
    (void)run_one(&run, sweep->seed, kind, at, variant, sweep->verbose);
    sweep->runs++;
    sweep->errors += run.seen;
    if (run.failed) {
        fprintf(stderr,
                "FAILED: fault_store --seed 0x%" PRIx64 " --kind %s --at %" PRIu64 " --variant %" PRIu64 ": %s\n",
                sweep->seed, kind_names[kind], at, variant, run.text);
        sweep->failed = true;
    }
    return !run.failed;
}

/* Every N and variant, or as many as fit before the deadline. */
static void sweep_seed(struct sweep *sweep, struct random *random, bool all, uint64_t deadline, bool keep_going) {
    static struct run run;
    for (enum fault_kind kind = 0; kind < FAULT_KINDS; kind++) {
        uint64_t calls = run_one(&run, sweep->seed, kind, 0, 0, false);
        if (run.failed) {
            fprintf(stderr, "FAILED: fault_store --seed 0x%" PRIx64 " --kind %s --at 0 --variant 0: %s\n", sweep->seed,
                    kind_names[kind], run.text);
            sweep->failed = true;
            return;
        }
        if (all) {
            uint64_t stride = kind == FAULT_QUOTA ? 97 : 1;
            for (uint64_t at = 1; at <= calls; at += stride) {
                for (uint64_t variant = 0; variant < variants[kind]; variant++) {
                    if (!sweep_one(sweep, kind, at, variant) && !keep_going) {
                        return;
                    }
                }
            }
        } else {
            for (int i = 0; i < 60 && (uint64_t)time(NULL) < deadline; i++) {
                if (!sweep_one(sweep, kind, 1 + random_below(random, calls), random_below(random, variants[kind])) &&
                    !keep_going) {
                    return;
                }
            }
        }
    }
}

int main(int argc, char **argv) {
    struct random random = random_begin("fault_store");
    struct sweep sweep = {.seed = random_next(&random)};
    uint64_t seconds = 10, at = 0, variant = 0;
    int kind = -1;
    bool all = false, keep_going = false;
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "0";
        if (strcmp(argv[i], "--all") == 0) {
            all = true;
            continue;
        }
        if (strcmp(argv[i], "--keep-going") == 0) {
            keep_going = true;
            continue;
        }
        if (strcmp(argv[i], "--seed") == 0) {
            sweep.seed = strtoull(value, NULL, 0);
        } else if (strcmp(argv[i], "--seconds") == 0) {
            seconds = strtoull(value, NULL, 0);
        } else if (strcmp(argv[i], "--at") == 0) {
            at = strtoull(value, NULL, 0);
        } else if (strcmp(argv[i], "--variant") == 0) {
            variant = strtoull(value, NULL, 0);
        } else if (strcmp(argv[i], "--kind") == 0) {
            for (int k = 0; k < FAULT_KINDS; k++) {
                kind = strcmp(value, kind_names[k]) == 0 ? k : kind;
            }
        } else {
            fprintf(stderr, "unknown argument %s\n", argv[i]);
            return 2;
        }
        i++;
    }
    for (int half = 0; half < 2; half++) {
        sweep.failed = !sticky_after(SIMFS_LOG_PUBLISH, half == 1) || sweep.failed;
        sweep.failed = !sticky_after(SIMFS_LOG_SYNC, half == 1) || sweep.failed;
    }
    if (kind >= 0) {
        sweep.verbose = true;
        (void)sweep_one(&sweep, (enum fault_kind)kind, at, variant % variants[kind]);
    } else {
        uint64_t deadline = (uint64_t)time(NULL) + seconds;
        do {
            sweep_seed(&sweep, &random, all, deadline, keep_going);
            sweep.seed = random_next(&random);
        } while ((!sweep.failed || keep_going) && !all && (uint64_t)time(NULL) < deadline);
    }
    printf("%" PRIu64 " runs, %" PRIu64 " errors: %s\n", sweep.runs, sweep.errors,
           sweep.failed ? "FAILED" : "all right");
    return sweep.failed;
}
