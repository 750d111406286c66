/* power.c - see power.h. */
#include "support/power.h"

#include "support/random.h"

#include <inttypes.h>
#include <string.h>

#define WRITES 3 /* after a recovery, before the second look */

struct look {
    const struct power_path *path;
    bool kill;
    struct simfs *image;
    struct simfs *second; /* the image of a second crash, or NULL: the disk that the next open uses */
    struct pleat_options options;
    struct pleat_db *db;
    struct pleat_space *spaces[LIVES_SPACES];
    struct power_found found;
    struct random random; /* of the contents: the same image is looked at in the same way */
    char *text;
    size_t text_bytes;
};

#define LOOK_FAIL(look, ...) ((void)snprintf((look)->text, (look)->text_bytes, __VA_ARGS__), false)

int power_spaces(struct pleat_db *db, struct pleat_space *ret_spaces[LIVES_SPACES], unsigned *ret_exists,
                 struct pleat_error *err) {
    *ret_exists = 0;
    for (unsigned k = 0; k < LIVES_SPACES; k++) {
        ret_spaces[k] = NULL;
        int rc = lives_space(db, k, false, &ret_spaces[k], err);
        if (rc < 0 && rc != PLEAT_ERR_NOT_FOUND) {
            return rc;
        }
        *ret_exists |= rc == 0 ? 1u << k : 0;
    }
    return 0;
}

static bool expect_spaces(const struct power_path *path, const struct power_found *found, char *text,
                          size_t text_bytes) {
    for (unsigned k = 0; k < LIVES_SPACES; k++) {
        enum power_space expected = path->spaces[k];
        if (path->dropping[k] != 0 && found->sequence >= path->dropping[k]) {
            expected = POWER_ABSENT;
        }
        bool there = (found->exists >> k & 1u) != 0;
        if (expected != POWER_MAYBE && there != (expected == POWER_PRESENT)) {
            (void)snprintf(text, text_bytes, "sequence %" PRIu64 ": space %u is %s", found->sequence, k,
                           there ? "there though dropped or never created" : "not there");
            return false;
        }
    }
    return true;
}

/* F5, for what is there now, and (goes_on) for what the next commit will be: a read-only open begins no history. */
static bool expect_history(const struct power_path *path, bool goes_on, const struct power_found *found, char *text,
                           size_t text_bytes) {
    for (size_t i = 0; i < path->seen_count; i++) {
        const struct power_seen *seen = &path->seen[i];
        if (seen->history != found->history) {
            continue;
        }
        uint64_t common = found->sequence < seen->sequence ? found->sequence : seen->sequence;
        for (uint64_t n = 0; n <= common; n++) {
            if (seen->digests[n] != path->lineage->digests[n]) {
                (void)snprintf(text, text_bytes, "history %" PRIu64 ", sequence %" PRIu64 " names two contents",
                               seen->history, n);
                return false;
            }
        }
        if (goes_on && found->sequence < seen->sequence) {
            (void)snprintf(text, text_bytes,
                           "history %" PRIu64 " goes on at sequence %" PRIu64 ", it had been seen at %" PRIu64,
                           seen->history, found->sequence, seen->sequence);
            return false;
        }
    }
    return true;
}

static bool expect_all(const struct power_path *path, bool kill, bool goes_on, const struct power_found *found,
                       char *text, size_t text_bytes) {
    uint64_t floor = kill ? path->returned : path->durable;
    if (found->sequence < floor || found->sequence > path->lineage->sequence) {
        (void)snprintf(text, text_bytes,
                       "recovered sequence %" PRIu64 ", promised was %" PRIu64 ", the last begun %" PRIu64,
                       found->sequence, floor, path->lineage->sequence);
        return false;
    }
    return expect_spaces(path, found, text, text_bytes) && expect_history(path, goes_on, found, text, text_bytes);
}

bool power_expect(const struct power_path *path, bool kill, const struct power_found *found, char *text,
                  size_t text_bytes) {
    return expect_all(path, kill, true, found, text, text_bytes);
}

static bool look_open(struct look *look, bool read_only) {
    struct pleat_error err = {0};
    look->options = *look->path->options;
    look->options.read_only = read_only;
    look->options.open_mode = look->path->opened ? PLEAT_MUST_EXIST : PLEAT_OPEN_OR_CREATE;
    look->options.on_durable = NULL;
    struct simfs *fs = look->second != NULL ? look->second : look->image;
    int rc = db_open_with("store", &look->options, simfs_vfs(fs), look->path->mem, &look->db, &err);
    if (rc < 0) {
        look->db = NULL;
        /* Memtables for all of a log may be more than a read-only open has; and before there was a store, none is. */
        bool may = read_only && (rc == PLEAT_ERR_NO_MEMORY || (rc == PLEAT_ERR_NOT_FOUND && !look->path->opened));
        return may || LOOK_FAIL(look, "open%s: %s", read_only ? " for reading" : "", err.message);
    }
    rc = power_spaces(look->db, look->spaces, &look->found.exists, &err);
    if (rc < 0) {
        return LOOK_FAIL(look, "spaces: %s", err.message);
    }
    pleat_position_read(look->db, PLEAT_APPLIED, &look->found.history, &look->found.sequence);
    return true;
}

/* What is shown as durable is at or below what is applied, and the state at that sequence. */
static bool look_at_durable(struct look *look) {
    uint64_t durable;
    pleat_position_read(look->db, PLEAT_DURABLE, NULL, &durable);
    if (durable > look->found.sequence) {
        return LOOK_FAIL(look, "durable is %" PRIu64 ", applied %" PRIu64, durable, look->found.sequence);
    }
    return lives_compare_cursors(look->path->lineage, durable, look->db, PLEAT_DURABLE, look->text, look->text_bytes);
}

static bool look_at_all(struct look *look) {
    struct pleat_check check;
    struct pleat_error err = {0};
    if (!lives_compare(look->path->lineage, look->found.sequence, look->db, look->spaces, NULL, look->text,
                       look->text_bytes) ||
        !look_at_durable(look)) {
        return false;
    }
    return pleat_check(look->db, &check, &err) == 0 || LOOK_FAIL(look, "check: %s", err.message);
}

static bool look_close(struct look *look) {
    struct pleat_error err = {0};
    int rc = pleat_close(look->db, &err);
    look->db = NULL;
    return rc == 0 || LOOK_FAIL(look, "close: %s", err.message);
}

/* A read-only open shows the same, and changes nothing. */
static bool look_read_only(struct look *look) {
    uint64_t before = simfs_hash(look->image);
    uint64_t pending = simfs_pending(look->image);
    if (!look_open(look, true)) {
        return false;
    }
    if (look->db != NULL && (!expect_all(look->path, look->kill, false, &look->found, look->text, look->text_bytes) ||
                             !look_at_all(look) || !look_close(look))) {
        return false;
    }
    return (simfs_hash(look->image) == before && simfs_pending(look->image) == pending) ||
           LOOK_FAIL(look, "opened for reading, the disk changed");
}

/* Writes on in a life of its own: the lineage is the caller's again afterwards. */
static bool look_write(struct look *look, struct pleat_error *err) {
    struct lineage *lineage = look->path->lineage;
    struct pleat_batch *batch = NULL;
    int rc = pleat_batch_new(look->db, &batch, err);
    for (unsigned i = 0; rc == 0 && i < WRITES; i++) {
        unsigned k = 1 + (unsigned)random_below(&look->random, LIVES_SPACES - 1);
        enum lives_kind kind = LIVES_COMMIT;
        uint64_t draw = random_below(&look->random, 16);
        if (look->spaces[k] == NULL && draw < 4) {
            rc = lives_space(look->db, k, true, &look->spaces[k], err);
            look->found.exists |= rc == 0 ? 1u << k : 0;
        } else if (look->spaces[k] != NULL && draw < 2) {
            kind = draw == 0 ? LIVES_CLEAR : LIVES_DROP;
        }
        if (rc == 0) {
            lineage_push(lineage, POWER_CHECK_LIFE, kind, k, look->found.exists);
            rc = lives_apply(lineage, look->db, look->spaces, batch, draw == 15, err);
            look->found.exists &= ~(kind == LIVES_DROP ? 1u << k : 0);
        }
    }
    pleat_batch_free(batch);
    return rc == 0 || LOOK_FAIL(look, "write after recovery: %s", err->message);
}

/* The writing is made durable, and then the power fails once more. */
static bool look_kill(struct look *look) {
    static const enum simfs_model models[] = {SIMFS_MIN, SIMFS_STRICT, SIMFS_KILL};
    struct pleat_error err = {0};
    if (pleat_sync(look->db, &err) < 0) {
        return LOOK_FAIL(look, "sync: %s", err.message);
    }
    simfs_stop_at(look->image, 1);
    (void)pleat_close(look->db, NULL);
    look->db = NULL;
    look->second = simfs_crash(look->image, models[random_below(&look->random, 3)], random_next(&look->random));
    return true;
}

/* The second open must find what was written, under the same history after a close, and under a new one otherwise. */
static bool look_again(struct look *look, const struct power_found *written) {
    bool killed = look->second != NULL;
    if (!look_open(look, false)) {
        return false;
    }
    if (look->found.sequence != written->sequence || look->found.exists != written->exists) {
        return LOOK_FAIL(look, "opened again after a %s: sequence %" PRIu64 ", spaces %x; was %" PRIu64 ", %x",
                         killed ? "second crash" : "close", look->found.sequence, look->found.exists, written->sequence,
                         written->exists);
    }
    if ((look->found.history != written->history) != killed) {
        return LOOK_FAIL(look, "opened again after a %s: history %" PRIu64 ", was %" PRIu64,
                         killed ? "second crash" : "close", look->found.history, written->history);
    }
    return expect_history(look->path, true, &look->found, look->text, look->text_bytes) && look_at_all(look) &&
           look_close(look);
}

static bool look_first(struct look *look) {
    if (random_below(&look->random, 8) == 0 && !look_read_only(look)) {
        return false;
    }
    return look_open(look, false) && power_expect(look->path, look->kill, &look->found, look->text, look->text_bytes) &&
           look_at_all(look);
}

bool power_check(const struct power_path *path, struct simfs *image, bool kill, struct power_found *ret_found,
                 char *text, size_t text_bytes) {
    static struct lineage_tail {
        struct lives_step steps[WRITES];
        struct lives_state states[WRITES];
        uint64_t digests[WRITES];
    } tail; /* large; one thread a process */
    struct look look = {.path = path, .kill = kill, .image = image, .text = text, .text_bytes = text_bytes};
    struct lineage *lineage = path->lineage;
    uint64_t last = lineage->sequence;
    struct pleat_error err = {0};
    look.random.state = simfs_hash(image);
    bool right = look_first(&look);
    *ret_found = look.found;
    if (right) {
        uint64_t from = look.found.sequence + 1;
        memcpy(tail.steps, &lineage->steps[from], sizeof tail.steps);
        memcpy(tail.states, &lineage->states[from], sizeof tail.states);
        memcpy(tail.digests, &lineage->digests[from], sizeof tail.digests);
        lineage_cut(lineage, look.found.sequence);
        right = look_write(&look, &err);
        if (right) {
            struct power_found written = look.found;
            written.sequence = lineage->sequence;
            right = (random_below(&look.random, 4) == 0 ? look_kill(&look) : look_close(&look)) &&
                    look_again(&look, &written);
        }
        memcpy(&lineage->steps[from], tail.steps, sizeof tail.steps);
        memcpy(&lineage->states[from], tail.states, sizeof tail.states);
        memcpy(&lineage->digests[from], tail.digests, sizeof tail.digests);
        lineage->sequence = last;
    }
    (void)pleat_close(look.db, NULL); /* after a failure it is still open */
    simfs_free(look.second);
    return right;
}
