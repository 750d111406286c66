/*
 * fold.c - `pleat fold`: applies a change stream to a store.
 *
 *     stream record -> batch ... commit record -> cursor into the batch -> pleat_commit
 *
 * A batch is what stands between two commit records. It is applied with its cursor or not at all, so after any end of
 * this process (of its input, an error, a signal, SIGKILL) the stored cursor says what has been applied, and `--resume`
 * takes a stream that is replayed from its start on from there.
 *
 *   U1  Nothing of a batch is applied before its commit record was read whole and accepted.
 *   U2  While skipping (--resume), nothing is applied. If the stored cursor never comes, nothing was.
 */
#include "args.h"
#include "escape.h"
#include "stream.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

enum { CURSOR_CHARACTERS = 40, CURSOR_TEXT_BYTES = 4 * CURSOR_CHARACTERS + 3, PROGRESS_NS = 1000000000 };

struct fold {
    /* as asked for */
    struct pleat_options options;
    struct pleat_space_options grouping;
    enum stream_format format;
    struct args_bytes space_name, cursor_name;
    bool resume, settle, quiet;

    struct pleat_db *db;
    struct pleat_space *space;
    struct pleat_batch *batch;
    struct stream stream;
    bool skipping;
    struct pleat_cursor_value stored; /* while skipping: where to */
    uint64_t updates, batches, skipped_updates, skipped_batches;
    bool progress; /* there is a terminal to show it on */
    uint64_t begin_ns, shown_ns, shown_updates;
};

/* Set by the handler. The pipe wakes a poll; the flag is for everything that does not wait. */
static volatile sig_atomic_t stop_signal;
static int stop_pipe[2] = {-1, -1};

static void on_stop(int number) {
    int saved = errno;
    stop_signal = number;
    (void)!write(stop_pipe[1], "", 1);
    errno = saved;
}

/* The first signal ends cleanly, a second one of its kind at once. */
static int stop_install(void) {
    struct sigaction action = {.sa_handler = on_stop, .sa_flags = (int)SA_RESETHAND};
    sigemptyset(&action.sa_mask);
    if (pipe2(stop_pipe, O_CLOEXEC | O_NONBLOCK) != 0 || sigaction(SIGINT, &action, NULL) != 0 ||
        sigaction(SIGTERM, &action, NULL) != 0) {
        fprintf(stderr, "pleat fold: signals: %s\n", strerror(errno));
        return TOOL_ERROR;
    }
    return 0;
}

/* ---- what is said ----------------------------------------------------------------------------------------------- */

/* ret_text has room for CURSOR_TEXT_BYTES. */
static void cursor_text(struct fold *fold, enum pleat_position position, char *ret_text) {
    struct pleat_cursor_value cursor;
    struct pleat_error err;
    int rc = pleat_cursor_read(fold->db, fold->cursor_name.slice, position, &cursor, &err);
    if (rc == 0) {
        escape_shorten((struct pleat_slice){cursor.value, cursor.bytes}, CURSOR_CHARACTERS, ret_text);
    } else {
        (void)snprintf(ret_text, CURSOR_TEXT_BYTES, "%s", rc == PLEAT_ABSENT ? "none" : "?");
    }
}

static void progress_show(void *context) {
    struct fold *fold = context;
    uint64_t now = tool_now_ns();
    if (!fold->progress || now - fold->shown_ns < PROGRESS_NS) {
        return;
    }
    char applied[CURSOR_TEXT_BYTES], durable[CURSOR_TEXT_BYTES];
    double rate = (double)(fold->updates - fold->shown_updates) / ((double)(now - fold->shown_ns) / 1e9);
    cursor_text(fold, PLEAT_APPLIED, applied);
    cursor_text(fold, PLEAT_DURABLE, durable);
    fprintf(stderr, "\r\033[K%s%" PRIu64 " updates, %" PRIu64 " batches, %.2f M/s, applied %s, durable %s",
            fold->skipping ? "skipping; " : "", fold->updates, fold->batches, rate / 1e6, applied, durable);
    fold->shown_ns = now;
    fold->shown_updates = fold->updates;
}

static void progress_end(struct fold *fold) {
    if (fold->progress) {
        fputs("\r\033[K", stderr);
    }
}

static int settle_show(void *context, const struct pleat_progress *progress) {
    struct fold *fold = context;
    uint64_t now = tool_now_ns();
    if (fold->progress && now - fold->shown_ns >= PROGRESS_NS) {
        fprintf(stderr, "\r\033[Ksettling: %.1f MiB written, about %.1f MiB left",
                (double)progress->done_bytes / 1048576, (double)progress->debt_bytes / 1048576);
        fold->shown_ns = now;
    }
    return stop_signal != 0;
}

static void summary_show(struct fold *fold, uint64_t end_ns) {
    char applied[CURSOR_TEXT_BYTES];
    double seconds = (double)(end_ns - fold->begin_ns) / 1e9;
    cursor_text(fold, PLEAT_APPLIED, applied);
    fprintf(stderr, "folded %" PRIu64 " updates in %" PRIu64 " batches", fold->updates, fold->batches);
    if (fold->skipped_batches > 0) {
        fprintf(stderr, ", after skipping %" PRIu64 " updates in %" PRIu64 " batches", fold->skipped_updates,
                fold->skipped_batches);
    }
    fprintf(stderr, ": %.2f s, %.2f M updates/s; cursor %s\n", seconds,
            seconds > 0 ? (double)fold->updates / seconds / 1e6 : 0.0, applied);
}

/* ---- records ---------------------------------------------------------------------------------------------------- */

/* An error of the store about the record at hand. */
static int fold_record_error(struct fold *fold, const struct pleat_error *err) {
    char what[48];
    progress_end(fold);
    (void)snprintf(what, sizeof what, "%s %" PRIu64, stream_unit(&fold->stream), fold->stream.number);
    return tool_error(&command_fold, what, err);
}

static int fold_update(struct fold *fold, const struct stream_record *record) {
    struct pleat_error err;
    if (fold->skipping) {
        fold->skipped_updates++;
        return 0;
    }
    int rc = record->kind == STREAM_PUT ? pleat_batch_put(fold->batch, fold->space, record->key, record->value, &err)
                                        : pleat_batch_delete(fold->batch, fold->space, record->key, &err);
    return rc < 0 ? fold_record_error(fold, &err) : 0;
}

static int fold_commit(struct fold *fold, struct pleat_slice cursor) {
    struct pleat_error err;
    if (fold->skipping) {
        fold->skipped_batches++;
        fold->skipping =
            cursor.bytes != fold->stored.bytes || memcmp(cursor.data, fold->stored.value, cursor.bytes) != 0;
        progress_show(fold);
        return 0;
    }
    struct pleat_cursor set = {.name = fold->cursor_name.slice, .value = cursor};
    if (pleat_batch_set_cursor(fold->batch, &set, &err) < 0 ||
        pleat_commit(fold->db, fold->batch, NULL, NULL, &err) < 0) {
        return fold_record_error(fold, &err);
    }
    fold->updates += pleat_batch_count(fold->batch);
    fold->batches++;
    pleat_batch_clear(fold->batch);
    progress_show(fold);
    return 0;
}

/* All records of the stream. Returns the exit status so far; *ret_tail: the updates behind the last commit. */
static int fold_records(struct fold *fold, enum stream_result *ret_result, uint64_t *ret_tail) {
    struct stream_record record;
    uint64_t tail = 0;
    int status = 0;
    enum stream_result result = STREAM_RECORD;
    while (status == 0 && result == STREAM_RECORD) {
        if (tail == 0 && stop_signal != 0) {
            result = STREAM_STOPPED;
            break;
        }
        result = stream_next(&fold->stream, &record);
        if (result != STREAM_RECORD) {
            break;
        }
        if (record.kind == STREAM_COMMIT) {
            status = fold_commit(fold, record.key);
            tail = status == 0 ? 0 : tail;
        } else {
            status = fold_update(fold, &record);
            tail++;
        }
    }
    *ret_result = result;
    *ret_tail = tail;
    return status;
}

/* How the stream ended, said and as an exit status. */
static int fold_end(struct fold *fold, enum stream_result result, uint64_t tail) {
    progress_end(fold);
    if (result == STREAM_BAD) {
        if (fold->stream.error_is_input) {
            fprintf(stderr, "pleat fold: %s %" PRIu64 ": %s; nothing of its batch was applied\n",
                    stream_unit(&fold->stream), fold->stream.number, fold->stream.error);
        } else {
            fprintf(stderr, "pleat fold: %s\n", fold->stream.error);
        }
        return TOOL_ERROR;
    }
    if (result == STREAM_STOPPED) {
        fprintf(stderr, "pleat fold: ended by signal %d behind the last commit; resume from there\n", (int)stop_signal);
        return 128 + (int)stop_signal;
    }
    if (fold->skipping) {
        fprintf(stderr,
                "pleat fold: the stored cursor (%zu bytes) never came in %" PRIu64
                " commits of the input: nothing was applied\n",
                fold->stored.bytes, fold->skipped_batches);
        return TOOL_ERROR;
    }
    if (tail > 0 || result == STREAM_CUT) {
        fprintf(stderr, "pleat fold: the input ended %s: %" PRIu64 " updates behind the last commit were not applied\n",
                result == STREAM_CUT ? "inside a record" : "without a commit", tail);
        return TOOL_TAIL;
    }
    return TOOL_OK;
}

/* ---- the command ------------------------------------------------------------------------------------------------ */

static int fold_open(struct fold *fold, const char *path) {
    struct pleat_error err;
    if (pleat_open(path, &fold->options, &fold->db, &err) < 0) {
        return tool_error(&command_fold, NULL, &err);
    }
    fold->space = pleat_default_space(fold->db);
    if (fold->space_name.given &&
        pleat_space_open(fold->db, fold->space_name.slice, &fold->grouping, &fold->space, &err) < 0) {
        return tool_error(&command_fold, "--space", &err);
    }
    int rc = pleat_batch_new(fold->db, &fold->batch, &err);
    if (rc == 0 && fold->resume) {
        rc = pleat_cursor_read(fold->db, fold->cursor_name.slice, PLEAT_APPLIED, &fold->stored, &err);
        fold->skipping = rc == 0; /* without a stored cursor the stream is taken from its start */
    }
    return rc < 0 ? tool_error(&command_fold, NULL, &err) : 0;
}

static int fold_settle(struct fold *fold) {
    struct pleat_error err;
    uint64_t begin = tool_now_ns();
    int rc = pleat_settle(fold->db, settle_show, fold, &err);
    progress_end(fold);
    if (rc == PLEAT_ERR_CANCELLED) {
        return 128 + (int)stop_signal;
    }
    if (rc == 0 && !fold->quiet) {
        fprintf(stderr, "settled after %.2f s\n", (double)(tool_now_ns() - begin) / 1e9);
    }
    return rc < 0 ? tool_error(&command_fold, "settle", &err) : 0;
}

static int fold_execute(struct fold *fold, const char *path) {
    enum stream_result result;
    uint64_t tail;
    fold->stream = (struct stream){.format = fold->format,
                                   .fd = STDIN_FILENO,
                                   .stop_fd = stop_pipe[0],
                                   .idle_ms = fold->progress ? 1000 : -1,
                                   .on_idle = progress_show,
                                   .context = fold};
    int status = fold_open(fold, path);
    if (status == 0 && stream_start(&fold->stream) < 0) {
        fputs("pleat fold: no memory for the input's buffer\n", stderr);
        status = TOOL_ERROR;
    }
    if (status == 0) {
        fold->begin_ns = fold->shown_ns = tool_now_ns();
        status = fold_records(fold, &result, &tail);
        uint64_t end_ns = tool_now_ns();
        status = status == 0 ? fold_end(fold, result, tail) : status;
        if (!fold->quiet) {
            summary_show(fold, end_ns);
        }
    }
    if (fold->settle && (status == TOOL_OK || status == TOOL_TAIL)) {
        int settled = fold_settle(fold);
        status = settled != 0 ? settled : status;
    }
    stream_finish(&fold->stream);
    pleat_batch_free(fold->batch);
    return store_close(&command_fold, fold->db, status);
}

static int fold_choice(const char *option, const char *given, const char *const *names, int *ret_index) {
    for (int i = 0; names[i] != NULL; i++) {
        if (strcmp(given, names[i]) == 0) {
            *ret_index = i;
            return 0;
        }
    }
    return tool_usage(&command_fold, "%s: there is no \"%s\"", option, given);
}

static int fold_run(int argc, char **argv) {
    struct fold fold = {.options = {.size = sizeof fold.options}, .grouping = {.size = sizeof fold.grouping}};
    const char *format = "lines", *durability = "interval";
    struct args_bytes delimiter = {.given = false};
    uint64_t delimiters = 0, memtable_mib = 0, cache_mib = 0;
    int format_index = 0, durability_index = 0;
    char *path;
    const struct args_option options[] = {
        {"--format", ARGS_TEXT, &format, 0, 0},
        {"--resume", ARGS_FLAG, &fold.resume, 0, 0},
        {"--space", ARGS_BYTES, &fold.space_name, 0, 0},
        {"--cursor", ARGS_BYTES, &fold.cursor_name, 0, 0},
        {"--durability", ARGS_TEXT, &durability, 0, 0},
        {"--memtable", ARGS_NUMBER, &memtable_mib, 1, TOOL_MEMTABLE_MIB_MAX},
        {"--cache", ARGS_NUMBER, &cache_mib, 1, 1 << 24},
        {"--group-delimiter", ARGS_BYTES, &delimiter, 0, 0},
        {"--group-delimiters", ARGS_NUMBER, &delimiters, 1, 64},
        {"--settle", ARGS_FLAG, &fold.settle, 0, 0},
        {"--quiet", ARGS_FLAG, &fold.quiet, 0, 0},
        {NULL, ARGS_FLAG, NULL, 0, 0},
    };
    int status = args_parse(&command_fold, argc, argv, options, &path, 1);
    status = status == 0 ? fold_choice("--format", format, (const char *[]){"lines", "framed", NULL}, &format_index)
                         : status;
    status = status == 0 ? fold_choice("--durability", durability, (const char *[]){"interval", "each", "none", NULL},
                                       &durability_index)
                         : status;
    if (status == 0 && (delimiter.given != (delimiters > 0) || (delimiter.given && delimiter.slice.bytes != 1))) {
        status = tool_usage(&command_fold, "--group-delimiter, one byte, and --group-delimiters go together");
    }
    if (status == 0 && delimiters > 0 && !fold.space_name.given) {
        status = tool_usage(&command_fold, "groups need a --space of their own: the default space has none");
    }
    status = status == 0 ? stop_install() : status;
    if (status != 0) {
        return status;
    }
    fold.format = format_index == 0 ? STREAM_LINES : STREAM_FRAMED;
    fold.options.durability = PLEAT_SYNC_INTERVAL + (uint32_t)durability_index;
    fold.options.memtable_bytes = memtable_mib << 20;
    fold.options.cache_bytes = cache_mib << 20;
    if (delimiters > 0) {
        fold.grouping.group_delimiters = (uint32_t)delimiters;
        fold.grouping.group_delimiter = *(const uint8_t *)delimiter.slice.data;
    }
    fold.progress = !fold.quiet && isatty(STDERR_FILENO);
    return fold_execute(&fold, path);
}

const struct tool_command command_fold = {
    .name = "fold",
    .usage = "DIR [options] < STREAM",
    .summary = "Applies a change stream from standard input to the store in DIR",
    .help =
        "Lines (the default), with the escapes \\t \\n \\\\ \\0:\n"
        "    put<TAB>key<TAB>value        del<TAB>key        commit<TAB>cursor\n"
        "Framed, for any bytes, one record a line:\n"
        "    +klen,vlen:key->value        -klen:key          =clen:cursor\n\n"
        "A batch is what stands between two commits. It is applied whole, together with its cursor, or not at all.\n"
        "What stands behind the last commit is not applied, and the exit status is then 4. A malformed line ends the\n"
        "fold with status 3 and its number; earlier batches stay. SIGINT and SIGTERM end it behind a commit.\n\n"
        "  --format lines|framed          the stream's format\n"
        "  --resume                       skip everything up to and including the commit whose cursor is stored; an\n"
        "                                 error when that one never comes; no cursor stored: from the start\n"
        "  --space NAME                   fold into this space, created when missing; default: the default space\n"
        "  --cursor NAME                  the name of the cursor; default: the empty name\n"
        "  --durability each|interval|none   when commits reach the disk: each before the next; in the background at\n"
        "                                 least once a second (default); when tables are written and at the end\n"
        "  --memtable MIB, --cache MIB    sizes; default 64 and 256\n"
        "  --group-delimiter C --group-delimiters N   when the space is created: keys up to and including N bytes C\n"
        "                                 are a group, whose prefix reads skip tables\n"
        "  --settle                       at the end, wait until no compaction is left to do\n"
        "  --quiet                        no progress and no summary, only errors\n",
    .run = fold_run,
};
