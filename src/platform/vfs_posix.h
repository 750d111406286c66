/*
 * vfs_posix.h - what the files of the real system's vfs share: the directory handle and the one way to open a name.
 *
 * The vfs of the real system is vfs_posix.c (directories, clock, randomness, the table of functions), vfs_file.c,
 * vfs_lock.c and vfs_log.c. Platform is the lowest floor. It includes base/error.h, base/mem.h, base/assert.h and
 * base/mutation.h all the same: none of the four makes a system call that can touch the disk, and the texts of errors,
 * the seam of allocations and the list of defects belong in one place.
 *
 *   N1  Every file is opened relative to the directory's descriptor, close-on-exec, not through a link, and must be a
 *       regular file: a pipe put in its place is refused, and does not hang the open.
 *   N2  After a failed sync every later sync of the same handle fails with the same errno. The kernel reports a lost
 *       page once and then calls it clean, so a sync that succeeds afterwards would be a lie. EINTR is no failure: the
 *       wait was broken off, nothing was reported and nothing called clean, so the same sync is asked for again.
 */
#ifndef PLEAT_PLATFORM_VFS_POSIX_H
#define PLEAT_PLATFORM_VFS_POSIX_H

#include "base/mem.h"
#include "platform/vfs.h"

#include <stdatomic.h>
#include <sys/stat.h>

struct vfs_dir {
    const struct mem *mem; /* of everything opened in the directory */
    int fd;
    char path[]; /* as it was given, for messages */
};

/* The first failure of a sync on one handle (N2). */
struct posix_sync {
    _Atomic int failed_errno;
};

/* Opens the regular file `name` with `flags` (N1). PLEAT_ERR_INVALID for a name that is not plain, a link, or anything
 * but a regular file. */
int posix_open_at(const struct vfs_dir *dir, const char *name, int flags, uint32_t mode, int *ret_fd,
                  struct pleat_error *err);
/* The descriptor, above those of standard input, output and error (D3); -1 with errno. */
int posix_fd_move(int fd);
/* Opens a directory: 0 or an errno. */
int posix_dir_open_fd(int at, const char *path, int *ret_fd);
/* 0, or PLEAT_ERR_INVALID for a name that is empty, too long, "." or "..", or holds a '/'. */
int posix_name_verify(const char *name, struct pleat_error *err);
/* Reads exactly n bytes at offset; fewer is PLEAT_ERR_CORRUPT. */
int posix_read_all(int fd, uint64_t offset, void *buffer, size_t n, const char *name, struct pleat_error *err);
/* Writes all n bytes at offset: 0, or an errno after *ret_written of them. */
int posix_write_all(int fd, uint64_t offset, const void *data, size_t n, size_t *ret_written);
/* ftruncate and fstat: 0 or an errno. */
int posix_set_size(int fd, uint64_t bytes);
int posix_status(int fd, struct stat *ret_status);
/* fsync of a directory: 0 or an errno. */
int posix_sync_directory(int fd);
/* fdatasync under N2. */
int posix_sync_data(struct posix_sync *sync, int fd, const char *name, struct pleat_error *err);
/* msync of n bytes from the page boundary `base` under N2. */
int posix_sync_range(struct posix_sync *sync, void *base, size_t n, const char *name, struct pleat_error *err);

int posix_file_open(struct vfs_dir *dir, const char *name, enum vfs_file_mode how, uint32_t mode,
                    struct vfs_file **ret_file, struct pleat_error *err);
void posix_file_close(struct vfs_file *file);
int posix_file_read(struct vfs_file *file, uint64_t offset, void *buffer, size_t n, struct pleat_error *err);
int posix_file_write(struct vfs_file *file, uint64_t offset, const void *data, size_t n, struct pleat_error *err);
int posix_file_size(struct vfs_file *file, uint64_t *ret_bytes, struct pleat_error *err);
int posix_file_sync(struct vfs_file *file, struct pleat_error *err);
void posix_file_will_sync(struct vfs_file *file, uint64_t offset, uint64_t n);
void posix_file_will_read(struct vfs_file *file, uint64_t offset, uint64_t n);
uint64_t posix_file_next_data(struct vfs_file *file, uint64_t offset);

int posix_dir_lock(struct vfs_dir *dir, const char *name, bool shared, uint32_t mode, struct vfs_lock **ret_lock,
                   int64_t *ret_holder_pid, struct pleat_error *err);
void posix_lock_release(struct vfs_lock *lock);
int posix_lock_read(struct vfs_lock *lock, uint64_t offset, void *buffer, size_t n, struct pleat_error *err);
int posix_lock_write(struct vfs_lock *lock, uint64_t offset, const void *data, size_t n, struct pleat_error *err);
int posix_lock_sync(struct vfs_lock *lock, struct pleat_error *err);

int posix_log_create(struct vfs_dir *dir, const char *name, uint64_t bytes, bool by_write, uint32_t mode,
                     struct vfs_log **ret_log, struct pleat_error *err);
int posix_log_publish(struct vfs_log *log, uint64_t offset, size_t n, struct pleat_error *err);
int posix_log_sync(struct vfs_log *log, struct pleat_error *err);
void posix_log_note(struct vfs_log *log, uint64_t offset, size_t n);
void posix_log_prepare(struct vfs_log *log, uint64_t offset);
int posix_log_rename(struct vfs_dir *dir, struct vfs_log *log, const char *to, struct pleat_error *err);
void posix_log_close(struct vfs_log *log);

#endif
