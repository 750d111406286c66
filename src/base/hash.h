/*
 * hash.h - xxh3-64, the only hash of the project.
 *
 * One hash of a key, computed once, serves the memtable filter, every table filter and the block fingerprints.
 * Checksums are keyed: the seed says which file and place the bytes belong to, so that stale, moved or foreign bytes
 * never validate.
 */
#ifndef PLEAT_BASE_HASH_H
#define PLEAT_BASE_HASH_H

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <stddef.h>
#include <stdint.h>

static inline uint64_t hash_key(const void *key, size_t key_bytes) {
    return XXH3_64bits(key, key_bytes);
}

static inline uint64_t hash_bytes(const void *data, size_t bytes, uint64_t seed) {
    return XXH3_64bits_withSeed(data, bytes, seed);
}

/* One step of a strong 64-bit mixer; combines identities into checksum seeds and drives the tests' generators. */
static inline uint64_t hash_mix(uint64_t a, uint64_t b) {
    uint64_t z = a + 0x9e3779b97f4a7c15ull + b * 0xd6e8feb86659fd93ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

#endif
