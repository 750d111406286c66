/*
 * bench.h - what the stages of the driver share: one run of one engine.
 *
 *      course   a sequence of stages over one store, in a directory of its own
 *      stage    a function that runs in a child process, opens the store, works, measures, checks, and closes it
 *      figure   what a stage measured: engine, course, stage, name, unit, value; one line of JSON
 *
 * A stage has a process of its own so that its memory and its counters are its own, and that a store is always opened
 * as its user would find it. What must outlive it (the model, the cursor) is in shared memory.
 *
 * Threads: a bench belongs to the main thread of a stage; other threads use sessions of their own.
 */
#ifndef PLEAT_BENCH_BENCH_H
#define PLEAT_BENCH_BENCH_H

#include "load.h"
#include "measure.h"

#include <pthread.h>
#include <stdatomic.h>

struct bench_shared {
    _Atomic uint64_t cursor; /* number of the last batch that was applied; the cursor is its 8 bytes */
    _Atomic bool failed;     /* a stage that was to die has reported first */
    uint64_t bytes_given;    /* keys and values of the fold, for figures per byte */
};

struct bench {
    /* frozen: from the command line and the course */
    const char *engine_name;
    const char *module;
    const char *library;
    const char *dir;
    FILE *json; /* NULL: figures are printed for people */
    uint64_t keys;
    uint64_t cache_bytes;
    uint64_t cache_small_bytes;
    uint64_t memtable_bytes;
    double seconds; /* of parts that run for a time */
    enum durability durability;
    const char *course;
    struct load load;
    struct load_order order;
    uint64_t batch;
    bool reads_are_short; /* the course measures few kinds of reads */
    struct bench_shared *shared;

    /* of the stage */
    const char *stage;
    const struct engine *engine;
    struct engine_store *store;
    struct engine_session *session; /* of the main thread */
    struct engine_echo echo;        /* of that session */
    struct timeline timeline;
    uint8_t echo_key[LOAD_KEY_BYTES_MAX];
    uint8_t echo_value[LOAD_VALUE_BYTES_MAX + 8];
    uint8_t echo_cursor[8];
    uint64_t random;
    pthread_t syncer;
    pthread_mutex_t syncer_mu;
    bool syncer_runs;
    _Atomic bool syncer_stop;
};

/* ---- bench.c ---------------------------------------------------------------------------------------------------- */

typedef void bench_stage(struct bench *bench);

/* Runs the stage in a child and waits for it; anything but success ends the program. dies: it must end by SIGKILL. */
void bench_run(struct bench *bench, const char *name, bench_stage *stage, bool dies);
/* Opens store and session; the syncer starts where the mode needs it. */
void bench_open(struct bench *bench, uint64_t cache_bytes);
void bench_close(struct bench *bench);
/* Settled, with the syncer out of the way. */
void bench_settle(struct bench *bench);
void bench_figure(const struct bench *bench, const char *name, const char *unit, double value);
/* p50, p99, p99.9 and max as "<name>_p50" ... */
void bench_latencies(const struct bench *bench, const char *name, const struct histogram *histogram);
void bench_timeline(const struct bench *bench, const char *name, const struct timeline *timeline);
void bench_text(const struct bench *bench, const char *name, const char *text);
/* A wrong answer: says what, and ends the run. */
__attribute__((format(printf, 2, 3), noreturn)) void bench_wrong(const struct bench *bench, const char *format, ...);
bool bench_is_empty(const struct bench *bench);

/* ---- writer.c --------------------------------------------------------------------------------------------------- */

/* Collects a batch and applies it, with its cursor, under a clock. */
struct writer {
    struct bench *bench;
    struct engine_session *session;
    size_t count;
    size_t capacity;
    struct engine_update *updates;
    uint64_t *numbers;
    uint8_t *generations;
    uint8_t *keys;
    uint8_t *values;
    uint64_t updates_total;
    uint64_t bytes_total; /* of keys and values */
    struct histogram *latencies;
    struct timeline *timeline; /* may be NULL */
};

void writer_init(struct writer *writer, struct bench *bench, struct engine_session *session, size_t batch);
void writer_fini(struct writer *writer);
/* Each applies the batch when it is full. put gives the key its next generation. */
void writer_put(struct writer *writer, uint64_t number);
void writer_delete(struct writer *writer, uint64_t number);
void writer_flush(struct writer *writer);

/* ---- the checks: check.c ------------------------------------------------------------------------------------------
 */

/* Sets the echo, reads the key and compares the answer with the model. */
void check_get(struct bench *bench, uint64_t number);
/* The rows of [first, first + count) that the model holds, as a chain, and how many they are. */
uint64_t check_expected(const struct bench *bench, uint64_t first, uint64_t count, bool reverse, uint64_t *ret_rows);
/* Every key and value in order, in the given direction; returns the rows. *ret_ns: thread CPU of the scan. */
uint64_t check_full_scan(struct bench *bench, bool reverse, uint64_t *ret_ns);
/* The stored cursor is that of the last batch. */
void check_cursor(struct bench *bench);

struct check_chain {
    uint64_t chain;
    uint64_t rows;
};
/* engine_row: adds the row to a struct check_chain. */
bool check_row(void *context, struct slice key, struct slice value);
/* Reads a group and compares it with its chain. */
void check_group(struct bench *bench, uint64_t group, uint64_t rows, uint64_t chain);

/* ---- stages ----------------------------------------------------------------------------------------------------- */

bench_stage stage_fold, stage_read, stage_read_small, stage_update, stage_overwrite, stage_mixed, stage_churn,
    stage_kill, stage_reopen, stage_durable, stage_ycsb_load, stage_ycsb;

#endif
