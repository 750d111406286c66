/*
 * store.c - fuzzes a whole store: the files of store_image.h are laid on the simulated disk, opened, read, written.
 *
 *   - A read-only open changes nothing; an open that refuses leaves the directory as it was.
 *   - Where pleat_check finds nothing wrong, scans both ways and gets agree, and the read-only open had shown the same.
 *   - What opened goes on: a commit is there after closing and opening again, and the check still holds.
 *   - Memory stays within what the files warrant, whatever they say.
 */
#include "base/hash.h"
#include "db/db.h"
#include "fuzz/fuzz.h"
#include "fuzz/repair.h"
#include "fuzz/store_image.h"
#include "support/simfs.h"

#include <stdio.h>
#include <stdlib.h>

#define PATH "store"
#define SPACES_MAX 64
#define GETS_MAX 256

/* ---- laying it out ---------------------------------------------------------------------------------------------- */

struct file {
    char name[TABLE_NAME_BYTES];
    uint8_t *content;
    size_t bytes;
    uint64_t number;
    uint64_t footer_checksum;
    uint8_t kind;
};

struct image {
    struct file files[STORE_IMAGE_FILES_MAX];
    size_t count;
    size_t bytes;
};

static void image_take(struct image *image, struct fuzz_input *input) {
    while (fuzz_left(input) >= STORE_IMAGE_HEAD_BYTES && image->count < STORE_IMAGE_FILES_MAX) {
        struct file *file = &image->files[image->count++];
        file->kind = fuzz_u8(input) % STORE_IMAGE_KINDS;
        file->number = store_image_number(fuzz_u8(input));
        struct pleat_slice content = fuzz_slice(input, fuzz_u16(input));
        file->content = fuzz_copy(content.data, content.bytes, 0);
        file->bytes = content.bytes;
        image->bytes += content.bytes;
        if (file->kind == STORE_IMAGE_SEGMENT) {
            wal_name(file->number, file->name);
        } else if (file->kind == STORE_IMAGE_TABLE) {
            table_name(file->number, file->name);
        } else {
            (void)snprintf(file->name, sizeof file->name, "%s",
                           file->kind == STORE_IMAGE_MANIFEST ? "MANIFEST" : "MANIFEST.new");
        }
    }
}

static uint64_t image_footer_checksum(void *context, uint64_t number) {
    const struct image *image = context;
    for (size_t i = 0; i < image->count; i++) {
        if (image->files[i].kind == STORE_IMAGE_TABLE && image->files[i].number == number) {
            return image->files[i].footer_checksum;
        }
    }
    return 0;
}

/* All files belong to the store that the first MANIFEST names. */
static void image_repair(struct image *image, bool dense) {
    uint8_t store_id[TABLE_STORE_ID_BYTES] = {0};
    for (size_t i = image->count; i-- > 0;) {
        if (image->files[i].kind == STORE_IMAGE_MANIFEST && image->files[i].bytes >= 32) {
            memcpy(store_id, image->files[i].content + 16, sizeof store_id);
        }
    }
    for (size_t i = 0; i < image->count; i++) {
        struct file *file = &image->files[i];
        if (file->kind == STORE_IMAGE_SEGMENT) {
            repair_segment(file->content, file->bytes, store_id, file->number, dense);
        } else if (file->kind == STORE_IMAGE_TABLE) {
            file->footer_checksum = repair_table(file->content, file->bytes, store_id, file->number);
        }
    }
    for (size_t i = 0; i < image->count; i++) {
        if (image->files[i].kind == STORE_IMAGE_MANIFEST) {
            repair_manifest(image->files[i].content, image->files[i].bytes, image_footer_checksum, image);
        }
    }
}

/* ---- looking at it ---------------------------------------------------------------------------------------------- */

struct look {
    struct pleat_db *db;
    struct pleat_space *space;
    struct pleat_space *spaces[SPACES_MAX];
    size_t count;
    bool sound; /* pleat_check found nothing wrong */
    bool reverse;
    uint64_t rows;
    uint64_t sum;    /* of the rows; does not depend on their order */
    uint64_t digest; /* of all spaces and cursors */
    struct pleat_slice before;
    uint8_t before_key[LIMIT_KEY_BYTES];
};

static uint64_t row_hash(struct pleat_slice key, struct pleat_slice value, struct pleat_slice version) {
    return hash_bytes(version.data, version.bytes, hash_bytes(value.data, value.bytes, hash_key(key.data, key.bytes)));
}

static void look_get(struct look *look, const struct pleat_row *row) {
    struct pleat_value value;
    uint8_t *exact = fuzz_copy(row->key.data, row->key.bytes, 0);
    int rc = pleat_get(look->space, NULL, (struct pleat_slice){exact, row->key.bytes}, &value, NULL);
    FUZZ_CHECK(rc == 0 || !look->sound);
    if (rc == 0) {
        FUZZ_CHECK(!look->sound ||
                   (fuzz_equal(row->value, (struct pleat_slice){value.data, value.bytes}) &&
                    fuzz_equal(row->version, (struct pleat_slice){value.version, value.version_bytes}) &&
                    row->has_flag == value.has_flag && (!row->has_flag || row->flag == value.flag)));
        pleat_value_release(&value);
    }
    free(exact);
}

static int look_row(void *context, const struct pleat_row *row) {
    struct look *look = context;
    int order = fuzz_order(look->before, row->key);
    FUZZ_CHECK(look->rows == 0 || (look->reverse ? order > 0 : order < 0));
    if (row->key.bytes > 0) {
        memcpy(look->before_key, row->key.data, row->key.bytes);
    }
    look->before = (struct pleat_slice){look->before_key, row->key.bytes};
    look->sum += row_hash(row->key, row->value, row->version);
    look->rows++;
    if (!look->reverse && look->rows <= GETS_MAX) {
        look_get(look, row);
    }
    return 0;
}

static int look_scan(struct look *look, bool reverse) {
    struct pleat_error err = {0};
    look->reverse = reverse;
    look->rows = look->sum = 0;
    int rc = pleat_scan(look->space, PLEAT_ITER_OPTIONS(.reverse = reverse), look_row, look, &err);
    FUZZ_CHECK(rc == 0 || (rc < 0 && err.message[0] != '\0'));
    FUZZ_CHECK_TEXT(rc == 0 || !look->sound, "%s", err.message);
    return rc;
}

static int look_name(void *context, struct pleat_slice name) {
    struct look *look = context;
    FUZZ_CHECK(look->count <= SPACES_MAX);
    if (look->count < SPACES_MAX) {
        int rc = pleat_space_open(look->db, name, PLEAT_SPACE_OPTIONS(.open_mode = PLEAT_MUST_EXIST),
                                  &look->spaces[look->count], NULL);
        look->count += rc == 0;
    }
    return 0;
}

static int look_cursor(void *context, struct pleat_slice name, const struct pleat_cursor_value *cursor) {
    struct look *look = context;
    look->digest += row_hash(name, (struct pleat_slice){cursor->value, cursor->bytes},
                             (struct pleat_slice){cursor->incarnation, cursor->incarnation_bytes});
    return 0;
}

static void look_at(struct look *look, struct pleat_db *db) {
    struct pleat_check check;
    struct pleat_stats stats = {.size = sizeof stats};
    struct pleat_error err = {0};
    memset(look, 0, sizeof *look);
    look->db = db;
    int rc = pleat_check(db, &check, &err);
    FUZZ_CHECK(rc == 0 || (rc < 0 && err.message[0] != '\0'));
    look->sound = rc == 0;
    FUZZ_CHECK(pleat_stats_read(db, &stats, NULL) == 0);
    FUZZ_CHECK(pleat_cursor_list(db, PLEAT_APPLIED, look_cursor, look, NULL) == 0);
    FUZZ_CHECK(pleat_space_list(db, look_name, look, NULL) == 0);
    look->digest = hash_mix(look->digest, stats.applied_sequence);
    for (size_t i = 0; i < look->count; i++) {
        look->space = look->spaces[i];
        int forward = look_scan(look, false);
        uint64_t rows = look->rows, sum = look->sum;
        int backward = look_scan(look, true);
        FUZZ_CHECK(forward != 0 || backward != 0 || !look->sound || (rows == look->rows && sum == look->sum));
        look->digest = hash_mix(look->digest, sum);
    }
}

/* ---- living with it --------------------------------------------------------------------------------------------- */

static struct pleat_options store_options(uint8_t mode) {
    return (struct pleat_options){
        .size = sizeof(struct pleat_options),
        .background = PLEAT_BACKGROUND_STEPS,
        .cache_bytes = 64 << 10,
        .memtable_bytes = 16 << 10,
        .table_bytes = 4 << 10,
        .level_base_bytes = 4 << 10,
        .level0_tables = 2,
        .log_by_write = (mode & STORE_IMAGE_BY_WRITE) != 0,
        .table_files_max = 2,
    };
}

static int store_open(struct simfs *fs, const struct mem *mem, struct pleat_options options, bool read_only,
                      struct pleat_db **ret_db) {
    struct pleat_error err = {0};
    options.read_only = read_only;
    int rc = db_open_with(PATH, &options, simfs_vfs(fs), mem, ret_db, &err);
    FUZZ_CHECK(rc == 0 || (rc < 0 && err.message[0] != '\0' && err.code == rc));
    FUZZ_CHECK(rc == 0 || simfs_open_handles(fs) == 0);
    return rc;
}

static const struct pleat_slice own_key = {"key of the fuzzer", 17}, own_value = {"value", 5};

/* A commit of our own; errors of background work on damaged tables are answers, too. */
static int store_write(struct pleat_db *db, const struct look *look) {
    struct pleat_batch *batch;
    struct pleat_error err = {0};
    FUZZ_CHECK(pleat_batch_new(db, &batch, NULL) == 0);
    FUZZ_CHECK(pleat_batch_put(batch, pleat_default_space(db), own_key, own_value, NULL) == 0);
    int rc = pleat_commit(db, batch, NULL, NULL, &err);
    FUZZ_CHECK_TEXT(rc == 0 || !look->sound, "%s", err.message);
    pleat_batch_free(batch);
    for (unsigned i = 0; i < 32 && pleat_step(db, NULL) == 0; i++) {
    }
    int flushed = pleat_flush(db, &err);
    FUZZ_CHECK_TEXT(flushed == 0 || !look->sound, "%s", err.message);
    return rc;
}

static void store_expect_own(struct pleat_db *db, const struct look *look) {
    struct pleat_value value;
    struct pleat_error err = {0};
    int rc = pleat_get(pleat_default_space(db), NULL, own_key, &value, &err);
    FUZZ_CHECK_TEXT(rc == 0 || (!look->sound && rc < 0), "%s", err.message);
    if (rc == 0) {
        FUZZ_CHECK(fuzz_equal(own_value, (struct pleat_slice){value.data, value.bytes}));
        pleat_value_release(&value);
    }
}

static void store_live(struct simfs *fs, const struct mem *mem, const struct pleat_options *options,
                       struct pleat_db *db, struct look *look, struct look *again) {
    struct pleat_error err = {0};
    bool written = store_write(db, look) == 0;
    if (written) {
        store_expect_own(db, look);
    }
    int rc = pleat_close(db, &err);
    FUZZ_CHECK_TEXT(rc == 0 || !look->sound, "%s", err.message);
    FUZZ_CHECK(simfs_open_handles(fs) == 0);
    rc = store_open(fs, mem, *options, false, &db);
    FUZZ_CHECK(rc == 0 || !look->sound);
    if (rc == 0) {
        look_at(again, db);
        FUZZ_CHECK(!look->sound || again->sound);
        if (written) {
            store_expect_own(db, look);
        }
        rc = pleat_close(db, &err);
        FUZZ_CHECK_TEXT(rc == 0 || !look->sound, "%s", err.message);
    }
    FUZZ_CHECK(simfs_open_handles(fs) == 0);
}

static void store_run(struct simfs *fs, const struct mem *mem, uint8_t mode) {
    static struct look seen, look, again;
    struct pleat_options options = store_options(mode);
    struct pleat_db *db = NULL;
    uint64_t hash = simfs_hash(fs);
    int readable = store_open(fs, mem, options, true, &db);
    if (readable == 0) {
        look_at(&seen, db);
        FUZZ_CHECK(pleat_close(db, NULL) == 0);
    }
    FUZZ_CHECK(simfs_hash(fs) == hash && simfs_open_handles(fs) == 0);
    int rc = store_open(fs, mem, options, false, &db);
    if (rc == PLEAT_ERR_CORRUPT || rc == PLEAT_ERR_NEWER || rc == PLEAT_ERR_INVALID) {
        (void)simfs_remove_file(fs, PATH, DB_LOCK_NAME);
        FUZZ_CHECK(simfs_hash(fs) == hash);
    }
    if (rc == 0) {
        look_at(&look, db);
        FUZZ_CHECK(readable != 0 || !look.sound || !seen.sound || look.digest == seen.digest);
        store_live(fs, mem, &options, db, &look, &again);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct image image;
    struct fuzz_input input = {data, data + size};
    uint8_t mode = fuzz_u8(&input);
    image.count = image.bytes = 0;
    image_take(&image, &input);
    if ((mode & STORE_IMAGE_REPAIR) != 0) {
        image_repair(&image, (mode & STORE_IMAGE_DENSE) != 0);
    }
    struct simfs *fs = simfs_new(1);
    for (size_t i = 0; i < image.count; i++) {
        simfs_write_file(fs, PATH, image.files[i].name, image.files[i].content, image.files[i].bytes);
        free(image.files[i].content);
    }
    struct fuzz_mem memory;
    fuzz_mem_init(&memory, image.bytes, 600, 1 << 20);
    memory.mapped_bound = 8 << 20; /* addresses of arenas; touched as they fill */
    if (image.count > 0) {
        store_run(fs, &memory.mem, mode);
    }
    simfs_free(fs);
    fuzz_mem_fini(&memory);
    return 0;
}

#ifdef FUZZ_MUTATORS
/* Changes the bytes of one file, so that the files behind it stay where they are; now and then whatever comes. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    static uint8_t changed[STORE_IMAGE_FILE_BYTES_MAX];
    size_t starts[STORE_IMAGE_FILES_MAX], count = 0, at = 1;
    while (at + STORE_IMAGE_HEAD_BYTES <= size && count < STORE_IMAGE_FILES_MAX) {
        starts[count++] = at;
        at += STORE_IMAGE_HEAD_BYTES + load_u16(data + at + 2);
    }
    uint64_t draw = hash_mix(seed, 5);
    if (count == 0 || draw % 16 == 0) {
        return LLVMFuzzerMutate(data, size, max_size);
    }
    if (draw % 16 == 2) {
        data[starts[(draw >> 16) % count] + 1] = (uint8_t)(draw >> 24); /* another file number */
    }
    at = starts[(draw >> 8) % count] + STORE_IMAGE_HEAD_BYTES;
    size_t bytes = load_u16(data + at - 2);
    bytes = bytes < size - at ? bytes : size - at;
    size_t room = max_size - (size - bytes);
    room = room < sizeof changed ? room : sizeof changed;
    if (room < bytes || room == 0) {
        return LLVMFuzzerMutate(data, size, max_size);
    }
    memcpy(changed, data + at, bytes);
    size_t changed_bytes = LLVMFuzzerMutate(changed, bytes, room);
    memmove(data + at + changed_bytes, data + at + bytes, size - at - bytes);
    memcpy(data + at, changed, changed_bytes);
    store_u16(data + at - 2, (uint16_t)changed_bytes);
    if (draw % 16 == 1) {
        data[0] ^= (uint8_t)(1u << ((draw >> 16) % 3));
    }
    return size - bytes + changed_bytes;
}
#endif
