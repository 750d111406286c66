/*
 * block.c - fuzzes block images: verification, lookups, walks both ways, building.
 *
 *     byte 0   0: an image as it is      1: the same with its offsets and places repaired
 *              2: {prefix bytes u8, prefix, entries as they lie in an image}
 *              3: a program of entries for the builder
 *     byte 1   bytes of a key to look for, which follow
 */
#include "fuzz/block_walk.h"

static const uint8_t *skip_entry(const uint8_t *p, const uint8_t *end) {
    uint64_t suffix_bytes = 0, value_bytes = 0;
    struct entry ignored;
    uint8_t head = *p++;
    p = varint_decode(p, end, &suffix_bytes);
    if (p != NULL && (head & ENTRY_KIND_MASK) == ENTRY_PUT) {
        p = varint_decode(p, end, &value_bytes);
    }
    p = p != NULL ? entry_attributes_decode(p, end, head, &ignored) : NULL;
    if (p == NULL || suffix_bytes > (uint64_t)(end - p) || value_bytes > (uint64_t)(end - p) - suffix_bytes) {
        return NULL;
    }
    return p + suffix_bytes + value_bytes;
}

/* An image around a prefix and entries: count, places and offsets as the entries' own lengths have them. */
static uint8_t *image_around(struct pleat_slice prefix, struct pleat_slice entries, size_t *ret_bytes) {
    uint32_t count = 0;
    const uint8_t *begin = entries.data, *end = begin + entries.bytes;
    for (const uint8_t *p = begin; p != NULL && p < end; p = skip_entry(p, end)) {
        count++;
    }
    size_t narrow = BLOCK_HEADER_BYTES + (size_t)count * 3 + prefix.bytes + entries.bytes;
    bool wide = narrow > BLOCK_NARROW_BYTES_MAX;
    size_t bytes = narrow + (wide ? (size_t)count * 2 : 0);
    size_t prefix_at = BLOCK_HEADER_BYTES + (size_t)count * (wide ? 5 : 3);
    uint8_t *image = fuzz_copy(NULL, 0, bytes + BLOCK_READ_BEYOND);
    store_u32(image + BLOCK_AT_COUNT, count);
    store_u16(image + BLOCK_AT_FLAGS, wide ? BLOCK_FLAG_WIDE : 0);
    store_u16(image + BLOCK_AT_PREFIX_BYTES, (uint16_t)prefix.bytes);
    store_u32(image + BLOCK_AT_PREFIX_AT, (uint32_t)prefix_at);
    store_u32(image + BLOCK_AT_ENTRIES_AT, (uint32_t)(prefix_at + prefix.bytes));
    if (prefix.bytes > 0) {
        memcpy(image + prefix_at, prefix.data, prefix.bytes);
    }
    if (entries.bytes > 0) {
        memcpy(image + prefix_at + prefix.bytes, entries.data, entries.bytes);
    }
    uint8_t *offset = image + BLOCK_HEADER_BYTES + count;
    for (const uint8_t *p = begin; p != NULL && p < end; p = skip_entry(p, end)) {
        uint32_t at = (uint32_t)(prefix_at + prefix.bytes + (size_t)(p - begin));
        if (wide) {
            store_u32(offset, at);
        } else {
            store_u16(offset, (uint16_t)at);
        }
        offset += wide ? 4 : 2;
    }
    *ret_bytes = bytes;
    return image;
}

/* The image of other bytes with the prefix and entries that its header announces. */
static uint8_t *image_repaired(struct pleat_slice from, size_t *ret_bytes) {
    const uint8_t *p = from.data;
    struct pleat_slice prefix = {NULL, 0}, entries = from;
    if (from.bytes >= BLOCK_HEADER_BYTES) {
        size_t prefix_at = load_u32(p + BLOCK_AT_PREFIX_AT), prefix_bytes = load_u16(p + BLOCK_AT_PREFIX_BYTES);
        prefix_at = prefix_at <= from.bytes ? prefix_at : from.bytes;
        prefix_bytes = prefix_bytes <= from.bytes - prefix_at ? prefix_bytes : from.bytes - prefix_at;
        prefix = (struct pleat_slice){p + prefix_at, prefix_bytes};
        entries = (struct pleat_slice){p + prefix_at + prefix_bytes, from.bytes - prefix_at - prefix_bytes};
    }
    return image_around(prefix, entries, ret_bytes);
}

static void check_image(uint8_t *image, size_t bytes, struct pleat_slice wanted) {
    size_t offset = 0;
    uint8_t *packed = fuzz_copy(image, bytes, BLOCK_READ_BEYOND);
    block_offsets_pack(packed, bytes);
    block_offsets_unpack(packed, bytes);
    FUZZ_CHECK(memcmp(packed, image, bytes) == 0);
    free(packed);
    if (block_verify(image, bytes, &offset) != NULL) {
        FUZZ_CHECK(offset <= bytes + BLOCK_READ_BEYOND);
        return;
    }
    block_walk(image, block_verify_full(image, bytes, &offset) == NULL);
    block_walk_fingerprints(image);
    FUZZ_CHECK(block_verify_full(image, bytes, &offset) == NULL);
    block_walk(image, true);
    block_walk_seek(image, wanted);
}

/* Keys grow out of their predecessors, so that they ascend: a shared part and a tail. */
static void check_built(struct fuzz_input *input, struct pleat_slice wanted) {
    static uint8_t key[1024];
    struct fuzz_mem memory;
    struct block_builder *builder;
    size_t key_bytes = 0, target = 64 + (size_t)fuzz_u8(input) * 8;
    fuzz_mem_init(&memory, fuzz_left(input), 64, 2 << 20);
    FUZZ_CHECK(block_builder_new(&memory.mem, &builder, NULL) == 0);
    while (fuzz_left(input) > 0 && key_bytes < sizeof key - 256) {
        uint8_t draw = fuzz_u8(input);
        size_t shared = (draw & 3) == 0 ? key_bytes : key_bytes - (draw >> 2) % (key_bytes + 1);
        struct pleat_slice tail = fuzz_slice(input, 1 + (draw & 15));
        struct pleat_slice before = {key, key_bytes};
        uint8_t next[sizeof key];
        memcpy(next, key, shared);
        memcpy(next + shared, tail.data, tail.bytes);
        if (block_builder_count(builder) > 0 &&
            fuzz_order(before, (struct pleat_slice){next, shared + tail.bytes}) >= 0) {
            continue;
        }
        key_bytes = shared + tail.bytes;
        memcpy(key, next, key_bytes);
        struct entry entry = {.key = key, .key_bytes = (uint32_t)key_bytes, .kind = 1 + (draw >> 7)};
        entry.has_flag = (draw >> 4) & 1;
        entry.flag = entry.has_flag ? draw : 0;
        struct pleat_slice value = fuzz_slice(input, entry.kind == ENTRY_PUT ? fuzz_u8(input) : 0);
        entry.value = value.bytes > 0 ? value.data : NULL;
        entry.value_bytes = (uint32_t)value.bytes;
        FUZZ_CHECK(block_builder_add(builder, &entry, hash_key(key, key_bytes), NULL) == 0);
    }
    while (block_builder_count(builder) > 0) {
        uint8_t *image = NULL;
        size_t bytes = 0, bound = block_builder_bytes(builder), count = block_builder_cut(builder, target);
        FUZZ_CHECK(count > 0 && count <= block_builder_count(builder));
        FUZZ_CHECK(block_builder_take(builder, count, &image, &bytes, NULL) == 0 && bytes <= bound);
        uint8_t *exact = fuzz_copy(image, bytes, BLOCK_READ_BEYOND);
        size_t offset;
        FUZZ_CHECK(block_verify_full(exact, bytes, &offset) == NULL && block_count(exact) == count);
        check_image(exact, bytes, wanted);
        free(exact);
    }
    block_builder_free(builder);
    fuzz_mem_fini(&memory);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fuzz_input input = {data, data + size};
    uint8_t mode = fuzz_u8(&input) & 3;
    struct pleat_slice wanted = fuzz_slice(&input, fuzz_u8(&input));
    size_t bytes = 0;
    uint8_t *image = NULL;
    if (mode == 3) {
        check_built(&input, wanted);
        return 0;
    }
    if (mode == 2) {
        struct pleat_slice prefix = fuzz_slice(&input, fuzz_u8(&input));
        image = image_around(prefix, fuzz_rest(&input), &bytes);
    } else {
        struct pleat_slice rest = fuzz_rest(&input);
        bytes = rest.bytes;
        image = mode == 1 ? image_repaired(rest, &bytes) : fuzz_copy(rest.data, bytes, BLOCK_READ_BEYOND);
    }
    check_image(image, bytes, wanted);
    free(image);
    return 0;
}
