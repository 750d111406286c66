/*
 * routes_stream.c - a generated change stream: the routes of many services, in random order, with a cursor a batch.
 *
 *     routes_stream [ROUTES [BATCH]]        default 1,000,000 and 100
 *
 *     put<TAB>svc.<8 hex digits>.route.<6 hex digits><TAB><100 bytes>        commit<TAB><routes so far>
 *
 * Routes come in services of 40, spread over the key space; the order is a fixed permutation, the same at every run.
 * Half of a value's bytes are random letters, the rest compresses.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SERVICE_ROUTES = 40, VALUE_BYTES = 100 };

static uint64_t mix(uint64_t z) {
    z += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static char *put_hex(char *p, uint64_t x, int digits) {
    for (int i = digits - 1; i >= 0; i--) {
        p[i] = "0123456789abcdef"[x & 15];
        x >>= 4;
    }
    return p + digits;
}

static char *put_text(char *p, const char *text) {
    size_t bytes = strlen(text);
    memcpy(p, text, bytes);
    return p + bytes;
}

static char *put_value(char *p, uint64_t route) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    memset(p, 'v', VALUE_BYTES);
    for (uint64_t run = 0; run < 5; run++) {
        uint64_t x = mix(route * 5 + run);
        for (int i = 0; i < 10; i++) {
            p[run * 20 + (uint64_t)i] = letters[x & 63];
            x >>= 6;
        }
    }
    return p + VALUE_BYTES;
}

/* The i-th of a permutation of [0, count): a small Feistel network over the next power of four, walked until inside. */
static uint64_t permuted(uint64_t i, uint64_t count) {
    int half = 1;
    while ((uint64_t)1 << (2 * half) < count) {
        half++;
    }
    uint64_t mask = ((uint64_t)1 << half) - 1;
    do {
        uint64_t left = i >> half, right = i & mask;
        for (uint64_t round = 0; round < 4; round++) {
            uint64_t next = left ^ (mix(right * 4 + round) & mask);
            left = right;
            right = next;
        }
        i = left << half | right;
    } while (i >= count);
    return i;
}

int main(int argc, char **argv) {
    uint64_t routes = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000000;
    uint64_t batch = argc > 2 ? strtoull(argv[2], NULL, 10) : 100;
    if (argc > 3 || routes == 0 || batch == 0) {
        fputs("usage: routes_stream [ROUTES [BATCH]]\n", stderr);
        return 2;
    }
    setvbuf(stdout, NULL, _IOFBF, 1 << 20);
    for (uint64_t i = 0; i < routes; i++) {
        char line[160];
        uint64_t route = permuted(i, routes);
        char *p = put_text(line, "put\tsvc.");
        p = put_hex(p, route / SERVICE_ROUTES * 2654435761u & 0xffffffffu, 8);
        p = put_text(p, ".route.");
        p = put_hex(p, route % SERVICE_ROUTES, 6);
        *p++ = '\t';
        p = put_value(p, route);
        *p++ = '\n';
        fwrite(line, 1, (size_t)(p - line), stdout);
        if ((i + 1) % batch == 0 || i + 1 == routes) {
            printf("commit\t%llu\n", (unsigned long long)(i + 1));
        }
    }
    return fflush(stdout) == 0 ? 0 : 1;
}
