/* read.c - `pleat cursor`, `pleat get`, `pleat scan`: what the store holds. */
#include "args.h"
#include "escape.h"

#include "base/mem.h"

#include <string.h>

static const struct args_option no_option = {NULL, ARGS_FLAG, NULL, 0, 0};

/* ---- cursor ----------------------------------------------------------------------------------------------------- */

static int cursor_print(void *context, struct pleat_slice name, const struct pleat_cursor_value *cursor) {
    (void)context;
    escape_print(stdout, name);
    putchar('\t');
    escape_print(stdout, (struct pleat_slice){cursor->value, cursor->bytes});
    putchar('\n');
    return 0;
}

static int cursor_run(int argc, char **argv) {
    struct args_bytes name = {.given = false};
    bool durable = false, all = false;
    char *path;
    const struct args_option options[] = {{"--name", ARGS_BYTES, &name, 0, 0},
                                          {"--durable", ARGS_FLAG, &durable, 0, 0},
                                          {"--all", ARGS_FLAG, &all, 0, 0},
                                          no_option};
    struct pleat_db *db = NULL;
    int status = args_parse(&command_cursor, argc, argv, options, &path, 1);
    status = status == 0 ? store_open_read(&command_cursor, path, &db) : status;
    if (status != 0) {
        return status;
    }
    enum pleat_position position = durable ? PLEAT_DURABLE : PLEAT_APPLIED;
    struct pleat_cursor_value cursor;
    struct pleat_error err;
    int rc = all ? pleat_cursor_list(db, position, cursor_print, NULL, &err)
                 : pleat_cursor_read(db, name.slice, position, &cursor, &err);
    if (rc < 0) {
        status = tool_error(&command_cursor, NULL, &err);
    } else if (rc == PLEAT_ABSENT) {
        status = TOOL_ABSENT;
    } else if (!all) {
        escape_print(stdout, (struct pleat_slice){cursor.value, cursor.bytes});
        putchar('\n');
    }
    return store_close(&command_cursor, db, status);
}

const struct tool_command command_cursor = {
    .name = "cursor",
    .usage = "DIR [--name NAME] [--durable] [--all]",
    .summary = "Prints the resume cursor, with escapes; status 1 when there is none",
    .help = "  --name NAME   the cursor of this name; default: the empty name\n"
            "  --durable     as of what is known to survive a power loss, not as of what is applied. Of a store that\n"
            "                was not closed, that is what its manifest says\n"
            "  --all         all cursors, one a line: name<TAB>cursor\n",
    .run = cursor_run,
};

/* ---- get -------------------------------------------------------------------------------------------------------- */

static int get_run(int argc, char **argv) {
    struct args_bytes space_name = {.given = false};
    char *positional[2];
    const struct args_option options[] = {{"--space", ARGS_BYTES, &space_name, 0, 0}, no_option};
    struct pleat_db *db = NULL;
    struct pleat_space *space;
    struct pleat_slice key;
    int status = args_parse(&command_get, argc, argv, options, positional, 2);
    status = status == 0 ? args_decode(&command_get, "KEY", positional[1], &key) : status;
    status = status == 0 ? store_open_read(&command_get, positional[0], &db) : status;
    if (status != 0) {
        return status;
    }
    status = store_space(&command_get, db, space_name.given ? &space_name.slice : NULL, &space);
    if (status == 0) {
        struct pleat_value value;
        struct pleat_error err;
        int rc = pleat_get(space, NULL, key, &value, &err);
        if (rc < 0) {
            status = tool_error(&command_get, NULL, &err);
        } else if (rc == PLEAT_ABSENT) {
            status = TOOL_ABSENT;
        } else {
            fwrite(value.data, 1, value.bytes, stdout); /* a failure is found by tool_finish */
            pleat_value_release(&value);
        }
    }
    return store_close(&command_get, db, status);
}

const struct tool_command command_get = {
    .name = "get",
    .usage = "DIR KEY [--space NAME]",
    .summary = "Prints the value of a key, its bytes as they are; status 1 when it is absent",
    .help = "KEY has the escapes \\t \\n \\\\ \\0; a key that begins with - stands behind --.\n\n"
            "  --space NAME   in this space; default: the default space\n",
    .run = get_run,
};

/* ---- scan ------------------------------------------------------------------------------------------------------- */

struct scan {
    bool keys_only;
};

enum { SCAN_OUTPUT_FAILED = 1 };

static int scan_print(void *context, const struct pleat_row *row) {
    const struct scan *scan = context;
    escape_print(stdout, row->key);
    if (!scan->keys_only) {
        putc_unlocked('\t', stdout);
        escape_print(stdout, row->value);
    }
    putc_unlocked('\n', stdout);
    return ferror_unlocked(stdout) ? SCAN_OUTPUT_FAILED : 0;
}

static int scan_run(int argc, char **argv) {
    struct args_bytes space_name = {.given = false}, prefix = {.given = false}, from = {.given = false},
                      to = {.given = false};
    struct pleat_iter_options range = {.size = sizeof range, .skip_cache = true};
    struct scan scan = {.keys_only = false};
    uint64_t limit = 0;
    char *path;
    const struct args_option options[] = {{"--space", ARGS_BYTES, &space_name, 0, 0},
                                          {"--prefix", ARGS_BYTES, &prefix, 0, 0},
                                          {"--from", ARGS_BYTES, &from, 0, 0},
                                          {"--to", ARGS_BYTES, &to, 0, 0},
                                          {"--reverse", ARGS_FLAG, &range.reverse, 0, 0},
                                          {"--limit", ARGS_NUMBER, &limit, 1, UINT64_MAX},
                                          {"--keys", ARGS_FLAG, &scan.keys_only, 0, 0},
                                          no_option};
    struct pleat_db *db = NULL;
    struct pleat_space *space;
    int status = args_parse(&command_scan, argc, argv, options, &path, 1);
    status = status == 0 ? store_open_read(&command_scan, path, &db) : status;
    if (status != 0) {
        return status;
    }
    range.prefix = prefix.slice;
    range.lower = from.slice;
    range.has_lower = from.given;
    range.upper = to.slice;
    range.has_upper = to.given;
    range.keys_only = scan.keys_only;
    range.limit = limit;
    (void)setvbuf(stdout, NULL, _IOFBF, 1 << 18);
    status = store_space(&command_scan, db, space_name.given ? &space_name.slice : NULL, &space);
    if (status == 0) {
        struct pleat_error err;
        if (pleat_scan(space, &range, scan_print, &scan, &err) < 0) {
            status = tool_error(&command_scan, NULL, &err);
        }
    }
    return store_close(&command_scan, db, status);
}

const struct tool_command command_scan = {
    .name = "scan",
    .usage = "DIR [options]",
    .summary = "Prints key<TAB>value in key order, with the escapes of the fold's input",
    .help = "  --space NAME   in this space; default: the default space\n"
            "  --prefix P     only keys that begin with P\n"
            "  --from K       only keys from K on (K included)\n"
            "  --to K         only keys before K (K not included)\n"
            "  --reverse      from the last to the first\n"
            "  --limit N      at most N\n"
            "  --keys         only the keys; values are not read\n",
    .run = scan_run,
};
