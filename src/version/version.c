/*
 * version.c - immutable versions: reference counts, the order of tables in levels, and finding a table by key.
 *
 * A version points to trees, one a space, and shares those that its edit did not touch with its predecessor. Sharing by
 * tree and not by level keeps the structure flat for readers (version -> tree -> array) at the price of copying the
 * pointers of a space when one of its levels changes, which happens once a flush or compaction.
 *
 * level_find is on the path of every get: the common prefix of all largest keys is compared once, then 8-byte heads are
 * searched without branches, and whole keys are compared only among equal heads.
 *
 *     largest keys   route.a1x  route.a7  route.c2     common_bytes 6 ("route.")
 *     heads          "a1x....." "a7......" "c2......"  as big-endian numbers, zero-padded
 */
#include "base/assert.h"
#include "base/bytes.h"
#include "base/error.h"
#include "version/registry_internal.h"

/* ---- reference counts ------------------------------------------------------------------------------------------- */

struct tree *tree_new(struct registry *registry, const struct space_info *space) {
    struct tree *tree = mem_zalloc(registry->store.mem, 1, sizeof *tree);
    if (tree != NULL) {
        atomic_init(&tree->refs, 1);
        tree->registry = registry;
        tree->space = *space;
    }
    return tree;
}

void tree_ref(struct tree *tree) {
    /* relaxed: whoever adds a reference holds one */
    uint32_t before = atomic_fetch_add_explicit(&tree->refs, 1, memory_order_relaxed);
    ASSERT(before > 0);
}

void tree_unref(struct tree *tree) {
    /* acq_rel: pairs with the other unrefs, so that the last holder frees what all are done with */
    if (tree == NULL || atomic_fetch_sub_explicit(&tree->refs, 1, memory_order_acq_rel) > 1) {
        return;
    }
    const struct mem *mem = tree->registry->store.mem;
    for (unsigned i = 0; i < LIMIT_LEVELS; i++) {
        struct level *level = &tree->levels[i];
        for (size_t t = 0; t < level->count; t++) {
            table_ref_unref(level->tables[t]);
        }
        mem_free(mem, level->tables);
        mem_free(mem, level->heads);
    }
    mem_free(mem, tree);
}

struct version *version_new(struct registry *registry, const struct version *from) {
    struct version *version = mem_zalloc(registry->store.mem, 1, sizeof *version);
    if (version == NULL) {
        return NULL;
    }
    atomic_init(&version->refs, 1);
    version->registry = registry;
    version->number = 1;
    if (from != NULL) {
        version->number = from->number + 1;
        version->last_sequence = from->last_sequence;
        version->log_floor = from->log_floor;
        version->slots = from->slots;
        for (uint32_t slot = 0; slot < from->slots; slot++) {
            version->trees[slot] = from->trees[slot];
            if (version->trees[slot] != NULL) {
                tree_ref(version->trees[slot]);
            }
        }
    }
    return version;
}

void version_ref(struct version *version) {
    /* relaxed: whoever adds a reference holds one, or the registry's state mutex */
    uint32_t before = atomic_fetch_add_explicit(&version->refs, 1, memory_order_relaxed);
    ASSERT(before > 0);
}

void version_unref(struct version *version) {
    /* acq_rel: pairs with the other unrefs, so that the last holder frees what all are done with */
    if (version == NULL || atomic_fetch_sub_explicit(&version->refs, 1, memory_order_acq_rel) > 1) {
        return;
    }
    for (uint32_t slot = 0; slot < version->slots; slot++) {
        tree_unref(version->trees[slot]);
    }
    mem_free(version->registry->store.mem, version);
}

int version_slot(const struct version *version, uint32_t space) {
    for (uint32_t slot = 0; slot < version->slots; slot++) {
        if (version->trees[slot] != NULL && version->trees[slot]->space.id == space) {
            return (int)slot;
        }
    }
    return -1;
}

int version_slot_by_name(const struct version *version, struct pleat_slice name) {
    for (uint32_t slot = 0; slot < version->slots; slot++) {
        const struct tree *tree = version->trees[slot];
        if (tree != NULL &&
            key_compare(tree->space.name, tree->space.name_bytes, name.data, name.bytes) == 0) {
            return (int)slot;
        }
    }
    return -1;
}

/* ---- building a level ------------------------------------------------------------------------------------------- */

int level_reserve(const struct mem *mem, struct level *level, size_t count, struct pleat_error *err) {
    ASSERT(level->tables == NULL);
    if (count == 0) {
        return 0;
    }
    level->tables = mem_zalloc(mem, count, sizeof(struct table_ref *));
    return level->tables != NULL ? 0 : error_no_memory(err, "tables of a level", count * sizeof(struct table_ref *));
}

void level_push(struct level *level, struct table_ref *ref) {
    table_ref_ref(ref);
    level->tables[level->count++] = ref;
}

static int table_compare_smallest(const struct table_meta *a, const struct table_meta *b) {
    return key_compare(a->smallest, a->smallest_bytes, b->smallest, b->smallest_bytes);
}

/* V2. In level 0 the tables of one run have the same sequences and are disjoint: they follow each other by key. */
static bool table_is_before(const struct table_meta *a, const struct table_meta *b, unsigned index) {
    if (index == 0 && a->sequence_max != b->sequence_max) {
        return a->sequence_max > b->sequence_max;
    }
    int order = table_compare_smallest(a, b);
    return order != 0 ? order < 0 : a->number < b->number;
}

/* Merges the ordered halves [0, middle) and [middle, count) of `tables` by way of `scratch`. */
static void tables_merge(struct table_ref **tables, size_t middle, size_t count, struct table_ref **scratch,
                         unsigned index) {
    if (!table_is_before(&tables[middle]->meta, &tables[middle - 1]->meta, index)) {
        return;
    }
    memcpy(scratch, tables, middle * sizeof *scratch);
    size_t left = 0, right = middle, out = 0;
    while (left < middle && right < count) {
        if (table_is_before(&tables[right]->meta, &scratch[left]->meta, index)) {
            tables[out++] = tables[right++];
        } else {
            tables[out++] = scratch[left++];
        }
    }
    memcpy(tables + out, scratch + left, (middle - left) * sizeof *scratch);
}

/* A bottom-up merge sort: levels come nearly ordered, and then it is one comparison a table and pass. */
static void tables_sort(struct table_ref **tables, size_t count, struct table_ref **scratch, unsigned index) {
    for (size_t width = 1; width < count; width *= 2) {
        for (size_t begin = 0; begin + width < count; begin += 2 * width) {
            size_t rest = count - begin;
            tables_merge(tables + begin, width, rest < 2 * width ? rest : 2 * width, scratch, index);
        }
    }
}

/* Whether neighbours that must be disjoint are not. */
static bool level_fault(const struct level *level, unsigned index, struct fault *fault) {
    for (size_t i = 1; i < level->count; i++) {
        const struct table_meta *a = &level->tables[i - 1]->meta;
        const struct table_meta *b = &level->tables[i]->meta;
        if (index == 0 && a->sequence_max != b->sequence_max) {
            if (a->sequence_max < b->sequence_max) {
                return fault_set(fault, "tables of level 0 are not newest first", a->number, b->number);
            }
            continue;
        }
        if (key_compare(a->largest, a->largest_bytes, b->smallest, b->smallest_bytes) >= 0) {
            return fault_set(fault, "tables of a sorted run overlap (their numbers)", a->number, b->number);
        }
    }
    return false;
}

static void level_sums(const struct level *level, uint64_t *ret_bytes, uint64_t *ret_entries,
                       uint64_t *ret_tombstones) {
    *ret_bytes = *ret_entries = *ret_tombstones = 0;
    for (size_t i = 0; i < level->count; i++) {
        *ret_bytes += level->tables[i]->meta.file_bytes;
        *ret_entries += level->tables[i]->meta.entries;
        *ret_tombstones += level->tables[i]->meta.tombstones;
    }
}

/* Of sorted keys the first and the last share the least. */
static size_t level_common(const struct level *level) {
    const struct table_meta *first = &level->tables[0]->meta;
    const struct table_meta *last = &level->tables[level->count - 1]->meta;
    return key_common(first->largest, first->largest_bytes, last->largest, last->largest_bytes);
}

int level_finish(const struct mem *mem, struct level *level, unsigned index, struct fault *fault,
                 struct pleat_error *err) {
    if (level->count == 0) {
        return 0;
    }
    uint64_t *heads = mem_zalloc(mem, level->count, sizeof *heads);
    if (heads == NULL) {
        return error_no_memory(err, "heads of a level", level->count * sizeof *heads);
    }
    /* The heads are room enough for the sort before they are heads. */
    static_assert(sizeof(struct table_ref *) <= sizeof(uint64_t), "a pointer fits into a head");
    tables_sort(level->tables, level->count, (struct table_ref **)(void *)heads, index);
    if (level_fault(level, index, fault)) {
        mem_free(mem, heads);
        return PLEAT_ERR_INVALID;
    }
    level_sums(level, &level->file_bytes, &level->entries, &level->tombstones);
    if (index == 0) {
        mem_free(mem, heads);
        return 0;
    }
    level->common_bytes = level_common(level);
    for (size_t i = 0; i < level->count; i++) {
        const struct table_meta *meta = &level->tables[i]->meta;
        heads[i] = key_head(meta->largest, meta->largest_bytes, level->common_bytes);
    }
    level->heads = heads;
    return 0;
}

/* ---- finding ---------------------------------------------------------------------------------------------------- */

/* The first of `count` ascending heads that is >= head, or count. No branch depends on what is found. */
static size_t heads_lower_bound(const uint64_t *heads, size_t count, uint64_t head) {
    if (count == 0) {
        return 0;
    }
    const uint64_t *base = heads;
    while (count > 1) {
        size_t half = count / 2;
        base += base[half - 1] < head ? half : 0;
        count -= half;
    }
    return (size_t)(base - heads) + (*base < head);
}

/* Whether the largest key of the table is below `key`, both behind `skip` bytes that they share. */
static bool table_ends_before(const struct table_meta *meta, size_t skip, const uint8_t *key, size_t key_bytes) {
    return key_compare(meta->largest + skip, meta->largest_bytes - skip, key + skip, key_bytes - skip) < 0;
}

size_t level_find(const struct level *level, const uint8_t *key, size_t key_bytes) {
    size_t count = level->count;
    if (count == 0 || key_bytes == 0) {
        return 0; /* no key is below the empty one */
    }
    size_t common = level->common_bytes;
    size_t shared = key_bytes < common ? key_bytes : common;
    int order = shared > 0 ? memcmp(key, level->tables[0]->meta.largest, shared) : 0;
    if (order != 0) {
        return order < 0 ? 0 : count;
    }
    if (key_bytes < common) {
        return 0; /* a proper prefix of every largest key */
    }
    uint64_t head = key_head(key, key_bytes, common);
    size_t low = heads_lower_bound(level->heads, count, head);
    if (low == count || level->heads[low] != head ||
        !table_ends_before(&level->tables[low]->meta, common, key, key_bytes)) {
        return low;
    }
    low++;
    size_t high = head == UINT64_MAX ? count : low + heads_lower_bound(level->heads + low, count - low, head + 1);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (table_ends_before(&level->tables[middle]->meta, common, key, key_bytes)) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

bool level_overlaps(const struct level *level, struct pleat_slice lower, struct pleat_slice upper) {
    if (level->heads != NULL) {
        size_t i = level_find(level, lower.data, lower.bytes);
        return i < level->count && key_compare(level->tables[i]->meta.smallest, level->tables[i]->meta.smallest_bytes,
                                               upper.data, upper.bytes) <= 0;
    }
    for (size_t i = 0; i < level->count; i++) {
        const struct table_meta *meta = &level->tables[i]->meta;
        if (key_compare(meta->largest, meta->largest_bytes, lower.data, lower.bytes) >= 0 &&
            key_compare(meta->smallest, meta->smallest_bytes, upper.data, upper.bytes) <= 0) {
            return true;
        }
    }
    return false;
}

/* ---- checking --------------------------------------------------------------------------------------------------- */

static bool level_check(const struct level *level, unsigned index) {
    struct fault fault;
    uint64_t file_bytes, entries, tombstones;
    level_sums(level, &file_bytes, &entries, &tombstones);
    if (level_fault(level, index, &fault) || file_bytes != level->file_bytes || entries != level->entries ||
        tombstones != level->tombstones) {
        return false;
    }
    if (index == 0 || level->count == 0) {
        return level->heads == NULL;
    }
    if (level->heads == NULL || level->common_bytes != level_common(level)) {
        return false;
    }
    for (size_t i = 0; i < level->count; i++) {
        const struct table_meta *meta = &level->tables[i]->meta;
        if (level->heads[i] != key_head(meta->largest, meta->largest_bytes, level->common_bytes)) {
            return false;
        }
    }
    return true;
}

static bool tree_check(const struct tree *tree) {
    for (unsigned index = 0; index < LIMIT_LEVELS; index++) {
        const struct level *level = &tree->levels[index];
        if (!level_check(level, index)) {
            return false;
        }
        for (size_t i = 0; i < level->count; i++) {
            const struct table_meta *meta = &level->tables[i]->meta;
            struct fault fault;
            if (table_meta_fault(meta, &fault)) {
                return false;
            }
        }
    }
    return true;
}

bool version_check(const struct version *version) {
    if (version->slots > LIMIT_SPACES) {
        return false;
    }
    for (uint32_t slot = 0; slot < version->slots; slot++) {
        const struct tree *tree = version->trees[slot];
        if (tree != NULL && (version_slot(version, tree->space.id) != (int)slot || !tree_check(tree))) {
            return false;
        }
    }
    return true;
}
