/*
 * filter_fuse.c - building a binary fuse filter with one byte a slot.
 *
 * The construction is the published one (Graf and Lemire, "Binary Fuse Filters", 2022). A hash has one slot in each of
 * three consecutive segments; a lookup xors the three bytes there and compares with the hash's fingerprint. To fill the
 * slots, hashes are peeled: one that is alone in some slot is set aside, which leaves others alone in theirs; when all
 * are set aside, slots are assigned in reverse order, each the one that nobody assigned later depends on.
 *
 * A slot keeps how many hashes it has, the xor of them, and the xor of which of the three places (0, 1, 2) it is to
 * each; for a slot with one hash that is the hash and the place itself. Hashes are first ordered by their first
 * segment, so that the slots touched at a time fit the second cache level: that halves the cost at a million hashes.
 *
 *   FF1  A hash occurs once: two copies would never be alone. Copies are rare, so they are looked for only after
 *        peeling failed once.
 *   FF2  No slot counts 64 hashes or more (6 bits); an attempt in which one would is given up. Counts are then exact,
 *        and a slot is put on the queue at most once.
 *   FF3  Peeling fails for a seed with a probability of a few percent at most. After FUSE_ATTEMPTS seeds, which only
 *        hashes chosen against all of them could exhaust, the part contains everything: reads are slower, never wrong.
 */
#include "sstable/filter_internal.h"

#include "base/assert.h"
#include "base/error.h"
#include "base/hash.h"

#include <string.h>

#define FUSE_ATTEMPTS 32u
#define FUSE_BUCKET_BITS_MAX 12u
#define FUSE_COUNT_MAX ((uint64_t)1 << 31)

#define FUSE_DEGREE_ONE 4u /* the count lies above the two bits of the place */
#define FUSE_PLACE_MASK 3u

struct fuse_scratch {
    const struct mem *mem;
    uint64_t count_max;
    uint64_t slots_max;
    uint64_t *xors;   /* [slots] of the hashes in a slot */
    uint64_t *order;  /* [count + 1] mixed hashes by first segment; from its start on overwritten in peeling order */
    uint32_t *queue;  /* [slots] slots seen with one hash */
    uint8_t *degrees; /* [slots] count * 4 + xor of places */
    uint8_t *places;  /* [count] beside the peeled hashes: the place of the slot in which one was alone */
    uint32_t starts[1u << FUSE_BUCKET_BITS_MAX];
};

/* ---- sizes ------------------------------------------------------------------------------------------------------ */

/* log2 in units of 1/256, straight between powers of two: never too large, so that the sizes are not too small. */
static uint64_t fuse_log2(uint64_t x) {
    unsigned whole = 63u - (unsigned)__builtin_clzll(x);
    uint64_t fraction = whole >= 8 ? (x >> (whole - 8)) - 256 : (x << (8 - whole)) - 256;
    return ((uint64_t)whole << 8) + fraction;
}

void fuse_size(uint64_t count, unsigned attempt, struct filter_part *ret_part) {
    /* Least counts for segments of 8, 16, 32 ... bytes: 2^floor(log(count) / log(3.33) + 2.25), as published. */
    static const uint32_t thresholds[] = {3,     9,      28,     92,      304,     1010,     3362,     11193,
                                          37273, 124118, 413310, 1376322, 4583150, 15261887, 50822082, 169237530};
    uint32_t segment_bytes = 4;
    for (size_t i = 0; i < sizeof thresholds / sizeof thresholds[0] && count >= thresholds[i]; i++) {
        segment_bytes *= 2;
    }
    if (segment_bytes > FILTER_FUSE_SEGMENT_BYTES_MAX) {
        segment_bytes = FILTER_FUSE_SEGMENT_BYTES_MAX;
    }
    /* Slots a hash: 0.875 + 0.25 * log(10^6) / log(count), but 1.125 at least. 1276 is 256 * 0.25 * log2(10^6). */
    uint64_t counted = count < 2 ? 2 : count;
    uint64_t slots = counted - counted / 8 + counted * 1276 / fuse_log2(counted) + 1;
    uint64_t slots_min = counted + counted / 8;
    slots = slots > slots_min ? slots : slots_min;
    slots += slots / 16 * (attempt / 8);
    uint64_t segments = (slots + segment_bytes - 1) / segment_bytes;
    ret_part->shape = segment_bytes;
    ret_part->units = (uint32_t)(segments > 3 ? segments - 2 : 1);
}

uint64_t fuse_bytes_max(uint64_t count) {
    if (count == 0 || count > FUSE_COUNT_MAX) {
        return 0;
    }
    struct filter_part part;
    fuse_size(count, FUSE_ATTEMPTS - 1, &part);
    part.units++; /* the steps of fuse_log2 may give a slightly smaller count a few slots more */
    return fuse_data_bytes(&part);
}

/* ---- scratch ---------------------------------------------------------------------------------------------------- */

int fuse_scratch_new(const struct mem *mem, uint64_t count_max, uint64_t slots_max, struct fuse_scratch **ret_scratch,
                     struct pleat_error *err) {
    struct fuse_scratch *scratch = mem_zalloc(mem, 1, sizeof *scratch);
    if (scratch == NULL) {
        return error_no_memory(err, "filter scratch", sizeof *scratch);
    }
    scratch->mem = mem;
    scratch->count_max = count_max;
    scratch->slots_max = slots_max;
    scratch->xors = mem_alloc(mem, (size_t)slots_max * sizeof *scratch->xors);
    scratch->order = mem_alloc(mem, ((size_t)count_max + 1) * sizeof *scratch->order);
    scratch->queue = mem_alloc(mem, ((size_t)slots_max + 1) * sizeof *scratch->queue);
    scratch->degrees = mem_alloc(mem, (size_t)slots_max);
    scratch->places = mem_alloc(mem, (size_t)count_max);
    if (scratch->xors == NULL || scratch->order == NULL || scratch->queue == NULL || scratch->degrees == NULL ||
        scratch->places == NULL) {
        fuse_scratch_free(scratch);
        return error_no_memory(err, "filter scratch", slots_max * 13 + count_max * 9);
    }
    *ret_scratch = scratch;
    return 0;
}

void fuse_scratch_free(struct fuse_scratch *scratch) {
    if (scratch == NULL) {
        return;
    }
    mem_free(scratch->mem, scratch->xors);
    mem_free(scratch->mem, scratch->order);
    mem_free(scratch->mem, scratch->queue);
    mem_free(scratch->mem, scratch->degrees);
    mem_free(scratch->mem, scratch->places);
    mem_free(scratch->mem, scratch);
}

/* ---- one attempt ------------------------------------------------------------------------------------------------ */

/* Mixed hashes into scratch->order, by the segment of their first slot (or finer). */
static void fuse_order(struct fuse_scratch *scratch, const uint64_t *inner, uint64_t count,
                       const struct filter_part *part) {
    unsigned bits = 1;
    while (bits < FUSE_BUCKET_BITS_MAX && ((uint32_t)1 << bits) < part->units) {
        bits++;
    }
    unsigned shift = 64 - bits;
    uint32_t *starts = scratch->starts;
    memset(starts, 0, ((size_t)1 << bits) * sizeof *starts);
    for (uint64_t i = 0; i < count; i++) {
        starts[fuse_mix(inner[i], part->seed) >> shift]++;
    }
    uint32_t sum = 0;
    for (size_t bucket = 0; bucket < (size_t)1 << bits; bucket++) {
        uint32_t bucket_count = starts[bucket];
        starts[bucket] = sum;
        sum += bucket_count;
    }
    for (uint64_t i = 0; i < count; i++) {
        uint64_t mixed = fuse_mix(inner[i], part->seed);
        scratch->order[starts[mixed >> shift]++] = mixed;
    }
}

/* Counts the hashes into their slots; false when a count would not fit (FF2). */
static bool fuse_count(struct fuse_scratch *scratch, uint64_t count, const struct filter_part *part) {
    uint64_t slots = fuse_data_bytes(part);
    uint64_t *xors = scratch->xors;
    uint8_t *degrees = scratch->degrees;
    memset(xors, 0, (size_t)slots * sizeof *xors);
    memset(degrees, 0, (size_t)slots);
    unsigned overflow = 0;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t mixed = scratch->order[i];
        struct fuse_slots own = fuse_slots_of(mixed, part->shape, part->units);
        for (unsigned place = 0; place < 3; place++) {
            uint32_t slot = own.at[place];
            degrees[slot] = (uint8_t)((degrees[slot] + FUSE_DEGREE_ONE) ^ place);
            xors[slot] ^= mixed;
            overflow |= degrees[slot] < FUSE_DEGREE_ONE;
        }
    }
    return overflow == 0;
}

/* Sets hashes aside one by one, in this order, into order[] and places[]; returns how many. */
static uint64_t fuse_peel(struct fuse_scratch *scratch, const struct filter_part *part) {
    uint64_t slots = fuse_data_bytes(part);
    uint64_t *xors = scratch->xors;
    uint8_t *degrees = scratch->degrees;
    uint32_t *queue = scratch->queue;
    uint64_t waiting = 0;
    for (uint64_t slot = 0; slot < slots; slot++) { /* written always, kept when it counts: no branch to guess wrong */
        queue[waiting] = (uint32_t)slot;
        waiting += degrees[slot] >> 2 == 1;
    }
    uint64_t peeled = 0;
    while (waiting > 0) {
        uint32_t slot = queue[--waiting];
        if (degrees[slot] >> 2 != 1) {
            continue; /* its hash was set aside by another slot */
        }
        uint64_t mixed = xors[slot];
        unsigned place = degrees[slot] & FUSE_PLACE_MASK;
        scratch->order[peeled] = mixed;
        scratch->places[peeled] = (uint8_t)place;
        peeled++;
        struct fuse_slots own = fuse_slots_of(mixed, part->shape, part->units);
        static const uint8_t next_place[4] = {1, 2, 0, 0};
        for (unsigned step = 0; step < 2; step++) {
            place = next_place[place];
            uint32_t other = own.at[place];
            queue[waiting] = other;
            waiting += degrees[other] >> 2 == 2;
            degrees[other] = (uint8_t)((degrees[other] - FUSE_DEGREE_ONE) ^ place);
            xors[other] ^= mixed;
        }
    }
    return peeled;
}

static void fuse_assign(const struct fuse_scratch *scratch, uint64_t count, const struct filter_part *part,
                        uint8_t *data) {
    memset(data, 0, (size_t)fuse_data_bytes(part));
    for (uint64_t i = count; i-- > 0;) {
        uint64_t mixed = scratch->order[i];
        struct fuse_slots own = fuse_slots_of(mixed, part->shape, part->units);
        /* The slot to assign is still zero, so that xoring all three leaves it out. */
        data[own.at[scratch->places[i]]] =
            (uint8_t)(fuse_fingerprint(mixed) ^ data[own.at[0]] ^ data[own.at[1]] ^ data[own.at[2]]);
    }
}

/* ---- building --------------------------------------------------------------------------------------------------- */

/* Removes copies from hashes[0..count): sorts by byte from the lowest on, with scratch->order as the other half. */
static uint64_t fuse_unique(struct fuse_scratch *scratch, uint64_t *hashes, uint64_t count) {
    uint64_t *from = hashes;
    uint64_t *to = scratch->order;
    for (unsigned shift = 0; shift < 64; shift += 8) { /* an even number of passes: the result is back in hashes */
        uint32_t starts[256] = {0};
        for (uint64_t i = 0; i < count; i++) {
            starts[(from[i] >> shift) & 0xff]++;
        }
        uint32_t sum = 0;
        for (unsigned byte = 0; byte < 256; byte++) {
            uint32_t byte_count = starts[byte];
            starts[byte] = sum;
            sum += byte_count;
        }
        for (uint64_t i = 0; i < count; i++) {
            to[starts[(from[i] >> shift) & 0xff]++] = from[i];
        }
        uint64_t *swap = from;
        from = to;
        to = swap;
    }
    uint64_t kept = 0;
    for (uint64_t i = 0; i < count; i++) {
        if (i == 0 || hashes[i] != hashes[i - 1]) {
            hashes[kept++] = hashes[i];
        }
    }
    return kept;
}

void fuse_build(struct fuse_scratch *scratch, uint64_t *inner, uint64_t count, uint8_t *data,
                struct filter_part *ret_part) {
    *ret_part = (struct filter_part){.shape = FILTER_SHAPE_NOTHING};
    if (count == 0) {
        return;
    }
    if (count <= FUSE_COUNT_MAX) {
        ASSERT(count <= scratch->count_max && fuse_bytes_max(count) <= scratch->slots_max);
        uint64_t slots_max = scratch->slots_max;
        for (unsigned attempt = 0; attempt < FUSE_ATTEMPTS; attempt++) {
            if (attempt == 1) {
                count = fuse_unique(scratch, inner, count); /* FF1 */
            }
            struct filter_part part = {.seed = hash_mix(0x66757365, attempt)};
            fuse_size(count, attempt, &part);
            ASSERT(fuse_data_bytes(&part) <= slots_max);
            fuse_order(scratch, inner, count, &part);
            if (fuse_count(scratch, count, &part) && fuse_peel(scratch, &part) == count) {
                fuse_assign(scratch, count, &part, data);
                *ret_part = part;
                return;
            }
        }
    }
    ret_part->shape = FILTER_SHAPE_EVERYTHING; /* FF3 */
}
