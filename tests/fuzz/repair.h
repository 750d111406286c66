/*
 * repair.h - hostile files with right checksums: recomputes those that a mutation has broken.
 *
 * Each function works in place on a whole file and changes identity and checksums only; lengths, counts, sequences and
 * everything else that the mutation made stay as they are. Whatever cannot be reached because a length leads nowhere is
 * left alone.
 */
#ifndef PLEAT_TESTS_FUZZ_REPAIR_H
#define PLEAT_TESTS_FUZZ_REPAIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Header and records of a log segment. `dense`: the sequences of its records, too, from the header's first on. */
void repair_segment(uint8_t *bytes, size_t size, const uint8_t *store_id, uint64_t segment, bool dense);
/* Blocks, pages, sections and footer of a table file; returns the footer's checksum, which the manifest names. */
uint64_t repair_table(uint8_t *bytes, size_t size, const uint8_t *store_id, uint64_t number);
/* Header and frames of a MANIFEST. footer_checksum (may be NULL) gives that of a table's file, which is put in the
 * fields that add it: 0 when there is no such file. */
void repair_manifest(uint8_t *bytes, size_t size, uint64_t (*footer_checksum)(void *context, uint64_t number),
                     void *context);

#endif
