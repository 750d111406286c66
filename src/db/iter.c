/*
 * iter.c - iterators and streaming scans over one view at one sequence.
 *
 *   view -> bounds -> sources (memtables, level-0 tables, levels) -> merge -> tombstones dropped -> the user
 *
 *   I1  Bounds go down to the sources when the iterator is made, and are tested there before tombstones are skipped:
 *       a scan of a small range never walks what was deleted beyond it.
 *   I2  An iterator holds one counted reference on its view: what it sees never changes.
 *   I3  Prefix bounds are exact: the least key above all with the prefix, none for 0xff... (key_prefix_bound).
 *   I4  A key that is sought may lie in what the current entry lends: it is copied before any source moves.
 */
#include "base/assert.h"
#include "base/bytes.h"
#include "compaction/merge.h"
#include "db/db.h"

#include <string.h>

struct pleat_iter {
    struct pleat_db *db;
    struct view *view;
    struct source *source;
    struct source_bounds bounds;
    bool on_entry;
    bool empty;      /* bounds that exclude everything */
    bool is_merge;   /* of more than one source */
    int last_move;   /* of PLEAT_END: > 0 off the end, < 0 off the beginning */
    int failure;     /* of the last move; the source has the text */
    uint8_t *target; /* NULL, or room for a key that was sought and lay in the entry (I4) */
    size_t target_room;
    uint8_t bytes[]; /* copies of lower, upper and prefix, and room for the prefix's bound */
};

static int iter_check_options(const struct pleat_iter_options *options, struct pleat_error *err) {
    const struct {
        const char *name;
        struct pleat_slice slice;
        bool used;
    } fields[] = {{"lower", options->lower, options->has_lower},
                  {"upper", options->upper, options->has_upper},
                  {"prefix", options->prefix, true}};
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        if (!fields[i].used) {
            continue;
        }
        if (fields[i].slice.bytes > LIMIT_KEY_BYTES + 1) {
            return error_set(err, PLEAT_ERR_INVALID, 0, "%s of %zu bytes, the limit is %u", fields[i].name,
                             fields[i].slice.bytes, LIMIT_KEY_BYTES + 1);
        }
        if (fields[i].slice.data == NULL && fields[i].slice.bytes > 0) {
            return error_set(err, PLEAT_ERR_INVALID, 0, "%s is NULL with a length of %zu bytes", fields[i].name,
                             fields[i].slice.bytes);
        }
    }
    return 0;
}

/* How much of iter->bytes the bounds take. */
static size_t iter_bounds_bytes(const struct pleat_iter_options *options) {
    return (options->has_lower ? options->lower.bytes : 0) + (options->has_upper ? options->upper.bytes : 0) +
           2 * options->prefix.bytes;
}

/* Narrows lower, upper and prefix to one range and copies it. */
static void iter_set_bounds(struct pleat_iter *iter, const struct pleat_iter_options *options) {
    size_t prefix_bytes = options->prefix.bytes;
    size_t lower_bytes = options->has_lower ? options->lower.bytes : 0;
    size_t upper_bytes = options->has_upper ? options->upper.bytes : 0;
    uint8_t *p = iter->bytes;
    struct source_bounds *bounds = &iter->bounds;
    if (options->has_lower) {
        bounds->lower = p;
        bounds->lower_bytes = lower_bytes;
        memcpy(p, lower_bytes > 0 ? options->lower.data : "", lower_bytes);
        p += lower_bytes;
    }
    if (options->has_upper) {
        bounds->upper = p;
        bounds->upper_bytes = upper_bytes;
        memcpy(p, upper_bytes > 0 ? options->upper.data : "", upper_bytes);
        p += upper_bytes;
    }
    if (prefix_bytes > 0) {
        bounds->prefix = p;
        bounds->prefix_bytes = prefix_bytes;
        memcpy(p, options->prefix.data, prefix_bytes);
        p += prefix_bytes;
        if (bounds->lower == NULL ||
            key_compare(bounds->prefix, prefix_bytes, bounds->lower, bounds->lower_bytes) > 0) {
            bounds->lower = bounds->prefix;
            bounds->lower_bytes = prefix_bytes;
        }
        size_t bound_bytes;
        if (key_prefix_bound(bounds->prefix, prefix_bytes, p, &bound_bytes) &&
            (bounds->upper == NULL || key_compare(p, bound_bytes, bounds->upper, bounds->upper_bytes) < 0)) {
            bounds->upper = p;
            bounds->upper_bytes = bound_bytes;
        }
    }
    bounds->keys_only = options->keys_only;
    bounds->fill_cache = !options->skip_cache;
    iter->empty = bounds->lower != NULL && bounds->upper != NULL &&
                  key_compare(bounds->lower, bounds->lower_bytes, bounds->upper, bounds->upper_bytes) >= 0;
}

/* Tables that may hold keys inside the bounds by their range alone: one, or neighbours of a level that want a
 * concatenation. */
struct iter_run {
    struct table_ref *const *tables;
    size_t count;
};

static bool iter_table_overlaps(const struct table_meta *meta, const struct source_bounds *bounds) {
    return (bounds->lower == NULL ||
            key_compare(meta->largest, meta->largest_bytes, bounds->lower, bounds->lower_bytes) >= 0) &&
           (bounds->upper == NULL ||
            key_compare(meta->smallest, meta->smallest_bytes, bounds->upper, bounds->upper_bytes) < 0);
}

/* The runs of a tree inside the bounds, newest first. `runs` has room for a table of level 0 each, and a level each. */
static size_t iter_find_runs(const struct source_bounds *bounds, const struct tree *tree, struct iter_run *runs) {
    size_t count = 0;
    const struct level *zero = &tree->levels[0];
    for (size_t i = 0; i < zero->count; i++) {
        if (iter_table_overlaps(&zero->tables[i]->meta, bounds)) {
            runs[count++] = (struct iter_run){&zero->tables[i], 1};
        }
    }
    for (unsigned level = 1; level < LIMIT_LEVELS; level++) {
        const struct level *at = &tree->levels[level];
        if (at->count == 0) {
            continue;
        }
        size_t first = bounds->lower != NULL ? level_find(at, bounds->lower, bounds->lower_bytes) : 0;
        size_t end = first;
        while (end < at->count && iter_table_overlaps(&at->tables[end]->meta, bounds)) {
            end++;
        }
        if (first < end) {
            runs[count++] = (struct iter_run){at->tables + first, end - first};
        }
    }
    return count;
}

/* Asks for the filter lines of the group in all tables before the first is tested. What is not open yet is passed by.
 */
static void iter_prefetch_filters(const struct iter_run *runs, size_t count, uint64_t hash) {
    for (size_t i = 0; i < count; i++) {
        /* Acquire; pairs with the release in table_ref_open. */
        const struct table *table = atomic_load_explicit(&runs[i].tables[0]->table, memory_order_acquire);
        if (table != NULL && runs[i].count == 1) {
            table_prefetch(table, hash);
        }
    }
}

/* Memtables are trees, and each node on the way down may be far away: their walks go a step on between the tables. */
static void iter_approach(struct source **memtables, size_t count) {
    for (size_t i = 0; i < count; i++) {
        (void)memtable_source_approach(memtables[i]);
    }
}

/* The sources of a tree, newest first; those that are there already are memtables. `sources` and `runs` have room for
 * all. */
static int iter_add_tree(struct pleat_iter *iter, const struct tree *tree, struct iter_run *runs,
                         struct source **sources, size_t *count, struct pleat_error *err) {
    const struct source_bounds *bounds = &iter->bounds;
    size_t memtables = *count;
    size_t run_count = iter_find_runs(bounds, tree, runs);
    iter_approach(sources, memtables);
    size_t group =
        bounds->prefix != NULL ? table_group_bytes(&tree->space.grouping, bounds->prefix, bounds->prefix_bytes) : 0;
    uint64_t hash = group > 0 ? table_group_hash(bounds->prefix, group) : 0;
    if (group > 0) {
        iter_prefetch_filters(runs, run_count, hash);
    }
    for (size_t i = 0; i < run_count; i++) {
        int rc;
        iter_approach(sources, memtables);
        if (runs[i].count == 1) { /* the usual prefix read: one table, no concatenation around it */
            struct table *table;
            rc = table_ref_open(runs[i].tables[0], &table, err);
            int may = rc == 0 && group > 0 ? table_ask(table, hash, err) : 1;
            if (may == 0) {
                continue;
            }
            rc = may < 0 ? may : rc;
            rc = rc == 0 ? table_source_new(table, bounds, &sources[*count], err) : rc;
        } else {
            rc = level_source_new(iter->db->mem, runs[i].tables, runs[i].count, &tree->space.grouping, bounds,
                                  &sources[*count], err);
        }
        if (rc < 0) {
            return rc;
        }
        ++*count;
    }
    flow_visit(iter->db, *count - memtables);
    return 0;
}

#define ITER_SOURCES_INLINE 32

static int iter_open_sources(struct pleat_iter *iter, const struct pleat_space *space, uint64_t sequence,
                             struct pleat_error *err) {
    const struct tree *tree = iter->view->version->trees[space->slot];
    if (tree != NULL && tree->space.id != space->info.id) {
        tree = NULL;
    }
    size_t most = iter->view->count + (tree != NULL ? tree->levels[0].count : 0) + LIMIT_LEVELS;
    struct source *inline_sources[ITER_SOURCES_INLINE];
    struct iter_run inline_runs[ITER_SOURCES_INLINE];
    struct source **sources = inline_sources;
    struct iter_run *runs = inline_runs;
    size_t count = 0;
    int rc = 0;
    if (most > ITER_SOURCES_INLINE) {
        size_t bytes = most * (sizeof *runs + sizeof(struct source *));
        runs = mem_alloc(iter->db->mem, bytes);
        if (runs == NULL) {
            return error_no_memory(err, "an iterator's sources", bytes);
        }
        sources = (struct source **)(runs + most);
    }
    for (unsigned i = 0; rc == 0 && !iter->empty && i < iter->view->count; i++) {
        const struct memtable *table = generation_table(iter->view->generations[i], space->slot, space->info.id);
        if (table != NULL) {
            rc = memtable_source_new(iter->db->mem, table, &iter->bounds, sequence, &sources[count], err);
            if (rc == 0) {
                iter_approach(&sources[count++], 1);
            }
        }
    }
    if (rc == 0 && tree != NULL && !iter->empty) {
        rc = iter_add_tree(iter, tree, runs, sources, &count, err);
    }
    iter->is_merge = count > 1;
    if (rc == 0) {
        rc = merge_source_new(iter->db->mem, sources, count, &iter->source, err); /* takes them over in every case */
    } else {
        for (size_t i = 0; i < count; i++) {
            source_free(sources[i]);
        }
    }
    if (runs != inline_runs) {
        mem_free(iter->db->mem, runs);
    }
    return rc;
}

/* The options as this library knows them: those given, `copied`, or the defaults. */
static int iter_options_read(const struct pleat_iter_options **options, struct pleat_iter_options *copied,
                             struct pleat_error *err) {
    static const struct pleat_iter_options defaults = {.size = sizeof defaults};
    if (*options == NULL) {
        *options = &defaults;
    } else if (UNLIKELY((*options)->size != sizeof **options)) { /* of a caller with another header */
        int rc = options_copy("iterator options", *options, (*options)->size, copied, sizeof *copied, err);
        *options = copied;
        return rc;
    }
    return 0;
}

int pleat_iter_new(struct pleat_space *space, const struct pleat_iter_options *options, struct pleat_iter **ret_iter,
                   struct pleat_error *err) {
    struct pleat_iter_options copied;
    error_clear(err);
    int rc = iter_options_read(&options, &copied, err);
    rc = rc == 0 ? iter_check_options(options, err) : rc;
    rc = rc == 0 ? read_check(space, options->snapshot, (struct pleat_slice){NULL, 0}, err) : rc;
    if (rc < 0 || ret_iter == NULL) {
        return rc < 0 ? rc : error_set(err, PLEAT_ERR_INVALID, 0, "ret_iter is NULL");
    }
    struct pleat_db *db = space->db;
    size_t bytes = sizeof(struct pleat_iter) + iter_bounds_bytes(options);
    struct pleat_iter *iter = mem_alloc(db->mem, bytes);
    if (iter == NULL) {
        return error_no_memory(err, "an iterator", bytes);
    }
    *iter = (struct pleat_iter){.db = db};
    iter_set_bounds(iter, options);
    uint64_t sequence = 0;
    if (options->snapshot != NULL) {
        iter->view = options->snapshot->view;
        /* relaxed: the snapshot holds a reference */
        atomic_fetch_add_explicit(&iter->view->refs, 1, memory_order_relaxed);
        sequence = options->snapshot->sequence;
    } else {
        rc = view_acquire_at(db, &iter->view, &sequence, err); /* D7 */
    }
    atomic_fetch_add_explicit(&db->outstanding_iterators, 1, memory_order_relaxed); /* a count for close: no partner */
    rc = rc == 0 ? iter_open_sources(iter, space, sequence, err) : rc;
    if (rc < 0) {
        pleat_iter_free(iter);
        return rc;
    }
    *ret_iter = iter;
    return 0;
}

void pleat_iter_free(struct pleat_iter *iter) {
    if (iter != NULL) {
        struct pleat_db *db = iter->db;
        source_free(iter->source);
        mem_free(db->mem, iter->target);
        if (iter->view != NULL) {
            view_let_go(db, iter->view);
        }
        mem_free(db->mem, iter);
        /* release; pairs with the acquire in pleat_close */
        atomic_fetch_sub_explicit(&db->outstanding_iterators, 1, memory_order_release);
    }
}

/* Goes on over tombstones in the direction of travel and remembers where an end was met. */
static int iter_settle(struct pleat_iter *iter, int rc, int direction, struct pleat_error *err) {
    struct source *source = iter->source;
    while (rc == 0 && UNLIKELY(source->entry.kind != ENTRY_PUT)) {
        rc = direction > 0 ? source->ops->next(source) : source->ops->prev(source);
    }
    iter->on_entry = rc == 0;
    iter->last_move = rc == PLEAT_END ? direction : 0;
    iter->failure = rc < 0 ? rc : 0;
    if (UNLIKELY(rc < 0)) {
        (void)error_set(err, rc, source->error.os_errno, "%s", source->error.message);
    }
    return rc;
}

static int iter_check(const struct pleat_iter *iter, struct pleat_error *err) {
    if (UNLIKELY(iter == NULL)) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "iter is NULL");
    }
    return 0;
}

int pleat_iter_first(struct pleat_iter *iter, struct pleat_error *err) {
    error_clear(err);
    int rc = iter_check(iter, err);
    if (rc == 0 && iter->is_merge) { /* the memory that one source waits for arrives while others are asked */
        iter->source->ops->prepare(iter->source, NULL, 0);
    }
    return rc < 0 ? rc : iter_settle(iter, iter->source->ops->first(iter->source), 1, err);
}

int pleat_iter_last(struct pleat_iter *iter, struct pleat_error *err) {
    error_clear(err);
    int rc = iter_check(iter, err);
    return rc < 0 ? rc : iter_settle(iter, iter->source->ops->last(iter->source), -1, err);
}

/* A step from no entry. The end of a walk that failed is not its end: an answer of PLEAT_END would say that all was
 * seen. */
static int iter_step_from_none(struct pleat_iter *iter, int direction, struct pleat_error *err) {
    if (UNLIKELY(iter->failure != 0)) {
        return error_set(err, iter->failure, iter->source->error.os_errno, "%s", iter->source->error.message);
    }
    if (iter->last_move * direction >= 0) {
        return PLEAT_END; /* off this end, or nowhere yet: still none */
    }
    return direction > 0 ? pleat_iter_first(iter, err) : pleat_iter_last(iter, err);
}

/* Whether bytes of the key lie in [data, data + bytes). */
static bool slice_meets(struct pleat_slice key, const uint8_t *data, size_t bytes) {
    uintptr_t begin = (uintptr_t)key.data, from = (uintptr_t)data;
    return data != NULL && begin < from + bytes && from < begin + key.bytes;
}

/* I4. The first move of a source may overwrite or let go of what its entry lent. */
static int iter_own_key(struct pleat_iter *iter, struct pleat_slice *key, struct pleat_error *err) {
    const struct entry *entry = &iter->source->entry;
    bool is_lent = iter->on_entry && (slice_meets(*key, entry->key, entry->key_bytes) ||
                                      slice_meets(*key, entry->value, entry->value_bytes) ||
                                      slice_meets(*key, entry->version, entry->version_bytes));
    if (LIKELY(!is_lent)) {
        return 0;
    }
    if (key->bytes > iter->target_room) {
        uint8_t *target = mem_resize(iter->db->mem, iter->target, key->bytes);
        if (target == NULL) {
            return error_no_memory(err, "the key of a seek", key->bytes);
        }
        iter->target = target;
        iter->target_room = key->bytes;
    }
    memcpy(iter->target, key->data, key->bytes);
    key->data = iter->target;
    return 0;
}

static int iter_check_key(struct pleat_slice key, struct pleat_error *err) {
    if (key.bytes > LIMIT_KEY_BYTES + 1 || (key.data == NULL && key.bytes > 0)) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "key of %zu bytes%s, the limit is %u", key.bytes,
                         key.data == NULL ? " at NULL" : "", LIMIT_KEY_BYTES + 1);
    }
    return 0;
}

int pleat_iter_seek(struct pleat_iter *iter, struct pleat_slice key, struct pleat_error *err) {
    error_clear(err);
    int rc = iter_check(iter, err);
    rc = rc == 0 ? iter_check_key(key, err) : rc;
    rc = rc == 0 ? iter_own_key(iter, &key, err) : rc;
    return rc < 0 ? rc : iter_settle(iter, iter->source->ops->seek(iter->source, key.data, key.bytes), 1, err);
}

int pleat_iter_seek_before(struct pleat_iter *iter, struct pleat_slice key, struct pleat_error *err) {
    error_clear(err);
    int rc = iter_check(iter, err);
    rc = rc == 0 ? iter_check_key(key, err) : rc;
    rc = rc == 0 ? iter_own_key(iter, &key, err) : rc;
    return rc < 0 ? rc : iter_settle(iter, iter->source->ops->seek_before(iter->source, key.data, key.bytes), -1, err);
}

int pleat_iter_next(struct pleat_iter *iter, struct pleat_error *err) {
    error_clear(err);
    int rc = iter_check(iter, err);
    if (UNLIKELY(rc < 0)) {
        return rc;
    }
    if (UNLIKELY(!iter->on_entry)) {
        return iter_step_from_none(iter, 1, err);
    }
    return iter_settle(iter, iter->source->ops->next(iter->source), 1, err);
}

int pleat_iter_prev(struct pleat_iter *iter, struct pleat_error *err) {
    error_clear(err);
    int rc = iter_check(iter, err);
    if (UNLIKELY(rc < 0)) {
        return rc;
    }
    if (UNLIKELY(!iter->on_entry)) {
        return iter_step_from_none(iter, -1, err);
    }
    return iter_settle(iter, iter->source->ops->prev(iter->source), -1, err);
}

struct pleat_slice pleat_iter_key(const struct pleat_iter *iter) {
    if (iter == NULL || !iter->on_entry) {
        return (struct pleat_slice){NULL, 0};
    }
    return (struct pleat_slice){iter->source->entry.key, iter->source->entry.key_bytes};
}

struct pleat_slice pleat_iter_value(const struct pleat_iter *iter) {
    if (iter == NULL || !iter->on_entry || iter->bounds.keys_only) {
        return (struct pleat_slice){NULL, 0};
    }
    return (struct pleat_slice){iter->source->entry.value, iter->source->entry.value_bytes};
}

struct pleat_slice pleat_iter_version(const struct pleat_iter *iter) {
    if (iter == NULL || !iter->on_entry || iter->bounds.keys_only) {
        return (struct pleat_slice){NULL, 0};
    }
    return (struct pleat_slice){iter->source->entry.version, iter->source->entry.version_bytes};
}

bool pleat_iter_flag(const struct pleat_iter *iter, uint8_t *ret_flag) {
    bool has = iter != NULL && iter->on_entry && !iter->bounds.keys_only && iter->source->entry.has_flag;
    if (has && ret_flag != NULL) {
        *ret_flag = iter->source->entry.flag;
    }
    return has;
}

/* Hands on the current row and those that follow it: 0, what the callback returned unless that was 0, or an error. */
static int scan_rows(struct pleat_iter *iter, bool reverse, uint64_t limit,
                     int (*callback)(void *context, const struct pleat_row *row), void *context,
                     struct pleat_error *err) {
    struct source *source = iter->source;
    const struct entry *entry = &source->entry;
    int (*step)(struct source *source) = reverse ? source->ops->prev : source->ops->next;
    bool keys_only = iter->bounds.keys_only;
    for (;;) {
        struct pleat_row row = {.key = {entry->key, entry->key_bytes}};
        if (LIKELY(!keys_only)) {
            row.value = (struct pleat_slice){entry->value, entry->value_bytes};
            row.version = (struct pleat_slice){entry->version, entry->version_bytes};
            row.has_flag = entry->has_flag != 0;
            row.flag = entry->flag;
        }
        int rc = callback(context, &row);
        if (rc != 0 || --limit == 0) {
            return rc; /* unchanged, whatever it is */
        }
        do {
            rc = step(source);
        } while (rc == 0 && UNLIKELY(entry->kind != ENTRY_PUT));
        if (rc != 0) {
            return rc == PLEAT_END ? 0 : error_set(err, rc, source->error.os_errno, "%s", source->error.message);
        }
    }
}

int pleat_scan(struct pleat_space *space, const struct pleat_iter_options *options,
               int (*callback)(void *context, const struct pleat_row *row), void *context, struct pleat_error *err) {
    error_clear(err);
    if (callback == NULL) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "callback is NULL");
    }
    struct pleat_iter *iter;
    struct pleat_iter_options copied;
    int rc = iter_options_read(&options, &copied, err);
    if (rc == 0 && options == &copied) {
        copied.size = sizeof copied;
    }
    rc = rc == 0 ? pleat_iter_new(space, options, &iter, err) : rc;
    if (rc < 0) {
        return rc;
    }
    rc = options->reverse ? pleat_iter_last(iter, err) : pleat_iter_first(iter, err);
    uint64_t limit = options->limit > 0 ? options->limit : UINT64_MAX;
    rc = rc == 0 ? scan_rows(iter, options->reverse, limit, callback, context, err) : rc == PLEAT_END ? 0 : rc;
    pleat_iter_free(iter);
    return rc;
}
