/*
 * escape.c - fuzzes the text form of bytes.
 *
 * Whatever bytes are printed read back the same, as text and as JSON, and hold no tab and no newline; whatever text is
 * accepted means bytes that print and read back the same.
 */
#include "escape.h"
#include "fuzz/fuzz.h"

#include <stdlib.h>

/* What `print` writes, for the caller to free. */
static char *printed(void (*print)(FILE *file, struct pleat_slice slice), struct pleat_slice slice, size_t *ret_bytes) {
    char *text = NULL;
    FILE *file = open_memstream(&text, ret_bytes);
    FUZZ_CHECK(file != NULL);
    print(file, slice);
    FUZZ_CHECK(fclose(file) == 0);
    return text;
}

static void check_text(struct pleat_slice slice) {
    size_t bytes = 0;
    char *text = printed(escape_print, slice, &bytes);
    FUZZ_CHECK(memchr(text, '\t', bytes) == NULL && memchr(text, '\n', bytes) == NULL &&
               memchr(text, '\0', bytes) == NULL);
    uint8_t *exact = fuzz_copy(text, bytes, 0);
    FUZZ_CHECK(escape_decode(exact, &bytes));
    FUZZ_CHECK(fuzz_equal(slice, (struct pleat_slice){exact, bytes}));
    free(exact);
    free(text);
}

static unsigned hex_digit(char c) {
    return c >= '0' && c <= '9' ? (unsigned)(c - '0') : (unsigned)(c - 'a') + 10;
}

static void check_json(struct pleat_slice slice) {
    size_t bytes = 0, at = 0;
    const uint8_t *expected = slice.data;
    char *text = printed(escape_print_json, slice, &bytes);
    for (size_t i = 0; i < slice.bytes; i++) {
        FUZZ_CHECK(at < bytes && text[at] >= 0x20 && text[at] < 0x7f && text[at] != '"');
        unsigned found = (unsigned char)text[at];
        if (found == '\\' && text[at + 1] == 'u') {
            FUZZ_CHECK(bytes - at >= 6 && text[at + 2] == '0' && text[at + 3] == '0');
            found = hex_digit(text[at + 4]) * 16 + hex_digit(text[at + 5]);
            at += 6;
        } else if (found == '\\') {
            found = (unsigned char)text[at + 1];
            FUZZ_CHECK(found == '\\' || found == '"');
            at += 2;
        } else {
            at++;
        }
        FUZZ_CHECK(found == expected[i]);
    }
    FUZZ_CHECK(at == bytes);
    free(text);
}

static void check_short(struct pleat_slice slice, size_t characters) {
    char *text = malloc(4 * characters + 3);
    FUZZ_CHECK(text != NULL);
    escape_shorten(slice, characters, text);
    for (const char *p = text; *p != '\0'; p++) {
        FUZZ_CHECK(*p >= 0x20 && *p < 0x7f);
    }
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct pleat_slice slice = {data, size};
    uint8_t *exact = fuzz_copy(data, size, 0);
    size_t bytes = size;
    if (escape_decode(exact, &bytes)) {
        FUZZ_CHECK(bytes <= size);
        check_text((struct pleat_slice){exact, bytes});
    }
    free(exact);
    check_text(slice);
    check_json(slice);
    check_short(slice, size > 0 ? data[0] % 64u : 0);
    return 0;
}
