/*
 * engine_pleat.c - pleat through its public header.
 *
 * Tuning: everything at its default but what the driver gives (cache, memtable, durability); a space with LZ4, its keys
 * grouped by the second '.', as the API's comment tells who reads by prefix. The cursor is the store's own.
 */
#include "engine.h"

#include "pleat/pleat.h"

struct engine_store {
    struct pleat_db *db;
    struct pleat_space *space;
};

struct engine_session {
    struct engine_store *store;
    struct pleat_batch *batch;
    size_t pinned; /* values to be released before the next call */
    struct pleat_value values[ENGINE_GET_MANY_MAX];
};

static void check(const char *call, int rc, const struct pleat_error *err) {
    if (rc < 0) {
        engine_fail("pleat", call, err->message);
    }
}

static struct pleat_slice of(struct slice slice) {
    return (struct pleat_slice){slice.data, slice.bytes};
}

static struct engine_store *open_store(const struct engine_options *options) {
    static const uint32_t durability[] = {
        [DURABILITY_NONE] = PLEAT_SYNC_NONE,
        [DURABILITY_INTERVAL] = PLEAT_SYNC_INTERVAL,
        [DURABILITY_EACH] = PLEAT_SYNC_EACH,
    };
    struct engine_store *store = engine_new(sizeof *store);
    struct pleat_error err = {0};
    check("pleat_open",
          pleat_open(options->path,
                     PLEAT_OPTIONS(.cache_bytes = options->cache_bytes, .memtable_bytes = options->memtable_bytes,
                                   .durability = durability[options->durability]),
                     &store->db, &err),
          &err);
    check("pleat_space_open",
          pleat_space_open(store->db, (struct pleat_slice){"routes", 6},
                           PLEAT_SPACE_OPTIONS(.group_delimiter = '.', .group_delimiters = 2), &store->space, &err),
          &err);
    return store;
}

static void close_store(struct engine_store *store) {
    struct pleat_error err = {0};
    check("pleat_close", pleat_close(store->db, &err), &err);
    free(store);
}

static struct engine_session *session_open(struct engine_store *store, const struct engine_echo *echo) {
    struct engine_session *session = engine_new(sizeof *session);
    struct pleat_error err = {0};
    (void)echo;
    session->store = store;
    check("pleat_batch_new", pleat_batch_new(store->db, &session->batch, &err), &err);
    return session;
}

static void release(struct engine_session *session) {
    while (session->pinned > 0) {
        pleat_value_release(&session->values[--session->pinned]);
    }
}

static void session_close(struct engine_session *session) {
    release(session);
    pleat_batch_free(session->batch);
    free(session);
}

static void apply(struct engine_session *session, const struct engine_update *updates, size_t count,
                  struct slice cursor) {
    struct pleat_error err = {0};
    struct pleat_batch *batch = session->batch;
    struct pleat_space *space = session->store->space;
    pleat_batch_clear(batch);
    for (size_t i = 0; i < count; i++) {
        int rc = updates[i].deletes ? pleat_batch_delete(batch, space, of(updates[i].key), &err)
                                    : pleat_batch_put(batch, space, of(updates[i].key), of(updates[i].value), &err);
        check("pleat_batch_put", rc, &err);
    }
    struct pleat_cursor position = {.value = of(cursor)};
    check("pleat_batch_set_cursor", pleat_batch_set_cursor(batch, &position, &err), &err);
    check("pleat_commit", pleat_commit(session->store->db, batch, NULL, NULL, &err), &err);
}

static bool get(struct engine_session *session, struct slice key, struct slice *ret_value) {
    struct pleat_error err;
    release(session);
    int rc = pleat_get(session->store->space, NULL, of(key), &session->values[0], &err);
    check("pleat_get", rc, &err);
    if (rc != 0) {
        return false;
    }
    session->pinned = 1;
    *ret_value = (struct slice){session->values[0].data, session->values[0].bytes};
    return true;
}

static bool exists(struct engine_session *session, struct slice key) {
    struct pleat_error err;
    int rc = pleat_exists(session->store->space, NULL, of(key), &err);
    check("pleat_exists", rc, &err);
    return rc == 0;
}

static void get_many(struct engine_session *session, const struct slice *keys, size_t count, bool *ret_present,
                     struct slice *ret_values) {
    struct pleat_slice asked[ENGINE_GET_MANY_MAX];
    int status[ENGINE_GET_MANY_MAX];
    struct pleat_error err;
    release(session);
    for (size_t i = 0; i < count; i++) {
        asked[i] = of(keys[i]);
    }
    check("pleat_get_many", pleat_get_many(session->store->space, NULL, asked, count, session->values, status, &err),
          &err);
    for (size_t i = 0; i < count; i++) {
        ret_present[i] = status[i] == 0;
        ret_values[i] = (struct slice){session->values[i].data, session->values[i].bytes};
        if (status[i] != 0) {
            session->values[i].pin = NULL; /* nothing to release */
        }
    }
    session->pinned = count;
}

struct scan {
    engine_row *row;
    void *context;
};

static int scan_row(void *context, const struct pleat_row *row) {
    struct scan *scan = context;
    return !scan->row(scan->context, (struct slice){row->key.data, row->key.bytes},
                      (struct slice){row->value.data, row->value.bytes});
}

static void scan_range(struct engine_session *session, const struct engine_range *range, engine_row *row,
                       void *context) {
    struct pleat_error err = {0};
    struct scan scan = {row, context};
    check("pleat_scan",
          pleat_scan(session->store->space,
                     PLEAT_ITER_OPTIONS(.prefix = of(range->prefix), .lower = of(range->lower),
                                        .has_lower = range->lower.bytes > 0, .limit = range->limit,
                                        .reverse = range->reverse),
                     scan_row, &scan, &err),
          &err);
}

static size_t cursor(struct engine_session *session, void *buffer) {
    struct pleat_cursor_value value;
    struct pleat_error err = {0};
    int rc = pleat_cursor_read(session->store->db, (struct pleat_slice){NULL, 0}, PLEAT_APPLIED, &value, &err);
    check("pleat_cursor_read", rc, &err);
    if (rc != 0 || value.bytes > ENGINE_CURSOR_BYTES_MAX) {
        return 0;
    }
    memcpy(buffer, value.value, value.bytes);
    return value.bytes;
}

static void sync_store(struct engine_store *store) {
    struct pleat_error err = {0};
    check("pleat_sync", pleat_sync(store->db, &err), &err);
}

static void settle(struct engine_store *store) {
    struct pleat_error err = {0};
    check("pleat_settle", pleat_settle(store->db, NULL, NULL, &err), &err);
}

static void describe(struct engine_store *store, char *text, size_t bytes) {
    struct pleat_stats stats = {.size = sizeof stats};
    struct pleat_error err = {0};
    check("pleat_stats_read", pleat_stats_read(store->db, &stats, &err), &err);
    size_t at = (size_t)snprintf(text, bytes, "pleat %s; tables by level", pleat_version());
    for (unsigned level = 0; level < PLEAT_LEVELS && at < bytes; level++) {
        at += (size_t)snprintf(text + at, bytes - at, " %llu", (unsigned long long)stats.levels[level].tables);
    }
}

__attribute__((visibility("default"))) extern const struct engine bench_engine;
const struct engine bench_engine = {
    .name = "pleat",
    .tuning =
        "Defaults; the space's keys are grouped by their second '.', LZ4, 8 KiB blocks, checksums verified; cache "
        "and memtable as given. Modes: none = PLEAT_SYNC_NONE, interval = PLEAT_SYNC_INTERVAL (the default, 1 s or "
        "64 MiB), each = PLEAT_SYNC_EACH. Settled: pleat_settle.",
    .syncs_itself = true,
    .open = open_store,
    .close = close_store,
    .session_open = session_open,
    .session_close = session_close,
    .apply = apply,
    .get = get,
    .exists = exists,
    .get_many = get_many,
    .scan = scan_range,
    .cursor = cursor,
    .sync = sync_store,
    .settle = settle,
    .describe = describe,
};
