/*
 * stream.h - a change stream on a file descriptor, one record at a time.
 *
 * Two formats. Lines, with the escapes of escape.h:
 *
 *     put<TAB>key<TAB>value        del<TAB>key        commit<TAB>cursor
 *
 * Framed, for any bytes without escapes, one record a line:
 *
 *     +klen,vlen:key->value        -klen:key          =clen:cursor
 *
 *   T1  A record counts only when its newline is there: a stream that was cut inside a cursor must not commit under
 *       what is left of it.
 *   T2  Memory grows with what was read, never with a length that a record merely claims.
 *   T3  After anything but STREAM_RECORD the stream gives no more records.
 */
#ifndef PLEAT_TOOLS_STREAM_H
#define PLEAT_TOOLS_STREAM_H

#include "pleat/pleat.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STREAM_VALUE_BYTES_MAX (256u << 20) /* the store's default limit */

enum stream_format {
    STREAM_LINES,
    STREAM_FRAMED,
};

enum stream_kind {
    STREAM_PUT,
    STREAM_DELETE,
    STREAM_COMMIT,
};

struct stream_record {
    enum stream_kind kind;
    struct pleat_slice key; /* of a commit: the cursor; borrowed until the next call */
    struct pleat_slice value;
};

enum stream_result {
    STREAM_RECORD,
    STREAM_END,
    STREAM_CUT,     /* the input ended inside a record */
    STREAM_STOPPED, /* stop_fd became readable */
    STREAM_BAD,     /* a malformed record, or a failed read: stream->error */
};

struct stream {
    enum stream_format format;
    int fd;
    int stop_fd; /* readable: stop before the next read */
    int idle_ms; /* call on_idle this often while waiting for input; -1: never */
    void (*on_idle)(void *context);
    void *context;

    uint64_t number;     /* of the line or record last looked at, from 1 */
    char error[160];     /* of STREAM_BAD, without the number */
    bool error_is_input; /* the error is about the record `number`, not about reading */

    bool always_ready; /* a regular file: no need to ask */
    uint8_t *buffer;
    size_t capacity;
    size_t begin, end; /* what was read and not yet given out */
    uint64_t read_bytes;
};

/* stream: the fields above `number` are set by the caller, the others zero. 0, or -1 without memory. */
int stream_start(struct stream *stream);
void stream_finish(struct stream *stream);
enum stream_result stream_next(struct stream *stream, struct stream_record *ret_record);
/* What a record is called in messages: "line" or "record". */
const char *stream_unit(const struct stream *stream);

/* ---- for the formats -------------------------------------------------------------------------------------------- */

/* Reads more behind what is there; may move the buffer. STREAM_RECORD: at least one byte came. */
enum stream_result stream_fill(struct stream *stream);
/* Sets the error and returns STREAM_BAD. */
enum stream_result stream_bad(struct stream *stream, const char *format, ...) __attribute__((format(printf, 2, 3)));
enum stream_result stream_lines_next(struct stream *stream, struct stream_record *ret_record);
enum stream_result stream_framed_next(struct stream *stream, struct stream_record *ret_record);

#endif
