/*
 * block_builder.c - collects entries, finds the cut, writes the image.
 *
 * Entries are kept whole until their block is cut, because the common prefix, and with it every suffix, is only known
 * then. Two growable buffers hold them, so that an entry costs no allocation:
 *
 *   items   [ taken | held: {total, data, lengths, common with the key before, head, fingerprint} ... ]
 *   data    [ taken | attributes key value | attributes key value | ...                           ]
 *
 * Key and value lie side by side, so that the image gets suffix and value with one copy. What was taken is dropped from
 * both buffers only when it outweighs what is held: a byte is moved at most once on average.
 *
 * The prefix common to a run of ascending keys is that of its first and last key, and also the least `common` inside
 * the run: block_builder_cut walks with the second, the rest uses the first.
 *
 *   BB1  items[i].total is the sum over entries 0..i of their encoded bytes with the whole key; never decreases.
 *   BB2  A failed call changes nothing that was held.
 */
#include "sstable/block.h"

#include "base/error.h"
#include "base/hash.h"
#include "sstable/block_inline.h"

/* Buffers above this size shrink again as soon as nothing large is held. */
#define BLOCK_BUFFER_KEPT ((size_t)1 << 20)

struct block_item {
    uint64_t total;  /* BB1 */
    uint64_t data;   /* position in the stream of all data ever added; minus data_dropped: index in the buffer */
    uint32_t value_bytes;
    uint16_t key_bytes;
    uint16_t common; /* bytes shared with the key added before; 0 for the first */
    uint8_t head;
    uint8_t fingerprint;
    uint8_t attribute_bytes;
};

struct block_builder {
    const struct mem *mem;

    struct block_item *items;
    size_t items_used;
    size_t items_room;
    size_t items_taken; /* held are items[items_taken .. items_used) */

    uint8_t *data;
    size_t data_used;
    size_t data_room;
    uint64_t data_dropped; /* bytes of the stream before data[0] */

    uint64_t total_taken; /* items[].total of the last entry taken */
    size_t prefix_bytes;  /* common prefix of all held */

    uint8_t *image;
    size_t image_room;
};

int block_builder_new(const struct mem *mem, struct block_builder **ret_builder, struct pleat_error *err) {
    struct block_builder *builder = mem_zalloc(mem, 1, sizeof *builder);
    if (builder == NULL) {
        return error_no_memory(err, "block builder", sizeof *builder);
    }
    builder->mem = mem;
    *ret_builder = builder;
    return 0;
}

void block_builder_free(struct block_builder *builder) {
    if (builder == NULL) {
        return;
    }
    mem_free(builder->mem, builder->items);
    mem_free(builder->mem, builder->data);
    mem_free(builder->mem, builder->image);
    mem_free(builder->mem, builder);
}

size_t block_builder_count(const struct block_builder *builder) {
    return builder->items_used - builder->items_taken;
}

static const struct block_item *block_item_held(const struct block_builder *builder, size_t i) {
    return &builder->items[builder->items_taken + i];
}

static const uint8_t *block_item_data(const struct block_builder *builder, const struct block_item *item) {
    return builder->data + (item->data - builder->data_dropped);
}

static const uint8_t *block_item_key(const struct block_builder *builder, const struct block_item *item) {
    return block_item_data(builder, item) + item->attribute_bytes;
}

struct pleat_slice block_builder_key(const struct block_builder *builder, size_t i) {
    ASSERT(i < block_builder_count(builder));
    const struct block_item *item = block_item_held(builder, i);
    return (struct pleat_slice){block_item_key(builder, item), item->key_bytes};
}

/* Image bytes of the first `count` held, whose common prefix is given; a byte too many for an entry whose length varint
 * gets shorter without the prefix. Grows with count. */
static inline uint64_t block_builder_estimate(const struct block_builder *builder, size_t count, size_t prefix_bytes) {
    uint64_t total = block_item_held(builder, count - 1)->total - builder->total_taken;
    uint64_t bytes = BLOCK_HEADER_BYTES + (uint64_t)count * 3 + prefix_bytes + total - (uint64_t)count * prefix_bytes;
    return bytes <= BLOCK_NARROW_BYTES_MAX ? bytes : bytes + (uint64_t)count * 2;
}

size_t block_builder_bytes(const struct block_builder *builder) {
    size_t count = block_builder_count(builder);
    return count == 0 ? 0 : (size_t)block_builder_estimate(builder, count, builder->prefix_bytes);
}

/* ---- adding ----------------------------------------------------------------------------------------------------- */

/* Makes *buffer hold `needed` bytes, at least doubling it so that growing is amortised. */
static int block_buffer_reserve(const struct mem *mem, void **buffer, size_t *room, uint64_t needed,
                                struct pleat_error *err) {
    if (LIKELY(needed <= *room)) {
        return 0;
    }
    uint64_t wanted = (uint64_t)*room * 2 > needed ? (uint64_t)*room * 2 : needed;
    if (wanted < 4096) {
        wanted = 4096;
    }
    void *grown = wanted <= SIZE_MAX ? mem_resize(mem, *buffer, (size_t)wanted) : NULL;
    if (grown == NULL) {
        return error_no_memory(err, "block being built", wanted);
    }
    *buffer = grown;
    *room = (size_t)wanted;
    return 0;
}

/* Room for one more item and its data. */
static int block_builder_reserve(struct block_builder *builder, uint64_t data_bytes, struct pleat_error *err) {
    void *items = builder->items;
    size_t items_room = builder->items_room * sizeof *builder->items;
    int rc = block_buffer_reserve(builder->mem, &items, &items_room,
                                  ((uint64_t)builder->items_used + 1) * sizeof *builder->items, err);
    builder->items = items;
    builder->items_room = items_room / sizeof *builder->items;
    if (rc < 0) {
        return rc;
    }
    void *data = builder->data;
    rc = block_buffer_reserve(builder->mem, &data, &builder->data_room,
                              builder->data_used + data_bytes + BLOCK_READ_BEYOND, err);
    builder->data = data;
    return rc;
}

/* Bytes that the new key shares with the last one held; asserts that it is greater. */
static size_t block_builder_common(const struct block_builder *builder, const struct entry *entry) {
    if (block_builder_count(builder) == 0) {
        return 0;
    }
    const struct block_item *last = &builder->items[builder->items_used - 1];
    const uint8_t *last_key = block_item_key(builder, last);
    size_t common = key_common(last_key, last->key_bytes, entry->key, entry->key_bytes);
    ASSERT(common < entry->key_bytes && (common == last->key_bytes || last_key[common] < entry->key[common])); /* B1 */
    return common;
}

int block_builder_add(struct block_builder *builder, const struct entry *entry, uint64_t hash,
                      struct pleat_error *err) {
    ASSERT(entry->kind == ENTRY_PUT || (entry->kind == ENTRY_DELETE && entry->value_bytes == 0));
    ASSERT(entry->key_bytes <= LIMIT_KEY_BYTES && entry->version_bytes <= LIMIT_VERSION_BYTES);
    DEBUG_ASSERT(hash == hash_key(entry->key, entry->key_bytes));
    size_t attribute_bytes = entry_attribute_bytes(entry);
    uint64_t data_bytes = (uint64_t)attribute_bytes + entry->key_bytes + entry->value_bytes;
    if (UNLIKELY(builder->items_used == builder->items_room ||
                 builder->data_used + data_bytes + BLOCK_READ_BEYOND > builder->data_room)) {
        int rc = block_builder_reserve(builder, data_bytes, err);
        if (rc < 0) {
            return rc;
        }
    }
    size_t common = block_builder_common(builder, entry);
    bool first = block_builder_count(builder) == 0;
    uint64_t before = first ? builder->total_taken : builder->items[builder->items_used - 1].total;
    size_t value_varint = entry->kind == ENTRY_PUT ? varint_bytes(entry->value_bytes) : 0;
    builder->items[builder->items_used++] = (struct block_item){
        .total = before + 1 + varint_bytes(entry->key_bytes) + value_varint + data_bytes,
        .data = builder->data_dropped + builder->data_used,
        .value_bytes = entry->value_bytes,
        .key_bytes = (uint16_t)entry->key_bytes,
        .common = (uint16_t)common,
        .head = entry_head(entry),
        .fingerprint = block_fingerprint(hash),
        .attribute_bytes = (uint8_t)attribute_bytes,
    };
    if (first) {
        builder->prefix_bytes = entry->key_bytes;
    } else if (common < builder->prefix_bytes) {
        builder->prefix_bytes = common;
    }
    uint8_t *p = builder->data + builder->data_used;
    if (UNLIKELY(attribute_bytes > 0)) {
        p = entry_attributes_encode(p, entry);
    }
    if (entry->key_bytes > 0) {
        memcpy(p, entry->key, entry->key_bytes);
    }
    if (entry->value_bytes > 0) {
        memcpy(p + entry->key_bytes, entry->value, entry->value_bytes);
    }
    builder->data_used += (size_t)data_bytes;
    return 0;
}

/* ---- cutting ---------------------------------------------------------------------------------------------------- */

size_t block_builder_cut(const struct block_builder *builder, size_t target_bytes) {
    size_t held = block_builder_count(builder);
    if (block_builder_bytes(builder) <= target_bytes) {
        return held;
    }
    size_t bytes_min = target_bytes / 2;
    size_t fitting = 0;
    size_t best = 0;
    size_t best_common = SIZE_MAX;
    size_t prefix_bytes = block_item_held(builder, 0)->key_bytes;
    for (size_t count = 1; count < held; count++) {
        size_t inside = block_item_held(builder, count - 1)->common;
        if (count > 1 && inside < prefix_bytes) {
            prefix_bytes = inside;
        }
        uint64_t bytes = block_builder_estimate(builder, count, prefix_bytes);
        if (bytes > target_bytes) {
            break;
        }
        fitting = count;
        size_t across = block_item_held(builder, count)->common;
        if (bytes >= bytes_min && across <= best_common) {
            best = count;
            best_common = across;
        }
    }
    if (best > 0 || fitting == 0) {
        return best > 0 ? best : 1;
    }
    /* The next entry leaps over the whole range. Within one and a half targets it comes along; larger ones get a block
     * of their own, so that reading their small neighbours does not load them. */
    const uint8_t *first_key = block_item_key(builder, block_item_held(builder, 0));
    const struct block_item *next = block_item_held(builder, fitting);
    prefix_bytes = key_common(first_key, block_item_held(builder, 0)->key_bytes, block_item_key(builder, next),
                              next->key_bytes);
    uint64_t bytes = block_builder_estimate(builder, fitting + 1, prefix_bytes);
    return bytes <= (uint64_t)target_bytes + target_bytes / 2 ? fitting + 1 : fitting;
}

/* ---- taking ----------------------------------------------------------------------------------------------------- */

/* Bytes of the narrow image of the first `count` held, exactly. */
static uint64_t block_builder_narrow_bytes(const struct block_builder *builder, size_t count, size_t prefix_bytes) {
    uint64_t bytes = BLOCK_HEADER_BYTES + (uint64_t)count * 3 + prefix_bytes;
    for (size_t i = 0; i < count; i++) {
        const struct block_item *item = block_item_held(builder, i);
        size_t suffix_bytes = item->key_bytes - prefix_bytes;
        bytes += 1 + varint_bytes(suffix_bytes) + item->attribute_bytes + suffix_bytes;
        if ((item->head & ENTRY_KIND_MASK) == ENTRY_PUT) {
            bytes += varint_bytes(item->value_bytes) + (uint64_t)item->value_bytes;
        }
    }
    return bytes;
}

/* Writes one entry at p; returns its end. */
static inline uint8_t *block_entry_encode(uint8_t *p, const struct block_item *item, const uint8_t *data,
                                          size_t prefix_bytes) {
    size_t suffix_bytes = item->key_bytes - prefix_bytes;
    *p++ = item->head;
    p = varint_encode(p, suffix_bytes);
    if (LIKELY((item->head & ENTRY_KIND_MASK) == ENTRY_PUT)) {
        p = varint_encode(p, item->value_bytes);
    }
    if (UNLIKELY(item->attribute_bytes > 0)) {
        memcpy(p, data, item->attribute_bytes);
        p += item->attribute_bytes;
        data += item->attribute_bytes;
    }
    size_t bytes = suffix_bytes + item->value_bytes;
    block_copy_stepped(p, data + prefix_bytes, bytes);
    return p + bytes;
}

/* Writes the image of the first `count` held into builder->image, which has room; returns its length. */
static size_t block_builder_write(struct block_builder *builder, size_t count, size_t prefix_bytes, bool wide) {
    uint8_t *image = builder->image;
    uint8_t *fingerprints = image + BLOCK_HEADER_BYTES;
    uint8_t *offsets = fingerprints + count;
    uint8_t *prefix = offsets + count * (wide ? 4 : 2);
    ASSERT((uint64_t)(prefix - image) + prefix_bytes <= UINT32_MAX);
    store_u32(image + BLOCK_AT_COUNT, (uint32_t)count);
    store_u16(image + BLOCK_AT_FLAGS, (uint16_t)(wide ? BLOCK_FLAG_WIDE : 0));
    store_u16(image + BLOCK_AT_PREFIX_BYTES, (uint16_t)prefix_bytes);
    store_u32(image + BLOCK_AT_PREFIX_AT, (uint32_t)(prefix - image));
    store_u32(image + BLOCK_AT_ENTRIES_AT, (uint32_t)((size_t)(prefix - image) + prefix_bytes));
    if (prefix_bytes > 0) {
        memcpy(prefix, block_item_key(builder, block_item_held(builder, 0)), prefix_bytes);
    }
    uint8_t *p = prefix + prefix_bytes;
    for (size_t i = 0; i < count; i++) {
        const struct block_item *item = block_item_held(builder, i);
        size_t at = (size_t)(p - image);
        fingerprints[i] = item->fingerprint;
        if (LIKELY(!wide)) {
            store_u16(offsets + i * 2, (uint16_t)at);
        } else {
            ASSERT(at <= UINT32_MAX);
            store_u32(offsets + i * 4, (uint32_t)at);
        }
        p = block_entry_encode(p, item, block_item_data(builder, item), prefix_bytes);
    }
    memset(p, 0, BLOCK_READ_BEYOND);
    return (size_t)(p - image);
}

/* Forgets the first `count` held. */
static void block_builder_drop(struct block_builder *builder, size_t count) {
    builder->total_taken = block_item_held(builder, count - 1)->total;
    builder->items_taken += count;
    size_t held = block_builder_count(builder);
    const struct block_item *items = builder->items + builder->items_taken;
    size_t data_taken = held > 0 ? (size_t)(items[0].data - builder->data_dropped) : builder->data_used;
    if (data_taken >= builder->data_used - data_taken) {
        memmove(builder->data, builder->data + data_taken, builder->data_used - data_taken);
        builder->data_used -= data_taken;
        builder->data_dropped += data_taken;
    }
    if (builder->items_taken >= held) {
        memmove(builder->items, items, held * sizeof *items);
        builder->items_used = held;
        builder->items_taken = 0;
    }
    if (held > 0) {
        const struct block_item *first = block_item_held(builder, 0);
        const struct block_item *last = block_item_held(builder, held - 1);
        builder->prefix_bytes = key_common(block_item_key(builder, first), first->key_bytes,
                                           block_item_key(builder, last), last->key_bytes);
    }
    size_t room_wanted = builder->data_used * 2 > BLOCK_BUFFER_KEPT ? builder->data_used * 2 : BLOCK_BUFFER_KEPT;
    if (room_wanted <= builder->data_room / 4) {
        uint8_t *data = mem_resize(builder->mem, builder->data, room_wanted);
        if (data != NULL) { /* otherwise the large buffer simply stays */
            builder->data = data;
            builder->data_room = room_wanted;
        }
    }
}

/* A fresh image buffer of `bytes`, with room for stepped copies; the old content is not needed. */
static int block_builder_image_reserve(struct block_builder *builder, uint64_t bytes, struct pleat_error *err) {
    uint64_t room = bytes + BLOCK_READ_BEYOND;
    bool oversized = builder->image_room > BLOCK_BUFFER_KEPT && room < builder->image_room / 4;
    if (room <= builder->image_room && !oversized) {
        return 0;
    }
    room += room / 4;
    uint8_t *image = room <= SIZE_MAX ? mem_alloc(builder->mem, (size_t)room) : NULL;
    if (image == NULL) {
        return error_no_memory(err, "block image", room);
    }
    mem_free(builder->mem, builder->image);
    builder->image = image;
    builder->image_room = (size_t)room;
    return 0;
}

int block_builder_take(struct block_builder *builder, size_t count, uint8_t **ret_image, size_t *ret_bytes,
                       struct pleat_error *err) {
    ASSERT(count > 0 && count <= block_builder_count(builder) && count <= UINT32_MAX);
    const struct block_item *first = block_item_held(builder, 0);
    const struct block_item *last = block_item_held(builder, count - 1);
    size_t prefix_bytes = key_common(block_item_key(builder, first), first->key_bytes, block_item_key(builder, last),
                                     last->key_bytes);
    uint64_t bytes_max = block_builder_estimate(builder, count, prefix_bytes);
    bool wide = bytes_max > BLOCK_NARROW_BYTES_MAX &&
                block_builder_narrow_bytes(builder, count, prefix_bytes) > BLOCK_NARROW_BYTES_MAX;
    int rc = block_builder_image_reserve(builder, bytes_max, err);
    if (rc < 0) {
        return rc;
    }
    size_t bytes = block_builder_write(builder, count, prefix_bytes, wide);
    ASSERT(bytes <= bytes_max && wide == (bytes > BLOCK_NARROW_BYTES_MAX));
    block_builder_drop(builder, count);
    *ret_image = builder->image;
    *ret_bytes = bytes;
    return 0;
}
