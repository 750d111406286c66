/*
 * linear.h - whether commits and reads, as their callers saw them, fit one order: that of the sequence numbers.
 *
 * Every thread keeps a log of what it called: when the call began and ended on a clock that all threads share, and what
 * it gave or saw. The commits' numbers are the order, so the question is only where between them each read can stand:
 *
 *   - a read stands behind a commit s if it saw, of each of its keys, the value that commits 1..s leave;
 *   - a call that began after another had ended stands behind it. That covers all of: what was acknowledged must be
 *     seen, what was not yet asked for must not, and neither one thread nor two may see the state go back;
 *   - the numbers are dense.
 *
 * The check walks over begins and ends in the order of the clock with one number, the floor: the furthest place of all
 * calls that have ended. A call must find a place at or behind the floor of its begin (a commit: truly behind it), and
 * a read takes the first one. A later place could only raise floors, so where the first does not fit, none does: the
 * check is exact, not a sample (test_linear compares it with trying out every place).
 *
 * Values are numbers that no two commits share. A space that is cleared is a commit that puts 0 everywhere.
 */
#ifndef PLEAT_TESTS_LINEAR_H
#define PLEAT_TESTS_LINEAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LINEAR_ABSENT 0u
#define LINEAR_PRESENT UINT64_MAX /* of a read that learns of a key only that it is there */
#define LINEAR_UNKNOWN UINT64_MAX /* a sequence number that the call did not tell */

struct linear_item {
    uint64_t value;
    uint32_t key;
};

struct linear_event {
    uint64_t begin, end;
    uint64_t sequence;   /* of a commit: its own; of a read: the state that it named. LINEAR_UNKNOWN: not told.
                            Commits that did not tell, of one thread, took the missing numbers in order */
    size_t first, count; /* items: what a commit put, what a read saw */
    bool commit;
};

/* What one thread did, in any order. */
struct linear_log {
    unsigned thread; /* for the texts */
    struct linear_event *events;
    struct linear_item *items;
    size_t event_count, event_capacity;
    size_t item_count, item_capacity;
};

/* The state that a history starts from: updated to the one that it ends with, so that runs can be checked in parts. */
struct linear_state {
    uint64_t sequence;
    uint64_t *values; /* by key */
    uint32_t keys;
};

/* The clock must not have ticked backwards between any two threads. All abort without memory. */
void linear_begin(struct linear_log *log, bool commit, uint64_t now);
/* Of the call that began last; also after its end, for an iterator whose rows come later. */
void linear_item(struct linear_log *log, uint32_t key, uint64_t value);
void linear_end(struct linear_log *log, uint64_t sequence, uint64_t now);
/* Forgets the call that began last: it was refused. */
void linear_forget(struct linear_log *log);
void linear_log_clear(struct linear_log *log);
void linear_log_fini(struct linear_log *log);

/* True and *state moved on, or false with a line in `text`. */
bool linear_check(const struct linear_log *logs, size_t count, struct linear_state *state, char *text,
                  size_t text_bytes);

#endif
