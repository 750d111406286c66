/*
 * repair.c - see repair.h. The layouts are those of wal_format.h, table_format.h, index_node.h, filter_internal.h,
 * manifest.h and edit_codec.h.
 */
#include "fuzz/repair.h"

#include "base/bytes.h"
#include "base/hash.h"
#include "sstable/filter.h"
#include "sstable/index_node.h"
#include "sstable/table_format.h"
#include "version/edit_codec.h"
#include "version/manifest.h"
#include "wal/wal_format.h"

#include <lz4.h>
#include <stdlib.h>

/* ---- log segments ----------------------------------------------------------------------------------------------- */

void repair_segment(uint8_t *bytes, size_t size, const uint8_t *store_id, uint64_t segment, bool dense) {
    if (size < WAL_HEADER_BYTES) {
        return;
    }
    uint64_t key = wal_format_key(store_id, segment);
    memcpy(bytes + WAL_AT_STORE_ID, store_id, WAL_STORE_ID_BYTES);
    store_u64(bytes + WAL_AT_SEGMENT, segment);
    if (load_u64(bytes + WAL_AT_RESERVED) < size) {
        store_u64(bytes + WAL_AT_RESERVED, size);
    }
    store_u64(bytes + WAL_AT_CHECKSUM, hash_bytes(bytes, WAL_AT_CHECKSUM, 0));
    uint64_t sequence = load_u64(bytes + WAL_AT_FIRST_SEQUENCE);
    size_t at = WAL_HEADER_BYTES;
    while (at <= size && size - at >= WAL_RECORD_HEADER_BYTES) {
        uint8_t *p = bytes + at;
        uint64_t record_bytes = (uint64_t)load_u32(p) * WAL_RECORD_ALIGNMENT;
        if (record_bytes < WAL_RECORD_HEADER_BYTES || record_bytes > size - at) {
            at += WAL_RECORD_ALIGNMENT;
            continue;
        }
        if (dense) {
            store_u64(p + 8, sequence++);
        }
        uint64_t check = hash_bytes(p, WAL_RECORD_CHECKED_BYTES, key);
        store_u64(p + 32, check);
        store_u64(p + 40,
                  hash_bytes(p + WAL_RECORD_HEADER_BYTES, (size_t)record_bytes - WAL_RECORD_HEADER_BYTES, check));
        at += (size_t)record_bytes;
    }
}

/* ---- tables ----------------------------------------------------------------------------------------------------- */

/* One piece whose place is inside [0, limit): its header takes the handle's lengths. Returns its checksum. */
static uint64_t repair_piece(uint8_t *bytes, size_t limit, uint64_t seed, const struct table_handle *handle) {
    if (handle->offset > limit || limit - handle->offset < TABLE_HEADER_BYTES + (uint64_t)handle->stored_bytes) {
        return 0;
    }
    uint8_t *p = bytes + handle->offset;
    store_u32(p + TABLE_HEADER_STORED, handle->stored_bytes);
    store_u32(p + TABLE_HEADER_IMAGE, handle->image_bytes);
    uint64_t checksum =
        hash_bytes(p + TABLE_HEADER_STORED, TABLE_HEADER_BYTES - TABLE_HEADER_STORED + (size_t)handle->stored_bytes,
                   hash_mix(seed, handle->offset));
    store_u64(p + TABLE_HEADER_CHECKSUM, checksum);
    return checksum;
}

static struct table_handle repair_section(uint8_t *bytes, size_t limit, uint64_t seed, uint8_t *section) {
    struct table_handle handle = {load_u64(section + TABLE_SECTION_OFFSET), load_u32(section + TABLE_SECTION_STORED),
                                  load_u32(section + TABLE_SECTION_IMAGE)};
    if (handle.stored_bytes > 0) {
        store_u64(section + TABLE_SECTION_CHECKSUM, repair_piece(bytes, limit, seed, &handle));
    }
    return handle;
}

/* The image of a piece inside [0, limit); NULL when it does not decode. Owned by the caller. */
static uint8_t *repair_image(const uint8_t *bytes, size_t limit, const struct table_handle *handle) {
    if (handle->offset > limit || limit - handle->offset < TABLE_HEADER_BYTES + (uint64_t)handle->stored_bytes ||
        !table_handle_is_sound(handle) || handle->image_bytes > 1u << 20) {
        return NULL;
    }
    const uint8_t *stored = bytes + handle->offset + TABLE_HEADER_BYTES;
    uint8_t *image = calloc(1, handle->image_bytes);
    bool raw = bytes[handle->offset + TABLE_HEADER_CODEC] != PLEAT_CODEC_LZ4;
    if (raw && handle->image_bytes == handle->stored_bytes) {
        memcpy(image, stored, handle->image_bytes);
    } else if (raw || LZ4_decompress_safe((const char *)stored, (char *)image, (int)handle->stored_bytes,
                                          (int)handle->image_bytes) != (int)handle->image_bytes) {
        free(image);
        image = NULL;
    }
    return image;
}

struct repair {
    uint8_t *bytes;
    uint64_t seed;
    size_t limit; /* of the pieces that are repaired */
};

/* The children of a node over [begin, end) of the file, each given to `child` once it is repaired, as long as they
 * follow each other: a piece is looked at once. */
static void repair_children(const struct repair *repair, const uint8_t *image, size_t image_bytes, uint64_t begin,
                            uint64_t end,
                            void (*child)(const struct repair *repair, const uint8_t *context, size_t i,
                                          const struct table_handle *handle),
                            const uint8_t *context) {
    uint64_t count = image_bytes >= INDEX_NODE_STRINGS ? load_u32(image + INDEX_NODE_COUNT) : 0;
    uint64_t prefix_bytes = count > 0 ? load_u32(image + INDEX_NODE_PREFIX) : 0;
    uint64_t offsets =
        INDEX_NODE_STRINGS + index_node_prefix_room(prefix_bytes) + (count - 1) * INDEX_NODE_HEAD_BYTES;
    if (count == 0 || offsets + count * 8 > image_bytes || end < begin || end > repair->limit) {
        return;
    }
    for (uint64_t i = 0; i < count; i++) {
        uint64_t from = load_u32(image + offsets + i * 4);
        uint64_t to = i + 1 < count ? load_u32(image + offsets + (i + 1) * 4) : end - begin;
        if (to > end - begin || to < from + TABLE_HEADER_BYTES) {
            return;
        }
        struct table_handle handle = {begin + from, (uint32_t)(to - from - TABLE_HEADER_BYTES),
                                      load_u32(image + offsets + (count + i) * 4)};
        (void)repair_piece(repair->bytes, repair->limit, repair->seed, &handle);
        if (child != NULL) {
            child(repair, context, (size_t)i, &handle);
        }
    }
}

/* The blocks of page i of the index; `directory` has room for so many pages. */
static void repair_page(const struct repair *repair, const uint8_t *directory, size_t i,
                        const struct table_handle *handle) {
    size_t pages = load_u32(directory + TABLE_INDEX_PAGES);
    uint8_t *image = i < pages ? repair_image(repair->bytes, repair->limit, handle) : NULL;
    if (image == NULL) {
        return;
    }
    const uint8_t *offsets = directory + TABLE_INDEX_STARTS;
    uint64_t begin = load_u64(offsets + i * 8);
    uint64_t end = i + 1 < pages ? load_u64(offsets + (i + 1) * 8) : load_u64(directory + TABLE_INDEX_PAGES_AT);
    repair_children(repair, image, handle->image_bytes, begin, end, NULL, NULL);
    free(image);
}

/* Pages and blocks, where the directory of the index (which was repaired) says that they are. Returns where the pages
 * of the index end. */
static uint64_t repair_index(const struct repair *repair, size_t limit, const struct table_handle *index) {
    uint8_t *image = repair_image(repair->bytes, limit, index);
    uint64_t pages_end = UINT64_MAX;
    if (image != NULL && index->image_bytes >= TABLE_INDEX_STARTS) {
        uint64_t lists = TABLE_INDEX_STARTS + (uint64_t)load_u32(image + TABLE_INDEX_PAGES) * TABLE_INDEX_START;
        pages_end = load_u64(image + TABLE_INDEX_PAGES_END);
        if (lists <= index->image_bytes) {
            repair_children(repair, image + lists, (size_t)(index->image_bytes - lists),
                            load_u64(image + TABLE_INDEX_PAGES_AT), pages_end, repair_page, image);
        }
    }
    free(image);
    return pages_end;
}

/* The pages of the filter, which begin at `offset`. */
static void repair_filter(const struct repair *repair, size_t limit, const struct table_handle *filter,
                          uint64_t offset) {
    uint8_t *image = repair_image(repair->bytes, limit, filter);
    uint64_t image_bytes;
    if (image != NULL && filter_directory_verify(image, filter->image_bytes, &image_bytes) == NULL) {
        for (uint32_t part = 0; part < filter_parts(image) && offset < repair->limit; part++) {
            uint64_t at, bytes;
            filter_part_place(image, part, &at, &bytes);
            struct table_handle handle = {offset, (uint32_t)bytes, (uint32_t)bytes};
            if (bytes > 0) {
                (void)repair_piece(repair->bytes, repair->limit, repair->seed, &handle);
                offset += TABLE_HEADER_BYTES + bytes;
            }
        }
    }
    free(image);
}

uint64_t repair_table(uint8_t *bytes, size_t size, const uint8_t *store_id, uint64_t number) {
    if (size < TABLE_FOOTER_BYTES) {
        return 0;
    }
    size_t limit = size - TABLE_FOOTER_BYTES;
    uint8_t *footer = bytes + limit;
    uint64_t seed = table_seed(store_id, number);
    memcpy(footer + TABLE_FOOTER_STORE, store_id, TABLE_STORE_ID_BYTES);
    store_u64(footer + TABLE_FOOTER_NUMBER, number);
    store_u64(footer + TABLE_FOOTER_FILE_BYTES, size);
    struct table_handle index = repair_section(bytes, limit, seed, footer + TABLE_FOOTER_INDEX);
    struct table_handle filter = repair_section(bytes, limit, seed, footer + TABLE_FOOTER_FILTER);
    (void)repair_section(bytes, limit, seed, footer + TABLE_FOOTER_PROPERTIES);
    const struct repair repair = {bytes, seed, index.offset < limit ? (size_t)index.offset : limit};
    uint64_t filter_at = repair_index(&repair, limit, &index);
    if (filter.stored_bytes > 0) {
        repair_filter(&repair, limit, &filter, filter_at);
    }
    uint64_t checksum = hash_bytes(footer, TABLE_FOOTER_CHECKSUM, hash_mix(seed, limit));
    store_u64(footer + TABLE_FOOTER_CHECKSUM, checksum);
    return checksum;
}

/* ---- the manifest ----------------------------------------------------------------------------------------------- */

/* The footer checksum lies behind fourteen numbers of a field that adds a table. */
static void repair_field(uint8_t *p, const uint8_t *end, uint64_t (*footer_checksum)(void *context, uint64_t number),
                         void *context) {
    enum { NUMBERS = 14, AT_NUMBER = 2 };
    uint64_t number = 0;
    const uint8_t *next = p;
    for (unsigned i = 0; i < NUMBERS; i++) {
        uint64_t x;
        next = varint_decode(next, end, &x);
        if (next == NULL) {
            return;
        }
        number = i == AT_NUMBER ? x : number;
    }
    uint64_t checksum = footer_checksum(context, number);
    if (end - next >= 8 && checksum != 0) {
        store_u64(p + (next - p), checksum);
    }
}

static void repair_payload(uint8_t *p, const uint8_t *end, uint64_t (*footer_checksum)(void *context, uint64_t number),
                           void *context) {
    while (p < end) {
        uint64_t tag = 0, bytes = 0;
        const uint8_t *next = varint_decode(p, end, &tag);
        next = next != NULL ? varint_decode(next, end, &bytes) : NULL;
        if (next == NULL || bytes > (uint64_t)(end - next)) {
            return;
        }
        p += next - p;
        if (tag == FIELD_TABLE_ADDED) {
            repair_field(p, p + bytes, footer_checksum, context);
        }
        p += bytes;
    }
}

void repair_manifest(uint8_t *bytes, size_t size, uint64_t (*footer_checksum)(void *context, uint64_t number),
                     void *context) {
    if (size < MANIFEST_HEADER_BYTES) {
        return;
    }
    uint64_t checksum = hash_bytes(bytes, 48, 0);
    store_u64(bytes + 48, checksum);
    uint64_t seed = hash_mix(checksum, load_u64(bytes + 40));
    size_t at = MANIFEST_HEADER_BYTES;
    for (uint32_t index = 0; size - at >= MANIFEST_FRAME_BYTES; index++) {
        uint8_t *p = bytes + at;
        uint32_t payload_bytes = load_u32(p);
        if (payload_bytes > size - at - MANIFEST_FRAME_BYTES) {
            return;
        }
        uint8_t *payload = p + MANIFEST_FRAME_BYTES;
        if (footer_checksum != NULL) {
            repair_payload(payload, payload + payload_bytes, footer_checksum, context);
        }
        store_u32(p + 4, index);
        store_u64(p + 8, hash_bytes(payload, payload_bytes, hash_mix(hash_mix(seed, index), payload_bytes)));
        at += MANIFEST_FRAME_BYTES + payload_bytes;
    }
}
