/* measure.c - see measure.h. */
#include "measure.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

uint64_t measure_process(void) {
    struct rusage usage;
    (void)getrusage(RUSAGE_SELF, &usage);
    return (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000000u +
           (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000u;
}

/* The number behind `field` in a file of lines "field number". */
static uint64_t proc_field(const char *path, const char *field) {
    FILE *file = fopen(path, "r");
    char line[256];
    uint64_t value = 0;
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, field, strlen(field)) == 0) {
            value = strtoull(line + strlen(field), NULL, 10);
        }
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    return value;
}

struct measure_io measure_io(void) {
    static const char path[] = "/proc/self/io";
    return (struct measure_io){
        proc_field(path, "syscr:"),
        proc_field(path, "rchar:"),
        proc_field(path, "read_bytes:"),
        proc_field(path, "write_bytes:"),
    };
}

uint64_t measure_status_kib(const char *field) {
    return proc_field("/proc/self/status", field);
}

uint64_t measure_disk(const char *path) {
    uint64_t bytes = 0;
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;) {
        char name[4096];
        struct stat info;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) {
            continue;
        }
        (void)snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        if (lstat(name, &info) == 0) {
            bytes += S_ISDIR(info.st_mode) ? measure_disk(name) : (uint64_t)info.st_blocks * 512;
        }
    }
    if (dir != NULL) {
        (void)closedir(dir);
    }
    return bytes;
}

/* Below HISTOGRAM_STEPS each value has a bucket; above, an octave has that many. */
static unsigned bucket_of(uint64_t ns) {
    if (ns < HISTOGRAM_STEPS) {
        return (unsigned)ns;
    }
    unsigned octave = 63 - (unsigned)__builtin_clzll(ns);
    return (octave - 4) * HISTOGRAM_STEPS + (unsigned)(ns >> (octave - 5)) - HISTOGRAM_STEPS;
}

/* The middle of a bucket. */
static uint64_t bucket_value(unsigned bucket) {
    if (bucket < HISTOGRAM_STEPS) {
        return bucket;
    }
    unsigned octave = bucket / HISTOGRAM_STEPS + 4;
    uint64_t low = (uint64_t)(bucket % HISTOGRAM_STEPS + HISTOGRAM_STEPS) << (octave - 5);
    return low + (((uint64_t)1 << (octave - 5)) >> 1);
}

void histogram_add(struct histogram *histogram, uint64_t ns) {
    histogram->count++;
    histogram->max = ns > histogram->max ? ns : histogram->max;
    histogram->buckets[bucket_of(ns)]++;
}

uint64_t histogram_at(const struct histogram *histogram, double share) {
    uint64_t rank = (uint64_t)(share * (double)histogram->count), seen = 0;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += histogram->buckets[i];
        if (seen > rank) {
            uint64_t value = bucket_value(i);
            return value < histogram->max ? value : histogram->max;
        }
    }
    return histogram->max;
}

void timeline_init(struct timeline *timeline) {
    *timeline = (struct timeline){.begin = measure_wall(), .width = 1000000};
}

static void timeline_double(struct timeline *timeline) {
    for (unsigned i = 0; i < TIMELINE_SLOTS; i++) {
        bool low = i < TIMELINE_SLOTS / 2;
        uint64_t a = low ? timeline->max[i * 2] : 0, b = low ? timeline->max[i * 2 + 1] : 0;
        timeline->max[i] = a > b ? a : b;
        timeline->batches[i] = low ? timeline->batches[i * 2] + timeline->batches[i * 2 + 1] : 0;
        timeline->updates[i] = low ? timeline->updates[i * 2] + timeline->updates[i * 2 + 1] : 0;
    }
    timeline->width *= 2;
}

void timeline_add(struct timeline *timeline, uint64_t now, uint64_t ns, uint64_t updates) {
    while ((now - timeline->begin) / timeline->width >= TIMELINE_SLOTS) {
        timeline_double(timeline);
    }
    uint64_t slot = (now - timeline->begin) / timeline->width;
    timeline->batches[slot]++;
    timeline->updates[slot] += updates;
    timeline->max[slot] = ns > timeline->max[slot] ? ns : timeline->max[slot];
}
