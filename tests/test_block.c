/* test_block.c - block images: round trips, lookups against a model, cuts, hostile bytes, failing memory. */
#include "base/bytes.h"
#include "base/hash.h"
#include "base/limits.h"
#include "sstable/block.h"
#include "sstable/block_inline.h"
#include "support/failmem.h"
#include "support/random.h"

#include <criterion/criterion.h>

/* ---- a model: entries in order, everything owned --------------------------------------------------------------- */

struct model {
    struct entry *entries;
    size_t count;
};

static uint8_t *copy_of(const void *data, size_t bytes) {
    uint8_t *copy = malloc(bytes > 0 ? bytes : 1);
    if (bytes > 0) {
        memcpy(copy, data, bytes);
    }
    return copy;
}

static struct model model_new(size_t room) {
    return (struct model){calloc(room > 0 ? room : 1, sizeof(struct entry)), 0};
}

static void model_free(struct model *model) {
    for (size_t i = 0; i < model->count; i++) {
        free((void *)(uintptr_t)model->entries[i].key);
        free((void *)(uintptr_t)model->entries[i].value);
        free((void *)(uintptr_t)model->entries[i].version);
    }
    free(model->entries);
}

static struct entry *model_add(struct model *model, const void *key, size_t key_bytes, size_t value_bytes) {
    struct entry *entry = &model->entries[model->count];
    uint8_t *value = NULL;
    if (value_bytes > 0) {
        value = malloc(value_bytes);
        for (size_t i = 0; i < value_bytes; i++) {
            value[i] = (uint8_t)(i * 31 + model->count);
        }
    }
    *entry = (struct entry){.key = copy_of(key, key_bytes), .key_bytes = (uint32_t)key_bytes, .value = value,
                            .value_bytes = (uint32_t)value_bytes, .kind = ENTRY_PUT};
    model->count++;
    return entry;
}

static int model_order(const void *a, const void *b) {
    const struct entry *x = a, *y = b;
    return key_compare(x->key, x->key_bytes, y->key, y->key_bytes);
}

/* Sorts, and drops entries whose key is there already. */
static void model_sort(struct model *model) {
    qsort(model->entries, model->count, sizeof *model->entries, model_order);
    size_t kept = 0;
    for (size_t i = 0; i < model->count; i++) {
        if (kept > 0 && model_order(&model->entries[kept - 1], &model->entries[i]) == 0) {
            free((void *)(uintptr_t)model->entries[i].key);
            free((void *)(uintptr_t)model->entries[i].value);
            free((void *)(uintptr_t)model->entries[i].version);
            continue;
        }
        model->entries[kept++] = model->entries[i];
    }
    model->count = kept;
}

static void entry_decorate(struct entry *entry, struct random *random) {
    uint64_t draw = random_next(random);
    if ((draw & 3) == 0) {
        entry->kind = ENTRY_DELETE;
        free((void *)(uintptr_t)entry->value);
        entry->value = NULL;
        entry->value_bytes = 0;
    }
    if ((draw & 0x30) == 0) {
        entry->has_flag = 1;
        entry->flag = (uint8_t)(draw >> 8);
    }
    if ((draw & 0xc0) == 0) {
        entry->version_bytes = (uint8_t)(1 + (draw >> 16) % LIMIT_VERSION_BYTES);
        uint8_t *version = malloc(entry->version_bytes);
        memset(version, (int)(draw >> 24), entry->version_bytes);
        entry->version = version;
    }
    if ((draw & 0x300) == 0) {
        entry->deadline_ms = (draw >> 11) + 1;
    }
}

static uint64_t entry_hash(const struct entry *entry) {
    return hash_key(entry->key, entry->key_bytes);
}

/* ---- building and comparing ------------------------------------------------------------------------------------ */

static void builder_fill(struct block_builder *builder, const struct model *model, size_t from, size_t to) {
    for (size_t i = from; i < to; i++) {
        cr_assert_eq(block_builder_add(builder, &model->entries[i], entry_hash(&model->entries[i]), NULL), 0);
    }
}

/* A copy of an image that ends exactly where the readers' licence ends, so that the sanitizer sees one byte more. The
 * bytes behind the image are not the zeros of the builder. */
static uint8_t *image_copy(const uint8_t *image, size_t bytes) {
    uint8_t *copy = malloc(bytes + BLOCK_READ_BEYOND);
    memcpy(copy, image, bytes);
    memset(copy + bytes, 0xa7, BLOCK_READ_BEYOND);
    return copy;
}

/* All entries as one block image, owned by the caller. */
static uint8_t *image_of(const struct model *model, size_t *ret_bytes) {
    struct block_builder *builder;
    uint8_t *image;
    cr_assert_eq(block_builder_new(&mem_system, &builder, NULL), 0);
    builder_fill(builder, model, 0, model->count);
    size_t bytes_max = block_builder_bytes(builder);
    cr_assert_eq(block_builder_take(builder, model->count, &image, ret_bytes, NULL), 0);
    cr_assert_leq(*ret_bytes, bytes_max, "%zu bytes, announced %zu", *ret_bytes, bytes_max);
    cr_assert_eq(block_builder_count(builder), 0);
    uint8_t *copy = image_copy(image, *ret_bytes);
    block_builder_free(builder);
    return copy;
}

static void entry_expect(const struct entry *found, const struct entry *wanted) {
    cr_assert_eq(found->key_bytes, wanted->key_bytes);
    cr_assert(wanted->key_bytes == 0 || memcmp(found->key, wanted->key, wanted->key_bytes) == 0);
    cr_assert_eq(found->value_bytes, wanted->value_bytes);
    cr_assert_eq(found->value == NULL, wanted->value_bytes == 0);
    cr_assert(wanted->value_bytes == 0 || memcmp(found->value, wanted->value, wanted->value_bytes) == 0);
    cr_assert_eq(found->kind, wanted->kind);
    cr_assert_eq(found->has_flag, wanted->has_flag);
    cr_assert_eq(found->flag, wanted->flag);
    cr_assert_eq(found->deadline_ms, wanted->deadline_ms);
    cr_assert_eq(found->version_bytes, wanted->version_bytes);
    cr_assert(wanted->version_bytes == 0 || memcmp(found->version, wanted->version, wanted->version_bytes) == 0);
    cr_assert_eq(found->sequence, 0);
}

/* The model's answer to block_seek. */
static size_t model_seek(const struct model *model, const uint8_t *key, size_t key_bytes) {
    size_t first = 0, length = model->count;
    while (length > 0) {
        size_t half = length / 2;
        const struct entry *at = &model->entries[first + half];
        if (key_compare(at->key, at->key_bytes, key, key_bytes) < 0) {
            first += half + 1;
            length -= half + 1;
        } else {
            length = half;
        }
    }
    return first;
}

/* Seek and get of any key, held in a block of exactly its size. */
static void lookup_expect(const struct model *model, const uint8_t *image, const uint8_t *bytes, size_t key_bytes) {
    uint8_t *key = copy_of(bytes, key_bytes);
    size_t wanted = model_seek(model, key, key_bytes);
    cr_assert_eq(block_seek(image, key, key_bytes), wanted, "seek of %zu bytes", key_bytes);
    uint32_t count = block_count(image), at = (uint32_t)wanted;
    const uint32_t froms[] = {0, at / 2, at - (at > 2 ? 3 : at), at - (at > 0), at, at + (at < count), count};
    for (size_t i = 0; i < sizeof froms / sizeof froms[0]; i++) {
        uint32_t from = froms[i];
        cr_assert_eq(block_seek_from(image, from, key, key_bytes), at > from ? at : from, "seek of %zu bytes from %u",
                     key_bytes, from);
    }
    struct entry found;
    int rc = block_get(image, key, key_bytes, hash_key(key, key_bytes), &found);
    bool present = wanted < model->count && model->entries[wanted].key_bytes == key_bytes &&
                   (key_bytes == 0 || memcmp(model->entries[wanted].key, key, key_bytes) == 0);
    cr_assert_eq(rc, present ? 0 : PLEAT_ABSENT);
    if (present) {
        cr_assert_eq(found.key, key, "the key of a get is the caller's");
        entry_expect(&found, &model->entries[wanted]);
    }
    free(key);
}

/* The key itself and its close neighbours on both sides. */
static void neighbours_expect(const struct model *model, const uint8_t *image, const struct entry *entry) {
    uint8_t *key = malloc(entry->key_bytes + 2u);
    size_t n = entry->key_bytes;
    memcpy(key, entry->key, n);
    lookup_expect(model, image, key, n);
    key[n] = 0;
    lookup_expect(model, image, key, n + 1); /* the least greater key */
    key[n] = 0xff;
    key[n + 1] = 0xff;
    lookup_expect(model, image, key, n + 2);
    if (n > 0) {
        lookup_expect(model, image, key, n - 1);
        key[n - 1]++;
        lookup_expect(model, image, key, n);
        key[n - 1] = (uint8_t)(key[n - 1] - 2);
        lookup_expect(model, image, key, n);
        key[n - 1]++;
        key[0] ^= 0x80;
        lookup_expect(model, image, key, n);
        key[0] ^= 0x80;
        key[n / 2] ^= 1;
        lookup_expect(model, image, key, n);
    }
    free(key);
}

static void iteration_expect(const struct model *model, const uint8_t *image) {
    uint8_t *key_buffer = malloc(LIMIT_KEY_BYTES + BLOCK_READ_BEYOND);
    struct entry entry;
    size_t prefix_bytes = block_prefix_copy(image, key_buffer);
    cr_assert_eq(prefix_bytes, block_prefix_bytes(image));
    const uint8_t *p = block_entry_at(image, 0);
    for (uint32_t i = 0; i < model->count; i++) {
        cr_assert_eq(p, block_entry_at(image, i), "entry %u does not begin where the one before ends", i);
        p = block_entry_read(p, prefix_bytes, key_buffer, &entry);
        entry_expect(&entry, &model->entries[i]);
    }
    for (uint32_t i = (uint32_t)model->count; i-- > 0;) {
        bool ready = i % 2 == 1;
        if (!ready) {
            memset(key_buffer, 0x5c, prefix_bytes);
        }
        block_entry(image, i, key_buffer, ready, &entry);
        cr_assert_eq(entry.key, key_buffer);
        entry_expect(&entry, &model->entries[i]);
    }
    free(key_buffer);
}

/* One block of the whole model: accepted, and every question answered as the model does. Frees the model. */
static void round_trip(struct model model, bool expect_wide) {
    size_t bytes, offset;
    uint8_t *image = image_of(&model, &bytes);
    const char *wrong = block_verify_full(image, bytes, &offset);
    cr_assert_null(wrong, "%s at %zu", wrong, offset);
    cr_assert_eq(block_count(image), model.count);
    cr_assert_eq(block_is_wide(image), expect_wide);
    iteration_expect(&model, image);
    for (size_t i = 0; i < model.count; i++) {
        neighbours_expect(&model, image, &model.entries[i]);
    }
    lookup_expect(&model, image, (const uint8_t *)"", 0);
    lookup_expect(&model, image, (const uint8_t *)"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 10);
    free(image);
    model_free(&model);
}

Test(block, single_entries_of_edge_sizes_come_back) {
    static const size_t key_sizes[] = {0, 1, 7, 8, 15, 16, 17, 127, 128, 255, 256, 16383, 16384, 65535};
    static const size_t value_sizes[] = {0, 1, 127, 128, 16383, 16384};
    uint8_t *key = malloc(65535);
    memset(key, 0xff, 65535);
    for (size_t i = 0; i < sizeof key_sizes / sizeof key_sizes[0]; i++) {
        for (size_t j = 0; j < sizeof value_sizes / sizeof value_sizes[0]; j++) {
            struct model model = model_new(1);
            model_add(&model, key, key_sizes[i], value_sizes[j]);
            round_trip(model, 16 + 3 + 1 + 1 + varint_bytes(value_sizes[j]) + key_sizes[i] + value_sizes[j] > 65535);
        }
    }
    free(key);
}

Test(block, keys_that_are_prefixes_of_one_another_come_back) {
    struct model model = model_new(200);
    uint8_t key[64] = {0};
    for (size_t n = 0; n <= 64; n++) {
        model_add(&model, key, n, n);
    }
    memset(key, 0xff, sizeof key);
    for (size_t n = 1; n <= 64; n++) {
        model_add(&model, key, n, 64 - n);
    }
    round_trip(model, false);
}

Test(block, long_shared_prefixes_and_short_suffixes_come_back) {
    for (size_t shared = 1; shared <= 300; shared += 23) {
        struct model model = model_new(70);
        uint8_t key[400];
        memset(key, 'p', sizeof key);
        model_add(&model, key, shared, 3); /* the prefix itself is a key: an empty suffix */
        for (unsigned i = 0; i < 64; i++) {
            key[shared] = (uint8_t)(i * 4);
            memset(key + shared + 1, (int)i, 20);
            model_add(&model, key, shared + 1 + i % 20, 5);
        }
        round_trip(model, false);
    }
}

Test(block, suffixes_that_differ_late_are_found) {
    struct model model = model_new(600);
    uint8_t key[40];
    memset(key, 'k', sizeof key);
    for (size_t at = 0; at < 40; at++) {
        for (unsigned byte = 0; byte < 12; byte++) {
            key[at] = (uint8_t)("\x00\x01\x6a\x6c\x7f\x80\x81\xfe\xff\x20\x30\x40"[byte]);
            model_add(&model, key, at + 1 + byte % 2 * (39 - at), 2);
        }
        key[at] = 'k';
    }
    model_sort(&model);
    round_trip(model, false);
}

Test(block, longest_keys_with_a_shared_prefix_come_back) {
    struct model model = model_new(4);
    uint8_t *key = malloc(65535);
    memset(key, 'x', 65535);
    model_add(&model, key, 65534, 1);
    model_add(&model, key, 65535, 2);
    key[65534] = 'y';
    model_add(&model, key, 65535, 3);
    key[0] = 'y';
    model_add(&model, key, 65535, 0);
    free(key);
    round_trip(model, true);
}

Test(block, large_values_take_the_wide_form) {
    struct model model = model_new(5);
    model_add(&model, "a", 1, 70000);
    model_add(&model, "b", 1, 0);
    model_add(&model, "ba", 2, 200000);
    model_add(&model, "bb", 2, 1u << 21);
    model_add(&model, "c", 1, 5);
    round_trip(model, true);
}

Test(block, form_changes_exactly_where_offsets_no_longer_fit) {
    /* Header 16, three bytes for fingerprint and offset, the key as the prefix, head and lengths 1 + 1 + 3. */
    for (size_t bytes = 65533; bytes <= 65538; bytes++) {
        struct model model = model_new(1);
        model_add(&model, "k", 1, bytes - 16 - 3 - 1 - 5);
        round_trip(model, bytes > 65535);
    }
}

Test(block, three_thousand_tiny_entries_come_back) {
    struct model model = model_new(3000);
    for (unsigned i = 0; i < 3000; i++) {
        uint8_t key[3] = {(uint8_t)(i >> 8), (uint8_t)i, 0};
        model_add(&model, key, 2, i % 3);
    }
    round_trip(model, false);
    model = model_new(9000);
    for (unsigned i = 0; i < 9000; i++) {
        uint8_t key[2] = {(uint8_t)(i >> 8), (uint8_t)i};
        model_add(&model, key, 2, 1);
    }
    round_trip(model, true);
}

Test(block, attributes_and_tombstones_come_back) {
    struct random random = random_begin("block attributes");
    struct model model = model_new(400);
    for (unsigned i = 0; i < 400; i++) {
        char key[32];
        int n = snprintf(key, sizeof key, "svc.%03u.route.%06u", i / 40, i);
        entry_decorate(model_add(&model, key, (size_t)n, i % 50), &random);
    }
    round_trip(model, false);
}

static struct model random_model(struct random *random) {
    size_t count = 1 + random_below(random, 150);
    struct model model = model_new(count);
    uint8_t key[600];
    size_t alphabet = 1 + random_below(random, 255);
    size_t longest = 1 + random_below(random, 40);
    size_t shared = random_below(random, 4) == 0 ? random_below(random, 500) : random_below(random, 20);
    for (size_t i = 0; i < shared; i++) {
        key[i] = (uint8_t)random_next(random);
    }
    for (size_t i = 0; i < count; i++) {
        size_t n = random_below(random, longest + 1);
        for (size_t at = 0; at < n; at++) {
            key[shared + at] = (uint8_t)random_below(random, alphabet);
        }
        entry_decorate(model_add(&model, key, shared + n, random_below(random, 140)), random);
    }
    model_sort(&model);
    return model;
}

Test(block, random_shapes_come_back) {
    struct random random = random_begin("block shapes");
    for (unsigned round = 0; round < 60; round++) {
        round_trip(random_model(&random), false);
    }
}

Test(block, get_tells_apart_keys_of_one_fingerprint) {
    struct model model = model_new(64);
    for (uint64_t i = 0; model.count < 64; i++) {
        uint8_t key[8];
        store_u64(key, BE64(i)); /* ascending as bytes */
        if (hash_key(key, 8) >> 56 == 0x42) {
            model_add(&model, key, 8, 1);
        }
    }
    round_trip(model, false);
}

Test(block, packing_and_unpacking_undo_each_other_on_any_bytes) {
    struct random random = random_begin("block pack");
    for (unsigned round = 0; round < 2000; round++) {
        uint8_t image[300], before[300];
        size_t bytes = random_below(&random, sizeof image + 1);
        for (size_t i = 0; i < sizeof image; i++) {
            image[i] = (uint8_t)random_next(&random);
        }
        if (bytes >= 8 && random_below(&random, 4) != 0) { /* a count that fits, more or less */
            store_u32(image, (uint32_t)random_below(&random, bytes / 2));
            store_u16(image + 4, (uint16_t)random_below(&random, 2));
        }
        memcpy(before, image, sizeof image);
        uint8_t *exact = malloc(bytes + 1); /* so that a sanitizer sees a step beyond */
        memcpy(exact, image, bytes);
        block_offsets_pack(exact, bytes);
        block_offsets_unpack(exact, bytes);
        cr_assert_arr_eq(exact, before, bytes);
        block_offsets_unpack(exact, bytes);
        block_offsets_pack(exact, bytes);
        cr_assert_arr_eq(exact, before, bytes);
        free(exact);
    }
}

Test(block, packed_offsets_of_equal_entries_are_all_the_same) {
    struct model model = model_new(50);
    for (uint64_t i = 0; i < 50; i++) {
        uint8_t key[8];
        store_u64(key, BE64(i + 1000));
        model_add(&model, key, 8, 20);
    }
    size_t bytes;
    uint8_t *image = image_of(&model, &bytes);
    block_offsets_pack(image, bytes);
    const uint8_t *offsets = image + 16 + 50;
    for (size_t i = 2; i < 50; i++) {
        cr_assert_eq(load_u16(offsets + 2 * i), load_u16(offsets + 2));
    }
    free(image);
    model_free(&model);
}

/* ---- cutting and taking ---------------------------------------------------------------------------------------- */

/* Image bytes of entries [from, to) as a block of their own. */
static size_t image_bytes_of(const struct model *model, size_t from, size_t to) {
    size_t bytes;
    uint8_t *image = image_of(&(struct model){model->entries + from, to - from}, &bytes);
    free(image);
    return bytes;
}

/* Streams the model through a builder as a table does; every block is checked against the rule. */
static void cuts_expect(const struct model *model, size_t target, size_t ahead) {
    struct block_builder *builder;
    cr_assert_eq(block_builder_new(&mem_system, &builder, NULL), 0);
    size_t added = 0, taken = 0;
    while (taken < model->count) {
        while (added < model->count && (added == taken || block_builder_bytes(builder) <= target + ahead)) {
            builder_fill(builder, model, added, added + 1);
            added++;
        }
        size_t held = block_builder_count(builder);
        cr_assert_eq(held, added - taken);
        struct pleat_slice key = block_builder_key(builder, held - 1);
        cr_assert(key.bytes == model->entries[added - 1].key_bytes &&
                  memcmp(key.data, model->entries[added - 1].key, key.bytes) == 0);
        size_t held_bytes = block_builder_bytes(builder);
        size_t count = block_builder_cut(builder, target);
        cr_assert(count >= 1 && count <= held);
        if (held_bytes <= target) {
            cr_assert_eq(count, held, "what fits one block is one block");
        }
        uint8_t *image;
        size_t bytes, offset;
        cr_assert_eq(block_builder_take(builder, count, &image, &bytes, NULL), 0);
        uint8_t *copy = image_copy(image, bytes);
        cr_assert_null(block_verify_full(copy, bytes, &offset));
        iteration_expect(&(struct model){model->entries + taken, count}, copy);
        free(copy);
        if (count < held) {
            const struct entry *before = &model->entries[taken + count - 1], *behind = before + 1;
            size_t across = key_common(before->key, before->key_bytes, behind->key, behind->key_bytes);
            size_t one_more = image_bytes_of(model, taken, taken + count + 1);
            cr_assert(bytes <= target || count == 1 || bytes <= target + target / 2, "%zu of %zu", bytes, target);
            if (bytes < target / 2 - count) { /* an estimate may be a byte an entry high */
                cr_assert_gt(one_more, target, "a small block although the next entry fits");
            }
            for (size_t other = 1; other < held && bytes >= target / 2 && bytes <= target; other++) {
                size_t other_bytes = image_bytes_of(model, taken, taken + other);
                if (other_bytes >= target / 2 + other + 2 && other_bytes + other <= target) {
                    const struct entry *left = &model->entries[taken + other - 1], *right = left + 1;
                    size_t common = key_common(left->key, left->key_bytes, right->key, right->key_bytes);
                    cr_assert_geq(common, across, "a cut with a shorter shared prefix was there");
                    cr_assert(common > across || other <= count, "of equal cuts the largest block");
                }
            }
        }
        taken += count;
    }
    cr_assert_eq(block_builder_count(builder), 0);
    cr_assert_eq(block_builder_bytes(builder), 0);
    block_builder_free(builder);
}

static struct model groups_model(struct random *random, size_t groups, size_t value_bytes_max) {
    struct model model = model_new(groups * 40);
    for (size_t group = 0; group < groups; group++) {
        size_t rows = 1 + random_below(random, 40);
        for (size_t row = 0; row < rows; row++) {
            char key[48];
            int n = snprintf(key, sizeof key, "svc.%06zu.route.%06zu", group * 7, row * 13);
            entry_decorate(model_add(&model, key, (size_t)n, random_below(random, value_bytes_max)), random);
        }
    }
    return model;
}

Test(block_cut, honours_the_rule_on_groups) {
    struct random random = random_begin("cut groups");
    for (unsigned round = 0; round < 6; round++) {
        struct model model = groups_model(&random, 12, 120);
        size_t target = (size_t)256 << random_below(&random, 5);
        cuts_expect(&model, target, random_below(&random, target));
        model_free(&model);
    }
}

Test(block_cut, honours_the_rule_with_values_around_the_target) {
    struct random random = random_begin("cut large values");
    for (unsigned round = 0; round < 6; round++) {
        struct model model = groups_model(&random, 6, 2500);
        cuts_expect(&model, 1024, 256);
        model_free(&model);
    }
}

Test(block_cut, an_aligned_group_is_one_block) {
    struct model model = model_new(400);
    for (unsigned i = 0; i < 400; i++) {
        char key[48];
        int n = snprintf(key, sizeof key, "svc.%06u.route.%06u", i / 40 * 1111, i % 40);
        model_add(&model, key, (size_t)n, 100);
    }
    size_t target = image_bytes_of(&model, 0, 40) * 5 / 4;
    struct block_builder *builder;
    cr_assert_eq(block_builder_new(&mem_system, &builder, NULL), 0);
    builder_fill(builder, &model, 0, model.count);
    for (unsigned group = 0; group < 10; group++) {
        uint8_t *image;
        size_t bytes;
        cr_assert_eq(block_builder_cut(builder, target), 40);
        cr_assert_eq(block_builder_take(builder, 40, &image, &bytes, NULL), 0);
    }
    block_builder_free(builder);
    model_free(&model);
}

Test(block_cut, a_huge_entry_gets_a_block_of_its_own) {
    struct model model = model_new(3);
    model_add(&model, "a", 1, 10);
    model_add(&model, "b", 1, 100000);
    model_add(&model, "c", 1, 10);
    struct block_builder *builder;
    uint8_t *image;
    size_t bytes;
    cr_assert_eq(block_builder_new(&mem_system, &builder, NULL), 0);
    builder_fill(builder, &model, 0, 3);
    for (size_t left = 3; left > 0; left--) {
        cr_assert_eq(block_builder_cut(builder, 8192), 1);
        cr_assert_eq(block_builder_take(builder, 1, &image, &bytes, NULL), 0);
    }
    block_builder_free(builder);
    model_free(&model);
}

Test(block_builder, taking_one_by_one_from_many_held_keeps_the_rest) {
    struct random random = random_begin("take one by one");
    struct model model = groups_model(&random, 60, 60);
    struct block_builder *builder;
    cr_assert_eq(block_builder_new(&mem_system, &builder, NULL), 0);
    size_t added = 0;
    for (size_t taken = 0; taken < model.count;) {
        size_t more = random_below(&random, 12);
        more = more < model.count - added ? more : model.count - added;
        builder_fill(builder, &model, added, added + more);
        added += more;
        size_t count = random_below(&random, 7);
        count = count < added - taken ? count : added - taken;
        if (count == 0) {
            continue;
        }
        uint8_t *image;
        size_t bytes, offset;
        cr_assert_eq(block_builder_take(builder, count, &image, &bytes, NULL), 0);
        uint8_t *copy = image_copy(image, bytes);
        cr_assert_null(block_verify_full(copy, bytes, &offset));
        iteration_expect(&(struct model){model.entries + taken, count}, copy);
        free(copy);
        taken += count;
        if (added > taken) {
            cr_assert_eq(block_builder_bytes(builder) >= image_bytes_of(&model, taken, added), true);
        }
    }
    block_builder_free(builder);
    model_free(&model);
}

static int build_with(const struct mem *mem, const struct model *model) {
    struct block_builder *builder = NULL;
    struct pleat_error err = {0};
    size_t held = 0, taken = 0;
    int rc = block_builder_new(mem, &builder, &err);
    for (size_t i = 0; rc == 0 && i < model->count; i++) {
        rc = block_builder_add(builder, &model->entries[i], entry_hash(&model->entries[i]), &err);
        held += rc == 0;
        cr_assert_eq(block_builder_count(builder), held, "a refused entry is not held");
        if (rc == 0 && i % 97 == 96) {
            uint8_t *image;
            size_t bytes, offset;
            rc = block_builder_take(builder, held - 3, &image, &bytes, &err);
            if (rc == 0) {
                cr_assert_null(block_verify_full(image, bytes, &offset));
                taken += held - 3;
                held = 3;
            }
            struct pleat_slice key = block_builder_key(builder, 0);
            cr_assert(key.bytes == model->entries[taken].key_bytes &&
                      memcmp(key.data, model->entries[taken].key, key.bytes) == 0);
        }
    }
    cr_assert_eq(err.code, rc);
    block_builder_free(builder);
    return rc;
}

Test(block_builder, every_failing_allocation_is_survived) {
    struct random random = random_begin("block memory");
    struct model model = groups_model(&random, 20, 200);
    model_add(&model, "t", 1, 6u << 20); /* large buffers, and their shrinking */
    model_add(&model, "u", 1, 10);
    for (int for_ever = 0; for_ever < 2; for_ever++) {
        int rc = PLEAT_ERR_NO_MEMORY;
        uint64_t n = 1;
        for (; n < 1000; n++) {
            struct failmem fail;
            failmem_init(&fail);
            fail.fail_at = n;
            fail.fail_for_ever = for_ever;
            rc = build_with(&fail.mem, &model);
            cr_assert(rc == 0 || rc == PLEAT_ERR_NO_MEMORY);
            cr_assert_eq(fail.live, 0);
            if (fail.calls < n) {
                break;
            }
        }
        cr_assert_eq(rc, 0);
        cr_assert_gt(n, 5);
    }
    model_free(&model);
    block_builder_free(NULL);
}

/* ---- hostile bytes --------------------------------------------------------------------------------------------- */

/* An image that verification lets through is used in every way, and the sanitizers watch. */
static void use_all(const uint8_t *image, size_t bytes, const uint8_t *key, size_t key_bytes) {
    uint8_t *key_buffer = malloc(LIMIT_KEY_BYTES + BLOCK_READ_BEYOND);
    struct entry entry;
    uint32_t count = block_count(image);
    cr_assert_leq(count, bytes);
    unsigned sum = 0;
    size_t before_bytes = 0;
    uint8_t *before = malloc(LIMIT_KEY_BYTES);
    for (uint32_t i = 0; i < count; i++) {
        block_entry(image, i, key_buffer, false, &entry);
        cr_assert_leq(entry.key_bytes, LIMIT_KEY_BYTES);
        cr_assert(i == 0 || key_compare(before, before_bytes, entry.key, entry.key_bytes) < 0, "B1");
        memcpy(before, entry.key, entry.key_bytes);
        before_bytes = entry.key_bytes;
        cr_assert_leq(entry.value_bytes, bytes);
        for (size_t j = 0; j < entry.value_bytes; j++) {
            sum += entry.value[j];
        }
        for (size_t j = 0; j < entry.version_bytes; j++) {
            sum += entry.version[j];
        }
        cr_assert_eq(block_seek(image, entry.key, entry.key_bytes), i);
        int rc = block_get(image, entry.key, entry.key_bytes, (uint64_t)image[BLOCK_HEADER_BYTES + i] << 56, &entry);
        cr_assert_eq(rc, 0);
    }
    cr_assert_leq(block_seek(image, key, key_bytes), count);
    (void)block_get(image, key, key_bytes, hash_key(key, key_bytes), &entry);
    *(volatile unsigned *)&sum = sum;
    free(before);
    free(key_buffer);
}

/* 1 when verification lets the damaged bytes through. */
static unsigned damaged_try(const uint8_t *image, size_t bytes) {
    uint8_t *copy = image_copy(image, bytes);
    size_t offset = SIZE_MAX;
    const char *wrong = block_verify(copy, bytes, &offset);
    if (wrong == NULL) {
        use_all(copy, bytes, (const uint8_t *)"svc.000003", 10);
    } else {
        cr_assert_leq(offset, bytes, "%s at %zu of %zu", wrong, offset, bytes);
    }
    free(copy);
    return wrong == NULL;
}

static void damage_everywhere(struct model model) {
    size_t bytes, offset;
    uint8_t *image = image_of(&model, &bytes);
    size_t head_bytes = block_entry_at(image, 0) - image;
    size_t step = bytes > 4000 ? bytes / 4000 : 1;
    for (size_t at = 0; at < bytes; at += at < head_bytes ? 1 : step) {
        static const uint8_t masks[] = {0x01, 0x80, 0xff, 0x10, 0x40};
        for (size_t i = 0; i < sizeof masks; i++) {
            image[at] ^= masks[i];
            unsigned passed = damaged_try(image, bytes);
            bool fingerprint = at >= BLOCK_HEADER_BYTES && at < BLOCK_HEADER_BYTES + model.count;
            if (fingerprint) {
                cr_assert_eq(passed, 1, "fingerprints are left to the checksum");
                cr_assert_not_null(block_verify_full(image, bytes, &offset));
                cr_assert_eq(offset, at);
            } else if (at < head_bytes - block_prefix_bytes(image)) {
                cr_assert_eq(passed, 0, "a damaged header or offset at %zu was let through", at);
            }
            image[at] ^= masks[i];
        }
    }
    for (size_t shorter = 0; shorter < bytes; shorter += step) {
        cr_assert_eq(damaged_try(image, shorter), 0, "cut to %zu bytes", shorter);
    }
    uint8_t *longer = malloc(bytes + 1 + BLOCK_READ_BEYOND);
    memcpy(longer, image, bytes + BLOCK_READ_BEYOND);
    cr_assert_eq(damaged_try(longer, bytes + 1), 0);
    free(longer);
    free(image);
    model_free(&model);
}

Test(block_verify, any_damaged_byte_is_refused_or_harmless) {
    struct random random = random_begin("block damage");
    for (unsigned round = 0; round < 3; round++) {
        damage_everywhere(random_model(&random));
    }
    struct model model = model_new(1);
    model_add(&model, "", 0, 0);
    damage_everywhere(model);
    model = model_new(3);
    model_add(&model, "wide", 4, 70000);
    model_add(&model, "wide1", 5, 300);
    model_add(&model, "wide2", 5, 3);
    damage_everywhere(model);
}

Test(block_verify, garbage_and_spliced_images_do_no_harm) {
    struct random random = random_begin("block garbage");
    uint8_t bytes[512];
    for (unsigned round = 0; round < 20000; round++) {
        size_t n = random_below(&random, sizeof bytes);
        for (size_t i = 0; i < n; i++) {
            bytes[i] = (uint8_t)(random_next(&random) & (round % 2 ? 0x07 : 0xff));
        }
        if (n >= BLOCK_HEADER_BYTES && round % 4 != 0) { /* a header that fits, so that the entries are reached */
            uint32_t count = 1 + (uint32_t)random_below(&random, 6);
            uint32_t prefix_bytes = (uint32_t)random_below(&random, 4);
            store_u32(bytes, count);
            store_u32(bytes + 4, prefix_bytes << 16);
            store_u32(bytes + 8, 16 + count * 3);
            store_u32(bytes + 12, 16 + count * 3 + prefix_bytes);
            if (16 + count * 2 + 2 <= n) {
                store_u16(bytes + 16 + count, (uint16_t)(16 + count * 3 + prefix_bytes));
            }
        }
        (void)damaged_try(bytes, n);
    }
    for (unsigned round = 0; round < 300; round++) {
        struct model model = random_model(&random);
        size_t image_bytes;
        uint8_t *image = image_of(&model, &image_bytes);
        for (unsigned damage = 0; damage < 20; damage++) {
            size_t at = random_below(&random, image_bytes);
            uint8_t old = image[at];
            image[at] = (uint8_t)random_next(&random);
            (void)damaged_try(image, image_bytes);
            image[at] = random_below(&random, 3) == 0 ? image[at] : old;
        }
        free(image);
        model_free(&model);
    }
}

Test(block_verify, named_damages_are_refused) {
    struct model model = model_new(3);
    model_add(&model, "ka", 2, 1);
    model_add(&model, "kb", 2, 1);
    model_add(&model, "kc", 2, 1);
    size_t bytes, offset;
    uint8_t *image = image_of(&model, &bytes);
    size_t entry = (size_t)(block_entry_at(image, 1) - image);
    const struct {
        const char *what;
        size_t at;
        uint8_t value;
    } damages[] = {
        {"no entries", 0, 0},
        {"an unknown flag", BLOCK_AT_FLAGS, 2},
        {"an unknown high flag", BLOCK_AT_FLAGS + 1, 0x80},
        {"the wide form in a small image", BLOCK_AT_FLAGS, BLOCK_FLAG_WIDE},
        {"a reserved kind", entry, ENTRY_VALUE_REF},
        {"the reserved head bit", entry, ENTRY_PUT | ENTRY_RESERVED},
        {"a suffix behind the end", entry + 1, 100},
        {"a value behind the end", entry + 2, 100},
        {"two equal keys", entry + 3, 'a'},
        {"keys out of order", entry + 3, 'd'},
        {"an offset into the entry before", BLOCK_HEADER_BYTES + 3 + 2, (uint8_t)(entry - 1)},
    };
    cr_assert_null(block_verify(image, bytes, &offset));
    for (size_t i = 0; i < sizeof damages / sizeof damages[0]; i++) {
        uint8_t old = image[damages[i].at];
        image[damages[i].at] = damages[i].value;
        cr_assert_not_null(block_verify(image, bytes, &offset), "%s passed", damages[i].what);
        image[damages[i].at] = old;
    }
    free(image);
    model_free(&model);
}

/* An image of one entry whose head is given, behind a prefix of zeros; `bytes` in all, zeros behind the head. */
static const char *one_entry_verify(uint32_t prefix_bytes, const uint8_t *head, size_t head_bytes, size_t bytes) {
    uint8_t *image = calloc(bytes + BLOCK_READ_BEYOND, 1);
    bool wide = bytes > BLOCK_NARROW_BYTES_MAX;
    uint32_t prefix_at = BLOCK_HEADER_BYTES + (wide ? 5 : 3);
    store_u32(image + BLOCK_AT_COUNT, 1);
    store_u16(image + BLOCK_AT_FLAGS, wide ? BLOCK_FLAG_WIDE : 0);
    store_u16(image + BLOCK_AT_PREFIX_BYTES, (uint16_t)prefix_bytes);
    store_u32(image + BLOCK_AT_PREFIX_AT, prefix_at);
    store_u32(image + BLOCK_AT_ENTRIES_AT, prefix_at + prefix_bytes);
    store_u16(image + BLOCK_HEADER_BYTES + 1, (uint16_t)(prefix_at + prefix_bytes));
    memcpy(image + prefix_at + prefix_bytes, head, head_bytes);
    size_t offset;
    const char *wrong = block_verify(image, bytes, &offset);
    free(image);
    return wrong;
}

Test(block_verify, lengths_at_and_beyond_their_limits) {
    /* A put of a 5-byte suffix and a 1-byte value in a narrow image without prefix; then with padded varints. */
    const uint8_t put[] = {ENTRY_PUT, 5, 1};
    cr_assert_null(one_entry_verify(0, put, sizeof put, 19 + 3 + 6));
    const uint8_t padded_suffix[] = {ENTRY_PUT, 0x85, 0, 1};
    cr_assert_not_null(one_entry_verify(0, padded_suffix, sizeof padded_suffix, 19 + 4 + 6));
    const uint8_t padded_value[] = {ENTRY_PUT, 5, 0x81, 0};
    cr_assert_not_null(one_entry_verify(0, padded_value, sizeof padded_value, 19 + 4 + 6));

    /* Prefix and suffix are a key of 65,535 bytes, and one more. */
    for (uint32_t more = 0; more < 2; more++) {
        uint8_t head[8] = {ENTRY_PUT};
        uint8_t *end = varint_encode(head + 1, 25535 + more);
        end = varint_encode(end, 7);
        size_t head_bytes = (size_t)(end - head);
        const char *wrong = one_entry_verify(40000, head, head_bytes, 21 + 40000 + head_bytes + 25535 + more + 7);
        cr_assert_eq(wrong != NULL, more > 0);
    }

    /* Lengths whose sum with the place wraps around to the image's end. */
    for (unsigned which = 0; which < 2; which++) {
        for (uint64_t length = UINT64_MAX; length > UINT64_MAX - 80; length--) {
            uint8_t head[24] = {ENTRY_PUT};
            uint8_t *end = varint_encode(head + 1, which == 0 ? length : 3);
            end = varint_encode(end, which == 0 ? 3 : length);
            cr_assert_not_null(one_entry_verify(0, head, (size_t)(end - head), 19 + 24));
        }
    }
}

Test(block_verify, a_value_length_that_wraps_around_cannot_lead_back) {
    /* The first value's length leads, modulo 2^64, to the byte of its own key's suffix, which begins a sound entry. */
    static const uint8_t entries[] = {ENTRY_PUT, 1,    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                      0xff,      0xff, 0x01, /* suffix: */ ENTRY_PUT, 2, 1, 'b', 'z', 'v'};
    uint8_t image[22 + sizeof entries + BLOCK_READ_BEYOND] = {0};
    store_u32(image + BLOCK_AT_COUNT, 2);
    store_u32(image + BLOCK_AT_PREFIX_AT, 22);
    store_u32(image + BLOCK_AT_ENTRIES_AT, 22);
    store_u16(image + BLOCK_HEADER_BYTES + 2, 22);
    store_u16(image + BLOCK_HEADER_BYTES + 4, 34);
    memcpy(image + 22, entries, sizeof entries);
    size_t offset;
    cr_assert_not_null(block_verify(image, 22 + sizeof entries, &offset));
}
