/*
 * wal_scan.h - a segment's file through a window, and the search for records in bytes that nothing vouches for.
 * Private to src/wal.
 *
 * The window is one buffer of 1 MiB (less for a smaller file), which grows only to hold a record whose header was
 * checked and whose length the file has. Bytes handed out stay valid until the next hold.
 */
#ifndef PLEAT_WAL_WAL_SCAN_H
#define PLEAT_WAL_WAL_SCAN_H

#include "wal/wal_format.h"

struct wal_window {
    const struct vfs *vfs;
    const struct mem *mem;
    struct vfs_file *file;
    uint64_t bytes; /* of the file that may be looked at */
    uint8_t *buffer;
    size_t capacity;
    uint64_t start; /* file offset of buffer[0] */
    size_t held;    /* bytes in the buffer */
};

/* Opens the file `name`. wal_window_close is allowed after a failure, and on a zeroed window. */
int wal_window_open(struct wal_window *window, const struct vfs *vfs, struct vfs_dir *dir, const struct mem *mem,
                    const char *name, struct pleat_error *err);
void wal_window_close(struct wal_window *window);
/* Bytes [offset, offset + n), which the file has, and how many follow without another read (>= n). */
int wal_window_hold(struct wal_window *window, uint64_t offset, uint64_t n, const uint8_t **ret_bytes,
                    size_t *ret_available, struct pleat_error *err);

struct wal_scan {
    bool any_byte;             /* one that is not zero */
    bool any_record;           /* a valid one, of a sequence above the given one */
    uint64_t durable_sequence; /* the highest that such a record says; 0: none */
};

/* Looks at every multiple of 8 from `offset` (one itself) to the end for valid records of the segment with that key.
 * Cost: the bytes once, and again those of records whose payload is damaged. */
int wal_scan(struct wal_window *window, const char *name, uint64_t offset, uint64_t key, uint64_t above_sequence,
             struct wal_scan *ret_scan, struct pleat_error *err);

#endif
