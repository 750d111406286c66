/* test_level.c - level_find and level_overlaps against linear search; level sources against sorted rows. */
#include "version/version_internal.h"

#include "support/failmem.h"
#include "support/table_room.h"

/* ---- levels of keys alone --------------------------------------------------------------------------------------- */

/* A sorted level whose tables were never opened: only metas and refs, owned by the test. */
struct shape {
    struct level level;
    struct table_ref *refs;
    size_t count;
};

/* Takes sorted distinct keys two by two as the ranges of tables; level_finish gets them in a random order. */
static void shape_make(struct shape *shape, struct random *random, struct table_meta *keys, size_t count,
                       unsigned index) {
    *shape = (struct shape){.refs = calloc(count + 1, sizeof *shape->refs), .count = count};
    cr_assert_eq(level_reserve(&mem_system, &shape->level, count, NULL), 0);
    for (size_t i = 0; i < count; i++) {
        shape->refs[i].meta = keys[i];
        shape->refs[i].meta.number = i + 1;
        shape->refs[i].meta.file_bytes = 10;
        shape->refs[i].meta.entries = 3;
        atomic_init(&shape->refs[i].refs, 1);
    }
    for (size_t i = count; i-- > 1;) {
        size_t j = random_below(random, i + 1);
        struct table_meta swap = shape->refs[i].meta;
        shape->refs[i].meta = shape->refs[j].meta;
        shape->refs[j].meta = swap;
    }
    for (size_t i = 0; i < count; i++) {
        level_push(&shape->level, &shape->refs[i]);
    }
    struct fault fault_found = {0};
    cr_assert_eq(level_finish(&mem_system, &shape->level, index, &fault_found, NULL), 0, "%s",
                 fault_found.what);
    cr_assert(shape->level.file_bytes == 10 * count && shape->level.entries == 3 * count);
}

static void shape_fini(struct shape *shape) {
    mem_free(&mem_system, shape->level.tables);
    mem_free(&mem_system, shape->level.heads);
    free(shape->refs);
}

static void shape_check(const struct shape *shape, const uint8_t *key, size_t key_bytes, const uint8_t *upper,
                        size_t upper_bytes) {
    const struct level *level = &shape->level;
    size_t expected = 0;
    bool overlaps = false;
    for (size_t i = 0; i < level->count; i++) {
        const struct table_meta *meta = &level->tables[i]->meta;
        bool ends_before = key_compare(meta->largest, meta->largest_bytes, key, key_bytes) < 0;
        expected += ends_before;
        overlaps = overlaps || (!ends_before && key_compare(meta->smallest, meta->smallest_bytes, upper,
                                                            upper_bytes) <= 0);
    }
    if (level->heads != NULL || level->count == 0) {
        cr_assert_eq(level_find(level, key, key_bytes), expected);
    }
    if (key_compare(key, key_bytes, upper, upper_bytes) <= 0) {
        cr_assert_eq(level_overlaps(level, (struct pleat_slice){key, key_bytes},
                                    (struct pleat_slice){upper, upper_bytes}), overlaps);
    }
}

Test(level, find_and_overlaps_equal_a_linear_search_on_random_shapes) {
    struct random random = random_begin("level/shapes");
    for (int round = 0; round < 400; round++) {
        struct rows rows = {0};
        size_t prefix_bytes = random_below(&random, 3) == 0 ? random_below(&random, 20) : 0;
        size_t alphabet = 1 + random_below(&random, 3), tail = 1 + random_below(&random, 14);
        for (size_t i = 1 + 2 * random_below(&random, round < 100 ? 5 : 40); i-- > 0;) {
            uint8_t key[40];
            size_t bytes = prefix_bytes + random_below(&random, tail + 1);
            memset(key, 'p', sizeof key);
            for (size_t j = prefix_bytes; j < bytes; j++) {
                key[j] = (uint8_t)(random_below(&random, alphabet + 1) * 255 / alphabet);
            }
            rows_add(&rows, key, bytes, 0);
        }
        rows_settle(&rows, true);
        size_t count = rows.count / 2;
        struct table_meta *metas = calloc(count + 1, sizeof *metas);
        for (size_t i = 0; i < count; i++) {
            /* Some tables hold one key: smallest and largest are the same. */
            size_t first = 2 * i, last = 2 * i + (random_below(&random, 3) != 0);
            metas[i] = (struct table_meta){.smallest = rows.data[first].key, .largest = rows.data[last].key,
                                           .smallest_bytes = rows.data[first].entry.key_bytes,
                                           .largest_bytes = rows.data[last].entry.key_bytes};
        }
        struct shape shape;
        unsigned index = round % 4 == 0 ? 0 : 3;
        shape_make(&shape, &random, metas, count, index);
        uint8_t a[LIMIT_KEY_BYTES + 1], b[64];
        for (size_t i = 0; i < rows.count; i++) {
            for (unsigned which = 0; which < 5; which++) {
                size_t a_bytes = neighbour(&rows.data[i].entry, which, a);
                size_t other = random_below(&random, rows.count);
                size_t b_bytes = neighbour(&rows.data[other].entry, (unsigned)random_below(&random, 5), b);
                shape_check(&shape, a, a_bytes, b, b_bytes);
                shape_check(&shape, a, a_bytes, a, a_bytes);
            }
        }
        shape_check(&shape, NULL, 0, NULL, 0);
        shape_fini(&shape);
        free(metas);
        rows_free(&rows);
    }
}

Test(level, find_goes_on_where_many_heads_are_the_same) {
    struct random random = random_begin("level/ties");
    static const uint8_t fills[] = {0x00, 0x41, 0xff};
    for (size_t f = 0; f < sizeof fills; f++) {
        struct rows rows = {0};
        uint8_t key[64];
        memset(key, fills[f], sizeof key);
        rows_add(&rows, "\x20", 1, 0); /* keeps the common prefix empty */
        for (size_t bytes = 1; bytes < 60; bytes++) {
            rows_add(&rows, key, bytes, 0);
        }
        rows_settle(&rows, true);
        struct table_meta metas[60] = {0};
        for (size_t i = 0; i < rows.count; i++) {
            metas[i].smallest = metas[i].largest = rows.data[i].key;
            metas[i].smallest_bytes = metas[i].largest_bytes = rows.data[i].entry.key_bytes;
        }
        struct shape shape;
        shape_make(&shape, &random, metas, rows.count, 1);
        for (size_t i = 0; i < rows.count; i++) {
            for (unsigned which = 0; which < 5; which++) {
                uint8_t near[80];
                size_t bytes = neighbour(&rows.data[i].entry, which, near);
                shape_check(&shape, near, bytes, near, bytes);
            }
        }
        shape_fini(&shape);
        rows_free(&rows);
    }
}

Test(level, runs_of_level_0_stand_newest_first_and_by_key_within_a_run) {
    struct random random = random_begin("level/runs");
    uint8_t keys[64];
    struct table_meta metas[30];
    for (size_t i = 0; i < 64; i++) {
        keys[i] = (uint8_t)i;
    }
    for (size_t i = 0; i < 30; i++) {
        metas[i] = (struct table_meta){.smallest = &keys[i % 10], .largest = &keys[i % 10], .smallest_bytes = 1,
                                       .largest_bytes = 1, .sequence_max = i / 10};
    }
    struct shape shape;
    shape_make(&shape, &random, metas, 30, 0);
    for (size_t i = 0; i < 30; i++) {
        const struct table_meta *meta = &shape.level.tables[i]->meta;
        cr_assert(meta->sequence_max == 2 - i / 10 && meta->smallest[0] == i % 10);
    }
    cr_assert_null(shape.level.heads);
    shape_fini(&shape);
}

static double cpu_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

/* What level_find is measured against: a binary search that compares whole keys. */
static size_t plain_find(const struct level *level, const uint8_t *key, size_t key_bytes) {
    size_t low = 0, high = level->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        const struct table_meta *meta = &level->tables[middle]->meta;
        if (key_compare(meta->largest, meta->largest_bytes, key, key_bytes) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

Test(level, find_is_faster_than_a_search_that_compares_whole_keys) {
    enum { COUNT = 4096, FINDS = 100000 };
    struct random random = random_begin("level/cost");
    static uint8_t keys[COUNT][32];
    struct table_meta *metas = calloc(COUNT, sizeof *metas);
    for (size_t i = 0; i < COUNT; i++) {
        (void)snprintf((char *)keys[i], sizeof keys[i], "svc.%08zx.route.%06zx", i * 977, i);
        metas[i] = (struct table_meta){.smallest = keys[i], .largest = keys[i], .smallest_bytes = 25,
                                       .largest_bytes = 25};
    }
    struct shape shape;
    shape_make(&shape, &random, metas, COUNT, 1);
    double find_ns = 1e9, plain_ns = 1e9;
    for (int round = 0; round < 3; round++) {
        size_t sums[2] = {0};
        double times[3];
        for (size_t what = 0; what < 2; what++) {
            times[what] = cpu_ns();
            for (size_t i = 0; i < FINDS; i++) {
                const uint8_t *key = keys[(i * 2654435761u) % COUNT];
                sums[what] += what == 0 ? level_find(&shape.level, key, 20) : plain_find(&shape.level, key, 20);
            }
            times[what + 1] = cpu_ns();
        }
        cr_assert_eq(sums[0], sums[1]);
        find_ns = (times[1] - times[0]) / FINDS < find_ns ? (times[1] - times[0]) / FINDS : find_ns;
        plain_ns = (times[2] - times[1]) / FINDS < plain_ns ? (times[2] - times[1]) / FINDS : plain_ns;
    }
    fprintf(stderr, "find among %d tables: %.1f ns, comparing whole keys: %.1f ns\n", COUNT, find_ns, plain_ns);
    cr_assert_lt(find_ns, plain_ns);
    shape_fini(&shape);
    free(metas);
}

/* ---- level sources over real tables ----------------------------------------------------------------------------- */

/* A registry on a real directory with one sorted level of small tables. */
struct run {
    struct room room;
    struct registry *registry;
    struct version *version;
    const struct level *level;
    struct table_grouping grouping;
};

static void run_make(struct run *run, const struct rows *rows, size_t rows_each, struct table_grouping grouping,
                     const struct mem *mem) {
    room_open(&run->room, mem);
    run->grouping = grouping;
    struct registry_options options = {.store = run->room.store, .rewrite_bytes_min = 1 << 20,
                                       .table_files_max = 2};
    struct space_info space = {.id = 0, .name = "default", .name_bytes = 7, .block_bytes = 128,
                               .codec = PLEAT_CODEC_LZ4, .grouping = grouping};
    struct edit edit;
    cr_assert_eq(registry_create(&options, &space, &run->registry, &run->room.error), 0, "%s",
                 run->room.error.message);
    edit_init(&edit, mem);
    struct table_builder_options table = options_small();
    table.grouping = grouping;
    for (size_t i = 0; i < rows->count; i += rows_each) {
        struct rows part = {.data = rows->data + i,
                            .count = rows->count - i < rows_each ? rows->count - i : rows_each};
        struct table_meta meta;
        struct table_builder *builder = NULL;
        cr_assert_eq(registry_file_number(run->registry, &table.number, NULL), 0);
        cr_assert_eq(table_builder_new(registry_store(run->registry), &table, &builder, NULL), 0);
        for (size_t j = 0; j < part.count; j++) {
            cr_assert_eq(table_builder_add(builder, &part.data[j].entry, NULL), 0);
        }
        cr_assert_eq(table_builder_finish(builder, &meta, NULL), 0);
        table_builder_free(builder);
        cr_assert_eq(edit_add_table(&edit, 0, 2, &meta, NULL), 0);
    }
    cr_assert_eq(registry_apply(run->registry, &edit, &run->room.error), 0, "%s", run->room.error.message);
    edit_fini(&edit);
    run->version = registry_current(run->registry);
    cr_assert(version_check(run->version));
    run->level = &run->version->trees[0]->levels[2];
}

static void run_fini(struct run *run) {
    version_unref(run->version);
    registry_free(run->registry);
    room_close(&run->room);
}

static struct source *run_source(struct run *run, const struct source_bounds *bounds) {
    struct source *source = NULL;
    cr_assert_eq(level_source_new(&mem_system, run->level->tables, run->level->count, &run->grouping, bounds, &source,
                                  NULL), 0);
    return source;
}

static size_t run_open_tables(const struct run *run) {
    size_t count = 0;
    for (size_t i = 0; i < run->level->count; i++) {
        count += atomic_load(&run->level->tables[i]->table) != NULL;
    }
    return count;
}

/* Every bound from the rows and their neighbours, both directions, all seeks. */
static void run_check(struct run *run, const struct rows *rows, struct random *random, int rounds) {
    static uint8_t lower[LIMIT_KEY_BYTES + 1], upper[LIMIT_KEY_BYTES + 1];
    for (int round = 0; round < rounds; round++) {
        struct source_bounds bounds = {.fill_cache = true};
        size_t from = 0, to = rows->count;
        if (round > 0 && random_below(random, 4) != 0) {
            const struct entry *entry = &rows->data[random_below(random, rows->count)].entry;
            bounds.lower = lower;
            bounds.lower_bytes = neighbour(entry, (unsigned)random_below(random, 5), lower);
            from = rows_seek(rows, lower, bounds.lower_bytes);
        }
        if (round > 0 && random_below(random, 4) != 0) {
            const struct entry *entry = &rows->data[random_below(random, rows->count)].entry;
            bounds.upper = upper;
            bounds.upper_bytes = neighbour(entry, (unsigned)random_below(random, 5), upper);
            to = rows_seek(rows, upper, bounds.upper_bytes);
        }
        struct source *source = run_source(run, round == 0 ? NULL : &bounds);
        check_walks(source, rows, from, to);
        check_seeks(source, rows, from, to, 1 + rows->count / 60);
        source_free(source);
    }
}

Test(level_source, shows_the_rows_of_its_tables_in_order_inside_any_bounds) {
    struct random random = random_begin("level_source/model");
    for (int round = 0; round < 6; round++) {
        struct rows rows = round == 0 ? rows_odd() : rows_random(&random, 20 + random_below(&random, 200));
        struct run run;
        run_make(&run, &rows, 1 + random_below(&random, 12), (struct table_grouping){0}, &mem_system);
        run_check(&run, &rows, &random, 12);
        run_fini(&run);
        rows_free(&rows);
    }
}

Test(level_source, steps_back_and_forth_over_the_edges_of_tables) {
    struct random random = random_begin("level_source/steps");
    struct rows rows = rows_random(&random, 60);
    struct run run;
    run_make(&run, &rows, 2, (struct table_grouping){0}, &mem_system);
    struct source *source = run_source(&run, NULL);
    size_t at = random_below(&random, rows.count);
    cr_assert_eq(source->ops->seek(source, rows.data[at].key, rows.data[at].entry.key_bytes), 0);
    for (int i = 0; i < 2000; i++) {
        bool up = at == 0 || (at + 1 < rows.count && random_below(&random, 2) == 0);
        at = up ? at + 1 : at - 1;
        cr_assert_eq(up ? source->ops->next(source) : source->ops->prev(source), 0);
        cr_assert(entry_equals(&source->entry, &rows.data[at].entry), "row %zu", at);
        cr_assert_not_null(level_source_table(source));
        struct source *inner = level_source_table(source);
        cr_assert(table_source_is(inner) && level_source_table(inner) == NULL);
    }
    source_free(source);
    run_fini(&run);
    rows_free(&rows);
}

Test(level_source, opens_no_table_that_lies_outside_the_bounds) {
    struct rows rows = rows_grouped(40, 10, 20, true);
    struct run run;
    run_make(&run, &rows, 10, (struct table_grouping){0}, &mem_system);
    cr_assert_eq(run_open_tables(&run), 0, "tables are opened on first touch");
    struct source_bounds bounds = {.lower = rows.data[105].key, .lower_bytes = rows.data[105].entry.key_bytes,
                                   .upper = rows.data[120].key, .upper_bytes = rows.data[120].entry.key_bytes};
    struct source *source = run_source(&run, &bounds);
    source->ops->prepare(source, bounds.lower, bounds.lower_bytes);
    cr_assert_eq(run_open_tables(&run), 0, "a prepare does not wait for a file");
    check_walks(source, &rows, 105, 120);
    cr_assert_eq(run_open_tables(&run), 2, "the table that begins at the bound is outside");
    source_free(source);
    run_fini(&run);
    rows_free(&rows);
}

Test(level_source, passes_over_tables_whose_filter_lacks_the_group_of_the_prefix) {
    struct rows all = rows_grouped(64, 4, 10, true), rows = {0};
    for (size_t i = 0; i < all.count; i++) {
        if ((i / 4) % 2 == 0) { /* every second group is missing, inside the ranges of the tables */
            rows_add(&rows, all.data[i].key, all.data[i].entry.key_bytes, 10);
        }
    }
    rows_settle(&rows, true);
    struct run run;
    run_make(&run, &rows, 16, (struct table_grouping){.delimiters = 2, .delimiter = '.'}, &mem_system);
    uint64_t missed = 0;
    for (size_t turn = 0; turn < 64; turn++) {
        size_t group = turn < 32 ? 2 * turn + 1 : 2 * (turn - 32); /* the missing ones first: nothing is cached yet */
        char prefix[32], upper[32];
        size_t bytes = (size_t)snprintf(prefix, sizeof prefix, "svc.%06zx.", group), upper_bytes;
        cr_assert(key_prefix_bound((const uint8_t *)prefix, bytes, (uint8_t *)upper, &upper_bytes));
        struct source_bounds bounds = {.lower = (uint8_t *)prefix, .lower_bytes = bytes, .upper = (uint8_t *)upper,
                                       .upper_bytes = upper_bytes, .prefix = (uint8_t *)prefix,
                                       .prefix_bytes = bytes, .fill_cache = true};
        struct source *source = run_source(&run, &bounds);
        size_t from = rows_seek(&rows, (uint8_t *)prefix, bytes), to = rows_seek(&rows, (uint8_t *)upper, upper_bytes);
        uint64_t before = room_misses(&run.room);
        check_walks(source, &rows, from, to);
        check_seeks(source, &rows, from, to, 9);
        if (group % 2 == 1) {
            cr_assert_eq(from, to);
            missed += room_misses(&run.room) - before;
        }
        source_free(source);
    }
    cr_assert_leq(missed, 3, "absent groups cost %d blocks", (int)missed);
    run_fini(&run);
    rows_free(&rows);
    rows_free(&all);
}

Test(level_source, skipping_blocks_shows_each_block_once_and_crosses_tables) {
    struct rows rows = rows_grouped(30, 12, 30, true);
    struct run run;
    run_make(&run, &rows, 40, (struct table_grouping){0}, &mem_system);
    struct source *source = run_source(&run, NULL);
    size_t at = 0, blocks = 0;
    int rc = source->ops->first(source);
    while (rc == 0) {
        struct table_block block;
        cr_assert(entry_equals(&source->entry, &rows.data[at].entry));
        cr_assert_eq(table_source_block(level_source_table(source), &block), 0);
        at += block.entries;
        blocks++;
        rc = level_source_skip_block(source);
    }
    cr_assert_eq(rc, PLEAT_END);
    cr_assert_eq(at, rows.count);
    cr_assert_gt(blocks, run.level->count);
    source_free(source);
    run_fini(&run);
    rows_free(&rows);
}

Test(level_source, a_failed_open_is_an_error_of_that_call_and_the_next_one_may_succeed) {
    struct rows rows = rows_grouped(4, 10, 20, true);
    struct run run;
    run_make(&run, &rows, 10, (struct table_grouping){0}, &mem_system);
    struct source *source = run_source(&run, NULL);
    fault.calls = 0;
    fault.fail_at = 1;
    cr_assert_eq(source->ops->first(source), PLEAT_ERR_IO);
    cr_assert_neq(source->error.code, 0);
    cr_assert_null(level_source_table(source));
    fault.fail_at = 0;
    check_walks(source, &rows, 0, rows.count);
    source_free(source);
    run_fini(&run);
    rows_free(&rows);
}

Test(level_source, every_failed_allocation_is_an_error_and_leaks_nothing) {
    struct rows rows = rows_grouped(6, 6, 20, true);
    struct failmem fail;
    failmem_init(&fail);
    for (int for_ever = 0; for_ever < 2; for_ever++) {
        bool is_over = false;
        for (uint64_t at = 1; !is_over; at++) {
            struct run run;
            run_make(&run, &rows, 12, (struct table_grouping){0}, &fail.mem);
            fail.calls = 0;
            fail.fail_at = at;
            fail.fail_for_ever = for_ever != 0;
            struct source *source = NULL;
            int rc = level_source_new(&fail.mem, run.level->tables, run.level->count, NULL, NULL, &source, NULL);
            size_t shown = 0;
            if (rc == 0) {
                for (rc = source->ops->first(source); rc == 0; rc = source->ops->next(source)) {
                    shown++;
                }
                source_free(source);
            }
            is_over = fail.calls < at;
            fail.fail_at = 0;
            cr_assert(rc == PLEAT_ERR_NO_MEMORY || (rc == PLEAT_END && shown == rows.count), "%d", rc);
            run_fini(&run);
            cr_assert_eq(fail.live, 0, "allocation %d leaks", (int)at);
        }
    }
    rows_free(&rows);
}
