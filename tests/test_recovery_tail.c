/*
 * test_recovery_tail.c - the end of a log that is followed no further: what lies behind it, and what fits in memory.
 *
 * Each case is a chain of lives that were killed before anything was flushed, of which a loss of power then took the
 * end of the oldest segment.
 */
#include "memtable/arena_internal.h"
#include "support/life.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

/* Leaves the first `keep` records of a segment: the rest reads as zeros. */
static void segment_tear(struct life *life, uint64_t segment, unsigned keep) {
    char name[WAL_NAME_BYTES];
    size_t bytes, at = WAL_HEADER_BYTES;
    wal_name(segment, name);
    uint8_t *data = simfs_read_file(life->fs, "store", name, &bytes);
    for (unsigned i = 0; i < keep; i++) {
        uint32_t words;
        memcpy(&words, data + at, sizeof words);
        at += words * 8;
    }
    memset(data + at, 0, bytes - at);
    simfs_write_file(life->fs, "store", name, data, bytes);
    free(data);
}

static bool segment_is_there(struct simfs *fs, uint64_t segment) {
    char name[WAL_NAME_BYTES];
    size_t bytes;
    wal_name(segment, name);
    uint8_t *data = simfs_read_file(fs, "store", name, &bytes);
    free(data);
    return data != NULL;
}

/* Lives 'a', 'b', ... each killed with nothing flushed: segments that go on from each other. Of the first, `keep` of
 * six commits are left. */
static void chain_begin(struct life *life, bool by_write, unsigned lives, unsigned keep) {
    life_begin(life, simfs_new(23));
    life->options.log_by_write = by_write;
    life_open(life);
    uint64_t first = life->db->active_segment->number;
    life_commit(life, 'a', 6);
    for (unsigned n = 1; n < lives; n++) {
        life_crash(life, SIMFS_KILL, n);
        life_open(life);
        life_commit(life, (char)('a' + n), 2);
    }
    life_crash(life, SIMFS_KILL, lives);
    segment_tear(life, first, keep);
    simfs_sync_all(life->fs);
}

/* Q10. Segments behind the end name each other: removing them one by one would leave one that names a missing one. */
Test(recovery_tail, an_open_that_is_killed_anywhere_is_followed_by_one_that_works) {
    for (unsigned way = 0; way < 4; way++) {
        struct life life;
        chain_begin(&life, way % 2 == 0, 3 + way / 2, 3);
        bool is_whole = false;
        for (uint64_t n = 1; !is_whole; n++) {
            struct life next = life;
            next.fs = simfs_clone(life.fs);
            simfs_stop_at(next.fs, n);
            is_whole = life_try(&next, simfs_vfs(next.fs)) == 0;
            if (is_whole) {
                life_drop(&next);
                simfs_free(next.fs);
                cr_assert_gt(n, 5, "operations of an open");
                continue;
            }
            for (uint64_t seed = 0; seed < SIMFS_MODELS; seed++) {
                struct life third = next;
                third.fs = simfs_crash(next.fs, (enum simfs_model)seed, n);
                life_open(&third);
                life_check(&third, 3, "behind an open that was killed");
                life_commit(&third, 'z', 1);
                life_end(&third);
            }
            simfs_free(next.fs);
        }
        simfs_free(life.fs);
    }
}

/* F7. An open shows that commits are out, and their segment is removed; whether its name comes back, and goes again,
 * at later losses of power is all the same. */
Test(recovery_tail, what_an_open_has_shown_to_be_out_stays_out) {
    struct life life;
    chain_begin(&life, true, 2, 3);
    uint64_t behind = 0;
    struct db_listing listing;
    life_open(&life);
    cr_assert_eq(db_list(life.db, &listing, &life.err), 0);
    behind = listing.segment_count > 1 ? listing.segments[1] : 0; /* may be gone already */
    db_listing_fini(&listing);
    life_check(&life, 3, "torn");
    uint64_t last = life.db->active_segment->number;
    life_commit(&life, 'c', 2);
    unsigned seen = 0;
    for (uint64_t seed = 0; seed < 1000; seed++) {
        struct life next = life;
        next.fs = simfs_crash(life.fs, SIMFS_STRICT, seed);
        if (!segment_is_there(next.fs, last) || (behind != 0 && !segment_is_there(next.fs, behind))) {
            simfs_free(next.fs);
            continue;
        }
        life_open(&next);
        uint64_t shown = life_applied(&next);
        seen++;
        for (uint64_t again = 0; again < 10; again++) {
            struct life third = next;
            third.fs = simfs_crash(next.fs, again % 2 == 0 ? SIMFS_STRICT : SIMFS_ORDERED, again);
            life_open(&third);
            cr_assert_leq(life_applied(&third), shown, "seed %d: %d was shown, and now %d", (int)seed, (int)shown,
                          (int)life_applied(&third));
            life_end(&third);
        }
        life_drop(&next);
        simfs_free(next.fs);
    }
    cr_assert_gt(seen, 20);
    life_drop(&life);
    simfs_free(life.fs);
}

/* The file that was made ahead for the next segment and never begun is no reason to write everything to tables. */
Test(recovery_tail, a_segment_that_was_never_begun_is_removed_and_nothing_flushed) {
    struct life life;
    life_begin(&life, simfs_new(24));
    life_open(&life);
    life_commit(&life, 'a', 30); /* above half of a memtable: the spare is made */
    while (pleat_step(life.db, &life.err) == 0) {
    }
    uint64_t spare = life.db->spare.number;
    cr_assert_neq(spare, 0);
    life_crash(&life, SIMFS_KILL, 1);
    cr_assert(segment_is_there(life.fs, spare));
    life_open(&life);
    struct generation *oldest;
    cr_assert_eq(view_frozen(life.db, &oldest), 1, "the recovered generation is left to the background");
    cr_assert_not(segment_is_there(life.fs, spare));
    life_check(&life, 30, "killed");
    life_end(&life);
}

/* ---- what fits in memory ---------------------------------------------------------------------------------------- */

/* A commit that memory was enough for is read back into as much: its bound is counted as the commit counted it. Here
 * each of many small entries takes far less than entries may that nothing is known of. */
Test(recovery_tail, a_commit_takes_no_more_memory_when_it_is_read_back) {
    struct life life;
    life_begin(&life, simfs_new(25));
    life.options.memtable_bytes = 4 << 20;
    life_open(&life);
    uint64_t room = generation_arena_bytes(&life.db->options);
    unsigned count = (unsigned)((room - 4096) / memtable_entry_bytes_max(4, 4));
    struct pleat_batch *batch;
    cr_assert_eq(pleat_batch_new(life.db, &batch, &life.err), 0);
    for (unsigned i = 0; i < count; i++) {
        cr_assert_eq(pleat_batch_put(batch, pleat_default_space(life.db), (struct pleat_slice){&i, 4},
                                     (struct pleat_slice){&i, 4}, &life.err),
                     0);
    }
    uint64_t segment = life.db->active_segment->number;
    cr_assert_eq(pleat_commit(life.db, batch, NULL, NULL, &life.err), 0, "%s", life.err.message);
    pleat_batch_free(batch);
    cr_assert_eq(life.db->active_segment->number, segment, "it fits the arena as it is");
    life_crash(&life, SIMFS_KILL, 1);
    life_open(&life);
    struct generation *oldest;
    cr_assert_eq(view_frozen(life.db, &oldest), 1);
    cr_assert_eq(oldest->arena->bytes, life.db->active->arena->bytes, "%zu bytes of address space instead of %zu",
                 oldest->arena->bytes, life.db->active->arena->bytes);
    life_end(&life);
}

/* Of further cursors: sets them, or removes them, in a commit that puts what life_check expects. */
static void commit_cursors(struct life *life, bool removes) {
    struct pleat_batch *batch;
    char key[8], value[60];
    uint64_t n = life_applied(life) + 1;
    (void)snprintf(key, sizeof key, "%03u", (unsigned)n);
    memset(value, 'c', sizeof value);
    cr_assert_eq(pleat_batch_new(life->db, &batch, NULL), 0);
    cr_assert_eq(pleat_batch_put(batch, pleat_default_space(life->db), (struct pleat_slice){key, 3},
                                 (struct pleat_slice){value, sizeof value}, NULL), 0);
    cr_assert_eq(pleat_batch_set_cursor(batch, &(struct pleat_cursor){.value = {key, 3}}, NULL), 0);
    for (unsigned i = 0; i < 40; i++) {
        char name[8];
        (void)snprintf(name, sizeof name, "c%02u", i);
        struct pleat_cursor cursor = {.name = {name, 3}, .value = {"x", 1}};
        cr_assert_eq(removes ? pleat_batch_remove_cursor(batch, cursor.name, NULL)
                             : pleat_batch_set_cursor(batch, &cursor, NULL), 0);
    }
    cr_assert_eq(pleat_commit(life->db, batch, NULL, NULL, &life->err), 0, "%s", life->err.message);
    pleat_batch_free(batch);
    life->marks[n] = 'c';
}

/* Each generation of a recovery hands its own cursors on when it is flushed, more of them than there are at the end. */
Test(recovery_tail, cursors_that_a_later_generation_removes_are_durable_in_between) {
    struct life life;
    life_begin(&life, simfs_new(5));
    life_open(&life);
    commit_cursors(&life, false);
    life_commit_until_rotated(&life, 'a');
    commit_cursors(&life, true);
    uint64_t applied = life_applied(&life);
    for (unsigned n = 0; n < 2; n++) {
        struct pleat_cursor_value cursor;
        life_crash(&life, SIMFS_KILL, n);
        life_open(&life);
        life_check(&life, applied, "killed");
        cr_assert_eq(pleat_flush(life.db, &life.err), 0, "%s", life.err.message);
        life_sync(&life);
        for (int position = PLEAT_APPLIED; position <= PLEAT_DURABLE; position++) {
            int rc = pleat_cursor_read(life.db, (struct pleat_slice){"c07", 3}, (enum pleat_position)position, &cursor,
                                       NULL);
            cr_assert_eq(rc, PLEAT_ABSENT);
        }
    }
    life_end(&life);
}
