/*
 * change.c - see change.h.
 *
 * Whatever replay would refuse is refused here first: an edit that went to disk and could not be read back would cost
 * the store. The tests hold the two against each other.
 *
 * Only the trees of spaces that the edit names are rebuilt; the others are shared. A table that the edit removes and
 * adds again (a move) keeps its table_ref, and so stays open.
 *
 *   1  scalars and spaces: drop or clear, create          (trees appear and vanish)
 *   2  each tree: keep what is not removed, add, order    (numbers are looked up in the edit, sorted once)
 */
#include "version/change.h"

#include "base/assert.h"
#include "base/bytes.h"
#include "base/error.h"
#include "version/registry_internal.h"

/* An edit with its tables in order of number. */
struct sorted_edit {
    const struct edit *edit;
    const struct edit_table **added;
    const struct edit_table **removed;
    size_t removed_found; /* were there */
};

static int change_invalid(struct pleat_error *err, const char *what, uint64_t expected, uint64_t found) {
    const struct fault fault = {what, expected, found};
    return fault_invalid(&fault, err);
}

/* ---- the edit in order ------------------------------------------------------------------------------------------ */

/* Sifts the heap's element at `root` down; a heap sort needs no memory and has no bad case. */
static void pointers_sift(const struct edit_table **tables, size_t root, size_t count) {
    for (;;) {
        size_t child = 2 * root + 1;
        if (child >= count) {
            return;
        }
        if (child + 1 < count && tables[child]->meta.number < tables[child + 1]->meta.number) {
            child++;
        }
        if (tables[root]->meta.number >= tables[child]->meta.number) {
            return;
        }
        const struct edit_table *swap = tables[root];
        tables[root] = tables[child];
        tables[child] = swap;
        root = child;
    }
}

static int sorted_tables(const struct mem *mem, const struct edit_table *tables, size_t count,
                         const struct edit_table ***ret_sorted, struct pleat_error *err) {
    if (count == 0) {
        *ret_sorted = NULL;
        return 0;
    }
    const struct edit_table **sorted = mem_zalloc(mem, count, sizeof(const struct edit_table *));
    if (sorted == NULL) {
        return error_no_memory(err, "tables of an edit", count * sizeof(const struct edit_table *));
    }
    *ret_sorted = sorted;
    for (size_t i = 0; i < count; i++) {
        sorted[i] = &tables[i];
    }
    for (size_t root = count / 2; root-- > 0;) {
        pointers_sift(sorted, root, count);
    }
    for (size_t end = count; end-- > 1;) {
        const struct edit_table *swap = sorted[0];
        sorted[0] = sorted[end];
        sorted[end] = swap;
        pointers_sift(sorted, 0, end);
    }
    for (size_t i = 1; i < count; i++) {
        if (sorted[i - 1]->meta.number == sorted[i]->meta.number) {
            return change_invalid(err, "table twice in one list", 1, sorted[i]->meta.number);
        }
    }
    return 0;
}

static const struct edit_table *sorted_find(const struct edit_table **sorted, size_t count, uint64_t number) {
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (sorted[middle]->meta.number < number) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < count && sorted[low]->meta.number == number ? sorted[low] : NULL;
}

/* ---- position --------------------------------------------------------------------------------------------------- */

static int change_position(struct change *change, const struct edit *edit, struct pleat_error *err) {
    if (edit->last_sequence < change->facts.last_sequence) {
        return change_invalid(err, "last sequence, least", change->facts.last_sequence, edit->last_sequence);
    }
    if (edit->log_floor < change->facts.log_floor) {
        return change_invalid(err, "log floor, least", change->facts.log_floor, edit->log_floor);
    }
    if (edit->cursors.count > LIMIT_CURSORS) {
        return change_invalid(err, "cursors, at most", LIMIT_CURSORS, edit->cursors.count);
    }
    change->has_position = true;
    change->facts.last_sequence = change->version->last_sequence = edit->last_sequence;
    change->facts.log_floor = change->version->log_floor = edit->log_floor;
    int rc = cursor_set_reserve(&change->cursors, edit->cursors.count, err);
    if (rc == 0) {
        cursor_set_assign(&change->cursors, &edit->cursors);
    }
    return rc;
}

/* ---- tables ----------------------------------------------------------------------------------------------------- */

static bool meta_is_same(const struct table_meta *a, const struct table_meta *b) {
    return a->file_bytes == b->file_bytes && a->entries == b->entries && a->tombstones == b->tombstones &&
           a->key_value_bytes == b->key_value_bytes && a->sequence_min == b->sequence_min &&
           a->sequence_max == b->sequence_max && a->deadline_min_ms == b->deadline_min_ms &&
           a->footer_checksum == b->footer_checksum && a->blocks == b->blocks &&
           a->key_bytes_max == b->key_bytes_max && a->codec == b->codec && a->filter == b->filter &&
           key_compare(a->smallest, a->smallest_bytes, b->smallest, b->smallest_bytes) == 0 &&
           key_compare(a->largest, a->largest_bytes, b->largest, b->largest_bytes) == 0;
}

/* Where a table of the old tree goes: into `next` (NULL: its space is dropped), or among those that are gone. */
static int change_old_table(struct change *change, struct sorted_edit *sorted, const struct tree *old,
                            struct tree *next, unsigned level, struct table_ref *ref, struct pleat_error *err) {
    const struct edit *edit = sorted->edit;
    uint64_t number = ref->meta.number;
    bool is_ended = (edit->drop_space || edit->clear_space) && edit->dropped_space == old->space.id;
    const struct edit_table *removed = sorted_find(sorted->removed, edit->removed_count, number);
    const struct edit_table *added = sorted_find(sorted->added, edit->added_count, number);
    if (removed != NULL && (removed->space != old->space.id || removed->level != level)) {
        return change_invalid(err, "level of a table to remove", level, removed->level);
    }
    sorted->removed_found += removed != NULL;
    if (added != NULL) {
        if (removed == NULL || is_ended || added->space != old->space.id || !meta_is_same(&added->meta, &ref->meta)) {
            return change_invalid(err, "a table that is there is added again", 0, number);
        }
        level_push(&next->levels[added->level], ref);
    } else if (removed != NULL || is_ended) {
        change->gone[change->gone_count++] = ref;
    } else {
        level_push(&next->levels[level], ref);
    }
    return 0;
}

/* A tree for `space` with room for `old` (NULL: none) and what the edit adds. */
static struct tree *change_tree_new(struct registry *registry, const struct sorted_edit *sorted,
                                    const struct tree *old, const struct space_info *space,
                                    struct pleat_error *err) {
    size_t counts[LIMIT_LEVELS] = {0};
    for (size_t i = 0; i < sorted->edit->added_count; i++) {
        if (sorted->edit->added[i].space == space->id) {
            counts[sorted->edit->added[i].level]++;
        }
    }
    struct tree *tree = tree_new(registry, space);
    if (tree == NULL) {
        (void)error_no_memory(err, "a space", sizeof *tree);
        return NULL;
    }
    for (unsigned i = 0; i < LIMIT_LEVELS; i++) {
        size_t count = counts[i] + (old != NULL ? old->levels[i].count : 0);
        if (level_reserve(registry->store.mem, &tree->levels[i], count, err) < 0) {
            tree_unref(tree);
            return NULL;
        }
    }
    return tree;
}

static bool edit_names_space(const struct edit *edit, uint32_t space) {
    if ((edit->drop_space || edit->clear_space) && edit->dropped_space == space) {
        return true;
    }
    for (size_t i = 0; i < edit->added_count; i++) {
        if (edit->added[i].space == space) {
            return true;
        }
    }
    for (size_t i = 0; i < edit->removed_count; i++) {
        if (edit->removed[i].space == space) {
            return true;
        }
    }
    return false;
}

/* A space that the edit does not name keeps its tree; but none of its numbers may come again. */
static int change_untouched_tree(const struct sorted_edit *sorted, const struct tree *tree, struct pleat_error *err) {
    for (unsigned level = 0; sorted->edit->added_count > 0 && level < LIMIT_LEVELS; level++) {
        for (size_t i = 0; i < tree->levels[level].count; i++) {
            uint64_t number = tree->levels[level].tables[i]->meta.number;
            if (sorted_find(sorted->added, sorted->edit->added_count, number) != NULL) {
                return change_invalid(err, "a table that is there is added again", 0, number);
            }
        }
    }
    return 0;
}

/* The trees that were there. */
static int change_old_trees(struct change *change, struct registry *registry, struct sorted_edit *sorted,
                            struct pleat_error *err) {
    struct version *version = change->version;
    const struct edit *edit = sorted->edit;
    for (uint32_t slot = 0; slot < version->slots; slot++) {
        struct tree *old = version->trees[slot];
        if (old == NULL) {
            continue;
        }
        if (!edit_names_space(edit, old->space.id)) {
            int rc = change_untouched_tree(sorted, old, err);
            if (rc < 0) {
                return rc;
            }
            continue;
        }
        struct tree *next = NULL;
        if (!edit->drop_space || edit->dropped_space != old->space.id) {
            next = change_tree_new(registry, sorted, old, &old->space, err);
            if (next == NULL) {
                return PLEAT_ERR_NO_MEMORY;
            }
        }
        /* The current version still holds the old tree, and with it every table that is looked at below. */
        version->trees[slot] = next;
        int rc = 0;
        for (unsigned level = 0; rc == 0 && level < LIMIT_LEVELS; level++) {
            for (size_t i = 0; rc == 0 && i < old->levels[level].count; i++) {
                rc = change_old_table(change, sorted, old, next, level, old->levels[level].tables[i], err);
            }
        }
        tree_unref(old);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

static int change_create_space(struct change *change, struct registry *registry, const struct sorted_edit *sorted,
                               struct pleat_error *err) {
    const struct space_info *space = &sorted->edit->space;
    struct version *version = change->version;
    struct fault fault;
    if (space_info_fault(space, &fault)) {
        return fault_invalid(&fault, err);
    }
    if (space->id < change->facts.space_bound || space->id == UINT32_MAX) {
        return change_invalid(err, "id of a new space, least", change->facts.space_bound, space->id);
    }
    if (version_slot_by_name(version, (struct pleat_slice){space->name, space->name_bytes}) >= 0) {
        return change_invalid(err, "spaces of one name, at most", 1, 2);
    }
    uint32_t slot = 0;
    while (slot < LIMIT_SPACES && version->trees[slot] != NULL) {
        slot++;
    }
    if (slot == LIMIT_SPACES) {
        return change_invalid(err, "spaces, at most", LIMIT_SPACES, LIMIT_SPACES + 1);
    }
    version->trees[slot] = change_tree_new(registry, sorted, NULL, space, err);
    if (version->trees[slot] == NULL) {
        return PLEAT_ERR_NO_MEMORY;
    }
    version->slots = slot < version->slots ? version->slots : slot + 1;
    change->facts.space_bound = (uint64_t)space->id + 1;
    return 0;
}

/* The tables that are new (a moved one has its place already). */
static int change_new_tables(struct change *change, struct registry *registry, const struct sorted_edit *sorted,
                             struct pleat_error *err) {
    const struct edit *edit = sorted->edit;
    for (size_t i = 0; i < edit->added_count; i++) {
        const struct edit_table *added = &edit->added[i];
        struct fault fault;
        if (table_meta_fault(&added->meta, &fault)) {
            return fault_invalid(&fault, err);
        }
        if (sorted_find(sorted->removed, edit->removed_count, added->meta.number) != NULL) {
            continue;
        }
        if (added->meta.number >= change->facts.number_bound) {
            return change_invalid(err, "table number, below", change->facts.number_bound, added->meta.number);
        }
        int slot = version_slot(change->version, added->space);
        if (slot < 0) {
            return change_invalid(err, "space of a new table", 0, added->space);
        }
        struct table_ref *ref = added->ref != NULL ? added->ref : table_ref_new(registry, &added->meta);
        if (ref == NULL) {
            return error_no_memory(err, "a table of an edit", sizeof *ref);
        }
        level_push(&change->version->trees[slot]->levels[added->level], ref);
        if (ref != added->ref) {
            table_ref_unref(ref);
        }
    }
    return 0;
}

static int change_finish(struct change *change, const struct mem *mem, const struct version *current,
                         struct pleat_error *err) {
    struct version *version = change->version;
    for (uint32_t slot = 0; slot < version->slots; slot++) {
        struct tree *tree = version->trees[slot];
        if (tree == NULL || tree == current->trees[slot]) {
            continue;
        }
        for (unsigned i = 0; i < LIMIT_LEVELS; i++) {
            struct fault fault = {0};
            int rc = level_finish(mem, &tree->levels[i], i, &fault, err);
            if (rc < 0) {
                return fault.what != NULL ? fault_invalid(&fault, err) : rc;
            }
        }
    }
    return 0;
}

/* ---- the whole -------------------------------------------------------------------------------------------------- */

static int change_tables(struct change *change, struct registry *registry, const struct version *current,
                         struct sorted_edit *sorted, struct pleat_error *err) {
    const struct edit *edit = sorted->edit;
    size_t gone = edit->removed_count;
    if (edit->drop_space || edit->clear_space) {
        int slot = version_slot(current, edit->dropped_space);
        if (slot < 0 || (edit->drop_space && edit->clear_space)) {
            return change_invalid(err, "space to drop or to clear", 0, edit->dropped_space);
        }
        for (unsigned i = 0; i < LIMIT_LEVELS; i++) {
            gone += current->trees[slot]->levels[i].count;
        }
    }
    change->gone = gone > 0 ? mem_zalloc(registry->store.mem, gone, sizeof(struct table_ref *)) : NULL;
    if (gone > 0 && change->gone == NULL) {
        return error_no_memory(err, "tables of an edit", gone * sizeof(struct table_ref *));
    }
    int rc = change_old_trees(change, registry, sorted, err);
    if (rc == 0 && sorted->removed_found < edit->removed_count) {
        rc = change_invalid(err, "tables to remove that are there", edit->removed_count, sorted->removed_found);
    }
    return rc;
}

int change_build(struct registry *registry, const struct version *current, const struct facts *facts,
                 const struct edit *edit, struct change *ret_change, struct pleat_error *err) {
    const struct mem *mem = registry->store.mem;
    struct sorted_edit sorted = {.edit = edit};
    *ret_change = (struct change){.facts = *facts};
    cursor_set_init(&ret_change->cursors, mem);
    ret_change->version = version_new(registry, current);
    if (ret_change->version == NULL) {
        return error_no_memory(err, "a version", sizeof *ret_change->version);
    }
    int rc = sorted_tables(mem, edit->removed, edit->removed_count, &sorted.removed, err);
    if (rc == 0) {
        rc = sorted_tables(mem, edit->added, edit->added_count, &sorted.added, err);
    }
    if (rc == 0) {
        rc = change_tables(ret_change, registry, current, &sorted, err);
    }
    if (rc == 0 && edit->has_space) {
        rc = change_create_space(ret_change, registry, &sorted, err);
    }
    if (rc == 0) {
        rc = change_new_tables(ret_change, registry, &sorted, err);
    }
    if (rc == 0) {
        rc = change_finish(ret_change, mem, current, err);
    }
    if (rc == 0 && edit->has_position) {
        rc = change_position(ret_change, edit, err);
    }
    if (edit->has_history) {
        ret_change->facts.history = edit->history;
        ret_change->facts.history_sequence = edit->history_sequence;
    }
    if (edit->has_clean) {
        ret_change->facts.clean = edit->clean;
    }
    mem_free(mem, sorted.removed);
    mem_free(mem, sorted.added);
    if (rc < 0) {
        change_fini(ret_change, mem);
    }
    return rc;
}

void change_fini(struct change *change, const struct mem *mem) {
    version_unref(change->version);
    cursor_set_fini(&change->cursors);
    mem_free(mem, change->gone);
    change->version = NULL;
    change->gone = NULL;
}
