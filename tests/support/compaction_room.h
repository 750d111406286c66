/*
 * compaction_room.h - a store without a front: a registry with one space of tiny tables, and the array that says what
 * it must hold. Runs are flushed from arrays of updates; every check compares gets and scans with the array.
 */
#ifndef PLEAT_TESTS_COMPACTION_ROOM_H
#define PLEAT_TESTS_COMPACTION_ROOM_H

#include "base/bytes.h"
#include "base/error.h"
#include "base/hash.h"
#include "cache/cache.h"
#include "compaction/compact.h"
#include "compaction/merge.h"
#include "support/failmem.h"
#include "support/random.h"
#include "support/simfs.h"
#include "version/version.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROOM_PATH "/room"
#define ROOM_KEYS 600
#define ROOM_VALUE_MAX 40

struct room {
    struct failmem fail;
    struct simfs *fs;
    const struct vfs *vfs;
    struct vfs_dir *dir;
    struct cache *cache;
    struct registry *registry;
    struct compaction_options options;
    uint64_t sequence;
    uint8_t keys[ROOM_KEYS][24];
    size_t key_bytes[ROOM_KEYS];
    uint64_t values[ROOM_KEYS]; /* 0: absent; else what value_make was given */
};

/* ---- updates as a source ---------------------------------------------------------------------------------------- */

struct update {
    unsigned key;
    uint64_t value; /* 0: delete */
};

struct update_source {
    struct source source;
    const struct room *room;
    const struct update *updates; /* ascending keys */
    size_t count;
    size_t at;
    uint8_t value[ROOM_VALUE_MAX];
};

/* The length and every byte of a value follow from its number. */
static inline size_t value_make(uint64_t value, uint8_t *ret_bytes) {
    size_t bytes = 8 + hash_mix(value, 1) % (ROOM_VALUE_MAX - 8);
    for (size_t i = 0; i < bytes; i++) {
        ret_bytes[i] = (uint8_t)hash_mix(value, i); /* nothing for the codec: small tables stay many */
    }
    store_u64(ret_bytes, value);
    return bytes;
}

static inline int update_show(struct update_source *self, size_t at) {
    if (at >= self->count) {
        return PLEAT_END;
    }
    const struct update *update = &self->updates[at];
    self->at = at;
    self->source.entry = (struct entry){
        .key = self->room->keys[update->key],
        .key_bytes = (uint32_t)self->room->key_bytes[update->key],
        .kind = update->value != 0 ? ENTRY_PUT : ENTRY_DELETE,
        .sequence = 1,
    };
    if (update->value != 0) {
        self->source.entry.value = self->value;
        self->source.entry.value_bytes = (uint32_t)value_make(update->value, self->value);
        self->source.entry.has_flag = update->value % 3 == 0;
        self->source.entry.flag = self->source.entry.has_flag ? (uint8_t)update->value : 0;
        self->source.entry.version_bytes = update->value % 5 == 0 ? 8 : 0;
        self->source.entry.version = self->source.entry.version_bytes > 0 ? self->value : NULL;
    }
    return 0;
}

static inline int update_first(struct source *source) {
    return update_show((struct update_source *)source, 0);
}
static inline int update_last(struct source *source) {
    struct update_source *self = (struct update_source *)source;
    return update_show(self, self->count > 0 ? self->count - 1 : 0);
}
static inline int update_next(struct source *source) {
    struct update_source *self = (struct update_source *)source;
    return update_show(self, self->at + 1);
}

static const struct source_ops update_ops = {.first = update_first, .last = update_last, .next = update_next};

/* ---- the room --------------------------------------------------------------------------------------------------- */

static inline void room_keys(struct room *room) {
    static const struct {
        const char *bytes;
        size_t count;
    } odd[] = {{"", 0}, {"\0", 1}, {"\0\0", 2}, {"a", 1}, {"a\0", 2}};
    for (unsigned i = 0; i < ROOM_KEYS; i++) {
        if (i < sizeof odd / sizeof odd[0]) {
            memcpy(room->keys[i], odd[i].bytes, odd[i].count);
            room->key_bytes[i] = odd[i].count;
        } else if (i == ROOM_KEYS - 1) {
            memset(room->keys[i], 0xff, 8);
            room->key_bytes[i] = 8;
        } else {
            room->key_bytes[i] =
                (size_t)snprintf((char *)room->keys[i], sizeof room->keys[i], "svc.%04u.r%02u", i / 12, i % 12);
        }
    }
}

static inline void room_open_registry(struct room *room, bool create) {
    struct registry_options options = {
        .store = {.vfs = room->vfs, .dir = room->dir, .mem = &room->fail.mem, .cache = room->cache, .file_mode = 0600},
        .rewrite_bytes_min = 1 << 16,
        .table_files_max = 3,
    };
    struct space_info space = {.id = 0,
                               .name_bytes = 7,
                               .block_bytes = 256,
                               .codec = PLEAT_CODEC_LZ4,
                               .grouping = {.delimiters = 2, .delimiter = '.'},
                               .name = "default"};
    struct pleat_error err = {0};
    int rc = create ? registry_create(&options, &space, &room->registry, &err)
                    : registry_open(&options, &room->registry, &err);
    cr_assert_eq(rc, 0, "%s", err.message);
    if (!create) {
        cr_assert_eq(registry_rewrite(room->registry, NULL, NULL), 0);
    }
}

static inline void room_init(struct room *room, uint64_t seed) {
    memset(room, 0, sizeof *room);
    failmem_init(&room->fail);
    room->fs = simfs_new(seed);
    room->vfs = simfs_vfs(room->fs);
    room->options = (struct compaction_options){
        .table_bytes = 2048, .level_base_bytes = 6000, .level_ratio = 3, .level0_tables = 4};
    room_keys(room);
    cr_assert_eq(room->vfs->dir_open(room->vfs, &room->fail.mem, ROOM_PATH, VFS_DIR_CREATE, 0700, &room->dir, NULL), 0);
    cr_assert_eq(cache_new(&room->fail.mem, 1 << 20, &room->cache, NULL), 0);
    room_open_registry(room, true);
}

static inline void room_fini(struct room *room) {
    registry_free(room->registry);
    cache_free(room->cache);
    room->vfs->dir_close(room->dir);
    cr_assert_eq(simfs_open_handles(room->fs), 0);
    simfs_free(room->fs);
    cr_assert_eq(room->fail.live, 0, "%lld blocks leaked", (long long)room->fail.live);
}

static inline void room_apply(struct room *room, struct edit *edit) {
    struct pleat_error err = {0};
    cr_assert_eq(room->vfs->dir_sync(room->dir, NULL), 0);
    cr_assert_eq(registry_apply(room->registry, edit, &err), 0, "%s", err.message);
}

/* Flushes `count` updates of distinct ascending keys as one generation; the model follows when it succeeds. */
static inline int room_flush(struct room *room, const struct update *updates, size_t count, bool allow_deep,
                             struct pleat_error *err) {
    struct update_source source = {.source = {.ops = &update_ops}, .room = room, .updates = updates, .count = count};
    struct version *version = registry_current(room->registry);
    struct edit edit;
    edit_init(&edit, &room->fail.mem);
    uint64_t sequence = room->sequence + 1;
    uint64_t bytes = 0;
    int rc = flush_run(room->registry, version, 0, &room->options, &source.source, sequence, sequence + 9, allow_deep,
                       &edit, &bytes, err);
    if (rc == 0) {
        room_apply(room, &edit);
        room->sequence += 10;
        for (size_t i = 0; i < count; i++) {
            room->values[updates[i].key] = updates[i].value;
        }
    } else {
        cr_assert_eq(edit.added_count, 0);
    }
    edit_fini(&edit);
    version_unref(version);
    return rc;
}

static _Atomic uint64_t room_value;

/* Every `step`-th key of [begin, end), deletes in delete_percent of 100. Returns the count. */
static inline size_t room_updates(struct random *random, unsigned begin, unsigned end, unsigned step,
                                  unsigned delete_percent, struct update *ret_updates) {
    size_t count = 0;
    for (unsigned key = begin; key < end && key < ROOM_KEYS; key += 1 + (unsigned)random_below(random, step)) {
        bool is_delete = random_below(random, 100) < delete_percent;
        ret_updates[count++] = (struct update){key, is_delete ? 0 : ++room_value};
    }
    return count;
}

static inline void room_write(struct room *room, struct random *random, unsigned begin, unsigned end, unsigned step,
                              unsigned delete_percent, bool allow_deep) {
    struct update updates[ROOM_KEYS];
    size_t count = room_updates(random, begin, end, step, delete_percent, updates);
    struct pleat_error err = {0};
    cr_assert_eq(room_flush(room, updates, count, allow_deep, &err), 0, "%s", err.message);
}

/* ---- checks ----------------------------------------------------------------------------------------------------- */

static inline void check_value(const struct room *room, unsigned key, const struct entry *entry) {
    uint8_t expected[ROOM_VALUE_MAX];
    uint64_t value = room->values[key];
    size_t bytes = value_make(value, expected);
    cr_assert_neq(value, 0, "key %u is there and should not", key);
    cr_assert_eq(entry->value_bytes, bytes, "key %u", key);
    cr_assert(memcmp(entry->value, expected, bytes) == 0, "key %u: value %llu, expected %llu", key,
              (unsigned long long)load_u64(entry->value), (unsigned long long)value);
    cr_assert_eq(entry->has_flag, value % 3 == 0);
    cr_assert(!entry->has_flag || entry->flag == (uint8_t)value);
    cr_assert_eq(entry->version_bytes, value % 5 == 0 ? 8 : 0);
    cr_assert(entry->version_bytes == 0 || memcmp(entry->version, expected, 8) == 0);
}

/* The first hit from the newest table down. */
static inline void check_get(const struct room *room, const struct tree *tree, unsigned key) {
    const uint8_t *bytes = room->keys[key];
    size_t count = room->key_bytes[key];
    uint64_t hash = hash_key(bytes, count);
    struct epoch_slot *slot;
    cr_assert_eq(epoch_enter(cache_epoch(room->cache), &slot), 0);
    int rc = PLEAT_ABSENT;
    struct entry entry = {0};
    for (unsigned l = 0; rc == PLEAT_ABSENT && l < LIMIT_LEVELS; l++) {
        const struct level *level = &tree->levels[l];
        size_t first = l == 0 ? 0 : level_find(level, bytes, count);
        size_t end = l == 0 ? level->count : first + (first < level->count);
        for (size_t i = first; rc == PLEAT_ABSENT && i < end; i++) {
            struct table *table;
            struct cache_frame *frame;
            cr_assert_eq(table_ref_open(level->tables[i], &table, NULL), 0);
            if (table_may_contain(table, hash, NULL) != 0) {
                rc = table_get(table, bytes, count, hash, CACHE_GET, &entry, &frame, NULL);
            }
        }
    }
    cr_assert_geq(rc, 0);
    if (rc == 0 && entry.kind == ENTRY_PUT) {
        check_value(room, key, &entry);
    } else {
        cr_assert_eq(room->values[key], 0, "key %u is lost", key);
    }
    epoch_leave(slot);
}

static inline void check_scan(const struct room *room, const struct tree *tree) {
    struct source *sources[256];
    static const struct source_bounds none;
    size_t count = 0;
    for (size_t i = 0; i < tree->levels[0].count; i++) {
        struct table *table;
        cr_assert_eq(table_ref_open(tree->levels[0].tables[i], &table, NULL), 0);
        cr_assert_eq(table_source_new(table, &none, &sources[count++], NULL), 0);
    }
    for (unsigned l = 1; l < LIMIT_LEVELS; l++) {
        cr_assert_eq(level_source_new(&room->fail.mem, tree->levels[l].tables, tree->levels[l].count, NULL, &none,
                                      &sources[count++], NULL),
                     0);
    }
    struct source *merge;
    cr_assert_eq(merge_source_new(&room->fail.mem, sources, count, &merge, NULL), 0);
    unsigned key = 0;
    int rc = merge->ops->first(merge);
    for (; rc == 0; rc = merge->ops->next(merge)) {
        if (merge->entry.kind == ENTRY_DELETE) {
            continue;
        }
        while (key < ROOM_KEYS && room->values[key] == 0) {
            key++;
        }
        cr_assert_lt(key, ROOM_KEYS, "the scan shows too much");
        cr_assert_eq(key_compare(room->keys[key], room->key_bytes[key], merge->entry.key, merge->entry.key_bytes), 0);
        check_value(room, key++, &merge->entry);
    }
    cr_assert_eq(rc, PLEAT_END);
    for (; key < ROOM_KEYS; key++) {
        cr_assert_eq(room->values[key], 0, "the scan ends before key %u", key);
    }
    source_free(merge);
}

/* Files of tables that are not dead. */
static inline size_t room_table_files(struct room *room) {
    size_t tables = 0;
    (void)table_ref_remove_all_dead(room->registry);
    for (size_t i = 0; i < simfs_name_count(room->fs, ROOM_PATH); i++) {
        char name[VFS_NAME_BYTES_MAX + 1];
        uint64_t number;
        cr_assert(simfs_name_at(room->fs, ROOM_PATH, i, name));
        tables += table_name_parse(name, &number);
    }
    return tables;
}

static inline size_t tree_tables(const struct tree *tree) {
    size_t count = 0;
    for (unsigned l = 0; l < LIMIT_LEVELS; l++) {
        count += tree->levels[l].count;
    }
    return count;
}

static inline uint64_t tree_tombstones(const struct tree *tree) {
    uint64_t count = 0;
    for (unsigned l = 0; l < LIMIT_LEVELS; l++) {
        count += tree->levels[l].tombstones;
    }
    return count;
}

/* Every table's bytes on disk, as table_verify and its meta see them. */
static inline void check_tables(struct room *room, const struct tree *tree) {
    for (unsigned l = 0; l < LIMIT_LEVELS; l++) {
        for (size_t i = 0; i < tree->levels[l].count; i++) {
            struct table_check check = {0};
            struct pleat_error err = {0};
            const struct table_meta *meta = &tree->levels[l].tables[i]->meta;
            cr_assert_eq(table_verify(registry_store(room->registry), meta, &tree->space.grouping, &check, &err), 0,
                         "%s", err.message);
            cr_assert_eq(meta->codec, l == 0 ? PLEAT_CODEC_NONE : PLEAT_CODEC_LZ4, "level %u", l);
            cr_assert_eq(meta->filter, l == 0 ? FILTER_BLOOM : FILTER_FUSE, "level %u", l);
        }
    }
}

/* Contents, order, form, and that no file is there that no version knows (when is_quiet: no old version is held). */
static inline void room_check(struct room *room, bool is_quiet) {
    struct version *version = registry_current(room->registry);
    const struct tree *tree = version->trees[0];
    struct pleat_error err = {0};
    cr_assert_eq(version_verify(version, &err), 0, "%s", err.message);
    for (unsigned key = 0; key < ROOM_KEYS; key++) {
        check_get(room, tree, key);
    }
    check_scan(room, tree);
    check_tables(room, tree);
    if (is_quiet) {
        cr_assert_eq(room_table_files(room), tree_tables(tree));
    }
    version_unref(version);
}

/* ---- jobs ------------------------------------------------------------------------------------------------------- */

/* Beside jobs that run already. */
static inline int room_pick_beside(struct room *room, bool idle, struct compaction *jobs, size_t count,
                                   struct compaction *ret_compaction) {
    struct version *version = registry_current(room->registry);
    struct pleat_error err = {0};
    struct compaction_beside beside = {0};
    for (size_t i = 0; i < count; i++) {
        jobs[i].next = beside.running;
        beside.running = &jobs[i];
    }
    int rc = compaction_pick(&room->fail.mem, version, &room->options, &beside, idle, ret_compaction, &err);
    cr_assert_geq(rc, 0, "%s", err.message);
    version_unref(version);
    return rc;
}

static inline int room_pick(struct room *room, bool idle, struct compaction *ret_compaction) {
    return room_pick_beside(room, idle, NULL, 0, ret_compaction);
}

static inline int room_pick_full(struct room *room, struct version *version, struct compaction *ret_compaction,
                                 bool *ret_busy) {
    struct compaction_beside beside = {0};
    return compaction_pick_full(&room->fail.mem, version, 0, &room->options, &beside, ret_compaction, ret_busy, NULL);
}

static inline int room_run_into(struct room *room, const struct compaction *compaction, struct edit *edit,
                                struct compaction_result *ret_result, struct pleat_error *err) {
    struct compaction_way way = {.options = &room->options};
    return compaction_run(room->registry, compaction, &way, edit, ret_result, err);
}

/* Runs and applies a job, and lets go of it. */
static inline void room_run(struct room *room, struct compaction *compaction, struct compaction_result *ret_result) {
    struct edit edit;
    struct pleat_error err = {0};
    edit_init(&edit, &room->fail.mem);
    cr_assert_eq(room_run_into(room, compaction, &edit, ret_result, &err),
                 0, "%s", err.message);
    room_apply(room, &edit);
    edit_fini(&edit);
    compaction_fini(&room->fail.mem, compaction);
}

static inline uint64_t room_debt(struct room *room) {
    struct version *version = registry_current(room->registry);
    uint64_t debt = compaction_debt(version, &room->options);
    version_unref(version);
    return debt;
}

/* Compacts until nothing is left to do. Returns the jobs. */
static inline unsigned room_settle(struct room *room, bool idle) {
    unsigned jobs = 0;
    struct compaction compaction;
    while (room_pick(room, idle, &compaction) == 0) {
        struct compaction_result result;
        room_run(room, &compaction, &result);
        cr_assert_lt(++jobs, 5000, "settling does not end");
    }
    return jobs;
}

/* What lies in level 0 goes to `level` and merges with all that is there, whatever the shape says. */
static inline void level0_to(struct room *room, unsigned level, struct compaction_result *ret_result) {
    struct version *version = registry_current(room->registry);
    const struct level *level0 = &version->trees[0]->levels[0];
    struct compaction by_hand = {.version = version, .space = version->trees[0]->space.id, .output_level = level};
    by_hand.inputs[0] = mem_copy(&room->fail.mem, level0->tables, level0->count * sizeof(struct table_ref *));
    by_hand.input_counts[0] = level0->count;
    const struct level *into = &version->trees[0]->levels[level];
    if (into->count > 0) {
        by_hand.inputs[level] = mem_copy(&room->fail.mem, into->tables, into->count * sizeof(struct table_ref *));
        by_hand.input_counts[level] = into->count;
    }
    room_run(room, &by_hand, ret_result);
}

/* Tries the job once: contents and files must be as before when it fails. */
static inline int try_job(struct room *room, const struct compaction *compaction, struct pleat_error *err) {
    size_t files = room_table_files(room);
    struct edit edit;
    struct compaction_result result;
    edit_init(&edit, &room->fail.mem);
    int rc = room_run_into(room, compaction, &edit, &result, err);
    room->fail.fail_at = 0;
    simfs_faults_clear(room->fs);
    if (rc < 0) {
        cr_assert_eq(err->code, rc);
        cr_assert(edit.added_count == 0 && edit.removed_count == 0);
        cr_assert_eq(room_table_files(room), files, "a failed job left a file");
    } else {
        for (size_t i = 0; i < edit.added_count; i++) { /* not applied: the next try is of the same job */
            char name[TABLE_NAME_BYTES];
            table_name(edit.added[i].meta.number, name);
            cr_assert_eq(room->vfs->dir_unlink(room->dir, name, NULL), 0);
        }
    }
    edit_fini(&edit);
    return rc;
}

/* A flush whose edit is thrown away: the files that it wrote are removed when it succeeds. */
static inline int flush_only(struct room *room, const struct update *updates, size_t count, struct pleat_error *err) {
    struct update_source source = {.source = {.ops = &update_ops}, .room = room, .updates = updates, .count = count};
    struct version *version = registry_current(room->registry);
    struct edit edit;
    edit_init(&edit, &room->fail.mem);
    uint64_t bytes;
    int rc = flush_run(room->registry, version, 0, &room->options, &source.source, 1, 9, true, &edit, &bytes, err);
    version_unref(version);
    cr_assert(rc == 0 ? edit.added_count > 1 : edit.added_count == 0, "%zu tables", edit.added_count);
    for (size_t i = 0; i < edit.added_count; i++) {
        char name[TABLE_NAME_BYTES];
        table_name(edit.added[i].meta.number, name);
        cr_assert_eq(room->vfs->dir_unlink(room->dir, name, NULL), 0);
    }
    edit_fini(&edit);
    return rc;
}

#endif
