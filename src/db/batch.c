/*
 * batch.c - updates and cursors collected in the log's own encoding, so that a commit copies once.
 *
 * Every check that needs no state of the store is made here, when the update is added, so that pleat_commit has nothing
 * left to refuse but the state: dropped spaces, cursors, room.
 */
#include "db/db.h"

#include <inttypes.h>
#include <string.h>

int pleat_batch_new(struct pleat_db *db, struct pleat_batch **ret_batch, struct pleat_error *err) {
    error_clear(err);
    if (db == NULL || ret_batch == NULL) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "%s is NULL", db == NULL ? "db" : "ret_batch");
    }
    struct pleat_batch *batch = mem_zalloc(db->mem, 1, sizeof *batch);
    if (batch == NULL) {
        return error_no_memory(err, "a batch", sizeof *batch);
    }
    batch->db = db;
    wal_record_init(&batch->record, db->mem);
    *ret_batch = batch;
    return 0;
}

void pleat_batch_free(struct pleat_batch *batch) {
    if (batch == NULL) {
        return;
    }
    const struct mem *mem = batch->record.mem;
    wal_record_fini(&batch->record);
    mem_free(mem, batch->spaces);
    mem_free(mem, batch->expectations);
    mem_free(mem, batch);
}

void pleat_batch_clear(struct pleat_batch *batch) {
    if (batch != NULL) {
        wal_record_clear(&batch->record);
        batch->arena_bytes_max = 0;
        batch->bytes_given = 0;
        batch->space_count = 0;
        batch->expectation_count = 0;
    }
}

size_t pleat_batch_count(const struct pleat_batch *batch) {
    return batch != NULL ? batch->record.entries : 0;
}

uint64_t pleat_batch_bytes(const struct pleat_batch *batch) {
    return batch != NULL ? wal_record_bytes(&batch->record) : 0;
}

/* Whether the batch is known to touch `space`. The last one is looked at first: batches run over few spaces. */
static bool batch_has_space(const struct pleat_batch *batch, const struct pleat_space *space) {
    for (size_t i = batch->space_count; i > 0; i--) {
        if (batch->spaces[i - 1] == space) {
            return true;
        }
    }
    return false;
}

/* Room for one further space, so that noting it cannot fail once its update is in the record. */
static int batch_reserve_space(struct pleat_batch *batch, struct pleat_error *err) {
    if (batch->space_count < batch->space_capacity) {
        return 0;
    }
    size_t capacity = batch->space_capacity > 0 ? batch->space_capacity * 2 : 4;
    struct pleat_space **spaces = mem_resize(batch->record.mem, batch->spaces, capacity * sizeof *spaces);
    if (spaces == NULL) {
        return error_no_memory(err, "a batch's spaces", capacity * sizeof *spaces);
    }
    batch->spaces = spaces;
    batch->space_capacity = capacity;
    return 0;
}

static int batch_check(const struct pleat_batch *batch, const struct pleat_space *space, struct pleat_slice key,
                       struct pleat_error *err) {
    if (batch == NULL || space == NULL) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "%s is NULL", batch == NULL ? "batch" : "space");
    }
    if (space->db != batch->db) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "the batch is of another store than the space");
    }
    if (atomic_load_explicit(&space->dropped, memory_order_relaxed)) { /* an early error; commit looks again */
        return error_set(err, PLEAT_ERR_INVALID, 0, "the space (id %" PRIu32 ") has been dropped", space->info.id);
    }
    if (key.bytes > LIMIT_KEY_BYTES) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "key of %zu bytes, the limit is %u", key.bytes, LIMIT_KEY_BYTES);
    }
    if (key.data == NULL && key.bytes > 0) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "key is NULL with a length of %zu bytes", key.bytes);
    }
    return 0;
}

/* The one way in for every update. `value` NULL with bytes > 0 leaves room. */
static int batch_add(struct pleat_batch *batch, struct pleat_space *space, struct pleat_slice key, uint8_t kind,
                     struct pleat_slice value, const struct pleat_attributes *attributes, void **ret_value,
                     struct pleat_error *err) {
    int rc = batch_check(batch, space, key, err);
    if (rc < 0) {
        return rc;
    }
    if (value.bytes > batch->db->options.value_bytes_max) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "value of %zu bytes, the limit is %" PRIu64, value.bytes,
                         batch->db->options.value_bytes_max);
    }
    uint64_t entry_bytes = (uint64_t)key.bytes + value.bytes + (attributes != NULL ? attributes->version.bytes : 0);
    if (entry_bytes > LIMIT_ENTRY_BYTES) {
        return error_set(err, PLEAT_ERR_INVALID, 0,
                         "key, value and version of %" PRIu64 " bytes together, the limit is %llu", entry_bytes,
                         LIMIT_ENTRY_BYTES);
    }
    struct entry entry = {
        .key = key.data,
        .key_bytes = (uint32_t)key.bytes,
        .value = value.data,
        .value_bytes = (uint32_t)value.bytes,
        .kind = kind,
    };
    if (attributes != NULL) {
        if (attributes->version.bytes > LIMIT_VERSION_BYTES ||
            (attributes->version.data == NULL && attributes->version.bytes > 0)) {
            return error_set(err, PLEAT_ERR_INVALID, 0, "version of %zu bytes%s, the limit is %u",
                             attributes->version.bytes, attributes->version.data == NULL ? " at NULL" : "",
                             LIMIT_VERSION_BYTES);
        }
        entry.version = attributes->version.data;
        entry.version_bytes = (uint8_t)attributes->version.bytes;
        entry.has_flag = attributes->has_flag;
        entry.flag = attributes->flag;
    }
    bool known = batch_has_space(batch, space);
    rc = known ? 0 : batch_reserve_space(batch, err);
    if (rc == 0) {
        rc = wal_record_add(&batch->record, space->info.id, &entry, ret_value, err);
    }
    if (rc == 0) {
        if (!known) {
            batch->spaces[batch->space_count++] = space;
        }
        /* Attributes travel in the record beside the value: counted as value bytes. */
        batch->arena_bytes_max += memtable_entry_bytes_max(key.bytes, value.bytes);
        batch->bytes_given += key.bytes + value.bytes;
    }
    return rc;
}

int pleat_batch_put(struct pleat_batch *batch, struct pleat_space *space, struct pleat_slice key,
                    struct pleat_slice value, struct pleat_error *err) {
    return pleat_batch_put_with(batch, space, key, value, NULL, err);
}

int pleat_batch_put_with(struct pleat_batch *batch, struct pleat_space *space, struct pleat_slice key,
                         struct pleat_slice value, const struct pleat_attributes *attributes, struct pleat_error *err) {
    error_clear(err);
    if (value.data == NULL && value.bytes > 0) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "value is NULL with a length of %zu bytes", value.bytes);
    }
    return batch_add(batch, space, key, ENTRY_PUT, value, attributes, NULL, err);
}

int pleat_batch_reserve(struct pleat_batch *batch, struct pleat_space *space, struct pleat_slice key,
                        size_t value_bytes, const struct pleat_attributes *attributes, void **ret_value,
                        struct pleat_error *err) {
    error_clear(err);
    if (ret_value == NULL) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "ret_value is NULL");
    }
    return batch_add(batch, space, key, ENTRY_PUT, (struct pleat_slice){NULL, value_bytes}, attributes, ret_value, err);
}

int pleat_batch_delete(struct pleat_batch *batch, struct pleat_space *space, struct pleat_slice key,
                       struct pleat_error *err) {
    error_clear(err);
    return batch_add(batch, space, key, ENTRY_DELETE, (struct pleat_slice){NULL, 0}, NULL, NULL, err);
}

static int batch_check_field(const char *what, struct pleat_slice field, size_t limit, struct pleat_error *err) {
    if (field.bytes > limit) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "%s of %zu bytes, the limit is %zu", what, field.bytes, limit);
    }
    if (field.data == NULL && field.bytes > 0) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "%s is NULL with a length of %zu bytes", what, field.bytes);
    }
    return 0;
}

int pleat_batch_set_cursor(struct pleat_batch *batch, const struct pleat_cursor *cursor, struct pleat_error *err) {
    error_clear(err);
    if (batch == NULL || cursor == NULL) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "%s is NULL", batch == NULL ? "batch" : "cursor");
    }
    int rc = batch_check_field("cursor name", cursor->name, LIMIT_CURSOR_NAME_BYTES, err);
    rc = rc == 0 ? batch_check_field("cursor", cursor->value, LIMIT_CURSOR_BYTES, err) : rc;
    rc = rc == 0 ? batch_check_field("incarnation", cursor->incarnation, LIMIT_INCARNATION_BYTES, err) : rc;
    if (rc < 0) {
        return rc;
    }
    struct wal_cursor encoded = {
        .name = cursor->name.data,
        .name_bytes = (uint32_t)cursor->name.bytes,
        .value = cursor->value.data,
        .value_bytes = (uint32_t)cursor->value.bytes,
        .incarnation = cursor->incarnation.data,
        .incarnation_bytes = (uint32_t)cursor->incarnation.bytes,
        .replace_incarnation = cursor->replace_incarnation,
    };
    return wal_record_set_cursor(&batch->record, &encoded, err);
}

int pleat_batch_remove_cursor(struct pleat_batch *batch, struct pleat_slice name, struct pleat_error *err) {
    error_clear(err);
    if (batch == NULL) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "batch is NULL");
    }
    int rc = batch_check_field("cursor name", name, LIMIT_CURSOR_NAME_BYTES, err);
    if (rc < 0) {
        return rc;
    }
    struct wal_cursor encoded = {.name = name.data, .name_bytes = (uint32_t)name.bytes, .removes = true};
    return wal_record_set_cursor(&batch->record, &encoded, err);
}

int pleat_batch_expect_cursor(struct pleat_batch *batch, struct pleat_slice name, const struct pleat_slice *value,
                              struct pleat_error *err) {
    error_clear(err);
    if (batch == NULL) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "batch is NULL");
    }
    int rc = batch_check_field("cursor name", name, LIMIT_CURSOR_NAME_BYTES, err);
    rc = rc == 0 && value != NULL ? batch_check_field("expected cursor", *value, LIMIT_CURSOR_BYTES, err) : rc;
    if (rc < 0) {
        return rc;
    }
    if (batch->expectation_count == batch->expectation_capacity) {
        size_t capacity = batch->expectation_capacity > 0 ? batch->expectation_capacity * 2 : 1;
        struct batch_expectation *grown =
            mem_resize(batch->record.mem, batch->expectations, capacity * sizeof *grown);
        if (grown == NULL) {
            return error_no_memory(err, "a batch's expected cursors", capacity * sizeof *grown);
        }
        batch->expectations = grown;
        batch->expectation_capacity = capacity;
    }
    struct batch_expectation *expectation = &batch->expectations[batch->expectation_count++];
    memset(expectation, 0, sizeof *expectation);
    expectation->present = value != NULL;
    expectation->cursor.name_bytes = (uint16_t)name.bytes;
    if (name.bytes > 0) {
        memcpy(expectation->cursor.name, name.data, name.bytes);
    }
    if (value != NULL && value->bytes > 0) {
        expectation->cursor.value_bytes = (uint16_t)value->bytes;
        memcpy(expectation->cursor.value, value->data, value->bytes);
    }
    return 0;
}
