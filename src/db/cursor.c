/* cursor.c - reading cursors and positions: what is applied, and what is durable. */
#include "db/db.h"

#include <string.h>

/* History, sequence and cursors of a position form one consistent picture under the position's own mutex. */
static struct cursor_set *cursor_lock(struct pleat_db *db, enum pleat_position position, uint64_t *ret_sequence) {
    if (position == PLEAT_APPLIED) {
        mutex_lock(&db->cursors_mu);
        *ret_sequence = db_applied(db);
        return &db->cursors;
    }
    mutex_lock(&db->sync_mu);
    *ret_sequence = db_durable(db);
    return &db->durable_cursors;
}

static void cursor_unlock(struct pleat_db *db, enum pleat_position position) {
    mutex_unlock(position == PLEAT_APPLIED ? &db->cursors_mu : &db->sync_mu);
}

static int cursor_check(const struct pleat_db *db, enum pleat_position position, struct pleat_error *err) {
    error_clear(err);
    if (db == NULL) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "db is NULL");
    }
    if (position != PLEAT_APPLIED && position != PLEAT_DURABLE) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "position is %d, the limit is %d", (int)position, PLEAT_DURABLE);
    }
    return db_check_owner(db, err);
}

static int cursor_check_name(struct pleat_slice name, struct pleat_error *err) {
    if (name.bytes > LIMIT_CURSOR_NAME_BYTES) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "cursor name of %zu bytes, the limit is %u", name.bytes,
                         LIMIT_CURSOR_NAME_BYTES);
    }
    return 0;
}

int pleat_cursor_read(struct pleat_db *db, struct pleat_slice name, enum pleat_position position,
                      struct pleat_cursor_value *ret_cursor, struct pleat_error *err) {
    int rc = cursor_check(db, position, err);
    if (rc < 0) {
        return rc;
    }
    if (ret_cursor == NULL || (name.data == NULL && name.bytes > 0)) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "%s is NULL", ret_cursor == NULL ? "ret_cursor" : "name");
    }
    rc = cursor_check_name(name, err);
    if (rc < 0) {
        return rc;
    }
    uint64_t sequence;
    const struct cursor_set *set = cursor_lock(db, position, &sequence);
    const struct cursor_entry *cursor = cursor_set_find(set, name.data, name.bytes);
    cursor_value_fill(ret_cursor, cursor, atomic_load_explicit(&db->history, memory_order_relaxed), sequence);
    cursor_unlock(db, position); /* history: relaxed, set before the store is handed out */
    return cursor != NULL ? 0 : PLEAT_ABSENT;
}

int pleat_cursor_list(struct pleat_db *db, enum pleat_position position,
                      int (*callback)(void *context, struct pleat_slice name,
                                      const struct pleat_cursor_value *cursor),
                      void *context, struct pleat_error *err) {
    int rc = cursor_check(db, position, err);
    if (rc < 0) {
        return rc;
    }
    if (callback == NULL) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "callback is NULL");
    }
    /* The callback runs on a copy, without a lock: it may commit. */
    struct cursor_set copy;
    cursor_set_init(&copy, db->mem);
    uint64_t sequence;
    const struct cursor_set *set = cursor_lock(db, position, &sequence);
    rc = cursor_set_reserve(&copy, set->count, err);
    if (rc == 0) {
        cursor_set_assign(&copy, set);
    }
    cursor_unlock(db, position);
    for (size_t i = 0; rc == 0 && i < copy.count; i++) {
        struct pleat_cursor_value value;
        cursor_value_fill(&value, &copy.entries[i], atomic_load_explicit(&db->history, memory_order_relaxed), sequence);
        rc = callback(context, (struct pleat_slice){copy.entries[i].name, copy.entries[i].name_bytes}, &value);
    }
    cursor_set_fini(&copy);
    return rc;
}

void pleat_position_read(const struct pleat_db *db, enum pleat_position position, uint64_t *ret_history,
                         uint64_t *ret_sequence) {
    if (ret_history != NULL) {
        *ret_history = db != NULL ? atomic_load_explicit(&db->history, memory_order_relaxed) : 0; /* set at open */
    }
    if (ret_sequence != NULL) {
        *ret_sequence = db == NULL ? 0 : position == PLEAT_DURABLE ? db_durable(db) : view_applied(db);
    }
}

/* ---- snapshots -------------------------------------------------------------------------------------------------- */

int pleat_snapshot_new(struct pleat_db *db, struct pleat_snapshot **ret_snapshot, struct pleat_error *err) {
    error_clear(err);
    if (db == NULL || ret_snapshot == NULL) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "%s is NULL", db == NULL ? "db" : "ret_snapshot");
    }
    int rc = db_check_owner(db, err);
    if (rc < 0) {
        return rc;
    }
    struct pleat_snapshot *snapshot = mem_zalloc(db->mem, 1, sizeof *snapshot);
    if (snapshot == NULL) {
        return error_no_memory(err, "a snapshot", sizeof *snapshot);
    }
    snapshot->db = db;
    cursor_set_init(&snapshot->cursors, db->mem);
    /* The view first, then the position (D1). If the view is still the current one afterwards, it holds everything up
     * to that position; if not, the position may be beyond it, and its state would not be that of the cursors: again.
     */
    for (;;) {
        rc = view_acquire(db, &snapshot->view, err);
        if (rc < 0) {
            break;
        }
        mutex_lock(&db->cursors_mu);
        rc = cursor_set_reserve(&snapshot->cursors, db->cursors.count, err);
        if (rc == 0) {
            cursor_set_assign(&snapshot->cursors, &db->cursors);
        }
        snapshot->sequence = db_applied(db);
        mutex_unlock(&db->cursors_mu);
        if (rc < 0) {
            view_unref(snapshot->view);
            break;
        }
        if (snapshot->view == view_current(db)) {
            break; /* compared only: it is referenced, so it cannot be another view at the same address */
        }
        view_unref(snapshot->view);
    }
    if (rc < 0) {
        cursor_set_fini(&snapshot->cursors);
        mem_free(db->mem, snapshot);
        return rc;
    }
    snapshot->history = atomic_load_explicit(&db->history, memory_order_relaxed); /* set at open */
    atomic_fetch_add_explicit(&db->outstanding_snapshots, 1, memory_order_relaxed); /* a count for close: no partner */
    *ret_snapshot = snapshot;
    return 0;
}

void pleat_snapshot_free(struct pleat_snapshot *snapshot) {
    if (snapshot != NULL) {
        struct pleat_db *db = snapshot->db;
        view_let_go(db, snapshot->view);
        cursor_set_fini(&snapshot->cursors);
        mem_free(db->mem, snapshot);
        /* release; pairs with the acquire in pleat_close: what the snapshot let go of happens before the store ends */
        atomic_fetch_sub_explicit(&db->outstanding_snapshots, 1, memory_order_release);
    }
}

uint64_t pleat_snapshot_sequence(const struct pleat_snapshot *snapshot) {
    return snapshot != NULL ? snapshot->sequence : 0;
}

int pleat_snapshot_cursor(const struct pleat_snapshot *snapshot, struct pleat_slice name,
                          struct pleat_cursor_value *ret_cursor, struct pleat_error *err) {
    error_clear(err);
    if (snapshot == NULL || ret_cursor == NULL || (name.data == NULL && name.bytes > 0)) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "%s is NULL",
                         snapshot == NULL ? "snapshot" : ret_cursor == NULL ? "ret_cursor" : "name");
    }
    int rc = cursor_check_name(name, err);
    if (rc < 0) {
        return rc;
    }
    const struct cursor_entry *cursor = cursor_set_find(&snapshot->cursors, name.data, name.bytes);
    cursor_value_fill(ret_cursor, cursor, snapshot->history, snapshot->sequence);
    return cursor != NULL ? 0 : PLEAT_ABSENT;
}
