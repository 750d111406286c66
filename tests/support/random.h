/*
 * random.h - the generator of every randomised test: the same seed is the same run.
 *
 * The seed comes from PLEAT_TEST_SEED, or is fresh; random_begin prints one line that replays a failure:
 *     seed: PLEAT_TEST_SEED=0x... <test>
 */
#ifndef PLEAT_TESTS_RANDOM_H
#define PLEAT_TESTS_RANDOM_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

struct random {
    uint64_t state;
};

static inline uint64_t random_next(struct random *random) {
    uint64_t z = (random->state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

/* Uniform in [0, bound); bound > 0. */
static inline uint64_t random_below(struct random *random, uint64_t bound) {
    __extension__ typedef unsigned __int128 wide;
    return (uint64_t)(((wide)random_next(random) * bound) >> 64);
}

/* Starts a randomised test and prints the line that replays it. */
static inline struct random random_begin(const char *test) {
    const char *given = getenv("PLEAT_TEST_SEED");
    uint64_t seed;
    if (given != NULL) {
        seed = strtoull(given, NULL, 0);
    } else {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        seed = (uint64_t)now.tv_nsec * 0x9e3779b97f4a7c15ull ^ (uint64_t)now.tv_sec ^ ((uint64_t)getpid() << 40);
    }
    fprintf(stderr, "seed: PLEAT_TEST_SEED=0x%llx %s\n", (unsigned long long)seed, test);
    return (struct random){seed};
}

#endif
