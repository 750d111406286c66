/* simfs_disk.c - bytes, inodes, names and what is pending on them: see simfs_internal.h. */
#include "support/simfs_internal.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

void *sim_alloc(size_t bytes) {
    void *block = calloc(1, bytes > 0 ? bytes : 1);
    if (block == NULL) {
        abort(); /* the test program's own memory, not the one under test */
    }
    return block;
}

void *sim_grow(void *array, size_t count, size_t *capacity, size_t bytes_each) {
    if (count < *capacity) {
        return array;
    }
    *capacity = *capacity == 0 ? 4 : *capacity * 2;
    array = realloc(array, *capacity * bytes_each);
    if (array == NULL) {
        abort();
    }
    return array;
}

/* ---- shared blocks ---------------------------------------------------------------------------------------------- */

/* In front of the bytes; 16 bytes, so that they stay aligned. */
struct block {
    _Atomic size_t holders; /* relaxed to add, release and acquire to let go: disks that share may be used by threads */
    size_t unused;
};

uint8_t *block_new(size_t bytes) {
    struct block *block = malloc(sizeof *block + bytes);
    if (block == NULL) {
        abort();
    }
    atomic_init(&block->holders, 1);
    return (uint8_t *)(block + 1);
}

uint8_t *block_ref(uint8_t *data) {
    if (data != NULL) {
        atomic_fetch_add_explicit(&((struct block *)(void *)data - 1)->holders, 1, memory_order_relaxed);
    }
    return data;
}

void block_unref(uint8_t *data) {
    if (data != NULL) {
        struct block *block = (struct block *)(void *)data - 1;
        if (atomic_fetch_sub_explicit(&block->holders, 1, memory_order_acq_rel) == 1) {
            free(block);
        }
    }
}

static bool block_is_shared(const uint8_t *data) {
    return data != NULL &&
           atomic_load_explicit(&((const struct block *)(const void *)data - 1)->holders, memory_order_acquire) > 1;
}

/* ---- bytes ------------------------------------------------------------------------------------------------------ */

void bytes_set_size(struct sim_bytes *bytes, uint64_t size) {
    if (bytes->used > size) {
        bytes->used = (size_t)size;
    }
    bytes->size = size;
}

void bytes_write(struct sim_bytes *bytes, uint64_t offset, const void *data, size_t n) {
    if (n == 0) {
        return;
    }
    size_t end = (size_t)offset + n;
    if (end > bytes->capacity || block_is_shared(bytes->data)) {
        size_t capacity = end > bytes->used ? end : bytes->used;
        capacity = end > bytes->capacity && bytes->capacity * 2 > end ? bytes->capacity * 2 : capacity;
        uint8_t *own = block_new(capacity);
        if (bytes->used > 0) {
            memcpy(own, bytes->data, bytes->used);
        }
        block_unref(bytes->data);
        bytes->data = own;
        bytes->capacity = capacity;
    }
    if (offset > bytes->used) {
        memset(bytes->data + bytes->used, 0, (size_t)offset - bytes->used);
    }
    memcpy(bytes->data + offset, data, n);
    if (end > bytes->used) {
        bytes->used = end;
    }
    if (end > bytes->size) {
        bytes->size = end;
    }
}

void bytes_read(const struct sim_bytes *bytes, uint64_t offset, void *buffer, size_t n) {
    size_t stored = offset >= bytes->used ? 0 : bytes->used - (size_t)offset;
    if (stored > n) {
        stored = n;
    }
    if (stored > 0) {
        memcpy(buffer, bytes->data + offset, stored);
    }
    if (n > stored) {
        memset((uint8_t *)buffer + stored, 0, n - stored);
    }
}

void bytes_copy(struct sim_bytes *to, const struct sim_bytes *from) {
    *to = *from;
    (void)block_ref(to->data);
}

void bytes_free(struct sim_bytes *bytes) {
    block_unref(bytes->data);
    *bytes = (struct sim_bytes){0};
}

/* ---- inodes ----------------------------------------------------------------------------------------------------- */

struct sim_inode *inode_new(struct simfs *fs) {
    struct sim_inode *inode = sim_alloc(sizeof *inode);
    fs->inodes = sim_grow(fs->inodes, fs->inode_count, &fs->inode_capacity, sizeof *fs->inodes);
    fs->inodes[fs->inode_count++] = inode;
    return inode;
}

void write_apply(const struct sim_write *write, struct sim_bytes *bytes, size_t n) {
    bytes_write(bytes, write->offset, write->data, n);
    if (n == write->n && write->new_size > bytes->size) {
        bytes_set_size(bytes, write->new_size);
    }
}

void inode_write(struct simfs *fs, struct sim_inode *inode, uint64_t offset, const void *data, size_t n,
                 uint64_t new_size) {
    inode->writes = sim_grow(inode->writes, inode->write_count, &inode->write_capacity, sizeof *inode->writes);
    struct sim_write *write = &inode->writes[inode->write_count++];
    *write = (struct sim_write){++fs->sequence, offset, new_size, n, block_new(n)};
    if (n > 0) {
        memcpy(write->data, data, n);
    }
    write_apply(write, &inode->live, n);
}

void inode_forget_writes(struct sim_inode *inode) {
    for (size_t i = 0; i < inode->write_count; i++) {
        block_unref(inode->writes[i].data);
    }
    inode->write_count = 0;
}

void inode_settle(struct sim_inode *inode, size_t count) {
    for (size_t i = 0; i < count; i++) {
        write_apply(&inode->writes[i], &inode->durable, inode->writes[i].n);
        block_unref(inode->writes[i].data);
    }
    inode->write_count -= count;
    if (count > 0) {
        memmove(inode->writes, inode->writes + count, inode->write_count * sizeof inode->writes[0]);
    }
}

static void inode_free(struct sim_inode *inode) {
    inode_forget_writes(inode);
    free(inode->writes);
    bytes_free(&inode->live);
    bytes_free(&inode->durable);
    free(inode);
}

/* ---- names ------------------------------------------------------------------------------------------------------ */

struct sim_entry *names_find(const struct sim_names *names, const char *name) {
    for (size_t i = 0; i < names->count; i++) {
        if (strcmp(names->entries[i].name, name) == 0) {
            return &names->entries[i];
        }
    }
    return NULL;
}

void names_set(struct sim_names *names, const char *name, struct sim_inode *inode) {
    struct sim_entry *entry = names_find(names, name);
    if (entry == NULL) {
        names->entries = sim_grow(names->entries, names->count, &names->capacity, sizeof *names->entries);
        entry = &names->entries[names->count++];
        memset(entry, 0, sizeof *entry);
        strncpy(entry->name, name, VFS_NAME_BYTES_MAX);
    }
    entry->inode = inode;
}

/* Only the entry of that inode: when operations before this one are lost, the name may be another file's. */
static void names_remove(struct sim_names *names, const char *name, const struct sim_inode *inode) {
    struct sim_entry *entry = names_find(names, name);
    if (entry != NULL && entry->inode == inode) {
        *entry = names->entries[--names->count];
    }
}

void names_apply(struct sim_names *names, const struct sim_name_op *op) {
    switch (op->kind) {
    case SIM_CREATE:
        names_set(names, op->from, op->inode);
        break;
    case SIM_RENAME:
        names_remove(names, op->from, op->inode);
        names_set(names, op->to, op->inode);
        break;
    case SIM_UNLINK:
        names_remove(names, op->from, op->inode);
        break;
    }
}

/* ---- directories ------------------------------------------------------------------------------------------------ */

/* Paths are compared without slashes at their end. */
static size_t path_length(const char *path) {
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/') {
        length--;
    }
    return length;
}

struct sim_dir *dir_find(struct simfs *fs, const char *path) {
    size_t length = path_length(path);
    for (size_t i = 0; i < fs->dir_count; i++) {
        if (strlen(fs->dirs[i]->path) == length && memcmp(fs->dirs[i]->path, path, length) == 0) {
            return fs->dirs[i];
        }
    }
    return NULL;
}

struct sim_dir *dir_new(struct simfs *fs, const char *path) {
    struct sim_dir *dir = sim_alloc(sizeof *dir);
    size_t length = path_length(path);
    dir->path = sim_alloc(length + 1);
    memcpy(dir->path, path, length);
    dir->sequence = ++fs->sequence;
    fs->dirs = sim_grow(fs->dirs, fs->dir_count, &fs->dir_capacity, sizeof *fs->dirs);
    fs->dirs[fs->dir_count++] = dir;
    return dir;
}

void dir_name_op(struct simfs *fs, struct sim_dir *dir, enum sim_name_kind kind, const char *from, const char *to,
                 struct sim_inode *inode) {
    dir->ops = sim_grow(dir->ops, dir->op_count, &dir->op_capacity, sizeof *dir->ops);
    struct sim_name_op *op = &dir->ops[dir->op_count++];
    memset(op, 0, sizeof *op);
    op->sequence = ++fs->sequence;
    op->kind = kind;
    op->inode = inode;
    strncpy(op->from, from, VFS_NAME_BYTES_MAX);
    strncpy(op->to, to, VFS_NAME_BYTES_MAX);
    names_apply(&dir->live_names, op);
}

void dir_settle(struct sim_dir *dir, size_t count) {
    for (size_t i = 0; i < count; i++) {
        names_apply(&dir->durable_names, &dir->ops[i]);
    }
    dir->op_count -= count;
    if (count > 0) {
        memmove(dir->ops, dir->ops + count, dir->op_count * sizeof dir->ops[0]);
    }
}

void dir_forget_ops(struct sim_dir *dir) {
    dir->op_count = 0;
}

static void names_drop_inode(struct sim_names *names, const struct sim_inode *inode) {
    size_t kept = 0;
    for (size_t i = 0; i < names->count; i++) {
        if (names->entries[i].inode != inode) {
            names->entries[kept++] = names->entries[i];
        }
    }
    names->count = kept;
}

void dir_drop_inode(struct sim_dir *dir, const struct sim_inode *inode) {
    names_drop_inode(&dir->live_names, inode);
    names_drop_inode(&dir->durable_names, inode);
    size_t kept = 0;
    for (size_t i = 0; i < dir->op_count; i++) {
        if (dir->ops[i].inode != inode) {
            dir->ops[kept++] = dir->ops[i];
        }
    }
    dir->op_count = kept;
}

static void dir_free(struct sim_dir *dir) {
    free(dir->path);
    free(dir->live_names.entries);
    free(dir->durable_names.entries);
    free(dir->ops);
    free(dir);
}

/* ---- the disk --------------------------------------------------------------------------------------------------- */

void sim_absorb_log(struct simfs *fs, struct sim_log *log) {
    if (log->by_write) {
        return;
    }
    uint8_t sector[SIMFS_SECTOR_BYTES];
    for (uint64_t at = 0; at < log->log.bytes; at += sizeof sector) {
        uint64_t left = log->log.bytes - at;
        size_t n = left < sizeof sector ? (size_t)left : sizeof sector;
        bytes_read(&log->inode->live, at, sector, n);
        if (memcmp(sector, log->log.base + at, n) != 0) {
            inode_write(fs, log->inode, at, log->log.base + at, n, log->log.bytes);
        }
    }
}

void sim_absorb(struct simfs *fs) {
    for (struct sim_log *log = fs->logs; log != NULL && !fs->dead; log = log->next) {
        sim_absorb_log(fs, log);
    }
}

/* A sector that was absorbed for the observer, as it was before. */
struct absorbed {
    struct sim_inode *inode;
    struct sim_bytes before;
};

void sim_observe(struct simfs *fs, unsigned call) {
    struct absorbed *absorbed = NULL;
    size_t count = 0;
    size_t capacity = 0;
    uint64_t sequence = fs->sequence;
    for (struct sim_log *log = fs->logs; log != NULL; log = log->next) {
        absorbed = sim_grow(absorbed, count, &capacity, sizeof *absorbed);
        absorbed[count].inode = log->inode;
        bytes_copy(&absorbed[count].before, &log->inode->live);
        size_t writes = log->inode->write_count;
        sim_absorb_log(fs, log);
        if (log->inode->write_count > writes) {
            log->inode->write_count_before = writes;
            count++;
        } else {
            bytes_free(&absorbed[count].before);
        }
    }
    fs->flight.sequence = fs->sequence + 1; /* behind what was absorbed */
    fs->observer(fs->observer_context, fs, fs->operations + 1, call);
    for (size_t i = 0; i < count; i++) {
        struct sim_inode *inode = absorbed[i].inode;
        while (inode->write_count > inode->write_count_before) {
            block_unref(inode->writes[--inode->write_count].data);
        }
        bytes_free(&inode->live);
        inode->live = absorbed[i].before;
    }
    fs->sequence = sequence;
    free(absorbed);
}

static void names_mark(const struct sim_names *names) {
    for (size_t i = 0; i < names->count; i++) {
        names->entries[i].inode->marked = true;
    }
}

void sim_sweep(struct simfs *fs) {
    for (size_t i = 0; i < fs->inode_count; i++) {
        fs->inodes[i]->marked = fs->inodes[i]->handles > 0 || fs->inodes[i] == fs->flight_inode;
    }
    for (size_t i = 0; i < fs->dir_count; i++) {
        names_mark(&fs->dirs[i]->live_names);
        names_mark(&fs->dirs[i]->durable_names);
        for (size_t k = 0; k < fs->dirs[i]->op_count; k++) {
            fs->dirs[i]->ops[k].inode->marked = true;
        }
    }
    size_t kept = 0;
    for (size_t i = 0; i < fs->inode_count; i++) {
        if (fs->inodes[i]->marked) {
            fs->inodes[kept++] = fs->inodes[i];
        } else {
            inode_free(fs->inodes[i]);
        }
    }
    fs->inode_count = kept;
}

uint64_t sim_used_locked(struct simfs *fs) {
    for (size_t i = 0; i < fs->inode_count; i++) {
        fs->inodes[i]->marked = fs->inodes[i]->handles > 0;
    }
    for (size_t i = 0; i < fs->dir_count; i++) {
        names_mark(&fs->dirs[i]->live_names);
    }
    uint64_t used = 0;
    for (size_t i = 0; i < fs->inode_count; i++) {
        const struct sim_inode *inode = fs->inodes[i];
        used += !inode->marked ? 0 : inode->sparse ? inode->live.used : inode->live.size;
    }
    return used;
}

void simfs_free(struct simfs *fs) {
    if (fs == NULL) {
        return;
    }
    for (size_t i = 0; i < fs->inode_count; i++) {
        inode_free(fs->inodes[i]);
    }
    for (size_t i = 0; i < fs->dir_count; i++) {
        dir_free(fs->dirs[i]);
    }
    block_unref(fs->flight.data);
    free(fs->inodes);
    free(fs->dirs);
    (void)pthread_mutex_destroy(&fs->mutex);
    free(fs);
}
