/*
 * engine.h - what the driver asks of a store, whichever it is: one table of functions an engine.
 *
 * Each engine is a module of its own (engine_NAME.c) that exports one name, `bench_engine`. The driver loads exactly
 * one of them, in a child process, with local symbols; the driver itself exports none and links no store, no codec and
 * no hash, so that two copies of LZ4, xxHash or the C++ library can never meet.
 *
 *      store     the open database: one a process
 *      session   what one thread needs to use it: a batch, a reader, a transaction; one a thread
 *
 * The state of every store is a map of the fold's keys, and one cursor apart from them. A batch sets both together.
 *
 * An engine that fails ends the run: engine_fail says what, and the driver's parent sees the exit status. So nothing
 * here returns an error. What an engine answers wrongly is found by the driver, which checks every result.
 *
 * The empty engine stores nothing. It answers from the session's `echo`, which the driver keeps at what the next answer
 * must be; so it passes the same checks, and its time is the driver's own.
 */
#ifndef PLEAT_BENCH_ENGINE_H
#define PLEAT_BENCH_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ENGINE_SYMBOL "bench_engine"
#define ENGINE_CURSOR_BYTES_MAX 64

struct slice {
    const void *data;
    size_t bytes;
};

enum durability {
    DURABILITY_NONE,     /* the engine hands the batch to the system and waits for no disk */
    DURABILITY_INTERVAL, /* the same, and a sync of the log once a second in the background */
    DURABILITY_EACH,     /* apply returns when the batch is on disk */
};

struct engine_options {
    const char *path;        /* a directory that exists */
    const char *library;     /* another build of the engine, or NULL: as it was configured */
    uint64_t cache_bytes;    /* for blocks or pages; engines that read through the page cache ignore it */
    uint64_t memtable_bytes; /* for engines that have one */
    uint64_t data_bytes_max; /* keys and values that the store will hold at once, at most */
    enum durability durability;
};

struct engine_update {
    struct slice key;
    struct slice value;
    bool deletes;
};

struct engine_range {
    struct slice prefix; /* bytes 0: every key */
    struct slice lower;  /* bytes 0: from the first */
    uint64_t limit;      /* 0: all */
    bool reverse;        /* with neither prefix nor lower */
};

struct engine_echo {
    bool present;       /* whether the key that is asked for is there */
    uint64_t rows;      /* of the next scan */
    struct slice key;   /* each of its rows */
    struct slice value; /* the same, and the answer of a get */
    struct slice cursor;
};

struct engine_store;
struct engine_session;

/* A row of a scan, borrowed for the call. True goes on. */
typedef bool engine_row(void *context, struct slice key, struct slice value);

struct engine {
    const char *name;
    const char *tuning; /* for the report: options and modes, in one paragraph */
    bool syncs_itself;  /* DURABILITY_INTERVAL is the engine's own; else the driver calls `sync` once a second */

    struct engine_store *(*open)(const struct engine_options *options); /* creates it when the directory is empty */
    void (*close)(struct engine_store *store);
    struct engine_session *(*session_open)(struct engine_store *store, const struct engine_echo *echo);
    void (*session_close)(struct engine_session *session);

    /* All of the updates in order, and the cursor, atomically. */
    void (*apply)(struct engine_session *session, const struct engine_update *updates, size_t count,
                  struct slice cursor);
    /* Whether the key is there. *ret_value is borrowed until the next call on the session. */
    bool (*get)(struct engine_session *session, struct slice key, struct slice *ret_value);
    bool (*exists)(struct engine_session *session, struct slice key);
    /* At one state where the engine can. Values are borrowed until the next call on the session. */
    void (*get_many)(struct engine_session *session, const struct slice *keys, size_t count, bool *ret_present,
                     struct slice *ret_values);
    void (*scan)(struct engine_session *session, const struct engine_range *range, engine_row *row, void *context);
    /* Bytes of the stored cursor, at most ENGINE_CURSOR_BYTES_MAX; 0: none. */
    size_t (*cursor)(struct engine_session *session, void *buffer);

    void (*sync)(struct engine_store *store);   /* what was applied before is durable */
    void (*settle)(struct engine_store *store); /* memtables are written, and no background work is left */
    void (*tidy)(struct engine_store *store);   /* before reads are measured: compact by hand; NULL: nothing to do */
    /* A line about its state: levels, version of the library. */
    void (*describe)(struct engine_store *store, char *text, size_t bytes);
};

#define ENGINE_GET_MANY_MAX 128

static inline void engine_fail(const char *engine, const char *call, const char *why) {
    fprintf(stderr, "%s: %s: %s\n", engine, call, why);
    _exit(1);
}

static inline void *engine_new(size_t bytes) {
    void *block = calloc(1, bytes);
    if (block == NULL) {
        engine_fail("bench", "calloc", "out of memory");
    }
    return block;
}

static inline bool engine_has_prefix(struct slice key, struct slice prefix) {
    return key.bytes >= prefix.bytes && (prefix.bytes == 0 || memcmp(key.data, prefix.data, prefix.bytes) == 0);
}

#endif
