/*
 * store_room.h - what the tests of the whole store share: a directory of their own, opening with tiny limits, short
 * names for putting and getting, and comparing directories byte for byte.
 */
#ifndef PLEAT_TESTS_STORE_ROOM_H
#define PLEAT_TESTS_STORE_ROOM_H

#include "pleat/pleat.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TEXT(literal) ((struct pleat_slice){(literal), sizeof(literal) - 1})
#define NONE ((struct pleat_slice){NULL, 0})

struct room {
    char path[256]; /* of the store; its parent is the room's own directory */
    char parent[200];
    struct pleat_options options;
    struct pleat_db *db;
    struct pleat_space *space; /* the default one */
    struct pleat_error err;
};

#define OK(call)                                                                                                       \
    do {                                                                                                               \
        int ok_rc = (call);                                                                                            \
        cr_assert_eq(ok_rc, 0, "%s is %s: %s", #call, pleat_status_name(ok_rc), room.err.message);                     \
    } while (0)

/* The call is refused with this status, and the text holds `part` (NULL: any text). */
#define REFUSED(status, part, call)                                                                                    \
    do {                                                                                                               \
        int refused_rc;                                                                                                \
        memset(&room.err, 0, sizeof room.err);                                                                         \
        refused_rc = (call);                                                                                           \
        cr_assert_eq(refused_rc, (status), "%s is %s: %s", #call, pleat_status_name(refused_rc), room.err.message);    \
        cr_assert_eq(room.err.code, (status), "%s: code %d", #call, room.err.code);                                    \
        cr_assert_neq(room.err.message[0], '\0', "%s says nothing", #call);                                            \
        cr_assert_not_null(strstr(room.err.message, (part)), "%s says \"%s\" without \"%s\"", #call, room.err.message, \
                           (part));                                                                                    \
    } while (0)

static inline struct pleat_slice text_slice(const char *text) {
    return (struct pleat_slice){text, strlen(text)};
}

static inline int room_remove_one(const char *path, const struct stat *found, int kind, struct FTW *walk) {
    (void)found;
    (void)walk;
    return kind == FTW_DP ? rmdir(path) : unlink(path);
}

static inline void room_remove_directory(const char *path) {
    (void)chmod(path, 0700);
    (void)nftw(path, room_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static inline void room_open(struct room *room) {
    memset(&room->err, 0, sizeof room->err);
    int rc = pleat_open(room->path, &room->options, &room->db, &room->err);
    cr_assert_eq(rc, 0, "open: %s", room->err.message);
    room->space = pleat_default_space(room->db);
}

static inline void room_close(struct room *room) {
    int rc = pleat_close(room->db, &room->err);
    cr_assert_eq(rc, 0, "close: %s", room->err.message);
    room->db = NULL;
}

static inline void room_reopen(struct room *room) {
    room_close(room);
    room_open(room);
}

/* A room without a store: step mode, small limits. */
static inline void room_begin(struct room *room) {
    const char *base = getenv("TMPDIR");
    memset(room, 0, sizeof *room);
    (void)snprintf(room->parent, sizeof room->parent, "%s/pleat-test-XXXXXX", base != NULL ? base : "/tmp");
    cr_assert_not_null(mkdtemp(room->parent));
    (void)snprintf(room->path, sizeof room->path, "%s/store", room->parent);
    room->options = (struct pleat_options){
        .size = sizeof room->options,
        .background = PLEAT_BACKGROUND_STEPS,
        .memtable_bytes = 64 << 10,
        .cache_bytes = 1 << 20,
        .table_bytes = 16 << 10,
        .level_base_bytes = 64 << 10,
    };
}

static inline void room_end(struct room *room) {
    if (room->db != NULL) {
        room_close(room);
    }
    room_remove_directory(room->parent);
}

/* One commit of one key; returns its sequence number. */
static inline uint64_t room_put(struct room *room, struct pleat_space *space, const char *key, const char *value) {
    struct pleat_batch *batch;
    uint64_t sequence = 0;
    int rc = pleat_batch_new(room->db, &batch, &room->err);
    cr_assert_eq(rc, 0);
    rc = value != NULL ? pleat_batch_put(batch, space, text_slice(key), text_slice(value), &room->err)
                       : pleat_batch_delete(batch, space, text_slice(key), &room->err);
    cr_assert_eq(rc, 0, "put: %s", room->err.message);
    rc = pleat_commit(room->db, batch, NULL, &sequence, &room->err);
    cr_assert_eq(rc, 0, "commit: %s", room->err.message);
    pleat_batch_free(batch);
    return sequence;
}

/* One commit of a cursor. */
static inline uint64_t room_set_cursor(struct room *room, const char *name, const char *value) {
    struct pleat_batch *batch;
    uint64_t sequence = 0;
    struct pleat_cursor cursor = {.name = text_slice(name), .value = text_slice(value)};
    cr_assert_eq(pleat_batch_new(room->db, &batch, &room->err), 0);
    cr_assert_eq(pleat_batch_set_cursor(batch, &cursor, &room->err), 0);
    cr_assert_eq(pleat_commit(room->db, batch, NULL, &sequence, &room->err), 0, "commit: %s", room->err.message);
    pleat_batch_free(batch);
    return sequence;
}

/* Whether the key holds exactly this text (NULL: nothing). */
static inline bool room_holds_at(struct pleat_space *space, const struct pleat_snapshot *snapshot, const char *key,
                                 const char *expected) {
    struct pleat_value value;
    struct pleat_error err = {0};
    int rc = pleat_get(space, snapshot, text_slice(key), &value, &err);
    if (rc != 0) {
        return rc == PLEAT_ABSENT && expected == NULL;
    }
    bool same = expected != NULL && value.bytes == strlen(expected) && memcmp(value.data, expected, value.bytes) == 0;
    pleat_value_release(&value);
    return same;
}

static inline bool room_holds(struct pleat_space *space, const char *key, const char *expected) {
    return room_holds_at(space, NULL, key, expected);
}

static inline struct pleat_stats room_stats(struct room *room) {
    struct pleat_stats stats = {.size = sizeof stats};
    cr_assert_eq(pleat_stats_read(room->db, &stats, &room->err), 0);
    return stats;
}

static inline uint64_t room_sequence(const struct room *room, enum pleat_position position) {
    uint64_t sequence;
    pleat_position_read(room->db, position, NULL, &sequence);
    return sequence;
}

/* A sum over the names and bytes of everything in the directory. */
static inline uint64_t room_digest(const char *path) {
    uint64_t sum = 0;
    DIR *directory = opendir(path);
    cr_assert_not_null(directory);
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        uint8_t bytes[4096];
        uint64_t hash = 14695981039346656037u;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) {
            continue;
        }
        for (const char *p = entry->d_name; *p != '\0'; p++) {
            hash = (hash ^ (uint8_t)*p) * 1099511628211u;
        }
        int fd = openat(dirfd(directory), entry->d_name, O_RDONLY);
        cr_assert(fd >= 0);
        for (ssize_t n; (n = read(fd, bytes, sizeof bytes)) > 0;) {
            for (ssize_t i = 0; i < n; i++) {
                hash = (hash ^ bytes[i]) * 1099511628211u;
            }
        }
        (void)close(fd);
        sum += hash;
    }
    (void)closedir(directory);
    return sum;
}

/* The room's store as a killed process would leave it, copied to `<parent>/<name>`. */
static inline void room_copy(const struct room *room, const char *name, char *ret_path, size_t path_bytes) {
    char command[800];
    (void)snprintf(ret_path, path_bytes, "%s/%s", room->parent, name);
    (void)snprintf(command, sizeof command, "cp -r '%s' '%s'", room->path, ret_path);
    cr_assert_eq(system(command), 0); /* NOLINT: a test's own paths */
}

#endif
