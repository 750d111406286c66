/*
 * pick_inputs.h - from a first table to the closed set of inputs of one compaction (K3, K4).
 *
 * Every function here either fills in the compaction and marks nothing, or answers PLEAT_END because a table that would
 * have to be an input is busy. Marking is the caller's last step, so that a refused choice leaves no trace.
 */
#ifndef PLEAT_COMPACTION_PICK_INPUTS_H
#define PLEAT_COMPACTION_PICK_INPUTS_H

#include "compaction/compact.h"
#include "compaction/shape.h"

struct pick {
    const struct mem *mem;
    const struct version *version;
    const struct tree *tree;
    const struct compaction_options *options;
    struct shape shape;
    struct compaction *compaction; /* slot and space are set */
    struct pleat_error *err;
};

bool pick_is_busy(const struct table_ref *ref);

/* Everything of level 0 that overlaps its oldest table, directly or through others, into the level it goes to.
 * only_cheap: not when much more than the inputs of level 0 would have to be rewritten. */
int pick_level0(struct pick *pick, bool only_cheap);
/* Neighbours in age become one run of level 0. */
int pick_inside_level0(struct pick *pick);
/* The tables of `level` with the least overlap below, at most `bytes` of them and at least one. */
int pick_level(struct pick *pick, unsigned level, uint64_t bytes);
/* A table of `level` that is mostly tombstones. */
int pick_dense(struct pick *pick, unsigned level);
/* Everything above the last level and what it overlaps there. *ret_busy: only busy tables stand against it. */
int pick_full(struct pick *pick, bool *ret_busy);

/* Empties a compaction whose choice was given up. */
void pick_reset(struct pick *pick);

#endif
