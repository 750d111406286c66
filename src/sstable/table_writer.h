/*
 * table_writer.h - the file of a table in the making: pieces behind one another, buffered, compressed, sent off.
 *
 *     piece -> buffer, behind a header -> 256 KiB or more: one file_write -> 2 MiB or more: file_will_sync -> sync
 *
 * The sync at the end would wait for the device to take the whole file; so the device is told meanwhile what it will be
 * asked for.
 *
 *   Y1  `written` + buffered bytes is the file offset of what comes next.
 *   Y2  `file` is not NULL while the file may have to be removed: until table_writer_end has synced it.
 *
 * Threads: one at a time.
 */
#ifndef PLEAT_SSTABLE_TABLE_WRITER_H
#define PLEAT_SSTABLE_TABLE_WRITER_H

#include "sstable/table_bytes.h"
#include "sstable/table_format.h"

struct table_writer {
    const struct table_store *store;
    struct vfs_file *file;     /* Y2 */
    void *lz4_state;           /* NULL: everything is stored as it is */
    struct table_bytes buffer; /* Y1 */
    uint64_t written;
    uint64_t sent;             /* of it, asked to be written out */
    uint64_t seed;
    uint32_t raw_run;          /* blocks since the last that was shortened, while they are compressed */
    char name[TABLE_NAME_BYTES];
};

/* Creates the file of table `number`; blocks of `block_bytes` are usual. On an error there is none, and `writer` wants
 * no table_writer_fini. */
int table_writer_open(struct table_writer *writer, const struct table_store *store, uint64_t number, uint8_t codec,
                      size_t block_bytes, struct pleat_error *err);
/* Removes the file unless table_writer_end has returned 0. Of a zeroed writer: nothing. */
void table_writer_fini(struct table_writer *writer);

static inline uint64_t table_writer_at(const struct table_writer *writer) {
    return writer->written + writer->buffer.bytes;
}

/* Stores a section: compressed when that is asked for and shortens it, else as it is. */
int table_writer_store(struct table_writer *writer, const uint8_t *image, size_t image_bytes, bool compress,
                       struct table_section *ret_section, struct pleat_error *err);
/* Stores a block: packed when it is compressed (block_pack.c). The image may have been changed afterwards. */
int table_writer_store_block(struct table_writer *writer, uint8_t *image, size_t image_bytes,
                             struct table_section *ret_section, struct pleat_error *err);
/* Stores what another table has stored. */
int table_writer_copy(struct table_writer *writer, const struct table_block *block, struct table_section *ret_section,
                      struct pleat_error *err);
/* Appends a footer, writes what is buffered, syncs and closes the file. */
int table_writer_end(struct table_writer *writer, const uint8_t footer[TABLE_FOOTER_BYTES], struct pleat_error *err);

#endif
