/* output.c - see output.h. */
#include "compaction/output.h"

#include "base/bytes.h"
#include "base/error.h"

/* A table that overlaps this many tables' worth of the level below would be a large job to compact. */
#define BELOW_TABLES_MAX 10

uint8_t output_codec(const struct space_info *space, unsigned level) {
    return level == 0 ? PLEAT_CODEC_NONE : space->codec;
}

uint8_t output_filter(unsigned level) {
    return level == 0 ? FILTER_BLOOM : FILTER_FUSE;
}

void output_init(struct output *output, struct registry *registry, const struct version *version, uint32_t slot,
                 const struct compaction_options *options, unsigned level, uint64_t sequence_min, uint64_t sequence_max,
                 struct edit *edit) {
    const struct tree *tree = version->trees[slot];
    *output = (struct output){
        .registry = registry,
        .space = &tree->space,
        .options = options,
        .below = level >= 1 && level + 1 < LIMIT_LEVELS ? &tree->levels[level + 1] : NULL,
        .edit = edit,
        .sequence_min = sequence_min,
        .sequence_max = sequence_max,
        .edit_start = edit->added_count,
        .level = level,
    };
    heat_init(&output->heat, tree);
}

/* What a table builder asks before it stores a block. */
static uint8_t output_heat(void *context, struct pleat_slice first_key, size_t image_bytes) {
    struct output *output = context;
    struct cache *cache = registry_store(output->registry)->cache;
    struct epoch_slot *slot;
    if ((output->kept_bytes >= output->kept_bytes_max && !cache_has_room(cache)) ||
        epoch_enter(cache_epoch(cache), &slot) < 0) {
        return 0;
    }
    uint8_t score = heat_at(&output->heat, first_key);
    epoch_leave(slot);
    output->kept_bytes += score > 0 ? image_bytes : 0;
    return score;
}

/* Whether the next table's images may be kept (U3). */
static bool output_may_keep(struct output *output) {
    struct cache_stats stats;
    cache_stats_read(registry_store(output->registry)->cache, &stats);
    output->kept_bytes_max = stats.capacity_bytes / 8;
    return stats.misses > 0 && (output->level > 0 || stats.used_bytes <= stats.capacity_bytes / 2);
}

/* The table, opened, with what was kept of it, its pages first: NULL when nothing was, or it failed, which is left to
 * the reader who meets it. */
static struct table_ref *output_warm(struct output *output, const struct table_meta *meta) {
    struct table *table;
    if (!table_builder_has_kept(output->builder)) {
        return NULL;
    }
    struct table_ref *ref = table_ref_new(output->registry, meta);
    if (ref == NULL || table_ref_open(ref, &table, NULL) < 0) {
        table_ref_unref(ref);
        return NULL;
    }
    table_builder_give(output->builder, table);
    int rc = 0;
    for (uint32_t page = 0; rc == 0; page++) {
        struct epoch_slot *slot;
        rc = epoch_enter(cache_epoch(registry_store(output->registry)->cache), &slot);
        if (rc == 0) {
            rc = table_page_carry(table, page, NULL);
            epoch_leave(slot);
        }
    }
    return ref;
}

static int output_begin(struct output *output, struct pleat_error *err) {
    struct table_builder_options options = {
        .block_bytes = output->space->block_bytes,
        .codec = output_codec(output->space, output->level),
        .filter = output_filter(output->level),
        .grouping = output->space->grouping,
        .sequence_min = output->sequence_min,
        .sequence_max = output->sequence_max,
        .heat = output_may_keep(output) ? output_heat : NULL,
        .heat_context = output,
    };
    int rc = registry_file_number(output->registry, &options.number, err);
    if (rc < 0) {
        return rc;
    }
    output->below_bytes = 0;
    return table_builder_new(registry_store(output->registry), &options, &output->builder, err);
}

static int output_end(struct output *output, struct pleat_error *err) {
    struct table_meta meta;
    uint64_t entries = table_builder_entries(output->builder);
    int rc = table_builder_finish(output->builder, &meta, err);
    if (rc < 0) {
        return rc; /* the builder unlinks its file when it is freed */
    }
    struct table_ref *ref = output_warm(output, &meta);
    table_builder_free(output->builder);
    output->builder = NULL;
    uint64_t bytes = meta.file_bytes;
    uint64_t number = meta.number;
    rc = edit_add_table(output->edit, output->space->id, output->level, &meta, err);
    if (rc < 0) {
        const struct table_store *store = registry_store(output->registry);
        char name[TABLE_NAME_BYTES];
        table_name(number, name);
        (void)store->vfs->dir_unlink(store->dir, name, NULL); /* if this fails, too, the sweep at open removes it */
        table_ref_unref(ref);
        table_meta_fini(store->mem, &meta);
        return rc;
    }
    output->edit->added[output->edit->added_count - 1].ref = ref;
    output->bytes += bytes;
    output->entries += entries;
    return 0;
}

/* Whether the table being written should end before `key`. Keeps count of the tables below that the run has passed. */
static bool output_is_full(struct output *output, const uint8_t *key, size_t key_bytes) {
    bool is_border = false;
    const struct level *below = output->below;
    while (below != NULL && output->below_index < below->count) {
        const struct table_meta *meta = &below->tables[output->below_index]->meta;
        if (key_compare(meta->largest, meta->largest_bytes, key, key_bytes) >= 0) {
            break;
        }
        is_border = true;
        output->below_bytes += meta->file_bytes;
        output->below_index++;
    }
    if (output->builder == NULL) {
        output->below_bytes = 0;
        return false;
    }
    uint64_t target = output->options->table_bytes;
    uint64_t bytes = table_builder_bytes(output->builder);
    return bytes >= target ||
           (is_border && (bytes >= target - target / 4 || output->below_bytes > BELOW_TABLES_MAX * target));
}

/* Makes sure that a table is open for `key`. */
static int output_place(struct output *output, const uint8_t *key, size_t key_bytes, struct pleat_error *err) {
    if (output_is_full(output, key, key_bytes)) {
        int rc = output_end(output, err);
        if (rc < 0) {
            return rc;
        }
    }
    return output->builder == NULL ? output_begin(output, err) : 0;
}

int output_add(struct output *output, const struct entry *entry, struct pleat_error *err) {
    int rc = output_place(output, entry->key, entry->key_bytes, err);
    return rc < 0 ? rc : table_builder_add(output->builder, entry, err);
}

int output_add_block(struct output *output, const struct table_block *block, struct pleat_error *err) {
    int rc = output_place(output, block->first_key.data, block->first_key.bytes, err);
    return rc < 0 ? rc : table_builder_add_block(output->builder, block, err);
}

int output_finish(struct output *output, struct pleat_error *err) {
    return output->builder != NULL ? output_end(output, err) : 0;
}

void output_abandon(struct output *output) {
    const struct table_store *store = registry_store(output->registry);
    struct edit *edit = output->edit;
    table_builder_free(output->builder);
    output->builder = NULL;
    while (edit->added_count > output->edit_start) {
        char name[TABLE_NAME_BYTES];
        table_name(edit->added[edit->added_count - 1].meta.number, name);
        edit_drop_table(edit);
        (void)store->vfs->dir_unlink(store->dir, name, NULL); /* if this fails, too, the sweep at open removes it */
    }
}
