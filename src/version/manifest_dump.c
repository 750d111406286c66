/*
 * manifest_dump.c - a MANIFEST as text, a call back for each frame, one line a field.
 *
 * Keys and names are shown as hex, cut at 24 bytes. Fields are decoded and range-checked as replay does it, but nothing
 * is applied: a file that replay refuses can still be looked at up to its damage.
 */
#include "base/error.h"
#include "version/edit_codec.h"
#include "version/manifest.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#define DUMP_BYTES_SHOWN 24

/* A growing text. The first failed allocation is kept. */
struct dump_text {
    const struct mem *mem;
    char *text;
    size_t used;
    size_t capacity;
    bool failed;
};

static void dump_print(struct dump_text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void dump_print(struct dump_text *text, const char *format, ...) {
    enum { LINE_BYTES_MAX = 512 };
    if (text->capacity - text->used < LINE_BYTES_MAX && !text->failed) {
        size_t capacity = 2 * text->capacity + LINE_BYTES_MAX;
        char *grown = mem_resize(text->mem, text->text, capacity);
        text->failed = grown == NULL;
        if (!text->failed) {
            text->text = grown;
            text->capacity = capacity;
        }
    }
    if (text->failed) {
        return;
    }
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(text->text + text->used, LINE_BYTES_MAX, format, arguments);
    va_end(arguments);
    if (n > 0) {
        text->used += n < LINE_BYTES_MAX ? (size_t)n : LINE_BYTES_MAX - 1;
    }
}

static void dump_bytes(struct dump_text *text, const char *what, const uint8_t *data, size_t bytes) {
    dump_print(text, " %s[%zu]=", what, bytes);
    for (size_t i = 0; i < bytes && i < DUMP_BYTES_SHOWN; i++) {
        dump_print(text, "%02x", data[i]);
    }
    if (bytes > DUMP_BYTES_SHOWN) {
        dump_print(text, "..");
    }
}

static void dump_table(struct dump_text *text, const struct edit_field *field) {
    const struct table_meta *meta = &field->meta;
    dump_print(text,
               "add table %" PRIu64 " to space %" PRIu32 " level %u: %" PRIu64 " bytes, %" PRIu64 " entries, %" PRIu64
               " tombstones, %" PRIu32 " blocks, sequences %" PRIu64 "..%" PRIu64 ", key+value bytes %" PRIu64
               ", longest key %" PRIu32 ", deadline %" PRIu64 ", codec %u, filter %u, footer %016" PRIx64,
               meta->number, field->space, field->level, meta->file_bytes, meta->entries, meta->tombstones,
               meta->blocks, meta->sequence_min, meta->sequence_max, meta->key_value_bytes, meta->key_bytes_max,
               meta->deadline_min_ms, meta->codec, meta->filter, meta->footer_checksum);
    dump_bytes(text, "smallest", meta->smallest, meta->smallest_bytes);
    dump_bytes(text, "largest", meta->largest, meta->largest_bytes);
}

static void dump_space(struct dump_text *text, const struct space_info *info) {
    dump_print(text,
               "create space %" PRIu32 ": codec %u, block bytes %" PRIu32 ", group bytes %" PRIu32
               ", group delimiters %" PRIu32 " of %02x",
               info->id, info->codec, info->block_bytes, info->grouping.bytes, info->grouping.delimiters,
               info->grouping.delimiter);
    dump_bytes(text, "name", info->name, info->name_bytes);
}

static void dump_field(struct dump_text *text, const struct edit_field *field) {
    const uint64_t *values = field->values;
    switch (field->tag) {
    case FIELD_NUMBER_BOUND:
        dump_print(text, "file numbers below %" PRIu64, values[0]);
        break;
    case FIELD_LOG_SYNCED:
        dump_print(text, "log segment %" PRIu64 " is synced", values[0]);
        break;
    case FIELD_SPACE_BOUND:
        dump_print(text, "space ids below %" PRIu64, values[0]);
        break;
    case FIELD_POSITION:
        dump_print(text, "last sequence %" PRIu64 ", log floor %" PRIu64 ", cursors %" PRIu64, values[0], values[1],
                   values[2]);
        break;
    case FIELD_CURSOR:
        dump_print(text, "cursor");
        dump_bytes(text, "name", field->cursor.name, field->cursor.name_bytes);
        dump_bytes(text, "value", field->cursor.value, field->cursor.value_bytes);
        dump_bytes(text, "incarnation", field->cursor.incarnation, field->cursor.incarnation_bytes);
        break;
    case FIELD_HISTORY:
        dump_print(text, "history %" PRIu64 " from behind sequence %" PRIu64, values[0], values[1]);
        break;
    case FIELD_CLEAN:
        dump_print(text, values[0] != 0 ? "clean" : "not clean");
        break;
    case FIELD_SPACE_CREATED:
        dump_space(text, &field->info);
        break;
    case FIELD_SPACE_DROPPED:
        dump_print(text, "drop space %" PRIu64, values[0]);
        break;
    case FIELD_SPACE_CLEARED:
        dump_print(text, "clear space %" PRIu64, values[0]);
        break;
    case FIELD_TABLE_REMOVED:
        dump_print(text, "remove table %" PRIu64 " from space %" PRIu32 " level %u", field->meta.number,
                   field->space, field->level);
        break;
    default:
        dump_table(text, field);
        break;
    }
    dump_print(text, "\n");
}

static int dump_frame(struct dump_text *text, uint32_t index, const uint8_t *payload, size_t bytes, uint64_t offset,
                      struct pleat_error *err) {
    struct edit_decoder decoder;
    struct edit_field field;
    edit_decoder_init(&decoder, payload, bytes, offset);
    text->used = 0;
    dump_print(text, index == 0 ? "state\n" : bytes == 0 ? "seal %" PRIu32 "\n" : "edit %" PRIu32 "\n", index);
    int rc;
    while ((rc = edit_decoder_next(&decoder, &field, err)) == 0) {
        dump_print(text, "  ");
        dump_field(text, &field);
    }
    if (rc > 0) {
        rc = 0;
    }
    return rc == 0 && text->failed ? error_no_memory(err, "text of a manifest edit", text->used) : rc;
}

int manifest_dump(const struct table_store *store,
                  int (*callback)(void *context, uint64_t offset, uint64_t bytes, const char *text), void *context,
                  struct pleat_error *err) {
    struct manifest_reader reader;
    struct dump_text text = {.mem = store->mem};
    int rc = manifest_reader_open(store, &reader, err);
    if (rc < 0) {
        return rc;
    }
    const uint8_t *payload;
    size_t bytes;
    uint64_t offset;
    while ((rc = manifest_reader_next(&reader, &payload, &bytes, &offset, err)) == 0) {
        rc = dump_frame(&text, reader.index - 1, payload, bytes, offset, err);
        if (rc == 0) {
            rc = callback(context, offset - MANIFEST_FRAME_BYTES, MANIFEST_FRAME_BYTES + (uint64_t)bytes, text.text);
        }
        if (rc != 0) {
            goto done;
        }
    }
    if (rc == PLEAT_END) {
        rc = 0;
        if (reader.offset < reader.bytes) {
            rc = callback(context, reader.offset, reader.bytes - reader.offset, "torn tail, not committed\n");
        }
    }
done:
    mem_free(store->mem, text.text);
    manifest_reader_close(&reader);
    return rc;
}
