/*
 * thread.c - threads, ranked mutexes, conditions and the asymmetric barrier: see thread.h.
 *
 * Debug builds keep the mutexes that a thread holds in a small array of that thread, in the order of locking. What is
 * checked against it:
 *
 *   M1  A mutex is locked only when its rank is above the rank of every mutex held. Equal ranks are refused too: two
 *       mutexes of one rank have no order, and one mutex cannot be locked twice. mutex_try_lock never waits, so it
 *       may be called out of order; what it takes counts for later locks.
 *   M2  Only the holder unlocks, and waits on a condition.
 *   M3  A wait on a condition locks its mutex again when it ends, so M1 must hold for it then: it is the highest held.
 *
 * The barrier is the one process-wide fact of the library: whether the kernel makes every running thread execute a
 * fence on request. It is decided once, never changed, and the same for every store of the process.
 */
#include "platform/thread.h"

#include "base/assert.h"

#include <errno.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if defined(__SANITIZE_THREAD__)
#define THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define THREAD_SANITIZER 1
#endif
#endif

/* ---- ranks ------------------------------------------------------------------------------------------------------ */

#ifdef PLEAT_DEBUG

enum { RANKS_HELD_MAX = 16 };

static _Thread_local const struct mutex *ranks_held[RANKS_HELD_MAX];
static _Thread_local unsigned ranks_held_count;

static void ranks_check_order(const struct mutex *mutex) {
    for (unsigned i = 0; i < ranks_held_count; i++) {
        ASSERT(ranks_held[i]->rank < mutex->rank); /* M1 */
    }
}

static void ranks_push(const struct mutex *mutex) {
    ASSERT(ranks_held_count < RANKS_HELD_MAX);
    ranks_held[ranks_held_count++] = mutex;
}

static void ranks_check_held(const struct mutex *mutex) {
    unsigned i = 0;
    while (i < ranks_held_count && ranks_held[i] != mutex) {
        i++;
    }
    ASSERT(i < ranks_held_count); /* M2 */
}

static void ranks_pop(const struct mutex *mutex) {
    ranks_check_held(mutex);
    unsigned i = ranks_held_count;
    while (ranks_held[i - 1] != mutex) {
        i--;
    }
    memmove(&ranks_held[i - 1], &ranks_held[i], (ranks_held_count - i) * sizeof ranks_held[0]);
    ranks_held_count--;
}

static void ranks_check_wait(const struct mutex *mutex) {
    ranks_check_held(mutex);
    for (unsigned i = 0; i < ranks_held_count; i++) {
        ASSERT(ranks_held[i] == mutex || ranks_held[i]->rank < mutex->rank); /* M3 */
    }
}

#else

static void ranks_check_order(const struct mutex *mutex) {
    (void)mutex;
}
static void ranks_push(const struct mutex *mutex) {
    (void)mutex;
}
static void ranks_check_held(const struct mutex *mutex) {
    (void)mutex;
}
static void ranks_pop(const struct mutex *mutex) {
    (void)mutex;
}
static void ranks_check_wait(const struct mutex *mutex) {
    (void)mutex;
}

#endif

/* ---- mutexes ---------------------------------------------------------------------------------------------------- */

int mutex_init(struct mutex *mutex, enum mutex_rank rank) {
    mutex->rank = rank;
    return pthread_mutex_init(&mutex->handle, NULL);
}

void mutex_fini(struct mutex *mutex) {
    int rc = pthread_mutex_destroy(&mutex->handle);
    ASSERT(rc == 0);
}

void mutex_lock(struct mutex *mutex) {
    ranks_check_order(mutex);
    int rc = pthread_mutex_lock(&mutex->handle);
    ASSERT(rc == 0);
    ranks_push(mutex);
}

bool mutex_try_lock(struct mutex *mutex) {
    int rc = pthread_mutex_trylock(&mutex->handle);
    ASSERT(rc == 0 || rc == EBUSY);
    if (rc == 0) {
        ranks_push(mutex);
    }
    return rc == 0;
}

void mutex_unlock(struct mutex *mutex) {
    ranks_pop(mutex);
    int rc = pthread_mutex_unlock(&mutex->handle);
    ASSERT(rc == 0);
}

void mutex_check_held(const struct mutex *mutex) {
    ranks_check_held(mutex);
}

/* ---- conditions ------------------------------------------------------------------------------------------------- */

int condition_init(struct condition *condition) {
    pthread_condattr_t attributes;
    int rc = pthread_condattr_init(&attributes);
    if (rc != 0) {
        return rc;
    }
    rc = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    if (rc == 0) {
        rc = pthread_cond_init(&condition->handle, &attributes);
    }
    (void)pthread_condattr_destroy(&attributes);
    return rc;
}

void condition_fini(struct condition *condition) {
    int rc = pthread_cond_destroy(&condition->handle);
    ASSERT(rc == 0);
}

void condition_wait(struct condition *condition, struct mutex *mutex) {
    ranks_check_wait(mutex);
    int rc = pthread_cond_wait(&condition->handle, &mutex->handle);
    ASSERT(rc == 0);
}

bool condition_wait_for(struct condition *condition, struct mutex *mutex, uint64_t timeout_ns) {
    ranks_check_wait(mutex);
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until); /* cannot fail for this clock */
    /* Both sums stay far below the limits of time_t: 2^64 ns are 585 years. */
    until.tv_sec += (time_t)(timeout_ns / 1000000000u);
    until.tv_nsec += (long)(timeout_ns % 1000000000u);
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    int rc = pthread_cond_timedwait(&condition->handle, &mutex->handle, &until);
    ASSERT(rc == 0 || rc == ETIMEDOUT);
    return rc == 0;
}

void condition_signal(struct condition *condition) {
    (void)pthread_cond_signal(&condition->handle);
}

void condition_broadcast(struct condition *condition) {
    (void)pthread_cond_broadcast(&condition->handle);
}

/* ---- threads ---------------------------------------------------------------------------------------------------- */

int thread_start(struct thread *thread, const char *name, void *(*run)(void *context), void *context) {
    ASSERT(strlen(name) <= 15);
    /* The host's signals are for the host's threads. The signals by which a thread reports its own fault stay open:
     * blocked, they would kill the process without running the host's crash handler. */
    sigset_t blocked;
    sigset_t before;
    (void)sigfillset(&blocked);
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT};
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        (void)sigdelset(&blocked, faults[i]);
    }
    /* A new thread inherits the mask; set here, there is no moment at which it runs with another. */
    int rc = pthread_sigmask(SIG_SETMASK, &blocked, &before);
    if (rc != 0) {
        return rc;
    }
    rc = pthread_create(&thread->handle, NULL, run, context);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc == 0) {
        (void)pthread_setname_np(thread->handle, name); /* for whoever looks with a debugger; nothing depends on it */
    }
    return rc;
}

void thread_join(struct thread *thread) {
    int rc = pthread_join(thread->handle, NULL);
    ASSERT(rc == 0);
}

unsigned thread_processors(void) {
    cpu_set_t set;
    int count = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return count > 1 ? (unsigned)count : 1;
}

void thread_sleep_ns(uint64_t ns) {
    struct timespec left = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left) == EINTR) {
    }
}

void thread_yield(void) {
    (void)sched_yield();
}

/* ---- the asymmetric barrier ------------------------------------------------------------------------------------- */

enum barrier_mode { BARRIER_UNDECIDED, BARRIER_FENCE, BARRIER_EXPEDITED };

/* Process-wide, written once by thread_barrier_init. relaxed everywhere; pairs with nothing: every user runs after an
 * init that it knows of, and two inits that run side by side decide the same. */
static _Atomic int barrier_mode = BARRIER_UNDECIDED;

#ifdef THREAD_SANITIZER

/* The sanitizer does not understand fences; it does understand a read-modify-write of one shared word, at least as
 * strong a barrier. */
static _Atomic unsigned barrier_word;

static void barrier_fence(void) {
    (void)atomic_fetch_add_explicit(&barrier_word, 1, memory_order_seq_cst); /* pairs with itself in other threads */
}

static bool barrier_register(void) {
    return false;
}

#else

static void barrier_fence(void) {
    atomic_thread_fence(memory_order_seq_cst); /* pairs with itself in other threads */
}

static bool barrier_register(void) {
    long commands = syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0);
    return commands > 0 && (commands & MEMBARRIER_CMD_PRIVATE_EXPEDITED) != 0 &&
           syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0;
}

#endif

void thread_barrier_init(void) {
    if (atomic_load_explicit(&barrier_mode, memory_order_relaxed) == BARRIER_UNDECIDED) {
        int mode = barrier_register() ? BARRIER_EXPEDITED : BARRIER_FENCE;
        int undecided = BARRIER_UNDECIDED;
        (void)atomic_compare_exchange_strong_explicit(&barrier_mode, &undecided, mode, memory_order_relaxed,
                                                      memory_order_relaxed);
    }
}

void thread_light_barrier(void) {
    if (LIKELY(atomic_load_explicit(&barrier_mode, memory_order_relaxed) == BARRIER_EXPEDITED)) {
        atomic_signal_fence(memory_order_seq_cst); /* the compiler only; pairs with thread_heavy_barrier */
    } else {
        barrier_fence();
    }
}

void thread_heavy_barrier(void) {
    if (atomic_load_explicit(&barrier_mode, memory_order_relaxed) != BARRIER_EXPEDITED) {
        barrier_fence();
        return;
    }
    /* The call can fail for want of kernel memory. Returning without the fence would let a reclaimer free what a
     * reader still holds, so it is asked again, and the slow global command is asked where the expedited one failed. */
    for (unsigned attempt = 0; attempt < 10000; attempt++) {
        if (syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) == 0 ||
            syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) == 0) {
            return;
        }
        (void)barrier_register();
        (void)sched_yield();
    }
    ASSERT(!"membarrier fails for ever after it was registered");
}
