/*
 * edit_codec.c - see edit_codec.h for the bytes.
 *
 * Writing puts a field's content behind a gap that is wide enough for any tag and length, and then closes the gap: one
 * pass, and no second computation of sizes that could disagree with the first. Reading takes numbers and strings off
 * the front of a field; the first that does not fit marks the field, and one test at its end refuses it.
 */
#include "version/edit_codec.h"

#include "base/assert.h"
#include "base/bytes.h"
#include "base/error.h"
#include "version/manifest.h"

#include <inttypes.h>

#define FIELD_HEAD_BYTES_MAX (2 * VARINT64_BYTES_MAX)

/* ---- writing ---------------------------------------------------------------------------------------------------- */

void edit_encoder_init(struct edit_encoder *encoder, const struct mem *mem) {
    *encoder = (struct edit_encoder){.mem = mem};
}

void edit_encoder_fini(struct edit_encoder *encoder) {
    mem_free(encoder->mem, encoder->bytes);
    *encoder = (struct edit_encoder){.mem = encoder->mem};
}

static bool encoder_reserve(struct edit_encoder *encoder, size_t extra) {
    if (encoder->failed) {
        return false;
    }
    if (extra <= encoder->capacity - encoder->used) {
        return true;
    }
    size_t capacity = encoder->capacity > 0 ? 2 * encoder->capacity : 512;
    if (capacity < encoder->used + extra) {
        capacity = encoder->used + extra;
    }
    uint8_t *grown = mem_resize(encoder->mem, encoder->bytes, capacity);
    if (grown == NULL) {
        encoder->failed = true;
        return false;
    }
    encoder->bytes = grown;
    encoder->capacity = capacity;
    return true;
}

static void encode_number(struct edit_encoder *encoder, uint64_t x) {
    if (encoder_reserve(encoder, VARINT64_BYTES_MAX)) {
        encoder->used = (size_t)(varint_encode(encoder->bytes + encoder->used, x) - encoder->bytes);
    }
}

static void encode_fixed(struct edit_encoder *encoder, uint64_t x) {
    if (encoder_reserve(encoder, 8)) {
        store_u64(encoder->bytes + encoder->used, x);
        encoder->used += 8;
    }
}

static void encode_string(struct edit_encoder *encoder, const uint8_t *data, size_t bytes) {
    encode_number(encoder, bytes);
    if (bytes > 0 && encoder_reserve(encoder, bytes)) {
        memcpy(encoder->bytes + encoder->used, data, bytes);
        encoder->used += bytes;
    }
}

/* Leaves the gap for tag and length; returns where the field begins, for encode_end. */
static size_t encode_begin(struct edit_encoder *encoder) {
    size_t begin = encoder->used;
    if (encoder_reserve(encoder, FIELD_HEAD_BYTES_MAX)) {
        encoder->used += FIELD_HEAD_BYTES_MAX;
    }
    return begin;
}

static void encode_end(struct edit_encoder *encoder, size_t begin, enum edit_field_tag tag) {
    if (encoder->failed) {
        return;
    }
    size_t content_bytes = encoder->used - begin - FIELD_HEAD_BYTES_MAX;
    uint8_t *content = encoder->bytes + begin + FIELD_HEAD_BYTES_MAX;
    uint8_t *p = varint_encode(encoder->bytes + begin, tag);
    p = varint_encode(p, content_bytes);
    memmove(p, content, content_bytes);
    encoder->used = (size_t)(p - encoder->bytes) + content_bytes;
}

static void encode_numbers(struct edit_encoder *encoder, enum edit_field_tag tag, const uint64_t *values,
                           size_t count) {
    size_t begin = encode_begin(encoder);
    for (size_t i = 0; i < count; i++) {
        encode_number(encoder, values[i]);
    }
    encode_end(encoder, begin, tag);
}

void edit_encode_number_bound(struct edit_encoder *encoder, uint64_t bound) {
    encode_numbers(encoder, FIELD_NUMBER_BOUND, &bound, 1);
}

void edit_encode_log_synced(struct edit_encoder *encoder, uint64_t segment) {
    encode_numbers(encoder, FIELD_LOG_SYNCED, &segment, 1);
}

static void encode_position(struct edit_encoder *encoder, uint64_t last_sequence, uint64_t log_floor,
                            const struct cursor_set *cursors) {
    const uint64_t values[] = {last_sequence, log_floor, cursors->count};
    encode_numbers(encoder, FIELD_POSITION, values, 3);
    for (size_t i = 0; i < cursors->count; i++) {
        const struct cursor_entry *entry = &cursors->entries[i];
        size_t begin = encode_begin(encoder);
        encode_string(encoder, entry->name, entry->name_bytes);
        encode_string(encoder, entry->value, entry->value_bytes);
        encode_string(encoder, entry->incarnation, entry->incarnation_bytes);
        encode_end(encoder, begin, FIELD_CURSOR);
    }
}

static void encode_space(struct edit_encoder *encoder, const struct space_info *space) {
    size_t begin = encode_begin(encoder);
    encode_number(encoder, space->id);
    encode_number(encoder, space->codec);
    encode_number(encoder, space->block_bytes);
    encode_number(encoder, space->grouping.bytes);
    encode_number(encoder, space->grouping.delimiters);
    encode_number(encoder, space->grouping.delimiter);
    encode_string(encoder, space->name, space->name_bytes);
    encode_end(encoder, begin, FIELD_SPACE_CREATED);
}

static void encode_table(struct edit_encoder *encoder, uint32_t space, unsigned level,
                         const struct table_meta *meta) {
    size_t begin = encode_begin(encoder);
    encode_number(encoder, space);
    encode_number(encoder, level);
    encode_number(encoder, meta->number);
    encode_number(encoder, meta->file_bytes);
    encode_number(encoder, meta->entries);
    encode_number(encoder, meta->tombstones);
    encode_number(encoder, meta->key_value_bytes);
    encode_number(encoder, meta->sequence_min);
    encode_number(encoder, meta->sequence_max);
    encode_number(encoder, meta->deadline_min_ms);
    encode_number(encoder, meta->blocks);
    encode_number(encoder, meta->key_bytes_max);
    encode_number(encoder, meta->codec);
    encode_number(encoder, meta->filter);
    encode_fixed(encoder, meta->footer_checksum);
    encode_string(encoder, meta->smallest, meta->smallest_bytes);
    encode_string(encoder, meta->largest, meta->largest_bytes);
    encode_end(encoder, begin, FIELD_TABLE_ADDED);
}

void edit_encode(struct edit_encoder *encoder, const struct edit *edit) {
    uint64_t dropped = edit->dropped_space;
    for (size_t i = 0; i < edit->removed_count; i++) {
        const struct edit_table *table = &edit->removed[i];
        const uint64_t values[] = {table->space, table->level, table->meta.number};
        encode_numbers(encoder, FIELD_TABLE_REMOVED, values, 3);
    }
    if (edit->drop_space) {
        encode_numbers(encoder, FIELD_SPACE_DROPPED, &dropped, 1);
    }
    if (edit->clear_space) {
        encode_numbers(encoder, FIELD_SPACE_CLEARED, &dropped, 1);
    }
    if (edit->has_space) {
        encode_space(encoder, &edit->space);
    }
    for (size_t i = 0; i < edit->added_count; i++) {
        encode_table(encoder, edit->added[i].space, edit->added[i].level, &edit->added[i].meta);
    }
    if (edit->has_position) {
        encode_position(encoder, edit->last_sequence, edit->log_floor, &edit->cursors);
    }
    if (edit->has_history) {
        const uint64_t values[] = {edit->history, edit->history_sequence};
        encode_numbers(encoder, FIELD_HISTORY, values, 2);
    }
    if (edit->has_clean) {
        uint64_t clean = edit->clean;
        encode_numbers(encoder, FIELD_CLEAN, &clean, 1);
    }
}

/* The live space with the least id that is at least `id`, or NULL: a reader takes them in order of creation only. */
static const struct tree *version_tree_from(const struct version *version, uint64_t id) {
    const struct tree *least = NULL;
    for (uint32_t slot = 0; slot < version->slots; slot++) {
        const struct tree *tree = version->trees[slot];
        if (tree != NULL && tree->space.id >= id && (least == NULL || tree->space.id < least->space.id)) {
            least = tree;
        }
    }
    return least;
}

void edit_encode_state(struct edit_encoder *encoder, const struct version *version, const struct facts *facts,
                       const struct cursor_set *cursors) {
    edit_encode_number_bound(encoder, facts->number_bound);
    for (const struct tree *tree = version_tree_from(version, 0); tree != NULL;
         tree = version_tree_from(version, (uint64_t)tree->space.id + 1)) {
        encode_space(encoder, &tree->space);
        for (unsigned level = 0; level < LIMIT_LEVELS; level++) {
            for (size_t i = 0; i < tree->levels[level].count; i++) {
                encode_table(encoder, tree->space.id, level, &tree->levels[level].tables[i]->meta);
            }
        }
    }
    encode_numbers(encoder, FIELD_SPACE_BOUND, &facts->space_bound, 1);
    const uint64_t history[] = {facts->history, facts->history_sequence};
    encode_numbers(encoder, FIELD_HISTORY, history, 2);
    encode_position(encoder, facts->last_sequence, facts->log_floor, cursors);
    uint64_t clean = facts->clean;
    encode_numbers(encoder, FIELD_CLEAN, &clean, 1);
    edit_encode_log_synced(encoder, facts->log_synced);
}

int edit_encoder_verify(const struct edit_encoder *encoder, struct pleat_error *err) {
    if (encoder->failed) {
        return error_no_memory(err, "a manifest edit", encoder->used);
    }
    if (encoder->used > UINT32_MAX) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "manifest edit of %zu bytes: the limit is %" PRIu32,
                         encoder->used, UINT32_MAX);
    }
    return 0;
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

/* What is left of a field. `fault.what` is set by the first number or string that does not fit. */
struct field_reader {
    const uint8_t *next;
    const uint8_t *end;
    struct fault fault;
};

static void field_fault(struct field_reader *reader, const char *what, uint64_t expected, uint64_t found) {
    if (reader->fault.what == NULL) {
        (void)fault_set(&reader->fault, what, expected, found);
    }
}

static uint64_t field_number(struct field_reader *reader, uint64_t limit, const char *what) {
    uint64_t x = 0;
    const uint8_t *next = varint_decode(reader->next, reader->end, &x);
    if (next == NULL) {
        field_fault(reader, "number cut short in a field", 1, 0);
        return 0;
    }
    reader->next = next;
    if (x > limit) {
        field_fault(reader, what, limit, x);
        return 0;
    }
    return x;
}

static uint64_t field_fixed(struct field_reader *reader) {
    if (reader->end - reader->next < 8) {
        field_fault(reader, "checksum cut short in a field", 8, (uint64_t)(reader->end - reader->next));
        return 0;
    }
    reader->next += 8;
    return load_u64(reader->next - 8);
}

static const uint8_t *field_string(struct field_reader *reader, uint32_t limit, const char *what,
                                   uint32_t *ret_bytes) {
    uint64_t bytes = field_number(reader, limit, what);
    if (bytes > (uint64_t)(reader->end - reader->next)) {
        field_fault(reader, "string cut short in a field", bytes, (uint64_t)(reader->end - reader->next));
        bytes = 0;
    }
    const uint8_t *data = reader->next;
    reader->next += bytes;
    *ret_bytes = (uint32_t)bytes;
    return data;
}

static void field_table_place(struct field_reader *reader, struct edit_field *field) {
    field->space = (uint32_t)field_number(reader, UINT32_MAX, "space id, at most");
    field->level = (uint8_t)field_number(reader, LIMIT_LEVELS - 1, "level, at most");
    field->meta.number = field_number(reader, UINT64_MAX, "");
}

static void field_table(struct field_reader *reader, struct edit_field *field) {
    struct table_meta *meta = &field->meta;
    field_table_place(reader, field);
    meta->file_bytes = field_number(reader, UINT64_MAX, "");
    meta->entries = field_number(reader, UINT64_MAX, "");
    meta->tombstones = field_number(reader, UINT64_MAX, "");
    meta->key_value_bytes = field_number(reader, UINT64_MAX, "");
    meta->sequence_min = field_number(reader, UINT64_MAX, "");
    meta->sequence_max = field_number(reader, UINT64_MAX, "");
    meta->deadline_min_ms = field_number(reader, UINT64_MAX, "");
    meta->blocks = (uint32_t)field_number(reader, UINT32_MAX, "blocks of a table, at most");
    meta->key_bytes_max = (uint32_t)field_number(reader, LIMIT_KEY_BYTES, "bytes of a table's longest key, at most");
    meta->codec = (uint8_t)field_number(reader, UINT8_MAX, "codec of a table, at most");
    meta->filter = (uint8_t)field_number(reader, UINT8_MAX, "filter of a table, at most");
    meta->footer_checksum = field_fixed(reader);
    /* table_meta_copy copies the keys before anybody could write to them through these pointers. */
    const uint8_t *smallest = field_string(reader, LIMIT_KEY_BYTES, "bytes of a smallest key, at most",
                                           &meta->smallest_bytes);
    const uint8_t *largest = field_string(reader, LIMIT_KEY_BYTES, "bytes of a largest key, at most",
                                          &meta->largest_bytes);
    meta->smallest = (uint8_t *)(uintptr_t)smallest;
    meta->largest = (uint8_t *)(uintptr_t)largest;
    if (reader->fault.what == NULL) {
        (void)table_meta_fault(meta, &reader->fault);
    }
}

static void field_space(struct field_reader *reader, struct edit_field *field) {
    struct space_info *info = &field->info;
    info->id = (uint32_t)field_number(reader, UINT32_MAX - 1, "space id, at most");
    info->codec = (uint8_t)field_number(reader, UINT8_MAX, "codec of a space, at most");
    info->block_bytes = (uint32_t)field_number(reader, UINT32_MAX, "block bytes of a space, at most");
    info->grouping.bytes = (uint32_t)field_number(reader, UINT32_MAX, "group bytes of a space, at most");
    info->grouping.delimiters = (uint32_t)field_number(reader, UINT32_MAX, "group delimiters, at most");
    info->grouping.delimiter = (uint8_t)field_number(reader, UINT8_MAX, "group delimiter, at most");
    const uint8_t *name = field_string(reader, LIMIT_SPACE_NAME_BYTES, "bytes of a space's name, at most",
                                       &info->name_bytes);
    memcpy(info->name, name, info->name_bytes);
    if (reader->fault.what == NULL) {
        (void)space_info_fault(info, &reader->fault);
    }
}

static void field_cursor(struct field_reader *reader, struct edit_field *field) {
    struct wal_cursor *cursor = &field->cursor;
    cursor->name = field_string(reader, LIMIT_CURSOR_NAME_BYTES, "bytes of a cursor's name, at most",
                                &cursor->name_bytes);
    cursor->value = field_string(reader, LIMIT_CURSOR_BYTES, "bytes of a cursor, at most", &cursor->value_bytes);
    cursor->incarnation = field_string(reader, LIMIT_INCARNATION_BYTES, "bytes of an incarnation, at most",
                                       &cursor->incarnation_bytes);
}

/* False when the tag is not known to this version. */
static bool field_content(struct field_reader *reader, struct edit_field *field) {
    switch (field->tag) {
    case FIELD_NUMBER_BOUND:
    case FIELD_LOG_SYNCED:
        field->values[0] = field_number(reader, UINT64_MAX, "");
        return true;
    case FIELD_SPACE_BOUND:
        field->values[0] = field_number(reader, UINT32_MAX, "bound of space ids, at most");
        return true;
    case FIELD_POSITION:
        field->values[0] = field_number(reader, UINT64_MAX, "");
        field->values[1] = field_number(reader, UINT64_MAX, "");
        field->values[2] = field_number(reader, LIMIT_CURSORS, "cursors, at most");
        return true;
    case FIELD_CURSOR:
        field_cursor(reader, field);
        return true;
    case FIELD_HISTORY:
        field->values[0] = field_number(reader, UINT64_MAX, "");
        field->values[1] = field_number(reader, UINT64_MAX, "");
        return true;
    case FIELD_CLEAN:
        field->values[0] = field_number(reader, 1, "clean mark, at most");
        return true;
    case FIELD_SPACE_CREATED:
        field_space(reader, field);
        return true;
    case FIELD_SPACE_DROPPED:
    case FIELD_SPACE_CLEARED:
        field->values[0] = field_number(reader, UINT32_MAX, "space id, at most");
        return true;
    case FIELD_TABLE_REMOVED:
        field_table_place(reader, field);
        return true;
    case FIELD_TABLE_ADDED:
        field_table(reader, field);
        return true;
    default:
        return false;
    }
}

void edit_decoder_init(struct edit_decoder *decoder, const uint8_t *payload, size_t bytes, uint64_t file_offset) {
    *decoder = (struct edit_decoder){.begin = payload, .next = payload, .end = payload + bytes,
                                     .file_offset = file_offset, .field_offset = file_offset};
}

int edit_decoder_next(struct edit_decoder *decoder, struct edit_field *ret_field, struct pleat_error *err) {
    while (decoder->next < decoder->end) {
        decoder->field_offset = decoder->file_offset + (uint64_t)(decoder->next - decoder->begin);
        *ret_field = (struct edit_field){0};
        uint64_t bytes = 0;
        const uint8_t *p = varint_decode(decoder->next, decoder->end, &ret_field->tag);
        p = p != NULL ? varint_decode(p, decoder->end, &bytes) : NULL;
        if (p == NULL || bytes > (uint64_t)(decoder->end - p)) {
            return error_corrupt(err, MANIFEST_NAME, decoder->field_offset, "field cut short", bytes,
                                 (uint64_t)(decoder->end - (p != NULL ? p : decoder->next)));
        }
        struct field_reader reader = {.next = p, .end = p + bytes};
        decoder->next = reader.end;
        if (field_content(&reader, ret_field)) {
            if (reader.fault.what == NULL && reader.next != reader.end) {
                field_fault(&reader, "bytes of a field beyond its content", 0,
                            (uint64_t)(reader.end - reader.next));
            }
            return reader.fault.what == NULL
                       ? 0
                       : error_corrupt(err, MANIFEST_NAME, decoder->field_offset, reader.fault.what,
                                       reader.fault.expected, reader.fault.found);
        }
        if ((ret_field->tag & 1) == 0) {
            return error_set(err, PLEAT_ERR_NEWER, 0,
                             "%s: field %" PRIu64 " at offset %" PRIu64 " is not known to this version",
                             MANIFEST_NAME, ret_field->tag, decoder->field_offset);
        }
    }
    return PLEAT_END;
}
