/*
 * survive.h - which tombstones may be dropped.
 *
 * Tables hold one entry a key and snapshots pin whole versions, so a run needs no older entry of a key: the merge shows
 * the newest and passes over the others. What is left to decide is whether a tombstone still hides something (K2): it
 * does when a table that may be older than the run's inputs could hold its key. Those are the levels below the output,
 * and the tables of level 0 behind the oldest input.
 *
 *   W1  Keys are asked for in ascending order: each level is walked once.
 */
#ifndef PLEAT_COMPACTION_SURVIVE_H
#define PLEAT_COMPACTION_SURVIVE_H

#include "version/version.h"

struct survive {
    const struct tree *tree;
    unsigned level_first;         /* levels from here down may hold older entries */
    size_t level0_first;          /* tables of level 0 from this index on may */
    size_t indexes[LIMIT_LEVELS]; /* first table of each level that does not end before the last key */
};

/* level_first: 1 .. LIMIT_LEVELS; level0_first: the count of level 0 when it holds nothing older. */
void survive_init(struct survive *survive, const struct tree *tree, unsigned level_first, size_t level0_first);
/* Whether a tombstone of this key hides nothing. */
bool survive_can_drop(struct survive *survive, const uint8_t *key, size_t key_bytes);

#endif
