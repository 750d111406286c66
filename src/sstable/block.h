/*
 * block.h - the block image: the same bytes on disk (inside LZ4 or raw) and in the cache. Nothing is rebuilt at load.
 *
 * Shape (exact bytes: docs/format.md): a fixed header (entry count, flags, length of the common prefix, where the parts
 * begin), one fingerprint byte an entry (top byte of the key's hash), entry offsets (16 bits; 32 in the wide form),
 * the common prefix, then the entries {head, suffix length, value length, attributes, suffix, value}.
 *
 *   B1  Keys in a block are strictly ascending; every key begins with the block's prefix.
 *   B2  An image is read only after block_verify accepted it: verification bounds every offset and length and checks
 *       B1 and the fingerprints' count, so that the readers below need no checks of their own.
 *   B3  Unknown flag bits are refused. Reserved: per-entry sequences, separated values.
 *   B4  Readers may load up to 16 bytes beyond a suffix and 16 fingerprints at once: the image is followed by 64
 *       readable bytes.
 *
 *
 * block_inline.h has the same steps inline, for loops that walk a block.
 *
 * Threads: an image is frozen; any number of readers.
 */
#ifndef PLEAT_SSTABLE_BLOCK_H
#define PLEAT_SSTABLE_BLOCK_H

#include "base/entry.h"
#include "base/mem.h"
#include "pleat/pleat.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BLOCK_READ_BEYOND 64

/* ---- building --------------------------------------------------------------------------------------------------- */

/* Collects entries of one or more blocks; keys strictly ascending (asserted). */
struct block_builder;

int block_builder_new(const struct mem *mem, struct block_builder **ret_builder, struct pleat_error *err);
void block_builder_free(struct block_builder *builder);
/* Copies the entry behind those held. `hash`: hash_key of the key. */
int block_builder_add(struct block_builder *builder, const struct entry *entry, uint64_t hash,
                      struct pleat_error *err);
size_t block_builder_count(const struct block_builder *builder);
/* Upper bound of the image of all entries held. */
size_t block_builder_bytes(const struct block_builder *builder);
/* Where to cut: how many of the first entries the next block takes so that its image has 50 to 100 % of target_bytes
 * and the keys on both sides of the cut share the shortest prefix (the largest block of those); all of them when they
 * do not reach the target (at least 1). When an entry leaps over that range it comes along up to 150 %, and a larger
 * one stays for the next block. Sizes are those of block_builder_bytes. */
size_t block_builder_cut(const struct block_builder *builder, size_t target_bytes);
/* Builds the image of the first `count` entries and forgets them. *ret_image: owned by the builder (the caller may pack
 * it in place), valid until the next take; BLOCK_READ_BEYOND readable bytes follow. The offset of the last entry must
 * fit 32 bits (asserted), as it does with any count up to that of block_builder_cut. */
int block_builder_take(struct block_builder *builder, size_t count, uint8_t **ret_image, size_t *ret_bytes,
                       struct pleat_error *err);
/* The i-th key held; borrowed until the next add or take. */
struct pleat_slice block_builder_key(const struct block_builder *builder, size_t i);

/* ---- packing ---------------------------------------------------------------------------------------------------- */

/* Replaces the offsets behind the first by their differences, and back: what is compressed is the packed image. Any
 * bytes are allowed; nothing but the offsets that the header announces, as far as they fit, is touched. */
void block_offsets_pack(uint8_t *image, size_t bytes);
void block_offsets_unpack(uint8_t *image, size_t bytes);

/* ---- reading ---------------------------------------------------------------------------------------------------- */

/* Checks a whole image (B2) but for its fingerprints' values, of which a wrong one only hides its key from block_get.
 * NULL, or a static text of what is wrong, with *ret_offset where. BLOCK_READ_BEYOND readable bytes follow the image,
 * whatever they hold. */
const char *block_verify(const uint8_t *image, size_t bytes, size_t *ret_offset);
/* The same with a lower limit of the keys' length than LIMIT_KEY_BYTES. */
const char *block_verify_keys(const uint8_t *image, size_t bytes, size_t key_bytes_max, size_t *ret_offset);
/* block_verify, and every fingerprint compared with its key's hash: for checking whole tables. */
const char *block_verify_full(const uint8_t *image, size_t bytes, size_t *ret_offset);
uint32_t block_count(const uint8_t *image);
size_t block_prefix_bytes(const uint8_t *image);
/* The entry of exactly this key: 0, or PLEAT_ABSENT. *ret_entry borrows value and version from the image; its key is
 * the caller's. Two or three cache misses when cold. */
int block_get(const uint8_t *image, const uint8_t *key, size_t key_bytes, uint64_t hash, struct entry *ret_entry);
/* Index of the first entry with key >= this, block_count when there is none. */
uint32_t block_seek(const uint8_t *image, const uint8_t *key, size_t key_bytes);
/* The same when all entries in front of `from` are known to be less: cheap when the answer is near, and it touches only
 * entries that a walk from there reads anyway. */
uint32_t block_seek_from(const uint8_t *image, uint32_t from, const uint8_t *key, size_t key_bytes);
/* Entry i: value and attributes borrowed from the image, its key written to `key_buffer` (room for
 * LIMIT_KEY_BYTES + BLOCK_READ_BEYOND or the table's longest key + BLOCK_READ_BEYOND) unless the prefix is already
 * there: `prefix_ready` says that key_buffer begins with this block's prefix. ret_entry->key = key_buffer. */
void block_entry(const uint8_t *image, uint32_t i, uint8_t *key_buffer, bool prefix_ready, struct entry *ret_entry);

#endif
