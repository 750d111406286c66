/*
 * table.c - fuzzes a whole table file: open, meta, get, scans both ways, verification, dump.
 *
 *     byte 0   bit 0: build the file around parts, else the file as it is   bit 1: repair its checksums
 *              bit 2: counts of footer and properties as the blocks have them   bit 3: each allocation fails once
 *              bit 4: a cache so small that what was read is evicted   bit 5: damage in the parts behind the blocks
 *              bit 6: the filter's pages are there, its directory is not
 *     parts    u8 blocks - 1, u8 bytes of a page of the index / 16, then u16 length and bytes for each of: block
 *              images, separators (u8 length and bytes each), filter image (empty: none), properties image, damage
 *              (u8 piece, u16 place and u8 change each; piece 0 is the first page of the index)
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
#include "sstable/table_files.h"
#include "sstable/table_index.h"

#include <stdlib.h>

#define NUMBER 9
#define BLOCKS_MAX 32
#define CACHE_BYTES (64 << 10)
#define CACHE_BYTES_SMALL 4096
#define FAILURES_MAX 100

static const uint8_t store_id[TABLE_STORE_ID_BYTES] = "store of fuzzing";

/* ---- building a file around parts ------------------------------------------------------------------------------- */

struct build {
    uint8_t *file;
    size_t bytes;
    size_t capacity;
    uint64_t seed;
    struct table_index_builder index;
    struct table_footer footer;
    struct pleat_slice damage;
    unsigned pieces; /* behind the blocks */
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

/* A piece behind the blocks, with what damage there is to it, under a right checksum. */
static struct table_section build_part(struct build *build, const void *data, size_t bytes) {
    uint8_t *copy = fuzz_copy(data, bytes, 0);
    struct fuzz_input damage = {build->damage.data, (const uint8_t *)build->damage.data + build->damage.bytes};
    while (fuzz_left(&damage) > 0) {
        unsigned piece = fuzz_u8(&damage);
        size_t at = fuzz_u16(&damage);
        uint8_t change = fuzz_u8(&damage);
        if (piece == build->pieces && at < bytes) {
            copy[at] ^= change;
        }
    }
    build->pieces++;
    struct table_section section = build_piece(build, (struct pleat_slice){copy, bytes});
    free(copy);
    return section;
}

/* Blocks, and separators between them, each made to be greater than the one before: a builder takes no others. */
static void build_blocks(struct build *build, struct fuzz_input *input, uint32_t count, struct fuzz_input separators) {
    static uint8_t before[UINT8_MAX + BLOCKS_MAX];
    size_t before_bytes = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct pleat_slice image = fuzz_slice(input, fuzz_u16(input));
        if (i > 0) {
            struct pleat_slice separator = fuzz_slice(&separators, fuzz_u8(&separators));
            if (fuzz_order((struct pleat_slice){before, before_bytes}, separator) >= 0) {
                before[before_bytes++] = 0;
            } else {
                memcpy(before, separator.data, separator.bytes);
                before_bytes = separator.bytes;
            }
            FUZZ_CHECK(table_index_add_separator(&mem_system, &build->index, before, before_bytes, NULL) == 0);
        }
        (void)build_piece(build, image);
        FUZZ_CHECK(table_index_add_block(&mem_system, &build->index, (uint32_t)image.bytes, (uint32_t)image.bytes,
                                         NULL) == 0);
        size_t offset = 0;
        uint8_t *exact = fuzz_copy(image.data, image.bytes, BLOCK_READ_BEYOND);
        build->footer.entries += block_verify(exact, image.bytes, &offset) == NULL ? block_count(exact) : 0;
        free(exact);
    }
}

static void build_index_pages(struct build *build) {
    struct table_index_builder *index = &build->index;
    FUZZ_CHECK(table_index_close(&mem_system, index, NULL) == 0);
    const uint8_t *image = index->images.data;
    for (uint32_t page = 0; page < index->pages; page++) {
        uint32_t bytes = table_index_start_of(index, page).image_bytes;
        (void)build_part(build, image, bytes);
        FUZZ_CHECK(table_index_page_stored(&mem_system, index, bytes, NULL) == 0);
        image += bytes;
    }
}

/* The pages of a filter whose image is sound; returns the bytes of its directory, or of all that was given. */
static size_t build_filter_pages(struct build *build, const uint8_t *filter, size_t bytes) {
    if (filter_verify(filter, bytes) != NULL) {
        return bytes;
    }
    for (uint32_t part = 0; part < filter_parts(filter); part++) {
        uint64_t at, part_bytes;
        filter_part_place(filter, part, &at, &part_bytes);
        if (part_bytes > 0) {
            (void)build_part(build, filter + at, (size_t)part_bytes);
        }
    }
    return filter_directory_bytes(filter);
}

/* Pages of index and filter, then both directories. */
static void build_sections(struct build *build, struct pleat_slice filter, bool absent) {
    struct table_bytes directory = {0};
    uint64_t pages_at = build->bytes;
    build_index_pages(build);
    uint64_t pages_end = build->bytes;
    uint8_t *image = fuzz_copy(filter.data, filter.bytes, 0);
    size_t filter_bytes = build_filter_pages(build, image, filter.bytes);
    FUZZ_CHECK(table_index_directory(&mem_system, &build->index, pages_at, pages_end, &directory, NULL) == 0);
    build->footer.index = build_part(build, directory.data, directory.bytes);
    build->footer.filter.handle.offset = build->bytes;
    if (filter_bytes > 0 && !absent) {
        build->footer.filter = build_part(build, image, filter_bytes);
    }
    free(image);
    mem_free(&mem_system, directory.data);
}

static void build_properties(struct build *build, struct pleat_slice properties, bool count) {
    uint8_t *copy = fuzz_copy(properties.data, properties.bytes, 0);
    struct table_footer *footer = &build->footer;
    if (properties.bytes >= TABLE_PROPERTIES_KEYS) {
        if (count) {
            store_u64(copy + TABLE_PROPERTIES_ENTRIES, footer->entries);
            store_u32(copy + TABLE_PROPERTIES_BLOCKS, footer->blocks);
        }
        if (footer->filter.handle.stored_bytes == 0) {
            copy[TABLE_PROPERTIES_FILTER] = FILTER_NONE;
        }
        footer->entries = load_u64(copy + TABLE_PROPERTIES_ENTRIES);
    }
    footer->properties = build_part(build, copy, properties.bytes);
    free(copy);
}

static uint8_t *build_file(struct fuzz_input *input, uint8_t mode, size_t *ret_bytes) {
    struct build build = {.capacity = 3 * fuzz_left(input) + 16384, .seed = table_seed(store_id, NUMBER)};
    build.footer = (struct table_footer){.number = NUMBER, .blocks = 1u + fuzz_u8(input) % BLOCKS_MAX};
    build.index.page_bytes = (size_t)fuzz_u8(input) * 16;
    build.file = fuzz_copy(NULL, 0, build.capacity);
    struct fuzz_input blocks = *input;
    for (uint32_t i = 0; i < build.footer.blocks; i++) {
        (void)fuzz_slice(input, fuzz_u16(input));
    }
    struct pleat_slice separators = fuzz_slice(input, fuzz_u16(input));
    struct pleat_slice filter = fuzz_slice(input, fuzz_u16(input)), properties = fuzz_slice(input, fuzz_u16(input));
    build.damage = fuzz_slice(input, (mode & 32) != 0 ? fuzz_u16(input) : 0);
    build_blocks(&build, &blocks, build.footer.blocks,
                 (struct fuzz_input){separators.data, (const uint8_t *)separators.data + separators.bytes});
    build_sections(&build, filter, (mode & 64) != 0);
    build_properties(&build, properties, (mode & 4) != 0);
    build.footer.file_bytes = build.bytes + TABLE_FOOTER_BYTES;
    FUZZ_CHECK(build.footer.file_bytes <= build.capacity);
    table_footer_encode(build.file + build.bytes, store_id, build.seed, &build.footer);
    table_index_builder_fini(&mem_system, &build.index);
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
    struct epoch_slot *slot = NULL;
    FUZZ_CHECK(epoch_enter(epoch, &slot) == 0);
    int may = table_may_contain(walk->table, hash, NULL);
    FUZZ_CHECK(may == 0 || may == 1 || (may == PLEAT_ERR_CORRUPT && !walk->verified));
    int rc = table_get(walk->table, exact, key.bytes, hash, CACHE_GET, &entry, &frame, NULL);
    FUZZ_CHECK(rc == 0 || rc == PLEAT_ABSENT || rc == PLEAT_ERR_CORRUPT);
    FUZZ_CHECK(!walk->verified || rc != PLEAT_ERR_CORRUPT);
    if (walk->verified && expected != NULL) {
        FUZZ_CHECK(rc == 0 && may == 1 && entry.kind == expected->kind);
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
    int rc = table_source_new(walk->table, bounds, &source, NULL);
    if (rc < 0) {
        FUZZ_CHECK(rc == PLEAT_ERR_CORRUPT && !walk->verified); /* a page of the index that cannot be read */
        return rc;
    }
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

/* Steps from where the source stands after `rc` of a positioning, which is counted. */
static uint64_t count_on(struct source *source, bool forward, int *rc) {
    uint64_t count = 0;
    while (*rc == 0) {
        count++;
        *rc = step(source, forward, true);
    }
    return count;
}

/* Positions at a key and on both sides of it; with entries below it and from it on, as scans counted them. */
static void check_seek(const struct walk *walk, struct pleat_slice key, uint64_t below, uint64_t above) {
    struct source_bounds all = {.fill_cache = true};
    struct source *source;
    FUZZ_CHECK(table_source_new(walk->table, &all, &source, NULL) == 0);
    source->ops->prepare(source, key.data, key.bytes);
    int rc = source->ops->seek(source, key.data, key.bytes);
    FUZZ_CHECK(rc != 0 || fuzz_order((struct pleat_slice){source->entry.key, source->entry.key_bytes}, key) >= 0);
    uint64_t count = count_on(source, true, &rc);
    FUZZ_CHECK(rc == PLEAT_END || (rc == PLEAT_ERR_CORRUPT && !walk->verified));
    FUZZ_CHECK(!walk->verified || count == above);
    rc = source->ops->seek_before(source, key.data, key.bytes);
    FUZZ_CHECK(rc != 0 || fuzz_order((struct pleat_slice){source->entry.key, source->entry.key_bytes}, key) < 0);
    count = count_on(source, false, &rc);
    FUZZ_CHECK(rc == PLEAT_END || (rc == PLEAT_ERR_CORRUPT && !walk->verified));
    FUZZ_CHECK(!walk->verified || count == below);
    source_free(source);
}

/* Each block has one place (X4), to which the least key that it may have leads; its frame is carried and dropped. */
static void check_places(const struct walk *walk) {
    static uint8_t lower[LIMIT_KEY_BYTES];
    struct epoch_slot *slot = NULL;
    int rc = 0;
    FUZZ_CHECK(epoch_enter(cache_epoch(walk->cache), &slot) == 0);
    for (uint64_t page = 0; rc == 0; page++) {
        rc = table_page_carry(walk->table, page, NULL);
    }
    epoch_leave(slot);
    FUZZ_CHECK(rc == PLEAT_ABSENT || (rc == PLEAT_ERR_CORRUPT && !walk->verified));
    (void)table_is_used(walk->table);
    for (uint32_t block = 0; block < walk->meta->blocks && block < 64; block++) {
        struct table_place place, found;
        FUZZ_CHECK(epoch_enter(cache_epoch(walk->cache), &slot) == 0);
        rc = table_block_place(walk->table, block, &place, NULL);
        FUZZ_CHECK(rc == 0 || (rc == PLEAT_ERR_CORRUPT && !walk->verified));
        if (rc == 0) {
            FUZZ_CHECK(place.block == block);
            size_t bytes = table_block_lower(walk->table, &place, lower);
            rc = table_block_carry(walk->table, &place, (uint8_t)(block & 3), NULL);
            FUZZ_CHECK(rc == 0 || (rc == PLEAT_ERR_CORRUPT && !walk->verified));
            rc = table_locate(walk->table, lower, bytes, &found, NULL);
            FUZZ_CHECK((rc == 0 && found.block == block) || (block == 0 && !walk->verified));
            table_locate_cached(walk->table, lower, bytes, &place);
            FUZZ_CHECK(place.node == NULL || (rc == 0 && place.block == found.block));
            table_prefetch_block(walk->table, block);
            table_block_drop(walk->table, block);
        }
        FUZZ_CHECK(table_block_place(walk->table, walk->meta->blocks, &place, NULL) == PLEAT_ABSENT);
        epoch_leave(slot);
    }
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
    check_seek(walk, key, below, forward);
    check_places(walk);
}

/* Parts are shown in order, and tile the file (M1). */
struct dump {
    uint64_t end;
    uint64_t sum;
};

static int dump_part(void *context, const struct table_part *part, const uint8_t *image) {
    struct dump *dump = context;
    FUZZ_CHECK_TEXT(part->offset == dump->end, "%s at %d, the one before ends at %d", part->what, (int)part->offset,
                    (int)dump->end);
    dump->end += part->stored_bytes;
    dump->sum += part->image_bytes > 0 ? image[part->image_bytes - 1] : 0;
    return 0;
}

static void check_file(const struct table_store *store, struct pleat_slice key) {
    struct table_meta meta;
    struct pleat_error err = {0};
    struct dump dump = {0};
    int dumped = table_dump(store, NUMBER, dump_part, &dump, NULL);
    int rc = table_meta_read(store, NUMBER, &meta, &err);
    FUZZ_CHECK(rc == 0 || rc == PLEAT_ERR_CORRUPT || rc == PLEAT_ERR_NEWER || rc == PLEAT_ERR_INVALID);
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
    FUZZ_CHECK(dumped < 0 || dump.end == meta.file_bytes);
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
        uint64_t hash = hash_key(key.data, key.bytes);
        (void)table_may_contain(table, hash, NULL);
        (void)table_get(table, key.data, key.bytes, hash, CACHE_GET, &entry, &frame, NULL);
        epoch_leave(slot);
    }
    (void)table_ask(table, hash_key(key.data, key.bytes), NULL);
    for (int way = 0; way < 2 && table_source_new(table, &all, &source, NULL) == 0; way++) {
        for (int i = 0; i < 40 && step(source, way == 0, i > 0) == 0; i++) {
        }
        source_free(source);
    }
}

/* Each allocation of a whole reading fails once: what had been begun is let go of. */
static void check_short_of_memory(const struct table_store *given, uint64_t cache_bytes, struct pleat_slice key) {
    struct failmem fail;
    uint64_t n = 0;
    do {
        struct table_store store = *given;
        struct table_meta meta;
        struct table_check check = {0};
        struct table *table = NULL;
        struct dump dump = {0};
        failmem_init(&fail);
        fail.fail_at = ++n;
        store.mem = &fail.mem;
        store.cache = NULL;
        if (cache_new(&fail.mem, cache_bytes, &store.cache, NULL) == 0) {
            (void)table_dump(&store, NUMBER, dump_part, &dump, NULL);
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
        file = build_file(&input, mode, &bytes);
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
    uint64_t cache_bytes = (mode & 16) != 0 ? CACHE_BYTES_SMALL : CACHE_BYTES;
    FUZZ_CHECK(cache_new(&memory.mem, cache_bytes, &cache, NULL) == 0);
    struct table_files files;
    FUZZ_CHECK(table_files_init(&files, 1) == 0);
    struct table_store store = {.vfs = &disk.vfs, .dir = fuzz_disk_dir(&disk), .mem = &memory.mem, .cache = cache,
                                .files = &files};
    memcpy(store.store_id, store_id, sizeof store.store_id);
    check_file(&store, key);
    cache_free(cache);
    if ((mode & 8) != 0) {
        check_short_of_memory(&store, cache_bytes, key);
    }
    table_files_fini(&files);
    FUZZ_CHECK(disk.open_handles == 0);
    fuzz_mem_fini(&memory);
    free(file);
    return 0;
}
