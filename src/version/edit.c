/*
 * edit.c - edits under construction, cursor sets, and the ranges that every value of an edit must lie in.
 *
 * A cursor set is a sorted array of fixed-size entries: a store has a handful of cursors, and an entry that owns its
 * bytes in place can be replaced on the commit path without an allocation that might fail.
 */
#include "base/assert.h"
#include "base/bytes.h"
#include "base/error.h"
#include "version/version_internal.h"

#include <inttypes.h>

#define SPACE_BLOCK_BYTES_MIN 64u
#define SPACE_BLOCK_BYTES_MAX (1u << 20)

/* ---- cursor sets ------------------------------------------------------------------------------------------------ */

void cursor_set_init(struct cursor_set *set, const struct mem *mem) {
    *set = (struct cursor_set){.mem = mem};
}

void cursor_set_fini(struct cursor_set *set) {
    mem_free(set->mem, set->entries);
    set->entries = NULL;
    set->count = set->capacity = 0;
}

int cursor_set_reserve(struct cursor_set *set, size_t extra, struct pleat_error *err) {
    if (extra <= set->capacity - set->count) {
        return 0;
    }
    if (extra > SIZE_MAX / sizeof(struct cursor_entry) / 4 - set->count) {
        return error_no_memory(err, "cursors", UINT64_MAX);
    }
    size_t capacity = set->count + extra;
    if (capacity < 2 * set->capacity) {
        capacity = 2 * set->capacity;
    }
    struct cursor_entry *entries = mem_resize(set->mem, set->entries, capacity * sizeof *entries);
    if (entries == NULL) {
        return error_no_memory(err, "cursors", capacity * sizeof *entries);
    }
    set->entries = entries;
    set->capacity = capacity;
    return 0;
}

/* The index of the first name that is >= this one. */
static size_t cursor_set_lower_bound(const struct cursor_set *set, const void *name, size_t name_bytes) {
    size_t low = 0, high = set->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct cursor_entry *entry = &set->entries[middle];
        if (key_compare(entry->name, entry->name_bytes, name, name_bytes) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static bool cursor_entry_is(const struct cursor_set *set, size_t i, const void *name, size_t name_bytes) {
    return i < set->count &&
           key_compare(set->entries[i].name, set->entries[i].name_bytes, name, name_bytes) == 0;
}

static void bytes_put(uint8_t *to, uint16_t *to_bytes, const uint8_t *from, uint32_t bytes, uint32_t limit) {
    ASSERT(bytes <= limit);
    if (bytes > 0) {
        memcpy(to, from, bytes);
    }
    *to_bytes = (uint16_t)bytes;
}

void cursor_set_put(struct cursor_set *set, const struct wal_cursor *cursor) {
    size_t i = cursor_set_lower_bound(set, cursor->name, cursor->name_bytes);
    bool fresh = !cursor_entry_is(set, i, cursor->name, cursor->name_bytes);
    if (cursor->removes) {
        if (!fresh) {
            set->count--;
            memmove(&set->entries[i], &set->entries[i + 1], (set->count - i) * sizeof *set->entries);
        }
        return;
    }
    if (fresh) {
        ASSERT(set->count < set->capacity);
        memmove(&set->entries[i + 1], &set->entries[i], (set->count - i) * sizeof *set->entries);
        set->count++;
    }
    struct cursor_entry *entry = &set->entries[i];
    bytes_put(entry->name, &entry->name_bytes, cursor->name, cursor->name_bytes, sizeof entry->name);
    bytes_put(entry->value, &entry->value_bytes, cursor->value, cursor->value_bytes, sizeof entry->value);
    if (fresh || cursor->incarnation_bytes > 0) { /* empty: not said, so the stored one stays */
        bytes_put(entry->incarnation, &entry->incarnation_bytes, cursor->incarnation, cursor->incarnation_bytes,
                  sizeof entry->incarnation);
    }
}

const struct cursor_entry *cursor_set_find(const struct cursor_set *set, const void *name, size_t name_bytes) {
    size_t i = cursor_set_lower_bound(set, name, name_bytes);
    return cursor_entry_is(set, i, name, name_bytes) ? &set->entries[i] : NULL;
}

void cursor_set_assign(struct cursor_set *to, const struct cursor_set *from) {
    ASSERT(to->capacity >= from->count);
    if (from->count > 0) {
        memmove(to->entries, from->entries, from->count * sizeof *to->entries);
    }
    to->count = from->count;
}

/* ---- edits ------------------------------------------------------------------------------------------------------ */

void edit_init(struct edit *edit, const struct mem *mem) {
    *edit = (struct edit){.mem = mem};
    cursor_set_init(&edit->cursors, mem);
}

void edit_fini(struct edit *edit) {
    while (edit->added_count > 0) {
        edit_drop_table(edit);
    }
    mem_free(edit->mem, edit->added);
    mem_free(edit->mem, edit->removed);
    cursor_set_fini(&edit->cursors);
    *edit = (struct edit){.mem = edit->mem, .cursors = edit->cursors};
}

static int edit_grow(const struct mem *mem, struct edit_table **tables, size_t count, size_t *capacity,
                     struct pleat_error *err) {
    if (count < *capacity) {
        return 0;
    }
    size_t wanted = *capacity > 0 ? 2 * *capacity : 8;
    struct edit_table *grown =
        wanted <= SIZE_MAX / sizeof **tables ? mem_resize(mem, *tables, wanted * sizeof **tables) : NULL;
    if (grown == NULL) {
        return error_no_memory(err, "tables of an edit", wanted * sizeof **tables);
    }
    *tables = grown;
    *capacity = wanted;
    return 0;
}

int edit_add_table(struct edit *edit, uint32_t space, unsigned level, struct table_meta *meta,
                   struct pleat_error *err) {
    ASSERT(level < LIMIT_LEVELS);
    int rc = edit_grow(edit->mem, &edit->added, edit->added_count, &edit->added_capacity, err);
    if (rc == 0) {
        edit->added[edit->added_count++] =
            (struct edit_table){.space = space, .level = (uint8_t)level, .meta = *meta};
        *meta = (struct table_meta){0};
    }
    return rc;
}

int edit_take_tables(struct edit *edit, struct edit *from, struct pleat_error *err) {
    size_t count = from->added_count;
    int rc = 0;
    while (rc == 0 && edit->added_capacity - edit->added_count < count) {
        rc = edit_grow(edit->mem, &edit->added, edit->added_capacity, &edit->added_capacity, err);
    }
    if (rc < 0) {
        return rc;
    }
    if (count > 0) {
        memcpy(edit->added + edit->added_count, from->added, count * sizeof *from->added);
    }
    edit->added_count += count;
    from->added_count = 0;
    return 0;
}

void edit_drop_table(struct edit *edit) {
    struct edit_table *added = &edit->added[--edit->added_count];
    table_ref_unref(added->ref);
    table_meta_fini(edit->mem, &added->meta);
}

int edit_remove_table(struct edit *edit, uint32_t space, unsigned level, uint64_t number, struct pleat_error *err) {
    ASSERT(level < LIMIT_LEVELS);
    int rc = edit_grow(edit->mem, &edit->removed, edit->removed_count, &edit->removed_capacity, err);
    if (rc == 0) {
        edit->removed[edit->removed_count++] =
            (struct edit_table){.space = space, .level = (uint8_t)level, .meta = {.number = number}};
    }
    return rc;
}

/* ---- ranges ----------------------------------------------------------------------------------------------------- */

int fault_invalid(const struct fault *fault, struct pleat_error *err) {
    return error_set(err, PLEAT_ERR_INVALID, 0, "manifest edit: %s: expected %" PRIu64 ", found %" PRIu64,
                     fault->what, fault->expected, fault->found);
}

bool table_meta_fault(const struct table_meta *meta, struct fault *fault) {
    uint32_t longer = meta->smallest_bytes > meta->largest_bytes ? meta->smallest_bytes : meta->largest_bytes;
    if (meta->number == 0) {
        return fault_set(fault, "table number, least", 1, 0);
    }
    if (longer > LIMIT_KEY_BYTES) {
        return fault_set(fault, "bytes of a table's smallest or largest key, most", LIMIT_KEY_BYTES, longer);
    }
    if (meta->key_bytes_max > LIMIT_KEY_BYTES || meta->key_bytes_max < longer) {
        return fault_set(fault, "bytes of a table's longest key, least", longer, meta->key_bytes_max);
    }
    if (key_compare(meta->smallest, meta->smallest_bytes, meta->largest, meta->largest_bytes) > 0) {
        return fault_set(fault, "table whose smallest key is above its largest", 0, meta->number);
    }
    if (meta->file_bytes == 0 || meta->entries == 0) {
        return fault_set(fault, "bytes and entries of a table, least", 1, 0);
    }
    if (meta->blocks == 0 || meta->blocks > meta->entries) {
        return fault_set(fault, "blocks of a table, at least 1 and at most its entries", meta->entries, meta->blocks);
    }
    if (meta->tombstones > meta->entries) {
        return fault_set(fault, "tombstones of a table, at most its entries", meta->entries, meta->tombstones);
    }
    if (meta->sequence_min > meta->sequence_max) {
        return fault_set(fault, "least sequence of a table, at most its greatest", meta->sequence_max,
                         meta->sequence_min);
    }
    if (meta->codec != PLEAT_CODEC_LZ4 && meta->codec != PLEAT_CODEC_NONE) {
        return fault_set(fault, "codec of a table, at most", PLEAT_CODEC_NONE, meta->codec);
    }
    return meta->filter > FILTER_FUSE && fault_set(fault, "filter of a table, at most", FILTER_FUSE, meta->filter);
}

bool space_info_fault(const struct space_info *space, struct fault *fault) {
    if (space->name_bytes == 0 || space->name_bytes > LIMIT_SPACE_NAME_BYTES) {
        return fault_set(fault, "bytes of a space's name, at least 1 and at most", LIMIT_SPACE_NAME_BYTES,
                         space->name_bytes);
    }
    if (space->block_bytes < SPACE_BLOCK_BYTES_MIN || space->block_bytes > SPACE_BLOCK_BYTES_MAX) {
        return fault_set(fault, "block bytes of a space, at least 64 and at most", SPACE_BLOCK_BYTES_MAX,
                         space->block_bytes);
    }
    if (space->codec != PLEAT_CODEC_LZ4 && space->codec != PLEAT_CODEC_NONE) {
        return fault_set(fault, "codec of a space, at most", PLEAT_CODEC_NONE, space->codec);
    }
    if (space->grouping.bytes > LIMIT_KEY_BYTES) {
        return fault_set(fault, "group bytes of a space, at most", LIMIT_KEY_BYTES, space->grouping.bytes);
    }
    if (space->grouping.delimiters > LIMIT_KEY_BYTES) {
        return fault_set(fault, "group delimiters of a space, at most", LIMIT_KEY_BYTES, space->grouping.delimiters);
    }
    return space->grouping.bytes > 0 && space->grouping.delimiters > 0 &&
           fault_set(fault, "groupings of a space, at most", 1, 2);
}
