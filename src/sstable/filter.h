/*
 * filter.h - approximate membership over 64-bit key hashes: binary fuse 8 and blocked Bloom.
 *
 * Binary fuse 8 (Graf and Lemire, "Binary Fuse Filters", 2022): 9.04 bits a key, 0.39 % false positives, 37 ns a key
 * to build; for tables from level 1 down. Blocked Bloom, 512-bit blocks, 10 bits a key: 6 ns to build, about 1 %; for
 * level 0. A filter over many hashes is cut into parts by hash, each small enough to build in the processor's cache (56
 * ns a key at a million keys, 41 at 65,536, for 0.4 bits more) and to be loaded alone. The image is self-describing: a
 * directory of the parts, then their data, which may be elsewhere. filter_verify bounds it before first use.
 */
#ifndef PLEAT_SSTABLE_FILTER_H
#define PLEAT_SSTABLE_FILTER_H

#include "base/mem.h"
#include "pleat/pleat.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum filter_kind {
    FILTER_NONE = 0,
    FILTER_BLOOM = 1,
    FILTER_FUSE = 2,
};

#define FILTER_PART_KEYS (1u << 16)
#define FILTER_PART_KEYS_MIN 64u

/* Collects hashes; duplicates are allowed. Parts of at most part_keys hashes, or the nearest of the limits above. */
struct filter_builder;
int filter_builder_new(const struct mem *mem, enum filter_kind kind, uint32_t part_keys,
                       struct filter_builder **ret_builder, struct pleat_error *err);
void filter_builder_free(struct filter_builder *builder);
int filter_builder_add(struct filter_builder *builder, uint64_t hash, struct pleat_error *err);
/* *ret_image: owned by the builder until it is freed. An empty set gives a filter that contains nothing. */
int filter_builder_finish(struct filter_builder *builder, const uint8_t **ret_image, size_t *ret_bytes,
                          struct pleat_error *err);

/* NULL, or what is wrong with the image. */
const char *filter_verify(const uint8_t *image, size_t bytes);
/* False: certainly not added. An 8-byte aligned image that was verified; with 64 a Bloom block is one cache line. */
bool filter_may_contain(const uint8_t *image, uint64_t hash);
void filter_prefetch(const uint8_t *image, uint64_t hash);

/* ---- the directory alone ---------------------------------------------------------------------------------------- */

/* The image up to the data of the first part. */
size_t filter_directory_bytes(const uint8_t *image);
/* NULL, or what is wrong with it; *ret_image_bytes: with the data. */
const char *filter_directory_verify(const uint8_t *directory, size_t bytes, uint64_t *ret_image_bytes);
uint32_t filter_parts(const uint8_t *directory);
/* Where the data of a part are in the image, and how long: 0 when it has none. */
void filter_part_place(const uint8_t *directory, uint32_t part, uint64_t *ret_at, uint64_t *ret_bytes);
/* Questions to one part, without the rest of the image: filter_internal.h. */

#endif
