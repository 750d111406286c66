/*
 * compact.c - running one compaction: merge, survive, write; copy whole blocks where nothing else has a word in them.
 *
 *     level 0 tables, newest first --+
 *     one source a deeper level   ---+--> merge --> survive --> output (tables of the output level)
 *                                         |                       ^
 *                                         +-- untouched block ----+   as stored (K5)
 *
 * Before an entry is written the loop asks whether it begins a block that may be copied: the block's source must be in
 * the output's form, the block must hold nothing that could be dropped, be of a decent size (small leftovers are
 * written again, or they would stay small for ever), and end before any other source has a key.
 *
 * A long one is cut at keys with which tables of the output level begin: parts have no table of that level in common,
 * and each is a merge of its own over its range of the inputs.
 *
 *   R1  Every entry of the inputs was shown, was hidden by a newer one, or was in a copied block: the sum over all
 *       parts is compared with the counts in the manifest before the edit is handed out. A source that ends early would
 *       otherwise lose data in silence.
 *   R2  On an error the edit is as it was before the call, and no file of ours is left.
 */
#include "base/assert.h"
#include "base/error.h"
#include "base/mutation.h"
#include "compaction/merge.h"
#include "compaction/output.h"
#include "compaction/shape.h"
#include "compaction/survive.h"

#define SOURCES_INLINE 16

struct run {
    const struct compaction *compaction;
    const struct compaction_part *part;
    const struct compaction_way *way;
    const struct tree *tree;
    struct source_bounds bounds; /* of the part; the sources borrow it */
    struct source *merge;
    const struct source *copy_winner; /* the last source that was looked at for copying ... */
    bool may_copy;                    /* ... and whether its tables have the output's form */
    uint64_t unchecked_bytes;         /* read since cancel and pause were looked at */
    uint64_t entries_seen;            /* shown by the merge or in copied blocks */
    struct output output;
    struct survive survive;
    struct compaction_result result;
};

static int source_failed(const struct source *source, int rc, struct pleat_error *err) {
    return error_set(err, rc, source->error.os_errno, "%s", source->error.message);
}

/* ---- moving ----------------------------------------------------------------------------------------------------- */

static int run_remove_inputs(const struct compaction *compaction, struct edit *edit, struct pleat_error *err) {
    for (unsigned l = 0; l < LIMIT_LEVELS; l++) {
        for (size_t i = 0; i < compaction->input_counts[l]; i++) {
            int rc = edit_remove_table(edit, compaction->space, l, compaction->inputs[l][i]->meta.number, err);
            if (rc < 0) {
                return rc;
            }
        }
    }
    return 0;
}

/* The same files in the next level: only the edit says so. */
static int run_move(const struct mem *mem, const struct compaction *compaction, struct edit *edit,
                    struct pleat_error *err) {
    for (unsigned l = 0; l < LIMIT_LEVELS; l++) {
        for (size_t i = 0; i < compaction->input_counts[l]; i++) {
            struct table_meta meta;
            if (table_meta_copy(mem, &compaction->inputs[l][i]->meta, &meta) < 0) {
                return error_no_memory(err, "a table's meta", sizeof meta);
            }
            int rc = edit_add_table(edit, compaction->space, compaction->output_level, &meta, err);
            if (rc < 0) {
                table_meta_fini(mem, &meta);
                return rc;
            }
        }
    }
    return run_remove_inputs(compaction, edit, err);
}

/* Takes back what was put into the edit behind the given counts; files are not touched. */
static void edit_truncate(struct edit *edit, size_t added_count, size_t removed_count) {
    while (edit->added_count > added_count) {
        edit_drop_table(edit);
    }
    edit->removed_count = removed_count;
}

/* ---- merging ---------------------------------------------------------------------------------------------------- */

static int run_table_source(const struct run *run, struct table_ref *ref, struct source **ret_source,
                            struct pleat_error *err) {
    struct table *table;
    int rc = table_ref_open(ref, &table, err);
    return rc < 0 ? rc : table_source_new(table, &run->bounds, ret_source, err);
}

/* One source a table of level 0, one a deeper level, newest first, merged. */
static int run_open(struct run *run, const struct mem *mem, struct pleat_error *err) {
    const struct compaction *compaction = run->compaction;
    struct source *few[SOURCES_INLINE];
    size_t capacity = compaction->input_counts[0] + LIMIT_LEVELS;
    struct source **sources = few;
    size_t count = 0;
    int rc = 0;
    if (capacity > SOURCES_INLINE) {
        sources = mem_zalloc(mem, capacity, sizeof(struct source *));
        if (sources == NULL) {
            return error_no_memory(err, "the sources of a compaction", capacity * sizeof(struct source *));
        }
    }
    for (size_t i = 0; rc == 0 && i < compaction->input_counts[0]; i++) {
        rc = run_table_source(run, compaction->inputs[0][i], &sources[count], err);
        count += rc == 0;
    }
    for (unsigned l = 1; rc == 0 && l < LIMIT_LEVELS; l++) {
        if (compaction->input_counts[l] > 0) {
            rc = level_source_new(mem, compaction->inputs[l], compaction->input_counts[l], NULL, &run->bounds,
                                  &sources[count], err);
            count += rc == 0;
        }
    }
    if (rc == 0) {
        rc = merge_source_new(mem, sources, count, &run->merge, err); /* takes the sources over, also when it fails */
    } else {
        for (size_t i = 0; i < count; i++) {
            source_free(sources[i]);
        }
    }
    if (sources != few) {
        mem_free(mem, sources);
    }
    return rc;
}

/* Between blocks: cancelled? paused? */
static int run_breathe(struct run *run, struct pleat_error *err) {
    run->unchecked_bytes = 0;
    /* acquire; pairs with the release of whoever cancels */
    if (run->way->cancel != NULL && atomic_load_explicit(run->way->cancel, memory_order_acquire)) {
        return error_set(err, PLEAT_ERR_CANCELLED, 0, "the compaction was asked to stop");
    }
    if (run->way->pause != NULL) {
        run->way->pause(run->way->context);
    }
    return 0;
}

/* Tables of levels from 1 on have the space's form, those of level 0 are raw: blocks go between equals only. */
static bool run_may_copy(struct run *run, struct source *winner) {
    if (winner != run->copy_winner) {
        bool is_raw_in = table_source_is(winner);
        bool is_raw_out = run->compaction->output_level == 0;
        run->copy_winner = winner;
        run->may_copy = is_raw_in == is_raw_out || run->tree->space.codec == PLEAT_CODEC_NONE;
    }
    return run->may_copy;
}

/* Copies the block that the current entry begins, when that is allowed: 0 when it was, PLEAT_ABSENT when the entry is
 * to be written by itself. *ret_next: what the merge's next answered. */
static int run_copy_block(struct run *run, int *ret_next, struct pleat_error *err) {
    struct source *winner = merge_source_winner(run->merge);
    if (!run_may_copy(run, winner)) {
        return PLEAT_ABSENT;
    }
    bool is_table = table_source_is(winner);
    struct source *source = is_table ? winner : level_source_table(winner);
    struct table_block block;
    if (source == NULL) {
        return PLEAT_ABSENT;
    }
    int rc = table_source_block(source, &block);
    if (rc != 0) {
        return rc < 0 ? source_failed(source, rc, err) : rc;
    }
    if (block.has_tombstones || block.image_bytes < run->tree->space.block_bytes / 2 ||
        !merge_source_others_beyond(run->merge, block.last_key.data, block.last_key.bytes)) {
        return PLEAT_ABSENT;
    }
    rc = output_add_block(&run->output, &block, err);
    if (rc < 0) {
        return rc;
    }
    run->entries_seen += block.entries;
    run->result.blocks_copied++;
    run->unchecked_bytes += block.image_bytes;
    *ret_next =
        merge_source_resume(run->merge, is_table ? table_source_skip_block(winner) : level_source_skip_block(winner));
    return 0;
}

static int run_entries(struct run *run, struct pleat_error *err) {
    struct source *merge = run->merge;
    uint64_t block_bytes = run->tree->space.block_bytes;
    int rc = run_breathe(run, err);
    if (rc < 0) {
        return rc;
    }
    int next = merge->ops->first(merge);
    while (next == 0) {
        if (run->unchecked_bytes >= block_bytes) {
            rc = run_breathe(run, err);
            if (rc < 0) {
                return rc;
            }
        }
        rc = run_copy_block(run, &next, err);
        if (rc < 0) {
            return rc;
        }
        if (rc == 0) {
            continue;
        }
        const struct entry *entry = &merge->entry;
        run->entries_seen++;
        run->unchecked_bytes += (uint64_t)entry->key_bytes + entry->value_bytes + 4;
        if (entry->kind != ENTRY_DELETE || !survive_can_drop(&run->survive, entry->key, entry->key_bytes)) {
            rc = output_add(&run->output, entry, err);
            if (rc < 0) {
                return rc;
            }
        } else {
            output_drop(&run->output, entry->key, entry->key_bytes);
        }
        next = merge->ops->next(merge);
    }
    return next < 0 ? source_failed(merge, next, err) : 0;
}

/* The inputs of the output level whose keys are the part's: it is cut where they begin. */
static void run_set_inputs(struct run *run) {
    const struct compaction *compaction = run->compaction;
    struct table_ref *const *inputs = compaction->inputs[compaction->output_level];
    size_t begin = 0, end = compaction->input_counts[compaction->output_level];
    while (run->part->from.data != NULL && begin < end &&
           shape_compare(shape_smallest(inputs[begin]), run->part->from) < 0) {
        begin++;
    }
    while (run->part->to.data != NULL && end > begin &&
           shape_compare(shape_smallest(inputs[end - 1]), run->part->to) >= 0) {
        end--;
    }
    output_set_inputs(&run->output, begin < end ? inputs + begin : NULL, end - begin);
}

static int run_merge(struct run *run, struct registry *registry, struct edit *edit, struct pleat_error *err) {
    const struct compaction *compaction = run->compaction;
    const struct level *level0 = &run->tree->levels[0];
    size_t level0_first = level0->count;
    uint64_t sequence_min = UINT64_MAX, sequence_max = 0;
    for (unsigned l = 0; l < LIMIT_LEVELS; l++) {
        for (size_t i = 0; i < compaction->input_counts[l]; i++) {
            const struct table_meta *meta = &compaction->inputs[l][i]->meta;
            sequence_min = meta->sequence_min < sequence_min ? meta->sequence_min : sequence_min;
            sequence_max = meta->sequence_max > sequence_max ? meta->sequence_max : sequence_max;
        }
    }
    if (compaction->input_counts[0] > 0 && !MUTATION(compact_survive_level0)) {
        const struct table_ref *oldest = compaction->inputs[0][compaction->input_counts[0] - 1];
        level0_first = 0;
        while (level0_first < level0->count && level0->tables[level0_first] != oldest) {
            level0_first++;
        }
        level0_first++;
    }
    survive_init(&run->survive, run->tree, compaction->output_level + 1, level0_first);
    int rc = run_open(run, registry_store(registry)->mem, err);
    if (rc < 0) {
        return rc;
    }
    output_init(&run->output, registry, compaction->version, compaction->slot, run->way->options,
                compaction->output_level, sequence_min, sequence_max, edit);
    run->output.kept_parts = run->part->parts;
    if (compaction->output_level > 0) { /* runs of level 0 overlap */
        run_set_inputs(run);
    }
    rc = run_entries(run, err);
    if (rc == 0) {
        rc = output_finish(&run->output, err);
    }
    if (rc < 0) {
        output_abandon(&run->output);
    }
    run->result.entries_found = run->entries_seen + merge_source_hidden(run->merge);
    source_free(run->merge);
    return rc;
}

int compaction_run_part(struct registry *registry, const struct compaction *compaction,
                        const struct compaction_part *part, const struct compaction_way *way, struct edit *edit,
                        struct compaction_result *ret_result, struct pleat_error *err) {
    struct run run = {
        .compaction = compaction,
        .part = part,
        .way = way,
        .tree = compaction->version->trees[compaction->slot],
        .bounds = {.lower = part->from.data,
                   .lower_bytes = part->from.bytes,
                   .upper = part->to.data,
                   .upper_bytes = part->to.bytes},
    };
    int rc = run_merge(&run, registry, edit, err);
    run.result.bytes_out = run.output.bytes;
    run.result.entries_out = run.output.entries;
    run.result.filters_copied = run.output.filters_copied;
    *ret_result = run.result;
    return rc;
}

/* ---- the whole -------------------------------------------------------------------------------------------------- */

size_t compaction_cut(const struct compaction *compaction, size_t parts, struct pleat_slice *ret_keys) {
    unsigned level = compaction->output_level;
    struct table_ref *const *inputs = compaction->inputs[level];
    uint64_t total = 0, passed = 0;
    size_t keys = 0;
    for (size_t i = 0; level > 0 && i < compaction->input_counts[level]; i++) {
        total += inputs[i]->meta.file_bytes;
    }
    for (size_t i = 0; level > 0 && i < compaction->input_counts[level] && keys + 1 < parts; i++) {
        struct pleat_slice key = shape_smallest(inputs[i]);
        if (i > 0 && key.bytes > 0 && passed * parts >= total * (keys + 1)) {
            ret_keys[keys++] = key;
        }
        passed += inputs[i]->meta.file_bytes;
    }
    return keys;
}

/* R1 */
static int compaction_check_counts(const struct compaction *compaction, const struct compaction_result *sum,
                                   struct pleat_error *err) {
    if (sum->entries_found == sum->entries_in || MUTATION(compact_counts)) {
        return 0;
    }
    for (unsigned l = 0; l < LIMIT_LEVELS; l++) {
        if (compaction->input_counts[l] > 0) {
            char name[TABLE_NAME_BYTES];
            table_name(compaction->inputs[l][0]->meta.number, name);
            return error_corrupt(err, name, 0, "entries of this and the compaction's other tables", sum->entries_in,
                                 sum->entries_found);
        }
    }
    return error_set(err, PLEAT_ERR_CORRUPT, 0, "a compaction without inputs");
}

/* What the inputs are. */
static void compaction_count_inputs(const struct compaction *compaction, struct compaction_result *result) {
    for (unsigned l = 0; l < LIMIT_LEVELS; l++) {
        for (size_t i = 0; i < compaction->input_counts[l]; i++) {
            result->bytes_in += compaction->inputs[l][i]->meta.file_bytes;
            result->entries_in += compaction->inputs[l][i]->meta.entries;
        }
    }
}

int compaction_finish(const struct compaction *compaction, struct compaction_result *sum, struct edit *edit,
                      struct pleat_error *err) {
    compaction_count_inputs(compaction, sum);
    int rc = compaction_check_counts(compaction, sum, err);
    return rc == 0 ? run_remove_inputs(compaction, edit, err) : rc;
}

/* Takes back what was put into the edit behind the given counts, and removes the files of tables that it added. */
static void compaction_undo(struct registry *registry, struct edit *edit, size_t added_count, size_t removed_count) {
    const struct table_store *store = registry_store(registry);
    while (edit->added_count > added_count) {
        char name[TABLE_NAME_BYTES];
        table_name(edit->added[edit->added_count - 1].meta.number, name);
        edit_drop_table(edit);
        (void)store->vfs->dir_unlink(store->dir, name, NULL); /* if this fails, too, the sweep at open removes it */
    }
    edit->removed_count = removed_count;
}

int compaction_run(struct registry *registry, const struct compaction *compaction, const struct compaction_way *way,
                   struct edit *edit, struct compaction_result *ret_result, struct pleat_error *err) {
    struct compaction_part all = {.parts = 1};
    struct compaction_result result = {0};
    size_t added_count = edit->added_count, removed_count = edit->removed_count;
    int rc;
    if (compaction->is_move) {
        rc = run_move(registry_store(registry)->mem, compaction, edit, err);
        compaction_count_inputs(compaction, &result);
        result.entries_out = result.entries_in;
        if (rc < 0) {
            edit_truncate(edit, added_count, removed_count);
        }
    } else {
        rc = compaction_run_part(registry, compaction, &all, way, edit, &result, err);
        rc = rc == 0 ? compaction_finish(compaction, &result, edit, err) : rc;
        if (rc < 0) {
            compaction_undo(registry, edit, added_count, removed_count);
        }
    }
    if (rc == 0) {
        *ret_result = result;
    }
    return rc;
}
