/* table_writer.c - see table_writer.h. */
#include "sstable/table_writer.h"

#include "base/assert.h"
#include "base/error.h"
#include "base/mutation.h"
#include "sstable/block.h"
#include "sstable/table_files.h"

#include <lz4.h>
#include <string.h>

#define TABLE_WRITE_BYTES ((size_t)256 << 10)
#define TABLE_SEND_BYTES ((uint64_t)2 << 20)

/* A block that is stored compressed is decoded at every load: it must be shorter by this part of it. After so many in a
 * row that were not, only one in so many is tried, until one is: what cannot be compressed is mostly not alone. */
#define BLOCK_GAIN_PART 8
#define BLOCK_RAW_RUN 4
#define BLOCK_RAW_TRY 8

/* ---- life ------------------------------------------------------------------------------------------------------- */

int table_writer_open(struct table_writer *writer, const struct table_store *store, uint64_t number, uint8_t codec,
                      size_t block_bytes, struct pleat_error *err) {
    *writer = (struct table_writer){.store = store, .seed = table_seed(store->store_id, number)};
    table_name(number, writer->name);
    int rc = 0;
    if (codec == PLEAT_CODEC_LZ4) {
        writer->lz4_state = mem_alloc(store->mem, (size_t)LZ4_sizeofState());
        if (writer->lz4_state == NULL) {
            rc = error_no_memory(err, "the state of a compressor", (uint64_t)LZ4_sizeofState());
        }
    }
    size_t block_room = TABLE_HEADER_BYTES + (size_t)LZ4_COMPRESSBOUND(2 * block_bytes);
    rc = rc < 0 ? rc : table_bytes_reserve(store->mem, &writer->buffer, TABLE_WRITE_BYTES + block_room, err);
    /* The file comes last: whatever fails before leaves nothing behind. */
    rc = rc < 0 ? rc : table_files_open(store, writer->name, VFS_FILE_CREATE_NEW, &writer->file, err);
    if (rc < 0) {
        writer->file = NULL;
        table_writer_fini(writer);
    }
    return rc;
}

void table_writer_fini(struct table_writer *writer) {
    const struct table_store *store = writer->store;
    if (store == NULL) {
        return;
    }
    if (writer->file != NULL) {
        store->vfs->file_close(writer->file);
        /* A name that stays is swept as an orphan at the next open; there is nobody here to tell. */
        struct pleat_error ignored = {0};
        (void)store->vfs->dir_unlink(store->dir, writer->name, &ignored);
    }
    mem_free(store->mem, writer->lz4_state);
    mem_free(store->mem, writer->buffer.data);
    *writer = (struct table_writer){0};
}

/* ---- bytes ------------------------------------------------------------------------------------------------------ */

/* Whole megabytes: a page that is still being filled would be written twice. */
static void table_writer_send(struct table_writer *writer) {
    uint64_t bytes = (writer->written - writer->sent) / TABLE_SEND_BYTES * TABLE_SEND_BYTES;
    if (bytes > 0) {
        writer->store->vfs->file_will_sync(writer->file, writer->sent, bytes);
        writer->sent += bytes;
    }
}

static int table_writer_write(struct table_writer *writer, struct pleat_error *err) {
    struct table_bytes *buffer = &writer->buffer;
    if (buffer->bytes == 0) {
        return 0;
    }
    int rc = writer->store->vfs->file_write(writer->file, writer->written, buffer->data, buffer->bytes, err);
    if (rc == 0) {
        writer->written += buffer->bytes;
        buffer->bytes = 0;
        table_writer_send(writer);
    }
    return rc;
}

/* Room for a piece of at most `bytes` stored bytes at the end of the buffer, which is written first when it is full. */
static int table_writer_room(struct table_writer *writer, size_t bytes, struct pleat_error *err) {
    struct table_bytes *buffer = &writer->buffer;
    if (buffer->bytes >= TABLE_WRITE_BYTES || buffer->capacity - buffer->bytes < TABLE_HEADER_BYTES + bytes) {
        int rc = table_writer_write(writer, err);
        if (rc < 0) {
            return rc;
        }
    }
    return table_bytes_reserve(writer->store->mem, buffer, TABLE_HEADER_BYTES + bytes, err);
}

static void table_writer_seal(struct table_writer *writer, uint8_t codec, size_t stored_bytes, size_t image_bytes,
                              struct table_section *ret_section) {
    struct table_bytes *buffer = &writer->buffer;
    ret_section->handle = (struct table_handle){.offset = writer->written + buffer->bytes,
                                                .stored_bytes = (uint32_t)stored_bytes,
                                                .image_bytes = (uint32_t)image_bytes};
    ret_section->checksum =
        table_header_encode(buffer->data + buffer->bytes, writer->seed, &ret_section->handle, codec);
    buffer->bytes += TABLE_HEADER_BYTES + stored_bytes;
}

/* Makes room for a piece of image_bytes, compressed or not. */
static int table_writer_piece_room(struct table_writer *writer, size_t image_bytes, bool compress,
                                   struct pleat_error *err) {
    if (image_bytes > UINT32_MAX) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "%s: a block or section of %zu bytes is above the limit of %u",
                         writer->name, image_bytes, UINT32_MAX);
    }
    compress = compress && image_bytes <= LZ4_MAX_INPUT_SIZE; /* nothing longer is */
    return table_writer_room(writer, compress ? (size_t)LZ4_COMPRESSBOUND(image_bytes) : image_bytes, err);
}

/* Stores an image compressed if that shortens it by `gain_bytes` at least; the room was made. */
static bool table_writer_store_lz4(struct table_writer *writer, const uint8_t *image, size_t image_bytes,
                                   size_t gain_bytes, struct table_section *ret_section) {
    if (image_bytes > LZ4_MAX_INPUT_SIZE) {
        return false;
    }
    uint8_t *stored = writer->buffer.data + writer->buffer.bytes + TABLE_HEADER_BYTES;
    int n = LZ4_compress_fast_extState(writer->lz4_state, (const char *)image, (char *)stored, (int)image_bytes,
                                       LZ4_COMPRESSBOUND((int)image_bytes), 1);
    if (n <= 0 || (size_t)n + gain_bytes > image_bytes) {
        return false;
    }
    table_writer_seal(writer, PLEAT_CODEC_LZ4, (size_t)n, image_bytes, ret_section);
    return true;
}

/* Stores an image as it is; the room was made. */
static void table_writer_store_raw(struct table_writer *writer, const uint8_t *image, size_t image_bytes,
                                   struct table_section *ret_section) {
    memcpy(writer->buffer.data + writer->buffer.bytes + TABLE_HEADER_BYTES, image, image_bytes);
    table_writer_seal(writer, PLEAT_CODEC_NONE, image_bytes, image_bytes, ret_section);
}

int table_writer_store(struct table_writer *writer, const uint8_t *image, size_t image_bytes, bool compress,
                       struct table_section *ret_section, struct pleat_error *err) {
    compress = compress && writer->lz4_state != NULL;
    int rc = table_writer_piece_room(writer, image_bytes, compress, err);
    if (rc == 0 && !(compress && table_writer_store_lz4(writer, image, image_bytes, 1, ret_section))) {
        table_writer_store_raw(writer, image, image_bytes, ret_section);
    }
    return rc;
}

int table_writer_store_block(struct table_writer *writer, uint8_t *image, size_t image_bytes,
                             struct table_section *ret_section, struct pleat_error *err) {
    uint32_t run = writer->raw_run;
    bool compress = writer->lz4_state != NULL && (run < BLOCK_RAW_RUN || (run - BLOCK_RAW_RUN) % BLOCK_RAW_TRY == 0);
    int rc = table_writer_piece_room(writer, image_bytes, compress, err);
    if (rc < 0) {
        return rc;
    }
    writer->raw_run++;
    if (compress) {
        block_offsets_pack(image, image_bytes);
        if (table_writer_store_lz4(writer, image, image_bytes, image_bytes / BLOCK_GAIN_PART, ret_section)) {
            writer->raw_run = 0;
            return 0;
        }
        block_offsets_unpack(image, image_bytes);
    }
    table_writer_store_raw(writer, image, image_bytes, ret_section);
    return 0;
}

int table_writer_copy(struct table_writer *writer, const struct table_block *block, struct table_section *ret_section,
                      struct pleat_error *err) {
    int rc = table_writer_room(writer, block->stored_bytes, err);
    if (rc == 0) {
        memcpy(writer->buffer.data + writer->buffer.bytes + TABLE_HEADER_BYTES, block->stored, block->stored_bytes);
        table_writer_seal(writer, block->codec, block->stored_bytes, block->image_bytes, ret_section);
    }
    return rc;
}

int table_writer_end(struct table_writer *writer, const uint8_t footer[TABLE_FOOTER_BYTES], struct pleat_error *err) {
    int rc = table_bytes_append(writer->store->mem, &writer->buffer, footer, TABLE_FOOTER_BYTES, err);
    rc = rc < 0 ? rc : table_writer_write(writer, err);
    rc = rc < 0 || MUTATION(table_sync) ? rc : table_store_sync(writer->store, writer->file, err);
    if (rc == 0) {
        writer->store->vfs->file_close(writer->file);
        writer->file = NULL;
    }
    return rc;
}
