/*
 * engine_leveldb.c - LevelDB through its C API, in Debian's build or in another one by path.
 *
 * Tuning: ten-bit bloom filters, Snappy (the only codec it has, and Debian's build has it), write buffer and LRU cache
 * as given, 1,000 open files. It has one key space, so the cursor is a key before all others, in the same batch. Values
 * of gets are copies that it allocates; there is no other way through it. Checksums are verified at reads, as the
 * others do.
 *
 * Modes: none writes the log to the system at each batch; interval the same, and an empty synced batch once a second,
 * which syncs the log before it; each sets sync in the write options. It cannot say whether compactions are pending:
 * settled means that the memtable is written (a compaction of an empty range does that) and that the process has used
 * no processor for 50 ms. Before reads are measured it is compacted by hand.
 */
#include "peer_library.h"

#include <leveldb/c.h>
#include <sys/resource.h>

#define CALLS(X)                                                                                                       \
    X(open)                                                                                                            \
    X(close) X(options_create) X(options_destroy) X(options_set_create_if_missing) X(options_set_filter_policy)        \
        X(options_set_write_buffer_size) X(options_set_cache) X(options_set_compression) X(options_set_max_open_files) \
            X(filterpolicy_create_bloom) X(filterpolicy_destroy) X(cache_create_lru) X(cache_destroy)                  \
                X(writeoptions_create) X(writeoptions_destroy) X(writeoptions_set_sync) X(readoptions_create)          \
                    X(readoptions_destroy) X(readoptions_set_verify_checksums) X(readoptions_set_snapshot)             \
                        X(writebatch_create) X(writebatch_destroy) X(writebatch_clear) X(writebatch_put)               \
                            X(writebatch_delete) X(write) X(get) X(free) X(create_iterator) X(iter_destroy)            \
                                X(iter_seek) X(iter_seek_to_last) X(iter_next) X(iter_prev) X(iter_valid) X(iter_key)  \
                                    X(iter_value) X(iter_get_error) X(compact_range) X(property_value)                 \
                                        X(create_snapshot) X(release_snapshot) X(major_version) X(minor_version)

#define PEER_FIELD(name) __typeof__(&leveldb_##name) name;
#define PEER_FIND(name) peer_find("leveldb", library, "leveldb_" #name, &peer.name);
static struct { CALLS(PEER_FIELD) } peer;

/* The cursor's key; the keys of the fold are greater. */
static const char cursor_key[] = "\001cursor";
#define CURSOR_KEY_BYTES (sizeof cursor_key - 1)

struct engine_store {
    leveldb_t *db;
    leveldb_filterpolicy_t *filter;
    leveldb_cache_t *cache;
    leveldb_options_t *options;
    leveldb_writeoptions_t *write_options;
    void *library;
};

struct engine_session {
    struct engine_store *store;
    leveldb_writebatch_t *batch;
    leveldb_readoptions_t *read_options;
    size_t copies_count;
    char *copies[ENGINE_GET_MANY_MAX];
};

static void check(const char *call, char *error) {
    if (error != NULL) {
        engine_fail("leveldb", call, error);
    }
}

static struct engine_store *open_store(const struct engine_options *given) {
    struct engine_store *store = engine_new(sizeof *store);
    void *library = peer_load("leveldb", given->library != NULL ? given->library : "libleveldb.so");
    char *error = NULL;
    CALLS(PEER_FIND)
    store->library = library;
    store->options = peer.options_create();
    store->filter = peer.filterpolicy_create_bloom(10);
    store->cache = peer.cache_create_lru((size_t)given->cache_bytes);
    peer.options_set_create_if_missing(store->options, 1);
    peer.options_set_filter_policy(store->options, store->filter);
    peer.options_set_cache(store->options, store->cache);
    peer.options_set_write_buffer_size(store->options, (size_t)given->memtable_bytes);
    peer.options_set_compression(store->options, leveldb_snappy_compression);
    peer.options_set_max_open_files(store->options, 1000);
    store->db = peer.open(store->options, given->path, &error);
    check("open", error);
    store->write_options = peer.writeoptions_create();
    peer.writeoptions_set_sync(store->write_options, given->durability == DURABILITY_EACH);
    return store;
}

static void close_store(struct engine_store *store) {
    peer.close(store->db);
    peer.writeoptions_destroy(store->write_options);
    peer.options_destroy(store->options);
    peer.cache_destroy(store->cache);
    peer.filterpolicy_destroy(store->filter);
    free(store);
}

static struct engine_session *session_open(struct engine_store *store, const struct engine_echo *echo) {
    struct engine_session *session = engine_new(sizeof *session);
    (void)echo;
    session->store = store;
    session->batch = peer.writebatch_create();
    session->read_options = peer.readoptions_create();
    peer.readoptions_set_verify_checksums(session->read_options, 1);
    return session;
}

static void release(struct engine_session *session) {
    while (session->copies_count > 0) {
        peer.free(session->copies[--session->copies_count]);
    }
}

static void session_close(struct engine_session *session) {
    release(session);
    peer.writebatch_destroy(session->batch);
    peer.readoptions_destroy(session->read_options);
    free(session);
}

static void apply(struct engine_session *session, const struct engine_update *updates, size_t count,
                  struct slice cursor) {
    leveldb_writebatch_t *batch = session->batch;
    char *error = NULL;
    peer.writebatch_clear(batch);
    for (size_t i = 0; i < count; i++) {
        const struct engine_update *update = &updates[i];
        if (update->deletes) {
            peer.writebatch_delete(batch, update->key.data, update->key.bytes);
        } else {
            peer.writebatch_put(batch, update->key.data, update->key.bytes, update->value.data, update->value.bytes);
        }
    }
    peer.writebatch_put(batch, cursor_key, CURSOR_KEY_BYTES, cursor.data, cursor.bytes);
    peer.write(session->store->db, session->store->write_options, batch, &error);
    check("write", error);
}

static bool get(struct engine_session *session, struct slice key, struct slice *ret_value) {
    char *error = NULL;
    release(session);
    char *copy = peer.get(session->store->db, session->read_options, key.data, key.bytes, &ret_value->bytes, &error);
    check("get", error);
    if (copy == NULL) {
        return false;
    }
    session->copies[0] = copy;
    session->copies_count = 1;
    ret_value->data = copy;
    return true;
}

static bool exists(struct engine_session *session, struct slice key) {
    struct slice value;
    return get(session, key, &value);
}

static void get_many(struct engine_session *session, const struct slice *keys, size_t count, bool *ret_present,
                     struct slice *ret_values) {
    leveldb_t *db = session->store->db;
    const leveldb_snapshot_t *snapshot = peer.create_snapshot(db);
    release(session);
    peer.readoptions_set_snapshot(session->read_options, snapshot);
    for (size_t i = 0; i < count; i++) {
        char *error = NULL;
        char *copy = peer.get(db, session->read_options, keys[i].data, keys[i].bytes, &ret_values[i].bytes, &error);
        check("get", error);
        ret_present[i] = copy != NULL;
        ret_values[i].data = copy;
        session->copies[i] = copy;
    }
    session->copies_count = count;
    peer.readoptions_set_snapshot(session->read_options, NULL);
    peer.release_snapshot(db, snapshot);
}

static void scan(struct engine_session *session, const struct engine_range *range, engine_row *row, void *context) {
    leveldb_iterator_t *iter = peer.create_iterator(session->store->db, session->read_options);
    struct slice from = range->prefix.bytes > 0  ? range->prefix
                        : range->lower.bytes > 0 ? range->lower
                                                 : (struct slice){"\002", 1};
    char *error = NULL;
    if (range->reverse) {
        peer.iter_seek_to_last(iter);
    } else {
        peer.iter_seek(iter, from.data, from.bytes);
    }
    for (uint64_t n = 0; (range->limit == 0 || n < range->limit) && peer.iter_valid(iter); n++) {
        struct slice key, value;
        key.data = peer.iter_key(iter, &key.bytes);
        if (!engine_has_prefix(key, range->prefix) || (range->reverse && *(const char *)key.data == cursor_key[0])) {
            break;
        }
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
    struct slice value;
    if (!get(session, (struct slice){cursor_key, CURSOR_KEY_BYTES}, &value) || value.bytes > ENGINE_CURSOR_BYTES_MAX) {
        return 0;
    }
    memcpy(buffer, value.data, value.bytes);
    return value.bytes;
}

static void sync_store(struct engine_store *store) {
    leveldb_writeoptions_t *options = peer.writeoptions_create();
    leveldb_writebatch_t *batch = peer.writebatch_create();
    char *error = NULL;
    peer.writeoptions_set_sync(options, 1);
    peer.write(store->db, options, batch, &error);
    check("sync", error);
    peer.writebatch_destroy(batch);
    peer.writeoptions_destroy(options);
}

static uint64_t processor_us(void) {
    struct rusage usage;
    (void)getrusage(RUSAGE_SELF, &usage);
    return (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000u +
           (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

/* Compactions sleep only while they wait for the disk, and never 50 ms long. */
static void settle(struct engine_store *store) {
    peer.compact_range(store->db, "\xff\xff", 2, "\xff\xff\xff", 3);
    for (int quiet = 0; quiet < 10;) {
        uint64_t before = processor_us();
        (void)usleep(5000);
        quiet = processor_us() - before < 500 ? quiet + 1 : 0;
    }
}

static void tidy(struct engine_store *store) {
    peer.compact_range(store->db, NULL, 0, NULL, 0);
    settle(store);
}

static void describe(struct engine_store *store, char *text, size_t bytes) {
    size_t at = (size_t)snprintf(text, bytes, "LevelDB %d.%d; assertions %s; tables by level", peer.major_version(),
                                 peer.minor_version(), peer_asserts(store->library, "leveldb_open") ? "on" : "off");
    for (unsigned level = 0; level < 7 && at < bytes; level++) {
        char name[64];
        (void)snprintf(name, sizeof name, "leveldb.num-files-at-level%u", level);
        char *files = peer.property_value(store->db, name);
        at += (size_t)snprintf(text + at, bytes - at, " %s", files != NULL ? files : "?");
        peer.free(files);
    }
}

__attribute__((visibility("default"))) extern const struct engine bench_engine;
const struct engine bench_engine = {
    .name = "leveldb",
    .tuning =
        "10-bit bloom filters, Snappy, write buffer and LRU cache as given, 1,000 open files, checksums verified; the "
        "cursor is a key before all others in the same batch. Modes: none = its default (log written, not "
        "synced), interval = an empty synced batch each second, each = WriteOptions.sync. Settled: memtable "
        "written, no processor used for 50 ms. Compacted by hand before reads are measured.",
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
