/* args.c - see args.h. */
#include "args.h"

#include "escape.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

int args_decode(const struct tool_command *command, const char *what, char *text, struct pleat_slice *ret_slice) {
    size_t bytes = strlen(text);
    if (!escape_decode((uint8_t *)text, &bytes)) {
        return tool_usage(command, "%s: unknown escape, there are \\t \\n \\\\ \\0", what);
    }
    *ret_slice = (struct pleat_slice){text, bytes};
    return 0;
}

static int args_number(const struct tool_command *command, const struct args_option *option, const char *text) {
    char *end;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0) {
        return tool_usage(command, "%s takes a number, not \"%s\"", option->name, text);
    }
    if (number < option->least || number > option->most) {
        return tool_usage(command, "%s is %llu, the limits are %" PRIu64 " to %" PRIu64, option->name, number,
                          option->least, option->most);
    }
    *(uint64_t *)option->to = number;
    return 0;
}

static int args_value(const struct tool_command *command, const struct args_option *option, char *text) {
    if (option->kind == ARGS_TEXT) {
        *(const char **)option->to = text;
        return 0;
    }
    if (option->kind == ARGS_NUMBER) {
        return args_number(command, option, text);
    }
    struct args_bytes *bytes = option->to;
    bytes->given = true;
    return args_decode(command, option->name, text, &bytes->slice);
}

static const struct args_option *args_find(const struct args_option *options, const char *name, size_t name_bytes) {
    for (; options->name != NULL; options++) {
        if (strlen(options->name) == name_bytes && memcmp(options->name, name, name_bytes) == 0) {
            return options;
        }
    }
    return NULL;
}

/* The option argv[*at]; moves *at on over a value that it takes. */
static int args_option(const struct tool_command *command, int argc, char **argv, int *at,
                       const struct args_option *options) {
    char *text = argv[*at];
    char *equals = strchr(text, '=');
    size_t name_bytes = equals != NULL ? (size_t)(equals - text) : strlen(text);
    const struct args_option *option = args_find(options, text, name_bytes);
    if (option == NULL) {
        return tool_usage(command, "there is no option %.*s", (int)name_bytes, text);
    }
    if (option->kind == ARGS_FLAG) {
        if (equals != NULL) {
            return tool_usage(command, "%s takes no value", option->name);
        }
        *(bool *)option->to = true;
        return 0;
    }
    if (equals == NULL && *at + 1 >= argc) {
        return tool_usage(command, "%s takes a value", option->name);
    }
    return args_value(command, option, equals != NULL ? equals + 1 : argv[++*at]);
}

int args_parse(const struct tool_command *command, int argc, char **argv, const struct args_option *options,
               char **positional, int count) {
    int found = 0;
    bool options_ended = false;
    for (int i = 0; i < argc; i++) {
        if (!options_ended && strcmp(argv[i], "--") == 0) {
            options_ended = true;
        } else if (!options_ended && argv[i][0] == '-' && argv[i][1] != '\0') {
            int status = args_option(command, argc, argv, &i, options);
            if (status != 0) {
                return status;
            }
        } else if (found < count) {
            positional[found++] = argv[i];
        } else {
            return tool_usage(command, "there is nothing that \"%s\" could be", argv[i]);
        }
    }
    return found == count ? 0 : tool_usage(command, "usage: pleat %s %s", command->name, command->usage);
}
