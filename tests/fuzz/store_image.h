/*
 * store_image.h - a whole store in a few bytes: what the target `store` takes and the maker of seeds writes.
 *
 *     byte 0    mode: bit 0: repair all checksums   bit 1: with dense log sequences, too   bits 2..: the target's own
 *     files     {u8 kind, u8 number, u16 bytes, content} one behind another
 *
 * Numbers 0..250 stand for themselves, 251..255 for the last five of 64 bits. Zeros at the end of a log segment are
 * left out: a segment may be shorter than the bytes that it reserves.
 */
#ifndef PLEAT_TESTS_FUZZ_STORE_IMAGE_H
#define PLEAT_TESTS_FUZZ_STORE_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#define STORE_IMAGE_REPAIR 0x01u
#define STORE_IMAGE_DENSE 0x02u
#define STORE_IMAGE_BY_WRITE 0x04u
#define STORE_IMAGE_HEAD_BYTES 4
#define STORE_IMAGE_FILES_MAX 48
#define STORE_IMAGE_FILE_BYTES_MAX 65535

enum store_image_kind {
    STORE_IMAGE_MANIFEST,
    STORE_IMAGE_SEGMENT,
    STORE_IMAGE_TABLE,
    STORE_IMAGE_LEFTOVER, /* MANIFEST.new */
    STORE_IMAGE_KINDS,
};

static inline uint64_t store_image_number(uint8_t number) {
    return number <= 250 ? number : UINT64_MAX - (uint64_t)(255 - number);
}

#endif
