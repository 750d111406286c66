/*
 * warm.c - new tables take over the places in the cache that older ones had for the same keys.
 *
 * A flush or compaction leaves tables of which no block is cached, however hot their keys are: each reader would load
 * its block anew while it waits, right after every change of the tree. Most of what was read is kept as it is written
 * (compaction/output.c), and the new tables are warm when they appear. Here the thread that did the job loads what was
 * not kept for want of room, at the score that compaction/heat.h says, and drops what it replaces. A store that nobody
 * reads does not even open its new tables here.
 *
 *   W1  A block is loaded only where a used one of an older table lies: carrying is bounded by what readers loaded.
 *       Pages of index and filter are loaded for a table that has such a block, as long as the cache has room.
 *   W2  When the older table goes away with the change, its block is dropped as the new one is loaded: the cache does
 *       not hold both, and the new frame gets memory that has been touched.
 *       In level 0, where the older block stays beside the new one, that holds only while the cache is less than half
 *       full: a run there is soon merged, and must not push out what outlives it.
 *   W3  This is advice: it waits for nobody, stops when a flush waits or the store closes, and its failures are left to
 *       the reader who meets them.
 */
#include "base/bytes.h"
#include "compaction/heat.h"
#include "db/db.h"

#define WARM_BLOCKS 16 /* between two looks at what else there is to do */

struct warm {
    struct pleat_db *db;
    struct heat heat; /* of the tree before */
    void (*pause)(void *context);
    uint8_t *key;               /* room for one */
    const struct table *dropped; /* of which this block was dropped last (W2) */
    uint32_t dropped_block;
};

/* The score of what lay at the key before the change. Inside an epoch. */
static uint8_t warm_score(struct warm *warm, struct pleat_slice key) {
    struct heat *heat = &warm->heat;
    uint8_t score = heat_at(heat, key);
    if (score == 0 || (heat->table == warm->dropped && heat->block == warm->dropped_block)) {
        return score;
    }
    /* Relaxed: set before the version without it was published, which the caller waited for. */
    if (atomic_load_explicit(&heat->ref->obsolete, memory_order_relaxed)) {
        table_block_drop(heat->table, heat->block); /* W2 */
        warm->dropped = heat->table;
        warm->dropped_block = heat->block;
    }
    return score;
}

/* W3: false when it is time to stop. */
static bool warm_breathe(struct warm *warm) {
    struct pleat_db *db = warm->db;
    if (atomic_load_explicit(&db->cancel, memory_order_relaxed)) { /* a hint here: no partner */
        return false;
    }
    if (warm->pause != NULL) {
        warm->pause(db);
        return true;
    }
    return !view_frozen_hint(db);
}

/* Whether any older table in the range of the new one has blocks in use (W1). */
static bool warm_is_due(const struct tree *before, const struct table_meta *meta) {
    for (unsigned l = 0; l < LIMIT_LEVELS; l++) {
        for (size_t i = 0; i < before->levels[l].count; i++) {
            const struct table_ref *ref = before->levels[l].tables[i];
            struct table *table = heat_opened(ref);
            if (table != NULL &&
                key_compare(ref->meta.smallest, ref->meta.smallest_bytes, meta->largest, meta->largest_bytes) <= 0 &&
                key_compare(ref->meta.largest, ref->meta.largest_bytes, meta->smallest, meta->smallest_bytes) >= 0 &&
                table_is_used(table)) {
                return true;
            }
        }
    }
    return false;
}

/* One block, inside an epoch: 0, PLEAT_ABSENT behind the last, or an error. */
static int warm_block(struct warm *warm, struct table *table, uint32_t block) {
    struct table_place place;
    int rc = table_block_place(table, block, &place, NULL);
    if (rc != 0) {
        return rc;
    }
    struct pleat_slice key = {warm->key, table_block_lower(table, &place, warm->key)};
    uint8_t score = warm_score(warm, key);
    return score > 0 ? table_block_carry(table, &place, score - 1, NULL) : 0;
}

/* One page of index or filter, the same way. */
static int warm_page(struct warm *warm, struct table *table, uint32_t page) {
    (void)warm;
    return table_page_carry(table, page, NULL);
}

/* Steps until one is not 0. False: it is time to stop, or one failed. */
static bool warm_each(struct warm *warm, struct table *table,
                      int (*step)(struct warm *warm, struct table *table, uint32_t i)) {
    int rc = 0;
    for (uint32_t i = 0; rc == 0; i++) {
        struct epoch_slot *slot;
        if ((i % WARM_BLOCKS == 0 && !warm_breathe(warm)) || epoch_enter(warm->db->epoch, &slot) < 0) {
            return false;
        }
        rc = step(warm, table, i);
        epoch_leave(slot);
    }
    return rc == PLEAT_ABSENT;
}

static void warm_table(struct pleat_db *db, const struct tree *before, struct table_ref *ref,
                       void (*pause)(void *context)) {
    struct warm warm = {.db = db, .pause = pause};
    heat_init(&warm.heat, before);
    struct table *table;
    if (!warm_is_due(before, &ref->meta) || table_ref_open(ref, &table, NULL) < 0) {
        return;
    }
    warm.key = mem_alloc(db->mem, LIMIT_KEY_BYTES);
    if (warm.key != NULL && warm_each(&warm, table, warm_page)) {
        (void)warm_each(&warm, table, warm_block);
    }
    mem_free(db->mem, warm.key);
}

/* W2: whether what is added to this level has room. */
static bool warm_has_room(const struct cache_stats *stats, const struct edit_table *added) {
    return added->level > 0 || stats->used_bytes + added->meta.file_bytes <= stats->capacity_bytes / 2;
}

/* The table of this number in a level, or NULL: another job has taken it away. */
static struct table_ref *warm_find(const struct level *level, const struct table_meta *meta) {
    for (size_t i = 0; i < level->count; i++) {
        if (level->tables[i]->meta.number == meta->number) {
            return level->tables[i];
        }
    }
    return NULL;
}

void warm_added(struct pleat_db *db, const struct version *before, const struct edit *edit,
                void (*pause)(void *context)) {
    struct cache_stats stats;
    cache_stats_read(db->cache, &stats);
    if (stats.misses == 0) {
        return; /* nobody reads: not even a look at the slots of many tables */
    }
    struct version *after = registry_current(db->registry);
    for (size_t i = 0; i < edit->added_count; i++) {
        const struct edit_table *added = &edit->added[i];
        int slot = version_slot(after, added->space);
        const struct tree *older = slot >= 0 ? before->trees[slot] : NULL;
        if (older == NULL || older->space.id != added->space || !warm_has_room(&stats, added)) {
            continue;
        }
        struct table_ref *ref = warm_find(&after->trees[slot]->levels[added->level], &added->meta);
        if (ref != NULL) {
            warm_table(db, older, ref, pause);
        }
    }
    version_unref(after);
}
