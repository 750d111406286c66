/*
 * pick.c - which compaction is the most urgent, how much work the shape asks for.
 *
 * All that could be done is written down with its urgency, sorted, and tried in order until one finds its inputs free:
 *
 *     level 0 above its target   (its output is busy: a merge inside level 0)
 *     a level above its target   (furthest above first; a level above the base has none and comes before all)
 *     a table of tombstones
 *     idle: level 0 down to two runs, and to none where that costs no more than a level always does (a run of
 *         tombstones: ten times that)
 *
 * A non-idle pick that answers PLEAT_END with nothing busy means that compaction_debt is 0 but for level 0's idle part.
 */
#include "base/assert.h"
#include "base/error.h"
#include "base/mutation.h"
#include "compaction/pick_inputs.h"

#include <stdlib.h>

enum urgency {
    URGENCY_LEVEL0,
    URGENCY_LEVEL,
    URGENCY_DENSE,
    URGENCY_IDLE,
    URGENCY_CHEAP,
};

struct candidate {
    enum urgency urgency;
    double score;
    uint64_t bytes; /* above the target */
    uint32_t slot;
    unsigned level;
};

static bool level_is_dense(const struct level *level) {
    for (size_t i = 0; level->tombstones > 0 && i < level->count; i++) {
        if (shape_is_dense(&level->tables[i]->meta)) {
            return true;
        }
    }
    return false;
}

/* Everything that the tree asks for; at most 2 * LIMIT_LEVELS. Returns the count. */
static size_t tree_candidates(const struct tree *tree, const struct compaction_options *options, uint32_t slot,
                              bool idle, struct candidate *ret_candidates) {
    struct shape shape;
    shape_of(tree, options, &shape);
    size_t count = 0;
    uint32_t trigger = options->level0_tables > 0 ? options->level0_tables : 1;
    if (shape.level0_runs >= trigger) {
        ret_candidates[count++] =
            (struct candidate){URGENCY_LEVEL0, (double)shape.level0_runs / (double)trigger, 0, slot, 0};
    } else if (idle && shape.level0_runs > 0) {
        enum urgency urgency = shape.level0_runs > SHAPE_IDLE_RUNS ? URGENCY_IDLE : URGENCY_CHEAP;
        ret_candidates[count++] = (struct candidate){urgency, (double)shape.level0_runs, 0, slot, 0};
    }
    for (unsigned l = 1; l < SHAPE_LAST_LEVEL; l++) {
        const struct level *level = &tree->levels[l];
        if (level->file_bytes > shape.targets[l]) {
            double target = (double)(shape.targets[l] > 0 ? shape.targets[l] : 1);
            ret_candidates[count++] = (struct candidate){URGENCY_LEVEL, (double)level->file_bytes / target,
                                                         level->file_bytes - shape.targets[l], slot, l};
        }
        if (level_is_dense(level)) {
            ret_candidates[count++] = (struct candidate){URGENCY_DENSE, (double)level->tombstones, 0, slot, l};
        }
    }
    return count;
}

static int candidate_compare(const void *left, const void *right) {
    const struct candidate *a = left;
    const struct candidate *b = right;
    if (a->urgency != b->urgency) {
        return a->urgency < b->urgency ? -1 : 1;
    }
    if (a->score < b->score || a->score > b->score) {
        return a->score > b->score ? -1 : 1;
    }
    if (a->slot != b->slot) {
        return a->slot < b->slot ? -1 : 1;
    }
    return (a->level > b->level) - (a->level < b->level);
}

/* Tries one: 0, PLEAT_END when its inputs are busy, or an error. */
static int candidate_try(struct pick *pick, const struct candidate *candidate) {
    int rc = PLEAT_END;
    switch (candidate->urgency) {
    case URGENCY_LEVEL0:
        rc = pick_level0(pick, false);
        if (rc > 0) {
            pick_reset(pick);
            rc = pick_inside_level0(pick);
        }
        break;
    case URGENCY_LEVEL:
        rc = pick_level(pick, candidate->level, candidate->bytes);
        break;
    case URGENCY_DENSE:
        rc = pick_dense(pick, candidate->level);
        break;
    case URGENCY_IDLE:
        rc = pick_level0(pick, false);
        break;
    case URGENCY_CHEAP:
        rc = pick_level0(pick, true);
        break;
    }
    if (rc != 0) {
        pick_reset(pick);
    }
    return rc;
}

static void pick_begin(struct pick *pick, const struct mem *mem, const struct version *version, uint32_t slot,
                       const struct compaction_options *options, struct compaction *compaction,
                       struct pleat_error *err) {
    const struct tree *tree = version->trees[slot];
    *pick = (struct pick){
        .mem = mem, .version = version, .tree = tree, .options = options, .compaction = compaction, .err = err};
    shape_of(tree, options, &pick->shape);
    *compaction = (struct compaction){.slot = slot, .space = tree->space.id};
}

static bool beside_holds(const struct compaction_beside *beside, uint32_t slot) {
    return (beside->held[0] != NULL && beside->held[0][slot]) || (beside->held[1] != NULL && beside->held[1][slot]);
}

/* K4. Busy inputs do not see to it: a job's output covers the gaps between its inputs, and what has come into one of
 * them since is no input of it. */
static bool beside_meets(const struct compaction_beside *beside, const struct compaction *compaction) {
    for (const struct compaction *other = beside->running; other != NULL; other = other->next) {
        if (other->slot == compaction->slot && other->output_level == compaction->output_level &&
            compaction->output_level > 0 && shape_compare(other->lower, compaction->upper) <= 0 &&
            shape_compare(other->upper, compaction->lower) >= 0 && !MUTATION(compact_beside)) {
            return true;
        }
    }
    return false;
}

/* The choice stands: its inputs are taken (K4) and the version is held. */
static void pick_commit(struct compaction *compaction, struct version *version) {
    for (unsigned l = 0; l < LIMIT_LEVELS; l++) {
        for (size_t i = 0; i < compaction->input_counts[l]; i++) {
            /* relaxed: picks are serialised by the caller's mutex, which orders this mark with the next pick */
            bool was = atomic_exchange_explicit(&compaction->inputs[l][i]->busy, true, memory_order_relaxed);
            ASSERT(!was);
        }
    }
    version_ref(version);
    compaction->version = version;
}

int compaction_pick(const struct mem *mem, struct version *version, const struct compaction_options *options,
                    const struct compaction_beside *beside, bool idle, struct compaction *ret_compaction,
                    struct pleat_error *err) {
    struct candidate found[2 * LIMIT_LEVELS];
    size_t count = 0;
    for (uint32_t slot = 0; slot < version->slots; slot++) {
        if (version->trees[slot] != NULL) {
            count += tree_candidates(version->trees[slot], options, slot, idle, found);
        }
    }
    if (count == 0) {
        return PLEAT_END;
    }
    struct candidate *candidates = mem_zalloc(mem, count, sizeof *candidates);
    if (candidates == NULL) {
        return error_no_memory(err, "the choice of a compaction", count * sizeof *candidates);
    }
    size_t filled = 0;
    for (uint32_t slot = 0; slot < version->slots; slot++) {
        if (version->trees[slot] != NULL) {
            size_t more = tree_candidates(version->trees[slot], options, slot, idle, found);
            ASSERT(filled + more <= count);
            for (size_t i = 0; i < more; i++) {
                candidates[filled++] = found[i];
            }
        }
    }
    qsort(candidates, filled, sizeof *candidates, candidate_compare);
    int rc = PLEAT_END;
    for (size_t i = 0; rc > 0 && i < filled; i++) {
        struct pick pick;
        if (beside_holds(beside, candidates[i].slot)) {
            continue;
        }
        pick_begin(&pick, mem, version, candidates[i].slot, options, ret_compaction, err);
        rc = candidate_try(&pick, &candidates[i]);
        if (rc == 0 && beside_meets(beside, ret_compaction)) {
            pick_reset(&pick);
            rc = PLEAT_END;
        }
    }
    mem_free(mem, candidates);
    if (rc == 0) {
        pick_commit(ret_compaction, version);
    }
    return rc;
}

int compaction_pick_full(const struct mem *mem, struct version *version, uint32_t slot,
                         const struct compaction_options *options, const struct compaction_beside *beside,
                         struct compaction *ret_compaction, bool *ret_busy, struct pleat_error *err) {
    struct pick pick;
    *ret_busy = beside_holds(beside, slot);
    if (version->trees[slot] == NULL || *ret_busy) {
        return PLEAT_END;
    }
    pick_begin(&pick, mem, version, slot, options, ret_compaction, err);
    int rc = pick_full(&pick, ret_busy);
    if (rc == 0 && beside_meets(beside, ret_compaction)) {
        *ret_busy = true;
        rc = PLEAT_END;
    }
    if (rc != 0) {
        pick_reset(&pick);
        return rc;
    }
    pick_commit(ret_compaction, version);
    return 0;
}

void compaction_let_go(struct compaction *compaction) {
    for (unsigned l = 0; l < LIMIT_LEVELS; l++) {
        for (size_t i = 0; i < compaction->input_counts[l]; i++) {
            /* relaxed: as in pick_commit */
            atomic_store_explicit(&compaction->inputs[l][i]->busy, false, memory_order_relaxed);
        }
        compaction->input_counts[l] = 0;
    }
}

void compaction_fini(const struct mem *mem, struct compaction *compaction) {
    compaction_let_go(compaction);
    for (unsigned l = 0; l < LIMIT_LEVELS; l++) {
        mem_free(mem, compaction->inputs[l]);
    }
    if (compaction->version != NULL) {
        version_unref(compaction->version);
    }
    *compaction = (struct compaction){.version = NULL};
}

uint64_t compaction_debt(const struct version *version, const struct compaction_options *options) {
    uint64_t debt = 0;
    for (uint32_t slot = 0; slot < version->slots; slot++) {
        const struct tree *tree = version->trees[slot];
        if (tree == NULL) {
            continue;
        }
        struct shape shape;
        shape_of(tree, options, &shape);
        uint32_t trigger = options->level0_tables > 0 ? options->level0_tables : 1;
        if (shape.level0_runs >= trigger || shape.level0_runs > SHAPE_IDLE_RUNS) {
            debt += tree->levels[0].file_bytes;
        }
        for (unsigned l = 1; l < SHAPE_LAST_LEVEL; l++) {
            const struct level *level = &tree->levels[l];
            if (level->file_bytes > shape.targets[l]) {
                debt += level->file_bytes - shape.targets[l];
            }
            for (size_t i = 0; level->tombstones > 0 && i < level->count; i++) {
                debt += shape_is_dense(&level->tables[i]->meta) ? level->tables[i]->meta.file_bytes : 0;
            }
        }
    }
    return debt;
}

size_t compaction_level0_runs(const struct version *version) {
    size_t most = 0;
    for (uint32_t slot = 0; slot < version->slots; slot++) {
        if (version->trees[slot] != NULL) {
            const struct level *level0 = &version->trees[slot]->levels[0];
            size_t runs = 0;
            for (size_t i = 0; i < level0->count; i = shape_run_end(level0, i)) {
                runs++;
            }
            most = runs > most ? runs : most;
        }
    }
    return most;
}
