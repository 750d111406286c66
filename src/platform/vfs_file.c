/*
 * vfs_file.c - files of the real system: exact reads and writes at an offset, and the sync that fails for good.
 *
 * Reads are pread and not a mapping: a file that is cut under a mapping kills the host process, a short pread is an
 * error like any other. fdatasync is enough for a file: it flushes the size and the extents that are needed to read
 * the data back, and leaves out only the times. N1 and N2 are in vfs_posix.h.
 */
#include "platform/vfs_posix.h"

#include "base/error.h"
#include "base/mutation.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct vfs_file {
    const struct mem *mem;
    int fd;
    struct posix_sync sync;
    char name[];
};

/* off_t is signed: an offset beyond it can come from a damaged file and must not wrap to a negative one. */
static bool file_range_fits(uint64_t offset, uint64_t n) {
    return offset <= (uint64_t)INT64_MAX && n <= (uint64_t)INT64_MAX - offset;
}

int posix_write_all(int fd, uint64_t offset, const void *data, size_t n, size_t *ret_written) {
    const uint8_t *from = data;
    *ret_written = 0;
    while (n > 0) {
        ssize_t put = pwrite(fd, from, n, (off_t)offset);
        if (put < 0 && errno != EINTR) {
            return errno;
        }
        if (put == 0) {
            return EIO; /* no progress and no reason given: do not spin on it */
        }
        if (put > 0) {
            from += put;
            offset += (uint64_t)put;
            n -= (size_t)put;
            *ret_written += (size_t)put;
        }
    }
    return 0;
}

int posix_status(int fd, struct stat *ret_status) {
    while (fstat(fd, ret_status) != 0) {
        if (errno != EINTR) {
            return errno;
        }
    }
    return 0;
}

int posix_set_size(int fd, uint64_t bytes) {
    while (ftruncate(fd, (off_t)bytes) != 0) {
        if (errno != EINTR) {
            return errno;
        }
    }
    return 0;
}

int posix_sync_directory(int fd) {
    while (fsync(fd) != 0) {
        if (errno != EINTR) { /* N2 */
            return errno;
        }
    }
    return 0;
}

/* The errno with which this handle's syncs fail, or 0. */
static int sync_failed(const struct posix_sync *sync) {
    /* acquire; pairs with the release in sync_fail: whoever sees the failure does not ask the kernel again. */
    return atomic_load_explicit(&sync->failed_errno, memory_order_acquire);
}

static int sync_fail(struct posix_sync *sync, int os_errno) {
    if (!MUTATION(posix_sync_sticky)) {
        /* release; pairs with the acquire in sync_failed. */
        atomic_store_explicit(&sync->failed_errno, os_errno, memory_order_release);
    }
    return os_errno;
}

int posix_sync_data(struct posix_sync *sync, int fd, const char *name, struct pleat_error *err) {
    int failed = sync_failed(sync);
    while (failed == 0 && fdatasync(fd) != 0) {
        failed = errno == EINTR ? 0 : sync_fail(sync, errno); /* N2 */
    }
    return failed == 0 ? 0 : error_system(err, failed, "fdatasync", name);
}

int posix_sync_range(struct posix_sync *sync, void *base, size_t n, const char *name, struct pleat_error *err) {
    int failed = sync_failed(sync);
    while (failed == 0 && msync(base, n, MS_SYNC) != 0) {
        failed = errno == EINTR ? 0 : sync_fail(sync, errno); /* N2 */
    }
    return failed == 0 ? 0 : error_system(err, failed, "msync", name);
}

int posix_file_open(struct vfs_dir *dir, const char *name, enum vfs_file_mode how, uint32_t mode,
                    struct vfs_file **ret_file, struct pleat_error *err) {
    size_t name_bytes = strlen(name) + 1;
    struct vfs_file *file = mem_alloc(dir->mem, sizeof *file + name_bytes);
    if (file == NULL) {
        return error_no_memory(err, "file handle", sizeof *file + name_bytes);
    }
    file->mem = dir->mem;
    atomic_init(&file->sync.failed_errno, 0);
    memcpy(file->name, name, name_bytes);
    int flags = how == VFS_FILE_READ ? O_RDONLY : O_RDWR | O_CREAT | O_EXCL;
    int rc = posix_open_at(dir, name, flags, mode, &file->fd, err);
    if (rc < 0) {
        mem_free(dir->mem, file);
        return rc;
    }
    *ret_file = file;
    return 0;
}

void posix_file_close(struct vfs_file *file) {
    if (file == NULL) {
        return;
    }
    (void)close(file->fd); /* what matters was synced; a late error has nobody to tell */
    mem_free(file->mem, file);
}

int posix_read_all(int fd, uint64_t offset, void *buffer, size_t n, const char *name, struct pleat_error *err) {
    uint8_t *to = buffer;
    size_t done = 0;
    bool fits = file_range_fits(offset, n);
    while (fits && done < n) {
        ssize_t got = pread(fd, to + done, n - done, (off_t)(offset + done));
        if (got < 0 && errno != EINTR) {
            return error_system(err, errno, "read", name);
        }
        if (got == 0) {
            break;
        }
        done += got > 0 ? (size_t)got : 0;
    }
    if (done < n) {
        return error_set(err, PLEAT_ERR_CORRUPT, 0, "%s: cut short: %zu bytes expected at offset %llu, %zu bytes found",
                         name, n, (unsigned long long)offset, done);
    }
    return 0;
}

int posix_file_read(struct vfs_file *file, uint64_t offset, void *buffer, size_t n, struct pleat_error *err) {
    return posix_read_all(file->fd, offset, buffer, n, file->name, err);
}

int posix_file_write(struct vfs_file *file, uint64_t offset, const void *data, size_t n, struct pleat_error *err) {
    if (!file_range_fits(offset, n)) {
        return error_set(err, PLEAT_ERR_INVALID, EFBIG, "%s: write of %zu bytes at offset %llu is past any file's end",
                         file->name, n, (unsigned long long)offset);
    }
    size_t written;
    int os_errno = posix_write_all(file->fd, offset, data, n, &written);
    return os_errno == 0 ? 0 : error_system(err, os_errno, "write", file->name);
}

int posix_file_size(struct vfs_file *file, uint64_t *ret_bytes, struct pleat_error *err) {
    struct stat status;
    int os_errno = posix_status(file->fd, &status);
    if (os_errno != 0) {
        return error_system(err, os_errno, "fstat", file->name);
    }
    *ret_bytes = (uint64_t)status.st_size;
    return 0;
}

int posix_file_sync(struct vfs_file *file, struct pleat_error *err) {
    return MUTATION(posix_file_sync) ? 0 : posix_sync_data(&file->sync, file->fd, file->name, err);
}

void posix_file_will_sync(struct vfs_file *file, uint64_t offset, uint64_t n) {
#ifdef SYNC_FILE_RANGE_WRITE
    if (n > 0 && file_range_fits(offset, n)) {
        /* Begins the writes and waits for none: an error of theirs is the later fdatasync's to report, and is. */
        (void)sync_file_range(file->fd, (off_t)offset, (off_t)n, SYNC_FILE_RANGE_WRITE);
    }
#else
    (void)file, (void)offset, (void)n;
#endif
}

void posix_file_will_read(struct vfs_file *file, uint64_t offset, uint64_t n) {
    if (n > 0 && file_range_fits(offset, n)) {
        (void)posix_fadvise(file->fd, (off_t)offset, (off_t)n, POSIX_FADV_WILLNEED);
    }
}

uint64_t posix_file_next_data(struct vfs_file *file, uint64_t offset) {
    struct stat status;
    if (offset > (uint64_t)INT64_MAX || posix_status(file->fd, &status) != 0 || offset >= (uint64_t)status.st_size) {
        return offset;
    }
    /* Reserved blocks that were never written are a hole to it, unless the page cache holds stores to them. */
    off_t data = lseek(file->fd, (off_t)offset, SEEK_DATA);
    if (data >= (off_t)offset) {
        return (uint64_t)data;
    }
    return errno == ENXIO ? (uint64_t)status.st_size : offset;
}
