/*
 * vfs_log.c - the storage of log segments: a shared mapping where that is sound, private memory and pwrite elsewhere.
 *
 * A store into a shared file mapping survives the death of the process exactly as a written page does, at a twentieth
 * of the price of a write. It is sound only when the page's block exists: a store to a hole of a full disk is SIGBUS,
 * which kills the host. Hence the blocks are reserved first, so that a full disk is an error of log_create, and the
 * mapping is used only on file systems known to keep to the reservation (ext2/3/4, tmpfs). Those that copy on write may
 * need a new block for every store, as xfs does for blocks that a copy of the file shares, and network file systems
 * promise nothing: they get the other kind.
 *
 *     mapped     base = the file's pages             publish: a release store      sync: msync of what is new
 *     by write   base = private memory, zeroed       publish: pwrite of the range  sync: fdatasync
 *
 *   L1  msync(MS_SYNC) of a range of a shared mapping is the file's own fsync (data only) of that range, flush of the
 *       device included. fdatasync would do as well, but it also writes the pages that were made ready ahead and hold
 *       nothing yet: each of them is then write-protected, and the next store to it waits in the file system.
 *   L2  The size and the reserved blocks need no sync of their own: the first log_sync flushes what is needed to read
 *       the data back, and the name is the caller's dir_sync. A segment lost before that held nothing durable.
 *   L3  A log that could not be made leaves no file.
 *   L4  A publish that found the disk full is undone for good: the file is cut where the range begins, so that its
 *       blocks are free again, gets its size back, and is synced. Only then may a commit say that it is out: a power
 *       loss could else bring back the part that was written, which is whole when all that it lacks is zeros. When the
 *       undoing fails nobody knows what the file holds, and the error is no longer one of space.
 *   L5  Before a sync the process lets go of the whole pages in its range: their bytes are the file's, and nothing is
 *       stored to them any more. A page that is mapped when it is written back is write-protected first, and the kernel
 *       then interrupts every processor that runs a thread of this process: 8 us a page, of both threads.
 */
#include "platform/vfs_posix.h"

#include "base/assert.h"
#include "base/error.h"
#include "base/mutation.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum {
    LOG_RESERVE_STEP_MIN = 1 << 20,
    LOG_LET_GO_PAGES_MIN = 4, /* below so few, a call more costs what it saves */
};

struct posix_log {
    struct vfs_log log; /* first: what the caller holds */
    const struct mem *mem;
    int fd;
    struct posix_sync sync;
    _Atomic uint64_t published; /* the end of what was published; stored by the appending thread */
    _Atomic uint64_t synced;    /* of a mapped log: below is durable; stored by the thread that syncs */
    _Atomic uint64_t prepared;  /* pages below are populated, or being populated by someone */
    char name[VFS_NAME_BYTES_MAX + 1];
};

static struct posix_log *posix_log_of(struct vfs_log *log) {
    return (struct posix_log *)log;
}

/* 0, or an errno. On tmpfs a signal ends the call and undoes it; smaller steps let a process with a fast timer get
 * through all the same. */
static int log_reserve(int fd, uint64_t bytes) {
    uint64_t step = bytes;
    for (uint64_t at = 0; at < bytes;) {
        uint64_t n = bytes - at < step ? bytes - at : step;
        if (fallocate(fd, 0, (off_t)at, (off_t)n) == 0) {
            at += n;
        } else if (errno != EINTR) {
            return errno;
        } else if (step > LOG_RESERVE_STEP_MIN) {
            step /= 2;
        }
    }
    return 0;
}

static bool log_may_map(int fd) {
    struct statfs status;
    if (fstatfs(fd, &status) != 0) {
        return false;
    }
    uint32_t magic = (uint32_t)status.f_type; /* signed on some systems */
    return magic == (uint32_t)EXT4_SUPER_MAGIC || magic == (uint32_t)TMPFS_MAGIC;
}

/* Gives the open file its size, its blocks and `base`. */
static int log_attach(struct posix_log *log, uint64_t bytes, bool by_write, struct pleat_error *err) {
    int os_errno = MUTATION(posix_reserve) ? ENOSYS : log_reserve(log->fd, bytes);
    bool reserved = os_errno == 0 || MUTATION(posix_reserve);
    if (os_errno == EOPNOTSUPP || os_errno == ENOSYS) {
        /* No reservation here: the log has its size, is written, and a full disk is an error of log_publish. */
        os_errno = posix_set_size(log->fd, bytes);
    }
    if (os_errno != 0) {
        return error_system(err, os_errno, "reserve", log->name);
    }
    if (!by_write && reserved && log_may_map(log->fd)) {
        void *base = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, log->fd, 0);
        if (base != MAP_FAILED) {
            log->log.base = base;
            log->log.is_mapped = true;
            return 0;
        }
    }
    log->log.base = mem_map(log->mem, (size_t)bytes, false);
    return log->log.base != NULL ? 0 : error_no_memory(err, "log segment", bytes);
}

int posix_log_create(struct vfs_dir *dir, const char *name, uint64_t bytes, bool by_write, uint32_t mode,
                     struct vfs_log **ret_log, struct pleat_error *err) {
    if (bytes == 0 || bytes > (uint64_t)INT64_MAX || bytes > SIZE_MAX) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "%s: a log segment of %llu bytes", name, (unsigned long long)bytes);
    }
    struct posix_log *log = mem_zalloc(dir->mem, 1, sizeof *log);
    if (log == NULL) {
        return error_no_memory(err, "log handle", sizeof *log);
    }
    log->log.vfs = &vfs_posix;
    log->log.bytes = (size_t)bytes;
    log->mem = dir->mem;
    strncpy(log->name, name, VFS_NAME_BYTES_MAX); /* a longer one is refused by posix_open_at */
    int rc = posix_open_at(dir, name, O_RDWR | O_CREAT | O_EXCL, mode, &log->fd, err);
    if (rc < 0) {
        mem_free(dir->mem, log);
        return rc;
    }
    rc = log_attach(log, bytes, by_write, err);
    if (rc < 0) {
        (void)unlinkat(dir->fd, name, 0); /* L3 */
        (void)close(log->fd);
        mem_free(dir->mem, log);
        return rc;
    }
    *ret_log = &log->log;
    return 0;
}

/* L4. The errno of the publish, or that of the undoing. */
static int log_undo(struct posix_log *log, uint64_t offset, int os_errno) {
    int cut = posix_set_size(log->fd, offset);
    cut = cut == 0 ? posix_set_size(log->fd, log->log.bytes) : cut;
    if (cut != 0) {
        return cut == ENOSPC || cut == EDQUOT ? EIO : cut;
    }
    struct pleat_error failure = {0};
    if (posix_sync_data(&log->sync, log->fd, log->name, &failure) != 0) {
        return EIO;
    }
    return os_errno;
}

int posix_log_publish(struct vfs_log *vfs_log, uint64_t offset, size_t n, struct pleat_error *err) {
    struct posix_log *log = posix_log_of(vfs_log);
    ASSERT(offset <= vfs_log->bytes && n <= vfs_log->bytes - offset);
    if (vfs_log->is_mapped) {
        /* release; pairs with the acquire in log_sync_mapped. It also keeps the compiler from moving the stores behind
         * the moment from which the caller relies on them: a killed process loses no store that it has made. */
        uint64_t end = atomic_load_explicit(&log->published, memory_order_relaxed); /* stored by this thread alone */
        atomic_store_explicit(&log->published, offset + n > end ? offset + n : end, memory_order_release);
        return 0;
    }
    size_t written = 0;
    int os_errno = 0;
    if (!MUTATION(posix_publish)) {
        os_errno = posix_write_all(log->fd, offset, vfs_log->base + offset, n, &written);
    }
    if (written > 0 && (os_errno == ENOSPC || os_errno == EDQUOT)) {
        os_errno = log_undo(log, offset, os_errno);
    }
    return os_errno == 0 ? 0 : error_system(err, os_errno, "write", log->name);
}

/* The pages from the one in which the last sync ended to the end of what is published. */
static int log_sync_mapped(struct posix_log *log, struct pleat_error *err) {
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t end = atomic_load_explicit(&log->published, memory_order_acquire); /* pairs with posix_log_publish */
    /* relaxed, and stored so below: syncs of one log follow each other, ordered by whoever asks for them */
    uint64_t from = atomic_load_explicit(&log->synced, memory_order_relaxed) / page * page;
    uint64_t whole = end / page * page;
    if (whole >= from + LOG_LET_GO_PAGES_MIN * page) { /* L5 */
        (void)madvise(log->log.base + from, (size_t)(whole - from), MADV_DONTNEED);
    }
    int rc = posix_sync_range(&log->sync, log->log.base + from, (size_t)(end - from), log->name, err);
    if (rc == 0) {
        atomic_store_explicit(&log->synced, end, memory_order_relaxed);
    }
    return rc;
}

int posix_log_sync(struct vfs_log *vfs_log, struct pleat_error *err) {
    struct posix_log *log = posix_log_of(vfs_log);
    if (MUTATION(posix_log_sync)) {
        return 0;
    }
    return vfs_log->is_mapped ? log_sync_mapped(log, err) : posix_sync_data(&log->sync, log->fd, log->name, err);
}

void posix_log_note(struct vfs_log *vfs_log, uint64_t offset, size_t n) {
    struct posix_log *log = posix_log_of(vfs_log);
    ASSERT(offset <= vfs_log->bytes && n <= vfs_log->bytes - offset);
    if (vfs_log->is_mapped) {
        /* release; its partner is whoever opens the file after this process was killed, as in posix_log_publish. */
        atomic_thread_fence(memory_order_release);
    } else {
        size_t written;
        (void)posix_write_all(log->fd, offset, vfs_log->base + offset, n, &written); /* it may be lost */
    }
}

void posix_log_prepare(struct vfs_log *vfs_log, uint64_t offset) {
    struct posix_log *log = posix_log_of(vfs_log);
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t end = offset < vfs_log->bytes ? offset : vfs_log->bytes;
    end = (end + page - 1) / page * page; /* the last page is there whole, also when the segment ends within it */
    /* relaxed, here and below; pairs with nothing: the number only shares out the advice, and pages that two callers
     * populate, or none, are still right. */
    uint64_t from = atomic_load_explicit(&log->prepared, memory_order_relaxed);
    while (from < end) {
        if (atomic_compare_exchange_weak_explicit(&log->prepared, &from, end, memory_order_relaxed,
                                                  memory_order_relaxed)) {
            (void)madvise(vfs_log->base + from, (size_t)(end - from), MADV_POPULATE_WRITE);
            break;
        }
    }
}

int posix_log_rename(struct vfs_dir *dir, struct vfs_log *vfs_log, const char *to, struct pleat_error *err) {
    struct posix_log *log = posix_log_of(vfs_log);
    int rc = vfs_posix.dir_rename(dir, log->name, to, err);
    if (rc < 0) {
        return rc;
    }
    strncpy(log->name, to, VFS_NAME_BYTES_MAX);
    /* relaxed: nobody else is inside a log that is renamed */
    atomic_store_explicit(&log->published, 0, memory_order_relaxed);
    atomic_store_explicit(&log->synced, 0, memory_order_relaxed);
    atomic_store_explicit(&log->prepared, 0, memory_order_relaxed);
    return 0;
}

void posix_log_close(struct vfs_log *vfs_log) {
    if (vfs_log == NULL) {
        return;
    }
    struct posix_log *log = posix_log_of(vfs_log);
    if (vfs_log->is_mapped) {
        (void)munmap(vfs_log->base, vfs_log->bytes);
    } else {
        mem_unmap(log->mem, vfs_log->base, vfs_log->bytes);
    }
    (void)close(log->fd);
    mem_free(log->mem, log);
}
