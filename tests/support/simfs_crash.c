/*
 * simfs_crash.c - disks as they are found after a crash: rules S2 to S6 of simfs.h.
 *
 * An image is built from the durable state and a choice among the pending operations; nothing of the source is changed
 * but the scratch pointers in its inodes. A file is the same file under all its names, so each inode is copied once.
 */
#include "support/simfs_internal.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

struct image {
    struct simfs *from;
    struct simfs *to;
    enum simfs_model model;
    struct random random;
    uint64_t cut;       /* ORDERED, FSDIR: pending operations up to this one are there */
    uint64_t torn;      /* ORDERED: the operation behind the cut; 0: there is none */
    uint64_t name_odds; /* STRICT: names are kept with these odds of 8 */
    bool enumerated;    /* STRICT: the bits choose, not the odds */
    uint64_t bits;
    unsigned taken;     /* bits used so far */
};

const char *simfs_model_name(enum simfs_model model) {
    static const char *const names[SIMFS_MODELS] = {"kill", "min", "ordered", "fsdir", "metaall", "strict"};
    return names[model];
}

/* Mostly lost, evenly, mostly kept: crashes are interesting at the edges. Odds of 8. */
static uint64_t image_odds(struct image *image) {
    static const uint64_t odds[] = {1, 4, 7, 8};
    return odds[random_below(&image->random, 4)];
}

static bool image_keeps(struct image *image, uint64_t odds) {
    return random_below(&image->random, 8) < odds;
}

/* The next bits of an enumeration, as many as tell choices 0 .. last apart; what is beyond the last is the last. */
static uint64_t image_take(struct image *image, uint64_t last) {
    unsigned count = 0;
    while (last >> count != 0) {
        count++;
    }
    uint64_t choice = image->taken < 64 ? image->bits >> image->taken & ((1ull << count) - 1) : 0;
    image->taken += count;
    return choice < last ? choice : last;
}

/* ---- contents --------------------------------------------------------------------------------------------------- */

/* The first `count` pending writes, and the next one cut at a random byte when `torn`. */
static void contents_prefix(struct image *image, const struct sim_inode *inode, size_t count, bool torn,
                            struct sim_bytes *bytes) {
    for (size_t i = 0; i < count; i++) {
        write_apply(&inode->writes[i], bytes, inode->writes[i].n);
    }
    if (torn && count < inode->write_count) {
        const struct sim_write *write = &inode->writes[count];
        write_apply(write, bytes, (size_t)random_below(&image->random, write->n + 1));
    }
}

/* What stands in a sector whose new contents were lost: zeros, noise, or what some file had there or elsewhere. */
static void contents_fill_lost(struct image *image, struct sim_bytes *bytes, uint64_t offset) {
    uint8_t sector[SIMFS_SECTOR_BYTES] = {0};
    uint64_t kind = random_below(&image->random, 4);
    if (kind == 1) {
        for (size_t i = 0; i < sizeof sector; i += sizeof(uint64_t)) {
            uint64_t noise = random_next(&image->random);
            memcpy(sector + i, &noise, sizeof noise);
        }
    } else if (kind == 2) {
        const struct simfs *from = image->from;
        const struct sim_inode *other = from->inodes[random_below(&image->random, from->inode_count)];
        uint64_t at = offset; /* the same place of another file fools most: there a header follows a header */
        if (random_below(&image->random, 2) == 0) {
            at = random_below(&image->random, other->live.used / SIMFS_SECTOR_BYTES + 1) * sizeof sector;
        }
        bytes_read(&other->live, at, sector, sizeof sector);
    }
    bytes_write(bytes, offset, sector, sizeof sector);
}

/* Applies the part of the write that lies in its sectors, each only while its version is wanted. */
static void strict_apply(const struct sim_write *write, const uint32_t *keep, uint32_t *seen, struct sim_bytes *bytes) {
    uint64_t end = write->offset + write->n;
    for (uint64_t at = write->offset; at < end;) {
        uint64_t sector = at / SIMFS_SECTOR_BYTES;
        uint64_t next = (sector + 1) * SIMFS_SECTOR_BYTES;
        uint64_t stop = next < end ? next : end;
        if (++seen[sector] <= keep[sector]) {
            bytes_write(bytes, at, write->data + (at - write->offset), (size_t)(stop - at));
        }
        at = stop;
    }
}

static uint64_t contents_strict_size(struct image *image, uint64_t size_min, uint64_t size_max) {
    if (image->enumerated) {
        return size_max == size_min || image_take(image, 1) == 1 ? size_max : size_min;
    }
    switch (random_below(&image->random, 4)) {
    case 0:
        return size_min;
    case 1:
        return size_min + random_below(&image->random, size_max - size_min + 1);
    default:
        return size_max;
    }
}

static void contents_strict(struct image *image, const struct sim_inode *inode, struct sim_bytes *bytes) {
    uint64_t end = 0;
    uint64_t size_max = bytes->size;
    for (size_t i = 0; i < inode->write_count; i++) {
        const struct sim_write *write = &inode->writes[i];
        end = write->n > 0 && write->offset + write->n > end ? write->offset + write->n : end;
        size_max = write->new_size > size_max ? write->new_size : size_max;
    }
    uint64_t size_min = bytes->size;
    size_t sectors = (size_t)((end + SIMFS_SECTOR_BYTES - 1) / SIMFS_SECTOR_BYTES);
    uint32_t *versions = sim_alloc(sectors * sizeof *versions);
    uint32_t *seen = sim_alloc(sectors * sizeof *seen);
    for (size_t i = 0; i < inode->write_count; i++) {
        const struct sim_write *write = &inode->writes[i];
        uint64_t first = write->offset / SIMFS_SECTOR_BYTES;
        for (uint64_t s = first; write->n > 0 && s * SIMFS_SECTOR_BYTES < write->offset + write->n; s++) {
            versions[s]++;
        }
    }
    uint64_t odds = image->enumerated ? 8 : image_odds(image);
    for (size_t s = 0; s < sectors; s++) {
        if (image->enumerated) {
            versions[s] = (uint32_t)image_take(image, versions[s]);
        } else if (versions[s] > 0 && !image_keeps(image, odds)) {
            versions[s] = (uint32_t)random_below(&image->random, versions[s]);
            if (versions[s] == 0 && s * SIMFS_SECTOR_BYTES >= size_min && !inode->mapped) {
                contents_fill_lost(image, bytes, s * SIMFS_SECTOR_BYTES);
            }
        }
    }
    for (size_t i = 0; i < inode->write_count; i++) {
        strict_apply(&inode->writes[i], versions, seen, bytes);
    }
    free(versions);
    free(seen);
    bytes_set_size(bytes, contents_strict_size(image, size_min, size_max));
}

static void contents_choose(struct image *image, const struct sim_inode *inode, struct sim_bytes *bytes) {
    size_t count = 0;
    switch (image->model) {
    case SIMFS_ORDERED:
        while (count < inode->write_count && inode->writes[count].sequence <= image->cut) {
            count++;
        }
        contents_prefix(image, inode, count, count < inode->write_count && inode->writes[count].sequence == image->torn,
                        bytes);
        break;
    case SIMFS_FSDIR:
        switch (random_below(&image->random, 3)) {
        case 0:
            break;
        case 1:
            count = inode->write_count;
            break;
        default:
            count = (size_t)random_below(&image->random, inode->write_count + 1);
            break;
        }
        contents_prefix(image, inode, count, count > 0, bytes);
        break;
    case SIMFS_METAALL:
        for (size_t i = 0; i < inode->write_count; i++) {
            uint64_t size = inode->writes[i].new_size;
            bytes_set_size(bytes, size > bytes->size ? size : bytes->size);
        }
        break;
    case SIMFS_STRICT:
        contents_strict(image, inode, bytes);
        break;
    case SIMFS_MIN:
    case SIMFS_KILL: /* a clone: see simfs_crash */
        break;
    }
}

static struct sim_inode *image_inode(struct image *image, struct sim_inode *inode) {
    if (inode->image == NULL) {
        inode->image = inode_new(image->to);
        bytes_copy(&inode->image->durable, &inode->durable);
        if (inode->write_count > 0) {
            contents_choose(image, inode, &inode->image->durable);
        }
        bytes_copy(&inode->image->live, &inode->image->durable);
    }
    return inode->image;
}

/* ---- names ------------------------------------------------------------------------------------------------------ */

static bool image_keeps_name(struct image *image, uint64_t sequence) {
    switch (image->model) {
    case SIMFS_ORDERED:
    case SIMFS_FSDIR:
        return sequence <= image->cut;
    case SIMFS_STRICT:
        return image->enumerated ? image_take(image, 1) == 1 : image_keeps(image, image->name_odds);
    case SIMFS_METAALL:
    case SIMFS_KILL:
        return true;
    case SIMFS_MIN:
        break;
    }
    return false;
}

static void image_dir(struct image *image, const struct sim_dir *dir) {
    if (!dir->durable && !image_keeps_name(image, dir->sequence)) {
        return;
    }
    struct sim_dir *copy = dir_new(image->to, dir->path);
    copy->durable = true;
    struct sim_names names = {0};
    for (size_t i = 0; i < dir->durable_names.count; i++) {
        names_set(&names, dir->durable_names.entries[i].name, dir->durable_names.entries[i].inode);
    }
    for (size_t i = 0; i < dir->op_count; i++) {
        if (image_keeps_name(image, dir->ops[i].sequence)) {
            names_apply(&names, &dir->ops[i]);
        }
    }
    for (size_t i = 0; i < names.count; i++) {
        struct sim_inode *inode = image_inode(image, names.entries[i].inode);
        names_set(&copy->live_names, names.entries[i].name, inode);
        names_set(&copy->durable_names, names.entries[i].name, inode);
    }
    free(names.entries);
}

/* ---- the cut ---------------------------------------------------------------------------------------------------- */

static int sequence_compare(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Draws the cut evenly among the pending operations: each is as likely as any other to be the last one there. */
static void image_draw_cut(struct image *image) {
    const struct simfs *from = image->from;
    uint64_t *sequences = NULL;
    size_t count = 0;
    size_t capacity = 0;
    for (size_t i = 0; i < from->dir_count; i++) {
        const struct sim_dir *dir = from->dirs[i];
        if (!dir->durable) {
            sequences = sim_grow(sequences, count, &capacity, sizeof *sequences);
            sequences[count++] = dir->sequence;
        }
        for (size_t k = 0; k < dir->op_count; k++) {
            sequences = sim_grow(sequences, count, &capacity, sizeof *sequences);
            sequences[count++] = dir->ops[k].sequence;
        }
    }
    for (size_t i = 0; i < from->inode_count && image->model == SIMFS_ORDERED; i++) {
        const struct sim_inode *inode = from->inodes[i];
        for (size_t k = 0; k < inode->write_count; k++) {
            sequences = sim_grow(sequences, count, &capacity, sizeof *sequences);
            sequences[count++] = inode->writes[k].sequence;
        }
    }
    if (count > 0) {
        qsort(sequences, count, sizeof *sequences, sequence_compare);
    }
    size_t kept = (size_t)random_below(&image->random, count + 1);
    image->cut = kept > 0 ? sequences[kept - 1] : 0;
    image->torn = kept < count ? sequences[kept] : 0;
    free(sequences);
}

/* ---- clones and images ------------------------------------------------------------------------------------------ */

static struct sim_inode *clone_inode(struct simfs *to, struct sim_inode *inode) {
    struct sim_inode *copy = inode_new(to);
    inode->image = copy;
    copy->mapped = inode->mapped;
    copy->sparse = inode->sparse;
    bytes_copy(&copy->live, &inode->live);
    bytes_copy(&copy->durable, &inode->durable);
    for (size_t i = 0; i < inode->write_count; i++) {
        const struct sim_write *write = &inode->writes[i];
        copy->writes = sim_grow(copy->writes, copy->write_count, &copy->write_capacity, sizeof *copy->writes);
        struct sim_write *target = &copy->writes[copy->write_count++];
        *target = *write;
        (void)block_ref(target->data);
    }
    return copy;
}

static void clone_dir(struct simfs *to, const struct sim_dir *dir) {
    struct sim_dir *copy = dir_new(to, dir->path);
    copy->durable = dir->durable;
    copy->sequence = dir->sequence;
    for (size_t i = 0; i < dir->live_names.count; i++) {
        names_set(&copy->live_names, dir->live_names.entries[i].name, dir->live_names.entries[i].inode->image);
    }
    for (size_t i = 0; i < dir->durable_names.count; i++) {
        names_set(&copy->durable_names, dir->durable_names.entries[i].name, dir->durable_names.entries[i].inode->image);
    }
    for (size_t i = 0; i < dir->op_count; i++) {
        copy->ops = sim_grow(copy->ops, copy->op_count, &copy->op_capacity, sizeof *copy->ops);
        copy->ops[copy->op_count] = dir->ops[i];
        copy->ops[copy->op_count++].inode = dir->ops[i].inode->image;
    }
}

static struct simfs *clone_locked(struct simfs *fs) {
    struct simfs *to = simfs_new(0);
    to->random = fs->random;
    to->clock_ns = fs->clock_ns;
    for (size_t i = 0; i < fs->inode_count; i++) {
        (void)clone_inode(to, fs->inodes[i]);
    }
    for (size_t i = 0; i < fs->dir_count; i++) {
        clone_dir(to, fs->dirs[i]);
    }
    to->sequence = fs->sequence;
    return to;
}

struct simfs *simfs_clone(struct simfs *fs) {
    sim_lock(fs);
    sim_absorb(fs);
    struct simfs *to = clone_locked(fs);
    sim_sweep(to);
    sim_unlock(fs);
    return to;
}

static struct simfs *crash_kill(struct simfs *fs, struct random *random) {
    struct simfs *to = clone_locked(fs);
    if (fs->flight_inode != NULL) {
        size_t n = (size_t)random_below(random, fs->flight.n + 1);
        if (n > 0) {
            struct sim_inode *inode = fs->flight_inode->image;
            uint64_t end = fs->flight.offset + n;
            uint64_t size = end > inode->live.size ? end : inode->live.size;
            inode_write(to, inode, fs->flight.offset, fs->flight.data, n, size);
        }
    }
    sim_sweep(to);
    return to;
}

static struct simfs *crash_power(struct simfs *fs, struct image *image) {
    struct sim_inode *flown = fs->flight_inode;
    image->from = fs;
    image->to = simfs_new(random_next(&image->random));
    if (flown != NULL) { /* pending like any other, for as long as the image is made */
        flown->writes = sim_grow(flown->writes, flown->write_count, &flown->write_capacity, sizeof *flown->writes);
        flown->writes[flown->write_count++] = fs->flight;
    }
    image->name_odds = image_odds(image);
    if (image->model == SIMFS_ORDERED || image->model == SIMFS_FSDIR) {
        image_draw_cut(image);
    }
    for (size_t i = 0; i < fs->dir_count; i++) {
        image_dir(image, fs->dirs[i]);
    }
    if (flown != NULL) {
        flown->write_count--;
    }
    image->to->sequence = fs->sequence + 1;
    return image->to;
}

static void crash_begin(struct simfs *fs) {
    sim_absorb(fs);
    for (size_t i = 0; i < fs->inode_count; i++) {
        fs->inodes[i]->image = NULL;
    }
}

struct simfs *simfs_crash(struct simfs *fs, enum simfs_model model, uint64_t seed) {
    sim_lock(fs);
    crash_begin(fs);
    struct image image = {.model = model, .random = {seed}};
    struct simfs *to = model == SIMFS_KILL ? crash_kill(fs, &image.random) : crash_power(fs, &image);
    sim_unlock(fs);
    return to;
}

struct simfs *simfs_crash_subset(struct simfs *fs, uint64_t bits) {
    sim_lock(fs);
    crash_begin(fs);
    struct image image = {.model = SIMFS_STRICT, .enumerated = true, .bits = bits};
    struct simfs *to = crash_power(fs, &image);
    sim_unlock(fs);
    return to;
}

unsigned simfs_units(struct simfs *fs) {
    sim_lock(fs);
    crash_begin(fs);
    struct image image = {.model = SIMFS_STRICT, .enumerated = true, .bits = UINT64_MAX};
    simfs_free(crash_power(fs, &image)); /* every name is there, so everything takes its bits */
    sim_unlock(fs);
    return image.taken;
}

uint64_t simfs_hash(struct simfs *fs) {
    sim_lock(fs);
    uint64_t sum = 0; /* a sum does not depend on the order of names */
    for (size_t i = 0; i < fs->dir_count; i++) {
        const struct sim_dir *dir = fs->dirs[i];
        uint64_t path = XXH3_64bits(dir->path, strlen(dir->path));
        sum += path;
        for (size_t k = 0; k < dir->live_names.count; k++) {
            const struct sim_entry *entry = &dir->live_names.entries[k];
            const struct sim_bytes *bytes = &entry->inode->live;
            size_t n = bytes->used;
            while (n > 0 && bytes->data[n - 1] == 0) {
                n--; /* stored zeros and those that are not are the same contents */
            }
            uint64_t file = XXH3_64bits_withSeed(entry->name, strlen(entry->name), path);
            file = XXH3_64bits_withSeed(&bytes->size, sizeof bytes->size, file);
            sum += XXH3_64bits_withSeed(n > 0 ? bytes->data : (const void *)"", n, file);
        }
    }
    sim_unlock(fs);
    return sum;
}
