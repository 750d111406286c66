/* stream_lines.c - fuzzes the line format of the fold tool: put<TAB>key<TAB>value, del<TAB>key, commit<TAB>cursor */
#include "fuzz/stream_check.h"

/* Bytes of a field up to its end, escapes undone, behind what the buffer holds. False for an unknown escape or a tab.
 */
static bool plain_field(const uint8_t *p, const uint8_t *end, uint8_t **to, struct pleat_slice *ret_field) {
    static const char escapes[] = "t\tn\n\\\\0\0"; /* pairs: behind the backslash, and what it means */
    uint8_t *begin = *to;
    while (p < end) {
        uint8_t byte = *p++;
        if (byte == '\t') {
            return false;
        }
        if (byte == '\\') {
            size_t i = 0;
            while (i < 8 && (p == end || (uint8_t)escapes[i] != *p)) {
                i += 2;
            }
            if (i == 8) {
                return false;
            }
            byte = (uint8_t)escapes[i + 1];
            p++;
        }
        *(*to)++ = byte;
    }
    *ret_field = (struct pleat_slice){begin, (size_t)(*to - begin)};
    return true;
}

static enum stream_result plain_line(const uint8_t **data, const uint8_t *end, uint8_t *buffer,
                                     struct stream_record *ret_record) {
    const uint8_t *line = *data, *newline = line;
    while (newline < end && *newline != '\n') {
        newline++;
    }
    if (newline == end) {
        return line == end ? STREAM_END : STREAM_CUT;
    }
    *data = newline + 1;
    size_t bytes = (size_t)(newline - line);
    bool well = false;
    if (bytes >= 4 && memcmp(line, "put\t", 4) == 0) {
        const uint8_t *tab = line + 4;
        while (tab < newline && *tab != '\t') {
            tab++;
        }
        ret_record->kind = STREAM_PUT;
        well = tab < newline && plain_field(line + 4, tab, &buffer, &ret_record->key) &&
               plain_field(tab + 1, newline, &buffer, &ret_record->value);
    } else if (bytes >= 4 && memcmp(line, "del\t", 4) == 0) {
        ret_record->kind = STREAM_DELETE;
        well = plain_field(line + 4, newline, &buffer, &ret_record->key);
    } else if (bytes >= 7 && memcmp(line, "commit\t", 7) == 0) {
        ret_record->kind = STREAM_COMMIT;
        well = plain_field(line + 7, newline, &buffer, &ret_record->key);
    }
    return well ? STREAM_RECORD : STREAM_BAD;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    stream_check(data, size, STREAM_LINES, plain_line);
    return 0;
}
