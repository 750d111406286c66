/*
 * wal_writer.c - one segment being written.
 *
 * An append copies the record behind the end with its length still zero, checksums it where it lies, and then stores
 * the length: a process that dies in between leaves bytes that no reader takes for a record. The segment was reserved
 * and zeroed when it was created, or has the file of a dead one (W5), and nothing here runs out of space where a
 * reservation holds. Elsewhere an append may: the storage undoes it, and the next one begins at the same place.
 *
 *     [ header | marks | record | record | ...   used ^   zero, or old   ...    bytes ^ ]
 *
 * Threads: one at a time appends. Beside it, others may sync and prepare: they touch only what is frozen while a
 * segment lives, and `used`.
 */
#include "wal/wal_format.h"

#include "base/assert.h"
#include "base/error.h"

#include <stdatomic.h>

struct wal_writer {
    /* frozen; the key until wal_writer_renew */
    const struct vfs *vfs;
    const struct mem *mem;
    struct vfs_log *log;
    uint64_t key; /* of the segment's records */
    uint64_t bytes;
    /* stored by the appending thread, read by any */
    _Atomic uint64_t used;
    /* owned by the appending thread */
    struct wal_tail tail;
    bool failed;
    /* owned by the marking thread */
    unsigned marks;
};

/* Stores the header with its magic last, for the same reason as a record's length (W4). Returns its checksum. */
static uint64_t wal_writer_lay_header(const struct wal_writer_options *options, uint8_t *place) {
    struct wal_format_header header = {
        .fields = {
            .segment = options->segment,
            .predecessor = options->predecessor,
            .first_sequence = options->first_sequence,
            .edition = options->edition,
        },
        .reserved_bytes = options->bytes,
    };
    uint8_t bytes[WAL_HEADER_BYTES];
    wal_format_header_encode(&header, options->store_id, bytes);
    memcpy(place + 8, bytes + 8, WAL_AT_MARKS - 8);
    /* Release; its partner is whoever opens the file after this process was killed. */
    _Atomic uint64_t *magic = (_Atomic uint64_t *)(void *)place;
    atomic_store_explicit(magic, LE64(WAL_MAGIC), memory_order_release);
    return header.checksum;
}

int wal_writer_reserve(const struct wal_writer_options *options, struct wal_writer **ret_writer,
                       struct pleat_error *err) {
    ASSERT(options->bytes >= WAL_HEADER_BYTES);
    char name[WAL_NAME_BYTES];
    wal_name(options->segment, name);
    struct wal_writer *writer = mem_zalloc(options->mem, 1, sizeof *writer);
    if (writer == NULL) {
        return error_no_memory(err, "log segment", sizeof *writer);
    }
    int rc = options->vfs->log_create(options->dir, name, options->bytes, options->by_write, options->file_mode,
                                      &writer->log, err);
    if (rc != 0) {
        mem_free(options->mem, writer);
        return rc;
    }
    writer->vfs = options->vfs;
    writer->mem = options->mem;
    writer->key = wal_format_key(options->store_id, options->segment);
    writer->bytes = options->bytes;
    writer->tail = (struct wal_tail){.segment = options->segment};
    atomic_init(&writer->used, WAL_HEADER_BYTES);
    *ret_writer = writer;
    return 0;
}

int wal_writer_begin(struct wal_writer *writer, const struct wal_writer_options *options, struct pleat_error *err) {
    ASSERT(options->segment == writer->tail.segment && options->bytes == writer->bytes);
    ASSERT(options->segment > options->predecessor.segment);
    ASSERT(options->first_sequence > options->predecessor.last_sequence);
    ASSERT(writer->tail.last_sequence == 0); /* not begun, or with the first sequence, and nothing appended */
    uint64_t checksum = wal_writer_lay_header(options, writer->log->base);
    writer->tail = (struct wal_tail){options->segment, options->first_sequence - 1, checksum};
    return writer->vfs->log_publish(writer->log, 0, WAL_HEADER_BYTES, err);
}

int wal_writer_create(const struct wal_writer_options *options, struct wal_writer **ret_writer,
                      struct pleat_error *err) {
    struct wal_writer *writer = NULL;
    int rc = wal_writer_reserve(options, &writer, err);
    if (rc != 0) {
        return rc;
    }
    rc = wal_writer_begin(writer, options, err);
    if (rc != 0) {
        /* Best effort: should the file stay, whoever continues the log must remove it before the next segment. */
        (void)wal_writer_remove(writer, options->dir, NULL);
        return rc;
    }
    *ret_writer = writer;
    return 0;
}

bool wal_writer_can_renew(const struct wal_writer *writer, uint64_t bytes) {
    return writer->log->is_mapped && writer->bytes == bytes && !writer->failed;
}

int wal_writer_renew(struct wal_writer *writer, const struct wal_writer_options *options, struct pleat_error *err) {
    ASSERT(wal_writer_can_renew(writer, options->bytes));
    ASSERT(options->segment > writer->tail.segment);
    char name[WAL_NAME_BYTES];
    wal_name(options->segment, name);
    memset(writer->log->base, 0, WAL_HEADER_BYTES);
    int rc = writer->vfs->log_publish(writer->log, 0, WAL_HEADER_BYTES, err);
    rc = rc < 0 ? rc : writer->vfs->log_rename(options->dir, writer->log, name, err);
    if (rc < 0) {
        return rc;
    }
    writer->key = MUTATION(wal_renew_key) ? writer->key : wal_format_key(options->store_id, options->segment);
    writer->tail = (struct wal_tail){.segment = options->segment};
    writer->marks = 0;
    atomic_store_explicit(&writer->used, WAL_HEADER_BYTES, memory_order_relaxed); /* nobody else is inside */
    return 0;
}

int wal_writer_remove(struct wal_writer *writer, struct vfs_dir *dir, struct pleat_error *err) {
    const struct vfs *vfs = writer->vfs;
    char name[WAL_NAME_BYTES];
    wal_name(writer->tail.segment, name);
    ASSERT(wal_writer_used(writer) == WAL_HEADER_BYTES); /* no record is thrown away */
    wal_writer_close(writer);
    int rc = vfs->dir_unlink(dir, name, err);
    if (rc == PLEAT_ERR_NOT_FOUND) {
        error_clear(err);
        rc = 0;
    }
    return rc;
}

void wal_writer_close(struct wal_writer *writer) {
    if (writer == NULL) {
        return;
    }
    writer->vfs->log_close(writer->log);
    mem_free(writer->mem, writer);
}

/* Relaxed: the value alone matters; the appending thread reads back its own store. */
uint64_t wal_writer_used(const struct wal_writer *writer) {
    return atomic_load_explicit(&writer->used, memory_order_relaxed);
}

bool wal_writer_fits(const struct wal_writer *writer, uint64_t record_bytes) {
    return record_bytes <= writer->bytes - wal_writer_used(writer);
}

void wal_writer_copy(struct wal_writer *writer, const struct wal_record *record, uint64_t sequence,
                     uint64_t durable_sequence, struct wal_append *ret_append) {
    uint64_t bytes = wal_record_bytes(record);
    uint64_t offset = wal_writer_used(writer);
    ASSERT(sequence > writer->tail.last_sequence && sequence < UINT64_MAX); /* W1 */
    ASSERT(durable_sequence < sequence);                                    /* W6 */
    ASSERT(wal_writer_fits(writer, bytes));
    struct wal_format_record format = {
        .bytes = bytes,
        .sequence = sequence,
        .durable_sequence = MUTATION(wal_durable_mark) ? 0 : durable_sequence,
        .entries = record->entries,
        .cursors_bytes = (uint32_t)record->cursors_used,
        .cursors = (uint16_t)record->cursor_count,
        .padding = (uint8_t)(bytes - record->used - record->cursors_used),
    };
    uint8_t *place = writer->log->base + offset;
    uint8_t header[WAL_RECORD_CHECKED_BYTES];
    wal_format_record_encode(&format, writer->key, header);
    store_u32(place, 0); /* W4, also where an earlier segment left bytes */
    memcpy(place + 4, header + 4, WAL_RECORD_CHECKED_BYTES - 4);
    store_u64(place + 32, format.check);
    size_t entries_bytes = record->used - WAL_RECORD_HEADER_BYTES;
    uint8_t *payload = place + WAL_RECORD_HEADER_BYTES;
    if (entries_bytes > 0) {
        memcpy(payload, record->bytes + WAL_RECORD_HEADER_BYTES, entries_bytes);
    }
    if (record->cursors_used > 0) {
        memcpy(payload + entries_bytes, record->cursors, record->cursors_used);
    }
    memset(place + bytes - format.padding, 0, format.padding); /* an earlier segment may have left bytes there */
    *ret_append = (struct wal_append){.bytes = bytes, .sequence = sequence, .check = format.check};
}

int wal_writer_seal(struct wal_writer *writer, const struct wal_append *append, struct pleat_error *err) {
    uint64_t offset = wal_writer_used(writer);
    uint64_t bytes = append->bytes;
    uint8_t *place = writer->log->base + offset;
    if (writer->failed) {
        return error_set(err, PLEAT_ERR_IO, 0, "an earlier append to this log segment failed");
    }
    uint64_t checksum = wal_format_payload_checksum(place + WAL_RECORD_HEADER_BYTES, bytes - WAL_RECORD_HEADER_BYTES,
                                                    append->check);
    store_u64(place + 40, checksum);
    /* W4. Release; its partner is whoever opens the file after this process was killed at any instruction: when that
     * reader finds the length, it finds everything stored before it. */
    _Atomic uint32_t *length = (_Atomic uint32_t *)(void *)place;
    atomic_store_explicit(length, LE32((uint32_t)(bytes / WAL_RECORD_ALIGNMENT)), memory_order_release);
    int rc = writer->vfs->log_publish(writer->log, offset, (size_t)bytes, err);
    if (rc == PLEAT_ERR_NO_SPACE) {
        memset(place, 0, (size_t)bytes); /* W5: nothing of it is in the file either */
        return rc;
    }
    if (rc != 0) {
        /* Any part of it may be in the file; a record behind it could never be told from one behind a hole. */
        writer->failed = !MUTATION(wal_append_failed);
        return rc;
    }
    writer->tail.last_sequence = append->sequence;
    writer->tail.running_hash = hash_mix(writer->tail.running_hash, checksum);
    /* Relaxed; read by wal_writer_prepare, for which any recent value will do. */
    atomic_store_explicit(&writer->used, offset + bytes, memory_order_relaxed);
    return 0;
}

int wal_writer_append(struct wal_writer *writer, const struct wal_record *record, uint64_t sequence,
                      uint64_t durable_sequence, struct pleat_error *err) {
    struct wal_append append;
    wal_writer_copy(writer, record, sequence, durable_sequence, &append);
    return wal_writer_seal(writer, &append, err);
}

int wal_writer_sync(struct wal_writer *writer, struct pleat_error *err) {
    return writer->vfs->log_sync(writer->log, err);
}

void wal_writer_mark(struct wal_writer *writer, uint64_t sequence) {
    uint64_t offset = WAL_AT_MARKS + writer->marks++ % WAL_MARKS * WAL_MARK_BYTES;
    wal_format_mark_encode(sequence, writer->key, writer->log->base + offset);
    writer->vfs->log_note(writer->log, offset, WAL_MARK_BYTES);
}

struct wal_tail wal_writer_tail(const struct wal_writer *writer) {
    return writer->tail;
}

uint64_t wal_writer_number(const struct wal_writer *writer) {
    return writer->tail.segment;
}

void wal_writer_prepare(struct wal_writer *writer, uint64_t ahead_bytes) {
    uint64_t used = wal_writer_used(writer);
    uint64_t ahead = ahead_bytes < writer->bytes - used ? ahead_bytes : writer->bytes - used;
    writer->vfs->log_prepare(writer->log, used + ahead);
}
