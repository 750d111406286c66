/*
 * test_table_pages.c - the pages of index and filter: nodes against a walk over their separators, and what a table
 * keeps in memory, reads again, and gives up, in caches of every size.
 */
#include "sstable/index_node.h"
#include "sstable/table_internal.h"
#include "support/table_room.h"

/* ---- nodes ------------------------------------------------------------------------------------------------------ */

struct string {
    uint8_t bytes[24];
    size_t count;
};

static int string_compare(const void *a, const void *b) {
    const struct string *x = a, *y = b;
    return key_compare(x->bytes, x->count, y->bytes, y->count);
}

/* Few letters and a shared front: many prefixes of one another, ties of heads, tails of every length. */
static struct string string_draw(struct random *random, size_t shared) {
    struct string string = {.count = shared};
    memset(string.bytes, 'p', shared);
    for (size_t n = random_below(random, sizeof string.bytes - shared); n > 0; n--) {
        static const uint8_t letters[] = {0, 0, 1, 0xff};
        string.bytes[string.count++] = letters[random_below(random, sizeof letters)];
    }
    return string;
}

/* Distinct ones in order, none empty; returns how many. */
static size_t strings_draw(struct random *random, struct string *strings, size_t most, size_t shared) {
    size_t n = random_below(random, most), kept = 0;
    for (size_t i = 0; i < n; i++) {
        strings[i] = string_draw(random, shared);
    }
    qsort(strings, n, sizeof *strings, string_compare);
    for (size_t i = 0; i < n; i++) {
        if (strings[i].count > 0 && (kept == 0 || string_compare(&strings[kept - 1], &strings[i]) != 0)) {
            strings[kept++] = strings[i];
        }
    }
    return kept;
}

static void node_expect(const uint8_t *image, const struct string *strings, uint32_t count, const struct string *key) {
    uint32_t found = 0, before = 0;
    while (found < count && string_compare(&strings[found], key) <= 0) {
        found++;
    }
    while (before < count && string_compare(&strings[before], key) < 0) {
        before++;
    }
    uint8_t *exact = malloc(key->count > 0 ? key->count : 1); /* a read beyond the key is seen */
    memcpy(exact, key->bytes, key->count);
    cr_assert_eq(index_node_find(image, exact, key->count, false), found);
    cr_assert_eq(index_node_find(image, exact, key->count, true), before);
    for (uint32_t from = 0; from <= before; from++) { /* from all places that are not behind it */
        cr_assert_eq(index_node_find_from(image, from, exact, key->count, false), found);
        cr_assert_eq(index_node_find_from(image, from, exact, key->count, true), before);
    }
    free(exact);
}

Test(index_node, finds_what_a_walk_over_its_separators_finds) {
    struct random random = random_begin("index_node/find");
    struct index_node_parts parts = {0};
    struct table_bytes out = {0};
    for (int round = 0; round < 3000; round++) {
        struct string strings[40];
        size_t shared = random_below(&random, 12);
        uint32_t count = (uint32_t)strings_draw(&random, strings, 40, shared), at;
        uint64_t covered = 0;
        index_node_parts_clear(&parts);
        out.bytes = 0;
        for (uint32_t i = 0; i <= count; i++) {
            cr_assert_eq(index_node_add_child(&mem_system, &parts, 10 + i, 20 + i, NULL), 0);
            covered += TABLE_HEADER_BYTES + 10 + i;
            cr_assert(i == count || index_node_add_separator(&mem_system, &parts, strings[i].bytes, strings[i].count,
                                                             NULL) == 0);
        }
        cr_assert_eq(index_node_encode(&mem_system, &parts, &out, NULL), 0);
        uint8_t *image = malloc(out.bytes); /* exactly so long */
        memcpy(image, out.data, out.bytes);
        const char *wrong = index_node_verify(image, out.bytes, covered, &at);
        cr_assert_null(wrong, "%s at %u", wrong, at);
        cr_assert_not_null(index_node_verify(image, out.bytes, covered - 10 - count, &at), "an empty last child");
        cr_assert_not_null(index_node_verify(image, out.bytes - 1, covered, &at), "a byte less");
        const struct index_node node = index_node_of(image);
        for (uint32_t i = 0; i <= count; i++) {
            struct table_handle child = index_node_child(&node, i, covered);
            cr_assert(child.stored_bytes == 10 + i && child.image_bytes == 20 + i);
            if (i < count) {
                uint8_t back[sizeof strings[i].bytes];
                cr_assert_eq(index_node_separator_bytes(&node, i), strings[i].count);
                index_node_separator(&node, i, back);
                cr_assert_eq(memcmp(back, strings[i].bytes, strings[i].count), 0);
                node_expect(image, strings, count, &strings[i]);
            }
            struct string key = string_draw(&random, random_below(&random, 2) == 0 ? shared : 0);
            node_expect(image, strings, count, &key);
        }
        free(image);
    }
    mem_free(&mem_system, out.data);
    index_node_parts_fini(&mem_system, &parts);
}

Test(index_node, covers_no_more_than_offsets_can_say) {
    struct index_node_parts parts = {.covered_bytes = INDEX_NODE_COVERED_MAX};
    struct pleat_error err = {0};
    cr_assert_eq(index_node_add_child(&mem_system, &parts, 10, 20, &err), PLEAT_ERR_INVALID);
    cr_assert_not_null(strstr(err.message, "2147483648"), "%s", err.message);
}

/* Three blocks of huge values fill a page that takes four of others at least. */
Test(index_node, a_page_ends_where_its_offsets_do) {
    struct table_index_builder index = {.page_bytes = table_index_page_bytes(8192)};
    struct pleat_error err = {0};
    for (uint32_t i = 0; i < 10; i++) {
        uint8_t separator[1] = {(uint8_t)(i + 1)};
        cr_assert(i == 0 || table_index_add_separator(&mem_system, &index, separator, 1, &err) == 0, "%s", err.message);
        cr_assert_eq(table_index_add_block(&mem_system, &index, 800u << 20, 800u << 20, &err), 0, "%s", err.message);
    }
    cr_assert_eq(table_index_close(&mem_system, &index, &err), 0, "%s", err.message);
    cr_assert_eq(index.pages, 4, "three, three, three and one");
    cr_assert_eq(table_index_start_of(&index, 1).block, 3);
    cr_assert_eq(table_index_start_of(&index, 1).offset, 3 * ((800ull << 20) + TABLE_HEADER_BYTES));
    table_index_builder_fini(&mem_system, &index);
}

/* ---- memory ----------------------------------------------------------------------------------------------------- */

static struct table_builder_options options_usual(void) {
    struct table_builder_options options = options_small();
    options.block_bytes = 8192;
    options.grouping = (struct table_grouping){.delimiters = 2, .delimiter = '.'};
    return options;
}

static struct cache_stats room_stats(struct room *room) {
    struct cache_stats stats;
    cache_stats_read(room->store.cache, &stats);
    return stats;
}

Test(table_pages, index_and_filter_take_two_bytes_a_key_and_a_fifth_stays) {
    struct room room;
    room_open(&room, &mem_system);
    struct rows rows = rows_grouped(3100, 40, 100, true); /* parts of the filter as full as those of a large table */
    struct table_builder_options options = options_usual();
    struct table_meta meta = build(&room, &rows, &options);
    struct table *table = open_table(&room, &meta);
    double keys = (double)rows.count;
    uint64_t resident = room_stats(&room).used_bytes;
    cr_assert_leq((double)resident / keys, 0.25, "%.3f bytes a key stay", (double)resident / keys);
    cr_assert_eq(room_stats(&room).frames, 0);
    pages_carry(&room, table);
    uint64_t all = room_stats(&room).used_bytes;
    cr_assert_leq((double)all / keys, 2.0, "%.3f bytes a key in all", (double)all / keys);
    cr_assert_geq((double)all / keys, 1.2, "%.3f bytes a key in all: no filter?", (double)all / keys);
    table_close(table);
    epoch_synchronize(cache_epoch(room.store.cache));
    cr_assert_eq(room_stats(&room).used_bytes, 0);
    table_meta_fini(&mem_system, &meta);
    rows_free(&rows);
    room_close(&room);
}

Test(table_pages, an_open_reads_directories_alone) {
    struct room room;
    room_open(&room, &mem_system);
    struct rows rows = rows_grouped(500, 40, 100, true);
    struct table_builder_options options = options_usual();
    struct table_meta meta = build(&room, &rows, &options);
    uint64_t before = fault.calls;
    struct table *table = open_table(&room, &meta);
    cr_assert_eq(fault.calls - before, 6, "open, length, footer, properties, two directories");
    before = fault.calls;
    cr_assert_eq(get_checked(&room, table, &rows, rows.data[70].key, rows.data[70].entry.key_bytes), 0);
    cr_assert_eq(fault.calls - before, 3, "a page of the filter, one of the index, a block");
    before = fault.calls;
    cr_assert_eq(get_checked(&room, table, &rows, rows.data[71].key, rows.data[71].entry.key_bytes), 0);
    cr_assert_eq(fault.calls - before, 0);
    table_close(table);
    table_meta_fini(&mem_system, &meta);
    rows_free(&rows);
    room_close(&room);
}

/* ---- caches too small for all ----------------------------------------------------------------------------------- */

/* Reads of the file per get, over `count` gets of random keys, or of absent ones beside them. */
static double reads_per_get(struct room *room, struct table *table, const struct rows *rows, struct random *random,
                            bool absent, unsigned count) {
    uint64_t before = fault.calls;
    for (unsigned i = 0; i < count; i++) {
        const struct entry *entry = &rows->data[random_below(random, rows->count)].entry;
        uint8_t key[64];
        memcpy(key, entry->key, entry->key_bytes);
        key[entry->key_bytes] = 'x';
        size_t bytes = entry->key_bytes + absent;
        uint64_t hash = hash_key(key, bytes);
        struct epoch_slot *slot;
        struct entry found;
        struct cache_frame *frame;
        cr_assert_eq(epoch_enter(cache_epoch(room->store.cache), &slot), 0);
        int rc = table_may_contain(table, hash, NULL);
        rc = rc > 0 ? table_get(table, key, bytes, hash, CACHE_GET, &found, &frame, NULL) : PLEAT_ABSENT;
        cr_assert_eq(rc, absent ? PLEAT_ABSENT : 0);
        epoch_leave(slot);
    }
    return (double)(fault.calls - before) / (double)count;
}

/* Opens the table anew with a cache of so many bytes. */
static struct table *room_cache(struct room *room, struct table *table, const struct table_meta *meta, size_t bytes) {
    table_close(table);
    epoch_synchronize(cache_epoch(room->store.cache));
    cache_free(room->store.cache);
    cr_assert_eq(cache_new(&mem_system, bytes, &room->store.cache, NULL), 0);
    return open_table(room, meta);
}

/* Some 1,300 blocks of four kilobytes: a fiftieth of them is cached, then a fiftieth beside the filter. */
Test(table_pages, a_small_cache_reads_one_block_a_hit_and_learns_what_is_absent) {
    struct room room;
    room_open(&room, &mem_system);
    struct random random = random_begin("table_pages/small");
    struct rows rows = rows_grouped(4000, 40, 10, true);
    struct table_builder_options options = options_usual();
    options.block_bytes = 4096;
    struct table_meta meta = build(&room, &rows, &options);
    struct table *table = room_cache(&room, NULL, &meta, 180 << 10);
    (void)reads_per_get(&room, table, &rows, &random, false, 20000);
    double hits = reads_per_get(&room, table, &rows, &random, false, 20000);
    cr_assert_leq(hits, 1.05, "%.3f reads a hit", hits);
    table = room_cache(&room, table, &meta, 480 << 10);
    (void)reads_per_get(&room, table, &rows, &random, false, 20000); /* full of blocks */
    double first = reads_per_get(&room, table, &rows, &random, true, 200);
    (void)reads_per_get(&room, table, &rows, &random, true, 20000);
    double absent = reads_per_get(&room, table, &rows, &random, true, 20000);
    cr_assert_leq(absent, 0.1, "%.3f reads an absent key, %.3f at first", absent, first);
    table_close(table);
    table_meta_fini(&mem_system, &meta);
    rows_free(&rows);
    room_close(&room);
}

Test(table_pages, whatever_is_asked_of_a_tiny_cache_is_answered) {
    struct room room;
    room_open(&room, &mem_system);
    struct rows rows = rows_grouped(60, 20, 30, false);
    for (uint32_t capacity = 4096; capacity <= 65536; capacity *= 2) {
        cache_free(room.store.cache);
        cr_assert_eq(cache_new(&mem_system, capacity, &room.store.cache, NULL), 0);
        struct table_builder_options options = options_small();
        options.filter = capacity % 3 == 1 ? FILTER_BLOOM : FILTER_FUSE;
        struct table_meta meta = build(&room, &rows, &options);
        check_table(&room, &meta, &rows);
        struct cache_stats stats = room_stats(&room);
        cr_assert_eq(stats.frames, 0);
        table_meta_fini(&mem_system, &meta);
        (void)vfs_posix.dir_list(room.store.dir, room_unlink, &room, NULL);
    }
    rows_free(&rows);
    room_close(&room);
}

/* A page of more than half the cache would be read for every key that asks. */
Test(table_pages, a_page_that_no_cache_keeps_is_not_read) {
    struct room room;
    room_open(&room, &mem_system);
    struct rows rows = rows_grouped(1000, 40, 10, true); /* a page of some 50 KB */
    struct table_builder_options options = options_usual();
    struct table_meta meta = build(&room, &rows, &options);
    struct table *table = room_cache(&room, NULL, &meta, 64 << 10);
    cr_assert_eq(get_checked(&room, table, &rows, rows.data[70].key, rows.data[70].entry.key_bytes), 0);
    uint64_t before = fault.calls;
    for (size_t i = 60; i < 80; i++) {
        cr_assert_eq(get_checked(&room, table, &rows, rows.data[i].key, rows.data[i].entry.key_bytes), 0);
    }
    cr_assert_leq(fault.calls - before, 2, "%llu reads", (unsigned long long)(fault.calls - before));
    table_close(table);
    table_meta_fini(&mem_system, &meta);
    rows_free(&rows);
    room_close(&room);
}

/* A filter's page that lets keys pass goes before one that keeps them away. */
Test(table_pages, what_spares_no_read_gives_way_first) {
    struct room room;
    room_open(&room, &mem_system);
    struct random random = random_begin("table_pages/way");
    struct rows rows = rows_grouped(2000, 40, 10, true);
    struct table_builder_options options = options_usual();
    options.block_bytes = 1024;
    struct table_meta meta[2];
    struct table *tables[2];
    unsigned loaded[2] = {0, 0};
    cache_free(room.store.cache);
    cr_assert_eq(cache_new(&mem_system, 400 << 10, &room.store.cache, NULL), 0);
    for (unsigned i = 0; i < 2; i++) {
        options.number = 7 + i;
        meta[i] = build(&room, &rows, &options);
        tables[i] = open_table(&room, &meta[i]);
    }
    for (unsigned round = 0; round < 300; round++) { /* the first: present keys; the second: absent ones */
        (void)reads_per_get(&room, tables[0], &rows, &random, false, 100);
        (void)reads_per_get(&room, tables[1], &rows, &random, true, 100);
    }
    uint32_t parts = filter_parts(tables[0]->filter);
    cr_assert_gt(parts, 10);
    for (unsigned i = 0; i < 2; i++) {
        for (uint32_t part = 0; part < parts; part++) {
            loaded[i] += cache_slot_load(&tables[i]->filter_slots[part]) != NULL;
        }
    }
    cr_assert(loaded[1] > parts * 3 / 4 && loaded[0] <= parts / 2, "%u and %u of %u", loaded[0], loaded[1], parts);
    for (unsigned i = 0; i < 2; i++) {
        table_close(tables[i]);
        table_meta_fini(&mem_system, &meta[i]);
    }
    rows_free(&rows);
    room_close(&room);
}
