/* lock_note.c - see lock_note.h. */
#include "version/lock_note.h"

#include "base/bytes.h"
#include "base/hash.h"
#include "base/mutation.h"

#define NOTE_BYTES 24u
#define NOTE_CHECKED_BYTES 16u
#define NOTES_AT 16u

static_assert(NOTES_AT >= VFS_LOCK_TEXT_BYTES, "the notes begin behind the pid");

enum note_kind {
    NOTE_EDITION,
    NOTE_DURABLE,
};

struct note {
    uint64_t first;
    uint64_t second;
};

static uint64_t note_offset(enum note_kind kind, unsigned i) {
    return NOTES_AT + ((unsigned)kind * LOCK_NOTES + i) * NOTE_BYTES;
}

/* As the records of a log segment are keyed, by a number that no segment has: 0, and the highest of all. */
static uint64_t note_check(const struct table_store *store, enum note_kind kind, const uint8_t *bytes) {
    uint64_t number = kind == NOTE_EDITION ? 0 : UINT64_MAX;
    uint64_t key = hash_mix(hash_mix(load_u64(store->store_id), load_u64(store->store_id + 8)), number);
    return hash_bytes(bytes, NOTE_CHECKED_BYTES, key);
}

static bool note_is_below(struct note a, struct note b) {
    return a.first < b.first || (a.first == b.first && a.second < b.second);
}

/* The highest valid one. */
static struct note note_read(const struct table_store *store, struct vfs_lock *lock, enum note_kind kind,
                             unsigned *ret_next) {
    struct note highest = {0, 0};
    *ret_next = 0;
    for (unsigned i = 0; lock != NULL && i < LOCK_NOTES; i++) {
        uint8_t bytes[NOTE_BYTES];
        if (store->vfs->lock_read(lock, note_offset(kind, i), bytes, sizeof bytes, NULL) != 0) {
            continue;
        }
        struct note note = {.first = load_u64(bytes), .second = load_u64(bytes + 8)};
        bool is_valid = load_u64(bytes + 16) == note_check(store, kind, bytes) || MUTATION(edition_check);
        if (is_valid && note_is_below(highest, note)) {
            highest = note;
            *ret_next = (i + 1) % LOCK_NOTES;
        }
    }
    return highest;
}

static bool note_write(const struct table_store *store, struct vfs_lock *lock, enum note_kind kind, unsigned i,
                       struct note note) {
    uint8_t bytes[NOTE_BYTES];
    store_u64(bytes, note.first);
    store_u64(bytes + 8, note.second);
    store_u64(bytes + 16, note_check(store, kind, bytes));
    return store->vfs->lock_write(lock, note_offset(kind, i), bytes, sizeof bytes, NULL) == 0;
}

struct edition edition_note_read(const struct table_store *store, struct vfs_lock *lock, unsigned *ret_next) {
    struct note note = note_read(store, lock, NOTE_EDITION, ret_next);
    return (struct edition){.incarnation = note.first, .frames = note.second};
}

bool edition_note_write(const struct table_store *store, struct vfs_lock *lock, unsigned note, struct edition edition) {
    return note_write(store, lock, NOTE_EDITION, note, (struct note){edition.incarnation, edition.frames});
}

uint64_t durable_note_read(const struct table_store *store, struct vfs_lock *lock, unsigned *ret_next) {
    return note_read(store, lock, NOTE_DURABLE, ret_next).first;
}

void durable_note_write(const struct table_store *store, struct vfs_lock *lock, unsigned note, uint64_t sequence) {
    (void)note_write(store, lock, NOTE_DURABLE, note, (struct note){sequence, 0});
}
