/*
 * flush.c - one space's part of a frozen generation becomes a run (K1).
 *
 *     source --last, first--> range --overlaps something--> level 0: raw blocks, Bloom filter
 *                                   --overlaps nothing----> the deepest level: the space's codec, fuse filter
 *
 * An in-order fold therefore writes every entry once: nothing lies where its runs go. The range is taken before the
 * first entry is written, from both ends of the source; bytes of its keys are copied, as the source lends them only
 * until its next call.
 */
#include "base/error.h"
#include "compaction/output.h"
#include "compaction/shape.h"
#include "compaction/survive.h"

struct key_copy {
    uint8_t *data;
    size_t bytes;
};

static int key_copy_take(const struct mem *mem, const struct source *source, struct key_copy *ret_key,
                         struct pleat_error *err) {
    ret_key->bytes = source->entry.key_bytes;
    ret_key->data = mem_copy(mem, source->entry.key, source->entry.key_bytes);
    return ret_key->data != NULL ? 0 : error_no_memory(err, "a key", ret_key->bytes);
}

/* The range of a source: copies of its smallest and largest key. PLEAT_END when it is empty. Leaves it on the first. */
static int source_range(const struct mem *mem, struct source *source, struct key_copy *ret_smallest,
                        struct key_copy *ret_largest, struct pleat_error *err) {
    int rc = source->ops->last(source);
    if (rc == 0) {
        int copied = key_copy_take(mem, source, ret_largest, err);
        if (copied < 0) {
            return copied;
        }
        rc = source->ops->first(source);
    }
    if (rc == 0) {
        return key_copy_take(mem, source, ret_smallest, err);
    }
    return rc < 0 ? error_set(err, rc, source->error.os_errno, "%s", source->error.message) : rc;
}

/* The deepest level that the range may go to: neither it nor any above holds keys of the range. Levels above the one
 * that level 0 merges into are kept empty, so a run that cannot go that deep goes to level 0. */
static unsigned flush_level(const struct tree *tree, const struct compaction_options *options,
                            struct pleat_slice smallest, struct pleat_slice largest) {
    struct shape shape;
    shape_of(tree, options, &shape);
    for (size_t i = 0; i < tree->levels[0].count; i++) {
        if (shape_overlaps(tree->levels[0].tables[i], smallest, largest)) {
            return 0;
        }
    }
    unsigned level = 1;
    while (level < LIMIT_LEVELS && !level_overlaps(&tree->levels[level], smallest, largest)) {
        level++;
    }
    level--;
    return level >= shape.level0_output ? level : 0;
}

int flush_goes_deep(const struct mem *mem, const struct version *version, uint32_t slot,
                    const struct compaction_options *options, struct source *source, bool *ret_deep,
                    struct pleat_error *err) {
    struct key_copy smallest = {NULL, 0};
    struct key_copy largest = {NULL, 0};
    *ret_deep = false;
    int rc = source_range(mem, source, &smallest, &largest, err);
    if (rc == 0) {
        *ret_deep = flush_level(version->trees[slot], options, (struct pleat_slice){smallest.data, smallest.bytes},
                                (struct pleat_slice){largest.data, largest.bytes}) > 0;
    }
    mem_free(mem, smallest.data);
    mem_free(mem, largest.data);
    return rc > 0 ? 0 : rc;
}

static int flush_entries(struct source *source, struct output *output, struct survive *survive,
                         struct pleat_error *err) {
    int rc = 0;
    while (rc == 0) {
        const struct entry *entry = &source->entry;
        if (entry->kind != ENTRY_DELETE || !survive_can_drop(survive, entry->key, entry->key_bytes)) {
            rc = output_add(output, entry, err);
            if (rc < 0) {
                return rc;
            }
        }
        rc = source->ops->next(source);
    }
    return rc < 0 ? error_set(err, rc, source->error.os_errno, "%s", source->error.message) : 0;
}

int flush_run(struct registry *registry, const struct version *version, uint32_t slot,
              const struct compaction_options *options, struct source *source, uint64_t sequence_min,
              uint64_t sequence_max, bool allow_deep, struct edit *edit, uint64_t *ret_bytes, struct pleat_error *err) {
    const struct mem *mem = registry_store(registry)->mem;
    const struct tree *tree = version->trees[slot];
    struct key_copy smallest = {NULL, 0};
    struct key_copy largest = {NULL, 0};
    struct output output;
    struct survive survive;
    bool is_begun = false;
    *ret_bytes = 0;
    int rc = source_range(mem, source, &smallest, &largest, err);
    if (rc != 0) {
        rc = rc > 0 ? 0 : rc;
        goto out;
    }
    unsigned level = 0;
    if (allow_deep) {
        level = flush_level(tree, options, (struct pleat_slice){smallest.data, smallest.bytes},
                            (struct pleat_slice){largest.data, largest.bytes});
    }
    output_init(&output, registry, version, slot, options, level, sequence_min, sequence_max, edit);
    is_begun = true;
    survive_init(&survive, tree, 1, 0); /* everything in the tree is older than what is flushed */
    rc = flush_entries(source, &output, &survive, err);
    if (rc == 0) {
        rc = output_finish(&output, err);
    }
    if (rc == 0) {
        *ret_bytes = output.bytes;
    }
out:
    if (rc < 0 && is_begun) {
        output_abandon(&output);
    }
    mem_free(mem, smallest.data);
    mem_free(mem, largest.data);
    return rc;
}
