/* loser_tree.c - see loser_tree.h for the codes and the invariants O1..O3. */
#include "compaction/loser_tree.h"

#include "base/assert.h"
#include "base/bytes.h"
#include "base/error.h"
#include "base/limits.h"

#define COLUMN_SHIFT 43
#define COLUMN_LAST 16383u
#define COLUMN_VALUE_MASK (((uint64_t)1 << COLUMN_SHIFT) - 1)

static_assert(LIMIT_KEY_BYTES / LOSER_TREE_COLUMN_BYTES < COLUMN_LAST, "a column's number fits, and code 0 stays free");

void loser_tree_init(struct loser_tree *tree, const struct mem *mem, struct loser_leg *legs, struct loser_node *nodes,
                     uint32_t count) {
    ASSERT(count >= 1);
    tree->mem = mem;
    tree->legs = legs;
    tree->nodes = nodes;
    tree->count = count;
    tree->backward = false;
    tree->has_base = false;
    tree->base_bytes = 0;
    tree->base_capacity = LOSER_TREE_BASE_BYTES;
    tree->base = tree->base_inline;
    tree->deep = 0;
}

void loser_tree_fini(struct loser_tree *tree) {
    if (tree->base != tree->base_inline) {
        mem_free(tree->mem, tree->base);
    }
}

void loser_tree_reset(struct loser_tree *tree, bool backward) {
    tree->backward = backward;
    tree->has_base = false;
    tree->base_bytes = 0;
}

void loser_tree_turn(struct loser_tree *tree, bool backward) {
    tree->backward = backward;
}

/* Five bytes of the key from the column on, zero-padded, and how many of them there are. Reads nothing beyond the key:
 * near its end it takes the key's last eight bytes and shifts. */
static inline uint64_t column_value(const uint8_t *key, size_t key_bytes, size_t column) {
    size_t offset = column * LOSER_TREE_COLUMN_BYTES;
    size_t left = key_bytes - offset;
    uint64_t head;
    if (left >= 8) {
        memcpy(&head, key + offset, 8);
        return (BE64(head) >> 24) << 3 | LOSER_TREE_COLUMN_BYTES;
    }
    if (left == 0) {
        return 0;
    }
    if (key_bytes >= 8) {
        memcpy(&head, key + key_bytes - 8, 8);
        head = BE64(head) << (8 * (8 - left));
    } else {
        head = key_head(key, key_bytes, offset);
    }
    return (head >> 24) << 3 | (left < LOSER_TREE_COLUMN_BYTES ? left : LOSER_TREE_COLUMN_BYTES);
}

static inline uint64_t code_make(const struct loser_tree *tree, size_t column, uint64_t value) {
    uint64_t flip = tree->backward ? COLUMN_VALUE_MASK : 0;
    return (uint64_t)(COLUMN_LAST - column) << COLUMN_SHIFT | (value ^ flip);
}

static inline size_t code_column(uint64_t code) {
    return COLUMN_LAST - (size_t)(code >> COLUMN_SHIFT);
}

void loser_tree_set(struct loser_tree *tree, uint32_t index, const struct entry *entry) {
    struct loser_leg *leg = &tree->legs[index];
    if (entry == NULL) {
        leg->key = NULL;
        leg->key_bytes = 0;
        leg->code = LOSER_TREE_END;
        return;
    }
    leg->key = entry->key;
    leg->key_bytes = entry->key_bytes;
    size_t common = 0;
    if (tree->has_base) {
        common = key_common(tree->base, tree->base_bytes, entry->key, entry->key_bytes);
        if (common == tree->base_bytes && common == entry->key_bytes) {
            leg->code = 0;
            return;
        }
    }
    size_t column = common / LOSER_TREE_COLUMN_BYTES;
    leg->code = code_make(tree, column, column_value(entry->key, entry->key_bytes, column));
}

/* Codes are equal: the keys agree up to and including the codes' column. Says whether a wins and gives the loser its
 * code against the winner. Kept apart so that the integer path stays small. */
static __attribute__((noinline)) bool match_deep(struct loser_tree *tree, struct loser_node *a, struct loser_node *b) {
    const struct loser_leg *a_leg = &tree->legs[a->leg];
    const struct loser_leg *b_leg = &tree->legs[b->leg];
    if (a->code == LOSER_TREE_END || a->code == 0) {
        return a->leg < b->leg; /* both ended, or both equal the base: the code of the loser stays true (O1) */
    }
    tree->deep++;
    size_t skip = (code_column(a->code) + 1) * LOSER_TREE_COLUMN_BYTES;
    size_t common = skip;
    if (a_leg->key_bytes > skip && b_leg->key_bytes > skip) {
        common += key_common(a_leg->key + skip, a_leg->key_bytes - skip, b_leg->key + skip, b_leg->key_bytes - skip);
    }
    if (common >= a_leg->key_bytes && common >= b_leg->key_bytes) {
        bool is_a_first = a->leg < b->leg; /* O3 */
        (is_a_first ? b : a)->code = 0;
        return is_a_first;
    }
    size_t column = common / LOSER_TREE_COLUMN_BYTES;
    uint64_t a_code = code_make(tree, column, column_value(a_leg->key, a_leg->key_bytes, column));
    uint64_t b_code = code_make(tree, column, column_value(b_leg->key, b_leg->key_bytes, column));
    bool is_a_first = a_code < b_code;
    if (is_a_first) {
        b->code = b_code;
    } else {
        a->code = a_code;
    }
    return is_a_first;
}

/* The winner below `node`; leaves are the nodes count .. 2 * count - 1. Depth is the logarithm of the count. */
static struct loser_node play(struct loser_tree *tree, uint32_t node) {
    if (node >= tree->count) {
        return (struct loser_node){tree->legs[node - tree->count].code, node - tree->count};
    }
    struct loser_node a = play(tree, 2 * node);
    struct loser_node b = play(tree, 2 * node + 1);
    bool is_a_first = a.code != b.code ? a.code < b.code : match_deep(tree, &a, &b);
    tree->nodes[node] = is_a_first ? b : a;
    return is_a_first ? a : b;
}

void loser_tree_build(struct loser_tree *tree) {
    tree->nodes[0] = play(tree, 1);
}

void loser_tree_replay(struct loser_tree *tree) {
    struct loser_node *nodes = tree->nodes;
    /* Fields are moved one by one: a node copied whole would be loaded before its two stores have met. */
    uint32_t leg = nodes[0].leg;
    uint64_t code = tree->legs[leg].code;
    for (uint32_t i = (leg + tree->count) / 2; i >= 1; i /= 2) {
        uint64_t other_code = nodes[i].code;
        uint32_t other_leg = nodes[i].leg;
        bool is_other_first = other_code < code;
        if (UNLIKELY(other_code == code)) {
            struct loser_node other = {other_code, other_leg};
            struct loser_node winner = {code, leg};
            is_other_first = match_deep(tree, &other, &winner);
            other_code = other.code;
            code = winner.code;
        }
        /* Who wins is a coin's toss that no predictor learns: exchanged by masks, not by a jump. */
        uint64_t code_mask = (0 - (uint64_t)is_other_first) & (other_code ^ code);
        uint32_t leg_mask = (0 - (uint32_t)is_other_first) & (other_leg ^ leg);
        nodes[i].code = other_code ^ code_mask;
        nodes[i].leg = other_leg ^ leg_mask;
        code ^= code_mask;
        leg ^= leg_mask;
    }
    nodes[0].code = code;
    nodes[0].leg = leg;
}

static int base_grow(struct loser_tree *tree, size_t bytes, struct pleat_error *err) {
    size_t capacity = bytes * 2 < LIMIT_KEY_BYTES ? bytes * 2 : bytes;
    bool is_inline = tree->base == tree->base_inline;
    uint8_t *base = mem_resize(tree->mem, is_inline ? NULL : tree->base, capacity);
    if (base == NULL) {
        return error_no_memory(err, "the key of a merge", capacity);
    }
    if (is_inline) {
        memcpy(base, tree->base_inline, tree->base_bytes);
    }
    tree->base = base;
    tree->base_capacity = capacity;
    return 0;
}

int loser_tree_rebase(struct loser_tree *tree, struct pleat_error *err) {
    uint64_t code = loser_tree_winner_code(tree);
    const struct loser_leg *leg = &tree->legs[loser_tree_winner(tree)];
    ASSERT(code != LOSER_TREE_END && code != 0);
    if (UNLIKELY(leg->key_bytes > tree->base_capacity)) {
        int rc = base_grow(tree, leg->key_bytes, err);
        if (rc < 0) {
            return rc;
        }
    }
    /* The columns before the code's are those of the old base already. */
    size_t shared = code_column(code) * LOSER_TREE_COLUMN_BYTES;
    size_t rest = leg->key_bytes - shared;
    if (rest > 0) {
        memcpy(tree->base + shared, leg->key + shared, rest);
    }
    tree->base_bytes = leg->key_bytes;
    tree->has_base = true;
    return 0;
}
