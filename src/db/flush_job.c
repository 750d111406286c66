/*
 * flush_job.c - one flush, cut in parts that several workers write (parts.c).
 *
 *     frozen generation --plan--> [ space | space, lower half | space, upper half | ... ]
 *                                 --all written--> directory synced --> one edit
 *
 * A commit that finds the memtable full waits for the flush of the one before, and in a fold in order, which compacts
 * nothing, a flush is all that the background does: written by one worker, it is what such a fold waits for. So a run
 * that goes deep is written in two halves, tables of their own. A run of level 0 is not: each of its tables is a leg
 * more of every merge.
 *
 *   FJ1  Parts of one space have no key in common and leave none out: one ends before the key that the next begins
 *        with.
 *   FJ2  Where runs may go is decided by a version that shows what every compaction of their space has done: the
 *        version is taken, and compactions of spaces that have none are held off, in one hold of work_mu.
 *   FJ3  Nothing of a flush is in the manifest before all of its parts are written. When one fails, the files of all
 *        parts are removed, or, when the manifest takes no more edits (X2, X3 in work.c), left to the sweep of the next
 *        open.
 */
#include "base/assert.h"
#include "db/db.h"

#include <string.h>

/* A run is cut in halves of an eighth of a table's target size at least. */
#define CUT_TABLE_PART 4

struct flush_part {
    uint32_t slot;
    bool allow_deep;
    struct pleat_slice from; /* FJ1; data NULL: from the first key, to the last */
    struct pleat_slice to;
    struct edit edit;        /* the tables that it was written to */
    uint64_t bytes;
};

struct flush_job {
    struct parts parts; /* first */
    struct pleat_db *db;
    struct generation *generation;
    struct version *version; /* FJ2; referenced */
    struct flush_part *pieces;
};

static struct memtable *job_table(const struct flush_job *job, uint32_t slot) {
    const struct tree *tree = job->version->trees[slot];
    return tree != NULL ? generation_table(job->generation, slot, tree->space.id) : NULL;
}

/* ---- planning --------------------------------------------------------------------------------------------------- */

static struct flush_part *job_add(struct flush_job *job, uint32_t slot, bool allow_deep) {
    struct flush_part *part = &job->pieces[job->parts.count++];
    *part = (struct flush_part){.slot = slot, .allow_deep = allow_deep};
    edit_init(&part->edit, job->db->mem);
    return part;
}

static bool tree_is_empty(const struct tree *tree) {
    size_t tables = 0;
    for (unsigned l = 0; l < LIMIT_LEVELS; l++) {
        tables += tree->levels[l].count;
    }
    return tables == 0;
}

/* Whether a space's run is to be written in two halves, and where the second begins. Not its first run: that goes deep
 * in any order of keys, and what comes next may overlap all of it. */
static int job_cut(const struct flush_job *job, uint32_t slot, struct memtable *table, bool *ret_cut,
                   struct pleat_slice *ret_key, struct pleat_error *err) {
    struct pleat_db *db = job->db;
    struct memtable_stats stats;
    struct source_bounds bounds = {.fill_cache = false};
    struct source *source;
    *ret_cut = false;
    memtable_stats_read(table, &stats);
    if (stats.bytes < db->shape.table_bytes / CUT_TABLE_PART || tree_is_empty(job->version->trees[slot]) ||
        memtable_middle(table, ret_key) != 0) {
        return 0;
    }
    int rc = memtable_source_new(db->mem, table, &bounds, job->generation->last_sequence, &source, err);
    if (rc == 0) {
        rc = flush_goes_deep(db->mem, job->version, slot, &db->shape, source, ret_cut, err);
        source_free(source);
    }
    return rc;
}

/* FJ2. No compaction of a space starts while its run may go deep. */
static void job_hold(struct flush_job *job) {
    struct pleat_db *db = job->db;
    mutex_lock(&db->work_mu);
    job->version = registry_current(db->registry);
    for (uint32_t slot = 0; slot < job->generation->slots; slot++) {
        db->slot_flushing[slot] = job_table(job, slot) != NULL && db->slot_jobs[slot] == 0;
    }
    mutex_unlock(&db->work_mu);
}

/* The parts of all dirty spaces. */
static int job_plan(struct flush_job *job, struct pleat_error *err) {
    struct pleat_db *db = job->db;
    uint32_t slots = job->generation->slots;
    job->pieces = mem_zalloc(db->mem, (size_t)slots * 2 + 1, sizeof *job->pieces);
    if (job->pieces == NULL) {
        return error_no_memory(err, "the parts of a flush", ((size_t)slots * 2 + 1) * sizeof *job->pieces);
    }
    for (uint32_t slot = 0; slot < slots; slot++) {
        struct memtable *table = job_table(job, slot);
        if (table == NULL) {
            continue;
        }
        bool allow_deep = db->slot_flushing[slot]; /* of this flush alone: X1 */
        bool is_cut = false;
        struct pleat_slice key = {NULL, 0};
        int rc = allow_deep ? job_cut(job, slot, table, &is_cut, &key, err) : 0;
        if (rc < 0) {
            return rc;
        }
        struct flush_part *part = job_add(job, slot, allow_deep);
        if (is_cut) {
            part->to = key;
        }
        if (is_cut && !MUTATION(flush_half)) {
            job_add(job, slot, allow_deep)->from = key;
        }
    }
    return 0;
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

static int job_write(struct parts *parts, size_t index, struct pleat_error *err) {
    struct flush_job *job = (struct flush_job *)(void *)parts; /* its first member */
    struct flush_part *part = &job->pieces[index];
    struct pleat_db *db = job->db;
    const struct generation *generation = job->generation;
    struct source_bounds bounds = {.fill_cache = false,
                                   .lower = part->from.data,
                                   .lower_bytes = part->from.bytes,
                                   .upper = part->to.data,
                                   .upper_bytes = part->to.bytes};
    struct source *source;
    int rc = memtable_source_new(db->mem, job_table(job, part->slot), &bounds, generation->last_sequence, &source, err);
    if (rc < 0) {
        return rc;
    }
    rc = flush_run(db->registry, job->version, part->slot, &db->shape, source, generation->first_sequence,
                   generation->last_sequence, part->allow_deep, &part->edit, &part->bytes, err);
    source_free(source);
    if (MUTATION(flush_one_edit) && rc == 0 && part->edit.added_count > 0) {
        rc = db->vfs->dir_sync(db->dir, err);
        rc = rc == 0 ? view_apply(db, &part->edit, err) : rc;
        edit_fini(&part->edit);
        edit_init(&part->edit, db->mem);
    }
    return rc;
}

/* ---- the whole -------------------------------------------------------------------------------------------------- */

/* Moves the tables of all parts to the edit: FJ3. */
static int job_collect(struct flush_job *job, struct edit *edit, uint64_t *ret_bytes, struct pleat_error *err) {
    int rc = 0;
    *ret_bytes = 0;
    for (size_t i = 0; rc == 0 && i < job->parts.count; i++) {
        rc = edit_take_tables(edit, &job->pieces[i].edit, err);
        *ret_bytes += job->pieces[i].bytes;
    }
    return rc;
}

static void job_fini(struct flush_job *job) {
    struct pleat_db *db = job->db;
    for (size_t i = 0; i < job->parts.count; i++) {
        work_unlink_added(db, &job->pieces[i].edit); /* of a flush that has failed */
        edit_fini(&job->pieces[i].edit);
    }
    mem_free(db->mem, job->pieces);
    version_unref(job->version);
    mutex_lock(&db->work_mu);
    memset(db->slot_flushing, 0, sizeof db->slot_flushing);
    mutex_unlock(&db->work_mu);
}

/* One edit with the tables of all spaces and everything else that the generation stands for. */
static int flush_apply(struct pleat_db *db, const struct generation *generation, uint64_t log_floor, struct edit *edit,
                       struct pleat_error *err) {
    const struct cursor_set *cursors = MUTATION(flush_cursors) ? &db->cursors : &generation->cursors;
    int rc = edit->added_count > 0 && !MUTATION(flush_dir_sync) ? sync_names(db, err) : 0;
    rc = rc == 0 ? cursor_set_reserve(&edit->cursors, cursors->count, err) : rc;
    if (rc < 0) {
        return rc;
    }
    cursor_set_assign(&edit->cursors, cursors);
    edit->has_position = true;
    edit->last_sequence = generation->last_sequence;
    edit->log_floor = log_floor;
    return view_apply(db, edit, err);
}

int flush_runs(struct pleat_db *db, struct generation *generation, uint64_t log_floor, struct edit *edit,
               struct pleat_error *err) {
    struct flush_job job = {.parts.write = job_write, .db = db, .generation = generation};
    uint64_t bytes = 0;
    job_hold(&job);
    int rc = job_plan(&job, err);
    rc = rc == 0 ? parts_run(db, PARTS_FLUSH, &job.parts, err) : rc;
    rc = rc == 0 ? job_collect(&job, edit, &bytes, err) : rc;
    rc = rc == 0 ? flush_apply(db, generation, log_floor, edit, err) : rc;
    if (rc == 0) {
        db_count(&db->counters.flushes, 1);
        db_count(&db->counters.bytes_flushed, bytes);
    } else {
        work_unlink_added(db, edit);
    }
    job_fini(&job);
    return rc;
}
