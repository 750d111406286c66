/* settle.c - waiting for the background: flush, settle, full compaction. */
#include "db/db.h"

#include <string.h>

static int settle_check(struct pleat_db *db, struct pleat_error *err) {
    error_clear(err);
    if (db == NULL) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "db is NULL");
    }
    return db_writable(db, err);
}

int pleat_flush(struct pleat_db *db, struct pleat_error *err) {
    int rc = settle_check(db, err);
    if (rc == 0) {
        mutex_lock(&db->commit_mu);
        rc = generation_flush_all(db, err);
        mutex_unlock(&db->commit_mu);
    }
    return rc;
}

static uint64_t settle_debt(struct pleat_db *db) {
    struct version *version = registry_current(db->registry);
    uint64_t debt = compaction_debt(version, &db->shape);
    version_unref(version);
    return debt;
}

static uint64_t settle_done_bytes(const struct pleat_db *db) {
    /* statistics: no partner */
    return atomic_load_explicit(&db->counters.bytes_flushed, memory_order_relaxed) +
           atomic_load_explicit(&db->counters.bytes_out, memory_order_relaxed);
}

/* Runs or waits for one round of background work: 0 when something may have changed, PLEAT_END when nothing is left. */
static int settle_round(struct pleat_db *db, struct pleat_error *err) {
    int rc = db_health(db, err);
    if (rc < 0) {
        return rc;
    }
    if (db->options.background == PLEAT_BACKGROUND_STEPS) {
        rc = work_flush(db, err);
        return rc == PLEAT_END ? work_compact(db, err) : rc;
    }
    scheduler_wake(db->scheduler);
    mutex_lock(&db->work_mu);
    bool busy = db->compacting > 0 || db->flushing;
    const struct pleat_error *error =
        db->flush_trouble.error.code != 0 ? &db->flush_trouble.error : &db->compaction_trouble.error;
    if (error->code != 0) {
        rc = error_set(err, error->code, error->os_errno, "%s", error->message);
    } else {
        (void)condition_wait_for(&db->work_done, &db->work_mu, 20000000);
        busy = busy || db->compacting > 0 || db->flushing;
    }
    mutex_unlock(&db->work_mu);
    /* Settled is more than no debt: what an idle store would still tidy up is done, too. */
    return rc < 0 ? rc : !busy && settle_debt(db) == 0 && !work_has_compaction(db) ? PLEAT_END : 0;
}

static void settle_leaving(struct pleat_db *db) {
    mutex_lock(&db->work_mu);
    while (db->leaving > 0) {
        condition_wait(&db->work_done, &db->work_mu);
    }
    mutex_unlock(&db->work_mu);
}

/* Waits until workers have let go of what they have replaced, and removes its files: a job counts as done before. What
 * an iterator or a snapshot holds stays. */
static void settle_files(struct pleat_db *db) {
    do {
        settle_leaving(db);
        sync_unlink_dead(db, 0, true); /* behind the workers, who leave what a sync is inside of */
        view_sweep(db, true);
        (void)table_ref_remove_all_dead(db->registry);
    } while (table_ref_has_dead(db->registry));
    settle_leaving(db); /* whoever took the last one off the list is at it */
}

static void settle_want_idle(struct pleat_db *db, int delta) {
    mutex_lock(&db->work_mu);
    db->idle_wanted += (unsigned)delta;
    mutex_unlock(&db->work_mu);
}

int pleat_settle(struct pleat_db *db, int (*progress)(void *context, const struct pleat_progress *progress),
                 void *context, struct pleat_error *err) {
    int rc = pleat_flush(db, err);
    if (rc < 0) {
        return rc;
    }
    uint64_t done_before = settle_done_bytes(db);
    mutex_lock(&db->work_mu);
    /* An old failure may have lost its reason: try again. */
    memset(&db->flush_trouble.error, 0, sizeof db->flush_trouble.error);
    memset(&db->compaction_trouble.error, 0, sizeof db->compaction_trouble.error);
    db->retry_at_ns = 0;
    mutex_unlock(&db->work_mu);
    settle_want_idle(db, 1);
    do {
        rc = settle_round(db, err);
        struct pleat_progress state = {.debt_bytes = settle_debt(db),
                                       .done_bytes = settle_done_bytes(db) - done_before};
        if (rc == 0 && progress != NULL && progress(context, &state) != 0) {
            rc = error_set(err, PLEAT_ERR_CANCELLED, 0, "the progress callback ended the wait");
        }
    } while (rc == 0);
    settle_want_idle(db, -1);
    if (rc != PLEAT_END) { /* ended early: at once */
        view_sweep(db, true);
        return rc;
    }
    settle_files(db);
    return 0;
}

int pleat_compact(struct pleat_space *space, int (*progress)(void *context, const struct pleat_progress *progress),
                  void *context, struct pleat_error *err) {
    error_clear(err);
    if (space == NULL) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "space is NULL");
    }
    struct pleat_db *db = space->db;
    int rc = pleat_settle(db, progress, context, err);
    uint64_t done_before = settle_done_bytes(db);
    while (rc == 0) {
        if (atomic_load_explicit(&space->dropped,
                                 memory_order_relaxed)) { /* a drop beside this call: now or next round */
            return error_set(err, PLEAT_ERR_INVALID, 0, "the space (id %u) has been dropped", space->info.id);
        }
        rc = work_compact_full(db, space, err);
        struct pleat_progress state = {.debt_bytes = settle_debt(db),
                                       .done_bytes = settle_done_bytes(db) - done_before};
        if (rc == 0 && progress != NULL && progress(context, &state) != 0) {
            return error_set(err, PLEAT_ERR_CANCELLED, 0, "the progress callback ended the compaction");
        }
    }
    if (rc != PLEAT_END) {
        return rc;
    }
    settle_files(db);
    return 0;
}
