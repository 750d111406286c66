/*
 * stress.h - what the programs of this folder share: arguments, a directory, failing loudly, threads that are told to
 * stop. A failure prints one line with the command that runs the same seed again; the timing it cannot repeat.
 *
 *     name [--seconds N] [--seed S] [--shake N]        also: name [seconds]
 */
#ifndef PLEAT_TESTS_STRESS_H
#define PLEAT_TESTS_STRESS_H

#include "pleat/pleat.h"
#include "platform/thread.h"
#include "support/random.h"
#include "support/shake.h"

#include <ftw.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct stress_run {
    const char *name;
    double seconds;
    uint64_t seed;
    uint32_t shake;    /* of 1,024 places of the library's seams */
    char path[256];    /* a directory of its own */
    _Atomic bool stop; /* relaxed everywhere: a request, which orders nothing */
};

static struct stress_run stress_run;

static inline void stress_fail(const char *what, int rc, const struct pleat_error *err) {
    fprintf(stderr, "FAILED: %s --seed 0x%" PRIx64 " --seconds %g --shake %u: %s: %s %s (store: %s)\n", stress_run.name,
            stress_run.seed, stress_run.seconds, stress_run.shake, what, rc != 0 ? pleat_status_name(rc) : "",
            err != NULL ? err->message : "", stress_run.path);
    abort();
}

/* The call answers `status`; a `struct pleat_error err` is in scope. */
#define ANSWERS(status, call)                                                                                          \
    do {                                                                                                               \
        int answers_rc = (call);                                                                                       \
        if (answers_rc != (status)) {                                                                                  \
            stress_fail(#call, answers_rc, &err);                                                                      \
        }                                                                                                              \
    } while (0)
#define MUST(call) ANSWERS(0, call)
#define EXPECT(condition, what)                                                                                        \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            stress_fail(what, 0, NULL);                                                                                \
        }                                                                                                              \
    } while (0)

static inline bool stress_stopping(void) {
    return atomic_load_explicit(&stress_run.stop, memory_order_relaxed);
}

static inline uint64_t stress_now_ns(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* A generator for a thread or a part of the run: the same for the same seed. */
static inline struct random stress_random(uint64_t part) {
    struct random random = {stress_run.seed ^ part * 0xd6e8feb86659fd93ull};
    (void)random_next(&random);
    return random;
}

static inline int stress_remove_one(const char *path, const struct stat *found, int kind, struct FTW *walk) {
    (void)found;
    (void)walk;
    return kind == FTW_DP ? rmdir(path) : unlink(path);
}

static inline void stress_remove(const char *path) {
    (void)nftw(path, stress_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* Reads the arguments, makes the directory and starts to shake. */
static inline void stress_begin(const char *name, double seconds, int argc, char **argv) {
    struct random fresh = {0};
    stress_run.name = name;
    stress_run.seconds = seconds;
    stress_run.shake = 40;
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--seconds") == 0) {
            stress_run.seconds = strtod(value, NULL);
            i++;
        } else if (strcmp(argv[i], "--seed") == 0) {
            stress_run.seed = strtoull(value, NULL, 0);
            i++;
        } else if (strcmp(argv[i], "--shake") == 0) {
            stress_run.shake = (uint32_t)strtoul(value, NULL, 0);
            i++;
        } else if (argv[i][0] >= '0' && argv[i][0] <= '9') {
            stress_run.seconds = strtod(argv[i], NULL);
        } else {
            fprintf(stderr, "usage: %s [--seconds N] [--seed S] [--shake N]\n", name);
            exit(2);
        }
    }
    if (stress_run.seed == 0) {
        fresh = random_begin(name);
        stress_run.seed = random_next(&fresh);
    }
    const char *base = getenv("TMPDIR");
    (void)snprintf(stress_run.path, sizeof stress_run.path, "%s/pleat-%s-XXXXXX", base != NULL ? base : "/tmp", name);
    if (mkdtemp(stress_run.path) == NULL) {
        fprintf(stderr, "%s: no directory %s\n", name, stress_run.path);
        exit(2);
    }
    shake_start(stress_run.seed, stress_run.shake);
}

/* A right end: the directory goes. After a failure it stays, to be looked at. */
static inline void stress_end(void) {
    stress_remove(stress_run.path);
}

static inline void stress_start(struct thread *thread, void *(*run)(void *context), void *context) {
    if (thread_start(thread, "stress", run, context) != 0) {
        fprintf(stderr, "%s: no thread\n", stress_run.name);
        exit(2);
    }
}

#endif
