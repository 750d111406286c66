/*
 * bytes.h - integers and keys as bytes: little-endian fields, varints, key order, checksums.
 *
 * All on-disk integers are little-endian. A varint is the usual seven bits a byte, low group first, at most 5 bytes
 * for 32 bits and 10 for 64. Keys are compared as unsigned bytes, a proper prefix first, for ever.
 */
#ifndef PLEAT_BASE_BYTES_H
#define PLEAT_BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define LE16(x) __builtin_bswap16(x)
#define LE32(x) __builtin_bswap32(x)
#define LE64(x) __builtin_bswap64(x)
#define BE64(x) (x)
#else
#define LE16(x) (x)
#define LE32(x) (x)
#define LE64(x) (x)
#define BE64(x) __builtin_bswap64(x)
#endif

static inline uint16_t load_u16(const void *p) {
    uint16_t x;
    memcpy(&x, p, sizeof x);
    return LE16(x);
}
static inline uint32_t load_u32(const void *p) {
    uint32_t x;
    memcpy(&x, p, sizeof x);
    return LE32(x);
}
static inline uint64_t load_u64(const void *p) {
    uint64_t x;
    memcpy(&x, p, sizeof x);
    return LE64(x);
}
static inline void store_u16(void *p, uint16_t x) {
    x = LE16(x);
    memcpy(p, &x, sizeof x);
}
static inline void store_u32(void *p, uint32_t x) {
    x = LE32(x);
    memcpy(p, &x, sizeof x);
}
static inline void store_u64(void *p, uint64_t x) {
    x = LE64(x);
    memcpy(p, &x, sizeof x);
}

#define VARINT32_BYTES_MAX 5
#define VARINT64_BYTES_MAX 10

static inline uint8_t *varint_encode(uint8_t *p, uint64_t x) {
    while (x >= 0x80) {
        *p++ = (uint8_t)(x | 0x80);
        x >>= 7;
    }
    *p++ = (uint8_t)x;
    return p;
}

static inline size_t varint_bytes(uint64_t x) {
    size_t bytes = 1;
    while (x >= 0x80) {
        x >>= 7;
        bytes++;
    }
    return bytes;
}

/* Decodes from [p, end); NULL when it is cut short, longer than 10 bytes, or overflows 64 bits. For hostile bytes. */
static inline const uint8_t *varint_decode(const uint8_t *p, const uint8_t *end, uint64_t *ret_x) {
    uint64_t x = 0;
    for (unsigned shift = 0; shift < 70 && p < end; shift += 7) {
        uint64_t byte = *p++;
        if (shift == 63 && byte > 1) {
            return NULL;
        }
        x |= (byte & 0x7f) << shift;
        if (byte < 0x80) {
            *ret_x = x;
            return p;
        }
    }
    return NULL;
}

/* memcmp order, a proper prefix first: < 0, 0, > 0. */
static inline int key_compare(const void *a, size_t a_bytes, const void *b, size_t b_bytes) {
    size_t common = a_bytes < b_bytes ? a_bytes : b_bytes;
    int order = common > 0 ? memcmp(a, b, common) : 0;
    if (order != 0) {
        return order;
    }
    return (a_bytes > b_bytes) - (a_bytes < b_bytes);
}

static inline bool key_has_prefix(const void *key, size_t key_bytes, const void *prefix, size_t prefix_bytes) {
    return key_bytes >= prefix_bytes && (prefix_bytes == 0 || memcmp(key, prefix, prefix_bytes) == 0);
}

/* Length of the longest common prefix. */
static inline size_t key_common(const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes) {
    size_t limit = a_bytes < b_bytes ? a_bytes : b_bytes;
    size_t i = 0;
    while (i + 8 <= limit) {
        uint64_t x, y;
        memcpy(&x, a + i, 8);
        memcpy(&y, b + i, 8);
        if (x != y) {
            return i + (size_t)(__builtin_ctzll(LE64(x ^ y)) >> 3);
        }
        i += 8;
    }
    while (i < limit && a[i] == b[i]) {
        i++;
    }
    return i;
}

/* The first 8 bytes of a key from `skip` on as a big-endian number, zero-padded: orders like the bytes do, ties apart.
 */
static inline uint64_t key_head(const uint8_t *key, size_t key_bytes, size_t skip) {
    uint64_t x = 0;
    if (key_bytes >= skip + 8) {
        memcpy(&x, key + skip, 8);
    } else if (key_bytes > skip) {
        memcpy(&x, key + skip, key_bytes - skip);
    }
    return BE64(x);
}

/* Writes to `ret_bound` (room for prefix_bytes) the least key greater than every key that has the prefix, and its
 * length; returns false when there is none (empty prefix, or all 0xff): the range is then unbounded above. */
static inline bool key_prefix_bound(const uint8_t *prefix, size_t prefix_bytes, uint8_t *ret_bound,
                                    size_t *ret_bound_bytes) {
    size_t n = prefix_bytes;
    while (n > 0 && prefix[n - 1] == 0xff) {
        n--;
    }
    *ret_bound_bytes = n;
    if (n == 0) {
        return false;
    }
    memcpy(ret_bound, prefix, n);
    ret_bound[n - 1]++;
    return true;
}

#endif
