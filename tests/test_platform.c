/* test_platform.c - the real system behind vfs.h, in a directory of its own; threads, barriers and the fork guard. */
#include "base/mem.h"
#include "platform/thread.h"
#include "platform/vfs.h"
#include "support/failmem.h"
#include "support/random.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct vfs *const vfs = &vfs_posix;

struct place {
    char path[64];
    struct vfs_dir *dir;
};

static struct place place_new(void) {
    struct place place = {.path = "/tmp/pleat-test-XXXXXX"};
    cr_assert_not_null(mkdtemp(place.path));
    cr_assert_eq(vfs->dir_open(vfs, &mem_system, place.path, VFS_DIR_EXISTING, 0, &place.dir, NULL), 0);
    return place;
}

static int place_unlink(void *context, const char *name) {
    struct place *place = context;
    (void)vfs->dir_unlink(place->dir, name, NULL);
    char path[400];
    snprintf(path, sizeof path, "%s/%s", place->path, name);
    (void)rmdir(path);
    return 0;
}

static void place_free(struct place *place) {
    cr_assert_eq(vfs->dir_list(place->dir, place_unlink, place, NULL), 0);
    vfs->dir_close(place->dir);
    cr_assert_eq(rmdir(place->path), 0);
}

static const char *place_path(const struct place *place, const char *name) {
    static char path[400];
    snprintf(path, sizeof path, "%s/%s", place->path, name);
    return path;
}

/* The file's bytes by other means than the code under test. */
static size_t place_read(const struct place *place, const char *name, void *buffer, size_t n) {
    int fd = open(place_path(place, name), O_RDONLY);
    cr_assert_geq(fd, 0);
    ssize_t got = pread(fd, buffer, n, 0);
    close(fd);
    return got > 0 ? (size_t)got : 0;
}

static void place_put(const struct place *place, const char *name, const void *data, size_t n) {
    struct vfs_file *file = NULL;
    cr_assert_eq(vfs->file_open(place->dir, name, VFS_FILE_CREATE_NEW, 0600, &file, NULL), 0);
    cr_assert_eq(vfs->file_write(file, 0, data, n, NULL), 0);
    vfs->file_close(file);
}

static uint32_t place_mode(const struct place *place, const char *name) {
    struct stat status;
    cr_assert_eq(lstat(place_path(place, name), &status), 0);
    return status.st_mode & 0777;
}

static int open_descriptors(void) {
    DIR *dir = opendir("/proc/self/fd");
    int count = 0;
    while (readdir(dir) != NULL) {
        count++;
    }
    closedir(dir);
    return count;
}

/* Runs `run` in a forked child, which must leave with `code`. */
static void in_child(int (*run)(void *context), void *context, int code) {
    pid_t child = fork();
    cr_assert_geq(child, 0);
    if (child == 0) {
        _exit(run(context));
    }
    int status;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == code, "the child left with %#x", (unsigned)status);
}

/* ---- directories ------------------------------------------------------------------------------------------------ */

Test(vfs_dir, missing_is_not_found_and_create_makes_one_level_with_x_where_r) {
    struct place place = place_new();
    struct vfs_dir *dir = NULL;
    struct pleat_error err = {0};
    umask(0);
    char path[400];
    snprintf(path, sizeof path, "%s", place_path(&place, "new/"));
    cr_assert_eq(vfs->dir_open(vfs, &mem_system, path, VFS_DIR_EXISTING, 0, &dir, &err), PLEAT_ERR_NOT_FOUND);
    cr_assert_not_null(strstr(err.message, path));
    cr_assert_null(dir);
    cr_assert_eq(vfs->dir_open(vfs, &mem_system, path, VFS_DIR_CREATE, 0640, &dir, NULL), 0);
    vfs->dir_close(dir);
    cr_assert_eq(place_mode(&place, "new"), 0750);
    cr_assert_eq(vfs->dir_open(vfs, &mem_system, path, VFS_DIR_CREATE, 0600, &dir, NULL), 0);
    vfs->dir_close(dir);
    cr_assert_eq(place_mode(&place, "new"), 0750, "an existing directory keeps its mode");
    snprintf(path, sizeof path, "%s", place_path(&place, "one/two"));
    cr_assert_eq(vfs->dir_open(vfs, &mem_system, path, VFS_DIR_CREATE, 0600, &dir, NULL), PLEAT_ERR_NOT_FOUND);
    cr_assert_eq(vfs->dir_open(vfs, &mem_system, "", VFS_DIR_CREATE, 0600, &dir, NULL), PLEAT_ERR_NOT_FOUND);
    place_free(&place);
}

Test(vfs_dir, a_path_that_is_a_file_is_refused_by_name) {
    struct place place = place_new();
    place_put(&place, "file", "x", 1);
    struct vfs_dir *dir = NULL;
    for (int how = VFS_DIR_EXISTING; how <= VFS_DIR_CREATE; how++) {
        struct pleat_error err = {0};
        const char *path = place_path(&place, "file");
        int rc = vfs->dir_open(vfs, &mem_system, path, (enum vfs_dir_mode)how, 0600, &dir, &err);
        cr_assert_eq(rc, PLEAT_ERR_INVALID);
        cr_assert_not_null(strstr(err.message, path));
    }
    place_free(&place);
}

struct listing {
    int count;
    int stop_after;
    char names[512];
};

static int listing_add(void *context, const char *name) {
    struct listing *listing = context;
    if (listing->count < 8) {
        size_t used = strlen(listing->names);
        (void)snprintf(listing->names + used, sizeof listing->names - used, "%s ", name);
    }
    return ++listing->count == listing->stop_after ? 42 : 0;
}

Test(vfs_dir, a_list_has_every_name_once_and_stops_when_told) {
    struct place place = place_new();
    enum { NAMES = 600 }; /* more than one buffer of the system call holds */
    for (int i = 0; i < NAMES; i++) {
        char name[64];
        snprintf(name, sizeof name, "%040d", i);
        place_put(&place, name, "", 0);
    }
    for (int again = 0; again < 2; again++) {
        struct listing all = {0};
        cr_assert_eq(vfs->dir_list(place.dir, listing_add, &all, NULL), 0);
        cr_assert_eq(all.count, NAMES);
        cr_assert_null(strstr(all.names, ". "));
    }
    struct listing some = {.stop_after = 3};
    cr_assert_eq(vfs->dir_list(place.dir, listing_add, &some, NULL), 42);
    cr_assert_eq(some.count, 3);
    place_free(&place);
}

Test(vfs_dir, rename_replaces_and_unlink_removes) {
    struct place place = place_new();
    char found[8] = {0};
    place_put(&place, "next", "new", 3);
    place_put(&place, "current", "old", 3);
    cr_assert_eq(vfs->dir_rename(place.dir, "next", "current", NULL), 0);
    cr_assert_eq(place_read(&place, "current", found, sizeof found), 3);
    cr_assert_str_eq(found, "new");
    cr_assert_eq(vfs->dir_sync(place.dir, NULL), 0);
    cr_assert_eq(vfs->dir_rename(place.dir, "next", "current", NULL), PLEAT_ERR_NOT_FOUND);
    cr_assert_eq(vfs->dir_unlink(place.dir, "current", NULL), 0);
    cr_assert_eq(vfs->dir_unlink(place.dir, "current", NULL), PLEAT_ERR_NOT_FOUND);
    place_free(&place);
}

Test(vfs_dir, names_that_are_not_plain_are_refused_by_every_call) {
    struct place place = place_new();
    place_put(&place, "a", "x", 1);
    char longest[VFS_NAME_BYTES_MAX + 2];
    memset(longest, 'n', sizeof longest);
    longest[VFS_NAME_BYTES_MAX + 1] = '\0';
    const char *const names[] = {"", ".", "..", "../a", "x/a", "/etc/passwd", longest};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct vfs_file *file = NULL;
        struct vfs_log *log = NULL;
        struct vfs_lock *lock = NULL;
        int64_t holder;
        cr_assert_eq(vfs->file_open(place.dir, names[i], VFS_FILE_READ, 0, &file, NULL), PLEAT_ERR_INVALID);
        cr_assert_eq(vfs->file_open(place.dir, names[i], VFS_FILE_CREATE_NEW, 0, &file, NULL), PLEAT_ERR_INVALID);
        cr_assert_eq(vfs->log_create(place.dir, names[i], 64, false, 0600, &log, NULL), PLEAT_ERR_INVALID);
        cr_assert_eq(vfs->dir_lock(place.dir, names[i], false, 0600, &lock, &holder, NULL), PLEAT_ERR_INVALID);
        cr_assert_eq(vfs->dir_rename(place.dir, names[i], "b", NULL), PLEAT_ERR_INVALID);
        cr_assert_eq(vfs->dir_rename(place.dir, "a", names[i], NULL), PLEAT_ERR_INVALID);
        cr_assert_eq(vfs->dir_unlink(place.dir, names[i], NULL), PLEAT_ERR_INVALID);
    }
    longest[VFS_NAME_BYTES_MAX] = '\0';
    place_put(&place, longest, "x", 1);
    place_free(&place);
}

/* ---- files ------------------------------------------------------------------------------------------------------ */

Test(vfs_file, links_pipes_and_directories_are_refused_and_never_hang) {
    struct place place = place_new();
    place_put(&place, "target", "secret", 6);
    cr_assert_eq(symlink("target", place_path(&place, "link")), 0);
    cr_assert_eq(symlink("missing", place_path(&place, "dangling")), 0);
    cr_assert_eq(mkfifo(place_path(&place, "pipe"), 0600), 0);
    cr_assert_eq(mkdir(place_path(&place, "directory"), 0700), 0);
    static const char *const names[] = {"link", "dangling", "pipe", "directory"};
    for (size_t i = 0; i < 4; i++) {
        struct pleat_error err = {0};
        struct vfs_file *file = NULL;
        struct vfs_log *log = NULL;
        struct vfs_lock *lock = NULL;
        int64_t holder;
        cr_assert_eq(vfs->file_open(place.dir, names[i], VFS_FILE_READ, 0, &file, &err), PLEAT_ERR_INVALID);
        cr_assert_not_null(strstr(err.message, names[i]));
        cr_assert_eq(vfs->file_open(place.dir, names[i], VFS_FILE_CREATE_NEW, 0600, &file, NULL), PLEAT_ERR_EXISTS);
        cr_assert_eq(vfs->log_create(place.dir, names[i], 64, false, 0600, &log, NULL), PLEAT_ERR_EXISTS);
        cr_assert_eq(vfs->dir_lock(place.dir, names[i], false, 0600, &lock, &holder, NULL), PLEAT_ERR_INVALID);
        cr_assert_eq(vfs->dir_lock(place.dir, names[i], true, 0600, &lock, &holder, NULL), PLEAT_ERR_INVALID);
    }
    struct stat status;
    cr_assert_neq(lstat(place_path(&place, "missing"), &status), 0, "nothing is made behind a link");
    place_free(&place);
}

Test(vfs_file, created_files_have_the_mode_given_and_exist_once) {
    struct place place = place_new();
    umask(0);
    struct vfs_file *file = NULL;
    struct vfs_log *log = NULL;
    struct vfs_lock *lock = NULL;
    int64_t holder;
    cr_assert_eq(vfs->file_open(place.dir, "file", VFS_FILE_CREATE_NEW, 0640, &file, NULL), 0);
    vfs->file_close(file);
    cr_assert_eq(place_mode(&place, "file"), 0640);
    cr_assert_eq(vfs->log_create(place.dir, "log", 64, false, 0604, &log, NULL), 0);
    vfs->log_close(log);
    cr_assert_eq(place_mode(&place, "log"), 0604);
    cr_assert_eq(vfs->dir_lock(place.dir, "lock", false, 0660, &lock, &holder, NULL), 0);
    vfs->lock_release(lock);
    cr_assert_eq(place_mode(&place, "lock"), 0660);
    cr_assert_eq(vfs->file_open(place.dir, "file", VFS_FILE_CREATE_NEW, 0600, &file, NULL), PLEAT_ERR_EXISTS);
    cr_assert_eq(vfs->log_create(place.dir, "file", 64, false, 0600, &log, NULL), PLEAT_ERR_EXISTS);
    cr_assert_eq(vfs->file_open(place.dir, "none", VFS_FILE_READ, 0, &file, NULL), PLEAT_ERR_NOT_FOUND);
    place_free(&place);
}

/* What a hole is, a file system may say or not; what is said to be one is zero. */
Test(vfs_file, up_to_the_next_data_a_file_is_zero) {
    static uint8_t content[1 << 20];
    static const size_t data[] = {300000, 700001};
    struct place place = place_new();
    struct vfs_log *log = NULL;
    cr_assert_eq(vfs->log_create(place.dir, "log", sizeof content, false, 0600, &log, NULL), 0);
    for (size_t i = 0; i < 2; i++) {
        log->base[data[i]] = content[data[i]] = 1;
        cr_assert_eq(vfs->log_publish(log, data[i], 1, NULL), 0);
    }
    struct vfs_file *file = NULL;
    cr_assert_eq(vfs->file_open(place.dir, "log", VFS_FILE_READ, 0, &file, NULL), 0);
    for (uint64_t offset = 0; offset < sizeof content; offset += 8191) {
        uint64_t next = vfs->file_next_data(file, offset);
        cr_assert(next >= offset && next <= sizeof content);
        cr_assert_null(memchr(content + offset, 1, next - offset), "data is passed over from %d", (int)offset);
    }
    static const uint64_t beyond[] = {sizeof content, sizeof content + 1, INT64_MAX, UINT64_MAX};
    for (size_t i = 0; i < sizeof beyond / sizeof beyond[0]; i++) {
        cr_assert_eq(vfs->file_next_data(file, beyond[i]), beyond[i]);
    }
    vfs->file_close(file);
    vfs->log_close(log);
    place_free(&place);
}

Test(vfs_file, a_read_is_exact_and_a_cut_file_is_corrupt_with_both_lengths) {
    struct place place = place_new();
    place_put(&place, "file", "0123456789", 10);
    struct vfs_file *file = NULL;
    char buffer[16] = {0};
    uint64_t size = 0;
    cr_assert_eq(vfs->file_open(place.dir, "file", VFS_FILE_READ, 0, &file, NULL), 0);
    cr_assert_eq(vfs->file_size(file, &size, NULL), 0);
    cr_assert_eq(size, 10);
    vfs->file_will_read(file, 0, 10);
    vfs->file_will_read(file, UINT64_MAX, UINT64_MAX);
    cr_assert_eq(vfs->file_read(file, 3, buffer, 7, NULL), 0);
    cr_assert_str_eq(buffer, "3456789");
    cr_assert_eq(vfs->file_read(file, 10, buffer, 0, NULL), 0);
    cr_assert_eq(truncate(place_path(&place, "file"), 6), 0);
    struct pleat_error err = {0};
    cr_assert_eq(vfs->file_read(file, 3, buffer, 7, &err), PLEAT_ERR_CORRUPT);
    cr_assert(strstr(err.message, "file") != NULL && strstr(err.message, "7 bytes") != NULL &&
                  strstr(err.message, "3 bytes") != NULL,
              "%s", err.message);
    static const uint64_t beyond[] = {6, 7, 1u << 20, INT64_MAX - 1, INT64_MAX, (uint64_t)INT64_MAX + 1, UINT64_MAX};
    for (size_t i = 0; i < sizeof beyond / sizeof beyond[0]; i++) {
        cr_assert_eq(vfs->file_read(file, beyond[i], buffer, 4, NULL), PLEAT_ERR_CORRUPT);
    }
    vfs->file_close(file);
    place_free(&place);
}

Test(vfs_file, writes_land_where_told_and_sync) {
    struct place place = place_new();
    struct vfs_file *file = NULL;
    char found[32];
    cr_assert_eq(vfs->file_open(place.dir, "file", VFS_FILE_CREATE_NEW, 0600, &file, NULL), 0);
    cr_assert_eq(vfs->file_write(file, 4, "tail", 4, NULL), 0);
    cr_assert_eq(vfs->file_write(file, 0, "he", 2, NULL), 0);
    cr_assert_eq(vfs->file_write(file, 0, NULL, 0, NULL), 0);
    cr_assert_eq(vfs->file_write(file, UINT64_MAX, "x", 1, NULL), PLEAT_ERR_INVALID);
    cr_assert_eq(vfs->file_read(file, 0, found, 8, NULL), 0, "what was created can be read back");
    cr_assert_eq(memcmp(found, "he\0\0tail", 8), 0);
    cr_assert_eq(vfs->file_sync(file, NULL), 0);
    cr_assert_eq(vfs->file_sync(file, NULL), 0);
    vfs->file_close(file);
    cr_assert_eq(vfs->file_open(place.dir, "file", VFS_FILE_READ, 0, &file, NULL), 0);
    cr_assert_eq(vfs->file_write(file, 0, "x", 1, NULL), PLEAT_ERR_IO, "opened for reading only");
    vfs->file_close(file);
    place_free(&place);
}

Test(vfs_file, a_full_disk_is_no_space_and_a_read_only_directory_is_denied) {
    struct place place = place_new();
    struct vfs_dir *devices = NULL;
    if (access("/dev/full", W_OK) == 0) { /* not a regular file, so not to be opened at all */
        struct vfs_file *file = NULL;
        cr_assert_eq(vfs->dir_open(vfs, &mem_system, "/dev", VFS_DIR_EXISTING, 0, &devices, NULL), 0);
        cr_assert_eq(vfs->file_open(devices, "full", VFS_FILE_READ, 0, &file, NULL), PLEAT_ERR_INVALID);
        vfs->dir_close(devices);
    }
    if (geteuid() != 0) {
        struct vfs_file *file = NULL;
        cr_assert_eq(chmod(place.path, 0500), 0);
        cr_assert_eq(vfs->file_open(place.dir, "file", VFS_FILE_CREATE_NEW, 0600, &file, NULL), PLEAT_ERR_DENIED);
        cr_assert_eq(chmod(place.path, 0700), 0);
    }
    place_free(&place);
}

Test(vfs_file, no_descriptor_outlives_its_handle_and_none_passes_an_exec) {
    struct place place = place_new();
    place_put(&place, "file", "x", 1);
    int before = open_descriptors();
    for (int i = 0; i < 3; i++) {
        struct vfs_file *file = NULL;
        struct vfs_log *log = NULL;
        struct vfs_lock *lock = NULL;
        struct vfs_dir *dir = NULL;
        int64_t holder;
        struct listing listing = {0};
        cr_assert_eq(vfs->dir_open(vfs, &mem_system, place.path, VFS_DIR_CREATE, 0700, &dir, NULL), 0);
        cr_assert_eq(vfs->file_open(dir, "file", VFS_FILE_READ, 0, &file, NULL), 0);
        cr_assert_eq(vfs->log_create(dir, "log", 64, false, 0600, &log, NULL), 0);
        cr_assert_eq(vfs->dir_lock(dir, "lock", false, 0600, &lock, &holder, NULL), 0);
        cr_assert_eq(vfs->dir_list(dir, listing_add, &listing, NULL), 0);
        cr_assert_eq(open_descriptors(), before + 5); /* the lock has two (K5) */
        for (int fd = 3; fd < 64; fd++) {
            int flags = fcntl(fd, F_GETFD);
            char target[256] = {0};
            char link[64];
            snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
            ssize_t n = flags < 0 ? -1 : readlink(link, target, sizeof target - 1);
            cr_assert(n < 0 || strncmp(target, place.path, strlen(place.path)) != 0 || (flags & FD_CLOEXEC) != 0);
        }
        vfs->lock_release(lock);
        vfs->log_close(log);
        vfs->file_close(file);
        vfs->dir_close(dir);
        cr_assert_eq(vfs->dir_unlink(place.dir, "log", NULL), 0);
        vfs->file_close(NULL);
        vfs->log_close(NULL);
        vfs->lock_release(NULL);
        vfs->dir_close(NULL);
    }
    cr_assert_eq(open_descriptors(), before);
    place_free(&place);
}

Test(vfs_file, out_of_descriptors_is_an_io_error_that_leaves_nothing) {
    struct place place = place_new();
    place_put(&place, "file", "x", 1);
    struct rlimit limit;
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    int lowest = dup(0);
    close(lowest);
    struct rlimit none = {(rlim_t)lowest, limit.rlim_max};
    struct pleat_error err = {0};
    struct vfs_file *file = NULL;
    struct vfs_log *log = NULL;
    struct vfs_lock *lock = NULL;
    struct vfs_dir *dir = NULL;
    int64_t holder;
    struct listing listing = {0};
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
    int rcs[] = {
        vfs->file_open(place.dir, "file", VFS_FILE_READ, 0, &file, &err),
        vfs->log_create(place.dir, "log", 64, false, 0600, &log, NULL),
        vfs->dir_lock(place.dir, "lock", false, 0600, &lock, &holder, NULL),
        vfs->dir_list(place.dir, listing_add, &listing, NULL),
        vfs->dir_open(vfs, &mem_system, place.path, VFS_DIR_CREATE, 0, &dir, NULL),
    };
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    for (size_t i = 0; i < sizeof rcs / sizeof rcs[0]; i++) {
        cr_assert_eq(rcs[i], PLEAT_ERR_IO, "call %zu: %d", i, rcs[i]);
    }
    cr_assert_eq(err.os_errno, EMFILE);
    cr_assert_eq(vfs->dir_list(place.dir, listing_add, &listing, NULL), 0);
    cr_assert_eq(listing.count, 1);
    place_free(&place);
}

/* ---- the lock --------------------------------------------------------------------------------------------------- */

static int child_lock_is_busy(void *context) {
    struct place *place = context;
    struct vfs_lock *lock = NULL;
    int64_t holder = 0;
    struct pleat_error err = {0};
    int rc = vfs->dir_lock(place->dir, "LOCK", false, 0600, &lock, &holder, &err);
    char pid[32];
    snprintf(pid, sizeof pid, "process %d", (int)getppid());
    return rc == PLEAT_ERR_BUSY && holder == getppid() && strstr(err.message, pid) != NULL ? 0 : 1;
}

Test(vfs_lock, a_second_lock_is_refused_in_the_same_process_and_in_another_and_names_the_pid) {
    struct place place = place_new();
    struct vfs_lock *lock = NULL;
    struct vfs_lock *second = NULL;
    int64_t holder = -1;
    cr_assert_eq(vfs->dir_lock(place.dir, "LOCK", false, 0600, &lock, &holder, NULL), 0);
    cr_assert_eq(holder, 0);
    char text[32] = {0};
    cr_assert_gt(place_read(&place, "LOCK", text, sizeof text - 1), 0);
    cr_assert_eq(atol(text), (long)getpid());
    struct pleat_error err = {0};
    cr_assert_eq(vfs->dir_lock(place.dir, "LOCK", false, 0600, &second, &holder, &err), PLEAT_ERR_BUSY);
    cr_assert_eq(holder, (int64_t)getpid());
    cr_assert_not_null(strstr(err.message, "this one"));
    cr_assert_eq(vfs->dir_lock(place.dir, "LOCK", true, 0600, &second, NULL, NULL), PLEAT_ERR_BUSY);
    cr_assert_null(second);
    in_child(child_lock_is_busy, &place, 0);
    /* Another descriptor of the file coming and going leaves the lock, unlike one of fcntl. */
    (void)place_read(&place, "LOCK", text, sizeof text - 1);
    in_child(child_lock_is_busy, &place, 0);
    vfs->lock_release(lock);
    cr_assert_eq(vfs->dir_lock(place.dir, "LOCK", false, 0600, &lock, &holder, NULL), 0);
    vfs->lock_release(lock);
    place_free(&place);
}

Test(vfs_lock, it_goes_with_a_holder_that_is_killed) {
    struct place place = place_new();
    int ready[2];
    cr_assert_eq(pipe(ready), 0);
    pid_t child = fork();
    cr_assert_geq(child, 0);
    struct vfs_lock *lock = NULL;
    int64_t holder = 0;
    if (child == 0) {
        int rc = vfs->dir_lock(place.dir, "LOCK", false, 0600, &lock, &holder, NULL);
        (void)!write(ready[1], rc == 0 ? "y" : "n", 1);
        for (;;) {
            pause();
        }
    }
    char answer = 'n';
    cr_assert_eq(read(ready[0], &answer, 1), 1);
    cr_assert_eq(answer, 'y');
    cr_assert_eq(vfs->dir_lock(place.dir, "LOCK", false, 0600, &lock, &holder, NULL), PLEAT_ERR_BUSY);
    cr_assert_eq(holder, (int64_t)child);
    cr_assert_eq(kill(child, SIGKILL), 0);
    cr_assert_eq(waitpid(child, NULL, 0), child);
    cr_assert_eq(vfs->dir_lock(place.dir, "LOCK", false, 0600, &lock, &holder, NULL), 0);
    vfs->lock_release(lock);
    place_free(&place);
}

struct fork_lock {
    struct place place;
    struct vfs_lock *lock;
};

static int child_releases(void *context) {
    struct fork_lock *both = context;
    vfs->lock_release(both->lock); /* as a child would that closes a store it got by fork */
    return child_lock_is_busy(&both->place);
}

Test(vfs_lock, a_forked_child_that_releases_leaves_its_parents_lock) {
    struct fork_lock both = {.place = place_new()};
    int64_t holder;
    cr_assert_eq(vfs->dir_lock(both.place.dir, "LOCK", false, 0600, &both.lock, &holder, NULL), 0);
    in_child(child_releases, &both, 0);
    in_child(child_lock_is_busy, &both.place, 0);
    vfs->lock_release(both.lock);
    place_free(&both.place);
}

static int child_sleeps(void *context) {
    (void)context;
    for (;;) {
        pause();
    }
    return 0;
}

Test(vfs_lock, a_release_frees_the_lock_though_a_forked_child_lives) {
    struct place place = place_new();
    struct vfs_lock *lock = NULL;
    int64_t holder;
    cr_assert_eq(vfs->dir_lock(place.dir, "LOCK", false, 0600, &lock, &holder, NULL), 0);
    pid_t child = fork();
    if (child == 0) {
        _exit(child_sleeps(NULL));
    }
    vfs->lock_release(lock);
    cr_assert_eq(vfs->dir_lock(place.dir, "LOCK", false, 0600, &lock, &holder, NULL), 0);
    vfs->lock_release(lock);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    place_free(&place);
}

Test(vfs_lock, shared_locks_need_the_file_change_nothing_and_keep_the_exclusive_one_out) {
    struct place place = place_new();
    struct vfs_lock *one = NULL, *two = NULL, *exclusive = NULL;
    int64_t holder = 0;
    cr_assert_eq(vfs->dir_lock(place.dir, "LOCK", true, 0600, &one, &holder, NULL), 0);
    cr_assert_eq(vfs->lock_read(one, 0, &holder, 1, NULL), PLEAT_ERR_NOT_FOUND);
    vfs->lock_release(one);
    struct listing listing = {0};
    cr_assert_eq(vfs->dir_list(place.dir, listing_add, &listing, NULL), 0);
    cr_assert_eq(listing.count, 0, "a shared lock creates nothing");
    place_put(&place, "LOCK", "2147483000\n", 11);
    cr_assert_eq(vfs->dir_lock(place.dir, "LOCK", true, 0600, &one, &holder, NULL), 0);
    cr_assert_eq(vfs->dir_lock(place.dir, "LOCK", true, 0600, &two, &holder, NULL), 0);
    cr_assert_eq(vfs->dir_lock(place.dir, "LOCK", false, 0600, &exclusive, &holder, NULL), PLEAT_ERR_BUSY);
    cr_assert_eq(holder, 0, "a pid that is not alive is not named");
    vfs->lock_release(one);
    vfs->lock_release(two);
    char text[32] = {0};
    cr_assert_eq(place_read(&place, "LOCK", text, sizeof text - 1), 11);
    cr_assert_str_eq(text, "2147483000\n");
    cr_assert_eq(vfs->dir_lock(place.dir, "LOCK", false, 0600, &exclusive, &holder, NULL), 0);
    cr_assert_eq(place_read(&place, "LOCK", text, sizeof text - 1), 12);
    char whole[32];
    snprintf(whole, sizeof whole, "%-11d\n", (int)getpid());
    cr_assert_str_eq(text, whole, "a longer pid of an earlier holder is replaced whole");
    vfs->lock_release(exclusive);
    place_free(&place);
}

Test(vfs_lock, what_its_holder_keeps_behind_the_pid_outlives_it) {
    struct place place = place_new();
    struct vfs_lock *lock = NULL;
    char note[8] = {0}, text[32] = {0};
    for (int life = 0; life < 2; life++) {
        cr_assert_eq(vfs->dir_lock(place.dir, "LOCK", false, 0600, &lock, NULL, NULL), 0);
        cr_assert_eq(vfs->lock_read(lock, 16, note, 4, NULL), life == 0 ? PLEAT_ERR_CORRUPT : 0, "there is none yet");
        cr_assert_eq(vfs->lock_write(lock, 16, "note", 4, NULL), 0);
        cr_assert_eq(vfs->lock_sync(lock, NULL), 0);
        cr_assert_eq(vfs->lock_read(lock, 16, note, 4, NULL), 0);
        cr_assert_str_eq(note, "note");
        cr_assert_eq(place_read(&place, "LOCK", text, sizeof text - 1), 20);
        cr_assert_eq(atol(text), (long)getpid());
        vfs->lock_release(lock);
        cr_assert_eq(place_read(&place, "LOCK", text, sizeof text - 1), 20);
        cr_assert_eq(memcmp(text, "           \n\0\0\0\0note", 20), 0, "the pid is blanked out, and no more");
    }
    cr_assert_eq(vfs->dir_lock(place.dir, "LOCK", true, 0600, &lock, NULL, NULL), 0);
    cr_assert_eq(vfs->lock_read(lock, 16, note, 4, NULL), 0);
    vfs->lock_release(lock);
    place_free(&place);
}

/* ---- the log ---------------------------------------------------------------------------------------------------- */

Test(vfs_log, mapped_and_written_logs_give_the_same_file) {
    struct random random = random_begin("mapped_and_written_logs_give_the_same_file");
    struct place place = place_new();
    enum { BYTES = 100000 };
    static uint8_t expected[BYTES];
    static uint8_t found[2][BYTES + 1];
    static const char *const names[] = {"mapped", "written"};
    struct vfs_log *logs[2];
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(vfs->log_create(place.dir, names[i], BYTES, i == 1, 0600, &logs[i], NULL), 0);
        cr_assert(logs[i]->bytes == BYTES && logs[i]->vfs == vfs);
        cr_assert(((uintptr_t)logs[i]->base & 4095) == 0);
        cr_assert_eq(memcmp(logs[i]->base, expected, BYTES), 0, "it starts as zeros");
        struct stat status;
        cr_assert_eq(stat(place_path(&place, names[i]), &status), 0);
        cr_assert_eq(status.st_size, BYTES);
        cr_assert_geq(status.st_blocks * 512, BYTES, "its blocks are reserved");
    }
    for (int step = 0; step < 200; step++) {
        size_t offset = (size_t)random_below(&random, BYTES);
        size_t n = (size_t)random_below(&random, BYTES - offset + 1) / 16;
        uint8_t fill = (uint8_t)random_next(&random);
        memset(expected + offset, fill, n);
        for (int i = 0; i < 2; i++) {
            memset(logs[i]->base + offset, fill, n);
            cr_assert_eq(vfs->log_publish(logs[i], offset, n, NULL), 0);
            vfs->log_prepare(logs[i], (uint64_t)step * 1000);
            if (step % 50 == 0) {
                cr_assert_eq(vfs->log_sync(logs[i], NULL), 0);
            }
        }
    }
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(place_read(&place, names[i], found[i], BYTES + 1), BYTES, "published bytes are in the file");
        cr_assert_eq(memcmp(found[i], expected, BYTES), 0);
        vfs->log_prepare(logs[i], UINT64_MAX / 2);
        cr_assert_eq(vfs->log_sync(logs[i], NULL), 0);
        vfs->log_close(logs[i]);
        cr_assert_eq(place_read(&place, names[i], found[i], BYTES + 1), BYTES);
        cr_assert_eq(memcmp(found[i], expected, BYTES), 0);
    }
    place_free(&place);
}

Test(vfs_log, what_was_not_published_to_a_written_log_stays_out_of_the_file) {
    struct place place = place_new();
    struct vfs_log *log = NULL;
    uint8_t found[64];
    cr_assert_eq(vfs->log_create(place.dir, "log", 64, true, 0600, &log, NULL), 0);
    memset(log->base, 'x', 64);
    cr_assert_eq(vfs->log_publish(log, 8, 8, NULL), 0);
    cr_assert_eq(vfs->log_publish(log, 64, 0, NULL), 0);
    cr_assert_eq(place_read(&place, "log", found, sizeof found), 64);
    for (size_t i = 0; i < 64; i++) {
        cr_assert_eq(found[i], i >= 8 && i < 16 ? 'x' : 0);
    }
    vfs->log_close(log);
    place_free(&place);
}

Test(vfs_log, a_killed_child_loses_nothing_that_it_published) {
    for (int by_write = 0; by_write < 2; by_write++) {
        struct place place = place_new();
        enum { BYTES = 1 << 16 };
        pid_t child = fork();
        cr_assert_geq(child, 0);
        if (child == 0) {
            struct vfs_log *log = NULL;
            if (vfs->log_create(place.dir, "log", BYTES, by_write != 0, 0600, &log, NULL) == 0) {
                for (size_t i = 0; i < BYTES; i++) {
                    log->base[i] = (uint8_t)(i * 7 + 1);
                }
                (void)vfs->log_publish(log, 0, BYTES, NULL);
            }
            kill(getpid(), SIGKILL);
        }
        int status;
        cr_assert_eq(waitpid(child, &status, 0), child);
        cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        static uint8_t found[BYTES];
        cr_assert_eq(place_read(&place, "log", found, BYTES), BYTES);
        for (size_t i = 0; i < BYTES; i++) {
            cr_assert_eq(found[i], (uint8_t)(i * 7 + 1));
        }
        place_free(&place);
    }
}

Test(vfs_log, one_that_cannot_be_reserved_leaves_no_file) {
    struct place place = place_new();
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit;
    cr_assert_eq(getrlimit(RLIMIT_FSIZE, &limit), 0);
    struct rlimit small = {4096, limit.rlim_max};
    struct vfs_log *log = NULL;
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
    int refused = vfs->log_create(place.dir, "log", 1 << 20, false, 0600, &log, NULL);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    cr_assert_lt(refused, 0);
    cr_assert_eq(vfs->log_create(place.dir, "log", (uint64_t)1 << 60, false, 0600, &log, NULL) < 0, true);
    cr_assert_eq(vfs->log_create(place.dir, "log", 0, false, 0600, &log, NULL), PLEAT_ERR_INVALID);
    cr_assert_eq(vfs->log_create(place.dir, "log", UINT64_MAX, false, 0600, &log, NULL), PLEAT_ERR_INVALID);
    struct listing listing = {0};
    cr_assert_eq(vfs->dir_list(place.dir, listing_add, &listing, NULL), 0);
    cr_assert_eq(listing.count, 0);
    place_free(&place);
}

/* ---- allocation, clock, randomness ------------------------------------------------------------------------------ */

Test(vfs_posix, every_failed_allocation_is_no_memory_and_leaves_nothing) {
    struct place place = place_new();
    struct failmem fail;
    failmem_init(&fail);
    int before = open_descriptors();
    bool all = false;
    for (uint64_t n = 1; !all; n++) {
        fail.calls = 0;
        fail.fail_at = n;
        struct vfs_dir *dir = NULL;
        struct vfs_file *file = NULL;
        struct vfs_log *log = NULL;
        struct vfs_lock *lock = NULL;
        int64_t holder;
        struct pleat_error err = {0};
        int rc = vfs->dir_open(vfs, &fail.mem, place.path, VFS_DIR_CREATE, 0700, &dir, &err);
        rc = rc < 0 ? rc : vfs->file_open(dir, "file", VFS_FILE_CREATE_NEW, 0600, &file, &err);
        rc = rc < 0 ? rc : vfs->log_create(dir, "log", 4096, true, 0600, &log, &err);
        rc = rc < 0 ? rc : vfs->dir_lock(dir, "lock", false, 0600, &lock, &holder, &err);
        all = rc == 0;
        cr_assert(all || rc == PLEAT_ERR_NO_MEMORY);
        struct listing listing = {0};
        cr_assert_eq(vfs->dir_list(place.dir, listing_add, &listing, NULL), 0);
        cr_assert_eq(listing.count, (file != NULL) + (log != NULL) + (lock != NULL), "a refused call leaves no file");
        vfs->lock_release(lock);
        vfs->log_close(log);
        vfs->file_close(file);
        vfs->dir_close(dir);
        cr_assert_eq(vfs->dir_list(place.dir, place_unlink, &place, NULL), 0);
        cr_assert_eq(fail.live, 0);
        cr_assert_eq(open_descriptors(), before);
        cr_assert_leq(n, 10);
    }
    place_free(&place);
}

Test(vfs_posix, the_clock_goes_on_and_random_bytes_differ) {
    uint64_t before = vfs->now_ns(vfs);
    thread_sleep_ns(2000000);
    cr_assert_geq(vfs->now_ns(vfs), before + 2000000);
    uint8_t a[300] = {0};
    uint8_t b[300] = {0};
    cr_assert_eq(vfs->random(vfs, a, sizeof a, NULL), 0);
    cr_assert_eq(vfs->random(vfs, b, sizeof b, NULL), 0);
    cr_assert_neq(memcmp(a, b, sizeof a), 0);
    cr_assert_neq(memcmp(a + 284, (uint8_t[16]){0}, 16), 0, "to the last byte");
    cr_assert_eq(vfs->random(vfs, a, 0, NULL), 0);
}

/* ---- threads ---------------------------------------------------------------------------------------------------- */

struct shared {
    struct mutex mutex;
    struct condition condition;
    int turns;
    sigset_t mask;
    char name[16];
};

static void *add_turns(void *context) {
    struct shared *shared = context;
    for (int i = 0; i < 2000; i++) {
        mutex_lock(&shared->mutex);
        mutex_check_held(&shared->mutex);
        shared->turns++;
        mutex_unlock(&shared->mutex);
        if (i % 500 == 0) {
            thread_yield();
        }
    }
    mutex_lock(&shared->mutex);
    (void)pthread_sigmask(SIG_BLOCK, NULL, &shared->mask);
    condition_broadcast(&shared->condition);
    mutex_unlock(&shared->mutex);
    return NULL;
}

Test(thread, mutexes_exclude_and_conditions_wake) {
    struct shared shared = {0};
    struct thread threads[4];
    cr_assert_eq(mutex_init(&shared.mutex, RANK_LEAF), 0);
    cr_assert_eq(condition_init(&shared.condition), 0);
    for (int i = 0; i < 4; i++) {
        cr_assert_eq(thread_start(&threads[i], "pleat-test-15ch", add_turns, &shared), 0);
    }
    mutex_lock(&shared.mutex);
    while (shared.turns < 8000) {
        condition_wait(&shared.condition, &shared.mutex);
    }
    cr_assert_eq(shared.turns, 8000);
    mutex_unlock(&shared.mutex);
    for (int i = 0; i < 4; i++) {
        thread_join(&threads[i]);
    }
    cr_assert(sigismember(&shared.mask, SIGINT) && sigismember(&shared.mask, SIGUSR1), "signals are for the host");
    cr_assert(!sigismember(&shared.mask, SIGSEGV) && !sigismember(&shared.mask, SIGBUS), "faults reach its handler");
    sigset_t mine;
    (void)pthread_sigmask(SIG_BLOCK, NULL, &mine);
    cr_assert(!sigismember(&mine, SIGINT), "the starting thread's mask is as before");
    condition_fini(&shared.condition);
    mutex_fini(&shared.mutex);
}

static void *read_name(void *context) {
    struct shared *shared = context;
    for (int i = 0; i < 1000 && strcmp(shared->name, "pleat-flush") != 0; i++) {
        (void)pthread_getname_np(pthread_self(), shared->name, sizeof shared->name);
        thread_sleep_ns(1000000); /* the starter names it when it already runs */
    }
    return NULL;
}

Test(thread, it_bears_its_name) {
    struct shared shared = {0};
    struct thread thread;
    cr_assert_eq(thread_start(&thread, "pleat-flush", read_name, &shared), 0);
    thread_join(&thread);
    cr_assert_str_eq(shared.name, "pleat-flush");
}

Test(thread, a_wait_ends_at_its_timeout_or_earlier_when_signalled) {
    struct shared shared = {0};
    struct thread thread;
    cr_assert_eq(mutex_init(&shared.mutex, RANK_LEAF), 0);
    cr_assert_eq(condition_init(&shared.condition), 0);
    mutex_lock(&shared.mutex);
    cr_assert(!condition_wait_for(&shared.condition, &shared.mutex, 0));
    uint64_t before = vfs->now_ns(vfs);
    while (condition_wait_for(&shared.condition, &shared.mutex, 20000000)) {
    }
    uint64_t took = vfs->now_ns(vfs) - before;
    cr_assert(took >= 20000000 && took < UINT64_C(5000000000), "took %lu ns", (unsigned long)took);
    cr_assert_eq(thread_start(&thread, "pleat-signal", add_turns, &shared), 0);
    while (shared.turns < 2000) {
        cr_assert(condition_wait_for(&shared.condition, &shared.mutex, UINT64_MAX), "585 years have not passed");
    }
    mutex_unlock(&shared.mutex);
    thread_join(&thread);
    condition_fini(&shared.condition);
    mutex_fini(&shared.mutex);
}

Test(thread, try_lock_answers_without_waiting) {
    struct mutex mutex;
    cr_assert_eq(mutex_init(&mutex, RANK_LEAF), 0);
    cr_assert(mutex_try_lock(&mutex));
    cr_assert(!mutex_try_lock(&mutex));
    mutex_unlock(&mutex);
    cr_assert(mutex_try_lock(&mutex));
    mutex_unlock(&mutex);
    mutex_fini(&mutex);
}

#ifdef PLEAT_DEBUG
static struct mutex low;
static struct mutex high;
static struct mutex twin;

static void ranks_init(void) {
    cr_assert_eq(mutex_init(&low, RANK_COMMIT), 0);
    cr_assert_eq(mutex_init(&high, RANK_CACHE), 0);
    cr_assert_eq(mutex_init(&twin, RANK_CACHE), 0);
}

Test(ranks, upwards_is_right_and_release_in_any_order) {
    ranks_init();
    mutex_lock(&low);
    mutex_lock(&high);
    mutex_unlock(&low);
    cr_assert(mutex_try_lock(&low), "a try never waits, so it may go down");
    mutex_unlock(&high);
    mutex_lock(&twin);
    mutex_unlock(&twin);
    mutex_unlock(&low);
}

Test(ranks, downwards_stops_the_process, .signal = SIGABRT) {
    ranks_init();
    mutex_lock(&high);
    mutex_lock(&low);
}

Test(ranks, two_of_one_rank_stop_the_process, .signal = SIGABRT) {
    ranks_init();
    mutex_lock(&high);
    mutex_lock(&twin);
}

Test(ranks, locking_twice_stops_the_process, .signal = SIGABRT) {
    ranks_init();
    mutex_lock(&low);
    mutex_lock(&low);
}

Test(ranks, unlocking_what_is_not_held_stops_the_process, .signal = SIGABRT) {
    ranks_init();
    mutex_unlock(&low);
}

Test(ranks, check_held_stops_the_process_when_it_is_not, .signal = SIGABRT) {
    ranks_init();
    mutex_check_held(&low);
}

Test(ranks, waiting_below_a_held_mutex_stops_the_process, .signal = SIGABRT) {
    struct condition condition;
    ranks_init();
    cr_assert_eq(condition_init(&condition), 0);
    mutex_lock(&low);
    mutex_lock(&high);
    (void)condition_wait_for(&condition, &low, 0);
}
#endif

/* ---- barriers and the fork guard -------------------------------------------------------------------------------- */

struct dekker {
    _Atomic int a;
    _Atomic int b;
    _Atomic int saw_a;
    _Atomic int saw_b;
    _Atomic unsigned round;
    _Atomic unsigned done;
};

enum { DEKKER_ROUNDS = 20000 };

/* Spins, so that both sides start a round within nanoseconds of each other; yields where there is one processor. */
static void dekker_await(const _Atomic unsigned *counter, unsigned round) {
    for (unsigned spins = 1; atomic_load(counter) != round; spins++) { /* seq_cst; pairs with the store of the other */
        if (spins % 4096 == 0) {
            thread_yield();
        }
    }
}

/* The fast side: publishes a, then looks at b, with the light barrier between. */
static void *dekker_fast(void *context) {
    struct dekker *dekker = context;
    for (unsigned round = 1; round <= DEKKER_ROUNDS; round++) {
        dekker_await(&dekker->round, round);
        atomic_store_explicit(&dekker->a, 1, memory_order_relaxed); /* ordered by the barriers, which are under test */
        thread_light_barrier();
        atomic_store_explicit(&dekker->saw_b, atomic_load_explicit(&dekker->b, memory_order_relaxed),
                              memory_order_relaxed);
        atomic_store(&dekker->done, round); /* seq_cst; pairs with dekker_await of the slow side */
    }
    return NULL;
}

Test(barrier, of_two_sides_at_least_one_sees_the_other) {
    static struct dekker dekker;
    struct thread thread;
    thread_barrier_init();
    thread_barrier_init();
    cr_assert_eq(thread_start(&thread, "pleat-dekker", dekker_fast, &dekker), 0);
    for (unsigned round = 1; round <= DEKKER_ROUNDS; round++) {
        atomic_store(&dekker.a, 0);
        atomic_store(&dekker.b, 0);
        atomic_store(&dekker.round, round);
        for (volatile unsigned delay = round % 256; delay > 0; delay--) { /* until the other side has seen the round */
        }
        atomic_store_explicit(&dekker.b, 1, memory_order_relaxed);
        thread_heavy_barrier();
        int saw_a = atomic_load_explicit(&dekker.a, memory_order_relaxed);
        dekker_await(&dekker.done, round);
        cr_assert(saw_a == 1 || atomic_load(&dekker.saw_b) == 1, "neither side saw the other in round %u", round);
    }
    thread_join(&thread);
}

static int child_heavy_barrier(void *context) {
    (void)context;
    thread_light_barrier();
    thread_heavy_barrier();
    return 0;
}

Test(barrier, it_still_works_in_a_forked_child) {
    thread_barrier_init();
    in_child(child_heavy_barrier, NULL, 0);
}

static int child_is_owner(void *context) {
    return fork_guard_is_owner(context) ? 1 : 0;
}

Test(fork_guard, it_is_false_in_a_child_and_true_in_the_parent_before_and_after) {
    struct fork_guard *guard = fork_guard_new();
    cr_assert_not_null(guard, "this kernel can");
    cr_assert(fork_guard_is_owner(guard));
    in_child(child_is_owner, guard, 0);
    cr_assert(fork_guard_is_owner(guard));
    fork_guard_free(guard);
    fork_guard_free(NULL);
    cr_assert(fork_guard_is_owner(NULL), "without a guard every check is true");
}
