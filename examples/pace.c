/*
 * pace.c - passes a change stream on slowly, so that a demonstration has time to interrupt its reader.
 *
 *     pace MICROSECONDS [CURSOR]
 *
 * Copies lines from standard input to standard output and pauses behind each commit line; not before the commit of
 * CURSOR has passed, if one is named.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int main(int argc, char **argv) {
    if (argc < 2 || argc > 3) {
        fputs("usage: pace MICROSECONDS [CURSOR]\n", stderr);
        return 2;
    }
    long pause_us = strtol(argv[1], NULL, 10);
    const char *after = argc > 2 && argv[2][0] != '\0' ? argv[2] : NULL;
    struct timespec pause = {.tv_sec = pause_us / 1000000, .tv_nsec = pause_us % 1000000 * 1000};
    char *line = NULL;
    size_t capacity = 0;
    ssize_t bytes;
    while ((bytes = getline(&line, &capacity, stdin)) > 0) {
        fwrite(line, 1, (size_t)bytes, stdout);
        if (strncmp(line, "commit\t", 7) != 0) {
            continue;
        }
        if (after == NULL) {
            fflush(stdout);
            nanosleep(&pause, NULL);
        } else if ((size_t)bytes == strlen(after) + 8 && memcmp(line + 7, after, strlen(after)) == 0) {
            after = NULL;
        }
    }
    free(line);
    return fflush(stdout) == 0 ? 0 : 1;
}
