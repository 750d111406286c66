/*
 * check.c - every answer of a store against the model; see bench.h.
 *
 * A get is compared byte by byte with the value made again. A scan of many rows is compared by a chain over all bytes
 * of its rows in order (load_chain), which is computed from the model before the clock starts: a row that is missing,
 * doubled, out of order or wrong by a bit changes it, but for one in 2^64. It costs a few nanoseconds a row, where
 * making each row again would cost more than some engines take.
 */
#include "bench.h"

#include <inttypes.h>

void check_get(struct bench *bench, uint64_t number) {
    const struct load *load = &bench->load;
    uint8_t bytes[LOAD_KEY_BYTES_MAX];
    unsigned generation = load_generation(load, number);
    struct slice key = load_key(load, number, bytes), value = {NULL, 0};
    struct slice expected = load_value(load, number, generation, bench->echo_value);
    bench->echo.present = generation != 0;
    bench->echo.value = expected;
    bool present = bench->engine->get(bench->session, key, &value);
    if (present != (generation != 0)) {
        bench_wrong(bench, "get of key %" PRIu64 ": %s", number, present ? "there, but it was deleted" : "not found");
    }
    if (present && (value.bytes != expected.bytes || memcmp(value.data, expected.data, value.bytes) != 0)) {
        bench_wrong(bench, "get of key %" PRIu64 ": wrong value", number);
    }
}

bool check_row(void *context, struct slice key, struct slice value) {
    struct check_chain *chain = context;
    chain->chain = load_chain(chain->chain, key, value);
    chain->rows++;
    return true;
}

uint64_t check_expected(const struct bench *bench, uint64_t first, uint64_t count, bool reverse, uint64_t *ret_rows) {
    const struct load *load = &bench->load;
    bool empty = bench_is_empty(bench);
    uint8_t key[LOAD_KEY_BYTES_MAX], value[LOAD_VALUE_BYTES_MAX + 8];
    uint64_t chain = 0, rows = 0;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t number = reverse ? first + count - 1 - i : first + i;
        unsigned generation = load_generation(load, number);
        if (generation == 0) {
            continue;
        }
        rows++;
        if (empty) {
            chain = load_chain(chain, bench->echo.key, bench->echo.value);
        } else {
            chain = load_chain(chain, load_key(load, number, key), load_value(load, number, generation, value));
        }
    }
    *ret_rows = rows;
    return chain;
}

/* What the empty engine answers a scan with: one row, the same for all. */
static void set_echo_row(struct bench *bench) {
    bench->echo.key = load_key(&bench->load, 0, bench->echo_key);
    bench->echo.value = load_value(&bench->load, 0, 1, bench->echo_value);
}

uint64_t check_full_scan(struct bench *bench, bool reverse, uint64_t *ret_ns) {
    set_echo_row(bench);
    uint64_t rows;
    uint64_t expected = check_expected(bench, 0, bench->load.keys, reverse, &rows);
    struct check_chain chain = {0, 0};
    bench->echo.rows = rows;
    uint64_t before = measure_thread();
    bench->engine->scan(bench->session, &(struct engine_range){.reverse = reverse}, check_row, &chain);
    *ret_ns = measure_thread() - before;
    if (chain.rows != rows || chain.chain != expected) {
        bench_wrong(bench, "full scan %s: %" PRIu64 " rows, expected %" PRIu64 "; contents %s",
                    reverse ? "back" : "forward", chain.rows, rows, chain.chain == expected ? "right" : "wrong");
    }
    return rows;
}

void check_group(struct bench *bench, uint64_t group, uint64_t rows, uint64_t expected) {
    uint8_t key[LOAD_KEY_BYTES_MAX];
    struct check_chain chain = {0, 0};
    (void)load_key(&bench->load, group * bench->load.group, key);
    bench->echo.rows = rows;
    bench->engine->scan(bench->session, &(struct engine_range){.prefix = {key, LOAD_PREFIX_BYTES}}, check_row, &chain);
    if (chain.rows != rows || chain.chain != expected) {
        bench_wrong(bench, "prefix of group %" PRIu64 ": %" PRIu64 " rows, expected %" PRIu64 "; contents %s", group,
                    chain.rows, rows, chain.chain == expected ? "right" : "wrong");
    }
}

void check_cursor(struct bench *bench) {
    uint64_t position = atomic_load(&bench->shared->cursor);
    uint8_t stored[ENGINE_CURSOR_BYTES_MAX];
    memcpy(bench->echo_cursor, &position, sizeof position);
    bench->echo.cursor = (struct slice){bench->echo_cursor, sizeof position};
    size_t bytes = bench->engine->cursor(bench->session, stored);
    if (bytes != sizeof position || memcmp(stored, &position, bytes) != 0) {
        bench_wrong(bench, "the cursor is not that of the last batch (%" PRIu64 ")", position);
    }
}
