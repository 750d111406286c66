/*
 * cache_clock.c - which frame goes, and when its memory comes back.
 *
 * Queues, each with its hand at the old end:
 *
 *     scans, score 0 --> [ probation ] --touched--> [ main ] <-- gets, score 1
 *                             |                        |  score > 0: one less, back to the young end
 *                          score 0                  score 0
 *                             |                        v
 *                             +-------> evicted <-- [ cold ] --touched--> back to main
 *
 * What gets another chance goes back behind the others that did in the same turn, so that in time all that stay lie
 * together, and a hand that looks for one that falls would pass a hundred of them, a cache miss or two each, in one
 * load of a hundred. So the hand of main goes a few steps with each eviction, needed or not, and lays those that fall
 * into cold, from which evictions take: what lies there when the hand comes to a long row of others is enough to pass
 * it.
 *
 * Probation gives way first while it holds more than a sixteenth of the budget (or while main is empty), so a scan of
 * any length churns that sixteenth and leaves the hot set alone; one queue with scores would let each turn of the hand
 * take a point from every frame that is not touched during the scan. A cache that is only scanned is probation whole.
 *
 * The budget counts the memory that the pool holds, not the bytes in frames, so that free frames in half-empty slabs
 * are no hidden overdraft. An evicted frame's memory comes back only after the epoch, and a fetch never waits for it:
 *   - when the budget is full, `reserve_bytes` of slab memory are kept free or in limbo, so that a miss finds a frame;
 *   - what is still missing is allocated beyond the budget, and evictions that bring it back are under way.
 *
 *   K1  Frames go into limbo under the mutex and are retired after it was released: epoch_retire may reclaim, and the
 *       reclaim takes the mutex.
 *   K2  No loop waits for pins, epochs or loads: what cannot be evicted now is passed by.
 */
#include "cache/cache_internal.h"

#include "base/assert.h"

enum {
    CACHE_HAND_STEPS = 128, /* frames looked at before a score is no longer a reason to stay: bounds a miss */
    CACHE_COOL_STEPS = 8, /* of the hand of main, with each eviction, ... */
    CACHE_COLD_FRAMES = 64, /* ... while there are fewer in cold; of a small cache an eighth of main */
    CACHE_PROBATION_TURN = 16, /* one eviction in so many takes from probation, however small: nothing rests there */
};

static void cache_queue_append(struct cache_queue *queue, struct cache_frame_inner *inner) {
    inner->next = NULL;
    inner->previous = queue->youngest;
    if (queue->youngest != NULL) {
        queue->youngest->next = inner;
    } else {
        queue->oldest = inner;
    }
    queue->youngest = inner;
    queue->count++;
    queue->bytes += inner->memory_bytes;
}

static void cache_queue_remove(struct cache_queue *queue, struct cache_frame_inner *inner) {
    if (inner->previous != NULL) {
        inner->previous->next = inner->next;
    } else {
        queue->oldest = inner->next;
    }
    if (inner->next != NULL) {
        inner->next->previous = inner->previous;
    } else {
        queue->youngest = inner->previous;
    }
    queue->count--;
    queue->bytes -= inner->memory_bytes;
}

static void cache_place_locked(struct cache *cache, struct cache_frame_inner *inner, enum cache_place place) {
    inner->place = (uint8_t)place;
    cache_queue_append(&cache->queues[place], inner);
}

/* To the young end of the same queue, or of another. */
static void cache_move_locked(struct cache *cache, struct cache_frame_inner *inner, enum cache_place place) {
    cache_queue_remove(&cache->queues[inner->place], inner);
    cache_place_locked(cache, inner, place);
}

void cache_queue_enter_locked(struct cache *cache, struct cache_frame_inner *inner, enum cache_use use) {
    inner->state = CACHE_FRAME_LIVE;
    cache_place_locked(cache, inner, use == CACHE_SCAN ? CACHE_IN_PROBATION : CACHE_IN_MAIN);
}

uint64_t cache_frames_locked(const struct cache *cache) {
    return cache->queues[CACHE_IN_PROBATION].count + cache->queues[CACHE_IN_MAIN].count +
           cache->queues[CACHE_IN_COLD].count;
}

/* Memory that collections bring back. One frame in limbo holds a whole slab that is draining. */
static uint64_t cache_waiting_bytes_locked(const struct cache *cache) {
    return cache->limbo_single_bytes + cache->memory.limbo_bytes + cache->memory.draining_bytes;
}

void cache_unlink_locked(struct cache *cache, struct cache_frame_inner *inner, struct cache_victims *victims) {
    ASSERT(inner->state == CACHE_FRAME_LIVE || inner->state == CACHE_FRAME_LOADING);
    if (inner->state == CACHE_FRAME_LIVE) {
        cache_queue_remove(&cache->queues[inner->place], inner); /* L2 */
    }
    inner->state = CACHE_FRAME_LIMBO;
    inner->slot = NULL;
    cache->limbo_bytes += inner->memory_bytes;
    if (inner->slab == NULL) {
        cache->limbo_single_bytes += inner->memory_bytes;
    } else {
        inner->slab->limbo++;
        cache->memory.limbo_bytes += inner->slab->is_draining ? 0 : inner->memory_bytes;
    }
    inner->next = victims->first;
    victims->first = inner;
    victims->is_due = cache_waiting_bytes_locked(cache) >= cache->collect_at;
}

static void cache_evict_locked(struct cache *cache, struct cache_frame_inner *inner, struct cache_victims *victims) {
    DEBUG_ASSERT(atomic_load(&inner->slot->pointer) == (uintptr_t)&inner->frame); /* L1 */
    /* A store and not a compare-and-swap, because of L1. Release; pairs with the acquire in cache_slot_load, for a
     * thread that finds the slot empty and loads anew. */
    atomic_store_explicit(&inner->slot->pointer, 0, memory_order_release);
    cache->evictions++;
    cache_unlink_locked(cache, inner, victims);
}

void cache_slot_drop(struct cache *cache, struct cache_slot *slot) {
    struct cache_victims victims = {NULL, false};
    mutex_lock(&cache->mutex);
    /* Relaxed: addresses come and go under the mutex (L1). */
    uintptr_t seen = atomic_load_explicit(&slot->pointer, memory_order_relaxed);
    if (seen != 0 && (seen & CACHE_SLOT_TAG) == 0) {
        cache_evict_locked(cache, cache_frame_inner_of((struct cache_frame *)seen), &victims);
    }
    mutex_unlock(&cache->mutex);
    cache_victims_retire(cache, &victims);
}

/* One step of a hand: whether the frame at the old end falls. If not, it has moved: what was touched goes to main, with
 * a point less unless it comes from probation, where that was its first chance. Relaxed: the score is a hint, and a
 * touch may get lost. A pin that comes later is safe: see L3. */
static bool cache_hand_locked(struct cache *cache, struct cache_frame_inner *inner, bool is_patient) {
    if (inner->next != NULL) { /* both of its lines */
        __builtin_prefetch(inner->next);
        __builtin_prefetch(&inner->next->frame);
    }
    bool is_pinned = atomic_load_explicit(&inner->frame.pins, memory_order_relaxed) != 0;
    uint8_t score = atomic_load_explicit(&inner->frame.score, memory_order_relaxed);
    if (!is_pinned && (score == 0 || !is_patient)) {
        return true;
    }
    if (score > 0 && inner->place != CACHE_IN_PROBATION) {
        atomic_store_explicit(&inner->frame.score, score - 1, memory_order_relaxed);
    }
    bool waits = score == 0 && inner->place == CACHE_IN_PROBATION; /* pinned, and never touched */
    cache_move_locked(cache, inner, waits ? CACHE_IN_PROBATION : CACHE_IN_MAIN);
    return false;
}

/* Moves the hand of one queue until a frame falls. False: all that it saw were pinned, or there are none. */
static bool cache_evict_from_locked(struct cache *cache, enum cache_place place, struct cache_victims *victims) {
    for (unsigned step = 0; step < 2 * CACHE_HAND_STEPS; step++) {
        struct cache_frame_inner *inner = cache->queues[place].oldest;
        if (inner == NULL) {
            return false;
        }
        if (cache_hand_locked(cache, inner, step < CACHE_HAND_STEPS)) {
            cache_evict_locked(cache, inner, victims);
            return true;
        }
    }
    return false;
}

/* Moves the hand of main a few steps, and those that fall to cold. */
static void cache_cool_locked(struct cache *cache) {
    struct cache_queue *queue = &cache->queues[CACHE_IN_MAIN];
    uint64_t enough = queue->count / 8 < CACHE_COLD_FRAMES ? queue->count / 8 : CACHE_COLD_FRAMES;
    for (unsigned step = 0; step < CACHE_COOL_STEPS && cache->queues[CACHE_IN_COLD].count < enough; step++) {
        if (cache_hand_locked(cache, queue->oldest, true)) {
            cache_move_locked(cache, queue->oldest, CACHE_IN_COLD);
        }
    }
}

static bool cache_evict_one_locked(struct cache *cache, struct cache_victims *victims) {
    const struct cache_queue *probation = &cache->queues[CACHE_IN_PROBATION];
    bool main_is_empty = cache->queues[CACHE_IN_MAIN].count + cache->queues[CACHE_IN_COLD].count == 0;
    bool probation_first = probation->bytes > cache->probation_bytes || main_is_empty ||
                           cache->evictions % CACHE_PROBATION_TURN == 0;
    if (probation_first && cache_evict_from_locked(cache, CACHE_IN_PROBATION, victims)) {
        return true;
    }
    cache_cool_locked(cache);
    return cache_evict_from_locked(cache, CACHE_IN_COLD, victims) ||
           cache_evict_from_locked(cache, CACHE_IN_MAIN, victims) ||
           (!probation_first && cache_evict_from_locked(cache, CACHE_IN_PROBATION, victims));
}

/* Starts giving one slab back. False: there is none. */
static bool cache_drain_locked(struct cache *cache, struct cache_victims *victims) {
    struct cache_slab *slab = cache_memory_drain(&cache->memory);
    if (slab == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < slab->carved; i++) {
        struct cache_frame_inner *inner = cache_slab_frame(&cache->memory, slab, i);
        if (inner->state == CACHE_FRAME_LIVE) {
            cache_evict_locked(cache, inner, victims);
        }
    }
    return true;
}

uint64_t cache_held_bytes_locked(const struct cache *cache) {
    uint64_t charged = (uint64_t)cache->charged_bytes;
    charged = charged < cache->charged_bytes_max ? charged : cache->charged_bytes_max;
    return cache->memory.slab_bytes_total + cache->memory.single_bytes + charged;
}

uint64_t cache_held_later_locked(const struct cache *cache) {
    return cache_held_bytes_locked(cache) - cache->memory.draining_bytes - cache->limbo_single_bytes;
}

void cache_room_note_locked(struct cache *cache) {
    /* A full one goes below its capacity by what its last eviction or drain gave back: that is no room yet. */
    uint64_t held = cache_held_later_locked(cache), eighth = cache->capacity / 8;
    bool had_room = atomic_load_explicit(&cache->has_room, memory_order_relaxed); /* a hint, no partner: both */
    bool has_room = held < (had_room ? 7 : 5) * eighth;
    if (has_room != had_room) {
        atomic_store_explicit(&cache->has_room, has_room, memory_order_relaxed);
    }
}

void cache_balance_locked(struct cache *cache, struct cache_victims *victims) {
    struct cache_memory *memory = &cache->memory;
    while (cache_held_later_locked(cache) > cache->capacity) {
        if (cache_memory_shrink(memory)) {
            continue;
        }
        /* Room for a slab lies scattered: the clock has chosen who goes, the drain only gathers it. */
        bool is_hollow = memory->free_bytes + memory->limbo_bytes >= memory->slab_bytes + cache->reserve_bytes;
        if (is_hollow && cache_drain_locked(cache, victims)) {
            continue;
        }
        if (!cache_evict_one_locked(cache, victims)) {
            break; /* everything is pinned, in limbo or being loaded: C3 */
        }
    }
    while (memory->slabs != NULL && cache_held_later_locked(cache) + memory->slab_bytes > cache->capacity &&
           memory->free_bytes + memory->limbo_bytes < cache->reserve_bytes &&
           cache_evict_one_locked(cache, victims)) {
    }
}

void cache_frame_release_locked(struct cache *cache, struct cache_frame_inner *inner) {
    ASSERT(inner->state == CACHE_FRAME_LIMBO || inner->state == CACHE_FRAME_LOADING);
    if (inner->state == CACHE_FRAME_LIMBO) {
        cache->limbo_bytes -= inner->memory_bytes;
        if (inner->slab == NULL) {
            cache->limbo_single_bytes -= inner->memory_bytes;
        } else {
            inner->slab->limbo--;
            cache->memory.limbo_bytes -= inner->slab->is_draining ? 0 : inner->memory_bytes;
        }
    }
    cache->frame_bytes -= inner->memory_bytes;
    cache_memory_give(&cache->memory, inner, cache_held_bytes_locked(cache) > cache->capacity);
    cache_room_note_locked(cache);
    uint64_t collect_at = cache_waiting_bytes_locked(cache) + cache->limbo_step_bytes;
    cache->collect_at = collect_at < cache->collect_at ? collect_at : cache->collect_at;
}

/* The epoch's callback: no reader holds the frame by its slot any more (C2, L3). */
static void cache_frame_reclaim(struct epoch_retired *retired, void *context) {
    struct cache_frame_inner *inner = context;
    struct cache *cache = inner->cache;
    (void)retired;
    /* Acquire and release; pairs with the fetch_sub in cache_unpin: whichever comes second frees. */
    uint32_t pins = atomic_fetch_or_explicit(&inner->frame.pins, CACHE_PIN_RETIRED, memory_order_acq_rel);
    ASSERT((pins & CACHE_PIN_RETIRED) == 0);
    if (pins == 0) {
        mutex_lock(&cache->mutex);
        cache_frame_release_locked(cache, inner);
        mutex_unlock(&cache->mutex);
    }
}

void cache_victims_retire(struct cache *cache, struct cache_victims *victims) {
    if (victims->first == NULL) {
        return;
    }
    while (victims->first != NULL) {
        struct cache_frame_inner *inner = victims->first;
        victims->first = inner->next; /* read before the reclaim can run */
        epoch_retire(cache->epoch, &inner->retired, cache_frame_reclaim, inner);
    }
    if (victims->is_due) {
        victims->is_due = false;
        epoch_collect(cache->epoch);
        mutex_lock(&cache->mutex);
        /* What a slow reader still holds back does not make every further miss pay for a try. */
        cache->collect_at = cache_waiting_bytes_locked(cache) + cache->limbo_step_bytes / 2;
        mutex_unlock(&cache->mutex);
    }
}

static uint64_t cache_queue_check(const struct cache *cache, enum cache_place place) {
    const struct cache_queue *queue = &cache->queues[place];
    uint64_t bytes = 0;
    uint64_t count = 0;
    const struct cache_frame_inner *previous = NULL;
    for (const struct cache_frame_inner *inner = queue->oldest; inner != NULL; inner = inner->next) {
        ASSERT(inner->state == CACHE_FRAME_LIVE && inner->place == place); /* L2 */
        ASSERT(inner->previous == previous);
        ASSERT(inner->slab == NULL || !inner->slab->is_draining); /* nothing holds up a drain but pins and epochs */
        ASSERT(atomic_load(&inner->slot->pointer) == (uintptr_t)&inner->frame); /* L1 */
        bytes += inner->memory_bytes;
        count++;
        previous = inner;
    }
    ASSERT(queue->youngest == previous && queue->count == count && queue->bytes == bytes);
    return bytes;
}

void cache_check(struct cache *cache) {
    mutex_lock(&cache->mutex);
    uint64_t live = cache_queue_check(cache, CACHE_IN_PROBATION) + cache_queue_check(cache, CACHE_IN_MAIN) +
                    cache_queue_check(cache, CACHE_IN_COLD);
    const struct cache_memory *memory = &cache->memory;
    cache_memory_check(memory);
    uint64_t slab_frames = 0;
    for (const struct cache_slab *slab = memory->slabs; slab != NULL; slab = slab->next) {
        slab_frames += (uint64_t)slab->used * cache_class_bytes(slab->class_index);
    }
    ASSERT(cache->frame_bytes == slab_frames + memory->single_bytes); /* L4 */
    ASSERT(live + cache->limbo_bytes <= cache->frame_bytes); /* the rest is being loaded */
    ASSERT(cache->limbo_single_bytes <= memory->single_bytes);
    mutex_unlock(&cache->mutex);
}
