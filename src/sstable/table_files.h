/*
 * table_files.h - the open files of a store's tables: a bounded set, opened again by name when they are read.
 *
 * A table stays open (its index, filter and slots in memory) for as long as the store holds it; the file under it does
 * not have to: descriptors are the process's, and there are few. A read pins the file, which opens it unless it is
 * open, and lets go of it behind the read; what nobody has pinned goes in the order of a clock when the set is full.
 *
 *     table_file_pin    open: one atomic addition      else: a victim is closed, the file is opened
 *     table_file_unpin  one atomic subtraction
 *
 *   TF1  A pinned file is open, and only an open one that nobody has pinned is closed.
 *   TF2  A file is opened when fewer than `most` are open or all of them are pinned or just being opened, and behind a
 *        read that leaves more than `most` open others are closed: never more than `most` are open, or one for each
 *        read that is under way when that is more; and one a thread is on its way to being closed.
 *   TF3  The name is there for as long as the table can be read (it is unlinked when nobody has the table any more, or
 *        by the job that made it and alone has it), so what is opened again is the same file. What else might have been
 *        put in its place fails the checksums, which are keyed by store and number, but for a table of the same number
 *        that a copy of the store has made.
 *   TF4  When the process or the system has no descriptor left, files that nobody has pinned are closed, one by one,
 *        until there is one, for tables as for the log and the manifest; fewer are kept open for a while then, so that
 *        some are left for others. A read waits for other reads to end before it says that there is none.
 *   TF5  One thread opens a closed file; others that want it meanwhile wait for that.
 *
 * Threads: everything but table_files_init, _fini and table_file_free may be called from any thread.
 */
#ifndef PLEAT_SSTABLE_TABLE_FILES_H
#define PLEAT_SSTABLE_TABLE_FILES_H

#include "base/assert.h"
#include "platform/thread.h"
#include "sstable/table.h"

#include <stdatomic.h>

#define TABLE_FILE_OPEN (1u << 31) /* in `state`, above the count of pins */

struct table_file;

/* The set. */
struct table_files {
    uint32_t wanted; /* frozen */
    struct mutex mutex; /* RANK_LEAF; guards what follows */
    struct condition opened; /* a file was opened, or could not be: TF5 */
    _Atomic uint32_t most; /* now: TF4; read without the mutex as a hint, as the next */
    _Atomic uint32_t open; /* and being opened */
    struct table_file *hand; /* of the clock: the next in the ring to be looked at */
    _Atomic uint64_t opens; /* a statistic */
};

/* The file of one table. */
struct table_file {
    const struct table_store *store;
    _Atomic uint32_t state;
    _Atomic bool is_used; /* pinned since the hand of the clock came by */
    bool is_opening;      /* TF5; guarded by the set's mutex, as opening, closing and the ring of the open ones */
    struct vfs_file *file; /* when open */
    struct table_file *next, *prev;
    char name[TABLE_NAME_BYTES];
};

/* most: at least 1. Returns an errno, or 0; nothing is allocated. */
int table_files_init(struct table_files *files, uint32_t most);
/* Every table is closed. */
void table_files_fini(struct table_files *files);
/* How many are open now. */
uint32_t table_files_count(const struct table_files *files);

/* A file of that number, not opened yet. *ret_file: owned, table_file_free. */
int table_file_new(const struct table_store *store, uint64_t number, struct table_file **ret_file,
                   struct pleat_error *err);
/* Closes it; nobody has it pinned. NULL is allowed. */
void table_file_free(struct table_file *file);

/* TF4, for whoever has met `failure`: whether it was for want of a descriptor and an idle file was closed for it, so
 * that it may be tried again. Not with the set's mutex. */
bool table_files_give(const struct table_store *store, const struct pleat_error *failure);
/* file_open of a table's file, a new one or not, or of another of the store's, that gives up others where there is no
 * descriptor left (TF4). */
int table_files_open(const struct table_store *store, const char *name, enum vfs_file_mode how,
                     struct vfs_file **ret_file, struct pleat_error *err);

/* table_file_pin, when it is not open. A file that is not there is PLEAT_ERR_CORRUPT: the manifest names it. */
int table_file_pin_closed(struct table_file *file, struct pleat_error *err);
/* Closes others while more than `most` are open. */
void table_files_trim(const struct table_store *store);

/* Opens it if need be; until table_file_unpin, which each success wants, `file->file` is open. */
static inline int table_file_pin(struct table_file *file, struct pleat_error *err) {
    /* acquire: pairs with the release in table_file_pin_closed, which published `file` */
    uint32_t before = atomic_fetch_add_explicit(&file->state, 1, memory_order_acquire);
    if (!atomic_load_explicit(&file->is_used, memory_order_relaxed)) {           /* a hint: no partner */
        atomic_store_explicit(&file->is_used, true, memory_order_relaxed);
    }
    return LIKELY((before & TABLE_FILE_OPEN) != 0) ? 0 : table_file_pin_closed(file, err);
}

static inline void table_file_unpin(struct table_file *file) {
    /* release: pairs with the acquire in files_evict; reads are over before the file is closed */
    const struct table_store *store = file->store;
    uint32_t before = atomic_fetch_sub_explicit(&file->state, 1, memory_order_release);
    ASSERT((before & ~TABLE_FILE_OPEN) > 0);
    struct table_files *files = store->files;
    if (UNLIKELY(atomic_load_explicit(&files->open, memory_order_relaxed) >
                 atomic_load_explicit(&files->most, memory_order_relaxed))) { /* hints: no partner */
        table_files_trim(store);
    }
}

#endif
