/*
 * args.h - the options and positional arguments of one command.
 *
 * An option is `--name`, with its value in the next argument or behind `=`; options may stand anywhere; `--` ends them.
 * What is given twice: the later wins.
 */
#ifndef PLEAT_TOOLS_ARGS_H
#define PLEAT_TOOLS_ARGS_H

#include "tool.h"

enum args_kind {
    ARGS_FLAG,   /* bool */
    ARGS_TEXT,   /* const char *, as given */
    ARGS_BYTES,  /* struct args_bytes, escapes decoded */
    ARGS_NUMBER, /* uint64_t, within least .. most */
};

struct args_bytes {
    bool given;
    struct pleat_slice slice; /* borrowed from argv */
};

struct args_option {
    const char *name; /* with the dashes; a NULL ends the table */
    enum args_kind kind;
    void *to;
    uint64_t least, most;
};

/* Fills in what the options point to and exactly `count` positional arguments. Decodes escapes in place, inside argv.
 * Returns 0, or TOOL_USAGE with the message printed. */
int args_parse(const struct tool_command *command, int argc, char **argv, const struct args_option *options,
               char **positional, int count);
/* Decodes the escapes of a positional argument: 0, or TOOL_USAGE with the message printed. */
int args_decode(const struct tool_command *command, const char *what, char *text, struct pleat_slice *ret_slice);

#endif
