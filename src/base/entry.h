/*
 * entry.h - one update or stored row, as every room hands it on, and its kinds and attribute bits.
 *
 * The head byte of every encoded entry, in the log, in memtable records and in table blocks:
 *
 *   bit 0..3  kind       1 put, 2 delete; reserved: 3 range delete, 4 merge operand, 5 separated value
 *   bit 4     has a flag byte of the user
 *   bit 5     has a version (a length byte 1..32, then the bytes)
 *   bit 6     has a deadline (u64, ms since 1970)
 *   bit 7     reserved, zero
 *
 * Order of entries everywhere: key ascending. Only the memtable holds several versions of a key (newest first); what
 * leaves it through a source is one entry a key.
 */
#ifndef PLEAT_BASE_ENTRY_H
#define PLEAT_BASE_ENTRY_H

#include <stddef.h>
#include <stdint.h>

enum entry_kind {
    ENTRY_PUT = 1,
    ENTRY_DELETE = 2,
    ENTRY_RANGE_DELETE = 3, /* reserved */
    ENTRY_MERGE = 4,        /* reserved */
    ENTRY_VALUE_REF = 5,    /* reserved */
};

#define ENTRY_KIND_MASK 0x0fu
#define ENTRY_HAS_FLAG 0x10u
#define ENTRY_HAS_VERSION 0x20u
#define ENTRY_HAS_DEADLINE 0x40u
#define ENTRY_RESERVED 0x80u

/* Borrowed view of an entry: pointers belong to whoever filled it in. */
struct entry {
    const uint8_t *key;
    const uint8_t *value;   /* NULL for a delete or an empty value */
    const uint8_t *version; /* NULL when version_bytes is 0 */
    uint64_t sequence;      /* of the commit; 0: from a table, where it is not kept */
    uint64_t deadline_ms;   /* 0: none */
    uint32_t key_bytes;
    uint32_t value_bytes;
    uint8_t kind;           /* enum entry_kind */
    uint8_t has_flag;       /* 0 or 1 */
    uint8_t flag;
    uint8_t version_bytes;  /* 0..LIMIT_VERSION_BYTES */
};

/* The head byte that describes the entry's kind and attributes. */
static inline uint8_t entry_head(const struct entry *entry) {
    return (uint8_t)(entry->kind | (entry->has_flag ? ENTRY_HAS_FLAG : 0) |
                     (entry->version_bytes > 0 ? ENTRY_HAS_VERSION : 0) |
                     (entry->deadline_ms != 0 ? ENTRY_HAS_DEADLINE : 0));
}

/* Bytes of the attributes that the head announces: flag, version with its length byte, deadline. */
static inline size_t entry_attribute_bytes(const struct entry *entry) {
    return (size_t)(entry->has_flag ? 1 : 0) + (entry->version_bytes > 0 ? 1u + entry->version_bytes : 0) +
           (entry->deadline_ms != 0 ? 8u : 0);
}

/* Writes the attributes in head-bit order (flag; version length, version; deadline) and returns the end. */
uint8_t *entry_attributes_encode(uint8_t *p, const struct entry *entry);

/* Reads the attributes that `head` announces from [p, end) into *entry (kind included; version is borrowed from p).
 * Returns the end, or NULL when they are cut short, a reserved bit is set, the kind is none that this version knows
 * (put, delete), or a version length is 0 or above the limit. For hostile bytes. */
const uint8_t *entry_attributes_decode(const uint8_t *p, const uint8_t *end, uint8_t head, struct entry *entry);

#endif
