/*
 * table.c - fuzzes a whole table file: open, meta, get, scans both ways, verification, dump.
 *
 *     byte 0   bit 0: build the file around parts, else the file as it is   bit 1: repair its checksums
 *              bit 2: counts of footer and properties as the blocks have them   bit 3: each allocation fails once
 *     parts    u8 blocks - 1, then u16 length and bytes for each of: block images, separators (u8 length and bytes
 *              each), filter image (empty: none), properties image
 *
 * What opens is read in every way. Where table_verify finds nothing wrong, all ways must agree. Whatever is wrong, with
 * the file or with the memory, nothing is left allocated.
 */
#include "base/epoch.h"
#include "base/hash.h"
#include "base/limits.h"
#include "base/source.h"
#include "cache/cache.h"
#include "fuzz/fuzz.h"
#include "fuzz/repair.h"
#include "support/failmem.h"
#include "sstable/block.h"
#include "sstable/table_index.h"

#include <stdlib.h>

#define NUMBER 9
#define BLOCKS_MAX 16
#define FAILURES_MAX 100

static const uint8_t store_id[TABLE_STORE_ID_BYTES] = "store of fuzzing";

/* ---- building a file around parts ------------------------------------------------------------------------------- */

struct build {
    uint8_t *file;
    size_t bytes;
    size_t capacity;
    uint64_t seed;
};

static struct table_section build_piece(struct build *build, struct pleat_slice image) {
    struct table_section section = {
        .handle = {build->bytes, (uint32_t)image.bytes, (uint32_t)image.bytes},
    };
    FUZZ_CHECK(build->bytes + TABLE_HEADER_BYTES + image.bytes <= build->capacity);
    uint8_t *piece = build->file + build->bytes;
    if (image.bytes > 0) {
        memcpy(piece + TABLE_HEADER_BYTES, image.data, image.bytes);
    }
    section.checksum = table_header_encode(piece, build->seed, &section.handle, PLEAT_CODEC_NONE);
    build->bytes += TABLE_HEADER_BYTES + image.bytes;
    return section;
}

static struct pleat_slice build_index(struct fuzz_input separators, const struct table_section *blocks,
                                      uint32_t count) {
    struct table_index_parts parts = {0};
    uint8_t *image = NULL;
    size_t bytes = 0;
    for (uint32_t i = 0; i < count; i++) {
        FUZZ_CHECK(table_index_parts_block(&mem_system, &parts, &blocks[i].handle, NULL) == 0);
        struct pleat_slice separator = fuzz_slice(&separators, fuzz_u8(&separators));
        if (i + 1 < count) {
            separator = separator.bytes > 0 ? separator : (struct pleat_slice){"\xff", 1};
            FUZZ_CHECK(table_index_parts_separator(&mem_system, &parts, separator.data, separator.bytes, NULL) == 0);
        }
    }
    FUZZ_CHECK(table_index_parts_image(&mem_system, &parts, &image, &bytes, NULL) == 0);
    table_index_parts_fini(&mem_system, &parts);
    return (struct pleat_slice){image, bytes};
}

static uint8_t *build_file(struct fuzz_input *input, bool count, size_t *ret_bytes) {
    struct build build = {.capacity = 2 * fuzz_left(input) + 4096, .seed = table_seed(store_id, NUMBER)};
    struct table_section blocks[BLOCKS_MAX];
    struct table_footer footer = {.number = NUMBER, .blocks = 1u + fuzz_u8(input) % BLOCKS_MAX};
    build.file = fuzz_copy(NULL, 0, build.capacity);
    for (uint32_t i = 0; i < footer.blocks; i++) {
        struct pleat_slice image = fuzz_slice(input, fuzz_u16(input));
        blocks[i] = build_piece(&build, image);
        size_t offset = 0;
        uint8_t *exact = fuzz_copy(image.data, image.bytes, BLOCK_READ_BEYOND);
        footer.entries += block_verify(exact, image.bytes, &offset) == NULL ? block_count(exact) : 0;
        free(exact);
    }
    struct pleat_slice separators = fuzz_slice(input, fuzz_u16(input));
    struct pleat_slice filter = fuzz_slice(input, fuzz_u16(input)), properties = fuzz_slice(input, fuzz_u16(input));
    struct pleat_slice index =
        build_index((struct fuzz_input){separators.data, (const uint8_t *)separators.data + separators.bytes}, blocks,
                    footer.blocks);
    footer.index = build_piece(&build, index);
    mem_free(&mem_system, (void *)(uintptr_t)index.data);
    footer.filter.handle.offset = build.bytes;
    if (filter.bytes > 0) {
        footer.filter = build_piece(&build, filter);
    }
    uint8_t *copy = fuzz_copy(properties.data, properties.bytes, 0);
    if (properties.bytes >= TABLE_PROPERTIES_KEYS) {
        if (count) {
            store_u64(copy + TABLE_PROPERTIES_ENTRIES, footer.entries);
            store_u32(copy + TABLE_PROPERTIES_BLOCKS, footer.blocks);
        }
        footer.entries = load_u64(copy + TABLE_PROPERTIES_ENTRIES);
    }
    footer.properties = build_piece(&build, (struct pleat_slice){copy, properties.bytes});
    free(copy);
    footer.file_bytes = build.bytes + TABLE_FOOTER_BYTES;
    table_footer_encode(build.file + build.bytes, store_id, build.seed, &footer);
    *ret_bytes = build.bytes + TABLE_FOOTER_BYTES;
    return build.file;
}

/* ---- reading it in every way ------------------------------------------------------------------------------------ */

struct walk {
    struct table *table;
    struct cache *cache;
    const struct table_meta *meta;
    bool verified; /* table_verify found nothing wrong */
};

/* The key is in the table, or may be, with this entry (NULL: not known). */
static void check_get(const struct walk *walk, struct pleat_slice key, const struct entry *expected) {
    struct epoch *epoch = cache_epoch(walk->cache);
    uint8_t *exact = fuzz_copy(key.data, key.bytes, 0);
    uint64_t hash = hash_key(exact, key.bytes);
    struct entry entry;
    struct cache_frame *frame = NULL;
    table_prefetch(walk->table, hash);
    bool may = table_may_contain(walk->table, hash);
    struct epoch_slot *slot = NULL;
    FUZZ_CHECK(epoch_enter(epoch, &slot) == 0);
    int rc = table_get(walk->table, exact, key.bytes, hash, CACHE_GET, &entry, &frame, NULL);
    FUZZ_CHECK(rc == 0 || rc == PLEAT_ABSENT || rc == PLEAT_ERR_CORRUPT);
    FUZZ_CHECK(!walk->verified || rc != PLEAT_ERR_CORRUPT);
    if (walk->verified && expected != NULL) {
        FUZZ_CHECK(rc == 0 && may && entry.kind == expected->kind);
        FUZZ_CHECK(fuzz_equal((struct pleat_slice){entry.value, entry.value_bytes},
                              (struct pleat_slice){expected->value, expected->value_bytes}));
    }
    epoch_leave(slot);
    free(exact);
}

static int step(struct source *source, bool forward, bool begun) {
    if (!begun) {
        return forward ? source->ops->first(source) : source->ops->last(source);
    }
    return forward ? source->ops->next(source) : source->ops->prev(source);
}

/* One scan; entries in *ret_count, and a sum of them that does not depend on the way. Keys follow each other (S4). */
static int check_scan(const struct walk *walk, const struct source_bounds *bounds, bool forward, uint64_t *ret_count,
                      uint64_t *ret_sum) {
    static uint8_t before[LIMIT_KEY_BYTES];
    size_t before_bytes = 0;
    struct source *source;
    *ret_count = *ret_sum = 0;
    FUZZ_CHECK(table_source_new(walk->table, bounds, &source, NULL) == 0);
    int rc;
    while ((rc = step(source, forward, *ret_count > 0)) == 0) {
        const struct entry *entry = &source->entry;
        struct pleat_slice key = {entry->key, entry->key_bytes};
        int order = fuzz_order((struct pleat_slice){before, before_bytes}, key);
        FUZZ_CHECK(*ret_count == 0 || (forward ? order < 0 : order > 0));
        FUZZ_CHECK(bounds->lower == NULL ||
                   fuzz_order(key, (struct pleat_slice){bounds->lower, bounds->lower_bytes}) >= 0);
        FUZZ_CHECK(bounds->upper == NULL ||
                   fuzz_order(key, (struct pleat_slice){bounds->upper, bounds->upper_bytes}) < 0);
        if (key.bytes > 0) {
            memcpy(before, key.data, key.bytes);
        }
        before_bytes = key.bytes;
        *ret_sum += hash_bytes(entry->value, entry->value_bytes, hash_key(entry->key, entry->key_bytes));
        (*ret_count)++;
        if (forward && *ret_count <= 64) {
            check_get(walk, key, entry);
        }
    }
    FUZZ_CHECK(rc == PLEAT_END || rc == PLEAT_ERR_CORRUPT);
    FUZZ_CHECK(!walk->verified || rc == PLEAT_END);
    source_free(source);
    return rc;
}

static void check_table(const struct walk *walk, struct pleat_slice key) {
    struct source_bounds all = {.fill_cache = true}, part = {.fill_cache = false};
    uint64_t forward, backward, forward_sum, backward_sum;
    int rc = check_scan(walk, &all, true, &forward, &forward_sum);
    int back = check_scan(walk, &all, false, &backward, &backward_sum);
    FUZZ_CHECK(rc != back || rc != PLEAT_END || (forward == backward && forward_sum == backward_sum));
    FUZZ_CHECK(!walk->verified || forward == walk->meta->entries);
    check_get(walk, key, NULL);
    check_get(walk, (struct pleat_slice){walk->meta->smallest, walk->meta->smallest_bytes}, NULL);
    check_get(walk, (struct pleat_slice){walk->meta->largest, walk->meta->largest_bytes}, NULL);
    part.lower = key.data;
    part.lower_bytes = key.bytes;
    rc = check_scan(walk, &part, true, &forward, &forward_sum);
    back = check_scan(walk, &part, false, &backward, &backward_sum);
    FUZZ_CHECK(!walk->verified || (forward == backward && forward_sum == backward_sum));
    uint64_t below;
    part = (struct source_bounds){.upper = key.data, .upper_bytes = key.bytes};
    (void)check_scan(walk, &part, false, &below, &backward_sum);
    FUZZ_CHECK(!walk->verified || below + forward == walk->meta->entries);
}

static int dump_part(void *context, const struct table_part *part, const uint8_t *image) {
    uint64_t *sum = context;
    *sum += part->image_bytes > 0 ? image[part->image_bytes - 1] : 0;
    return 0;
}

static void check_file(const struct table_store *store, struct pleat_slice key) {
    struct table_meta meta;
    struct pleat_error err = {0};
    uint64_t sum = 0;
    int dumped = table_dump(store, NUMBER, dump_part, &sum, NULL);
    int rc = table_meta_read(store, NUMBER, &meta, &err);
    FUZZ_CHECK(rc == 0 || rc == PLEAT_ERR_CORRUPT || rc == PLEAT_ERR_NEWER);
    if (rc < 0) {
        FUZZ_CHECK(dumped < 0 && err.message[0] != '\0');
        return;
    }
    struct walk walk = {.cache = store->cache, .meta = &meta};
    struct table_check check = {0};
    rc = table_verify(store, &meta, NULL, &check, NULL);
    FUZZ_CHECK(rc == 0 || rc == PLEAT_ERR_CORRUPT);
    walk.verified = rc == 0;
    FUZZ_CHECK(!walk.verified || (dumped == 0 && check.entries == meta.entries));
    FUZZ_CHECK(table_open(store, &meta, &walk.table, NULL) == 0);
    check_table(&walk, key);
    table_close(walk.table);
    table_meta_fini(store->mem, &meta);
}

/* ---- short of memory -------------------------------------------------------------------------------------------- */

static void read_some(struct table *table, struct cache *cache, struct pleat_slice key) {
    struct source_bounds all = {.fill_cache = true};
    struct source *source = NULL;
    struct epoch_slot *slot = NULL;
    struct cache_frame *frame = NULL;
    struct entry entry;
    if (epoch_enter(cache_epoch(cache), &slot) == 0) {
        (void)table_get(table, key.data, key.bytes, hash_key(key.data, key.bytes), CACHE_GET, &entry, &frame, NULL);
        epoch_leave(slot);
    }
    for (int way = 0; way < 2 && table_source_new(table, &all, &source, NULL) == 0; way++) {
        for (int i = 0; i < 40 && step(source, way == 0, i > 0) == 0; i++) {
        }
        source_free(source);
    }
}

/* Each allocation of a whole reading fails once: what had been begun is let go of. */
static void check_short_of_memory(const struct table_store *given, struct pleat_slice key) {
    struct failmem fail;
    uint64_t n = 0;
    do {
        struct table_store store = *given;
        struct table_meta meta;
        struct table_check check = {0};
        struct table *table = NULL;
        uint64_t sum = 0;
        failmem_init(&fail);
        fail.fail_at = ++n;
        store.mem = &fail.mem;
        store.cache = NULL;
        if (cache_new(&fail.mem, 64 << 10, &store.cache, NULL) == 0) {
            (void)table_dump(&store, NUMBER, dump_part, &sum, NULL);
            if (table_meta_read(&store, NUMBER, &meta, NULL) == 0) {
                (void)table_verify(&store, &meta, NULL, &check, NULL);
                if (table_open(&store, &meta, &table, NULL) == 0) {
                    read_some(table, store.cache, key);
                    table_close(table);
                }
                table_meta_fini(store.mem, &meta);
            }
            cache_free(store.cache);
        }
        FUZZ_CHECK_TEXT(fail.live == 0, "%d blocks are left behind failure %d", (int)fail.live, (int)n);
    } while (fail.calls >= n && n < FAILURES_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fuzz_input input = {data, data + size};
    uint8_t mode = fuzz_u8(&input);
    struct pleat_slice key = {data, size < 12 ? size : 12};
    size_t bytes = 0;
    uint8_t *file = NULL;
    if ((mode & 1) != 0) {
        file = build_file(&input, (mode & 4) != 0, &bytes);
    } else {
        struct pleat_slice rest = fuzz_rest(&input);
        bytes = rest.bytes;
        file = fuzz_copy(rest.data, bytes, 0);
        if ((mode & 2) != 0) {
            (void)repair_table(file, bytes, store_id, NUMBER);
        }
    }
    char name[TABLE_NAME_BYTES];
    struct fuzz_disk disk;
    struct fuzz_mem memory;
    table_name(NUMBER, name);
    fuzz_disk_init(&disk);
    fuzz_disk_put(&disk, name, file, bytes);
    fuzz_mem_init(&memory, bytes, 600, 1 << 20); /* M3: two images of 255 times their stored bytes; the cache's own */
    memory.mapped_bound = 4 << 20;
    struct cache *cache = NULL;
    FUZZ_CHECK(cache_new(&memory.mem, 64 << 10, &cache, NULL) == 0);
    struct table_store store = {.vfs = &disk.vfs, .dir = fuzz_disk_dir(&disk), .mem = &memory.mem, .cache = cache};
    memcpy(store.store_id, store_id, sizeof store.store_id);
    check_file(&store, key);
    cache_free(cache);
    if ((mode & 8) != 0) {
        check_short_of_memory(&store, key);
    }
    FUZZ_CHECK(disk.open_handles == 0);
    fuzz_mem_fini(&memory);
    free(file);
    return 0;
}
