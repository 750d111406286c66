/*
 * cache_stress.c - readers fetch, hit, pin and drop blocks of tables while a tiny cache evicts and tables come and go.
 *
 *     cache_stress [seconds]        default 2; exit status 1 when an invariant broke
 *
 * Every word of a block says which table and block it is. Loads fail now and then. At the end everything is cleared:
 * no frame, no pin and no byte may be left.
 */
#include "cache/cache_internal.h"
#include "support/random.h"

#include <string.h>

enum { TABLES = 4, BLOCKS = 64, READERS = 3, PINS = 8, BYTES_MAX = 6000, CAPACITY = 256 * 1024 };

struct table {
    struct epoch_retired retired;
    struct cache_slot slots[BLOCKS];
    _Atomic uint32_t loading[BLOCKS]; /* how many loads of a block run: at most one while the table is open (C5) */
    _Atomic bool is_closed;
    uint64_t number;
};

struct world {
    struct cache *cache;
    _Atomic(struct table *) tables[TABLES];
    _Atomic bool is_over;
    _Atomic uint64_t failures;
    _Atomic uint64_t fetches;
    _Atomic uint64_t loads;
    _Atomic uint64_t tables_made;
    _Atomic uint64_t tables_freed;
};

struct worker {
    struct world *world;
    struct thread thread;
    struct random random;
};

struct load {
    struct world *world;
    struct table *table;
    size_t block;
    bool is_failing;
};

struct pin {
    struct cache_frame *frame;
    uint64_t mark;
};

static void check(struct world *world, bool holds) {
    if (!holds) {
        atomic_fetch_add(&world->failures, 1);
    }
}

static uint64_t mark_of(const struct table *table, size_t block) {
    return table->number * 1000 + block;
}

static size_t bytes_of(uint64_t mark) {
    return 8 + mark * 0x9e3779b97f4a7c15ull % (mark % 3 == 0 ? BYTES_MAX : 400);
}

static int block_load(void *context, uint8_t *data, size_t bytes, struct pleat_error *err) {
    struct load *load = context;
    (void)err;
    uint32_t before = atomic_fetch_add(&load->table->loading[load->block], 1);
    check(load->world, before == 0 || atomic_load(&load->table->is_closed));
    uint64_t mark = mark_of(load->table, load->block);
    for (size_t i = 0; i + 8 <= bytes; i += 8) {
        memcpy(data + i, &mark, 8);
    }
    memset(data + bytes / 8 * 8, (int)(mark & 0xff), bytes % 8);
    atomic_fetch_add_explicit(&load->world->loads, 1, memory_order_relaxed);
    atomic_fetch_sub(&load->table->loading[load->block], 1);
    return load->is_failing ? PLEAT_ERR_IO : 0;
}

static void check_frame(struct world *world, const struct cache_frame *frame, uint64_t mark) {
    bool holds = frame->bytes == bytes_of(mark);
    for (size_t i = 0; holds && i + 8 <= frame->bytes; i += 8) {
        uint64_t found;
        memcpy(&found, frame->data + i, 8);
        holds = found == mark;
    }
    for (size_t i = 0; holds && i < 64; i++) {
        holds = frame->data[frame->bytes + i] == 0;
    }
    check(world, holds);
}

/* One fetch inside an epoch; the frame may be pinned into `pin`. */
static void read_block(struct worker *worker, struct pin *pin) {
    struct world *world = worker->world;
    /* Acquire; pairs with the exchange in owner_run. */
    struct table *table =
        atomic_load_explicit(&world->tables[random_below(&worker->random, TABLES)], memory_order_acquire);
    size_t block = random_below(&worker->random, 2) == 0 ? random_below(&worker->random, 8)
                                                         : random_below(&worker->random, BLOCKS);
    uint64_t mark = mark_of(table, block);
    struct cache_frame *frame = cache_slot_load(&table->slots[block]);
    if (frame != NULL) {
        cache_touch(frame);
    } else {
        struct load load = {world, table, block, random_below(&worker->random, 20) == 0};
        static const enum cache_use uses[] = {CACHE_SCAN, CACHE_SCAN, CACHE_GET, CACHE_GET, CACHE_GET, CACHE_CARRY};
        enum cache_use use = uses[random_below(&worker->random, sizeof uses / sizeof uses[0])];
        int rc = cache_fetch(world->cache, &table->slots[block], bytes_of(mark), use, block_load, &load, &frame, NULL);
        if (rc < 0) {
            check(world, rc == PLEAT_ERR_IO && load.is_failing);
            return;
        }
    }
    check_frame(world, frame, mark);
    if (pin->frame == NULL && random_below(&worker->random, 4) == 0) {
        cache_pin(frame);
        *pin = (struct pin){frame, mark};
    }
    if (random_below(&worker->random, 16) == 0) {
        cache_slot_drop(world->cache, &table->slots[random_below(&worker->random, BLOCKS)]);
    }
}

static void *reader_run(void *context) {
    struct worker *worker = context;
    struct world *world = worker->world;
    struct pin pins[PINS];
    memset(pins, 0, sizeof pins);
    while (!atomic_load_explicit(&world->is_over, memory_order_relaxed)) {
        struct epoch_slot *inside;
        if (epoch_enter(cache_epoch(world->cache), &inside) != 0) {
            abort();
        }
        uint64_t count = 1 + random_below(&worker->random, 4);
        for (uint64_t i = 0; i < count; i++) {
            read_block(worker, &pins[random_below(&worker->random, PINS)]);
        }
        atomic_fetch_add_explicit(&world->fetches, count, memory_order_relaxed);
        epoch_leave(inside);
        struct pin *pin = &pins[random_below(&worker->random, PINS)];
        if (pin->frame != NULL) {
            check_frame(world, pin->frame, pin->mark);
            cache_unpin(world->cache, pin->frame);
            pin->frame = NULL;
        }
    }
    for (int i = 0; i < PINS; i++) {
        if (pins[i].frame != NULL) {
            check_frame(world, pins[i].frame, pins[i].mark);
            cache_unpin(world->cache, pins[i].frame);
        }
    }
    return NULL;
}

static struct table *table_new(struct world *world) {
    struct table *table = calloc(1, sizeof *table);
    if (table == NULL) {
        abort();
    }
    table->number = atomic_fetch_add(&world->tables_made, 1) + 1;
    cache_charge(world->cache, 1000);
    return table;
}

static void table_reclaim(struct epoch_retired *retired, void *context) {
    struct world *world = context;
    struct table *table = (struct table *)(void *)retired; /* its first member */
    for (int i = 0; i < BLOCKS; i++) {
        check(world, (atomic_load(&table->slots[i].pointer) & 1) != 0); /* closed: no frame was published late */
    }
    cache_charge(world->cache, -1000);
    memset(table, 0xdb, sizeof *table);
    free(table);
    atomic_fetch_add(&world->tables_freed, 1);
}

static void table_retire(struct world *world, struct table *table) {
    atomic_store(&table->is_closed, true);
    cache_slots_clear(world->cache, table->slots, BLOCKS);
    epoch_retire(cache_epoch(world->cache), &table->retired, table_reclaim, world);
}

/* C3: what is not pinned, in limbo or being loaded fits. A reader that is not running holds much in limbo. */
static void check_budget(struct world *world) {
    struct cache *cache = world->cache;
    struct cache_stats stats;
    cache_stats_read(cache, &stats);
    mutex_lock(&cache->mutex);
    uint64_t kept = cache->queues[CACHE_IN_MAIN].bytes + cache->queues[CACHE_IN_COLD].bytes +
                    cache->queues[CACHE_IN_PROBATION].bytes + (uint64_t)cache->charged_bytes;
    mutex_unlock(&cache->mutex);
    check(world, kept <= CAPACITY + (uint64_t)READERS * (PINS + 1) * (BYTES_MAX + BYTES_MAX / 8 + 512));
    check(world, stats.pinned <= READERS * PINS);
}

/* Replaces tables, warms some of their blocks, reads statistics, checks the whole cache. */
static void *owner_run(void *context) {
    struct worker *worker = context;
    struct world *world = worker->world;
    while (!atomic_load_explicit(&world->is_over, memory_order_relaxed)) {
        struct table *table = table_new(world);
        for (size_t block = 0; block < 4; block++) {
            uint8_t data[BYTES_MAX + 8];
            struct load load = {world, table, block, false};
            size_t bytes = bytes_of(mark_of(table, block));
            (void)block_load(&load, data, bytes, NULL);
            struct cache_frame *frame = cache_prepare(world->cache, data, bytes);
            if (frame != NULL && block == 3) {
                cache_discard(world->cache, frame);
            } else if (frame != NULL) {
                cache_adopt(world->cache, &table->slots[block], frame, (uint8_t)block);
            }
        }
        /* Release; pairs with the acquire in read_block. */
        table_retire(world, atomic_exchange_explicit(&world->tables[random_below(&worker->random, TABLES)], table,
                                                     memory_order_acq_rel));
        check_budget(world);
        cache_check(world->cache);
        thread_sleep_ns(random_below(&worker->random, 2000000));
    }
    return NULL;
}

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 2;
    struct random random = random_begin("cache_stress");
    static struct world world;
    if (cache_new(&mem_system, CAPACITY, &world.cache, NULL) != 0) {
        return 1;
    }
    for (int i = 0; i < TABLES; i++) {
        atomic_store(&world.tables[i], table_new(&world));
    }
    static struct worker workers[READERS + 1];
    for (int i = 0; i < READERS + 1; i++) {
        workers[i].world = &world;
        workers[i].random.state = random_next(&random);
        if (thread_start(&workers[i].thread, "worker", i < READERS ? reader_run : owner_run, &workers[i]) != 0) {
            return 1;
        }
    }
    thread_sleep_ns((uint64_t)(seconds * 1e9));
    atomic_store(&world.is_over, true);
    for (int i = 0; i < READERS + 1; i++) {
        thread_join(&workers[i].thread);
    }
    for (int i = 0; i < TABLES; i++) {
        table_retire(&world, atomic_exchange(&world.tables[i], NULL));
    }
    epoch_synchronize(cache_epoch(world.cache));
    struct cache_stats stats;
    cache_stats_read(world.cache, &stats);
    check(&world, stats.frames == 0 && stats.pinned == 0 && stats.used_bytes == 0);
    check(&world, world.tables_made == world.tables_freed);
    cache_check(world.cache);
    cache_free(world.cache);
    fprintf(stderr, "cache_stress: %llu fetches, %llu loads, %llu evictions, %llu tables, %llu failures\n",
            (unsigned long long)world.fetches, (unsigned long long)world.loads, (unsigned long long)stats.evictions,
            (unsigned long long)world.tables_made, (unsigned long long)world.failures);
    return world.failures == 0 ? 0 : 1;
}
