/*
 * cold_bench.c - reads of a store that route_bench or bench made, with a cache that holds a fraction of it, beside
 * random reads of the device that its files lie on.
 *
 *     cold_bench DIR --keys N [--cache MIB] [--gets N]
 *
 * What makes them cold is outside: the page cache is dropped before, and a control group keeps it small, for example
 *
 *     mkdir /sys/fs/cgroup/memory/cold && echo 1G > /sys/fs/cgroup/memory/cold/memory.limit_in_bytes
 *     echo $$ > /sys/fs/cgroup/memory/cold/cgroup.procs && echo 1 > /proc/sys/vm/drop_caches
 *
 * Every answer is checked by its presence and length, every prefix by its count. Reads are counted by the system: all
 * calls that read a file (pread of a block or page is one), and bytes that came from the device.
 */
#include "load.h"
#include "measure.h"

#include <pleat/pleat.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { GROUP = 40, KEY_BYTES = 25, VALUE_BYTES = 100, DEVICE_READS = 4000, DEVICE_BYTES = 4096, FILES_MAX = 4096 };

enum cold_kind { COLD_GET, COLD_ABSENT, COLD_PREFIX };

struct cold {
    const char *path;
    struct load load;
    uint64_t random;
    struct pleat_db *db;
    struct pleat_space *space;
};

static void die(const char *what, const char *why) {
    fprintf(stderr, "cold_bench: %s: %s\n", what, why);
    exit(1);
}

static void print_latencies(const char *name, const struct histogram *latencies) {
    printf("%-8s p50 %6.1f  p90 %6.1f  p99 %7.1f us", name, (double)histogram_at(latencies, 0.5) / 1e3,
           (double)histogram_at(latencies, 0.9) / 1e3, (double)histogram_at(latencies, 0.99) / 1e3);
}

/* Pages at random places of the store's tables, past the page cache. */
static void read_device(struct cold *cold) {
    static int files[FILES_MAX];
    static uint64_t pages[FILES_MAX];
    struct histogram *latencies = calloc(1, sizeof *latencies);
    uint8_t *page = aligned_alloc(DEVICE_BYTES, DEVICE_BYTES);
    DIR *dir = opendir(cold->path);
    size_t count = 0;
    struct stat status;
    if (dir == NULL || latencies == NULL || page == NULL) {
        die(cold->path, "cannot be read");
    }
    for (struct dirent *entry; (entry = readdir(dir)) != NULL && count < FILES_MAX;) {
        if (strstr(entry->d_name, ".tbl") == NULL) {
            continue;
        }
        files[count] = openat(dirfd(dir), entry->d_name, O_RDONLY | O_DIRECT);
        if (files[count] >= 0 && fstat(files[count], &status) == 0 && status.st_size >= DEVICE_BYTES) {
            pages[count++] = (uint64_t)status.st_size / DEVICE_BYTES;
        }
    }
    for (int i = 0; i < DEVICE_READS && count > 0; i++) {
        size_t file = load_below(&cold->random, count);
        off_t at = (off_t)(load_below(&cold->random, pages[file]) * DEVICE_BYTES);
        uint64_t before = measure_wall();
        if (pread(files[file], page, DEVICE_BYTES, at) != DEVICE_BYTES) {
            die(cold->path, "a page of a table cannot be read directly");
        }
        histogram_add(latencies, measure_wall() - before);
    }
    print_latencies("device", latencies);
    printf("\n");
    for (size_t i = 0; i < count; i++) {
        (void)close(files[i]);
    }
    (void)closedir(dir);
    free(page);
    free(latencies);
}

static int count_row(void *context, const struct pleat_row *row) {
    *(uint64_t *)context += row->value.bytes == VALUE_BYTES;
    return 0;
}

static void read_one(struct cold *cold, enum cold_kind kind) {
    uint8_t key[LOAD_KEY_BYTES_MAX], value[VALUE_BYTES];
    struct pleat_error err;
    uint64_t rows = 0;
    size_t bytes = 0;
    (void)load_key(&cold->load, load_below(&cold->random, cold->load.keys), key);
    if (kind == COLD_PREFIX) {
        const struct pleat_iter_options *group = PLEAT_ITER_OPTIONS(.prefix = {key, LOAD_PREFIX_BYTES});
        if (pleat_scan(cold->space, group, count_row, &rows, &err) < 0) {
            die("scan", err.message);
        }
        if (rows != GROUP) {
            die("scan", "a group has not all its rows");
        }
        return;
    }
    key[KEY_BYTES - 1] = kind == COLD_ABSENT ? 'x' : key[KEY_BYTES - 1];
    int rc = pleat_get_into(cold->space, NULL, (struct pleat_slice){key, KEY_BYTES}, value, sizeof value, &bytes, &err);
    if (rc < 0) {
        die("get", err.message);
    }
    if ((rc == PLEAT_ABSENT) != (kind == COLD_ABSENT) || (rc == 0 && bytes != VALUE_BYTES)) {
        die("get", "a wrong answer");
    }
}

static void read_many(struct cold *cold, const char *name, enum cold_kind kind, uint64_t count) {
    struct histogram *latencies = calloc(1, sizeof *latencies);
    if (latencies == NULL) {
        die(name, "no memory");
    }
    struct measure_io io = measure_io();
    uint64_t cpu = measure_thread();
    for (uint64_t i = 0; i < count; i++) {
        uint64_t before = measure_wall();
        read_one(cold, kind);
        histogram_add(latencies, measure_wall() - before);
    }
    double n = (double)count;
    cpu = measure_thread() - cpu;
    struct measure_io now = measure_io();
    print_latencies(name, latencies);
    printf("  cpu %5.1f us  reads %.3f", (double)cpu / n / 1e3, (double)(now.syscr - io.syscr) / n);
    printf("  from the device %.0f bytes\n", (double)(now.read_bytes - io.read_bytes) / n);
    fflush(stdout);
    free(latencies);
}

int main(int argc, char **argv) {
    struct pleat_options options = {.size = sizeof options, .open_mode = PLEAT_MUST_EXIST, .cache_bytes = 128u << 20};
    struct pleat_space_options grouped = {.size = sizeof grouped, .group_delimiter = '.', .group_delimiters = 2};
    struct cold cold = {.path = argc > 1 ? argv[1] : "", .random = 1};
    uint64_t gets = 80000;
    struct pleat_error err;
    uint64_t keys = 0;
    for (int i = 2; i + 1 < argc; i += 2) {
        uint64_t number = strtoull(argv[i + 1], NULL, 10);
        keys = strcmp(argv[i], "--keys") == 0 ? number : keys;
        options.cache_bytes = strcmp(argv[i], "--cache") == 0 ? number << 20 : options.cache_bytes;
        gets = strcmp(argv[i], "--gets") == 0 ? number : gets;
    }
    if (argc < 4 || argc % 2 != 0 || argv[1][0] == '-' || keys < GROUP) {
        fprintf(stderr, "usage: cold_bench DIR --keys N [--cache MIB] [--gets N]\n");
        return 2;
    }
    load_init(&cold.load, LOAD_ROUTE, keys / GROUP * GROUP, GROUP, VALUE_BYTES, true);
    read_device(&cold);
    if (pleat_open(cold.path, &options, &cold.db, &err) < 0 ||
        pleat_space_open(cold.db, (struct pleat_slice){"routes", 6}, &grouped, &cold.space, &err) < 0) {
        die(cold.path, err.message);
    }
    for (int round = 0; round < 4; round++) { /* the first ones bring what is worth keeping */
        read_many(&cold, "get", COLD_GET, gets);
    }
    read_many(&cold, "prefix", COLD_PREFIX, gets / 2);
    read_many(&cold, "absent", COLD_ABSENT, gets);
    read_many(&cold, "absent", COLD_ABSENT, gets);
    printf("anonymous memory %.0f MiB\n", (double)measure_status_kib("RssAnon:") / 1024);
    if (pleat_close(cold.db, &err) < 0) {
        die("close", err.message);
    }
    read_device(&cold);
    load_free(&cold.load);
    return 0;
}
