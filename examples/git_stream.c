/*
 * git_stream.c - the history of a git repository as a change stream.
 *
 *     git log -m --first-parent --reverse --raw -z --no-renames --no-abbrev --format='commit %H' | git_stream
 *     git ls-tree -r -z --full-tree COMMIT | git_stream --tree
 *
 * One commit becomes one batch: put path -> "mode id", del path, commit id. With --tree the lines are what a scan of
 * the fold must print for that commit.
 *
 * The log is a sequence of texts that end with NUL: "commit ID"; then for each change ":mode mode id id status" (the
 * first with a newline in front) and its path.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_escaped(const char *text) {
    for (; *text != '\0'; text++) {
        switch (*text) {
        case '\t':
            fputs("\\t", stdout);
            break;
        case '\n':
            fputs("\\n", stdout);
            break;
        case '\\':
            fputs("\\\\", stdout);
            break;
        default:
            putchar(*text);
        }
    }
}

/* Reads one text up to its NUL; false at the end of the input. */
static bool read_text(char **text, size_t *capacity) {
    ssize_t bytes = getdelim(text, capacity, '\0', stdin);
    if (bytes > 0 && (*text)[bytes - 1] != '\0') {
        fputs("git_stream: the input is cut short\n", stderr);
        exit(1);
    }
    return bytes > 0;
}

static void malformed(const char *text) {
    fprintf(stderr, "git_stream: not of git log --raw -z --no-abbrev, nor of git ls-tree -z: \"%.60s\"\n", text);
    exit(1);
}

/* ":oldmode newmode oldid newid status", and the path behind it. */
static void change_print(const char *change, const char *path) {
    char old_mode[8], new_mode[8], old_id[80], new_id[80], status[8];
    if (sscanf(change, ":%7s %7s %79s %79s %7s", old_mode, new_mode, old_id, new_id, status) != 5) {
        malformed(change);
    }
    fputs(status[0] == 'D' ? "del\t" : "put\t", stdout);
    print_escaped(path);
    if (status[0] != 'D') {
        printf("\t%s %s", new_mode, new_id);
    }
    putchar('\n');
}

static int history_print(void) {
    char *text = NULL, *path = NULL, id[80] = "";
    size_t text_capacity = 0, path_capacity = 0;
    while (read_text(&text, &text_capacity)) {
        const char *start = text[0] == '\n' ? text + 1 : text;
        if (start[0] == ':') {
            if (!read_text(&path, &path_capacity)) {
                malformed(start);
            }
            change_print(start, path);
            continue;
        }
        if (id[0] != '\0') {
            printf("commit\t%s\n", id);
        }
        if (sscanf(start, "commit %79s", id) != 1) {
            malformed(start);
        }
    }
    if (id[0] != '\0') {
        printf("commit\t%s\n", id);
    }
    free(text);
    free(path);
    return fflush(stdout) == 0 ? 0 : 1;
}

/* "mode type id<TAB>path". */
static int tree_print(void) {
    char *text = NULL, mode[8], type[16], id[80];
    size_t capacity = 0;
    while (read_text(&text, &capacity)) {
        const char *tab = strchr(text, '\t');
        if (tab == NULL || sscanf(text, "%7s %15s %79s", mode, type, id) != 3) {
            malformed(text);
        }
        print_escaped(tab + 1);
        printf("\t%s %s\n", mode, id);
    }
    free(text);
    return fflush(stdout) == 0 ? 0 : 1;
}

int main(int argc, char **argv) {
    bool tree = argc == 2 && strcmp(argv[1], "--tree") == 0;
    if (argc > 1 && !tree) {
        fputs("usage: git log ... | git_stream    git ls-tree ... | git_stream --tree\n", stderr);
        return 2;
    }
    return tree ? tree_print() : history_print();
}
