/*
 * work.c - background jobs: the same code for worker threads and for steps.
 *
 * Order of urgency: the flush of the frozen generation, or a part of it, then compactions (level 0 first: see pick.c),
 * then parts of those that others run (parts.c), then letting go of what no reader sees any more. Choosing is
 * serialised by work_mu; running is not.
 *
 *   X1  One flush at a time, oldest generation first (D2).
 *   X2  A job that fails leaves no file and no mark behind and is tried again with new files: its inputs are untouched.
 *       A manifest whose state on disk is unknown poisons the store (D5).
 *   X3  So does a failed sync of a table or of the directory (contract F7): the directory's may have lost the names of
 *       other files for good, the log's segment among them, and the next one would call them durable.
 */
#include "base/assert.h"
#include "db/db.h"

#include <string.h>

#define RETRY_NS 200000000ull /* after a failed compaction */
#define IDLE_NS 500000000ull  /* without a flush: spare time for tidying level 0 */
#define OTHER_THREADS 2u      /* beside the workers: who commits, and the log's */

void work_unlink(struct pleat_db *db, const struct edit_table *tables, size_t count) {
    for (size_t i = 0; i < count; i++) {
        char name[TABLE_NAME_BYTES];
        table_name(tables[i].meta.number, name);
        (void)db->vfs->dir_unlink(db->dir, name, NULL); /* a leftover is swept at the next open */
    }
}

void work_unlink_added(struct pleat_db *db, const struct edit *edit) {
    if (registry_health(db->registry, NULL) == 0 || MUTATION(flush_unknown)) {
        work_unlink(db, edit->added, edit->added_count);
    }
}

int work_flush_generation(struct pleat_db *db, struct generation *generation, uint64_t log_floor,
                          struct pleat_error *err) {
    struct edit edit;
    edit_init(&edit, db->mem);
    int rc = flush_runs(db, generation, log_floor, &edit, err);
    edit_fini(&edit);
    return rc;
}

void work_give_space(struct pleat_db *db) {
    segment_drop_spare(db); /* J3 */
    (void)view_give_space(db);
}

/* Remembers a failure. Its files are gone and its inputs are untouched, so it is tried again with new files, unless the
 * store is read-only by now: a sync failed, or the manifest's state on disk is unknown. */
static int work_failed(struct pleat_db *db, struct trouble *trouble, int rc, const struct pleat_error *error) {
    db_log(db, PLEAT_LOG_ERROR, "%s failed: %s", trouble == &db->flush_trouble ? "flush" : "compaction",
           error->message);
    mutex_lock(&db->work_mu);
    trouble->error = *error;
    trouble->failures++;
    mutex_unlock(&db->work_mu);
    if (rc == PLEAT_ERR_NO_SPACE && !MUTATION(spare_hoards)) {
        work_give_space(db);
    }
    return registry_health(db->registry, NULL) < 0 ? db_poison(db, error) : rc;
}

/* Has let go of segments, tables and versions: what was superfluous of them is off the disk. */
static void work_left(struct pleat_db *db) {
    mutex_lock(&db->work_mu);
    db->leaving--;
    condition_broadcast(&db->work_done);
    mutex_unlock(&db->work_mu);
}

/* The tree has changed: so may the pressure on commits. */
void work_flow(struct pleat_db *db) {
    struct version *version = registry_current(db->registry);
    flow_update(db, version);
    version_unref(version);
}

int work_flush(struct pleat_db *db, struct pleat_error *err) {
    int rc = db_health(db, err);
    if (rc < 0) {
        return rc;
    }
    mutex_lock(&db->work_mu);
    struct generation *generation = NULL;
    bool mine = !db->flushing && view_frozen(db, &generation) > 0;
    db->flushing = db->flushing || mine;
    mutex_unlock(&db->work_mu);
    if (!mine) {
        return PLEAT_END;
    }
    generation_ref(generation); /* it stays in the current view until this flush has removed it */
    segment_reserve_number(db); /* before a commit can wait for this flush: it goes on with that number */
    uint64_t log_floor = generation->log_floor;
    struct version *before = registry_current(db->registry);
    struct edit edit;
    edit_init(&edit, db->mem);
    struct pleat_error failure = {0};
    if (MUTATION(flush_reported_last)) {
        sync_flushed(db, generation->last_sequence, &generation->cursors);
        sync_unlink_dead(db, log_floor, false);
    }
    rc = flush_runs(db, generation, log_floor, &edit, &failure);
    if (rc == 0) {
        sync_flushed(db, generation->last_sequence, &generation->cursors);
        flow_flushed(db, arena_used(generation->arena));
        work_flow(db);
    } else {
        rc = work_failed(db, &db->flush_trouble, rc, &failure);
        (void)error_set(err, rc, failure.os_errno, "%s", failure.message);
    }
    generation_unref(generation);
    if (rc == 0) {
        view_sweep(db, true); /* the arena goes back to the pool before the next generation asks for one (D3) */
    }
    mutex_lock(&db->work_mu);
    db->flushing = false;
    db->leaving++;
    db->last_flush_ns = db->vfs->now_ns(db->vfs);
    if (rc == 0) {
        memset(&db->flush_trouble.error, 0, sizeof db->flush_trouble.error);
    }
    condition_broadcast(&db->work_done);
    mutex_unlock(&db->work_mu);
    if (rc == 0) { /* behind everything that a commit may wait for: to remove a segment takes tens of ms */
        sync_unlink_dead(db, log_floor, false);
        warm_added(db, before, &edit, NULL);
    }
    edit_fini(&edit);
    version_unref(before);
    work_left(db);
    return rc;
}

/* Lets a compaction be interrupted between blocks for a flush that nobody has taken, or for parts of one. */
void work_pause(void *context) {
    struct pleat_db *db = context;
    struct generation *oldest;
    if (db->options.background == PLEAT_BACKGROUND_THREADS && view_frozen_hint(db) && view_frozen(db, &oldest) > 0) {
        int rc = work_flush(db, NULL); /* a failure is kept in flush_trouble and by the poison */
        (void)(rc == PLEAT_END ? parts_help(db, PARTS_FLUSH) : rc);
    }
}

/* A job begins or ends. work_mu held. */
static void work_count(struct pleat_db *db, struct compaction *job) {
    job->next = db->jobs;
    db->jobs = job;
    db->slot_jobs[job->slot]++;
    db->compacting++;
}

static void work_uncount(struct pleat_db *db, const struct compaction *job) {
    const struct compaction **place = &db->jobs;
    while (*place != job) {
        place = &((struct compaction *)(uintptr_t)*place)->next; /* all of them were given to work_count */
    }
    *place = job->next;
    db->slot_jobs[job->slot]--;
    db->compacting--;
}

/* Neither what a drop or clear waits for may begin, nor what a flush that goes deep would not see. work_mu held. */
static struct compaction_beside work_beside(const struct pleat_db *db) {
    return (struct compaction_beside){.running = db->jobs, .held = {db->slot_blocked, db->slot_flushing}};
}

/* Runs a job that was counted, and uncounts it. */
static int work_compact_job(struct pleat_db *db, struct compaction *job, struct pleat_error *err) {
    struct pleat_error failure = {0};
    int rc = compact_run(db, job, &failure);
    if (rc < 0 && rc != PLEAT_ERR_CANCELLED) {
        rc = work_failed(db, &db->compaction_trouble, rc, &failure);
    }
    if (rc < 0) {
        (void)error_set(err, rc, failure.os_errno, "%s", failure.message);
    }
    mutex_lock(&db->work_mu);
    compaction_let_go(job); /* the busy marks: under work_mu, where picking looks at them */
    work_uncount(db, job);
    db->leaving++;
    if (rc < 0) {
        db->retry_at_ns = db->vfs->now_ns(db->vfs) + RETRY_NS;
    } else {
        memset(&db->compaction_trouble.error, 0, sizeof db->compaction_trouble.error);
    }
    condition_broadcast(&db->work_done);
    mutex_unlock(&db->work_mu);
    compaction_fini(db->mem, job); /* not under it: tables are closed, and commits look at work_mu */
    view_sweep(db, db->options.background == PLEAT_BACKGROUND_STEPS);
    work_left(db);
    return rc;
}

/* Nobody commits, or somebody waits for the background. work_mu held. */
static bool work_is_idle(const struct pleat_db *db) {
    return db->idle_wanted > 0 || db->options.background == PLEAT_BACKGROUND_STEPS ||
           db->vfs->now_ns(db->vfs) - db->last_flush_ns > IDLE_NS;
}

/* Parts of a compaction that another worker runs, where that takes no processor from commits and reads: on two of them,
 * with commits flat out, the p99 of reading a range went from 0.15 to 1 ms and more, and the writer gained nothing. */
static int work_help(struct pleat_db *db) {
    mutex_lock(&db->work_mu);
    bool may = db->parts[PARTS_COMPACTION] != NULL &&
               (work_is_idle(db) || db->processors > db->options.background_threads + OTHER_THREADS);
    mutex_unlock(&db->work_mu);
    return may ? parts_help(db, PARTS_COMPACTION) : PLEAT_END;
}

int work_compact(struct pleat_db *db, struct pleat_error *err) {
    int rc = db_health(db, err);
    if (rc < 0) {
        return rc;
    }
    struct compaction job;
    mutex_lock(&db->work_mu);
    struct version *version = registry_current(db->registry); /* under work_mu: older ones show inputs that are gone */
    db->leaving++; /* of that version, whose tables may be replaced meanwhile */
    bool may = !db->compactions_held && !atomic_load_explicit(&db->cancel, memory_order_relaxed) &&
               (db->retry_at_ns == 0 || db->vfs->now_ns(db->vfs) >= db->retry_at_ns);
    bool idle = work_is_idle(db);
    struct compaction_beside beside = work_beside(db);
    rc = may ? compaction_pick(db->mem, version, &db->shape, &beside, idle, &job, err) : PLEAT_END;
    if (rc == 0) {
        db->retry_at_ns = 0;
        work_count(db, &job);
    }
    mutex_unlock(&db->work_mu);
    version_unref(version);
    work_left(db);
    return rc == 0 ? work_compact_job(db, &job, err) : rc;
}

bool work_has_compaction(struct pleat_db *db) {
    struct compaction job;
    mutex_lock(&db->work_mu);
    struct version *version = registry_current(db->registry);
    struct compaction_beside beside = {.running = db->jobs};
    bool has = compaction_pick(db->mem, version, &db->shape, &beside, true, &job, NULL) == 0;
    if (has) {
        compaction_fini(db->mem, &job);
    }
    mutex_unlock(&db->work_mu);
    version_unref(version);
    return has;
}

int work_compact_full(struct pleat_db *db, const struct pleat_space *space, struct pleat_error *err) {
    for (;;) {
        struct compaction job;
        bool busy = false;
        mutex_lock(&db->work_mu);
        struct version *version = registry_current(db->registry); /* under work_mu, as in work_compact */
        struct compaction_beside beside = work_beside(db);
        int rc = compaction_pick_full(db->mem, version, space->slot, &db->shape, &beside, &job, &busy, err);
        if (rc == 0) {
            work_count(db, &job);
        } else if (rc == PLEAT_END && busy) {
            condition_wait(&db->work_done, &db->work_mu);
        }
        mutex_unlock(&db->work_mu);
        version_unref(version);
        if (rc == 0) {
            return work_compact_job(db, &job, err);
        }
        if (rc < 0 || !busy) {
            return rc;
        }
    }
}

/* Removes one file that a compaction has replaced: 0, or PLEAT_END when there is none. */
static int work_remove(struct pleat_db *db) {
    if (!table_ref_has_dead(db->registry)) {
        return PLEAT_END;
    }
    mutex_lock(&db->work_mu);
    db->leaving++;
    mutex_unlock(&db->work_mu);
    bool is_removed = table_ref_remove_dead(db->registry);
    work_left(db);
    return is_removed ? 0 : PLEAT_END;
}

int work_run(void *context, unsigned worker) {
    struct pleat_db *db = context;
    (void)worker;
    int rc = work_flush(db, NULL);
    rc = rc == PLEAT_END ? parts_help(db, PARTS_FLUSH) : rc;
    rc = rc == PLEAT_END ? work_remove(db) : rc; /* one at a time: a flush may be due meanwhile */
    rc = rc == PLEAT_END ? work_compact(db, NULL) : rc;
    rc = rc == PLEAT_END ? work_help(db) : rc;
    rc = rc == PLEAT_END ? sync_first_name(db) : rc;
    if (rc == PLEAT_END) {
        mutex_lock(&db->work_mu);
        db->leaving++;
        mutex_unlock(&db->work_mu);
        epoch_collect(db->epoch);
        view_sweep(db, false);
        sync_unlink_dead(db, 0, false);
        segment_tidy(db);
        work_left(db);
    }
    return rc < 0 ? PLEAT_END : rc; /* a failed job is tried again at the next wake or poll, not at once */
}

/* Step mode: whether another thread runs a job; then after waiting for it, but not for ever. */
static bool work_wait_other(struct pleat_db *db) {
    mutex_lock(&db->work_mu);
    bool is_busy = db->flushing || db->compacting > 0;
    if (is_busy) {
        (void)condition_wait_for(&db->work_done, &db->work_mu, 5000000);
    }
    mutex_unlock(&db->work_mu);
    return is_busy;
}

int work_until(struct pleat_db *db, bool (*done)(struct pleat_db *db), struct pleat_error *err) {
    mutex_lock(&db->work_mu);
    uint64_t failures = db->flush_trouble.failures; /* an earlier one's cause may be gone */
    mutex_unlock(&db->work_mu);
    while (!done(db)) {
        int rc = db_health(db, err);
        if (rc < 0) {
            return rc;
        }
        if (db->options.background == PLEAT_BACKGROUND_STEPS) {
            rc = work_flush(db, err);
            if (rc < 0) {
                return rc;
            }
            if (rc == PLEAT_END) {
                rc = work_compact(db, err);
            }
            /* Asked again when nobody is busy any more: who was may have done what this waits for. */
            if (rc == PLEAT_END && !done(db) && !work_wait_other(db) && !done(db)) {
                rc = error_set(err, PLEAT_ERR_BUSY, 0, "no job is left to run, and the wait has not ended");
            }
            if (rc < 0) {
                return rc;
            }
            continue;
        }
        scheduler_wake(db->scheduler);
        mutex_lock(&db->work_mu);
        const struct trouble *trouble = &db->flush_trouble;
        if (trouble->error.code != 0 && trouble->failures - failures > 3) {
            rc = error_set(err, trouble->error.code, trouble->error.os_errno, "%s", trouble->error.message);
        } else {
            (void)condition_wait_for(&db->work_done, &db->work_mu, 5000000);
        }
        mutex_unlock(&db->work_mu);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

void work_block_slot(struct pleat_db *db, uint32_t slot) {
    mutex_lock(&db->work_mu);
    db->slot_blocked[slot] = true;
    while (db->slot_jobs[slot] > 0) {
        condition_wait(&db->work_done, &db->work_mu);
    }
    mutex_unlock(&db->work_mu);
}

void work_unblock_slot(struct pleat_db *db, uint32_t slot) {
    mutex_lock(&db->work_mu);
    db->slot_blocked[slot] = false;
    condition_broadcast(&db->work_done);
    mutex_unlock(&db->work_mu);
    scheduler_wake(db->scheduler);
}

/* ---- API -------------------------------------------------------------------------------------------------------- */

int pleat_step(struct pleat_db *db, struct pleat_error *err) {
    error_clear(err);
    if (db == NULL) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "db is NULL");
    }
    int rc = db_writable(db, err);
    if (rc < 0) {
        return rc;
    }
    if (db->options.background != PLEAT_BACKGROUND_STEPS) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "pleat_step needs options.background = PLEAT_BACKGROUND_STEPS");
    }
    rc = sync_step(db, err);
    if (rc == PLEAT_END) {
        rc = work_flush(db, err);
    }
    if (rc == PLEAT_END) {
        rc = work_compact(db, err);
    }
    rc = rc == PLEAT_END ? segment_make_spare(db) : rc;
    sync_unlink_dead(db, 0, false);
    view_sweep(db, true);
    return rc;
}
