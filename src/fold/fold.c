/*
 * fold.c - the small layer of fold.h: a shared core with one owner and any number of readers.
 *
 *   F-1  The core (store, space, batch) is closed by whoever lets go of it last: the owner or a reader.
 *   F-2  The batch belongs to the owner and is reused, so that an apply allocates nothing once it has grown.
 */
#include "pleat/fold.h"

#include "base/error.h"
#include "base/mem.h"

#include <stdatomic.h>

struct fold_core {
    struct pleat_db *db;
    struct pleat_space *space;
    _Atomic uint32_t refs;
};

struct pleat_fold {
    struct fold_core *core;
    struct pleat_batch *batch;
};

struct pleat_fold_reader {
    struct fold_core *core;
};

/* Closes the store with the last reference. */
static int fold_core_unref(struct fold_core *core, struct pleat_error *err) {
    int rc = 0;
    /* Release and acquire: every user's reads happen before the store is closed. */
    if (atomic_fetch_sub_explicit(&core->refs, 1, memory_order_acq_rel) == 1) {
        rc = pleat_close(core->db, err);
        if (rc == PLEAT_ERR_INVALID) {
            /* Values or iterators are out: the store stays open, and so does the core that names it. */
            atomic_fetch_add_explicit(&core->refs, 1, memory_order_relaxed);
            return rc;
        }
        mem_free(&mem_system, core);
    }
    return rc;
}

static int fold_check(const void *handle, struct pleat_error *err) {
    error_clear(err);
    return handle != NULL ? 0 : error_set(err, PLEAT_ERR_INVALID, 0, "the handle is NULL");
}

/* The default space has no groups: a grouped fold has a space of its own, and is found there whether or not the caller
 * says again how it is grouped. One that was begun without groups is never continued in another space than its own:
 * the cursor would promise content that is not there. */
static int fold_open_space(struct fold_core *core, uint8_t group_delimiter, uint32_t group_delimiters,
                           struct pleat_error *err) {
    struct pleat_slice name = {"fold", 4};
    struct pleat_space_options grouping = {.size = sizeof grouping,
                                           .open_mode = PLEAT_MUST_EXIST,
                                           .group_delimiter = group_delimiter,
                                           .group_delimiters = group_delimiters};
    int rc = pleat_space_open(core->db, name, &grouping, &core->space, err);
    if (rc != PLEAT_ERR_NOT_FOUND) {
        return rc;
    }
    error_clear(err);
    if (group_delimiters == 0) {
        core->space = pleat_default_space(core->db);
        return 0;
    }
    struct pleat_cursor_value cursor;
    rc = pleat_cursor_read(core->db, (struct pleat_slice){NULL, 0}, PLEAT_APPLIED, &cursor, err);
    if (rc != PLEAT_ABSENT) {
        return rc < 0 ? rc
                      : error_set(err, PLEAT_ERR_INVALID, 0,
                                  "group_delimiters is %u, the fold was created without groups: the limit is 0",
                                  group_delimiters);
    }
    grouping.open_mode = PLEAT_OPEN_OR_CREATE;
    return pleat_space_open(core->db, name, &grouping, &core->space, err);
}

int pleat_fold_open(const char *path, const struct pleat_options *options, uint8_t group_delimiter,
                    uint32_t group_delimiters, struct pleat_fold **ret_fold, struct pleat_cursor_value *ret_cursor,
                    struct pleat_error *err) {
    error_clear(err);
    if (ret_fold == NULL) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "ret_fold is NULL");
    }
    struct pleat_fold *fold = mem_zalloc(&mem_system, 1, sizeof *fold);
    struct fold_core *core = mem_zalloc(&mem_system, 1, sizeof *core);
    struct pleat_cursor_value cursor;
    int rc = fold == NULL || core == NULL ? error_no_memory(err, "a fold", sizeof *fold + sizeof *core) : 0;
    rc = rc == 0 ? pleat_open(path, options, &core->db, err) : rc;
    if (rc == 0) {
        fold->core = core;
        atomic_init(&core->refs, 1);
        rc = fold_open_space(core, group_delimiter, group_delimiters, err);
    }
    rc = rc == 0 ? pleat_batch_new(core->db, &fold->batch, err) : rc;
    rc = rc == 0 ? pleat_cursor_read(core->db, (struct pleat_slice){NULL, 0}, PLEAT_APPLIED,
                                     ret_cursor != NULL ? ret_cursor : &cursor, err)
                 : rc;
    if (rc < 0) {
        if (fold != NULL) {
            pleat_batch_free(fold->batch);
        }
        if (core != NULL) {
            (void)pleat_close(core->db, NULL);
        }
        mem_free(&mem_system, fold);
        mem_free(&mem_system, core);
        return rc;
    }
    *ret_fold = fold;
    return rc;
}

int pleat_fold_close(struct pleat_fold *fold, struct pleat_error *err) {
    error_clear(err);
    if (fold == NULL) {
        return 0;
    }
    int rc = fold_core_unref(fold->core, err);
    if (rc == PLEAT_ERR_INVALID) {
        return rc; /* values are out: the handle stays as it was, to be closed again */
    }
    pleat_batch_free(fold->batch); /* it holds memory alone: nothing of the store */
    mem_free(&mem_system, fold);
    return rc;
}

struct pleat_db *pleat_fold_db(struct pleat_fold *fold) {
    return fold != NULL ? fold->core->db : NULL;
}

struct pleat_space *pleat_fold_space(struct pleat_fold *fold) {
    return fold != NULL ? fold->core->space : NULL;
}

static int fold_add(struct pleat_fold *fold, const struct pleat_fold_update *update, struct pleat_error *err) {
    if (update->kind == PLEAT_FOLD_PUT) {
        struct pleat_attributes attributes = {.version = update->version};
        return pleat_batch_put_with(fold->batch, fold->core->space, update->key, update->value, &attributes, err);
    }
    if (update->kind == PLEAT_FOLD_DELETE || update->kind == PLEAT_FOLD_PURGE) {
        return pleat_batch_delete(fold->batch, fold->core->space, update->key, err);
    }
    return error_set(err, PLEAT_ERR_INVALID, 0, "kind is %d, the limits are %d to %d", (int)update->kind,
                     PLEAT_FOLD_PUT, PLEAT_FOLD_PURGE);
}

int pleat_fold_apply(struct pleat_fold *fold, const struct pleat_fold_update *updates, size_t count,
                     struct pleat_slice cursor, const struct pleat_slice *expected, struct pleat_error *err) {
    int rc = fold_check(fold, err);
    if (rc < 0 || (updates == NULL && count > 0)) {
        return rc < 0 ? rc : error_set(err, PLEAT_ERR_INVALID, 0, "updates is NULL with a count of %zu", count);
    }
    pleat_batch_clear(fold->batch);
    for (size_t i = 0; i < count; i++) {
        struct pleat_error about = {0};
        rc = fold_add(fold, &updates[i], &about);
        if (rc < 0) {
            return error_set(err, rc, about.os_errno, "update %zu of %zu: %s", i, count, about.message);
        }
    }
    struct pleat_cursor position = {.value = cursor};
    rc = pleat_batch_set_cursor(fold->batch, &position, err);
    if (rc == 0 && expected != NULL) {
        bool none = expected->data == NULL && expected->bytes == 0;
        rc = pleat_batch_expect_cursor(fold->batch, (struct pleat_slice){NULL, 0}, none ? NULL : expected, err);
    }
    return rc == 0 ? pleat_commit(fold->core->db, fold->batch, NULL, NULL, err) : rc;
}

int pleat_fold_sync(struct pleat_fold *fold, struct pleat_error *err) {
    int rc = fold_check(fold, err);
    return rc < 0 ? rc : pleat_sync(fold->core->db, err);
}

int pleat_fold_settle(struct pleat_fold *fold,
                      int (*progress)(void *context, const struct pleat_progress *progress), void *context,
                      struct pleat_error *err) {
    int rc = fold_check(fold, err);
    return rc < 0 ? rc : pleat_settle(fold->core->db, progress, context, err);
}

/* ---- reads, the same for the owner and for readers -------------------------------------------------------------- */

static int fold_core_cursor(struct fold_core *core, enum pleat_position position,
                            struct pleat_cursor_value *ret_cursor, struct pleat_error *err) {
    return pleat_cursor_read(core->db, (struct pleat_slice){NULL, 0}, position, ret_cursor, err);
}

static int fold_core_range(struct fold_core *core, struct pleat_slice lower, struct pleat_slice upper, uint64_t limit,
                           int (*callback)(void *context, const struct pleat_row *row), void *context,
                           struct pleat_error *err) {
    struct pleat_iter_options options = {
        .size = sizeof options,
        .lower = lower,
        .has_lower = lower.bytes > 0,
        .upper = upper,
        .has_upper = upper.data != NULL || upper.bytes > 0,
        .limit = limit,
    };
    return pleat_scan(core->space, &options, callback, context, err);
}

static int fold_core_each(struct fold_core *core, struct pleat_slice prefix,
                          int (*callback)(void *context, const struct pleat_row *row), void *context,
                          struct pleat_error *err) {
    struct pleat_iter_options options = {.size = sizeof options, .prefix = prefix};
    return pleat_scan(core->space, &options, callback, context, err);
}

int pleat_fold_cursor(struct pleat_fold *fold, enum pleat_position position, struct pleat_cursor_value *ret_cursor,
                      struct pleat_error *err) {
    int rc = fold_check(fold, err);
    return rc < 0 ? rc : fold_core_cursor(fold->core, position, ret_cursor, err);
}

int pleat_fold_get(struct pleat_fold *fold, struct pleat_slice key, struct pleat_value *ret_value,
                   struct pleat_error *err) {
    int rc = fold_check(fold, err);
    return rc < 0 ? rc : pleat_get(fold->core->space, NULL, key, ret_value, err);
}

int pleat_fold_range(struct pleat_fold *fold, struct pleat_slice lower, struct pleat_slice upper, uint64_t limit,
                     int (*callback)(void *context, const struct pleat_row *row), void *context,
                     struct pleat_error *err) {
    int rc = fold_check(fold, err);
    return rc < 0 ? rc : fold_core_range(fold->core, lower, upper, limit, callback, context, err);
}

int pleat_fold_each(struct pleat_fold *fold, struct pleat_slice prefix,
                    int (*callback)(void *context, const struct pleat_row *row), void *context,
                    struct pleat_error *err) {
    int rc = fold_check(fold, err);
    return rc < 0 ? rc : fold_core_each(fold->core, prefix, callback, context, err);
}

int pleat_fold_reader_new(struct pleat_fold *fold, struct pleat_fold_reader **ret_reader, struct pleat_error *err) {
    int rc = fold_check(fold, err);
    if (rc < 0 || ret_reader == NULL) {
        return rc < 0 ? rc : error_set(err, PLEAT_ERR_INVALID, 0, "ret_reader is NULL");
    }
    struct pleat_fold_reader *reader = mem_zalloc(&mem_system, 1, sizeof *reader);
    if (reader == NULL) {
        return error_no_memory(err, "a reader", sizeof *reader);
    }
    reader->core = fold->core;
    atomic_fetch_add_explicit(&fold->core->refs, 1, memory_order_relaxed); /* the owner holds one: no partner */
    *ret_reader = reader;
    return 0;
}

void pleat_fold_reader_free(struct pleat_fold_reader *reader) {
    if (reader != NULL) {
        (void)fold_core_unref(reader->core, NULL);
        mem_free(&mem_system, reader);
    }
}

int pleat_fold_reader_get(struct pleat_fold_reader *reader, struct pleat_slice key, struct pleat_value *ret_value,
                          struct pleat_error *err) {
    int rc = fold_check(reader, err);
    return rc < 0 ? rc : pleat_get(reader->core->space, NULL, key, ret_value, err);
}

int pleat_fold_reader_range(struct pleat_fold_reader *reader, struct pleat_slice lower, struct pleat_slice upper,
                            uint64_t limit, int (*callback)(void *context, const struct pleat_row *row),
                            void *context, struct pleat_error *err) {
    int rc = fold_check(reader, err);
    return rc < 0 ? rc : fold_core_range(reader->core, lower, upper, limit, callback, context, err);
}

int pleat_fold_reader_each(struct pleat_fold_reader *reader, struct pleat_slice prefix,
                           int (*callback)(void *context, const struct pleat_row *row), void *context,
                           struct pleat_error *err) {
    int rc = fold_check(reader, err);
    return rc < 0 ? rc : fold_core_each(reader->core, prefix, callback, context, err);
}

int pleat_fold_reader_cursor(struct pleat_fold_reader *reader, enum pleat_position position,
                             struct pleat_cursor_value *ret_cursor, struct pleat_error *err) {
    int rc = fold_check(reader, err);
    return rc < 0 ? rc : fold_core_cursor(reader->core, position, ret_cursor, err);
}
