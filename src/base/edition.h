/*
 * edition.h - how far a manifest has come: which replacement of the file, and how many of its frames.
 *
 * The manifest is the root of a store: nothing refers to it. A manifest that lost its end, or an older one in its
 * place, is as sound as any. So other files note the edition that was durable when they were written (the notes of
 * LOCK: version/lock_note.h; the header of a log segment: wal/wal.h), and a manifest below it is damage.
 *
 *   E1  An edition is noted only when that much of the manifest is durable: no crash leaves a note above the manifest
 *       that it leaves.
 *   E2  Editions only go up: a replacement counts the incarnation on, a frame is never taken back.
 *   E3  A note that is missing, damaged or of another store says nothing. None is needed to read a store.
 */
#ifndef PLEAT_BASE_EDITION_H
#define PLEAT_BASE_EDITION_H

#include <stdbool.h>
#include <stdint.h>

struct edition {
    uint64_t incarnation; /* of the file, from 1; 0: nothing is known */
    uint64_t frames;      /* up to the last one that changed something: seals do not count */
};

static inline bool edition_is_below(struct edition a, struct edition b) {
    return a.incarnation < b.incarnation || (a.incarnation == b.incarnation && a.frames < b.frames);
}

#endif
