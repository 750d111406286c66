/*
 * compact_job.c - one compaction in the store: cut in parts that several workers write (parts.c), then one edit.
 *
 * What is long is cut where tables of the output level begin, so that it ends sooner where processors are free
 * (work_help in work.c): while one runs, no other takes anything from level 0 downward (K4). The parts' tables and the
 * removal of all inputs are one edit. A move is an edit alone.
 *
 *   CJ1  Nothing of a compaction is in the manifest before all of its parts are written and their entries counted (R1
 *        of compact.c). When one fails, the files of all parts are removed, or left to the next open as in FJ3 of
 *        flush_job.c.
 */
#include "base/assert.h"
#include "db/db.h"

/* A part has inputs of so many tables' worth at least. */
#define PART_TABLES 2
#define PARTS_MAX 8

struct piece {
    struct compaction_part part;
    struct compaction_result result;
    struct edit edit;
};

struct compact_job {
    struct parts parts; /* first */
    struct pleat_db *db;
    const struct compaction *compaction;
    struct compaction_way way;
    struct piece pieces[PARTS_MAX];
};

static int piece_write(struct parts *parts, size_t index, struct pleat_error *err) {
    struct compact_job *job = (struct compact_job *)(void *)parts; /* its first member */
    struct piece *piece = &job->pieces[index];
    return compaction_run_part(job->db->registry, job->compaction, &piece->part, &job->way, &piece->edit,
                               &piece->result, err);
}

static void job_cut(struct compact_job *job) {
    const struct pleat_db *db = job->db;
    struct pleat_slice keys[PARTS_MAX - 1];
    uint64_t parts = job->compaction->input_bytes / (PART_TABLES * db->shape.table_bytes);
    parts = parts < db->options.background_threads ? parts : db->options.background_threads;
    parts = parts < PARTS_MAX ? parts : PARTS_MAX;
    size_t count = parts > 1 ? compaction_cut(job->compaction, (size_t)parts, keys) : 0;
    for (size_t i = 0; i <= count; i++) {
        struct piece *piece = &job->pieces[i];
        piece->part = (struct compaction_part){.parts = (unsigned)count + 1};
        if (i > 0) {
            piece->part.from = keys[i - 1];
        }
        if (i < count) {
            piece->part.to = keys[i];
        }
        piece->result = (struct compaction_result){0};
        edit_init(&piece->edit, db->mem);
    }
    job->parts.count = count + 1 - (count > 0 && MUTATION(compact_part));
}

/* Everything into one edit: CJ1. */
static int job_collect(struct compact_job *job, struct edit *edit, struct compaction_result *ret_sum,
                       struct pleat_error *err) {
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < job->parts.count; i++) {
        const struct compaction_result *result = &job->pieces[i].result;
        rc = edit_take_tables(edit, &job->pieces[i].edit, err);
        ret_sum->bytes_out += result->bytes_out;
        ret_sum->entries_found += result->entries_found;
    }
    return rc == 0 ? compaction_finish(job->compaction, ret_sum, edit, err) : rc;
}

/* Merges, and fills the edit; on an error what it adds is still there. */
static int job_merge(struct pleat_db *db, const struct compaction *compaction, struct edit *edit,
                     struct compaction_result *ret_sum, struct pleat_error *err) {
    struct compact_job *job = mem_zalloc(db->mem, 1, sizeof *job);
    if (job == NULL) {
        return error_no_memory(err, "a compaction", sizeof *job);
    }
    job->parts.write = piece_write;
    job->db = db;
    job->compaction = compaction;
    job->way = (struct compaction_way){&db->shape, &db->cancel, work_pause, db};
    job_cut(job);
    size_t count = job->parts.count;
    int rc = parts_run(db, PARTS_COMPACTION, &job->parts, err);
    rc = rc == 0 ? job_collect(job, edit, ret_sum, err) : rc;
    for (size_t i = 0; i < count; i++) {
        work_unlink_added(db, &job->pieces[i].edit); /* of one that has failed */
        edit_fini(&job->pieces[i].edit);
    }
    mem_free(db->mem, job);
    return rc;
}

int compact_run(struct pleat_db *db, const struct compaction *compaction, struct pleat_error *err) {
    struct compaction_way way = {.options = &db->shape};
    struct compaction_result result = {0};
    struct edit edit;
    edit_init(&edit, db->mem);
    bool is_move = compaction->is_move;
    int rc = is_move ? compaction_run(db->registry, compaction, &way, &edit, &result, err)
                     : job_merge(db, compaction, &edit, &result, err);
    if (rc == 0 && !is_move && !MUTATION(compact_dir_sync)) {
        rc = sync_names(db, err);
    }
    if (rc == 0 && !is_move && MUTATION(compact_unlink_last)) {
        work_unlink(db, edit.removed, edit.removed_count);
    }
    rc = rc == 0 ? view_apply(db, &edit, err) : rc;
    if (rc == 0) {
        db_count(is_move ? &db->counters.moves : &db->counters.compactions, 1);
        db_count(&db->counters.bytes_in, is_move ? 0 : result.bytes_in);
        db_count(&db->counters.bytes_out, result.bytes_out);
        work_flow(db);
        warm_added(db, compaction->version, &edit, work_pause);
    } else if (!is_move) {
        work_unlink_added(db, &edit);
    }
    edit_fini(&edit);
    return rc;
}
