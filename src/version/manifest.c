/*
 * manifest.c - the file MANIFEST as frames: replacement, append, reading. manifest.h has the bytes and M1..M5.
 *
 * Replacement is the one primitive by which the store ever replaces a file:
 *
 *     unlink MANIFEST.new  create it  write header, frame 0  file_sync  rename over MANIFEST  dir_sync
 *     ------------------- a failure here changes nothing ------------- | ---- outcome unknown ----
 *
 * The order within an append is payload, then frame header (over the seal of the frame before), then sync (M4), then
 * the seal and the note in LOCK, then the note's sync. A frame header that failed for space is struck out with zeros,
 * and only a synced zero makes the failure a clean one.
 */
#include "version/manifest.h"

#include "base/assert.h"
#include "base/bytes.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/mutation.h"
#include "sstable/table_files.h"
#include "version/lock_note.h"

#include <inttypes.h>

#define MANIFEST_CHECKED_BYTES 48u /* of the header, in front of its checksum */

static const uint8_t manifest_magic[8] = {'P', 'L', 'E', 'A', 'T', 'M', 'N', 'F'};

static_assert(MANIFEST_HEADER_BYTES == MANIFEST_CHECKED_BYTES + 8, "the checksum ends the header");

/* ---- checksums -------------------------------------------------------------------------------------------------- */

static uint64_t manifest_header_checksum(const uint8_t *header) {
    return hash_bytes(header, MANIFEST_CHECKED_BYTES, 0);
}

/* M2: the header's checksum covers store, incarnation and salt, so it stands for all three. */
static uint64_t manifest_seed(const uint8_t *header) {
    return MUTATION(manifest_frame_key) ? 0
                                        : hash_mix(load_u64(header + MANIFEST_CHECKED_BYTES), load_u64(header + 40));
}

static uint64_t frame_checksum(uint64_t seed, uint32_t index, const uint8_t *payload, size_t bytes) {
    return hash_bytes(payload, bytes, hash_mix(hash_mix(seed, index), bytes));
}

static void frame_header_encode(uint8_t *p, uint64_t seed, uint32_t index, const uint8_t *payload, size_t bytes) {
    ASSERT(bytes <= UINT32_MAX);
    store_u32(p, (uint32_t)bytes);
    store_u32(p + 4, index);
    store_u64(p + 8, frame_checksum(seed, index, payload, bytes));
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

void manifest_close(struct manifest *manifest) {
    if (manifest->file != NULL) {
        manifest->store->vfs->file_close(manifest->file);
        manifest->file = NULL;
    }
}

/* A fresh inode: what an interrupted replacement left behind goes first. */
static int manifest_create_new(const struct table_store *store, struct vfs_file **ret_file, struct pleat_error *err) {
    const struct vfs *vfs = store->vfs;
    int rc = table_files_open(store, MANIFEST_NAME_NEW, VFS_FILE_CREATE_NEW, ret_file, NULL);
    if (rc == 0) {
        return 0;
    }
    rc = vfs->dir_unlink(store->dir, MANIFEST_NAME_NEW, NULL);
    if (rc < 0 && rc != PLEAT_ERR_NOT_FOUND) {
        return error_set(err, rc, 0, "%s: an old one cannot be removed (%s)", MANIFEST_NAME_NEW,
                         rc == PLEAT_ERR_READ_ONLY ? "read-only" : "system error");
    }
    return table_files_open(store, MANIFEST_NAME_NEW, VFS_FILE_CREATE_NEW, ret_file, err);
}

/* Header and frame 0, synced, under the name MANIFEST.new. */
static int manifest_write_new(const struct table_store *store, const uint8_t *header, uint64_t seed,
                              const uint8_t *state, size_t bytes, struct vfs_file **ret_file,
                              struct pleat_error *err) {
    const struct vfs *vfs = store->vfs;
    struct vfs_file *file = NULL;
    int rc = manifest_create_new(store, &file, err);
    if (rc < 0) {
        return rc;
    }
    uint8_t head[MANIFEST_HEADER_BYTES + MANIFEST_FRAME_BYTES];
    memcpy(head, header, MANIFEST_HEADER_BYTES);
    frame_header_encode(head + MANIFEST_HEADER_BYTES, seed, 0, state, bytes);
    rc = vfs->file_write(file, 0, head, sizeof head, err);
    if (rc == 0 && bytes > 0) {
        rc = vfs->file_write(file, sizeof head, state, bytes, err);
    }
    if (rc == 0 && !MUTATION(manifest_new_sync) && !MUTATION(manifest_rename_last)) {
        rc = table_store_sync(store, file, err);
    }
    if (rc < 0) {
        vfs->file_close(file);
        (void)vfs->dir_unlink(store->dir, MANIFEST_NAME_NEW, NULL);
        return rc;
    }
    *ret_file = file;
    return 0;
}

/* A rename that found no space has changed nothing when the new name is still there. */
static bool manifest_discard_new(const struct table_store *store) {
    return store->vfs->dir_unlink(store->dir, MANIFEST_NAME_NEW, NULL) == 0;
}

/* E1 in edition.h: what is noted is durable. Whether it could be written; a full disk keeps no edit from being done. */
static bool manifest_note(struct manifest *manifest) {
    if (manifest->lock == NULL ||
        !edition_note_write(manifest->store, manifest->lock, manifest->note, manifest->edition)) {
        return false;
    }
    manifest->note = (manifest->note + 1) % LOCK_NOTES;
    return true;
}

static int manifest_sync_note(const struct manifest *manifest, struct pleat_error *err) {
    return MUTATION(edition_sync) ? 0 : manifest->store->vfs->lock_sync(manifest->lock, err);
}

int manifest_replace(struct manifest *manifest, const uint8_t *state, size_t bytes,
                     enum manifest_outcome *ret_outcome, struct pleat_error *err) {
    const struct table_store *store = manifest->store;
    const struct vfs *vfs = store->vfs;
    uint8_t header[MANIFEST_HEADER_BYTES] = {0};
    struct vfs_file *file = NULL;
    *ret_outcome = MANIFEST_UNCHANGED;
    memcpy(header, manifest_magic, sizeof manifest_magic);
    store_u32(header + 8, MANIFEST_FORMAT);
    memcpy(header + 16, store->store_id, TABLE_STORE_ID_BYTES);
    store_u64(header + 32, manifest->edition.incarnation + 1);
    int rc = vfs->random(vfs, header + 40, 8, err);
    if (rc < 0) {
        return rc;
    }
    store_u64(header + MANIFEST_CHECKED_BYTES, manifest_header_checksum(header));
    uint64_t seed = manifest_seed(header);
    rc = manifest_write_new(store, header, seed, state, bytes, &file, err);
    if (rc < 0) {
        return rc;
    }
    *ret_outcome = MANIFEST_UNKNOWN;
    rc = vfs->dir_rename(store->dir, MANIFEST_NAME_NEW, MANIFEST_NAME, err);
    if (rc == PLEAT_ERR_NO_SPACE && manifest_discard_new(store)) {
        *ret_outcome = MANIFEST_UNCHANGED;
    }
    if (rc == 0 && MUTATION(manifest_rename_last)) {
        rc = vfs->file_sync(file, err);
    }
    if (rc == 0 && !MUTATION(manifest_dir_sync)) {
        rc = vfs->dir_sync(store->dir, err);
    }
    if (rc < 0) {
        vfs->file_close(file);
        return rc;
    }
    bool is_first = manifest->file == NULL;
    manifest_close(manifest);
    manifest->file = file;
    manifest->edition = (struct edition){.incarnation = manifest->edition.incarnation + 1, .frames = 1};
    manifest->seed = seed;
    manifest->bytes = MANIFEST_HEADER_BYTES + MANIFEST_FRAME_BYTES + (uint64_t)bytes;
    manifest->frames = 1;
    return manifest_note(manifest) && !is_first ? manifest_sync_note(manifest, err) : 0; /* M5 */
}

/* The frame header failed for space, so it may be there in part or whole: strikes it out for good. Where the file ends
 * inside it (behind no payload) there is nothing to strike out. */
static bool manifest_strike_out(const struct manifest *manifest) {
    static const uint8_t zeros[MANIFEST_FRAME_BYTES];
    const struct vfs *vfs = manifest->store->vfs;
    uint64_t bytes = 0;
    if (vfs->file_size(manifest->file, &bytes, NULL) == 0 && bytes < manifest->bytes + MANIFEST_FRAME_BYTES) {
        return true;
    }
    return MUTATION(manifest_strike_out) ||
           (vfs->file_write(manifest->file, manifest->bytes, zeros, sizeof zeros, NULL) == 0 &&
            (MUTATION(manifest_strike_sync) || vfs->file_sync(manifest->file, NULL) == 0));
}

/* Puts an empty frame where the next one will go, and notes the edition. Both are evidence and no more: without them
 * the store is as whole. */
static int manifest_seal(struct manifest *manifest, struct pleat_error *err) {
    const struct vfs *vfs = manifest->store->vfs;
    uint8_t header[MANIFEST_FRAME_BYTES];
    bool sealed = false;
    if (manifest->frames < UINT32_MAX) {
        frame_header_encode(header, manifest->seed, manifest->frames, header, 0);
        sealed = vfs->file_write(manifest->file, manifest->bytes, header, sizeof header, NULL) == 0;
    }
    if (manifest_note(manifest)) {
        return manifest_sync_note(manifest, err);
    }
    return sealed ? vfs->file_sync(manifest->file, err) : 0;
}

int manifest_append(struct manifest *manifest, const uint8_t *edit, size_t bytes, enum manifest_outcome *ret_outcome,
                    struct pleat_error *err) {
    const struct vfs *vfs = manifest->store->vfs;
    ASSERT(manifest->file != NULL); /* M5 */
    ASSERT(manifest->frames < UINT32_MAX);
    *ret_outcome = MANIFEST_UNKNOWN;
    int rc = 0;
    if (bytes > 0) {
        rc = vfs->file_write(manifest->file, manifest->bytes + MANIFEST_FRAME_BYTES, edit, bytes, err);
        if (rc == PLEAT_ERR_NO_SPACE) {
            *ret_outcome = MANIFEST_UNCHANGED; /* M4: there is no frame without its header */
        }
        if (rc < 0) {
            return rc;
        }
    }
    uint8_t header[MANIFEST_FRAME_BYTES];
    frame_header_encode(header, manifest->seed, manifest->frames, edit, bytes);
    rc = vfs->file_write(manifest->file, manifest->bytes, header, sizeof header, err);
    if (rc == PLEAT_ERR_NO_SPACE && manifest_strike_out(manifest)) {
        *ret_outcome = MANIFEST_UNCHANGED;
    }
    if (rc < 0) {
        return rc;
    }
    struct edition edition = manifest->edition;
    manifest->edition.frames = bytes > 0 ? manifest->frames + UINT64_C(1) : edition.frames;
    if (MUTATION(edition_early)) {
        (void)manifest_note(manifest);
    }
    rc = MUTATION(manifest_append_sync) ? 0 : vfs->file_sync(manifest->file, err);
    if (rc < 0) {
        manifest->edition = edition;
        return rc;
    }
    manifest->bytes += MANIFEST_FRAME_BYTES + (uint64_t)bytes;
    manifest->frames++;
    return manifest_seal(manifest, err);
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

static int manifest_reader_header(struct manifest_reader *reader, struct pleat_error *err) {
    const uint8_t *header = reader->data;
    if (reader->bytes < MANIFEST_HEADER_BYTES) {
        return error_corrupt(err, MANIFEST_NAME, 0, "file shorter than its header", MANIFEST_HEADER_BYTES,
                             reader->bytes);
    }
    if (memcmp(header, manifest_magic, sizeof manifest_magic) != 0) {
        return error_corrupt(err, MANIFEST_NAME, 0, "magic number", load_u64(manifest_magic), load_u64(header));
    }
    uint64_t expected = manifest_header_checksum(header);
    uint64_t found = load_u64(header + MANIFEST_CHECKED_BYTES);
    if (expected != found && !MUTATION(manifest_header_checksum)) {
        return error_corrupt(err, MANIFEST_NAME, MANIFEST_CHECKED_BYTES, "checksum of the header", expected, found);
    }
    if (load_u32(header + 8) > MANIFEST_FORMAT || load_u32(header + 12) != 0) {
        return error_set(err, PLEAT_ERR_NEWER, 0, "%s: format %" PRIu32 ", this version knows up to %u",
                         MANIFEST_NAME, load_u32(header + 8), MANIFEST_FORMAT);
    }
    if (load_u32(header + 8) == 0) {
        return error_corrupt(err, MANIFEST_NAME, 8, "format version", MANIFEST_FORMAT, 0);
    }
    memcpy(reader->store_id, header + 16, sizeof reader->store_id);
    reader->edition.incarnation = load_u64(header + 32);
    reader->seed = manifest_seed(header);
    reader->offset = MANIFEST_HEADER_BYTES;
    return 0;
}

int manifest_reader_open(const struct table_store *store, struct manifest_reader *ret_reader,
                         struct pleat_error *err) {
    const struct vfs *vfs = store->vfs;
    struct vfs_file *file = NULL;
    *ret_reader = (struct manifest_reader){.mem = store->mem};
    int rc = vfs->file_open(store->dir, MANIFEST_NAME, VFS_FILE_READ, store->file_mode, &file, err);
    if (rc < 0) {
        return rc;
    }
    rc = vfs->file_size(file, &ret_reader->bytes, err);
    if (rc < 0) {
        goto done;
    }
    ret_reader->data = ret_reader->bytes < SIZE_MAX ? mem_alloc(store->mem, (size_t)ret_reader->bytes) : NULL;
    if (ret_reader->data == NULL) {
        rc = error_no_memory(err, "the manifest", ret_reader->bytes);
        goto done;
    }
    if (ret_reader->bytes > 0) {
        rc = vfs->file_read(file, 0, ret_reader->data, (size_t)ret_reader->bytes, err);
    }
    if (rc == 0) {
        rc = manifest_reader_header(ret_reader, err);
    }
done:
    vfs->file_close(file);
    if (rc < 0) {
        manifest_reader_close(ret_reader);
    }
    return rc;
}

void manifest_reader_close(struct manifest_reader *reader) {
    mem_free(reader->mem, reader->data);
    reader->data = NULL;
}

/* Whether a valid frame of `index` begins at `offset`; *ret_bytes: its payload. */
static bool frame_is_valid(const struct manifest_reader *reader, uint64_t offset, uint32_t index,
                           uint32_t *ret_bytes) {
    if (reader->bytes - offset < MANIFEST_FRAME_BYTES) {
        return false;
    }
    const uint8_t *p = reader->data + offset;
    uint32_t bytes = load_u32(p);
    if (load_u32(p + 4) != index || bytes > reader->bytes - offset - MANIFEST_FRAME_BYTES) {
        return false;
    }
    *ret_bytes = bytes;
    return load_u64(p + 8) == frame_checksum(reader->seed, index, p + MANIFEST_FRAME_BYTES, bytes) ||
           MUTATION(manifest_frame_checksum);
}

/*
 * Whether a later frame is valid anywhere behind the invalid one at reader->offset (M3). One of the same index says
 * nothing: a seal had that index before the frame was written, and a lost sector may show it again.
 *
 * The last seal is such a frame, and cheap to look for. Other frames are the evidence only where a full disk had no
 * room for one. Bytes that merely look like their headers (keys may hold anything) cost a checksum of as much as they
 * claim to be long; once they have made the search hash 16 times the file's size, the rest is looked through for seals
 * only, and no damage is seen in that: a torn write may look so.
 */
static bool manifest_frame_behind(const struct manifest_reader *reader, uint64_t *ret_offset) {
    uint64_t budget = 16 * reader->bytes;
    for (uint64_t offset = reader->offset; reader->bytes - offset >= MANIFEST_FRAME_BYTES; offset++) {
        uint32_t bytes = load_u32(reader->data + offset);
        uint32_t index = load_u32(reader->data + offset + 4);
        uint64_t between = (offset - reader->offset) / MANIFEST_FRAME_BYTES; /* so many frames fit in front of it */
        if (index <= reader->index || index - reader->index > between ||
            bytes > reader->bytes - offset - MANIFEST_FRAME_BYTES || bytes > budget) {
            continue;
        }
        if (frame_is_valid(reader, offset, index, &bytes)) {
            *ret_offset = offset;
            return true;
        }
        budget -= bytes;
    }
    return false;
}

int manifest_reader_next(struct manifest_reader *reader, const uint8_t **ret_payload, size_t *ret_bytes,
                         uint64_t *ret_offset, struct pleat_error *err) {
    uint32_t bytes = 0;
    if (frame_is_valid(reader, reader->offset, reader->index, &bytes)) {
        *ret_offset = reader->offset + MANIFEST_FRAME_BYTES;
        *ret_payload = reader->data + *ret_offset;
        *ret_bytes = bytes;
        reader->offset = *ret_offset + bytes;
        reader->index++;
        reader->edition.frames = bytes > 0 ? reader->index : reader->edition.frames;
        return 0;
    }
    if (reader->offset == reader->bytes && reader->index > 0) {
        return PLEAT_END;
    }
    uint8_t head[MANIFEST_FRAME_BYTES] = {0};
    uint64_t rest = reader->bytes - reader->offset;
    memcpy(head, reader->data + reader->offset, rest < sizeof head ? (size_t)rest : sizeof head);
    uint64_t behind = 0;
    if (reader->index > 0 && (MUTATION(manifest_frame_behind) || !manifest_frame_behind(reader, &behind))) {
        return PLEAT_END;
    }
    uint32_t length = load_u32(head);
    if (rest < MANIFEST_FRAME_BYTES || length > rest - MANIFEST_FRAME_BYTES) {
        return error_corrupt(err, MANIFEST_NAME, reader->offset, "bytes of a frame, at most",
                             rest < MANIFEST_FRAME_BYTES ? 0 : rest - MANIFEST_FRAME_BYTES, length);
    }
    if (load_u32(head + 4) != reader->index) {
        return error_corrupt(err, MANIFEST_NAME, reader->offset + 4, "index of a frame", reader->index,
                             load_u32(head + 4));
    }
    return error_corrupt(err, MANIFEST_NAME, reader->offset + 8, "checksum of a frame",
                         frame_checksum(reader->seed, reader->index,
                                        reader->data + reader->offset + MANIFEST_FRAME_BYTES, length),
                         load_u64(head + 8));
}
