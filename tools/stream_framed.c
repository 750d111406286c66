/* stream_framed.c - the framed format: +klen,vlen:key->value, -klen:key, =clen:cursor, each with a newline behind. */
#include "stream.h"

#include "base/limits.h"

#include <inttypes.h>
#include <string.h>

enum { FRAME_HEAD_BYTES_MAX = 32 }; /* "+65535,268435456:" is far shorter */

struct frame {
    const uint8_t *p; /* where parsing stands; NULL: what came before was malformed */
    const uint8_t *end;
};

/* A decimal number and the byte that must follow it. */
static uint64_t frame_number(struct frame *frame, char behind) {
    uint64_t number = 0;
    const uint8_t *p = frame->p;
    while (p != NULL && p < frame->end && *p >= '0' && *p <= '9' && number < UINT64_MAX / 100) {
        number = number * 10 + (uint64_t)(*p++ - '0');
    }
    bool well_formed = p != NULL && p > frame->p && p < frame->end && *p == (uint8_t)behind;
    frame->p = well_formed ? p + 1 : NULL;
    return number;
}

/* Makes `bytes` from stream->begin available. */
static enum stream_result frame_need(struct stream *stream, size_t bytes) {
    while (stream->end - stream->begin < bytes) {
        enum stream_result result = stream_fill(stream);
        if (result != STREAM_RECORD) {
            return result;
        }
    }
    return STREAM_RECORD;
}

/* The head up to and including its colon: its kind and lengths. */
static enum stream_result frame_head(struct stream *stream, enum stream_kind *ret_kind, size_t *ret_head_bytes,
                                     size_t *ret_key_bytes, size_t *ret_value_bytes) {
    const uint8_t *colon = NULL;
    while (colon == NULL) {
        size_t bytes = stream->end - stream->begin;
        size_t within = bytes < FRAME_HEAD_BYTES_MAX ? bytes : FRAME_HEAD_BYTES_MAX;
        colon = bytes > 0 ? memchr(stream->buffer + stream->begin, ':', within) : NULL;
        if (colon == NULL) {
            if (bytes >= FRAME_HEAD_BYTES_MAX) {
                return stream_bad(stream, "no colon in the first %d bytes", FRAME_HEAD_BYTES_MAX);
            }
            enum stream_result result = frame_need(stream, bytes + 1);
            if (result != STREAM_RECORD) {
                return result;
            }
        }
    }
    const uint8_t *head = stream->buffer + stream->begin;
    struct frame frame = {.p = head + 1, .end = colon + 1};
    uint64_t value_bytes = 0;
    *ret_kind = head[0] == '+' ? STREAM_PUT : head[0] == '-' ? STREAM_DELETE : STREAM_COMMIT;
    uint64_t key_bytes = frame_number(&frame, head[0] == '+' ? ',' : ':');
    if (head[0] == '+') {
        value_bytes = frame_number(&frame, ':');
    }
    if (frame.p != colon + 1 || (head[0] != '+' && head[0] != '-' && head[0] != '=')) {
        return stream_bad(stream, "not one of +klen,vlen:key->value  -klen:key  =clen:cursor");
    }
    uint64_t limit = *ret_kind == STREAM_COMMIT ? LIMIT_CURSOR_BYTES : LIMIT_KEY_BYTES;
    if (key_bytes > limit || value_bytes > STREAM_VALUE_BYTES_MAX) {
        return stream_bad(stream, "%s of %" PRIu64 " bytes, the limit is %" PRIu64,
                          key_bytes <= limit           ? "value"
                          : *ret_kind == STREAM_COMMIT ? "cursor"
                                                       : "key",
                          key_bytes <= limit ? value_bytes : key_bytes,
                          key_bytes <= limit ? (uint64_t)STREAM_VALUE_BYTES_MAX : limit);
    }
    *ret_head_bytes = (size_t)(colon + 1 - head);
    *ret_key_bytes = (size_t)key_bytes;
    *ret_value_bytes = (size_t)value_bytes;
    return STREAM_RECORD;
}

enum stream_result stream_framed_next(struct stream *stream, struct stream_record *ret_record) {
    enum { ARROW_BYTES = 2 };
    size_t head_bytes = 0, key_bytes = 0, value_bytes = 0;
    enum stream_result result = frame_need(stream, 1);
    if (result != STREAM_RECORD) {
        return result;
    }
    stream->number++;
    result = frame_head(stream, &ret_record->kind, &head_bytes, &key_bytes, &value_bytes);
    if (result != STREAM_RECORD) {
        return result;
    }
    bool put = ret_record->kind == STREAM_PUT;
    size_t bytes = head_bytes + key_bytes + (put ? ARROW_BYTES + value_bytes : 0) + 1;
    result = frame_need(stream, bytes);
    if (result != STREAM_RECORD) {
        return result;
    }
    const uint8_t *key = stream->buffer + stream->begin + head_bytes;
    if (put && memcmp(key + key_bytes, "->", ARROW_BYTES) != 0) {
        return stream_bad(stream, "no -> behind a key of %zu bytes", key_bytes);
    }
    if (stream->buffer[stream->begin + bytes - 1] != '\n') {
        return stream_bad(stream, "no newline where its lengths say that it ends");
    }
    ret_record->key = (struct pleat_slice){key, key_bytes};
    ret_record->value = (struct pleat_slice){put ? key + key_bytes + ARROW_BYTES : NULL, value_bytes};
    stream->begin += bytes;
    return STREAM_RECORD;
}
