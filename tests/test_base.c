/* test_base.c - bytes, varints, key order, entry attributes, errors. */
#include "base/bytes.h"
#include "base/entry.h"
#include "base/error.h"
#include "base/limits.h"
#include "support/failmem.h"
#include "support/random.h"

#include <criterion/criterion.h>
#include <errno.h>

Test(bytes, varints_round_trip_at_every_length) {
    for (unsigned bit = 0; bit < 64; bit++) {
        for (int delta = -1; delta <= 1; delta++) {
            uint64_t x = ((uint64_t)1 << bit) + (uint64_t)(int64_t)delta;
            uint8_t buffer[VARINT64_BYTES_MAX];
            uint8_t *end = varint_encode(buffer, x);
            cr_assert_eq((size_t)(end - buffer), varint_bytes(x));
            uint64_t back = 0;
            cr_assert_eq(varint_decode(buffer, end, &back), end);
            cr_assert_eq(back, x);
            cr_assert_null(varint_decode(buffer, end - 1, &back), "a varint cut short must not decode");
        }
    }
}

Test(bytes, varint_that_overflows_64_bits_is_refused) {
    uint8_t over[11];
    memset(over, 0xff, sizeof over);
    over[9] = 0x02;
    uint64_t x;
    cr_assert_null(varint_decode(over, over + 10, &x));
    memset(over, 0x80, sizeof over);
    over[10] = 0;
    cr_assert_null(varint_decode(over, over + 11, &x));
}

Test(bytes, key_order_is_memcmp_with_prefix_first) {
    static const char *const keys[] = {"", "a", "a\x01", "aa", "ab", "b", "\x7f", "\x80", "\xff", "\xff\xff"};
    size_t count = sizeof keys / sizeof keys[0];
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < count; j++) {
            int order = key_compare(keys[i], strlen(keys[i]), keys[j], strlen(keys[j]));
            cr_assert_eq((order > 0) - (order < 0), (i > j) - (i < j), "%zu against %zu", i, j);
        }
    }
}

Test(bytes, prefix_bound_is_the_least_key_above_all_with_the_prefix) {
    uint8_t bound[8];
    size_t bytes;
    cr_assert(key_prefix_bound((const uint8_t *)"ab", 2, bound, &bytes));
    cr_assert(bytes == 2 && memcmp(bound, "ac", 2) == 0);
    cr_assert(key_prefix_bound((const uint8_t *)"a\xff\xff", 3, bound, &bytes));
    cr_assert(bytes == 1 && bound[0] == 'b', "trailing ff are cut, or the neighbour's prefix is read");
    cr_assert_not(key_prefix_bound((const uint8_t *)"\xff\xff", 2, bound, &bytes));
    cr_assert_not(key_prefix_bound((const uint8_t *)"", 0, bound, &bytes));
}

Test(bytes, heads_and_common_prefixes_agree_with_the_order) {
    struct random random = random_begin("bytes/heads");
    for (int round = 0; round < 20000; round++) {
        uint8_t a[24], b[24];
        size_t a_bytes = random_below(&random, 24), b_bytes = random_below(&random, 24);
        for (size_t i = 0; i < 24; i++) {
            a[i] = (uint8_t)(random_below(&random, 3) * 127);
            b[i] = random_below(&random, 8) != 0 ? a[i] : (uint8_t)random_next(&random);
        }
        size_t common = key_common(a, a_bytes, b, b_bytes);
        size_t expected = 0;
        while (expected < a_bytes && expected < b_bytes && a[expected] == b[expected]) {
            expected++;
        }
        cr_assert_eq(common, expected);
        uint64_t head_a = key_head(a, a_bytes, 0), head_b = key_head(b, b_bytes, 0);
        int order = key_compare(a, a_bytes, b, b_bytes);
        if (head_a != head_b) {
            cr_assert_eq(head_a < head_b, order < 0, "different heads order like their keys");
        }
    }
}

Test(entry, attributes_round_trip_and_refuse_every_cut) {
    uint8_t version[LIMIT_VERSION_BYTES];
    memset(version, 0x5a, sizeof version);
    for (unsigned variant = 0; variant < 8; variant++) {
        struct entry entry = {.kind = ENTRY_PUT, .has_flag = variant & 1, .flag = 0xfe,
                              .version = variant & 2 ? version : NULL, .version_bytes = variant & 2 ? 32 : 0,
                              .deadline_ms = variant & 4 ? 99 : 0};
        uint8_t buffer[64];
        uint8_t *end = entry_attributes_encode(buffer, &entry);
        cr_assert_eq((size_t)(end - buffer), entry_attribute_bytes(&entry));
        struct entry back = {0};
        cr_assert_eq(entry_attributes_decode(buffer, end, entry_head(&entry), &back), end);
        cr_assert(back.has_flag == entry.has_flag && back.version_bytes == entry.version_bytes &&
                  back.deadline_ms == entry.deadline_ms && (!entry.has_flag || back.flag == 0xfe));
        for (uint8_t *cut = buffer; cut < end; cut++) {
            cr_assert_null(entry_attributes_decode(buffer, cut, entry_head(&entry), &back));
        }
    }
}

Test(entry, heads_of_kinds_not_known_yet_are_refused) {
    uint8_t none[1] = {0};
    struct entry entry;
    static const uint8_t heads[] = {0, 3, 4, 5, 15, 0x81};
    for (size_t i = 0; i < sizeof heads; i++) {
        cr_assert_null(entry_attributes_decode(none, none, heads[i], &entry), "head %u", heads[i]);
    }
}

Test(error, first_failure_wins) {
    struct pleat_error err = {0};
    cr_assert_eq(error_set(&err, PLEAT_ERR_IO, EIO, "first %d", 1), PLEAT_ERR_IO);
    cr_assert_eq(error_set(&err, PLEAT_ERR_CORRUPT, 0, "second"), PLEAT_ERR_CORRUPT);
    cr_assert_eq(err.code, PLEAT_ERR_IO);
    cr_assert_str_eq(err.message, "first 1");
    error_clear(&err);
    cr_assert(err.code == 0 && err.message[0] == '\0');
}

Test(error, system_errors_map_to_statuses_and_keep_errno) {
    static const struct {
        int os_errno, status;
    } rows[] = {{ENOSPC, PLEAT_ERR_NO_SPACE}, {EDQUOT, PLEAT_ERR_NO_SPACE}, {EACCES, PLEAT_ERR_DENIED},
                {EROFS, PLEAT_ERR_READ_ONLY}, {EIO, PLEAT_ERR_IO},         {EMFILE, PLEAT_ERR_IO},
                {ENOENT, PLEAT_ERR_NOT_FOUND}, {EEXIST, PLEAT_ERR_EXISTS}, {ENOMEM, PLEAT_ERR_NO_MEMORY}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct pleat_error err = {0};
        cr_assert_eq(error_system(&err, rows[i].os_errno, "write", "000001.wal"), rows[i].status);
        cr_assert_eq(err.os_errno, rows[i].os_errno);
        cr_assert_not_null(strstr(err.message, "000001.wal"));
    }
}

Test(mem, zeroed_arrays_refuse_an_overflowing_product) {
    cr_assert_null(mem_zalloc(&mem_system, SIZE_MAX / 2, 3));
}

Test(failmem, fails_the_nth_call_and_counts_what_lives) {
    struct failmem fail;
    failmem_init(&fail);
    fail.fail_at = 2;
    void *a = mem_alloc(&fail.mem, 10);
    cr_assert_not_null(a);
    cr_assert_null(mem_alloc(&fail.mem, 10));
    void *b = mem_alloc(&fail.mem, 10);
    cr_assert_not_null(b);
    cr_assert_eq(fail.live, 2);
    mem_free(&fail.mem, a);
    mem_free(&fail.mem, b);
    cr_assert_eq(fail.live, 0);
}
