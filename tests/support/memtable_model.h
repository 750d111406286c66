/*
 * memtable_model.h - a sorted array that remembers every version of every key: what a memtable is compared with.
 *
 * The universe of keys is drawn first and sorted; a history then only names keys by their rank. `model_seen` answers
 * what a snapshot sequence may see of a key; a source is the list of ranks that are seen and lie inside the bounds.
 */
#ifndef PLEAT_TESTS_MEMTABLE_MODEL_H
#define PLEAT_TESTS_MEMTABLE_MODEL_H

#include "base/bytes.h"
#include "base/entry.h"
#include "support/random.h"

#include <stdlib.h>

#define MODEL_KEYS_MAX 600
#define MODEL_VERSIONS_MAX 24

struct model_version {
    uint64_t sequence;
    uint64_t stamp; /* its value: what makes one insert differ from every other */
    uint8_t kind;
};

struct model_key {
    uint8_t *bytes;
    size_t count; /* bytes */
    struct model_version versions[MODEL_VERSIONS_MAX];
    unsigned version_count;
};

struct model {
    struct model_key keys[MODEL_KEYS_MAX];
    size_t count;
};

enum model_shape {
    SHAPE_TINY,      /* 0..4 bytes of an alphabet with 00 and ff */
    SHAPE_NESTED,    /* prefixes of one another */
    SHAPE_SHARED,    /* 200 shared bytes, then a few */
    SHAPE_FAN,       /* all 256 children below one prefix, two levels now and then */
    SHAPE_GROUPS,    /* service and route, as text */
    SHAPE_RANDOM,    /* 0..20 random bytes */
    SHAPE_LONGEST,   /* 65,535 bytes that part near the end */
    SHAPE_COUNT
};

/* Writes a key of the shape to `key` (room for 65,535 bytes); returns its length. */
static inline size_t model_draw_key(struct random *random, enum model_shape shape, uint8_t *key) {
    size_t count = 0;
    switch (shape) {
    case SHAPE_TINY:
        for (size_t bytes = random_below(random, 5); count < bytes; count++) {
            key[count] = (const uint8_t[]){0, 1, 'a', 0xfe, 0xff}[random_below(random, 5)];
        }
        return count;
    case SHAPE_NESTED:
        count = random_below(random, 60);
        memset(key, 'n', count);
        if (random_below(random, 4) == 0) {
            key[count++] = (uint8_t)random_next(random);
        }
        return count;
    case SHAPE_SHARED:
        memset(key, 's', 200);
        for (count = 200; count < 203; count++) {
            key[count] = (uint8_t)random_below(random, 5);
        }
        return 200 + random_below(random, 4);
    case SHAPE_FAN:
        memcpy(key, "fan", 3);
        count = 4 + random_below(random, 8) / 6;
        key[3] = (uint8_t)random_next(random);
        key[4] = (uint8_t)random_next(random);
        return count;
    case SHAPE_GROUPS:
        return (size_t)snprintf((char *)key, 64, "svc.%08x.route.%06x", (unsigned)random_below(random, 6) * 0x9e3779b9u,
                                (unsigned)random_below(random, 40));
    case SHAPE_LONGEST:
        memset(key, 0xff, 65535);
        key[65534] = (uint8_t)random_below(random, 3);
        key[65500] = (uint8_t)(255 - random_below(random, 2));
        return 65535 - random_below(random, 3);
    case SHAPE_RANDOM:
    case SHAPE_COUNT:
        break;
    }
    for (size_t bytes = random_below(random, 21); count < bytes; count++) {
        key[count] = (uint8_t)random_next(random);
    }
    return count;
}

static inline int model_key_order(const void *a, const void *b) {
    const struct model_key *x = a, *y = b;
    return key_compare(x->bytes, x->count, y->bytes, y->count);
}

/* Draws `wanted` keys, mostly of one shape, and sorts them; duplicates are dropped. */
static inline void model_init(struct model *model, struct random *random, enum model_shape shape, size_t wanted) {
    static uint8_t key[65536];
    struct model_key *keys = model->keys;
    for (size_t i = 0; i < wanted; i++) {
        size_t count = model_draw_key(random, random_below(random, 8) == 0 ? SHAPE_TINY : shape, key);
        keys[i] = (struct model_key){.bytes = malloc(count + 1), .count = count};
        memcpy(keys[i].bytes, key, count);
    }
    qsort(keys, wanted, sizeof keys[0], model_key_order);
    model->count = 0;
    for (size_t i = 0; i < wanted; i++) {
        if (model->count > 0 && model_key_order(&keys[model->count - 1], &keys[i]) == 0) {
            free(keys[i].bytes);
        } else {
            keys[model->count++] = keys[i];
        }
    }
}

static inline void model_fini(struct model *model) {
    for (size_t i = 0; i < model->count; i++) {
        free(model->keys[i].bytes);
    }
}

/* False when the key has no room for another version. */
static inline bool model_put(struct model_key *key, uint64_t sequence, uint64_t stamp, uint8_t kind) {
    if (key->version_count > 0 && key->versions[key->version_count - 1].sequence == sequence) {
        key->version_count--; /* the same commit: replaced */
    }
    if (key->version_count == MODEL_VERSIONS_MAX) {
        return false;
    }
    key->versions[key->version_count++] = (struct model_version){sequence, stamp, kind};
    return true;
}

/* The newest version at or below `sequence`, or NULL. */
static inline const struct model_version *model_seen(const struct model_key *key, uint64_t sequence) {
    for (unsigned i = key->version_count; i > 0; i--) {
        if (key->versions[i - 1].sequence <= sequence) {
            return &key->versions[i - 1];
        }
    }
    return NULL;
}

#endif
