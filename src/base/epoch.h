/*
 * epoch.h - readers that touch shared memory without pins, and reclaimers that wait for them.
 *
 * A reader brackets its accesses with epoch_enter/epoch_leave: plain stores, no read-modify-write, no fence. Whoever
 * unlinks an object from shared memory hands it to epoch_retire; its `reclaim` runs after every reader that could
 * still hold it has left. The asymmetric barrier of thread.h makes the plain stores sound.
 *
 *   E1  An object is reachable only until epoch_retire was called on it.
 *   E2  reclaim(object) runs when no reader that entered before the retirement is still inside.
 *   E3  epoch_enter nests within a thread; it never blocks. A thread's first entry registers a slot (may allocate).
 *   E4  epoch_synchronize is never called inside an epoch.
 *   E5  A reclaim runs on whatever thread retires, collects or synchronizes, perhaps inside an epoch of that thread. It
 *       may retire further objects and never waits for readers. So nobody calls those three with a mutex held that any
 *       reclaim of the domain takes, or one of a higher rank.
 *
 * Threads: free. A slot belongs to its thread and goes back when the thread ends.
 */
#ifndef PLEAT_BASE_EPOCH_H
#define PLEAT_BASE_EPOCH_H

#include "base/mem.h"
#include "pleat/pleat.h"

#include <stdint.h>

struct epoch;
struct epoch_slot;

/* Embedded in whatever is retired. */
struct epoch_retired {
    struct epoch_retired *next;
    void (*reclaim)(struct epoch_retired *object, void *context);
    void *context;
    uint64_t epoch;
};

int epoch_new(const struct mem *mem, struct epoch **ret_epoch, struct pleat_error *err);
/* Reclaims all that is retired; no reader may be inside. NULL is allowed. */
void epoch_free(struct epoch *epoch);

/* Enters; *ret_slot is for epoch_leave by the same thread. Fails only with PLEAT_ERR_NO_MEMORY, at a thread's first
 * entry. */
int epoch_enter(struct epoch *epoch, struct epoch_slot **ret_slot);
void epoch_leave(struct epoch_slot *slot);
/* A word of the calling thread's own that stays from entry to entry, zero at first: for guesses about what it will do
 * next, which cost nothing to keep where no other thread writes. Inside the epoch. */
uint32_t *epoch_slot_hint(struct epoch_slot *slot);

/* Never blocks and never fails; reclaims what is ripe now and then (one heavy barrier for many objects). */
void epoch_retire(struct epoch *epoch, struct epoch_retired *object,
                  void (*reclaim)(struct epoch_retired *object, void *context), void *context);
/* Tries to reclaim what is ripe, without waiting. */
void epoch_collect(struct epoch *epoch);
/* Waits until every reader that is inside now has left, and reclaims all that was retired before. E4. */
void epoch_synchronize(struct epoch *epoch);

#endif
