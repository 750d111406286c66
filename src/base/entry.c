/* entry.c - see entry.h. */
#include "base/entry.h"

#include "base/bytes.h"
#include "base/limits.h"

#include <string.h>

uint8_t *entry_attributes_encode(uint8_t *p, const struct entry *entry) {
    if (entry->has_flag) {
        *p++ = entry->flag;
    }
    if (entry->version_bytes > 0) {
        *p++ = entry->version_bytes;
        memcpy(p, entry->version, entry->version_bytes);
        p += entry->version_bytes;
    }
    if (entry->deadline_ms != 0) {
        store_u64(p, entry->deadline_ms);
        p += 8;
    }
    return p;
}

const uint8_t *entry_attributes_decode(const uint8_t *p, const uint8_t *end, uint8_t head, struct entry *entry) {
    uint8_t kind = head & ENTRY_KIND_MASK;
    if ((head & ENTRY_RESERVED) != 0 || (kind != ENTRY_PUT && kind != ENTRY_DELETE)) {
        return NULL;
    }
    entry->kind = kind;
    entry->has_flag = (head & ENTRY_HAS_FLAG) != 0;
    entry->flag = 0;
    entry->version = NULL;
    entry->version_bytes = 0;
    entry->deadline_ms = 0;
    if (entry->has_flag) {
        if (p >= end) {
            return NULL;
        }
        entry->flag = *p++;
    }
    if ((head & ENTRY_HAS_VERSION) != 0) {
        if (p >= end || *p == 0 || *p > LIMIT_VERSION_BYTES || (size_t)(end - p) < 1u + *p) {
            return NULL;
        }
        entry->version_bytes = *p++;
        entry->version = p;
        p += entry->version_bytes;
    }
    if ((head & ENTRY_HAS_DEADLINE) != 0) {
        if ((size_t)(end - p) < 8) {
            return NULL;
        }
        entry->deadline_ms = load_u64(p);
        if (entry->deadline_ms == 0) {
            return NULL;
        }
        p += 8;
    }
    return p;
}
