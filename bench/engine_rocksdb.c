/*
 * engine_rocksdb.c - RocksDB through its C API, in Debian's build or in another one by path.
 *
 * Tuning, as a user who knows it would: two column families, keys and cursor, in one write batch; dynamic level bytes;
 * ten-bit full bloom filters; LZ4; the memtable's size as given (64 MiB); one LRU block cache as given; 2 background
 * jobs; all files stay open; index and filters outside the cache, which is the default; pinned gets; batched
 * multi-gets; an upper bound for prefix reads. Everything else at its default, checksums are verified.
 *
 * Modes: none writes the log to the system at each batch, which is its default; interval the same and FlushWAL with
 * sync once a second; each sets sync in the write options. Settled: flushed, and nothing running or pending by its own
 * properties. Before reads are measured the data is compacted by hand, once, and not measured.
 */
#include "peer_library.h"

#include <rocksdb/c.h>

#define CALLS(X)                                                                                                       \
    X(open_column_families)                                                                                            \
    X(close) X(column_family_handle_destroy) X(options_create) X(options_destroy) X(options_set_create_if_missing)     \
        X(options_set_create_missing_column_families) X(options_set_level_compaction_dynamic_level_bytes)              \
            X(options_set_compression) X(options_set_write_buffer_size) X(options_set_max_background_jobs)             \
                X(options_set_max_open_files) X(options_set_block_based_table_factory) X(block_based_options_create)   \
                    X(block_based_options_destroy) X(block_based_options_set_filter_policy)                            \
                        X(block_based_options_set_block_cache) X(filterpolicy_create_bloom_full) X(cache_create_lru)   \
                            X(cache_destroy) X(writeoptions_create) X(writeoptions_destroy) X(writeoptions_set_sync)   \
                                X(readoptions_create) X(readoptions_destroy) X(readoptions_set_iterate_upper_bound)    \
                                    X(writebatch_create) X(writebatch_destroy) X(writebatch_clear)                     \
                                        X(writebatch_put_cf) X(writebatch_delete_cf) X(write) X(get_pinned_cf)         \
                                            X(pinnableslice_value) X(pinnableslice_destroy) X(batched_multi_get_cf)    \
                                                X(create_iterator_cf) X(iter_destroy) X(iter_seek)                     \
                                                    X(iter_seek_to_first) X(iter_seek_to_last) X(iter_next)            \
                                                        X(iter_prev) X(iter_valid) X(iter_key) X(iter_value)           \
                                                            X(iter_get_error) X(flush_wal) X(flush_cf)                 \
                                                                X(flushoptions_create) X(flushoptions_destroy)         \
                                                                    X(property_int_cf) X(property_value_cf)            \
                                                                        X(compact_range_cf) X(free)

#define PEER_FIELD(name) __typeof__(&rocksdb_##name) name;
#define PEER_FIND(name) peer_find("rocksdb", library, "rocksdb_" #name, &peer.name);
static struct { CALLS(PEER_FIELD) } peer;

enum { FAMILY_CURSOR, FAMILY_ROUTES, FAMILIES };

struct engine_store {
    rocksdb_t *db;
    rocksdb_column_family_handle_t *families[FAMILIES];
    rocksdb_writeoptions_t *write_options;
    void *library;
};

struct engine_session {
    struct engine_store *store;
    rocksdb_writebatch_t *batch;
    rocksdb_readoptions_t *read_options; /* of gets */
    rocksdb_readoptions_t *scan_options; /* with the upper bound of the scan */
    size_t pinned_count;
    rocksdb_pinnableslice_t *pinned[ENGINE_GET_MANY_MAX];
};

static void check(const char *call, char *error) {
    if (error != NULL) {
        engine_fail("rocksdb", call, error);
    }
}

static rocksdb_options_t *make_options(const struct engine_options *given) {
    rocksdb_options_t *options = peer.options_create();
    rocksdb_block_based_table_options_t *table = peer.block_based_options_create();
    rocksdb_cache_t *cache = peer.cache_create_lru((size_t)given->cache_bytes);
    peer.block_based_options_set_filter_policy(table, peer.filterpolicy_create_bloom_full(10));
    peer.block_based_options_set_block_cache(table, cache);
    peer.options_set_block_based_table_factory(options, table);
    peer.options_set_create_if_missing(options, 1);
    peer.options_set_create_missing_column_families(options, 1);
    peer.options_set_level_compaction_dynamic_level_bytes(options, 1);
    peer.options_set_compression(options, rocksdb_lz4_compression);
    peer.options_set_write_buffer_size(options, (size_t)given->memtable_bytes);
    peer.options_set_max_background_jobs(options, 2);
    peer.options_set_max_open_files(options, -1);
    peer.block_based_options_destroy(table);
    peer.cache_destroy(cache); /* the table factory holds it */
    return options;
}

static struct engine_store *open_store(const struct engine_options *given) {
    struct engine_store *store = engine_new(sizeof *store);
    void *library = peer_load("rocksdb", given->library != NULL ? given->library : "librocksdb.so");
    CALLS(PEER_FIND)
    store->library = library;
    rocksdb_options_t *options = make_options(given);
    const char *const names[FAMILIES] = {"default", "routes"};
    const rocksdb_options_t *const family_options[FAMILIES] = {options, options};
    char *error = NULL;
    store->db =
        peer.open_column_families(options, given->path, FAMILIES, names, family_options, store->families, &error);
    check("open", error);
    store->write_options = peer.writeoptions_create();
    peer.writeoptions_set_sync(store->write_options, given->durability == DURABILITY_EACH);
    peer.options_destroy(options);
    return store;
}

static void close_store(struct engine_store *store) {
    for (unsigned i = 0; i < FAMILIES; i++) {
        peer.column_family_handle_destroy(store->families[i]);
    }
    peer.close(store->db);
    peer.writeoptions_destroy(store->write_options);
    free(store);
}

static struct engine_session *session_open(struct engine_store *store, const struct engine_echo *echo) {
    struct engine_session *session = engine_new(sizeof *session);
    (void)echo;
    session->store = store;
    session->batch = peer.writebatch_create();
    session->read_options = peer.readoptions_create();
    session->scan_options = peer.readoptions_create();
    return session;
}

static void release(struct engine_session *session) {
    while (session->pinned_count > 0) {
        rocksdb_pinnableslice_t *pinned = session->pinned[--session->pinned_count];
        if (pinned != NULL) {
            peer.pinnableslice_destroy(pinned);
        }
    }
}

static void session_close(struct engine_session *session) {
    release(session);
    peer.writebatch_destroy(session->batch);
    peer.readoptions_destroy(session->read_options);
    peer.readoptions_destroy(session->scan_options);
    free(session);
}

static void apply(struct engine_session *session, const struct engine_update *updates, size_t count,
                  struct slice cursor) {
    struct engine_store *store = session->store;
    rocksdb_writebatch_t *batch = session->batch;
    rocksdb_column_family_handle_t *routes = store->families[FAMILY_ROUTES];
    char *error = NULL;
    peer.writebatch_clear(batch);
    for (size_t i = 0; i < count; i++) {
        const struct engine_update *update = &updates[i];
        if (update->deletes) {
            peer.writebatch_delete_cf(batch, routes, update->key.data, update->key.bytes);
        } else {
            peer.writebatch_put_cf(batch, routes, update->key.data, update->key.bytes, update->value.data,
                                   update->value.bytes);
        }
    }
    peer.writebatch_put_cf(batch, store->families[FAMILY_CURSOR], "cursor", 6, cursor.data, cursor.bytes);
    peer.write(store->db, store->write_options, batch, &error);
    check("write", error);
}

static bool get(struct engine_session *session, struct slice key, struct slice *ret_value) {
    char *error = NULL;
    release(session);
    rocksdb_pinnableslice_t *pinned =
        peer.get_pinned_cf(session->store->db, session->read_options, session->store->families[FAMILY_ROUTES], key.data,
                           key.bytes, &error);
    check("get", error);
    if (pinned == NULL) {
        return false;
    }
    session->pinned[0] = pinned;
    session->pinned_count = 1;
    ret_value->data = peer.pinnableslice_value(pinned, &ret_value->bytes);
    return true;
}

static bool exists(struct engine_session *session, struct slice key) {
    struct slice value;
    return get(session, key, &value);
}

static void get_many(struct engine_session *session, const struct slice *keys, size_t count, bool *ret_present,
                     struct slice *ret_values) {
    const char *data[ENGINE_GET_MANY_MAX];
    size_t bytes[ENGINE_GET_MANY_MAX];
    char *errors[ENGINE_GET_MANY_MAX];
    release(session);
    for (size_t i = 0; i < count; i++) {
        data[i] = keys[i].data;
        bytes[i] = keys[i].bytes;
    }
    peer.batched_multi_get_cf(session->store->db, session->read_options, session->store->families[FAMILY_ROUTES], count,
                              data, bytes, session->pinned, errors, false);
    session->pinned_count = count;
    for (size_t i = 0; i < count; i++) {
        check("multi get", errors[i]);
        ret_present[i] = session->pinned[i] != NULL;
        if (ret_present[i]) {
            ret_values[i].data = peer.pinnableslice_value(session->pinned[i], &ret_values[i].bytes);
        }
    }
}

/* The first key behind all that begin with the prefix; 0: there is none. */
static size_t prefix_end(struct slice prefix, char *end) {
    size_t bytes = prefix.bytes;
    memcpy(end, prefix.data, bytes);
    while (bytes > 0 && (unsigned char)end[bytes - 1] == 0xff) {
        bytes--;
    }
    if (bytes > 0) {
        end[bytes - 1]++;
    }
    return bytes;
}

static void scan(struct engine_session *session, const struct engine_range *range, engine_row *row, void *context) {
    char end[256], *error = NULL;
    size_t end_bytes = range->prefix.bytes > 0 ? prefix_end(range->prefix, end) : 0;
    struct slice from = range->prefix.bytes > 0 ? range->prefix : range->lower;
    peer.readoptions_set_iterate_upper_bound(session->scan_options, end_bytes > 0 ? end : NULL, end_bytes);
    rocksdb_iterator_t *iter =
        peer.create_iterator_cf(session->store->db, session->scan_options, session->store->families[FAMILY_ROUTES]);
    if (range->reverse) {
        peer.iter_seek_to_last(iter);
    } else if (from.bytes > 0) {
        peer.iter_seek(iter, from.data, from.bytes);
    } else {
        peer.iter_seek_to_first(iter);
    }
    for (uint64_t n = 0; (range->limit == 0 || n < range->limit) && peer.iter_valid(iter); n++) {
        struct slice key, value;
        key.data = peer.iter_key(iter, &key.bytes);
        value.data = peer.iter_value(iter, &value.bytes);
        if (!row(context, key, value)) {
            break;
        }
        if (range->reverse) {
            peer.iter_prev(iter);
        } else {
            peer.iter_next(iter);
        }
    }
    peer.iter_get_error(iter, &error);
    check("iterator", error);
    peer.iter_destroy(iter);
}

static size_t cursor(struct engine_session *session, void *buffer) {
    char *error = NULL;
    size_t bytes = 0;
    rocksdb_pinnableslice_t *pinned = peer.get_pinned_cf(session->store->db, session->read_options,
                                                         session->store->families[FAMILY_CURSOR], "cursor", 6, &error);
    check("get cursor", error);
    if (pinned != NULL) {
        const char *data = peer.pinnableslice_value(pinned, &bytes);
        bytes = bytes <= ENGINE_CURSOR_BYTES_MAX ? bytes : 0;
        memcpy(buffer, data, bytes);
        peer.pinnableslice_destroy(pinned);
    }
    return bytes;
}

static void sync_store(struct engine_store *store) {
    char *error = NULL;
    peer.flush_wal(store->db, 1, &error);
    check("flush wal", error);
}

static uint64_t property(struct engine_store *store, const char *name) {
    uint64_t value = 0;
    if (peer.property_int_cf(store->db, store->families[FAMILY_ROUTES], name, &value) != 0) {
        engine_fail("rocksdb", name, "no such property");
    }
    return value;
}

static void wait_quiet(struct engine_store *store) {
    while (property(store, "rocksdb.compaction-pending") != 0 ||
           property(store, "rocksdb.num-running-compactions") != 0 ||
           property(store, "rocksdb.mem-table-flush-pending") != 0 ||
           property(store, "rocksdb.num-running-flushes") != 0) {
        (void)usleep(1000);
    }
}

static void settle(struct engine_store *store) {
    rocksdb_flushoptions_t *options = peer.flushoptions_create();
    for (unsigned i = 0; i < FAMILIES; i++) {
        char *error = NULL;
        peer.flush_cf(store->db, options, store->families[i], &error);
        check("flush", error);
    }
    peer.flushoptions_destroy(options);
    /* A compaction is scheduled a moment after the flush that asks for it. */
    for (int quiet = 0; quiet < 3; quiet++) {
        wait_quiet(store);
        (void)usleep(1000);
    }
}

static void tidy(struct engine_store *store) {
    peer.compact_range_cf(store->db, store->families[FAMILY_ROUTES], NULL, 0, NULL, 0);
    wait_quiet(store);
}

static void describe(struct engine_store *store, char *text, size_t bytes) {
    size_t at = (size_t)snprintf(text, bytes, "assertions %s; tables by level",
                                 peer_asserts(store->library, "rocksdb_open") ? "on" : "off");
    for (unsigned level = 0; level < 7 && at < bytes; level++) {
        char name[64];
        (void)snprintf(name, sizeof name, "rocksdb.num-files-at-level%u", level);
        char *files = peer.property_value_cf(store->db, store->families[FAMILY_ROUTES], name);
        at += (size_t)snprintf(text + at, bytes - at, " %s", files != NULL ? files : "?");
        peer.free(files);
    }
}

__attribute__((visibility("default"))) extern const struct engine bench_engine;
const struct engine bench_engine = {
    .name = "rocksdb",
    .tuning =
        "Two column families (keys, cursor) in one write batch; dynamic level bytes; 10-bit full bloom filters; LZ4; "
        "memtable and LRU block cache as given; 2 background jobs; all files open; index and filters outside the "
        "cache; pinned gets, batched multi-get, upper bound on prefix reads. Modes: none = its default (log "
        "written, not synced), interval = FlushWAL(sync) each second, each = WriteOptions.sync. Compacted by hand "
        "before reads are measured.",
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
    .tidy = tidy,
    .describe = describe,
};
