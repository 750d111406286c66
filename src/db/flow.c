/*
 * flow.c - back-pressure: a smooth delay a commit, computed from the debt, instead of a sudden stop.
 *
 * Pressure is 0 to 1,024. It rises with the runs in level 0 beyond twice their target (reads slow down, compaction is
 * behind) and with how full the active generation is while the frozen one still waits for its flush (at 100 % the next
 * commit must wait for it anyway). A commit owes pressure^2 of a millisecond; debts below 64 us are added up and slept
 * off together, because a sleep costs about that much. What a sleep took beyond its debt is to the commits' credit: on
 * busy processors that is milliseconds for every sleep, and they would be held back many times as long as they owe. At
 * five times the target of level 0 commits wait.
 */
#include "db/db.h"

#define PRESSURE_FULL 1024u
#define STEP_NS 1000000u
#define OWED_NS_MIN 64000
#define CREDIT_NS_MAX (4 * (int64_t)STEP_NS)

static bool flow_level0_full(const struct pleat_db *db, size_t runs) {
    return runs >= (size_t)db->options.level0_tables * 5;
}

void flow_update(struct pleat_db *db, const struct version *version) {
    size_t runs = compaction_level0_runs(version);
    size_t calm = (size_t)db->options.level0_tables * 2;
    size_t full = (size_t)db->options.level0_tables * 5;
    uint64_t pressure = 0;
    if (runs > calm) {
        pressure = runs >= full ? PRESSURE_FULL : PRESSURE_FULL * (runs - calm) / (full - calm);
    }
    atomic_store_explicit(&db->pressure, pressure, memory_order_relaxed); /* a hint: no partner */
}

/* Pressure of the active generation's fill while a frozen one waits. Hints only: read without the commit lock. */
static uint64_t flow_fill_pressure(struct pleat_db *db) {
    struct epoch_slot *slot;
    if (!view_frozen_hint(db)) {
        return 0;
    }
    if (epoch_enter(db->epoch, &slot) < 0) {
        return 0;
    }
    const struct view *view = view_current(db);
    uint64_t pressure = 0;
    if (view->count > 1) {
        uint64_t limit = db->options.memtable_bytes;
        uint64_t used = arena_used(view->generations[0]->arena);
        uint64_t calm = limit / 2;
        if (used > calm) {
            pressure = used >= limit ? PRESSURE_FULL : PRESSURE_FULL * (used - calm) / (limit - calm);
        }
    }
    epoch_leave(slot);
    return pressure;
}

uint64_t flow_delay_ns(struct pleat_db *db) {
    uint64_t pressure = atomic_load_explicit(&db->pressure, memory_order_relaxed); /* a hint: no partner */
    uint64_t fill = flow_fill_pressure(db);
    pressure = pressure > fill ? pressure : fill;
    return STEP_NS * pressure * pressure / (PRESSURE_FULL * PRESSURE_FULL);
}

int flow_wait(struct pleat_db *db, struct pleat_error *err) {
    bool is_full = atomic_load_explicit(&db->pressure, memory_order_relaxed) == PRESSURE_FULL; /* a hint: no partner */
    int64_t owed = (int64_t)flow_delay_ns(db);
    if (owed == 0 || db->options.background == PLEAT_BACKGROUND_STEPS) {
        return 0; /* in step mode nobody else would pay the debt off meanwhile */
    }
    owed += atomic_exchange_explicit(&db->owed_ns, 0, memory_order_relaxed); /* any commit may pay: no partner */
    if (owed < OWED_NS_MIN && !is_full) { /* no credit lets a commit pass the bound of level 0 */
        atomic_fetch_add_explicit(&db->owed_ns, owed, memory_order_relaxed);
        return 0;
    }
    uint64_t begin = db->vfs->now_ns(db->vfs);
    mutex_lock(&db->work_mu);
    uint64_t failures = db->background_failures;
    mutex_unlock(&db->work_mu);
    thread_sleep_ns(owed < (int64_t)STEP_NS && !is_full ? (uint64_t)owed : STEP_NS);
    int rc = 0;
    for (;;) {
        struct version *version = registry_current(db->registry);
        bool full = flow_level0_full(db, compaction_level0_runs(version));
        version_unref(version);
        if (!full) {
            break;
        }
        rc = db_health(db, err);
        mutex_lock(&db->work_mu);
        /* Of an attempt since this commit waits: the cause of an earlier failure may be gone. */
        if (rc == 0 && db->background_error.code != 0 && db->background_failures != failures) {
            rc = db->background_error.code;
            (void)error_set(err, rc, db->background_error.os_errno, "compaction is behind and fails: %s",
                            db->background_error.message);
        }
        mutex_unlock(&db->work_mu);
        if (rc < 0) {
            break;
        }
        scheduler_wake(db->scheduler);
        thread_sleep_ns(STEP_NS);
    }
    uint64_t slept = db->vfs->now_ns(db->vfs) - begin;
    atomic_fetch_add_explicit(&db->counters.delayed_ns, slept, memory_order_relaxed);
    int64_t credit = slept < INT64_MAX / 2 ? (int64_t)slept - owed : CREDIT_NS_MAX;
    credit = credit < CREDIT_NS_MAX ? credit : CREDIT_NS_MAX;
    if (credit > 0) { /* what is still owed beyond the longest sleep is forgiven */
        atomic_fetch_sub_explicit(&db->owed_ns, credit, memory_order_relaxed); /* as above */
    }
    return rc;
}
