/* history.c - see history.h. */
#include "support/history.h"

#include "support/random.h"

#include <inttypes.h>
#include <string.h>

static struct random history_random(const struct history *history, uint64_t n, uint64_t salt) {
    struct random random = {history->seed ^ n * 0xd6e8feb86659fd93ull ^ salt << 56};
    (void)random_next(&random);
    return random;
}

/* Built once a process; the bytes never change afterwards, so that it does not matter who builds them twice. */
struct pleat_slice history_key(size_t index) {
    static uint8_t keys[HISTORY_KEYS][256];
    static size_t bytes[HISTORY_KEYS];
    static const char *const odd[] = {"", "\0", "\0\0", "\0\1", "a", "aa", "aaa", "ab", "b", "\xff", "\xff\xff",
                                      "\xff\xff\xff\xff\xff\xff\xff\xff", "a\xff", "a\xff\xff"};
    static const size_t odd_bytes[] = {0, 1, 2, 2, 1, 2, 3, 2, 1, 1, 2, 8, 2, 3};
    size_t odd_count = sizeof odd_bytes / sizeof odd_bytes[0];
    if (index < odd_count) {
        return (struct pleat_slice){odd[index], odd_bytes[index]};
    }
    if (bytes[index] == 0) {
        if (index < odd_count + 10) { /* 200 shared bytes */
            memset(keys[index], 'p', 200);
            keys[index][200] = (uint8_t)('0' + (index - odd_count));
            bytes[index] = 201;
        } else {
            int n = snprintf((char *)keys[index], sizeof keys[index], "svc.%04zx.route.%02zx",
                             index / 7 * 2654435761u % 65536, index % 7);
            bytes[index] = (size_t)n;
        }
    }
    return (struct pleat_slice){keys[index], bytes[index]};
}

int history_key_index(struct pleat_slice key) {
    for (int i = 0; i < HISTORY_KEYS; i++) {
        struct pleat_slice at = history_key((size_t)i);
        if (at.bytes == key.bytes && (key.bytes == 0 || memcmp(at.data, key.data, key.bytes) == 0)) {
            return i;
        }
    }
    return -1;
}

size_t history_value(const struct history *history, uint64_t n, size_t space, size_t key, uint8_t *buffer) {
    struct random random = history_random(history, n, 2 + space * 64 + key);
    size_t bytes = random_below(&random, 8) == 0 ? 0 : random_below(&random, history->value_bytes_max + 1);
    for (size_t i = 0; i < bytes; i++) {
        buffer[i] = (uint8_t)(random_next(&random) & (i % 16 < 8 ? 0xff : 3));
    }
    return bytes;
}

bool history_is_clear(const struct history *history, uint64_t n, size_t *ret_space) {
    struct random random = history_random(history, n, 1);
    *ret_space = (size_t)random_below(&random, HISTORY_SPACES);
    return history->clears && random_below(&random, 29) == 0;
}

struct history_update {
    size_t space, key;
    bool put;
};

/* The updates of commit n, in order; later ones of the same key win. */
static unsigned history_updates(const struct history *history, uint64_t n, struct history_update *ret_updates) {
    struct random random = history_random(history, n, 0);
    unsigned count = (unsigned)random_below(&random, history->updates_max + 1); /* an empty batch now and then */
    for (unsigned i = 0; i < count; i++) {
        ret_updates[i].space = (size_t)random_below(&random, HISTORY_SPACES);
        ret_updates[i].key = (size_t)random_below(&random, HISTORY_KEYS);
        ret_updates[i].put = random_below(&random, 4) != 0;
    }
    return count;
}

/* What commit n does to the further cursors: sets, removes, or both, or nothing. */
enum side_act { SIDE_LEFT, SIDE_SET, SIDE_REMOVED, SIDE_SET_AND_REMOVED, SIDE_REMOVED_AND_SET, SIDE_ACTS };

static enum side_act history_side(const struct history *history, uint64_t n, size_t side) {
    struct random random = history_random(history, n, 200 + side);
    return random_below(&random, 3) > 0 ? SIDE_LEFT : (enum side_act)random_below(&random, SIDE_ACTS);
}

static struct pleat_slice side_name(size_t side) {
    static const char *const names[HISTORY_SIDES] = {"left", "right"};
    return (struct pleat_slice){names[side], strlen(names[side])};
}

#define UPDATES_MAX 256

void history_state_step(const struct history *history, struct history_state *state) {
    struct history_update updates[UPDATES_MAX];
    size_t space;
    uint64_t n = ++state->sequence;
    if (history_is_clear(history, n, &space)) {
        memset(state->put_by[space], 0, sizeof state->put_by[space]);
        return;
    }
    unsigned count = history_updates(history, n, updates);
    for (unsigned i = 0; i < count; i++) {
        state->put_by[updates[i].space][updates[i].key] = updates[i].put ? n : 0;
    }
    state->cursor = n;
    for (size_t side = 0; side < HISTORY_SIDES; side++) {
        enum side_act act = history_side(history, n, side);
        if (act != SIDE_LEFT) {
            state->sides[side] = act == SIDE_SET || act == SIDE_REMOVED_AND_SET ? n : 0;
        }
    }
}

void history_state_at(const struct history *history, uint64_t sequence, struct history_state *ret_state) {
    memset(ret_state, 0, sizeof *ret_state);
    while (ret_state->sequence < sequence) {
        history_state_step(history, ret_state);
    }
}

int history_spaces(struct pleat_db *db, struct pleat_space *ret_spaces[HISTORY_SPACES], struct pleat_error *err) {
    ret_spaces[0] = pleat_default_space(db);
    int rc = pleat_space_open(db, (struct pleat_slice){"grouped", 7},
                              PLEAT_SPACE_OPTIONS(.group_delimiter = '.', .group_delimiters = 2, .block_bytes = 64),
                              &ret_spaces[1], err);
    return rc < 0 ? rc
                  : pleat_space_open(db, (struct pleat_slice){"\0raw", 4},
                                     PLEAT_SPACE_OPTIONS(.codec = PLEAT_CODEC_NONE, .block_bytes = 128), &ret_spaces[2],
                                     err);
}

int history_apply(const struct history *history, uint64_t n, struct pleat_db *db,
                  struct pleat_space *const spaces[HISTORY_SPACES], struct pleat_batch *batch, bool sync,
                  struct pleat_error *err) {
    struct history_update updates[UPDATES_MAX];
    uint8_t value[4096];
    size_t space;
    if (history_is_clear(history, n, &space)) {
        return pleat_space_clear(spaces[space], err);
    }
    pleat_batch_clear(batch);
    unsigned count = history_updates(history, n, updates);
    int rc = 0;
    for (unsigned i = 0; rc == 0 && i < count; i++) {
        struct pleat_slice key = history_key(updates[i].key);
        if (updates[i].put) {
            size_t bytes = history_value(history, n, updates[i].space, updates[i].key, value);
            struct pleat_attributes attributes = {.version = {&n, sizeof n}, .has_flag = true, .flag = (uint8_t)n};
            rc = pleat_batch_put_with(batch, spaces[updates[i].space], key, (struct pleat_slice){value, bytes},
                                      &attributes, err);
        } else {
            rc = pleat_batch_delete(batch, spaces[updates[i].space], key, err);
        }
    }
    char text[24];
    int text_bytes = snprintf(text, sizeof text, "%" PRIu64, n);
    struct pleat_cursor cursor = {.value = {text, (size_t)text_bytes}};
    rc = rc == 0 ? pleat_batch_set_cursor(batch, &cursor, err) : rc;
    for (size_t side = 0; rc == 0 && side < HISTORY_SIDES; side++) {
        enum side_act act = history_side(history, n, side);
        cursor.name = side_name(side);
        bool removes_first = act == SIDE_REMOVED || act == SIDE_REMOVED_AND_SET;
        rc = removes_first ? pleat_batch_remove_cursor(batch, cursor.name, err) : 0;
        rc = rc == 0 && act != SIDE_LEFT && act != SIDE_REMOVED ? pleat_batch_set_cursor(batch, &cursor, err) : rc;
        rc = rc == 0 && act == SIDE_SET_AND_REMOVED ? pleat_batch_remove_cursor(batch, cursor.name, err) : rc;
    }
    uint64_t sequence = 0;
    rc = rc == 0 ? pleat_commit(db, batch, PLEAT_COMMIT_OPTIONS(.sync = sync ? PLEAT_COMMIT_SYNC : 0), &sequence, err)
                 : rc;
    if (rc == 0 && sequence != n) {
        (void)snprintf(err->message, sizeof err->message, "operation %" PRIu64 " got sequence %" PRIu64, n, sequence);
        return PLEAT_ERR_INVALID;
    }
    return rc;
}

/* ---- comparison ------------------------------------------------------------------------------------------------- */

struct compare {
    const struct history *history;
    const struct history_state *state;
    size_t space;
    uint8_t seen[HISTORY_KEYS];
    struct pleat_slice last;
    uint8_t last_bytes[256];
    bool any;
    bool reverse;
    char *text;
    size_t text_bytes;
};

static bool compare_value(const struct compare *compare, size_t key, struct pleat_slice value,
                          struct pleat_slice version, bool has_flag, uint8_t flag) {
    uint8_t expected[4096];
    uint64_t n = compare->state->put_by[compare->space][key];
    size_t bytes = history_value(compare->history, n, compare->space, key, expected);
    return value.bytes == bytes && (bytes == 0 || memcmp(value.data, expected, bytes) == 0) &&
           version.bytes == sizeof n && memcmp(version.data, &n, sizeof n) == 0 && has_flag && flag == (uint8_t)n;
}

static int compare_row(void *context, const struct pleat_row *row) {
    struct compare *compare = context;
    const char *what = NULL;
    int key = history_key_index(row->key);
    if (key < 0) {
        what = "an unknown key";
    } else if (compare->state->put_by[compare->space][key] == 0) {
        what = "a key that should be absent";
    } else if (!compare_value(compare, (size_t)key, row->value, row->version, row->has_flag, row->flag)) {
        what = "a wrong value, version or flag";
    } else if (compare->any) {
        size_t common = row->key.bytes < compare->last.bytes ? row->key.bytes : compare->last.bytes;
        int order = common > 0 ? memcmp(compare->last.data, row->key.data, common) : 0;
        order = order != 0 ? order
                           : (compare->last.bytes > row->key.bytes) - (compare->last.bytes < row->key.bytes);
        what = (compare->reverse ? order > 0 : order < 0) ? NULL : "keys out of order";
    }
    if (what != NULL) {
        (void)snprintf(compare->text, compare->text_bytes, "space %zu, sequence %" PRIu64 ", %s scan: %s (key %d)",
                       compare->space, compare->state->sequence, compare->reverse ? "backward" : "forward", what, key);
        return 77;
    }
    compare->seen[key]++;
    compare->any = true;
    memcpy(compare->last_bytes, row->key.data != NULL ? row->key.data : "", row->key.bytes);
    compare->last = (struct pleat_slice){compare->last_bytes, row->key.bytes};
    return 0;
}

static bool compare_scan(struct compare *compare, struct pleat_space *space, const struct pleat_snapshot *snapshot,
                         bool reverse) {
    struct pleat_error err;
    memset(compare->seen, 0, sizeof compare->seen);
    compare->any = false;
    compare->reverse = reverse;
    int rc =
        pleat_scan(space, PLEAT_ITER_OPTIONS(.snapshot = snapshot, .reverse = reverse), compare_row, compare, &err);
    if (rc != 0) {
        if (rc != 77) {
            (void)snprintf(compare->text, compare->text_bytes, "space %zu: scan: %s", compare->space, err.message);
        }
        return false;
    }
    for (int key = 0; key < HISTORY_KEYS; key++) {
        if (compare->seen[key] != (compare->state->put_by[compare->space][key] != 0)) {
            (void)snprintf(compare->text, compare->text_bytes,
                           "space %zu, sequence %" PRIu64 ", %s scan: key %d seen %d times", compare->space,
                           compare->state->sequence, reverse ? "backward" : "forward", key, compare->seen[key]);
            return false;
        }
    }
    return true;
}

static bool compare_gets(struct compare *compare, struct pleat_space *space, const struct pleat_snapshot *snapshot) {
    for (size_t key = 0; key < HISTORY_KEYS; key++) {
        struct pleat_error err;
        struct pleat_value value;
        int rc = pleat_get(space, snapshot, history_key(key), &value, &err);
        bool present = compare->state->put_by[compare->space][key] != 0;
        bool right = rc == (present ? 0 : PLEAT_ABSENT);
        if (rc == 0) {
            right = right && compare_value(compare, key, (struct pleat_slice){value.data, value.bytes},
                                           (struct pleat_slice){value.version, value.version_bytes}, value.has_flag,
                                           value.flag);
            pleat_value_release(&value);
        }
        if (!right) {
            (void)snprintf(compare->text, compare->text_bytes,
                           "space %zu, sequence %" PRIu64 ": get of key %zu answers %d (put by %" PRIu64 ")%s%s",
                           compare->space, compare->state->sequence, key, rc,
                           compare->state->put_by[compare->space][key], rc < 0 ? ": " : "", rc < 0 ? err.message : "");
            return false;
        }
    }
    return true;
}

/* The cursor of that name against the commit that set it (0: none). With a snapshot, or of a store that nobody writes:
 * at one sequence. */
static bool compare_cursor(struct pleat_db *db, const struct pleat_snapshot *snapshot, struct pleat_slice name,
                           uint64_t set_by, char *text, size_t text_bytes) {
    struct pleat_cursor_value cursor;
    struct pleat_error err = {0};
    char expected[24];
    int rc = snapshot != NULL ? pleat_snapshot_cursor(snapshot, name, &cursor, &err)
                              : pleat_cursor_read(db, name, PLEAT_APPLIED, &cursor, &err);
    int expected_bytes = snprintf(expected, sizeof expected, "%" PRIu64, set_by);
    bool is_right = rc >= 0 && (rc == 0) == (set_by != 0) &&
                    (rc != 0 || (cursor.bytes == (size_t)expected_bytes &&
                                 memcmp(cursor.value, expected, (size_t)expected_bytes) == 0));
    if (!is_right) {
        (void)snprintf(text, text_bytes,
                       "sequence %" PRIu64 ": cursor \"%.*s\" is not that of its state (status %d, %.*s, expected %s)",
                       rc >= 0 ? cursor.sequence : 0, (int)name.bytes, (const char *)name.data, rc,
                       rc == 0 ? (int)cursor.bytes : 0, (const char *)cursor.value, expected);
    }
    return is_right;
}

bool history_compare(const struct history *history, struct pleat_db *db,
                     struct pleat_space *const spaces[HISTORY_SPACES], const struct pleat_snapshot *snapshot,
                     char *text, size_t text_bytes) {
    struct history_state state;
    struct pleat_cursor_value cursor;
    struct pleat_error err;
    struct pleat_slice no_name = {NULL, 0};
    int rc = snapshot != NULL ? pleat_snapshot_cursor(snapshot, no_name, &cursor, &err)
                              : pleat_cursor_read(db, no_name, PLEAT_APPLIED, &cursor, &err);
    if (rc < 0) {
        (void)snprintf(text, text_bytes, "cursor: %s", err.message);
        return false;
    }
    history_state_at(history, cursor.sequence, &state);
    bool is_right = compare_cursor(db, snapshot, (struct pleat_slice){"", 0}, state.cursor, text, text_bytes);
    for (size_t side = 0; is_right && side < HISTORY_SIDES; side++) {
        is_right = compare_cursor(db, snapshot, side_name(side), state.sides[side], text, text_bytes);
    }
    if (!is_right) {
        return false;
    }
    for (size_t space = 0; space < HISTORY_SPACES; space++) {
        struct compare compare = {
            .history = history, .state = &state, .space = space, .text = text, .text_bytes = text_bytes};
        if (!compare_gets(&compare, spaces[space], snapshot) ||
            !compare_scan(&compare, spaces[space], snapshot, false) ||
            !compare_scan(&compare, spaces[space], snapshot, true)) {
            return false;
        }
    }
    return true;
}
