/*
 * stage_read.c - reading a store that is at rest, by one thread: with a cache that holds everything, and with a small
 * one.
 *
 * Means are thread CPU, the least of three rounds; latencies are wall time around one call. Which keys and groups are
 * asked for, and what they hold, is made before the clock starts where that is much work (groups), and in the loop
 * where it is little (keys): the empty engine says how little.
 */
#include "bench.h"

#include <inttypes.h>

#define ROUNDS 3
#define READS 400000 /* gets a round */

enum get_kind { GET_UNIFORM, GET_HOT, GET_ABSENT, GET_EXISTS };

/* A number to ask for, the model's byte of which is on its way when it is needed. */
static uint64_t draw(struct bench *bench, enum get_kind kind) {
    uint64_t keys = bench->load.keys;
    uint64_t number = load_below(&bench->random, kind == GET_HOT && keys >= 100 ? keys / 100 : keys);
    load_prefetch(&bench->load, number);
    return number;
}

/* A key between those that are there, or one that is there without asking for its value. */
static void probe(struct bench *bench, uint64_t number, enum get_kind kind) {
    uint8_t bytes[LOAD_KEY_BYTES_MAX];
    struct slice value = {NULL, 0};
    bool wanted = kind == GET_EXISTS && load_generation(&bench->load, number) != 0;
    struct slice key =
        kind == GET_ABSENT ? load_absent_key(&bench->load, number, bytes) : load_key(&bench->load, number, bytes);
    bench->echo.present = wanted;
    bool found = kind == GET_ABSENT ? bench->engine->get(bench->session, key, &value)
                                    : bench->engine->exists(bench->session, key);
    if (found != wanted) {
        bench_wrong(bench, "key %" PRIu64 "%s: %s", number, kind == GET_ABSENT ? " with an x" : "",
                    found ? "there, but it is not" : "not found");
    }
}

static void one_get(struct bench *bench, enum get_kind kind, uint64_t number) {
    if (kind == GET_ABSENT || kind == GET_EXISTS) {
        probe(bench, number, kind);
    } else {
        check_get(bench, number);
    }
}

static void measure_gets(struct bench *bench, const char *name, enum get_kind kind, uint64_t count) {
    uint64_t best = UINT64_MAX;
    uint64_t next = draw(bench, kind), number;
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t before = measure_thread();
        for (uint64_t i = 0; i < count; i++) {
            number = next;
            next = draw(bench, kind);
            one_get(bench, kind, number);
        }
        uint64_t ns = measure_thread() - before;
        best = ns < best ? ns : best;
    }
    bench_figure(bench, name, "ns", (double)best / (double)count);
    char title[64];
    struct histogram *latencies = engine_new(sizeof *latencies);
    for (uint64_t i = 0; i < count / 2; i++) {
        number = next;
        next = draw(bench, kind);
        uint64_t before = measure_wall();
        one_get(bench, kind, number);
        histogram_add(latencies, measure_wall() - before);
    }
    (void)snprintf(title, sizeof title, "%s_wall", name);
    bench_latencies(bench, title, latencies);
    free(latencies);
}

#define MANY 100

static void measure_get_many(struct bench *bench, uint64_t count) {
    uint8_t keys[MANY][LOAD_KEY_BYTES_MAX];
    struct slice asked[MANY], values[MANY];
    uint64_t numbers[MANY];
    bool present[MANY];
    uint64_t best = UINT64_MAX;
    bool empty = bench_is_empty(bench);
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t before = measure_thread();
        for (uint64_t i = 0; i < count / MANY; i++) {
            for (unsigned k = 0; k < MANY; k++) {
                numbers[k] = draw(bench, GET_UNIFORM);
                asked[k] = load_key(&bench->load, numbers[k], keys[k]);
            }
            bench->echo.present = true;
            bench->echo.value = load_value(&bench->load, numbers[0], 1, bench->echo_value);
            bench->engine->get_many(bench->session, asked, MANY, present, values);
            for (unsigned k = 0; k < MANY; k++) {
                uint64_t number = empty ? numbers[0] : numbers[k];
                unsigned generation = empty ? 1 : load_generation(&bench->load, number);
                if (present[k] != (generation != 0) ||
                    (present[k] && !load_value_is(&bench->load, number, generation, generation, values[k]))) {
                    bench_wrong(bench, "multi-get of key %" PRIu64 ": wrong answer", number);
                }
            }
        }
        uint64_t ns = measure_thread() - before;
        best = ns < best ? ns : best;
    }
    bench_figure(bench, "get_many", "ns", (double)best / (double)(count / MANY * MANY));
}

struct group_read {
    uint64_t group;
    uint64_t rows;
    uint64_t chain;
};

static void measure_prefixes(struct bench *bench, const char *name, bool hot, uint64_t count) {
    uint64_t groups = bench->load.keys / bench->load.group, among = hot && groups >= 100 ? groups / 100 : groups;
    struct group_read *reads = engine_new(count * sizeof *reads);
    char title[64];
    bench->echo.key = load_key(&bench->load, 0, bench->echo_key);
    bench->echo.value = load_value(&bench->load, 0, 1, bench->echo_value);
    for (uint64_t i = 0; i < count; i++) {
        reads[i].group = load_below(&bench->random, among);
        reads[i].chain =
            check_expected(bench, reads[i].group * bench->load.group, bench->load.group, false, &reads[i].rows);
    }
    uint64_t best = UINT64_MAX;
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t before = measure_thread();
        for (uint64_t i = 0; i < count; i++) {
            check_group(bench, reads[i].group, reads[i].rows, reads[i].chain);
        }
        uint64_t ns = measure_thread() - before;
        best = ns < best ? ns : best;
    }
    bench_figure(bench, name, "ns", (double)best / (double)count);
    struct histogram *latencies = engine_new(sizeof *latencies);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t before = measure_wall();
        check_group(bench, reads[i].group, reads[i].rows, reads[i].chain);
        histogram_add(latencies, measure_wall() - before);
    }
    (void)snprintf(title, sizeof title, "%s_wall", name);
    bench_latencies(bench, title, latencies);
    free(latencies);
    free(reads);
}

static void measure_scan(struct bench *bench, const char *name, bool reverse, int rounds) {
    uint64_t best = UINT64_MAX, rows = 1;
    for (int round = 0; round < rounds; round++) {
        uint64_t ns;
        rows = check_full_scan(bench, reverse, &ns);
        best = ns < best ? ns : best;
    }
    bench_figure(bench, name, "ns/row", (double)best / (double)(rows > 0 ? rows : 1));
}

static void open_tidy(struct bench *bench, uint64_t cache_bytes) {
    bench_open(bench, cache_bytes);
    if (bench->engine->tidy != NULL) {
        bench->engine->tidy(bench->store);
    }
}

static uint64_t read_count(const struct bench *bench) {
    return bench->load.keys < READS ? bench->load.keys : READS;
}

void stage_read(struct bench *bench) {
    uint64_t count = read_count(bench), prefixes = count / 20 + 1;
    char text[512];
    open_tidy(bench, bench->cache_bytes);
    check_cursor(bench);
    measure_scan(bench, "scan_first", false, 1);
    measure_gets(bench, "get_uniform", GET_UNIFORM, count);
    if (!bench->reads_are_short) {
        measure_gets(bench, "get_hot", GET_HOT, count);
        measure_gets(bench, "get_absent", GET_ABSENT, count);
        measure_gets(bench, "exists", GET_EXISTS, count);
        measure_get_many(bench, count);
    }
    if (bench->load.group > 1) {
        prefixes = prefixes * 40 / bench->load.group + 1;
        measure_prefixes(bench, "prefix_uniform", false, prefixes);
        measure_prefixes(bench, "prefix_hot", true, prefixes);
    }
    measure_scan(bench, "scan_forward", false, ROUNDS);
    measure_scan(bench, "scan_back", true, ROUNDS);
    bench_figure(bench, "memory_anonymous", "bytes", (double)measure_status_kib("RssAnon:") * 1024);
    bench_figure(bench, "memory_peak", "bytes", (double)measure_status_kib("VmHWM:") * 1024);
    bench->engine->describe(bench->store, text, sizeof text);
    bench_text(bench, "state", text);
    bench_close(bench);
}

/* Files in the page cache, blocks mostly not in the engine's own. */
void stage_read_small(struct bench *bench) {
    uint64_t count = read_count(bench) / 4 + 1;
    bench_open(bench, bench->cache_small_bytes);
    measure_scan(bench, "scan_forward", false, 1);
    struct measure_io before = measure_io();
    measure_gets(bench, "get_uniform", GET_UNIFORM, count);
    struct measure_io after = measure_io();
    double gets = (double)(count * ROUNDS + count / 2);
    bench_figure(bench, "read_calls_per_get", "bytes", (double)(after.rchar - before.rchar) / gets);
    bench_figure(bench, "device_reads_per_get", "bytes", (double)(after.read_bytes - before.read_bytes) / gets);
    measure_gets(bench, "get_absent", GET_ABSENT, count);
    measure_prefixes(bench, "prefix_uniform", false, count / 10 + 1);
    bench_figure(bench, "memory_anonymous", "bytes", (double)measure_status_kib("RssAnon:") * 1024);
    bench_close(bench);
}

void stage_reopen(struct bench *bench) {
    uint64_t before = measure_wall();
    bench_open(bench, bench->cache_bytes);
    check_get(bench, load_below(&bench->random, bench->load.keys));
    bench_figure(bench, "to_first_get", "ms", (double)(measure_wall() - before) / 1e6);
    check_cursor(bench);
    uint64_t ns;
    (void)check_full_scan(bench, false, &ns);
    bench_close(bench);
}
