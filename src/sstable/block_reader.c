/*
 * block_reader.c - lookups in a verified block image: exact, ordered, by index.
 *
 * An exact lookup compares one byte an entry, sixteen at a time, and then on average little more than one key: the
 * fingerprint is the top byte of the hash that the filters were asked with, so that it costs nothing to make. Restart
 * points would compare and decode dozens of entries, and sorted heads would cost a fifth more disk.
 *
 * Cold, a lookup waits twice: for the lines at the image's front (header, fingerprints, offsets, prefix: fetched
 * together, since a block of the usual size has them in its first 256 bytes) and for the entry. A seek is a binary
 * search over the entries; it asks for those of three steps at a time.
 *
 * None of the functions checks a bound: block_verify did (B2).
 */
#include "sstable/block.h"

#include "sstable/block_inline.h"

uint32_t block_count(const uint8_t *image) {
    return load_u32(image + BLOCK_AT_COUNT);
}

size_t block_prefix_bytes(const uint8_t *image) {
    return load_u16(image + BLOCK_AT_PREFIX_BYTES);
}

/* Whether entry i has exactly this key; fills *ret_entry if so. */
static inline bool block_entry_is(const uint8_t *image, uint32_t i, const uint8_t *key, size_t key_bytes,
                                  struct entry *ret_entry) {
    const uint8_t *p = block_entry_at(image, i);
    __builtin_prefetch(p + 64); /* an entry of the usual size spreads over two lines, and the caller wants its value */
    size_t prefix_bytes = block_prefix_bytes(image);
    uint32_t suffix_bytes;
    const uint8_t *suffix = block_entry_parse(p, ret_entry, &suffix_bytes);
    if (prefix_bytes + suffix_bytes != key_bytes || !block_bytes_equal(suffix, key + prefix_bytes, suffix_bytes) ||
        !block_bytes_equal(image + load_u32(image + BLOCK_AT_PREFIX_AT), key, prefix_bytes)) {
        return false;
    }
    ret_entry->key = key;
    ret_entry->key_bytes = (uint32_t)key_bytes;
    return true;
}

#if BLOCK_SSE2
/* Bit i of the result: fingerprint i of the sixteen at p equals `wanted`. */
#define BLOCK_SCAN_STEP 16u
static inline uint64_t block_fingerprints_match(const uint8_t *p, uint8_t wanted) {
    __m128i equal = _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(const void *)p), _mm_set1_epi8((char)wanted));
    return (uint64_t)(unsigned)_mm_movemask_epi8(equal);
}
#define BLOCK_SCAN_INDEX(bit) (bit)
#define BLOCK_SCAN_BITS(count) ((count))
#else
/* Bit 8i+7 of the result: fingerprint i of the eight at p equals `wanted`. A borrow can mark the byte behind a match as
 * well when it differs by one: it costs one comparison more, never a wrong answer. */
#define BLOCK_SCAN_STEP 8u
static inline uint64_t block_fingerprints_match(const uint8_t *p, uint8_t wanted) {
    uint64_t x = load_u64(p) ^ (0x0101010101010101ull * wanted);
    return (x - 0x0101010101010101ull) & ~x & 0x8080808080808080ull;
}
#define BLOCK_SCAN_INDEX(bit) ((bit) / 8)
#define BLOCK_SCAN_BITS(count) ((count)*8)
#endif

int block_get(const uint8_t *image, const uint8_t *key, size_t key_bytes, uint64_t hash, struct entry *ret_entry) {
    block_prefetch(image);
    uint32_t count = block_count(image);
    uint8_t wanted = block_fingerprint(hash);
    for (uint32_t i = 0; i < count; i += BLOCK_SCAN_STEP) {
        uint64_t match = block_fingerprints_match(image + BLOCK_HEADER_BYTES + i, wanted);
        if (count - i < BLOCK_SCAN_STEP) {
            match &= ((uint64_t)1 << BLOCK_SCAN_BITS(count - i)) - 1;
        }
        while (match != 0) {
            uint32_t j = i + (uint32_t)BLOCK_SCAN_INDEX(__builtin_ctzll(match));
            match &= match - 1;
            if (LIKELY(block_entry_is(image, j, key, key_bytes, ret_entry))) {
                return 0;
            }
        }
    }
    return PLEAT_ABSENT;
}

/* The first 16 bytes of a suffix as two numbers that order like it, zeros behind its end. */
struct block_head {
    uint64_t high;
    uint64_t low;
};

static inline struct block_head block_suffix_head(const uint8_t *suffix, uint32_t suffix_bytes) {
    /* By the number of bytes that count; beyond 8 all do. */
    static const uint64_t masks[9] = {
        0, UINT64_MAX << 56, UINT64_MAX << 48, UINT64_MAX << 40, UINT64_MAX << 32, UINT64_MAX << 24, UINT64_MAX << 16,
        UINT64_MAX << 8, UINT64_MAX,
    };
    struct block_head head;
    memcpy(&head.high, suffix, 8);
    memcpy(&head.low, suffix + 8, 8);
    head.high = BE64(head.high) & masks[suffix_bytes < 8 ? suffix_bytes : 8];
    head.low = BE64(head.low) & masks[suffix_bytes < 8 ? 0 : suffix_bytes < 16 ? suffix_bytes - 8 : 8];
    return head;
}

/* Whether the suffix of the entry at p is less than the one wanted. Zero-padded heads that differ decide; when they tie
 * the whole suffixes do. */
static inline bool block_entry_less(const uint8_t *p, const uint8_t *wanted, size_t wanted_bytes,
                                    struct block_head wanted_head) {
    uint32_t suffix_bytes;
    const uint8_t *suffix = block_entry_suffix(p, &suffix_bytes);
    struct block_head head = block_suffix_head(suffix, suffix_bytes);
    if (UNLIKELY(head.high == wanted_head.high && head.low == wanted_head.low)) {
        return key_compare(suffix, suffix_bytes, wanted, wanted_bytes) < 0;
    }
    return (head.high < wanted_head.high) | ((head.high == wanted_head.high) & (head.low < wanted_head.low));
}

/* Has the seven entries on the way that the next three steps of the search may look at: which of them it will be is
 * known only when the one before has arrived, and a block that has not been read lately is not in the processor's
 * cache. */
#define BLOCK_SEEK_AHEAD 3u
static inline void block_seek_prefetch(const uint8_t *image, uint32_t first, uint32_t length) {
    uint32_t half = length / 2;
    uint32_t quarter = (length - half) / 2;
    uint32_t eighth = (length - half - quarter) / 2;
    const uint32_t ahead[] = {half,          quarter,          half + quarter,         eighth,
                              half + eighth, quarter + eighth, half + quarter + eighth};
    for (size_t i = 0; i < sizeof ahead / sizeof ahead[0]; i++) {
        __builtin_prefetch(block_entry_at(image, first + ahead[i] - 1));
    }
}

/* What is left to look for behind the block's prefix. False when the prefix decides: all entries, or none, are less. */
struct block_wanted {
    const uint8_t *suffix;
    size_t bytes;
    struct block_head head;
};

static inline bool block_wanted_behind_prefix(const uint8_t *image, const uint8_t *key, size_t key_bytes,
                                              struct block_wanted *ret_wanted, bool *ret_all_less) {
    size_t prefix_bytes = block_prefix_bytes(image);
    size_t common = key_bytes < prefix_bytes ? key_bytes : prefix_bytes;
    int order = common > 0 ? memcmp(key, image + load_u32(image + BLOCK_AT_PREFIX_AT), common) : 0;
    if (order != 0 || key_bytes <= prefix_bytes) { /* every key of the block begins with the prefix */
        *ret_all_less = order > 0;
        return false;
    }
    const uint8_t *suffix = key + prefix_bytes;
    size_t bytes = key_bytes - prefix_bytes;
    *ret_wanted = (struct block_wanted){suffix, bytes, {key_head(suffix, bytes, 0), key_head(suffix, bytes, 8)}};
    return true;
}

static inline bool block_is_less(const uint8_t *image, uint32_t i, const struct block_wanted *wanted) {
    return block_entry_less(block_entry_at(image, i), wanted->suffix, wanted->bytes, wanted->head);
}

uint32_t block_seek(const uint8_t *image, const uint8_t *key, size_t key_bytes) {
    block_prefetch(image);
    uint32_t count = block_count(image);
    struct block_wanted wanted;
    bool all_less;
    if (!block_wanted_behind_prefix(image, key, key_bytes, &wanted, &all_less)) {
        return all_less ? count : 0;
    }
    uint32_t first = 0;
    uint32_t length = count;
    for (unsigned step = 0; length > 1; step++) {
        if (step % BLOCK_SEEK_AHEAD == 0 && length >= 1u << BLOCK_SEEK_AHEAD) {
            block_seek_prefetch(image, first, length);
        }
        uint32_t half = length / 2;
        first += block_is_less(image, first + half - 1, &wanted) ? half : 0;
        length -= half;
    }
    return first + block_is_less(image, first, &wanted);
}

/* In steps that double from `from`, and by halves in the last of them. */
uint32_t block_seek_from(const uint8_t *image, uint32_t from, const uint8_t *key, size_t key_bytes) {
    uint32_t count = block_count(image);
    struct block_wanted wanted;
    bool all_less;
    ASSERT(from <= count);
    if (from == count) {
        return count;
    }
    if (!block_wanted_behind_prefix(image, key, key_bytes, &wanted, &all_less)) {
        return all_less ? count : from;
    }
    uint32_t low = from, high = count; /* entries in front of low are less, those from high on are not */
    for (uint32_t step = 1; low < count; step *= 2) {
        uint32_t at = step < count - low ? low + step - 1 : count - 1;
        if (!block_is_less(image, at, &wanted)) {
            high = at;
            break;
        }
        low = at + 1;
    }
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (block_is_less(image, middle, &wanted)) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

void block_entry(const uint8_t *image, uint32_t i, uint8_t *key_buffer, bool prefix_ready, struct entry *ret_entry) {
    size_t prefix_bytes = prefix_ready ? block_prefix_bytes(image) : block_prefix_copy(image, key_buffer);
    (void)block_entry_read(block_entry_at(image, i), prefix_bytes, key_buffer, ret_entry);
}
