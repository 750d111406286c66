/*
 * replay.h - from the frames of a MANIFEST to a version, facts and cursors.
 *
 * Replay keeps every table that was ever added in one array, found by number through a small hash table, and builds
 * levels once, at the end: a manifest of n edits over m tables costs n + m log m and not n times m.
 */
#ifndef PLEAT_VERSION_REPLAY_H
#define PLEAT_VERSION_REPLAY_H

#include "version/edit_codec.h"
#include "version/version_internal.h"

struct replay_table;
struct replay_space;

struct replay {
    struct registry *registry;
    struct facts facts;
    struct cursor_set cursors;
    uint64_t cursors_missing;     /* cursor fields that the last position announced and that have not come yet */
    uint64_t frames;
    struct replay_space *spaces;  /* by slot */
    size_t space_count, space_capacity;
    size_t space_last;            /* where the last search by id ended */
    struct replay_table *tables;  /* in the order in which they came */
    size_t table_count, table_capacity;
    uint32_t *index;              /* open addressing by number: place in `tables` plus 1; 0: free */
    size_t index_capacity;        /* a power of two, or 0 */
};

void replay_init(struct replay *replay, struct registry *registry);
void replay_fini(struct replay *replay);
/* Applies one frame. CORRUPT when it does not fit what came before; NEWER; NO_MEMORY. */
int replay_frame(struct replay *replay, const uint8_t *payload, size_t bytes, uint64_t offset,
                 struct pleat_error *err);
/* The version that the frames add up to. facts and cursors are the replay's own. */
int replay_finish(struct replay *replay, struct version **ret_version, struct pleat_error *err);

#endif
