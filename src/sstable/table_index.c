/*
 * table_index.c - see table_index.h. The image (table_format.h) leaves out what follows from X2: offsets are sums.
 */
#include "sstable/table_index.h"

#include "base/assert.h"
#include "base/bytes.h"
#include "base/error.h"
#include "base/limits.h"

#include <string.h>

/* ---- building --------------------------------------------------------------------------------------------------- */

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

size_t table_separator_bytes(const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes) {
    size_t bytes = key_common(a, a_bytes, b, b_bytes) + 1;
    ASSERT(bytes <= b_bytes); /* T1: a < b, so b does not end where they still agree */
    return bytes;
}

int table_index_parts_separator(const struct mem *mem, struct table_index_parts *parts, const uint8_t *separator,
                                size_t separator_bytes, struct pleat_error *err) {
    ASSERT(separator_bytes > 0 && separator_bytes <= LIMIT_KEY_BYTES);
    uint8_t length[2];
    store_u16(length, (uint16_t)separator_bytes);
    int rc = table_bytes_append(mem, &parts->lengths, length, sizeof length, err);
    return rc < 0 ? rc : table_bytes_append(mem, &parts->separators, separator, separator_bytes, err);
}

int table_index_parts_block(const struct mem *mem, struct table_index_parts *parts, const struct table_handle *handle,
                            struct pleat_error *err) {
    uint8_t place[TABLE_INDEX_HANDLE];
    store_u32(place, handle->stored_bytes);
    store_u32(place + 4, handle->image_bytes);
    int rc = table_bytes_append(mem, &parts->handles, place, sizeof place, err);
    parts->blocks += rc == 0;
    return rc;
}

int table_index_parts_image(const struct mem *mem, const struct table_index_parts *parts, uint8_t **ret_image,
                            size_t *ret_bytes, struct pleat_error *err) {
    ASSERT(parts->blocks > 0 && parts->lengths.bytes == 2 * ((size_t)parts->blocks - 1));
    size_t bytes = TABLE_INDEX_HANDLES + parts->handles.bytes + parts->lengths.bytes + parts->separators.bytes;
    uint8_t *image = mem_alloc(mem, bytes);
    if (image == NULL) {
        return error_no_memory(err, "the index of a table", bytes);
    }
    store_u32(image + TABLE_INDEX_BLOCKS, parts->blocks);
    store_u32(image + TABLE_INDEX_ZERO, 0);
    store_u64(image + TABLE_INDEX_SEPARATORS, parts->separators.bytes);
    uint8_t *p = image + TABLE_INDEX_HANDLES;
    memcpy(p, parts->handles.data, parts->handles.bytes);
    p += parts->handles.bytes;
    if (parts->lengths.bytes > 0) {
        memcpy(p, parts->lengths.data, parts->lengths.bytes);
        p += parts->lengths.bytes;
        memcpy(p, parts->separators.data, parts->separators.bytes);
    }
    *ret_image = image;
    *ret_bytes = bytes;
    return 0;
}

void table_index_parts_fini(const struct mem *mem, struct table_index_parts *parts) {
    mem_free(mem, parts->handles.data);
    mem_free(mem, parts->lengths.data);
    mem_free(mem, parts->separators.data);
    *parts = (struct table_index_parts){0};
}

/* ---- loading ---------------------------------------------------------------------------------------------------- */

static struct table_index *table_index_alloc(const struct mem *mem, uint32_t blocks, size_t separator_bytes) {
    size_t n = (size_t)blocks - 1;
    size_t memory_bytes = sizeof(struct table_index) + n * sizeof(uint64_t) +
                          (size_t)blocks *
                              (sizeof(struct table_handle) + sizeof(struct cache_slot) + sizeof(uint32_t)) +
                          separator_bytes;
    struct table_index *index = mem_zalloc(mem, 1, memory_bytes);
    if (index == NULL) {
        return NULL;
    }
    index->heads = (uint64_t *)(index + 1);
    index->handles = (struct table_handle *)(index->heads + n);
    index->slots = (struct cache_slot *)(index->handles + blocks);
    index->separator_offsets = (uint32_t *)(index->slots + blocks);
    index->bytes = (uint8_t *)(index->separator_offsets + blocks);
    index->memory_bytes = memory_bytes;
    index->blocks = blocks;
    index->separators = (uint32_t)n;
    return index;
}

/* X2, M3. */
static int table_index_load_handles(struct table_index *index, const uint8_t *handles,
                                    const struct table_footer *footer, const char *name, struct pleat_error *err) {
    uint64_t end = footer->index.handle.offset;
    uint64_t offset = 0;
    for (uint32_t i = 0; i < index->blocks; i++) {
        struct table_handle *handle = &index->handles[i];
        handle->offset = offset;
        handle->stored_bytes = load_u32(handles + (size_t)i * TABLE_INDEX_HANDLE);
        handle->image_bytes = load_u32(handles + (size_t)i * TABLE_INDEX_HANDLE + 4);
        if (!table_handle_is_sound(handle) || TABLE_HEADER_BYTES + (uint64_t)handle->stored_bytes > end - offset) {
            return error_corrupt(err, name, end, "length of a block in the index", end - offset, handle->stored_bytes);
        }
        offset += TABLE_HEADER_BYTES + (uint64_t)handle->stored_bytes;
        if (handle->stored_bytes > index->stored_bytes_max) {
            index->stored_bytes_max = handle->stored_bytes;
        }
        if (handle->image_bytes > index->image_bytes_max) {
            index->image_bytes_max = handle->image_bytes;
        }
    }
    return offset == end ? 0 : error_corrupt(err, name, end, "end of the blocks", end, offset);
}

/* X1; the bytes have been copied. */
static int table_index_load_separators(struct table_index *index, const uint8_t *lengths, size_t separator_bytes,
                                       uint64_t section, const char *name, struct pleat_error *err) {
    size_t offset = 0;
    for (uint32_t i = 0; i < index->separators; i++) {
        size_t bytes = load_u16(lengths + (size_t)i * 2);
        if (bytes == 0 || bytes > separator_bytes - offset) {
            return error_corrupt(err, name, section, "length of a separator", separator_bytes - offset, bytes);
        }
        index->separator_offsets[i] = (uint32_t)offset;
        offset += bytes;
        index->separator_offsets[i + 1] = (uint32_t)offset;
        if (i > 0) {
            struct pleat_slice a = table_index_separator(index, i - 1);
            struct pleat_slice b = table_index_separator(index, i);
            if (key_compare(a.data, a.bytes, b.data, b.bytes) >= 0) {
                return error_corrupt(err, name, section, "order of the separators, at", i, i - 1);
            }
        }
    }
    if (offset != separator_bytes) {
        return error_corrupt(err, name, section, "length of the separators", separator_bytes, offset);
    }
    if (index->separators > 0) {
        struct pleat_slice a = table_index_separator(index, 0);
        struct pleat_slice b = table_index_separator(index, index->separators - 1);
        index->prefix_bytes = (uint32_t)key_common(a.data, a.bytes, b.data, b.bytes);
    }
    for (uint32_t i = 0; i < index->separators; i++) {
        struct pleat_slice separator = table_index_separator(index, i);
        index->heads[i] = key_head(separator.data, separator.bytes, index->prefix_bytes);
    }
    return 0;
}

int table_index_new(const struct mem *mem, const uint8_t *image, const struct table_footer *footer, const char *name,
                    struct table_index **ret_index, struct pleat_error *err) {
    uint64_t section = footer->index.handle.offset;
    uint64_t image_bytes = footer->index.handle.image_bytes;
    if (image_bytes < TABLE_INDEX_HANDLES + TABLE_INDEX_HANDLE) {
        return error_corrupt(err, name, section, "length of the index", TABLE_INDEX_HANDLES + TABLE_INDEX_HANDLE,
                             image_bytes);
    }
    uint32_t blocks = load_u32(image + TABLE_INDEX_BLOCKS);
    if (blocks != footer->blocks || blocks == 0 || load_u32(image + TABLE_INDEX_ZERO) != 0) {
        return error_corrupt(err, name, section, "blocks in the index", footer->blocks, blocks);
    }
    uint64_t separator_bytes = load_u64(image + TABLE_INDEX_SEPARATORS);
    uint64_t expected = TABLE_INDEX_HANDLES + (uint64_t)blocks * TABLE_INDEX_HANDLE + ((uint64_t)blocks - 1) * 2;
    if (separator_bytes > image_bytes || expected + separator_bytes != image_bytes) {
        return error_corrupt(err, name, section, "length of the index", image_bytes, expected + separator_bytes);
    }
    struct table_index *index = table_index_alloc(mem, blocks, (size_t)separator_bytes);
    if (index == NULL) {
        return error_no_memory(err, "the index of a table", image_bytes);
    }
    const uint8_t *handles = image + TABLE_INDEX_HANDLES;
    const uint8_t *lengths = handles + (size_t)blocks * TABLE_INDEX_HANDLE;
    memcpy(index->bytes, lengths + ((size_t)blocks - 1) * 2, (size_t)separator_bytes);
    int rc = table_index_load_handles(index, handles, footer, name, err);
    if (rc == 0) {
        rc = table_index_load_separators(index, lengths, (size_t)separator_bytes, section, name, err);
    }
    if (rc < 0) {
        table_index_free(mem, index);
        return rc;
    }
    *ret_index = index;
    return 0;
}

void table_index_free(const struct mem *mem, struct table_index *index) {
    mem_free(mem, index);
}

/* ---- searching -------------------------------------------------------------------------------------------------- */

/* Heads from `first` on tie with the key's: the first separator greater than the key (or not less, when `equal`). */
static uint32_t table_index_find_tied(const struct table_index *index, uint32_t first, uint64_t head,
                                      const uint8_t *key, size_t key_bytes, bool equal) {
    uint32_t end = first;
    for (uint32_t step = 1; end < index->separators && index->heads[end] == head; step *= 2) {
        end = step < index->separators - first ? first + step : index->separators;
    }
    while (first < end) {
        uint32_t middle = first + (end - first) / 2;
        struct pleat_slice separator = table_index_separator(index, middle);
        int order = key_compare(separator.data, separator.bytes, key, key_bytes);
        if (order < 0 || (order == 0 && !equal)) {
            first = middle + 1;
        } else {
            end = middle;
        }
    }
    return first;
}

static inline uint32_t table_index_search(const struct table_index *index, const uint8_t *key, size_t key_bytes,
                                          bool equal) {
    uint32_t length = index->separators;
    if (length == 0) {
        return 0;
    }
    size_t prefix_bytes = index->prefix_bytes;
    if (prefix_bytes > 0) {
        size_t common = key_bytes < prefix_bytes ? key_bytes : prefix_bytes;
        int order = common > 0 ? memcmp(key, index->bytes, common) : 0; /* separator 0 begins with the prefix, too */
        if (order > 0) {
            return length;
        }
        if (order < 0 || key_bytes < prefix_bytes) {
            return 0;
        }
    }
    uint64_t head = key_head(key, key_bytes, prefix_bytes);
    const uint64_t *base = index->heads;
    while (length > 1) {
        uint32_t half = length / 2;
        __builtin_prefetch(base + half / 2 - (half > 1));
        __builtin_prefetch(base + half + half / 2 - 1);
        base += (base[half - 1] < head) * (size_t)half;
        length -= half;
    }
    uint32_t first = (uint32_t)(base - index->heads) + (*base < head);
    if (LIKELY(first == index->separators || index->heads[first] != head)) {
        return first;
    }
    return table_index_find_tied(index, first, head, key, key_bytes, equal);
}

uint32_t table_index_find(const struct table_index *index, const uint8_t *key, size_t key_bytes) {
    return table_index_search(index, key, key_bytes, false);
}

uint32_t table_index_find_before(const struct table_index *index, const uint8_t *key, size_t key_bytes) {
    return table_index_search(index, key, key_bytes, true);
}
