/* test_epoch.c - what epochs promise: nothing is reclaimed under a reader, and everything is in the end. */
#include "base/epoch.h"
#include "platform/thread.h"
#include "support/failmem.h"
#include "support/random.h"

#include <criterion/criterion.h>
#include <stdatomic.h>
#include <stdbool.h>

struct object {
    struct epoch_retired retired;
    _Atomic int reclaimed;
    struct epoch *epoch;        /* the reclaim retires `follower` here, if there is one */
    struct object *follower;
};

static void object_reclaim(struct epoch_retired *retired, void *context) {
    struct object *object = context;
    cr_assert_eq(retired, &object->retired);
    atomic_fetch_add(&object->reclaimed, 1);
    if (object->follower != NULL) {
        epoch_retire(object->epoch, &object->follower->retired, object_reclaim, object->follower);
    }
}

static struct epoch *domain(const struct mem *mem) {
    struct epoch *epoch = NULL;
    cr_assert_eq(epoch_new(mem, &epoch, NULL), 0);
    return epoch;
}

static void retire(struct epoch *epoch, struct object *object) {
    epoch_retire(epoch, &object->retired, object_reclaim, object);
}

Test(epoch, object_retired_without_readers_is_reclaimed_by_one_collect) {
    struct epoch *epoch = domain(&mem_system);
    struct object object = {0};
    retire(epoch, &object);
    cr_assert_eq(object.reclaimed, 0);
    epoch_collect(epoch);
    cr_assert_eq(object.reclaimed, 1);
    epoch_free(epoch);
    cr_assert_eq(object.reclaimed, 1);
}

Test(epoch, reader_inside_holds_back_what_is_retired_and_lets_it_go_when_it_leaves) {
    struct epoch *epoch = domain(&mem_system);
    struct object before = {0};
    struct object during = {0};
    retire(epoch, &before);
    struct epoch_slot *slot;
    cr_assert_eq(epoch_enter(epoch, &slot), 0);
    retire(epoch, &during);
    for (int i = 0; i < 5; i++) {
        epoch_collect(epoch);
    }
    cr_assert_eq(during.reclaimed, 0);
    epoch_leave(slot);
    epoch_collect(epoch);
    cr_assert_eq(before.reclaimed, 1);
    cr_assert_eq(during.reclaimed, 1);
    epoch_free(epoch);
}

Test(epoch, object_retired_before_an_advance_is_reclaimed_under_a_later_reader) {
    struct epoch *epoch = domain(&mem_system);
    struct epoch_slot *slot;
    struct object first = {0};
    struct object second = {0};
    retire(epoch, &first);
    epoch_collect(epoch); /* moves the domain on */
    cr_assert_eq(epoch_enter(epoch, &slot), 0);
    retire(epoch, &second);
    epoch_leave(slot);
    retire(epoch, &first); /* for a second time: it counts to two */
    epoch_collect(epoch);
    cr_assert_eq(epoch_enter(epoch, &slot), 0);
    epoch_collect(epoch);
    cr_assert_eq(first.reclaimed, 2);
    cr_assert_eq(second.reclaimed, 1);
    epoch_leave(slot);
    epoch_free(epoch);
}

Test(epoch, only_the_outermost_leave_leaves) {
    struct epoch *epoch = domain(&mem_system);
    struct object object = {0};
    struct epoch_slot *outer;
    struct epoch_slot *inner;
    cr_assert_eq(epoch_enter(epoch, &outer), 0);
    cr_assert_eq(epoch_enter(epoch, &inner), 0);
    cr_assert_eq(outer, inner);
    retire(epoch, &object);
    epoch_leave(inner);
    epoch_collect(epoch);
    cr_assert_eq(object.reclaimed, 0);
    epoch_leave(outer);
    epoch_collect(epoch);
    cr_assert_eq(object.reclaimed, 1);
    epoch_free(epoch);
}

Test(epoch, sixty_four_retirements_collect_by_themselves) {
    struct epoch *epoch = domain(&mem_system);
    static struct object objects[64];
    for (int i = 0; i < 64; i++) {
        cr_assert_eq(objects[0].reclaimed, 0);
        retire(epoch, &objects[i]);
    }
    for (int i = 0; i < 64; i++) {
        cr_assert_eq(objects[i].reclaimed, 1, "object %d", i);
    }
    epoch_free(epoch);
}

Test(epoch, reclaim_may_retire_and_free_reclaims_the_whole_chain) {
    enum { COUNT = 300 };
    struct epoch *epoch = domain(&mem_system);
    static struct object objects[COUNT];
    for (int i = 0; i + 1 < COUNT; i++) {
        objects[i].epoch = epoch;
        objects[i].follower = &objects[i + 1];
    }
    retire(epoch, &objects[0]);
    epoch_collect(epoch);
    cr_assert_eq(objects[0].reclaimed, 1);
    cr_assert_eq(objects[COUNT - 1].reclaimed, 0);
    epoch_free(epoch);
    for (int i = 0; i < COUNT; i++) {
        cr_assert_eq(objects[i].reclaimed, 1, "object %d", i);
    }
}

struct visitor {
    struct epoch *epoch;
    _Atomic bool is_inside;
    _Atomic bool may_leave;
    _Atomic bool has_left;
};

static void *visitor_run(void *context) {
    struct visitor *visitor = context;
    struct epoch_slot *slot;
    cr_assert_eq(epoch_enter(visitor->epoch, &slot), 0);
    atomic_store(&visitor->is_inside, true);
    while (!atomic_load(&visitor->may_leave)) {
        thread_yield();
    }
    atomic_store(&visitor->has_left, true);
    epoch_leave(slot);
    return NULL;
}

static void visitor_start(struct visitor *visitor, struct thread *thread, struct epoch *epoch) {
    *visitor = (struct visitor){.epoch = epoch};
    cr_assert_eq(thread_start(thread, "visitor", visitor_run, visitor), 0);
    while (!atomic_load(&visitor->is_inside)) {
        thread_yield();
    }
}

static void *visitor_release_later(void *context) {
    struct visitor *visitor = context;
    thread_sleep_ns(20 * 1000 * 1000);
    atomic_store(&visitor->may_leave, true);
    return NULL;
}

Test(epoch, synchronize_waits_for_the_reader_inside_and_reclaims) {
    struct epoch *epoch = domain(&mem_system);
    struct object object = {0};
    struct visitor visitor;
    struct thread reader;
    struct thread releaser;
    visitor_start(&visitor, &reader, epoch);
    retire(epoch, &object);
    epoch_collect(epoch);
    cr_assert_eq(object.reclaimed, 0);
    cr_assert_eq(thread_start(&releaser, "releaser", visitor_release_later, &visitor), 0);
    epoch_synchronize(epoch);
    cr_assert(atomic_load(&visitor.has_left));
    cr_assert_eq(object.reclaimed, 1);
    thread_join(&reader);
    thread_join(&releaser);
    epoch_free(epoch);
}

Test(epoch, synchronize_without_anything_returns) {
    struct epoch *epoch = domain(&mem_system);
    epoch_synchronize(epoch);
    epoch_free(epoch);
    epoch_free(NULL);
}

static void *visit_once(void *context) {
    struct epoch_slot *slot;
    cr_assert_eq(epoch_enter(context, &slot), 0);
    epoch_leave(slot);
    return NULL;
}

Test(epoch, slots_of_ended_threads_serve_new_ones) {
    struct failmem fail;
    failmem_init(&fail);
    struct epoch *epoch = domain(&fail.mem);
    int64_t live = 0;
    for (int i = 0; i < 50; i++) {
        struct thread thread;
        cr_assert_eq(thread_start(&thread, "once", visit_once, epoch), 0);
        thread_join(&thread);
        if (i == 0) {
            live = fail.live;
        }
        cr_assert_eq(fail.live, live, "thread %d got a slot of its own", i);
    }
    epoch_free(epoch);
    cr_assert_eq(fail.live, 0);
}

static void *leave_without_leaving(void *context) {
    struct epoch_slot *slot;
    cr_assert_eq(epoch_enter(context, &slot), 0);
    return NULL;
}

Test(epoch, thread_that_ends_inside_holds_nothing_back) {
    struct epoch *epoch = domain(&mem_system);
    struct object object = {0};
    struct thread thread;
    cr_assert_eq(thread_start(&thread, "lost", leave_without_leaving, epoch), 0);
    thread_join(&thread);
    retire(epoch, &object);
    epoch_collect(epoch);
    cr_assert_eq(object.reclaimed, 1);
    epoch_free(epoch);
}

Test(epoch, domains_are_independent_and_outlived_by_threads) {
    struct epoch *first = domain(&mem_system);
    struct epoch *second = domain(&mem_system);
    struct epoch_slot *slot;
    struct object object = {0};
    cr_assert_eq(epoch_enter(first, &slot), 0);
    retire(second, &object);
    epoch_collect(second);
    cr_assert_eq(object.reclaimed, 1);
    epoch_leave(slot);
    epoch_free(second);
    for (int i = 0; i < 2000; i++) { /* far more than there are keys in a process */
        struct epoch *third = domain(&mem_system);
        visit_once(third);
        epoch_free(third);
    }
    visit_once(first);
    epoch_free(first);
}

Test(epoch, every_failed_allocation_is_a_clean_error) {
    for (uint64_t n = 1;; n++) {
        struct failmem fail;
        failmem_init(&fail);
        fail.fail_at = n;
        struct epoch *epoch;
        struct pleat_error err = {0};
        int rc = epoch_new(&fail.mem, &epoch, &err);
        if (rc < 0) {
            cr_assert_eq(rc, PLEAT_ERR_NO_MEMORY);
            cr_assert_eq(err.code, PLEAT_ERR_NO_MEMORY);
            cr_assert_null(epoch);
            cr_assert_eq(fail.live, 0);
            continue;
        }
        struct epoch_slot *slot;
        rc = epoch_enter(epoch, &slot);
        if (rc < 0) {
            cr_assert_eq(rc, PLEAT_ERR_NO_MEMORY);
            cr_assert_null(slot);
            cr_assert_eq(epoch_enter(epoch, &slot), 0, "the next try has memory");
        }
        epoch_leave(slot);
        epoch_free(epoch);
        cr_assert_eq(fail.live, 0);
        if (fail.calls < n) {
            break;
        }
    }
}

/* One thread, random steps against a model: an object retired at step t may go once every entry before t has ended. */
Test(epoch, random_histories_of_one_thread_reclaim_exactly_what_is_safe) {
    struct random random = random_begin("epoch random_histories_of_one_thread");
    enum { COUNT = 5000 };
    static struct object objects[COUNT];
    struct epoch *epoch = domain(&mem_system);
    struct epoch_slot *slot = NULL;
    int depth = 0;
    int retired = 0;
    int held_from = COUNT; /* objects from here on were retired by the reader that is inside */
    while (retired < COUNT) {
        switch (random_below(&random, 5)) {
        case 0:
            cr_assert_eq(epoch_enter(epoch, &slot), 0);
            held_from = depth++ == 0 ? retired : held_from;
            break;
        case 1:
            if (depth > 0) {
                epoch_leave(slot);
                held_from = --depth == 0 ? COUNT : held_from;
            }
            break;
        case 2:
            epoch_collect(epoch);
            break;
        default:
            retire(epoch, &objects[retired++]);
        }
        for (int i = held_from; i < retired; i++) {
            cr_assert_eq(objects[i].reclaimed, 0, "object %d went under a reader", i);
        }
    }
    while (depth > 0) {
        epoch_leave(slot);
        depth--;
    }
    epoch_synchronize(epoch);
    for (int i = 0; i < COUNT; i++) {
        cr_assert_eq(objects[i].reclaimed, 1);
    }
    epoch_free(epoch);
}
