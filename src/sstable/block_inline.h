/*
 * block_inline.h - reading the parts of a verified block image, inline for the loops that walk it.
 *
 * Private to the room: block_get, block_seek and the table iterator pay these steps once an entry, so none of them is a
 * call. Everything here trusts the image (B2) and may load up to BLOCK_READ_BEYOND bytes behind it (B4).
 *
 *   0              4      6        8           12          16        16 + n       prefix_at  entries_at
 *   | count n u32 | flags | prefix | prefix_at | entries_at | fp[n] u8 | offset[n] | prefix  | entries ... |
 *
 * An entry is {head byte, varint suffix bytes, varint value bytes (puts only), attributes, suffix, value}. Walking
 * forward needs no offsets: block_entry_read returns where the next entry begins.
 *
 *     uint8_t *key_buffer = ...;                     // room for the longest key + BLOCK_READ_BEYOND
 *     size_t prefix_bytes = block_prefix_copy(image, key_buffer);
 *     const uint8_t *p = block_entry_at(image, 0);
 *     for (uint32_t i = 0; i < block_count(image); i++) {
 *         p = block_entry_read(p, prefix_bytes, key_buffer, &entry);
 *     }
 */
#ifndef PLEAT_SSTABLE_BLOCK_INLINE_H
#define PLEAT_SSTABLE_BLOCK_INLINE_H

#include "base/assert.h"
#include "base/bytes.h"
#include "base/entry.h"
#include "base/limits.h"
#include "sstable/block.h"

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* BLOCK_PORTABLE selects the plain C forms on a machine that has the vector ones, so that tests reach both. */
#if defined(__SSE2__) && !defined(BLOCK_PORTABLE)
#define BLOCK_SSE2 1
#include <emmintrin.h>
#else
#define BLOCK_SSE2 0
#endif

#define BLOCK_AT_COUNT 0
#define BLOCK_AT_FLAGS 4
#define BLOCK_AT_PREFIX_BYTES 6
#define BLOCK_AT_PREFIX_AT 8
#define BLOCK_AT_ENTRIES_AT 12
#define BLOCK_HEADER_BYTES 16

#define BLOCK_FLAG_WIDE 0x0001u
#define BLOCK_FLAGS_KNOWN BLOCK_FLAG_WIDE
#define BLOCK_NARROW_BYTES_MAX 65535u

/* Flag; version length and version; deadline. */
#define BLOCK_ATTRIBUTE_BYTES_MAX (1u + 1u + LIMIT_VERSION_BYTES + 8u)

static_assert(BLOCK_HEADER_BYTES + 1 + 4 + 1 + 2 * VARINT32_BYTES_MAX + BLOCK_ATTRIBUTE_BYTES_MAX + LIMIT_ENTRY_BYTES <=
                  UINT32_MAX,
              "every entry makes a block: header, fingerprint, offset, head, lengths, attributes, key and value");
static_assert(1 + 2 * VARINT32_BYTES_MAX + BLOCK_ATTRIBUTE_BYTES_MAX <= BLOCK_READ_BEYOND,
              "parsing an entry's head never leaves the readable bytes behind the image");

/* The lines at the image's front behind the first: fingerprints, offsets and prefix of a block of the usual size. */
static inline void block_prefetch(const uint8_t *image) {
    __builtin_prefetch(image + 64);
    __builtin_prefetch(image + 128);
    __builtin_prefetch(image + 192);
}

static inline bool block_is_wide(const uint8_t *image) {
    return (load_u16(image + BLOCK_AT_FLAGS) & BLOCK_FLAG_WIDE) != 0;
}

static inline uint8_t block_fingerprint(uint64_t hash) {
    return (uint8_t)(hash >> 56);
}

/* Where entry i < count begins. */
static inline const uint8_t *block_entry_at(const uint8_t *image, uint32_t i) {
    const uint8_t *offsets = image + BLOCK_HEADER_BYTES + load_u32(image + BLOCK_AT_COUNT);
    return image + (block_is_wide(image) ? load_u32(offsets + (size_t)i * 4) : load_u16(offsets + (size_t)i * 2));
}

/* A varint of at most 32 bits in verified bytes. */
static inline const uint8_t *block_varint(const uint8_t *p, uint32_t *ret_x) {
    uint32_t x = *p++;
    if (UNLIKELY(x >= 0x80)) {
        x &= 0x7f;
        for (unsigned shift = 7; shift < 35; shift += 7) {
            uint32_t byte = *p++;
            x |= (byte & 0x7f) << shift;
            if (byte < 0x80) {
                break;
            }
        }
    }
    *ret_x = x;
    return p;
}

/* Copies `bytes` in steps of 16: reads and writes up to 15 bytes beyond on both sides. */
static inline void block_copy_stepped(uint8_t *to, const uint8_t *from, size_t bytes) {
    if (UNLIKELY(bytes > 256)) {
        memcpy(to, from, bytes);
        return;
    }
    memcpy(to, from, 16);
    for (size_t i = 16; i < bytes; i += 16) {
        memcpy(to + i, from + i, 16);
    }
}

/* Fills *entry but for its key from the entry at p; returns its suffix, which the value follows. */
static inline const uint8_t *block_entry_parse(const uint8_t *p, struct entry *entry, uint32_t *ret_suffix_bytes) {
    uint8_t head = *p++;
    uint32_t value_bytes = 0;
    p = block_varint(p, ret_suffix_bytes);
    if (LIKELY((head & ENTRY_KIND_MASK) == ENTRY_PUT)) {
        p = block_varint(p, &value_bytes);
    }
    entry->version = NULL;
    entry->sequence = 0;
    entry->deadline_ms = 0;
    entry->value_bytes = value_bytes;
    entry->kind = head & ENTRY_KIND_MASK;
    entry->has_flag = 0;
    entry->flag = 0;
    entry->version_bytes = 0;
    if (UNLIKELY((head & ~ENTRY_KIND_MASK) != 0)) {
        p = entry_attributes_decode(p, p + BLOCK_ATTRIBUTE_BYTES_MAX, head, entry);
    }
    entry->value = value_bytes > 0 ? p + *ret_suffix_bytes : NULL;
    return p;
}

/* The suffix of the entry at p alone: what comparing needs. */
static inline const uint8_t *block_entry_suffix(const uint8_t *p, uint32_t *ret_suffix_bytes) {
    if (LIKELY(p[0] == ENTRY_PUT && ((p[1] | p[2]) & 0x80) == 0)) {
        *ret_suffix_bytes = p[1];
        return p + 3;
    }
    struct entry ignored;
    return block_entry_parse(p, &ignored, ret_suffix_bytes);
}

/* Writes the block's prefix to key_buffer and returns its length; block_entry_read then only adds suffixes. */
static inline size_t block_prefix_copy(const uint8_t *image, uint8_t *key_buffer) {
    size_t prefix_bytes = load_u16(image + BLOCK_AT_PREFIX_BYTES);
    block_copy_stepped(key_buffer, image + load_u32(image + BLOCK_AT_PREFIX_AT), prefix_bytes);
    return prefix_bytes;
}

/* Reads the entry at p, completes its key behind the prefix that key_buffer holds, and returns the next entry's place
 * (the image's end after the last). */
static inline const uint8_t *block_entry_read(const uint8_t *p, size_t prefix_bytes, uint8_t *key_buffer,
                                              struct entry *ret_entry) {
    uint32_t suffix_bytes;
    p = block_entry_parse(p, ret_entry, &suffix_bytes);
    block_copy_stepped(key_buffer + prefix_bytes, p, suffix_bytes);
    ret_entry->key = key_buffer;
    ret_entry->key_bytes = (uint32_t)(prefix_bytes + suffix_bytes);
    return p + suffix_bytes + ret_entry->value_bytes;
}

/* Order of two suffixes inside images: both may be read 16 bytes beyond. */
static inline int block_suffix_order(const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes) {
#if BLOCK_SSE2
    __m128i equal = _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(const void *)a),
                                   _mm_loadu_si128((const __m128i *)(const void *)b));
    unsigned different = (unsigned)_mm_movemask_epi8(equal) ^ 0xffffu;
    if (LIKELY(different != 0)) {
        size_t i = (size_t)__builtin_ctz(different);
        if (LIKELY(i < a_bytes && i < b_bytes)) {
            return (int)a[i] - (int)b[i];
        }
    }
#endif
    return key_compare(a, a_bytes, b, b_bytes);
}

/* Equality without a call for the short lengths that keys have; reads nothing beyond either side. */
static inline bool block_bytes_equal(const uint8_t *a, const uint8_t *b, size_t bytes) {
    uint64_t x, y, u, v;
    if (bytes >= 8) {
        if (UNLIKELY(bytes > 64)) {
            return memcmp(a, b, bytes) == 0;
        }
        uint64_t different = 0;
        for (size_t i = 0; i + 8 < bytes; i += 8) {
            memcpy(&x, a + i, 8);
            memcpy(&y, b + i, 8);
            different |= x ^ y;
        }
        memcpy(&u, a + bytes - 8, 8);
        memcpy(&v, b + bytes - 8, 8);
        return (different | (u ^ v)) == 0;
    }
    if (bytes >= 4) {
        uint32_t s, t, q, r;
        memcpy(&s, a, 4);
        memcpy(&t, b, 4);
        memcpy(&q, a + bytes - 4, 4);
        memcpy(&r, b + bytes - 4, 4);
        return ((s ^ t) | (q ^ r)) == 0;
    }
    unsigned different = 0;
    for (size_t i = 0; i < bytes; i++) {
        different |= (unsigned)(a[i] ^ b[i]);
    }
    return different == 0;
}

#endif
