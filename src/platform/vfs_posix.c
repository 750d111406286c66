/*
 * vfs_posix.c - the real system behind vfs.h: directories, clock, randomness, and the table of functions.
 *
 * A directory is one descriptor; its path is used once, to open it, so that renaming or remounting an ancestor later
 * cannot split a store over two places. The parent is reached through ".." of that descriptor: it is then the parent of
 * the directory itself also when the path ends in a slash, a dot or a link.
 *
 *   D1  VFS_DIR_CREATE syncs the parent even when the directory was there: whoever made it may have died before its
 *       own sync, and everything durable in the directory hangs on that one name.
 *   D2  dir_list reads through a descriptor of its own, so lists may run side by side; it allocates nothing.
 *   D3  No descriptor of a store is 0, 1 or 2, also in a process that has closed those: what somebody writes to
 *       "standard error" would go into a file of the store.
 */
#include "platform/vfs_posix.h"

#include "base/error.h"
#include "base/mutation.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h> /* renameat is declared there; nothing here prints */
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

int posix_name_verify(const char *name, struct pleat_error *err) {
    size_t length = strlen(name);
    if (length == 0 || length > VFS_NAME_BYTES_MAX || strchr(name, '/') != NULL || strcmp(name, ".") == 0 ||
        strcmp(name, "..") == 0) {
        return error_set(err, PLEAT_ERR_INVALID, EINVAL, "not a plain file name (%zu bytes, limit %d): '%.64s'", length,
                         VFS_NAME_BYTES_MAX, name);
    }
    return 0;
}

int posix_fd_move(int fd) {
    enum { STANDARD_FDS = 3 };
    if (fd < 0 || fd >= STANDARD_FDS) {
        return fd;
    }
    int moved = fcntl(fd, F_DUPFD_CLOEXEC, STANDARD_FDS); /* D3 */
    int os_errno = errno;
    (void)close(fd);
    errno = os_errno;
    return moved;
}

int posix_open_at(const struct vfs_dir *dir, const char *name, int flags, uint32_t mode, int *ret_fd,
                  struct pleat_error *err) {
    int rc = posix_name_verify(name, err);
    if (rc < 0) {
        return rc;
    }
    int fd;
    do {
        /* O_NONBLOCK means nothing to a regular file and keeps the open of a pipe from waiting for its other end. */
        fd = openat(dir->fd, name, flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, (mode_t)(mode & 07777));
        bool is_made = fd >= 0 && (flags & O_EXCL) != 0;
        fd = posix_fd_move(fd);
        if (fd < 0 && is_made) { /* there was no descriptor above the standard ones: a refused call leaves nothing */
            int os_errno = errno;
            (void)unlinkat(dir->fd, name, 0);
            errno = os_errno;
        }
    } while (fd < 0 && errno == EINTR);
    if (fd < 0 && errno == ELOOP) {
        return error_set(err, PLEAT_ERR_INVALID, ELOOP, "%s: is a symbolic link, which a store never follows", name);
    }
    if (fd < 0 && (errno == EISDIR || errno == ENXIO)) {
        return error_set(err, PLEAT_ERR_INVALID, errno, "%s: is not a regular file", name);
    }
    if (fd < 0) {
        return error_system(err, errno, (flags & O_CREAT) != 0 ? "create" : "open", name);
    }
    struct stat status;
    int os_errno = posix_status(fd, &status);
    if (os_errno != 0) {
        rc = error_system(err, os_errno, "fstat", name);
    } else if (!S_ISREG(status.st_mode)) {
        rc = error_set(err, PLEAT_ERR_INVALID, 0, "%s: is not a regular file", name);
    }
    if (rc < 0) {
        (void)close(fd);
        return rc;
    }
    *ret_fd = fd;
    return 0;
}

/* ---- directories ------------------------------------------------------------------------------------------------ */

int posix_dir_open_fd(int at, const char *path, int *ret_fd) {
    int fd;
    do {
        fd = posix_fd_move(openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    } while (fd < 0 && errno == EINTR);
    *ret_fd = fd;
    return fd < 0 ? errno : 0;
}

static int dir_open_error(struct pleat_error *err, int os_errno, const char *operation, const char *path) {
    switch (os_errno) {
    case ENOTDIR:
        return error_set(err, PLEAT_ERR_INVALID, os_errno, "%.120s: is a file or lies below one, not a directory",
                         path);
    case ENAMETOOLONG:
    case ELOOP:
        return error_set(err, PLEAT_ERR_INVALID, os_errno, "%.120s: no usable path (errno %d)", path, os_errno);
    default:
        return error_system(err, os_errno, operation, path);
    }
}

/* D1. A directory that was there may lie below one that this user may pass through but not open; nothing can be
 * synced then, and whoever made it had the right to. Or it is where something is mounted below a file system that has
 * no sync or is never written: its name is not a crash's to take. */
static int dir_sync_parent(const struct vfs_dir *dir, bool created, struct pleat_error *err) {
    int fd;
    int os_errno = posix_dir_open_fd(dir->fd, "..", &fd);
    if (os_errno != 0) {
        return created || os_errno != EACCES ? error_system(err, os_errno, "open parent", dir->path) : 0;
    }
    os_errno = MUTATION(posix_parent_sync) ? 0 : posix_sync_directory(fd);
    (void)close(fd);
    bool has_none = !created && (os_errno == EINVAL || os_errno == EROFS || os_errno == EOPNOTSUPP);
    return os_errno == 0 || has_none ? 0 : error_system(err, os_errno, "fsync parent", dir->path);
}

static int posix_dir_open(const struct vfs *vfs, const struct mem *mem, const char *path, enum vfs_dir_mode how,
                          uint32_t mode, struct vfs_dir **ret_dir, struct pleat_error *err) {
    (void)vfs;
    size_t path_bytes = strlen(path) + 1;
    struct vfs_dir *dir = mem_alloc(mem, sizeof *dir + path_bytes);
    if (dir == NULL) {
        return error_no_memory(err, "directory handle", sizeof *dir + path_bytes);
    }
    dir->mem = mem;
    memcpy(dir->path, path, path_bytes);

    bool created = false;
    int os_errno = posix_dir_open_fd(AT_FDCWD, path, &dir->fd);
    if (os_errno == ENOENT && how == VFS_DIR_CREATE) {
        /* A directory is used by passing through it: whoever may read it also gets x. */
        uint32_t dir_mode = (mode & 0777) | ((mode & 0444) >> 2);
        if (mkdir(path, (mode_t)dir_mode) == 0) {
            created = true;
        } else if (errno != EEXIST) {
            int rc = dir_open_error(err, errno, "mkdir", path);
            mem_free(mem, dir);
            return rc;
        }
        os_errno = posix_dir_open_fd(AT_FDCWD, path, &dir->fd);
    }
    if (os_errno != 0) {
        int rc = dir_open_error(err, os_errno, "open directory", path);
        mem_free(mem, dir);
        return rc;
    }
    int rc = how == VFS_DIR_CREATE ? dir_sync_parent(dir, created, err) : 0;
    if (rc < 0) {
        (void)close(dir->fd);
        mem_free(mem, dir);
        return rc;
    }
    *ret_dir = dir;
    return 0;
}

static void posix_dir_close(struct vfs_dir *dir) {
    if (dir == NULL) {
        return;
    }
    (void)close(dir->fd);
    mem_free(dir->mem, dir);
}

static int posix_dir_sync(struct vfs_dir *dir, struct pleat_error *err) {
    int os_errno = MUTATION(posix_dir_sync) ? 0 : posix_sync_directory(dir->fd);
    return os_errno == 0 ? 0 : error_system(err, os_errno, "fsync directory", dir->path);
}

static int posix_dir_list(struct vfs_dir *dir, int (*callback)(void *context, const char *name), void *context,
                          struct pleat_error *err) {
    int fd;
    int os_errno = posix_dir_open_fd(dir->fd, ".", &fd);
    if (os_errno != 0) {
        return error_system(err, os_errno, "open directory", dir->path);
    }
    int rc = 0;
    while (rc == 0) {
        _Alignas(struct dirent64) char buffer[8192];
        ssize_t got = getdents64(fd, buffer, sizeof buffer);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            rc = error_system(err, errno, "list directory", dir->path);
        }
        if (got <= 0) {
            break;
        }
        for (ssize_t at = 0; at < got && rc == 0;) {
            const struct dirent64 *entry = (const void *)(buffer + at);
            if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
                rc = callback(context, entry->d_name);
            }
            at += entry->d_reclen;
        }
    }
    (void)close(fd);
    return rc;
}

static int posix_dir_rename(struct vfs_dir *dir, const char *from, const char *to, struct pleat_error *err) {
    int rc = posix_name_verify(from, err);
    rc = rc < 0 ? rc : posix_name_verify(to, err);
    if (rc < 0) {
        return rc;
    }
    return renameat(dir->fd, from, dir->fd, to) == 0 ? 0 : error_system(err, errno, "rename", from);
}

static int posix_dir_unlink(struct vfs_dir *dir, const char *name, struct pleat_error *err) {
    int rc = posix_name_verify(name, err);
    if (rc < 0) {
        return rc;
    }
    return unlinkat(dir->fd, name, 0) == 0 ? 0 : error_system(err, errno, "unlink", name);
}

/* ---- clock and randomness --------------------------------------------------------------------------------------- */

static uint64_t posix_now_ns(const struct vfs *vfs) {
    (void)vfs;
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now); /* cannot fail for this clock */
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int posix_random(const struct vfs *vfs, void *buffer, size_t n, struct pleat_error *err) {
    (void)vfs;
    uint8_t *to = buffer;
    while (n > 0) {
        ssize_t got = getrandom(to, n, 0);
        if (got < 0 && errno != EINTR) {
            return error_system(err, errno, "getrandom", "random bytes");
        }
        if (got > 0) {
            to += got;
            n -= (size_t)got;
        }
    }
    return 0;
}

const struct vfs vfs_posix = {
    .dir_open = posix_dir_open,
    .dir_close = posix_dir_close,
    .dir_sync = posix_dir_sync,
    .dir_list = posix_dir_list,
    .dir_rename = posix_dir_rename,
    .dir_unlink = posix_dir_unlink,
    .dir_lock = posix_dir_lock,
    .lock_release = posix_lock_release,
    .lock_read = posix_lock_read,
    .lock_write = posix_lock_write,
    .lock_sync = posix_lock_sync,
    .file_open = posix_file_open,
    .file_close = posix_file_close,
    .file_read = posix_file_read,
    .file_write = posix_file_write,
    .file_size = posix_file_size,
    .file_sync = posix_file_sync,
    .file_will_sync = posix_file_will_sync,
    .file_will_read = posix_file_will_read,
    .file_next_data = posix_file_next_data,
    .log_create = posix_log_create,
    .log_publish = posix_log_publish,
    .log_sync = posix_log_sync,
    .log_note = posix_log_note,
    .log_prepare = posix_log_prepare,
    .log_rename = posix_log_rename,
    .log_close = posix_log_close,
    .now_ns = posix_now_ns,
    .random = posix_random,
    .context = NULL,
};
