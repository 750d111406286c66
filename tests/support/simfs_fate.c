/* simfs_fate.c - what became of each file of a disk in an image of it: see simfs_fates in simfs.h. */
#include "support/simfs_internal.h"

#include <string.h>

/* How much of a pending write the image has: all of it, none of it, or a part; judged by sectors, as they are kept. */
static void fate_write(struct simfs_fate *fate, const struct sim_write *write, const struct sim_bytes *bytes) {
    unsigned same = 0;
    unsigned different = 0;
    uint64_t end = write->offset + write->n;
    for (uint64_t at = write->offset; at < end;) {
        uint64_t next = (at / SIMFS_SECTOR_BYTES + 1) * SIMFS_SECTOR_BYTES;
        uint64_t stop = next < end ? next : end;
        uint8_t found[SIMFS_SECTOR_BYTES];
        size_t n = (size_t)(stop - at);
        size_t equal = 0;
        bytes_read(bytes, at, found, n);
        while (at + n <= bytes->size && equal < n && found[equal] == write->data[at - write->offset + equal]) {
            equal++;
        }
        same += equal == n || (equal > 0 && found[equal - 1] != 0);
        different += equal < n;
        at = stop;
    }
    if (different == 0) {
        fate->hole = fate->hole || fate->lost + fate->torn > 0;
        fate->kept++;
    } else if (same == 0) {
        fate->lost++;
    } else {
        fate->torn++;
    }
}

static void fate_tell(struct simfs *fs, const struct sim_dir *dir, const struct sim_dir *image_dir, const char *name,
                      struct sim_inode *inode, void (*callback)(void *context, const struct simfs_fate *fate),
                      void *context) {
    static const struct sim_bytes nothing;
    const struct sim_entry *live = names_find(&dir->live_names, name);
    const struct sim_entry *durable = names_find(&dir->durable_names, name);
    const struct sim_entry *there = image_dir != NULL ? names_find(&image_dir->live_names, name) : NULL;
    struct simfs_fate fate = {
        .name = name,
        .live = live != NULL && live->inode == inode,
        .durable = durable != NULL && durable->inode == inode,
        .there = there != NULL && there->inode == inode->image,
        .was_empty = inode->durable.used == 0,
    };
    const struct sim_bytes *bytes = inode->image != NULL ? &inode->image->live : &nothing;
    for (size_t i = 0; i < inode->write_count; i++) {
        if (inode->writes[i].n > 0) {
            fate_write(&fate, &inode->writes[i], bytes);
        }
    }
    if (fs->flight_inode == inode && fs->flight.n > 0) {
        fate_write(&fate, &fs->flight, bytes);
    }
    callback(context, &fate);
}

void simfs_fates(struct simfs *fs, struct simfs *image, void (*callback)(void *context, const struct simfs_fate *fate),
                 void *context) {
    sim_lock(fs);
    for (size_t i = 0; i < fs->dir_count; i++) {
        const struct sim_dir *dir = fs->dirs[i];
        const struct sim_dir *image_dir = dir_find(image, dir->path);
        for (size_t k = 0; k < dir->live_names.count; k++) {
            const struct sim_entry *entry = &dir->live_names.entries[k];
            fate_tell(fs, dir, image_dir, entry->name, entry->inode, callback, context);
        }
        for (size_t k = 0; k < dir->durable_names.count; k++) {
            const struct sim_entry *entry = &dir->durable_names.entries[k];
            const struct sim_entry *live = names_find(&dir->live_names, entry->name);
            if (live == NULL || live->inode != entry->inode) {
                fate_tell(fs, dir, image_dir, entry->name, entry->inode, callback, context);
            }
        }
        for (size_t k = 0; image_dir != NULL && k < image_dir->live_names.count; k++) {
            const char *name = image_dir->live_names.entries[k].name;
            if (names_find(&dir->live_names, name) == NULL && names_find(&dir->durable_names, name) == NULL) {
                struct simfs_fate fate = {.name = name, .there = true};
                callback(context, &fate);
            }
        }
    }
    sim_unlock(fs);
}
