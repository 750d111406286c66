/*
 * stage_ycsb.c - the six core workloads of YCSB, one thread, batches of one.
 *
 *     A  50 % read, 50 % update                 D  95 % read of what is new, 5 % insert
 *     B  95 % read, 5 % update                  E  95 % scan of 1 to 100 rows, 5 % insert
 *     C  read                                   F  50 % read, 50 % read, change and write back
 *
 * 1,000-byte records as YCSB has them (as one value), keys hashed so that neighbours in time are none in order;
 * requests follow a Zipf distribution with 0.99, scattered over the key space. Every update carries a cursor, as
 * everywhere here. A scan's rows are counted and their order checked, and each is compared with the model: a user key
 * gives its number back only through a table of all keys in order, which is made before the clock starts.
 */
#include "bench.h"

#include <inttypes.h>
#include <math.h>

/* The generator of the benchmark's paper (Gray and others, SIGMOD 1994). */
struct zipf {
    uint64_t items;
    double theta, alpha, zeta, eta, half;
};

static void zipf_init(struct zipf *zipf, uint64_t items) {
    double zeta = 0, theta = 0.99;
    for (uint64_t i = 1; i <= items; i++) {
        zeta += 1 / pow((double)i, theta);
    }
    double two = 1 + 1 / pow(2, theta);
    *zipf = (struct zipf){
        items, theta, 1 / (1 - theta), zeta, (1 - pow(2 / (double)items, 1 - theta)) / (1 - two / zeta), two};
}

/* A rank: 0 is the most frequent. */
static uint64_t zipf_next(const struct zipf *zipf, uint64_t *random) {
    double u = (double)(load_random(random) >> 11) * 0x1p-53, uz = u * zipf->zeta;
    if (uz < 1) {
        return 0;
    }
    if (uz < zipf->half) {
        return 1;
    }
    uint64_t rank = (uint64_t)((double)zipf->items * pow(zipf->eta * u - zipf->eta + 1, zipf->alpha));
    return rank < zipf->items ? rank : zipf->items - 1;
}

struct ycsb {
    struct bench *bench;
    struct writer writer;
    struct zipf zipf;
    uint64_t present;  /* numbers below it are there */
    uint64_t *ordered; /* numbers by their keys; of all that may ever be there */
    uint64_t *places;  /* number -> index in `ordered` */
};

struct keyed {
    uint64_t key;
    uint64_t number;
};

static int compare_keyed(const void *a, const void *b) {
    const struct keyed *left = a, *right = b;
    return left->key < right->key ? -1 : left->key > right->key;
}

static void make_ordered(struct ycsb *ycsb) {
    uint64_t count = ycsb->bench->load.keys;
    struct keyed *keyed = engine_new(count * sizeof *keyed);
    ycsb->ordered = engine_new(count * sizeof *ycsb->ordered);
    ycsb->places = engine_new(count * sizeof *ycsb->places);
    for (uint64_t i = 0; i < count; i++) {
        keyed[i] = (struct keyed){load_mix(i + 1), i};
    }
    qsort(keyed, count, sizeof *keyed, compare_keyed);
    for (uint64_t i = 0; i < count; i++) {
        ycsb->ordered[i] = keyed[i].number;
        ycsb->places[keyed[i].number] = i;
    }
    free(keyed);
}

/* Ranks are scattered over the numbers. */
static uint64_t pick(struct ycsb *ycsb) {
    return load_mix(zipf_next(&ycsb->zipf, &ycsb->bench->random)) % ycsb->present;
}

static uint64_t pick_latest(struct ycsb *ycsb) {
    uint64_t rank = zipf_next(&ycsb->zipf, &ycsb->bench->random);
    return ycsb->present - 1 - (rank < ycsb->present ? rank : 0);
}

static void insert(struct ycsb *ycsb) {
    if (ycsb->present < ycsb->bench->load.keys) {
        writer_put(&ycsb->writer, ycsb->present++);
    }
}

struct walk {
    struct ycsb *ycsb;
    uint64_t place; /* where the next row is looked for */
    uint64_t rows;
    bool wrong;
};

static bool walk_row(void *context, struct slice key, struct slice value) {
    struct walk *walk = context;
    const struct load *load = &walk->ycsb->bench->load;
    uint8_t bytes[LOAD_KEY_BYTES_MAX];
    walk->rows++;
    if (bench_is_empty(walk->ycsb->bench)) {
        return true;
    }
    while (walk->place < load->keys && load_generation(load, walk->ycsb->ordered[walk->place]) == 0) {
        walk->place++;
    }
    if (walk->place == load->keys) {
        walk->wrong = true;
        return false;
    }
    uint64_t number = walk->ycsb->ordered[walk->place++];
    unsigned generation = load_generation(load, number);
    struct slice expected = load_key(load, number, bytes);
    walk->wrong = key.bytes != expected.bytes || memcmp(key.data, bytes, key.bytes) != 0 ||
                  !load_value_is(load, number, generation, generation, value);
    return !walk->wrong;
}

static void scan(struct ycsb *ycsb) {
    struct bench *bench = ycsb->bench;
    uint8_t bytes[LOAD_KEY_BYTES_MAX];
    uint64_t number = pick(ycsb), limit = 1 + load_below(&bench->random, 100);
    struct walk walk = {.ycsb = ycsb, .place = ycsb->places[number]};
    bench->echo.rows = limit;
    struct slice lower = load_key(&bench->load, number, bytes);
    bench->engine->scan(bench->session, &(struct engine_range){.lower = lower, .limit = limit}, walk_row, &walk);
    uint64_t left = 0;
    for (uint64_t i = walk.place; !walk.wrong && walk.rows < limit && i < bench->load.keys; i++) {
        left += load_generation(&bench->load, ycsb->ordered[i]) != 0;
    }
    if (walk.wrong || walk.rows > limit || (left > 0 && !bench_is_empty(bench))) {
        bench_wrong(bench, "scan from key %" PRIu64 ": row %" PRIu64 " of %" PRIu64 " is wrong", number, walk.rows,
                    limit);
    }
}

static void operation(struct ycsb *ycsb, char workload) {
    uint64_t dice = load_below(&ycsb->bench->random, 100);
    bool rare = dice < (workload == 'A' || workload == 'F' ? 50 : workload == 'C' ? 0 : 5);
    if (workload == 'E' && !rare) {
        scan(ycsb);
        return;
    }
    if (rare && (workload == 'D' || workload == 'E')) {
        insert(ycsb);
        return;
    }
    uint64_t number = workload == 'D' ? pick_latest(ycsb) : pick(ycsb);
    if (!rare || workload == 'F') {
        check_get(ycsb->bench, number);
    }
    if (rare) {
        writer_put(&ycsb->writer, number);
    }
}

static void run_workload(struct ycsb *ycsb, char workload, uint64_t operations) {
    struct bench *bench = ycsb->bench;
    struct histogram *latencies = engine_new(sizeof *latencies);
    char name[16];
    uint64_t begin = measure_wall(), before = begin, cpu = measure_process();
    for (uint64_t i = 0; i < operations; i++) {
        operation(ycsb, workload);
        uint64_t now = measure_wall();
        histogram_add(latencies, now - before);
        before = now;
    }
    (void)snprintf(name, sizeof name, "%c", workload);
    bench_figure(bench, name, "ns/operation", (double)(measure_wall() - begin) / (double)operations);
    bench_latencies(bench, name, latencies);
    (void)snprintf(name, sizeof name, "%c_cpu_all", workload);
    bench_figure(bench, name, "ns/operation", (double)(measure_process() - cpu) / (double)operations);
    free(latencies);
}

/* The model has room for as many inserts as workloads D and E may make. */
static uint64_t records_of(const struct bench *bench) {
    return bench->load.keys / 10 * 8;
}

void stage_ycsb_load(struct bench *bench) {
    struct writer writer;
    struct load_order order;
    struct load_walk walk;
    bench_open(bench, bench->cache_bytes);
    writer_init(&writer, bench, bench->session, 100);
    load_order_init(&order, records_of(bench), false);
    load_walk_init(&walk, &bench->load, &order);
    uint64_t begin = measure_wall();
    for (uint64_t i = 0; i < order.count; i++) {
        writer_put(&writer, load_walk_next(&walk));
    }
    writer_flush(&writer);
    bench_figure(bench, "load", "ns/update", (double)(measure_wall() - begin) / (double)order.count);
    bench_settle(bench);
    writer_fini(&writer);
    bench_close(bench);
}

void stage_ycsb(struct bench *bench) {
    struct ycsb ycsb = {.bench = bench, .present = records_of(bench)};
    make_ordered(&ycsb);
    zipf_init(&ycsb.zipf, ycsb.present);
    bench_open(bench, bench->cache_bytes);
    writer_init(&ycsb.writer, bench, bench->session, 1);
    bench->echo.key = load_key(&bench->load, 0, bench->echo_key);
    for (const char *workload = "ABCFDE"; *workload != '\0'; workload++) {
        run_workload(&ycsb, *workload, *workload == 'E' ? ycsb.present / 10 : ycsb.present);
    }
    check_cursor(bench);
    writer_fini(&ycsb.writer);
    bench_close(bench);
    free(ycsb.ordered);
    free(ycsb.places);
}
