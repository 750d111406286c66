/*
 * wal_scan.c - see wal_scan.h.
 *
 *   C1  A hold never allocates more than the file has bytes behind the offset, or the window's first size.
 *   C2  Records that validate do not overlap: the scan goes on behind them. A header that validates in front of a
 *       damaged payload costs a pass over that payload. Our writer makes few of those and never overlapping ones, so
 *       the passes together are bounded (SCAN_PASSES_MAX times the file); more of them is a crafted file.
 *   C3  A hole is not read: it is zero, and no record begins with zeroes. Only evidence is looked for here; records
 *       that are to be applied are read whatever the file system says.
 */
#include "wal/wal_scan.h"

#include "base/assert.h"
#include "base/error.h"

#define WINDOW_BYTES (1u << 20)
#define SCAN_PASSES_MAX 4u

int wal_window_open(struct wal_window *window, const struct vfs *vfs, struct vfs_dir *dir, const struct mem *mem,
                    const char *name, struct pleat_error *err) {
    *window = (struct wal_window){.vfs = vfs, .mem = mem};
    int rc = vfs->file_open(dir, name, VFS_FILE_READ, 0, &window->file, err);
    if (rc != 0) {
        window->file = NULL;
        return rc;
    }
    return vfs->file_size(window->file, &window->bytes, err);
}

void wal_window_close(struct wal_window *window) {
    if (window->file != NULL) {
        window->vfs->file_close(window->file);
        window->file = NULL;
    }
    mem_free(window->mem, window->buffer);
    window->buffer = NULL;
}

/* Makes room for n bytes; what is held stays. C1: n is no more than the file has. */
static int wal_window_grow(struct wal_window *window, uint64_t n, struct pleat_error *err) {
    uint64_t capacity = window->bytes < WINDOW_BYTES ? window->bytes : WINDOW_BYTES;
    if (capacity < n) {
        capacity = n;
    }
    uint8_t *buffer = capacity <= SIZE_MAX ? mem_resize(window->mem, window->buffer, (size_t)capacity) : NULL;
    if (buffer == NULL) {
        return error_no_memory(err, "log window", capacity);
    }
    window->buffer = buffer;
    window->capacity = (size_t)capacity;
    return 0;
}

int wal_window_hold(struct wal_window *window, uint64_t offset, uint64_t n, const uint8_t **ret_bytes,
                    size_t *ret_available, struct pleat_error *err) {
    ASSERT(n > 0 && offset <= window->bytes && n <= window->bytes - offset);
    uint64_t end = window->start + window->held;
    bool inside = offset >= window->start && offset <= end;
    if (!inside || n > end - offset) {
        if (n > window->capacity) {
            int rc = wal_window_grow(window, n, err);
            if (rc != 0) {
                return rc;
            }
        }
        size_t kept = inside ? (size_t)(end - offset) : 0;
        if (kept > 0) {
            memmove(window->buffer, window->buffer + (offset - window->start), kept);
        }
        window->start = offset;
        window->held = kept;
        uint64_t rest = window->bytes - offset - kept;
        size_t wanted = rest < window->capacity - kept ? (size_t)rest : window->capacity - kept;
        int rc = window->vfs->file_read(window->file, offset + kept, window->buffer + kept, wanted, err);
        if (rc != 0) {
            return rc;
        }
        window->held += wanted;
    }
    *ret_bytes = window->buffer + (offset - window->start);
    *ret_available = (size_t)(window->start + window->held - offset);
    return 0;
}

/* C3. Where the next record may begin, at or behind `offset`: beyond what the file system knows as a hole, so that a
 * segment that was made ahead, or the rest of one that has just begun, is not read page by page. */
static uint64_t wal_window_skip(const struct wal_window *window, uint64_t offset) {
    bool is_held = offset >= window->start && offset + WAL_RECORD_HEADER_BYTES <= window->start + window->held;
    if (is_held || offset >= window->bytes) {
        return offset;
    }
    uint64_t data = window->vfs->file_next_data(window->file, offset);
    data = data < window->bytes ? data : window->bytes;
    data -= data % WAL_RECORD_ALIGNMENT; /* a record begins with its length, which is not zero */
    return data > offset ? data : offset;
}

/* Whether 64 bytes are zero: nearly all of what lies behind the end of a log is. */
static bool wal_scan_is_blank(const uint8_t *p) {
    uint64_t any = 0;
    for (size_t i = 0; i < 64; i += 8) {
        any |= load_u64(p + i);
    }
    return any == 0;
}

/* Steps over multiples of 8 in [p, p + n) to the first that is a record header of a sequence above the given one, or
 * to the last place where a header would still fit into n. Returns the bytes stepped over. `rest` counts from p. */
static size_t wal_scan_step(const uint8_t *p, size_t n, uint64_t rest, uint64_t key, uint64_t above_sequence,
                            struct wal_scan *scan, struct wal_format_record *ret_record, bool *ret_found) {
    size_t at = 0;
    *ret_found = false;
    while (at + WAL_RECORD_HEADER_BYTES <= n) {
        while (at + 64 + WAL_RECORD_HEADER_BYTES <= n && wal_scan_is_blank(p + at)) {
            at += 64;
        }
        if (load_u64(p + at) != 0) {
            scan->any_byte = true;
            if (wal_format_record_decode(p + at, rest - at, key, ret_record) && ret_record->sequence > above_sequence) {
                *ret_found = true;
                return at;
            }
        }
        at += WAL_RECORD_ALIGNMENT;
    }
    return at;
}

int wal_scan(struct wal_window *window, const char *name, uint64_t offset, uint64_t key, uint64_t above_sequence,
             struct wal_scan *ret_scan, struct pleat_error *err) {
    ASSERT(offset % WAL_RECORD_ALIGNMENT == 0);
    struct wal_scan scan = {0};
    uint64_t passed = 0;
    const uint8_t *p;
    size_t available;
    while (offset < window->bytes && window->bytes - offset >= WAL_RECORD_HEADER_BYTES) {
        uint64_t next = wal_window_skip(window, offset);
        if (next > offset) {
            offset = next;
            continue;
        }
        int rc = wal_window_hold(window, offset, WAL_RECORD_HEADER_BYTES, &p, &available, err);
        if (rc != 0) {
            return rc;
        }
        struct wal_format_record record;
        bool found;
        offset += wal_scan_step(p, available, window->bytes - offset, key, above_sequence, &scan, &record, &found);
        if (!found) {
            continue;
        }
        passed += record.bytes;
        if (passed / SCAN_PASSES_MAX > window->bytes) {
            return error_corrupt(err, name, offset, "bytes of overlapping log records, at most",
                                 window->bytes * SCAN_PASSES_MAX, passed);
        }
        rc = wal_window_hold(window, offset, record.bytes, &p, &available, err);
        if (rc != 0) {
            return rc;
        }
        uint64_t payload_bytes = record.bytes - WAL_RECORD_HEADER_BYTES;
        if (wal_format_payload_checksum(p + WAL_RECORD_HEADER_BYTES, payload_bytes, record.check) != record.checksum &&
            !MUTATION(wal_scan_checksum)) {
            offset += WAL_RECORD_ALIGNMENT;
            continue;
        }
        scan.any_record = true;
        if (record.durable_sequence > scan.durable_sequence) {
            scan.durable_sequence = record.durable_sequence;
        }
        offset += record.bytes;
    }
    if (offset < window->bytes) {
        int rc = wal_window_hold(window, offset, window->bytes - offset, &p, &available, err);
        if (rc != 0) {
            return rc;
        }
        for (size_t i = 0; i < window->bytes - offset; i++) {
            scan.any_byte = scan.any_byte || p[i] != 0;
        }
    }
    *ret_scan = scan;
    return 0;
}
