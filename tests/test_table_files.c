/*
 * test_table_files.c - the bounded set of open table files: what is opened again reads the same, nothing that is being
 * read is closed, and a process without descriptors makes do with fewer.
 */
#include "sstable/table_files.h"

#include "platform/thread.h"
#include "sstable/table_internal.h"
#include "support/table_room.h"

#define TABLES 8
#define NUMBER_FIRST 20

/* ---- a disk that counts its descriptors ------------------------------------------------------------------------- */

static struct {
    _Atomic int open;  /* now */
    _Atomic int most;  /* at once */
    _Atomic int limit; /* 0: none */
    _Atomic int refused;
    int os_errno;
} descriptors;

static int counted_open(struct vfs_dir *dir, const char *name, enum vfs_file_mode how, uint32_t mode,
                        struct vfs_file **ret_file, struct pleat_error *err) {
    int now = atomic_fetch_add(&descriptors.open, 1) + 1, limit = atomic_load(&descriptors.limit);
    int rc = 0;
    if (limit > 0 && now > limit) {
        atomic_fetch_add(&descriptors.refused, 1);
        rc = error_system(err, descriptors.os_errno, "open", name);
    } else {
        rc = fault.fail_at > 0 ? fault_open(dir, name, how, mode, ret_file, err)
                               : vfs_posix.file_open(dir, name, how, mode, ret_file, err);
    }
    if (rc < 0) {
        atomic_fetch_sub(&descriptors.open, 1);
        return rc;
    }
    for (int most = atomic_load(&descriptors.most);
         now > most && !atomic_compare_exchange_strong(&descriptors.most, &most, now);) {
    }
    return 0;
}

static void counted_close(struct vfs_file *file) {
    atomic_fetch_sub(&descriptors.open, 1);
    vfs_posix.file_close(file);
}

/* Eight tables of their own rows, open, in a set of `most` files. */
struct shelf {
    struct room room;
    struct rows rows[TABLES];
    struct table_meta metas[TABLES];
    struct table *tables[TABLES];
};

static void shelf_open(struct shelf *shelf, uint32_t most) {
    memset(&descriptors, 0, sizeof descriptors);
    room_open(&shelf->room, &mem_system);
    shelf->room.vfs.file_open = counted_open;
    shelf->room.vfs.file_close = counted_close;
    shelf->room.files.most = shelf->room.files.wanted = most;
    for (unsigned i = 0; i < TABLES; i++) {
        struct random random = {i + 1};
        struct table_builder_options options = options_small();
        options.number = NUMBER_FIRST + i;
        shelf->rows[i] = rows_random(&random, 60);
        shelf->metas[i] = build(&shelf->room, &shelf->rows[i], &options);
    }
    cr_assert_eq(atomic_load(&descriptors.open), 0, "a builder left its file open");
    for (unsigned i = 0; i < TABLES; i++) {
        shelf->tables[i] = open_table(&shelf->room, &shelf->metas[i]);
    }
}

static void shelf_close(struct shelf *shelf) {
    for (unsigned i = 0; i < TABLES; i++) {
        table_close(shelf->tables[i]);
        table_meta_fini(&mem_system, &shelf->metas[i]);
        rows_free(&shelf->rows[i]);
    }
    cr_assert_eq(atomic_load(&descriptors.open), 0, "%d files are left open", atomic_load(&descriptors.open));
    room_close(&shelf->room);
}

static int handles(void) {
    return atomic_load(&descriptors.open);
}

static uint64_t opens(struct shelf *shelf) {
    return atomic_load(&shelf->room.files.opens);
}

/* The footer of a table, which names its number and its store: 0 when it is the right one, or the error. */
static int footer_read(struct table *table, unsigned i, struct pleat_error *err) {
    uint8_t bytes[TABLE_FOOTER_BYTES];
    int rc = table_read(table, table->meta.file_bytes - sizeof bytes, bytes, sizeof bytes, err);
    cr_assert(rc != 0 || load_u64(bytes + TABLE_FOOTER_CHECKSUM) == table->footer.checksum, "of another file than %u",
              i);
    return rc;
}

/* ---- the bound -------------------------------------------------------------------------------------------------- */

Test(table_files, many_tables_are_read_through_few_files) {
    for (uint32_t most = 1; most <= TABLES + 1; most++) {
        struct shelf shelf;
        shelf_open(&shelf, most);
        uint64_t first = opens(&shelf);
        cr_assert_eq(first, TABLES, "%llu opens", (unsigned long long)first);
        for (unsigned round = 0; round < 3; round++) {
            for (unsigned i = 0; i < TABLES; i++) {
                const struct rows *rows = &shelf.rows[i];
                for (size_t j = 0; j < rows->count; j += 7) {
                    const struct entry *entry = &rows->data[j].entry;
                    cr_assert_eq(get_checked(&shelf.room, shelf.tables[i], rows, entry->key, entry->key_bytes), 0);
                }
                struct source *source = new_source(shelf.tables[i], &(struct source_bounds){0});
                check_walks(source, rows, 0, rows->count);
                source->ops->free(source);
                cr_assert_eq(footer_read(shelf.tables[i], i, NULL), 0);
                cr_assert_leq(handles(), (int)most);
                cr_assert_eq(table_files_count(&shelf.room.files), (uint32_t)handles());
            }
        }
        /* Whoever goes round more files than there is room for opens one each time, and nobody else any. */
        uint64_t again = opens(&shelf) - first;
        cr_assert(most >= TABLES ? again == 0 : again >= 2 * TABLES && again <= 3 * TABLES,
                  "%llu opens again with %u files", (unsigned long long)again, most);
        cr_assert_eq(atomic_load(&descriptors.most), (int)(most < TABLES ? most : TABLES));
        shelf_close(&shelf);
    }
}

/* TF1, TF2. */
Test(table_files, what_is_pinned_stays_open_beyond_the_bound) {
    struct shelf shelf;
    shelf_open(&shelf, 2);
    struct vfs_file *files[5];
    for (unsigned i = 0; i < 5; i++) {
        cr_assert_eq(table_file_pin(shelf.tables[i]->file, NULL), 0);
        files[i] = shelf.tables[i]->file->file;
    }
    cr_assert_eq(handles(), 5);
    for (unsigned i = 5; i < TABLES; i++) {
        cr_assert_eq(footer_read(shelf.tables[i], i, NULL), 0);
        cr_assert_eq(handles(), 5, "%d: one too many is closed behind its read", handles());
    }
    for (unsigned i = 0; i < 5; i++) {
        cr_assert_eq(shelf.tables[i]->file->file, files[i], "%u was opened again under its pin", i);
        cr_assert_eq(footer_read(shelf.tables[i], i, NULL), 0);
        table_file_unpin(shelf.tables[i]->file);
    }
    cr_assert_eq(handles(), 2, "%d are open when nobody has any pinned", handles());
    cr_assert_eq(footer_read(shelf.tables[5], 5, NULL), 0);
    cr_assert_eq(footer_read(shelf.tables[6], 6, NULL), 0);
    cr_assert_eq(handles(), 2);
    shelf_close(&shelf);
}

Test(table_files, a_file_in_use_is_not_the_one_that_goes) {
    struct shelf shelf;
    shelf_open(&shelf, 3);
    cr_assert_eq(footer_read(shelf.tables[0], 0, NULL), 0); /* opened, and ... */
    cr_assert_eq(footer_read(shelf.tables[0], 0, NULL), 0); /* ... used */
    uint64_t before = opens(&shelf);
    unsigned others = 0;
    for (unsigned round = 0; round < 10; round++) {
        for (unsigned i = 1; i < TABLES; i++, others++) {
            cr_assert_eq(footer_read(shelf.tables[i], i, NULL), 0);
            cr_assert_eq(footer_read(shelf.tables[0], 0, NULL), 0);
        }
    }
    cr_assert_leq(opens(&shelf) - before, others, "the file read between all others was closed");
    shelf_close(&shelf);
}

/* ---- what can go wrong ------------------------------------------------------------------------------------------ */

/* TF4: of the process (EMFILE) and of the system (ENFILE). */
Test(table_files, without_descriptors_others_are_closed) {
    static const int reasons[] = {EMFILE, ENFILE};
    for (unsigned reason = 0; reason < 2; reason++) {
        struct shelf shelf;
        shelf_open(&shelf, 100);
        cr_assert_eq(handles(), TABLES);
        descriptors.os_errno = reasons[reason];
        atomic_store(&descriptors.limit, 3);
        struct rows rows = rows_random(&(struct random){99}, 50);
        struct table_builder_options options = options_small();
        options.number = NUMBER_FIRST + TABLES;
        struct table_meta meta;
        error_clear(&shelf.room.error);
        cr_assert_eq(build_quietly(&shelf.room, &rows, &options, &meta), 0, "%s", shelf.room.error.message);
        cr_assert_eq(shelf.room.error.code, 0);
        for (unsigned i = 0; i < TABLES; i++) {
            struct pleat_error err = {0};
            cr_assert_eq(footer_read(shelf.tables[i], i, &err), 0, "%s", err.message);
            cr_assert_eq(err.code, 0, "the refusal that was dealt with is left in the error");
            cr_assert_leq(handles(), 3);
        }
        cr_assert_gt(atomic_load(&descriptors.refused), 0);
        /* None of ours is left to give: the error says so, and the next read works. */
        for (unsigned i = 0; i < 3; i++) {
            cr_assert_eq(table_file_pin(shelf.tables[i]->file, NULL), 0);
        }
        struct pleat_error err = {0};
        cr_assert_eq(footer_read(shelf.tables[5], 5, &err), PLEAT_ERR_IO);
        cr_assert_eq(err.os_errno, reasons[reason]);
        cr_assert(strstr(err.message, "25.tbl") != NULL, "%s", err.message);
        cr_assert_eq(footer_read(shelf.tables[5], 5, NULL), PLEAT_ERR_IO);
        for (unsigned i = 0; i < 3; i++) {
            table_file_unpin(shelf.tables[i]->file);
        }
        cr_assert_eq(footer_read(shelf.tables[5], 5, NULL), 0);
        atomic_store(&descriptors.limit, 0);
        table_meta_fini(&mem_system, &meta);
        rows_free(&rows);
        shelf_close(&shelf);
    }
}

/* Any other refusal is the reader's to know, and closes nothing. */
Test(table_files, a_refused_open_closes_nothing_else) {
    struct shelf shelf;
    shelf_open(&shelf, 4);
    for (unsigned i = 0; i < TABLES; i++) {
        cr_assert_eq(footer_read(shelf.tables[i], i, NULL), 0);
    }
    fault.calls = 0;
    fault.fail_at = 1;
    cr_assert_eq(footer_read(shelf.tables[0], 0, NULL), PLEAT_ERR_IO);
    cr_assert_eq(handles(), 3, "%d of 3: room was made for one that did not come", handles());
    cr_assert_eq(table_files_count(&shelf.room.files), 3);
    cr_assert_eq(footer_read(shelf.tables[0], 0, NULL), 0);
    fault.fail_at = 0;
    shelf_close(&shelf);
}

/* Somebody else has them all, and none of ours is open: that is no reason to keep fewer. */
Test(table_files, a_refusal_with_none_open_changes_nothing) {
    struct shelf shelf;
    shelf_open(&shelf, 6);
    for (unsigned i = 0; i < TABLES; i++) {
        table_close(shelf.tables[i]);
        shelf.tables[i] = NULL;
    }
    struct pleat_error failure = {.code = PLEAT_ERR_IO, .os_errno = EMFILE};
    cr_assert(!table_files_give(&shelf.room.store, &failure));
    for (unsigned i = 0; i < TABLES; i++) {
        shelf.tables[i] = open_table(&shelf.room, &shelf.metas[i]);
    }
    cr_assert_eq(handles(), 6, "%d", handles());
    shelf_close(&shelf);
}

/* The process gets descriptors back: more are kept again, one by one. */
Test(table_files, what_was_given_up_is_kept_again_in_time) {
    struct shelf shelf;
    shelf_open(&shelf, 6);
    descriptors.os_errno = EMFILE;
    atomic_store(&descriptors.limit, 6);
    for (unsigned i = 0; i < TABLES; i++) {
        cr_assert_eq(table_file_pin(shelf.tables[i % 6]->file, NULL), 0);
        table_file_unpin(shelf.tables[i % 6]->file);
    }
    shelf.room.files.most = 7; /* one more than there are descriptors */
    for (unsigned i = 0; i < TABLES; i++) {
        cr_assert_eq(footer_read(shelf.tables[i], i, NULL), 0);
    }
    cr_assert_leq(handles(), 3, "%d: nothing was left to others", handles());
    atomic_store(&descriptors.limit, 0);
    for (unsigned n = 0; n < 64 * 8; n++) {
        cr_assert_eq(footer_read(shelf.tables[n % TABLES], n % TABLES, NULL), 0);
    }
    cr_assert_eq(handles(), 6, "%d", handles());
    shelf_close(&shelf);
}

static struct shelf *raced_shelf;
static bool is_raced;
static struct thread racer;

static void *race(void *context) {
    return footer_read(raced_shelf->tables[0], 0, NULL) == 0 ? context : NULL;
}

static int raced_open(struct vfs_dir *dir, const char *name, enum vfs_file_mode how, uint32_t mode,
                      struct vfs_file **ret_file, struct pleat_error *err) {
    if (!is_raced) {
        is_raced = true;
        cr_assert_eq(thread_start(&racer, "racer", race, NULL), 0);
        thread_sleep_ns(2000000);
    }
    return counted_open(dir, name, how, mode, ret_file, err);
}

/* TF5: a second reader of a closed file does not open it, and closes nobody else's. */
Test(table_files, one_thread_opens_a_file_that_others_wait_for) {
    struct shelf shelf;
    shelf_open(&shelf, 3);
    for (unsigned i = 5; i < TABLES; i++) {
        cr_assert_eq(footer_read(shelf.tables[i], i, NULL), 0);
    }
    raced_shelf = &shelf;
    is_raced = false;
    shelf.room.vfs.file_open = raced_open;
    uint64_t before = opens(&shelf);
    cr_assert_eq(footer_read(shelf.tables[0], 0, NULL), 0);
    thread_join(&racer);
    cr_assert_eq(opens(&shelf) - before, 1);
    cr_assert_eq(handles(), 3, "%d", handles());
    cr_assert_eq(atomic_load(&descriptors.most), 3);
    shelf_close(&shelf);
}

/* TF3: nobody renames the files of a store under it; if somebody does, that is damage or a missing file, no data. */
Test(table_files, another_file_in_its_place_is_damage) {
    struct shelf shelf;
    shelf_open(&shelf, 1);
    char names[2][TABLE_NAME_BYTES];
    table_name(NUMBER_FIRST, names[0]);
    table_name(NUMBER_FIRST + 1, names[1]);
    struct pleat_error err = {0};
    cr_assert_eq(vfs_posix.dir_rename(shelf.room.store.dir, names[0], names[1], NULL), 0);
    const struct entry *entry = &shelf.rows[1].data[0].entry;
    cr_assert_eq(get_checked(&shelf.room, shelf.tables[1], &shelf.rows[1], entry->key, entry->key_bytes),
                 PLEAT_ERR_CORRUPT);
    cr_assert_eq(footer_read(shelf.tables[2], 2, NULL), 0);
    cr_assert_eq(footer_read(shelf.tables[0], 0, &err), PLEAT_ERR_CORRUPT);
    cr_assert(strstr(err.message, names[0]) != NULL && strstr(err.message, "missing") != NULL, "%s", err.message);
    shelf_close(&shelf);
}

/* ---- side by side ----------------------------------------------------------------------------------------------- */

#define READERS 4
#define READS 4000

struct reader {
    struct shelf *shelf;
    struct random random;
    unsigned wrong;
};

static void *reader_run(void *context) {
    struct reader *reader = context;
    for (unsigned n = 0; n < READS; n++) {
        unsigned i = (unsigned)random_below(&reader->random, TABLES);
        struct table *table = reader->shelf->tables[i];
        uint8_t bytes[TABLE_FOOTER_BYTES];
        reader->wrong += table_read(table, table->meta.file_bytes - sizeof bytes, bytes, sizeof bytes, NULL) != 0 ||
                         load_u64(bytes + TABLE_FOOTER_CHECKSUM) != table->footer.checksum;
    }
    return NULL;
}

/* READERS threads, each of which reads whole and right whatever it asks for. */
static void readers_run(struct shelf *shelf, uint64_t seed) {
    struct reader readers[READERS];
    struct thread threads[READERS];
    shelf->room.vfs.file_read = vfs_posix.file_read; /* without the count of calls, which is one thread's */
    for (unsigned i = 0; i < READERS; i++) {
        readers[i] = (struct reader){.shelf = shelf, .random = {i + seed}};
        cr_assert_eq(thread_start(&threads[i], "reader", reader_run, &readers[i]), 0);
    }
    for (unsigned i = 0; i < READERS; i++) {
        thread_join(&threads[i]);
        cr_expect_eq(readers[i].wrong, 0, "%u wrong or refused reads of reader %u", readers[i].wrong, i);
    }
}

Test(table_files, readers_side_by_side_share_few) {
    for (uint32_t most = 1; most <= 5; most += 2) {
        struct shelf shelf;
        shelf_open(&shelf, most);
        readers_run(&shelf, 100);
        cr_assert_leq(atomic_load(&descriptors.most), (int)(most > READERS ? most : READERS) + READERS);
        cr_assert_leq(handles(), (int)(most > READERS ? most : READERS));
        cr_assert_gt(opens(&shelf), TABLES + 100);
        cr_assert_eq(table_files_count(&shelf.room.files), (uint32_t)handles());
        shelf_close(&shelf);
    }
}

/* TF4: half as many descriptors as readers, and no read is refused. */
Test(table_files, readers_wait_for_each_others_descriptors) {
    struct shelf shelf;
    shelf_open(&shelf, 1);
    shelf.room.files.most = shelf.room.files.wanted = 100;
    descriptors.os_errno = EMFILE;
    atomic_store(&descriptors.limit, READERS / 2);
    readers_run(&shelf, 200);
    cr_assert_gt(atomic_load(&descriptors.refused), 0);
    cr_assert_leq(handles(), READERS / 2);
    shelf_close(&shelf);
}
