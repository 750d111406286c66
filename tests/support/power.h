/*
 * power.h - what is known when the power fails, and whether an image of the disk keeps it.
 *
 * A path is one possible past: lives that wrote, crashed and went on, up to the moment of the crash that an image was
 * made of. From it follows what the image must show when a fresh engine opens it:
 *
 *   - the state after an exact prefix of the lineage, with that prefix's cursors (F2);
 *   - at or past all that was durable, or (after a kill) all that any reader had seen (F3);
 *   - spaces that were created are there, dropped ones are not;
 *   - no (history, sequence) pair that anyone ever saw names another content (F5): neither now, nor by what is written
 *     next;
 *   - what it shows as durable is the state at that sequence (F11), it can be written to, closed or killed, and opened
 *     again with all of that.
 */
#ifndef PLEAT_TESTS_POWER_H
#define PLEAT_TESTS_POWER_H

#include "db/db.h"
#include "support/lives.h"
#include "support/simfs.h"

#define POWER_LIVES_MAX 4
#define POWER_CHECK_LIFE 99 /* what is written to an image that is only looked at */

enum power_space { POWER_ABSENT, POWER_PRESENT, POWER_MAYBE /* its creation was under way */ };

/* A history that was seen, up to a sequence, with the digests of its states: borrowed. */
struct power_seen {
    uint64_t history;
    uint64_t sequence;
    const uint64_t *digests;
};

struct power_path {
    const struct pleat_options *options;
    const struct mem *mem;
    struct lineage *lineage; /* with the step that was under way */
    uint64_t returned;       /* floor after a kill */
    uint64_t durable;        /* floor after a power loss */
    bool opened;             /* an open had returned: the store must be there */
    enum power_space spaces[LIVES_SPACES];
    uint64_t dropping[LIVES_SPACES]; /* the sequence of a drop that was under way; 0: none */
    struct power_seen seen[POWER_LIVES_MAX];
    size_t seen_count;
};

/* What an image was found to be. */
struct power_found {
    uint64_t history;
    uint64_t sequence;
    unsigned exists; /* bit k: space k */
};

/* Whether an image that opens as `found` keeps what the path says; false with a line in `text`. For images whose
 * contents were looked at before, too: floors and histories rise while the disk stays the same. */
bool power_expect(const struct power_path *path, bool kill, const struct power_found *found, char *text,
                  size_t text_bytes);
/* Opens the image, looks at everything, writes on, closes or kills, opens again. The image is used up, but still the
 * caller's. */
bool power_check(const struct power_path *path, struct simfs *image, bool kill, struct power_found *ret_found,
                 char *text, size_t text_bytes);
/* Opens the spaces that are there; *ret_exists says which. */
int power_spaces(struct pleat_db *db, struct pleat_space *ret_spaces[LIVES_SPACES], unsigned *ret_exists,
                 struct pleat_error *err);

#endif
