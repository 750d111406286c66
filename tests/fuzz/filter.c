/*
 * filter.c - fuzzes filter images, bloom and fuse, and building them.
 *
 *     byte 0   bit 0: build filters of the hashes that follow; else an image, with bit 1: its places repaired
 *
 * What filter_verify accepts is asked for many hashes and must stay inside the image. What is built holds every hash.
 */
#include "base/hash.h"
#include "fuzz/fuzz.h"
#include "sstable/filter_internal.h"

#include <stdlib.h>

static void ask(const uint8_t *image, uint64_t hash, bool must) {
    filter_prefetch(image, hash);
    bool answer = filter_may_contain(image, hash);
    FUZZ_CHECK(answer || !must);
}

/* A copy that is aligned as the section of a table is, with nothing behind it. */
static uint8_t *aligned_copy(const uint8_t *data, size_t bytes) {
    void *copy = NULL;
    FUZZ_CHECK(posix_memalign(&copy, FILTER_DATA_ALIGNMENT, bytes > 0 ? bytes : 1) == 0);
    if (bytes > 0) {
        memcpy(copy, data, bytes);
    }
    return copy;
}

static void check_image(const uint8_t *data, size_t bytes) {
    uint8_t *image = aligned_copy(data, bytes);
    if (filter_verify(image, bytes) == NULL) {
        ask(image, 0, false);
        ask(image, UINT64_MAX, false);
        for (uint64_t i = 0; i < 256; i++) {
            ask(image, hash_mix(i, 1), false);
            ask(image, i << 56, false);
        }
    }
    free(image);
}

/* Places of the parts' data as their shapes say. */
static void repair_places(uint8_t *image, size_t bytes) {
    if (bytes < FILTER_HEADER_BYTES + FILTER_PART_BYTES) {
        return;
    }
    uint64_t parts = load_u32(image + 4), most = (bytes - FILTER_HEADER_BYTES) / FILTER_PART_BYTES;
    parts = parts < most ? parts : most;
    uint64_t at = filter_align(FILTER_HEADER_BYTES + parts * FILTER_PART_BYTES);
    for (uint32_t i = 0; i < parts; i++) {
        struct filter_part part = filter_part_load(image, i);
        part.data_at = at;
        filter_part_store(image, i, &part);
        uint64_t units = load_u32(image) == FILTER_FUSE && part.units > 0 ? (uint64_t)part.units + 2 : part.units;
        at += filter_align(units * part.shape);
    }
}

static void check_built(struct fuzz_input *input, enum filter_kind kind) {
    struct fuzz_mem memory;
    struct filter_builder *builder;
    const uint8_t *image;
    size_t bytes;
    const struct fuzz_input from = *input;
    fuzz_mem_init(&memory, fuzz_left(input), 64, 1 << 20);
    FUZZ_CHECK(filter_builder_new(&memory.mem, kind, &builder, NULL) == 0);
    while (fuzz_left(input) > 0) {
        FUZZ_CHECK(filter_builder_add(builder, fuzz_u64(input), NULL) == 0);
    }
    FUZZ_CHECK(filter_builder_finish(builder, &image, &bytes, NULL) == 0);
    uint8_t *exact = aligned_copy(image, bytes);
    FUZZ_CHECK(filter_verify(exact, bytes) == NULL);
    for (struct fuzz_input again = from; fuzz_left(&again) > 0;) {
        ask(exact, fuzz_u64(&again), true);
    }
    free(exact);
    filter_builder_free(builder);
    fuzz_mem_fini(&memory);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fuzz_input input = {data, data + size};
    uint8_t mode = fuzz_u8(&input);
    if ((mode & 1) != 0) {
        struct fuzz_input again = input;
        check_built(&input, FILTER_BLOOM);
        check_built(&again, FILTER_FUSE);
        return 0;
    }
    struct pleat_slice rest = fuzz_rest(&input);
    uint8_t *image = fuzz_copy(rest.data, rest.bytes, 0);
    if ((mode & 2) != 0) {
        repair_places(image, rest.bytes);
    }
    check_image(image, rest.bytes);
    free(image);
    return 0;
}
