/*
 * test_recovery.c - one case for each rule of recovery and of syncing, on the simulated disk.
 *
 * The random campaigns (crash_store, fault_store) meet most of these by chance; here each is built on purpose, so that
 * leaving out one rule is found at every run. tests/mutations.py holds this program to it.
 */
#include "db/db.h"
#include "support/failmem.h"
#include "support/life.h"
#include "support/simfs.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void expect_corrupt(struct life *life, const char *part) {
    int rc = life_try(life, simfs_vfs(life->fs));
    cr_assert_eq(rc, PLEAT_ERR_CORRUPT, "%d %s", rc, life->err.message);
    cr_assert_not_null(strstr(life->err.message, part), "%s", life->err.message);
}

/* ---- where the log ends ----------------------------------------------------------------------------------------- */

/* Two segments, neither synced: whatever a crash leaves of each, the second counts only behind the whole first. */
Test(recovery, a_segment_that_lost_its_end_hides_the_one_behind_it) {
    struct life life;
    life_begin(&life, simfs_new(1));
    life_open(&life);
    life_commit_until_rotated(&life, 'a');
    life_commit(&life, 'a', 3);
    uint64_t last = life_applied(&life);
    unsigned cut = 0;
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct life next = life;
        next.fs = simfs_crash(life.fs, seed % 2 == 0 ? SIMFS_FSDIR : SIMFS_STRICT, seed);
        life_open(&next);
        uint64_t applied = life_applied(&next);
        cr_assert_leq(applied, last);
        cut += applied < last;
        life_check(&next, applied, "after a crash");
        life_end(&next);
    }
    cr_assert_gt(cut, 20, "hardly a tail was lost");
    life_end(&life);
}

/* A store that was copied and written on: both have the same identity and numbers, and other contents. */
static void twin_make(struct life *life, char mark, bool sync, uint64_t ret_segments[2]) {
    life_begin(life, simfs_new(7));
    life_open(life);
    life_commit(life, '=', 3);
    ret_segments[0] = life->db->active_segment->number;
    life_commit_until_rotated(life, mark);
    ret_segments[1] = life->db->active_segment->number;
    life_commit(life, mark, 2);
    if (sync) {
        life_sync(life);
        life_commit(life, mark, 1); /* its record says what was durable */
    }
    life_crash(life, SIMFS_KILL, 1);
}

static void segment_copy(struct simfs *to, struct simfs *from, uint64_t segment) {
    char name[WAL_NAME_BYTES];
    size_t bytes = 0;
    wal_name(segment, name);
    uint8_t *data = simfs_read_file(from, "store", name, &bytes);
    cr_assert_not_null(data, "%s", name);
    simfs_write_file(to, "store", name, data, bytes);
    free(data);
}

/* Sequences are dense here and the names are right; nothing but the running hash of the chain knows. */
Test(recovery, a_segment_of_a_copy_of_the_store_is_not_followed) {
    for (int synced = 0; synced < 2; synced++) {
        struct life life, twin;
        uint64_t segments[2], twin_segments[2];
        twin_make(&life, 'a', synced != 0, segments);
        twin_make(&twin, 'b', synced != 0, twin_segments);
        cr_assert(segments[0] == twin_segments[0] && segments[1] == twin_segments[1], "they are no twins");
        segment_copy(life.fs, twin.fs, segments[1]);
        if (synced != 0) {
            expect_corrupt(&life, ".wal");
        } else {
            life_open(&life);
            uint64_t applied = life_applied(&life);
            life_check(&life, applied, "with a twin's segment");
            cr_assert_eq(life.marks[applied + 1], 'a', "the first segment was not read to its end");
        }
        life_end(&life);
        life_end(&twin);
    }
}

/* A segment that no writer of ours would leave there, but valid by every checksum: one commit as life_try_commit makes
 * it, by 'f', under `sequence`, behind whatever end `predecessor` names. Its record says that `durable` had been. */
static struct wal_tail forge_segment(struct life *life, const uint8_t *store_id, uint64_t segment,
                                     struct wal_tail predecessor, uint64_t sequence, uint64_t durable) {
    struct vfs_dir *dir;
    struct wal_writer *writer;
    struct wal_record record;
    const struct vfs *vfs = simfs_vfs(life->fs);
    char key[8];
    uint8_t value[60];
    (void)snprintf(key, sizeof key, "%03u", (unsigned)sequence);
    memset(value, 'f', sizeof value);
    cr_assert_eq(vfs->dir_open(vfs, &mem_system, "store", VFS_DIR_EXISTING, 0700, &dir, NULL), 0);
    struct wal_writer_options options = {.vfs = vfs,
                                         .dir = dir,
                                         .mem = &mem_system,
                                         .store_id = store_id,
                                         .segment = segment,
                                         .bytes = 4096,
                                         .predecessor = predecessor,
                                         .first_sequence = sequence,
                                         .file_mode = 0600,
                                         .by_write = life->options.log_by_write};
    cr_assert_eq(wal_writer_create(&options, &writer, NULL), 0);
    wal_record_init(&record, &mem_system);
    struct entry entry = {
        .kind = ENTRY_PUT, .key = (const uint8_t *)key, .key_bytes = 3, .value = value, .value_bytes = sizeof value};
    struct wal_cursor cursor = {.value = (const uint8_t *)key, .value_bytes = 3};
    cr_assert_eq(wal_record_add(&record, 0, &entry, NULL, NULL), 0);
    cr_assert_eq(wal_record_set_cursor(&record, &cursor, NULL), 0);
    cr_assert_eq(wal_writer_append(writer, &record, sequence, durable, NULL), 0);
    struct wal_tail tail = wal_writer_tail(writer);
    wal_record_fini(&record);
    wal_writer_close(writer);
    vfs->dir_close(dir);
    return tail;
}

/* A store whose log ends at `ret_tail`, as a kill leaves it, or a clean close and a first segment behind that. */
static void forge_begin(struct life *life, bool by_write, bool closed, uint8_t store_id[WAL_STORE_ID_BYTES],
                        struct wal_tail *ret_tail) {
    life_begin(life, simfs_new(3));
    life->options.log_by_write = by_write;
    life_open(life);
    life_commit(life, 'a', 4);
    memcpy(store_id, registry_store(life->db->registry)->store_id, WAL_STORE_ID_BYTES);
    *ret_tail = wal_writer_tail(life->db->active_segment->writer);
    if (!closed) {
        life_crash(life, SIMFS_KILL, 1);
        return;
    }
    cr_assert_eq(pleat_close(life->db, &life->err), 0, "%s", life->err.message);
    life->db = NULL;
    *ret_tail = forge_segment(life, store_id, 1000, (struct wal_tail){.last_sequence = 4}, 5, 0);
    life->marks[5] = 'f';
}

/* Sequence numbers alone would let the successor follow: the chain must not. */
Test(recovery, a_segment_that_names_another_end_than_its_predecessors_is_not_followed) {
    static const struct wal_tail off[] = {
        {0}, {.segment = UINT64_MAX}, {.last_sequence = UINT64_MAX}, {.running_hash = 1}};
    for (size_t i = 0; i < 2 * sizeof off / sizeof off[0]; i++) {
        const struct wal_tail *by = &off[i / 2];
        struct life life;
        uint8_t store_id[WAL_STORE_ID_BYTES];
        struct wal_tail tail;
        forge_begin(&life, i % 2 == 0, false, store_id, &tail);
        struct wal_tail named = {tail.segment + by->segment, tail.last_sequence + by->last_sequence,
                                 tail.running_hash + by->running_hash};
        (void)forge_segment(&life, store_id, tail.segment + 1, named, 5, 4);
        life.marks[5] = 'f';
        life_open(&life);
        life_check(&life, i / 2 == 0 ? 5 : 4, i / 2 == 0 ? "with its successor" : "with another's successor");
        life_end(&life);
    }
}

/* A chain that is right and a first record that is not the next: no writer makes that, so its file is a forgery. */
Test(recovery, a_segment_that_goes_on_behind_a_gap_is_not_followed) {
    static const uint64_t gaps[] = {1, 2, 4};
    for (unsigned way = 0; way < 4; way++) {
        for (size_t i = 0; i < sizeof gaps / sizeof gaps[0]; i++) {
            struct life life;
            uint8_t store_id[WAL_STORE_ID_BYTES];
            struct wal_tail tail;
            forge_begin(&life, way % 2 == 0, way >= 2, store_id, &tail);
            (void)forge_segment(&life, store_id, tail.segment + 1, tail, tail.last_sequence + 1 + gaps[i],
                                i % 2 == 0 ? 0 : tail.last_sequence);
            life_open(&life);
            life_check(&life, tail.last_sequence, "with a forged segment");
            life_end(&life);
        }
    }
}

Test(recovery, a_record_behind_a_gap_still_says_what_had_been_durable) {
    for (unsigned way = 0; way < 4; way++) {
        struct life life;
        uint8_t store_id[WAL_STORE_ID_BYTES];
        struct wal_tail tail;
        forge_begin(&life, way % 2 == 0, way >= 2, store_id, &tail);
        uint64_t before = simfs_hash(life.fs);
        (void)forge_segment(&life, store_id, tail.segment + 1, tail, tail.last_sequence + 3, tail.last_sequence + 1);
        cr_assert_neq(simfs_hash(life.fs), before);
        before = simfs_hash(life.fs);
        expect_corrupt(&life, ".wal");
        cr_assert_eq(simfs_hash(life.fs), before, "a refused open changed the disk");
        life_end(&life);
    }
}

/* The first pages of a log are lost, the last one says that they had been durable. */
Test(recovery, a_hole_in_what_was_durable_is_damage_and_nothing_changes) {
    struct life life;
    char name[WAL_NAME_BYTES];
    size_t bytes;
    life_begin(&life, simfs_new(4));
    life_open(&life);
    life_commit(&life, 'a', 4);
    life_sync(&life);
    life_commit(&life, 'a', 1);
    wal_name(life.db->active_segment->number, name);
    life_crash(&life, SIMFS_KILL, 1);
    uint8_t *data = simfs_read_file(life.fs, "store", name, &bytes);
    data[WAL_HEADER_BYTES + 60] ^= 1; /* in the payload of the first record */
    simfs_write_file(life.fs, "store", name, data, bytes);
    uint64_t before = simfs_hash(life.fs);
    expect_corrupt(&life, name);
    cr_assert_eq(simfs_hash(life.fs), before, "a refused open changed the disk");
    free(data);
    life_end(&life);
}

/* A torn log with nothing in it to replay must not stand in front of the log of the next life. */
Test(recovery, a_torn_log_without_a_record_does_not_hide_the_next_one) {
    struct life life;
    char name[WAL_NAME_BYTES];
    size_t bytes;
    life_begin(&life, simfs_new(5));
    life_open(&life);
    life_commit(&life, 'a', 1);
    wal_name(life.db->active_segment->number, name);
    life_crash(&life, SIMFS_KILL, 1);
    uint8_t *data = simfs_read_file(life.fs, "store", name, &bytes);
    data[WAL_HEADER_BYTES + 60] ^= 1;
    simfs_write_file(life.fs, "store", name, data, bytes);
    free(data);
    life_open(&life);
    life_check(&life, 0, "after a torn first record");
    life_commit(&life, 'b', 2);
    life_sync(&life);
    life_crash(&life, SIMFS_MIN, 1);
    life_open(&life);
    life_check(&life, 2, "after the next life");
    life_end(&life);
}

/* ---- what a recovery leaves ------------------------------------------------------------------------------------- */

/* F11: the process died and the machine lives, so the log is in the page cache and nowhere else. */
Test(recovery, what_an_open_shows_as_durable_survives_a_loss_of_power) {
    struct life life;
    life_begin(&life, simfs_new(6));
    life_open(&life);
    life_commit(&life, 'a', 2);
    life_sync(&life);
    life_commit(&life, 'a', 3);
    life_crash(&life, SIMFS_KILL, 1);
    life_open(&life);
    life_check(&life, 5, "after the death of the process");
    uint64_t durable = life_durable(&life, NULL);
    struct life lost = life;
    lost.fs = simfs_crash(life.fs, SIMFS_MIN, 2);
    life_open(&lost);
    life_check(&lost, durable > 2 ? durable : 2, "after the loss of power");
    life_end(&lost);
    life_sync(&life);
    cr_assert_eq(life_durable(&life, NULL), 5);
    life_crash(&life, SIMFS_MIN, 3);
    life_open(&life);
    life_check(&life, 5, "after the loss of power behind a sync");
    life_end(&life);
}

/* Q10: lives that end before anything of theirs is flushed. Nobody steps, so each goes on from the log of the one
 * before; the second finds a torn end and, behind it, a segment that does not count. */
Test(recovery, lives_that_are_killed_before_a_flush_lose_nothing) {
    struct life life;
    char name[WAL_NAME_BYTES];
    size_t bytes;
    life_begin(&life, simfs_new(20));
    life_open(&life);
    uint64_t segment = life.db->active_segment->number;
    life_commit_until_rotated(&life, 'a');
    uint64_t last = life_applied(&life) - 1;
    life_commit(&life, 'a', 2);
    life_crash(&life, SIMFS_KILL, 1);
    wal_name(segment, name);
    uint8_t *data = simfs_read_file(life.fs, "store", name, &bytes);
    while (data[bytes - 1] == 0) {
        bytes--;
    }
    data[bytes - 1] ^= 1; /* in its last record */
    simfs_write_file(life.fs, "store", name, data, bytes);
    free(data);
    uint64_t expected = last - 1, history = 0, next_history;
    for (unsigned n = 0; n < 4; n++) {
        life_open(&life);
        life_check(&life, expected, "behind the cut");
        cr_assert_lt(life_durable(&life, &next_history), last, "nothing was flushed or synced");
        cr_assert_gt(next_history, history);
        history = next_history;
        life_commit(&life, (char)('b' + n), 2);
        expected += 2;
        life_crash(&life, SIMFS_KILL, 2 + n);
    }
    life.options.read_only = true;
    life_open(&life);
    life_check(&life, expected, "read-only");
    cr_assert_eq(pleat_close(life.db, &life.err), 0);
    life.options.read_only = false;
    life_open(&life);
    unsigned steps = 0;
    for (; pleat_step(life.db, &life.err) == 0; steps++) { /* Q11: two flushes, and what comes of them */
        struct life next = life;
        next.fs = simfs_crash(life.fs, SIMFS_KILL, 7);
        life_open(&next);
        life_check(&next, expected, "between two flushes");
        life_end(&next);
    }
    cr_assert_geq(steps, 2, "there is one generation");
    cr_assert_eq(life_durable(&life, NULL), expected, "the flush of what was recovered");
    life_check(&life, expected, "flushed");
    life_crash(&life, SIMFS_MIN, 9);
    life_open(&life);
    life_check(&life, expected, "from tables");
    life_end(&life);
}

/* The same under a loss of power: what the second life wrote counts only behind all of what it had found. */
Test(recovery, a_life_behind_an_unflushed_one_counts_only_behind_all_of_it) {
    struct life life;
    life_begin(&life, simfs_new(21));
    life_open(&life);
    life_commit(&life, 'a', 6);
    uint64_t found = life_applied(&life);
    life_crash(&life, SIMFS_KILL, 1);
    life_open(&life);
    life_check(&life, found, "killed");
    life_commit(&life, 'b', 4);
    unsigned cut = 0, whole = 0;
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct life next = life;
        next.fs = simfs_crash(life.fs, seed % 2 == 0 ? SIMFS_FSDIR : SIMFS_STRICT, seed);
        life_open(&next);
        uint64_t applied = life_applied(&next);
        cr_assert_leq(applied, found + 4);
        cut += applied < found;
        whole += applied > found;
        life_check(&next, applied, "after a loss of power");
        life_end(&next);
    }
    cr_assert(cut > 10 && whole > 10, "%u cut, %u behind", cut, whole);
    life_end(&life);
}

/* F7: a commit that asks for a sync waits for the flush of what was recovered; when that fails, the commit is out. */
Test(recovery, a_synced_commit_is_out_when_the_flush_before_it_fails) {
    struct life life;
    life_begin(&life, simfs_new(24));
    life_open(&life);
    life_commit(&life, 'a', 5);
    life_crash(&life, SIMFS_KILL, 1);
    life.options.durability = PLEAT_SYNC_EACH;
    life_open(&life);
    simfs_quota(life.fs, 0);
    cr_assert_eq(life_try_commit(&life, 'b'), PLEAT_ERR_NO_SPACE);
    life_check(&life, 5, "on a full disk");
    simfs_quota(life.fs, UINT64_MAX);
    life_commit(&life, 'c', 2);
    life_crash(&life, SIMFS_MIN, 2);
    life_open(&life);
    life_check(&life, 7, "when space is back");
    life_end(&life);
}

/* Q8: the first life's sync of the directory failed, or there was none: the name of its segment was never durable. */
Test(recovery, a_name_that_an_earlier_life_did_not_make_durable_may_be_lost) {
    for (int lives = 1; lives <= 2; lives++) {
        struct life life;
        char name[WAL_NAME_BYTES];
        life_begin(&life, simfs_new(23));
        life_open(&life);
        wal_name(life.db->active_segment->number, name);
        life_commit(&life, 'a', 3);
        for (int n = 0; n < lives; n++) {
            life_crash(&life, SIMFS_KILL, 1);
            life_open(&life);
            life_check(&life, 3 + 2 * (uint64_t)n, "killed");
            life_commit(&life, (char)('b' + n), 2);
        }
        life_crash(&life, SIMFS_KILL, 2);
        cr_assert(simfs_remove_file(life.fs, "store", name));
        life_open(&life);
        life_check(&life, 0, "without the first segment nothing follows");
        life_commit(&life, 'z', 1);
        life_sync(&life);
        life_crash(&life, SIMFS_MIN, 3);
        life_open(&life);
        life_check(&life, 1, "and the next life goes on");
        life_end(&life);
    }
}

/* More than two memtables: the older ones are written within the open, the log is read again for the rest. */
Test(recovery, a_log_that_does_not_fit_in_memory_is_flushed_by_the_open) {
    struct life life;
    life_begin(&life, simfs_new(22));
    life.options.memtable_bytes = 1u << 20;
    life_open(&life);
    life_commit(&life, 'a', 180);
    life_crash(&life, SIMFS_KILL, 1);
    life.options.memtable_bytes = 4096;
    life_open(&life);
    life_check(&life, 180, "in tables and one memtable");
    uint64_t durable = life_durable(&life, NULL);
    cr_assert(durable > 100 && durable < 180, "durable is %d", (int)durable);
    struct life lost = life;
    lost.fs = simfs_crash(life.fs, SIMFS_MIN, 2);
    life_open(&lost);
    life_check(&lost, durable, "the power is lost at once");
    life_end(&lost);
    life_commit(&life, 'b', 3);
    life_crash(&life, SIMFS_KILL, 3);
    life_open(&life);
    life_check(&life, 183, "killed again");
    life_sync(&life);
    life_crash(&life, SIMFS_MIN, 4);
    life_open(&life);
    life_check(&life, 183, "synced");
    life_end(&life);
}

/* An open of a copy of the disk that meets one failure, and one behind it that meets none. False: nothing failed. */
static bool long_log_fails(const struct life *life, uint64_t allocation, uint64_t call) {
    struct life next = *life;
    struct failmem fail;
    failmem_init(&fail);
    fail.fail_at = allocation;
    next.fs = simfs_clone(life->fs);
    if (call > 0) {
        simfs_fault_add(next.fs, (struct simfs_fault){.calls = SIMFS_ANY, .at = call, .os_errno = EIO});
    }
    memset(&next.err, 0, sizeof next.err);
    next.db = NULL;
    int rc = db_open_with("store", &next.options, simfs_vfs(next.fs), &fail.mem, &next.db, &next.err);
    bool has_failed = allocation > 0 ? fail.calls >= allocation : simfs_faults_fired(next.fs) > 0;
    if (rc == 0) { /* what failed was advice, or left to the background */
        fail.fail_at = 0;
        simfs_faults_clear(next.fs);
        life_check(&next, 180, "beside a failure");
        (void)pleat_close(next.db, NULL);
        next.db = NULL;
    } else {
        cr_assert(has_failed && next.db == NULL && next.err.code == rc, "%d %s", rc, next.err.message);
        cr_assert_eq(rc == PLEAT_ERR_NO_MEMORY, allocation > 0, "%d %s", rc, next.err.message);
    }
    cr_assert_eq(fail.live, 0, "allocation %d, call %d: leaked", (int)allocation, (int)call);
    simfs_faults_clear(next.fs);
    life_crash(&next, SIMFS_KILL, 1);
    life_open(&next);
    life_check(&next, 180, "behind a failed recovery");
    life_end(&next);
    return has_failed;
}

Test(recovery, a_long_log_survives_each_failure_of_the_open_that_flushes_it) {
    struct life life;
    struct pleat_db *db = NULL;
    life_begin(&life, simfs_new(23));
    life.options.memtable_bytes = 1u << 20;
    life_open(&life);
    life_commit(&life, 'a', 180);
    life_crash(&life, SIMFS_KILL, 1);
    life.options.memtable_bytes = 4096; /* two of them hold a part of it */
    for (uint64_t n = 1; long_log_fails(&life, n, 0); n++) {
    }
    for (uint64_t n = 1; long_log_fails(&life, 0, n); n++) {
    }
    life.options.read_only = true;
    cr_assert_eq(db_open_with("store", &life.options, simfs_vfs(life.fs), &mem_system, &db, &life.err),
                 PLEAT_ERR_NO_MEMORY);
    cr_assert(strstr(life.err.message, "open the store for writing first") != NULL, "%s", life.err.message);
    simfs_free(life.fs);
}

/* Q5: at whichever operation of a recovery the power goes, the next one finds all that was durable. */
Test(recovery, a_crash_at_any_operation_of_it_loses_nothing) {
    struct life life;
    life_begin(&life, simfs_new(8));
    life_open(&life);
    life_commit_until_rotated(&life, 'a');
    life_sync(&life);
    uint64_t applied = life_applied(&life);
    life_crash(&life, SIMFS_MIN, 1);
    bool stopped = true;
    for (uint64_t stop = 1; stopped; stop++) {
        for (enum simfs_model model = SIMFS_MIN; model < SIMFS_MODELS; model++) {
            struct life next = life;
            next.fs = simfs_clone(life.fs);
            simfs_sync_all(next.fs);
            simfs_stop_at(next.fs, stop);
            (void)life_try(&next, simfs_vfs(next.fs));
            stopped = simfs_stopped(next.fs);
            life_crash(&next, model, stop);
            life_open(&next);
            life_check(&next, applied, "after a crash in a recovery");
            life_end(&next);
        }
    }
    life_end(&life);
}

/* A segment from who knows where, numbered far above ours: what is written from now on lies above it. */
Test(recovery, a_stray_segment_of_a_high_number_does_not_bury_the_next_ones) {
    struct life life;
    life_begin(&life, simfs_new(9));
    life_open(&life);
    life_commit(&life, 'a', 2);
    life_sync(&life);
    life_crash(&life, SIMFS_MIN, 1);
    simfs_write_file(life.fs, "store", "700000.wal", "", 0);
    life_open(&life);
    life_check(&life, 2, "beside a stray segment");
    life_commit(&life, 'b', 2);
    life_sync(&life);
    life_crash(&life, SIMFS_MIN, 2);
    life_open(&life);
    life_check(&life, 4, "after the next life");
    life_end(&life);
}

Test(recovery, a_missing_table_is_found_at_the_open) {
    struct life life;
    char name[VFS_NAME_BYTES_MAX + 1] = "";
    life_begin(&life, simfs_new(10));
    life_open(&life);
    life_commit(&life, 'a', 2);
    cr_assert_eq(pleat_close(life.db, &life.err), 0);
    for (size_t i = 0; i < simfs_name_count(life.fs, "store") && strstr(name, ".tbl") == NULL; i++) {
        cr_assert(simfs_name_at(life.fs, "store", i, name));
    }
    cr_assert(simfs_remove_file(life.fs, "store", name), "there is no table");
    expect_corrupt(&life, name);
    life_end(&life);
}

/* F5: a position that anyone saw names what it named, also when the commits behind it are lost. */
Test(recovery, commits_that_were_seen_and_lost_end_their_history) {
    for (int reopened = 0; reopened < 2; reopened++) {
        struct life life;
        uint64_t history, next_history;
        life_begin(&life, simfs_new(11));
        life_open(&life);
        life_commit(&life, 'a', 2);
        if (reopened != 0) {
            cr_assert_eq(pleat_close(life.db, &life.err), 0); /* clean; then opened, and no longer so */
            life_open(&life);
        } else {
            life_sync(&life);
        }
        (void)life_durable(&life, &history);
        life_commit(&life, 'a', 1); /* somebody saw (history, 3) */
        life_crash(&life, SIMFS_MIN, 1);
        life_open(&life);
        life_check(&life, 2, "after the loss");
        life_commit(&life, 'b', 1);
        (void)life_durable(&life, &next_history);
        cr_assert_gt(next_history, history, "sequence 3 of one history has two contents");
        life_end(&life);
    }
}

/* ---- syncing ---------------------------------------------------------------------------------------------------- */

/* A disk whose first sync of a log, once armed, is followed by commits before it returns. */
static struct {
    const struct vfs *real;
    struct life *life;
    bool rotate;
    unsigned flushes; /* so many generations are filled and flushed as well */
} busy;

static int busy_log_sync(struct vfs_log *log, struct pleat_error *err) {
    int rc = busy.real->log_sync(log, err);
    struct life *life = busy.life;
    busy.life = NULL;
    if (rc == 0 && life != NULL) {
        for (; busy.flushes > 0; busy.flushes--) {
            life_commit_until_rotated(life, 'b');
            while (pleat_step(life->db, &life->err) == 0) {
            }
        }
        if (busy.rotate) {
            life_commit_until_rotated(life, 'b');
        }
        life_commit(life, 'b', 1);
    }
    return rc;
}

static void busy_open(struct life *life, struct vfs *vfs, bool rotate) {
    life_begin(life, simfs_new(12));
    *vfs = *simfs_vfs(life->fs);
    vfs->log_sync = busy_log_sync;
    busy.real = simfs_vfs(life->fs);
    busy.rotate = rotate;
    busy.life = NULL;
    cr_assert_eq(life_try(life, vfs), 0, "%s", life->err.message);
    life_commit(life, 'a', 3);
}

Test(syncing, a_commit_beside_a_sync_is_not_durable_by_it) {
    struct life life;
    struct vfs vfs;
    busy_open(&life, &vfs, false);
    busy.life = &life;
    life_sync(&life);
    cr_assert_eq(life_applied(&life), 4);
    cr_assert_eq(life_durable(&life, NULL), 3, "a commit after the sync began is said to be durable");
    life_sync(&life);
    cr_assert_eq(life_durable(&life, NULL), 4);
    life_crash(&life, SIMFS_MIN, 1);
    life_open(&life);
    life_check(&life, 4, "after both syncs");
    life_end(&life);
}

static unsigned segments_held(const struct life *life) {
    unsigned count = 0;
    for (const struct segment *segment = life->db->segments; segment != NULL; segment = segment->next) {
        count++;
    }
    return count;
}

/* One slow sync of the log must not take the workers, and with them all flushes: the segment that it is inside of is
 * left to a later job, those that died meanwhile go. */
Test(syncing, flushes_go_on_beside_a_sync_that_takes_its_time) {
    struct life life;
    struct vfs vfs;
    busy_open(&life, &vfs, false);
    busy.life = &life;
    busy.flushes = 3;
    life_sync(&life);
    cr_assert_eq(busy.flushes, 0);
    cr_assert_eq(segments_held(&life), 2, "the one that was synced, and the active one");
    (void)pleat_step(life.db, &life.err);
    cr_assert_eq(segments_held(&life), 1);
    uint64_t applied = life_applied(&life);
    life_sync(&life);
    cr_assert_eq(life_durable(&life, NULL), applied);
    life_crash(&life, SIMFS_MIN, 1);
    life_open(&life);
    life_check(&life, applied, "after both syncs");
    life_end(&life);
}

/* The segment is sealed while a sync is inside: what came into it meanwhile is the next sync's. */
Test(syncing, a_segment_that_is_sealed_beside_a_sync_is_synced_once_more) {
    struct life life;
    struct vfs vfs;
    busy_open(&life, &vfs, true);
    busy.life = &life;
    life_sync(&life);
    cr_assert_eq(life_durable(&life, NULL), 3);
    life_sync(&life);
    uint64_t applied = life_applied(&life);
    cr_assert_eq(life_durable(&life, NULL), applied);
    life_crash(&life, SIMFS_MIN, 1);
    life_open(&life);
    life_check(&life, applied, "after both syncs");
    life_end(&life);
}

/* Y1, D4: two segments and a new name behind one promise. */
Test(syncing, it_covers_every_older_segment_and_the_names) {
    struct life life;
    life_begin(&life, simfs_new(13));
    life_open(&life);
    life_commit_until_rotated(&life, 'a');
    life_sync(&life);
    uint64_t applied = life_applied(&life);
    cr_assert_eq(life_durable(&life, NULL), applied);
    life_crash(&life, SIMFS_MIN, 1);
    life_open(&life);
    life_check(&life, applied, "after a sync over two segments");
    life_end(&life);
}

/* Out of space means for callers that nothing has changed and that it may go on when space returns. Behind a sync that
 * failed so, neither holds. */
Test(syncing, a_sync_that_finds_no_space_is_an_error_of_the_disk) {
    struct life life;
    life_begin(&life, simfs_new(19));
    life_open(&life);
    life_commit(&life, 'a', 2);
    simfs_fault_add(life.fs, (struct simfs_fault){.calls = SIMFS_LOG_SYNC, .at = 1, .os_errno = ENOSPC});
    cr_assert_eq(pleat_sync(life.db, &life.err), PLEAT_ERR_IO, "%s", life.err.message);
    cr_assert(life.err.code == PLEAT_ERR_IO && life.err.os_errno == ENOSPC);
    cr_assert_eq(life_try_commit(&life, 'b'), PLEAT_ERR_IO);
    cr_assert(life.err.code == PLEAT_ERR_IO && life.err.os_errno == ENOSPC);
    cr_assert_eq(pleat_health(life.db, NULL), PLEAT_ERR_IO);
    life_check(&life, 2, "of a store that is read-only");
    life_drop(&life);
    simfs_free(life.fs);
}

/* F7: after either the outcome on disk is unknown, so nothing is asked of it again. */
Test(syncing, a_failed_sync_or_append_makes_the_store_read_only_with_that_error) {
    enum { SYNC, APPEND, STEP, WAYS };
    for (int way = SYNC; way < WAYS; way++) {
        struct life life;
        struct pleat_error sticky = {0};
        life_begin(&life, simfs_new(18));
        life.options.durability = way == STEP ? PLEAT_SYNC_INTERVAL : life.options.durability;
        life.options.sync_interval_bytes = 1; /* a step has something to sync behind each commit */
        life_open(&life);
        life_commit(&life, 'a', 2);
        simfs_fault_add(life.fs, (struct simfs_fault){.calls = way == APPEND ? SIMFS_LOG_PUBLISH : SIMFS_LOG_SYNC,
                                                      .at = 1,
                                                      .os_errno = EIO,
                                                      .half = true});
        int rc = way == APPEND ? life_try_commit(&life, 'b')
                 : way == STEP ? pleat_step(life.db, &life.err)
                               : pleat_sync(life.db, &life.err);
        cr_assert_eq(rc, PLEAT_ERR_IO, "%s", life.err.message);
        cr_assert_eq(life.err.code, PLEAT_ERR_IO, "way %d", way);
        cr_assert_eq(pleat_health(life.db, &sticky), PLEAT_ERR_IO);
        cr_assert_str_eq(sticky.message, life.err.message, "the sticky error is another one");
        cr_assert_eq(life_try_commit(&life, 'b'), PLEAT_ERR_IO);
        cr_assert_str_eq(sticky.message, life.err.message, "a later write is refused with another error");
        cr_assert_eq(pleat_sync(life.db, NULL), PLEAT_ERR_IO);
        cr_assert_eq(simfs_sync_retries(life.fs), 0);
        life_check(&life, 2, "of a store that is read-only");
        cr_assert_eq(life_durable(&life, NULL), 0);
        life_drop(&life);
        simfs_free(life.fs);
    }
}

/* ---- flushes and compactions ------------------------------------------------------------------------------------ */

/* Commits, flushes and compactions until the disk stops; *ret_durable: what was said to be durable. */
static void jobs_run(struct life *life, uint64_t stop, uint64_t *ret_applied, uint64_t *ret_durable) {
    life_begin(life, simfs_new(14));
    life->options.level_base_bytes = 2048;
    life->options.level_ratio = 2;
    life->options.level0_tables = 1;
    life->options.table_bytes = 1024;
    *ret_applied = *ret_durable = 0;
    simfs_stop_at(life->fs, stop);
    int rc = life_try(life, simfs_vfs(life->fs));
    for (unsigned i = 0; rc == 0 && i < 5; i++) {
        for (unsigned n = 0; rc == 0 && n < 5; n++) {
            rc = life_try_commit(life, 'a');
            *ret_applied += rc == 0;
        }
        rc = rc == 0 ? pleat_flush(life->db, &life->err) : rc;
        for (unsigned steps = 0; rc == 0 && steps < 4; steps++) {
            *ret_durable = life_durable(life, NULL);
            rc = pleat_step(life->db, &life->err);
        }
        rc = rc == PLEAT_END ? 0 : rc;
    }
    if (life->db != NULL) {
        *ret_durable = life_durable(life, NULL);
    }
    cr_assert(rc == 0 || simfs_stopped(life->fs), "%s", life->err.message);
}

/* KILL keeps everything, removed names as well; MIN nothing but what was synced. Between them they see an input that
 * went before its edit, and a table or a name that was not there when its edit was. */
Test(jobs, a_crash_at_any_operation_finds_a_whole_store) {
    uint64_t operations = 0;
    for (uint64_t stop = 1; operations == 0; stop++) {
        for (int kill = 0; kill < 2; kill++) {
            struct life life;
            uint64_t applied, durable;
            jobs_run(&life, stop, &applied, &durable);
            if (!simfs_stopped(life.fs)) {
                struct pleat_stats stats = {.size = sizeof stats};
                cr_assert_eq(pleat_stats_read(life.db, &stats, &life.err), 0);
                cr_assert_gt(stats.compactions, 2);
                operations = stop;
            }
            life.marks[applied + 1] = 'a'; /* the one that was stopped may be in */
            life_crash(&life, kill != 0 ? SIMFS_KILL : SIMFS_MIN, stop);
            life_open(&life);
            uint64_t found = life_applied(&life);
            cr_assert_geq(found, kill != 0 ? applied : durable, "stop %d", (int)stop);
            cr_assert_leq(found, applied + 1, "stop %d", (int)stop);
            life_check(&life, found, "after a crash");
            life_end(&life);
        }
    }
    cr_assert_gt(operations, 100);
}

/* The frozen generation is flushed with the cursor of its last commit, not with that of the commits since. */
Test(jobs, a_flush_takes_the_cursor_of_its_own_last_commit) {
    struct life life;
    life_begin(&life, simfs_new(16));
    life_open(&life);
    life_commit_until_rotated(&life, 'a');
    uint64_t frozen = life_applied(&life) - 1;
    life_commit(&life, 'a', 2);
    cr_assert_eq(pleat_step(life.db, &life.err), 0, "%s", life.err.message);
    life_crash(&life, SIMFS_MIN, 1);
    life_open(&life);
    life_check(&life, frozen, "after the flush of the frozen part");
    life_end(&life);
}

static bool space_holds_x(struct pleat_space *space) {
    struct pleat_value value;
    int rc = pleat_get(space, NULL, (struct pleat_slice){"x", 1}, &value, NULL);
    if (rc == 0) {
        pleat_value_release(&value);
    }
    return rc == 0;
}

/* Puts "x" into the two spaces with one commit. */
static int spaces_put(struct life *life, struct pleat_space *other) {
    struct pleat_batch *batch;
    struct pleat_slice x = {"x", 1};
    int rc = pleat_batch_new(life->db, &batch, &life->err);
    rc = rc == 0 ? pleat_batch_put(batch, pleat_default_space(life->db), x, x, &life->err) : rc;
    rc = rc == 0 ? pleat_batch_put(batch, other, x, x, &life->err) : rc;
    rc = rc == 0 ? pleat_commit(life->db, batch, NULL, NULL, &life->err) : rc;
    pleat_batch_free(batch);
    return rc;
}

/* F1: one flush of two spaces, stopped at each of its operations, is in for both or for none. A clear of one space
 * makes durable what the other one got before it. */
Test(jobs, spaces_go_to_disk_together) {
    static const struct pleat_slice name = {"other", 5};
    for (int clear = 0; clear < 2; clear++) {
        bool stopped = true;
        for (uint64_t stop = 1; stopped; stop++) {
            struct life life;
            struct pleat_space *other;
            life_begin(&life, simfs_new(17));
            life_open(&life);
            cr_assert_eq(pleat_space_open(life.db, name, NULL, &other, &life.err), 0, "%s", life.err.message);
            cr_assert_eq(spaces_put(&life, other), 0, "%s", life.err.message);
            simfs_stop_at(life.fs, simfs_operations(life.fs) + stop);
            int rc = clear != 0 ? pleat_space_clear(pleat_default_space(life.db), &life.err)
                                : pleat_flush(life.db, &life.err);
            stopped = simfs_stopped(life.fs);
            cr_assert(rc == 0 || stopped, "%s", life.err.message);
            life_crash(&life, SIMFS_MIN, stop);
            life_open(&life);
            cr_assert_eq(pleat_space_open(life.db, name, NULL, &other, &life.err), 0, "%s", life.err.message);
            uint64_t applied = life_applied(&life);
            cr_assert_geq(applied, rc == 0 ? 1 + (uint64_t)clear : 0);
            cr_assert_eq(space_holds_x(other), applied >= 1, "at %d", (int)applied);
            cr_assert_eq(space_holds_x(pleat_default_space(life.db)), applied == 1, "at %d", (int)applied);
            life_end(&life);
        }
    }
}

/* X2: an edit whose outcome is unknown may be in, so the tables that it names stay. */
Test(jobs, tables_of_an_edit_that_may_be_in_are_kept) {
    unsigned poisoned = 0;
    for (uint64_t at = 1; at < 8; at++) {
        struct life life;
        life_begin(&life, simfs_new(15));
        life_open(&life);
        life_commit(&life, 'a', 4);
        simfs_fault_add(life.fs, (struct simfs_fault){.calls = SIMFS_FILE_SYNC, .at = at, .os_errno = EIO});
        int rc = pleat_flush(life.db, &life.err);
        poisoned += rc < 0 && pleat_health(life.db, NULL) < 0;
        life_crash(&life, SIMFS_KILL, 1);
        life_open(&life);
        life_check(&life, 4, "after a failed sync in a flush");
        life_end(&life);
    }
    cr_assert_gt(poisoned, 0, "no edit had an unknown outcome");
}
