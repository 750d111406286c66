/*
 * simfs_internal.h - the simulated disk itself: what simfs.c and simfs_file.c (calls), simfs_disk.c (inodes and names),
 * simfs_crash.c (images) and simfs_peek.c (for tests) share. Everything is guarded by simfs.mutex.
 *
 *     directory: durable names --(pending name operations, in order)--> live names
 *     inode:     durable bytes --(pending writes, in order)-----------> live bytes
 *
 * live is durable with all of pending applied, but for what a failed sync took off pending (S5).
 */
#ifndef PLEAT_TESTS_SIMFS_INTERNAL_H
#define PLEAT_TESTS_SIMFS_INTERNAL_H

#include "support/random.h"
#include "support/simfs.h"

#include <pthread.h>

/* Contents of `size` bytes, of which those from `used` on are zero and not stored: reserved logs cost nothing. The data
 * is a shared block: copies of contents share it until one of them is written to. */
struct sim_bytes {
    uint8_t *data;
    size_t used;
    size_t capacity;
    uint64_t size;
};

struct sim_write {
    uint64_t sequence; /* place in the order of all operations of the disk */
    uint64_t offset;
    uint64_t new_size; /* of the file after it */
    size_t n;          /* 0: only the size changes */
    uint8_t *data;     /* a shared block */
};

struct sim_inode {
    struct sim_bytes live;
    struct sim_bytes durable;
    struct sim_write *writes;
    size_t write_count;
    size_t write_capacity;
    size_t write_count_before; /* of what was absorbed for the observer */
    unsigned handles;
    bool mapped;             /* a log whose lost sectors are zero (S3) */
    bool sparse;             /* a log that was not reserved: only what is written takes room (S8) */
    bool marked;             /* reached, while unreachable inodes are swept */
    struct sim_inode *image; /* its copy, while an image is made */
};

struct sim_entry {
    char name[VFS_NAME_BYTES_MAX + 1];
    struct sim_inode *inode;
};

struct sim_names {
    struct sim_entry *entries;
    size_t count;
    size_t capacity;
};

enum sim_name_kind { SIM_CREATE, SIM_RENAME, SIM_UNLINK };

struct sim_name_op {
    uint64_t sequence;
    enum sim_name_kind kind;
    char from[VFS_NAME_BYTES_MAX + 1]; /* the only name, but for SIM_RENAME */
    char to[VFS_NAME_BYTES_MAX + 1];
    struct sim_inode *inode;
};

struct sim_dir {
    char *path;
    bool durable;
    uint64_t sequence; /* of its creation */
    struct sim_names live_names;
    struct sim_names durable_names;
    struct sim_name_op *ops;
    size_t op_count;
    size_t op_capacity;
};

struct vfs_dir {
    struct simfs *fs;
    const struct mem *mem;
    struct sim_dir *dir;
};

struct sim_log {
    struct vfs_log log; /* first: what the caller holds */
    struct simfs *fs;
    const struct mem *mem;
    struct sim_inode *inode;
    bool by_write;
    bool sync_failed;
    struct sim_log *next; /* of the open logs */
    char name[VFS_NAME_BYTES_MAX + 1];
};

struct vfs_lock {
    struct simfs *fs;
    const struct mem *mem;
    struct sim_inode *inode;
    bool shared;
    bool sync_failed;
    char name[VFS_NAME_BYTES_MAX + 1];
    struct vfs_lock *next; /* of the held locks */
};

struct simfs {
    struct vfs vfs;
    pthread_mutex_t mutex;
    struct random random;
    uint64_t clock_ns;

    struct sim_inode **inodes;
    size_t inode_count;
    size_t inode_capacity;
    struct sim_dir **dirs;
    size_t dir_count;
    size_t dir_capacity;
    struct sim_log *logs;
    struct vfs_lock *locks;

    uint64_t sequence;   /* of the last pending operation ever; images go on with it */
    uint64_t operations; /* mutating calls */
    uint64_t stop_at;
    bool dead;
    struct sim_inode *flight_inode; /* the write that was stopped half-way (S4), or is being observed (S9) */
    struct sim_write flight;
    simfs_observer *observer;
    void *observer_context;

    struct simfs_fault faults[SIMFS_FAULTS_MAX];
    size_t fault_count;
    uint64_t faults_fired;
    unsigned fault_struck;
    uint64_t calls[SIMFS_CALL_KINDS];
    uint64_t quota;
    bool reserves_not;
    uint64_t open_handles;
    uint64_t sync_retries;
};

/* ---- simfs_disk.c ----------------------------------------------------------------------------------------------- */

void *sim_alloc(size_t bytes); /* zeroed, never NULL */
void *sim_grow(void *array, size_t count, size_t *capacity, size_t bytes_each);

void bytes_write(struct sim_bytes *bytes, uint64_t offset, const void *data, size_t n);
void bytes_read(const struct sim_bytes *bytes, uint64_t offset, void *buffer, size_t n);
void bytes_set_size(struct sim_bytes *bytes, uint64_t size); /* cuts, or grows by zeros */
void bytes_copy(struct sim_bytes *to, const struct sim_bytes *from);
void bytes_free(struct sim_bytes *bytes);

/* Blocks that several contents or writes hold; whoever is alone may write to one. */
uint8_t *block_new(size_t bytes);
uint8_t *block_ref(uint8_t *block);
void block_unref(uint8_t *block); /* NULL is allowed */

struct sim_inode *inode_new(struct simfs *fs);
/* A write at the end of pending; to the live bytes too. n may be 0 for a size alone. */
void inode_write(struct simfs *fs, struct sim_inode *inode, uint64_t offset, const void *data, size_t n,
                 uint64_t new_size);
/* The first `count` pending writes become durable. */
void inode_settle(struct sim_inode *inode, size_t count);
void inode_forget_writes(struct sim_inode *inode);
/* Applies one write to the bytes: the first n of it, growing to where it ends. */
void write_apply(const struct sim_write *write, struct sim_bytes *bytes, size_t n);

struct sim_entry *names_find(const struct sim_names *names, const char *name);
void names_set(struct sim_names *names, const char *name, struct sim_inode *inode);
void names_apply(struct sim_names *names, const struct sim_name_op *op);

struct sim_dir *dir_find(struct simfs *fs, const char *path);
struct sim_dir *dir_new(struct simfs *fs, const char *path);
void dir_name_op(struct simfs *fs, struct sim_dir *dir, enum sim_name_kind kind, const char *from, const char *to,
                 struct sim_inode *inode);
void dir_settle(struct sim_dir *dir, size_t count);
void dir_forget_ops(struct sim_dir *dir);
/* Every name of the inode goes, live, durable and pending. */
void dir_drop_inode(struct sim_dir *dir, const struct sim_inode *inode);

/* Stores to mapped logs that no publish has told of become pending. */
void sim_absorb(struct simfs *fs);
void sim_absorb_log(struct simfs *fs, struct sim_log *log);
/* Shows the disk to the observer as a stop here would leave it, and takes back what was absorbed for that (S9). */
void sim_observe(struct simfs *fs, unsigned call);
/* Frees inodes that no name, pending operation or handle leads to. */
void sim_sweep(struct simfs *fs);
/* Sizes of the files with a name or a handle. */
uint64_t sim_used_locked(struct simfs *fs);

/* ---- simfs.c ---------------------------------------------------------------------------------------------------- */

void sim_lock(struct simfs *fs);
void sim_unlock(struct simfs *fs);
/* Unlocks and hands rc on. */
int sim_end(struct simfs *fs, int rc);
/* 0 when the call may go on. call 0: of no kind, so no fault can strike it. *ret_half (may be NULL): fail half-way. */
int sim_begin(struct simfs *fs, unsigned call, bool mutates, const char *name, bool *ret_half, struct pleat_error *err);
int sim_name_verify(const char *name, struct pleat_error *err);

/* ---- simfs_file.c ----------------------------------------------------------------------------------------------- */

int sim_file_open(struct vfs_dir *dir, const char *name, enum vfs_file_mode how, uint32_t mode,
                  struct vfs_file **ret_file, struct pleat_error *err);
void sim_file_close(struct vfs_file *file);
int sim_file_read(struct vfs_file *file, uint64_t offset, void *buffer, size_t n, struct pleat_error *err);
int sim_file_write(struct vfs_file *file, uint64_t offset, const void *data, size_t n, struct pleat_error *err);
int sim_file_size(struct vfs_file *file, uint64_t *ret_bytes, struct pleat_error *err);
int sim_file_sync(struct vfs_file *file, struct pleat_error *err);
void sim_file_will_sync(struct vfs_file *file, uint64_t offset, uint64_t n);
void sim_file_will_read(struct vfs_file *file, uint64_t offset, uint64_t n);
uint64_t sim_file_next_data(struct vfs_file *file, uint64_t offset);
int sim_lock_read(struct vfs_lock *lock, uint64_t offset, void *buffer, size_t n, struct pleat_error *err);
int sim_lock_write(struct vfs_lock *lock, uint64_t offset, const void *data, size_t n, struct pleat_error *err);
int sim_lock_sync(struct vfs_lock *lock, struct pleat_error *err);
int sim_log_create(struct vfs_dir *dir, const char *name, uint64_t bytes, bool by_write, uint32_t mode,
                   struct vfs_log **ret_log, struct pleat_error *err);
int sim_log_publish(struct vfs_log *vfs_log, uint64_t offset, size_t n, struct pleat_error *err);
int sim_log_sync(struct vfs_log *vfs_log, struct pleat_error *err);
void sim_log_note(struct vfs_log *log, uint64_t offset, size_t n);
void sim_log_prepare(struct vfs_log *log, uint64_t offset);
void sim_log_close(struct vfs_log *vfs_log);

#endif
