/*
 * simfs.c - the calls of struct vfs on the simulated disk, but for files and logs (simfs_file.c): rules in simfs.h.
 *
 * Every call takes the mutex, asks sim_begin whether it may go on (stopped? a fault?), and changes the disk. Handles
 * are allocated before that, as the real system's are, so that a failed allocation costs no operation.
 */
#include "support/simfs_internal.h"

#include "base/error.h"
#include "base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void sim_lock(struct simfs *fs) {
    (void)pthread_mutex_lock(&fs->mutex);
}

void sim_unlock(struct simfs *fs) {
    (void)pthread_mutex_unlock(&fs->mutex);
}

int sim_end(struct simfs *fs, int rc) {
    sim_unlock(fs);
    return rc;
}

static const char *const call_names[SIMFS_CALL_KINDS] = {
    "open directory", "fsync directory", "list directory", "rename", "unlink",  "lock",    "open",      "create",
    "read",           "write",           "fstat",          "sync",   "reserve", "publish", "fdatasync", "getrandom",
};

/* Whether a fault strikes this call; every fault of its kind counts it. */
static const struct simfs_fault *sim_fault_strikes(struct simfs *fs, unsigned call) {
    const struct simfs_fault *struck = NULL;
    for (size_t i = 0; i < fs->fault_count; i++) {
        struct simfs_fault *fault = &fs->faults[i];
        if ((fault->calls & call) == 0) {
            continue;
        }
        bool strikes = fault->at == 1 || (fault->at == 0 && fault->for_ever);
        fault->at -= fault->at > 0 ? 1 : 0;
        if (strikes && struck == NULL) {
            struck = fault;
        }
    }
    return struck;
}

int sim_begin(struct simfs *fs, unsigned call, bool mutates, const char *name, bool *ret_half,
              struct pleat_error *err) {
    unsigned kind = call != 0 ? (unsigned)__builtin_ctz(call) : 0;
    if (mutates) {
        if (fs->stop_at != 0 && fs->operations + 1 >= fs->stop_at) {
            sim_absorb(fs); /* what the process had stored when it died; not what its code stores from here on */
            fs->dead = true;
        }
        if (fs->dead) {
            return error_set(err, PLEAT_ERR_IO, EIO, "%s: stopped: the simulated process is dead", name);
        }
        if (fs->observer != NULL) {
            sim_observe(fs, call);
        }
        fs->operations++;
    }
    if (call == 0) {
        return 0;
    }
    fs->calls[kind]++;
    const struct simfs_fault *fault = sim_fault_strikes(fs, call);
    if (fault == NULL) {
        return 0;
    }
    fs->faults_fired++;
    fs->fault_struck = call;
    if (ret_half != NULL) {
        *ret_half = fault->half;
    }
    return error_system(err, fault->os_errno, call_names[kind], name);
}

int sim_name_verify(const char *name, struct pleat_error *err) {
    size_t length = strlen(name);
    bool plain = length > 0 && length <= VFS_NAME_BYTES_MAX && strchr(name, '/') == NULL && strcmp(name, ".") != 0 &&
                 strcmp(name, "..") != 0;
    return plain ? 0 : error_set(err, PLEAT_ERR_INVALID, EINVAL, "not a plain file name: '%.64s'", name);
}

/* ---- directories ------------------------------------------------------------------------------------------------ */

static bool path_is_file(struct simfs *fs, const char *path) {
    const char *slash = strrchr(path, '/');
    if (slash == NULL || slash == path) {
        return false;
    }
    char *parent = sim_alloc(strlen(path) + 1);
    memcpy(parent, path, (size_t)(slash - path));
    const struct sim_dir *dir = dir_find(fs, parent);
    free(parent);
    return dir != NULL && names_find(&dir->live_names, slash + 1) != NULL;
}

static int dir_open_locked(struct simfs *fs, const char *path, enum vfs_dir_mode how, struct sim_dir **ret_dir,
                           struct pleat_error *err) {
    struct sim_dir *dir = dir_find(fs, path);
    bool creates = dir == NULL && how == VFS_DIR_CREATE;
    int rc = sim_begin(fs, SIMFS_DIR_OPEN, creates, path, NULL, err);
    if (rc < 0) {
        return rc;
    }
    if (path_is_file(fs, path)) {
        return error_set(err, PLEAT_ERR_INVALID, ENOTDIR, "%s: is a file or lies below one, not a directory", path);
    }
    if (dir == NULL && !creates) {
        return error_system(err, ENOENT, "open directory", path);
    }
    if (creates) {
        dir = dir_new(fs, path);
    }
    if (how == VFS_DIR_CREATE) {
        rc = sim_begin(fs, SIMFS_DIR_SYNC, true, path, NULL, err);
        if (rc < 0) {
            return rc;
        }
        dir->durable = true;
    }
    *ret_dir = dir;
    return 0;
}

static int sim_dir_open(const struct vfs *vfs, const struct mem *mem, const char *path, enum vfs_dir_mode how,
                        uint32_t mode, struct vfs_dir **ret_dir, struct pleat_error *err) {
    (void)mode;
    struct simfs *fs = vfs->context;
    struct vfs_dir *handle = mem_alloc(mem, sizeof *handle);
    if (handle == NULL) {
        return error_no_memory(err, "directory handle", sizeof *handle);
    }
    sim_lock(fs);
    *handle = (struct vfs_dir){fs, mem, NULL};
    int rc = dir_open_locked(fs, path, how, &handle->dir, err);
    if (rc < 0) {
        mem_free(mem, handle);
        return sim_end(fs, rc);
    }
    fs->open_handles++;
    *ret_dir = handle;
    return sim_end(fs, 0);
}

static void sim_dir_close(struct vfs_dir *handle) {
    if (handle != NULL) {
        sim_lock(handle->fs);
        handle->fs->open_handles--;
        sim_unlock(handle->fs);
        mem_free(handle->mem, handle);
    }
}

static int sim_dir_sync(struct vfs_dir *handle, struct pleat_error *err) {
    struct simfs *fs = handle->fs;
    struct sim_dir *dir = handle->dir;
    sim_lock(fs);
    bool half = false;
    int rc = sim_begin(fs, SIMFS_DIR_SYNC, true, dir->path, &half, err);
    if (rc == 0) {
        dir_settle(dir, dir->op_count);
    } else if (!fs->dead) { /* S5 */
        dir_settle(dir, half ? dir->op_count / 2 : 0);
        dir_forget_ops(dir);
    }
    sim_sweep(fs);
    return sim_end(fs, rc);
}

static int sim_dir_list(struct vfs_dir *handle, int (*callback)(void *context, const char *name), void *context,
                        struct pleat_error *err) {
    struct simfs *fs = handle->fs;
    sim_lock(fs);
    int rc = sim_begin(fs, SIMFS_DIR_LIST, false, handle->dir->path, NULL, err);
    if (rc < 0) {
        return sim_end(fs, rc);
    }
    size_t count = handle->dir->live_names.count;
    struct sim_entry *entries = sim_alloc(count * sizeof *entries);
    for (size_t i = 0; i < count; i++) { /* a real directory has no order: shuffled while copied */
        size_t at = (size_t)random_below(&fs->random, i + 1);
        entries[i] = entries[at];
        entries[at] = handle->dir->live_names.entries[i];
    }
    sim_unlock(fs); /* the callback may use the disk */
    for (size_t i = 0; i < count && rc == 0; i++) {
        rc = callback(context, entries[i].name);
    }
    free(entries);
    return rc;
}

static int sim_dir_rename(struct vfs_dir *handle, const char *from, const char *to, struct pleat_error *err) {
    struct simfs *fs = handle->fs;
    int rc = sim_name_verify(from, err);
    rc = rc < 0 ? rc : sim_name_verify(to, err);
    if (rc < 0) {
        return rc;
    }
    sim_lock(fs);
    rc = sim_begin(fs, SIMFS_DIR_RENAME, true, from, NULL, err);
    if (rc < 0) {
        return sim_end(fs, rc);
    }
    const struct sim_entry *entry = names_find(&handle->dir->live_names, from);
    if (entry == NULL) {
        return sim_end(fs, error_system(err, ENOENT, "rename", from));
    }
    if (strcmp(from, to) != 0) {
        dir_name_op(fs, handle->dir, SIM_RENAME, from, to, entry->inode);
    }
    return sim_end(fs, 0);
}

static int sim_log_rename(struct vfs_dir *dir, struct vfs_log *vfs_log, const char *to, struct pleat_error *err) {
    struct sim_log *log = (struct sim_log *)vfs_log;
    int rc = sim_dir_rename(dir, log->name, to, err);
    if (rc == 0) {
        sim_lock(log->fs);
        strncpy(log->name, to, VFS_NAME_BYTES_MAX);
        (void)sim_end(log->fs, 0);
    }
    return rc;
}

static int sim_dir_unlink(struct vfs_dir *handle, const char *name, struct pleat_error *err) {
    struct simfs *fs = handle->fs;
    int rc = sim_name_verify(name, err);
    if (rc < 0) {
        return rc;
    }
    sim_lock(fs);
    rc = sim_begin(fs, SIMFS_DIR_UNLINK, true, name, NULL, err);
    if (rc < 0) {
        return sim_end(fs, rc);
    }
    const struct sim_entry *entry = names_find(&handle->dir->live_names, name);
    if (entry == NULL) {
        return sim_end(fs, error_system(err, ENOENT, "unlink", name));
    }
    dir_name_op(fs, handle->dir, SIM_UNLINK, name, "", entry->inode);
    return sim_end(fs, 0);
}

/* ---- the lock --------------------------------------------------------------------------------------------------- */

static int lock_locked(struct vfs_dir *dir, const char *name, struct vfs_lock *lock, int64_t *ret_holder_pid,
                       struct pleat_error *err) {
    struct simfs *fs = dir->fs;
    const struct sim_entry *entry = names_find(&dir->dir->live_names, name);
    int rc = sim_begin(fs, SIMFS_DIR_LOCK, entry == NULL && !lock->shared, name, NULL, err);
    if (rc < 0) {
        return rc;
    }
    if (entry == NULL && lock->shared) {
        return 1;
    }
    for (const struct vfs_lock *held = fs->locks; held != NULL; held = held->next) {
        if (entry != NULL && held->inode == entry->inode && !(held->shared && lock->shared)) {
            *ret_holder_pid = getpid();
            return error_set(err, PLEAT_ERR_BUSY, EWOULDBLOCK, "%s: held by process %ld (this one)", name,
                             (long)getpid());
        }
    }
    lock->inode = entry != NULL ? entry->inode : inode_new(fs);
    if (entry == NULL) {
        dir_name_op(fs, dir->dir, SIM_CREATE, name, "", lock->inode);
    }
    if (!lock->shared) { /* a courtesy to whoever reads it, which no crash image needs to have: no operation */
        static const char text[VFS_LOCK_TEXT_BYTES + 1] = "simulated  \n"; /* no process id (S7) */
        bytes_write(&lock->inode->live, 0, text, VFS_LOCK_TEXT_BYTES);
    }
    return 0;
}

static int sim_dir_lock(struct vfs_dir *dir, const char *name, bool shared, uint32_t mode, struct vfs_lock **ret_lock,
                        int64_t *ret_holder_pid, struct pleat_error *err) {
    (void)mode;
    struct simfs *fs = dir->fs;
    int64_t holder = 0;
    int rc = sim_name_verify(name, err);
    if (rc < 0) {
        return rc;
    }
    struct vfs_lock *lock = mem_alloc(dir->mem, sizeof *lock);
    if (lock == NULL) {
        return error_no_memory(err, "lock handle", sizeof *lock);
    }
    sim_lock(fs);
    *lock = (struct vfs_lock){.fs = fs, .mem = dir->mem, .shared = shared};
    strncpy(lock->name, name, VFS_NAME_BYTES_MAX);
    rc = lock_locked(dir, name, lock, &holder, err);
    if (ret_holder_pid != NULL) {
        *ret_holder_pid = holder;
    }
    if (rc == 0) {
        lock->next = fs->locks;
        fs->locks = lock;
        lock->inode->handles++;
        fs->open_handles++;
        *ret_lock = lock;
    } else {
        mem_free(dir->mem, lock);
        if (rc > 0) {
            *ret_lock = NULL;
        }
    }
    return sim_end(fs, rc > 0 ? 0 : rc);
}

static void sim_lock_release(struct vfs_lock *lock) {
    if (lock == NULL) {
        return;
    }
    struct simfs *fs = lock->fs;
    sim_lock(fs);
    struct vfs_lock **link = &fs->locks;
    while (*link != lock) {
        link = &(*link)->next;
    }
    *link = lock->next;
    lock->inode->handles--;
    fs->open_handles--;
    sim_unlock(fs);
    mem_free(lock->mem, lock);
}

/* ---- clock, randomness, the disk -------------------------------------------------------------------------------- */

static uint64_t sim_now_ns(const struct vfs *vfs) {
    struct simfs *fs = vfs->context;
    sim_lock(fs);
    uint64_t now = fs->clock_ns += 1000;
    sim_unlock(fs);
    return now;
}

static int sim_random(const struct vfs *vfs, void *buffer, size_t n, struct pleat_error *err) {
    struct simfs *fs = vfs->context;
    sim_lock(fs);
    int rc = sim_begin(fs, SIMFS_RANDOM, false, "random bytes", NULL, err);
    for (size_t i = 0; i < n && rc == 0; i++) {
        ((uint8_t *)buffer)[i] = (uint8_t)(random_next(&fs->random) >> 32);
    }
    return sim_end(fs, rc);
}

static const struct vfs sim_vfs = {
    .dir_open = sim_dir_open,
    .dir_close = sim_dir_close,
    .dir_sync = sim_dir_sync,
    .dir_list = sim_dir_list,
    .dir_rename = sim_dir_rename,
    .dir_unlink = sim_dir_unlink,
    .dir_lock = sim_dir_lock,
    .lock_release = sim_lock_release,
    .lock_read = sim_lock_read,
    .lock_write = sim_lock_write,
    .lock_sync = sim_lock_sync,
    .file_open = sim_file_open,
    .file_close = sim_file_close,
    .file_read = sim_file_read,
    .file_write = sim_file_write,
    .file_size = sim_file_size,
    .file_sync = sim_file_sync,
    .file_will_sync = sim_file_will_sync,
    .file_will_read = sim_file_will_read,
    .file_next_data = sim_file_next_data,
    .log_create = sim_log_create,
    .log_publish = sim_log_publish,
    .log_sync = sim_log_sync,
    .log_note = sim_log_note,
    .log_prepare = sim_log_prepare,
    .log_rename = sim_log_rename,
    .log_close = sim_log_close,
    .now_ns = sim_now_ns,
    .random = sim_random,
};

struct simfs *simfs_new(uint64_t seed) {
    struct simfs *fs = sim_alloc(sizeof *fs);
    fs->vfs = sim_vfs;
    fs->vfs.context = fs;
    fs->random.state = seed;
    fs->quota = UINT64_MAX;
    pthread_mutexattr_t recursive; /* the observer makes images while the mutex is held */
    (void)pthread_mutexattr_init(&recursive);
    (void)pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
    (void)pthread_mutex_init(&fs->mutex, &recursive);
    (void)pthread_mutexattr_destroy(&recursive);
    return fs;
}

const struct vfs *simfs_vfs(struct simfs *fs) {
    return &fs->vfs;
}
