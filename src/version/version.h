/*
 * version.h - which tables exist: spaces, levels, immutable versions, and the registry that moves from one to the next.
 *
 *   V1  A version is frozen after publication; it holds one reference on each of its tables.
 *   V2  In level 0 tables are ordered newest first (descending sequence_max) and may overlap. In levels 1..6 they are
 *       ordered by key, disjoint.
 *   V3  For any key, whatever a lower level (0 lowest) holds is newer than what a higher level holds.
 *   V4  A table file is unlinked only when an edit that removes it is durable and no version holds it.
 *   V5  A version is published only after its edit is durable in the manifest.
 *   V6  File numbers are never used twice, also not after a failed or crashed attempt.
 *
 *      registry ---- current ----> version -> tree (a space) -> level[0..6] -> table_ref -> table (opened lazily)
 *
 * Threads: versions and table_refs are frozen after publication (counts are atomic); the registry is free.
 */
#ifndef PLEAT_VERSION_VERSION_H
#define PLEAT_VERSION_VERSION_H

#include "base/edition.h"
#include "base/limits.h"
#include "base/source.h"
#include "pleat/pleat.h"
#include "sstable/table.h"
#include "wal/wal.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct registry;

/* A space as the manifest knows it. */
struct space_info {
    uint32_t id;           /* never used twice */
    uint32_t name_bytes;   /* 1..255 */
    uint32_t block_bytes;
    uint8_t codec;         /* enum pleat_codec */
    struct table_grouping grouping;
    uint8_t name[LIMIT_SPACE_NAME_BYTES];
};

struct table_ref {
    struct table_meta meta;            /* frozen */
    struct registry *registry;
    _Atomic(struct table *) table;     /* NULL until first touch */
    _Atomic uint32_t refs;
    _Atomic bool obsolete;             /* the file is dead with the last reference */
    _Atomic bool busy;                 /* an input of a running compaction; owned by the scheduler's client */
    struct table_ref *next_dead;       /* on the registry's list of files to remove */
};

struct level {
    struct table_ref **tables;
    uint64_t *heads;          /* levels 1..6: key_head of each largest key behind `common_bytes`; NULL: not sorted */
    size_t count;
    size_t common_bytes;      /* common prefix of all largest keys */
    uint64_t file_bytes;
    uint64_t entries;
    uint64_t tombstones;
};

/* The tables of one space. Versions between which it did not change share it; it holds one reference a table (V1). */
struct tree {
    _Atomic uint32_t refs;
    struct registry *registry;
    struct space_info space;
    struct level levels[LIMIT_LEVELS];
};

struct version {
    _Atomic uint32_t refs;
    uint64_t number;                  /* counts up */
    uint64_t last_sequence;           /* everything up to here is in tables */
    uint64_t log_floor;               /* log segments below this number are dead */
    struct registry *registry;
    struct tree *trees[LIMIT_SPACES]; /* by slot; NULL: free. A dropped space's slot may be used by a later space */
    uint32_t slots;                   /* slots in use are below this */
};

void version_ref(struct version *version);
/* Frees it with the last reference, closing tables that no version holds any more: the files of obsolete ones are dead
 * (V4). May run in a reclaim callback of an epoch; whoever reads a version without a reference of its own must be
 * protected by one. */
void version_unref(struct version *version);
/* The slot of a space id, or -1. */
int version_slot(const struct version *version, uint32_t space);
/* The slot of a name, or -1. */
int version_slot_by_name(const struct version *version, struct pleat_slice name);

/* A reference to a table that no version holds yet; the meta is copied. NULL without memory. */
struct table_ref *table_ref_new(struct registry *registry, const struct table_meta *meta);
void table_ref_ref(struct table_ref *ref);
/* The last one closes the table; when it is obsolete its file is dead and left to table_ref_remove_dead. NULL is
 * allowed. */
void table_ref_unref(struct table_ref *ref);
/* Removes the file of one table that nobody holds any more, which takes the system tens of milliseconds. False: there
 * is none, or another thread is at one. Whoever got true calls again: then none is left behind. No lock held. */
bool table_ref_remove_dead(struct registry *registry);
/* All of them: whether there was any. */
bool table_ref_remove_all_dead(struct registry *registry);
/* Whether there is one: a hint without a lock. */
bool table_ref_has_dead(const struct registry *registry);
/* The opened table, opening it on first touch. Safe inside an epoch. */
int table_ref_open(struct table_ref *ref, struct table **ret_table, struct pleat_error *err);

/* Levels 1..6: the index of the only table whose range can hold `key` (the first with largest >= key), or count. Does
 * not look at `smallest`. */
size_t level_find(const struct level *level, const uint8_t *key, size_t key_bytes);
/* Whether any table of the level holds keys in [lower, upper] (both inclusive). */
bool level_overlaps(const struct level *level, struct pleat_slice lower, struct pleat_slice upper);
/* A source over a sorted level (or any `count` disjoint tables in order): opens tables as it comes to them. When bounds
 * name a prefix that has a group, tables whose filter lacks the group are passed over. The tables are borrowed. */
int level_source_new(const struct mem *mem, struct table_ref *const *tables, size_t count,
                     const struct table_grouping *grouping, const struct source_bounds *bounds,
                     struct source **ret_source, struct pleat_error *err);
/* The table source that a level source stands in, or NULL (also when `source` is no level source): for block
 * passthrough. It is looked at, never moved: the level source would not learn of it. */
struct source *level_source_table(struct source *source);
/* Moves behind the block that table_source_block(level_source_table(source)) showed: as `next` from its last entry. */
int level_source_skip_block(struct source *source);

/* ---- edits ------------------------------------------------------------------------------------------------------ */

/* A resume cursor as it is stored: owned bytes. */
struct cursor_entry {
    uint8_t name[LIMIT_CURSOR_NAME_BYTES];
    uint8_t value[LIMIT_CURSOR_BYTES];
    uint8_t incarnation[LIMIT_INCARNATION_BYTES];
    uint16_t name_bytes;
    uint16_t value_bytes;
    uint16_t incarnation_bytes;
};

/* All cursors of one position, ordered by name bytes. */
struct cursor_set {
    const struct mem *mem;
    struct cursor_entry *entries;
    size_t count;
    size_t capacity;
};

void cursor_set_init(struct cursor_set *set, const struct mem *mem);
void cursor_set_fini(struct cursor_set *set);
/* Room for `extra` further names, so that cursor_set_put cannot fail. */
int cursor_set_reserve(struct cursor_set *set, size_t extra, struct pleat_error *err);
/* Inserts, replaces value and incarnation as they are given, or removes; capacity was reserved. */
void cursor_set_put(struct cursor_set *set, const struct wal_cursor *cursor);
const struct cursor_entry *cursor_set_find(const struct cursor_set *set, const void *name, size_t name_bytes);
/* to becomes a copy of from; to's capacity must have been reserved to from->count, then it cannot fail. */
void cursor_set_assign(struct cursor_set *to, const struct cursor_set *from);

struct edit_table {
    uint32_t space;
    uint8_t level;
    struct table_meta meta; /* added: owned by the edit; removed: only number is set */
    struct table_ref *ref;  /* added: what versions will hold, a reference of the edit's; NULL: made as it is applied */
};

/* One atomic change of the registry. What is not set stays as it is. */
struct edit {
    const struct mem *mem;
    struct edit_table *added;
    struct edit_table *removed;
    size_t added_count, added_capacity;
    size_t removed_count, removed_capacity;
    bool has_position;              /* last_sequence, log_floor and cursors are set together */
    uint64_t last_sequence;
    uint64_t log_floor;
    struct cursor_set cursors;      /* owned */
    bool has_history;
    uint64_t history;
    uint64_t history_sequence;      /* the last sequence before the new history began */
    bool has_clean;
    bool clean;                     /* closed with everything in tables; false: opened for writing */
    bool has_space;
    struct space_info space;        /* a space to create */
    bool drop_space;
    bool clear_space;               /* drop all tables of dropped_space, keep the space */
    uint32_t dropped_space;
};

void edit_init(struct edit *edit, const struct mem *mem);
void edit_fini(struct edit *edit);
/* Moves *meta into the edit (on an error the caller still owns it). */
int edit_add_table(struct edit *edit, uint32_t space, unsigned level, struct table_meta *meta,
                   struct pleat_error *err);
/* Moves all tables that `from` adds behind those that *edit adds; on an error nothing has moved. */
int edit_take_tables(struct edit *edit, struct edit *from, struct pleat_error *err);
/* Takes the last added table out again. */
void edit_drop_table(struct edit *edit);
int edit_remove_table(struct edit *edit, uint32_t space, unsigned level, uint64_t number, struct pleat_error *err);

/* ---- the registry ----------------------------------------------------------------------------------------------- */

struct registry_options {
    struct table_store store;          /* vfs, dir, mem, cache, file_mode; store_id and files are filled in */
    struct vfs_lock *lock;             /* of the store, held; NULL: nobody notes or knows the manifest's edition */
    bool read_only;
    uint64_t rewrite_bytes_min;        /* the manifest is rewritten at twice its live size, but not below this */
    uint32_t table_files_max;          /* that are open at once, at least 1 (table_files.h) */
    /* Called with each new version, after its edit is durable and before registry_apply returns, in order, under the
     * manifest mutex. Takes its own reference. */
    void (*on_version)(void *context, struct version *version);
    void *context;
};

/* A new store: writes a first MANIFEST with one space ("default") under a fresh random store id. */
int registry_create(const struct registry_options *options, const struct space_info *default_space,
                    struct registry **ret_registry, struct pleat_error *err);
/* Replays MANIFEST. Changes nothing on disk. PLEAT_ERR_NOT_FOUND when there is none; CORRUPT, also when LOCK notes a
 * later edition of it; NEWER. */
int registry_open(const struct registry_options *options, struct registry **ret_registry, struct pleat_error *err);
/* Every version must have been let go but the registry's own. NULL is allowed. */
void registry_free(struct registry *registry);

/* Writes the whole state as a fresh MANIFEST, atomically, with `edit` (may be NULL) applied; from then on edits are
 * appended to it. The first call after registry_open on a writable store, before anything else is changed. */
int registry_rewrite(struct registry *registry, struct edit *edit, struct pleat_error *err);
/* Appends the edit, syncs it, and publishes the new version. Everything that can fail for memory is done before the
 * write. The caller has synced the tables and the directory before. PLEAT_ERR_INVALID when the edit does not fit the
 * current version; PLEAT_ERR_NO_SPACE when the disk is full: in both cases, and without memory, the edit is out for
 * good and the caller may unlink the tables that it would have added. After any other failed write, or a failed sync,
 * the outcome on disk is unknown: the registry is poisoned (registry_health), every later change returns that error,
 * and no file that the edit names may be unlinked before a later open has shown whether it is in.
 * A table is moved to another level of its space by removing and adding its number in one edit. */
int registry_apply(struct registry *registry, struct edit *edit, struct pleat_error *err);
/* 0, or the error that poisoned the registry, copied to err. */
int registry_health(struct registry *registry, struct pleat_error *err);

/* A reference on the current version. */
struct version *registry_current(struct registry *registry);
const struct table_store *registry_store(const struct registry *registry);
/* A file number that was never used; may write an edit (numbers are reserved in the manifest in strides). */
int registry_file_number(struct registry *registry, uint64_t *ret_number, struct pleat_error *err);
/* Recovery saw a file of this number in the directory: only higher ones will be handed out. */
void registry_numbers_seen(struct registry *registry, uint64_t number);

/* Writes down that the log segment, its header and its name are durable, and those of all live segments below it: from
 * now on a reader takes them for damaged, not for torn, when they are missing. A failure that leaves the registry
 * healthy has changed nothing. */
int registry_log_synced(struct registry *registry, uint64_t segment, struct pleat_error *err);

struct registry_state {
    uint64_t history;
    uint64_t history_sequence;
    uint64_t last_sequence;
    uint64_t log_floor;
    uint64_t log_synced;
    uint64_t next_space;
    uint64_t number_bound; /* no file has this number or a higher one */
    bool clean;
    struct edition edition; /* of the manifest, durable */
    uint64_t manifest_bytes;
    uint64_t edits;
};
void registry_state_read(struct registry *registry, struct registry_state *ret_state);
/* PLEAT_ERR_CORRUPT when the manifest has not come so far as `edition`, which the file `witness` knows of. */
int registry_edition_verify(struct registry *registry, struct edition edition, const char *witness,
                            struct pleat_error *err);
/* The cursors as of last_sequence: copied into *ret_cursors (initialised by the caller). */
int registry_cursors(struct registry *registry, struct cursor_set *ret_cursors, struct pleat_error *err);
/* An id for a space to create: never used before. */
uint32_t registry_next_space(struct registry *registry);
/* Whether the current version refers to this table file: for the sweep of orphans at open. */
bool registry_has_table(struct registry *registry, uint64_t number);

/* Whether V2, the order, sums and heads hold. For tests, and for assertions on versions that were not read from disk.
 */
bool version_check(const struct version *version);
/* version_check, and V3: PLEAT_ERR_CORRUPT when a table holds a key that a deeper table has from later commits. Reads
 * the tables whose metas leave that possible, which are few; the version is held by the caller. */
int version_verify(const struct version *version, struct pleat_error *err);

/* For `dump`: calls back with each edit of a MANIFEST as text, with its offset. */
int manifest_dump(const struct table_store *store,
                  int (*callback)(void *context, uint64_t offset, uint64_t bytes, const char *text), void *context,
                  struct pleat_error *err);

#endif
