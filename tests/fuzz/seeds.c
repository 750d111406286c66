/*
 * seeds.c - writes inputs for fuzzing to begin with: `fuzz_seeds DIR` makes DIR/TARGET/seed-... for every target.
 *
 * Small real stores are written on the simulated disk, closed or left as a killed process leaves them, and taken
 * apart: whole stores, log segments, manifests, tables, and the parts of tables as table_dump shows them. The rest is
 * written by hand or drawn. The same program writes the same files.
 */
#include "db/db.h"
#include "fuzz/fuzz.h"
#include "fuzz/store_image.h"
#include "sstable/filter_internal.h"
#include "sstable/table_files.h"
#include "sstable/table_format.h"
#include "sstable/table_index.h"
#include "support/history.h"
#include "support/random.h"
#include "support/simfs.h"
#include "version/manifest.h"
#include "wal/wal_format.h"

#include <sys/stat.h>

static const char *directory;

struct bytes {
    uint8_t data[65536 * 4];
    size_t used;
};

static void bytes_add(struct bytes *bytes, const void *data, size_t n) {
    FUZZ_CHECK(n <= sizeof bytes->data - bytes->used);
    if (n > 0) {
        memcpy(bytes->data + bytes->used, data, n);
    }
    bytes->used += n;
}

static void bytes_u8(struct bytes *bytes, unsigned x) {
    uint8_t byte = (uint8_t)x;
    bytes_add(bytes, &byte, 1);
}

static void bytes_u16(struct bytes *bytes, size_t x) {
    uint8_t two[2];
    FUZZ_CHECK(x <= UINT16_MAX);
    store_u16(two, (uint16_t)x);
    bytes_add(bytes, two, 2);
}

static void seed_write(const char *target, const struct bytes *bytes) {
    static unsigned number;
    char path[600];
    (void)mkdir(directory, 0777);
    (void)snprintf(path, sizeof path, "%s/%s", directory, target);
    (void)mkdir(path, 0777);
    (void)snprintf(path, sizeof path, "%s/%s/seed-%04u", directory, target, number++);
    FILE *file = fopen(path, "wb");
    FUZZ_CHECK_TEXT(file != NULL, "%s", path);
    FUZZ_CHECK(fwrite(bytes->data, 1, bytes->used, file) == bytes->used && fclose(file) == 0);
}

/* `modes` and the data. */
static void seed_modes(const char *target, const char *modes, size_t modes_bytes, const void *data, size_t n) {
    static struct bytes bytes;
    bytes.used = 0;
    bytes_add(&bytes, modes, modes_bytes);
    bytes_add(&bytes, data, n);
    seed_write(target, &bytes);
}

/* ---- parts of tables -------------------------------------------------------------------------------------------- */

enum { PAGES_MAX = 64 };

struct seed_parts {
    const uint8_t *file;
    struct bytes blocks; /* as the target `table` takes them: u16 length and bytes each */
    struct bytes filter, properties, separators;
    struct bytes index_pages, filter_pages;
    size_t page_ends[PAGES_MAX]; /* in index_pages */
    unsigned pages;
    unsigned count;
    unsigned longest; /* image of a block */
    bool may_write;
};

/* A separator of a node, u8 length and bytes; one that is longer is cut. */
static void parts_separator(struct seed_parts *parts, const struct index_node *node, uint32_t i) {
    static uint8_t separator[LIMIT_KEY_BYTES];
    size_t n = index_node_separator_bytes(node, i);
    index_node_separator(node, i, separator);
    bytes_u8(&parts->separators, n < 255 ? (unsigned)n : 255);
    bytes_add(&parts->separators, separator, n < 255 ? n : 255);
}

/* The directory of the index, with each of its pages; and the separators of both floors. */
static void parts_index(struct seed_parts *parts, const uint8_t *image, size_t n) {
    static struct bytes bytes;
    size_t lists = TABLE_INDEX_STARTS + (size_t)load_u32(image + TABLE_INDEX_PAGES) * TABLE_INDEX_START;
    const struct index_node top = index_node_of(image + lists);
    seed_modes("index", "\4\1k", 3, image + lists, n - lists);
    for (unsigned page = 0; page < parts->pages; page++) {
        size_t begin = page > 0 ? parts->page_ends[page - 1] : 0, page_bytes = parts->page_ends[page] - begin;
        const struct index_node node = index_node_of(parts->index_pages.data + begin);
        for (uint32_t i = 0; i + 1 < node.count; i++) {
            parts_separator(parts, &node, i);
        }
        if (page + 1 < top.count) {
            parts_separator(parts, &top, page);
        }
        if (page == 0 || page + 1 == top.count) {
            seed_modes("index", "\4\1k", 3, parts->index_pages.data + begin, page_bytes);
            bytes.used = 0;
            bytes_add(&bytes, "\x15\1k", 3);
            bytes_u8(&bytes, page);
            bytes_add(&bytes, "\0\0\0", 3);
            bytes_u16(&bytes, n);
            bytes_add(&bytes, image, n);
            bytes_add(&bytes, parts->index_pages.data + begin, page_bytes);
            seed_write("index", &bytes);
        }
    }
}

static void parts_block(struct seed_parts *parts, const struct table_part *part, const uint8_t *image) {
    static struct bytes bytes;
    const uint8_t *stored = parts->file + part->offset;
    parts->longest = part->image_bytes > parts->longest ? (unsigned)part->image_bytes : parts->longest;
    bytes_u16(&parts->blocks, (size_t)part->image_bytes);
    bytes_add(&parts->blocks, image, (size_t)part->image_bytes);
    if (parts->count++ > 0 && !parts->may_write) {
        return;
    }
    seed_modes("block", "\0\1k", 3, image, (size_t)part->image_bytes);
    seed_modes("block", "\1\1k", 3, image, (size_t)part->image_bytes);
    if (stored[TABLE_HEADER_CODEC] == PLEAT_CODEC_LZ4) {
        bytes.used = 0;
        bytes_u16(&bytes, (size_t)part->image_bytes);
        bytes_add(&bytes, stored + TABLE_HEADER_BYTES, (size_t)part->stored_bytes - TABLE_HEADER_BYTES);
        seed_write("block_unpack", &bytes);
    }
}

static int parts_take(void *context, const struct table_part *part, const uint8_t *image) {
    struct seed_parts *parts = context;
    size_t n = (size_t)part->image_bytes;
    if (strcmp(part->what, "block") == 0) {
        parts_block(parts, part, image);
    } else if (strcmp(part->what, "index page") == 0 && parts->pages < PAGES_MAX) {
        bytes_add(&parts->index_pages, image, n);
        parts->page_ends[parts->pages++] = parts->index_pages.used;
    } else if (strcmp(part->what, "filter page") == 0) {
        bytes_add(&parts->filter_pages, image, n);
    } else if (strcmp(part->what, "index") == 0) {
        parts_index(parts, image, n);
    } else if (strcmp(part->what, "filter") == 0) {
        bytes_add(&parts->filter, image, n);
        seed_modes("filter", "\4", 1, image, n);
        bytes_add(&parts->filter, parts->filter_pages.data, parts->filter_pages.used);
        seed_modes("filter", "\2", 1, parts->filter.data, parts->filter.used);
    } else if (strcmp(part->what, "properties") == 0) {
        bytes_add(&parts->properties, image, n);
        seed_modes("table_parts", "\2", 1, image, n);
    } else if (strcmp(part->what, "footer") == 0) {
        seed_modes("table_parts", "\3", 1, image, n);
    }
    return 0;
}

/* Two changes (u8 piece, u16 place, u8 change each) to the file that is built around the parts and a filter. */
static void seed_table_damage(const struct seed_parts *parts, unsigned mode, unsigned page_bytes,
                              const struct bytes *separators, const struct bytes *filter, const uint8_t damage[8]) {
    static struct bytes whole;
    whole.used = 0;
    bytes_u8(&whole, mode);
    bytes_u8(&whole, parts->count - 1);
    bytes_u8(&whole, page_bytes);
    bytes_add(&whole, parts->blocks.data, parts->blocks.used);
    const struct bytes *rest[] = {separators, filter, &parts->properties};
    for (size_t i = 0; i < 3; i++) {
        bytes_u16(&whole, rest[i]->used);
        bytes_add(&whole, rest[i]->data, rest[i]->used);
    }
    bytes_u16(&whole, 8);
    bytes_add(&whole, damage, 8);
    seed_write("table", &whole);
}

/* A table with a filter of two parts, everything and a Bloom block that has all; and what may be wrong with such. */
static void seed_table_crafted(const struct seed_parts *parts) {
    static struct bytes filter, separators;
    uint8_t image[128] = {0};
    const struct filter_part all = {.data_at = 64, .shape = FILTER_SHAPE_EVERYTHING};
    const struct filter_part block = {.data_at = 64, .shape = FILTER_BLOOM_BLOCK_BYTES, .units = 1};
    store_u32(image, FILTER_BLOOM);
    store_u32(image + 4, 2);
    filter_part_store(image, 0, &all);
    filter_part_store(image, 1, &block);
    memset(image + 64, 0xff, 64);
    filter.used = separators.used = 0;
    bytes_add(&filter, image, sizeof image);
    uint8_t index_at = (uint8_t)((parts->count + 3) / 4 + 1), filter_at = (uint8_t)(index_at + 1); /* behind one page */
    const uint8_t part_at = FILTER_HEADER_BYTES + FILTER_PART_BYTES + 16;
    const uint8_t less = (uint8_t)(parts->longest ^ (parts->longest - 1));
    const uint8_t none[8] = {0xff}, stored[8] = {index_at, TABLE_INDEX_STORED_MAX, 0, less};
    const uint8_t longest[8] = {index_at, TABLE_INDEX_IMAGE_MAX, 0, less};
    const uint8_t units[8] = {filter_at, part_at, 0, FILTER_BLOOM_BLOCK_BYTES, filter_at, part_at + 4, 0, 1};
    seed_table_damage(parts, 1 | 4 | 32, 1, &parts->separators, &filter, none);
    seed_table_damage(parts, 1 | 4 | 16 | 32, 1, &parts->separators, &filter, none);
    seed_table_damage(parts, 1 | 4 | 32 | 64, 1, &parts->separators, &filter, none);
    seed_table_damage(parts, 1 | 4 | 32, 1, &parts->separators, &filter, stored);
    seed_table_damage(parts, 1 | 4 | 32, 1, &parts->separators, &filter, longest);
    seed_table_damage(parts, 1 | 4 | 32, 1, &parts->separators, &filter, units);
    bytes_add(&separators, "\1a\377", 3);
    for (unsigned i = 0; i < 255; i++) {
        bytes_u8(&separators, 'b');
    }
    seed_table_damage(parts, 1 | 4 | 32, 255, &separators, &filter, none); /* a page that is a long one */
}

static void seed_table(const struct table_store *store, uint64_t number, const uint8_t *file, size_t n) {
    static struct seed_parts parts;
    static struct bytes whole;
    memset(&parts, 0, sizeof parts);
    parts.file = file;
    FUZZ_CHECK(table_dump(store, number, parts_take, &parts, NULL) == 0);
    seed_modes("table", "\2", 1, file, n);
    seed_modes("table", "\x12", 1, file, n);
    if (parts.count > 32) {
        return;
    }
    struct bytes *rest[] = {&parts.separators, &parts.filter, &parts.properties};
    whole.used = 0;
    bytes_u8(&whole, 1 | 4);
    bytes_u8(&whole, parts.count - 1);
    bytes_u8(&whole, 1);
    bytes_add(&whole, parts.blocks.data, parts.blocks.used);
    for (size_t i = 0; i < 3; i++) {
        bytes_u16(&whole, rest[i]->used);
        bytes_add(&whole, rest[i]->data, rest[i]->used);
    }
    seed_write("table", &whole);
    if (parts.count > 8) {
        seed_table_crafted(&parts);
    }
}

/* ---- logs ------------------------------------------------------------------------------------------------------- */

static void seed_segment(const uint8_t *file, size_t n) {
    static struct bytes bytes;
    unsigned count = 0;
    seed_modes("wal_segment", "\1\0", 2, file, n);
    seed_modes("wal_segment", "\3\5", 2, file, n);
    for (size_t at = WAL_HEADER_BYTES; at + WAL_RECORD_HEADER_BYTES < n && count < 4; count++) {
        const uint8_t *record = file + at, *payload = record + WAL_RECORD_HEADER_BYTES;
        size_t record_bytes = (size_t)load_u32(record) * WAL_RECORD_ALIGNMENT, cursors_bytes = load_u32(record + 24);
        if (record_bytes < WAL_RECORD_HEADER_BYTES || record_bytes > n - at) {
            break;
        }
        size_t payload_bytes = record_bytes - WAL_RECORD_HEADER_BYTES - record[30];
        bytes.used = 0;
        bytes_u8(&bytes, load_u32(record + 4));
        bytes_u8(&bytes, load_u16(record + 28));
        bytes_u16(&bytes, payload_bytes - cursors_bytes);
        bytes_add(&bytes, payload, payload_bytes);
        seed_write("wal_view", &bytes);
        at += record_bytes;
    }
}

/* ---- manifests -------------------------------------------------------------------------------------------------- */

static void seed_manifest(const uint8_t *file, size_t n) {
    static struct bytes bytes;
    seed_modes("manifest", "\1", 1, file, n);
    bytes.used = 0;
    bytes_u8(&bytes, 2);
    for (size_t at = MANIFEST_HEADER_BYTES; at + MANIFEST_FRAME_BYTES <= n;) {
        size_t payload_bytes = load_u32(file + at);
        FUZZ_CHECK(payload_bytes <= n - at - MANIFEST_FRAME_BYTES);
        bytes_u16(&bytes, payload_bytes);
        bytes_add(&bytes, file + at + MANIFEST_FRAME_BYTES, payload_bytes);
        at += MANIFEST_FRAME_BYTES + payload_bytes;
    }
    seed_write("manifest", &bytes);
}

/* ---- stores ----------------------------------------------------------------------------------------------------- */

/* The files of the disk as one input, and (apart) each as an input of its own target. */
static void seed_store(struct simfs *fs, unsigned mode, bool apart) {
    static struct bytes image;
    char name[VFS_NAME_BYTES_MAX + 1];
    struct cache *cache = NULL;
    FUZZ_CHECK(cache_new(&mem_system, 1 << 20, &cache, NULL) == 0);
    struct table_files files;
    FUZZ_CHECK(table_files_init(&files, 2) == 0);
    struct table_store store = {.vfs = simfs_vfs(fs), .mem = &mem_system, .cache = cache, .files = &files};
    FUZZ_CHECK(store.vfs->dir_open(store.vfs, store.mem, "store", VFS_DIR_EXISTING, 0700, &store.dir, NULL) == 0);
    size_t n = 0;
    uint8_t *manifest = simfs_read_file(fs, "store", MANIFEST_NAME, &n);
    memcpy(store.store_id, manifest + 16, sizeof store.store_id);
    free(manifest);
    image.used = 0;
    bytes_u8(&image, mode);
    for (size_t i = 0; simfs_name_at(fs, "store", i, name); i++) {
        uint64_t number = 0;
        uint8_t *file = simfs_read_file(fs, "store", name, &n);
        unsigned kind = STORE_IMAGE_MANIFEST;
        if (wal_name_parse(name, &number)) {
            kind = STORE_IMAGE_SEGMENT;
            while (n > 0 && file[n - 1] == 0) {
                n--;
            }
            n = n < WAL_HEADER_BYTES ? WAL_HEADER_BYTES : (n + 7) / 8 * 8;
        } else if (table_name_parse(name, &number)) {
            kind = STORE_IMAGE_TABLE;
        }
        if (kind == STORE_IMAGE_MANIFEST && strcmp(name, MANIFEST_NAME) != 0) {
            free(file);
            continue;
        }
        bytes_u8(&image, kind);
        bytes_u8(&image, (unsigned)number);
        bytes_u16(&image, n);
        bytes_add(&image, file, n);
        if (apart && kind == STORE_IMAGE_SEGMENT) {
            seed_segment(file, n);
        } else if (apart && kind == STORE_IMAGE_TABLE) {
            seed_table(&store, number, file, n);
        } else if (apart) {
            seed_manifest(file, n);
        }
        free(file);
    }
    store.vfs->dir_close(store.dir);
    table_files_fini(&files);
    cache_free(cache);
    seed_write("store", &image);
}

enum { SHAPES_SMALL = 8, SHAPES = 12 };

/* Keys of table `shape`: short ones, ones that begin alike, and ones whose separators go beyond a node's heads. */
static size_t seed_key(unsigned shape, unsigned i, uint8_t *ret_key) {
    static const char *const begins[] = {"", "user.profile.", "a rather long beginning of all keys/"};
    unsigned high = i / 4, low = i % 4;
    if (shape >= SHAPES_SMALL) {
        return (size_t)snprintf((char *)ret_key, 64, "%03u", i);
    }
    int n = shape % 4 == 3 ? snprintf((char *)ret_key, 64, "%03u-0123456789-%u", high, low)
                           : snprintf((char *)ret_key, 64, "%s%05u", begins[shape % 4], i * 7);
    return (size_t)n;
}

static void seed_table_build(const struct table_store *store, unsigned shape, struct table_meta *ret_meta) {
    bool is_small = shape < SHAPES_SMALL;
    struct table_builder_options options = {
        .number = 1 + shape,
        .block_bytes = is_small ? 64u << (shape / 4 % 2) : 64,
        .codec = shape % 2 == 0 ? PLEAT_CODEC_LZ4 : PLEAT_CODEC_NONE,
        .filter = shape / 2 % 2 == 0 ? FILTER_FUSE : FILTER_BLOOM,
        .grouping = {.delimiters = shape == 1, .delimiter = '.'},
        .sequence_min = 1,
        .sequence_max = 9,
    };
    struct table_builder *builder;
    FUZZ_CHECK(table_builder_new(store, &options, &builder, NULL) == 0);
    unsigned keys = is_small ? 40 : 4 * options.block_bytes + 4; /* more than a part of the filter takes */
    for (unsigned i = 0; i < keys; i++) {
        uint8_t key[64];
        struct entry entry = {.key = key, .value = key, .value_bytes = is_small ? i % 5 : 0, .kind = ENTRY_PUT};
        entry.key_bytes = (uint32_t)seed_key(shape, i, key);
        FUZZ_CHECK(table_builder_add(builder, &entry, NULL) == 0);
    }
    FUZZ_CHECK(table_builder_finish(builder, ret_meta, NULL) == 0);
    table_builder_free(builder);
}

/* Tables with several pages of index and filter, which the small stores have not. */
static void seed_tables(void) {
    struct simfs *fs = simfs_new(1);
    struct cache *cache = NULL;
    FUZZ_CHECK(cache_new(&mem_system, 1 << 20, &cache, NULL) == 0);
    struct table_files files;
    FUZZ_CHECK(table_files_init(&files, 2) == 0);
    struct table_store store = {.vfs = simfs_vfs(fs), .mem = &mem_system, .cache = cache, .files = &files,
                                .store_id = "store of tables", .file_mode = 0600};
    FUZZ_CHECK(store.vfs->dir_open(store.vfs, store.mem, "store", VFS_DIR_CREATE, 0700, &store.dir, NULL) == 0);
    for (unsigned shape = 0; shape < SHAPES; shape++) {
        struct table_meta meta;
        char name[TABLE_NAME_BYTES];
        size_t n = 0;
        seed_table_build(&store, shape, &meta);
        table_name(meta.number, name);
        uint8_t *file = simfs_read_file(fs, "store", name, &n);
        seed_table(&store, meta.number, file, n);
        free(file);
        table_meta_fini(&mem_system, &meta);
    }
    store.vfs->dir_close(store.dir);
    table_files_fini(&files);
    cache_free(cache);
    simfs_free(fs);
}

/* A history under drawn limits, left as it is at the end (a killed process), or closed. */
static void seed_history(unsigned number) {
    struct random random = {number};
    struct history history = {.seed = number, .updates_max = 1 + number % 5, .value_bytes_max = 24, .clears = true};
    struct pleat_options options = {
        .size = sizeof options,
        .background = PLEAT_BACKGROUND_STEPS,
        .memtable_bytes = 1024 << (number % 3),
        .table_bytes = 1024 << (number % 2),
        .level_base_bytes = 1024,
        .level0_tables = 1 + number % 3,
        .cache_bytes = 65536,
    };
    struct simfs *fs = simfs_new(number);
    struct pleat_db *db;
    struct pleat_batch *batch;
    struct pleat_space *spaces[HISTORY_SPACES];
    FUZZ_CHECK(db_open_with("store", &options, simfs_vfs(fs), &mem_system, &db, NULL) == 0);
    FUZZ_CHECK(history_spaces(db, spaces, NULL) == 0 && pleat_batch_new(db, &batch, NULL) == 0);
    uint64_t operations = 4 + random_below(&random, 40);
    for (uint64_t n = 1; n <= operations; n++) {
        FUZZ_CHECK(history_apply(&history, n, db, spaces, batch, n % 5 == 0, NULL) == 0);
        for (uint64_t steps = random_below(&random, 3); steps > 0 && pleat_step(db, NULL) == 0; steps--) {
        }
    }
    struct simfs *killed = simfs_crash(fs, SIMFS_KILL, number);
    seed_store(killed, number % 4, number < 10);
    simfs_free(killed);
    pleat_batch_free(batch);
    FUZZ_CHECK(pleat_close(db, NULL) == 0);
    if (number % 3 == 0) {
        seed_store(fs, STORE_IMAGE_REPAIR, number < 6);
    }
    simfs_free(fs);
}

/* ---- by hand ---------------------------------------------------------------------------------------------------- */

static void seed_text(const char *target, const char *modes, size_t modes_bytes, const char *const *texts) {
    for (size_t i = 0; texts[i] != NULL; i++) {
        seed_modes(target, modes, modes_bytes, texts[i], strlen(texts[i]));
    }
}

static void seed_texts(void) {
    static const char *const escapes[] = {"plain", "a\\tb\\nc\\\\d\\0e", "\\", "\\x", "quote\" and \x7f\xff", NULL};
    static const char *const lines[] = {"put\tkey\tvalue\ndel\tkey\ncommit\tcursor\n",
                                        "put\t\\tkey\\0\t\ncommit\t\n",
                                        "put\tkey\n",
                                        "put\ta\tb\tc\n",
                                        "del\ta\\x\n",
                                        "commit\t12",
                                        "\n",
                                        NULL};
    static const char *const frames[] = {"+3,5:key->value\n-3:key\n=6:cursor\n",
                                         "+0,0:->\n=0:\n",
                                         "+3,5:key=>value\n",
                                         "-3:key",
                                         "=2000:c\n",
                                         "+99999999999999999999,1:k",
                                         "*1:k\n",
                                         "+1,268435456:k->v",
                                         NULL};
    static const char *const numbers[] = {"\x01",
                                          "\x7f\xff\xff\xff\xff\xff\xff\xff\xff\x01",
                                          "000123",
                                          "1234567",
                                          "\x31"
                                          "f\x08version8deadline",
                                          "\x05.a.b.c",
                                          NULL};
    seed_text("escape", "", 0, escapes);
    seed_text("stream_lines", "\0\0", 2, lines);
    seed_text("stream_lines", "\3\0", 2, lines);
    seed_text("stream_framed", "\0\0", 2, frames);
    seed_text("stream_framed", "\3\0", 2, frames);
    seed_text("varint", "", 0, numbers);
}

/* Fields of a manifest, as edit_codec.h has them. */
#define BOUND "\x02\x01\x64"
#define SPACE(id, name) "\x0e\x09" id "\x01\x80\x40\0\0\0\x01" name
#define TABLE(level, number, smallest, largest)                                                                        \
    "\x16\x1b\0" level number "\xe8\x07\x0a\0\x64\x01\x05\0\x01\x01\x01\x01"                                           \
    "12345678\x01" smallest "\x01" largest
#define CURSOR(name) "\x08\x04\x01" name "\0\0"
#define PAYLOAD(fields) "\2" fields

/* Each is wrong in one way only: what a reader that left out that one test would take. */
static void seed_crafted(void) {
    /* Entries behind an empty prefix; the target makes the offsets. */
    static const struct pleat_slice blocks[] = {
#define BLOCK(entries) {"\2\1a\0" entries, sizeof("\2\1a\0" entries) - 1}
        BLOCK("\1\1\0a\1\1\0b"),
        BLOCK("\1\1\0b\1\1\0a"),
        BLOCK("\1\1\0a\1\1\0a"),
        BLOCK("\1\2\0ab\1\1\0a"),
        BLOCK("\1\1\5ax"),
        BLOCK("\1\201\0\0a"),
        BLOCK("\1\1\200\0a"),
        BLOCK("\201\1\0a"),
        BLOCK("\3\1\0a"),
        BLOCK("\41\1\0\0a"),
        BLOCK("\101\1\0\0\0\0\0\0\0\0\0a"),
        BLOCK("\2\1a\1\1\0b"),
        BLOCK("\2\0\2\0"),
    };
    /* Three blocks, 34 bytes each, and two separators: prefix and tails, the prefix and the heads (the last byte is a
     * separator's first), offsets, the rest. Among them some that are right. */
    static const struct pleat_slice indexes[] = {
#define HEAD(a) "\0\0\0\0\0\0\0" a
#define P "p\0\0\0\0\0\0\0" /* a prefix of one byte */
#define NODE(counts, heads, offsets, rest)                                                                             \
    {"\4\1b" counts heads offsets "\12\0\0\0\12\0\0\0\12\0\0\0" rest,                                                 \
     sizeof("\4\1b" counts heads offsets "\12\0\0\0\12\0\0\0\12\0\0\0" rest) - 1}
#define COUNTS(prefix, tails) "\3\0\0\0" prefix "\0\0\0" tails "\0\0\0\0\0\0\0"
#define OFFSETS "\0\0\0\0\42\0\0\0\104\0\0\0"
#define PLAIN(heads, rest) NODE(COUNTS("\0", "\0"), heads, OFFSETS, rest)
        PLAIN(HEAD("\142") HEAD("\143"), "\1\0\1\0"),
        PLAIN(HEAD("\142") HEAD("\142"), "\1\0\1\0"),
        PLAIN(HEAD("\143") HEAD("\142"), "\1\0\1\0"),
        PLAIN(HEAD("\0") HEAD("\143"), "\0\0\1\0"),
        PLAIN("\1\0\0\0\0\0\0b" HEAD("\143"), "\1\0\1\0"),
        PLAIN(HEAD("\142") HEAD("\143"), "\1\0\11\0"),
        PLAIN(HEAD("\142") HEAD("\142"), "\1\0\2\0"),
        PLAIN(HEAD("\142") HEAD("\142"), "\2\0\1\0"),
        PLAIN("7654321b" "7654321b", "\10\0\10\0"),
        NODE(COUNTS("\1", "\0"), P HEAD("\142") HEAD("\143"), OFFSETS, "\2\0\2\0"),
        NODE(COUNTS("\1", "\0"), P HEAD("\142") "\0\0\0\0\0\0cb", OFFSETS, "\2\0\3\0"),
        NODE(COUNTS("\1", "\0"), P HEAD("\0") HEAD("\143"), OFFSETS, "\1\0\2\0"),
        NODE(COUNTS("\0", "\2"), "7654321b" "7654321c", OFFSETS, "\11\0\11\0\1\0\0\0\2\0\0\0xy"),
        NODE(COUNTS("\0", "\2"), "7654321b" "7654321c", OFFSETS, "\11\0\11\0\2\0\0\0\1\0\0\0xy"),
        NODE(COUNTS("\0", "\2"), "7654321b" "7654321c", OFFSETS, "\11\0\10\0\1\0\0\0\1\0\0\0xy"),
        NODE(COUNTS("\0", "\2"), "7654321b" "7654321c", OFFSETS, "\11\0\11\0\1\0\0\0\3\0\0\0xy"),
        NODE(COUNTS("\10", "\2"), "prefix..7654321b" "7654321b", OFFSETS, "\21\0\21\0\1\0\0\0\2\0\0\0xy"),
        NODE(COUNTS("\0", "\0"), HEAD("\142") HEAD("\143"), "\1\0\0\0\42\0\0\0\104\0\0\0", "\1\0\1\0"),
        NODE(COUNTS("\0", "\0"), HEAD("\142") HEAD("\143"), "\0\0\0\0\30\0\0\0\104\0\0\0", "\1\0\1\0"),
        NODE(COUNTS("\0", "\0"), HEAD("\142") HEAD("\143"), "\0\0\0\0\105\0\0\0\104\0\0\0", "\1\0\1\0"),
        {"\4\1b\3\0\0\0\0\0\0\0\0\0\0\0\1\0\0\0" HEAD("\142") HEAD("\143") OFFSETS
         "\12\0\0\0\12\0\0\0\12\0\0\0\1\0\1\0", 3 + 16 + 16 + 12 + 12 + 4},
        NODE(COUNTS("\1", "\0"), P HEAD("\0") HEAD("\0"), OFFSETS, "\1\0\1\0"),
        NODE(COUNTS("\1", "\0"), P HEAD("\1") HEAD("\143"), OFFSETS, "\1\0\2\0"),
        NODE(COUNTS("\1", "\0"), "p\0\0\0\0\0\0\1" HEAD("\142") HEAD("\143"), OFFSETS, "\2\0\2\0"),
        {"\4\1b\2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0" HEAD("\142") "\0\0\0\0\42\0\0\0\12\0\0\0\12\0\0\0\1\0",
         3 + 16 + 8 + 8 + 8 + 2},
        PLAIN(HEAD("\142") HEAD("\143"), "\1\0\1\0x"),
        PLAIN(HEAD("\142") HEAD("\143"), "\1\0\1"),
        {"\4\1b\4\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0" "7654321b" "7654321b" "7654321b" OFFSETS "\146\0\0\0"
         "\12\0\0\0\12\0\0\0\12\0\0\0\12\0\0\0\11\0\150\352\11\0\1\0\0\0\141\352\0\0\142\352\0\0xy",
         3 + 16 + 24 + 16 + 16 + 6 + 12 + 2},
        {"\4\1b\3\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0" HEAD("\142") HEAD("\143") OFFSETS
         "\12\0\0\0\0\0\0\0\12\0\0\0\1\0\1\0", 3 + 16 + 16 + 12 + 12 + 4},
        {"\4\1b\3\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0" HEAD("\142") HEAD("\143") OFFSETS
         "\12\0\0\0\70\12\0\0\12\0\0\0\1\0\1\0", 3 + 16 + 16 + 12 + 12 + 4},
        {"\44\1b\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\12\0\0\0", 3 + 16 + 8},
        {"\4\1b\1\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0" P "\0\0\0\0\12\0\0\0", 3 + 16 + 8 + 8},
        {"\4\1b\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0\12\0\0\0t", 3 + 16 + 8 + 1},
        {"\4\1b\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\12\0\0\0", 3 + 16 + 8},
        {"\2\1b\0\0\1a\5\0\1b\5\1\4cdef\7\2\1x\1\0\1c\0", 26},
    };
    static const struct pleat_slice manifests[] = {
#define MANIFEST(length, fields) {PAYLOAD(length "\0" fields), sizeof(PAYLOAD(length "\0" fields)) - 1}
        MANIFEST("\x48", BOUND SPACE("\0", "d") TABLE("\1", "\5", "a", "c") TABLE("\1", "\6", "d", "f")),
        MANIFEST("\x48", BOUND SPACE("\0", "d") TABLE("\1", "\5", "a", "c") TABLE("\1", "\6", "c", "f")),
        MANIFEST("\x48", BOUND SPACE("\0", "d") TABLE("\1", "\5", "a", "c") TABLE("\1", "\5", "d", "f")),
        MANIFEST("\x48", BOUND SPACE("\0", "d") TABLE("\0", "\5", "a", "c") TABLE("\0", "\6", "b", "f")),
        MANIFEST("\x2b", BOUND SPACE("\0", "d") TABLE("\1", "\5", "c", "a")),
        MANIFEST("\x2b", BOUND SPACE("\0", "d") TABLE("\1", "\x64", "a", "c")),
        MANIFEST("\x2b", BOUND SPACE("\1", "d") TABLE("\1", "\5", "a", "c")),
        MANIFEST("\x19", BOUND SPACE("\0", "d") SPACE("\1", "d")),
        MANIFEST("\x19", BOUND SPACE("\1", "d") SPACE("\0", "e")),
        MANIFEST("\x11", "\x06\x03\x05\x01\x02" CURSOR("a") CURSOR("b")),
        MANIFEST("\x11", "\x06\x03\x05\x01\x02" CURSOR("b") CURSOR("a")),
        MANIFEST("\x11", "\x06\x03\x05\x01\x02" CURSOR("a") CURSOR("a")),
        MANIFEST("\x11", "\x06\x03\x05\x01\x01" CURSOR("a") CURSOR("b")),
        MANIFEST("\x0b", "\x06\x03\x05\x01\x02" CURSOR("a")),
        MANIFEST("\x0a", "\x06\x03\x05\x02\0\x06\x03\x05\x01\0"),
    };
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) {
        seed_modes("block", "", 0, blocks[i].data, blocks[i].bytes);
    }
    for (size_t i = 0; i < sizeof indexes / sizeof indexes[0]; i++) {
        seed_modes("index", "", 0, indexes[i].data, indexes[i].bytes);
    }
    for (size_t i = 0; i < sizeof manifests / sizeof manifests[0]; i++) {
        seed_modes("manifest", "", 0, manifests[i].data, manifests[i].bytes);
    }
}

/* A change to the directory of an index or to a page of it. */
struct poke {
    unsigned piece; /* 0: nothing, 1: the directory, 2: the page, 3: the directory, with a page that has no place */
    size_t at;
    uint64_t value;
    unsigned bytes;
    unsigned page;
    unsigned mode;
};

enum { POKED_BLOCKS = 8, POKED_BLOCK_BYTES = 10, POKED_AT = POKED_BLOCKS * (TABLE_HEADER_BYTES + POKED_BLOCK_BYTES) };

/* An index in two pages, b | c | d | e || f | g | h, with a change. */
static void seed_directory(const struct poke *poke) {
    static struct bytes bytes;
    static const struct table_index_start more = {.offset = 7 * (POKED_AT / POKED_BLOCKS), .block = 7};
    const struct mem *mem = &mem_system;
    struct table_index_builder builder = {0};
    struct table_bytes top = {0};
    for (uint8_t block = 0; block < POKED_BLOCKS; block++) {
        uint8_t separator = 'a' + block;
        FUZZ_CHECK(block == 0 || table_index_add_separator(mem, &builder, &separator, 1, NULL) == 0);
        FUZZ_CHECK(table_index_add_block(mem, &builder, POKED_BLOCK_BYTES, POKED_BLOCK_BYTES, NULL) == 0);
    }
    FUZZ_CHECK(table_index_close(mem, &builder, NULL) == 0 && builder.pages == 2);
    uint32_t page_bytes = table_index_start_of(&builder, 0).image_bytes; /* of both */
    size_t end = POKED_AT + 2 * (TABLE_HEADER_BYTES + (size_t)page_bytes);
    FUZZ_CHECK(table_index_page_stored(mem, &builder, page_bytes, NULL) == 0);
    FUZZ_CHECK(table_index_page_stored(mem, &builder, page_bytes, NULL) == 0);
    FUZZ_CHECK(table_index_directory(mem, &builder, POKED_AT, end, &top, NULL) == 0);
    if (poke->piece == 3) {
        size_t blocks_at = TABLE_INDEX_STARTS + 2 * 8, node_at = blocks_at + 2 * 4;
        FUZZ_CHECK(table_bytes_reserve(mem, &top, TABLE_INDEX_START, NULL) == 0);
        memmove(top.data + node_at + TABLE_INDEX_START, top.data + node_at, top.bytes - node_at);
        memmove(top.data + blocks_at + 8, top.data + blocks_at, 2 * 4);
        store_u64(top.data + blocks_at, more.offset);
        store_u32(top.data + node_at + 8, more.block);
        top.bytes += TABLE_INDEX_START;
    }
    uint8_t *page = builder.images.data + (size_t)poke->page * page_bytes;
    for (unsigned byte = 0; byte < poke->bytes; byte++) {
        (poke->piece == 2 ? page : top.data)[poke->at + byte] = (uint8_t)(poke->value >> (8 * byte));
    }
    bytes.used = 0;
    bytes_u8(&bytes, poke->mode);
    bytes_add(&bytes, "\1b", 2);
    bytes_u8(&bytes, poke->page);
    bytes_u8(&bytes, POKED_BLOCKS);
    bytes_u16(&bytes, end);
    bytes_u16(&bytes, top.bytes);
    bytes_add(&bytes, top.data, top.bytes);
    bytes_add(&bytes, page, page_bytes);
    seed_write("index", &bytes);
    mem_free(mem, top.data);
    table_index_builder_fini(mem, &builder);
}

/* Each but the first two is wrong in one way only. */
static void seed_directories(void) {
    enum { TOP = TABLE_INDEX_STARTS + 2 * TABLE_INDEX_START, STARTS = TABLE_INDEX_STARTS + 2 * 8, AT = POKED_AT };
    static const struct poke pokes[] = {
        {0, 0, 0, 0, 0, 1},
        {0, 0, 0, 0, 1, 1},
        {1, TABLE_INDEX_PAGES, 0, 4, 0, 1},
        {1, TABLE_INDEX_PAGES, 1, 4, 0, 1},
        {1, TABLE_INDEX_PAGES, UINT32_MAX, 4, 0, 1},
        {1, TABLE_INDEX_ZERO, 1, 4, 0, 1},
        {1, TABLE_INDEX_PAGES_AT, AT + 1, 8, 0, 1},
        {1, TABLE_INDEX_PAGES_AT, 10000, 8, 0, 1},
        {1, TABLE_INDEX_PAGES_END, 10000, 8, 0, 1},
        {1, TABLE_INDEX_STORED_MAX, 0, 4, 0, 1},
        {1, TABLE_INDEX_STORED_MAX, 9, 4, 0, 1},
        {1, TABLE_INDEX_STORED_MAX, AT - TABLE_HEADER_BYTES + 1, 4, 0, 1},
        {1, TABLE_INDEX_IMAGE_MAX, 0, 4, 0, 1},
        {1, TABLE_INDEX_IMAGE_MAX, 9, 4, 0, 1},
        {1, TABLE_INDEX_IMAGE_MAX, POKED_BLOCK_BYTES * 255 + 65, 4, 0, 1},
        {1, TABLE_INDEX_STARTS, 1, 8, 0, 1},
        {1, TABLE_INDEX_STARTS + 8, 0, 8, 0, 1},
        {1, TABLE_INDEX_STARTS + 8, AT, 8, 0, 1},
        {1, STARTS, 1, 4, 0, 1},
        {1, STARTS + 4, 0, 4, 0, 1},
        {1, STARTS + 4, 8, 4, 0, 1},
        {1, STARTS + 4, 3, 4, 0, 1},
        {1, STARTS + 4, 0x10000000, 4, 0, 5},
        {1, TOP + INDEX_NODE_COUNT, 3, 4, 0, 1},
        {3, TABLE_INDEX_PAGES, 3, 4, 0, 1},
        {2, INDEX_NODE_STRINGS + 7, 'e', 1, 1, 1},      /* f: as the one in front of the page */
        {2, INDEX_NODE_STRINGS + 7, 'a', 1, 1, 1},
        {2, INDEX_NODE_STRINGS + 2 * 8 + 7, 'e', 1, 0, 1}, /* d: as the one behind it */
        {2, INDEX_NODE_STRINGS + 2 * 8 + 7, 'z', 1, 0, 1},
    };
    for (size_t i = 0; i < sizeof pokes / sizeof pokes[0]; i++) {
        seed_directory(&pokes[i]);
    }
}

/* Filters which but for the first four are wrong in one way only; and their directories alone. */
static void seed_filters(void) {
    static const struct {
        uint32_t kind, parts, shape, units;
        uint64_t data_at;
        size_t bytes; /* of the image */
    } filters[] = {
        {FILTER_BLOOM, 1, 64, 3, 64, 64 + 3 * 64},
        {FILTER_FUSE, 1, 32, 4, 64, 64 + 6 * 32},
        {FILTER_FUSE, 1, FILTER_SHAPE_EVERYTHING, 0, 64, 64},
        {FILTER_FUSE, 2, FILTER_SHAPE_NOTHING, 0, 64, 64},
        {FILTER_FUSE, 1, 2, 0, 64, 64},
        {FILTER_FUSE + 1, 1, 4, 100, 64, 64 + 448},
        {FILTER_FUSE, 0, 0, 0, 64, 64},
        {FILTER_FUSE, 3, FILTER_SHAPE_NOTHING, 0, 128, 64},
        {FILTER_BLOOM, 1, 64, 3, 128, 64 + 3 * 64},
        {FILTER_BLOOM, 1, 64, 3, 64, 64 + 2 * 64},
        {FILTER_BLOOM, 1, 64, 3, 64, 64 + 4 * 64},
        {FILTER_BLOOM, 1, 32, 6, 64, 64 + 6 * 64},
        {FILTER_BLOOM, 1, 64, 1u << 26, 64, 64},
        {FILTER_FUSE, 1, 48, 2, 64, 64 + 4 * 48},
        {FILTER_FUSE, 1, 2, 30, 64, 64 + 64},
        {FILTER_FUSE, 1, FILTER_FUSE_SEGMENT_BYTES_MAX * 2, 1, 64, 64},
        {FILTER_FUSE, 1, FILTER_FUSE_SEGMENT_BYTES_MAX, 1u << 14, 64, 64},
        {FILTER_FUSE, 1, FILTER_SHAPE_NOTHING, 0, 64, 40},
        {FILTER_FUSE, 1, FILTER_SHAPE_NOTHING, 0, 64, 15},
    };
    for (size_t i = 0; i < sizeof filters / sizeof filters[0]; i++) {
        static uint8_t image[4096];
        struct filter_part part = {.data_at = filters[i].data_at, .shape = filters[i].shape, .units = filters[i].units};
        memset(image, 0, sizeof image);
        store_u32(image, filters[i].kind);
        store_u32(image + 4, filters[i].parts);
        for (uint32_t at = 0; at < filters[i].parts && at < 2; at++) {
            filter_part_store(image, at, &part);
        }
        seed_modes("filter", "\0", 1, image, filters[i].bytes);
        seed_modes("filter", "\4", 1, image, filters[i].bytes);
    }
}

static void seed_drawn(void) {
    static struct bytes bytes;
    for (unsigned i = 0; i < 24; i++) {
        struct random random = {i};
        bytes.used = 0;
        for (size_t n = 60 + 40 * (size_t)i; n > 0; n--) {
            bytes_u8(&bytes, (unsigned)random_below(&random, 256));
        }
        seed_write("api", &bytes);
        bytes.data[0] = i % 2 == 0 ? 3 : 1;
        seed_write(i % 2 == 0 ? "block" : "filter", &bytes);
    }
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "fuzz_seeds DIR\n");
        return 2;
    }
    directory = argv[1];
    for (unsigned number = 0; number < 24; number++) {
        seed_history(number);
    }
    seed_tables();
    seed_texts();
    seed_crafted();
    seed_directories();
    seed_filters();
    seed_drawn();
    return 0;
}
