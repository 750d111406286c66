/* test_version_disk.c - the registry when the disk or the memory fails: crashes, full disks, failed syncs, V4, V6. */
#include "support/failmem.h"
#include "support/version_room.h"
#include "version/manifest.h"

#include <stdio.h>

/* ---- a workload that is the same each time ---------------------------------------------------------------------- */

#define WORK_STEPS 11 /* 10 applies, one of them rewritten in between */

/* What a run of the workload came to: how many steps returned 0, the digest after each, the numbers handed out. */
struct work {
    uint64_t digests[WORK_STEPS + 1];
    size_t done;          /* digests that were reached; 0: not even created */
    size_t tried;         /* digests that a step was asked for */
    uint64_t number_next; /* above every number handed out */
};

static void work_numbers(struct work *work, const struct model *model) {
    for (size_t i = 0; i < model->table_count; i++) {
        if (model->tables[i].number >= work->number_next) {
            work->number_next = model->tables[i].number + 1;
        }
    }
}

static void work_run(struct room *room, uint64_t seed, struct work *work) {
    static struct model model;
    struct random random = {seed};
    *work = (struct work){0};
    model_init(&model);
    work->digests[0] = model_digest(&model);
    work->tried = 1;
    if (room_create(room) != 0) {
        return;
    }
    work->done = 1;
    for (size_t step = 1; step <= WORK_STEPS; step++) {
        int rc;
        if (step == 6) {
            rc = registry_rewrite(room->registry, NULL, &room->error);
        } else {
            rc = room_step(room, &random, &model);
        }
        work->digests[step] = model_digest(&model);
        work->tried = step + 1;
        work_numbers(work, &model);
        if (rc != 0) {
            cr_assert_eq(registry_digest(room->registry), work->digests[work->done - 1], "a failed step shows");
            return;
        }
        work->done = step + 1;
        cr_assert_eq(registry_digest(room->registry), work->digests[step]);
    }
}

/* Opens what a crash left; checks that it is a state at or after the last one that was reached. */
static void image_check(struct simfs *image, const struct work *work, const char *what) {
    struct room room;
    cr_assert_eq(room_enter(&room, image, &mem_system), 0);
    int rc = room_open(&room);
    if (rc == PLEAT_ERR_NOT_FOUND && work->done == 0) {
        cr_assert_eq(room_create(&room), 0, "%s: what an interrupted creation left is in the way: %s", what,
                     room.error.message);
        room_leave(&room);
        return;
    }
    cr_assert_eq(rc, 0, "%s: %s", what, room.error.message);
    uint64_t digest = registry_digest(room.registry);
    size_t found = work->done > 0 ? work->done - 1 : 0;
    while (found < work->tried && work->digests[found] != digest) {
        found++;
    }
    cr_assert_lt(found, work->tried, "%s: not a state at or after step %zu", what, work->done);
    cr_assert_eq(registry_rewrite(room.registry, NULL, &room.error), 0, "%s", room.error.message);
    cr_assert_eq(registry_digest(room.registry), digest);
    uint64_t number;
    cr_assert_eq(registry_file_number(room.registry, &number, NULL), 0);
    cr_assert_geq(number, work->number_next, "%s: V6", what);
    struct edit edit;
    edit_init(&edit, &mem_system);
    edit.has_clean = true;
    edit.clean = true;
    cr_assert_eq(registry_apply(room.registry, &edit, NULL), 0);
    edit_fini(&edit);
    digest = registry_digest(room.registry);
    room_leave(&room);

    struct simfs *second = simfs_crash(image, SIMFS_MIN, 1);
    cr_assert_eq(room_enter(&room, second, &mem_system), 0);
    cr_assert_eq(room_open(&room), 0, "%s, again: %s", what, room.error.message);
    cr_assert_eq(registry_digest(room.registry), digest, "%s: what was applied after recovery is lost", what);
    room_leave(&room);
    simfs_free(second);
}

static void crash_at_every_operation(struct random *random) {
    for (int round = 0; round < 3; round++) {
        uint64_t seed = random_next(random);
        uint64_t operations = UINT64_MAX;
        for (uint64_t stop = 1; stop <= operations; stop++) {
            struct simfs *fs = simfs_new(seed);
            struct room room;
            struct work work = {.tried = 1};
            simfs_stop_at(fs, stop);
            bool is_in = room_enter(&room, fs, &mem_system) == 0;
            room.options.rewrite_bytes_min = round == 0 ? 1 << 20 : (uint64_t)400 << round;
            if (is_in) {
                work_run(&room, seed, &work);
            }
            if (!simfs_stopped(fs)) {
                operations = stop;
                cr_assert_eq(work.done, WORK_STEPS + 1, "%s", room.error.message);
            }
            for (unsigned m = 0; is_in && m < SIMFS_MODELS; m++) {
                for (uint64_t variant = 0; variant < (m == SIMFS_STRICT ? 5 : 2); variant++) {
                    char what[96];
                    (void)snprintf(what, sizeof what, "stop %llu, model %s", (unsigned long long)stop,
                                   simfs_model_name((enum simfs_model)m));
                    struct simfs *image = simfs_crash(fs, (enum simfs_model)m, random_next(random));
                    image_check(image, &work, what);
                    simfs_free(image);
                }
            }
            registry_free(room.registry);
            room_leave_disk(&room);
            simfs_free(fs);
        }
        cr_assert_gt(operations, 30);
    }
}

/* The seeds have failed once: a lost sector showed the seal that a torn frame had overwritten, and took it for a later
 * frame; and a torn payload held what looks like the headers of many frames. */
Test(version_disk, a_crash_at_every_operation_leaves_a_prefix_with_all_that_returned) {
    static const uint64_t failed[] = {0x3543b583a151417f, 0x6422dffcdce4e21e};
    for (size_t i = 0; i < sizeof failed / sizeof failed[0]; i++) {
        struct random random = {failed[i]};
        crash_at_every_operation(&random);
    }
    struct random random = random_begin("version_disk/crash");
    crash_at_every_operation(&random);
}

/* ---- editions --------------------------------------------------------------------------------------------------- */

#define EDITIONS 12

/* A store after some edits and replacements: the MANIFEST and the digest after each of them. */
struct editions {
    struct room room;
    uint64_t digests[EDITIONS];
    uint8_t *files[EDITIONS];
    size_t bytes[EDITIONS];
    uint8_t *lock;
    size_t lock_bytes;
    char last[64]; /* edition, as a message has it */
};

static void editions_make(struct editions *editions, uint64_t store_seed) {
    static struct model model;
    struct random random = {3};
    cr_assert_eq(room_enter(&editions->room, simfs_new(store_seed), &mem_system), 0);
    cr_assert_eq(room_create(&editions->room), 0);
    model_init(&model);
    for (size_t i = 0; i < EDITIONS; i++) {
        if (i == EDITIONS / 2) {
            room_reopen(&editions->room);
        } else {
            cr_assert_eq(room_step(&editions->room, &random, &model), 0, "%s", editions->room.error.message);
        }
        editions->digests[i] = registry_digest(editions->room.registry);
        editions->files[i] = simfs_read_file(editions->room.fs, "db", MANIFEST_NAME, &editions->bytes[i]);
    }
    struct registry_state state;
    registry_state_read(editions->room.registry, &state);
    (void)snprintf(editions->last, sizeof editions->last, "expected %llu.%llu or later",
                   (unsigned long long)state.edition.incarnation, (unsigned long long)state.edition.frames);
    editions->lock = simfs_read_file(editions->room.fs, "db", "LOCK", &editions->lock_bytes);
    room_shut(&editions->room);
}

static void editions_fini(struct editions *editions) {
    for (size_t i = 0; i < EDITIONS; i++) {
        free(editions->files[i]);
    }
    free(editions->lock);
    room_leave(&editions->room);
    simfs_free(editions->room.fs);
}

/* Puts it all on a fresh disk and opens that. The room is left again, but for its error. */
static int editions_open(const void *manifest, size_t bytes, const void *lock, size_t lock_bytes, uint64_t *ret_digest,
                         struct room *room) {
    struct simfs *fs = simfs_new(9);
    simfs_write_file(fs, "db", MANIFEST_NAME, manifest, bytes);
    if (lock != NULL) {
        simfs_write_file(fs, "db", "LOCK", lock, lock_bytes);
    }
    cr_assert_eq(room_enter(room, fs, &mem_system), 0);
    int rc = room_open(room);
    *ret_digest = rc == 0 ? registry_digest(room->registry) : 0;
    room_leave(room);
    simfs_free(fs);
    return rc;
}

Test(version_disk, an_older_manifest_is_damage_as_long_as_lock_knows_of_a_later_one) {
    struct editions editions, foreign;
    struct room room;
    uint64_t digest;
    editions_make(&editions, 1);
    editions_make(&foreign, 2);
    for (size_t i = 0; i < EDITIONS; i++) {
        const uint8_t *file = editions.files[i];
        size_t bytes = editions.bytes[i];
        int rc = editions_open(file, bytes, editions.lock, editions.lock_bytes, &digest, &room);
        if (i == EDITIONS - 1) {
            cr_assert(rc == 0 && digest == editions.digests[i], "%s", room.error.message);
        } else {
            cr_assert_eq(rc, PLEAT_ERR_CORRUPT, "the manifest of step %zu", i);
            cr_assert_not_null(strstr(room.error.message, "MANIFEST: damaged at offset"));
            cr_assert_not_null(strstr(room.error.message, editions.last));
            cr_assert_not_null(strstr(room.error.message, "remove LOCK"));
        }
        rc = editions_open(file, bytes, NULL, 0, &digest, &room);
        cr_assert(rc == 0 && digest == editions.digests[i], "without LOCK: %s", room.error.message);
        rc = editions_open(file, bytes, foreign.lock, foreign.lock_bytes, &digest, &room);
        cr_assert(rc == 0 && digest == editions.digests[i], "the LOCK of another store: %s", room.error.message);
    }
    editions_fini(&editions);
    editions_fini(&foreign);
}

/* Also by a power loss: a note is synced before its edit counts as done. */
Test(version_disk, a_manifest_that_lost_its_end_is_damage_as_long_as_lock_is_there) {
    struct editions editions;
    struct room room;
    uint64_t digest;
    editions_make(&editions, 1);
    for (unsigned m = 0; m < SIMFS_MODELS; m++) {
        struct simfs *image = simfs_crash(editions.room.fs, (enum simfs_model)m, m);
        size_t bytes, lock_bytes;
        uint8_t *file = simfs_read_file(image, "db", MANIFEST_NAME, &bytes);
        uint8_t *lock = simfs_read_file(image, "db", "LOCK", &lock_bytes);
        size_t end = editions.bytes[EDITIONS - 1] - MANIFEST_FRAME_BYTES; /* the seal may be lost */
        cr_assert_geq(bytes, end);
        for (size_t cut = 0; cut <= bytes; cut++) {
            int rc = editions_open(file, cut, lock, lock_bytes, &digest, &room);
            if (cut < end) {
                cr_assert_eq(rc, PLEAT_ERR_CORRUPT, "%s, cut at %zu", simfs_model_name((enum simfs_model)m), cut);
            } else {
                cr_assert(rc == 0 && digest == editions.digests[EDITIONS - 1], "%s", room.error.message);
            }
        }
        free(file);
        free(lock);
        simfs_free(image);
    }
    editions_fini(&editions);
}

Test(version_disk, whatever_becomes_of_lock_the_manifest_opens_and_one_of_two_notes_is_enough) {
    struct editions editions;
    struct room room;
    uint64_t digest;
    editions_make(&editions, 1);
    const uint8_t *file = editions.files[EDITIONS - 1], *older = editions.files[EDITIONS - 3];
    size_t bytes = editions.bytes[EDITIONS - 1];
    for (size_t i = 0; i < editions.lock_bytes; i++) {
        for (int bit = 0; bit < 8; bit++) {
            editions.lock[i] ^= (uint8_t)(1u << bit);
            int rc = editions_open(file, bytes, editions.lock, editions.lock_bytes, &digest, &room);
            cr_assert(rc == 0 && digest == editions.digests[EDITIONS - 1], "byte %zu: %s", i, room.error.message);
            rc = editions_open(older, editions.bytes[EDITIONS - 3], editions.lock, editions.lock_bytes,
                               &digest, &room);
            cr_assert_eq(rc, PLEAT_ERR_CORRUPT, "byte %zu: the other note", i);
            editions.lock[i] ^= (uint8_t)(1u << bit);
        }
        int rc = editions_open(file, bytes, editions.lock, i, &digest, &room);
        cr_assert(rc == 0 && digest == editions.digests[EDITIONS - 1], "cut at %zu: %s", i, room.error.message);
    }
    editions_fini(&editions);
}

/* ---- a full disk ------------------------------------------------------------------------------------------------ */

Test(version_disk, a_full_disk_refuses_the_edit_cleanly_and_the_next_one_takes_its_place) {
    struct random random = random_begin("version_disk/full");
    uint64_t refused = 0, sealed = 0;
    for (uint64_t at = 1; at <= 24; at++) {
        for (int half = 0; half < 2; half++) {
            static struct model model, before;
            struct room room;
            uint64_t full = 0, seals = 0;
            cr_assert_eq(room_enter(&room, simfs_new(1), &mem_system), 0);
            cr_assert_eq(room_create(&room), 0);
            model_init(&model);
            room.options.rewrite_bytes_min = 1 << 20;
            simfs_fault_add(room.fs, (struct simfs_fault){.calls = SIMFS_FILE_WRITE, .at = at, .os_errno = ENOSPC,
                                                          .half = half != 0});
            for (int step = 0; step < 12; step++) {
                before = model;
                uint64_t fired = simfs_faults_fired(room.fs);
                int rc = room_step(&room, &random, &model);
                seals += rc == 0 && simfs_faults_fired(room.fs) > fired; /* no room for a seal is no failure */
                if (rc != 0 || simfs_faults_fired(room.fs) > fired) {
                    cr_assert(rc == 0 || rc == PLEAT_ERR_NO_SPACE, "%s", room.error.message);
                    full += rc != 0;
                    model = rc != 0 ? before : model;
                    cr_assert_eq(registry_health(room.registry, NULL), 0, "a full disk is not poison");
                    for (unsigned m = 0; m < SIMFS_MODELS; m++) { /* out, and out for good */
                        struct simfs *image = simfs_crash(room.fs, (enum simfs_model)m, at);
                        struct room again;
                        cr_assert_eq(room_enter(&again, image, &mem_system), 0);
                        cr_assert_eq(room_open(&again), 0, "%s", again.error.message);
                        cr_assert_eq(registry_digest(again.registry), model_digest(&model));
                        room_leave(&again);
                        simfs_free(image);
                    }
                }
                cr_assert_eq(registry_digest(room.registry), model_digest(&model));
            }
            cr_assert_eq(full + seals, simfs_faults_fired(room.fs));
            refused += full;
            sealed += seals;
            simfs_faults_clear(room.fs);
            room_reopen(&room);
            cr_assert_eq(registry_digest(room.registry), model_digest(&model));
            room_leave(&room);
            simfs_free(room.fs);
        }
    }
    cr_assert(refused > 12 && sealed > 0, "%llu edits, %llu seals", (unsigned long long)refused,
              (unsigned long long)sealed); /* of 48 writes about 30 and 15, by 200 seeds */
}

/* A disk that writes everything and says that it was full: "any part may be there" at its worst. */
static struct {
    const struct vfs *real;
    uint64_t writes;
    uint64_t lie_at; /* the write that lies; 0: none */
} liar;

static int liar_write(struct vfs_file *file, uint64_t offset, const void *data, size_t n, struct pleat_error *err) {
    int rc = liar.real->file_write(file, offset, data, n, err);
    return rc == 0 && ++liar.writes == liar.lie_at ? error_system(err, ENOSPC, "write", "MANIFEST") : rc;
}

Test(version_disk, an_edit_refused_for_space_never_shows_even_when_all_of_it_was_written) {
    struct random random = random_begin("version_disk/liar");
    int refused = 0;
    for (uint64_t at = 1; at <= 24; at++) {
        static struct model model, before;
        struct room room;
        cr_assert_eq(room_enter(&room, simfs_new(1), &mem_system), 0);
        struct vfs vfs = *room.options.store.vfs;
        liar.real = room.options.store.vfs;
        vfs.file_write = liar_write;
        room.options.store.vfs = &vfs;
        cr_assert_eq(room_create(&room), 0);
        model_init(&model);
        liar.writes = 0;
        liar.lie_at = at;
        int rc = 0;
        while (rc == 0 && liar.writes < at) {
            before = model;
            rc = room_step(&room, &random, &model);
        }
        refused += rc != 0;
        if (rc == 0) { /* a seal: no room for one is no failure */
            before = model;
        } else {
            cr_assert_eq(rc, PLEAT_ERR_NO_SPACE);
        }
        cr_assert_eq(registry_health(room.registry, NULL), 0);
        for (unsigned i = 0; i < 24 * SIMFS_MODELS; i++) {
            struct simfs *image = simfs_crash(room.fs, (enum simfs_model)(i % SIMFS_MODELS), at + i);
            struct room again;
            cr_assert_eq(room_enter(&again, image, &mem_system), 0);
            cr_assert_eq(room_open(&again), 0, "%s", again.error.message);
            cr_assert_eq(registry_digest(again.registry), model_digest(&before), "write %d", (int)at);
            room_leave(&again);
            simfs_free(image);
        }
        cr_assert_eq(room_step(&room, &random, &before), 0, "%s", room.error.message);
        room_leave(&room);
        simfs_free(room.fs);
    }
    cr_assert_geq(refused, 6, "%d", refused); /* the mean is 16: two writes of three are an edit's */
}

Test(version_disk, a_rewrite_that_finds_no_space_goes_on_with_the_old_file) {
    struct random random = random_begin("version_disk/quota");
    for (uint64_t quota = 300; quota < 6000; quota += 250) {
        static struct model model, before;
        struct room room;
        cr_assert_eq(room_enter(&room, simfs_new(1), &mem_system), 0);
        room.options.rewrite_bytes_min = 256;
        cr_assert_eq(room_create(&room), 0);
        model_init(&model);
        simfs_quota(room.fs, quota);
        int applied = 0;
        for (int step = 0; step < 30; step++) {
            before = model;
            int rc = room_step(&room, &random, &model);
            cr_assert(rc == 0 || rc == PLEAT_ERR_NO_SPACE, "%s", room.error.message);
            model = rc == 0 ? model : before;
            applied += rc == 0;
            cr_assert_eq(registry_digest(room.registry), model_digest(&model));
        }
        simfs_quota(room.fs, UINT64_MAX);
        cr_assert_eq(room_step(&room, &random, &model), 0, "space is back: %s", room.error.message);
        room_reopen(&room);
        cr_assert_eq(registry_digest(room.registry), model_digest(&model));
        room_leave(&room);
        simfs_free(room.fs);
        cr_assert(applied > 0 || quota < 1000);
    }
}

Test(version_disk, a_rename_that_finds_no_space_goes_on_with_the_old_file) {
    struct random random = random_begin("version_disk/rename");
    for (uint64_t at = 1; at <= 4; at++) {
        static struct model model;
        struct room room;
        cr_assert_eq(room_enter(&room, simfs_new(1), &mem_system), 0);
        room.options.rewrite_bytes_min = 256;
        cr_assert_eq(room_create(&room), 0);
        model_init(&model);
        simfs_fault_add(room.fs, (struct simfs_fault){.calls = SIMFS_DIR_RENAME, .at = at, .os_errno = ENOSPC});
        for (int step = 0; step < 40; step++) {
            cr_assert_eq(room_step(&room, &random, &model), 0, "%s", room.error.message);
            cr_assert_eq(registry_health(room.registry, NULL), 0, "a full disk is not poison");
        }
        cr_assert_eq(simfs_faults_fired(room.fs), 1);
        for (unsigned m = 0; m < SIMFS_MODELS; m++) {
            struct simfs *image = simfs_crash(room.fs, (enum simfs_model)m, at);
            struct room again;
            cr_assert_eq(room_enter(&again, image, &mem_system), 0);
            cr_assert_eq(room_open(&again), 0, "%s", again.error.message);
            cr_assert_eq(registry_digest(again.registry), model_digest(&model));
            room_leave(&again);
            simfs_free(image);
        }
        room_leave(&room);
        simfs_free(room.fs);
    }
}

/* ---- failures with an unknown outcome --------------------------------------------------------------------------- */

Test(version_disk, a_failed_write_or_sync_poisons_and_reopening_shows_one_of_two_states) {
    static const unsigned kinds[] = {SIMFS_FILE_SYNC, SIMFS_FILE_WRITE, SIMFS_DIR_RENAME, SIMFS_DIR_SYNC};
    struct random random = random_begin("version_disk/poison");
    for (size_t kind = 0; kind < sizeof kinds / sizeof kinds[0]; kind++) {
        for (uint64_t at = 1; at <= 12; at++) {
            static struct model model, before;
            struct room room;
            cr_assert_eq(room_enter(&room, simfs_new(1), &mem_system), 0);
            room.options.rewrite_bytes_min = at % 2 == 0 ? 256 : 1 << 20;
            cr_assert_eq(room_create(&room), 0);
            model_init(&model);
            simfs_fault_add(room.fs, (struct simfs_fault){.calls = kinds[kind], .at = at, .os_errno = EIO,
                                                          .half = at % 3 == 0});
            int rc = 0;
            for (int step = 0; rc == 0 && step < 20; step++) {
                before = model;
                rc = room_step(&room, &random, &model);
            }
            if (rc == 0) {
                cr_assert(simfs_faults_fired(room.fs) == 0 || kinds[kind] == SIMFS_FILE_WRITE ||
                          kinds[kind] == SIMFS_FILE_SYNC, "a rename or a directory sync failed unnoticed");
                room_leave(&room);
                simfs_free(room.fs);
                continue;
            }
            cr_assert_eq(rc, PLEAT_ERR_IO);
            cr_assert_eq(registry_digest(room.registry), model_digest(&before), "nothing is published");
            struct edit edit;
            uint64_t number;
            struct pleat_error error = {0};
            edit_init(&edit, &mem_system);
            cr_assert_eq(registry_apply(room.registry, &edit, &error), PLEAT_ERR_IO, "sticky");
            cr_assert_str_eq(error.message, room.error.message);
            cr_assert_eq(registry_rewrite(room.registry, NULL, NULL), PLEAT_ERR_IO);
            cr_assert_eq(registry_file_number(room.registry, &number, NULL), PLEAT_ERR_IO);
            cr_assert_eq(registry_health(room.registry, NULL), PLEAT_ERR_IO);
            edit_fini(&edit);
            for (unsigned m = 0; m < SIMFS_MODELS; m++) {
                struct simfs *image = simfs_crash(room.fs, (enum simfs_model)m, at);
                struct room again;
                cr_assert_eq(room_enter(&again, image, &mem_system), 0);
                cr_assert_eq(room_open(&again), 0, "%s", again.error.message);
                uint64_t digest = registry_digest(again.registry);
                cr_assert(digest == model_digest(&model) || digest == model_digest(&before));
                room_leave(&again);
                simfs_free(image);
            }
            room_leave(&room);
            simfs_free(room.fs);
        }
    }
}

Test(version_disk, every_failing_call_leaves_a_store_that_opens) {
    for (uint64_t at = 1; at <= 120; at++) {
        struct simfs *fs = simfs_new(7);
        struct room room;
        struct work work = {.tried = 1};
        simfs_fault_add(fs, (struct simfs_fault){.calls = SIMFS_ANY, .at = at, .os_errno = EIO});
        if (room_enter(&room, fs, &mem_system) == 0) {
            room.options.rewrite_bytes_min = 700;
            work_run(&room, 7, &work);
            registry_free(room.registry);
            room.registry = NULL;
            struct simfs *image = simfs_crash(fs, SIMFS_KILL, at);
            image_check(image, &work, "one failed call");
            simfs_free(image);
        }
        room_leave(&room);
        simfs_free(fs);
    }
}

/* ---- V6 --------------------------------------------------------------------------------------------------------- */

Test(version_disk, file_numbers_are_never_given_twice_over_strides_seen_files_and_crashes) {
    struct simfs *fs = simfs_new(3);
    uint64_t last = 0, number;
    for (int life = 0; life < 6; life++) {
        struct room room;
        cr_assert_eq(room_enter(&room, fs, &mem_system), 0);
        if (life == 0) {
            cr_assert_eq(room_create(&room), 0);
        } else {
            cr_assert_eq(room_open(&room), 0, "%s", room.error.message);
            if (life == 3) { /* a file from a crashed life lies far ahead */
                registry_numbers_seen(room.registry, 50000);
                last = 50000;
            }
            cr_assert_eq(registry_file_number(room.registry, &number, NULL), PLEAT_ERR_INVALID, "before the rewrite");
            cr_assert_eq(registry_rewrite(room.registry, NULL, NULL), 0);
        }
        for (int i = 0; i < 2300; i++) {
            cr_assert_eq(registry_file_number(room.registry, &number, NULL), 0);
            cr_assert_gt(number, last);
            last = number;
        }
        registry_numbers_seen(room.registry, 5);
        room_leave(&room);
        struct simfs *image = simfs_crash(fs, SIMFS_MIN, 1);
        simfs_free(fs);
        fs = image;
    }
    struct room room;
    cr_assert_eq(room_enter(&room, fs, &mem_system), 0);
    cr_assert_eq(room_open(&room), 0);
    registry_numbers_seen(room.registry, UINT64_MAX);
    cr_assert_eq(registry_rewrite(room.registry, NULL, NULL), 0);
    cr_assert_eq(registry_file_number(room.registry, &number, NULL), PLEAT_ERR_INVALID, "used up, not wrapped");
    room_leave(&room);
    simfs_free(fs);
}

/* ---- V4 --------------------------------------------------------------------------------------------------------- */

static bool file_is_there(struct simfs *fs, uint64_t number) {
    char name[TABLE_NAME_BYTES];
    table_name(number, name);
    size_t bytes;
    uint8_t *file = simfs_read_file(fs, "db", name, &bytes);
    free(file);
    return file != NULL;
}

/* One edit: adds table `add` and removes `remove` (0: none), both in level 1 of space 0. */
static int replace_table(struct room *room, uint64_t add, uint64_t remove, unsigned to_level) {
    struct edit edit;
    struct random random = {add};
    edit_init(&edit, &mem_system);
    if (add != 0) {
        struct table_meta meta = meta_in_cell(&random, add, 9, 1);
        cr_assert_eq(edit_add_table(&edit, 0, to_level, &meta, NULL), 0);
        char name[TABLE_NAME_BYTES];
        table_name(add, name);
        simfs_write_file(room->fs, "db", name, "table", 5);
    }
    if (remove != 0) {
        cr_assert_eq(edit_remove_table(&edit, 0, 1, remove, NULL), 0);
    }
    int rc = registry_apply(room->registry, &edit, &room->error);
    edit_fini(&edit);
    return rc;
}

Test(version_disk, a_removed_table_is_dead_with_the_last_version_that_holds_it_and_removed_when_asked) {
    struct room room;
    uint64_t a, b;
    cr_assert_eq(room_enter(&room, simfs_new(1), &mem_system), 0);
    cr_assert_eq(room_create(&room), 0);
    cr_assert_eq(registry_file_number(room.registry, &a, NULL), 0);
    cr_assert_eq(registry_file_number(room.registry, &b, NULL), 0);
    cr_assert_eq(replace_table(&room, a, 0, 1), 0, "%s", room.error.message);
    struct version *old = registry_current(room.registry);
    simfs_fault_add(room.fs, (struct simfs_fault){.calls = SIMFS_FILE_WRITE, .at = 1, .os_errno = ENOSPC});
    cr_assert_eq(replace_table(&room, b, a, 1), PLEAT_ERR_NO_SPACE);
    cr_assert(file_is_there(room.fs, a) && file_is_there(room.fs, b), "a failed edit unlinks nothing");
    cr_assert_eq(replace_table(&room, b, a, 1), 0);
    cr_assert(file_is_there(room.fs, a), "an older version still reads it");
    struct version *shared = registry_current(room.registry);
    cr_assert_not(table_ref_has_dead(room.registry) || table_ref_remove_dead(room.registry));
    version_unref(old);
    cr_assert(table_ref_has_dead(room.registry) && file_is_there(room.fs, a), "not by whoever was the last to read it");
    cr_assert(table_ref_remove_dead(room.registry));
    cr_assert(!file_is_there(room.fs, a) && file_is_there(room.fs, b));
    cr_assert_not(table_ref_has_dead(room.registry) || table_ref_remove_dead(room.registry));
    struct edit edit;
    edit_init(&edit, &mem_system);
    edit.clear_space = true;
    cr_assert_eq(registry_apply(room.registry, &edit, NULL), 0);
    edit_fini(&edit);
    cr_assert(file_is_there(room.fs, b));
    version_unref(shared);
    cr_assert(table_ref_has_dead(room.registry) && file_is_there(room.fs, b));
    room_leave(&room);
    cr_assert(!file_is_there(room.fs, b), "a cleared space's tables go, too, and a registry leaves nothing behind");
    simfs_free(room.fs);
}

static struct {
    const struct vfs *real;
    struct registry *registry;
    unsigned calls, nested;
} removal;

static int unlink_nested(struct vfs_dir *dir, const char *name, struct pleat_error *err) {
    removal.calls++;
    removal.nested += table_ref_remove_dead(removal.registry);
    return removal.real->dir_unlink(dir, name, err);
}

Test(version_disk, files_of_dead_tables_are_removed_one_by_one_and_by_one_at_a_time) {
    struct room room;
    uint64_t numbers[3];
    cr_assert_eq(room_enter(&room, simfs_new(1), &mem_system), 0);
    removal.real = room.options.store.vfs;
    struct vfs vfs = *room.options.store.vfs;
    vfs.dir_unlink = unlink_nested;
    room.options.store.vfs = &vfs;
    cr_assert_eq(room_create(&room), 0);
    removal.registry = room.registry;
    for (unsigned i = 0; i < 3; i++) {
        cr_assert_eq(registry_file_number(room.registry, &numbers[i], NULL), 0);
        cr_assert_eq(replace_table(&room, numbers[i], i > 0 ? numbers[i - 1] : 0, 1), 0, "%s", room.error.message);
    }
    removal.calls = 0;
    for (unsigned left = 2; left > 0; left--) {
        cr_assert_eq(file_is_there(room.fs, numbers[0]) + file_is_there(room.fs, numbers[1]), left);
        cr_assert(table_ref_remove_dead(room.registry));
    }
    cr_assert_not(table_ref_remove_dead(room.registry));
    cr_assert(removal.calls == 2 && removal.nested == 0 && file_is_there(room.fs, numbers[2]));
    room_leave(&room);
    simfs_free(room.fs);
}

Test(version_disk, a_table_whose_removal_is_not_known_to_be_durable_stays) {
    struct room room;
    uint64_t a;
    cr_assert_eq(room_enter(&room, simfs_new(1), &mem_system), 0);
    cr_assert_eq(room_create(&room), 0);
    cr_assert_eq(registry_file_number(room.registry, &a, NULL), 0);
    cr_assert_eq(replace_table(&room, a, 0, 1), 0);
    simfs_fault_add(room.fs, (struct simfs_fault){.calls = SIMFS_FILE_SYNC, .at = 1, .os_errno = EIO});
    cr_assert_eq(replace_table(&room, 0, a, 1), PLEAT_ERR_IO);
    room_shut(&room);
    cr_assert(file_is_there(room.fs, a));
    room_leave(&room);
    simfs_free(room.fs);
}

static uint64_t versions_seen;
static void count_version(void *context, struct version *version) {
    uint64_t *last = context;
    cr_assert_gt(version->number, *last, "versions come in order");
    *last = version->number;
    versions_seen++;
}

Test(version_disk, a_moved_table_keeps_its_reference_and_trees_not_touched_are_shared) {
    struct room room;
    uint64_t a, last = 0;
    cr_assert_eq(room_enter(&room, simfs_new(1), &mem_system), 0);
    room.options.on_version = count_version;
    room.options.context = &last;
    cr_assert_eq(room_create(&room), 0);
    struct edit edit;
    edit_init(&edit, &mem_system);
    edit.has_space = true;
    edit.space = space_named(registry_next_space(room.registry), "other");
    cr_assert_eq(registry_apply(room.registry, &edit, NULL), 0);
    edit_fini(&edit);
    cr_assert_eq(registry_file_number(room.registry, &a, NULL), 0);
    cr_assert_eq(replace_table(&room, a, 0, 1), 0);
    struct version *before = registry_current(room.registry);
    struct table_ref *ref = before->trees[0]->levels[1].tables[0];
    edit_init(&edit, &mem_system);
    struct table_meta meta;
    cr_assert_eq(table_meta_copy(&mem_system, &ref->meta, &meta), 0);
    cr_assert_eq(edit_remove_table(&edit, 0, 1, a, NULL), 0);
    cr_assert_eq(edit_add_table(&edit, 0, 4, &meta, NULL), 0);
    cr_assert_eq(registry_apply(room.registry, &edit, &room.error), 0, "%s", room.error.message);
    edit_fini(&edit);
    struct version *after = registry_current(room.registry);
    cr_assert_eq(after->trees[0]->levels[1].count, 0);
    cr_assert_eq(after->trees[0]->levels[4].tables[0], ref);
    cr_assert_eq(after->trees[1], before->trees[1]);
    cr_assert_eq(last, after->number);
    version_unref(before);
    version_unref(after);
    cr_assert(file_is_there(room.fs, a), "a move unlinks nothing");
    cr_assert_eq(versions_seen, 4);
    room_leave(&room);
    simfs_free(room.fs);
}

/* ---- memory ----------------------------------------------------------------------------------------------------- */

Test(version_disk, every_failed_allocation_is_an_error_that_changes_nothing_and_leaks_nothing) {
    struct random random = random_begin("version_disk/failmem");
    uint64_t seed = random_next(&random);
    for (int for_ever = 0; for_ever < 2; for_ever++) {
        bool is_over = false;
        for (uint64_t at = 1; !is_over; at++) {
            static struct model model, before;
            struct failmem fail;
            struct room room;
            failmem_init(&fail);
            fail.fail_for_ever = for_ever != 0;
            struct random steps = {seed};
            cr_assert_eq(room_enter(&room, simfs_new(1), &fail.mem), 0);
            room.options.rewrite_bytes_min = 600;
            fail.fail_at = at;
            int rc = room_create(&room);
            if (rc == 0) {
                model_init(&model);
                for (int step = 0; rc == 0 && step < 5; step++) {
                    before = model;
                    rc = room_step(&room, &steps, &model);
                }
                if (rc != 0) {
                    cr_assert_eq(registry_digest(room.registry), model_digest(&before));
                    cr_assert_eq(registry_health(room.registry, NULL), 0, "no memory is not poison");
                }
                room_shut(&room);
            }
            cr_assert(rc == 0 || rc == PLEAT_ERR_NO_MEMORY, "allocation %d: %d %s", (int)at, rc, room.error.message);
            uint64_t applied = rc == 0 ? model_digest(&model) : 0;
            if (rc == 0) {
                rc = room_open(&room);
                cr_assert(rc == 0 || rc == PLEAT_ERR_NO_MEMORY, "%s", room.error.message);
            }
            if (rc == 0 && registry_rewrite(room.registry, NULL, &room.error) == 0) {
                cr_assert_eq(registry_digest(room.registry), applied);
                is_over = fail.calls < at;
            }
            room_leave(&room);
            cr_assert_eq(fail.live, 0, "allocation %d leaks", (int)at);
            simfs_free(room.fs);
        }
    }
}

/* ---- dump ------------------------------------------------------------------------------------------------------- */

struct dumped {
    uint64_t next;
    int frames;
    bool has_table;
};

static int dump_take(void *context, uint64_t offset, uint64_t bytes, const char *text) {
    struct dumped *dumped = context;
    cr_assert_eq(offset, dumped->next, "frames follow each other");
    dumped->next = offset + bytes;
    dumped->frames++;
    dumped->has_table = dumped->has_table || strstr(text, "add table 1 to space 0 level 1") != NULL;
    return dumped->frames == 99 ? 7 : 0;
}

Test(version_disk, a_dump_shows_every_frame_and_stops_when_told) {
    struct room room;
    uint64_t a;
    cr_assert_eq(room_enter(&room, simfs_new(1), &mem_system), 0);
    cr_assert_eq(room_create(&room), 0);
    cr_assert_eq(registry_file_number(room.registry, &a, NULL), 0);
    cr_assert_eq(replace_table(&room, a, 0, 1), 0);
    cr_assert_eq(replace_table(&room, 0, a, 1), 0);
    struct dumped dumped = {.next = MANIFEST_HEADER_BYTES};
    cr_assert_eq(manifest_dump(&room.options.store, dump_take, &dumped, &room.error), 0, "%s", room.error.message);
    struct registry_state state;
    registry_state_read(room.registry, &state);
    cr_assert(dumped.frames == 4 && dumped.has_table && state.edits == 2);
    cr_assert_eq(dumped.next, state.manifest_bytes + MANIFEST_FRAME_BYTES, "the seal is the last");
    dumped = (struct dumped){.next = MANIFEST_HEADER_BYTES, .frames = 98};
    cr_assert_eq(manifest_dump(&room.options.store, dump_take, &dumped, NULL), 7);
    room_leave(&room);
    simfs_free(room.fs);
}
