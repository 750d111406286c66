/*
 * test_store_open.c - opening: foreign and damaged directories, second owners, killed ones, forked children, and what a
 * read-only open must not do.
 */
#include "base/bytes.h"
#include "base/hash.h"
#include "base/mem.h"
#include "platform/thread.h"
#include "platform/vfs.h"
#include "support/store_room.h"
#include "wal/wal.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

/* ---- directories ------------------------------------------------------------------------------------------------ */

static void write_file(const char *directory, const char *name, const char *text) {
    char path[700];
    (void)snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "w");
    cr_assert_not_null(file);
    (void)fputs(text, file);
    (void)fclose(file);
}

/* The wait status of a child that was forked. */
static int child_ended(pid_t child) {
    int status = 1;
    cr_assert_eq(waitpid(child, &status, 0), child);
    return status;
}

Test(open, of_a_file_or_a_foreign_directory_is_refused_and_changes_nothing) {
    struct room room;
    struct pleat_db *db = NULL;
    char path[300];
    room_begin(&room);
    (void)snprintf(path, sizeof path, "%s/file", room.parent);
    write_file(room.parent, "file", "hello");
    int rc = pleat_open(path, &room.options, &db, &room.err);
    cr_assert(rc == PLEAT_ERR_INVALID || rc == PLEAT_ERR_IO || rc == PLEAT_ERR_EXISTS, "%d", rc);
    cr_assert_not_null(strstr(room.err.message, "file"), "%s", room.err.message);
    cr_assert_eq(mkdir(room.path, 0700), 0);
    write_file(room.path, "holiday.jpg", "not a store");
    uint64_t before = room_digest(room.path);
    for (uint32_t mode = PLEAT_OPEN_OR_CREATE; mode <= PLEAT_MUST_NOT_EXIST; mode++) {
        room.options.open_mode = mode;
        REFUSED(PLEAT_ERR_INVALID, "holiday.jpg", pleat_open(room.path, &room.options, &db, &room.err));
        cr_assert_eq(room_digest(room.path), before);
    }
    cr_assert_null(db);
    room_end(&room);
}

Test(open, without_its_manifest_is_damage_and_changes_nothing) {
    struct room room;
    struct pleat_db *db = NULL;
    char name[300];
    room_begin(&room);
    room_open(&room);
    (void)room_put(&room, room.space, "k", "v");
    room_close(&room);
    (void)snprintf(name, sizeof name, "%s/MANIFEST", room.path);
    cr_assert_eq(unlink(name), 0);
    uint64_t before = room_digest(room.path);
    REFUSED(PLEAT_ERR_CORRUPT, "MANIFEST", pleat_open(room.path, &room.options, &db, &room.err));
    room.options.read_only = true;
    REFUSED(PLEAT_ERR_CORRUPT, "MANIFEST", pleat_open(room.path, &room.options, &db, &room.err));
    cr_assert_eq(room_digest(room.path), before);
    room_end(&room);
}

/* Turns one bit of the manifest of a closed store. offset < 0: from the end. */
static void damage_manifest(const struct room *room, long offset) {
    char name[300];
    (void)snprintf(name, sizeof name, "%s/MANIFEST", room->path);
    FILE *file = fopen(name, "r+");
    cr_assert_not_null(file);
    (void)fseek(file, offset, offset < 0 ? SEEK_END : SEEK_SET);
    int byte = fgetc(file);
    cr_assert_neq(byte, EOF);
    (void)fseek(file, -1, SEEK_CUR);
    (void)fputc(byte ^ 0x40, file);
    (void)fclose(file);
}

Test(open, of_a_damaged_manifest_names_it_and_changes_nothing) {
    for (long offset = 0; offset < 140; offset += 7) {
        struct room room;
        struct pleat_db *db = NULL;
        room_begin(&room);
        room_open(&room);
        (void)room_put(&room, room.space, "k", "v");
        room_close(&room);
        damage_manifest(&room, offset);
        uint64_t before = room_digest(room.path);
        REFUSED(PLEAT_ERR_CORRUPT, "MANIFEST", pleat_open(room.path, &room.options, &db, &room.err));
        cr_assert_not_null(strstr(room.err.message, "offset"), "%s", room.err.message);
        cr_assert_eq(room_digest(room.path), before, "offset %ld", offset);
        room_end(&room);
    }
}

Test(open, of_a_newer_format_is_refused_and_changes_nothing) {
    struct room room;
    struct pleat_db *db = NULL;
    uint8_t header[56]; /* manifest.h: the version at 8, the checksum of bytes 0..47 at 48 */
    char name[300];
    room_begin(&room);
    room_open(&room);
    room_close(&room);
    (void)snprintf(name, sizeof name, "%s/MANIFEST", room.path);
    FILE *file = fopen(name, "r+");
    cr_assert_not_null(file);
    cr_assert_eq(fread(header, sizeof header, 1, file), 1);
    store_u32(header + 8, load_u32(header + 8) + 1);
    store_u64(header + 48, hash_bytes(header, 48, 0));
    rewind(file);
    cr_assert_eq(fwrite(header, sizeof header, 1, file), 1);
    (void)fclose(file);
    uint64_t before = room_digest(room.path);
    REFUSED(PLEAT_ERR_NEWER, "MANIFEST", pleat_open(room.path, &room.options, &db, &room.err));
    room.options.read_only = true;
    REFUSED(PLEAT_ERR_NEWER, "MANIFEST", pleat_open(room.path, &room.options, &db, &room.err));
    cr_assert_eq(room_digest(room.path), before);
    room_end(&room);
}

/* A segment behind a closed store's log as a writer would have made it, with one record under `sequence`. */
static void forge_segment(const struct room *room, uint64_t segment, struct wal_tail predecessor, uint64_t sequence,
                          uint32_t space, const char *key) {
    char name[300];
    uint8_t header[32];
    struct vfs_dir *dir;
    struct wal_writer *writer;
    struct wal_record record;
    (void)snprintf(name, sizeof name, "%s/MANIFEST", room->path);
    FILE *file = fopen(name, "r");
    cr_assert_not_null(file);
    cr_assert_eq(fread(header, sizeof header, 1, file), 1);
    (void)fclose(file);
    cr_assert_eq(vfs_posix.dir_open(&vfs_posix, &mem_system, room->path, VFS_DIR_EXISTING, 0700, &dir, NULL), 0);
    struct wal_writer_options options = {
        .vfs = &vfs_posix,
        .dir = dir,
        .mem = &mem_system,
        .store_id = header + 16,
        .segment = segment,
        .bytes = 4096,
        .predecessor = predecessor,
        .first_sequence = sequence,
        .file_mode = 0600,
    };
    cr_assert_eq(wal_writer_create(&options, &writer, NULL), 0);
    struct entry entry = {.key = (const uint8_t *)key, .key_bytes = (uint32_t)strlen(key), .kind = ENTRY_PUT};
    wal_record_init(&record, &mem_system);
    cr_assert_eq(wal_record_add(&record, space, &entry, NULL, NULL), 0);
    cr_assert_eq(wal_writer_append(writer, &record, sequence, 0, NULL), 0);
    wal_record_fini(&record);
    wal_writer_close(writer);
    vfs_posix.dir_close(dir);
}

/* Right checksums around what no writer writes: judged before the first byte of this life is written. */
Test(open, of_a_log_that_names_an_unknown_space_is_damage_and_changes_nothing) {
    struct room room;
    struct pleat_db *db = NULL;
    room_begin(&room);
    room_open(&room);
    uint64_t sequence = room_put(&room, room.space, "k", "v");
    room_close(&room);
    struct wal_tail none = {0, sequence, 0};
    forge_segment(&room, 1000, none, sequence + 1, 77, "forged");
    uint64_t before = room_digest(room.path);
    REFUSED(PLEAT_ERR_CORRUPT, "001000.wal", pleat_open(room.path, &room.options, &db, &room.err));
    cr_assert_not_null(strstr(room.err.message, "offset 160"), "%s", room.err.message);
    room.options.read_only = true;
    REFUSED(PLEAT_ERR_CORRUPT, "001000.wal", pleat_open(room.path, &room.options, &db, &room.err));
    cr_assert_eq(room_digest(room.path), before);
    room_end(&room);
}

/* Numbers at the end of 64 bits: taken over, they would wrap where the store counts on from them. */
Test(open, of_file_names_with_the_last_numbers_is_damage_and_changes_nothing) {
    static const char *const names[] = {"18446744073709551615.wal", "18446744073709551615.tbl",
                                        "18446744073709551000.wal", "18446744073709551000.tbl"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct room room;
        struct pleat_db *db = NULL;
        room_begin(&room);
        room_open(&room);
        (void)room_put(&room, room.space, "k", "v");
        room_close(&room);
        write_file(room.path, names[i], "");
        uint64_t before = room_digest(room.path);
        REFUSED(PLEAT_ERR_CORRUPT, names[i], pleat_open(room.path, &room.options, &db, &room.err));
        cr_assert_eq(room_digest(room.path), before);
        room_end(&room);
    }
}

/* Appends a frame with one field to the MANIFEST of a closed store. */
static void append_field(const struct room *room, uint8_t tag, const uint64_t *values, size_t count) {
    char name[300];
    static uint8_t bytes[65536];
    uint8_t content[64], *end = content;
    (void)snprintf(name, sizeof name, "%s/MANIFEST", room->path);
    FILE *file = fopen(name, "r+");
    cr_assert_not_null(file);
    size_t size = fread(bytes, 1, sizeof bytes - 128, file), at = 56; /* manifest.h */
    uint64_t seed = hash_mix(load_u64(bytes + 48), load_u64(bytes + 40));
    uint32_t index = 0;
    for (; at < size; index++) {
        at += 16 + load_u32(bytes + at);
    }
    for (size_t i = 0; i < count; i++) {
        end = varint_encode(end, values[i]);
    }
    size_t content_bytes = (size_t)(end - content), payload_bytes = content_bytes + 2;
    uint8_t *payload = bytes + at + 16;
    payload[0] = tag;
    payload[1] = (uint8_t)content_bytes;
    memcpy(payload + 2, content, content_bytes);
    store_u32(bytes + at, (uint32_t)payload_bytes);
    store_u32(bytes + at + 4, index);
    store_u64(bytes + at + 8, hash_bytes(payload, payload_bytes, hash_mix(hash_mix(seed, index), payload_bytes)));
    rewind(file);
    cr_assert_eq(fwrite(bytes, 1, at + 16 + payload_bytes, file), at + 16 + payload_bytes);
    (void)fclose(file);
}

Test(open, of_a_manifest_with_the_last_numbers_is_damage_and_changes_nothing) {
    const struct {
        uint8_t tag; /* edit_codec.h */
        size_t count;
        uint64_t values[3];
        const char *text;
    } rows[] = {{2, 1, {UINT64_MAX}, "bound of file numbers"},
                {6, 3, {UINT64_MAX - 1, 100, 0}, "last sequence"},
                {6, 3, {UINT64_MAX - 1, UINT64_MAX, 0}, "last sequence"},
                {6, 3, {100, UINT64_MAX, 0}, "log floor"},
                {10, 2, {UINT64_MAX, 0}, "history"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct room room;
        struct pleat_db *db = NULL;
        room_begin(&room);
        room_open(&room);
        (void)room_put(&room, room.space, "k", "v");
        room_close(&room);
        append_field(&room, rows[i].tag, rows[i].values, rows[i].count);
        uint64_t before = room_digest(room.path);
        REFUSED(PLEAT_ERR_CORRUPT, rows[i].text, pleat_open(room.path, &room.options, &db, &room.err));
        room.options.read_only = true;
        REFUSED(PLEAT_ERR_CORRUPT, rows[i].text, pleat_open(room.path, &room.options, &db, &room.err));
        cr_assert_eq(room_digest(room.path), before);
        room_end(&room);
    }
}

/* The same for the number of the file itself: the next replacement would begin again at 0, below what is noted. */
Test(open, of_a_manifest_of_the_last_incarnation_is_damage_and_changes_nothing) {
    struct room room;
    struct pleat_db *db = NULL;
    static uint8_t bytes[65536];
    char name[300];
    room_begin(&room);
    room_open(&room);
    (void)room_put(&room, room.space, "k", "v");
    room_close(&room);
    (void)snprintf(name, sizeof name, "%s/MANIFEST", room.path);
    FILE *file = fopen(name, "r+");
    cr_assert_not_null(file);
    size_t size = fread(bytes, 1, sizeof bytes, file), at = 56; /* manifest.h */
    store_u64(bytes + 32, UINT64_MAX);
    store_u64(bytes + 48, hash_bytes(bytes, 48, 0));
    uint64_t seed = hash_mix(load_u64(bytes + 48), load_u64(bytes + 40));
    for (uint32_t index = 0; at + 16 <= size; index++) {
        uint32_t n = load_u32(bytes + at);
        store_u64(bytes + at + 8, hash_bytes(bytes + at + 16, n, hash_mix(hash_mix(seed, index), n)));
        at += 16 + n;
    }
    rewind(file);
    cr_assert_eq(fwrite(bytes, 1, size, file), size);
    (void)fclose(file);
    uint64_t before = room_digest(room.path);
    REFUSED(PLEAT_ERR_CORRUPT, "incarnation", pleat_open(room.path, &room.options, &db, &room.err));
    cr_assert_eq(room_digest(room.path), before);
    room_end(&room);
}

static void shell(const char *verb, const char *directory, const char *names, const char *to) {
    char command[1600];
    (void)snprintf(command, sizeof command, "%s '%s'/%s '%s'", verb, directory, names, to);
    cr_assert_eq(system(command), 0); /* NOLINT: a test's own paths */
}

/* LOCK knows, and when it is gone the header of a segment that is alive. A user who means it removes both. */
Test(open, of_an_older_manifest_put_back_is_damage_and_changes_nothing) {
    for (int read_only = 0; read_only < 2; read_only++) {
        struct room room, killed;
        struct pleat_db *db = NULL;
        char kept[sizeof room.path];
        room_begin(&room);
        room_open(&room);
        (void)room_put(&room, room.space, "k", "old");
        room_close(&room);
        room_copy(&room, "kept", kept, sizeof kept);
        room_open(&room);
        (void)room_put(&room, room.space, "k", "new");
        OK(pleat_sync(room.db, &room.err));
        killed = room;
        room_copy(&room, "killed", killed.path, sizeof killed.path);
        room_close(&room);
        shell("cp", kept, "MANIFEST", killed.path);
        killed.options.read_only = read_only != 0;
        uint64_t before = room_digest(killed.path);
        REFUSED(PLEAT_ERR_CORRUPT, "MANIFEST: damaged at offset 32: an older one than LOCK knows",
                pleat_open(killed.path, &killed.options, &db, &room.err));
        REFUSED(PLEAT_ERR_CORRUPT, "then remove LOCK", pleat_open(killed.path, &killed.options, &db, &room.err));
        cr_assert(!read_only || room_digest(killed.path) == before);
        shell("rm -f", killed.path, "LOCK", "none");
        REFUSED(PLEAT_ERR_CORRUPT, ".wal knows", pleat_open(killed.path, &killed.options, &db, &room.err));
        shell("rm -f", killed.path, "*.wal", "none");
        room_open(&killed);
        cr_assert(room_holds(killed.space, "k", "old"));
        room_close(&killed);
        room_end(&room);
    }
}

Test(open, of_an_older_log_put_back_is_damage_and_changes_nothing) {
    for (int read_only = 0; read_only < 2; read_only++) {
        struct room room, killed;
        struct pleat_db *db = NULL;
        char kept[sizeof room.path];
        room_begin(&room);
        room_open(&room);
        (void)room_put(&room, room.space, "k", "old");
        OK(pleat_sync(room.db, &room.err));
        room_copy(&room, "kept", kept, sizeof kept);
        (void)room_put(&room, room.space, "k", "new");
        OK(pleat_sync(room.db, &room.err));
        killed = room;
        room_copy(&room, "killed", killed.path, sizeof killed.path);
        room_close(&room);
        shell("cp", kept, "*.wal", killed.path);
        killed.options.read_only = read_only != 0;
        uint64_t before = room_digest(killed.path);
        REFUSED(PLEAT_ERR_CORRUPT, "as LOCK notes", pleat_open(killed.path, &killed.options, &db, &room.err));
        REFUSED(PLEAT_ERR_CORRUPT, "last durable and last readable sequence: expected 0x2, found 0x1",
                pleat_open(killed.path, &killed.options, &db, &room.err));
        cr_assert(!read_only || room_digest(killed.path) == before);
        shell("rm -f", killed.path, "*.wal", "none"); /* the same of one that is gone */
        REFUSED(PLEAT_ERR_CORRUPT, ".wal", pleat_open(killed.path, &killed.options, &db, &room.err));
        shell("cp", kept, "*.wal", killed.path);
        shell("rm -f", killed.path, "LOCK", "none"); /* on purpose */
        room_open(&killed);
        cr_assert(room_holds(killed.space, "k", "old"));
        room_close(&killed);
        room_end(&room);
    }
}

Test(open, goes_on_without_the_notes_when_lock_is_removed_under_it) {
    struct room room;
    room_begin(&room);
    room_open(&room);
    shell("rm -f", room.path, "LOCK", "none");
    (void)room_put(&room, room.space, "k", "v");
    OK(pleat_flush(room.db, &room.err));
    room_reopen(&room);
    cr_assert(room_holds(room.space, "k", "v"));
    room_end(&room);
}

/* What a crash leaves of an append is passed over; a frame that had been done is sealed, and no torn one. */
Test(open, of_a_manifest_with_a_torn_end_loses_no_content) {
    struct room room, killed;
    struct pleat_db *db = NULL;
    uint64_t before, history;
    room_begin(&room);
    room_open(&room);
    (void)room_put(&room, room.space, "k", "v");
    (void)room_set_cursor(&room, "", "c");
    OK(pleat_flush(room.db, &room.err));
    pleat_position_read(room.db, PLEAT_APPLIED, &before, NULL);
    for (int torn = 0; torn < 2; torn++) {
        killed = room;
        room_copy(&room, torn != 0 ? "torn" : "damaged", killed.path, sizeof killed.path);
        damage_manifest(&killed, torn != 0 ? -1 : -17); /* the seal, or the last byte of the flush in front of it */
        if (torn != 0) {
            room_open(&killed);
            cr_assert(room_holds(killed.space, "k", "v"));
            cr_assert_eq(room_sequence(&killed, PLEAT_APPLIED), 2);
            pleat_position_read(killed.db, PLEAT_APPLIED, &history, NULL);
            cr_assert_gt(history, before, "an end that is not known to be clean begins a new history");
            room_close(&killed);
        } else {
            REFUSED(PLEAT_ERR_CORRUPT, "MANIFEST", pleat_open(killed.path, &killed.options, &db, &room.err));
        }
    }
    room_close(&room);
    damage_manifest(&room, -1);
    REFUSED(PLEAT_ERR_CORRUPT, "MANIFEST", pleat_open(room.path, &room.options, &db, &room.err));
    room_end(&room);
}

Test(open, without_permission_is_denied) {
    struct room room;
    struct pleat_db *db = NULL;
    room_begin(&room);
    room_open(&room);
    room_close(&room);
    if (geteuid() == 0) { /* root may do everything: as somebody else, in a child */
        pid_t child = fork();
        if (child == 0) {
            int rc = chmod(room.parent, 0755) == 0 && seteuid(65534) == 0
                         ? pleat_open(room.path, &room.options, &db, NULL)
                         : PLEAT_OK;
            _exit(rc == PLEAT_ERR_DENIED ? 0 : 1);
        }
        int status = child_ended(child);
        cr_assert_eq(status, 0);
    } else {
        cr_assert_eq(chmod(room.path, 0), 0);
        REFUSED(PLEAT_ERR_DENIED, "", pleat_open(room.path, &room.options, &db, &room.err));
    }
    room_end(&room);
}

/* The text has 256 bytes: a long path must leave room for what is wrong with it. */
Test(open, of_a_long_path_says_what_is_wrong) {
    struct room room;
    struct pleat_db *db = NULL;
    char path[700], name[201];
    room_begin(&room);
    room.options.open_mode = PLEAT_MUST_EXIST;
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    (void)snprintf(path, sizeof path, "%s/%s/%s", room.parent, name, name);
    REFUSED(PLEAT_ERR_NOT_FOUND, "No such file", pleat_open(path, &room.options, &db, &room.err));
    room_end(&room);
}

Test(open, twice_is_refused_and_names_the_holder) {
    struct room room;
    struct pleat_db *db = NULL;
    char pid[32];
    room_begin(&room);
    room_open(&room);
    (void)snprintf(pid, sizeof pid, "%ld", (long)getpid());
    REFUSED(PLEAT_ERR_BUSY, pid, pleat_open(room.path, &room.options, &db, &room.err));
    room.options.read_only = true;
    REFUSED(PLEAT_ERR_BUSY, pid, pleat_open(room.path, &room.options, &db, &room.err));
    room.options.read_only = false;
    (void)room_put(&room, room.space, "k", "v");
    pid_t child = fork();
    if (child == 0) {
        struct pleat_error err = {0};
        int rc = pleat_open(room.path, &room.options, &db, &err);
        _exit(rc == PLEAT_ERR_BUSY && strstr(err.message, pid) != NULL ? 0 : 1);
    }
    int status = child_ended(child);
    cr_assert_eq(status, 0, "another process is told who holds it");
    room_close(&room);
    room_open(&room);
    room_end(&room);
}

/* K5. LOCK may be removed by whoever wants to help, and a copy of a store may have none. */
Test(open, is_refused_beside_another_one_without_the_lock_file) {
    struct room room;
    struct pleat_db *db = NULL, *second = NULL;
    char lock[300];
    room_begin(&room);
    room_open(&room);
    (void)room_put(&room, room.space, "k", "v");
    (void)snprintf(lock, sizeof lock, "%s/LOCK", room.path);
    cr_assert_eq(unlink(lock), 0);
    REFUSED(PLEAT_ERR_BUSY, "pid not known", pleat_open(room.path, &room.options, &db, &room.err));
    room.options.read_only = true;
    REFUSED(PLEAT_ERR_BUSY, "pid not known", pleat_open(room.path, &room.options, &db, &room.err));
    cr_assert_neq(access(lock, F_OK), 0, "what is refused makes no file");
    room_close(&room);
    (void)unlink(lock);
    OK(pleat_open(room.path, &room.options, &db, &room.err));
    OK(pleat_open(room.path, &room.options, &second, &room.err));
    cr_assert_neq(access(lock, F_OK), 0, "what only reads makes no file");
    OK(pleat_close(second, &room.err));
    room.options.read_only = false;
    REFUSED(PLEAT_ERR_BUSY, "", pleat_open(room.path, &room.options, &room.db, &room.err));
    OK(pleat_close(db, &room.err));
    room_open(&room);
    cr_assert(room_holds(room.space, "k", "v"));
    room_end(&room);
}

/* D3 of vfs_posix.c: what is written to a standard error that is closed must not reach a file of the store. */
Test(open, leaves_the_standard_descriptors_to_others) {
    struct room room;
    room_begin(&room);
    pid_t child = fork();
    if (child == 0) {
        (void)close(0);
        (void)close(1);
        (void)close(2);
        room_open(&room);
        (void)room_put(&room, room.space, "k", "v");
        bool is_free = pleat_flush(room.db, NULL) == 0;
        struct pleat_value value;
        is_free = is_free && pleat_get(room.space, NULL, TEXT("k"), &value, NULL) == 0;
        for (int fd = 0; fd <= 2; fd++) {
            is_free = is_free && fcntl(fd, F_GETFD) == -1;
        }
        _exit(is_free ? 0 : 1);
    }
    int status = child_ended(child);
    cr_assert_eq(status, 0);
    room_open(&room);
    cr_assert(room_holds(room.space, "k", "v"));
    room_end(&room);
}

/* The only free descriptor is a standard one, which no file of a store may have: what was made for it goes again. */
Test(open, a_file_that_gets_no_descriptor_leaves_nothing) {
    struct room room;
    room_begin(&room);
    pid_t child = fork();
    if (child == 0) {
        struct vfs_dir *dir;
        struct vfs_file *file;
        struct pleat_error err = {0};
        int rc = vfs_posix.dir_open(&vfs_posix, &mem_system, room.parent, VFS_DIR_EXISTING, 0, &dir, NULL);
        int highest = rc == 0 ? fcntl(1, F_DUPFD, 3) : -1; /* the lowest free one: all below are taken */
        struct rlimit few = {(rlim_t)highest + 1, (rlim_t)highest + 1};
        bool is_right = highest > 0 && setrlimit(RLIMIT_NOFILE, &few) == 0 && close(0) == 0;
        rc = vfs_posix.file_open(dir, "made", VFS_FILE_CREATE_NEW, 0600, &file, &err);
        is_right = is_right && rc == PLEAT_ERR_IO && err.os_errno == EMFILE;
        is_right = is_right && vfs_posix.dir_unlink(dir, "made", NULL) == PLEAT_ERR_NOT_FOUND;
        _exit(is_right ? 0 : 1);
    }
    int status = child_ended(child);
    cr_assert_eq(status, 0);
    room_end(&room);
}

Test(open, works_after_the_holder_was_killed) {
    struct room room;
    room_begin(&room);
    pid_t child = fork();
    if (child == 0) {
        room_open(&room);
        (void)room_put(&room, room.space, "k", "v");
        (void)kill(getpid(), SIGKILL);
    }
    int status = child_ended(child);
    cr_assert(WIFSIGNALED(status));
    room_open(&room);
    cr_assert(room_holds(room.space, "k", "v"), "a killed process loses no commit that returned");
    room_end(&room);
}

/* ---- forks ------------------------------------------------------------------------------------------------------ */

/* Every call that the child makes must be refused; the number of the first that is not, or 0. */
static int child_calls(struct room *room, struct pleat_batch *batch) {
    struct pleat_value value;
    struct pleat_iter *iter;
    struct pleat_snapshot *snapshot;
    struct pleat_cursor_value cursor;
    struct pleat_space *space;
    struct pleat_check check;
    const int answers[] = {
        pleat_commit(room->db, batch, NULL, NULL, NULL),
        pleat_get(room->space, NULL, TEXT("k"), &value, NULL),
        pleat_iter_new(room->space, NULL, &iter, NULL),
        pleat_snapshot_new(room->db, &snapshot, NULL),
        pleat_cursor_read(room->db, NONE, PLEAT_APPLIED, &cursor, NULL),
        pleat_sync(room->db, NULL),
        pleat_wait_durable(room->db, 0, 0, NULL),
        pleat_flush(room->db, NULL),
        pleat_settle(room->db, NULL, NULL, NULL),
        pleat_compact(room->space, NULL, NULL, NULL),
        pleat_space_open(room->db, TEXT("new"), NULL, &space, NULL),
        pleat_space_clear(room->space, NULL),
        pleat_check(room->db, &check, NULL),
    };
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        if (answers[i] != PLEAT_ERR_FORKED) {
            return (int)i + 1;
        }
    }
    return 0;
}

Test(fork, child_is_refused_everything_and_leaves_the_parents_store_alone) {
    for (int mode = 0; mode < 2; mode++) {
        struct room room;
        struct pleat_batch *batch;
        room_begin(&room);
        room.options.background = mode == 0 ? PLEAT_BACKGROUND_STEPS : PLEAT_BACKGROUND_THREADS;
        room_open(&room);
        (void)room_put(&room, room.space, "k", "v");
        OK(pleat_batch_new(room.db, &batch, &room.err));
        OK(pleat_batch_put(batch, room.space, TEXT("k"), TEXT("child"), &room.err));
        pid_t child = fork();
        if (child == 0) {
            (void)alarm(20); /* a call that waits for a thread of the parent waits for ever */
            _exit(child_calls(&room, batch));
        }
        int status = child_ended(child);
        cr_assert_eq(status, 0, "call %d of the child was let through (signal %d)", WEXITSTATUS(status),
                     WTERMSIG(status));
        OK(pleat_commit(room.db, batch, NULL, NULL, &room.err));
        pleat_batch_free(batch);
        room_reopen(&room);
        cr_assert(room_holds(room.space, "k", "child"));
        room_end(&room);
    }
}

Test(fork, close_in_the_child_returns_and_keeps_the_parents_lock) {
    for (int mode = 0; mode < 2; mode++) {
        struct room room;
        struct pleat_db *db = NULL;
        room_begin(&room);
        room.options.background = mode == 0 ? PLEAT_BACKGROUND_STEPS : PLEAT_BACKGROUND_THREADS;
        room_open(&room);
        (void)room_put(&room, room.space, "k", "v");
        pid_t child = fork();
        if (child == 0) {
            (void)alarm(10);
            int rc = pleat_close(room.db, NULL);
            _exit(rc == 0 || rc == PLEAT_ERR_FORKED ? 0 : 1);
        }
        int status = child_ended(child);
        cr_assert_eq(status, 0, "close in the child, mode %d: status %x", mode, (unsigned)status);
        REFUSED(PLEAT_ERR_BUSY, "", pleat_open(room.path, &room.options, &db, &room.err));
        (void)room_put(&room, room.space, "k", "w");
        room_reopen(&room);
        cr_assert(room_holds(room.space, "k", "w"));
        room_end(&room);
    }
}

static size_t count_tables(const char *path) {
    size_t count = 0;
    DIR *dir = opendir(path);
    for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir)) {
        size_t length = strlen(entry->d_name);
        count += length > 4 && strcmp(entry->d_name + length - 4, ".tbl") == 0;
    }
    (void)closedir(dir);
    return count;
}

/* What the parent's iterator reads is the child's to let go of in its own memory, and not on the disk. */
Test(fork, an_iterator_freed_in_the_child_removes_no_file) {
    for (int mode = 0; mode < 2; mode++) {
        struct room room;
        struct pleat_iter *iter;
        room_begin(&room);
        room.options.background = mode == 0 ? PLEAT_BACKGROUND_STEPS : PLEAT_BACKGROUND_THREADS;
        room_open(&room);
        (void)room_put(&room, room.space, "k", "v");
        OK(pleat_flush(room.db, &room.err));
        OK(pleat_iter_new(room.space, NULL, &iter, &room.err));
        (void)room_put(&room, room.space, "k", "w");
        OK(pleat_compact(room.space, NULL, NULL, &room.err));
        cr_assert_eq(count_tables(room.path), 2, "the old one, which the iterator reads, and the new one");
        pid_t child = fork();
        if (child == 0) {
            (void)alarm(10);
            pleat_iter_free(iter);
            _exit(0);
        }
        int status = child_ended(child);
        cr_assert_eq(status, 0);
        cr_assert_eq(count_tables(room.path), 2);
        OK(pleat_iter_first(iter, &room.err));
        cr_assert_eq(memcmp(pleat_iter_value(iter).data, "v", 1), 0);
        pleat_iter_free(iter);
        OK(pleat_settle(room.db, NULL, NULL, &room.err));
        cr_assert_eq(count_tables(room.path), 1);
        room_end(&room);
    }
}

/* ---- read-only -------------------------------------------------------------------------------------------------- */

static void refuse_writes(struct room *room_given) {
    struct room room = *room_given;
    struct pleat_batch *batch;
    struct pleat_space *space;
    uint64_t before = room_sequence(&room, PLEAT_APPLIED);
    OK(pleat_batch_new(room.db, &batch, &room.err));
    OK(pleat_batch_put(batch, room.space, TEXT("k"), TEXT("other"), &room.err));
    REFUSED(PLEAT_ERR_READ_ONLY, "read-only", pleat_commit(room.db, batch, NULL, NULL, &room.err));
    pleat_batch_free(batch);
    REFUSED(PLEAT_ERR_READ_ONLY, "read-only", pleat_space_open(room.db, TEXT("new"), NULL, &space, &room.err));
    REFUSED(PLEAT_ERR_READ_ONLY, "read-only", pleat_space_clear(room.space, &room.err));
    REFUSED(PLEAT_ERR_READ_ONLY, "read-only", pleat_sync(room.db, &room.err));
    REFUSED(PLEAT_ERR_READ_ONLY, "read-only", pleat_flush(room.db, &room.err));
    REFUSED(PLEAT_ERR_READ_ONLY, "read-only", pleat_settle(room.db, NULL, NULL, &room.err));
    REFUSED(PLEAT_ERR_READ_ONLY, "read-only", pleat_compact(room.space, NULL, NULL, &room.err));
    cr_assert_eq(room_sequence(&room, PLEAT_APPLIED), before);
    cr_assert_eq(pleat_health(room.db, &room.err), 0, "opened read-only is no failure");
}

Test(read_only, open_changes_no_byte_and_refuses_writes) {
    for (int mode = 0; mode < 2; mode++) {
        struct room room;
        struct pleat_snapshot *snapshot;
        struct pleat_check check;
        room_begin(&room);
        room_open(&room);
        (void)room_put(&room, room.space, "k", "v");
        room_close(&room);
        uint64_t before = room_digest(room.path);
        cr_assert_eq(chmod(room.path, 0555), 0);
        room.options.read_only = true;
        room.options.background = mode == 0 ? PLEAT_BACKGROUND_STEPS : PLEAT_BACKGROUND_THREADS;
        room_open(&room);
        cr_assert(room_holds(room.space, "k", "v"));
        cr_assert_eq(room_sequence(&room, PLEAT_DURABLE), 1);
        OK(pleat_snapshot_new(room.db, &snapshot, &room.err));
        cr_assert(room_holds_at(room.space, snapshot, "k", "v"));
        pleat_snapshot_free(snapshot);
        OK(pleat_check(room.db, &check, &room.err));
        refuse_writes(&room);
        struct room second = room; /* any number of readers */
        room_open(&second);
        room_close(&second);
        room_close(&room);
        cr_assert_eq(room_digest(room.path), before);
        cr_assert_eq(chmod(room.path, 0755), 0);
        room_end(&room);
    }
}

Test(read_only, open_of_an_unclean_store_sees_the_logs_commits_without_writing) {
    struct room room;
    struct room killed;
    room_begin(&room);
    room_open(&room);
    (void)room_put(&room, room.space, "flushed", "1");
    OK(pleat_flush(room.db, &room.err));
    (void)room_put(&room, room.space, "logged", "2");
    (void)room_set_cursor(&room, "", "c");
    killed = room;
    room_copy(&room, "killed", killed.path, sizeof killed.path);
    room_close(&room);
    uint64_t before = room_digest(killed.path);
    cr_assert_eq(chmod(killed.path, 0555), 0);
    killed.options.read_only = true;
    killed.options.durability = PLEAT_SYNC_INTERVAL;
    killed.options.sync_interval_ms = 1;
    killed.options.background = PLEAT_BACKGROUND_THREADS;
    for (int round = 0; round < 2; round++) {
        struct pleat_cursor_value cursor;
        room_open(&killed);
        thread_sleep_ns(50000000); /* no time makes durable what only reads */
        cr_assert(room_holds(killed.space, "flushed", "1"));
        cr_assert(room_holds(killed.space, "logged", "2"));
        cr_assert_eq(pleat_cursor_read(killed.db, NONE, PLEAT_APPLIED, &cursor, &room.err), 0);
        cr_assert_eq(room_sequence(&killed, PLEAT_APPLIED), 3);
        cr_assert_eq(room_sequence(&killed, PLEAT_DURABLE), 1, "only what the manifest says is known to be durable");
        cr_assert_eq(pleat_cursor_read(killed.db, NONE, PLEAT_DURABLE, &cursor, &room.err), PLEAT_ABSENT);
        refuse_writes(&killed);
        room_close(&killed);
        cr_assert_eq(room_digest(killed.path), before);
    }
    cr_assert_eq(chmod(killed.path, 0755), 0);
    killed.options.read_only = false;
    room_open(&killed);
    cr_assert(room_holds(killed.space, "logged", "2"));
    OK(pleat_sync(killed.db, &room.err));
    cr_assert_eq(room_sequence(&killed, PLEAT_DURABLE), 3);
    room_close(&killed);
    room_end(&room);
}

Test(read_only, open_of_nothing_makes_nothing) {
    struct room room;
    struct pleat_db *db = NULL;
    room_begin(&room);
    room.options.read_only = true;
    REFUSED(PLEAT_ERR_NOT_FOUND, "", pleat_open(room.path, &room.options, &db, &room.err));
    cr_assert_neq(access(room.path, F_OK), 0);
    cr_assert_eq(mkdir(room.path, 0700), 0);
    REFUSED(PLEAT_ERR_NOT_FOUND, "", pleat_open(room.path, &room.options, &db, &room.err));
    cr_assert_eq(rmdir(room.path), 0, "it is still empty");
    room_end(&room);
}
