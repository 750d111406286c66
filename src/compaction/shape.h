/*
 * shape.h - what a space's tree should look like: targets, the base level, runs, form and overlap of tables.
 *
 * Leveled with a dynamic base: the last level holds nearly everything, and targets shrink by the ratio from level to
 * level upward as long as they stay at or above level_base_bytes. The topmost level with a target is the base; level 0
 * merges straight into it, and the levels between stay empty.
 *
 *     level 6   S        (the largest level's bytes)           level 0 -> base
 *     level 5   S / r
 *     level 4   S / r^2  >= level_base_bytes: the base
 *     level 3   nothing  (S / r^3 would be below it)
 *
 * When a store has shrunk, levels above the new base may still hold tables: their target is 0, so that they drain, and
 * level 0 goes into the topmost of them until they have (V3 needs it to stop above everything that it overlaps).
 */
#ifndef PLEAT_COMPACTION_SHAPE_H
#define PLEAT_COMPACTION_SHAPE_H

#include "compaction/compact.h"

#define SHAPE_LAST_LEVEL (LIMIT_LEVELS - 1)
#define SHAPE_IDLE_RUNS 2u /* runs that an idle level 0 may keep */

struct shape {
    unsigned base;
    unsigned level0_output; /* the level that level 0 goes to */
    size_t level0_runs;
    uint64_t targets[LIMIT_LEVELS]; /* of levels 1 .. 5; the last has none */
};

void shape_of(const struct tree *tree, const struct compaction_options *options, struct shape *ret_shape);

/* Level 0: the index behind the run that begins at `index`. Tables of one run have one sequence_max. */
size_t shape_run_end(const struct level *level0, size_t index);
/* Whether the table has the codec and filter that levels from 1 on have. */
bool shape_is_final(const struct space_info *space, const struct table_meta *meta);
/* A table half of whose entries are tombstones should not wait for its level's size. */
bool shape_is_dense(const struct table_meta *meta);

struct pleat_slice shape_smallest(const struct table_ref *ref);
struct pleat_slice shape_largest(const struct table_ref *ref);
int shape_compare(struct pleat_slice a, struct pleat_slice b);
bool shape_overlaps(const struct table_ref *ref, struct pleat_slice lower, struct pleat_slice upper);
/* Levels 1..6: tables [*ret_begin, *ret_end) overlap [lower, upper]. */
void shape_range(const struct level *level, struct pleat_slice lower, struct pleat_slice upper, size_t *ret_begin,
                 size_t *ret_end);

#endif
