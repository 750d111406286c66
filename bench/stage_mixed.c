/*
 * stage_mixed.c - reads while a writer runs flat out; and commits that are synced one by one, by one and by four
 * writers.
 *
 * The writer overwrites in random order and stops for nothing. The reader gets for half of the time and reads groups
 * for the other half. What is measured is a store in service, not the filling of its cache: a key of each group is read
 * once before the writer begins, and the reader reads groups beside it for as long as it will be measured before the
 * clock starts (the latencies of the writer's batches are those of all). What it may see is bounded by the model: at
 * least the generation of each key that was committed before its read began, at most one more than is committed when it
 * ended (load.h). Rows of a group are copied in the callback and compared when the clock has stopped.
 */
#include "bench.h"

#include <fcntl.h>
#include <inttypes.h>

struct background {
    struct bench *bench;
    struct engine_session *session;
    struct writer writer;
    _Atomic bool stop;
    _Atomic uint64_t updates; /* so far */
    uint64_t end;
};

static void *write_flat_out(void *context) {
    struct background *background = context;
    struct bench *bench = background->bench;
    struct load_order order;
    struct load_walk walk;
    load_order_init(&order, bench->load.keys, false);
    load_walk_init(&walk, &bench->load, &order);
    while (!atomic_load_explicit(&background->stop, memory_order_relaxed)) {
        for (uint64_t i = 0; i < bench->batch; i++) {
            writer_put(&background->writer, load_walk_next(&walk));
        }
        atomic_store_explicit(&background->updates, background->writer.updates_total, memory_order_relaxed);
    }
    writer_flush(&background->writer);
    background->end = measure_wall();
    return NULL;
}

static void get_beside_writer(struct bench *bench, struct histogram *latencies) {
    const struct load *load = &bench->load;
    uint8_t bytes[LOAD_KEY_BYTES_MAX];
    struct slice value = {NULL, 0};
    uint64_t number = load_below(&bench->random, load->keys);
    struct slice key = load_key(load, number, bytes);
    unsigned low = load_generation(load, number);
    bench->echo.present = true;
    bench->echo.value = load_value(load, number, low, bench->echo_value);
    uint64_t before = measure_wall();
    bool present = bench->engine->get(bench->session, key, &value);
    histogram_add(latencies, measure_wall() - before);
    unsigned high = load_next_generation(load_generation(load, number));
    if (!present || !load_value_is(load, number, low, high, value)) {
        bench_wrong(bench, "get of key %" PRIu64 " beside the writer: %s", number,
                    present ? "wrong value" : "not found");
    }
}

#define GROUP_MAX 64

struct copied {
    uint64_t rows;
    bool overflow;
    uint8_t keys[GROUP_MAX][LOAD_KEY_BYTES_MAX];
    uint8_t values[GROUP_MAX][128];
    uint32_t key_bytes[GROUP_MAX];
    uint32_t value_bytes[GROUP_MAX];
};

static bool copy_row(void *context, struct slice key, struct slice value) {
    struct copied *copied = context;
    if (copied->rows == GROUP_MAX || key.bytes > LOAD_KEY_BYTES_MAX || value.bytes > sizeof copied->values[0]) {
        copied->overflow = true;
        return false;
    }
    uint64_t at = copied->rows++;
    memcpy(copied->keys[at], key.data, key.bytes);
    memcpy(copied->values[at], value.data, value.bytes);
    copied->key_bytes[at] = (uint32_t)key.bytes;
    copied->value_bytes[at] = (uint32_t)value.bytes;
    return true;
}

static void group_beside_writer(struct bench *bench, struct histogram *latencies) {
    const struct load *load = &bench->load;
    static struct copied copied;
    uint64_t first = load_below(&bench->random, load->keys / load->group) * load->group;
    uint8_t key[LOAD_KEY_BYTES_MAX];
    unsigned low[GROUP_MAX];
    bool empty = bench_is_empty(bench);
    for (uint32_t i = 0; i < load->group; i++) {
        low[i] = load_generation(load, first + i);
    }
    (void)load_key(load, first, key);
    bench->echo.rows = load->group;
    bench->echo.key = load_key(load, 0, bench->echo_key);
    copied.rows = 0;
    uint64_t before = measure_wall();
    bench->engine->scan(bench->session, &(struct engine_range){.prefix = {key, LOAD_PREFIX_BYTES}}, copy_row, &copied);
    histogram_add(latencies, measure_wall() - before);
    if (copied.overflow || copied.rows != load->group) {
        bench_wrong(bench, "group at %" PRIu64 " beside the writer: %" PRIu64 " rows", first, copied.rows);
    }
    for (uint32_t i = 0; i < load->group && !empty; i++) {
        struct slice expected = load_key(load, first + i, key);
        unsigned high = load_next_generation(load_generation(load, first + i));
        struct slice value = {copied.values[i], copied.value_bytes[i]};
        if (copied.key_bytes[i] != expected.bytes || memcmp(copied.keys[i], key, expected.bytes) != 0 ||
            !load_value_is(load, first + i, low[i], high, value)) {
            bench_wrong(bench, "group at %" PRIu64 " beside the writer: row %u is wrong", first, i);
        }
    }
}

static void warm(struct bench *bench) {
    for (uint64_t first = 0; first < bench->load.keys; first += bench->load.group) {
        check_get(bench, first);
    }
}

void stage_mixed(struct bench *bench) {
    struct background background = {.bench = bench};
    struct histogram *gets = engine_new(sizeof *gets), *groups = engine_new(sizeof *groups);
    pthread_t thread;
    bench_open(bench, bench->cache_bytes);
    warm(bench);
    background.session = bench->engine->session_open(bench->store, &bench->echo);
    writer_init(&background.writer, bench, background.session, bench->batch);
    bench->echo.value = load_value(&bench->load, 0, 1, bench->echo_value);
    if (pthread_create(&thread, NULL, write_flat_out, &background) != 0) {
        engine_fail("bench", "pthread_create", "no thread");
    }
    uint64_t begin = measure_wall(), span = (uint64_t)(bench->seconds * 1e9);
    struct histogram *lead_in = engine_new(sizeof *lead_in);
    while (measure_wall() - begin < 2 * span) {
        group_beside_writer(bench, lead_in);
    }
    free(lead_in);
    uint64_t clock = begin = measure_wall(), updates_before = atomic_load(&background.updates);
    while (measure_wall() - begin < span) {
        get_beside_writer(bench, gets);
    }
    begin = measure_wall();
    while (measure_wall() - begin < span) {
        group_beside_writer(bench, groups);
    }
    atomic_store(&background.stop, true);
    (void)pthread_join(thread, NULL);
    double updates = (double)(background.writer.updates_total - updates_before);
    bench_figure(bench, "writer_wall", "ns/update", (double)(background.end - clock) / updates);
    bench_latencies(bench, "writer_batch", background.writer.latencies);
    bench_latencies(bench, "get", gets);
    bench_latencies(bench, "prefix", groups);
    bench_figure(bench, "get_rate", "1/s", (double)gets->count / bench->seconds);
    bench_figure(bench, "prefix_rate", "1/s", (double)groups->count / bench->seconds);
    writer_fini(&background.writer);
    bench->engine->session_close(background.session);
    bench_settle(bench);
    uint64_t ns;
    (void)check_full_scan(bench, false, &ns);
    bench_close(bench);
    free(gets);
    free(groups);
}

/* ---- synced commits --------------------------------------------------------------------------------------------- */

#define WRITERS 4

struct synced {
    struct bench *bench;
    struct engine_session *session;
    uint64_t first; /* its own keys */
    uint64_t keys;
    struct histogram latencies;
    uint64_t commits;
};

/* Batches of one; each thread has its own keys, and the cursor is whichever comes last. */
static void *write_synced(void *context) {
    struct synced *synced = context;
    struct bench *bench = synced->bench;
    struct writer writer;
    writer_init(&writer, bench, synced->session, 1);
    uint64_t begin = measure_wall(), span = (uint64_t)(bench->seconds * 1e9);
    for (uint64_t i = 0; measure_wall() - begin < span; i++) {
        writer_put(&writer, synced->first + i % synced->keys);
    }
    synced->latencies = *writer.latencies;
    synced->commits = writer.updates_total;
    writer_fini(&writer);
    return NULL;
}

static void run_synced(struct bench *bench, const char *name, unsigned writers) {
    struct synced *synced = engine_new(WRITERS * sizeof *synced);
    pthread_t threads[WRITERS];
    char title[64];
    uint64_t commits = 0;
    struct histogram all = {0};
    for (unsigned i = 0; i < writers; i++) {
        uint64_t keys = bench->load.keys / WRITERS;
        synced[i] = (struct synced){.bench = bench, .first = i * keys, .keys = keys};
        synced[i].session = bench->engine->session_open(bench->store, &bench->echo);
        if (pthread_create(&threads[i], NULL, write_synced, &synced[i]) != 0) {
            engine_fail("bench", "pthread_create", "no thread");
        }
    }
    for (unsigned i = 0; i < writers; i++) {
        (void)pthread_join(threads[i], NULL);
        bench->engine->session_close(synced[i].session);
        commits += synced[i].commits;
        for (unsigned k = 0; k < HISTOGRAM_BUCKETS; k++) {
            all.buckets[k] += synced[i].latencies.buckets[k];
        }
        all.count += synced[i].latencies.count;
        all.max = synced[i].latencies.max > all.max ? synced[i].latencies.max : all.max;
    }
    (void)snprintf(title, sizeof title, "%s_wall", name);
    bench_figure(bench, title, "ns/commit", bench->seconds * 1e9 / (double)commits);
    bench_latencies(bench, name, &all);
    free(synced);
}

/* What the device itself takes: 4 KiB written over, and fdatasync. */
static void raw_sync(struct bench *bench) {
    char path[4096], block[4096] = {1};
    struct histogram *latencies = engine_new(sizeof *latencies);
    (void)snprintf(path, sizeof path, "%s/sync.probe", bench->dir);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    for (unsigned i = 0; i < 64 && fd >= 0; i++) {
        (void)!pwrite(fd, block, sizeof block, i * (off_t)sizeof block);
    }
    if (fd < 0 || fsync(fd) != 0) {
        engine_fail("bench", path, "cannot be written");
    }
    uint64_t begin = measure_wall(), span = (uint64_t)(bench->seconds * 1e9 / 4);
    for (unsigned i = 0; measure_wall() - begin < span; i++) {
        uint64_t before = measure_wall();
        if (pwrite(fd, block, sizeof block, i % 64 * (off_t)sizeof block) < 0 || fdatasync(fd) != 0) {
            engine_fail("bench", path, "cannot be synced");
        }
        histogram_add(latencies, measure_wall() - before);
    }
    (void)close(fd);
    (void)unlink(path);
    bench_latencies(bench, "device_sync", latencies);
    free(latencies);
}

void stage_durable(struct bench *bench) {
    if (!bench_is_empty(bench)) {
        raw_sync(bench);
    }
    bench_open(bench, bench->cache_bytes);
    run_synced(bench, "one_writer", 1);
    run_synced(bench, "four_writers", WRITERS);
    uint64_t ns;
    (void)check_full_scan(bench, false, &ns);
    bench_close(bench);
}
