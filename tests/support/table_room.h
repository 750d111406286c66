/*
 * table_room.h - what the tests of tables share: rows as the model, a directory with faults to inject, and the checks
 * that compare a table with its rows by every way of asking.
 */
#ifndef PLEAT_TESTS_TABLE_ROOM_H
#define PLEAT_TESTS_TABLE_ROOM_H

#include "base/bytes.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/limits.h"
#include "cache/cache.h"
#include "platform/vfs.h"
#include "sstable/table.h"
#include "sstable/table_files.h"
#include "support/random.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- rows ------------------------------------------------------------------------------------------------------- */

struct row {
    uint8_t *key;
    uint8_t *value;
    uint8_t version[LIMIT_VERSION_BYTES];
    struct entry entry;
};

struct rows {
    struct row *data;
    size_t count;
    size_t capacity;
};

static inline void rows_add(struct rows *rows, const void *key, size_t key_bytes, size_t value_bytes) {
    if (rows->count == rows->capacity) {
        rows->capacity = rows->capacity * 2 + 64;
        rows->data = realloc(rows->data, rows->capacity * sizeof *rows->data);
    }
    struct row *row = &rows->data[rows->count++];
    memset(row, 0, sizeof *row);
    row->key = malloc(key_bytes + 1);
    row->value = malloc(value_bytes + 1);
    if (key_bytes > 0) {
        memcpy(row->key, key, key_bytes);
    }
    for (size_t i = 0; i < value_bytes; i++) {
        row->value[i] = (uint8_t)(i % 3 == 0 ? hash_mix(i, key_bytes) : 'v');
    }
    row->entry = (struct entry){.key_bytes = (uint32_t)key_bytes, .value_bytes = (uint32_t)value_bytes,
                                .kind = ENTRY_PUT};
}

static inline int row_compare(const void *a, const void *b) {
    const struct row *x = a, *y = b;
    return key_compare(x->key, x->entry.key_bytes, y->key, y->entry.key_bytes);
}

/* Sorts, drops doubles, gives some rows attributes, makes some tombstones, and points the entries at the copies. */
static inline void rows_settle(struct rows *rows, bool plain) {
    qsort(rows->data, rows->count, sizeof *rows->data, row_compare);
    size_t kept = 0;
    for (size_t i = 0; i < rows->count; i++) {
        if (kept > 0 && row_compare(&rows->data[kept - 1], &rows->data[i]) == 0) {
            free(rows->data[i].key);
            free(rows->data[i].value);
            continue;
        }
        rows->data[kept++] = rows->data[i];
    }
    rows->count = kept;
    for (size_t i = 0; i < kept; i++) {
        struct row *row = &rows->data[i];
        struct entry *entry = &row->entry;
        if (!plain && i % 7 == 3) {
            entry->kind = ENTRY_DELETE;
            entry->value_bytes = 0;
        }
        if (!plain && i % 5 == 1) {
            entry->version_bytes = (uint8_t)(1 + i % LIMIT_VERSION_BYTES);
            memset(row->version, (int)i, sizeof row->version);
            entry->version = row->version;
        }
        entry->has_flag = !plain && i % 6 == 2;
        entry->flag = entry->has_flag ? (uint8_t)i : 0;
        entry->deadline_ms = !plain && i % 11 == 4 ? 1000 + i : 0;
        entry->key = row->key;
        entry->value = entry->value_bytes > 0 ? row->value : NULL;
    }
}

static inline void rows_free(struct rows *rows) {
    for (size_t i = 0; i < rows->count; i++) {
        free(rows->data[i].key);
        free(rows->data[i].value);
    }
    free(rows->data);
}

/* `groups` groups of `each` keys, as "svc.000007.route.012". */
static inline struct rows rows_grouped(size_t groups, size_t each, size_t value_bytes, bool plain) {
    struct rows rows = {0};
    for (size_t i = 0; i < groups * each; i++) {
        char key[64];
        int n = snprintf(key, sizeof key, "svc.%06zx.route.%03zu", i / each, i % each);
        rows_add(&rows, key, (size_t)n, value_bytes);
    }
    rows_settle(&rows, plain);
    return rows;
}

/* The keys that break things: empty, zeros, ff, prefixes of one another, long shared prefixes, the longest. */
static inline struct rows rows_odd(void) {
    struct rows rows = {0};
    static uint8_t longest[LIMIT_KEY_BYTES];
    static uint8_t ff[8];
    memset(longest, 'k', sizeof longest);
    memset(ff, 0xff, sizeof ff);
    rows_add(&rows, "", 0, 3);
    rows_add(&rows, "\0", 1, 0);
    rows_add(&rows, "\0\0", 2, 5);
    rows_add(&rows, "\0\0\0\0\0\0\0\0\0", 9, 5);
    for (size_t n = 1; n <= 8; n++) {
        rows_add(&rows, ff, n, n);
    }
    for (size_t n = 1; n < 60; n++) {
        rows_add(&rows, longest, n, 20);
    }
    rows_add(&rows, longest, LIMIT_KEY_BYTES, 9);
    longest[LIMIT_KEY_BYTES - 1]++;
    rows_add(&rows, longest, LIMIT_KEY_BYTES, 70000);
    for (unsigned i = 0; i < 100; i++) {
        uint8_t key[204];
        memset(key, 'p', 200);
        store_u32(key + 200, i * 2654435761u);
        rows_add(&rows, key, 204, i);
    }
    rows_settle(&rows, false);
    return rows;
}

static inline struct rows rows_random(struct random *random, size_t count) {
    struct rows rows = {0};
    for (size_t i = 0; i < count; i++) {
        uint8_t key[12];
        size_t bytes = random_below(random, sizeof key + 1);
        for (size_t j = 0; j < bytes; j++) {
            key[j] = (uint8_t)(random_below(random, 3) * 127 + random_below(random, 2));
        }
        rows_add(&rows, key, bytes, random_below(random, 40));
    }
    rows_settle(&rows, false);
    return rows;
}

/* The first row with a key >= this. */
static inline size_t rows_seek(const struct rows *rows, const uint8_t *key, size_t key_bytes) {
    size_t low = 0, high = rows->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        const struct entry *entry = &rows->data[middle].entry;
        if (key_compare(entry->key, entry->key_bytes, key, key_bytes) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* ---- the room under test ---------------------------------------------------------------------------------------- */

static struct {
    uint64_t calls;
    uint64_t fail_at; /* 0: never */
    bool for_ever;
    uint64_t syncs;
    bool dirty; /* written since the last sync */
} fault;

static inline bool fault_now(struct pleat_error *err) {
    fault.calls++;
    if (fault.fail_at == 0 || !(fault.calls == fault.fail_at || (fault.for_ever && fault.calls > fault.fail_at))) {
        return false;
    }
    error_system(err, EIO, "injected", "fault");
    return true;
}
static inline int fault_open(struct vfs_dir *dir, const char *name, enum vfs_file_mode how, uint32_t mode,
                      struct vfs_file **ret_file, struct pleat_error *err) {
    return fault_now(err) ? PLEAT_ERR_IO : vfs_posix.file_open(dir, name, how, mode, ret_file, err);
}
static inline int fault_read(struct vfs_file *file, uint64_t offset, void *buffer, size_t n, struct pleat_error *err) {
    return fault_now(err) ? PLEAT_ERR_IO : vfs_posix.file_read(file, offset, buffer, n, err);
}
static inline int fault_write(struct vfs_file *file, uint64_t offset, const void *data, size_t n,
                              struct pleat_error *err) {
    if (fault_now(err)) {
        struct pleat_error ignored = {0};
        (void)vfs_posix.file_write(file, offset, data, n / 2, &ignored);
        return PLEAT_ERR_IO;
    }
    fault.dirty = true;
    return vfs_posix.file_write(file, offset, data, n, err);
}
static inline int fault_size(struct vfs_file *file, uint64_t *ret_bytes, struct pleat_error *err) {
    return fault_now(err) ? PLEAT_ERR_IO : vfs_posix.file_size(file, ret_bytes, err);
}
static inline int fault_sync(struct vfs_file *file, struct pleat_error *err) {
    if (fault_now(err)) {
        return PLEAT_ERR_IO;
    }
    fault.syncs++;
    fault.dirty = false;
    return vfs_posix.file_sync(file, err);
}

struct room {
    struct vfs vfs;
    struct table_store store;
    struct table_files files;
    struct pleat_error error;
    char path[64];
};

static inline void room_open(struct room *room, const struct mem *mem) {
    memset(room, 0, sizeof *room);
    fault.calls = fault.fail_at = 0;
    room->vfs = vfs_posix;
    room->vfs.file_open = fault_open;
    room->vfs.file_read = fault_read;
    room->vfs.file_write = fault_write;
    room->vfs.file_size = fault_size;
    room->vfs.file_sync = fault_sync;
    (void)snprintf(room->path, sizeof room->path, "/tmp/pleat-table-XXXXXX");
    cr_assert_not_null(mkdtemp(room->path));
    room->store = (struct table_store){.vfs = &room->vfs, .mem = mem, .file_mode = 0600, .store_id = "0123456789abcde"};
    cr_assert_eq(vfs_posix.dir_open(&vfs_posix, &mem_system, room->path, VFS_DIR_EXISTING, 0, &room->store.dir, NULL),
                 0);
    cr_assert_eq(cache_new(&mem_system, 64 << 20, &room->store.cache, NULL), 0);
    cr_assert_eq(table_files_init(&room->files, 4), 0);
    room->store.files = &room->files;
}

static inline int room_unlink(void *context, const char *name) {
    return vfs_posix.dir_unlink(((struct room *)context)->store.dir, name, NULL);
}
static inline int room_count(void *context, const char *name) {
    (void)name;
    ++*(int *)context;
    return 0;
}

static inline void room_close(struct room *room) {
    struct cache_stats stats;
    epoch_synchronize(cache_epoch(room->store.cache));
    cache_stats_read(room->store.cache, &stats);
    cr_assert_eq(stats.pinned, 0, "a source left %llu frames pinned", (unsigned long long)stats.pinned);
    cache_free(room->store.cache);
    cr_assert_eq(table_files_count(&room->files), 0);
    table_files_fini(&room->files);
    (void)vfs_posix.dir_list(room->store.dir, room_unlink, room, NULL);
    vfs_posix.dir_close(room->store.dir);
    cr_assert_eq(rmdir(room->path), 0);
}

static inline uint64_t room_misses(struct room *room) {
    struct cache_stats stats;
    cache_stats_read(room->store.cache, &stats);
    return stats.misses;
}

static inline struct table_builder_options options_small(void) {
    return (struct table_builder_options){.number = 7, .block_bytes = 128, .codec = PLEAT_CODEC_LZ4,
                                          .filter = FILTER_FUSE, .sequence_min = 3, .sequence_max = 9};
}

static inline int build_quietly(struct room *room, const struct rows *rows, const struct table_builder_options *options,
                         struct table_meta *ret_meta) {
    struct table_builder *builder = NULL;
    error_clear(&room->error);
    int rc = table_builder_new(&room->store, options, &builder, &room->error);
    for (size_t i = 0; rc == 0 && i < rows->count; i++) {
        rc = table_builder_add(builder, &rows->data[i].entry, &room->error);
    }
    if (rc == 0) {
        rc = table_builder_finish(builder, ret_meta, &room->error);
    }
    table_builder_free(rc == 0 || builder != NULL ? builder : NULL);
    return rc;
}

static inline struct table_meta build(struct room *room, const struct rows *rows,
                               const struct table_builder_options *options) {
    struct table_meta meta;
    cr_assert_eq(build_quietly(room, rows, options, &meta), 0, "%s", room->error.message);
    return meta;
}

static inline struct table *open_table(struct room *room, const struct table_meta *meta) {
    struct table *table = NULL;
    error_clear(&room->error);
    cr_assert_eq(table_open(&room->store, meta, &table, &room->error), 0, "%s", room->error.message);
    return table;
}

/* Loads all pages of index and filter. */
static inline void pages_carry(struct room *room, struct table *table) {
    struct epoch_slot *slot;
    int rc = 0;
    cr_assert_eq(epoch_enter(cache_epoch(room->store.cache), &slot), 0);
    for (uint64_t page = 0; rc == 0; page++) {
        rc = table_page_carry(table, page, &room->error);
    }
    epoch_leave(slot);
    cr_assert_eq(rc, PLEAT_ABSENT, "%s", room->error.message);
}

static inline struct source *new_source(struct table *table, const struct source_bounds *bounds) {
    struct source *source = NULL;
    cr_assert_eq(table_source_new(table, bounds, &source, NULL), 0);
    return source;
}

static inline bool entry_equals(const struct entry *a, const struct entry *b) {
    return key_compare(a->key, a->key_bytes, b->key, b->key_bytes) == 0 && a->kind == b->kind &&
           a->value_bytes == b->value_bytes &&
           (a->value_bytes == 0 || memcmp(a->value, b->value, a->value_bytes) == 0) && a->has_flag == b->has_flag &&
           a->flag == b->flag && a->version_bytes == b->version_bytes &&
           (a->version_bytes == 0 || memcmp(a->version, b->version, a->version_bytes) == 0) &&
           a->deadline_ms == b->deadline_ms;
}

/* 0 and right, PLEAT_ABSENT and right, or the error. */
static inline int get_checked(struct room *room, struct table *table, const struct rows *rows, const uint8_t *key,
                       size_t key_bytes) {
    struct epoch_slot *slot;
    struct entry entry;
    struct cache_frame *frame;
    uint64_t hash = hash_key(key, key_bytes);
    size_t i = rows_seek(rows, key, key_bytes);
    bool present = i < rows->count &&
                   key_compare(rows->data[i].key, rows->data[i].entry.key_bytes, key, key_bytes) == 0;
    cr_assert_eq(epoch_enter(cache_epoch(room->store.cache), &slot), 0);
    table_prefetch(table, hash);
    error_clear(&room->error);
    int rc = table_may_contain(table, hash, &room->error);
    cr_assert(!present || rc != 0, "the filter denies a key that is there");
    rc = rc < 0 ? rc : table_get(table, key, key_bytes, hash, CACHE_GET, &entry, &frame, &room->error);
    if (rc >= 0) {
        cr_assert_eq(rc, present ? 0 : PLEAT_ABSENT, "row %zu of %zu", i, rows->count);
        cr_assert(rc != 0 || entry_equals(&entry, &rows->data[i].entry), "row %zu is wrong", i);
    }
    epoch_leave(slot);
    return rc;
}

/* Neighbours of a key: itself with a zero behind it, without its last byte, with the last byte one more and less. */
static inline size_t neighbour(const struct entry *entry, unsigned which, uint8_t *buffer) {
    size_t bytes = entry->key_bytes;
    if (bytes > 0) {
        memcpy(buffer, entry->key, bytes);
    }
    if (which == 0 || bytes == 0) {
        return bytes;
    }
    if (which == 1) {
        return bytes - 1;
    }
    if (which == 2 && bytes < LIMIT_KEY_BYTES) {
        buffer[bytes] = 0;
        return bytes + 1;
    }
    buffer[bytes - 1] = (uint8_t)(buffer[bytes - 1] + (which == 3 ? 1 : -1));
    return bytes;
}

static uint8_t key_space[LIMIT_KEY_BYTES + 1];

static inline void expect_at(struct source *source, int rc, const struct rows *rows, size_t i, size_t from, size_t to) {
    cr_assert_geq(rc, 0, "%s", source->error.message);
    if (i < from || i >= to || from >= to) {
        cr_assert_eq(rc, PLEAT_END, "row %zu is outside [%zu, %zu)", i, from, to);
    } else {
        cr_assert_eq(rc, 0, "row %zu is inside [%zu, %zu)", i, from, to);
        cr_assert(entry_equals(&source->entry, &rows->data[i].entry), "row %zu", i);
    }
}

static inline void check_walks(struct source *source, const struct rows *rows, size_t from, size_t to) {
    int rc = source->ops->first(source);
    for (size_t i = from; i < to; i++, rc = source->ops->next(source)) {
        expect_at(source, rc, rows, i, from, to);
    }
    cr_assert_eq(rc, PLEAT_END);
    rc = source->ops->last(source);
    for (size_t i = to; i-- > from && from < to; rc = source->ops->prev(source)) {
        expect_at(source, rc, rows, i, from, to);
    }
    cr_assert_eq(rc, PLEAT_END);
}

static inline void check_seeks(struct source *source, const struct rows *rows, size_t from, size_t to, size_t step) {
    for (size_t i = 0; i < rows->count; i += step) {
        for (unsigned which = 0; which < 5; which++) {
            size_t bytes = neighbour(&rows->data[i].entry, which, key_space);
            size_t at = rows_seek(rows, key_space, bytes);
            source->ops->prepare(source, key_space, bytes);
            int rc = source->ops->seek(source, key_space, bytes);
            expect_at(source, rc, rows, at < from ? from : at, from, to);
            rc = source->ops->seek_before(source, key_space, bytes);
            at = at > to ? to : at;
            expect_at(source, rc, rows, at > from && at > 0 ? at - 1 : SIZE_MAX, from, to);
        }
    }
}

/* All there is to ask of a table. */
static inline void check_table(struct room *room, const struct table_meta *meta, const struct rows *rows) {
    struct table *table = open_table(room, meta);
    for (size_t i = 0; i < rows->count; i++) {
        for (unsigned which = 0; which < 5; which++) {
            size_t bytes = neighbour(&rows->data[i].entry, which, key_space);
            cr_assert_geq(get_checked(room, table, rows, key_space, bytes), 0, "%s", room->error.message);
        }
    }
    struct source_bounds bounds = {.fill_cache = true};
    struct source *source = new_source(table, &bounds);
    check_walks(source, rows, 0, rows->count);
    check_seeks(source, rows, 0, rows->count, 1 + rows->count / 500);
    source_free(source);
    table_close(table);
    struct table_check check = {0};
    cr_assert_eq(table_verify(&room->store, meta, NULL, &check, &room->error), 0, "%s", room->error.message);
    cr_assert_eq(check.entries, rows->count);
    cr_assert_eq(check.blocks, meta->blocks);
    cr_assert_eq(check.bytes, meta->file_bytes);
}

#endif
