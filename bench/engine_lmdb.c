/*
 * engine_lmdb.c - LMDB.
 *
 * Tuning: two named databases, keys and cursor, in one write transaction a batch; a map of twice the data and 1 GiB
 * (the file is sparse, only what is used takes disk); no readahead, for reads are random; one read transaction a
 * session that is reset and renewed at each call, so that every read sees the newest state; cursors are renewed, too.
 * It has no cache but the page cache, no compression and no checksums: its files are the largest, and `--cache` does
 * not bind it.
 *
 * Modes: none is MDB_NOSYNC with MDB_WRITEMAP, the fastest of those that survive kill -9, and what its users take who
 * may lose the end of a stream (a power loss can damage the file; contract F2 of pleat does not hold); interval the
 * same and mdb_env_sync once a second; each is its default, a sync at each commit, without the writable map. Settled:
 * nothing runs in the background, so at once; the pages are left to the system.
 */
#include "engine.h"

#include <lmdb.h>

struct engine_store {
    MDB_env *env;
    MDB_dbi routes;
    MDB_dbi position;
};

struct engine_session {
    struct engine_store *store;
    MDB_txn *reader;
    MDB_cursor *walk;
};

static void check(const char *call, int rc) {
    if (rc != 0) {
        engine_fail("lmdb", call, mdb_strerror(rc));
    }
}

static MDB_val of(struct slice slice) {
    MDB_val value = {slice.bytes, NULL};
    memcpy(&value.mv_data, &slice.data, sizeof value.mv_data); /* LMDB does not write through it */
    return value;
}

static struct engine_store *open_store(const struct engine_options *given) {
    static const unsigned flags[] = {
        [DURABILITY_NONE] = MDB_NOSYNC | MDB_WRITEMAP,
        [DURABILITY_INTERVAL] = MDB_NOSYNC | MDB_WRITEMAP,
        [DURABILITY_EACH] = 0,
    };
    struct engine_store *store = engine_new(sizeof *store);
    MDB_txn *txn;
    check("env_create", mdb_env_create(&store->env));
    check("set_maxdbs", mdb_env_set_maxdbs(store->env, 2));
    check("set_mapsize", mdb_env_set_mapsize(store->env, (given->data_bytes_max * 2 + (1u << 30)) & ~(size_t)4095));
    check("open", mdb_env_open(store->env, given->path, flags[given->durability] | MDB_NOTLS | MDB_NORDAHEAD, 0644));
    check("txn_begin", mdb_txn_begin(store->env, NULL, 0, &txn));
    check("dbi_open", mdb_dbi_open(txn, "routes", MDB_CREATE, &store->routes));
    check("dbi_open", mdb_dbi_open(txn, "cursor", MDB_CREATE, &store->position));
    check("txn_commit", mdb_txn_commit(txn));
    return store;
}

static void close_store(struct engine_store *store) {
    check("env_sync", mdb_env_sync(store->env, 1)); /* as the others make all durable when they close */
    mdb_env_close(store->env);
    free(store);
}

static struct engine_session *session_open(struct engine_store *store, const struct engine_echo *echo) {
    struct engine_session *session = engine_new(sizeof *session);
    (void)echo;
    session->store = store;
    check("txn_begin", mdb_txn_begin(store->env, NULL, MDB_RDONLY, &session->reader));
    check("cursor_open", mdb_cursor_open(session->reader, store->routes, &session->walk));
    mdb_txn_reset(session->reader);
    return session;
}

static void session_close(struct engine_session *session) {
    mdb_cursor_close(session->walk);
    mdb_txn_abort(session->reader);
    free(session);
}

static void apply(struct engine_session *session, const struct engine_update *updates, size_t count,
                  struct slice cursor) {
    struct engine_store *store = session->store;
    MDB_txn *txn;
    mdb_txn_reset(session->reader); /* or its pages could not be used again */
    check("txn_begin", mdb_txn_begin(store->env, NULL, 0, &txn));
    for (size_t i = 0; i < count; i++) {
        MDB_val key = of(updates[i].key), value = of(updates[i].value);
        int rc =
            updates[i].deletes ? mdb_del(txn, store->routes, &key, NULL) : mdb_put(txn, store->routes, &key, &value, 0);
        check("put", rc == MDB_NOTFOUND ? 0 : rc);
    }
    MDB_val name = {6, (char[]){"cursor"}}, position = of(cursor);
    check("put", mdb_put(txn, store->position, &name, &position, 0));
    check("txn_commit", mdb_txn_commit(txn));
}

/* Values stay in the map until the session's next renewal. */
static void renew(struct engine_session *session) {
    mdb_txn_reset(session->reader);
    check("txn_renew", mdb_txn_renew(session->reader));
}

static bool find(struct engine_session *session, struct slice key, struct slice *ret_value) {
    MDB_val name = of(key), value;
    int rc = mdb_get(session->reader, session->store->routes, &name, &value);
    if (rc == MDB_NOTFOUND) {
        return false;
    }
    check("get", rc);
    *ret_value = (struct slice){value.mv_data, value.mv_size};
    return true;
}

static bool get(struct engine_session *session, struct slice key, struct slice *ret_value) {
    renew(session);
    return find(session, key, ret_value);
}

static bool exists(struct engine_session *session, struct slice key) {
    struct slice value;
    return get(session, key, &value);
}

static void get_many(struct engine_session *session, const struct slice *keys, size_t count, bool *ret_present,
                     struct slice *ret_values) {
    renew(session);
    for (size_t i = 0; i < count; i++) {
        ret_present[i] = find(session, keys[i], &ret_values[i]);
    }
}

static void scan(struct engine_session *session, const struct engine_range *range, engine_row *row, void *context) {
    struct slice from = range->prefix.bytes > 0 ? range->prefix : range->lower;
    MDB_val key = of(from), value;
    MDB_cursor_op step = range->reverse ? MDB_PREV : MDB_NEXT;
    renew(session);
    check("cursor_renew", mdb_cursor_renew(session->reader, session->walk));
    int rc = mdb_cursor_get(session->walk, &key, &value,
                            range->reverse   ? MDB_LAST
                            : from.bytes > 0 ? MDB_SET_RANGE
                                             : MDB_FIRST);
    for (uint64_t n = 0; rc == 0 && (range->limit == 0 || n < range->limit); n++) {
        struct slice found = {key.mv_data, key.mv_size};
        if (!engine_has_prefix(found, range->prefix) ||
            !row(context, found, (struct slice){value.mv_data, value.mv_size})) {
            break;
        }
        rc = mdb_cursor_get(session->walk, &key, &value, step);
    }
    check("cursor_get", rc == MDB_NOTFOUND ? 0 : rc);
    mdb_txn_reset(session->reader);
}

static size_t cursor(struct engine_session *session, void *buffer) {
    MDB_val name = {6, (char[]){"cursor"}}, value;
    renew(session);
    int rc = mdb_get(session->reader, session->store->position, &name, &value);
    if (rc == MDB_NOTFOUND || value.mv_size > ENGINE_CURSOR_BYTES_MAX) {
        return 0;
    }
    check("get", rc);
    memcpy(buffer, value.mv_data, value.mv_size);
    return value.mv_size;
}

static void sync_store(struct engine_store *store) {
    check("env_sync", mdb_env_sync(store->env, 1));
}

static void settle(struct engine_store *store) {
    (void)store;
}

static void describe(struct engine_store *store, char *text, size_t bytes) {
    MDB_envinfo info;
    MDB_stat stat;
    check("env_info", mdb_env_info(store->env, &info));
    check("env_stat", mdb_env_stat(store->env, &stat));
    (void)snprintf(text, bytes, "LMDB %d.%d.%d; %zu pages of %u bytes used", MDB_VERSION_MAJOR, MDB_VERSION_MINOR,
                   MDB_VERSION_PATCH, info.me_last_pgno + 1, stat.ms_psize);
}

__attribute__((visibility("default"))) extern const struct engine bench_engine;
const struct engine bench_engine = {
    .name = "lmdb",
    .tuning =
        "Two named databases (keys, cursor), one write transaction a batch; read transactions and cursors reset and "
        "renewed at each read; no readahead. Reads through the page cache: the cache size does not bind it; no "
        "compression, no checksums. Modes: none = MDB_NOSYNC|MDB_WRITEMAP, interval = the same and mdb_env_sync "
        "each second, each = its default (synced commits).",
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
