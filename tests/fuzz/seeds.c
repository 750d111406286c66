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
#include "sstable/table_format.h"
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

struct parts {
    const uint8_t *file;
    struct bytes blocks; /* as the target `table` takes them: u16 length and bytes each */
    struct bytes filter, properties, separators;
    unsigned count;
    bool may_write;
};

/* The separators of an index image, u8 length and bytes each; those that are longer are cut. */
static void parts_separators(struct parts *parts, const uint8_t *image) {
    uint32_t blocks = load_u32(image + TABLE_INDEX_BLOCKS);
    const uint8_t *lengths = image + TABLE_INDEX_HANDLES + (size_t)blocks * TABLE_INDEX_HANDLE;
    const uint8_t *separator = lengths + ((size_t)blocks - 1) * 2;
    for (uint32_t i = 0; i + 1 < blocks; i++) {
        size_t n = load_u16(lengths + (size_t)i * 2);
        bytes_u8(&parts->separators, n < 255 ? (unsigned)n : 255);
        bytes_add(&parts->separators, separator, n < 255 ? n : 255);
        separator += n;
    }
}

static void parts_block(struct parts *parts, const struct table_part *part, const uint8_t *image) {
    static struct bytes bytes;
    const uint8_t *stored = parts->file + part->offset;
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
    struct parts *parts = context;
    size_t n = (size_t)part->image_bytes;
    if (strcmp(part->what, "block") == 0) {
        parts_block(parts, part, image);
    } else if (strcmp(part->what, "index") == 0) {
        parts_separators(parts, image);
        seed_modes("index", "\7\1k", 3, image, n);
    } else if (strcmp(part->what, "filter") == 0) {
        bytes_add(&parts->filter, image, n);
        seed_modes("filter", "\2", 1, image, n);
    } else if (strcmp(part->what, "properties") == 0) {
        bytes_add(&parts->properties, image, n);
        seed_modes("table_parts", "\2", 1, image, n);
    } else {
        seed_modes("table_parts", "\3", 1, image, n);
    }
    return 0;
}

static void seed_table(const struct table_store *store, uint64_t number, const uint8_t *file, size_t n) {
    static struct parts parts;
    static struct bytes whole;
    memset(&parts, 0, sizeof parts);
    parts.file = file;
    FUZZ_CHECK(table_dump(store, number, parts_take, &parts, NULL) == 0);
    seed_modes("table", "\2", 1, file, n);
    if (parts.count > 16) {
        return;
    }
    whole.used = 0;
    bytes_u8(&whole, 1 | 4);
    bytes_u8(&whole, parts.count - 1);
    bytes_add(&whole, parts.blocks.data, parts.blocks.used);
    struct bytes *rest[] = {&parts.separators, &parts.filter, &parts.properties};
    for (size_t i = 0; i < 3; i++) {
        bytes_u16(&whole, rest[i]->used);
        bytes_add(&whole, rest[i]->data, rest[i]->used);
    }
    seed_write("table", &whole);
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
    struct table_store store = {.vfs = simfs_vfs(fs), .mem = &mem_system, .cache = cache};
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
    cache_free(cache);
    seed_write("store", &image);
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
    /* Three blocks and two separators. */
    static const struct pleat_slice indexes[] = {
#define HANDLE "\12\0\0\0\12\0\0\0"
#define INDEX(lengths, separators)                                                                                     \
    {"\7\1b\3\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0" HANDLE HANDLE HANDLE lengths separators,                                  \
     sizeof("\7\1b\3\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0" HANDLE HANDLE HANDLE lengths separators) - 1}
        INDEX("\1\0\1\0", "bc"), INDEX("\1\0\1\0", "bb"),  INDEX("\1\0\1\0", "cb"), INDEX("\2\0\1\0", "bcb"),
        INDEX("\0\0\1\0", "b"),  INDEX("\1\0\1\0", "bcd"), INDEX("\1\0\2\0", "bc"), INDEX("\1\0\2\0", "bba"),
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
    seed_texts();
    seed_crafted();
    seed_drawn();
    return 0;
}
