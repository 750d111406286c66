/*
 * source.h - an ordered run of entries: what a memtable, a table and a level look like to a merge.
 *
 * A source is positioned on one entry (which `entry` then describes) or on none. Keys are strictly ascending: a source
 * shows at most one entry a key, the newest that its reader may see (tombstones included). Bounds are given when the
 * source is made and never crossed: lower inclusive, upper exclusive, both ends optional.
 *
 *   S1  When a call returned 0, `entry` is the current entry; it is borrowed and stays valid until the next call on
 *       this source or its end. After PLEAT_END or an error the source is on no entry; seeking again is allowed.
 *   S2  A source belongs to one thread at a time.
 *   S3  next and prev are called only on an entry.
 *   S4  Every entry has a key inside the bounds, and keys follow each other strictly in memcmp order.
 *
 * Every call returns 0, PLEAT_END (no such entry inside the bounds) or a negative error whose text is in
 * `source->error`.
 */
#ifndef PLEAT_BASE_SOURCE_H
#define PLEAT_BASE_SOURCE_H

#include "base/entry.h"
#include "pleat/pleat.h"

#include <stdbool.h>

struct source;

struct source_ops {
    int (*first)(struct source *source);                                         /* first entry inside the bounds */
    int (*last)(struct source *source);                                          /* last entry inside the bounds */
    int (*seek)(struct source *source, const uint8_t *key, size_t key_bytes);    /* first entry with key >= this */
    int (*seek_before)(struct source *source, const uint8_t *key, size_t key_bytes); /* last entry with key < this */
    int (*next)(struct source *source);
    int (*prev)(struct source *source);
    /* Stage one of a seek, or of first when key is NULL; optional (may be NULL): find where it will stand and prefetch,
     * without waiting. Only a call that positions may follow. */
    void (*prepare)(struct source *source, const uint8_t *key, size_t key_bytes);
    void (*free)(struct source *source);
};

struct source {
    const struct source_ops *ops;
    struct entry entry;
    struct pleat_error error; /* text of the last negative return */
};

/* Bounds of a read; borrowed bytes that must outlive the source. NULL means unbounded on that side. */
struct source_bounds {
    const uint8_t *lower; /* inclusive */
    const uint8_t *upper; /* exclusive */
    size_t lower_bytes;
    size_t upper_bytes;
    const uint8_t *prefix; /* when not NULL every entry wanted has this prefix; lower and upper already say so too */
    size_t prefix_bytes;
    bool keys_only;        /* values may be left out */
    bool fill_cache;       /* false: a compaction or a scan that asked for it; what it loads stays out of the cache */
};

static inline void source_free(struct source *source) {
    if (source != NULL) {
        source->ops->free(source);
    }
}

#endif
