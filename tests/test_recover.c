/* test_recover.c - recovery of stores whose log no crash of ours would leave: hostile, but valid by every checksum. */
#include "db/db.h"
#include "support/random.h"
#include "support/simfs.h"

#include <criterion/criterion.h>
#include <string.h>

static struct pleat_options options = {
    .size = sizeof options, .background = PLEAT_BACKGROUND_STEPS, .memtable_bytes = 4096, .cache_bytes = 65536};

static uint64_t commit_some(struct simfs *fs, int count, struct simfs **ret_killed) {
    struct pleat_db *db = NULL;
    struct pleat_batch *batch = NULL;
    uint64_t sequence = 0;
    cr_assert_eq(db_open_with("store", &options, simfs_vfs(fs), &mem_system, &db, NULL), 0);
    cr_assert_eq(pleat_batch_new(db, &batch, NULL), 0);
    for (int i = 0; i < count; i++) {
        pleat_batch_clear(batch);
        cr_assert_eq(pleat_batch_put(batch, pleat_default_space(db), (struct pleat_slice){"key", 3},
                                     (struct pleat_slice){&i, sizeof i}, NULL),
                     0);
        cr_assert_eq(pleat_commit(db, batch, NULL, &sequence, NULL), 0);
    }
    *ret_killed = simfs_crash(fs, SIMFS_KILL, 1);
    pleat_batch_free(batch);
    cr_assert_eq(pleat_close(db, NULL), 0);
    return sequence;
}

/* The number of the newest log segment, and the store's id. */
static uint64_t newest_segment(struct simfs *fs, uint8_t store_id[TABLE_STORE_ID_BYTES]) {
    char name[VFS_NAME_BYTES_MAX + 1];
    uint64_t number, newest = 0;
    size_t bytes;
    for (size_t i = 0; simfs_name_at(fs, "store", i, name); i++) {
        newest = wal_name_parse(name, &number) && number > newest ? number : newest;
    }
    uint8_t *manifest = simfs_read_file(fs, "store", "MANIFEST", &bytes);
    cr_assert(manifest != NULL && bytes > 32);
    memcpy(store_id, manifest + 16, TABLE_STORE_ID_BYTES);
    free(manifest);
    return newest;
}

/* Adds a segment that names where the newest ends, each number of it off by what `off` says, modulo 2^64, and
 * goes on `hole` sequences too far. */
static void forge_successor(struct simfs *fs, struct wal_tail off, uint64_t hole, uint64_t durable) {
    const struct vfs *vfs = simfs_vfs(fs);
    uint8_t store_id[TABLE_STORE_ID_BYTES];
    uint64_t newest = newest_segment(fs, store_id);
    struct vfs_dir *dir = NULL;
    struct wal_reader *reader = NULL;
    struct wal_writer *writer = NULL;
    struct wal_view view;
    struct wal_record record;
    cr_assert_eq(vfs->dir_open(vfs, &mem_system, "store", VFS_DIR_EXISTING, 0700, &dir, NULL), 0);
    cr_assert_eq(wal_reader_open(vfs, dir, &mem_system, store_id, newest, &reader, NULL), 0);
    while (wal_reader_next(reader, 0, &view, NULL) == 0) {
    }
    struct wal_tail tail = wal_reader_tail(reader);
    struct wal_writer_options forged = {
        .vfs = vfs,
        .dir = dir,
        .mem = &mem_system,
        .store_id = store_id,
        .segment = newest + 1,
        .bytes = 4096,
        .predecessor = {tail.segment + off.segment, tail.last_sequence + off.last_sequence,
                        tail.running_hash + off.running_hash},
        .first_sequence = tail.last_sequence + 1 + hole,
        .file_mode = 0600,
    };
    wal_reader_close(reader);
    cr_assert_eq(wal_writer_create(&forged, &writer, NULL), 0);
    wal_record_init(&record, &mem_system);
    struct entry entry = {.kind = ENTRY_PUT, .key = (const uint8_t *)"key", .key_bytes = 3};
    cr_assert_eq(wal_record_add(&record, 0, &entry, NULL, NULL), 0);
    cr_assert_eq(wal_writer_append(writer, &record, forged.first_sequence, durable, NULL), 0);
    wal_record_fini(&record);
    wal_writer_close(writer);
    vfs->dir_close(dir);
}

static const struct wal_tail exactly;

/* Where recovery ends with such a successor. */
static uint64_t recovered_with(struct wal_tail off, uint64_t hole, uint64_t *ret_committed) {
    struct simfs *fs = simfs_new(1), *killed = NULL;
    struct pleat_db *db = NULL;
    uint64_t applied = 0;
    *ret_committed = commit_some(fs, 3, &killed);
    forge_successor(killed, off, hole, *ret_committed);
    cr_assert_eq(db_open_with("store", &options, simfs_vfs(killed), &mem_system, &db, NULL), 0);
    pleat_position_read(db, PLEAT_APPLIED, NULL, &applied);
    cr_assert_eq(pleat_close(db, NULL), 0);
    simfs_free(killed);
    simfs_free(fs);
    return applied;
}

/* Sequence numbers alone would let the successor follow: the chain must not. */
Test(recover, a_segment_that_names_another_end_than_its_predecessors_is_not_followed) {
    static const struct wal_tail others[] = {
        {.segment = UINT64_MAX}, {.last_sequence = UINT64_MAX}, {.running_hash = 1}};
    uint64_t committed;
    cr_assert_eq(recovered_with(exactly, 0, &committed), committed + 1);
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        cr_assert_eq(recovered_with(others[i], 0, &committed), committed, "row %zu", i);
    }
}

Test(recover, a_chained_segment_with_a_hole_in_front_ends_the_log) {
    uint64_t committed;
    cr_assert_eq(recovered_with(exactly, 1, &committed), committed);
}

Test(recover, a_record_behind_a_hole_still_says_what_had_been_durable) {
    struct simfs *fs = simfs_new(1), *killed = NULL;
    struct pleat_db *db = NULL;
    uint64_t last = commit_some(fs, 3, &killed);
    uint64_t before = simfs_hash(killed);
    struct pleat_error err = {0};
    forge_successor(killed, exactly, 2, last + 1);
    cr_assert_neq(simfs_hash(killed), before);
    before = simfs_hash(killed);
    cr_assert_eq(db_open_with("store", &options, simfs_vfs(killed), &mem_system, &db, &err), PLEAT_ERR_CORRUPT);
    cr_assert(strstr(err.message, ".wal") != NULL, "%s", err.message);
    cr_assert_eq(simfs_hash(killed), before);
    simfs_free(killed);
    simfs_free(fs);
}
