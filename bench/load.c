/* load.c - see load.h. Everything here is in the timed loops: it must cost nanoseconds. */
#include "load.h"

#include <sys/mman.h>

#define VALUE_STEP 0x9e3779b97f4a7c15u

static char hex_pairs[256][2];

static void hex_init(void) {
    static const char digits[] = "0123456789abcdef";
    for (unsigned i = 0; i < 256; i++) {
        hex_pairs[i][0] = digits[i >> 4];
        hex_pairs[i][1] = digits[i & 15];
    }
}

static void put_hex(uint8_t *at, uint64_t x, unsigned pairs) {
    while (pairs > 0) {
        memcpy(at + --pairs * 2, hex_pairs[x & 255], 2);
        x >>= 8;
    }
}

void load_init(struct load *load, enum load_kind kind, uint64_t keys, uint32_t group, uint32_t value_bytes,
               bool compressible) {
    static const char text[] = "\",\"upstream\":\"10.20.30.40:8080\",\"mode\":\"rw\",\"weight\":12";
    hex_init();
    *load = (struct load){
        .kind = kind,
        .keys = keys,
        .group = group,
        .key_bytes = kind == LOAD_ROUTE ? 25 : 20,
        .value_bytes = value_bytes,
        .random_bytes = compressible ? value_bytes * 45 / 100 : value_bytes,
    };
    load->random_bytes = load->random_bytes < 8 ? 8 : load->random_bytes;
    for (size_t i = 0; i < sizeof load->text; i++) {
        load->text[i] = (uint8_t)text[i % (sizeof text - 1)];
    }
    load->generations = mmap(NULL, keys, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (load->generations == MAP_FAILED) {
        engine_fail("bench", "mmap", "no memory for the model");
    }
}

void load_free(struct load *load) {
    (void)munmap(load->generations, load->keys);
}

void load_order_init(struct load_order *order, uint64_t count, bool in_order) {
    unsigned bits = 1;
    while (bits < 63 && ((uint64_t)1 << bits) < count) {
        bits++;
    }
    *order = (struct load_order){count, ((uint64_t)1 << bits) - 1, bits / 2 + 1, in_order};
}

/* Steps that can each be undone below 2^bits, walked until the result is below count: fewer than two walks on average.
 */
uint64_t load_order_at(const struct load_order *order, uint64_t at) {
    if (order->in_order) {
        return at;
    }
    do {
        at ^= at >> order->half;
        at = (at * 0xff51afd7ed558ccdu) & order->mask;
        at ^= at >> order->half;
        at = (at * 0xc4ceb9fe1a85ec53u + 0x5851f42d4c957f2du) & order->mask;
        at ^= at >> order->half;
    } while (at >= order->count);
    return at;
}

static void load_walk_ask(struct load_walk *walk, uint64_t at) {
    uint64_t number = load_order_at(walk->order, walk->next);
    walk->ahead[at % LOAD_AHEAD] = number;
    walk->next = walk->next + 1 < walk->order->count ? walk->next + 1 : 0;
    load_prefetch(walk->load, number);
}

void load_walk_init(struct load_walk *walk, const struct load *load, const struct load_order *order) {
    *walk = (struct load_walk){.load = load, .order = order};
    for (uint64_t at = 0; at < LOAD_AHEAD; at++) {
        load_walk_ask(walk, at);
    }
}

uint64_t load_walk_next(struct load_walk *walk) {
    uint64_t number = walk->ahead[walk->at % LOAD_AHEAD];
    load_walk_ask(walk, walk->at++);
    return number;
}

struct slice load_key(const struct load *load, uint64_t number, uint8_t *key) {
    if (load->kind == LOAD_USER) {
        memcpy(key, "user", 4);
        put_hex(key + 4, load_mix(number + 1), 8);
    } else {
        memcpy(key, "svc.", 4);
        put_hex(key + 4, number / load->group, 4);
        memcpy(key + 12, ".route.", 7);
        put_hex(key + 19, number % load->group, 3);
    }
    return (struct slice){key, load->key_bytes};
}

struct slice load_absent_key(const struct load *load, uint64_t number, uint8_t *key) {
    struct slice made = load_key(load, number, key);
    key[made.bytes - 1] = 'x';
    return made;
}

struct slice load_value(const struct load *load, uint64_t number, unsigned generation, uint8_t *value) {
    uint64_t first = number * VALUE_STEP + generation;
    memcpy(value, &first, sizeof first);
    uint64_t word = load_mix(first);
    for (uint32_t at = 8; at < load->random_bytes; at += 8) {
        uint64_t x = (word += VALUE_STEP);
        x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93u;
        x ^= x >> 29;
        memcpy(value + at, &x, sizeof x);
    }
    memcpy(value + load->random_bytes, load->text, load->value_bytes - load->random_bytes);
    return (struct slice){value, load->value_bytes};
}

bool load_value_is(const struct load *load, uint64_t number, unsigned low, unsigned high, struct slice value) {
    uint8_t expected[LOAD_VALUE_BYTES_MAX + 8];
    uint64_t first;
    if (value.bytes != load->value_bytes) {
        return false;
    }
    memcpy(&first, value.data, sizeof first);
    uint64_t generation = first - number * VALUE_STEP;
    bool within =
        low <= high ? generation >= low && generation <= high
                    : (generation >= low && generation <= LOAD_GENERATIONS) || (generation >= 1 && generation <= high);
    if (!within) {
        return false;
    }
    (void)load_value(load, number, (unsigned)generation, expected);
    return memcmp(expected, value.data, value.bytes) == 0;
}

static uint64_t fold_words(uint64_t a, uint64_t b) {
    __extension__ unsigned __int128 product = (__extension__(unsigned __int128) a) * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Sixteen bytes a step, each step with a key of its own; the last ones overlap. */
static uint64_t hash_bytes(struct slice bytes, uint64_t key) {
    const uint8_t *data = bytes.data;
    uint64_t sum = bytes.bytes * VALUE_STEP + key;
    uint64_t a, b;
    if (bytes.bytes < 16) {
        uint8_t padded[16] = {0};
        memcpy(padded, data, bytes.bytes);
        memcpy(&a, padded, 8);
        memcpy(&b, padded + 8, 8);
        return fold_words(a ^ key, b ^ sum);
    }
    for (size_t at = 0; at + 16 < bytes.bytes; at += 16) {
        memcpy(&a, data + at, 8);
        memcpy(&b, data + at + 8, 8);
        key += VALUE_STEP;
        sum += fold_words(a ^ key, b ^ 0xe7037ed1a0b428dbu);
    }
    memcpy(&a, data + bytes.bytes - 16, 8);
    memcpy(&b, data + bytes.bytes - 8, 8);
    return sum ^ fold_words(a ^ key, b ^ 0x8ebc6af09c88c6e3u);
}

uint64_t load_chain(uint64_t chain, struct slice key, struct slice value) {
    uint64_t row = hash_bytes(key, 0xa0761d6478bd642fu) + 3 * hash_bytes(value, 0x589965cc75374cc3u);
    return (chain << 7 | chain >> 57) * 0x9fb21c651e98df25u + row;
}
