/*
 * lives.h - the reference of a store that dies and goes on: which state each sequence number stands for.
 *
 * A lineage is the run of operations that a store's content is made of, one a sequence number. Each is a pure function
 * of the seed and of its stamp (life and sequence), so that what a later life writes under a sequence differs from what
 * a lost tail had written under the same. A store that lost its tail at S and goes on is lineage_cut(S) and new steps.
 *
 *     life 1:  1 2 3 4 5 6 7 ~ crash, recovered at 5
 *     life 2:  1 2 3 4 5 6'7'8' ~ crash, recovered at 7 ...
 *
 * Operations: commits over the spaces that exist (empty ones, and some larger than a memtable), with any of four
 * cursors, some with an incarnation or an expectation; a clear; a drop. Creating a space takes no sequence number: who
 * runs the store says which spaces exist when a step is made.
 */
#ifndef PLEAT_TESTS_LIVES_H
#define PLEAT_TESTS_LIVES_H

#include "support/history.h"

#define LIVES_SPACES HISTORY_SPACES
#define LIVES_KEYS HISTORY_KEYS
#define LIVES_CURSORS 4
#define LINEAGE_MAX 511

enum lives_kind { LIVES_COMMIT, LIVES_CLEAR, LIVES_DROP };

struct lives_step {
    uint64_t stamp; /* life << 32 | sequence */
    enum lives_kind kind;
    unsigned space;  /* that is cleared or dropped */
    unsigned exists; /* bit k: space k is there, so a commit may update it */
};

/* What holds after a step: the stamp of what put each value, cursor and incarnation; 0: none. */
struct lives_state {
    uint64_t put_by[LIVES_SPACES][LIVES_KEYS];
    uint64_t cursor[LIVES_CURSORS];
    uint64_t incarnation[LIVES_CURSORS];
};

struct lineage {
    uint64_t seed;
    uint64_t sequence;                        /* of the last step */
    struct lives_step steps[LINEAGE_MAX + 1]; /* [n] made states[n] */
    struct lives_state states[LINEAGE_MAX + 1];
    uint64_t digests[LINEAGE_MAX + 1]; /* of the states */
};

void lineage_begin(struct lineage *lineage, uint64_t seed);
/* Takes a step under the next sequence number. */
void lineage_push(struct lineage *lineage, uint32_t life, enum lives_kind kind, unsigned space, unsigned exists);
void lineage_cut(struct lineage *lineage, uint64_t sequence);

/* Opens space `k`, or (create) makes it. */
int lives_space(struct pleat_db *db, unsigned k, bool create, struct pleat_space **ret_space, struct pleat_error *err);
/* Does the step of the lineage's last sequence to the store, which stands one before. Spaces that do not exist are
 * NULL; a dropped one becomes NULL. */
int lives_apply(const struct lineage *lineage, struct pleat_db *db, struct pleat_space *spaces[LIVES_SPACES],
                struct pleat_batch *batch, bool sync, struct pleat_error *err);
/* Compares what the store shows (or shows through `snapshot`) with the state at `sequence`: every key by get, exists
 * and scans both ways, every cursor by name and by list. A space that is NULL is left out. On a difference, false with
 * a line in `text`. */
bool lives_compare(const struct lineage *lineage, uint64_t sequence, struct pleat_db *db,
                   struct pleat_space *const spaces[LIVES_SPACES], const struct pleat_snapshot *snapshot, char *text,
                   size_t text_bytes);
/* The cursors of a position alone. */
bool lives_compare_cursors(const struct lineage *lineage, uint64_t sequence, struct pleat_db *db,
                           enum pleat_position position, char *text, size_t text_bytes);

#endif
