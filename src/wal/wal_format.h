/*
 * wal_format.h - the bytes of a log segment. Private to src/wal.
 *
 * Segment header and marks, WAL_HEADER_BYTES = 160, inside the file's first 512-byte sector:
 *
 *     0  u64  magic "PLEATWAL"                    56  u64  predecessor: running hash at its end
 *     8  u32  format version, 1                   64  u64  first sequence
 *    12  u32  offset of the first record, 160     72  u64  reserved bytes: the size of the segment
 *    16  16   store id                            80  u64  edition of the manifest: incarnation, 0 for unknown
 *    32  u64  segment number                      88  u64  edition of the manifest: frames
 *    40  u64  predecessor: segment, 0 for none     96  24   zero
 *    48  u64  predecessor: last sequence          120  u64  checksum: xxh3-64 of bytes 0..119, seed 0
 *
 *   128  16   mark 0: u64 sequence that was durable, u64 check: xxh3-64 of it, seed = the segment's key
 *   144  16   mark 1: they are written in turn, so that one of them is whole at any time
 *
 * Magic, version, and the checksum at 120 keep their places in every version, so that "newer" and "damaged" are told
 * apart: a version is believed only after the checksum.
 *
 * Record, at a multiple of 8, WAL_RECORD_HEADER_BYTES = 48 and then the payload:
 *
 *     0  u32  record bytes / 8, header and padding included; stored last
 *     4  u32  entries
 *     8  u64  sequence
 *    16  u64  durable sequence: the highest known durable when this was written; below the sequence
 *    24  u32  bytes of the cursors
 *    28  u16  cursors
 *    30  u8   padding, 0..7
 *    31  u8   zero
 *    32  u64  header check: xxh3-64 of bytes 0..31, seed = the segment's key
 *    40  u64  checksum: xxh3-64 of bytes 48..end, seed = the header check
 *    48       entries, cursors, padding (zero)
 *
 * The segment's key mixes store id and segment number, so a record validates in its own place only. The header has a
 * check of its own because a scan behind a damaged record tries every multiple of 8: what merely looks like a header
 * (a value may hold anything) is refused for the price of 32 bytes, and a length is believed, and memory allocated for
 * it, only after that check.
 *
 *     entry    head (entry.h), varint space, varint key bytes, varint value bytes (puts only),
 *              attributes (entry.h), key, value
 *     cursor   varint name bytes, varint value bytes, varint incarnation bytes, flags (bit 0: replaces the
 *              incarnation; bit 1: removes the cursor, without value, incarnation and bit 0; others zero), name, value,
 *              incarnation
 *
 * The running hash starts as the segment header's checksum, which covers the predecessor's, and each record steps it:
 * running = hash_mix(running, checksum).
 */
#ifndef PLEAT_WAL_WAL_FORMAT_H
#define PLEAT_WAL_WAL_FORMAT_H

#include "base/bytes.h"
#include "base/hash.h"
#include "base/limits.h"
#include "base/mutation.h"
#include "wal/wal.h"

#include <assert.h>

#define WAL_MAGIC 0x4c41575441454c50ull /* "PLEATWAL" as a little-endian number */
#define WAL_FORMAT_VERSION 1u

#define WAL_AT_VERSION 8
#define WAL_AT_FIRST_RECORD 12
#define WAL_AT_STORE_ID 16
#define WAL_AT_SEGMENT 32
#define WAL_AT_PREDECESSOR 40
#define WAL_AT_FIRST_SEQUENCE 64
#define WAL_AT_RESERVED 72
#define WAL_AT_EDITION 80
#define WAL_AT_ZERO 96
#define WAL_AT_CHECKSUM 120

#define WAL_AT_MARKS 128
#define WAL_MARKS 2u
#define WAL_MARK_BYTES 16u

#define WAL_RECORD_HEADER_BYTES 48u
#define WAL_RECORD_CHECKED_BYTES 32u /* of the header, by its own check */
#define WAL_RECORD_ALIGNMENT 8u
#define WAL_ENTRY_BYTES_MIN 3u /* a delete of the empty key: head, space, key bytes */
#define WAL_CURSOR_BYTES_MIN 4u
#define WAL_CURSOR_REPLACES_INCARNATION 0x01u
#define WAL_CURSOR_REMOVES 0x02u

static_assert(WAL_AT_CHECKSUM + 8 == WAL_AT_MARKS, "the checksum ends the header");
static_assert(WAL_AT_MARKS + WAL_MARKS * WAL_MARK_BYTES == WAL_HEADER_BYTES, "records begin behind the marks");
static_assert(WAL_HEADER_BYTES <= 512, "a header inside one sector is there as a whole or not at all");
static_assert(WAL_HEADER_BYTES % WAL_RECORD_ALIGNMENT == 0, "the first record is aligned");
static_assert(WAL_RECORD_HEADER_BYTES % WAL_RECORD_ALIGNMENT == 0, "payloads are aligned");
static_assert(LIMIT_RECORD_BYTES / WAL_RECORD_ALIGNMENT <= UINT32_MAX, "record lengths are kept in 32 bits");
static_assert(LIMIT_CURSORS <= UINT16_MAX, "cursor counts are kept in 16 bits");

/* What the records of one segment are keyed by. */
static inline uint64_t wal_format_key(const uint8_t *store_id, uint64_t segment) {
    return MUTATION(wal_record_key) ? 0 : hash_mix(hash_mix(load_u64(store_id), load_u64(store_id + 8)), segment);
}

/* The checksum of a record's payload, keyed by the check of its header: no payload validates below another header. */
static inline uint64_t wal_format_payload_checksum(const uint8_t *payload, uint64_t bytes, uint64_t check) {
    return hash_bytes(payload, (size_t)bytes, MUTATION(wal_record_chain_key) ? 0 : check);
}

/* A segment header as fields. */
struct wal_format_header {
    struct wal_header fields;
    uint64_t reserved_bytes;
    uint64_t checksum; /* where the running hash starts */
};

static inline void wal_format_mark_encode(uint64_t sequence, uint64_t key, uint8_t bytes[WAL_MARK_BYTES]) {
    store_u64(bytes, sequence);
    store_u64(bytes + 8, hash_bytes(bytes, 8, key));
}

/* The highest sequence that a valid mark of the WAL_HEADER_BYTES at `header` says was durable, or 0. */
static inline uint64_t wal_format_marked(const uint8_t *header, uint64_t key) {
    uint64_t sequence = 0;
    for (unsigned i = 0; i < WAL_MARKS; i++) {
        const uint8_t *mark = header + WAL_AT_MARKS + i * WAL_MARK_BYTES;
        if (hash_bytes(mark, 8, key) == load_u64(mark + 8) && load_u64(mark) > sequence) {
            sequence = load_u64(mark);
        }
    }
    return sequence;
}

/* Fills `bytes` (WAL_HEADER_BYTES of them) and header->checksum. */
void wal_format_header_encode(struct wal_format_header *header, const uint8_t *store_id, uint8_t *bytes);
/* Verifies WAL_HEADER_BYTES that should be those of `segment`: 0, PLEAT_ERR_CORRUPT or PLEAT_ERR_NEWER. */
int wal_format_header_decode(const uint8_t *bytes, const uint8_t *store_id, uint64_t segment, const char *file,
                             struct wal_format_header *ret_header, struct pleat_error *err);

/* A record header as fields. */
struct wal_format_record {
    uint64_t bytes; /* of the record, header and padding included */
    uint64_t sequence;
    uint64_t durable_sequence;
    uint32_t entries;
    uint32_t cursors_bytes;
    uint16_t cursors;
    uint8_t padding;
    uint64_t check;
    uint64_t checksum;
};

/* Fills the checked part of a record header and record->check. */
static inline void wal_format_record_encode(struct wal_format_record *record, uint64_t key,
                                            uint8_t bytes[WAL_RECORD_CHECKED_BYTES]) {
    /* In whole words: the hash loads words, and would wait for narrower stores to leave the processor. */
    store_u64(bytes, (uint32_t)(record->bytes / WAL_RECORD_ALIGNMENT) | (uint64_t)record->entries << 32);
    store_u64(bytes + 8, record->sequence);
    store_u64(bytes + 16, record->durable_sequence);
    store_u64(bytes + 24,
              record->cursors_bytes | (uint64_t)record->cursors << 32 | (uint64_t)record->padding << 48);
    record->check = hash_bytes(bytes, WAL_RECORD_CHECKED_BYTES, key);
}

/* Whether WAL_RECORD_HEADER_BYTES at `p`, with `rest` bytes of the segment from there on, are a record header of the
 * segment with that key; cheap tests first. The payload is not looked at. */
static inline bool wal_format_record_decode(const uint8_t *p, uint64_t rest, uint64_t key,
                                            struct wal_format_record *ret_record) {
    uint64_t bytes = (uint64_t)load_u32(p) * WAL_RECORD_ALIGNMENT;
    if (bytes < WAL_RECORD_HEADER_BYTES || bytes > rest || p[30] >= WAL_RECORD_ALIGNMENT || p[31] != 0) {
        return false;
    }
    uint64_t sequence = load_u64(p + 8);
    uint64_t durable_sequence = load_u64(p + 16);
    uint32_t cursors_bytes = load_u32(p + 24);
    uint64_t around = (uint64_t)WAL_RECORD_HEADER_BYTES + cursors_bytes + p[30];
    if (durable_sequence >= sequence || sequence == UINT64_MAX || around > bytes) {
        return false;
    }
    uint64_t check = hash_bytes(p, WAL_RECORD_CHECKED_BYTES, key);
    if (check != load_u64(p + 32) && !MUTATION(wal_header_check)) {
        return false;
    }
    *ret_record = (struct wal_format_record){
        .bytes = bytes,
        .sequence = sequence,
        .durable_sequence = durable_sequence,
        .entries = load_u32(p + 4),
        .cursors_bytes = cursors_bytes,
        .cursors = load_u16(p + 28),
        .padding = p[30],
        .check = check,
        .checksum = load_u64(p + 40),
    };
    return true;
}

#endif
