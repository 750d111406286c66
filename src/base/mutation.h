/*
 * mutation.h - deliberate defects, one line each, that the tests are tested with. They exist in mutation builds alone.
 *
 * A promise is worth what its test is worth, and a test is worth what it convicts. So every step that a promise rests
 * on - each sync, each check, each key of a checksum, each order of two operations - can be left out, one at a time:
 *
 *     meson setup build-mutations -Dmutations=true        PLEAT_MUTATION=sync_names build-mutations/tests/crash_store
 *
 * and tests/mutations.py runs the test programs against every one of them: each must be convicted (docs/mutations.md
 * says by which test). Without the option, as everywhere but in tests, MUTATION() is the constant false: the library
 * then has no variable of this, and the compiler makes the code that it would make without. Nothing is exported in
 * either case.
 *
 * A mutation build has the one global of this library, set before main and never changed: a defect is a property of the
 * build that runs, not of a store.
 *
 * X(name, promise, what is left out): the promise is one of the contract's (F1 to F11), or an invariant of a head. A
 * name's first word is the place: posix, wal, recover, sync, commit, flush, compact, merge, clear, open, manifest,
 * registry, table.
 */
#ifndef PLEAT_BASE_MUTATION_H
#define PLEAT_BASE_MUTATION_H

#include <stdbool.h>

#define MUTATIONS(X) \
    X(posix_file_sync, "F3 P2", "fdatasync of a file") \
    X(posix_log_sync, "F3 P2", "the sync of a log segment") \
    X(posix_dir_sync, "F3 P2", "fsync of a directory") \
    X(posix_parent_sync, "F3 D1", "fsync of the parent of the store's directory") \
    X(posix_sync_sticky, "F7 N2", "the memory of a failed sync: the next one asks the kernel again") \
    X(posix_publish, "F3", "pwrite of a record to a log that is written") \
    X(posix_reserve, "F7", "reserving the blocks of a mapped log segment") \
    X(posix_lock_directory, "F9 K5", "flock of the directory") \
    X(posix_lock, "F9", "flock: every lock is granted") \
    X(wal_record_key, "F6 W2", "store and segment in the key of a record's header check") \
    X(wal_record_chain_key, "F6 W2", "the header check in the key of the payload's checksum") \
    X(wal_header_check, "F6", "looking at the check of a record's header") \
    X(wal_payload_checksum, "F2 F6", "looking at the checksum of a record's payload in replay") \
    X(wal_scan_checksum, "F6", "the same in the scan behind the end") \
    X(wal_segment_checksum, "F6", "looking at the checksum of a segment's header") \
    X(wal_segment_identity, "F6", "comparing store and number in a segment's header") \
    X(wal_dense, "F2 W1", "the rule that a record's sequence follows its predecessor's") \
    X(wal_decodes, "F6 A1", "decoding a whole record before it is handed out") \
    X(wal_durable_mark, "F6 W6", "what was known to be durable in each record") \
    X(wal_end_scan, "F6 W6", "looking behind the end of a segment") \
    X(wal_probe, "F6 W6", "looking for records behind a header that does not validate") \
    X(wal_append_failed, "F7", "closing a segment to appends after one has failed") \
    X(memtable_way, "F2 M6", "beginning a way again that stands in a node that was replaced") \
    X(recover_chain, "F2 Q2", "comparing a segment's header with the end of the segment before") \
    X(recover_chain_hash, "F2 Q2", "the running hash in that comparison") \
    X(recover_dense, "F2 Q1", "the rule that the log goes on with the very next sequence") \
    X(recover_order, "F2 Q1 Q2", "both: chain and density") \
    X(recover_evidence, "F6 Q3", "comparing the end of the log with what had been durable") \
    X(recover_history, "F5 Q4", "the new history after an unclean end") \
    X(recover_dead_tail, "F3", "the log floor above a log with nothing to replay") \
    X(recover_relog, "F11 D4", "writing recovered records again: they count as durable where they are") \
    X(recover_names, "F2 Q8", "not trusting the name of an earlier life's segment to be durable") \
    X(recover_goes_on, "F2 F6 Q10", "naming the old log's end in the first segment behind it") \
    X(recover_tail, "F3 Q10", "removing the segments behind the end of the log that goes on") \
    X(recover_begun, "F2 F7 Q10", "writing all to tables when a segment that was begun lies behind the end") \
    X(recover_rough, "F2 F3", "counting the entries of a record for the memory that it needs") \
    X(recover_floor, "F3 Q11", "keeping the segments of a recovered generation until the newer one is in tables, too") \
    X(recover_sweep_last, "F2 Q5", "sweeping last: dead segments go before the manifest says so") \
    X(recover_numbers, "F3 V6", "counting file numbers on from those that the directory shows") \
    X(recover_tables, "F6", "looking whether every table of the manifest is there") \
    X(sync_log, "F3 Y1", "syncing the log at all") \
    X(sync_older, "F3 Y1", "syncing the older segments before a newer one counts") \
    X(sync_names, "F3 D4", "syncing the directory that names a new segment") \
    X(sync_capture, "F3 D4", "taking the sequence before the sync: what came during it counts as well") \
    X(sync_sealed, "F3 Y1", "comparing a sealed segment's end with what the sync covers") \
    X(sync_recovered, "F11 Y4", "waiting for the flush of recovered records before a sync counts") \
    X(sync_record, "F7 Y3", "asking the manifest, behind the first sync of a segment, what it knows") \
    X(sync_poison, "F7 Y3", "the sticky error after a failed sync") \
    X(wal_renew_key, "F3 W2", "keying the records of a segment in a dead one's file anew") \
    X(spare_kept, "F3 J1", "removing a segment that was made ahead and is not begun") \
    X(spare_hoards, "F7 J3", "giving the spare segment's space back when the disk is full") \
    X(commit_poison, "F7 D5", "the sticky error after a failed append") \
    X(commit_cursors_first, "F2 D6", "the mutex over both: the sequence is published behind it, its cursors before") \
    X(commit_cursors_last, "F2 D6", "the mutex over both: the sequence is published before it, its cursors behind") \
    X(commit_visible_last, "F1 D1", "the entries' place before their sequence: they come behind it") \
    X(flush_dir_sync, "F2 F3", "syncing the names of a flush's tables before the edit that names them") \
    X(flush_one_edit, "F1 F2", "the one edit for all spaces: each gets its own, the last one the position") \
    X(flush_order, "F2 D2 X1", "flushing the oldest of two recovered generations first") \
    X(flush_cursors, "F2", "the cursors as of the freeze: those of now go into the edit") \
    X(flush_reported_last, "F3", "waiting for the edit: durable is said and the log removed before it") \
    X(flush_half, "F2 FJ1", "the upper half of a run that is written in two") \
    X(flush_unknown, "F7 X2", "keeping the tables of an edit whose outcome is unknown") \
    X(compact_dir_sync, "F2 F3", "syncing the names of a compaction's tables before the edit") \
    X(compact_unlink_last, "F2 V4", "waiting for the edit: inputs are removed before it") \
    X(compact_counts, "F6 R1", "comparing the entries seen with those that the inputs should have") \
    X(compact_part, "F2 CJ1 R1", "the last part of a compaction that is cut") \
    X(compact_beside, "K4", "comparing the range of a job with those that run into the same level") \
    X(compact_filter_like, "F6 U4", "comparing the number of keys with that of the input whose filter is copied") \
    X(compact_filter_drop, "F6 U4", "giving up an input's filter when one of its keys was dropped") \
    X(compact_survive, "F2 K2", "looking for older entries before a tombstone is dropped") \
    X(compact_survive_level0, "F2 K2", "looking for older entries in level 0 when a merge in it drops a tombstone") \
    X(merge_shared, "G1 H1", "comparing a key with the bytes that those in the window share") \
    X(merge_ties, "G1 H2", "moving the window when keys that tie in it go on behind it") \
    X(merge_turn, "G2 H3", "looking for the key shown among the others when a merge turns round") \
    X(clear_flush, "F2 F3", "flushing what came before a clear or drop") \
    X(open_unclean, "F5", "marking the manifest as open") \
    X(manifest_new_sync, "F2 M1", "syncing MANIFEST.new before it is renamed") \
    X(manifest_rename_last, "F2 M1", "renaming last: the sync comes after the rename") \
    X(manifest_dir_sync, "F3", "syncing the directory after the rename") \
    X(manifest_append_sync, "F3 M3", "syncing an appended edit") \
    X(manifest_strike_out, "F7 M4", "striking out a frame header that ran out of space") \
    X(manifest_strike_sync, "F7 M4", "syncing that") \
    X(manifest_frame_key, "F6 M2", "store, incarnation and salt in the key of a frame's checksum") \
    X(manifest_frame_checksum, "F6 M2", "looking at the checksum of a frame") \
    X(manifest_header_checksum, "F6", "looking at the checksum of the manifest's header") \
    X(manifest_frame_behind, "F6 M3", "looking for a valid frame behind an invalid one") \
    X(manifest_cursor_twice, "F6", "refusing a cursor's name that was there already behind one position") \
    X(edition_early, "F6 E1", "noting an edition only when it is durable") \
    X(edition_sync, "F6 M3", "syncing the note of an edit") \
    X(edition_check, "F6 E3", "looking at the check of a note") \
    X(edition_compare, "F6 E1", "comparing the manifest with the edition that LOCK notes") \
    X(durable_note_early, "F3 F6 Q3", "noting a sequence only when it is durable") \
    X(durable_note_compare, "F6 Q3", "comparing the end of the log with what LOCK notes") \
    X(edition_segment, "F6 E1", "comparing it with what the headers of log segments note") \
    X(registry_poison, "F7 A2", "the sticky error after a change with an unknown outcome") \
    X(registry_publish, "F7 V5", "publishing only what was written") \
    X(registry_bound, "F3 A4", "the durable bound above a file number that is handed out") \
    X(table_sync, "F2 W3", "syncing a finished table") \
    X(table_key, "F6 M2", "store and number in the keys of a table's checksums") \
    X(table_offset_key, "F6 M2", "the place in the keys of a table's checksums") \
    X(table_piece_checksum, "F6 M2", "looking at the checksum of a block or section") \
    X(table_footer_checksum, "F6 M4", "looking at the checksum of the footer") \
    X(table_identity, "F6", "comparing store and number in the footer") \
    X(table_meta, "F6 T3", "comparing a table with what the manifest says of it") \
    X(table_page_order, "F6 X4", "keeping a page of an index between the separators beside it") \
    X(table_page_missing, "F6 T6", "passing keys whose page of the filter is not in memory") \
    X(table_files_most, "TF2", "closing a table's file for another when the set is full") \
    X(table_files_pinned, "F7 TF1", "leaving a file open that a read has pinned") \
    X(table_files_give, "F7 TF4", "closing others when there is no descriptor left")

#ifdef PLEAT_MUTATIONS

enum mutation {
    MUTATION_none,
#define MUTATION_ENUM(name, promise, what) MUTATION_##name,
    MUTATIONS(MUTATION_ENUM)
#undef MUTATION_ENUM
};

extern enum mutation mutation_planted;
#define MUTATION(name) __builtin_expect(mutation_planted == MUTATION_##name, 0)

#else
#define MUTATION(name) false
#endif

#endif
