/* test_wal.c - log segments written and read again, and failing memory and disks below them. */
#include "support/wal_disk.h"

/* ---- writing and reading ---------------------------------------------------------------------------------------- */

Test(wal_segment, format_does_not_change) {
    struct wal_disk disk;
    wal_disk_init(&disk, 4096);
    struct wal_tail tail = sample_segment(&disk, 3, 4096, 8, 40, 2);
    cr_assert_eq(memcmp(disk.bytes, "PLEATWAL\1\0\0\0\xa0\0\0\0store number one\3\0\0\0\0\0\0\0", 40), 0);
    cr_assert_eq(hash_bytes(disk.bytes, 4096, 0), 0x690eb0b96d7fab7dull,
                 "files of earlier versions could not be read: found 0x%llx",
                 (unsigned long long)hash_bytes(disk.bytes, 4096, 0));
    cr_assert_eq(tail.running_hash, 0x28fd2c150cf79b9bull, "found 0x%llx", (unsigned long long)tail.running_hash);
    wal_disk_fini(&disk);
}

Test(wal_segment, records_fill_it_to_the_last_byte_and_no_further) {
    struct wal_disk disk;
    wal_disk_init(&disk, 4096);
    struct wal_record record;
    wal_record_init(&record, &mem_system);
    struct wal_writer_options options = sample_options(&disk, 1, WAL_HEADER_BYTES + 3 * WAL_RECORD_HEADER_BYTES + 7);
    struct wal_writer *writer;
    cr_assert_eq(wal_writer_create(&options, &writer, NULL), 0);
    for (uint64_t sequence = 1; sequence <= 3; sequence++) {
        cr_assert(wal_writer_fits(writer, wal_record_bytes(&record)));
        cr_assert_eq(wal_writer_append(writer, &record, sequence, 0, NULL), 0, "an empty record is a commit");
        wal_writer_prepare(writer, UINT64_MAX);
    }
    cr_assert_not(wal_writer_fits(writer, wal_record_bytes(&record)));
    cr_assert(wal_writer_fits(writer, 7));
    cr_assert_not(wal_writer_fits(writer, UINT64_MAX));
    cr_assert_eq(wal_writer_used(writer), WAL_HEADER_BYTES + 3 * WAL_RECORD_HEADER_BYTES);
    cr_assert_eq(wal_writer_number(writer), 1);
    wal_writer_close(writer);
    struct wal_reader *reader;
    struct wal_view view;
    cr_assert_eq(sample_open(&disk, 1, &reader, NULL), 0);
    for (uint64_t sequence = 1; sequence <= 3; sequence++) {
        cr_assert_eq(wal_reader_next(reader, 0, &view, NULL), 0);
        cr_assert(view.sequence == sequence && view.entry_count == 0 && view.cursor_count == 0);
    }
    cr_assert_eq(wal_reader_next(reader, 0, &view, NULL), PLEAT_END);
    cr_assert_eq(wal_reader_next(reader, UINT64_MAX, &view, NULL), PLEAT_END, "the end is for ever");
    struct wal_end end;
    cr_assert_eq(wal_reader_end(reader, &end, NULL), 0);
    cr_assert(!end.torn && !end.record_behind && end.durable_sequence == 0);
    wal_reader_close(reader);
    wal_record_fini(&record);
    wal_disk_fini(&disk);
}

Test(wal_segment, many_sizes_read_back_across_windows) {
    static const uint32_t scales[] = {1, 30, 3000, 700000};
    struct wal_disk disk;
    wal_disk_init(&disk, 40 << 20);
    for (size_t i = 0; i < sizeof scales / sizeof scales[0]; i++) {
        uint64_t count = scales[i] > 10000 ? 30 : 1500;
        struct wal_tail tail = sample_segment(&disk, 9, 40 << 20, count, scales[i], 1);
        struct wal_reader *reader;
        uint64_t read;
        cr_assert_eq(sample_open(&disk, 9, &reader, NULL), 0);
        cr_assert_eq(sample_read(reader, scales[i], &read, NULL), PLEAT_END);
        cr_assert_eq(read, count);
        struct wal_tail found = wal_reader_tail(reader);
        cr_assert(found.segment == tail.segment && found.last_sequence == tail.last_sequence &&
                  found.running_hash == tail.running_hash);
        struct wal_end end;
        cr_assert_eq(wal_reader_end(reader, &end, NULL), 0);
        cr_assert(!end.torn && !end.record_behind);
        cr_assert_eq(end.durable_sequence, count - 1);
        cr_assert_eq(end.tail.running_hash, tail.running_hash);
        wal_reader_close(reader);
    }
    wal_disk_fini(&disk);
}

/* A record of several windows behind a small one. */
Test(wal_segment, a_record_larger_than_the_window_reads_back) {
    struct wal_disk disk;
    wal_disk_init(&disk, 8 << 20);
    struct wal_writer_options options = sample_options(&disk, 1, 8 << 20);
    struct wal_writer *writer;
    cr_assert_eq(wal_writer_create(&options, &writer, NULL), 0);
    struct wal_record record;
    wal_record_init(&record, &mem_system);
    cr_assert_eq(wal_writer_append(writer, &record, 1, 0, NULL), 0);
    struct entry entry = {.key = (const uint8_t *)"big", .key_bytes = 3, .value_bytes = 5 << 20, .kind = ENTRY_PUT};
    void *room;
    cr_assert_eq(wal_record_add(&record, 1, &entry, &room, NULL), 0);
    memset(room, 0x5a, 5 << 20);
    cr_assert_eq(wal_writer_append(writer, &record, 2, 0, NULL), 0);
    wal_record_clear(&record);
    cr_assert_eq(wal_writer_append(writer, &record, 3, 0, NULL), 0);
    wal_writer_close(writer);
    wal_record_fini(&record);
    struct wal_reader *reader;
    struct wal_view view;
    cr_assert_eq(sample_open(&disk, 1, &reader, NULL), 0);
    cr_assert_eq(wal_reader_next(reader, 0, &view, NULL), 0);
    cr_assert_eq(wal_reader_next(reader, 0, &view, NULL), 0);
    uint32_t space;
    struct entry read;
    cr_assert_eq(wal_view_entry(&view, &space, &read), 0);
    cr_assert_eq(read.sequence, 2);
    cr_assert(read.value_bytes == 5 << 20 && read.value[0] == 0x5a && read.value[(5 << 20) - 1] == 0x5a);
    cr_assert_eq(wal_reader_next(reader, 0, &view, NULL), 0);
    cr_assert_eq(wal_reader_next(reader, 0, &view, NULL), PLEAT_END);
    wal_reader_close(reader);
    wal_disk_fini(&disk);
}

Test(wal_segment, three_segments_chain_by_sequence_and_running_hash) {
    enum { SEGMENTS = 3, EACH = 10 };
    struct wal_disk disks[SEGMENTS];
    struct wal_tail tail = {0};
    for (uint64_t i = 0; i < SEGMENTS; i++) {
        wal_disk_init(&disks[i], 16384);
        struct wal_writer_options options = sample_options(&disks[i], 5 + 2 * i, 16384);
        options.predecessor = tail;
        options.first_sequence = tail.last_sequence + 1;
        struct wal_writer *writer;
        cr_assert_eq(wal_writer_create(&options, &writer, NULL), 0);
        sample_append(writer, 1 + i * EACH, (i + 1) * EACH, 50, 1);
        tail = wal_writer_tail(writer);
        wal_writer_close(writer);
    }
    struct wal_tail read = {0};
    uint64_t hashes[SEGMENTS];
    for (uint64_t i = 0; i < SEGMENTS; i++) {
        struct wal_reader *reader;
        cr_assert_eq(sample_open(&disks[i], 5 + 2 * i, &reader, NULL), 0);
        const struct wal_header *header = wal_reader_header(reader);
        cr_assert_eq(header->segment, 5 + 2 * i);
        cr_assert_eq(header->first_sequence, 1 + i * EACH);
        cr_assert_eq(header->predecessor.segment, read.segment);
        cr_assert_eq(header->predecessor.last_sequence, read.last_sequence);
        cr_assert_eq(header->predecessor.running_hash, read.running_hash);
        struct wal_view view;
        int rc;
        uint64_t sequence = i * EACH;
        while ((rc = wal_reader_next(reader, 0, &view, NULL)) == 0) {
            sample_check(&view, ++sequence, 50);
        }
        cr_assert_eq(rc, PLEAT_END);
        struct wal_end end;
        cr_assert_eq(wal_reader_end(reader, &end, NULL), 0);
        read = end.tail;
        hashes[i] = read.running_hash;
        wal_reader_close(reader);
    }
    cr_assert_eq(read.running_hash, tail.running_hash);
    cr_assert(hashes[0] != hashes[1] && hashes[1] != hashes[2]);
    /* The same records behind another history end in another hash. */
    struct wal_writer_options options = sample_options(&disks[0], 9, 16384);
    options.predecessor = (struct wal_tail){7, 2 * EACH, hashes[1] ^ 1};
    options.first_sequence = 1 + 2 * EACH;
    struct wal_writer *writer;
    cr_assert_eq(wal_writer_create(&options, &writer, NULL), 0);
    sample_append(writer, 1 + 2 * EACH, 3 * EACH, 50, 1);
    cr_assert_neq(wal_writer_tail(writer).running_hash, tail.running_hash);
    wal_writer_close(writer);
    for (int i = 0; i < SEGMENTS; i++) {
        wal_disk_fini(&disks[i]);
    }
}

Test(wal_segment, sequences_may_jump_only_over_what_the_manifest_holds) {
    struct wal_disk disk;
    wal_disk_init(&disk, 16384);
    struct wal_writer_options options = sample_options(&disk, 1, 16384);
    options.first_sequence = 5;
    struct wal_writer *writer;
    cr_assert_eq(wal_writer_create(&options, &writer, NULL), 0);
    static const uint64_t sequences[] = {5, 6, 9, 10, 14};
    for (size_t i = 0; i < 5; i++) {
        sample_append(writer, sequences[i], sequences[i], 50, 1);
    }
    wal_writer_close(writer);
    /* {floor, records read}: 6 -> 9 needs a floor of 8, 10 -> 14 one of 13. */
    static const uint64_t cases[][2] = {{0, 2}, {5, 2}, {6, 2}, {7, 2}, {8, 4}, {9, 4}, {12, 4}, {13, 5}, {14, 5},
                                        {20, 5}, {UINT64_MAX, 5}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct wal_reader *reader;
        struct wal_view view;
        uint64_t read = 0;
        cr_assert_eq(sample_open(&disk, 1, &reader, NULL), 0);
        while (wal_reader_next(reader, cases[i][0], &view, NULL) == 0) {
            sample_check(&view, sequences[read++], 50);
        }
        cr_assert_eq(wal_reader_next(reader, UINT64_MAX, &view, NULL), PLEAT_END, "the end is for ever");
        cr_assert_eq(read, cases[i][1], "floor %llu", (unsigned long long)cases[i][0]);
        struct wal_end end;
        cr_assert_eq(wal_reader_end(reader, &end, NULL), 0);
        cr_assert_eq(end.record_behind, read < 5);
        cr_assert_eq(end.durable_sequence, 13);
        cr_assert_eq(end.tail.last_sequence, sequences[read - 1]);
        wal_reader_close(reader);
    }
    wal_disk_fini(&disk);
}

Test(wal_segment, a_first_record_other_than_the_headers_is_refused) {
    struct wal_disk disk;
    wal_disk_init(&disk, 4096);
    struct wal_writer_options options = sample_options(&disk, 1, 4096);
    options.first_sequence = 5;
    struct wal_writer *writer;
    cr_assert_eq(wal_writer_create(&options, &writer, NULL), 0);
    sample_append(writer, 7, 7, 50, 1);
    wal_writer_close(writer);
    struct wal_reader *reader;
    struct wal_view view;
    cr_assert_eq(sample_open(&disk, 1, &reader, NULL), 0);
    cr_assert_eq(wal_reader_next(reader, 5, &view, NULL), PLEAT_END);
    struct wal_end end;
    cr_assert_eq(wal_reader_end(reader, &end, NULL), 0);
    cr_assert(end.torn && end.record_behind && end.tail.last_sequence == 4 && end.offset == WAL_HEADER_BYTES);
    wal_reader_close(reader);
    cr_assert_eq(sample_open(&disk, 1, &reader, NULL), 0);
    cr_assert_eq(wal_reader_next(reader, 6, &view, NULL), 0);
    wal_reader_close(reader);
    wal_disk_fini(&disk);
}

/* ---- failing memory and disks ----------------------------------------------------------------------------------- */

/* Writes and reads a segment; returns the first failure. Everything is closed again. */
static int write_and_read(struct wal_disk *disk, const struct mem *mem, const struct wal_record *record) {
    struct wal_writer_options options = sample_options(disk, 1, 3 << 20);
    options.mem = mem;
    struct wal_writer *writer = NULL;
    struct wal_reader *reader = NULL;
    struct wal_view view;
    struct wal_end end;
    int rc = wal_writer_create(&options, &writer, NULL);
    for (uint64_t sequence = 1; rc == 0 && sequence <= 3; sequence++) {
        rc = wal_writer_append(writer, record, sequence, 0, NULL);
    }
    rc = rc != 0 ? rc : wal_writer_sync(writer, NULL);
    rc = rc != 0 ? rc : wal_reader_open(&disk->vfs, wal_disk_dir(disk), mem, sample_store, 1, &reader, NULL);
    uint64_t read = 0;
    while (rc == 0 && (rc = wal_reader_next(reader, 0, &view, NULL)) == 0) {
        read++;
    }
    if (rc == PLEAT_END) {
        cr_assert_eq(read, 3, "an unreadable file is never taken for an end");
        rc = wal_reader_end(reader, &end, NULL);
    }
    uint64_t durable;
    bool any;
    rc = rc != 0 ? rc : wal_segment_probe(&disk->vfs, wal_disk_dir(disk), mem, sample_store, 1, &durable, &any, NULL);
    wal_reader_close(reader);
    wal_writer_close(writer);
    return rc;
}

Test(wal_failure, any_failed_allocation_is_an_error_and_leaks_nothing) {
    struct wal_disk disk;
    wal_disk_init(&disk, 3 << 20);
    struct wal_record record;
    wal_record_init(&record, &mem_system);
    struct entry entry = {.key = (const uint8_t *)"big", .key_bytes = 3, .value_bytes = 900000, .kind = ENTRY_PUT};
    void *room;
    cr_assert_eq(wal_record_add(&record, 1, &entry, &room, NULL), 0);
    for (int for_ever = 0; for_ever < 2; for_ever++) {
        int rc = -1;
        for (uint64_t n = 1; rc != 0; n++) {
            struct failmem fail;
            failmem_init(&fail);
            fail.fail_at = n;
            fail.fail_for_ever = for_ever != 0;
            rc = write_and_read(&disk, &fail.mem, &record);
            cr_assert(rc == 0 || rc == PLEAT_ERR_NO_MEMORY);
            cr_assert_eq(rc == 0, fail.calls < n);
            cr_assert_eq(fail.live, 0);
            cr_assert_eq(disk.open_handles, 0);
        }
    }
    wal_record_fini(&record);
    wal_disk_fini(&disk);
}

Test(wal_failure, any_failed_call_of_the_disk_is_an_error_and_leaks_nothing) {
    struct wal_disk disk;
    wal_disk_init(&disk, 3 << 20);
    struct wal_record record;
    wal_record_init(&record, &mem_system);
    sample_fill(&record, 3, 300000);
    int rc = -1;
    for (uint64_t n = 1; rc != 0; n++) {
        struct failmem fail;
        failmem_init(&fail);
        disk.calls = 0;
        disk.fail_at = n;
        disk.unlinks = 0;
        rc = write_and_read(&disk, &fail.mem, &record);
        cr_assert(rc == 0 || rc == PLEAT_ERR_IO);
        cr_assert_eq(rc == 0, disk.calls < n);
        cr_assert_eq(disk.unlinks, n == 2, "a header that could not be published leaves no file");
        cr_assert_eq(fail.live, 0);
        cr_assert_eq(disk.open_handles, 0);
    }
    wal_record_fini(&record);
    wal_disk_fini(&disk);
}

Test(wal_failure, nothing_is_appended_behind_a_failed_append) {
    struct wal_disk disk;
    wal_disk_init(&disk, 4096);
    struct wal_writer_options options = sample_options(&disk, 1, 4096);
    struct wal_writer *writer;
    cr_assert_eq(wal_writer_create(&options, &writer, NULL), 0);
    sample_append(writer, 1, 2, 50, 1);
    struct wal_tail tail = wal_writer_tail(writer);
    struct wal_record record;
    wal_record_init(&record, &mem_system);
    disk.fail_at = disk.calls + 1;
    cr_assert_eq(wal_writer_append(writer, &record, 3, 0, NULL), PLEAT_ERR_IO);
    uint64_t calls = disk.calls;
    cr_assert_eq(wal_writer_append(writer, &record, 3, 0, NULL), PLEAT_ERR_IO);
    cr_assert_eq(disk.calls, calls, "the second was not even tried");
    cr_assert_eq(wal_writer_tail(writer).last_sequence, 2);
    cr_assert_eq(wal_writer_tail(writer).running_hash, tail.running_hash);
    wal_writer_close(writer);
    wal_writer_close(NULL);
    wal_reader_close(NULL);
    wal_record_fini(&record);
    wal_disk_fini(&disk);
}
