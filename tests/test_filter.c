/* test_filter.c - binary fuse and blocked Bloom: no false negatives, few false positives, hostile images, memory. */
#include "base/bytes.h"
#include "base/hash.h"
#include "sstable/filter.h"
#include "sstable/filter_internal.h"
#include "support/failmem.h"
#include "support/random.h"

#include <criterion/criterion.h>
#include <stdlib.h>

static const enum filter_kind kinds[] = {FILTER_BLOOM, FILTER_FUSE};

/* Hash i of a stream. */
static uint64_t stream_hash(uint64_t seed, uint64_t i) {
    return hash_mix(seed, i);
}

/* A filter of hashes 0..count of a stream, each `copies` times, in a block of exactly its size owned by the caller. */
static uint8_t *filter_of(enum filter_kind kind, uint64_t seed, uint64_t count, unsigned copies, size_t *ret_bytes) {
    struct filter_builder *builder;
    cr_assert_eq(filter_builder_new(&mem_system, kind, FILTER_PART_KEYS, &builder, NULL), 0);
    for (unsigned copy = 0; copy < copies; copy++) {
        for (uint64_t i = 0; i < count; i++) {
            uint64_t at = copy % 2 == 0 ? i : count - 1 - i;
            cr_assert_eq(filter_builder_add(builder, stream_hash(seed, at), NULL), 0);
        }
    }
    const uint8_t *image;
    const uint8_t *again;
    cr_assert_eq(filter_builder_finish(builder, &image, ret_bytes, NULL), 0);
    cr_assert_eq(filter_builder_finish(builder, &again, ret_bytes, NULL), 0);
    cr_assert_eq(image, again);
    uint8_t *copy = malloc(*ret_bytes);
    memcpy(copy, image, *ret_bytes);
    filter_builder_free(builder);
    const char *wrong = filter_verify(copy, *ret_bytes);
    cr_assert_null(wrong, "%s with %llu hashes", wrong, (unsigned long long)count);
    return copy;
}

static void all_found(const uint8_t *image, uint64_t seed, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) {
        filter_prefetch(image, stream_hash(seed, i));
        cr_assert(filter_may_contain(image, stream_hash(seed, i)), "hash %llu of %llu", (unsigned long long)i,
                  (unsigned long long)count);
    }
}

/* False positives of `asked` foreign hashes. */
static uint64_t false_positives(const uint8_t *image, uint64_t seed, uint64_t asked) {
    uint64_t found = 0;
    for (uint64_t i = 0; i < asked; i++) {
        found += filter_may_contain(image, stream_hash(~seed, i));
    }
    return found;
}

Test(filter, holds_every_hash_of_every_small_set) {
    struct random random = random_begin("filter small sets");
    for (size_t k = 0; k < 2; k++) {
        for (uint64_t count = 0; count < 400; count++) {
            for (unsigned copies = 1; copies <= 3; copies++) {
                size_t bytes;
                uint64_t seed = random_next(&random);
                uint8_t *image = filter_of(kinds[k], seed, count, copies, &bytes);
                all_found(image, seed, count);
                free(image);
            }
        }
    }
}

Test(filter, an_empty_set_contains_nothing) {
    for (size_t k = 0; k < 2; k++) {
        size_t bytes;
        uint8_t *image = filter_of(kinds[k], 1, 0, 1, &bytes);
        cr_assert_eq(false_positives(image, 1, 10000), 0);
        filter_prefetch(image, 7);
        free(image);
    }
}

/* Measured over enough questions that the bound is more than five standard deviations away from the mean. */
static void rate_expect(enum filter_kind kind, uint64_t count, unsigned copies, double rate_max, double bits_max) {
    size_t bytes;
    uint64_t seed = 0x1234 + count, asked = 400000;
    uint8_t *image = filter_of(kind, seed, count, copies, &bytes);
    all_found(image, seed, count);
    uint64_t found = false_positives(image, seed, asked);
    cr_assert_leq((double)found, rate_max * (double)asked, "kind %d, %llu hashes: %.3f %%", kind,
                  (unsigned long long)count, 100.0 * (double)found / (double)asked);
    cr_assert_leq((double)bytes * 8, bits_max * (double)count, "kind %d, %llu hashes: %.2f bits each", kind,
                  (unsigned long long)count, (double)bytes * 8 / (double)count);
    free(image);
}

Test(filter, fuse_rates_and_sizes_are_as_promised) {
    rate_expect(FILTER_FUSE, 1000, 1, 0.0045, 13);
    rate_expect(FILTER_FUSE, 10000, 1, 0.0045, 11);
    rate_expect(FILTER_FUSE, 100000, 1, 0.0045, 9.9);
    rate_expect(FILTER_FUSE, 60000, 1, 0.0045, 9.7); /* one part */
    rate_expect(FILTER_FUSE, 1500000, 1, 0.0045, 9.7);
}

Test(filter, bloom_rates_and_sizes_are_as_promised) {
    rate_expect(FILTER_BLOOM, 1000, 1, 0.012, 11.5);
    rate_expect(FILTER_BLOOM, 100000, 1, 0.012, 10.1);
    rate_expect(FILTER_BLOOM, 1500000, 1, 0.012, 10.1);
}

Test(filter, copies_cost_a_fuse_filter_nothing) {
    rate_expect(FILTER_FUSE, 1000, 3, 0.0045, 13);
    rate_expect(FILTER_FUSE, 300000, 2, 0.0045, 10.3); /* they do count for the parts, which are smaller */
    rate_expect(FILTER_FUSE, 400, 70, 0.0045, 15);     /* more than a slot can count */
}

/* Hashes in a row, alike above and below, and the extremes: what is not a good hash must still be found. */
Test(filter, holds_hashes_without_any_randomness) {
    static const uint64_t steps[] = {1, (uint64_t)1 << 32, (uint64_t)1 << 44, 0x0101010101010101ull};
    for (size_t k = 0; k < 2; k++) {
        for (size_t s = 0; s < 4; s++) {
            for (uint64_t count = 1; count <= 100000; count *= 10) {
                struct filter_builder *builder;
                const uint8_t *image;
                size_t bytes;
                cr_assert_eq(filter_builder_new(&mem_system, kinds[k], FILTER_PART_KEYS, &builder, NULL), 0);
                for (uint64_t i = 0; i < count; i++) {
                    cr_assert_eq(filter_builder_add(builder, i * steps[s], NULL), 0);
                }
                cr_assert_eq(filter_builder_add(builder, UINT64_MAX, NULL), 0);
                cr_assert_eq(filter_builder_finish(builder, &image, &bytes, NULL), 0);
                cr_assert_null(filter_verify(image, bytes));
                for (uint64_t i = 0; i < count; i++) {
                    cr_assert(filter_may_contain(image, i * steps[s]));
                }
                cr_assert(filter_may_contain(image, UINT64_MAX));
                filter_builder_free(builder);
            }
        }
    }
}

Test(filter, parts_are_within_the_limit_and_hold_their_own) {
    size_t bytes;
    uint64_t count = 3 * (uint64_t)FILTER_PART_KEYS / 2;
    for (size_t k = 0; k < 2; k++) {
        uint8_t *image = filter_of(kinds[k], 99, count, 1, &bytes);
        uint32_t parts = load_u32(image + 4);
        cr_assert_eq(parts, 2);
        cr_assert_eq(load_u64(image + 8), count);
        uint64_t held[2] = {0, 0};
        for (uint64_t i = 0; i < count; i++) {
            uint64_t inner;
            held[filter_part_of(stream_hash(99, i), parts, &inner)]++;
        }
        cr_assert(held[0] <= FILTER_PART_KEYS && held[1] <= FILTER_PART_KEYS);
        free(image);
    }
}

Test(filter, the_same_set_gives_the_same_image) {
    for (size_t k = 0; k < 2; k++) {
        size_t a_bytes, b_bytes;
        uint8_t *a = filter_of(kinds[k], 5, 5000, 1, &a_bytes);
        uint8_t *b = filter_of(kinds[k], 5, 5000, 1, &b_bytes);
        cr_assert(a_bytes == b_bytes && memcmp(a, b, a_bytes) == 0);
        free(a);
        free(b);
    }
}

Test(filter, fuse_sizes_never_outgrow_their_announcement) {
    struct random random = random_begin("fuse sizes");
    for (unsigned round = 0; round < 200000; round++) {
        uint64_t count = 1 + random_next(&random) % ((uint64_t)1 << (1 + round % 31));
        uint64_t less = count - random_below(&random, count) / (1 + round % 1000);
        struct filter_part part;
        fuse_size(less, round % 32, &part);
        cr_assert_leq(fuse_data_bytes(&part), fuse_bytes_max(count), "%llu of %llu", (unsigned long long)less,
                      (unsigned long long)count);
        cr_assert_leq(fuse_data_bytes(&part), UINT32_MAX);
        cr_assert_geq(fuse_data_bytes(&part), less + less / 8);
    }
}

/* ---- memory ----------------------------------------------------------------------------------------------------- */

Test(filter, every_failing_allocation_is_survived) {
    static const uint64_t counts[] = {0, 3000, (uint64_t)FILTER_PART_KEYS + 5000};
    for (size_t c = 0; c < 3; c++) {
        for (unsigned variant = 0; variant < 4; variant++) {
            enum filter_kind kind = kinds[variant / 2];
            if (c == 2 && variant % 2 == 1) {
                continue; /* several parts: once is enough, for it takes a while */
            }
            uint64_t n = 1;
            bool whole = false;
            for (; !whole; n++) {
                struct failmem fail;
                struct pleat_error err = {0};
                failmem_init(&fail);
                fail.fail_at = n;
                fail.fail_for_ever = variant % 2;
                struct filter_builder *builder = NULL;
                const uint8_t *image = NULL;
                size_t bytes = 0;
                int rc = filter_builder_new(&fail.mem, kind, FILTER_PART_KEYS, &builder, &err);
                for (uint64_t i = 0; rc == 0 && i < counts[c]; i++) {
                    rc = filter_builder_add(builder, stream_hash(3, i), &err);
                }
                if (rc == 0) {
                    rc = filter_builder_finish(builder, &image, &bytes, &err);
                    if (rc < 0) { /* a finish that failed can be repeated */
                        cr_assert_eq(err.code, rc);
                        fail.fail_at = 0;
                        cr_assert_eq(filter_builder_finish(builder, &image, &bytes, NULL), 0);
                    }
                    cr_assert_null(filter_verify(image, bytes));
                    all_found(image, 3, counts[c] < 5000 ? counts[c] : 5000);
                }
                cr_assert(rc == 0 || rc == PLEAT_ERR_NO_MEMORY);
                cr_assert_eq(err.code, rc);
                whole = fail.calls < n;
                filter_builder_free(builder);
                cr_assert_eq(fail.live, 0);
                cr_assert_lt(n, 100);
            }
            cr_assert_gt(n, 3);
        }
    }
    filter_builder_free(NULL);
}

/* ---- hostile bytes ---------------------------------------------------------------------------------------------- */

/* 1 when verification lets the image through; it is then asked enough to reach every place, under the sanitizers. */
static unsigned damaged_try(const uint8_t *bytes, size_t n) {
    uint8_t *copy = malloc(n > 0 ? n : 1); /* exactly n: one byte beyond is seen */
    memcpy(copy, bytes, n);
    bool passed = filter_verify(copy, n) == NULL;
    if (passed) {
        static const uint64_t extremes[] = {0, UINT64_MAX, (uint64_t)1 << 63, UINT32_MAX, ~(uint64_t)UINT32_MAX};
        unsigned found = 0;
        for (size_t i = 0; i < 5; i++) {
            found += filter_may_contain(copy, extremes[i]);
        }
        for (uint64_t i = 0; i < 200; i++) {
            filter_prefetch(copy, stream_hash(17, i));
            found += filter_may_contain(copy, stream_hash(17, i));
        }
        *(volatile unsigned *)&found = found;
    }
    free(copy);
    return passed;
}

Test(filter_verify, any_damaged_header_byte_is_refused_or_harmless) {
    static const uint64_t counts[] = {0, 1, 50, 3000};
    for (size_t k = 0; k < 2; k++) {
        for (size_t c = 0; c < 4; c++) {
            size_t bytes;
            uint8_t *image = filter_of(kinds[k], 8, counts[c], 1, &bytes);
            size_t head_bytes = bytes < 200 ? bytes : 200;
            for (size_t at = 0; at < head_bytes; at++) {
                for (unsigned value = 0; value < 256; value++) {
                    uint8_t old = image[at];
                    image[at] = (uint8_t)value;
                    (void)damaged_try(image, bytes);
                    image[at] = old;
                }
            }
            for (size_t shorter = 0; shorter < bytes; shorter++) {
                cr_assert_eq(damaged_try(image, shorter), 0, "cut to %zu of %zu", shorter, bytes);
            }
            free(image);
        }
    }
}

static void part_make(uint8_t *image, uint32_t kind, uint64_t data_at, uint32_t shape, uint32_t units) {
    memset(image, 0, 16 + 24);
    store_u32(image, kind);
    store_u32(image + 4, 1);
    filter_part_store(image, 0, &(struct filter_part){.seed = 1, .data_at = data_at, .shape = shape, .units = units});
}

Test(filter_verify, bounds_every_field) {
    static const uint32_t shapes[] = {0,  1,  2,  3,  4,        5,        6,        7,
                                      8, 12, 63, 64, 65, 1u << 18, 1u << 19, 1u << 31, UINT32_MAX};
    static const uint32_t units[] = {0, 1, 2, 3, 14, 15, 16, 30, 1u << 14, 1u << 30, UINT32_MAX - 1, UINT32_MAX};
    static const uint64_t places[] = {0, 40, 63, 64, 65, 128, 192, 256, UINT64_MAX - 63, UINT64_MAX};
    uint8_t image[64 + 128] = {0};
    unsigned passed = 0;
    for (uint32_t kind = 0; kind < 5; kind++) {
        for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
            for (size_t u = 0; u < sizeof units / sizeof units[0]; u++) {
                for (size_t p = 0; p < sizeof places / sizeof places[0]; p++) {
                    part_make(image, kind, places[p], shapes[s], units[u]);
                    for (size_t bytes = 64; bytes <= sizeof image; bytes += 64) {
                        passed += damaged_try(image, bytes);
                    }
                }
            }
        }
    }
    /* At offset 64 and in an image of the length that they need: parts without data of both kinds and shapes, Bloom
     * filters of 1 and 2 blocks of which 2 need 192 bytes, and every fuse shape of at most 128 bytes. */
    unsigned wanted = 4 + 2;
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        for (size_t u = 1; u < sizeof units / sizeof units[0]; u++) {
            bool shape = shapes[s] == 4 || shapes[s] == 8 || shapes[s] == 64 || shapes[s] == 1u << 18;
            wanted += shape && ((uint64_t)units[u] + 2) * shapes[s] <= 128;
        }
    }
    cr_assert_eq(passed, wanted);
    store_u32(image + 4, 0);
    cr_assert_not_null(filter_verify(image, sizeof image), "no parts");
    store_u32(image + 4, UINT32_MAX);
    cr_assert_not_null(filter_verify(image, sizeof image), "more parts than bytes");
}

Test(filter_verify, a_part_without_data_contains_nothing_or_everything) {
    uint8_t image[64];
    for (size_t k = 0; k < 2; k++) {
        memset(image, 0, sizeof image);
        part_make(image, kinds[k], 64, FILTER_SHAPE_EVERYTHING, 0);
        cr_assert_null(filter_verify(image, sizeof image));
        cr_assert_eq(false_positives(image, 1, 1000), 1000);
        part_make(image, kinds[k], 64, FILTER_SHAPE_NOTHING, 0);
        cr_assert_null(filter_verify(image, sizeof image));
        cr_assert_eq(false_positives(image, 1, 1000), 0);
    }
}

Test(filter_verify, garbage_does_no_harm) {
    struct random random = random_begin("filter garbage");
    uint8_t bytes[320];
    for (unsigned round = 0; round < 50000; round++) {
        size_t n = random_below(&random, sizeof bytes + 1);
        for (size_t i = 0; i < n; i++) {
            bytes[i] = (uint8_t)(random_next(&random) & (round % 2 ? 0x43 : 0xff));
        }
        if (n >= 64 && round % 4 != 0) {
            uint32_t parts = 1 + (uint32_t)random_below(&random, 2);
            store_u32(bytes, 1 + (uint32_t)random_below(&random, 2));
            store_u32(bytes + 4, parts);
            store_u64(bytes + 24, parts == 1 ? 64 : 64 * random_below(&random, 4));
            store_u32(bytes + 32, 1u << random_below(&random, 9));
            store_u32(bytes + 36, (uint32_t)random_below(&random, 20));
            n &= ~(size_t)63;
        }
        (void)damaged_try(bytes, n);
    }
}
