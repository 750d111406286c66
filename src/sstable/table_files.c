/* table_files.c - see table_files.h. */
#include "sstable/table_files.h"

#include "base/error.h"
#include "base/mutation.h"

#include <errno.h>
#include <string.h>

int table_files_init(struct table_files *files, uint32_t most) {
    ASSERT(most > 0);
    files->most = most;
    files->open = 0;
    files->hand = NULL;
    atomic_init(&files->opens, 0);
    return mutex_init(&files->mutex, RANK_LEAF);
}

void table_files_fini(struct table_files *files) {
    ASSERT(files->open == 0 && files->hand == NULL);
    mutex_fini(&files->mutex);
}

uint32_t table_files_count(struct table_files *files) {
    mutex_lock(&files->mutex);
    uint32_t count = files->open;
    mutex_unlock(&files->mutex);
    return count;
}

/* ---- the ring, under the mutex ---------------------------------------------------------------------------------- */

/* Behind all others, in the order of the hand. It has to be pinned once more to be passed over by it: files that are
 * read once, one behind the other, do not drive out those that are read again and again. */
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
    for (uint64_t looked = 0; files->hand != NULL && looked < 3 * (uint64_t)files->open; looked++) {
        struct table_file *file = files->hand;
        bool is_used = atomic_exchange_explicit(&file->is_used, false, memory_order_relaxed); /* a hint: no partner */
        files->hand = file->next;
        if (is_used && looked < 2 * (uint64_t)files->open) {
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
            files->open--;
            return file->file;
        }
    }
    return NULL;
}

/* ---- opening ---------------------------------------------------------------------------------------------------- */

/* Closes one that nobody has pinned; false when there is none. */
static bool files_give(const struct table_store *store) {
    struct table_files *files = store->files;
    mutex_lock(&files->mutex);
    struct vfs_file *victim = files_evict(files);
    mutex_unlock(&files->mutex);
    if (victim != NULL) {
        store->vfs->file_close(victim);
    }
    return victim != NULL;
}

int table_files_open(const struct table_store *store, const char *name, enum vfs_file_mode how,
                     struct vfs_file **ret_file, struct pleat_error *err) {
    for (;;) {
        struct pleat_error failed;
        error_clear(&failed);
        int rc = store->vfs->file_open(store->dir, name, how, store->file_mode, ret_file, &failed);
        if (rc == 0) {
            return 0;
        }
        bool has_none = failed.os_errno == EMFILE || failed.os_errno == ENFILE;
        if (!has_none || MUTATION(table_files_give) || !files_give(store)) { /* TF4 */
            return error_set(err, rc, failed.os_errno, "%s", failed.message);
        }
    }
}

/* Counts one more as open, and closes others for it while there are too many (TF2). */
static void files_reserve(const struct table_store *store) {
    struct table_files *files = store->files;
    for (bool is_counted = false; !is_counted;) {
        mutex_lock(&files->mutex);
        struct vfs_file *victim = files->open >= files->most && !MUTATION(table_files_most) ? files_evict(files) : NULL;
        is_counted = victim == NULL;
        files->open += is_counted;
        mutex_unlock(&files->mutex);
        if (victim != NULL) {
            store->vfs->file_close(victim);
        }
    }
}

int table_file_pin_closed(struct table_file *file, struct pleat_error *err) {
    const struct table_store *store = file->store;
    struct table_files *files = store->files;
    struct vfs_file *opened = NULL;
    files_reserve(store);
    int rc = table_files_open(store, file->name, VFS_FILE_READ, &opened, err);
    mutex_lock(&files->mutex);
    /* relaxed: stores of the bit happen under the mutex */
    bool is_first = (atomic_load_explicit(&file->state, memory_order_relaxed) & TABLE_FILE_OPEN) == 0;
    if (rc == 0 && is_first) {
        file->file = opened;
        files_insert(files, file);
        atomic_fetch_add_explicit(&files->opens, 1, memory_order_relaxed); /* a statistic: no partner */
        /* release: pairs with the acquire in table_file_pin */
        atomic_fetch_or_explicit(&file->state, TABLE_FILE_OPEN, memory_order_release);
    } else {
        files->open--;
    }
    mutex_unlock(&files->mutex);
    if (rc == 0 && !is_first) {
        store->vfs->file_close(opened); /* another thread's is as good */
    } else if (rc < 0) {
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
        files->open--;
    }
    mutex_unlock(&files->mutex);
    if (state == TABLE_FILE_OPEN) {
        file->store->vfs->file_close(file->file);
    }
    mem_free(file->store->mem, file);
}
