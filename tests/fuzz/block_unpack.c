/*
 * block_unpack.c - fuzzes the way of a compressed block into memory: LZ4, offsets out of their differences,
 * verification.
 *
 *     u16 image bytes, then the stored bytes of a piece
 */
#include "fuzz/block_walk.h"
#include "sstable/table_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const uint8_t store_id[TABLE_STORE_ID_BYTES] = "store of fuzzing";
    struct fuzz_input input = {data, data + size};
    struct table_handle handle = {.offset = 4096, .image_bytes = fuzz_u16(&input)};
    struct pleat_slice stored = fuzz_rest(&input);
    handle.stored_bytes = (uint32_t)stored.bytes;
    if (!table_handle_is_sound(&handle)) {
        return 0;
    }
    uint8_t *piece = fuzz_copy(NULL, 0, TABLE_HEADER_BYTES + stored.bytes);
    memcpy(piece + TABLE_HEADER_BYTES, stored.data, stored.bytes);
    uint64_t seed = table_seed(store_id, 1);
    (void)table_header_encode(piece, seed, &handle, PLEAT_CODEC_LZ4);
    FUZZ_CHECK(table_piece_verify(piece, seed, &handle, "000001.tbl", NULL) == 0);
    uint8_t *image = fuzz_copy(NULL, 0, (size_t)handle.image_bytes + BLOCK_READ_BEYOND);
    int rc = table_piece_decode(piece, &handle, image, "000001.tbl", NULL);
    FUZZ_CHECK(rc == 0 || rc == PLEAT_ERR_CORRUPT);
    if (rc == 0) {
        uint8_t *packed = fuzz_copy(image, handle.image_bytes, 0);
        block_offsets_unpack(image, handle.image_bytes);
        uint8_t *again = fuzz_copy(image, handle.image_bytes, 0);
        block_offsets_pack(again, handle.image_bytes);
        FUZZ_CHECK(memcmp(again, packed, handle.image_bytes) == 0);
        free(packed);
        free(again);
        size_t offset = 0;
        if (block_verify(image, handle.image_bytes, &offset) == NULL) {
            block_walk(image, block_verify_full(image, handle.image_bytes, &offset) == NULL);
        }
    }
    free(image);
    free(piece);
    return 0;
}
