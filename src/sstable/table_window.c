/*
 * table_window.c - see table_window.h.
 *
 *     forward       [ block | block | ...        ]          backward      [ ...        | block | block ]
 *                   ^ asked for                                                                ^ asked for
 */
#include "sstable/table_window.h"

/* Where a window for the block at [from, to) begins and ends. */
static void window_place(const struct table_window *window, uint64_t from, uint64_t to, uint64_t *ret_from,
                         uint64_t *ret_to) {
    *ret_from = from;
    *ret_to = to;
    if (window->is_backward) {
        *ret_from = to > TABLE_WINDOW_BYTES ? to - TABLE_WINDOW_BYTES : 0;
        return;
    }
    uint64_t end = window->end > to ? window->end : to;
    *ret_to = end - from > TABLE_WINDOW_BYTES ? from + TABLE_WINDOW_BYTES : end;
}

const uint8_t *table_window_piece(const struct table *table, struct table_window *window,
                                  const struct table_handle *handle) {
    const struct table_store *store = table->store;
    uint64_t from = handle->offset, bytes = TABLE_HEADER_BYTES + (uint64_t)handle->stored_bytes;
    if (bytes > TABLE_WINDOW_BYTES) {
        return NULL;
    }
    if (from < window->start || from + bytes > window->start + window->held) {
        uint64_t window_from, window_to;
        if (window->bytes == NULL && (window->bytes = mem_alloc(store->mem, TABLE_WINDOW_BYTES)) == NULL) {
            return NULL;
        }
        window_place(window, from, from + bytes, &window_from, &window_to);
        window->held = 0;
        if (table_read(table, window_from, window->bytes, (size_t)(window_to - window_from), NULL) < 0) {
            return NULL; /* V2 */
        }
        window->start = window_from;
        window->held = (size_t)(window_to - window_from);
    }
    return window->bytes + (from - window->start);
}

void table_window_fini(const struct table *table, struct table_window *window) {
    mem_free(table->store->mem, window->bytes);
    window->bytes = NULL;
    window->held = 0;
}
