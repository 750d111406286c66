/*
 * wal.h - the write-ahead log: records, segments, the chain between segments, replay.
 *
 * One log serves all spaces. One commit is one record under one dense sequence number. A batch is built in the
 * record's own encoding, so a commit fills in a header and copies once. Every segment is one generation: it is
 * rotated when the memtables freeze, or when the next record does not fit.
 *
 *   W1  Sequences in a segment are dense: each record's is its predecessor's plus one. (A jump is allowed only over
 *       sequences that the reader was told the manifest holds: see wal_reader_next.)
 *   W2  A record's checksum is keyed by store, segment and sequence: stale, moved or foreign bytes never validate.
 *   W3  A segment's header names its predecessor, the sequence and the running hash at which that one ended.
 *   W4  A record's length is stored last (release), so that a killed process leaves whole records only; a segment's
 *       magic likewise.
 *   W5  Records lie at multiples of 8; the rest of a segment is zero, or what an earlier segment has left in the file.
 *   W6  A record says the highest sequence known durable when it was written. If a missing or damaged record's
 *       sequence was durable according to anything later, it is damage, not a torn tail.
 *   W7  Behind each sync the segment is marked with the sequence that it reached, which no record says yet. A mark is
 *       written when its sequence is durable, so one that is there is true; one that is not shows nothing.
 */
#ifndef PLEAT_WAL_WAL_H
#define PLEAT_WAL_WAL_H

#include "base/edition.h"
#include "base/entry.h"
#include "base/mem.h"
#include "platform/vfs.h"
#include "pleat/pleat.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WAL_STORE_ID_BYTES 16
/* Header and marks, in front of a segment's first record: one for a record of n bytes needs WAL_HEADER_BYTES + n. */
#define WAL_HEADER_BYTES 160

/* Where a segment ends: what its successor's header names. */
struct wal_tail {
    uint64_t segment;       /* its file number; 0: there is no predecessor */
    uint64_t last_sequence; /* of its last record, or the sequence before its first when it has none */
    uint64_t running_hash;  /* over all of its records and, through the header, those before */
};

/* "000123.wal"; room for WAL_NAME_BYTES. */
#define WAL_NAME_BYTES 32
void wal_name(uint64_t segment, char ret_name[WAL_NAME_BYTES]);
/* Whether `name` is a segment's, and which. */
bool wal_name_parse(const char *name, uint64_t *ret_segment);

/* ---- building a record: this is a batch's storage --------------------------------------------------------------- */

struct wal_record {
    const struct mem *mem;
    uint8_t *bytes;      /* header room first, then the encoded entries */
    size_t used;         /* header included */
    size_t capacity;
    uint8_t *cursors;    /* the encoded cursors, appended when the record is sealed */
    size_t cursors_used;
    size_t cursors_capacity;
    uint32_t entries;
    uint32_t cursor_count;
};

void wal_record_init(struct wal_record *record, const struct mem *mem);
void wal_record_fini(struct wal_record *record);
void wal_record_clear(struct wal_record *record); /* keeps its memory */
/* Appends an entry for `space`. When entry->value is NULL and value_bytes > 0, zeroed room is left and *ret_value (may
 * be NULL otherwise) points to it until the next call. Returns 0, NO_MEMORY or INVALID (record over
 * LIMIT_RECORD_BYTES) with the record as it was. Lengths were checked by the caller. Cost: two copies of bytes. */
int wal_record_add(struct wal_record *record, uint32_t space, const struct entry *entry, void **ret_value,
                   struct pleat_error *err);

struct wal_cursor {
    const uint8_t *name;
    const uint8_t *value;
    const uint8_t *incarnation;
    uint32_t name_bytes;
    uint32_t value_bytes;
    uint32_t incarnation_bytes;
    bool replace_incarnation;
    bool removes; /* the cursor is gone: no value, no incarnation */
};
/* Sets or removes a cursor; an earlier one of the same name is replaced. Same returns as wal_record_add; INVALID also
 * above LIMIT_CURSORS names. Cost: looks at the record's other cursors. */
int wal_record_set_cursor(struct wal_record *record, const struct wal_cursor *cursor, struct pleat_error *err);
/* Bytes that the sealed record takes in a segment, padding included. */
uint64_t wal_record_bytes(const struct wal_record *record);

/* ---- reading the entries of a record ---------------------------------------------------------------------------- */

/* A record as it is read, in a batch or from a segment: borrowed bytes. */
struct wal_view {
    const uint8_t *entries;
    const uint8_t *entries_end;
    const uint8_t *cursors;
    const uint8_t *cursors_end;
    uint32_t entry_count;
    uint32_t cursor_count;
    uint64_t sequence;         /* 0 in a batch */
    uint64_t durable_sequence; /* known durable when it was written */
};

/* The view of a record that is being built. */
void wal_record_view(const struct wal_record *record, struct wal_view *ret_view);
/* Takes the next entry off the front of the view: 0, PLEAT_END, or PLEAT_ERR_CORRUPT (hostile bytes that passed the
 * checksum). entry->sequence is the view's; pointers are borrowed. */
int wal_view_entry(struct wal_view *view, uint32_t *ret_space, struct entry *ret_entry);
/* The same for cursors. */
int wal_view_cursor(struct wal_view *view, struct wal_cursor *ret_cursor);

/* ---- writing a segment ------------------------------------------------------------------------------------------ */

struct wal_writer;

struct wal_writer_options {
    const struct vfs *vfs;
    struct vfs_dir *dir;
    const struct mem *mem;
    const uint8_t *store_id;   /* WAL_STORE_ID_BYTES */
    uint64_t segment;          /* its file number, never used before */
    uint64_t bytes;            /* reserved size, the header included */
    struct wal_tail predecessor;
    uint64_t first_sequence;   /* of its first record */
    struct edition edition;    /* of the manifest, durable by now */
    uint32_t file_mode;
    bool by_write;
};

/* Makes the file, zeroes alone: a segment that was not begun, which holds nothing (wal_reader_open). Does not look at
 * predecessor, first_sequence and edition, which need not be known yet. Cost: milliseconds; tens of them beside a
 * flush, for which the file system lets it wait. */
int wal_writer_reserve(const struct wal_writer_options *options, struct wal_writer **ret_writer,
                       struct pleat_error *err);
/* Publishes the header of a reserved segment; all of the options are those of that one. On an error nothing may be
 * appended to it. The directory is not synced here: wal_writer_sync's caller sees to it. */
int wal_writer_begin(struct wal_writer *writer, const struct wal_writer_options *options, struct pleat_error *err);
/* Both. On an error the file is removed, if that works. */
int wal_writer_create(const struct wal_writer_options *options, struct wal_writer **ret_writer,
                      struct pleat_error *err);
/* Whether wal_writer_renew gains anything: the file is mapped, has `bytes`, and nothing has failed. */
bool wal_writer_can_renew(const struct wal_writer *writer, uint64_t bytes);
/* Makes a segment that was not begun of one that is dead, in the same file: its pages are in memory, and its blocks are
 * written already. options: as of wal_writer_reserve. What the old one held stays behind the header that is to come,
 * and validates no more (W2). No other thread is inside. On an error the file has either name, and holds nothing. */
int wal_writer_renew(struct wal_writer *writer, const struct wal_writer_options *options, struct pleat_error *err);
/* Closes the storage of a segment that holds nothing and removes its file from `dir`. NOT_FOUND counts as removed; on
 * another error the file may still be there. */
int wal_writer_remove(struct wal_writer *writer, struct vfs_dir *dir, struct pleat_error *err);
/* Closes the storage; what was published stays. NULL is allowed. */
void wal_writer_close(struct wal_writer *writer);
bool wal_writer_fits(const struct wal_writer *writer, uint64_t record_bytes);
/* Seals and appends the record under `sequence` (W1), which must fit. PLEAT_ERR_NO_SPACE: the record is out for
 * good, and the segment goes on. On any other error (by_write only) nothing later may be appended to it. One thread at
 * a time. Cost: one copy and one xxh3 pass. */
int wal_writer_append(struct wal_writer *writer, const struct wal_record *record, uint64_t sequence,
                      uint64_t durable_sequence, struct pleat_error *err);
/* The same in two halves, for a caller with something else to do while the bytes travel: what was copied counts for
 * nothing before it is sealed, and nothing else is done to the writer in between. */
struct wal_append {
    uint64_t bytes;
    uint64_t sequence;
    uint64_t check;
};
void wal_writer_copy(struct wal_writer *writer, const struct wal_record *record, uint64_t sequence,
                     uint64_t durable_sequence, struct wal_append *ret_append);
int wal_writer_seal(struct wal_writer *writer, const struct wal_append *append, struct pleat_error *err);
/* Durable: everything appended before the call (not its name: see dir_sync). May run beside an append. */
int wal_writer_sync(struct wal_writer *writer, struct pleat_error *err);
/* Notes that everything up to `sequence` is durable (W7). May run beside an append; one thread at a time marks. Cannot
 * fail: a mark that does not reach the file is one that a crash has lost. */
void wal_writer_mark(struct wal_writer *writer, uint64_t sequence);
/* Where it ends now; by the appending thread. */
struct wal_tail wal_writer_tail(const struct wal_writer *writer);
uint64_t wal_writer_used(const struct wal_writer *writer);
uint64_t wal_writer_number(const struct wal_writer *writer);
/* Touches the pages just ahead of the end so that appends do not fault. Any thread. Also of a reserved segment. */
void wal_writer_prepare(struct wal_writer *writer, uint64_t ahead_bytes);

/* ---- replay ----------------------------------------------------------------------------------------------------- */

struct wal_reader;

struct wal_header {
    uint64_t segment;
    struct wal_tail predecessor;
    uint64_t first_sequence;
    struct edition edition; /* how far the manifest had come when the segment was created; {0, 0}: not said */
    uint64_t missing_bytes; /* of the size with which it was created: cut, or created and never synced */
};

/* Opens and checks the header. PLEAT_END: cut short inside the header, or no magic: made ahead and not begun, or
 * created and never synced, unless wal_segment_probe finds that its first sector is lost. PLEAT_ERR_NEWER by format
 * version.
 *
 * PLEAT_ERR_CORRUPT when the header does not validate. A power loss may do that to a segment that was never synced: its
 * first sector is then garbage, or missing in front of records that survived. The caller tells by what else it knows
 * (a later segment or the manifest that names it) and by wal_segment_probe. */
int wal_reader_open(const struct vfs *vfs, struct vfs_dir *dir, const struct mem *mem, const uint8_t *store_id,
                    uint64_t segment, struct wal_reader **ret_reader, struct pleat_error *err);
void wal_reader_close(struct wal_reader *reader);
const struct wal_header *wal_reader_header(const struct wal_reader *reader);
/* The next valid record, also those at or below the floor: 0 with the view borrowed until the next call; PLEAT_END when
 * the next bytes are no valid record that may follow (then always); PLEAT_ERR_CORRUPT when they are one by their
 * checksum and do not decode. `floor` is the last sequence that the manifest holds: a record may jump over sequences
 * that are all at or below it. */
int wal_reader_next(struct wal_reader *reader, uint64_t floor, struct wal_view *ret_view, struct pleat_error *err);

/* Where the records returned so far end; the successor of a segment that was read whole names this. */
struct wal_tail wal_reader_tail(const struct wal_reader *reader);
/* The same as a byte of the file: where the next record would begin. */
uint64_t wal_reader_offset(const struct wal_reader *reader);

/* After PLEAT_END: how the segment ends. */
struct wal_end {
    struct wal_tail tail;      /* where the valid part ends */
    uint64_t offset;           /* of the first byte behind it */
    bool torn;                 /* non-zero bytes follow: torn, or of an earlier segment */
    bool record_behind;        /* a valid record of a later sequence follows: the hole is not a torn write */
    uint64_t durable_sequence; /* highest that any valid record, also one behind, says was durable */
};
/* Scans what follows the end. Cost: the rest of the segment once. */
int wal_reader_end(struct wal_reader *reader, struct wal_end *ret_end, struct pleat_error *err);

/* Looks for valid marks and records in a segment whose header does not validate. *ret_durable_sequence: the highest
 * that any of them says was durable, 0 without one. When that is above the sequence at which the segments before this
 * one end, records of this segment were durable, and the header with them: it is damaged. When not, nothing says that
 * it had ever been synced. Cost: the segment once. */
int wal_segment_probe(const struct vfs *vfs, struct vfs_dir *dir, const struct mem *mem, const uint8_t *store_id,
                      uint64_t segment, uint64_t *ret_durable_sequence, bool *ret_any_record,
                      struct pleat_error *err);

#endif
