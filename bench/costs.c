/*
 * costs.c - what the engine does for its money, counted: bytes, reads, syncs, calls and allocations for fixed seeds.
 *
 *     costs FILE             counts and compares with FILE (bench/costs.csv); a difference is a failure
 *     costs --update FILE    writes FILE anew: accept a change, and say why in the commit
 *     costs                  prints
 *
 * No times: nothing here depends on the machine. The store runs on the simulated disk of the tests, without threads
 * (PLEAT_BACKGROUND_STEPS), each background job right after the commit that made it due; small sizes give it several
 * levels. A counting vfs stands in front of the disk, and a counting allocator behind the memory seam. Blocks are not
 * compressed, for the size of what LZ4 makes depends on its version.
 *
 * A figure is a whole number, or a ratio to four places. Which way is better is said by its name; bytes, reads, syncs,
 * calls and allocations: fewer.
 */
#include "db/db.h"
#include "load.h"
#include "support/failmem.h"
#include "support/simfs.h"

#include <inttypes.h>

#define GROUP 40
#define KEYS 16000
#define VALUE_BYTES 100
#define ROWS_MAX 128

struct row {
    char scenario[32];
    char counter[40];
    char value[32];
};

static struct row rows[ROWS_MAX];
static unsigned row_count;

struct counts {
    uint64_t calls;
    uint64_t reads;
    uint64_t bytes_read;
    uint64_t bytes_written; /* to tables and the manifest, and published to logs */
    uint64_t syncs;
    uint64_t allocations;
};

/* ---- the counting vfs: handles, clock and randomness are the disk's own ------------------------------------------ */

static const struct vfs *disk;
static struct vfs counting;
static struct counts counted;

static int count_dir_open(const struct vfs *vfs, const struct mem *mem, const char *path, enum vfs_dir_mode how,
                          uint32_t mode, struct vfs_dir **ret_dir, struct pleat_error *err) {
    (void)vfs;
    counted.calls++;
    return disk->dir_open(disk, mem, path, how, mode, ret_dir, err);
}

static int count_dir_sync(struct vfs_dir *dir, struct pleat_error *err) {
    counted.calls++;
    counted.syncs++;
    return disk->dir_sync(dir, err);
}

static int count_dir_rename(struct vfs_dir *dir, const char *from, const char *to, struct pleat_error *err) {
    counted.calls++;
    return disk->dir_rename(dir, from, to, err);
}

static int count_dir_unlink(struct vfs_dir *dir, const char *name, struct pleat_error *err) {
    counted.calls++;
    return disk->dir_unlink(dir, name, err);
}

static int count_file_open(struct vfs_dir *dir, const char *name, enum vfs_file_mode how, uint32_t mode,
                           struct vfs_file **ret_file, struct pleat_error *err) {
    counted.calls++;
    return disk->file_open(dir, name, how, mode, ret_file, err);
}

static int count_file_read(struct vfs_file *file, uint64_t offset, void *buffer, size_t n, struct pleat_error *err) {
    counted.calls++;
    counted.reads++;
    counted.bytes_read += n;
    return disk->file_read(file, offset, buffer, n, err);
}

static int count_file_write(struct vfs_file *file, uint64_t offset, const void *data, size_t n,
                            struct pleat_error *err) {
    counted.calls++;
    counted.bytes_written += n;
    return disk->file_write(file, offset, data, n, err);
}

static int count_file_sync(struct vfs_file *file, struct pleat_error *err) {
    counted.calls++;
    counted.syncs++;
    return disk->file_sync(file, err);
}

static int count_lock_read(struct vfs_lock *lock, uint64_t offset, void *buffer, size_t n, struct pleat_error *err) {
    counted.calls++;
    counted.reads++;
    counted.bytes_read += n;
    return disk->lock_read(lock, offset, buffer, n, err);
}

static int count_lock_write(struct vfs_lock *lock, uint64_t offset, const void *data, size_t n,
                            struct pleat_error *err) {
    counted.calls++;
    counted.bytes_written += n;
    return disk->lock_write(lock, offset, data, n, err);
}

static int count_lock_sync(struct vfs_lock *lock, struct pleat_error *err) {
    counted.calls++;
    counted.syncs++;
    return disk->lock_sync(lock, err);
}

static int count_log_create(struct vfs_dir *dir, const char *name, uint64_t bytes, bool by_write, uint32_t mode,
                            struct vfs_log **ret_log, struct pleat_error *err) {
    counted.calls++;
    return disk->log_create(dir, name, bytes, by_write, mode, ret_log, err);
}

/* Through a mapping this is no system call; the bytes count all the same. */
static int count_log_publish(struct vfs_log *log, uint64_t offset, size_t n, struct pleat_error *err) {
    counted.bytes_written += n;
    return disk->log_publish(log, offset, n, err);
}

static int count_log_sync(struct vfs_log *log, struct pleat_error *err) {
    counted.calls++;
    counted.syncs++;
    return disk->log_sync(log, err);
}

static void counting_init(struct simfs *fs) {
    disk = simfs_vfs(fs);
    counting = *disk;
    counting.dir_open = count_dir_open;
    counting.dir_sync = count_dir_sync;
    counting.dir_rename = count_dir_rename;
    counting.dir_unlink = count_dir_unlink;
    counting.file_open = count_file_open;
    counting.file_read = count_file_read;
    counting.file_write = count_file_write;
    counting.file_sync = count_file_sync;
    counting.lock_read = count_lock_read;
    counting.lock_write = count_lock_write;
    counting.lock_sync = count_lock_sync;
    counting.log_create = count_log_create;
    counting.log_publish = count_log_publish;
    counting.log_sync = count_log_sync;
}

/* ---- a store to be counted --------------------------------------------------------------------------------------- */

struct costs {
    const char *scenario;
    struct simfs *fs;
    struct failmem memory;
    struct pleat_db *db;
    struct pleat_space *space;
    struct pleat_batch *batch;
    struct load load;
    struct pleat_options options;
    uint64_t random;
    uint64_t bytes_given;
    uint64_t commits;
    struct counts begin;
    struct pleat_error err;
};

static void check(struct costs *costs, const char *what, bool right) {
    if (!right) {
        fprintf(stderr, "costs: %s: %s: %s\n", costs->scenario, what, costs->err.message);
        exit(1);
    }
}

static void add_row(struct costs *costs, const char *counter, const char *value) {
    check(costs, "too many rows", row_count < ROWS_MAX);
    struct row *row = &rows[row_count++];
    (void)snprintf(row->scenario, sizeof row->scenario, "%s", costs->scenario);
    (void)snprintf(row->counter, sizeof row->counter, "%s", counter);
    (void)snprintf(row->value, sizeof row->value, "%s", value);
}

static void count(struct costs *costs, const char *counter, uint64_t value) {
    char text[32];
    (void)snprintf(text, sizeof text, "%" PRIu64, value);
    add_row(costs, counter, text);
}

/* value / of to four places, rounded down, in whole numbers. */
static void ratio(struct costs *costs, const char *counter, uint64_t value, uint64_t of) {
    char text[64];
    uint64_t scaled = value * 10000 / of;
    (void)snprintf(text, sizeof text, "%" PRIu64 ".%04" PRIu64, scaled / 10000, scaled % 10000);
    add_row(costs, counter, text);
}

static struct counts now(const struct costs *costs) {
    struct counts counts = counted;
    counts.allocations = atomic_load(&costs->memory.calls);
    return counts;
}

static void open_store(struct costs *costs) {
    check(costs, "open",
          db_open_with("store", &costs->options, &counting, &costs->memory.mem, &costs->db, &costs->err) == 0);
    check(costs, "space",
          pleat_space_open(costs->db, (struct pleat_slice){"routes", 6},
                           PLEAT_SPACE_OPTIONS(.codec = PLEAT_CODEC_NONE, .block_bytes = 4096, .group_delimiter = '.',
                                               .group_delimiters = 2),
                           &costs->space, &costs->err) == 0);
    check(costs, "batch", pleat_batch_new(costs->db, &costs->batch, &costs->err) == 0);
}

static void close_store(struct costs *costs) {
    pleat_batch_free(costs->batch);
    check(costs, "close", pleat_close(costs->db, &costs->err) == 0);
}

static void begin(struct costs *costs, const char *scenario) {
    *costs = (struct costs){
        .scenario = scenario,
        .fs = simfs_new(1),
        .options = {.size = sizeof costs->options,
                    .background = PLEAT_BACKGROUND_STEPS,
                    .durability = PLEAT_SYNC_NONE,
                    .memtable_bytes = 256 << 10,
                    .table_bytes = 128 << 10,
                    .level_base_bytes = 512 << 10,
                    .level_ratio = 4,
                    .cache_bytes = 16 << 20},
    };
    failmem_init(&costs->memory);
    load_init(&costs->load, LOAD_ROUTE, KEYS, GROUP, VALUE_BYTES, true);
    counted = (struct counts){0};
    counting_init(costs->fs);
    open_store(costs);
    costs->begin = now(costs);
}

static void end(struct costs *costs) {
    close_store(costs);
    check(costs, "a handle or a block is left",
          simfs_open_handles(costs->fs) == 0 && atomic_load(&costs->memory.live) == 0);
    simfs_free(costs->fs);
    load_free(&costs->load);
}

static void work(struct costs *costs) {
    int rc;
    while ((rc = pleat_step(costs->db, &costs->err)) == 0) {
    }
    check(costs, "step", rc == PLEAT_END);
}

static void settle(struct costs *costs) {
    check(costs, "settle", pleat_settle(costs->db, NULL, NULL, &costs->err) == 0);
}

static void commit(struct costs *costs) {
    struct pleat_cursor cursor = {.value = {&costs->commits, sizeof costs->commits}};
    costs->commits++;
    check(costs, "cursor", pleat_batch_set_cursor(costs->batch, &cursor, &costs->err) == 0);
    check(costs, "commit", pleat_commit(costs->db, costs->batch, NULL, NULL, &costs->err) == 0);
    pleat_batch_clear(costs->batch);
}

static void put(struct costs *costs, uint64_t number) {
    uint8_t key[LOAD_KEY_BYTES_MAX], value[LOAD_VALUE_BYTES_MAX + 8];
    unsigned generation = load_next_generation(load_generation(&costs->load, number));
    struct slice k = load_key(&costs->load, number, key), v = load_value(&costs->load, number, generation, value);
    load_generation_set(&costs->load, number, generation);
    costs->bytes_given += k.bytes + v.bytes;
    check(costs, "put",
          pleat_batch_put(costs->batch, costs->space, (struct pleat_slice){k.data, k.bytes},
                          (struct pleat_slice){v.data, v.bytes}, &costs->err) == 0);
}

static void fold(struct costs *costs, uint64_t keys, uint64_t batch, bool in_order) {
    struct load_order order;
    load_order_init(&order, keys, in_order);
    for (uint64_t i = 0; i < keys; i++) {
        put(costs, load_order_at(&order, i));
        if ((i + 1) % batch == 0 || i + 1 == keys) {
            commit(costs);
            work(costs);
        }
    }
}

/* What was written since the scenario's begin, after settling. */
static void report_writing(struct costs *costs) {
    struct pleat_stats stats = {.size = sizeof stats};
    settle(costs);
    struct counts after = now(costs), *before = &costs->begin;
    check(costs, "stats", pleat_stats_read(costs->db, &stats, &costs->err) == 0);
    uint64_t tables = 0, file_bytes = 0;
    for (unsigned i = 0; i < PLEAT_LEVELS; i++) {
        tables += stats.levels[i].tables;
        file_bytes += stats.levels[i].file_bytes;
    }
    ratio(costs, "bytes written per byte given", after.bytes_written - before->bytes_written, costs->bytes_given);
    ratio(costs, "log bytes per commit", stats.bytes_log, costs->commits);
    count(costs, "bytes flushed", stats.bytes_flushed);
    count(costs, "bytes compacted in", stats.bytes_compacted_in);
    count(costs, "bytes compacted out", stats.bytes_compacted_out);
    count(costs, "flushes", stats.flushes);
    count(costs, "compactions", stats.compactions);
    count(costs, "moves", stats.moves);
    count(costs, "tables", tables);
    count(costs, "table bytes", file_bytes);
    ratio(costs, "syncs per commit", after.syncs - before->syncs, costs->commits);
    ratio(costs, "vfs calls per commit", after.calls - before->calls, costs->commits);
    ratio(costs, "allocations per commit", after.allocations - before->allocations, costs->commits);
}

/* ---- scenarios --------------------------------------------------------------------------------------------------- */

static void fold_scenario(const char *name, uint64_t batch, bool in_order) {
    struct costs costs;
    begin(&costs, name);
    fold(&costs, KEYS, batch, in_order);
    report_writing(&costs);
    end(&costs);
}

static void clustered_scenario(void) {
    struct costs costs;
    begin(&costs, "clustered");
    fold(&costs, KEYS, 100, false);
    settle(&costs);
    close_store(&costs);
    open_store(&costs); /* its counters start again */
    costs.begin = now(&costs);
    costs.bytes_given = costs.commits = 0;
    for (uint64_t i = 0; i < KEYS / GROUP; i += 10) {
        for (uint64_t k = 0; k < GROUP; k++) {
            put(&costs, i * GROUP + k);
        }
        commit(&costs);
        work(&costs);
    }
    report_writing(&costs);
    end(&costs);
}

/* Commits alone: no flush falls into them. */
static void commit_scenario(const char *name, uint32_t durability, uint64_t updates) {
    struct costs costs;
    begin(&costs, name);
    close_store(&costs);
    costs.options.durability = durability;
    costs.options.memtable_bytes = 8 << 20;
    open_store(&costs);
    put(&costs, 0);
    commit(&costs); /* the first one makes the memtable */
    costs.begin = now(&costs);
    costs.commits = 0;
    for (uint64_t i = 1; i <= 500; i++) {
        for (uint64_t k = 0; k < updates; k++) {
            put(&costs, (i * updates + k) % KEYS);
        }
        commit(&costs);
    }
    struct counts after = now(&costs);
    ratio(&costs, "log bytes per commit", after.bytes_written - costs.begin.bytes_written, costs.commits);
    ratio(&costs, "syncs per commit", after.syncs - costs.begin.syncs, costs.commits);
    ratio(&costs, "vfs calls per commit", after.calls - costs.begin.calls, costs.commits);
    ratio(&costs, "allocations per commit", after.allocations - costs.begin.allocations, costs.commits);
    end(&costs);
}

static void get_keys(struct costs *costs, bool absent, const char *what, uint64_t gets) {
    struct counts before = now(costs);
    char counter[64];
    for (uint64_t i = 0; i < gets; i++) {
        uint8_t key[LOAD_KEY_BYTES_MAX];
        struct pleat_value value;
        uint64_t number = load_below(&costs->random, KEYS);
        struct slice k = absent ? load_absent_key(&costs->load, number, key) : load_key(&costs->load, number, key);
        int rc = pleat_get(costs->space, NULL, (struct pleat_slice){k.data, k.bytes}, &value, &costs->err);
        unsigned generation = load_generation(&costs->load, number);
        check(costs, "get", rc == (absent || generation == 0 ? PLEAT_ABSENT : 0));
        if (rc == 0) {
            check(costs, "value",
                  load_value_is(&costs->load, number, generation, generation, (struct slice){value.data, value.bytes}));
            pleat_value_release(&value);
        }
    }
    struct counts after = now(costs);
    (void)snprintf(counter, sizeof counter, "reads per %s", what);
    ratio(costs, counter, after.reads - before.reads, gets);
    (void)snprintf(counter, sizeof counter, "bytes read per %s", what);
    ratio(costs, counter, after.bytes_read - before.bytes_read, gets);
    (void)snprintf(counter, sizeof counter, "allocations per %s", what);
    ratio(costs, counter, after.allocations - before.allocations, gets);
}

static int count_scanned(void *context, const struct pleat_row *row) {
    (void)row;
    ++*(uint64_t *)context;
    return 0;
}

static void scan_groups(struct costs *costs, const char *what, uint64_t scans) {
    struct counts before = now(costs);
    char counter[64];
    for (uint64_t i = 0; i < scans; i++) {
        uint8_t key[LOAD_KEY_BYTES_MAX];
        uint64_t first = load_below(&costs->random, KEYS / GROUP) * GROUP, found = 0;
        uint64_t expected = load_generation(&costs->load, first) != 0 ? GROUP : 0;
        (void)load_key(&costs->load, first, key);
        check(costs, "scan",
              pleat_scan(costs->space, PLEAT_ITER_OPTIONS(.prefix = {key, LOAD_PREFIX_BYTES}), count_scanned, &found,
                         &costs->err) == 0);
        check(costs, "rows of a group", found == expected);
    }
    struct counts after = now(costs);
    (void)snprintf(counter, sizeof counter, "reads per %s", what);
    ratio(costs, counter, after.reads - before.reads, scans);
    (void)snprintf(counter, sizeof counter, "allocations per %s", what);
    ratio(costs, counter, after.allocations - before.allocations, scans);
}

static void reading_scenario(const char *name, uint64_t cache_bytes) {
    struct costs costs;
    begin(&costs, name);
    fold(&costs, KEYS, 100, false);
    settle(&costs);
    close_store(&costs);
    costs.options.cache_bytes = cache_bytes;
    struct counts before = now(&costs);
    open_store(&costs);
    struct counts after = now(&costs);
    count(&costs, "reads to open", after.reads - before.reads);
    count(&costs, "bytes read to open", after.bytes_read - before.bytes_read);
    count(&costs, "allocations to open", after.allocations - before.allocations);
    costs.random = 1;
    get_keys(&costs, false, "first get", 2000);
    get_keys(&costs, false, "get", 4000);
    get_keys(&costs, true, "absent get", 4000);
    scan_groups(&costs, "prefix", 1000);
    uint64_t found = 0;
    before = now(&costs);
    check(&costs, "full scan", pleat_scan(costs.space, NULL, count_scanned, &found, &costs.err) == 0 && found == KEYS);
    count(&costs, "reads of a full scan", now(&costs).reads - before.reads);
    end(&costs);
}

static void deleting_scenario(void) {
    struct costs costs;
    uint8_t key[LOAD_KEY_BYTES_MAX];
    begin(&costs, "deleted");
    fold(&costs, KEYS, 100, false);
    settle(&costs);
    struct pleat_stats before = {.size = sizeof before}, after = {.size = sizeof after};
    check(&costs, "stats", pleat_stats_read(costs.db, &before, &costs.err) == 0);
    for (uint64_t i = KEYS / 4; i < KEYS / 2; i++) {
        struct slice k = load_key(&costs.load, i, key);
        check(&costs, "delete",
              pleat_batch_delete(costs.batch, costs.space, (struct pleat_slice){k.data, k.bytes}, &costs.err) == 0);
        load_generation_set(&costs.load, i, 0);
        if ((i + 1) % 100 == 0) {
            commit(&costs);
            work(&costs);
        }
    }
    settle(&costs);
    check(&costs, "stats", pleat_stats_read(costs.db, &after, &costs.err) == 0);
    uint64_t tombstones = 0;
    for (unsigned i = 0; i < PLEAT_LEVELS; i++) {
        tombstones += after.levels[i].tombstones;
    }
    count(&costs, "bytes flushed", after.bytes_flushed - before.bytes_flushed);
    count(&costs, "bytes compacted out", after.bytes_compacted_out - before.bytes_compacted_out);
    count(&costs, "tombstones left", tombstones);
    costs.random = 1;
    scan_groups(&costs, "prefix", 1000);
    end(&costs);
}

/* What a killed process leaves: a memtable that is in the log only. */
static void recovery_scenario(void) {
    struct costs costs;
    begin(&costs, "recovery");
    fold(&costs, 1000, 10, false);
    struct simfs *image = simfs_crash(costs.fs, SIMFS_KILL, 1);
    end(&costs);
    costs.fs = image;
    costs.scenario = "recovery";
    failmem_init(&costs.memory);
    load_init(&costs.load, LOAD_ROUTE, KEYS, GROUP, VALUE_BYTES, true);
    counted = (struct counts){0};
    counting_init(image);
    open_store(&costs);
    struct counts after = now(&costs);
    count(&costs, "reads", after.reads);
    count(&costs, "bytes read", after.bytes_read);
    count(&costs, "bytes written", after.bytes_written);
    count(&costs, "syncs", after.syncs);
    count(&costs, "vfs calls", after.calls);
    count(&costs, "allocations", after.allocations);
    end(&costs);
}

/* ---- the file ---------------------------------------------------------------------------------------------------- */

static const char head[] = "scenario,counter,value";

static void write_rows(FILE *file) {
    fprintf(file, "%s\n", head);
    for (unsigned i = 0; i < row_count; i++) {
        fprintf(file, "%s,%s,%s\n", rows[i].scenario, rows[i].counter, rows[i].value);
    }
}

static const struct row *find_row(const char *scenario, const char *counter) {
    for (unsigned i = 0; i < row_count; i++) {
        if (strcmp(rows[i].scenario, scenario) == 0 && strcmp(rows[i].counter, counter) == 0) {
            return &rows[i];
        }
    }
    return NULL;
}

/* Differences between the file and what was counted, in both directions. */
static unsigned compare(FILE *file, const char *path) {
    char line[256];
    unsigned differences = 0, known = 0;
    while (fgets(line, sizeof line, file) != NULL) {
        char *scenario = strtok(line, ","), *counter = strtok(NULL, ","), *value = strtok(NULL, "\n");
        if (scenario == NULL || counter == NULL || value == NULL || strcmp(scenario, "scenario") == 0) {
            continue;
        }
        const struct row *row = find_row(scenario, counter);
        known += row != NULL;
        if (row == NULL || strcmp(row->value, value) != 0) {
            fprintf(stderr, "%s, %s: was %s, is %s\n", scenario, counter, value, row != NULL ? row->value : "gone");
            differences++;
        }
    }
    if (known != row_count) {
        fprintf(stderr, "%u counters are not in %s\n", row_count - known, path);
        differences++;
    }
    return differences;
}

int main(int argc, char **argv) {
    bool update = argc == 3 && strcmp(argv[1], "--update") == 0;
    const char *path = argc > 1 ? argv[argc - 1] : NULL;
    if (argc > 3 || (argc == 3 && !update) || (argc == 2 && argv[1][0] == '-')) {
        fprintf(stderr, "usage: costs [[--update] FILE]\n");
        return 2;
    }
    fold_scenario("fold random", 100, false);
    fold_scenario("fold in order", 100, true);
    fold_scenario("fold batches of 1", 1, false);
    clustered_scenario();
    commit_scenario("commit", PLEAT_SYNC_NONE, 1);
    commit_scenario("commit of 100", PLEAT_SYNC_NONE, 100);
    commit_scenario("commit synced", PLEAT_SYNC_EACH, 1);
    reading_scenario("reading cached", 16 << 20);
    reading_scenario("reading uncached", 128 << 10); /* the page of the filter fits beside some blocks */
    deleting_scenario();
    recovery_scenario();
    if (path == NULL) {
        write_rows(stdout);
        return 0;
    }
    FILE *file = fopen(path, update ? "w" : "r");
    if (file == NULL) {
        perror(path);
        return 2;
    }
    unsigned differences = 0;
    if (update) {
        write_rows(file);
    } else {
        differences = compare(file, path);
    }
    (void)fclose(file);
    if (differences > 0) {
        fprintf(
            stderr,
            "costs: %u differences. If they are meant: `costs --update bench/costs.csv`, and the commit says why.\n",
            differences);
        return 1;
    }
    printf("costs: %u counters%s\n", row_count, update ? " written" : " as they were");
    return 0;
}
