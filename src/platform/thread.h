/*
 * thread.h - threads, ranked mutexes, condition variables, the asymmetric barrier and the fork guard.
 *
 * Mutexes carry a rank. A thread may lock only a mutex of a higher rank than every one it holds; debug builds
 * (PLEAT_DEBUG) check it at run time. The order below is therefore the lock order of the whole library.
 */
#ifndef PLEAT_PLATFORM_THREAD_H
#define PLEAT_PLATFORM_THREAD_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

enum mutex_rank {
    RANK_OPEN = 1,     /* db: open, close, space creation and drop, one at a time */
    RANK_COMMIT,       /* db: the commit path: log end, active memtable */
    RANK_SYNC,         /* db: who leads the next log sync */
    RANK_SCHEDULER,    /* compaction: the job queue and its counters */
    RANK_MANIFEST,     /* version: one edit at a time */
    RANK_VIEW,         /* db: swapping the published view */
    RANK_SNAPSHOTS,    /* version: the list of live snapshots */
    RANK_CURSORS,      /* db: cursor tables and the visible sequence */
    RANK_TABLE_OPEN,   /* version: first touch of a table */
    RANK_CACHE,        /* cache: frames and clock */
    RANK_CACHE_LOAD,   /* cache: waiting for a block that another thread loads */
    RANK_EPOCH,        /* base: registration of reader slots, retired objects */
    RANK_POOL,         /* memtable: the arena pool */
    RANK_LEAF,         /* anything that locks nothing further */
};

struct mutex {
    pthread_mutex_t handle;
    enum mutex_rank rank;
};

struct condition {
    pthread_cond_t handle; /* on the monotonic clock */
};

struct thread {
    pthread_t handle;
};

/* Returns 0, or an errno when the system has no room for it. */
int mutex_init(struct mutex *mutex, enum mutex_rank rank);
void mutex_fini(struct mutex *mutex);
void mutex_lock(struct mutex *mutex);
bool mutex_try_lock(struct mutex *mutex);
void mutex_unlock(struct mutex *mutex);
/* Debug builds assert that the calling thread holds it. */
void mutex_check_held(const struct mutex *mutex);

int condition_init(struct condition *condition);
void condition_fini(struct condition *condition);
void condition_wait(struct condition *condition, struct mutex *mutex);
/* False when timeout_ns passed first. */
bool condition_wait_for(struct condition *condition, struct mutex *mutex, uint64_t timeout_ns);
void condition_signal(struct condition *condition);
void condition_broadcast(struct condition *condition);

/* Starts a thread with all signals blocked, named `name` (at most 15 characters). Returns 0 or an errno. */
int thread_start(struct thread *thread, const char *name, void *(*run)(void *context), void *context);
void thread_join(struct thread *thread);
void thread_sleep_ns(uint64_t ns);
/* Processors that the process may run on, 1 at least. */
unsigned thread_processors(void);
void thread_yield(void);

/* The asymmetric barrier: thread_light_barrier on the fast side is a compiler barrier where thread_heavy_barrier can
 * make every running thread of the process execute a full fence (membarrier, private expedited), a full fence
 * otherwise. thread_barrier_init is idempotent and decides once which; it must have returned before either is used. */
void thread_barrier_init(void);
void thread_light_barrier(void);
void thread_heavy_barrier(void);

/* A page that the kernel wipes in a forked child: true while still in the process that made it. NULL from _new when
 * the system cannot (then every check is true). */
struct fork_guard;
struct fork_guard *fork_guard_new(void);
bool fork_guard_is_owner(const struct fork_guard *guard);
void fork_guard_free(struct fork_guard *guard);

#endif
