/*
 * syscalls.h - a layer between the library and the system: every call that touches files or maps memory passes through
 * it, by the linker's --wrap. It interrupts, shortens and fails them, and counts what is not given back.
 *
 * What the simulated disk (simfs.h) cannot reach is the code behind the vfs itself: loops around interrupted and short
 * calls, what is tried instead when a mapping or a reservation is refused, descriptors and mappings on error paths.
 * Here the files are real and single calls lie.
 *
 * Syncs do not reach the disk unless they are asked to: what a power failure leaves is the simulated disk's matter, and
 * so thousands of runs cost seconds. The plan is for one thread; without one the layer only counts, from any thread.
 */
#ifndef PLEAT_TESTS_SYSCALLS_H
#define PLEAT_TESTS_SYSCALLS_H

#include <stdbool.h>
#include <stdint.h>

/* Kinds of calls, to be combined with |. */
enum syscalls_kind {
    SYSCALLS_OPEN = 1u << 0,     /* openat */
    SYSCALLS_READ = 1u << 1,     /* pread */
    SYSCALLS_WRITE = 1u << 2,    /* pwrite */
    SYSCALLS_SYNC = 1u << 3,     /* fsync, fdatasync, msync */
    SYSCALLS_TRUNCATE = 1u << 4, /* ftruncate */
    SYSCALLS_RESERVE = 1u << 5,  /* fallocate */
    SYSCALLS_MAP_FILE = 1u << 6, /* mmap of a file */
    SYSCALLS_MAP = 1u << 7,      /* mmap of memory */
    SYSCALLS_LOCK = 1u << 8,     /* flock */
    SYSCALLS_STAT = 1u << 9,     /* fstat, fstatat */
    SYSCALLS_STATFS = 1u << 10,  /* fstatfs */
    SYSCALLS_LIST = 1u << 11,    /* getdents64 */
    SYSCALLS_RANDOM = 1u << 12,  /* getrandom */
    SYSCALLS_RENAME = 1u << 13,  /* renameat */
    SYSCALLS_UNLINK = 1u << 14,  /* unlinkat */
    SYSCALLS_MKDIR = 1u << 15,   /* mkdir */
    SYSCALLS_ADVISE = 1u << 16,  /* madvise, posix_fadvise */
    SYSCALLS_ANY = (1u << 17) - 1,
};
#define SYSCALLS_KINDS 17
/* Those that may be interrupted, on some file system or other; and those that may move fewer bytes than asked for. */
#define SYSCALLS_INTERRUPTIBLE                                                                                         \
    (SYSCALLS_OPEN | SYSCALLS_READ | SYSCALLS_WRITE | SYSCALLS_SYNC | SYSCALLS_TRUNCATE | SYSCALLS_RESERVE |           \
     SYSCALLS_LOCK | SYSCALLS_STAT | SYSCALLS_LIST | SYSCALLS_RANDOM)
#define SYSCALLS_SHORTENABLE (SYSCALLS_READ | SYSCALLS_WRITE | SYSCALLS_RANDOM)

enum syscalls_act {
    SYSCALLS_NOTHING,
    SYSCALLS_FAIL,            /* with os_errno, nothing done */
    SYSCALLS_SHORT,           /* half of the bytes, without an error */
    SYSCALLS_SHORT_THEN_FAIL, /* half of the bytes, and os_errno for the call that asks for the rest */
    SYSCALLS_KILL_BEFORE,     /* SIGKILL to this process instead of the call */
    SYSCALLS_KILL_HALF,       /* the same behind half of a write's bytes */
    SYSCALLS_KILL_BEHIND,     /* and behind the call */
};

struct syscalls_plan {
    unsigned kinds;
    uint64_t at; /* the n-th call of them; 0: none. With `again` it and all later ones */
    bool again;
    bool alternate; /* with `again`: every second one of a kind */
    enum syscalls_act act;
    int os_errno;
};

/* From now on; counts begin at 0. */
void syscalls_plan(struct syscalls_plan plan);
void syscalls_no_plan(void);
/* Syncs are made from now on. */
void syscalls_sync_for_real(void);
/* Calls of the plan's kinds so far, and how often the plan has struck; the kind that it struck last, 0 for none. */
uint64_t syscalls_counted(void);
uint64_t syscalls_struck(void);
unsigned syscalls_struck_kind(void);
/* Descriptors and bytes of mappings that the library has and has not given back. */
int64_t syscalls_descriptors(void);
int64_t syscalls_mapped_bytes(void);

#endif
