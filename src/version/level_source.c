/*
 * level_source.c - the disjoint tables of a run as one source: a concatenation that opens tables as it comes to them.
 *
 *     tables     [a..c]   [d..k]   [l..p]   [q..z]
 *     bounds            d <= key < m
 *     range               begin             end         by the metas alone; nothing outside is ever opened
 *     current                      inner
 *
 *   L1  Only tables[begin, end) are touched; every table in it may hold a key inside the bounds.
 *   L2  `inner`, when there is one, is a source over tables[current].
 *   L3  The source is on an entry exactly while `on_entry`; then base.entry is inner's entry.
 *   L4  A table whose filter lacks the group of the bounds' prefix holds none of its keys and is passed over: one
 *       filter probe in place of a block.
 *
 * The inner source is kept while seeks stay inside its table. A plain step costs the copy of one struct entry on top
 * of the table's own step.
 */
#include "base/assert.h"
#include "base/bytes.h"
#include "base/error.h"
#include "version/version_internal.h"

struct level_source {
    struct source base;
    const struct mem *mem;
    struct table_ref *const *tables;
    size_t begin;
    size_t end;
    size_t current;
    struct source *inner;        /* NULL: none is open */
    struct source_bounds bounds;
    uint64_t group_hash;
    bool has_group;
    bool on_entry;
};

static struct level_source *level_source_of(struct source *source) {
    return (struct level_source *)(void *)source; /* base is the first field */
}

/* The first of [begin, end) whose largest key is >= key, or end. */
static size_t tables_find_largest(struct table_ref *const *tables, size_t begin, size_t end, const uint8_t *key,
                                  size_t key_bytes) {
    while (begin < end) {
        size_t middle = begin + (end - begin) / 2;
        const struct table_meta *meta = &tables[middle]->meta;
        if (key_compare(meta->largest, meta->largest_bytes, key, key_bytes) < 0) {
            begin = middle + 1;
        } else {
            end = middle;
        }
    }
    return begin;
}

/* The first of [begin, end) whose smallest key is >= key, or end. */
static size_t tables_find_smallest(struct table_ref *const *tables, size_t begin, size_t end, const uint8_t *key,
                                   size_t key_bytes) {
    while (begin < end) {
        size_t middle = begin + (end - begin) / 2;
        const struct table_meta *meta = &tables[middle]->meta;
        if (key_compare(meta->smallest, meta->smallest_bytes, key, key_bytes) < 0) {
            begin = middle + 1;
        } else {
            end = middle;
        }
    }
    return begin;
}

static void level_source_leave(struct level_source *level) {
    source_free(level->inner);
    level->inner = NULL;
}

/* Makes `inner` a source over tables[i]: 0, or PLEAT_ABSENT when the table lacks the group (L4). */
static int level_source_enter(struct level_source *level, size_t i) {
    ASSERT(i >= level->begin && i < level->end);
    if (level->inner != NULL && level->current == i) {
        return 0;
    }
    level_source_leave(level);
    struct table *table;
    int rc = table_ref_open(level->tables[i], &table, &level->base.error);
    if (rc < 0) {
        return rc;
    }
    rc = level->has_group ? table_ask(table, level->group_hash, &level->base.error) : 1;
    if (rc <= 0) {
        return rc < 0 ? rc : PLEAT_ABSENT;
    }
    rc = table_source_new(table, &level->bounds, &level->inner, &level->base.error);
    if (rc == 0) {
        level->current = i;
    }
    return rc;
}

/* Takes over what a call on `inner` returned. */
static int level_source_took(struct level_source *level, int rc) {
    if (rc == 0) {
        level->base.entry = level->inner->entry;
        level->on_entry = true;
    } else if (rc < 0) {
        level->base.error = level->inner->error;
    }
    return rc;
}

/* The first entry of the tables from `i` on. */
static int level_source_first_from(struct level_source *level, size_t i) {
    for (; i < level->end; i++) {
        int rc = level_source_enter(level, i);
        if (rc == 0) {
            rc = level_source_took(level, level->inner->ops->first(level->inner));
        }
        if (rc <= 0) {
            return rc;
        }
    }
    return PLEAT_END;
}

/* The last entry of the tables below `i`. */
static int level_source_last_below(struct level_source *level, size_t i) {
    while (i-- > level->begin) {
        int rc = level_source_enter(level, i);
        if (rc == 0) {
            rc = level_source_took(level, level->inner->ops->last(level->inner));
        }
        if (rc <= 0) {
            return rc;
        }
    }
    return PLEAT_END;
}

static void level_source_begin(struct level_source *level) {
    level->on_entry = false;
    error_clear(&level->base.error);
}

static int level_source_first(struct source *source) {
    struct level_source *level = level_source_of(source);
    level_source_begin(level);
    return level_source_first_from(level, level->begin);
}

static int level_source_last(struct source *source) {
    struct level_source *level = level_source_of(source);
    level_source_begin(level);
    return level_source_last_below(level, level->end);
}

static int level_source_seek(struct source *source, const uint8_t *key, size_t key_bytes) {
    struct level_source *level = level_source_of(source);
    level_source_begin(level);
    size_t i = tables_find_largest(level->tables, level->begin, level->end, key, key_bytes);
    if (i == level->end) {
        return PLEAT_END;
    }
    int rc = level_source_enter(level, i);
    if (rc == 0) {
        rc = level_source_took(level, level->inner->ops->seek(level->inner, key, key_bytes));
    }
    return rc > 0 ? level_source_first_from(level, i + 1) : rc;
}

static int level_source_seek_before(struct source *source, const uint8_t *key, size_t key_bytes) {
    struct level_source *level = level_source_of(source);
    level_source_begin(level);
    size_t i = tables_find_smallest(level->tables, level->begin, level->end, key, key_bytes);
    if (i == level->begin) {
        return PLEAT_END;
    }
    int rc = level_source_enter(level, i - 1);
    if (rc == 0) {
        rc = level_source_took(level, level->inner->ops->seek_before(level->inner, key, key_bytes));
    }
    return rc > 0 ? level_source_last_below(level, i - 1) : rc;
}

static int level_source_next(struct source *source) {
    struct level_source *level = level_source_of(source);
    ASSERT(level->on_entry);
    int rc = level->inner->ops->next(level->inner);
    if (LIKELY(rc == 0)) {
        level->base.entry = level->inner->entry;
        return 0;
    }
    level_source_begin(level);
    return rc > 0 ? level_source_first_from(level, level->current + 1) : level_source_took(level, rc);
}

static int level_source_prev(struct source *source) {
    struct level_source *level = level_source_of(source);
    ASSERT(level->on_entry);
    int rc = level->inner->ops->prev(level->inner);
    if (LIKELY(rc == 0)) {
        level->base.entry = level->inner->entry;
        return 0;
    }
    level_source_begin(level);
    return rc > 0 ? level_source_last_below(level, level->current) : level_source_took(level, rc);
}

/* Only of a table that is open already: a prepare never waits. A failure shows again in the seek that follows. */
static void level_source_prepare(struct source *source, const uint8_t *key, size_t key_bytes) {
    struct level_source *level = level_source_of(source);
    level_source_begin(level);
    size_t i =
        key != NULL ? tables_find_largest(level->tables, level->begin, level->end, key, key_bytes) : level->begin;
    /* acquire: pairs with the release in table_ref_open */
    if (i == level->end || atomic_load_explicit(&level->tables[i]->table, memory_order_acquire) == NULL) {
        return;
    }
    if (level_source_enter(level, i) == 0 && level->inner->ops->prepare != NULL) {
        level->inner->ops->prepare(level->inner, key, key_bytes);
    }
}

static void level_source_free(struct source *source) {
    struct level_source *level = level_source_of(source);
    level_source_leave(level);
    mem_free(level->mem, level);
}

static const struct source_ops level_source_ops = {
    .first = level_source_first,
    .last = level_source_last,
    .seek = level_source_seek,
    .seek_before = level_source_seek_before,
    .next = level_source_next,
    .prev = level_source_prev,
    .prepare = level_source_prepare,
    .free = level_source_free,
};

int level_source_new(const struct mem *mem, struct table_ref *const *tables, size_t count,
                     const struct table_grouping *grouping, const struct source_bounds *bounds,
                     struct source **ret_source, struct pleat_error *err) {
    struct level_source *level = mem_zalloc(mem, 1, sizeof *level);
    if (level == NULL) {
        return error_no_memory(err, "a level's source", sizeof *level);
    }
    level->base.ops = &level_source_ops;
    level->mem = mem;
    level->tables = tables;
    level->end = count;
    if (bounds != NULL) {
        level->bounds = *bounds;
        if (bounds->lower != NULL) {
            level->begin = tables_find_largest(tables, 0, count, bounds->lower, bounds->lower_bytes);
        }
        if (bounds->upper != NULL) {
            level->end = tables_find_smallest(tables, level->begin, count, bounds->upper, bounds->upper_bytes);
        }
        if (bounds->prefix != NULL && grouping != NULL) {
            size_t group_bytes = table_group_bytes(grouping, bounds->prefix, bounds->prefix_bytes);
            level->has_group = group_bytes > 0;
            level->group_hash = level->has_group ? table_group_hash(bounds->prefix, group_bytes) : 0;
        }
    }
    *ret_source = &level->base;
    return 0;
}

struct source *level_source_table(struct source *source) {
    if (source->ops != &level_source_ops) {
        return NULL;
    }
    struct level_source *level = level_source_of(source);
    return level->on_entry ? level->inner : NULL;
}

int level_source_skip_block(struct source *source) {
    struct level_source *level = level_source_of(source);
    ASSERT(source->ops == &level_source_ops && level->on_entry);
    int rc = table_source_skip_block(level->inner);
    level_source_begin(level);
    return rc > 0 ? level_source_first_from(level, level->current + 1) : level_source_took(level, rc);
}
