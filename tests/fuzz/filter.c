/*
 * filter.c - fuzzes filter images, bloom and fuse, and building them.
 *
 *     byte 0   bit 0: build filters of the hashes that follow (u16 hashes of a part, before them); else an image, with
 *              bit 1: its places repaired   bit 2: as far as its directory goes, with data of its own
 *
 * What filter_verify accepts is asked for many hashes and must stay inside the image, and so must the same questions
 * to a directory alone inside the data of the part that each names. What is built holds every hash.
 */
#include "base/hash.h"
#include "fuzz/fuzz.h"
#include "sstable/filter_internal.h"

#include <stdlib.h>

#define PAGES_BYTES_MAX ((uint64_t)1 << 20)

/* A copy (NULL: of some bytes) that is aligned as a page of a table is, with nothing behind it. */
static uint8_t *aligned_copy(const uint8_t *data, size_t bytes) {
    void *copy = NULL;
    FUZZ_CHECK(posix_memalign(&copy, FILTER_DATA_ALIGNMENT, bytes > 0 ? bytes : 1) == 0);
    memset(copy, 0x5a, bytes);
    if (bytes > 0 && data != NULL) {
        memcpy(copy, data, bytes);
    }
    return copy;
}

/* A directory and the data of its parts, apart: each copied out to exactly its length, as pages are. */
struct pages {
    uint8_t *directory;
    uint8_t **data; /* NULL: none, or too long to be here */
    uint32_t parts;
};

/* A part is of a shape for which fuse_slots_of and bloom_add stay inside the data, and has one form. */
static void check_part(const uint8_t *directory, uint32_t i) {
    struct filter_part part = filter_part_load(directory, i);
    FUZZ_CHECK(load_u32(directory) == FILTER_BLOOM || load_u32(directory) == FILTER_FUSE);
    if (part.units == 0) {
        FUZZ_CHECK(part.shape == FILTER_SHAPE_NOTHING || part.shape == FILTER_SHAPE_EVERYTHING);
    } else if (load_u32(directory) == FILTER_BLOOM) {
        FUZZ_CHECK(part.shape == FILTER_BLOOM_BLOCK_BYTES);
    } else {
        FUZZ_CHECK(part.shape >= 4 && part.shape <= FILTER_FUSE_SEGMENT_BYTES_MAX &&
                   __builtin_popcount(part.shape) == 1);
    }
}

/* Of a directory that was verified. `image`: with the data; NULL: the data are some bytes that repeat. */
static void pages_take(struct pages *pages, const uint8_t *directory, const uint8_t *image) {
    size_t bytes = filter_directory_bytes(directory);
    pages->directory = aligned_copy(directory, bytes);
    pages->parts = filter_parts(pages->directory);
    pages->data = calloc(pages->parts, sizeof *pages->data);
    FUZZ_CHECK(pages->data != NULL);
    uint64_t expected_at = bytes, left = PAGES_BYTES_MAX;
    for (uint32_t part = 0; part < pages->parts; part++) {
        uint64_t at, part_bytes;
        filter_part_place(pages->directory, part, &at, &part_bytes);
        check_part(pages->directory, part);
        FUZZ_CHECK(at == expected_at && part_bytes % FILTER_DATA_ALIGNMENT == 0 && part_bytes <= UINT32_MAX);
        expected_at += part_bytes;
        if (part_bytes == 0 || (image == NULL && part_bytes > left)) {
            continue;
        }
        pages->data[part] = aligned_copy(image != NULL ? image + at : NULL, (size_t)part_bytes);
        left -= image == NULL ? part_bytes : 0;
    }
}

static void pages_drop(struct pages *pages) {
    for (uint32_t part = 0; part < pages->parts; part++) {
        free(pages->data[part]);
    }
    free(pages->data);
    free(pages->directory);
}

static int pages_ask(const struct pages *pages, uint64_t hash) {
    struct filter_question question = filter_question_of(pages->directory, hash);
    FUZZ_CHECK(question.part < pages->parts);
    const uint8_t *data = pages->data[question.part];
    if (data == NULL && question.units > 0) {
        return -1; /* not known */
    }
    if (data != NULL) {
        filter_answer_prefetch(&question, data);
    }
    return filter_answer(&question, data);
}

/* The whole image, which may be NULL, and the same in pages. */
static void ask(const uint8_t *image, const struct pages *pages, uint64_t hash, bool must) {
    int answer = pages_ask(pages, hash);
    if (image != NULL) {
        filter_prefetch(image, hash);
        FUZZ_CHECK(answer == filter_may_contain(image, hash));
    }
    FUZZ_CHECK(answer != 0 || !must);
}

static void ask_many(const uint8_t *image, const struct pages *pages) {
    ask(image, pages, 0, false);
    ask(image, pages, UINT64_MAX, false);
    for (uint64_t i = 0; i < 256; i++) {
        ask(image, pages, hash_mix(i, 1), false);
        ask(image, pages, i << 56, false);
    }
}

static void check_image(const uint8_t *data, size_t bytes) {
    uint8_t *image = aligned_copy(data, bytes);
    if (filter_verify(image, bytes) == NULL) {
        struct pages pages;
        uint64_t image_bytes = 0;
        size_t directory_bytes = filter_directory_bytes(image);
        FUZZ_CHECK(directory_bytes <= bytes);
        FUZZ_CHECK(filter_directory_verify(image, directory_bytes, &image_bytes) == NULL && image_bytes == bytes);
        pages_take(&pages, image, image);
        ask_many(image, &pages);
        pages_drop(&pages);
    }
    free(image);
}

/* The directory at the beginning, cut off where it ends, if the bytes go so far; with more it is none. */
static void check_directory(const uint8_t *data, size_t bytes) {
    uint64_t parts = bytes >= FILTER_HEADER_BYTES ? load_u32(data + 4) : 0;
    uint64_t end = filter_align(FILTER_HEADER_BYTES + parts * FILTER_PART_BYTES), image_bytes = 0;
    if (end < bytes) {
        uint8_t *longer = aligned_copy(data, bytes);
        FUZZ_CHECK(filter_directory_verify(longer, bytes, &image_bytes) != NULL);
        free(longer);
        bytes = (size_t)end;
    }
    uint8_t *directory = aligned_copy(data, bytes);
    if (filter_directory_verify(directory, bytes, &image_bytes) == NULL) {
        struct pages pages;
        FUZZ_CHECK(bytes == end && image_bytes >= end);
        FUZZ_CHECK((filter_verify(directory, bytes) == NULL) == (image_bytes == end));
        pages_take(&pages, directory, NULL);
        ask_many(NULL, &pages);
        pages_drop(&pages);
    }
    free(directory);
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

static void check_built(struct fuzz_input *input, enum filter_kind kind, uint32_t part_keys) {
    struct fuzz_mem memory;
    struct filter_builder *builder;
    const uint8_t *image;
    size_t bytes;
    const struct fuzz_input from = *input;
    fuzz_mem_init(&memory, fuzz_left(input), 64, 1 << 20);
    FUZZ_CHECK(filter_builder_new(&memory.mem, kind, part_keys, &builder, NULL) == 0);
    while (fuzz_left(input) > 0) {
        FUZZ_CHECK(filter_builder_add(builder, fuzz_u64(input), NULL) == 0);
    }
    FUZZ_CHECK(filter_builder_finish(builder, &image, &bytes, NULL) == 0);
    uint8_t *exact = aligned_copy(image, bytes);
    struct pages pages;
    FUZZ_CHECK(filter_verify(exact, bytes) == NULL);
    pages_take(&pages, exact, exact);
    for (struct fuzz_input again = from; fuzz_left(&again) > 0;) {
        ask(exact, &pages, fuzz_u64(&again), true);
    }
    ask_many(exact, &pages);
    pages_drop(&pages);
    free(exact);
    filter_builder_free(builder);
    fuzz_mem_fini(&memory);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fuzz_input input = {data, data + size};
    uint8_t mode = fuzz_u8(&input);
    if ((mode & 1) != 0) {
        uint32_t part_keys = fuzz_u16(&input);
        struct fuzz_input again = input;
        check_built(&input, FILTER_BLOOM, part_keys);
        check_built(&again, FILTER_FUSE, part_keys);
        return 0;
    }
    struct pleat_slice rest = fuzz_rest(&input);
    uint8_t *image = fuzz_copy(rest.data, rest.bytes, 0);
    if ((mode & 2) != 0) {
        repair_places(image, rest.bytes);
    }
    if ((mode & 4) != 0) {
        check_directory(image, rest.bytes);
    } else {
        check_image(image, rest.bytes);
    }
    free(image);
    return 0;
}
