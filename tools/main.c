/*
 * main.c - the `pleat` command: takes its place in the system, picks the command, prints help.
 */
#include "tool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const struct tool_command *const commands[] = {
    &command_fold, &command_cursor, &command_get,     &command_scan,
    &command_stat, &command_verify, &command_compact, &command_dump,
};
enum { COMMANDS = sizeof commands / sizeof commands[0] };

int tool_usage(const struct tool_command *command, const char *format, ...) {
    va_list arguments;
    fprintf(stderr, "pleat %s: ", command->name);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, " (pleat help %s)\n", command->name);
    return TOOL_USAGE;
}

int tool_error(const struct tool_command *command, const char *what, const struct pleat_error *err) {
    fprintf(stderr, "pleat %s: %s%s%s (%s)\n", command->name, what != NULL ? what : "", what != NULL ? ": " : "",
            err->message, pleat_status_name(err->code));
    return TOOL_ERROR;
}

int tool_finish(const struct tool_command *command, int status) {
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "pleat %s: standard output: %s\n", command->name, strerror(errno));
        return TOOL_ERROR;
    }
    return status;
}

uint64_t tool_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static const struct tool_command *command_find(const char *name) {
    for (size_t i = 0; i < COMMANDS; i++) {
        if (strcmp(commands[i]->name, name) == 0) {
            return commands[i];
        }
    }
    return NULL;
}

static void help_print(FILE *file) {
    fprintf(file, "pleat %s - an ordered on-disk store for folds of change streams\n\n", pleat_version());
    for (size_t i = 0; i < COMMANDS; i++) {
        fprintf(file, "  pleat %-8s %s\n", commands[i]->name, commands[i]->summary);
    }
    fprintf(file, "  pleat %-8s %s\n\n", "help", "this text, or that of one command: pleat help COMMAND");
    fputs("Keys, values and cursors are bytes; as text they have the escapes \\t \\n \\\\ \\0.\n"
          "Reading commands open the store read-only and change nothing. While one runs nobody can write the\n"
          "store, and beside a writer all but dump are refused.\n\n"
          "Exit status: 0 done; 1 the key or cursor is not there; 2 wrong usage; 3 an error, named on standard error;\n"
          "4 fold: the input ended inside a batch, which was not applied; 128+n ended cleanly by signal n.\n",
          file);
}

static int help_run(int argc, char **argv) {
    if (argc == 0) {
        help_print(stdout);
    } else {
        const struct tool_command *command = command_find(argv[0]);
        if (command == NULL) {
            fprintf(stderr, "pleat: there is no command \"%s\" (pleat help)\n", argv[0]);
            return TOOL_USAGE;
        }
        printf("pleat %s %s\n\n%s.\n\n%s", command->name, command->usage, command->summary, command->help);
    }
    return fflush(stdout) == 0 ? TOOL_OK : TOOL_ERROR;
}

/* Descriptors 0 to 2 that are closed are taken, so that no pipe and no file gets their numbers: by something that
 * answers EBADF to what they are for, but for messages, which are lost. */
static void standard_take(void) {
    static const int flags[] = {O_WRONLY, O_RDONLY, O_WRONLY};
    for (int fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) == -1 && open("/dev/null", flags[fd]) != fd) {
            _exit(TOOL_ERROR);
        }
    }
}

int main(int argc, char **argv) {
    standard_take();
    if (argc < 2) {
        help_print(stderr);
        return TOOL_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "--version") == 0) {
        printf("pleat %s\n", pleat_version());
        return fflush(stdout) == 0 ? TOOL_OK : TOOL_ERROR;
    }
    if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0) {
        return help_run(argc - 2, argv + 2);
    }
    const struct tool_command *command = command_find(name);
    if (command == NULL) {
        return help_run(1, argv + 1);
    }
    for (int i = 2; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0) {
            return help_run(1, argv + 1);
        }
    }
    return tool_finish(command, command->run(argc - 2, argv + 2));
}
