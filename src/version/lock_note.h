/*
 * lock_note.h - the notes in LOCK that say how far the manifest has come, and how far the log is durable.
 *
 * LOCK is the one file that every store has, that is open and held while anything is written, and whose loss harms
 * nothing. Behind the holder's pid it has room for two notes of each kind, which are written in turn, so that a torn
 * write leaves one:
 *
 *     0  text (12)   12 zero (4)   16 edition 0 (24)   40 edition 1 (24)   64 durable 0 (24)   88 durable 1 (24)
 *
 *     edition  0 u64 incarnation   8 u64 frames   16 u64 check: hash of bytes 0..15, keyed by store id and kind
 *     durable  0 u64 sequence      8 u64 zero     16 u64 check, alike
 *
 * The sync of an edition's note takes the place of that of a seal (M3 in manifest.h): an edit counts as done when its
 * note is synced. That is one sync for another, and a damage of the manifest does not reach it.
 *
 * A durable note says what the marks of a log segment say (W7 in wal.h), where a damage of that segment, or an older
 * copy of it, does not reach. Like them it is written behind the sync, and no sync is made for it.
 *
 * Threads: one at a time for each kind (the registry's manifest mutex; the sync mutex of the store).
 */
#ifndef PLEAT_VERSION_LOCK_NOTE_H
#define PLEAT_VERSION_LOCK_NOTE_H

#include "base/edition.h"
#include "version/version.h"

#define LOCK_NOTES 2u /* of each kind */

/* The highest edition that a valid note names; {0, 0} without one, also when the lock is NULL or cannot be read.
 * *ret_next: the note that may be overwritten. */
struct edition edition_note_read(const struct table_store *store, struct vfs_lock *lock, unsigned *ret_next);
/* Whether it could be written. Not synced. */
bool edition_note_write(const struct table_store *store, struct vfs_lock *lock, unsigned note, struct edition edition);

/* The same for the last sequence that was durable; 0 without a valid note. */
uint64_t durable_note_read(const struct table_store *store, struct vfs_lock *lock, unsigned *ret_next);
/* May be lost: it is evidence, and never needed. */
void durable_note_write(const struct table_store *store, struct vfs_lock *lock, unsigned note, uint64_t sequence);

#endif
