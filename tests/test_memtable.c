/* test_memtable.c - arenas, the filter, the tree's shapes, and random histories against a sorted array. */
#include "base/bytes.h"
#include "base/hash.h"
#include "base/limits.h"
#include "memtable/arena_internal.h"
#include "memtable/memtable.h"
#include "support/failmem.h"
#include "support/memtable_history.h"
#include "support/random.h"

#include <criterion/criterion.h>
#include <time.h>

static const uint8_t *bytes_of(const char *text) {
    return (const uint8_t *)text;
}

static void insert_entry(struct memtable *table, struct entry entry) {
    memtable_insert(&table, &entry, 1);
}

static void insert_text(struct memtable *table, const char *key, const char *value, uint64_t sequence) {
    insert_entry(table, entry_put(key, strlen(key), value, strlen(value), sequence));
}

static bool entry_is(const struct entry *entry, const char *key, const char *value, uint64_t sequence) {
    return key_compare(entry->key, entry->key_bytes, key, strlen(key)) == 0 &&
           key_compare(entry->value, entry->value_bytes, value, strlen(value)) == 0 && entry->sequence == sequence;
}

static bool table_has(struct memtable *table, const char *key, uint64_t sequence, const char *value,
                      uint64_t found_at) {
    struct entry entry;
    return memtable_get(table, bytes_of(key), strlen(key), sequence, &entry) == 0 &&
           entry_is(&entry, key, value, found_at);
}

/* ---- arenas ----------------------------------------------------------------------------------------------------- */

Test(memtable_arena, acquire_leaves_the_bytes_that_were_asked_for) {
    static const size_t sizes[] = {0, 1, 63, 4096, 100000, 1 << 20, (2 << 20) - 1, 2 << 20, 5000001, 300000000};
    struct arena_pool *pool;
    cr_assert_eq(arena_pool_new(&mem_system, 8192, 2, &pool, NULL), 0);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct arena *arena;
        cr_assert_eq(arena_acquire(pool, sizes[i], &arena, NULL), 0);
        cr_assert_geq(arena_available(arena), sizes[i]);
        cr_assert_geq(arena_available(arena), 8192u, "the default size at least");
        cr_assert_lt(arena_used(arena), 128 + sizes[i] / 90 + 8192 / 90, "the filter is about one part in 94");
        arena_release(pool, arena);
    }
    arena_release(pool, NULL);
    arena_pool_free(pool);
    arena_pool_free(NULL);
}

Test(memtable_arena, more_than_a_reference_spans_is_refused) {
    struct arena_pool *pool;
    cr_assert_eq(arena_pool_new(&mem_system, 8192, 2, &pool, NULL), 0);
    static const size_t sizes[] = {(16ull << 30) - 4096, 16ull << 30, SIZE_MAX / 2, SIZE_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct pleat_error err = {0};
        struct arena *arena = NULL;
        cr_assert_eq(arena_acquire(pool, sizes[i], &arena, &err), PLEAT_ERR_INVALID);
        cr_assert_eq(err.code, PLEAT_ERR_INVALID);
        cr_assert_null(arena);
    }
    arena_pool_free(pool);
}

Test(memtable_arena, pool_keeps_only_so_many_and_only_default_sized) {
    struct failmem mem;
    failmem_init(&mem);
    struct arena_pool *pool;
    cr_assert_eq(arena_pool_new(&mem.mem, 65536, 2, &pool, NULL), 0);
    int64_t bare = mem.live;
    struct arena *arenas[4];
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(arena_acquire(pool, 1000, &arenas[i], NULL), 0);
    }
    cr_assert_eq(arena_acquire(pool, 65537, &arenas[3], NULL), 0);
    cr_assert_eq(mem.live, bare + 8);
    for (int i = 3; i >= 0; i--) {
        arena_release(pool, arenas[i]);
    }
    cr_assert_eq(mem.live, bare + 4, "two of three default-sized arenas are kept, the larger is not");
    uint64_t calls = mem.calls;
    struct arena *again;
    cr_assert_eq(arena_acquire(pool, 65536, &again, NULL), 0);
    cr_assert_eq(mem.calls, calls, "a kept arena is reused");
    arena_release(pool, again);
    arena_pool_free(pool);
    cr_assert_eq(mem.live, 0);
}

/* Ranges that were populated, as offsets from the lowest address of the map. */
static struct populated {
    uint8_t *base;
    size_t calls, bytes;
    size_t low_end;    /* of those that begin at the base or where the last one ended */
    size_t high_start; /* of the others */
} populated;

static void *populated_map(const struct mem *mem, size_t bytes, bool huge) {
    void *block = mem_system.map(mem, bytes, huge);
    populated = (struct populated){.base = block, .high_start = bytes};
    return block;
}

static void populated_note(const struct mem *mem, void *pages, size_t bytes) {
    size_t offset = (size_t)((uint8_t *)pages - populated.base);
    cr_assert(offset % 4096 == 0 && bytes % 4096 == 0 && bytes > 0, "whole pages");
    if (offset == populated.low_end) {
        populated.low_end += bytes;
    } else {
        cr_assert_eq(offset + bytes, populated.high_start, "no page twice, none left out");
        populated.high_start = offset;
    }
    populated.calls++;
    populated.bytes += bytes;
    mem_system.populate(mem, pages, bytes);
}

Test(memtable_arena, pages_ahead_are_made_ready_once_and_at_both_ends) {
    struct mem mem = mem_system;
    mem.map = populated_map;
    mem.populate = populated_note;
    struct arena_pool *pool;
    struct arena *arena;
    enum { BYTES = 400000, AHEAD = 40960 };
    cr_assert_eq(arena_pool_new(&mem, BYTES, 2, &pool, NULL), 0);
    cr_assert_eq(arena_acquire(pool, BYTES, &arena, NULL), 0);
    size_t bytes = arena->bytes;
    arena_prepare(pool, arena, AHEAD);
    arena_prepare(pool, arena, AHEAD);
    cr_assert_eq(populated.calls, 2, "nothing is left to do for the second");
    cr_assert_geq(populated.low_end, arena->record_start + AHEAD);
    cr_assert_lt(populated.low_end, arena->record_start + AHEAD + 4096);
    cr_assert_leq(populated.high_start, bytes - AHEAD / 4);
    cr_assert_gt(populated.high_start, bytes - AHEAD / 4 - 4096);
    for (unsigned i = 0; i < 50; i++) { /* it follows the two ends, never beyond each other */
        (void)arena_allocate_record(arena, 6000);
        (void)arena_allocate_node(arena, 1500);
        arena_prepare(pool, arena, AHEAD);
        cr_assert_geq(populated.low_end, arena->record_end);
        cr_assert_leq(populated.high_start, arena->node_start);
    }
    arena_prepare(pool, arena, SIZE_MAX);
    cr_assert_leq(populated.low_end, bytes);
    cr_assert_eq(populated.bytes, bytes, "all of it");
    size_t calls = populated.calls;
    arena_release(pool, arena);
    cr_assert_eq(arena_acquire(pool, BYTES, &arena, NULL), 0);
    arena_prepare(pool, arena, SIZE_MAX);
    cr_assert_eq(populated.calls, calls, "a kept arena is ready");
    arena_release(pool, arena);
    arena_pool_free(pool);
}

Test(memtable_arena, the_next_arena_is_made_ahead_but_never_a_third) {
    struct failmem mem;
    failmem_init(&mem);
    struct arena_pool *pool;
    struct arena *arenas[2];
    cr_assert_eq(arena_pool_new(&mem.mem, 65536, 2, &pool, NULL), 0);
    int64_t bare = mem.live;
    cr_assert_eq(arena_acquire(pool, 65536, &arenas[0], NULL), 0);
    for (uint64_t n = 1; n <= 2; n++) { /* each of its two allocations fails */
        mem.fail_at = mem.calls + n;
        arena_pool_prepare(pool, 4096);
        cr_assert_eq(mem.live, bare + 2, "a failure leaves nothing behind");
    }
    mem.fail_at = 0;
    arena_pool_prepare(pool, 4096);
    arena_pool_prepare(pool, 4096);
    cr_assert_eq(mem.live, bare + 4, "one is kept, and a second is not made");
    uint64_t calls = mem.calls;
    cr_assert_eq(arena_acquire(pool, 65536, &arenas[1], NULL), 0);
    cr_assert_eq(mem.calls, calls, "it is the one that was made ahead");
    arena_pool_prepare(pool, 4096);
    cr_assert_eq(mem.calls, calls, "two are in use: none is made");
    arena_release(pool, arenas[0]);
    arena_pool_prepare(pool, 4096);
    cr_assert_eq(mem.calls, calls, "one is kept");
    arena_release(pool, arenas[1]);
    arena_pool_free(pool);
    cr_assert_eq(mem.live, 0);
}

Test(memtable_arena, recycled_arena_is_empty_whatever_it_held) {
    struct fixture f = fixture_open(1 << 20);
    size_t used = 0;
    struct arena *first = f.arena;
    for (uint64_t life = 0; life < 4; life++) {
        cr_assert_eq(f.arena, first, "the same arena again");
        if (life == 1) {
            used = arena_used(f.arena);
        }
        cr_assert(life < 2 || arena_used(f.arena) == used);
        for (uint64_t i = 0; i < 2000 && life > 0; i++) {
            uint64_t key = hash_mix(i, life - 1);
            cr_assert_not(arena_may_contain(f.arena, hash_key(&key, 8)), "the filter still holds the life before");
        }
        for (uint64_t i = 0; i < 2000; i++) {
            uint64_t key = hash_mix(i, life);
            struct entry entry;
            cr_assert_eq(memtable_get(f.table, (uint8_t *)&key, 8, UINT64_MAX, &entry), PLEAT_ABSENT);
            insert_entry(f.table, entry_put(&key, 8, &i, 8, 1));
            cr_assert_eq(memtable_get(f.table, (uint8_t *)&key, 8, 1, &entry), 0);
            cr_assert_eq(memcmp(entry.value, &i, 8), 0);
        }
        cr_assert(memtable_check(f.table));
        arena_release(f.pool, f.arena);
        cr_assert_eq(arena_acquire(f.pool, 1 << 20, &f.arena, NULL), 0);
        f.table = memtable_new(f.arena);
        cr_assert_not_null(f.table);
    }
    fixture_close(&f);
}

Test(memtable_arena, table_that_does_not_fit_is_null) {
    struct fixture f = fixture_open(0);
    int tables = 1;
    while (memtable_new(f.arena) != NULL) {
        cr_assert_lt(++tables, 1000);
    }
    cr_assert(memtable_check(f.table));
    fixture_close(&f);
}

Test(memtable_arena, failed_allocations_leave_nothing_behind) {
    for (int for_ever = 0; for_ever < 2; for_ever++) {
        for (uint64_t n = 1;; n++) {
            struct failmem mem;
            failmem_init(&mem);
            mem.fail_at = n;
            mem.fail_for_ever = for_ever;
            struct pleat_error err = {0};
            struct arena_pool *pool = NULL;
            struct arena *arena = NULL;
            struct source *source = NULL;
            int rc = arena_pool_new(&mem.mem, 4096, 1, &pool, &err);
            rc = rc < 0 ? rc : arena_acquire(pool, 4096, &arena, &err);
            rc = rc < 0 ? rc : memtable_source_new(&mem.mem, memtable_new(arena), NULL, 1, &source, &err);
            bool failed = rc < 0;
            cr_assert(!failed || (rc == PLEAT_ERR_NO_MEMORY && err.code == PLEAT_ERR_NO_MEMORY));
            source_free(source);
            arena_release(pool, arena);
            arena_pool_free(pool);
            cr_assert_eq(mem.live, 0);
            if (!failed) {
                cr_assert_gt(n, 4u);
                break;
            }
        }
    }
}

Test(memtable_arena, filter_has_no_false_negative_and_few_false_positives) {
    enum { COUNT = 30000 };
    struct fixture f = fixture_open((size_t)COUNT * 130);
    for (uint64_t i = 0; i < COUNT; i++) {
        insert_entry(f.table, entry_put(&i, sizeof i, NULL, 0, 1));
    }
    unsigned wrong = 0;
    for (uint64_t i = 0; i < COUNT; i++) {
        cr_assert(arena_may_contain(f.arena, hash_key(&i, sizeof i)));
        uint64_t absent = i + COUNT;
        uint64_t hash = hash_key(&absent, sizeof absent);
        arena_prefetch(f.arena, hash);
        wrong += arena_may_contain(f.arena, hash);
    }
    cr_assert_lt(wrong, COUNT * 2 / 100, "%u of %d", wrong, COUNT);
    fixture_close(&f);
}

/* ---- single keys ------------------------------------------------------------------------------------------------ */

Test(memtable, snapshot_sees_the_newest_at_or_below_it) {
    struct fixture f = fixture_open(65536);
    insert_text(f.table, "k", "at 3", 3);
    insert_text(f.table, "k", "at 7", 7);
    struct entry entry;
    cr_assert_eq(memtable_get(f.table, bytes_of("k"), 1, 2, &entry), PLEAT_ABSENT);
    cr_assert(table_has(f.table, "k", 3, "at 3", 3));
    cr_assert(table_has(f.table, "k", 6, "at 3", 3));
    cr_assert(table_has(f.table, "k", 7, "at 7", 7));
    cr_assert(table_has(f.table, "k", UINT64_MAX, "at 7", 7));
    insert_text(f.table, "zero", "at 0", 0);
    cr_assert(table_has(f.table, "zero", 0, "at 0", 0), "a snapshot at 0 sees what was written at 0");
    fixture_close(&f);
}

Test(memtable, same_key_twice_in_a_commit_leaves_the_last) {
    struct fixture f = fixture_open(65536);
    insert_text(f.table, "k", "old", 4);
    struct entry batch[5];
    struct memtable *tables[5];
    for (size_t i = 0; i < 5; i++) {
        batch[i] = entry_put("k", 1, &"abcde"[i], 1, 5);
        tables[i] = f.table;
    }
    memtable_insert(tables, batch, 5);
    cr_assert(memtable_check(f.table), "one record of sequence 5 is in the chain");
    cr_assert(table_has(f.table, "k", 5, "e", 5));
    cr_assert(table_has(f.table, "k", 4, "old", 4), "the replacing record took over the chain");
    insert_text(f.table, "k", "new", 6);
    cr_assert(table_has(f.table, "k", 5, "e", 5));
    struct memtable_stats stats;
    memtable_stats_read(f.table, &stats);
    cr_assert(stats.records == 7 && stats.tombstones == 0 && stats.bytes == 7 + 3 + 5 + 3);
    fixture_close(&f);
}

/* Commits of 1 to 16 keys that go in behind any number of steps, from none to more than there are levels. */
Test(memtable, a_group_goes_in_whole_however_far_it_was_walked_ahead) {
    struct fixture f = fixture_open(1 << 20);
    char keys[MEMTABLE_GROUP][64];
    for (uint64_t sequence = 1; sequence < 400; sequence++) {
        struct memtable_group group = {.count = 1 + sequence * 7 % MEMTABLE_GROUP};
        for (size_t i = 0; i < group.count; i++) {
            uint64_t x = (sequence * 16 + i) * 2654435761u % 3000;
            int bytes = snprintf(keys[i], sizeof keys[i], "%02x%s%02x", (unsigned)(x % 64),
                                 x % 3 == 0 ? "" : "/a path longer than a node's tail/", (unsigned)(x / 64));
            group.tables[i] = f.table;
            group.entries[i] = entry_put(keys[i], (size_t)bytes, &sequence, sizeof sequence, sequence);
        }
        memtable_group_begin(&group);
        for (uint64_t step = sequence % 9; step > 0; step--) {
            memtable_group_step(&group);
        }
        memtable_group_insert(&group);
        for (size_t i = 0; i < group.count; i++) {
            struct entry entry;
            cr_assert_eq(memtable_get(f.table, bytes_of(keys[i]), strlen(keys[i]), sequence, &entry), 0);
            cr_assert_eq(entry.sequence, sequence);
            cr_assert(arena_may_contain(f.arena, hash_key(keys[i], strlen(keys[i]))));
        }
    }
    cr_assert(memtable_check(f.table));
    fixture_close(&f);
}

Test(memtable, attributes_and_tombstones_come_back) {
    struct fixture f = fixture_open(1 << 20);
    uint8_t version[LIMIT_VERSION_BYTES];
    memset(version, 0xe7, sizeof version);
    uint64_t number = 0;
    for (int delete_it = 0; delete_it < 2; delete_it++) {
        for (uint8_t flagged = 0; flagged < 2; flagged++) {
            for (uint8_t version_bytes = 0; version_bytes <= LIMIT_VERSION_BYTES; version_bytes += 16) {
                for (uint64_t deadline = 0; deadline <= 77; deadline += 77) {
                    struct entry entry = entry_put(&number, 8, delete_it ? NULL : "value", delete_it ? 0 : 5, ++number);
                    uint64_t key = number;
                    entry.key = (uint8_t *)&key;
                    entry.kind = delete_it ? ENTRY_DELETE : ENTRY_PUT;
                    entry.has_flag = flagged;
                    entry.flag = flagged ? 0x9d : 0;
                    entry.version = version_bytes > 0 ? version : NULL;
                    entry.version_bytes = version_bytes;
                    entry.deadline_ms = deadline;
                    insert_entry(f.table, entry);
                    struct entry back;
                    cr_assert_eq(memtable_get(f.table, (uint8_t *)&key, 8, number, &back), 0);
                    cr_assert(back.kind == entry.kind && back.has_flag == flagged && back.flag == entry.flag);
                    cr_assert(back.deadline_ms == deadline && back.version_bytes == version_bytes);
                    cr_assert(version_bytes == 0 ? back.version == NULL
                                                 : memcmp(back.version, version, version_bytes) == 0);
                    cr_assert(delete_it ? back.value == NULL && back.value_bytes == 0
                                        : back.value_bytes == 5 && memcmp(back.value, "value", 5) == 0);
                    cr_assert(back.sequence == number && back.key_bytes == 8 && memcmp(back.key, &key, 8) == 0);
                }
            }
        }
    }
    struct memtable_stats stats;
    memtable_stats_read(f.table, &stats);
    cr_assert_eq(stats.records, number);
    cr_assert_eq(stats.tombstones, number / 2);
    fixture_close(&f);
}

Test(memtable, empty_key_and_empty_value_are_values_like_others) {
    struct fixture f = fixture_open(65536);
    struct entry entry;
    cr_assert_eq(memtable_get(f.table, NULL, 0, 9, &entry), PLEAT_ABSENT);
    insert_entry(f.table, entry_put(NULL, 0, NULL, 0, 1));
    cr_assert_eq(memtable_get(f.table, NULL, 0, 9, &entry), 0);
    cr_assert(entry.key_bytes == 0 && entry.value == NULL && entry.value_bytes == 0);
    insert_entry(f.table, entry_put("\0", 1, "x", 1, 2));
    insert_entry(f.table, entry_put(NULL, 0, "again", 5, 3));
    cr_assert(memtable_check(f.table));
    struct source *source;
    cr_assert_eq(memtable_source_new(&mem_system, f.table, NULL, 9, &source, NULL), 0);
    cr_assert_eq(source->ops->seek(source, NULL, 0), 0);
    cr_assert(source->entry.key_bytes == 0 && source->entry.value_bytes == 5);
    cr_assert_eq(source->ops->next(source), 0);
    cr_assert(source->entry.key_bytes == 1 && source->entry.key[0] == 0);
    cr_assert_eq(source->ops->prev(source), 0);
    cr_assert_eq(source->entry.key_bytes, 0);
    cr_assert_eq(source->ops->prev(source), PLEAT_END);
    cr_assert_eq(source->ops->seek_before(source, NULL, 0), PLEAT_END);
    source_free(source);
    fixture_close(&f);
}

Test(memtable, large_values_are_whole) {
    size_t bytes = (17u << 20) + 3;
    struct fixture f = fixture_open(2 * memtable_entry_bytes_max(1, bytes));
    uint8_t *value = malloc(bytes);
    for (size_t i = 0; i < bytes; i++) {
        value[i] = (uint8_t)(i * 2654435761u >> 13);
    }
    insert_entry(f.table, entry_put("a", 1, value, bytes, 1));
    insert_entry(f.table, entry_put("b", 1, value + 1, bytes - 1, 1));
    struct entry entry;
    cr_assert_eq(memtable_get(f.table, bytes_of("a"), 1, 1, &entry), 0);
    cr_assert(entry.value_bytes == bytes && memcmp(entry.value, value, bytes) == 0);
    cr_assert_eq(memtable_get(f.table, bytes_of("b"), 1, 1, &entry), 0);
    cr_assert(entry.value_bytes == bytes - 1 && memcmp(entry.value, value + 1, bytes - 1) == 0);
    free(value);
    fixture_close(&f);
}

Test(memtable, no_insert_takes_more_than_its_bound) {
    struct fixture f = fixture_open(16 << 20);
    struct random random = random_begin("no_insert_takes_more_than_its_bound");
    uint8_t version[LIMIT_VERSION_BYTES] = {0};
    for (uint64_t i = 0; i < 20000; i++) {
        uint64_t draw = random_next(&random);
        uint8_t key[3] = {(uint8_t)(draw % 3), (uint8_t)(draw >> 16), (uint8_t)(draw >> 24)};
        struct entry entry = entry_put(key, random_below(&random, 4), "value", random_below(&random, 6), i);
        entry.has_flag = 1;
        entry.version = version;
        entry.version_bytes = LIMIT_VERSION_BYTES;
        entry.deadline_ms = 1;
        size_t before = arena_available(f.arena);
        insert_entry(f.table, entry);
        cr_assert_leq(before - arena_available(f.arena), memtable_entry_bytes_max(entry.key_bytes, entry.value_bytes));
    }
    fixture_close(&f);
}

Test(memtable, inserts_go_on_as_long_as_the_reservation_holds) {
    struct fixture f = fixture_open(200000);
    struct random random = random_begin("inserts_go_on_as_long_as_the_reservation_holds");
    uint64_t count = 0;
    while (arena_available(f.arena) >= memtable_entry_bytes_max(4, 10)) {
        uint32_t key = (uint32_t)random_next(&random);
        insert_entry(f.table, entry_put(&key, 4, "0123456789", 10, ++count));
    }
    cr_assert_gt(count, 1000u);
    cr_assert(memtable_check(f.table));
    fixture_close(&f);
}

/* ---- shapes of the tree ----------------------------------------------------------------------------------------- */

Test(memtable, nodes_grow_to_all_256_children_in_any_order) {
    struct random random = random_begin("nodes_grow_to_all_256_children_in_any_order");
    for (int round = 0; round < 4; round++) {
        struct fixture f = fixture_open(1 << 20);
        uint8_t order[256];
        for (unsigned i = 0; i < 256; i++) {
            order[i] = (uint8_t)i;
        }
        for (unsigned i = 255; i > 0; i--) {
            unsigned j = (unsigned)random_below(&random, i + 1);
            uint8_t kept = order[i];
            order[i] = order[j];
            order[j] = kept;
        }
        uint8_t key[12] = "some prefix";
        for (unsigned i = 0; i < 256; i++) {
            key[11] = order[i];
            insert_entry(f.table, entry_put(key, 12, &order[i], 1, i + 1));
            if (i == 100) {
                insert_entry(f.table, entry_put(key, 11, "term", 4, i + 1));
            }
            cr_assert(memtable_check(f.table));
            struct entry entry;
            for (unsigned j = 0; j < 256; j++) {
                key[11] = order[j];
                int rc = memtable_get(f.table, key, 12, UINT64_MAX, &entry);
                cr_assert_eq(rc, j <= i ? 0 : PLEAT_ABSENT);
                cr_assert(rc != 0 || entry.value[0] == order[j]);
            }
        }
        fixture_close(&f);
    }
}

Test(memtable, nested_prefixes_may_be_thousands_deep) {
    enum { DEEP = 3000 };
    struct failmem mem;
    failmem_init(&mem);
    struct fixture f = fixture_open(16 << 20);
    static uint8_t key[DEEP];
    memset(key, 'n', sizeof key);
    for (size_t i = 0; i < DEEP; i += 2) {
        /* Longest first: every one splits the path at the top. */
        insert_entry(f.table, entry_put(key, DEEP - 2 - i, NULL, 0, 1));
    }
    cr_assert(memtable_check(f.table));
    /* The way down outgrows the frames that a source has: each growth may fail, and the source stays usable. */
    uint64_t failures = 0;
    for (uint64_t n = 2;; n++) {
        mem.fail_at = 0;
        struct source *source;
        cr_assert_eq(memtable_source_new(&mem.mem, f.table, NULL, 1, &source, NULL), 0);
        mem.fail_at = mem.calls + n - 1;
        int rc = source->ops->last(source);
        if (rc == 0) {
            cr_assert_eq(source->entry.key_bytes, DEEP - 2);
        } else {
            cr_assert(rc == PLEAT_ERR_NO_MEMORY && source->error.code == PLEAT_ERR_NO_MEMORY);
            failures++;
            mem.fail_at = 0;
            cr_assert_eq(source->ops->last(source), 0);
        }
        size_t seen = 1;
        while (rc == 0 && (rc = source->ops->prev(source)) == 0) {
            seen++;
            cr_assert_eq(source->entry.key_bytes, DEEP - 2 * seen);
        }
        source_free(source);
        cr_assert_eq(mem.live, 0);
        if (rc == PLEAT_END) {
            cr_assert_eq(seen, DEEP / 2);
            break;
        }
    }
    cr_assert_gt(failures, 3u);
    fixture_close(&f);
}

Test(memtable, bounded_scans_beside_invisible_entries_do_not_cross_them) {
    enum { COUNT = 20000 };
    struct fixture f = fixture_open(4 << 20);
    for (uint32_t i = 0; i < COUNT; i++) {
        uint8_t key[4] = {(uint8_t)(i >> 24), (uint8_t)(i >> 16), (uint8_t)(i >> 8), (uint8_t)i};
        insert_entry(f.table, entry_put(key, 4, NULL, 0, i == 0 || i == COUNT - 1 ? 1 : 2));
    }
    clock_t begun = clock();
    for (uint32_t i = 1; i + 2 < COUNT; i++) {
        /* One end only: with both the common prefix alone would confine the walk. */
        uint8_t key[4] = {(uint8_t)(i >> 24), (uint8_t)(i >> 16), (uint8_t)(i >> 8), (uint8_t)i};
        uint8_t above[4] = {(uint8_t)(i >> 24), (uint8_t)(i >> 16), (uint8_t)((i + 1) >> 8), (uint8_t)(i + 1)};
        for (int backward = 0; backward < 2; backward++) {
            struct source_bounds bounds = {0};
            bounds.lower = backward ? key : NULL;
            bounds.upper = backward ? NULL : above;
            bounds.lower_bytes = bounds.upper_bytes = 4;
            struct source *source;
            cr_assert_eq(memtable_source_new(&mem_system, f.table, &bounds, 1, &source, NULL), 0);
            int rc = backward ? source->ops->seek_before(source, above, 4) : source->ops->seek(source, key, 4);
            cr_assert_eq(rc, PLEAT_END);
            source_free(source);
        }
    }
    double seconds = (double)(clock() - begun) / CLOCKS_PER_SEC;
    cr_assert_lt(seconds, 2.0, "a scan of one key must not walk the invisible thousands beside it: %g s", seconds);
    fixture_close(&f);
}

/* ---- random histories ------------------------------------------------------------------------------------------- */

static void history_run(struct random *random, enum model_shape shape, struct arena_pool *pool, size_t keys,
                        uint64_t commits) {
    static struct history histories[2];
    struct arena *arena;
    cr_assert_eq(arena_acquire(pool, 0, &arena, NULL), 0);
    for (int i = 0; i < 2; i++) {
        histories[i].fixture = (struct fixture){pool, arena, memtable_new(arena)};
        model_init(&histories[i].model, random, shape, keys);
    }
    for (uint64_t sequence = 1; sequence <= commits; sequence++) {
        history_commit(histories, random, sequence);
        for (int i = 0; i < 2; i++) {
            cr_assert(memtable_check(histories[i].fixture.table));
            history_check_source(&histories[i], random, random_below(random, sequence + 1), false);
        }
    }
    for (uint64_t sequence = 0; sequence <= commits; sequence++) {
        for (int i = 0; i < 2; i++) {
            history_check_gets(&histories[i], sequence);
            history_check_source(&histories[i], random, sequence, false);
            for (int bounded = 0; bounded < 6; bounded++) {
                history_check_source(&histories[i], random, sequence, true);
            }
        }
    }
    for (int i = 0; i < 2; i++) {
        model_fini(&histories[i].model);
    }
    arena_release(pool, arena);
}

Test(memtable_model, random_histories_agree_with_a_sorted_array_at_every_snapshot) {
    struct random random = random_begin("random_histories_agree_with_a_sorted_array_at_every_snapshot");
    struct arena_pool *pool;
    cr_assert_eq(arena_pool_new(&mem_system, 96 << 20, 1, &pool, NULL), 0);
    for (int round = 0; round < 3; round++) {
        for (int shape = 0; shape < SHAPE_COUNT; shape++) {
            size_t keys = shape == SHAPE_LONGEST ? 12 : shape == SHAPE_FAN ? 500 : 20 + random_below(&random, 200);
            history_run(&random, (enum model_shape)shape, pool, keys, shape == SHAPE_LONGEST ? 8 : 16);
        }
    }
    arena_pool_free(pool);
}

/* ---- the middle ------------------------------------------------------------------------------------------------- */

/* The share of the table's keys that lie before its middle, in thousandths; both sides have one at least. */
static unsigned middle_share(const struct memtable *table) {
    struct pleat_slice middle;
    struct source *source;
    size_t before = 0, count = 0;
    cr_assert_eq(memtable_middle(table, &middle), 0);
    cr_assert_eq(memtable_source_new(&mem_system, table, NULL, UINT64_MAX, &source, NULL), 0);
    for (int rc = source->ops->first(source); rc == 0; rc = source->ops->next(source)) {
        before += key_compare(source->entry.key, source->entry.key_bytes, middle.data, middle.bytes) < 0;
        count++;
    }
    source_free(source);
    cr_assert(before > 0 && before < count, "%zu of %zu keys lie before the middle", before, count);
    return (unsigned)(before * 1000 / count);
}

Test(memtable, the_middle_has_keys_on_both_sides_and_about_equally_many) {
    struct arena_pool *pool;
    struct arena *arena;
    struct random random = random_begin("memtable/middle");
    cr_assert_eq(arena_pool_new(&mem_system, 8 << 20, 1, &pool, NULL), 0);
    cr_assert_eq(arena_acquire(pool, 0, &arena, NULL), 0);
    struct memtable *few = memtable_new(arena), *counted = memtable_new(arena), *spread = memtable_new(arena),
                    *nested = memtable_new(arena);
    struct pleat_slice middle;
    cr_assert_eq(memtable_middle(few, &middle), PLEAT_ABSENT, "no key");
    insert_text(few, "a", "", 1);
    insert_text(few, "a", "again", 2);
    cr_assert_eq(memtable_middle(few, &middle), PLEAT_ABSENT, "one key");
    insert_text(few, "ab", "", 3);
    cr_assert_eq(memtable_middle(few, &middle), 0);
    cr_assert(middle.bytes == 2 && memcmp(middle.data, "ab", 2) == 0, "a key and one that begins with it");
    for (unsigned i = 0; i < 20000; i++) {
        char key[32];
        uint64_t bits = random_next(&random);
        (void)snprintf(key, sizeof key, "svc.%08x.route.%06x", 0x1f3 + i / 40, i % 40);
        insert_text(counted, key, "", i + 1);
        insert_entry(spread, entry_put(&bits, sizeof bits, "", 0, i + 1));
    }
    char chain[300];
    memset(chain, 'x', sizeof chain);
    for (unsigned i = 1; i < sizeof chain; i++) {
        insert_entry(nested, entry_put(chain, i, "", 0, i));
    }
    unsigned share = middle_share(counted);
    cr_assert(share >= 333 && share <= 667, "%u thousandths of keys that count up", share);
    share = middle_share(spread);
    cr_assert(share >= 400 && share <= 600, "%u thousandths of keys at random", share);
    (void)middle_share(nested);
    arena_release(pool, arena);
    arena_pool_free(pool);
}
