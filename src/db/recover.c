/*
 * recover.c - from what a crash left to an exact prefix of the commits.
 *
 * Two passes. The first reads every live segment, changes nothing, and decides where the log ends: it follows the chain
 * from segment to segment and collects the evidence of what had been durable. The second replays up to that end into
 * memtables and (unless read-only) flushes them to tables, because what an earlier life left in the page cache is not
 * to be trusted (F11).
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
 *       says so of all sequences before it: open_start makes such a one when everything is in tables.
 *   Q4  A history that may have lost commits ends: unless the store was closed cleanly, a new history begins.
 *   Q5  Files are removed only after the manifest of this life is durable.
 *   Q6  All that the second pass replays has been judged by the first, the spaces of its entries included, so that
 *       damage is found before anything is written.
 *   Q7  No number is taken over from disk, names of files included, that leaves no room to count on from.
 *   Q8  A live segment that another one names as its predecessor, or that the manifest calls synced, is there: its name
 *       was durable before. One that is not is damage, as when a manifest lost the edits that had ended that segment.
 *   Q9  A manifest that had not come so far as the header of a live segment says lost something, or is an older one.
 */
#include "base/assert.h"
#include "db/db.h"

#include <inttypes.h>
#include <string.h>

/* Every store counts from 1 by ones. */
#define RECOVER_COUNTER_MAX (UINT64_MAX / 8)

/* What the first pass found. */
struct recovery {
    struct pleat_db *db;
    struct version *version;   /* of the manifest as it was found; during the first pass */
    uint64_t floor_sequence;   /* L */
    uint64_t last_sequence;    /* where the log ends */
    uint64_t durable_evidence; /* the highest sequence that anything valid calls durable */
    uint64_t evidence_segment;
    uint64_t end_segment;      /* where the end lies, and ... */
    uint64_t end_offset;       /* ... at which byte */
    struct wal_tail tail;      /* of the last segment followed */
    const struct db_listing *listing;
    uint64_t log_floor;
    uint64_t log_synced;       /* live segments up to this one are whole, as far as a sync goes */
    bool has_tail;
    bool ended;
    uint64_t records;
    uint64_t segments;
};

static void recover_evidence(struct recovery *recovery, uint64_t segment, uint64_t durable) {
    if (durable > recovery->durable_evidence) {
        recovery->durable_evidence = durable;
        recovery->evidence_segment = segment;
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

/* Q6: every space that the record names is there. `offset`: of the record. */
static int recover_check_spaces(const struct recovery *recovery, uint64_t segment, uint64_t offset,
                                struct wal_view view, struct pleat_error *err) {
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

/* The records of one segment. `follow`: it goes on where the log ends so far. */
static int recover_scan_records(struct recovery *recovery, struct wal_reader *reader, uint64_t number, bool *follow,
                                struct pleat_error *err) {
    struct wal_view view;
    uint64_t offset = wal_reader_offset(reader);
    int rc;
    while ((rc = wal_reader_next(reader, recovery->floor_sequence, &view, err)) == 0) {
        recover_evidence(recovery, number, view.durable_sequence);
        if (*follow && view.sequence > recovery->floor_sequence && view.sequence != recovery->last_sequence + 1 &&
            !MUTATION(recover_dense) && !MUTATION(recover_order)) {
            recover_end(recovery, number); /* a hole in front of this record: the rest is evidence */
            *follow = false;
        }
        if (*follow && view.sequence > recovery->floor_sequence) {
            rc = recover_check_spaces(recovery, number, offset, view, err);
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
        recover_evidence(recovery, header->segment, predecessor->last_sequence);
    } else if (predecessor->segment >= recovery->log_floor && !recover_has_segment(recovery, predecessor->segment)) {
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
        /* Created and never synced, or damaged: the records tell. Valid ones are only written behind a valid header. */
        uint64_t durable = 0;
        bool any_record = false;
        struct pleat_error probe_error = {0};
        int probe = wal_segment_probe(db->vfs, db->dir, db->mem, store_id, number, &durable, &any_record, &probe_error);
        if (probe < 0) {
            (void)error_set(err, probe, probe_error.os_errno, "%s", probe_error.message);
            return probe;
        }
        recover_evidence(recovery, number, durable);
        recover_end(recovery, number);
        return 0;
    }
    if (rc < 0) {
        return error_set(err, rc, header_error.os_errno, "%s", header_error.message);
    }
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
        recover_evidence(recovery, number, end.durable_sequence);
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

/* ---- the second pass -------------------------------------------------------------------------------------------- */

static int recover_slot_of(const void *context, uint32_t space) {
    return version_slot(context, space);
}

/* Cursors that a record sets, into the set of the state. */
static int recover_cursors(struct pleat_db *db, struct wal_view view, struct pleat_error *err) {
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

/* Writes a recovered generation to tables with an edit of its own. Before the first view: nobody reads yet. */
static int recover_flush(struct pleat_db *db, struct generation *generation, uint64_t log_floor,
                         struct pleat_error *err) {
    int rc = cursor_set_reserve(&generation->cursors, db->cursors.count, err);
    if (rc < 0) {
        return rc;
    }
    cursor_set_assign(&generation->cursors, &db->cursors);
    generation->last_sequence = db_applied(db);
    return work_flush_generation(db, generation, log_floor, err);
}

/* The generation to replay into, with room for `bytes`; a full one is flushed (or kept, read-only). */
static int recover_room(struct pleat_db *db, struct generation **generations, unsigned *count, uint64_t segment,
                        uint64_t sequence, uint64_t bytes, struct pleat_error *err) {
    struct generation *current = *count > 0 ? generations[0] : NULL;
    if (current != NULL && arena_used(current->arena) < db->options.memtable_bytes &&
        arena_available(current->arena) >= bytes) {
        return 0;
    }
    if (current != NULL && !db->read_only) {
        /* Its commits up to here are one edit; the segments stay live until all of the log is in tables. */
        struct registry_state state;
        registry_state_read(db->registry, &state);
        int rc = recover_flush(db, current, state.log_floor, err);
        generation_unref(current);
        *count = 0;
        if (rc < 0) {
            return rc;
        }
    }
    if (*count == DB_GENERATIONS_MAX) {
        return error_set(err, PLEAT_ERR_NO_MEMORY, 0,
                         "the log fills more than %d memtables of %" PRIu64 " bytes: open the store for writing first",
                         DB_GENERATIONS_MAX, db->options.memtable_bytes);
    }
    struct generation *next;
    int rc = generation_new(db, bytes, segment, sequence, &next, err);
    if (rc < 0) {
        return rc;
    }
    memmove(generations + 1, generations, *count * sizeof *generations); /* newest first */
    generations[0] = next;
    (*count)++;
    return 0;
}

/* What a valid record says and the manifest does not bear out is damage of one of the two: the text names the log. */
static int recover_apply(struct pleat_db *db, struct generation *generation, uint64_t segment,
                         const struct version *version, struct wal_view view, struct pleat_error *err) {
    struct pleat_error failure = {0};
    int rc = generation_insert(generation, recover_slot_of, version, view, &failure);
    rc = rc == 0 ? recover_cursors(db, view, &failure) : rc;
    if (rc < 0) {
        char name[WAL_NAME_BYTES];
        wal_name(segment, name);
        return error_set(err, rc, failure.os_errno, "%s: %.200s", name, failure.message);
    }
    return 0;
}

static int recover_replay_segment(struct recovery *recovery, uint64_t number, const struct version *version,
                                  struct generation **generations, unsigned *count, struct pleat_error *err) {
    struct pleat_db *db = recovery->db;
    struct wal_reader *reader;
    struct wal_view view;
    int rc = wal_reader_open(db->vfs, db->dir, db->mem, registry_store(db->registry)->store_id, number, &reader, err);
    if (rc != 0) {
        return rc == PLEAT_END ? 0 : rc;
    }
    while ((rc = wal_reader_next(reader, recovery->floor_sequence, &view, err)) == 0) {
        if (view.sequence <= recovery->floor_sequence) {
            continue;
        }
        if (view.sequence > recovery->last_sequence) {
            break;
        }
        rc = recover_room(db, generations, count, number, view.sequence, generation_bytes_max(view), err);
        rc = rc == 0 ? recover_apply(db, generations[0], number, version, view, err) : rc;
        if (rc < 0) {
            break;
        }
        atomic_store_explicit(&db->applied, view.sequence, memory_order_relaxed); /* no other thread yet */
    }
    wal_reader_close(reader);
    return rc < 0 ? rc : 0;
}

static int recover_replay(struct recovery *recovery, const struct db_listing *listing, uint64_t log_floor,
                          struct generation **generations, unsigned *count, struct pleat_error *err) {
    struct version *version = registry_current(recovery->db->registry);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < listing->segment_count; i++) {
        if (listing->segments[i] >= log_floor &&
            db_applied(recovery->db) < recovery->last_sequence) {
            rc = recover_replay_segment(recovery, listing->segments[i], version, generations, count, err);
        }
    }
    version_unref(version);
    if (rc == 0 && db_applied(recovery->db) != recovery->last_sequence) {
        rc = error_set(err, PLEAT_ERR_CORRUPT, 0,
                       "the log was read twice and differs: sequence %" PRIu64 " first, %" PRIu64 " then",
                       recovery->last_sequence, db_applied(recovery->db));
    }
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
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (rows[i].found > RECOVER_COUNTER_MAX) {
            return error_corrupt(err, rows[i].file, 0, rows[i].what, RECOVER_COUNTER_MAX, rows[i].found);
        }
    }
    return 0;
}

static int recover_write(struct recovery *recovery, const struct db_listing *listing, bool was_clean,
                         const struct registry_state *state, struct generation **generations, unsigned *count,
                         struct pleat_error *err) {
    struct pleat_db *db = recovery->db;
    uint64_t highest = 0;
    for (size_t i = 0; i < listing->segment_count; i++) {
        highest = listing->segments[i] > highest ? listing->segments[i] : highest;
    }
    for (size_t i = 0; i < listing->table_count; i++) {
        highest = listing->tables[i] > highest ? listing->tables[i] : highest;
    }
    if (!MUTATION(recover_numbers)) {
        registry_numbers_seen(db->registry, highest);
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
    uint64_t log_floor = state->log_floor;
    bool replays = recovery->last_sequence > recovery->floor_sequence;
    if (!replays && highest >= log_floor && !MUTATION(recover_dead_tail)) {
        /* Live segments with nothing to replay die here: behind a torn one, the log of this life would not be followed.
         */
        log_floor = highest + 1;
        rc = cursor_set_reserve(&edit.cursors, db->cursors.count, err);
        if (rc == 0) {
            cursor_set_assign(&edit.cursors, &db->cursors);
            edit.has_position = true;
            edit.last_sequence = recovery->last_sequence;
            edit.log_floor = log_floor;
        }
    }
    rc = rc == 0 ? registry_rewrite(db->registry, &edit, err) : rc;
    edit_fini(&edit);
    if (rc < 0) {
        return rc;
    }
    if (replays) {
        rc = recover_replay(recovery, listing, log_floor, generations, count, err);
        if (rc < 0) {
            return rc;
        }
        if (MUTATION(recover_relog)) {
            return 0;
        }
        ASSERT(*count == 1);
        log_floor = highest + 1;
        if (MUTATION(recover_sweep_last)) {
            recover_sweep(db, listing, log_floor);
        }
        rc = recover_flush(db, generations[0], log_floor, err); /* all of the old log is dead with this edit */
        generation_unref(generations[0]);
        generations[0] = NULL;
        *count = 0;
    }
    if (rc == 0) {
        recover_sweep(db, listing, log_floor);
    }
    return rc;
}

int db_recover(struct pleat_db *db, const struct db_listing *listing, struct generation **ret_generations,
               unsigned *ret_count, struct pleat_error *err) {
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
    };
    int rc = recover_check_counters(listing, &state, err);
    rc = rc == 0 && !MUTATION(recover_tables) ? recover_check_tables(db, listing, err) : rc;
    rc = rc == 0 ? recover_check_synced(&recovery, err) : rc;
    for (size_t i = 0; rc == 0 && i < listing->segment_count; i++) {
        if (listing->segments[i] >= state.log_floor) {
            rc = recover_scan(&recovery, listing->segments[i], err);
        }
    }
    if (rc == 0 && recovery.durable_evidence > recovery.last_sequence && !MUTATION(recover_evidence)) { /* Q3 */
        char name[WAL_NAME_BYTES];
        wal_name(recovery.end_segment, name);
        rc = error_corrupt(err, name, recovery.end_offset,
                           "the log ends before what had been durable; last durable and last readable sequence",
                           recovery.durable_evidence, recovery.last_sequence);
    }
    version_unref(recovery.version);
    recovery.version = NULL;
    rc = rc == 0 ? registry_cursors(db->registry, &db->cursors, err) : rc;
    if (rc < 0) {
        return rc;
    }
    atomic_store_explicit(&db->applied, state.last_sequence, memory_order_relaxed); /* no other thread yet */
    /* Without a MANIFEST in the listing the store has just been made: nobody has seen anything of it yet. */
    bool was_clean = !listing->has_manifest || (state.clean && recovery.last_sequence == state.last_sequence);
    if (db->read_only) {
        rc = recover_replay(&recovery, listing, state.log_floor, ret_generations, ret_count, err);
    } else {
        rc = recover_write(&recovery, listing, was_clean, &state, ret_generations, ret_count, err);
    }
    rc = rc == 0 ? cursor_set_reserve(&db->durable_cursors, db->cursors.count, err) : rc;
    rc = rc == 0 ? cursor_set_reserve(&db->sync_cursors, db->cursors.count, err) : rc;
    if (rc < 0) {
        for (unsigned i = 0; i < *ret_count; i++) {
            generation_unref(ret_generations[i]);
            ret_generations[i] = NULL;
        }
        *ret_count = 0;
        return rc;
    }
    /* Writable: everything is in tables now. Read-only: only what the manifest says is known to be durable. */
    uint64_t durable = db->read_only ? state.last_sequence : recovery.last_sequence;
    if (!db->read_only) {
        cursor_set_assign(&db->durable_cursors, &db->cursors);
    } else {
        rc = registry_cursors(db->registry, &db->durable_cursors, err);
    }
    registry_state_read(db->registry, &state);
    atomic_store_explicit(&db->durable, durable, memory_order_relaxed);       /* no other thread yet */
    atomic_store_explicit(&db->history, state.history, memory_order_relaxed); /* no other thread yet */
    db->recovered_segments = recovery.segments;
    db->recovered_records = recovery.records;
    if (recovery.records > 0) {
        db_log(db, PLEAT_LOG_INFO, "recovered %" PRIu64 " commits from %" PRIu64 " log segments", recovery.records,
               recovery.segments);
    }
    return rc;
}
