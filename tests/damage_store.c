/*
 * damage_store.c - small stores, damaged in one place, one way at a time.
 *
 *     damage_store [--seed S] [--seconds N] [--all] [--part I/N] [--keep-going] [--end NAME] [--kind NAME] [--damage N]
 *
 * A seed makes one store for each way to end (scenario.h). The damages of a store are numbered:
 *
 *     flip       one bit of one byte of one file; 8 a byte
 *     zero       one 512-byte sector becomes zeroes
 *     truncate   a file ends at an earlier byte (at 0: it is emptied)
 *     extend     zeroes, garbage, or a copy of the file's own end behind it
 *     remove     a file is gone
 *     foreign    a file of the same kind of another store, with another store id
 *     older      the file as it was at an earlier moment; or a file of that moment that is gone by now is back
 *     like       another file of the same kind of the same store under this name
 *     exchange   two files have exchanged their names
 *
 * Without --all and --seconds each byte gets one of its flips, and everything else is done; --all does every flip;
 * --part I/N, for 1 <= I <= N, does every N-th of them from the I-th on: all parts together are a whole run; each
 * says on stderr how far it is. --seconds does random ones of all kinds over fresh seeds until the time is up.
 * --keep-going reports all failures, not the first; --kind leaves out all others, where there is no --seconds.
 *
 * Of each damage: the store is opened read-only (twice when that fails) and for writing (likewise), and each time all
 * is read: cursors, spaces, each key by get, scans both ways, pleat_check. What must hold:
 *
 *   E1  An answer is PLEAT_ERR_CORRUPT with a text that names a file, or it is right: exactly that of the sequence
 *       shown, with that sequence's cursors. The rows in front of a scan's error are right and without a gap. No other
 *       code is honest for any of these damages: versions are believed behind a checksum only (PLEAT_ERR_NEWER), and
 *       other files of the store are still in place (PLEAT_ERR_NOT_FOUND, PLEAT_ERR_INVALID).
 *   E2  A failed open leaves the directory byte for byte as it was (but for the text in LOCK), and a second one answers
 *       the same. A read-only open leaves it so in every case.
 *   E3  A damage that any read meets is met by pleat_check, too.
 *   E4  An older state than that of the undamaged store is shown only where, and as old as, older_least() allows.
 *   E5  A flipped bit is reported, or it is in a place that damage_is_unread() lists.
 *   E6  No allocation exceeds 1 MiB and 64 times the bytes of the store; nothing is leaked; no damage takes longer than
 *       SECONDS_MAX.
 *   E7  A MANIFEST that was cut, that lost a sector, or that had not come so far as LOCK knows, is reported.
 *   E8  LOCK itself is evidence and no more: whatever becomes of it, the store opens with the right answer.
 *
 * A failure prints one line that replays it.
 */
#include "base/bytes.h"
#include "db/db.h"
#include "support/scenario.h"
#include "version/lock_note.h"

#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "support/history.h"

#define SECONDS_MAX 10
#define ALLOCATION_BASE_BYTES (1u << 20)
#define ALLOCATION_FACTOR 64

enum damage_kind { FLIP, ZERO, TRUNCATE, EXTEND, REMOVE, FOREIGN, OLDER, LIKE, EXCHANGE };
#define DAMAGE_KINDS 9
static const char *const kind_names[DAMAGE_KINDS] = {"flip",    "zero",  "truncate", "extend",  "remove",
                                                     "foreign", "older", "like",     "exchange"};

/* So many damages of one kind to one file. */
struct group {
    enum damage_kind kind;
    size_t file; /* index into the files */
    uint64_t count;
};
#define GROUPS_MAX (SCENARIO_FILES_MAX * DAMAGE_KINDS)

struct damage {
    enum damage_kind kind;
    size_t file;
    uint64_t at; /* within the group: bit, sector, length, variant or other file */
};

/* Where nobody reads: found out once, from the undamaged store. */
struct place {
    bool is_live;      /* whether anything refers to the file */
    uint64_t read_end; /* bytes from here on are behind the end of what is followed */
};

struct subject {
    struct scenario scenario;
    struct scenario foreign;
    uint64_t sequence;    /* that an open of the undamaged store shows */
    uint64_t bytes;       /* of all files */
    uint64_t evidence;    /* the highest sequence that anything in the files says had been durable */
    struct edition noted; /* of MANIFEST, in LOCK */
    struct place places[SCENARIO_FILES_MAX];
    struct group groups[GROUPS_MAX];
    size_t group_count;
    uint64_t damages;
};

struct counts {
    uint64_t damages[DAMAGE_KINDS];
    uint64_t reported[DAMAGE_KINDS]; /* by an open, a read or a check */
    uint64_t older[DAMAGE_KINDS];
    uint64_t unread[DAMAGE_KINDS]; /* flips in a listed place, and other damages that changed nothing */
};

static char replay_line[256];

/* ---- memory ----------------------------------------------------------------------------------------------------- */

struct meter {
    struct mem mem;
    int64_t live;
    size_t largest;
};

static void *meter_alloc(const struct mem *mem, size_t bytes) {
    struct meter *meter = mem->context;
    meter->largest = bytes > meter->largest ? bytes : meter->largest;
    meter->live++;
    return mem_system.alloc(&mem_system, bytes);
}

static void *meter_resize(const struct mem *mem, void *old, size_t bytes) {
    struct meter *meter = mem->context;
    meter->largest = bytes > meter->largest ? bytes : meter->largest;
    meter->live += old == NULL;
    return mem_system.resize(&mem_system, old, bytes);
}

static void meter_release(const struct mem *mem, void *block) {
    ((struct meter *)mem->context)->live--;
    mem_system.release(&mem_system, block);
}

static void *meter_map(const struct mem *mem, size_t bytes, bool huge) {
    struct meter *meter = mem->context;
    meter->largest = bytes > meter->largest ? bytes : meter->largest;
    meter->live++;
    return mem_system.map(&mem_system, bytes, huge);
}

static void meter_unmap(const struct mem *mem, void *block, size_t bytes) {
    ((struct meter *)mem->context)->live--;
    mem_system.unmap(&mem_system, block, bytes);
}

/* ---- reading everything ----------------------------------------------------------------------------------------- */

/* What one open and all reads behind it answered. */
struct answer {
    int open_code;
    uint64_t sequence;
    int read_code;                        /* the first error of a read */
    int check_code;                       /* of pleat_check */
    char text[PLEAT_ERROR_MESSAGE_BYTES]; /* of the first error */
    char wrong[320];                      /* "": nothing was wrong */
};

static bool slices_equal(struct pleat_slice a, struct pleat_slice b) {
    return a.bytes == b.bytes && (a.bytes == 0 || memcmp(a.data, b.data, a.bytes) == 0);
}

/* E1: an error is a report of corruption that names a file. */
static void answer_error(struct answer *answer, int *code, int rc, const struct pleat_error *err, const char *where) {
    if (*code == 0) {
        *code = rc;
    }
    if (answer->text[0] == '\0') {
        (void)snprintf(answer->text, sizeof answer->text, "%s", err->message);
    }
    bool names = strstr(err->message, ".tbl") != NULL || strstr(err->message, ".wal") != NULL ||
                 strstr(err->message, "MANIFEST") != NULL;
    if ((rc != PLEAT_ERR_CORRUPT || !names || err->code != rc) && answer->wrong[0] == '\0') {
        (void)snprintf(answer->wrong, sizeof answer->wrong, "%s: %s: %.200s", where, pleat_status_name(rc),
                       err->message);
    }
}

static void answer_wrong(struct answer *answer, const char *what, size_t space, uint64_t detail) {
    if (answer->wrong[0] == '\0') {
        (void)snprintf(answer->wrong, sizeof answer->wrong, "sequence %" PRIu64 ", space %zu: %s (%" PRIu64 ")",
                       answer->sequence, space, what, detail);
    }
}

struct scan {
    const struct scenario_space *model;
    size_t rows;
    bool reverse;
    bool wrong;
};

static int scan_row(void *context, const struct pleat_row *row) {
    struct scan *scan = context;
    size_t at = scan->rows++;
    if (at >= scan->model->count) {
        scan->wrong = true;
        return 77;
    }
    const struct scenario_row *expected = &scan->model->rows[scan->reverse ? scan->model->count - 1 - at : at];
    scan->wrong = !slices_equal(row->key, expected->key) || !slices_equal(row->value, expected->value) ||
                  !slices_equal(row->version, expected->version) || row->has_flag != expected->has_flag ||
                  (row->has_flag && row->flag != expected->flag);
    return scan->wrong ? 77 : 0;
}

static void read_scan(struct answer *answer, struct pleat_space *space, size_t number,
                      const struct scenario_space *model, bool reverse) {
    struct pleat_error err = {0};
    struct scan scan = {.model = model, .reverse = reverse};
    int rc = pleat_scan(space, PLEAT_ITER_OPTIONS(.reverse = reverse), scan_row, &scan, &err);
    if (scan.wrong) {
        answer_wrong(answer, reverse ? "a wrong row of the backward scan" : "a wrong row of the forward scan", number,
                     scan.rows);
    } else if (rc < 0) {
        answer_error(answer, &answer->read_code, rc, &err, "scan");
    } else if (scan.rows != model->count) {
        answer_wrong(answer, reverse ? "the backward scan ends early" : "the forward scan ends early", number,
                     scan.rows);
    }
}

static void read_get(struct answer *answer, struct pleat_space *space, size_t number, struct pleat_slice key,
                     const struct scenario_row *expected) {
    struct pleat_error err = {0};
    struct pleat_value value;
    int rc = pleat_get(space, NULL, key, &value, &err);
    if (rc < 0) {
        answer_error(answer, &answer->read_code, rc, &err, "get");
        return;
    }
    if (rc != (expected != NULL ? 0 : PLEAT_ABSENT)) {
        answer_wrong(answer,
                     expected != NULL ? "get misses a key of so many bytes" : "get finds a key of so many bytes",
                     number, key.bytes);
    } else if (rc == 0 && (!slices_equal((struct pleat_slice){value.data, value.bytes}, expected->value) ||
                           !slices_equal((struct pleat_slice){value.version, value.version_bytes}, expected->version) ||
                           value.has_flag != expected->has_flag || (value.has_flag && value.flag != expected->flag))) {
        answer_wrong(answer, "get of a wrong value, version or flag", number, key.bytes);
    }
    if (rc == 0) {
        pleat_value_release(&value);
    }
}

static void read_space(struct answer *answer, struct pleat_db *db, size_t number, const struct scenario_space *model) {
    struct pleat_error err = {0};
    struct pleat_space *space;
    int rc = pleat_space_open(db, scenario_space_name(number), PLEAT_SPACE_OPTIONS(.open_mode = PLEAT_MUST_EXIST),
                              &space, &err);
    if (rc == PLEAT_ERR_NOT_FOUND && (!model->live || model->created_at == answer->sequence)) {
        return;
    }
    if (rc < 0 || !model->live) {
        (void)snprintf(answer->wrong, sizeof answer->wrong, "sequence %" PRIu64 ", space %zu: %s", answer->sequence,
                       number, rc < 0 ? err.message : "a space that should not be there");
        return;
    }
    const struct scenario_row *row = model->rows;
    for (size_t i = 0; i < HISTORY_KEYS; i++) {
        struct pleat_slice key = history_key(i);
        for (row = model->rows; row < model->rows + model->count && !slices_equal(row->key, key); row++) {
        }
        read_get(answer, space, number, key, row < model->rows + model->count ? row : NULL);
    }
    read_scan(answer, space, number, model, false);
    read_scan(answer, space, number, model, true);
}

static void read_cursors(struct answer *answer, struct pleat_db *db, const struct scenario_state *state) {
    for (size_t i = 0; i < SCENARIO_CURSORS; i++) {
        struct pleat_cursor_value value;
        struct pleat_error err = {0};
        int rc = pleat_cursor_read(db, scenario_cursor_name(i), PLEAT_APPLIED, &value, &err);
        const struct scenario_cursor *model = &state->cursors[i];
        /* An empty incarnation leaves the stored one: the model keeps the last that was given. */
        if (rc != (model->set ? 0 : PLEAT_ABSENT) || value.sequence != answer->sequence ||
            (rc == 0 && !slices_equal((struct pleat_slice){value.value, value.bytes}, model->value)) ||
            (rc == 0 &&
             !slices_equal((struct pleat_slice){value.incarnation, value.incarnation_bytes}, model->incarnation))) {
            answer_wrong(answer, "cursor", i, (uint64_t)(int64_t)rc);
        }
    }
}

static void read_store(const struct subject *subject, struct simfs *fs, bool read_only, struct answer *answer) {
    struct pleat_options options = {
        .size = sizeof options,
        .background = PLEAT_BACKGROUND_STEPS,
        .memtable_bytes = 16384,
        .cache_bytes = 65536,
        .read_only = read_only,
        .table_files_max = 2,
    };
    struct meter meter = {{meter_alloc, meter_resize, meter_release, meter_map, meter_unmap, NULL, &meter}, 0, 0};
    struct pleat_error err = {0};
    struct pleat_db *db = NULL;
    *answer = (struct answer){0};
    int rc = db_open_with(SCENARIO_PATH, &options, simfs_vfs(fs), &meter.mem, &db, &err);
    if (rc < 0) {
        answer_error(answer, &answer->open_code, rc, &err, "open");
    } else {
        pleat_position_read(db, PLEAT_APPLIED, NULL, &answer->sequence);
        if (answer->sequence > subject->scenario.sequence) {
            answer_wrong(answer, "a sequence that no commit has had", 0, 0);
        } else {
            const struct scenario_state *state = &subject->scenario.states[answer->sequence];
            read_cursors(answer, db, state);
            for (size_t i = 0; i < SCENARIO_SPACES; i++) {
                read_space(answer, db, i, &state->spaces[i]);
            }
        }
        struct pleat_check check;
        rc = pleat_check(db, &check, &err);
        if (rc < 0) {
            answer_error(answer, &answer->check_code, rc, &err, "check");
        } else if (answer->read_code < 0) {
            answer_wrong(answer, "a read met damage and the check did not (E3)", 0, 0);
        }
        rc = pleat_close(db, &err);
        if (rc < 0 && answer->read_code == 0 && answer->check_code == 0) {
            answer_wrong(answer, err.message, 0, 0);
        }
    }
    if (meter.live != 0) {
        answer_wrong(answer, "leaked allocations", 0, (uint64_t)meter.live);
    }
    if (meter.largest > ALLOCATION_BASE_BYTES + ALLOCATION_FACTOR * subject->bytes) {
        answer_wrong(answer, "an allocation beyond what the files warrant (E6)", 0, meter.largest);
    }
}

/* ---- damages ---------------------------------------------------------------------------------------------------- */

static bool is_like(const char *a, const char *b) {
    const char *a_end = strrchr(a, '.'), *b_end = strrchr(b, '.');
    return a_end != NULL && b_end != NULL ? strcmp(a_end, b_end) == 0 : strcmp(a, b) == 0;
}

/* The index-th file that is like `name`, itself not counted where it is of the same store. */
static const struct file *like_at(const struct files *files, const char *name, uint64_t index, bool is_other) {
    for (size_t i = 0; i < files->count; i++) {
        if (is_like(files->files[i].name, name) && (!is_other || strcmp(files->files[i].name, name) != 0) &&
            index-- == 0) {
            return &files->files[i];
        }
    }
    return NULL;
}

#define EXTENSIONS 9
static const size_t extension_bytes[] = {1, 16, 512};

static void group_add(struct subject *subject, enum damage_kind kind, size_t file, uint64_t count) {
    if (count > 0) {
        subject->groups[subject->group_count++] = (struct group){kind, file, count};
        subject->damages += count;
    }
}

static void enumerate(struct subject *subject) {
    const struct scenario *scenario = &subject->scenario;
    for (size_t i = 0; i < scenario->files.count; i++) {
        const struct file *file = &scenario->files.files[i];
        uint64_t likes = 0, foreign = 0;
        while (like_at(&scenario->files, file->name, likes, true) != NULL) {
            likes++;
        }
        while (foreign < 3 && like_at(&subject->foreign.files, file->name, foreign, false) != NULL) {
            foreign++;
        }
        group_add(subject, FLIP, i, 8 * file->bytes);
        group_add(subject, ZERO, i, (file->bytes + SIMFS_SECTOR_BYTES - 1) / SIMFS_SECTOR_BYTES);
        group_add(subject, TRUNCATE, i, file->bytes);
        group_add(subject, EXTEND, i, EXTENSIONS);
        group_add(subject, REMOVE, i, 1);
        group_add(subject, FOREIGN, i, foreign);
        group_add(subject, LIKE, i, likes);
        group_add(subject, EXCHANGE, i, scenario->files.count - 1 - i);
    }
    for (size_t moment = 0; moment < scenario->moment_count; moment++) {
        group_add(subject, OLDER, moment, scenario->moments[moment].count);
    }
}

static struct damage damage_at(const struct subject *subject, uint64_t index) {
    size_t group = 0;
    while (index >= subject->groups[group].count) {
        index -= subject->groups[group++].count;
    }
    return (struct damage){subject->groups[group].kind, subject->groups[group].file, index};
}

static void damage_extend(struct simfs *fs, const struct file *file, uint64_t variant) {
    size_t more = extension_bytes[variant / 3];
    uint8_t *data = calloc(1, file->bytes + more);
    struct random random = {variant};
    if (data == NULL) {
        abort();
    }
    memcpy(data, file->data, file->bytes);
    for (size_t i = 0; i < more; i++) {
        data[file->bytes + i] = variant % 3 == 0                         ? 0
                                : variant % 3 == 1 || file->bytes < more ? (uint8_t)random_next(&random)
                                                                         : file->data[file->bytes - more + i];
    }
    simfs_write_file(fs, SCENARIO_PATH, file->name, data, file->bytes + more);
    free(data);
}

/* Does it to the disk; says in `text` what. False when it would change nothing. */
static bool damage_do(const struct subject *subject, const struct damage *damage, struct simfs *fs, char *text,
                      size_t text_bytes) {
    const struct files *files =
        damage->kind == OLDER ? &subject->scenario.moments[damage->file] : &subject->scenario.files;
    const struct file *file = &files->files[damage->kind == OLDER ? damage->at : damage->file], *other = NULL;
    uint64_t at = damage->at;
    size_t n;
    switch (damage->kind) {
    case FLIP:
        file->data[at / 8] ^= (uint8_t)(1u << at % 8);
        simfs_write_file(fs, SCENARIO_PATH, file->name, file->data, file->bytes);
        file->data[at / 8] ^= (uint8_t)(1u << at % 8);
        at /= 8;
        break;
    case ZERO: {
        at *= SIMFS_SECTOR_BYTES;
        uint8_t kept[SIMFS_SECTOR_BYTES];
        n = file->bytes - at < sizeof kept ? file->bytes - at : sizeof kept;
        memcpy(kept, file->data + at, n);
        memset(file->data + at, 0, n);
        simfs_write_file(fs, SCENARIO_PATH, file->name, file->data, file->bytes);
        memcpy(file->data + at, kept, n);
        break;
    }
    case TRUNCATE:
        simfs_write_file(fs, SCENARIO_PATH, file->name, file->data, at);
        break;
    case EXTEND:
        damage_extend(fs, file, at);
        break;
    case REMOVE:
        (void)simfs_remove_file(fs, SCENARIO_PATH, file->name);
        break;
    case FOREIGN:
        other = like_at(&subject->foreign.files, file->name, at, false);
        break;
    case OLDER:
        other = files_find(&subject->scenario.files, file->name);
        if (other != NULL && other->bytes == file->bytes && memcmp(other->data, file->data, file->bytes) == 0) {
            return false;
        }
        simfs_write_file(fs, SCENARIO_PATH, file->name, file->data, file->bytes);
        other = NULL;
        break;
    case LIKE:
        other = like_at(files, file->name, at, true);
        break;
    case EXCHANGE:
        other = &files->files[damage->file + 1 + at];
        simfs_write_file(fs, SCENARIO_PATH, other->name, file->data, file->bytes);
        break;
    }
    if (other != NULL) {
        simfs_write_file(fs, SCENARIO_PATH, file->name, other->data, other->bytes);
    }
    (void)snprintf(text, text_bytes, "%s %s %" PRIu64 "%s%s of %zu", kind_names[damage->kind], file->name, at,
                   other != NULL ? " " : "", other != NULL ? other->name : "", file->bytes);
    return true;
}

/* ---- what is allowed -------------------------------------------------------------------------------------------- */

/* Frames of a MANIFEST from its beginning, by their lengths and indexes alone; *ret_edition: with the last one that is
 * no seal. */
static uint32_t frames_of(const struct file *file, struct edition *ret_edition) {
    uint64_t at = 56;
    uint32_t frames = 0;
    *ret_edition = (struct edition){file->bytes >= at ? load_u64(file->data + 32) : 0, 0};
    while (at + 16 <= file->bytes && load_u32(file->data + at + 4) == frames) {
        uint64_t bytes = load_u32(file->data + at);
        at += 16 + bytes;
        frames++;
        ret_edition->frames = bytes > 0 ? frames : ret_edition->frames;
    }
    return frames;
}

static bool is_power_loss(const struct subject *subject) {
    return subject->scenario.end == SCENARIO_CRASHED || subject->scenario.end == SCENARIO_CRASHED_MIN;
}

/* How far the log can be followed, segment by segment. */
struct followed {
    struct wal_tail tail; /* segment 0: none was read yet */
    bool is_ended;
};

/* The place of a live segment. One behind the end of the log is read for evidence alone, and has none here. */
static void find_segment(struct subject *subject, struct pleat_db *db, const struct registry_state *state,
                         uint64_t number, struct followed *followed, struct place *place) {
    struct wal_reader *reader;
    struct wal_view view;
    struct wal_end end;
    int rc = wal_reader_open(db->vfs, db->dir, db->mem, registry_store(db->registry)->store_id, number, &reader, NULL);
    place->read_end = 0;
    if (rc != 0) {
        followed->is_ended = true; /* created and no more */
        return;
    }
    const struct wal_header *header = wal_reader_header(reader);
    bool follows = followed->tail.segment == 0 ? header->first_sequence <= state->last_sequence + 1
                                               : header->predecessor.segment == followed->tail.segment &&
                                                     header->predecessor.running_hash == followed->tail.running_hash;
    followed->is_ended = followed->is_ended || !follows;
    while (wal_reader_next(reader, state->last_sequence, &view, NULL) == 0) {
    }
    if (wal_reader_end(reader, &end, NULL) == 0) {
        bool is_synced = number <= state->log_synced;
        if (is_synced || (end.offset > WAL_HEADER_BYTES && !followed->is_ended)) {
            place->read_end = end.offset;
        }
        if (end.durable_sequence > subject->evidence) {
            subject->evidence = end.durable_sequence;
        }
        followed->tail = end.tail;
    }
    wal_reader_close(reader);
}

/* Fills in the places of the undamaged store: which files are live, and where what is read of them ends. */
static bool find_places(struct subject *subject) {
    struct simfs *fs = files_disk(&subject->scenario.files);
    struct pleat_options options = {
        .size = sizeof options, .background = PLEAT_BACKGROUND_STEPS, .memtable_bytes = 16384, .read_only = true};
    struct pleat_error err = {0};
    struct pleat_db *db = NULL;
    int rc = db_open_with(SCENARIO_PATH, &options, simfs_vfs(fs), &mem_system, &db, &err);
    if (rc < 0) {
        fprintf(stderr, "the undamaged store: %s\n", err.message);
        simfs_free(fs);
        return false;
    }
    struct registry_state state;
    registry_state_read(db->registry, &state);
    pleat_position_read(db, PLEAT_APPLIED, NULL, &subject->sequence);
    subject->evidence = state.last_sequence;
    unsigned next;
    subject->noted = edition_note_read(registry_store(db->registry), db->lock, &next);
    bool is_noted = !edition_is_below(subject->noted, state.edition);
    struct followed followed = {0};
    for (size_t i = 0; i < subject->scenario.files.count; i++) {
        const struct file *file = &subject->scenario.files.files[i];
        struct place *place = &subject->places[i];
        uint64_t number;
        subject->bytes += file->bytes;
        place->read_end = file->bytes;
        if (table_name_parse(file->name, &number)) {
            place->is_live = registry_has_table(db->registry, number);
        } else if (wal_name_parse(file->name, &number)) {
            place->is_live = number >= state.log_floor;
            if (place->is_live) {
                find_segment(subject, db, &state, number, &followed, place);
            }
        } else if (strcmp(file->name, "MANIFEST") == 0) {
            place->is_live = true;
            place->read_end = state.manifest_bytes; /* a seal ends it, unless a crash lost that: an empty frame */
            const uint8_t *seal = file->data + place->read_end - 16;
            struct edition edition;
            place->read_end -= load_u32(seal) == 0 && load_u32(seal + 4) == frames_of(file, &edition) - 1 ? 16 : 0;
        }
    }
    (void)pleat_close(db, NULL);
    simfs_free(fs);
    if (!is_noted && (!is_power_loss(subject) || state.edits > 0)) { /* only an open leaves its note unsynced */
        fprintf(stderr, "LOCK does not note the edition of the undamaged store\n");
        return false;
    }
    return true;
}

/* E5: the places where a flipped bit may go unseen.
 *   - LOCK, MANIFEST.new, tables that no manifest names, log segments below the log floor: leftovers, never read
 *   - a log segment behind its last valid record: prepared space, or what a crash left there; all of one that holds no
 *     record, or lies behind the end of the log, and that the manifest does not know as synced
 *   - the marks of a segment, which are evidence for others
 *   - MANIFEST from the seal on, likewise, and what a crash left of an append behind it */
static bool damage_is_unread(const struct subject *subject, const struct damage *damage) {
    const struct place *place = &subject->places[damage->file];
    const char *name = subject->scenario.files.files[damage->file].name;
    uint64_t number, at = damage->at / 8;
    bool is_mark = wal_name_parse(name, &number) && at >= 128 && at < WAL_HEADER_BYTES;
    return !place->is_live || is_mark || at >= place->read_end;
}

/*
 * E4: the least sequence that may be shown after a damage; UINT64_MAX: none but that of the undamaged store.
 *   - A live log segment, after a kill: what no sync had been reported for is like what a crash tears. What had been
 *     durable is marked in the segment, and the segment in the manifest.
 *   - The same after a power loss: the mark of the last sync may be lost with it, so what counts is the evidence that
 *     reached the disk.
 * Of MANIFEST nothing may be lost: LOCK and the log know how far it had come.
 */
static uint64_t older_least(const struct subject *subject, const struct damage *damage) {
    const struct file *file = damage->kind == OLDER ? &subject->scenario.moments[damage->file].files[damage->at]
                                                    : &subject->scenario.files.files[damage->file];
    const struct file *other = damage->kind == EXCHANGE ? file + 1 + damage->at : file;
    uint64_t number, durable = subject->scenario.durable;
    if (wal_name_parse(file->name, &number) || wal_name_parse(other->name, &number)) {
        return is_power_loss(subject) && subject->evidence < durable ? subject->evidence : durable;
    }
    return UINT64_MAX;
}

/* E7. */
static bool must_be_reported(const struct subject *subject, const struct damage *damage) {
    const struct place *place = &subject->places[damage->file];
    const struct file *file = damage->kind == OLDER ? &subject->scenario.moments[damage->file].files[damage->at]
                                                    : &subject->scenario.files.files[damage->file];
    struct edition edition;
    if (strcmp(file->name, "MANIFEST") != 0) {
        return false;
    }
    switch (damage->kind) {
    case ZERO:
        return damage->at * SIMFS_SECTOR_BYTES < place->read_end;
    case TRUNCATE:
        return damage->at < place->read_end;
    case OLDER:
        (void)frames_of(file, &edition);
        return edition_is_below(edition, subject->noted);
    default:
        return damage->kind != FLIP && damage->kind != EXTEND;
    }
}

/* E8. */
static bool must_be_harmless(const struct subject *subject, const struct damage *damage) {
    const struct file *file = damage->kind == OLDER ? &subject->scenario.moments[damage->file].files[damage->at]
                                                    : &subject->scenario.files.files[damage->file];
    return strcmp(file->name, DB_LOCK_NAME) == 0 && damage->kind != EXCHANGE;
}

/* ---- one damage ------------------------------------------------------------------------------------------------- */

static bool fail(const char *text, const char *what, const struct answer *answer) {
    fprintf(stderr, "FAILED: %s: %s: %s (open %s, sequence %" PRIu64 ", check %s: %.160s)\n", replay_line, text, what,
            pleat_status_name(answer->open_code), answer->sequence, pleat_status_name(answer->check_code),
            answer->text);
    return false;
}

/* Whether two files are the same, but for the text in LOCK: that says who holds the store, and a failed open has. */
static bool is_same_file(const struct file *a, const struct file *b) {
    size_t from = strcmp(a->name, DB_LOCK_NAME) == 0 ? VFS_LOCK_TEXT_BYTES : 0;
    size_t a_bytes = a->bytes > from ? a->bytes - from : 0, b_bytes = b->bytes > from ? b->bytes - from : 0;
    return strcmp(a->name, b->name) == 0 && a_bytes == b_bytes &&
           (a_bytes == 0 || memcmp(a->data + from, b->data + from, a_bytes) == 0);
}

/* Whether the directory holds what it held. */
static bool is_unchanged(struct simfs *fs, const struct files *before) {
    static struct files after;
    files_take(&after, fs);
    bool same = after.count == before->count;
    for (size_t i = 0; same && i < after.count; i++) {
        same = is_same_file(&after.files[i], &before->files[i]);
    }
    files_free(&after);
    return same;
}

/* Opens, reads, and opens again when that failed (E2). */
static bool judge_open(const struct subject *subject, struct simfs *fs, bool read_only, const char *text,
                       struct answer *answer) {
    static struct files before;
    files_take(&before, fs);
    read_store(subject, fs, read_only, answer);
    bool failed = answer->open_code < 0;
    bool unchanged = (!read_only && !failed) || is_unchanged(fs, &before);
    struct answer second = *answer;
    if (failed) {
        read_store(subject, fs, read_only, &second);
    }
    bool same = second.open_code == answer->open_code && strcmp(second.text, answer->text) == 0 &&
                (!failed || is_unchanged(fs, &before));
    files_free(&before);
    if (answer->wrong[0] != '\0') {
        return fail(text, answer->wrong, answer);
    }
    if (!unchanged) {
        return fail(text, read_only ? "a read-only open changed the directory" : "a failed open changed the directory",
                    answer);
    }
    return same || fail(text, "a second open answers otherwise", &second);
}

static bool judge(const struct subject *subject, const struct damage *damage, struct counts *counts) {
    struct simfs *fs = files_disk(&subject->scenario.files);
    struct answer reading, writing;
    char text[640];
    bool right = true;
    if (!damage_do(subject, damage, fs, text, sizeof text)) {
        simfs_free(fs);
        return true;
    }
    (void)alarm(SECONDS_MAX);
    right = judge_open(subject, fs, true, text, &reading) && judge_open(subject, fs, false, text, &writing);
    (void)alarm(0);
    simfs_free(fs);
    if (!right) {
        return false;
    }
    if (reading.open_code != writing.open_code || reading.sequence != writing.sequence ||
        reading.check_code != writing.check_code) {
        return fail(text, "opened for writing it answers otherwise", &writing);
    }
    bool reported = reading.open_code < 0 || reading.check_code < 0;
    bool older = reading.open_code == 0 && reading.sequence < subject->sequence;
    counts->damages[damage->kind]++;
    counts->reported[damage->kind] += reported;
    counts->older[damage->kind] += older;
    counts->unread[damage->kind] += !reported && !older;
    if (older && reading.sequence < older_least(subject, damage)) {
        return fail(text, "an older state (E4)", &reading);
    }
    if (!reported && must_be_reported(subject, damage)) {
        return fail(text, "nobody noticed what the manifest lost (E7)", &reading);
    }
    if ((reported || older) && must_be_harmless(subject, damage)) {
        return fail(text, "LOCK is needed (E8)", &reading);
    }
    if (!reported && !older && damage->kind == FLIP && !damage_is_unread(subject, damage)) {
        return fail(text, "nobody noticed the flipped bit (E5)", &reading);
    }
    return true;
}

static void on_alarm(int signal_number) {
    (void)signal_number;
    static const char text[] = "FAILED: too slow: ";
    (void)!write(2, text, sizeof text - 1);
    (void)!write(2, replay_line, strlen(replay_line));
    (void)!write(2, "\n", 1);
    _exit(1);
}

/* ---- campaigns -------------------------------------------------------------------------------------------------- */

struct campaign {
    uint64_t seed;
    int end;         /* only this, when >= 0 */
    uint64_t damage; /* only this, when not UINT64_MAX */
    bool all;        /* every bit */
    uint64_t part, parts;
    int kind;        /* only this, when >= 0 */
    bool keep_going; /* past failures: to see all of them */
    struct counts counts;
    uint64_t stores, failures;
};

static double now_seconds(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static bool campaign_damage(struct campaign *campaign, const struct subject *subject, uint64_t index) {
    struct damage damage = damage_at(subject, index);
    (void)snprintf(replay_line, sizeof replay_line, "damage_store --seed 0x%" PRIx64 " --end %s --damage %" PRIu64,
                   subject->scenario.seed, scenario_end_name(subject->scenario.end), index);
    if (judge(subject, &damage, &campaign->counts)) {
        return true;
    }
    campaign->failures++;
    return campaign->keep_going;
}

/* Now and then, when there are parts. */
static void campaign_progress(const struct campaign *campaign, const struct subject *subject, uint64_t done) {
    static double last;
    double now = now_seconds();
    if (campaign->parts > 1 && now - last > 20) {
        last = now;
        fprintf(stderr, "%s: %" PRIu64 " of %" PRIu64 " damages (part %" PRIu64 "/%" PRIu64 ")\n",
                scenario_end_name(subject->scenario.end), done, subject->damages, campaign->part, campaign->parts);
    }
}

/* Every damage of the part, but (unless all) one of the flips of a byte. */
static bool campaign_whole(struct campaign *campaign, const struct subject *subject) {
    for (uint64_t i = campaign->part - 1; i < subject->damages; i += campaign->parts) {
        campaign_progress(campaign, subject, i);
        struct damage damage = damage_at(subject, i);
        struct random random = {subject->scenario.seed ^ (damage.at / 8 + 1) * 0x9e3779b97f4a7c15ull};
        bool skipped = damage.kind == FLIP && !campaign->all && random_next(&random) % 8 != damage.at % 8;
        skipped = skipped || (campaign->kind >= 0 && (int)damage.kind != campaign->kind);
        if (!skipped && !campaign_damage(campaign, subject, i)) {
            return false;
        }
    }
    return true;
}

/* Until the time is up: any damage, and one of any kind to any file, in turn. */
static bool campaign_timed(struct campaign *campaign, const struct subject *subject, double until) {
    struct random random = {subject->scenario.seed ^ subject->scenario.end};
    while (now_seconds() < until) {
        uint64_t group = random_below(&random, subject->group_count), first = 0;
        for (uint64_t i = 0; i < group; i++) {
            first += subject->groups[i].count;
        }
        if (!campaign_damage(campaign, subject, random_below(&random, subject->damages)) ||
            !campaign_damage(campaign, subject, first + random_below(&random, subject->groups[group].count))) {
            return false;
        }
    }
    return true;
}

static bool campaign_store(struct campaign *campaign, enum scenario_end end, double until) {
    static struct subject subject;
    memset(&subject, 0, sizeof subject);
    bool right = scenario_run(&subject.scenario, campaign->seed, end) &&
                 scenario_run(&subject.foreign, campaign->seed ^ 0xf0f0, end) && find_places(&subject);
    campaign->stores++;
    if (right) {
        enumerate(&subject);
        right = campaign->damage < subject.damages ? campaign_damage(campaign, &subject, campaign->damage)
                : until > 0                        ? campaign_timed(campaign, &subject, until)
                                                   : campaign_whole(campaign, &subject);
    }
    campaign->failures += !right && campaign->failures == 0; /* the store itself failed */
    scenario_free(&subject.scenario);
    scenario_free(&subject.foreign);
    return right;
}

static bool parse(int argc, char **argv, struct campaign *campaign, double *ret_seconds) {
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--all") == 0) {
            campaign->all = true;
        } else if (strcmp(argv[i], "--keep-going") == 0) {
            campaign->keep_going = true;
        } else if (i + 1 == argc) {
            return false;
        } else if (strcmp(argv[i++], "--seed") == 0) {
            campaign->seed = strtoull(value, NULL, 0);
        } else if (strcmp(argv[i - 1], "--seconds") == 0) {
            *ret_seconds = strtod(value, NULL);
        } else if (strcmp(argv[i - 1], "--part") == 0) {
            if (sscanf(value, "%" SCNu64 "/%" SCNu64, &campaign->part, &campaign->parts) != 2 || campaign->part == 0 ||
                campaign->part > campaign->parts) {
                return false;
            }
        } else if (strcmp(argv[i - 1], "--kind") == 0) {
            for (int kind = 0; kind < DAMAGE_KINDS; kind++) {
                campaign->kind = strcmp(value, kind_names[kind]) == 0 ? kind : campaign->kind;
            }
        } else if (strcmp(argv[i - 1], "--damage") == 0) {
            campaign->damage = strtoull(value, NULL, 0);
        } else if (strcmp(argv[i - 1], "--end") == 0) {
            for (int end = 0; end < SCENARIO_ENDS; end++) {
                campaign->end = strcmp(value, scenario_end_name(end)) == 0 ? end : campaign->end;
            }
        } else {
            return false;
        }
    }
    return true;
}

static void report(const struct campaign *campaign) {
    uint64_t total = 0;
    for (int kind = 0; kind < DAMAGE_KINDS; kind++) {
        const struct counts *counts = &campaign->counts;
        printf("%-8s %10" PRIu64 " done %10" PRIu64 " reported %8" PRIu64 " older %8" PRIu64 " without effect\n",
               kind_names[kind], counts->damages[kind], counts->reported[kind], counts->older[kind],
               counts->unread[kind]);
        total += counts->damages[kind];
    }
    printf("%" PRIu64 " damages of %" PRIu64 " stores: ", total, campaign->stores);
    printf(campaign->failures > 0 ? "%" PRIu64 " FAILED\n" : "all right\n", campaign->failures);
}

int main(int argc, char **argv) {
    struct random random = random_begin("damage_store");
    struct campaign campaign = {
        .seed = random_next(&random), .end = -1, .damage = UINT64_MAX, .part = 1, .parts = 1, .kind = -1};
    double seconds = 0;
    if (!parse(argc, argv, &campaign, &seconds)) {
        fprintf(stderr,
                "usage: damage_store [--seed S] [--seconds N] [--all] [--part I/N] [--keep-going] [--end NAME]\n"
                "                    [--kind NAME] [--damage N]\n");
        return 2;
    }
    (void)signal(SIGALRM, on_alarm);
    bool right = true;
    double begin = now_seconds(), share = seconds < 16 ? seconds / SCENARIO_ENDS : 2;
    do {
        for (int end = 0; right && end < SCENARIO_ENDS; end++) {
            if (campaign.end < 0 || campaign.end == end) {
                right = campaign_store(&campaign, (enum scenario_end)end, seconds > 0 ? now_seconds() + share : 0);
            }
        }
        campaign.seed = random_next(&random);
    } while (right && now_seconds() < begin + seconds - share);
    report(&campaign);
    bool may_be_few = campaign.damage != UINT64_MAX || campaign.parts > 1 || campaign.kind >= 0;
    return !right || campaign.failures > 0 || (!may_be_few && campaign.counts.damages[FLIP] == 0);
}
