/*
 * pleat.h - an embedded, ordered, on-disk key-value store for folds of change streams.
 *
 * A store holds named spaces (isolated ordered maps) and named resume cursors. One commit applies a batch of updates
 * over any spaces and sets cursors, all under one sequence number: both become visible together and survive together.
 * After any crash the store holds exactly the state after some prefix of the commits, and that prefix's cursors, in
 * every durability mode.
 *
 * The header reads as a course: status and errors; slices; options; open and close; spaces; batches; commits;
 * cursors and durability; point reads; snapshots; iterators and scans; settling; statistics; checking.
 *
 * Rules that hold everywhere
 *   - Functions that can fail return int: 0 ok, negative an error (enum pleat_status), positive a normal "no". The
 *     optional last argument `err` (may be NULL) is owned by the caller and receives code, errno and a text.
 *   - A refused call changes nothing.
 *   - Pointers that go in are borrowed for the call only. What comes out is owned by the caller and released with
 *     the function that its comment names, unless it says borrowed.
 *   - Options are size-first structs: PLEAT_OPTIONS(.cache_bytes = 1 << 30). Zero means the default.
 *   - Threads: a pleat_db and a pleat_space may be used by any number of threads at once. A batch, an iterator and a
 *     value belong to one thread at a time. A snapshot may be shared by readers and is freed once.
 *   - The library never prints, installs no signal handlers, and does not abort on input.
 */
#ifndef PLEAT_PLEAT_H
#define PLEAT_PLEAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define PLEAT_API __attribute__((visibility("default")))
#else
#define PLEAT_API
#endif

#define PLEAT_VERSION_MAJOR 0
#define PLEAT_VERSION_MINOR 1
#define PLEAT_VERSION_PATCH 0

/* "major.minor.patch" of the library that is linked; static storage. */
PLEAT_API const char *pleat_version(void);

/* ---- status and errors ------------------------------------------------------------------------------------------ */

enum pleat_status {
    PLEAT_OK = 0,

    PLEAT_ABSENT = 1,  /* the key, cursor or space is not there */
    PLEAT_END = 2,     /* the iterator has no further entry */
    PLEAT_SKIPPED = 3, /* the batch had been applied before; nothing changed */
    PLEAT_TIMEOUT = 4, /* the wait ended before the event */

    PLEAT_ERR_INVALID = -1,    /* the call is wrong: the text names the actual value and the limit */
    PLEAT_ERR_CORRUPT = -2,    /* a file is damaged: the text names file, offset, expected and found */
    PLEAT_ERR_IO = -3,         /* a system call failed: see os_errno. If that was a sync or a write of the log or the
                                * manifest, every later write is refused with the same error: see pleat_health */
    PLEAT_ERR_NO_MEMORY = -4,  /* nothing changed; the handle stays usable */
    PLEAT_ERR_NO_SPACE = -5,   /* the disk is full; nothing changed; goes on when space returns */
    PLEAT_ERR_BUSY = -6,       /* another handle or process holds the store, for writing or, when it is to be written,
                                * for reading: the text names the pid of a writer */
    PLEAT_ERR_MISMATCH = -7,   /* a stored cursor or incarnation is not the expected one */
    PLEAT_ERR_READ_ONLY = -8,  /* opened read-only, or read-only media */
    PLEAT_ERR_NOT_FOUND = -9,  /* no store or file of that name */
    PLEAT_ERR_EXISTS = -10,    /* a store or file of that name is there */
    PLEAT_ERR_NEWER = -11,     /* written by, or asked with, a newer version than this library */
    PLEAT_ERR_DENIED = -12,    /* no permission */
    PLEAT_ERR_CANCELLED = -13, /* a progress callback asked to stop */
    PLEAT_ERR_FORKED = -14,    /* the handle was opened before a fork and is used in the child */
};

#define PLEAT_ERROR_MESSAGE_BYTES 256

struct pleat_error {
    int code;                                /* 0, or a negative enum pleat_status */
    int os_errno;                            /* the errno behind it, or 0 */
    char message[PLEAT_ERROR_MESSAGE_BYTES]; /* NUL-terminated; lengths and names, never the bytes of keys or values */
};

/* The name of a status, for example "PLEAT_ERR_CORRUPT"; "unknown status" for others. Static storage. */
PLEAT_API const char *pleat_status_name(int status);

/* ---- slices ----------------------------------------------------------------------------------------------------- */

/* Borrowed bytes. data may be NULL when bytes is 0. */
struct pleat_slice {
    const void *data;
    size_t bytes;
};

/* ---- options ---------------------------------------------------------------------------------------------------- */

enum pleat_open_mode {
    PLEAT_OPEN_OR_CREATE = 0,
    PLEAT_MUST_EXIST = 1,
    PLEAT_MUST_NOT_EXIST = 2,
};

enum pleat_durability {
    PLEAT_SYNC_INTERVAL = 1, /* default: synced in the background, never on the commit path */
    PLEAT_SYNC_EACH = 2,     /* a commit returns when it is durable; one sync serves all that wait */
    PLEAT_SYNC_NONE = 3,     /* synced when tables are written, at close and when asked */
};

enum pleat_background {
    PLEAT_BACKGROUND_THREADS = 0, /* the store runs its own threads, `background_threads` of them */
    PLEAT_BACKGROUND_STEPS = 1,   /* no threads: the caller runs pleat_step; for tests and single-threaded hosts */
};

enum pleat_codec {
    PLEAT_CODEC_LZ4 = 1, /* default */
    PLEAT_CODEC_NONE = 2,
};

enum pleat_log_level {
    PLEAT_LOG_ERROR = 1,
    PLEAT_LOG_WARNING = 2,
    PLEAT_LOG_INFO = 3,
};

struct pleat_db;
struct pleat_space;
struct pleat_batch;
struct pleat_snapshot;
struct pleat_iter;
struct pleat_cache;

struct pleat_options {
    size_t size; /* sizeof of this struct: set by PLEAT_OPTIONS */

    uint32_t open_mode;  /* enum pleat_open_mode */
    uint32_t durability; /* enum pleat_durability; default PLEAT_SYNC_INTERVAL */
    bool read_only;      /* change nothing, not even a lock file; works on read-only media. Any number of these at
                          * once, but none beside one that writes: each keeps the other out */
    uint8_t unused[3];
    uint32_t file_mode;          /* permission bits of created files; default 0600 (the directory gets x where r) */
    uint64_t sync_interval_ms;   /* PLEAT_SYNC_INTERVAL: at most this long until durable; default 1000 */
    uint64_t sync_interval_bytes; /* ... and at most this much log; default 64 MiB */

    uint64_t cache_bytes;        /* budget of blocks, indexes and filters (2 bytes a key, of which 0.2 stay in memory);
                                    default 256 MiB; not with `cache` */
    struct pleat_cache *cache;   /* a cache shared with other stores; borrowed, must outlive the store */
    uint64_t memtable_bytes;     /* a generation is flushed at this size; default 64 MiB. While commits come, the log
                                    takes up to three times as much disk, of which one or two when they rest */
    uint64_t table_bytes;        /* target size of a table file; default 64 MiB */
    uint64_t level_base_bytes;   /* least target size of the first sorted level; default 256 MiB */
    uint32_t level_ratio;        /* size ratio of neighbouring levels; default 10 */
    uint32_t level0_tables;      /* runs in level 0 that start a compaction; default 4 */
    uint64_t value_bytes_max;    /* larger values are refused; default 256 MiB. Key, value and version together are at
                                  * most 4,294,967,167 bytes */
    uint32_t background;         /* enum pleat_background */
    uint32_t background_threads; /* default 2 */
    bool log_by_write;           /* write the log with pwrite instead of through a mapping */
    uint8_t unused2[3];
    uint32_t table_files_max;    /* table files that are kept open; default 512. Others are opened again when they are
                                  * read, some microseconds beside the read itself. The store takes so many of the
                                  * process's descriptors (ulimit -n) at most, one for each read and each written table
                                  * that is under way, and some ten. Where there is none left it closes table files
                                  * that nobody reads, and keeps fewer for a while; a read for which there is none
                                  * even when other reads have ended is PLEAT_ERR_IO */

    /* Called from any thread, never while a lock of the store is held that a reader needs. It may read the store, but
     * must not write, sync, wait, open a space or close. */
    void (*on_log)(void *context, int level, const char *message);
    void *on_log_context;
    /* Called after the durable position advanced: everything up to `sequence` of `history` is durable. From any thread,
     * now and then from one that is committing: it may read the store, but must not write, sync, wait, open a space or
     * close. Two calls may come out of order: the highest sequence counts. */
    void (*on_durable)(void *context, uint64_t history, uint64_t sequence);
    void *on_durable_context;
};

#define PLEAT_OPTIONS(...) (&(struct pleat_options){.size = sizeof(struct pleat_options), __VA_ARGS__})

/* Options of one space, fixed when it is created. */
struct pleat_space_options {
    size_t size;             /* sizeof of this struct: set by PLEAT_SPACE_OPTIONS */
    uint32_t open_mode;      /* enum pleat_open_mode */
    uint32_t codec;          /* enum pleat_codec; default LZ4 */
    uint32_t block_bytes;    /* target size of a block before compression; default 8 KiB; 64 .. 1 MiB */
    uint32_t group_bytes;    /* keys are grouped by this many leading bytes, for filters of prefix reads; or ... */
    uint32_t group_delimiters; /* ... by everything up to and including this many delimiters; at most one of both */
    uint8_t group_delimiter; /* the delimiter byte, for example '.' */
    uint8_t unused[3];
};

#define PLEAT_SPACE_OPTIONS(...)                                                                                       \
    (&(struct pleat_space_options){.size = sizeof(struct pleat_space_options), __VA_ARGS__})

/* ---- open and close --------------------------------------------------------------------------------------------- */

/*
 * A block cache that several stores of the process share.
 * capacity_bytes: budget of blocks, indexes and filters, at least 64 KiB. *ret_cache: owned, pleat_cache_free.
 */
PLEAT_API int pleat_cache_new(uint64_t capacity_bytes, struct pleat_cache **ret_cache, struct pleat_error *err);
/* After every store that uses it is closed. NULL is allowed. */
PLEAT_API void pleat_cache_free(struct pleat_cache *cache);

/*
 * Opens the store in the directory `path`, creating or recovering it.
 * options: borrowed, may be NULL for the defaults. *ret_db: owned, pleat_close; written only on success.
 * Returns 0; PLEAT_ERR_NOT_FOUND / EXISTS by mode; PLEAT_ERR_BUSY when held (names the pid); PLEAT_ERR_INVALID for a
 * foreign directory or nonsense options; PLEAT_ERR_CORRUPT, with the directory left as it was; PLEAT_ERR_NEWER for a
 * newer format. Cost: nothing per key after pleat_close; after a crash the log is read into memory, and written to
 * tables in the background: what it held is durable when that is done, and a first sync waits for it.
 */
PLEAT_API int pleat_open(const char *path, const struct pleat_options *options, struct pleat_db **ret_db,
                         struct pleat_error *err);

/*
 * Makes everything durable, stops the threads and frees the handle. NULL is allowed.
 * Returns 0; PLEAT_ERR_INVALID with nothing done while snapshots, iterators or pinned values are out (the text counts
 * them); PLEAT_ERR_FORKED with nothing done in a forked child, whose copy of the handle stays; any other error after
 * the handle is gone all the same: what was not durable is in the log for the next open.
 */
PLEAT_API int pleat_close(struct pleat_db *db, struct pleat_error *err);

/* 0, or the error that made the handle read-only, copied to err. Wait-free. */
PLEAT_API int pleat_health(const struct pleat_db *db, struct pleat_error *err);

/* ---- spaces ----------------------------------------------------------------------------------------------------- */

/* The space "default", which every store has. Borrowed from db, never fails. */
PLEAT_API struct pleat_space *pleat_default_space(struct pleat_db *db);

/*
 * Opens or creates the space `name` (1..255 bytes, any content). options may be NULL; for an existing space those
 * that are set must equal the stored ones. *ret_space: borrowed from db, valid until pleat_close, also after a drop
 * (every use is then refused). Creating is durable when it returns. At most 1,024 live spaces.
 */
PLEAT_API int pleat_space_open(struct pleat_db *db, struct pleat_slice name, const struct pleat_space_options *options,
                               struct pleat_space **ret_space, struct pleat_error *err);
/* Removes the space and all it holds without reading it; snapshots and iterators made before keep what they see.
 * Takes a sequence number; durable when it returns. The default space is refused. Waits for a flush. */
PLEAT_API int pleat_space_drop(struct pleat_space *space, struct pleat_error *err);
/* The same for its contents only; snapshots and iterators made before keep what they see. */
PLEAT_API int pleat_space_clear(struct pleat_space *space, struct pleat_error *err);
/* Calls back with each name in order of creation; a non-zero return stops and is returned unchanged. */
PLEAT_API int pleat_space_list(struct pleat_db *db, int (*callback)(void *context, struct pleat_slice name),
                               void *context, struct pleat_error *err);

/* ---- batches ---------------------------------------------------------------------------------------------------- */

/* *ret_batch: owned, pleat_batch_free; may be cleared and reused without allocation, for this db only. */
PLEAT_API int pleat_batch_new(struct pleat_db *db, struct pleat_batch **ret_batch, struct pleat_error *err);
PLEAT_API void pleat_batch_free(struct pleat_batch *batch);
PLEAT_API void pleat_batch_clear(struct pleat_batch *batch);
/* Updates in the batch, and bytes that it will take in the log. */
PLEAT_API size_t pleat_batch_count(const struct pleat_batch *batch);
PLEAT_API uint64_t pleat_batch_bytes(const struct pleat_batch *batch);

/* What may stand beside a value. All optional. */
struct pleat_attributes {
    struct pleat_slice version; /* 0..32 bytes, for example the upstream revision */
    bool has_flag;
    uint8_t flag; /* one byte of the user */
};

/* A later update of the same key in the same batch wins. Key 0..65,535 bytes, any content; an empty value is present.
 * Copies both into the batch. On an error the batch is as it was. */
PLEAT_API int pleat_batch_put(struct pleat_batch *batch, struct pleat_space *space, struct pleat_slice key,
                              struct pleat_slice value, struct pleat_error *err);
PLEAT_API int pleat_batch_put_with(struct pleat_batch *batch, struct pleat_space *space, struct pleat_slice key,
                                   struct pleat_slice value, const struct pleat_attributes *attributes,
                                   struct pleat_error *err);
/* Room for a value of value_bytes, to be filled in place before the next call on the batch (or its commit). */
PLEAT_API int pleat_batch_reserve(struct pleat_batch *batch, struct pleat_space *space, struct pleat_slice key,
                                  size_t value_bytes, const struct pleat_attributes *attributes, void **ret_value,
                                  struct pleat_error *err);
PLEAT_API int pleat_batch_delete(struct pleat_batch *batch, struct pleat_space *space, struct pleat_slice key,
                                 struct pleat_error *err);

/* A resume cursor as it is given. name: 0..255 bytes, default empty. value: 0..1,024 bytes; an empty cursor differs
 * from none. incarnation: 0..64 bytes, which stream the position belongs to; empty: not said. A store has at most 1,024
 * names at a time. */
struct pleat_cursor {
    struct pleat_slice name;
    struct pleat_slice value;
    struct pleat_slice incarnation;
    bool replace_incarnation; /* set: accept another incarnation than the stored one */
};

/* The commit will set this cursor. The same name twice: the later wins. */
PLEAT_API int pleat_batch_set_cursor(struct pleat_batch *batch, const struct pleat_cursor *cursor,
                                     struct pleat_error *err);
/* The commit will remove this cursor with its incarnation: it is then as if it had never been set; if there is none,
 * nothing. What fences it is pleat_batch_expect_cursor alone, and no incarnation. The same name set and removed in one
 * batch: the later wins, and a set keeps what incarnation is stored. A batch that does only this is a commit. Sets and
 * removals together: at most 1,024 names a batch. */
PLEAT_API int pleat_batch_remove_cursor(struct pleat_batch *batch, struct pleat_slice name, struct pleat_error *err);
/* The commit will be applied only if the stored cursor of that name equals `value`; NULL: only if there is none. */
PLEAT_API int pleat_batch_expect_cursor(struct pleat_batch *batch, struct pleat_slice name,
                                        const struct pleat_slice *value, struct pleat_error *err);

/* ---- commits ---------------------------------------------------------------------------------------------------- */

#define PLEAT_CURSOR_BYTES_MAX 1024
#define PLEAT_INCARNATION_BYTES_MAX 64

/* A cursor as it is stored: a copy, nothing to release. */
struct pleat_cursor_value {
    uint64_t history;  /* the history and ... */
    uint64_t sequence; /* ... the sequence number of the state that this cursor was read at */
    size_t bytes;
    size_t incarnation_bytes;
    uint8_t value[PLEAT_CURSOR_BYTES_MAX];
    uint8_t incarnation[PLEAT_INCARNATION_BYTES_MAX];
};

enum pleat_commit_sync {
    PLEAT_COMMIT_SYNC_DEFAULT = 0, /* as the store's durability says */
    PLEAT_COMMIT_SYNC = 1,         /* return when durable */
    PLEAT_COMMIT_NO_SYNC = 2,      /* do not wait */
};

struct pleat_commit_options {
    size_t size;          /* sizeof of this struct: set by PLEAT_COMMIT_OPTIONS */
    uint32_t sync;        /* enum pleat_commit_sync */
    bool skip_if_applied; /* PLEAT_SKIPPED when the batch sets cursors, each of which is <= the stored one as bytes and
                           * of the same incarnation as far as both are said, and none that it removes is there */
    uint8_t unused[3];
    struct pleat_cursor_value *actual; /* may be NULL; on PLEAT_ERR_MISMATCH the stored cursor of the name at fault */
    bool *actual_present;              /* may be NULL; whether there is a stored one */
};

#define PLEAT_COMMIT_OPTIONS(...) \
    (&(struct pleat_commit_options){.size = sizeof(struct pleat_commit_options), __VA_ARGS__})

/*
 * Applies the batch whole, or not at all, under the next sequence number. The batch is left as it is: at most 16 GiB in
 * the log, and 16 GiB of memory at 1.1 KiB an entry beside its bytes.
 * options may be NULL. ret_sequence may be NULL; written when the batch was applied, also if a sync failed then.
 * Returns 0: applied, visible to every later read, out of the process (kill -9 does not lose it), durable if synced.
 * PLEAT_SKIPPED; PLEAT_ERR_MISMATCH; PLEAT_ERR_NO_SPACE and PLEAT_ERR_NO_MEMORY with nothing applied; after a failed
 * sync or log write the handle is read-only with that error. An empty batch that sets or removes a cursor is a commit;
 * one that does neither takes no sequence number.
 * Blocking: may be delayed while flushes and compactions are behind, by at most 10 ms unless level 0 or both memtables
 * are full. Any thread.
 */
PLEAT_API int pleat_commit(struct pleat_db *db, struct pleat_batch *batch, const struct pleat_commit_options *options,
                           uint64_t *ret_sequence, struct pleat_error *err);

/* ---- cursors and durability ------------------------------------------------------------------------------------- */

enum pleat_position {
    PLEAT_APPLIED = 0, /* what reads see */
    PLEAT_DURABLE = 1, /* what survives a power loss: acknowledge upstream only this */
};

/* The cursor `name` as applied or as durable. Returns 0, PLEAT_ABSENT (ret_cursor: history and sequence only). */
PLEAT_API int pleat_cursor_read(struct pleat_db *db, struct pleat_slice name, enum pleat_position position,
                                struct pleat_cursor_value *ret_cursor, struct pleat_error *err);
/* Calls back with each named cursor of the position, in byte order of names; non-zero stops and is returned. */
PLEAT_API int pleat_cursor_list(struct pleat_db *db, enum pleat_position position,
                                int (*callback)(void *context, struct pleat_slice name,
                                                const struct pleat_cursor_value *cursor),
                                void *context, struct pleat_error *err);
/* History and sequence numbers of a position; either pointer may be NULL. Wait-free. */
PLEAT_API void pleat_position_read(const struct pleat_db *db, enum pleat_position position, uint64_t *ret_history,
                                   uint64_t *ret_sequence);
/* Returns when every commit that had returned before is durable. */
PLEAT_API int pleat_sync(struct pleat_db *db, struct pleat_error *err);
/* Waits until `sequence` is durable without asking for a sync: 0, PLEAT_TIMEOUT after timeout_ms, or the error that
 * made the handle read-only. PLEAT_ERR_INVALID for a sequence that no commit has had. */
PLEAT_API int pleat_wait_durable(struct pleat_db *db, uint64_t sequence, uint64_t timeout_ms, struct pleat_error *err);

/* ---- point reads ------------------------------------------------------------------------------------------------ */

#define PLEAT_VALUE_INLINE_BYTES 192

/* A value that was read. Small ones are copied into the struct, large ones pinned without a copy. Every value that a
 * call filled in with 0 is released once with pleat_value_release. The struct must not be moved while in use. */
struct pleat_value {
    const void *data; /* valid until release */
    size_t bytes;
    const uint8_t *version; /* valid until release */
    uint8_t version_bytes;
    bool has_flag;
    uint8_t flag;
    void *pin; /* internal */
    void *pin_owner; /* internal */
    uint8_t inline_version[32];
    uint8_t inline_bytes[PLEAT_VALUE_INLINE_BYTES];
};

/* snapshot: borrowed, NULL for the latest state. Returns 0 or PLEAT_ABSENT. Never waits for a writer. */
PLEAT_API int pleat_get(struct pleat_space *space, const struct pleat_snapshot *snapshot, struct pleat_slice key,
                        struct pleat_value *ret_value, struct pleat_error *err);
PLEAT_API void pleat_value_release(struct pleat_value *value);
/* Copies at most buffer_bytes of the value; *ret_bytes is its full length. Nothing to release. */
PLEAT_API int pleat_get_into(struct pleat_space *space, const struct pleat_snapshot *snapshot, struct pleat_slice key,
                             void *buffer, size_t buffer_bytes, size_t *ret_bytes, struct pleat_error *err);
/* 0 when present, PLEAT_ABSENT. */
PLEAT_API int pleat_exists(struct pleat_space *space, const struct pleat_snapshot *snapshot, struct pleat_slice key,
                           struct pleat_error *err);
/* Reads `count` keys at one position; ret_status[i] is 0 or PLEAT_ABSENT, ret_values[i] is to be released where 0.
 * On an error nothing is to be released. */
PLEAT_API int pleat_get_many(struct pleat_space *space, const struct pleat_snapshot *snapshot,
                             const struct pleat_slice *keys, size_t count, struct pleat_value *ret_values,
                             int *ret_status, struct pleat_error *err);

/* ---- snapshots -------------------------------------------------------------------------------------------------- */

/* A fixed state of all spaces and cursors. *ret_snapshot: owned, pleat_snapshot_free before pleat_close. It pins the
 * memtables and tables of its state: memory of at most two memtables, and the disk of tables replaced since. */
PLEAT_API int pleat_snapshot_new(struct pleat_db *db, struct pleat_snapshot **ret_snapshot, struct pleat_error *err);
PLEAT_API void pleat_snapshot_free(struct pleat_snapshot *snapshot);
PLEAT_API uint64_t pleat_snapshot_sequence(const struct pleat_snapshot *snapshot);
PLEAT_API int pleat_snapshot_cursor(const struct pleat_snapshot *snapshot, struct pleat_slice name,
                                    struct pleat_cursor_value *ret_cursor, struct pleat_error *err);

/* ---- iterators and scans ---------------------------------------------------------------------------------------- */

struct pleat_iter_options {
    size_t size; /* sizeof of this struct: set by PLEAT_ITER_OPTIONS */
    const struct pleat_snapshot *snapshot; /* borrowed until the iterator is freed; NULL: the state now */
    struct pleat_slice lower;              /* inclusive; used when has_lower */
    struct pleat_slice upper;              /* exclusive; used when has_upper */
    struct pleat_slice prefix;             /* only keys that begin with it; combines with the bounds */
    bool has_lower;
    bool has_upper;
    bool keys_only;  /* values, versions and flags are not read */
    bool reverse;    /* pleat_scan: from the last to the first */
    bool skip_cache; /* blocks that it loads do not displace others in the cache */
    uint8_t unused[3];
    uint64_t limit; /* pleat_scan: at most this many entries; 0: all */
};

#define PLEAT_ITER_OPTIONS(...) (&(struct pleat_iter_options){.size = sizeof(struct pleat_iter_options), __VA_ARGS__})

/* options may be NULL; its bytes are copied. *ret_iter: owned, pleat_iter_free; on no entry until it is positioned. */
PLEAT_API int pleat_iter_new(struct pleat_space *space, const struct pleat_iter_options *options,
                             struct pleat_iter **ret_iter, struct pleat_error *err);
PLEAT_API void pleat_iter_free(struct pleat_iter *iter);
/* Each returns 0 on an entry, PLEAT_END when there is none, or an error; after an error next and prev return it again,
 * and the others try anew. The key of a seek may lie in what the iterator lends. */
PLEAT_API int pleat_iter_first(struct pleat_iter *iter, struct pleat_error *err);
PLEAT_API int pleat_iter_last(struct pleat_iter *iter, struct pleat_error *err);
PLEAT_API int pleat_iter_seek(struct pleat_iter *iter, struct pleat_slice key, struct pleat_error *err); /* >= key */
PLEAT_API int pleat_iter_seek_before(struct pleat_iter *iter, struct pleat_slice key,
                                     struct pleat_error *err); /* < key */
PLEAT_API int pleat_iter_next(struct pleat_iter *iter, struct pleat_error *err); /* off the end: PLEAT_END again */
PLEAT_API int pleat_iter_prev(struct pleat_iter *iter, struct pleat_error *err);
/* Of the current entry: borrowed until the next call on the iterator; empty when it is on none. */
PLEAT_API struct pleat_slice pleat_iter_key(const struct pleat_iter *iter);
PLEAT_API struct pleat_slice pleat_iter_value(const struct pleat_iter *iter);
PLEAT_API struct pleat_slice pleat_iter_version(const struct pleat_iter *iter);
PLEAT_API bool pleat_iter_flag(const struct pleat_iter *iter, uint8_t *ret_flag); /* false when it has none */

/* A row as a scan hands it on: borrowed for the call. */
struct pleat_row {
    struct pleat_slice key;
    struct pleat_slice value;
    struct pleat_slice version;
    bool has_flag;
    uint8_t flag;
};

/* Streams the rows of a range in order. A non-zero return of the callback stops the scan and is returned unchanged.
 * The callback may read the store and commit to it; it sees the state at the call. */
PLEAT_API int pleat_scan(struct pleat_space *space, const struct pleat_iter_options *options,
                         int (*callback)(void *context, const struct pleat_row *row), void *context,
                         struct pleat_error *err);

/* ---- settling --------------------------------------------------------------------------------------------------- */

struct pleat_progress {
    uint64_t debt_bytes; /* compaction work left, an estimate */
    uint64_t done_bytes; /* written since the call began */
};

/* Flushes the memtables and waits until no compaction debt is left and the files that it made superfluous are removed
 * (but for those that an iterator or a snapshot still reads). progress (may be NULL) is called now and then; a non-zero
 * return ends the wait with PLEAT_ERR_CANCELLED, the work goes on in the background. */
PLEAT_API int pleat_settle(struct pleat_db *db, int (*progress)(void *context, const struct pleat_progress *progress),
                           void *context, struct pleat_error *err);
/* Flushes the memtables to tables and waits for it. */
PLEAT_API int pleat_flush(struct pleat_db *db, struct pleat_error *err);
/* Rewrites all tables of the space into its last level, dropping whatever is no longer visible. */
PLEAT_API int pleat_compact(struct pleat_space *space,
                            int (*progress)(void *context, const struct pleat_progress *progress), void *context,
                            struct pleat_error *err);
/* PLEAT_BACKGROUND_STEPS: runs one background job if there is one: 0, or PLEAT_END when there is nothing to do. */
PLEAT_API int pleat_step(struct pleat_db *db, struct pleat_error *err);

/* ---- statistics ------------------------------------------------------------------------------------------------- */

#define PLEAT_LEVELS 7

struct pleat_level_stats {
    uint64_t tables;
    uint64_t file_bytes;
    uint64_t entries;
    uint64_t tombstones;
};

struct pleat_stats {
    size_t size; /* sizeof of this struct, set by the caller */
    uint64_t history;
    uint64_t applied_sequence;
    uint64_t durable_sequence;
    uint64_t spaces;
    uint64_t snapshots;
    uint64_t memtable_bytes;  /* active */
    uint64_t frozen_bytes;    /* waiting for their flush */
    uint64_t memtable_entries;
    uint64_t log_bytes;       /* written to the live segments */
    uint64_t cache_capacity_bytes;
    uint64_t cache_used_bytes;
    uint64_t cache_hits;      /* sampled where exact counting would cost the reader */
    uint64_t cache_misses;
    uint64_t debt_bytes;
    uint64_t delay_ns;        /* that a commit of 16 KiB would be held back */
    uint64_t delayed_ns_total;
    uint64_t commits;
    uint64_t updates;
    uint64_t bytes_given;     /* keys and values of committed updates */
    uint64_t bytes_log;       /* written to logs since open */
    uint64_t bytes_flushed;   /* written by flushes since open */
    uint64_t bytes_compacted_in;
    uint64_t bytes_compacted_out;
    uint64_t flushes;
    uint64_t compactions;
    uint64_t moves;           /* tables moved a level down without rewriting */
    uint64_t syncs;           /* of the log */
    struct pleat_level_stats levels[PLEAT_LEVELS]; /* over all spaces */
    uint64_t table_files_open; /* now */
    uint64_t table_file_opens; /* since open, those of checks included */
};

/* ret_stats->size says how much the caller has room for; fields beyond are not written. */
PLEAT_API int pleat_stats_read(struct pleat_db *db, struct pleat_stats *ret_stats, struct pleat_error *err);

/* ---- checking --------------------------------------------------------------------------------------------------- */

struct pleat_check {
    uint64_t tables;
    uint64_t blocks;
    uint64_t entries;
    uint64_t log_segments;
    uint64_t log_records;
    uint64_t manifest_edits;
    uint64_t bytes;
};

/* Reads every table of the open store: all checksums, the order within and between tables, filters, counts.
 * *ret_check counts what was checked. Returns 0 or the first damage. */
PLEAT_API int pleat_check(struct pleat_db *db, struct pleat_check *ret_check, struct pleat_error *err);

#ifdef __cplusplus
}
#endif

#endif
