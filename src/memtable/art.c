/*
 * art.c - linking records into the adaptive radix tree, and finding them.
 *
 * One thread links, any number reads at the same time. Whatever a reader can reach is complete when it becomes
 * reachable, and every link is one release store that an acquire load of the reader pairs with:
 *
 *     new key, room in the node     child stored, then the count (or the index byte) that uncovers it
 *     new key, node full            a copy of the next type holding the new child, then the slot that led to the node
 *     new key leaves a path         a NODE_8 above the node, holding it and the record, then the slot
 *     key ends at a branch          term
 *     known key                     the record's next is the chain so far, then the slot that held the chain
 *
 * Readers therefore need neither locks nor retries (M1): the worst that they meet is a node that has since been
 * replaced, which is complete for every sequence published before they came to it (N4, M3).
 *
 * Stores to what is not yet reachable are relaxed: the release of the link orders them.
 */
#include "memtable/art.h"

static struct node *node_new(struct arena *arena, enum node_type type, uint32_t *ret_reference) {
    static const uint16_t bytes[] = {sizeof(struct node8), sizeof(struct node16), sizeof(struct node48),
                                     sizeof(struct node256)};
    size_t lines = (bytes[type] + NODE_LINE_BYTES - 1) / NODE_LINE_BYTES;
    *ret_reference = arena_allocate_node(arena, lines * NODE_LINE_BYTES);
    struct node *node = slot_node(arena->base, *ret_reference);
    memset(node, 0, bytes[type]); /* A2 */
    node->type = (uint8_t)type;
    return node;
}

/* Release; pairs with the acquire in slot_load. */
static void slot_store(_Atomic uint32_t *slot, uint32_t value) {
    atomic_store_explicit(slot, value, memory_order_release);
}

/* Adds a child to a node that has room for it. The last store uncovers it (N2). */
static void node_append(struct node *node, uint8_t byte, uint32_t child) {
    unsigned count = atomic_load_explicit(&node->count, memory_order_relaxed);
    switch ((enum node_type)node->type) {
    case NODE_8: {
        struct node8 *node8 = (struct node8 *)node;
        uint64_t keys = atomic_load_explicit(&node8->keys, memory_order_relaxed) | (uint64_t)byte << (8 * count);
        atomic_store_explicit(&node8->child[count], child, memory_order_relaxed);
        atomic_store_explicit(&node8->keys, keys, memory_order_relaxed);
        break;
    }
    case NODE_16: {
        struct node16 *node16 = (struct node16 *)node;
        _Atomic uint64_t *word = &node16->keys[count / 8];
        uint64_t keys = atomic_load_explicit(word, memory_order_relaxed) | (uint64_t)byte << (8 * (count % 8));
        atomic_store_explicit(&node16->child[count], child, memory_order_relaxed);
        atomic_store_explicit(word, keys, memory_order_relaxed);
        break;
    }
    case NODE_48: {
        struct node48 *node48 = (struct node48 *)node;
        _Atomic uint64_t *word = &node48->index[byte / 8];
        uint64_t index = atomic_load_explicit(word, memory_order_relaxed) | (uint64_t)(count + 1) << (8 * (byte % 8));
        atomic_store_explicit(&node48->child[count], child, memory_order_relaxed);
        /* Release; pairs with the acquire loads of index words. */
        atomic_store_explicit(word, index, memory_order_release);
        break;
    }
    case NODE_256:
        slot_store(&((struct node256 *)node)->child[byte], child);
        return;
    }
    /* Release; pairs with the acquire in node_count. */
    atomic_store_explicit(&node->count, (uint8_t)(count + 1), memory_order_release);
}

static bool node_is_full(struct node *node) {
    static const uint16_t room[] = {8, 16, 48, UINT16_MAX};
    return atomic_load_explicit(&node->count, memory_order_relaxed) == room[node->type];
}

/* An unlinked copy of the next type, of a full NODE_8, NODE_16 or NODE_48. */
static struct node *node_grow(struct arena *arena, struct node *node, uint32_t *ret_reference) {
    struct node *grown = node_new(arena, (enum node_type)(node->type + 1), ret_reference);
    grown->depth = node->depth;
    grown->sample = node->sample;
    memcpy(grown->tail, node->tail, TAIL_BYTES);
    atomic_store_explicit(&grown->term, atomic_load_explicit(&node->term, memory_order_relaxed), memory_order_relaxed);
    _Atomic uint32_t *children = node_children(node);
    if (node->type == NODE_48) {
        for (unsigned byte = 0; byte < 256; byte++) {
            unsigned index = node48_index((struct node48 *)node, (uint8_t)byte);
            if (index != 0) {
                node_append(grown, (uint8_t)byte, atomic_load_explicit(&children[index - 1], memory_order_relaxed));
            }
        }
        return grown;
    }
    unsigned count = atomic_load_explicit(&node->count, memory_order_relaxed);
    for (unsigned i = 0; i < count; i++) {
        node_append(grown, node_key(node, i), atomic_load_explicit(&children[i], memory_order_relaxed));
    }
    return grown;
}

/* Adds the child to the node that `slot` leads to, or to a larger copy that takes its place. Returns the node if so. */
static const void *node_add(struct arena *arena, _Atomic uint32_t *slot, struct node *node, uint8_t byte,
                            uint32_t child) {
    if (LIKELY(!node_is_full(node))) {
        node_append(node, byte, child);
        return NULL;
    }
    uint32_t reference;
    struct node *grown = node_grow(arena, node, &reference);
    node_append(grown, byte, child);
    slot_store(slot, reference);
    return node;
}

/* Hangs `child` (a subtree, or a record whose key may end at `depth`) under an unlinked node. */
static void node_hang(struct node *node, const uint8_t *key, size_t key_bytes, uint32_t child) {
    if (key_bytes == node->depth) {
        atomic_store_explicit(&node->term, child, memory_order_relaxed);
    } else {
        node_append(node, key[node->depth], child);
    }
}

/* A NODE_8 where the new record parts at `depth` from `other`, which begins with (or is) what other_key tells. */
static void node_fork(struct arena *arena, _Atomic uint32_t *slot, size_t depth, uint32_t other,
                      const uint8_t *other_key, size_t other_key_bytes, uint32_t reference) {
    const struct record *record = record_at(arena->base, reference);
    uint32_t fork_reference;
    struct node *fork = node_new(arena, NODE_8, &fork_reference);
    size_t tail_bytes = depth < TAIL_BYTES ? depth : TAIL_BYTES;
    fork->depth = (uint16_t)depth;
    fork->sample = reference;
    memcpy(fork->tail + TAIL_BYTES - tail_bytes, record->bytes + depth - tail_bytes, tail_bytes);
    node_hang(fork, other_key, other_key_bytes, other);
    node_hang(fork, record->bytes, record->key_bytes, reference | SLOT_RECORD);
    slot_store(slot, fork_reference);
}

/* Puts the record at the head of the chain of its key, in place of a head of its own commit (M5, R1). */
static void chain_push(_Atomic uint32_t *slot, uint32_t head_slot, struct record *head, struct record *record,
                       uint32_t reference) {
    ASSERT(record->sequence >= head->sequence); /* R2 */
    record->next = record->sequence == head->sequence ? head->next : head_slot & ~SLOT_RECORD;
    slot_store(slot, reference | SLOT_RECORD);
}

const void *art_link(struct arena *arena, struct memtable_way *way, uint32_t reference) {
    uint8_t *base = arena->base;
    struct record *record = record_at(base, reference);
    const uint8_t *key = record->bytes;
    size_t key_bytes = record->key_bytes;
    _Atomic uint32_t *slot = way->place;
    size_t from = way->from;
    record->next = 0;
    for (;;) {
        uint32_t current = atomic_load_explicit(slot, memory_order_relaxed); /* only this thread stores to slots */
        if (current == 0) {
            slot_store(slot, reference | SLOT_RECORD);
            return NULL;
        }
        if (slot_is_record(current)) {
            struct record *other = slot_record(base, current);
            size_t common = from + key_common(other->bytes + from, other->key_bytes - from, key + from,
                                              key_bytes - from);
            if (common == key_bytes && common == other->key_bytes) {
                chain_push(slot, current, other, record, reference);
            } else {
                node_fork(arena, slot, common, current, other->bytes, other->key_bytes, reference);
            }
            return NULL;
        }
        struct node *node = slot_node(base, current);
        size_t depth = node->depth;
        size_t common = node_match(base, node, key, key_bytes, from);
        way->levels++;
        if (common < depth) {
            /* The key of the sample goes on beyond `common`: all that node_fork looks at. */
            node_fork(arena, slot, common, current, record_at(base, node->sample)->bytes, depth, reference);
            return NULL;
        }
        if (key_bytes == depth) {
            slot = &node->term;
            from = depth;
            continue;
        }
        _Atomic uint32_t *child = node_find(node, key[depth]);
        if (child == NULL) {
            return node_add(arena, slot, node, key[depth], reference | SLOT_RECORD);
        }
        slot = child;
        from = depth + 1;
    }
}

struct record *art_find(uint8_t *base, _Atomic uint32_t *root, const uint8_t *key, size_t key_bytes) {
    uint32_t current = slot_load(root);
    while (current != 0) {
        if (slot_is_record(current)) {
            struct record *record = slot_record(base, current);
            if (record->key_bytes != key_bytes || (key_bytes > 0 && memcmp(record->bytes, key, key_bytes) != 0)) {
                return NULL;
            }
            return record;
        }
        /* Paths are skipped, not compared: the record at the end tells. */
        struct node *node = slot_node(base, current);
        size_t depth = node->depth;
        if (key_bytes <= depth) {
            current = key_bytes == depth ? slot_load(&node->term) : 0;
            continue;
        }
        _Atomic uint32_t *child = node_find(node, key[depth]);
        current = child != NULL ? slot_load(child) : 0;
    }
    return NULL;
}
