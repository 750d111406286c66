/*
 * merge.c - see merge.h.
 *
 * Three shapes of one thing, chosen by the number of sources: none (an empty source), a few (merge_few.c), more
 * (loser_tree.h). One source needs no merge and is returned as it is.
 *
 * The current entry is the winner's own, pointers and all. Sources lend their bytes until their next call, so whatever
 * else holds the same key (a hidden, older entry) is moved on only when the merge itself is moved on:
 *
 *     next:  move the winner -> find the next winner -> while it equals the key shown last: count it, move it, again
 *
 * Among a few the heads that tie say which they are (H3); in the tree a hidden entry is a leg whose code is 0 (O1).
 */
#include "compaction/merge.h"

#include "base/assert.h"
#include "base/bytes.h"
#include "base/error.h"
#include "compaction/loser_tree.h"
#include "compaction/merge_internal.h"

/* More sources than merge_few.c takes. */
struct wide {
    struct merge merge; /* first */
    struct loser_tree tree;
};

void merge_prepare(struct source *source, const uint8_t *key, size_t key_bytes) {
    struct merge *merge = (struct merge *)source;
    /* Oldest first: tables ask and are done, a memtable walks while they wait. */
    for (size_t i = merge->count; i-- > 0;) {
        if (merge->sources[i]->ops->prepare != NULL) {
            merge->sources[i]->ops->prepare(merge->sources[i], key, key_bytes);
        }
    }
}

void merge_free_sources(struct merge *merge) {
    for (size_t i = 0; i < merge->count; i++) {
        source_free(merge->sources[i]);
    }
}

/* ---- nothing ---------------------------------------------------------------------------------------------------- */

static int empty_end(struct source *source) {
    (void)source;
    return PLEAT_END;
}

static int empty_seek(struct source *source, const uint8_t *key, size_t key_bytes) {
    (void)source;
    (void)key;
    (void)key_bytes;
    return PLEAT_END;
}

static void empty_free(struct source *source) {
    struct merge *merge = (struct merge *)source;
    mem_free(merge->mem, merge);
}

static const struct source_ops empty_ops = {
    .first = empty_end,
    .last = empty_end,
    .seek = empty_seek,
    .seek_before = empty_seek,
    .next = empty_end,
    .prev = empty_end,
    .prepare = NULL,
    .free = empty_free,
};

/* ---- more than a few -------------------------------------------------------------------------------------------- */

static struct wide *wide_of(struct source *source) {
    return (struct wide *)(void *)source; /* the merge's source is the first member of both */
}

/* Passes over what equals the last key shown, makes the winner the base and shows it. */
static inline int wide_show(struct wide *wide) {
    struct loser_tree *tree = &wide->tree;
    struct merge *merge = &wide->merge;
    while (UNLIKELY(loser_tree_winner_code(tree) == 0)) {
        uint32_t leg = loser_tree_winner(tree);
        struct source *hidden = merge->sources[leg];
        merge->hidden++;
        int rc = source_step(hidden, merge->is_backward);
        if (rc < 0) {
            return merge_fail(merge, hidden, rc);
        }
        loser_tree_set(tree, leg, rc == 0 ? &hidden->entry : NULL);
        loser_tree_replay(tree);
    }
    if (UNLIKELY(loser_tree_winner_code(tree) == LOSER_TREE_END)) {
        return PLEAT_END;
    }
    int rc = loser_tree_rebase(tree, &merge->source.error);
    if (UNLIKELY(rc < 0)) {
        return rc;
    }
    merge->source.entry = merge->sources[loser_tree_winner(tree)]->entry;
    return 0;
}

static int wide_position(struct source *source, enum motion motion, const uint8_t *key, size_t key_bytes) {
    struct wide *wide = wide_of(source);
    struct merge *merge = &wide->merge;
    merge->is_backward = motion == MOTION_LAST || motion == MOTION_SEEK_BEFORE;
    loser_tree_reset(&wide->tree, merge->is_backward);
    for (size_t i = 0; i < merge->count; i++) {
        int rc = source_move(merge->sources[i], motion, key, key_bytes);
        if (rc < 0) {
            return merge_fail(merge, merge->sources[i], rc);
        }
        loser_tree_set(&wide->tree, (uint32_t)i, rc == 0 ? &merge->sources[i]->entry : NULL);
    }
    loser_tree_build(&wide->tree);
    return wide_show(wide);
}

static int wide_first(struct source *source) {
    return wide_position(source, MOTION_FIRST, NULL, 0);
}

static int wide_last(struct source *source) {
    return wide_position(source, MOTION_LAST, NULL, 0);
}

static int wide_seek(struct source *source, const uint8_t *key, size_t key_bytes) {
    merge_prepare(source, key, key_bytes);
    return wide_position(source, MOTION_SEEK, key, key_bytes);
}

static int wide_seek_before(struct source *source, const uint8_t *key, size_t key_bytes) {
    merge_prepare(source, key, key_bytes);
    return wide_position(source, MOTION_SEEK_BEFORE, key, key_bytes);
}

/* What the move of the winner returned becomes the tree's next state. */
static inline int wide_resume(struct wide *wide, int rc) {
    struct source *winner = wide->merge.sources[loser_tree_winner(&wide->tree)];
    if (UNLIKELY(rc < 0)) {
        return merge_fail(&wide->merge, winner, rc);
    }
    loser_tree_set(&wide->tree, loser_tree_winner(&wide->tree), rc == 0 ? &winner->entry : NULL);
    loser_tree_replay(&wide->tree);
    return wide_show(wide);
}

/* Every other source goes around the current key, which is the tree's base and stays it; the winner steps (G2). */
static int wide_turn(struct wide *wide, bool is_backward) {
    struct loser_tree *tree = &wide->tree;
    struct merge *merge = &wide->merge;
    uint32_t leader = loser_tree_winner(tree);
    enum motion motion = is_backward ? MOTION_SEEK_BEFORE : MOTION_SEEK;
    merge->is_backward = is_backward;
    loser_tree_turn(tree, is_backward);
    for (size_t i = 0; i < merge->count; i++) {
        struct source *source = merge->sources[i];
        int rc = i != leader ? source_move(source, motion, tree->base, tree->base_bytes)
                             : source_step(source, is_backward);
        if (rc < 0) {
            return merge_fail(merge, source, rc);
        }
        loser_tree_set(tree, (uint32_t)i, rc == 0 ? &source->entry : NULL);
    }
    loser_tree_build(tree);
    return wide_show(wide);
}

static inline int wide_step(struct source *source, bool is_backward) {
    struct wide *wide = wide_of(source);
    if (UNLIKELY(wide->merge.is_backward != is_backward)) {
        return wide_turn(wide, is_backward);
    }
    struct source *winner = wide->merge.sources[loser_tree_winner(&wide->tree)];
    return wide_resume(wide, source_step(winner, is_backward));
}

static int wide_next(struct source *source) {
    return wide_step(source, false);
}

static int wide_prev(struct source *source) {
    return wide_step(source, true);
}

static void wide_free(struct source *source) {
    struct wide *wide = wide_of(source);
    merge_free_sources(&wide->merge);
    loser_tree_fini(&wide->tree);
    mem_free(wide->merge.mem, wide);
}

static const struct source_ops wide_ops = {
    .first = wide_first,
    .last = wide_last,
    .seek = wide_seek,
    .seek_before = wide_seek_before,
    .next = wide_next,
    .prev = wide_prev,
    .prepare = merge_prepare,
    .free = wide_free,
};

/* How many bytes it takes: legs, nodes and the list of sources lie behind it. */
static size_t wide_bytes(size_t count) {
    return sizeof(struct wide) +
           count * (sizeof(struct source *) + sizeof(struct loser_leg) + sizeof(struct loser_node));
}

static void wide_init(struct merge *merge, struct source *const *sources) {
    struct wide *wide = (struct wide *)merge;
    struct loser_leg *legs = (struct loser_leg *)(wide + 1);
    struct loser_node *nodes = (struct loser_node *)(legs + merge->count);
    merge->source.ops = &wide_ops;
    merge->sources = (struct source **)(nodes + merge->count);
    memcpy(merge->sources, sources, merge->count * sizeof(struct source *));
    loser_tree_init(&wide->tree, merge->mem, legs, nodes, (uint32_t)merge->count);
}

/* ---- making ----------------------------------------------------------------------------------------------------- */

int merge_source_new(const struct mem *mem, struct source **sources, size_t count, struct source **ret_source,
                     struct pleat_error *err) {
    if (count == 1) {
        *ret_source = sources[0];
        return 0;
    }
    ASSERT(count <= UINT32_MAX / 2);
    /* One block for all: merges are made for every short read over several runs. */
    size_t bytes = count == 0 ? sizeof(struct merge) : count <= MERGE_FEW_MAX ? merge_few_bytes() : wide_bytes(count);
    struct merge *merge = mem_alloc(mem, bytes);
    if (merge == NULL) {
        for (size_t i = 0; i < count; i++) {
            source_free(sources[i]);
        }
        return error_no_memory(err, "a merge", bytes);
    }
    *merge = (struct merge){.source.ops = &empty_ops, .mem = mem, .count = count};
    if (count > MERGE_FEW_MAX) {
        wide_init(merge, sources);
    } else if (count > 0) {
        merge_few_init(merge, sources);
    }
    *ret_source = &merge->source;
    return 0;
}

/* ---- for compaction --------------------------------------------------------------------------------------------- */

struct source *merge_source_winner(struct source *source) {
    if (merge_few_is(source)) {
        return merge_few_winner((struct merge *)source);
    }
    if (source->ops == &wide_ops) {
        return wide_of(source)->merge.sources[loser_tree_winner(&wide_of(source)->tree)];
    }
    return source;
}

bool merge_source_others_beyond(struct source *source, const uint8_t *key, size_t key_bytes) {
    if (merge_few_is(source)) {
        return merge_few_others_beyond((struct merge *)source, key, key_bytes);
    }
    if (source->ops != &wide_ops) {
        return true;
    }
    const struct loser_tree *tree = &wide_of(source)->tree;
    ASSERT(!wide_of(source)->merge.is_backward);
    for (uint32_t i = 0; i < tree->count; i++) {
        const struct loser_leg *leg = &tree->legs[i];
        if (i != loser_tree_winner(tree) && leg->code != LOSER_TREE_END &&
            key_compare(leg->key, leg->key_bytes, key, key_bytes) <= 0) {
            return false;
        }
    }
    return true;
}

int merge_source_resume(struct source *source, int rc) {
    if (merge_few_is(source)) {
        return merge_few_resume((struct merge *)source, rc);
    }
    if (source->ops == &wide_ops) {
        ASSERT(!wide_of(source)->merge.is_backward);
        return wide_resume(wide_of(source), rc);
    }
    return rc;
}

uint64_t merge_source_hidden(const struct source *source) {
    bool is_merge = merge_few_is(source) || source->ops == &wide_ops;
    return is_merge ? ((const struct merge *)(const void *)source)->hidden : 0;
}

uint64_t merge_source_comparisons(const struct source *source) {
    return source->ops == &wide_ops ? ((const struct wide *)(const void *)source)->tree.deep : 0;
}
