/*
 * engine_empty.c - the engine that stores nothing: what the driver itself costs.
 *
 * Answers come from the echo (engine.h). The driver's generator, its checks and its clocks run as with any other
 * engine, so the figures of this one are what is to be taken off the figures of the others.
 *
 * With `--library lie:WHAT` it answers wrongly, once, late: WHAT is get, absent, many, scan, order, missing or cursor.
 * The tests hold the driver to finding each.
 */
#include "engine.h"

#define LIE_AT 1000 /* the answer of its kind that is wrong */

struct engine_store {
    const char *lie; /* "" : none */
};

struct engine_session {
    const struct engine_echo *echo;
    const char *lie;
    uint64_t answers;
    uint8_t wrong[1024];
};

/* Whether this answer is to be a lie of the given kind. */
static bool lies(struct engine_session *session, const char *kind) {
    return session->lie[0] != '\0' && strcmp(session->lie, kind) == 0 && ++session->answers == LIE_AT;
}

/* The slice with its last bit flipped. */
static struct slice flipped(struct engine_session *session, struct slice right) {
    memcpy(session->wrong, right.data, right.bytes);
    session->wrong[right.bytes - 1] ^= 1;
    return (struct slice){session->wrong, right.bytes};
}

static struct engine_store *empty_open(const struct engine_options *options) {
    struct engine_store *store = engine_new(sizeof *store);
    bool lie = options->library != NULL && strncmp(options->library, "lie:", 4) == 0;
    store->lie = lie ? options->library + 4 : "";
    return store;
}

static void empty_close(struct engine_store *store) {
    free(store);
}

static struct engine_session *empty_session_open(struct engine_store *store, const struct engine_echo *echo) {
    struct engine_session *session = engine_new(sizeof *session);
    session->echo = echo;
    session->lie = store->lie;
    return session;
}

static void empty_session_close(struct engine_session *session) {
    free(session);
}

static void empty_apply(struct engine_session *session, const struct engine_update *updates, size_t count,
                        struct slice cursor) {
    (void)session;
    (void)updates;
    (void)count;
    (void)cursor;
}

static bool empty_get(struct engine_session *session, struct slice key, struct slice *ret_value) {
    (void)key;
    *ret_value = session->echo->value;
    if (session->lie[0] != '\0' && session->echo->present && lies(session, "get")) {
        *ret_value = flipped(session, *ret_value);
    }
    return session->echo->present != lies(session, "absent");
}

static bool empty_exists(struct engine_session *session, struct slice key) {
    (void)key;
    return session->echo->present;
}

static void empty_get_many(struct engine_session *session, const struct slice *keys, size_t count, bool *ret_present,
                           struct slice *ret_values) {
    (void)keys;
    for (size_t i = 0; i < count; i++) {
        ret_present[i] = session->echo->present;
        ret_values[i] = lies(session, "many") ? flipped(session, session->echo->value) : session->echo->value;
    }
}

static void empty_scan(struct engine_session *session, const struct engine_range *range, engine_row *row,
                       void *context) {
    const struct engine_echo *echo = session->echo;
    uint64_t rows = echo->rows - (echo->rows > 0 && lies(session, "missing"));
    (void)range;
    for (uint64_t i = 0; i < rows; i++) {
        struct slice key = lies(session, "order") ? flipped(session, echo->key) : echo->key;
        struct slice value = lies(session, "scan") ? flipped(session, echo->value) : echo->value;
        if (!row(context, key, value)) {
            break;
        }
    }
}

static size_t empty_cursor(struct engine_session *session, void *buffer) {
    memcpy(buffer, session->echo->cursor.data, session->echo->cursor.bytes);
    *(uint8_t *)buffer ^= strcmp(session->lie, "cursor") == 0;
    return session->echo->cursor.bytes;
}

static void empty_nothing(struct engine_store *store) {
    (void)store;
}

static void empty_describe(struct engine_store *store, char *text, size_t bytes) {
    (void)store;
    (void)snprintf(text, bytes, "nothing is stored");
}

__attribute__((visibility("default"))) extern const struct engine bench_engine;
const struct engine bench_engine = {
    .name = "empty",
    .tuning = "Stores nothing and answers what the driver expects: its figures are the driver's own cost.",
    .syncs_itself = true,
    .open = empty_open,
    .close = empty_close,
    .session_open = empty_session_open,
    .session_close = empty_session_close,
    .apply = empty_apply,
    .get = empty_get,
    .exists = empty_exists,
    .get_many = empty_get_many,
    .scan = empty_scan,
    .cursor = empty_cursor,
    .sync = empty_nothing,
    .settle = empty_nothing,
    .describe = empty_describe,
};
