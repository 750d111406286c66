/*
 * block_verify.c - hostile bytes into a block image that the readers may trust (B2).
 *
 * One pass over the entries: offset i must be the byte at which entry i-1 ended, the first entry begins where the
 * prefix ends and the last one ends with the image, so the entries tile their region and each is parsed once.
 * Neighbours are compared by suffix, sixteen bytes at a time. The usual entry (a put without attributes whose lengths
 * have one byte each) takes a path without a call; it runs at every block load and costs about as much as the checksum.
 *
 * Encodings are canonical: the wide form only where it is needed, no varint longer than necessary. A damaged image that
 * passes here is still one that the readers handle without reading outside it.
 *
 * Fingerprints cost a hash a key and can do no harm when they are wrong but hide the key from block_get; the checksum
 * stands for them at load, block_verify_full compares them.
 */
#include "sstable/block.h"

#include "base/hash.h"
#include "sstable/block_inline.h"

struct block_parts {
    const uint8_t *image;
    size_t bytes;
    uint32_t count;
    uint32_t prefix_bytes;
    uint32_t prefix_at;
    uint32_t entries_at;
    bool wide;
};

static const char *block_verify_header(const uint8_t *image, size_t bytes, struct block_parts *ret_parts,
                                       size_t *ret_offset) {
    *ret_offset = 0;
    if (bytes < BLOCK_HEADER_BYTES) {
        return "block is shorter than its header";
    }
    uint32_t flags = load_u16(image + BLOCK_AT_FLAGS);
    struct block_parts parts = {
        .image = image,
        .bytes = bytes,
        .count = load_u32(image + BLOCK_AT_COUNT),
        .prefix_bytes = load_u16(image + BLOCK_AT_PREFIX_BYTES),
        .prefix_at = load_u32(image + BLOCK_AT_PREFIX_AT),
        .entries_at = load_u32(image + BLOCK_AT_ENTRIES_AT),
        .wide = (flags & BLOCK_FLAG_WIDE) != 0,
    };
    if (parts.count == 0) {
        return "block without entries";
    }
    *ret_offset = BLOCK_AT_FLAGS;
    if ((flags & ~BLOCK_FLAGS_KNOWN) != 0) {
        return "block flags that this version does not know";
    }
    if (parts.wide != (bytes > BLOCK_NARROW_BYTES_MAX)) {
        return "block offsets of the wrong width";
    }
    *ret_offset = BLOCK_AT_PREFIX_AT;
    uint64_t prefix_at = BLOCK_HEADER_BYTES + (uint64_t)parts.count * (parts.wide ? 5 : 3);
    if (parts.prefix_at != prefix_at) {
        return "block prefix at the wrong place";
    }
    *ret_offset = BLOCK_AT_ENTRIES_AT;
    if (parts.entries_at != prefix_at + parts.prefix_bytes || parts.entries_at >= bytes) {
        return "block entries at the wrong place";
    }
    *ret_parts = parts;
    return NULL;
}

struct block_suffix {
    const uint8_t *data;
    uint64_t bytes;
    uint64_t value_bytes;
};

/* The general form of one entry's head: NULL when it is malformed or cut short, else where its suffix begins. */
static const uint8_t *block_verify_head(const uint8_t *p, const uint8_t *end, struct block_suffix *ret_suffix) {
    if (p >= end) {
        return NULL;
    }
    uint8_t head = *p++;
    const uint8_t *start = p;
    p = varint_decode(p, end, &ret_suffix->bytes);
    if (p == NULL || (size_t)(p - start) != varint_bytes(ret_suffix->bytes)) {
        return NULL;
    }
    ret_suffix->value_bytes = 0;
    if ((head & ENTRY_KIND_MASK) == ENTRY_PUT) {
        start = p;
        p = varint_decode(p, end, &ret_suffix->value_bytes);
        if (p == NULL || (size_t)(p - start) != varint_bytes(ret_suffix->value_bytes)) {
            return NULL;
        }
    }
    if (ret_suffix->bytes > LIMIT_KEY_BYTES || ret_suffix->value_bytes > LIMIT_VALUE_BYTES) {
        return NULL;
    }
    struct entry ignored;
    return entry_attributes_decode(p, end, head, &ignored);
}

const char *block_verify(const uint8_t *image, size_t bytes, size_t *ret_offset) {
    return block_verify_keys(image, bytes, LIMIT_KEY_BYTES, ret_offset);
}

const char *block_verify_keys(const uint8_t *image, size_t bytes, size_t key_bytes_max, size_t *ret_offset) {
    struct block_parts parts;
    const char *wrong = block_verify_header(image, bytes, &parts, ret_offset);
    if (wrong != NULL) {
        return wrong;
    }
    const uint8_t *offsets = image + BLOCK_HEADER_BYTES + parts.count;
    const uint8_t *end = image + bytes;
    if (parts.prefix_bytes > key_bytes_max) {
        return "block entry is longer than a key may be or than its block";
    }
    uint64_t suffix_max = key_bytes_max - parts.prefix_bytes;
    size_t at = parts.entries_at;
    struct block_suffix before = {NULL, 0, 0};
    for (uint32_t i = 0; i < parts.count; i++) {
        const uint8_t *p = image + at;
        *ret_offset = at;
        size_t offset = parts.wide ? load_u32(offsets + (size_t)i * 4) : load_u16(offsets + (size_t)i * 2);
        if (UNLIKELY(offset != at)) {
            return "block offset does not lead to its entry";
        }
        /* Three bytes beyond the end are readable (B4); when p is the end, `at` grows past `bytes` and is refused. */
        struct block_suffix suffix = {p + 3, p[1], p[2]};
        if (UNLIKELY(p[0] != ENTRY_PUT || ((p[1] | p[2]) & 0x80) != 0)) {
            suffix.data = block_verify_head(p, end, &suffix);
            if (suffix.data == NULL) {
                return "malformed block entry";
            }
        }
        at = (size_t)(suffix.data - image);
        /* No sum wraps: a suffix and a value are at most 2^16 and 2^32 long. */
        if (UNLIKELY(suffix.bytes > suffix_max || at + suffix.bytes + suffix.value_bytes > bytes)) {
            return "block entry is longer than a key may be or than its block";
        }
        if (i > 0 && UNLIKELY(block_suffix_order(before.data, before.bytes, suffix.data, suffix.bytes) >= 0)) {
            return "block keys out of order";
        }
        at += suffix.bytes + suffix.value_bytes;
        before = suffix;
    }
    *ret_offset = at;
    return at == bytes ? NULL : "bytes behind the last entry of a block";
}

/* hash_key of prefix and suffix together, without a buffer of the longest key. */
static uint64_t block_key_hash(const uint8_t *prefix, size_t prefix_bytes, const uint8_t *suffix, size_t suffix_bytes) {
    uint8_t key[1024];
    if (prefix_bytes + suffix_bytes <= sizeof key) {
        memcpy(key, prefix, prefix_bytes);
        memcpy(key + prefix_bytes, suffix, suffix_bytes);
        return hash_key(key, prefix_bytes + suffix_bytes);
    }
    XXH3_state_t state;
    (void)XXH3_64bits_reset(&state);
    (void)XXH3_64bits_update(&state, prefix, prefix_bytes);
    (void)XXH3_64bits_update(&state, suffix, suffix_bytes);
    return XXH3_64bits_digest(&state);
}

const char *block_verify_full(const uint8_t *image, size_t bytes, size_t *ret_offset) {
    const char *wrong = block_verify(image, bytes, ret_offset);
    if (wrong != NULL) {
        return wrong;
    }
    const uint8_t *prefix = image + load_u32(image + BLOCK_AT_PREFIX_AT);
    for (uint32_t i = 0; i < block_count(image); i++) {
        uint32_t suffix_bytes;
        const uint8_t *suffix = block_entry_suffix(block_entry_at(image, i), &suffix_bytes);
        uint64_t hash = block_key_hash(prefix, block_prefix_bytes(image), suffix, suffix_bytes);
        *ret_offset = BLOCK_HEADER_BYTES + (size_t)i;
        if (image[BLOCK_HEADER_BYTES + i] != block_fingerprint(hash)) {
            return "block fingerprint is not its key's";
        }
    }
    *ret_offset = bytes;
    return NULL;
}
