/*
 * record.h - one update as it lies in the arena.
 *
 *     0            4             8           16          18      19
 *     | next u32   | value_bytes | sequence  | key_bytes | head  | key | attributes | value |   padded to 8
 *
 *   R1  A record does not change once it has been linked. `next`, the next older record of the same key, is written
 *       before, also when the record replaces another one of its commit (M5): it then takes over that one's `next`.
 *   R2  Sequences fall strictly along a chain.
 *
 * The key stands at a fixed offset, before the attributes: a descent ends with comparing it.
 */
#ifndef PLEAT_MEMTABLE_RECORD_H
#define PLEAT_MEMTABLE_RECORD_H

#include "base/entry.h"
#include "base/limits.h"
#include "memtable/arena_internal.h"

#include <stddef.h>
#include <string.h>

struct record {
    uint32_t next; /* reference, 0: none */
    uint32_t value_bytes;
    uint64_t sequence;
    uint16_t key_bytes;
    uint8_t head;
    uint8_t bytes[]; /* key, attributes, value */
};

#define RECORD_HEADER_BYTES offsetof(struct record, bytes)
/* flag; version with its length byte; deadline */
#define RECORD_ATTRIBUTE_BYTES_MAX (1u + 1u + LIMIT_VERSION_BYTES + 8u)

static_assert(RECORD_HEADER_BYTES == 19, "the layout drawn above");

static inline struct record *record_at(uint8_t *base, uint32_t reference) {
    return arena_pointer(base, reference);
}

/* Describes the record; what *ret_entry points to is the record's own bytes. */
static inline void record_read(const struct record *record, struct entry *ret_entry) {
    const uint8_t *p = record->bytes + record->key_bytes;
    if (LIKELY((record->head & ~ENTRY_KIND_MASK) == 0)) {
        ret_entry->kind = record->head;
        ret_entry->has_flag = 0;
        ret_entry->flag = 0;
        ret_entry->version = NULL;
        ret_entry->version_bytes = 0;
        ret_entry->deadline_ms = 0;
    } else {
        p = entry_attributes_decode(p, p + RECORD_ATTRIBUTE_BYTES_MAX, record->head, ret_entry);
        ASSERT(p != NULL);
    }
    ret_entry->key = record->bytes;
    ret_entry->key_bytes = record->key_bytes;
    ret_entry->value = record->value_bytes > 0 ? p : NULL;
    ret_entry->value_bytes = record->value_bytes;
    ret_entry->sequence = record->sequence;
}

/* The newest record of the chain with a sequence <= `sequence`, or NULL. */
static inline struct record *record_visible(uint8_t *base, struct record *record, uint64_t sequence) {
    while (record->sequence > sequence) {
        if (record->next == 0) {
            return NULL;
        }
        record = record_at(base, record->next);
    }
    return record;
}

#endif
