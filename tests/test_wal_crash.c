/* test_wal_crash.c - what a loss of power and the death of the process leave of a log; and segments made ahead. */
#include "support/simfs.h"
#include "support/wal_disk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- power loss ------------------------------------------------------------------------------------------------- */

enum { SEGMENTS = 4, SEGMENT_BYTES = 6144 };

/* A log of up to SEGMENTS segments on a simulated disk, and what was promised of it. */
struct history {
    struct simfs *fs;
    struct vfs_dir *dir;
    uint64_t last;    /* sequence appended */
    uint64_t durable; /* sequence reported durable */
};

static int history_sync(struct history *history, struct wal_writer **writers, int count) {
    int rc = 0;
    for (int i = 0; i < count && rc == 0; i++) {
        rc = wal_writer_sync(writers[i], NULL); /* a sync is of the prefix: every earlier segment first */
    }
    rc = rc != 0 ? rc : simfs_vfs(history->fs)->dir_sync(history->dir, NULL);
    if (rc == 0) {
        history->durable = history->last;
    }
    return rc;
}

/* Appends, rotates and now and then syncs until all segments are full or the disk stops. */
static void history_write(struct history *history, struct random *random, bool by_write, uint64_t sync_odds) {
    struct wal_writer *writers[SEGMENTS] = {0};
    struct wal_tail tail = {0};
    struct wal_record record;
    wal_record_init(&record, &mem_system);
    int rc = 0;
    for (int count = 0; rc == 0;) {
        sample_fill(&record, history->last + 1, 300);
        if (count == 0 || !wal_writer_fits(writers[count - 1], wal_record_bytes(&record))) {
            if (count == SEGMENTS) {
                break;
            }
            struct wal_writer_options options = {
                .vfs = simfs_vfs(history->fs), .dir = history->dir, .mem = &mem_system, .store_id = sample_store,
                .segment = (uint64_t)count + 1, .bytes = SEGMENT_BYTES, .predecessor = tail,
                .first_sequence = tail.last_sequence + 1, .file_mode = 0600, .by_write = by_write};
            rc = wal_writer_create(&options, &writers[count], NULL);
            if (rc != 0) {
                break;
            }
            count++;
        }
        rc = wal_writer_append(writers[count - 1], &record, history->last + 1, history->durable, NULL);
        if (rc == 0) {
            history->last++;
            tail = wal_writer_tail(writers[count - 1]);
            if (random_below(random, sync_odds) == 0) {
                rc = history_sync(history, writers, count);
            }
        }
    }
    wal_record_fini(&record);
    for (int i = 0; i < SEGMENTS; i++) {
        wal_writer_close(writers[i]);
    }
}

/* What a recovery may use: the length of the exact prefix, and the highest sequence that anything says was durable. */
static void image_recover(struct simfs *fs, uint64_t *ret_last, uint64_t *ret_claimed) {
    const struct vfs *vfs = simfs_vfs(fs);
    struct vfs_dir *dir;
    struct wal_tail tail = {0};
    bool ended = false;
    *ret_claimed = 0;
    *ret_last = 0;
    if (vfs->dir_open(vfs, &mem_system, "log", VFS_DIR_EXISTING, 0, &dir, NULL) != 0) {
        return;
    }
    for (uint64_t segment = 1; segment <= SEGMENTS; segment++) {
        struct wal_reader *reader;
        uint64_t claimed = 0;
        bool any;
        int rc = wal_reader_open(vfs, dir, &mem_system, sample_store, segment, &reader, NULL);
        if (rc == 0) {
            const struct wal_tail *before = &wal_reader_header(reader)->predecessor;
            ended = ended || before->segment != tail.segment || before->last_sequence != tail.last_sequence ||
                    before->running_hash != tail.running_hash;
            struct wal_view view;
            struct wal_end end;
            while ((rc = wal_reader_next(reader, 0, &view, NULL)) == 0) {
                if (!ended) {
                    sample_check(&view, view.sequence, 300);
                    cr_assert_eq(view.sequence, *ret_last + 1);
                    *ret_last = view.sequence;
                }
            }
            cr_assert_eq(rc, PLEAT_END);
            cr_assert_eq(wal_reader_end(reader, &end, NULL), 0);
            tail = end.tail;
            claimed = end.durable_sequence;
            wal_reader_close(reader);
        } else {
            cr_assert(rc == PLEAT_END || rc == PLEAT_ERR_CORRUPT || rc == PLEAT_ERR_NOT_FOUND);
            ended = true;
            if (rc != PLEAT_ERR_NOT_FOUND) {
                rc = wal_segment_probe(vfs, dir, &mem_system, sample_store, segment, &claimed, &any, NULL);
                cr_assert_eq(rc, 0);
            }
        }
        *ret_claimed = claimed > *ret_claimed ? claimed : *ret_claimed;
    }
    vfs->dir_close(dir);
}

Test(wal_crash, every_image_is_an_exact_prefix_with_all_that_was_durable_and_no_false_alarm) {
    struct random random = random_begin("wal_crash/every_image");
    uint64_t cut = 0;
    for (int round = 0; round < 60; round++) {
        struct history history = {.fs = simfs_new(random_next(&random))};
        const struct vfs *vfs = simfs_vfs(history.fs);
        cr_assert_eq(vfs->dir_open(vfs, &mem_system, "log", VFS_DIR_CREATE, 0700, &history.dir, NULL), 0);
        simfs_stop_at(history.fs, simfs_operations(history.fs) + 1 + random_below(&random, 200));
        history_write(&history, &random, round % 2 == 0, 3 + random_below(&random, 60));
        for (int model = 0; model < SIMFS_MODELS; model++) {
            for (int draw = 0; draw < 8; draw++) {
                struct simfs *image = simfs_crash(history.fs, (enum simfs_model)model, random_next(&random));
                uint64_t last;
                uint64_t claimed;
                image_recover(image, &last, &claimed);
                cr_assert_geq(last, history.durable, "%s lost what was durable", simfs_model_name(model));
                cr_assert_leq(last, history.last + 1, "at most the commit that was under way");
                cr_assert_leq(claimed, last, "%s: a loss of power must not look like damage", simfs_model_name(model));
                cr_assert(model != SIMFS_KILL || last >= history.last, "a killed process loses nothing");
                cut += last < history.last;
                simfs_free(image);
            }
        }
        vfs->dir_close(history.dir);
        cr_assert_eq(simfs_open_handles(history.fs), 0);
        simfs_free(history.fs);
    }
    cr_assert_gt(cut, 100, "the crashes did cut tails");
}

/* ---- real files ------------------------------------------------------------------------------------------------- */

static void remove_directory(const char *path) {
    DIR *dir = opendir(path);
    for (struct dirent *item; dir != NULL && (item = readdir(dir)) != NULL;) {
        (void)unlinkat(dirfd(dir), item->d_name, 0);
    }
    closedir(dir);
    cr_assert_eq(rmdir(path), 0, "what is left in it is not ours");
}

Test(wal_files, mapped_and_written_segments_are_the_same_bytes) {
    char path[] = "/tmp/pleat-wal-XXXXXX";
    cr_assert_not_null(mkdtemp(path));
    struct vfs_dir *dir;
    cr_assert_eq(vfs_posix.dir_open(&vfs_posix, &mem_system, path, VFS_DIR_EXISTING, 0, &dir, NULL), 0);
    static uint8_t images[2][65536];
    for (int by_write = 0; by_write < 2; by_write++) {
        struct wal_writer_options options = {.vfs = &vfs_posix, .dir = dir, .mem = &mem_system,
                                             .store_id = sample_store, .segment = 1, .bytes = 65536,
                                             .first_sequence = 1, .file_mode = 0600, .by_write = by_write != 0};
        struct wal_writer *writer;
        cr_assert_eq(wal_writer_create(&options, &writer, NULL), 0);
        wal_writer_prepare(writer, 32768);
        sample_append(writer, 1, 100, 100, 1);
        cr_assert_eq(wal_writer_sync(writer, NULL), 0);
        wal_writer_close(writer);
        struct pleat_error err = {0};
        cr_assert_eq(wal_writer_create(&options, &writer, &err), PLEAT_ERR_EXISTS, "a number is used once");
        struct wal_reader *reader;
        uint64_t read;
        cr_assert_eq(wal_reader_open(&vfs_posix, dir, &mem_system, sample_store, 1, &reader, NULL), 0);
        cr_assert_eq(sample_read(reader, 100, &read, NULL), PLEAT_END);
        cr_assert_eq(read, 100);
        wal_reader_close(reader);
        struct vfs_file *file;
        cr_assert_eq(vfs_posix.file_open(dir, "000001.wal", VFS_FILE_READ, 0, &file, NULL), 0);
        cr_assert_eq(vfs_posix.file_read(file, 0, images[by_write], 65536, NULL), 0);
        vfs_posix.file_close(file);
        cr_assert_eq(vfs_posix.dir_unlink(dir, "000001.wal", NULL), 0);
        cr_assert_eq(wal_reader_open(&vfs_posix, dir, &mem_system, sample_store, 1, &reader, NULL),
                     PLEAT_ERR_NOT_FOUND);
    }
    cr_assert_eq(memcmp(images[0], images[1], 65536), 0);
    vfs_posix.dir_close(dir);
    remove_directory(path);
}

/* W4 on a real mapping: the child is killed while it appends, and the reader sees whole records, no fewer than were
 * acknowledged through the pipe. */
static void kill_round(struct vfs_dir *dir, uint64_t segment, useconds_t delay, bool by_write) {
    int pipe_ends[2];
    cr_assert_eq(pipe2(pipe_ends, O_NONBLOCK), 0);
    pid_t child = fork();
    cr_assert_geq(child, 0);
    if (child == 0) {
        struct wal_writer_options options = {.vfs = &vfs_posix, .dir = dir, .mem = &mem_system,
                                             .store_id = sample_store, .segment = segment, .bytes = 32 << 20,
                                             .first_sequence = 1, .file_mode = 0600, .by_write = by_write};
        struct wal_writer *writer;
        struct wal_record record;
        wal_record_init(&record, &mem_system);
        if (wal_writer_create(&options, &writer, NULL) != 0) {
            _exit(1);
        }
        for (uint64_t sequence = 1;; sequence++) {
            sample_fill(&record, sequence, 2000);
            if (!wal_writer_fits(writer, wal_record_bytes(&record)) ||
                wal_writer_append(writer, &record, sequence, sequence - 1, NULL) != 0) {
                _exit(2);
            }
            (void)!write(pipe_ends[1], &sequence, sizeof sequence); /* a full pipe acknowledges nothing */
        }
    }
    usleep(delay);
    cr_assert_eq(kill(child, SIGKILL), 0);
    cr_assert_eq(waitpid(child, NULL, 0), child);
    uint64_t acknowledged = 0;
    while (read(pipe_ends[0], &acknowledged, sizeof acknowledged) == (ssize_t)sizeof acknowledged) {
    }
    close(pipe_ends[0]);
    close(pipe_ends[1]);
    struct wal_reader *reader;
    uint64_t count = 0;
    int rc = wal_reader_open(&vfs_posix, dir, &mem_system, sample_store, segment, &reader, NULL);
    if (rc == 0) {
        cr_assert_eq(sample_read(reader, 2000, &count, NULL), PLEAT_END);
        struct wal_end end;
        cr_assert_eq(wal_reader_end(reader, &end, NULL), 0);
        cr_assert_not(end.record_behind);
        wal_reader_close(reader);
    } else {
        cr_assert(rc == PLEAT_END || rc == PLEAT_ERR_NOT_FOUND, "killed while creating");
        cr_assert_eq(acknowledged, 0);
    }
    cr_assert_geq(count, acknowledged);
    cr_assert_leq(count, acknowledged + 1 + (acknowledged >= 8191 ? count : 0), "more than was ever written");
    char name[WAL_NAME_BYTES];
    wal_name(segment, name);
    (void)vfs_posix.dir_unlink(dir, name, NULL);
}

Test(wal_files, a_killed_process_leaves_whole_records) {
    char path[] = "/tmp/pleat-wal-XXXXXX";
    cr_assert_not_null(mkdtemp(path));
    struct vfs_dir *dir;
    cr_assert_eq(vfs_posix.dir_open(&vfs_posix, &mem_system, path, VFS_DIR_EXISTING, 0, &dir, NULL), 0);
    struct random random = random_begin("wal_files/a_killed_process");
    for (uint64_t round = 1; round <= 24; round++) {
        kill_round(dir, round, (useconds_t)random_below(&random, 12000), round % 4 == 0);
    }
    vfs_posix.dir_close(dir);
    remove_directory(path);
}

/* ---- made ahead ------------------------------------------------------------------------------------------------- */

Test(wal_ahead, a_reserved_segment_holds_nothing_until_it_is_begun) {
    struct simfs *fs = simfs_new(1);
    struct vfs_dir *dir;
    struct wal_reader *reader;
    cr_assert_eq(simfs_vfs(fs)->dir_open(simfs_vfs(fs), &mem_system, "log", VFS_DIR_CREATE, 0600, &dir, NULL), 0);
    struct wal_writer_options options = {.vfs = simfs_vfs(fs), .dir = dir, .mem = &mem_system,
                                         .store_id = sample_store, .segment = 4, .bytes = 8 << 20, .file_mode = 0600};
    struct wal_writer *writer;
    cr_assert_eq(wal_writer_reserve(&options, &writer, NULL), 0);
    wal_writer_prepare(writer, 1 << 20);
    cr_assert_eq(wal_writer_number(writer), 4);
    uint64_t durable = 1, reads = simfs_calls(fs, SIMFS_FILE_READ);
    bool any = true;
    cr_assert_eq(wal_reader_open(options.vfs, dir, &mem_system, sample_store, 4, &reader, NULL), PLEAT_END);
    cr_assert_eq(wal_segment_probe(options.vfs, dir, &mem_system, sample_store, 4, &durable, &any, NULL), 0);
    cr_assert(durable == 0 && !any);
    cr_assert_leq(simfs_calls(fs, SIMFS_FILE_READ) - reads, 4, "holes are read");
    options.predecessor = (struct wal_tail){.segment = 2, .last_sequence = 6, .running_hash = 11};
    options.first_sequence = 7;
    cr_assert_eq(wal_writer_begin(writer, &options, NULL), 0);
    sample_append(writer, 7, 8, 50, 1);
    wal_writer_close(writer);
    cr_assert_eq(wal_reader_open(options.vfs, dir, &mem_system, sample_store, 4, &reader, NULL), 0);
    cr_assert_eq(wal_reader_header(reader)->predecessor.running_hash, 11);
    struct wal_view view;
    for (uint64_t sequence = 7; sequence <= 8; sequence++) {
        cr_assert_eq(wal_reader_next(reader, 0, &view, NULL), 0);
        sample_check(&view, sequence, 50);
    }
    cr_assert_eq(wal_reader_next(reader, 0, &view, NULL), PLEAT_END);
    reads = simfs_calls(fs, SIMFS_FILE_READ);
    struct wal_end end;
    cr_assert_eq(wal_reader_end(reader, &end, NULL), 0);
    cr_assert(!end.torn && end.tail.last_sequence == 8);
    cr_assert_leq(simfs_calls(fs, SIMFS_FILE_READ) - reads, 2, "holes are read");
    wal_reader_close(reader);
    options.vfs->dir_close(dir);
    cr_assert_eq(simfs_open_handles(fs), 0);
    simfs_free(fs);
}

/* Records of the same lengths at the same places: what is left of the old ones validates no more. */
static void check_renewed(uint32_t scale) {
    struct simfs *fs = simfs_new(1);
    struct vfs_dir *dir;
    struct wal_reader *reader;
    cr_assert_eq(simfs_vfs(fs)->dir_open(simfs_vfs(fs), &mem_system, "log", VFS_DIR_CREATE, 0600, &dir, NULL), 0);
    struct wal_writer_options options = {.vfs = simfs_vfs(fs), .dir = dir, .mem = &mem_system,
                                         .store_id = sample_store, .segment = 4, .bytes = 1 << 16, .file_mode = 0600,
                                         .first_sequence = 1};
    struct wal_writer *writer;
    cr_assert_eq(wal_writer_create(&options, &writer, NULL), 0);
    sample_append(writer, 1, 100, 50, 1);
    wal_writer_mark(writer, 99);
    cr_assert_eq(wal_writer_sync(writer, NULL), 0);
    cr_assert(wal_writer_can_renew(writer, 1 << 16) && !wal_writer_can_renew(writer, 1 << 17));
    options.segment = 9;
    cr_assert_eq(wal_writer_renew(writer, &options, NULL), 0);
    cr_assert_eq(simfs_name_count(fs, "log"), 1);
    uint64_t durable = 1;
    bool any = true;
    cr_assert_eq(wal_reader_open(options.vfs, dir, &mem_system, sample_store, 9, &reader, NULL), PLEAT_END);
    cr_assert_eq(wal_segment_probe(options.vfs, dir, &mem_system, sample_store, 9, &durable, &any, NULL), 0);
    cr_assert(durable == 0 && !any, "the old records count");
    options.predecessor = (struct wal_tail){.segment = 4, .last_sequence = 0, .running_hash = 11};
    for (uint64_t last = 0; last <= 20; last++) {
        if (last == 0) {
            cr_assert_eq(wal_writer_begin(writer, &options, NULL), 0);
        } else {
            sample_append(writer, last, last, scale, 1);
        }
        cr_assert_eq(wal_reader_open(options.vfs, dir, &mem_system, sample_store, 9, &reader, NULL), 0);
        uint64_t count;
        struct wal_end end;
        cr_assert_eq(sample_read(reader, scale, &count, NULL), PLEAT_END);
        cr_assert_eq(wal_reader_end(reader, &end, NULL), 0);
        cr_assert(count == last && end.torn && !end.record_behind && end.durable_sequence == (last > 0 ? last - 1 : 0));
        wal_reader_close(reader);
    }
    wal_writer_close(writer);
    options.vfs->dir_close(dir);
    simfs_free(fs);
}

/* Also shorter and longer ones, whose padding lies where the old ones had something else. */
Test(wal_ahead, a_dead_segment_begins_anew_in_the_same_file) {
    static const uint32_t scales[] = {50, 31, 77};
    for (size_t i = 0; i < sizeof scales / sizeof scales[0]; i++) {
        check_renewed(scales[i]);
    }
}

Test(wal_ahead, a_reserved_segment_is_removed_with_its_file) {
    struct simfs *fs = simfs_new(1);
    struct vfs_dir *dir;
    cr_assert_eq(simfs_vfs(fs)->dir_open(simfs_vfs(fs), &mem_system, "log", VFS_DIR_CREATE, 0600, &dir, NULL), 0);
    struct wal_writer_options options = {.vfs = simfs_vfs(fs), .dir = dir, .mem = &mem_system,
                                         .store_id = sample_store, .segment = 4, .bytes = 8192, .file_mode = 0600};
    static const int expected[] = {0, 0, PLEAT_ERR_IO};
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        struct wal_writer *writer;
        cr_assert_eq(wal_writer_reserve(&options, &writer, NULL), 0);
        if (i == 1) {
            cr_assert(simfs_remove_file(fs, "log", "000004.wal"), "somebody else was quicker");
        } else if (i == 2) {
            simfs_fault_add(fs, (struct simfs_fault){.calls = SIMFS_DIR_UNLINK, .at = 1, .os_errno = EIO});
        }
        struct pleat_error err = {0};
        cr_assert_eq(wal_writer_remove(writer, dir, &err), expected[i], "%s", err.message);
        cr_assert_eq(err.code, expected[i]);
        cr_assert_eq(simfs_name_count(fs, "log"), i == 2);
        cr_assert_eq(simfs_open_handles(fs), 1, "the directory's alone");
    }
    options.vfs->dir_close(dir);
    simfs_free(fs);
}
