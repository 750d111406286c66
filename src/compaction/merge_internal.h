/*
 * merge_internal.h - what merge.c and merge_few.c share: the part of a merge that is the same in every shape.
 */
#ifndef PLEAT_COMPACTION_MERGE_INTERNAL_H
#define PLEAT_COMPACTION_MERGE_INTERNAL_H

#include "base/mem.h"
#include "base/source.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

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
};

static inline int merge_fail(struct merge *merge, struct source *from, int rc) {
    merge->source.error = from->error;
    return rc;
}

static inline int source_move(struct source *source, enum motion motion, const uint8_t *key, size_t key_bytes) {
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

static inline int source_step(struct source *source, bool is_backward) {
    return is_backward ? source->ops->prev(source) : source->ops->next(source);
}

void merge_prepare(struct source *source, const uint8_t *key, size_t key_bytes);
void merge_free_sources(struct merge *merge);

/* ---- merge_few.c ------------------------------------------------------------------------------------------------ */

#define MERGE_FEW_MAX 16u

/* How many bytes a merge of 2 to MERGE_FEW_MAX sources takes, and making it in them: `merge` is the memory's beginning,
 * its common part but for ops and sources is filled in. */
size_t merge_few_bytes(void);
void merge_few_init(struct merge *merge, struct source *const *sources);
bool merge_few_is(const struct source *source);
struct source *merge_few_winner(struct merge *merge);
bool merge_few_others_beyond(const struct merge *merge, const uint8_t *key, size_t key_bytes);
int merge_few_resume(struct merge *merge, int rc);

#endif
