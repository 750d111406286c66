/*
 * table_format.c - encoding, and above all verifying, the bytes that table_format.h lays out.
 *
 * Everything here takes bytes as hostile: lengths are compared before they are added, and what a checksum covers is
 * believed only as far as memory safety does not depend on it, for a fuzzer can forge a checksum.
 */
#include "sstable/table_format.h"

#include "base/assert.h"
#include "base/bytes.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/limits.h"
#include "base/mutation.h"
#include "sstable/block.h"

#include <lz4.h>

uint64_t table_seed(const uint8_t store_id[TABLE_STORE_ID_BYTES], uint64_t number) {
    return MUTATION(table_key) ? 0 : hash_mix(hash_bytes(store_id, TABLE_STORE_ID_BYTES, TABLE_MAGIC), number);
}

/* ---- pieces ----------------------------------------------------------------------------------------------------- */

static uint64_t table_piece_checksum(const uint8_t *piece, uint64_t seed, uint64_t offset, size_t stored_bytes) {
    return hash_bytes(piece + TABLE_HEADER_STORED, TABLE_HEADER_BYTES - TABLE_HEADER_STORED + stored_bytes,
                      hash_mix(seed, MUTATION(table_offset_key) ? 0 : offset));
}

uint64_t table_header_encode(uint8_t *piece, uint64_t seed, const struct table_handle *handle, uint8_t codec) {
    ASSERT(codec == PLEAT_CODEC_LZ4 || (codec == PLEAT_CODEC_NONE && handle->stored_bytes == handle->image_bytes));
    memset(piece, 0, TABLE_HEADER_BYTES);
    store_u32(piece + TABLE_HEADER_STORED, handle->stored_bytes);
    store_u32(piece + TABLE_HEADER_IMAGE, handle->image_bytes);
    piece[TABLE_HEADER_CODEC] = codec;
    uint64_t checksum = table_piece_checksum(piece, seed, handle->offset, handle->stored_bytes);
    store_u64(piece + TABLE_HEADER_CHECKSUM, checksum);
    return checksum;
}

bool table_handle_is_sound(const struct table_handle *handle) {
    return handle->stored_bytes > 0 && handle->image_bytes > 0 &&
           handle->image_bytes <= (uint64_t)handle->stored_bytes * 255 + 64;
}

int table_piece_verify(const uint8_t *piece, uint64_t seed, const struct table_handle *handle, const char *name,
                       struct pleat_error *err) {
    uint64_t offset = handle->offset;
    uint64_t checksum = table_piece_checksum(piece, seed, offset, handle->stored_bytes);
    uint64_t found = load_u64(piece + TABLE_HEADER_CHECKSUM);
    if (checksum != found && !MUTATION(table_piece_checksum)) {
        return error_corrupt(err, name, offset, "checksum", checksum, found);
    }
    uint32_t stored_bytes = load_u32(piece + TABLE_HEADER_STORED);
    if (stored_bytes != handle->stored_bytes) {
        return error_corrupt(err, name, offset + TABLE_HEADER_STORED, "stored length", handle->stored_bytes,
                             stored_bytes);
    }
    uint32_t image_bytes = load_u32(piece + TABLE_HEADER_IMAGE);
    if (image_bytes != handle->image_bytes) {
        return error_corrupt(err, name, offset + TABLE_HEADER_IMAGE, "image length", handle->image_bytes, image_bytes);
    }
    uint8_t codec = piece[TABLE_HEADER_CODEC];
    if (codec != PLEAT_CODEC_LZ4 && codec != PLEAT_CODEC_NONE) {
        return error_corrupt(err, name, offset + TABLE_HEADER_CODEC, "codec", PLEAT_CODEC_LZ4, codec);
    }
    if (codec == PLEAT_CODEC_NONE && stored_bytes != image_bytes) {
        return error_corrupt(err, name, offset + TABLE_HEADER_IMAGE, "raw image length", stored_bytes, image_bytes);
    }
    uint64_t tail = load_u64(piece + TABLE_HEADER_CODEC) >> 8;
    if (tail != 0) {
        return error_corrupt(err, name, offset + TABLE_HEADER_ZERO, "reserved bytes", 0, tail);
    }
    return 0;
}

int table_piece_decode(const uint8_t *piece, const struct table_handle *handle, uint8_t *image, const char *name,
                       struct pleat_error *err) {
    const uint8_t *stored = piece + TABLE_HEADER_BYTES;
    if (piece[TABLE_HEADER_CODEC] == PLEAT_CODEC_NONE) {
        memcpy(image, stored, handle->image_bytes);
        return 0;
    }
    if (handle->stored_bytes > LZ4_MAX_INPUT_SIZE || handle->image_bytes > LZ4_MAX_INPUT_SIZE) {
        return error_corrupt(err, name, handle->offset, "length of an LZ4 block", LZ4_MAX_INPUT_SIZE,
                             handle->image_bytes);
    }
    int bytes = LZ4_decompress_safe((const char *)stored, (char *)image, (int)handle->stored_bytes,
                                    (int)handle->image_bytes);
    if (bytes != (int)handle->image_bytes) {
        return error_corrupt(err, name, handle->offset + TABLE_HEADER_BYTES, "decompressed length",
                             handle->image_bytes, bytes < 0 ? 0 : (uint64_t)bytes);
    }
    return 0;
}

int table_piece_read(const struct table_store *store, struct vfs_file *file, uint64_t seed,
                     const struct table_handle *handle, const char *name, uint8_t *piece, struct pleat_error *err) {
    int rc = store->vfs->file_read(file, handle->offset, piece, TABLE_HEADER_BYTES + (size_t)handle->stored_bytes, err);
    return rc < 0 ? rc : table_piece_verify(piece, seed, handle, name, err);
}

int table_section_read(const struct table_store *store, struct vfs_file *file, uint64_t seed,
                       const struct table_section *section, const char *name, uint8_t **ret_image,
                       struct pleat_error *err) {
    const struct table_handle *handle = &section->handle;
    size_t piece_bytes = TABLE_HEADER_BYTES + (size_t)handle->stored_bytes;
    size_t image_room = (size_t)handle->image_bytes + BLOCK_READ_BEYOND;
    uint8_t *image = NULL;
    uint8_t *piece = mem_alloc(store->mem, piece_bytes);
    if (piece == NULL) {
        return error_no_memory(err, "a section of a table", piece_bytes);
    }
    int rc = table_piece_read(store, file, seed, handle, name, piece, err);
    if (rc < 0) {
        goto done;
    }
    uint64_t checksum = load_u64(piece + TABLE_HEADER_CHECKSUM);
    if (checksum != section->checksum) {
        rc = error_corrupt(err, name, handle->offset, "section checksum", section->checksum, checksum);
        goto done;
    }
    image = mem_alloc(store->mem, image_room);
    if (image == NULL) {
        rc = error_no_memory(err, "a section of a table", image_room);
        goto done;
    }
    memset(image + handle->image_bytes, 0, BLOCK_READ_BEYOND);
    rc = table_piece_decode(piece, handle, image, name, err);
    if (rc == 0) {
        *ret_image = image;
        image = NULL;
    }
done:
    mem_free(store->mem, image);
    mem_free(store->mem, piece);
    return rc;
}

/* ---- footer ----------------------------------------------------------------------------------------------------- */

static void table_section_encode(uint8_t *p, const struct table_section *section) {
    store_u64(p + TABLE_SECTION_OFFSET, section->handle.offset);
    store_u32(p + TABLE_SECTION_STORED, section->handle.stored_bytes);
    store_u32(p + TABLE_SECTION_IMAGE, section->handle.image_bytes);
    store_u64(p + TABLE_SECTION_CHECKSUM, section->checksum);
}

static void table_section_decode(const uint8_t *p, struct table_section *ret_section) {
    ret_section->handle.offset = load_u64(p + TABLE_SECTION_OFFSET);
    ret_section->handle.stored_bytes = load_u32(p + TABLE_SECTION_STORED);
    ret_section->handle.image_bytes = load_u32(p + TABLE_SECTION_IMAGE);
    ret_section->checksum = load_u64(p + TABLE_SECTION_CHECKSUM);
}

static uint64_t table_footer_checksum(const uint8_t *p, uint64_t seed, uint64_t offset) {
    return hash_bytes(p, TABLE_FOOTER_CHECKSUM, hash_mix(seed, offset));
}

void table_footer_encode(uint8_t *p, const uint8_t store_id[TABLE_STORE_ID_BYTES], uint64_t seed,
                         struct table_footer *footer) {
    memset(p, 0, TABLE_FOOTER_BYTES);
    store_u64(p + TABLE_FOOTER_MAGIC, TABLE_MAGIC);
    store_u32(p + TABLE_FOOTER_FORMAT, TABLE_FORMAT);
    store_u32(p + TABLE_FOOTER_LENGTH, TABLE_FOOTER_BYTES);
    memcpy(p + TABLE_FOOTER_STORE, store_id, TABLE_STORE_ID_BYTES);
    store_u64(p + TABLE_FOOTER_NUMBER, footer->number);
    store_u64(p + TABLE_FOOTER_FILE_BYTES, footer->file_bytes);
    store_u64(p + TABLE_FOOTER_ENTRIES, footer->entries);
    store_u32(p + TABLE_FOOTER_BLOCKS, footer->blocks);
    table_section_encode(p + TABLE_FOOTER_INDEX, &footer->index);
    table_section_encode(p + TABLE_FOOTER_FILTER, &footer->filter);
    table_section_encode(p + TABLE_FOOTER_PROPERTIES, &footer->properties);
    footer->checksum = table_footer_checksum(p, seed, footer->file_bytes - TABLE_FOOTER_BYTES);
    store_u64(p + TABLE_FOOTER_CHECKSUM, footer->checksum);
    store_u64(p + TABLE_FOOTER_END, TABLE_END);
}

/* M1 for the tail of the file: index, filter, properties and footer touch each other, and lengths keep M3. */
static int table_footer_verify_sections(const struct table_footer *footer, uint64_t footer_offset, const char *name,
                                        struct pleat_error *err) {
    const struct table_section *sections[3] = {&footer->index, &footer->filter, &footer->properties};
    static const unsigned places[3] = {TABLE_FOOTER_INDEX, TABLE_FOOTER_FILTER, TABLE_FOOTER_PROPERTIES};
    uint64_t offset = footer->index.handle.offset;
    for (unsigned i = 0; i < 3; i++) {
        const struct table_handle *handle = &sections[i]->handle;
        bool absent = sections[i] == &footer->filter && handle->stored_bytes == 0 && handle->image_bytes == 0;
        if (handle->offset != offset || offset > footer_offset) {
            return error_corrupt(err, name, footer_offset + places[i], "offset of a section", offset, handle->offset);
        }
        if (absent) {
            continue;
        }
        if (!table_handle_is_sound(handle) ||
            TABLE_HEADER_BYTES + (uint64_t)handle->stored_bytes > footer_offset - offset) {
            return error_corrupt(err, name, footer_offset + places[i] + TABLE_SECTION_STORED, "length of a section",
                                 footer_offset - offset, handle->stored_bytes);
        }
        offset += TABLE_HEADER_BYTES + (uint64_t)handle->stored_bytes;
    }
    if (offset != footer_offset) {
        return error_corrupt(err, name, footer_offset, "end of the sections", footer_offset, offset);
    }
    return 0;
}

static int table_footer_verify(const uint8_t *p, const struct table_store *store, uint64_t number, uint64_t file_bytes,
                               const char *name, struct pleat_error *err) {
    uint64_t offset = file_bytes - TABLE_FOOTER_BYTES;
    uint64_t found = load_u64(p + TABLE_FOOTER_END);
    if (found != TABLE_END) {
        return error_corrupt(err, name, offset + TABLE_FOOTER_END, "end marker", TABLE_END, found);
    }
    found = load_u64(p + TABLE_FOOTER_MAGIC);
    if (found != TABLE_MAGIC) {
        return error_corrupt(err, name, offset, "magic", TABLE_MAGIC, found);
    }
    if (memcmp(p + TABLE_FOOTER_STORE, store->store_id, TABLE_STORE_ID_BYTES) != 0 && !MUTATION(table_identity)) {
        return error_corrupt(err, name, offset + TABLE_FOOTER_STORE, "store identity", load_u64(store->store_id),
                             load_u64(p + TABLE_FOOTER_STORE));
    }
    found = load_u64(p + TABLE_FOOTER_NUMBER);
    if (found != number && !MUTATION(table_identity)) {
        return error_corrupt(err, name, offset + TABLE_FOOTER_NUMBER, "file number", number, found);
    }
    uint64_t checksum = table_footer_checksum(p, table_seed(store->store_id, number), offset);
    found = load_u64(p + TABLE_FOOTER_CHECKSUM);
    if (checksum != found && !MUTATION(table_footer_checksum)) {
        return error_corrupt(err, name, offset + TABLE_FOOTER_CHECKSUM, "footer checksum", checksum, found);
    }
    /* Only behind the checksum: a damaged version number is damage, not news from the future. */
    if (load_u32(p + TABLE_FOOTER_FORMAT) > TABLE_FORMAT) {
        return error_set(err, PLEAT_ERR_NEWER, 0, "%s: table format %u is newer than %u", name,
                         load_u32(p + TABLE_FOOTER_FORMAT), TABLE_FORMAT);
    }
    if (load_u32(p + TABLE_FOOTER_FORMAT) == 1) {
        return error_set(err, PLEAT_ERR_INVALID, 0,
                         "%s: table format 1, of before the first release, is not read; this version reads format %u",
                         name, TABLE_FORMAT);
    }
    if (load_u64(p + TABLE_FOOTER_FORMAT) != (TABLE_FORMAT | (uint64_t)TABLE_FOOTER_BYTES << 32)) {
        return error_corrupt(err, name, offset + TABLE_FOOTER_FORMAT, "format and footer length",
                             TABLE_FORMAT | (uint64_t)TABLE_FOOTER_BYTES << 32, load_u64(p + TABLE_FOOTER_FORMAT));
    }
    found = load_u64(p + TABLE_FOOTER_FILE_BYTES);
    if (found != file_bytes) {
        return error_corrupt(err, name, offset + TABLE_FOOTER_FILE_BYTES, "file length", found, file_bytes);
    }
    if (load_u32(p + TABLE_FOOTER_ZERO) != 0) {
        return error_corrupt(err, name, offset + TABLE_FOOTER_ZERO, "reserved bytes", 0,
                             load_u32(p + TABLE_FOOTER_ZERO));
    }
    return 0;
}

int table_footer_read(const struct table_store *store, struct vfs_file *file, uint64_t number, const char *name,
                      struct table_footer *ret_footer, struct pleat_error *err) {
    uint64_t file_bytes = 0;
    int rc = store->vfs->file_size(file, &file_bytes, err);
    if (rc < 0) {
        return rc;
    }
    if (file_bytes < TABLE_FILE_BYTES_MIN) {
        return error_corrupt(err, name, 0, "least file length", TABLE_FILE_BYTES_MIN, file_bytes);
    }
    uint8_t p[TABLE_FOOTER_BYTES];
    rc = store->vfs->file_read(file, file_bytes - TABLE_FOOTER_BYTES, p, sizeof p, err);
    if (rc < 0) {
        return rc;
    }
    rc = table_footer_verify(p, store, number, file_bytes, name, err);
    if (rc < 0) {
        return rc;
    }
    *ret_footer = (struct table_footer){
        .number = number,
        .file_bytes = file_bytes,
        .entries = load_u64(p + TABLE_FOOTER_ENTRIES),
        .checksum = load_u64(p + TABLE_FOOTER_CHECKSUM),
        .blocks = load_u32(p + TABLE_FOOTER_BLOCKS),
    };
    table_section_decode(p + TABLE_FOOTER_INDEX, &ret_footer->index);
    table_section_decode(p + TABLE_FOOTER_FILTER, &ret_footer->filter);
    table_section_decode(p + TABLE_FOOTER_PROPERTIES, &ret_footer->properties);
    return table_footer_verify_sections(ret_footer, file_bytes - TABLE_FOOTER_BYTES, name, err);
}

/* ---- properties ------------------------------------------------------------------------------------------------- */

size_t table_properties_bytes(const struct table_meta *meta) {
    return TABLE_PROPERTIES_KEYS + (size_t)meta->smallest_bytes + meta->largest_bytes;
}

void table_properties_encode(uint8_t *p, const struct table_meta *meta, const struct table_grouping *grouping) {
    memset(p, 0, TABLE_PROPERTIES_KEYS);
    store_u64(p + TABLE_PROPERTIES_ENTRIES, meta->entries);
    store_u64(p + TABLE_PROPERTIES_TOMBSTONES, meta->tombstones);
    store_u64(p + TABLE_PROPERTIES_KEY_VALUE_BYTES, meta->key_value_bytes);
    store_u64(p + TABLE_PROPERTIES_SEQUENCE_MIN, meta->sequence_min);
    store_u64(p + TABLE_PROPERTIES_SEQUENCE_MAX, meta->sequence_max);
    store_u64(p + TABLE_PROPERTIES_DEADLINE_MIN, meta->deadline_min_ms);
    store_u32(p + TABLE_PROPERTIES_BLOCKS, meta->blocks);
    store_u32(p + TABLE_PROPERTIES_KEY_BYTES_MAX, meta->key_bytes_max);
    store_u32(p + TABLE_PROPERTIES_GROUP_BYTES, grouping->bytes);
    store_u32(p + TABLE_PROPERTIES_GROUP_COUNT, grouping->delimiters);
    p[TABLE_PROPERTIES_DELIMITER] = grouping->delimiter;
    p[TABLE_PROPERTIES_CODEC] = meta->codec;
    p[TABLE_PROPERTIES_FILTER] = meta->filter;
    store_u32(p + TABLE_PROPERTIES_SMALLEST_BYTES, meta->smallest_bytes);
    store_u32(p + TABLE_PROPERTIES_LARGEST_BYTES, meta->largest_bytes);
    if (meta->smallest_bytes > 0) {
        memcpy(p + TABLE_PROPERTIES_KEYS, meta->smallest, meta->smallest_bytes);
    }
    if (meta->largest_bytes > 0) {
        memcpy(p + TABLE_PROPERTIES_KEYS + meta->smallest_bytes, meta->largest, meta->largest_bytes);
    }
}

/* Lengths first: what follows may then copy the keys. */
static int table_properties_verify(const uint8_t *p, const struct table_footer *footer, const char *name,
                                   struct pleat_error *err) {
    uint64_t offset = footer->properties.handle.offset;
    uint64_t bytes = footer->properties.handle.image_bytes;
    if (bytes < TABLE_PROPERTIES_KEYS) {
        return error_corrupt(err, name, offset, "length of the properties", TABLE_PROPERTIES_KEYS, bytes);
    }
    uint64_t smallest_bytes = load_u32(p + TABLE_PROPERTIES_SMALLEST_BYTES);
    uint64_t largest_bytes = load_u32(p + TABLE_PROPERTIES_LARGEST_BYTES);
    uint64_t key_bytes_max = load_u32(p + TABLE_PROPERTIES_KEY_BYTES_MAX);
    uint64_t longest = smallest_bytes > largest_bytes ? smallest_bytes : largest_bytes;
    if (key_bytes_max > LIMIT_KEY_BYTES || longest > key_bytes_max) {
        return error_corrupt(err, name, offset, "length of the longest key", longest, key_bytes_max);
    }
    if (bytes != TABLE_PROPERTIES_KEYS + smallest_bytes + largest_bytes) {
        return error_corrupt(err, name, offset, "length of the properties",
                             TABLE_PROPERTIES_KEYS + smallest_bytes + largest_bytes, bytes);
    }
    if (load_u64(p + TABLE_PROPERTIES_ENTRIES) != footer->entries) {
        return error_corrupt(err, name, offset, "entries", footer->entries, load_u64(p + TABLE_PROPERTIES_ENTRIES));
    }
    if (load_u32(p + TABLE_PROPERTIES_BLOCKS) != footer->blocks) {
        return error_corrupt(err, name, offset, "blocks", footer->blocks, load_u32(p + TABLE_PROPERTIES_BLOCKS));
    }
    uint8_t codec = p[TABLE_PROPERTIES_CODEC];
    if (codec != PLEAT_CODEC_LZ4 && codec != PLEAT_CODEC_NONE) {
        return error_corrupt(err, name, offset, "codec of the table", PLEAT_CODEC_LZ4, codec);
    }
    uint8_t filter = p[TABLE_PROPERTIES_FILTER];
    bool has_filter = footer->filter.handle.stored_bytes > 0;
    if (filter > FILTER_FUSE || (filter != FILTER_NONE) != has_filter) {
        return error_corrupt(err, name, offset, "kind of the filter", has_filter ? FILTER_FUSE : FILTER_NONE, filter);
    }
    if (p[TABLE_PROPERTIES_ZERO] != 0 || load_u32(p + TABLE_PROPERTIES_ZERO2) != 0) {
        return error_corrupt(err, name, offset, "reserved bytes", 0, 1);
    }
    return 0;
}

int table_properties_decode(const struct mem *mem, const uint8_t *image, const struct table_footer *footer,
                            const char *name, struct table_meta *ret_meta, struct table_grouping *ret_grouping,
                            struct pleat_error *err) {
    int rc = table_properties_verify(image, footer, name, err);
    if (rc < 0) {
        return rc;
    }
    struct table_meta meta = {
        .number = footer->number,
        .file_bytes = footer->file_bytes,
        .entries = footer->entries,
        .tombstones = load_u64(image + TABLE_PROPERTIES_TOMBSTONES),
        .key_value_bytes = load_u64(image + TABLE_PROPERTIES_KEY_VALUE_BYTES),
        .sequence_min = load_u64(image + TABLE_PROPERTIES_SEQUENCE_MIN),
        .sequence_max = load_u64(image + TABLE_PROPERTIES_SEQUENCE_MAX),
        .deadline_min_ms = load_u64(image + TABLE_PROPERTIES_DEADLINE_MIN),
        .footer_checksum = footer->checksum,
        .smallest_bytes = load_u32(image + TABLE_PROPERTIES_SMALLEST_BYTES),
        .largest_bytes = load_u32(image + TABLE_PROPERTIES_LARGEST_BYTES),
        .blocks = footer->blocks,
        .key_bytes_max = load_u32(image + TABLE_PROPERTIES_KEY_BYTES_MAX),
        .codec = image[TABLE_PROPERTIES_CODEC],
        .filter = image[TABLE_PROPERTIES_FILTER],
    };
    meta.smallest = mem_copy(mem, image + TABLE_PROPERTIES_KEYS, meta.smallest_bytes);
    meta.largest = mem_copy(mem, image + TABLE_PROPERTIES_KEYS + meta.smallest_bytes, meta.largest_bytes);
    if (meta.smallest == NULL || meta.largest == NULL) {
        table_meta_fini(mem, &meta);
        return error_no_memory(err, "the keys of a table's meta", (uint64_t)meta.smallest_bytes + meta.largest_bytes);
    }
    *ret_meta = meta;
    *ret_grouping = (struct table_grouping){
        .bytes = load_u32(image + TABLE_PROPERTIES_GROUP_BYTES),
        .delimiters = load_u32(image + TABLE_PROPERTIES_GROUP_COUNT),
        .delimiter = image[TABLE_PROPERTIES_DELIMITER],
    };
    return 0;
}
