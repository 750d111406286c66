/* syscalls.c - the wrapped calls: see syscalls.h. The names are those that the library's objects ask the linker for. */
#include "support/syscalls.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/vfs.h>
#include <unistd.h>

static struct {
    struct syscalls_plan plan;
    uint64_t counted, struck;
    unsigned struck_kind;
    bool syncs;
    bool dies;       /* behind the call that is being made */
    bool fails_next; /* the second half of SYSCALLS_SHORT_THEN_FAIL */
    bool turn[SYSCALLS_KINDS];
    _Atomic int64_t descriptors, mapped;
} layer;

void syscalls_plan(struct syscalls_plan plan) {
    layer.plan = plan;
    layer.counted = layer.struck = 0;
    layer.struck_kind = 0;
    layer.fails_next = false;
    for (int i = 0; i < SYSCALLS_KINDS; i++) {
        layer.turn[i] = false;
    }
}

void syscalls_no_plan(void) {
    layer.plan = (struct syscalls_plan){0}; /* what was counted stays readable */
}

void syscalls_sync_for_real(void) {
    layer.syncs = true;
}

uint64_t syscalls_counted(void) {
    return layer.counted;
}

uint64_t syscalls_struck(void) {
    return layer.struck;
}

unsigned syscalls_struck_kind(void) {
    return layer.struck_kind;
}

int64_t syscalls_descriptors(void) {
    return atomic_load(&layer.descriptors);
}

int64_t syscalls_mapped_bytes(void) {
    return atomic_load(&layer.mapped);
}

static enum syscalls_act strike(unsigned kind) {
    const struct syscalls_plan *plan = &layer.plan;
    if (plan->at == 0 || (plan->kinds & kind) == 0) {
        return SYSCALLS_NOTHING;
    }
    layer.counted++;
    if (layer.fails_next) {
        layer.fails_next = false;
        errno = plan->os_errno;
        return SYSCALLS_FAIL;
    }
    if (layer.counted < plan->at || (layer.counted > plan->at && !plan->again)) {
        return SYSCALLS_NOTHING;
    }
    if (plan->alternate) {
        bool *turn = &layer.turn[__builtin_ctz(kind)];
        *turn = !*turn;
        if (!*turn) {
            return SYSCALLS_NOTHING;
        }
    }
    layer.struck++;
    layer.struck_kind = kind;
    layer.dies = plan->act >= SYSCALLS_KILL_HALF;
    if (plan->act == SYSCALLS_KILL_BEFORE) {
        (void)kill(getpid(), SIGKILL);
    }
    layer.fails_next = plan->act == SYSCALLS_SHORT_THEN_FAIL;
    errno = plan->os_errno;
    return plan->act;
}

/* Whether the call fails, with errno set. */
static bool fails(unsigned kind) {
    enum syscalls_act act = strike(kind);
    return act != SYSCALLS_NOTHING && act < SYSCALLS_KILL_HALF;
}

/* How many of the n bytes a call moves; 0: it fails. */
static size_t moves(unsigned kind, size_t n) {
    switch (strike(kind)) {
    case SYSCALLS_NOTHING:
    case SYSCALLS_KILL_BEHIND:
        return n;
    case SYSCALLS_FAIL:
        return 0;
    default:
        return n > 1 ? n / 2 : n;
    }
}

static void die_if_due(void) {
    if (layer.dies) {
        (void)kill(getpid(), SIGKILL);
    }
}

/* Makes the call, and may be its end. */
#define MADE(call)                                                                                                     \
    __extension__({                                                                                                    \
        __typeof__(call) made = (call);                                                                                \
        die_if_due();                                                                                                  \
        made;                                                                                                          \
    })

#define WRAP(result, name, parameters)                                                                                 \
    result __real_##name parameters;                                                                                   \
    result __wrap_##name parameters;                                                                                   \
    result __wrap_##name parameters

WRAP(int, close, (int fd)) {
    atomic_fetch_sub(&layer.descriptors, 1);
    return __real_close(fd);
}

int __real_openat64(int dir, const char *path, int flags, ...);
int __wrap_openat64(int dir, const char *path, int flags, ...);
int __wrap_openat64(int dir, const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = (flags & O_CREAT) != 0 ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    if (fails(SYSCALLS_OPEN)) {
        return -1;
    }
    int fd = MADE(__real_openat64(dir, path, flags, mode));
    atomic_fetch_add(&layer.descriptors, fd >= 0 ? 1 : 0);
    return fd;
}

WRAP(ssize_t, pread64, (int fd, void *buffer, size_t n, off_t offset)) {
    size_t moved = moves(SYSCALLS_READ, n);
    return moved == 0 && n > 0 ? -1 : MADE(__real_pread64(fd, buffer, moved, offset));
}

WRAP(ssize_t, pwrite64, (int fd, const void *data, size_t n, off_t offset)) {
    size_t moved = moves(SYSCALLS_WRITE, n);
    return moved == 0 && n > 0 ? -1 : MADE(__real_pwrite64(fd, data, moved, offset));
}

WRAP(ssize_t, getrandom, (void *buffer, size_t n, unsigned flags)) {
    size_t moved = moves(SYSCALLS_RANDOM, n);
    return moved == 0 && n > 0 ? -1 : MADE(__real_getrandom(buffer, moved, flags));
}

WRAP(int, fsync, (int fd)) {
    return fails(SYSCALLS_SYNC) ? -1 : MADE(layer.syncs ? __real_fsync(fd) : 0);
}

WRAP(int, fdatasync, (int fd)) {
    return fails(SYSCALLS_SYNC) ? -1 : MADE(layer.syncs ? __real_fdatasync(fd) : 0);
}

WRAP(int, msync, (void *base, size_t n, int flags)) {
    return fails(SYSCALLS_SYNC) ? -1 : MADE(layer.syncs ? __real_msync(base, n, flags) : 0);
}

WRAP(int, ftruncate64, (int fd, off_t bytes)) {
    return fails(SYSCALLS_TRUNCATE) ? -1 : MADE(__real_ftruncate64(fd, bytes));
}

WRAP(int, fallocate64, (int fd, int mode, off_t offset, off_t bytes)) {
    return fails(SYSCALLS_RESERVE) ? -1 : MADE(__real_fallocate64(fd, mode, offset, bytes));
}

WRAP(void *, mmap64, (void *address, size_t bytes, int protection, int flags, int fd, off_t offset)) {
    if (fails(fd >= 0 ? SYSCALLS_MAP_FILE : SYSCALLS_MAP)) {
        return MAP_FAILED;
    }
    void *base = MADE(__real_mmap64(address, bytes, protection, flags, fd, offset));
    atomic_fetch_add(&layer.mapped, base != MAP_FAILED ? (int64_t)bytes : 0);
    return base;
}

WRAP(int, munmap, (void *base, size_t bytes)) {
    atomic_fetch_sub(&layer.mapped, (int64_t)bytes);
    return __real_munmap(base, bytes);
}

WRAP(int, flock, (int fd, int operation)) {
    return fails(SYSCALLS_LOCK) ? -1 : MADE(__real_flock(fd, operation));
}

WRAP(int, fstat64, (int fd, struct stat *status)) {
    return fails(SYSCALLS_STAT) ? -1 : MADE(__real_fstat64(fd, status));
}

WRAP(int, fstatat64, (int dir, const char *path, struct stat *status, int flags)) {
    return fails(SYSCALLS_STAT) ? -1 : MADE(__real_fstatat64(dir, path, status, flags));
}

WRAP(int, fstatfs64, (int fd, struct statfs *status)) {
    return fails(SYSCALLS_STATFS) ? -1 : MADE(__real_fstatfs64(fd, status));
}

WRAP(ssize_t, getdents64, (int fd, void *buffer, size_t n)) {
    return fails(SYSCALLS_LIST) ? -1 : MADE(__real_getdents64(fd, buffer, n));
}

WRAP(int, renameat, (int from_dir, const char *from, int to_dir, const char *to)) {
    return fails(SYSCALLS_RENAME) ? -1 : MADE(__real_renameat(from_dir, from, to_dir, to));
}

WRAP(int, unlinkat, (int dir, const char *path, int flags)) {
    return fails(SYSCALLS_UNLINK) ? -1 : MADE(__real_unlinkat(dir, path, flags));
}

WRAP(int, mkdir, (const char *path, mode_t mode)) {
    return fails(SYSCALLS_MKDIR) ? -1 : MADE(__real_mkdir(path, mode));
}

WRAP(int, madvise, (void *base, size_t bytes, int advice)) {
    return fails(SYSCALLS_ADVISE) ? -1 : MADE(__real_madvise(base, bytes, advice));
}

WRAP(int, posix_fadvise64, (int fd, off_t offset, off_t bytes, int advice)) {
    return fails(SYSCALLS_ADVISE) ? errno : MADE(__real_posix_fadvise64(fd, offset, bytes, advice));
}
