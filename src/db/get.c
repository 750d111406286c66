/*
 * get.c - point reads: wait-free of the writer, no pins, no read-modify-write on the way.
 *
 *   epoch -> view -> sequence -> memtables, newest first -> candidate tables: filter -> index -> block -> copy or pin
 *
 *   R1  The view is loaded before the sequence (D1).
 *   R2  The search stops at the first hit, which may be a tombstone: memtables are asked newest first, level 0 newest
 *       first, then levels 1 to 6, and a lower place always holds what is newer (V2, V3). That is why it is right.
 *   R3  What leaves the call is copied (small) or pinned: a block by its frame, a memtable record by its generation.
 */
#include "base/assert.h"
#include "base/bytes.h"
#include "base/hash.h"
#include "db/db.h"

#include <inttypes.h>
#include <string.h>

#define CANDIDATES_MAX 64
/* Keys that a pleat_get_many looks for at the same time: more loads in flight than a core has places for. */
#define GET_GROUP 16
/* A two-bit counter of a thread's luck: see get_find. */
#define HINT_PRESENT 2u
#define HINT_MAX 3u

/* Where a found entry lives: exactly one of the two, valid inside the epoch. */
struct get_home {
    struct generation *generation;
    struct cache_frame *frame;
};

int read_check(const struct pleat_space *space, const struct pleat_snapshot *snapshot, struct pleat_slice key,
               struct pleat_error *err) {
    if (space == NULL) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "space is NULL");
    }
    if (snapshot != NULL && snapshot->db != space->db) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "the snapshot is of another store than the space");
    }
    /* Relaxed: a drop that runs at the same time may be seen now or at the next call. */
    if (UNLIKELY(snapshot == NULL && atomic_load_explicit(&space->dropped, memory_order_relaxed))) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "the space (id %" PRIu32 ") has been dropped", space->info.id);
    }
    if (UNLIKELY(key.bytes > LIMIT_KEY_BYTES)) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "key of %zu bytes, the limit is %u", key.bytes, LIMIT_KEY_BYTES);
    }
    if (UNLIKELY(key.data == NULL && key.bytes > 0)) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "key is NULL with a length of %zu bytes", key.bytes);
    }
    if (UNLIKELY(!fork_guard_is_owner(space->db->guard))) {
        return error_set(err, PLEAT_ERR_FORKED, 0, "the store was opened before a fork, this is the child");
    }
    return 0;
}

/* What is known of a key that is being looked for: the tables that are candidates, newest first. */
struct probe {
    const struct pleat_space *space;
    const uint8_t *key;
    size_t key_bytes;
    uint64_t hash;
    const struct tree *tree;
    struct memtable *memtables[DB_GENERATIONS_MAX];
    unsigned level;      /* where the candidates behind those of `tables` begin ... */
    size_t level0_index; /* ... and in level 0 at which table */
    unsigned next;       /* of `tables`: those in front of it have been asked */
    unsigned count;      /* of `tables` */
    struct table_place place;      /* in tables[next], once it has been selected */
    struct table_place last_place; /* in the last of `tables`; a NULL node: not known */
    struct table *tables[CANDIDATES_MAX];
};

/* Collects the next candidates, their filter lines on the way: 0 (none left when count is 0), or an error. */
static int probe_candidates(struct probe *probe, struct pleat_error *err) {
    probe->next = probe->count = 0;
    probe->last_place.node = NULL;
    for (; probe->level < LIMIT_LEVELS; probe->level++, probe->level0_index = 0) {
        const struct level *at = &probe->tree->levels[probe->level];
        if (at->count == 0) {
            continue;
        }
        bool sorted = probe->level > 0;
        size_t first = sorted ? level_find(at, probe->key, probe->key_bytes) : probe->level0_index;
        size_t end = sorted ? (first < at->count ? first + 1 : first) : at->count;
        for (size_t i = first; i < end; i++) {
            if (probe->count == CANDIDATES_MAX) {
                probe->level0_index = i;
                return 0;
            }
            struct table_ref *ref = at->tables[i];
            const struct table_meta *meta = &ref->meta;
            if (key_compare(probe->key, probe->key_bytes, meta->smallest, meta->smallest_bytes) < 0 ||
                (!sorted && key_compare(probe->key, probe->key_bytes, meta->largest, meta->largest_bytes) > 0)) {
                continue;
            }
            int rc = table_ref_open(ref, &probe->tables[probe->count], err);
            if (UNLIKELY(rc < 0)) {
                return rc;
            }
            table_prefetch(probe->tables[probe->count++], probe->hash);
        }
    }
    return 0;
}

/* Inside an epoch: everything that needs no other memory than the view's. PLEAT_ABSENT when the space is not in it. */
static int probe_begin(struct probe *probe, const struct view *view, const struct pleat_space *space,
                       struct pleat_slice key, struct pleat_error *err) {
    probe->space = space;
    probe->key = key.data;
    probe->key_bytes = key.bytes;
    probe->hash = hash_key(key.data, key.bytes);
    for (unsigned i = 0; i < view->count; i++) {
        probe->memtables[i] = generation_table(view->generations[i], space->slot, space->info.id);
        if (probe->memtables[i] != NULL) {
            arena_prefetch(view->generations[i]->arena, probe->hash);
        }
    }
    probe->tree = view->version->trees[space->slot];
    if (UNLIKELY(probe->tree == NULL || probe->tree->space.id != space->info.id)) {
        return PLEAT_ABSENT; /* a snapshot from before the space was made */
    }
    probe->level = 0;
    probe->level0_index = 0;
    return probe_candidates(probe, err);
}

/* The newest memtable that has the key: whether one does. */
static bool probe_memtables(const struct probe *probe, const struct view *view, uint64_t sequence,
                            struct entry *ret_entry, struct get_home *ret_home) {
    for (unsigned i = 0; i < view->count; i++) {
        struct generation *generation = view->generations[i];
        if (probe->memtables[i] != NULL && arena_may_contain(generation->arena, probe->hash) &&
            memtable_get(probe->memtables[i], probe->key, probe->key_bytes, sequence, ret_entry) == 0) {
            *ret_home = (struct get_home){.generation = generation};
            return true;
        }
    }
    return false;
}

/* Moves on to the next candidate whose filter lets the key pass: 0, PLEAT_ABSENT when there is none, or an error. */
static int probe_select(struct probe *probe, struct pleat_error *err) {
    while (probe->count > 0) {
        for (; probe->next < probe->count; probe->next++) {
            struct table *table = probe->tables[probe->next];
            int may = table_may_contain(table, probe->hash, err);
            if (UNLIKELY(may < 0)) {
                return may;
            }
            if (may > 0 && probe->next + 1 == probe->count && probe->last_place.node != NULL) {
                probe->place = probe->last_place;
                return 0;
            }
            if (may > 0) {
                return table_locate(table, probe->key, probe->key_bytes, &probe->place, err);
            }
        }
        int rc = probe_candidates(probe, err);
        if (UNLIKELY(rc < 0)) {
            return rc;
        }
    }
    return PLEAT_ABSENT;
}

/* Asks the selected table, and those behind it when the filter was wrong: 0 with the entry (a tombstone, too),
 * PLEAT_ABSENT, or an error. */
static int probe_tables(struct probe *probe, struct entry *ret_entry, struct get_home *ret_home,
                        struct pleat_error *err) {
    int rc = 0;
    while (rc == 0) {
        struct cache_frame *frame = NULL;
        rc = table_get_at(probe->tables[probe->next], &probe->place, probe->key, probe->key_bytes, probe->hash,
                          CACHE_GET, ret_entry, &frame, err);
        if (rc != PLEAT_ABSENT) {
            *ret_home = (struct get_home){.frame = frame};
            return rc;
        }
        probe->next++;
        rc = probe_select(probe, err);
    }
    return rc;
}

/* Inside an epoch: 0 with the entry (never a tombstone), PLEAT_ABSENT, or an error. */
static int get_find(const struct view *view, uint64_t sequence, const struct pleat_space *space, struct pleat_slice key,
                    uint32_t *hint, struct entry *ret_entry, struct get_home *ret_home, struct pleat_error *err) {
    struct probe probe;
    int rc = probe_begin(&probe, view, space, key, err);
    if (UNLIKELY(rc != 0)) {
        return rc;
    }
    if (probe_memtables(&probe, view, sequence, ret_entry, ret_home)) {
        return ret_entry->kind == ENTRY_PUT ? 0 : PLEAT_ABSENT;
    }
    /* A thread that has lately found what it asked for searches the deepest table's index, where most keys are, while
     * the filters' lines are on their way; one that asks for absent keys waits for the filters alone. */
    if (probe.count > 0 && *hint >= HINT_PRESENT) {
        table_locate_cached(probe.tables[probe.count - 1], probe.key, probe.key_bytes, &probe.last_place);
    }
    rc = probe_select(&probe, err);
    rc = rc == 0 ? probe_tables(&probe, ret_entry, ret_home, err) : rc;
    if (rc == 0) {
        *hint += *hint < HINT_MAX;
        return ret_entry->kind == ENTRY_PUT ? 0 : PLEAT_ABSENT;
    }
    *hint -= rc == PLEAT_ABSENT && *hint > 0;
    return rc;
}

/* A read's position: from the snapshot, or the current view and then the sequence (R1). Inside an epoch. */
static const struct view *get_view(const struct pleat_db *db, const struct pleat_snapshot *snapshot,
                                   uint64_t *ret_sequence) {
    if (snapshot != NULL) {
        *ret_sequence = snapshot->sequence;
        return snapshot->view;
    }
    const struct view *view = view_current(db);
    *ret_sequence = db_applied(db);
    return view;
}

/* Copies or pins what was found (R3). Inside the epoch. */
static void get_fill(struct pleat_db *db, const struct entry *entry, const struct get_home *home,
                     struct pleat_value *ret) {
    ret->bytes = entry->value_bytes;
    ret->version = NULL;
    ret->version_bytes = entry->version_bytes;
    ret->has_flag = entry->has_flag != 0;
    ret->flag = entry->flag;
    ret->pin = NULL;
    ret->pin_owner = NULL;
    if (entry->version_bytes > 0) {
        memcpy(ret->inline_version, entry->version, entry->version_bytes);
        ret->version = ret->inline_version;
    }
    if (entry->value_bytes <= PLEAT_VALUE_INLINE_BYTES) {
        if (entry->value_bytes > 0) {
            memcpy(ret->inline_bytes, entry->value, entry->value_bytes);
        }
        ret->data = ret->inline_bytes;
        return;
    }
    ret->data = entry->value;
    atomic_fetch_add_explicit(&db->outstanding_values, 1, memory_order_relaxed); /* a count for close: no partner */
    if (home->frame != NULL) {
        cache_pin(home->frame);
        ret->pin = home->frame;
        ret->pin_owner = db;
    } else {
        generation_ref(home->generation);
        ret->pin = (void *)((uintptr_t)home->generation | 1); /* bit 0: a generation, not a frame */
        ret->pin_owner = db;
    }
}

int pleat_get(struct pleat_space *space, const struct pleat_snapshot *snapshot, struct pleat_slice key,
              struct pleat_value *ret_value, struct pleat_error *err) {
    error_clear(err);
    int rc = read_check(space, snapshot, key, err);
    if (UNLIKELY(rc < 0 || ret_value == NULL)) {
        return rc < 0 ? rc : error_set(err, PLEAT_ERR_INVALID, 0, "ret_value is NULL");
    }
    struct pleat_db *db = space->db;
    struct epoch_slot *slot;
    if (UNLIKELY(epoch_enter(db->epoch, &slot) < 0)) {
        return error_no_memory(err, "a reader's slot", 64);
    }
    uint64_t sequence;
    const struct view *view = get_view(db, snapshot, &sequence);
    struct entry entry;
    struct get_home home;
    rc = get_find(view, sequence, space, key, epoch_slot_hint(slot), &entry, &home, err);
    if (rc == 0) {
        get_fill(db, &entry, &home, ret_value);
    }
    epoch_leave(slot);
    return rc;
}

void pleat_value_release(struct pleat_value *value) {
    if (value == NULL || value->pin == NULL) {
        return;
    }
    struct pleat_db *db = value->pin_owner;
    if (((uintptr_t)value->pin & 1) != 0) {
        generation_unref((struct generation *)((uintptr_t)value->pin & ~(uintptr_t)1));
    } else {
        cache_unpin(db->cache, value->pin);
    }
    value->pin = NULL;
    value->data = NULL;
    value->bytes = 0;
    /* release; pairs with the acquire in pleat_close */
    atomic_fetch_sub_explicit(&db->outstanding_values, 1, memory_order_release);
}

int pleat_get_into(struct pleat_space *space, const struct pleat_snapshot *snapshot, struct pleat_slice key,
                   void *buffer, size_t buffer_bytes, size_t *ret_bytes, struct pleat_error *err) {
    error_clear(err);
    int rc = read_check(space, snapshot, key, err);
    if (UNLIKELY(rc < 0)) {
        return rc;
    }
    if (UNLIKELY((buffer == NULL && buffer_bytes > 0) || ret_bytes == NULL)) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "%s is NULL", ret_bytes == NULL ? "ret_bytes" : "buffer");
    }
    struct epoch_slot *slot;
    if (UNLIKELY(epoch_enter(space->db->epoch, &slot) < 0)) {
        return error_no_memory(err, "a reader's slot", 64);
    }
    uint64_t sequence;
    const struct view *view = get_view(space->db, snapshot, &sequence);
    struct entry entry;
    struct get_home home;
    rc = get_find(view, sequence, space, key, epoch_slot_hint(slot), &entry, &home, err);
    if (rc == 0) {
        size_t copied = entry.value_bytes < buffer_bytes ? entry.value_bytes : buffer_bytes;
        if (copied > 0) {
            memcpy(buffer, entry.value, copied);
        }
        *ret_bytes = entry.value_bytes;
    }
    epoch_leave(slot);
    return rc;
}

int pleat_exists(struct pleat_space *space, const struct pleat_snapshot *snapshot, struct pleat_slice key,
                 struct pleat_error *err) {
    size_t bytes;
    return pleat_get_into(space, snapshot, key, NULL, 0, &bytes, err);
}

/* Looks for up to GET_GROUP keys together, stage by stage, so that their waits for memory overlap. What is found is in
 * ret_values with a status of 0; the others' status is left as it is. */
static int get_group(struct pleat_db *db, const struct view *view, uint64_t sequence, struct pleat_space *space,
                     const struct pleat_slice *keys, size_t count, struct pleat_value *ret_values, int *ret_status,
                     struct pleat_error *err) {
    struct probe probes[GET_GROUP];
    struct entry entry;
    struct get_home home;
    uint32_t waiting = 0; /* bit i: keys[i] has not been decided */
    for (size_t i = 0; i < count; i++) {
        int rc = probe_begin(&probes[i], view, space, keys[i], err);
        if (rc < 0) {
            return rc;
        }
        waiting |= (uint32_t)(rc == 0) << i;
    }
    for (size_t i = 0; i < count; i++) {
        if ((waiting >> i & 1) != 0 && probe_memtables(&probes[i], view, sequence, &entry, &home)) {
            waiting &= ~(1u << i);
            if (entry.kind == ENTRY_PUT) {
                get_fill(db, &entry, &home, &ret_values[i]);
                ret_status[i] = 0;
            }
        }
    }
    for (size_t i = 0; i < count; i++) {
        int rc = (waiting >> i & 1) != 0 ? probe_select(&probes[i], err) : PLEAT_ABSENT;
        if (rc < 0) {
            return rc;
        }
        waiting &= ~((uint32_t)(rc != 0) << i);
    }
    for (size_t i = 0; i < count; i++) {
        if ((waiting >> i & 1) != 0) {
            table_prefetch_block(probes[i].tables[probes[i].next], probes[i].place.block);
        }
    }
    for (size_t i = 0; i < count; i++) {
        int rc = (waiting >> i & 1) != 0 ? probe_tables(&probes[i], &entry, &home, err) : PLEAT_ABSENT;
        if (rc < 0) {
            return rc;
        }
        if (rc == 0 && entry.kind == ENTRY_PUT) {
            get_fill(db, &entry, &home, &ret_values[i]);
            ret_status[i] = 0;
        }
    }
    return 0;
}

int pleat_get_many(struct pleat_space *space, const struct pleat_snapshot *snapshot, const struct pleat_slice *keys,
                   size_t count, struct pleat_value *ret_values, int *ret_status, struct pleat_error *err) {
    error_clear(err);
    if ((keys == NULL || ret_values == NULL || ret_status == NULL) && count > 0) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "keys, ret_values or ret_status is NULL");
    }
    int rc = read_check(space, snapshot, (struct pleat_slice){NULL, 0}, err);
    for (size_t i = 0; rc == 0 && i < count; i++) {
        rc = read_check(space, snapshot, keys[i], err);
    }
    if (rc < 0) {
        return rc;
    }
    struct pleat_db *db = space->db;
    struct epoch_slot *slot;
    if (epoch_enter(db->epoch, &slot) < 0) {
        return error_no_memory(err, "a reader's slot", 64);
    }
    uint64_t sequence;
    const struct view *view = snapshot != NULL ? get_view(db, snapshot, &sequence)
                                               : view_current_at(db, &sequence); /* one position for all keys: D7 */
    for (size_t i = 0; i < count; i++) {
        ret_status[i] = PLEAT_ABSENT;
    }
    for (size_t done = 0; rc == 0 && done < count; done += GET_GROUP) {
        size_t group = count - done < GET_GROUP ? count - done : GET_GROUP;
        rc = get_group(db, view, sequence, space, keys + done, group, ret_values + done, ret_status + done, err);
    }
    epoch_leave(slot);
    for (size_t i = 0; rc < 0 && i < count; i++) {
        if (ret_status[i] == 0) {
            pleat_value_release(&ret_values[i]);
        }
    }
    return rc;
}
