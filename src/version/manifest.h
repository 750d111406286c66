/*
 * manifest.h - the file MANIFEST: a whole state, then edits behind it; written, replaced and read frame by frame.
 *
 *   [header 56] [frame 0: state] [frame 1: edit] [frame 2: edit] ...
 *
 *   header  0 magic "PLEATMNF"   8 u32 format version   12 u32 zero   16 store id (16)
 *          32 u64 incarnation   40 u64 salt   48 u64 checksum of bytes 0..47
 *   frame   0 u32 payload bytes  4 u32 index   8 u64 checksum   16 payload
 *
 *   M1  The name MANIFEST always stands for a synced header and a synced frame 0: it is set by the rename of a synced
 *       file only. So damage there is never a torn write.
 *   M2  A frame's checksum is keyed by store, incarnation, salt, index and length: a frame of another file, an earlier
 *       attempt or another place never validates.
 *   M3  A frame is synced before the next one is written, so at most the last one can be torn. An invalid frame with a
 *       valid one anywhere behind it is damage; with none it was never reported as done, and is passed over.
 *       To make that so for the last frame, too, the edition is noted in LOCK once the frame is synced
 *       (lock_note.h), and that note is synced before the frame counts as done: a manifest below it is damage,
 *       whatever its end looks like.
 *       Beside it a *seal* is written behind the frame: an empty frame, in the place of the next one, which overwrites
 *       it. It says the same without LOCK, for as long as the page cache lives. Where no note can be written (a full
 *       disk), the seal is synced instead; only a disk that has no room for either goes without.
 *   M4  The header of a frame is written after its payload: an append that ran out of space left no valid frame, and
 *       the next one goes to the same place.
 *   M5  Nothing is appended to a file that this handle did not write: the first change after opening is a replacement.
 *       Its note is not synced: until the first edit the older file and the log say the same, and the first segment of
 *       the new log notes it, too.
 *
 * Threads: one at a time (the registry's manifest mutex).
 */
#ifndef PLEAT_VERSION_MANIFEST_H
#define PLEAT_VERSION_MANIFEST_H

#include "base/edition.h"
#include "version/version.h"

#define MANIFEST_NAME "MANIFEST"
#define MANIFEST_NAME_NEW "MANIFEST.new"
#define MANIFEST_FORMAT 1u
#define MANIFEST_HEADER_BYTES 56u
#define MANIFEST_FRAME_BYTES 16u

struct manifest {
    const struct table_store *store;
    struct vfs_lock *lock;   /* whose file has the notes; NULL: none are written */
    unsigned note;           /* the next one of them */
    struct vfs_file *file;   /* for appending; NULL until the first replacement (M5) */
    struct edition edition;  /* durable */
    uint64_t seed;           /* of frame checksums */
    uint64_t bytes;          /* where the next frame goes */
    uint32_t frames;
};

/* What a failed write left behind. */
enum manifest_outcome {
    MANIFEST_UNCHANGED, /* nothing of it will ever be seen */
    MANIFEST_UNKNOWN,   /* a later open may find it or not */
};

/* Closes the handle. */
void manifest_close(struct manifest *manifest);

/* Makes MANIFEST a fresh file whose frame 0 is `state`; from then on edits are appended to it. */
int manifest_replace(struct manifest *manifest, const uint8_t *state, size_t bytes,
                     enum manifest_outcome *ret_outcome, struct pleat_error *err);
/* Appends and syncs a frame, notes it and seals it (M3). */
int manifest_append(struct manifest *manifest, const uint8_t *edit, size_t bytes, enum manifest_outcome *ret_outcome,
                    struct pleat_error *err);

/* A MANIFEST in memory: read whole, because an invalid frame is judged by what lies behind it. */
struct manifest_reader {
    const struct mem *mem;
    uint8_t *data;
    uint64_t bytes;
    uint64_t offset;       /* of the next frame */
    uint32_t index;        /* of the next frame */
    uint64_t seed;
    struct edition edition; /* of what was read so far */
    uint8_t store_id[TABLE_STORE_ID_BYTES];
};

/* PLEAT_ERR_NOT_FOUND, CORRUPT, NEWER. */
int manifest_reader_open(const struct table_store *store, struct manifest_reader *ret_reader, struct pleat_error *err);
void manifest_reader_close(struct manifest_reader *reader);
/* The next frame: 0 with its payload (borrowed) and the payload's offset in the file; PLEAT_END behind the last valid
 * frame (reader->offset < reader->bytes: what follows was torn); CORRUPT. */
int manifest_reader_next(struct manifest_reader *reader, const uint8_t **ret_payload, size_t *ret_bytes,
                         uint64_t *ret_offset, struct pleat_error *err);

#endif
