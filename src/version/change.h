/*
 * change.h - what an edit makes of the current version: the next one, built whole before anything is written.
 */
#ifndef PLEAT_VERSION_CHANGE_H
#define PLEAT_VERSION_CHANGE_H

#include "version/version_internal.h"

struct change {
    struct version *version;    /* the next one; one reference */
    struct facts facts;         /* after the edit */
    struct cursor_set cursors;  /* after the edit, when it has a position */
    bool has_position;
    struct table_ref **gone;    /* of the current version, not in the next: obsolete once the edit is durable */
    size_t gone_count;
};

/* INVALID when the edit does not fit `current` or a value is out of range; NO_MEMORY. */
int change_build(struct registry *registry, const struct version *current, const struct facts *facts,
                 const struct edit *edit, struct change *ret_change, struct pleat_error *err);
void change_fini(struct change *change, const struct mem *mem);

#endif
