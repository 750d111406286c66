/*
 * format_store.c - makes a small store that uses every corner of the formats, and prints what it holds: the other half
 * of tests/format_reader.py, which reads the files by docs/format.md alone, and of tests/golden.py, which keeps some.
 *
 *     format_store DIR closed|killed SEED
 *     format_store DIR read                   opens it read-only, checks it, prints what it holds
 *     format_store DIR write                  writes, takes it back, compacts, reopens, checks, prints what it holds
 *
 * "closed" ends with pleat_close, everything in tables; "killed" opens the store twice and ends the second time without
 * closing, so that the last commits are in the log alone.
 */
#include "pleat/pleat.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint64_t random_state;

static uint32_t random_below(uint32_t bound) {
    random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)((random_state >> 33) % bound);
}

static void must(int rc, const struct pleat_error *err, const char *what) {
    if (rc != 0) {
        fprintf(stderr, "%s: %s: %s\n", what, pleat_status_name(rc), err->message);
        exit(1);
    }
}

static struct pleat_slice slice(const void *data, size_t bytes) {
    return (struct pleat_slice){data, bytes};
}

static struct pleat_slice text(const char *data) {
    return slice(data, strlen(data));
}

/* ---- what it holds ---------------------------------------------------------------------------------------------- */

static void print_hex(struct pleat_slice bytes) {
    const uint8_t *p = bytes.data;
    for (size_t i = 0; i < bytes.bytes; i++) {
        printf("%02x", p[i]);
    }
    printf("%s", bytes.bytes == 0 ? "-" : "");
}

static int print_row(void *context, const struct pleat_row *row) {
    (void)context;
    printf("row ");
    print_hex(row->key);
    printf(" ");
    print_hex(row->value);
    printf(" ");
    print_hex(row->version);
    if (row->has_flag) {
        printf(" %u\n", row->flag);
    } else {
        printf(" -\n");
    }
    return 0;
}

static int print_cursor(void *context, struct pleat_slice name, const struct pleat_cursor_value *cursor) {
    (void)context;
    printf("cursor ");
    print_hex(name);
    printf(" ");
    print_hex(slice(cursor->value, cursor->bytes));
    printf(" ");
    print_hex(slice(cursor->incarnation, cursor->incarnation_bytes));
    printf("\n");
    return 0;
}

static int print_space(void *context, struct pleat_slice name) {
    struct pleat_error err;
    struct pleat_space *space;
    must(pleat_space_open(context, name, NULL, &space, &err), &err, "space");
    printf("space ");
    print_hex(name);
    printf("\n");
    must(pleat_scan(space, NULL, print_row, NULL, &err), &err, "scan");
    return 0;
}

static void print_store(struct pleat_db *db) {
    struct pleat_error err;
    uint64_t sequence;
    pleat_position_read(db, PLEAT_APPLIED, NULL, &sequence);
    printf("sequence %llu\n", (unsigned long long)sequence);
    must(pleat_cursor_list(db, PLEAT_APPLIED, print_cursor, NULL, &err), &err, "cursors");
    must(pleat_space_list(db, print_space, db, &err), &err, "spaces");
    if (fflush(stdout) != 0) {
        exit(1);
    }
}

/* ---- what it does ----------------------------------------------------------------------------------------------- */

struct maker {
    struct pleat_db *db;
    struct pleat_batch *batch;
    struct pleat_space *spaces[3];
    uint64_t commits;
    bool flushes; /* background work is done after each commit */
};

static void maker_open(struct maker *maker, const char *path) {
    struct pleat_error err;
    const struct pleat_options *options =
        PLEAT_OPTIONS(.memtable_bytes = 24u << 10, .table_bytes = 8u << 10, .level_base_bytes = 32u << 10,
                      .level_ratio = 3, .background = PLEAT_BACKGROUND_STEPS, .durability = PLEAT_SYNC_NONE);
    must(pleat_open(path, options, &maker->db, &err), &err, "open");
    maker->spaces[0] = pleat_default_space(maker->db);
    must(pleat_space_open(maker->db, text("raw"),
                          PLEAT_SPACE_OPTIONS(.codec = PLEAT_CODEC_NONE, .block_bytes = 512, .group_bytes = 4),
                          &maker->spaces[1], &err), &err, "raw");
    must(pleat_space_open(maker->db, text("gr\xff""oups"),
                          PLEAT_SPACE_OPTIONS(.group_delimiters = 2, .group_delimiter = '.'), &maker->spaces[2], &err),
         &err, "groups");
    must(pleat_batch_new(maker->db, &maker->batch, &err), &err, "batch");
}

static void maker_update(struct maker *maker) {
    static uint8_t value[600];
    struct pleat_error err;
    char key[64];
    uint32_t i = random_below(400);
    int length = snprintf(key, sizeof key, "svc%u.route%u.%u", i % 7, i % 31, i);
    struct pleat_slice key_slice = slice(key, (size_t)length);
    struct pleat_space *space = maker->spaces[random_below(3)];
    if (random_below(5) == 0) {
        must(pleat_batch_delete(maker->batch, space, key_slice, &err), &err, "delete");
        return;
    }
    size_t bytes = random_below(random_below(20) == 0 ? sizeof value : 60);
    for (size_t k = 0; k < bytes; k++) {
        value[k] = (uint8_t)(random_below(4) == 0 ? random_below(256) : 'a' + k % 9);
    }
    uint8_t version[32];
    memset(version, (int)random_below(256), sizeof version);
    struct pleat_attributes attributes = {
        .version = slice(version, random_below(2) * random_below(33)),
        .has_flag = random_below(3) == 0,
        .flag = (uint8_t)random_below(256),
    };
    must(pleat_batch_put_with(maker->batch, space, key_slice, slice(value, bytes), &attributes, &err), &err, "put");
}

static void maker_commit(struct maker *maker, unsigned updates) {
    struct pleat_error err;
    char cursor[32];
    for (unsigned i = 0; i < updates; i++) {
        maker_update(maker);
    }
    snprintf(cursor, sizeof cursor, "at-%llu", (unsigned long long)++maker->commits);
    struct pleat_cursor value = {.value = text(cursor)};
    must(pleat_batch_set_cursor(maker->batch, &value, &err), &err, "cursor");
    must(pleat_commit(maker->db, maker->batch, NULL, NULL, &err), &err, "commit");
    pleat_batch_clear(maker->batch);
    if (maker->flushes) {
        (void)pleat_step(maker->db, NULL);
    }
}

/* Empty and longest keys, empty and large values: narrow and wide blocks, long varints. */
static void maker_corners(struct maker *maker) {
    static uint8_t large[70000];
    struct pleat_error err;
    memset(large, 0xff, sizeof large);
    struct pleat_slice keys[] = {slice("", 0), slice("\0", 1), slice(large, 1), slice(large, 65535), slice(large, 300)};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        size_t bytes = i == 2 ? sizeof large : i * 70;
        must(pleat_batch_put(maker->batch, maker->spaces[i % 2], keys[i], slice(large, bytes), &err), &err, "put");
    }
    struct pleat_cursor cursor = {.name = text("second"), .incarnation = text("stream-1")};
    must(pleat_batch_set_cursor(maker->batch, &cursor, &err), &err, "empty cursor");
    maker_commit(maker, 0);
    cursor = (struct pleat_cursor){.name = text("second"), .value = slice(large, 1024)};
    must(pleat_batch_set_cursor(maker->batch, &cursor, &err), &err, "longest cursor");
    maker_commit(maker, 3);
    cursor = (struct pleat_cursor){.name = text("passing"), .value = text("x"), .incarnation = text("stream-2")};
    must(pleat_batch_set_cursor(maker->batch, &cursor, &err), &err, "passing cursor");
    maker_commit(maker, 1);
    must(pleat_batch_remove_cursor(maker->batch, cursor.name, &err), &err, "passing cursor");
    maker_commit(maker, 1);
}

static void maker_spaces(struct maker *maker) {
    struct pleat_error err;
    struct pleat_space *passing;
    must(pleat_space_open(maker->db, text("passing"), NULL, &passing, &err), &err, "passing");
    must(pleat_batch_put(maker->batch, passing, text("k"), text("v"), &err), &err, "put");
    maker_commit(maker, 1);
    must(pleat_space_drop(passing, &err), &err, "drop");
    must(pleat_space_clear(maker->spaces[2], &err), &err, "clear");
}

/* ---- what any version does with it ------------------------------------------------------------------------------ */

static void check_store(struct pleat_db *db) {
    struct pleat_error err;
    struct pleat_check check;
    must(pleat_check(db, &check, &err), &err, "check");
}

static void read_store(const char *path) {
    struct pleat_error err;
    struct pleat_db *db;
    must(pleat_open(path, PLEAT_OPTIONS(.read_only = true), &db, &err), &err, "open read-only");
    check_store(db);
    print_store(db);
    must(pleat_close(db, &err), &err, "close");
}

static int compact_space(void *context, struct pleat_slice name) {
    struct pleat_error err;
    struct pleat_space *space;
    struct pleat_batch *batch;
    must(pleat_space_open(context, name, NULL, &space, &err), &err, "space");
    must(pleat_batch_new(context, &batch, &err), &err, "batch");
    for (int taken_back = 0; taken_back < 2; taken_back++) {
        pleat_batch_clear(batch);
        must(taken_back != 0 ? pleat_batch_delete(batch, space, text("svc3.written later"), &err)
                             : pleat_batch_put(batch, space, text("svc3.written later"), text("value"), &err),
             &err, "update");
        must(pleat_commit(context, batch, NULL, NULL, &err), &err, "commit");
        must(pleat_flush(context, &err), &err, "flush");
    }
    pleat_batch_free(batch);
    must(pleat_compact(space, NULL, NULL, &err), &err, "compact");
    return 0;
}

static void write_store(const char *path) {
    struct pleat_error err;
    struct pleat_db *db;
    must(pleat_open(path, NULL, &db, &err), &err, "open");
    check_store(db);
    must(pleat_space_list(db, compact_space, db, &err), &err, "spaces");
    must(pleat_close(db, &err), &err, "close");
    read_store(path);
}

int main(int argc, char **argv) {
    struct pleat_error err;
    if (argc == 3 && (strcmp(argv[2], "read") == 0 || strcmp(argv[2], "write") == 0)) {
        (strcmp(argv[2], "read") == 0 ? read_store : write_store)(argv[1]);
        return 0;
    }
    if (argc != 4) {
        fprintf(stderr, "usage: format_store DIR closed|killed SEED, or DIR read|write\n");
        return 2;
    }
    random_state = strtoull(argv[3], NULL, 0);
    struct maker maker = {.flushes = true};
    maker_open(&maker, argv[1]);
    maker_corners(&maker);
    for (unsigned i = 0; i < 80; i++) {
        maker_commit(&maker, 1 + random_below(20));
    }
    maker_spaces(&maker);
    for (unsigned i = 0; i < 40; i++) {
        maker_commit(&maker, 1 + random_below(20));
    }
    bool killed = strcmp(argv[2], "killed") == 0;
    if (killed) {
        pleat_batch_free(maker.batch);
        must(pleat_close(maker.db, &err), &err, "close");
        maker_open(&maker, argv[1]);
        maker_corners(&maker);
        maker.flushes = false; /* so that two segments are alive when it ends */
        for (unsigned i = 0; i < 40; i++) {
            maker_commit(&maker, 1 + random_below(12));
        }
        print_store(maker.db);
        _exit(0); /* as a kill would: nothing is flushed, nothing is closed */
    }
    maker_commit(&maker, 5);
    print_store(maker.db);
    pleat_batch_free(maker.batch);
    must(pleat_close(maker.db, &err), &err, "close");
    return 0;
}
