/*
 * test_store_disk.c - the whole store on a simulated disk: scenes that random runs have found, each made from scratch.
 */
#include "db/db.h"
#include "platform/thread.h"
#include "support/random.h"
#include "support/simfs.h"
#include "version/registry_internal.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

static struct simfs *fs;
static struct pleat_db *db;
static struct pleat_batch *batch;
static struct pleat_error err;
static uint64_t memtable_bytes;
static bool log_by_write;
static int background;
static struct vfs watched; /* the disk's, with what a scene puts in front of it */

static void begin(void) {
    fs = simfs_new(7);
    watched = *simfs_vfs(fs);
    memtable_bytes = 2048;
    log_by_write = true;
    background = PLEAT_BACKGROUND_STEPS;
}

static void end(void) {
    pleat_batch_free(batch);
    (void)pleat_close(db, NULL);
    simfs_free(fs);
}

/* Another scene in the same test, on a fresh disk. */
static void start_over(void) {
    end();
    batch = NULL;
    db = NULL;
    begin();
}

TestSuite(store_disk, .init = begin, .fini = end);

/* Step mode and, unless a scene says otherwise, a log that is written, so that its calls can fail one by one. */
static int try_open(const struct vfs *vfs) {
    struct pleat_options *options =
        PLEAT_OPTIONS(.background = background, .memtable_bytes = memtable_bytes,
                      .durability = PLEAT_SYNC_NONE, .log_by_write = log_by_write);
    db = NULL;
    return db_open_with("store", options, vfs, &mem_system, &db, &err);
}

static void open_store(void) {
    cr_assert_eq(try_open(simfs_vfs(fs)), 0, "open: %s", err.message);
    cr_assert_eq(pleat_batch_new(db, &batch, &err), 0);
}

/* Goes on in what a power failure leaves, as if this process had died. */
static void crash(enum simfs_model model, uint64_t seed) {
    struct simfs *image = simfs_crash(fs, model, seed);
    pleat_batch_free(batch);
    (void)pleat_close(db, NULL);
    simfs_free(fs);
    fs = image;
    open_store();
}

static int commit(uint64_t n) {
    uint8_t value[100] = {0};
    pleat_batch_clear(batch);
    cr_assert_eq(pleat_batch_put(batch, pleat_default_space(db), (struct pleat_slice){&n, sizeof n},
                                 (struct pleat_slice){value, sizeof value}, &err),
                 0);
    return pleat_commit(db, batch, NULL, NULL, &err);
}

static uint64_t position(enum pleat_position which) {
    uint64_t sequence;
    pleat_position_read(db, which, NULL, &sequence);
    return sequence;
}

static uint64_t frozen_bytes(void) {
    struct pleat_stats stats = {.size = sizeof stats};
    cr_assert_eq(pleat_stats_read(db, &stats, &err), 0);
    return stats.frozen_bytes;
}

/* The next commit starts a segment, whose header cannot be written and whose file cannot be removed. */
static uint64_t commit_until_rotation_fails(void) {
    open_store();
    uint64_t n = 1;
    while (commit(n) == 0 && frozen_bytes() == 0) { /* how many fit */
        n++;
    }
    pleat_batch_free(batch);
    (void)pleat_close(db, NULL);
    simfs_free(fs);
    fs = simfs_new(7);
    open_store();
    for (uint64_t i = 1; i < n; i++) {
        cr_assert_eq(commit(i), 0, "%s", err.message);
    }
    simfs_fault_add(fs, (struct simfs_fault){.calls = SIMFS_LOG_PUBLISH, .at = 1, .os_errno = EIO, .half = true});
    simfs_fault_add(fs, (struct simfs_fault){.calls = SIMFS_DIR_UNLINK, .at = 1, .os_errno = EIO, .for_ever = true});
    cr_assert_eq(commit(n), PLEAT_ERR_IO, "the commit did not meet the fault");
    cr_assert_eq(pleat_health(db, &err), 0, "%s", err.message);
    cr_assert_eq(position(PLEAT_APPLIED), n - 1);
    return n;
}

Test(store_disk, a_segment_that_could_neither_be_made_nor_removed_hides_no_later_one) {
    uint64_t n = commit_until_rotation_fails();
    cr_assert_eq(commit(n), PLEAT_ERR_IO, "a segment was made beside one that may be taken for the end of the log");
    cr_assert_eq(pleat_health(db, &err), 0, "%s", err.message);
    simfs_faults_clear(fs);
    cr_assert_eq(commit(n), 0, "%s", err.message);
    cr_assert_eq(pleat_sync(db, &err), 0, "%s", err.message);
    cr_assert_eq(position(PLEAT_DURABLE), n);
    crash(SIMFS_METAALL, 1);
    cr_assert_eq(position(PLEAT_APPLIED), n, "a durable commit is lost");
}

Test(store_disk, what_was_synced_behind_a_failed_segment_survives_in_every_model) {
    for (uint64_t seed = 0; seed < 20; seed++) {
        uint64_t n = commit_until_rotation_fails();
        simfs_faults_clear(fs);
        cr_assert_eq(commit(n), 0, "%s", err.message);
        cr_assert_eq(pleat_sync(db, &err), 0, "%s", err.message);
        cr_assert_eq(commit(n + 1), 0, "%s", err.message);
        enum simfs_model model = (enum simfs_model)(seed % SIMFS_MODELS);
        crash(model, seed);
        cr_assert(position(PLEAT_APPLIED) >= n, "%s, seed %d: a durable commit is lost", simfs_model_name(model),
                  (int)seed);
        start_over();
    }
}

/* A flush or compaction syncs the directory, and with it the name of the log segment that was started before it. */
static void expect_read_only_by_directory(int (*job)(struct pleat_space *space)) {
    struct pleat_value value;
    uint64_t key = 1;
    uint64_t durable = position(PLEAT_DURABLE);
    simfs_fault_add(fs, (struct simfs_fault){.calls = SIMFS_DIR_SYNC, .at = 1, .os_errno = EIO});
    cr_assert_eq(job(pleat_default_space(db)), PLEAT_ERR_IO, "the job did not meet the fault");
    uint64_t applied = position(PLEAT_APPLIED);
    if (commit(applied + 1) == 0 && pleat_sync(db, &err) == 0) {
        durable = position(PLEAT_DURABLE);
    }
    cr_expect_eq(pleat_health(db, &err), PLEAT_ERR_IO, "a failed sync of the directory was passed over");
    cr_assert_eq(pleat_get(pleat_default_space(db), NULL, (struct pleat_slice){&key, sizeof key}, &value, &err), 0);
    pleat_value_release(&value);
    crash(SIMFS_MIN, 3);
    cr_assert(position(PLEAT_APPLIED) >= durable, "a durable commit is lost: %d of %d", (int)position(PLEAT_APPLIED),
              (int)durable);
}

static int flush_job(struct pleat_space *space) {
    (void)space;
    return pleat_flush(db, &err);
}

static int compact_job(struct pleat_space *space) {
    return pleat_compact(space, NULL, NULL, &err);
}

Test(store_disk, a_flush_whose_sync_of_the_directory_fails_leaves_no_durable_commit_behind) {
    memtable_bytes = 65536; /* what comes behind the failure stays in the segment whose name was lost */
    open_store();
    cr_assert_eq(commit(1), 0);
    cr_assert_eq(pleat_sync(db, &err), 0);
    expect_read_only_by_directory(flush_job);
}

Test(store_disk, a_compaction_whose_sync_of_the_directory_fails_leaves_no_durable_commit_behind) {
    open_store();
    for (uint64_t i = 0; i < 2; i++) {
        cr_assert_eq(commit(1), 0);
        cr_assert_eq(pleat_flush(db, &err), 0);
    }
    expect_read_only_by_directory(compact_job);
}

/* ---- a replaced manifest whose sync of the directory fails ------------------------------------------------------ */

/* The sync of the directory that follows the next replacement of the manifest fails. Before it, and between the failure
 * and its answer, other threads do what they can. */
static struct scene {
    bool armed, failing;
    void *(*before)(void *context);
    void *(*behind)(void *context);
    struct thread thread; /* of `behind` */
    _Atomic int syncs;    /* of the directory that `behind` has done, or -1: it is at its end; no partner */
    int rc;               /* what `behind` came to */
} scene;

static int scene_rename(struct vfs_dir *dir, const char *from, const char *to, struct pleat_error *ret_err) {
    int rc = simfs_vfs(fs)->dir_rename(dir, from, to, ret_err);
    if (rc == 0 && scene.armed && strcmp(to, MANIFEST_NAME) == 0) {
        scene.armed = false;
        if (scene.before != NULL) {
            struct thread thread;
            cr_assert_eq(thread_start(&thread, "before", scene.before, NULL), 0);
            thread_join(&thread);
        }
        scene.failing = true;
        simfs_fault_add(fs, (struct simfs_fault){.calls = SIMFS_DIR_SYNC, .at = 1, .os_errno = EIO});
    }
    return rc;
}

static int scene_dir_sync(struct vfs_dir *dir, struct pleat_error *ret_err) {
    bool failing = scene.failing;
    scene.failing = false;
    int rc = simfs_vfs(fs)->dir_sync(dir, ret_err);
    if (!failing) {
        atomic_fetch_add(&scene.syncs, 1);
        return rc;
    }
    cr_assert_lt(rc, 0, "the sync did not meet the fault");
    atomic_store(&scene.syncs, 0);
    if (scene.behind != NULL) {
        cr_assert_eq(thread_start(&scene.thread, "behind", scene.behind, NULL), 0);
        while (atomic_load(&scene.syncs) == 0) {
            thread_yield();
        }
    }
    return rc;
}

/* The image of a power failure in each model holds `sequence` commits, neither more nor less. */
static void expect_in_every_model(uint64_t sequence) {
    for (unsigned model = 0; model < SIMFS_MODELS; model++) {
        struct simfs *before = fs;
        fs = simfs_crash(fs, (enum simfs_model)model, 5);
        open_store();
        cr_assert_eq(position(PLEAT_APPLIED), sequence, "%s: %d of %d", simfs_model_name((enum simfs_model)model),
                     (int)position(PLEAT_APPLIED), (int)sequence);
        pleat_batch_free(batch);
        cr_assert_eq(pleat_close(db, &err), 0, "%s", err.message);
        batch = NULL;
        db = NULL;
        simfs_free(fs);
        fs = before;
    }
}

static void scene_open(void) {
    watched.dir_rename = scene_rename;
    watched.dir_sync = scene_dir_sync;
    cr_assert_eq(try_open(&watched), 0, "open: %s", err.message);
    cr_assert_eq(pleat_batch_new(db, &batch, &err), 0);
}

/* Starts a segment, whose name is then lost with the manifest's. */
static void *rotate_before(void *context) {
    uint64_t segment = db->active_segment->number;
    for (uint64_t n = 100; db->active_segment->number == segment; n++) {
        cr_assert_eq(commit(n), 0, "%s", err.message);
    }
    return context;
}

static void *sync_behind(void *context) {
    struct pleat_error own = {0};
    scene.rc = pleat_sync(db, &own);
    atomic_store(&scene.syncs, -1);
    return context;
}

/* Between the failure and its answer nobody knows of it. But whoever has the directory synced goes to the manifest
 * before anything counts by it, and the manifest is held until it is poisoned. */
Test(store_disk, a_sync_beside_a_manifest_whose_sync_of_the_directory_fails_is_not_believed) {
    scene_open();
    for (uint64_t i = 0; i < 2; i++) {
        cr_assert_eq(commit(1), 0);
        cr_assert_eq(pleat_flush(db, &err), 0);
    }
    uint64_t durable = position(PLEAT_DURABLE);
    cr_assert_eq(durable, 2);
    db->registry->rewrite_bytes = 0; /* the next edit replaces the manifest */
    scene = (struct scene){.armed = true, .before = rotate_before, .behind = sync_behind};
    cr_assert_eq(pleat_compact(pleat_default_space(db), NULL, NULL, &err), PLEAT_ERR_IO, "the fault was not met");
    thread_join(&scene.thread);
    cr_assert_eq(atomic_load(&scene.syncs), -1);
    cr_expect_eq(scene.rc, PLEAT_ERR_IO, "a sync of the directory behind one that had failed was believed");
    cr_expect_eq(position(PLEAT_DURABLE), durable);
    durable = position(PLEAT_DURABLE);
    cr_assert_eq(pleat_health(db, &err), PLEAT_ERR_IO);
    cr_assert_eq(commit(1), PLEAT_ERR_IO);
    crash(SIMFS_MIN, 3);
    cr_assert(position(PLEAT_APPLIED) >= durable, "a durable commit is lost: %d of %d", (int)position(PLEAT_APPLIED),
              (int)durable);
}

/* A number that is handed out, a position that moves: each edit may be the one that replaces the manifest. */
Test(store_disk, a_manifest_whose_sync_of_the_directory_fails_makes_the_store_read_only) {
    scene_open();
    cr_assert_eq(commit(1), 0);
    cr_assert_eq(pleat_sync(db, &err), 0);
    db->registry->rewrite_bytes = 0;
    scene = (struct scene){.armed = true};
    cr_assert_eq(pleat_flush(db, &err), PLEAT_ERR_IO, "the fault was not met");
    cr_assert_eq(pleat_health(db, &err), PLEAT_ERR_IO);
    uint64_t syncs = (uint64_t)atomic_load(&scene.syncs);
    cr_assert_eq(commit(2), PLEAT_ERR_IO);
    cr_assert_eq(pleat_sync(db, &err), PLEAT_ERR_IO);
    cr_assert_eq(pleat_flush(db, &err), PLEAT_ERR_IO);
    cr_assert_eq((uint64_t)atomic_load(&scene.syncs), syncs, "the directory was synced again behind a failure");
    struct pleat_db *poisoned = db;
    struct pleat_batch *its = batch;
    expect_in_every_model(1);
    pleat_batch_free(its);
    (void)pleat_close(poisoned, NULL);
}

Test(store_disk, a_close_whose_sync_of_the_directory_fails_says_so_and_loses_nothing) {
    scene_open();
    cr_assert_eq(commit(1), 0);
    cr_assert_eq(pleat_sync(db, &err), 0);
    cr_assert_eq(commit(2), 0);
    pleat_batch_free(batch);
    batch = NULL;
    scene = (struct scene){.armed = true};
    cr_assert_eq(pleat_close(db, &err), PLEAT_ERR_IO, "the fault was not met");
    db = NULL;
    expect_in_every_model(2);
}

Test(store_disk, an_open_whose_sync_of_the_directory_fails_says_so_and_loses_nothing) {
    scene_open();
    cr_assert_eq(commit(1), 0);
    cr_assert_eq(commit(2), 0);
    cr_assert_eq(pleat_sync(db, &err), 0);
    struct simfs *killed = simfs_crash(fs, SIMFS_KILL, 1);
    pleat_batch_free(batch);
    cr_assert_eq(pleat_close(db, &err), 0);
    batch = NULL;
    simfs_free(fs);
    fs = killed;
    watched = *simfs_vfs(fs);
    watched.dir_rename = scene_rename;
    watched.dir_sync = scene_dir_sync;
    scene = (struct scene){.armed = true};
    cr_assert_eq(try_open(&watched), PLEAT_ERR_IO, "the fault was not met");
    cr_assert_null(db);
    expect_in_every_model(2);
}

/* ---- back-pressure (flow.c) ------------------------------------------------------------------------------------- */

static uint64_t clock_ns;      /* as the store reads it */
static uint64_t clock_step_ns; /* that passes between two looks */

static uint64_t clock_now_ns(const struct vfs *vfs) {
    (void)vfs;
    return clock_ns += clock_step_ns;
}

/* In steps nobody is held back, and the clock is ours. */
static void flow_begin(uint64_t step_ns) {
    open_store();
    clock_ns = 1000000000;
    clock_step_ns = step_ns;
    watched = *db->vfs;
    watched.now_ns = clock_now_ns;
    db->vfs = &watched;
}

static uint64_t delayed_ns(unsigned commits, uint64_t bytes) {
    uint64_t before = atomic_load(&db->counters.delayed_ns);
    db->options.background = PLEAT_BACKGROUND_THREADS;
    for (unsigned i = 0; i < commits; i++) {
        cr_assert_eq(flow_wait(db, bytes, &err), 0);
    }
    db->options.background = PLEAT_BACKGROUND_STEPS;
    return atomic_load(&db->counters.delayed_ns) - before;
}

/* Each sleep takes 3 ms: processors that are busy with something else. */
Test(store_disk, commits_are_held_back_as_long_as_they_owe_however_long_a_sleep_takes) {
    flow_begin(3000000);
    atomic_store(&db->flow.pressure, 512);
    uint64_t delayed = delayed_ns(100, 16384);
    cr_assert(delayed >= 22000000 && delayed <= 28000000, "100 commits of a quarter of a ms: %llu ns",
              (unsigned long long)delayed);
    delayed = delayed_ns(1600, 1024);
    cr_assert(delayed >= 22000000 && delayed <= 28000000, "as many bytes in 1,600: %llu ns",
              (unsigned long long)delayed);
    atomic_store(&db->flow.pressure, 1024);
    atomic_store(&db->flow.owed_ns, 0);
    delayed = delayed_ns(160, 128);
    cr_assert_leq(delayed, 3000000, "small commits sleep off together what they owe, 8 us each: %llu ns",
                  (unsigned long long)delayed);
    atomic_store(&db->flow.is_full, true);
    cr_assert_geq(delayed_ns(3, 16384), 9000000, "credit lets a commit pass the bound of level 0");
    atomic_store(&db->flow.is_full, false);
    atomic_store(&db->flow.pressure, 0);
}

Test(store_disk, room_beside_a_flush_is_shared_out_over_the_time_that_it_needs) {
    memtable_bytes = 1 << 16;
    flow_begin(0);
    struct flow *flow = &db->flow;
    uint64_t n = 0;
    while (frozen_bytes() == 0) {
        cr_assert_eq(commit(++n), 0);
    }
    atomic_store(&flow->frozen_ns, clock_ns);
    atomic_store(&flow->flush_ns, 80000000);
    atomic_store(&flow->passed_ns, clock_ns);
    cr_assert_eq(flow_delay_ns(db), 0, "room enough");
    while (arena_used(db->active->arena) <= memtable_bytes / 2) {
        cr_assert_eq(commit(++n), 0);
    }
    uint64_t room = memtable_bytes - arena_used(db->active->arena);
    cr_assert_gt(room, 16384);
    static const struct {
        uint64_t elapsed_ms, remaining_ms;
    } moments[] = {{0, 80}, {20, 60}, {53, 27}, {60, 30}, {100, 50}, {400, 200}};
    for (size_t i = 0; i < sizeof moments / sizeof moments[0]; i++) {
        atomic_store(&flow->passed_ns, clock_ns + moments[i].elapsed_ms * 1000000);
        atomic_store(&flow->frozen_ns, clock_ns);
        clock_ns += moments[i].elapsed_ms * 1000000;
        uint64_t expected = moments[i].remaining_ms * 1000000 * 16384 / room, found = flow_delay_ns(db);
        cr_assert(found + 1 >= expected && found <= expected + 1, "%llu ms: %llu ns, %llu were expected",
                  (unsigned long long)moments[i].elapsed_ms, (unsigned long long)found, (unsigned long long)expected);
    }
    atomic_store(&flow->passed_ns, clock_ns - 1000000000);
    cr_assert_eq(flow_delay_ns(db), 0, "the last commit was long ago");
    cr_assert_eq(delayed_ns(1, 16384), 0);
    cr_assert_eq(atomic_load(&flow->passed_ns), clock_ns, "from now on it counts");
    /* What a flush takes is learnt: half of what was known, half of the last. */
    atomic_store(&flow->frozen_ns, clock_ns);
    clock_ns += 20000000;
    cr_assert_eq(pleat_step(db, &err), 0);
    cr_assert_eq(atomic_load(&flow->flush_ns), 50000000);
    cr_assert_eq(flow_delay_ns(db), 0, "nothing is frozen");
}

/* Reads of a range that meet many runs make the writer keep them fewer. */
Test(store_disk, readers_of_level_0_lower_what_it_may_hold) {
    memtable_bytes = 1 << 16;
    flow_begin(0);
    struct flow *flow = &db->flow;
    struct version *version;
    for (unsigned run = 0; run < 7; run++) { /* over the same keys */
        cr_assert_eq(commit(1), 0);
        cr_assert_eq(commit(9), 0);
        cr_assert_eq(pleat_flush(db, &err), 0);
        version = registry_current(db->registry);
        cr_assert_eq(compaction_level0_runs(version), run, "the first went deep");
        struct pleat_iter *iter;
        uint64_t before = atomic_load(&flow->level0_visits);
        cr_assert_eq(pleat_iter_new(pleat_default_space(db), NULL, &iter, &err), 0);
        pleat_iter_free(iter);
        uint64_t visits = atomic_load(&flow->level0_visits) - before;
        cr_assert_eq(visits, run + 1 > db->options.level0_tables ? run + 1 : 0, "%u runs", run);
        version_unref(version);
    }
    version = registry_current(db->registry);
    atomic_store(&flow->level0_visits, 0);
    atomic_store(&flow->looked_ns, clock_ns);
    clock_ns += 1000000000;
    flow_update(db, version);
    cr_assert_eq(atomic_load(&flow->pressure), 0, "six runs are calm, twice the target is eight");
    uint64_t last = 0;
    for (unsigned i = 0; i < 8; i++) {
        atomic_store(&flow->level0_visits, 1000000); /* more than a sixteenth of the time */
        clock_ns += 1000000000;
        flow_update(db, version);
        cr_assert_geq(atomic_load(&flow->pressure), last);
        last = atomic_load(&flow->pressure);
        atomic_store(&flow->level0_visits, 1);
        clock_ns += 1000000;
        flow_update(db, version);
        cr_assert_eq(atomic_load(&flow->pressure), last, "a ms says nothing");
    }
    cr_assert_not(atomic_load(&flow->is_full));
    cr_assert(last > 450 && last <= 512, "half way from the target to twice it: %llu", (unsigned long long)last);
    for (unsigned i = 0; i < 4; i++) {
        clock_ns += 1000000000;
        flow_update(db, version);
    }
    cr_assert_eq(atomic_load(&flow->pressure), 0, "nobody reads any more");
    version_unref(version);
}

/* ---- what a commit may wait for ---------------------------------------------------------------------------------- */

static unsigned unlinks, unlinks_locked;

static int unlocked_unlink(struct vfs_dir *dir, const char *name, struct pleat_error *error) {
    unlinks++;
    if (mutex_try_lock(&db->work_mu)) {
        mutex_unlock(&db->work_mu);
    } else {
        unlinks_locked++;
    }
    return simfs_vfs(fs)->dir_unlink(dir, name, error);
}

/* Behind each change of the tree: another thread sweeps the views before the job has ended. */
static uint64_t sweeping_now_ns(const struct vfs *vfs) {
    (void)vfs;
    view_sweep(db, true);
    return clock_ns += 1000;
}

/* The inputs of a compaction are unlinked with its own reference of the version, when all views are swept: that took
 * work_mu for tens of milliseconds a table, and a commit that slept looked at it. */
Test(store_disk, inputs_of_a_compaction_are_unlinked_without_a_lock_that_commits_take) {
    memtable_bytes = 1 << 16;
    flow_begin(0);
    for (unsigned run = 0; run < 5; run++) {
        cr_assert_eq(commit(1), 0);
        cr_assert_eq(commit(9), 0);
        cr_assert_eq(pleat_flush(db, &err), 0);
    }
    unlinks = unlinks_locked = 0;
    watched.dir_unlink = unlocked_unlink;
    watched.now_ns = sweeping_now_ns;
    struct table_store *store = (struct table_store *)(uintptr_t)registry_store(db->registry);
    const struct vfs *vfs = store->vfs;
    store->vfs = &watched;
    cr_assert_eq(work_compact(db, &err), 0, "%s", err.message);
    store->vfs = vfs;
    cr_assert_geq(unlinks, 4, "%u tables were unlinked", unlinks);
    cr_assert_eq(unlinks_locked, 0, "%u of %u under work_mu", unlinks_locked, unlinks);
}

static int slow_unlink(struct vfs_dir *dir, const char *name, struct pleat_error *error) {
    (void)usleep(30000);
    return simfs_vfs(fs)->dir_unlink(dir, name, error);
}

/* A compaction counts as done before its inputs are unlinked, which nobody who reads or writes waits for. */
Test(store_disk, a_settled_store_has_no_superfluous_table) {
    background = PLEAT_BACKGROUND_THREADS;
    memtable_bytes = 16384;
    watched.dir_unlink = slow_unlink;
    cr_assert_eq(try_open(&watched), 0, "open: %s", err.message);
    cr_assert_eq(pleat_batch_new(db, &batch, &err), 0);
    for (unsigned round = 0; round < 3; round++) {
        for (uint64_t n = 1; n <= 500; n++) {
            cr_assert_eq(commit(n), 0, "%s", err.message);
        }
        cr_assert_eq(pleat_settle(db, NULL, NULL, &err), 0, "%s", err.message);
        struct pleat_stats stats = {.size = sizeof stats};
        cr_assert_eq(pleat_stats_read(db, &stats, &err), 0);
        size_t tables = 0;
        for (size_t i = 0; i < simfs_name_count(fs, "store"); i++) {
            char name[VFS_NAME_BYTES_MAX + 1];
            uint64_t number;
            cr_assert(simfs_name_at(fs, "store", i, name));
            tables += table_name_parse(name, &number);
        }
        for (unsigned level = 0; level < PLEAT_LEVELS; level++) {
            cr_assert_leq(stats.levels[level].tables, tables);
            tables -= stats.levels[level].tables;
        }
        cr_assert_eq(tables, 0, "%d files too many", (int)tables);
    }
}

/* ---- the segment that is made ahead ------------------------------------------------------------------------------ */

/* Commits from `n` on until the active generation is half full; returns the next one's number. */
static uint64_t commit_half(uint64_t n) {
    while (!generation_is_half_full(db)) {
        cr_assert_eq(commit(n++), 0, "%s", err.message);
    }
    return n;
}

static void steps(void) {
    int rc;
    while ((rc = pleat_step(db, &err)) == 0) {
    }
    cr_assert_eq(rc, PLEAT_END, "%s", err.message);
}

static bool has_segment(uint64_t number) {
    char name[WAL_NAME_BYTES];
    size_t bytes;
    wal_name(number, name);
    uint8_t *file = simfs_read_file(fs, "store", name, &bytes);
    free(file);
    return file != NULL;
}

static size_t count_segments(void) {
    size_t count = 0;
    for (size_t i = 0; i < simfs_name_count(fs, "store"); i++) {
        char name[VFS_NAME_BYTES_MAX + 1];
        uint64_t number;
        cr_assert(simfs_name_at(fs, "store", i, name));
        count += wal_name_parse(name, &number);
    }
    return count;
}

/* A commit that does not fit into a usual segment. */
static int commit_big(void) {
    static const uint8_t value[1 << 16];
    pleat_batch_clear(batch);
    cr_assert_eq(pleat_batch_put(batch, pleat_default_space(db), (struct pleat_slice){"big", 3},
                                 (struct pleat_slice){value, sizeof value}, &err),
                 0);
    return pleat_commit(db, batch, NULL, NULL, &err);
}

/* Opens a store in which a segment was made ahead; returns the next commit's number. */
static uint64_t open_with_spare(void) {
    memtable_bytes = 16384;
    open_store();
    cr_assert_eq(pleat_step(db, &err), PLEAT_END, "nothing is due in an empty store: %s", err.message);
    uint64_t n = commit_half(1);
    steps();
    cr_assert_neq(db->spare.number, 0, "no segment was made ahead");
    cr_assert(has_segment(db->spare.number));
    return n;
}

Test(store_disk, a_rotation_begins_the_segment_that_was_made_ahead) {
    for (uint64_t seed = 0; seed < 2 * SIMFS_MODELS; seed++) {
        uint64_t n = open_with_spare();
        uint64_t spare = db->spare.number, created = simfs_calls(fs, SIMFS_LOG_CREATE);
        cr_assert_eq(pleat_step(db, &err), PLEAT_END, "one is enough");
        while (db->active_segment->number != spare) {
            cr_assert_eq(commit(n++), 0, "%s", err.message);
        }
        cr_assert_eq(simfs_calls(fs, SIMFS_LOG_CREATE), created, "the rotation made a file");
        cr_assert_eq(db->spare.number, 0);
        cr_assert_eq(pleat_sync(db, &err), 0, "%s", err.message);
        n = commit_half(n);
        cr_assert_eq(pleat_sync(db, &err), 0, "%s", err.message);
        uint64_t durable = position(PLEAT_DURABLE);
        if (seed % 2 == 0) {
            steps(); /* the image may have the next one, with nothing in it */
            cr_assert_neq(db->spare.number, 0);
        }
        enum simfs_model model = (enum simfs_model)(seed / 2 % SIMFS_MODELS);
        crash(model, seed);
        cr_assert_eq(position(PLEAT_APPLIED), durable, "%s", simfs_model_name(model));
        n = commit_half(n); /* the log goes on, over another crash */
        cr_assert_eq(pleat_sync(db, &err), 0, "%s", err.message);
        crash(model, seed);
        cr_assert_eq(position(PLEAT_APPLIED), n - 1, "%s", simfs_model_name(model));
        start_over();
    }
}

Test(store_disk, a_close_leaves_no_segment_that_was_made_ahead) {
    (void)open_with_spare();
    pleat_batch_free(batch);
    batch = NULL;
    cr_assert_eq(pleat_close(db, &err), 0, "%s", err.message);
    db = NULL;
    cr_assert_eq(count_segments(), 0);
}

/* J1: behind a file that was not begun no segment would be followed. */
Test(store_disk, a_segment_made_ahead_that_is_too_small_is_removed_before_the_next_begins) {
    for (unsigned model = 0; model < SIMFS_MODELS; model++) {
        uint64_t n = open_with_spare();
        uint64_t spare = db->spare.number;
        simfs_fault_add(fs, (struct simfs_fault){.calls = SIMFS_DIR_UNLINK, .at = 1, .os_errno = EIO});
        cr_assert_eq(commit_big(), PLEAT_ERR_IO, "a segment beside one that may be taken for the end of the log");
        cr_assert_eq(commit_big(), 0, "%s", err.message);
        cr_assert_gt(db->active_segment->number, spare);
        cr_assert_not(has_segment(spare));
        cr_assert_eq(pleat_sync(db, &err), 0, "%s", err.message);
        crash((enum simfs_model)model, 1);
        cr_assert_eq(position(PLEAT_APPLIED), n, "%s", simfs_model_name((enum simfs_model)model));
        start_over();
    }
}

Test(store_disk, what_failed_to_be_made_ahead_is_made_by_the_rotation) {
    static const unsigned calls[] = {SIMFS_LOG_CREATE, SIMFS_DIR_UNLINK | SIMFS_LOG_CREATE};
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        open_store();
        uint64_t n = commit_half(1), segment = db->active_segment->number;
        simfs_fault_add(fs, (struct simfs_fault){.calls = calls[i], .at = 1, .os_errno = EIO, .for_ever = i > 0});
        cr_assert_eq(pleat_step(db, &err), PLEAT_END, "%s", err.message);
        cr_assert_eq(simfs_faults_fired(fs), 1);
        cr_assert_eq(pleat_step(db, &err), PLEAT_END, "it is tried once a segment");
        cr_assert_eq(simfs_faults_fired(fs), 1);
        simfs_faults_clear(fs);
        while (db->active_segment->number == segment) {
            cr_assert_eq(commit(n++), 0, "%s", err.message);
        }
        cr_assert_eq(pleat_sync(db, &err), 0, "%s", err.message);
        crash(SIMFS_METAALL, 1);
        cr_assert_eq(position(PLEAT_APPLIED), n - 1);
        start_over();
    }
}

/* J3: the space is the compaction's, which makes room. */
Test(store_disk, a_segment_made_ahead_goes_when_the_disk_is_full) {
    memtable_bytes = 1 << 16;
    open_store();
    db->compactions_held = true;
    for (unsigned run = 0; run < 5; run++) {
        cr_assert_eq(commit(1), 0);
        cr_assert_eq(commit(9), 0);
        cr_assert_eq(pleat_flush(db, &err), 0);
    }
    uint64_t n = commit_half(10), segment = db->active_segment->number;
    steps();
    uint64_t spare = db->spare.number;
    cr_assert(spare != 0 && has_segment(spare));
    simfs_quota(fs, simfs_used_bytes(fs));
    db->compactions_held = false;
    cr_assert_eq(pleat_step(db, &err), PLEAT_ERR_NO_SPACE, "%s", err.message);
    cr_assert_not(has_segment(spare));
    db->retry_at_ns = 0;
    cr_assert_eq(pleat_step(db, &err), 0, "there is room now: %s", err.message);
    steps();
    cr_assert_eq(db->spare.number, 0, "space is short: none is made again");
    simfs_quota(fs, UINT64_MAX);
    while (db->active_segment->number == segment) {
        cr_assert_eq(commit(n++), 0, "%s", err.message);
    }
    (void)commit_half(n);
    steps();
    cr_assert_neq(db->spare.number, 0, "the next segment has one again");
}

/* ---- the file of a dead segment ---------------------------------------------------------------------------------- */

/* Whether exactly the commits up to the applied one are there. Keys are numbers of commits. */
static bool is_prefix(uint64_t last) {
    bool is_there = true;
    for (uint64_t n = 1; n <= last; n++) {
        struct pleat_value value;
        int rc = pleat_get(pleat_default_space(db), NULL, (struct pleat_slice){&n, sizeof n}, &value, &err);
        cr_assert(rc == 0 || rc == PLEAT_ABSENT, "%s", err.message);
        is_there = is_there && (rc == 0) == (n <= position(PLEAT_APPLIED));
        if (rc == 0) {
            pleat_value_release(&value);
        }
    }
    return is_there;
}

/* Opens a store whose first segment is dead and kept, with a mapped log; returns the next commit's number. */
static uint64_t open_with_dead(void) {
    log_by_write = false;
    uint64_t n = open_with_spare(), spare = db->spare.number;
    while (db->active_segment->number != spare) {
        cr_assert_eq(commit(n++), 0, "%s", err.message);
    }
    cr_assert_eq(pleat_step(db, &err), 0, "the flush: %s", err.message);
    cr_assert_not_null(db->spare.dead, "the dead segment is not kept");
    cr_assert(has_segment(wal_writer_number(db->spare.dead)));
    return n;
}

/* Stores of the old life are in the file, at the places where the records of the new one will lie. */
Test(store_disk, a_segment_in_the_file_of_a_dead_one_survives_in_every_model) {
    for (uint64_t seed = 0; seed < 5 * SIMFS_MODELS; seed++) {
        uint64_t n = open_with_dead(), created = simfs_calls(fs, SIMFS_LOG_CREATE);
        for (unsigned segments = 0; segments < 3; segments++) {
            uint64_t dead = wal_writer_number(db->spare.dead);
            n = commit_half(n);
            steps();
            uint64_t spare = db->spare.number;
            cr_assert(spare != 0 && db->spare.dead == NULL && has_segment(spare) && !has_segment(dead));
            while (db->active_segment->number != spare) {
                cr_assert_eq(commit(n++), 0, "%s", err.message);
            }
            steps();
            cr_assert_not_null(db->spare.dead);
        }
        cr_assert_eq(simfs_calls(fs, SIMFS_LOG_CREATE), created, "files are made all the same");
        cr_assert_eq(commit(n++), 0);
        cr_assert_eq(pleat_sync(db, &err), 0, "%s", err.message);
        uint64_t durable = position(PLEAT_DURABLE);
        n = commit_half(n);
        steps();
        for (unsigned i = 0; i < seed % 5; i++) {
            cr_assert_eq(commit(n++), 0);
        }
        enum simfs_model model = (enum simfs_model)(seed % SIMFS_MODELS);
        crash(model, seed);
        cr_assert(position(PLEAT_APPLIED) >= durable && is_prefix(n), "%s, seed %d", simfs_model_name(model),
                  (int)seed);
        cr_assert(model != SIMFS_KILL || position(PLEAT_APPLIED) == n - 1, "a kill loses nothing");
        start_over();
    }
}

Test(store_disk, a_dead_segment_that_cannot_be_renamed_is_removed) {
    uint64_t n = open_with_dead(), dead = wal_writer_number(db->spare.dead), active = db->active_segment->number;
    n = commit_half(n);
    simfs_fault_add(fs, (struct simfs_fault){.calls = SIMFS_DIR_RENAME, .at = 1, .os_errno = EIO});
    cr_assert_eq(pleat_step(db, &err), PLEAT_END, "%s", err.message);
    cr_assert_eq(simfs_faults_fired(fs), 1);
    cr_assert_not(has_segment(dead));
    while (db->active_segment->number == active) {
        cr_assert_eq(commit(n++), 0, "%s", err.message);
    }
    cr_assert_eq(pleat_sync(db, &err), 0, "%s", err.message);
    crash(SIMFS_METAALL, 1);
    cr_assert(position(PLEAT_APPLIED) == n - 1 && is_prefix(n));
}

Test(store_disk, a_dead_segment_is_kept_for_a_while_and_one_at_a_time) {
    uint64_t n = open_with_dead(), dead = wal_writer_number(db->spare.dead), active = db->active_segment->number;
    cr_assert_eq(commit(n), 0);
    cr_assert_eq(pleat_flush(db, &err), 0, "%s", err.message);
    cr_assert_eq(wal_writer_number(db->spare.dead), dead);
    cr_assert_not(has_segment(active), "two are kept");
    segment_tidy(db);
    cr_assert_not_null(db->spare.dead);
    db->last_flush_ns = db->vfs->now_ns(db->vfs) - 2100000000u;
    segment_tidy(db);
    cr_assert(db->spare.dead == NULL && !has_segment(dead));
    segment_tidy(db);
}

Test(store_disk, a_close_leaves_no_dead_segment) {
    (void)open_with_dead();
    pleat_batch_free(batch);
    batch = NULL;
    cr_assert_eq(pleat_close(db, &err), 0, "%s", err.message);
    db = NULL;
    cr_assert_eq(count_segments(), 0);
}

/* J3: a space that a caller makes gets the place of the segment made ahead. */
Test(store_disk, a_space_gets_the_place_of_a_segment_made_ahead_on_a_full_disk) {
    struct pleat_space *space;
    uint64_t n = open_with_spare(), spare = db->spare.number;
    simfs_quota(fs, simfs_used_bytes(fs));
    cr_assert_eq(pleat_space_open(db, (struct pleat_slice){"new", 3}, NULL, &space, &err), 0, "%s", err.message);
    cr_assert_not(has_segment(spare));
    simfs_quota(fs, UINT64_MAX);
    cr_assert_eq(commit(n), 0, "%s", err.message);
    cr_assert_eq(pleat_sync(db, &err), 0, "%s", err.message);
    crash(SIMFS_METAALL, 1);
    cr_assert_eq(pleat_space_open(db, (struct pleat_slice){"new", 3}, NULL, &space, &err), 0, "%s", err.message);
    cr_assert(position(PLEAT_APPLIED) == n && is_prefix(n + 1));
}

/* 100,000 bytes that LZ4 does not shorten, always under the same key. */
static int commit_random(uint64_t seed) {
    static uint64_t value[12500];
    struct random random = {seed};
    for (size_t i = 0; i < sizeof value / sizeof value[0]; i++) {
        value[i] = random_next(&random);
    }
    pleat_batch_clear(batch);
    cr_assert_eq(pleat_batch_put(batch, pleat_default_space(db), (struct pleat_slice){"random", 6},
                                 (struct pleat_slice){value, sizeof value}, &err),
                 0);
    return pleat_commit(db, batch, NULL, NULL, &err);
}

/* Compacts the default space as a worker does, up to the new view: the one before it waits for readers, with all that
 * it holds, until somebody looks whether there are any. */
static void compact_and_leave_the_view(void) {
    struct compaction job;
    struct compaction_beside beside = {0};
    bool busy;
    struct version *version = registry_current(db->registry);
    cr_assert_eq(compaction_pick_full(db->mem, version, 0, &db->shape, &beside, &job, &busy, &err), 0);
    version_unref(version);
    cr_assert_eq(compact_run(db, &job, &err), 0, "%s", err.message);
    compaction_fini(db->mem, &job);
}

/* J3: files of dead tables that no worker has come to yet are whoever's that lacks the space; also those of a view that
 * nobody has let go of. */
Test(store_disk, a_full_disk_gets_the_space_of_dead_tables) {
    for (unsigned variant = 0; variant < 4; variant++) {
        struct pleat_slice name = {"new", 3};
        struct pleat_space *space;
        memtable_bytes = 1 << 16;
        open_store();
        cr_assert_eq(commit_random(1), 0, "%s", err.message);
        cr_assert_eq(pleat_flush(db, &err), 0, "%s", err.message);
        struct version *old = registry_current(db->registry);
        cr_assert_eq(commit_random(2), 0, "%s", err.message);
        if (variant < 2) {
            cr_assert_eq(pleat_compact(pleat_default_space(db), NULL, NULL, &err), 0, "%s", err.message);
        } else {
            cr_assert_eq(pleat_flush(db, &err), 0, "%s", err.message);
            compact_and_leave_the_view();
        }
        segment_drop_spare(db);
        cr_assert_not(table_ref_has_dead(db->registry));
        version_unref(old);
        cr_assert_eq(table_ref_has_dead(db->registry), variant < 2);
        uint64_t full = simfs_used_bytes(fs);
        simfs_quota(fs, full + variant % 2 * 65536); /* a segment for the commit takes more */
        int rc = variant % 2 == 0 ? pleat_space_open(db, name, NULL, &space, &err) : commit_random(3);
        cr_assert_eq(rc, 0, "variant %u: %s", variant, err.message);
        cr_assert_not(table_ref_has_dead(db->registry));
        simfs_quota(fs, UINT64_MAX);
        start_over();
    }
}

/* J3: a commit that needs a longer segment than usual gets the space of the one that is kept. */
Test(store_disk, a_rotation_gets_the_space_of_the_dead_segment_on_a_full_disk) {
    uint64_t n = open_with_dead(), dead = wal_writer_number(db->spare.dead);
    cr_assert_eq(db->spare.number, 0);
    cr_assert_eq(commit(n), 0);
    size_t bytes;
    char name[WAL_NAME_BYTES];
    wal_name(dead, name);
    free(simfs_read_file(fs, "store", name, &bytes));
    simfs_quota(fs, simfs_used_bytes(fs) + (1 << 16) + 8192 - bytes / 2); /* it fits in place of the dead one */
    cr_assert_eq(commit_big(), 0, "%s", err.message);
    cr_assert(!has_segment(dead) && db->spare.dead == NULL);
    cr_assert_eq(commit_big(), PLEAT_ERR_NO_SPACE, "there is nothing more to give");
    simfs_quota(fs, UINT64_MAX);
    cr_assert_eq(pleat_sync(db, &err), 0, "%s", err.message);
    crash(SIMFS_METAALL, 1);
    cr_assert_eq(position(PLEAT_APPLIED), n + 1);
}
