/*
 * test_table.c - table files: what goes in comes out, by every way of asking.
 *
 * Tables are small and their blocks tiny, so that every path across blocks runs; the model is a sorted array. Damage
 * and failures: test_table_damage.c.
 */
#include "sstable/table_index.h"
#include "support/table_room.h"

/* ---- small parts ------------------------------------------------------------------------------------------------ */

Test(table, names_are_read_back_and_only_in_the_form_they_are_written) {
    static const uint64_t numbers[] = {0, 1, 123, 999999, 1000000, UINT64_MAX};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        char name[TABLE_NAME_BYTES];
        uint64_t number = 42;
        table_name(numbers[i], name);
        cr_assert(table_name_parse(name, &number) && number == numbers[i], "%s", name);
    }
    static const char *const foreign[] = {"",           "1.tbl",      "000001.tb",   "000001.tbl2",
                                          "+00001.tbl", "000001.log", "0000001.tbl", "-00001.tbl",
                                          " 000001.tbl", "00000x.tbl", "18446744073709551616.tbl"};
    for (size_t i = 0; i < sizeof foreign / sizeof foreign[0]; i++) {
        uint64_t number;
        cr_assert_not(table_name_parse(foreign[i], &number), "%s", foreign[i]);
    }
}

Test(table, keys_below_a_prefix_that_has_a_group_share_it) {
    struct random random = random_begin("table/groups");
    for (int round = 0; round < 20000; round++) {
        struct table_grouping grouping = {0};
        if (round % 2 == 0) {
            grouping.bytes = (uint32_t)random_below(&random, 6);
        } else {
            grouping = (struct table_grouping){.delimiters = (uint32_t)random_below(&random, 4), .delimiter = '.'};
        }
        uint8_t key[12];
        size_t prefix_bytes = random_below(&random, sizeof key);
        for (size_t i = 0; i < sizeof key; i++) {
            key[i] = random_below(&random, 3) == 0 ? '.' : 'a';
        }
        size_t group = table_group_bytes(&grouping, key, prefix_bytes);
        cr_assert_leq(group, prefix_bytes);
        cr_assert(group == 0 || table_group_bytes(&grouping, key, sizeof key) == group);
        cr_assert_neq(table_group_hash(key, group), hash_key(key, group));
    }
    struct table_grouping two = {.delimiters = 2, .delimiter = '.'};
    cr_assert_eq(table_group_bytes(&two, (const uint8_t *)"a.b.c", 5), 4);
    cr_assert_eq(table_group_bytes(&two, (const uint8_t *)"a.b", 3), 0);
}

Test(table, separators_are_the_shortest_that_divide) {
    struct random random = random_begin("table/separators");
    for (int round = 0; round < 20000; round++) {
        uint8_t a[6], b[6];
        size_t a_bytes = random_below(&random, 6), b_bytes = random_below(&random, 6);
        for (size_t i = 0; i < 6; i++) {
            a[i] = (uint8_t)(random_below(&random, 3) * 127);
            b[i] = random_below(&random, 3) > 0 ? a[i] : (uint8_t)(random_below(&random, 3) * 127);
        }
        if (key_compare(a, a_bytes, b, b_bytes) >= 0) {
            continue;
        }
        size_t n = table_separator_bytes(a, a_bytes, b, b_bytes);
        cr_assert(key_compare(a, a_bytes, b, n) < 0 && key_compare(b, n, b, b_bytes) <= 0);
        cr_assert_leq(key_compare(b, n - 1, a, a_bytes), 0, "one byte less would not be greater than a");
    }
}

/* ---- round trips ------------------------------------------------------------------------------------------------ */

Test(table, rows_come_back_in_every_shape_of_table) {
    struct room room;
    room_open(&room, &mem_system);
    struct random random = random_begin("table/round_trip");
    struct rows sets[] = {rows_odd(), rows_grouped(12, 9, 30, false), rows_random(&random, 300)};
    for (unsigned set = 0; set < 3; set++) {
        for (unsigned shape = 0; shape < 6; shape++) {
            struct table_builder_options options = options_small();
            options.number = 100 + set * 10 + shape;
            options.block_bytes = shape < 4 ? 64 : 8192;
            options.codec = shape % 2 == 0 ? PLEAT_CODEC_LZ4 : PLEAT_CODEC_NONE;
            options.filter = (uint8_t)(shape % 3);
            options.grouping.bytes = shape == 1 ? 4 : 0;
            options.grouping.delimiters = shape == 2 ? 2 : 0;
            options.grouping.delimiter = '.';
            struct table_meta meta = build(&room, &sets[set], &options);
            check_table(&room, &meta, &sets[set]);
            table_meta_fini(&mem_system, &meta);
        }
        rows_free(&sets[set]);
    }
    room_close(&room);
}

Test(table, one_entry_and_the_empty_key_make_a_table) {
    struct room room;
    room_open(&room, &mem_system);
    struct rows rows = {0};
    rows_add(&rows, "", 0, 0);
    rows_settle(&rows, true);
    struct table_builder_options options = options_small();
    struct table_meta meta = build(&room, &rows, &options);
    cr_assert(meta.blocks == 1 && meta.entries == 1 && meta.smallest_bytes == 0 && meta.key_bytes_max == 0);
    check_table(&room, &meta, &rows);
    table_meta_fini(&mem_system, &meta);
    rows_free(&rows);
    struct rows none = {0};
    options.number++;
    cr_assert_eq(build_quietly(&room, &none, &options, &meta), PLEAT_ERR_INVALID);
    room_close(&room);
}

Test(table, a_hundred_thousand_rows_come_back) {
    struct room room;
    room_open(&room, &mem_system);
    struct rows rows = rows_grouped(2500, 40, 100, true);
    struct table_builder_options options = options_small();
    options.block_bytes = 8192;
    struct table_meta meta = build(&room, &rows, &options);
    cr_assert_gt(meta.blocks, 1000);
    struct table *table = open_table(&room, &meta);
    for (size_t i = 0; i < rows.count; i++) {
        cr_assert_eq(get_checked(&room, table, &rows, rows.data[i].key, rows.data[i].entry.key_bytes), 0);
    }
    struct source_bounds bounds = {0};
    struct source *source = new_source(table, &bounds);
    check_walks(source, &rows, 0, rows.count);
    source_free(source);
    table_close(table);
    table_meta_fini(&mem_system, &meta);
    rows_free(&rows);
    room_close(&room);
}

Test(table, a_finished_table_was_synced_after_its_last_write) {
    struct room room;
    room_open(&room, &mem_system);
    struct rows rows = rows_grouped(3, 5, 20, true);
    struct table_builder_options options = options_small();
    fault.syncs = 0;
    struct table_meta meta = build(&room, &rows, &options);
    cr_assert_eq(fault.syncs, 1);
    cr_assert_not(fault.dirty);
    table_meta_fini(&mem_system, &meta);
    rows_free(&rows);
    room_close(&room);
}

Test(table, meta_counts_what_went_in) {
    struct room room;
    room_open(&room, &mem_system);
    struct rows rows = rows_grouped(5, 30, 17, false);
    struct table_builder_options options = options_small();
    struct table_meta meta = build(&room, &rows, &options), read, copy;
    uint64_t tombstones = 0, bytes = 0;
    for (size_t i = 0; i < rows.count; i++) {
        tombstones += rows.data[i].entry.kind == ENTRY_DELETE;
        bytes += rows.data[i].entry.key_bytes + rows.data[i].entry.value_bytes;
    }
    cr_assert(meta.tombstones == tombstones && meta.key_value_bytes == bytes && meta.entries == rows.count);
    cr_assert(meta.sequence_min == 3 && meta.sequence_max == 9 && meta.deadline_min_ms == 1004);
    cr_assert_eq(table_meta_read(&room.store, 7, &read, &room.error), 0, "%s", room.error.message);
    cr_assert_eq(table_meta_copy(&mem_system, &read, &copy), 0);
    struct table *table = open_table(&room, &copy);
    table_close(table);
    table_meta_fini(&mem_system, &meta);
    table_meta_fini(&mem_system, &read);
    table_meta_fini(&mem_system, &copy);
    rows_free(&rows);
    room_close(&room);
}

/* ---- sources ---------------------------------------------------------------------------------------------------- */

Test(table_source, bounds_at_and_beside_every_key_are_kept) {
    struct room room;
    room_open(&room, &mem_system);
    struct rows rows = rows_grouped(4, 6, 20, false);
    struct table_builder_options options = options_small();
    struct table_meta meta = build(&room, &rows, &options);
    cr_assert_gt(meta.blocks, 5);
    struct table *table = open_table(&room, &meta);
    uint8_t lower[64], upper[64];
    for (size_t a = 0; a < rows.count * 5; a++) {
        size_t lower_bytes = neighbour(&rows.data[a / 5].entry, a % 5, lower);
        size_t from = rows_seek(&rows, lower, lower_bytes);
        for (size_t b = 0; b < rows.count * 5; b += 1 + a % 3) {
            size_t upper_bytes = neighbour(&rows.data[b / 5].entry, b % 5, upper);
            size_t to = rows_seek(&rows, upper, upper_bytes);
            struct source_bounds bounds = {.lower = lower, .lower_bytes = lower_bytes, .upper = upper,
                                           .upper_bytes = upper_bytes, .fill_cache = (b & 1) != 0};
            struct source *source = new_source(table, &bounds);
            check_walks(source, &rows, from, to);
            if ((a + b) % 37 == 0) {
                check_seeks(source, &rows, from, to, 3);
            }
            source_free(source);
        }
    }
    table_close(table);
    table_meta_fini(&mem_system, &meta);
    rows_free(&rows);
    room_close(&room);
}

Test(table_source, direction_may_change_at_any_entry) {
    struct room room;
    room_open(&room, &mem_system);
    struct random random = random_begin("table_source/direction");
    struct rows rows = rows_random(&random, 200);
    struct table_builder_options options = options_small();
    struct table_meta meta = build(&room, &rows, &options);
    struct table *table = open_table(&room, &meta);
    struct source_bounds bounds = {.fill_cache = true};
    struct source *source = new_source(table, &bounds);
    size_t at = SIZE_MAX;
    for (int round = 0; round < 20000; round++) {
        int rc;
        uint64_t what = random_below(&random, 20);
        if (at == SIZE_MAX || what == 0) {
            at = random_below(&random, rows.count);
            rc = source->ops->seek(source, rows.data[at].key, rows.data[at].entry.key_bytes);
        } else if (what % 2 == 0) {
            at++;
            rc = source->ops->next(source);
        } else {
            at--;
            rc = source->ops->prev(source);
        }
        expect_at(source, rc, &rows, at, 0, rows.count);
        at = rc == 0 ? at : SIZE_MAX;
    }
    source_free(source);
    table_close(table);
    table_meta_fini(&mem_system, &meta);
    rows_free(&rows);
    room_close(&room);
}

/* Two forms of the same group prefix: with its delimiter, and the bare fixed length, which separators run into. */
Test(table_source, a_group_is_read_with_one_load) {
    struct room room;
    room_open(&room, &mem_system);
    struct rows rows = rows_grouped(64, 10, 40, true);
    rows_add(&rows, "svc.00001f", 10, 5); /* the prefix of a group as a key */
    rows_settle(&rows, true);
    struct table_builder_options options = options_small();
    options.block_bytes = 640; /* a group has about 500 bytes: one block each */
    struct table_meta meta = build(&room, &rows, &options);
    cr_assert_eq(meta.blocks, 64);
    for (size_t group = 0; group < 64; group++) {
        for (size_t prefix_bytes = 10; prefix_bytes <= 11; prefix_bytes++) {
            struct table *table = open_table(&room, &meta);
            char prefix[16];
            uint8_t upper[16];
            size_t upper_bytes;
            (void)snprintf(prefix, sizeof prefix, "svc.%06zx.", group);
            cr_assert(key_prefix_bound((uint8_t *)prefix, prefix_bytes, upper, &upper_bytes));
            struct source_bounds bounds = {.lower = (uint8_t *)prefix, .lower_bytes = prefix_bytes, .upper = upper,
                                           .upper_bytes = upper_bytes, .fill_cache = true};
            struct source *source = new_source(table, &bounds);
            size_t from = rows_seek(&rows, bounds.lower, prefix_bytes), to = rows_seek(&rows, upper, upper_bytes);
            cr_assert_geq(to - from, 10);
            uint64_t before = room_misses(&room);
            check_walks(source, &rows, from, to);
            int rc = source->ops->seek(source, bounds.lower, prefix_bytes);
            expect_at(source, rc, &rows, from, from, to);
            cr_assert_eq(room_misses(&room) - before, 1, "group %zu, %zu bytes of prefix", group, prefix_bytes);
            source_free(source);
            table_close(table);
        }
    }
    table_meta_fini(&mem_system, &meta);
    rows_free(&rows);
    room_close(&room);
}

Test(table_source, a_scan_past_the_cache_shows_everything_and_leaves_nothing_in_it) {
    struct room room;
    room_open(&room, &mem_system);
    struct rows rows = rows_grouped(20, 10, 40, true);
    struct table_builder_options options = options_small();
    struct table_meta meta = build(&room, &rows, &options);
    struct table *table = open_table(&room, &meta);
    cr_assert_eq(get_checked(&room, table, &rows, rows.data[7].key, rows.data[7].entry.key_bytes), 0); /* one cached */
    pages_carry(&room, table); /* pages of the index are cached by whoever needs them */
    struct cache_stats before, after;
    cache_stats_read(room.store.cache, &before);
    struct source_bounds bounds = {.fill_cache = false};
    struct source *source = new_source(table, &bounds);
    check_walks(source, &rows, 0, rows.count);
    source_free(source);
    cache_stats_read(room.store.cache, &after);
    cr_assert(after.frames == before.frames && after.misses == before.misses && after.pinned == 0);
    table_close(table);
    table_meta_fini(&mem_system, &meta);
    rows_free(&rows);
    room_close(&room);
}

Test(table_source, a_bounded_scan_ends_without_loading_what_lies_beyond) {
    struct room room;
    room_open(&room, &mem_system);
    struct rows rows = rows_grouped(20, 10, 40, true);
    struct table_builder_options options = options_small();
    struct table_meta meta = build(&room, &rows, &options);
    size_t block_begins = 0;
    for (size_t i = 1; i < rows.count; i++) {
        struct table *table = open_table(&room, &meta);
        size_t upper_bytes = table_separator_bytes(rows.data[i - 1].key, rows.data[i - 1].entry.key_bytes,
                                                   rows.data[i].key, rows.data[i].entry.key_bytes);
        struct source_bounds bounds = {.upper = rows.data[i].key, .upper_bytes = upper_bytes, .fill_cache = true};
        struct source *source = new_source(table, &bounds);
        uint64_t before = room_misses(&room);
        check_walks(source, &rows, 0, i);
        uint64_t bounded = room_misses(&room) - before;
        source_free(source);
        bounds = (struct source_bounds){.fill_cache = true};
        source = new_source(table, &bounds);
        before = room_misses(&room);
        cr_assert_eq(source->ops->seek(source, rows.data[i].key, rows.data[i].entry.key_bytes), 0);
        bool loaded_now = room_misses(&room) != before;
        struct table_block block;
        if (table_source_block(source, &block) == 0) {
            cr_assert(loaded_now, "row %zu begins a block, which the scan before it must not have loaded", i);
            block_begins++;
        }
        cr_assert(bounded > 0 && bounded <= block_begins + 1, "%zu blocks for %zu rows", (size_t)bounded, i);
        source_free(source);
        table_close(table);
    }
    cr_assert_eq(block_begins, meta.blocks - 1);
    table_meta_fini(&mem_system, &meta);
    rows_free(&rows);
    room_close(&room);
}

/* ---- long files ------------------------------------------------------------------------------------------------- */

static struct {
    uint64_t written, told, syncs;
} file_calls;

static int write_counted(struct vfs_file *file, uint64_t offset, const void *data, size_t n, struct pleat_error *err) {
    cr_assert_eq(offset, file_calls.written, "pieces follow each other");
    file_calls.written += n;
    return vfs_posix.file_write(file, offset, data, n, err);
}

static void will_sync_counted(struct vfs_file *file, uint64_t offset, uint64_t n) {
    cr_assert(offset == file_calls.told && n > 0 && offset + n <= file_calls.written, "what was written, once");
    file_calls.told += n;
    vfs_posix.file_will_sync(file, offset, n);
    vfs_posix.file_will_sync(file, UINT64_MAX, UINT64_MAX); /* advice about nothing does nothing */
}

static int sync_counted(struct vfs_file *file, struct pleat_error *err) {
    cr_assert_leq(file_calls.written - file_calls.told, 3 << 20, "%d bytes are left to the sync",
                  (int)(file_calls.written - file_calls.told));
    file_calls.syncs++;
    return vfs_posix.file_sync(file, err);
}

Test(table_builder, the_device_is_told_of_a_long_file_before_its_sync) {
    struct room room;
    room_open(&room, &mem_system);
    room.vfs.file_write = write_counted;
    room.vfs.file_will_sync = will_sync_counted;
    room.vfs.file_sync = sync_counted;
    memset(&file_calls, 0, sizeof file_calls);
    struct rows rows = rows_grouped(400, 100, 200, true);
    struct table_builder_options options = options_small();
    options.codec = PLEAT_CODEC_NONE;
    struct table_meta meta = build(&room, &rows, &options);
    cr_assert_eq(file_calls.syncs, 1);
    cr_assert(meta.file_bytes > 7 << 20 && file_calls.written == meta.file_bytes && file_calls.told >= 6 << 20);
    table_meta_fini(&mem_system, &meta);
    rows_free(&rows);
    room_close(&room);
}

/* ---- long walks ------------------------------------------------------------------------------------------------- */

static struct {
    uint64_t calls, bytes, longest, asked, failed;
    uint64_t asked_from, asked_to; /* the last advice */
    size_t fail_above;             /* reads of more bytes fail; 0: none */
} reads;

static int read_counted(struct vfs_file *file, uint64_t offset, void *buffer, size_t n, struct pleat_error *err) {
    if (reads.fail_above > 0 && n > reads.fail_above) {
        reads.failed++;
        return error_system(err, EIO, "read", "a window");
    }
    reads.calls++;
    reads.bytes += n;
    reads.longest = n > reads.longest ? n : reads.longest;
    return vfs_posix.file_read(file, offset, buffer, n, err);
}

static void will_read_counted(struct vfs_file *file, uint64_t offset, uint64_t n) {
    reads.asked++;
    reads.asked_from = offset;
    reads.asked_to = offset + n;
    vfs_posix.file_will_read(file, offset, n);
}

/* A table of more than a MiB in blocks of 4 KiB, as stored, whose reads are counted. */
static struct table *open_long(struct room *room, struct rows *rows, struct table_meta *meta, uint64_t cache_bytes) {
    room_open(room, &mem_system);
    cache_free(room->store.cache);
    cr_assert_eq(cache_new(&mem_system, cache_bytes, &room->store.cache, NULL), 0);
    *rows = rows_grouped(500, 20, 110, true);
    struct table_builder_options options = options_small();
    options.block_bytes = 4096;
    options.codec = PLEAT_CODEC_NONE;
    *meta = build(room, rows, &options);
    struct table *table = open_table(room, meta);
    pages_carry(room, table);
    room->vfs.file_read = read_counted;
    room->vfs.file_will_read = will_read_counted;
    memset(&reads, 0, sizeof reads);
    return table;
}

static void close_long(struct room *room, struct rows *rows, struct table_meta *meta, struct table *table) {
    table_close(table);
    table_meta_fini(&mem_system, meta);
    rows_free(rows);
    room_close(room);
}

static void walk(struct source *source, const struct rows *rows, bool backward) {
    size_t i = backward ? rows->count : 0;
    int rc = backward ? source->ops->last(source) : source->ops->first(source);
    while (rc == 0) {
        i -= backward;
        cr_assert(i < rows->count && key_compare(source->entry.key, source->entry.key_bytes, rows->data[i].key,
                                                 rows->data[i].entry.key_bytes) == 0);
        i += !backward;
        rc = backward ? source->ops->prev(source) : source->ops->next(source);
    }
    cr_assert_eq(rc, PLEAT_END, "%s", source->error.message);
    cr_assert_eq(i, backward ? 0 : rows->count);
}

Test(table_scan, a_long_walk_reads_many_blocks_at_once_in_both_directions) {
    for (unsigned variant = 0; variant < 4; variant++) {
        struct room room;
        struct rows rows;
        struct table_meta meta;
        struct table *table = open_long(&room, &rows, &meta, 64 << 20);
        struct source_bounds bounds = {.fill_cache = variant / 2 == 1};
        struct source *source = new_source(table, &bounds);
        walk(source, &rows, variant % 2 == 1);
        source_free(source);
        cr_assert(meta.blocks > 250 && reads.longest <= 65536);
        cr_assert_leq(reads.calls, meta.blocks / 15 + 10, "%d reads of %d blocks", (int)reads.calls, (int)meta.blocks);
        cr_assert_leq(reads.bytes, meta.file_bytes + 65536, "hardly a byte twice");
        cr_assert(reads.asked > 0 && (variant % 2 == 1 ? reads.asked_from == 0 : reads.asked_to <= meta.file_bytes));
        close_long(&room, &rows, &meta, table);
    }
}

Test(table_scan, short_reads_read_their_blocks_alone) {
    struct room room;
    struct rows rows;
    struct table_meta meta;
    struct table *table = open_long(&room, &rows, &meta, 64 << 20);
    for (unsigned fill = 0; fill < 2; fill++) {
        struct source_bounds bounds = {.fill_cache = fill == 1};
        struct source *source = new_source(table, &bounds);
        memset(&reads, 0, sizeof reads);
        for (size_t i = 0; i < 100; i++) { /* here and there, two blocks each */
            size_t row = (i * 3571 + 17) % (rows.count - 60);
            cr_assert_eq(source->ops->seek(source, rows.data[row].key, rows.data[row].entry.key_bytes), 0);
            for (unsigned step = 0; step < 10; step++) {
                cr_assert_eq(source->ops->next(source), 0);
            }
        }
        source_free(source);
        cr_assert_leq(reads.longest, 4096 + 512, "a window of %d bytes for a short read", (int)reads.longest);
        cr_assert_eq(reads.asked, 0);
    }
    close_long(&room, &rows, &meta, table);
}

Test(table_scan, a_walk_ends_at_its_bound) {
    struct room room;
    struct rows rows;
    struct table_meta meta;
    struct table *table = open_long(&room, &rows, &meta, 64 << 20);
    size_t from = rows.count / 2, to = from + 600;
    struct source_bounds bounds = {.lower = rows.data[from].key, .lower_bytes = rows.data[from].entry.key_bytes,
                                   .upper = rows.data[to].key, .upper_bytes = rows.data[to].entry.key_bytes,
                                   .fill_cache = true};
    struct source *source = new_source(table, &bounds);
    size_t count = 0;
    for (int rc = source->ops->first(source); rc == 0; rc = source->ops->next(source)) {
        count++;
    }
    source_free(source);
    cr_assert_eq(count, to - from);
    cr_assert_leq(reads.bytes, 600 * 170 + 2 * 4608, "%d bytes are read for 600 rows", (int)reads.bytes);
    close_long(&room, &rows, &meta, table);
}

/* V2: what a window would hold may be unreadable where the walk never goes. */
Test(table_scan, a_window_that_cannot_be_read_is_no_error) {
    for (unsigned variant = 0; variant < 4; variant++) {
        struct room room;
        struct rows rows;
        struct table_meta meta;
        struct table *table = open_long(&room, &rows, &meta, 64 << 20);
        struct source_bounds bounds = {.fill_cache = variant / 2 == 1};
        struct source *source = new_source(table, &bounds);
        reads.fail_above = 8192;
        walk(source, &rows, variant % 2 == 1);
        source_free(source);
        cr_assert(reads.failed > 0 && reads.calls + 2 >= meta.blocks); /* a window of two fits at the end */
        close_long(&room, &rows, &meta, table);
    }
}

/* What is longer than the cache's share for scans would push itself out, and is not kept where there is no room. */
Test(table_scan, a_walk_longer_than_the_share_of_scans_evicts_no_more_than_that) {
    struct room room;
    struct rows rows;
    struct table_meta meta;
    struct table *table = open_long(&room, &rows, &meta, 1 << 20);
    struct source_bounds bounds = {.fill_cache = true};
    struct cache_stats before, after;
    for (unsigned round = 0; round < 3; round++) { /* the cache is full from the second on */
        struct source *source = new_source(table, &bounds);
        cache_stats_read(room.store.cache, &before);
        walk(source, &rows, false);
        cache_stats_read(room.store.cache, &after);
        source_free(source);
        if (round > 0) {
            cr_assert_leq(after.evictions - before.evictions, (1 << 20) / 16 / 4096 + 40, "%d evictions",
                          (int)(after.evictions - before.evictions));
        }
    }
    close_long(&room, &rows, &meta, table);
    table = open_long(&room, &rows, &meta, 64 << 20);
    struct source *source = new_source(table, &bounds);
    walk(source, &rows, false);
    source_free(source);
    cache_stats_read(room.store.cache, &after);
    cr_assert_geq(after.frames, meta.blocks, "there is room for all of it");
    close_long(&room, &rows, &meta, table);
}

/* ---- passing blocks through ------------------------------------------------------------------------------------- */

/* Copies a table, whole blocks where `whole(i)` says so and entry by entry elsewhere. */
static struct table_meta copy_table(struct room *room, struct table *table, uint64_t number, bool mixed,
                                    bool fill_cache) {
    struct table_builder_options options = options_small();
    options.number = number;
    options.codec = PLEAT_CODEC_NONE;
    struct table_builder *builder;
    cr_assert_eq(table_builder_new(&room->store, &options, &builder, NULL), 0);
    struct source_bounds bounds = {.fill_cache = fill_cache};
    struct source *source = new_source(table, &bounds);
    cr_assert(table_source_is(source));
    int rc = source->ops->first(source);
    for (size_t block_index = 0; rc == 0;) {
        struct table_block block;
        int found = table_source_block(source, &block);
        cr_assert_geq(found, 0, "%s", source->error.message);
        if (found == 0 && (!mixed || block_index++ % 2 == 0)) {
            cr_assert_eq(table_builder_add_block(builder, &block, &room->error), 0, "%s", room->error.message);
            rc = table_source_skip_block(source);
        } else {
            cr_assert_eq(table_builder_add(builder, &source->entry, &room->error), 0, "%s", room->error.message);
            rc = source->ops->next(source);
        }
    }
    cr_assert_eq(rc, PLEAT_END);
    source_free(source);
    struct table_meta meta;
    cr_assert_eq(table_builder_finish(builder, &meta, &room->error), 0, "%s", room->error.message);
    table_builder_free(builder);
    return meta;
}

Test(table_block, a_table_copied_block_by_block_is_equal) {
    struct room room;
    room_open(&room, &mem_system);
    struct rows rows = rows_grouped(30, 12, 60, false);
    struct table_builder_options options = options_small();
    options.block_bytes = 512;
    struct table_meta meta = build(&room, &rows, &options);
    for (uint64_t variant = 0; variant < 4; variant++) {
        struct table *table = open_table(&room, &meta);
        /* Some blocks are cached, others not: their stored bytes come by different ways. */
        for (size_t i = 0; variant > 0 && i < rows.count; i += 31 * variant) {
            cr_assert_eq(get_checked(&room, table, &rows, rows.data[i].key, rows.data[i].entry.key_bytes), 0);
        }
        struct table_meta copy = copy_table(&room, table, 20 + variant, variant % 2 == 1, variant / 2 == 1);
        cr_assert(copy.entries == meta.entries && copy.tombstones == meta.tombstones &&
                  copy.key_value_bytes == meta.key_value_bytes && copy.deadline_min_ms == meta.deadline_min_ms);
        cr_assert(variant % 2 == 1 || copy.blocks == meta.blocks);
        check_table(&room, &copy, &rows);
        table_meta_fini(&mem_system, &copy);
        table_close(table);
    }
    table_meta_fini(&mem_system, &meta);
    rows_free(&rows);
    room_close(&room);
}

Test(table_block, shows_droppable_entries_and_only_whole_blocks) {
    struct room room;
    room_open(&room, &mem_system);
    struct rows rows = rows_grouped(6, 10, 40, true);
    rows.data[25].entry.kind = ENTRY_DELETE; /* group 2 */
    rows.data[25].entry.value_bytes = 0;
    rows.data[45].entry.deadline_ms = 77; /* group 4 */
    struct table_builder_options options = options_small();
    options.block_bytes = 640;
    struct table_meta meta = build(&room, &rows, &options);
    cr_assert_eq(meta.blocks, 6);
    struct table *table = open_table(&room, &meta);
    struct source_bounds bounds = {.lower = rows.data[1].key, .lower_bytes = rows.data[1].entry.key_bytes,
                                   .upper = rows.data[59].key, .upper_bytes = rows.data[59].entry.key_bytes};
    struct source *source = new_source(table, &bounds);
    int rc = source->ops->first(source);
    for (size_t i = 1; i < 59; i++, rc = source->ops->next(source)) {
        struct table_block block;
        cr_assert_eq(rc, 0);
        bool whole = i % 10 == 0 && i < 50;
        cr_assert_eq(table_source_block(source, &block), whole ? 0 : PLEAT_ABSENT, "row %zu", i);
        if (whole) {
            cr_assert(block.entries == 10 && block.has_tombstones == (i == 20 || i == 40));
            cr_assert_eq(key_compare(block.first_key.data, block.first_key.bytes, rows.data[i].key,
                                     rows.data[i].entry.key_bytes), 0);
            cr_assert_eq(key_compare(block.last_key.data, block.last_key.bytes, rows.data[i + 9].key,
                                     rows.data[i + 9].entry.key_bytes), 0);
        }
    }
    source_free(source);
    table_close(table);
    table_meta_fini(&mem_system, &meta);
    rows_free(&rows);
    room_close(&room);
}

/* ---- what compression is worth ---------------------------------------------------------------------------------- */

struct codecs {
    bool raw[64];
    size_t blocks;
};

static int codecs_add(void *context, const struct table_part *part, const uint8_t *image) {
    struct codecs *codecs = context;
    (void)image;
    if (strcmp(part->what, "block") == 0) {
        cr_assert_lt(codecs->blocks, sizeof codecs->raw);
        codecs->raw[codecs->blocks++] = part->stored_bytes == TABLE_HEADER_BYTES + part->image_bytes;
    }
    return 0;
}

/* A table of 1,000-byte values, two a block, of which the first `noise` bytes are random in rows [from, to). */
static struct codecs codecs_of(size_t rows_count, size_t from, size_t to, size_t noise) {
    struct room room;
    struct rows rows = {0};
    struct codecs codecs = {0};
    room_open(&room, &mem_system);
    for (size_t i = 0; i < rows_count; i++) {
        char key[16];
        rows_add(&rows, key, (size_t)snprintf(key, sizeof key, "key.%04zu", i), 1000);
        memset(rows.data[i].value, 'v', 1000);
        for (size_t j = 0; i >= from && i < to && j < noise; j++) {
            rows.data[i].value[j] = (uint8_t)hash_mix(i, j);
        }
    }
    rows_settle(&rows, true);
    struct table_builder_options options = options_small();
    options.block_bytes = 2200;
    struct table_meta meta = build(&room, &rows, &options);
    cr_assert_eq(table_dump(&room.store, options.number, codecs_add, &codecs, &room.error), 0, "%s",
                 room.error.message);
    cr_assert_eq(codecs.blocks, rows_count / 2);
    check_table(&room, &meta, &rows);
    table_meta_fini(&mem_system, &meta);
    rows_free(&rows);
    room_close(&room);
    return codecs;
}

Test(table_codec, blocks_are_compressed_where_an_eighth_is_gained) {
    struct codecs much = codecs_of(40, 0, 40, 800), little = codecs_of(40, 0, 40, 950);
    for (size_t i = 0; i < 20; i++) {
        cr_assert_not(much.raw[i], "block %zu, a fifth shorter", i);
        cr_assert(little.raw[i], "block %zu, a twentieth shorter", i);
    }
}

/* After four blocks that gained nothing one in eight is tried: at the latest the eighth that gains is compressed. */
Test(table_codec, blocks_behind_incompressible_ones_are_tried_again) {
    for (size_t to = 2; to <= 60; to += 2) {
        struct codecs codecs = codecs_of(100, 0, to, 1000);
        size_t first = to / 2;
        for (size_t i = 0; i < first; i++) {
            cr_assert(codecs.raw[i]);
        }
        size_t compressed = first;
        while (codecs.raw[compressed]) {
            compressed++;
            cr_assert_lt(compressed, 50);
        }
        size_t next = first <= 4 ? first : 4 + (first - 4 + 7) / 8 * 8; /* the next that is tried */
        cr_assert_eq(compressed, next, "after %zu blocks", first);
        for (size_t i = compressed; i < 50; i++) {
            cr_assert_not(codecs.raw[i], "block %zu after %zu", i, first);
        }
    }
}
