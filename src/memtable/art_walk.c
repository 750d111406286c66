/*
 * art_walk.c - walking the tree's records in key order, either way.
 *
 * The way from the top of the walk to the next record is a stack of frames, one a node. A frame knows the next place in
 * its node that is to be visited, for the direction that the walk was begun in; turning round means seeking again,
 * which costs one descent and spares every frame the bookkeeping of both ways.
 *
 *     places of a NODE_8, NODE_16:     0 the term, then 1 + rank of the child's byte    (order: rank -> child)
 *     places of a NODE_48, NODE_256:   0 the term, then 1 + the child's byte
 *
 * Children of small nodes lie in order of arrival. Entering one ranks them: a child's rank is the number of key bytes
 * below its own, counted for all children at once in the lanes of a vector, with no branches to mispredict.
 *
 *   W1  Frames are pushed only for nodes in the subtree `top`, whose keys all have the walker's prefix: the walk ends
 *       at the prefix's end without looking at what follows.
 *   W2  A frame's order and count are those of the moment it was pushed. Children that arrive later belong to sequences
 *       that this reader does not see.
 */
#include "memtable/art.h"

#define PLACE_NONE (-1)

static bool node_is_small(const struct node *node) {
    return node->type == NODE_8 || node->type == NODE_16;
}

typedef uint8_t byte_lanes __attribute__((vector_size(16)));

/* The key bytes of a small node, one a lane. Relaxed: ordered by the count that was loaded before. */
static byte_lanes small_keys(struct node *node) {
    uint64_t words[2] = {0};
    if (node->type == NODE_8) {
        words[0] = atomic_load_explicit(&((struct node8 *)node)->keys, memory_order_relaxed);
    } else {
        words[0] = atomic_load_explicit(&((struct node16 *)node)->keys[0], memory_order_relaxed);
        words[1] = atomic_load_explicit(&((struct node16 *)node)->keys[1], memory_order_relaxed);
    }
    words[0] = LE64(words[0]);
    words[1] = LE64(words[1]);
    byte_lanes keys;
    memcpy(&keys, words, sizeof keys);
    return keys;
}

/* Ranks the children of a small node: frame->order and count. With `byte` >= 0 also answers how many children have a
 * lower byte and whether one has just this. */
static void frame_rank(struct art_frame *frame, int byte, unsigned *ret_below, bool *ret_exact) {
    unsigned count = node_count(frame->node);
    byte_lanes keys = small_keys(frame->node);
    byte_lanes ranks = {0};
    for (unsigned i = 0; i < count; i++) {
        byte_lanes other = keys[i] - (byte_lanes){0}; /* spread over all lanes */
        ranks -= (byte_lanes)(keys > other);          /* a lane where it holds is all ones: minus one */
    }
    uint64_t order = 0;
    for (uint64_t i = 0; i < count; i++) {
        order |= i << (4 * ranks[i]);
    }
    frame->order = order;
    frame->count = (uint16_t)count;
    if (byte >= 0) {
        *ret_below = 0;
        *ret_exact = false;
        for (unsigned i = 0; i < count; i++) {
            *ret_below += keys[i] < byte;
            *ret_exact |= keys[i] == byte;
        }
    }
}

/* The place of the least child byte >= `byte` of a large node. */
static int large_place_from(struct node *node, unsigned byte) {
    if (node->type == NODE_256) {
        for (struct node256 *node256 = (struct node256 *)node; byte < 256; byte++) {
            if (slot_load(&node256->child[byte]) != 0) {
                return (int)byte + 1;
            }
        }
        return PLACE_NONE;
    }
    struct node48 *node48 = (struct node48 *)node;
    uint64_t mask = byte < 256 ? ~(uint64_t)0 << (8 * (byte % 8)) : 0;
    for (unsigned i = byte / 8; i < 32; i++, mask = ~(uint64_t)0) {
        /* Acquire; pairs with the release in node_append (N2). */
        uint64_t word = atomic_load_explicit(&node48->index[i], memory_order_acquire) & mask;
        if (word != 0) {
            return (int)(i * 8 + (unsigned)__builtin_ctzll(word) / 8) + 1;
        }
    }
    return PLACE_NONE;
}

/* The place of the greatest child byte < `byte` of a large node, else of the term, else none. */
static int large_place_before(struct node *node, unsigned byte) {
    if (node->type == NODE_256) {
        for (struct node256 *node256 = (struct node256 *)node; byte > 0; byte--) {
            if (slot_load(&node256->child[byte - 1]) != 0) {
                return (int)byte;
            }
        }
    } else if (byte > 0) {
        struct node48 *node48 = (struct node48 *)node;
        uint64_t mask = ~(uint64_t)0 >> (56 - 8 * ((byte - 1) % 8));
        for (unsigned i = (byte - 1) / 8 + 1; i > 0; i--, mask = ~(uint64_t)0) {
            /* Acquire; pairs with the release in node_append (N2). */
            uint64_t word = atomic_load_explicit(&node48->index[i - 1], memory_order_acquire) & mask;
            if (word != 0) {
                return (int)((i - 1) * 8 + (63 - (unsigned)__builtin_clzll(word)) / 8) + 1;
            }
        }
    }
    return slot_load(&node->term) != 0 ? 0 : PLACE_NONE;
}

/* The place that follows `place` in the direction of the walk. */
static int frame_after(const struct art_frame *frame, int place, bool backward) {
    if (node_is_small(frame->node)) {
        if (!backward) {
            return place < (int)frame->count ? place + 1 : PLACE_NONE;
        }
        return place > 1 || (place == 1 && slot_load(&frame->node->term) != 0) ? place - 1 : PLACE_NONE;
    }
    if (!backward) {
        return large_place_from(frame->node, (unsigned)place);
    }
    return place > 0 ? large_place_before(frame->node, (unsigned)place - 1) : PLACE_NONE;
}

static uint32_t frame_slot(const struct art_frame *frame, int place) {
    struct node *node = frame->node;
    if (place == 0) {
        return slot_load(&node->term);
    }
    unsigned byte = (unsigned)place - 1;
    switch ((enum node_type)node->type) {
    case NODE_8:
    case NODE_16:
        return slot_load(&node_children(node)[(frame->order >> (4 * byte)) & 15]);
    case NODE_48:
        return slot_load(&((struct node48 *)node)->child[node48_index((struct node48 *)node, (uint8_t)byte) - 1]);
    case NODE_256:
        break;
    }
    return slot_load(&((struct node256 *)node)->child[byte]);
}

static struct art_frame *walker_push(struct art_walker *walker, struct node *node) {
    if (UNLIKELY(walker->frame_count == walker->frame_capacity)) {
        size_t capacity = walker->frame_capacity * 2;
        bool was_inline = walker->frames == walker->inline_frames;
        struct art_frame *frames =
            mem_resize(walker->mem, was_inline ? NULL : walker->frames, capacity * sizeof *frames);
        if (frames == NULL) {
            return NULL;
        }
        if (was_inline) {
            memcpy(frames, walker->inline_frames, sizeof walker->inline_frames);
        }
        walker->frames = frames;
        walker->frame_capacity = capacity;
    }
    struct art_frame *frame = &walker->frames[walker->frame_count++];
    frame->node = node;
    return frame;
}

/* Pushes a node of which everything is to be visited. */
static int walker_enter(struct art_walker *walker, struct node *node) {
    struct art_frame *frame = walker_push(walker, node);
    if (frame == NULL) {
        return PLEAT_ERR_NO_MEMORY;
    }
    if (node_is_small(node)) {
        frame_rank(frame, -1, NULL, NULL);
        /* The rest of the subtree is about to be walked: let the misses of its nodes overlap. */
        for (unsigned i = 0; i < frame->count; i++) {
            uint32_t slot = slot_load(&node_children(node)[i]);
            if (!slot_is_record(slot)) {
                node_prefetch(walker->base, slot);
            }
        }
        frame->ahead = (int16_t)(walker->backward ? frame->count : slot_load(&node->term) != 0 ? 0 : 1);
    } else if (walker->backward) {
        frame->ahead = (int16_t)large_place_before(node, 256);
    } else {
        frame->ahead = (int16_t)(slot_load(&node->term) != 0 ? 0 : large_place_from(node, 0));
    }
    return 0;
}

/* Pushes a node so that the walk goes on beside the child for `byte`; answers that child's slot, or 0. */
static int walker_enter_beside(struct art_walker *walker, struct node *node, uint8_t byte, uint32_t *ret_child) {
    struct art_frame *frame = walker_push(walker, node);
    if (frame == NULL) {
        return PLEAT_ERR_NO_MEMORY;
    }
    if (!node_is_small(node)) {
        _Atomic uint32_t *child = node_find(node, byte);
        *ret_child = child != NULL ? slot_load(child) : 0;
        frame->ahead = (int16_t)(walker->backward ? large_place_before(node, byte) : large_place_from(node, byte + 1u));
        return 0;
    }
    unsigned below;
    bool exact;
    frame_rank(frame, byte, &below, &exact);
    *ret_child = exact ? frame_slot(frame, (int)below + 1) : 0;
    if (walker->backward) {
        frame->ahead = (int16_t)frame_after(frame, (int)below + 1, true);
    } else {
        frame->ahead = (int16_t)frame_after(frame, (int)below + exact, false);
    }
    return 0;
}

int art_walker_step(struct art_walker *walker, uint32_t *ret_slot) {
    while (walker->frame_count > 0) {
        struct art_frame *frame = &walker->frames[walker->frame_count - 1];
        int place = frame->ahead;
        if (place == PLACE_NONE) {
            walker->frame_count--;
            continue;
        }
        frame->ahead = (int16_t)frame_after(frame, place, walker->backward);
        uint32_t slot = frame_slot(frame, place);
        if (!node_is_small(frame->node) && frame->ahead != PLACE_NONE) {
            node_prefetch(walker->base, frame_slot(frame, frame->ahead));
        }
        if (slot_is_record(slot)) {
            *ret_slot = slot;
            return 0;
        }
        int rc = walker_enter(walker, slot_node(walker->base, slot));
        if (rc < 0) {
            return rc;
        }
    }
    *ret_slot = 0;
    return 0;
}

/* The first or last record of a subtree that is wanted whole, or what follows it. */
static int walker_take(struct art_walker *walker, uint32_t slot, uint32_t *ret_slot) {
    if (slot_is_record(slot)) {
        *ret_slot = slot;
        return 0;
    }
    int rc = slot != 0 ? walker_enter(walker, slot_node(walker->base, slot)) : 0;
    return rc < 0 ? rc : art_walker_step(walker, ret_slot);
}

void art_walker_init(struct art_walker *walker, const struct mem *mem, struct memtable *table, const uint8_t *prefix,
                     size_t prefix_bytes) {
    walker->mem = mem;
    walker->base = table->base;
    walker->frames = walker->inline_frames;
    walker->frame_count = 0;
    walker->frame_capacity = ART_FRAMES_INLINE;
    walker->backward = false;
    walker->prefix = prefix;
    walker->prefix_bytes = prefix_bytes;
    walker->top = slot_load(&table->root);
    walker->top_from = 0;
    walker->arrived = walker->top == 0;
    node_prefetch(walker->base, walker->top);
}

bool art_walker_approach(struct art_walker *walker) {
    uint32_t slot = walker->top;
    if (walker->arrived) {
        return false;
    }
    if (slot_is_record(slot)) {
        const struct record *record = slot_record(walker->base, slot);
        bool has_prefix = key_has_prefix(record->bytes, record->key_bytes, walker->prefix, walker->prefix_bytes);
        walker->top = has_prefix ? slot : 0;
        walker->arrived = true;
        return false;
    }
    struct node *node = slot_node(walker->base, slot);
    size_t common = node_match(walker->base, node, walker->prefix, walker->prefix_bytes, walker->top_from);
    if (common == walker->prefix_bytes) { /* everything below has it */
        walker->arrived = true;
        return false;
    }
    _Atomic uint32_t *child = common == node->depth ? node_find(node, walker->prefix[common]) : NULL;
    walker->top = child != NULL ? slot_load(child) : 0;
    walker->top_from = common + 1;
    walker->arrived = walker->top == 0;
    node_prefetch(walker->base, walker->top);
    return !walker->arrived;
}

static void walker_arrive(struct art_walker *walker) {
    while (art_walker_approach(walker)) {
    }
}

int art_walker_begin(struct art_walker *walker, bool backward, uint32_t *ret_slot) {
    walker_arrive(walker);
    walker->backward = backward;
    walker->frame_count = 0;
    return walker_take(walker, walker->top, ret_slot);
}

/* How the key lies to the path that leads down to a node's branch: < 0 before all of the subtree, > 0 after it, 0 when
 * it is on the path and goes on beyond the branch position (or ends at it: *ret_ends). */
static int path_compare(uint8_t *base, struct node *node, const uint8_t *key, size_t key_bytes, size_t from,
                        bool *ret_ends) {
    size_t common = node_match(base, node, key, key_bytes, from);
    *ret_ends = common == key_bytes;
    if (common == node->depth) {
        return 0;
    }
    return *ret_ends ? -1 : (int)key[common] - (int)node_path(base, node, from)[common - from];
}

int art_walker_seek(struct art_walker *walker, const uint8_t *key, size_t key_bytes, bool backward,
                    uint32_t *ret_slot) {
    walker_arrive(walker);
    walker->backward = backward;
    walker->frame_count = 0;
    uint32_t slot = walker->top;
    size_t from = walker->top_from;
    while (slot != 0) {
        if (slot_is_record(slot)) {
            const struct record *record = slot_record(walker->base, slot);
            bool before = key_compare(record->bytes, record->key_bytes, key, key_bytes) < 0;
            slot = before == backward ? slot : 0;
            break;
        }
        struct node *node = slot_node(walker->base, slot);
        bool ends;
        int order = path_compare(walker->base, node, key, key_bytes, from, &ends);
        if (order != 0 || ends) {
            /* All of the subtree lies on one side of the key; a key that ends at the branch is not above its term. */
            bool after_key = order <= 0;
            slot = after_key != backward ? slot : 0;
            break;
        }
        int rc = walker_enter_beside(walker, node, key[node->depth], &slot);
        if (rc < 0) {
            return rc;
        }
        from = (size_t)node->depth + 1;
    }
    return walker_take(walker, slot, ret_slot);
}

void art_walker_fini(struct art_walker *walker) {
    if (walker->frames != walker->inline_frames) {
        mem_free(walker->mem, walker->frames);
    }
}

/* ---- the middle ------------------------------------------------------------------------------------------------- */

/* Subtrees side by side that are enough to find the middle among, and that are looked at. */
#define MIDDLE_WANTED 64u
#define MIDDLE_MAX 1024u

static int frame_first(struct art_frame *frame, struct node *node) {
    frame->node = node;
    if (node_is_small(node)) {
        frame_rank(frame, -1, NULL, NULL);
        return slot_load(&node->term) != 0 ? 0 : 1;
    }
    return slot_load(&node->term) != 0 ? 0 : large_place_from(node, 0);
}

/* Puts what is below `slot` in its place, in order: what is behind its term and its children, or it itself when it is a
 * record. Returns how many there are then in `to`, above MIDDLE_MAX when there is no room. */
static size_t middle_unfold(uint8_t *base, uint32_t slot, uint32_t *to, size_t count) {
    if (slot_is_record(slot)) {
        if (count < MIDDLE_MAX) {
            to[count] = slot;
        }
        return count + 1;
    }
    struct art_frame frame;
    for (int place = frame_first(&frame, slot_node(base, slot)); place != PLACE_NONE && count <= MIDDLE_MAX;
         place = frame_after(&frame, place, false)) {
        if (count < MIDDLE_MAX) {
            to[count] = frame_slot(&frame, place);
        }
        count++;
    }
    return count;
}

const struct record *art_middle(uint8_t *base, uint32_t root) {
    uint32_t rows[2][MIDDLE_MAX] = {{root}};
    size_t count = root != 0 ? 1 : 0;
    unsigned row = 0;
    while (count > 0 && count < MIDDLE_WANTED) {
        size_t below = 0;
        bool is_unfolded = false;
        for (size_t i = 0; i < count && below <= MIDDLE_MAX; i++) {
            is_unfolded = is_unfolded || !slot_is_record(rows[row][i]);
            below = middle_unfold(base, rows[row][i], rows[1 - row], below);
        }
        if (!is_unfolded || below > MIDDLE_MAX) {
            break;
        }
        row = 1 - row;
        count = below;
    }
    if (count < 2) {
        return NULL;
    }
    uint32_t slot = rows[row][count / 2];
    while (!slot_is_record(slot)) {
        struct art_frame frame;
        int place = frame_first(&frame, slot_node(base, slot));
        slot = frame_slot(&frame, place);
    }
    return slot_record(base, slot);
}
