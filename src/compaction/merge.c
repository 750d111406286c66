/*
 * merge.c - see merge.h.
 *
 * Three shapes of one thing, chosen by the number of sources: none (an empty source), two (a direct comparison with the
 * runner-up), more (loser_tree.h). One source needs no merge and is returned as it is.
 *
 * The current entry is the winner's own, pointers and all. Sources lend their bytes until their next call, so whatever
 * else holds the same key (a hidden, older entry) is moved on only when the merge itself is moved on:
 *
 *     next:  move the winner -> find the next winner -> while it equals the key shown last: count it, move it, again
 *
 * In the pair the comparison that chose the winner says whether the other one holds the same key; in the tree a hidden
 * entry is a leg whose code is 0 (O1). The order of what is hidden therefore costs nothing in the usual case.
 */
#include "compaction/merge.h"

#include "base/assert.h"
#include "base/bytes.h"
#include "base/error.h"
#include "compaction/loser_tree.h"

enum motion {
    MOTION_FIRST,
    MOTION_LAST,
    MOTION_SEEK,
    MOTION_SEEK_BEFORE,
};

struct merge {
    struct source source; /* first: the merge is a source */
    const struct mem *mem;
    struct source **sources; /* newest first; owned */
    size_t count;
    uint64_t hidden;
    bool is_backward;
    /* the pair */
    bool is_live[2];
    bool is_tie;     /* both stand on the key shown */
    unsigned leader; /* which of the two is shown */
    /* more than two */
    struct loser_tree tree;
};

static int merge_fail(struct merge *merge, struct source *from, int rc) {
    merge->source.error = from->error;
    return rc;
}

static int source_move(struct source *source, enum motion motion, const uint8_t *key, size_t key_bytes) {
    switch (motion) {
    case MOTION_FIRST:
        return source->ops->first(source);
    case MOTION_LAST:
        return source->ops->last(source);
    case MOTION_SEEK:
        return source->ops->seek(source, key, key_bytes);
    case MOTION_SEEK_BEFORE:
        break;
    }
    return source->ops->seek_before(source, key, key_bytes);
}

static void merge_prepare(struct source *source, const uint8_t *key, size_t key_bytes) {
    struct merge *merge = (struct merge *)source;
    for (size_t i = 0; i < merge->count; i++) {
        if (merge->sources[i]->ops->prepare != NULL) {
            merge->sources[i]->ops->prepare(merge->sources[i], key, key_bytes);
        }
    }
}

static void merge_free(struct source *source) {
    struct merge *merge = (struct merge *)source;
    for (size_t i = 0; i < merge->count; i++) {
        source_free(merge->sources[i]);
    }
    if (merge->count > 2) {
        loser_tree_fini(&merge->tree);
    }
    mem_free(merge->mem, merge);
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

static const struct source_ops empty_ops = {
    .first = empty_end,
    .last = empty_end,
    .seek = empty_seek,
    .seek_before = empty_seek,
    .next = empty_end,
    .prev = empty_end,
    .prepare = NULL,
    .free = merge_free,
};

/* ---- two -------------------------------------------------------------------------------------------------------- */

/* Chooses between the two and shows the winner (G1). */
static inline int pair_show(struct merge *merge) {
    merge->is_tie = false;
    if (LIKELY(merge->is_live[0] && merge->is_live[1])) {
        const struct entry *a = &merge->sources[0]->entry;
        const struct entry *b = &merge->sources[1]->entry;
        int order = key_compare(a->key, a->key_bytes, b->key, b->key_bytes);
        merge->is_tie = order == 0;
        merge->leader = order == 0 ? 0 : (order > 0) != merge->is_backward;
    } else if (merge->is_live[0] || merge->is_live[1]) {
        merge->leader = merge->is_live[0] ? 0 : 1;
    } else {
        return PLEAT_END;
    }
    merge->source.entry = merge->sources[merge->leader]->entry;
    return 0;
}

static int pair_position(struct merge *merge, enum motion motion, const uint8_t *key, size_t key_bytes) {
    merge->is_backward = motion == MOTION_LAST || motion == MOTION_SEEK_BEFORE;
    for (unsigned i = 0; i < 2; i++) {
        int rc = source_move(merge->sources[i], motion, key, key_bytes);
        if (rc < 0) {
            return merge_fail(merge, merge->sources[i], rc);
        }
        merge->is_live[i] = rc == 0;
    }
    return pair_show(merge);
}

static int pair_first(struct source *source) {
    return pair_position((struct merge *)source, MOTION_FIRST, NULL, 0);
}

static int pair_last(struct source *source) {
    return pair_position((struct merge *)source, MOTION_LAST, NULL, 0);
}

static int pair_seek(struct source *source, const uint8_t *key, size_t key_bytes) {
    merge_prepare(source, key, key_bytes);
    return pair_position((struct merge *)source, MOTION_SEEK, key, key_bytes);
}

static int pair_seek_before(struct source *source, const uint8_t *key, size_t key_bytes) {
    merge_prepare(source, key, key_bytes);
    return pair_position((struct merge *)source, MOTION_SEEK_BEFORE, key, key_bytes);
}

static inline int pair_advance(struct merge *merge, unsigned index) {
    struct source *source = merge->sources[index];
    int rc = merge->is_backward ? source->ops->prev(source) : source->ops->next(source);
    if (UNLIKELY(rc < 0)) {
        return merge_fail(merge, source, rc);
    }
    merge->is_live[index] = rc == 0;
    return 0;
}

/* Puts the other source behind the current key in the new direction; the winner still stands on it (G2). */
static int pair_turn(struct merge *merge, bool is_backward) {
    unsigned index = 1 - merge->leader;
    struct source *other = merge->sources[index];
    const struct entry *entry = &merge->source.entry;
    enum motion motion = is_backward ? MOTION_SEEK_BEFORE : MOTION_SEEK;
    int rc = source_move(other, motion, entry->key, entry->key_bytes);
    if (rc < 0) {
        return merge_fail(merge, other, rc);
    }
    merge->is_backward = is_backward;
    merge->is_live[index] = rc == 0;
    merge->is_tie = rc == 0 && key_compare(other->entry.key, other->entry.key_bytes, entry->key, entry->key_bytes) == 0;
    return 0;
}

static inline int pair_step(struct merge *merge) {
    if (UNLIKELY(merge->is_tie)) {
        merge->hidden++;
        int rc = pair_advance(merge, 1 - merge->leader);
        if (rc < 0) {
            return rc;
        }
    }
    int rc = pair_advance(merge, merge->leader);
    return UNLIKELY(rc < 0) ? rc : pair_show(merge);
}

static int pair_next(struct source *source) {
    struct merge *merge = (struct merge *)source;
    if (UNLIKELY(merge->is_backward)) {
        int rc = pair_turn(merge, false);
        if (rc < 0) {
            return rc;
        }
    }
    return pair_step(merge);
}

static int pair_prev(struct source *source) {
    struct merge *merge = (struct merge *)source;
    if (UNLIKELY(!merge->is_backward)) {
        int rc = pair_turn(merge, true);
        if (rc < 0) {
            return rc;
        }
    }
    return pair_step(merge);
}

static int pair_resume(struct merge *merge, int rc) {
    if (rc < 0) {
        return merge_fail(merge, merge->sources[merge->leader], rc);
    }
    merge->is_live[merge->leader] = rc == 0;
    if (merge->is_tie) {
        merge->hidden++;
        int moved = pair_advance(merge, 1 - merge->leader);
        if (moved < 0) {
            return moved;
        }
    }
    return pair_show(merge);
}

static const struct source_ops pair_ops = {
    .first = pair_first,
    .last = pair_last,
    .seek = pair_seek,
    .seek_before = pair_seek_before,
    .next = pair_next,
    .prev = pair_prev,
    .prepare = merge_prepare,
    .free = merge_free,
};

/* ---- more ------------------------------------------------------------------------------------------------------- */

/* Passes over what equals the last key shown, makes the winner the base and shows it. */
static inline int tree_show(struct merge *merge) {
    struct loser_tree *tree = &merge->tree;
    while (UNLIKELY(loser_tree_winner_code(tree) == 0)) {
        uint32_t leg = loser_tree_winner(tree);
        struct source *hidden = merge->sources[leg];
        merge->hidden++;
        int rc = merge->is_backward ? hidden->ops->prev(hidden) : hidden->ops->next(hidden);
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

static int tree_position(struct merge *merge, enum motion motion, const uint8_t *key, size_t key_bytes) {
    merge->is_backward = motion == MOTION_LAST || motion == MOTION_SEEK_BEFORE;
    loser_tree_reset(&merge->tree, merge->is_backward);
    for (size_t i = 0; i < merge->count; i++) {
        int rc = source_move(merge->sources[i], motion, key, key_bytes);
        if (rc < 0) {
            return merge_fail(merge, merge->sources[i], rc);
        }
        loser_tree_set(&merge->tree, (uint32_t)i, rc == 0 ? &merge->sources[i]->entry : NULL);
    }
    loser_tree_build(&merge->tree);
    return tree_show(merge);
}

static int tree_first(struct source *source) {
    return tree_position((struct merge *)source, MOTION_FIRST, NULL, 0);
}

static int tree_last(struct source *source) {
    return tree_position((struct merge *)source, MOTION_LAST, NULL, 0);
}

static int tree_seek(struct source *source, const uint8_t *key, size_t key_bytes) {
    merge_prepare(source, key, key_bytes);
    return tree_position((struct merge *)source, MOTION_SEEK, key, key_bytes);
}

static int tree_seek_before(struct source *source, const uint8_t *key, size_t key_bytes) {
    merge_prepare(source, key, key_bytes);
    return tree_position((struct merge *)source, MOTION_SEEK_BEFORE, key, key_bytes);
}

/* What the move of the winner returned becomes the tree's next state. */
static inline int tree_resume(struct merge *merge, int rc) {
    struct source *winner = merge->sources[loser_tree_winner(&merge->tree)];
    if (UNLIKELY(rc < 0)) {
        return merge_fail(merge, winner, rc);
    }
    loser_tree_set(&merge->tree, loser_tree_winner(&merge->tree), rc == 0 ? &winner->entry : NULL);
    loser_tree_replay(&merge->tree);
    return tree_show(merge);
}

/* Every other source goes around the current key, which is the tree's base and stays it; the winner steps (G2). */
static int tree_turn(struct merge *merge, bool is_backward) {
    struct loser_tree *tree = &merge->tree;
    uint32_t leader = loser_tree_winner(tree);
    enum motion motion = is_backward ? MOTION_SEEK_BEFORE : MOTION_SEEK;
    merge->is_backward = is_backward;
    loser_tree_turn(tree, is_backward);
    for (size_t i = 0; i < merge->count; i++) {
        struct source *source = merge->sources[i];
        int rc;
        if (i != leader) {
            rc = source_move(source, motion, tree->base, tree->base_bytes);
        } else {
            rc = is_backward ? source->ops->prev(source) : source->ops->next(source);
        }
        if (rc < 0) {
            return merge_fail(merge, source, rc);
        }
        loser_tree_set(tree, (uint32_t)i, rc == 0 ? &source->entry : NULL);
    }
    loser_tree_build(tree);
    return tree_show(merge);
}

static int tree_next(struct source *source) {
    struct merge *merge = (struct merge *)source;
    if (UNLIKELY(merge->is_backward)) {
        return tree_turn(merge, false);
    }
    struct source *winner = merge->sources[loser_tree_winner(&merge->tree)];
    return tree_resume(merge, winner->ops->next(winner));
}

static int tree_prev(struct source *source) {
    struct merge *merge = (struct merge *)source;
    if (UNLIKELY(!merge->is_backward)) {
        return tree_turn(merge, true);
    }
    struct source *winner = merge->sources[loser_tree_winner(&merge->tree)];
    return tree_resume(merge, winner->ops->prev(winner));
}

static const struct source_ops tree_ops = {
    .first = tree_first,
    .last = tree_last,
    .seek = tree_seek,
    .seek_before = tree_seek_before,
    .next = tree_next,
    .prev = tree_prev,
    .prepare = merge_prepare,
    .free = merge_free,
};

/* ---- making ----------------------------------------------------------------------------------------------------- */

int merge_source_new(const struct mem *mem, struct source **sources, size_t count, struct source **ret_source,
                     struct pleat_error *err) {
    if (count == 1) {
        *ret_source = sources[0];
        return 0;
    }
    ASSERT(count <= UINT32_MAX / 2);
    size_t legs = count > 2 ? count : 0;
    /* One block for all: merges are made for every short read over several runs. */
    size_t bytes = sizeof(struct merge) + count * sizeof(struct source *) + legs * sizeof(struct loser_leg) +
                   legs * sizeof(struct loser_node);
    struct merge *merge = mem_alloc(mem, bytes);
    if (merge == NULL) {
        for (size_t i = 0; i < count; i++) {
            source_free(sources[i]);
        }
        return error_no_memory(err, "a merge", bytes);
    }
    memset(merge, 0, offsetof(struct merge, tree));
    merge->mem = mem;
    merge->count = count;
    merge->sources = (struct source **)(merge + 1);
    if (count > 0) {
        memcpy(merge->sources, sources, count * sizeof(struct source *));
    }
    if (count > 2) {
        struct loser_leg *leg = (struct loser_leg *)(merge->sources + count);
        loser_tree_init(&merge->tree, mem, leg, (struct loser_node *)(leg + count), (uint32_t)count);
    }
    merge->source.ops = count > 2 ? &tree_ops : count == 2 ? &pair_ops : &empty_ops;
    *ret_source = &merge->source;
    return 0;
}

/* ---- for compaction --------------------------------------------------------------------------------------------- */

struct source *merge_source_winner(struct source *source) {
    struct merge *merge = (struct merge *)source;
    if (source->ops == &tree_ops) {
        return merge->sources[loser_tree_winner(&merge->tree)];
    }
    return source->ops == &pair_ops ? merge->sources[merge->leader] : source;
}

bool merge_source_others_beyond(struct source *source, const uint8_t *key, size_t key_bytes) {
    struct merge *merge = (struct merge *)source;
    if (source->ops == &pair_ops) {
        unsigned index = 1 - merge->leader;
        const struct entry *entry = &merge->sources[index]->entry;
        ASSERT(!merge->is_backward);
        return !merge->is_live[index] || key_compare(entry->key, entry->key_bytes, key, key_bytes) > 0;
    }
    if (source->ops != &tree_ops) {
        return true;
    }
    ASSERT(!merge->is_backward);
    for (uint32_t i = 0; i < merge->tree.count; i++) {
        const struct loser_leg *leg = &merge->tree.legs[i];
        if (i != loser_tree_winner(&merge->tree) && leg->code != LOSER_TREE_END &&
            key_compare(leg->key, leg->key_bytes, key, key_bytes) <= 0) {
            return false;
        }
    }
    return true;
}

int merge_source_resume(struct source *source, int rc) {
    struct merge *merge = (struct merge *)source;
    if (source->ops == &tree_ops) {
        ASSERT(!merge->is_backward);
        return tree_resume(merge, rc);
    }
    if (source->ops == &pair_ops) {
        ASSERT(!merge->is_backward);
        return pair_resume(merge, rc);
    }
    return rc;
}

uint64_t merge_source_hidden(const struct source *source) {
    bool is_merge = source->ops == &tree_ops || source->ops == &pair_ops;
    return is_merge ? ((const struct merge *)(const void *)source)->hidden : 0;
}

uint64_t merge_source_comparisons(const struct source *source) {
    return source->ops == &tree_ops ? ((const struct merge *)(const void *)source)->tree.deep : 0;
}
