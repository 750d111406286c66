/* shake.c - see shake.h. */
#include "support/shake.h"

#include "platform/thread.h"
#include "support/random.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

/* Settings of the process: handles of the real system have no room for a context. */
static uint64_t shake_seed;
static uint32_t shake_chance;
static _Atomic uint32_t shake_threads; /* relaxed: numbers only */
static _Atomic int64_t shake_count;    /* relaxed: a count */
static _Thread_local struct random shake_random;

void shake_start(uint64_t seed, uint32_t chance) {
    shake_seed = seed;
    shake_chance = chance;
}

int64_t shake_live(void) {
    return atomic_load_explicit(&shake_count, memory_order_relaxed);
}

void shake_here(void) {
    if (shake_random.state == 0) {
        uint64_t number = atomic_fetch_add_explicit(&shake_threads, 1, memory_order_relaxed) + 1;
        shake_random.state = (shake_seed ^ number * 0xd6e8feb86659fd93ull) | 1;
    }
    if (random_below(&shake_random, 1024) >= shake_chance) {
        return;
    }
    uint64_t draw = random_below(&shake_random, 64);
    if (draw < 44) {
        thread_yield();
    } else if (draw < 63) {
        thread_sleep_ns(1000 + random_below(&shake_random, 100000));
    } else {
        thread_sleep_ns(random_below(&shake_random, 2000000));
    }
}

/* ---- interrupts ------------------------------------------------------------------------------------------------- */

#define SHAKE_OFFERED_MAX 64

static struct {
    pthread_mutex_t mutex;
    pthread_t offered[SHAKE_OFFERED_MAX]; /* guarded by mutex: a thread in here has not ended */
    unsigned count;                       /* guarded by mutex */
    _Atomic bool stop;                    /* relaxed: a request */
    _Atomic unsigned asleep;              /* threads in the handler; relaxed: a hint */
    struct thread thread;
} shake_interrupts = {.mutex = PTHREAD_MUTEX_INITIALIZER};

/* How long is in the clock, so that the handler keeps no state. */
static void shake_interrupt(int number) {
    (void)number;
    struct timespec now, pause = {0};
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    pause.tv_nsec = now.tv_nsec % 16 == 0 ? 20000000 : 50000 << now.tv_nsec % 8;
    (void)atomic_fetch_add_explicit(&shake_interrupts.asleep, 1, memory_order_relaxed);
    (void)nanosleep(&pause, NULL);
    (void)atomic_fetch_sub_explicit(&shake_interrupts.asleep, 1, memory_order_relaxed);
}

void shake_offer(void) {
    sigset_t set;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGUSR2);
    (void)pthread_mutex_lock(&shake_interrupts.mutex);
    if (shake_interrupts.count < SHAKE_OFFERED_MAX) {
        shake_interrupts.offered[shake_interrupts.count++] = pthread_self();
    }
    (void)pthread_mutex_unlock(&shake_interrupts.mutex);
    (void)pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

void shake_withdraw(void) {
    (void)pthread_mutex_lock(&shake_interrupts.mutex);
    for (unsigned i = 0; i < shake_interrupts.count; i++) {
        if (pthread_equal(shake_interrupts.offered[i], pthread_self())) {
            shake_interrupts.offered[i--] = shake_interrupts.offered[--shake_interrupts.count];
        }
    }
    (void)pthread_mutex_unlock(&shake_interrupts.mutex);
}

static void *shake_interrupts_run(void *context) {
    struct random random = {shake_seed ^ 0x1e77};
    while (!atomic_load_explicit(&shake_interrupts.stop, memory_order_relaxed)) {
        (void)pthread_mutex_lock(&shake_interrupts.mutex);
        /* While all sleep, one more signal would wait for the first to wake and stop it where it stands already. */
        if (shake_interrupts.count > atomic_load_explicit(&shake_interrupts.asleep, memory_order_relaxed)) {
            (void)pthread_kill(shake_interrupts.offered[random_below(&random, shake_interrupts.count)], SIGUSR2);
        }
        (void)pthread_mutex_unlock(&shake_interrupts.mutex);
        thread_sleep_ns(20000 + random_below(&random, 400000));
    }
    return context;
}

void shake_interrupts_start(void) {
    struct sigaction action = {.sa_handler = shake_interrupt, .sa_flags = SA_RESTART};
    (void)sigaction(SIGUSR2, &action, NULL);
    atomic_store_explicit(&shake_interrupts.stop, false, memory_order_relaxed);
    if (thread_start(&shake_interrupts.thread, "shake", shake_interrupts_run, NULL) != 0) {
        abort();
    }
}

void shake_interrupts_stop(void) {
    atomic_store_explicit(&shake_interrupts.stop, true, memory_order_relaxed);
    thread_join(&shake_interrupts.thread);
}

/* ---- memory ----------------------------------------------------------------------------------------------------- */

static void *shake_counted(void *block) {
    if (block != NULL) {
        (void)atomic_fetch_add_explicit(&shake_count, 1, memory_order_relaxed);
    }
    return block;
}

static void *shake_alloc(const struct mem *mem, size_t bytes) {
    (void)mem;
    shake_here();
    return shake_counted(mem_system.alloc(&mem_system, bytes));
}

static void *shake_resize(const struct mem *mem, void *block, size_t bytes) {
    (void)mem;
    shake_here();
    void *resized = mem_system.resize(&mem_system, block, bytes);
    return block == NULL ? shake_counted(resized) : resized;
}

static void shake_release(const struct mem *mem, void *block) {
    (void)mem;
    (void)atomic_fetch_sub_explicit(&shake_count, 1, memory_order_relaxed);
    mem_system.release(&mem_system, block);
    shake_here();
}

static void *shake_map(const struct mem *mem, size_t bytes, bool huge) {
    (void)mem;
    shake_here();
    return shake_counted(mem_system.map(&mem_system, bytes, huge));
}

static void shake_unmap(const struct mem *mem, void *block, size_t bytes) {
    (void)mem;
    (void)atomic_fetch_sub_explicit(&shake_count, 1, memory_order_relaxed);
    mem_system.unmap(&mem_system, block, bytes);
    shake_here();
}

static void shake_populate(const struct mem *mem, void *pages, size_t bytes) {
    (void)mem;
    shake_here();
    mem_system.populate(&mem_system, pages, bytes);
    shake_here();
}

const struct mem shake_mem = {shake_alloc, shake_resize, shake_release, shake_map, shake_unmap, shake_populate, NULL};

/* ---- files ------------------------------------------------------------------------------------------------------ */

static int shake_dir_open(const struct vfs *vfs, const struct mem *mem, const char *path, enum vfs_dir_mode how,
                          uint32_t mode, struct vfs_dir **ret_dir, struct pleat_error *err) {
    (void)vfs;
    return vfs_posix.dir_open(&vfs_posix, mem, path, how, mode, ret_dir, err);
}

static int shake_dir_sync(struct vfs_dir *dir, struct pleat_error *err) {
    shake_here();
    int rc = vfs_posix.dir_sync(dir, err);
    shake_here();
    return rc;
}

static int shake_dir_list(struct vfs_dir *dir, int (*callback)(void *context, const char *name), void *context,
                          struct pleat_error *err) {
    return vfs_posix.dir_list(dir, callback, context, err);
}

static int shake_dir_rename(struct vfs_dir *dir, const char *from, const char *to, struct pleat_error *err) {
    shake_here();
    int rc = vfs_posix.dir_rename(dir, from, to, err);
    shake_here();
    return rc;
}

static int shake_dir_unlink(struct vfs_dir *dir, const char *name, struct pleat_error *err) {
    shake_here();
    int rc = vfs_posix.dir_unlink(dir, name, err);
    shake_here();
    return rc;
}

static int shake_dir_lock(struct vfs_dir *dir, const char *name, bool shared, uint32_t mode, struct vfs_lock **ret_lock,
                          int64_t *ret_holder_pid, struct pleat_error *err) {
    return vfs_posix.dir_lock(dir, name, shared, mode, ret_lock, ret_holder_pid, err);
}

static void shake_lock_release(struct vfs_lock *lock) {
    vfs_posix.lock_release(lock);
}

static int shake_lock_read(struct vfs_lock *lock, uint64_t offset, void *buffer, size_t n, struct pleat_error *err) {
    return vfs_posix.lock_read(lock, offset, buffer, n, err);
}

static int shake_lock_write(struct vfs_lock *lock, uint64_t offset, const void *data, size_t n,
                            struct pleat_error *err) {
    shake_here();
    return vfs_posix.lock_write(lock, offset, data, n, err);
}

static int shake_lock_sync(struct vfs_lock *lock, struct pleat_error *err) {
    shake_here();
    int rc = vfs_posix.lock_sync(lock, err);
    shake_here();
    return rc;
}

static int shake_file_open(struct vfs_dir *dir, const char *name, enum vfs_file_mode how, uint32_t mode,
                           struct vfs_file **ret_file, struct pleat_error *err) {
    shake_here();
    int rc = vfs_posix.file_open(dir, name, how, mode, ret_file, err);
    shake_here();
    return rc;
}

static void shake_file_close(struct vfs_file *file) {
    shake_here();
    vfs_posix.file_close(file);
}

static int shake_file_read(struct vfs_file *file, uint64_t offset, void *buffer, size_t n, struct pleat_error *err) {
    shake_here();
    int rc = vfs_posix.file_read(file, offset, buffer, n, err);
    shake_here();
    return rc;
}

static int shake_file_write(struct vfs_file *file, uint64_t offset, const void *data, size_t n,
                            struct pleat_error *err) {
    shake_here();
    return vfs_posix.file_write(file, offset, data, n, err);
}

static int shake_file_size(struct vfs_file *file, uint64_t *ret_bytes, struct pleat_error *err) {
    return vfs_posix.file_size(file, ret_bytes, err);
}

static int shake_file_sync(struct vfs_file *file, struct pleat_error *err) {
    shake_here();
    int rc = vfs_posix.file_sync(file, err);
    shake_here();
    return rc;
}

static void shake_file_will_sync(struct vfs_file *file, uint64_t offset, uint64_t n) {
    vfs_posix.file_will_sync(file, offset, n);
}

static void shake_file_will_read(struct vfs_file *file, uint64_t offset, uint64_t n) {
    vfs_posix.file_will_read(file, offset, n);
}

static uint64_t shake_file_next_data(struct vfs_file *file, uint64_t offset) {
    return vfs_posix.file_next_data(file, offset);
}

static int shake_log_create(struct vfs_dir *dir, const char *name, uint64_t bytes, bool by_write, uint32_t mode,
                            struct vfs_log **ret_log, struct pleat_error *err) {
    shake_here();
    int rc = vfs_posix.log_create(dir, name, bytes, by_write, mode, ret_log, err);
    shake_here();
    return rc;
}

static int shake_log_publish(struct vfs_log *log, uint64_t offset, size_t n, struct pleat_error *err) {
    shake_here();
    int rc = vfs_posix.log_publish(log, offset, n, err);
    shake_here();
    return rc;
}

static int shake_log_sync(struct vfs_log *log, struct pleat_error *err) {
    shake_here();
    int rc = vfs_posix.log_sync(log, err);
    shake_here();
    return rc;
}

static void shake_log_note(struct vfs_log *log, uint64_t offset, size_t n) {
    vfs_posix.log_note(log, offset, n);
    shake_here();
}

static void shake_log_prepare(struct vfs_log *log, uint64_t offset) {
    shake_here();
    vfs_posix.log_prepare(log, offset);
}

static int shake_log_rename(struct vfs_dir *dir, struct vfs_log *log, const char *to, struct pleat_error *err) {
    shake_here();
    int rc = vfs_posix.log_rename(dir, log, to, err);
    shake_here();
    return rc;
}

static void shake_log_close(struct vfs_log *log) {
    shake_here();
    vfs_posix.log_close(log);
}

static uint64_t shake_now_ns(const struct vfs *vfs) {
    (void)vfs;
    return vfs_posix.now_ns(&vfs_posix);
}

static int shake_random_bytes(const struct vfs *vfs, void *buffer, size_t n, struct pleat_error *err) {
    (void)vfs;
    return vfs_posix.random(&vfs_posix, buffer, n, err);
}

static void shake_dir_close(struct vfs_dir *dir) {
    vfs_posix.dir_close(dir);
}

const struct vfs shake_vfs = {
    .dir_open = shake_dir_open,
    .dir_close = shake_dir_close,
    .dir_sync = shake_dir_sync,
    .dir_list = shake_dir_list,
    .dir_rename = shake_dir_rename,
    .dir_unlink = shake_dir_unlink,
    .dir_lock = shake_dir_lock,
    .lock_release = shake_lock_release,
    .lock_read = shake_lock_read,
    .lock_write = shake_lock_write,
    .lock_sync = shake_lock_sync,
    .file_open = shake_file_open,
    .file_close = shake_file_close,
    .file_read = shake_file_read,
    .file_write = shake_file_write,
    .file_size = shake_file_size,
    .file_sync = shake_file_sync,
    .file_will_sync = shake_file_will_sync,
    .file_will_read = shake_file_will_read,
    .file_next_data = shake_file_next_data,
    .log_create = shake_log_create,
    .log_publish = shake_log_publish,
    .log_sync = shake_log_sync,
    .log_note = shake_log_note,
    .log_prepare = shake_log_prepare,
    .log_rename = shake_log_rename,
    .log_close = shake_log_close,
    .now_ns = shake_now_ns,
    .random = shake_random_bytes,
};
