/*
 * crash_store.c - the whole store on a disk that loses power at every operation.
 *
 *     crash_store [--seed S] [--seconds N] [--ops N] [--stop N --model NAME --image SEED]
 *
 * A history (history.h) runs with tiny limits on a simulated disk: commits over three spaces, clears, flushes,
 * compactions, rotations, syncs, reopens. For each operation index of the disk the run is repeated up to that point and
 * stopped; then images are built under every crash model, and each is opened: the state must be exactly that of the
 * sequence found (F2), which is at or past everything reported durable (F3; in the KILL model at or past everything
 * that returned); three more operations, a reopen and a comparison follow. Every fiftieth image's own recovery is
 * crashed in turn.
 *
 * A failure prints one line that replays it.
 */
#include "db/db.h"
#include "support/history.h"
#include "support/random.h"
#include "support/simfs.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

struct campaign {
    uint64_t seed;
    uint64_t ops;          /* operations of the history */
    uint64_t images;       /* built and opened */
    uint64_t nested;
    uint64_t replay_stop;  /* only this stop, when not 0 */
    int replay_model;      /* and this model, when >= 0 */
    uint64_t replay_image;
    bool failed;
};

/* What the process knew when it died. */
struct promise {
    uint64_t returned; /* sequence of the last operation that returned */
    uint64_t durable;  /* reported durable */
};

static struct pleat_options tiny_options(uint64_t seed) {
    static const uint32_t durabilities[] = {PLEAT_SYNC_INTERVAL, PLEAT_SYNC_NONE, PLEAT_SYNC_EACH};
    return (struct pleat_options){
        .size = sizeof(struct pleat_options),
        .background = PLEAT_BACKGROUND_STEPS,
        .memtable_bytes = 2048 + seed % 3 * 1024,
        .cache_bytes = 65536,
        .table_bytes = 1024 + seed % 5 * 512,
        .level_base_bytes = 2048,
        .level_ratio = 2 + (uint32_t)(seed % 3),
        .level0_tables = 1 + (uint32_t)(seed % 4),
        .sync_interval_ms = 1,
        .durability = durabilities[seed / 7 % 3],
        .log_by_write = seed % 2 == 1,
    };
}

static struct history history_of(uint64_t seed) {
    return (struct history){.seed = seed, .updates_max = 6, .value_bytes_max = 60, .clears = true};
}

static void promise_read(struct pleat_db *db, struct promise *promise) {
    uint64_t durable;
    pleat_position_read(db, PLEAT_DURABLE, NULL, &durable);
    promise->durable = durable > promise->durable ? durable : promise->durable;
}

/* Runs operations from the store's sequence on, up to `until`, with background steps, syncs and reopens drawn from the
 * seed. Returns when done, or at the first error (the disk has stopped). */
static int run(const struct history *history, struct simfs *fs, uint64_t until, struct promise *promise,
               struct pleat_error *err) {
    struct pleat_options options = tiny_options(history->seed);
    struct random random = {history->seed ^ 0x5eed};
    struct pleat_db *db = NULL;
    struct pleat_batch *batch = NULL;
    struct pleat_space *spaces[HISTORY_SPACES];
    uint64_t n = 0;
    int rc = 0;
    while (rc >= 0) {
        if (db == NULL) {
            rc = db_open_with("store", &options, simfs_vfs(fs), &mem_system, &db, err);
            if (rc < 0) {
                break;
            }
            rc = history_spaces(db, spaces, err);
            rc = rc == 0 ? pleat_batch_new(db, &batch, err) : rc;
            if (rc < 0) {
                break;
            }
            pleat_position_read(db, PLEAT_APPLIED, NULL, &n);
            promise_read(db, promise);
        }
        if (n >= until) {
            break;
        }
        n++;
        rc = history_apply(history, n, db, spaces, batch, random_below(&random, 7) == 0, err);
        if (rc < 0) {
            break;
        }
        promise->returned = n;
        promise_read(db, promise);
        uint64_t draw = random_below(&random, 16);
        if (draw < 6) {
            rc = pleat_step(db, err);
        } else if (draw == 6) {
            rc = pleat_flush(db, err);
        } else if (draw == 7) {
            rc = pleat_sync(db, err);
        } else if (draw == 8 && random_below(&random, 4) == 0) {
            pleat_batch_free(batch);
            batch = NULL;
            rc = pleat_close(db, err);
            db = NULL;
            if (rc == 0) {
                promise->durable = n;
            }
        }
        if (db != NULL) {
            promise_read(db, promise);
        }
    }
    pleat_batch_free(batch);
    struct pleat_error ignored;
    int close_rc = pleat_close(db, &ignored);
    if (rc >= 0 && close_rc < 0) {
        *err = ignored;
        rc = close_rc;
    } else if (rc >= 0 && db != NULL) {
        promise->durable = n;
    }
    return rc < 0 ? rc : 0;
}

static bool complain(struct campaign *campaign, uint64_t stop, enum simfs_model model, uint64_t image,
                     const char *text) {
    fprintf(stderr,
            "FAILED: crash_store --seed 0x%" PRIx64 " --ops %" PRIu64 " --stop %" PRIu64
            " --model %s --image 0x%" PRIx64 ": %s\n",
            campaign->seed, campaign->ops, stop, simfs_model_name(model), image, text);
    campaign->failed = true;
    return false;
}

/* Opens an image, checks F2 and F3, writes on, reopens, checks again. */
static bool check_image(const struct history *history, struct simfs *image, const struct promise *promise, bool kill,
                        char *text, size_t text_bytes) {
    struct pleat_options options = tiny_options(history->seed);
    struct pleat_error err = {0};
    struct pleat_db *db = NULL;
    struct pleat_batch *batch = NULL;
    struct pleat_space *spaces[HISTORY_SPACES];
    uint64_t expected = 0;
    for (int round = 0; round < 2; round++) {
        uint64_t applied;
        int rc = db_open_with("store", &options, simfs_vfs(image), &mem_system, &db, &err);
        rc = rc == 0 ? history_spaces(db, spaces, &err) : rc;
        if (rc < 0) {
            (void)snprintf(text, text_bytes, "open %d: %s", round, err.message);
            goto fail;
        }
        pleat_position_read(db, PLEAT_APPLIED, NULL, &applied);
        uint64_t floor = kill ? promise->returned : promise->durable;
        if (round == 0 && applied < floor) {
            (void)snprintf(text, text_bytes, "recovered sequence %" PRIu64 ", %" PRIu64 " was promised", applied,
                           floor);
            goto fail;
        }
        if (round == 1 && applied != expected) {
            (void)snprintf(text, text_bytes, "reopened at sequence %" PRIu64 " after %" PRIu64, applied, expected);
            goto fail;
        }
        if (!history_compare(history, db, spaces, NULL, text, text_bytes)) {
            goto fail;
        }
        struct pleat_check check;
        if (pleat_check(db, &check, &err) < 0) {
            (void)snprintf(text, text_bytes, "check: %s", err.message);
            goto fail;
        }
        if (round == 0) {
            rc = pleat_batch_new(db, &batch, &err);
            for (uint64_t n = applied + 1; rc == 0 && n <= applied + 3; n++) {
                rc = history_apply(history, n, db, spaces, batch, false, &err);
            }
            expected = applied + 3;
            pleat_batch_free(batch);
            batch = NULL;
            if (rc < 0) {
                (void)snprintf(text, text_bytes, "write after recovery: %s", err.message);
                goto fail;
            }
        }
        if (pleat_close(db, &err) < 0) {
            db = NULL;
            (void)snprintf(text, text_bytes, "close: %s", err.message);
            goto fail;
        }
        db = NULL;
    }
    return true;
fail:
    (void)pleat_close(db, NULL);
    return false;
}

/* Crashes the recovery of an image at each of its operations. */
static bool check_nested(struct campaign *campaign, const struct history *history, struct simfs *image,
                         const struct promise *promise, uint64_t stop, enum simfs_model model, uint64_t seed) {
    struct pleat_options options = tiny_options(history->seed);
    for (uint64_t at = 1;; at++) {
        struct simfs *fs = simfs_clone(image);
        struct pleat_db *db = NULL;
        struct pleat_error err = {0};
        struct promise nested = *promise;
        simfs_sync_all(fs); /* the image is what the disk holds */
        simfs_stop_at(fs, at);
        if (db_open_with("store", &options, simfs_vfs(fs), &mem_system, &db, &err) == 0) {
            promise_read(db, &nested);
        }
        (void)pleat_close(db, NULL);
        bool stopped = simfs_stopped(fs);
        for (enum simfs_model inner = 0; stopped && inner < SIMFS_MODELS; inner++) {
            char text[512];
            struct simfs *second = simfs_crash(fs, inner, seed + at);
            campaign->nested++;
            bool right = check_image(history, second, &nested, false, text, sizeof text);
            simfs_free(second);
            if (!right) {
                simfs_free(fs);
                char more[640];
                (void)snprintf(more, sizeof more, "nested stop %" PRIu64 " model %s: %s", at, simfs_model_name(inner),
                               text);
                return complain(campaign, stop, model, seed, more);
            }
        }
        simfs_free(fs);
        if (!stopped) {
            return true;
        }
    }
}

/* All stops of one history. Returns when done, failed, or out of time. */
static void campaign_seed(struct campaign *campaign, uint64_t deadline) {
    struct history history = history_of(campaign->seed);
    for (uint64_t stop = campaign->replay_stop != 0 ? campaign->replay_stop : 1; !campaign->failed; stop++) {
        struct simfs *fs = simfs_new(campaign->seed);
        struct promise promise = {0, 0};
        struct pleat_error err = {0};
        simfs_stop_at(fs, stop);
        int rc = run(&history, fs, campaign->ops, &promise, &err);
        bool stopped = simfs_stopped(fs);
        if (rc < 0 && !stopped) {
            (void)complain(campaign, stop, SIMFS_KILL, 0, err.message);
        }
        for (enum simfs_model model = 0; stopped && !campaign->failed && model < SIMFS_MODELS; model++) {
            if (campaign->replay_model >= 0 && model != (enum simfs_model)campaign->replay_model) {
                continue;
            }
            uint64_t seed =
                campaign->replay_image != 0 ? campaign->replay_image : campaign->seed * 31 + stop * 7 + model;
            char text[512];
            struct simfs *image = simfs_crash(fs, model, seed);
            struct simfs *kept = simfs_clone(image);
            campaign->images++;
            if (!check_image(&history, image, &promise, model == SIMFS_KILL, text, sizeof text)) {
                (void)complain(campaign, stop, model, seed, text);
            } else if (campaign->images % 50 == 0) {
                (void)check_nested(campaign, &history, kept, &promise, stop, model, seed);
            }
            simfs_free(image);
            simfs_free(kept);
        }
        simfs_free(fs);
        if (!stopped || campaign->replay_stop != 0 || (uint64_t)time(NULL) >= deadline) {
            return;
        }
    }
}

int main(int argc, char **argv) {
    uint64_t seconds = 8;
    struct campaign campaign = {.ops = 60, .replay_model = -1};
    struct random random = random_begin("crash_store");
    campaign.seed = random_next(&random);
    for (int i = 1; i + 1 < argc; i += 2) {
        uint64_t number = strtoull(argv[i + 1], NULL, 0);
        if (strcmp(argv[i], "--seed") == 0) {
            campaign.seed = number;
        } else if (strcmp(argv[i], "--seconds") == 0) {
            seconds = number;
        } else if (strcmp(argv[i], "--ops") == 0) {
            campaign.ops = number;
        } else if (strcmp(argv[i], "--stop") == 0) {
            campaign.replay_stop = number;
        } else if (strcmp(argv[i], "--image") == 0) {
            campaign.replay_image = number;
        } else if (strcmp(argv[i], "--model") == 0) {
            for (enum simfs_model model = 0; model < SIMFS_MODELS; model++) {
                campaign.replay_model =
                    strcmp(argv[i + 1], simfs_model_name(model)) == 0 ? (int)model : campaign.replay_model;
            }
        } else {
            fprintf(stderr, "unknown argument %s\n", argv[i]);
            return 2;
        }
    }
    uint64_t deadline = (uint64_t)time(NULL) + seconds, seeds = 0;
    do {
        campaign_seed(&campaign, deadline);
        seeds++;
        campaign.seed = random_next(&random);
    } while (!campaign.failed && campaign.replay_stop == 0 && (uint64_t)time(NULL) < deadline);
    printf("%" PRIu64 " histories, %" PRIu64 " images, %" PRIu64 " nested: %s\n", seeds, campaign.images,
           campaign.nested, campaign.failed ? "FAILED" : "all right");
    return campaign.failed || campaign.images == 0;
}
