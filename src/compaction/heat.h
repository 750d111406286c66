/*
 * heat.h - what is read of a tree: the score, in the cache, of what lies at a key.
 *
 * The deepest table answers for a key: a read of a range looks at every level, and a key's older entry says where it
 * belongs.
 *
 *     deepest older table    [ score 3 ] [ score 1 ] [ score 0 ] [ not cached ]
 *                                 |           |           |            |
 *     new table              [ score 2 ] [ score 0 ]      -            -          by key, block by block
 *
 * Each change of the tree takes a point from the score, as a turn of the clock does: what nobody reads any more is
 * handed on a few times and no further.
 */
#ifndef PLEAT_COMPACTION_HEAT_H
#define PLEAT_COMPACTION_HEAT_H

#include "version/version.h"

struct heat {
    const struct tree *tree; /* borrowed */
    /* the last answer: neighbours mostly have the same one */
    struct table_ref *ref;
    struct table *table; /* NULL: there was none */
    uint32_t block;
    uint8_t score;
};

void heat_init(struct heat *heat, const struct tree *tree);
/* Inside an epoch: the score at the key, 0 for what is not cached. Loads nothing. With a score, ref, table and block
 * say of what. */
uint8_t heat_at(struct heat *heat, struct pleat_slice key);
/* The table, if a reader or a job has opened it. */
struct table *heat_opened(const struct table_ref *ref);

#endif
