/* edition_note.c - see edition_note.h. */
#include "version/edition_note.h"

#include "base/bytes.h"
#include "base/hash.h"
#include "base/mutation.h"

#define NOTE_BYTES 24u
#define NOTE_CHECKED_BYTES 16u
#define NOTES_AT 16u

static_assert(NOTES_AT >= VFS_LOCK_TEXT_BYTES, "the notes begin behind the pid");

/* As the records of a log segment are keyed, by a number that no segment has. */
static uint64_t note_check(const struct table_store *store, const uint8_t *note) {
    uint64_t key = hash_mix(hash_mix(load_u64(store->store_id), load_u64(store->store_id + 8)), 0);
    return hash_bytes(note, NOTE_CHECKED_BYTES, key);
}

struct edition edition_note_read(const struct table_store *store, struct vfs_lock *lock, unsigned *ret_next) {
    struct edition highest = {0, 0};
    *ret_next = 0;
    for (unsigned i = 0; lock != NULL && i < EDITION_NOTES; i++) {
        uint8_t note[NOTE_BYTES];
        if (store->vfs->lock_read(lock, NOTES_AT + i * NOTE_BYTES, note, sizeof note, NULL) != 0) {
            continue;
        }
        struct edition edition = {.incarnation = load_u64(note), .frames = load_u64(note + 8)};
        bool is_valid = load_u64(note + 16) == note_check(store, note) || MUTATION(edition_check);
        if (is_valid && edition_is_below(highest, edition)) {
            highest = edition;
            *ret_next = (i + 1) % EDITION_NOTES;
        }
    }
    return highest;
}

bool edition_note_write(const struct table_store *store, struct vfs_lock *lock, unsigned note, struct edition edition) {
    uint8_t bytes[NOTE_BYTES];
    store_u64(bytes, edition.incarnation);
    store_u64(bytes + 8, edition.frames);
    store_u64(bytes + 16, note_check(store, bytes));
    return store->vfs->lock_write(lock, NOTES_AT + note * NOTE_BYTES, bytes, sizeof bytes, NULL) == 0;
}
