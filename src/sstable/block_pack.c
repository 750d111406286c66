/*
 * block_pack.c - the offsets of a block image as differences, for the time that it is compressed.
 *
 * Offsets grow by an entry's length each, so as they stand they are bytes that LZ4 cannot shorten: two an entry. As
 * differences they repeat, where entries are alike: measured on 100-byte values, 63.4 -> 61.6 bytes an entry on disk. A
 * running sum undoes it in about half a nanosecond an entry, when the block is loaded. Stored raw, images keep their
 * offsets: those can be read where they lie.
 *
 *   BP1  Packing and unpacking are sums modulo the width: each undoes the other for any bytes.
 *   BP2  Neither looks at more than the header, and touches nothing but whole offsets inside the image: unpacking runs
 *        before block_verify, on bytes that may be hostile.
 */
#include "base/bytes.h"
#include "sstable/block.h"
#include "sstable/block_inline.h"

/* Where the offsets lie: their count, width and place; count 0 when the image has no room for what its header says. */
static uint8_t *block_pack_offsets(uint8_t *image, size_t bytes, size_t *ret_count, size_t *ret_width) {
    *ret_count = 0;
    if (bytes < BLOCK_HEADER_BYTES) {
        return image;
    }
    size_t count = load_u32(image + BLOCK_AT_COUNT);
    size_t width = (load_u16(image + BLOCK_AT_FLAGS) & BLOCK_FLAG_WIDE) != 0 ? 4 : 2;
    *ret_width = width;
    if (count <= (bytes - BLOCK_HEADER_BYTES) / (1 + width)) {
        *ret_count = count;
    }
    return image + BLOCK_HEADER_BYTES + *ret_count;
}

void block_offsets_pack(uint8_t *image, size_t bytes) {
    size_t count, width;
    uint8_t *offsets = block_pack_offsets(image, bytes, &count, &width);
    for (size_t i = count; i > 1; i--) {
        uint8_t *p = offsets + (i - 1) * width;
        if (width == 2) {
            store_u16(p, (uint16_t)(load_u16(p) - load_u16(p - 2)));
        } else {
            store_u32(p, load_u32(p) - load_u32(p - 4));
        }
    }
}

void block_offsets_unpack(uint8_t *image, size_t bytes) {
    size_t count, width;
    uint8_t *p = block_pack_offsets(image, bytes, &count, &width);
    if (count == 0) {
        return;
    }
    if (width == 2) {
        uint16_t sum = load_u16(p);
        for (size_t i = 1; i < count; i++) {
            sum = (uint16_t)(sum + load_u16(p + i * 2));
            store_u16(p + i * 2, sum);
        }
    } else {
        uint32_t sum = load_u32(p);
        for (size_t i = 1; i < count; i++) {
            sum += load_u32(p + i * 4);
            store_u32(p + i * 4, sum);
        }
    }
}
