/*
 * vfs_lock.c - the lock of a store: flock on its directory and on a file of it, with the holder's pid in the file as
 * text, and behind that what its holders keep there.
 *
 * Why flock and not fcntl: a record lock belongs to the process, so a second open in the same process is let through,
 * and closing any descriptor of the file drops it. An flock belongs to the open file description. It refuses every
 * second open, and it goes when the process ends, however it ends; a file left behind locks nothing.
 *
 *   K1  The pid is written after the lock is held and blanked out before it is given up. It is only for messages: a
 *       full disk that keeps it from being written does not keep the store from being opened.
 *   K2  A lock counts only while its file is the one of that name: a file that was replaced between open and flock
 *       would leave two holders of "the same" lock.
 *   K3  A forked child shares the description. Releasing in the child closes the copy and leaves the parent's lock;
 *       releasing in the parent unlocks for both.
 *   K4  What stands behind the pid stays when the lock is taken and given up, as long as the pid can be written. Where
 *       it cannot, the file is emptied: nobody relies on what it holds.
 *   K5  The directory is locked before the file and as long: the file may be removed, or not be there for a store that
 *       is only read, and the next one of its name would be free. Where a file system locks no directories, the file's
 *       lock is the only one.
 */
#include "platform/vfs_posix.h"

#include "base/assert.h"
#include "base/error.h"
#include "base/mutation.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

struct vfs_lock {
    const struct mem *mem;
    int fd;     /* of the file; -1: a shared lock without one */
    int dir_fd; /* of the directory; -1: it cannot be locked (K5) */
    bool shared;
    pid_t owner;
    struct posix_sync sync;
    char name[VFS_NAME_BYTES_MAX + 1];
};

enum { LOCK_ATTEMPTS = 64 };

/* The pid in the file; 0 when there is none that is alive, for a holder that died leaves its pid to shared holders. */
static int64_t lock_read_holder(int fd) {
    char text[VFS_LOCK_TEXT_BYTES];
    ssize_t got;
    do {
        got = pread(fd, text, sizeof text, 0);
    } while (got < 0 && errno == EINTR);
    int64_t pid = 0;
    for (ssize_t i = 0; i < got && text[i] >= '0' && text[i] <= '9'; i++) {
        pid = pid * 10 + (text[i] - '0');
    }
    if (pid <= 0 || pid > INT32_MAX || (kill((pid_t)pid, 0) != 0 && errno == ESRCH)) {
        return 0;
    }
    return pid;
}

/* K1, K4. One write of a fixed width replaces an older and longer pid whole. 0: nobody. */
static void lock_write_holder(int fd, pid_t pid) {
    char text[VFS_LOCK_TEXT_BYTES + 1];
    (void)snprintf(text, sizeof text, pid != 0 ? "%-11ld\n" : "%-11.0ld\n", (long)pid);
    size_t written;
    if (posix_write_all(fd, 0, text, VFS_LOCK_TEXT_BYTES, &written) != 0) {
        (void)posix_set_size(fd, 0); /* rather none than that of an earlier holder */
    }
}

/* K2: whether the descriptor is still the file of that name. */
static int lock_is_current(const struct vfs_dir *dir, const char *name, int fd, struct pleat_error *err) {
    struct stat held;
    struct stat named;
    int os_errno = posix_status(fd, &held);
    if (os_errno != 0) {
        return error_system(err, os_errno, "fstat", name);
    }
    while (fstatat(dir->fd, name, &named, AT_SYMLINK_NOFOLLOW) != 0) {
        if (errno != EINTR) {
            return errno == ENOENT ? 1 : error_system(err, errno, "fstat", name);
        }
    }
    return held.st_dev == named.st_dev && held.st_ino == named.st_ino ? 0 : 1;
}

static int lock_busy(const char *name, int fd, int64_t *ret_holder_pid, struct pleat_error *err) {
    int64_t holder = lock_read_holder(fd);
    if (ret_holder_pid != NULL) {
        *ret_holder_pid = holder;
    }
    if (holder == 0) {
        return error_set(err, PLEAT_ERR_BUSY, EWOULDBLOCK, "%s: held by another handle or process (pid not known)",
                         name);
    }
    return error_set(err, PLEAT_ERR_BUSY, EWOULDBLOCK, "%s: held by process %lld%s", name, (long long)holder,
                     holder == (int64_t)getpid() ? " (this one)" : "");
}

/* 0 or an errno. */
static int lock_take(int fd, bool shared) {
    int locked;
    do {
        locked = MUTATION(posix_lock) ? 0 : flock(fd, (shared ? LOCK_SH : LOCK_EX) | LOCK_NB);
    } while (locked != 0 && errno == EINTR);
    return locked == 0 ? 0 : errno;
}

/* K5. Another holder is named by the file, if that is there. */
static int lock_directory(const struct vfs_dir *dir, const char *name, bool shared, int *ret_fd,
                          int64_t *ret_holder_pid, struct pleat_error *err) {
    int fd;
    int os_errno = posix_dir_open_fd(dir->fd, ".", &fd);
    if (os_errno != 0) {
        return error_system(err, os_errno, "open directory", dir->path);
    }
    os_errno = MUTATION(posix_lock_directory) ? EBADF : lock_take(fd, shared);
    if (os_errno == 0) {
        *ret_fd = fd;
        return 0;
    }
    (void)close(fd);
    *ret_fd = -1;
    if (os_errno != EWOULDBLOCK) {
        return 0; /* not something that this file system locks */
    }
    struct pleat_error ignored;
    int file;
    bool has_file = posix_open_at(dir, name, O_RDONLY, 0, &file, &ignored) == 0;
    int rc = lock_busy(name, has_file ? file : -1, ret_holder_pid, err);
    if (has_file) {
        (void)close(file);
    }
    return rc;
}

/* One attempt: 0 with *ret_fd held, 1 when the file was replaced meanwhile, or an error. */
static int lock_attempt(const struct vfs_dir *dir, const char *name, bool shared, uint32_t mode, int *ret_fd,
                        int64_t *ret_holder_pid, struct pleat_error *err) {
    int fd;
    int rc = posix_open_at(dir, name, shared ? O_RDONLY : O_RDWR | O_CREAT, mode, &fd, err);
    if (rc < 0) {
        return rc;
    }
    int os_errno = lock_take(fd, shared);
    if (os_errno != 0) {
        rc = os_errno == EWOULDBLOCK ? lock_busy(name, fd, ret_holder_pid, err)
                                     : error_system(err, os_errno, "flock", name);
    } else {
        rc = lock_is_current(dir, name, fd, err);
    }
    if (rc != 0) {
        (void)close(fd);
        return rc;
    }
    *ret_fd = fd;
    return 0;
}

/* The file's lock: 0, PLEAT_ERR_NOT_FOUND, or another error. */
static int lock_file(const struct vfs_dir *dir, const char *name, bool shared, uint32_t mode, int *ret_fd,
                     int64_t *ret_holder_pid, struct pleat_error *err) {
    int rc = 1;
    for (int attempt = 0; rc > 0 && attempt < LOCK_ATTEMPTS; attempt++) {
        rc = lock_attempt(dir, name, shared, mode, ret_fd, ret_holder_pid, err);
    }
    return rc > 0 ? error_set(err, PLEAT_ERR_BUSY, 0, "%s: replaced %d times while being locked", name, LOCK_ATTEMPTS)
                  : rc;
}

int posix_dir_lock(struct vfs_dir *dir, const char *name, bool shared, uint32_t mode, struct vfs_lock **ret_lock,
                   int64_t *ret_holder_pid, struct pleat_error *err) {
    if (ret_holder_pid != NULL) {
        *ret_holder_pid = 0;
    }
    int rc = posix_name_verify(name, err);
    if (rc < 0) {
        return rc;
    }
    struct vfs_lock *lock = mem_alloc(dir->mem, sizeof *lock);
    if (lock == NULL) {
        return error_no_memory(err, "lock handle", sizeof *lock);
    }
    lock->mem = dir->mem;
    lock->fd = -1;
    lock->dir_fd = -1;
    lock->shared = shared;
    lock->owner = getpid();
    atomic_init(&lock->sync.failed_errno, 0);
    (void)snprintf(lock->name, sizeof lock->name, "%s", name);
    struct pleat_error cause = {0}; /* of its own, because a missing file is no failure of a shared lock */
    rc = lock_directory(dir, name, shared, &lock->dir_fd, ret_holder_pid, &cause);
    rc = rc == 0 ? lock_file(dir, name, shared, mode, &lock->fd, ret_holder_pid, &cause) : rc;
    if (shared && rc == PLEAT_ERR_NOT_FOUND) {
        rc = 0;
    }
    if (rc < 0) {
        posix_lock_release(lock);
        return error_set(err, rc, cause.os_errno, "%s", cause.message);
    }
    if (!shared) {
        lock_write_holder(lock->fd, lock->owner);
    }
    *ret_lock = lock;
    return 0;
}

void posix_lock_release(struct vfs_lock *lock) {
    if (lock == NULL) {
        return;
    }
    bool is_owner = lock->owner == getpid(); /* K3 */
    const int fds[] = {lock->fd, lock->dir_fd}; /* K5: the directory's last */
    if (is_owner && !lock->shared && lock->fd >= 0) {
        lock_write_holder(lock->fd, 0);
    }
    for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++) {
        if (fds[i] >= 0) {
            (void)(is_owner ? flock(fds[i], LOCK_UN) : 0);
            (void)close(fds[i]);
        }
    }
    mem_free(lock->mem, lock);
}

int posix_lock_read(struct vfs_lock *lock, uint64_t offset, void *buffer, size_t n, struct pleat_error *err) {
    if (lock->fd < 0) {
        return error_set(err, PLEAT_ERR_NOT_FOUND, ENOENT, "%s: is not there", lock->name);
    }
    return posix_read_all(lock->fd, offset, buffer, n, lock->name, err);
}

int posix_lock_write(struct vfs_lock *lock, uint64_t offset, const void *data, size_t n, struct pleat_error *err) {
    ASSERT(!lock->shared && offset >= VFS_LOCK_TEXT_BYTES);
    size_t written;
    int os_errno = posix_write_all(lock->fd, offset, data, n, &written);
    return os_errno == 0 ? 0 : error_system(err, os_errno, "write", lock->name);
}

int posix_lock_sync(struct vfs_lock *lock, struct pleat_error *err) {
    return posix_sync_data(&lock->sync, lock->fd, lock->name, err);
}
