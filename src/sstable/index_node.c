/*
 * index_node.c - see index_node.h: encoding a node, proving one that was read, searching it.
 *
 * Two separators whose heads are equal differ behind the head, or are shorter than it: then one is the other with zero
 * bytes behind, and the lengths decide.
 */
#include "sstable/index_node.h"

#include "base/assert.h"
#include "base/error.h"

#include <inttypes.h>
#include <string.h>

/* ---- building --------------------------------------------------------------------------------------------------- */

int index_node_add_separator(const struct mem *mem, struct index_node_parts *parts, const uint8_t *separator,
                             size_t separator_bytes, struct pleat_error *err) {
    ASSERT(separator_bytes > 0 && separator_bytes <= LIMIT_KEY_BYTES);
    uint8_t length[2];
    store_u16(length, (uint16_t)separator_bytes);
    int rc = table_bytes_append(mem, &parts->lengths, length, sizeof length, err);
    return rc < 0 ? rc : table_bytes_append(mem, &parts->separators, separator, separator_bytes, err);
}

int index_node_add_child(const struct mem *mem, struct index_node_parts *parts, uint32_t stored_bytes,
                         uint32_t image_bytes, struct pleat_error *err) {
    if (parts->covered_bytes >= INDEX_NODE_COVERED_MAX) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "an index node over %" PRIu64 " bytes, the limit is %" PRIu64,
                         parts->covered_bytes, INDEX_NODE_COVERED_MAX);
    }
    uint8_t place[8];
    store_u32(place, (uint32_t)parts->covered_bytes);
    store_u32(place + 4, image_bytes);
    int rc = table_bytes_append(mem, &parts->places, place, sizeof place, err);
    if (rc == 0) {
        parts->covered_bytes += TABLE_HEADER_BYTES + (uint64_t)stored_bytes;
        parts->count++;
    }
    return rc;
}

/* Bytes of a separator behind prefix and head. */
static inline size_t index_node_tail(size_t separator_bytes, size_t prefix_bytes) {
    size_t rest = separator_bytes - prefix_bytes;
    return rest > INDEX_NODE_HEAD_BYTES ? rest - INDEX_NODE_HEAD_BYTES : 0;
}

static uint64_t index_node_bytes(uint64_t count, uint64_t prefix_bytes, uint64_t tail_bytes) {
    uint64_t separators = count - 1;
    return INDEX_NODE_STRINGS + index_node_prefix_room(prefix_bytes) + separators * (INDEX_NODE_HEAD_BYTES + 2) +
           count * 8 + (tail_bytes > 0 ? separators * 4 : 0) + tail_bytes;
}

/* What all separators begin with: as they ascend, what the first and the last do. */
static size_t index_node_prefix(const struct index_node_parts *parts) {
    size_t count = parts->count - 1;
    if (count == 0) {
        return 0;
    }
    const uint8_t *separators = parts->separators.data;
    size_t last_bytes = load_u16(parts->lengths.data + (count - 1) * 2);
    return key_common(separators, load_u16(parts->lengths.data), separators + parts->separators.bytes - last_bytes,
                      last_bytes);
}

int index_node_encode(const struct mem *mem, const struct index_node_parts *parts, struct table_bytes *out,
                      struct pleat_error *err) {
    size_t n = parts->count;
    ASSERT(n > 0 && parts->lengths.bytes == 2 * (n - 1));
    size_t prefix_bytes = index_node_prefix(parts), tail_bytes = 0;
    for (size_t i = 0; i + 1 < n; i++) {
        tail_bytes += index_node_tail(load_u16(parts->lengths.data + i * 2), prefix_bytes);
    }
    if (tail_bytes > UINT32_MAX) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "an index node with %zu bytes of separators, the limit is %u",
                         tail_bytes, UINT32_MAX);
    }
    size_t bytes = (size_t)index_node_bytes(n, prefix_bytes, tail_bytes);
    int rc = table_bytes_reserve(mem, out, bytes, err);
    if (rc < 0) {
        return rc;
    }
    uint8_t *image = out->data + out->bytes;
    store_u32(image + INDEX_NODE_COUNT, (uint32_t)n);
    store_u32(image + INDEX_NODE_PREFIX, (uint32_t)prefix_bytes);
    store_u32(image + INDEX_NODE_TAILS, (uint32_t)tail_bytes);
    store_u32(image + INDEX_NODE_ZERO, 0);
    const struct index_node node = index_node_of(image);
    for (size_t i = 0; i < n; i++) {
        memcpy(image + (node.offsets - image) + i * 4, parts->places.data + i * 8, 4);
        memcpy(image + (node.images - image) + i * 4, parts->places.data + i * 8 + 4, 4);
    }
    const uint8_t *separator = parts->separators.data;
    uint8_t *tail = image + (node.tails - image), *tails = tail;
    for (size_t i = 0; i + 1 < n; i++) {
        size_t separator_bytes = load_u16(parts->lengths.data + i * 2);
        size_t tail_length = index_node_tail(separator_bytes, prefix_bytes);
        store_u64(image + (node.heads - image) + i * INDEX_NODE_HEAD_BYTES,
                  key_head(separator, separator_bytes, prefix_bytes));
        store_u16(image + (node.lengths - image) + i * 2, (uint16_t)separator_bytes);
        if (tail_bytes > 0) {
            memcpy(tail, separator + separator_bytes - tail_length, tail_length);
            tail += tail_length;
            store_u32(image + (node.tail_ends - image) + i * 4, (uint32_t)(tail - tails));
        }
        separator += separator_bytes;
    }
    memset(image + INDEX_NODE_STRINGS, 0, index_node_prefix_room(prefix_bytes));
    if (prefix_bytes > 0) {
        memcpy(image + INDEX_NODE_STRINGS, parts->separators.data, prefix_bytes);
    }
    out->bytes += bytes;
    return 0;
}

void index_node_parts_clear(struct index_node_parts *parts) {
    parts->places.bytes = parts->lengths.bytes = parts->separators.bytes = 0;
    parts->covered_bytes = 0;
    parts->count = 0;
}

void index_node_parts_fini(const struct mem *mem, struct index_node_parts *parts) {
    mem_free(mem, parts->places.data);
    mem_free(mem, parts->lengths.data);
    mem_free(mem, parts->separators.data);
    *parts = (struct index_node_parts){0};
}

/* ---- separators ------------------------------------------------------------------------------------------------- */

static inline uint64_t index_node_head(const struct index_node *node, uint32_t i) {
    return load_u64(node->heads + (size_t)i * INDEX_NODE_HEAD_BYTES);
}

static inline struct pleat_slice index_node_tail_of(const struct index_node *node, uint32_t i) {
    if (node->tail_bytes == 0) {
        return (struct pleat_slice){NULL, 0};
    }
    uint32_t from = i > 0 ? load_u32(node->tail_ends + ((size_t)i - 1) * 4) : 0;
    return (struct pleat_slice){node->tails + from, load_u32(node->tail_ends + (size_t)i * 4) - from};
}

/* Of two strings with the same prefix and head, by the bytes behind the prefix and the tails: < 0, 0, > 0. */
static int index_node_order(size_t a_rest, struct pleat_slice a_tail, size_t b_rest, struct pleat_slice b_tail) {
    if (a_rest > INDEX_NODE_HEAD_BYTES && b_rest > INDEX_NODE_HEAD_BYTES) {
        return key_compare(a_tail.data, a_tail.bytes, b_tail.data, b_tail.bytes);
    }
    return (a_rest > b_rest) - (a_rest < b_rest);
}

void index_node_separator(const struct index_node *node, uint32_t i, uint8_t *ret_bytes) {
    size_t bytes = index_node_separator_bytes(node, i), rest = bytes - node->prefix_bytes;
    if (node->prefix_bytes > 0) {
        memcpy(ret_bytes, node->prefix, node->prefix_bytes);
    }
    uint64_t head = BE64(index_node_head(node, i));
    memcpy(ret_bytes + node->prefix_bytes, &head, rest < sizeof head ? rest : sizeof head);
    struct pleat_slice tail = index_node_tail_of(node, i);
    if (tail.bytes > 0) {
        memcpy(ret_bytes + node->prefix_bytes + INDEX_NODE_HEAD_BYTES, tail.data, tail.bytes);
    }
}

/* ---- verification ----------------------------------------------------------------------------------------------- */

static const char *index_node_verify_children(const struct index_node *node, uint64_t covered_bytes,
                                              uint32_t *ret_at) {
    uint64_t begin = load_u32(node->offsets);
    if (begin != 0) {
        return "place of the first child";
    }
    for (uint32_t i = 0; i < node->count; i++) {
        uint64_t end = i + 1 < node->count ? load_u32(node->offsets + ((size_t)i + 1) * 4) : covered_bytes;
        *ret_at = i;
        if (end <= begin + TABLE_HEADER_BYTES || end - begin - TABLE_HEADER_BYTES > UINT32_MAX) {
            return "length of a block or page in the index";
        }
        struct table_handle handle = index_node_child(node, i, covered_bytes);
        if (!table_handle_is_sound(&handle)) {
            return "length of a block or page in the index";
        }
        begin = end;
    }
    return NULL;
}

/* Length, head and tail of one separator fit each other. */
static bool index_node_separator_is_sound(const struct index_node *node, uint32_t i) {
    size_t bytes = index_node_separator_bytes(node, i);
    if (bytes == 0 || bytes < node->prefix_bytes) {
        return false;
    }
    size_t rest = bytes - node->prefix_bytes;
    uint64_t head = index_node_head(node, i);
    if (rest < INDEX_NODE_HEAD_BYTES && (rest == 0 ? head != 0 : head << (8 * rest) != 0)) {
        return false;
    }
    uint32_t from = node->tail_bytes > 0 && i > 0 ? load_u32(node->tail_ends + ((size_t)i - 1) * 4) : 0;
    uint32_t end = node->tail_bytes > 0 ? load_u32(node->tail_ends + (size_t)i * 4) : 0;
    return end >= from && end <= node->tail_bytes && end - from == index_node_tail(bytes, node->prefix_bytes);
}

/* The prefix is all that the separators have in common: an image has one form. */
static bool index_node_prefix_is_longest(const struct index_node *node) {
    uint32_t last = node->count - 2;
    size_t rest = index_node_separator_bytes(node, 0) - node->prefix_bytes;
    return rest == 0 || (last > 0 && index_node_head(node, 0) >> 56 != index_node_head(node, last) >> 56);
}

/* X1. */
static const char *index_node_verify_separators(const struct index_node *node, uint32_t *ret_at) {
    for (uint32_t i = 0; i + 1 < node->count; i++) {
        *ret_at = i;
        if (!index_node_separator_is_sound(node, i)) {
            return "length of a separator";
        }
        if (i == 0) {
            continue;
        }
        uint64_t before = index_node_head(node, i - 1), head = index_node_head(node, i);
        if (before > head ||
            (before == head && index_node_order(index_node_separator_bytes(node, i - 1) - node->prefix_bytes,
                                                index_node_tail_of(node, i - 1),
                                                index_node_separator_bytes(node, i) - node->prefix_bytes,
                                                index_node_tail_of(node, i)) >= 0)) {
            return "order of the separators";
        }
    }
    if (node->count == 1) {
        return node->prefix_bytes == 0 && node->tail_bytes == 0 ? NULL : "length of the separators";
    }
    uint32_t tails_end = node->tail_bytes > 0 ? load_u32(node->tail_ends + ((size_t)node->count - 2) * 4) : 0;
    return tails_end == node->tail_bytes && index_node_prefix_is_longest(node) ? NULL : "length of the separators";
}

const char *index_node_verify(const uint8_t *image, size_t image_bytes, uint64_t covered_bytes, uint32_t *ret_at) {
    *ret_at = 0;
    if (image_bytes < index_node_bytes(1, 0, 0)) {
        return "length of the index";
    }
    uint64_t count = load_u32(image + INDEX_NODE_COUNT);
    uint64_t prefix_bytes = load_u32(image + INDEX_NODE_PREFIX);
    uint64_t tail_bytes = load_u32(image + INDEX_NODE_TAILS);
    if (count == 0 || index_node_bytes(count, prefix_bytes, tail_bytes) != image_bytes) {
        return "length of the index";
    }
    if (prefix_bytes > LIMIT_KEY_BYTES || load_u32(image + INDEX_NODE_ZERO) != 0) {
        return "header of the index";
    }
    const struct index_node node = index_node_of(image);
    for (size_t i = prefix_bytes; i < index_node_prefix_room(prefix_bytes); i++) {
        if (node.prefix[i] != 0) {
            return "header of the index";
        }
    }
    const char *wrong = index_node_verify_children(&node, covered_bytes, ret_at);
    return wrong != NULL ? wrong : index_node_verify_separators(&node, ret_at);
}

struct table_handle index_node_child(const struct index_node *node, uint32_t i, uint64_t covered_bytes) {
    uint64_t begin = load_u32(node->offsets + (size_t)i * 4);
    uint64_t end = i + 1 < node->count ? load_u32(node->offsets + ((size_t)i + 1) * 4) : covered_bytes;
    return (struct table_handle){.offset = begin, .stored_bytes = (uint32_t)(end - begin - TABLE_HEADER_BYTES),
                                 .image_bytes = load_u32(node->images + (size_t)i * 4)};
}

/* ---- searching -------------------------------------------------------------------------------------------------- */

/* The key does not begin with the prefix: it is below all separators, or above. */
uint32_t index_node_find_beside(const uint8_t *image, const uint8_t *key, size_t key_bytes) {
    const struct index_node node = index_node_of(image);
    return key_compare(key, key_bytes, node.prefix, node.prefix_bytes) > 0 ? node.count - 1 : 0;
}

/* Heads from `first` on tie with the key's, whose prefix is the node's. */
uint32_t index_node_find_tied(const uint8_t *image, uint32_t first, const uint8_t *key, size_t key_bytes, bool before) {
    const struct index_node node = index_node_of(image);
    uint64_t head = index_node_head(&node, first);
    uint32_t separators = node.count - 1, end = first;
    for (uint32_t step = 1; end < separators && index_node_head(&node, end) == head; step *= 2) {
        end = step < separators - first ? first + step : separators;
    }
    size_t rest = key_bytes - node.prefix_bytes;
    size_t skip = node.prefix_bytes + INDEX_NODE_HEAD_BYTES;
    struct pleat_slice tail = {NULL, 0};
    if (rest > INDEX_NODE_HEAD_BYTES) {
        tail = (struct pleat_slice){key + skip, key_bytes - skip};
    }
    while (first < end) {
        uint32_t middle = first + (end - first) / 2;
        int order = 1;
        if (index_node_head(&node, middle) == head) {
            order = index_node_order(index_node_separator_bytes(&node, middle) - node.prefix_bytes,
                                     index_node_tail_of(&node, middle), rest, tail);
        }
        if (order < 0 || (order == 0 && !before)) {
            first = middle + 1;
        } else {
            end = middle;
        }
    }
    return first;
}
