/*
 * engine_wiredtiger.c - WiredTiger.
 *
 * Tuning: row-store tables for keys and cursor, both logged, in one transaction a batch; Snappy where the extension is
 * installed (Debian ships no LZ4 for it); the cache as given; four eviction threads at most; a checkpoint after each
 * GiB of log; log files of 128 MiB, removed when dead; one session with open cursors a thread; gets outside of explicit
 * transactions. Checksums at their default (compressed blocks verify themselves, others have one).
 *
 * Modes: none has the log written to the system at each commit (transaction_sync=(enabled,method=none)), so that kill
 * -9 loses nothing, like the others; interval the same and log_flush(sync=on) once a second; each is method=fsync.
 * Settled: a checkpoint.
 */
#include "engine.h"

#include <wiredtiger.h>

#ifndef BENCH_WIREDTIGER_SNAPPY
#define BENCH_WIREDTIGER_SNAPPY ""
#endif

struct engine_store {
    WT_CONNECTION *connection;
    WT_SESSION *session; /* of sync, settle: one thread at a time */
};

struct engine_session {
    WT_SESSION *session;
    WT_CURSOR *routes;
    WT_CURSOR *writer; /* overwrites without looking */
    WT_CURSOR *position;
    uint8_t *copies; /* of a multi-get */
    size_t copies_bytes;
};

static void check(const char *call, int rc) {
    if (rc != 0) {
        engine_fail("wiredtiger", call, wiredtiger_strerror(rc));
    }
}

static bool snappy_found(void) {
    return BENCH_WIREDTIGER_SNAPPY[0] != '\0' && access(BENCH_WIREDTIGER_SNAPPY, R_OK) == 0;
}

static struct engine_store *open_store(const struct engine_options *given) {
    struct engine_store *store = engine_new(sizeof *store);
    char config[1024];
    (void)snprintf(config, sizeof config,
                   "create,cache_size=%lluMB,session_max=64,eviction=(threads_min=1,threads_max=4),"
                   "log=(enabled,file_max=128MB),checkpoint=(log_size=1GB),"
                   "transaction_sync=(enabled=true,method=%s)%s%s%s",
                   (unsigned long long)(given->cache_bytes >> 20),
                   given->durability == DURABILITY_EACH ? "fsync" : "none", snappy_found() ? ",extensions=[" : "",
                   snappy_found() ? BENCH_WIREDTIGER_SNAPPY : "", snappy_found() ? "]" : "");
    check("wiredtiger_open", wiredtiger_open(given->path, NULL, config, &store->connection));
    check("open_session", store->connection->open_session(store->connection, NULL, NULL, &store->session));
    check("create", store->session->create(store->session, "table:routes",
                                           snappy_found() ? "key_format=u,value_format=u,block_compressor=snappy"
                                                          : "key_format=u,value_format=u"));
    check("create", store->session->create(store->session, "table:cursor", "key_format=u,value_format=u"));
    return store;
}

static void close_store(struct engine_store *store) {
    check("close", store->connection->close(store->connection, NULL));
    free(store);
}

static struct engine_session *session_open(struct engine_store *store, const struct engine_echo *echo) {
    struct engine_session *session = engine_new(sizeof *session);
    (void)echo;
    check("open_session", store->connection->open_session(store->connection, NULL, NULL, &session->session));
    WT_SESSION *s = session->session;
    check("open_cursor", s->open_cursor(s, "table:routes", NULL, NULL, &session->routes));
    check("open_cursor", s->open_cursor(s, "table:routes", NULL, "overwrite=true", &session->writer));
    check("open_cursor", s->open_cursor(s, "table:cursor", NULL, "overwrite=true", &session->position));
    return session;
}

static void session_close(struct engine_session *session) {
    check("close", session->session->close(session->session, NULL));
    free(session->copies);
    free(session);
}

static WT_ITEM item(struct slice slice) {
    return (WT_ITEM){.data = slice.data, .size = slice.bytes};
}

/* 0, or WT_ROLLBACK: another thread's commit was in the way, and the whole batch is to be applied again. */
static int apply_once(struct engine_session *session, const struct engine_update *updates, size_t count,
                      struct slice cursor) {
    WT_SESSION *s = session->session;
    check("begin_transaction", s->begin_transaction(s, NULL));
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < count; i++) {
        WT_ITEM key = item(updates[i].key), value = item(updates[i].value);
        session->writer->set_key(session->writer, &key);
        if (updates[i].deletes) {
            rc = session->writer->remove(session->writer);
        } else {
            session->writer->set_value(session->writer, &value);
            rc = session->writer->insert(session->writer);
        }
        rc = rc == WT_NOTFOUND ? 0 : rc;
    }
    if (rc == 0) {
        WT_ITEM key = {.data = "cursor", .size = 6}, value = item(cursor);
        session->position->set_key(session->position, &key);
        session->position->set_value(session->position, &value);
        rc = session->position->insert(session->position);
    }
    if (rc == 0) {
        return s->commit_transaction(s, NULL);
    }
    check("rollback_transaction", s->rollback_transaction(s, NULL));
    return rc;
}

static void apply(struct engine_session *session, const struct engine_update *updates, size_t count,
                  struct slice cursor) {
    int rc;
    while ((rc = apply_once(session, updates, count, cursor)) == WT_ROLLBACK) {
    }
    check("commit_transaction", rc);
}

static bool get(struct engine_session *session, struct slice key, struct slice *ret_value) {
    WT_ITEM name = item(key), value;
    WT_CURSOR *cursor = session->routes;
    cursor->set_key(cursor, &name);
    int rc = cursor->search(cursor); /* lets go of the page that it stood on before */
    if (rc == WT_NOTFOUND) {
        return false;
    }
    check("search", rc);
    check("get_value", cursor->get_value(cursor, &value));
    *ret_value = (struct slice){value.data, value.size};
    return true;
}

static bool exists(struct engine_session *session, struct slice key) {
    struct slice value;
    bool found = get(session, key, &value);
    check("reset", session->routes->reset(session->routes));
    return found;
}

/* It has none; a snapshot around gets is what a user would write. Values are copied, for a cursor stands on one page.
 */
static void get_many(struct engine_session *session, const struct slice *keys, size_t count, bool *ret_present,
                     struct slice *ret_values) {
    WT_SESSION *s = session->session;
    size_t at = 0;
    check("begin_transaction", s->begin_transaction(s, "isolation=snapshot"));
    for (size_t i = 0; i < count; i++) {
        struct slice value;
        ret_present[i] = get(session, keys[i], &value);
        if (!ret_present[i]) {
            continue;
        }
        if (session->copies == NULL) {
            session->copies_bytes = ENGINE_GET_MANY_MAX * (value.bytes + 64);
            session->copies = engine_new(session->copies_bytes);
        }
        if (at + value.bytes > session->copies_bytes) {
            engine_fail("wiredtiger", "multi get", "values of very different lengths");
        }
        memcpy(session->copies + at, value.data, value.bytes);
        ret_values[i] = (struct slice){session->copies + at, value.bytes};
        at += value.bytes;
    }
    check("reset", session->routes->reset(session->routes));
    check("commit_transaction", s->commit_transaction(s, NULL));
}

static int scan_start(WT_CURSOR *cursor, struct slice from, bool reverse) {
    int position;
    if (reverse || from.bytes == 0) {
        check("reset", cursor->reset(cursor));
        return reverse ? cursor->prev(cursor) : cursor->next(cursor);
    }
    WT_ITEM key = item(from);
    cursor->set_key(cursor, &key);
    int rc = cursor->search_near(cursor, &position);
    return rc == 0 && position < 0 ? cursor->next(cursor) : rc;
}

static void scan(struct engine_session *session, const struct engine_range *range, engine_row *row, void *context) {
    WT_CURSOR *cursor = session->routes;
    WT_SESSION *s = session->session;
    check("begin_transaction", s->begin_transaction(s, "isolation=snapshot"));
    int rc = scan_start(cursor, range->prefix.bytes > 0 ? range->prefix : range->lower, range->reverse);
    for (uint64_t n = 0; rc == 0 && (range->limit == 0 || n < range->limit); n++) {
        WT_ITEM key, value;
        check("get_key", cursor->get_key(cursor, &key));
        struct slice found = {key.data, key.size};
        if (!engine_has_prefix(found, range->prefix)) {
            break;
        }
        check("get_value", cursor->get_value(cursor, &value));
        if (!row(context, found, (struct slice){value.data, value.size})) {
            break;
        }
        rc = range->reverse ? cursor->prev(cursor) : cursor->next(cursor);
    }
    check("scan", rc == WT_NOTFOUND ? 0 : rc);
    check("reset", cursor->reset(cursor));
    check("commit_transaction", s->commit_transaction(s, NULL));
}

static size_t cursor(struct engine_session *session, void *buffer) {
    WT_ITEM key = {.data = "cursor", .size = 6}, value;
    session->position->set_key(session->position, &key);
    int rc = session->position->search(session->position);
    if (rc == WT_NOTFOUND) {
        return 0;
    }
    check("search", rc);
    check("get_value", session->position->get_value(session->position, &value));
    if (value.size > ENGINE_CURSOR_BYTES_MAX) {
        return 0;
    }
    memcpy(buffer, value.data, value.size);
    check("reset", session->position->reset(session->position));
    return value.size;
}

static void sync_store(struct engine_store *store) {
    check("log_flush", store->session->log_flush(store->session, "sync=on"));
}

static void settle(struct engine_store *store) {
    check("checkpoint", store->session->checkpoint(store->session, NULL));
}

static void describe(struct engine_store *store, char *text, size_t bytes) {
    int major, minor, patch;
    (void)store;
    (void)wiredtiger_version(&major, &minor, &patch);
    (void)snprintf(text, bytes, "WiredTiger %d.%d.%d; %s", major, minor, patch,
                   snappy_found() ? "Snappy" : "no compression: no extension found");
}

__attribute__((visibility("default"))) extern const struct engine bench_engine;
const struct engine bench_engine = {
    .name = "wiredtiger",
    .tuning =
        "Row-store tables (keys, cursor), logged, one transaction a batch; Snappy where the extension is installed "
        "(Debian ships no LZ4 for it); cache as given, up to 4 eviction threads, a checkpoint each GiB of log. "
        "Modes: none = log written to the system at each commit, interval = the same and log_flush(sync=on) each "
        "second, each = transaction_sync method fsync. Settled: a checkpoint.",
    .open = open_store,
    .close = close_store,
    .session_open = session_open,
    .session_close = session_close,
    .apply = apply,
    .get = get,
    .exists = exists,
    .get_many = get_many,
    .scan = scan,
    .cursor = cursor,
    .sync = sync_store,
    .settle = settle,
    .describe = describe,
};
