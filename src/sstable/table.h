/*
 * table.h - a sorted table file: builder, lazy reader, point lookup, iteration, verification.
 *
 *   [block]* [index page]* [filter page]* [index] [filter] [properties] [footer]
 *
 * Every block is stored as a header {checksum, stored bytes, image bytes, codec} and the stored bytes; the checksum
 * (xxh3-64) is keyed by store, file number and offset. Pages and sections are of the same make. The sections index and
 * filter are directories of their pages. The footer is fixed in size, at the end, with the file's identity and the
 * sections' places.
 *
 *   T1  Keys in a table are strictly ascending, one entry a key.
 *   T2  Separator i of the index is > every key of block i and <= every key of block i+1, and as short as that allows
 *       (why exclusive: table_index.h).
 *   T3  The meta kept in the manifest equals the footer and properties in the file: otherwise the file is damaged.
 *   T4  A reader holds two directories and a slot for each block and page in memory (charged to the cache) from first
 *       touch, 0.2 bytes a key with blocks of 40; blocks and pages come and go through the cache. Everything read from
 *       disk is verified before it is used.
 *   T6  A filter page that is not in memory is an answer "may contain": it is read when the cache has room for it, and
 *       else for so few keys that it is FILTER_CHANCE_BYTES a key, so that a cache too small for all of them is not
 *       turned over for them. One that spares a read stays, one that lets keys pass goes: with keys that are there, the
 *       pages of the deepest level give way first (src/sstable/table_page.c).
 *   T5  The smallest and largest key of the meta are those of the first and last entry.
 *
 * Threads: a builder and a source belong to one thread at a time; a table is free to use from any thread. Lookups run
 * inside an epoch of the cache's domain.
 */
#ifndef PLEAT_SSTABLE_TABLE_H
#define PLEAT_SSTABLE_TABLE_H

#include "base/mem.h"
#include "base/source.h"
#include "cache/cache.h"
#include "platform/vfs.h"
#include "pleat/pleat.h"
#include "sstable/filter.h"

#include <stdbool.h>
#include <stdint.h>

#define TABLE_STORE_ID_BYTES 16
#define TABLE_NAME_BYTES 32

/* "000123.tbl" */
void table_name(uint64_t number, char ret_name[TABLE_NAME_BYTES]);
bool table_name_parse(const char *name, uint64_t *ret_number);

/* How the keys of a space are grouped: at most one of the two. */
struct table_grouping {
    uint32_t bytes;      /* the first so many bytes; or */
    uint32_t delimiters; /* up to and including this many delimiters */
    uint8_t delimiter;
};

/* Length of the group prefix of `key`, or 0 when it has none (too short, too few delimiters, no grouping). When a
 * prefix P has a group of length n, every key that begins with P has the group P[0..n). */
size_t table_group_bytes(const struct table_grouping *grouping, const uint8_t *key, size_t key_bytes);
/* The hash under which a group is in the filters: differs from hash_key of the same bytes. */
uint64_t table_group_hash(const uint8_t *group, size_t group_bytes);

/* What the manifest keeps of a table, enough to place it and to open it lazily. Key bytes are owned by whoever holds
 * the meta (table_meta_fini). */
struct table_meta {
    uint64_t number;
    uint64_t file_bytes;
    uint64_t entries;
    uint64_t tombstones;
    uint64_t key_value_bytes;   /* sum of the keys and values in it */
    uint64_t sequence_min;      /* of the commits that it was flushed from */
    uint64_t sequence_max;
    uint64_t deadline_min_ms;   /* 0: no entry has one */
    uint64_t footer_checksum;
    uint8_t *smallest;
    uint8_t *largest;
    uint32_t smallest_bytes;
    uint32_t largest_bytes;
    uint32_t blocks;
    uint32_t key_bytes_max;     /* its longest key */
    uint8_t codec;              /* enum pleat_codec of its blocks */
    uint8_t filter;             /* enum filter_kind */
};

int table_meta_copy(const struct mem *mem, const struct table_meta *from, struct table_meta *ret_to);
void table_meta_fini(const struct mem *mem, struct table_meta *meta);

struct table_files;

/* What tables of one store have in common; borrowed by builders and readers, must outlive them. */
struct table_store {
    const struct vfs *vfs;
    struct vfs_dir *dir;
    const struct mem *mem;
    struct cache *cache;
    struct table_files *files; /* that are open: table_files.h */
    uint8_t store_id[TABLE_STORE_ID_BYTES];
    uint32_t file_mode;
    /* Told of every sync of a file in the making that failed; may be NULL. The file is given up in any case. */
    void (*on_sync_failed)(void *context, const struct pleat_error *error);
    void *sync_context;
};

/* file_sync of a file in the making. */
int table_store_sync(const struct table_store *store, struct vfs_file *file, struct pleat_error *err);

/* ---- building --------------------------------------------------------------------------------------------------- */

struct table; /* an open one: see below */
struct table_builder;

struct table_builder_options {
    uint64_t number;
    uint32_t block_bytes;            /* target of a block image */
    uint8_t codec;                   /* enum pleat_codec */
    uint8_t filter;                  /* enum filter_kind */
    struct table_grouping grouping;
    uint64_t sequence_min, sequence_max;
    /* Asked before each block is stored: the score of what is cached where it goes, 0 for nothing. The image of a block
     * with a score is kept, a point below it, for table_builder_give. NULL: none is. */
    uint8_t (*heat)(void *context, struct pleat_slice first_key, size_t image_bytes);
    void *heat_context;
};

int table_builder_new(const struct table_store *store, const struct table_builder_options *options,
                      struct table_builder **ret_builder, struct pleat_error *err);
/* Also abandons an unfinished file: closes and unlinks it. NULL is allowed. */
void table_builder_free(struct table_builder *builder);
/* Entries in strictly ascending key order. Writes are buffered (256 KiB or more a system call). */
int table_builder_add(struct table_builder *builder, const struct entry *entry, struct pleat_error *err);
/* File bytes so far, an estimate that includes what is still collected. */
uint64_t table_builder_bytes(const struct table_builder *builder);
uint64_t table_builder_entries(const struct table_builder *builder);
/* Says that `like` holds exactly the keys that were added, no more and no fewer: finish copies its filter, where that
 * is of the same kind and groups and can be read, instead of building one. `like` outlives finish. Returns whether it
 * will be tried. */
bool table_builder_set_like(struct table_builder *builder, struct table *like);
/* Writes the rest and syncs the file (not the directory). *ret_meta: owned by the caller (table_meta_fini). The builder
 * only waits for table_builder_free. */
int table_builder_finish(struct table_builder *builder, struct table_meta *ret_meta, struct pleat_error *err);
/* Whether images are kept; and, after finish, into the slots of the table with them, which was opened from the file. */
bool table_builder_has_kept(const struct table_builder *builder);
void table_builder_give(struct table_builder *builder, struct table *table);

/* ---- reading ---------------------------------------------------------------------------------------------------- */

/* Opens the file and reads footer, properties and the two directories, all verified against the meta (T3). */
int table_open(const struct table_store *store, const struct table_meta *meta, struct table **ret_table,
               struct pleat_error *err);
/* No reader may be inside. NULL is allowed. */
void table_close(struct table *table);

/* Of the keys whose filter page is neither in memory nor has room there, so few load it that it is so many bytes a key.
 */
#define FILTER_CHANCE_BYTES 128u

/* Has the filter lines of a hash on the way, where their page is in memory. Computes addresses alone: no epoch. */
void table_prefetch(const struct table *table, uint64_t hash);
/* Asks the filter: 1 (the table may contain it), 0 (it does not), or an error. A table without filter may contain
 * everything. Inside an epoch, the first; the second enters one. */
int table_may_contain(struct table *table, uint64_t hash, struct pleat_error *err);
int table_ask(struct table *table, uint64_t hash, struct pleat_error *err);

/* Inside an epoch: the entry of exactly this key (a tombstone too): 0 with *ret_entry (value and version borrowed from
 * *ret_frame until epoch_leave, unless that is pinned), or PLEAT_ABSENT. Does not ask the filter. */
int table_get(struct table *table, const uint8_t *key, size_t key_bytes, uint64_t hash, enum cache_use use,
              struct entry *ret_entry, struct cache_frame **ret_frame, struct pleat_error *err);

/* A block, as the index knows it; valid until epoch_leave. */
struct table_place {
    const uint8_t *node; /* the page of the index that it is in; NULL: no place */
    uint32_t page;
    uint32_t child; /* of that page */
    uint32_t block; /* of the table */
};

/* table_get in two steps, for a caller with something else to wait for in between, both inside one epoch: where the key
 * would be, its cache slot on the way; then the lookup there. The first in a second form that finds nothing (a NULL
 * node) where that would load a page. */
int table_locate(struct table *table, const uint8_t *key, size_t key_bytes, struct table_place *ret_place,
                 struct pleat_error *err);
void table_locate_cached(const struct table *table, const uint8_t *key, size_t key_bytes,
                         struct table_place *ret_place);
/* Has the cached block's first lines on the way, if it is cached. Its slot should have arrived. */
void table_prefetch_block(const struct table *table, uint32_t block);
int table_get_at(struct table *table, const struct table_place *place, const uint8_t *key, size_t key_bytes,
                 uint64_t hash, enum cache_use use, struct entry *ret_entry, struct cache_frame **ret_frame,
                 struct pleat_error *err);

/* A source over the table inside `bounds` (borrowed). Pins one block at a time. A bounded scan ends without loading a
 * block that lies beyond the bound by the index's word. The table must outlive it. */
int table_source_new(struct table *table, const struct source_bounds *bounds, struct source **ret_source,
                     struct pleat_error *err);

/* ---- places in the cache, handed on (src/db/warm.c) -------------------------------------------------------------- */

/* Inside an epoch, all of these. The place of block `block`, PLEAT_ABSENT behind the last one, or an error. */
int table_block_place(struct table *table, uint32_t block, struct table_place *ret_place, struct pleat_error *err);
/* A key that no key of the block is below, and all keys of the block before are: into `ret_key`, room for
 * LIMIT_KEY_BYTES. */
size_t table_block_lower(const struct table *table, const struct table_place *place, uint8_t *ret_key);
/* The score of the block's frame in the cache; 0 when there is none. */
uint8_t table_block_score(const struct table *table, uint32_t block);
/* Loads the block as CACHE_CARRY, unless it is cached, and gives it the score. */
int table_block_carry(struct table *table, const struct table_place *place, uint8_t score, struct pleat_error *err);
/* Evicts the block's frame, if there is one. */
void table_block_drop(struct table *table, uint32_t block);
/* Loads one page of index or filter, unless it is cached; `page` counts through both. PLEAT_ABSENT behind the last one,
 * and when the cache has no room for more. */
int table_page_carry(struct table *table, uint64_t page, struct pleat_error *err);
/* Not inside an epoch. Whether any block has a score. */
bool table_is_used(const struct table *table);

/* ---- copying blocks as stored (compaction) ---------------------------------------------------------------------- */

/* The blocks of a table in order, as stored. */
struct table_block {
    const uint8_t *image;       /* decoded and verified, BLOCK_READ_BEYOND readable bytes behind */
    size_t image_bytes;
    const uint8_t *stored;      /* as in the file, behind the header */
    size_t stored_bytes;
    uint8_t codec;
    uint32_t entries;
    struct pleat_slice first_key;
    struct pleat_slice last_key;
    bool has_tombstones;        /* or anything else that a compaction might drop */
};

/* Adds a whole block as it is stored: its keys lie behind all that were added. Ends the block being collected. */
int table_builder_add_block(struct table_builder *builder, const struct table_block *block, struct pleat_error *err);
/* Of a source of table_source_new that stands on the first entry of a block that lies inside the bounds as a whole:
 * 0 with the block (borrowed until the next call on the source), or PLEAT_ABSENT when it stands elsewhere. */
int table_source_block(struct source *source, struct table_block *ret_block);
/* Moves behind the block that table_source_block showed: as `next` from its last entry. */
int table_source_skip_block(struct source *source);
/* Whether `source` is a table's. */
bool table_source_is(const struct source *source);

/* ---- checking --------------------------------------------------------------------------------------------------- */

struct table_check {
    uint64_t blocks;
    uint64_t entries;
    uint64_t bytes;
};
/* Reads every byte of the file: checksums, T1, T2, T5, counts, every key and group in the filter. Adds to *ret_check.
 */
int table_verify(const struct table_store *store, const struct table_meta *meta, const struct table_grouping *grouping,
                 struct table_check *ret_check, struct pleat_error *err);
/* For `dump`: opens a table by its number alone, taking the meta from the file. */
int table_meta_read(const struct table_store *store, uint64_t number, struct table_meta *ret_meta,
                    struct pleat_error *err);

/* A part of a table file, for `dump`, in file order. */
struct table_part {
    const char *what;        /* "block", "index page", "filter page", "index", "filter", "properties", "footer" */
    uint64_t offset;
    uint64_t stored_bytes;   /* header included */
    uint64_t image_bytes;
    uint32_t entries;        /* of a block */
    uint64_t checksum;
};
int table_dump(const struct table_store *store, uint64_t number,
               int (*callback)(void *context, const struct table_part *part, const uint8_t *image), void *context,
               struct pleat_error *err);

#endif
