/*
 * crash_store.c - the whole store on a disk that loses power at every operation.
 *
 *     crash_store [--seconds N] [--images N] [--jobs N] [--corpus FILE] [--thin N] [--seed S] [--ops N] [--at PLACES]
 *
 * A history has three lives. In each, operations run with tiny limits in step mode: commits over three spaces (empty
 * ones, and some larger than a memtable) with four cursors, creations, clears and drops of spaces, flushes, compactions
 * under snapshots, syncs, settles, clean closes. At every operation of the disk an observer builds what a crash there
 * could leave: one or more images of each crash model (simfs.h, S2), and, where little is pending, all the subsets of
 * it. Each is opened and held against what had been promised (power.h). One image in so many is opened again with
 * recovery itself crashed at each of its operations, and so are some images of that: two deep. One image of each life,
 * drawn evenly, is where the next life begins.
 *
 *     disk --op--op--op--op-- ...       life 1: each op -> images -> look
 *                     '-> image --op--op-- ...       life 2 (its recovery included)
 *                                      '-> image --op--op-- ...      life 3
 *
 * An image with the contents of one that was seen in the same life is not opened again, but what it opened as is held
 * against what is promised by now. The seed says the option set (all durability modes, both ways of writing the log).
 *
 * Without --seed and --at, the lines of the corpus run first: places that failed once, and seeds. A failure, an
 * assertion or a hang prints one line that replays it: --at L57:strict:0x9/L12:min:0x0/R4:kill:0x1 is an image of life
 * 1 before operation 57, one of the life that begins on it, and one of the recovery of that, which is opened.
 *
 * A campaign fails when it has missed a kind of image that it was long enough to meet (power_class.h). How often each
 * came, and the longest run of images of lives without it, is printed; the runs are what the demands are made from.
 */
#include "support/keepmem.h"
#include "support/power_class.h"
#include "support/random.h"

#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#define LIVES 3
#define DEPTH_MAX 3 /* images of images of images of the life's disk */
#define PLACES_MAX (LIVES + DEPTH_MAX)
#define MODEL_SUBSET SIMFS_MODELS /* by enumeration: the argument is the bits */
#define NEST_ODDS 40              /* of the images of a life, one in so many has its recovery crashed ... */
#define NEST_AGAIN_ODDS 400       /* ... and of those, one in so many again */
#define DEMAND_THIN 4 /* what is due is for a run that takes one stop in so many; one that takes more takes longer */
#define OPTION_SETS 6 /* durability modes times ways of writing the log; the seed modulo this says which */
#define LONG_ODDS 6   /* one history in so many is long, so that its manifest grows until it is replaced */
#define LONG_OPS 150
#define LONG_THIN 8
#define UNTHINNED 4 /* stops from such a replacement on are all taken */

/* What the life is at: where exhaustive enumeration is wanted at least once a life. */
enum doing {
    OPENING,
    CREATING,
    COMMITTING,
    ROTATING,
    REMOVING,
    STEPPING,
    FLUSHING,
    SYNCING,
    COMPACTING,
    CLOSING,
    DOINGS
};

/* Where an image comes from. */
struct place {
    char kind; /* 'L': a life, 'R': the recovery of the image of the place before */
    unsigned model;
    uint64_t operation;
    uint64_t argument;
};

/* Sums over processes. */
struct tally {
    uint64_t histories, lives, stops;
    uint64_t built[DEPTH_MAX], distinct[DEPTH_MAX]; /* by depth: of the life's disk, of a recovery, of its recovery */
    uint64_t enumerated, enumerations[DOINGS];
    uint64_t sets[OPTION_SETS];                  /* lives of each option set */
    uint64_t replacements;                       /* of the manifest, because it had grown */
    uint64_t classes[CLASSES];                   /* images of each kind */
    uint64_t replayed, corpus, missed, failures; /* lines; their images; places that the run does not come to */
    uint64_t gaps[CLASSES]; /* the most images of lives in a row without one of the kind; not summed */
};

/* What images opened as, by their contents. */
struct memory {
    struct memory_slot {
        uint64_t hash;
        struct power_found found;
    } * slots;
    size_t capacity, count;
};

struct campaign {
    uint64_t seed;
    uint64_t ops;
    uint64_t thin; /* only one stop in so many */
    uint64_t deadline_ns, images_max;
    struct place replay[PLACES_MAX];
    size_t replay_count;
    size_t reached;                  /* places of the replay */
    struct place places[PLACES_MAX]; /* of the image at hand */
    struct tally tally;
    uint64_t class_counts[CLASSES], class_last[CLASSES]; /* at the last image of each kind: counts, images of lives */
    bool failed;
};

/* A run whose operations are watched: a life, or (depth > 0) a recovery. */
struct scene {
    struct campaign *campaign;
    struct power_path *path;
    struct memory *memory;
    struct random random; /* of the crashes; the life has its own */
    size_t place;         /* index into places of what is made here */
    unsigned depth;
    struct life *life; /* NULL in a recovery */
};

struct life {
    struct scene scene;
    struct power_path path;
    struct pleat_options options;
    struct memory memory;
    struct random random;
    struct simfs *fs;
    struct pleat_db *db;
    struct pleat_batch *batch;
    struct pleat_space *spaces[LIVES_SPACES];
    struct pleat_snapshot *snapshot;
    struct pleat_space *snapshot_spaces[LIVES_SPACES];
    uint64_t snapshot_sequence;
    uint64_t *digests; /* of the lineage, as anyone may have seen it */
    uint32_t number;
    enum doing doing;
    bool enumerated[DOINGS];
    unsigned unthinned; /* stops that are taken in any case */
    /* where the next life begins */
    uint64_t candidates;
    struct simfs *chosen;
    struct place chosen_place;
    struct power_path chosen_path;
    struct power_found chosen_found;
};

static uint64_t now_ns(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t images_built(const struct tally *tally) {
    uint64_t sum = 0;
    for (unsigned i = 0; i < DEPTH_MAX; i++) {
        sum += tally->built[i];
    }
    return sum;
}

static void tally_add(struct tally *sum, const struct tally *part) {
    uint64_t *to = (uint64_t *)(void *)sum;
    const uint64_t *from = (const uint64_t *)(const void *)part;
    for (size_t i = 0; i < sizeof *sum / sizeof *to; i++) {
        to[i] += from[i];
    }
    for (size_t i = 0; i < CLASSES; i++) {
        sum->gaps[i] -= part->gaps[i];
        sum->gaps[i] = part->gaps[i] > sum->gaps[i] ? part->gaps[i] : sum->gaps[i];
    }
}

/* After each image of a life: how long each kind has not come. */
static void tally_gaps(struct campaign *campaign) {
    struct tally *tally = &campaign->tally;
    for (size_t i = 0; i < CLASSES; i++) {
        if (tally->classes[i] != campaign->class_counts[i]) {
            campaign->class_counts[i] = tally->classes[i];
            campaign->class_last[i] = tally->built[0];
        }
        uint64_t gap = tally->built[0] - campaign->class_last[i];
        tally->gaps[i] = gap > tally->gaps[i] ? gap : tally->gaps[i];
    }
}

static bool campaign_ends(const struct campaign *campaign) {
    return campaign->failed ||
           (campaign->replay_count == 0 &&
            (now_ns() >= campaign->deadline_ns || images_built(&campaign->tally) >= campaign->images_max));
}

/* ---- places ----------------------------------------------------------------------------------------------------- */

static const char *place_model(unsigned model) {
    return model == MODEL_SUBSET ? "subset" : simfs_model_name((enum simfs_model)model);
}

static void places_print(const struct place *places, size_t count, char *text, size_t text_bytes) {
    size_t used = 0;
    text[0] = '\0';
    for (size_t i = 0; i < count && used < text_bytes; i++) {
        int n = snprintf(text + used, text_bytes - used, "%s%c%" PRIu64 ":%s:0x%" PRIx64, i > 0 ? "/" : "",
                         places[i].kind, places[i].operation, place_model(places[i].model), places[i].argument);
        used += n > 0 ? (size_t)n : 0;
    }
}

/* False when the text is no list of places. */
static bool places_parse(const char *text, struct place *places, size_t *ret_count) {
    size_t count = 0;
    while (*text != '\0') {
        char *end;
        struct place *place = &places[count];
        if (count == PLACES_MAX || (*text != 'L' && *text != 'R') || (count == 0 && *text != 'L')) {
            return false;
        }
        place->kind = *text;
        place->operation = strtoull(text + 1, &end, 10);
        place->model = MODEL_SUBSET + 1;
        for (unsigned model = 0; *end == ':' && model <= MODEL_SUBSET; model++) {
            size_t length = strlen(place_model(model));
            if (strncmp(end + 1, place_model(model), length) == 0 && end[1 + length] == ':') {
                place->model = model;
                place->argument = strtoull(end + 2 + length, &end, 0);
                break;
            }
        }
        if (place->model > MODEL_SUBSET || (*end != '\0' && *end != '/')) {
            return false;
        }
        text = *end == '/' ? end + 1 : end;
        count++;
    }
    *ret_count = count;
    return count > 0;
}

static struct simfs *place_image(struct simfs *fs, const struct place *place) {
    return place->model == MODEL_SUBSET ? simfs_crash_subset(fs, place->argument)
                                        : simfs_crash(fs, (enum simfs_model)place->model, place->argument);
}

static void complain(struct campaign *campaign, size_t place_count, const char *text) {
    char places[512];
    places_print(campaign->places, place_count, places, sizeof places);
    fprintf(stderr, "FAILED: crash_store --seed 0x%" PRIx64 " --ops %" PRIu64 "%s%s: %s\n", campaign->seed,
            campaign->ops, place_count > 0 ? " --at " : "", places, text);
    campaign->failed = true;
    campaign->tally.failures++;
}

/* An assertion, a wild access or a hang leaves the line, too. */
static const struct campaign *running;
static size_t running_places;

static void died(int number) {
    char places[512];
    places_print(running->places, running_places, places, sizeof places);
    fprintf(stderr, "FAILED: crash_store --seed 0x%" PRIx64 " --ops %" PRIu64 " --at %s: signal %d%s\n", running->seed,
            running->ops, places, number, number == SIGALRM ? " (it hangs)" : "");
    (void)signal(number, SIG_DFL);
    (void)raise(number);
}

#define HANG_SECONDS 200 /* for one image, on a machine with much else to do */

static void running_at(const struct campaign *campaign, size_t place_count) {
    running = campaign;
    running_places = place_count;
    (void)alarm(HANG_SECONDS);
}

/* ---- what was seen ---------------------------------------------------------------------------------------------- */

static struct memory_slot *memory_find(struct memory *memory, uint64_t hash) {
    size_t at = (size_t)(hash * 0x9e3779b97f4a7c15ull >> 20) & (memory->capacity - 1);
    while (memory->slots[at].hash != 0 && memory->slots[at].hash != hash) {
        at = (at + 1) & (memory->capacity - 1);
    }
    return &memory->slots[at];
}

/* The slot of these contents; its hash is 0 when they are new. Valid until the next call. */
static struct memory_slot *memory_slot(struct memory *memory, uint64_t hash) {
    if (memory->count * 2 >= memory->capacity) {
        struct memory larger = {.capacity = memory->capacity == 0 ? 4096 : memory->capacity * 2,
                                .count = memory->count};
        larger.slots = calloc(larger.capacity, sizeof *larger.slots);
        if (larger.slots == NULL) {
            abort();
        }
        for (size_t i = 0; i < memory->capacity; i++) {
            if (memory->slots[i].hash != 0) {
                *memory_find(&larger, memory->slots[i].hash) = memory->slots[i];
            }
        }
        free(memory->slots);
        *memory = larger;
    }
    return memory_find(memory, hash);
}

/* ---- images ----------------------------------------------------------------------------------------------------- */

static void scene_stop(void *context, struct simfs *fs, uint64_t operation, unsigned call);

/* The observer is called in the middle of the store's work, with mutexes held that are none of the image's business:
 * where ranks of mutexes are checked, an image is opened by a thread of its own. */
static void aside(void *(*run)(void *context), void *context) {
#ifdef PLEAT_DEBUG
    pthread_t thread;
    if (pthread_create(&thread, NULL, run, context) != 0 || pthread_join(thread, NULL) != 0) {
        abort();
    }
#else
    (void)run(context);
#endif
}

struct looking {
    const struct power_path *path;
    struct simfs *image;
    bool kill, right;
    struct power_found found;
    char text[512];
};

static void *looking_run(void *context) {
    struct looking *looking = context;
    looking->right =
        power_check(looking->path, looking->image, looking->kill, &looking->found, looking->text, sizeof looking->text);
    return NULL;
}

struct recovering {
    struct scene scene;
    struct power_path path;
    struct simfs *fs;
    int rc;
    struct pleat_error err;
};

static void *recovering_run(void *context) {
    struct recovering *recovering = context;
    struct simfs *fs = recovering->fs;
    struct pleat_db *db = NULL;
    simfs_observe(fs, scene_stop, &recovering->scene);
    recovering->rc =
        db_open_with("store", recovering->path.options, simfs_vfs(fs), recovering->path.mem, &db, &recovering->err);
    simfs_observe(fs, NULL, NULL);
    simfs_stop_at(fs, 1); /* nobody looks at what the close would write */
    (void)pleat_close(db, NULL);
    return NULL;
}

/* Crashes the recovery of an image at each of its operations. */
static void scene_nest(struct scene *scene, struct simfs *image, bool kill, const struct power_found *found) {
    struct recovering recovering = {.path = *scene->path, .fs = simfs_clone(image)};
    struct power_path *path = &recovering.path;
    recovering.scene = (struct scene){
        .campaign = scene->campaign,
        .path = path,
        .memory = scene->memory,
        .random = {random_next(&scene->random)},
        .place = scene->place + 1,
        .depth = scene->depth + 1,
    };
    path->returned = found->sequence;
    if (!kill) { /* all that the image has is durable, and may not be lost by a second crash */
        path->durable = found->sequence;
        for (unsigned k = 0; k < LIVES_SPACES; k++) {
            path->spaces[k] = (found->exists >> k & 1u) != 0 ? POWER_PRESENT : POWER_ABSENT;
            path->dropping[k] = 0;
        }
    }
    aside(recovering_run, &recovering);
    simfs_free(recovering.fs);
    if (recovering.rc < 0 && !scene->campaign->failed) {
        complain(scene->campaign, scene->place + 1, recovering.err.message);
    }
}

/* Draws evenly among the images of a life; the replay says which. */
static bool life_chooses(struct life *life, bool replaying, bool wanted) {
    life->candidates++;
    return replaying ? wanted : random_below(&life->scene.random, life->candidates) == 0;
}

static void life_choose(struct life *life, struct simfs *image, const struct place *place, bool kill,
                        const struct power_found *found) {
    simfs_free(life->chosen);
    life->chosen = simfs_clone(image);
    life->chosen_place = *place;
    life->chosen_path = life->path;
    life->chosen_found = *found;
    life->chosen_path.returned = found->sequence;
    life->chosen_path.durable = kill ? life->path.durable : found->sequence;
}

/* Looks at one image of the disk. */
static void scene_image(struct scene *scene, struct simfs *fs, struct place place) {
    struct campaign *campaign = scene->campaign;
    bool kill = place.model == SIMFS_KILL;
    bool replaying = campaign->replay_count > 0;
    char next = replaying && scene->place + 1 < campaign->replay_count ? campaign->replay[scene->place + 1].kind : 0;
    campaign->places[scene->place] = place;
    running_at(campaign, scene->place + 1);
    campaign->reached = scene->place + 1 > campaign->reached ? scene->place + 1 : campaign->reached;
    struct simfs *image = place_image(fs, &place);
    struct looking looking = {.path = scene->path, .image = image, .kill = kill};
    campaign->tally.built[scene->depth]++;
    uint64_t hash = simfs_hash(image) | 1;
    struct memory_slot *slot = memory_slot(scene->memory, hash);
    if (slot->hash != 0 && !replaying) {
        if (!power_expect(scene->path, kill, &slot->found, looking.text, sizeof looking.text)) {
            complain(campaign, scene->place + 1, looking.text);
        }
        power_class_of_found(scene->path, &slot->found, campaign->tally.classes);
        simfs_free(image);
        return;
    }
    campaign->tally.distinct[scene->depth]++;
    power_class_of_image(fs, image, campaign->tally.classes);
    bool nests = replaying ? next == 'R'
                           : scene->depth + 1 < DEPTH_MAX &&
                                 random_below(&scene->random, scene->depth == 0 ? NEST_ODDS : NEST_AGAIN_ODDS) == 0;
    bool chooses = scene->life != NULL && life_chooses(scene->life, replaying, next == 'L');
    struct simfs *kept = nests || chooses ? simfs_clone(image) : NULL;
    aside(looking_run, &looking);
    if (!looking.right) {
        complain(campaign, scene->place + 1, looking.text);
    } else {
        power_class_of_found(scene->path, &looking.found, campaign->tally.classes);
        slot->hash = hash;
        slot->found = looking.found;
        scene->memory->count++;
        if (chooses) {
            life_choose(scene->life, kept, &place, kill, &looking.found);
        }
        if (nests) {
            scene_nest(scene, kept, kill, &looking.found);
        }
    }
    simfs_free(image);
    simfs_free(kept);
}

/* All subsets of what is pending, where they are few: always up to 4 bits, now and then up to 7, and once a life up to
 * 12 (fewer in a thinned run) for each thing that it does. */
static void scene_enumerate(struct scene *scene, struct simfs *fs, struct place place) {
    struct tally *tally = &scene->campaign->tally;
    unsigned units = simfs_units(fs);
    uint64_t draw = random_below(&scene->random, 8);
    unsigned limit = draw == 0 ? 7 : 4;
    bool *done = scene->life != NULL ? &scene->life->enumerated[scene->life->doing] : NULL;
    unsigned limit_once = scene->campaign->thin <= 1 ? 12 : scene->campaign->thin <= 8 ? 8 : 6;
    if (done != NULL && !*done && units >= 6 && units <= limit_once && draw < 3) {
        *done = true;
        limit = limit_once;
        tally->enumerations[scene->life->doing]++;
    }
    if (units == 0 || units > limit) {
        return;
    }
    tally->enumerated++;
    place.model = MODEL_SUBSET;
    for (uint64_t bits = 0; bits < 1ull << units && !scene->campaign->failed; bits++) {
        place.argument = bits;
        scene_image(scene, fs, place);
        if (scene->life != NULL) {
            tally_gaps(scene->campaign);
        }
    }
}

/* The observer: what a crash before this operation, or in the middle of it, could leave. */
static void scene_stop(void *context, struct simfs *fs, uint64_t operation, unsigned call) {
    static const unsigned draws[SIMFS_MODELS] = {1, 1, 2, 1, 1, 3};
    struct scene *scene = context;
    struct campaign *campaign = scene->campaign;
    struct life *life = scene->life;
    struct place place = {.kind = life != NULL ? 'L' : 'R', .operation = operation};
    if (life != NULL) {
        if (life->db != NULL) { /* whatever anyone can see at this moment */
            uint64_t applied, durable;
            pleat_position_read(life->db, PLEAT_APPLIED, NULL, &applied);
            pleat_position_read(life->db, PLEAT_DURABLE, NULL, &durable);
            life->path.returned = applied > life->path.returned ? applied : life->path.returned;
            life->path.durable = durable > life->path.durable ? durable : life->path.durable;
            life->path.seen[life->path.seen_count - 1].sequence = applied;
        }
        bool replaces = call == SIMFS_DIR_RENAME && life->doing != OPENING;
        campaign->tally.replacements += replaces;
        bool creates = life->doing == CREATING || (life->doing == OPENING && !life->path.opened);
        bool rare =
            replaces || creates || life->doing == REMOVING || (life->doing == COMMITTING && call == SIMFS_LOG_CREATE);
        life->unthinned = rare ? UNTHINNED : life->unthinned;
        life->doing = life->doing == COMMITTING && call == SIMFS_LOG_CREATE ? ROTATING : life->doing;
    }
    if (campaign->replay_count > 0) {
        const struct place *wanted = &campaign->replay[scene->place];
        if (!campaign->failed && scene->place < campaign->replay_count && wanted->operation == operation) {
            scene_image(scene, fs, *wanted);
        }
        return;
    }
    bool always = life != NULL && life->unthinned > 0 && life->unthinned-- > 0;
    if (campaign_ends(campaign) ||
        (!always && campaign->thin > 1 && random_below(&scene->random, campaign->thin) != 0)) {
        return;
    }
    campaign->tally.stops++;
    for (place.model = 0; place.model < SIMFS_MODELS; place.model++) {
        for (unsigned i = 0; i < (life != NULL ? draws[place.model] : 1) && !campaign->failed; i++) {
            place.argument = random_next(&scene->random);
            scene_image(scene, fs, place);
            if (life != NULL) {
                tally_gaps(campaign);
            }
        }
    }
    scene_enumerate(scene, fs, place);
}

/* ---- a life ----------------------------------------------------------------------------------------------------- */

static struct pleat_options tiny_options(uint64_t seed) {
    static const uint32_t durabilities[] = {PLEAT_SYNC_INTERVAL, PLEAT_SYNC_NONE, PLEAT_SYNC_EACH};
    uint64_t set = seed % OPTION_SETS, more = seed / OPTION_SETS;
    return (struct pleat_options){
        .size = sizeof(struct pleat_options),
        .background = PLEAT_BACKGROUND_STEPS,
        .memtable_bytes = 2048 + more % 3 * 1024,
        .cache_bytes = 65536,
        .table_bytes = 1024 + more % 5 * 512,
        .level_base_bytes = 2048,
        .level_ratio = 2 + (uint32_t)(more % 3),
        .level0_tables = 1 + (uint32_t)(more % 4),
        .sync_interval_ms = 1,
        .durability = durabilities[set % 3],
        .log_by_write = set >= 3,
        .table_files_max = 1 + (uint32_t)(more % 5),
    };
}

static void life_durable(void *context, uint64_t history, uint64_t sequence) {
    struct life *life = context;
    (void)history;
    life->path.durable = sequence > life->path.durable ? sequence : life->path.durable;
}

static int life_wrong(struct pleat_error *err, const char *text) {
    (void)snprintf(err->message, sizeof err->message, "%.250s", text);
    return PLEAT_ERR_INVALID;
}

static int life_open(struct life *life, bool first, struct pleat_error *err) {
    struct power_path *path = &life->path;
    struct power_seen *seen = first ? &path->seen[path->seen_count] : &path->seen[path->seen_count - 1];
    struct pleat_db *db = NULL;
    unsigned exists;
    uint64_t history, sequence;
    life->doing = OPENING;
    life->options.open_mode = path->opened ? PLEAT_MUST_EXIST : PLEAT_OPEN_OR_CREATE;
    int rc = db_open_with("store", &life->options, simfs_vfs(life->fs), path->mem, &db, err);
    if (rc < 0) {
        return rc;
    }
    pleat_position_read(db, PLEAT_APPLIED, &history, &sequence);
    if (sequence != path->lineage->sequence || (!first && history != seen->history)) {
        (void)pleat_close(db, NULL);
        return life_wrong(err, "opened at another sequence or history than was left");
    }
    if (first) {
        memcpy(life->digests, path->lineage->digests, (sequence + 1) * sizeof *life->digests);
        *seen = (struct power_seen){history, sequence, life->digests};
        path->seen_count++;
    }
    path->opened = true;
    life->db = db;
    rc = power_spaces(db, life->spaces, &exists, err);
    for (unsigned k = 0; rc == 0 && k < LIVES_SPACES; k++) {
        enum power_space found = life->spaces[k] != NULL ? POWER_PRESENT : POWER_ABSENT;
        if (path->spaces[k] != POWER_MAYBE && path->spaces[k] != found && path->dropping[k] == 0) {
            rc = life_wrong(err, "a space is there that should not be, or the other way round");
        }
        path->spaces[k] = found;
        path->dropping[k] = 0;
    }
    return rc == 0 ? pleat_batch_new(db, &life->batch, err) : rc;
}

static int life_close(struct life *life, struct pleat_error *err) {
    pleat_snapshot_free(life->snapshot);
    pleat_batch_free(life->batch);
    life->snapshot = NULL;
    life->batch = NULL;
    life->doing = CLOSING;
    int rc = pleat_close(life->db, err);
    life->db = NULL;
    if (rc == 0) {
        life->path.durable = life->path.lineage->sequence;
    }
    return rc;
}

static unsigned life_exists(const struct life *life) {
    unsigned exists = 0;
    for (unsigned k = 0; k < LIVES_SPACES; k++) {
        exists |= life->spaces[k] != NULL ? 1u << k : 0;
    }
    return exists;
}

/* One step of the lineage, or the creation of a space. */
static int life_step(struct life *life, struct pleat_error *err) {
    struct power_path *path = &life->path;
    unsigned k = (unsigned)random_below(&life->random, LIVES_SPACES);
    uint64_t draw = random_below(&life->random, 40);
    bool sync = random_below(&life->random, 7) == 0;
    if (life->spaces[k] == NULL && draw < 8) {
        life->doing = CREATING;
        path->spaces[k] = POWER_MAYBE;
        int rc = lives_space(life->db, k, true, &life->spaces[k], err);
        path->spaces[k] = rc == 0 ? POWER_PRESENT : POWER_MAYBE;
        return rc;
    }
    enum lives_kind kind = LIVES_COMMIT;
    if (life->spaces[k] != NULL && draw < 3) {
        kind = draw == 0 || k == 0 ? LIVES_CLEAR : LIVES_DROP;
    }
    lineage_push(path->lineage, life->number, kind, k, life_exists(life));
    uint64_t n = path->lineage->sequence;
    life->digests[n] = path->lineage->digests[n];
    life->doing = kind == LIVES_COMMIT ? COMMITTING : REMOVING;
    path->dropping[k] = kind == LIVES_DROP ? n : 0;
    int rc = lives_apply(path->lineage, life->db, life->spaces, life->batch, sync, err);
    if (rc < 0) {
        return rc;
    }
    path->spaces[k] = kind == LIVES_DROP ? POWER_ABSENT : path->spaces[k];
    path->dropping[k] = 0;
    path->returned = n;
    if (kind != LIVES_COMMIT || (sync || life->options.durability == PLEAT_SYNC_EACH)) {
        path->durable = n;
    }
    return 0;
}

/* Commits that must be refused, or take no sequence number: the next step would tell if they did anything. */
static int life_refused(struct life *life, struct pleat_error *err) {
    struct pleat_slice wrong = {"not this one", 12};
    uint64_t sequence = 0;
    pleat_batch_clear(life->batch);
    int rc = pleat_commit(life->db, life->batch, NULL, &sequence, err);
    if (rc < 0 || sequence != life->path.lineage->sequence) {
        return rc < 0 ? rc : life_wrong(err, "a commit of nothing took a sequence number");
    }
    rc = pleat_batch_put(life->batch, life->spaces[0], wrong, wrong, err);
    rc = rc == 0 ? pleat_batch_expect_cursor(life->batch, (struct pleat_slice){NULL, 0}, &wrong, err) : rc;
    rc = rc == 0 ? pleat_commit(life->db, life->batch, NULL, &sequence, err) : rc;
    return rc == PLEAT_ERR_MISMATCH ? 0 : life_wrong(err, "a commit that expects another cursor is not refused");
}

/* Takes a snapshot, or compares the one that is held and lets go of it. */
static int life_snapshot(struct life *life, struct pleat_error *err) {
    if (life->snapshot == NULL) {
        memcpy(life->snapshot_spaces, life->spaces, sizeof life->spaces);
        life->snapshot_sequence = life->path.lineage->sequence;
        return pleat_snapshot_new(life->db, &life->snapshot, err);
    }
    char text[512];
    for (unsigned k = 0; k < LIVES_SPACES; k++) { /* a handle of a dropped space answers nothing */
        life->snapshot_spaces[k] = life->snapshot_spaces[k] == life->spaces[k] ? life->spaces[k] : NULL;
    }
    bool right = lives_compare(life->path.lineage, life->snapshot_sequence, life->db, life->snapshot_spaces,
                               life->snapshot, text, sizeof text);
    pleat_snapshot_free(life->snapshot);
    life->snapshot = NULL;
    return right ? 0 : life_wrong(err, text);
}

/* The durable cursors are those of the durable sequence, which is a floor from now on. */
static int life_read_durable(struct life *life, struct pleat_error *err) {
    struct pleat_cursor_value cursor = {0};
    char text[512];
    int rc = pleat_cursor_read(life->db, (struct pleat_slice){NULL, 0}, PLEAT_DURABLE, &cursor, err);
    if (rc < 0) {
        return rc;
    }
    if (cursor.sequence > life->path.lineage->sequence ||
        !lives_compare_cursors(life->path.lineage, cursor.sequence, life->db, PLEAT_DURABLE, text, sizeof text)) {
        return life_wrong(err, "the durable cursors are not those of the durable sequence");
    }
    life->path.durable = cursor.sequence > life->path.durable ? cursor.sequence : life->path.durable;
    return 0;
}

/* What happens between two steps. */
static int life_between(struct life *life, struct pleat_error *err) {
    uint64_t draw = random_below(&life->random, 32);
    unsigned k = (unsigned)random_below(&life->random, LIVES_SPACES);
    int rc = 0;
    if (draw < 10) {
        life->doing = STEPPING;
        rc = pleat_step(life->db, err);
    } else if (draw < 12) {
        life->doing = FLUSHING;
        rc = pleat_flush(life->db, err);
    } else if (draw < 14) {
        life->doing = SYNCING;
        rc = pleat_sync(life->db, err);
        life->path.durable = rc == 0 ? life->path.lineage->sequence : life->path.durable;
    } else if (draw < 18) {
        rc = life_snapshot(life, err);
    } else if (draw < 20) {
        rc = life_refused(life, err);
    } else if (draw == 20) {
        life->doing = COMPACTING;
        rc = life->spaces[k] != NULL ? pleat_compact(life->spaces[k], NULL, NULL, err)
                                     : pleat_settle(life->db, NULL, NULL, err);
    } else if (draw == 21) {
        rc = life_close(life, err);
        rc = rc == 0 ? life_open(life, false, err) : rc;
    }
    return rc < 0 ? rc : life_read_durable(life, err);
}

/* Runs the life to its end on life->fs. */
static void life_run(struct life *life) {
    struct campaign *campaign = life->scene.campaign;
    struct pleat_error err = {0};
    simfs_observe(life->fs, scene_stop, &life->scene);
    int rc = life_open(life, true, &err);
    for (uint64_t i = 0; rc >= 0 && i < campaign->ops && !campaign_ends(campaign); i++) {
        rc = life_step(life, &err);
        rc = rc >= 0 ? life_between(life, &err) : rc;
    }
    struct pleat_error close_err = {0};
    int close_rc = life_close(life, &close_err);
    if ((rc < 0 || close_rc < 0) && !campaign->failed) {
        char text[640];
        (void)snprintf(text, sizeof text, "life %" PRIu32 ", sequence %" PRIu64 ": %s", life->number,
                       life->path.lineage->sequence, rc < 0 ? err.message : close_err.message);
        complain(campaign, life->scene.place, text);
    }
    campaign->tally.lives++;
    campaign->tally.sets[campaign->seed % OPTION_SETS]++;
}

/* ---- histories -------------------------------------------------------------------------------------------------- */

static void life_begin(struct life *life, struct campaign *campaign, uint32_t number, struct lineage *lineage,
                       uint64_t *digests, size_t place) {
    memset(life, 0, sizeof *life);
    life->number = number;
    life->digests = digests;
    life->random.state = campaign->seed ^ (uint64_t)number << 48;
    life->options = tiny_options(campaign->seed);
    life->options.on_durable = life_durable;
    life->options.on_durable_context = life;
    life->path = (struct power_path){.options = &life->options, .mem = keepmem(), .lineage = lineage};
    life->path.spaces[0] = POWER_PRESENT;
    life->scene = (struct scene){
        .campaign = campaign,
        .path = &life->path,
        .memory = &life->memory,
        .random = {campaign->seed * 31 + number},
        .place = place,
        .life = life,
    };
}

/* The next life begins on the image that this one chose. */
static void life_next(struct life *life, const struct life *before, struct campaign *campaign, struct lineage *lineage,
                      uint64_t *digests) {
    life_begin(life, campaign, before->number + 1, lineage, digests, before->scene.place + 1);
    struct power_path path = before->chosen_path;
    path.options = &life->options;
    life->path = path;
    life->fs = before->chosen;
    lineage_cut(lineage, before->chosen_found.sequence);
    campaign->places[before->scene.place] = before->chosen_place;
}

static void campaign_history(struct campaign *campaign) {
    running_at(campaign, 0);
    static struct lineage lineage; /* large; one thread a process */
    static uint64_t digests[LIVES][LINEAGE_MAX + 1];
    static struct life lives[LIVES];
    lineage_begin(&lineage, campaign->seed);
    for (uint32_t i = 0; i < LIVES && !campaign_ends(campaign); i++) {
        struct life *life = &lives[i];
        if (i == 0) {
            life_begin(life, campaign, 1, &lineage, digests[0], 0);
            life->fs = simfs_new(campaign->seed);
        } else {
            life_next(life, &lives[i - 1], campaign, &lineage, digests[i]);
        }
        life_run(life);
        simfs_free(life->fs);
        free(life->memory.slots);
        if (life->chosen == NULL) {
            break;
        }
        if (i + 1 == LIVES || campaign_ends(campaign)) {
            simfs_free(life->chosen);
        }
    }
    campaign->tally.histories += !campaign_ends(campaign); /* whole ones */
    campaign->tally.missed += campaign->replay_count > campaign->reached;
}

/* ---- the corpus ------------------------------------------------------------------------------------------------- */

/* Takes one option; false when it is none. */
static bool campaign_option(struct campaign *campaign, const char *name, const char *value) {
    uint64_t number = strtoull(value, NULL, 0);
    if (strcmp(name, "--seed") == 0) {
        campaign->seed = number;
    } else if (strcmp(name, "--ops") == 0) {
        campaign->ops = number > 0 && number <= LONG_OPS ? number : LONG_OPS; /* what a lineage holds */
    } else if (strcmp(name, "--thin") == 0) {
        campaign->thin = number;
    } else if (strcmp(name, "--images") == 0) {
        campaign->images_max = number;
    } else {
        return strcmp(name, "--at") == 0 && places_parse(value, campaign->replay, &campaign->replay_count);
    }
    return true;
}

/* A line is the options of one run: a place that failed once, or a seed. */
static bool corpus_line(struct campaign *total, char *line) {
    struct campaign campaign = {.ops = total->ops, .deadline_ns = total->deadline_ns, .images_max = UINT64_MAX};
    char *rest = line;
    char *name;
    while ((name = strtok_r(rest, " \n", &rest)) != NULL) {
        char *value = strtok_r(rest, " \n", &rest);
        if (value == NULL || !campaign_option(&campaign, name, value)) {
            fprintf(stderr, "the corpus has an unknown line at %s\n", name);
            total->failed = true;
            return false;
        }
    }
    campaign_history(&campaign);
    /* What a line was written for is not what the campaign meets. */
    struct tally *all = &campaign.tally,
                 kept = {.replayed = 1, .missed = all->missed, .failures = all->failures, .corpus = images_built(all)};
    kept.classes[CLASS_SEGMENT_MISSING] = all->classes[CLASS_SEGMENT_MISSING];
    tally_add(&total->tally, &kept);
    total->failed = total->failed || campaign.failed;
    return !total->failed;
}

static void corpus_run(struct campaign *campaign, const char *path) {
    char line[1024];
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        fprintf(stderr, "no corpus at %s\n", path);
        campaign->failed = true;
        return;
    }
    while (fgets(line, sizeof line, file) != NULL &&
           (line[0] == '#' || line[0] == '\n' || corpus_line(campaign, line))) {
    }
    (void)fclose(file);
}

/* ---- the campaign ----------------------------------------------------------------------------------------------- */

static void campaign_report(const struct tally *tally, uint64_t ns) {
    static const char *const doings[DOINGS] = {"open", "create", "commit", "rotate",  "clear or drop",
                                               "step", "flush",  "sync",   "compact", "close"};
    uint64_t images = images_built(tally);
    printf("%" PRIu64 " histories, %" PRIu64 " lives, %" PRIu64 " stops; %" PRIu64 " lines of the corpus (%" PRIu64
           " more images), places not reached: %" PRIu64 "\n",
           tally->histories, tally->lives, tally->stops, tally->replayed, tally->corpus, tally->missed);
    printf("%" PRIu64 " images: %" PRIu64 " of lives, %" PRIu64 " of recoveries, %" PRIu64
           " of recoveries of those; opened, being distinct: %" PRIu64 ", %" PRIu64 ", %" PRIu64 "\n",
           images, tally->built[0], tally->built[1], tally->built[2], tally->distinct[0], tally->distinct[1],
           tally->distinct[2]);
    printf("lives of each option set:");
    for (unsigned i = 0; i < OPTION_SETS; i++) {
        printf(" %" PRIu64, tally->sets[i]);
    }
    printf("; manifests replaced in mid-life: %" PRIu64 "\n", tally->replacements);
    printf("%" PRIu64 " stops enumerated; of 6 to 12 bits:", tally->enumerated);
    for (unsigned i = 0; i < DOINGS; i++) {
        printf(" %s %" PRIu64, doings[i], tally->enumerations[i]);
    }
    printf("\n");
    power_class_print(tally->classes, tally->gaps, images);
    printf("%.1f s, %.0f images/s, %" PRIu64 " failures\n", (double)ns / 1e9, (double)images * 1e9 / (double)ns,
           tally->failures);
}

/* A campaign has seen every kind that its length makes due, or tests less than it says; but for the one that must not
 * be: a segment's name is durable before the next one begins (Q8 of recover.c). */
static bool campaign_saw_all(const struct tally *tally, uint64_t thin) {
    uint64_t images = tally->built[0] * (thin < 1 ? 1 : thin < DEMAND_THIN ? thin : DEMAND_THIN) / DEMAND_THIN;
    bool all = true;
    for (unsigned i = 0; i < CLASSES; i++) {
        bool must_not_be = i == CLASS_SEGMENT_MISSING;
        bool is_due = power_class_is_due((enum power_class)i, images, tally->histories);
        if (must_not_be ? tally->classes[i] > 0 : is_due && tally->classes[i] == 0) {
            fprintf(stderr, "FAILED: crash_store: %" PRIu64 " images of the kind: %s\n", tally->classes[i],
                    power_class_name((enum power_class)i));
            all = false;
        }
    }
    return all;
}

/* Histories of fresh seeds until the time or the number is reached. */
static void campaign_run(struct campaign *campaign, struct random random) {
    uint64_t set = random_below(&random, OPTION_SETS);
    uint64_t ops = campaign->ops, thin = campaign->thin;
    while (!campaign_ends(campaign)) {
        bool is_long = random_below(&random, LONG_ODDS) == 0;
        campaign->ops = is_long ? LONG_OPS : ops;
        campaign->thin = is_long ? (thin > 1 ? thin : 1) * LONG_THIN : thin;
        campaign->seed = random_next(&random) / 8 * OPTION_SETS + set; /* option sets in turn */
        set = (set + 1) % OPTION_SETS;
        campaign_history(campaign);
    }
}

/* Further processes, each with seeds of its own; the tallies come back through pipes. */
static void campaign_jobs(struct campaign *campaign, struct random random, uint64_t jobs) {
    int pipes[64][2];
    jobs = jobs < 64 ? jobs : 64;
    campaign->images_max = (campaign->images_max - 1) / jobs + 1;
    struct campaign fresh = *campaign;
    memset(&fresh.tally, 0, sizeof fresh.tally);
    for (uint64_t i = 1; i < jobs; i++) {
        struct random own = {random_next(&random)};
        if (pipe(pipes[i]) != 0) {
            abort();
        }
        if (fork() == 0) {
            campaign_run(&fresh, own);
            ssize_t n = write(pipes[i][1], &fresh.tally, sizeof fresh.tally);
            _exit(n != sizeof fresh.tally || fresh.failed);
        }
        (void)close(pipes[i][1]);
    }
    campaign_run(campaign, random);
    for (uint64_t i = 1; i < jobs; i++) {
        int status = 0;
        struct tally part = {0};
        ssize_t n = read(pipes[i][0], &part, sizeof part);
        tally_add(&campaign->tally, &part);
        campaign->failed = wait(&status) < 0 || status != 0 || n != sizeof part || campaign->failed;
    }
}

int main(int argc, char **argv) {
    uint64_t seconds = 8, jobs = 1, begin = now_ns();
    const char *corpus = NULL;
    bool has_seed = false;
    struct campaign campaign = {.ops = 40, .images_max = UINT64_MAX};
    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        has_seed = has_seed || strcmp(argv[i], "--seed") == 0;
        if (strcmp(argv[i], "--seconds") == 0) {
            seconds = strtoull(value, NULL, 0);
        } else if (strcmp(argv[i], "--jobs") == 0) {
            jobs = strtoull(value, NULL, 0);
        } else if (strcmp(argv[i], "--corpus") == 0) {
            corpus = value;
        } else if (i + 1 == argc || !campaign_option(&campaign, argv[i], value)) {
            fprintf(stderr, "unknown argument %s %s\n", argv[i], value);
            return 2;
        } else if (strcmp(argv[i], "--images") == 0) {
            seconds = UINT32_MAX;
        }
    }
    struct random random = random_begin("crash_store");
    static const int signals[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGALRM};
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
        (void)signal(signals[i], died);
    }
    running_at(&campaign, 0);
    const uint64_t thin = campaign.thin; /* a history changes it */
    campaign.deadline_ns = begin + seconds * 1000000000u;
    if (has_seed) {
        campaign_history(&campaign);
        campaign.failed = campaign.failed || campaign.tally.missed > 0;
    } else {
        if (corpus != NULL) {
            corpus_run(&campaign, corpus);
        }
        campaign_jobs(&campaign, random, jobs > 0 ? jobs : 1);
    }
    campaign_report(&campaign.tally, now_ns() - begin);
    bool right = !campaign.failed && images_built(&campaign.tally) + campaign.tally.corpus > 0 &&
                 campaign_saw_all(&campaign.tally, thin);
    printf("%s\n", right ? "all right" : "FAILED");
    return right ? 0 : 1;
}
