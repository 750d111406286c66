/*
 * table_bytes.h - bytes that grow, for what a table is built from.
 */
#ifndef PLEAT_SSTABLE_TABLE_BYTES_H
#define PLEAT_SSTABLE_TABLE_BYTES_H

#include "base/mem.h"
#include "pleat/pleat.h"

#include <stddef.h>
#include <stdint.h>

/* Zero-initialised; mem_free(data) ends it. */
struct table_bytes {
    uint8_t *data;
    size_t bytes;
    size_t capacity;
};
/* Room for `more` bytes behind those held. */
int table_bytes_reserve(const struct mem *mem, struct table_bytes *buffer, size_t more, struct pleat_error *err);
int table_bytes_append(const struct mem *mem, struct table_bytes *buffer, const void *data, size_t bytes,
                       struct pleat_error *err);

#endif
