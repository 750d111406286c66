/*
 * segment.c - the files of this life's log segments: made ahead of need, begun by a rotation, removed.
 *
 * To make a segment's file takes milliseconds, and tens of them while a flush writes: opening, reserving and mapping it
 * wait in the file system. A commit does not: once the active generation is half full, the log thread (or a step) makes
 * the next segment's file under the number that it will have, and the rotation lays a header into it.
 *
 *     [h|rec rec rec ...   0 ]  <- chain -  [ 0 0 0 ...  ]       the spare: reserved, not begun
 *       active, 000007.wal                    000009.wal         - rotation ->  [h| ...   active
 *
 *     [h|rec rec rec rec rec ]  flushed: dead, and kept          - renamed 000012.wal ->  the next spare
 *       000004.wal
 *
 * The file of a dead segment is not removed but kept for the next spare: its pages are in memory and mapped, and its
 * blocks are written, so that nothing is cleared, allocated or faulted in again.
 *
 * A file that was not begun is to recovery what one is that was created and never synced: it holds nothing, and the log
 * ends in front of it. Hence nothing may ever be written behind it in number. A dead one that is kept has its old name,
 * which is below the log floor: as any leftover.
 *
 *   J1  The spare's number is above the active segment's, and no segment of a higher number begins while its file may
 *       be there: a rotation begins the spare, or removes it first as a leftover (D8).
 *   J2  One thread at a time makes or removes the spare (`is_busy`), and a rotation waits for it: what that thread
 *       would still do, the rotation would have to do itself.
 *   J3  Spare and kept file take no space that something else lacks: when a background job, or what a caller does to a
 *       space, finds the disk full they are removed, and there are none before the next rotation. The kept one is
 *       removed as well when a rotation finds the disk full, and when nothing was flushed for a while. Files of dead
 *       tables give way with them, also of those that only a view holds which no reader sees.
 */
#include "base/assert.h"
#include "db/db.h"
#include "sstable/table_files.h"

/* Of a segment, beyond the memtable's bytes: its header, and records that are longer than their entries. */
#define SEGMENT_SLACK_BYTES 4096u
/* Pages of a spare that are made ready at once: the log thread's first turn in the new segment comes later. */
#define SPARE_PREPARE_BYTES (1u << 20)
/* So long after a flush a dead segment's file is no longer worth its place on the disk. */
#define KEPT_NS 2000000000ull

/* A segment whose first record is of record_bytes. */
static uint64_t segment_bytes(const struct pleat_db *db, uint64_t record_bytes) {
    uint64_t bytes = db->options.memtable_bytes;
    return (bytes > record_bytes ? bytes : record_bytes) + SEGMENT_SLACK_BYTES;
}

static void segment_options_fill(const struct pleat_db *db, uint64_t number, uint64_t bytes,
                                 struct wal_writer_options *ret_options) {
    *ret_options = (struct wal_writer_options){
        .vfs = db->vfs,
        .dir = db->dir,
        .mem = db->mem,
        .store_id = registry_store(db->registry)->store_id,
        .segment = number,
        .bytes = bytes,
        .file_mode = db->options.file_mode,
        .by_write = db->options.log_by_write,
    };
}

/* ---- numbers ---------------------------------------------------------------------------------------------------- */

void segment_reserve_number(struct pleat_db *db) {
    uint64_t number;
    if (atomic_load_explicit(&db->reserved_number, memory_order_relaxed) == 0 && /* a number alone: no partner */
        registry_file_number(db->registry, &number, NULL) == 0) {
        atomic_store_explicit(&db->reserved_number, number, memory_order_relaxed);
    }
}

/* A number above that of the active segment. */
static int segment_number(struct pleat_db *db, uint64_t active, uint64_t *ret_number, struct pleat_error *err) {
    *ret_number = atomic_exchange_explicit(&db->reserved_number, 0, memory_order_relaxed); /* a number: no partner */
    /* None, or one taken before a rotation that came first: segments count up. */
    return *ret_number > active ? 0 : registry_file_number(db->registry, ret_number, err);
}

/* ---- the spare -------------------------------------------------------------------------------------------------- */

int segment_unlink(struct pleat_db *db, uint64_t number, struct pleat_error *err) {
    char name[WAL_NAME_BYTES];
    wal_name(number, name);
    int rc = db->vfs->dir_unlink(db->dir, name, err);
    if (rc == PLEAT_ERR_NOT_FOUND) {
        error_clear(err);
        return 0;
    }
    return rc;
}

/* A file that cannot be removed is below the log floor: swept at the next open. */
static void dead_remove(struct pleat_db *db, struct wal_writer *writer) {
    uint64_t number = wal_writer_number(writer);
    wal_writer_close(writer);
    (void)segment_unlink(db, number, NULL);
}

/* The number of the newest segment, which is the active one or is about to be. sync_mu held. */
static uint64_t segment_newest(struct pleat_db *db) {
    mutex_check_held(&db->sync_mu);
    uint64_t number = 0;
    for (const struct segment *segment = db->segments; segment != NULL; segment = segment->next) {
        number = segment->number;
    }
    return number;
}

/* Makes a reserved segment of the dead one, which is consumed, or from nothing. */
static int spare_make(struct pleat_db *db, struct wal_writer *dead, uint64_t number, struct wal_writer **ret_writer,
                      struct pleat_error *err) {
    struct wal_writer_options options;
    segment_options_fill(db, number, segment_bytes(db, 0), &options);
    if (dead == NULL) {
        return wal_writer_reserve(&options, ret_writer, err);
    }
    int rc = wal_writer_renew(dead, &options, err);
    if (rc < 0) {
        dead_remove(db, dead);
        return rc;
    }
    *ret_writer = dead;
    return 0;
}

/* Ends what is_busy began. */
static void spare_settle(struct pleat_db *db, struct wal_writer *writer, uint64_t number) {
    mutex_lock(&db->sync_mu);
    db->spare.writer = writer;
    db->spare.number = number;
    db->spare.is_busy = false;
    condition_broadcast(&db->sync_done);
    mutex_unlock(&db->sync_mu);
}

int segment_make_spare(struct pleat_db *db) {
    if (!generation_is_half_full(db) || db_health(db, NULL) < 0) {
        return PLEAT_END;
    }
    mutex_lock(&db->sync_mu);
    uint64_t active = segment_newest(db);
    bool is_due = active > db->spare.tried && db->spare.number == 0 && !db->spare.is_busy && !db->spare.is_short;
    struct wal_writer *dead = NULL;
    if (is_due) {
        db->spare.is_busy = true;
        db->spare.tried = active;
        dead = db->spare.dead;
        db->spare.dead = NULL;
    }
    mutex_unlock(&db->sync_mu);
    if (!is_due) {
        return PLEAT_END;
    }
    struct wal_writer *writer = NULL;
    struct pleat_error failure = {0};
    uint64_t number = 0;
    int rc = segment_number(db, active, &number, &failure);
    if (rc == 0) {
        rc = spare_make(db, dead, number, &writer, &failure);
    } else if (dead != NULL) {
        dead_remove(db, dead);
    }
    if (rc == 0) {
        wal_writer_prepare(writer, SPARE_PREPARE_BYTES);
    } else {
        writer = NULL; /* its file may be there all the same, and the number says which */
        db_log(db, PLEAT_LOG_WARNING, "no log segment was made ahead: %s", failure.message);
    }
    spare_settle(db, writer, number);
    return rc == 0 ? 0 : PLEAT_END; /* the rotation tries again, and tells the commit */
}

/* Takes the spare's file away. False: it may still be there. */
static bool spare_remove(struct pleat_db *db, struct wal_writer *writer, uint64_t number) {
    if (writer != NULL) {
        return wal_writer_remove(writer, db->dir, NULL) == 0;
    }
    return segment_unlink(db, number, NULL) == 0;
}

void segment_drop_spare(struct pleat_db *db) {
    mutex_lock(&db->sync_mu);
    while (db->spare.is_busy) {
        condition_wait(&db->sync_done, &db->sync_mu);
    }
    struct wal_writer *writer = db->spare.writer, *dead = db->spare.dead;
    uint64_t number = db->spare.number;
    db->spare.is_busy = number != 0;
    db->spare.is_short = true;
    db->spare.writer = NULL;
    db->spare.dead = NULL;
    mutex_unlock(&db->sync_mu);
    if (dead != NULL) {
        dead_remove(db, dead);
    }
    if (number != 0) {
        bool is_removed = spare_remove(db, writer, number);
        spare_settle(db, NULL, is_removed ? 0 : number);
    }
}

void segment_close_spare(struct pleat_db *db) {
    wal_writer_close(db->spare.writer);
    wal_writer_close(db->spare.dead);
    db->spare.writer = NULL;
    db->spare.dead = NULL;
}

/* ---- dead segments ---------------------------------------------------------------------------------------------- */

void segment_bury(struct pleat_db *db, struct wal_writer *writer) {
    mutex_lock(&db->sync_mu);
    bool is_kept = db->spare.dead == NULL && !db->spare.is_short && wal_writer_can_renew(writer, segment_bytes(db, 0));
    if (is_kept) {
        db->spare.dead = writer;
    }
    mutex_unlock(&db->sync_mu);
    if (!is_kept) {
        dead_remove(db, writer);
    }
}

/* Removes the kept file; false: there is none. */
static bool dead_drop(struct pleat_db *db) {
    mutex_lock(&db->sync_mu);
    struct wal_writer *dead = db->spare.dead;
    db->spare.dead = NULL;
    mutex_unlock(&db->sync_mu);
    if (dead != NULL) {
        dead_remove(db, dead);
    }
    return dead != NULL;
}

void segment_tidy(struct pleat_db *db) {
    mutex_lock(&db->work_mu);
    bool is_idle = db->vfs->now_ns(db->vfs) - db->last_flush_ns > KEPT_NS;
    mutex_unlock(&db->work_mu);
    if (!is_idle) {
        return;
    }
    (void)dead_drop(db);
}

/* ---- rotation --------------------------------------------------------------------------------------------------- */

/* D8. The name goes for good with that of the next segment: one sync of the directory covers both. */
static int segment_remove_leftover(struct pleat_db *db, struct pleat_error *err) {
    int rc = db->leftover_segment != 0 ? segment_unlink(db, db->leftover_segment, err) : 0;
    if (rc == 0) {
        db->leftover_segment = 0;
    }
    return rc;
}

int segment_next_number(struct pleat_db *db, uint64_t active, uint64_t record_bytes, uint64_t *ret_number,
                        struct pleat_error *err) {
    mutex_check_held(&db->commit_mu);
    int rc = segment_remove_leftover(db, err);
    if (rc < 0) {
        return rc;
    }
    mutex_lock(&db->sync_mu);
    while (db->spare.is_busy) { /* J2 */
        condition_wait(&db->sync_done, &db->sync_mu);
    }
    struct spare spare = db->spare;
    db->spare.tried = active; /* no other spare comes before this rotation has its segment on the list */
    db->spare.is_short = false;
    bool fits = spare.writer != NULL && segment_bytes(db, record_bytes) == segment_bytes(db, 0);
    if (!fits) {
        db->spare.writer = NULL;
        db->spare.number = 0;
    }
    mutex_unlock(&db->sync_mu);
    ASSERT(spare.number == 0 || spare.number > active); /* J1 */
    if (fits) {
        *ret_number = spare.number;
        return 0;
    }
    wal_writer_close(spare.writer);
    db->leftover_segment = MUTATION(spare_kept) ? 0 : spare.number; /* too small, or a failed one's file */
    return segment_number(db, active > spare.number ? active : spare.number, ret_number, err);
}

/* J3, where there is no spare: whether anything was removed. */
static bool segment_give_space(struct pleat_db *db) {
    bool any = dead_drop(db);
    return view_give_space(db) || any;
}

/* The spare, if it has this number. */
static struct wal_writer *segment_take_spare(struct pleat_db *db, uint64_t number) {
    mutex_lock(&db->sync_mu);
    while (db->spare.is_busy) { /* J3: a full disk has just come between */
        condition_wait(&db->sync_done, &db->sync_mu);
    }
    struct wal_writer *writer = db->spare.writer;
    ASSERT(db->spare.number == 0 || db->spare.number == number); /* J1 */
    db->spare.writer = NULL;
    db->spare.number = 0;
    mutex_unlock(&db->sync_mu);
    return writer;
}

/* Again where what stood in the way gives room: the disk's, or a descriptor. Nothing is left of what failed. */
static int segment_create(struct pleat_db *db, const struct wal_writer_options *options,
                          struct wal_writer **ret_writer, struct pleat_error *err) {
    struct pleat_error failed;
    int rc;
    do {
        error_clear(&failed);
        rc = wal_writer_create(options, ret_writer, &failed);
    } while (rc < 0 && ((rc == PLEAT_ERR_NO_SPACE && segment_give_space(db)) ||
                        table_files_give(registry_store(db->registry), &failed)));
    return rc == 0 ? 0 : error_set(err, rc, failed.os_errno, "%s", failed.message);
}

int segment_start(struct pleat_db *db, uint64_t number, uint64_t first_sequence, struct wal_tail predecessor,
                  uint64_t record_bytes, struct segment **ret_segment, struct pleat_error *err) {
    int rc = segment_remove_leftover(db, err);
    if (rc < 0) {
        return rc;
    }
    struct segment *segment = mem_zalloc(db->mem, 1, sizeof *segment);
    if (segment == NULL) {
        return error_no_memory(err, "a log segment", sizeof *segment);
    }
    struct wal_writer_options options;
    struct registry_state state;
    registry_state_read(db->registry, &state);
    segment_options_fill(db, number, segment_bytes(db, record_bytes), &options);
    options.predecessor = predecessor;
    options.first_sequence = first_sequence;
    options.edition = state.edition;
    segment->writer = segment_take_spare(db, number);
    if (segment->writer == NULL) {
        rc = segment_create(db, &options, &segment->writer, err);
    } else {
        rc = wal_writer_begin(segment->writer, &options, err);
        if (rc < 0) {
            (void)wal_writer_remove(segment->writer, db->dir, NULL);
        }
    }
    if (rc < 0) {
        db->leftover_segment = number; /* its removal may have failed, too */
        mem_free(db->mem, segment);
        return rc;
    }
    segment->number = number;
    mutex_lock(&db->sync_mu);
    struct segment **end = &db->segments;
    while (*end != NULL) {
        end = &(*end)->next;
    }
    *end = segment;
    mutex_unlock(&db->sync_mu);
    *ret_segment = segment;
    return 0;
}
