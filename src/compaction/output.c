/* output.c - see output.h. */
#include "compaction/output.h"

#include "base/assert.h"
#include "base/bytes.h"
#include "base/error.h"
#include "base/mutation.h"

/* A table that may have the keys of one input waits for that input's end until it is larger by this part. */
#define LIKE_SLACK_PART 4

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
        .kept_parts = 1,
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
    output->kept_bytes_max = stats.capacity_bytes / 8 / output->kept_parts;
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
    bool is_whole = output->input_at < output->input_count && !output->input_begun;
    output->like = is_whole ? output->inputs[output->input_at] : NULL;
    return table_builder_new(registry_store(output->registry), &options, &output->builder, err);
}

/* The table ends where `like` does. The filter is copied when it has the same number of keys (U4). */
static void output_copy_filter(struct output *output) {
    struct table *table;
    struct table_ref *like = output->like;
    bool is_same = table_builder_entries(output->builder) == like->meta.entries || MUTATION(compact_filter_like);
    if (is_same && table_ref_open(like, &table, NULL) == 0) {
        output->filters_copied += table_builder_set_like(output->builder, table);
    }
}

static int output_end(struct output *output, struct pleat_error *err) {
    struct table_meta meta;
    uint64_t entries = table_builder_entries(output->builder);
    if (output->like != NULL) {
        output_copy_filter(output);
    }
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

/* Passes the inputs that end before `key`; true: any. */
static bool output_pass_inputs(struct output *output, const uint8_t *key, size_t key_bytes) {
    size_t before = output->input_at;
    while (output->input_at < output->input_count) {
        const struct table_meta *meta = &output->inputs[output->input_at]->meta;
        if (key_compare(meta->largest, meta->largest_bytes, key, key_bytes) >= 0) {
            break;
        }
        output->input_at++;
    }
    if (output->input_at == before) {
        return false;
    }
    output->input_begun = false;
    return true;
}

/* Whether the table being written should end before `key`. Keeps count of the tables below that the run has passed. */
static bool output_is_full(struct output *output, const uint8_t *key, size_t key_bytes, bool is_input_border) {
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
    uint64_t most = target;
    if (output->like != NULL) {
        uint64_t entries = table_builder_entries(output->builder), wanted = output->like->meta.entries;
        is_border = is_border || (is_input_border && (entries == wanted || MUTATION(compact_filter_like)));
        most += entries < wanted ? target / LIKE_SLACK_PART : 0;
    }
    return bytes >= most ||
           (is_border && (bytes >= target - target / 4 || output->below_bytes > BELOW_TABLES_MAX * target));
}

/* Makes sure that a table is open for `key`. */
static int output_place(struct output *output, const uint8_t *key, size_t key_bytes, struct pleat_error *err) {
    bool is_input_border = output_pass_inputs(output, key, key_bytes);
    bool is_full = output_is_full(output, key, key_bytes, is_input_border);
    if (is_full != is_input_border) {
        output->like = NULL; /* it ends elsewhere, or goes on behind the input's end */
    }
    if (is_full) {
        int rc = output_end(output, err);
        if (rc < 0) {
            return rc;
        }
    }
    int rc = output->builder == NULL ? output_begin(output, err) : 0;
    output->input_begun = true;
    return rc;
}

void output_set_inputs(struct output *output, struct table_ref *const *inputs, size_t count) {
    ASSERT(output->builder == NULL && output->entries == 0);
    output->inputs = inputs;
    output->input_count = count;
}

void output_drop(struct output *output, const uint8_t *key, size_t key_bytes) {
    (void)output_pass_inputs(output, key, key_bytes);
    output->input_begun = true;
    output->like = MUTATION(compact_filter_drop) ? output->like : NULL;
}

int output_add(struct output *output, const struct entry *entry, struct pleat_error *err) {
    int rc = output_place(output, entry->key, entry->key_bytes, err);
    return rc < 0 ? rc : table_builder_add(output->builder, entry, err);
}

int output_add_block(struct output *output, const struct table_block *block, struct pleat_error *err) {
    int rc = output_place(output, block->first_key.data, block->first_key.bytes, err);
    if (rc == 0 && output_pass_inputs(output, block->last_key.data, block->last_key.bytes)) {
        output->like = NULL; /* a block of another level, over an input's end */
        output->input_begun = true;
    }
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
