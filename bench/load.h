/*
 * load.h - the keys and values of a benchmark, made from numbers, and the model of what a store must hold.
 *
 * Key number n and generation g give the key and the value, so that whatever a store answers can be made again and
 * compared:
 *
 *     route key    svc.%08x.route.%06x    group, number within the group: 25 bytes
 *     user key     user%016llx            of a bijection of n, 20 bytes (YCSB)
 *     value        8 bytes that n and g give and that give g back | random bytes | a text that is the same in all
 *
 * The model is one byte a key: its generation, 0 for absent. It lives in memory that the driver shares with its
 * children, for each stage runs in a process of its own. Whoever writes sets it after the commit; so a reader beside it
 * may see the generation that it read here before its read, up to one more than it reads here after.
 */
#ifndef PLEAT_BENCH_LOAD_H
#define PLEAT_BENCH_LOAD_H

#include "engine.h"

#define LOAD_KEY_BYTES_MAX 32
#define LOAD_VALUE_BYTES_MAX 1024
#define LOAD_PREFIX_BYTES 13
#define LOAD_GENERATIONS 250 /* then it starts again at 1 */

enum load_kind { LOAD_ROUTE, LOAD_USER };

struct load {
    enum load_kind kind;
    uint64_t keys;  /* numbers are below it */
    uint32_t group; /* keys in a group; keys is a multiple */
    uint32_t key_bytes;
    uint32_t value_bytes;
    uint32_t random_bytes; /* of each value; the rest is text */
    uint8_t text[LOAD_VALUE_BYTES_MAX];
    uint8_t *generations; /* shared with the children */
};

/* A permutation of [0, count). */
struct load_order {
    uint64_t count;
    uint64_t mask;
    unsigned half;
    bool in_order;
};

static inline uint64_t load_mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* The next of a sequence: splitmix64. */
static inline uint64_t load_random(uint64_t *state) {
    return load_mix(*state += 0x9e3779b97f4a7c15u);
}

/* Uniform below `bound`. */
static inline uint64_t load_below(uint64_t *state, uint64_t bound) {
    return (uint64_t)(((__extension__(unsigned __int128) load_random(state)) * bound) >> 64);
}

/* compressible: about half of each value. Generations are zero: nothing is there. */
void load_init(struct load *load, enum load_kind kind, uint64_t keys, uint32_t group, uint32_t value_bytes,
               bool compressible);
void load_free(struct load *load);

void load_order_init(struct load_order *order, uint64_t count, bool in_order);
/* The at-th number of the order. */
uint64_t load_order_at(const struct load_order *order, uint64_t at);

#define LOAD_AHEAD 8 /* a power of two */

/* The numbers of an order one behind the other, over and over, the model asked for some numbers ahead. */
struct load_walk {
    const struct load *load;
    const struct load_order *order;
    uint64_t at;
    uint64_t next; /* in the order, of what is asked for next */
    uint64_t ahead[LOAD_AHEAD];
};

void load_walk_init(struct load_walk *walk, const struct load *load, const struct load_order *order);
uint64_t load_walk_next(struct load_walk *walk);

/* `key` has room for LOAD_KEY_BYTES_MAX, `value` for LOAD_VALUE_BYTES_MAX + 8 bytes. */
struct slice load_key(const struct load *load, uint64_t number, uint8_t *key);
struct slice load_value(const struct load *load, uint64_t number, unsigned generation, uint8_t *value);
/* A key that is never there, between that of the number and the next one. */
struct slice load_absent_key(const struct load *load, uint64_t number, uint8_t *key);

/* Whether it is the value of the number, in one of the generations low..high (around the end of them when high < low).
 */
bool load_value_is(const struct load *load, uint64_t number, unsigned low, unsigned high, struct slice value);

static inline unsigned load_next_generation(unsigned generation) {
    return generation % LOAD_GENERATIONS + 1;
}

static inline unsigned load_generation(const struct load *load, uint64_t number) {
    return __atomic_load_n(&load->generations[number], __ATOMIC_ACQUIRE); /* pairs with the release below */
}

/* Asks for the model's byte of a number that will be needed soon. The model is as large as memory is slow: without it
 * the driver would wait for a cache line an operation, the longer the more of the cache the engine takes. */
static inline void load_prefetch(const struct load *load, uint64_t number) {
    __builtin_prefetch(&load->generations[number], 1);
}

static inline void load_generation_set(struct load *load, uint64_t number, unsigned generation) {
    __atomic_store_n(&load->generations[number], (uint8_t)generation, __ATOMIC_RELEASE);
}

/* Of all bytes of a row, and of the rows before it in order: `chain` starts at 0. */
uint64_t load_chain(uint64_t chain, struct slice key, struct slice value);

#endif
