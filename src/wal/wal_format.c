/*
 * wal_format.c - names of segments, and segment headers to and from bytes. See wal_format.h for the layout.
 */
#include "wal/wal_format.h"

#include "base/assert.h"
#include "base/error.h"

#include <inttypes.h>
#include <stdio.h>

#define WAL_NAME_DIGITS_MIN 6u
#define WAL_NAME_SUFFIX ".wal"

void wal_name(uint64_t segment, char ret_name[WAL_NAME_BYTES]) {
    int length = snprintf(ret_name, WAL_NAME_BYTES, "%06" PRIu64 WAL_NAME_SUFFIX, segment);
    ASSERT(length > 0 && length < WAL_NAME_BYTES);
}

bool wal_name_parse(const char *name, uint64_t *ret_segment) {
    uint64_t segment = 0;
    size_t digits = 0;
    while (name[digits] >= '0' && name[digits] <= '9') {
        uint64_t digit = (uint64_t)(name[digits] - '0');
        if (segment > (UINT64_MAX - digit) / 10) {
            return false;
        }
        segment = segment * 10 + digit;
        digits++;
    }
    /* One number has one name: zeros only fill up to the least width. Zero means "no segment". */
    if (digits < WAL_NAME_DIGITS_MIN || (digits > WAL_NAME_DIGITS_MIN && name[0] == '0') || segment == 0 ||
        strcmp(name + digits, WAL_NAME_SUFFIX) != 0) {
        return false;
    }
    *ret_segment = segment;
    return true;
}

void wal_format_header_encode(struct wal_format_header *header, const uint8_t *store_id, uint8_t *bytes) {
    const struct wal_header *fields = &header->fields;
    memset(bytes, 0, WAL_HEADER_BYTES);
    store_u64(bytes, WAL_MAGIC);
    store_u32(bytes + WAL_AT_VERSION, WAL_FORMAT_VERSION);
    store_u32(bytes + WAL_AT_FIRST_RECORD, WAL_HEADER_BYTES);
    memcpy(bytes + WAL_AT_STORE_ID, store_id, WAL_STORE_ID_BYTES);
    store_u64(bytes + WAL_AT_SEGMENT, fields->segment);
    store_u64(bytes + WAL_AT_PREDECESSOR, fields->predecessor.segment);
    store_u64(bytes + WAL_AT_PREDECESSOR + 8, fields->predecessor.last_sequence);
    store_u64(bytes + WAL_AT_PREDECESSOR + 16, fields->predecessor.running_hash);
    store_u64(bytes + WAL_AT_FIRST_SEQUENCE, fields->first_sequence);
    store_u64(bytes + WAL_AT_RESERVED, header->reserved_bytes);
    store_u64(bytes + WAL_AT_EDITION, fields->edition.incarnation);
    store_u64(bytes + WAL_AT_EDITION + 8, fields->edition.frames);
    header->checksum = hash_bytes(bytes, WAL_AT_CHECKSUM, 0);
    store_u64(bytes + WAL_AT_CHECKSUM, header->checksum);
}

/* The part that every version shares: what it is, that it is whole, and that we know how to read it. */
static int wal_format_header_verify(const uint8_t *bytes, const char *file, struct pleat_error *err) {
    if (load_u64(bytes) != WAL_MAGIC) {
        return error_corrupt(err, file, 0, "log segment magic", WAL_MAGIC, load_u64(bytes));
    }
    uint64_t checksum = hash_bytes(bytes, WAL_AT_CHECKSUM, 0);
    if (load_u64(bytes + WAL_AT_CHECKSUM) != checksum && !MUTATION(wal_segment_checksum)) {
        return error_corrupt(err, file, WAL_AT_CHECKSUM, "log segment header checksum", checksum,
                             load_u64(bytes + WAL_AT_CHECKSUM));
    }
    uint32_t version = load_u32(bytes + WAL_AT_VERSION);
    if (version > WAL_FORMAT_VERSION) {
        return error_set(err, PLEAT_ERR_NEWER, 0, "%s: log format %" PRIu32 ", this library reads up to %u", file,
                         version, WAL_FORMAT_VERSION);
    }
    if (version == 0) {
        return error_corrupt(err, file, WAL_AT_VERSION, "log format version", WAL_FORMAT_VERSION, version);
    }
    return 0;
}

int wal_format_header_decode(const uint8_t *bytes, const uint8_t *store_id, uint64_t segment, const char *file,
                             struct wal_format_header *ret_header, struct pleat_error *err) {
    int rc = wal_format_header_verify(bytes, file, err);
    if (rc != 0) {
        return rc;
    }
    for (unsigned half = 0; half < WAL_STORE_ID_BYTES; half += 8) {
        uint64_t found = load_u64(bytes + WAL_AT_STORE_ID + half);
        if (found != load_u64(store_id + half) && !MUTATION(wal_segment_identity)) {
            return error_corrupt(err, file, WAL_AT_STORE_ID + half, "store id", load_u64(store_id + half), found);
        }
    }
    struct wal_format_header header = {
        .fields = {
            .segment = load_u64(bytes + WAL_AT_SEGMENT),
            .predecessor = {
                .segment = load_u64(bytes + WAL_AT_PREDECESSOR),
                .last_sequence = load_u64(bytes + WAL_AT_PREDECESSOR + 8),
                .running_hash = load_u64(bytes + WAL_AT_PREDECESSOR + 16),
            },
            .first_sequence = load_u64(bytes + WAL_AT_FIRST_SEQUENCE),
            .edition = {load_u64(bytes + WAL_AT_EDITION), load_u64(bytes + WAL_AT_EDITION + 8)},
        },
        .reserved_bytes = load_u64(bytes + WAL_AT_RESERVED),
        .checksum = load_u64(bytes + WAL_AT_CHECKSUM),
    };
    const struct wal_header *fields = &header.fields;
    if (fields->segment != segment && !MUTATION(wal_segment_identity)) {
        return error_corrupt(err, file, WAL_AT_SEGMENT, "segment number", segment, fields->segment);
    }
    if (load_u32(bytes + WAL_AT_FIRST_RECORD) != WAL_HEADER_BYTES) {
        return error_corrupt(err, file, WAL_AT_FIRST_RECORD, "offset of the first record", WAL_HEADER_BYTES,
                             load_u32(bytes + WAL_AT_FIRST_RECORD));
    }
    if (fields->predecessor.segment >= segment) {
        return error_corrupt(err, file, WAL_AT_PREDECESSOR, "predecessor, at most", segment - 1,
                             fields->predecessor.segment);
    }
    if (fields->first_sequence <= fields->predecessor.last_sequence) {
        return error_corrupt(err, file, WAL_AT_FIRST_SEQUENCE, "first sequence, at least",
                             fields->predecessor.last_sequence + 1, fields->first_sequence);
    }
    for (unsigned at = WAL_AT_ZERO; at < WAL_AT_CHECKSUM; at += 8) {
        if (load_u64(bytes + at) != 0) {
            return error_corrupt(err, file, at, "unused header bytes", 0, load_u64(bytes + at));
        }
    }
    *ret_header = header;
    return 0;
}
