/*
 * table_format.h - the bytes of a table file outside the block images: stored header, index, properties, footer.
 *
 * A file is tiled without a gap: block 0 begins at 0, each stored piece follows the one before, the footer ends it.
 *
 *     [block 0] ... [block n-1] [index page] ... [filter page] ... [index] [filter] [properties] [footer]
 *                                                 none: nothing             none: nothing
 *
 * One way of storing serves blocks, pages and sections: 24 bytes of header, then LZ4 block data or the image itself.
 * The checksum is xxh3-64, seeded from store id, file number and offset, over the rest of the header and the stored
 * bytes: a piece of another store, another file or another place never validates.
 *
 *   M1  Pieces tile the file: every byte belongs to exactly one checksum (or is that checksum, or the end marker).
 *   M2  Nothing of a piece but its checksum is looked at before the checksum was found right.
 *   M3  An image is at most 255 times as long as its stored bytes, and 64: no allocation beyond what the file warrants.
 *   M4  The footer holds the checksums of the three sections, the manifest that of the footer: the meta-data of a file
 *       is pinned as a whole.
 *
 * Offsets below are in bytes; all integers are little-endian.
 */
#ifndef PLEAT_SSTABLE_TABLE_FORMAT_H
#define PLEAT_SSTABLE_TABLE_FORMAT_H

#include "sstable/table.h"

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

/* The header of a stored piece. */
#define TABLE_HEADER_CHECKSUM 0 /* u64 over [8, 24 + stored) */
#define TABLE_HEADER_STORED 8   /* u32 bytes behind the header */
#define TABLE_HEADER_IMAGE 12   /* u32 bytes when decoded */
#define TABLE_HEADER_CODEC 16   /* u8 enum pleat_codec; NONE: the image itself */
#define TABLE_HEADER_ZERO 17    /* 7 bytes of zero */
#define TABLE_HEADER_BYTES 24

/* The image of the index section: the directory of the pages (table_index.h). */
#define TABLE_INDEX_PAGES 0       /* u32 */
#define TABLE_INDEX_ZERO 4        /* u32 */
#define TABLE_INDEX_PAGES_AT 8    /* u64 where the blocks end and the pages of the index begin */
#define TABLE_INDEX_PAGES_END 16  /* u64 where those end and the pages of the filter begin */
#define TABLE_INDEX_STORED_MAX 24 /* u32 stored bytes of a block at most */
#define TABLE_INDEX_IMAGE_MAX 28  /* u32 image bytes of a block at most */
#define TABLE_INDEX_STARTS 32     /* pages * u64 offset of the first block; pages * u32 its number; then a node ... */
#define TABLE_INDEX_START 12      /* ... over the pages (index_node.h) */

/* The image of the properties section. */
#define TABLE_PROPERTIES_ENTRIES 0          /* u64 */
#define TABLE_PROPERTIES_TOMBSTONES 8       /* u64 */
#define TABLE_PROPERTIES_KEY_VALUE_BYTES 16 /* u64 */
#define TABLE_PROPERTIES_SEQUENCE_MIN 24    /* u64 */
#define TABLE_PROPERTIES_SEQUENCE_MAX 32    /* u64 */
#define TABLE_PROPERTIES_DEADLINE_MIN 40    /* u64 ms since 1970; 0: none */
#define TABLE_PROPERTIES_BLOCKS 48          /* u32 */
#define TABLE_PROPERTIES_KEY_BYTES_MAX 52   /* u32 */
#define TABLE_PROPERTIES_GROUP_BYTES 56     /* u32 */
#define TABLE_PROPERTIES_GROUP_COUNT 60     /* u32 delimiters */
#define TABLE_PROPERTIES_DELIMITER 64       /* u8 */
#define TABLE_PROPERTIES_CODEC 65           /* u8 enum pleat_codec asked for */
#define TABLE_PROPERTIES_FILTER 66          /* u8 enum filter_kind */
#define TABLE_PROPERTIES_ZERO 67            /* u8 */
#define TABLE_PROPERTIES_SMALLEST_BYTES 68  /* u32 */
#define TABLE_PROPERTIES_LARGEST_BYTES 72   /* u32 */
#define TABLE_PROPERTIES_ZERO2 76           /* u32 */
#define TABLE_PROPERTIES_KEYS 80            /* the smallest key, then the largest */

/* A section's place in the footer. */
#define TABLE_SECTION_OFFSET 0   /* u64 of its header */
#define TABLE_SECTION_STORED 8   /* u32 */
#define TABLE_SECTION_IMAGE 12   /* u32 */
#define TABLE_SECTION_CHECKSUM 16 /* u64, equal to that in its header */
#define TABLE_SECTION_BYTES 24

/* The footer: the last bytes of the file. */
#define TABLE_FOOTER_MAGIC 0       /* u64 "PLEATTBL" */
#define TABLE_FOOTER_FORMAT 8      /* u32 */
#define TABLE_FOOTER_LENGTH 12     /* u32 bytes of the footer */
#define TABLE_FOOTER_STORE 16      /* 16 bytes */
#define TABLE_FOOTER_NUMBER 32     /* u64 */
#define TABLE_FOOTER_FILE_BYTES 40 /* u64 */
#define TABLE_FOOTER_ENTRIES 48    /* u64 */
#define TABLE_FOOTER_BLOCKS 56     /* u32 */
#define TABLE_FOOTER_ZERO 60       /* u32 */
#define TABLE_FOOTER_INDEX 64      /* section */
#define TABLE_FOOTER_FILTER 88     /* section; stored, image and checksum zero when there is no filter */
#define TABLE_FOOTER_PROPERTIES 112 /* section */
#define TABLE_FOOTER_CHECKSUM 136  /* u64 over [0, 136), seeded like a piece at the footer's offset */
#define TABLE_FOOTER_END 144       /* u64 "tblPLEAT" */
#define TABLE_FOOTER_BYTES 152

#define TABLE_MAGIC 0x4c42545441454c50ull /* "PLEATTBL" as bytes */
#define TABLE_END 0x5441454c506c6274ull   /* "tblPLEAT" as bytes */
#define TABLE_FORMAT 2u /* 1, of before the first release, had no pages */

#define TABLE_FILE_BYTES_MIN (TABLE_FOOTER_BYTES + 3 * TABLE_HEADER_BYTES)

static_assert(TABLE_FOOTER_FILTER == TABLE_FOOTER_INDEX + TABLE_SECTION_BYTES, "sections follow each other");
static_assert(TABLE_FOOTER_PROPERTIES == TABLE_FOOTER_FILTER + TABLE_SECTION_BYTES, "sections follow each other");
static_assert(TABLE_FOOTER_CHECKSUM == TABLE_FOOTER_PROPERTIES + TABLE_SECTION_BYTES, "sections follow each other");

/* Where a piece is and how long. */
struct table_handle {
    uint64_t offset; /* of its header */
    uint32_t stored_bytes;
    uint32_t image_bytes;
};

struct table_section {
    struct table_handle handle;
    uint64_t checksum;
};

struct table_footer {
    uint64_t number;
    uint64_t file_bytes;
    uint64_t entries;
    uint64_t checksum;
    uint32_t blocks;
    struct table_section index;
    struct table_section filter;
    struct table_section properties;
};

/* What all checksums of a file are seeded from, the offset apart. */
uint64_t table_seed(const uint8_t store_id[TABLE_STORE_ID_BYTES], uint64_t number);

/* Fills the header before `stored_bytes` bytes that are already in their place behind it; returns the checksum. */
uint64_t table_header_encode(uint8_t *piece, uint64_t seed, const struct table_handle *handle, uint8_t codec);

/* Verifies a piece (header and bytes) that was read from handle->offset of `name`: M2, and lengths as the handle
 * says. */
int table_piece_verify(const uint8_t *piece, uint64_t seed, const struct table_handle *handle, const char *name,
                       struct pleat_error *err);
/* Decodes a verified piece into `image`, room for handle->image_bytes. */
int table_piece_decode(const uint8_t *piece, const struct table_handle *handle, uint8_t *image, const char *name,
                       struct pleat_error *err);
/* Whether lengths keep M3. */
bool table_handle_is_sound(const struct table_handle *handle);

/* Reads and verifies a piece into `piece`, room for TABLE_HEADER_BYTES + handle->stored_bytes. */
int table_piece_read(const struct table_store *store, struct vfs_file *file, uint64_t seed,
                     const struct table_handle *handle, const char *name, uint8_t *piece, struct pleat_error *err);
/* Reads, verifies and decodes a section. *ret_image: owned by the caller, BLOCK_READ_BEYOND zero bytes follow. */
int table_section_read(const struct table_store *store, struct vfs_file *file, uint64_t seed,
                       const struct table_section *section, const char *name, uint8_t **ret_image,
                       struct pleat_error *err);

/* Writes TABLE_FOOTER_BYTES and sets footer->checksum. */
void table_footer_encode(uint8_t *p, const uint8_t store_id[TABLE_STORE_ID_BYTES], uint64_t seed,
                         struct table_footer *footer);
/* Reads the footer of a file of `file_bytes` and verifies it: identity, checksum, that the sections tile the file. */
int table_footer_read(const struct table_store *store, struct vfs_file *file, uint64_t number, const char *name,
                      struct table_footer *ret_footer, struct pleat_error *err);

/* Bytes of the properties image. */
size_t table_properties_bytes(const struct table_meta *meta);
void table_properties_encode(uint8_t *p, const struct table_meta *meta, const struct table_grouping *grouping);
/* Verifies the image and fills ret_meta (keys copied: table_meta_fini) together with what the footer says. */
int table_properties_decode(const struct mem *mem, const uint8_t *image, const struct table_footer *footer,
                            const char *name, struct table_meta *ret_meta, struct table_grouping *ret_grouping,
                            struct pleat_error *err);

#endif
