/*
 * life.h - lives of a store on a simulated disk, for tests that build a crash on purpose.
 *
 * A life is a store that is open. Commit n puts key n and the cursor n; the value says which life wrote it. So the
 * state after a recovery is checked by counting: keys 1 .. applied are there, each from the life that must have written
 * it, the others are not (F2).
 */
#ifndef PLEAT_TESTS_LIFE_H
#define PLEAT_TESTS_LIFE_H

#include "db/db.h"
#include "support/simfs.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#define KEYS 200

struct life {
    struct simfs *fs;
    struct pleat_options options;
    struct pleat_db *db;
    struct pleat_error err;
    char marks[KEYS + 1]; /* of each sequence: who wrote it */
};

static inline void life_begin(struct life *life, struct simfs *fs) {
    memset(life, 0, sizeof *life);
    life->fs = fs;
    life->options = (struct pleat_options){
        .size = sizeof life->options,
        .background = PLEAT_BACKGROUND_STEPS,
        .durability = PLEAT_SYNC_NONE,
        .memtable_bytes = 4096,
        .cache_bytes = 65536,
        .log_by_write = true,
    };
}

static inline int life_try(struct life *life, const struct vfs *vfs) {
    memset(&life->err, 0, sizeof life->err);
    life->db = NULL;
    return db_open_with("store", &life->options, vfs, &mem_system, &life->db, &life->err);
}

static inline void life_open(struct life *life) {
    cr_assert_eq(life_try(life, simfs_vfs(life->fs)), 0, "%s", life->err.message);
}

static inline uint64_t life_applied(const struct life *life) {
    uint64_t sequence;
    pleat_position_read(life->db, PLEAT_APPLIED, NULL, &sequence);
    return sequence;
}

static inline uint64_t life_durable(const struct life *life, uint64_t *ret_history) {
    uint64_t sequence;
    pleat_position_read(life->db, PLEAT_DURABLE, ret_history, &sequence);
    return sequence;
}

static inline int life_try_commit(struct life *life, char mark) {
    struct pleat_batch *batch;
    uint64_t n = life_applied(life) + 1, sequence = 0;
    char key[8], value[60];
    cr_assert_leq(n, KEYS);
    (void)snprintf(key, sizeof key, "%03u", (unsigned)n);
    memset(value, mark, sizeof value);
    struct pleat_slice name = {key, 3};
    struct pleat_cursor cursor = {.value = name};
    cr_assert_eq(pleat_batch_new(life->db, &batch, &life->err), 0);
    cr_assert_eq(pleat_batch_put(batch, pleat_default_space(life->db), name, (struct pleat_slice){value, sizeof value},
                                 &life->err),
                 0);
    cr_assert_eq(pleat_batch_put(batch, pleat_default_space(life->db), (struct pleat_slice){"0", 1}, name, &life->err),
                 0); /* in every commit, so that runs overlap and are compacted */
    cr_assert_eq(pleat_batch_set_cursor(batch, &cursor, &life->err), 0);
    int rc = pleat_commit(life->db, batch, NULL, &sequence, &life->err);
    if (rc == 0) {
        cr_assert_eq(sequence, n);
        life->marks[n] = mark;
    }
    pleat_batch_free(batch);
    return rc;
}

static inline void life_commit(struct life *life, char mark, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        cr_assert_eq(life_try_commit(life, mark), 0, "%s", life->err.message);
    }
}

/* Commits until the generation has frozen and the next segment has a commit; nothing is flushed, for nobody steps. */
static inline void life_commit_until_rotated(struct life *life, char mark) {
    uint64_t segment = life->db->active_segment->number;
    while (life->db->active_segment->number == segment) {
        life_commit(life, mark, 1);
    }
}

static inline void life_sync(struct life *life) {
    cr_assert_eq(pleat_sync(life->db, &life->err), 0, "%s", life->err.message);
}

/* F2: what is shown is the state after `applied` commits, written by whom `marks` says. */
static inline void life_check(const struct life *life, uint64_t applied, const char *what) {
    struct pleat_cursor_value cursor;
    struct pleat_error err = {0};
    cr_assert_eq(life_applied(life), applied, "%s: at %d, not %d", what, (int)life_applied(life), (int)applied);
    int rc = pleat_cursor_read(life->db, (struct pleat_slice){NULL, 0}, PLEAT_APPLIED, &cursor, &err);
    cr_assert_eq(rc, applied > 0 ? 0 : PLEAT_ABSENT, "%s", what);
    char expected[8];
    (void)snprintf(expected, sizeof expected, "%03u", (unsigned)applied);
    cr_assert(applied == 0 || (cursor.bytes == 3 && memcmp(cursor.value, expected, 3) == 0), "%s: the cursor", what);
    for (unsigned n = 1; n <= KEYS; n++) {
        char key[8];
        struct pleat_value value;
        (void)snprintf(key, sizeof key, "%03u", n);
        rc = pleat_get(pleat_default_space(life->db), NULL, (struct pleat_slice){key, 3}, &value, &err);
        cr_assert_eq(rc, n <= applied ? 0 : PLEAT_ABSENT, "%s: key %u of %d", what, n, (int)applied);
        if (rc == 0) {
            cr_assert_eq(*(const char *)value.data, life->marks[n], "%s: key %u is of another life", what, n);
            pleat_value_release(&value);
        }
    }
}

/* The process dies; what it wrote stays on its disk for simfs_crash. */
static inline void life_drop(struct life *life) {
    simfs_stop_at(life->fs, 1);
    (void)pleat_close(life->db, NULL);
    life->db = NULL;
}

/* The end of the process, and what is found after it: the life goes on there. */
static inline void life_crash(struct life *life, enum simfs_model model, uint64_t seed) {
    struct simfs *image = simfs_crash(life->fs, model, seed);
    if (life->db != NULL) {
        life_drop(life);
    }
    simfs_free(life->fs);
    life->fs = image;
}

/* A clean end of the test: nothing is left behind. */
static inline void life_end(struct life *life) {
    if (life->db != NULL) {
        cr_assert_eq(pleat_close(life->db, &life->err), 0, "%s", life->err.message);
    }
    cr_assert_eq(simfs_open_handles(life->fs), 0);
    simfs_free(life->fs);
}

#endif
