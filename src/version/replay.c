/*
 * replay.c - see replay.h.
 *
 *   R1  A table is alive while its `ref` is set and its space is alive with the same `life`: dropping or clearing a
 *       space is one step, however many tables it holds.
 *   R2  A number that was used stays in the index: it may come back only in the edit that removed it (a move).
 *   R3  Ids of spaces only go up; so do the bounds, the last sequence and the log floor.
 */
#include "version/replay.h"

#include "base/assert.h"
#include "base/bytes.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/mutation.h"
#include "version/registry_internal.h"

struct replay_table {
    struct table_ref *ref;    /* NULL: removed */
    uint64_t number;
    uint64_t offset;          /* of its field in the file */
    uint64_t removed_frame;   /* the frame that removed it; 0: none (frame 0 cannot) */
    uint32_t slot;
    uint32_t life;
    uint8_t level;
};

struct replay_space {
    struct space_info info;
    uint32_t life;            /* counts up when the slot is cleared, dropped or used anew */
    bool is_live;
};

void replay_init(struct replay *replay, struct registry *registry) {
    *replay = (struct replay){.registry = registry};
    cursor_set_init(&replay->cursors, registry->store.mem);
}

void replay_fini(struct replay *replay) {
    const struct mem *mem = replay->registry->store.mem;
    for (size_t i = 0; i < replay->table_count; i++) {
        if (replay->tables[i].ref != NULL) {
            table_ref_unref(replay->tables[i].ref);
        }
    }
    mem_free(mem, replay->tables);
    mem_free(mem, replay->index);
    mem_free(mem, replay->spaces);
    cursor_set_fini(&replay->cursors);
    replay->tables = NULL;
    replay->index = NULL;
    replay->spaces = NULL;
    replay->table_count = 0;
}

static int replay_corrupt(const struct edit_decoder *decoder, const char *what, uint64_t expected, uint64_t found,
                          struct pleat_error *err) {
    return error_corrupt(err, MANIFEST_NAME, decoder->field_offset, what, expected, found);
}

/* ---- spaces ----------------------------------------------------------------------------------------------------- */

static struct replay_space *replay_space_find(struct replay *replay, uint64_t id) {
    for (size_t i = 0; i < replay->space_count; i++) {
        size_t slot = replay->space_last + i;
        slot = slot < replay->space_count ? slot : slot - replay->space_count;
        if (replay->spaces[slot].is_live && replay->spaces[slot].info.id == id) {
            replay->space_last = slot;
            return &replay->spaces[slot];
        }
    }
    return NULL;
}

/* The lowest free slot. */
static int replay_space_slot(struct replay *replay, size_t *ret_slot, struct pleat_error *err) {
    size_t slot = 0;
    while (slot < replay->space_count && replay->spaces[slot].is_live) {
        slot++;
    }
    if (slot == replay->space_capacity) {
        size_t capacity = slot > 0 ? 2 * slot : 4;
        struct replay_space *grown =
            mem_resize(replay->registry->store.mem, replay->spaces, capacity * sizeof *grown);
        if (grown == NULL) {
            return error_no_memory(err, "spaces", capacity * sizeof *grown);
        }
        replay->spaces = grown;
        replay->space_capacity = capacity;
    }
    if (slot == replay->space_count) {
        replay->spaces[slot] = (struct replay_space){0};
        replay->space_count++;
    }
    *ret_slot = slot;
    return 0;
}

static int replay_space_create(struct replay *replay, const struct edit_decoder *decoder,
                               const struct space_info *info, struct pleat_error *err) {
    if (info->id < replay->facts.space_bound) {
        return replay_corrupt(decoder, "id of a new space, least", replay->facts.space_bound, info->id, err);
    }
    for (size_t slot = 0; slot < replay->space_count; slot++) {
        const struct replay_space *space = &replay->spaces[slot];
        if (space->is_live &&
            key_compare(space->info.name, space->info.name_bytes, info->name, info->name_bytes) == 0) {
            return replay_corrupt(decoder, "second space of one name", space->info.id, info->id, err);
        }
    }
    size_t slot = 0;
    int rc = replay_space_slot(replay, &slot, err);
    if (rc < 0) {
        return rc;
    }
    if (slot >= LIMIT_SPACES) {
        return replay_corrupt(decoder, "spaces, at most", LIMIT_SPACES, slot + 1, err);
    }
    replay->spaces[slot].info = *info;
    replay->spaces[slot].is_live = true;
    replay->spaces[slot].life++;
    replay->space_last = slot;
    replay->facts.space_bound = (uint64_t)info->id + 1;
    return 0;
}

static int replay_space_end(struct replay *replay, const struct edit_decoder *decoder, uint64_t id, bool is_drop,
                            struct pleat_error *err) {
    struct replay_space *space = replay_space_find(replay, id);
    if (space == NULL) {
        return replay_corrupt(decoder, "drop or clear of a space that is not there", 0, id, err);
    }
    space->life++;
    space->is_live = !is_drop;
    return 0;
}

/* ---- tables ----------------------------------------------------------------------------------------------------- */

/* The place of `number` in the index: its own, or the free one where it belongs. */
static size_t replay_index_place(const struct replay *replay, uint64_t number) {
    size_t mask = replay->index_capacity - 1;
    size_t place = (size_t)hash_mix(number, 0) & mask;
    while (replay->index[place] != 0 && replay->tables[replay->index[place] - 1].number != number) {
        place = (place + 1) & mask;
    }
    return place;
}

static struct replay_table *replay_table_find(const struct replay *replay, uint64_t number) {
    if (replay->index_capacity == 0) {
        return NULL;
    }
    uint32_t entry = replay->index[replay_index_place(replay, number)];
    return entry != 0 ? &replay->tables[entry - 1] : NULL;
}

static bool replay_table_is_live(const struct replay *replay, const struct replay_table *table) {
    const struct replay_space *space = &replay->spaces[table->slot];
    return table->ref != NULL && space->is_live && space->life == table->life; /* R1 */
}

/* Room for one more table, the index at most half full. */
static int replay_table_reserve(struct replay *replay, struct pleat_error *err) {
    const struct mem *mem = replay->registry->store.mem;
    if (replay->table_count < replay->table_capacity) {
        return 0;
    }
    size_t capacity = replay->table_capacity > 0 ? 2 * replay->table_capacity : 16;
    struct replay_table *tables = mem_resize(mem, replay->tables, capacity * sizeof *tables);
    if (tables == NULL) {
        return error_no_memory(err, "tables of the manifest", capacity * sizeof *tables);
    }
    replay->tables = tables;
    uint32_t *index = capacity < UINT32_MAX / 2 ? mem_zalloc(mem, 2 * capacity, sizeof *index) : NULL;
    if (index == NULL) {
        return error_no_memory(err, "index of the manifest", 2 * capacity * sizeof *index);
    }
    mem_free(mem, replay->index);
    replay->index = index;
    replay->index_capacity = 2 * capacity;
    replay->table_capacity = capacity;
    for (size_t i = 0; i < replay->table_count; i++) {
        index[replay_index_place(replay, tables[i].number)] = (uint32_t)i + 1;
    }
    return 0;
}

static int replay_table_remove(struct replay *replay, const struct edit_decoder *decoder,
                               const struct edit_field *field, struct pleat_error *err) {
    struct replay_table *table = replay_table_find(replay, field->meta.number);
    if (table == NULL || !replay_table_is_live(replay, table) || table->level != field->level ||
        replay->spaces[table->slot].info.id != field->space) {
        return replay_corrupt(decoder, "removal of a table that is not there", 0, field->meta.number, err);
    }
    table_ref_unref(table->ref);
    table->ref = NULL;
    table->removed_frame = replay->frames;
    return 0;
}

static int replay_table_add(struct replay *replay, const struct edit_decoder *decoder,
                            const struct edit_field *field, struct pleat_error *err) {
    const struct replay_space *space = replay_space_find(replay, field->space);
    if (space == NULL) {
        return replay_corrupt(decoder, "table of a space that is not there", 0, field->space, err);
    }
    uint32_t slot = (uint32_t)(space - replay->spaces);
    if (field->meta.number >= replay->facts.number_bound) {
        return replay_corrupt(decoder, "table number, below", replay->facts.number_bound, field->meta.number, err);
    }
    struct replay_table *table = replay_table_find(replay, field->meta.number);
    if (table != NULL && (table->ref != NULL || table->removed_frame != replay->frames || replay->frames == 0 ||
                          table->slot != slot || table->life != space->life)) {
        return replay_corrupt(decoder, "second table of one number", table->offset, field->meta.number, err);
    }
    if (table == NULL) {
        int rc = replay_table_reserve(replay, err);
        if (rc < 0) {
            return rc;
        }
        table = &replay->tables[replay->table_count];
        *table = (struct replay_table){.number = field->meta.number};
        replay->index[replay_index_place(replay, table->number)] = (uint32_t)replay->table_count + 1;
        replay->table_count++;
    }
    table->ref = table_ref_new(replay->registry, &field->meta);
    table->offset = decoder->field_offset;
    table->slot = slot;
    table->life = space->life;
    table->level = field->level;
    return table->ref != NULL ? 0 : error_no_memory(err, "a table of the manifest", sizeof *table->ref);
}

/* ---- facts and cursors ------------------------------------------------------------------------------------------ */

/* R3. */
static int replay_raise(uint64_t *value, uint64_t to, const struct edit_decoder *decoder, const char *what,
                        struct pleat_error *err) {
    if (to < *value) {
        return replay_corrupt(decoder, what, *value, to, err);
    }
    *value = to;
    return 0;
}

static int replay_position(struct replay *replay, const struct edit_decoder *decoder, const uint64_t *values,
                           struct pleat_error *err) {
    int rc = replay_raise(&replay->facts.last_sequence, values[0], decoder, "last sequence, least", err);
    if (rc == 0) {
        rc = replay_raise(&replay->facts.log_floor, values[1], decoder, "log floor, least", err);
    }
    replay->cursors.count = 0;
    replay->cursors_missing = values[2];
    return rc;
}

static int replay_cursor(struct replay *replay, const struct edit_decoder *decoder, const struct wal_cursor *cursor,
                         struct pleat_error *err) {
    struct cursor_set *set = &replay->cursors;
    if (replay->cursors_missing == 0) {
        return replay_corrupt(decoder, "cursor that no position announced", 0, 1, err);
    }
    if (set->count > 0) {
        const struct cursor_entry *last = &set->entries[set->count - 1];
        int order = key_compare(last->name, last->name_bytes, cursor->name, cursor->name_bytes);
        if (order >= 0 && !(MUTATION(manifest_cursor_twice) && order == 0)) {
            return replay_corrupt(decoder, "cursor out of order, its place", set->count, set->count - 1, err);
        }
    }
    int rc = cursor_set_reserve(set, 1, err);
    if (rc == 0) {
        cursor_set_put(set, cursor);
        replay->cursors_missing--;
    }
    return rc;
}

static int replay_field(struct replay *replay, const struct edit_decoder *decoder, const struct edit_field *field,
                        struct pleat_error *err) {
    struct facts *facts = &replay->facts;
    switch (field->tag) {
    case FIELD_NUMBER_BOUND:
        return replay_raise(&facts->number_bound, field->values[0], decoder, "bound of file numbers, least", err);
    case FIELD_LOG_SYNCED:
        return replay_raise(&facts->log_synced, field->values[0], decoder, "newest synced segment, least", err);
    case FIELD_SPACE_BOUND:
        return replay_raise(&facts->space_bound, field->values[0], decoder, "bound of space ids, least", err);
    case FIELD_POSITION:
        return replay_position(replay, decoder, field->values, err);
    case FIELD_CURSOR:
        return replay_cursor(replay, decoder, &field->cursor, err);
    case FIELD_HISTORY:
        facts->history = field->values[0];
        facts->history_sequence = field->values[1];
        return 0;
    case FIELD_CLEAN:
        facts->clean = field->values[0] != 0;
        return 0;
    case FIELD_SPACE_CREATED:
        return replay_space_create(replay, decoder, &field->info, err);
    case FIELD_SPACE_DROPPED:
        return replay_space_end(replay, decoder, field->values[0], true, err);
    case FIELD_SPACE_CLEARED:
        return replay_space_end(replay, decoder, field->values[0], false, err);
    case FIELD_TABLE_REMOVED:
        return replay_table_remove(replay, decoder, field, err);
    default:
        ASSERT(field->tag == FIELD_TABLE_ADDED);
        return replay_table_add(replay, decoder, field, err);
    }
}

int replay_frame(struct replay *replay, const uint8_t *payload, size_t bytes, uint64_t offset,
                 struct pleat_error *err) {
    struct edit_decoder decoder;
    struct edit_field field;
    edit_decoder_init(&decoder, payload, bytes, offset);
    int rc;
    while ((rc = edit_decoder_next(&decoder, &field, err)) == 0) {
        rc = replay_field(replay, &decoder, &field, err);
        if (rc < 0) {
            return rc;
        }
    }
    if (rc < 0) {
        return rc;
    }
    if (replay->cursors_missing > 0) {
        return replay_corrupt(&decoder, "cursors missing behind a position", 0, replay->cursors_missing, err);
    }
    replay->frames++;
    return 0;
}

/* ---- the version ------------------------------------------------------------------------------------------------ */

/* Makes the trees with room for what each level will hold. */
static int replay_trees(struct replay *replay, struct version *version, struct pleat_error *err) {
    const struct mem *mem = replay->registry->store.mem;
    int rc = 0;
    size_t *counts = mem_zalloc(mem, replay->space_count, LIMIT_LEVELS * sizeof *counts);
    if (counts == NULL) {
        return error_no_memory(err, "levels of the manifest", replay->space_count * LIMIT_LEVELS * sizeof *counts);
    }
    for (size_t i = 0; i < replay->table_count; i++) {
        const struct replay_table *table = &replay->tables[i];
        if (replay_table_is_live(replay, table)) {
            counts[table->slot * LIMIT_LEVELS + table->level]++;
        }
    }
    for (size_t slot = 0; slot < replay->space_count; slot++) {
        version->slots = (uint32_t)slot + 1;
        if (!replay->spaces[slot].is_live) {
            continue;
        }
        struct tree *tree = tree_new(replay->registry, &replay->spaces[slot].info);
        if (tree == NULL) {
            rc = error_no_memory(err, "a space", sizeof *tree);
            goto done;
        }
        version->trees[slot] = tree;
        for (unsigned i = 0; rc == 0 && i < LIMIT_LEVELS; i++) {
            rc = level_reserve(mem, &tree->levels[i], counts[slot * LIMIT_LEVELS + i], err);
        }
        if (rc < 0) {
            goto done;
        }
    }
done:
    mem_free(mem, counts);
    return rc;
}

int replay_finish(struct replay *replay, struct version **ret_version, struct pleat_error *err) {
    const struct mem *mem = replay->registry->store.mem;
    struct version *version = version_new(replay->registry, NULL);
    if (version == NULL) {
        return error_no_memory(err, "a version", sizeof *version);
    }
    version->last_sequence = replay->facts.last_sequence;
    version->log_floor = replay->facts.log_floor;
    int rc = replay_trees(replay, version, err);
    if (rc < 0) {
        goto failed;
    }
    for (size_t i = 0; i < replay->table_count; i++) {
        const struct replay_table *table = &replay->tables[i];
        if (replay_table_is_live(replay, table)) {
            level_push(&version->trees[table->slot]->levels[table->level], table->ref);
        }
    }
    for (uint32_t slot = 0; slot < version->slots; slot++) {
        for (unsigned i = 0; version->trees[slot] != NULL && i < LIMIT_LEVELS; i++) {
            struct fault fault = {0};
            rc = level_finish(mem, &version->trees[slot]->levels[i], i, &fault, err);
            if (rc < 0) {
                if (fault.what != NULL) {
                    const struct replay_table *table = replay_table_find(replay, fault.found);
                    rc = error_corrupt(err, MANIFEST_NAME, table != NULL ? table->offset : 0, fault.what,
                                       fault.expected, fault.found);
                }
                goto failed;
            }
        }
    }
    *ret_version = version;
    return 0;
failed:
    version_unref(version);
    return rc;
}
