/*
 * open.c - a handle's beginning and end: directory, lock, registry, recovery, threads; and the sticky error.
 *
 *   list -> lock -> list again -> registry (open or create) -> recover -> view -> log thread, workers
 *
 *   O1  Before the lock is held and the manifest is read, nothing is written but the lock file, and that only into a
 *       directory that is empty or already a store's.
 *   O2  A directory without MANIFEST is a new store only if nothing but our own leftovers of a creation is in it;
 *       tables or log segments without a MANIFEST are damage, foreign files are refused.
 *   O3  Close writes everything to tables, marks the manifest clean, and only then removes the last log segment.
 */
#include "base/assert.h"
#include "db/db.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- health ----------------------------------------------------------------------------------------------------- */

void db_log(const struct pleat_db *db, int level, const char *format, ...) {
    if (db->options.on_log == NULL) {
        return;
    }
    char message[512];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    db->options.on_log(db->options.on_log_context, level, message);
}

int db_health(const struct pleat_db *db, struct pleat_error *err) {
    int code = atomic_load_explicit(&db->poison, memory_order_acquire); /* pairs with the release in db_poison */
    if (UNLIKELY(code != 0)) {
        (void)error_set(err, code, db->sticky.os_errno, "%s", db->sticky.message);
    }
    return code;
}

int db_poison(struct pleat_db *db, const struct pleat_error *error) {
    mutex_lock(&db->sticky_mu);
    int code = atomic_load_explicit(&db->poison, memory_order_relaxed); /* own stores: sticky_mu is held */
    bool first = code == 0;
    if (first) {
        /* Out of space or memory means for callers that nothing has changed and it may go on later. Not here: os_errno
         * keeps the reason. */
        bool is_passing = error->code == PLEAT_ERR_NO_SPACE || error->code == PLEAT_ERR_NO_MEMORY || error->code == 0;
        code = is_passing ? PLEAT_ERR_IO : error->code;
        db->sticky = *error;
        db->sticky.code = code;
        atomic_store_explicit(&db->poison, code, memory_order_release); /* pairs with the acquire in db_health */
    }
    mutex_unlock(&db->sticky_mu);
    if (first) {
        db_log(db, PLEAT_LOG_ERROR, "the store is read-only from here on: %s", error->message);
    }
    return code;
}

void db_poison_by_registry(struct pleat_db *db) {
    struct pleat_error failure = {0};
    if (registry_health(db->registry, &failure) < 0) {
        (void)db_poison(db, &failure);
    }
}

int db_writable(const struct pleat_db *db, struct pleat_error *err) {
    if (UNLIKELY(db->read_only)) {
        return error_set(err, PLEAT_ERR_READ_ONLY, 0, "the store was opened read-only");
    }
    int rc = db_check_owner(db, err);
    return rc < 0 ? rc : db_health(db, err);
}

int db_check_owner(const struct pleat_db *db, struct pleat_error *err) {
    if (UNLIKELY(!fork_guard_is_owner(db->guard))) {
        return error_set(err, PLEAT_ERR_FORKED, 0, "the store was opened before a fork, this is the child");
    }
    return 0;
}

int pleat_health(const struct pleat_db *db, struct pleat_error *err) {
    error_clear(err);
    return db != NULL ? db_health(db, err) : error_set(err, PLEAT_ERR_INVALID, 0, "db is NULL");
}

/* ---- the directory ---------------------------------------------------------------------------------------------- */

static int listing_add(const struct mem *mem, uint64_t **numbers, size_t *count, size_t *capacity, uint64_t number) {
    if (*count == *capacity) {
        size_t grown = *capacity > 0 ? *capacity * 2 : 16;
        uint64_t *more = mem_resize(mem, *numbers, grown * sizeof **numbers);
        if (more == NULL) {
            return PLEAT_ERR_NO_MEMORY;
        }
        *numbers = more;
        *capacity = grown;
    }
    (*numbers)[(*count)++] = number;
    return 0;
}

static int listing_take(void *context, const char *name) {
    struct db_listing *listing = context;
    uint64_t number;
    if (wal_name_parse(name, &number)) {
        return listing_add(listing->mem, &listing->segments, &listing->segment_count, &listing->segment_capacity,
                           number);
    }
    if (table_name_parse(name, &number)) {
        return listing_add(listing->mem, &listing->tables, &listing->table_count, &listing->table_capacity, number);
    }
    if (strcmp(name, "MANIFEST") == 0) {
        listing->has_manifest = true;
    } else if (strcmp(name, DB_LOCK_NAME) == 0) {
        listing->has_lock = true;
    } else if (strcmp(name, "MANIFEST.new") == 0) {
        listing->has_leftover = true;
    } else if (strcmp(name, "lost+found") != 0 && listing->foreign[0] == '\0') {
        (void)snprintf(listing->foreign, sizeof listing->foreign, "%s", name);
    }
    return 0;
}

static int listing_order(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

int db_list(struct pleat_db *db, struct db_listing *ret_listing, struct pleat_error *err) {
    memset(ret_listing, 0, sizeof *ret_listing);
    ret_listing->mem = db->mem;
    int rc = db->vfs->dir_list(db->dir, listing_take, ret_listing, err);
    if (rc < 0) {
        db_listing_fini(ret_listing);
        return rc == PLEAT_ERR_NO_MEMORY ? error_no_memory(err, "a directory listing", 0) : rc;
    }
    if (ret_listing->segment_count > 0) {
        qsort(ret_listing->segments, ret_listing->segment_count, sizeof *ret_listing->segments, listing_order);
    }
    if (ret_listing->table_count > 0) {
        qsort(ret_listing->tables, ret_listing->table_count, sizeof *ret_listing->tables, listing_order);
    }
    return 0;
}

void db_listing_fini(struct db_listing *listing) {
    mem_free(listing->mem, listing->segments);
    mem_free(listing->mem, listing->tables);
    listing->segments = NULL;
    listing->tables = NULL;
}

/* O2. 0 when the directory is a store or may become one. */
static int open_check_listing(const struct db_listing *listing, const char *path, const struct pleat_options *options,
                              struct pleat_error *err) {
    if (listing->has_manifest) {
        return options->open_mode == PLEAT_MUST_NOT_EXIST
                   ? error_set(err, PLEAT_ERR_EXISTS, 0, "%.120s holds a store already", path)
                   : 0;
    }
    if (listing->segment_count + listing->table_count > 0) {
        return error_set(
            err, PLEAT_ERR_CORRUPT, 0,
            "%.120s: MANIFEST: damaged at offset 0: the file is missing beside %zu tables and %zu log segments", path,
            listing->table_count, listing->segment_count);
    }
    if (listing->foreign[0] != '\0') {
        return error_set(err, PLEAT_ERR_INVALID, 0, "%.120s is no store: it holds \"%.60s\"", path, listing->foreign);
    }
    if (options->open_mode == PLEAT_MUST_EXIST || options->read_only) {
        return error_set(err, PLEAT_ERR_NOT_FOUND, 0, "%.120s holds no store", path);
    }
    return 0;
}

/* ---- open ------------------------------------------------------------------------------------------------------- */

static int open_primitives(struct pleat_db *db, struct pleat_error *err) {
    int os_errno = 0;
    struct {
        struct mutex *mutex;
        enum mutex_rank rank;
    } mutexes[] = {{&db->open_mu, RANK_OPEN},       {&db->commit_mu, RANK_COMMIT}, {&db->view_mu, RANK_VIEW},
                   {&db->cursors_mu, RANK_CURSORS}, {&db->sync_mu, RANK_SYNC},     {&db->work_mu, RANK_SCHEDULER},
                   {&db->sweep_mu, RANK_LEAF},      {&db->sticky_mu, RANK_LEAF},   {&db->names_mu, RANK_SYNC}};
    struct condition *conditions[] = {&db->sync_done, &db->log_wake, &db->work_done};
    for (size_t i = 0; os_errno == 0 && i < sizeof mutexes / sizeof mutexes[0]; i++) {
        os_errno = mutex_init(mutexes[i].mutex, mutexes[i].rank);
    }
    for (size_t i = 0; os_errno == 0 && i < sizeof conditions / sizeof conditions[0]; i++) {
        os_errno = condition_init(conditions[i]);
    }
    thread_barrier_init();
    cursor_set_init(&db->cursors, db->mem);
    cursor_set_init(&db->durable_cursors, db->mem);
    cursor_set_init(&db->sync_cursors, db->mem);
    db->guard = fork_guard_new();
    return os_errno != 0 ? error_set(err, PLEAT_ERR_NO_MEMORY, os_errno, "no room for a mutex (errno %d)", os_errno)
                         : 0;
}

static int open_directory(struct pleat_db *db, const char *path, struct db_listing *ret_listing,
                          struct pleat_error *err) {
    bool may_create = !db->read_only && db->options.open_mode != PLEAT_MUST_EXIST;
    int rc = db->vfs->dir_open(db->vfs, db->mem, path, may_create ? VFS_DIR_CREATE : VFS_DIR_EXISTING,
                               db->options.file_mode, &db->dir, err);
    if (rc < 0) {
        return rc;
    }
    rc = db_list(db, ret_listing, err);
    if (rc < 0) {
        return rc;
    }
    rc = open_check_listing(ret_listing, path, &db->options, err);
    if (rc == 0) {
        int64_t holder = 0;
        rc = db->vfs->dir_lock(db->dir, DB_LOCK_NAME, db->read_only, db->options.file_mode, &db->lock, &holder, err);
    }
    db_listing_fini(ret_listing);
    if (rc < 0) {
        return rc;
    }
    rc = db_list(db, ret_listing, err); /* what stands there now that nobody else changes it */
    rc = rc == 0 ? open_check_listing(ret_listing, path, &db->options, err) : rc;
    return rc;
}

/* F7: asking again would prove nothing. A disk that is full says so of a file that is then written anew. */
static void open_sync_failed(void *context, const struct pleat_error *error) {
    if (error->code != PLEAT_ERR_NO_SPACE) {
        (void)db_poison(context, error);
    }
}

static int open_registry(struct pleat_db *db, const struct db_listing *listing, struct pleat_error *err) {
    struct registry_options options = {
        .store = {.vfs = db->vfs,
                  .dir = db->dir,
                  .mem = db->mem,
                  .cache = db->cache,
                  .file_mode = db->options.file_mode,
                  .on_sync_failed = open_sync_failed,
                  .sync_context = db},
        .lock = db->lock,
        .read_only = db->read_only,
        .rewrite_bytes_min = 64u << 10,
        .table_files_max = db->options.table_files_max,
        .on_version = view_on_version,
        .context = db,
    };
    if (listing->has_manifest) {
        return registry_open(&options, &db->registry, err);
    }
    struct pleat_space_options space_options;
    struct space_info info;
    int rc = space_options_resolve(NULL, &space_options, err);
    if (rc == 0) {
        space_info_fill(&info, 0, (struct pleat_slice){"default", 7}, &space_options);
        rc = registry_create(&options, &info, &db->registry, err);
    }
    return rc;
}

static int open_memory(struct pleat_db *db, struct pleat_error *err) {
    int rc = 0;
    if (db->options.cache != NULL) {
        db->cache = db->options.cache->cache;
    } else {
        rc = cache_new(db->mem, db->options.cache_bytes, &db->cache, err);
        db->owns_cache = rc == 0;
    }
    if (rc == 0) {
        db->epoch = cache_epoch(db->cache);
        rc = arena_pool_new(db->mem, (size_t)generation_arena_bytes(&db->options), 2, &db->pool, err);
    }
    return rc;
}

static int open_threads(struct pleat_db *db, struct pleat_error *err) {
    /* What is read-only has nothing to write, and nothing that a sync could make durable. */
    bool threads = db->options.background == PLEAT_BACKGROUND_THREADS && !db->read_only;
    struct scheduler_client client = {.run = work_run, .context = db, .poll_ns = 250000000};
    db->processors = thread_processors();
    int rc = scheduler_new(db->mem, threads ? db->options.background_threads : 0, &client, &db->scheduler, err);
    return rc == 0 && threads ? sync_thread_start(db, err) : rc;
}

static int open_default_space(struct pleat_db *db, struct pleat_error *err) {
    struct pleat_slice name = {"default", 7};
    return pleat_space_open(db, name, PLEAT_SPACE_OPTIONS(.open_mode = PLEAT_MUST_EXIST), &db->default_space, err);
}

/* The view, the first segment of this life, and the positions that recovery found. */
static int open_start(struct pleat_db *db, struct recovered *recovered, struct pleat_error *err) {
    uint64_t applied = db_applied(db);
    int rc = 0;
    if (!db->read_only) {
        uint64_t number;
        struct generation *active;
        rc = registry_file_number(db->registry, &number, err);
        rc = rc == 0 ? generation_new(db, 0, number, applied + 1, &active, err) : rc;
        if (rc < 0) {
            return rc;
        }
        ASSERT(recovered->count < DB_GENERATIONS_MAX);
        memmove(recovered->generations + 1, recovered->generations, recovered->count * sizeof active);
        recovered->generations[0] = active;
        /* A new chain when everything before is in tables (F11), so that there is no predecessor to name; else the old
         * one goes on (Q10). */
        bool goes_on = recovered->count++ > 0 && !MUTATION(recover_goes_on);
        struct wal_tail none = {.segment = 0, .last_sequence = applied, .running_hash = 0};
        rc = segment_start(db, number, applied + 1, goes_on ? recovered->tail : none, 0, &db->active_segment, err);
        db->active = active;
    }
    struct version *version = registry_current(db->registry);
    rc = rc == 0 ? view_start(db, recovered->generations, recovered->count, version, err) : rc;
    if (rc == 0 && !db->read_only) {
        flow_init(db, version);
    }
    version_unref(version);
    recovered_release(recovered); /* the view holds them now, or nobody does */
    if (rc < 0) {
        db->active = NULL;
    }
    return rc;
}

static void open_close_parts(struct pleat_db *db);

int db_open_with(const char *path, const struct pleat_options *given, const struct vfs *vfs, const struct mem *mem,
                 struct pleat_db **ret_db, struct pleat_error *err) {
    if (path == NULL || ret_db == NULL) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "%s is NULL", path == NULL ? "path" : "ret_db");
    }
    struct pleat_db *db = mem_zalloc(mem, 1, sizeof *db);
    if (db == NULL) {
        return error_no_memory(err, "a store handle", sizeof *db);
    }
    db->vfs = vfs;
    db->mem = mem;
    struct db_listing listing = {.mem = mem};
    struct recovered recovered = {.count = 0};
    int rc = options_resolve(given, &db->options, err);
    db->read_only = db->options.read_only;
    db->shape = (struct compaction_options){
        .table_bytes = db->options.table_bytes,
        .level_base_bytes = db->options.level_base_bytes,
        .level_ratio = db->options.level_ratio,
        .level0_tables = db->options.level0_tables,
    };
    rc = rc == 0 ? open_primitives(db, err) : rc;
    db->opened = rc == 0;
    rc = rc == 0 ? open_memory(db, err) : rc;
    rc = rc == 0 ? open_directory(db, path, &listing, err) : rc;
    rc = rc == 0 ? open_registry(db, &listing, err) : rc;
    rc = rc == 0 ? db_recover(db, &listing, &recovered, err) : rc;
    rc = rc == 0 ? open_start(db, &recovered, err) : rc;
    rc = rc == 0 ? open_threads(db, err) : rc;
    rc = rc == 0 ? open_default_space(db, err) : rc;
    db_listing_fini(&listing);
    if (rc < 0) {
        recovered_release(&recovered);
        open_close_parts(db);
        return rc;
    }
    db_log(db, PLEAT_LOG_INFO, "opened at sequence %" PRIu64 " of history %" PRIu64, db_applied(db),
           atomic_load_explicit(&db->history, memory_order_relaxed));
    *ret_db = db;
    return 0;
}

int pleat_open(const char *path, const struct pleat_options *options, struct pleat_db **ret_db,
               struct pleat_error *err) {
    error_clear(err);
    return db_open_with(path, options, &vfs_posix, &mem_system, ret_db, err);
}

/* ---- close ------------------------------------------------------------------------------------------------------ */

/* Frees whatever is there, in the reverse order of open; writes nothing. */
static void open_close_parts(struct pleat_db *db) {
    const struct mem *mem = db->mem;
    if (db->opened) {
        sync_thread_stop(db);
        scheduler_free(db->scheduler);
        struct view *view = atomic_load_explicit(&db->view, memory_order_relaxed); /* no other thread is left */
        if (view != NULL) {
            epoch_synchronize(db->epoch);
            view_sweep(db, false);
            view_unref(view);
        }
        while (db->spare_views != NULL) {
            view_unreserve(db);
        }
        sync_close_segments(db);
        segment_close_spare(db);
    }
    while (db->spaces != NULL) {
        struct pleat_space *next = db->spaces->next;
        mem_free(mem, db->spaces);
        db->spaces = next;
    }
    registry_free(db->registry);
    arena_pool_free(db->pool);
    if (db->owns_cache) {
        cache_free(db->cache);
    }
    if (db->lock != NULL) {
        db->vfs->lock_release(db->lock);
    }
    if (db->dir != NULL) {
        db->vfs->dir_close(db->dir);
    }
    if (db->opened) {
        cursor_set_fini(&db->cursors);
        cursor_set_fini(&db->durable_cursors);
        cursor_set_fini(&db->sync_cursors);
        fork_guard_free(db->guard);
        struct mutex *mutexes[] = {&db->open_mu, &db->commit_mu, &db->view_mu,  &db->cursors_mu,
                                   &db->sync_mu, &db->work_mu,   &db->sweep_mu, &db->sticky_mu,
                                   &db->names_mu};
        for (size_t i = 0; i < sizeof mutexes / sizeof mutexes[0]; i++) {
            mutex_fini(mutexes[i]);
        }
        condition_fini(&db->sync_done);
        condition_fini(&db->log_wake);
        condition_fini(&db->work_done);
    }
    mem_free(mem, db);
}

/* O3: everything into tables, and the manifest marked clean. */
static int close_write(struct pleat_db *db, struct pleat_error *err) {
    mutex_lock(&db->commit_mu);
    int rc = generation_flush_all(db, err);
    mutex_unlock(&db->commit_mu);
    if (rc < 0) {
        return rc;
    }
    atomic_store_explicit(&db->cancel, true,
                          memory_order_relaxed); /* a request: running compactions look now and then */
    scheduler_stop(db->scheduler);
    sync_thread_stop(db);
    segment_drop_spare(db);
    struct edit edit;
    edit_init(&edit, db->mem);
    rc = cursor_set_reserve(&edit.cursors, db->cursors.count, err);
    if (rc == 0) {
        cursor_set_assign(&edit.cursors, &db->cursors);
        edit.has_position = true;
        edit.last_sequence = db_applied(db);
        edit.log_floor = db->active->segment + 1;
        edit.has_clean = true;
        edit.clean = true;
        /* Dead by the edit, so the storage is let go of first: the floor must not name a segment in use. */
        mutex_lock(&db->sync_mu);
        db->active_segment->sealed = true;
        db->active_segment->last_sequence = edit.last_sequence;
        mutex_unlock(&db->sync_mu);
        rc = view_apply(db, &edit, err);
    }
    if (rc == 0) {
        sync_flushed(db, edit.last_sequence, &edit.cursors);
        sync_unlink_dead(db, edit.log_floor, true);
    }
    edit_fini(&edit);
    return rc;
}

static int close_check_outstanding(const struct pleat_db *db, struct pleat_error *err) {
    /* acquire: pairs with the releases in the _free and _release functions */
    uint64_t snapshots = atomic_load_explicit(&db->outstanding_snapshots, memory_order_acquire);
    uint64_t iterators = atomic_load_explicit(&db->outstanding_iterators, memory_order_acquire);
    uint64_t values = atomic_load_explicit(&db->outstanding_values, memory_order_acquire);
    if (snapshots + iterators + values > 0) {
        return error_set(err, PLEAT_ERR_INVALID, 0,
                         "%" PRIu64 " snapshots, %" PRIu64 " iterators and %" PRIu64
                         " pinned values are out, the limit is 0",
                         snapshots, iterators, values);
    }
    return 0;
}

int pleat_close(struct pleat_db *db, struct pleat_error *err) {
    error_clear(err);
    if (db == NULL) {
        return 0;
    }
    if (!fork_guard_is_owner(db->guard)) {
        /* The threads to be joined are the parent's, and so are the lock and the log: the copy is left alone. */
        return error_set(err, PLEAT_ERR_FORKED, 0, "the store was opened before a fork, this is the child");
    }
    int rc = close_check_outstanding(db, err);
    if (rc < 0) {
        return rc;
    }
    if (!db->read_only) {
        rc = db_health(db, err);
        rc = rc == 0 ? close_write(db, err) : rc;
    }
    open_close_parts(db);
    return rc;
}

int pleat_cache_new(uint64_t capacity_bytes, struct pleat_cache **ret_cache, struct pleat_error *err) {
    error_clear(err);
    if (ret_cache == NULL || capacity_bytes < 65536) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "capacity of %" PRIu64 " bytes%s, the least is 65536",
                         capacity_bytes, ret_cache == NULL ? ", ret_cache is NULL" : "");
    }
    struct pleat_cache *cache = mem_zalloc(&mem_system, 1, sizeof *cache);
    if (cache == NULL) {
        return error_no_memory(err, "a cache", sizeof *cache);
    }
    thread_barrier_init();
    int rc = cache_new(&mem_system, capacity_bytes, &cache->cache, err);
    if (rc < 0) {
        mem_free(&mem_system, cache);
        return rc;
    }
    *ret_cache = cache;
    return 0;
}

void pleat_cache_free(struct pleat_cache *cache) {
    if (cache != NULL) {
        cache_free(cache->cache);
        mem_free(&mem_system, cache);
    }
}
