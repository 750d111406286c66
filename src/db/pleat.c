/* pleat.c - the library's name and the names of its statuses. */
#include "pleat/pleat.h"

#define TEXT(x) #x
#define VERSION_TEXT(major, minor, patch) TEXT(major) "." TEXT(minor) "." TEXT(patch)

const char *pleat_version(void) {
    return VERSION_TEXT(PLEAT_VERSION_MAJOR, PLEAT_VERSION_MINOR, PLEAT_VERSION_PATCH);
}

const char *pleat_status_name(int status) {
    static const struct {
        int status;
        const char *name;
    } names[] = {
#define NAME(status) {status, #status}
        NAME(PLEAT_OK),            NAME(PLEAT_ABSENT),        NAME(PLEAT_END),           NAME(PLEAT_SKIPPED),
        NAME(PLEAT_TIMEOUT),       NAME(PLEAT_ERR_INVALID),   NAME(PLEAT_ERR_CORRUPT),   NAME(PLEAT_ERR_IO),
        NAME(PLEAT_ERR_NO_MEMORY), NAME(PLEAT_ERR_NO_SPACE),  NAME(PLEAT_ERR_BUSY),      NAME(PLEAT_ERR_MISMATCH),
        NAME(PLEAT_ERR_READ_ONLY), NAME(PLEAT_ERR_NOT_FOUND), NAME(PLEAT_ERR_EXISTS),    NAME(PLEAT_ERR_NEWER),
        NAME(PLEAT_ERR_DENIED),    NAME(PLEAT_ERR_CANCELLED), NAME(PLEAT_ERR_FORKED),
#undef NAME
    };
    for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (names[i].status == status) {
            return names[i].name;
        }
    }
    return "unknown status";
}
