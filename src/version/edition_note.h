/*
 * edition_note.h - the notes in LOCK that say how far the manifest has come.
 *
 * LOCK is the one file that every store has, that is open and held while anything is written, and whose loss harms
 * nothing. Behind the holder's pid it has room for two notes, which are written in turn, so that a torn write leaves
 * one:
 *
 *     0  text (12)   12 zero (4)   16 note 0 (24)   40 note 1 (24)
 *
 *     note   0 u64 incarnation   8 u64 frames   16 u64 check: hash of bytes 0..15, keyed by the store id
 *
 * The sync of a note takes the place of that of a seal (M3 in manifest.h): an edit counts as done when its note is
 * synced. That is one sync for another, and a damage of the manifest does not reach it.
 *
 * Threads: one at a time (the registry's manifest mutex).
 */
#ifndef PLEAT_VERSION_EDITION_NOTE_H
#define PLEAT_VERSION_EDITION_NOTE_H

#include "base/edition.h"
#include "version/version.h"

#define EDITION_NOTES 2u

/* The highest edition that a valid note names; {0, 0} without one, also when the lock is NULL or cannot be read.
 * *ret_next: the note that may be overwritten. */
struct edition edition_note_read(const struct table_store *store, struct vfs_lock *lock, unsigned *ret_next);
/* Whether it could be written. Not synced. */
bool edition_note_write(const struct table_store *store, struct vfs_lock *lock, unsigned note, struct edition edition);

#endif
