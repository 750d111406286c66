/*
 * prefix_latency.c - how long it takes to read all routes of a service: one prefix read of a fold of routes_stream.
 *
 *     prefix_latency DIR SPACE ROUTES [READS]
 *
 * Reads random services through the public API alone, times each, checks that all 40 routes came, and prints the median
 * and the 99th percentile.
 */
#include <pleat/pleat.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SERVICE_ROUTES = 40, PREFIX_BYTES = 13, READS = 100000 };

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int count_row(void *context, const struct pleat_row *row) {
    uint64_t *rows = context;
    *rows += row->value.bytes > 0;
    return 0;
}

static int order(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* Times `reads` prefix reads into ns[]; 0, or 1 with a message. */
static int measure(struct pleat_space *space, uint64_t routes, uint32_t *ns, size_t reads) {
    uint64_t random = 88172645463325252u;
    for (size_t i = 0; i < reads; i++) {
        struct pleat_error err;
        char prefix[PREFIX_BYTES + 1];
        uint64_t rows = 0;
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        uint64_t service = random % (routes / SERVICE_ROUTES);
        snprintf(prefix, sizeof prefix, "svc.%08" PRIx64 ".", service * 2654435761u & 0xffffffffu);
        uint64_t begin = now_ns();
        int rc = pleat_scan(space, PLEAT_ITER_OPTIONS(.prefix = {prefix, PREFIX_BYTES}), count_row, &rows, &err);
        uint64_t elapsed = now_ns() - begin;
        ns[i] = elapsed < UINT32_MAX ? (uint32_t)elapsed : UINT32_MAX;
        if (rc < 0 || rows != SERVICE_ROUTES) {
            fprintf(stderr, "prefix %s: %s, %" PRIu64 " rows of %d\n", prefix, rc < 0 ? err.message : "no error", rows,
                    SERVICE_ROUTES);
            return 1;
        }
    }
    qsort(ns, reads, sizeof *ns, order);
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 4 || argc > 5) {
        fputs("usage: prefix_latency DIR SPACE ROUTES [READS]\n", stderr);
        return 2;
    }
    uint64_t routes = strtoull(argv[3], NULL, 10);
    size_t reads = argc > 4 ? (size_t)strtoull(argv[4], NULL, 10) : READS;
    struct pleat_error err;
    struct pleat_db *db = NULL;
    struct pleat_space *space;
    if (routes < SERVICE_ROUTES || reads == 0) {
        fprintf(stderr, "ROUTES is at least %d, READS at least 1\n", SERVICE_ROUTES);
        return 2;
    }
    if (pleat_open(argv[1], PLEAT_OPTIONS(.read_only = true, .open_mode = PLEAT_MUST_EXIST), &db, &err) < 0 ||
        pleat_space_open(db, (struct pleat_slice){argv[2], strlen(argv[2])},
                         PLEAT_SPACE_OPTIONS(.open_mode = PLEAT_MUST_EXIST), &space, &err) < 0) {
        fprintf(stderr, "prefix_latency: %s\n", err.message);
        pleat_close(db, NULL);
        return 1;
    }
    uint32_t *ns = malloc(reads * sizeof *ns);
    int status = ns == NULL ? 1 : measure(space, routes, ns, reads); /* the first time, from the page cache */
    if (status == 0) {
        printf("prefix reads of %d routes, first:  p50 %6.2f us, p99 %6.2f us\n", SERVICE_ROUTES, ns[reads / 2] / 1e3,
               ns[reads - 1 - reads / 100] / 1e3);
        status = measure(space, routes, ns, reads);
    }
    if (status == 0) {
        printf("prefix reads of %d routes, cached: p50 %6.2f us, p99 %6.2f us\n", SERVICE_ROUTES, ns[reads / 2] / 1e3,
               ns[reads - 1 - reads / 100] / 1e3);
    }
    free(ns);
    pleat_close(db, NULL);
    return status;
}
