/*
 * registry.c - the one writer of the manifest: create, open, apply, rewrite, file numbers.
 *
 *     edit -> change_build -> encode -> append | rewrite -> sync -> publish -> let go of the old version
 *             (all memory)             (all that can fail on disk)  (cannot fail)
 *
 * Two mutexes: manifest_mutex makes changes one at a time and is held over the sync; state_mutex guards the pointer
 * and the facts that readers take, and is held for a few loads. So nobody who reads waits for a disk.
 *
 *   A1  Nothing is published that is not durable (V5); what is durable is published before apply returns.
 *   A2  After a failure with an unknown outcome the registry is poisoned: every later change returns that error.
 *   A3  A rewrite that failed before its rename is no failure: the edit is appended to the old file instead.
 *   A4  A file number is handed out only below the durable bound (V6); the bound goes up in strides.
 *   A5  What a store shows never depends on bytes whose loss goes unseen: the last edit of a life is a rewrite, so that
 *       the manifest of a closed store is one frame, which nothing may tear; in between edits are noted and sealed
 *       (M3).
 */
#include "base/assert.h"
#include "base/bytes.h"
#include "base/error.h"
#include "base/mutation.h"
#include "version/change.h"
#include "version/edit_codec.h"
#include "version/lock_note.h"
#include "version/registry_internal.h"
#include "version/replay.h"

#include <inttypes.h>

#define NUMBER_STRIDE 1000u
#define FIRST_HISTORY 1u

/* ---- making and freeing ----------------------------------------------------------------------------------------- */

static int registry_new(const struct registry_options *options, struct registry **ret_registry,
                        struct pleat_error *err) {
    const struct mem *mem = options->store.mem;
    struct registry *registry = mem_zalloc(mem, 1, sizeof *registry);
    if (registry == NULL) {
        return error_no_memory(err, "the registry", sizeof *registry);
    }
    registry->options = *options;
    registry->store = options->store;
    registry->store.files = &registry->files;
    registry->manifest.store = &registry->store;
    registry->manifest.lock = options->lock;
    registry->number_next = 1;
    cursor_set_init(&registry->cursors, mem);
    int os_errno = table_files_init(&registry->files, options->table_files_max);
    if (os_errno != 0) {
        goto no_files;
    }
    os_errno = mutex_init(&registry->manifest_mutex, RANK_MANIFEST);
    if (os_errno != 0) {
        goto no_manifest_mutex;
    }
    os_errno = mutex_init(&registry->state_mutex, RANK_LEAF);
    if (os_errno != 0) {
        goto no_state_mutex;
    }
    os_errno = mutex_init(&registry->open_mutex, RANK_TABLE_OPEN);
    if (os_errno != 0) {
        goto no_open_mutex;
    }
    os_errno = mutex_init(&registry->dead_mutex, RANK_LEAF);
    if (os_errno != 0) {
        goto no_dead_mutex;
    }
    *ret_registry = registry;
    return 0;
no_dead_mutex:
    mutex_fini(&registry->open_mutex);
no_open_mutex:
    mutex_fini(&registry->state_mutex);
no_state_mutex:
    mutex_fini(&registry->manifest_mutex);
no_manifest_mutex:
    table_files_fini(&registry->files);
no_files:
    mem_free(mem, registry);
    return error_system(err, os_errno, "mutex", MANIFEST_NAME);
}

void registry_free(struct registry *registry) {
    if (registry == NULL) {
        return;
    }
    const struct mem *mem = registry->store.mem;
    if (registry->current != NULL) {
        /* relaxed: whoever let go of a version did so before the owner came to free the registry */
        ASSERT(atomic_load_explicit(&registry->current->refs, memory_order_relaxed) == 1);
        version_unref(registry->current);
    }
    (void)table_ref_remove_all_dead(registry);
    manifest_close(&registry->manifest);
    cursor_set_fini(&registry->cursors);
    mem_free(mem, registry->numbers);
    mutex_fini(&registry->dead_mutex);
    mutex_fini(&registry->open_mutex);
    mutex_fini(&registry->state_mutex);
    mutex_fini(&registry->manifest_mutex);
    table_files_fini(&registry->files);
    mem_free(mem, registry);
}

/* ---- changes (manifest_mutex held) ------------------------------------------------------------------------------ */

/* A2, and who may change anything at all. */
static int registry_writable_locked(struct registry *registry, bool is_rewrite, struct pleat_error *err) {
    mutex_check_held(&registry->manifest_mutex);
    if (registry->poison.code != 0) {
        return error_set(err, registry->poison.code, registry->poison.os_errno, "%s", registry->poison.message);
    }
    if (registry->options.read_only) {
        return error_set(err, PLEAT_ERR_READ_ONLY, 0, "%s: opened read-only", MANIFEST_NAME);
    }
    if (!is_rewrite && registry->manifest.file == NULL) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "%s: a change before the first rewrite", MANIFEST_NAME);
    }
    return 0;
}

/* A disk operation failed: copies its text out, and keeps it for ever when nobody knows what is on disk. */
static void registry_failed_locked(struct registry *registry, int rc, enum manifest_outcome outcome,
                                   const struct pleat_error *failure, struct pleat_error *err) {
    (void)error_set(err, rc, failure->os_errno, "%s", failure->message);
    if (outcome == MANIFEST_UNKNOWN && !MUTATION(registry_poison)) {
        mutex_lock(&registry->state_mutex);
        registry->poison = *failure;
        registry->poison.code = rc;
        mutex_unlock(&registry->state_mutex);
    }
}

/* Writes the whole state as it will be after the change as a fresh manifest. */
static int registry_replace_locked(struct registry *registry, const struct version *version,
                                   const struct facts *facts, const struct cursor_set *cursors,
                                   enum manifest_outcome *ret_outcome, struct pleat_error *err) {
    struct edit_encoder encoder;
    *ret_outcome = MANIFEST_UNCHANGED;
    edit_encoder_init(&encoder, registry->store.mem);
    edit_encode_state(&encoder, version, facts, cursors);
    int rc = edit_encoder_verify(&encoder, err);
    if (rc == 0) {
        rc = manifest_replace(&registry->manifest, encoder.bytes, encoder.used, ret_outcome, err);
    }
    edit_encoder_fini(&encoder);
    if (rc == 0) {
        uint64_t twice = 2 * registry->manifest.bytes;
        uint64_t least = registry->options.rewrite_bytes_min;
        registry->rewrite_bytes = twice > least ? twice : least;
    }
    return rc;
}

/* Brings the change to disk: appended, or with everything else into a fresh file when the old one is too long. */
static int registry_write_locked(struct registry *registry, struct change *change, const struct edit *edit,
                                 const uint8_t *payload, size_t bytes, struct pleat_error *err) {
    struct pleat_error failure = {0};
    enum manifest_outcome outcome;
    uint64_t grown = registry->manifest.bytes + MANIFEST_FRAME_BYTES + bytes;
    bool is_last = edit->has_clean && edit->clean;
    if (grown > registry->rewrite_bytes || registry->manifest.frames == UINT32_MAX || is_last) { /* A5 */
        const struct cursor_set *cursors = change->has_position ? &change->cursors : &registry->cursors;
        int rc = registry_replace_locked(registry, change->version, &change->facts, cursors, &outcome, &failure);
        if (rc == 0) {
            return 0;
        }
        if (outcome == MANIFEST_UNKNOWN) {
            registry_failed_locked(registry, rc, outcome, &failure, err);
            return rc;
        }
        registry->rewrite_bytes = 2 * grown; /* A3: not again with the next edit */
        error_clear(&failure);
    }
    int rc = manifest_append(&registry->manifest, payload, bytes, &outcome, &failure);
    if (rc < 0) {
        registry_failed_locked(registry, rc, outcome, &failure, err);
    }
    return rc;
}

/* The change is durable. Cannot fail. Returns the version that was current, for the caller to let go of unlocked. */
static struct version *registry_publish_locked(struct registry *registry, struct change *change) {
    for (size_t i = 0; i < change->gone_count; i++) {
        /* relaxed: ordered by the release of the old version's count; pairs with the last unref in table_ref.c */
        atomic_store_explicit(&change->gone[i]->obsolete, true, memory_order_relaxed);
    }
    struct version *old = registry->current;
    struct version *next = change->version;
    change->version = NULL;
    mutex_lock(&registry->state_mutex);
    registry->current = next;
    registry->facts = change->facts;
    if (change->has_position) {
        struct cursor_set swap = registry->cursors;
        registry->cursors = change->cursors;
        change->cursors = swap;
    }
    registry->edition = registry->manifest.edition;
    registry->manifest_bytes = registry->manifest.bytes;
    registry->edits = registry->manifest.frames - 1;
    mutex_unlock(&registry->state_mutex);
    if (registry->space_next < change->facts.space_bound) {
        registry->space_next = change->facts.space_bound;
    }
    if (registry->options.on_version != NULL) {
        registry->options.on_version(registry->options.context, next);
    }
    return old;
}

int registry_apply(struct registry *registry, struct edit *edit, struct pleat_error *err) {
    const struct mem *mem = registry->store.mem;
    struct change change = {0};
    struct edit_encoder encoder;
    struct version *old = NULL;
    edit_encoder_init(&encoder, mem);
    cursor_set_init(&change.cursors, mem);
    mutex_lock(&registry->manifest_mutex);
    int rc = registry_writable_locked(registry, false, err);
    if (rc < 0) {
        goto done;
    }
    rc = change_build(registry, registry->current, &registry->facts, edit, &change, err);
    if (rc < 0) {
        goto done;
    }
    edit_encode(&encoder, edit);
    rc = edit_encoder_verify(&encoder, err);
    if (rc == 0) {
        rc = registry_write_locked(registry, &change, edit, encoder.bytes, encoder.used, err);
    }
    if (rc == 0 || (MUTATION(registry_publish) && change.version != NULL)) {
        old = registry_publish_locked(registry, &change);
    }
done:
    mutex_unlock(&registry->manifest_mutex);
    edit_encoder_fini(&encoder);
    change_fini(&change, mem);
    version_unref(old);
    return rc;
}

int registry_rewrite(struct registry *registry, struct edit *edit, struct pleat_error *err) {
    const struct mem *mem = registry->store.mem;
    struct change change = {0};
    struct pleat_error failure = {0};
    enum manifest_outcome outcome;
    struct version *old = NULL;
    struct edit none;
    edit_init(&none, mem);
    cursor_set_init(&change.cursors, mem);
    mutex_lock(&registry->manifest_mutex);
    int rc = registry_writable_locked(registry, true, err);
    if (rc < 0) {
        goto done;
    }
    rc = change_build(registry, registry->current, &registry->facts, edit != NULL ? edit : &none, &change, err);
    if (rc < 0) {
        goto done;
    }
    /* The state is written anyway: a stride of numbers comes with it. */
    if (registry->number_next <= UINT64_MAX - NUMBER_STRIDE &&
        change.facts.number_bound < registry->number_next + NUMBER_STRIDE) {
        change.facts.number_bound = registry->number_next + NUMBER_STRIDE;
    }
    rc = registry_replace_locked(registry, change.version, &change.facts,
                                 change.has_position ? &change.cursors : &registry->cursors, &outcome, &failure);
    if (rc == 0) {
        old = registry_publish_locked(registry, &change);
    } else {
        registry_failed_locked(registry, rc, outcome, &failure, err);
    }
done:
    mutex_unlock(&registry->manifest_mutex);
    change_fini(&change, mem);
    version_unref(old);
    return rc;
}

/* ---- create and open -------------------------------------------------------------------------------------------- */

static int registry_must_be_absent(const struct table_store *store, struct pleat_error *err) {
    struct vfs_file *file = NULL;
    struct pleat_error failure = {0};
    int rc = store->vfs->file_open(store->dir, MANIFEST_NAME, VFS_FILE_READ, store->file_mode, &file, &failure);
    if (rc == 0) {
        store->vfs->file_close(file);
        return error_set(err, PLEAT_ERR_EXISTS, 0, "%s: a store is there", MANIFEST_NAME);
    }
    return rc == PLEAT_ERR_NOT_FOUND ? 0 : error_set(err, rc, failure.os_errno, "%s", failure.message);
}

int registry_create(const struct registry_options *options, const struct space_info *default_space,
                    struct registry **ret_registry, struct pleat_error *err) {
    struct registry *registry = NULL;
    struct edit edit;
    if (options->read_only) {
        return error_set(err, PLEAT_ERR_READ_ONLY, 0, "%s: a store cannot be created read-only", MANIFEST_NAME);
    }
    int rc = registry_must_be_absent(&options->store, err);
    if (rc < 0) {
        return rc;
    }
    rc = registry_new(options, &registry, err);
    if (rc < 0) {
        return rc;
    }
    edit_init(&edit, registry->store.mem);
    edit.has_space = true;
    edit.space = *default_space;
    edit.has_history = true;
    edit.history = FIRST_HISTORY;
    rc = options->store.vfs->random(options->store.vfs, registry->store.store_id, TABLE_STORE_ID_BYTES, err);
    if (rc < 0) {
        goto done;
    }
    registry->current = version_new(registry, NULL);
    if (registry->current == NULL) {
        rc = error_no_memory(err, "a version", sizeof *registry->current);
        goto done;
    }
    rc = registry_rewrite(registry, &edit, err);
done:
    edit_fini(&edit);
    if (rc < 0) {
        registry_free(registry);
        return rc;
    }
    *ret_registry = registry;
    return 0;
}

/* Replays all frames into the registry. */
static int registry_replay(struct registry *registry, struct manifest_reader *reader, struct replay *replay,
                           struct pleat_error *err) {
    const uint8_t *payload;
    size_t bytes;
    uint64_t offset, changes = 0;
    int rc;
    while ((rc = manifest_reader_next(reader, &payload, &bytes, &offset, err)) == 0) {
        changes += bytes > 0; /* a seal is none */
        rc = replay_frame(replay, payload, bytes, offset, err);
        if (rc < 0) {
            return rc;
        }
    }
    if (rc < 0) {
        return rc;
    }
    rc = replay_finish(replay, &registry->current, err);
    if (rc < 0) {
        return rc;
    }
    registry->facts = replay->facts;
    struct cursor_set swap = registry->cursors;
    registry->cursors = replay->cursors;
    replay->cursors = swap;
    registry->number_next = registry->facts.number_bound;
    registry->space_next = registry->facts.space_bound;
    registry->manifest.edition = reader->edition;
    registry->edition = reader->edition;
    registry->manifest_bytes = reader->offset;
    registry->edits = changes - 1;
    return 0;
}

int registry_open(const struct registry_options *options, struct registry **ret_registry, struct pleat_error *err) {
    struct registry *registry = NULL;
    struct manifest_reader reader;
    struct replay replay;
    int rc = manifest_reader_open(&options->store, &reader, err);
    if (rc < 0) {
        return rc;
    }
    rc = registry_new(options, &registry, err);
    if (rc < 0) {
        manifest_reader_close(&reader);
        return rc;
    }
    memcpy(registry->store.store_id, reader.store_id, TABLE_STORE_ID_BYTES);
    replay_init(&replay, registry);
    rc = registry_replay(registry, &reader, &replay, err);
    replay_fini(&replay);
    manifest_reader_close(&reader);
    if (rc == 0) {
        struct edition noted = edition_note_read(&registry->store, options->lock, &registry->manifest.note);
        rc = MUTATION(edition_compare) ? 0 : registry_edition_verify(registry, noted, "LOCK", err);
    }
    if (rc < 0) {
        registry_free(registry);
        return rc;
    }
    *ret_registry = registry;
    return 0;
}

/* ---- numbers ---------------------------------------------------------------------------------------------------- */

/* Appends an edit of one number, which changes no version. */
static int registry_append_locked(struct registry *registry, const struct edit_encoder *encoder,
                                  struct pleat_error *err) {
    struct pleat_error failure = {0};
    enum manifest_outcome outcome;
    int rc = edit_encoder_verify(encoder, err);
    if (rc < 0) {
        return rc;
    }
    rc = manifest_append(&registry->manifest, encoder->bytes, encoder->used, &outcome, &failure);
    if (rc < 0) {
        registry_failed_locked(registry, rc, outcome, &failure, err);
        return rc;
    }
    mutex_lock(&registry->state_mutex);
    registry->edition = registry->manifest.edition;
    registry->manifest_bytes = registry->manifest.bytes;
    registry->edits = registry->manifest.frames - 1;
    mutex_unlock(&registry->state_mutex);
    return 0;
}

/* A4: an edit that raises the bound is durable before the first number above the old one is out. */
static int registry_raise_bound_locked(struct registry *registry, struct pleat_error *err) {
    struct edit_encoder encoder;
    if (registry->number_next > UINT64_MAX - NUMBER_STRIDE) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "file numbers are used up at %" PRIu64, registry->number_next);
    }
    uint64_t bound = registry->number_next + NUMBER_STRIDE;
    edit_encoder_init(&encoder, registry->store.mem);
    edit_encode_number_bound(&encoder, bound);
    int rc = MUTATION(registry_bound) ? 0 : registry_append_locked(registry, &encoder, err);
    edit_encoder_fini(&encoder);
    if (rc == 0) {
        mutex_lock(&registry->state_mutex);
        registry->facts.number_bound = bound;
        mutex_unlock(&registry->state_mutex);
    }
    return rc;
}

int registry_log_synced(struct registry *registry, uint64_t segment, struct pleat_error *err) {
    struct edit_encoder encoder;
    mutex_lock(&registry->manifest_mutex);
    int rc = registry_writable_locked(registry, false, err);
    if (rc == 0 && segment > registry->facts.log_synced) {
        edit_encoder_init(&encoder, registry->store.mem);
        edit_encode_log_synced(&encoder, segment);
        rc = registry_append_locked(registry, &encoder, err);
        edit_encoder_fini(&encoder);
        if (rc == 0) {
            mutex_lock(&registry->state_mutex);
            registry->facts.log_synced = segment;
            mutex_unlock(&registry->state_mutex);
        }
    }
    mutex_unlock(&registry->manifest_mutex);
    return rc;
}

int registry_file_number(struct registry *registry, uint64_t *ret_number, struct pleat_error *err) {
    mutex_lock(&registry->manifest_mutex);
    int rc = registry_writable_locked(registry, false, err);
    if (rc == 0 && registry->number_next >= registry->facts.number_bound) {
        rc = registry_raise_bound_locked(registry, err);
    }
    if (rc == 0) {
        *ret_number = registry->number_next++;
    }
    mutex_unlock(&registry->manifest_mutex);
    return rc;
}

void registry_numbers_seen(struct registry *registry, uint64_t number) {
    mutex_lock(&registry->manifest_mutex);
    if (number >= registry->number_next) {
        registry->number_next = number < UINT64_MAX ? number + 1 : number;
    }
    mutex_unlock(&registry->manifest_mutex);
}

uint32_t registry_next_space(struct registry *registry) {
    mutex_lock(&registry->manifest_mutex);
    uint64_t id = registry->space_next;
    if (id < UINT32_MAX) {
        registry->space_next++; /* the last id is refused by registry_apply */
    }
    mutex_unlock(&registry->manifest_mutex);
    return (uint32_t)id;
}
