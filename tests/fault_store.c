/*
 * fault_store.c - the whole store when single calls of the disk or the allocator fail, and when the disk is full.
 *
 *     fault_store [--seed S] [--seconds N] [--all [--scenarios K]] [--kind KIND [--at N --variant V]]
 *
 *     KIND   disk      the N-th call of the disk          sync   the N-th sync of a file, a log or the directory
 *            memory    the N-th allocation                quota  the disk is full N bytes from here, again and again
 *            recovery  the N-th call, or allocation, of the open that recovers a crash image
 *
 * A history (history.h) runs in step mode with tiny limits on a simulated disk, with flushes, compactions, syncs,
 * clears and reopens. The N-th call fails, once or for ever, whole or by half. Whoever sees the error checks (F7, F8):
 *
 *   - it has a code and a text, and the operation is wholly in or wholly out;
 *   - once the cause is gone, reads are those of a state of the history;
 *   - a handle that is healthy goes on; one that is not refuses every write with its sticky error, and reads go on;
 *   - after a failed allocation, on a full disk, and after a failed read or open the handle is always healthy; after a
 *     failed sync and a failed write of the log it never is;
 *   - a failed read is an error, and never an absent key or a missing row;
 *   - crash images hold everything that was reported durable, a reopen everything that returned;
 *   - close leaves no handle, no memory, no lock behind, and no sync was asked for twice.
 *
 * By default N is sampled; --all takes every N with every variant, in K scenarios: seeds that follow one another, so
 * that three cover the durability modes and six those with both kinds of log. A failure prints one line that replays
 * it.
 */
#include "base/error.h"
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

enum fault_kind { FAULT_DISK, FAULT_MEMORY, FAULT_QUOTA, FAULT_SYNC, FAULT_RECOVERY, FAULT_KINDS };
static const char *const kind_names[FAULT_KINDS] = {"disk", "memory", "quota", "sync", "recovery"};

static const struct variant {
    int os_errno;
    bool for_ever;
    bool half;
} disk_variants[] = {
    {EIO, false, false},    {EIO, true, false},     {EIO, false, true},    {EIO, true, true},
    {ENOSPC, false, false}, {ENOSPC, true, false},  {ENOSPC, false, true}, {ENOSPC, true, true},
    {EDQUOT, false, true},  {EMFILE, false, false}, {EMFILE, true, false},
};
enum {
    DISK_VARIANTS = sizeof disk_variants / sizeof disk_variants[0],
    MEMORY_VARIANTS = 2, /* once and for ever */
    SYNC_VARIANTS = 2,   /* whole and half */
    RECOVERY_VARIANTS = SIMFS_MODELS * (DISK_VARIANTS + MEMORY_VARIANTS),
};
static const uint64_t variants[FAULT_KINDS] = {DISK_VARIANTS, MEMORY_VARIANTS, 1, SYNC_VARIANTS, RECOVERY_VARIANTS};
#define SYNC_CALLS (SIMFS_FILE_SYNC | SIMFS_DIR_SYNC | SIMFS_LOG_SYNC)

struct run {
    struct history history;
    struct pleat_options options;
    enum fault_kind kind;
    struct variant variant; /* of a fault of the disk */
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
        .table_files_max = 1 + (uint32_t)(seed % 4),
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

static int run_count_row(void *context, const struct pleat_row *row) {
    (void)row;
    ++*(size_t *)context;
    return 0;
}

/* Every key of a space, and a scan of it: 0 or an error, never a wrong answer. */
static int run_read(struct run *run, struct pleat_error *err) {
    static uint8_t expected[4096];
    struct history_state state;
    size_t space = (size_t)random_below(&run->random, HISTORY_SPACES), present = 0, rows = 0;
    run->doing = "read";
    history_state_at(&run->history, run->n, &state);
    for (size_t key = 0; key < HISTORY_KEYS; key++) {
        struct pleat_value value;
        uint64_t put_by = state.put_by[space][key];
        int rc = pleat_get(run->spaces[space], NULL, history_key(key), &value, err);
        if (rc < 0) {
            return rc;
        }
        bool right = rc == (put_by != 0 ? 0 : PLEAT_ABSENT);
        if (rc == 0) {
            size_t bytes = history_value(&run->history, put_by, space, key, expected);
            right = right && value.bytes == bytes && (bytes == 0 || memcmp(value.data, expected, bytes) == 0);
            pleat_value_release(&value);
        }
        if (!right) {
            run_complain(run, "key %zu of space %zu answers %d, put by %" PRIu64, key, space, rc, put_by);
        }
        present += put_by != 0;
    }
    int rc = pleat_scan(run->spaces[space], NULL, run_count_row, &rows, err);
    if (rc == 0 && rows != present) {
        run_complain(run, "a scan of space %zu has %zu rows, expected %zu", space, rows, present);
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
    uint64_t draw = random_below(&run->random, 36);
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
    } else if (draw < 35) {
        rc = run_read(run, err);
    } else {
        return run_close(run, err);
    }
    run_note_durable(run);
    return rc < 0 ? rc : 0;
}

/* Whether every model of a crash is looked at, or two of them at random. */
static bool every_model;

static void run_check_image(struct run *run, enum simfs_model model, uint64_t seed, uint64_t floor) {
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

/* Any crash from here keeps at least what was reported durable, a killed process all that returned, and none more than
 * what was asked for. */
static void run_check_images(struct run *run, uint64_t floor) {
    uint64_t seed = random_next(&run->random);
    for (unsigned model = 0; model < SIMFS_MODELS && !run->failed; model++) {
        if (every_model || seed % SIMFS_MODELS == model || seed / SIMFS_MODELS % SIMFS_MODELS == model) {
            bool kill = model == SIMFS_KILL && run->returned > floor;
            run_check_image(run, (enum simfs_model)model, seed + model, kill ? run->returned : floor);
        }
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

/* F7: whether a fault of that kind of call (0: none of the disk's) may, must, or must not make the handle read-only. */
static void run_judge_health(struct run *run, unsigned struck, int health, const struct pleat_error *err) {
    static const unsigned writes = SIMFS_FILE_WRITE | SIMFS_LOG_PUBLISH | SIMFS_DIR_RENAME | SYNC_CALLS;
    bool full = run->variant.os_errno == ENOSPC || run->variant.os_errno == EDQUOT;
    bool may = struck != 0;
    bool must = false;
    if (struck != 0 && !run->variant.for_ever) { /* else earlier calls were struck, too */
        may = (struck & writes) != 0 && (!full || (struck & SYNC_CALLS) != 0);
        must = !full && (struck & SYNC_CALLS) != 0;
    }
    if (health < 0 && !may) {
        run_complain(run, "the handle is read-only after: %s", err->message);
    }
    if (must && health != err->code) {
        run_complain(run, "health is %d after: %s", health, err->message);
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
    unsigned struck = run->kind == FAULT_DISK || run->kind == FAULT_SYNC ? simfs_fault_struck(run->fs) : 0;
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
    run_judge_health(run, struck, health, err);
    if (health < 0 && !run->failed) {
        struct pleat_error ignored;
        run_check_read_only(run, health);
        (void)run_close(run, &ignored); /* says the sticky error again */
        run_check_images(run, run->durable);
    }
}

static void run_arm(struct run *run, uint64_t at, uint64_t variant) {
    run->armed = true;
    if (run->kind == FAULT_DISK || run->kind == FAULT_SYNC) {
        bool sync = run->kind == FAULT_SYNC;
        run->variant = sync ? (struct variant){EIO, false, variant == 1} : disk_variants[variant];
        simfs_fault_add(run->fs, (struct simfs_fault){.calls = sync ? SYNC_CALLS : SIMFS_ANY,
                                                      .at = at,
                                                      .os_errno = run->variant.os_errno,
                                                      .for_ever = run->variant.for_ever,
                                                      .half = run->variant.half});
    } else if (run->kind == FAULT_MEMORY) {
        run->fail.fail_at = atomic_load(&run->fail.calls) + at;
        run->fail.fail_for_ever = variant == 1;
    } else {
        simfs_quota(run->fs, simfs_used_bytes(run->fs) + at);
    }
}

static void run_init(struct run *run, uint64_t seed, enum fault_kind kind, bool verbose) {
    memset(run, 0, sizeof *run);
    run->verbose = verbose;
    run->history = (struct history){.seed = seed, .updates_max = 5, .value_bytes_max = 90, .clears = true};
    run->options = run_options(seed);
    run->kind = kind;
    run->fs = simfs_new(seed);
    simfs_reserves(run->fs, seed / 6 % 2 == 0 || kind == FAULT_MEMORY);
    run->random = (struct random){seed ^ 0xfa017};
    run->until = 50;
    failmem_init(&run->fail);
}

/* Runs the history with one fault. at 0: none. Returns how many calls a run without a fault makes. */
static uint64_t run_one(struct run *run, uint64_t seed, enum fault_kind kind, uint64_t at, uint64_t variant,
                        bool verbose) {
    run_init(run, seed, kind, verbose);
    if (at > 0) {
        run_arm(run, at, variant);
    }
    while (!run->failed && run->n < run->until) {
        struct pleat_error err = {0};
        int rc = run_act(run, &err);
        if (rc == 0 && at > 0 && run->db != NULL && random_below(&run->random, 16) == 0) {
            run_check_images(run, run->durable); /* also long after a fault that the handle came through */
        }
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
                     : kind == FAULT_SYNC   ? simfs_calls(run->fs, SYNC_CALLS)
                     : kind == FAULT_MEMORY ? atomic_load(&run->fail.calls)
                                            : 40000;
    simfs_free(run->fs);
    return calls;
}

/* ---- failures of a recovery ------------------------------------------------------------------------------------- */

/* What a crash left, and what an open without a fault makes of it. */
struct wreck {
    struct simfs *fs;
    uint64_t durable;  /* survives a second crash, whatever the first open did */
    uint64_t expected; /* the sequence that an open shows */
};

/* Runs the history for a while, crashes it, and leaves `run` with the wreck for a disk. Returns how many calls of the
 * disk (memory: allocations) an open takes. */
static uint64_t recovery_begin(struct run *run, uint64_t seed, enum simfs_model model, bool memory,
                               struct wreck *ret_wreck) {
    struct pleat_error err = {0};
    run_init(run, seed, FAULT_RECOVERY, false);
    uint64_t actions = 4 + random_below(&run->random, 160);
    for (uint64_t i = 0; i < actions && !run->failed; i++) {
        if (run_act(run, &err) < 0) {
            run_complain(run, "an error that nothing caused: %s", err.message);
        }
    }
    ret_wreck->fs = simfs_crash(run->fs, model, random_next(&run->random));
    ret_wreck->durable = run->durable;
    uint64_t floor = model == SIMFS_KILL ? run->returned : run->durable;
    (void)run_close(run, &err);
    simfs_free(run->fs);
    run->fs = simfs_clone(ret_wreck->fs);
    failmem_init(&run->fail);
    run->returned = floor;
    if (!run->failed && run_open(run, &err) < 0) {
        run_complain(run, "the open without a fault: %s", err.message);
    }
    ret_wreck->expected = run->n;
    uint64_t calls = memory ? atomic_load(&run->fail.calls) : simfs_calls(run->fs, SIMFS_ANY);
    (void)run_close(run, &err);
    simfs_free(run->fs);
    run->fs = ret_wreck->fs;
    failmem_init(&run->fail);
    return calls;
}

/* The N-th call of the open that recovers fails. The next one shows everything, also behind one more crash. */
static uint64_t recovery_one(struct run *run, uint64_t seed, uint64_t at, uint64_t variant, bool verbose) {
    struct wreck wreck;
    struct pleat_error err = {0};
    char text[400];
    enum simfs_model model = (enum simfs_model)(variant % SIMFS_MODELS);
    uint64_t fault = variant / SIMFS_MODELS;
    bool memory = fault >= DISK_VARIANTS;
    uint64_t calls = recovery_begin(run, seed, model, memory, &wreck);
    run->verbose = verbose;
    run->kind = memory ? FAULT_MEMORY : FAULT_DISK;
    if (at > 0 && !run->failed) {
        run_arm(run, at, memory ? fault - DISK_VARIANTS : fault);
        run->returned = run->tried = wreck.expected;
        run->durable = model == SIMFS_KILL ? wreck.durable : wreck.expected;
        uint64_t durable = run->durable;
        int rc = run_open(run, &err);
        run->durable = durable;
        if (rc < 0) {
            run_judge(run, rc, &err);
        } else {
            run_disarm(run);
            run_note_durable(run);
            run_check_images(run, run->durable); /* F11 */
            if (pleat_sync(run->db, &err) < 0) {
                run_complain(run, "the sync after it: %s", err.message);
            }
            run_note_durable(run);
            if (run->durable != wreck.expected) {
                run_complain(run, "synced up to %" PRIu64 ", expected %" PRIu64, run->durable, wreck.expected);
            }
            run_check_images(run, wreck.expected);
            (void)run_close(run, &err);
        }
    }
    for (int life = 0; life < 2 && !run->failed; life++) {
        run->returned = run->tried = wreck.expected + (uint64_t)life;
        int rc = run_open(run, &err);
        rc = rc == 0 ? history_spaces(run->db, run->spaces, &err) : rc;
        rc = rc == 0 ? pleat_batch_new(run->db, &run->batch, &err) : rc;
        if (rc < 0) {
            run_complain(run, "the open after it: %s", err.message);
        } else if (!history_compare(&run->history, run->db, run->spaces, NULL, text, sizeof text)) {
            run_complain(run, "%s", text);
        } else if (history_apply(&run->history, run->n + 1, run->db, run->spaces, run->batch, false, &err) < 0) {
            run_complain(run, "the commit after it: %s", err.message);
        }
        run->n++;
        (void)run_close(run, &err);
    }
    if (simfs_sync_retries(run->fs) != 0) {
        run_complain(run, "%" PRIu64 " syncs were asked for again", simfs_sync_retries(run->fs));
    }
    simfs_free(run->fs);
    return calls;
}

static uint64_t run_any(struct run *run, uint64_t seed, enum fault_kind kind, uint64_t at, uint64_t variant,
                        bool verbose) {
    return kind == FAULT_RECOVERY ? recovery_one(run, seed, at, variant, verbose)
                                  : run_one(run, seed, kind, at, variant, verbose);
}

/* ---- single cases ------------------------------------------------------------------------------------------------ */

/* F7 to the letter: a failed write or sync of the log makes the handle read-only with that error, until a reopen. */
static bool sticky_after(unsigned call, bool half) {
    static struct run run;
    struct pleat_error err = {0};
    run_init(&run, 3, FAULT_DISK, false);
    run.options.durability = PLEAT_SYNC_EACH;
    run.options.log_by_write = true;
    run.options.memtable_bytes = 64 << 10;
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

/* F7 where a log is not reserved: a commit that finds the disk full is out, whatever of it was written, and the next
 * one takes its sequence. The values are zeros, so that a record of which only the front was written looks whole when a
 * power failure brings that front back. */
static bool full_log(void) {
    static struct run run;
    static const uint8_t zeros[3000];
    bool failed = false;
    for (uint64_t room = 0; room < 3000 && !failed; room += 40) {
        struct pleat_error err = {0};
        run_init(&run, 3, FAULT_QUOTA, false);
        run.options.durability = room / 40 % 2 == 0 ? PLEAT_SYNC_NONE : PLEAT_SYNC_EACH;
        run.options.memtable_bytes = 64 << 10;
        simfs_reserves(run.fs, false);
        int rc = run_open(&run, &err);
        rc = rc == 0 ? history_spaces(run.db, run.spaces, &err) : rc;
        rc = rc == 0 ? pleat_batch_new(run.db, &run.batch, &err) : rc;
        rc = rc == 0 ? history_apply(&run.history, 1, run.db, run.spaces, run.batch, true, &err) : rc;
        run.doing = "a commit on a full disk";
        run.n = run.returned = run.tried = run.durable = 1;
        if (rc < 0) {
            run_complain(&run, "%s", err.message);
        }
        for (int attempt = 0; attempt < 2 && !run.failed; attempt++) { /* full, and still full */
            simfs_quota(run.fs, simfs_used_bytes(run.fs) + room);
            pleat_batch_clear(run.batch);
            rc = pleat_batch_put(run.batch, run.spaces[0], history_key(0), (struct pleat_slice){zeros, sizeof zeros},
                                 &err);
            rc = rc == 0 ? pleat_commit(run.db, run.batch, NULL, NULL, &err) : rc;
            if (rc != PLEAT_ERR_NO_SPACE || pleat_health(run.db, NULL) != 0) {
                run_complain(&run, "answered %d, health is %d", rc, pleat_health(run.db, NULL));
            }
            run_check_images(&run, 1);
        }
        simfs_quota(run.fs, UINT64_MAX);
        for (run.tried = 2; run.tried <= 4 && !run.failed; run.tried++) {
            if (history_apply(&run.history, run.tried, run.db, run.spaces, run.batch, false, &err) < 0) {
                run_complain(&run, "with space again: %s", err.message);
            }
            run_check_images(&run, run.options.durability == PLEAT_SYNC_EACH ? run.tried : 1);
        }
        (void)run_close(&run, &err);
        if (!run.failed && run_open(&run, &err) < 0) {
            run_complain(&run, "reopening: %s", err.message);
        }
        (void)run_close(&run, &err);
        simfs_free(run.fs);
        if (run.failed) {
            fprintf(stderr, "FAILED: fault_store (a full log, room for %" PRIu64 " bytes): %s\n", room, run.text);
        }
        failed = run.failed;
    }
    return !failed;
}

/* A disk on which making a log fails behind `liar.written` bytes of its header, and nothing can be removed. */
static struct {
    const struct vfs *real;
    size_t written;
    bool lies;
} liar;

static int liar_publish(struct vfs_log *log, uint64_t offset, size_t n, struct pleat_error *err) {
    if (!liar.lies || offset != 0) {
        return liar.real->log_publish(log, offset, n, err);
    }
    int rc = liar.written > 0 ? liar.real->log_publish(log, 0, liar.written, err) : 0;
    return rc == 0 ? error_system(err, EIO, "publish", "the header of a log") : rc;
}

static int liar_unlink(struct vfs_dir *dir, const char *name, struct pleat_error *err) {
    return liar.lies ? error_system(err, EIO, "unlink", name) : liar.real->dir_unlink(dir, name, err);
}

static void leftover_run(struct run *run, const struct vfs *vfs) {
    struct pleat_error err = {0};
    int rc = db_open_with("store", &run->options, vfs, &run->fail.mem, &run->db, &err);
    rc = rc == 0 ? history_spaces(run->db, run->spaces, &err) : rc;
    rc = rc == 0 ? pleat_batch_new(run->db, &run->batch, &err) : rc;
    for (int refused = 0; run->n < 60 && rc == 0 && !run->failed;) {
        run->tried = run->n + 1;
        int answer = history_apply(&run->history, run->tried, run->db, run->spaces, run->batch, false, &err);
        if (answer == 0) {
            run->n = run->returned = run->tried;
            liar.lies = liar.lies || run->n == 20;
        } else if (!liar.lies || pleat_health(run->db, NULL) < 0) {
            rc = answer;
        } else if (++refused == 3) { /* the cause is gone, what it left is not */
            liar.lies = false;
        }
        memset(&err, 0, answer < 0 && rc == 0 ? sizeof err : 0);
        run->durable = 0;
        pleat_position_read(run->db, PLEAT_DURABLE, NULL, &run->durable);
        run_check_images(run, run->durable);
        if (run->n == 60 && refused < 3) {
            run_complain(run, "no log was made");
        }
    }
    if (rc < 0) {
        run_complain(run, "%s", err.message);
    }
    (void)run_close(run, &err);
}

/* A log segment that could not be made and could not be removed: what comes behind it is not cut off by it. */
static bool leftover_segment(void) {
    static struct run run;
    static const size_t written[] = {0, 64, WAL_HEADER_BYTES};
    bool failed = false;
    for (size_t i = 0; i < 9 && !failed; i++) {
        run_init(&run, 5 + i, FAULT_DISK, false);
        simfs_reserves(run.fs, true);
        run.options.log_by_write = true;
        run.options.memtable_bytes = 1024;
        run.doing = "behind a segment that could not be made";
        struct vfs vfs = *simfs_vfs(run.fs);
        liar.real = simfs_vfs(run.fs);
        liar.written = written[i % 3];
        liar.lies = false;
        vfs.log_publish = liar_publish;
        vfs.dir_unlink = liar_unlink;
        leftover_run(&run, &vfs);
        if (!run.failed) {
            struct pleat_error err = {0};
            if (run_open(&run, &err) < 0) {
                run_complain(&run, "%s", err.message);
            }
            (void)run_close(&run, &err);
        }
        simfs_free(run.fs);
        if (run.failed) {
            fprintf(stderr, "FAILED: fault_store (%zu bytes of a header): %s\n", liar.written, run.text);
        }
        failed = run.failed;
    }
    return !failed;
}

/* ---- all of them ------------------------------------------------------------------------------------------------- */

/* What the command line asks for. */
struct plan {
    uint64_t seed, seconds, deadline, scenarios;
    uint64_t at, variant; /* of one run */
    int kind;             /* -1: all */
    bool all;
    bool keep_going;
};

struct sweep {
    uint64_t seed;
    uint64_t runs, errors;
    bool verbose;
    bool failed;
};

static bool sweep_one(struct sweep *sweep, enum fault_kind kind, uint64_t at, uint64_t variant) {
    static struct run run;
    (void)run_any(&run, sweep->seed, kind, at, variant, sweep->verbose);
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

/* How many calls there are to fail; 0 when the run without a fault failed. */
static uint64_t sweep_calls(struct sweep *sweep, enum fault_kind kind, uint64_t variant) {
    static struct run run;
    uint64_t calls = run_any(&run, sweep->seed, kind, 0, variant, false);
    if (run.failed) {
        fprintf(stderr, "FAILED: fault_store --seed 0x%" PRIx64 " --kind %s --at 0 --variant %" PRIu64 ": %s\n",
                sweep->seed, kind_names[kind], variant, run.text);
        sweep->failed = true;
        return 0;
    }
    return calls;
}

/* Every N and variant of one kind. */
static void sweep_kind(struct sweep *sweep, enum fault_kind kind, const struct plan *plan) {
    uint64_t stride = kind == FAULT_QUOTA ? 97 : 1, runs = sweep->runs, calls = 0;
    for (uint64_t variant = 0; variant < variants[kind]; variant++) {
        if (variant == 0 || kind == FAULT_RECOVERY) { /* every model is another wreck */
            calls = sweep_calls(sweep, kind, variant);
        }
        for (uint64_t at = 1; at <= calls; at += stride) {
            if (!sweep_one(sweep, kind, at, variant) && !plan->keep_going) {
                return;
            }
        }
    }
    printf("seed 0x%" PRIx64 ": %s, %" PRIu64 " runs\n", sweep->seed, kind_names[kind], sweep->runs - runs);
    (void)fflush(stdout);
}

/* Some N of every kind in turn, until the time is up. */
static void sweep_sample(struct sweep *sweep, struct random *random, const struct plan *plan) {
    uint64_t calls[FAULT_KINDS] = {0};
    for (int i = 0; i < 30; i++) {
        for (enum fault_kind kind = 0; kind < FAULT_KINDS; kind++) {
            if (plan->kind >= 0 && plan->kind != (int)kind) {
                continue;
            }
            calls[kind] = i == 0 ? sweep_calls(sweep, kind, 0) : calls[kind];
            if (calls[kind] == 0 || (i > 0 && (uint64_t)time(NULL) >= plan->deadline)) {
                return;
            }
            uint64_t at = 1 + random_below(random, calls[kind]);
            if (!sweep_one(sweep, kind, at, random_below(random, variants[kind])) && !plan->keep_going) {
                return;
            }
        }
    }
}

/* The scenarios one after the other (--all), or seeds until the time is up. */
static void sweep_plan(struct sweep *sweep, struct random *random, const struct plan *plan) {
    uint64_t first = sweep->seed;
    for (uint64_t i = 0; plan->all ? i < plan->scenarios : i == 0 || (uint64_t)time(NULL) < plan->deadline; i++) {
        sweep->seed = plan->all ? first + i : i == 0 ? first : random_next(random);
        for (enum fault_kind kind = 0; plan->all && kind < FAULT_KINDS; kind++) {
            if (plan->kind < 0 || plan->kind == (int)kind) {
                sweep_kind(sweep, kind, plan);
            }
            if (sweep->failed && !plan->keep_going) {
                return;
            }
        }
        if (!plan->all) {
            sweep_sample(sweep, random, plan);
        }
        if (sweep->failed && !plan->keep_going) {
            return;
        }
    }
}

/* Numbers behind their option; false with the option in *ret_bad. */
static bool plan_read(int argc, char **argv, struct plan *plan, const char **ret_bad) {
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "0";
        struct {
            const char *name;
            uint64_t *number;
        } numbers[] = {{"--seed", &plan->seed},
                       {"--seconds", &plan->seconds},
                       {"--at", &plan->at},
                       {"--variant", &plan->variant},
                       {"--scenarios", &plan->scenarios}};
        bool known = strcmp(argv[i], "--all") == 0 || strcmp(argv[i], "--keep-going") == 0;
        plan->all = plan->all || strcmp(argv[i], "--all") == 0;
        plan->keep_going = plan->keep_going || strcmp(argv[i], "--keep-going") == 0;
        if (known) {
            continue;
        }
        for (size_t k = 0; k < sizeof numbers / sizeof numbers[0]; k++) {
            if (strcmp(argv[i], numbers[k].name) == 0) {
                *numbers[k].number = strtoull(value, NULL, 0);
                known = true;
            }
        }
        for (int k = 0; k < FAULT_KINDS && strcmp(argv[i], "--kind") == 0; k++) {
            plan->kind = strcmp(value, kind_names[k]) == 0 ? k : plan->kind;
            known = plan->kind >= 0;
        }
        if (!known) {
            *ret_bad = argv[i];
            return false;
        }
        i++;
    }
    return true;
}

int main(int argc, char **argv) {
    struct random random = random_begin("fault_store");
    struct plan plan = {.seed = random_next(&random), .seconds = 10, .scenarios = 3, .kind = -1};
    const char *bad;
    if (!plan_read(argc, argv, &plan, &bad)) {
        fprintf(stderr, "unknown argument %s\n", bad);
        return 2;
    }
    struct sweep sweep = {.seed = plan.seed};
    for (int half = 0; half < 2; half++) {
        sweep.failed = !sticky_after(SIMFS_LOG_PUBLISH, half == 1) || sweep.failed;
        sweep.failed = !sticky_after(SIMFS_LOG_SYNC, half == 1) || sweep.failed;
    }
    sweep.failed = !full_log() || sweep.failed;
    sweep.failed = !leftover_segment() || sweep.failed;
    if (plan.at > 0 && plan.kind >= 0) {
        sweep.verbose = every_model = true;
        (void)sweep_one(&sweep, (enum fault_kind)plan.kind, plan.at, plan.variant % variants[plan.kind]);
    } else {
        every_model = plan.all;
        plan.deadline = (uint64_t)time(NULL) + plan.seconds;
        sweep_plan(&sweep, &random, &plan);
    }
    printf("%" PRIu64 " runs, %" PRIu64 " errors: %s\n", sweep.runs, sweep.errors,
           sweep.failed ? "FAILED" : "all right");
    return sweep.failed;
}
