/* test_wal_damage.c - what the log's reader makes of torn, damaged, stale, foreign and crafted segments. */
#include "support/wal_disk.h"

enum { SMALL = 4096, COUNT = 12, SCALE = 40, LAG = 3 };

/* The disk with the sample segment 1 of COUNT records, its image, and where each record starts (and the last ends). */
struct sample {
    struct wal_disk disk;
    uint8_t image[SMALL];
    size_t starts[COUNT + 1];
};

static void sample_init(struct sample *sample) {
    wal_disk_init(&sample->disk, SMALL);
    sample_segment(&sample->disk, 1, SMALL, COUNT, SCALE, LAG);
    memcpy(sample->image, sample->disk.bytes, SMALL);
    size_t offset = WAL_HEADER_BYTES;
    for (size_t i = 0; i < COUNT; i++) {
        sample->starts[i] = offset;
        offset += (size_t)load_u32(sample->image + offset) * 8;
    }
    sample->starts[COUNT] = offset;
    cr_assert_lt(offset, SMALL - 300);
}

static void sample_restore(struct sample *sample) {
    memcpy(sample->disk.bytes, sample->image, SMALL);
    sample->disk.size = SMALL;
}

/* Reads the disk as it is now: how many records come, and how it ends. */
static uint64_t sample_outcome(struct sample *sample, struct wal_end *ret_end) {
    struct wal_reader *reader;
    uint64_t count;
    cr_assert_eq(sample_open(&sample->disk, 1, &reader, NULL), 0);
    cr_assert_eq(sample_read(reader, SCALE, &count, NULL), PLEAT_END);
    cr_assert_eq(wal_reader_end(reader, ret_end, NULL), 0);
    cr_assert_eq(ret_end->tail.last_sequence, count);
    wal_reader_close(reader);
    return count;
}

static size_t record_at(const struct sample *sample, size_t position) {
    size_t i = 0;
    while (i < COUNT && position >= sample->starts[i + 1]) {
        i++;
    }
    return i;
}

Test(wal_damage, every_flipped_bit_ends_the_log_at_its_record) {
    struct sample sample;
    sample_init(&sample);
    for (size_t bit = 0; bit < (sample.starts[COUNT] + 64) * 8; bit++) {
        size_t position = bit / 8;
        sample.disk.bytes[position] ^= (uint8_t)(1u << (bit & 7));
        if (position < WAL_AT_MARKS) {
            struct wal_reader *reader;
            struct pleat_error err = {0};
            cr_assert_eq(sample_open(&sample.disk, 1, &reader, &err), PLEAT_ERR_CORRUPT, "header bit %zu", bit);
            cr_assert_not_null(strstr(err.message, "000001.wal"));
        } else if (position < WAL_HEADER_BYTES) { /* a mark that is not valid says nothing */
            struct wal_end end;
            cr_assert_eq(sample_outcome(&sample, &end), COUNT);
            cr_assert_not(end.torn);
        } else {
            struct wal_end end;
            size_t damaged = record_at(&sample, position);
            cr_assert_eq(sample_outcome(&sample, &end), damaged, "bit %zu", bit);
            cr_assert_eq(end.offset, sample.starts[damaged]);
            cr_assert(end.torn);
            cr_assert_eq(end.record_behind, damaged + 1 < COUNT);
            uint64_t last_valid = damaged + 1 < COUNT ? COUNT : damaged == COUNT ? COUNT : COUNT - 1;
            cr_assert_eq(end.durable_sequence, last_valid - LAG);
        }
        sample.disk.bytes[position] = sample.image[position];
    }
    wal_disk_fini(&sample.disk);
}

Test(wal_damage, every_cut_leaves_the_whole_records_before_it) {
    struct sample sample;
    sample_init(&sample);
    for (size_t size = 0; size <= SMALL; size++) {
        sample.disk.size = size;
        if (size < WAL_HEADER_BYTES) {
            struct wal_reader *reader;
            cr_assert_eq(sample_open(&sample.disk, 1, &reader, NULL), PLEAT_END);
            continue;
        }
        struct wal_end end;
        size_t whole = record_at(&sample, size);
        cr_assert_eq(sample_outcome(&sample, &end), whole);
        cr_assert_eq(end.torn, size > sample.starts[whole] && whole < COUNT);
        cr_assert_not(end.record_behind);
        cr_assert_eq(end.durable_sequence, whole > LAG ? whole - LAG : 0);
    }
    wal_disk_fini(&sample.disk);
}

/* What a strict disk may do to the unsynced part: any 8 bytes and any sector may be zero, or any other content. */
Test(wal_damage, zeroed_and_garbage_sectors_end_the_log_there) {
    struct sample sample;
    sample_init(&sample);
    static const size_t widths[] = {8, 64, 512};
    for (size_t w = 0; w < 3; w++) {
        for (size_t at = 0; at < sample.starts[COUNT]; at += widths[w]) {
            for (int fill = 0; fill < 2; fill++) {
                sample_restore(&sample);
                memset(sample.disk.bytes + at, fill != 0 ? 0xa5 : 0, widths[w]);
                if (memcmp(sample.disk.bytes, sample.image, SMALL) == 0) {
                    continue;
                }
                struct wal_reader *reader;
                int rc = sample_open(&sample.disk, 1, &reader, NULL);
                if (at < WAL_AT_MARKS) {
                    uint64_t durable = 0;
                    bool any = false;
                    cr_assert(rc == PLEAT_ERR_CORRUPT || (rc == PLEAT_END && at == 0 && fill == 0));
                    cr_assert_eq(wal_segment_probe(&sample.disk.vfs, wal_disk_dir(&sample.disk), &mem_system,
                                                   sample_store, 1, &durable, &any, NULL),
                                 0);
                    cr_assert(any && durable == COUNT - LAG, "records behind a missing header are not nothing");
                    continue;
                }
                cr_assert_eq(rc, 0);
                wal_reader_close(reader);
                struct wal_end end;
                uint64_t count = sample_outcome(&sample, &end);
                if (at + widths[w] <= WAL_HEADER_BYTES) {
                    cr_assert_eq(count, COUNT, "marks alone are lost");
                    continue;
                }
                cr_assert_leq(count, record_at(&sample, at + widths[w] - 1));
                cr_assert_geq(count, record_at(&sample, at), "records in front of the damage are there");
                cr_assert_eq(end.record_behind, record_at(&sample, at + widths[w] - 1) + 1 < COUNT);
            }
        }
    }
    wal_disk_fini(&sample.disk);
}

Test(wal_damage, records_of_other_segments_stores_and_places_never_validate) {
    struct sample sample;
    sample_init(&sample);
    struct wal_disk other;
    wal_disk_init(&other, SMALL);
    static const uint8_t other_store[WAL_STORE_ID_BYTES] = "store number two";
    for (int foreign = 0; foreign < 2; foreign++) {
        struct wal_writer_options options = sample_options(&other, foreign != 0 ? 1 : 2, SMALL);
        options.store_id = foreign != 0 ? other_store : sample_store;
        struct wal_writer *writer;
        cr_assert_eq(wal_writer_create(&options, &writer, NULL), 0);
        sample_append(writer, 1, COUNT, SCALE, LAG);
        wal_writer_close(writer);
        for (size_t i = 0; i < COUNT; i++) {
            sample_restore(&sample);
            size_t bytes = sample.starts[i + 1] - sample.starts[i];
            memcpy(sample.disk.bytes + sample.starts[i], other.bytes + sample.starts[i], bytes);
            struct wal_end end;
            cr_assert_eq(sample_outcome(&sample, &end), i, "the same record at the same place of another file");
            cr_assert_eq(end.record_behind, i + 1 < COUNT);
        }
    }
    for (size_t i = 0; i < COUNT; i++) {
        /* An earlier record once more behind the end: a stale copy, not a later record. */
        sample_restore(&sample);
        size_t bytes = sample.starts[i + 1] - sample.starts[i];
        memcpy(sample.disk.bytes + sample.starts[COUNT], sample.image + sample.starts[i], bytes);
        struct wal_end end;
        cr_assert_eq(sample_outcome(&sample, &end), COUNT);
        cr_assert(end.torn && !end.record_behind);
        /* A later one too early: it cannot follow, and is seen. */
        if (i >= 3) {
            memset(sample.disk.bytes + sample.starts[2], 0, SMALL - sample.starts[2]);
            memcpy(sample.disk.bytes + sample.starts[2], sample.image + sample.starts[i], bytes);
            cr_assert_eq(sample_outcome(&sample, &end), 2);
            cr_assert(end.record_behind && end.durable_sequence == (i + 1 > LAG ? i + 1 - LAG : 0));
        }
    }
    wal_disk_fini(&other);
    wal_disk_fini(&sample.disk);
}

Test(wal_damage, a_hole_with_records_behind_tells_whether_it_had_been_durable) {
    struct sample sample;
    sample_init(&sample);
    for (size_t hole = 0; hole + 1 < COUNT; hole++) {
        for (size_t survivor = hole + 1; survivor < COUNT; survivor++) {
            /* Of the records behind the hole only one survived, at an odd place behind garbage. */
            sample_restore(&sample);
            memset(sample.disk.bytes + sample.starts[hole], 0, SMALL - sample.starts[hole]);
            size_t bytes = sample.starts[survivor + 1] - sample.starts[survivor];
            memcpy(sample.disk.bytes + sample.starts[survivor], sample.image + sample.starts[survivor], bytes);
            struct wal_end end;
            cr_assert_eq(sample_outcome(&sample, &end), hole);
            cr_assert(end.torn && end.record_behind);
            uint64_t claims = survivor + 1 > LAG ? survivor + 1 - LAG : 0;
            cr_assert_eq(end.durable_sequence, claims);
        }
    }
    wal_disk_fini(&sample.disk);
}

/* ---- headers ---------------------------------------------------------------------------------------------------- */

Test(wal_damage, header_errors_are_told_apart) {
    struct sample sample;
    sample_init(&sample);
    uint8_t *header = sample.disk.bytes;
    struct {
        size_t at;
        size_t bytes;
        uint64_t value;
        int status;
    } cases[] = {
        {WAL_AT_VERSION, 4, 2, PLEAT_ERR_NEWER},
        {WAL_AT_VERSION, 4, 0, PLEAT_ERR_CORRUPT},
        {WAL_AT_FIRST_RECORD, 4, 136, PLEAT_ERR_CORRUPT},
        {WAL_AT_STORE_ID, 8, 1, PLEAT_ERR_CORRUPT},
        {WAL_AT_STORE_ID + 8, 8, 1, PLEAT_ERR_CORRUPT},
        {WAL_AT_SEGMENT, 8, 2, PLEAT_ERR_CORRUPT},
        {WAL_AT_PREDECESSOR, 8, 1, PLEAT_ERR_CORRUPT},
        {WAL_AT_PREDECESSOR + 8, 8, 1, PLEAT_ERR_CORRUPT},
        {WAL_AT_FIRST_SEQUENCE, 8, 0, PLEAT_ERR_CORRUPT},
        {WAL_AT_RESERVED, 8, SMALL - 1, PLEAT_ERR_CORRUPT},
        {WAL_AT_RESERVED, 8, 0, PLEAT_ERR_CORRUPT},
        {WAL_AT_ZERO, 8, 1, PLEAT_ERR_CORRUPT},
        {WAL_AT_CHECKSUM - 8, 8, 1ull << 63, PLEAT_ERR_CORRUPT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sample_restore(&sample);
        uint8_t value[8];
        store_u64(value, cases[i].value);
        memcpy(header + cases[i].at, value, cases[i].bytes);
        store_u64(header + WAL_AT_CHECKSUM, hash_bytes(header, WAL_AT_CHECKSUM, 0));
        struct wal_reader *reader;
        struct pleat_error err = {0};
        cr_assert_eq(sample_open(&sample.disk, 1, &reader, &err), cases[i].status, "case %zu", i);
        cr_assert_eq(err.code, cases[i].status);
    }
    wal_disk_fini(&sample.disk);
}

Test(wal_damage, a_segment_that_was_only_created_holds_nothing) {
    struct sample sample;
    sample_init(&sample);
    struct wal_reader *reader;
    memset(sample.disk.bytes, 0, SMALL);
    cr_assert_eq(sample_open(&sample.disk, 1, &reader, NULL), PLEAT_END);
    memcpy(sample.disk.bytes + 8, sample.image + 8, WAL_HEADER_BYTES - 8);
    cr_assert_eq(sample_open(&sample.disk, 1, &reader, NULL), PLEAT_END, "killed before the magic");
    memset(sample.disk.bytes, 0, WAL_HEADER_BYTES);
    memset(sample.disk.bytes + WAL_HEADER_BYTES, 0xee, 500);
    cr_assert_eq(sample_open(&sample.disk, 1, &reader, NULL), PLEAT_END, "garbage is no record");
    wal_disk_fini(&sample.disk);
}

Test(wal_damage, probe_finds_what_an_unreadable_header_hides) {
    struct sample sample;
    sample_init(&sample);
    struct wal_disk *disk = &sample.disk;
    uint64_t durable = 99;
    bool any = false;
    memset(disk->bytes, 0x77, WAL_HEADER_BYTES);
    cr_assert_eq(wal_segment_probe(&disk->vfs, wal_disk_dir(disk), &mem_system, sample_store, 1, &durable, &any, NULL),
                 0);
    cr_assert(any && durable == COUNT - LAG);
    /* The first sector gone, some records in the others left. */
    struct wal_reader *reader;
    memset(disk->bytes, 0, 512);
    cr_assert_eq(sample_open(disk, 1, &reader, NULL), PLEAT_END);
    cr_assert_eq(wal_segment_probe(&disk->vfs, wal_disk_dir(disk), &mem_system, sample_store, 1, &durable, &any, NULL),
                 0);
    cr_assert(any && durable == COUNT - LAG);
    cr_assert_eq(wal_segment_probe(&disk->vfs, wal_disk_dir(disk), &mem_system, sample_store, 2, &durable, &any, NULL),
                 0);
    cr_assert(!any && durable == 0, "another segment's records are none");
    for (size_t size = 0; size <= 300; size++) {
        disk->size = size;
        cr_assert_eq(
            wal_segment_probe(&disk->vfs, wal_disk_dir(disk), &mem_system, sample_store, 1, &durable, &any, NULL), 0);
        cr_assert(!any && durable == 0);
    }
    wal_disk_fini(disk);
}

/* ---- crafted bytes ---------------------------------------------------------------------------------------------- */

/* Puts a record with right checksums around any payload at `offset`, as a hostile writer would. */
static size_t forge(struct wal_disk *disk, size_t offset, struct wal_format_record record, const uint8_t *payload,
                    size_t payload_bytes) {
    uint8_t *place = disk->bytes + offset;
    record.bytes = WAL_RECORD_HEADER_BYTES + payload_bytes;
    cr_assert_eq(record.bytes % 8, 0);
    memcpy(place + WAL_RECORD_HEADER_BYTES, payload, payload_bytes);
    wal_format_record_encode(&record, wal_format_key(sample_store, 1), place);
    store_u64(place + 32, record.check);
    store_u64(place + 40, hash_bytes(place + WAL_RECORD_HEADER_BYTES, payload_bytes, record.check));
    return (size_t)record.bytes;
}

Test(wal_damage, a_record_that_passes_its_checksum_but_does_not_decode_is_corrupt) {
    struct {
        uint32_t entries;
        uint16_t cursors;
        uint32_t cursors_bytes;
        uint8_t padding;
        uint8_t payload_bytes;
        uint8_t payload[16];
    } cases[] = {
        {1, 0, 0, 3, 8, {ENTRY_PUT, 1, 3, 8, 'k', 'e', 'y'}},                          /* value cut short */
        {1, 0, 0, 3, 8, {ENTRY_DELETE, 1, 0xff, 0xff, 0x7f}},                          /* key over the limit */
        {1, 0, 0, 7, 16, {ENTRY_PUT, 1, 1, 0xff, 0xff, 0xff, 0xff, 0x7f, 'k'}},        /* value over the limit */
        {1, 0, 0, 4, 8, {ENTRY_DELETE, 0xff, 0xff, 0xff, 0xff, 0x7f, 0, 0}},           /* space over 32 bits */
        {1, 0, 0, 5, 8, {ENTRY_RANGE_DELETE, 1, 0}},                                   /* reserved kind */
        {1, 0, 0, 5, 8, {0, 1, 0}},                                                    /* no kind */
        {1, 0, 0, 5, 8, {ENTRY_DELETE | ENTRY_RESERVED, 1, 0}},                        /* reserved bit */
        {1, 0, 0, 0, 16, {ENTRY_DELETE | ENTRY_HAS_VERSION, 1, 0, 33}},                /* version over the limit */
        {1, 0, 0, 4, 8, {ENTRY_DELETE | ENTRY_HAS_DEADLINE, 1, 0, 1}},                 /* deadline cut short */
        {0, 0, 0, 5, 8, {ENTRY_DELETE, 1, 0}},                                         /* bytes that no entry claims */
        {2, 0, 0, 5, 8, {ENTRY_DELETE, 1, 0}},                                         /* an entry without bytes */
        {UINT32_MAX, 0, 0, 5, 8, {ENTRY_DELETE, 1, 0}},                                /* the same, at length */
        {1, 0, 0, 4, 8, {ENTRY_DELETE, 1, 0}},                                         /* a zero byte too much */
        {1, 0, 0, 5, 8, {ENTRY_DELETE, 1, 0, 0, 0, 0, 0, 1}},                          /* padding that is not zero */
        {1, 1, 4, 1, 8, {ENTRY_DELETE, 1, 0, 0, 0, 0, 4}},                             /* unknown cursor flag */
        {1, 1, 4, 1, 8, {ENTRY_DELETE, 1, 0, 0, 0, 0, 3}},                             /* both cursor flags */
        {1, 1, 4, 1, 8, {ENTRY_DELETE, 1, 0, 1, 0, 0, 0}},                             /* cursor name cut short */
        {1, 2, 4, 1, 8, {ENTRY_DELETE, 1, 0, 0, 0, 0, 0}},                             /* a cursor without bytes */
        {1, 0, 4, 1, 8, {ENTRY_DELETE, 1, 0, 0, 0, 0, 0}},                             /* bytes that no cursor claims */
        {1, 1, 5, 0, 8, {ENTRY_DELETE, 1, 0, 0x80, 0x02, 0, 0, 0}},                    /* cursor name over the limit */
        {1, 1, 3, 2, 8, {ENTRY_DELETE, 1, 0, 0, 0, 0}},                                /* cursor without flags */
    };
    struct sample sample;
    sample_init(&sample);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sample_restore(&sample);
        struct wal_format_record record = {
            .sequence = 3,
            .entries = cases[i].entries,
            .cursors = cases[i].cursors,
            .cursors_bytes = cases[i].cursors_bytes,
            .padding = cases[i].padding,
        };
        forge(&sample.disk, sample.starts[2], record, cases[i].payload, cases[i].payload_bytes);
        struct wal_reader *reader;
        struct pleat_error err = {0};
        uint64_t count;
        cr_assert_eq(sample_open(&sample.disk, 1, &reader, NULL), 0);
        cr_assert_eq(sample_read(reader, SCALE, &count, &err), PLEAT_ERR_CORRUPT, "case %zu", i);
        cr_assert_eq(count, 2);
        cr_assert_eq(err.code, PLEAT_ERR_CORRUPT);
        struct wal_view view;
        cr_assert_eq(wal_reader_next(reader, 0, &view, NULL), PLEAT_ERR_CORRUPT, "and stays so");
        wal_reader_close(reader);
    }
    wal_disk_fini(&sample.disk);
}

/* The forger itself is right: otherwise the test above would prove nothing. */
Test(wal_damage, a_forged_record_that_decodes_is_read) {
    struct sample sample;
    sample_init(&sample);
    uint8_t payload[8] = {ENTRY_DELETE, 1, 0, 0, 0, 0, 1};
    struct wal_format_record record = {.sequence = 3, .entries = 1, .cursors = 1, .cursors_bytes = 4, .padding = 1};
    forge(&sample.disk, sample.starts[2], record, payload, sizeof payload);
    struct wal_reader *reader;
    struct wal_view view;
    cr_assert_eq(sample_open(&sample.disk, 1, &reader, NULL), 0);
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(wal_reader_next(reader, 0, &view, NULL), 0);
    }
    struct entry entry;
    uint32_t space;
    cr_assert_eq(wal_view_entry(&view, &space, &entry), 0);
    cr_assert(entry.kind == ENTRY_DELETE && entry.key_bytes == 0 && entry.sequence == 3);
    wal_reader_close(reader);
    wal_disk_fini(&sample.disk);
}

Test(wal_damage, headers_that_no_writer_makes_are_no_records) {
    struct {
        uint64_t sequence;
        uint64_t durable_sequence;
        uint32_t cursors_bytes;
        uint8_t padding;
        bool valid;
    } cases[] = {
        {3, 2, 0, 5, true},  {3, 3, 0, 5, false},          {3, UINT64_MAX, 0, 5, false}, {0, 0, 0, 5, false},
        {3, 2, 9, 5, false}, {3, 2, UINT32_MAX, 5, false}, {3, 2, 0, 8, false},          {UINT64_MAX, 2, 0, 5, false},
        {4, 2, 0, 5, true},
    };
    struct sample sample;
    sample_init(&sample);
    uint8_t payload[8] = {ENTRY_DELETE, 1, 0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct wal_format_record record = {.sequence = cases[i].sequence,
                                           .durable_sequence = cases[i].durable_sequence,
                                           .entries = 1,
                                           .cursors_bytes = cases[i].cursors_bytes,
                                           .padding = cases[i].padding};
        forge(&sample.disk, sample.starts[2], record, payload, sizeof payload);
        struct wal_reader *reader;
        struct wal_view view;
        cr_assert_eq(sample_open(&sample.disk, 1, &reader, NULL), 0);
        cr_assert_eq(wal_reader_next(reader, 0, &view, NULL), 0);
        cr_assert_eq(wal_reader_next(reader, 0, &view, NULL), 0);
        cr_assert_eq(wal_reader_next(reader, UINT64_MAX, &view, NULL), cases[i].valid ? 0 : PLEAT_END, "case %zu", i);
        wal_reader_close(reader);
    }
    wal_disk_fini(&sample.disk);
}

/* Fills a view with an encoded head in front of `tail_bytes` bytes, and takes the first entry or cursor off it. */
static int decode_first(const uint8_t *head, size_t head_bytes, size_t tail_bytes, bool is_cursor) {
    uint8_t *bytes = calloc(1, head_bytes + tail_bytes);
    memcpy(bytes, head, head_bytes);
    struct wal_view view = {.entries = bytes, .entries_end = bytes + head_bytes + tail_bytes, .entry_count = 1,
                            .cursors = bytes, .cursors_end = bytes + head_bytes + tail_bytes, .cursor_count = 1};
    struct entry entry;
    struct wal_cursor cursor;
    uint32_t space;
    int rc = is_cursor ? wal_view_cursor(&view, &cursor) : wal_view_entry(&view, &space, &entry);
    free(bytes);
    return rc;
}

Test(wal_damage, lengths_over_the_limits_are_refused_even_when_the_bytes_are_there) {
    struct {
        uint8_t head[16];
        size_t head_bytes;
        size_t tail_bytes;
        bool is_cursor;
        int status;
    } cases[] = {
        {{ENTRY_DELETE, 1, 0xff, 0xff, 0x03}, 5, 65535, false, 0},
        {{ENTRY_DELETE, 1, 0x80, 0x80, 0x04}, 5, 65536, false, PLEAT_ERR_CORRUPT},
        {{ENTRY_DELETE, 1, 0xff, 0xff, 0x03}, 5, 65534, false, PLEAT_ERR_CORRUPT},
        {{ENTRY_DELETE, 0xff, 0xff, 0xff, 0xff, 0x0f, 0}, 7, 0, false, 0},
        {{ENTRY_DELETE, 0x80, 0x80, 0x80, 0x80, 0x10, 0}, 7, 0, false, PLEAT_ERR_CORRUPT},
        /* A key of 5 and a value of 2^32 - 4 bytes, whose sum is 1 in 32 bits. */
        {{ENTRY_PUT, 1, 5, 0xfc, 0xff, 0xff, 0xff, 0x0f}, 8, 64, false, PLEAT_ERR_CORRUPT},
        {{ENTRY_PUT, 1, 5, 3}, 4, 8, false, 0},
        {{ENTRY_PUT, 1, 5, 3}, 4, 7, false, PLEAT_ERR_CORRUPT},
        {{0xff, 0x01, 0, 0, 0}, 5, 255, true, 0},
        {{0xff, 0x01, 0, 0, 0}, 5, 254, true, PLEAT_ERR_CORRUPT},
        {{0x80, 0x02, 0, 0, 0}, 5, 256, true, PLEAT_ERR_CORRUPT},
        {{0, 0x80, 0x08, 0, 0}, 5, 1024, true, 0},
        {{0, 0x81, 0x08, 0, 0}, 5, 1025, true, PLEAT_ERR_CORRUPT},
        {{0, 0, 64, 1}, 4, 64, true, 0},
        {{0, 0, 65, 1}, 4, 65, true, PLEAT_ERR_CORRUPT},
        {{0, 0, 64, 1}, 4, 63, true, PLEAT_ERR_CORRUPT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_assert_eq(decode_first(cases[i].head, cases[i].head_bytes, cases[i].tail_bytes, cases[i].is_cursor),
                     cases[i].status, "case %zu", i);
    }
}

/* The largest block that was ever asked for. */
static size_t largest_block;
static void *measured_alloc(const struct mem *mem, size_t bytes) {
    (void)mem;
    largest_block = bytes > largest_block ? bytes : largest_block;
    return mem_system.alloc(&mem_system, bytes);
}
static void *measured_resize(const struct mem *mem, void *block, size_t bytes) {
    (void)mem;
    largest_block = bytes > largest_block ? bytes : largest_block;
    return mem_system.resize(&mem_system, block, bytes);
}
static void measured_release(const struct mem *mem, void *block) {
    (void)mem;
    mem_system.release(&mem_system, block);
}

Test(wal_damage, overlapping_forged_headers_are_refused_without_a_hang) {
    enum { BYTES = 8 << 20 };
    struct wal_disk disk;
    wal_disk_init(&disk, BYTES);
    sample_segment(&disk, 1, BYTES, 1, SCALE, LAG);
    size_t first = WAL_HEADER_BYTES + (size_t)load_u32(disk.bytes + WAL_HEADER_BYTES) * 8;
    for (size_t offset = first; offset + WAL_RECORD_HEADER_BYTES <= BYTES; offset += WAL_RECORD_HEADER_BYTES) {
        struct wal_format_record record = {.sequence = 2, .bytes = (BYTES - offset) & ~(size_t)7};
        wal_format_record_encode(&record, wal_format_key(sample_store, 1), disk.bytes + offset);
        store_u64(disk.bytes + offset + 32, record.check);
    }
    static const struct mem measured = {.alloc = measured_alloc, .resize = measured_resize,
                                        .release = measured_release};
    largest_block = 0;
    struct wal_reader *reader;
    cr_assert_eq(wal_reader_open(&disk.vfs, wal_disk_dir(&disk), &measured, sample_store, 1, &reader, NULL), 0);
    uint64_t count;
    cr_assert_eq(sample_read(reader, SCALE, &count, NULL), PLEAT_END);
    cr_assert_eq(count, 1);
    struct wal_end end;
    struct pleat_error err = {0};
    cr_assert_eq(wal_reader_end(reader, &end, &err), PLEAT_ERR_CORRUPT);
    cr_assert_leq(largest_block, BYTES);
    wal_reader_close(reader);
    wal_disk_fini(&disk);
}

Test(wal_damage, random_and_mutated_segments_yield_only_true_records) {
    struct random random = random_begin("wal_damage/random_and_mutated");
    struct sample sample;
    sample_init(&sample);
    static const struct mem measured = {.alloc = measured_alloc, .resize = measured_resize,
                                        .release = measured_release};
    largest_block = 0;
    uint64_t whole = 0;
    for (int round = 0; round < 4000; round++) {
        sample_restore(&sample);
        uint8_t *bytes = sample.disk.bytes;
        uint64_t how = random_below(&random, 4);
        size_t from = how == 0 ? 0 : how == 1 ? WAL_HEADER_BYTES : (size_t)random_below(&random, SMALL);
        if (how < 2) {
            for (size_t i = from; i < SMALL; i++) {
                bytes[i] = (uint8_t)(random_next(&random) & (random_below(&random, 3) == 0 ? 0xff : 0x03));
            }
        } else {
            for (uint64_t n = random_below(&random, 5); n > 0; n--) {
                size_t to = (size_t)random_below(&random, SMALL);
                size_t length = (size_t)random_below(&random, 1 + (how == 2 ? 16 : 500));
                from = (size_t)random_below(&random, SMALL);
                length = length > SMALL - to ? SMALL - to : length;
                length = length > SMALL - from ? SMALL - from : length;
                memmove(bytes + to, bytes + from, length);
            }
            sample.disk.size = random_below(&random, 2) == 0 ? SMALL : (size_t)random_below(&random, SMALL);
        }
        struct wal_reader *reader;
        int rc = wal_reader_open(&sample.disk.vfs, wal_disk_dir(&sample.disk), &measured, sample_store, 1, &reader,
                                 NULL);
        if (rc == 0) {
            uint64_t count;
            struct wal_end end;
            cr_assert_eq(sample_read(reader, SCALE, &count, NULL), PLEAT_END);
            cr_assert_leq(count, COUNT);
            cr_assert_eq(wal_reader_end(reader, &end, NULL), 0);
            cr_assert_leq(end.durable_sequence, COUNT - LAG);
            wal_reader_close(reader);
            whole += count == COUNT;
        } else {
            cr_assert(rc == PLEAT_ERR_CORRUPT || rc == PLEAT_END);
        }
    }
    cr_assert_leq(largest_block, SMALL);
    cr_assert(whole > 10 && whole < 4000, "the rounds are neither all harmless nor all fatal");
    wal_disk_fini(&sample.disk);
}

/* Any bytes as a view, in a block of just their size, so that a sanitizer sees the first byte too far. */
Test(wal_damage, views_of_any_bytes_stay_inside_and_end) {
    struct random random = random_begin("wal_damage/views_of_any_bytes");
    uint64_t decoded = 0;
    for (int round = 0; round < 60000; round++) {
        size_t n = (size_t)random_below(&random, 40);
        uint8_t *bytes = malloc(n > 0 ? n : 1);
        for (size_t i = 0; i < n; i++) {
            uint64_t x = random_next(&random);
            bytes[i] = (uint8_t)((x & 0x300) == 0 ? x : (x & 0x300) == 0x100 ? x & 3 : x & 0x73);
        }
        struct wal_view view = {
            .entries = bytes,
            .entries_end = bytes + n,
            .cursors = bytes,
            .cursors_end = bytes + n,
            .entry_count = (uint32_t)random_below(&random, 6),
            .cursor_count = (uint32_t)random_below(&random, 6),
        };
        struct entry entry;
        uint32_t space;
        struct wal_cursor cursor;
        uint64_t sum = 0;
        while (wal_view_entry(&view, &space, &entry) == 0) {
            sum += entry.key_bytes > 0 ? entry.key[entry.key_bytes - 1] : 0;
            sum += entry.value_bytes > 0 ? entry.value[entry.value_bytes - 1] : 0;
            sum += entry.version_bytes > 0 ? entry.version[entry.version_bytes - 1] : 0;
            decoded++;
        }
        while (wal_view_cursor(&view, &cursor) == 0) {
            sum += cursor.name_bytes > 0 ? cursor.name[cursor.name_bytes - 1] : 0;
            sum += cursor.value_bytes > 0 ? cursor.value[cursor.value_bytes - 1] : 0;
            sum += cursor.incarnation_bytes > 0 ? cursor.incarnation[cursor.incarnation_bytes - 1] : 0;
            decoded++;
        }
        cr_assert_leq(sum, (uint64_t)n * 255 * 3);
        free(bytes);
    }
    cr_assert_gt(decoded, 1000, "the bytes are near enough to entries to get inside the decoder");
}
