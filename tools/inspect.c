/* inspect.c - `pleat stat`, `pleat verify`, `pleat compact`: how the store is. */
#include "args.h"
#include "escape.h"

#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

static const struct args_option no_option = {NULL, ARGS_FLAG, NULL, 0, 0};

static double mib(uint64_t bytes) {
    return (double)bytes / 1048576;
}

/* ---- stat ------------------------------------------------------------------------------------------------------- */

struct stat_print {
    struct pleat_db *db;
    bool json;
    const char *comma; /* before the next element */
};

static int stat_space(void *context, struct pleat_slice name) {
    struct stat_print *print = context;
    if (print->json) {
        printf("%s\"", print->comma);
        escape_print_json(stdout, name);
        putchar('"');
        print->comma = ", ";
    } else {
        fputs("space        ", stdout);
        escape_print(stdout, name);
        putchar('\n');
    }
    return 0;
}

static int stat_cursor(void *context, struct pleat_slice name, const struct pleat_cursor_value *cursor) {
    struct stat_print *print = context;
    struct pleat_slice value = {cursor->value, cursor->bytes};
    if (print->json) {
        printf("%s{\"name\": \"", print->comma);
        escape_print_json(stdout, name);
        fputs("\", \"cursor\": \"", stdout);
        escape_print_json(stdout, value);
        fputs("\"}", stdout);
        print->comma = ", ";
    } else {
        putchar('"');
        escape_print(stdout, name);
        fputs("\" = ", stdout);
        escape_print(stdout, value);
        putchar('\n');
    }
    return 0;
}

static int stat_cursor_applied(void *context, struct pleat_slice name, const struct pleat_cursor_value *cursor) {
    fputs("cursor applied  ", stdout);
    return stat_cursor(context, name, cursor);
}

static int stat_cursor_durable(void *context, struct pleat_slice name, const struct pleat_cursor_value *cursor) {
    fputs("cursor durable  ", stdout);
    return stat_cursor(context, name, cursor);
}

static int stat_text(struct pleat_db *db, const struct pleat_stats *stats, const struct store_files *files,
                     struct pleat_error *err) {
    struct stat_print print = {.db = db, .json = false, .comma = ""};
    printf("history      %" PRIu64 "\n", stats->history);
    printf("sequence     %" PRIu64 " applied, %" PRIu64 " durable\n", stats->applied_sequence, stats->durable_sequence);
    int rc = pleat_cursor_list(db, PLEAT_APPLIED, stat_cursor_applied, &print, err);
    rc = rc == 0 ? pleat_cursor_list(db, PLEAT_DURABLE, stat_cursor_durable, &print, err) : rc;
    rc = rc == 0 ? pleat_space_list(db, stat_space, &print, err) : rc;
    for (unsigned level = 0; level < PLEAT_LEVELS; level++) {
        const struct pleat_level_stats *at = &stats->levels[level];
        if (at->tables > 0) {
            printf("level %u      %" PRIu64 " tables, %.1f MiB, %" PRIu64 " entries, %" PRIu64 " tombstones\n", level,
                   at->tables, mib(at->file_bytes), at->entries, at->tombstones);
        }
    }
    printf("memtables    %" PRIu64 " entries, %.1f MiB\n", stats->memtable_entries,
           mib(stats->memtable_bytes + stats->frozen_bytes));
    printf("cache        %.1f of %.1f MiB\n", mib(stats->cache_used_bytes), mib(stats->cache_capacity_bytes));
    printf("debt         %.1f MiB of compaction\n", mib(stats->debt_bytes));
    printf("files        %" PRIu64 " tables %.1f MiB, %" PRIu64 " log segments %.1f MiB, manifest %" PRIu64 " bytes\n",
           files->tables, mib(files->table_bytes), files->logs, mib(files->log_bytes), files->manifest_bytes);
    return rc;
}

static int stat_json(struct pleat_db *db, const struct pleat_stats *stats, const struct store_files *files,
                     struct pleat_error *err) {
    struct stat_print print = {.db = db, .json = true, .comma = ""};
    printf("{\"history\": %" PRIu64 ", \"applied_sequence\": %" PRIu64 ", \"durable_sequence\": %" PRIu64
           ",\n \"cursors_applied\": [",
           stats->history, stats->applied_sequence, stats->durable_sequence);
    int rc = pleat_cursor_list(db, PLEAT_APPLIED, stat_cursor, &print, err);
    print.comma = "";
    fputs("],\n \"cursors_durable\": [", stdout);
    rc = rc == 0 ? pleat_cursor_list(db, PLEAT_DURABLE, stat_cursor, &print, err) : rc;
    print.comma = "";
    fputs("],\n \"spaces\": [", stdout);
    rc = rc == 0 ? pleat_space_list(db, stat_space, &print, err) : rc;
    fputs("],\n \"levels\": [", stdout);
    for (unsigned level = 0; level < PLEAT_LEVELS; level++) {
        const struct pleat_level_stats *at = &stats->levels[level];
        printf("%s{\"tables\": %" PRIu64 ", \"file_bytes\": %" PRIu64 ", \"entries\": %" PRIu64
               ", \"tombstones\": %" PRIu64 "}",
               level > 0 ? ",\n            " : "", at->tables, at->file_bytes, at->entries, at->tombstones);
    }
    printf("],\n \"memtables\": {\"entries\": %" PRIu64 ", \"bytes\": %" PRIu64 "},\n", stats->memtable_entries,
           stats->memtable_bytes + stats->frozen_bytes);
    printf(" \"cache\": {\"capacity_bytes\": %" PRIu64 ", \"used_bytes\": %" PRIu64 "},\n \"debt_bytes\": %" PRIu64
           ",\n",
           stats->cache_capacity_bytes, stats->cache_used_bytes, stats->debt_bytes);
    printf(" \"files\": {\"tables\": %" PRIu64 ", \"table_bytes\": %" PRIu64 ", \"log_segments\": %" PRIu64
           ", \"log_bytes\": %" PRIu64 ", \"manifest_bytes\": %" PRIu64 "}}\n",
           files->tables, files->table_bytes, files->logs, files->log_bytes, files->manifest_bytes);
    return rc;
}

static int stat_run(int argc, char **argv) {
    bool json = false;
    char *path;
    const struct args_option options[] = {{"--json", ARGS_FLAG, &json, 0, 0}, no_option};
    struct pleat_db *db = NULL;
    int status = args_parse(&command_stat, argc, argv, options, &path, 1);
    status = status == 0 ? store_open_read(&command_stat, path, &db) : status;
    if (status != 0) {
        return status;
    }
    struct pleat_stats stats = {.size = sizeof stats};
    struct store_files files;
    struct pleat_error err;
    store_files_read(path, &files);
    int rc = pleat_stats_read(db, &stats, &err);
    if (rc == 0) {
        rc = json ? stat_json(db, &stats, &files, &err) : stat_text(db, &stats, &files, &err);
    }
    status = rc < 0 ? tool_error(&command_stat, NULL, &err) : TOOL_OK;
    return store_close(&command_stat, db, status);
}

const struct tool_command command_stat = {
    .name = "stat",
    .usage = "DIR [--json]",
    .summary = "Prints positions, cursors, spaces, levels, cache and compaction debt",
    .help = "  --json   as JSON; in names and cursors each byte is one character U+0000 to U+00FF\n\n"
            "The store is opened for this: what a log holds is counted in the memtables, the cache is that of this\n"
            "process.\n",
    .run = stat_run,
};

/* ---- verify ----------------------------------------------------------------------------------------------------- */

static int verify_run(int argc, char **argv) {
    char *path;
    struct pleat_db *db = NULL;
    int status = args_parse(&command_verify, argc, argv, &no_option, &path, 1);
    status = status == 0 ? store_open_read(&command_verify, path, &db) : status;
    if (status != 0) {
        return status;
    }
    struct pleat_check check = {0};
    struct pleat_error err;
    uint64_t begin = tool_now_ns();
    if (pleat_check(db, &check, &err) < 0) {
        status = tool_error(&command_verify, NULL, &err);
        fprintf(stderr, "pleat verify: %" PRIu64 " tables were sound up to there\n", check.tables);
    } else {
        printf("manifest     %" PRIu64 " edits: identity, checksums, order, that every edit fits its predecessors\n",
               check.manifest_edits);
        printf("log          %" PRIu64 " segments, %" PRIu64 " commits behind the tables: identity, the chain between "
               "segments, checksums, dense sequences\n",
               check.log_segments, check.log_records);
        printf("tables       %" PRIu64 " with %" PRIu64 " blocks and %" PRIu64
               " entries: every checksum, that they are "
               "the manifest's, key order inside and between blocks and tables, index, filters, counts\n",
               check.tables, check.blocks, check.entries);
        printf("sound        %" PRIu64 " bytes read in %.2f s\n", check.bytes, (double)(tool_now_ns() - begin) / 1e9);
    }
    return store_close(&command_verify, db, status);
}

const struct tool_command command_verify = {
    .name = "verify",
    .usage = "DIR",
    .summary = "Reads all of the store and checks every checksum and every order",
    .help =
        "Says what was checked, or names the first damage by file, offset, expected and found (status 3). The store\n"
        "is opened read-only; nothing is repaired.\n",
    .run = verify_run,
};

/* ---- compact ---------------------------------------------------------------------------------------------------- */

struct compact {
    bool progress;
    uint64_t shown_ns;
};

static int compact_show(void *context, const struct pleat_progress *progress) {
    struct compact *compact = context;
    uint64_t now = tool_now_ns();
    if (compact->progress && now - compact->shown_ns >= 1000000000u) {
        fprintf(stderr, "\r\033[K%.1f MiB written, about %.1f MiB of debt left", mib(progress->done_bytes),
                mib(progress->debt_bytes));
        compact->shown_ns = now;
    }
    return 0;
}

static int compact_run(int argc, char **argv) {
    struct args_bytes space_name = {.given = false};
    char *path;
    const struct args_option options[] = {{"--space", ARGS_BYTES, &space_name, 0, 0}, no_option};
    int status = args_parse(&command_compact, argc, argv, options, &path, 1);
    if (status != 0) {
        return status;
    }
    struct pleat_db *db = NULL;
    struct pleat_space *space;
    struct pleat_error err;
    if (pleat_open(path, PLEAT_OPTIONS(.open_mode = PLEAT_MUST_EXIST), &db, &err) < 0) {
        return tool_error(&command_compact, NULL, &err);
    }
    struct compact compact = {.progress = isatty(STDERR_FILENO) != 0, .shown_ns = tool_now_ns()};
    struct store_files before, after;
    store_files_read(path, &before);
    uint64_t begin = compact.shown_ns;
    status = store_space(&command_compact, db, space_name.given ? &space_name.slice : NULL, &space);
    if (status == 0) {
        int rc = pleat_compact(space, compact_show, &compact, &err);
        fputs(compact.progress ? "\r\033[K" : "", stderr);
        status = rc < 0 ? tool_error(&command_compact, NULL, &err) : TOOL_OK;
    }
    status = store_close(&command_compact, db, status);
    if (status == 0) {
        store_files_read(path, &after);
        printf("compacted    %" PRIu64 " tables %.1f MiB to %" PRIu64 " tables %.1f MiB in %.2f s\n", before.tables,
               mib(before.table_bytes), after.tables, mib(after.table_bytes), (double)(tool_now_ns() - begin) / 1e9);
    }
    return status;
}

const struct tool_command command_compact = {
    .name = "compact",
    .usage = "DIR [--space NAME]",
    .summary = "Rewrites all tables of a space into its last level, dropping what is no longer visible",
    .help = "  --space NAME   this space; default: the default space\n",
    .run = compact_run,
};
