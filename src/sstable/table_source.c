/*
 * table_source.c - an ordered walk over a table inside bounds, one pinned block at a time.
 *
 * Bounds are settled once, when the source is made: the first and the last block that can hold a key inside them, by
 * the index's word alone. Within a block they become two entry numbers, so that a step compares an integer, never a
 * key. A bounded scan therefore ends at the last block without loading the one behind it.
 *
 *      first_block                    last_block
 *     [..lower######]  [##########]  [#####upper..]
 *          ^begin                          ^end          begin/end of the pinned block; elsewhere 0 and its count
 *
 * A key is materialised behind the block's prefix, which is copied once a block; values point into the frame. Moving
 * forward reads from where the last entry ended, and asks for the lines 1 KiB ahead (a quarter less time in
 * the prototype).
 *
 * A read of a few blocks loads each by itself, into the cache. One that goes on is a scan: it reads the file in windows
 * (table_window.h), tells the system what comes next, forward or backward, and loads into memory of its own once it is
 * so long that the cache would no longer have its first blocks when it ends.
 *
 *   Q1  `frame` is pinned by the source whenever it is not NULL, and is the frame of `block`.
 *   Q2  On an entry: begin <= entry_index < end, and `next_at` is where entry_index + 1 would begin.
 *   Q3  An epoch is held only while a block is looked up, and loaded if need be: never between two calls.
 */
#include "sstable/table_internal.h"
#include "sstable/table_window.h"

#include "base/error.h"
#include "sstable/block_inline.h"

#include <string.h>

#define TABLE_AHEAD_BYTES 1024                      /* of the entry that is read, inside a block */
#define TABLE_SHORT_BLOCKS 8                        /* a read of more blocks in a row is a scan */
#define TABLE_SINGLE_BLOCKS 2                       /* where nothing is to be cached: likewise */
#define TABLE_READ_AHEAD_BYTES ((uint64_t)2 << 20)  /* of the block that is read, in the file */

struct table_source {
    struct source source;
    const uint8_t *next_at; /* Q2 */
    uint8_t *key_buffer;
    size_t prefix_bytes;    /* of the pinned block; key_buffer begins with it */
    uint32_t entry_index;
    uint32_t begin;
    uint32_t end;
    uint32_t block;
    uint32_t first_block;
    uint32_t last_block;    /* below first_block: nothing lies inside the bounds */
    bool on_entry;
    bool bounds_empty;
    uint32_t page;          /* of the index, that `block` is in: a hint */
    uint32_t blocks_read;   /* in a row */
    uint64_t bytes_read;    /* likewise, of images */
    const uint8_t *image;   /* of `block`: the pinned frame's, or `own`; NULL: none */
    struct cache_frame *frame;
    struct table *table;
    uint8_t *own;           /* room for any block of the table; NULL until a block is read past the cache */
    uint8_t *piece;         /* NULL until a block is copied that no window holds; then room for any stored block */
    uint8_t *last_key;      /* NULL until table_source_block is first used; then room for a key */
    const uint8_t *stored;  /* header and stored bytes of `block`, in the window or in `piece`; NULL: neither */
    struct table_window window;
    struct table_handle handle; /* of `block` */
    uint64_t asked;         /* how far the file was asked for ahead of the scan, in its direction */
    struct source_bounds bounds;
};

static const struct source_ops table_source_ops;

static inline struct table_source *table_source_of(struct source *source) {
    return (struct table_source *)source;
}

/* ---- blocks ----------------------------------------------------------------------------------------------------- */

static void table_source_release(struct table_source *self) {
    if (self->frame != NULL) {
        cache_unpin(self->table->store->cache, self->frame);
        self->frame = NULL;
    }
    self->image = NULL;
    self->on_entry = false;
    self->stored = NULL;
}

/* A long scan tells the system what it is about to read, some MiB at a time. */
static void table_source_read_ahead(struct table_source *self) {
    uint64_t at = self->handle.offset, from = self->asked > at ? self->asked : at, to = at + TABLE_READ_AHEAD_BYTES;
    if (self->window.is_backward) {
        from = at > TABLE_READ_AHEAD_BYTES ? at - TABLE_READ_AHEAD_BYTES : 0;
        to = self->asked < at ? self->asked : at;
        if (from < to && at - to <= TABLE_READ_AHEAD_BYTES / 2) {
            table_will_read(self->table, from, to - from);
            self->asked = from;
        }
        return;
    }
    to = to < self->window.end ? to : self->window.end;
    if (from < to && from - at <= TABLE_READ_AHEAD_BYTES / 2) {
        table_will_read(self->table, from, to - from);
        self->asked = to;
    }
}

/* The next read is not behind the last one, or goes the other way: nothing was asked for. */
static void table_source_turn(struct table_source *self, bool is_backward) {
    self->window.is_backward = is_backward;
    self->asked = is_backward ? UINT64_MAX : 0;
}

/* Inside an epoch. The slot's neighbour is a guess at what comes next: its frame's first lines are fetched. */
static inline void table_source_prefetch(const struct table_source *self, uint32_t block) {
    struct cache_frame *frame = cache_slot_load(&self->table->index.slots[block]);
    if (frame != NULL) {
        const uint8_t *image = cache_frame_data(frame);
        __builtin_prefetch(frame);
        __builtin_prefetch(image);
        __builtin_prefetch(image + 64);
        __builtin_prefetch(image + 128);
        __builtin_prefetch(image + 192);
    }
}

/* A block that is not kept goes to the source's own memory: what a compaction reads is dead when it is done, and a
 * buffer that is used again and again stays in the processor's cache. */
static int table_source_load_own(struct table_source *self, struct table_load *load) {
    size_t room = (size_t)self->table->index.image_bytes_max + BLOCK_READ_BEYOND;
    if (self->own == NULL && (self->own = mem_alloc(self->table->store->mem, room)) == NULL) {
        return error_no_memory(&self->source.error, "a block read past the cache", room);
    }
    size_t bytes = self->handle.image_bytes;
    memset(self->own + bytes, 0, BLOCK_READ_BEYOND);
    int rc = table_load_block(load, self->own, bytes, &self->source.error);
    if (rc == 0) {
        self->image = self->own;
    }
    return rc;
}

/* Finds or loads a block: in the cache and pinned, or in `own`. Inside an epoch, whose end a long scan does not hold up
 * for longer than a load. A short read is worth keeping. A long one must not displace what is, and is kept only where
 * it would be found again. */
static int table_source_find(struct table_source *self, uint32_t block, struct table_load *load) {
    struct source *source = &self->source;
    struct table *table = self->table;
    struct table_place place;
    bool may_fill = self->bounds.fill_cache;
    bool is_scan = self->blocks_read >= (may_fill ? TABLE_SHORT_BLOCKS : TABLE_SINGLE_BLOCKS);
    enum cache_use use = is_scan || !may_fill ? CACHE_SCAN : CACHE_GET;
    int rc = table_find_block(table, block, self->page, use, &place, &source->error);
    if (rc < 0) {
        return rc;
    }
    self->page = place.page;
    self->handle = table_place_handle(table, &place);
    self->blocks_read++;
    self->bytes_read += self->handle.image_bytes;
    load->place = &place;
    struct cache_frame *frame = cache_slot_load(&table->index.slots[block]);
    if (frame == NULL && is_scan) {
        load->window = &self->window;
        table_source_read_ahead(self);
    }
    if (may_fill && (!is_scan || frame != NULL || cache_keeps_scan(table->store->cache, self->bytes_read))) {
        rc = table_fetch(table, load, use, &frame, &source->error);
    }
    if (rc == 0 && frame != NULL) {
        cache_pin(frame);
        self->frame = frame;
        self->image = cache_frame_data(frame);
        return 0;
    }
    return rc < 0 ? rc : table_source_load_own(self, load);
}

static int table_source_pin(struct table_source *self, uint32_t block) {
    struct source *source = &self->source;
    struct table_load load = {.table = self->table, .piece = self->piece};
    struct epoch_slot *slot;
    error_clear(&source->error);
    int rc = epoch_enter(cache_epoch(self->table->store->cache), &slot);
    if (rc < 0) {
        return error_set(&source->error, rc, 0, "%s: no memory to register a reader", self->table->name);
    }
    rc = table_source_find(self, block, &load);
    epoch_leave(slot);
    self->stored = rc == 0 ? load.stored : NULL;
    return rc;
}

/* Pins `block` and finds which of its entries lie inside the bounds. */
static int table_source_enter(struct table_source *self, uint32_t block) {
    if (self->image != NULL && self->block == block) {
        return 0;
    }
    table_source_release(self);
    int rc = table_source_pin(self, block);
    if (UNLIKELY(rc < 0)) {
        return rc;
    }
    const uint8_t *image = self->image;
    const struct source_bounds *bounds = &self->bounds;
    self->block = block;
    self->begin =
        block == self->first_block && bounds->lower != NULL ? block_seek(image, bounds->lower, bounds->lower_bytes) : 0;
    self->end = block == self->last_block && bounds->upper != NULL
                    ? block_seek_from(image, self->begin, bounds->upper, bounds->upper_bytes)
                    : block_count(image);
    self->prefix_bytes = block_prefix_copy(image, self->key_buffer);
    return 0;
}

/* ---- entries ---------------------------------------------------------------------------------------------------- */

static inline int table_source_read(struct table_source *self, const uint8_t *p) {
    __builtin_prefetch((const void *)((uintptr_t)p + TABLE_AHEAD_BYTES));
    __builtin_prefetch((const void *)((uintptr_t)p + TABLE_AHEAD_BYTES + 64));
    self->next_at = block_entry_read(p, self->prefix_bytes, self->key_buffer, &self->source.entry);
    return 0;
}

/* Stands on entry i of the pinned block, which lies inside the bounds. */
static int table_source_stand(struct table_source *self, uint32_t i) {
    self->entry_index = i;
    self->on_entry = true;
    return table_source_read(self, block_entry_at(self->image, i));
}

static int table_source_end(struct table_source *self) {
    self->on_entry = false;
    return PLEAT_END;
}

/* The first entry inside the bounds in `block` or behind it. */
static int table_source_forward(struct table_source *self, uint32_t block) {
    if (self->window.is_backward) {
        table_source_turn(self, false);
    }
    for (; block <= self->last_block; block++) {
        int rc = table_source_enter(self, block);
        if (rc < 0) {
            return rc;
        }
        if (self->begin < self->end) {
            return table_source_stand(self, self->begin);
        }
    }
    return table_source_end(self);
}

/* The last entry inside the bounds in `block` or before it. */
static int table_source_backward(struct table_source *self, uint32_t block) {
    if (!self->window.is_backward) {
        table_source_turn(self, true);
    }
    for (;;) {
        int rc = table_source_enter(self, block);
        if (rc < 0) {
            return rc;
        }
        if (self->begin < self->end) {
            return table_source_stand(self, self->end - 1);
        }
        if (block == self->first_block) {
            return table_source_end(self);
        }
        block--;
    }
}

static int table_source_first(struct source *source) {
    struct table_source *self = table_source_of(source);
    return self->bounds_empty ? table_source_end(self) : table_source_forward(self, self->first_block);
}

static int table_source_last(struct source *source) {
    struct table_source *self = table_source_of(source);
    return self->bounds_empty ? table_source_end(self) : table_source_backward(self, self->last_block);
}

/* The number of the block that table_find finds. */
static int table_source_locate(struct table_source *self, const uint8_t *key, size_t key_bytes, bool before,
                               uint32_t *ret_block) {
    struct epoch_slot *slot;
    error_clear(&self->source.error);
    int rc = epoch_enter(cache_epoch(self->table->store->cache), &slot);
    if (rc < 0) {
        return error_set(&self->source.error, rc, 0, "%s: no memory to register a reader", self->table->name);
    }
    struct table_place place;
    rc = table_find(self->table, key, key_bytes, before, CACHE_GET, &place, &self->source.error);
    epoch_leave(slot);
    if (rc == 0) {
        *ret_block = place.block;
        if (place.block - self->block > 1) { /* neither here nor next: what follows is another read */
            self->blocks_read = 0;
            self->bytes_read = 0;
            table_source_turn(self, before);
        }
    }
    return rc;
}

static int table_source_seek(struct source *source, const uint8_t *key, size_t key_bytes) {
    struct table_source *self = table_source_of(source);
    uint32_t block = 0;
    int rc = table_source_locate(self, key, key_bytes, false, &block);
    if (rc < 0) {
        self->on_entry = false;
        return rc;
    }
    if (self->bounds_empty || block > self->last_block) {
        return table_source_end(self);
    }
    if (block < self->first_block) {
        return table_source_forward(self, self->first_block);
    }
    rc = table_source_enter(self, block);
    if (rc < 0) {
        return rc;
    }
    uint32_t i = block_seek(self->image, key, key_bytes);
    i = i < self->begin ? self->begin : i;
    if (LIKELY(i < self->end)) {
        return table_source_stand(self, i);
    }
    return block < self->last_block ? table_source_forward(self, block + 1) : table_source_end(self);
}

static int table_source_seek_before(struct source *source, const uint8_t *key, size_t key_bytes) {
    struct table_source *self = table_source_of(source);
    uint32_t block = 0;
    int rc = table_source_locate(self, key, key_bytes, true, &block);
    if (rc < 0) {
        self->on_entry = false;
        return rc;
    }
    if (self->bounds_empty || block < self->first_block) {
        return table_source_end(self);
    }
    if (block > self->last_block) {
        return table_source_backward(self, self->last_block);
    }
    rc = table_source_enter(self, block);
    if (rc < 0) {
        return rc;
    }
    uint32_t i = block_seek(self->image, key, key_bytes);
    i = i > self->end ? self->end : i;
    if (LIKELY(i > self->begin)) {
        return table_source_stand(self, i - 1);
    }
    return block > self->first_block ? table_source_backward(self, block - 1) : table_source_end(self);
}

static int table_source_next_block(struct table_source *self) {
    return self->block < self->last_block ? table_source_forward(self, self->block + 1) : table_source_end(self);
}

static int table_source_next(struct source *source) {
    struct table_source *self = table_source_of(source);
    DEBUG_ASSERT(self->on_entry); /* S3 */
    if (LIKELY(self->entry_index + 1 < self->end)) {
        self->entry_index++;
        return table_source_read(self, self->next_at);
    }
    return table_source_next_block(self);
}

static int table_source_prev(struct source *source) {
    struct table_source *self = table_source_of(source);
    DEBUG_ASSERT(self->on_entry); /* S3 */
    if (LIKELY(self->entry_index > self->begin)) {
        return table_source_stand(self, self->entry_index - 1);
    }
    return self->block > self->first_block ? table_source_backward(self, self->block - 1) : table_source_end(self);
}

static void table_source_prepare(struct source *source, const uint8_t *key, size_t key_bytes) {
    struct table_source *self = table_source_of(source);
    struct epoch_slot *slot;
    if (self->bounds_empty || epoch_enter(cache_epoch(self->table->store->cache), &slot) < 0) {
        return; /* advice only */
    }
    uint32_t block = self->first_block;
    if (key != NULL) {
        struct table_place place;
        table_locate_cached(self->table, key, key_bytes, &place);
        block = place.node != NULL && place.block > block ? place.block : block;
    }
    if (block <= self->last_block) {
        table_source_prefetch(self, block);
    }
    epoch_leave(slot);
}

static void table_source_free(struct source *source) {
    struct table_source *self = table_source_of(source);
    const struct mem *mem = self->table->store->mem;
    table_source_release(self);
    table_window_fini(self->table, &self->window);
    mem_free(mem, self->own);
    mem_free(mem, self->piece);
    mem_free(mem, self->last_key);
    mem_free(mem, self);
}

static const struct source_ops table_source_ops = {
    .first = table_source_first,
    .last = table_source_last,
    .seek = table_source_seek,
    .seek_before = table_source_seek_before,
    .next = table_source_next,
    .prev = table_source_prev,
    .prepare = table_source_prepare,
    .free = table_source_free,
};

/* Inside an epoch: which blocks the bounds allow, and where they end in the file. */
static int table_source_bound(struct table_source *self, struct pleat_error *err) {
    struct table *table = self->table;
    const struct source_bounds *bounds = &self->bounds;
    const struct table_index *index = &table->index;
    enum cache_use use = bounds->fill_cache ? CACHE_GET : CACHE_SCAN;
    struct table_place first = {.node = NULL}, place;
    int rc = 0;
    if (bounds->lower != NULL) {
        rc = table_find(table, bounds->lower, bounds->lower_bytes, false, use, &first, err);
        if (rc < 0) {
            return rc;
        }
        self->first_block = first.block;
        self->page = first.page;
    }
    __builtin_prefetch(&index->slots[self->first_block]);
    self->last_block = index->blocks - 1;
    self->window.end = index->pages_at;
    if (bounds->upper != NULL) {
        bool is_behind = first.node != NULL && key_compare(bounds->lower, bounds->lower_bytes, bounds->upper,
                                                           bounds->upper_bytes) <= 0;
        rc = is_behind ? table_find_behind(table, &first, bounds->upper, bounds->upper_bytes, true, use, &place, err)
                       : table_find(table, bounds->upper, bounds->upper_bytes, true, use, &place, err);
        if (rc < 0) {
            return rc;
        }
        self->last_block = place.block;
        if (!bounds->fill_cache || self->last_block - self->first_block >= TABLE_SHORT_BLOCKS) { /* may be a scan */
            struct table_handle last = table_place_handle(table, &place);
            self->window.end = last.offset + TABLE_HEADER_BYTES + last.stored_bytes;
        }
    }
    self->bounds_empty = self->first_block > self->last_block;
    return 0;
}

int table_source_new(struct table *table, const struct source_bounds *bounds, struct source **ret_source,
                     struct pleat_error *err) {
    size_t bytes = sizeof(struct table_source) + table_key_room(table);
    struct table_source *self = mem_alloc(table->store->mem, bytes);
    if (self == NULL) {
        return error_no_memory(err, "a source over a table", bytes);
    }
    memset(self, 0, sizeof *self);
    self->source.ops = &table_source_ops;
    self->table = table;
    self->bounds = *bounds;
    self->key_buffer = (uint8_t *)(self + 1);
    struct epoch_slot *slot;
    int rc = epoch_enter(cache_epoch(table->store->cache), &slot);
    if (rc < 0) {
        rc = error_set(err, rc, 0, "%s: no memory to register a reader", table->name);
    } else {
        rc = table_source_bound(self, err);
        epoch_leave(slot);
    }
    if (rc < 0) {
        mem_free(table->store->mem, self);
        return rc;
    }
    *ret_source = &self->source;
    return 0;
}

bool table_source_is(const struct source *source) {
    return source->ops == &table_source_ops;
}

/* ---- copying blocks as stored ----------------------------------------------------------------------------------- */

/* Sees to `stored` and to room for the last key. */
static int table_source_block_stored(struct table_source *self) {
    const struct table *table = self->table;
    const struct mem *mem = table->store->mem;
    struct pleat_error *err = &self->source.error;
    error_clear(err);
    size_t key_bytes = table_key_room(table);
    if (self->last_key == NULL && (self->last_key = mem_alloc(mem, key_bytes)) == NULL) {
        return error_no_memory(err, "the last key of a block", key_bytes);
    }
    if (self->stored != NULL) {
        return 0;
    }
    /* The frame came from the cache, which keeps no stored bytes; or it is one of the first blocks, or one longer than
     * a window, loads of which leave them in `piece` from here on. */
    bool is_scan = self->blocks_read > TABLE_SINGLE_BLOCKS;
    const uint8_t *piece = is_scan ? table_window_piece(table, &self->window, &self->handle) : NULL;
    if (piece != NULL) {
        int rc = table_piece_verify(piece, table->seed, &self->handle, table->name, err);
        self->stored = rc == 0 ? piece : NULL;
        return rc;
    }
    size_t piece_bytes = TABLE_HEADER_BYTES + (size_t)table->index.stored_bytes_max;
    if (self->piece == NULL && (self->piece = mem_alloc(mem, piece_bytes)) == NULL) {
        return error_no_memory(err, "the stored bytes of a block", piece_bytes);
    }
    int rc = table_read_piece(table, &self->handle, self->piece, err);
    if (rc == 0) {
        self->stored = self->piece;
    }
    return rc;
}

/* A table without tombstones and deadlines needs no walk: its counts were verified when it was written and opened. */
static bool table_source_block_droppable(const struct table_source *self) {
    const struct table_meta *meta = &self->table->meta;
    if (meta->tombstones == 0 && meta->deadline_min_ms == 0) {
        return false;
    }
    const uint8_t *p = block_entry_at(self->image, 0);
    for (uint32_t i = 0; i < self->end; i++) {
        struct entry entry;
        uint32_t suffix_bytes;
        p = block_entry_parse(p, &entry, &suffix_bytes);
        if (entry.kind != ENTRY_PUT || entry.deadline_ms != 0) {
            return true;
        }
        p += suffix_bytes + entry.value_bytes;
    }
    return false;
}

int table_source_block(struct source *source, struct table_block *ret_block) {
    struct table_source *self = table_source_of(source);
    DEBUG_ASSERT(table_source_is(source) && self->on_entry);
    const uint8_t *image = self->image;
    uint32_t count = block_count(image);
    if (self->entry_index != 0 || self->begin != 0 || self->end != count) {
        return PLEAT_ABSENT;
    }
    int rc = table_source_block_stored(self);
    if (rc < 0) {
        return rc;
    }
    struct entry last;
    block_entry(image, count - 1, self->last_key, false, &last);
    *ret_block = (struct table_block){
        .image = image,
        .image_bytes = self->handle.image_bytes,
        .stored = self->stored + TABLE_HEADER_BYTES,
        .stored_bytes = self->handle.stored_bytes,
        .codec = self->stored[TABLE_HEADER_CODEC],
        .entries = count,
        .first_key = {source->entry.key, source->entry.key_bytes},
        .last_key = {last.key, last.key_bytes},
        .has_tombstones = table_source_block_droppable(self),
    };
    return 0;
}

int table_source_skip_block(struct source *source) {
    struct table_source *self = table_source_of(source);
    DEBUG_ASSERT(table_source_is(source) && self->on_entry);
    return table_source_next_block(self);
}
