/*
 * wal_disk.h - one log segment in memory behind struct vfs, and records that are a pure function of their number.
 *
 * The image can be changed byte by byte between writing and reading, which is what the tests of damage need, and any
 * call can be made to fail. It is no simulated disk: nothing is ever lost in it.
 */
#ifndef PLEAT_TESTS_WAL_DISK_H
#define PLEAT_TESTS_WAL_DISK_H

#include "base/bytes.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/limits.h"
#include "support/failmem.h"
#include "support/random.h"
#include "wal/wal.h"
#include "wal/wal_format.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <sys/mman.h>

struct wal_disk {
    struct vfs vfs;
    struct vfs_log log;
    uint8_t *bytes; /* shared with forked children */
    size_t capacity;
    size_t size;      /* what a reader sees as the file's size; 0 before creation */
    uint64_t calls;   /* that can fail, so far */
    uint64_t fail_at; /* the call that fails; 0: none */
    int open_handles;
    int unlinks;
};

static struct wal_disk *wal_disk_of(const void *handle) {
    return (struct wal_disk *)(uintptr_t)handle;
}

static int wal_disk_step(struct wal_disk *disk, struct pleat_error *err) {
    disk->calls++;
    return disk->calls == disk->fail_at ? error_set(err, PLEAT_ERR_IO, 5, "planned failure") : 0;
}

static int wal_disk_unlink(struct vfs_dir *dir, const char *name, struct pleat_error *err) {
    (void)name, (void)err;
    wal_disk_of(dir)->unlinks++;
    wal_disk_of(dir)->size = 0;
    return 0;
}

static int wal_disk_file_open(struct vfs_dir *dir, const char *name, enum vfs_file_mode how, uint32_t mode,
                              struct vfs_file **ret_file, struct pleat_error *err) {
    (void)name, (void)how, (void)mode;
    int rc = wal_disk_step(wal_disk_of(dir), err);
    if (rc == 0) {
        wal_disk_of(dir)->open_handles++;
        *ret_file = (struct vfs_file *)(void *)dir;
    }
    return rc;
}

static void wal_disk_file_close(struct vfs_file *file) {
    wal_disk_of(file)->open_handles--;
}

static int wal_disk_file_read(struct vfs_file *file, uint64_t offset, void *buffer, size_t n,
                              struct pleat_error *err) {
    struct wal_disk *disk = wal_disk_of(file);
    cr_assert(offset <= disk->size && n <= disk->size - offset, "a read beyond the file");
    int rc = wal_disk_step(disk, err);
    if (rc == 0 && n > 0) {
        memcpy(buffer, disk->bytes + offset, n);
    }
    return rc;
}

static int wal_disk_file_size(struct vfs_file *file, uint64_t *ret_bytes, struct pleat_error *err) {
    *ret_bytes = wal_disk_of(file)->size;
    return wal_disk_step(wal_disk_of(file), err);
}

/* Holes to the byte. */
static uint64_t wal_disk_file_next_data(struct vfs_file *file, uint64_t offset) {
    const struct wal_disk *disk = wal_disk_of(file);
    while (offset < disk->size && disk->bytes[offset] == 0) {
        offset++;
    }
    return offset;
}

static int wal_disk_log_create(struct vfs_dir *dir, const char *name, uint64_t bytes, bool by_write, uint32_t mode,
                               struct vfs_log **ret_log, struct pleat_error *err) {
    (void)name, (void)by_write, (void)mode;
    struct wal_disk *disk = wal_disk_of(dir);
    cr_assert_leq(bytes, disk->capacity);
    int rc = wal_disk_step(disk, err);
    if (rc == 0) {
        memset(disk->bytes, 0, (size_t)bytes);
        disk->size = (size_t)bytes;
        disk->log = (struct vfs_log){.vfs = &disk->vfs, .base = disk->bytes, .bytes = (size_t)bytes};
        disk->open_handles++;
        *ret_log = &disk->log;
    }
    return rc;
}

static int wal_disk_log_publish(struct vfs_log *log, uint64_t offset, size_t n, struct pleat_error *err) {
    cr_assert(offset <= log->bytes && n <= log->bytes - offset);
    return wal_disk_step(log->vfs->context, err);
}

static int wal_disk_log_sync(struct vfs_log *log, struct pleat_error *err) {
    return wal_disk_step(log->vfs->context, err);
}

static void wal_disk_log_note(struct vfs_log *log, uint64_t offset, size_t n) {
    cr_assert(offset <= log->bytes && n <= log->bytes - offset);
}

static void wal_disk_log_prepare(struct vfs_log *log, uint64_t offset) {
    cr_assert_leq(offset, log->bytes);
}

static void wal_disk_log_close(struct vfs_log *log) {
    wal_disk_of(log->vfs->context)->open_handles--;
}

static inline void wal_disk_init(struct wal_disk *disk, size_t capacity) {
    *disk = (struct wal_disk){.capacity = capacity};
    disk->vfs = (struct vfs){
        .dir_unlink = wal_disk_unlink,
        .file_open = wal_disk_file_open,
        .file_close = wal_disk_file_close,
        .file_read = wal_disk_file_read,
        .file_size = wal_disk_file_size,
        .file_next_data = wal_disk_file_next_data,
        .log_create = wal_disk_log_create,
        .log_publish = wal_disk_log_publish,
        .log_sync = wal_disk_log_sync,
        .log_note = wal_disk_log_note,
        .log_prepare = wal_disk_log_prepare,
        .log_close = wal_disk_log_close,
        .context = disk,
    };
    disk->bytes = mmap(NULL, capacity, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(disk->bytes, MAP_FAILED);
}

static inline void wal_disk_fini(struct wal_disk *disk) {
    cr_assert_eq(disk->open_handles, 0, "every handle was closed");
    munmap(disk->bytes, disk->capacity);
}

static inline struct vfs_dir *wal_disk_dir(struct wal_disk *disk) {
    return (struct vfs_dir *)(void *)disk;
}

/* ---- records ---------------------------------------------------------------------------------------------------- */

static const uint8_t sample_store[WAL_STORE_ID_BYTES] = "store number one";

/* Fills the record that has this number; `scale` bounds its sizes. */
static inline void sample_fill(struct wal_record *record, uint64_t number, uint32_t scale) {
    struct random random = {hash_mix(number, 77)};
    uint8_t noise[256];
    for (size_t i = 0; i < sizeof noise; i++) {
        noise[i] = (uint8_t)random_next(&random);
    }
    wal_record_clear(record);
    uint64_t entries = random_below(&random, 4);
    for (uint64_t i = 0; i < entries; i++) {
        uint64_t bits = random_next(&random);
        struct entry entry = {
            .key = noise + (bits & 15),
            .key_bytes = (uint32_t)random_below(&random, scale < 200 ? scale : 200),
            .kind = (bits & 16) != 0 ? ENTRY_DELETE : ENTRY_PUT,
            .has_flag = (bits & 32) != 0,
            .flag = (bits & 32) != 0 ? noise[0] : 0,
            .version = (bits & 64) != 0 ? noise + 100 : NULL,
            .version_bytes = (bits & 64) != 0 ? 8 : 0,
            .deadline_ms = (bits & 128) != 0 ? bits | 1 : 0,
        };
        void *room = NULL;
        if (entry.kind == ENTRY_PUT) {
            entry.value_bytes = (uint32_t)random_below(&random, scale);
        }
        cr_assert_eq(wal_record_add(record, (uint32_t)(bits >> 40), &entry, &room, NULL), 0);
        for (uint32_t k = 0; k < entry.value_bytes; k++) {
            ((uint8_t *)room)[k] = noise[(k + i) & 255];
        }
    }
    if ((number & 1) != 0) {
        struct wal_cursor cursor = {.value = noise, .value_bytes = (uint32_t)random_below(&random, 32)};
        cr_assert_eq(wal_record_set_cursor(record, &cursor, NULL), 0);
    }
}

/* Asserts that the view is the record of that number. */
static inline void sample_check(const struct wal_view *view, uint64_t number, uint32_t scale) {
    struct wal_record record;
    struct wal_view wanted;
    wal_record_init(&record, &mem_system);
    sample_fill(&record, number, scale);
    wal_record_view(&record, &wanted);
    size_t entries_bytes = (size_t)(wanted.entries_end - wanted.entries);
    size_t cursors_bytes = (size_t)(wanted.cursors_end - wanted.cursors);
    cr_assert_eq(view->entry_count, wanted.entry_count);
    cr_assert_eq(view->cursor_count, wanted.cursor_count);
    cr_assert_eq((size_t)(view->entries_end - view->entries), entries_bytes);
    cr_assert_eq((size_t)(view->cursors_end - view->cursors), cursors_bytes);
    cr_assert(entries_bytes == 0 || memcmp(view->entries, wanted.entries, entries_bytes) == 0);
    cr_assert(cursors_bytes == 0 || memcmp(view->cursors, wanted.cursors, cursors_bytes) == 0);
    wal_record_fini(&record);
}

static inline struct wal_writer_options sample_options(struct wal_disk *disk, uint64_t segment, size_t bytes) {
    return (struct wal_writer_options){
        .vfs = &disk->vfs,
        .dir = wal_disk_dir(disk),
        .mem = &mem_system,
        .store_id = sample_store,
        .segment = segment,
        .bytes = bytes,
        .first_sequence = 1,
        .file_mode = 0600,
    };
}

/* Appends the sample records of these sequences, each known durable up to the one `lag` before it. */
static inline void sample_append(struct wal_writer *writer, uint64_t first, uint64_t last, uint32_t scale,
                                 uint64_t lag) {
    struct wal_record record;
    wal_record_init(&record, &mem_system);
    for (uint64_t sequence = first; sequence <= last; sequence++) {
        sample_fill(&record, sequence, scale);
        uint64_t durable = sequence > lag ? sequence - lag : 0;
        cr_assert_eq(wal_writer_append(writer, &record, sequence, durable, NULL), 0);
    }
    wal_record_fini(&record);
}

/* Writes a segment with the sample records 1..count. */
static inline struct wal_tail sample_segment(struct wal_disk *disk, uint64_t segment, size_t bytes, uint64_t count,
                                             uint32_t scale, uint64_t lag) {
    struct wal_writer_options options = sample_options(disk, segment, bytes);
    struct wal_writer *writer = NULL;
    cr_assert_eq(wal_writer_create(&options, &writer, NULL), 0);
    sample_append(writer, 1, count, scale, lag);
    struct wal_tail tail = wal_writer_tail(writer);
    wal_writer_close(writer);
    return tail;
}

static inline int sample_open(struct wal_disk *disk, uint64_t segment, struct wal_reader **ret_reader,
                              struct pleat_error *err) {
    return wal_reader_open(&disk->vfs, wal_disk_dir(disk), &mem_system, sample_store, segment, ret_reader, err);
}

/* Reads to the end, asserting that what comes are the sample records 1, 2, ...; returns the last status. */
static inline int sample_read(struct wal_reader *reader, uint32_t scale, uint64_t *ret_count,
                              struct pleat_error *err) {
    struct wal_view view;
    uint64_t count = 0;
    int rc;
    while ((rc = wal_reader_next(reader, 0, &view, err)) == 0) {
        count++;
        cr_assert_eq(view.sequence, count);
        sample_check(&view, count, scale);
    }
    *ret_count = count;
    return rc;
}

#endif
