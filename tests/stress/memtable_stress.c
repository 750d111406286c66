/*
 * memtable_stress.c - one inserter beside readers that get and scan: for ThreadSanitizer and for plain runs.
 *
 *     memtable_stress [seconds]          exit status 0 when every invariant held
 *
 * The history is a pure function of the generation's number, so that a reader knows exactly what the sequence that it
 * acquired must show: commit s adds the keys of ranks [(s-1) * NEW, s * NEW) and overwrites the hot key s mod HOT,
 * twice within the commit, first with a value that nobody may ever see. The ranks are drawn from all shapes of keys:
 * wide nodes, long shared paths, nested prefixes. When a generation is full, its arena is released and taken again.
 */
#include "base/bytes.h"
#include "base/hash.h"
#include "memtable/memtable.h"
#include "platform/thread.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define NEW 7u
#define HOT 16u
#define COMMITS 1500u
#define READERS 3
#define KEY_BYTES_MAX 320

#define CHECK(expression)                                                                             \
    do {                                                                                              \
        if (!(expression)) {                                                                          \
            fprintf(stderr, "%s:%d: violated: %s\n", __FILE__, __LINE__, #expression);                \
            abort();                                                                                  \
        }                                                                                             \
    } while (0)

struct generation {
    struct memtable *table;
    struct arena *arena;
    uint64_t number;
    _Atomic uint64_t published; /* release by the inserter, acquire by the readers (M3) */
    _Atomic bool stop;
    _Atomic uint64_t gets;
    _Atomic uint64_t scanned;
};

/* The key of a rank: distinct for distinct ranks, because the rank ends it; hot keys have ranks from 1 << 20 on. */
static size_t make_key(uint64_t number, uint64_t rank, uint8_t *key) {
    uint64_t draw = hash_mix(rank, number);
    size_t bytes = 0;
    switch (rank % 5) {
    case 0: /* two wide levels */
        key[bytes++] = (uint8_t)draw;
        key[bytes++] = (uint8_t)(draw >> 8);
        break;
    case 1: /* a long shared path */
        memset(key, 's', 200);
        bytes = 200;
        key[bytes++] = (uint8_t)(draw % 60);
        break;
    case 2: /* nested prefixes */
        bytes = draw % 70;
        memset(key, 'n', bytes);
        break;
    case 3: /* groups */
        bytes = (size_t)snprintf((char *)key, 64, "svc.%08x.route.", (unsigned)(draw % 50) * 0x9e3779b9u);
        break;
    default:
        memcpy(key, &draw, 8);
        bytes = draw % 8;
        break;
    }
    key[bytes++] = 0xff;
    key[bytes++] = (uint8_t)(rank >> 16);
    key[bytes++] = (uint8_t)(rank >> 8);
    key[bytes++] = (uint8_t)rank;
    return bytes;
}

/* Which rank and which commit a row belongs to. */
static void make_value(uint64_t rank, uint64_t sequence, uint8_t *value) {
    store_u64(value, rank);
    store_u64(value + 8, sequence);
}

static uint64_t hot_rank(uint64_t sequence) {
    return (1u << 20) + sequence % HOT;
}

static uint64_t hot_count(uint64_t sequence) {
    return sequence < HOT ? sequence : HOT;
}

static void insert_commit(struct generation *generation, uint64_t sequence) {
    struct entry entries[NEW + 2];
    struct memtable *tables[NEW + 2];
    static uint8_t keys[NEW + 2][KEY_BYTES_MAX];
    uint8_t values[NEW + 2][16];
    for (unsigned i = 0; i < NEW + 2; i++) {
        uint64_t rank = i < NEW ? (sequence - 1) * NEW + i : hot_rank(sequence);
        make_value(i == NEW ? UINT64_MAX : rank, sequence, values[i]);
        entries[i] = (struct entry){.key = keys[i],
                                    .key_bytes = (uint32_t)make_key(generation->number, rank, keys[i]),
                                    .value = values[i],
                                    .value_bytes = 16,
                                    .sequence = sequence,
                                    .kind = ENTRY_PUT};
        tables[i] = generation->table;
    }
    memtable_insert(tables, entries, NEW + 2);
    atomic_store_explicit(&generation->published, sequence, memory_order_release);
}

static void check_row(const struct entry *entry, uint64_t sequence) {
    CHECK(entry->sequence <= sequence && entry->value_bytes == 16);
    CHECK(load_u64(entry->value + 8) == entry->sequence);
    uint64_t rank = load_u64(entry->value);
    CHECK(rank != UINT64_MAX);
    if (rank >= 1u << 20) {
        CHECK(entry->sequence + HOT > sequence && hot_rank(entry->sequence) == rank);
    } else {
        CHECK(rank / NEW + 1 == entry->sequence);
    }
}

static void check_gets(struct generation *generation, uint64_t sequence, uint64_t *draw) {
    uint8_t key[KEY_BYTES_MAX];
    for (unsigned i = 0; i < 50; i++) {
        uint64_t rank = hash_mix(++*draw, 1) % (sequence * NEW);
        bool hot = i % 8 == 0;
        if (hot) {
            rank = hot_rank(sequence - *draw % hot_count(sequence));
        }
        size_t bytes = make_key(generation->number, rank, key);
        struct entry entry;
        CHECK(arena_may_contain(generation->arena, hash_key(key, bytes)));
        CHECK(memtable_get(generation->table, key, bytes, sequence, &entry) == 0);
        CHECK(load_u64(entry.value) == rank && key_compare(entry.key, entry.key_bytes, key, bytes) == 0);
        check_row(&entry, sequence);
        key[bytes] = 'x';
        CHECK(memtable_get(generation->table, key, bytes + 1, sequence, &entry) == PLEAT_ABSENT);
        atomic_fetch_add_explicit(&generation->gets, 1, memory_order_relaxed);
    }
}

/* Both ways over everything: the rows that the sequence must show, in order, no fewer and no more. */
static void check_scans(struct generation *generation, uint64_t sequence, uint64_t draw) {
    struct source *source;
    CHECK(memtable_source_new(&mem_system, generation->table, NULL, sequence, &source, NULL) == 0);
    bool backward = draw % 2;
    uint8_t previous[KEY_BYTES_MAX];
    size_t previous_bytes = 0;
    uint64_t rows = 0;
    int rc = backward ? source->ops->last(source) : source->ops->first(source);
    for (; rc == 0; rc = backward ? source->ops->prev(source) : source->ops->next(source)) {
        const struct entry *entry = &source->entry;
        check_row(entry, sequence);
        int order = key_compare(previous, previous_bytes, entry->key, entry->key_bytes);
        CHECK(rows == 0 || (backward ? order > 0 : order < 0));
        previous_bytes = entry->key_bytes;
        memcpy(previous, entry->key, previous_bytes);
        rows++;
    }
    CHECK(rc == PLEAT_END && rows == sequence * NEW + hot_count(sequence));
    /* The source outlives the commits that follow: a seek and some steps in both directions, much later. */
    uint8_t key[KEY_BYTES_MAX];
    size_t bytes = make_key(generation->number, draw % (sequence * NEW), key);
    CHECK(source->ops->seek(source, key, bytes) == 0 && source->entry.key_bytes == bytes);
    check_row(&source->entry, sequence);
    if (source->ops->prev(source) == 0) {
        check_row(&source->entry, sequence);
        CHECK(source->ops->next(source) == 0);
        CHECK(key_compare(source->entry.key, source->entry.key_bytes, key, bytes) == 0);
    }
    source_free(source);
    atomic_fetch_add_explicit(&generation->scanned, rows, memory_order_relaxed);
}

static void *reader_run(void *context) {
    struct generation *generation = context;
    uint64_t draw = (uint64_t)(uintptr_t)&draw; /* some place of this thread */
    while (!atomic_load_explicit(&generation->stop, memory_order_relaxed)) {
        uint64_t sequence = atomic_load_explicit(&generation->published, memory_order_acquire);
        if (sequence == 0) {
            thread_yield();
            continue;
        }
        check_gets(generation, sequence, &draw);
        if (hash_mix(draw, 2) % 8 == 0) {
            check_scans(generation, sequence, hash_mix(draw, 3));
        }
    }
    return NULL;
}

int main(int argc, char **argv) {
    time_t end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 3);
    struct arena_pool *pool;
    CHECK(arena_pool_new(&mem_system, 32u << 20, 1, &pool, NULL) == 0);
    uint64_t gets = 0, scanned = 0, number = 0;
    do {
        struct generation generation = {.number = ++number};
        CHECK(arena_acquire(pool, 0, &generation.arena, NULL) == 0);
        generation.table = memtable_new(generation.arena);
        CHECK(generation.table != NULL);
        struct thread readers[READERS];
        for (int i = 0; i < READERS; i++) {
            CHECK(thread_start(&readers[i], "reader", reader_run, &generation) == 0);
        }
        for (uint64_t sequence = 1; sequence <= COMMITS; sequence++) {
            insert_commit(&generation, sequence);
            if (sequence % 16 == 0) {
                thread_yield(); /* few cores: let readers come upon many states */
            }
        }
        atomic_store_explicit(&generation.stop, true, memory_order_relaxed);
        for (int i = 0; i < READERS; i++) {
            thread_join(&readers[i]);
        }
        CHECK(number > 1 || memtable_check(generation.table));
        gets += generation.gets;
        scanned += generation.scanned;
        arena_release(pool, generation.arena);
    } while (time(NULL) < end);
    arena_pool_free(pool);
    printf("%llu generations, %llu gets, %llu rows scanned\n", (unsigned long long)number, (unsigned long long)gets,
           (unsigned long long)scanned);
    return 0;
}
