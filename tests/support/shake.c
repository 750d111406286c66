/* shake.c - see shake.h. */
#include "support/shake.h"

#include "platform/thread.h"
#include "support/random.h"

#include <stdatomic.h>

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

const struct mem shake_mem = {shake_alloc, shake_resize, shake_release, shake_map, shake_unmap, NULL};

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

static void shake_file_will_read(struct vfs_file *file, uint64_t offset, uint64_t n) {
    vfs_posix.file_will_read(file, offset, n);
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

static void shake_log_prepare(struct vfs_log *log, uint64_t offset) {
    shake_here();
    vfs_posix.log_prepare(log, offset);
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
    .file_open = shake_file_open,
    .file_close = shake_file_close,
    .file_read = shake_file_read,
    .file_write = shake_file_write,
    .file_size = shake_file_size,
    .file_sync = shake_file_sync,
    .file_will_read = shake_file_will_read,
    .log_create = shake_log_create,
    .log_publish = shake_log_publish,
    .log_sync = shake_log_sync,
    .log_prepare = shake_log_prepare,
    .log_close = shake_log_close,
    .now_ns = shake_now_ns,
    .random = shake_random_bytes,
};
