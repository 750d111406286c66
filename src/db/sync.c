/*
 * sync.c - from applied to durable: one sync serves all that wait, segments in order, names included.
 *
 *   applied   1 .. 9 10 11 12            leader: captures (12, cursors at 12), then without the lock
 *   segments  [---3---][----4----]         wal_writer_sync(3)  wal_writer_sync(4)  dir_sync if a name is new
 *   durable   ------9                    then durable = 12, followers wake
 *
 *   Y1  A sync is of the prefix: every older segment that is not durable is synced before a newer one counts (D4).
 *   Y2  A segment is not closed while a thread is inside it without the lock (`users`).
 *   Y3  A failed sync is never repeated: the store is poisoned (contract F7). That holds for the directory, whoever
 *       syncs it, too: the names that it was to make durable are not those of the caller alone.
 *   Y4  No sync is led, and none believed, while records are only in segments of an earlier life, which may look whole
 *       in the page cache alone (F11): their flush comes first.
 *
 * A light thread of its own (not a worker, which may be deep in a compaction) syncs at intervals and makes the pages
 * ahead ready, of the log and of the memtables, so that commits do not fault.
 */
#include "base/assert.h"
#include "db/db.h"
#include "version/lock_note.h"

#include <string.h>

/* As much again as was written, within these: a busy log must not run into unprepared pages while the log thread is in
 * a sync of tens of ms, and an idle store must not prepare what it will never use. */
#define PREPARE_AHEAD_BYTES_MIN (1u << 20)
#define PREPARE_AHEAD_BYTES_MAX (16u << 20)
#define SYNC_SEGMENTS_MAX 64

static void sync_notify(struct pleat_db *db, uint64_t sequence) {
    if (db->options.on_durable != NULL) {
        db->options.on_durable(db->options.on_durable_context, atomic_load_explicit(&db->history, memory_order_relaxed),
                               sequence);
    }
}

/* Notes in LOCK that everything up to `sequence` is durable. sync_mu held. */
static void sync_note(struct pleat_db *db, uint64_t sequence) {
    mutex_check_held(&db->sync_mu);
    if (db->lock != NULL) {
        durable_note_write(registry_store(db->registry), db->lock, db->durable_note, sequence);
        db->durable_note = (db->durable_note + 1) % LOCK_NOTES;
    }
}

/* Everything up to `sequence` is durable, with these cursors. sync_mu held. Returns whether it advanced. */
static bool sync_advance(struct pleat_db *db, uint64_t sequence, const struct cursor_set *cursors) {
    mutex_check_held(&db->sync_mu);
    if (sequence <= db_durable(db)) {
        return false;
    }
    /* Cannot fail: room was made by the commit that brought a new name. */
    cursor_set_assign(&db->durable_cursors, cursors);
    atomic_store_explicit(&db->durable, sequence, memory_order_release); /* pairs with the acquire in db_durable */
    struct segment *newest = db->segments;
    while (newest != NULL && newest->next != NULL) {
        newest = newest->next;
    }
    if (newest != NULL) {
        wal_writer_mark(newest->writer, sequence); /* evidence for the next open, outside of what it is about ... */
    }
    sync_note(db, sequence); /* ... and outside of the file */
    return true;
}

/* Takes a dead segment that nobody is inside of off the list. *ret_held: there are others. sync_mu held. */
static struct segment *sync_take_dead(struct pleat_db *db, bool *ret_held) {
    struct segment **place = &db->segments;
    *ret_held = false;
    while (*place != NULL && (*place)->number < db->log_floor) {
        struct segment *segment = *place;
        if (segment->users == 0) {
            ASSERT(segment->sealed);
            *place = segment->next;
            return segment;
        }
        *ret_held = true;
        place = &segment->next;
    }
    return NULL;
}

void sync_unlink_dead(struct pleat_db *db, uint64_t log_floor, bool wait) {
    for (;;) {
        bool is_held;
        mutex_lock(&db->sync_mu);
        db->log_floor = log_floor > db->log_floor ? log_floor : db->log_floor;
        struct segment *segment = sync_take_dead(db, &is_held);
        if (segment == NULL && is_held && wait) {
            condition_wait(&db->sync_done, &db->sync_mu);
        }
        mutex_unlock(&db->sync_mu);
        if (segment == NULL) {
            if (is_held && wait) {
                continue;
            }
            return;
        }
        if (segment->writer != NULL) {
            segment_bury(db, segment->writer);
        } else {
            (void)segment_unlink(db, segment->number, NULL); /* one of an earlier life; else swept at the next open */
        }
        mem_free(db->mem, segment);
    }
}

void sync_flushed(struct pleat_db *db, uint64_t sequence, const struct cursor_set *cursors) {
    mutex_lock(&db->sync_mu);
    bool advanced = sync_advance(db, sequence, cursors);
    condition_broadcast(&db->sync_done);
    condition_signal(&db->log_wake); /* a sync that was due may have waited for this (Y4) */
    mutex_unlock(&db->sync_mu);
    if (advanced) {
        sync_notify(db, sequence);
    }
}

int sync_names(struct pleat_db *db, struct pleat_error *err) {
    struct pleat_error failure = {0};
    uint64_t newest = 0;
    mutex_lock(&db->sync_mu);
    for (const struct segment *segment = db->segments; segment != NULL; segment = segment->next) {
        newest = segment->number;
    }
    mutex_unlock(&db->sync_mu);
    mutex_lock(&db->names_mu); /* a sync that works behind one that has failed must not be believed */
    int rc = db_health(db, err);
    if (rc == 0) {
        rc = db->vfs->dir_sync(db->dir, &failure);
        if (rc < 0) {
            (void)db_poison(db, &failure);
            rc = db_health(db, err);
        }
    }
    mutex_unlock(&db->names_mu);
    mutex_lock(&db->sync_mu);
    for (struct segment *segment = db->segments; rc == 0 && segment != NULL; segment = segment->next) {
        segment->name_synced = segment->name_synced || segment->number <= newest;
    }
    mutex_unlock(&db->sync_mu);
    return rc;
}

/* The only segment there is, half full and without a durable name? sync_mu held. */
static bool sync_first_is_due(struct pleat_db *db) {
    mutex_check_held(&db->sync_mu);
    const struct segment *first = db->segments;
    return first != NULL && first->next == NULL && first->writer != NULL && !first->name_synced &&
           wal_writer_used(first->writer) > db->options.memtable_bytes / 2;
}

int sync_first_name(struct pleat_db *db) {
    mutex_lock(&db->sync_mu);
    bool is_due = sync_first_is_due(db);
    mutex_unlock(&db->sync_mu);
    return is_due ? sync_names(db, NULL) : PLEAT_END;
}

/* Takes part in no lock but names_mu; syncs the captured segments oldest first. */
static int sync_segments(struct pleat_db *db, struct segment *const *segments, size_t count, bool names,
                         struct pleat_error *err) {
    for (size_t i = 0; i < count; i++) {
        bool passed = MUTATION(sync_log) || (MUTATION(sync_older) && i + 1 < count);
        int rc = passed ? 0 : wal_writer_sync(segments[i]->writer, err);
        if (rc < 0) {
            return rc;
        }
    }
    return names && !MUTATION(sync_names) ? sync_names(db, err) : 0;
}

/* Leaves evidence in the manifest, once a segment, that it is there: its loss is then never taken for a torn end.
 * What could not be written is no failure of the sync, unless nobody knows any more what the manifest holds: that meets
 * a sync of the directory that failed in a replacement of the manifest beside this one (Y3). */
static int sync_record(struct pleat_db *db, const struct segment *newest, struct pleat_error *err) {
    bool is_in = MUTATION(sync_record) || registry_log_synced(db->registry, newest->number, NULL) == 0;
    return is_in ? 0 : registry_health(db->registry, err);
}

/* Leads one sync. sync_mu held on entry and exit. */
static int sync_lead(struct pleat_db *db, struct pleat_error *err) {
    struct segment *taken[SYNC_SEGMENTS_MAX];
    size_t count = 0;
    bool names = false, is_recorded = true;
    ASSERT(!db->read_only);
    ASSERT(db_durable(db) >= db->recovered_sequence || MUTATION(sync_recovered)); /* Y4 */
    db->syncing = true;
    mutex_lock(&db->cursors_mu);
    uint64_t sequence = db_applied(db);
    cursor_set_assign(&db->sync_cursors, &db->cursors); /* room was made by the commit that brought a new name */
    mutex_unlock(&db->cursors_mu);
    /* The segment that holds `sequence` is on the list: it was put there before its first commit. */
    for (struct segment *segment = db->segments; segment != NULL; segment = segment->next) {
        /* Those of earlier lives: see sync_recovered. What is dead is in tables, and only waits for its removal. */
        bool is_dead = segment->number < db->log_floor;
        if (!segment->synced && !is_dead && segment->writer != NULL) {
            ASSERT(count < SYNC_SEGMENTS_MAX); /* two live generations (D3): leaving one out would break Y1 */
            segment->users++;
            names = names || !segment->name_synced;
            is_recorded = segment->recorded;
            taken[count++] = segment;
        }
    }
    if (MUTATION(durable_note_early)) {
        sync_note(db, sequence);
    }
    mutex_unlock(&db->sync_mu);
    struct pleat_error failure = {0};
    int rc = sync_segments(db, taken, count, names, &failure);
    rc = rc == 0 && !is_recorded ? sync_record(db, taken[count - 1], &failure) : rc;
    if (rc < 0) {
        rc = MUTATION(sync_poison) ? error_set(err, rc, failure.os_errno, "%s", failure.message)
                                   : db_poison(db, &failure);
        (void)db_health(db, err);
    }
    sequence = MUTATION(sync_capture) ? db_applied(db) : sequence;
    atomic_fetch_add_explicit(&db->counters.syncs, 1, memory_order_relaxed); /* a statistic, no partner */
    mutex_lock(&db->sync_mu);
    for (size_t i = 0; i < count; i++) {
        taken[i]->users--;
        if (rc == 0) {
            taken[i]->name_synced = true;
            taken[i]->recorded = true;
            taken[i]->synced = taken[i]->sealed && (taken[i]->last_sequence <= sequence || MUTATION(sync_sealed));
        }
    }
    db->syncing = false;
    db->last_sync_ns = db->vfs->now_ns(db->vfs);
    bool advanced = rc == 0 && sync_advance(db, sequence, &db->sync_cursors);
    condition_broadcast(&db->sync_done);
    if (advanced) {
        mutex_unlock(&db->sync_mu);
        sync_notify(db, sequence);
        mutex_lock(&db->sync_mu);
    }
    return rc;
}

/* Whether all that recovery left in memory is in tables (Y4). */
static bool sync_has_recovered(struct pleat_db *db) {
    return db_durable(db) >= db->recovered_sequence || MUTATION(sync_recovered);
}

int sync_recovered(struct pleat_db *db, struct pleat_error *err) {
    return sync_has_recovered(db) ? 0 : work_until(db, sync_has_recovered, err);
}

int sync_to(struct pleat_db *db, uint64_t sequence, struct pleat_error *err) {
    int rc = 0;
    mutex_lock(&db->sync_mu);
    while (db_durable(db) < sequence) {
        rc = db_health(db, err);
        if (rc < 0) {
            break;
        }
        if (db->syncing) {
            condition_wait(&db->sync_done, &db->sync_mu);
            continue;
        }
        if (!sync_has_recovered(db)) {
            mutex_unlock(&db->sync_mu);
            rc = sync_recovered(db, err);
            mutex_lock(&db->sync_mu);
            if (rc < 0) {
                break;
            }
            continue;
        }
        rc = sync_lead(db, err);
        if (rc < 0) {
            break;
        }
    }
    mutex_unlock(&db->sync_mu);
    return rc;
}

void sync_ask(struct pleat_db *db, bool prepare, bool sync) {
    mutex_lock(&db->sync_mu);
    db->log_prepare_asked = db->log_prepare_asked || prepare;
    db->log_sync_asked = db->log_sync_asked || sync;
    condition_signal(&db->log_wake);
    mutex_unlock(&db->sync_mu);
}

/* Makes the arena's pages ahead ready, and the next generation's arena once this one is half full. No lock held. */
static void sync_prepare_arena(struct pleat_db *db, uint64_t ahead) {
    struct epoch_slot *slot;
    if (epoch_enter(db->epoch, &slot) < 0) {
        return; /* commits then fault themselves */
    }
    struct generation *active = view_current(db)->generations[0];
    generation_ref(active);
    epoch_leave(slot);
    arena_prepare(db->pool, active->arena, ahead);
    generation_unref(active);
    if (generation_is_half_full(db)) {
        arena_pool_prepare(db->pool, ahead);
    }
}

/* Makes the pages ahead of the newest segment's end ready, and the memtables'. sync_mu held on entry and exit. */
static void sync_prepare_ahead(struct pleat_db *db) {
    db->log_prepare_asked = false;
    struct segment *newest = db->segments;
    while (newest != NULL && newest->next != NULL) {
        newest = newest->next;
    }
    if (newest == NULL) {
        return;
    }
    newest->users++;
    mutex_unlock(&db->sync_mu);
    uint64_t used = wal_writer_used(newest->writer);
    uint64_t ahead = used < PREPARE_AHEAD_BYTES_MAX ? used : PREPARE_AHEAD_BYTES_MAX;
    wal_writer_prepare(newest->writer, ahead > PREPARE_AHEAD_BYTES_MIN ? ahead : PREPARE_AHEAD_BYTES_MIN);
    sync_prepare_arena(db, ahead);
    mutex_lock(&db->sync_mu);
    newest->users--;
    condition_broadcast(&db->sync_done);
    bool is_first_due = sync_first_is_due(db);
    mutex_unlock(&db->sync_mu);
    if (is_first_due) {
        scheduler_wake(db->scheduler);
    }
    (void)segment_make_spare(db);
    mutex_lock(&db->sync_mu);
}

/* Whether a sync by interval or by request is due. sync_mu held. */
static bool sync_is_due(struct pleat_db *db, uint64_t now) {
    if (db_durable(db) >= db_applied(db) || db_health(db, NULL) < 0) {
        db->log_sync_asked = false;
        return false;
    }
    if (!sync_has_recovered(db)) {
        return false; /* due when the flush is done */
    }
    if (db->log_sync_asked) {
        return true;
    }
    return db->options.durability == PLEAT_SYNC_INTERVAL &&
           now - db->last_sync_ns >= db->options.sync_interval_ms * 1000000;
}

static void *sync_thread_run(void *context) {
    struct pleat_db *db = context;
    mutex_lock(&db->sync_mu);
    while (!db->log_thread_stop) {
        if (db->log_prepare_asked) {
            sync_prepare_ahead(db);
            continue;
        }
        if (!db->syncing && sync_is_due(db, db->vfs->now_ns(db->vfs))) {
            db->log_sync_asked = false;
            (void)sync_lead(db, NULL); /* a failure poisons the store: every later write says so */
            continue;
        }
        uint64_t wait_ns = db->options.sync_interval_ms * 1000000 / 2;
        (void)condition_wait_for(&db->log_wake, &db->sync_mu, wait_ns > 1000000 ? wait_ns : 1000000);
    }
    mutex_unlock(&db->sync_mu);
    return NULL;
}

int sync_thread_start(struct pleat_db *db, struct pleat_error *err) {
    int os_errno = thread_start(&db->log_thread, "pleat-log", sync_thread_run, db);
    if (os_errno != 0) {
        return error_set(err, PLEAT_ERR_IO, os_errno, "the log thread does not start (errno %d)", os_errno);
    }
    db->log_thread_runs = true;
    return 0;
}

void sync_thread_stop(struct pleat_db *db) {
    if (!db->log_thread_runs) {
        return;
    }
    mutex_lock(&db->sync_mu);
    db->log_thread_stop = true;
    condition_signal(&db->log_wake);
    mutex_unlock(&db->sync_mu);
    thread_join(&db->log_thread);
    db->log_thread_runs = false;
}

int sync_step(struct pleat_db *db, struct pleat_error *err) {
    int rc = PLEAT_END;
    mutex_lock(&db->sync_mu);
    if (sync_is_due(db, db->vfs->now_ns(db->vfs))) {
        db->log_sync_asked = false;
        rc = sync_lead(db, err);
    }
    mutex_unlock(&db->sync_mu);
    return rc;
}

void sync_close_segments(struct pleat_db *db) {
    struct segment *segment = db->segments;
    db->segments = NULL;
    while (segment != NULL) {
        struct segment *next = segment->next;
        wal_writer_close(segment->writer);
        mem_free(db->mem, segment);
        segment = next;
    }
}

/* ---- API -------------------------------------------------------------------------------------------------------- */

int pleat_sync(struct pleat_db *db, struct pleat_error *err) {
    error_clear(err);
    if (db == NULL) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "db is NULL");
    }
    int rc = db_writable(db, err);
    return rc < 0 ? rc : sync_to(db, db_applied(db), err);
}

int pleat_wait_durable(struct pleat_db *db, uint64_t sequence, uint64_t timeout_ms, struct pleat_error *err) {
    error_clear(err);
    if (db == NULL) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "db is NULL");
    }
    int rc = db_check_owner(db, err);
    if (rc < 0) {
        return rc;
    }
    if (sequence > db_applied(db)) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "sequence is %llu, the last commit has %llu",
                         (unsigned long long)sequence, (unsigned long long)db_applied(db));
    }
    uint64_t begin = db->vfs->now_ns(db->vfs);
    uint64_t timeout_ns = timeout_ms > UINT64_MAX / 1000000 ? UINT64_MAX : timeout_ms * 1000000;
    mutex_lock(&db->sync_mu);
    while (db_durable(db) < sequence) {
        rc = db_writable(db, err);
        uint64_t waited = db->vfs->now_ns(db->vfs) - begin;
        if (rc < 0) {
            break;
        }
        if (waited >= timeout_ns) {
            rc = PLEAT_TIMEOUT;
            break;
        }
        uint64_t left = timeout_ns - waited;
        (void)condition_wait_for(&db->sync_done, &db->sync_mu, left < 50000000 ? left : 50000000);
    }
    mutex_unlock(&db->sync_mu);
    return rc;
}
