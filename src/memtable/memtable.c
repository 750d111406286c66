/*
 * memtable.c - one space's newest updates: writing records, finding the one that a reader may see.
 *
 * An insert copies the entry into a record at the growing end of the arena, sets its bits in the arena's filter and
 * links it into the tree. Its cost is cache misses on the way down, one a level; a batch therefore goes in by groups of
 * 16 whose ways are walked side by side beforehand, a level a round, so that the misses of 16 keys overlap. A commit of
 * one key has no other to overlap with: its way goes on a level at a time between the other things that a commit does.
 *
 * What an insert takes of the arena is bounded by memtable_entry_bytes_max, which the caller sums up and reserves
 * before a commit enters the log: behind that point nothing may fail (M4).
 */
#include "memtable/art.h"

#include "base/hash.h"
#include "base/limits.h"
#include "base/mutation.h"

/* Below so few keys there is too little to overlap for a second walk to pay. */
#define WARM_COUNT_MIN 4u
/* So many levels at the bottom of the tree are taken not to be in the processor's cache. */
#define COLD_LEVELS 3u

static_assert(RECORD_HEADER_BYTES + LIMIT_KEY_BYTES + RECORD_ATTRIBUTE_BYTES_MAX + LIMIT_VALUE_BYTES <
                  ARENA_BYTES_MAX / 2,
              "the largest record fits an arena");

struct memtable *memtable_new(struct arena *arena) {
    /* A line of its own, wherever the records before it ended. */
    size_t bytes = sizeof(struct memtable) + 64;
    if (arena_available(arena) < bytes) {
        return NULL;
    }
    uint8_t *room = arena_pointer(arena->base, arena_allocate_record(arena, bytes));
    room += (64 - (uintptr_t)room % 64) % 64;
    struct memtable *table = (struct memtable *)(void *)room;
    memset(table, 0, sizeof *table); /* A2 */
    table->arena = arena;
    table->base = arena->base;
    return table;
}

size_t memtable_entry_bytes_max(size_t key_bytes, size_t value_bytes) {
    return arena_round(RECORD_HEADER_BYTES + key_bytes + RECORD_ATTRIBUTE_BYTES_MAX + value_bytes) +
           NODE_GROWTH_BYTES_MAX;
}

/* Writes the entry into a record that nothing links to yet. */
static uint32_t record_new(struct arena *arena, const struct entry *entry) {
    size_t bytes = RECORD_HEADER_BYTES + entry->key_bytes + entry_attribute_bytes(entry) + entry->value_bytes;
    uint32_t reference = arena_allocate_record(arena, bytes);
    struct record *record = record_at(arena->base, reference);
    record->value_bytes = entry->value_bytes;
    record->sequence = entry->sequence;
    record->key_bytes = (uint16_t)entry->key_bytes;
    record->head = entry_head(entry);
    uint8_t *p = record->bytes;
    if (entry->key_bytes > 0) {
        memcpy(p, entry->key, entry->key_bytes);
        p += entry->key_bytes;
    }
    if ((record->head & ~ENTRY_KIND_MASK) != 0) {
        p = entry_attributes_encode(p, entry);
    }
    if (entry->value_bytes > 0) {
        memcpy(p, entry->value, entry->value_bytes);
    }
    return reference;
}

/* The inserter is the only one that writes the counters; others read them as hints, hence relaxed. */
static void counter_add(_Atomic uint64_t *counter, uint64_t n) {
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n, memory_order_relaxed);
}

/* Puts the way at the root. */
static void way_reset(struct memtable_way *way, struct memtable *table) {
    way->place = &table->root;
    way->holder = NULL;
    way->from = 0;
    way->levels = 0;
    way->asked = false;
}

/* Goes as far as the memory is likely to be in the processor's cache. */
static void way_begin(struct memtable_way *way, struct memtable *table, const struct entry *entry) {
    way->hash = hash_key(entry->key, entry->key_bytes);
    __builtin_prefetch(arena_filter_line(table->arena, way->hash), 1);
    way_reset(way, table);
    for (unsigned level = COLD_LEVELS; level < table->levels; level++) {
        (void)art_walk_ahead(table->base, way, entry->key, entry->key_bytes);
    }
}

static void group_insert_one(struct memtable_group *group, size_t i) {
    struct memtable *table = group->tables[i];
    const struct entry *entry = &group->entries[i];
    struct memtable_way *way = &group->ways[i];
    struct arena *arena = table->arena;
    ASSERT(entry->key_bytes <= LIMIT_KEY_BYTES && entry->version_bytes <= LIMIT_VERSION_BYTES);
    ASSERT(entry->kind == ENTRY_PUT || (entry->kind == ENTRY_DELETE && entry->value_bytes == 0));
    size_t used = arena_used(arena);
    for (size_t k = 0; k < group->replaced_count; k++) {
        if (UNLIKELY(group->replaced[k] == way->holder) && !MUTATION(memtable_way)) { /* M6 */
            way_reset(way, table);
            break;
        }
    }
    arena_filter_add(arena, way->hash);
    const void *replaced = art_link(arena, way, record_new(arena, entry));
    if (replaced != NULL) {
        group->replaced[group->replaced_count++] = replaced;
    }
    table->levels = way->levels;
    counter_add(&table->records, 1);
    counter_add(&table->tombstones, entry->kind == ENTRY_DELETE);
    counter_add(&table->bytes, (uint64_t)entry->key_bytes + entry->value_bytes);
    DEBUG_ASSERT(arena_used(arena) - used <= memtable_entry_bytes_max(entry->key_bytes, entry->value_bytes)); /* M4 */
}

void memtable_group_begin(struct memtable_group *group) {
    struct arena *arena = group->tables[0]->arena;
    uint8_t *room = arena->base + atomic_load_explicit(&arena->record_end, memory_order_relaxed); /* own stores */
    ASSERT(group->count > 0 && group->count <= MEMTABLE_GROUP);
    __builtin_prefetch(room, 1);
    __builtin_prefetch(room + 64, 1);
    __builtin_prefetch(room + 128, 1);
    for (size_t i = 0; i < group->count; i++) {
        ASSERT(group->tables[i]->arena == arena);
        way_begin(&group->ways[i], group->tables[i], &group->entries[i]);
    }
    group->moving = true;
    group->replaced_count = 0;
}

void memtable_group_step(struct memtable_group *group) {
    uint8_t *base = group->tables[0]->base;
    bool moving = false;
    for (size_t i = 0; group->moving && i < group->count; i++) {
        const struct entry *entry = &group->entries[i];
        moving = art_walk_ahead(base, &group->ways[i], entry->key, entry->key_bytes) || moving;
    }
    group->moving = moving;
}

void memtable_group_insert(struct memtable_group *group) {
    while (group->count >= WARM_COUNT_MIN && group->moving) {
        memtable_group_step(group);
    }
    for (size_t i = 0; i < group->count; i++) {
        group_insert_one(group, i);
    }
}

void memtable_insert(struct memtable *const *tables, const struct entry *entries, size_t count) {
    struct memtable_group group;
    for (size_t start = 0; start < count; start += group.count) {
        group.count = count - start < MEMTABLE_GROUP ? count - start : MEMTABLE_GROUP;
        memcpy(group.tables, tables + start, group.count * sizeof *tables);
        memcpy(group.entries, entries + start, group.count * sizeof *entries);
        memtable_group_begin(&group);
        memtable_group_insert(&group);
    }
}

int memtable_get(const struct memtable *table, const uint8_t *key, size_t key_bytes, uint64_t sequence,
                 struct entry *ret_entry) {
    struct record *record = art_find(table->base, &memtable_mutable(table)->root, key, key_bytes);
    if (record != NULL) {
        record = record_visible(table->base, record, sequence);
    }
    if (record == NULL) {
        return PLEAT_ABSENT;
    }
    record_read(record, ret_entry);
    return 0;
}

int memtable_middle(const struct memtable *table, struct pleat_slice *ret_key) {
    uint32_t root = atomic_load_explicit(&memtable_mutable(table)->root, memory_order_acquire); /* as in art_find */
    const struct record *record = art_middle(table->base, root);
    if (record == NULL) {
        return PLEAT_ABSENT;
    }
    *ret_key = (struct pleat_slice){record->bytes, record->key_bytes};
    return 0;
}

void memtable_stats_read(const struct memtable *table, struct memtable_stats *ret_stats) {
    ret_stats->records = atomic_load_explicit(&table->records, memory_order_relaxed);
    ret_stats->tombstones = atomic_load_explicit(&table->tombstones, memory_order_relaxed);
    ret_stats->bytes = atomic_load_explicit(&table->bytes, memory_order_relaxed);
}
