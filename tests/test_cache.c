/* test_cache.c - the block cache: what is kept, what goes, what a pin and an epoch protect, and what is counted. */
#include "base/error.h"
#include "cache/cache_internal.h"
#include "support/failmem.h"
#include "support/random.h"

#include <criterion/criterion.h>
#include <string.h>

enum { KIB = 1024, MIB = 1024 * 1024 };

/* What a test loads: `bytes` bytes that depend on `seed`; fails with `fail_code` for the first `failures` times. */
struct loader {
    uint8_t seed;
    int failures;
    int fail_code;
    _Atomic int loads;
    uint64_t sleep_ns;
};

static uint8_t content(uint8_t seed, size_t i) {
    return (uint8_t)(seed + i * 7);
}

static int loader_load(void *context, uint8_t *data, size_t bytes, struct pleat_error *err) {
    struct loader *loader = context;
    (void)err;
    if (loader->sleep_ns > 0) {
        thread_sleep_ns(loader->sleep_ns);
    }
    int number = atomic_fetch_add(&loader->loads, 1);
    if (number < loader->failures) {
        return loader->fail_code;
    }
    for (size_t i = 0; i < bytes; i++) {
        data[i] = content(loader->seed, i);
    }
    return 0;
}

static void assert_content(const struct cache_frame *frame, uint8_t seed, size_t bytes) {
    cr_assert_eq(frame->bytes, bytes);
    cr_assert_eq((uintptr_t)frame->data % 64, 0);
    for (size_t i = 0; i < bytes; i += 1 + bytes / 97) {
        cr_assert_eq(frame->data[i], content(seed, i), "byte %zu of %zu", i, bytes);
    }
    for (size_t i = 0; i < 64; i++) {
        cr_assert_eq(frame->data[bytes + i], 0, "byte %zu beyond %zu", i, bytes);
    }
}

static struct cache *cache_of(uint64_t capacity) {
    struct cache *cache = NULL;
    cr_assert_eq(cache_new(&mem_system, capacity, &cache, NULL), 0);
    return cache;
}

static struct epoch_slot *enter(struct cache *cache) {
    struct epoch_slot *inside;
    cr_assert_eq(epoch_enter(cache_epoch(cache), &inside), 0);
    return inside;
}

static struct cache_stats stats_of(struct cache *cache) {
    struct cache_stats stats;
    cache_stats_read(cache, &stats);
    return stats;
}

/* Fetches in an epoch of its own and checks the content; true: it had to be loaded. */
static bool fetch_in(struct cache *cache, struct cache_slot *slot, uint8_t seed, size_t bytes, enum cache_use use) {
    struct loader loader = {.seed = seed};
    struct cache_frame *frame;
    struct epoch_slot *inside = enter(cache);
    cr_assert_eq(cache_fetch(cache, slot, bytes, use, loader_load, &loader, &frame, NULL), 0);
    assert_content(frame, seed, bytes);
    epoch_leave(inside);
    return loader.loads > 0;
}

static void finish(struct cache *cache, struct cache_slot *slots, size_t count) {
    cache_slots_clear(cache, slots, count);
    epoch_synchronize(cache_epoch(cache));
    cache_check(cache);
    cr_assert_eq(stats_of(cache).frames, 0);
    cr_assert_eq(stats_of(cache).used_bytes, 0);
    cache_free(cache);
}

Test(cache, second_fetch_hits_and_counts) {
    struct cache *cache = cache_of(MIB);
    struct cache_slot slot = {0};
    struct epoch_slot *inside = enter(cache);
    cr_assert_null(cache_slot_load(&slot));
    epoch_leave(inside);
    cr_assert(fetch_in(cache, &slot, 1, 5000, CACHE_GET));
    cr_assert_not(fetch_in(cache, &slot, 1, 5000, CACHE_GET));
    inside = enter(cache);
    struct cache_frame *frame = cache_slot_load(&slot);
    cr_assert_not_null(frame);
    assert_content(frame, 1, 5000);
    cr_assert_eq(frame->score, 3);
    epoch_leave(inside);
    struct cache_stats stats = stats_of(cache);
    cr_assert_eq(stats.hits, 1);
    cr_assert_eq(stats.misses, 1);
    cr_assert_eq(stats.frames, 1);
    cr_assert_eq(stats.capacity_bytes, MIB);
    cr_assert_geq(stats.used_bytes, 5000);
    finish(cache, &slot, 1);
}

static struct cache_frame *prepared(struct cache *cache, const uint8_t *data, size_t bytes) {
    struct cache_frame *frame = cache_prepare(cache, data, bytes);
    cr_assert_not_null(frame);
    return frame;
}

Test(cache, gets_enter_at_one_and_scans_at_zero) {
    struct cache *cache = cache_of(MIB);
    struct cache_slot slots[3] = {{0}};
    fetch_in(cache, &slots[0], 1, 100, CACHE_GET);
    fetch_in(cache, &slots[1], 2, 100, CACHE_SCAN);
    fetch_in(cache, &slots[1], 2, 100, CACHE_SCAN);
    uint8_t data[3] = {content(3, 0), content(3, 1), content(3, 2)};
    cache_adopt(cache, &slots[2], prepared(cache, data, 3), 2);
    struct epoch_slot *inside = enter(cache);
    cr_assert_eq(cache_slot_load(&slots[0])->score, 1);
    cr_assert_eq(cache_slot_load(&slots[1])->score, 0, "a scan's hit raises nothing");
    cr_assert_eq(cache_slot_load(&slots[2])->score, 2);
    cache_touch(cache_slot_load(&slots[1]));
    cr_assert_eq(cache_slot_load(&slots[1])->score, 3);
    epoch_leave(inside);
    finish(cache, slots, 3);
}

Test(cache, frames_of_every_size_are_aligned_whole_and_zero_behind) {
    static const size_t sizes[] = {0,    1,    63,    64,    65,    127,   128,    300,    4095,    4096,
                                   4097, 8192, 32768, 65535, 65536, 65537, 100000, 300000, 2 * MIB, 3 * MIB + 1};
    enum { COUNT = sizeof sizes / sizeof sizes[0] };
    struct cache *cache = cache_of(64 * MIB);
    static struct cache_slot slots[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        cr_assert(fetch_in(cache, &slots[i], (uint8_t)i, sizes[i], CACHE_GET));
    }
    for (size_t i = 0; i < COUNT; i++) {
        cr_assert_not(fetch_in(cache, &slots[i], (uint8_t)i, sizes[i], CACHE_GET), "size %zu", sizes[i]);
    }
    cache_check(cache);
    finish(cache, slots, COUNT);
}

Test(cache, every_class_of_sizes_fits_and_wastes_at_most_an_eighth) {
    unsigned last = 0;
    for (unsigned class_index = 1; class_index < CACHE_CLASS_COUNT; class_index++) {
        size_t bytes = cache_class_bytes(class_index);
        cr_assert_gt(bytes, last);
        cr_assert(class_index <= 8 || bytes - last <= bytes / 8 + 64, "class %u", class_index);
        last = (unsigned)bytes;
    }
    cr_assert_eq(last, CACHE_CLASS_BYTES_MAX);
    cr_assert_leq(cache_memory_frame_bytes(64 * KIB), CACHE_CLASS_BYTES_MAX);
    cr_assert_eq(cache_memory_frame_bytes(SIZE_MAX), 0);
    cr_assert_eq(cache_memory_frame_bytes(SIZE_MAX - 63), 0);
}

Test(cache, size_beyond_memory_is_a_clean_error) {
    struct cache *cache = cache_of(MIB);
    struct cache_slot slot = {0};
    struct loader loader = {0};
    struct cache_frame *frame;
    struct pleat_error err = {0};
    struct epoch_slot *inside = enter(cache);
    int rc = cache_fetch(cache, &slot, SIZE_MAX, CACHE_GET, loader_load, &loader, &frame, &err);
    cr_assert_eq(rc, PLEAT_ERR_NO_MEMORY);
    cr_assert_eq(err.code, PLEAT_ERR_NO_MEMORY);
    cr_assert_null(frame);
    epoch_leave(inside);
    cr_assert(fetch_in(cache, &slot, 1, 10, CACHE_GET));
    finish(cache, &slot, 1);
}

Test(cache, capacity_that_makes_no_sense_is_refused) {
    struct cache *cache;
    struct pleat_error err = {0};
    cr_assert_eq(cache_new(&mem_system, 0, &cache, &err), PLEAT_ERR_INVALID);
    cr_assert_null(cache);
    cr_assert_eq(cache_new(&mem_system, UINT64_MAX, &cache, &err), PLEAT_ERR_INVALID);
    cache_free(NULL);
}

Test(cache, load_error_is_returned_publishes_nothing_and_is_retried) {
    struct cache *cache = cache_of(MIB);
    struct cache_slot slot = {0};
    struct loader loader = {.seed = 9, .failures = 2, .fail_code = PLEAT_ERR_CORRUPT};
    struct cache_frame *frame;
    for (int i = 0; i < 2; i++) {
        struct epoch_slot *inside = enter(cache);
        cr_assert_eq(cache_fetch(cache, &slot, 777, CACHE_GET, loader_load, &loader, &frame, NULL), PLEAT_ERR_CORRUPT);
        cr_assert_null(frame);
        cr_assert_null(cache_slot_load(&slot));
        epoch_leave(inside);
        cr_assert_eq(stats_of(cache).used_bytes, 0, "the frame of a failed load goes back at once");
    }
    struct epoch_slot *inside = enter(cache);
    cr_assert_eq(cache_fetch(cache, &slot, 777, CACHE_GET, loader_load, &loader, &frame, NULL), 0);
    assert_content(frame, 9, 777);
    epoch_leave(inside);
    cr_assert_eq(loader.loads, 3);
    cr_assert_eq(stats_of(cache).misses, 3);
    finish(cache, &slot, 1);
}

/* Bytes that C3 allows beyond the capacity when nothing is pinned and epochs are short: what is in limbo at most. */
static uint64_t slack(uint64_t capacity, size_t frame_bytes_max) {
    return capacity / 16 + 3 * (uint64_t)frame_bytes_max + 2 * KIB;
}

static void run_random_workload(const char *name, uint64_t capacity, size_t bytes_max, size_t slot_count, int steps) {
    struct random random = random_begin(name);
    struct cache *cache = cache_of(capacity);
    struct cache_slot *slots = calloc(slot_count, sizeof *slots);
    size_t *sizes = calloc(slot_count, sizeof *sizes);
    for (size_t i = 0; i < slot_count; i++) {
        sizes[i] = random_below(&random, 4) == 0 ? random_below(&random, bytes_max) : bytes_max / 2;
    }
    uint64_t charged = 0;
    for (int step = 0; step < steps; step++) {
        size_t i = random_below(&random, slot_count);
        i = random_below(&random, 2) == 0 ? i / 8 : i;
        uint64_t what = random_below(&random, 100);
        if (what < 97) {
            fetch_in(cache, &slots[i], (uint8_t)i, sizes[i], what < 70 ? CACHE_GET : CACHE_SCAN);
        } else if (what < 98) {
            cache_slots_clear(cache, &slots[i], 1);
            epoch_synchronize(cache_epoch(cache)); /* then the slot may be made anew */
            slots[i] = (struct cache_slot){0};
        } else if (what < 99 && charged < capacity / 4) {
            cache_charge(cache, (int64_t)(capacity / 16));
            charged += capacity / 16;
        } else if (charged > 0) {
            cache_charge(cache, -(int64_t)(capacity / 16));
            charged -= capacity / 16;
        }
        uint64_t used = stats_of(cache).used_bytes;
        cr_assert_leq(used, capacity + slack(capacity, bytes_max), "step %d: %llu", step, (unsigned long long)used);
        if (step % 512 == 0) {
            cache_check(cache);
            mutex_lock(&cache->mutex);
            uint64_t held = cache_held_bytes_locked(cache);
            mutex_unlock(&cache->mutex);
            cr_assert_leq(held, capacity + 2 * cache->memory.slab_bytes + slack(capacity, bytes_max));
        }
    }
    cache_check(cache);
    struct cache_stats stats = stats_of(cache);
    cr_assert_gt(stats.evictions, 0);
    cr_assert_gt(stats.used_bytes, capacity * 6 / 10, "only %llu of %llu used", (unsigned long long)stats.used_bytes,
                 (unsigned long long)capacity);
    cache_charge(cache, -(int64_t)charged);
    finish(cache, slots, slot_count);
    free(slots);
    free(sizes);
}

Test(cache, capacity_holds_over_random_loads_of_single_blocks) {
    run_random_workload("cache single blocks", 64 * KIB, 3000, 400, 20000);
}

Test(cache, capacity_holds_over_random_loads_of_small_slabs) {
    run_random_workload("cache small slabs", MIB, 3000, 4000, 30000);
}

Test(cache, capacity_holds_over_random_loads_of_large_slabs) {
    run_random_workload("cache large slabs", 64 * MIB, 16 * KIB, 40000, 30000);
}

static void run_scan_resistance(uint64_t capacity, size_t bytes) {
    struct cache *cache = cache_of(capacity);
    size_t hot = capacity / 2 / bytes;
    size_t cold = capacity * 10 / bytes;
    struct cache_slot *slots = calloc(hot + cold, sizeof *slots);
    for (size_t i = 0; i < hot; i++) {
        fetch_in(cache, &slots[i], (uint8_t)i, bytes, CACHE_GET);
    }
    for (size_t i = hot; i < hot + cold; i++) {
        fetch_in(cache, &slots[i], (uint8_t)i, bytes, CACHE_SCAN);
    }
    size_t kept = 0;
    struct epoch_slot *inside = enter(cache);
    for (size_t i = 0; i < hot; i++) {
        kept += cache_slot_load(&slots[i]) != NULL;
    }
    epoch_leave(inside);
    cr_assert_geq(kept, hot * 95 / 100, "%zu of %zu survive the scan", kept, hot);
    finish(cache, slots, hot + cold);
    free(slots);
}

Test(cache, hot_set_survives_a_scan_of_ten_times_the_capacity) {
    run_scan_resistance(256 * KIB, 1000);
    run_scan_resistance(4 * MIB, 1500);
    run_scan_resistance(64 * MIB, 15000);
}

Test(cache, touched_frames_outlive_untouched_ones) {
    enum { COUNT = 400, HOT = 60, BYTES = 1000 };
    struct cache *cache = cache_of(200 * KIB);
    static struct cache_slot slots[COUNT];
    struct random random = random_begin("cache touched_frames_outlive_untouched_ones");
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < HOT; i++) {
            fetch_in(cache, &slots[i], (uint8_t)i, BYTES, CACHE_GET);
        }
        for (int i = 0; i < 60; i++) {
            size_t cold = HOT + random_below(&random, COUNT - HOT);
            fetch_in(cache, &slots[cold], (uint8_t)cold, BYTES, CACHE_GET);
        }
    }
    int loaded = 0;
    for (int i = 0; i < HOT; i++) {
        loaded += fetch_in(cache, &slots[i], (uint8_t)i, BYTES, CACHE_GET);
    }
    cr_assert_leq(loaded, HOT / 10, "%d of %d hot frames were evicted", loaded, HOT);
    finish(cache, slots, COUNT);
}

Test(cache, carried_frames_stand_among_the_gets_with_the_score_they_are_given) {
    enum { COUNT = 400, CARRIED = 30, BYTES = 1000 };
    struct cache *cache = cache_of(200 * KIB);
    static struct cache_slot slots[COUNT];
    for (int i = 0; i < CARRIED; i++) {
        cr_assert(fetch_in(cache, &slots[i], (uint8_t)i, BYTES, CACHE_CARRY));
        struct epoch_slot *inside = enter(cache);
        struct cache_frame *frame = cache_slot_load(&slots[i]);
        cr_assert_eq(cache_score(frame), 0);
        cache_score_raise(frame, 2);
        cr_assert_eq(cache_score(frame), 2);
        cache_score_raise(frame, 1);
        cr_assert_eq(cache_score(frame), 2, "it is never lowered");
        epoch_leave(inside);
    }
    cr_assert_eq(stats_of(cache).misses, 0, "nobody missed what is carried");
    for (int i = CARRIED; i < COUNT; i++) {
        fetch_in(cache, &slots[i], (uint8_t)i, BYTES, CACHE_SCAN);
    }
    for (int i = 0; i < CARRIED; i++) {
        cr_assert_not(fetch_in(cache, &slots[i], (uint8_t)i, BYTES, CACHE_GET), "a scan displaced frame %d", i);
    }
    finish(cache, slots, COUNT);
}

Test(cache, dropped_slot_is_empty_and_may_be_filled_again) {
    struct cache *cache = cache_of(MIB);
    struct cache_slot slot = {0};
    cache_slot_drop(cache, &slot); /* nothing there */
    fetch_in(cache, &slot, 1, 5000, CACHE_GET);
    struct epoch_slot *inside = enter(cache);
    struct cache_frame *frame = cache_slot_load(&slot);
    cache_pin(frame);
    cache_slot_drop(cache, &slot);
    cr_assert_null(cache_slot_load(&slot));
    epoch_leave(inside);
    cr_assert_eq(stats_of(cache).frames, 0);
    assert_content(frame, 1, 5000); /* the pin holds it */
    cr_assert(fetch_in(cache, &slot, 2, 5000, CACHE_GET));
    cache_slot_drop(cache, &slot);
    cr_assert(fetch_in(cache, &slot, 3, 5000, CACHE_GET));
    cache_unpin(cache, frame);
    finish(cache, &slot, 1);
}

Test(cache, sizes_that_shift_do_not_starve) {
    struct cache *cache = cache_of(16 * MIB);
    enum { COUNT = 20000 };
    struct cache_slot *slots = calloc(COUNT, sizeof *slots);
    static const size_t phases[] = {1000, 8000, 300, 13000, 5000};
    for (size_t phase = 0; phase < sizeof phases / sizeof phases[0]; phase++) {
        size_t bytes = phases[phase];
        size_t fit = 16 * MIB / 2 / (bytes + 300); /* half of what the capacity holds */
        size_t loads = 0;
        memset(slots, 0, COUNT * sizeof *slots);
        for (size_t i = 0; i < 3 * fit && i < COUNT; i++) {
            fetch_in(cache, &slots[i], (uint8_t)i, bytes, CACHE_GET);
        }
        for (int round = 0; round < 2; round++) {
            loads = 0;
            for (size_t i = 0; i < fit && i < COUNT; i++) {
                loads += fetch_in(cache, &slots[i], (uint8_t)i, bytes, CACHE_GET);
            }
        }
        cr_assert_leq(loads, fit / 50, "%zu bytes: %zu of %zu are loaded again", bytes, loads, fit);
        cache_check(cache);
        cache_slots_clear(cache, slots, COUNT);
        epoch_synchronize(cache_epoch(cache));
    }
    finish(cache, slots, COUNT);
    free(slots);
}

Test(cache, sizes_that_shift_while_old_frames_stay_reach_the_new_size) {
    struct cache *cache = cache_of(16 * MIB);
    enum { COUNT = 16000 };
    struct cache_slot *slots = calloc((size_t)2 * COUNT, sizeof *slots);
    for (size_t i = 0; i < COUNT; i++) {
        fetch_in(cache, &slots[i], (uint8_t)i, 1000, CACHE_GET); /* fills every slab with one class */
    }
    size_t fit = 1000; /* of 8000 bytes: half of the capacity */
    size_t loads = 0;
    for (int round = 0; round < 6; round++) {
        loads = 0;
        for (size_t i = 0; i < fit; i++) {
            loads += fetch_in(cache, &slots[COUNT + i], (uint8_t)i, 8000, CACHE_GET);
        }
        cr_assert_leq(stats_of(cache).used_bytes, 17 * MIB);
    }
    cr_assert_leq(loads, fit / 50, "%zu of %zu are still loaded again", loads, fit);
    mutex_lock(&cache->mutex);
    uint64_t held = cache_held_bytes_locked(cache);
    mutex_unlock(&cache->mutex);
    cr_assert_leq(held, 17 * MIB);
    finish(cache, slots, (size_t)2 * COUNT);
    free(slots);
}

Test(cache, pinned_frame_survives_eviction_and_clearing) {
    enum { COUNT = 300 };
    struct cache *cache = cache_of(64 * KIB);
    static struct cache_slot slots[COUNT];
    struct loader loader = {.seed = 42};
    struct cache_frame *frames[2];
    for (int i = 0; i < 2; i++) {
        struct epoch_slot *inside = enter(cache);
        cr_assert_eq(cache_fetch(cache, &slots[i], 2000, CACHE_SCAN, loader_load, &loader, &frames[i], NULL), 0);
        cache_pin(frames[i]);
        epoch_leave(inside);
    }
    cache_pin(frames[0]); /* a second pin, with one held */
    cr_assert_eq(stats_of(cache).pinned, 2);
    cache_slots_clear(cache, &slots[0], 1);
    epoch_synchronize(cache_epoch(cache));
    for (size_t i = 2; i < COUNT; i++) {
        fetch_in(cache, &slots[i], (uint8_t)i, 2000, CACHE_GET);
    }
    assert_content(frames[0], 42, 2000);
    assert_content(frames[1], 42, 2000);
    cache_unpin(cache, frames[0]);
    assert_content(frames[0], 42, 2000);
    uint64_t used = stats_of(cache).used_bytes;
    cache_unpin(cache, frames[0]);
    cr_assert_leq(stats_of(cache).used_bytes, used - 2000, "the last unpin frees what was cleared");
    cr_assert_eq(stats_of(cache).pinned, 1);
    cache_slots_clear(cache, slots, COUNT);
    cache_unpin(cache, frames[1]);
    cr_assert_eq(stats_of(cache).pinned, 0);
    finish(cache, slots, COUNT);
}

Test(cache, unpin_before_the_reclaim_leaves_the_freeing_to_it) {
    struct cache *cache = cache_of(64 * KIB);
    struct cache_slot slot = {0};
    struct loader loader = {.seed = 3};
    struct cache_frame *frame;
    struct epoch_slot *inside = enter(cache);
    cr_assert_eq(cache_fetch(cache, &slot, 1000, CACHE_GET, loader_load, &loader, &frame, NULL), 0);
    cache_slots_clear(cache, &slot, 1);
    cache_pin(frame); /* found before it was cleared: still allowed */
    cache_unpin(cache, frame);
    assert_content(frame, 3, 1000);
    epoch_leave(inside);
    finish(cache, &slot, 1);
}

Test(cache, everything_pinned_overshoots_and_comes_back) {
    enum { COUNT = 100 };
    struct cache *cache = cache_of(64 * KIB);
    static struct cache_slot slots[COUNT];
    static struct cache_frame *frames[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        struct loader loader = {.seed = (uint8_t)i};
        struct epoch_slot *inside = enter(cache);
        cr_assert_eq(cache_fetch(cache, &slots[i], 2000, CACHE_GET, loader_load, &loader, &frames[i], NULL), 0);
        cache_pin(frames[i]);
        epoch_leave(inside);
    }
    cr_assert_geq(stats_of(cache).used_bytes, COUNT * 2000);
    for (size_t i = 0; i < COUNT; i++) {
        assert_content(frames[i], (uint8_t)i, 2000);
        cache_unpin(cache, frames[i]);
    }
    fetch_in(cache, &slots[COUNT - 1], COUNT - 1, 2000, CACHE_GET);
    static struct cache_slot one;
    fetch_in(cache, &one, 5, 100, CACHE_GET);
    epoch_synchronize(cache_epoch(cache));
    cr_assert_leq(stats_of(cache).used_bytes, 64 * KIB);
    cache_slots_clear(cache, &one, 1);
    finish(cache, slots, COUNT);
}

Test(cache, memory_is_reused_only_after_the_epoch) {
    enum { COUNT = 200, BYTES = 500 };
    struct cache *cache = cache_of(64 * KIB);
    static struct cache_slot slots[COUNT];
    struct loader loader = {.seed = 77};
    struct cache_frame *frame;
    struct epoch_slot *outer = enter(cache);
    cr_assert_eq(cache_fetch(cache, &slots[0], BYTES, CACHE_SCAN, loader_load, &loader, &frame, NULL), 0);
    for (size_t i = 1; i < COUNT; i++) {
        fetch_in(cache, &slots[i], (uint8_t)i, BYTES, CACHE_GET); /* nested: the outer epoch goes on */
        assert_content(frame, 77, BYTES);
    }
    cr_assert_null(cache_slot_load(&slots[0]), "it was evicted");
    epoch_collect(cache_epoch(cache));
    assert_content(frame, 77, BYTES);
    cr_assert_geq(stats_of(cache).used_bytes, COUNT * BYTES, "nothing came back while the epoch was open");
    epoch_leave(outer);
    epoch_collect(cache_epoch(cache));
    cr_assert_leq(stats_of(cache).used_bytes, 64 * KIB);
    finish(cache, slots, COUNT);
}

Test(cache, freed_frames_of_debug_builds_are_overwritten) {
#ifdef PLEAT_DEBUG
    struct cache *cache = cache_of(16 * MIB);
    enum { COUNT = 400 };
    static struct cache_slot slots[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        fetch_in(cache, &slots[i], (uint8_t)i, 1000, CACHE_GET);
    }
    struct epoch_slot *inside = enter(cache);
    struct cache_frame *frame = cache_slot_load(&slots[COUNT - 1]);
    cr_assert_not_null(cache_frame_inner_of(frame)->slab, "slab memory stays mapped while other frames are in it");
    const uint8_t *data = frame->data;
    epoch_leave(inside);
    cache_slots_clear(cache, &slots[COUNT - 1], 1);
    epoch_synchronize(cache_epoch(cache));
    for (size_t i = 0; i < 1000; i++) {
        cr_assert_eq(data[i], 0xdb);
    }
    finish(cache, slots, COUNT);
#endif
}

Test(cache, cleared_slot_serves_late_readers_without_being_filled) {
    struct cache *cache = cache_of(64 * KIB);
    struct cache_slot slots[2] = {{0}};
    fetch_in(cache, &slots[0], 1, 100, CACHE_GET);
    struct epoch_slot *outer = enter(cache);
    cache_slots_clear(cache, slots, 2);
    for (int i = 0; i < 2; i++) {
        cr_assert(fetch_in(cache, &slots[i], 8, 100, CACHE_GET));
        cr_assert_null(cache_slot_load(&slots[i]));
        cr_assert(fetch_in(cache, &slots[i], 9, 100, CACHE_GET));
    }
    uint8_t byte = 0;
    cache_adopt(cache, &slots[0], prepared(cache, &byte, 1), 1);
    cr_assert_null(cache_slot_load(&slots[0]));
    cr_assert_eq(stats_of(cache).frames, 0);
    epoch_leave(outer);
    finish(cache, slots, 2);
}

Test(cache, prepared_frames_are_found_once_adopted_and_only_in_empty_slots) {
    struct cache *cache = cache_of(64 * KIB);
    struct cache_slot slots[2] = {{0}};
    uint8_t data[300];
    for (size_t i = 0; i < sizeof data; i++) {
        data[i] = content(5, i);
    }
    struct cache_frame *first = prepared(cache, data, sizeof data), *second = prepared(cache, data, sizeof data);
    struct cache_frame *third = prepared(cache, data, sizeof data);
    cr_assert_eq(stats_of(cache).frames, 0, "nobody finds them yet");
    cr_assert_geq(stats_of(cache).used_bytes, 3 * sizeof data, "but they are paid for");
    cache_adopt(cache, &slots[0], first, 3);
    memset(data, 0, sizeof data);
    cr_assert_not(fetch_in(cache, &slots[0], 5, sizeof data, CACHE_GET), "there, and a copy");
    cache_adopt(cache, &slots[0], second, 3);
    cr_assert_not(fetch_in(cache, &slots[0], 5, sizeof data, CACHE_GET), "the slot was taken");
    cr_assert_eq(stats_of(cache).frames, 1);
    cache_discard(cache, third);
    cr_assert(fetch_in(cache, &slots[1], 5, sizeof data, CACHE_GET));
    cache_check(cache);
    finish(cache, slots, 2);
}

Test(cache, prepared_frames_are_not_evicted_and_none_is_made_that_would_not_be_kept) {
    struct cache *cache = cache_of(64 * KIB);
    struct cache_slot slots[201] = {{0}};
    static uint8_t data[40 * KIB];
    memset(data, content(9, 0), 1);
    cr_assert_null(cache_prepare(cache, data, sizeof data), "more than half of the budget");
    struct cache_frame *frame = prepared(cache, data, 1);
    for (uint8_t i = 0; i < 200; i++) {
        fetch_in(cache, &slots[i], i, 1000, CACHE_GET);
    }
    cr_assert_gt(stats_of(cache).evictions, 0);
    cache_adopt(cache, &slots[200], frame, 0);
    cr_assert_not(fetch_in(cache, &slots[200], 9, 1, CACHE_GET));
    cache_check(cache);
    finish(cache, slots, 201);
}

Test(cache, block_of_more_than_half_the_capacity_displaces_nothing) {
    struct cache *cache = cache_of(64 * KIB);
    struct cache_slot slots[21] = {{0}};
    for (uint8_t i = 0; i < 20; i++) {
        fetch_in(cache, &slots[i], i, 1000, CACHE_GET);
    }
    cr_assert(fetch_in(cache, &slots[20], 7, 5 * MIB, CACHE_GET));
    cr_assert(fetch_in(cache, &slots[20], 7, 5 * MIB, CACHE_GET), "it is not kept");
    for (uint8_t i = 0; i < 20; i++) {
        cr_assert_not(fetch_in(cache, &slots[i], i, 1000, CACHE_GET));
    }
    epoch_synchronize(cache_epoch(cache));
    cr_assert_leq(stats_of(cache).used_bytes, 64 * KIB);
    finish(cache, slots, 21);
}

Test(cache, charges_count_and_push_frames_out) {
    enum { COUNT = 200 };
    struct cache *cache = cache_of(256 * KIB);
    static struct cache_slot slots[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        fetch_in(cache, &slots[i], (uint8_t)i, 1000, CACHE_GET);
    }
    struct cache_stats before = stats_of(cache);
    cache_charge(cache, 150 * KIB);
    epoch_synchronize(cache_epoch(cache));
    struct cache_stats after = stats_of(cache);
    cr_assert_leq(after.used_bytes, 256 * KIB);
    cr_assert_geq(after.used_bytes, 150 * KIB);
    cr_assert_lt(after.frames, before.frames / 2);
    cache_charge(cache, 850 * KIB); /* four times the capacity */
    epoch_synchronize(cache_epoch(cache));
    after = stats_of(cache);
    cr_assert_geq(after.used_bytes, 1000 * KIB);
    cr_assert_leq(after.used_bytes, 1000 * KIB + 64 * KIB, "a quarter of the capacity is left to frames");
    for (size_t round = 0; round < 3; round++) {
        for (size_t i = 0; i < 40; i++) {
            bool loaded = fetch_in(cache, &slots[i], (uint8_t)i, 1000, CACHE_GET);
            cr_assert(round == 0 || !loaded, "what fits that quarter stays");
        }
    }
    cache_charge(cache, -1000 * KIB);
    epoch_synchronize(cache_epoch(cache));
    cr_assert_leq(stats_of(cache).used_bytes, 64 * KIB);
    finish(cache, slots, COUNT);
}

struct racer {
    struct cache *cache;
    struct cache_slot *slot;
    struct loader *loader;
    _Atomic int *ready;
    int rc;
};

static void *racer_run(void *context) {
    struct racer *racer = context;
    struct cache_frame *frame;
    atomic_fetch_sub(racer->ready, 1);
    while (atomic_load(racer->ready) > 0) {
        thread_yield();
    }
    struct epoch_slot *inside = enter(racer->cache);
    racer->rc = cache_fetch(racer->cache, racer->slot, 4000, CACHE_GET, loader_load, racer->loader, &frame, NULL);
    if (racer->rc == 0) {
        assert_content(frame, racer->loader->seed, 4000);
    }
    epoch_leave(inside);
    return NULL;
}

static void run_race(struct cache *cache, struct cache_slot *slot, struct loader *loader, int *ret_failed) {
    enum { THREADS = 6 };
    struct thread threads[THREADS];
    struct racer racers[THREADS];
    _Atomic int ready = THREADS;
    for (int i = 0; i < THREADS; i++) {
        racers[i] = (struct racer){cache, slot, loader, &ready, 1};
        cr_assert_eq(thread_start(&threads[i], "racer", racer_run, &racers[i]), 0);
    }
    *ret_failed = 0;
    for (int i = 0; i < THREADS; i++) {
        thread_join(&threads[i]);
        cr_assert(racers[i].rc == 0 || racers[i].rc == PLEAT_ERR_IO);
        *ret_failed += racers[i].rc < 0;
    }
}

Test(cache, concurrent_misses_of_one_slot_load_once) {
    struct cache *cache = cache_of(MIB);
    for (int round = 0; round < 20; round++) {
        struct cache_slot slot = {0};
        struct loader loader = {.seed = 12, .sleep_ns = 5 * 1000 * 1000};
        int failed;
        run_race(cache, &slot, &loader, &failed);
        cr_assert_eq(loader.loads, 1);
        cr_assert_eq(failed, 0);
        cache_slots_clear(cache, &slot, 1);
        epoch_synchronize(cache_epoch(cache));
    }
    cr_assert_eq(stats_of(cache).misses, 20);
    cr_assert_eq(stats_of(cache).hits, 100);
    finish(cache, NULL, 0);
}

Test(cache, waiters_of_a_failed_load_try_themselves) {
    struct cache *cache = cache_of(MIB);
    struct cache_slot slot = {0};
    struct loader loader = {.seed = 12, .sleep_ns = 3 * 1000 * 1000, .failures = 2, .fail_code = PLEAT_ERR_IO};
    int failed;
    run_race(cache, &slot, &loader, &failed);
    cr_assert_eq(loader.loads, 3, "two fail, the third serves the rest");
    cr_assert_eq(failed, 2);
    finish(cache, &slot, 1);
}

/* A loader that clears its own slot in the middle of the load, as the owner could from another thread. */
struct clearing {
    struct cache *cache;
    struct cache_slot *slot;
};

static int clearing_load(void *context, uint8_t *data, size_t bytes, struct pleat_error *err) {
    struct clearing *clearing = context;
    struct loader loader = {.seed = 31};
    cache_slots_clear(clearing->cache, clearing->slot, 1);
    return loader_load(&loader, data, bytes, err);
}

Test(cache, slot_cleared_during_its_load_is_not_filled) {
    struct cache *cache = cache_of(MIB);
    struct cache_slot slot = {0};
    struct clearing clearing = {cache, &slot};
    struct cache_frame *frame;
    struct epoch_slot *inside = enter(cache);
    cr_assert_eq(cache_fetch(cache, &slot, 500, CACHE_GET, clearing_load, &clearing, &frame, NULL), 0);
    assert_content(frame, 31, 500);
    cr_assert_null(cache_slot_load(&slot));
    cr_assert_eq(stats_of(cache).frames, 0);
    epoch_collect(cache_epoch(cache));
    assert_content(frame, 31, 500);
    epoch_leave(inside);
    finish(cache, &slot, 1);
}

/* One scenario that allocates in every way; every failure is PLEAT_ERR_NO_MEMORY and leaves the cache usable. */
static bool run_with_failure(uint64_t n, bool for_ever) {
    enum { COUNT = 60 };
    struct failmem fail;
    failmem_init(&fail);
    fail.fail_at = n;
    fail.fail_for_ever = for_ever;
    struct cache *cache;
    struct pleat_error err = {0};
    int rc = cache_new(&fail.mem, 128 * KIB, &cache, &err);
    if (rc < 0) {
        cr_assert_eq(rc, PLEAT_ERR_NO_MEMORY);
        cr_assert_eq(err.code, PLEAT_ERR_NO_MEMORY);
        cr_assert_eq(fail.live, 0);
        return true;
    }
    struct cache_slot slots[COUNT] = {{0}};
    for (size_t i = 0; i < COUNT; i++) {
        struct epoch_slot *inside;
        rc = epoch_enter(cache_epoch(cache), &inside);
        if (rc < 0) {
            continue;
        }
        struct loader loader = {.seed = (uint8_t)i};
        struct cache_frame *frame;
        size_t bytes = i % 4 == 0 ? 9000 : 200;
        error_clear(&err);
        rc = cache_fetch(cache, &slots[i], bytes, CACHE_GET, loader_load, &loader, &frame, &err);
        cr_assert(rc == 0 || rc == PLEAT_ERR_NO_MEMORY);
        if (rc == 0) {
            assert_content(frame, (uint8_t)i, bytes);
        } else {
            cr_assert_eq(err.code, PLEAT_ERR_NO_MEMORY);
            cr_assert_null(cache_slot_load(&slots[i]));
        }
        epoch_leave(inside);
        uint8_t byte = 1;
        struct cache_frame *ready = cache_prepare(cache, &byte, 1);
        if (ready != NULL && i % 3 == 0) {
            cache_discard(cache, ready);
        } else if (ready != NULL) {
            cache_adopt(cache, &slots[(i + 7) % COUNT], ready, 1);
        }
        cache_slots_clear(cache, &slots[(i + 7) % COUNT], 1);
        epoch_synchronize(cache_epoch(cache));
        slots[(i + 7) % COUNT] = (struct cache_slot){0};
    }
    cache_check(cache);
    cache_slots_clear(cache, slots, COUNT);
    cache_free(cache);
    cr_assert_eq(fail.live, 0);
    return fail.calls >= n;
}

Test(cache, every_failed_allocation_is_survived_without_a_leak) {
    for (int for_ever = 0; for_ever < 2; for_ever++) {
        uint64_t n = 1;
        while (run_with_failure(n, for_ever == 1)) {
            n++;
        }
        cr_assert_gt(n, 30, "only %llu allocations were reached", (unsigned long long)n);
    }
}

Test(cache, nothing_is_leaked_at_free) {
    struct failmem fail;
    failmem_init(&fail);
    struct cache *cache;
    enum { COUNT = 3000 };
    struct cache_slot *slots = calloc(COUNT, sizeof *slots);
    cr_assert_eq(cache_new(&fail.mem, 2 * MIB, &cache, NULL), 0);
    for (size_t i = 0; i < COUNT; i++) {
        fetch_in(cache, &slots[i], (uint8_t)i, 100 + i, CACHE_GET);
    }
    cache_slots_clear(cache, slots, COUNT);
    cache_free(cache); /* with frames in limbo */
    cr_assert_eq(fail.live, 0);
    free(slots);
}
