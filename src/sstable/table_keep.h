/*
 * table_keep.h - images of a table in the making that its cache will want: frames that wait for the table's slots.
 *
 *   KE1  A kept frame is the image that a reader would decode from the file. It was never on a disk, so no checksum is
 *        asked; what reads it later anew is checked as ever.
 *   KE2  All of this is advice: without memory a block is not kept, and a reader loads it.
 */
#ifndef PLEAT_SSTABLE_TABLE_KEEP_H
#define PLEAT_SSTABLE_TABLE_KEEP_H

#include "sstable/table.h"
#include "sstable/table_bytes.h"

/* Zeroed: nothing is kept. */
struct table_keep {
    struct table_bytes frames; /* of struct table_kept */
};

/* Keeps a copy of the image for block number `block` with this score. */
void table_keep_block(struct table_keep *keep, const struct table_store *store, uint32_t block, const uint8_t *image,
                      size_t image_bytes, uint8_t score);
/* Gives the frames to the slots of the table, which is that of the blocks. Nothing is kept any more. */
void table_keep_give(struct table_keep *keep, const struct table_store *store, struct table *table);
/* Frees what is still kept. */
void table_keep_fini(struct table_keep *keep, const struct table_store *store);

#endif
