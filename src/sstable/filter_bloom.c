/*
 * filter_bloom.c - the blocked Bloom filter: all bits of a hash lie in one cache line.
 *
 * Six bits in a block of 512, at 10 bits a hash: about 1 % false positives where an unblocked filter of that size has
 * 0.8 %, for a single cache miss and a sixth of the cost of a fuse filter to build. The upper bits of the hash choose
 * the block, six groups of nine bits of a remixed hash the bits: block and bits are independent.
 */
#include "sstable/filter_internal.h"

#include "base/assert.h"

#define BLOOM_BITS_PER_HASH 10

uint32_t bloom_blocks(uint64_t count) {
    uint64_t bits = FILTER_BLOOM_BLOCK_BYTES * 8;
    uint64_t blocks = count / bits * BLOOM_BITS_PER_HASH + (count % bits * BLOOM_BITS_PER_HASH + bits - 1) / bits;
    return blocks < UINT32_MAX ? (uint32_t)blocks : UINT32_MAX; /* fuller, should it ever be, not wrong */
}

void bloom_add(uint8_t *data, uint32_t blocks, uint64_t inner) {
    uint8_t *block = data + (size_t)filter_scale(inner, blocks) * FILTER_BLOOM_BLOCK_BYTES;
    uint64_t bits = bloom_bits(inner);
    for (unsigned probe = 0; probe < BLOOM_PROBES; probe++) {
        block[(bits >> 3) & 63] |= (uint8_t)(1u << (bits & 7));
        bits >>= 9;
    }
}
