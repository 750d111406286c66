/* escape.c - see escape.h. */
#include "escape.h"

#include <string.h>

bool escape_decode(uint8_t *text, size_t *bytes) {
    uint8_t *end = text + *bytes;
    uint8_t *from = *bytes > 0 ? memchr(text, '\\', *bytes) : NULL;
    if (from == NULL) {
        return true;
    }
    uint8_t *to = from;
    while (from < end) {
        if (*from != '\\') {
            *to++ = *from++;
            continue;
        }
        if (from + 1 == end) {
            return false;
        }
        switch (from[1]) {
        case 't':
            *to++ = '\t';
            break;
        case 'n':
            *to++ = '\n';
            break;
        case '\\':
            *to++ = '\\';
            break;
        case '0':
            *to++ = '\0';
            break;
        default:
            return false;
        }
        from += 2;
    }
    *bytes = (size_t)(to - text);
    return true;
}

static const char *escape_of(uint8_t byte) {
    switch (byte) {
    case '\t':
        return "\\t";
    case '\n':
        return "\\n";
    case '\\':
        return "\\\\";
    case '\0':
        return "\\0";
    default:
        return NULL;
    }
}

void escape_print(FILE *file, struct pleat_slice slice) {
    const uint8_t *p = slice.data, *run = p;
    for (size_t i = 0; i < slice.bytes; i++) {
        uint8_t byte = p[i];
        if (byte > '\n' && byte != '\\') {
            continue; /* the common case in one comparison */
        }
        const char *escape = escape_of(byte);
        if (escape != NULL) {
            fwrite_unlocked(run, 1, (size_t)(p + i - run), file);
            fputs_unlocked(escape, file);
            run = p + i + 1;
        }
    }
    if (slice.bytes > 0) {
        fwrite_unlocked(run, 1, (size_t)(p + slice.bytes - run), file);
    }
}

void escape_print_json(FILE *file, struct pleat_slice slice) {
    const uint8_t *p = slice.data;
    for (size_t i = 0; i < slice.bytes; i++) {
        if (p[i] == '"' || p[i] == '\\') {
            fprintf(file, "\\%c", p[i]);
        } else if (p[i] < 0x20 || p[i] > 0x7e) {
            fprintf(file, "\\u%04x", p[i]);
        } else {
            fputc(p[i], file);
        }
    }
}

void escape_shorten(struct pleat_slice slice, size_t characters, char *ret_text) {
    static const char digits[] = "0123456789abcdef";
    const uint8_t *p = slice.data;
    char *to = ret_text;
    for (size_t i = 0; i < slice.bytes && i < characters; i++) {
        if (p[i] >= 0x20 && p[i] < 0x7f) {
            *to++ = (char)p[i];
        } else {
            *to++ = '\\';
            *to++ = 'x';
            *to++ = digits[p[i] >> 4];
            *to++ = digits[p[i] & 15];
        }
    }
    if (slice.bytes > characters) {
        *to++ = '.';
        *to++ = '.';
    }
    *to = '\0';
}
