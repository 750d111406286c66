/*
 * test_syscalls.c - which system calls the real vfs makes for each promise, and in which order.
 *
 * The simulated disk shows that the store asks for the right syncs; that vfs_posix passes them on to the kernel shows
 * only here, for no test can take the power from the machine it runs on. The linker puts the functions below in front
 * of the C library's (--wrap, see meson.build): they note the call with the name of its file, and call the real one, or
 * fail when they are told to.
 */
#include "base/mem.h"
#include "platform/vfs.h"
#include "support/store_room.h"

#include <errno.h>
#include <sys/mman.h>

/* ---- the calls -------------------------------------------------------------------------------------------------- */

int __real_fdatasync(int fd);
int __real_fsync(int fd);
int __real_renameat(int from_dir, const char *from, int to_dir, const char *to);
int __real_unlinkat(int dir, const char *name, int flags);
int __wrap_fdatasync(int fd);
int __wrap_fsync(int fd);
int __real_msync(void *base, size_t n, int flags);
int __wrap_msync(void *base, size_t n, int flags);
int __real_madvise(void *base, size_t n, int advice);
int __wrap_madvise(void *base, size_t n, int advice);
int __wrap_renameat(int from_dir, const char *from, int to_dir, const char *to);
int __wrap_unlinkat(int dir, const char *name, int flags);

#define CALLS_MAX 4096

/* "fdatasync 000012.wal"; a directory goes by the last part of its path. One thread: step mode. */
static struct {
    char texts[CALLS_MAX][64];
    size_t count;
    unsigned fail_syncs; /* so many syncs fail with fail_errno (0: EIO), and are noted as "failed ..." */
    int fail_errno;
    uint64_t range_from, range_to; /* of the file, of the last msync */
    uint64_t let_go_from, let_go_to; /* the same of the last MADV_DONTNEED */
} trace;

static void trace_add(const char *call, const char *name) {
    cr_assert_lt(trace.count, CALLS_MAX);
    (void)snprintf(trace.texts[trace.count++], sizeof trace.texts[0], "%s %.40s", call, name);
}

static void trace_add_fd(const char *call, int fd) {
    char link[64], path[512];
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t bytes = readlink(link, path, sizeof path - 1);
    path[bytes > 0 ? bytes : 0] = '\0';
    const char *slash = strrchr(path, '/');
    trace_add(call, slash != NULL ? slash + 1 : path);
}

static int trace_sync(const char *call, int fd, int (*real)(int fd)) {
    if (trace.fail_syncs > 0) {
        trace.fail_syncs--;
        trace_add_fd("failed", fd);
        errno = trace.fail_errno != 0 ? trace.fail_errno : EIO;
        return -1;
    }
    trace_add_fd(call, fd);
    return real(fd);
}

int __wrap_fdatasync(int fd) {
    return trace_sync("fdatasync", fd, __real_fdatasync);
}

int __wrap_fsync(int fd) {
    return trace_sync("fsync", fd, __real_fsync);
}

/* The last part of the path of the file that is mapped at `address`, and which of its bytes is there; false when no
 * file is. */
static bool mapped_file(const void *address, char ret_name[64], uint64_t *ret_offset) {
    bool found = false;
    FILE *maps = fopen("/proc/self/maps", "r");
    cr_assert_not_null(maps);
    for (char line[600]; !found && fgets(line, sizeof line, maps) != NULL;) {
        unsigned long from, to, offset;
        char path[512] = "";
        if (sscanf(line, "%lx-%lx %*s %lx %*s %*s %511[^\n]", &from, &to, &offset, path) >= 3 &&
            (uintptr_t)address >= from && (uintptr_t)address < to) {
            const char *slash = strrchr(path, '/');
            found = slash != NULL;
            (void)snprintf(ret_name, 64, "%.60s", found ? slash + 1 : path);
            *ret_offset = offset + ((uintptr_t)address - from);
        }
    }
    (void)fclose(maps);
    return found;
}

int __wrap_msync(void *base, size_t n, int flags) {
    char name[64];
    cr_assert(mapped_file(base, name, &trace.range_from));
    cr_assert_eq(flags, MS_SYNC);
    trace.range_to = trace.range_from + n;
    if (trace.fail_syncs > 0) {
        trace.fail_syncs--;
        trace_add("failed", name);
        errno = EIO;
        return -1;
    }
    trace_add("msync", name);
    return __real_msync(base, n, flags);
}

int __wrap_madvise(void *base, size_t n, int advice) {
    char name[64];
    if (advice == MADV_DONTNEED) {
        cr_assert(mapped_file(base, name, &trace.let_go_from));
        trace.let_go_to = trace.let_go_from + n;
    }
    return __real_madvise(base, n, advice);
}

int __wrap_renameat(int from_dir, const char *from, int to_dir, const char *to) {
    trace_add("rename", to);
    return __real_renameat(from_dir, from, to_dir, to);
}

int __wrap_unlinkat(int dir, const char *name, int flags) {
    trace_add("unlink", name);
    return __real_unlinkat(dir, name, flags);
}

/* The first call from `from` on that begins with `call` and ends with `end`; fails without one. */
static size_t trace_find(size_t from, const char *call, const char *end) {
    for (size_t i = from; i < trace.count; i++) {
        const char *text = trace.texts[i];
        size_t bytes = strlen(text), end_bytes = strlen(end);
        if (strncmp(text, call, strlen(call)) == 0 && bytes >= end_bytes &&
            strcmp(text + bytes - end_bytes, end) == 0) {
            return i;
        }
    }
    cr_assert_fail("no %s ...%s behind call %zu of %zu", call, end, from, trace.count);
    return 0;
}

static size_t trace_count(size_t from, size_t to, const char *call, const char *end) {
    size_t count = 0;
    for (size_t i = from; i < to; i++) {
        const char *text = trace.texts[i];
        size_t bytes = strlen(text), end_bytes = strlen(end);
        count +=
            strncmp(text, call, strlen(call)) == 0 && bytes >= end_bytes && strcmp(text + bytes - end_bytes, end) == 0;
    }
    return count;
}

/* Exactly this call came, and no other, since the trace was cleared; clears it. */
static void expect_only(const char *text) {
    cr_assert_eq(trace.count, 1, "%zu calls for one, the last \"%s\"", trace.count,
                 trace.count > 0 ? trace.texts[trace.count - 1] : "");
    cr_assert_str_eq(trace.texts[0], text);
    trace.count = 0;
}

/* ---- each function of the vfs ----------------------------------------------------------------------------------- */

/* The directory of a room, which is the vfs's here and not yet a store's. */
static struct vfs_dir *dir_make(struct room *room) {
    struct vfs_dir *dir;
    room_begin(room);
    int rc = vfs_posix.dir_open(&vfs_posix, &mem_system, room->path, VFS_DIR_CREATE, 0600, &dir, &room->err);
    cr_assert_eq(rc, 0, "%s", room->err.message);
    return dir;
}

Test(syscalls, a_directory_is_opened_for_a_store_with_a_sync_of_its_parent) {
    struct room room;
    char parent[80];
    struct vfs_dir *dir = dir_make(&room);
    (void)snprintf(parent, sizeof parent, "fsync %s", strrchr(room.parent, '/') + 1);
    expect_only(parent);
    vfs_posix.dir_close(dir);
    /* It is there: whoever made it may have died before the sync (D1). */
    OK(vfs_posix.dir_open(&vfs_posix, &mem_system, room.path, VFS_DIR_CREATE, 0600, &dir, &room.err));
    expect_only(parent);
    OK(vfs_posix.dir_sync(dir, &room.err));
    expect_only("fsync store");
    vfs_posix.dir_close(dir);
    OK(vfs_posix.dir_open(&vfs_posix, &mem_system, room.path, VFS_DIR_EXISTING, 0600, &dir, &room.err));
    cr_assert_eq(trace.count, 0, "a store that is only read asks for no sync");
    trace.fail_syncs = 1;
    REFUSED(PLEAT_ERR_IO, "store", vfs_posix.dir_sync(dir, &room.err));
    vfs_posix.dir_close(dir);
    room_end(&room);
}

/* A store may be where something is mounted, below a file system that knows no sync. A name that this process has made
 * is another thing. */
Test(syscalls, a_directory_that_was_there_needs_no_sync_of_a_parent_that_has_none) {
    struct room room;
    char fresh[300];
    struct vfs_dir *dir = dir_make(&room);
    vfs_posix.dir_close(dir);
    (void)snprintf(fresh, sizeof fresh, "%s/fresh", room.parent);
    static const struct {
        int os_errno;
        bool is_none;
    } answers[] = {{EINVAL, true}, {EROFS, true}, {EOPNOTSUPP, true}, {EIO, false}, {ENOSPC, false}};
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        trace.fail_errno = answers[i].os_errno;
        trace.fail_syncs = 1;
        int rc = vfs_posix.dir_open(&vfs_posix, &mem_system, room.path, VFS_DIR_CREATE, 0600, &dir, &room.err);
        cr_assert_eq(trace.fail_syncs, 0);
        cr_assert_eq(rc == 0, answers[i].is_none, "errno %d: %d", answers[i].os_errno, rc);
        if (rc == 0) {
            vfs_posix.dir_close(dir);
        }
        trace.fail_syncs = 1;
        rc = vfs_posix.dir_open(&vfs_posix, &mem_system, fresh, VFS_DIR_CREATE, 0600, &dir, &room.err);
        cr_assert_lt(rc, 0, "errno %d of the parent of a new directory", answers[i].os_errno);
        cr_assert_eq(trace.fail_syncs, 0);
        cr_assert_eq(rmdir(fresh), 0);
    }
    trace.fail_errno = 0;
    room_end(&room);
}

Test(syscalls, a_file_is_synced_by_the_kernel_and_never_again_after_a_failure) {
    struct room room;
    struct vfs_dir *dir = dir_make(&room);
    struct vfs_file *file;
    trace.count = 0;
    OK(vfs_posix.file_open(dir, "file", VFS_FILE_CREATE_NEW, 0600, &file, &room.err));
    OK(vfs_posix.file_write(file, 0, "text", 4, &room.err));
    cr_assert_eq(trace.count, 0);
    OK(vfs_posix.file_sync(file, &room.err));
    expect_only("fdatasync file");
    trace.fail_syncs = 1;
    REFUSED(PLEAT_ERR_IO, "file", vfs_posix.file_sync(file, &room.err));
    expect_only("failed file");
    for (int again = 0; again < 3; again++) {
        REFUSED(PLEAT_ERR_IO, "file", vfs_posix.file_sync(file, &room.err));
        cr_assert_eq(room.err.os_errno, EIO);
        cr_assert_eq(trace.count, 0, "the kernel was asked again after a failed sync (N2)");
    }
    vfs_posix.file_close(file);
    vfs_posix.dir_close(dir);
    room_end(&room);
}

static bool log_is_mapped(const struct vfs_log *log) {
    char name[64];
    uint64_t offset;
    return mapped_file(log->base, name, &offset);
}

/* L1: from the page in which the last sync ended, to the end of what is published; not the pages made ready ahead. */
Test(syscalls, a_mapped_log_is_synced_from_where_the_last_sync_ended_to_its_end) {
    struct room room;
    struct vfs_dir *dir = dir_make(&room);
    struct vfs_log *log;
    static const struct {
        uint64_t from, to;
    } published[] = {{0, 100}, {100, 104}, {104, 20000}, {20000, 70000}, {70000, 131072}};
    OK(vfs_posix.log_create(dir, "log", 131072, false, 0600, &log, &room.err));
    vfs_posix.log_prepare(log, 131072);
    for (size_t i = 0; log_is_mapped(log) && i < sizeof published / sizeof published[0]; i++) {
        uint64_t from = published[i].from, to = published[i].to;
        memset(log->base + from, 'x', to - from);
        OK(vfs_posix.log_publish(log, from, to - from, &room.err));
        trace.count = 0;
        OK(vfs_posix.log_sync(log, &room.err));
        expect_only("msync log");
        cr_assert(trace.range_from <= from && from - trace.range_from < 65536, "a page holds both ends");
        cr_assert_eq(trace.range_to, to);
    }
    vfs_posix.log_close(log);
    vfs_posix.dir_close(dir);
    room_end(&room);
}

Test(syscalls, a_log_is_synced_by_the_kernel_mapped_or_written_and_never_again_after_a_failure) {
    struct room room;
    struct vfs_dir *dir = dir_make(&room);
    for (int by_write = 0; by_write < 2; by_write++) {
        struct vfs_log *log;
        trace.count = 0;
        OK(vfs_posix.log_create(dir, "log", 8192, by_write != 0, 0600, &log, &room.err));
        memcpy(log->base + 100, "text", 4);
        OK(vfs_posix.log_publish(log, 100, 4, &room.err));
        OK(vfs_posix.log_sync(log, &room.err));
        expect_only(log_is_mapped(log) ? "msync log" : "fdatasync log");
        trace.fail_syncs = 1;
        REFUSED(PLEAT_ERR_IO, "log", vfs_posix.log_sync(log, &room.err));
        expect_only("failed log");
        REFUSED(PLEAT_ERR_IO, "log", vfs_posix.log_sync(log, &room.err));
        cr_assert_eq(trace.count, 0, "the kernel was asked again after a failed sync (N2)");
        vfs_posix.log_close(log);
        OK(vfs_posix.dir_unlink(dir, "log", &room.err));
    }
    vfs_posix.dir_close(dir);
    room_end(&room);
}

/* L5: whole pages that nothing is written to any more, and what they hold stays. */
Test(syscalls, a_mapped_log_lets_go_of_whole_pages_before_they_are_synced_and_keeps_their_bytes) {
    struct room room;
    struct vfs_dir *dir = dir_make(&room);
    struct vfs_log *log;
    struct vfs_file *file;
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    OK(vfs_posix.log_create(dir, "log", 64 * page, false, 0600, &log, &room.err));
    OK(vfs_posix.file_open(dir, "log", VFS_FILE_READ, 0600, &file, &room.err));
    uint8_t *read = malloc(64 * page);
    uint64_t from = 0;
    for (uint64_t to = 10 * page + 1; log_is_mapped(log) && to < 64 * page; to += 10 * page + 7) {
        memset(log->base + from, (int)to, to - from);
        OK(vfs_posix.log_publish(log, from, to - from, &room.err));
        OK(vfs_posix.log_sync(log, &room.err));
        cr_assert_eq(trace.let_go_from, from / page * page);
        cr_assert_eq(trace.let_go_to, to / page * page, "the page that the next record begins in is in use");
        OK(vfs_posix.file_read(file, from, read, to - from, &room.err));
        cr_assert(memcmp(read, log->base + from, to - from) == 0 && read[0] == (uint8_t)to);
        from = to;
    }
    free(read);
    vfs_posix.file_close(file);
    vfs_posix.log_close(log);
    vfs_posix.dir_close(dir);
    room_end(&room);
}

/* ---- the whole store -------------------------------------------------------------------------------------------- */

Test(syscalls, a_new_store_has_a_synced_manifest_before_its_name_and_a_synced_name_before_anything_else) {
    struct room room;
    room_begin(&room);
    room_open(&room);
    size_t parent = trace_find(0, "fsync", strrchr(room.parent, '/') + 1);
    size_t contents = trace_find(parent, "fdatasync", "MANIFEST.new");
    size_t name = trace_find(contents, "rename", "MANIFEST");
    cr_assert_eq(trace_find(0, "rename", "MANIFEST"), name, "renamed before it was synced");
    cr_assert_eq(trace_find(name, "fsync", "store"), name + 1);
    room_end(&room);
}

Test(syscalls, a_synced_commit_has_its_segment_and_its_name_synced_when_it_returns) {
    for (int by_write = 0; by_write < 2; by_write++) {
        struct room room;
        room_begin(&room);
        room.options.durability = PLEAT_SYNC_EACH;
        room.options.log_by_write = by_write != 0;
        room_open(&room);
        trace.count = 0;
        room_put(&room, room.space, "key", "value");
        const char *sync = trace_count(0, trace.count, "msync", ".wal") > 0 ? "msync" : "fdatasync";
        cr_assert(by_write == 0 || strcmp(sync, "fdatasync") == 0);
        size_t segment = trace_find(0, sync, ".wal");
        trace_find(segment, "fsync", "store");
        trace.count = 0;
        room_put(&room, room.space, "key", "value"); /* its name is durable: one call is the price */
        cr_assert_eq(trace.count, 1);
        trace_find(0, sync, ".wal");
        room_end(&room);
    }
}

/* Tables, their names, the edit, and only then the log that they replace goes. */
Test(syscalls, a_flush_and_a_compaction_sync_tables_names_and_edit_before_anything_is_removed) {
    struct room room;
    room_begin(&room);
    room.options.level0_tables = 1;
    room_open(&room);
    size_t compactions = 0;
    for (int round = 0; round < 6; round++) {
        room_put(&room, room.space, "a", "value");
        room_put(&room, room.space, "z", "value");
        trace.count = 0;
        OK(pleat_flush(room.db, &room.err));
        size_t table = trace_find(0, "fdatasync", ".tbl");
        size_t name = trace_find(table, "fsync", "store");
        size_t edit = trace_find(name, "fdatasync", "MANIFEST");
        cr_assert_eq(trace_count(0, edit, "unlink", ""), 0, "removed before the edit was durable");
        cr_assert_eq(trace_count(name, edit, "fdatasync", ".tbl"), 0, "a table behind the sync of names");
        size_t unlinked = trace_count(edit, trace.count, "unlink", ".wal");
        cr_assert_eq(unlinked, round > 0, "all but the first, whose file is kept");
        trace.count = 0;
        while (pleat_step(room.db, &room.err) == 0) {
            if (trace_count(0, trace.count, "fdatasync", ".tbl") > 0) {
                table = trace_find(0, "fdatasync", ".tbl");
                name = trace_find(table, "fsync", "store");
                edit = trace_find(name, "fdatasync", "MANIFEST");
                cr_assert_eq(trace_count(0, edit, "unlink", ""), 0, "removed before the edit was durable");
                compactions += trace_count(edit, trace.count, "unlink", ".tbl") > 0;
            }
            trace.count = 0;
        }
    }
    cr_assert_gt(compactions, 0);
    room_end(&room);
}
