/* test_merge.c - the merge against a sorted model, the loser tree's economy, and the scheduler. */
#include "base/bytes.h"
#include "base/error.h"
#include "base/limits.h"
#include "compaction/merge.h"
#include "compaction/scheduler.h"
#include "platform/thread.h"
#include "support/failmem.h"
#include "support/merge_model.h"

#include <criterion/criterion.h>
#include <stdatomic.h>
#include <string.h>

static void check_walks(const struct world *world, struct source *merge) {
    size_t at = 0;
    int rc;
    for (rc = merge->ops->first(merge); rc == 0; rc = merge->ops->next(merge)) {
        cr_assert_lt(at, world->model_count, "%u runs show too much", world->runs);
        check_entry(world, merge, at++);
    }
    cr_assert_eq(rc, PLEAT_END);
    cr_assert_eq(at, world->model_count, "%u runs show too little", world->runs);
    for (rc = merge->ops->last(merge); rc == 0; rc = merge->ops->prev(merge)) {
        cr_assert_gt(at, 0);
        check_entry(world, merge, --at);
    }
    cr_assert_eq(rc, PLEAT_END);
    cr_assert_eq(at, 0);
}

/* Random calls; after each the merge stands where the model says. */
static void check_moves(const struct world *world, struct random *random, struct source *merge, unsigned moves) {
    size_t at = SIZE_MAX; /* on no entry */
    for (unsigned i = 0; i < moves; i++) {
        uint8_t key[256];
        size_t key_bytes = make_key(random, key);
        if (world->keys_count > 0 && random_below(random, 2) == 0) {
            size_t pick = random_below(random, world->keys_count);
            key_bytes = world->key_bytes[pick];
            memcpy(key, world->keys[pick], key_bytes);
        }
        uint64_t what = random_below(random, at == SIZE_MAX ? 4 : 16);
        size_t bound = model_lower_bound(world, key, key_bytes);
        int rc;
        switch (what) {
        case 0:
            rc = merge->ops->first(merge);
            at = world->model_count > 0 ? 0 : SIZE_MAX;
            break;
        case 1:
            rc = merge->ops->last(merge);
            at = world->model_count - 1;
            break;
        case 2:
            rc = merge->ops->seek(merge, key, key_bytes);
            at = bound < world->model_count ? bound : SIZE_MAX;
            break;
        case 3:
            rc = merge->ops->seek_before(merge, key, key_bytes);
            at = bound - 1;
            break;
        default:
            if (random_below(random, 2) == 0) {
                rc = merge->ops->next(merge);
                at = at + 1 < world->model_count ? at + 1 : SIZE_MAX;
            } else {
                rc = merge->ops->prev(merge);
                at = at - 1;
            }
            break;
        }
        cr_assert_eq(rc, at == SIZE_MAX ? PLEAT_END : 0, "move %u of kind %llu", i, (unsigned long long)what);
        if (rc == 0) {
            check_entry(world, merge, at);
        }
    }
}

Test(merge, equals_the_model_for_every_number_of_runs) {
    struct random random = random_begin("merge/model");
    for (unsigned runs = 0; runs <= RUNS_MAX; runs++) {
        for (int round = 0; round < 60; round++) {
            struct world world;
            world_init(&world, &random, runs);
            struct source *merge = world_merge(&world, &mem_system);
            check_walks(&world, merge);
            check_moves(&world, &random, merge, 120);
            source_free(merge);
            world_fini(&world);
        }
    }
}

Test(merge, bounds_of_the_sources_are_bounds_of_the_merge) {
    struct random random = random_begin("merge/bounds");
    for (int round = 0; round < 300; round++) {
        struct world world;
        world_init(&world, &random, 2 + (unsigned)random_below(&random, RUNS_MAX - 1));
        size_t low = random_below(&random, world.keys_count), high = random_below(&random, world.keys_count + 1);
        struct source *sources[RUNS_MAX];
        for (unsigned run = 0; run < world.runs; run++) {
            size_t begin = 0, end = 0;
            for (size_t i = 0; i < world.row_counts[run]; i++) {
                const struct row *row = &world.rows[run][i];
                begin += key_compare(row->key, row->key_bytes, world.keys[low], world.key_bytes[low]) < 0;
                end += high == world.keys_count ||
                       key_compare(row->key, row->key_bytes, world.keys[high], world.key_bytes[high]) < 0;
            }
            sources[run] = array_source_new(world.rows[run], begin, end > begin ? end : begin);
        }
        size_t first = model_lower_bound(&world, world.keys[low], world.key_bytes[low]);
        size_t last = high == world.keys_count ? world.model_count
                                               : model_lower_bound(&world, world.keys[high], world.key_bytes[high]);
        struct source *merge;
        cr_assert_eq(merge_source_new(&mem_system, sources, world.runs, &merge, NULL), 0);
        size_t at = first;
        for (int rc = merge->ops->first(merge); rc == 0; rc = merge->ops->next(merge)) {
            cr_assert_lt(at, last);
            check_entry(&world, merge, at++);
        }
        cr_assert_eq(at, last > first ? last : first);
        for (int rc = merge->ops->last(merge); rc == 0; rc = merge->ops->prev(merge)) {
            cr_assert_gt(at, first);
            check_entry(&world, merge, --at);
        }
        cr_assert_eq(at, first);
        source_free(merge);
        world_fini(&world);
    }
}

Test(merge, longest_keys_need_no_room_beyond_themselves) {
    uint8_t *keys[3];
    struct row rows[3][2];
    struct source *sources[3];
    for (unsigned i = 0; i < 3; i++) {
        keys[i] = malloc(LIMIT_KEY_BYTES);
        memset(keys[i], 'k', LIMIT_KEY_BYTES);
        keys[i][LIMIT_KEY_BYTES - 1] = (uint8_t)('a' + i);
        rows[i][0] = (struct row){keys[i], LIMIT_KEY_BYTES - 1, i}; /* the same key in all three */
        rows[i][1] = (struct row){keys[i], LIMIT_KEY_BYTES, i};
        sources[i] = array_source_new(rows[i], 0, 2);
    }
    struct source *merge;
    cr_assert_eq(merge_source_new(&mem_system, sources, 3, &merge, NULL), 0);
    cr_assert_eq(merge->ops->first(merge), 0);
    cr_assert(merge->entry.key_bytes == LIMIT_KEY_BYTES - 1 && merge->entry.flag == 0);
    for (unsigned i = 0; i < 3; i++) {
        cr_assert_eq(merge->ops->next(merge), 0);
        cr_assert(merge->entry.key_bytes == LIMIT_KEY_BYTES && merge->entry.flag == i);
    }
    cr_assert_eq(merge->ops->prev(merge), 0);
    cr_assert(merge->entry.flag == 1 && merge->entry.key_bytes == LIMIT_KEY_BYTES);
    cr_assert_eq(merge->ops->next(merge), 0);
    cr_assert_eq(merge->ops->next(merge), PLEAT_END);
    cr_assert_eq(merge_source_hidden(merge), 2, "two hidden entries on the way forward");
    source_free(merge);
    for (unsigned i = 0; i < 3; i++) {
        free(keys[i]);
    }
}

Test(merge, one_source_is_handed_through) {
    struct row row = {(const uint8_t *)"k", 1, 0};
    struct source *only = array_source_new(&row, 0, 1);
    struct source *merge;
    cr_assert_eq(merge_source_new(&mem_system, &only, 1, &merge, NULL), 0);
    cr_assert_eq(merge, only);
    cr_assert_eq(merge->ops->first(merge), 0);
    cr_assert_eq(merge_source_winner(merge), only);
    cr_assert(merge_source_others_beyond(merge, (const uint8_t *)"zz", 2));
    cr_assert_eq(merge_source_resume(merge, PLEAT_END), PLEAT_END);
    source_free(merge);
}

/* What compaction does with a block that nothing else touches: skips it outside and resumes. */
Test(merge, resume_goes_on_behind_what_the_winner_skipped) {
    struct random random = random_begin("merge/resume");
    uint64_t skipped = 0;
    for (int round = 0; round < 400; round++) {
        struct world world;
        world_init(&world, &random, 1 + (unsigned)random_below(&random, random_below(&random, 2) ? 7 : RUNS_MAX));
        struct source *merge = world_merge(&world, &mem_system);
        size_t at = 0, hidden = 0, shown = 0, total = 0;
        for (unsigned run = 0; run < world.runs; run++) {
            total += world.row_counts[run];
        }
        int rc = merge->ops->first(merge);
        while (rc == 0) {
            check_entry(&world, merge, at);
            struct source *winner = merge_source_winner(merge);
            struct array_source *array = array_of(winner);
            size_t far = array->at + random_below(&random, 4);
            far = far < array->end ? far : array->end - 1;
            const struct row *last = &array->rows[far];
            bool is_alone = true;
            for (unsigned run = 0; run < world.runs; run++) {
                for (size_t i = 0; i < world.row_counts[run]; i++) {
                    const struct row *row = &world.rows[run][i];
                    is_alone = is_alone && (row->origin == last->origin || world_compare(row, last) > 0 ||
                                            world_compare(row, &world.model[at]) < 0);
                }
            }
            cr_assert_eq(merge_source_others_beyond(merge, last->key, last->key_bytes), is_alone, "round %d", round);
            shown++;
            if (is_alone && far > array->at) {
                at += far - array->at;
                shown += far - array->at;
                skipped += far - array->at;
                rc = merge_source_resume(merge, array_show(array, far + 1, far + 1 < array->end));
            } else {
                rc = merge->ops->next(merge);
            }
            at++;
        }
        hidden = (size_t)merge_source_hidden(merge);
        cr_assert_eq(at, world.model_count);
        cr_assert_eq(shown + hidden, total, "every entry is shown or hidden, once");
        source_free(merge);
        world_fini(&world);
    }
    cr_assert_gt(skipped, 100, "the test must really skip");
}

Test(merge, an_error_of_any_source_comes_out_and_seeking_works_again) {
    struct random random = random_begin("merge/errors");
    for (int round = 0; round < 300; round++) {
        struct world world;
        world_init(&world, &random, 2 + (unsigned)random_below(&random, random_below(&random, 2) ? 5 : RUNS_MAX - 1));
        struct source *sources[RUNS_MAX];
        for (unsigned run = 0; run < world.runs; run++) {
            sources[run] = array_source_new(world.rows[run], 0, world.row_counts[run]);
        }
        struct array_source *bad = array_of(sources[random_below(&random, world.runs)]);
        bad->fail_at = 1 + random_below(&random, 20);
        struct source *merge;
        cr_assert_eq(merge_source_new(&mem_system, sources, world.runs, &merge, NULL), 0);
        bool has_failed = false;
        for (int walk = 0; walk < 3; walk++) {
            size_t at = 0;
            int rc = merge->ops->first(merge);
            for (; rc == 0; rc = merge->ops->next(merge)) {
                check_entry(&world, merge, at++);
            }
            if (rc < 0) {
                cr_assert_eq(rc, PLEAT_ERR_IO);
                cr_assert_eq(merge->error.code, PLEAT_ERR_IO);
                cr_assert_eq(merge->error.os_errno, 5);
                cr_assert_not(has_failed, "the source fails once");
                has_failed = true;
            } else {
                cr_assert_eq(at, world.model_count, "a failed source must not look like its end");
            }
        }
        cr_assert(has_failed || bad->calls < bad->fail_at, "an error was swallowed");
        source_free(merge);
        world_fini(&world);
    }
}

Test(merge, without_memory_the_sources_are_freed_and_nothing_leaks) {
    static const uint8_t long_key[400] = {1};
    for (unsigned runs = 0; runs <= RUNS_MAX; runs += runs < 4 ? 1 : RUNS_MAX - 4) {
        for (uint64_t n = 1; n <= 3; n++) {
            struct failmem fail;
            failmem_init(&fail);
            fail.fail_at = n;
            struct row rows[RUNS_MAX];
            struct source *sources[RUNS_MAX];
            bool is_freed[RUNS_MAX] = {false};
            for (unsigned i = 0; i < runs; i++) {
                rows[i] = (struct row){long_key, 300 + i, i};
                sources[i] = array_source_new(&rows[i], 0, 1);
                array_of(sources[i])->is_freed = &is_freed[i];
            }
            struct pleat_error err = {0};
            struct source *merge = NULL;
            int rc = merge_source_new(&fail.mem, sources, runs, &merge, &err);
            if (rc == 0) {
                unsigned seen = 0;
                for (rc = merge->ops->first(merge); rc == 0; rc = merge->ops->next(merge)) {
                    seen++;
                }
                cr_assert(rc == PLEAT_END ? seen == runs : rc == PLEAT_ERR_NO_MEMORY);
                if (rc < 0) {
                    cr_assert_eq(merge->error.code, PLEAT_ERR_NO_MEMORY);
                }
                source_free(merge);
            } else {
                cr_assert_eq(rc, PLEAT_ERR_NO_MEMORY);
                cr_assert_eq(err.code, PLEAT_ERR_NO_MEMORY);
            }
            for (unsigned i = 0; i < runs; i++) {
                cr_assert(is_freed[i], "%u runs, allocation %llu", runs, (unsigned long long)n);
            }
            cr_assert_eq(fail.live, 0);
        }
    }
}

/* Offset-value codes settle nearly every match by an integer: the matches that look at keys stay below the bytes that
 * tell the keys apart, far below the log2(k) matches an entry that a heap would pay. */
Test(merge, codes_settle_most_matches) {
    enum { RUNS = 24, ENTRIES = 20000 };
    struct random random = random_begin("merge/codes");
    uint8_t *keys = malloc((size_t)ENTRIES * 25);
    struct row *rows[RUNS];
    size_t counts[RUNS] = {0};
    for (unsigned i = 0; i < RUNS; i++) {
        rows[i] = malloc(ENTRIES * sizeof(struct row));
    }
    for (size_t i = 0; i < ENTRIES; i++) {
        char text[32];
        (void)snprintf(text, sizeof text, "svc.%08zx.route.%06zx", i / 40, i % 40);
        memcpy(keys + i * 25, text, 25);
        unsigned run = (unsigned)random_below(&random, RUNS);
        rows[run][counts[run]++] = (struct row){keys + i * 25, 25, run};
    }
    struct source *sources[RUNS];
    for (unsigned i = 0; i < RUNS; i++) {
        sources[i] = array_source_new(rows[i], 0, counts[i]);
    }
    struct source *merge;
    cr_assert_eq(merge_source_new(&mem_system, sources, RUNS, &merge, NULL), 0);
    uint64_t entries = 0;
    for (int rc = merge->ops->first(merge); rc == 0; rc = merge->ops->next(merge)) {
        entries++;
    }
    cr_assert_eq(entries, ENTRIES);
    cr_assert_lt(merge_source_comparisons(merge), entries * 3 / 2, "%llu matches looked at keys",
                 (unsigned long long)merge_source_comparisons(merge));
    source_free(merge);
    for (unsigned i = 0; i < RUNS; i++) {
        free(rows[i]);
    }
    free(keys);
}

/* ---- the scheduler ---------------------------------------------------------------------------------------------- */

struct jobs {
    _Atomic int64_t waiting;
    _Atomic int64_t done;
    _Atomic int32_t inside;
    _Atomic int32_t inside_most;
    _Atomic bool is_slow;
    _Atomic uint32_t workers_seen;
};

static int jobs_run(void *context, unsigned worker) {
    struct jobs *jobs = context;
    int32_t inside = atomic_fetch_add(&jobs->inside, 1) + 1;
    int32_t most = atomic_load(&jobs->inside_most);
    while (inside > most && !atomic_compare_exchange_weak(&jobs->inside_most, &most, inside)) {
    }
    atomic_fetch_or(&jobs->workers_seen, 1u << worker);
    int rc = PLEAT_END;
    if (atomic_fetch_sub(&jobs->waiting, 1) > 0) {
        if (atomic_load(&jobs->is_slow)) {
            thread_sleep_ns(2000000);
        }
        atomic_fetch_add(&jobs->done, 1);
        rc = 0;
    } else {
        atomic_fetch_add(&jobs->waiting, 1);
    }
    atomic_fetch_sub(&jobs->inside, 1);
    return rc;
}

static bool jobs_wait(struct jobs *jobs, int64_t done) {
    for (int i = 0; i < 20000 && atomic_load(&jobs->done) < done; i++) {
        thread_sleep_ns(200000);
    }
    return atomic_load(&jobs->done) >= done;
}

Test(scheduler, steps_run_one_job_in_the_calling_thread) {
    struct jobs jobs = {.waiting = 3};
    struct scheduler_client client = {.run = jobs_run, .context = &jobs};
    struct scheduler *scheduler;
    cr_assert_eq(scheduler_new(&mem_system, 0, &client, &scheduler, NULL), 0);
    cr_assert_eq(scheduler_threads(scheduler), 0);
    scheduler_wake(scheduler);
    for (int i = 1; i <= 3; i++) {
        cr_assert_eq(scheduler_step(scheduler), 0);
        cr_assert_eq(jobs.done, i);
    }
    cr_assert_eq(scheduler_step(scheduler), PLEAT_END);
    cr_assert_eq(scheduler_busy(scheduler), 0);
    scheduler_stop(scheduler);
    scheduler_stop(scheduler);
    scheduler_free(scheduler);
    scheduler_free(NULL);
}

/* J2: with poll_ns 0 a lost wake would leave a job undone for ever. The waits between are short and long by turns, so
 * that wakes fall before, into and behind a worker's look. */
Test(scheduler, no_wake_is_lost) {
    for (unsigned threads = 1; threads <= 3; threads++) {
        struct jobs jobs = {0};
        struct scheduler_client client = {.run = jobs_run, .context = &jobs};
        struct scheduler *scheduler;
        cr_assert_eq(scheduler_new(&mem_system, threads, &client, &scheduler, NULL), 0);
        for (int64_t i = 1; i <= 3000; i++) {
            atomic_fetch_add(&jobs.waiting, 1);
            scheduler_wake(scheduler);
            if (i % 3 == 0) {
                for (int spin = 0; spin < (int)(i % 200) && atomic_load(&jobs.done) < i; spin++) {
                    thread_yield();
                }
            } else if (i % 100 == 1) {
                cr_assert(jobs_wait(&jobs, i), "job %lld was never run", (long long)i);
            }
        }
        cr_assert(jobs_wait(&jobs, 3000), "%lld of 3000", (long long)atomic_load(&jobs.done));
        scheduler_free(scheduler);
        cr_assert_eq(jobs.inside, 0);
    }
}

Test(scheduler, workers_run_side_by_side_and_stop_waits_for_them) {
    struct jobs jobs = {.is_slow = true};
    struct scheduler_client client = {.run = jobs_run, .context = &jobs};
    struct scheduler *scheduler;
    cr_assert_eq(scheduler_new(&mem_system, 3, &client, &scheduler, NULL), 0);
    atomic_store(&jobs.waiting, 200);
    scheduler_wake(scheduler);
    cr_assert(jobs_wait(&jobs, 12));
    scheduler_stop(scheduler);
    cr_assert_eq(jobs.inside, 0, "J3");
    cr_assert_eq(scheduler_busy(scheduler), 0);
    int64_t done = jobs.done;
    cr_assert_gt(jobs.inside_most, 1);
    cr_assert_eq(jobs.workers_seen, 7, "each worker has its own number");
    cr_assert_lt(done, 200, "stop does not wait for all the work");
    scheduler_wake(scheduler);
    thread_sleep_ns(3000000);
    cr_assert_eq(jobs.done, done, "nothing runs after stop");
    scheduler_free(scheduler);
}

Test(scheduler, polls_when_asked_to) {
    struct jobs jobs = {0};
    struct scheduler_client client = {.run = jobs_run, .context = &jobs, .poll_ns = 1000000};
    struct scheduler *scheduler;
    cr_assert_eq(scheduler_new(&mem_system, 1, &client, &scheduler, NULL), 0);
    thread_sleep_ns(5000000);
    atomic_store(&jobs.waiting, 5);
    cr_assert(jobs_wait(&jobs, 5), "nobody wakes it, it must look by itself");
    scheduler_free(scheduler);
}

static void *stop_run(void *context) {
    scheduler_stop(context);
    return NULL;
}

Test(scheduler, two_threads_may_stop_it) {
    for (int round = 0; round < 20; round++) {
        struct jobs jobs = {.is_slow = true, .waiting = 10};
        struct scheduler_client client = {.run = jobs_run, .context = &jobs};
        struct scheduler *scheduler;
        cr_assert_eq(scheduler_new(&mem_system, 2, &client, &scheduler, NULL), 0);
        struct thread other;
        cr_assert_eq(thread_start(&other, "stop", stop_run, scheduler), 0);
        scheduler_stop(scheduler);
        cr_assert_eq(jobs.inside, 0);
        thread_join(&other);
        scheduler_free(scheduler);
    }
}

Test(scheduler, without_memory_there_is_none) {
    struct failmem fail;
    failmem_init(&fail);
    fail.fail_at = 1;
    struct jobs jobs = {0};
    struct scheduler_client client = {.run = jobs_run, .context = &jobs};
    struct scheduler *scheduler;
    cr_assert_eq(scheduler_new(&fail.mem, 2, &client, &scheduler, NULL), PLEAT_ERR_NO_MEMORY);
    cr_assert_eq(fail.live, 0);
}
