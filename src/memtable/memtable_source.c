/*
 * memtable_source.c - a memtable as a source: what one sequence number may see of it, in key order, both ways.
 *
 * The walker finds records' addresses without touching the records; their bytes are what costs. So the walk runs ahead
 * of the reader: up to 32 records wait in a ring, being prefetched, while the reader takes them one by one.
 *
 *     tree --walker--> [ ring: newest record of each key, prefetched ] --bounds--> --visible--> entry
 *
 * The ring is filled by few at first and by more as the reader goes on, so that reading one entry stays cheap; a read
 * confined to a prefix starts with more, because it is going to be read to its end.
 *
 *   I1  Bounds are tested before visibility: a range of entries that this sequence does not see ends at the bound and
 *       not at the next visible key.
 *   I2  What the ring holds are heads of chains as they were met; the versions that this sequence may see are below.
 *   I3  The walker and the ring go one way; turning round drops the ring and seeks from the current entry's key.
 */
#include "memtable/art.h"

#include "base/error.h"

#define RING_SLOTS 32u
#define RING_TARGET_FIRST 4u
#define RING_TARGET_FIRST_PREFIX 16u
#define RING_WHOLE_AHEAD 4u        /* so many before its turn, all of a record is asked for ... */
#define RING_WHOLE_BYTES_MAX 1024u /* ... up to here: the processor notices longer runs by itself */

/* Stands for a key that is given as NULL and no bytes: positions in a key are pointer sums. */
static const uint8_t empty_key[1] = {0};

struct memtable_source {
    struct source source;
    const struct mem *mem;
    struct memtable *table;
    uint64_t sequence;
    struct source_bounds bounds;
    const uint8_t *prefix; /* all keys inside the bounds begin with this */
    size_t prefix_bytes;
    bool lower_matters; /* the prefix alone does not imply the bound */
    bool upper_matters;
    bool positioned;   /* on an entry (S3) */
    bool walker_ready; /* made with the first call that positions */
    bool exhausted;    /* the walker has nothing left */
    bool prepared;     /* the ring holds the first records, and nothing has been taken of it */
    uint32_t ring[RING_SLOTS];
    unsigned ring_start;
    unsigned ring_count;
    unsigned ring_low;    /* refill when no more than so many wait */
    unsigned ring_target; /* up to so many */
    struct art_walker walker;
};

static struct memtable_source *source_self(struct source *source) {
    return (struct memtable_source *)(void *)source; /* `source` is the first member */
}

static int source_fail(struct memtable_source *self) {
    self->positioned = false;
    self->ring_count = 0;
    self->exhausted = true;
    error_clear(&self->source.error);
    return error_no_memory(&self->source.error, "an iterator's way down a memtable",
                           self->walker.frame_capacity * 2 * sizeof(struct art_frame));
}

static void ring_push(struct memtable_source *self, uint32_t slot) {
    self->ring[(self->ring_start + self->ring_count++) % RING_SLOTS] = slot;
    node_prefetch(self->walker.base, slot);
}

static int ring_fill(struct memtable_source *self) {
    while (self->ring_count < self->ring_target) {
        uint32_t slot;
        if (UNLIKELY(art_walker_step(&self->walker, &slot) < 0)) {
            return source_fail(self);
        }
        if (slot == 0) {
            self->exhausted = true;
            return 0;
        }
        ring_push(self, slot);
    }
    self->ring_low = self->ring_target / 2;
    self->ring_target = self->ring_target < RING_SLOTS ? self->ring_target * 2 : RING_SLOTS;
    return 0;
}

static bool record_is_outside(const struct memtable_source *self, const struct record *record) {
    if (self->walker.backward) {
        return self->lower_matters &&
               key_compare(record->bytes, record->key_bytes, self->bounds.lower, self->bounds.lower_bytes) < 0;
    }
    return self->upper_matters &&
           key_compare(record->bytes, record->key_bytes, self->bounds.upper, self->bounds.upper_bytes) >= 0;
}

/* The lines of a record behind those that node_prefetch asks for: how many there are stands in its first. */
static void record_prefetch_rest(const struct record *record) {
    const uint8_t *p = (const uint8_t *)record;
    size_t bytes = RECORD_HEADER_BYTES + (size_t)record->key_bytes + record->value_bytes;
    bytes = bytes < RING_WHOLE_BYTES_MAX ? bytes : RING_WHOLE_BYTES_MAX;
    for (size_t i = 128; i < bytes + 63; i += 64) {
        __builtin_prefetch(p + (i < bytes ? i : bytes - 1));
    }
}

/* Takes records from the ring until one is visible. */
static int source_advance(struct memtable_source *self) {
    for (;;) {
        if (self->ring_count <= self->ring_low && !self->exhausted) {
            int rc = ring_fill(self);
            if (rc < 0) {
                return rc;
            }
        }
        if (self->ring_count == 0) {
            break;
        }
        struct record *record = slot_record(self->walker.base, self->ring[self->ring_start]);
        self->ring_start = (self->ring_start + 1) % RING_SLOTS;
        self->ring_count--;
        if (self->ring_count > RING_WHOLE_AHEAD) {
            uint32_t ahead = self->ring[(self->ring_start + RING_WHOLE_AHEAD) % RING_SLOTS];
            record_prefetch_rest(slot_record(self->walker.base, ahead));
        }
        if (record_is_outside(self, record)) { /* I1 */
            break;
        }
        record = record_visible(self->walker.base, record, self->sequence);
        if (record != NULL) {
            record_read(record, &self->source.entry);
            self->positioned = true;
            return 0;
        }
    }
    self->positioned = false;
    return PLEAT_END;
}

/* Begins anew with the slot that the walker was set on; 0: none. */
static void source_restart_ring(struct memtable_source *self, uint32_t slot) {
    self->prepared = false;
    self->ring_start = 0;
    self->ring_count = 0;
    self->ring_low = 1;
    self->ring_target = self->bounds.prefix != NULL ? RING_TARGET_FIRST_PREFIX : RING_TARGET_FIRST;
    self->exhausted = slot == 0;
    if (slot != 0) {
        ring_push(self, slot);
    }
}

static int source_restart(struct memtable_source *self, uint32_t slot) {
    source_restart_ring(self, slot);
    return source_advance(self);
}

static void source_ready_walker(struct memtable_source *self) {
    if (!self->walker_ready) {
        art_walker_init(&self->walker, self->mem, self->table, self->prefix, self->prefix_bytes);
        self->walker_ready = true;
    }
}

/* From one end of what the prefix confines the walk to. */
static int source_begin(struct memtable_source *self, bool backward) {
    source_ready_walker(self);
    uint32_t slot;
    if (art_walker_begin(&self->walker, backward, &slot) < 0) {
        return source_fail(self);
    }
    return source_restart(self, slot);
}

/* To the first key >= `key`, backward: to the last key < `key`. */
static int source_go(struct memtable_source *self, const uint8_t *key, size_t key_bytes, bool backward) {
    if (!key_has_prefix(key, key_bytes, self->prefix, self->prefix_bytes)) {
        /* It lies before or after everything here: all of it is wanted, or nothing. */
        bool key_is_before = key_compare(key, key_bytes, self->prefix, self->prefix_bytes) < 0;
        if (key_is_before == backward) {
            self->positioned = false;
            return PLEAT_END;
        }
        return source_begin(self, backward);
    }
    source_ready_walker(self);
    uint32_t slot;
    if (art_walker_seek(&self->walker, key_bytes > 0 ? key : empty_key, key_bytes, backward, &slot) < 0) {
        return source_fail(self);
    }
    return source_restart(self, slot);
}

/* Fills the ring from the beginning of what the prefix confines the walk to; the records' bytes arrive while other
 * sources are asked. A failure shows again in the call that follows. */
static void memtable_source_prepare(struct source *source, const uint8_t *key, size_t key_bytes) {
    struct memtable_source *self = source_self(source);
    (void)key_bytes;
    if (key != NULL || self->lower_matters) {
        return; /* every level of the tree is a load that depends on the one before */
    }
    source_ready_walker(self);
    self->prepared = false;
    self->positioned = false;
    uint32_t slot;
    if (art_walker_begin(&self->walker, false, &slot) < 0) {
        return;
    }
    source_restart_ring(self, slot);
    self->prepared = self->exhausted || ring_fill(self) == 0;
}

static int memtable_source_first(struct source *source) {
    struct memtable_source *self = source_self(source);
    if (self->prepared) {
        self->prepared = false;
        return source_advance(self);
    }
    if (!self->lower_matters) {
        return source_begin(self, false);
    }
    return source_go(self, self->bounds.lower, self->bounds.lower_bytes, false);
}

static int memtable_source_last(struct source *source) {
    struct memtable_source *self = source_self(source);
    if (!self->upper_matters) {
        return source_begin(self, true);
    }
    return source_go(self, self->bounds.upper, self->bounds.upper_bytes, true);
}

static int memtable_source_seek(struct source *source, const uint8_t *key, size_t key_bytes) {
    struct memtable_source *self = source_self(source);
    if (self->lower_matters && key_compare(key, key_bytes, self->bounds.lower, self->bounds.lower_bytes) < 0) {
        return memtable_source_first(source);
    }
    return source_go(self, key, key_bytes, false);
}

static int memtable_source_seek_before(struct source *source, const uint8_t *key, size_t key_bytes) {
    struct memtable_source *self = source_self(source);
    if (self->upper_matters && key_compare(key, key_bytes, self->bounds.upper, self->bounds.upper_bytes) > 0) {
        return memtable_source_last(source);
    }
    return source_go(self, key, key_bytes, true);
}

static int memtable_source_next(struct source *source) {
    struct memtable_source *self = source_self(source);
    ASSERT(self->positioned); /* S3 */
    if (LIKELY(!self->walker.backward)) {
        return source_advance(self);
    }
    /* I3. The entry's own key is found first, because it is in the tree; the walk goes on behind it. */
    uint32_t slot;
    if (art_walker_seek(&self->walker, source->entry.key, source->entry.key_bytes, false, &slot) < 0) {
        return source_fail(self);
    }
    ASSERT(slot != 0);
    if (art_walker_step(&self->walker, &slot) < 0) {
        return source_fail(self);
    }
    return source_restart(self, slot);
}

static int memtable_source_prev(struct source *source) {
    struct memtable_source *self = source_self(source);
    ASSERT(self->positioned); /* S3 */
    if (LIKELY(self->walker.backward)) {
        return source_advance(self);
    }
    uint32_t slot;
    if (art_walker_seek(&self->walker, source->entry.key, source->entry.key_bytes, true, &slot) < 0) {
        return source_fail(self);
    }
    return source_restart(self, slot);
}

static void memtable_source_free(struct source *source) {
    struct memtable_source *self = source_self(source);
    if (self->walker_ready) {
        art_walker_fini(&self->walker);
    }
    mem_free(self->mem, self);
}

static const struct source_ops memtable_source_ops = {
    .first = memtable_source_first,
    .last = memtable_source_last,
    .seek = memtable_source_seek,
    .seek_before = memtable_source_seek_before,
    .next = memtable_source_next,
    .prev = memtable_source_prev,
    .prepare = memtable_source_prepare,
    .free = memtable_source_free,
};

/* What all keys inside the bounds have in common: the prefix of the read, else that of its two ends. */
static void source_confine(struct memtable_source *self) {
    const struct source_bounds *bounds = &self->bounds;
    self->prefix = bounds->prefix != NULL ? bounds->prefix : empty_key;
    self->prefix_bytes = bounds->prefix != NULL ? bounds->prefix_bytes : 0;
    if (bounds->prefix == NULL && bounds->lower != NULL && bounds->upper != NULL) {
        self->prefix = bounds->lower;
        self->prefix_bytes = key_common(bounds->lower, bounds->lower_bytes, bounds->upper, bounds->upper_bytes);
    }
    self->lower_matters =
        bounds->lower != NULL &&
        key_compare(bounds->lower, bounds->lower_bytes, self->prefix, self->prefix_bytes) > 0;
    /* An upper bound that lies behind the prefix and all that begins with it is implied by it. */
    self->upper_matters =
        bounds->upper != NULL &&
        (key_has_prefix(bounds->upper, bounds->upper_bytes, self->prefix, self->prefix_bytes) ||
         key_compare(bounds->upper, bounds->upper_bytes, self->prefix, self->prefix_bytes) < 0);
}

int memtable_source_new(const struct mem *mem, const struct memtable *table, const struct source_bounds *bounds,
                        uint64_t sequence, struct source **ret_source, struct pleat_error *err) {
    struct memtable_source *self = mem_alloc(mem, sizeof *self);
    if (self == NULL) {
        return error_no_memory(err, "an iterator over a memtable", sizeof *self);
    }
    /* The walker and the ring are left as they are: they are written before they are read. */
    self->source.ops = &memtable_source_ops;
    self->source.entry = (struct entry){0};
    self->source.error.message[0] = '\0';
    error_clear(&self->source.error);
    self->mem = mem;
    self->table = memtable_mutable(table);
    self->sequence = sequence;
    self->bounds = bounds != NULL ? *bounds : (struct source_bounds){0};
    self->positioned = false;
    self->walker_ready = false;
    self->prepared = false;
    source_confine(self);
    *ret_source = &self->source;
    return 0;
}

bool memtable_source_approach(struct source *source) {
    struct memtable_source *self = source_self(source);
    ASSERT(source->ops == &memtable_source_ops);
    if (!self->walker_ready) {
        source_ready_walker(self);
        return true;
    }
    return art_walker_approach(&self->walker);
}
