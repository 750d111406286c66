/*
 * output.h - the tables that a flush or a compaction writes: one run, cut into files, all of it or nothing.
 *
 * Entries and ready blocks go in in key order. A table is cut when it has reached its size, when a table of the next
 * deeper level ends and it is nearly full, or when it overlaps so much of that level that compacting it later would be
 * a large job. One that may have the keys of one input, which are not all there yet, waits for that input's end:
 *
 *     inputs of the output level    [ a ... table i ... m ] [ n ... table i + 1 ... z ]
 *     updates alone of those keys   [ a ...   like i  ... m ] [ n ... like i + 1 ... z ]     filters are copied
 *
 * Finished tables are put into the edit at once; output_abandon takes them out again and unlinks them.
 *
 *   U1  Between output_init and output_finish or output_abandon the edit's tail holds only this run's tables.
 *   U2  After output_abandon no file of the run is left and the edit is as it was.
 *   U3  A table appears with the images of its blocks whose place in the older tables is cached and read (heat.h):
 *       they are at hand when it is written. The older ones stay in the cache as long as their tables do, so what the
 *       budget has no room for is kept up to an eighth of it, in a run; src/db/warm.c does the rest, one block for
 *       another. In level 0, whose runs are soon merged, only while the cache is half empty.
 *   U4  A table has the filter of input i only when it has exactly its keys: its first key is the first that was
 *       written or dropped behind the end of input i - 1, its last the last in front of the end of input i, none of
 *       those between was dropped, so that all of the input's are there, and there are no more than the input has.
 */
#ifndef PLEAT_COMPACTION_OUTPUT_H
#define PLEAT_COMPACTION_OUTPUT_H

#include "compaction/compact.h"
#include "compaction/heat.h"

struct output {
    struct registry *registry;
    const struct space_info *space;
    const struct compaction_options *options;
    const struct level *below; /* the level below the output, or NULL */
    struct edit *edit;
    struct table_builder *builder;
    uint64_t sequence_min;
    uint64_t sequence_max;
    uint64_t bytes; /* of finished files */
    uint64_t entries;
    uint64_t below_bytes; /* of the tables below that the current table has passed */
    size_t below_index;
    size_t edit_start; /* added tables of the edit that are not ours */
    struct table_ref *const *inputs; /* of the output level, in key order */
    size_t input_count;
    size_t input_at;           /* the first that does not end before the last key */
    bool input_begun;          /* something was written or dropped behind the end of the one before */
    struct table_ref *like;    /* the input that the current table may have the keys of (U4); NULL: none */
    uint64_t filters_copied;
    unsigned level;
    struct heat heat;          /* of the tree before */
    uint64_t kept_bytes;       /* of images kept for the cache (U3) */
    uint64_t kept_bytes_max;   /* of those, without room in it */
    unsigned kept_parts;       /* outputs that share it: of one compaction */
};

/* Everything is borrowed. `version` supplies the space and the level below. */
void output_init(struct output *output, struct registry *registry, const struct version *version, uint32_t slot,
                 const struct compaction_options *options, unsigned level, uint64_t sequence_min, uint64_t sequence_max,
                 struct edit *edit);
/* Tables of the output level that are inputs, in key order: borrowed. Nothing was added yet. */
void output_set_inputs(struct output *output, struct table_ref *const *inputs, size_t count);
/* The key of an input is not written at all; in key order with what is added. */
void output_drop(struct output *output, const uint8_t *key, size_t key_bytes);
/* The codec (enum pleat_codec) and filter (enum filter_kind) of a table in this level of the space. */
uint8_t output_codec(const struct space_info *space, unsigned level);
uint8_t output_filter(unsigned level);
int output_add(struct output *output, const struct entry *entry, struct pleat_error *err);
int output_add_block(struct output *output, const struct table_block *block, struct pleat_error *err);
/* Finishes the last table. */
int output_finish(struct output *output, struct pleat_error *err);
/* After any error of the above, or to give up. Idempotent. */
void output_abandon(struct output *output);

#endif
