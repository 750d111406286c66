/*
 * redo.c - the records that the log holds and the tables do not: kept in memory until a flush has written them.
 *
 * The first pass inserts each record as it reads it. So a log that fits two memtables, as a crash leaves it, is read
 * once, and the store can be read as soon as its end has been judged: the generations go to the background frozen, as
 * if they had just been rotated, and their segments stay the older part of the log until they are in tables.
 *
 *      segments of earlier lives         of this life             memory                      tables
 *      [h|rec rec] <- [h|rec rec ~torn]  <- [h| ...               B (frozen), A (frozen)      ... L
 *                              ^ exactly this end is named
 *
 * Nothing trusts what these segments look like in the page cache (F11): the durable position is still the manifest's,
 * and a sync waits for their flush before it counts (sync.c). A crash before it finds the same records, or fewer when
 * power was lost, and then not this life's, for the chain is broken.
 *
 *   Q10  While records are only in segments of earlier lives, the first segment of this life names the exact end of the
 *       newest of them, and no other live segment lies between: it is followed by the next recovery. Where one that
 *       was begun does, they are written to tables first, and it dies with them.
 *   Q11  A recovered generation that is in tables has not made segments dead that an unflushed one needs: only the
 *        flush of the last one raises the log floor.
 */
#include "base/assert.h"
#include "db/recover_internal.h"

#include <inttypes.h>
#include <string.h>

/* What a crash leaves behind an open store: the active generation's log and a frozen one's (D3). */
#define RECOVERED_GENERATIONS_MAX 2

/* ---- records into memory ---------------------------------------------------------------------------------------- */

/* Q6: every space that the record names is there. `offset`: of the record. */
static int redo_check_spaces(const struct recovery *recovery, uint64_t segment, uint64_t offset, struct wal_view view,
                             struct pleat_error *err) {
    struct entry entry;
    uint32_t space, last_space = 0;
    bool known = false;
    while (wal_view_entry(&view, &space, &entry) == 0) { /* it decodes: wal_reader_next saw to that */
        if (known && space == last_space) {
            continue;
        }
        if (version_slot(recovery->version, space) < 0) {
            char name[WAL_NAME_BYTES];
            wal_name(segment, name);
            return error_corrupt(err, name, offset, "space of a log record in the manifest, its id", 0, space);
        }
        known = true;
        last_space = space;
    }
    return 0;
}

/* Cursors that a record sets, into the set of the state. */
static int redo_cursors(struct pleat_db *db, struct wal_view view, struct pleat_error *err) {
    int rc = cursor_set_reserve(&db->cursors, view.cursor_count, err);
    if (rc < 0) {
        return rc;
    }
    struct wal_cursor cursor;
    while ((rc = wal_view_cursor(&view, &cursor)) == 0) {
        cursor_set_put(&db->cursors, &cursor);
    }
    return rc == PLEAT_END ? 0
                           : error_set(err, PLEAT_ERR_CORRUPT, 0, "log record of sequence %" PRIu64 " does not decode",
                                       view.sequence);
}

static int redo_slot_of(const void *context, uint32_t space) {
    return version_slot(context, space);
}

/* What a valid record says and the manifest does not bear out is damage of one of the two: the text names the log.
 * `offset`: of the record. */
static int redo_apply(struct recovery *recovery, uint64_t segment, uint64_t offset, struct wal_view view,
                      struct pleat_error *err) {
    struct pleat_error failure = {0};
    int rc = generation_insert(recovery->generations[0], redo_slot_of, recovery->version, view, &failure);
    if (rc < 0) {
        rc = redo_check_spaces(recovery, segment, offset, view, err);
        return rc < 0 ? rc : error_set(err, PLEAT_ERR_CORRUPT, failure.os_errno, "%s", failure.message);
    }
    rc = redo_cursors(recovery->db, view, &failure);
    if (rc < 0) {
        char name[WAL_NAME_BYTES];
        wal_name(segment, name);
        return error_set(err, rc, failure.os_errno, "%s: %.200s", name, failure.message);
    }
    atomic_store_explicit(&recovery->db->applied, view.sequence, memory_order_relaxed); /* no other thread yet */
    return 0;
}

/* No more goes into the newest generation: it holds the records up to db_applied. */
static int redo_freeze(struct recovery *recovery, struct pleat_error *err) {
    struct pleat_db *db = recovery->db;
    if (recovery->count == 0) {
        return 0;
    }
    struct generation *newest = recovery->generations[0];
    int rc = cursor_set_reserve(&newest->cursors, db->cursors.count, err);
    /* Its flush hands them to the durable ones: there may be more than at the end of the log, which removes some. */
    rc = rc == 0 ? cursor_set_reserve(&db->durable_cursors, db->cursors.count, err) : rc;
    if (rc == 0) {
        cursor_set_assign(&newest->cursors, &db->cursors);
        newest->last_sequence = db_applied(db);
        newest->log_floor = MUTATION(recover_floor) ? recovery->tail.segment + 1 : recovery->log_floor; /* Q11 */
    }
    return rc;
}

/* Whether the newest generation takes the record. */
static bool redo_fits(const struct recovery *recovery, struct wal_view view) {
    if (recovery->count == 0) {
        return false;
    }
    const struct arena *arena = recovery->generations[0]->arena;
    size_t available = arena_available(arena);
    return arena_used(arena) < recovery->db->options.memtable_bytes &&
           generation_bytes_max(view, available) <= available;
}

static int redo_begin(struct recovery *recovery, uint64_t segment, struct wal_view view, struct pleat_error *err) {
    struct generation *next;
    uint64_t bytes = generation_bytes_max(view, generation_arena_bytes(&recovery->db->options));
    int rc = redo_freeze(recovery, err);
    rc = rc == 0 ? generation_new(recovery->db, bytes, segment, view.sequence, &next, err) : rc;
    if (rc < 0) {
        return rc;
    }
    memmove(recovery->generations + 1, recovery->generations, recovery->count * sizeof *recovery->generations);
    recovery->generations[0] = next;
    recovery->count++;
    return 0;
}

int redo_record(struct recovery *recovery, uint64_t segment, uint64_t offset, struct wal_view view,
                struct pleat_error *err) {
    unsigned count_max = recovery->db->read_only ? DB_GENERATIONS_MAX : RECOVERED_GENERATIONS_MAX;
    int rc = 0;
    if (!recovery->full && !redo_fits(recovery, view)) {
        recovery->full = recovery->count == count_max;
        rc = recovery->full ? 0 : redo_begin(recovery, segment, view, err);
    }
    if (rc < 0) {
        return rc;
    }
    return recovery->full ? redo_check_spaces(recovery, segment, offset, view, err)
                          : redo_apply(recovery, segment, offset, view, err);
}

int redo_finish(struct recovery *recovery, struct pleat_error *err) {
    if (recovery->db->read_only && recovery->full) {
        return error_set(err, PLEAT_ERR_NO_MEMORY, 0,
                         "the log fills more than %d memtables of %" PRIu64 " bytes: open the store for writing first",
                         DB_GENERATIONS_MAX, recovery->db->options.memtable_bytes);
    }
    return redo_freeze(recovery, err);
}

void redo_abandon(struct recovery *recovery) {
    for (unsigned i = 0; i < recovery->count; i++) {
        generation_unref(recovery->generations[i]);
        recovery->generations[i] = NULL;
    }
    recovery->count = 0;
}

/* ---- what does not fit ------------------------------------------------------------------------------------------ */

/* Writes the frozen generations to tables, oldest first, each with an edit of its own. Before the first view: nobody
 * reads yet. */
static int redo_flush(struct recovery *recovery, struct pleat_error *err) {
    int rc = 0;
    while (rc == 0 && recovery->count > 0) {
        struct generation *oldest = recovery->generations[recovery->count - 1];
        rc = work_flush_generation(recovery->db, oldest, oldest->log_floor, err);
        if (rc == 0) {
            recovery->generations[--recovery->count] = NULL;
            generation_unref(oldest);
        }
    }
    return rc;
}

/* Reads a segment again, from the record behind db_applied on. A generation that is full goes to tables. */
static int redo_segment(struct recovery *recovery, uint64_t number, struct pleat_error *err) {
    struct pleat_db *db = recovery->db;
    struct wal_reader *reader;
    struct wal_view view;
    int rc = wal_reader_open(db->vfs, db->dir, db->mem, registry_store(db->registry)->store_id, number, &reader, err);
    if (rc != 0) {
        return rc == PLEAT_END ? 0 : rc;
    }
    uint64_t offset = wal_reader_offset(reader);
    while ((rc = wal_reader_next(reader, recovery->floor_sequence, &view, err)) == 0) {
        if (view.sequence <= db_applied(db)) {
            offset = wal_reader_offset(reader);
            continue;
        }
        if (view.sequence > recovery->last_sequence) {
            break;
        }
        if (!redo_fits(recovery, view)) {
            rc = redo_freeze(recovery, err);
            rc = rc == 0 ? redo_flush(recovery, err) : rc;
            rc = rc == 0 ? redo_begin(recovery, number, view, err) : rc;
        }
        rc = rc == 0 ? redo_apply(recovery, number, offset, view, err) : rc;
        if (rc < 0) {
            break;
        }
        offset = wal_reader_offset(reader);
    }
    wal_reader_close(reader);
    return rc < 0 ? rc : 0;
}

int redo_rest(struct recovery *recovery, struct pleat_error *err) {
    const struct db_listing *listing = recovery->listing;
    int rc = recovery->full ? redo_flush(recovery, err) : 0;
    for (size_t i = 0; rc == 0 && i < listing->segment_count; i++) {
        if (listing->segments[i] >= recovery->log_floor && db_applied(recovery->db) < recovery->last_sequence) {
            rc = redo_segment(recovery, listing->segments[i], err);
        }
    }
    if (rc == 0 && db_applied(recovery->db) != recovery->last_sequence) {
        rc = error_set(err, PLEAT_ERR_CORRUPT, 0,
                       "the log was read twice and differs: sequence %" PRIu64 " first, %" PRIu64 " then",
                       recovery->last_sequence, db_applied(recovery->db));
    }
    rc = rc == 0 ? redo_freeze(recovery, err) : rc;
    if (rc == 0 && recovery->count > 0) {
        recovery->generations[0]->log_floor = recovery->highest + 1; /* all of the old log is dead with this flush */
    }
    return rc;
}

/* ---- to the background ------------------------------------------------------------------------------------------ */

/* Q10: removes the live segments behind the end. False when they are not gone, or must stay until all is in tables:
 * with anything valid in one, the next recovery would look for what it names (Q8), for one that the manifest calls
 * synced, or for evidence that only it holds (Q3), and might meet any part of them, as they go one by one and their
 * names may come back. */
static bool redo_remove_tail(const struct recovery *recovery) {
    const struct db_listing *listing = recovery->listing;
    if (!recovery->has_tail || recovery->tail.last_sequence != recovery->last_sequence) {
        return false; /* a segment ends behind a hole: nothing can follow it */
    }
    if (recovery->begun_segment > recovery->tail.segment && !MUTATION(recover_begun)) {
        return false;
    }
    for (size_t i = 0; i < listing->segment_count; i++) {
        char name[WAL_NAME_BYTES];
        wal_name(listing->segments[i], name);
        if (listing->segments[i] <= recovery->tail.segment || MUTATION(recover_tail)) {
            continue;
        }
        if (recovery->db->vfs->dir_unlink(recovery->db->dir, name, NULL) < 0) {
            return false;
        }
    }
    return true;
}

/* The followed segments as the older part of this life's log: nothing is appended to them, and no sync believed. */
static int redo_keep_segments(struct recovery *recovery, struct pleat_error *err) {
    struct pleat_db *db = recovery->db;
    struct segment **end = &db->segments;
    for (size_t i = 0; i < recovery->listing->segment_count; i++) {
        uint64_t number = recovery->listing->segments[i];
        if (number < recovery->log_floor || number > recovery->tail.segment) {
            continue;
        }
        struct segment *segment = mem_zalloc(db->mem, 1, sizeof *segment);
        if (segment == NULL) {
            return error_no_memory(err, "a log segment", sizeof *segment);
        }
        segment->number = number;
        segment->sealed = true;
        *end = segment; /* open_close_parts frees it: no other thread yet */
        end = &segment->next;
    }
    return 0;
}

int redo_hand_over(struct recovery *recovery, struct recovered *ret_recovered, struct pleat_error *err) {
    if (recovery->count == 0) {
        return 0;
    }
    if (!redo_remove_tail(recovery)) {
        return redo_flush(recovery, err);
    }
    int rc = redo_keep_segments(recovery, err);
    if (rc == 0) {
        memcpy(ret_recovered->generations, recovery->generations, sizeof recovery->generations);
        ret_recovered->count = recovery->count;
        ret_recovered->tail = recovery->tail;
        recovery->count = 0;
    }
    return rc;
}
