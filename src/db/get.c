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

/* A walk over the tables of a tree that may hold a key, newest first. */
struct get_walk {
    const struct tree *tree;
    unsigned level;
    size_t index; /* in level 0: the next table */
    size_t count; /* of `tables` */
    struct table *tables[CANDIDATES_MAX];
};

/* Collects the next candidates, their filter lines on the way: 0 (none left when count is 0), or an error. */
static int get_candidates(struct get_walk *walk, const uint8_t *key, size_t key_bytes, uint64_t hash,
                          struct pleat_error *err) {
    walk->count = 0;
    for (; walk->level < LIMIT_LEVELS; walk->level++, walk->index = 0) {
        const struct level *at = &walk->tree->levels[walk->level];
        size_t first = walk->level == 0 ? walk->index : level_find(at, key, key_bytes);
        size_t end = walk->level == 0 ? at->count : (first < at->count ? first + 1 : first);
        for (size_t i = first; i < end; i++) {
            if (walk->count == CANDIDATES_MAX) {
                walk->index = i;
                return 0;
            }
            struct table_ref *ref = at->tables[i];
            if (key_compare(key, key_bytes, ref->meta.smallest, ref->meta.smallest_bytes) < 0 ||
                (walk->level == 0 && key_compare(key, key_bytes, ref->meta.largest, ref->meta.largest_bytes) > 0)) {
                continue;
            }
            int rc = table_ref_open(ref, &walk->tables[walk->count], err);
            if (UNLIKELY(rc < 0)) {
                return rc;
            }
            table_prefetch(walk->tables[walk->count++], hash);
        }
    }
    return 0;
}

/* Inside an epoch: 0 with the entry (never a tombstone), PLEAT_ABSENT, or an error. */
static int get_find(const struct view *view, uint64_t sequence, const struct pleat_space *space, const uint8_t *key,
                    size_t key_bytes, uint32_t *hint, struct entry *ret_entry, struct get_home *ret_home,
                    struct pleat_error *err) {
    uint64_t hash = hash_key(key, key_bytes);
    struct memtable *memtables[DB_GENERATIONS_MAX];
    for (unsigned i = 0; i < view->count; i++) {
        memtables[i] = generation_table(view->generations[i], space->slot, space->info.id);
        if (memtables[i] != NULL) {
            arena_prefetch(view->generations[i]->arena, hash);
        }
    }
    const struct tree *tree = view->version->trees[space->slot];
    if (UNLIKELY(tree == NULL || tree->space.id != space->info.id)) {
        return PLEAT_ABSENT; /* a snapshot from before the space was made */
    }
    struct get_walk walk;
    walk.tree = tree;
    walk.level = 0;
    walk.index = 0;
    int rc = get_candidates(&walk, key, key_bytes, hash, err);
    if (UNLIKELY(rc < 0)) {
        return rc;
    }
    for (unsigned i = 0; i < view->count; i++) {
        struct generation *generation = view->generations[i];
        if (memtables[i] != NULL && arena_may_contain(generation->arena, hash) &&
            memtable_get(memtables[i], key, key_bytes, sequence, ret_entry) == 0) {
            *ret_home = (struct get_home){.generation = generation};
            return ret_entry->kind == ENTRY_PUT ? 0 : PLEAT_ABSENT;
        }
    }
    while (walk.count > 0) {
        /* A thread that has lately found what it asked for searches the deepest table's index, where most keys are,
         * while the filters' lines are on their way; one that asks for absent keys waits for the filters alone. */
        size_t deepest = walk.count - 1;
        uint32_t deepest_block =
            *hint >= HINT_PRESENT ? table_locate(walk.tables[deepest], key, key_bytes) : UINT32_MAX;
        for (size_t i = 0; i < walk.count; i++) {
            if (!table_may_contain(walk.tables[i], hash)) {
                continue;
            }
            struct cache_frame *frame = NULL;
            uint32_t block = i == deepest && deepest_block != UINT32_MAX
                                 ? deepest_block
                                 : table_locate(walk.tables[i], key, key_bytes);
            rc = table_get_at(walk.tables[i], block, key, key_bytes, hash, CACHE_GET, ret_entry, &frame, err);
            if (rc == 0) {
                *hint += *hint < HINT_MAX;
                *ret_home = (struct get_home){.frame = frame};
                return ret_entry->kind == ENTRY_PUT ? 0 : PLEAT_ABSENT;
            }
            if (UNLIKELY(rc < 0)) {
                return rc;
            }
        }
        rc = get_candidates(&walk, key, key_bytes, hash, err);
        if (UNLIKELY(rc < 0)) {
            return rc;
        }
    }
    *hint -= *hint > 0;
    return PLEAT_ABSENT;
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
    rc = get_find(view, sequence, space, key.data, key.bytes, epoch_slot_hint(slot), &entry, &home, err);
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
    rc = get_find(view, sequence, space, key.data, key.bytes, epoch_slot_hint(slot), &entry, &home, err);
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
    const struct view *view = get_view(db, snapshot, &sequence); /* one position for all keys */
    size_t done = 0;
    for (; done < count; done++) {
        struct entry entry;
        struct get_home home;
        rc = get_find(view, sequence, space, keys[done].data, keys[done].bytes, epoch_slot_hint(slot), &entry, &home,
                      err);
        if (rc < 0) {
            break;
        }
        ret_status[done] = rc;
        if (rc == 0) {
            get_fill(db, &entry, &home, &ret_values[done]);
        }
    }
    epoch_leave(slot);
    if (rc < 0) {
        while (done > 0) {
            done--;
            if (ret_status[done] == 0) {
                pleat_value_release(&ret_values[done]);
            }
        }
        return rc;
    }
    return 0;
}
