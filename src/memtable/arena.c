/*
 * arena.c - the pool of arenas, and an arena's filter as readers use it.
 *
 * Fresh memory is dear (the first touch of a page costs more than the copy that goes there), so a generation's arena is
 * not given back to the system when its tables are written, but kept for the next generation. Only the default size is
 * kept: an arena that was made for one huge commit is unmapped when it is released.
 *
 *     acquire --> held by a generation: records, nodes, filter fill up --> release --> kept (warm) --> acquire ...
 *                                                                             '-----> unmapped (large, or enough kept)
 *
 * An arena is address space; the system commits pages when they are first touched, which for 2 MiB of them can take
 * longer than a thousand inserts. So a background thread touches them ahead of both ends, and makes the next arena
 * while its generation is not there yet. The filter is emptied at release, where a background thread pays, too, and not
 * at acquire, where a commit waits.
 */
#include "memtable/arena_internal.h"

#include "base/error.h"
#include "platform/thread.h"

#include <string.h>

#define PAGE_BYTES 4096u
#define HUGE_PAGE_BYTES (2u << 20)

struct arena_pool {
    const struct mem *mem;
    size_t default_bytes;
    size_t keep_count;
    struct mutex mutex;

    /* guarded by mutex */
    struct arena *kept; /* default-sized, empty, warm */
    size_t kept_count;
    size_t held_count; /* acquired and not released */
};

static size_t filter_lines_for(size_t bytes) {
    return bytes / FILTER_SHARE / FILTER_LINE_BYTES + 1;
}

static uint64_t arena_page_bytes(uint64_t total) {
    return total >= HUGE_PAGE_BYTES ? HUGE_PAGE_BYTES : PAGE_BYTES;
}

/* All of an arena that is to leave `bytes` available beside the guard and the filter, in whole pages. */
static uint64_t arena_total_bytes(uint64_t bytes) {
    uint64_t total = ARENA_GUARD_BYTES + (uint64_t)filter_lines_for(bytes) * FILTER_LINE_BYTES + bytes;
    uint64_t page = arena_page_bytes(total);
    return (total + page - 1) / page * page;
}

int arena_pool_new(const struct mem *mem, size_t default_bytes, size_t keep_count, struct arena_pool **ret_pool,
                   struct pleat_error *err) {
    struct arena_pool *pool = mem_zalloc(mem, 1, sizeof *pool);
    if (pool == NULL) {
        return error_no_memory(err, "an arena pool", sizeof *pool);
    }
    int os_errno = mutex_init(&pool->mutex, RANK_POOL);
    if (os_errno != 0) {
        mem_free(mem, pool);
        return error_system(err, os_errno, "mutex_init", "arena pool");
    }
    pool->mem = mem;
    pool->default_bytes = default_bytes;
    pool->keep_count = keep_count;
    *ret_pool = pool;
    return 0;
}

static void arena_free(const struct mem *mem, struct arena *arena) {
    mem_unmap(mem, arena->base, arena->bytes);
    mem_free(mem, arena);
}

void arena_pool_free(struct arena_pool *pool) {
    if (pool == NULL) {
        return;
    }
    ASSERT(pool->held_count == 0);
    while (pool->kept != NULL) {
        struct arena *arena = pool->kept;
        pool->kept = arena->next;
        arena_free(pool->mem, arena);
    }
    mutex_fini(&pool->mutex);
    mem_free(pool->mem, pool);
}

static void arena_reset(struct arena *arena) {
    atomic_store_explicit(&arena->record_end, arena->record_start, memory_order_relaxed);
    atomic_store_explicit(&arena->node_start, arena->bytes, memory_order_relaxed);
}

static int arena_new(const struct mem *mem, size_t bytes, bool is_default, struct arena **ret_arena,
                     struct pleat_error *err) {
    if (bytes > ARENA_BYTES_MAX || arena_total_bytes(bytes) > ARENA_BYTES_MAX) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "%zu bytes for one generation exceed the limit of %llu", bytes,
                         (unsigned long long)ARENA_BYTES_MAX);
    }
    struct arena *arena = mem_zalloc(mem, 1, sizeof *arena);
    if (arena == NULL) {
        return error_no_memory(err, "an arena", sizeof *arena);
    }
    arena->bytes = (size_t)arena_total_bytes(bytes);
    arena->base = mem_map(mem, arena->bytes, arena->bytes >= HUGE_PAGE_BYTES);
    if (arena->base == NULL) {
        size_t wanted = arena->bytes;
        mem_free(mem, arena);
        return error_no_memory(err, "an arena", wanted);
    }
    arena->filter_lines = filter_lines_for(bytes);
    arena->record_start = ARENA_GUARD_BYTES + (size_t)arena->filter_lines * FILTER_LINE_BYTES;
    arena->is_default = is_default;
    arena->prepared_nodes = arena->bytes;
    arena_reset(arena);
    *ret_arena = arena;
    return 0;
}

int arena_acquire(struct arena_pool *pool, size_t bytes, struct arena **ret_arena, struct pleat_error *err) {
    bool is_default = bytes <= pool->default_bytes;
    struct arena *arena = NULL;
    mutex_lock(&pool->mutex);
    if (is_default && pool->kept != NULL) {
        arena = pool->kept;
        pool->kept = arena->next;
        arena->next = NULL;
        pool->kept_count--;
    }
    pool->held_count++;
    mutex_unlock(&pool->mutex);
    if (arena == NULL) {
        int rc = arena_new(pool->mem, is_default ? pool->default_bytes : bytes, is_default, &arena, err);
        if (rc < 0) {
            mutex_lock(&pool->mutex);
            pool->held_count--;
            mutex_unlock(&pool->mutex);
            return rc;
        }
    }
    *ret_arena = arena;
    return 0;
}

/* Makes an arena that nobody reads any longer fit for its next life. */
static void arena_clear(struct arena *arena) {
    size_t record_end = atomic_load_explicit(&arena->record_end, memory_order_relaxed);
    if (record_end > arena->record_start) {
        memset(arena->base + ARENA_GUARD_BYTES, 0, arena->record_start - ARENA_GUARD_BYTES); /* A3 */
#ifdef PLEAT_DEBUG
        /* A reader that was left behind, or an allocation that trusts its memory to be zero, shall not go unnoticed. */
        size_t node_start = atomic_load_explicit(&arena->node_start, memory_order_relaxed);
        memset(arena->base + arena->record_start, 0xdb, record_end - arena->record_start);
        memset(arena->base + node_start, 0xdb, arena->bytes - node_start);
#endif
    }
    arena_reset(arena);
}

/* Under the pool's mutex. */
static void arena_keep(struct arena_pool *pool, struct arena *arena) {
    mutex_check_held(&pool->mutex);
    arena->next = pool->kept;
    pool->kept = arena;
    pool->kept_count++;
}

void arena_release(struct arena_pool *pool, struct arena *arena) {
    if (arena == NULL) {
        return;
    }
    bool worth_keeping = arena->is_default;
    if (worth_keeping) {
        arena_clear(arena);
    }
    mutex_lock(&pool->mutex);
    ASSERT(pool->held_count > 0);
    pool->held_count--;
    bool keep = worth_keeping && pool->kept_count < pool->keep_count;
    if (keep) {
        arena_keep(pool, arena);
    }
    mutex_unlock(&pool->mutex);
    if (!keep) {
        arena_free(pool->mem, arena);
    }
}

void arena_prepare(struct arena_pool *pool, struct arena *arena, size_t ahead_bytes) {
    size_t page = (size_t)arena_page_bytes(arena->bytes);
    size_t record_end = atomic_load_explicit(&arena->record_end, memory_order_relaxed);
    size_t node_start = atomic_load_explicit(&arena->node_start, memory_order_relaxed);
    if (node_start <= record_end) {
        return; /* full; or the two ends are of different moments */
    }
    size_t room = node_start - record_end;
    size_t records = record_end + (ahead_bytes < room ? ahead_bytes : room);
    size_t nodes = node_start - (ahead_bytes / 4 < room ? ahead_bytes / 4 : room);
    records = (records + page - 1) / page * page;
    nodes = nodes / page * page;
    mutex_lock(&pool->mutex); /* shares the pages out */
    size_t records_from = arena->prepared_records;
    size_t nodes_to = arena->prepared_nodes;
    records = records < nodes_to ? records : nodes_to; /* where the two meet, the other side has seen to it */
    records = records > records_from ? records : records_from;
    nodes = nodes > records ? nodes : records;
    nodes = nodes < nodes_to ? nodes : nodes_to;
    arena->prepared_records = records;
    arena->prepared_nodes = nodes;
    mutex_unlock(&pool->mutex);
    mem_populate(pool->mem, arena->base + records_from, records - records_from);
    mem_populate(pool->mem, arena->base + nodes, nodes_to - nodes);
}

void arena_pool_prepare(struct arena_pool *pool, size_t ahead_bytes) {
    mutex_lock(&pool->mutex);
    bool wanted = pool->kept == NULL && pool->held_count < pool->keep_count;
    pool->held_count += wanted; /* by this thread */
    mutex_unlock(&pool->mutex);
    if (!wanted) {
        return;
    }
    struct arena *arena = NULL;
    if (arena_new(pool->mem, pool->default_bytes, true, &arena, NULL) == 0) {
        arena_prepare(pool, arena, ahead_bytes);
    }
    mutex_lock(&pool->mutex);
    pool->held_count--;
    bool keep = arena != NULL && pool->held_count + pool->kept_count < pool->keep_count; /* nobody was faster */
    if (keep) {
        arena_keep(pool, arena);
    }
    mutex_unlock(&pool->mutex);
    if (arena != NULL && !keep) {
        arena_free(pool->mem, arena);
    }
}

size_t arena_used(const struct arena *arena) {
    size_t record_end = atomic_load_explicit(&arena->record_end, memory_order_relaxed);
    return record_end + (arena->bytes - atomic_load_explicit(&arena->node_start, memory_order_relaxed));
}

size_t arena_available(const struct arena *arena) {
    size_t used = arena_used(arena);
    /* The two ends are read one after the other: seen by another thread they may belong to different moments. */
    return used < arena->bytes ? arena->bytes - used : 0;
}

bool arena_may_contain(const struct arena *arena, uint64_t hash) {
    _Atomic uint64_t *line = (_Atomic uint64_t *)(void *)arena_filter_line(arena, hash);
    uint64_t probes = arena_filter_probes(hash);
    uint64_t missing = 0;
    for (unsigned i = 0; i < FILTER_PROBES; i++, probes >>= 9) {
        /* Relaxed: whoever may see a key has acquired the sequence number published after its bits were set (M3). */
        uint64_t word = atomic_load_explicit(&line[(probes >> 6) & (FILTER_LINE_WORDS - 1)], memory_order_relaxed);
        missing |= ~word >> (probes & 63);
    }
    return (missing & 1) == 0;
}

void arena_prefetch(const struct arena *arena, uint64_t hash) {
    __builtin_prefetch(arena_filter_line(arena, hash));
}
