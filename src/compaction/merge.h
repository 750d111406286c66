/*
 * merge.h - many sorted sources as one.
 *
 * Sources are given newest first: of equal keys the one from the lowest index is shown and the others are passed over,
 * so the merge is a source itself (keys strictly ascending). One source is handed through without a merge; up to
 * sixteen are told apart by the few bytes in which their keys differ (merge_few.c); more go through a loser tree with
 * offset-value codes (Graefe and Do, "Offset-value coding in database query processing", 2023). An entry of 25-byte
 * keys over arrays, among a few / in the tree: 22 / 34 ns at 4 runs without a common key, 28 / 43 at 9; where each key
 * is in two runs of five, 15 / 33 and 13 / 44.
 *
 *   G1  The winner is the smallest key, then the lowest index.
 *   G2  A direction change repositions every other source around the current key; next and prev mix freely.
 */
#ifndef PLEAT_COMPACTION_MERGE_H
#define PLEAT_COMPACTION_MERGE_H

#include "base/mem.h"
#include "base/source.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Takes over the sources (frees them with itself, and when this call fails). count 0: an empty source. */
int merge_source_new(const struct mem *mem, struct source **sources, size_t count, struct source **ret_source,
                     struct pleat_error *err);

/* For compaction: the source that the current entry is from, and whether every other source's next key is greater than
 * `key` (or exhausted), so that everything up to `key` comes from this one alone. Forward only. */
struct source *merge_source_winner(struct source *source);
bool merge_source_others_beyond(struct source *source, const uint8_t *key, size_t key_bytes);
/* After the winner was moved from outside (its block was skipped): finds the next winner. `rc` is what the winner's
 * move returned. Returns as `next` does. */
int merge_source_resume(struct source *source, int rc);
/* Entries of the sources that an equal key of a lower index has hidden so far, counted when they are passed over. */
uint64_t merge_source_hidden(const struct source *source);
/* Matches of the loser tree that had to look at keys: what offset-value codes keep low. 0 for sources that are few. */
uint64_t merge_source_comparisons(const struct source *source);

#endif
