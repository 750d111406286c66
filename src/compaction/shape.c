/* shape.c - see shape.h. */
#include "compaction/shape.h"

#include "base/bytes.h"
#include "compaction/output.h"

size_t shape_run_end(const struct level *level0, size_t index) {
    uint64_t sequence_max = level0->tables[index]->meta.sequence_max;
    while (index < level0->count && level0->tables[index]->meta.sequence_max == sequence_max) {
        index++;
    }
    return index;
}

void shape_of(const struct tree *tree, const struct compaction_options *options, struct shape *ret_shape) {
    struct shape shape = {.base = SHAPE_LAST_LEVEL};
    uint64_t bytes = 0;
    for (unsigned l = 1; l < LIMIT_LEVELS; l++) {
        bytes = tree->levels[l].file_bytes > bytes ? tree->levels[l].file_bytes : bytes;
    }
    uint64_t ratio = options->level_ratio >= 2 ? options->level_ratio : 2;
    uint64_t least = options->level_base_bytes > 0 ? options->level_base_bytes : 1;
    while (shape.base > 1 && bytes / ratio >= least) {
        bytes /= ratio;
        shape.base--;
        shape.targets[shape.base] = bytes;
    }
    shape.level0_output = shape.base;
    for (unsigned l = shape.base; l-- > 1;) {
        if (tree->levels[l].count > 0) {
            shape.level0_output = l;
        }
    }
    for (size_t i = 0; i < tree->levels[0].count; i = shape_run_end(&tree->levels[0], i)) {
        shape.level0_runs++;
    }
    *ret_shape = shape;
}

bool shape_is_final(const struct space_info *space, const struct table_meta *meta) {
    return meta->codec == output_codec(space, 1) && meta->filter == output_filter(1);
}

bool shape_is_dense(const struct table_meta *meta) {
    return meta->tombstones > 0 && meta->tombstones >= meta->entries - meta->entries / 2;
}

struct pleat_slice shape_smallest(const struct table_ref *ref) {
    return (struct pleat_slice){ref->meta.smallest, ref->meta.smallest_bytes};
}

struct pleat_slice shape_largest(const struct table_ref *ref) {
    return (struct pleat_slice){ref->meta.largest, ref->meta.largest_bytes};
}

int shape_compare(struct pleat_slice a, struct pleat_slice b) {
    return key_compare(a.data, a.bytes, b.data, b.bytes);
}

bool shape_overlaps(const struct table_ref *ref, struct pleat_slice lower, struct pleat_slice upper) {
    return shape_compare(shape_smallest(ref), upper) <= 0 && shape_compare(shape_largest(ref), lower) >= 0;
}

void shape_range(const struct level *level, struct pleat_slice lower, struct pleat_slice upper, size_t *ret_begin,
                 size_t *ret_end) {
    size_t begin = level_find(level, lower.data, lower.bytes);
    size_t end = begin;
    while (end < level->count && shape_compare(shape_smallest(level->tables[end]), upper) <= 0) {
        end++;
    }
    *ret_begin = begin;
    *ret_end = end;
}
