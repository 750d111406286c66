/*
 * db.h - the hall: one open store, and how its parts hang together. Private to src/db (and to tests).
 *
 *      commit (one at a time)                              readers (any number, wait-free)
 *         |                                                   |
 *         v                                                   v
 *      active generation = arena + memtables + log segment   view = { active, frozen ..., version }
 *         | full: freeze at a commit boundary                 ^   swapped whole, old ones retired by epoch
 *         v                                                   |
 *      frozen generation -- flush --> tables + one manifest edit (tables, cursors, last sequence, log floor)
 *
 *   D1  The visible sequence is published (release) after the commit's record is in the log and its entries are in the
 *       memtables; a reader loads the view first and the sequence second, so that it never misses a flushed version.
 *   D2  Generations flush in order, one at a time; the manifest alone is always an exact prefix of the commits.
 *   D3  At most one frozen generation exists beside the active one, or two that recovery has left: memory is bounded by
 *       two arenas, and by three until the first flushes after a crash.
 *   D4  The durable sequence advances only after a sync of every segment up to it, and of their names, or after the
 *       manifest edit of a flush; never from what an earlier life left in the page cache.
 *   D5  After a failed log or manifest write or sync the store is poisoned: set once, every later write returns it.
 *   D6  Cursors and the visible sequence change together under `cursors_mu`, and so do the visible sequence and the
 *       view of a clear or drop: whoever holds it sees a consistent picture.
 *   D7  A read of more than one key takes its sequence number while its view is current. After a clear, commits go to
 *       the generation that was there before it: an older view with a later number would show what was cleared beside
 *       what was put since. A read of one key needs only D1: it is one of the two, and began before the clear ended.
 *   D8  While a segment that was not begun may have a file, its creation having failed, no later one is created:
 *       recovery would take the file for the end of the log, and later segments for the rest of another.
 */
#ifndef PLEAT_DB_DB_H
#define PLEAT_DB_DB_H

#include "base/assert.h"
#include "base/epoch.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/mutation.h"
#include "cache/cache.h"
#include "compaction/compact.h"
#include "compaction/scheduler.h"
#include "memtable/memtable.h"
#include "platform/thread.h"
#include "platform/vfs.h"
#include "version/version.h"
#include "wal/wal.h"

#include <stdatomic.h>

#define DB_LOCK_NAME "LOCK"
#define DB_GENERATIONS_MAX 4 /* in a view: the active one, a frozen one, and room for recovery of a read-only open */

struct pleat_cache {
    struct cache *cache;
};

struct pleat_space {
    struct pleat_db *db;
    struct pleat_space *next;   /* guarded by open_mu */
    struct space_info info;     /* frozen */
    uint32_t slot;              /* frozen */
    _Atomic bool dropped;       /* set under commit_mu; relaxed reads are only for an early, friendly error */
};

/* The updates between two freezes, in memory and in one log segment. */
struct generation {
    struct pleat_db *db;
    _Atomic uint32_t refs;                             /* views, and values pinned in it */
    struct arena *arena;
    uint64_t segment;                                  /* its log segment's number; recovered: of its first record */
    uint64_t log_floor;                                /* once it is in tables, segments below this are dead */
    uint64_t first_sequence;                           /* frozen: of its first commit */
    uint64_t last_sequence;                            /* set when it freezes */
    struct cursor_set cursors;                         /* as of last_sequence; set when it freezes */
    uint64_t records;                                  /* owned by the commit path */
    uint32_t slots;                                    /* owned by the commit path: used slots are below this */
    uint32_t space_ids[LIMIT_SPACES];                  /* valid where tables[slot] is set; written before it */
    _Atomic(struct memtable *) tables[LIMIT_SPACES];   /* release by the commit path; pairs with generation_table */
};

/* What a reader sees: frozen after publication. */
struct view {
    struct epoch_retired retired;
    struct pleat_db *db;
    struct view *next_swept;
    _Atomic uint32_t refs; /* the store's own while it is current, snapshots, iterators */
    struct version *version;
    unsigned count;
    struct generation *generations[DB_GENERATIONS_MAX]; /* newest first */
};

/* A log segment that is being written or not yet dead. */
struct segment {
    struct segment *next;      /* towards newer ones */
    struct wal_writer *writer; /* NULL: of an earlier life, and needed until its records are in tables */
    uint64_t number;
    uint64_t last_sequence;    /* when sealed */
    bool sealed;               /* nothing is appended any more */
    bool synced;               /* sealed and all of it durable */
    bool name_synced;
    bool recorded;             /* the manifest says that it is synced */
    unsigned users;            /* threads inside writer outside the lock; it is closed at zero */
};

/* A segment's file that is made and not begun: see segment.c. Guarded by sync_mu. */
struct spare {
    struct wal_writer *writer; /* NULL: none that a rotation could begin */
    uint64_t number;           /* of a file that is there, or may be; 0: none */
    uint64_t tried;            /* the active segment's number when one was last made */
    bool is_busy;              /* a thread makes or removes it */
    bool is_short;             /* the disk was full, or the store closes: there is to be none */
    struct wal_writer *dead;   /* of a dead segment, kept for the next spare; NULL: none */
};

/* A job that is cut in parts, the first member of whatever the job is: see parts.c. */
struct parts {
    int (*write)(struct parts *parts, size_t part, struct pleat_error *err); /* without a lock; any thread */
    size_t count;

    /* guarded by work_mu */
    size_t next;      /* to be taken */
    unsigned running; /* helpers */
    int failure;
    struct pleat_error error;
    struct parts *link;
};

enum parts_kind { PARTS_FLUSH, PARTS_COMPACTION, PARTS_KINDS };

/* Jobs of one kind that fail. */
struct trouble {
    struct pleat_error error; /* of the last that failed; cleared by the next that works */
    uint64_t failures;
};

struct db_counters {
    _Atomic uint64_t commits, updates, bytes_given, bytes_log;
    _Atomic uint64_t bytes_flushed, bytes_in, bytes_out, flushes, compactions, moves, syncs, delayed_ns;
};

/* Adds to a statistic. */
static inline void db_count(_Atomic uint64_t *counter, uint64_t n) {
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed); /* no partner */
}

/* What flow.c knows. Relaxed hints, all of them: no partner. */
struct flow {
    _Atomic uint64_t pressure;      /* of level 0, 0 .. 1,024 */
    _Atomic bool is_full;           /* level 0 is at its bound */
    _Atomic int64_t owed_ns;        /* delays too short to sleep; below zero: slept ahead */
    _Atomic uint64_t level0_visits; /* by reads of ranges since looked_ns */
    _Atomic uint64_t looked_ns;
    _Atomic uint32_t readers;       /* what they count for, 0 .. 1,024 */
    _Atomic uint64_t frozen_ns;     /* when the last generation was frozen */
    _Atomic uint64_t flush_ns;      /* from then on until a full one is in tables, as far as known */
    _Atomic uint64_t passed_ns;     /* when the last commit passed that had a pace */
};

struct pleat_db {
    /* frozen after open */
    const struct vfs *vfs;
    const struct mem *mem;
    struct pleat_options options; /* every field resolved */
    struct compaction_options shape;
    struct vfs_dir *dir;
    struct vfs_lock *lock;
    struct fork_guard *guard;
    struct cache *cache;
    bool owns_cache;
    bool read_only;
    struct epoch *epoch;
    struct registry *registry;
    struct arena_pool *pool;
    struct scheduler *scheduler;
    struct pleat_space *default_space;
    uint64_t recovered_sequence; /* what comes up to it is durable by a flush alone (F11) */
    uint64_t recovered_segments;
    uint64_t recovered_records;
    unsigned processors;           /* that this process may use */
    bool opened; /* everything below is initialised */

    /* guarded by open_mu */
    struct mutex open_mu;
    struct pleat_space *spaces;

    /* guarded by commit_mu: owned by whoever commits */
    struct mutex commit_mu;
    struct generation *active;
    struct segment *active_segment;
    uint64_t populated_bytes;      /* of the active segment, asked of the log thread */
    uint64_t unsynced_bytes;       /* of log since a sync was last asked for by size */
    uint64_t leftover_segment;     /* of a failed creation: its file may be there (D8); 0: none */
    bool closing;

    /* guarded by view_mu; read inside epochs */
    struct mutex view_mu;
    struct view *spare_views;
    _Atomic unsigned view_generations; /* of the current view: a hint */
    _Atomic(struct view *) view;   /* release; pairs with the acquire in view_current */

    /* guarded by cursors_mu */
    struct mutex cursors_mu;
    struct cursor_set cursors;     /* as applied */
    _Atomic uint64_t applied;      /* release under cursors_mu; pairs with the acquire in db_applied */

    /* guarded by sync_mu */
    struct mutex sync_mu;
    struct condition sync_done;
    struct segment *segments;      /* oldest first */
    uint64_t log_floor;            /* those with lower numbers are dead */
    struct spare spare;            /* for the one behind the newest of them */
    struct cursor_set durable_cursors;
    struct cursor_set sync_cursors; /* of the sync under way: owned by its leader */
    bool syncing;
    bool log_thread_stop;
    struct condition log_wake;
    bool log_prepare_asked;
    bool log_sync_asked;
    uint64_t last_sync_ns;
    unsigned durable_note;          /* of LOCK, to be written next */
    _Atomic uint64_t durable;      /* release under sync_mu; pairs with the acquire in db_durable */

    /* guarded by work_mu: what the background does */
    struct mutex work_mu;
    struct condition work_done;    /* a job ended */
    bool flushing;
    struct parts *parts[PARTS_KINDS]; /* jobs that others may help with, by kind */
    unsigned compacting;
    const struct compaction *jobs; /* those that run */
    unsigned leaving;              /* threads that count as idle and may still remove files */
    unsigned slot_jobs[LIMIT_SPACES];    /* compactions running in the slot */
    bool slot_blocked[LIMIT_SPACES];     /* a drop or clear waits for its jobs */
    bool slot_flushing[LIMIT_SPACES];    /* a flush may write below level 0 of the slot */
    unsigned idle_wanted;                /* callers of settle: go on until nothing is left */
    bool compactions_held;               /* tests: nothing is picked */
    uint64_t last_flush_ns;
    uint64_t retry_at_ns;                /* after a failed compaction */
    struct trouble flush_trouble;        /* apart: who waits for a flush is not refused for a compaction */
    struct trouble compaction_trouble;
    _Atomic bool cancel;                 /* running compactions stop */

    /* guarded by sweep_mu (a leaf): views whose epoch has passed */
    struct mutex sweep_mu;
    struct view *swept;

    _Atomic uint64_t history;
    _Atomic uint64_t reserved_number; /* for the next segment; 0: none */
    _Atomic int poison;            /* release; pairs with the acquire in db_health: sticky is then frozen */
    struct pleat_error sticky;
    struct mutex sticky_mu;
    struct mutex names_mu;         /* held during a sync of the directory */
    _Atomic uint64_t outstanding_snapshots, outstanding_iterators, outstanding_values;
    struct flow flow;
    struct thread log_thread;
    bool log_thread_runs;
    struct db_counters counters;
};

/* ---- open.c, recover.c ------------------------------------------------------------------------------------------ */

/* pleat_open behind its seams; tests pass a simulated disk and a failing allocator. */
int db_open_with(const char *path, const struct pleat_options *options, const struct vfs *vfs, const struct mem *mem,
                 struct pleat_db **ret_db, struct pleat_error *err);
/* Validates and resolves options to *ret_options (every zero replaced by its default). */
int options_resolve(const struct pleat_options *given, struct pleat_options *ret_options, struct pleat_error *err);
/* Copies a size-first struct of the caller into one of ours: a shorter one's tail is zero, a longer one's must be. */
int options_copy(const char *what, const void *given, size_t given_bytes, void *ret, size_t bytes,
                 struct pleat_error *err);
int space_options_resolve(const struct pleat_space_options *given, struct pleat_space_options *ret_options,
                          struct pleat_error *err);

/* What a directory holds, by name. */
struct db_listing {
    const struct mem *mem;
    uint64_t *segments; /* ascending */
    size_t segment_count, segment_capacity;
    uint64_t *tables;
    size_t table_count, table_capacity;
    bool has_manifest;
    bool has_lock;
    bool has_leftover; /* of an interrupted manifest replacement */
    char foreign[VFS_NAME_BYTES_MAX + 1]; /* a name that is none of ours; "" when there is none */
};
int db_list(struct pleat_db *db, struct db_listing *ret_listing, struct pleat_error *err);
void db_listing_fini(struct db_listing *listing);

/* What the log held and the tables do not. */
struct recovered {
    struct generation *generations[DB_GENERATIONS_MAX]; /* newest first; of a writable store they are to be flushed */
    unsigned count;
    struct wal_tail tail; /* count > 0: the end of the log, which the first segment of this life goes on from */
};
/* Reads the log into memtables, begins a new history after an unclean end, removes what is dead. On damage nothing on
 * disk has changed. */
int db_recover(struct pleat_db *db, const struct db_listing *listing, struct recovered *ret_recovered,
               struct pleat_error *err);
/* Lets go of the generations. */
void recovered_release(struct recovered *recovered);

/* ---- generation.c ----------------------------------------------------------------------------------------------- */

/* The address space of a usual arena. */
uint64_t generation_arena_bytes(const struct pleat_options *options);
/* arena_bytes: room that is wanted beyond the usual; 0: the usual. */
int generation_new(struct pleat_db *db, uint64_t arena_bytes, uint64_t segment, uint64_t first_sequence,
                   struct generation **ret_generation, struct pleat_error *err);
void generation_ref(struct generation *generation);
void generation_unref(struct generation *generation);
/* The memtable of the space in `slot` with this id, or NULL. Any reader. */
struct memtable *generation_table(const struct generation *generation, uint32_t slot, uint32_t space);
/* The same, made when missing; by the inserter, who has reserved the room. NULL when the arena is full. */
struct memtable *generation_table_new(struct generation *generation, uint32_t slot, uint32_t space);
/* Inserts all entries of a record's view; slot_of gives a space id's slot, or -1: PLEAT_ERR_CORRUPT. The room was
 * reserved (generation_bytes_max). */
int generation_insert(struct generation *generation, int (*slot_of)(const void *context, uint32_t space),
                      const void *context, struct wal_view view, struct pleat_error *err);
/* The same in steps, for a commit with other work to do between them: a few entries wait for memory meanwhile
 * (memtable_group). The caller fills slot_of and context; what the view borrows stays as it is to the end. */
struct insertion {
    int (*slot_of)(const void *context, uint32_t space);
    const void *context;
    struct generation *generation;
    struct wal_view view; /* what is not in the group yet */
    bool ahead;           /* all entries are in the group */
    struct memtable_group group;
};
/* Changes nothing in the generation; neither does a step. */
void insertion_begin(struct insertion *insertion, struct generation *generation, struct wal_view view);
void insertion_step(struct insertion *insertion);
/* Inserts, with the room reserved. */
int insertion_finish(struct insertion *insertion, struct pleat_error *err);
/* Arena bytes that a batch of so many spaces may take, with the sum of memtable_entry_bytes_max of its entries. */
uint64_t generation_batch_bytes_max(uint64_t entries_bytes_max, size_t spaces);
/* The same of a record: just what its commit has reserved, so that what fitted then fits again; or a bound that does
 * not look at the entries, where that is not above `enough`. */
uint64_t generation_bytes_max(struct wal_view view, uint64_t enough);
/* Freezes the active generation with its segment and starts the next, with room for at least `arena_bytes` and a record
 * of `record_bytes`. commit_mu held. Nothing changed on an error. */
int generation_rotate(struct pleat_db *db, uint64_t arena_bytes, uint64_t record_bytes, struct pleat_error *err);
/* Freezes the active generation if it holds anything, and waits until no frozen one is left. commit_mu held. */
int generation_flush_all(struct pleat_db *db, struct pleat_error *err);
/* Whether no generation is frozen and no flush is under way. */
bool generation_none_frozen(struct pleat_db *db);
/* Whether what the next generation needs should be made ready. Any thread; false when that cannot be told. */
bool generation_is_half_full(struct pleat_db *db);

/* ---- segment.c: the files of the log ---------------------------------------------------------------------------- */

/* Makes the next segment's file ahead of need: 0, or PLEAT_END when that is not due or failed. No lock held. */
int segment_make_spare(struct pleat_db *db);
/* Removes the spare and the kept file, to make room or to leave nothing behind: there are none until the next rotation.
 * May be called with commit_mu held. */
void segment_drop_spare(struct pleat_db *db);
/* Takes a dead segment over: keeps its file for the next spare, or closes and unlinks it. No lock held that a thread in
 * a segment may want. */
void segment_bury(struct pleat_db *db, struct wal_writer *writer);
/* Removes the kept file when nothing was flushed for a while. No lock held. */
void segment_tidy(struct pleat_db *db);
/* Removes the file of a segment; one that is not there is no error. */
int segment_unlink(struct pleat_db *db, uint64_t number, struct pleat_error *err);
/* Closes both without touching the files; no other thread is left. */
void segment_close_spare(struct pleat_db *db);
/* Takes the next segment's number ahead, in the background, so that a rotation does not wait behind a manifest sync. */
void segment_reserve_number(struct pleat_db *db);
/* The number for the segment behind `active` whose first record takes record_bytes: the spare's, when it has room for
 * that; a spare that has not is given up. commit_mu held until segment_start. */
int segment_next_number(struct pleat_db *db, uint64_t active, uint64_t record_bytes, uint64_t *ret_number,
                        struct pleat_error *err);
/* Begins the segment of a generation, the spare or a new one, and puts it on the list. record_bytes as above. */
int segment_start(struct pleat_db *db, uint64_t number, uint64_t first_sequence, struct wal_tail predecessor,
                  uint64_t record_bytes, struct segment **ret_segment, struct pleat_error *err);

/* ---- view.c ----------------------------------------------------------------------------------------------------- */

/* Inside an epoch. */
static inline struct view *view_current(const struct pleat_db *db) {
    return atomic_load_explicit(&db->view, memory_order_acquire); /* pairs with the release in view_publish */
}
/* The current view and a sequence number that was applied while it was current (D7). Inside an epoch. */
static inline struct view *view_current_at(const struct pleat_db *db, uint64_t *ret_sequence) {
    for (;;) {
        struct view *view = view_current(db);
        /* acquire; pairs with the release in view_on_version: behind a clear's number its view is seen, too */
        *ret_sequence = atomic_load_explicit(&db->applied, memory_order_acquire);
        if (LIKELY(view == view_current(db))) {
            return view; /* compared only: inside the epoch it cannot be another view at the same address */
        }
    }
}
/* A counted reference on the current view. */
int view_acquire(struct pleat_db *db, struct view **ret_view, struct pleat_error *err);
/* The same, with a sequence number as in view_current_at. */
int view_acquire_at(struct pleat_db *db, struct view **ret_view, uint64_t *ret_sequence, struct pleat_error *err);
/* True: it was the last reference, and the view's parts were let go. */
bool view_unref(struct view *view);
/* On a full disk: lets go of views that no reader sees any more, and removes the files of all dead tables; whether
 * there were any. May be called with commit_mu held. */
bool view_give_space(struct pleat_db *db);
/* Sees to the removal of files of dead tables, if there are any: wakes a worker, or does it where there are none. No
 * lock held, not while the store is opened or closed. */
void view_remove_files(struct pleat_db *db);
/* view_unref, and that if it was the last. */
void view_let_go(struct pleat_db *db, struct view *view);
/* Publishes { generations[0..count), version }: takes references on all of them. view_mu not held. */
int view_start(struct pleat_db *db, struct generation *const *generations, unsigned count, struct version *version,
               struct pleat_error *err);
/* An empty view for a later view_push, so that publishing cannot fail. */
struct view *view_prepare(struct pleat_db *db);
void view_discard(struct view *view);
/* The current view with `generation` in front. `prepared` is moved in. */
void view_push(struct pleat_db *db, struct view *prepared, struct generation *generation);
/* registry_apply with everything that publishing its version needs reserved before: the edit either is refused, or is
 * durable and seen by readers. */
int view_apply(struct pleat_db *db, struct edit *edit, struct pleat_error *err);
/* The latest state that a read may have been shown: db_applied, or in the moment in which a clear or drop becomes
 * visible the number of that. No lock held. */
uint64_t view_applied(const struct pleat_db *db);
/* A view for view_on_version to use, and its return when no version came. */
int view_reserve(struct pleat_db *db, struct pleat_error *err);
void view_unreserve(struct pleat_db *db);
/* The registry's callback: the current view with this version, less the generations that it has flushed. A version of a
 * later state than the applied one (a clear, a drop) makes that state the applied one (D6). */
void view_on_version(void *context, struct version *version);
/* Frees the views whose epoch has passed; wait: after waiting for all readers (never inside an epoch). */
void view_sweep(struct pleat_db *db, bool wait);
/* Whether the current view may have a frozen generation: a hint without a lock. */
bool view_frozen_hint(const struct pleat_db *db);
/* How many frozen generations the current view has. */
unsigned view_frozen(struct pleat_db *db, struct generation **ret_oldest);

/* ---- sync.c ----------------------------------------------------------------------------------------------------- */

static inline uint64_t db_applied(const struct pleat_db *db) {
    return atomic_load_explicit(&db->applied, memory_order_acquire); /* pairs with the release in commit_publish */
}
static inline uint64_t db_durable(const struct pleat_db *db) {
    return atomic_load_explicit(&db->durable, memory_order_acquire); /* pairs with the release in sync_advance */
}
/* Returns when `sequence` is durable, leading a sync or waiting for one that covers it. No lock held. */
int sync_to(struct pleat_db *db, uint64_t sequence, struct pleat_error *err);
/* A flush made everything up to `sequence` durable, with these cursors. */
void sync_flushed(struct pleat_db *db, uint64_t sequence, const struct cursor_set *cursors);
/* Closes and unlinks the segments below log_floor (0: below that of the last call), oldest first. One that a thread is
 * inside of (Y2) is waited for, with no lock held that such a thread may want, or is left to a later call. */
void sync_unlink_dead(struct pleat_db *db, uint64_t log_floor, bool wait);
/* Waits until no sync has to wait for the flush of recovered records (Y4). That may fail without poisoning the store: a
 * commit that asks for a sync waits before anything of it is applied. No lock held. */
int sync_recovered(struct pleat_db *db, struct pleat_error *err);
/* Makes all names in the directory durable. A failure poisons the store (Y3). No lock above that of commits held. */
int sync_names(struct pleat_db *db, struct pleat_error *err);
/* Makes the name of a life's first segment durable before its rotation has to wait for it: 0, PLEAT_END when that is
 * not due (flushes and syncs do it for those behind it), or an error. No lock held. */
int sync_first_name(struct pleat_db *db);
/* Asks the log thread to make the pages ahead ready, or to sync. */
void sync_ask(struct pleat_db *db, bool prepare, bool sync);
int sync_thread_start(struct pleat_db *db, struct pleat_error *err);
void sync_thread_stop(struct pleat_db *db);
/* PLEAT_BACKGROUND_STEPS: does what the log thread would do now: 0, or PLEAT_END when nothing was due. */
int sync_step(struct pleat_db *db, struct pleat_error *err);
/* Closes every segment's storage without touching the files. */
void sync_close_segments(struct pleat_db *db);

/* ---- health: open.c --------------------------------------------------------------------------------------------- */

/* 0, or the sticky error copied to err. */
int db_health(const struct pleat_db *db, struct pleat_error *err);
/* Makes `error` sticky unless one is already; returns the sticky code. */
int db_poison(struct pleat_db *db, const struct pleat_error *error);
/* After a failed change of the registry: poisons the store if the state of the manifest is unknown (D5). */
void db_poison_by_registry(struct pleat_db *db);
/* Whether writing is allowed at all: opened for writing, owner process, healthy. */
int db_writable(const struct pleat_db *db, struct pleat_error *err);
/* Whether this process opened the store: in a forked child its mutexes may be locked for ever. */
int db_check_owner(const struct pleat_db *db, struct pleat_error *err);
void db_log(const struct pleat_db *db, int level, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* ---- work.c: background jobs ------------------------------------------------------------------------------------ */

/* On a full disk: removes what is there without need, the log's spare and kept file (J3 in segment.c) and the files of
 * dead tables. May be called with commit_mu held. */
void work_give_space(struct pleat_db *db);
/* The scheduler's client: runs the most urgent job. */
int work_run(void *context, unsigned worker);
/* Flushes the oldest frozen generation if there is one and nobody else does: 0, PLEAT_END, or an error. */
int work_flush(struct pleat_db *db, struct pleat_error *err);
/* Writes the runs of all spaces of a frozen generation and commits them with one edit, which says that log segments
 * below log_floor are dead. */
int work_flush_generation(struct pleat_db *db, struct generation *generation, uint64_t log_floor,
                          struct pleat_error *err);
/* Between blocks of a compaction: runs a flush that nobody has taken, or parts of one. `context`: the store. */
void work_pause(void *context);
/* Removes the files of tables. */
void work_unlink(struct pleat_db *db, const struct edit_table *tables, size_t count);
/* Updates what depends on the shape of the trees, which has changed. */
void work_flow(struct pleat_db *db);
/* Removes the files that an edit that was refused adds. When its outcome is unknown they may be part of the store: they
 * stay. */
void work_unlink_added(struct pleat_db *db, const struct edit *edit);
/* One compaction: 0, PLEAT_END when there is none to do, or an error. */
int work_compact(struct pleat_db *db, struct pleat_error *err);
/* Whether an idle store would compact something now. */
bool work_has_compaction(struct pleat_db *db);
/* Compacts the whole space into its last level, waiting for what runs there: 0, PLEAT_END when there was nothing to do.
 */
int work_compact_full(struct pleat_db *db, const struct pleat_space *space, struct pleat_error *err);
/* Runs or waits for jobs until `done(db)` says so; in step mode runs them here. */
int work_until(struct pleat_db *db, bool (*done)(struct pleat_db *db), struct pleat_error *err);
/* Blocks and waits out the compactions of a slot (open_mu held); and lets them start again. */
void work_block_slot(struct pleat_db *db, uint32_t slot);
void work_unblock_slot(struct pleat_db *db, uint32_t slot);

/* ---- flush_job.c ------------------------------------------------------------------------------------------------ */

/* Writes the runs of all dirty spaces of a frozen generation and commits them with one edit, an empty one of the
 * caller's, which says that log segments below log_floor are dead. One caller at a time. */
int flush_runs(struct pleat_db *db, struct generation *generation, uint64_t log_floor, struct edit *edit,
               struct pleat_error *err);

/* ---- parts.c ---------------------------------------------------------------------------------------------------- */

/* Has all parts written, by workers that are free, too: 0, or what went wrong with one. No lock held. */
int parts_run(struct pleat_db *db, enum parts_kind kind, struct parts *parts, struct pleat_error *err);
/* Writes parts of a job that another thread runs: 0, or PLEAT_END when there are none. A failure is that thread's. */
int parts_help(struct pleat_db *db, enum parts_kind kind);

/* ---- compact_job.c ---------------------------------------------------------------------------------------------- */

/* Runs a compaction that was chosen, and applies it. */
int compact_run(struct pleat_db *db, const struct compaction *compaction, struct pleat_error *err);

/* ---- warm.c ----------------------------------------------------------------------------------------------------- */

/* Behind a change that added the edit's tables to `before`: loads the blocks of theirs that readers had in the cache.
 * `pause`, if not NULL, is called between blocks; without one it stops when a flush waits. */
void warm_added(struct pleat_db *db, const struct version *before, const struct edit *edit,
                void (*pause)(void *context));

/* ---- flow.c: back-pressure -------------------------------------------------------------------------------------- */

/* At open, of zeros. */
void flow_init(struct pleat_db *db, const struct version *version);
/* Recomputes the pressure from the version's shape, and from what readers have met since the last time. */
void flow_update(struct pleat_db *db, const struct version *version);
/* A generation has been frozen; the one that was frozen last, with so many bytes, is in tables. */
void flow_frozen(struct pleat_db *db);
void flow_flushed(struct pleat_db *db, uint64_t bytes);
/* Holds a commit of `bytes` back as the debt asks, for at most 10 ms; longer where level 0 is full. No lock held. */
int flow_wait(struct pleat_db *db, uint64_t bytes, struct pleat_error *err);
/* What a commit of 16 KiB would wait, in ns. */
uint64_t flow_delay_ns(struct pleat_db *db);
/* A read of a range has opened so many runs. */
static inline void flow_visit(struct pleat_db *db, size_t runs) {
    if (UNLIKELY(runs > db->options.level0_tables)) { /* more than a store at rest has */
        atomic_fetch_add_explicit(&db->flow.level0_visits, runs, memory_order_relaxed); /* a sum, no partner */
    }
}

/* ---- get.c, iter.c ---------------------------------------------------------------------------------------------- */

/* What a space's options become in the manifest. */
void space_info_fill(struct space_info *info, uint32_t id, struct pleat_slice name,
                     const struct pleat_space_options *resolved);
/* Common checks of a read call. */
int read_check(const struct pleat_space *space, const struct pleat_snapshot *snapshot, struct pleat_slice key,
               struct pleat_error *err);

struct pleat_snapshot {
    struct pleat_db *db;
    struct view *view;
    uint64_t history;
    uint64_t sequence;
    struct cursor_set cursors;
};

/* ---- batch.c ---------------------------------------------------------------------------------------------------- */

struct batch_expectation {
    struct cursor_entry cursor; /* name and value */
    bool present;
};

struct pleat_batch {
    struct pleat_db *db;
    struct wal_record record;
    uint64_t arena_bytes_max;              /* sum over its entries */
    uint64_t bytes_given;                  /* of keys and values */
    struct pleat_space **spaces;           /* distinct spaces that it touches */
    size_t space_count, space_capacity;
    struct batch_expectation *expectations;
    size_t expectation_count, expectation_capacity;
};

/* Fills *ret from a stored cursor (NULL: absent) at a position. */
void cursor_value_fill(struct pleat_cursor_value *ret, const struct cursor_entry *cursor, uint64_t history,
                       uint64_t sequence);

#endif
