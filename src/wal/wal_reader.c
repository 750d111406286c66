/*
 * wal_reader.c - replay of one segment, and the question how it ends.
 *
 * Records are read in order and each is verified whole before it is handed out: header check, sequence rule, checksum,
 * and a decode of every entry and cursor. The valid part ends at the first place that does not verify; whether that
 * is a torn write or damage is decided above, from what wal_reader_end and later files say (W6).
 *
 *     [ header | marks | record | record | torn or damaged ...   a record that survived behind it   ... zero ]
 *                                ^ offset after PLEAT_END, where wal_reader_end scans from
 *
 *   A1  No byte of a record is handed out before its checksum was verified and all of it decoded.
 *   A2  After PLEAT_END the reader stays there.
 */
#include "wal/wal_format.h"
#include "wal/wal_scan.h"

#include "base/assert.h"
#include "base/error.h"

struct wal_reader {
    struct wal_window window;
    const struct mem *mem;
    char name[WAL_NAME_BYTES];
    struct wal_format_header header;
    uint64_t key;
    uint64_t offset; /* of the next record */
    struct wal_tail tail;
    uint64_t durable_sequence;
    bool ended;
};

static int wal_reader_read_header(struct wal_reader *reader, const uint8_t *store_id, uint64_t segment,
                                  struct pleat_error *err) {
    struct wal_window *window = &reader->window;
    if (window->bytes < WAL_HEADER_BYTES) {
        return PLEAT_END;
    }
    const uint8_t *bytes;
    size_t available;
    int rc = wal_window_hold(window, 0, WAL_HEADER_BYTES, &bytes, &available, err);
    if (rc != 0) {
        return rc;
    }
    if (load_u64(bytes) == 0) {
        return PLEAT_END; /* the magic is stored last */
    }
    rc = wal_format_header_decode(bytes, store_id, segment, reader->name, &reader->header, err);
    if (rc != 0) {
        return rc;
    }
    if (window->bytes > reader->header.reserved_bytes) {
        return error_corrupt(err, reader->name, WAL_AT_RESERVED, "bytes of the segment, at most",
                             reader->header.reserved_bytes, window->bytes);
    }
    reader->header.fields.missing_bytes = reader->header.reserved_bytes - window->bytes;
    reader->durable_sequence = wal_format_marked(bytes, reader->key);
    return 0;
}

int wal_reader_open(const struct vfs *vfs, struct vfs_dir *dir, const struct mem *mem, const uint8_t *store_id,
                    uint64_t segment, struct wal_reader **ret_reader, struct pleat_error *err) {
    ASSERT(segment != 0);
    struct wal_reader *reader = mem_zalloc(mem, 1, sizeof *reader);
    if (reader == NULL) {
        return error_no_memory(err, "log reader", sizeof *reader);
    }
    reader->mem = mem;
    reader->key = wal_format_key(store_id, segment);
    wal_name(segment, reader->name);
    int rc = wal_window_open(&reader->window, vfs, dir, mem, reader->name, err);
    if (rc == 0) {
        rc = wal_reader_read_header(reader, store_id, segment, err);
    }
    if (rc != 0) {
        wal_reader_close(reader);
        return rc;
    }
    reader->offset = WAL_HEADER_BYTES;
    reader->tail = (struct wal_tail){segment, reader->header.fields.first_sequence - 1, reader->header.checksum};
    *ret_reader = reader;
    return 0;
}

void wal_reader_close(struct wal_reader *reader) {
    if (reader != NULL) {
        wal_window_close(&reader->window);
        mem_free(reader->mem, reader);
    }
}

const struct wal_header *wal_reader_header(const struct wal_reader *reader) {
    return &reader->header.fields;
}

struct wal_tail wal_reader_tail(const struct wal_reader *reader) {
    return reader->tail;
}

uint64_t wal_reader_offset(const struct wal_reader *reader) {
    return reader->offset;
}

/* Whether all entries and cursors decode, and fill the record exactly. The view is a copy, which this consumes. */
static bool wal_reader_decodes(struct wal_view view, const uint8_t *record_end) {
    if (view.entry_count > (uint64_t)(view.entries_end - view.entries) / WAL_ENTRY_BYTES_MIN ||
        view.cursor_count > (uint64_t)(view.cursors_end - view.cursors) / WAL_CURSOR_BYTES_MIN ||
        view.cursor_count > LIMIT_CURSORS) {
        return false;
    }
    struct entry entry;
    uint32_t space;
    int rc;
    do {
        rc = wal_view_entry(&view, &space, &entry);
    } while (rc == 0);
    if (rc != PLEAT_END) {
        return false;
    }
    struct wal_cursor cursor;
    do {
        rc = wal_view_cursor(&view, &cursor);
    } while (rc == 0);
    if (rc != PLEAT_END) {
        return false;
    }
    for (const uint8_t *p = view.cursors; p < record_end; p++) {
        if (*p != 0) {
            return false;
        }
    }
    return true;
}

/* W1: the next sequence, or one before which nothing is missing that the manifest does not hold. */
static bool wal_reader_follows(const struct wal_reader *reader, uint64_t sequence, uint64_t floor) {
    uint64_t expected = reader->tail.last_sequence + 1;
    return sequence == expected || (sequence > expected && sequence - 1 <= floor) || MUTATION(wal_dense);
}

int wal_reader_next(struct wal_reader *reader, uint64_t floor, struct wal_view *ret_view, struct pleat_error *err) {
    struct wal_window *window = &reader->window;
    uint64_t rest = window->bytes - reader->offset;
    struct wal_format_record record;
    const uint8_t *p;
    size_t available;
    if (reader->ended || rest < WAL_RECORD_HEADER_BYTES) {
        reader->ended = true;
        return PLEAT_END;
    }
    int rc = wal_window_hold(window, reader->offset, WAL_RECORD_HEADER_BYTES, &p, &available, err);
    if (rc != 0) {
        return rc;
    }
    if (!wal_format_record_decode(p, rest, reader->key, &record) ||
        !wal_reader_follows(reader, record.sequence, floor)) {
        reader->ended = true;
        return PLEAT_END;
    }
    rc = wal_window_hold(window, reader->offset, record.bytes, &p, &available, err);
    if (rc != 0) {
        return rc;
    }
    uint64_t payload_bytes = record.bytes - WAL_RECORD_HEADER_BYTES;
    if (wal_format_payload_checksum(p + WAL_RECORD_HEADER_BYTES, payload_bytes, record.check) != record.checksum &&
        !MUTATION(wal_payload_checksum)) {
        reader->ended = true;
        return PLEAT_END;
    }
    const uint8_t *end = p + record.bytes;
    struct wal_view view = {
        .entries = p + WAL_RECORD_HEADER_BYTES,
        .entries_end = end - record.padding - record.cursors_bytes,
        .cursors = end - record.padding - record.cursors_bytes,
        .cursors_end = end - record.padding,
        .entry_count = record.entries,
        .cursor_count = record.cursors,
        .sequence = record.sequence,
        .durable_sequence = record.durable_sequence,
    };
    if (!wal_reader_decodes(view, end) && !MUTATION(wal_decodes)) {
        return error_corrupt(err, reader->name, reader->offset, "log record that decodes, of entries", record.entries,
                             record.sequence);
    }
    reader->offset += record.bytes;
    reader->tail.last_sequence = record.sequence;
    reader->tail.running_hash = hash_mix(reader->tail.running_hash, record.checksum);
    if (record.durable_sequence > reader->durable_sequence) {
        reader->durable_sequence = record.durable_sequence;
    }
    *ret_view = view;
    return 0;
}

int wal_reader_end(struct wal_reader *reader, struct wal_end *ret_end, struct pleat_error *err) {
    ASSERT(reader->ended);
    struct wal_scan scan = {0};
    int rc = MUTATION(wal_end_scan) ? 0
                                    : wal_scan(&reader->window, reader->name, reader->offset, reader->key,
                                               reader->tail.last_sequence, &scan, err);
    if (rc != 0) {
        return rc;
    }
    *ret_end = (struct wal_end){
        .tail = reader->tail,
        .offset = reader->offset,
        .torn = scan.any_byte,
        .record_behind = scan.any_record,
        .durable_sequence = scan.durable_sequence > reader->durable_sequence ? scan.durable_sequence
                                                                             : reader->durable_sequence,
    };
    return 0;
}

int wal_segment_probe(const struct vfs *vfs, struct vfs_dir *dir, const struct mem *mem, const uint8_t *store_id,
                      uint64_t segment, uint64_t *ret_durable_sequence, bool *ret_any_record,
                      struct pleat_error *err) {
    char name[WAL_NAME_BYTES];
    wal_name(segment, name);
    struct wal_window window;
    struct wal_scan scan = {0};
    const uint8_t *header;
    size_t available;
    uint64_t marked = 0;
    int rc = wal_window_open(&window, vfs, dir, mem, name, err);
    if (rc == 0 && window.bytes >= WAL_HEADER_BYTES) {
        rc = wal_window_hold(&window, 0, WAL_HEADER_BYTES, &header, &available, err);
        marked = rc == 0 ? wal_format_marked(header, wal_format_key(store_id, segment)) : 0;
    }
    if (rc == 0 && !MUTATION(wal_probe)) {
        rc = wal_scan(&window, name, WAL_HEADER_BYTES, wal_format_key(store_id, segment), 0, &scan, err);
    }
    wal_window_close(&window);
    if (rc == 0) {
        *ret_durable_sequence = scan.durable_sequence > marked ? scan.durable_sequence : marked;
        *ret_any_record = scan.any_record;
    }
    return rc;
}
