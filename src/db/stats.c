/* stats.c - one consistent-enough picture of the store in numbers, and the check of everything on disk. */
#include "db/db.h"
#include "sstable/table_files.h"

#include <string.h>

static uint64_t stats_load(const _Atomic uint64_t *counter) {
    return atomic_load_explicit(counter, memory_order_relaxed); /* a statistic: no partner */
}

static void stats_memtables(struct pleat_db *db, struct pleat_stats *stats) {
    struct view *view;
    if (view_acquire(db, &view, NULL) < 0) {
        return;
    }
    for (unsigned i = 0; i < view->count; i++) {
        const struct generation *generation = view->generations[i];
        uint64_t bytes = arena_used(generation->arena);
        if (i == 0) {
            stats->memtable_bytes = bytes;
        } else {
            stats->frozen_bytes += bytes;
        }
        for (uint32_t slot = 0; slot < view->version->slots; slot++) {
            const struct tree *tree = view->version->trees[slot];
            const struct memtable *table = tree != NULL ? generation_table(generation, slot, tree->space.id) : NULL;
            if (table != NULL) {
                struct memtable_stats memtable;
                memtable_stats_read(table, &memtable);
                stats->memtable_entries += memtable.records;
            }
        }
    }
    view_unref(view);
}

static void stats_levels(const struct version *version, struct pleat_stats *stats) {
    for (uint32_t slot = 0; slot < version->slots; slot++) {
        const struct tree *tree = version->trees[slot];
        stats->spaces += tree != NULL;
        for (unsigned level = 0; tree != NULL && level < LIMIT_LEVELS; level++) {
            stats->levels[level].tables += tree->levels[level].count;
            stats->levels[level].file_bytes += tree->levels[level].file_bytes;
            stats->levels[level].entries += tree->levels[level].entries;
            stats->levels[level].tombstones += tree->levels[level].tombstones;
        }
    }
}

int pleat_stats_read(struct pleat_db *db, struct pleat_stats *ret_stats, struct pleat_error *err) {
    error_clear(err);
    if (db == NULL || ret_stats == NULL) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "%s is NULL", db == NULL ? "db" : "ret_stats");
    }
    int rc = db_check_owner(db, err);
    if (rc < 0) {
        return rc;
    }
    if (ret_stats->size < sizeof(size_t)) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "stats: size is %zu, the least is %zu", ret_stats->size,
                         sizeof(size_t));
    }
    struct pleat_stats stats;
    memset(&stats, 0, sizeof stats);
    stats.history = atomic_load_explicit(&db->history, memory_order_relaxed); /* set at open */
    stats.durable_sequence = db_durable(db);
    stats.applied_sequence = view_applied(db);
    stats.snapshots = stats_load(&db->outstanding_snapshots);
    stats_memtables(db, &stats);
    struct version *version = registry_current(db->registry);
    stats_levels(version, &stats);
    stats.debt_bytes = compaction_debt(version, &db->shape);
    version_unref(version);
    struct cache_stats cache;
    cache_stats_read(db->cache, &cache);
    stats.cache_capacity_bytes = cache.capacity_bytes;
    stats.cache_used_bytes = cache.used_bytes;
    stats.cache_hits = cache.hits;
    stats.cache_misses = cache.misses;
    stats.delay_ns = db->read_only ? 0 : flow_delay_ns(db);
    stats.delayed_ns_total = stats_load(&db->counters.delayed_ns);
    mutex_lock(&db->sync_mu);
    for (const struct segment *segment = db->segments; segment != NULL; segment = segment->next) {
        stats.log_bytes += segment->writer != NULL ? wal_writer_used(segment->writer) : 0;
    }
    mutex_unlock(&db->sync_mu);
    stats.commits = stats_load(&db->counters.commits);
    stats.updates = stats_load(&db->counters.updates);
    stats.bytes_given = stats_load(&db->counters.bytes_given);
    stats.bytes_log = stats_load(&db->counters.bytes_log);
    stats.bytes_flushed = stats_load(&db->counters.bytes_flushed);
    stats.bytes_compacted_in = stats_load(&db->counters.bytes_in);
    stats.bytes_compacted_out = stats_load(&db->counters.bytes_out);
    stats.flushes = stats_load(&db->counters.flushes);
    stats.compactions = stats_load(&db->counters.compactions);
    stats.moves = stats_load(&db->counters.moves);
    stats.syncs = stats_load(&db->counters.syncs);
    struct table_files *files = registry_store(db->registry)->files;
    stats.table_files_open = table_files_count(files);
    stats.table_file_opens = stats_load(&files->opens);
    stats.size = ret_stats->size;
    memcpy(ret_stats, &stats, ret_stats->size < sizeof stats ? ret_stats->size : sizeof stats);
    return 0;
}

int pleat_check(struct pleat_db *db, struct pleat_check *ret_check, struct pleat_error *err) {
    error_clear(err);
    if (db == NULL || ret_check == NULL) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "%s is NULL", db == NULL ? "db" : "ret_check");
    }
    int rc = db_check_owner(db, err);
    if (rc < 0) {
        return rc;
    }
    struct pleat_check check = {0};
    struct registry_state state;
    registry_state_read(db->registry, &state);
    check.manifest_edits = state.edits;
    check.bytes = state.manifest_bytes;
    check.log_segments = db->recovered_segments; /* read and checked when the store was opened */
    check.log_records = db->recovered_records;
    struct version *version = registry_current(db->registry);
    rc = version_verify(version, err);
    for (uint32_t slot = 0; rc == 0 && slot < version->slots; slot++) {
        const struct tree *tree = version->trees[slot];
        for (unsigned level = 0; rc == 0 && tree != NULL && level < LIMIT_LEVELS; level++) {
            for (size_t i = 0; rc == 0 && i < tree->levels[level].count; i++) {
                struct table_check table = {0};
                rc = table_verify(registry_store(db->registry), &tree->levels[level].tables[i]->meta,
                                  &tree->space.grouping, &table, err);
                check.tables += rc == 0;
                check.blocks += table.blocks;
                check.entries += table.entries;
                check.bytes += table.bytes;
            }
        }
    }
    version_unref(version);
    *ret_check = check;
    return rc;
}
