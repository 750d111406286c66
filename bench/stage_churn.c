/*
 * stage_churn.c - deletes, and scans over what was deleted; and the end by SIGKILL with a full memtable.
 *
 * A quarter of the groups, one behind the other, is deleted. A scan that starts in front of them and wants 100 rows
 * must get past all of it; a read of a deleted group must find that there is nothing. Both are measured before the
 * store is settled and after. Then the keys come back.
 */
#include "bench.h"

#include <inttypes.h>
#include <signal.h>

#define SKIP_ROWS 100

/* From the last group in front of the gap, 100 rows; about 60 lie behind it. */
static void measure_skip(struct bench *bench, const char *name, uint64_t gap_first, uint64_t gap_count) {
    struct load *load = &bench->load;
    uint64_t start = gap_first - load->group, rows, more;
    uint64_t want = SKIP_ROWS, tail = want - load->group;
    struct check_chain chain, expected = {0, 0};
    uint8_t bytes[LOAD_KEY_BYTES_MAX], value[LOAD_VALUE_BYTES_MAX + 8];
    uint64_t best = UINT64_MAX;
    bench->echo.key = load_key(load, 0, bench->echo_key);
    bench->echo.value = load_value(load, 0, 1, bench->echo_value);
    expected.chain = check_expected(bench, start, load->group, false, &rows);
    for (more = 0; more < tail; more++) {
        uint64_t number = gap_first + gap_count + more;
        struct slice key = bench_is_empty(bench) ? bench->echo.key : load_key(load, number, bytes);
        struct slice row =
            bench_is_empty(bench) ? bench->echo.value : load_value(load, number, load_generation(load, number), value);
        expected.chain = load_chain(expected.chain, key, row);
    }
    bench->echo.rows = want;
    for (int round = 0; round < 3; round++) {
        chain = (struct check_chain){0, 0};
        struct slice lower = load_key(load, start, bytes);
        uint64_t before = measure_wall();
        bench->engine->scan(bench->session, &(struct engine_range){.lower = lower, .limit = want}, check_row, &chain);
        uint64_t ns = measure_wall() - before;
        best = ns < best ? ns : best;
        if (chain.rows != want || chain.chain != expected.chain) {
            bench_wrong(bench, "scan over the gap: %" PRIu64 " rows; contents %s", chain.rows,
                        chain.chain == expected.chain ? "right" : "wrong");
        }
    }
    bench_figure(bench, name, "ms", (double)best / 1e6);
}

/* For a second at most: some engines pass every tombstone up to the next live key to find a group empty. */
static void measure_empty_groups(struct bench *bench, const char *name, uint64_t first_group, uint64_t groups) {
    uint64_t limit = groups < 2000 ? groups : 2000, done = 0;
    uint64_t before = measure_thread(), wall = measure_wall();
    while (done < limit && (done == 0 || measure_wall() - wall < 1000000000)) {
        check_group(bench, first_group + load_below(&bench->random, groups), 0, 0);
        done++;
    }
    bench_figure(bench, name, "ns", (double)(measure_thread() - before) / (double)done);
}

void stage_churn(struct bench *bench) {
    struct load *load = &bench->load;
    struct writer writer;
    uint64_t groups = load->keys / load->group, first = groups / 4, count = groups / 4, ns;
    bench_open(bench, bench->cache_bytes);
    writer_init(&writer, bench, bench->session, bench->batch);
    uint64_t wall = measure_wall(), process = measure_process();
    for (uint64_t i = 0; i < count * load->group; i++) {
        writer_delete(&writer, first * load->group + i);
    }
    writer_flush(&writer);
    bench_figure(bench, "delete_wall", "ns/update", (double)(measure_wall() - wall) / (double)writer.updates_total);
    uint64_t reading = measure_thread(); /* is no part of what deletes cost */
    measure_skip(bench, "skip_unsettled", first * load->group, count * load->group);
    measure_empty_groups(bench, "empty_group_unsettled", first, count);
    reading = measure_thread() - reading;
    bench_settle(bench);
    bench_figure(bench, "delete_cpu_all", "ns/update",
                 (double)(measure_process() - process - reading) / (double)writer.updates_total);
    measure_skip(bench, "skip_settled", first * load->group, count * load->group);
    measure_empty_groups(bench, "empty_group_settled", first, count);
    (void)check_full_scan(bench, false, &ns);
    for (uint64_t i = 0; i < count * load->group; i++) {
        writer_put(&writer, first * load->group + i);
    }
    writer_flush(&writer);
    (void)check_full_scan(bench, false, &ns);
    (void)check_full_scan(bench, true, &ns);
    check_cursor(bench);
    writer_fini(&writer);
    bench_close(bench);
}

/* Fills nine tenths of a memtable and dies. */
void stage_kill(struct bench *bench) {
    struct writer writer;
    struct load_order order;
    struct load_walk walk;
    bench_open(bench, bench->cache_bytes);
    writer_init(&writer, bench, bench->session, bench->batch);
    load_order_init(&order, bench->load.keys, false);
    load_walk_init(&walk, &bench->load, &order);
    uint64_t count = bench->memtable_bytes / 10 * 9 / (bench->load.key_bytes + bench->load.value_bytes + 20);
    for (uint64_t i = 0; i < count && i < order.count; i++) {
        writer_put(&writer, load_walk_next(&walk));
    }
    writer_flush(&writer);
    bench_figure(bench, "updates_in_memory", "count", (double)writer.updates_total);
    (void)fflush(NULL);
    (void)raise(SIGKILL);
}
