/*
 * soak.h - what the parts of the endurance program share: counters that are reported, and one way to fail.
 */
#ifndef PLEAT_TESTS_SOAK_H
#define PLEAT_TESTS_SOAK_H

#include "pleat/pleat.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* Relaxed everywhere: numbers for the report, and a request to stop. */
struct soak {
    _Atomic bool stop;
    _Atomic uint64_t operations; /* calls of the API, of both parts */
    _Atomic uint64_t commits;
    _Atomic uint64_t reads; /* whole states that were compared */
    _Atomic uint64_t opens;
    _Atomic uint64_t kills;                      /* of the real part's child */
    _Atomic uint64_t lives;                      /* of the real part: from open to close */
    _Atomic uint64_t worlds;                     /* of the simulated part: from an empty disk to its end */
    _Atomic uint64_t images;                     /* crash images that were opened and compared */
    _Atomic uint64_t faults;                     /* of the disk, */
    _Atomic uint64_t refused;                    /* of the allocator, */
    _Atomic uint64_t full;                       /* and for want of space, each survived */
    _Atomic uint64_t bytes_given, bytes_written; /* of the real part: by the caller; to logs and tables */
    _Atomic uint64_t disk_bytes_max;             /* of the real part's store when it is closed */
    _Atomic uint64_t blocks_max;                 /* of memory that it held when it was settled */
};

extern struct soak soak;

static inline void soak_add(_Atomic uint64_t *counter, uint64_t n) {
    (void)atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static inline bool soak_stopping(void) {
    return atomic_load_explicit(&soak.stop, memory_order_relaxed);
}

/* Where the calling thread is, for its failures: "" or "--world 0x..." */
extern _Thread_local char soak_where[40];

/* Prints the line that replays the run, and aborts. */
_Noreturn void soak_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A `struct pleat_error err` is in scope. */
#define SOAK_MUST(call)                                                                                                \
    do {                                                                                                               \
        int must_rc = (call);                                                                                          \
        if (must_rc != 0) {                                                                                            \
            soak_fail("%s: %s: %s", #call, pleat_status_name(must_rc), err.message);                                   \
        }                                                                                                              \
    } while (0)

struct vfs;
struct mem;

/* Whether the directory of a closed store holds exactly what its manifest names, and LOCK and MANIFEST. Returns the
 * bytes of its tables. */
uint64_t soak_check_directory(const char *path, const struct vfs *vfs, const struct mem *mem);

/* One life of the store in `path` on the real file system of `ns` (0: drawn, less than a second), often behind that of
 * a child process, which was killed. */
void soak_real_life(const char *path, const char *program, uint64_t seed, uint64_t ns);
/* The child: turns the wheels until it is killed. Returns its exit status. */
int soak_real_child(const char *path, const char *board, uint64_t seed);

/* One simulated disk from its beginning to its end: the same calls for the same seed. Returns when the world is over or
 * the soak stops. verbose: prints every step. */
void soak_disk_world(uint64_t seed, bool verbose);

#endif
