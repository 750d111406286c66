/*
 * block_walk.h - the promise of B2 as a check: an image that block_verify accepted answers every question inside its
 * bytes, and its answers agree. Shared by the targets of blocks.
 */
#ifndef PLEAT_TESTS_FUZZ_BLOCK_WALK_H
#define PLEAT_TESTS_FUZZ_BLOCK_WALK_H

#include "base/hash.h"
#include "base/limits.h"
#include "fuzz/fuzz.h"
#include "sstable/block.h"
#include "sstable/block_inline.h"

#include <stdlib.h>

/* Makes the fingerprints those of the keys. The image was verified. */
static inline void block_walk_fingerprints(uint8_t *image) {
    static uint8_t key[LIMIT_KEY_BYTES + BLOCK_READ_BEYOND];
    for (uint32_t i = 0; i < block_count(image); i++) {
        struct entry entry;
        block_entry(image, i, key, false, &entry);
        image[BLOCK_HEADER_BYTES + i] = block_fingerprint(hash_key(entry.key, entry.key_bytes));
    }
}

/* Both ways over all entries; with seeks, and with gets when the fingerprints are the keys'. */
static inline void block_walk(const uint8_t *image, bool fingerprints) {
    static uint8_t key[LIMIT_KEY_BYTES + BLOCK_READ_BEYOND], again[LIMIT_KEY_BYTES + BLOCK_READ_BEYOND];
    uint32_t count = block_count(image);
    FUZZ_CHECK(count > 0);
    size_t prefix_bytes = block_prefix_copy(image, key);
    const uint8_t *p = block_entry_at(image, 0);
    for (uint32_t i = 0; i < count; i++) {
        struct entry entry, other;
        p = block_entry_read(p, prefix_bytes, key, &entry);
        uint8_t *exact = fuzz_copy(entry.key, entry.key_bytes, 0);
        block_entry(image, i, again, false, &other);
        FUZZ_CHECK(fuzz_equal((struct pleat_slice){entry.key, entry.key_bytes},
                              (struct pleat_slice){other.key, other.key_bytes}));
        FUZZ_CHECK(entry.value == other.value && entry.value_bytes == other.value_bytes);
        FUZZ_CHECK(block_seek(image, exact, entry.key_bytes) == i);
        int rc = block_get(image, exact, entry.key_bytes, hash_key(exact, entry.key_bytes), &other);
        FUZZ_CHECK(rc == 0 || (rc == PLEAT_ABSENT && !fingerprints));
        FUZZ_CHECK(rc != 0 || (other.value == entry.value && other.kind == entry.kind));
        free(exact);
    }
    uint32_t before = count;
    for (uint32_t i = count; i-- > 0;) {
        struct entry entry;
        block_entry(image, i, key, true, &entry);
        uint32_t sum = entry.value_bytes > 0 ? entry.value[entry.value_bytes - 1] : 0;
        sum += entry.version_bytes > 0 ? entry.version[entry.version_bytes - 1] : 0;
        before -= sum <= 510;
    }
    FUZZ_CHECK(before == 0);
}

/* Where a key that need not be there is: as a walk over all of them says. */
static inline void block_walk_seek(const uint8_t *image, struct pleat_slice wanted) {
    static uint8_t key[LIMIT_KEY_BYTES + BLOCK_READ_BEYOND];
    uint8_t *exact = fuzz_copy(wanted.data, wanted.bytes, 0);
    struct entry entry;
    uint32_t i = 0;
    bool present = false;
    for (; i < block_count(image); i++) {
        block_entry(image, i, key, false, &entry);
        int order = key_compare(entry.key, entry.key_bytes, exact, wanted.bytes);
        if (order >= 0) {
            present = order == 0;
            break;
        }
    }
    FUZZ_CHECK(block_seek(image, exact, wanted.bytes) == i);
    int rc = block_get(image, exact, wanted.bytes, hash_key(exact, wanted.bytes), &entry);
    FUZZ_CHECK(rc == PLEAT_ABSENT || (rc == 0 && present));
    free(exact);
}

#endif
