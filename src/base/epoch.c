/*
 * epoch.c - see epoch.h. Epoch-based reclamation with plain stores on the reader's side.
 *
 * A domain has a global number that only grows. A reader writes the number that it saw into its own slot, and 0 when
 * it leaves. A retired object is tagged with the number of its moment. A collector moves the number on, runs one heavy
 * barrier, reads all slots, and reclaims the objects with a tag below every number found there:
 *
 *     reader                                   unlinker, then collector
 *     v = global            (acquire)          shared pointer = other
 *     slot.entered = v      (release)          lock; object.tag = global; append; unlock
 *     light barrier                            lock; global = tag + 1 (release); unlock
 *     p = shared pointer                       heavy barrier
 *     ... reads *p ...                         e = slot.entered (acquire)
 *     slot.entered = 0      (release)          reclaims if e == 0 or e > object.tag
 *
 * Why that holds, for a reader that might see the object:
 *   1. Its store is not seen by the collector's load. The heavy barrier put a full fence somewhere into the reader's
 *      thread, and the store lies behind that fence, or it would have been seen. So the reader's later load of the
 *      shared pointer lies behind it, too, and sees the unlinking, which came before the heavy barrier. (The light
 *      barrier only keeps the compiler from exchanging the two.) No hold on the object. The same reasoning covers a
 *      thread whose slot is not yet on the list that the collector walks.
 *   2. Its store is seen with e <= tag: the object waits. A number that the reader loaded long before it stored it is
 *      merely too small, which holds back more than needed and never less.
 *   3. Its store is seen with e > tag: the reader's acquire load of `global` met the release store of the collector
 *      that moved past the tag, which came after the unlinking. The reader sees the unlinking.
 *   4. It has left: the acquire load of the slot meets the release store of epoch_leave, or of the same thread's next
 *      epoch_enter, and everything that the reader did lies before the reclaim.
 *
 * Threads find their slot by a pthread key of the domain, whose destructor gives the slot back. A destructor can run
 * while another thread frees the domain, and POSIX has no way to wait for it. Therefore it looks the slot up in a list
 * of living domains, under one mutex of the process: the only variables of the library that no handle owns, because
 * the C library calls the destructor with nothing that could lead to a handle that is known to be alive.
 */
#include "base/epoch.h"

#include "base/assert.h"
#include "base/error.h"
#include "platform/thread.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

enum {
    EPOCH_LINE_BYTES = 128, /* two cache lines: the adjacent-line prefetcher pairs them */
    EPOCH_RETIRED_BATCH = 64, /* retirements that share one heavy barrier */
    EPOCH_YIELDS = 16,
};

struct epoch_slot {
    _Atomic uint64_t entered; /* 0: outside; else the epoch seen at the outermost entry */
    uint32_t depth;           /* owned by the thread that holds the slot */
    uint32_t hint;            /* owned by the thread that holds the slot */
    struct epoch_slot *next;  /* frozen once the slot is on the list */
    void *block;              /* frozen: the allocation around this aligned struct */
    pthread_t owner;          /* guarded by epoch_registry_mutex, and so is `taken` */
    bool taken;
};

struct epoch {
    const struct mem *mem;
    pthread_key_t key;
    _Atomic uint64_t global;           /* written under `mutex` */
    _Atomic(struct epoch_slot *) slots; /* pushed under epoch_registry_mutex, never removed before epoch_free */
    struct epoch *registry_next;       /* guarded by epoch_registry_mutex */
    struct mutex mutex;
    /* guarded by mutex */
    struct epoch_retired *retired_first; /* oldest first: tags never fall */
    struct epoch_retired *retired_last;
    uint32_t retired_since_collect;
    bool collecting;               /* one collector at a time */
    uint64_t collecting_tag_first; /* the oldest tag that it may be reclaiming */
};

static pthread_mutex_t epoch_registry_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct epoch *epoch_registry;

/* The key's destructor: the thread ends and its slot may serve another one. */
static void epoch_slot_give_back(void *value) {
    (void)pthread_mutex_lock(&epoch_registry_mutex);
    for (struct epoch *epoch = epoch_registry; epoch != NULL; epoch = epoch->registry_next) {
        struct epoch_slot *slot = atomic_load_explicit(&epoch->slots, memory_order_relaxed); /* under the mutex */
        while (slot != NULL && slot != value) {
            slot = slot->next;
        }
        /* The owner test is for a freed slot whose address serves a younger domain. */
        if (slot != NULL && slot->taken && pthread_equal(slot->owner, pthread_self())) {
            /* A thread cancelled inside an epoch reads nothing any more: leaving for it is right. */
            slot->depth = 0;
            slot->hint = 0;
            atomic_store_explicit(&slot->entered, 0, memory_order_release); /* pairs with epoch_reader_oldest */
            slot->taken = false;
            break;
        }
    }
    (void)pthread_mutex_unlock(&epoch_registry_mutex);
}

int epoch_new(const struct mem *mem, struct epoch **ret_epoch, struct pleat_error *err) {
    *ret_epoch = NULL;
    struct epoch *epoch = mem_zalloc(mem, 1, sizeof *epoch);
    if (epoch == NULL) {
        return error_no_memory(err, "epoch domain", sizeof *epoch);
    }
    epoch->mem = mem;
    atomic_init(&epoch->global, 1);
    atomic_init(&epoch->slots, NULL);
    int os_errno = mutex_init(&epoch->mutex, RANK_EPOCH);
    if (os_errno != 0) {
        mem_free(mem, epoch);
        return error_set(err, PLEAT_ERR_NO_MEMORY, os_errno, "no room for a mutex of an epoch domain");
    }
    os_errno = pthread_key_create(&epoch->key, epoch_slot_give_back);
    if (os_errno != 0) {
        mutex_fini(&epoch->mutex);
        mem_free(mem, epoch);
        return error_set(err, PLEAT_ERR_NO_MEMORY, os_errno, "no thread-specific key left for an epoch domain");
    }
    thread_barrier_init();
    (void)pthread_mutex_lock(&epoch_registry_mutex);
    epoch->registry_next = epoch_registry;
    epoch_registry = epoch;
    (void)pthread_mutex_unlock(&epoch_registry_mutex);
    *ret_epoch = epoch;
    return 0;
}

static void epoch_registry_remove(struct epoch *epoch) {
    (void)pthread_mutex_lock(&epoch_registry_mutex);
    struct epoch **link = &epoch_registry;
    while (*link != epoch) {
        link = &(*link)->registry_next;
    }
    *link = epoch->registry_next;
    (void)pthread_mutex_unlock(&epoch_registry_mutex);
}

/* A slot that a dead thread left, or NULL. Under epoch_registry_mutex. */
static struct epoch_slot *epoch_slot_reuse_locked(struct epoch *epoch) {
    struct epoch_slot *slot = atomic_load_explicit(&epoch->slots, memory_order_relaxed); /* under the mutex */
    while (slot != NULL && slot->taken) {
        slot = slot->next;
    }
    return slot;
}

static struct epoch_slot *epoch_slot_new(struct epoch *epoch) {
    size_t bytes = (sizeof(struct epoch_slot) + EPOCH_LINE_BYTES - 1) / EPOCH_LINE_BYTES * EPOCH_LINE_BYTES;
    void *block = mem_zalloc(epoch->mem, 1, bytes + EPOCH_LINE_BYTES);
    if (block == NULL) {
        return NULL;
    }
    uintptr_t skip = (0 - (uintptr_t)block) % EPOCH_LINE_BYTES;
    struct epoch_slot *slot = (struct epoch_slot *)((char *)block + skip);
    atomic_init(&slot->entered, 0);
    slot->block = block;
    return slot;
}

/* The calling thread's first entry: a slot for it, or NULL when there is no memory. */
static struct epoch_slot *epoch_slot_take(struct epoch *epoch) {
    (void)pthread_mutex_lock(&epoch_registry_mutex);
    struct epoch_slot *slot = epoch_slot_reuse_locked(epoch);
    if (slot != NULL) {
        slot->taken = true;
        slot->owner = pthread_self();
    }
    (void)pthread_mutex_unlock(&epoch_registry_mutex);
    if (slot == NULL) {
        slot = epoch_slot_new(epoch);
        if (slot == NULL) {
            return NULL;
        }
        slot->taken = true;
        slot->owner = pthread_self();
        (void)pthread_mutex_lock(&epoch_registry_mutex);
        slot->next = atomic_load_explicit(&epoch->slots, memory_order_relaxed); /* under the mutex */
        /* Release; pairs with the acquire in epoch_reader_oldest. */
        atomic_store_explicit(&epoch->slots, slot, memory_order_release);
        (void)pthread_mutex_unlock(&epoch_registry_mutex);
    }
    if (pthread_setspecific(epoch->key, slot) != 0) {
        epoch_slot_give_back(slot);
        return NULL;
    }
    return slot;
}

int epoch_enter(struct epoch *epoch, struct epoch_slot **ret_slot) {
    struct epoch_slot *slot = pthread_getspecific(epoch->key);
    if (UNLIKELY(slot == NULL)) {
        slot = epoch_slot_take(epoch);
        if (slot == NULL) {
            *ret_slot = NULL;
            return PLEAT_ERR_NO_MEMORY;
        }
    }
    if (slot->depth++ == 0) {
        /* Acquire; pairs with the release in epoch_advance_locked (case 3 above). */
        uint64_t now = atomic_load_explicit(&epoch->global, memory_order_acquire);
        /* Release, although nothing is published: pairs with the acquire in epoch_reader_oldest (case 4 above). */
        atomic_store_explicit(&slot->entered, now, memory_order_release);
        thread_light_barrier();
    }
    *ret_slot = slot;
    return 0;
}

uint32_t *epoch_slot_hint(struct epoch_slot *slot) {
    return &slot->hint;
}

void epoch_leave(struct epoch_slot *slot) {
    ASSERT(slot->depth > 0);
    if (--slot->depth == 0) {
        /* Release; pairs with the acquire in epoch_reader_oldest. */
        atomic_store_explicit(&slot->entered, 0, memory_order_release);
    }
}

/* The smallest epoch that a reader is inside with; UINT64_MAX when there is none. After a heavy barrier. */
static uint64_t epoch_reader_oldest(struct epoch *epoch) {
    uint64_t oldest = UINT64_MAX;
    /* Acquire; pairs with the release in epoch_slot_take. */
    struct epoch_slot *slot = atomic_load_explicit(&epoch->slots, memory_order_acquire);
    for (; slot != NULL; slot = slot->next) {
        /* Acquire; pairs with the releases in epoch_leave and epoch_enter. */
        uint64_t entered = atomic_load_explicit(&slot->entered, memory_order_acquire);
        if (entered != 0 && entered < oldest) {
            oldest = entered;
        }
    }
    return oldest;
}

/* Moves the domain on; everything retired so far has a tag of at most the returned number. Under `mutex`. */
static uint64_t epoch_advance_locked(struct epoch *epoch) {
    mutex_check_held(&epoch->mutex);
    uint64_t now = atomic_load_explicit(&epoch->global, memory_order_relaxed); /* written under this mutex only */
    /* Release; pairs with the acquire in epoch_enter. */
    atomic_store_explicit(&epoch->global, now + 1, memory_order_release);
    return now;
}

/* Unchains the objects with tags up to `limit`, oldest first. Under `mutex`. */
static struct epoch_retired *epoch_cut_locked(struct epoch *epoch, uint64_t limit) {
    struct epoch_retired *batch = epoch->retired_first;
    struct epoch_retired *last = NULL;
    while (epoch->retired_first != NULL && epoch->retired_first->epoch <= limit) {
        last = epoch->retired_first;
        epoch->retired_first = last->next;
    }
    if (last == NULL) {
        return NULL;
    }
    last->next = NULL;
    if (epoch->retired_first == NULL) {
        epoch->retired_last = NULL;
    }
    return batch;
}

static void epoch_reclaim(struct epoch_retired *batch) {
    while (batch != NULL) {
        struct epoch_retired *object = batch;
        batch = object->next; /* read before the object goes away */
        object->reclaim(object, object->context);
    }
}

void epoch_collect(struct epoch *epoch) {
    mutex_lock(&epoch->mutex);
    epoch->retired_since_collect = 0;
    if (epoch->collecting || epoch->retired_first == NULL) {
        mutex_unlock(&epoch->mutex);
        return;
    }
    epoch->collecting = true;
    epoch->collecting_tag_first = epoch->retired_first->epoch;
    uint64_t limit = epoch_advance_locked(epoch);
    mutex_unlock(&epoch->mutex);

    thread_heavy_barrier();
    uint64_t oldest = epoch_reader_oldest(epoch);
    if (oldest <= limit) {
        limit = oldest - 1;
    }

    mutex_lock(&epoch->mutex);
    struct epoch_retired *batch = epoch_cut_locked(epoch, limit);
    mutex_unlock(&epoch->mutex);
    epoch_reclaim(batch);

    mutex_lock(&epoch->mutex);
    epoch->collecting = false;
    mutex_unlock(&epoch->mutex);
}

void epoch_retire(struct epoch *epoch, struct epoch_retired *object,
                  void (*reclaim)(struct epoch_retired *object, void *context), void *context) {
    object->next = NULL;
    object->reclaim = reclaim;
    object->context = context;
    mutex_lock(&epoch->mutex);
    object->epoch = atomic_load_explicit(&epoch->global, memory_order_relaxed); /* written under this mutex only */
    if (epoch->retired_last != NULL) {
        epoch->retired_last->next = object;
    } else {
        epoch->retired_first = object;
    }
    epoch->retired_last = object;
    bool is_due = ++epoch->retired_since_collect >= EPOCH_RETIRED_BATCH;
    mutex_unlock(&epoch->mutex);
    if (is_due) {
        epoch_collect(epoch);
    }
}

static void epoch_pause(uint32_t *rounds) {
    if (*rounds < EPOCH_YIELDS) {
        thread_yield();
    } else {
        uint32_t step = *rounds - EPOCH_YIELDS;
        thread_sleep_ns(step < 5 ? 20000ull << step : 640000ull);
    }
    *rounds += *rounds < UINT32_MAX;
}

void epoch_synchronize(struct epoch *epoch) {
    struct epoch_slot *own = pthread_getspecific(epoch->key);
    ASSERT(own == NULL || own->depth == 0); /* E4 */
    mutex_lock(&epoch->mutex);
    uint64_t target = epoch_advance_locked(epoch);
    mutex_unlock(&epoch->mutex);
    uint32_t rounds = 0;
    for (;;) {
        thread_heavy_barrier();
        if (epoch_reader_oldest(epoch) > target) {
            break;
        }
        epoch_pause(&rounds);
    }
    for (;;) {
        epoch_collect(epoch);
        mutex_lock(&epoch->mutex);
        /* Tags never fall along the list and a collector works at its old end: nobody keeps this waiting for ever. */
        bool is_done = (epoch->retired_first == NULL || epoch->retired_first->epoch > target) &&
                       (!epoch->collecting || epoch->collecting_tag_first > target);
        mutex_unlock(&epoch->mutex);
        if (is_done) {
            return;
        }
        epoch_pause(&rounds);
    }
}

void epoch_free(struct epoch *epoch) {
    if (epoch == NULL) {
        return;
    }
    ASSERT(epoch_reader_oldest(epoch) == UINT64_MAX);
    struct epoch_retired *batch;
    do { /* a reclaim may retire further objects */
        mutex_lock(&epoch->mutex);
        ASSERT(!epoch->collecting);
        batch = epoch_cut_locked(epoch, UINT64_MAX);
        epoch->retired_since_collect = 0;
        mutex_unlock(&epoch->mutex);
        epoch_reclaim(batch);
    } while (batch != NULL);
    (void)pthread_key_delete(epoch->key);
    epoch_registry_remove(epoch);
    /* No destructor finds the domain from here on. */
    struct epoch_slot *slot = atomic_load_explicit(&epoch->slots, memory_order_relaxed); /* nobody else is left */
    while (slot != NULL) {
        struct epoch_slot *next = slot->next;
        mem_free(epoch->mem, slot->block);
        slot = next;
    }
    mutex_fini(&epoch->mutex);
    mem_free(epoch->mem, epoch);
}
