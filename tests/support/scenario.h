/*
 * scenario.h - small stores with a bit of everything, and what each must hold at every sequence.
 *
 * A scenario is a pure function of its seed: commits over several spaces (LZ4 and raw tables, groups by delimiter and
 * by length, wide blocks), deletes, empty batches, versions of all lengths, flags, several cursors with incarnations, a
 * space that is created late, one that is dropped, clears; flushes, compactions, syncs and reopens between them, on a
 * simulated disk with tiny limits. While it runs it writes down, in a model of its own, the state at every sequence,
 * and keeps the files as they were at some moments on the way.
 *
 * It ends in one of several ways; what is on the disk then is a `struct files`: names and bytes and nothing else.
 */
#ifndef PLEAT_TESTS_SCENARIO_H
#define PLEAT_TESTS_SCENARIO_H

#include "pleat/pleat.h"
#include "support/random.h"
#include "support/simfs.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SCENARIO_SPACES 6
#define SCENARIO_CURSORS 3
#define SCENARIO_SEQUENCES_MAX 160
#define SCENARIO_MOMENTS 4
#define SCENARIO_FILES_MAX 96
#define SCENARIO_PATH "store"

struct files {
    size_t count;
    struct file {
        char name[VFS_NAME_BYTES_MAX + 1];
        uint8_t *data;
        size_t bytes;
    } files[SCENARIO_FILES_MAX];
};

/* Copies out what a disk holds; a new disk that holds it, all durable. */
void files_take(struct files *files, struct simfs *fs);
struct simfs *files_disk(const struct files *files);
void files_free(struct files *files);
/* NULL when there is none. */
const struct file *files_find(const struct files *files, const char *name);

struct scenario_row {
    struct pleat_slice key, value, version;
    bool has_flag;
    uint8_t flag;
};

struct scenario_state {
    uint64_t sequence;
    struct scenario_space {
        bool live;
        uint64_t created_at; /* the last sequence before it was created: at that one it may be there or not */
        size_t count;
        struct scenario_row *rows; /* in order */
    } spaces[SCENARIO_SPACES];
    struct scenario_cursor {
        bool set;
        struct pleat_slice value, incarnation;
    } cursors[SCENARIO_CURSORS];
};

struct pleat_slice scenario_space_name(size_t space);
struct pleat_slice scenario_cursor_name(size_t cursor); /* in byte order */

enum scenario_end {
    SCENARIO_CLOSED,      /* pleat_close */
    SCENARIO_KILLED,      /* the process died: all that returned is there */
    SCENARIO_SYNCED,      /* killed right after a sync of the last commit */
    SCENARIO_FLUSHED,     /* killed right after a flush: nothing is in the log */
    SCENARIO_SEGMENTS,    /* killed with two log segments alive, both with commits */
    SCENARIO_CRASHED,     /* power lost, anything that was not synced kept or lost */
    SCENARIO_CRASHED_MIN, /* power lost, and all that was not synced with it */
};
#define SCENARIO_ENDS 7
const char *scenario_end_name(enum scenario_end end);

struct scenario {
    uint64_t seed;
    enum scenario_end end;
    struct scenario_state states[SCENARIO_SEQUENCES_MAX];
    uint64_t sequence; /* of the last commit that returned */
    uint64_t durable;  /* the highest reported durable */
    struct files files;
    struct files moments[SCENARIO_MOMENTS]; /* oldest first */
    size_t moment_count;
    void **blocks; /* of the model */
    size_t block_count, block_capacity;
    struct random random;
};

/* Runs it. False with a line on stderr when the store fails or disagrees about a sequence. */
bool scenario_run(struct scenario *scenario, uint64_t seed, enum scenario_end end);
void scenario_free(struct scenario *scenario);

#endif
