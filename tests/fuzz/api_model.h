/*
 * api_model.h - the reference of the target `api`: sorted arrays of rows, copied whole where the store would pin them.
 */
#ifndef PLEAT_TESTS_FUZZ_API_MODEL_H
#define PLEAT_TESTS_FUZZ_API_MODEL_H

#include "fuzz/fuzz.h"

#define MODEL_SPACES 3
#define MODEL_ROWS 80
#define MODEL_KEY_BYTES 48
#define MODEL_CURSORS 2
#define MODEL_CURSOR_BYTES 8
#define MODEL_VALUE_BYTES 8192

struct model_row {
    uint8_t key[MODEL_KEY_BYTES];
    uint8_t key_bytes;
    uint8_t seed; /* of its value and version */
    uint16_t value_bytes;
    uint8_t version_bytes;
    bool has_flag;
    uint8_t flag;
};

struct model_space {
    size_t count;
    struct model_row rows[MODEL_ROWS]; /* ascending */
};

struct model_cursor {
    bool present;
    uint8_t bytes;
    uint8_t value[MODEL_CURSOR_BYTES];
};

struct model_state {
    uint64_t sequence;
    struct model_space spaces[MODEL_SPACES];
    struct model_cursor cursors[MODEL_CURSORS];
};

static inline struct pleat_slice model_key(const struct model_row *row) {
    return (struct pleat_slice){row->key, row->key_bytes};
}

/* The bytes that values and versions are made of: some repeat, so that blocks compress. */
static inline struct pleat_slice model_bytes(uint8_t seed, size_t bytes, uint8_t buffer[MODEL_VALUE_BYTES]) {
    for (size_t i = 0; i < bytes; i++) {
        buffer[i] = (uint8_t)((seed & 1) != 0 ? seed : seed * 31u + i * i);
    }
    return (struct pleat_slice){buffer, bytes};
}

/* The first row that is not less; *ret_equal: it has the key. */
static inline size_t model_find(const struct model_space *space, struct pleat_slice key, bool *ret_equal) {
    size_t at = 0;
    int order = 1;
    while (at < space->count && (order = fuzz_order(model_key(&space->rows[at]), key)) < 0) {
        at++;
    }
    *ret_equal = at < space->count && order == 0;
    return at;
}

static inline void model_put(struct model_space *space, const struct model_row *row) {
    bool equal;
    size_t at = model_find(space, model_key(row), &equal);
    if (!equal) {
        if (space->count == MODEL_ROWS) {
            fuzz_fail(__FILE__, __LINE__, "room", "whoever fills the batch sees to it");
        }
        memmove(&space->rows[at + 1], &space->rows[at], (space->count - at) * sizeof space->rows[0]);
        space->count++;
    }
    space->rows[at] = *row;
}

static inline void model_delete(struct model_space *space, struct pleat_slice key) {
    bool equal;
    size_t at = model_find(space, key, &equal);
    if (equal) {
        space->count--;
        memmove(&space->rows[at], &space->rows[at + 1], (space->count - at) * sizeof space->rows[0]);
    }
}

/* Keeps the rows that a range has. */
static inline void model_cut(struct model_space *space, const struct pleat_iter_options *options) {
    size_t kept = 0;
    for (size_t i = 0; i < space->count; i++) {
        struct pleat_slice key = model_key(&space->rows[i]);
        if ((!options->has_lower || fuzz_order(key, options->lower) >= 0) &&
            (!options->has_upper || fuzz_order(key, options->upper) < 0) &&
            key_has_prefix(key.data, key.bytes, options->prefix.data, options->prefix.bytes)) {
            space->rows[kept++] = space->rows[i];
        }
    }
    space->count = kept;
}

#endif
