/*
 * generation.c - a generation's life: made with its log segment, filled, frozen, let go.
 *
 * All spaces freeze together at a commit boundary, with the cursors as of that commit (contract: "a generation freezes
 * together"). One generation is one log segment, so that a flush kills whole segments.
 */
#include "base/assert.h"
#include "db/db.h"

#include <string.h>

/* A commit of so many entries is decoded before its record is in the log, and asks for memory meanwhile. */
#define INSERT_AHEAD_MAX MEMTABLE_GROUP
/* Arena room for making a memtable, beyond what the entries need. */
#define TABLE_ROOM 512
/* What a batch may take at the very most is far more than it does (a node that grows to 256 children), so an arena has
 * twice the address space that a generation fills: no memory, and no rotation before it is due. */
#define ARENA_SLACK_BYTES (256u << 10)

uint64_t generation_arena_bytes(const struct pleat_options *options) {
    uint64_t slack = options->memtable_bytes > ARENA_SLACK_BYTES ? options->memtable_bytes : ARENA_SLACK_BYTES;
    return options->memtable_bytes + slack;
}

int generation_new(struct pleat_db *db, uint64_t arena_bytes, uint64_t segment, uint64_t first_sequence,
                   struct generation **ret_generation, struct pleat_error *err) {
    struct generation *generation = mem_zalloc(db->mem, 1, sizeof *generation);
    if (generation == NULL) {
        return error_no_memory(err, "a generation", sizeof *generation);
    }
    uint64_t usual = generation_arena_bytes(&db->options);
    int rc = arena_acquire(db->pool, usual > arena_bytes ? usual : arena_bytes, &generation->arena, err);
    if (rc < 0) {
        mem_free(db->mem, generation);
        return rc;
    }
    generation->db = db;
    generation->segment = segment;
    generation->log_floor = segment + 1;
    generation->first_sequence = first_sequence;
    atomic_init(&generation->refs, 1);
    cursor_set_init(&generation->cursors, db->mem);
    *ret_generation = generation;
    return 0;
}

void generation_ref(struct generation *generation) {
    uint32_t refs = atomic_fetch_add_explicit(&generation->refs, 1, memory_order_relaxed);
    ASSERT(refs > 0); /* relaxed: the caller holds a reference already, directly or through a view in its epoch */
}

void generation_unref(struct generation *generation) {
    if (generation == NULL) {
        return;
    }
    /* Release and acquire: what any holder did to the memory happens before it is handed back. */
    if (atomic_fetch_sub_explicit(&generation->refs, 1, memory_order_acq_rel) == 1) {
        struct pleat_db *db = generation->db;
        arena_release(db->pool, generation->arena);
        cursor_set_fini(&generation->cursors);
        mem_free(db->mem, generation);
    }
}

struct memtable *generation_table(const struct generation *generation, uint32_t slot, uint32_t space) {
    /* acquire; pairs with the release in generation_table_new: space_ids[slot] is then set */
    struct memtable *table = atomic_load_explicit(&generation->tables[slot], memory_order_acquire);
    return table != NULL && generation->space_ids[slot] == space ? table : NULL;
}

struct memtable *generation_table_new(struct generation *generation, uint32_t slot, uint32_t space) {
    struct memtable *table = atomic_load_explicit(&generation->tables[slot], memory_order_relaxed); /* own stores */
    if (table != NULL) {
        ASSERT(generation->space_ids[slot] == space); /* a drop rotates before its slot is used again */
        return table;
    }
    table = memtable_new(generation->arena);
    if (table != NULL) {
        generation->space_ids[slot] = space;
        if (generation->slots <= slot) {
            generation->slots = slot + 1;
        }
        atomic_store_explicit(&generation->tables[slot], table, memory_order_release); /* pairs with generation_table */
    }
    return table;
}

uint64_t generation_batch_bytes_max(uint64_t entries_bytes_max, size_t spaces) {
    return entries_bytes_max + TABLE_ROOM * (spaces + 1);
}

uint64_t generation_bytes_max(struct wal_view view, uint64_t enough) {
    uint64_t rounding = 64; /* of each entry, far above the arena's unit */
    uint64_t rough = view.entry_count * (memtable_entry_bytes_max(0, 0) + rounding + TABLE_ROOM) +
                     (uint64_t)(view.entries_end - view.entries) + TABLE_ROOM;
    if (rough <= enough || MUTATION(recover_rough)) {
        return rough;
    }
    struct entry entry;
    uint32_t space, seen[LIMIT_SPACES];
    size_t spaces = 0;
    uint64_t bytes = 0;
    while (wal_view_entry(&view, &space, &entry) == 0) { /* it decodes: wal_reader_next saw to that */
        size_t i = spaces > 0 && seen[0] == space ? 1 : spaces;
        while (i > 0 && seen[i - 1] != space) {
            i--;
        }
        if (i == 0 && spaces < LIMIT_SPACES) { /* more are refused when they are looked for */
            seen[spaces++] = space;
        }
        bytes += memtable_entry_bytes_max(entry.key_bytes, entry.value_bytes);
    }
    return generation_batch_bytes_max(bytes, spaces);
}

/* Takes entries off the view until the group is full or the view at its end; `make` makes tables that are missing. */
static int insertion_fill(struct insertion *insertion, bool make, struct pleat_error *err) {
    struct memtable_group *group = &insertion->group;
    struct generation *generation = insertion->generation;
    struct wal_view *view = &insertion->view;
    uint32_t space, last_space = UINT32_MAX;
    struct memtable *last_table = NULL;
    int rc = 0;
    group->count = 0;
    while (group->count < MEMTABLE_GROUP && (rc = wal_view_entry(view, &space, &group->entries[group->count])) == 0) {
        if (space != last_space || last_table == NULL) {
            int slot = insertion->slot_of(insertion->context, space);
            if (slot < 0) {
                return error_set(err, PLEAT_ERR_CORRUPT, 0,
                                 "log record of sequence %llu: space %u is not in the manifest",
                                 (unsigned long long)view->sequence, space);
            }
            last_table = make ? generation_table_new(generation, (uint32_t)slot, space)
                              : generation_table(generation, (uint32_t)slot, space);
            last_space = space;
        }
        if (last_table == NULL) {
            ASSERT(!make); /* the caller reserved by generation_bytes_max */
            return PLEAT_ABSENT;
        }
        group->tables[group->count++] = last_table;
    }
    if (rc < 0) {
        return error_set(err, PLEAT_ERR_CORRUPT, 0, "log record of sequence %llu does not decode",
                         (unsigned long long)view->sequence);
    }
    return 0;
}

void insertion_begin(struct insertion *insertion, struct generation *generation, struct wal_view view) {
    insertion->generation = generation;
    insertion->view = view;
    insertion->group.count = 0;
    insertion->ahead = view.entry_count > 0 && view.entry_count <= INSERT_AHEAD_MAX &&
                       insertion_fill(insertion, false, NULL) == 0;
    if (insertion->ahead) {
        memtable_group_begin(&insertion->group);
    } else {
        insertion->view = view;
    }
}

void insertion_step(struct insertion *insertion) {
    if (insertion->ahead) {
        memtable_group_step(&insertion->group);
    }
}

int insertion_finish(struct insertion *insertion, struct pleat_error *err) {
    struct memtable_group *group = &insertion->group;
    if (insertion->ahead) {
        memtable_group_insert(group);
        insertion->generation->records += group->count;
        return 0;
    }
    for (;;) {
        int rc = insertion_fill(insertion, true, err);
        if (rc < 0 || group->count == 0) {
            return rc;
        }
        memtable_group_begin(group);
        memtable_group_insert(group);
        insertion->generation->records += group->count;
    }
}

int generation_insert(struct generation *generation, int (*slot_of)(const void *context, uint32_t space),
                      const void *context, struct wal_view view, struct pleat_error *err) {
    struct insertion insertion;
    insertion.slot_of = slot_of;
    insertion.context = context;
    insertion.generation = generation;
    insertion.view = view;
    insertion.ahead = false;
    return insertion_finish(&insertion, err);
}

/* A segment's name is durable before another one names it as its predecessor (Q8 in recover.c). Syncs and flushes have
 * seen to that, but for the first segment of a life without any. */
static int generation_sync_name(struct pleat_db *db, struct segment *segment, struct pleat_error *err) {
    mutex_lock(&db->sync_mu);
    bool synced = segment->name_synced;
    mutex_unlock(&db->sync_mu);
    return synced ? 0 : sync_names(db, err);
}

int generation_rotate(struct pleat_db *db, uint64_t arena_bytes, uint64_t record_bytes, struct pleat_error *err) {
    mutex_check_held(&db->commit_mu);
    struct generation *old = db->active;
    struct segment *old_segment = db->active_segment;
    uint64_t last = db_applied(db);
    struct generation *next = NULL;
    struct view *prepared = NULL;
    struct segment *segment = NULL;
    uint64_t number;
    /* The cursors freeze as of the last commit: nobody else changes them while commit_mu is held. */
    int rc = cursor_set_reserve(&old->cursors, db->cursors.count, err);
    rc = rc == 0 ? generation_sync_name(db, old_segment, err) : rc;
    if (rc < 0) {
        return rc;
    }
    rc = segment_next_number(db, old->segment, record_bytes, &number, err);
    if (rc < 0) {
        db_poison_by_registry(db);
        return rc;
    }
    rc = generation_new(db, arena_bytes, number, last + 1, &next, err);
    if (rc < 0) {
        return rc;
    }
    prepared = view_prepare(db);
    if (prepared == NULL) {
        rc = error_no_memory(err, "a view", sizeof *prepared);
        goto fail;
    }
    rc = segment_start(db, number, last + 1, wal_writer_tail(old_segment->writer), record_bytes, &segment, err);
    if (rc < 0) {
        goto fail;
    }
    cursor_set_assign(&old->cursors, &db->cursors);
    old->last_sequence = last;
    mutex_lock(&db->sync_mu);
    old_segment->last_sequence = last;
    old_segment->sealed = true;
    mutex_unlock(&db->sync_mu);
    db->active = next;
    db->active_segment = segment;
    db->populated_bytes = 0;
    flow_frozen(db);
    view_push(db, prepared, next);
    generation_unref(next); /* the view holds it now; the old one's reference stays with the older views */
    sync_ask(db, true, false);
    scheduler_wake(db->scheduler);
    return 0;
fail:
    view_discard(prepared);
    generation_unref(next);
    return rc;
}

bool generation_is_half_full(struct pleat_db *db) {
    struct epoch_slot *slot;
    if (epoch_enter(db->epoch, &slot) < 0) {
        return false; /* it is asked by those who make things ready, which can wait */
    }
    bool is_half_full = arena_used(view_current(db)->generations[0]->arena) > db->options.memtable_bytes / 2;
    epoch_leave(slot);
    return is_half_full;
}

bool generation_none_frozen(struct pleat_db *db) {
    struct generation *oldest;
    mutex_lock(&db->work_mu);
    /* Not while a flush still runs either: only at its end is the arena back in the pool for the next generation. */
    bool none = !db->flushing && view_frozen(db, &oldest) == 0;
    mutex_unlock(&db->work_mu);
    return none;
}

int generation_flush_all(struct pleat_db *db, struct pleat_error *err) {
    mutex_check_held(&db->commit_mu);
    int rc = work_until(db, generation_none_frozen, err); /* D3: one frozen generation at a time */
    if (rc < 0) {
        return rc;
    }
    if (db_applied(db) + 1 > db->active->first_sequence) {
        rc = generation_rotate(db, 0, 0, err);
        if (rc < 0) {
            return rc;
        }
    }
    return work_until(db, generation_none_frozen, err);
}
