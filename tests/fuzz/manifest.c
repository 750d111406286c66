/*
 * manifest.c - fuzzes the MANIFEST: its frames, the edits in them, and replay of the whole.
 *
 *     byte 0   bit 0: repair the checksums   bit 1: frames around payloads (u16 length and bytes each), else the file
 *
 * What opens is a version that holds its invariants; it has the cursors that the last position announced, each under a
 * name of its own; dumped, it shows no damage; written as one state and read back, it is the same.
 */
#include "fuzz/fuzz.h"
#include "fuzz/repair.h"
#include "version/edit_codec.h"
#include "version/manifest.h"
#include "version/registry_internal.h"

#include <stdlib.h>

/* A file of one frame a payload, with a header of its own. */
static uint8_t *frame_payloads(struct fuzz_input *input, size_t *ret_bytes) {
    uint8_t *file = fuzz_copy(NULL, 0, MANIFEST_HEADER_BYTES + fuzz_left(input) * (MANIFEST_FRAME_BYTES + 1) + 64);
    size_t bytes = MANIFEST_HEADER_BYTES;
    memcpy(file, "PLEATMNF\1\0\0\0\0\0\0\0store of fuzzing\1\0\0\0\0\0\0\0saltsalt", 48);
    do {
        struct pleat_slice payload = fuzz_slice(input, fuzz_u16(input));
        store_u32(file + bytes, (uint32_t)payload.bytes);
        bytes += MANIFEST_FRAME_BYTES;
        if (payload.bytes > 0) {
            memcpy(file + bytes, payload.data, payload.bytes);
        }
        bytes += payload.bytes;
    } while (fuzz_left(input) > 0);
    repair_manifest(file, bytes, NULL, NULL);
    *ret_bytes = bytes;
    return file;
}

static int dump_frame(void *context, uint64_t offset, uint64_t bytes, const char *text) {
    (void)offset, (void)bytes;
    *(size_t *)context += strlen(text);
    return 0;
}

static void ignore_version(void *context, struct version *version) {
    (void)context, (void)version;
}

static int open_manifest(struct fuzz_disk *disk, const struct mem *mem, struct registry **ret_registry,
                         struct pleat_error *err) {
    struct registry_options options = {
        .store = {.vfs = &disk->vfs, .dir = fuzz_disk_dir(disk), .mem = mem, .file_mode = 0600},
        .read_only = true,
        .rewrite_bytes_min = 65536,
        .table_files_max = 1,
        .on_version = ignore_version,
    };
    return registry_open(&options, ret_registry, err);
}

/* The registry's state as the payload of a frame 0, in the test's own memory. */
static struct edit_encoder encode(struct registry *registry) {
    struct edit_encoder encoder;
    edit_encoder_init(&encoder, &mem_system);
    edit_encode_state(&encoder, registry->current, &registry->facts, &registry->cursors);
    FUZZ_CHECK(edit_encoder_verify(&encoder, NULL) == 0);
    return encoder;
}

static void check_round_trip(struct registry *registry, const struct mem *mem) {
    struct edit_encoder first = encode(registry);
    size_t bytes = MANIFEST_HEADER_BYTES + MANIFEST_FRAME_BYTES + first.used;
    uint8_t *file = fuzz_copy(NULL, 0, bytes);
    memcpy(file, "PLEATMNF\1\0\0\0\0\0\0\0store of fuzzing\2\0\0\0\0\0\0\0saltsalt", 48);
    store_u32(file + MANIFEST_HEADER_BYTES, (uint32_t)first.used);
    memcpy(file + MANIFEST_HEADER_BYTES + MANIFEST_FRAME_BYTES, first.bytes, first.used);
    repair_manifest(file, bytes, NULL, NULL);
    struct fuzz_disk disk;
    struct registry *again = NULL;
    struct pleat_error err = {0};
    fuzz_disk_init(&disk);
    fuzz_disk_put(&disk, MANIFEST_NAME, file, bytes);
    FUZZ_CHECK_TEXT(open_manifest(&disk, mem, &again, &err) == 0, "%s", err.message);
    struct edit_encoder second = encode(again);
    FUZZ_CHECK(first.used == second.used && memcmp(first.bytes, second.bytes, first.used) == 0);
    registry_free(again);
    edit_encoder_fini(&first);
    edit_encoder_fini(&second);
    free(file);
}

/* The fields once more, without replay.c: what opens has announced as many cursors as it has, in ascending order. */
static void check_cursors(const struct table_store *store, const struct cursor_set *cursors) {
    struct manifest_reader reader;
    struct edit_decoder decoder;
    struct edit_field field;
    const uint8_t *payload;
    size_t bytes;
    uint64_t offset, announced = 0;
    FUZZ_CHECK(manifest_reader_open(store, &reader, NULL) == 0);
    while (manifest_reader_next(&reader, &payload, &bytes, &offset, NULL) == 0) {
        edit_decoder_init(&decoder, payload, bytes, offset);
        while (edit_decoder_next(&decoder, &field, NULL) == 0) {
            announced = field.tag == FIELD_POSITION ? field.values[2] : announced;
        }
    }
    manifest_reader_close(&reader);
    FUZZ_CHECK_TEXT(cursors->count == announced, "%zu cursors, %zu announced", cursors->count, (size_t)announced);
    for (size_t i = 1; i < cursors->count; i++) {
        const struct cursor_entry *a = &cursors->entries[i - 1], *b = &cursors->entries[i];
        FUZZ_CHECK(
            fuzz_order((struct pleat_slice){a->name, a->name_bytes}, (struct pleat_slice){b->name, b->name_bytes}) < 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fuzz_input input = {data, data + size};
    uint8_t mode = fuzz_u8(&input);
    size_t bytes = 0, text_bytes = 0;
    uint8_t *file = NULL;
    if ((mode & 2) != 0) {
        file = frame_payloads(&input, &bytes);
    } else {
        struct pleat_slice rest = fuzz_rest(&input);
        bytes = rest.bytes;
        file = fuzz_copy(rest.data, bytes, 0);
        if ((mode & 1) != 0) {
            repair_manifest(file, bytes, NULL, NULL);
        }
    }
    struct fuzz_disk disk;
    struct fuzz_mem memory;
    fuzz_disk_init(&disk);
    fuzz_disk_put(&disk, MANIFEST_NAME, file, bytes);
    fuzz_mem_init(&memory, bytes, 1024,
                  1 << 20); /* a version has room for all slots; a space takes 1 KiB for 14 bytes */
    struct table_store store = {.vfs = &disk.vfs, .dir = fuzz_disk_dir(&disk), .mem = &memory.mem};
    struct registry *registry = NULL;
    struct pleat_error err = {0};
    int dumped = manifest_dump(&store, dump_frame, &text_bytes, NULL);
    int rc = open_manifest(&disk, &memory.mem, &registry, &err);
    FUZZ_CHECK(rc == 0 || rc == PLEAT_ERR_CORRUPT || rc == PLEAT_ERR_NEWER);
    FUZZ_CHECK(rc == 0 || err.message[0] != '\0');
    if (rc == 0) {
        FUZZ_CHECK(dumped == 0 && text_bytes > 0);
        FUZZ_CHECK(version_check(registry->current));
        check_cursors(&store, &registry->cursors);
        check_round_trip(registry, &memory.mem);
        registry_free(registry);
    }
    FUZZ_CHECK(disk.open_handles == 0);
    fuzz_mem_fini(&memory);
    free(file);
    return 0;
}
