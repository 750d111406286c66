/*
 * dump.c - `pleat dump`: any file of a store as text, with offsets. For those who read docs/format.md beside it.
 *
 * Works on files that the store itself refuses: the identity that checksums are keyed by is taken from the file that is
 * dumped, and what can be shown is shown up to the damage.
 */
#include "args.h"
#include "escape.h"

#include "base/bytes.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "cache/cache.h"
#include "sstable/block.h"
#include "sstable/table.h"
#include "sstable/table_files.h"
#include "sstable/table_format.h"
#include "version/manifest.h"
#include "wal/wal.h"
#include "wal/wal_format.h"

#include <inttypes.h>
#include <string.h>

struct dump {
    struct table_store store;
    struct table_files files;
    const char *file;
    bool entries;
    uint8_t *key_buffer; /* LIMIT_KEY_BYTES and what block reads may touch beyond */
    uint8_t manifest_id[TABLE_STORE_ID_BYTES];
    bool manifest_known;
};

static void id_print(const char *what, const uint8_t *id) {
    printf("%s ", what);
    for (unsigned i = 0; i < TABLE_STORE_ID_BYTES; i++) {
        printf("%02x", id[i]);
    }
}

/* Reads up to `n` bytes at `offset` (from the end when negative) into `bytes`: 0, 1 when the file is too short. */
static int file_peek(const struct dump *dump, const char *name, int64_t offset, uint8_t *bytes, size_t n,
                     struct pleat_error *err) {
    const struct vfs *vfs = dump->store.vfs;
    struct vfs_file *file;
    uint64_t size;
    int rc = vfs->file_open(dump->store.dir, name, VFS_FILE_READ, 0, &file, err);
    if (rc < 0) {
        return rc;
    }
    rc = vfs->file_size(file, &size, err);
    if (rc == 0) {
        uint64_t at = offset >= 0 ? (uint64_t)offset : size - (uint64_t)-offset;
        rc = size < n || at > size - n ? 1 : vfs->file_read(file, at, bytes, n, err);
    }
    vfs->file_close(file);
    return rc;
}

/* The store id of the file that is dumped, for its checksums; says when the manifest has another. */
static int identity_take(struct dump *dump, int64_t offset, struct pleat_error *err) {
    int rc = file_peek(dump, dump->file, offset, dump->store.store_id, TABLE_STORE_ID_BYTES, err);
    if (rc > 0) {
        return error_set(err, PLEAT_ERR_CORRUPT, 0, "%s: damaged at offset 0: too short for a store id", dump->file);
    }
    if (rc == 0 && dump->manifest_known && memcmp(dump->manifest_id, dump->store.store_id, TABLE_STORE_ID_BYTES) != 0) {
        id_print("of another store than MANIFEST: ", dump->store.store_id);
        putchar('\n');
    }
    return rc;
}

/* ---- entries ---------------------------------------------------------------------------------------------------- */

static void entry_print(const struct entry *entry) {
    fputs(entry->kind == ENTRY_PUT ? "put " : "del ", stdout);
    escape_print(stdout, (struct pleat_slice){entry->key, entry->key_bytes});
    if (entry->kind == ENTRY_PUT) {
        printf("  value %" PRIu32 " bytes", entry->value_bytes);
    }
    if (entry->version_bytes > 0) {
        fputs("  version ", stdout);
        for (unsigned i = 0; i < entry->version_bytes; i++) {
            printf("%02x", entry->version[i]);
        }
    }
    if (entry->has_flag) {
        printf("  flag %02x", entry->flag);
    }
    if (entry->deadline_ms != 0) {
        printf("  deadline %" PRIu64 " ms", entry->deadline_ms);
    }
    putchar('\n');
}

/* ---- MANIFEST --------------------------------------------------------------------------------------------------- */

static int manifest_part(void *context, uint64_t offset, uint64_t bytes, const char *text) {
    (void)context;
    printf("%10" PRIu64 " %8" PRIu64 "  %s", offset, bytes, text);
    return 0;
}

static int dump_manifest(struct dump *dump, struct pleat_error *err) {
    uint8_t header[MANIFEST_HEADER_BYTES];
    if (file_peek(dump, MANIFEST_NAME, 0, header, sizeof header, err) == 0) {
        printf("%10u %8u  header: format %" PRIu32 ", incarnation %" PRIu64 ", ", 0u, MANIFEST_HEADER_BYTES,
               load_u32(header + 8), load_u64(header + 32));
        id_print("store", header + 16);
        putchar('\n');
    }
    return manifest_dump(&dump->store, manifest_part, dump, err);
}

/* ---- tables ----------------------------------------------------------------------------------------------------- */

static int table_part_print(void *context, const struct table_part *part, const uint8_t *image) {
    struct dump *dump = context;
    bool is_block = strcmp(part->what, "block") == 0;
    printf("%10" PRIu64 " %8" PRIu64 "  %-10s image %" PRIu64 " bytes, checksum %016" PRIx64, part->offset,
           part->stored_bytes, part->what, part->image_bytes, part->checksum);
    if (is_block) {
        printf(", %" PRIu32 " entries", part->entries);
    }
    putchar('\n');
    for (uint32_t i = 0; is_block && dump->entries && i < part->entries; i++) {
        struct entry entry;
        block_entry(image, i, dump->key_buffer, false, &entry);
        fputs("                       ", stdout);
        entry_print(&entry);
    }
    return 0;
}

static int dump_table(struct dump *dump, uint64_t number, struct pleat_error *err) {
    struct table_meta meta;
    int rc = identity_take(dump, TABLE_FOOTER_STORE - (int64_t)TABLE_FOOTER_BYTES, err);
    rc = rc == 0 ? table_meta_read(&dump->store, number, &meta, err) : rc;
    if (rc < 0) {
        return rc;
    }
    printf("table %" PRIu64 ": %" PRIu64 " bytes, %" PRIu32 " blocks, %" PRIu64 " entries, %" PRIu64
           " tombstones, sequences %" PRIu64 " to %" PRIu64 "\n",
           number, meta.file_bytes, meta.blocks, meta.entries, meta.tombstones, meta.sequence_min, meta.sequence_max);
    fputs("smallest ", stdout);
    escape_print(stdout, (struct pleat_slice){meta.smallest, meta.smallest_bytes});
    fputs("\nlargest  ", stdout);
    escape_print(stdout, (struct pleat_slice){meta.largest, meta.largest_bytes});
    fputs("\n    offset    bytes  part\n", stdout);
    table_meta_fini(&mem_system, &meta);
    return table_dump(&dump->store, number, table_part_print, dump, err);
}

/* ---- log segments ----------------------------------------------------------------------------------------------- */

static int record_print(const struct dump *dump, struct wal_view view, uint64_t offset, uint64_t bytes) {
    printf("%10" PRIu64 " %8" PRIu64 "  sequence %" PRIu64 ": %" PRIu32 " entries, %" PRIu32
           " cursors, durable %" PRIu64 "\n",
           offset, bytes, view.sequence, view.entry_count, view.cursor_count, view.durable_sequence);
    struct wal_cursor cursor;
    struct entry entry;
    uint32_t space;
    int rc;
    while ((rc = wal_view_cursor(&view, &cursor)) == 0) {
        fputs("                       cursor \"", stdout);
        escape_print(stdout, (struct pleat_slice){cursor.name, cursor.name_bytes});
        fputs(cursor.removes ? "\" removed" : "\" = ", stdout);
        escape_print(stdout, (struct pleat_slice){cursor.value, cursor.value_bytes});
        putchar('\n');
    }
    while (rc == PLEAT_END && dump->entries && (rc = wal_view_entry(&view, &space, &entry)) == 0) {
        printf("                       space %" PRIu32 " ", space);
        entry_print(&entry);
        rc = PLEAT_END;
    }
    return rc < 0 ? rc : 0;
}

static int log_records_print(struct dump *dump, struct wal_reader *reader, struct pleat_error *err) {
    struct wal_view view;
    struct wal_end end;
    uint64_t offset = WAL_HEADER_BYTES;
    int rc;
    /* With this floor a segment that begins anywhere, or jumps over what was flushed, is read to its end. */
    while ((rc = wal_reader_next(reader, UINT64_MAX - 1, &view, err)) == 0) {
        uint64_t bytes = WAL_RECORD_HEADER_BYTES + (uint64_t)(view.entries_end - view.entries) +
                         (uint64_t)(view.cursors_end - view.cursors);
        bytes = (bytes + WAL_RECORD_ALIGNMENT - 1) / WAL_RECORD_ALIGNMENT * WAL_RECORD_ALIGNMENT;
        rc = record_print(dump, view, offset, bytes);
        if (rc < 0) {
            return error_set(err, rc, 0, "%s: damaged at offset %" PRIu64 ": the record does not decode", dump->file,
                             offset);
        }
        offset += bytes;
    }
    rc = rc == PLEAT_END ? wal_reader_end(reader, &end, err) : rc;
    if (rc == 0) {
        printf("%10" PRIu64 "           end behind sequence %" PRIu64 ", running hash %016" PRIx64 "%s%s\n", end.offset,
               end.tail.last_sequence, end.tail.running_hash, end.torn ? "; bytes that are no record follow" : "",
               end.record_behind ? "; a valid record of a later sequence follows them" : "");
    }
    return rc;
}

static int dump_log(struct dump *dump, uint64_t segment, struct pleat_error *err) {
    struct wal_reader *reader;
    int rc = identity_take(dump, WAL_AT_STORE_ID, err);
    rc = rc == 0 ? wal_reader_open(dump->store.vfs, dump->store.dir, &mem_system, dump->store.store_id, segment,
                                   &reader, err)
                 : rc;
    if (rc == PLEAT_END) {
        uint64_t durable = 0;
        bool any = false;
        rc = wal_segment_probe(dump->store.vfs, dump->store.dir, &mem_system, dump->store.store_id, segment, &durable,
                               &any, err);
        if (rc == 0) {
            printf("no header: %s\n", any ? "it is lost; valid records stand behind it"
                                          : "made ahead, or created and never synced; it holds nothing");
        }
        return rc;
    }
    if (rc != 0) {
        return rc;
    }
    const struct wal_header *header = wal_reader_header(reader);
    printf("segment %" PRIu64 ": from sequence %" PRIu64, header->segment, header->first_sequence);
    if (header->predecessor.segment != 0) {
        printf(", behind segment %" PRIu64 " that ends at sequence %" PRIu64 " with running hash %016" PRIx64,
               header->predecessor.segment, header->predecessor.last_sequence, header->predecessor.running_hash);
    }
    if (header->edition.incarnation != 0) {
        printf(", created at edition %" PRIu64 ".%" PRIu64 " of MANIFEST", header->edition.incarnation,
               header->edition.frames);
    }
    fputs("\n    offset    bytes  record\n         0      160  header and marks\n", stdout);
    rc = log_records_print(dump, reader, err);
    wal_reader_close(reader);
    return rc;
}

/* ---- the command ------------------------------------------------------------------------------------------------ */

static int dump_lock(struct dump *dump, struct pleat_error *err) {
    uint8_t text[12];
    int rc = file_peek(dump, dump->file, 0, text, sizeof text, err);
    if (rc < 0) {
        return rc;
    }
    size_t digits = 0;
    while (rc == 0 && digits < sizeof text && text[digits] >= '0' && text[digits] <= '9') {
        digits++;
    }
    if (digits > 0) {
        printf("         0       12  last held by process %.*s and not given up by it\n", (int)digits, (char *)text);
    } else {
        puts("given up by its last holder");
    }
    for (int64_t at = 16; rc >= 0 && at < 64; at += 24) { /* docs/format.md; the check is not looked at */
        uint8_t note[24];
        rc = file_peek(dump, dump->file, at, note, sizeof note, err);
        if (rc == 0 && load_u64(note) != 0) {
            printf("%10" PRId64 "       24  noted: MANIFEST at edition %" PRIu64 ".%" PRIu64 "\n", at, load_u64(note),
                   load_u64(note + 8));
        }
    }
    return rc < 0 ? rc : 0;
}

static int dump_file(struct dump *dump, struct pleat_error *err) {
    uint64_t number;
    if (strcmp(dump->file, MANIFEST_NAME) == 0) {
        return dump_manifest(dump, err);
    }
    if (strcmp(dump->file, "LOCK") == 0) {
        return dump_lock(dump, err);
    }
    if (table_name_parse(dump->file, &number)) {
        return dump_table(dump, number, err);
    }
    if (wal_name_parse(dump->file, &number)) {
        return dump_log(dump, number, err);
    }
    return error_set(err, PLEAT_ERR_INVALID, 0, "\"%.80s\" is none of MANIFEST, LOCK, NNNNNN.tbl, NNNNNN.wal",
                     dump->file);
}

static int dump_run(int argc, char **argv) {
    enum { CACHE_BYTES = 4 << 20 };
    struct dump dump = {.store = {.vfs = &vfs_posix, .mem = &mem_system, .files = &dump.files}};
    struct pleat_error err = {0};
    char *positional[2];
    const struct args_option options[] = {{"--entries", ARGS_FLAG, &dump.entries, 0, 0}, {NULL, ARGS_FLAG, NULL, 0, 0}};
    int status = args_parse(&command_dump, argc, argv, options, positional, 2);
    if (status != 0) {
        return status;
    }
    const char *slash = strrchr(positional[1], '/'); /* DIR/FILE, as a shell completes it, is as good */
    dump.file = slash != NULL ? slash + 1 : positional[1];
    int os_errno = table_files_init(&dump.files, 2);
    if (os_errno != 0) {
        (void)error_system(&err, os_errno, "mutex", dump.file);
        return tool_error(&command_dump, NULL, &err);
    }
    dump.key_buffer = mem_alloc(&mem_system, LIMIT_KEY_BYTES + BLOCK_READ_BEYOND);
    int rc = dump.key_buffer == NULL ? error_no_memory(&err, "a key", LIMIT_KEY_BYTES) : 0;
    rc = rc == 0 ? cache_new(&mem_system, CACHE_BYTES, &dump.store.cache, &err) : rc;
    rc = rc == 0 ? dump.store.vfs->dir_open(dump.store.vfs, &mem_system, positional[0], VFS_DIR_EXISTING, 0,
                                            &dump.store.dir, &err)
                 : rc;
    if (rc == 0) {
        dump.manifest_known = file_peek(&dump, MANIFEST_NAME, 16, dump.manifest_id, TABLE_STORE_ID_BYTES, NULL) == 0;
        rc = dump_file(&dump, &err);
    }
    if (rc < 0) {
        (void)fflush(stdout); /* what was found comes before what stopped it */
        status = tool_error(&command_dump, NULL, &err);
    }
    if (dump.store.dir != NULL) {
        dump.store.vfs->dir_close(dump.store.dir);
    }
    cache_free(dump.store.cache);
    table_files_fini(&dump.files);
    mem_free(&mem_system, dump.key_buffer);
    return status;
}

const struct tool_command command_dump = {
    .name = "dump",
    .usage = "DIR FILE [--entries]",
    .summary = "Prints a file of the store part by part, with offsets and lengths",
    .help = "FILE is MANIFEST, LOCK, a table (NNNNNN.tbl) or a log segment (NNNNNN.wal). No lock is taken; damage is\n"
            "named behind what stands before it (status 3).\n\n"
            "  --entries   the keys in blocks and log records, too\n",
    .run = dump_run,
};
