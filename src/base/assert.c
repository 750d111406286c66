/* assert.c - what a broken invariant does: it stops the process where the evidence still is. */
#include "base/assert.h"

#include <stdlib.h>

/* The arguments stay in the core file and in a debugger; the library never prints. */
_Noreturn void assert_failed(const char *expression, const char *file, int line) {
    const char *volatile failed_expression = expression;
    const char *volatile failed_file = file;
    volatile int failed_line = line;
    (void)failed_expression;
    (void)failed_file;
    (void)failed_line;
    abort();
}
