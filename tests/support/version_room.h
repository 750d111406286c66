/*
 * version_room.h - what the tests of the registry share: a simulated disk with a registry on it, a model of what a
 * registry holds, random edits that both take, and one digest in which they are compared.
 *
 * The model knows nothing of versions, levels or encodings: flat arrays of spaces, tables and cursors. Tables of the
 * random edits lie in cells (the first byte of their keys), so that sorted levels stay disjoint.
 */
#ifndef PLEAT_TESTS_VERSION_ROOM_H
#define PLEAT_TESTS_VERSION_ROOM_H

#include "base/bytes.h"
#include "base/error.h"
#include "base/hash.h"
#include "support/random.h"
#include "support/simfs.h"
#include "version/version.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>

/* ---- the disk --------------------------------------------------------------------------------------------------- */

struct room {
    struct simfs *fs;
    struct vfs_dir *dir;
    struct registry_options options;
    struct registry *registry;
    struct pleat_error error;
    bool has_room; /* the directory could be opened */
    struct vfs_lock *lock;
};

static inline int room_enter(struct room *room, struct simfs *fs, const struct mem *mem) {
    const struct vfs *vfs = simfs_vfs(fs);
    *room = (struct room){.fs = fs};
    int rc = vfs->dir_open(vfs, &mem_system, "db", VFS_DIR_CREATE, 0700, &room->dir, &room->error);
    room->has_room = rc == 0;
    if (rc == 0) {
        rc = vfs->dir_lock(room->dir, "LOCK", false, 0600, &room->lock, NULL, &room->error);
    }
    room->options = (struct registry_options){
        .store = {.vfs = vfs, .dir = room->dir, .mem = mem, .file_mode = 0600},
        .lock = room->lock,
        .rewrite_bytes_min = 1 << 20,
        .table_files_max = 2,
    };
    return rc;
}

static inline struct space_info space_named(uint32_t id, const char *name) {
    struct space_info space = {.id = id, .name_bytes = (uint32_t)strlen(name), .block_bytes = 8192,
                               .codec = PLEAT_CODEC_LZ4};
    memcpy(space.name, name, space.name_bytes);
    return space;
}

static inline int room_create(struct room *room) {
    struct space_info space = space_named(0, "default");
    error_clear(&room->error);
    return registry_create(&room->options, &space, &room->registry, &room->error);
}

static inline int room_open(struct room *room) {
    error_clear(&room->error);
    return registry_open(&room->options, &room->registry, &room->error);
}

static inline void room_shut(struct room *room) {
    registry_free(room->registry);
    room->registry = NULL;
}

static inline void room_leave_disk(struct room *room) {
    simfs_vfs(room->fs)->lock_release(room->lock);
    if (room->has_room) {
        simfs_vfs(room->fs)->dir_close(room->dir);
    }
}

static inline void room_leave(struct room *room) {
    room_shut(room);
    room_leave_disk(room);
    cr_assert_eq(simfs_open_handles(room->fs), 0, "handles are leaked");
    cr_assert_eq(simfs_sync_retries(room->fs), 0, "a failed sync was asked again");
}

static inline void room_reopen(struct room *room) {
    room_shut(room);
    cr_assert_eq(room_open(room), 0, "%s", room->error.message);
    cr_assert_eq(registry_rewrite(room->registry, NULL, &room->error), 0, "%s", room->error.message);
}

/* ---- the model -------------------------------------------------------------------------------------------------- */

#define MODEL_TABLES 400
#define MODEL_SPACES 16
#define MODEL_CURSORS 8

struct model_table {
    uint32_t space;
    uint8_t level;
    uint8_t cell;
    uint64_t number;
    uint64_t meta_hash;
};

struct model {
    uint64_t history, history_sequence, last_sequence, log_floor;
    bool clean;
    struct space_info spaces[MODEL_SPACES];
    size_t space_count;
    struct model_table tables[MODEL_TABLES];
    size_t table_count;
    struct {
        uint8_t name;
        uint64_t hash;
        bool is_set;
    } cursors[MODEL_CURSORS];
};

static inline uint64_t meta_hash(const struct table_meta *meta) {
    const uint64_t values[] = {meta->number, meta->file_bytes, meta->entries, meta->tombstones,
                               meta->key_value_bytes, meta->sequence_min, meta->sequence_max, meta->deadline_min_ms,
                               meta->footer_checksum, meta->blocks, meta->key_bytes_max, meta->codec, meta->filter};
    uint64_t hash = hash_bytes(values, sizeof values, 1);
    hash = hash_bytes(meta->smallest, meta->smallest_bytes, hash);
    return hash_bytes(meta->largest, meta->largest_bytes, hash);
}

static inline uint64_t space_hash(const struct space_info *space) {
    const uint64_t values[] = {space->id, space->block_bytes, space->codec, space->grouping.bytes,
                               space->grouping.delimiters, space->grouping.delimiter};
    return hash_bytes(space->name, space->name_bytes, hash_bytes(values, sizeof values, 2));
}

static inline uint64_t cursor_hash(const struct cursor_entry *entry) {
    uint64_t hash = hash_bytes(entry->name, entry->name_bytes, 3);
    hash = hash_bytes(entry->value, entry->value_bytes, hash + entry->value_bytes);
    return hash_bytes(entry->incarnation, entry->incarnation_bytes, hash);
}

/* Sums of hashes: the order in which things are kept does not matter. */
static inline uint64_t model_digest(const struct model *model) {
    const uint64_t values[] = {model->history, model->history_sequence, model->last_sequence, model->log_floor,
                               model->clean, model->space_count, model->table_count};
    uint64_t digest = hash_bytes(values, sizeof values, 4);
    for (size_t i = 0; i < model->space_count; i++) {
        digest += space_hash(&model->spaces[i]);
    }
    for (size_t i = 0; i < model->table_count; i++) {
        const struct model_table *table = &model->tables[i];
        digest += hash_mix(table->meta_hash, table->space * 8u + table->level);
    }
    for (size_t i = 0; i < MODEL_CURSORS; i++) {
        digest += model->cursors[i].is_set ? model->cursors[i].hash : 0;
    }
    return digest;
}

static inline uint64_t registry_digest(struct registry *registry) {
    struct registry_state state;
    struct cursor_set cursors;
    registry_state_read(registry, &state);
    struct version *version = registry_current(registry);
    cr_assert(version_check(version), "V2, sums, heads");
    cr_assert_eq(version->last_sequence, state.last_sequence);
    cr_assert_eq(version->log_floor, state.log_floor);
    uint64_t sum = 0, tables = 0, spaces = 0;
    for (uint32_t slot = 0; slot < version->slots; slot++) {
        const struct tree *tree = version->trees[slot];
        if (tree == NULL) {
            continue;
        }
        spaces++;
        sum += space_hash(&tree->space);
        for (unsigned level = 0; level < LIMIT_LEVELS; level++) {
            for (size_t i = 0; i < tree->levels[level].count; i++) {
                const struct table_meta *meta = &tree->levels[level].tables[i]->meta;
                sum += hash_mix(meta_hash(meta), tree->space.id * 8u + level);
                tables++;
            }
        }
    }
    version_unref(version);
    cursor_set_init(&cursors, &mem_system);
    cr_assert_eq(registry_cursors(registry, &cursors, NULL), 0);
    for (size_t i = 0; i < cursors.count; i++) {
        sum += cursor_hash(&cursors.entries[i]);
    }
    cursor_set_fini(&cursors);
    const uint64_t values[] = {state.history, state.history_sequence, state.last_sequence, state.log_floor,
                               state.clean, spaces, tables};
    return hash_bytes(values, sizeof values, 4) + sum;
}

static inline void model_init(struct model *model) {
    *model = (struct model){.history = 1, .space_count = 1, .spaces = {space_named(0, "default")}};
}

/* ---- random edits ----------------------------------------------------------------------------------------------- */

static inline struct table_meta meta_in_cell(struct random *random, uint64_t number, uint8_t cell,
                                             uint64_t sequence) {
    bool is_long = random_below(random, 40) == 0;
    uint32_t largest_bytes = is_long ? LIMIT_KEY_BYTES : 1 + (uint32_t)random_below(random, 20);
    struct table_meta meta = {
        .number = number, .file_bytes = 1 + random_next(random) % 100000, .entries = 50, .tombstones = cell % 51u,
        .key_value_bytes = random_next(random) >> 20, .sequence_max = sequence, .footer_checksum = random_next(random),
        .deadline_min_ms = random_below(random, 3), .smallest_bytes = cell == 0 ? 0 : 1,
        .largest_bytes = largest_bytes, .blocks = 3, .key_bytes_max = LIMIT_KEY_BYTES,
        .codec = PLEAT_CODEC_LZ4 + cell % 2, .filter = cell % 3,
    };
    meta.smallest = mem_alloc(&mem_system, 1);
    meta.largest = mem_alloc(&mem_system, largest_bytes);
    meta.smallest[0] = cell;
    for (uint32_t i = 0; i < largest_bytes; i++) {
        meta.largest[i] = (uint8_t)random_next(random);
    }
    meta.largest[0] = cell;
    return meta;
}

static inline bool model_cell_free(const struct model *model, uint32_t space, uint8_t level, uint8_t cell) {
    for (size_t i = 0; i < model->table_count; i++) {
        const struct model_table *table = &model->tables[i];
        if (level > 0 && table->space == space && table->level == level && table->cell == cell) {
            return false;
        }
    }
    return true;
}

static inline void model_remove(struct model *model, size_t i) {
    model->tables[i] = model->tables[--model->table_count];
}

static inline void model_end_space(struct model *model, uint32_t space) {
    for (size_t i = model->table_count; i-- > 0;) {
        if (model->tables[i].space == space) {
            model_remove(model, i);
        }
    }
}

static inline void random_position(struct random *random, struct model *model, struct edit *edit) {
    edit->has_position = true;
    edit->last_sequence = model->last_sequence += random_below(random, 100);
    edit->log_floor = model->log_floor += random_below(random, 3);
    cr_assert_eq(cursor_set_reserve(&edit->cursors, MODEL_CURSORS, NULL), 0);
    for (uint8_t i = 0; i < MODEL_CURSORS; i++) {
        model->cursors[i].is_set = random_below(random, 2) == 0;
        if (model->cursors[i].is_set) {
            uint8_t value[LIMIT_CURSOR_BYTES], name[LIMIT_CURSOR_NAME_BYTES];
            static const uint32_t name_bytes[MODEL_CURSORS] = {0, 1, 2, 3, 4, 5, 6, LIMIT_CURSOR_NAME_BYTES};
            memset(value, (int)random_next(random), sizeof value);
            memset(name, i, sizeof name);
            struct wal_cursor cursor = {
                .name = name, .name_bytes = name_bytes[i], .value = value, .incarnation = value,
                .value_bytes = (uint32_t)random_below(random, 3) * (LIMIT_CURSOR_BYTES / 2),
                .incarnation_bytes = (uint32_t)random_below(random, 2) * LIMIT_INCARNATION_BYTES};
            cursor_set_put(&edit->cursors, &cursor);
            model->cursors[i].hash = cursor_hash(cursor_set_find(&edit->cursors, name, name_bytes[i]));
        }
    }
}

static inline void random_spaces(struct random *random, struct registry *registry, struct model *model,
                                 struct edit *edit) {
    uint64_t what = random_below(random, 12);
    if (what < 2 && model->space_count < MODEL_SPACES) {
        char name[LIMIT_SPACE_NAME_BYTES + 1];
        uint32_t id = registry_next_space(registry);
        memset(name, 'n', sizeof name);
        (void)snprintf(name + (what == 0 ? 0 : LIMIT_SPACE_NAME_BYTES - 10), 11, "%010u", id);
        name[LIMIT_SPACE_NAME_BYTES] = '\0';
        edit->has_space = true;
        edit->space = space_named(id, name);
        edit->space.codec = PLEAT_CODEC_NONE;
        edit->space.grouping = (struct table_grouping){.delimiters = 2, .delimiter = '.'};
        model->spaces[model->space_count++] = edit->space;
    } else if (what == 2 && model->space_count > 1) {
        size_t i = 1 + random_below(random, model->space_count - 1);
        edit->drop_space = true;
        edit->dropped_space = model->spaces[i].id;
        model_end_space(model, edit->dropped_space);
        model->spaces[i] = model->spaces[--model->space_count];
    } else if (what == 3) {
        edit->clear_space = true;
        edit->dropped_space = model->spaces[random_below(random, model->space_count)].id;
        model_end_space(model, edit->dropped_space);
    }
}

/* The meta of a table as the current version has it, copied. */
static inline struct table_meta meta_find(struct registry *registry, const struct model_table *wanted) {
    struct table_meta meta = {0};
    struct version *version = registry_current(registry);
    const struct tree *tree = version->trees[version_slot(version, wanted->space)];
    const struct level *level = &tree->levels[wanted->level];
    for (size_t i = 0; i < level->count; i++) {
        if (level->tables[i]->meta.number == wanted->number) {
            cr_assert_eq(table_meta_copy(&mem_system, &level->tables[i]->meta, &meta), 0);
        }
    }
    version_unref(version);
    cr_assert_eq(meta.number, wanted->number);
    return meta;
}

static inline void random_removals(struct random *random, struct registry *registry, struct model *model,
                                   struct edit *edit) {
    for (uint64_t n = random_below(random, 4); n > 0 && model->table_count > 0; n--) {
        size_t i = random_below(random, model->table_count);
        struct model_table table = model->tables[i];
        bool is_old = table.number != 0; /* an added one is not there yet */
        for (size_t r = 0; r < edit->removed_count; r++) {
            is_old = is_old && edit->removed[r].meta.number != table.number;
        }
        if (!is_old) {
            continue;
        }
        cr_assert_eq(edit_remove_table(edit, table.space, table.level, table.number, NULL), 0);
        uint8_t to = (uint8_t)random_below(random, LIMIT_LEVELS);
        if (random_below(random, 2) == 0 && to > 0 && model_cell_free(model, table.space, to, table.cell)) {
            struct table_meta meta = meta_find(registry, &table);
            cr_assert_eq(edit_add_table(edit, table.space, to, &meta, NULL), 0);
            model->tables[i].level = to;
        } else {
            model_remove(model, i);
        }
    }
}

/* Fills *edit with a random change and the model with what it comes to. Returns 0, or the error of a file number. */
static inline int random_edit(struct random *random, struct registry *registry, struct model *model,
                              struct edit *edit, struct pleat_error *err) {
    uint64_t numbers[4];
    uint64_t adds = random_below(random, 5);
    for (uint64_t i = 0; i < adds; i++) {
        int rc = registry_file_number(registry, &numbers[i], err);
        if (rc < 0) {
            return rc;
        }
    }
    random_spaces(random, registry, model, edit);
    random_removals(random, registry, model, edit);
    for (uint64_t i = 0; i < adds && model->table_count < MODEL_TABLES; i++) {
        uint32_t space = model->spaces[random_below(random, model->space_count)].id;
        uint8_t level = (uint8_t)random_below(random, LIMIT_LEVELS), cell = (uint8_t)random_below(random, 40);
        if (model_cell_free(model, space, level, cell)) {
            struct table_meta meta = meta_in_cell(random, numbers[i], cell, numbers[i]);
            model->tables[model->table_count++] = (struct model_table){space, level, cell, numbers[i],
                                                                       meta_hash(&meta)};
            cr_assert_eq(edit_add_table(edit, space, level, &meta, NULL), 0);
        }
    }
    if (random_below(random, 2) == 0) {
        random_position(random, model, edit);
    }
    if (random_below(random, 8) == 0) {
        edit->has_history = true;
        edit->history = model->history = random_next(random);
        edit->history_sequence = model->history_sequence = random_next(random);
    }
    if (random_below(random, 4) == 0) {
        edit->has_clean = true;
        edit->clean = model->clean = random_below(random, 2) == 0;
    }
    return 0;
}

/* A random edit, applied to both. On an error the model is as it would have been. */
static inline int room_step(struct room *room, struct random *random, struct model *model) {
    struct edit edit;
    edit_init(&edit, &mem_system);
    error_clear(&room->error);
    int rc = random_edit(random, room->registry, model, &edit, &room->error);
    if (rc == 0) {
        rc = registry_apply(room->registry, &edit, &room->error);
    }
    edit_fini(&edit);
    return rc;
}

#endif
