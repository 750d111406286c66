/*
 * loser_tree.h - a tournament over the current keys of many runs, with offset-value codes.
 *
 * Each run is a leg. The tree remembers at every inner node the leg that lost there; the winner of all stands apart.
 * When the winner's run moves on, only the matches on its path to the root are played again.
 *
 *            winner                 A leg carries a code that says how its key differs from the base, the last winner:
 *              |
 *            (l1)                   63     57 56        43 42                     3 2      0
 *           /    \                  +--------+------------+------------------------+--------+
 *        (l2)    (l3)               | 0      | 16383 - c  | column c, 5 bytes      | bytes  |
 *        /  \    /  \               +--------+------------+------------------------+--------+
 *      leg0 leg1 leg2 leg3          c: how many whole columns of 5 bytes the key shares with the base.
 *
 * A column is 5 bytes of the key, zero-padded, together with the count of bytes that are really there, so that two
 * columns are equal exactly when the keys agree there, ends included. Codes of two keys against one base order like the
 * keys, and the loser's code against the base is also its code against the winner (that needs columns at fixed places;
 * a window that slides with the shared length would not do). Equal codes are settled by the bytes behind the column.
 * So nearly every match is one comparison of integers, and bytes of keys are looked at once a column.
 *
 *   O1  Code 0: the key equals the base. LOSER_TREE_END: the leg has no key. Every other code lies between.
 *   O2  Legs on the path of the winner have codes against the winner's key, which is the base.
 *   O3  Of equal keys the lowest leg wins.
 *
 * Backward the order of keys is reversed and the column's bits are complemented; nothing else changes.
 */
#ifndef PLEAT_COMPACTION_LOSER_TREE_H
#define PLEAT_COMPACTION_LOSER_TREE_H

#include "base/mem.h"
#include "base/source.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LOSER_TREE_END UINT64_MAX
#define LOSER_TREE_COLUMN_BYTES 5u
#define LOSER_TREE_BASE_BYTES 96u /* keys up to here need no allocation */

struct loser_leg {
    const uint8_t *key; /* borrowed from the leg's source */
    uint64_t code;      /* against the base that it was set with: how the leg enters its next match */
    uint32_t key_bytes;
};

/* Who lost a match, with its code against the winner: kept together so that a match is one load. */
struct loser_node {
    uint64_t code;
    uint32_t leg;
};

struct loser_tree {
    const struct mem *mem;
    struct loser_leg *legs;   /* count; storage of the owner */
    struct loser_node *nodes; /* [0]: the winner; [1 .. count - 1]: the losers; storage of the owner */
    uint32_t count;           /* at least 1 */
    bool backward;
    bool has_base;
    size_t base_bytes;
    size_t base_capacity;
    uint8_t *base; /* the last winner's key: base_inline, or a block of mem */
    uint64_t deep; /* matches that had to look at keys */
    uint8_t base_inline[LOSER_TREE_BASE_BYTES];
};

/* legs: count; nodes: count. Both belong to the caller and outlive the tree. */
void loser_tree_init(struct loser_tree *tree, const struct mem *mem, struct loser_leg *legs, struct loser_node *nodes,
                     uint32_t count);
void loser_tree_fini(struct loser_tree *tree);
/* Forgets the base: every leg must be set and the tree built next. */
void loser_tree_reset(struct loser_tree *tree, bool backward);
/* Turns the order around and keeps the base: every leg must be set, none behind the base, and the tree built next. */
void loser_tree_turn(struct loser_tree *tree, bool backward);
/* The leg stands on `entry`, or on none (NULL). */
void loser_tree_set(struct loser_tree *tree, uint32_t leg, const struct entry *entry);
/* Plays all matches. */
void loser_tree_build(struct loser_tree *tree);
/* After the winning leg was set again: plays its way up. */
void loser_tree_replay(struct loser_tree *tree);
/* The leg that won, and whether it equals the base (0), has no key (LOSER_TREE_END) or neither. */
static inline uint32_t loser_tree_winner(const struct loser_tree *tree) {
    return tree->nodes[0].leg;
}
static inline uint64_t loser_tree_winner_code(const struct loser_tree *tree) {
    return tree->nodes[0].code;
}
/* Makes the winner's key the base. PLEAT_ERR_NO_MEMORY only for keys longer than any before. */
int loser_tree_rebase(struct loser_tree *tree, struct pleat_error *err);

#endif
