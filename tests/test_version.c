/* test_version.c - the registry and its manifest, versions, level_find, level_overlaps, level sources. */
#include "support/failmem.h"
#include "support/version_room.h"
#include "version/edit_codec.h"
#include "version/manifest.h"
#include "version/version_internal.h"

/* ---- what is applied is there after reopening ------------------------------------------------------------------- */

Test(version, a_new_store_holds_one_empty_space_and_reopens_equal) {
    struct room room;
    struct model model;
    cr_assert_eq(room_enter(&room, simfs_new(1), &mem_system), 0);
    cr_assert_eq(room_open(&room), PLEAT_ERR_NOT_FOUND);
    cr_assert_eq(room_create(&room), 0, "%s", room.error.message);
    model_init(&model);
    uint64_t digest = registry_digest(room.registry);
    cr_assert_eq(digest, model_digest(&model));
    struct registry *second = NULL;
    struct space_info space = space_named(0, "default");
    cr_assert_eq(registry_create(&room.options, &space, &second, NULL), PLEAT_ERR_EXISTS);
    uint8_t store_id[TABLE_STORE_ID_BYTES];
    memcpy(store_id, registry_store(room.registry)->store_id, sizeof store_id);
    room_reopen(&room);
    cr_assert_eq(registry_digest(room.registry), digest);
    cr_assert_eq(memcmp(store_id, registry_store(room.registry)->store_id, sizeof store_id), 0);
    room_leave(&room);
    simfs_free(room.fs);
}

Test(version, random_histories_equal_the_model_after_every_reopen) {
    struct random random = random_begin("version/histories");
    for (int round = 0; round < 12; round++) {
        struct room room;
        struct model model;
        cr_assert_eq(room_enter(&room, simfs_new(random_next(&random)), &mem_system), 0);
        room.options.rewrite_bytes_min = (uint64_t)1 << (8 + random_below(&random, 12));
        cr_assert_eq(room_create(&room), 0);
        model_init(&model);
        uint64_t reopen_each = 1 + random_below(&random, 12);
        for (uint64_t step = 1; step <= 60; step++) {
            cr_assert_eq(room_step(&room, &random, &model), 0, "round %d step %d: %s", round, (int)step,
                         room.error.message);
            cr_assert_eq(registry_digest(room.registry), model_digest(&model), "round %d step %d", round, (int)step);
            if (step % reopen_each == 0) {
                room_shut(&room);
                cr_assert_eq(room_open(&room), 0, "%s", room.error.message);
                cr_assert_eq(registry_digest(room.registry), model_digest(&model));
                cr_assert_eq(registry_rewrite(room.registry, NULL, NULL), 0);
                cr_assert_eq(registry_digest(room.registry), model_digest(&model));
            }
            for (size_t i = 0; i < model.table_count; i++) {
                cr_assert(registry_has_table(room.registry, model.tables[i].number));
            }
            cr_assert_not(registry_has_table(room.registry, UINT64_MAX));
        }
        room_leave(&room);
        simfs_free(room.fs);
    }
}

Test(version, cursors_of_every_size_survive_and_an_empty_one_differs_from_none) {
    struct room room;
    struct edit edit;
    uint8_t most[LIMIT_CURSOR_BYTES];
    memset(most, 0xfe, sizeof most);
    cr_assert_eq(room_enter(&room, simfs_new(1), &mem_system), 0);
    cr_assert_eq(room_create(&room), 0);
    edit_init(&edit, &mem_system);
    edit.has_position = true;
    cr_assert_eq(cursor_set_reserve(&edit.cursors, 3, NULL), 0);
    cursor_set_put(&edit.cursors, &(struct wal_cursor){.name = most, .name_bytes = LIMIT_CURSOR_NAME_BYTES,
                                                       .value = most, .value_bytes = LIMIT_CURSOR_BYTES,
                                                       .incarnation = most,
                                                       .incarnation_bytes = LIMIT_INCARNATION_BYTES});
    cursor_set_put(&edit.cursors, &(struct wal_cursor){.name_bytes = 0});
    cr_assert_eq(registry_apply(room.registry, &edit, NULL), 0);
    edit_fini(&edit);
    room_reopen(&room);
    struct cursor_set cursors;
    cursor_set_init(&cursors, &mem_system);
    cr_assert_eq(registry_cursors(room.registry, &cursors, NULL), 0);
    cr_assert_eq(cursors.count, 2);
    const struct cursor_entry *empty = cursor_set_find(&cursors, "", 0);
    cr_assert(empty != NULL && empty->value_bytes == 0);
    const struct cursor_entry *full = cursor_set_find(&cursors, most, LIMIT_CURSOR_NAME_BYTES);
    cr_assert(full != NULL && full->value_bytes == LIMIT_CURSOR_BYTES &&
              memcmp(full->value, most, sizeof most) == 0 && full->incarnation_bytes == LIMIT_INCARNATION_BYTES);
    cr_assert_null(cursor_set_find(&cursors, "x", 1));
    cursor_set_fini(&cursors);
    room_leave(&room);
    simfs_free(room.fs);
}

Test(version, as_many_cursors_as_allowed_survive_and_one_more_is_refused) {
    struct room room;
    struct edit edit;
    cr_assert_eq(room_enter(&room, simfs_new(1), &mem_system), 0);
    cr_assert_eq(room_create(&room), 0);
    edit_init(&edit, &mem_system);
    edit.has_position = true;
    cr_assert_eq(cursor_set_reserve(&edit.cursors, LIMIT_CURSORS + 1, NULL), 0);
    for (uint32_t i = 0; i <= LIMIT_CURSORS; i++) {
        uint32_t name = hash_mix(i, 0) & 0xffffff;
        cursor_set_put(&edit.cursors, &(struct wal_cursor){.name = (uint8_t *)&name, .name_bytes = 3});
    }
    cr_assert_eq(edit.cursors.count, LIMIT_CURSORS + 1);
    cr_assert_eq(registry_apply(room.registry, &edit, NULL), PLEAT_ERR_INVALID);
    edit.cursors.count--;
    cr_assert_eq(registry_apply(room.registry, &edit, NULL), 0);
    edit_fini(&edit);
    uint64_t digest = registry_digest(room.registry);
    room_reopen(&room);
    cr_assert_eq(registry_digest(room.registry), digest);
    room_leave(&room);
    simfs_free(room.fs);
}

Test(version, a_read_only_registry_shows_everything_and_changes_nothing) {
    struct random random = random_begin("version/read_only");
    struct room room;
    struct model model;
    cr_assert_eq(room_enter(&room, simfs_new(1), &mem_system), 0);
    cr_assert_eq(room_create(&room), 0);
    model_init(&model);
    for (int i = 0; i < 5; i++) {
        cr_assert_eq(room_step(&room, &random, &model), 0);
    }
    room_shut(&room);
    uint64_t disk = simfs_hash(room.fs), operations = simfs_operations(room.fs), number;
    room.options.read_only = true;
    cr_assert_eq(room_open(&room), 0);
    cr_assert_eq(registry_digest(room.registry), model_digest(&model));
    struct edit edit;
    edit_init(&edit, &mem_system);
    cr_assert_eq(registry_apply(room.registry, &edit, NULL), PLEAT_ERR_READ_ONLY);
    cr_assert_eq(registry_rewrite(room.registry, NULL, NULL), PLEAT_ERR_READ_ONLY);
    cr_assert_eq(registry_file_number(room.registry, &number, NULL), PLEAT_ERR_READ_ONLY);
    room_leave(&room);
    cr_assert(simfs_hash(room.fs) == disk && simfs_operations(room.fs) == operations);
    simfs_free(room.fs);
}

/* ---- refusals --------------------------------------------------------------------------------------------------- */

static struct table_meta meta_simple(uint64_t number, char smallest, char largest) {
    struct table_meta meta = {.number = number, .file_bytes = 100, .entries = 9, .blocks = 1, .smallest_bytes = 1,
                              .largest_bytes = 1, .key_bytes_max = 1, .codec = PLEAT_CODEC_LZ4,
                              .sequence_max = number};
    meta.smallest = mem_copy(&mem_system, &smallest, 1);
    meta.largest = mem_copy(&mem_system, &largest, 1);
    return meta;
}

static void edit_add(struct edit *edit, uint32_t space, unsigned level, uint64_t number, char smallest, char largest) {
    struct table_meta meta = meta_simple(number, smallest, largest);
    cr_assert_eq(edit_add_table(edit, space, level, &meta, NULL), 0);
}

/* Edits that do not fit a store with tables 1 (level 1, c..f) and 2 (level 0) in space 0 and an empty space 7 "x". */
static void edit_unfit(struct edit *edit, unsigned which) {
    switch (which) {
    case 0: edit_add(edit, 0, 1, 3, 'f', 'g'); break;                                     /* overlaps table 1 */
    case 1: edit_add(edit, 0, 1, 3, 'a', 'b'), edit_add(edit, 0, 1, 3, 'x', 'y'); break;  /* one number twice */
    case 2: edit_add(edit, 0, 2, 1, 'c', 'f'); break;                                     /* there already */
    case 3: edit_add(edit, 7, 2, 1, 'c', 'f'); break;                                     /* there, in another space */
    case 4: edit_add(edit, 9, 1, 3, 'a', 'b'); break;                                     /* no such space */
    case 5: edit_add(edit, 0, 1, 100000, 'a', 'b'); break;                                /* number never handed out */
    case 6: edit_add(edit, 0, 1, 3, 'b', 'a'); break;                                     /* upside down */
    case 7: edit_add(edit, 0, 1, 0, 'a', 'b'); break;                                     /* number 0 */
    case 8: edit_remove_table(edit, 0, 1, 5, NULL); break;                                /* not there */
    case 9: edit_remove_table(edit, 0, 2, 1, NULL); break;                                /* in another level */
    case 10: edit_remove_table(edit, 7, 1, 1, NULL); break;                               /* in another space */
    case 11: edit_remove_table(edit, 0, 1, 1, NULL), edit_remove_table(edit, 0, 1, 1, NULL); break;
    case 12: edit->drop_space = true, edit->dropped_space = 3; break;
    case 13: edit->clear_space = true, edit->dropped_space = 3; break;
    case 14: edit->has_space = true, edit->space = space_named(7, "y"); break;            /* an id again */
    case 15: edit->has_space = true, edit->space = space_named(8, "x"); break;            /* a name again */
    case 16: edit->has_space = true, edit->space = space_named(8, ""); break;             /* no name */
    case 17: edit->has_space = true, edit->space = space_named(UINT32_MAX, "z"); break;
    case 18: edit->has_position = true, edit->last_sequence = 4; break;                   /* backwards */
    case 19: edit->has_position = true, edit->last_sequence = 5, edit->log_floor = 1; break;
    case 20: edit_remove_table(edit, 0, 1, 1, NULL), edit_add(edit, 0, 2, 1, 'c', 'g'); break; /* not the same table */
    case 21: edit_remove_table(edit, 0, 1, 1, NULL), edit_add(edit, 7, 2, 1, 'c', 'f'); break; /* over spaces */
    case 22: edit->drop_space = true, edit->dropped_space = 7, edit_add(edit, 7, 1, 3, 'a', 'b'); break;
    case 23: edit->drop_space = edit->clear_space = true, edit->dropped_space = 7; break;
    case 24: edit_add(edit, 0, 0, 3, 'a', 'b'), edit_add(edit, 0, 0, 4, 'a', 'b'),
             edit->added[0].meta.sequence_max = 4; break;                                 /* one run, overlapping */
    case 25: edit_add(edit, 0, 1, 3, 'a', 'b'), edit->added[0].meta.tombstones = 10; break;
    case 26: edit_add(edit, 0, 1, 3, 'a', 'b'), edit->added[0].meta.codec = 3; break;
    case 27: edit_add(edit, 0, 1, 3, 'a', 'b'), edit->added[0].meta.sequence_min = 4; break;
    default: edit_add(edit, 0, 1, 3, 'a', 'b'), edit->added[0].meta.key_bytes_max = 0; break;
    }
}
#define UNFIT_EDITS 29

static void room_prepare(struct room *room) {
    struct edit edit;
    uint64_t number;
    cr_assert_eq(room_enter(room, simfs_new(1), &mem_system), 0);
    cr_assert_eq(room_create(room), 0);
    for (unsigned i = 0; i < 4; i++) {
        cr_assert_eq(registry_file_number(room->registry, &number, NULL), 0);
    }
    edit_init(&edit, &mem_system);
    edit_add(&edit, 0, 1, 1, 'c', 'f');
    edit_add(&edit, 0, 0, 2, 'a', 'z');
    edit.has_space = true;
    edit.space = space_named(7, "x");
    edit.has_position = true;
    edit.last_sequence = 5;
    edit.log_floor = 2;
    cr_assert_eq(registry_apply(room->registry, &edit, &room->error), 0, "%s", room->error.message);
    edit_fini(&edit);
}

Test(version, an_edit_that_does_not_fit_is_refused_and_changes_nothing) {
    struct room room;
    room_prepare(&room);
    uint64_t digest = registry_digest(room.registry), disk = simfs_hash(room.fs);
    for (unsigned which = 0; which < UNFIT_EDITS; which++) {
        struct edit edit;
        edit_init(&edit, &mem_system);
        edit_unfit(&edit, which);
        cr_assert_eq(registry_apply(room.registry, &edit, NULL), PLEAT_ERR_INVALID, "edit %u", which);
        cr_assert(registry_digest(room.registry) == digest && simfs_hash(room.fs) == disk, "edit %u", which);
        edit_fini(&edit);
    }
    cr_assert_eq(registry_health(room.registry, NULL), 0);
    room_leave(&room);
    simfs_free(room.fs);
}

/* Appends a payload to the manifest behind the registry's back, as a valid frame. */
static void room_append(struct room *room, const uint8_t *payload, size_t bytes) {
    size_t file_bytes;
    uint8_t *file = simfs_read_file(room->fs, "db", MANIFEST_NAME, &file_bytes);
    struct manifest_reader reader = {0};
    struct table_store store = room->options.store;
    const uint8_t *frame;
    size_t frame_bytes;
    uint64_t offset;
    cr_assert_eq(manifest_reader_open(&store, &reader, NULL), 0);
    while (manifest_reader_next(&reader, &frame, &frame_bytes, &offset, NULL) == 0) {
    }
    uint8_t *grown = malloc(file_bytes + MANIFEST_FRAME_BYTES + bytes + 1);
    memcpy(grown, file, file_bytes);
    store_u32(grown + file_bytes, (uint32_t)bytes);
    store_u32(grown + file_bytes + 4, reader.index);
    store_u64(grown + file_bytes + 8, hash_bytes(payload, bytes, hash_mix(hash_mix(reader.seed, reader.index), bytes)));
    if (bytes > 0) {
        memcpy(grown + file_bytes + MANIFEST_FRAME_BYTES, payload, bytes);
    }
    simfs_write_file(room->fs, "db", MANIFEST_NAME, grown, file_bytes + MANIFEST_FRAME_BYTES + bytes);
    manifest_reader_close(&reader);
    free(grown);
    free(file);
}

Test(version, replay_refuses_whatever_apply_refuses) {
    for (unsigned which = 0; which < UNFIT_EDITS; which++) {
        struct room room;
        struct edit edit;
        struct edit_encoder encoder;
        room_prepare(&room);
        room_shut(&room);
        edit_init(&edit, &mem_system);
        edit_unfit(&edit, which);
        edit_encoder_init(&encoder, &mem_system);
        edit_encode(&encoder, &edit);
        room_append(&room, encoder.bytes, encoder.used);
        int rc = room_open(&room);
        /* A table that changes in a move is a different file with an old name: only apply can see that. */
        if (which != 20) {
            cr_assert_eq(rc, PLEAT_ERR_CORRUPT, "edit %u: %d", which, rc);
            cr_assert_not_null(strstr(room.error.message, "MANIFEST: damaged at offset"), "%s", room.error.message);
        }
        edit_encoder_fini(&encoder);
        edit_fini(&edit);
        room_leave(&room);
        simfs_free(room.fs);
    }
}

Test(version, unknown_fields_are_refused_as_newer_unless_they_may_be_ignored) {
    static const struct {
        uint8_t bytes[24];
        size_t count;
        int status;
    } rows[] = {
        {{0}, 0, 0},                                  /* an empty edit */
        {{26, 2, 7, 7}, 4, PLEAT_ERR_NEWER},          /* even: must be known */
        {{0, 0}, 2, PLEAT_ERR_NEWER},
        {{25, 2, 7, 7}, 4, 0},                        /* odd: may be lost */
        {{7, 3, 7, 7}, 4, PLEAT_ERR_CORRUPT},         /* longer than the payload */
        {{12, 1, 1}, 3, 0},                           /* clean */
        {{12, 1, 2}, 3, PLEAT_ERR_CORRUPT},           /* out of range */
        {{12, 2, 1, 0}, 4, PLEAT_ERR_CORRUPT},        /* a byte too many */
        {{12, 0}, 2, PLEAT_ERR_CORRUPT},              /* a byte too few */
        {{12}, 1, PLEAT_ERR_CORRUPT},
        {{8, 3, 0, 0, 0}, 5, PLEAT_ERR_CORRUPT},      /* a cursor without a position */
        {{6, 3, 5, 2, 1}, 5, PLEAT_ERR_CORRUPT},      /* a position without its cursor */
        {{6, 3, 5, 2, 2, 8, 4, 1, 'a', 0, 0, 8, 4, 1, 'b', 0, 0}, 17, 0},
        {{6, 3, 5, 2, 2, 8, 4, 1, 'b', 0, 0, 8, 4, 1, 'a', 0, 0}, 17, PLEAT_ERR_CORRUPT},
        {{6, 3, 5, 2, 2, 8, 4, 1, 'a', 0, 0, 8, 4, 1, 'a', 0, 0}, 17, PLEAT_ERR_CORRUPT}, /* twice */
        {{2, 1, 1}, 3, PLEAT_ERR_CORRUPT},            /* a bound that goes down */
        {{0x80, 0x80, 0x80, 0x80}, 4, PLEAT_ERR_CORRUPT},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct room room;
        room_prepare(&room);
        room_shut(&room);
        room_append(&room, rows[i].bytes, rows[i].count);
        cr_assert_eq(room_open(&room), rows[i].status, "row %zu: %s", i, room.error.message);
        room_leave(&room);
        simfs_free(room.fs);
    }
}

Test(version, a_newer_format_is_refused_as_newer) {
    struct room room;
    size_t bytes;
    room_prepare(&room);
    room_shut(&room);
    uint8_t *file = simfs_read_file(room.fs, "db", MANIFEST_NAME, &bytes);
    store_u32(file + 8, MANIFEST_FORMAT + 1);
    store_u64(file + 48, hash_bytes(file, 48, 0));
    simfs_write_file(room.fs, "db", MANIFEST_NAME, file, bytes);
    cr_assert_eq(room_open(&room), PLEAT_ERR_NEWER);
    free(file);
    room_leave(&room);
    simfs_free(room.fs);
}

/* ---- damage ----------------------------------------------------------------------------------------------------- */

#define HISTORY_STEPS 6

/* A store after some edits, the digest after each, and where each frame ended. LOCK notes nothing: what MANIFEST alone
 * tells is tested here, what LOCK adds in test_version_disk.c. */
struct past {
    struct room room;
    uint64_t digests[HISTORY_STEPS + 1];
    uint64_t ends[HISTORY_STEPS + 1];
    uint8_t *file;
    size_t bytes;
};

static void past_make(struct past *past, struct random *random) {
    struct model model;
    struct registry_state state;
    cr_assert_eq(room_enter(&past->room, simfs_new(1), &mem_system), 0);
    past->room.options.lock = NULL;
    cr_assert_eq(room_create(&past->room), 0);
    model_init(&model);
    for (size_t i = 0; i <= HISTORY_STEPS; i++) {
        if (i > 0) {
            struct edit edit;
            edit_init(&edit, &mem_system);
            uint64_t number;
            cr_assert_eq(registry_file_number(past->room.registry, &number, NULL), 0);
            edit_add(&edit, 0, (unsigned)i % 3, number, (char)('a' + 2 * i), (char)('b' + 2 * i));
            edit.has_position = true;
            edit.last_sequence = i;
            cr_assert_eq(cursor_set_reserve(&edit.cursors, 1, NULL), 0);
            uint8_t value[3];
            memset(value, (int)random_next(random), sizeof value);
            cursor_set_put(&edit.cursors, &(struct wal_cursor){.value = value, .value_bytes = 3});
            cr_assert_eq(registry_apply(past->room.registry, &edit, NULL), 0);
            edit_fini(&edit);
        }
        past->digests[i] = registry_digest(past->room.registry);
        registry_state_read(past->room.registry, &state);
        past->ends[i] = state.manifest_bytes;
        cr_assert_eq(state.edits, i);
    }
    room_shut(&past->room);
    past->file = simfs_read_file(past->room.fs, "db", MANIFEST_NAME, &past->bytes);
    cr_assert_eq(past->bytes, past->ends[HISTORY_STEPS] + MANIFEST_FRAME_BYTES, "a seal ends it");
}

static void past_fini(struct past *past) {
    free(past->file);
    room_leave(&past->room);
    simfs_free(past->room.fs);
}

Test(version, a_cut_manifest_shows_the_edits_before_the_cut_or_is_damaged) {
    struct random random = random_begin("version/cut");
    struct past past;
    past_make(&past, &random);
    for (size_t cut = 0; cut < past.bytes; cut++) {
        simfs_write_file(past.room.fs, "db", MANIFEST_NAME, past.file, cut);
        int rc = room_open(&past.room);
        if (cut < past.ends[0]) {
            cr_assert_eq(rc, PLEAT_ERR_CORRUPT, "the state itself is cut at %zu", cut);
            continue;
        }
        size_t whole = 0;
        while (whole < HISTORY_STEPS && past.ends[whole + 1] <= cut) {
            whole++;
        }
        cr_assert_eq(rc, 0, "cut at %zu: %s", cut, past.room.error.message);
        cr_assert_eq(registry_digest(past.room.registry), past.digests[whole], "cut at %zu", cut);
        room_shut(&past.room);
    }
    past_fini(&past);
}

Test(version, a_flipped_bit_is_damage_but_in_the_seal_which_says_nothing_then) {
    struct random random = random_begin("version/flip");
    struct past past;
    past_make(&past, &random);
    for (size_t i = 0; i < past.bytes; i++) {
        uint8_t mask = (uint8_t)(1u << random_below(&random, 8));
        past.file[i] ^= mask;
        simfs_write_file(past.room.fs, "db", MANIFEST_NAME, past.file, past.bytes);
        past.file[i] ^= mask;
        int rc = room_open(&past.room);
        if (i < past.ends[HISTORY_STEPS]) {
            cr_assert_eq(rc, PLEAT_ERR_CORRUPT, "byte %zu", i);
            cr_assert_not_null(strstr(past.room.error.message, "MANIFEST: damaged at offset"));
        } else {
            cr_assert_eq(rc, 0, "byte %zu: %s", i, past.room.error.message);
            cr_assert_eq(registry_digest(past.room.registry), past.digests[HISTORY_STEPS]);
            room_shut(&past.room);
        }
    }
    past_fini(&past);
}

Test(version, a_hole_over_several_frames_is_damage_when_any_frame_follows) {
    struct random random = random_begin("version/hole");
    struct past past;
    past_make(&past, &random);
    for (size_t from = 0; from < HISTORY_STEPS; from++) {
        for (size_t to = from + 1; to <= HISTORY_STEPS + 1; to++) { /* the last: with the seal */
            size_t end = to <= HISTORY_STEPS ? past.ends[to] : past.bytes;
            for (int fill = 0; fill < 2; fill++) {
                uint8_t *file = malloc(past.bytes);
                memcpy(file, past.file, past.bytes);
                for (size_t i = past.ends[from]; i < end; i++) {
                    file[i] = fill == 0 ? 0 : (uint8_t)random_next(&random);
                }
                simfs_write_file(past.room.fs, "db", MANIFEST_NAME, file, past.bytes);
                free(file);
                int rc = room_open(&past.room);
                cr_assert_eq(rc, to <= HISTORY_STEPS ? PLEAT_ERR_CORRUPT : 0, "frames %zu to %zu", from, to);
                if (rc == 0) {
                    cr_assert_eq(registry_digest(past.room.registry), past.digests[from]);
                    room_shut(&past.room);
                }
            }
        }
    }
    past_fini(&past);
}

/* A stale sector may put a frame of another manifest behind ours, at its own place and with its own index. */
Test(version, a_frame_of_another_manifest_never_counts) {
    struct room rooms[2];
    uint8_t *files[2];
    size_t bytes[2], before[2];
    uint64_t digest = 0;
    for (int i = 0; i < 2; i++) {
        struct edit edit;
        cr_assert_eq(room_enter(&rooms[i], simfs_new((uint64_t)i + 1), &mem_system), 0);
        rooms[i].options.lock = NULL;
        cr_assert_eq(room_create(&rooms[i]), 0);
        digest = registry_digest(rooms[i].registry); /* the same for both: it does not know the identity */
        free(simfs_read_file(rooms[i].fs, "db", MANIFEST_NAME, &before[i]));
        edit_init(&edit, &mem_system);
        edit.has_history = true;
        edit.history = 7;
        cr_assert_eq(registry_apply(rooms[i].registry, &edit, &rooms[i].error), 0, "%s", rooms[i].error.message);
        edit_fini(&edit);
        files[i] = simfs_read_file(rooms[i].fs, "db", MANIFEST_NAME, &bytes[i]);
        room_shut(&rooms[i]);
    }
    cr_assert(before[0] == before[1] && bytes[0] == bytes[1], "the manifests are of one shape");
    memcpy(files[0] + before[0], files[1] + before[1], bytes[1] - before[1]);
    simfs_write_file(rooms[0].fs, "db", MANIFEST_NAME, files[0], bytes[0]);
    cr_assert_eq(room_open(&rooms[0]), 0, "%s", rooms[0].error.message);
    cr_assert_eq(registry_digest(rooms[0].registry), digest, "the other store's edit shows");
    for (int i = 0; i < 2; i++) {
        free(files[i]);
        room_leave(&rooms[i]);
        simfs_free(rooms[i].fs);
    }
}

Test(version, random_bytes_in_valid_frames_never_open_as_a_broken_state) {
    struct random random = random_begin("version/hostile");
    struct room room;
    struct model model;
    cr_assert_eq(room_enter(&room, simfs_new(1), &mem_system), 0);
    cr_assert_eq(room_create(&room), 0);
    model_init(&model);
    for (int i = 0; i < 8; i++) {
        cr_assert_eq(room_step(&room, &random, &model), 0);
    }
    cr_assert_eq(registry_rewrite(room.registry, NULL, NULL), 0);
    struct version *version = registry_current(room.registry);
    struct facts facts = {.history = 1, .last_sequence = 1u << 30, .log_floor = 1u << 20, .number_bound = 5000,
                          .space_bound = 100};
    struct edit_encoder encoder;
    struct cursor_set none;
    cursor_set_init(&none, &mem_system);
    edit_encoder_init(&encoder, &mem_system);
    edit_encode_state(&encoder, version, &facts, &none);
    version_unref(version);
    room_shut(&room);
    struct manifest manifest = {.store = &room.options.store};
    int opened = 0;
    for (int round = 0; round < 3000; round++) {
        uint8_t *payload = malloc(encoder.used + 1);
        size_t bytes = round % 4 == 0 ? random_below(&random, encoder.used) : encoder.used;
        memcpy(payload, encoder.bytes, bytes);
        for (uint64_t n = random_below(&random, 4); n > 0 && bytes > 0; n--) {
            payload[random_below(&random, bytes < 400 || n % 2 == 0 ? bytes : 400)] = (uint8_t)random_next(&random);
        }
        enum manifest_outcome outcome;
        cr_assert_eq(manifest_replace(&manifest, payload, bytes, &outcome, NULL), 0);
        free(payload);
        int rc = room_open(&room);
        cr_assert(rc == 0 || rc == PLEAT_ERR_CORRUPT || rc == PLEAT_ERR_NEWER, "%s", room.error.message);
        if (rc == 0) {
            opened++;
            version = registry_current(room.registry);
            version_unref(version);
            room_shut(&room);
        }
    }
    cr_assert_gt(opened, 0, "not one file was accepted: the test shows nothing");
    manifest_close(&manifest);
    edit_encoder_fini(&encoder);
    room_leave(&room);
    simfs_free(room.fs);
}

/* What looks like headers of later frames, as keys may: it costs a bounded search, and is no proof of damage. A seal at
 * the end of it all is. */
Test(version, a_tail_of_false_frame_headers_is_passed_over_in_bounded_time_and_a_seal_behind_it_is_found) {
    struct random random = random_begin("version/decoys");
    struct past past;
    past_make(&past, &random);
    size_t bytes = 1 << 20;
    uint8_t *file = calloc(bytes, 1);
    memcpy(file, past.file, past.bytes);
    for (size_t i = past.bytes; i + 8 <= bytes; i += 8) {
        store_u32(file + i, (uint32_t)(bytes - i - MANIFEST_FRAME_BYTES));
        store_u32(file + i + 4, HISTORY_STEPS + 3); /* behind the seal and what could have been torn */
    }
    simfs_write_file(past.room.fs, "db", MANIFEST_NAME, file, bytes);
    cr_assert_eq(room_open(&past.room), 0, "%s", past.room.error.message);
    cr_assert_eq(registry_digest(past.room.registry), past.digests[HISTORY_STEPS]);
    room_shut(&past.room);
    /* The last frame is damaged, and its seal lies behind the false headers: the budget is used up before it. */
    size_t seal = past.bytes - MANIFEST_FRAME_BYTES;
    memcpy(file + bytes - MANIFEST_FRAME_BYTES, file + seal, MANIFEST_FRAME_BYTES);
    memset(file + past.ends[HISTORY_STEPS - 1] + 8, 0x5a, past.bytes - past.ends[HISTORY_STEPS - 1] - 8);
    simfs_write_file(past.room.fs, "db", MANIFEST_NAME, file, bytes);
    free(file);
    cr_assert_eq(room_open(&past.room), PLEAT_ERR_CORRUPT);
    past_fini(&past);
}
