/*
 * escape.h - keys, values and cursors as text: bytes as they are, but for four escapes.
 *
 *     \t tab    \n newline    \\ backslash    \0 NUL
 *
 * What is printed reads back as the same bytes, and a line holds exactly one record.
 */
#ifndef PLEAT_TOOLS_ESCAPE_H
#define PLEAT_TOOLS_ESCAPE_H

#include "pleat/pleat.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* Decodes in place and shortens *bytes; false, with the text in parts decoded, for any other escape. */
bool escape_decode(uint8_t *text, size_t *bytes);
/* Prints with escapes. */
void escape_print(FILE *file, struct pleat_slice slice);
/* Prints as the inside of a JSON string: each byte is one character U+0000 .. U+00FF. */
void escape_print_json(FILE *file, struct pleat_slice slice);
/* For people at a terminal: at most `characters` (and two dots), control and high bytes as \xNN. ret_text has room for
 * 4 * characters + 3. */
void escape_shorten(struct pleat_slice slice, size_t characters, char *ret_text);

#endif
