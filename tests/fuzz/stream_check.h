/*
 * stream_check.h - the fold tool's reader of a change stream against a plain one, for both formats.
 *
 * The input's first two bytes say in what portions the rest comes through a pipe: as soon as the reader has to wait it
 * gets the next, so that records arrive in pieces. What it gives out, and how it ends, must be what a reader finds that
 * has all of the stream before it and parses it byte by byte.
 */
#ifndef PLEAT_TESTS_FUZZ_STREAM_CHECK_H
#define PLEAT_TESTS_FUZZ_STREAM_CHECK_H

#include "base/limits.h"
#include "fuzz/fuzz.h"
#include "stream.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#define STREAM_CHECK_BYTES_MAX 32768 /* a pipe takes it without a reader */

/* The plain reader: takes one record off the front. STREAM_END: nothing is left; STREAM_CUT: part of a record. Bytes of
 * *ret_record are `buffer`'s. */
typedef enum stream_result stream_plain(const uint8_t **data, const uint8_t *end, uint8_t *buffer,
                                        struct stream_record *ret_record);

struct stream_feed {
    struct fuzz_input left;
    int fd; /* -1: closed */
    size_t portion;
};

static void stream_feed_next(void *context) {
    struct stream_feed *feed = context;
    struct pleat_slice portion = fuzz_slice(&feed->left, feed->portion);
    FUZZ_CHECK(feed->fd >= 0);
    if (portion.bytes > 0) {
        FUZZ_CHECK(write(feed->fd, portion.data, portion.bytes) == (ssize_t)portion.bytes);
        return;
    }
    (void)close(feed->fd);
    feed->fd = -1;
}

static void stream_check(const uint8_t *data, size_t size, enum stream_format format, stream_plain *plain) {
    struct fuzz_input input = {data, data + size};
    size_t portion = fuzz_u16(&input);
    struct pleat_slice rest = fuzz_slice(&input, STREAM_CHECK_BYTES_MAX);
    const uint8_t *next = rest.data, *end = next + rest.bytes;
    uint8_t *buffer = fuzz_copy(NULL, 0, rest.bytes + 1);
    int pipes[2];
    FUZZ_CHECK(pipe2(pipes, O_CLOEXEC) == 0);
    struct stream_feed feed = {.left = {next, end}, .fd = pipes[1]};
    feed.portion = portion % (rest.bytes + 1) + rest.bytes / 64 + 1;
    struct stream stream = {
        .format = format, .fd = pipes[0], .stop_fd = -1, .idle_ms = 0, .on_idle = stream_feed_next, .context = &feed};
    FUZZ_CHECK(stream_start(&stream) == 0);
    enum stream_result expected, result;
    uint64_t records = 0;
    do {
        struct stream_record wanted = {0}, record = {0};
        expected = plain(&next, end, buffer, &wanted);
        result = stream_next(&stream, &record);
        FUZZ_CHECK_TEXT(result == expected, "%d, not %d, at record %llu: %s", (int)result, (int)expected,
                        (unsigned long long)records, stream.error);
        if (result == STREAM_RECORD) {
            FUZZ_CHECK(record.kind == wanted.kind && fuzz_equal(record.key, wanted.key));
            FUZZ_CHECK(record.kind != STREAM_PUT || fuzz_equal(record.value, wanted.value));
            records++;
            FUZZ_CHECK(stream.number == records);
        }
    } while (result == STREAM_RECORD);
    FUZZ_CHECK(result != STREAM_BAD || (stream.error[0] != '\0' && stream.error_is_input));
    FUZZ_CHECK(stream.capacity <= 1u << 20);
    stream_finish(&stream);
    (void)close(pipes[0]);
    if (feed.fd >= 0) {
        (void)close(feed.fd);
    }
    free(buffer);
}

#endif
