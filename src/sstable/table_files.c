/* table_files.c - see table_files.h. */
#include "sstable/table_files.h"

#include "base/error.h"
#include "base/mutation.h"

#include <errno.h>
#include <string.h>

#define FILES_LEFT_TO_OTHERS 8u /* of the descriptors that there were when there was none left */
#define FILES_OPENS_MORE 64u    /* after so many opens that went well, one more is kept again */
#define FILES_WAITS 200u        /* for a read of another thread to end, of so long each */
#define FILES_WAITS_ALONE 20u   /* when no other is open */
#define FILES_WAIT_NS 50000u

int table_files_init(struct table_files *files, uint32_t most) {
    ASSERT(most > 0);
    files->wanted = most;
    atomic_init(&files->most, most);
    atomic_init(&files->open, 0);
    atomic_init(&files->opens, 0);
    files->hand = NULL;
    int os_errno = mutex_init(&files->mutex, RANK_LEAF);
    if (os_errno != 0) {
        return os_errno;
    }
    os_errno = condition_init(&files->opened);
    if (os_errno != 0) {
        mutex_fini(&files->mutex);
    }
    return os_errno;
}

void table_files_fini(struct table_files *files) {
    ASSERT(table_files_count(files) == 0 && files->hand == NULL);
    condition_fini(&files->opened);
    mutex_fini(&files->mutex);
}

/* Relaxed: written under the mutex; without it a hint, no partner. */
uint32_t table_files_count(const struct table_files *files) {
    return atomic_load_explicit(&files->open, memory_order_relaxed);
}

static uint32_t files_most(const struct table_files *files) {
    return atomic_load_explicit(&files->most, memory_order_relaxed);
}

static void files_count(struct table_files *files, int change) {
    mutex_check_held(&files->mutex);
    atomic_store_explicit(&files->open, table_files_count(files) + (uint32_t)change, memory_order_relaxed);
}

/* ---- the ring, under the mutex ---------------------------------------------------------------------------------- */

/* Behind all others, in the order of the hand, which passes over it only if it is pinned once more until then. */
static void files_insert(struct table_files *files, struct table_file *file) {
    atomic_store_explicit(&file->is_used, false, memory_order_relaxed); /* a hint: no partner */
    if (files->hand == NULL) {
        files->hand = file->next = file->prev = file;
        return;
    }
    file->next = files->hand;
    file->prev = files->hand->prev;
    file->prev->next = file->next->prev = file;
}

static void files_remove(struct table_files *files, struct table_file *file) {
    if (files->hand == file) {
        files->hand = file->next != file ? file->next : NULL;
    }
    file->next->prev = file->prev;
    file->prev->next = file->next;
    file->next = file->prev = NULL;
}

/* Takes one that nobody has pinned out of the ring, for the caller to close; NULL when there is none. Readers say that
 * they use a file without the mutex: the third time round their word is not asked for (TF2). */
static struct vfs_file *files_evict(struct table_files *files) {
    uint64_t open = table_files_count(files);
    for (uint64_t looked = 0; files->hand != NULL && looked < 3 * open; looked++) {
        struct table_file *file = files->hand;
        bool is_used = atomic_exchange_explicit(&file->is_used, false, memory_order_relaxed); /* a hint: no partner */
        files->hand = file->next;
        if (is_used && looked < 2 * open) {
            continue;
        }
        uint32_t state = TABLE_FILE_OPEN; /* and no pin: TF1 */
        if (MUTATION(table_files_pinned)) {
            state = atomic_load_explicit(&file->state, memory_order_relaxed);
        }
        /* acquire: pairs with the release in table_file_unpin */
        if (atomic_compare_exchange_strong_explicit(&file->state, &state, 0, memory_order_acquire,
                                                    memory_order_relaxed)) {
            files_remove(files, file);
            files_count(files, -1);
            return file->file;
        }
    }
    return NULL;
}

/* ---- opening ---------------------------------------------------------------------------------------------------- */

bool table_files_give(const struct table_store *store, const struct pleat_error *failure) {
    struct table_files *files = store->files;
    if ((failure->os_errno != EMFILE && failure->os_errno != ENFILE) || files == NULL || MUTATION(table_files_give)) {
        return false;
    }
    mutex_lock(&files->mutex);
    uint32_t open = table_files_count(files);
    uint32_t fewer = open > 2 * FILES_LEFT_TO_OTHERS ? open - FILES_LEFT_TO_OTHERS : open > 1 ? open / 2 : open;
    if (fewer > 0 && fewer < files_most(files)) { /* with none open it is not this set that took them */
        atomic_store_explicit(&files->most, fewer, memory_order_relaxed);
    }
    struct vfs_file *victim = files_evict(files);
    mutex_unlock(&files->mutex);
    if (victim != NULL) {
        store->vfs->file_close(victim);
    }
    return victim != NULL;
}

int table_files_open(const struct table_store *store, const char *name, enum vfs_file_mode how,
                     struct vfs_file **ret_file, struct pleat_error *err) {
    struct pleat_error failed;
    int rc;
    do {
        error_clear(&failed);
        rc = store->vfs->file_open(store->dir, name, how, store->file_mode, ret_file, &failed);
    } while (rc < 0 && table_files_give(store, &failed));
    return rc == 0 ? 0 : error_set(err, rc, failed.os_errno, "%s", failed.message);
}

/* Takes out one of those that are too many for `more` to be opened; NULL: there are not, or all are pinned. */
static struct vfs_file *files_surplus(struct table_files *files, uint32_t more) {
    bool is_over = table_files_count(files) + more > files_most(files);
    return is_over && !MUTATION(table_files_most) ? files_evict(files) : NULL;
}

void table_files_trim(const struct table_store *store) {
    struct table_files *files = store->files;
    struct vfs_file *victim;
    do {
        mutex_lock(&files->mutex);
        victim = files_surplus(files, 0);
        mutex_unlock(&files->mutex);
        if (victim != NULL) {
            store->vfs->file_close(victim);
        }
    } while (victim != NULL);
}

/* Counts one more as open, and closes others for it while there are too many (TF2). */
static void files_reserve(const struct table_store *store) {
    struct table_files *files = store->files;
    struct vfs_file *victim;
    do {
        mutex_lock(&files->mutex);
        victim = files_surplus(files, 1);
        files_count(files, victim == NULL);
        mutex_unlock(&files->mutex);
        if (victim != NULL) {
            store->vfs->file_close(victim);
        }
    } while (victim != NULL);
}

/* TF5: false when another thread has opened it meanwhile. */
static bool file_begin(struct table_file *file) {
    struct table_files *files = file->store->files;
    mutex_lock(&files->mutex);
    while (file->is_opening) {
        condition_wait(&files->opened, &files->mutex);
    }
    /* relaxed: stores of the bit happen under the mutex */
    bool is_open = (atomic_load_explicit(&file->state, memory_order_relaxed) & TABLE_FILE_OPEN) != 0;
    file->is_opening = !is_open;
    mutex_unlock(&files->mutex);
    return !is_open;
}

/* `opened`: NULL when it could not be. */
static void file_end(struct table_file *file, struct vfs_file *opened) {
    struct table_files *files = file->store->files;
    mutex_lock(&files->mutex);
    file->is_opening = false;
    if (opened != NULL) {
        file->file = opened;
        files_insert(files, file);
        /* relaxed: a statistic, no partner */
        uint64_t opens = atomic_fetch_add_explicit(&files->opens, 1, memory_order_relaxed);
        if (files_most(files) < files->wanted && opens % FILES_OPENS_MORE == 0) {
            atomic_store_explicit(&files->most, files_most(files) + 1, memory_order_relaxed);
        }
        /* release: pairs with the acquire in table_file_pin */
        atomic_fetch_or_explicit(&file->state, TABLE_FILE_OPEN, memory_order_release);
    } else {
        files_count(files, -1);
    }
    condition_broadcast(&files->opened);
    mutex_unlock(&files->mutex);
}

int table_file_pin_closed(struct table_file *file, struct pleat_error *err) {
    const struct table_store *store = file->store;
    if (!file_begin(file)) {
        return 0; /* it was pinned before it was opened, and stays open */
    }
    struct vfs_file *opened = NULL;
    struct pleat_error failed;
    error_clear(&failed);
    files_reserve(store);
    int rc = table_files_open(store, file->name, VFS_FILE_READ, &opened, &failed);
    /* Descriptors may all be those of other reads, which end, or be on their way to being closed. */
    for (unsigned wait = 0; rc < 0 && (failed.os_errno == EMFILE || failed.os_errno == ENFILE); wait++) {
        if (wait >= (table_files_count(store->files) > 1 ? FILES_WAITS : FILES_WAITS_ALONE)) {
            break;
        }
        thread_sleep_ns(FILES_WAIT_NS);
        error_clear(&failed);
        rc = table_files_open(store, file->name, VFS_FILE_READ, &opened, &failed);
    }
    file_end(file, rc == 0 ? opened : NULL);
    if (rc == PLEAT_ERR_NOT_FOUND) {
        rc = error_set(err, PLEAT_ERR_CORRUPT, failed.os_errno, "%s: the file is missing", file->name);
    } else if (rc < 0) {
        rc = error_set(err, rc, failed.os_errno, "%s", failed.message);
    }
    if (rc < 0) {
        table_file_unpin(file);
    }
    return rc;
}

/* ---- one file --------------------------------------------------------------------------------------------------- */

int table_file_new(const struct table_store *store, uint64_t number, struct table_file **ret_file,
                   struct pleat_error *err) {
    struct table_file *file = mem_zalloc(store->mem, 1, sizeof *file);
    if (file == NULL) {
        return error_no_memory(err, "the file of a table", sizeof *file);
    }
    file->store = store;
    atomic_init(&file->state, 0);
    atomic_init(&file->is_used, false);
    table_name(number, file->name);
    *ret_file = file;
    return 0;
}

void table_file_free(struct table_file *file) {
    if (file == NULL) {
        return;
    }
    struct table_files *files = file->store->files;
    mutex_lock(&files->mutex);
    /* acquire: pairs with the release in table_file_unpin */
    uint32_t state = atomic_load_explicit(&file->state, memory_order_acquire);
    ASSERT((state & ~TABLE_FILE_OPEN) == 0);
    if (state == TABLE_FILE_OPEN) {
        files_remove(files, file);
        files_count(files, -1);
    }
    mutex_unlock(&files->mutex);
    if (state == TABLE_FILE_OPEN) {
        file->store->vfs->file_close(file->file);
    }
    mem_free(file->store->mem, file);
}
