/*
 * space.c - named, isolated ordered maps: open, create, drop, clear, list.
 *
 * Creating is one manifest edit. Dropping and clearing change content, so they take a sequence number of their own: the
 * memtables of all spaces are flushed, then one manifest edit removes the tables and says the new last sequence. The
 * log that follows starts behind it. Nothing of the space is read.
 */
#include "base/assert.h"
#include "db/db.h"

#include <inttypes.h>
#include <string.h>

struct pleat_space *pleat_default_space(struct pleat_db *db) {
    return db != NULL ? db->default_space : NULL;
}

/* A handle for a space of the current version; one per space. open_mu held. */
static int space_handle(struct pleat_db *db, const struct tree *tree, uint32_t slot, struct pleat_space **ret_space,
                        struct pleat_error *err) {
    for (struct pleat_space *space = db->spaces; space != NULL; space = space->next) {
        if (space->info.id == tree->space.id) {
            *ret_space = space;
            return 0;
        }
    }
    struct pleat_space *space = mem_zalloc(db->mem, 1, sizeof *space);
    if (space == NULL) {
        return error_no_memory(err, "a space handle", sizeof *space);
    }
    space->db = db;
    space->info = tree->space;
    space->slot = slot;
    space->next = db->spaces;
    db->spaces = space;
    *ret_space = space;
    return 0;
}

/* Given options must equal the stored ones where they are set. */
static int space_check_options(const struct pleat_space_options *given, const struct space_info *info,
                               struct pleat_error *err) {
    const struct {
        const char *name;
        uint32_t given, stored;
    } rows[] = {{"codec", given->codec, info->codec},
                {"block_bytes", given->block_bytes, info->block_bytes},
                {"group_bytes", given->group_bytes, info->grouping.bytes},
                {"group_delimiters", given->group_delimiters, info->grouping.delimiters},
                {"group_delimiter", given->group_delimiters != 0 ? given->group_delimiter : 0,
                 given->group_delimiters != 0 ? info->grouping.delimiter : 0}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        /* A delimiter is set with its count: the byte zero is one like any other. */
        bool set = rows[i].given != 0 || (i == 4 && given->group_delimiters != 0);
        if (set && rows[i].given != rows[i].stored) {
            return error_set(err, PLEAT_ERR_INVALID, 0,
                             "space option %s is %" PRIu32 ", the space was created with %" PRIu32, rows[i].name,
                             rows[i].given, rows[i].stored);
        }
    }
    return 0;
}

void space_info_fill(struct space_info *info, uint32_t id, struct pleat_slice name,
                     const struct pleat_space_options *resolved) {
    memset(info, 0, sizeof *info);
    info->id = id;
    info->name_bytes = (uint32_t)name.bytes;
    memcpy(info->name, name.data, name.bytes);
    info->block_bytes = resolved->block_bytes;
    info->codec = (uint8_t)resolved->codec;
    info->grouping = (struct table_grouping){
        .bytes = resolved->group_bytes,
        .delimiters = resolved->group_delimiters,
        .delimiter = resolved->group_delimiter,
    };
}

/* view_apply; what is on the disk without need gives way to it when that is full. */
static int space_apply(struct pleat_db *db, struct edit *edit, struct pleat_error *err) {
    int rc = view_apply(db, edit, err);
    if (rc == PLEAT_ERR_NO_SPACE && !MUTATION(spare_hoards)) {
        work_give_space(db);
        error_clear(err);
        rc = view_apply(db, edit, err);
    }
    return rc;
}

static int space_create(struct pleat_db *db, struct pleat_slice name, const struct pleat_space_options *resolved,
                        struct pleat_error *err) {
    int rc = db_writable(db, err);
    if (rc < 0) {
        return rc;
    }
    struct edit edit;
    edit_init(&edit, db->mem);
    edit.has_space = true;
    space_info_fill(&edit.space, registry_next_space(db->registry), name, resolved);
    rc = space_apply(db, &edit, err);
    edit_fini(&edit);
    return rc;
}

static int space_open_locked(struct pleat_db *db, struct pleat_slice name, const struct pleat_space_options *given,
                             const struct pleat_space_options *resolved, struct pleat_space **ret_space,
                             struct pleat_error *err) {
    struct version *version = registry_current(db->registry);
    int slot = version_slot_by_name(version, name);
    int rc = 0;
    if (slot >= 0 && resolved->open_mode == PLEAT_MUST_NOT_EXIST) {
        rc = error_set(err, PLEAT_ERR_EXISTS, 0, "a space of that name (%zu bytes) exists", name.bytes);
    } else if (slot >= 0) {
        rc = space_check_options(given, &version->trees[slot]->space, err);
    } else if (resolved->open_mode == PLEAT_MUST_EXIST) {
        rc = error_set(err, PLEAT_ERR_NOT_FOUND, 0, "no space of that name (%zu bytes)", name.bytes);
    } else {
        uint32_t live = 0;
        for (uint32_t i = 0; i < version->slots; i++) {
            live += version->trees[i] != NULL;
        }
        rc = live >= LIMIT_SPACES ? error_set(err, PLEAT_ERR_INVALID, 0,
                                              "the store has %" PRIu32 " spaces, the limit is %u", live, LIMIT_SPACES)
                                  : space_create(db, name, resolved, err);
        version_unref(version);
        version = registry_current(db->registry);
        slot = version_slot_by_name(version, name);
    }
    if (rc == 0) {
        ASSERT(slot >= 0);
        rc = space_handle(db, version->trees[slot], (uint32_t)slot, ret_space, err);
    }
    version_unref(version);
    return rc;
}

/* Lets go of the versions before a change. Without threads nobody else would, until the next step. No lock held. */
static void space_sweep(struct pleat_db *db) {
    view_sweep(db, db->options.background == PLEAT_BACKGROUND_STEPS);
    view_remove_files(db);
}

int pleat_space_open(struct pleat_db *db, struct pleat_slice name, const struct pleat_space_options *options,
                     struct pleat_space **ret_space, struct pleat_error *err) {
    error_clear(err);
    if (db == NULL || ret_space == NULL || name.data == NULL) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "%s is NULL",
                         db == NULL ? "db" : ret_space == NULL ? "ret_space" : "name");
    }
    if (name.bytes == 0 || name.bytes > LIMIT_SPACE_NAME_BYTES) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "space name of %zu bytes, the limits are 1 to %u", name.bytes,
                         LIMIT_SPACE_NAME_BYTES);
    }
    struct pleat_space_options resolved, given;
    int rc = db_check_owner(db, err); /* before the mutex */
    rc = rc == 0 ? space_options_resolve(options, &resolved, err) : rc;
    if (rc < 0) {
        return rc;
    }
    memset(&given, 0, sizeof given);
    if (options != NULL) {
        memcpy(&given, options, options->size < sizeof given ? options->size : sizeof given);
    }
    mutex_lock(&db->open_mu);
    rc = space_open_locked(db, name, &given, &resolved, ret_space, err);
    mutex_unlock(&db->open_mu);
    space_sweep(db);
    return rc;
}

/* The edit that removes the content, under a sequence number of its own. open_mu and commit_mu held. */
static int space_remove_content(struct pleat_space *space, bool drop, struct pleat_error *err) {
    struct pleat_db *db = space->db;
    int rc = MUTATION(clear_flush) ? 0 : generation_flush_all(db, err);
    if (rc < 0) {
        return rc;
    }
    struct edit edit;
    edit_init(&edit, db->mem);
    rc = cursor_set_reserve(&edit.cursors, db->cursors.count, err);
    if (rc == 0) {
        cursor_set_assign(&edit.cursors, &db->cursors);
        edit.has_position = true;
        edit.last_sequence = db_applied(db) + 1;
        edit.log_floor = db->active->segment;
        edit.drop_space = drop;
        edit.clear_space = !drop;
        edit.dropped_space = space->info.id;
        rc = space_apply(db, &edit, err);
    }
    if (rc == 0) {
        if (drop) {
            atomic_store_explicit(&space->dropped, true, memory_order_relaxed); /* commits look under commit_mu */
        }
        ASSERT(db_applied(db) == edit.last_sequence); /* published with the view: see view_on_version */
        db->active->first_sequence = edit.last_sequence + 1; /* still empty: its first commit comes after */
        sync_flushed(db, edit.last_sequence, &edit.cursors);
        sync_unlink_dead(db, edit.log_floor, false);
    }
    edit_fini(&edit);
    return rc;
}

static int space_remove(struct pleat_space *space, bool drop, struct pleat_error *err) {
    struct pleat_db *db = space->db;
    int rc = db_check_owner(db, err); /* before the mutexes */
    if (rc < 0) {
        return rc;
    }
    mutex_lock(&db->open_mu);
    mutex_lock(&db->commit_mu);
    rc = db_writable(db, err);
    if (rc == 0 && atomic_load_explicit(&space->dropped, memory_order_relaxed)) { /* ordered by commit_mu */
        rc = error_set(err, PLEAT_ERR_INVALID, 0, "the space (id %" PRIu32 ") has been dropped", space->info.id);
    }
    if (rc == 0) {
        work_block_slot(db, space->slot);
        rc = space_remove_content(space, drop, err);
        work_unblock_slot(db, space->slot);
    }
    mutex_unlock(&db->commit_mu);
    mutex_unlock(&db->open_mu);
    space_sweep(db);
    return rc;
}

int pleat_space_drop(struct pleat_space *space, struct pleat_error *err) {
    error_clear(err);
    if (space == NULL) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "space is NULL");
    }
    if (space == space->db->default_space) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "the default space cannot be dropped; it can be cleared");
    }
    return space_remove(space, true, err);
}

int pleat_space_clear(struct pleat_space *space, struct pleat_error *err) {
    error_clear(err);
    if (space == NULL) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "space is NULL");
    }
    return space_remove(space, false, err);
}

int pleat_space_list(struct pleat_db *db, int (*callback)(void *context, struct pleat_slice name), void *context,
                     struct pleat_error *err) {
    error_clear(err);
    if (db == NULL || callback == NULL) {
        return error_set(err, PLEAT_ERR_INVALID, 0, "%s is NULL", db == NULL ? "db" : "callback");
    }
    int rc = db_check_owner(db, err);
    if (rc < 0) {
        return rc;
    }
    struct version *version = registry_current(db->registry);
    uint32_t after = 0;
    bool first = true;
    for (;;) { /* ids count up, so their order is that of creation; slots may have been used again */
        const struct tree *next = NULL;
        for (uint32_t i = 0; i < version->slots; i++) {
            const struct tree *tree = version->trees[i];
            if (tree != NULL && (first || tree->space.id > after) &&
                (next == NULL || tree->space.id < next->space.id)) {
                next = tree;
            }
        }
        if (next == NULL || rc != 0) {
            break;
        }
        first = false;
        after = next->space.id;
        rc = callback(context, (struct pleat_slice){next->space.name, next->space.name_bytes});
    }
    version_unref(version);
    return rc;
}
