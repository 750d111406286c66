/*
 * test_linear.c - the judge of linear_stress is judged: planted lies are convicted, true histories are not, and on
 * small histories of any kind it says what trying out every place of every read says.
 */
#include "support/linear.h"
#include "support/random.h"

#include <criterion/criterion.h>
#include <string.h>

#define KEYS 2
#define LOGS 3

static struct linear_log logs[LOGS];
static uint64_t values[KEYS];
static struct linear_state state;
static char text[400];

static void begin(void) {
    for (unsigned i = 0; i < LOGS; i++) {
        logs[i] = (struct linear_log){.thread = i};
    }
    memset(values, 0, sizeof values);
    state = (struct linear_state){.values = values, .keys = KEYS};
    text[0] = '\0';
}

static void end(void) {
    for (unsigned i = 0; i < LOGS; i++) {
        linear_log_fini(&logs[i]);
    }
}

TestSuite(linear, .init = begin, .fini = end);

/* A call of one item, from `from` to `to`. */
static void call(unsigned thread, bool commit, uint64_t from, uint64_t to, uint64_t sequence, uint32_t key,
                 uint64_t value) {
    linear_begin(&logs[thread], commit, from);
    linear_item(&logs[thread], key, value);
    linear_end(&logs[thread], sequence, to);
}

static void commits(unsigned thread, uint64_t from, uint64_t to, uint64_t sequence, uint32_t key, uint64_t value) {
    call(thread, true, from, to, sequence, key, value);
}

static void reads(unsigned thread, uint64_t from, uint64_t to, uint32_t key, uint64_t value) {
    call(thread, false, from, to, LINEAR_UNKNOWN, key, value);
}

static bool fits(void) {
    return linear_check(logs, LOGS, &state, text, sizeof text);
}

static void assert_convicted(const char *part) {
    cr_assert(!fits(), "a lie passed");
    cr_assert_not_null(strstr(text, part), "\"%s\" without \"%s\"", text, part);
}

Test(linear, reads_beside_a_commit_may_see_either_state) {
    commits(0, 10, 20, 1, 0, 100);
    commits(0, 30, 40, 2, 0, 200);
    reads(1, 32, 38, 0, 200);
    reads(2, 31, 33, 0, 100);
    cr_assert(fits(), "%s", text);
    cr_assert_eq(state.sequence, 2);
    cr_assert_eq(values[0], 200);
}

Test(linear, a_stale_read_is_convicted) {
    commits(0, 10, 20, 1, 0, 100);
    commits(0, 30, 40, 2, 0, 200);
    reads(1, 41, 42, 0, 100);
    assert_convicted("thread 1, a read from 41 to 42: key 0");
}

Test(linear, a_read_of_what_was_not_yet_asked_for_is_convicted) {
    reads(1, 5, 6, 0, 100);
    commits(0, 10, 20, 1, 0, 100);
    assert_convicted("thread 0, a commit from 10 to 20");
}

Test(linear, one_thread_that_goes_back_is_convicted) {
    commits(0, 10, 50, 1, 0, 100);
    reads(1, 20, 21, 0, 100);
    reads(1, 22, 23, 0, LINEAR_ABSENT);
    assert_convicted("thread 1, a read from 22 to 23");
}

Test(linear, two_threads_of_which_the_later_sees_less_are_convicted) {
    commits(0, 10, 50, 1, 0, 100);
    reads(1, 20, 21, 0, 100);
    reads(2, 22, 23, 0, LINEAR_ABSENT);
    assert_convicted("thread 2, a read from 22 to 23");
}

Test(linear, two_keys_of_different_states_in_one_read_are_convicted) {
    commits(0, 10, 20, 1, 0, 100);
    commits(0, 20, 30, 2, 1, 200);
    reads(1, 5, 35, 0, LINEAR_ABSENT);
    linear_item(&logs[1], 1, 200);
    assert_convicted("in no state");
}

Test(linear, half_of_a_commit_is_convicted) {
    commits(0, 10, 20, 1, 0, 100);
    linear_item(&logs[0], 1, 100);
    reads(1, 12, 18, 0, 100);
    linear_item(&logs[1], 1, LINEAR_ABSENT);
    assert_convicted("thread 1");
}

Test(linear, a_value_that_nobody_wrote_is_convicted) {
    commits(0, 10, 20, 1, 0, 100);
    reads(1, 12, 30, 0, 101);
    assert_convicted("had the value 65");
}

Test(linear, a_lost_delete_is_convicted_by_a_read_that_learns_only_presence) {
    commits(0, 10, 20, 1, 0, 100);
    commits(0, 30, 40, 2, 0, LINEAR_ABSENT);
    reads(1, 35, 39, 0, LINEAR_PRESENT);
    cr_assert(fits(), "%s", text);
    state.sequence = 0;
    values[0] = 0;
    reads(1, 41, 42, 0, LINEAR_PRESENT);
    assert_convicted("a read from 41");
}

Test(linear, a_read_that_names_another_state_is_convicted) {
    commits(0, 10, 20, 1, 0, 100);
    call(1, false, 30, 31, 0, 0, LINEAR_ABSENT);
    assert_convicted("it is of state 0");
    linear_log_clear(&logs[1]);
    call(1, false, 12, 18, 1, 0, LINEAR_ABSENT);
    assert_convicted("key 0 had the value 0");
    linear_log_clear(&logs[1]);
    call(1, false, 12, 18, 2, 0, 100);
    assert_convicted("it is of state 2");
}

Test(linear, commits_numbered_against_time_are_convicted) {
    commits(0, 10, 20, 2, 0, 100);
    commits(1, 30, 40, 1, 0, 200);
    assert_convicted("thread 1, a commit from 30 to 40: it got sequence 1");
}

Test(linear, missing_and_double_numbers_are_convicted) {
    commits(0, 10, 20, 1, 0, 100);
    commits(1, 10, 20, 3, 0, 200);
    assert_convicted("no commit has sequence 2");
    linear_log_clear(&logs[1]);
    commits(1, 10, 20, 1, 0, 200);
    assert_convicted("sequence 1 was given before");
}

Test(linear, untold_commits_take_the_missing_numbers_in_order) {
    commits(0, 10, 20, 1, 0, 100);
    commits(0, 30, 40, 3, 0, 300);
    commits(1, 22, 28, LINEAR_UNKNOWN, 0, LINEAR_ABSENT);
    commits(1, 42, 48, LINEAR_UNKNOWN, 0, LINEAR_ABSENT);
    reads(2, 29, 29, 0, LINEAR_ABSENT);
    cr_assert(fits(), "%s", text);
    cr_assert_eq(state.sequence, 4);
    cr_assert_eq(values[0], 0);
    state.sequence = 0;
    reads(2, 29, 29, 0, 100);
    assert_convicted("thread 2");
}

Test(linear, a_second_part_starts_from_the_end_of_the_first) {
    commits(0, 10, 20, 1, 0, 100);
    cr_assert(fits(), "%s", text);
    linear_log_clear(&logs[0]);
    commits(0, 30, 40, 2, 1, 200);
    reads(1, 35, 45, 0, 100);
    cr_assert(fits(), "%s", text);
    linear_log_clear(&logs[0]);
    linear_log_clear(&logs[1]);
    reads(1, 50, 51, 1, LINEAR_ABSENT);
    assert_convicted("began at state 2");
}

/* ---- against trying out everything ------------------------------------------------------------------------------ */

#define COMMITS_MAX 4
#define READS_MAX 4

struct small {
    struct linear_event calls[COMMITS_MAX + READS_MAX];
    struct linear_item items[COMMITS_MAX + READS_MAX][KEYS];
    uint64_t states[COMMITS_MAX + 1][KEYS];
    size_t commit_count, read_count;
    uint64_t places[COMMITS_MAX + READS_MAX]; /* commits first: their numbers */
};

/* Commits in the order of their numbers at random, perhaps contrary times; reads of anything. */
static void small_make(struct small *small, struct random *random) {
    *small = (struct small){.commit_count = 1 + random_below(random, COMMITS_MAX),
                            .read_count = 1 + random_below(random, READS_MAX)};
    uint64_t span = 4 + random_below(random, 24);
    bool in_order = random_below(random, 4) != 0;
    for (size_t i = 0; i < small->commit_count + small->read_count; i++) {
        struct linear_event *event = &small->calls[i];
        event->commit = i < small->commit_count;
        event->sequence = event->commit ? i + 1 : LINEAR_UNKNOWN;
        event->begin = event->commit && in_order ? i * span / small->commit_count : random_below(random, span);
        event->end = event->begin + 1 + random_below(random, 6);
        if (event->commit) {
            memcpy(small->states[i + 1], small->states[i], sizeof small->states[i]);
        }
        uint64_t seen = random_below(random, small->commit_count + 1);
        for (uint32_t key = 0; key < KEYS; key++) {
            if (event->commit && random_below(random, 2) == 0) {
                small->states[i + 1][key] = random_below(random, 3) == 0 ? 0 : (i + 1) * 10 + key;
                small->items[i][event->count++] = (struct linear_item){small->states[i + 1][key], key};
            } else if (!event->commit && random_below(random, 4) != 0) {
                uint64_t value = small->states[random_below(random, 8) == 0 ? 0 : seen][key];
                value = value != 0 && random_below(random, 8) == 0 ? LINEAR_PRESENT : value;
                small->items[i][event->count++] = (struct linear_item){value, key};
            }
        }
    }
}

static bool small_place_fits(const struct small *small) {
    size_t total = small->commit_count + small->read_count;
    for (size_t i = small->commit_count; i < total; i++) {
        for (size_t j = 0; j < small->calls[i].count; j++) {
            uint64_t seen = small->items[i][j].value;
            uint64_t there = small->states[small->places[i]][small->items[i][j].key];
            if (seen == LINEAR_PRESENT ? there == 0 : seen != there) {
                return false;
            }
        }
    }
    for (size_t a = 0; a < total; a++) {
        for (size_t b = 0; b < total; b++) {
            if (small->calls[a].end < small->calls[b].begin &&
                (small->calls[b].commit ? small->places[a] >= small->places[b] : small->places[a] > small->places[b])) {
                return false;
            }
        }
    }
    return true;
}

/* Whether any choice of places for the reads from `next` on fits. */
static bool small_any_fits(struct small *small, size_t next) {
    if (next == small->commit_count + small->read_count) {
        return small_place_fits(small);
    }
    for (small->places[next] = 0; small->places[next] <= small->commit_count; small->places[next]++) {
        if (small_any_fits(small, next + 1)) {
            return true;
        }
    }
    return false;
}

Test(linear, agrees_with_trying_out_every_place) {
    struct random random = random_begin("linear/agrees_with_trying_out_every_place");
    size_t right = 0, wrong = 0;
    for (int round = 0; round < 60000; round++) {
        struct small small;
        small_make(&small, &random);
        begin();
        for (size_t i = 0; i < small.commit_count + small.read_count; i++) {
            struct linear_log *log = &logs[i % LOGS];
            small.places[i] = small.calls[i].sequence;
            linear_begin(log, small.calls[i].commit, small.calls[i].begin);
            for (size_t j = 0; j < small.calls[i].count; j++) {
                linear_item(log, small.items[i][j].key, small.items[i][j].value);
            }
            linear_end(log, small.calls[i].sequence, small.calls[i].end);
        }
        bool expected = small_any_fits(&small, small.commit_count), found = fits();
        cr_assert_eq(found, expected, "round %d: the check says %d (%s), trying out says %d", round, found, text,
                     expected);
        right += found;
        wrong += !found;
        end();
    }
    cr_assert(right > 1000 && wrong > 1000, "%zu fit and %zu do not: the histories are of one kind", right, wrong);
}
