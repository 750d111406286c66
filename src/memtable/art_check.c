/*
 * art_check.c - the invariants of the tree as one function that asserts them all.
 *
 * The keys are visited in order by going down from the root to each one's successor, without a stack: a tree of nested
 * prefixes may be as deep as its longest key. Every node on the way is checked against the record that it leads to.
 */
#include "memtable/art.h"

#include "base/hash.h"

/* The least child byte > `byte` (-1: of all), or 256. */
static int node_byte_above(struct node *node, int byte) {
    for (byte++; byte < 256; byte++) {
        if (node_find(node, (uint8_t)byte) != NULL) {
            return byte;
        }
    }
    return 256;
}

/* N2, N3: as many distinct children as the node says, and none of them empty. */
static void node_check(struct node *node) {
    static const uint16_t room[] = {8, 16, 48, 256};
    ASSERT(node->type <= NODE_256);
    unsigned count = node_count(node);
    unsigned found = 0;
    for (int byte = node_byte_above(node, -1); byte < 256; byte = node_byte_above(node, byte)) {
        ASSERT(slot_load(node_find(node, (uint8_t)byte)) != 0);
        found++;
    }
    ASSERT(found == count || node->type == NODE_256);
    ASSERT(found <= room[node->type]);
    ASSERT(found + (slot_load(&node->term) != 0) >= 2); /* N3 */
}

/* The path from `from` to the branch, in the tail and in the sample, is the record's. */
static void node_check_path(uint8_t *base, struct node *node, const struct record *record, size_t from) {
    size_t depth = node->depth;
    ASSERT(depth >= from && record->key_bytes >= depth);
    const struct record *sample = record_at(base, node->sample);
    ASSERT(sample->key_bytes >= depth && memcmp(sample->bytes, record->bytes, depth) == 0);
    size_t tail_bytes = depth < TAIL_BYTES ? depth : TAIL_BYTES;
    ASSERT(memcmp(node->tail + TAIL_BYTES - tail_bytes, record->bytes + depth - tail_bytes, tail_bytes) == 0);
}

/* The slot of the first record below `slot`. */
static uint32_t subtree_first(uint8_t *base, uint32_t slot) {
    while (slot != 0 && !slot_is_record(slot)) {
        struct node *node = slot_node(base, slot);
        uint32_t term = slot_load(&node->term);
        ASSERT(term == 0 || slot_is_record(term));
        slot = term != 0 ? term : slot_load(node_find(node, (uint8_t)node_byte_above(node, -1)));
    }
    return slot;
}

/* The slot of the record that follows `record` (which is in the tree), or 0. */
static uint32_t record_successor(uint8_t *base, uint32_t root, const struct record *record) {
    uint32_t candidate = 0; /* the nearest subtree to the right of the way down */
    uint32_t slot = root;
    while (!slot_is_record(slot)) {
        struct node *node = slot_node(base, slot);
        bool ends = record->key_bytes == node->depth;
        int byte = ends ? -1 : record->bytes[node->depth];
        int above = node_byte_above(node, byte);
        if (above < 256) {
            candidate = slot_load(node_find(node, (uint8_t)above));
        }
        slot = ends ? slot_load(&node->term) : slot_load(node_find(node, (uint8_t)byte));
    }
    return subtree_first(base, candidate);
}

/* Every node on the way to the record. */
static void record_check_way(uint8_t *base, uint32_t root, const struct record *record) {
    size_t from = 0;
    uint32_t slot = root;
    while (!slot_is_record(slot)) {
        struct node *node = slot_node(base, slot);
        node_check(node);
        node_check_path(base, node, record, from);
        bool ends = record->key_bytes == node->depth;
        from = (size_t)node->depth + 1;
        _Atomic uint32_t *child = ends ? &node->term : node_find(node, record->bytes[node->depth]);
        ASSERT(child != NULL);
        slot = slot_load(child);
        ASSERT(slot != 0 && (!ends || slot_is_record(slot)));
    }
    ASSERT(slot_record(base, slot) == record);
}

/* R2; answers the length of the chain. */
static uint64_t record_check_chain(uint8_t *base, const struct record *record) {
    uint64_t length = 1;
    for (; record->next != 0; length++) {
        const struct record *older = record_at(base, record->next);
        ASSERT(older->sequence < record->sequence);
        ASSERT(key_compare(older->bytes, older->key_bytes, record->bytes, record->key_bytes) == 0);
        record = older;
    }
    return length;
}

bool memtable_check(const struct memtable *table) {
    struct arena *arena = table->arena;
    uint8_t *base = table->base;
    ASSERT(base == arena->base);
    size_t record_end = atomic_load_explicit(&arena->record_end, memory_order_relaxed);
    ASSERT(record_end <= atomic_load_explicit(&arena->node_start, memory_order_relaxed)); /* A1 */
    uint32_t root = slot_load(&memtable_mutable(table)->root);
    const struct record *previous = NULL;
    uint64_t records = 0;
    for (uint32_t slot = subtree_first(base, root); slot != 0; slot = record_successor(base, root, previous)) {
        const struct record *record = slot_record(base, slot);
        ASSERT(previous == NULL ||
               key_compare(previous->bytes, previous->key_bytes, record->bytes, record->key_bytes) < 0);
        record_check_way(base, root, record);
        records += record_check_chain(base, record);
        ASSERT(arena_may_contain(arena, hash_key(record->bytes, record->key_bytes)));
        previous = record;
    }
    struct memtable_stats stats;
    memtable_stats_read(table, &stats);
    ASSERT(records <= stats.records); /* replaced ones are counted, but gone (M5) */
    ASSERT(stats.tombstones <= stats.records);
    return true;
}
