/*
 * memtable_history.h - a table beside its model: random commits into both, and checks that both show the same.
 *
 * Every check is made for one snapshot sequence: gets of all keys, full scans both ways, and random walks of seeks and
 * steps with changes of direction, inside bounds that are drawn anew. Failures are Criterion assertions.
 */
#ifndef PLEAT_TESTS_MEMTABLE_HISTORY_H
#define PLEAT_TESTS_MEMTABLE_HISTORY_H

#include "memtable/memtable.h"
#include "support/memtable_model.h"

#include <criterion/criterion.h>

struct fixture {
    struct arena_pool *pool;
    struct arena *arena;
    struct memtable *table;
};

static inline struct fixture fixture_open(size_t bytes) {
    struct fixture f = {0};
    cr_assert_eq(arena_pool_new(&mem_system, bytes, 1, &f.pool, NULL), 0);
    cr_assert_eq(arena_acquire(f.pool, bytes, &f.arena, NULL), 0);
    f.table = memtable_new(f.arena);
    cr_assert_not_null(f.table);
    return f;
}

static inline void fixture_close(struct fixture *f) {
    arena_release(f->pool, f->arena);
    arena_pool_free(f->pool);
}

static inline struct entry entry_put(const void *key, size_t key_bytes, const void *value, size_t value_bytes,
                              uint64_t sequence) {
    return (struct entry){.key = key,
                          .key_bytes = (uint32_t)key_bytes,
                          .value = value,
                          .value_bytes = (uint32_t)value_bytes,
                          .sequence = sequence,
                          .kind = ENTRY_PUT};
}

/* A table, the model of it, and what one source should show. */
struct history {
    struct fixture fixture;
    struct model model;
    size_t visible[MODEL_KEYS_MAX]; /* ranks of keys, ascending */
    size_t visible_count;
};

static inline void check_entry(const struct model_key *key, uint64_t sequence, const struct entry *entry) {
    const struct model_version *version = model_seen(key, sequence);
    cr_assert(version != NULL);
    cr_assert(entry->key_bytes == key->count && key_compare(entry->key, entry->key_bytes, key->bytes, key->count) == 0);
    cr_assert(entry->sequence == version->sequence && entry->kind == version->kind);
    if (version->kind == ENTRY_PUT) {
        cr_assert(entry->value_bytes == 8 && load_u64(entry->value) == version->stamp);
    } else {
        cr_assert(entry->value == NULL && entry->value_bytes == 0);
    }
}

/* One commit of up to 40 inserts, keys repeating, into both tables' models. */
static inline void history_commit(struct history *histories, struct random *random, uint64_t sequence) {
    struct entry entries[40];
    struct memtable *tables[40];
    uint8_t values[40][8];
    size_t count = 0;
    for (size_t wanted = random_below(random, 41); count < wanted; count++) {
        struct history *history = &histories[random_below(random, 2)];
        struct model_key *key = &history->model.keys[random_below(random, history->model.count)];
        uint8_t kind = random_below(random, 5) == 0 ? ENTRY_DELETE : ENTRY_PUT;
        uint64_t stamp = random_next(random);
        cr_assert(model_put(key, sequence, stamp, kind));
        store_u64(values[count], stamp);
        entries[count] = entry_put(key->count > 0 ? key->bytes : NULL, key->count, values[count], 8, sequence);
        if (kind == ENTRY_DELETE) {
            entries[count].kind = ENTRY_DELETE;
            entries[count].value = NULL;
            entries[count].value_bytes = 0;
        }
        tables[count] = history->fixture.table;
    }
    memtable_insert(tables, entries, count);
}

static inline void history_check_gets(struct history *history, uint64_t sequence) {
    for (size_t i = 0; i < history->model.count; i++) {
        const struct model_key *key = &history->model.keys[i];
        struct entry entry;
        int rc = memtable_get(history->fixture.table, key->bytes, key->count, sequence, &entry);
        cr_assert_eq(rc, model_seen(key, sequence) != NULL ? 0 : PLEAT_ABSENT);
        if (rc == 0) {
            check_entry(key, sequence, &entry);
        }
    }
}

static inline bool key_inside(const struct source_bounds *bounds, const uint8_t *key, size_t key_bytes) {
    return (bounds->lower == NULL || key_compare(key, key_bytes, bounds->lower, bounds->lower_bytes) >= 0) &&
           (bounds->upper == NULL || key_compare(key, key_bytes, bounds->upper, bounds->upper_bytes) < 0);
}

/* A key of the model, cut, prolonged or changed in its last byte now and then. */
static inline size_t draw_target(struct history *history, struct random *random, uint8_t *ret_key) {
    const struct model_key *key = &history->model.keys[random_below(random, history->model.count)];
    size_t bytes = key->count;
    memcpy(ret_key, key->bytes, bytes);
    switch (random_below(random, 6)) {
    case 0:
        return random_below(random, bytes + 1);
    case 1:
        ret_key[bytes] = (uint8_t)random_next(random);
        return bytes + 1;
    case 2:
        if (bytes > 0) {
            ret_key[random_below(random, bytes)] ^= (uint8_t)(1u << random_below(random, 8));
        }
        return bytes;
    default:
        return bytes;
    }
}

static inline struct source_bounds draw_bounds(struct history *history, struct random *random, uint8_t *lower,
                                               uint8_t *upper) {
    struct source_bounds bounds = {0};
    if (random_below(random, 3) == 0) { /* a prefix read, as upper floors ask for it */
        size_t bytes = draw_target(history, random, lower);
        bounds.prefix = bounds.lower = lower;
        bounds.prefix_bytes = bounds.lower_bytes = random_below(random, bytes + 1);
        if (key_prefix_bound(lower, bounds.prefix_bytes, upper, &bounds.upper_bytes)) {
            bounds.upper = upper;
        }
        return bounds;
    }
    if (random_below(random, 2) == 0) {
        bounds.lower = lower;
        bounds.lower_bytes = draw_target(history, random, lower);
    }
    if (random_below(random, 2) == 0) {
        bounds.upper = upper;
        bounds.upper_bytes = draw_target(history, random, upper);
    }
    return bounds;
}

/* Where the source should stand: an index in `visible`, or none (then `at` is visible_count). */
static inline void check_position(struct history *history, struct source *source, int rc, size_t at,
                                  uint64_t sequence) {
    cr_assert_eq(rc, at < history->visible_count ? 0 : PLEAT_END);
    if (rc == 0) {
        check_entry(&history->model.keys[history->visible[at]], sequence, &source->entry);
    }
}

/* What a reader may do before it positions a source, and what must not be noticed: steps on the way, a prepare. */
static inline void source_get_ready(struct source *source, struct random *random) {
    for (uint64_t steps = random_below(random, 8); steps > 0; steps--) {
        (void)memtable_source_approach(source);
    }
    if (random_below(random, 2) == 0) {
        source->ops->prepare(source, NULL, 0);
    }
}

/* Seeks and steps both ways at random, beginning with both full scans. */
static inline void history_check_source(struct history *history, struct random *random, uint64_t sequence,
                                        bool bounded) {
    static uint8_t lower[65536], upper[65536], target[65537];
    struct source_bounds bounds = {0};
    if (bounded) {
        bounds = draw_bounds(history, random, lower, upper);
    }
    history->visible_count = 0;
    for (size_t i = 0; i < history->model.count; i++) {
        const struct model_key *key = &history->model.keys[i];
        if (key_inside(&bounds, key->bytes, key->count) && model_seen(key, sequence) != NULL) {
            history->visible[history->visible_count++] = i;
        }
    }
    size_t count = history->visible_count;
    struct source *source;
    cr_assert_eq(memtable_source_new(&mem_system, history->fixture.table, &bounds, sequence, &source, NULL), 0);
    source_get_ready(source, random);
    int rc = source->ops->first(source);
    for (size_t at = 0;; at++, rc = source->ops->next(source)) {
        check_position(history, source, rc, at, sequence);
        if (rc != 0) {
            break;
        }
    }
    rc = source->ops->last(source);
    for (size_t left = count;; left--, rc = source->ops->prev(source)) {
        check_position(history, source, rc, left > 0 ? left - 1 : count, sequence);
        if (rc != 0) {
            break;
        }
    }
    size_t at = count;
    for (unsigned step = 0; step < 60; step++) {
        uint64_t choice = random_below(random, at < count ? 16 : 4);
        if (choice < 4) {
            source_get_ready(source, random);
        }
        if (choice < 2) {
            size_t bytes = draw_target(history, random, target);
            size_t below = 0; /* visible keys < target */
            while (below < count) {
                const struct model_key *key = &history->model.keys[history->visible[below]];
                if (key_compare(key->bytes, key->count, target, bytes) >= 0) {
                    break;
                }
                below++;
            }
            at = choice == 0 ? below : below > 0 ? below - 1 : count;
            int (*go)(struct source *, const uint8_t *, size_t) =
                choice == 0 ? source->ops->seek : source->ops->seek_before;
            rc = go(source, target, bytes);
        } else if (choice == 2) {
            at = 0;
            rc = source->ops->first(source);
        } else if (choice == 3) {
            at = count > 0 ? count - 1 : count;
            rc = source->ops->last(source);
        } else if (choice < 10) {
            at++;
            rc = source->ops->next(source);
        } else {
            at = at > 0 ? at - 1 : count;
            rc = source->ops->prev(source);
        }
        check_position(history, source, rc, at, sequence);
    }
    source_free(source);
}

#endif
