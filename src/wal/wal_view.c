/*
 * wal_view.c - reading the entries and cursors of a record, in a batch or from a segment.
 *
 * A view is consumed from the front. The bytes may be hostile (a checksum proves who wrote them, not that they make
 * sense), so every length is compared with what is left before it is used, and counts and bytes must end together.
 */
#include "wal/wal_format.h"

#include "base/assert.h"

void wal_record_view(const struct wal_record *record, struct wal_view *ret_view) {
    *ret_view = (struct wal_view){
        .entries = record->bytes != NULL ? record->bytes + WAL_RECORD_HEADER_BYTES : NULL,
        .entries_end = record->bytes != NULL ? record->bytes + record->used : NULL,
        .cursors = record->cursors,
        .cursors_end = record->cursors != NULL ? record->cursors + record->cursors_used : NULL,
        .entry_count = record->entries,
        .cursor_count = record->cursor_count,
    };
}

/* A varint of at most `limit`; nearly all of them are one byte. NULL when it is cut short or too large. */
static inline const uint8_t *wal_view_number(const uint8_t *p, const uint8_t *end, uint64_t limit, uint32_t *ret_x) {
    if (LIKELY(p < end && *p < 0x80)) {
        *ret_x = *p;
        return *p <= limit ? p + 1 : NULL;
    }
    uint64_t x;
    p = varint_decode(p, end, &x);
    if (p == NULL || x > limit) {
        return NULL;
    }
    *ret_x = (uint32_t)x;
    return p;
}

int wal_view_entry(struct wal_view *view, uint32_t *ret_space, struct entry *ret_entry) {
    const uint8_t *p = view->entries;
    const uint8_t *end = view->entries_end;
    if (view->entry_count == 0) {
        return p == end ? PLEAT_END : PLEAT_ERR_CORRUPT;
    }
    if (p == end) {
        return PLEAT_ERR_CORRUPT;
    }
    uint8_t head = *p++;
    uint32_t key_bytes = 0;
    uint32_t value_bytes = 0;
    p = wal_view_number(p, end, UINT32_MAX, ret_space);
    if (p == NULL) {
        return PLEAT_ERR_CORRUPT;
    }
    p = wal_view_number(p, end, LIMIT_KEY_BYTES, &key_bytes);
    if (p == NULL) {
        return PLEAT_ERR_CORRUPT;
    }
    if ((head & ENTRY_KIND_MASK) == ENTRY_PUT) {
        p = wal_view_number(p, end, LIMIT_VALUE_BYTES, &value_bytes);
        if (p == NULL) {
            return PLEAT_ERR_CORRUPT;
        }
    }
    if (LIKELY(head == ENTRY_PUT)) {
        *ret_entry = (struct entry){.kind = ENTRY_PUT};
    } else {
        p = entry_attributes_decode(p, end, head, ret_entry);
        if (p == NULL) {
            return PLEAT_ERR_CORRUPT;
        }
    }
    if ((uint64_t)(end - p) < (uint64_t)key_bytes + value_bytes) {
        return PLEAT_ERR_CORRUPT;
    }
    ret_entry->key = p;
    ret_entry->key_bytes = key_bytes;
    ret_entry->value = value_bytes > 0 ? p + key_bytes : NULL;
    ret_entry->value_bytes = value_bytes;
    ret_entry->sequence = view->sequence;
    view->entries = p + key_bytes + value_bytes;
    view->entry_count--;
    return 0;
}

int wal_view_cursor(struct wal_view *view, struct wal_cursor *ret_cursor) {
    const uint8_t *p = view->cursors;
    const uint8_t *end = view->cursors_end;
    if (view->cursor_count == 0) {
        return p == end ? PLEAT_END : PLEAT_ERR_CORRUPT;
    }
    struct wal_cursor cursor = {0};
    p = wal_view_number(p, end, LIMIT_CURSOR_NAME_BYTES, &cursor.name_bytes);
    if (p != NULL) {
        p = wal_view_number(p, end, LIMIT_CURSOR_BYTES, &cursor.value_bytes);
    }
    if (p != NULL) {
        p = wal_view_number(p, end, LIMIT_INCARNATION_BYTES, &cursor.incarnation_bytes);
    }
    if (p == NULL || p == end || (*p & ~(WAL_CURSOR_REPLACES_INCARNATION | WAL_CURSOR_REMOVES)) != 0) {
        return PLEAT_ERR_CORRUPT;
    }
    cursor.replace_incarnation = (*p & WAL_CURSOR_REPLACES_INCARNATION) != 0;
    cursor.removes = (*p & WAL_CURSOR_REMOVES) != 0;
    if (cursor.removes && (*p != WAL_CURSOR_REMOVES || cursor.value_bytes > 0 || cursor.incarnation_bytes > 0)) {
        return PLEAT_ERR_CORRUPT;
    }
    p++;
    if ((uint64_t)(end - p) < (uint64_t)cursor.name_bytes + cursor.value_bytes + cursor.incarnation_bytes) {
        return PLEAT_ERR_CORRUPT;
    }
    cursor.name = p;
    cursor.value = cursor.name + cursor.name_bytes;
    cursor.incarnation = cursor.value + cursor.value_bytes;
    *ret_cursor = cursor;
    view->cursors = cursor.incarnation + cursor.incarnation_bytes;
    view->cursor_count--;
    return 0;
}
