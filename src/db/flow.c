/*
 * flow.c - back-pressure: a short delay for each commit while the background is behind, instead of a sudden stop.
 *
 * A commit owes time for two reasons, whichever is more, and both by its bytes, so that the size of batches changes
 * nothing:
 *
 *     level 0   runs beyond what is calm: pressure^2 of a millisecond for 16 KiB. Pressure is 0 to 1,024 between calm
 *               (twice the target) and full (five times). Each run costs every read of a range some microseconds, and
 *               its blocks take room in the cache: while readers spend time there, calm and full come down to the
 *               target and twice the target.
 *     memtable  the active generation is more than half full, and the frozen one still waits for its flush: the room
 *               that is left is shared out over the time that the flush is expected to need yet. That is until it has
 *               taken as long as the last ones did, and at least half as long again as it has taken. So one that is
 *               late slows commits down, and none runs into the wall: at 100 % one would wait for all the rest.
 *
 *     room  |------__                       remaining  <- expected - elapsed, at least elapsed / 2
 *           |        \___                   pace       <- bytes * remaining / room, for this commit
 *           |            \______            owes       <- pace - what has passed since the last commit
 *           +-------------------- time
 *
 * Debts below 64 us are added up and slept off together, because a sleep costs about that much. What a sleep took
 * beyond its debt is to the commits' credit: on busy processors that is milliseconds for every sleep, and they would be
 * held back many times as long as they owe. At five times the target of level 0 commits wait.
 */
#include "db/db.h"

#define PRESSURE_FULL 1024u
#define STEP_NS 1000000u
#define STEP_BYTES 16384u
#define SLEEP_NS_MAX 10000000
#define OWED_NS_MIN 64000
#define CREDIT_NS_MAX (4 * (int64_t)STEP_NS)
#define READERS_FULL 1024u
#define READERS_LOOK_NS 20000000u /* a shorter time says little of how many readers there are */
#define VISIT_NS 2000u            /* that a read of a range spends in one run (docs/performance.md) */
#define READERS_SHARE 16u         /* of a processor's time in level 0, from which on readers count in full */
#define FLUSH_NS_FIRST 128000000u /* until one has been measured: of 64 MiB, on a slow disk */
#define FLUSH_NS_MAX 1000000000u

static bool flow_level0_full(const struct pleat_db *db, size_t runs) {
    return runs >= (size_t)db->options.level0_tables * 5;
}

/* How much readers of level 0 count, 0 to READERS_FULL: the mean of what was said before and of what has been since. */
static uint32_t flow_readers(struct pleat_db *db) {
    struct flow *flow = &db->flow;
    /* Relaxed, all of these: hints, no partner. */
    uint32_t readers = atomic_load_explicit(&flow->readers, memory_order_relaxed);
    uint64_t now = db->vfs->now_ns(db->vfs);
    uint64_t looked = atomic_load_explicit(&flow->looked_ns, memory_order_relaxed);
    if (now - looked < READERS_LOOK_NS) {
        return readers;
    }
    atomic_store_explicit(&flow->looked_ns, now, memory_order_relaxed);
    uint64_t visits = atomic_exchange_explicit(&flow->level0_visits, 0, memory_order_relaxed);
    uint64_t full = (now - looked) / READERS_SHARE;
    uint64_t spent = visits < full / VISIT_NS ? visits * VISIT_NS : full;
    readers = (uint32_t)((readers + (uint64_t)((double)spent / (double)full * READERS_FULL)) / 2);
    atomic_store_explicit(&flow->readers, readers, memory_order_relaxed);
    return readers;
}

void flow_update(struct pleat_db *db, const struct version *version) {
    size_t runs = compaction_level0_runs(version);
    size_t target = (size_t)db->options.level0_tables;
    /* In parts of 1,024 of a run. */
    size_t readers = flow_readers(db);
    size_t calm = target * (2 * READERS_FULL - readers);
    size_t full = target * (5 * READERS_FULL - 3 * readers);
    uint64_t pressure = 0;
    if (runs * READERS_FULL > calm) {
        pressure = runs * READERS_FULL >= full ? PRESSURE_FULL
                                               : PRESSURE_FULL * (runs * READERS_FULL - calm) / (full - calm);
    }
    /* Hints, both: no partner. */
    atomic_store_explicit(&db->flow.pressure, pressure, memory_order_relaxed);
    atomic_store_explicit(&db->flow.is_full, flow_level0_full(db, runs), memory_order_relaxed);
}

void flow_init(struct pleat_db *db, const struct version *version) {
    atomic_init(&db->flow.flush_ns, FLUSH_NS_FIRST);
    flow_frozen(db); /* what recovery has left */
    flow_update(db, version);
}

void flow_frozen(struct pleat_db *db) {
    uint64_t now = db->vfs->now_ns(db->vfs);
    atomic_store_explicit(&db->flow.frozen_ns, now, memory_order_relaxed); /* a hint: no partner */
}

void flow_flushed(struct pleat_db *db, uint64_t bytes) {
    struct flow *flow = &db->flow;
    uint64_t took = db->vfs->now_ns(db->vfs) - atomic_load_explicit(&flow->frozen_ns, memory_order_relaxed); /* hints */
    if (bytes < db->options.memtable_bytes / 2 || bytes > 2 * db->options.memtable_bytes) {
        return; /* says little of a full one */
    }
    uint64_t before = atomic_load_explicit(&flow->flush_ns, memory_order_relaxed);
    took = took < FLUSH_NS_MAX ? took : FLUSH_NS_MAX;
    atomic_store_explicit(&flow->flush_ns, (before + took) / 2, memory_order_relaxed);
}

/* What a commit of `bytes` owes for the room that it takes. *ret_now: the time, or 0 while there is room enough. Hints
 * only: read without the commit lock. */
static uint64_t flow_room_ns(struct pleat_db *db, uint64_t bytes, uint64_t *ret_now) {
    struct flow *flow = &db->flow;
    struct epoch_slot *slot;
    *ret_now = 0;
    if (!view_frozen_hint(db) || epoch_enter(db->epoch, &slot) < 0) {
        return 0;
    }
    const struct view *view = view_current(db);
    uint64_t limit = db->options.memtable_bytes;
    uint64_t used = view->count > 1 ? arena_used(view->generations[0]->arena) : 0;
    epoch_leave(slot);
    if (used <= limit / 2) {
        return 0;
    }
    uint64_t room = used < limit ? limit - used : 0;
    room = room > bytes ? room : bytes + 1;
    uint64_t now = *ret_now = db->vfs->now_ns(db->vfs);
    uint64_t elapsed = now - atomic_load_explicit(&flow->frozen_ns, memory_order_relaxed);
    uint64_t expected = atomic_load_explicit(&flow->flush_ns, memory_order_relaxed);
    uint64_t remaining = elapsed < expected ? expected - elapsed : 0;
    remaining = remaining > elapsed / 2 ? remaining : elapsed / 2;
    uint64_t pace = (uint64_t)((double)remaining * (double)bytes / (double)room);
    uint64_t passed = now - atomic_load_explicit(&flow->passed_ns, memory_order_relaxed);
    return pace > passed ? pace - passed : 0;
}

static uint64_t flow_owed_ns(struct pleat_db *db, uint64_t bytes, uint64_t *ret_now) {
    uint64_t pressure = atomic_load_explicit(&db->flow.pressure, memory_order_relaxed); /* a hint: no partner */
    uint64_t steps = bytes < 64 * (uint64_t)STEP_BYTES ? bytes : 64 * (uint64_t)STEP_BYTES;
    uint64_t level0 = STEP_NS * pressure * pressure / (PRESSURE_FULL * PRESSURE_FULL) * steps / STEP_BYTES;
    uint64_t room = flow_room_ns(db, bytes, ret_now);
    return level0 > room ? level0 : room;
}

uint64_t flow_delay_ns(struct pleat_db *db) {
    uint64_t now;
    return flow_owed_ns(db, STEP_BYTES, &now);
}

/* Of the current view, in an epoch and without a reference: the last one may have to unlink tables. */
static bool flow_is_full(struct pleat_db *db) {
    struct epoch_slot *slot;
    if (epoch_enter(db->epoch, &slot) < 0) {
        return false;
    }
    bool is_full = flow_level0_full(db, compaction_level0_runs(view_current(db)->version));
    epoch_leave(slot);
    return is_full;
}

/* Waits while level 0 is full: 0, or why that will not end. */
static int flow_wait_level0(struct pleat_db *db, struct pleat_error *err) {
    if (!flow_is_full(db)) {
        return 0; /* without a look at work_mu, which jobs hold */
    }
    mutex_lock(&db->work_mu);
    uint64_t failures = db->compaction_trouble.failures;
    mutex_unlock(&db->work_mu);
    for (;;) {
        if (!flow_is_full(db)) {
            return 0;
        }
        int rc = db_health(db, err);
        mutex_lock(&db->work_mu);
        /* Of an attempt since this commit waits: the cause of an earlier failure may be gone. */
        const struct trouble *trouble = &db->compaction_trouble;
        if (rc == 0 && trouble->error.code != 0 && trouble->failures != failures) {
            rc = trouble->error.code;
            (void)error_set(err, rc, trouble->error.os_errno, "compaction is behind and fails: %s",
                            trouble->error.message);
        }
        mutex_unlock(&db->work_mu);
        if (rc < 0) {
            return rc;
        }
        scheduler_wake(db->scheduler);
        thread_sleep_ns(STEP_NS);
    }
}

int flow_wait(struct pleat_db *db, uint64_t bytes, struct pleat_error *err) {
    struct flow *flow = &db->flow;
    if (db->options.background == PLEAT_BACKGROUND_STEPS) {
        return 0; /* nobody else would pay the debt off meanwhile */
    }
    /* Relaxed, all of these: hints, no partner. */
    bool is_full = atomic_load_explicit(&flow->is_full, memory_order_relaxed);
    uint64_t now;
    int64_t owed = (int64_t)flow_owed_ns(db, bytes, &now);
    if (now != 0) { /* the next commit's pace counts from here */
        atomic_store_explicit(&flow->passed_ns, now, memory_order_relaxed);
    }
    if (owed == 0) {
        return 0;
    }
    owed += atomic_exchange_explicit(&flow->owed_ns, 0, memory_order_relaxed); /* any commit may pay: no partner */
    if (owed < OWED_NS_MIN && !is_full) { /* no credit lets a commit pass the bound of level 0 */
        atomic_fetch_add_explicit(&flow->owed_ns, owed, memory_order_relaxed);
        return 0;
    }
    uint64_t begin = db->vfs->now_ns(db->vfs);
    int64_t sleep = owed < SLEEP_NS_MAX ? owed : SLEEP_NS_MAX;
    thread_sleep_ns(sleep < (int64_t)STEP_NS && is_full ? STEP_NS : (uint64_t)sleep);
    int rc = flow_wait_level0(db, err);
    uint64_t end = db->vfs->now_ns(db->vfs), slept = end - begin;
    atomic_store_explicit(&flow->passed_ns, end, memory_order_relaxed); /* or from here */
    atomic_fetch_add_explicit(&db->counters.delayed_ns, slept, memory_order_relaxed);
    int64_t credit = slept < INT64_MAX / 2 ? (int64_t)slept - owed : CREDIT_NS_MAX;
    credit = credit < CREDIT_NS_MAX ? credit : CREDIT_NS_MAX;
    if (credit > 0) { /* what is still owed beyond the longest sleep is forgiven */
        atomic_fetch_sub_explicit(&flow->owed_ns, credit, memory_order_relaxed); /* as above */
    }
    return rc;
}
