/*
 * version_internal.h - what the files of this room share: building trees and versions, table references, facts.
 *
 * A version under construction belongs to its builder: trees are made, levels are filled by level_push and brought into
 * order by level_finish; then the version is published and nothing in it changes any more (V1). The same two steps
 * serve replay (all tables at once) and an edit (the levels of the spaces that it touches).
 */
#ifndef PLEAT_VERSION_VERSION_INTERNAL_H
#define PLEAT_VERSION_VERSION_INTERNAL_H

#include "version/version.h"

/* What is wrong with a value, before anybody knows whether it is a caller's (INVALID) or a file's (CORRUPT). */
struct fault {
    const char *what; /* static text; NULL: nothing */
    uint64_t expected;
    uint64_t found;
};

static inline bool fault_set(struct fault *fault, const char *what, uint64_t expected, uint64_t found) {
    *fault = (struct fault){what, expected, found};
    return true;
}

/* PLEAT_ERR_INVALID with the fault as its text. */
int fault_invalid(const struct fault *fault, struct pleat_error *err);

/* Whether the values are out of their ranges, alone and in relation to each other; says how in *fault. */
bool table_meta_fault(const struct table_meta *meta, struct fault *fault);
bool space_info_fault(const struct space_info *space, struct fault *fault);

/* What a manifest holds beside spaces and tables. */
struct facts {
    uint64_t history;
    uint64_t history_sequence;
    uint64_t last_sequence;
    uint64_t log_floor;
    uint64_t log_synced;   /* the newest segment known synced with its header and name; 0: none */
    uint64_t number_bound; /* no file has this number or a higher one */
    uint64_t space_bound;  /* no space ever had this id or a higher one */
    bool clean;
};

struct tree *tree_new(struct registry *registry, const struct space_info *space);
void tree_ref(struct tree *tree);
void tree_unref(struct tree *tree); /* NULL is allowed */

/* Room for `count` tables in an empty level; then level_push cannot fail (it takes a reference of its own). */
int level_reserve(const struct mem *mem, struct level *level, size_t count, struct pleat_error *err);
void level_push(struct level *level, struct table_ref *ref);
/* Orders the tables of level `index`, makes sums and heads. PLEAT_ERR_INVALID with *fault when V2 cannot hold: expected
 * and found are then the numbers of the two tables that overlap. */
int level_finish(const struct mem *mem, struct level *level, unsigned index, struct fault *fault,
                 struct pleat_error *err);

/* An empty version, or (from not NULL) the successor of one that shares all its trees. One reference. */
struct version *version_new(struct registry *registry, const struct version *from);

#endif
