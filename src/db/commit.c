/*
 * commit.c - one batch becomes one sequence number: checks, room, log, memtables, publication.
 *
 *   1 the state is checked: health, spaces, cursors          nothing changed on an error
 *   2 room is made: arena, log segment, cursor table         (a rotation may have happened: no content changed)
 *   3 the record is copied into the log and published        from here on the commit is in
 *   4 its entries go into the memtables                      cannot fail: room was reserved
 *   5 cursors and the visible sequence change together       readers see it
 *   6 a sync is awaited, if asked for                        without the commit lock
 */
#include "base/assert.h"
#include "base/bytes.h"
#include "db/db.h"

#include <inttypes.h>
#include <string.h>

/* The log thread is asked to make things ready so often: in bytes of log, and four times a small memtable. */
#define POPULATE_ASK_BYTES (1u << 20)
#define POPULATE_ASK_PARTS 4

void cursor_value_fill(struct pleat_cursor_value *ret, const struct cursor_entry *cursor, uint64_t history,
                       uint64_t sequence) {
    ret->history = history;
    ret->sequence = sequence;
    ret->bytes = 0;
    ret->incarnation_bytes = 0;
    if (cursor != NULL) {
        ret->bytes = cursor->value_bytes;
        memcpy(ret->value, cursor->value, cursor->value_bytes);
        ret->incarnation_bytes = cursor->incarnation_bytes;
        memcpy(ret->incarnation, cursor->incarnation, cursor->incarnation_bytes);
    }
}

/* Tells the caller of a refused commit what is stored. */
static int commit_mismatch(struct pleat_db *db, const struct pleat_commit_options *options,
                           const struct cursor_entry *stored, struct pleat_error *err, const char *what,
                           size_t expected_bytes, size_t stored_bytes) {
    if (options->actual != NULL) {
        cursor_value_fill(options->actual, stored, atomic_load_explicit(&db->history, memory_order_relaxed),
                          db_applied(db)); /* relaxed: history is set before the store is handed out */
    }
    if (options->actual_present != NULL) {
        *options->actual_present = stored != NULL;
    }
    if (stored == NULL) {
        return error_set(err, PLEAT_ERR_MISMATCH, 0, "%s of %zu bytes was expected, none is stored", what,
                         expected_bytes);
    }
    return error_set(err, PLEAT_ERR_MISMATCH, 0,
                     "%s of %zu bytes is not the stored one of %zu bytes (sequence %" PRIu64 ")", what, expected_bytes,
                     stored_bytes, db_applied(db));
}

static bool commit_same(const void *a, size_t a_bytes, const void *b, size_t b_bytes) {
    return a_bytes == b_bytes && (a_bytes == 0 || memcmp(a, b, a_bytes) == 0);
}

/* Expected cursors, incarnations, skip-if-applied, and the limit on names. commit_mu held: nobody else changes cursors.
 */
static int commit_check_cursors(struct pleat_db *db, struct pleat_batch *batch, struct wal_view view,
                                const struct pleat_commit_options *options, size_t *ret_fresh,
                                struct pleat_error *err) {
    for (size_t i = 0; i < batch->expectation_count; i++) {
        const struct batch_expectation *expected = &batch->expectations[i];
        const struct cursor_entry *stored =
            cursor_set_find(&db->cursors, expected->cursor.name, expected->cursor.name_bytes);
        bool holds = expected->present ? stored != NULL && commit_same(stored->value, stored->value_bytes,
                                                                       expected->cursor.value,
                                                                       expected->cursor.value_bytes)
                                       : stored == NULL;
        if (!holds) {
            return commit_mismatch(db, options, stored, err, expected->present ? "cursor" : "no cursor",
                                   expected->cursor.value_bytes, stored != NULL ? stored->value_bytes : 0);
        }
    }
    struct wal_cursor cursor;
    bool all_applied = true, sets = false;
    size_t fresh = 0, gone = 0;
    while (wal_view_cursor(&view, &cursor) == 0) {
        const struct cursor_entry *stored = cursor_set_find(&db->cursors, cursor.name, cursor.name_bytes);
        if (cursor.removes) {
            gone += stored != NULL;
            all_applied = all_applied && stored == NULL;
            continue;
        }
        sets = true;
        fresh += stored == NULL;
        bool is_other = stored != NULL && cursor.incarnation_bytes > 0 && stored->incarnation_bytes > 0 &&
                        !commit_same(stored->incarnation, stored->incarnation_bytes, cursor.incarnation,
                                     cursor.incarnation_bytes);
        if (is_other && !cursor.replace_incarnation) {
            return commit_mismatch(db, options, stored, err, "incarnation", cursor.incarnation_bytes,
                                   stored->incarnation_bytes);
        }
        all_applied = all_applied && stored != NULL && !is_other && /* positions of two streams do not compare */
                      key_compare(cursor.value, cursor.value_bytes, stored->value, stored->value_bytes) <= 0;
    }
    if (db->cursors.count + fresh - gone > LIMIT_CURSORS) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "the commit would make %zu named cursors, the limit is %u",
                         db->cursors.count + fresh - gone, LIMIT_CURSORS);
    }
    *ret_fresh = fresh;
    /* A removal alone says nothing: its cursor may be absent because it never was there. */
    return options->skip_if_applied && sets && all_applied ? PLEAT_SKIPPED : 0;
}

static int commit_check_spaces(const struct pleat_batch *batch, struct pleat_error *err) {
    for (size_t i = 0; i < batch->space_count; i++) {
        if (atomic_load_explicit(&batch->spaces[i]->dropped, memory_order_relaxed)) { /* ordered by commit_mu */
            return error_set(err, PLEAT_ERR_INVALID, 0, "the batch updates a space (id %" PRIu32 ") that was dropped",
                             batch->spaces[i]->info.id);
        }
    }
    return 0;
}

/* Makes room for the record and its entries, freezing the active generation when it is full. commit_mu held. */
static int commit_make_room(struct pleat_db *db, const struct pleat_batch *batch, struct pleat_error *err) {
    uint64_t record_bytes = wal_record_bytes(&batch->record);
    uint64_t arena_bytes = generation_batch_bytes_max(batch->arena_bytes_max, batch->space_count);
    bool full = arena_used(db->active->arena) >= db->options.memtable_bytes ||
                arena_available(db->active->arena) < arena_bytes ||
                !wal_writer_fits(db->active_segment->writer, record_bytes);
    if (!full) {
        return 0;
    }
    int rc = work_until(db, generation_none_frozen, err); /* D3 */
    return rc < 0 ? rc : generation_rotate(db, arena_bytes, record_bytes, err);
}

/* Room for `fresh` further names in every set that a commit's cursors will reach, so that publishing, a sync and a
 * flush cannot fail for it. commit_mu held. */
static int commit_reserve_cursors(struct pleat_db *db, size_t fresh, struct pleat_error *err) {
    if (fresh == 0) {
        return 0;
    }
    mutex_lock(&db->sync_mu);
    int rc = cursor_set_reserve(&db->durable_cursors, db->cursors.count + fresh, err);
    rc = rc == 0 ? cursor_set_reserve(&db->sync_cursors, db->cursors.count + fresh, err) : rc;
    mutex_lock(&db->cursors_mu);
    rc = rc == 0 ? cursor_set_reserve(&db->cursors, fresh, err) : rc;
    mutex_unlock(&db->cursors_mu);
    mutex_unlock(&db->sync_mu);
    return rc;
}

/* Cursors and the visible sequence change together. commit_mu held. */
static void commit_publish(struct pleat_db *db, struct wal_view view, uint64_t sequence) {
    if (MUTATION(commit_cursors_last)) {
        atomic_store_explicit(&db->applied, sequence, memory_order_release); /* pairs with the acquire in db_applied */
    }
    mutex_lock(&db->cursors_mu);
    struct wal_cursor cursor;
    while (wal_view_cursor(&view, &cursor) == 0) {
        cursor_set_put(&db->cursors, &cursor);
    }
    if (MUTATION(commit_cursors_first)) {
        mutex_unlock(&db->cursors_mu);
        atomic_store_explicit(&db->applied, sequence, memory_order_release); /* pairs with the acquire in db_applied */
        return;
    }
    atomic_store_explicit(&db->applied, sequence, memory_order_release); /* pairs with the acquire in db_applied */
    mutex_unlock(&db->cursors_mu);
}

static void commit_count(struct pleat_db *db, const struct pleat_batch *batch, uint64_t record_bytes) {
    struct db_counters *counters = &db->counters;
    /* Statistics: only the holder of commit_mu writes them, so a plain sum will do; no partner. */
    atomic_store_explicit(&counters->commits, atomic_load_explicit(&counters->commits, memory_order_relaxed) + 1,
                          memory_order_relaxed);
    atomic_store_explicit(&counters->updates,
                          atomic_load_explicit(&counters->updates, memory_order_relaxed) + batch->record.entries,
                          memory_order_relaxed);
    atomic_store_explicit(&counters->bytes_given,
                          atomic_load_explicit(&counters->bytes_given, memory_order_relaxed) + batch->bytes_given,
                          memory_order_relaxed);
    atomic_store_explicit(&counters->bytes_log,
                          atomic_load_explicit(&counters->bytes_log, memory_order_relaxed) + record_bytes,
                          memory_order_relaxed);
}

/* The slot of a space that the batch touches. */
static int commit_slot_of(const void *context, uint32_t space) {
    const struct pleat_batch *batch = context;
    for (size_t i = 0; i < batch->space_count; i++) {
        if (batch->spaces[i]->info.id == space) {
            return (int)batch->spaces[i]->slot;
        }
    }
    return -1;
}

/* Step 3. commit_mu held. */
static int commit_append(struct pleat_db *db, const struct pleat_batch *batch, uint64_t sequence,
                         struct insertion *insertion, struct pleat_error *err) {
    struct wal_writer *writer = db->active_segment->writer;
    struct wal_append append;
    struct pleat_error failure;
    error_clear(&failure); /* and not zeroed whole: its text is longer than a small commit's record */
    wal_writer_copy(writer, &batch->record, sequence, db_durable(db), &append);
    insertion_step(insertion);
    int rc = wal_writer_seal(writer, &append, &failure);
    if (LIKELY(rc == 0)) {
        return 0;
    }
    if (rc == PLEAT_ERR_NO_SPACE) { /* out for good, with nothing changed: writes go on when space returns (F7) */
        return error_set(err, rc, failure.os_errno, "%s", failure.message);
    }
    if (!MUTATION(commit_poison)) {
        (void)db_poison(db, &failure); /* part of the record may be in the log: only a reopen can tell (F7) */
    }
    return MUTATION(commit_poison) ? error_set(err, rc, failure.os_errno, "%s", failure.message) : db_health(db, err);
}

/* Steps 1 to 5. commit_mu held. */
static int commit_locked(struct pleat_db *db, struct pleat_batch *batch, const struct pleat_commit_options *options,
                         uint64_t *ret_sequence, struct pleat_error *err) {
    uint64_t sequence = db_applied(db) + 1;
    struct wal_view view;
    struct insertion insertion;
    insertion.slot_of = commit_slot_of;
    insertion.context = batch;
    wal_record_view(&batch->record, &view);
    view.sequence = sequence;
    insertion_begin(&insertion, db->active, view);
    int rc = db_writable(db, err);
    rc = rc == 0 ? commit_check_spaces(batch, err) : rc;
    size_t fresh = 0;
    rc = rc == 0 ? commit_check_cursors(db, batch, view, options, &fresh, err) : rc;
    if (rc != 0) {
        return rc;
    }
    if (batch->record.entries == 0 && batch->record.cursor_count == 0) {
        *ret_sequence = db_applied(db);
        return 0;
    }
    rc = commit_make_room(db, batch, err);
    rc = rc == 0 ? commit_reserve_cursors(db, fresh, err) : rc;
    if (rc < 0) {
        return rc;
    }
    if (insertion.generation != db->active) {
        insertion_begin(&insertion, db->active, view);
    }
    insertion_step(&insertion);
    ASSERT(sequence == db_applied(db) + 1); /* nobody else makes one while commit_mu is held */
    uint64_t before = wal_writer_used(db->active_segment->writer);
    rc = commit_append(db, batch, sequence, &insertion, err);
    if (rc < 0) {
        return rc;
    }
    if (MUTATION(commit_visible_last)) {
        commit_publish(db, view, sequence);
    }
    insertion_step(&insertion);
    rc = insertion_finish(&insertion, NULL);
    ASSERT(rc == 0); /* every space of the batch is open (drops take commit_mu) and we encoded the record ourselves */
    if (!MUTATION(commit_visible_last)) {
        commit_publish(db, view, sequence);
    }
    uint64_t logged = wal_writer_used(db->active_segment->writer) - before;
    db->unsynced_bytes += logged;
    commit_count(db, batch, logged);
    *ret_sequence = sequence;
    return 0;
}

int pleat_commit(struct pleat_db *db, struct pleat_batch *batch, const struct pleat_commit_options *options,
                 uint64_t *ret_sequence, struct pleat_error *err) {
    static const struct pleat_commit_options defaults = {.size = sizeof defaults};
    error_clear(err);
    if (db == NULL || batch == NULL) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "%s is NULL", db == NULL ? "db" : "batch");
    }
    if (batch->db != db) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "the batch is of another store");
    }
    options = options != NULL ? options : &defaults;
    struct pleat_commit_options copied;
    int rc = 0;
    if (options->size != sizeof *options) { /* of a caller that was compiled against another header */
        rc = options_copy("commit options", options, options->size, &copied, sizeof copied, err);
        options = &copied;
    }
    if (rc == 0 && options->sync > PLEAT_COMMIT_NO_SYNC) {
        rc = error_set(err, PLEAT_ERR_INVALID, 0, "commit options: sync is %" PRIu32 ", the limit is %d", options->sync,
                       PLEAT_COMMIT_NO_SYNC);
    }
    rc = rc == 0 ? db_writable(db, err) : rc;
    rc = rc == 0 ? flow_wait(db, wal_record_bytes(&batch->record), err) : rc;
    bool sync = options->sync == PLEAT_COMMIT_SYNC ||
                (options->sync == PLEAT_COMMIT_SYNC_DEFAULT && db->options.durability == PLEAT_SYNC_EACH);
    rc = rc == 0 && sync ? sync_recovered(db, err) : rc; /* a failed flush leaves the commit out (F7) */
    if (rc < 0) {
        return rc;
    }
    uint64_t sequence = 0;
    mutex_lock(&db->commit_mu);
    rc = commit_locked(db, batch, options, &sequence, err);
    uint64_t used = wal_writer_used(db->active_segment->writer);
    bool ask_prepare = used > db->populated_bytes;
    if (ask_prepare) {
        uint64_t part = db->options.memtable_bytes / POPULATE_ASK_PARTS;
        db->populated_bytes = used + (part < POPULATE_ASK_BYTES ? part : POPULATE_ASK_BYTES);
    }
    bool ask_sync =
        db->options.durability == PLEAT_SYNC_INTERVAL && db->unsynced_bytes > db->options.sync_interval_bytes;
    if (ask_sync) {
        db->unsynced_bytes = 0;
    }
    mutex_unlock(&db->commit_mu);
    if (ask_prepare || ask_sync) {
        sync_ask(db, ask_prepare, ask_sync);
    }
    if (rc != 0) {
        return rc;
    }
    if (ret_sequence != NULL) {
        *ret_sequence = sequence;
    }
    return sync ? sync_to(db, sequence, err) : 0;
}
