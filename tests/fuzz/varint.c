/*
 * varint.c - fuzzes the smallest decoders: varints, attributes of entries, names of files, and the arithmetic of keys.
 *
 * What is decoded is encoded again: no longer than it was, and decoded to the same. Attributes have one form only.
 */
#include "base/entry.h"
#include "base/limits.h"
#include "fuzz/fuzz.h"
#include "sstable/table.h"
#include "wal/wal.h"

#include <stdlib.h>

static void check_varint(const uint8_t *data, const uint8_t *end) {
    uint64_t x = 0, again = 0;
    uint8_t bytes[VARINT64_BYTES_MAX];
    const uint8_t *next = varint_decode(data, end, &x);
    if (next == NULL) {
        return;
    }
    size_t length = (size_t)(varint_encode(bytes, x) - bytes);
    FUZZ_CHECK(length == varint_bytes(x) && length <= (size_t)(next - data));
    FUZZ_CHECK(varint_decode(bytes, bytes + length, &again) == bytes + length && again == x);
    FUZZ_CHECK(varint_decode(bytes, bytes + length - 1, &again) == NULL);
}

static void check_attributes(const uint8_t *data, const uint8_t *end) {
    struct entry entry = {0};
    uint8_t bytes[64];
    if (data == end) {
        return;
    }
    const uint8_t *next = entry_attributes_decode(data + 1, end, *data, &entry);
    if (next == NULL) {
        return;
    }
    size_t length = (size_t)(next - data - 1);
    FUZZ_CHECK(entry_head(&entry) == *data && entry_attribute_bytes(&entry) == length && length <= sizeof bytes);
    FUZZ_CHECK(entry_attributes_encode(bytes, &entry) == bytes + length && memcmp(bytes, data + 1, length) == 0);
}

static void check_names(const uint8_t *data, size_t size) {
    char name[40], again[TABLE_NAME_BYTES > WAL_NAME_BYTES ? TABLE_NAME_BYTES : WAL_NAME_BYTES];
    uint64_t number = 0;
    size_t length = size < sizeof name - 5 ? size : sizeof name - 5;
    memcpy(name, data, length);
    for (unsigned suffix = 0; suffix < 3; suffix++) {
        (void)memcpy(name + length, &".wal\0.tbl\0\0\0\0\0"[suffix * 5], 5);
        if (wal_name_parse(name, &number)) {
            wal_name(number, again);
            FUZZ_CHECK(strcmp(name, again) == 0);
        }
        if (table_name_parse(name, &number)) {
            table_name(number, again);
            FUZZ_CHECK(strcmp(name, again) == 0);
        }
    }
}

/* Keys a and b are the halves of the input. */
static void check_keys(const uint8_t *data, size_t size) {
    size_t a_bytes = size / 2, b_bytes = size - a_bytes, bound_bytes = 0;
    uint8_t *a = fuzz_copy(data, a_bytes, 0), *b = fuzz_copy(data + a_bytes, b_bytes, 0);
    uint8_t *bound = fuzz_copy(NULL, 0, a_bytes);
    int order = key_compare(a, a_bytes, b, b_bytes);
    size_t common = key_common(a, a_bytes, b, b_bytes);
    FUZZ_CHECK(common <= a_bytes && common <= b_bytes && key_has_prefix(b, b_bytes, a, common));
    FUZZ_CHECK(common == a_bytes || common == b_bytes || (order < 0) == (a[common] < b[common]));
    FUZZ_CHECK((order == 0) == (common == a_bytes && common == b_bytes));
    FUZZ_CHECK((key_compare(b, b_bytes, a, a_bytes) < 0) == (order > 0));
    uint64_t a_head = key_head(a, a_bytes, 0), b_head = key_head(b, b_bytes, 0);
    FUZZ_CHECK(a_head == b_head || (a_head < b_head) == (order < 0));
    if (key_prefix_bound(a, a_bytes, bound, &bound_bytes)) {
        bool below = key_compare(b, b_bytes, bound, bound_bytes) < 0;
        FUZZ_CHECK(key_has_prefix(b, b_bytes, a, a_bytes) == (order <= 0 && below));
    }
    free(a);
    free(b);
    free(bound);
}

/* When a prefix has a group, every key that begins with it has the same. */
static void check_groups(const uint8_t *data, size_t size) {
    struct fuzz_input input = {data, data + size};
    struct table_grouping grouping = {0};
    uint8_t draw = fuzz_u8(&input);
    grouping.bytes = (draw & 1) != 0 ? draw >> 1 : 0;
    grouping.delimiters = (draw & 1) == 0 ? draw >> 5 : 0;
    grouping.delimiter = fuzz_u8(&input);
    struct pleat_slice key = fuzz_rest(&input);
    size_t group_bytes = table_group_bytes(&grouping, key.data, key.bytes);
    FUZZ_CHECK(group_bytes <= key.bytes);
    for (size_t bytes = group_bytes; group_bytes > 0 && bytes <= key.bytes; bytes++) {
        FUZZ_CHECK(table_group_bytes(&grouping, key.data, bytes) == group_bytes);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *exact = fuzz_copy(data, size, 0);
    check_varint(exact, exact + size);
    check_attributes(exact, exact + size);
    check_names(exact, size);
    check_keys(exact, size);
    check_groups(exact, size);
    free(exact);
    return 0;
}
