/* error.c - see error.h. */
#include "base/error.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int error_set(struct pleat_error *err, int code, int os_errno, const char *format, ...) {
    if (err == NULL || err->code != 0) {
        return code;
    }
    err->code = code;
    err->os_errno = os_errno;
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(err->message, sizeof err->message, format, arguments);
    va_end(arguments);
    return code;
}

int error_no_memory(struct pleat_error *err, const char *what, uint64_t bytes) {
    return error_set(err, PLEAT_ERR_NO_MEMORY, ENOMEM, "out of memory: %s, %" PRIu64 " bytes", what, bytes);
}

int error_corrupt(struct pleat_error *err, const char *file, uint64_t offset, const char *what, uint64_t expected,
                  uint64_t found) {
    return error_set(err, PLEAT_ERR_CORRUPT, 0,
                     "%s: damaged at offset %" PRIu64 ": %s: expected 0x%" PRIx64 ", found 0x%" PRIx64, file, offset,
                     what, expected, found);
}

static int error_status_of(int os_errno) {
    switch (os_errno) {
    case ENOSPC:
    case EDQUOT:
        return PLEAT_ERR_NO_SPACE;
    case EACCES:
    case EPERM:
        return PLEAT_ERR_DENIED;
    case EROFS:
        return PLEAT_ERR_READ_ONLY;
    case ENOMEM:
        return PLEAT_ERR_NO_MEMORY;
    case ENOENT:
        return PLEAT_ERR_NOT_FOUND;
    case EEXIST:
        return PLEAT_ERR_EXISTS;
    default:
        return PLEAT_ERR_IO;
    }
}

int error_system(struct pleat_error *err, int os_errno, const char *operation, const char *file) {
    char text[96];
    text[0] = '\0';
    /* The XSI and the GNU strerror_r differ in what they return; the errno number is what programs read. */
#if defined(__GLIBC__) && defined(_GNU_SOURCE)
    const char *message = strerror_r(os_errno, text, sizeof text);
#else
    const char *message = strerror_r(os_errno, text, sizeof text) == 0 ? text : "unknown error";
#endif
    return error_set(err, error_status_of(os_errno), os_errno, "%.120s: %s failed: %s (errno %d)", file, operation,
                     message, os_errno);
}

void error_clear(struct pleat_error *err) {
    if (err != NULL) {
        err->code = 0;
        err->os_errno = 0;
        err->message[0] = '\0';
    }
}
