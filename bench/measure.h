/*
 * measure.h - clocks, what the system counted for this process, latencies, and latencies over time.
 */
#ifndef PLEAT_BENCH_MEASURE_H
#define PLEAT_BENCH_MEASURE_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

static inline uint64_t measure_clock(clockid_t clock) {
    struct timespec ts;
    (void)clock_gettime(clock, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static inline uint64_t measure_wall(void) {
    return measure_clock(CLOCK_MONOTONIC);
}

static inline uint64_t measure_thread(void) {
    return measure_clock(CLOCK_THREAD_CPUTIME_ID);
}

/* User and system time of all threads of the process, ended ones too (getrusage), in nanoseconds. */
uint64_t measure_process(void);

/* Fields of /proc/self/io: syscr are the calls that read, rchar the bytes that they returned, from the page cache too;
 * read_bytes and write_bytes went to and came from the device's queue, pages that a mapping dirtied included. */
struct measure_io {
    uint64_t syscr;
    uint64_t rchar;
    uint64_t read_bytes;
    uint64_t write_bytes;
};
struct measure_io measure_io(void);

/* KiB of a field of /proc/self/status, such as "VmHWM:". */
uint64_t measure_status_kib(const char *field);

/* Allocated bytes of all files in the directory and below. */
uint64_t measure_disk(const char *path);

/* ---- latencies: 32 steps an octave, so within 3 % ---------------------------------------------------------------- */

#define HISTOGRAM_STEPS 32
#define HISTOGRAM_BUCKETS (60 * HISTOGRAM_STEPS)

struct histogram {
    uint64_t count;
    uint64_t max;
    uint64_t buckets[HISTOGRAM_BUCKETS];
};

void histogram_add(struct histogram *histogram, uint64_t ns);
/* At most this share (0..1) took less. */
uint64_t histogram_at(const struct histogram *histogram, double share);

/* ---- latencies over time: slots that double their width when they run out ------------------------------------------
 */

#define TIMELINE_SLOTS 240

struct timeline {
    uint64_t begin;
    uint64_t width; /* of a slot in ns */
    uint64_t batches[TIMELINE_SLOTS];
    uint64_t max[TIMELINE_SLOTS];
    uint64_t updates[TIMELINE_SLOTS];
};

void timeline_init(struct timeline *timeline);
void timeline_add(struct timeline *timeline, uint64_t now, uint64_t ns, uint64_t updates);

#endif
