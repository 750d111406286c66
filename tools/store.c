/*
 * store.c - how the commands open a store.
 *
 * A read-only open replays the log into memory, for it may not write tables. A writer that was killed may have left
 * more log than the default memtable holds, so the memtable's size is taken from the size of the log that is there
 * (address space: pages are touched as they fill).
 */
#include "tool.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

static bool name_ends_with(const char *name, const char *end) {
    size_t bytes = strlen(name), end_bytes = strlen(end);
    return bytes > end_bytes && memcmp(name + bytes - end_bytes, end, end_bytes) == 0;
}

void store_files_read(const char *path, struct store_files *ret_files) {
    *ret_files = (struct store_files){0};
    DIR *dir = opendir(path);
    if (dir == NULL) {
        return; /* the open that follows says why */
    }
    struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        struct stat info;
        if (fstatat(dirfd(dir), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(info.st_mode)) {
            continue;
        }
        uint64_t bytes = (uint64_t)info.st_size;
        if (name_ends_with(entry->d_name, ".tbl")) {
            ret_files->tables++;
            ret_files->table_bytes += bytes;
        } else if (name_ends_with(entry->d_name, ".wal")) {
            ret_files->logs++;
            ret_files->log_bytes += bytes;
        } else if (strcmp(entry->d_name, "MANIFEST") == 0) {
            ret_files->manifest_bytes = bytes;
        }
    }
    closedir(dir);
}

int store_open_read(const struct tool_command *command, const char *path, struct pleat_db **ret_db) {
    enum { MEMTABLE_BYTES_LEAST = 64 << 20 };
    const uint64_t memtable_bytes_most = (uint64_t)TOOL_MEMTABLE_MIB_MAX << 20;
    struct store_files files;
    store_files_read(path, &files);
    uint64_t room = files.log_bytes > MEMTABLE_BYTES_LEAST ? files.log_bytes : MEMTABLE_BYTES_LEAST;
    struct pleat_options options = {
        .size = sizeof options,
        .open_mode = PLEAT_MUST_EXIST,
        .read_only = true,
        .memtable_bytes = room < memtable_bytes_most ? room : memtable_bytes_most,
    };
    struct pleat_error err;
    return pleat_open(path, &options, ret_db, &err) < 0 ? tool_error(command, NULL, &err) : 0;
}

int store_space(const struct tool_command *command, struct pleat_db *db, const struct pleat_slice *name,
                struct pleat_space **ret_space) {
    struct pleat_error err;
    if (name == NULL) {
        *ret_space = pleat_default_space(db);
        return 0;
    }
    if (pleat_space_open(db, *name, PLEAT_SPACE_OPTIONS(.open_mode = PLEAT_MUST_EXIST), ret_space, &err) < 0) {
        return tool_error(command, "--space", &err);
    }
    return 0;
}

int store_close(const struct tool_command *command, struct pleat_db *db, int status) {
    struct pleat_error err;
    if (pleat_close(db, &err) < 0) {
        int failed = tool_error(command, "close", &err);
        return status == TOOL_OK ? failed : status;
    }
    return status;
}
