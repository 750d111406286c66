/*
 * fold.h - exactly what a consumer of a change stream wants, on top of pleat.h.
 *
 *     open        -> the cursor to resume from
 *     apply       (puts, deletes and purges with versions, cursor): all of it or nothing, in one call
 *     get, range, each: reads, also from other threads through a reader
 *     settle      after a long catch-up
 *
 * A fold keeps its keys in one space ("default", or "fold" when keys are grouped) and its position in the cursor of the
 * empty name. Everything that pleat.h promises holds; errors and ownership are as there.
 *
 * Threads: apply and close belong to one thread at a time. Reads may run beside apply from any number of threads;
 * beside close only those through a reader, which keeps the store open.
 */
#ifndef PLEAT_FOLD_H
#define PLEAT_FOLD_H

#include "pleat/pleat.h"

#ifdef __cplusplus
extern "C" {
#endif

struct pleat_fold;
struct pleat_fold_reader;

enum pleat_fold_kind {
    PLEAT_FOLD_PUT = 1,
    PLEAT_FOLD_DELETE = 2,
    PLEAT_FOLD_PURGE = 3, /* a delete that also ends the key's history upstream; the state after it is the same */
};

/* One change of the stream: borrowed bytes. */
struct pleat_fold_update {
    enum pleat_fold_kind kind;
    struct pleat_slice key;
    struct pleat_slice value;   /* of a put */
    struct pleat_slice version; /* of a put, 0..32 bytes: the upstream revision, kept beside the value */
};

/*
 * Opens or creates the fold in the directory `path`.
 * options: borrowed, NULL for the defaults. group_delimiter: keys up to and including `group_delimiters` of these form
 * a group, so that prefix reads of a group skip tables; 0 delimiters: no groups, or as the fold was created;
 * others than it was created with are refused.
 * *ret_cursor (may be NULL): where to resume.
 * Returns 0; PLEAT_ABSENT: opened, and nothing was applied yet; errors as pleat_open. *ret_fold: owned,
 * pleat_fold_close.
 */
PLEAT_API int pleat_fold_open(const char *path, const struct pleat_options *options, uint8_t group_delimiter,
                              uint32_t group_delimiters, struct pleat_fold **ret_fold,
                              struct pleat_cursor_value *ret_cursor, struct pleat_error *err);
/* Ends the owner's handle. The store is closed with it, or with the last reader. NULL is allowed. */
PLEAT_API int pleat_fold_close(struct pleat_fold *fold, struct pleat_error *err);
/* The store below, for everything that this layer leaves out. Borrowed. The default cursor is the fold's: do not remove
 * it, nor use a space named "fold". */
PLEAT_API struct pleat_db *pleat_fold_db(struct pleat_fold *fold);
PLEAT_API struct pleat_space *pleat_fold_space(struct pleat_fold *fold);

/*
 * Applies `count` updates in order and sets the cursor, whole or not at all, under one sequence number.
 * cursor: 0..1,024 bytes. expected (may be NULL): the stored cursor must equal it, a slice with data NULL and bytes 0
 * meaning "none yet"; otherwise PLEAT_ERR_MISMATCH and nothing changed.
 * Returns as pleat_commit. An error names the index of the update that it is about.
 */
PLEAT_API int pleat_fold_apply(struct pleat_fold *fold, const struct pleat_fold_update *updates, size_t count,
                               struct pleat_slice cursor, const struct pleat_slice *expected, struct pleat_error *err);
/* The cursor as applied or as durable: 0 or PLEAT_ABSENT. */
PLEAT_API int pleat_fold_cursor(struct pleat_fold *fold, enum pleat_position position,
                                struct pleat_cursor_value *ret_cursor, struct pleat_error *err);
/* Waits until all that was applied is durable: then upstream may be acknowledged. */
PLEAT_API int pleat_fold_sync(struct pleat_fold *fold, struct pleat_error *err);
PLEAT_API int pleat_fold_settle(struct pleat_fold *fold,
                                int (*progress)(void *context, const struct pleat_progress *progress), void *context,
                                struct pleat_error *err);

/* Value and version of a key: 0 (release with pleat_value_release) or PLEAT_ABSENT. */
PLEAT_API int pleat_fold_get(struct pleat_fold *fold, struct pleat_slice key, struct pleat_value *ret_value,
                             struct pleat_error *err);
/* Streams the rows with lower <= key < upper (an upper of data NULL and bytes 0: to the end), at most `limit` (0: all).
 */
PLEAT_API int pleat_fold_range(struct pleat_fold *fold, struct pleat_slice lower, struct pleat_slice upper,
                               uint64_t limit, int (*callback)(void *context, const struct pleat_row *row),
                               void *context, struct pleat_error *err);
/* Streams the rows whose key begins with `prefix`. */
PLEAT_API int pleat_fold_each(struct pleat_fold *fold, struct pleat_slice prefix,
                              int (*callback)(void *context, const struct pleat_row *row), void *context,
                              struct pleat_error *err);

/*
 * A handle for reading from other threads. It does not point at the pleat_fold: the owner may be moved, handed on or
 * closed while readers live; the store stays open until the last of them is freed.
 * *ret_reader: owned, pleat_fold_reader_free, after every value that was read is released. A reader may be shared by
 * threads.
 */
PLEAT_API int pleat_fold_reader_new(struct pleat_fold *fold, struct pleat_fold_reader **ret_reader,
                                    struct pleat_error *err);
PLEAT_API void pleat_fold_reader_free(struct pleat_fold_reader *reader);
PLEAT_API int pleat_fold_reader_get(struct pleat_fold_reader *reader, struct pleat_slice key,
                                    struct pleat_value *ret_value, struct pleat_error *err);
PLEAT_API int pleat_fold_reader_range(struct pleat_fold_reader *reader, struct pleat_slice lower,
                                      struct pleat_slice upper, uint64_t limit,
                                      int (*callback)(void *context, const struct pleat_row *row), void *context,
                                      struct pleat_error *err);
PLEAT_API int pleat_fold_reader_each(struct pleat_fold_reader *reader, struct pleat_slice prefix,
                                     int (*callback)(void *context, const struct pleat_row *row), void *context,
                                     struct pleat_error *err);
PLEAT_API int pleat_fold_reader_cursor(struct pleat_fold_reader *reader, enum pleat_position position,
                                       struct pleat_cursor_value *ret_cursor, struct pleat_error *err);

#ifdef __cplusplus
}
#endif

#endif
