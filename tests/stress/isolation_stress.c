/*
 * isolation_stress.c - every way of reading sees whole batches only, and a snapshot never changes.
 *
 *     isolation_stress [--seconds N] [--seed S] [--shake N] [seconds]
 *
 * Writers turn a wheel each (wheel.h): a commit touches both spaces, and what was seen of a wheel is right when it is
 * of one k. For the first half of the time one of them writes, then all. Two threads flush, compact, settle and clear
 * beside them, so that tables come and go all the time.
 *
 * Readers draw one of:
 *   scan       forward or backward, all or bounded or a prefix, rows or keys only, the latest state or a snapshot's
 *   walk       an iterator that changes its direction while commits go on
 *   hold       iterators that are made and then walked a few steps at a time, over flushes and compactions: they show
 *              the state of the moment at which they were made
 *   snapshot   a set of snapshots of different ages; one is drawn and read again in one of six ways, and its digest
 *              must be that of its first reading
 *
 * Of the latest state, k lies between what was acknowledged before the call and what had been asked for after it, and
 * never below what the same thread saw before.
 */
#include "stress/stress.h"
#include "support/wheel.h"

#include "db/db.h"

#define WRITERS 4
#define READERS 3
#define HELD 3
#define SNAPSHOTS 4

struct isolation {
    struct pleat_db *db;
    struct pleat_space *spaces[WHEEL_SPACES];
    _Atomic bool many;                      /* relaxed: a request */
    _Atomic uint64_t asked[WRITERS];        /* release before the commit; pairs with the acquire of the readers */
    _Atomic uint64_t acknowledged[WRITERS]; /* release behind the commit; the same */
    _Atomic uint64_t commits, scans, walks, held_ends, readings; /* counts: no partner */
};

static struct isolation isolation;

static void count(_Atomic uint64_t *counter) {
    (void)atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

/* ---- writers ---------------------------------------------------------------------------------------------------- */

static void *writer_run(void *context) {
    unsigned wheel = *(unsigned *)context;
    struct random random = stress_random(100 + wheel);
    struct pleat_error err = {0};
    struct pleat_batch *batch;
    MUST(pleat_batch_new(isolation.db, &batch, &err));
    while (wheel > 0 && !stress_stopping() && !atomic_load_explicit(&isolation.many, memory_order_relaxed)) {
        thread_sleep_ns(1000000);
    }
    for (uint64_t k = 1; !stress_stopping(); k++) {
        MUST(wheel_fill(batch, isolation.spaces, wheel, k, &err));
        atomic_store_explicit(&isolation.asked[wheel], k, memory_order_release); /* pairs with the readers' acquire */
        MUST(pleat_commit(isolation.db, batch,
                          PLEAT_COMMIT_OPTIONS(.sync = random_below(&random, 64) == 0 ? PLEAT_COMMIT_SYNC : 0), NULL,
                          &err));
        atomic_store_explicit(&isolation.acknowledged[wheel], k, memory_order_release); /* the same */
        count(&isolation.commits);
        shake_here();
    }
    pleat_batch_free(batch);
    return NULL;
}

/* ---- what a reader may see -------------------------------------------------------------------------------------- */

/* From before a call to behind it. */
struct bounds {
    uint64_t least[WRITERS], most[WRITERS];
};

struct reader {
    unsigned index;
    struct random random;
    uint64_t last[WRITERS]; /* of each wheel the newest state that this thread saw */
};

static void bounds_begin(struct bounds *bounds, const struct reader *reader) {
    for (unsigned w = 0; w < WRITERS; w++) { /* acquire; pairs with the writers' release */
        uint64_t acknowledged = atomic_load_explicit(&isolation.acknowledged[w], memory_order_acquire);
        bounds->least[w] = acknowledged > reader->last[w] ? acknowledged : reader->last[w];
    }
}

static void bounds_end(struct bounds *bounds) {
    for (unsigned w = 0; w < WRITERS; w++) { /* acquire; pairs with the writers' release */
        bounds->most[w] = atomic_load_explicit(&isolation.asked[w], memory_order_acquire);
    }
}

/* Places [from, to) of all wheels, of one state each inside the bounds. */
static void check_seen(struct reader *reader, const struct wheel_seen *seen, unsigned from, unsigned to, bool keys_only,
                       const struct bounds *bounds, bool latest) {
    for (unsigned w = 0; w < WRITERS; w++) {
        uint64_t k = wheel_hub(&seen[w], from, to);
        if (keys_only) { /* the slots that are there say k up to full turns */
            k = bounds->least[w];
            while (k < bounds->most[w] && !wheel_fits(&seen[w], from, to, k)) {
                k++;
            }
        }
        EXPECT(k >= bounds->least[w], "a state older than what was acknowledged or seen before");
        EXPECT(k <= bounds->most[w], "a state that nobody has asked for yet");
        EXPECT(wheel_fits(&seen[w], from, to, k), "a state of more than one commit");
        reader->last[w] = latest && k > reader->last[w] ? k : reader->last[w];
    }
}

/* What a scan is asked for: places [from, to) by the key's bounds, or by a prefix. */
struct range {
    char lower[WHEEL_KEY_BYTES], upper[WHEEL_KEY_BYTES];
    struct pleat_iter_options options;
    unsigned from, to;
    size_t space;
};

static void range_draw(struct range *range, struct random *random, const struct pleat_snapshot *snapshot) {
    *range = (struct range){.to = WHEEL_PLACES, .space = (size_t)random_below(random, WHEEL_SPACES)};
    range->options = (struct pleat_iter_options){.size = sizeof range->options, .snapshot = snapshot};
    range->options.keys_only = random_below(random, 4) == 0;
    range->options.reverse = random_below(random, 2) == 0;
    range->options.skip_cache = random_below(random, 4) == 0;
    switch (random_below(random, 3)) {
    case 0:
        range->from = (unsigned)random_below(random, WHEEL_PLACES - 10);
        range->to = range->from + 10 + (unsigned)random_below(random, WHEEL_PLACES - 9 - range->from);
        (void)wheel_key(range->lower, range->from, 0);
        (void)wheel_key(range->upper, range->to, 0);
        range->options.lower = (struct pleat_slice){range->lower, 6}; /* "00012/": before all wheels of the place */
        range->options.upper = (struct pleat_slice){range->upper, 6};
        range->options.has_lower = range->options.has_upper = true;
        break;
    case 1:
        range->from = 10 * (unsigned)random_below(random, WHEEL_PLACES / 10);
        range->to = range->from + 10;
        (void)wheel_key(range->lower, range->from, 0);
        range->options.prefix = (struct pleat_slice){range->lower, 4};
        break;
    default:
        break;
    }
}

struct scan {
    struct wheel_seen seen[WRITERS];
    const struct range *range;
    char last[WHEEL_KEY_BYTES];
    bool any;
};

static void scan_note(struct scan *scan, const struct pleat_row *row, bool reverse) {
    EXPECT(wheel_see(row, scan->range->space, scan->range->options.keys_only, WRITERS, scan->seen),
           "a row that no commit wrote, or twice");
    int order = scan->any ? memcmp(row->key.data, scan->last, row->key.bytes) : 0;
    EXPECT(!scan->any || (reverse ? order < 0 : order > 0), "keys out of order");
    memcpy(scan->last, row->key.data, row->key.bytes);
    scan->any = true;
}

static int scan_row(void *context, const struct pleat_row *row) {
    struct scan *scan = context;
    scan_note(scan, row, scan->range->options.reverse);
    shake_here();
    return 0;
}

static void read_scan(struct reader *reader) {
    struct pleat_error err = {0};
    struct range range;
    struct bounds bounds;
    range_draw(&range, &reader->random, NULL);
    struct scan scan = {.range = &range};
    bounds_begin(&bounds, reader);
    MUST(pleat_scan(isolation.spaces[range.space], &range.options, scan_row, &scan, &err));
    bounds_end(&bounds);
    check_seen(reader, scan.seen, range.from, range.to, range.options.keys_only, &bounds, true);
    count(&isolation.scans);
}

static struct pleat_row iter_row(const struct pleat_iter *iter) {
    struct pleat_row row = {
        .key = pleat_iter_key(iter), .value = pleat_iter_value(iter), .version = pleat_iter_version(iter)};
    row.has_flag = pleat_iter_flag(iter, &row.flag);
    return row;
}

/* ---- walks: an iterator that turns round ------------------------------------------------------------------------ */

static void expect_at(const struct pleat_iter *iter, const struct scan *scan) {
    struct pleat_slice key = pleat_iter_key(iter);
    EXPECT(key.bytes == 8 && memcmp(key.data, scan->last, 8) == 0, "an iterator came back to another row");
}

/* Away from the row that was shown last, and back to it. */
static void walk_away(struct reader *reader, struct pleat_iter *iter, const struct scan *scan) {
    struct pleat_error err = {0};
    uint64_t steps = 1 + random_below(&reader->random, 4), back = 0;
    while (back < steps && pleat_iter_prev(iter, &err) == 0) {
        back++;
    }
    if (back == steps) {
        for (uint64_t i = 0; i < back; i++) {
            MUST(pleat_iter_next(iter, &err));
        }
        expect_at(iter, scan);
    }
    if (random_below(&reader->random, 4) == 0) {
        MUST(pleat_iter_last(iter, &err));
    }
    MUST(pleat_iter_seek(iter, (struct pleat_slice){scan->last, 8}, &err));
    expect_at(iter, scan);
}

static void read_walk(struct reader *reader) {
    struct pleat_error err = {0};
    struct range range;
    struct bounds bounds;
    struct pleat_iter *iter;
    range_draw(&range, &reader->random, NULL);
    struct scan scan = {.range = &range};
    bounds_begin(&bounds, reader);
    MUST(pleat_iter_new(isolation.spaces[range.space], &range.options, &iter, &err));
    bounds_end(&bounds);
    int rc = pleat_iter_first(iter, &err);
    while (rc == 0) {
        struct pleat_row row = iter_row(iter);
        scan_note(&scan, &row, false);
        if (random_below(&reader->random, 8) == 0) {
            walk_away(reader, iter, &scan);
        }
        rc = pleat_iter_next(iter, &err);
    }
    ANSWERS(PLEAT_END, rc);
    pleat_iter_free(iter);
    check_seen(reader, scan.seen, range.from, range.to, range.options.keys_only, &bounds, true);
    count(&isolation.walks);
}

/* ---- iterators that are held ------------------------------------------------------------------------------------ */

struct held {
    struct pleat_iter *iter;
    struct range range;
    struct scan scan;
    struct bounds bounds;
    uint32_t pace; /* rows a visit */
};

static void held_begin(struct held *held, struct reader *reader) {
    struct pleat_error err = {0};
    range_draw(&held->range, &reader->random, NULL);
    held->scan = (struct scan){.range = &held->range};
    held->pace = 1 + (uint32_t)random_below(&reader->random, 12);
    bounds_begin(&held->bounds, reader);
    MUST(pleat_iter_new(isolation.spaces[held->range.space], &held->range.options, &held->iter, &err));
    bounds_end(&held->bounds);
}

/* A few steps; at the end the iterator is judged and let go. */
static void held_visit(struct held *held, struct reader *reader, bool finish) {
    struct pleat_error err = {0};
    bool reverse = held->range.options.reverse;
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && (finish || i < held->pace); i++) {
        if (!held->scan.any) {
            rc = reverse ? pleat_iter_last(held->iter, &err) : pleat_iter_first(held->iter, &err);
        } else {
            rc = reverse ? pleat_iter_prev(held->iter, &err) : pleat_iter_next(held->iter, &err);
        }
        if (rc == 0) {
            struct pleat_row row = iter_row(held->iter);
            scan_note(&held->scan, &row, reverse);
        } else {
            ANSWERS(PLEAT_END, rc);
        }
    }
    if (rc == PLEAT_END) {
        pleat_iter_free(held->iter);
        held->iter = NULL;
        check_seen(reader, held->scan.seen, held->range.from, held->range.to, held->range.options.keys_only,
                   &held->bounds, false);
        count(&isolation.held_ends);
    }
}

/* ---- snapshots that are kept ------------------------------------------------------------------------------------ */

struct kept {
    struct pleat_snapshot *snapshot;
    uint64_t digest, sequence;
};

/* Of a row, to be added up: the order of reading does not matter. */
static uint64_t row_digest(const struct pleat_row *row, size_t space) {
    const struct pleat_slice parts[] = {row->key, row->value, row->version};
    uint64_t hash = 14695981039346656037u + space + row->flag;
    for (size_t part = 0; part < 3; part++) {
        for (size_t i = 0; i < parts[part].bytes; i++) {
            hash = (hash ^ ((const uint8_t *)parts[part].data)[i]) * 1099511628211u;
        }
        hash = (hash ^ parts[part].bytes) * 0x9e3779b97f4a7c15u;
    }
    return hash ^ (hash >> 29);
}

struct digest {
    uint64_t sum;
    size_t space;
};

static int digest_row(void *context, const struct pleat_row *row) {
    struct digest *digest = context;
    digest->sum += row_digest(row, digest->space);
    return 0;
}

static void digest_value(struct digest *digest, struct pleat_slice key, struct pleat_value *value) {
    struct pleat_row row = {.key = key,
                            .value = {value->data, value->bytes},
                            .version = {value->version, value->version_bytes},
                            .has_flag = value->has_flag,
                            .flag = value->flag};
    digest->sum += row_digest(&row, digest->space);
    pleat_value_release(value);
}

static void digest_gets(struct digest *digest, const struct pleat_snapshot *snapshot) {
    struct pleat_space *space = isolation.spaces[digest->space];
    struct pleat_error err = {0};
    for (unsigned i = 0; i < WRITERS * WHEEL_PLACES; i++) {
        char text[WHEEL_KEY_BYTES];
        uint8_t buffer[64];
        size_t bytes = 0;
        struct pleat_value value;
        struct pleat_slice key = wheel_key(text, i % WHEEL_PLACES, i / WHEEL_PLACES);
        int rc = pleat_get(space, snapshot, key, &value, &err);
        EXPECT(rc == 0 || rc == PLEAT_ABSENT, err.message);
        ANSWERS(rc, pleat_exists(space, snapshot, key, &err));
        ANSWERS(rc, pleat_get_into(space, snapshot, key, buffer, sizeof buffer, &bytes, &err));
        if (rc == 0) {
            size_t common = bytes < sizeof buffer ? bytes : sizeof buffer;
            EXPECT(bytes == value.bytes && (common == 0 || memcmp(buffer, value.data, common) == 0),
                   "get and get_into of one snapshot differ");
            digest_value(digest, key, &value);
        }
    }
}

static void digest_many(struct digest *digest, const struct pleat_snapshot *snapshot) {
    enum { CHUNK = 45 };
    struct pleat_error err = {0};
    for (unsigned i = 0; i < WRITERS * WHEEL_PLACES; i += CHUNK) {
        char text[CHUNK][WHEEL_KEY_BYTES];
        struct pleat_slice keys[CHUNK];
        struct pleat_value values[CHUNK];
        int status[CHUNK];
        for (unsigned j = 0; j < CHUNK; j++) { /* backward, so that they are not in order */
            unsigned at = i + CHUNK - 1 - j;
            keys[j] = wheel_key(text[j], at % WHEEL_PLACES, at / WHEEL_PLACES);
        }
        MUST(pleat_get_many(isolation.spaces[digest->space], snapshot, keys, CHUNK, values, status, &err));
        for (unsigned j = 0; j < CHUNK; j++) {
            if (status[j] == 0) {
                digest_value(digest, keys[j], &values[j]);
            }
        }
    }
}

/* In pieces of `step` places, by bounds or by prefixes. */
static void digest_pieces(struct digest *digest, const struct pleat_snapshot *snapshot, unsigned step) {
    struct pleat_error err = {0};
    for (unsigned place = 0; place < WHEEL_PLACES; place += step) {
        char lower[WHEEL_KEY_BYTES], upper[WHEEL_KEY_BYTES];
        (void)wheel_key(lower, place, 0);
        (void)wheel_key(upper, place + step, 0);
        struct pleat_iter_options options = {.size = sizeof options, .snapshot = snapshot, .reverse = place % 3 == 0};
        if (step == 10) {
            options.prefix = (struct pleat_slice){lower, 4};
        } else {
            options.lower = (struct pleat_slice){lower, 6};
            options.upper = (struct pleat_slice){upper, 6};
            options.has_lower = options.has_upper = true;
        }
        MUST(pleat_scan(isolation.spaces[digest->space], &options, digest_row, digest, &err));
    }
}

static uint64_t snapshot_digest(const struct pleat_snapshot *snapshot, uint64_t way) {
    struct pleat_error err = {0};
    struct digest digest = {0};
    for (; digest.space < WHEEL_SPACES; digest.space++) {
        struct pleat_iter_options options = {.size = sizeof options, .snapshot = snapshot, .reverse = way == 1};
        switch (way) {
        case 0:
        case 1:
            MUST(pleat_scan(isolation.spaces[digest.space], &options, digest_row, &digest, &err));
            break;
        case 2:
            digest_gets(&digest, snapshot);
            break;
        case 3:
            digest_many(&digest, snapshot);
            break;
        default:
            digest_pieces(&digest, snapshot, way == 4 ? 10 : 37);
            break;
        }
    }
    return digest.sum;
}

/* A new snapshot is exactly the state of its cursors, inside the bounds. */
static void kept_begin(struct kept *kept, struct reader *reader) {
    struct pleat_error err = {0};
    struct bounds bounds;
    uint64_t k[WRITERS];
    char text[300];
    bounds_begin(&bounds, reader);
    MUST(pleat_snapshot_new(isolation.db, &kept->snapshot, &err));
    bounds_end(&bounds);
    if (!wheel_compare(isolation.db, isolation.spaces, kept->snapshot, WRITERS, k, text, sizeof text)) {
        stress_fail(text, 0, NULL);
    }
    for (unsigned w = 0; w < WRITERS; w++) {
        EXPECT(k[w] >= bounds.least[w] && k[w] <= bounds.most[w], "a snapshot of another moment than its making");
        reader->last[w] = k[w];
    }
    kept->sequence = pleat_snapshot_sequence(kept->snapshot);
    kept->digest = snapshot_digest(kept->snapshot, 0);
}

static void read_kept(struct kept *kept, struct reader *reader) {
    if (kept->snapshot == NULL) {
        kept_begin(kept, reader);
        return;
    }
    EXPECT(snapshot_digest(kept->snapshot, random_below(&reader->random, 6)) == kept->digest &&
               pleat_snapshot_sequence(kept->snapshot) == kept->sequence,
           "a snapshot has changed");
    count(&isolation.readings);
    if (random_below(&reader->random, 12) == 0) {
        pleat_snapshot_free(kept->snapshot);
        kept->snapshot = NULL;
    }
}

/* ---- threads ---------------------------------------------------------------------------------------------------- */

static void *reader_run(void *context) {
    struct reader reader = {.index = *(unsigned *)context};
    struct held held[HELD] = {{.iter = NULL}};
    struct kept kept[SNAPSHOTS] = {{.snapshot = NULL}};
    reader.random = stress_random(200 + reader.index);
    while (!stress_stopping()) {
        struct held *one = &held[random_below(&reader.random, HELD)];
        switch (random_below(&reader.random, 8)) {
        case 0:
        case 1:
        case 2:
            read_scan(&reader);
            break;
        case 3:
            read_walk(&reader);
            break;
        case 4:
        case 5:
            if (one->iter == NULL) {
                held_begin(one, &reader);
            } else {
                held_visit(one, &reader, false);
            }
            break;
        default:
            read_kept(&kept[random_below(&reader.random, SNAPSHOTS)], &reader);
            break;
        }
    }
    for (unsigned i = 0; i < HELD; i++) {
        if (held[i].iter != NULL) {
            held_visit(&held[i], &reader, true);
        }
    }
    for (unsigned i = 0; i < SNAPSHOTS; i++) {
        for (uint64_t way = 0; way < 6 && kept[i].snapshot != NULL; way++) {
            EXPECT(snapshot_digest(kept[i].snapshot, way) == kept[i].digest, "a snapshot has changed");
        }
        pleat_snapshot_free(kept[i].snapshot);
    }
    return NULL;
}

/* Moves the world on under the readers: tables come and go, in the readers' spaces and in one beside them. */
static void *maintainer_run(void *context) {
    struct random random = stress_random(300 + *(unsigned *)context);
    struct pleat_error err = {0};
    struct pleat_space *scratch;
    struct pleat_batch *batch;
    MUST(pleat_space_open(isolation.db, (struct pleat_slice){"scratch", 7}, NULL, &scratch, &err));
    MUST(pleat_batch_new(isolation.db, &batch, &err));
    while (!stress_stopping()) {
        switch (random_below(&random, 6)) {
        case 0:
            MUST(pleat_compact(isolation.spaces[random_below(&random, WHEEL_SPACES)], NULL, NULL, &err));
            break;
        case 1:
            MUST(pleat_settle(isolation.db, NULL, NULL, &err));
            break;
        case 2:
            pleat_batch_clear(batch);
            for (uint64_t i = 0; i < 50; i++) {
                uint64_t key = random_next(&random);
                MUST(pleat_batch_put(batch, scratch, (struct pleat_slice){&key, sizeof key},
                                     (struct pleat_slice){&i, sizeof i}, &err));
            }
            MUST(pleat_commit(isolation.db, batch, NULL, NULL, &err));
            break;
        case 3:
            MUST(pleat_space_clear(scratch, &err));
            break;
        default:
            MUST(pleat_flush(isolation.db, &err));
            break;
        }
        thread_sleep_ns(random_below(&random, 4000000));
    }
    pleat_batch_free(batch);
    return NULL;
}

static void isolation_open(void) {
    struct pleat_error err = {0};
    struct random random = stress_random(1);
    struct pleat_options *options =
        PLEAT_OPTIONS(.memtable_bytes = (16u << 10) << random_below(&random, 3),
                      .cache_bytes = (64u << 10) << random_below(&random, 5), .table_bytes = 8 << 10,
                      .level_base_bytes = 32 << 10, .level_ratio = 3, .level0_tables = 2, .sync_interval_ms = 5,
                      .background_threads = 1 + (uint32_t)random_below(&random, 3),
                      .table_files_max = 1u << random_below(&random, 6),
                      .log_by_write = random_below(&random, 4) == 0);
    char path[300];
    (void)snprintf(path, sizeof path, "%s/store", stress_run.path);
    MUST(db_open_with(path, options, &shake_vfs, &shake_mem, &isolation.db, &err));
    MUST(wheel_spaces(isolation.db, isolation.spaces, &err));
}

int main(int argc, char **argv) {
    enum { WORKERS = WRITERS + READERS + 2 };
    struct thread threads[WORKERS];
    unsigned numbers[WORKERS];
    struct pleat_error err = {0};
    stress_begin("isolation_stress", 3, argc, argv);
    isolation_open();
    for (unsigned i = 0; i < WORKERS; i++) {
        void *(*run)(void *) = i < WRITERS ? writer_run : i < WRITERS + READERS ? reader_run : maintainer_run;
        numbers[i] = i;
        stress_start(&threads[i], run, &numbers[i]);
    }
    thread_sleep_ns((uint64_t)(stress_run.seconds * 5e8));
    uint64_t alone = atomic_load(&isolation.commits);
    atomic_store_explicit(&isolation.many, true, memory_order_relaxed);
    thread_sleep_ns((uint64_t)(stress_run.seconds * 5e8));
    atomic_store_explicit(&stress_run.stop, true, memory_order_relaxed);
    for (unsigned i = 0; i < WORKERS; i++) {
        thread_join(&threads[i]);
    }
    MUST(pleat_close(isolation.db, &err));
    isolation_open();
    uint64_t k[WRITERS];
    char text[300];
    if (!wheel_compare(isolation.db, isolation.spaces, NULL, WRITERS, k, text, sizeof text)) {
        stress_fail(text, 0, NULL);
    }
    for (unsigned w = 0; w < WRITERS; w++) {
        EXPECT(k[w] == atomic_load(&isolation.acknowledged[w]), "a close lost commits");
    }
    MUST(pleat_close(isolation.db, &err));
    EXPECT(shake_live() == 0, "memory is left behind");
    printf("%" PRIu64 " commits by one writer, %" PRIu64 " by %d; %" PRIu64 " scans, %" PRIu64 " walks, %" PRIu64
           " held iterators, %" PRIu64 " readings of kept snapshots: all right\n",
           alone, atomic_load(&isolation.commits) - alone, WRITERS, atomic_load(&isolation.scans),
           atomic_load(&isolation.walks), atomic_load(&isolation.held_ends), atomic_load(&isolation.readings));
    stress_end();
    return 0;
}
