/*
 * cache.h - the block cache: frames of decoded blocks behind atomic pointers that the tables own.
 *
 * There is no hash table. An open table has one atomic slot per block; a hit is one load inside an epoch, takes no
 * pin and no read-modify-write. The cache owns the frames, runs CLOCK with two-bit scores over them, and clears the
 * slot of a victim before it retires the frame to the epoch domain. It knows no format: a frame is `bytes` bytes.
 *
 *   C1  A frame that a slot points to was published whole (release; pairs with the acquire in cache_slot_load).
 *   C2  A frame's memory is reused only after its slot was cleared, every epoch that could hold it has ended, and
 *       its pin count is zero.
 *   C3  Used bytes (frames and charges) exceed the capacity only by frames that are pinned, in limbo, or being loaded,
 *       and by charges above three quarters of it: a quarter is always left to frames, or a store whose slots and
 *       directories outgrow the cache would read and decode a block for every lookup.
 *   C4  Gets enter at score 1 and raise to 3, pages of an index to 31; scans and compactions enter at 0: neither
 *       flushes the hot set. What is carried over from a frame of gets takes its place among them, a point below it.
 *   C5  Of several threads that miss one block at once, one loads it and the others wait for it.
 *
 * Threads: free, except that a slot array is made and retired by its one owner.
 */
#ifndef PLEAT_CACHE_CACHE_H
#define PLEAT_CACHE_CACHE_H

#include "base/epoch.h"
#include "base/mem.h"
#include "pleat/pleat.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cache; /* struct pleat_cache of the API is this */

/* A decoded block. `data` is 64-byte aligned and readable for 64 bytes beyond `bytes` (zeroed). */
struct cache_frame {
    uint8_t *data;
    size_t bytes;
    _Atomic uint32_t pins;
    _Atomic uint8_t score;
    /* Fields of the cache's own follow in struct cache_frame_inner; nobody else makes a frame. */
};

/* A frame lies in the line right before its data: where they are follows from the frame's address, so that reading a
 * block does not wait for the frame first. Equal to frame->data. */
#define CACHE_FRAME_BYTES 64
static inline uint8_t *cache_frame_data(struct cache_frame *frame) {
    return (uint8_t *)frame + CACHE_FRAME_BYTES;
}

#define CACHE_SCORE_PAGE 31 /* see cache_touch_page; others have at most 3 */

/* Inside an epoch, both: the score, and raising it. Relaxed: a hint, no partner. */
static inline uint8_t cache_score(const struct cache_frame *frame) {
    return atomic_load_explicit(&frame->score, memory_order_relaxed);
}
static inline void cache_score_raise(struct cache_frame *frame, uint8_t score) {
    if (cache_score(frame) < score) {
        atomic_store_explicit(&frame->score, score, memory_order_relaxed); /* a touch may get lost */
    }
}

/* One per block in an open table; zero-initialised by its owner. Bit 0 set: no frame, but being loaded or closed. */
struct cache_slot {
    _Atomic uintptr_t pointer;
};

enum cache_use {
    CACHE_GET,  /* a point or short read: worth keeping */
    CACHE_SCAN, /* a long scan or a compaction: goes first */
    CACHE_CARRY, /* in the place of a frame that goes: among the gets, at 0; the caller passes the score on */
};

int cache_new(const struct mem *mem, uint64_t capacity_bytes, struct cache **ret_cache, struct pleat_error *err);
/* Every slot array must have been retired. NULL is allowed. */
void cache_free(struct cache *cache);

/* The epoch domain that protects frames (and that the stores use for their own objects, too). */
struct epoch *cache_epoch(struct cache *cache);

/* Inside an epoch: the frame, or NULL when it is not loaded. Valid until epoch_leave unless pinned. */
static inline struct cache_frame *cache_slot_load(const struct cache_slot *slot) {
    /* Acquire; pairs with the release that ends a load in cache_fetch, and with that of cache_adopt. */
    uintptr_t pointer = atomic_load_explicit(&slot->pointer, memory_order_acquire);
    return (pointer & 1) == 0 ? (struct cache_frame *)pointer : NULL;
}

/* Raises the score of a frame that was hit by a get: a store only when it changes something. */
static inline void cache_touch(struct cache_frame *frame) {
    if (__builtin_expect(atomic_load_explicit(&frame->score, memory_order_relaxed) != 3, 0)) {
        atomic_store_explicit(&frame->score, 3, memory_order_relaxed); /* relaxed: a hint, no partner */
    }
}

/* The same for a page of an index, without which no block below it is found: it outlives several turns of the clock in
 * which blocks come and go. Where one block in 250 is cached, and a page is over 113, a turn touches 4 pages in 10, by
 * gets of random keys: at 3 more than a quarter of them would be gone when they are needed, at 7 one in twenty (1.14
 * reads a hit were counted then, of 100,000,000 keys with a cache of a hundredth), at 31 one in a million. */
static inline void cache_touch_page(struct cache_frame *frame) {
    if (__builtin_expect(atomic_load_explicit(&frame->score, memory_order_relaxed) != CACHE_SCORE_PAGE, 0)) {
        atomic_store_explicit(&frame->score, CACHE_SCORE_PAGE, memory_order_relaxed); /* relaxed: a hint, no partner */
    }
}

/*
 * Inside an epoch: the frame of `slot`, loaded if need be. On a miss a frame of `bytes` is allocated and `load(context,
 * data, bytes, err)` fills it; a negative return of load is returned and nothing is published. *ret_frame is valid
 * until epoch_leave unless pinned. Counts a hit or a miss. `load` must not fetch from the same cache. A frame of more
 * than half the capacity, or of a cleared slot, is loaded for this call alone and not kept.
 */
int cache_fetch(struct cache *cache, struct cache_slot *slot, size_t bytes, enum cache_use use,
                int (*load)(void *context, uint8_t *data, size_t bytes, struct pleat_error *err), void *context,
                struct cache_frame **ret_frame, struct pleat_error *err);

/* A frame for a slot that does not exist yet, filled with a copy of `data`: nobody finds it, and nothing evicts it,
 * until one of the next two ends that. NULL when it would not be kept, or without memory. */
struct cache_frame *cache_prepare(struct cache *cache, const uint8_t *data, size_t bytes);
/* Publishes a prepared frame as CACHE_CARRY does, with this score; drops it when the slot is taken. */
void cache_adopt(struct cache *cache, struct cache_slot *slot, struct cache_frame *frame, uint8_t score);
/* Frees a prepared frame. */
void cache_discard(struct cache *cache, struct cache_frame *frame);

/* Inside an epoch, or with a pin held: keep the frame beyond the epoch. */
void cache_pin(struct cache_frame *frame);
void cache_unpin(struct cache *cache, struct cache_frame *frame);

/* Evicts the frame of a slot, if there is one. The slot stays open. */
void cache_slot_drop(struct cache *cache, struct cache_slot *slot);

/* Drops the frames of `count` slots and closes these for good: a reader that still reaches them in its epoch gets
 * frames of its own. The owner may free the array itself only through epoch_retire (or when no reader can reach it).
 * Pinned frames live on until they are unpinned. */
void cache_slots_clear(struct cache *cache, struct cache_slot *slots, size_t count);

/* Whether the budget has room for more than it holds. Relaxed: what the last change of it left, a hint. */
bool cache_has_room(const struct cache *cache);

/* Whether what a scan of so many bytes has loaded is still cached at its end: there is room, or it fits the share of
 * what is scanned. */
bool cache_keeps_scan(const struct cache *cache, uint64_t bytes);

/* Whether a frame of so many bytes would be kept at all (see cache_fetch). */
bool cache_keeps(const struct cache *cache, size_t bytes);

/* Counts memory that is not a frame (directories, slots) against the budget (C3); negative gives it back. */
void cache_charge(struct cache *cache, int64_t bytes);

struct cache_stats {
    uint64_t capacity_bytes;
    uint64_t used_bytes; /* frames and charges */
    uint64_t frames;
    uint64_t pinned;
    uint64_t hits; /* of cache_fetch only: cache_slot_load counts nothing */
    uint64_t misses; /* but for CACHE_CARRY */
    uint64_t evictions;
};
void cache_stats_read(struct cache *cache, struct cache_stats *ret_stats);

#endif
