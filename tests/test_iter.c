/* test_iter.c - iterators: a source that moves under what it has lent, and a read that fails in the midst of a walk. */
#include "db/db.h"
#include "support/simfs.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define ROWS 600
#define GROUP 50

struct room {
    struct simfs *fs;
    struct vfs vfs;
    struct pleat_options options;
    struct pleat_db *db;
    struct pleat_space *space;
    struct pleat_error err;
};

/* Reads of files fail from the one with this number on. */
static struct {
    const struct vfs *real;
    unsigned reads;
    unsigned fail_at; /* 0: none */
} hook;

static int hook_file_read(struct vfs_file *file, uint64_t offset, void *buffer, size_t n, struct pleat_error *err) {
    if (hook.fail_at != 0 && ++hook.reads >= hook.fail_at) {
        return error_system(err, EIO, "read", "a table");
    }
    return hook.real->file_read(file, offset, buffer, n, err);
}

static void room_init(struct room *room) {
    memset(room, 0, sizeof *room);
    memset(&hook, 0, sizeof hook);
    room->fs = simfs_new(1);
    hook.real = simfs_vfs(room->fs);
    room->vfs = *hook.real;
    room->vfs.file_read = hook_file_read;
    room->options = (struct pleat_options){
        .size = sizeof room->options,
        .background = PLEAT_BACKGROUND_STEPS,
        .durability = PLEAT_SYNC_NONE,
        .cache_bytes = 1 << 20,
    };
    cr_assert_eq(db_open_with("store", &room->options, &room->vfs, &mem_system, &room->db, &room->err), 0, "%s",
                 room->err.message);
    room->space = pleat_default_space(room->db);
}

static void room_end(struct room *room) {
    hook.fail_at = 0;
    cr_assert_eq(pleat_close(room->db, &room->err), 0, "%s", room->err.message);
    simfs_free(room->fs);
}

static int row_key(char key[32], unsigned row) {
    return snprintf(key, 32, "tenant.%04u.route.%06u", row / GROUP, row);
}

/* Rows of [from, to) at every `step`; each value begins with the key of the first row of its group. */
static void room_put(struct room *room, unsigned from, unsigned to, unsigned step) {
    struct pleat_batch *batch;
    cr_assert_eq(pleat_batch_new(room->db, &batch, &room->err), 0);
    for (unsigned row = from; row < to; row += step) {
        char key[32], value[200];
        memset(value, 'v', sizeof value);
        int bytes = row_key(key, row);
        (void)row_key(value, row / GROUP * GROUP);
        cr_assert_eq(pleat_batch_put(batch, room->space, (struct pleat_slice){key, (size_t)bytes},
                                     (struct pleat_slice){value, sizeof value}, &room->err),
                     0);
    }
    cr_assert_eq(pleat_commit(room->db, batch, NULL, NULL, &room->err), 0);
    pleat_batch_free(batch);
}

static void expect_row(const struct pleat_iter *iter, unsigned row, const char *what) {
    char key[32];
    int bytes = row_key(key, row);
    struct pleat_slice found = pleat_iter_key(iter);
    cr_assert(found.bytes == (size_t)bytes && memcmp(found.data, key, found.bytes) == 0, "%s: %.*s instead of %s", what,
              (int)found.bytes, (const char *)found.data, key);
}

/* I4. From each row to the beginning of its group, with a part of what the iterator lends as the key: tables alone,
 * then a merge of tables, level 0 and a memtable. */
Test(iter, seeks_a_key_that_it_has_lent) {
    struct room room;
    room_init(&room);
    room_put(&room, 0, ROWS, 1);
    cr_assert_eq(pleat_compact(room.space, NULL, NULL, &room.err), 0);
    for (unsigned sources = 1; sources <= 3; sources++) {
        struct pleat_iter *iter;
        if (sources > 1) {
            room_put(&room, sources, ROWS, 3);
            cr_assert_eq(sources == 2 ? pleat_flush(room.db, &room.err) : 0, 0);
        }
        cr_assert_eq(pleat_iter_new(room.space, NULL, &iter, &room.err), 0);
        for (unsigned row = 1; row < ROWS; row += 7) {
            char key[32];
            int bytes = row_key(key, row);
            struct pleat_slice target = {key, (size_t)bytes};
            cr_assert_eq(pleat_iter_seek(iter, target, &room.err), 0);
            target = pleat_iter_key(iter);
            target.bytes = 11;
            cr_assert_eq(pleat_iter_seek(iter, target, &room.err), 0);
            expect_row(iter, row / GROUP * GROUP, "by a prefix of the key");
            cr_assert_eq(pleat_iter_seek(iter, (struct pleat_slice){key, (size_t)bytes}, &room.err), 0);
            target = pleat_iter_value(iter);
            target.bytes = (size_t)bytes;
            cr_assert_eq(pleat_iter_seek(iter, target, &room.err), 0);
            expect_row(iter, row / GROUP * GROUP, "by a part of the value");
            cr_assert_eq(pleat_iter_seek(iter, (struct pleat_slice){key, (size_t)bytes}, &room.err), 0);
            target = pleat_iter_key(iter);
            int rc = pleat_iter_seek_before(iter, target, &room.err);
            cr_assert_eq(rc, 0);
            expect_row(iter, row - 1, "before the key");
        }
        pleat_iter_free(iter);
    }
    room_end(&room);
}

/* F6, F8. A walk that a failed read has ended is not at its end. */
Test(iter, gives_an_error_again_until_it_is_positioned) {
    for (int backward = 0; backward < 2; backward++) {
        struct room room;
        struct pleat_iter *iter;
        room_init(&room);
        room_put(&room, 0, ROWS, 1);
        cr_assert_eq(pleat_flush(room.db, &room.err), 0);
        cr_assert_eq(pleat_iter_new(room.space, NULL, &iter, &room.err), 0);
        int (*begin)(struct pleat_iter *, struct pleat_error *) = backward ? pleat_iter_last : pleat_iter_first;
        int (*step)(struct pleat_iter *, struct pleat_error *) = backward ? pleat_iter_prev : pleat_iter_next;
        int (*back)(struct pleat_iter *, struct pleat_error *) = backward ? pleat_iter_next : pleat_iter_prev;
        cr_assert_eq(begin(iter, &room.err), 0, "%s", room.err.message);
        hook.fail_at = 1;
        unsigned rows = 1;
        int rc;
        while ((rc = step(iter, &room.err)) == 0) {
            rows++;
        }
        cr_assert_eq(rc, PLEAT_ERR_IO, "%d after %u rows", rc, rows);
        cr_assert_lt(rows, ROWS);
        for (int again = 0; again < 2; again++) {
            memset(&room.err, 0, sizeof room.err);
            cr_assert_eq(step(iter, &room.err), PLEAT_ERR_IO, "the walk seems to be at its end");
            cr_assert_eq(room.err.code, PLEAT_ERR_IO);
            cr_assert_not_null(strstr(room.err.message, "read"), "%s", room.err.message);
            cr_assert_eq(back(iter, &room.err), PLEAT_ERR_IO);
        }
        hook.fail_at = 0;
        rows = 0;
        for (rc = begin(iter, &room.err); rc == 0; rc = step(iter, &room.err)) {
            rows++;
        }
        cr_assert_eq(rc, PLEAT_END, "%s", room.err.message);
        cr_assert_eq(rows, ROWS);
        cr_assert_eq(step(iter, &room.err), PLEAT_END);
        pleat_iter_free(iter);
        room_end(&room);
    }
}
