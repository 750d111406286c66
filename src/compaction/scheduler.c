/*
 * scheduler.c - see scheduler.h.
 *
 *     worker:  look = wakes; run; found nothing and wakes is still look -> sleep; else look again
 *     wake:    wakes++, broadcast
 *
 * A wake that comes while a worker is looking changes the count that the worker remembered, so it looks once more
 * instead of sleeping (J2). Everything is under one mutex, which is never held while run is called.
 */
#include "compaction/scheduler.h"

#include "base/assert.h"
#include "base/error.h"
#include "platform/thread.h"

#include <stdbool.h>
#include <stdio.h>

struct worker {
    struct scheduler *scheduler;
    struct thread thread;
    unsigned index;
};

struct scheduler {
    const struct mem *mem;          /* frozen */
    struct scheduler_client client; /* frozen */
    unsigned threads;               /* frozen; workers asked for */
    struct mutex mutex;
    struct condition work;  /* something may be to do, or stopping */
    struct condition ended; /* the last worker has left, or all are joined */
    /* guarded by mutex */
    uint64_t wakes;
    unsigned busy;
    unsigned started; /* threads to join */
    unsigned alive;   /* workers that have not ended */
    bool is_stopping;
    bool is_joining; /* one caller of stop joins the threads; the others wait for it */
    bool is_joined;
    struct worker workers[];
};

static void *worker_run(void *context) {
    struct worker *worker = context;
    struct scheduler *scheduler = worker->scheduler;
    mutex_lock(&scheduler->mutex);
    while (!scheduler->is_stopping) {
        uint64_t look = scheduler->wakes;
        scheduler->busy++;
        mutex_unlock(&scheduler->mutex);
        int rc = scheduler->client.run(scheduler->client.context, worker->index);
        mutex_lock(&scheduler->mutex);
        scheduler->busy--;
        if (rc == 0 || scheduler->wakes != look || scheduler->is_stopping) {
            continue;
        }
        if (scheduler->client.poll_ns == 0) {
            condition_wait(&scheduler->work, &scheduler->mutex);
        } else {
            (void)condition_wait_for(&scheduler->work, &scheduler->mutex, scheduler->client.poll_ns);
        }
    }
    scheduler->alive--;
    condition_broadcast(&scheduler->ended);
    mutex_unlock(&scheduler->mutex);
    return NULL;
}

static int scheduler_init(struct scheduler *scheduler, struct pleat_error *err) {
    int code = mutex_init(&scheduler->mutex, RANK_SCHEDULER);
    if (code != 0) {
        return error_system(err, code, "create", "a mutex");
    }
    code = condition_init(&scheduler->work);
    if (code != 0) {
        mutex_fini(&scheduler->mutex);
        return error_system(err, code, "create", "a condition");
    }
    code = condition_init(&scheduler->ended);
    if (code != 0) {
        condition_fini(&scheduler->work);
        mutex_fini(&scheduler->mutex);
        return error_system(err, code, "create", "a condition");
    }
    return 0;
}

int scheduler_new(const struct mem *mem, unsigned threads, const struct scheduler_client *client,
                  struct scheduler **ret_scheduler, struct pleat_error *err) {
    size_t bytes = sizeof(struct scheduler) + threads * sizeof(struct worker);
    struct scheduler *scheduler = mem_zalloc(mem, 1, bytes);
    if (scheduler == NULL) {
        return error_no_memory(err, "the scheduler", bytes);
    }
    scheduler->mem = mem;
    scheduler->client = *client;
    scheduler->threads = threads;
    int rc = scheduler_init(scheduler, err);
    if (rc < 0) {
        mem_free(mem, scheduler);
        return rc;
    }
    *ret_scheduler = scheduler; /* before the first worker, whose jobs may wake others */
    for (unsigned i = 0; i < threads; i++) {
        struct worker *worker = &scheduler->workers[i];
        char name[16];
        (void)snprintf(name, sizeof name, "pleat-work-%u", i % 1000);
        *worker = (struct worker){.scheduler = scheduler, .index = i};
        mutex_lock(&scheduler->mutex);
        scheduler->alive++;
        mutex_unlock(&scheduler->mutex);
        int code = thread_start(&worker->thread, name, worker_run, worker);
        mutex_lock(&scheduler->mutex);
        scheduler->alive -= code != 0;
        scheduler->started += code == 0;
        mutex_unlock(&scheduler->mutex);
        if (code != 0) {
            rc = error_system(err, code, "start", "a background thread");
            scheduler_free(scheduler);
            *ret_scheduler = NULL;
            return rc;
        }
    }
    return 0;
}

void scheduler_stop(struct scheduler *scheduler) {
    mutex_lock(&scheduler->mutex);
    scheduler->is_stopping = true;
    condition_broadcast(&scheduler->work);
    while (scheduler->alive > 0) {
        condition_wait(&scheduler->ended, &scheduler->mutex);
    }
    if (!scheduler->is_joining) {
        scheduler->is_joining = true;
        mutex_unlock(&scheduler->mutex);
        for (unsigned i = 0; i < scheduler->started; i++) {
            thread_join(&scheduler->workers[i].thread);
        }
        mutex_lock(&scheduler->mutex);
        scheduler->is_joined = true;
        condition_broadcast(&scheduler->ended);
    }
    while (!scheduler->is_joined) {
        condition_wait(&scheduler->ended, &scheduler->mutex);
    }
    mutex_unlock(&scheduler->mutex);
}

void scheduler_free(struct scheduler *scheduler) {
    if (scheduler == NULL) {
        return;
    }
    scheduler_stop(scheduler);
    ASSERT(scheduler->busy == 0);
    condition_fini(&scheduler->ended);
    condition_fini(&scheduler->work);
    mutex_fini(&scheduler->mutex);
    mem_free(scheduler->mem, scheduler);
}

void scheduler_wake(struct scheduler *scheduler) {
    mutex_lock(&scheduler->mutex);
    scheduler->wakes++;
    condition_broadcast(&scheduler->work);
    mutex_unlock(&scheduler->mutex);
}

int scheduler_step(struct scheduler *scheduler) {
    mutex_lock(&scheduler->mutex);
    scheduler->busy++;
    mutex_unlock(&scheduler->mutex);
    int rc = scheduler->client.run(scheduler->client.context, 0);
    mutex_lock(&scheduler->mutex);
    scheduler->busy--;
    mutex_unlock(&scheduler->mutex);
    return rc;
}

unsigned scheduler_threads(const struct scheduler *scheduler) {
    return scheduler->threads;
}

unsigned scheduler_busy(struct scheduler *scheduler) {
    mutex_lock(&scheduler->mutex);
    unsigned busy = scheduler->busy;
    mutex_unlock(&scheduler->mutex);
    return busy;
}
