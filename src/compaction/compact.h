/*
 * compact.h - turning memtables and tables into better tables: flush, choice, merge, survival.
 *
 *   K1  A flush writes one run for each dirty space. If its key range overlaps nothing in the space's tree it is
 *       written in its final form (the space's codec, fuse filter) straight to the deepest level; otherwise raw with a
 *       Bloom filter to level 0. A run is cut into tables of table_bytes. Parts of a run that goes deep may be written
 *       by themselves, beside each other: what holds for all of its range holds for theirs.
 *   K2  A tombstone is dropped only when no deeper level of the version has a table whose range holds its key, and no
 *       run of level 0 older than the inputs does.
 *   K3  A compaction's inputs are closed: for a level-0 input every older level-0 table that overlaps it is an input,
 *       too, when the output goes to a deeper level; a merge inside level 0 takes neighbours in age.
 *   K4  Inputs are marked busy while a job runs; no table is an input of two jobs. No two jobs of one space write
 *       overlapping ranges of one level.
 *   K5  A block that no other input touches is copied as stored, unless it holds something that could be dropped.
 *   K6  A job stops within one block when asked to, leaving no file behind.
 *
 * Nothing here knows the store's threads: the caller picks, runs and applies. The code is the same with and without
 * threads.
 */
#ifndef PLEAT_COMPACTION_COMPACT_H
#define PLEAT_COMPACTION_COMPACT_H

#include "base/mem.h"
#include "base/source.h"
#include "version/version.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* What shapes the trees; a copy of the store's options. */
struct compaction_options {
    uint64_t table_bytes;
    uint64_t level_base_bytes;
    uint32_t level_ratio;
    uint32_t level0_tables;
};

/* ---- flush ------------------------------------------------------------------------------------------------------ */

/* Writes one space's run from `source` (all entries of a frozen memtable, or a part of it: K1) as tables and adds them
 * to *edit. `version`
 * is the current one (nothing else may add tables to this space's level 0 or move tables to where this run goes in
 * between: the caller flushes one generation at a time, and `allow_deep` is false while a compaction of this space
 * runs). sequence_min/max: of the generation. *ret_bytes: file bytes written. Files are synced, the directory is not.
 */
int flush_run(struct registry *registry, const struct version *version, uint32_t slot,
              const struct compaction_options *options, struct source *source, uint64_t sequence_min,
              uint64_t sequence_max, bool allow_deep, struct edit *edit, uint64_t *ret_bytes, struct pleat_error *err);
/* Whether flush_run, allowed to, would write the source's run below level 0. Moves the source. */
int flush_goes_deep(const struct mem *mem, const struct version *version, uint32_t slot,
                    const struct compaction_options *options, struct source *source, bool *ret_deep,
                    struct pleat_error *err);

/* ---- choice ----------------------------------------------------------------------------------------------------- */

struct compaction {
    struct version *version; /* referenced */
    uint32_t slot;
    uint32_t space;
    unsigned output_level;
    struct table_ref **inputs[LIMIT_LEVELS]; /* per level, in the level's order; owned arrays */
    size_t input_counts[LIMIT_LEVELS];
    bool is_move; /* the inputs go down as they are */
    uint64_t input_bytes;
    struct pleat_slice lower; /* range of the inputs, inclusive both; borrowed from metas */
    struct pleat_slice upper;
    const struct compaction *next; /* in the list of running ones: whoever runs it */
};

/* What a choice leaves alone; of zeros: nothing. Borrowed for the call. */
struct compaction_beside {
    const struct compaction *running; /* K4 */
    const bool *held[2];              /* by slot: compactions of these spaces are not to begin; NULL: none */
};

/* Chooses the most urgent compaction of the whole store whose inputs are not busy and that nothing beside it stands
 * against: 0 with *ret_compaction filled in and
 * its inputs marked busy, or PLEAT_END. Order: level 0 above its target, then the level furthest above its target size
 * (dynamic base), then tombstone density, then (idle) what is left of level 0 so that an idle store has at most two
 * runs. One caller at a time (the scheduler's mutex), which takes the current version under the same mutex as a
 * finished job's compaction_fini: a version from before an apply would show inputs that are gone and no longer busy. */
int compaction_pick(const struct mem *mem, struct version *version, const struct compaction_options *options,
                    const struct compaction_beside *beside, bool idle, struct compaction *ret_compaction,
                    struct pleat_error *err);
/* A compaction of everything in the space into its last level, or PLEAT_END when it is there already (or something
 * beside it stands against it: *ret_busy). */
int compaction_pick_full(const struct mem *mem, struct version *version, uint32_t slot,
                         const struct compaction_options *options, const struct compaction_beside *beside,
                         struct compaction *ret_compaction, bool *ret_busy, struct pleat_error *err);
/* Clears the busy marks. After the edit was applied, or when the job was given up; under the mutex of compaction_pick.
 */
void compaction_let_go(struct compaction *compaction);
/* Clears the busy marks that are left, lets go of the version, which may close and unlink tables, and frees the arrays.
 * Under the mutex only where marks are left. */
void compaction_fini(const struct mem *mem, struct compaction *compaction);

/* Bytes of compaction work that the version's shape asks for; 0: settled. */
uint64_t compaction_debt(const struct version *version, const struct compaction_options *options);
/* Runs in level 0 of the space that has most. */
size_t compaction_level0_runs(const struct version *version);

/* ---- running ---------------------------------------------------------------------------------------------------- */

struct compaction_result {
    uint64_t bytes_in;  /* file bytes of the inputs */
    uint64_t bytes_out; /* file bytes written */
    uint64_t entries_in;
    uint64_t entries_out;
    uint64_t entries_found;  /* of the inputs': shown, hidden by newer ones, or in copied blocks */
    uint64_t blocks_copied;  /* as stored */
    uint64_t filters_copied; /* of inputs with the same keys */
};

/* How one compaction runs beside others. `cancel` is looked at between blocks: PLEAT_ERR_CANCELLED. `pause` (may be
 * NULL) is called between blocks and may block or run more urgent work. */
struct compaction_way {
    const struct compaction_options *options;
    const _Atomic bool *cancel;
    void (*pause)(void *context);
    void *context;
};

/* Merges the inputs into tables of the output level and fills *edit with what to add and remove. On any error no output
 * file is left and the edit holds nothing. Outputs are synced, the directory is not. */
int compaction_run(struct registry *registry, const struct compaction *compaction, const struct compaction_way *way,
                   struct edit *edit, struct compaction_result *ret_result, struct pleat_error *err);

/* The same by parts, which may run at once (not a move). A part has the keys in [from, to); data NULL: no bound. */
struct compaction_part {
    struct pleat_slice from;
    struct pleat_slice to;
    unsigned parts; /* that it is one of */
};
/* Where to cut a compaction into at most so many parts of about equal length: ret_keys (room for parts - 1) are
 * borrowed from its inputs. Returns how many keys; none where no table of the output level begins. */
size_t compaction_cut(const struct compaction *compaction, size_t parts, struct pleat_slice *ret_keys);
/* Adds the tables of one part to the edit; *ret_result: what it has done and found. On an error none of its files is
 * left. */
int compaction_run_part(struct registry *registry, const struct compaction *compaction,
                        const struct compaction_part *part, const struct compaction_way *way, struct edit *edit,
                        struct compaction_result *ret_result, struct pleat_error *err);
/* With all parts' tables in the edit, and their results summed up: checks that nothing of the inputs was missed, and
 * has the edit remove them. *sum learns what the inputs were. */
int compaction_finish(const struct compaction *compaction, struct compaction_result *sum, struct edit *edit,
                      struct pleat_error *err);

#endif
