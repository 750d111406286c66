/*
 * soak_disk.c - the soak's simulated disk: one history (history.h) through crashes, faults and full disks, life by
 * life.
 *
 * In step mode, so that a world is a pure function of its seed: `soak --world SEED` runs it again. What happens is
 * drawn: calls of the API; a fault of the disk or the allocator some calls ahead; a disk that is nearly full, for a
 * while; a power failure, in whose image the history goes on; a stop of the disk at some operation ahead, and then the
 * image; a close and an open. Whoever sees an error judges it: nothing but what was injected may go wrong, an error is
 * wholly in or wholly out, a healthy handle goes on, a full disk and a failed allocation leave the handle healthy, and
 * what was reported durable is in every image.
 */
#include "stress/soak.h"

#include "db/db.h"
#include "support/failmem.h"
#include "support/history.h"
#include "support/random.h"
#include "support/simfs.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define WORLD_OPERATIONS 400

enum cause { CAUSE_NONE, CAUSE_DISK, CAUSE_MEMORY, CAUSE_QUOTA, CAUSE_STOP };

struct world {
    struct random random;
    struct history history;
    struct pleat_options options;
    struct simfs *fs;
    struct failmem fail;
    struct pleat_db *db;
    struct pleat_batch *batch;
    struct pleat_space *spaces[HISTORY_SPACES];
    enum cause cause;
    uint64_t n;       /* where the store is */
    uint64_t tried;   /* the highest operation that was asked for since the last open */
    uint64_t durable; /* reported as durable in this life */
    const char *doing;
};

#define WORLD_FAIL(world, format, ...)                                                                                 \
    soak_fail("%s at sequence %" PRIu64 ": " format, (world)->doing, (world)->n, __VA_ARGS__)

static void world_disarm(struct world *world) {
    simfs_faults_clear(world->fs);
    simfs_quota(world->fs, UINT64_MAX);
    simfs_stop_at(world->fs, 0);
    world->fail.fail_at = 0;
    world->fail.fail_for_ever = false;
    world->cause = CAUSE_NONE;
}

static void world_arm(struct world *world) {
    static const int errnos[] = {EIO, ENOSPC, EMFILE, EDQUOT};
    struct random *random = &world->random;
    uint64_t ahead = 1 + random_below(random, 1u << random_below(random, 8));
    switch (random_below(random, 4)) {
    case 0:
        world->cause = CAUSE_DISK;
        simfs_fault_add(world->fs, (struct simfs_fault){.calls = random_below(random, 2) == 0
                                                                     ? SIMFS_ANY
                                                                     : 1u << random_below(random, SIMFS_CALL_KINDS),
                                                        .at = ahead,
                                                        .os_errno = errnos[random_below(random, 4)],
                                                        .for_ever = random_below(random, 2) == 0,
                                                        .half = random_below(random, 2) == 0});
        break;
    case 1:
        world->cause = CAUSE_MEMORY;
        world->fail.fail_for_ever = random_below(random, 2) == 0;
        world->fail.fail_at = atomic_load(&world->fail.calls) + ahead * 2;
        break;
    case 2:
        world->cause = CAUSE_QUOTA;
        simfs_quota(world->fs, simfs_used_bytes(world->fs) + random_below(random, 20000));
        break;
    default:
        world->cause = CAUSE_STOP;
        simfs_stop_at(world->fs, simfs_operations(world->fs) + ahead);
        break;
    }
}

static void world_compare(struct world *world, const struct pleat_snapshot *snapshot) {
    char text[400] = "";
    if (!history_compare(&world->history, world->db, world->spaces, snapshot, text, sizeof text)) {
        WORLD_FAIL(world, "%s", text);
    }
    soak_add(&soak.reads, 1);
}

static int world_open(struct world *world, struct pleat_error *err) {
    uint64_t applied;
    world->doing = "open";
    int rc = db_open_with("store", &world->options, simfs_vfs(world->fs), &world->fail.mem, &world->db, err);
    if (rc < 0) {
        return rc;
    }
    soak_add(&soak.opens, 1);
    pleat_position_read(world->db, PLEAT_APPLIED, NULL, &applied);
    if (applied < world->n || applied > world->tried) {
        WORLD_FAIL(world, "opened at %" PRIu64 ", expected %" PRIu64 " to %" PRIu64, applied, world->n, world->tried);
    }
    world->n = world->tried = applied;
    pleat_position_read(world->db, PLEAT_DURABLE, NULL, &world->durable);
    return 0;
}

/* Whatever way the handle ends, it leaves nothing behind. */
static int world_close(struct world *world, struct pleat_error *err) {
    pleat_batch_free(world->batch);
    world->batch = NULL;
    int rc = pleat_close(world->db, err);
    world->db = NULL;
    if (simfs_open_handles(world->fs) != 0 || atomic_load(&world->fail.live) != 0 ||
        simfs_sync_retries(world->fs) != 0) {
        WORLD_FAIL(world, "%" PRIu64 " handles and %" PRId64 " blocks are left, %" PRIu64 " syncs were tried again",
                   simfs_open_handles(world->fs), (int64_t)atomic_load(&world->fail.live),
                   simfs_sync_retries(world->fs));
    }
    return rc;
}

/* The power fails: the history goes on in what is left of the disk. */
static void world_crash(struct world *world) {
    struct random *random = &world->random;
    enum simfs_model model = (enum simfs_model)random_below(random, SIMFS_MODELS);
    uint64_t floor = model == SIMFS_KILL ? world->n : world->durable;
    struct simfs *image = simfs_crash(world->fs, model, random_next(random));
    struct pleat_error err = {0};
    world_disarm(world);
    if (world->db != NULL) { /* the dead process's memory; what it may still write goes to a disk that is thrown away */
        world->doing = "close of the dead";
        (void)world_close(world, &err);
    }
    simfs_free(world->fs);
    world->fs = image;
    world->n = floor; /* what an open may find at the least */
    world->doing = simfs_model_name(model);
    soak_add(&soak.images, 1);
}

/* Everything is in order, and nothing more is on the disk than the manifest says: once an open has swept the files
 * whose removal was made to fail. */
static void world_tidy(struct world *world) {
    struct pleat_error err = {0};
    struct pleat_check check;
    world->doing = "settle, check and close";
    int rc = pleat_settle(world->db, NULL, NULL, &err);
    rc = rc == 0 ? pleat_check(world->db, &check, &err) : rc;
    if (rc == 0) {
        world_compare(world, NULL);
        rc = world_close(world, &err);
        rc = rc == 0 ? world_open(world, &err) : rc;
        rc = rc == 0 ? world_close(world, &err) : rc;
    }
    if (rc < 0) {
        WORLD_FAIL(world, "an error that nothing caused: %s", err.message);
    }
    world->durable = world->n;
    (void)soak_check_directory("store", simfs_vfs(world->fs), &mem_system);
}

static int world_act(struct world *world, struct pleat_error *err) {
    struct random *random = &world->random;
    soak_add(&soak.operations, 1);
    if (world->db == NULL) {
        return world_open(world, err);
    }
    if (world->batch == NULL) {
        world->doing = "spaces";
        int rc = history_spaces(world->db, world->spaces, err);
        return rc == 0 ? pleat_batch_new(world->db, &world->batch, err) : rc;
    }
    uint64_t draw = random_below(random, 40);
    int rc = 0;
    if (draw < 20) {
        world->doing = "operation";
        world->tried = world->n + 1;
        rc = history_apply(&world->history, world->tried, world->db, world->spaces, world->batch, draw < 2, err);
        if (rc == 0) {
            world->n = world->tried;
            soak_add(&soak.commits, 1);
        }
    } else if (draw < 28) {
        world->doing = "step";
        rc = pleat_step(world->db, err);
    } else if (draw < 30) {
        world->doing = "sync";
        rc = pleat_sync(world->db, err);
    } else if (draw < 32) {
        world->doing = "flush";
        rc = pleat_flush(world->db, err);
    } else if (draw < 33) {
        world->doing = "compact";
        rc = pleat_compact(world->spaces[random_below(random, HISTORY_SPACES)], NULL, NULL, err);
    } else if (draw < 34) {
        struct pleat_snapshot *snapshot;
        world->doing = "snapshot";
        rc = pleat_snapshot_new(world->db, &snapshot, err);
        if (rc == 0) {
            if (world->cause == CAUSE_NONE) {
                world_compare(world, snapshot);
            }
            pleat_snapshot_free(snapshot);
        }
    } else if (draw < 36) {
        struct pleat_check check;
        world->doing = "check";
        rc = pleat_check(world->db, &check, err);
    } else if (draw < 37) {
        world->doing = "close";
        rc = world_close(world, err);
        world->durable = rc == 0 ? world->n : world->durable;
    }
    uint64_t durable;
    if (world->db != NULL) {
        pleat_position_read(world->db, PLEAT_DURABLE, NULL, &durable);
        if (durable > world->tried) {
            WORLD_FAIL(world, "durable is %" PRIu64 ", only %" PRIu64 " were asked for", durable, world->tried);
        }
        world->durable = durable > world->durable ? durable : world->durable;
    }
    return rc < 0 ? rc : 0;
}

/* An error: its cause goes away, and the world with it, or on. */
static void world_judge(struct world *world, int rc, const struct pleat_error *err) {
    enum cause cause = world->cause;
    if (cause == CAUSE_NONE) {
        WORLD_FAIL(world, "an error that nothing caused: %s", err->message);
    }
    if (err->code != rc || err->message[0] == '\0') {
        WORLD_FAIL(world, "answered %d with code %d and the text \"%s\"", rc, err->code, err->message);
    }
    if ((cause == CAUSE_MEMORY && rc != PLEAT_ERR_NO_MEMORY) || (cause == CAUSE_QUOTA && rc != PLEAT_ERR_NO_SPACE)) {
        WORLD_FAIL(world, "a failed allocation or a full disk (%d) answered: %s", (int)cause, err->message);
    }
    soak_add(cause == CAUSE_MEMORY ? &soak.refused : cause == CAUSE_QUOTA ? &soak.full : &soak.faults, 1);
    if (cause == CAUSE_STOP) {
        world_crash(world);
        return;
    }
    world_disarm(world);
    if (world->db == NULL) {
        return; /* world_close has looked for what is left, or the open failed: the next one tries again */
    }
    uint64_t applied;
    int health = pleat_health(world->db, NULL);
    pleat_position_read(world->db, PLEAT_APPLIED, NULL, &applied);
    if (applied != world->n && (health == 0 || applied != world->tried)) {
        WORLD_FAIL(world, "an error left sequence %" PRIu64 " and health %d: %s", applied, health, err->message);
    }
    if (health < 0 && cause != CAUSE_DISK) {
        WORLD_FAIL(world, "the handle is read-only after: %s", err->message);
    }
    uint64_t returned = world->n;
    world->n = applied;
    if (world->batch != NULL) {
        world_compare(world, NULL);
    }
    world->n = returned; /* of a poisoned handle the outcome is open until an open has shown it */
    if (health < 0) {
        struct pleat_error again = {0};
        world->doing = "close of a read-only handle";
        if (world_close(world, &again) != health) {
            WORLD_FAIL(world, "a close of a handle whose health is %d says: %s", health, again.message);
        }
    }
}

static void world_begin(struct world *world, uint64_t seed) {
    static const uint32_t durabilities[] = {PLEAT_SYNC_INTERVAL, PLEAT_SYNC_EACH, PLEAT_SYNC_NONE};
    *world = (struct world){.random = {seed}, .doing = "begin"};
    struct random *random = &world->random;
    (void)random_next(random);
    world->history = (struct history){.seed = seed, .updates_max = 6, .value_bytes_max = 120, .clears = true};
    world->options = (struct pleat_options){
        .size = sizeof world->options,
        .background = PLEAT_BACKGROUND_STEPS,
        .memtable_bytes = 1024 << random_below(random, 4),
        .cache_bytes = 65536,
        .table_files_max = 2,
        .table_bytes = 1024 + random_below(random, 3000),
        .level_base_bytes = 2048 << random_below(random, 3),
        .level_ratio = 2 + (uint32_t)random_below(random, 3),
        .level0_tables = 1 + (uint32_t)random_below(random, 3),
        .sync_interval_ms = 1,
        .durability = durabilities[random_below(random, 3)],
        .log_by_write = random_below(random, 2) == 0,
    };
    world->fs = simfs_new(seed);
    failmem_init(&world->fail);
}

void soak_disk_world(uint64_t seed, bool verbose) {
    struct world world;
    world_begin(&world, seed);
    (void)snprintf(soak_where, sizeof soak_where, "--world 0x%" PRIx64, seed);
    for (int i = 0; i < WORLD_OPERATIONS && !soak_stopping(); i++) {
        struct pleat_error err = {0};
        uint64_t draw = random_below(&world.random, 64);
        if (draw == 0) {
            world_crash(&world);
        } else if (draw < 3 && world.cause == CAUSE_NONE) {
            world_arm(&world);
        } else if (draw < 5 && world.cause != CAUSE_NONE) {
            world_disarm(&world);
        }
        int rc = world_act(&world, &err);
        if (verbose) {
            printf("%d: %s: %d %s (at %" PRIu64 ", tried %" PRIu64 ", durable %" PRIu64 ", cause %d)\n", i, world.doing,
                   rc, rc < 0 ? err.message : "", world.n, world.tried, world.durable, (int)world.cause);
        }
        if (rc < 0) {
            world_judge(&world, rc, &err);
        } else if (world.cause == CAUSE_STOP && simfs_stopped(world.fs)) {
            world_crash(&world);
        }
    }
    bool stopped = simfs_stopped(world.fs);
    if (stopped) {
        world_crash(&world);
    }
    world_disarm(&world);
    while (world.db == NULL || world.batch == NULL) {
        struct pleat_error err = {0};
        int rc = world_act(&world, &err);
        if (rc < 0) {
            world_judge(&world, rc, &err);
        }
    }
    if (pleat_health(world.db, NULL) == 0) {
        world_tidy(&world);
    } else {
        (void)world_close(&world, NULL);
    }
    simfs_free(world.fs);
    soak_add(&soak.worlds, 1);
}
