/*
 * cache.c - see cache.h and, for the life of a frame, cache_internal.h: slots, fetches, pins, counters.
 *
 * A slot is one word. Its states and who moves it:
 *
 *       0 --compare-and-swap by a misser--> LOADING --by those who wait--> LOADING|WAITERS
 *       ^                                      |
 *       |<------------- load failed -----------+
 *       |<------------- not kept --------------+--- loaded: exchange ---> frame
 *       +---------------------- evicted: store ------------------------------+
 *
 *     any state --cache_slots_clear--> CLOSED (beside LOADING until that load ends)
 *
 * CLOSED is final. A reader that still reaches the slot array in its epoch may fetch after its owner has cleared it;
 * if that frame were published, it would point back into an array that is about to be freed. Such a reader gets a
 * frame of its own, retired at once and valid until it leaves its epoch, like one that is not worth keeping.
 *
 *   T1  A frame's address enters or leaves a slot under cache->mutex only (L1), and so does CLOSED. The other tags
 *       move without it.
 *   T2  Whoever takes WAITERS out of a slot wakes the waiters of its shard afterwards. A waiter sets WAITERS, or sees
 *       it set, while it holds the shard's mutex and until it sleeps: no wake-up is lost.
 *   T3  `load` runs without any mutex. It must not fetch from the same cache: two loads that wait for one another's
 *       slots would wait for ever.
 */
#include "base/assert.h"
#include "base/error.h"
#include "cache/cache_internal.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

enum {
    CACHE_CAPACITY_MIN = 4096, /* the API asks for more; below a page the shares of the budget vanish */
    CACHE_CLEAR_BATCH = 256,   /* slots closed under one hold of the mutex */
};

static_assert(sizeof(struct cache_counter) == CACHE_COUNTER_BYTES, "shards do not share a line");

/* ---- a cache ---------------------------------------------------------------------------------------------------- */

static void cache_waits_fini(struct cache *cache, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        mutex_fini(&cache->waits[i].mutex);
        condition_fini(&cache->waits[i].loaded);
    }
}

static int cache_waits_init(struct cache *cache) {
    for (unsigned i = 0; i < CACHE_WAIT_SHARDS; i++) {
        int os_errno = mutex_init(&cache->waits[i].mutex, RANK_CACHE_LOAD);
        if (os_errno == 0) {
            os_errno = condition_init(&cache->waits[i].loaded);
            if (os_errno != 0) {
                mutex_fini(&cache->waits[i].mutex);
            }
        }
        if (os_errno != 0) {
            cache_waits_fini(cache, i);
            return os_errno;
        }
    }
    return 0;
}

int cache_new(const struct mem *mem, uint64_t capacity_bytes, struct cache **ret_cache, struct pleat_error *err) {
    *ret_cache = NULL;
    if (capacity_bytes < CACHE_CAPACITY_MIN || capacity_bytes > INT64_MAX) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "cache capacity %" PRIu64 " bytes: outside %d .. 2^63 - 1",
                         capacity_bytes, CACHE_CAPACITY_MIN);
    }
    struct cache *cache = mem_zalloc(mem, 1, sizeof *cache);
    if (cache == NULL) {
        return error_no_memory(err, "block cache", sizeof *cache);
    }
    cache->mem = mem;
    cache->capacity = capacity_bytes;
    cache->reserve_bytes = capacity_bytes / 32; /* twice what limbo holds in the ordinary course */
    cache->probation_bytes = capacity_bytes / 16;
    cache->limbo_step_bytes = capacity_bytes / 64;
    cache->collect_at = cache->limbo_step_bytes;
    cache->frame_bytes_max = capacity_bytes / 2;
    cache->charged_bytes_max = capacity_bytes - capacity_bytes / 4;
    atomic_init(&cache->has_room, true);
    cache_memory_init(&cache->memory, mem, capacity_bytes);
    int rc = epoch_new(mem, &cache->epoch, err);
    if (rc < 0) {
        goto free_cache;
    }
    int os_errno = cache_waits_init(cache);
    if (os_errno == 0) {
        os_errno = mutex_init(&cache->mutex, RANK_CACHE);
        if (os_errno == 0) {
            *ret_cache = cache;
            return 0;
        }
        cache_waits_fini(cache, CACHE_WAIT_SHARDS);
    }
    rc = error_set(err, PLEAT_ERR_NO_MEMORY, os_errno, "no room for the mutexes of a block cache");
    epoch_free(cache->epoch);
free_cache:
    mem_free(mem, cache);
    return rc;
}

void cache_free(struct cache *cache) {
    if (cache == NULL) {
        return;
    }
    epoch_free(cache->epoch); /* may run reclaims of the stores that clear slots and return charges: they retire anew */
    ASSERT(cache_frames_locked(cache) == 0); /* every slot array was cleared */
    ASSERT(cache->frame_bytes == 0);                                      /* and every pin was given back */
    cache_memory_fini(&cache->memory);
    cache_waits_fini(cache, CACHE_WAIT_SHARDS);
    mutex_fini(&cache->mutex);
    mem_free(cache->mem, cache);
}

struct epoch *cache_epoch(struct cache *cache) {
    return cache->epoch;
}

/* A shard that threads seldom share: their descriptors lie far apart. */
static struct cache_counter *cache_counter_own(struct cache *cache) {
    uint64_t mixed = ((uint64_t)(uintptr_t)pthread_self() >> 6) * 0x9e3779b97f4a7c15ull;
    return &cache->counters[mixed >> 60];
}

static_assert(CACHE_COUNTER_SHARDS == 16, "four bits choose a shard");

/* ---- waiting for another thread's load -------------------------------------------------------------------------- */

static struct cache_wait *cache_wait_of(struct cache *cache, const struct cache_slot *slot) {
    uint64_t mixed = ((uint64_t)(uintptr_t)slot >> 3) * 0x9e3779b97f4a7c15ull;
    return &cache->waits[(mixed >> 32) % CACHE_WAIT_SHARDS];
}

/* Returns when the slot is no longer loading, or at a later look of its own accord; the caller looks again. */
static void cache_wait(struct cache *cache, struct cache_slot *slot) {
    struct cache_wait *wait = cache_wait_of(cache, slot);
    mutex_lock(&wait->mutex);
    uintptr_t seen = atomic_load_explicit(&slot->pointer, memory_order_relaxed); /* the caller's next look acquires */
    while ((seen & CACHE_SLOT_TAG) != 0 && (seen & CACHE_SLOT_LOADING) != 0) {
        /* Relaxed: T2 needs the mutex and the order of changes to one word, no more. */
        if ((seen & CACHE_SLOT_WAITERS) == 0 &&
            !atomic_compare_exchange_weak_explicit(&slot->pointer, &seen, seen | CACHE_SLOT_WAITERS,
                                                   memory_order_relaxed, memory_order_relaxed)) {
            continue;
        }
        condition_wait(&wait->loaded, &wait->mutex);
        seen = atomic_load_explicit(&slot->pointer, memory_order_relaxed);
    }
    mutex_unlock(&wait->mutex);
}

/* Ends this thread's load: the slot holds `pointer`, or stays closed. Under cache->mutex. True: somebody waits. */
static bool cache_slot_settle_locked(struct cache_slot *slot, uintptr_t pointer) {
    uintptr_t seen = atomic_load_explicit(&slot->pointer, memory_order_relaxed);
    uintptr_t next = (seen & CACHE_SLOT_CLOSED) != 0 ? (CACHE_SLOT_TAG | CACHE_SLOT_CLOSED) : pointer;
    /* An exchange, because a waiter may set WAITERS meanwhile. Release; pairs with the acquire in cache_slot_load. */
    uintptr_t old = atomic_exchange_explicit(&slot->pointer, next, memory_order_acq_rel);
    ASSERT((old & CACHE_SLOT_TAG) != 0 && (old & CACHE_SLOT_LOADING) != 0);
    return (old & CACHE_SLOT_WAITERS) != 0;
}

static void cache_wake(struct cache *cache, struct cache_slot *slot) {
    struct cache_wait *wait = cache_wait_of(cache, slot);
    mutex_lock(&wait->mutex); /* T2 */
    condition_broadcast(&wait->loaded);
    mutex_unlock(&wait->mutex);
}

/* ---- loading ---------------------------------------------------------------------------------------------------- */

/* A frame of `bytes`, LOADING; NULL when memory is out. Evicts for it. */
static struct cache_frame_inner *cache_frame_new(struct cache *cache, size_t bytes, enum cache_use use) {
    size_t frame_bytes = cache_memory_frame_bytes(bytes);
    if (frame_bytes == 0) {
        return NULL;
    }
    struct cache_victims victims = {NULL, false};
    mutex_lock(&cache->mutex);
    uint64_t held = cache_held_bytes_locked(cache);
    uint64_t room = held < cache->capacity ? cache->capacity - held : 0;
    /* Beyond the budget by one slab: the balance below drains another one for it. */
    bool may_exceed = cache_held_later_locked(cache) <= cache->capacity;
    struct cache_frame_inner *inner = cache_memory_take_slab(&cache->memory, frame_bytes, room, may_exceed);
    if (inner == NULL) {
        inner = cache_memory_take_single(&cache->memory, frame_bytes);
    }
    if (inner != NULL) {
        inner->cache = cache;
        inner->slot = NULL;
        inner->state = CACHE_FRAME_LOADING;
        cache->frame_bytes += inner->memory_bytes;
    }
    /* A frame that will not be kept is no reason to throw others out. */
    if (inner != NULL && inner->memory_bytes <= cache->frame_bytes_max) {
        cache_balance_locked(cache, &victims);
    }
    cache_room_note_locked(cache);
    mutex_unlock(&cache->mutex);
    cache_victims_retire(cache, &victims);
    if (inner == NULL) {
        return NULL;
    }
    inner->frame.data = cache_frame_data(&inner->frame);
    inner->frame.bytes = bytes;
    atomic_init(&inner->frame.pins, 0);
    atomic_init(&inner->frame.score, use == CACHE_GET ? 1 : 0); /* C4 */
    memset(inner->frame.data + bytes, 0, CACHE_TAIL_BYTES);
    return inner;
}

/* The load failed, or there was no frame to load into (NULL): the slot is free for another try. */
static void cache_load_abandon(struct cache *cache, struct cache_slot *slot, struct cache_frame_inner *inner) {
    mutex_lock(&cache->mutex);
    if (inner != NULL) {
        cache_frame_release_locked(cache, inner);
    }
    bool has_waiters = cache_slot_settle_locked(slot, 0);
    mutex_unlock(&cache->mutex);
    if (has_waiters) {
        cache_wake(cache, slot);
    }
}

/* Publishes a filled frame (C1), or retires it at once when it must not or need not be kept. */
static void cache_load_finish(struct cache *cache, struct cache_slot *slot, struct cache_frame_inner *inner,
                              enum cache_use use) {
    struct cache_victims victims = {NULL, false};
    mutex_lock(&cache->mutex);
    /* CLOSED is set under this mutex only (T1). */
    bool is_closed = (atomic_load_explicit(&slot->pointer, memory_order_relaxed) & CACHE_SLOT_CLOSED) != 0;
    bool is_kept = !is_closed && inner->memory_bytes <= cache->frame_bytes_max &&
                   (inner->slab == NULL || !inner->slab->is_draining);
    if (is_kept) {
        inner->slot = slot;
        cache_queue_enter_locked(cache, inner, use);
    } else {
        cache_unlink_locked(cache, inner, &victims);
    }
    bool has_waiters = cache_slot_settle_locked(slot, is_kept ? (uintptr_t)&inner->frame : 0);
    mutex_unlock(&cache->mutex);
    if (has_waiters) {
        cache_wake(cache, slot);
    }
    cache_victims_retire(cache, &victims);
}

/* A frame beside a closed slot: nobody else finds it. */
static int cache_load_private(struct cache *cache, size_t bytes,
                              int (*load)(void *context, uint8_t *data, size_t bytes, struct pleat_error *err),
                              void *context, struct cache_frame **ret_frame, struct pleat_error *err) {
    struct cache_slot aside;
    atomic_init(&aside.pointer, CACHE_SLOT_TAG | CACHE_SLOT_LOADING | CACHE_SLOT_CLOSED);
    struct cache_frame_inner *inner = cache_frame_new(cache, bytes, CACHE_SCAN);
    if (inner == NULL) {
        return error_no_memory(err, "cache frame", bytes);
    }
    int rc = load(context, inner->frame.data, bytes, err);
    if (rc < 0) {
        cache_load_abandon(cache, &aside, inner);
        return rc;
    }
    cache_load_finish(cache, &aside, inner, CACHE_SCAN);
    *ret_frame = &inner->frame;
    return 0;
}

int cache_fetch(struct cache *cache, struct cache_slot *slot, size_t bytes, enum cache_use use,
                int (*load)(void *context, uint8_t *data, size_t bytes, struct pleat_error *err), void *context,
                struct cache_frame **ret_frame, struct pleat_error *err) {
    *ret_frame = NULL;
    struct cache_counter *counter = cache_counter_own(cache);
    for (;;) {
        /* Acquire; pairs with the release in cache_slot_settle_locked. */
        uintptr_t seen = atomic_load_explicit(&slot->pointer, memory_order_acquire);
        if (seen != 0 && (seen & CACHE_SLOT_TAG) == 0) {
            struct cache_frame *frame = (struct cache_frame *)seen;
            if (use == CACHE_GET) {
                cache_touch(frame);
            }
            atomic_fetch_add_explicit(&counter->hits, 1, memory_order_relaxed); /* a sum, no partner */
            *ret_frame = frame;
            return 0;
        }
        if ((seen & CACHE_SLOT_CLOSED) != 0) {
            atomic_fetch_add_explicit(&counter->misses, 1, memory_order_relaxed); /* a sum, no partner */
            return cache_load_private(cache, bytes, load, context, ret_frame, err);
        }
        if (seen != 0) {
            cache_wait(cache, slot); /* C5 */
            continue;
        }
        /* Acquire; pairs with the release that emptied the slot: the evicted frame lies behind us. */
        if (atomic_compare_exchange_strong_explicit(&slot->pointer, &seen, CACHE_SLOT_TAG | CACHE_SLOT_LOADING,
                                                    memory_order_acquire, memory_order_relaxed)) {
            break;
        }
    }
    if (use != CACHE_CARRY) { /* nobody missed it yet */
        atomic_fetch_add_explicit(&counter->misses, 1, memory_order_relaxed); /* a sum, no partner */
    }
    struct cache_frame_inner *inner = cache_frame_new(cache, bytes, use);
    int rc = inner == NULL ? error_no_memory(err, "cache frame", bytes) : load(context, inner->frame.data, bytes, err);
    if (rc < 0) {
        cache_load_abandon(cache, slot, inner);
        return rc;
    }
    cache_load_finish(cache, slot, inner, use);
    *ret_frame = &inner->frame;
    return 0;
}

struct cache_frame *cache_prepare(struct cache *cache, const uint8_t *data, size_t bytes) {
    if (!cache_keeps(cache, bytes)) {
        return NULL;
    }
    struct cache_frame_inner *inner = cache_frame_new(cache, bytes, CACHE_CARRY);
    if (inner == NULL) {
        return NULL;
    }
    if (bytes > 0) {
        memcpy(inner->frame.data, data, bytes);
    }
    return &inner->frame;
}

void cache_adopt(struct cache *cache, struct cache_slot *slot, struct cache_frame *frame, uint8_t score) {
    uintptr_t expected = 0;
    /* Acquire, as in cache_fetch. */
    if (!atomic_compare_exchange_strong_explicit(&slot->pointer, &expected, CACHE_SLOT_TAG | CACHE_SLOT_LOADING,
                                                 memory_order_acquire, memory_order_relaxed)) {
        cache_discard(cache, frame);
        return;
    }
    cache_score_raise(frame, score);
    cache_load_finish(cache, slot, cache_frame_inner_of(frame), CACHE_CARRY);
}

void cache_discard(struct cache *cache, struct cache_frame *frame) {
    mutex_lock(&cache->mutex);
    cache_frame_release_locked(cache, cache_frame_inner_of(frame));
    mutex_unlock(&cache->mutex);
}

/* ---- pins ------------------------------------------------------------------------------------------------------- */

void cache_pin(struct cache_frame *frame) {
    /* Relaxed: the epoch, or the pin already held, orders this before the reclaim's look at the pins (L3). */
    uint32_t pins = atomic_fetch_add_explicit(&frame->pins, 1, memory_order_relaxed);
    ASSERT((pins & ~CACHE_PIN_RETIRED) < ~CACHE_PIN_RETIRED);
    ASSERT(pins != CACHE_PIN_RETIRED); /* a frame that nobody holds */
    if (pins == 0) {
        struct cache_counter *counter = cache_counter_own(cache_frame_inner_of(frame)->cache);
        atomic_fetch_add_explicit(&counter->pinned, 1, memory_order_relaxed); /* a sum, no partner */
    }
}

void cache_unpin(struct cache *cache, struct cache_frame *frame) {
    /* Acquire and release; pairs with the other unpins and with the fetch_or in cache_frame_reclaim (L3). */
    uint32_t pins = atomic_fetch_sub_explicit(&frame->pins, 1, memory_order_acq_rel);
    ASSERT((pins & ~CACHE_PIN_RETIRED) != 0);
    if ((pins & ~CACHE_PIN_RETIRED) != 1) {
        return;
    }
    atomic_fetch_sub_explicit(&cache_counter_own(cache)->pinned, 1, memory_order_relaxed); /* a sum, no partner */
    if (pins == (CACHE_PIN_RETIRED | 1)) {
        mutex_lock(&cache->mutex);
        cache_frame_release_locked(cache, cache_frame_inner_of(frame));
        mutex_unlock(&cache->mutex);
    }
}

/* ---- slots and charges ------------------------------------------------------------------------------------------ */

/* Any state -> CLOSED. Under cache->mutex. */
static void cache_slot_close_locked(struct cache *cache, struct cache_slot *slot, struct cache_victims *victims) {
    uintptr_t seen = atomic_load_explicit(&slot->pointer, memory_order_relaxed);
    uintptr_t next;
    do {
        next = CACHE_SLOT_TAG | CACHE_SLOT_CLOSED;
        if ((seen & CACHE_SLOT_TAG) != 0) {
            next |= seen; /* the loader and its waiters go on, and find it closed */
        }
        /* Release; pairs with the acquire in cache_fetch. A failed try read what others did: relaxed. */
    } while (!atomic_compare_exchange_weak_explicit(&slot->pointer, &seen, next, memory_order_release,
                                                    memory_order_relaxed));
    if (seen != 0 && (seen & CACHE_SLOT_TAG) == 0) {
        struct cache_frame_inner *inner = cache_frame_inner_of((struct cache_frame *)seen); /* stable: L1 */
        ASSERT(inner->slot == slot);
        cache_unlink_locked(cache, inner, victims);
    }
}

void cache_slots_clear(struct cache *cache, struct cache_slot *slots, size_t count) {
    while (count > 0) {
        size_t batch = count < CACHE_CLEAR_BATCH ? count : CACHE_CLEAR_BATCH;
        struct cache_victims victims = {NULL, false};
        mutex_lock(&cache->mutex);
        for (size_t i = 0; i < batch; i++) {
            cache_slot_close_locked(cache, &slots[i], &victims);
        }
        mutex_unlock(&cache->mutex);
        cache_victims_retire(cache, &victims);
        slots += batch;
        count -= batch;
    }
}

bool cache_has_room(const struct cache *cache) {
    return atomic_load_explicit(&cache->has_room, memory_order_relaxed); /* a hint, no partner */
}

bool cache_keeps_scan(const struct cache *cache, uint64_t bytes) {
    return bytes <= cache->probation_bytes || cache_has_room(cache);
}

bool cache_keeps(const struct cache *cache, size_t bytes) {
    size_t frame_bytes = cache_memory_frame_bytes(bytes);
    uint64_t most = frame_bytes + frame_bytes / 8 + CACHE_LINE_BYTES; /* of its class, or as a single block (S1) */
    return frame_bytes > 0 && most <= cache->frame_bytes_max;
}

void cache_charge(struct cache *cache, int64_t bytes) {
    struct cache_victims victims = {NULL, false};
    mutex_lock(&cache->mutex);
    cache->charged_bytes += bytes;
    ASSERT(cache->charged_bytes >= 0); /* no more given back than was taken */
    if (bytes > 0) {
        cache_balance_locked(cache, &victims);
    }
    cache_room_note_locked(cache);
    mutex_unlock(&cache->mutex);
    cache_victims_retire(cache, &victims);
}

void cache_stats_read(struct cache *cache, struct cache_stats *ret_stats) {
    memset(ret_stats, 0, sizeof *ret_stats);
    int64_t pinned = 0;
    for (unsigned i = 0; i < CACHE_COUNTER_SHARDS; i++) { /* relaxed sums, no partner */
        ret_stats->hits += atomic_load_explicit(&cache->counters[i].hits, memory_order_relaxed);
        ret_stats->misses += atomic_load_explicit(&cache->counters[i].misses, memory_order_relaxed);
        pinned += atomic_load_explicit(&cache->counters[i].pinned, memory_order_relaxed);
    }
    ret_stats->pinned = pinned > 0 ? (uint64_t)pinned : 0; /* a pin and its unpin may be read from different moments */
    mutex_lock(&cache->mutex);
    ret_stats->capacity_bytes = cache->capacity;
    ret_stats->used_bytes = cache->frame_bytes + (uint64_t)cache->charged_bytes;
    ret_stats->frames = cache_frames_locked(cache);
    ret_stats->evictions = cache->evictions;
    mutex_unlock(&cache->mutex);
}
