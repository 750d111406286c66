/*
 * tool.h - what the commands of `pleat` share: statuses, the table of commands, messages, opening a store.
 *
 *     main.c     picks the command, help, version
 *     args.c     options and positional arguments of one command
 *     escape.c   the text form of keys, values and cursors
 *     store.c    opening for reading (which changes nothing) and for writing
 *     fold.c  <- stream.c, stream_lines.c, stream_framed.c     the change stream, and its fold
 *     read.c     cursor, get, scan
 *     inspect.c  stat, verify, compact
 *     dump.c     the files of a store, with offsets
 *
 * Standard output carries results only; everything said about them goes to standard error.
 */
#ifndef PLEAT_TOOLS_TOOL_H
#define PLEAT_TOOLS_TOOL_H

#include "pleat/pleat.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* Exit statuses; 128 + n after a clean end on signal n. `pleat help` documents them. */
enum tool_status {
    TOOL_OK = 0,
    TOOL_ABSENT = 1, /* the key or cursor is not there */
    TOOL_USAGE = 2,  /* the command line is wrong; nothing was done */
    TOOL_ERROR = 3,  /* a message on standard error says what */
    TOOL_TAIL = 4,   /* fold: the input ended inside a batch, which was not applied */
};

#define TOOL_MEMTABLE_MIB_MAX 7168 /* the library's limit of memtable_bytes */

struct tool_command {
    const char *name;
    const char *usage;                 /* what follows the name */
    const char *summary;               /* one line */
    const char *help;                  /* the options, one line each, and what else there is to say */
    int (*run)(int argc, char **argv); /* without program and command name; returns the exit status */
};

extern const struct tool_command command_fold;
extern const struct tool_command command_cursor;
extern const struct tool_command command_get;
extern const struct tool_command command_scan;
extern const struct tool_command command_stat;
extern const struct tool_command command_verify;
extern const struct tool_command command_compact;
extern const struct tool_command command_dump;

/* Prints "pleat NAME: ..." and returns TOOL_USAGE. */
int tool_usage(const struct tool_command *command, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Prints "pleat NAME: what: ..." (what may be NULL) with the error's text and status name; returns TOOL_ERROR. */
int tool_error(const struct tool_command *command, const char *what, const struct pleat_error *err);
/* Flushes standard output: `status`, or TOOL_ERROR with a message when any of the output could not be written. */
int tool_finish(const struct tool_command *command, int status);

/* Monotonic. */
uint64_t tool_now_ns(void);

/* ---- store.c ---------------------------------------------------------------------------------------------------- */

/* The files of a store's directory by kind, as far as they can be seen. */
struct store_files {
    uint64_t tables, table_bytes;
    uint64_t logs, log_bytes; /* as reserved on disk */
    uint64_t manifest_bytes;
};
void store_files_read(const char *path, struct store_files *ret_files);

/* Read-only: nothing is written or created. The memtables get room for all of the log that a killed writer left.
 * Returns 0, or the exit status with the message printed. *ret_db: owned, store_close. */
int store_open_read(const struct tool_command *command, const char *path, struct pleat_db **ret_db);
/* The space `name`, which must be there; NULL: the default space. */
int store_space(const struct tool_command *command, struct pleat_db *db, const struct pleat_slice *name,
                struct pleat_space **ret_space);
/* Closes; `status` unless that fails. db may be NULL. */
int store_close(const struct tool_command *command, struct pleat_db *db, int status);

#endif
