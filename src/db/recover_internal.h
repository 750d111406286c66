/*
 * recover_internal.h - what the two parts of recovery share: recover.c reads the log and decides, redo.c keeps its
 * records.
 */
#ifndef PLEAT_DB_RECOVER_INTERNAL_H
#define PLEAT_DB_RECOVER_INTERNAL_H

#include "db/db.h"

/* What the first pass found. */
struct recovery {
    struct pleat_db *db;
    struct version *version;   /* of the manifest as it was found */
    uint64_t floor_sequence;   /* L */
    uint64_t last_sequence;    /* where the log ends */
    uint64_t durable_evidence; /* the highest sequence that anything valid calls durable */
    uint64_t begun_segment;    /* the last with anything valid in it */
    uint64_t end_segment;      /* where the end lies, and ... */
    uint64_t end_offset;       /* ... at which byte */
    struct wal_tail tail;      /* of the last segment followed */
    const struct db_listing *listing;
    uint64_t log_floor;
    uint64_t history_sequence; /* commits up to it are of earlier lives */
    uint64_t log_synced;       /* live segments up to this one are whole, as far as a sync goes */
    uint64_t highest;          /* number of any file */
    bool has_tail;
    bool ended;
    uint64_t records;
    uint64_t segments;

    /* Of redo.c: the records up to db_applied, as far as they are not in tables. */
    struct generation *generations[DB_GENERATIONS_MAX]; /* newest first */
    unsigned count;
    bool full; /* the records behind db_applied did not fit: they are read again */
};

/* The next record of the log, which has been checked but for its spaces (Q6): into memory, while there is room. */
int redo_record(struct recovery *recovery, uint64_t segment, uint64_t offset, struct wal_view view,
                struct pleat_error *err);
/* Behind the last record: freezes the newest generation; a read-only store must have held all of them. */
int redo_finish(struct recovery *recovery, struct pleat_error *err);
/* The manifest of this life is durable: writes to tables what does not fit in memory and reads the rest. */
int redo_rest(struct recovery *recovery, struct pleat_error *err);
/* Leaves the generations to the background, with their segments as the log's older part (Q10), or writes them now. */
int redo_hand_over(struct recovery *recovery, struct recovered *ret_recovered, struct pleat_error *err);
/* Lets go of the generations. */
void redo_abandon(struct recovery *recovery);

#endif
