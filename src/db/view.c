/*
 * view.c - what readers see, swapped whole.
 *
 * A view is built aside, published with one release store under view_mu, and the old one is retired through the epoch
 * domain: gets hold no reference, only an epoch; snapshots and iterators hold a counted reference. When a retired
 * view's epoch has passed it is put on a list, and background work lets go of it: closing tables and unlinking files is
 * no business of a reader that happens to collect.
 */
#include "base/assert.h"
#include "db/db.h"

#include <string.h>

struct view *view_prepare(struct pleat_db *db) {
    struct view *view = mem_zalloc(db->mem, 1, sizeof *view);
    if (view != NULL) {
        view->db = db;
        atomic_init(&view->refs, 1);
    }
    return view;
}

void view_discard(struct view *view) {
    if (view != NULL) {
        mem_free(view->db->mem, view);
    }
}

bool view_unref(struct view *view) {
    /* Release and acquire: every holder's reads happen before the parts are let go. */
    bool is_last = atomic_fetch_sub_explicit(&view->refs, 1, memory_order_acq_rel) == 1;
    if (is_last) {
        for (unsigned i = 0; i < view->count; i++) {
            generation_unref(view->generations[i]);
        }
        version_unref(view->version);
        mem_free(view->db->mem, view);
    }
    return is_last;
}

static void view_reclaim(struct epoch_retired *retired, void *context) {
    struct pleat_db *db = context;
    struct view *view = (struct view *)((char *)retired - offsetof(struct view, retired));
    mutex_lock(&db->sweep_mu);
    view->next_swept = db->swept;
    db->swept = view;
    mutex_unlock(&db->sweep_mu);
}

/* Lets go of the views that no reader sees any more, as far as that is known. */
static void view_unref_swept(struct pleat_db *db) {
    mutex_lock(&db->sweep_mu);
    struct view *view = db->swept;
    db->swept = NULL;
    mutex_unlock(&db->sweep_mu);
    while (view != NULL) {
        struct view *next = view->next_swept;
        view_unref(view); /* the store's own reference */
        view = next;
    }
}

void view_sweep(struct pleat_db *db, bool wait) {
    if (wait) {
        epoch_synchronize(db->epoch);
    }
    view_unref_swept(db);
    if (db->options.background == PLEAT_BACKGROUND_STEPS) {
        view_remove_files(db);
    }
}

bool view_give_space(struct pleat_db *db) {
    epoch_collect(db->epoch);
    view_unref_swept(db);
    return table_ref_remove_all_dead(db->registry);
}

void view_remove_files(struct pleat_db *db) {
    if (LIKELY(!table_ref_has_dead(db->registry)) || !fork_guard_is_owner(db->guard)) {
        return; /* the files are the parent's */
    }
    if (db->options.background == PLEAT_BACKGROUND_THREADS) {
        scheduler_wake(db->scheduler);
        return;
    }
    (void)table_ref_remove_all_dead(db->registry);
}

void view_let_go(struct pleat_db *db, struct view *view) {
    if (view_unref(view)) {
        view_remove_files(db);
    }
}

/* Swaps the filled view in. view_mu held. */
static void view_publish(struct pleat_db *db, struct view *view) {
    struct view *old = atomic_load_explicit(&db->view, memory_order_relaxed); /* own stores: view_mu is held */
    atomic_store_explicit(&db->view, view, memory_order_release); /* pairs with the acquire in view_current */
    atomic_store_explicit(&db->view_generations, view->count, memory_order_relaxed); /* a hint: no partner */
    if (old != NULL) {
        epoch_retire(db->epoch, &old->retired, view_reclaim, db);
    }
}

static void view_add(struct view *view, struct generation *generation) {
    ASSERT(view->count < DB_GENERATIONS_MAX);
    generation_ref(generation);
    view->generations[view->count++] = generation;
}

int view_start(struct pleat_db *db, struct generation *const *generations, unsigned count, struct version *version,
               struct pleat_error *err) {
    struct view *view = view_prepare(db);
    if (view == NULL) {
        return error_no_memory(err, "a view", sizeof *view);
    }
    mutex_lock(&db->view_mu);
    for (unsigned i = 0; i < count; i++) {
        view_add(view, generations[i]);
    }
    version_ref(version);
    view->version = version;
    view_publish(db, view);
    mutex_unlock(&db->view_mu);
    return 0;
}

void view_push(struct pleat_db *db, struct view *prepared, struct generation *generation) {
    mutex_lock(&db->view_mu);
    struct view *old = atomic_load_explicit(&db->view, memory_order_relaxed); /* own stores: view_mu is held */
    view_add(prepared, generation);
    for (unsigned i = 0; i < old->count; i++) {
        view_add(prepared, old->generations[i]);
    }
    version_ref(old->version);
    prepared->version = old->version;
    view_publish(db, prepared);
    mutex_unlock(&db->view_mu);
}

void view_on_version(void *context, struct version *version) {
    struct pleat_db *db = context;
    if (atomic_load_explicit(&db->view, memory_order_relaxed) == NULL) {
        return; /* relaxed: only open's own thread comes here before the first view_start */
    }
    mutex_lock(&db->view_mu);
    struct view *view = db->spare_views;
    ASSERT(view != NULL); /* whoever applies an edit has reserved one: the edit is durable, so this cannot fail */
    db->spare_views = view->next_swept;
    view->next_swept = NULL;
    struct view *old = atomic_load_explicit(&db->view, memory_order_relaxed); /* own stores: view_mu is held */
    for (unsigned i = 0; i < old->count; i++) {
        const struct generation *generation = old->generations[i];
        bool is_in_tables = generation->segment < version->log_floor ||
                            (i > 0 && generation->last_sequence <= version->last_sequence); /* frozen: see Q11 */
        if (!is_in_tables) {
            view_add(view, old->generations[i]);
        }
    }
    version_ref(version);
    view->version = version;
    if (version->last_sequence > db_applied(db)) { /* of a clear or drop, which no commit publishes */
        mutex_lock(&db->cursors_mu);
        view_publish(db, view);
        atomic_store_explicit(&db->applied, version->last_sequence, memory_order_release); /* pairs with db_applied */
        mutex_unlock(&db->cursors_mu);
    } else {
        view_publish(db, view);
    }
    mutex_unlock(&db->view_mu);
}

uint64_t view_applied(const struct pleat_db *db) {
    struct epoch_slot *slot;
    if (!fork_guard_is_owner(db->guard) || epoch_enter(db->epoch, &slot) < 0) {
        return db_applied(db);
    }
    uint64_t shown = view_current(db)->version->last_sequence, applied = db_applied(db);
    epoch_leave(slot);
    return shown > applied ? shown : applied;
}

int view_reserve(struct pleat_db *db, struct pleat_error *err) {
    struct view *view = view_prepare(db);
    if (view == NULL) {
        return error_no_memory(err, "a view", sizeof *view);
    }
    mutex_lock(&db->view_mu);
    view->next_swept = db->spare_views;
    db->spare_views = view;
    mutex_unlock(&db->view_mu);
    return 0;
}

void view_unreserve(struct pleat_db *db) {
    mutex_lock(&db->view_mu);
    struct view *view = db->spare_views;
    ASSERT(view != NULL);
    db->spare_views = view->next_swept;
    mutex_unlock(&db->view_mu);
    view_discard(view);
}

int view_apply(struct pleat_db *db, struct edit *edit, struct pleat_error *err) {
    int rc = view_reserve(db, err);
    if (rc == 0) {
        rc = registry_apply(db->registry, edit, err);
        if (rc < 0) {
            view_unreserve(db);
            db_poison_by_registry(db);
        }
    }
    return rc;
}

int view_acquire_at(struct pleat_db *db, struct view **ret_view, uint64_t *ret_sequence, struct pleat_error *err) {
    struct epoch_slot *slot;
    int rc = epoch_enter(db->epoch, &slot);
    if (rc < 0) {
        return error_no_memory(err, "a reader's slot", 64);
    }
    struct view *view = view_current_at(db, ret_sequence);
    /* Relaxed: the store's own reference cannot be let go while this epoch lasts. */
    uint32_t refs = atomic_fetch_add_explicit(&view->refs, 1, memory_order_relaxed);
    ASSERT(refs > 0);
    epoch_leave(slot);
    *ret_view = view;
    return 0;
}

int view_acquire(struct pleat_db *db, struct view **ret_view, struct pleat_error *err) {
    uint64_t sequence; /* of no interest here */
    return view_acquire_at(db, ret_view, &sequence, err);
}

bool view_frozen_hint(const struct pleat_db *db) {
    return atomic_load_explicit(&db->view_generations, memory_order_relaxed) > 1; /* a hint: no partner */
}

unsigned view_frozen(struct pleat_db *db, struct generation **ret_oldest) {
    mutex_lock(&db->view_mu);
    struct view *view = atomic_load_explicit(&db->view, memory_order_relaxed); /* own stores: view_mu is held */
    unsigned frozen = view->count > 0 ? view->count - 1 : 0;
    *ret_oldest = frozen > 0 ? view->generations[MUTATION(flush_order) ? 1 : view->count - 1] : NULL;
    mutex_unlock(&db->view_mu);
    return frozen;
}
