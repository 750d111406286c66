/*
 * edit_codec.h - edits and whole states as bytes: the payload of a manifest frame.
 *
 * A payload is a run of fields {varint tag, varint bytes, content}. Numbers inside are varints unless noted; a string
 * is {varint bytes, content}. An even tag that the reader does not know is refused (PLEAT_ERR_NEWER), an odd one is
 * passed over: that is how a later version adds what an earlier one may lose. A field has no bytes beyond its content.
 *
 *    tag  field          content
 *      2  number bound   bound
 *      4  space bound    bound
 *      6  position       last sequence, log floor, count of the cursor fields that follow; replaces all cursors
 *      8  cursor         string name, string value, string incarnation; names strictly ascending
 *     10  history        history, last sequence before it began
 *     12  clean          0 or 1
 *     14  space created  id, codec, block bytes, group bytes, group delimiters, delimiter, string name
 *     16  space dropped  id
 *     18  space cleared  id
 *     20  table removed  space, level, number
 *     22  table added    space, level, number, file bytes, entries, tombstones, key and value bytes, least sequence,
 *                        greatest sequence, least deadline, blocks, longest key, codec, filter,
 *                        footer checksum (u64, 8 bytes), string smallest key, string largest key
 *
 * Fields apply in the order in which they stand; an edit is written removals first, then drops and creations, then
 * additions, so that a number may go and come back (a move) within one edit.
 */
#ifndef PLEAT_VERSION_EDIT_CODEC_H
#define PLEAT_VERSION_EDIT_CODEC_H

#include "version/version_internal.h"

enum edit_field_tag {
    FIELD_NUMBER_BOUND = 2,
    FIELD_SPACE_BOUND = 4,
    FIELD_POSITION = 6,
    FIELD_CURSOR = 8,
    FIELD_HISTORY = 10,
    FIELD_CLEAN = 12,
    FIELD_SPACE_CREATED = 14,
    FIELD_SPACE_DROPPED = 16,
    FIELD_SPACE_CLEARED = 18,
    FIELD_TABLE_REMOVED = 20,
    FIELD_TABLE_ADDED = 22,
    FIELD_LOG_SYNCED = 24,
};

/* Collects a payload. The first failed allocation is kept; whoever encodes looks at it once, at the end. */
struct edit_encoder {
    const struct mem *mem;
    uint8_t *bytes;
    size_t used;
    size_t capacity;
    bool failed;
};

void edit_encoder_init(struct edit_encoder *encoder, const struct mem *mem);
void edit_encoder_fini(struct edit_encoder *encoder);
void edit_encode(struct edit_encoder *encoder, const struct edit *edit);
void edit_encode_number_bound(struct edit_encoder *encoder, uint64_t bound);
void edit_encode_log_synced(struct edit_encoder *encoder, uint64_t segment);
/* Everything that a reader needs to stand where this version stands. */
void edit_encode_state(struct edit_encoder *encoder, const struct version *version, const struct facts *facts,
                       const struct cursor_set *cursors);
/* 0, or NO_MEMORY when an allocation failed; INVALID when the payload is longer than a frame can be. */
int edit_encoder_verify(const struct edit_encoder *encoder, struct pleat_error *err);

/* One field, decoded and range-checked. */
struct edit_field {
    uint64_t tag;
    uint64_t values[3];       /* numbers of the field in order, where nothing below is filled in */
    uint32_t space;           /* of tables */
    uint8_t level;
    struct table_meta meta;   /* keys borrowed from the payload; removed: only the number */
    struct space_info info;
    struct wal_cursor cursor; /* borrowed from the payload */
};

struct edit_decoder {
    const uint8_t *begin;
    const uint8_t *next;
    const uint8_t *end;
    uint64_t file_offset;     /* of `begin`, for messages */
    uint64_t field_offset;    /* in the file, of the field that was read last */
};

void edit_decoder_init(struct edit_decoder *decoder, const uint8_t *payload, size_t bytes, uint64_t file_offset);
/* The next field that this version knows: 0, PLEAT_END, CORRUPT or NEWER. */
int edit_decoder_next(struct edit_decoder *decoder, struct edit_field *ret_field, struct pleat_error *err);

#endif
