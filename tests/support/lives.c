/* lives.c - see lives.h. */
#include "support/lives.h"

#include "support/random.h"

#include <inttypes.h>
#include <string.h>
#include <xxhash.h>

#define UPDATES_MAX 64
#define VALUE_BYTES_MAX 256

static struct random lives_random(uint64_t seed, uint64_t stamp, uint64_t salt) {
    struct random random = {seed ^ stamp * 0xd6e8feb86659fd93ull ^ salt << 52};
    (void)random_next(&random);
    return random;
}

/* ---- what a step holds ------------------------------------------------------------------------------------------ */

struct lives_update {
    unsigned space, key;
    bool put;
};

/* One commit in 24 is larger than a memtable, one in ten is empty. */
static bool lives_is_large(uint64_t seed, uint64_t stamp) {
    struct random random = lives_random(seed, stamp, 1);
    return random_below(&random, 24) == 0;
}

static unsigned lives_updates(uint64_t seed, const struct lives_step *step, struct lives_update *ret_updates) {
    struct random random = lives_random(seed, step->stamp, 2);
    unsigned count = random_below(&random, 10) == 0 ? 0 : 1 + (unsigned)random_below(&random, 6);
    unsigned kept = 0;
    count = lives_is_large(seed, step->stamp) ? UPDATES_MAX : count;
    for (unsigned i = 0; i < count; i++) {
        struct lives_update update = {
            .space = (unsigned)random_below(&random, LIVES_SPACES),
            .key = (unsigned)random_below(&random, LIVES_KEYS),
            .put = random_below(&random, 4) != 0,
        };
        if ((step->exists >> update.space & 1u) != 0) {
            ret_updates[kept++] = update;
        }
    }
    return kept;
}

static size_t lives_value(uint64_t seed, uint64_t stamp, unsigned space, size_t key, uint8_t *buffer) {
    struct random random = lives_random(seed, stamp, 16 + space * 64 + key);
    size_t bytes = random_below(&random, 8) == 0 ? 0 : (size_t)random_below(&random, 61);
    bytes = lives_is_large(seed, stamp) ? bytes * 4 : bytes;
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t noise = random_next(&random) & (i % 16 == 0 ? UINT64_MAX : 0x0303030303030303ull);
        memcpy(buffer + i, &noise, bytes - i < 8 ? bytes - i : 8);
    }
    return bytes;
}

static struct pleat_slice lives_cursor_name(unsigned cursor) {
    static char longest[255];
    switch (cursor) {
    case 0:
        return (struct pleat_slice){"", 0};
    case 1:
        return (struct pleat_slice){"orders", 6};
    case 2:
        return (struct pleat_slice){"\0\xff", 2};
    default:
        memset(longest, 'n', sizeof longest);
        return (struct pleat_slice){longest, sizeof longest};
    }
}

/* Empty now and then, which is not the same as none; the last cursor up to the limit. */
static size_t lives_cursor_value(uint64_t seed, uint64_t stamp, unsigned cursor, uint8_t *buffer) {
    struct random random = lives_random(seed, stamp, 4 + cursor);
    if (random_below(&random, 16) == 0) {
        return 0;
    }
    size_t bytes = 16 + (size_t)random_below(&random, cursor == 3 ? PLEAT_CURSOR_BYTES_MAX - 15 : 17);
    memset(buffer, (int)random_below(&random, 256), bytes);
    memcpy(buffer, &stamp, sizeof stamp);
    return bytes;
}

static size_t lives_incarnation_value(uint64_t incarnation, uint8_t *buffer) {
    size_t bytes = incarnation == 0 ? 0 : 8 + incarnation % (PLEAT_INCARNATION_BYTES_MAX - 7);
    memset(buffer, 'i', bytes);
    memcpy(buffer, &incarnation, bytes > 0 ? sizeof incarnation : 0);
    return bytes;
}

/* What a commit does with a cursor. */
struct lives_cursor {
    bool set;
    bool remove;
    bool expect;
    bool replace;
    uint64_t incarnation; /* as given; 0: not said */
};

static void lives_cursors(uint64_t seed, const struct lives_step *step, const struct lives_state *before,
                          bool has_updates, struct lives_cursor ret_cursors[LIVES_CURSORS]) {
    struct random random = lives_random(seed, step->stamp, 3);
    bool any = has_updates;
    for (unsigned c = 0; c < LIVES_CURSORS; c++) {
        struct lives_cursor *cursor = &ret_cursors[c];
        *cursor = (struct lives_cursor){.set = random_below(&random, 8) < (c == 0 ? 7 : 2)};
        cursor->expect = random_below(&random, 4) == 0;
        uint64_t draw = random_below(&random, 6);
        if (c != 0 && draw == 0) {
            cursor->replace = true;
            cursor->incarnation = step->stamp;
        } else if (c != 0 && draw < 3) {
            cursor->incarnation = before->incarnation[c];
        }
        cursor->remove = !cursor->set && random_below(&random, c == 0 ? 12 : 4) == 0;
        any = any || cursor->set || cursor->remove;
    }
    ret_cursors[0].remove = ret_cursors[0].remove && any;
    ret_cursors[0].set = ret_cursors[0].set || !any; /* with nothing at all it would take no sequence number */
}

/* ---- lineages --------------------------------------------------------------------------------------------------- */

void lineage_begin(struct lineage *lineage, uint64_t seed) {
    lineage->seed = seed;
    lineage->sequence = 0;
    memset(&lineage->states[0], 0, sizeof lineage->states[0]);
    lineage->digests[0] = XXH3_64bits(&lineage->states[0], sizeof lineage->states[0]);
}

void lineage_push(struct lineage *lineage, uint32_t life, enum lives_kind kind, unsigned space, unsigned exists) {
    if (lineage->sequence == LINEAGE_MAX) {
        abort(); /* the campaign's own limit */
    }
    const struct lives_state *before = &lineage->states[lineage->sequence];
    uint64_t n = ++lineage->sequence;
    struct lives_state *state = &lineage->states[n];
    struct lives_step *step = &lineage->steps[n];
    *step = (struct lives_step){(uint64_t)life << 32 | n, kind, space, exists};
    *state = *before;
    if (kind == LIVES_COMMIT) {
        struct lives_update updates[UPDATES_MAX];
        struct lives_cursor cursors[LIVES_CURSORS];
        unsigned count = lives_updates(lineage->seed, step, updates);
        for (unsigned i = 0; i < count; i++) {
            state->put_by[updates[i].space][updates[i].key] = updates[i].put ? step->stamp : 0;
        }
        lives_cursors(lineage->seed, step, before, count > 0, cursors);
        for (unsigned c = 0; c < LIVES_CURSORS; c++) {
            if (cursors[c].remove) {
                state->cursor[c] = state->incarnation[c] = 0;
                continue;
            }
            state->cursor[c] = cursors[c].set ? step->stamp : state->cursor[c];
            state->incarnation[c] =
                cursors[c].set && cursors[c].incarnation != 0 ? cursors[c].incarnation : state->incarnation[c];
        }
    } else {
        memset(state->put_by[space], 0, sizeof state->put_by[space]);
    }
    lineage->digests[n] = XXH3_64bits(state, sizeof *state);
}

void lineage_cut(struct lineage *lineage, uint64_t sequence) {
    lineage->sequence = sequence;
}

/* ---- doing it --------------------------------------------------------------------------------------------------- */

int lives_space(struct pleat_db *db, unsigned k, bool create, struct pleat_space **ret_space, struct pleat_error *err) {
    static const struct pleat_slice names[] = {{"default", 7}, {"grouped", 7}, {"\0raw", 4}};
    struct pleat_space_options options = {
        .size = sizeof options,
        .open_mode = create ? PLEAT_MUST_NOT_EXIST : PLEAT_MUST_EXIST,
        .block_bytes = k == 0   ? 0
                       : k == 1 ? 64
                                : 128,
        .codec = k == 2 ? PLEAT_CODEC_NONE : PLEAT_CODEC_LZ4,
    };
    if (k == 1) {
        options.group_delimiter = '.';
        options.group_delimiters = 2;
    }
    return pleat_space_open(db, names[k], &options, ret_space, err);
}

static int apply_updates(const struct lineage *lineage, const struct lives_step *step,
                         struct pleat_space *const *spaces, struct pleat_batch *batch, unsigned *ret_count,
                         struct pleat_error *err) {
    struct lives_update updates[UPDATES_MAX];
    uint8_t value[VALUE_BYTES_MAX];
    unsigned count = lives_updates(lineage->seed, step, updates);
    int rc = 0;
    for (unsigned i = 0; rc == 0 && i < count; i++) {
        struct pleat_slice key = history_key(updates[i].key);
        struct pleat_space *space = spaces[updates[i].space];
        if (updates[i].put) {
            size_t bytes = lives_value(lineage->seed, step->stamp, updates[i].space, updates[i].key, value);
            struct pleat_attributes attributes = {
                .version = {&step->stamp, sizeof step->stamp}, .has_flag = true, .flag = (uint8_t)step->stamp};
            rc = pleat_batch_put_with(batch, space, key, (struct pleat_slice){value, bytes}, &attributes, err);
        } else {
            rc = pleat_batch_delete(batch, space, key, err);
        }
    }
    *ret_count = count;
    return rc;
}

static int apply_cursors(const struct lineage *lineage, const struct lives_step *step, bool has_updates,
                         struct pleat_batch *batch, struct pleat_error *err) {
    const struct lives_state *before = &lineage->states[lineage->sequence - 1];
    struct lives_cursor cursors[LIVES_CURSORS];
    lives_cursors(lineage->seed, step, before, has_updates, cursors);
    int rc = 0;
    for (unsigned c = 0; rc == 0 && c < LIVES_CURSORS; c++) {
        uint8_t value[PLEAT_CURSOR_BYTES_MAX];
        uint8_t incarnation[PLEAT_INCARNATION_BYTES_MAX];
        if (cursors[c].expect) {
            struct pleat_slice stored = {value, lives_cursor_value(lineage->seed, before->cursor[c], c, value)};
            rc = pleat_batch_expect_cursor(batch, lives_cursor_name(c), before->cursor[c] != 0 ? &stored : NULL, err);
        }
        if (rc == 0 && cursors[c].set) {
            struct pleat_cursor cursor = {
                .name = lives_cursor_name(c),
                .value = {value, lives_cursor_value(lineage->seed, step->stamp, c, value)},
                .incarnation = {incarnation, lives_incarnation_value(cursors[c].incarnation, incarnation)},
                .replace_incarnation = cursors[c].replace,
            };
            rc = pleat_batch_set_cursor(batch, &cursor, err);
        }
        if (rc == 0 && cursors[c].remove) {
            rc = pleat_batch_remove_cursor(batch, lives_cursor_name(c), err);
        }
    }
    return rc;
}

int lives_apply(const struct lineage *lineage, struct pleat_db *db, struct pleat_space *spaces[LIVES_SPACES],
                struct pleat_batch *batch, bool sync, struct pleat_error *err) {
    uint64_t n = lineage->sequence;
    const struct lives_step *step = &lineage->steps[n];
    uint64_t sequence = 0;
    int rc;
    if (step->kind == LIVES_CLEAR) {
        rc = pleat_space_clear(spaces[step->space], err);
    } else if (step->kind == LIVES_DROP) {
        rc = pleat_space_drop(spaces[step->space], err);
        spaces[step->space] = NULL;
    } else {
        unsigned count = 0;
        pleat_batch_clear(batch);
        rc = apply_updates(lineage, step, spaces, batch, &count, err);
        rc = rc == 0 ? apply_cursors(lineage, step, count > 0, batch, err) : rc;
        rc = rc == 0
                 ? pleat_commit(db, batch, PLEAT_COMMIT_OPTIONS(.sync = sync ? PLEAT_COMMIT_SYNC : 0), &sequence, err)
                 : rc;
        if (rc == 0 && sequence != n) {
            (void)snprintf(err->message, sizeof err->message, "step %" PRIu64 " got sequence %" PRIu64, n, sequence);
            return PLEAT_ERR_INVALID;
        }
    }
    if (rc == 0) {
        pleat_position_read(db, PLEAT_APPLIED, NULL, &sequence);
        if (sequence != n) {
            (void)snprintf(err->message, sizeof err->message, "step %" PRIu64 " leaves the store at %" PRIu64, n,
                           sequence);
            return PLEAT_ERR_INVALID;
        }
    }
    return rc;
}

/* ---- comparison ------------------------------------------------------------------------------------------------- */

struct compare {
    const struct lineage *lineage;
    const struct lives_state *state;
    uint64_t sequence;
    unsigned space;
    bool reverse;
    size_t rank; /* keys passed, in the order of the scan */
    char *text;
    size_t text_bytes;
};

static int key_order(const void *a, const void *b) {
    struct pleat_slice x = history_key(*(const uint8_t *)a), y = history_key(*(const uint8_t *)b);
    size_t common = x.bytes < y.bytes ? x.bytes : y.bytes;
    int order = common > 0 ? memcmp(x.data, y.data, common) : 0;
    return order != 0 ? order : (x.bytes > y.bytes) - (x.bytes < y.bytes);
}

/* The universe in byte order: made by the first call, by one thread. */
static const uint8_t *keys_in_order(void) {
    static uint8_t keys[LIVES_KEYS];
    static bool made;
    if (!made) {
        for (unsigned i = 0; i < LIVES_KEYS; i++) {
            keys[i] = (uint8_t)i;
        }
        qsort(keys, LIVES_KEYS, sizeof *keys, key_order);
        made = true;
    }
    return keys;
}

static bool compare_value(const struct compare *compare, size_t key, struct pleat_slice value,
                          struct pleat_slice version, bool has_flag, uint8_t flag) {
    uint8_t expected[VALUE_BYTES_MAX];
    uint64_t stamp = compare->state->put_by[compare->space][key];
    size_t bytes = lives_value(compare->lineage->seed, stamp, compare->space, key, expected);
    return value.bytes == bytes && (bytes == 0 || memcmp(value.data, expected, bytes) == 0) &&
           version.bytes == sizeof stamp && memcmp(version.data, &stamp, sizeof stamp) == 0 && has_flag &&
           flag == (uint8_t)stamp;
}

/* The next key in the order of the scan that the state has, or -1. */
static int compare_next(struct compare *compare) {
    const uint8_t *keys = keys_in_order();
    while (compare->rank < LIVES_KEYS) {
        uint8_t key = keys[compare->reverse ? LIVES_KEYS - 1 - compare->rank : compare->rank];
        compare->rank++;
        if (compare->state->put_by[compare->space][key] != 0) {
            return key;
        }
    }
    return -1;
}

static int compare_row(void *context, const struct pleat_row *row) {
    struct compare *compare = context;
    int key = compare_next(compare);
    const char *what = NULL;
    struct pleat_slice expected = key >= 0 ? history_key((size_t)key) : (struct pleat_slice){NULL, 0};
    if (key < 0) {
        what = "a row behind the last";
    } else if (row->key.bytes != expected.bytes ||
               (expected.bytes > 0 && memcmp(row->key.data, expected.data, expected.bytes) != 0)) {
        what = "another key than the next one";
    } else if (!compare_value(compare, (size_t)key, row->value, row->version, row->has_flag, row->flag)) {
        what = "a wrong value, version or flag";
    }
    if (what != NULL) {
        (void)snprintf(compare->text, compare->text_bytes, "space %u, sequence %" PRIu64 ", %s scan: %s (key %d)",
                       compare->space, compare->sequence, compare->reverse ? "backward" : "forward", what, key);
        return 77;
    }
    return 0;
}

static bool compare_scan(struct compare *compare, struct pleat_space *space, const struct pleat_snapshot *snapshot,
                         bool reverse) {
    struct pleat_error err;
    compare->reverse = reverse;
    compare->rank = 0;
    int rc =
        pleat_scan(space, PLEAT_ITER_OPTIONS(.snapshot = snapshot, .reverse = reverse), compare_row, compare, &err);
    int key = rc == 0 ? compare_next(compare) : -1;
    if (rc != 0 && rc != 77) {
        (void)snprintf(compare->text, compare->text_bytes, "space %u: scan: %s", compare->space, err.message);
    } else if (key >= 0) {
        (void)snprintf(compare->text, compare->text_bytes, "space %u, sequence %" PRIu64 ", %s scan: no key %d",
                       compare->space, compare->sequence, reverse ? "backward" : "forward", key);
    }
    return rc == 0 && key < 0;
}

static bool compare_gets(struct compare *compare, struct pleat_space *space, const struct pleat_snapshot *snapshot) {
    for (size_t key = 0; key < LIVES_KEYS; key++) {
        struct pleat_error err;
        struct pleat_value value;
        int rc = pleat_get(space, snapshot, history_key(key), &value, &err);
        uint64_t put_by = compare->state->put_by[compare->space][key];
        bool right = rc == (put_by != 0 ? 0 : PLEAT_ABSENT);
        if (rc == 0) {
            right = right &&
                    compare_value(compare, key, (struct pleat_slice){value.data, value.bytes},
                                  (struct pleat_slice){value.version, value.version_bytes}, value.has_flag, value.flag);
            pleat_value_release(&value);
        }
        int exists =
            right && key % 4 == compare->sequence % 4 ? pleat_exists(space, snapshot, history_key(key), &err) : rc;
        if (!right || exists != rc) {
            (void)snprintf(compare->text, compare->text_bytes,
                           "space %u, sequence %" PRIu64 ": get of key %zu answers %d, exists %d (put by %" PRIx64
                           ")%s%s",
                           compare->space, compare->sequence, key, rc, exists, put_by, rc < 0 ? ": " : "",
                           rc < 0 ? err.message : "");
            return false;
        }
    }
    return true;
}

/* One cursor as it was read (rc: 0 or PLEAT_ABSENT) against the state. */
static bool compare_cursor(const struct lineage *lineage, uint64_t sequence, unsigned c, int rc,
                           const struct pleat_cursor_value *found, char *text, size_t text_bytes) {
    const struct lives_state *state = &lineage->states[sequence];
    uint8_t value[PLEAT_CURSOR_BYTES_MAX];
    uint8_t incarnation[PLEAT_INCARNATION_BYTES_MAX];
    size_t bytes = lives_cursor_value(lineage->seed, state->cursor[c], c, value);
    size_t incarnation_bytes = lives_incarnation_value(state->incarnation[c], incarnation);
    bool right = rc == (state->cursor[c] != 0 ? 0 : PLEAT_ABSENT) && found->sequence == sequence;
    if (rc == 0) {
        right = right && found->bytes == bytes && memcmp(found->value, value, bytes) == 0 &&
                found->incarnation_bytes == incarnation_bytes &&
                memcmp(found->incarnation, incarnation, incarnation_bytes) == 0;
    }
    if (!right) {
        (void)snprintf(text, text_bytes,
                       "sequence %" PRIu64 ": cursor %u (answer %d, read at %" PRIu64 ", %zu bytes) is not that of its "
                       "state (set by %" PRIx64 ", %zu bytes)",
                       sequence, c, rc, found->sequence, found->bytes, state->cursor[c], bytes);
    }
    return right;
}

struct cursor_list {
    const struct lineage *lineage;
    uint64_t sequence;
    unsigned found;
    bool wrong;
    char *text;
    size_t text_bytes;
};

static int compare_listed(void *context, struct pleat_slice name, const struct pleat_cursor_value *value) {
    struct cursor_list *list = context;
    for (unsigned c = 0; c < LIVES_CURSORS; c++) {
        struct pleat_slice known = lives_cursor_name(c);
        if (known.bytes == name.bytes && (name.bytes == 0 || memcmp(known.data, name.data, name.bytes) == 0)) {
            list->found |= 1u << c;
            list->wrong = !compare_cursor(list->lineage, list->sequence, c, 0, value, list->text, list->text_bytes);
            return list->wrong ? 77 : 0;
        }
    }
    (void)snprintf(list->text, list->text_bytes, "a cursor that nobody set, its name has %zu bytes", name.bytes);
    list->wrong = true;
    return 77;
}

bool lives_compare_cursors(const struct lineage *lineage, uint64_t sequence, struct pleat_db *db,
                           enum pleat_position position, char *text, size_t text_bytes) {
    struct cursor_list list = {lineage, sequence, 0, false, text, text_bytes};
    struct pleat_error err = {0};
    int rc = pleat_cursor_list(db, position, compare_listed, &list, &err);
    if (rc < 0) {
        (void)snprintf(text, text_bytes, "list of cursors: %s", err.message);
    }
    for (unsigned c = 0; rc == 0 && c < LIVES_CURSORS; c++) {
        if ((list.found >> c & 1u) != (lineage->states[sequence].cursor[c] != 0)) {
            (void)snprintf(text, text_bytes, "sequence %" PRIu64 ": cursor %u is not listed", sequence, c);
            return false;
        }
    }
    return rc == 0 && !list.wrong;
}

bool lives_compare(const struct lineage *lineage, uint64_t sequence, struct pleat_db *db,
                   struct pleat_space *const spaces[LIVES_SPACES], const struct pleat_snapshot *snapshot, char *text,
                   size_t text_bytes) {
    for (unsigned c = 0; c < LIVES_CURSORS; c++) {
        struct pleat_cursor_value cursor = {0};
        struct pleat_error err = {0};
        int rc = snapshot != NULL ? pleat_snapshot_cursor(snapshot, lives_cursor_name(c), &cursor, &err)
                                  : pleat_cursor_read(db, lives_cursor_name(c), PLEAT_APPLIED, &cursor, &err);
        if (rc < 0) {
            (void)snprintf(text, text_bytes, "cursor %u: %s", c, err.message);
            return false;
        }
        if (!compare_cursor(lineage, sequence, c, rc, &cursor, text, text_bytes)) {
            return false;
        }
    }
    if (snapshot == NULL && !lives_compare_cursors(lineage, sequence, db, PLEAT_APPLIED, text, text_bytes)) {
        return false;
    }
    for (unsigned space = 0; space < LIVES_SPACES; space++) {
        struct compare compare = {.lineage = lineage,
                                  .state = &lineage->states[sequence],
                                  .sequence = sequence,
                                  .space = space,
                                  .text = text,
                                  .text_bytes = text_bytes};
        if (spaces[space] != NULL && (!compare_gets(&compare, spaces[space], snapshot) ||
                                      !compare_scan(&compare, spaces[space], snapshot, false) ||
                                      !compare_scan(&compare, spaces[space], snapshot, true))) {
            return false;
        }
    }
    return true;
}
