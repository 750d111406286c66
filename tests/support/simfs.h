/*
 * simfs.h - a simulated disk behind struct vfs: it records, stops, fails, and keeps after a crash only what was synced.
 *
 * It must be stricter than any real file system: what survives here on every seed survives there. Its rules, each
 * checked by test_simfs:
 *
 *   S1  A file's contents and size are durable up to its last file_sync or log_sync that returned 0, its name up to the
 *       last dir_sync of its directory. A file_sync makes no name durable, and a dir_sync no contents. A directory made
 *       by VFS_DIR_CREATE is durable when dir_open returns.
 *   S2  Writes, size changes, and name operations (create, rename, unlink) since are pending, in order. What is durable
 *       is there in every model; of what is pending, each model keeps its own part:
 *
 *         model     pending names                     pending contents and sizes
 *         KILL      all                               all: the process died, the page cache lives; still pending after
 *         MIN       none                              none
 *         ORDERED   a prefix of all pending operations of the disk in order, the write at the cut torn at any byte
 *         FSDIR     a prefix of them in order         of each file a prefix of its own
 *         METAALL   all                               all sizes, no contents: new bytes are zero
 *         STRICT    any subset (a rename is one)      each 512-byte sector at any of its versions, any size between; a
 *                                                     lost sector of new bytes is zero, random, or stale from elsewhere
 *
 *       In the image of every model but KILL all that is there is durable. It has a clock that starts again.
 *   S3  log_create has reserved its bytes: in STRICT a lost sector of a log that is mapped is zero, never stale. Stores
 *       to the base of a mapped log are pending from the moment of the crash, published or not; those to a log that is
 *       written (by_write) only when published.
 *   S4  Every mutating call is an operation, numbered from 1, whether it succeeds or not: creating a file, a log, a
 *       lock file or a directory; write, publish, rename, unlink; each sync. VFS_DIR_CREATE also syncs the parent:
 *       that is one more. From number n on operations are stopped: they fail with PLEAT_ERR_IO, the process counts as
 *       dead, and the disk stays as it was. A write that was stopped is pending like any: the crash may keep a part.
 *   S5  A sync that fails leaves the contents readable and takes them off the pending ones: no later sync makes them
 *       durable, and every crash but KILL loses them. A second sync of the same handle fails too, does nothing, and is
 *       counted (simfs_sync_retries). With `half` the first half of the pending operations became durable.
 *   S6  Locks and handles belong to the process: no image has any.
 *   S7  The same seed and the same calls give the same disk, names in the same (scrambled) order, and the same images.
 *   S8  simfs_reserves(fs, false) makes a disk that reserves nothing: every log is written, takes room with what is
 *       published, and publishing can find the disk full. A publish that fails for space after a part was written is
 *       undone, as vfs.h asks for: zeros over the part, and a log_sync, which is one more call and operation.
 *   S9  An observer sees the disk before operation n as a stop at n would leave it, and the disk goes on as if nobody
 *       had looked: one run gives the images of all its stops.
 *
 * Faults: simfs_fault_add fails the n-th call of the given kinds; simfs_quota is a disk of so many bytes, where a write
 * that does not fit is there in part. Publishing to a mapped log cannot fail but by a stop, as on a real system.
 *
 * Handles are allocated from the `mem` given to dir_open, so that failing allocations reach them; all else is the test
 * program's own memory. Threads: one mutex around everything. Stores of one thread to a mapped log race with a crash
 * that another thread causes; the image then has some of their bytes, as a real one would.
 */
#ifndef PLEAT_TESTS_SIMFS_H
#define PLEAT_TESTS_SIMFS_H

#include "platform/vfs.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SIMFS_SECTOR_BYTES 512

struct simfs;

enum simfs_model { SIMFS_KILL, SIMFS_MIN, SIMFS_ORDERED, SIMFS_FSDIR, SIMFS_METAALL, SIMFS_STRICT };
#define SIMFS_MODELS 6
const char *simfs_model_name(enum simfs_model model);

/* An empty disk, owned by the caller until simfs_free. The seed is that of `random` and of the order of names. */
struct simfs *simfs_new(uint64_t seed);
/* Handles still open become invalid. NULL is allowed. */
void simfs_free(struct simfs *fs);
/* Borrowed from fs. */
const struct vfs *simfs_vfs(struct simfs *fs);

/* ---- stops and faults ------------------------------------------------------------------------------------------- */

/* Operation n and all after it are stopped (S4); 0: none. */
void simfs_stop_at(struct simfs *fs, uint64_t n);
/* Whether an operation was stopped. */
bool simfs_stopped(struct simfs *fs);
/* Operations so far, the stopped ones not counted. An image starts at 0. */
uint64_t simfs_operations(struct simfs *fs);

/* Called before every operation that is not stopped, with its number and kind (0: publishing to a mapped log). It may
 * make images and clones of fs, and work with those; with fs itself it may do nothing else. NULL: nobody looks. */
typedef void simfs_observer(void *context, struct simfs *fs, uint64_t operation, unsigned call);
void simfs_observe(struct simfs *fs, simfs_observer *observer, void *context);

/* Kinds of calls, to be combined with |. */
enum simfs_call {
    SIMFS_DIR_OPEN = 1u << 0,
    SIMFS_DIR_SYNC = 1u << 1, /* also that of the parent in VFS_DIR_CREATE */
    SIMFS_DIR_LIST = 1u << 2,
    SIMFS_DIR_RENAME = 1u << 3,
    SIMFS_DIR_UNLINK = 1u << 4,
    SIMFS_DIR_LOCK = 1u << 5,
    SIMFS_FILE_OPEN = 1u << 6,
    SIMFS_FILE_CREATE = 1u << 7,
    SIMFS_FILE_READ = 1u << 8,
    SIMFS_FILE_WRITE = 1u << 9,
    SIMFS_FILE_SIZE = 1u << 10,
    SIMFS_FILE_SYNC = 1u << 11,
    SIMFS_LOG_CREATE = 1u << 12,
    SIMFS_LOG_PUBLISH = 1u << 13, /* of logs that are written */
    SIMFS_LOG_SYNC = 1u << 14,
    SIMFS_RANDOM = 1u << 15,
    SIMFS_ANY = (1u << 16) - 1,
};
#define SIMFS_CALL_KINDS 16

struct simfs_fault {
    unsigned calls; /* kinds */
    uint64_t at;    /* the n-th of them from now on; 1: the next */
    int os_errno;   /* ENOSPC gives PLEAT_ERR_NO_SPACE, as on a real system */
    bool for_ever;  /* and every later one */
    bool half;      /* writes: the first half of the bytes is written; syncs: see S5 */
};

#define SIMFS_FAULTS_MAX 8
void simfs_fault_add(struct simfs *fs, struct simfs_fault fault);
void simfs_faults_clear(struct simfs *fs);
/* How often a fault or the quota has struck. */
uint64_t simfs_faults_fired(struct simfs *fs);
/* The kind of call that the last fault struck; 0 without one. */
unsigned simfs_fault_struck(struct simfs *fs);
/* Calls of these kinds so far. */
uint64_t simfs_calls(struct simfs *fs, unsigned calls);
/* The sizes of all files that have a name or an open handle may sum up to this much. UINT64_MAX: no limit. */
void simfs_quota(struct simfs *fs, uint64_t bytes);
uint64_t simfs_used_bytes(struct simfs *fs);
/* Whether logs are reserved (S8); at first they are. */
void simfs_reserves(struct simfs *fs, bool reserves);

/* Handles and locks not closed: 0 when nothing is leaked. */
uint64_t simfs_open_handles(struct simfs *fs);
/* Syncs of a handle whose earlier sync failed (P3 of vfs.h): 0 when the rule is kept. */
uint64_t simfs_sync_retries(struct simfs *fs);

/* ---- crash images ----------------------------------------------------------------------------------------------- */

/* A new disk, as it is found after a crash now. Owned by the caller; fs is not changed and goes on. */
struct simfs *simfs_crash(struct simfs *fs, enum simfs_model model, uint64_t seed);
/* STRICT by enumeration: how many bits choose an image, and the image that these bits choose. A bit is a pending name
 * operation, a size, or (a sector with several pending versions takes more than one) a sector; 0 is the durable
 * version, and lost sectors of new bytes are zero. All the values of so many bits are all the subsets. */
unsigned simfs_units(struct simfs *fs);
struct simfs *simfs_crash_subset(struct simfs *fs, uint64_t bits);
/* What became of the files of fs in the image that was made of it last: calls back for every file that has a name,
 * live or durable, and for every name that only the image has, because what followed on it was lost. */
struct simfs_fate {
    const char *name;
    bool live;      /* it had the name before the crash ... */
    bool durable;   /* ... for good */
    bool there;     /* it has the name in the image */
    bool was_empty; /* nothing of its contents was durable */
    unsigned kept, torn, lost; /* of its pending writes */
    bool hole;      /* a write was lost, or a part of it, in front of one that was kept */
};
void simfs_fates(struct simfs *fs, struct simfs *image, void (*callback)(void *context, const struct simfs_fate *fate),
                 void *context);
/* The same disk with all that is pending, but without handles, locks, stops, faults and quota. */
struct simfs *simfs_clone(struct simfs *fs);
/* Pending operations, names and contents. */
size_t simfs_pending(struct simfs *fs);
/* Makes all that is there durable. */
void simfs_sync_all(struct simfs *fs);
/* Of the names and contents that are there: equal for equal disks, to skip images seen before. */
uint64_t simfs_hash(struct simfs *fs);

/* ---- looking in and tampering ----------------------------------------------------------------------------------- */

/* A copy of the file, to be given to free(), with room for a NUL behind it; NULL when there is no such file. */
uint8_t *simfs_read_file(struct simfs *fs, const char *path, const char *name, size_t *ret_bytes);
/* Replaces the contents, or makes the file and the directory: all durable at once. */
void simfs_write_file(struct simfs *fs, const char *path, const char *name, const void *data, size_t n);
/* Durable at once. False when there was none. */
bool simfs_remove_file(struct simfs *fs, const char *path, const char *name);
bool simfs_has_dir(struct simfs *fs, const char *path);
/* Names in the directory, and the index-th in byte order. */
size_t simfs_name_count(struct simfs *fs, const char *path);
bool simfs_name_at(struct simfs *fs, const char *path, size_t index, char ret_name[VFS_NAME_BYTES_MAX + 1]);

#endif
