/*
 * bench.c - the driver: one engine, one course, one line a figure. `bench/report` runs it for many and draws the page.
 *
 *     bench ENGINE --dir DIR [--course NAME] [--keys N] ...        see usage()
 *
 * Each stage of a course is a child process (bench.h). Whatever a store answers is compared with what it must answer;
 * the first wrong answer ends the run with exit status 1 and a line that names engine, course, stage and key. The seed
 * of everything random is fixed, so a run is the same again.
 */
#include "bench.h"

#include <dlfcn.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* ---- figures ---------------------------------------------------------------------------------------------------- */

static void json_head(const struct bench *bench, const char *name) {
    fprintf(bench->json, "{\"engine\":\"%s\",\"course\":\"%s\",\"stage\":\"%s\",\"name\":\"%s\",", bench->engine_name,
            bench->course, bench->stage, name);
}

void bench_figure(const struct bench *bench, const char *name, const char *unit, double value) {
    if (bench->json != NULL) {
        json_head(bench, name);
        fprintf(bench->json, "\"unit\":\"%s\",\"value\":%.17g}\n", unit, value);
    } else {
        printf("%-10s %-9s %-10s %-32s %16.3f %s\n", bench->engine_name, bench->course, bench->stage, name, value,
               unit);
    }
}

void bench_latencies(const struct bench *bench, const char *name, const struct histogram *histogram) {
    static const struct {
        const char *suffix;
        double share;
    } points[] = {{"p50", 0.5}, {"p99", 0.99}, {"p999", 0.999}};
    char title[96];
    for (size_t i = 0; i < sizeof points / sizeof points[0]; i++) {
        (void)snprintf(title, sizeof title, "%s_%s", name, points[i].suffix);
        bench_figure(bench, title, "ns", (double)histogram_at(histogram, points[i].share));
    }
    (void)snprintf(title, sizeof title, "%s_max", name);
    bench_figure(bench, title, "ns", (double)histogram->max);
}

static void json_array(FILE *json, const char *name, const uint64_t *values, unsigned count) {
    fprintf(json, ",\"%s\":[", name);
    for (unsigned i = 0; i < count; i++) {
        fprintf(json, "%s%" PRIu64, i > 0 ? "," : "", values[i]);
    }
    fprintf(json, "]");
}

void bench_timeline(const struct bench *bench, const char *name, const struct timeline *timeline) {
    unsigned count = TIMELINE_SLOTS;
    if (bench->json == NULL) {
        return;
    }
    while (count > 1 && timeline->batches[count - 1] == 0) {
        count--;
    }
    json_head(bench, name);
    fprintf(bench->json, "\"slot_ns\":%" PRIu64, timeline->width);
    json_array(bench->json, "max_ns", timeline->max, count);
    json_array(bench->json, "updates", timeline->updates, count);
    fprintf(bench->json, "}\n");
}

void bench_text(const struct bench *bench, const char *name, const char *text) {
    if (bench->json == NULL) {
        printf("%-10s %-9s %-10s %-32s %s\n", bench->engine_name, bench->course, bench->stage, name, text);
        return;
    }
    json_head(bench, name);
    fprintf(bench->json, "\"text\":\"");
    for (; *text != '\0'; text++) {
        if (*text != '"' && *text != '\\' && (unsigned char)*text >= ' ') {
            fputc(*text, bench->json);
        }
    }
    fprintf(bench->json, "\"}\n");
}

void bench_wrong(const struct bench *bench, const char *format, ...) {
    va_list arguments;
    fprintf(stderr, "WRONG ANSWER of %s in course %s, stage %s, %" PRIu64 " keys: ", bench->engine_name, bench->course,
            bench->stage, bench->load.keys);
    va_start(arguments, format);
    (void)vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\n");
    _exit(1);
}

bool bench_is_empty(const struct bench *bench) {
    return strcmp(bench->engine->name, "empty") == 0;
}

/* ---- stages ----------------------------------------------------------------------------------------------------- */

static void load_engine(struct bench *bench) {
    void *module = dlopen(bench->module, RTLD_NOW | RTLD_LOCAL);
    if (module == NULL) {
        engine_fail(bench->engine_name, "dlopen", dlerror());
    }
    bench->engine = dlsym(module, ENGINE_SYMBOL);
    if (bench->engine == NULL) {
        engine_fail(bench->engine_name, "dlsym", dlerror());
    }
}

/* Once a second, for engines whose interval mode is not their own. */
static void *sync_now_and_then(void *context) {
    struct bench *bench = context;
    while (!atomic_load(&bench->syncer_stop)) {
        for (int i = 0; i < 100 && !atomic_load(&bench->syncer_stop); i++) {
            (void)usleep(10000);
        }
        (void)pthread_mutex_lock(&bench->syncer_mu);
        bench->engine->sync(bench->store);
        (void)pthread_mutex_unlock(&bench->syncer_mu);
    }
    return NULL;
}

void bench_open(struct bench *bench, uint64_t cache_bytes) {
    struct engine_options options = {
        .path = bench->dir,
        .library = bench->library,
        .cache_bytes = cache_bytes,
        .memtable_bytes = bench->memtable_bytes,
        .data_bytes_max = bench->load.keys * (bench->load.key_bytes + bench->load.value_bytes),
        .durability = bench->durability,
    };
    bench->store = bench->engine->open(&options);
    bench->session = bench->engine->session_open(bench->store, &bench->echo);
    if (bench->durability == DURABILITY_INTERVAL && !bench->engine->syncs_itself) {
        (void)pthread_mutex_init(&bench->syncer_mu, NULL);
        atomic_store(&bench->syncer_stop, false);
        bench->syncer_runs = pthread_create(&bench->syncer, NULL, sync_now_and_then, bench) == 0;
    }
}

void bench_settle(struct bench *bench) {
    if (bench->syncer_runs) {
        (void)pthread_mutex_lock(&bench->syncer_mu);
    }
    bench->engine->settle(bench->store);
    if (bench->syncer_runs) {
        (void)pthread_mutex_unlock(&bench->syncer_mu);
    }
}

void bench_close(struct bench *bench) {
    if (bench->syncer_runs) {
        atomic_store(&bench->syncer_stop, true);
        (void)pthread_join(bench->syncer, NULL);
        bench->syncer_runs = false;
    }
    bench->engine->session_close(bench->session);
    bench->engine->close(bench->store);
}

static pid_t running_child;

static void stop_child(int signal_number) {
    if (running_child > 0) {
        (void)kill(running_child, SIGKILL);
    }
    _exit(128 + signal_number);
}

void bench_run(struct bench *bench, const char *name, bench_stage *stage, bool dies) {
    int status;
    bench->stage = name;
    (void)fflush(NULL);
    running_child = fork();
    if (running_child == 0) {
        (void)signal(SIGINT, SIG_DFL);
        (void)signal(SIGTERM, SIG_DFL);
        load_engine(bench);
        bench->random = 1;
        stage(bench);
        (void)fflush(NULL);
        _exit(0);
    }
    if (running_child < 0 || waitpid(running_child, &status, 0) != running_child) {
        engine_fail("bench", "fork", "no child");
    }
    running_child = 0;
    bool right =
        dies ? WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL : WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (!right) {
        fprintf(stderr, "%s, course %s: stage %s ended with status 0x%x\n", bench->engine_name, bench->course, name,
                (unsigned)status);
        exit(1);
    }
}

/* ---- courses ---------------------------------------------------------------------------------------------------- */

static void shape(struct bench *bench, uint64_t keys, uint32_t group, uint32_t value_bytes, bool compressible,
                  uint64_t batch, bool in_order) {
    keys = keys < group ? group : keys / group * group;
    load_init(&bench->load, LOAD_ROUTE, keys, group, value_bytes, compressible);
    load_order_init(&bench->order, keys, in_order);
    bench->batch = batch;
}

/* The main one: the route fold, and everything that is asked of it. */
static void course_routes(struct bench *bench) {
    shape(bench, bench->keys, 40, 100, true, 100, false);
    bench_run(bench, "fold", stage_fold, false);
    bench_run(bench, "reopen", stage_reopen, false);
    bench_run(bench, "read", stage_read, false);
    bench_run(bench, "small", stage_read_small, false);
    bench_run(bench, "update", stage_update, false);
    bench_run(bench, "mixed", stage_mixed, false);
    bench_run(bench, "churn", stage_churn, false);
    bench_run(bench, "kill", stage_kill, true);
    bench_run(bench, "killed", stage_reopen, false);
}

/* The fold and reads at rest only: for scaling over size. */
static void course_scale(struct bench *bench) {
    shape(bench, bench->keys, 40, 100, true, 100, false);
    bench->reads_are_short = true;
    bench_run(bench, "fold", stage_fold, false);
    bench_run(bench, "read", stage_read, false);
    bench_run(bench, "small", stage_read_small, false);
}

static void course_wide(struct bench *bench) {
    bench->reads_are_short = true;
    shape(bench, bench->keys, 1000, 200, false, 1024, true);
    bench_run(bench, "fold", stage_fold, false);
    bench_run(bench, "read", stage_read, false);
}

static void course_tiny(struct bench *bench) {
    bench->reads_are_short = true;
    shape(bench, bench->keys, 40, 16, true, 100, false);
    bench_run(bench, "fold", stage_fold, false);
    bench_run(bench, "read", stage_read, false);
}

static void fold_and_overwrite(struct bench *bench, uint64_t batch, bool in_order) {
    shape(bench, bench->keys, 40, 100, true, batch, in_order);
    bench_run(bench, "fold", stage_fold, false);
    bench_run(bench, "overwrite", stage_overwrite, false);
}

static void course_batch1(struct bench *bench) {
    fold_and_overwrite(bench, 1, false);
}

static void course_batch10(struct bench *bench) {
    fold_and_overwrite(bench, 10, false);
}

static void course_batch1000(struct bench *bench) {
    fold_and_overwrite(bench, 1000, false);
}

static void course_ordered(struct bench *bench) {
    fold_and_overwrite(bench, 100, true);
}

static void course_durable(struct bench *bench) {
    shape(bench, bench->keys, 40, 100, true, 1, false);
    bench->durability = DURABILITY_EACH;
    bench_run(bench, "synced", stage_durable, false);
}

static void course_ycsb(struct bench *bench) {
    uint64_t keys = bench->keys < 100 ? 100 : bench->keys;
    load_init(&bench->load, LOAD_USER, keys, 1, 1000, true);
    load_order_init(&bench->order, keys, false);
    bench->batch = 1;
    bench_run(bench, "load", stage_ycsb_load, false);
    bench_run(bench, "run", stage_ycsb, false);
}

static const struct {
    const char *name;
    void (*run)(struct bench *bench);
    const char *what;
} courses[] = {
    {"routes", course_routes, "the route fold: fold, reopen, reads, small cache, updates, mixed, churn, kill"},
    {"scale", course_scale, "the same fold and its reads at rest only"},
    {"wide", course_wide, "in order, 1,000 to a group, 200 incompressible bytes, batches of 1,024"},
    {"tiny", course_tiny, "16-byte values"},
    {"batch1", course_batch1, "fold and overwrite in batches of 1"},
    {"batch10", course_batch10, "fold and overwrite in batches of 10"},
    {"batch1000", course_batch1000, "fold and overwrite in batches of 1,000"},
    {"ordered", course_ordered, "fold and overwrite in order, batches of 100"},
    {"durable", course_durable, "each commit synced: one writer, four writers"},
    {"ycsb", course_ycsb, "YCSB A to F, 1,000-byte records"},
};
#define COURSES (sizeof courses / sizeof courses[0])

/* ---- the command ------------------------------------------------------------------------------------------------ */

static void usage(FILE *to) {
    fprintf(to, "usage: bench ENGINE --dir DIR [options]\n"
                "       bench ENGINE --describe           name and tuning of the engine, as JSON\n"
                "  --dir DIR             made for the run, and must not exist; removed when the run succeeds\n"
                "  --course NAME         default routes\n"
                "  --keys N              default 1000000\n"
                "  --durability MODE     none (default), interval or each\n"
                "  --cache MIB           default 1024, or what holds the data several times\n"
                "  --small-cache MIB     of the reads with a small cache; default 32\n"
                "  --memtable MIB        default 64\n"
                "  --seconds S           of parts that run for a time; default 3\n"
                "  --touch MIB           memory to write to and give back before the first stage; default 0\n"
                "  --library PATH        another build of RocksDB or LevelDB\n"
                "  --modules DIR         where the engines' modules are; default: beside the program\n"
                "  --json FILE           append figures as lines of JSON\n"
                "  --keep                leave DIR\n"
                "courses:\n");
    for (size_t i = 0; i < COURSES; i++) {
        fprintf(to, "  %-10s %s\n", courses[i].name, courses[i].what);
    }
}

struct arguments {
    const char *modules;
    const char *json;
    uint64_t touch_bytes;
    bool describe;
    bool keep;
};

static bool parse_value(struct bench *bench, struct arguments *arguments, const char *name, const char *value) {
    if (strcmp(name, "--dir") == 0) {
        bench->dir = value;
    } else if (strcmp(name, "--course") == 0) {
        bench->course = value;
    } else if (strcmp(name, "--keys") == 0) {
        bench->keys = strtoull(value, NULL, 10);
    } else if (strcmp(name, "--durability") == 0) {
        bench->durability = strcmp(value, "each") == 0       ? DURABILITY_EACH
                            : strcmp(value, "interval") == 0 ? DURABILITY_INTERVAL
                                                             : DURABILITY_NONE;
        return bench->durability != DURABILITY_NONE || strcmp(value, "none") == 0;
    } else if (strcmp(name, "--cache") == 0) {
        bench->cache_bytes = strtoull(value, NULL, 10) << 20;
    } else if (strcmp(name, "--small-cache") == 0) {
        bench->cache_small_bytes = strtoull(value, NULL, 10) << 20;
    } else if (strcmp(name, "--memtable") == 0) {
        bench->memtable_bytes = strtoull(value, NULL, 10) << 20;
    } else if (strcmp(name, "--seconds") == 0) {
        bench->seconds = strtod(value, NULL);
    } else if (strcmp(name, "--touch") == 0) {
        arguments->touch_bytes = strtoull(value, NULL, 10) << 20;
    } else if (strcmp(name, "--library") == 0) {
        bench->library = value;
    } else if (strcmp(name, "--modules") == 0) {
        arguments->modules = value;
    } else if (strcmp(name, "--json") == 0) {
        arguments->json = value;
    } else {
        return false;
    }
    return true;
}

static bool parse(struct bench *bench, struct arguments *arguments, int argc, char **argv) {
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "--keep") == 0) {
            arguments->keep = true;
        } else if (strcmp(argv[i], "--describe") == 0) {
            arguments->describe = true;
        } else if (i + 1 < argc && parse_value(bench, arguments, argv[i], argv[i + 1])) {
            i++;
        } else {
            fprintf(stderr, "bench: unknown argument, or a wrong value: %s\n", argv[i]);
            return false;
        }
    }
    return bench->keys > 0 && bench->seconds > 0;
}

static void find_module(struct bench *bench, const char *modules, const char *program, char *path, size_t bytes) {
    char folder[4000];
    (void)snprintf(folder, sizeof folder, "%s", modules != NULL ? modules : program);
    char *slash = strrchr(folder, '/');
    if (modules == NULL && slash != NULL) {
        *slash = '\0';
    }
    (void)snprintf(path, bytes, "%s%s/engine_%s.so", folder[0] == '/' ? "" : "./", folder, bench->engine_name);
    bench->module = path;
}

static void remove_store(const char *dir) {
    char command[4096];
    if (strchr(dir, '\'') == NULL && strlen(dir) < sizeof command - 16) {
        (void)snprintf(command, sizeof command, "rm -rf -- '%s'", dir);
        (void)!system(command); /* NOLINT: the directory that this run made */
    }
}

/* The cache holds the data with all that is around it, and memory allows it or the system will say. */
static void choose_cache(struct bench *bench) {
    if (bench->cache_bytes == 0) {
        uint64_t wanted = bench->keys * 320;
        bench->cache_bytes = wanted > (1u << 30) ? wanted : 1u << 30;
    }
}

/* A virtual machine gets its memory page by page from its host, at some microseconds a page, from whoever comes to a
 * page first: it should not be the engine that is measured. In a child, so that it is in nobody's figures. */
static void touch_memory(uint64_t bytes) {
    if (bytes == 0) {
        return;
    }
    pid_t child = running_child = fork();
    if (child == 0) {
        (void)signal(SIGINT, SIG_DFL);
        (void)signal(SIGTERM, SIG_DFL);
        uint8_t *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        (void)madvise(memory, bytes, MADV_HUGEPAGE); /* what lies together is what no small page has touched yet */
        for (uint64_t at = 0; memory != MAP_FAILED && at < bytes; at += 4096) {
            *(volatile uint8_t *)(memory + at) = 1;
        }
        _exit(memory == MAP_FAILED);
    }
    int status = 1;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0) { /* figures are as good as without it */
        fprintf(stderr, "bench: --touch %llu: there is not so much memory, none was touched\n",
                (unsigned long long)(bytes >> 20));
    }
    running_child = 0;
}

int main(int argc, char **argv) {
    struct bench bench = {
        .course = "routes",
        .keys = 1000000,
        .cache_small_bytes = 32u << 20,
        .memtable_bytes = 64u << 20,
        .seconds = 3,
    };
    struct arguments arguments = {0};
    char module[4096];
    if (argc < 2 || argv[1][0] == '-' || !parse(&bench, &arguments, argc, argv) ||
        (bench.dir == NULL && !arguments.describe)) {
        usage(argc == 2 && strcmp(argv[1], "--help") == 0 ? stdout : stderr);
        return 2;
    }
    bench.engine_name = argv[1];
    find_module(&bench, arguments.modules, argv[0], module, sizeof module);
    if (arguments.describe) {
        load_engine(&bench);
        printf("{\"name\":\"%s\",\"tuning\":\"%s\"}\n", bench.engine->name, bench.engine->tuning);
        return 0;
    }
    bench.shared = mmap(NULL, sizeof *bench.shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (bench.shared == MAP_FAILED || mkdir(bench.dir, 0700) != 0) {
        engine_fail("bench", bench.dir, "cannot be made, or is there already");
    }
    bench.json = arguments.json != NULL ? fopen(arguments.json, "a") : NULL;
    if (arguments.json != NULL && bench.json == NULL) {
        engine_fail("bench", arguments.json, "cannot be opened");
    }
    choose_cache(&bench);
    (void)signal(SIGINT, stop_child);
    (void)signal(SIGTERM, stop_child);
    touch_memory(arguments.touch_bytes);
    for (size_t i = 0; i < COURSES; i++) {
        if (strcmp(courses[i].name, bench.course) == 0) {
            courses[i].run(&bench);
            load_free(&bench.load);
            if (!arguments.keep) {
                remove_store(bench.dir);
            }
            return 0;
        }
    }
    fprintf(stderr, "bench: no course %s\n", bench.course);
    remove_store(bench.dir);
    return 2;
}
