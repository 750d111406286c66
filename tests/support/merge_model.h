/*
 * merge_model.h - what the tests of merges share: a source over an array that lends its bytes only until its next call,
 * a universe of keys that try the codes, runs over it, and the sorted array that their merge must equal.
 */
#ifndef PLEAT_TESTS_MERGE_MODEL_H
#define PLEAT_TESTS_MERGE_MODEL_H

#include "base/bytes.h"
#include "base/error.h"
#include "compaction/merge.h"
#include "support/random.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

/* ---- a source over an array, which lends its bytes only until its next call -------------------------------------- */

struct row {
    const uint8_t *key;
    size_t key_bytes;
    unsigned origin; /* index of the source; what the merge must choose by */
};

struct array_source {
    struct source source;
    const struct row *rows;
    size_t begin, end; /* inside the bounds */
    size_t at;
    bool is_on_entry;
    uint8_t *lent; /* the bytes of the current key, freed by the next call: use after that is seen by the sanitizer */
    uint64_t calls;
    uint64_t fail_at; /* this call fails */
    bool *is_freed;
};

static inline struct array_source *array_of(struct source *source) {
    return (struct array_source *)source;
}

static inline void array_take_back(struct array_source *self) {
    if (self->lent != NULL) {
        memset(self->lent, 0xa5, self->source.entry.key_bytes + 1);
        free(self->lent);
        self->lent = NULL;
    }
}

static inline int array_show(struct array_source *self, size_t at, bool exists) {
    array_take_back(self);
    self->is_on_entry = false;
    if (++self->calls == self->fail_at) {
        error_clear(&self->source.error);
        return error_set(&self->source.error, PLEAT_ERR_IO, 5, "call %llu failed", (unsigned long long)self->calls);
    }
    if (!exists) {
        return PLEAT_END;
    }
    const struct row *row = &self->rows[at];
    self->at = at;
    self->is_on_entry = true;
    self->lent = malloc(row->key_bytes + 1);
    if (row->key_bytes > 0) {
        memcpy(self->lent, row->key, row->key_bytes);
    }
    self->source.entry = (struct entry){
        .key = self->lent,
        .key_bytes = (uint32_t)row->key_bytes,
        .kind = ENTRY_PUT,
        .has_flag = 1,
        .flag = (uint8_t)row->origin,
        .sequence = at,
    };
    return 0;
}

static inline size_t array_lower_bound(const struct array_source *self, const uint8_t *key, size_t key_bytes) {
    size_t i = self->begin;
    while (i < self->end && key_compare(self->rows[i].key, self->rows[i].key_bytes, key, key_bytes) < 0) {
        i++;
    }
    return i;
}

static inline int array_first(struct source *source) {
    struct array_source *self = array_of(source);
    return array_show(self, self->begin, self->begin < self->end);
}

static inline int array_last(struct source *source) {
    struct array_source *self = array_of(source);
    return array_show(self, self->end - 1, self->begin < self->end);
}

static inline int array_seek(struct source *source, const uint8_t *key, size_t key_bytes) {
    struct array_source *self = array_of(source);
    size_t i = array_lower_bound(self, key, key_bytes);
    return array_show(self, i, i < self->end);
}

static inline int array_seek_before(struct source *source, const uint8_t *key, size_t key_bytes) {
    struct array_source *self = array_of(source);
    size_t i = array_lower_bound(self, key, key_bytes);
    return array_show(self, i - 1, i > self->begin);
}

static inline int array_next(struct source *source) {
    struct array_source *self = array_of(source);
    cr_assert(self->is_on_entry, "S3: next only on an entry");
    return array_show(self, self->at + 1, self->at + 1 < self->end);
}

static inline int array_prev(struct source *source) {
    struct array_source *self = array_of(source);
    cr_assert(self->is_on_entry, "S3: prev only on an entry");
    return array_show(self, self->at - 1, self->at > self->begin);
}

static inline void array_free(struct source *source) {
    struct array_source *self = array_of(source);
    array_take_back(self);
    if (self->is_freed != NULL) {
        cr_assert_not(*self->is_freed, "freed twice");
        *self->is_freed = true;
    }
    free(self);
}

static const struct source_ops array_ops = {
    .first = array_first,
    .last = array_last,
    .seek = array_seek,
    .seek_before = array_seek_before,
    .next = array_next,
    .prev = array_prev,
    .prepare = NULL,
    .free = array_free,
};

static inline struct source *array_source_new(const struct row *rows, size_t begin, size_t end) {
    struct array_source *self = calloc(1, sizeof *self);
    self->source.ops = &array_ops;
    self->rows = rows;
    self->begin = begin;
    self->end = end;
    return &self->source;
}

/* ---- a universe of keys, runs over it, and what their merge must be ---------------------------------------------- */

#define UNIVERSE 160
#define RUNS_MAX 20

struct world {
    uint8_t *keys[UNIVERSE];
    size_t key_bytes[UNIVERSE];
    size_t keys_count;
    struct row rows[RUNS_MAX][UNIVERSE];
    size_t row_counts[RUNS_MAX];
    unsigned runs;
    struct row model[UNIVERSE]; /* the merge */
    size_t model_count;
};

static inline int world_compare(const void *a, const void *b) {
    const struct row *x = a, *y = b;
    return key_compare(x->key, x->key_bytes, y->key, y->key_bytes);
}

/* Keys that try the windows of a few and the columns of the codes: prefixes of one another, zero bytes, ff, long shared
 * prefixes, random. */
static inline size_t make_key(struct random *random, uint8_t *key) {
    static const uint8_t alphabet[] = {0x00, 0x01, 'a', 'b', 0x7f, 0x80, 0xff};
    size_t bytes = 0;
    switch (random_below(random, 4)) {
    case 0:
        bytes = random_below(random, 4); /* the empty key, and keys of zeros */
        break;
    case 1:
        bytes = random_below(random, 14);
        break;
    case 2:
        bytes = 95 + random_below(random, 12); /* around the storage that a merge has without an allocation */
        memset(key, 'p', bytes);
        for (size_t i = 0; i < 3; i++) {
            key[random_below(random, bytes)] = alphabet[random_below(random, sizeof alphabet)];
        }
        return bytes;
    default:
        memcpy(key, "svc.route.", 10);
        bytes = 10 + random_below(random, 12);
        for (size_t i = 10; i < bytes; i++) {
            key[i] = (uint8_t)('0' + random_below(random, 3));
        }
        return bytes;
    }
    for (size_t i = 0; i < bytes; i++) {
        key[i] = alphabet[random_below(random, random_below(random, 2) ? sizeof alphabet : 2)];
    }
    return bytes;
}

static inline void world_init(struct world *world, struct random *random, unsigned runs) {
    memset(world, 0, sizeof *world);
    struct row all[UNIVERSE];
    size_t wanted = 1 + random_below(random, UNIVERSE);
    size_t count = 0;
    for (size_t i = 0; i < wanted; i++) {
        uint8_t key[256];
        size_t bytes = make_key(random, key);
        uint8_t *copy = malloc(bytes + 1);
        memcpy(copy, key, bytes);
        all[count++] = (struct row){copy, bytes, 0};
    }
    qsort(all, count, sizeof all[0], world_compare);
    for (size_t i = 0; i < count; i++) {
        if (world->keys_count > 0 &&
            world_compare(&all[i], &(struct row){world->keys[world->keys_count - 1],
                                                 world->key_bytes[world->keys_count - 1], 0}) == 0) {
            free((void *)(uintptr_t)all[i].key);
            continue;
        }
        world->keys[world->keys_count] = (uint8_t *)(uintptr_t)all[i].key;
        world->key_bytes[world->keys_count++] = all[i].key_bytes;
    }
    world->runs = runs;
    uint64_t density = 1 + random_below(random, 8);
    for (size_t i = 0; i < world->keys_count; i++) {
        unsigned first = UINT32_MAX;
        for (unsigned run = 0; run < runs; run++) {
            if (random_below(random, density + 1) == 0) {
                world->rows[run][world->row_counts[run]++] = (struct row){world->keys[i], world->key_bytes[i], run};
                first = first == UINT32_MAX ? run : first;
            }
        }
        if (first != UINT32_MAX) {
            world->model[world->model_count++] = (struct row){world->keys[i], world->key_bytes[i], first};
        }
    }
}

static inline void world_fini(struct world *world) {
    for (size_t i = 0; i < world->keys_count; i++) {
        free(world->keys[i]);
    }
}

static inline struct source *world_merge(const struct world *world, const struct mem *mem) {
    struct source *sources[RUNS_MAX];
    for (unsigned run = 0; run < world->runs; run++) {
        sources[run] = array_source_new(world->rows[run], 0, world->row_counts[run]);
    }
    struct source *merge = NULL;
    cr_assert_eq(merge_source_new(mem, sources, world->runs, &merge, NULL), 0);
    return merge;
}

static inline void check_entry(const struct world *world, const struct source *merge, size_t at) {
    const struct row *row = &world->model[at];
    cr_assert_eq(merge->entry.key_bytes, row->key_bytes, "entry %zu of %u runs", at, world->runs);
    cr_assert(row->key_bytes == 0 || memcmp(merge->entry.key, row->key, row->key_bytes) == 0, "entry %zu of %u runs",
              at, world->runs);
    cr_assert_eq(merge->entry.flag, row->origin, "the newest of equal keys must be shown (entry %zu)", at);
}

static inline size_t model_lower_bound(const struct world *world, const uint8_t *key, size_t key_bytes) {
    size_t i = 0;
    while (i < world->model_count && key_compare(world->model[i].key, world->model[i].key_bytes, key, key_bytes) < 0) {
        i++;
    }
    return i;
}

#endif
