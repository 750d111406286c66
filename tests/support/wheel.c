/* wheel.c - see wheel.h. */
#include "support/wheel.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WHEELS_MAX 16

int wheel_spaces(struct pleat_db *db, struct pleat_space *ret_spaces[WHEEL_SPACES], struct pleat_error *err) {
    ret_spaces[0] = pleat_default_space(db);
    return pleat_space_open(db, (struct pleat_slice){"wheel", 5},
                            PLEAT_SPACE_OPTIONS(.block_bytes = 256, .group_bytes = 4), &ret_spaces[1], err);
}

struct pleat_slice wheel_key(char *buffer, unsigned place, unsigned wheel) {
    int n = snprintf(buffer, WHEEL_KEY_BYTES, "%05u/%02u", place % 100000, wheel % 100);
    return (struct pleat_slice){buffer, (size_t)n};
}

static bool place_is_hub(unsigned place) {
    return place % 9 == 8;
}

static unsigned slot_place(uint64_t slot) {
    return (unsigned)(slot / 8 * 9 + slot % 8);
}

/* Which commit put what is at the place in state k, or 0. */
static uint64_t place_expected(unsigned place, uint64_t k) {
    if (place_is_hub(place)) {
        return k;
    }
    uint64_t slot = place / 9 * 8 + place % 9, opposite = (slot + WHEEL_SLOTS / 2) % WHEEL_SLOTS;
    uint64_t put = k >= slot ? k - (k - slot) % WHEEL_SLOTS : 0;
    uint64_t deleted = k >= opposite ? k - (k - opposite) % WHEEL_SLOTS : 0;
    return put > deleted ? put : 0;
}

static uint64_t value_mix(uint64_t k, unsigned place, size_t space) {
    uint64_t z = (k * 0x9e3779b97f4a7c15ull) ^ ((uint64_t)place << 32) ^ space;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    return z ^ (z >> 31);
}

/* Mostly small, now and then large enough to be pinned, seldom larger than a block. */
static size_t value_make(uint64_t k, unsigned place, size_t space, uint8_t *buffer) {
    uint64_t mix = value_mix(k, place, space);
    size_t bytes = mix % 32 == 0  ? 256 + mix / 32 % (WHEEL_VALUE_BYTES - 256)
                   : mix % 8 == 1 ? mix / 32 % 400
                                  : mix / 32 % 24;
    for (size_t i = 0; i < bytes; i++) {
        buffer[i] = (uint8_t)(mix >> i % 8 * 8);
    }
    return bytes;
}

static int wheel_put(struct pleat_batch *batch, struct pleat_space *const spaces[WHEEL_SPACES], unsigned wheel,
                     unsigned place, uint64_t k, struct pleat_error *err) {
    char key[WHEEL_KEY_BYTES];
    uint8_t value[WHEEL_VALUE_BYTES];
    struct pleat_attributes attributes = {.version = {&k, sizeof k}, .has_flag = true, .flag = (uint8_t)k};
    int rc = 0;
    for (size_t space = 0; rc == 0 && space < WHEEL_SPACES; space++) {
        size_t bytes = value_make(k, place, space, value);
        rc = pleat_batch_put_with(batch, spaces[space], wheel_key(key, place, wheel),
                                  (struct pleat_slice){value, bytes}, &attributes, err);
    }
    return rc;
}

static struct pleat_slice cursor_name(char *buffer, unsigned wheel) {
    int n = snprintf(buffer, WHEEL_KEY_BYTES, "wheel.%02u", wheel % 100);
    return (struct pleat_slice){buffer, (size_t)n};
}

int wheel_fill(struct pleat_batch *batch, struct pleat_space *const spaces[WHEEL_SPACES], unsigned wheel, uint64_t k,
               struct pleat_error *err) {
    char text[WHEEL_KEY_BYTES];
    pleat_batch_clear(batch);
    int rc = wheel_put(batch, spaces, wheel, slot_place(k % WHEEL_SLOTS), k, err);
    for (size_t space = 0; rc == 0 && space < WHEEL_SPACES; space++) {
        unsigned opposite = slot_place((k + WHEEL_SLOTS / 2) % WHEEL_SLOTS);
        rc = pleat_batch_delete(batch, spaces[space], wheel_key(text, opposite, wheel), err);
    }
    for (unsigned place = 8; rc == 0 && place < WHEEL_PLACES; place += 9) {
        rc = wheel_put(batch, spaces, wheel, place, k, err);
    }
    struct pleat_cursor cursor = {.name = cursor_name(text, wheel), .value = {&k, sizeof k}};
    return rc == 0 ? pleat_batch_set_cursor(batch, &cursor, err) : rc;
}

int wheel_cursor(struct pleat_db *db, const struct pleat_snapshot *snapshot, unsigned wheel, uint64_t *ret_k,
                 struct pleat_error *err) {
    char text[WHEEL_KEY_BYTES];
    struct pleat_cursor_value cursor;
    struct pleat_slice name = cursor_name(text, wheel);
    int rc = snapshot != NULL ? pleat_snapshot_cursor(snapshot, name, &cursor, err)
                              : pleat_cursor_read(db, name, PLEAT_APPLIED, &cursor, err);
    *ret_k = 0;
    if (rc == 0 && cursor.bytes == sizeof *ret_k) {
        memcpy(ret_k, cursor.value, sizeof *ret_k);
    }
    return rc < 0 ? rc : 0;
}

/* ---- what was seen ---------------------------------------------------------------------------------------------- */

static bool key_parse(struct pleat_slice key, unsigned *ret_place, unsigned *ret_wheel) {
    char text[WHEEL_KEY_BYTES] = {0}, again[WHEEL_KEY_BYTES];
    if (key.bytes != 8) {
        return false;
    }
    memcpy(text, key.data, key.bytes);
    *ret_place = (unsigned)strtoul(text, NULL, 10);
    *ret_wheel = (unsigned)strtoul(text + 6, NULL, 10);
    struct pleat_slice right = wheel_key(again, *ret_place, *ret_wheel);
    return right.bytes == key.bytes && memcmp(right.data, key.data, key.bytes) == 0;
}

bool wheel_see(const struct pleat_row *row, size_t space, bool keys_only, unsigned wheels, struct wheel_seen *seen) {
    unsigned place, wheel;
    uint64_t k = WHEEL_PRESENT;
    if (!key_parse(row->key, &place, &wheel) || place >= WHEEL_PLACES || wheel >= wheels ||
        seen[wheel].put_by[place] != 0) {
        return false;
    }
    if (!keys_only) {
        uint8_t value[WHEEL_VALUE_BYTES];
        if (row->version.bytes != sizeof k) {
            return false;
        }
        memcpy(&k, row->version.data, sizeof k);
        size_t bytes = value_make(k, place, space, value);
        if (row->value.bytes != bytes || (bytes > 0 && memcmp(row->value.data, value, bytes) != 0) || !row->has_flag ||
            row->flag != (uint8_t)k) {
            return false;
        }
    }
    seen[wheel].put_by[place] = k;
    return true;
}

bool wheel_fits(const struct wheel_seen *seen, unsigned from, unsigned to, uint64_t k) {
    for (unsigned place = from; place < to; place++) {
        uint64_t expected = place_expected(place, k), found = seen->put_by[place];
        if (found == WHEEL_PRESENT ? expected == 0 : found != expected) {
            return false;
        }
    }
    return true;
}

uint64_t wheel_hub(const struct wheel_seen *seen, unsigned from, unsigned to) {
    for (unsigned place = from; place < to; place++) {
        if (place_is_hub(place)) {
            return seen->put_by[place];
        }
    }
    return 0;
}

/* ---- the whole state -------------------------------------------------------------------------------------------- */

struct compare {
    struct wheel_seen seen[WHEELS_MAX];
    size_t space;
    unsigned wheels;
};

static int compare_row(void *context, const struct pleat_row *row) {
    struct compare *compare = context;
    return wheel_see(row, compare->space, false, compare->wheels, compare->seen) ? 0 : 77;
}

static int compare_gets(struct compare *compare, struct pleat_space *space, const struct pleat_snapshot *snapshot,
                        struct pleat_error *err) {
    for (unsigned i = 0; i < compare->wheels * WHEEL_PLACES; i++) {
        char key[WHEEL_KEY_BYTES];
        struct pleat_value value;
        struct pleat_row row = {.key = wheel_key(key, i % WHEEL_PLACES, i / WHEEL_PLACES)};
        int rc = pleat_get(space, snapshot, row.key, &value, err);
        if (rc == 0) {
            row.value = (struct pleat_slice){value.data, value.bytes};
            row.version = (struct pleat_slice){value.version, value.version_bytes};
            row.has_flag = value.has_flag;
            row.flag = value.flag;
            rc = compare_row(compare, &row);
            pleat_value_release(&value);
        }
        if (rc != 0 && rc != PLEAT_ABSENT) {
            return rc;
        }
    }
    return 0;
}

static bool compare_space(struct pleat_space *const spaces[WHEEL_SPACES], size_t space,
                          const struct pleat_snapshot *snapshot, unsigned wheels, const uint64_t *k, char *text,
                          size_t text_bytes) {
    static const char *const how[] = {"forward scan", "backward scan", "gets"};
    for (int i = 0; i < 3; i++) {
        struct compare compare = {.space = space, .wheels = wheels};
        struct pleat_error err = {0};
        int rc = i == 2 ? compare_gets(&compare, spaces[space], snapshot, &err)
                        : pleat_scan(spaces[space], PLEAT_ITER_OPTIONS(.snapshot = snapshot, .reverse = i == 1),
                                     compare_row, &compare, &err);
        if (rc != 0) {
            (void)snprintf(text, text_bytes, "space %zu, %s: %s", space, how[i],
                           rc == 77 ? "a row that no commit wrote" : err.message);
            return false;
        }
        for (unsigned wheel = 0; wheel < wheels; wheel++) {
            if (!wheel_fits(&compare.seen[wheel], 0, WHEEL_PLACES, k[wheel])) {
                (void)snprintf(text, text_bytes,
                               "space %zu, %s: wheel %u is not that of its cursor %" PRIu64 " (a hub says %" PRIu64 ")",
                               space, how[i], wheel, k[wheel], wheel_hub(&compare.seen[wheel], 0, WHEEL_PLACES));
                return false;
            }
        }
    }
    return true;
}

bool wheel_compare(struct pleat_db *db, struct pleat_space *const spaces[WHEEL_SPACES],
                   const struct pleat_snapshot *snapshot, unsigned wheels, uint64_t *ret_k, char *text,
                   size_t text_bytes) {
    struct pleat_error err = {0};
    struct pleat_snapshot *own = NULL;
    if (snapshot == NULL) {
        if (pleat_snapshot_new(db, &own, &err) < 0) {
            (void)snprintf(text, text_bytes, "snapshot: %s", err.message);
            return false;
        }
        snapshot = own;
    }
    bool right = true;
    for (unsigned wheel = 0; right && wheel < wheels; wheel++) {
        if (wheel_cursor(db, snapshot, wheel, &ret_k[wheel], &err) < 0) {
            (void)snprintf(text, text_bytes, "cursor: %s", err.message);
            right = false;
        }
    }
    for (size_t space = 0; right && space < WHEEL_SPACES; space++) {
        right = compare_space(spaces, space, snapshot, wheels, ret_k, text, text_bytes);
    }
    pleat_snapshot_free(own);
    return right;
}
