/* test_simfs.c - the rules S1 to S9 of the simulated disk, and its faults: what the crash tests stand on. */
#include "base/mem.h"
#include "support/failmem.h"
#include "support/random.h"
#include "support/simfs.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

#define PATH "/store"
#define SEEDS 200

struct disk {
    struct simfs *fs;
    const struct vfs *vfs;
    struct vfs_dir *dir;
};

static struct disk disk_new(void) {
    struct disk disk = {.fs = simfs_new(1)};
    disk.vfs = simfs_vfs(disk.fs);
    cr_assert_eq(disk.vfs->dir_open(disk.vfs, &mem_system, PATH, VFS_DIR_CREATE, 0700, &disk.dir, NULL), 0);
    return disk;
}

static void disk_free(struct disk *disk) {
    disk->vfs->dir_close(disk->dir);
    cr_assert_eq(simfs_open_handles(disk->fs), 0);
    simfs_free(disk->fs);
}

static struct vfs_file *disk_create(struct disk *disk, const char *name) {
    struct vfs_file *file = NULL;
    cr_assert_eq(disk->vfs->file_open(disk->dir, name, VFS_FILE_CREATE_NEW, 0600, &file, NULL), 0);
    return file;
}

/* A file with one write; each part made durable or not. */
static void disk_put(struct disk *disk, const char *name, const char *text, bool file_sync, bool dir_sync) {
    struct vfs_file *file = disk_create(disk, name);
    cr_assert_eq(disk->vfs->file_write(file, 0, text, strlen(text), NULL), 0);
    cr_assert(!file_sync || disk->vfs->file_sync(file, NULL) == 0);
    disk->vfs->file_close(file);
    cr_assert(!dir_sync || disk->vfs->dir_sync(disk->dir, NULL) == 0);
}

static bool disk_has(struct simfs *fs, const char *name) {
    size_t n;
    uint8_t *bytes = simfs_read_file(fs, PATH, name, &n);
    free(bytes);
    return bytes != NULL;
}

static bool disk_is(struct simfs *fs, const char *name, const void *data, size_t n) {
    size_t found;
    uint8_t *bytes = simfs_read_file(fs, PATH, name, &found);
    bool is = bytes != NULL && found == n && memcmp(bytes, data, n) == 0;
    free(bytes);
    return is;
}

static bool crash_has(struct simfs *fs, enum simfs_model model, uint64_t seed, const char *name) {
    struct simfs *image = simfs_crash(fs, model, seed);
    bool has = disk_has(image, name);
    simfs_free(image);
    return has;
}

static bool crash_is(struct simfs *fs, enum simfs_model model, uint64_t seed, const char *name, const char *text) {
    struct simfs *image = simfs_crash(fs, model, seed);
    bool is = disk_is(image, name, text, strlen(text));
    simfs_free(image);
    return is;
}

/* In how many of SEEDS images the file is exactly this (text) or there at all (NULL). */
static int crash_count(struct simfs *fs, enum simfs_model model, const char *name, const char *text) {
    int count = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        count += text != NULL ? crash_is(fs, model, seed, name, text) : crash_has(fs, model, seed, name);
    }
    return count;
}

/* ---- S1, S2 ----------------------------------------------------------------------------------------------------- */

Test(simfs, what_was_synced_is_there_in_every_model) {
    struct disk disk = disk_new();
    disk_put(&disk, "a", "contents", true, true);
    cr_assert_eq(simfs_pending(disk.fs), 0);
    for (int model = 0; model < SIMFS_MODELS; model++) {
        cr_assert_eq(crash_count(disk.fs, (enum simfs_model)model, "a", "contents"), SEEDS, "%s",
                     simfs_model_name((enum simfs_model)model));
    }
    disk_free(&disk);
}

Test(simfs, unsynced_contents_are_kept_by_kill_and_lost_by_min) {
    struct disk disk = disk_new();
    disk_put(&disk, "a", "contents", false, true);
    cr_assert(crash_is(disk.fs, SIMFS_KILL, 1, "a", "contents"));
    cr_assert(crash_is(disk.fs, SIMFS_MIN, 1, "a", ""));
    cr_assert(crash_is(disk.fs, SIMFS_METAALL, 1, "a", "") == false);
    struct simfs *image = simfs_crash(disk.fs, SIMFS_METAALL, 1);
    cr_assert(disk_is(image, "a", "\0\0\0\0\0\0\0\0", 8), "metaall: the size without the contents");
    simfs_free(image);
    static const enum simfs_model some[] = {SIMFS_ORDERED, SIMFS_FSDIR, SIMFS_STRICT};
    for (size_t i = 0; i < 3; i++) {
        int kept = crash_count(disk.fs, some[i], "a", "contents");
        int lost = crash_count(disk.fs, some[i], "a", "");
        cr_assert(kept > 0 && lost > 0, "%s: kept %d, lost %d", simfs_model_name(some[i]), kept, lost);
    }
    disk_free(&disk);
}

Test(simfs, a_name_without_dir_sync_may_be_lost_though_the_file_was_synced) {
    struct disk disk = disk_new();
    disk_put(&disk, "a", "contents", true, false);
    cr_assert_eq(crash_count(disk.fs, SIMFS_KILL, "a", "contents"), SEEDS);
    cr_assert_eq(crash_count(disk.fs, SIMFS_METAALL, "a", "contents"), SEEDS);
    cr_assert_eq(crash_count(disk.fs, SIMFS_MIN, "a", NULL), 0);
    static const enum simfs_model some[] = {SIMFS_ORDERED, SIMFS_FSDIR, SIMFS_STRICT};
    for (size_t i = 0; i < 3; i++) {
        int there = crash_count(disk.fs, some[i], "a", NULL);
        cr_assert(there > 0 && there < SEEDS);
        cr_assert_eq(crash_count(disk.fs, some[i], "a", "contents"), there, "synced contents are whole where named");
    }
    disk_free(&disk);
}

Test(simfs, a_rename_without_dir_sync_may_be_lost_and_never_loses_both_names) {
    struct disk disk = disk_new();
    disk_put(&disk, "current", "old", true, true);
    disk_put(&disk, "next", "new", true, true);
    cr_assert_eq(disk.vfs->dir_rename(disk.dir, "next", "current", NULL), 0);
    cr_assert(disk_is(disk.fs, "current", "new", 3) && !disk_has(disk.fs, "next"));
    cr_assert(crash_is(disk.fs, SIMFS_MIN, 1, "current", "old") && crash_is(disk.fs, SIMFS_MIN, 1, "next", "new"));
    static const enum simfs_model some[] = {SIMFS_ORDERED, SIMFS_FSDIR, SIMFS_STRICT};
    for (size_t i = 0; i < 3; i++) {
        int before = crash_count(disk.fs, some[i], "current", "old");
        int after = crash_count(disk.fs, some[i], "current", "new");
        cr_assert(before > 0 && after > 0 && before + after == SEEDS);
        cr_assert_eq(crash_count(disk.fs, some[i], "next", NULL), before);
    }
    cr_assert_eq(disk.vfs->dir_sync(disk.dir, NULL), 0);
    cr_assert_eq(crash_count(disk.fs, SIMFS_STRICT, "current", "new"), SEEDS);
    disk_free(&disk);
}

Test(simfs, an_unlink_without_dir_sync_may_be_undone) {
    struct disk disk = disk_new();
    disk_put(&disk, "a", "contents", true, true);
    cr_assert_eq(disk.vfs->dir_unlink(disk.dir, "a", NULL), 0);
    cr_assert(!disk_has(disk.fs, "a"));
    cr_assert_eq(crash_count(disk.fs, SIMFS_MIN, "a", "contents"), SEEDS);
    int back = crash_count(disk.fs, SIMFS_STRICT, "a", "contents");
    cr_assert(back > 0 && back < SEEDS);
    cr_assert_eq(disk.vfs->dir_sync(disk.dir, NULL), 0);
    cr_assert_eq(crash_count(disk.fs, SIMFS_STRICT, "a", NULL), 0);
    disk_free(&disk);
}

Test(simfs, strict_keeps_a_later_name_and_loses_an_earlier_one_and_ordered_never_does) {
    struct disk disk = disk_new();
    disk_put(&disk, "first", "1", true, false);
    disk_put(&disk, "second", "2", true, false);
    int odd[SIMFS_MODELS] = {0};
    for (int model = 0; model < SIMFS_MODELS; model++) {
        for (uint64_t seed = 0; seed < SEEDS; seed++) {
            struct simfs *image = simfs_crash(disk.fs, (enum simfs_model)model, seed);
            odd[model] += disk_has(image, "second") && !disk_has(image, "first");
            simfs_free(image);
        }
    }
    cr_assert(odd[SIMFS_STRICT] > 0);
    cr_assert(odd[SIMFS_ORDERED] == 0 && odd[SIMFS_FSDIR] == 0 && odd[SIMFS_KILL] == 0);
    disk_free(&disk);
}

Test(simfs, ordered_is_a_prefix_over_files_and_tears_the_write_at_the_cut) {
    struct disk disk = disk_new();
    struct vfs_file *a = disk_create(&disk, "a");
    struct vfs_file *b = disk_create(&disk, "b");
    cr_assert_eq(disk.vfs->dir_sync(disk.dir, NULL), 0);
    cr_assert_eq(disk.vfs->file_write(a, 0, "aaaaaaaa", 8, NULL), 0);
    cr_assert_eq(disk.vfs->file_write(b, 0, "bbbbbbbb", 8, NULL), 0);
    int torn = 0;
    int reordered = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        size_t na;
        size_t nb;
        struct simfs *image = simfs_crash(disk.fs, SIMFS_ORDERED, seed);
        free(simfs_read_file(image, PATH, "a", &na));
        free(simfs_read_file(image, PATH, "b", &nb));
        cr_assert(nb == 0 || na == 8, "the later write is there without the earlier one");
        torn += (na > 0 && na < 8) || (nb > 0 && nb < 8);
        simfs_free(image);
        image = simfs_crash(disk.fs, SIMFS_FSDIR, seed);
        free(simfs_read_file(image, PATH, "a", &na));
        free(simfs_read_file(image, PATH, "b", &nb));
        reordered += na < nb;
        simfs_free(image);
    }
    cr_assert(torn > 0);
    cr_assert(reordered > 0, "fsdir orders the writes of one file only");
    disk.vfs->file_close(a);
    disk.vfs->file_close(b);
    disk_free(&disk);
}

Test(simfs, strict_keeps_and_loses_each_sector_alone) {
    enum { SECTORS = 6 };
    struct disk disk = disk_new();
    struct vfs_file *file = disk_create(&disk, "a");
    uint8_t bytes[SECTORS * SIMFS_SECTOR_BYTES];
    memset(bytes, 'o', sizeof bytes);
    cr_assert_eq(disk.vfs->file_write(file, 0, bytes, sizeof bytes, NULL), 0);
    cr_assert_eq(disk.vfs->file_sync(file, NULL), 0);
    cr_assert_eq(disk.vfs->dir_sync(disk.dir, NULL), 0);
    memset(bytes, 'n', sizeof bytes);
    cr_assert_eq(disk.vfs->file_write(file, 0, bytes, sizeof bytes, NULL), 0);
    memset(bytes, 'm', sizeof bytes);
    cr_assert_eq(disk.vfs->file_write(file, 0, bytes, SIMFS_SECTOR_BYTES, NULL), 0);
    unsigned seen = 0;
    unsigned patterns[1u << SECTORS] = {0};
    for (uint64_t seed = 0; seed < 10 * SEEDS; seed++) {
        struct simfs *image = simfs_crash(disk.fs, SIMFS_STRICT, seed);
        size_t n;
        uint8_t *found = simfs_read_file(image, PATH, "a", &n);
        cr_assert_eq(n, sizeof bytes);
        unsigned pattern = 0;
        for (size_t i = 0; i < n; i++) {
            size_t sector = i / SIMFS_SECTOR_BYTES;
            cr_assert_eq(found[i], found[sector * SIMFS_SECTOR_BYTES], "a sector is whole");
            cr_assert(found[i] == 'o' || found[i] == 'n' || (found[i] == 'm' && sector == 0));
            seen |= sector > 0 ? 0u : found[i] == 'o' ? 1u : found[i] == 'n' ? 2u : 4u;
            pattern |= found[i] == 'o' ? 0u : 1u << sector;
        }
        patterns[pattern]++;
        free(found);
        simfs_free(image);
    }
    cr_assert_eq(seen, 7, "the first sector was found at each of its three versions");
    for (unsigned i = 0; i < 1u << SECTORS; i++) {
        cr_assert_gt(patterns[i], 0, "subset %u of sectors never kept", i);
    }
    disk.vfs->file_close(file);
    disk_free(&disk);
}

Test(simfs, strict_holes_are_zero_noise_or_stale_and_sizes_lie_between) {
    struct disk disk = disk_new();
    uint8_t other[SIMFS_SECTOR_BYTES];
    memset(other, 'z', sizeof other);
    simfs_write_file(disk.fs, PATH, "other", other, sizeof other);
    struct vfs_file *file = disk_create(&disk, "a");
    cr_assert_eq(disk.vfs->dir_sync(disk.dir, NULL), 0);
    uint8_t bytes[4 * SIMFS_SECTOR_BYTES];
    memset(bytes, 'n', sizeof bytes);
    cr_assert_eq(disk.vfs->file_write(file, 0, bytes, sizeof bytes, NULL), 0);
    int zero = 0;
    int stale = 0;
    int noise = 0;
    int between = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct simfs *image = simfs_crash(disk.fs, SIMFS_STRICT, seed);
        size_t n;
        uint8_t *found = simfs_read_file(image, PATH, "a", &n);
        cr_assert_leq(n, sizeof bytes);
        between += n > 0 && n < sizeof bytes;
        for (size_t s = 0; s + SIMFS_SECTOR_BYTES <= n; s += SIMFS_SECTOR_BYTES) {
            const uint8_t *at = found + s;
            zero += at[0] == 0 && at[100] == 0;
            stale += memcmp(at, other, sizeof other) == 0;
            noise += at[0] != at[1] && at[1] != at[2];
        }
        free(found);
        simfs_free(image);
    }
    cr_assert(zero > 0 && stale > 0 && noise > 0 && between > 0, "%d %d %d %d", zero, stale, noise, between);
    disk.vfs->file_close(file);
    disk_free(&disk);
}

Test(simfs, after_a_power_loss_all_is_durable_and_after_a_kill_it_is_not) {
    struct disk disk = disk_new();
    disk_put(&disk, "a", "contents", false, false);
    struct simfs *killed = simfs_crash(disk.fs, SIMFS_KILL, 1);
    cr_assert_gt(simfs_pending(killed), 0);
    cr_assert(!crash_has(killed, SIMFS_MIN, 1, "a"), "a kill makes nothing durable");
    struct simfs *lost = simfs_crash(killed, SIMFS_METAALL, 1);
    cr_assert_eq(simfs_pending(lost), 0);
    cr_assert(crash_has(lost, SIMFS_MIN, 1, "a"), "what a power loss left was on the disk");
    simfs_free(lost);
    simfs_free(killed);
    disk_free(&disk);
}

/* ---- S3 --------------------------------------------------------------------------------------------------------- */

Test(simfs, stores_to_a_mapped_log_outlive_a_kill_unpublished_and_to_a_written_one_do_not) {
    for (int by_write = 0; by_write < 2; by_write++) {
        struct disk disk = disk_new();
        struct vfs_log *log = NULL;
        cr_assert_eq(disk.vfs->log_create(disk.dir, "log", 2000, by_write != 0, 0600, &log, NULL), 0);
        cr_assert_eq(disk.vfs->dir_sync(disk.dir, NULL), 0);
        uint8_t expected[2000] = {0};
        memcpy(log->base + 10, "published", 9);
        memcpy(expected + 10, "published", 9);
        cr_assert_eq(disk.vfs->log_publish(log, 10, 9, NULL), 0);
        memcpy(log->base + 900, "stored", 6);
        memcpy(expected + 900, "stored", by_write ? 0 : 6);
        struct simfs *killed = simfs_crash(disk.fs, SIMFS_KILL, 1);
        cr_assert(disk_is(killed, "log", expected, sizeof expected));
        simfs_free(killed);
        cr_assert(crash_is(disk.fs, SIMFS_MIN, 1, "log", ""));
        disk.vfs->log_close(log);
        cr_assert(disk_is(disk.fs, "log", expected, sizeof expected));
        disk_free(&disk);
    }
}

Test(simfs, a_synced_log_is_durable_with_its_size_and_mapped_holes_are_zero) {
    struct disk disk = disk_new();
    struct vfs_log *log = NULL;
    cr_assert_eq(disk.vfs->log_create(disk.dir, "log", 8192, false, 0600, &log, NULL), 0);
    for (size_t i = 0; i < 8192; i++) {
        cr_assert_eq(log->base[i], 0);
    }
    cr_assert_eq(disk.vfs->dir_sync(disk.dir, NULL), 0);
    memset(log->base, 'x', 1024);
    cr_assert_eq(disk.vfs->log_publish(log, 0, 1024, NULL), 0);
    cr_assert_eq(disk.vfs->log_sync(log, NULL), 0);
    memset(log->base + 1024, 'y', 2048);
    cr_assert_eq(disk.vfs->log_publish(log, 1024, 2048, NULL), 0);
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct simfs *image = simfs_crash(disk.fs, SIMFS_STRICT, seed);
        size_t n;
        uint8_t *found = simfs_read_file(image, PATH, "log", &n);
        cr_assert_eq(n, 8192);
        for (size_t i = 0; i < n; i++) {
            cr_assert(i < 1024 ? found[i] == 'x' : found[i] == 0 || (found[i] == 'y' && i < 3072));
        }
        free(found);
        simfs_free(image);
    }
    disk.vfs->log_close(log);
    disk_free(&disk);
}

Test(simfs, an_unsynced_log_has_zeros_in_its_holes_when_mapped_and_anything_when_written) {
    int foreign[2] = {0};
    for (int by_write = 0; by_write < 2; by_write++) {
        struct disk disk = disk_new();
        struct vfs_log *log = NULL;
        uint8_t other[SIMFS_SECTOR_BYTES];
        memset(other, 'z', sizeof other);
        simfs_write_file(disk.fs, PATH, "other", other, sizeof other);
        cr_assert_eq(disk.vfs->log_create(disk.dir, "log", 2048, by_write != 0, 0600, &log, NULL), 0);
        memset(log->base, 'x', 1024);
        cr_assert_eq(disk.vfs->log_publish(log, 0, 1024, NULL), 0);
        for (uint64_t seed = 0; seed < SEEDS; seed++) {
            struct simfs *image = simfs_crash(disk.fs, SIMFS_STRICT, seed);
            size_t n = 0;
            uint8_t *found = simfs_read_file(image, PATH, "log", &n);
            cr_assert_leq(n, 2048);
            for (size_t i = 0; i < n; i++) {
                cr_assert(i < 1024 || found[i] == 0, "what was never written is zero");
                foreign[by_write] += found[i] != 0 && found[i] != 'x';
            }
            free(found);
            simfs_free(image);
        }
        disk.vfs->log_close(log);
        disk_free(&disk);
    }
    cr_assert_eq(foreign[0], 0);
    cr_assert_gt(foreign[1], 0);
}

/* ---- S4 --------------------------------------------------------------------------------------------------------- */

/* Every kind of operation once; the number of them that succeeded. */
static int stop_workload(struct simfs *fs) {
    const struct vfs *vfs = simfs_vfs(fs);
    struct vfs_dir *dir = NULL;
    struct vfs_lock *lock = NULL;
    struct vfs_file *file = NULL;
    struct vfs_log *log = NULL;
    int64_t holder;
    int done = 0;
    if (vfs->dir_open(vfs, &mem_system, PATH, VFS_DIR_CREATE, 0700, &dir, NULL) < 0) {
        return 0;
    }
    done += 2;
    done += vfs->dir_lock(dir, "LOCK", false, 0600, &lock, &holder, NULL) == 0;
    done += vfs->file_open(dir, "a", VFS_FILE_CREATE_NEW, 0600, &file, NULL) == 0;
    done += file != NULL && vfs->file_write(file, 0, "contents", 8, NULL) == 0;
    done += file != NULL && vfs->file_sync(file, NULL) == 0;
    done += vfs->dir_rename(dir, "a", "b", NULL) == 0;
    done += vfs->dir_sync(dir, NULL) == 0;
    done += vfs->log_create(dir, "log", 4096, false, 0600, &log, NULL) == 0;
    if (log != NULL) {
        memcpy(log->base, "stored", 6);
        done += vfs->log_publish(log, 0, 6, NULL) == 0;
        done += vfs->log_sync(log, NULL) == 0;
    }
    done += vfs->dir_unlink(dir, "b", NULL) == 0;
    vfs->log_close(log);
    vfs->file_close(file);
    vfs->lock_release(lock);
    vfs->dir_close(dir);
    return done;
}

Test(simfs, a_stop_at_n_lets_exactly_n_minus_1_operations_through) {
    struct simfs *whole = simfs_new(1);
    int operations = stop_workload(whole);
    cr_assert_eq(operations, 12);
    cr_assert_eq(simfs_operations(whole), 12);
    cr_assert(!simfs_stopped(whole));
    simfs_free(whole);
    for (int n = 1; n <= operations; n++) {
        struct simfs *fs = simfs_new(1);
        simfs_stop_at(fs, (uint64_t)n);
        int done = stop_workload(fs);
        cr_assert_eq(done, n == 2 ? 0 : n - 1, "stopped at %d, done %d", n, done);
        cr_assert_eq(simfs_operations(fs), (uint64_t)n - 1);
        cr_assert(simfs_stopped(fs));
        cr_assert_eq(simfs_open_handles(fs), 0);
        for (int model = 0; model < SIMFS_MODELS; model++) {
            struct simfs *image = simfs_crash(fs, (enum simfs_model)model, (uint64_t)n);
            cr_assert_eq(simfs_operations(image), 0);
            cr_assert(!simfs_stopped(image));
            cr_assert(stop_workload(image) >= 3, "an image is a disk to work on");
            simfs_free(image);
        }
        simfs_free(fs);
    }
}

Test(simfs, a_stopped_write_has_no_effect_but_may_be_there_in_part_after_the_crash) {
    struct disk disk = disk_new();
    struct vfs_file *file = disk_create(&disk, "a");
    cr_assert_eq(disk.vfs->file_write(file, 0, "first ", 6, NULL), 0);
    cr_assert_eq(disk.vfs->dir_sync(disk.dir, NULL), 0);
    simfs_stop_at(disk.fs, simfs_operations(disk.fs) + 1);
    struct pleat_error err = {0};
    cr_assert_eq(disk.vfs->file_write(file, 6, "second", 6, &err), PLEAT_ERR_IO);
    cr_assert_eq(disk.vfs->file_sync(file, NULL), PLEAT_ERR_IO);
    cr_assert(disk_is(disk.fs, "a", "first ", 6));
    size_t seen[13] = {0};
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct simfs *image = simfs_crash(disk.fs, SIMFS_KILL, seed);
        size_t n;
        uint8_t *found = simfs_read_file(image, PATH, "a", &n);
        cr_assert(n >= 6 && n <= 12 && memcmp(found, "first second", n) == 0);
        seen[n]++;
        free(found);
        simfs_free(image);
    }
    for (size_t n = 6; n <= 12; n++) {
        cr_assert_gt(seen[n], 0);
    }
    cr_assert(crash_is(disk.fs, SIMFS_MIN, 1, "a", ""));
    cr_assert_gt(crash_count(disk.fs, SIMFS_ORDERED, "a", "first second"), 0);
    disk.vfs->file_close(file);
    disk_free(&disk);
}

Test(simfs, stores_after_the_stop_are_not_of_the_dead_process) {
    struct disk disk = disk_new();
    struct vfs_log *log = NULL;
    cr_assert_eq(disk.vfs->log_create(disk.dir, "log", 16, false, 0600, &log, NULL), 0);
    memcpy(log->base, "before", 6);
    simfs_stop_at(disk.fs, simfs_operations(disk.fs) + 1);
    cr_assert_eq(disk.vfs->log_publish(log, 0, 6, NULL), PLEAT_ERR_IO);
    memcpy(log->base, "behind", 6);
    cr_assert_eq(disk.vfs->log_publish(log, 0, 6, NULL), PLEAT_ERR_IO);
    disk.vfs->log_close(log);
    struct simfs *killed = simfs_crash(disk.fs, SIMFS_KILL, 1);
    cr_assert(disk_is(killed, "log", "before\0\0\0\0\0\0\0\0\0\0", 16));
    simfs_free(killed);
    disk_free(&disk);
}

/* ---- S9 --------------------------------------------------------------------------------------------------------- */

#define LOOKS_MAX 1024

/* The images of a disk at each of its operations, as hashes. */
struct looks {
    uint64_t hashes[LOOKS_MAX];
    size_t count;
};

static void look(void *context, struct simfs *fs, uint64_t operation, unsigned call) {
    struct looks *looks = context;
    (void)call;
    for (enum simfs_model model = 0; model < SIMFS_MODELS; model++) {
        for (uint64_t seed = 0; seed < 4 && looks->count < LOOKS_MAX; seed++) {
            struct simfs *image = simfs_crash(fs, model, operation * 8 + seed);
            looks->hashes[looks->count++] = simfs_hash(image);
            simfs_free(image);
        }
    }
}

/* Files and both kinds of logs, with stores that no publish has told of yet; ends at the first error. */
static void look_script(struct simfs *fs) {
    const struct vfs *vfs = simfs_vfs(fs);
    struct vfs_dir *dir = NULL;
    struct vfs_file *file = NULL;
    struct vfs_log *logs[2] = {NULL, NULL};
    int rc = vfs->dir_open(vfs, &mem_system, PATH, VFS_DIR_CREATE, 0700, &dir, NULL);
    rc = rc == 0 ? vfs->file_open(dir, "a", VFS_FILE_CREATE_NEW, 0600, &file, NULL) : rc;
    for (int i = 0; i < 2; i++) {
        rc = rc == 0 ? vfs->log_create(dir, i == 0 ? "mapped" : "written", 2048, i == 1, 0600, &logs[i], NULL) : rc;
    }
    for (uint64_t round = 0; rc == 0 && round < 3; round++) {
        memset(logs[0]->base + round * 500, 'm', 700);
        memset(logs[1]->base + round * 500, 'w', 700);
        rc = vfs->file_write(file, round * 600, logs[1]->base, 900, NULL);
        for (int i = 0; i < 2; i++) {
            rc = rc == 0 ? vfs->log_publish(logs[i], round * 500, 700, NULL) : rc;
        }
        rc = rc == 0 ? vfs->file_sync(file, NULL) : rc;
        rc = rc == 0 ? vfs->dir_rename(dir, round % 2 == 0 ? "a" : "b", round % 2 == 0 ? "b" : "a", NULL) : rc;
        rc = rc == 0 && round == 1 ? vfs->log_sync(logs[0], NULL) : rc;
    }
    rc = rc == 0 ? vfs->dir_sync(dir, NULL) : rc;
    vfs->log_close(logs[0]);
    vfs->log_close(logs[1]);
    vfs->file_close(file);
    vfs->dir_close(dir);
}

Test(simfs, an_observer_sees_what_each_stop_would_leave_and_changes_nothing) {
    static struct looks observed, stopped;
    struct simfs *fs = simfs_new(1);
    simfs_observe(fs, look, &observed);
    look_script(fs);
    uint64_t operations = simfs_operations(fs);
    struct simfs *alone = simfs_new(1);
    look_script(alone);
    cr_assert_eq(simfs_hash(fs), simfs_hash(alone));
    cr_assert_eq(simfs_pending(fs), simfs_pending(alone));
    simfs_free(fs);
    for (uint64_t stop = 1; stop <= operations; stop++) {
        fs = simfs_new(1);
        simfs_stop_at(fs, stop);
        look_script(fs);
        cr_assert_eq(simfs_operations(fs), stop - 1);
        look(&stopped, fs, stop, 0);
        simfs_free(fs);
    }
    simfs_free(alone);
    cr_assert_lt(observed.count, LOOKS_MAX);
    cr_assert_eq(observed.count, stopped.count);
    for (size_t i = 0; i < observed.count; i++) {
        cr_assert_eq(observed.hashes[i], stopped.hashes[i], "image %zu of %zu", i, observed.count);
    }
}

Test(simfs, subsets_are_all_the_images_that_pending_names_and_sectors_allow) {
    struct disk disk = disk_new();
    disk_put(&disk, "old", "", true, true);
    struct vfs_file *file = disk_create(&disk, "new"); /* 1 name */
    char sectors[2 * SIMFS_SECTOR_BYTES];
    memset(sectors, 's', sizeof sectors);
    cr_assert_eq(disk.vfs->file_write(file, 0, sectors, sizeof sectors, NULL), 0); /* 2 sectors and a size */
    cr_assert_eq(disk.vfs->file_write(file, 0, "t", 1, NULL), 0);                  /* a third version of one sector */
    cr_assert_eq(disk.vfs->dir_unlink(disk.dir, "old", NULL), 0);                  /* 1 name */
    unsigned units = simfs_units(disk.fs);
    cr_assert_eq(units, 6);
    uint64_t seen[64];
    size_t distinct = 0;
    for (uint64_t bits = 0; bits < 64; bits++) {
        struct simfs *image = simfs_crash_subset(disk.fs, bits);
        uint64_t hash = simfs_hash(image);
        size_t i = 0;
        while (i < distinct && seen[i] != hash) {
            i++;
        }
        seen[i] = hash;
        distinct += i == distinct;
        simfs_free(image);
    }
    /* old or not, times: no "new", an empty one, or 3 x 2 versions of its sectors at full size. */
    cr_assert_eq(distinct, 2 * (1 + 1 + 3 * 2));
    disk.vfs->file_close(file);
    disk_free(&disk);
}

static void fate_of_a(void *context, const struct simfs_fate *fate) {
    if (strcmp(fate->name, "a") == 0) {
        *(struct simfs_fate *)context = *fate;
    }
}

Test(simfs, fates_tell_what_was_kept_torn_and_lost) {
    struct disk disk = disk_new();
    struct vfs_file *file = disk_create(&disk, "a");
    char sectors[2 * SIMFS_SECTOR_BYTES];
    memset(sectors, 's', sizeof sectors);
    cr_assert_eq(disk.vfs->dir_sync(disk.dir, NULL), 0);
    cr_assert_eq(disk.vfs->file_write(file, 0, sectors, sizeof sectors, NULL), 0);
    static const struct {
        uint64_t bits; /* two sectors and the size */
        unsigned kept, torn, lost;
    } rows[] = {{7, 1, 0, 0}, {5, 0, 1, 0}, {6, 0, 1, 0}, {4, 0, 0, 1}, {0, 0, 0, 1}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct simfs_fate fate = {0};
        struct simfs *image = simfs_crash_subset(disk.fs, rows[i].bits);
        simfs_fates(disk.fs, image, fate_of_a, &fate);
        cr_assert(fate.live && fate.durable && fate.there && fate.was_empty);
        cr_assert(fate.kept == rows[i].kept && fate.torn == rows[i].torn && fate.lost == rows[i].lost, "row %zu", i);
        simfs_free(image);
    }
    disk.vfs->file_close(file);
    disk_free(&disk);
}

/* ---- S5, faults, quota ------------------------------------------------------------------------------------------ */

Test(simfs, a_failed_sync_leaves_the_pages_readable_and_loses_them) {
    struct disk disk = disk_new();
    struct vfs_file *file = disk_create(&disk, "a");
    cr_assert_eq(disk.vfs->dir_sync(disk.dir, NULL), 0);
    cr_assert_eq(disk.vfs->file_write(file, 0, "contents", 8, NULL), 0);
    simfs_fault_add(disk.fs, (struct simfs_fault){SIMFS_FILE_SYNC, 1, EIO, false, false});
    struct pleat_error err = {0};
    cr_assert_eq(disk.vfs->file_sync(file, &err), PLEAT_ERR_IO);
    cr_assert_eq(err.os_errno, EIO);
    cr_assert_eq(simfs_sync_retries(disk.fs), 0);
    cr_assert_eq(disk.vfs->file_sync(file, NULL), PLEAT_ERR_IO, "the same handle never syncs again");
    cr_assert_eq(simfs_sync_retries(disk.fs), 1);
    disk.vfs->file_close(file);
    cr_assert_eq(disk.vfs->file_open(disk.dir, "a", VFS_FILE_READ, 0, &file, NULL), 0);
    cr_assert_eq(disk.vfs->file_sync(file, NULL), 0, "another handle is told that all is well");
    disk.vfs->file_close(file);
    cr_assert(disk_is(disk.fs, "a", "contents", 8));
    cr_assert(crash_is(disk.fs, SIMFS_KILL, 1, "a", "contents"));
    for (int model = SIMFS_MIN; model < SIMFS_MODELS; model++) {
        cr_assert_eq(crash_count(disk.fs, (enum simfs_model)model, "a", ""), SEEDS);
    }
    disk_free(&disk);
}

Test(simfs, a_half_failed_sync_keeps_the_first_half_and_a_failed_dir_sync_loses_names) {
    struct disk disk = disk_new();
    struct vfs_file *file = disk_create(&disk, "a");
    cr_assert_eq(disk.vfs->dir_sync(disk.dir, NULL), 0);
    cr_assert_eq(disk.vfs->file_write(file, 0, "first ", 6, NULL), 0);
    cr_assert_eq(disk.vfs->file_write(file, 6, "second", 6, NULL), 0);
    simfs_fault_add(disk.fs, (struct simfs_fault){SIMFS_FILE_SYNC, 1, EIO, false, true});
    cr_assert_eq(disk.vfs->file_sync(file, NULL), PLEAT_ERR_IO);
    cr_assert(crash_is(disk.fs, SIMFS_MIN, 1, "a", "first "));
    disk.vfs->file_close(file);
    disk_put(&disk, "b", "contents", true, false);
    simfs_fault_add(disk.fs, (struct simfs_fault){SIMFS_DIR_SYNC, 1, EIO, false, false});
    cr_assert_eq(disk.vfs->dir_sync(disk.dir, NULL), PLEAT_ERR_IO);
    cr_assert_eq(disk.vfs->dir_sync(disk.dir, NULL), 0);
    cr_assert(disk_has(disk.fs, "b"));
    cr_assert_eq(crash_count(disk.fs, SIMFS_METAALL, "b", NULL), 0);
    disk_free(&disk);
}

Test(simfs, faults_strike_the_nth_call_once_or_for_ever_and_half) {
    struct disk disk = disk_new();
    struct vfs_file *file = disk_create(&disk, "a");
    simfs_fault_add(disk.fs, (struct simfs_fault){SIMFS_FILE_WRITE, 2, ENOSPC, false, true});
    cr_assert_eq(disk.vfs->file_write(file, 0, "1234", 4, NULL), 0);
    struct pleat_error err = {0};
    cr_assert_eq(disk.vfs->file_write(file, 4, "5678", 4, &err), PLEAT_ERR_NO_SPACE);
    cr_assert_eq(err.os_errno, ENOSPC);
    cr_assert(disk_is(disk.fs, "a", "123456", 6));
    cr_assert_eq(disk.vfs->file_write(file, 4, "5678", 4, NULL), 0);
    simfs_fault_add(disk.fs, (struct simfs_fault){SIMFS_ANY, 3, EMFILE, true, false});
    uint64_t size;
    cr_assert_eq(disk.vfs->file_size(file, &size, NULL), 0);
    cr_assert_eq(disk.vfs->file_size(file, &size, NULL), 0);
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(disk.vfs->file_size(file, &size, NULL), PLEAT_ERR_IO);
        cr_assert_eq(disk.vfs->dir_sync(disk.dir, NULL), PLEAT_ERR_IO);
    }
    cr_assert_eq(simfs_faults_fired(disk.fs), 7);
    cr_assert_eq(simfs_calls(disk.fs, SIMFS_FILE_SIZE), 5);
    simfs_faults_clear(disk.fs);
    cr_assert_eq(disk.vfs->file_size(file, &size, NULL), 0);
    cr_assert_eq(size, 8);
    disk.vfs->file_close(file);
    disk_free(&disk);
}

Test(simfs, the_quota_lets_in_what_fits_and_goes_on_when_space_returns) {
    struct disk disk = disk_new();
    simfs_quota(disk.fs, 10);
    struct vfs_file *file = disk_create(&disk, "a");
    cr_assert_eq(disk.vfs->file_write(file, 0, "123456", 6, NULL), 0);
    cr_assert_eq(disk.vfs->file_write(file, 6, "7890AB", 6, NULL), PLEAT_ERR_NO_SPACE);
    cr_assert(disk_is(disk.fs, "a", "1234567890", 10));
    cr_assert_eq(disk.vfs->file_write(file, 0, "abcdefghij", 10, NULL), 0, "overwriting needs no space");
    struct vfs_log *log = NULL;
    cr_assert_eq(disk.vfs->log_create(disk.dir, "log", 8, false, 0600, &log, NULL), PLEAT_ERR_NO_SPACE);
    cr_assert(!disk_has(disk.fs, "log"));
    cr_assert_eq(disk.vfs->dir_unlink(disk.dir, "a", NULL), 0);
    cr_assert_eq(simfs_used_bytes(disk.fs), 10, "an open file takes its space until it is closed");
    disk.vfs->file_close(file);
    cr_assert_eq(simfs_used_bytes(disk.fs), 0);
    cr_assert_eq(disk.vfs->log_create(disk.dir, "log", 8, false, 0600, &log, NULL), 0);
    disk.vfs->log_close(log);
    disk_free(&disk);
}

/* ---- S8 --------------------------------------------------------------------------------------------------------- */

Test(simfs, a_disk_that_reserves_nothing_fills_up_while_a_log_is_published) {
    struct disk disk = disk_new();
    struct vfs_log *log = NULL;
    simfs_reserves(disk.fs, false);
    simfs_quota(disk.fs, 1000);
    cr_assert_eq(disk.vfs->log_create(disk.dir, "log", 4096, false, 0600, &log, NULL), 0, "its size takes no room");
    cr_assert_eq(simfs_used_bytes(disk.fs), 0);
    cr_assert_eq(disk.vfs->dir_sync(disk.dir, NULL), 0);
    memset(log->base, 'x', 4096);
    cr_assert_eq(disk.vfs->log_publish(log, 0, 600, NULL), 0);
    cr_assert_eq(simfs_used_bytes(disk.fs), 600);
    uint64_t syncs = simfs_calls(disk.fs, SIMFS_LOG_SYNC);
    cr_assert_eq(disk.vfs->log_publish(log, 600, 600, NULL), PLEAT_ERR_NO_SPACE);
    cr_assert_eq(simfs_calls(disk.fs, SIMFS_LOG_SYNC), syncs + 1);
    cr_assert_eq(simfs_used_bytes(disk.fs), 600, "the part is gone");
    uint8_t expected[4096] = {0};
    memset(expected, 'x', 600);
    for (unsigned model = 0; model < SIMFS_MODELS; model++) {
        cr_assert_eq(crash_count(disk.fs, (enum simfs_model)model, "log", NULL), SEEDS);
        struct simfs *image = simfs_crash(disk.fs, (enum simfs_model)model, 1);
        cr_assert(disk_is(image, "log", expected, 4096), "durably as if it had never been published");
        simfs_free(image);
    }
    simfs_quota(disk.fs, UINT64_MAX);
    cr_assert_eq(disk.vfs->log_publish(log, 600, 600, NULL), 0);
    simfs_quota(disk.fs, 1500);
    simfs_fault_add(disk.fs, (struct simfs_fault){SIMFS_LOG_SYNC, 1, EIO, false, false});
    cr_assert_eq(disk.vfs->log_publish(log, 1200, 600, NULL), PLEAT_ERR_IO, "undone, but nobody knows for how long");
    disk.vfs->log_close(log);
    disk_free(&disk);
}

/* ---- S6, S7, the calls ------------------------------------------------------------------------------------------ */

Test(simfs, locks_exclude_and_a_crash_drops_them) {
    struct disk disk = disk_new();
    struct vfs_lock *first = NULL;
    struct vfs_lock *second = NULL;
    int64_t holder = 7;
    cr_assert_eq(disk.vfs->dir_lock(disk.dir, "LOCK", true, 0600, &first, &holder, NULL), 0);
    cr_assert_null(first, "a shared lock makes no file");
    cr_assert_eq(disk.vfs->dir_lock(disk.dir, "LOCK", false, 0600, &first, &holder, NULL), 0);
    cr_assert_eq(disk.vfs->dir_lock(disk.dir, "LOCK", false, 0600, &second, &holder, NULL), PLEAT_ERR_BUSY);
    cr_assert_eq(holder, getpid());
    cr_assert_eq(disk.vfs->dir_lock(disk.dir, "LOCK", true, 0600, &second, &holder, NULL), PLEAT_ERR_BUSY);
    struct simfs *image = simfs_crash(disk.fs, SIMFS_KILL, 1);
    const struct vfs *vfs = simfs_vfs(image);
    struct vfs_dir *dir = NULL;
    cr_assert_eq(vfs->dir_open(vfs, &mem_system, PATH "/", VFS_DIR_EXISTING, 0, &dir, NULL), 0);
    cr_assert_eq(vfs->dir_lock(dir, "LOCK", false, 0600, &second, &holder, NULL), 0);
    cr_assert_eq(vfs->lock_write(second, 16, "a", 1, NULL), 0);
    cr_assert_eq(vfs->lock_sync(second, NULL), 0);
    cr_assert_eq(vfs->dir_sync(dir, NULL), 0);
    cr_assert_eq(vfs->lock_write(second, 16, "b", 1, NULL), 0); /* pending: as in any file */
    vfs->lock_release(second);
    vfs->dir_close(dir);
    struct simfs *after = simfs_crash(image, SIMFS_MIN, 1);
    static const char kept[17] = {[16] = 'a'};
    cr_assert(disk_is(after, "LOCK", kept, sizeof kept));
    simfs_free(after);
    simfs_free(image);
    disk.vfs->lock_release(first);
    cr_assert_eq(disk.vfs->dir_lock(disk.dir, "LOCK", true, 0600, &first, &holder, NULL), 0);
    cr_assert_eq(disk.vfs->dir_lock(disk.dir, "LOCK", true, 0600, &second, &holder, NULL), 0);
    disk.vfs->lock_release(first);
    disk.vfs->lock_release(second);
    disk_free(&disk);
}

#define JOINED_BYTES 1024

static int join_names(void *context, const char *name) {
    char *joined = context;
    size_t used = strlen(joined);
    (void)snprintf(joined + used, JOINED_BYTES - used, "%s ", name);
    return 0;
}

Test(simfs, the_same_seed_is_the_same_disk) {
    char lists[2][JOINED_BYTES] = {{0}};
    uint8_t noise[2][16];
    uint64_t hashes[2][SIMFS_MODELS];
    for (int run = 0; run < 2; run++) {
        struct disk disk = disk_new();
        cr_assert_eq(disk.vfs->random(disk.vfs, noise[run], sizeof noise[run], NULL), 0);
        for (const char *name = "abcdefgh"; *name != '\0'; name++) {
            disk_put(&disk, (char[]){*name, 0}, "contents", *name % 2 == 0, *name % 3 == 0);
        }
        cr_assert_eq(disk.vfs->dir_list(disk.dir, join_names, lists[run], NULL), 0);
        for (int model = 0; model < SIMFS_MODELS; model++) {
            struct simfs *image = simfs_crash(disk.fs, (enum simfs_model)model, 42);
            hashes[run][model] = simfs_hash(image);
            simfs_free(image);
        }
        uint64_t before = disk.vfs->now_ns(disk.vfs);
        cr_assert_eq(disk.vfs->now_ns(disk.vfs), before + 1000);
        disk_free(&disk);
    }
    cr_assert_str_eq(lists[0], lists[1]);
    cr_assert_str_neq(lists[0], "a b c d e f g h ", "names come scrambled");
    cr_assert_arr_eq(noise[0], noise[1], sizeof noise[0]);
    cr_assert_arr_eq(hashes[0], hashes[1], sizeof hashes[0]);
    cr_assert_neq(hashes[0][SIMFS_KILL], hashes[0][SIMFS_MIN]);
}

Test(simfs, a_clone_shares_nothing_with_its_source) {
    struct disk disk = disk_new();
    disk_put(&disk, "a", "contents", false, true);
    struct simfs *clone = simfs_clone(disk.fs);
    cr_assert_eq(simfs_hash(clone), simfs_hash(disk.fs));
    cr_assert_eq(simfs_pending(clone), simfs_pending(disk.fs));
    simfs_sync_all(clone);
    simfs_write_file(clone, PATH, "b", "new", 3);
    cr_assert(crash_is(clone, SIMFS_MIN, 1, "a", "contents"));
    cr_assert(crash_is(clone, SIMFS_MIN, 1, "b", "new"));
    cr_assert(crash_is(disk.fs, SIMFS_MIN, 1, "a", ""));
    cr_assert(!disk_has(disk.fs, "b"));
    cr_assert(simfs_remove_file(clone, PATH, "a"));
    cr_assert(!simfs_remove_file(clone, PATH, "a"));
    cr_assert(!crash_has(clone, SIMFS_STRICT, 1, "a"));
    cr_assert_eq(simfs_name_count(clone, PATH), 1);
    char name[VFS_NAME_BYTES_MAX + 1];
    cr_assert(simfs_name_at(clone, PATH, 0, name) && strcmp(name, "b") == 0 && !simfs_name_at(clone, PATH, 1, name));
    simfs_free(clone);
    disk_free(&disk);
}

Test(simfs, wrong_calls_are_answered_as_on_a_real_system) {
    struct disk disk = disk_new();
    const struct vfs *vfs = disk.vfs;
    struct vfs_dir *dir = NULL;
    struct vfs_file *file = NULL;
    struct vfs_log *log = NULL;
    char buffer[16];
    disk_put(&disk, "a", "contents", true, true);
    cr_assert_eq(vfs->dir_open(vfs, &mem_system, "/none", VFS_DIR_EXISTING, 0, &dir, NULL), PLEAT_ERR_NOT_FOUND);
    cr_assert_eq(vfs->dir_open(vfs, &mem_system, PATH "/a", VFS_DIR_CREATE, 0, &dir, NULL), PLEAT_ERR_INVALID);
    cr_assert_eq(vfs->file_open(disk.dir, "none", VFS_FILE_READ, 0, &file, NULL), PLEAT_ERR_NOT_FOUND);
    cr_assert_eq(vfs->file_open(disk.dir, "a", VFS_FILE_CREATE_NEW, 0, &file, NULL), PLEAT_ERR_EXISTS);
    cr_assert_eq(vfs->file_open(disk.dir, "x/a", VFS_FILE_READ, 0, &file, NULL), PLEAT_ERR_INVALID);
    cr_assert_eq(vfs->log_create(disk.dir, "a", 16, false, 0, &log, NULL), PLEAT_ERR_EXISTS);
    cr_assert_eq(vfs->dir_rename(disk.dir, "none", "a", NULL), PLEAT_ERR_NOT_FOUND);
    cr_assert_eq(vfs->dir_unlink(disk.dir, "none", NULL), PLEAT_ERR_NOT_FOUND);
    cr_assert_eq(vfs->file_open(disk.dir, "a", VFS_FILE_READ, 0, &file, NULL), 0);
    cr_assert_eq(vfs->file_write(file, 0, "x", 1, NULL), PLEAT_ERR_IO);
    cr_assert_eq(vfs->file_read(file, 4, buffer, 4, NULL), 0);
    cr_assert_eq(memcmp(buffer, "ents", 4), 0);
    cr_assert_eq(vfs->file_read(file, 5, buffer, 4, NULL), PLEAT_ERR_CORRUPT);
    cr_assert_eq(vfs->file_read(file, UINT64_MAX, buffer, 4, NULL), PLEAT_ERR_CORRUPT);
    vfs->file_close(file);
    disk_free(&disk);
}

Test(simfs, failed_allocations_reach_the_handles_and_change_nothing) {
    struct failmem fail;
    failmem_init(&fail);
    struct disk disk = disk_new();
    for (uint64_t n = 1; n <= 6; n++) {
        fail.calls = 0;
        fail.fail_at = n;
        struct vfs_dir *dir = NULL;
        struct vfs_file *file = NULL;
        struct vfs_log *log = NULL;
        struct vfs_lock *lock = NULL;
        int64_t holder;
        int failed = disk.vfs->dir_open(disk.vfs, &fail.mem, PATH, VFS_DIR_EXISTING, 0, &dir, NULL) < 0;
        if (dir != NULL) {
            failed += disk.vfs->file_open(dir, "f", VFS_FILE_CREATE_NEW, 0600, &file, NULL) == PLEAT_ERR_NO_MEMORY;
            cr_assert_eq(disk_has(disk.fs, "f"), file != NULL);
            failed += disk.vfs->log_create(dir, "l", 64, true, 0600, &log, NULL) == PLEAT_ERR_NO_MEMORY;
            cr_assert_eq(disk_has(disk.fs, "l"), log != NULL);
            failed += disk.vfs->dir_lock(dir, "k", false, 0600, &lock, &holder, NULL) == PLEAT_ERR_NO_MEMORY;
        }
        cr_assert_eq(failed, n <= 5 ? 1 : 0, "allocation %lu", (unsigned long)n);
        disk.vfs->lock_release(lock);
        disk.vfs->log_close(log);
        disk.vfs->file_close(file);
        disk.vfs->dir_close(dir);
        (void)simfs_remove_file(disk.fs, PATH, "f");
        (void)simfs_remove_file(disk.fs, PATH, "l");
        cr_assert_eq(fail.live, 0);
    }
    disk_free(&disk);
}

static void *append_many(void *context) {
    struct disk *disk = context;
    char name[32];
    snprintf(name, sizeof name, "t%lx", (unsigned long)pthread_self());
    struct vfs_file *file = disk_create(disk, name);
    for (uint64_t i = 0; i < 500; i++) {
        cr_assert_eq(disk->vfs->file_write(file, i * 8, &i, 8, NULL), 0);
        if (i % 50 == 0) {
            cr_assert(disk->vfs->file_sync(file, NULL) == 0 && disk->vfs->dir_sync(disk->dir, NULL) == 0);
            simfs_free(simfs_crash(disk->fs, (enum simfs_model)(i / 50 % SIMFS_MODELS), i));
        }
    }
    disk->vfs->file_close(file);
    return NULL;
}

Test(simfs, threads_use_it_side_by_side) {
    struct disk disk = disk_new();
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        cr_assert_eq(pthread_create(&threads[i], NULL, append_many, &disk), 0);
    }
    for (int i = 0; i < 4; i++) {
        cr_assert_eq(pthread_join(threads[i], NULL), 0);
    }
    cr_assert_eq(simfs_name_count(disk.fs, PATH), 4);
    cr_assert_eq(simfs_operations(disk.fs), 2 + 4 * (1 + 500 + 20));
    disk_free(&disk);
}

/* ---- all rules at once ------------------------------------------------------------------------------------------ */

/* A random history of files that are only appended to; for each the bytes that were synced, with the name durable. */
Test(simfs, random_histories_never_lose_what_was_synced) {
    enum { FILES = 4 };
    struct random random = random_begin("random_histories_never_lose_what_was_synced");
    for (int round = 0; round < 60; round++) {
        struct disk disk = disk_new();
        struct vfs_file *files[FILES] = {NULL};
        size_t written[FILES] = {0};
        size_t synced[FILES] = {0};
        bool named[FILES] = {false};
        for (int step = 0; step < 40; step++) {
            size_t i = (size_t)random_below(&random, FILES);
            char name[] = {(char)('a' + i), 0};
            uint8_t bytes[1500];
            size_t n = (size_t)random_below(&random, sizeof bytes) + 1;
            if (files[i] == NULL) {
                files[i] = disk_create(&disk, name);
            }
            switch (random_below(&random, 4)) {
            case 0:
                cr_assert_eq(disk.vfs->file_sync(files[i], NULL), 0);
                synced[i] = written[i];
                break;
            case 1:
                cr_assert_eq(disk.vfs->dir_sync(disk.dir, NULL), 0);
                for (size_t k = 0; k < FILES; k++) {
                    named[k] = files[k] != NULL;
                }
                break;
            default:
                for (size_t k = 0; k < n; k++) {
                    bytes[k] = (uint8_t)((written[i] + k) * 31 + i + 1);
                }
                cr_assert_eq(disk.vfs->file_write(files[i], written[i], bytes, n, NULL), 0);
                written[i] += n;
                break;
            }
        }
        for (int crash = 0; crash < 24; crash++) {
            struct simfs *image = simfs_crash(disk.fs, (enum simfs_model)(crash % SIMFS_MODELS), random_next(&random));
            for (size_t i = 0; i < FILES; i++) {
                size_t n = 0;
                uint8_t *found = simfs_read_file(image, PATH, (char[]){(char)('a' + i), 0}, &n);
                cr_assert(found != NULL || !named[i], "a durable name is lost");
                cr_assert(found == NULL || (n >= synced[i] && n <= written[i]), "synced %zu, found %zu, written %zu",
                          synced[i], n, written[i]);
                for (size_t k = 0; found != NULL && k < synced[i]; k++) {
                    cr_assert_eq(found[k], (uint8_t)(k * 31 + i + 1), "a synced byte changed");
                }
                free(found);
            }
            simfs_free(image);
        }
        for (size_t i = 0; i < FILES; i++) {
            disk.vfs->file_close(files[i]);
        }
        disk_free(&disk);
    }
}
