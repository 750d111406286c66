/*
 * table_ref.c - a table as versions hold it: counted, opened on first touch, removed after its last holder.
 *
 *     table_ref_new      refs 1, not open
 *     table_ref_open     first touch: footer, index and filter are read under open_mutex; later: one acquire load
 *     obsolete = true    its removal is durable (set by the registry before the version without it is published)
 *     last unref         closed; when obsolete on the list of the dead (V4)
 *     remove_dead        unlinked
 *
 * To unlink a table takes tens of milliseconds, and a version that replaces many of them goes at once: a flush that
 * commits wait for would stand behind all of that, and so would a reader that happens to be the last. So the files are
 * removed one by one, by whoever has nothing more urgent to do, and by one thread at a time.
 *
 * A crash between the durable edit and the unlink leaves an orphan, which the sweep at the next open removes; so an
 * unlink that fails here is no error.
 */
#include "base/assert.h"
#include "version/registry_internal.h"

struct table_ref *table_ref_new(struct registry *registry, const struct table_meta *meta) {
    const struct mem *mem = registry->store.mem;
    struct table_ref *ref = mem_zalloc(mem, 1, sizeof *ref);
    if (ref == NULL) {
        return NULL;
    }
    if (table_meta_copy(mem, meta, &ref->meta) < 0) {
        mem_free(mem, ref);
        return NULL;
    }
    ref->registry = registry;
    atomic_init(&ref->table, NULL);
    atomic_init(&ref->refs, 1);
    atomic_init(&ref->obsolete, false);
    atomic_init(&ref->busy, false);
    return ref;
}

void table_ref_ref(struct table_ref *ref) {
    /* relaxed: whoever adds a reference holds one, so nothing is learnt from the count */
    uint32_t before = atomic_fetch_add_explicit(&ref->refs, 1, memory_order_relaxed);
    ASSERT(before > 0);
}

static void table_ref_free(struct table_ref *ref) {
    const struct mem *mem = ref->registry->store.mem;
    table_meta_fini(mem, &ref->meta);
    mem_free(mem, ref);
}

void table_ref_unref(struct table_ref *ref) {
    if (ref == NULL) {
        return;
    }
    /* acq_rel: pairs with the other unrefs, so that the last holder sees what every other did with the table */
    uint32_t before = atomic_fetch_sub_explicit(&ref->refs, 1, memory_order_acq_rel);
    ASSERT(before > 0);
    if (before > 1) {
        return;
    }
    struct registry *registry = ref->registry;
    /* relaxed: ordered by the acquire of the count above; pairs with the release in table_ref_open */
    table_close(atomic_load_explicit(&ref->table, memory_order_relaxed));
    /* relaxed: the registry set it while it held a reference; ordered by the acquire of the count above */
    if (atomic_load_explicit(&ref->obsolete, memory_order_relaxed)) {
        mutex_lock(&registry->dead_mutex);
        ref->next_dead = atomic_load_explicit(&registry->dead, memory_order_relaxed); /* under the mutex */
        atomic_store_explicit(&registry->dead, ref, memory_order_relaxed);            /* a hint to others: no partner */
        mutex_unlock(&registry->dead_mutex);
        return;
    }
    table_ref_free(ref);
}

bool table_ref_has_dead(const struct registry *registry) {
    return atomic_load_explicit(&registry->dead, memory_order_relaxed) != NULL; /* a hint: no partner */
}

bool table_ref_remove_dead(struct registry *registry) {
    const struct table_store *store = &registry->store;
    mutex_lock(&registry->dead_mutex);
    struct table_ref *ref = atomic_load_explicit(&registry->dead, memory_order_relaxed); /* under the mutex */
    ref = registry->is_removing ? NULL : ref;
    if (ref != NULL) {
        atomic_store_explicit(&registry->dead, ref->next_dead, memory_order_relaxed); /* a hint to others: no partner */
        registry->is_removing = true;
    }
    mutex_unlock(&registry->dead_mutex);
    if (ref == NULL) {
        return false;
    }
    char name[TABLE_NAME_BYTES];
    table_name(ref->meta.number, name);
    (void)store->vfs->dir_unlink(store->dir, name, NULL);
    table_ref_free(ref);
    mutex_lock(&registry->dead_mutex);
    registry->is_removing = false;
    mutex_unlock(&registry->dead_mutex);
    return true;
}

bool table_ref_remove_all_dead(struct registry *registry) {
    bool any = false;
    while (table_ref_remove_dead(registry)) {
        any = true;
    }
    return any;
}

int table_ref_open(struct table_ref *ref, struct table **ret_table, struct pleat_error *err) {
    /* acquire: pairs with the release below */
    struct table *table = atomic_load_explicit(&ref->table, memory_order_acquire);
    if (LIKELY(table != NULL)) {
        *ret_table = table;
        return 0;
    }
    struct registry *registry = ref->registry;
    int rc = 0;
    mutex_lock(&registry->open_mutex);
    table = atomic_load_explicit(&ref->table, memory_order_relaxed); /* relaxed: stores happen under the mutex */
    if (table == NULL) {
        rc = table_open(&registry->store, &ref->meta, &table, err);
        if (rc == 0) {
            /* release: pairs with the acquire above; the table is whole before anyone can see it */
            atomic_store_explicit(&ref->table, table, memory_order_release);
        }
    }
    mutex_unlock(&registry->open_mutex);
    if (rc == 0) {
        *ret_table = table;
    }
    return rc;
}
