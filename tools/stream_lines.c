/* stream_lines.c - the line format: put<TAB>key<TAB>value, del<TAB>key, commit<TAB>cursor. */
#include "stream.h"

#include "base/limits.h"
#include "escape.h"

#include <string.h>

/* Every byte of key and value escaped, and the fixed parts. Longer lines hold nothing that the store would take. */
#define LINE_BYTES_MAX (2 * ((size_t)STREAM_VALUE_BYTES_MAX + LIMIT_KEY_BYTES) + 16)

/* The field [text, end) in place, which must hold no further tab. */
static enum stream_result line_field(struct stream *stream, const char *what, uint8_t *text, const uint8_t *end,
                                     struct pleat_slice *ret_field) {
    size_t bytes = (size_t)(end - text);
    if (bytes > 0 && memchr(text, '\t', bytes) != NULL) {
        return stream_bad(stream, "a tab behind the %s: a tab inside is written \\t", what);
    }
    if (!escape_decode(text, &bytes)) {
        return stream_bad(stream, "unknown escape in the %s: there are \\t \\n \\\\ \\0", what);
    }
    *ret_field = (struct pleat_slice){text, bytes};
    return STREAM_RECORD;
}

static enum stream_result line_parse(struct stream *stream, uint8_t *line, const uint8_t *end,
                                     struct stream_record *ret_record) {
    size_t bytes = (size_t)(end - line);
    if (bytes >= 4 && memcmp(line, "put\t", 4) == 0) {
        ret_record->kind = STREAM_PUT;
        uint8_t *key = line + 4;
        uint8_t *tab = bytes > 4 ? memchr(key, '\t', bytes - 4) : NULL;
        if (tab == NULL) {
            return stream_bad(stream, "a put has no value: put<TAB>key<TAB>value");
        }
        enum stream_result result = line_field(stream, "key", key, tab, &ret_record->key);
        return result == STREAM_RECORD ? line_field(stream, "value", tab + 1, end, &ret_record->value) : result;
    }
    if (bytes >= 4 && memcmp(line, "del\t", 4) == 0) {
        ret_record->kind = STREAM_DELETE;
        return line_field(stream, "key", line + 4, end, &ret_record->key);
    }
    if (bytes >= 7 && memcmp(line, "commit\t", 7) == 0) {
        ret_record->kind = STREAM_COMMIT;
        return line_field(stream, "cursor", line + 7, end, &ret_record->key);
    }
    return stream_bad(stream, "a line of %zu bytes is none of put<TAB>, del<TAB>, commit<TAB>", bytes);
}

enum stream_result stream_lines_next(struct stream *stream, struct stream_record *ret_record) {
    size_t scanned = 0;
    for (;;) {
        uint8_t *line = stream->buffer + stream->begin;
        size_t bytes = stream->end - stream->begin;
        uint8_t *newline = bytes > scanned ? memchr(line + scanned, '\n', bytes - scanned) : NULL;
        if (newline != NULL) {
            stream->number++;
            stream->begin += (size_t)(newline + 1 - line);
            return line_parse(stream, line, newline, ret_record);
        }
        scanned = bytes;
        if (scanned > LINE_BYTES_MAX) {
            stream->number++;
            return stream_bad(stream, "longer than %zu bytes", LINE_BYTES_MAX);
        }
        enum stream_result result = stream_fill(stream);
        if (result != STREAM_RECORD) {
            return result;
        }
    }
}
