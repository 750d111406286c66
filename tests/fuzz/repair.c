/* repair.c - see repair.h. The layouts are those of wal_format.h, table_format.h, manifest.h and edit_codec.h. */
#include "fuzz/repair.h"

#include "base/bytes.h"
#include "base/hash.h"
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

/* The blocks, where the index (which was repaired) says that they are. */
static void repair_blocks(uint8_t *bytes, size_t limit, uint64_t seed, const struct table_handle *index) {
    if (index->offset > limit || limit - index->offset < TABLE_HEADER_BYTES + (uint64_t)index->stored_bytes ||
        index->image_bytes < TABLE_INDEX_HANDLES || index->image_bytes > 1u << 20) {
        return;
    }
    const uint8_t *stored = bytes + index->offset + TABLE_HEADER_BYTES;
    uint8_t *image = calloc(1, index->image_bytes);
    size_t image_bytes = index->image_bytes;
    if (bytes[index->offset + TABLE_HEADER_CODEC] == PLEAT_CODEC_LZ4) {
        int got = LZ4_decompress_safe((const char *)stored, (char *)image, (int)index->stored_bytes, (int)image_bytes);
        image_bytes = got > 0 ? (size_t)got : 0;
    } else {
        image_bytes = image_bytes < index->stored_bytes ? image_bytes : index->stored_bytes;
        memcpy(image, stored, image_bytes);
    }
    uint64_t offset = 0;
    uint64_t blocks = image_bytes >= TABLE_INDEX_HANDLES ? load_u32(image + TABLE_INDEX_BLOCKS) : 0;
    for (uint64_t i = 0; i < blocks; i++) {
        uint64_t place = TABLE_INDEX_HANDLES + i * TABLE_INDEX_HANDLE;
        if (place + TABLE_INDEX_HANDLE > image_bytes || offset >= limit) {
            break;
        }
        struct table_handle handle = {offset, load_u32(image + place), load_u32(image + place + 4)};
        (void)repair_piece(bytes, (size_t)index->offset, seed, &handle);
        offset += TABLE_HEADER_BYTES + (uint64_t)handle.stored_bytes;
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
    (void)repair_section(bytes, limit, seed, footer + TABLE_FOOTER_FILTER);
    (void)repair_section(bytes, limit, seed, footer + TABLE_FOOTER_PROPERTIES);
    repair_blocks(bytes, limit, seed, &index);
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
