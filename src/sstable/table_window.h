/*
 * table_window.h - a stretch of a table's file, read with one call: for walks over many blocks. Private to src/sstable.
 *
 * A block is some KiB as it is stored, and the system call that reads it costs as much as to copy it. A walk that has
 * shown to be long reads sixteen of them at once instead, in its direction, into memory that stays in the processor's
 * cache; blocks are then verified and decoded from there.
 *
 *   V1  What is handed out is inside the window, and stays there until the next call.
 *   V2  A window that cannot be read is no error: the block alone may be readable, and is tried by itself.
 */
#ifndef PLEAT_SSTABLE_TABLE_WINDOW_H
#define PLEAT_SSTABLE_TABLE_WINDOW_H

#include "sstable/table_internal.h"

#define TABLE_WINDOW_BYTES ((size_t)64 << 10)

/* Zeroed at first. Owned by one walk. */
struct table_window {
    uint8_t *bytes; /* NULL until something is read; then room for TABLE_WINDOW_BYTES */
    uint64_t start; /* of it in the file */
    size_t held;
    bool is_backward; /* the walk's direction: the window ends with the block that is asked for, or begins with it */
    uint64_t end;     /* nothing behind it will be asked for */
};

/* The header and stored bytes of a block, not verified, or NULL: when it is longer than a window, memory is out, or the
 * file does not let itself be read. Cost: mostly none, else one read. */
const uint8_t *table_window_piece(const struct table *table, struct table_window *window,
                                  const struct table_handle *handle);
void table_window_fini(const struct table *table, struct table_window *window);

#endif
