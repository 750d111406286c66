/*
 * stream.c - the buffer below both formats.
 *
 * One buffer holds what was read; records are given out in place. Before each read the rest, less than one record,
 * moves to the front, and the buffer doubles only when one record fills all of it.
 *
 * Waiting is done in poll, on the input and on a pipe that a signal handler writes to: a signal between the look at a
 * flag and a blocking read would otherwise be slept through.
 */
#include "stream.h"

#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { STREAM_READ_BYTES = 1 << 20 };

int stream_start(struct stream *stream) {
    struct stat info;
    stream->capacity = STREAM_READ_BYTES;
    stream->buffer = mem_alloc(&mem_system, stream->capacity);
    stream->always_ready = fstat(stream->fd, &info) == 0 && S_ISREG(info.st_mode);
#ifdef F_SETPIPE_SZ
    (void)fcntl(stream->fd, F_SETPIPE_SZ, STREAM_READ_BYTES); /* fewer switches when it is a pipe; else refused */
#endif
    return stream->buffer != NULL ? 0 : -1;
}

void stream_finish(struct stream *stream) {
    mem_free(&mem_system, stream->buffer);
    stream->buffer = NULL;
}

const char *stream_unit(const struct stream *stream) {
    return stream->format == STREAM_LINES ? "line" : "record";
}

enum stream_result stream_bad(struct stream *stream, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(stream->error, sizeof stream->error, format, arguments);
    va_end(arguments);
    stream->error_is_input = true;
    return STREAM_BAD;
}

/* Until the input can be read without blocking: STREAM_RECORD, STREAM_STOPPED or STREAM_BAD. */
static enum stream_result stream_wait(struct stream *stream) {
    struct pollfd ready[2] = {{.fd = stream->stop_fd, .events = POLLIN}, {.fd = stream->fd, .events = POLLIN}};
    for (;;) {
        int count = poll(ready, stream->always_ready ? 1 : 2, stream->always_ready ? 0 : stream->idle_ms);
        if (count < 0 && errno != EINTR) {
            (void)stream_bad(stream, "poll: %s", strerror(errno));
            stream->error_is_input = false;
            return STREAM_BAD;
        }
        if (count > 0 && ready[0].revents != 0) {
            return STREAM_STOPPED;
        }
        if (count > 0 || (count == 0 && stream->always_ready)) {
            return STREAM_RECORD;
        }
        if (count == 0 && stream->on_idle != NULL) {
            stream->on_idle(stream->context);
        }
    }
}

static bool stream_make_room(struct stream *stream) {
    if (stream->begin > 0) {
        memmove(stream->buffer, stream->buffer + stream->begin, stream->end - stream->begin);
        stream->end -= stream->begin;
        stream->begin = 0;
    }
    if (stream->end < stream->capacity) {
        return true;
    }
    uint8_t *grown = mem_resize(&mem_system, stream->buffer, stream->capacity * 2);
    if (grown == NULL) {
        return false;
    }
    stream->buffer = grown;
    stream->capacity *= 2;
    return true;
}

enum stream_result stream_fill(struct stream *stream) {
    if (!stream_make_room(stream)) {
        return stream_bad(stream, "no memory for a record of more than %zu bytes", stream->capacity);
    }
    ssize_t got;
    do {
        enum stream_result result = stream_wait(stream);
        if (result != STREAM_RECORD) {
            return result;
        }
        got = read(stream->fd, stream->buffer + stream->end, stream->capacity - stream->end);
    } while (got < 0 && (errno == EINTR || errno == EAGAIN));
    if (got < 0) {
        (void)stream_bad(stream, "standard input: %s", strerror(errno));
        stream->error_is_input = false;
        return STREAM_BAD;
    }
    stream->end += (size_t)got;
    stream->read_bytes += (uint64_t)got;
    return got > 0 ? STREAM_RECORD : STREAM_END;
}

enum stream_result stream_next(struct stream *stream, struct stream_record *ret_record) {
    enum stream_result result =
        stream->format == STREAM_LINES ? stream_lines_next(stream, ret_record) : stream_framed_next(stream, ret_record);
    return result == STREAM_END && stream->begin < stream->end ? STREAM_CUT : result;
}
