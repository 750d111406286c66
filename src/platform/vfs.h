/*
 * vfs.h - the one seam for system calls: files, directories, the lock, the log's storage, clock and randomness.
 *
 * A store is given one `struct vfs` when it opens. `vfs_posix` is the real one; the tests put a simulated disk
 * behind the same functions, which records every operation, stops at any of them, and keeps only what was synced.
 *
 * Files are opened relative to a directory handle, never through links, close-on-exec. Names are plain (no '/').
 *
 *   P1  Every function returns 0 or a negative status with the text in err; EINTR and short transfers are dealt with
 *       inside. Nothing else in the library makes a system call that can touch the disk.
 *   P2  file_sync makes the contents and size durable; the name is durable only after dir_sync.
 *   P3  A failed file_sync, lock_sync or log_sync is never retried on the same handle.
 *
 * The log's storage is apart, because it must be a store into mapped memory where that is sound and pwrite elsewhere:
 *
 *     log_create -> base[0 .. bytes) is zeroed, its blocks are reserved
 *     fill base[offset ..), then log_publish(offset, n): the range is out of the process (survives kill -9)
 *     log_sync: everything published before is durable (the name, too, after dir_sync)
 *     log_note(offset, n): as log_publish, for bytes in front of the end that are written again and again and may be
 *         lost: no sync need cover them
 *
 * Threads: every function may be called from any thread; calls on one handle may run side by side, except close.
 */
#ifndef PLEAT_PLATFORM_VFS_H
#define PLEAT_PLATFORM_VFS_H

#include "pleat/pleat.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mem;
struct vfs;
struct vfs_dir;
struct vfs_file;
struct vfs_lock;

#define VFS_NAME_BYTES_MAX 255
#define VFS_LOCK_TEXT_BYTES 12

enum vfs_dir_mode {
    VFS_DIR_EXISTING,
    VFS_DIR_CREATE, /* create it when missing (one level), and sync its parent */
};

enum vfs_file_mode {
    VFS_FILE_READ,       /* existing */
    VFS_FILE_CREATE_NEW, /* for writing and reading; PLEAT_ERR_EXISTS when there */
};

/* The storage of one log segment being written. `base` is private memory or a mapping. */
struct vfs_log {
    const struct vfs *vfs;
    uint8_t *base;
    size_t bytes;
    bool is_mapped; /* base is the file's own pages, and not memory that is written to it */
};

struct vfs {
    /* `mode`: permission bits for a created directory. PLEAT_ERR_NOT_FOUND when missing; PLEAT_ERR_INVALID when the
     * path is a file. */
    int (*dir_open)(const struct vfs *vfs, const struct mem *mem, const char *path, enum vfs_dir_mode how,
                    uint32_t mode, struct vfs_dir **ret_dir, struct pleat_error *err);
    void (*dir_close)(struct vfs_dir *dir);
    int (*dir_sync)(struct vfs_dir *dir, struct pleat_error *err);
    /* Calls back with every name but "." and ".."; a non-zero return stops and is returned. */
    int (*dir_list)(struct vfs_dir *dir, int (*callback)(void *context, const char *name), void *context,
                    struct pleat_error *err);
    /* Replaces `to` if it is there. */
    int (*dir_rename)(struct vfs_dir *dir, const char *from, const char *to, struct pleat_error *err);
    int (*dir_unlink)(struct vfs_dir *dir, const char *name, struct pleat_error *err);
    /* An exclusive (shared: read-only opens) lock on the directory and its file `name`, which is created unless shared.
     * The holder's pid is written into its first VFS_LOCK_TEXT_BYTES. PLEAT_ERR_BUSY when held by any other handle of
     * any process, with *ret_holder_pid (0 when unknown). Of a shared lock the file may be missing: *ret_lock is then
     * one without anything to read, or NULL. Gone with the process. */
    int (*dir_lock)(struct vfs_dir *dir, const char *name, bool shared, uint32_t mode, struct vfs_lock **ret_lock,
                    int64_t *ret_holder_pid, struct pleat_error *err);
    void (*lock_release)(struct vfs_lock *lock);
    /* The lock's file behind the pid belongs to its holder, and outlives the lock: as file_read, file_write, file_sync.
     * Writing needs an exclusive one. */
    int (*lock_read)(struct vfs_lock *lock, uint64_t offset, void *buffer, size_t n, struct pleat_error *err);
    int (*lock_write)(struct vfs_lock *lock, uint64_t offset, const void *data, size_t n, struct pleat_error *err);
    int (*lock_sync)(struct vfs_lock *lock, struct pleat_error *err);

    int (*file_open)(struct vfs_dir *dir, const char *name, enum vfs_file_mode how, uint32_t mode,
                     struct vfs_file **ret_file, struct pleat_error *err);
    void (*file_close)(struct vfs_file *file);
    /* Reads exactly n bytes; fewer in the file is PLEAT_ERR_CORRUPT naming both lengths. */
    int (*file_read)(struct vfs_file *file, uint64_t offset, void *buffer, size_t n, struct pleat_error *err);
    /* Writes all n bytes; on an error any part of them may be there. */
    int (*file_write)(struct vfs_file *file, uint64_t offset, const void *data, size_t n, struct pleat_error *err);
    int (*file_size)(struct vfs_file *file, uint64_t *ret_bytes, struct pleat_error *err);
    int (*file_sync)(struct vfs_file *file, struct pleat_error *err);
    /* Advice that a file_sync will ask for [offset, offset + n), which has been written: the device may begin with it.
     * Promises nothing; may do nothing, or wait for the device a while. */
    void (*file_will_sync)(struct vfs_file *file, uint64_t offset, uint64_t n);
    /* Advice that [offset, offset + n) will be read soon; may do nothing. */
    void (*file_will_read)(struct vfs_file *file, uint64_t offset, uint64_t n);
    /* An offset at or behind this one up to which the file surely reads as zeroes: where its next data begins, or its
     * end. `offset` itself where nothing is known; never an error. */
    uint64_t (*file_next_data)(struct vfs_file *file, uint64_t offset);

    /* A new file of `bytes` reserved zero bytes. by_write: never a mapping. PLEAT_ERR_NO_SPACE leaves no file. */
    int (*log_create)(struct vfs_dir *dir, const char *name, uint64_t bytes, bool by_write, uint32_t mode,
                      struct vfs_log **ret_log, struct pleat_error *err);
    /* PLEAT_ERR_NO_SPACE: the file is durably as if the range had never been published, which may be tried again. On
     * any other error any part of it may be there, now or after a crash. */
    int (*log_publish)(struct vfs_log *log, uint64_t offset, size_t n, struct pleat_error *err);
    int (*log_sync)(struct vfs_log *log, struct pleat_error *err);
    void (*log_note)(struct vfs_log *log, uint64_t offset, size_t n);
    /* Makes pages up to `offset` ready to be stored to without a fault; advice, called ahead by a background thread. */
    void (*log_prepare)(struct vfs_log *log, uint64_t offset);
    /* Gives the file another name, as dir_rename, with its contents as they are: from here on it is as if nothing of it
     * had been published. On an error it has either name. */
    int (*log_rename)(struct vfs_dir *dir, struct vfs_log *log, const char *to, struct pleat_error *err);
    void (*log_close)(struct vfs_log *log);

    uint64_t (*now_ns)(const struct vfs *vfs); /* monotonic; never used for correctness */
    int (*random)(const struct vfs *vfs, void *buffer, size_t n, struct pleat_error *err);
    void *context;
};

/* The real system. */
extern const struct vfs vfs_posix;

#endif
