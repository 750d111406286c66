/*
 * scheduler.h - background threads that ask a client for work, or none at all.
 *
 * The scheduler knows no store: each worker calls client->run, which picks the most urgent job that nobody has taken,
 * runs it and returns; when there is none it sleeps until it is woken. Without threads the same run function is called
 * by scheduler_step, one job a call, in the caller's thread: the deterministic mode of the tests.
 *
 *   J1  run is called concurrently by as many threads as there are workers; choosing is the client's to serialise.
 *   J2  A wake between a worker's last look and its sleep is not lost.
 *   J3  scheduler_stop returns when no worker is inside run any more.
 */
#ifndef PLEAT_COMPACTION_SCHEDULER_H
#define PLEAT_COMPACTION_SCHEDULER_H

#include "base/mem.h"
#include "pleat/pleat.h"

#include <stdint.h>

struct scheduler;

struct scheduler_client {
    /* Runs one job. 0: did something; PLEAT_END: nothing to do now. `worker`: 0 .. threads - 1. */
    int (*run)(void *context, unsigned worker);
    void *context;
    /* A worker that found nothing looks again after this long at the latest; 0: only when woken. */
    uint64_t poll_ns;
};

/* threads 0: no workers, see scheduler_step. Workers start at once, and find *ret_scheduler set. */
int scheduler_new(const struct mem *mem, unsigned threads, const struct scheduler_client *client,
                  struct scheduler **ret_scheduler, struct pleat_error *err);
/* Workers finish the job that they are in and end. Idempotent. */
void scheduler_stop(struct scheduler *scheduler);
/* Stops first. NULL is allowed. */
void scheduler_free(struct scheduler *scheduler);
/* There may be work. Any thread, also with locks of lower rank held. */
void scheduler_wake(struct scheduler *scheduler);
/* Runs one job in the calling thread. Returns what run returned. */
int scheduler_step(struct scheduler *scheduler);
unsigned scheduler_threads(const struct scheduler *scheduler);
/* Workers inside run now. */
unsigned scheduler_busy(struct scheduler *scheduler);

#endif
