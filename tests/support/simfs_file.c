/* simfs_file.c - files, the lock's file and logs of the simulated disk: rules in simfs.h. */
#include "support/simfs_internal.h"

#include "base/error.h"
#include "base/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct vfs_file {
    struct simfs *fs;
    const struct mem *mem;
    struct sim_inode *inode;
    bool writable;
    bool sync_failed;
    char name[VFS_NAME_BYTES_MAX + 1];
};

/* ---- files ------------------------------------------------------------------------------------------------------ */

static int file_open_locked(struct vfs_dir *dir, const char *name, bool creates, struct sim_inode **ret_inode,
                            struct pleat_error *err) {
    struct simfs *fs = dir->fs;
    int rc = sim_begin(fs, creates ? SIMFS_FILE_CREATE : SIMFS_FILE_OPEN, creates, name, NULL, err);
    if (rc < 0) {
        return rc;
    }
    const struct sim_entry *entry = names_find(&dir->dir->live_names, name);
    if (creates && entry != NULL) {
        return error_system(err, EEXIST, "create", name);
    }
    if (!creates && entry == NULL) {
        return error_system(err, ENOENT, "open", name);
    }
    *ret_inode = creates ? inode_new(fs) : entry->inode;
    if (creates) {
        dir_name_op(fs, dir->dir, SIM_CREATE, name, "", *ret_inode);
    }
    return 0;
}

int sim_file_open(struct vfs_dir *dir, const char *name, enum vfs_file_mode how, uint32_t mode,
                  struct vfs_file **ret_file, struct pleat_error *err) {
    (void)mode;
    struct simfs *fs = dir->fs;
    int rc = sim_name_verify(name, err);
    if (rc < 0) {
        return rc;
    }
    struct vfs_file *file = mem_zalloc(dir->mem, 1, sizeof *file);
    if (file == NULL) {
        return error_no_memory(err, "file handle", sizeof *file);
    }
    sim_lock(fs);
    file->fs = fs;
    file->mem = dir->mem;
    file->writable = how == VFS_FILE_CREATE_NEW;
    strncpy(file->name, name, VFS_NAME_BYTES_MAX);
    rc = file_open_locked(dir, name, file->writable, &file->inode, err);
    if (rc < 0) {
        mem_free(dir->mem, file);
        return sim_end(fs, rc);
    }
    file->inode->handles++;
    fs->open_handles++;
    *ret_file = file;
    return sim_end(fs, 0);
}

void sim_file_close(struct vfs_file *file) {
    if (file != NULL) {
        sim_lock(file->fs);
        file->inode->handles--;
        file->fs->open_handles--;
        sim_unlock(file->fs);
        mem_free(file->mem, file);
    }
}

static int read_locked(struct simfs *fs, const struct sim_inode *inode, const char *name, uint64_t offset, void *buffer,
                       size_t n, struct pleat_error *err) {
    int rc = sim_begin(fs, SIMFS_FILE_READ, false, name, NULL, err);
    if (rc < 0) {
        return rc;
    }
    uint64_t size = inode->live.size;
    uint64_t there = offset < size ? size - offset : 0;
    if (there < n) {
        return error_set(err, PLEAT_ERR_CORRUPT, 0,
                         "%s: cut short: %zu bytes expected at offset %llu, %llu bytes found", name, n,
                         (unsigned long long)offset, (unsigned long long)there);
    }
    bytes_read(&inode->live, offset, buffer, n);
    return 0;
}

int sim_file_read(struct vfs_file *file, uint64_t offset, void *buffer, size_t n, struct pleat_error *err) {
    sim_lock(file->fs);
    return sim_end(file->fs, read_locked(file->fs, file->inode, file->name, offset, buffer, n, err));
}

/* How many of the n bytes the quota lets in. */
static size_t write_room(struct simfs *fs, const struct sim_inode *inode, uint64_t offset, size_t n) {
    uint64_t taken = inode->sparse ? inode->live.used : inode->live.size;
    if (fs->quota == UINT64_MAX || offset + n <= taken) {
        return n;
    }
    uint64_t used = sim_used_locked(fs);
    uint64_t end = taken + (fs->quota > used ? fs->quota - used : 0);
    if (end >= offset + n) {
        return n;
    }
    return end > offset ? (size_t)(end - offset) : 0;
}

static void write_keep_flight(struct simfs *fs, struct sim_inode *inode, uint64_t offset, const void *data, size_t n) {
    uint64_t size = offset + n > inode->live.size ? offset + n : inode->live.size;
    fs->flight_inode = inode;
    fs->flight = (struct sim_write){fs->sequence + 1, offset, size, n, block_new(n)};
    memcpy(fs->flight.data, data, n);
}

static void write_drop_flight(struct simfs *fs) {
    block_unref(fs->flight.data);
    fs->flight_inode = NULL;
    fs->flight = (struct sim_write){0};
}

/* file_write, and log_publish of a log that is written. */
static int write_locked(struct simfs *fs, unsigned call, struct sim_inode *inode, const char *name, uint64_t offset,
                        const void *data, size_t n, size_t *ret_written, struct pleat_error *err) {
    bool half = false;
    bool was_dead = fs->dead;
    bool seen = fs->observer != NULL && !was_dead;
    if (seen) {
        write_keep_flight(fs, inode, offset, data, n); /* S9 */
    }
    int rc = sim_begin(fs, call, true, name, &half, err);
    if (seen) {
        write_drop_flight(fs);
    }
    size_t written = 0;
    if (rc < 0) {
        if (fs->dead && !was_dead) {
            write_keep_flight(fs, inode, offset, data, n); /* S4 */
        }
        written = half ? n / 2 : 0;
    } else {
        written = write_room(fs, inode, offset, n);
        if (written < n) {
            fs->faults_fired++;
            rc = error_system(err, ENOSPC, "write", name);
        }
    }
    *ret_written = written;
    if (written > 0) {
        uint64_t end = offset + written;
        inode_write(fs, inode, offset, data, written, end > inode->live.size ? end : inode->live.size);
    }
    return rc;
}

int sim_file_write(struct vfs_file *file, uint64_t offset, const void *data, size_t n, struct pleat_error *err) {
    if (!file->writable) {
        return error_system(err, EBADF, "write", file->name);
    }
    if (offset > (uint64_t)INT64_MAX || n > (uint64_t)INT64_MAX - offset) {
        return error_set(err, PLEAT_ERR_INVALID, EFBIG, "%s: write of %zu bytes at offset %llu is past any file's end",
                         file->name, n, (unsigned long long)offset);
    }
    if (n == 0) {
        return 0;
    }
    size_t written;
    sim_lock(file->fs);
    return sim_end(file->fs,
                   write_locked(file->fs, SIMFS_FILE_WRITE, file->inode, file->name, offset, data, n, &written, err));
}

int sim_file_size(struct vfs_file *file, uint64_t *ret_bytes, struct pleat_error *err) {
    sim_lock(file->fs);
    int rc = sim_begin(file->fs, SIMFS_FILE_SIZE, false, file->name, NULL, err);
    if (rc == 0) {
        *ret_bytes = file->inode->live.size;
    }
    return sim_end(file->fs, rc);
}

/* file_sync and log_sync. *failed is the handle's. */
static int sync_locked(struct simfs *fs, unsigned call, struct sim_inode *inode, const char *name, bool *failed,
                       struct pleat_error *err) {
    if (*failed) {
        fs->sync_retries++;
        return error_system(err, EIO, "sync", name);
    }
    bool half = false;
    int rc = sim_begin(fs, call, true, name, &half, err);
    if (rc == 0) {
        inode_settle(inode, inode->write_count);
    } else if (!fs->dead) { /* S5 */
        *failed = true;
        inode_settle(inode, half ? inode->write_count / 2 : 0);
        inode_forget_writes(inode);
    }
    return rc;
}

int sim_file_sync(struct vfs_file *file, struct pleat_error *err) {
    sim_lock(file->fs);
    return sim_end(file->fs, sync_locked(file->fs, SIMFS_FILE_SYNC, file->inode, file->name, &file->sync_failed, err));
}

/* What is not synced may be on the simulated disk at any time (simfs.h): there is nothing to add. */
void sim_file_will_sync(struct vfs_file *file, uint64_t offset, uint64_t n) {
    (void)file;
    (void)offset;
    (void)n;
}

void sim_file_will_read(struct vfs_file *file, uint64_t offset, uint64_t n) {
    (void)file;
    (void)offset;
    (void)n;
}

/* Sector by sector, as file systems know their holes by blocks. */
uint64_t sim_file_next_data(struct vfs_file *file, uint64_t offset) {
    uint8_t sector[SIMFS_SECTOR_BYTES];
    sim_lock(file->fs);
    uint64_t size = file->inode->live.size, at = offset;
    bool is_hole = true;
    while (is_hole && at < size) {
        uint64_t end = (at / sizeof sector + 1) * sizeof sector;
        end = end < size ? end : size;
        bytes_read(&file->inode->live, at, sector, (size_t)(end - at));
        for (size_t i = 0; i < end - at; i++) {
            is_hole = is_hole && sector[i] == 0;
        }
        at = is_hole ? end : at;
    }
    (void)sim_end(file->fs, 0);
    return at;
}

/* ---- the lock's file -------------------------------------------------------------------------------------------- */

int sim_lock_read(struct vfs_lock *lock, uint64_t offset, void *buffer, size_t n, struct pleat_error *err) {
    sim_lock(lock->fs);
    return sim_end(lock->fs, read_locked(lock->fs, lock->inode, lock->name, offset, buffer, n, err));
}

int sim_lock_write(struct vfs_lock *lock, uint64_t offset, const void *data, size_t n, struct pleat_error *err) {
    if (lock->shared || offset < VFS_LOCK_TEXT_BYTES) {
        abort(); /* an assertion on the real system */
    }
    size_t written;
    sim_lock(lock->fs);
    return sim_end(lock->fs,
                   write_locked(lock->fs, SIMFS_FILE_WRITE, lock->inode, lock->name, offset, data, n, &written, err));
}

int sim_lock_sync(struct vfs_lock *lock, struct pleat_error *err) {
    sim_lock(lock->fs);
    return sim_end(lock->fs, sync_locked(lock->fs, SIMFS_FILE_SYNC, lock->inode, lock->name, &lock->sync_failed, err));
}

/* ---- the log ---------------------------------------------------------------------------------------------------- */

static int log_create_locked(struct vfs_dir *dir, struct sim_log *log, struct pleat_error *err) {
    struct simfs *fs = dir->fs;
    int rc = sim_begin(fs, SIMFS_LOG_CREATE, true, log->name, NULL, err);
    if (rc < 0) {
        return rc;
    }
    if (names_find(&dir->dir->live_names, log->name) != NULL) {
        return error_system(err, EEXIST, "create", log->name);
    }
    uint64_t used = fs->quota == UINT64_MAX || fs->reserves_not ? 0 : sim_used_locked(fs);
    if (!fs->reserves_not && (used > fs->quota || log->log.bytes > fs->quota - used)) {
        fs->faults_fired++;
        return error_system(err, ENOSPC, "reserve", log->name);
    }
    log->inode = inode_new(fs);
    log->inode->mapped = !log->by_write;
    log->inode->sparse = fs->reserves_not;
    dir_name_op(fs, dir->dir, SIM_CREATE, log->name, "", log->inode);
    inode_write(fs, log->inode, 0, NULL, 0, log->log.bytes);
    return 0;
}

int sim_log_create(struct vfs_dir *dir, const char *name, uint64_t bytes, bool by_write, uint32_t mode,
                   struct vfs_log **ret_log, struct pleat_error *err) {
    (void)mode;
    struct simfs *fs = dir->fs;
    int rc = sim_name_verify(name, err);
    if (rc == 0 && (bytes == 0 || bytes > (uint64_t)INT64_MAX)) {
        rc = error_set(err, PLEAT_ERR_INVALID, 0, "%s: a log segment of %llu bytes", name, (unsigned long long)bytes);
    }
    if (rc < 0) {
        return rc;
    }
    struct sim_log *log = mem_zalloc(dir->mem, 1, sizeof *log);
    void *base = log != NULL ? mem_map(dir->mem, (size_t)bytes, false) : NULL;
    if (base == NULL) {
        mem_free(dir->mem, log);
        return error_no_memory(err, "log segment", bytes);
    }
    sim_lock(fs);
    log->by_write = by_write || fs->reserves_not;
    log->log =
        (struct vfs_log){.vfs = &fs->vfs, .base = base, .bytes = (size_t)bytes, .is_mapped = !log->by_write};
    log->fs = fs;
    log->mem = dir->mem;
    strncpy(log->name, name, VFS_NAME_BYTES_MAX);
    rc = log_create_locked(dir, log, err);
    if (rc < 0) {
        mem_unmap(dir->mem, base, (size_t)bytes);
        mem_free(dir->mem, log);
        return sim_end(fs, rc);
    }
    log->next = fs->logs;
    fs->logs = log;
    log->inode->handles++;
    fs->open_handles++;
    *ret_log = &log->log;
    return sim_end(fs, 0);
}

/* S8. PLEAT_ERR_NO_SPACE once the part is out for good. */
static int log_undo_locked(struct sim_log *log, uint64_t offset, size_t written, struct pleat_error *err) {
    struct simfs *fs = log->fs;
    uint8_t *zeros = sim_alloc(written);
    inode_write(fs, log->inode, offset, zeros, written, log->log.bytes);
    free(zeros);
    if (log->inode->live.used == offset + written) {
        log->inode->live.used = (size_t)offset; /* the same contents, and the room is free again */
    }
    int rc = sync_locked(fs, SIMFS_LOG_SYNC, log->inode, log->name, &log->sync_failed, NULL);
    return rc == 0 ? error_system(err, ENOSPC, "publish", log->name) : error_system(err, EIO, "publish", log->name);
}

int sim_log_publish(struct vfs_log *vfs_log, uint64_t offset, size_t n, struct pleat_error *err) {
    struct sim_log *log = (struct sim_log *)vfs_log;
    struct simfs *fs = log->fs;
    if (offset > vfs_log->bytes || n > vfs_log->bytes - offset) {
        abort(); /* an assertion on the real system */
    }
    if (n == 0) {
        return 0;
    }
    sim_lock(fs);
    if (log->by_write) {
        struct pleat_error failure = {0};
        size_t written;
        int rc = write_locked(fs, SIMFS_LOG_PUBLISH, log->inode, log->name, offset, vfs_log->base + offset, n, &written,
                              &failure);
        if (rc == PLEAT_ERR_NO_SPACE && written > 0) {
            error_clear(&failure);
            rc = log_undo_locked(log, offset, written, &failure);
        }
        return sim_end(fs, rc == 0 ? 0 : error_set(err, rc, failure.os_errno, "%s", failure.message));
    }
    int rc = sim_begin(fs, 0, true, log->name, NULL, err);
    if (rc == 0) {
        inode_write(fs, log->inode, offset, vfs_log->base + offset, n, vfs_log->bytes);
    }
    return sim_end(fs, rc);
}

int sim_log_sync(struct vfs_log *vfs_log, struct pleat_error *err) {
    struct sim_log *log = (struct sim_log *)vfs_log;
    sim_lock(log->fs);
    return sim_end(log->fs, sync_locked(log->fs, SIMFS_LOG_SYNC, log->inode, log->name, &log->sync_failed, err));
}

/* Through a mapping the store is all; no sync covers it until the log is closed. */
void sim_log_note(struct vfs_log *vfs_log, uint64_t offset, size_t n) {
    struct sim_log *log = (struct sim_log *)vfs_log;
    size_t written;
    sim_lock(log->fs);
    if (log->by_write) {
        (void)write_locked(log->fs, 0, log->inode, log->name, offset, vfs_log->base + offset, n, &written, NULL);
    }
    (void)sim_end(log->fs, 0);
}

void sim_log_prepare(struct vfs_log *log, uint64_t offset) {
    (void)log;
    (void)offset;
}

void sim_log_close(struct vfs_log *vfs_log) {
    if (vfs_log == NULL) {
        return;
    }
    struct sim_log *log = (struct sim_log *)vfs_log;
    struct simfs *fs = log->fs;
    sim_lock(fs);
    if (!fs->dead) {
        sim_absorb_log(fs, log); /* what was stored stays in the file when the mapping goes */
    }
    struct sim_log **link = &fs->logs;
    while (*link != log) {
        link = &(*link)->next;
    }
    *link = log->next;
    log->inode->handles--;
    fs->open_handles--;
    sim_unlock(fs);
    mem_unmap(log->mem, vfs_log->base, vfs_log->bytes);
    mem_free(log->mem, log);
}
