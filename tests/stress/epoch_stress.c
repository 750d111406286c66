/*
 * epoch_stress.c - readers follow shared pointers while writers replace and retire the objects; threads come and go.
 *
 *     epoch_stress [seconds]        default 2; exit status 1 when an invariant broke
 *
 * Half of the time is a duel of one reader and one writer over one pointer, where a barrier that is missing shows; half
 * is a crowd, in which slots are given back and taken again all the time.
 *
 * A reclaimed object is overwritten and freed: a reader that still held it sees the wrong mark, and ThreadSanitizer
 * reports the two accesses as a race unless the epoch ordered them.
 */
#include "base/epoch.h"
#include "platform/thread.h"
#include "support/random.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

enum { POINTERS = 4, READERS = 3, WRITERS = 2, MARK_LIVE = 0x11ce, MARK_DEAD = 0xdead };
enum { FAR_BYTES = 16 << 20, FAR_STORES = 24, GRAVES = 256 };

struct object {
    struct epoch_retired retired;
    uint64_t mark;
    uint64_t values[6];
};

struct world {
    struct epoch *epoch;
    bool is_duel;           /* frozen while workers run, and so is the next */
    uint64_t pointer_count;
    _Atomic(struct object *) pointers[POINTERS];
    _Atomic(struct object *) graves[GRAVES]; /* reclaimed objects stay dead here for a while before they are freed */
    _Atomic bool is_over;
    _Atomic uint64_t failures;
    _Atomic uint64_t reads;
    _Atomic uint64_t made;
    _Atomic uint64_t reclaimed;
};

struct worker {
    struct world *world;
    struct thread thread;
    struct random random;
    uint8_t *far; /* FAR_BYTES of this thread's own */
};

static void object_reclaim(struct epoch_retired *retired, void *context) {
    struct world *world = context;
    struct object *object = (struct object *)(void *)retired; /* its first member */
    if (object->mark != MARK_LIVE) {
        atomic_fetch_add(&world->failures, 1);
    }
    object->mark = MARK_DEAD;
    for (int i = 0; i < 6; i++) {
        object->values[i] = MARK_DEAD;
    }
    free(atomic_exchange(&world->graves[atomic_fetch_add(&world->reclaimed, 1) % GRAVES], object));
}

static struct object *object_new(struct world *world, uint64_t value) {
    struct object *object = calloc(1, sizeof *object);
    if (object == NULL) {
        abort();
    }
    object->mark = MARK_LIVE;
    for (int i = 0; i < 6; i++) {
        object->values[i] = value;
    }
    atomic_fetch_add(&world->made, 1);
    return object;
}

static void read_one(struct worker *worker) {
    struct world *world = worker->world;
    /* Acquire; pairs with the exchange in writer_run. */
    uint64_t at = random_below(&worker->random, world->pointer_count);
    struct object *object = atomic_load_explicit(&world->pointers[at], memory_order_acquire);
    for (uint64_t round = random_below(&worker->random, 40); round < 40; round++) {
        uint64_t first = object->values[0];
        for (int i = 1; i < 6; i++) {
            if (object->values[i] != first || object->mark != MARK_LIVE) {
                atomic_fetch_add(&world->failures, 1);
            }
        }
    }
}

/* Stores that miss every cache fill the store buffer: the store of the next epoch_enter is seen by other cores only
 * when they have drained, a microsecond later, while loads run ahead. What the heavy barrier is for then shows. */
static void store_far_away(struct worker *worker) {
    uint64_t at = random_next(&worker->random);
    for (int i = 0; i < FAR_STORES; i++) {
        at = at * 6364136223846793005ull + 1442695040888963407ull;
        ((volatile uint8_t *)worker->far)[(at >> 32) % FAR_BYTES] = 1;
    }
}

static void *visitor_run(void *context) {
    struct worker *worker = context;
    for (int i = 0; i < 200; i++) {
        struct epoch_slot *outer;
        struct epoch_slot *inner;
        store_far_away(worker);
        if (epoch_enter(worker->world->epoch, &outer) != 0) {
            abort();
        }
        read_one(worker);
        if (epoch_enter(worker->world->epoch, &inner) != 0) {
            abort();
        }
        read_one(worker);
        epoch_leave(inner);
        read_one(worker);
        if (random_below(&worker->random, 50) == 0) {
            thread_yield();
            read_one(worker);
        }
        epoch_leave(outer);
        atomic_fetch_add_explicit(&worker->world->reads, 3, memory_order_relaxed);
    }
    return NULL;
}

/* Every 200 reads in a thread of its own: slots are given back and taken again all the time. */
static void *reader_run(void *context) {
    struct worker *worker = context;
    struct worker visitor = {.world = worker->world, .random = {random_next(&worker->random)}};
    worker->far = calloc(1, FAR_BYTES);
    visitor.far = calloc(1, FAR_BYTES);
    if (worker->far == NULL || visitor.far == NULL) {
        abort();
    }
    while (!atomic_load_explicit(&worker->world->is_over, memory_order_relaxed)) {
        bool is_alone = worker->world->is_duel;
        if (!is_alone && thread_start(&visitor.thread, "visitor", visitor_run, &visitor) != 0) {
            abort();
        }
        visitor_run(worker);
        if (!is_alone) {
            thread_join(&visitor.thread);
        }
    }
    free(visitor.far);
    free(worker->far);
    return NULL;
}

static void *writer_run(void *context) {
    struct worker *worker = context;
    struct world *world = worker->world;
    while (!atomic_load_explicit(&world->is_over, memory_order_relaxed)) {
        struct object *fresh = object_new(world, random_next(&worker->random));
        uint64_t at = random_below(&worker->random, world->pointer_count);
        /* Release; pairs with the acquire in read_one. */
        struct object *old = atomic_exchange_explicit(&world->pointers[at], fresh, memory_order_acq_rel);
        epoch_retire(world->epoch, &old->retired, object_reclaim, world);
        uint64_t what = random_below(&worker->random, 1000);
        if (world->is_duel || what < 500) {
            epoch_collect(world->epoch);
        } else if (what < 22) {
            epoch_synchronize(world->epoch);
        }
    }
    return NULL;
}

static void run_for(struct world *world, struct random *random, uint64_t ns, bool is_duel, int readers, int writers) {
    struct worker workers[READERS + WRITERS];
    memset(workers, 0, sizeof workers);
    world->is_duel = is_duel;
    world->pointer_count = is_duel ? 1 : POINTERS;
    atomic_store(&world->is_over, false);
    for (int i = 0; i < readers + writers; i++) {
        workers[i].world = world;
        workers[i].random.state = random_next(random);
        if (thread_start(&workers[i].thread, "worker", i < readers ? reader_run : writer_run, &workers[i]) != 0) {
            abort();
        }
    }
    thread_sleep_ns(ns);
    atomic_store(&world->is_over, true);
    for (int i = 0; i < readers + writers; i++) {
        thread_join(&workers[i].thread);
    }
}

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 2;
    struct random random = random_begin("epoch_stress");
    static struct world world;
    if (epoch_new(&mem_system, &world.epoch, NULL) != 0) {
        return 1;
    }
    for (int i = 0; i < POINTERS; i++) {
        atomic_store(&world.pointers[i], object_new(&world, 1));
    }
    uint64_t half_ns = (uint64_t)(seconds * 5e8);
    run_for(&world, &random, half_ns, true, 1, 1);
    run_for(&world, &random, half_ns, false, READERS, WRITERS);
    for (int i = 0; i < POINTERS; i++) {
        struct object *old = atomic_exchange(&world.pointers[i], NULL);
        epoch_retire(world.epoch, &old->retired, object_reclaim, &world);
    }
    epoch_synchronize(world.epoch);
    bool is_all_back = world.made == world.reclaimed;
    epoch_free(world.epoch);
    for (int i = 0; i < GRAVES; i++) {
        free(atomic_load(&world.graves[i]));
    }
    fprintf(stderr, "epoch_stress: %llu reads, %llu objects, %llu reclaimed, %llu failures\n",
            (unsigned long long)world.reads, (unsigned long long)world.made, (unsigned long long)world.reclaimed,
            (unsigned long long)world.failures);
    return world.failures == 0 && is_all_back ? 0 : 1;
}
