/*
 * test_jobs.c - flushes and compactions in parts: what is cut, that nothing is lost between parts, who writes them,
 * what a failure leaves.
 *
 * On the simulated disk, but for one case without threads. Writing a table holds no lock, so the hook on it is where
 * another worker would be: it calls parts_help there, in the same thread.
 */
#include "db/db.h"
#include "support/simfs.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MEMTABLE_BYTES 16384
#define VALUE_BYTES 100

struct room {
    struct simfs *fs;
    struct vfs vfs;
    struct pleat_options options;
    struct pleat_db *db;
    struct pleat_space *spaces[2];
    struct pleat_error err;
    unsigned keys; /* of the first space: 0 .. keys - 1 are there */
};

/* What is done in the midst of the next write to a table. */
static struct {
    const struct vfs *real;
    struct pleat_db *db;
    bool help;      /* parts_help with `kind`, once */
    enum parts_kind kind;
    bool compact;   /* work_compact, once */
    int compacted;  /* what it answered */
    bool is_inside; /* of it */
    bool fail_help; /* the helper's write finds the disk full */
    bool fail_own;  /* the next write behind the helper's does */
    int helped;     /* what it answered, and a second one */
    int helped_again;
} hook;

static int hook_file_write(struct vfs_file *file, uint64_t offset, const void *data, size_t n,
                           struct pleat_error *err) {
    if (hook.help && hook.db->parts[hook.kind] != NULL) {
        hook.help = false;
        hook.is_inside = true;
        hook.helped = parts_help(hook.db, hook.kind);
        hook.helped_again = parts_help(hook.db, hook.kind);
        hook.is_inside = false;
        if (hook.fail_own) {
            hook.fail_own = false;
            return error_set(err, PLEAT_ERR_NO_SPACE, 0, "the flusher's own write");
        }
    }
    if (hook.compact && hook.db->flushing) {
        hook.compact = false;
        hook.compacted = work_compact(hook.db, err);
    }
    if (hook.is_inside && hook.fail_help) {
        hook.fail_help = false;
        return error_set(err, PLEAT_ERR_NO_SPACE, 0, "the helper's write");
    }
    return hook.real->file_write(file, offset, data, n, err);
}

static void room_init_with(struct room *room, uint64_t seed, int background) {
    memset(room, 0, sizeof *room);
    memset(&hook, 0, sizeof hook);
    room->fs = simfs_new(seed);
    hook.real = simfs_vfs(room->fs);
    room->vfs = *hook.real;
    room->vfs.file_write = hook_file_write;
    room->options = (struct pleat_options){
        .size = sizeof room->options,
        .background = background,
        .durability = PLEAT_SYNC_NONE,
        .memtable_bytes = MEMTABLE_BYTES,
        .table_bytes = MEMTABLE_BYTES,
        .level0_tables = 1,
        .cache_bytes = 1 << 20,
    };
    cr_assert_eq(db_open_with("store", &room->options, &room->vfs, &mem_system, &room->db, &room->err), 0, "%s",
                 room->err.message);
    hook.db = room->db;
    room->spaces[0] = pleat_default_space(room->db);
}

static void room_init(struct room *room, uint64_t seed) {
    room_init_with(room, seed, PLEAT_BACKGROUND_STEPS);
}

static void room_end(struct room *room) {
    cr_assert_eq(pleat_close(room->db, &room->err), 0, "%s", room->err.message);
    cr_assert_eq(simfs_open_handles(room->fs), 0);
    simfs_free(room->fs);
}

static void room_put(struct room *room, struct pleat_space *space, unsigned number) {
    struct pleat_batch *batch;
    char key[16], value[VALUE_BYTES];
    int bytes = snprintf(key, sizeof key, "%08u", number);
    memset(value, 'a' + (int)(number % 26), sizeof value);
    cr_assert_eq(pleat_batch_new(room->db, &batch, &room->err), 0);
    cr_assert_eq(pleat_batch_put(batch, space, (struct pleat_slice){key, (size_t)bytes},
                                 (struct pleat_slice){value, sizeof value}, &room->err),
                 0);
    cr_assert_eq(pleat_commit(room->db, batch, NULL, NULL, &room->err), 0, "%s", room->err.message);
    pleat_batch_free(batch);
}

static void room_open_other(struct room *room) {
    cr_assert_eq(pleat_space_open(room->db, (struct pleat_slice){"other", 5}, NULL, &room->spaces[1], &room->err), 0,
                 "%s", room->err.message);
}

/* The next `count` keys of the first space, in order, without a flush. */
static void room_put_next(struct room *room, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        room_put(room, room->spaces[0], room->keys++);
    }
}

static int room_flush(struct room *room) {
    memset(&room->err, 0, sizeof room->err);
    return pleat_flush(room->db, &room->err);
}

/* Tables of a space by level, and that their number on disk is that of all spaces. */
static size_t room_tables(struct room *room, const struct pleat_space *space, unsigned level) {
    struct db_listing listing;
    struct version *version = registry_current(room->db->registry);
    size_t tables = 0, found = version->trees[space->slot]->levels[level].count;
    for (uint32_t slot = 0; slot < version->slots; slot++) {
        for (unsigned l = 0; version->trees[slot] != NULL && l < LIMIT_LEVELS; l++) {
            tables += version->trees[slot]->levels[l].count;
        }
    }
    version_unref(version);
    cr_assert_eq(db_list(room->db, &listing, &room->err), 0);
    cr_assert_eq(listing.table_count, tables, "%zu files of %zu tables", listing.table_count, tables);
    db_listing_fini(&listing);
    return found;
}

static void room_check(struct room *room) {
    struct pleat_iter *iter;
    struct version *version = registry_current(room->db->registry);
    cr_assert_eq(version_verify(version, &room->err), 0, "%s", room->err.message);
    version_unref(version);
    cr_assert_eq(pleat_iter_new(room->spaces[0], NULL, &iter, &room->err), 0);
    unsigned number = 0;
    for (int rc = pleat_iter_first(iter, &room->err); rc == 0; rc = pleat_iter_next(iter, &room->err)) {
        char key[16];
        int bytes = snprintf(key, sizeof key, "%08u", number);
        struct pleat_slice found = pleat_iter_key(iter), value = pleat_iter_value(iter);
        cr_assert(found.bytes == (size_t)bytes && memcmp(found.data, key, found.bytes) == 0, "key %u", number);
        cr_assert(value.bytes == VALUE_BYTES && *(const char *)value.data == (char)('a' + (int)(number % 26)));
        number++;
    }
    pleat_iter_free(iter);
    cr_assert_eq(number, room->keys, "%u keys of %u", number, room->keys);
}

/* ---- what is cut ------------------------------------------------------------------------------------------------ */

Test(flush, a_run_in_order_is_written_in_two_halves_but_for_the_first) {
    struct room room;
    room_init(&room, 1);
    room_put_next(&room, 60);
    cr_assert_eq(room_flush(&room), 0, "%s", room.err.message);
    cr_assert_eq(room_tables(&room, room.spaces[0], LIMIT_LEVELS - 1), 1, "of an empty tree nothing is known");
    for (unsigned i = 1; i <= 3; i++) {
        room_put_next(&room, 60);
        cr_assert_eq(room_flush(&room), 0, "%s", room.err.message);
        cr_assert_eq(room_tables(&room, room.spaces[0], LIMIT_LEVELS - 1), 1 + 2 * i);
        room_check(&room);
    }
    struct version *version = registry_current(room.db->registry);
    const struct level *level = &version->trees[0]->levels[LIMIT_LEVELS - 1];
    for (size_t i = 1; i < level->count; i++) {
        cr_assert_geq(level->tables[i]->meta.entries, 20, "table %zu has a third at least", i);
        cr_assert_eq(level->tables[i]->meta.filter, FILTER_FUSE, "in its final form");
    }
    version_unref(version);
    room_end(&room);
}

Test(flush, a_small_run_and_one_for_level_0_are_not_cut) {
    struct room room;
    room_init(&room, 2);
    room_put_next(&room, 60);
    cr_assert_eq(room_flush(&room), 0);
    room_put_next(&room, 30); /* of 108 bytes: below a quarter of a table */
    cr_assert_eq(room_flush(&room), 0);
    cr_assert_eq(room_tables(&room, room.spaces[0], LIMIT_LEVELS - 1), 2);
    for (unsigned number = 0; number < 60; number++) {
        room_put(&room, room.spaces[0], number);
    }
    cr_assert_eq(room_flush(&room), 0);
    cr_assert_eq(room_tables(&room, room.spaces[0], 0), 1);
    room_check(&room);
    room_end(&room);
}

/* ---- who writes ------------------------------------------------------------------------------------------------- */

Test(flush, a_helper_writes_the_half_that_nobody_has_taken) {
    struct room room;
    room_init(&room, 3);
    cr_assert_eq(parts_help(room.db, PARTS_FLUSH), PLEAT_END, "no flush");
    room_put_next(&room, 60);
    hook.help = true;
    cr_assert_eq(room_flush(&room), 0);
    cr_assert_eq(hook.helped, PLEAT_END, "a run in one part leaves nothing to help with");
    room_put_next(&room, 60);
    hook.help = true;
    cr_assert_eq(room_flush(&room), 0, "%s", room.err.message);
    cr_assert_eq(hook.helped, 0);
    cr_assert_eq(hook.helped_again, PLEAT_END, "and then nothing is left");
    cr_assert_eq(parts_help(room.db, PARTS_FLUSH), PLEAT_END);
    cr_assert_eq(room_tables(&room, room.spaces[0], LIMIT_LEVELS - 1), 3);
    struct version *version = registry_current(room.db->registry);
    struct table_ref *const *tables = version->trees[0]->levels[LIMIT_LEVELS - 1].tables;
    cr_assert_lt(tables[1]->meta.number, tables[2]->meta.number, "the lower half was begun first");
    version_unref(version);
    room_check(&room);
    room_end(&room);
}

Test(flush, a_helper_writes_another_space) {
    struct room room;
    room_init(&room, 4);
    room_open_other(&room);
    room_put_next(&room, 40);
    room_put(&room, room.spaces[1], 7);
    hook.help = true;
    cr_assert_eq(room_flush(&room), 0, "%s", room.err.message);
    cr_assert_eq(hook.helped, 0);
    cr_assert_eq(room_tables(&room, room.spaces[1], LIMIT_LEVELS - 1), 1);
    room_check(&room);
    room_end(&room);
}

/* FJ2. A compaction may put a table over a gap that a run is to go deep into: it waits for the flush, also while the
 * run of another space is written. */
Test(flush, no_compaction_of_a_space_begins_before_its_run_is_in) {
    struct room room;
    room_init(&room, 6);
    room_open_other(&room);
    static const unsigned rounds[3][2] = {{1, 2}, {8, 9}, {2, 8}}; /* two tables, and a run over both */
    for (size_t i = 0; i < 3; i++) {
        room_put(&room, room.spaces[1], rounds[i][0]);
        room_put(&room, room.spaces[1], rounds[i][1]);
        cr_assert_eq(room_flush(&room), 0);
    }
    cr_assert_eq(room_tables(&room, room.spaces[1], 0), 1);
    cr_assert_eq(room_tables(&room, room.spaces[1], LIMIT_LEVELS - 1), 2);
    room_put_next(&room, 10);
    room_put(&room, room.spaces[1], 20);
    cr_assert(work_has_compaction(room.db));
    hook.compact = true;
    cr_assert_eq(room_flush(&room), 0, "%s", room.err.message);
    cr_assert_not(hook.compact, "the hook was not met");
    cr_assert_eq(hook.compacted, PLEAT_END);
    cr_assert_eq(room_tables(&room, room.spaces[1], LIMIT_LEVELS - 1), 3);
    cr_assert_eq(work_compact(room.db, &room.err), 0, "now it may: %s", room.err.message);
    cr_assert_eq(room_tables(&room, room.spaces[1], 0), 0);
    room_check(&room);
    room_end(&room);
}

/* ---- failures --------------------------------------------------------------------------------------------------- */

/* FJ3. Whichever half fails, no file of either stays, nothing has changed, and the next attempt works. */
Test(flush, a_half_that_fails_takes_the_other_with_it) {
    enum { HELPER, FLUSHER, BOTH, WAYS };
    for (int way = HELPER; way < WAYS; way++) {
        struct room room;
        room_init(&room, 5);
        room_put_next(&room, 60);
        cr_assert_eq(room_flush(&room), 0);
        room_put_next(&room, 60);
        hook.help = true;
        hook.fail_help = way != FLUSHER;
        hook.fail_own = way != HELPER;
        cr_assert_eq(room_flush(&room), PLEAT_ERR_NO_SPACE, "way %d", way);
        cr_assert_not_null(strstr(room.err.message, way == FLUSHER ? "the flusher's" : "the helper's"), "%s",
                           room.err.message);
        cr_assert_eq(hook.helped, 0, "the failure is the flush's to tell");
        cr_assert_eq(room_tables(&room, room.spaces[0], LIMIT_LEVELS - 1), 1, "way %d", way);
        room_check(&room);
        cr_assert_eq(room_flush(&room), 0, "%s", room.err.message);
        cr_assert_eq(room_tables(&room, room.spaces[0], LIMIT_LEVELS - 1), 3, "way %d", way);
        room_check(&room);
        room_end(&room);
    }
}

/* A sync of the log that lasts until it is told to end. */
static struct {
    const struct vfs *real;
    _Atomic bool is_armed; /* release and acquire: between the two threads of the case */
    _Atomic bool is_inside;
    _Atomic bool may_end;
} slow;

static int slow_log_sync(struct vfs_log *log, struct pleat_error *err) {
    if (atomic_exchange(&slow.is_armed, false)) {
        atomic_store(&slow.is_inside, true);
        while (!atomic_load(&slow.may_end)) {
            thread_sleep_ns(1000000);
        }
    }
    return slow.real->log_sync(log, err);
}

static void *sync_slowly(void *context) {
    return pleat_sync(context, NULL) == 0 ? NULL : context;
}

static void *end_slow_sync(void *context) {
    thread_sleep_ns(100000000); /* settle has come to its end by then, but for the segment */
    atomic_store(&slow.may_end, true);
    return context;
}

/* A flush leaves the segment that a sync is inside of. A settle ends when that is gone, too. */
Test(flush, what_it_leaves_to_a_slow_sync_is_gone_behind_a_settle) {
    struct room room;
    pthread_t syncing, ending;
    void *failed = NULL;
    memset(&slow, 0, sizeof slow);
    room_init_with(&room, 12, PLEAT_BACKGROUND_THREADS);
    slow.real = hook.real;
    room.vfs.log_sync = slow_log_sync; /* the store keeps a pointer to it */
    room_put_next(&room, 10);
    atomic_store(&slow.is_armed, true);
    cr_assert_eq(pthread_create(&syncing, NULL, sync_slowly, room.db), 0);
    while (!atomic_load(&slow.is_inside)) {
        thread_sleep_ns(1000000);
    }
    cr_assert_eq(room_flush(&room), 0, "the flush does not wait for the sync: %s", room.err.message);
    cr_assert_not(atomic_load(&slow.may_end));
    cr_assert_eq(pthread_create(&ending, NULL, end_slow_sync, NULL), 0);
    cr_assert_eq(pleat_settle(room.db, NULL, NULL, &room.err), 0, "%s", room.err.message);
    mutex_lock(&room.db->sync_mu);
    const struct segment *oldest = room.db->segments;
    bool is_last = oldest != NULL && oldest->next == NULL;
    mutex_unlock(&room.db->sync_mu);
    cr_assert(is_last, "a dead segment is behind the settle");
    cr_assert(pthread_join(ending, NULL) == 0 && pthread_join(syncing, &failed) == 0 && failed == NULL);
    room_check(&room);
    room_end(&room);
}

/* Compactions fail and fail while a flush takes its time. */
static void *fail_compactions(void *context) {
    struct pleat_db *db = context;
    for (unsigned i = 0; i < 12; i++) {
        mutex_lock(&db->work_mu);
        db->compaction_trouble.error = (struct pleat_error){.code = PLEAT_ERR_CORRUPT};
        db->compaction_trouble.failures++;
        condition_broadcast(&db->work_done);
        mutex_unlock(&db->work_mu);
        thread_sleep_ns(5000000);
    }
    mutex_lock(&db->work_mu);
    db->flushing = false;
    condition_broadcast(&db->work_done);
    mutex_unlock(&db->work_mu);
    return NULL;
}

/* A damaged table fails every compaction that meets it. Commits that wait for a flush have nothing to do with it. */
Test(flush, who_waits_for_it_is_not_refused_for_a_compaction) {
    struct room room;
    pthread_t thread;
    room_init_with(&room, 7, PLEAT_BACKGROUND_THREADS);
    mutex_lock(&room.db->work_mu);
    room.db->flushing = true;
    mutex_unlock(&room.db->work_mu);
    cr_assert_eq(pthread_create(&thread, NULL, fail_compactions, room.db), 0);
    cr_assert_eq(room_flush(&room), 0, "%s", room.err.message);
    cr_assert_eq(pthread_join(thread, NULL), 0);
    cr_assert_eq(pleat_settle(room.db, NULL, NULL, &room.err), 0, "an old failure: %s", room.err.message);
    room_end(&room);
}

/* ---- compactions ------------------------------------------------------------------------------------------------ */

/* Twelve tables in the last level, and a run over all of them. */
static void room_fill(struct room *room) {
    for (unsigned i = 0; i < 12; i++) {
        room_put_next(room, 60);
        cr_assert_eq(room_flush(room), 0);
    }
    for (unsigned number = 0; number < room->keys; number += 12) {
        room_put(room, room->spaces[0], number);
    }
    cr_assert_eq(room_flush(room), 0);
    cr_assert_eq(room_tables(room, room->spaces[0], 0), 1);
    room->db->shape.table_bytes = 1024; /* those values are short on disk */
    hook.kind = PARTS_COMPACTION;
}

static uint64_t room_compactions(const struct room *room) {
    return atomic_load(&room->db->counters.compactions);
}

Test(compaction_parts, a_long_one_is_written_in_as_many_parts_as_there_are_workers) {
    for (uint32_t workers = 1; workers <= 4; workers++) {
        struct room room;
        room_init_with(&room, 8, PLEAT_BACKGROUND_STEPS);
        room.db->options.background_threads = workers; /* in step mode: how much is cut */
        room_fill(&room);
        hook.help = true;
        cr_assert_eq(work_compact(room.db, &room.err), 0, "%s", room.err.message);
        cr_assert_eq(hook.helped, workers > 1 ? 0 : PLEAT_END);
        cr_assert_eq(hook.helped_again, PLEAT_END, "the helper takes what there is");
        cr_assert_eq(room_compactions(&room), 1, "one job and one edit");
        cr_assert_eq(room_tables(&room, room.spaces[0], 0), 0);
        room_check(&room);
        room_end(&room);
    }
}

/* CJ1, PA2. */
Test(compaction_parts, one_that_fails_takes_all_others_with_it) {
    enum { HELPER, OWNER, WAYS };
    for (int way = HELPER; way < WAYS; way++) {
        struct room room;
        room_init(&room, 9);
        room_fill(&room);
        size_t before = room_tables(&room, room.spaces[0], LIMIT_LEVELS - 1);
        hook.help = true;
        hook.fail_help = way == HELPER;
        hook.fail_own = way == OWNER;
        cr_assert_eq(work_compact(room.db, &room.err), PLEAT_ERR_NO_SPACE, "way %d", way);
        cr_assert_eq(hook.helped, 0);
        cr_assert_eq(room_compactions(&room), 0);
        cr_assert_eq(room_tables(&room, room.spaces[0], 0), 1, "the inputs are untouched");
        cr_assert_eq(room_tables(&room, room.spaces[0], LIMIT_LEVELS - 1), before);
        room_check(&room);
        room.db->retry_at_ns = 0;
        cr_assert_eq(work_compact(room.db, &room.err), 0, "%s", room.err.message);
        cr_assert_eq(room_tables(&room, room.spaces[0], 0), 0);
        room_check(&room);
        room_end(&room);
    }
}

/* Cuts are beginnings of tables of the output level, and no part is much longer than its share. */
Test(compaction_parts, are_cut_where_tables_of_the_output_level_begin) {
    struct room room;
    room_init(&room, 10);
    room_fill(&room);
    struct compaction_beside beside = {0};
    struct compaction job;
    struct pleat_slice keys[7];
    struct version *version = registry_current(room.db->registry);
    cr_assert_eq(compaction_pick(room.db->mem, version, &room.db->shape, &beside, true, &job, &room.err), 0);
    version_unref(version);
    size_t tables = job.input_counts[LIMIT_LEVELS - 1];
    cr_assert_geq(tables, 12);
    cr_assert_eq(compaction_cut(&job, 1, keys), 0);
    for (size_t parts = 2; parts <= 8; parts++) {
        size_t count = compaction_cut(&job, parts, keys), last = 0;
        cr_assert_eq(count, parts - 1);
        for (size_t k = 0; k < count; k++) {
            size_t at = last + 1;
            while (at < tables && (job.inputs[LIMIT_LEVELS - 1][at]->meta.smallest_bytes != keys[k].bytes ||
                                   memcmp(job.inputs[LIMIT_LEVELS - 1][at]->meta.smallest, keys[k].data,
                                          keys[k].bytes) != 0)) {
                at++;
            }
            cr_assert_lt(at, tables, "cut %zu of %zu is no table's beginning, or out of order", k, count);
            cr_assert_leq(at - last, 2 * tables / parts + 1, "part %zu of %zu has %zu of %zu tables", k, parts,
                          at - last, tables);
            last = at;
        }
    }
    compaction_fini(room.db->mem, &job);
    room_end(&room);
}

static int count_write(struct parts *parts, size_t part, struct pleat_error *err) {
    (void)err;
    cr_assert_lt(part, parts->count);
    hook.helped++;
    return 0;
}

/* A worker leaves the processor to commits and reads, unless there are processors enough or nobody commits. */
Test(compaction_parts, are_helped_with_where_that_is_at_nobodys_cost) {
    enum { BUSY, PROCESSORS, SETTLING, QUIET, WAYS };
    for (int way = BUSY; way < WAYS; way++) {
        struct room room;
        struct parts parts = {.write = count_write, .count = 3};
        room_init(&room, 11);
        struct pleat_db *db = room.db;
        db->options.background = PLEAT_BACKGROUND_THREADS; /* none runs */
        db->processors = way == PROCESSORS ? db->options.background_threads + 3 : 2;
        db->idle_wanted = way == SETTLING;
        uint64_t now = db->vfs->now_ns(db->vfs);
        db->last_flush_ns = way == QUIET ? now - 1000000000 : now;
        db->parts[PARTS_COMPACTION] = &parts;
        hook.helped = 0;
        (void)work_run(db, 0);
        cr_assert_eq(hook.helped, way == BUSY ? 0 : 3, "way %d: %d", way, hook.helped);
        db->parts[PARTS_COMPACTION] = NULL;
        db->options.background = PLEAT_BACKGROUND_STEPS;
        db->idle_wanted = 0;
        room_end(&room);
    }
}
