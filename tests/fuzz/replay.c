/*
 * replay.c - runs a fuzz target over inputs that are kept: `replay_TARGET [PATH]...`, each a file or a directory.
 *
 * Prints how many inputs were run; none at all is a failure, for then the corpus is not where the test looks. So is an
 * input that takes longer than SECONDS_MAX: a hostile file must not make anyone wait. An input that fails aborts the
 * program; the line before names it.
 */
#include "fuzz/fuzz.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

#define SECONDS_MAX 10.0

static unsigned long inputs;
static bool slow;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void replay_file(const char *path, size_t bytes) {
    FILE *file = fopen(path, "rb");
    uint8_t *data = malloc(bytes > 0 ? bytes : 1);
    FUZZ_CHECK_TEXT(file != NULL && data != NULL, "%s", path);
    FUZZ_CHECK_TEXT(fread(data, 1, bytes, file) == bytes, "%s", path);
    fclose(file);
    fprintf(stderr, "input: %s\n", path);
    double begin = now();
    (void)LLVMFuzzerTestOneInput(data, bytes);
    double seconds = now() - begin;
    if (seconds > SECONDS_MAX) {
        fprintf(stderr, "SLOW: %s took %.1f s\n", path, seconds);
        slow = true;
    }
    free(data);
    inputs++;
}

static void replay_path(const char *path) {
    struct stat info;
    if (stat(path, &info) != 0) {
        return; /* a target without past crashers has no folder of them */
    }
    if (!S_ISDIR(info.st_mode)) {
        replay_file(path, (size_t)info.st_size);
        return;
    }
    struct dirent **entries;
    int count = scandir(path, &entries, NULL, alphasort);
    for (int i = 0; i < count; i++) {
        char inner[4096];
        if (entries[i]->d_name[0] != '.') {
            (void)snprintf(inner, sizeof inner, "%s/%s", path, entries[i]->d_name);
            replay_path(inner);
        }
        free(entries[i]);
    }
    if (count >= 0) {
        free(entries);
    }
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        replay_path(argv[i]);
    }
    printf("%lu inputs%s\n", inputs,
           inputs == 0 ? ": the corpus is empty or not there"
           : slow      ? ", some too slow"
                       : "");
    return inputs == 0 || slow;
}
