/* pick_inputs.c - see pick_inputs.h. */
#include "compaction/pick_inputs.h"

#include "base/assert.h"
#include "base/error.h"

/* A job takes no more tables than this of a level when it is free to take fewer: temporary space is a slice. */
#define INPUT_TABLES_MAX 25
/* A table is not moved above more of the next deeper level than this many tables' worth: it is cut up on the way. */
#define MOVE_BELOW_TABLES_MAX 10
/* See level0_worth. */
#define TOMBSTONES_WORTH 10u

bool pick_is_busy(const struct table_ref *ref) {
    return atomic_load_explicit(&ref->busy, memory_order_relaxed); /* relaxed: written by the same serialised callers */
}

void pick_reset(struct pick *pick) {
    struct compaction *compaction = pick->compaction;
    for (unsigned l = 0; l < LIMIT_LEVELS; l++) {
        mem_free(pick->mem, compaction->inputs[l]);
        compaction->inputs[l] = NULL;
        compaction->input_counts[l] = 0;
    }
    compaction->input_bytes = 0;
    compaction->is_move = false;
    compaction->lower = (struct pleat_slice){NULL, 0};
    compaction->upper = (struct pleat_slice){NULL, 0};
}

static int inputs_reserve(struct pick *pick, unsigned level, size_t count) {
    struct table_ref **inputs = mem_zalloc(pick->mem, count, sizeof *inputs);
    if (inputs == NULL) {
        return error_no_memory(pick->err, "the inputs of a compaction", count * sizeof *inputs);
    }
    pick->compaction->inputs[level] = inputs;
    return 0;
}

/* Adds one input and widens the range. */
static void inputs_add(struct pick *pick, unsigned level, struct table_ref *ref) {
    struct compaction *compaction = pick->compaction;
    ASSERT(!pick_is_busy(ref)); /* K4 */
    compaction->inputs[level][compaction->input_counts[level]++] = ref;
    if (compaction->input_bytes == 0 || shape_compare(shape_smallest(ref), compaction->lower) < 0) {
        compaction->lower = shape_smallest(ref);
    }
    if (compaction->input_bytes == 0 || shape_compare(shape_largest(ref), compaction->upper) > 0) {
        compaction->upper = shape_largest(ref);
    }
    compaction->input_bytes += ref->meta.file_bytes;
}

/* Tables [begin, end) of a level, all of them free. */
static int inputs_add_range(struct pick *pick, unsigned level, size_t begin, size_t end) {
    if (begin == end) {
        return 0;
    }
    int rc = inputs_reserve(pick, level, end - begin);
    for (size_t i = begin; rc == 0 && i < end; i++) {
        inputs_add(pick, level, pick->tree->levels[level].tables[i]);
    }
    return rc;
}

static bool range_is_free(const struct level *level, size_t begin, size_t end, uint64_t *ret_bytes) {
    *ret_bytes = 0;
    for (size_t i = begin; i < end; i++) {
        if (pick_is_busy(level->tables[i])) {
            return false;
        }
        *ret_bytes += level->tables[i]->meta.file_bytes;
    }
    return true;
}

/* ---- level 0 ---------------------------------------------------------------------------------------------------- */

/* Marks in `members` what is connected to the oldest table by overlap, and says what range that is. */
static void level0_component(const struct level *level0, bool *members, struct pleat_slice *ret_lower,
                             struct pleat_slice *ret_upper) {
    struct pleat_slice lower = shape_smallest(level0->tables[level0->count - 1]);
    struct pleat_slice upper = shape_largest(level0->tables[level0->count - 1]);
    members[level0->count - 1] = true;
    bool is_grown = true;
    while (is_grown) {
        is_grown = false;
        for (size_t i = 0; i < level0->count; i++) {
            if (members[i] || !shape_overlaps(level0->tables[i], lower, upper)) {
                continue;
            }
            members[i] = true;
            is_grown = true;
            if (shape_compare(shape_smallest(level0->tables[i]), lower) < 0) {
                lower = shape_smallest(level0->tables[i]);
            }
            if (shape_compare(shape_largest(level0->tables[i]), upper) > 0) {
                upper = shape_largest(level0->tables[i]);
            }
        }
    }
    *ret_lower = lower;
    *ret_upper = upper;
}

/* The bytes of a table, or as many as it is worth to an idle store to merge it: tombstones take little room and much
 * time, for each scan passes them and what they hide. */
static uint64_t level0_worth(const struct table_meta *meta) {
    return meta->file_bytes * (shape_is_dense(meta) ? TOMBSTONES_WORTH : 1);
}

int pick_level0(struct pick *pick, bool only_cheap) {
    const struct level *level0 = &pick->tree->levels[0];
    const struct level *output = &pick->tree->levels[pick->shape.level0_output];
    uint64_t level0_bytes;
    if (!range_is_free(level0, 0, level0->count, &level0_bytes)) {
        return PLEAT_END; /* one job from level 0 downward at a time: its outputs could overlap ours (K4) */
    }
    bool *members = mem_zalloc(pick->mem, level0->count, sizeof *members);
    if (members == NULL) {
        return error_no_memory(pick->err, "the inputs of a compaction", level0->count);
    }
    struct pleat_slice lower, upper;
    level0_component(level0, members, &lower, &upper);
    size_t begin, end;
    uint64_t overlap_bytes;
    shape_range(output, lower, upper, &begin, &end);
    int rc = range_is_free(output, begin, end, &overlap_bytes) ? 0 : PLEAT_END;
    uint64_t worth_bytes = 0;
    for (size_t i = 0; i < level0->count; i++) {
        worth_bytes += members[i] ? level0_worth(&level0->tables[i]->meta) : 0;
    }
    /* Not dearer than what every level pays: a run is merged into level_ratio times its bytes. */
    if (only_cheap && overlap_bytes > (uint64_t)pick->options->level_ratio * worth_bytes) {
        rc = PLEAT_END;
    }
    if (rc == 0) {
        rc = inputs_reserve(pick, 0, level0->count);
    }
    if (rc == 0) {
        for (size_t i = 0; i < level0->count; i++) {
            if (members[i]) {
                inputs_add(pick, 0, level0->tables[i]);
            }
        }
        pick->compaction->output_level = pick->shape.level0_output;
        rc = inputs_add_range(pick, pick->shape.level0_output, begin, end);
    }
    mem_free(pick->mem, members);
    return rc;
}

int pick_inside_level0(struct pick *pick) {
    const struct level *level0 = &pick->tree->levels[0];
    size_t runs_min = pick->options->level0_tables > 2 ? pick->options->level0_tables : 2;
    size_t begin = 0;
    while (begin < level0->count) {
        /* From the newest free run on, as long as each further run makes the bytes per run that goes away no more. */
        size_t end = begin;
        size_t runs = 0;
        uint64_t bytes = 0;
        uint64_t cost = UINT64_MAX;
        while (end < level0->count) {
            size_t run_end = shape_run_end(level0, end);
            uint64_t run_bytes;
            if (!range_is_free(level0, end, run_end, &run_bytes) ||
                (runs >= runs_min && (bytes + run_bytes) / runs > cost)) {
                break;
            }
            bytes += run_bytes;
            cost = runs > 0 ? bytes / runs : UINT64_MAX;
            runs++;
            end = run_end;
        }
        if (runs >= runs_min) {
            pick->compaction->output_level = 0;
            return inputs_add_range(pick, 0, begin, end);
        }
        begin = end > begin ? end : shape_run_end(level0, begin);
    }
    return PLEAT_END;
}

/* ---- deeper levels ---------------------------------------------------------------------------------------------- */

/* Whether the inputs, all of one level, may go down as they are: nothing lies where they go, they have their final
 * form, no tombstone of theirs could be dropped, and not too much lies below. */
static bool inputs_can_move(const struct pick *pick, unsigned level) {
    const struct compaction *compaction = pick->compaction;
    unsigned output = compaction->output_level;
    for (unsigned l = 0; l < LIMIT_LEVELS; l++) {
        if (l != level && compaction->input_counts[l] > 0) {
            return false;
        }
    }
    for (size_t i = 0; i < compaction->input_counts[level]; i++) {
        const struct table_ref *ref = compaction->inputs[level][i];
        bool is_above = false;
        uint64_t below_bytes = 0;
        for (unsigned l = output + 1; l < LIMIT_LEVELS; l++) {
            const struct level *below = &pick->tree->levels[l];
            size_t begin, end;
            shape_range(below, shape_smallest(ref), shape_largest(ref), &begin, &end);
            is_above = is_above || begin < end;
            for (size_t t = begin; l == output + 1 && t < end; t++) {
                below_bytes += below->tables[t]->meta.file_bytes;
            }
        }
        if (!shape_is_final(&pick->tree->space, &ref->meta) || (ref->meta.tombstones > 0 && !is_above) ||
            below_bytes > MOVE_BELOW_TABLES_MAX * pick->options->table_bytes) {
            return false;
        }
    }
    return true;
}

/* Takes tables [begin, end) of the level and what they overlap below, which is known to be free. */
static int level_take(struct pick *pick, unsigned level, size_t begin, size_t end) {
    const struct level *from = &pick->tree->levels[level];
    size_t below_begin, below_end;
    shape_range(from + 1, shape_smallest(from->tables[begin]), shape_largest(from->tables[end - 1]), &below_begin,
                &below_end);
    pick->compaction->output_level = level + 1;
    int rc = inputs_add_range(pick, level, begin, end);
    if (rc == 0) {
        rc = inputs_add_range(pick, level + 1, below_begin, below_end);
    }
    if (rc == 0) {
        pick->compaction->is_move = inputs_can_move(pick, level);
    }
    return rc;
}

/* Whether the table is free, and so is all that it overlaps below; how many bytes that is. */
static bool table_is_free(const struct pick *pick, unsigned level, size_t index, size_t *ret_begin, size_t *ret_end,
                          uint64_t *ret_bytes) {
    const struct level *from = &pick->tree->levels[level];
    const struct table_ref *ref = from->tables[index];
    if (pick_is_busy(ref)) {
        return false;
    }
    shape_range(from + 1, shape_smallest(ref), shape_largest(ref), ret_begin, ret_end);
    return range_is_free(from + 1, *ret_begin, *ret_end, ret_bytes);
}

int pick_level(struct pick *pick, unsigned level, uint64_t bytes) {
    const struct level *from = &pick->tree->levels[level];
    size_t best = from->count;
    size_t best_begin = 0, best_end = 0;
    double best_ratio = 0;
    /* Ties go round by key: the walk starts elsewhere in each version. */
    size_t start = from->count > 0 ? (size_t)(pick->version->number % from->count) : 0;
    for (size_t step = 0; step < from->count; step++) {
        size_t i = (start + step) % from->count;
        size_t begin, end;
        uint64_t below_bytes;
        if (!table_is_free(pick, level, i, &begin, &end, &below_bytes)) {
            continue;
        }
        double ratio = (double)below_bytes / (double)(from->tables[i]->meta.file_bytes + 1);
        if (best == from->count || ratio < best_ratio) {
            best = i;
            best_ratio = ratio;
            best_begin = begin;
            best_end = end;
        }
    }
    if (best == from->count) {
        return PLEAT_END;
    }
    /* Neighbours that overlap nothing further come along for less than they would cost alone. */
    size_t begin = best, end = best + 1;
    uint64_t taken = from->tables[best]->meta.file_bytes;
    for (bool is_grown = true; is_grown && taken < bytes && end - begin < INPUT_TABLES_MAX;) {
        is_grown = false;
        size_t sides[2] = {begin - 1, end};
        for (unsigned side = 0; side < 2 && taken < bytes; side++) {
            size_t i = sides[side];
            if (i >= from->count || pick_is_busy(from->tables[i])) {
                continue;
            }
            size_t wide_begin = side == 0 ? i : begin;
            size_t wide_end = side == 0 ? end : i + 1;
            size_t below_begin, below_end;
            shape_range(from + 1, shape_smallest(from->tables[wide_begin]), shape_largest(from->tables[wide_end - 1]),
                        &below_begin, &below_end);
            if (below_end - below_begin == best_end - best_begin) {
                begin = wide_begin;
                end = wide_end;
                taken += from->tables[i]->meta.file_bytes;
                is_grown = true;
            }
        }
    }
    return level_take(pick, level, begin, end);
}

int pick_dense(struct pick *pick, unsigned level) {
    const struct level *from = &pick->tree->levels[level];
    for (size_t i = 0; i < from->count; i++) {
        size_t begin, end;
        uint64_t below_bytes;
        if (shape_is_dense(&from->tables[i]->meta) && table_is_free(pick, level, i, &begin, &end, &below_bytes)) {
            return level_take(pick, level, i, i + 1);
        }
    }
    return PLEAT_END;
}

/* ---- everything ------------------------------------------------------------------------------------------------- */

int pick_full(struct pick *pick, bool *ret_busy) {
    const struct tree *tree = pick->tree;
    const struct level *last = &tree->levels[SHAPE_LAST_LEVEL];
    int rc = 0;
    unsigned only = 0; /* the level that has tables, when it is one */
    *ret_busy = false;
    for (unsigned l = 0; l < SHAPE_LAST_LEVEL; l++) {
        uint64_t bytes;
        if (!range_is_free(&tree->levels[l], 0, tree->levels[l].count, &bytes)) {
            *ret_busy = true;
            return PLEAT_END;
        }
    }
    for (unsigned l = 0; rc == 0 && l < SHAPE_LAST_LEVEL; l++) {
        only = tree->levels[l].count > 0 ? l : only;
        rc = inputs_add_range(pick, l, 0, tree->levels[l].count);
    }
    if (rc < 0 || pick->compaction->input_bytes == 0) {
        return rc < 0 ? rc : PLEAT_END;
    }
    size_t begin, end;
    uint64_t bytes;
    shape_range(last, pick->compaction->lower, pick->compaction->upper, &begin, &end);
    if (!range_is_free(last, begin, end, &bytes)) {
        *ret_busy = true;
        return PLEAT_END;
    }
    pick->compaction->output_level = SHAPE_LAST_LEVEL;
    rc = inputs_add_range(pick, SHAPE_LAST_LEVEL, begin, end);
    if (rc == 0) {
        pick->compaction->is_move = only > 0 && inputs_can_move(pick, only);
    }
    return rc;
}
