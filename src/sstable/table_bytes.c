/*
 * table_bytes.c - see table_bytes.h: at least doubled each time, so that n bytes are copied 2n times at most.
 */
#include "sstable/table_bytes.h"

#include "base/error.h"

#include <string.h>

int table_bytes_reserve(const struct mem *mem, struct table_bytes *buffer, size_t more, struct pleat_error *err) {
    if (more <= buffer->capacity - buffer->bytes) {
        return 0;
    }
    if (more > SIZE_MAX / 4 - buffer->bytes) {
        return error_no_memory(err, "a table's buffer", more);
    }
    size_t capacity = buffer->bytes + more;
    capacity = capacity < buffer->capacity * 2 ? buffer->capacity * 2 : capacity;
    capacity = capacity < 256 ? 256 : capacity;
    uint8_t *data = mem_resize(mem, buffer->data, capacity);
    if (data == NULL) {
        return error_no_memory(err, "a table's buffer", capacity);
    }
    buffer->data = data;
    buffer->capacity = capacity;
    return 0;
}

int table_bytes_append(const struct mem *mem, struct table_bytes *buffer, const void *data, size_t bytes,
                       struct pleat_error *err) {
    int rc = table_bytes_reserve(mem, buffer, bytes, err);
    if (rc == 0 && bytes > 0) {
        memcpy(buffer->data + buffer->bytes, data, bytes);
        buffer->bytes += bytes;
    }
    return rc;
}
