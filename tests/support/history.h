/*
 * history.h - the reference that a store is compared with: operation n of a history is a pure function of (seed, n).
 *
 * Every operation takes exactly one sequence number: a commit over several spaces with the cursor "n" (as text), or a
 * clear of one space. The state at any sequence is recomputed from nothing, so a store that was killed at any instant
 * is checked by asking it for its sequence alone: F2 is history_compare(history, db) == true.
 *
 * Keys are a fixed universe of awkward ones: empty, zero bytes, 0xff runs, prefixes of one another, long shared
 * prefixes.
 */
#ifndef PLEAT_TESTS_HISTORY_H
#define PLEAT_TESTS_HISTORY_H

#include "pleat/pleat.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HISTORY_SPACES 3
#define HISTORY_KEYS 64
#define HISTORY_SIDES 2

struct history {
    uint64_t seed;
    unsigned updates_max;    /* of one commit */
    size_t value_bytes_max;
    bool clears;             /* whether some operations clear a space */
};

/* What a key holds: the operation that put it, or 0. */
struct history_state {
    uint64_t sequence;
    uint64_t cursor;         /* the last commit, or 0 */
    uint64_t sides[HISTORY_SIDES]; /* of further cursors: the commit that set it, or 0 when there is none */
    uint64_t put_by[HISTORY_SPACES][HISTORY_KEYS];
};

struct pleat_slice history_key(size_t index);
/* Index of a key, or -1. */
int history_key_index(struct pleat_slice key);
/* The value that operation n puts under a key: its bytes are written to `buffer` (value_bytes_max). */
size_t history_value(const struct history *history, uint64_t n, size_t space, size_t key, uint8_t *buffer);
/* The state after operations 1..sequence. */
void history_state_at(const struct history *history, uint64_t sequence, struct history_state *ret_state);
/* Moves the state on by one operation. */
void history_state_step(const struct history *history, struct history_state *state);
bool history_is_clear(const struct history *history, uint64_t n, size_t *ret_space);

/* Opens (or creates) the spaces of the history. */
int history_spaces(struct pleat_db *db, struct pleat_space *ret_spaces[HISTORY_SPACES], struct pleat_error *err);
/* Applies operation n to the store. sync: as a commit option. Returns as pleat_commit or pleat_space_clear. */
int history_apply(const struct history *history, uint64_t n, struct pleat_db *db,
                  struct pleat_space *const spaces[HISTORY_SPACES], struct pleat_batch *batch, bool sync,
                  struct pleat_error *err);
/* Compares the state that the store shows (or shows through `snapshot`) with the one at its sequence: cursor, every key
 * by get, scans both ways. On a difference, false with a line in `text`. */
bool history_compare(const struct history *history, struct pleat_db *db,
                     struct pleat_space *const spaces[HISTORY_SPACES], const struct pleat_snapshot *snapshot,
                     char *text, size_t text_bytes);

#endif
