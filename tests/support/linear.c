/* linear.c - see linear.h. */
#include "support/linear.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *linear_grow(void *old, size_t count, size_t *capacity, size_t bytes) {
    if (count < *capacity) {
        return old;
    }
    *capacity = *capacity == 0 ? 256 : 2 * *capacity;
    void *grown = realloc(old, *capacity * bytes);
    if (grown == NULL) {
        abort();
    }
    return grown;
}

static void *linear_zalloc(size_t count, size_t bytes) {
    void *block = calloc(count == 0 ? 1 : count, bytes);
    if (block == NULL) {
        abort();
    }
    return block;
}

void linear_begin(struct linear_log *log, bool commit, uint64_t now) {
    log->events = linear_grow(log->events, log->event_count, &log->event_capacity, sizeof *log->events);
    log->events[log->event_count++] = (struct linear_event){
        .begin = now, .end = UINT64_MAX, .sequence = LINEAR_UNKNOWN, .first = log->item_count, .commit = commit};
}

void linear_item(struct linear_log *log, uint32_t key, uint64_t value) {
    log->items = linear_grow(log->items, log->item_count, &log->item_capacity, sizeof *log->items);
    log->items[log->item_count++] = (struct linear_item){value, key};
    log->events[log->event_count - 1].count++;
}

void linear_end(struct linear_log *log, uint64_t sequence, uint64_t now) {
    log->events[log->event_count - 1].sequence = sequence;
    log->events[log->event_count - 1].end = now;
}

void linear_forget(struct linear_log *log) {
    log->item_count = log->events[--log->event_count].first;
}

void linear_log_clear(struct linear_log *log) {
    log->event_count = log->item_count = 0;
}

void linear_log_fini(struct linear_log *log) {
    free(log->events);
    free(log->items);
    *log = (struct linear_log){.thread = log->thread};
}

/* ---- the check -------------------------------------------------------------------------------------------------- */

/* A call of any log, as the check sees it. */
struct linear_call {
    const struct linear_log *log;
    const struct linear_event *event;
    uint64_t sequence; /* found out where it was not told */
    uint64_t floor;    /* at its begin */
};

/* From `sequence` on a key has this value. */
struct linear_change {
    uint64_t sequence, value;
};

/* The changes of one key, ascending, the first that of the state before. */
struct linear_key {
    struct linear_change *changes;
    size_t count;
};

struct linear_point {
    uint64_t now;
    size_t call;
    bool end;
};

struct linear_checker {
    struct linear_state *state;
    struct linear_call *calls;
    size_t call_count;
    struct linear_call **commits; /* by sequence, from state->sequence + 1 */
    size_t commit_count;
    struct linear_key *keys;
    struct linear_change *changes; /* the storage of all keys */
    struct linear_point *points;
    char *text;
    size_t text_bytes;
};

static bool __attribute__((format(printf, 3, 4)))
linear_complain(struct linear_checker *checker, const struct linear_call *call, const char *format, ...) {
    va_list arguments;
    char what[300];
    va_start(arguments, format);
    (void)vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    if (call == NULL) {
        (void)snprintf(checker->text, checker->text_bytes, "%s", what);
    } else {
        (void)snprintf(checker->text, checker->text_bytes, "thread %u, a %s from %" PRIu64 " to %" PRIu64 ": %s",
                       call->log->thread, call->event->commit ? "commit" : "read", call->event->begin, call->event->end,
                       what);
    }
    return false;
}

static int compare_numbers(uint64_t a, uint64_t b) {
    return (a > b) - (a < b);
}

/* Commits by number, those that did not tell behind them by their begin. */
static int compare_commits(const void *a, const void *b) {
    const struct linear_call *left = *(struct linear_call *const *)a, *right = *(struct linear_call *const *)b;
    int order = compare_numbers(left->sequence, right->sequence);
    return order != 0 ? order : compare_numbers(left->event->begin, right->event->begin);
}

/* Begins before ends: calls that only touch are side by side. */
static int compare_points(const void *a, const void *b) {
    const struct linear_point *left = a, *right = b;
    int order = compare_numbers(left->now, right->now);
    return order != 0 ? order : (int)left->end - (int)right->end;
}

static void checker_collect(struct linear_checker *checker, const struct linear_log *logs, size_t count) {
    size_t total = 0;
    for (size_t i = 0; i < count; i++) {
        total += logs[i].event_count;
    }
    checker->calls = linear_zalloc(total, sizeof *checker->calls);
    checker->commits = linear_zalloc(total, sizeof *checker->commits);
    checker->points = linear_zalloc(2 * total, sizeof *checker->points);
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < logs[i].event_count; j++) {
            const struct linear_event *event = &logs[i].events[j];
            struct linear_call *call = &checker->calls[checker->call_count];
            *call = (struct linear_call){.log = &logs[i], .event = event, .sequence = event->sequence};
            checker->points[2 * checker->call_count] = (struct linear_point){event->begin, checker->call_count, false};
            checker->points[2 * checker->call_count + 1] = (struct linear_point){event->end, checker->call_count, true};
            if (event->commit) {
                checker->commits[checker->commit_count++] = call;
            }
            checker->call_count++;
        }
    }
}

/* Puts the commits into the order of their numbers, which must be dense. */
static bool checker_order(struct linear_checker *checker) {
    size_t told = 0, next = 0;
    qsort(checker->commits, checker->commit_count, sizeof(struct linear_call *), compare_commits);
    while (told < checker->commit_count && checker->commits[told]->sequence != LINEAR_UNKNOWN) {
        told++;
    }
    size_t untold = told;
    for (uint64_t sequence = checker->state->sequence + 1; next < told || untold < checker->commit_count; sequence++) {
        if (next < told && checker->commits[next]->sequence < sequence) {
            return linear_complain(checker, checker->commits[next], "sequence %" PRIu64 " was given before",
                                   checker->commits[next]->sequence);
        }
        if (next < told && checker->commits[next]->sequence == sequence) {
            next++;
        } else if (untold < checker->commit_count) {
            if (untold > told && checker->commits[untold]->log != checker->commits[told]->log) {
                return linear_complain(checker, checker->commits[untold], "a second thread did not tell its number");
            }
            checker->commits[untold++]->sequence = sequence;
        } else {
            return linear_complain(checker, NULL, "no commit has sequence %" PRIu64 ", but one has %" PRIu64, sequence,
                                   checker->commits[next]->sequence);
        }
    }
    qsort(checker->commits, checker->commit_count, sizeof(struct linear_call *), compare_commits);
    return true;
}

static const struct linear_item *call_item(const struct linear_call *call, size_t index) {
    return &call->log->items[call->event->first + index];
}

/* The changes of each key, from the commits in order. */
static void checker_index(struct linear_checker *checker) {
    const struct linear_state *state = checker->state;
    size_t *counts = linear_zalloc(state->keys, sizeof *counts);
    size_t total = state->keys;
    for (size_t i = 0; i < checker->commit_count; i++) {
        for (size_t j = 0; j < checker->commits[i]->event->count; j++) {
            counts[call_item(checker->commits[i], j)->key]++;
            total++;
        }
    }
    checker->keys = linear_zalloc(state->keys, sizeof *checker->keys);
    checker->changes = linear_zalloc(total, sizeof *checker->changes);
    struct linear_change *next = checker->changes;
    for (uint32_t key = 0; key < state->keys; key++) {
        checker->keys[key].changes = next;
        next[0] = (struct linear_change){state->sequence, state->values[key]};
        checker->keys[key].count = 1;
        next += 1 + counts[key];
    }
    for (size_t i = 0; i < checker->commit_count; i++) {
        for (size_t j = 0; j < checker->commits[i]->event->count; j++) {
            const struct linear_item *item = call_item(checker->commits[i], j);
            struct linear_key *key = &checker->keys[item->key];
            bool again = key->changes[key->count - 1].sequence == checker->commits[i]->sequence; /* the later wins */
            key->changes[again ? key->count - 1 : key->count++] =
                (struct linear_change){checker->commits[i]->sequence, item->value};
        }
    }
    free(counts);
}

static bool value_matches(uint64_t seen, uint64_t value) {
    return seen == LINEAR_PRESENT ? value != LINEAR_ABSENT : seen == value;
}

/* The first place at or behind `place` at which the key has the value, or UINT64_MAX. */
static uint64_t key_next(const struct linear_key *key, uint64_t seen, uint64_t place) {
    size_t low = 0, high = key->count; /* the last change at or before the place is in [low, high) */
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (key->changes[middle].sequence <= place) {
            low = middle;
        } else {
            high = middle;
        }
    }
    if (value_matches(seen, key->changes[low].value)) {
        return place;
    }
    for (size_t i = low + 1; i < key->count; i++) {
        if (value_matches(seen, key->changes[i].value)) {
            return key->changes[i].sequence;
        }
    }
    return UINT64_MAX;
}

/* The first place at or behind the floor that has all that the read saw. */
static bool checker_place(struct linear_checker *checker, const struct linear_call *call, uint64_t *ret_place) {
    uint64_t last = checker->state->sequence + checker->commit_count;
    uint64_t place = call->floor;
    if (call->event->sequence != LINEAR_UNKNOWN) {
        if (call->event->sequence < place || call->event->sequence > last) {
            return linear_complain(checker, call,
                                   "it is of state %" PRIu64 ", but states %" PRIu64 " to %" PRIu64 " were possible",
                                   call->event->sequence, place, last);
        }
        place = call->event->sequence;
    }
    for (size_t settled = 0, i = 0; settled < call->event->count; i = (i + 1) % call->event->count) {
        const struct linear_item *item = call_item(call, i);
        uint64_t next = key_next(&checker->keys[item->key], item->value, place);
        if (next == UINT64_MAX || (call->event->sequence != LINEAR_UNKNOWN && next != place)) {
            return linear_complain(checker, call,
                                   "key %" PRIu32 " had the value %" PRIx64 " in no state from %" PRIu64
                                   " on that fits (its call began at state %" PRIu64 ")",
                                   item->key, item->value, place, call->floor);
        }
        settled = next == place ? settled + 1 : 1;
        place = next;
    }
    *ret_place = place;
    return true;
}

static bool checker_walk(struct linear_checker *checker) {
    uint64_t floor = checker->state->sequence;
    qsort(checker->points, 2 * checker->call_count, sizeof *checker->points, compare_points);
    for (size_t i = 0; i < 2 * checker->call_count; i++) {
        struct linear_call *call = &checker->calls[checker->points[i].call];
        uint64_t place = call->sequence;
        if (!checker->points[i].end) {
            call->floor = floor;
            continue;
        }
        if (call->event->commit && place <= call->floor) {
            return linear_complain(checker, call,
                                   "it got sequence %" PRIu64 ", though state %" PRIu64
                                   " had been shown or acknowledged before it was asked for",
                                   place, call->floor);
        }
        if (!call->event->commit && !checker_place(checker, call, &place)) {
            return false;
        }
        floor = place > floor ? place : floor;
    }
    return true;
}

bool linear_check(const struct linear_log *logs, size_t count, struct linear_state *state, char *text,
                  size_t text_bytes) {
    struct linear_checker checker = {.state = state, .text = text, .text_bytes = text_bytes};
    checker_collect(&checker, logs, count);
    bool right = checker_order(&checker);
    if (right) {
        checker_index(&checker);
        right = checker_walk(&checker);
    }
    if (right) {
        state->sequence += checker.commit_count;
        for (uint32_t key = 0; key < state->keys; key++) {
            state->values[key] = checker.keys[key].changes[checker.keys[key].count - 1].value;
        }
    }
    free(checker.calls);
    free(checker.commits);
    free(checker.points);
    free(checker.keys);
    free(checker.changes);
    return right;
}
