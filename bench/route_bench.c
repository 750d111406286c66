/*
 * route_bench.c - the route fold: the work that pleat exists for, with its figures.
 *
 *     route_bench DIR [--routes N] [--batch N] [--memtable MIB] [--cache MIB] [--in-order] [--fold-only]
 *                     [--durability each|interval|none]
 *
 * Folds N routes (default 4,000,000: 25-byte keys in groups of 40, 100-byte half-compressible values) in random order
 * with a cursor a batch, settles, then reads: uniform gets, hot gets, absent keys, prefix reads of a group, full scans
 * both ways; then closes and reopens. Every read result is checked. One line a figure: name, value, unit.
 */
#include "pleat/pleat.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define KEY_BYTES 25
#define VALUE_BYTES 100
#define GROUP 40
#define PREFIX_BYTES 13 /* "svc.xxxxxxxx." */

struct bench {
    struct pleat_db *db;
    struct pleat_space *space;
    uint64_t routes;
    uint64_t batch;
    bool in_order;
    bool fold_only;
    struct pleat_options options;
    uint64_t random;
};

static uint64_t now_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void die(const char *what, const struct pleat_error *err) {
    fprintf(stderr, "%s: %s\n", what, err->message);
    exit(1);
}

static uint64_t mix(uint64_t z) {
    z += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t next_random(struct bench *bench) {
    return mix(bench->random++);
}

static void put_hex(char *p, uint64_t x, int digits) {
    for (int i = digits - 1; i >= 0; i--) {
        p[i] = "0123456789abcdef"[x & 15];
        x >>= 4;
    }
}

/* "svc.%08x.route.%06x": groups are numbered, and routes within their group. */
static void make_key(char key[KEY_BYTES], uint64_t route) {
    memcpy(key, "svc.", 4);
    put_hex(key + 4, route / GROUP, 8);
    memcpy(key + 12, ".route", 6);
    key[18] = '.';
    put_hex(key + 19, route % GROUP, 6);
}

/* Half-compressible: 45 random bytes and a text that is the same in all, which LZ4 brings to 50 bytes together. */
#define VALUE_RANDOM_BYTES 45
static void make_value(char value[VALUE_BYTES], uint64_t route) {
    static const char text[VALUE_BYTES - VALUE_RANDOM_BYTES + 1] =
        "\",\"upstream\":\"10.20.30.40:8080\",\"mode\":\"rw\",\"weight\":12";
    memcpy(value + VALUE_RANDOM_BYTES, text, VALUE_BYTES - VALUE_RANDOM_BYTES);
    for (int at = 0; at < VALUE_RANDOM_BYTES; at += 8) {
        uint64_t x = mix(route * 8 + (uint64_t)at / 8);
        memcpy(value + at, &x, at + 8 <= VALUE_RANDOM_BYTES ? 8 : VALUE_RANDOM_BYTES % 8);
    }
}

/* The i-th route of the stream: a permutation of [0, routes) by a Feistel walk. */
static uint64_t stream_route(const struct bench *bench, uint64_t i) {
    if (bench->in_order) {
        return i;
    }
    int half = 1;
    while (((uint64_t)1 << (2 * half)) < bench->routes) {
        half++;
    }
    uint64_t mask = ((uint64_t)1 << half) - 1;
    do {
        uint64_t left = i >> half, right = i & mask;
        for (uint64_t round = 0; round < 4; round++) {
            uint64_t next = left ^ (mix(right * 4 + round) & mask);
            left = right;
            right = next;
        }
        i = left << half | right;
    } while (i >= bench->routes);
    return i;
}

static void report(const char *name, double value, const char *unit) {
    printf("%-28s %12.3f %s\n", name, value, unit);
    fflush(stdout);
}

static void bench_fold(struct bench *bench) {
    struct pleat_error err;
    struct pleat_batch *batch;
    if (pleat_batch_new(bench->db, &batch, &err) < 0) {
        die("batch", &err);
    }
    uint64_t commits = (bench->routes + bench->batch - 1) / bench->batch;
    uint64_t *latency = malloc(commits * sizeof *latency);
    uint64_t wall = now_ns(CLOCK_MONOTONIC), cpu = now_ns(CLOCK_PROCESS_CPUTIME_ID), commit_cpu = 0, make_cpu = 0;
    uint64_t at = 0, thread_begin = now_ns(CLOCK_THREAD_CPUTIME_ID);
    for (uint64_t i = 0; i < bench->routes;) {
        pleat_batch_clear(batch);
        uint64_t before = now_ns(CLOCK_MONOTONIC);
        for (uint64_t k = 0; k < bench->batch && i < bench->routes; k++, i++) {
            char key[KEY_BYTES], value[VALUE_BYTES];
            uint64_t route = stream_route(bench, i);
            make_key(key, route);
            make_value(value, route);
            if (pleat_batch_put(batch, bench->space, (struct pleat_slice){key, KEY_BYTES},
                                (struct pleat_slice){value, VALUE_BYTES}, &err) < 0) {
                die("put", &err);
            }
        }
        struct pleat_cursor cursor = {.value = {&i, sizeof i}};
        if (pleat_batch_set_cursor(batch, &cursor, &err) < 0 || pleat_commit(bench->db, batch, NULL, NULL, &err) < 0) {
            die("commit", &err);
        }
        latency[at++] = now_ns(CLOCK_MONOTONIC) - before;
    }
    commit_cpu = now_ns(CLOCK_THREAD_CPUTIME_ID) - thread_begin;
    uint64_t folded = now_ns(CLOCK_MONOTONIC);
    if (pleat_settle(bench->db, NULL, NULL, &err) < 0) {
        die("settle", &err);
    }
    uint64_t settled = now_ns(CLOCK_MONOTONIC), cpu_end = now_ns(CLOCK_PROCESS_CPUTIME_ID);
    /* The generator's own cost, measured apart and taken off the committing thread's figure. */
    uint64_t make_begin = now_ns(CLOCK_THREAD_CPUTIME_ID);
    unsigned sum = 0;
    for (uint64_t i = 0; i < bench->routes; i++) {
        char key[KEY_BYTES], value[VALUE_BYTES];
        uint64_t route = stream_route(bench, i);
        make_key(key, route);
        make_value(value, route);
        sum += (unsigned char)key[24] + (unsigned char)value[3];
    }
    make_cpu = now_ns(CLOCK_THREAD_CPUTIME_ID) - make_begin;
    double n = (double)bench->routes;
    report("fold to the last commit", n / ((double)(folded - wall) / 1e9) / 1e6, "M updates/s");
    report("settled after", (double)(settled - folded) / 1e9, "s");
    report("fold to settled", n / ((double)(settled - wall) / 1e9) / 1e6, "M updates/s");
    report("cpu of all threads", ((double)(cpu_end - cpu) - (double)make_cpu) / n, "ns/update, generator off");
    report("cpu of the committing thread", ((double)commit_cpu - (double)make_cpu) / n, "ns/update, generator off");
    /* Selection by counting would do; a sort is short. */
    for (uint64_t gap = at / 2; gap > 0; gap /= 2) {
        for (uint64_t i = gap; i < at; i++) {
            uint64_t x = latency[i], j = i;
            for (; j >= gap && latency[j - gap] > x; j -= gap) {
                latency[j] = latency[j - gap];
            }
            latency[j] = x;
        }
    }
    report("batch p50", (double)latency[at / 2] / 1e3, "us");
    report("batch p99.9", (double)latency[at - 1 - at / 1000] / 1e3, "us");
    report("batch max", (double)latency[at - 1] / 1e3, "us");
    free(latency);
    pleat_batch_free(batch);
    if (sum == 1) {
        printf("\n");
    }
}

enum get_kind { GET_UNIFORM, GET_HOT, GET_ABSENT };

static void bench_get(struct bench *bench, const char *name, enum get_kind kind, uint64_t count) {
    struct pleat_error err;
    double best = 1e18;
    for (int round = 0; round < 3; round++) {
        uint64_t begin = now_ns(CLOCK_THREAD_CPUTIME_ID);
        for (uint64_t i = 0; i < count; i++) {
            uint64_t route = next_random(bench) % (kind == GET_HOT ? bench->routes / 100 : bench->routes);
            char key[KEY_BYTES], value[VALUE_BYTES];
            make_key(key, route);
            key[24] = kind == GET_ABSENT ? 'x' : key[24];
            size_t bytes;
            int rc = pleat_get_into(bench->space, NULL, (struct pleat_slice){key, KEY_BYTES}, value, sizeof value,
                                    &bytes, &err);
            if (rc < 0 || (rc == PLEAT_ABSENT) != (kind == GET_ABSENT) || (rc == 0 && bytes != VALUE_BYTES)) {
                fprintf(stderr, "%s: wrong answer %d for route %" PRIu64 "\n", name, rc, route);
                exit(1);
            }
            if (rc == 0 && i % 64 == 0) {
                char expected[VALUE_BYTES];
                make_value(expected, route);
                if (memcmp(value, expected, VALUE_BYTES) != 0) {
                    fprintf(stderr, "%s: wrong value of route %" PRIu64 "\n", name, route);
                    exit(1);
                }
            }
        }
        double ns = (double)(now_ns(CLOCK_THREAD_CPUTIME_ID) - begin) / (double)count;
        best = ns < best ? ns : best;
    }
    report(name, best, "ns");
}

struct counter {
    uint64_t rows;
    uint64_t bytes;
};

static int count_row(void *context, const struct pleat_row *row) {
    struct counter *counter = context;
    counter->rows++;
    counter->bytes += row->key.bytes + row->value.bytes + ((const unsigned char *)row->value.data)[0] % 2;
    return 0;
}

static void bench_prefix(struct bench *bench, const char *name, bool hot, uint64_t count) {
    struct pleat_error err;
    double best = 1e18;
    uint64_t groups = bench->routes / GROUP;
    for (int round = 0; round < 3; round++) {
        uint64_t begin = now_ns(CLOCK_THREAD_CPUTIME_ID);
        for (uint64_t i = 0; i < count; i++) {
            char key[KEY_BYTES];
            make_key(key, next_random(bench) % (hot ? groups / 100 : groups) * GROUP);
            struct counter counter = {0, 0};
            if (pleat_scan(bench->space, PLEAT_ITER_OPTIONS(.prefix = {key, PREFIX_BYTES}), count_row, &counter, &err) <
                0) {
                die(name, &err);
            }
            if (counter.rows != GROUP) {
                fprintf(stderr, "%s: %" PRIu64 " rows, expected %d\n", name, counter.rows, GROUP);
                exit(1);
            }
        }
        double us = (double)(now_ns(CLOCK_THREAD_CPUTIME_ID) - begin) / (double)count / 1e3;
        best = us < best ? us : best;
    }
    report(name, best, "us");
}

static void bench_scan(struct bench *bench, const char *name, bool reverse) {
    struct pleat_error err;
    double best = 0;
    for (int round = 0; round < 3; round++) {
        struct counter counter = {0, 0};
        uint64_t begin = now_ns(CLOCK_THREAD_CPUTIME_ID);
        if (pleat_scan(bench->space, PLEAT_ITER_OPTIONS(.reverse = reverse), count_row, &counter, &err) < 0) {
            die(name, &err);
        }
        double rate = (double)counter.rows / ((double)(now_ns(CLOCK_THREAD_CPUTIME_ID) - begin) / 1e9) / 1e6;
        best = rate > best ? rate : best;
        if (counter.rows != bench->routes) {
            fprintf(stderr, "%s: %" PRIu64 " rows, expected %" PRIu64 "\n", name, counter.rows, bench->routes);
            exit(1);
        }
    }
    report(name, best, "M entries/s");
}

static double directory_mib(const char *path) {
    double bytes = 0;
    DIR *dir = opendir(path);
    struct dirent *entry;
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        char name[4096];
        struct stat info;
        (void)snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        if (entry->d_name[0] != '.' && stat(name, &info) == 0) {
            bytes += (double)info.st_size;
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
    return bytes / 1048576;
}

static double status_mib(const char *field) {
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    double mib = 0;
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, field, strlen(field)) == 0) {
            mib = strtod(line + strlen(field) + 1, NULL) / 1024;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return mib;
}

/* An option without a value. */
static bool parse_flag(struct bench *bench, const char *name) {
    bool *flag = strcmp(name, "--fold-only") == 0  ? &bench->fold_only
                 : strcmp(name, "--in-order") == 0 ? &bench->in_order
                                                   : NULL;
    if (flag != NULL) {
        *flag = true;
    }
    return flag != NULL;
}

/* An option and its value. */
static bool parse_option(struct bench *bench, const char *name, const char *value) {
    if (strcmp(name, "--routes") == 0) {
        bench->routes = strtoull(value, NULL, 10) / GROUP * GROUP;
    } else if (strcmp(name, "--batch") == 0) {
        bench->batch = strtoull(value, NULL, 10);
    } else if (strcmp(name, "--memtable") == 0) {
        bench->options.memtable_bytes = strtoull(value, NULL, 10) << 20;
    } else if (strcmp(name, "--cache") == 0) {
        bench->options.cache_bytes = strtoull(value, NULL, 10) << 20;
    } else if (strcmp(name, "--durability") == 0) {
        static const char *const modes[] = {"interval", "each", "none"};
        static const uint32_t durability[] = {PLEAT_SYNC_INTERVAL, PLEAT_SYNC_EACH, PLEAT_SYNC_NONE};
        unsigned mode = 0;
        while (mode < 3 && strcmp(value, modes[mode]) != 0) {
            mode++;
        }
        bench->options.durability = mode < 3 ? durability[mode] : 0;
        return mode < 3;
    } else {
        return false;
    }
    return true;
}

static void parse(struct bench *bench, int argc, char **argv) {
    int i = 2;
    while (i < argc) {
        if (parse_flag(bench, argv[i])) {
            i += 1;
        } else if (i + 1 < argc && parse_option(bench, argv[i], argv[i + 1])) {
            i += 2;
        } else {
            fprintf(stderr, "unknown argument, or one without a value that fits: %s\n", argv[i]);
            exit(2);
        }
    }
    if (bench->routes == 0 || bench->batch == 0) {
        fprintf(stderr, "--routes and --batch take numbers, --routes at least %d\n", GROUP);
        exit(2);
    }
}

int main(int argc, char **argv) {
    struct bench bench = {
        .routes = 4000000,
        .batch = 100,
        .random = 1,
        .options = {.size = sizeof bench.options, .cache_bytes = 1ull << 30, .open_mode = PLEAT_MUST_NOT_EXIST},
    };
    struct pleat_error err;
    if (argc < 2 || argv[1][0] == '-') { /* an option is no directory */
        bool is_help = argc == 2 && strcmp(argv[1], "--help") == 0;
        fprintf(
            is_help ? stdout : stderr,
            "usage: route_bench DIR [--routes N] [--batch N] [--memtable MIB] [--cache MIB] [--in-order] [--fold-only] "
            "[--durability each|interval|none]\n");
        return is_help ? 0 : 2;
    }
    parse(&bench, argc, argv);
    struct pleat_space_options grouped = {.size = sizeof grouped, .group_delimiter = '.', .group_delimiters = 2};
    if (pleat_open(argv[1], &bench.options, &bench.db, &err) < 0 ||
        pleat_space_open(bench.db, (struct pleat_slice){"routes", 6}, &grouped, &bench.space, &err) < 0) {
        die("open", &err);
    }
    bench_fold(&bench);
    report("anonymous memory", status_mib("RssAnon:"), "MiB after the fold");
    uint64_t gets = bench.routes < 1000000 ? bench.routes : 1000000;
    if (bench.fold_only) {
        return pleat_close(bench.db, &err) < 0;
    }
    bench_scan(&bench, "full scan, first", false);
    bench_get(&bench, "get uniform", GET_UNIFORM, gets);
    bench_get(&bench, "get hot 1 %", GET_HOT, gets);
    bench_get(&bench, "get absent", GET_ABSENT, gets);
    bench_prefix(&bench, "prefix of 40 uniform", false, gets / 10);
    bench_prefix(&bench, "prefix of 40 hot 1 %", true, gets / 10);
    bench_scan(&bench, "full scan", false);
    bench_scan(&bench, "full scan back", true);
    report("anonymous memory", status_mib("RssAnon:"), "MiB after the reads");
    struct pleat_stats stats = {.size = sizeof stats};
    if (pleat_stats_read(bench.db, &stats, &err) == 0) {
        for (unsigned level = 0; level < PLEAT_LEVELS; level++) {
            if (stats.levels[level].tables > 0) {
                printf("level %u: %" PRIu64 " tables, %.1f MiB, %" PRIu64 " entries\n", level,
                       stats.levels[level].tables, (double)stats.levels[level].file_bytes / 1048576,
                       stats.levels[level].entries);
            }
        }
        printf("flushes %" PRIu64 ", compactions %" PRIu64 ", moves %" PRIu64 ", delayed %.3f s, flushed %.1f MiB, "
               "compacted %.1f MiB in, %.1f MiB out\n",
               stats.flushes, stats.compactions, stats.moves, (double)stats.delayed_ns_total / 1e9,
               (double)stats.bytes_flushed / 1048576, (double)stats.bytes_compacted_in / 1048576,
               (double)stats.bytes_compacted_out / 1048576);
    }
    uint64_t begin = now_ns(CLOCK_MONOTONIC);
    if (pleat_close(bench.db, &err) < 0) {
        die("close", &err);
    }
    report("close", (double)(now_ns(CLOCK_MONOTONIC) - begin) / 1e6, "ms");
    report("on disk", directory_mib(argv[1]), "MiB");
    bench.options.open_mode = PLEAT_MUST_EXIST;
    begin = now_ns(CLOCK_MONOTONIC);
    if (pleat_open(argv[1], &bench.options, &bench.db, &err) < 0) {
        die("reopen", &err);
    }
    report("reopen after close", (double)(now_ns(CLOCK_MONOTONIC) - begin) / 1e6, "ms");
    return pleat_close(bench.db, &err) < 0;
}
