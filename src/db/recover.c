/*
 * recover.c - from what a crash left to an exact prefix of the commits.
 *
 * One pass reads every live segment, changes nothing on disk, and decides where the log ends: it follows the chain from
 * segment to segment, puts the records into memtables (redo.c) and collects the evidence of what had been durable. Then
 * the manifest of this life is written, and the memtables are left to the background: what an earlier life left in the
 * page cache is not to be trusted, and durable only when it is in tables (F11).
 *
 *      manifest: last sequence L, log floor F
 *      segments >= F:  [h|rec rec rec] <- chain - [h|rec rec ~torn] <- chain ? - [h| ...]
 *                                                      ^ the log ends here
 *
 *   Q1  Records up to L are passed over; the first one applied is L + 1; then densely upward.
 *   Q2  The log ends at the first record that is not valid, unless the next segment's header names exactly this end; or
 *       at a segment whose header does not. What lies behind is never replayed.
 *   Q3  If anything valid that is read - also behind the end - says that a sequence beyond the end had been durable,
 *       the log is damaged, not torn: PLEAT_ERR_CORRUPT, and nothing on disk has changed. A header without predecessor
 *       says so of all sequences before it: open_start makes such a one when everything is in tables. LOCK notes it,
 *       too, where no damage of the log reaches.
 *   Q4  A history that may have lost commits ends: unless the store was closed cleanly, a new history begins.
 *   Q5  Files are removed only after the manifest of this life is durable.
 *   Q6  All records up to the end, also those that did not fit in memory, have been judged before anything is written,
 *       the spaces of their entries included.
 *   Q7  No number is taken over from disk, names of files included, that leaves no room to count on from.
 *   Q8  A live segment that another one names as its predecessor, or that the manifest calls synced, is there: its name
 *       was durable before. One that is not is damage, as when a manifest lost the edits that had ended that segment.
 *       But a predecessor of a life before this history may be gone: a sync of the directory that had failed in that
 *       life may have lost its name for good, whatever a later sync says. Then the log ends in front of its successor.
 *   Q9  A manifest that had not come so far as the header of a live segment says lost something, or is an older one.
 */
#include "base/assert.h"
#include "db/recover_internal.h"
#include "version/lock_note.h"

#include <inttypes.h>
#include <string.h>

/* Every store counts from 1 by ones. */
#define RECOVER_COUNTER_MAX (UINT64_MAX / 8)

static void recover_evidence(struct recovery *recovery, uint64_t durable) {
    if (durable > recovery->durable_evidence) {
        recovery->durable_evidence = durable;
    }
}

/* The log ends in front of this segment: it and later ones are read for evidence only. */
static void recover_end(struct recovery *recovery, uint64_t segment) {
    recovery->ended = true;
    if (recovery->end_segment == 0) {
        recovery->end_segment = segment;
    }
}

/* Whether the segment goes on exactly where the one before ended (Q2). */
static bool recover_is_chained(const struct recovery *recovery, const struct wal_header *header) {
    if (MUTATION(recover_chain) || MUTATION(recover_order)) {
        return true;
    }
    if (!recovery->has_tail) {
        return header->first_sequence <= recovery->floor_sequence + 1;
    }
    return header->predecessor.segment == recovery->tail.segment &&
           header->predecessor.last_sequence == recovery->tail.last_sequence &&
           (header->predecessor.running_hash == recovery->tail.running_hash || MUTATION(recover_chain_hash));
}

/* The records of one segment. `follow`: it goes on where the log ends so far. */
static int recover_scan_records(struct recovery *recovery, struct wal_reader *reader, uint64_t number, bool *follow,
                                struct pleat_error *err) {
    struct wal_view view;
    uint64_t offset = wal_reader_offset(reader);
    int rc;
    while ((rc = wal_reader_next(reader, recovery->floor_sequence, &view, err)) == 0) {
        recover_evidence(recovery, view.durable_sequence);
        if (*follow && view.sequence > recovery->floor_sequence && view.sequence != recovery->last_sequence + 1 &&
            !MUTATION(recover_dense) && !MUTATION(recover_order)) {
            recover_end(recovery, number); /* a hole in front of this record: the rest is evidence */
            *follow = false;
        }
        if (*follow && view.sequence > recovery->floor_sequence) {
            rc = redo_record(recovery, number, offset, view, err);
            if (rc < 0) {
                return rc;
            }
            recovery->last_sequence = view.sequence;
            recovery->records++;
        }
        offset = wal_reader_offset(reader);
    }
    return rc;
}

static bool recover_has_segment(const struct recovery *recovery, uint64_t number) {
    for (size_t i = 0; i < recovery->listing->segment_count; i++) {
        if (recovery->listing->segments[i] == number) {
            return true;
        }
    }
    return false;
}

static int recover_lost(uint64_t segment, const char *what, uint64_t expected, struct pleat_error *err) {
    char name[WAL_NAME_BYTES];
    wal_name(segment, name);
    return error_corrupt(err, name, 0, what, expected, 0);
}

/* The newest segment that the manifest calls synced, unless all of it is in tables by now (Q8). */
static int recover_check_synced(const struct recovery *recovery, struct pleat_error *err) {
    bool is_live = recovery->log_synced > 0 && recovery->log_synced >= recovery->log_floor;
    return !is_live || recover_has_segment(recovery, recovery->log_synced)
               ? 0
               : recover_lost(recovery->log_synced, "the file is missing; the log floor", recovery->log_floor, err);
}

/* What a valid header says of what was there before its segment (Q3, Q8, Q9). */
static int recover_header(struct recovery *recovery, const struct wal_header *header, struct pleat_error *err) {
    const struct wal_tail *predecessor = &header->predecessor;
    char name[WAL_NAME_BYTES];
    wal_name(header->segment, name);
    int rc =
        MUTATION(edition_segment) ? 0 : registry_edition_verify(recovery->db->registry, header->edition, name, err);
    if (rc < 0) {
        return rc;
    }
    if (predecessor->segment == 0) {
        recover_evidence(recovery, predecessor->last_sequence);
    } else if (predecessor->segment >= recovery->log_floor && !recover_has_segment(recovery, predecessor->segment) &&
               (predecessor->last_sequence > recovery->history_sequence || MUTATION(recover_names))) {
        return recover_lost(predecessor->segment, "the file is missing; the live segment behind it", header->segment,
                            err);
    }
    return 0;
}

/* First pass over one segment. */
static int recover_scan(struct recovery *recovery, uint64_t number, struct pleat_error *err) {
    struct pleat_db *db = recovery->db;
    struct wal_reader *reader = NULL;
    struct pleat_error header_error = {0};
    const uint8_t *store_id = registry_store(db->registry)->store_id;
    int rc = wal_reader_open(db->vfs, db->dir, db->mem, store_id, number, &reader, &header_error);
    if (number <= recovery->log_synced && rc != 0) {
        return rc == PLEAT_END ? recover_lost(number, "the header of a segment that was synced is missing", 0, err)
                               : error_set(err, rc, header_error.os_errno, "%s", header_error.message);
    }
    if (rc == PLEAT_END || rc == PLEAT_ERR_CORRUPT) {
        /* Made ahead, or created and never synced, or damaged: the records tell. Valid ones are only written behind a
         * valid header. */
        uint64_t durable = 0;
        bool any_record = false;
        struct pleat_error probe_error = {0};
        int probe = wal_segment_probe(db->vfs, db->dir, db->mem, store_id, number, &durable, &any_record, &probe_error);
        if (probe < 0) {
            (void)error_set(err, probe, probe_error.os_errno, "%s", probe_error.message);
            return probe;
        }
        recovery->begun_segment = any_record ? number : recovery->begun_segment;
        recover_evidence(recovery, durable);
        recover_end(recovery, number);
        return 0;
    }
    if (rc < 0) {
        return error_set(err, rc, header_error.os_errno, "%s", header_error.message);
    }
    recovery->begun_segment = number;
    rc = recover_header(recovery, wal_reader_header(reader), err);
    if (rc == 0 && number <= recovery->log_synced && wal_reader_header(reader)->missing_bytes > 0) {
        rc = recover_lost(number, "bytes are missing at the end of a segment that was synced",
                          wal_reader_header(reader)->missing_bytes, err);
    }
    if (rc < 0) {
        wal_reader_close(reader);
        return rc;
    }
    bool follow = !recovery->ended && recover_is_chained(recovery, wal_reader_header(reader));
    if (!follow) {
        recover_end(recovery, number);
    }
    rc = recover_scan_records(recovery, reader, number, &follow, err);
    struct wal_end end;
    rc = rc == PLEAT_END ? wal_reader_end(reader, &end, err) : rc;
    if (rc == 0) {
        recover_evidence(recovery, end.durable_sequence);
        recovery->segments++;
        if (follow) {
            recovery->tail = end.tail;
            recovery->has_tail = true;
            recovery->end_offset = end.offset; /* unless the next segment follows: its header names this end */
            recovery->end_segment = number;
        }
    }
    wal_reader_close(reader);
    return rc;
}

/* ---- making this life's beginning durable ----------------------------------------------------------------------- */

/* Removes files that the manifest does not know. A file that stays is met again at the next open. */
static void recover_sweep(struct pleat_db *db, const struct db_listing *listing, uint64_t log_floor) {
    char name[TABLE_NAME_BYTES > WAL_NAME_BYTES ? TABLE_NAME_BYTES : WAL_NAME_BYTES];
    for (size_t i = 0; i < listing->segment_count; i++) {
        if (listing->segments[i] < log_floor) {
            wal_name(listing->segments[i], name);
            (void)db->vfs->dir_unlink(db->dir, name, NULL);
        }
    }
    for (size_t i = 0; i < listing->table_count; i++) {
        if (!registry_has_table(db->registry, listing->tables[i])) {
            table_name(listing->tables[i], name);
            (void)db->vfs->dir_unlink(db->dir, name, NULL);
        }
    }
}

/* A table that the manifest names must be there: a missing one is found now, not at some later read. */
static int recover_check_tables(struct pleat_db *db, const struct db_listing *listing, struct pleat_error *err) {
    struct version *version = registry_current(db->registry);
    int rc = 0;
    for (uint32_t slot = 0; rc == 0 && slot < version->slots; slot++) {
        const struct tree *tree = version->trees[slot];
        for (unsigned level = 0; rc == 0 && tree != NULL && level < LIMIT_LEVELS; level++) {
            for (size_t i = 0; rc == 0 && i < tree->levels[level].count; i++) {
                uint64_t number = tree->levels[level].tables[i]->meta.number;
                size_t low = 0, high = listing->table_count;
                while (low < high) {
                    size_t middle = (low + high) / 2;
                    if (listing->tables[middle] < number) {
                        low = middle + 1;
                    } else {
                        high = middle;
                    }
                }
                if (low == listing->table_count || listing->tables[low] != number) {
                    char name[TABLE_NAME_BYTES];
                    table_name(number, name);
                    rc = error_corrupt(err, name, 0, "the file is missing; its size",
                                       tree->levels[level].tables[i]->meta.file_bytes, 0);
                }
            }
        }
    }
    version_unref(version);
    return rc;
}

/* Q7. The numbers of the listing ascend. */
static int recover_check_counters(const struct db_listing *listing, const struct registry_state *state,
                                  struct pleat_error *err) {
    char segment[WAL_NAME_BYTES] = "", table[TABLE_NAME_BYTES] = "";
    uint64_t last_segment = listing->segment_count > 0 ? listing->segments[listing->segment_count - 1] : 0;
    uint64_t last_table = listing->table_count > 0 ? listing->tables[listing->table_count - 1] : 0;
    wal_name(last_segment, segment);
    table_name(last_table, table);
    const struct {
        const char *file;
        const char *what;
        uint64_t found;
    } rows[] = {
        {segment, "number of a log segment, at most", last_segment},
        {table, "number of a table, at most", last_table},
        {"MANIFEST", "bound of file numbers, at most", state->number_bound},
        {"MANIFEST", "last sequence, at most", state->last_sequence},
        {"MANIFEST", "log floor, at most", state->log_floor},
        {"MANIFEST", "history, at most", state->history},
        {"MANIFEST", "incarnation, at most", state->edition.incarnation},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (rows[i].found > RECOVER_COUNTER_MAX) {
            return error_corrupt(err, rows[i].file, 0, rows[i].what, RECOVER_COUNTER_MAX, rows[i].found);
        }
    }
    return 0;
}

/* The manifest of this life; and what the log holds behind it, handed over. */
static int recover_write(struct recovery *recovery, bool was_clean, const struct registry_state *state,
                         struct recovered *ret_recovered, struct pleat_error *err) {
    struct pleat_db *db = recovery->db;
    const struct db_listing *listing = recovery->listing;
    for (size_t i = 0; i < listing->segment_count; i++) {
        recovery->highest = listing->segments[i] > recovery->highest ? listing->segments[i] : recovery->highest;
    }
    for (size_t i = 0; i < listing->table_count; i++) {
        recovery->highest = listing->tables[i] > recovery->highest ? listing->tables[i] : recovery->highest;
    }
    if (!MUTATION(recover_numbers)) {
        registry_numbers_seen(db->registry, recovery->highest);
    }
    struct edit edit;
    edit_init(&edit, db->mem);
    edit.has_clean = true;
    edit.clean = MUTATION(open_unclean) && state->clean;
    if (!was_clean && !MUTATION(recover_history)) { /* Q4 */
        edit.has_history = true;
        edit.history = state->history + 1;
        edit.history_sequence = recovery->last_sequence;
    }
    int rc = 0;
    bool replays = recovery->last_sequence > recovery->floor_sequence;
    if (!replays && recovery->highest >= state->log_floor && !MUTATION(recover_dead_tail)) {
        /* Live segments with nothing to replay die here: behind a torn one, the log of this life would not be followed.
         */
        rc = cursor_set_reserve(&edit.cursors, db->cursors.count, err);
        if (rc == 0) {
            cursor_set_assign(&edit.cursors, &db->cursors);
            edit.has_position = true;
            edit.last_sequence = recovery->last_sequence;
            edit.log_floor = recovery->highest + 1;
        }
    }
    rc = rc == 0 ? registry_rewrite(db->registry, &edit, err) : rc; /* it syncs the names of the old segments, too */
    edit_fini(&edit);
    if (rc == 0 && replays) {
        if (MUTATION(recover_sweep_last)) {
            recover_sweep(db, listing, recovery->highest + 1);
        }
        rc = redo_rest(recovery, err);
        rc = rc == 0 ? redo_hand_over(recovery, ret_recovered, err) : rc;
    }
    if (rc == 0) {
        struct registry_state now;
        registry_state_read(db->registry, &now);
        recover_sweep(db, listing, now.log_floor);
    }
    return rc;
}

/* Q3: whether all that had been durable was read. */
static int recover_check_end(const struct recovery *recovery, struct pleat_error *err) {
    struct pleat_db *db = recovery->db;
    uint64_t noted = durable_note_read(registry_store(db->registry), db->lock, &db->durable_note);
    uint64_t durable = recovery->durable_evidence;
    bool is_noted = noted > durable && !MUTATION(durable_note_compare);
    durable = is_noted ? noted : durable;
    if (durable <= recovery->last_sequence || MUTATION(recover_evidence)) {
        return 0;
    }
    char name[WAL_NAME_BYTES];
    wal_name(recovery->end_segment > 0 ? recovery->end_segment : recovery->log_floor, name); /* or none is left */
    return error_corrupt(err, name, recovery->end_offset,
                         is_noted
                             ? "the log ends before what had been durable, as LOCK notes (was an older log put back "
                               "on purpose? then remove LOCK); last durable and last readable sequence"
                             : "the log ends before what had been durable; last durable and last readable sequence",
                         durable, recovery->last_sequence);
}

/* Reads the live segments and judges where the log ends. Nothing on disk is changed. */
static int recover_read(struct recovery *recovery, const struct registry_state *state, struct pleat_error *err) {
    struct pleat_db *db = recovery->db;
    const struct db_listing *listing = recovery->listing;
    int rc = recover_check_counters(listing, state, err);
    rc = rc == 0 && !MUTATION(recover_tables) ? recover_check_tables(db, listing, err) : rc;
    rc = rc == 0 ? recover_check_synced(recovery, err) : rc;
    rc = rc == 0 ? registry_cursors(db->registry, &db->cursors, err) : rc;
    atomic_store_explicit(&db->applied, state->last_sequence, memory_order_relaxed); /* no other thread yet */
    for (size_t i = 0; rc == 0 && i < listing->segment_count; i++) {
        if (listing->segments[i] >= state->log_floor) {
            rc = recover_scan(recovery, listing->segments[i], err);
        }
    }
    rc = rc == 0 ? recover_check_end(recovery, err) : rc;
    return rc == 0 ? redo_finish(recovery, err) : rc;
}

void recovered_release(struct recovered *recovered) {
    for (unsigned i = 0; i < recovered->count; i++) {
        generation_unref(recovered->generations[i]);
        recovered->generations[i] = NULL;
    }
    recovered->count = 0;
}

int db_recover(struct pleat_db *db, const struct db_listing *listing, struct recovered *ret_recovered,
               struct pleat_error *err) {
    struct registry_state state;
    registry_state_read(db->registry, &state);
    struct recovery recovery = {
        .db = db,
        .floor_sequence = state.last_sequence,
        .last_sequence = state.last_sequence,
        .version = registry_current(db->registry),
        .listing = listing,
        .log_floor = state.log_floor,
        .log_synced = state.log_synced,
        .history_sequence = state.history_sequence,
    };
    int rc = recover_read(&recovery, &state, err);
    if (rc == 0 && db->read_only) {
        memcpy(ret_recovered->generations, recovery.generations, sizeof recovery.generations);
        ret_recovered->count = recovery.count;
        recovery.count = 0;
    } else if (rc == 0) {
        /* Without a MANIFEST in the listing the store has just been made: nobody has seen anything of it yet. */
        bool was_clean = !listing->has_manifest || (state.clean && recovery.last_sequence == state.last_sequence);
        rc = recover_write(&recovery, was_clean, &state, ret_recovered, err);
    }
    redo_abandon(&recovery);
    version_unref(recovery.version);
    rc = rc == 0 ? cursor_set_reserve(&db->durable_cursors, db->cursors.count, err) : rc;
    rc = rc == 0 ? cursor_set_reserve(&db->sync_cursors, db->cursors.count, err) : rc;
    /* Only what the manifest says by now is known to be durable (F11). */
    rc = rc == 0 ? registry_cursors(db->registry, &db->durable_cursors, err) : rc;
    if (rc < 0) {
        recovered_release(ret_recovered);
        return rc;
    }
    registry_state_read(db->registry, &state);
    if (MUTATION(recover_relog)) {
        state.last_sequence = recovery.last_sequence;
        cursor_set_assign(&db->durable_cursors, &db->cursors);
    }
    atomic_store_explicit(&db->durable, state.last_sequence, memory_order_relaxed); /* no other thread yet */
    atomic_store_explicit(&db->history, state.history, memory_order_relaxed);       /* no other thread yet */
    db->recovered_sequence = db->read_only || MUTATION(recover_relog) ? 0 : recovery.last_sequence;
    db->recovered_segments = recovery.segments;
    db->recovered_records = recovery.records;
    if (recovery.records > 0) {
        db_log(db, PLEAT_LOG_INFO, "recovered %" PRIu64 " commits from %" PRIu64 " log segments", recovery.records,
               recovery.segments);
    }
    return 0;
}
