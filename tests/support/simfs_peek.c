/* simfs_peek.c - looking into a simulated disk, tampering with it, and its counters: see simfs.h. */
#include "support/simfs_internal.h"

#include <stdlib.h>
#include <string.h>

static struct sim_entry *peek_entry(struct simfs *fs, const char *path, const char *name) {
    struct sim_dir *dir = dir_find(fs, path);
    return dir != NULL ? names_find(&dir->live_names, name) : NULL;
}

uint8_t *simfs_read_file(struct simfs *fs, const char *path, const char *name, size_t *ret_bytes) {
    sim_lock(fs);
    sim_absorb(fs);
    const struct sim_entry *entry = peek_entry(fs, path, name);
    uint8_t *copy = NULL;
    if (entry != NULL) {
        size_t n = (size_t)entry->inode->live.size;
        copy = sim_alloc(n + 1);
        bytes_read(&entry->inode->live, 0, copy, n);
        *ret_bytes = n;
    }
    sim_unlock(fs);
    return copy;
}

void simfs_write_file(struct simfs *fs, const char *path, const char *name, const void *data, size_t n) {
    sim_lock(fs);
    struct sim_dir *dir = dir_find(fs, path);
    if (dir == NULL) {
        dir = dir_new(fs, path);
    }
    dir->durable = true;
    struct sim_entry *entry = names_find(&dir->live_names, name);
    struct sim_inode *inode = entry != NULL ? entry->inode : inode_new(fs);
    inode_forget_writes(inode);
    struct sim_bytes *both[] = {&inode->live, &inode->durable};
    for (int i = 0; i < 2; i++) {
        bytes_set_size(both[i], 0);
        bytes_write(both[i], 0, data, n);
    }
    names_set(&dir->live_names, name, inode);
    names_set(&dir->durable_names, name, inode);
    sim_unlock(fs);
}

bool simfs_remove_file(struct simfs *fs, const char *path, const char *name) {
    sim_lock(fs);
    const struct sim_entry *entry = peek_entry(fs, path, name);
    bool found = entry != NULL;
    if (found) {
        dir_drop_inode(dir_find(fs, path), entry->inode);
        sim_sweep(fs);
    }
    sim_unlock(fs);
    return found;
}

bool simfs_has_dir(struct simfs *fs, const char *path) {
    sim_lock(fs);
    bool has = dir_find(fs, path) != NULL;
    sim_unlock(fs);
    return has;
}

size_t simfs_name_count(struct simfs *fs, const char *path) {
    sim_lock(fs);
    const struct sim_dir *dir = dir_find(fs, path);
    size_t count = dir != NULL ? dir->live_names.count : 0;
    sim_unlock(fs);
    return count;
}

bool simfs_name_at(struct simfs *fs, const char *path, size_t index, char ret_name[VFS_NAME_BYTES_MAX + 1]) {
    sim_lock(fs);
    const struct sim_dir *dir = dir_find(fs, path);
    bool found = false;
    for (size_t i = 0; dir != NULL && i < dir->live_names.count && !found; i++) {
        size_t below = 0; /* directories are small: the rank of each name by counting */
        for (size_t k = 0; k < dir->live_names.count; k++) {
            below += strcmp(dir->live_names.entries[k].name, dir->live_names.entries[i].name) < 0;
        }
        if (below == index) {
            memcpy(ret_name, dir->live_names.entries[i].name, VFS_NAME_BYTES_MAX + 1);
            found = true;
        }
    }
    sim_unlock(fs);
    return found;
}

size_t simfs_pending(struct simfs *fs) {
    sim_lock(fs);
    sim_absorb(fs);
    size_t count = 0;
    for (size_t i = 0; i < fs->inode_count; i++) {
        count += fs->inodes[i]->write_count;
    }
    for (size_t i = 0; i < fs->dir_count; i++) {
        count += fs->dirs[i]->op_count + (fs->dirs[i]->durable ? 0 : 1);
    }
    sim_unlock(fs);
    return count;
}

void simfs_sync_all(struct simfs *fs) {
    sim_lock(fs);
    sim_absorb(fs);
    for (size_t i = 0; i < fs->inode_count; i++) {
        struct sim_inode *inode = fs->inodes[i];
        inode_forget_writes(inode);
        bytes_free(&inode->durable);
        bytes_copy(&inode->durable, &inode->live); /* also what a failed sync took off pending */
    }
    for (size_t i = 0; i < fs->dir_count; i++) {
        struct sim_dir *dir = fs->dirs[i];
        dir->durable = true;
        dir_forget_ops(dir);
        dir->durable_names.count = 0;
        for (size_t k = 0; k < dir->live_names.count; k++) {
            names_set(&dir->durable_names, dir->live_names.entries[k].name, dir->live_names.entries[k].inode);
        }
    }
    sim_sweep(fs);
    sim_unlock(fs);
}

/* ---- stops, faults, counters ------------------------------------------------------------------------------------ */

void simfs_stop_at(struct simfs *fs, uint64_t n) {
    sim_lock(fs);
    fs->stop_at = n;
    sim_unlock(fs);
}

void simfs_observe(struct simfs *fs, simfs_observer *observer, void *context) {
    sim_lock(fs);
    fs->observer = observer;
    fs->observer_context = context;
    sim_unlock(fs);
}

bool simfs_stopped(struct simfs *fs) {
    sim_lock(fs);
    bool dead = fs->dead;
    sim_unlock(fs);
    return dead;
}

static uint64_t peek_counter(struct simfs *fs, const uint64_t *counter) {
    sim_lock(fs);
    uint64_t value = *counter;
    sim_unlock(fs);
    return value;
}

uint64_t simfs_operations(struct simfs *fs) {
    return peek_counter(fs, &fs->operations);
}

uint64_t simfs_faults_fired(struct simfs *fs) {
    return peek_counter(fs, &fs->faults_fired);
}

uint64_t simfs_open_handles(struct simfs *fs) {
    return peek_counter(fs, &fs->open_handles);
}

uint64_t simfs_sync_retries(struct simfs *fs) {
    return peek_counter(fs, &fs->sync_retries);
}

uint64_t simfs_calls(struct simfs *fs, unsigned calls) {
    sim_lock(fs);
    uint64_t sum = 0;
    for (unsigned i = 0; i < SIMFS_CALL_KINDS; i++) {
        sum += (calls >> i & 1u) != 0 ? fs->calls[i] : 0;
    }
    sim_unlock(fs);
    return sum;
}

void simfs_fault_add(struct simfs *fs, struct simfs_fault fault) {
    sim_lock(fs);
    if (fs->fault_count == SIMFS_FAULTS_MAX || fault.at == 0 || fault.os_errno == 0) {
        abort(); /* the test asks for what would never happen */
    }
    fs->faults[fs->fault_count++] = fault;
    sim_unlock(fs);
}

void simfs_faults_clear(struct simfs *fs) {
    sim_lock(fs);
    fs->fault_count = 0;
    sim_unlock(fs);
}

unsigned simfs_fault_struck(struct simfs *fs) {
    sim_lock(fs);
    unsigned struck = fs->fault_struck;
    sim_unlock(fs);
    return struck;
}

void simfs_reserves(struct simfs *fs, bool reserves) {
    sim_lock(fs);
    fs->reserves_not = !reserves;
    sim_unlock(fs);
}

void simfs_quota(struct simfs *fs, uint64_t bytes) {
    sim_lock(fs);
    fs->quota = bytes;
    sim_unlock(fs);
}

uint64_t simfs_used_bytes(struct simfs *fs) {
    sim_lock(fs);
    uint64_t used = sim_used_locked(fs);
    sim_unlock(fs);
    return used;
}
