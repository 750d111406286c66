/*
 * options.c - one table row an option: name, place, default, limits, unit. The rows drive validation and error texts.
 *
 * Zero means the default. A struct that is shorter than the library's was compiled against an older header: the missing
 * tail is zero. One that is longer and has a non-zero tail asks for something that this library does not know.
 */
#include "base/assert.h"
#include "db/db.h"

#include <inttypes.h>
#include <string.h>

struct option_row {
    const char *name;
    const char *unit;
    size_t offset;
    size_t bytes; /* 1, 4 or 8 */
    uint64_t preset;
    uint64_t least;
    uint64_t most;
};

#define ROW(type, field, preset, least, most, unit) \
    {#field, unit, offsetof(struct type, field), sizeof(((struct type *)0)->field), preset, least, most}

static const struct option_row store_rows[] = {
    ROW(pleat_options, open_mode, 0, 0, PLEAT_MUST_NOT_EXIST, "mode"),
    ROW(pleat_options, durability, PLEAT_SYNC_INTERVAL, PLEAT_SYNC_INTERVAL, PLEAT_SYNC_NONE, "mode"),
    ROW(pleat_options, file_mode, 0600, 0, 0777, "permission bits"),
    ROW(pleat_options, sync_interval_ms, 1000, 1, 86400000, "ms"),
    ROW(pleat_options, sync_interval_bytes, 64ull << 20, 1, 1ull << 40, "bytes"),
    ROW(pleat_options, cache_bytes, 256ull << 20, 64ull << 10, 1ull << 44, "bytes"),
    ROW(pleat_options, memtable_bytes, 64ull << 20, 1ull << 10, 7ull << 30, "bytes"), /* twice that is an arena */
    ROW(pleat_options, table_bytes, 64ull << 20, 1ull << 10, 4ull << 30, "bytes"), /* and its index below 2 GiB */
    ROW(pleat_options, level_base_bytes, 256ull << 20, 1ull << 10, 1ull << 44, "bytes"),
    ROW(pleat_options, level_ratio, 10, 2, 100, "times"),
    ROW(pleat_options, level0_tables, 4, 1, 16, "tables"),
    ROW(pleat_options, value_bytes_max, 256ull << 20, 1, LIMIT_VALUE_BYTES, "bytes"),
    ROW(pleat_options, background, 0, 0, PLEAT_BACKGROUND_STEPS, "mode"),
    ROW(pleat_options, background_threads, 2, 1, 64, "threads"),
    ROW(pleat_options, table_files_max, 512, 1, 1u << 20, "files"),
};

static const struct option_row space_rows[] = {
    ROW(pleat_space_options, open_mode, 0, 0, PLEAT_MUST_NOT_EXIST, "mode"),
    ROW(pleat_space_options, codec, PLEAT_CODEC_LZ4, PLEAT_CODEC_LZ4, PLEAT_CODEC_NONE, "codec"),
    ROW(pleat_space_options, block_bytes, 8192, 64, 1u << 20, "bytes"),
    ROW(pleat_space_options, group_bytes, 0, 0, 4096, "bytes"),
    ROW(pleat_space_options, group_delimiters, 0, 0, 64, "delimiters"),
};

static uint64_t option_get(const void *options, const struct option_row *row) {
    const uint8_t *field = (const uint8_t *)options + row->offset;
    if (row->bytes == 4) {
        uint32_t x;
        memcpy(&x, field, sizeof x);
        return x;
    }
    ASSERT(row->bytes == 8);
    uint64_t x;
    memcpy(&x, field, sizeof x);
    return x;
}

static void option_set(void *options, const struct option_row *row, uint64_t value) {
    uint8_t *field = (uint8_t *)options + row->offset;
    if (row->bytes == 4) {
        uint32_t x = (uint32_t)value;
        memcpy(field, &x, sizeof x);
    } else {
        memcpy(field, &value, sizeof value);
    }
}

int options_copy(const char *what, const void *given, size_t given_bytes, void *ret, size_t bytes,
                        struct pleat_error *err) {
    memset(ret, 0, bytes);
    if (given == NULL) {
        return 0;
    }
    if (given_bytes < sizeof(size_t) || given_bytes > 65536) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "%s: size field is %zu, a struct has 8 to 65536 bytes", what,
                         given_bytes);
    }
    for (size_t i = bytes; i < given_bytes; i++) {
        if (((const uint8_t *)given)[i] != 0) {
            return error_set(err, PLEAT_ERR_NEWER, 0, "%s: byte %zu is set, this library knows %zu bytes", what, i,
                             bytes);
        }
    }
    memcpy(ret, given, given_bytes < bytes ? given_bytes : bytes);
    return 0;
}

static int options_apply(const char *what, const struct option_row *rows, size_t count, void *options,
                         struct pleat_error *err) {
    for (size_t i = 0; i < count; i++) {
        uint64_t value = option_get(options, &rows[i]);
        if (value == 0) {
            option_set(options, &rows[i], rows[i].preset);
        } else if (value < rows[i].least || value > rows[i].most) {
            return error_set(err, PLEAT_ERR_INVALID, 0,
                             "%s.%s is %" PRIu64 ", the limits are %" PRIu64 " to %" PRIu64 " %s", what, rows[i].name,
                             value, rows[i].least, rows[i].most, rows[i].unit);
        }
    }
    return 0;
}

int options_resolve(const struct pleat_options *given, struct pleat_options *ret_options, struct pleat_error *err) {
    int rc = options_copy("options", given, given != NULL ? given->size : 0, ret_options, sizeof *ret_options, err);
    if (rc < 0) {
        return rc;
    }
    ret_options->size = sizeof *ret_options;
    if (ret_options->cache != NULL && ret_options->cache_bytes != 0) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "options.cache_bytes is %" PRIu64 " beside a shared options.cache",
                         ret_options->cache_bytes);
    }
    return options_apply("options", store_rows, sizeof store_rows / sizeof store_rows[0], ret_options, err);
}

int space_options_resolve(const struct pleat_space_options *given, struct pleat_space_options *ret_options,
                          struct pleat_error *err) {
    int rc =
        options_copy("space options", given, given != NULL ? given->size : 0, ret_options, sizeof *ret_options, err);
    if (rc < 0) {
        return rc;
    }
    ret_options->size = sizeof *ret_options;
    if (ret_options->group_bytes != 0 && ret_options->group_delimiters != 0) {
        return error_set(err, PLEAT_ERR_INVALID, 0,
                         "space options: group_bytes is %" PRIu32 " and group_delimiters is %" PRIu32
                         ", at most one may be set",
                         ret_options->group_bytes, ret_options->group_delimiters);
    }
    return options_apply("space options", space_rows, sizeof space_rows / sizeof space_rows[0], ret_options, err);
}
