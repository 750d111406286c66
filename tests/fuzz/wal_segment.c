/*
 * wal_segment.c - fuzzes a whole log segment: its header, replay, the scan for later records, the probe.
 *
 *     byte 0   bit 0: repair the checksums   bit 1: with dense sequences, too   bit 2: another store's segment
 *     byte 1   the manifest's last sequence   the rest: the file
 */
#include "fuzz/fuzz.h"
#include "fuzz/repair.h"
#include "wal/wal.h"

#include <stdlib.h>

#define SEGMENT 7

static const uint8_t store_ids[2][WAL_STORE_ID_BYTES] = {"store of fuzzing", "store of another"};

/* All that the reader hands out decodes; sequences go up. */
static void read_records(struct wal_reader *reader, uint64_t floor, uint64_t *ret_records) {
    struct wal_view view;
    uint64_t last = wal_reader_header(reader)->first_sequence - 1;
    int rc;
    while ((rc = wal_reader_next(reader, floor, &view, NULL)) == 0) {
        FUZZ_CHECK(view.sequence > last && (view.sequence == last + 1 || view.sequence - 1 <= floor));
        FUZZ_CHECK(view.durable_sequence < view.sequence);
        last = view.sequence;
        (*ret_records)++;
        struct entry entry;
        struct wal_cursor cursor;
        uint32_t space;
        uint64_t sum = 0;
        while ((rc = wal_view_entry(&view, &space, &entry)) == 0) {
            FUZZ_CHECK(entry.sequence == last);
            sum += entry.key_bytes > 0 ? entry.key[entry.key_bytes - 1] : 0;
            sum += entry.value_bytes > 0 ? entry.value[entry.value_bytes - 1] : 0;
        }
        FUZZ_CHECK(rc == PLEAT_END);
        while ((rc = wal_view_cursor(&view, &cursor)) == 0) {
            sum += cursor.incarnation_bytes > 0 ? cursor.incarnation[cursor.incarnation_bytes - 1] : 0;
        }
        FUZZ_CHECK(rc == PLEAT_END && sum != UINT64_MAX);
    }
    FUZZ_CHECK(wal_reader_tail(reader).last_sequence == last);
    if (rc == PLEAT_END) {
        struct wal_end end;
        FUZZ_CHECK(wal_reader_next(reader, floor, &view, NULL) == PLEAT_END);
        rc = wal_reader_end(reader, &end, NULL);
        FUZZ_CHECK(rc == 0 || rc == PLEAT_ERR_CORRUPT);
        FUZZ_CHECK(rc != 0 || (end.tail.last_sequence == last && (!end.record_behind || end.torn)));
    } else {
        FUZZ_CHECK(rc == PLEAT_ERR_CORRUPT);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fuzz_input input = {data, data + size};
    uint8_t mode = fuzz_u8(&input);
    uint64_t floor = fuzz_u8(&input);
    struct pleat_slice rest = fuzz_rest(&input);
    uint8_t *file = fuzz_copy(rest.data, rest.bytes, 0);
    const uint8_t *store_id = store_ids[(mode >> 2) & 1];
    if ((mode & 1) != 0) {
        repair_segment(file, rest.bytes, store_id, SEGMENT, (mode & 2) != 0);
    }
    char name[WAL_NAME_BYTES];
    struct fuzz_disk disk;
    struct fuzz_mem memory;
    wal_name(SEGMENT, name);
    fuzz_disk_init(&disk);
    fuzz_disk_put(&disk, name, file, rest.bytes);
    fuzz_mem_init(&memory, size, 2, 4096);
    struct wal_reader *reader = NULL;
    struct vfs_dir *dir = fuzz_disk_dir(&disk);
    uint64_t records = 0, durable = 0;
    bool any = false;
    int rc = wal_reader_open(&disk.vfs, dir, &memory.mem, store_ids[0], SEGMENT, &reader, NULL);
    if (rc == 0) {
        read_records(reader, floor, &records);
        wal_reader_close(reader);
    } else {
        FUZZ_CHECK(rc == PLEAT_END || rc == PLEAT_ERR_CORRUPT || rc == PLEAT_ERR_NEWER);
    }
    rc = wal_segment_probe(&disk.vfs, dir, &memory.mem, store_ids[0], SEGMENT, &durable, &any, NULL);
    FUZZ_CHECK(rc == 0 || rc == PLEAT_ERR_CORRUPT);
    FUZZ_CHECK_TEXT(rc != 0 || records == 0 || any, "%llu records are not found by the probe",
                    (unsigned long long)records);
    FUZZ_CHECK(disk.open_handles == 0);
    fuzz_mem_fini(&memory);
    free(file);
    return 0;
}
