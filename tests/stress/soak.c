/*
 * soak.c - endurance: everything at once with tiny limits, for as long as it is told, and nothing may grow.
 *
 *     soak [--seconds N] [--seed S] [--shake N] [seconds]
 *     soak --world SEED            one simulated disk again, as a failure names it
 *
 * Two parts run beside each other. On the real file system one store goes through life after life with threads of all
 * kinds, and child processes that are killed (soak_real.c). On simulated disks histories go through crashes, faults,
 * failed allocations and full disks (soak_disk.c). Every ten seconds and at the end it says how far it has come.
 *
 * Behind every life: no block of the allocator and no descriptor is left, and the directory holds exactly what its
 * manifest names and no more bytes than the same data ever need. Over the run: the resident memory of the process,
 * taken behind each life, does not grow from the second quarter of the run to the last.
 */
#include "stress/stress.h"
#include "stress/soak.h"

#include "db/db.h"

#include <malloc.h>
#include <stdarg.h>

#define RSS_SAMPLES_MAX 100000
#define RSS_DRIFT_MAX (2u << 20)
#define LIFE_LONG_NS 10000000000u

struct soak soak;
_Thread_local char soak_where[40];

static struct {
    uint64_t start_ns;
    uint64_t rss[RSS_SAMPLES_MAX]; /* of every life */
    uint64_t at_ns[RSS_SAMPLES_MAX];
    size_t rss_count;
} watch;

void soak_fail(const char *format, ...) {
    va_list arguments;
    char text[700], placed[800];
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    (void)snprintf(placed, sizeof placed, "%s%s%s", soak_where, soak_where[0] != '\0' ? ": " : "", text);
    stress_fail(placed, 0, NULL);
    abort();
}

uint64_t soak_check_directory(const char *path, const struct vfs *vfs, const struct mem *mem) {
    struct pleat_error err = {0};
    struct db_listing listing;
    struct pleat_db *db;
    SOAK_MUST(db_open_with(path, PLEAT_OPTIONS(.read_only = true, .background = PLEAT_BACKGROUND_STEPS), vfs, mem, &db,
                           &err));
    SOAK_MUST(db_list(db, &listing, &err));
    if (!listing.has_manifest || !listing.has_lock || listing.has_leftover || listing.foreign[0] != '\0' ||
        listing.segment_count != 0) {
        soak_fail("a closed store has %zu log segments, leftovers: %d, \"%s\"", listing.segment_count,
                  listing.has_leftover, listing.foreign);
    }
    for (size_t i = 0; i < listing.table_count; i++) {
        if (!registry_has_table(db->registry, listing.tables[i])) {
            soak_fail("a closed store has table file %" PRIu64 ", which its manifest does not name", listing.tables[i]);
        }
    }
    struct pleat_stats stats = {.size = sizeof stats};
    uint64_t tables = 0, bytes = 0;
    SOAK_MUST(pleat_stats_read(db, &stats, &err));
    for (int level = 0; level < PLEAT_LEVELS; level++) {
        tables += stats.levels[level].tables;
        bytes += stats.levels[level].file_bytes;
    }
    if (tables != listing.table_count) {
        soak_fail("the manifest names %" PRIu64 " tables, the directory has %zu", tables, listing.table_count);
    }
    db_listing_fini(&listing);
    SOAK_MUST(pleat_close(db, &err));
    return bytes;
}

/* ---- the watch over the process --------------------------------------------------------------------------------- */

static uint64_t rss_bytes(void) {
    unsigned long size = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL || fscanf(file, "%lu %lu", &size, &resident) != 2) {
        soak_fail("/proc/self/statm cannot be read%s", "");
    }
    (void)fclose(file);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void watch_life(void) {
    if (watch.rss_count < RSS_SAMPLES_MAX) {
        watch.rss[watch.rss_count] = rss_bytes();
        watch.at_ns[watch.rss_count++] = stress_now_ns() - watch.start_ns;
    }
}

/* The mean of the samples from one part of the run to another, in sixteenths. */
static uint64_t rss_mean(uint64_t run_ns, uint64_t from, uint64_t to) {
    uint64_t sum = 0, count = 0;
    for (size_t i = 0; i < watch.rss_count; i++) {
        if (watch.at_ns[i] >= run_ns / 16 * from && watch.at_ns[i] < run_ns / 16 * to) {
            sum += watch.rss[i];
            count++;
        }
    }
    return count > 0 ? sum / count : 0;
}

static void report(const char *what) {
    printf("%s %5.0f s: %" PRIu64 " operations, %" PRIu64 " commits, %" PRIu64 " states compared, %" PRIu64
           " opens; real: %" PRIu64 " lives, %" PRIu64 " kills, %" PRIu64 " MB given, %" PRIu64
           " MB written, at most %" PRIu64 " KB on disk and %" PRIu64 " blocks of memory; simulated: %" PRIu64
           " worlds, %" PRIu64 " images, %" PRIu64 " faults, %" PRIu64 " failed allocations, %" PRIu64
           " full disks; %" PRIu64 " MB resident\n",
           what, (double)(stress_now_ns() - watch.start_ns) / 1e9, soak.operations, soak.commits, soak.reads,
           soak.opens, soak.lives, soak.kills, soak.bytes_given >> 20, soak.bytes_written >> 20,
           soak.disk_bytes_max >> 10, soak.blocks_max, soak.worlds, soak.images, soak.faults, soak.refused, soak.full,
           rss_bytes() >> 20);
    (void)fflush(stdout);
}

static void *worlds_run(void *context) {
    struct random random = stress_random(7);
    while (!soak_stopping()) {
        soak_disk_world(random_next(&random), false);
    }
    return context;
}

/* Sanitizers keep freed memory for a while, so that their processes grow whatever the program does. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define RSS_TELLS false
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define RSS_TELLS false
#else
#define RSS_TELLS true
#endif
#else
#define RSS_TELLS true
#endif

static void soak_run(const char *program) {
    struct random random = stress_random(9);
    struct thread worlds;
    char path[300];
    uint64_t run_ns = (uint64_t)(stress_run.seconds * 1e9), reported = 0;
    (void)snprintf(path, sizeof path, "%s/store", stress_run.path);
    (void)mallopt(M_ARENA_MAX, 2); /* or every thread's arena adds its own idle memory */
    watch.start_ns = stress_now_ns();
    stress_start(&worlds, worlds_run, NULL);
    for (uint64_t now = 0; now < run_ns; now = stress_now_ns() - watch.start_ns) {
        /* Mostly short ones; now and then one long enough to show what grows before a close. */
        bool is_long = run_ns >= LIFE_LONG_NS * 6 && watch.rss_count % 25 == 10;
        soak_real_life(path, program, random_next(&random), is_long ? LIFE_LONG_NS : 0);
        watch_life();
        uint64_t tens = (stress_now_ns() - watch.start_ns) / 10000000000u;
        if (tens > reported) {
            reported = tens;
            report("soak");
        }
    }
    atomic_store_explicit(&soak.stop, true, memory_order_relaxed);
    thread_join(&worlds);
    report("soak ends");
    uint64_t early = rss_mean(run_ns, 4, 8), late = rss_mean(run_ns, 12, 17);
    if (RSS_TELLS && early > 0 && late > early + RSS_DRIFT_MAX) {
        soak_fail("resident memory grew from %" PRIu64 " KB to %" PRIu64 " KB", early >> 10, late >> 10);
    }
    if (soak.lives == 0 || soak.worlds == 0 || soak.images == 0) {
        soak_fail("nothing was done: %" PRIu64 " lives, %" PRIu64 " worlds", soak.lives, soak.worlds);
    }
    printf("resident memory: %" PRIu64 " KB in the second quarter, %" PRIu64 " KB in the last\n", early >> 10,
           late >> 10);
}

int main(int argc, char **argv) {
    if (argc == 5 && strcmp(argv[1], "--child") == 0) {
        stress_run.name = "soak --child";
        return soak_real_child(argv[2], argv[3], strtoull(argv[4], NULL, 0));
    }
    if (argc == 3 && strcmp(argv[1], "--world") == 0) {
        (void)setvbuf(stdout, NULL, _IOLBF, 0);
        stress_run.name = "soak";
        soak_disk_world(strtoull(argv[2], NULL, 0), true);
        printf("the world is all right: %" PRIu64 " operations, %" PRIu64 " images\n", soak.operations, soak.images);
        return 0;
    }
    stress_begin("soak", 4, argc, argv);
    soak_run(argv[0]);
    stress_end();
    return 0;
}
