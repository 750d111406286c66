/*
 * filter_internal.h - the filter image and what its two kinds share.
 *
 *   0            4             8              16
 *   | kind u32 | parts n u32 | hashes u64 | part[0] .. part[n-1], 24 bytes each | padding | data of part 0 | ...
 *
 *   part     0            8             16           20          24
 *            | seed u64 | data_at u64 | shape u32 | units u32 |
 *
 *   fuse     shape: bytes of a segment, a power of two; units: segments in which a first slot may lie; the data are
 *            (units + 2) * shape fingerprint bytes. The seed is the one with which peeling succeeded.
 *   bloom    shape: 64, the bytes of a block; units: blocks. Seed 0.
 *   units 0  no data: the part contains nothing (shape 0) or everything (shape 1).
 *
 * Data begin at multiples of 64, so that a Bloom block is one cache line in an image that is aligned so. The parts'
 * data follow each other in order, each padded with zeros to 64 bytes, and end with the image. All integers are
 * little-endian.
 *
 * A hash belongs to part (hash * n) >> 64; the low half of that product, still uniform and unique inside the part, is
 * what the part knows it by.
 */
#ifndef PLEAT_SSTABLE_FILTER_INTERNAL_H
#define PLEAT_SSTABLE_FILTER_INTERNAL_H

#include "base/assert.h"
#include "base/bytes.h"
#include "base/mem.h"
#include "pleat/pleat.h"
#include "sstable/filter.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FILTER_HEADER_BYTES 16
#define FILTER_PART_BYTES 24
#define FILTER_DATA_ALIGNMENT 64
#define FILTER_BLOOM_BLOCK_BYTES 64
#define FILTER_FUSE_SEGMENT_BYTES_MAX (1u << 18)
#define FILTER_DATA_BYTES_MAX ((uint64_t)UINT32_MAX - 63) /* of a part: slots and pieces count in 32 bits */

/* shape of a part without data */
#define FILTER_SHAPE_NOTHING 0u
#define FILTER_SHAPE_EVERYTHING 1u

struct filter_part {
    uint64_t seed;
    uint64_t data_at;
    uint32_t shape;
    uint32_t units;
};

__extension__ typedef unsigned __int128 filter_product;

static inline struct filter_part filter_part_load(const uint8_t *image, uint32_t i) {
    const uint8_t *p = image + FILTER_HEADER_BYTES + (size_t)i * FILTER_PART_BYTES;
    return (struct filter_part){load_u64(p), load_u64(p + 8), load_u32(p + 16), load_u32(p + 20)};
}

static inline void filter_part_store(uint8_t *image, uint32_t i, const struct filter_part *part) {
    uint8_t *p = image + FILTER_HEADER_BYTES + (size_t)i * FILTER_PART_BYTES;
    store_u64(p, part->seed);
    store_u64(p + 8, part->data_at);
    store_u32(p + 16, part->shape);
    store_u32(p + 20, part->units);
}

static inline uint64_t filter_align(uint64_t bytes) {
    return (bytes + FILTER_DATA_ALIGNMENT - 1) & ~(uint64_t)(FILTER_DATA_ALIGNMENT - 1);
}

/* The part of a hash, and in *ret_inner what the part knows it by. */
static inline uint32_t filter_part_of(uint64_t hash, uint32_t parts, uint64_t *ret_inner) {
    filter_product product = (filter_product)hash * parts;
    *ret_inner = (uint64_t)product;
    return (uint32_t)(product >> 64);
}

/* Uniform in [0, bound) from the upper bits of x. */
static inline uint32_t filter_scale(uint64_t x, uint64_t bound) {
    return (uint32_t)(((filter_product)x * bound) >> 64);
}

/* ---- binary fuse ------------------------------------------------------------------------------------------------ */

struct fuse_slots {
    uint32_t at[3];
};

static inline uint64_t fuse_mix(uint64_t inner, uint64_t seed) {
    uint64_t x = (inner ^ seed) * 0xff51afd7ed558ccdull;
    x = (x ^ (x >> 32)) * 0xc4ceb9fe1a85ec53ull;
    return x ^ (x >> 33);
}

static inline uint8_t fuse_fingerprint(uint64_t mixed) {
    return (uint8_t)(mixed ^ (mixed >> 32));
}

/* Three slots in three consecutive segments: below (units + 2) * segment_bytes by construction. */
static inline struct fuse_slots fuse_slots_of(uint64_t mixed, uint32_t segment_bytes, uint32_t units) {
    uint32_t mask = segment_bytes - 1;
    uint32_t first = filter_scale(mixed, (uint64_t)units * segment_bytes);
    struct fuse_slots slots;
    slots.at[0] = first;
    slots.at[1] = (first + segment_bytes) ^ ((uint32_t)(mixed >> 18) & mask);
    slots.at[2] = (first + 2 * segment_bytes) ^ ((uint32_t)mixed & mask);
    return slots;
}

/* Shape and units of a part of `count` hashes at the given attempt; a failed attempt may ask for more slots. */
void fuse_size(uint64_t count, unsigned attempt, struct filter_part *ret_part);

/* Scratch for parts up to a size; reused from part to part. */
struct fuse_scratch;
int fuse_scratch_new(const struct mem *mem, uint64_t count_max, uint64_t slots_max, struct fuse_scratch **ret_scratch,
                     struct pleat_error *err);
void fuse_scratch_free(struct fuse_scratch *scratch);
/* Fills `data` (room for fuse_bytes_max) from the hashes, whose order is lost and from which copies may be removed, and
 * sets seed, shape and units; data_at is the caller's. */
void fuse_build(struct fuse_scratch *scratch, uint64_t *inner, uint64_t count, uint8_t *data,
                struct filter_part *ret_part);
/* Data bytes of a part of `count` hashes at most, whatever attempt succeeds and however many of them are copies. */
uint64_t fuse_bytes_max(uint64_t count);

static inline uint64_t fuse_data_bytes(const struct filter_part *part) {
    return part->units == 0 ? 0 : ((uint64_t)part->units + 2) * part->shape;
}

/* ---- blocked Bloom ---------------------------------------------------------------------------------------------- */

#define BLOOM_PROBES 6

/* Nine bits for each probe. */
static inline uint64_t bloom_bits(uint64_t inner) {
    uint64_t x = (inner ^ (inner >> 32)) * 0x9e3779b97f4a7c15ull;
    return x ^ (x >> 29);
}

/* Blocks for `count` hashes. */
uint32_t bloom_blocks(uint64_t count);
void bloom_add(uint8_t *data, uint32_t blocks, uint64_t inner);

/* ---- questions -------------------------------------------------------------------------------------------------- */

/* What is asked of one part. */
struct filter_question {
    uint64_t inner; /* the hash, as the part knows it */
    uint64_t seed;
    uint32_t part;
    uint32_t kind;
    uint32_t shape;
    uint32_t units; /* 0: there are no data, and shape is the answer */
};

static inline struct filter_question filter_question_of(const uint8_t *directory, uint64_t hash) {
    struct filter_question question = {.kind = load_u32(directory)};
    question.part = filter_part_of(hash, load_u32(directory + 4), &question.inner);
    struct filter_part part = filter_part_load(directory, question.part);
    question.seed = part.seed;
    question.shape = part.shape;
    question.units = part.units;
    return question;
}

/* False: certainly not added. `data`: the part's, where it has any. */
static inline bool filter_answer(const struct filter_question *question, const uint8_t *data) {
    if (UNLIKELY(question->units == 0)) {
        return question->shape == FILTER_SHAPE_EVERYTHING;
    }
    if (question->kind == FILTER_FUSE) {
        uint64_t mixed = fuse_mix(question->inner, question->seed);
        struct fuse_slots slots = fuse_slots_of(mixed, question->shape, question->units);
        return fuse_fingerprint(mixed) == (data[slots.at[0]] ^ data[slots.at[1]] ^ data[slots.at[2]]);
    }
    const uint8_t *block = data + (size_t)filter_scale(question->inner, question->units) * FILTER_BLOOM_BLOCK_BYTES;
    uint64_t bits = bloom_bits(question->inner);
    unsigned found = 1;
    for (unsigned probe = 0; probe < BLOOM_PROBES; probe++) {
        found &= (unsigned)block[(bits >> 3) & 63] >> (bits & 7);
        bits >>= 9;
    }
    return (found & 1) != 0;
}

static inline void filter_answer_prefetch(const struct filter_question *question, const uint8_t *data) {
    if (question->kind == FILTER_FUSE && question->units > 0) {
        struct fuse_slots slots =
            fuse_slots_of(fuse_mix(question->inner, question->seed), question->shape, question->units);
        __builtin_prefetch(data + slots.at[0]);
        __builtin_prefetch(data + slots.at[1]);
        __builtin_prefetch(data + slots.at[2]);
        return;
    }
    __builtin_prefetch(data + (size_t)filter_scale(question->inner, question->units) * FILTER_BLOOM_BLOCK_BYTES);
}

#endif
