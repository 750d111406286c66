/*
 * wal_record.c - building a record in memory: a batch's storage.
 *
 * Entries are encoded as they come, behind room for the header, so that sizes here are the record's own sizes.
 * Cursors are kept apart, because the entries in front of them still grow; there are few, and a later value for a name
 * replaces the earlier one in place of being appended.
 *
 *     bytes:    [ header room | entry | entry | ...      used ^          capacity ^ ]
 *     cursors:  [ cursor | cursor | ...   cursors_used ^   cursors_capacity ^ ]
 *
 *   R1  A refused call leaves the record as it was; only capacities may have grown.
 *   R2  used >= WAL_RECORD_HEADER_BYTES, also while `bytes` is still NULL.
 *   R3  used + cursors_used + padding <= LIMIT_RECORD_BYTES.
 *   R4  No two cursors of a record have the same name.
 */
#include "wal/wal_format.h"

#include "base/assert.h"
#include "base/error.h"

#include <inttypes.h>

#define RECORD_CAPACITY_MIN 512u
/* Head, space, key bytes, value bytes: what an entry needs at most in front of attributes, key and value. */
#define RECORD_ENTRY_FRAME_MAX (1u + 3u * VARINT32_BYTES_MAX)
#define RECORD_CURSOR_FRAME_MAX (3u * VARINT32_BYTES_MAX + 1u)

void wal_record_init(struct wal_record *record, const struct mem *mem) {
    *record = (struct wal_record){.mem = mem, .used = WAL_RECORD_HEADER_BYTES};
}

void wal_record_fini(struct wal_record *record) {
    mem_free(record->mem, record->bytes);
    mem_free(record->mem, record->cursors);
    wal_record_init(record, record->mem);
}

void wal_record_clear(struct wal_record *record) {
    record->used = WAL_RECORD_HEADER_BYTES;
    record->cursors_used = 0;
    record->entries = 0;
    record->cursor_count = 0;
}

uint64_t wal_record_bytes(const struct wal_record *record) {
    uint64_t bytes = (uint64_t)record->used + record->cursors_used;
    return (bytes + WAL_RECORD_ALIGNMENT - 1) & ~(uint64_t)(WAL_RECORD_ALIGNMENT - 1);
}

/* Checks R3 for `more` bytes on top of what the record holds. */
static int wal_record_check_limit(const struct wal_record *record, uint64_t more, struct pleat_error *err) {
    uint64_t held = (uint64_t)record->used + record->cursors_used + WAL_RECORD_ALIGNMENT;
    if (more > LIMIT_RECORD_BYTES || held > LIMIT_RECORD_BYTES - more) {
        return error_set(err, PLEAT_ERR_INVALID, 0,
                         "batch of %" PRIu64 " bytes cannot take %" PRIu64 " more: the limit is %" PRIu64, held, more,
                         (uint64_t)LIMIT_RECORD_BYTES);
    }
    return 0;
}

/* Makes one of the two buffers hold at least `needed` bytes, at least doubling it. */
static int wal_record_grow(const struct mem *mem, uint8_t **buffer, size_t *capacity, uint64_t needed,
                           struct pleat_error *err) {
    uint64_t bytes = (uint64_t)*capacity * 2;
    if (bytes < RECORD_CAPACITY_MIN) {
        bytes = RECORD_CAPACITY_MIN;
    }
    if (bytes < needed) {
        bytes = needed;
    }
    uint8_t *grown = bytes <= SIZE_MAX ? mem_resize(mem, *buffer, (size_t)bytes) : NULL;
    if (grown == NULL) {
        return error_no_memory(err, "batch", bytes);
    }
    *buffer = grown;
    *capacity = (size_t)bytes;
    return 0;
}

/* The uncommon half of adding: limits, and more room. Kept out of line so that the common half stays small. */
static __attribute__((noinline)) int wal_record_make_room(struct wal_record *record, uint64_t more,
                                                          struct pleat_error *err) {
    int rc = wal_record_check_limit(record, more, err);
    if (rc != 0) {
        return rc;
    }
    if (record->entries == UINT32_MAX) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "batch holds %" PRIu32 " entries, the limit", record->entries);
    }
    if (record->used + more <= record->capacity) {
        return 0;
    }
    return wal_record_grow(record->mem, &record->bytes, &record->capacity, record->used + more, err);
}

int wal_record_add(struct wal_record *record, uint32_t space, const struct entry *entry, void **ret_value,
                   struct pleat_error *err) {
    ASSERT(entry->kind == ENTRY_PUT || entry->kind == ENTRY_DELETE);
    ASSERT(entry->key_bytes <= LIMIT_KEY_BYTES && entry->version_bytes <= LIMIT_VERSION_BYTES);
    bool is_put = entry->kind == ENTRY_PUT;
    uint32_t value_bytes = is_put ? entry->value_bytes : 0;
    uint64_t more = (uint64_t)RECORD_ENTRY_FRAME_MAX + entry_attribute_bytes(entry) + entry->key_bytes + value_bytes;
    /* While everything fits a quarter of the limit in one buffer, the limits cannot be near: one comparison tells. */
    uint64_t after = (uint64_t)record->used + more;
    if (UNLIKELY(after > record->capacity || after > LIMIT_RECORD_BYTES / 4 || record->entries == UINT32_MAX)) {
        int rc = wal_record_make_room(record, more, err);
        if (rc != 0) {
            return rc;
        }
    }

    uint8_t *p = record->bytes + record->used;
    uint8_t head = entry_head(entry);
    *p++ = head;
    p = varint_encode(p, space);
    p = varint_encode(p, entry->key_bytes);
    if (is_put) {
        p = varint_encode(p, value_bytes);
    }
    if ((head & ~ENTRY_KIND_MASK) != 0) {
        p = entry_attributes_encode(p, entry);
    }
    if (entry->key_bytes > 0) {
        memcpy(p, entry->key, entry->key_bytes);
        p += entry->key_bytes;
    }
    if (ret_value != NULL) {
        *ret_value = value_bytes > 0 ? p : NULL;
    }
    if (value_bytes > 0) {
        if (entry->value != NULL) {
            memcpy(p, entry->value, value_bytes);
        } else {
            /* Room that the caller fills; zeros until then, so that stale heap bytes never reach a disk. */
            ASSERT(ret_value != NULL);
            memset(p, 0, value_bytes);
        }
        p += value_bytes;
    }
    record->used = (size_t)(p - record->bytes);
    record->entries++;
    return 0;
}

/* Finds the encoded cursor of that name: its offset and length, false when there is none. */
static bool wal_record_find_cursor(const struct wal_record *record, const struct wal_cursor *wanted,
                                   size_t *ret_offset, size_t *ret_bytes) {
    struct wal_view view;
    wal_record_view(record, &view);
    for (;;) {
        const uint8_t *start = view.cursors;
        struct wal_cursor cursor;
        int rc = wal_view_cursor(&view, &cursor);
        if (rc == PLEAT_END) {
            return false;
        }
        ASSERT(rc == 0); /* we encoded it ourselves */
        if (key_compare(cursor.name, cursor.name_bytes, wanted->name, wanted->name_bytes) == 0) {
            *ret_offset = (size_t)(start - record->cursors);
            *ret_bytes = (size_t)(view.cursors - start);
            return true;
        }
    }
}

static uint8_t *wal_record_copy(uint8_t *p, const uint8_t *data, uint32_t bytes) {
    if (bytes > 0) {
        memcpy(p, data, bytes);
    }
    return p + bytes;
}

int wal_record_set_cursor(struct wal_record *record, const struct wal_cursor *cursor, struct pleat_error *err) {
    ASSERT(cursor->name_bytes <= LIMIT_CURSOR_NAME_BYTES && cursor->value_bytes <= LIMIT_CURSOR_BYTES);
    ASSERT(cursor->incarnation_bytes <= LIMIT_INCARNATION_BYTES);
    ASSERT(!cursor->removes ||
           (cursor->value_bytes == 0 && cursor->incarnation_bytes == 0 && !cursor->replace_incarnation));
    size_t old_offset = 0;
    size_t old_bytes = 0;
    bool replaces = wal_record_find_cursor(record, cursor, &old_offset, &old_bytes);
    if (!replaces && record->cursor_count == LIMIT_CURSORS) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "batch sets or removes %" PRIu32 " cursors, the limit",
                         record->cursor_count);
    }
    uint64_t more = (uint64_t)RECORD_CURSOR_FRAME_MAX + cursor->name_bytes + cursor->value_bytes +
                    cursor->incarnation_bytes;
    int rc = wal_record_check_limit(record, more, err);
    if (rc != 0) {
        return rc;
    }
    if (record->cursors_used + more > record->cursors_capacity) {
        rc = wal_record_grow(record->mem, &record->cursors, &record->cursors_capacity, record->cursors_used + more,
                             err);
        if (rc != 0) {
            return rc;
        }
    }

    if (replaces) {
        uint8_t *old = record->cursors + old_offset;
        memmove(old, old + old_bytes, record->cursors_used - old_offset - old_bytes);
        record->cursors_used -= old_bytes;
        record->cursor_count--;
    }
    uint8_t *p = record->cursors + record->cursors_used;
    p = varint_encode(p, cursor->name_bytes);
    p = varint_encode(p, cursor->value_bytes);
    p = varint_encode(p, cursor->incarnation_bytes);
    *p++ = (uint8_t)((cursor->replace_incarnation ? WAL_CURSOR_REPLACES_INCARNATION : 0) |
                     (cursor->removes ? WAL_CURSOR_REMOVES : 0));
    p = wal_record_copy(p, cursor->name, cursor->name_bytes);
    p = wal_record_copy(p, cursor->value, cursor->value_bytes);
    p = wal_record_copy(p, cursor->incarnation, cursor->incarnation_bytes);
    record->cursors_used = (size_t)(p - record->cursors);
    record->cursor_count++;
    return 0;
}
