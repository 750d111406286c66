/*
 * cache_internal.h - what the files of the cache room share: the whole frame, the memory pool, the cache itself.
 *
 *   cache.c        slots: fetch, insert, publish, pin, close; counters
 *   cache_clock.c  which frame goes: the two queues, the budget, retirement through the epoch
 *   cache_slab.c   where frames live: size classes, slabs, frames of their own
 *
 * A frame in memory (64-byte lines; the hot line is next to the data, so that one miss brings the other near):
 *
 *     +-------------------+--------------------------+---------------------+--------------------+
 *     | cold line         | hot line: cache_frame,   | data, `bytes` long  | 64 zeroed bytes,   |
 *     | owner, slot, list | retired                  |                     | rest of the class  |
 *     +-------------------+--------------------------+---------------------+--------------------+
 *
 * The life of a frame; every change but the last holds cache->mutex:
 *
 *     FREE --take--> LOADING --publish--> LIVE --evict, close--> LIMBO --epoch over, no pins--> FREE
 *                       |  load failed: FREE                       ^
 *                       +------- nobody may find it any more ------+
 *
 *   L1  A slot holds a frame's address exactly while the frame is LIVE, and both change under the mutex together.
 *   L2  LIVE frames are in exactly one queue, all others in none.
 *   L3  LIMBO ends in the reclaim when there are no pins, else in the last unpin: the reclaim sets CACHE_PIN_RETIRED
 *       in the pin word, and whichever of the two makes the word "retired and zero pins" frees the frame, once. No pin
 *       can come later: pinning needs an epoch that began before the frame was unlinked, or a pin.
 *   L4  frame_bytes = the sum of memory_bytes over all frames that are not FREE.
 * cache_check asserts L1, L2, L4 and the sums of the pool.
 */
#ifndef PLEAT_CACHE_CACHE_INTERNAL_H
#define PLEAT_CACHE_CACHE_INTERNAL_H

#include "cache/cache.h"
#include "cache/cache_slab.h"
#include "platform/thread.h"

/* The tags of a slot that holds no frame; 0 is an empty slot. */
#define CACHE_SLOT_TAG ((uintptr_t)1)     /* set in all of them: never an address */
#define CACHE_SLOT_LOADING ((uintptr_t)2) /* one thread is loading */
#define CACHE_SLOT_WAITERS ((uintptr_t)4) /* others wait for it */
#define CACHE_SLOT_CLOSED ((uintptr_t)8)  /* for good: the owner has given the slot up */

#define CACHE_PIN_RETIRED 0x80000000u /* in frame.pins, see L3 */

enum {
    CACHE_WAIT_SHARDS = 16,
    CACHE_COUNTER_SHARDS = 16,
    CACHE_COUNTER_BYTES = 128,
};

struct cache_counter {
    _Atomic uint64_t hits;
    _Atomic uint64_t misses;
    _Atomic int64_t pinned; /* frames pinned minus frames unpinned by the threads of this shard */
    uint8_t padding[CACHE_COUNTER_BYTES - 24];
};

struct cache_wait {
    struct mutex mutex; /* RANK_CACHE_LOAD */
    struct condition loaded;
};

/* Oldest first; frames that get another chance go to the young end, so that the old end is the hand of a CLOCK. */
enum cache_place { CACHE_IN_PROBATION, CACHE_IN_MAIN, CACHE_IN_COLD };

struct cache_queue {
    struct cache_frame_inner *oldest;
    struct cache_frame_inner *youngest;
    uint64_t count;
    uint64_t bytes;
};

struct cache {
    /* frozen */
    const struct mem *mem;
    struct epoch *epoch;
    uint64_t capacity;
    uint64_t reserve_bytes;     /* of slab memory kept free, or about to be, once the budget is full */
    uint64_t probation_bytes;   /* frames of scans give way first while they hold more than this */
    uint64_t limbo_step_bytes;  /* newly waiting memory that makes a collection worth its barrier */
    uint64_t frame_bytes_max;   /* frames larger than this are served but not kept */
    uint64_t charged_bytes_max; /* charges above this take nothing from frames any more (C3) */
    struct cache_wait waits[CACHE_WAIT_SHARDS];

    struct mutex mutex; /* RANK_CACHE */
    /* guarded by mutex */
    struct cache_memory memory;
    struct cache_queue queues[3]; /* by place: entered at score 0; entered at 1, or were touched; the next to fall */
    int64_t charged_bytes;
    uint64_t frame_bytes;
    uint64_t limbo_bytes;
    uint64_t limbo_single_bytes; /* the part of it that frames without a slab hold */
    uint64_t collect_at; /* a collection is due when so much memory waits for one */
    uint64_t evictions;

    _Atomic bool has_room; /* written under the mutex, read without: a hint, no partner */

    struct cache_counter counters[CACHE_COUNTER_SHARDS]; /* relaxed sums, no partner */
};

static inline struct cache_frame_inner *cache_frame_inner_of(struct cache_frame *frame) {
    return (struct cache_frame_inner *)(void *)((char *)frame - offsetof(struct cache_frame_inner, frame));
}

/* ---- cache_clock.c; _locked needs cache->mutex ------------------------------------------------------------------- */

/* Frames unlinked under the mutex, to be retired by cache_victims_retire after it was released. */
struct cache_victims {
    struct cache_frame_inner *first;
    bool is_due; /* enough is in limbo for a collection */
};

/* Those in a queue. */
uint64_t cache_frames_locked(const struct cache *cache);
/* Puts a published frame into the queue of its use. */
void cache_queue_enter_locked(struct cache *cache, struct cache_frame_inner *inner, enum cache_use use);
/* LIVE or LOADING -> LIMBO, out of its queue; the caller has changed the slot. */
void cache_unlink_locked(struct cache *cache, struct cache_frame_inner *inner, struct cache_victims *victims);
/* Evicts until what is held fits the budget, or will, and enough slab memory is free, or will be. */
void cache_balance_locked(struct cache *cache, struct cache_victims *victims);
/* Retires them, and collects when much is in limbo. Without the mutex. */
void cache_victims_retire(struct cache *cache, struct cache_victims *victims);
/* LIMBO or LOADING -> FREE. */
void cache_frame_release_locked(struct cache *cache, struct cache_frame_inner *inner);
/* Bytes of memory that the pool and the charges hold now, of the latter what counts (C3). */
uint64_t cache_held_bytes_locked(const struct cache *cache);
/* What of it will be held once the epochs that are now open have ended. */
uint64_t cache_held_later_locked(const struct cache *cache);
/* What cache_has_room says from now on. */
void cache_room_note_locked(struct cache *cache);
/* Asserts the invariants above; cost: every frame. Takes the mutex. */
void cache_check(struct cache *cache);

#endif
