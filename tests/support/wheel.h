/*
 * wheel.h - a reference whose state after any number of commits follows from that number alone, at no cost.
 *
 * A wheel has 80 slots and 10 hubs in each of two spaces, and a cursor. Commit k puts slot k % 80, deletes the slot
 * opposite, puts k under every hub, and sets the cursor to k: in both spaces, in one batch. So half of the slots are
 * there at any time, and a state is right when the slots and hubs are those of one k, and that k is the cursor's.
 *
 * Several writers have a wheel each. Keys begin with the place on the wheel and end with its number, so that the rows
 * of all wheels lie between one another, and any ten places in a row (or any prefix of four digits) have a hub, which
 * says of which k they are:
 *
 *     "00000/00" "00000/01" ... "00008/00" (a hub) ... "00089/03"
 */
#ifndef PLEAT_TESTS_WHEEL_H
#define PLEAT_TESTS_WHEEL_H

#include "pleat/pleat.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WHEEL_SPACES 2
#define WHEEL_SLOTS 80
#define WHEEL_PLACES 90 /* slots and hubs */
#define WHEEL_KEY_BYTES 16
#define WHEEL_VALUE_BYTES 2048 /* at most */
#define WHEEL_PRESENT UINT64_MAX

/* What was seen of one wheel in one space: which commit put what is there; 0: nothing; WHEEL_PRESENT: something. */
struct wheel_seen {
    uint64_t put_by[WHEEL_PLACES];
};

/* Opens or creates the spaces: the default one, and "wheel" with small blocks. */
int wheel_spaces(struct pleat_db *db, struct pleat_space *ret_spaces[WHEEL_SPACES], struct pleat_error *err);
/* The key of a place: into `buffer` of WHEEL_KEY_BYTES. */
struct pleat_slice wheel_key(char *buffer, unsigned place, unsigned wheel);
/* Clears the batch and puts all of commit k into it, the cursor too. */
int wheel_fill(struct pleat_batch *batch, struct pleat_space *const spaces[WHEEL_SPACES], unsigned wheel, uint64_t k,
               struct pleat_error *err);
/* The cursor of a wheel: 0 when there is none. snapshot may be NULL. */
int wheel_cursor(struct pleat_db *db, const struct pleat_snapshot *snapshot, unsigned wheel, uint64_t *ret_k,
                 struct pleat_error *err);

/* Notes a row of `space` in seen[wheel]. False when it is none of a wheel below `wheels`, came twice, or its value,
 * version and flag are not of one commit. keys_only: only the key is looked at. */
bool wheel_see(const struct pleat_row *row, size_t space, bool keys_only, unsigned wheels, struct wheel_seen *seen);
/* Whether places [from, to) are those of the state k. */
bool wheel_fits(const struct wheel_seen *seen, unsigned from, unsigned to, uint64_t k);
/* What the first hub in [from, to) says. */
uint64_t wheel_hub(const struct wheel_seen *seen, unsigned from, unsigned to);
/* Reads the whole state through the snapshot (NULL: one made here): cursors, scans of both spaces, every get. *ret_k:
 * of each wheel. False with a line in `text`. */
bool wheel_compare(struct pleat_db *db, struct pleat_space *const spaces[WHEEL_SPACES],
                   const struct pleat_snapshot *snapshot, unsigned wheels, uint64_t *ret_k, char *text,
                   size_t text_bytes);

#endif
