/*
 * filter.c - collecting hashes, cutting them into parts, the image, its verification and the questions asked of it.
 *
 * The builder keeps the hashes as they come. To finish it sorts them by part when there are several, builds part after
 * part into one image, and gives the scratch back. See filter_internal.h for the image's bytes.
 *
 *   FI1  Verification bounds what a question of any hash reads by the length that the part announces: answers compute
 *        places that are inside and check nothing.
 *   FI2  A failed finish keeps the hashes: it may be tried again.
 */
#include "sstable/filter.h"

#include "base/assert.h"
#include "base/error.h"
#include "sstable/filter_internal.h"

#include <string.h>

struct filter_builder {
    const struct mem *mem;
    enum filter_kind kind;
    uint32_t part_keys_mean;
    uint64_t *hashes;
    size_t count;
    size_t room;
    uint8_t *image;
    size_t image_bytes;
};

int filter_builder_new(const struct mem *mem, enum filter_kind kind, uint32_t part_keys,
                       struct filter_builder **ret_builder, struct pleat_error *err) {
    ASSERT(kind == FILTER_BLOOM || kind == FILTER_FUSE);
    part_keys = part_keys < FILTER_PART_KEYS_MIN ? FILTER_PART_KEYS_MIN : part_keys;
    part_keys = part_keys > FILTER_PART_KEYS ? FILTER_PART_KEYS : part_keys;
    struct filter_builder *builder = mem_zalloc(mem, 1, sizeof *builder);
    if (builder == NULL) {
        return error_no_memory(err, "filter builder", sizeof *builder);
    }
    builder->mem = mem;
    builder->kind = kind;
    /* A little below the limit, since hashes do not fall into the parts evenly. */
    builder->part_keys_mean = part_keys - part_keys / 64;
    *ret_builder = builder;
    return 0;
}

void filter_builder_free(struct filter_builder *builder) {
    if (builder == NULL) {
        return;
    }
    mem_free(builder->mem, builder->hashes);
    mem_free(builder->mem, builder->image);
    mem_free(builder->mem, builder);
}

int filter_builder_add(struct filter_builder *builder, uint64_t hash, struct pleat_error *err) {
    ASSERT(builder->image == NULL);
    if (builder->count > 0 && builder->hashes[builder->count - 1] == hash) {
        return 0; /* the copies that come in practice, a group's, come in a row */
    }
    if (UNLIKELY(builder->count == builder->room)) {
        size_t room = builder->room > 0 ? builder->room * 2 : 512;
        uint64_t *hashes = NULL;
        if (room <= SIZE_MAX / sizeof *hashes) {
            hashes = mem_resize(builder->mem, builder->hashes, room * sizeof *hashes);
        }
        if (hashes == NULL) {
            return error_no_memory(err, "filter hashes", (uint64_t)room * sizeof *hashes);
        }
        builder->hashes = hashes;
        builder->room = room;
    }
    builder->hashes[builder->count++] = hash;
    return 0;
}

/* ---- finishing -------------------------------------------------------------------------------------------------- */

struct filter_plan {
    uint32_t parts;
    uint64_t *starts; /* [parts + 1] first hash of each part */
    uint64_t *inner;  /* [count] hashes as their parts know them, part after part: `sorted`, or the builder's own */
    uint64_t *sorted; /* NULL with a single part, which knows every hash by itself */
    uint64_t bytes_max;
    uint64_t count_max;
    uint64_t slots_max;
};

static void filter_plan_fini(const struct mem *mem, struct filter_plan *plan) {
    mem_free(mem, plan->starts);
    mem_free(mem, plan->sorted);
}

static void filter_plan_sort(const struct filter_builder *builder, struct filter_plan *plan) {
    if (plan->parts == 1) {
        plan->starts[1] = builder->count;
        return;
    }
    uint64_t inner;
    for (size_t i = 0; i < builder->count; i++) {
        plan->starts[filter_part_of(builder->hashes[i], plan->parts, &inner)]++;
    }
    uint64_t sum = 0;
    for (uint32_t part = 0; part < plan->parts; part++) {
        sum += plan->starts[part];
        plan->starts[part] = sum; /* its end; filling from behind turns it into its start */
    }
    plan->starts[plan->parts] = sum;
    for (size_t i = builder->count; i-- > 0;) {
        uint32_t part = filter_part_of(builder->hashes[i], plan->parts, &inner);
        plan->inner[--plan->starts[part]] = inner;
    }
}

/* Sorts the hashes by part and bounds the sizes of image and scratch. */
static int filter_plan_init(const struct filter_builder *builder, struct filter_plan *ret_plan,
                            struct pleat_error *err) {
    const struct mem *mem = builder->mem;
    size_t count = builder->count;
    size_t mean = builder->part_keys_mean;
    struct filter_plan plan = {.parts = (uint32_t)((count + mean - 1) / mean)};
    plan.parts = plan.parts > 0 ? plan.parts : 1;
    plan.starts = mem_zalloc(mem, (size_t)plan.parts + 1, sizeof *plan.starts);
    plan.sorted = plan.parts > 1 ? mem_alloc(mem, count * sizeof *plan.sorted) : NULL;
    plan.inner = plan.parts > 1 ? plan.sorted : builder->hashes;
    if (plan.starts == NULL || (plan.parts > 1 && plan.sorted == NULL)) {
        filter_plan_fini(mem, &plan);
        return error_no_memory(err, "filter parts", (uint64_t)count * sizeof *plan.inner);
    }
    filter_plan_sort(builder, &plan);
    plan.bytes_max = filter_align(FILTER_HEADER_BYTES + (uint64_t)plan.parts * FILTER_PART_BYTES);
    for (uint32_t i = 0; i < plan.parts; i++) {
        uint64_t part_count = plan.starts[i + 1] - plan.starts[i];
        uint64_t data_bytes = builder->kind == FILTER_FUSE
                                  ? fuse_bytes_max(part_count)
                                  : (uint64_t)bloom_blocks(part_count) * FILTER_BLOOM_BLOCK_BYTES;
        plan.bytes_max += filter_align(data_bytes);
        plan.slots_max = data_bytes > plan.slots_max ? data_bytes : plan.slots_max;
        plan.count_max = part_count > plan.count_max ? part_count : plan.count_max;
    }
    *ret_plan = plan;
    return 0;
}

static uint64_t filter_build_bloom(const uint64_t *inner, uint64_t count, uint8_t *data, struct filter_part *ret_part) {
    *ret_part = (struct filter_part){.shape = FILTER_SHAPE_NOTHING};
    if (count > 0) {
        *ret_part = (struct filter_part){.shape = FILTER_BLOOM_BLOCK_BYTES, .units = bloom_blocks(count)};
    }
    uint64_t bytes = (uint64_t)ret_part->units * FILTER_BLOOM_BLOCK_BYTES;
    memset(data, 0, (size_t)bytes);
    for (uint64_t i = 0; i < count; i++) {
        bloom_add(data, ret_part->units, inner[i]);
    }
    return bytes;
}

/* Builds all parts into `image` (room for plan->bytes_max); returns its length. */
static uint64_t filter_build(const struct filter_builder *builder, const struct filter_plan *plan,
                             struct fuse_scratch *scratch, uint8_t *image) {
    uint64_t at = filter_align(FILTER_HEADER_BYTES + (uint64_t)plan->parts * FILTER_PART_BYTES);
    memset(image, 0, (size_t)at);
    store_u32(image, (uint32_t)builder->kind);
    store_u32(image + 4, plan->parts);
    store_u64(image + 8, builder->count);
    for (uint32_t i = 0; i < plan->parts; i++) {
        uint64_t count = plan->starts[i + 1] - plan->starts[i];
        uint64_t *inner = count > 0 ? plan->inner + plan->starts[i] : NULL; /* an empty set has no array */
        struct filter_part part;
        uint64_t bytes;
        if (builder->kind == FILTER_FUSE) {
            fuse_build(scratch, inner, count, image + at, &part);
            bytes = fuse_data_bytes(&part);
        } else {
            bytes = filter_build_bloom(inner, count, image + at, &part);
        }
        part.data_at = at;
        filter_part_store(image, i, &part);
        memset(image + at + bytes, 0, (size_t)(filter_align(bytes) - bytes));
        at += filter_align(bytes);
    }
    return at;
}

static int filter_builder_make(struct filter_builder *builder, struct pleat_error *err) {
    const struct mem *mem = builder->mem;
    struct fuse_scratch *scratch = NULL;
    struct filter_plan plan = {0};
    int rc = filter_plan_init(builder, &plan, err);
    if (rc < 0) {
        return rc;
    }
    uint8_t *image = plan.bytes_max <= SIZE_MAX ? mem_alloc(mem, (size_t)plan.bytes_max) : NULL;
    if (image == NULL) {
        rc = error_no_memory(err, "filter image", plan.bytes_max);
        goto done;
    }
    if (builder->kind == FILTER_FUSE) {
        rc = fuse_scratch_new(mem, plan.count_max, plan.slots_max, &scratch, err);
        if (rc < 0) {
            mem_free(mem, image);
            goto done;
        }
    }
    builder->image_bytes = (size_t)filter_build(builder, &plan, scratch, image);
    ASSERT(builder->image_bytes <= plan.bytes_max);
    uint8_t *shrunk = mem_resize(mem, image, builder->image_bytes); /* room for unlucky seeds goes back, if it can */
    builder->image = shrunk != NULL ? shrunk : image;
done:
    fuse_scratch_free(scratch);
    filter_plan_fini(mem, &plan);
    return rc;
}

int filter_builder_finish(struct filter_builder *builder, const uint8_t **ret_image, size_t *ret_bytes,
                          struct pleat_error *err) {
    if (builder->image == NULL) {
        int rc = filter_builder_make(builder, err);
        if (rc < 0) {
            return rc; /* FI2 */
        }
        mem_free(builder->mem, builder->hashes);
        builder->hashes = NULL;
        builder->room = 0;
    }
    *ret_image = builder->image;
    *ret_bytes = builder->image_bytes;
    return 0;
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

/* Data bytes that the part's fields announce, or UINT64_MAX when they make no sense for the kind. */
static uint64_t filter_part_announced(uint32_t kind, const struct filter_part *part) {
    if (part->units == 0) {
        return part->shape <= FILTER_SHAPE_EVERYTHING ? 0 : UINT64_MAX;
    }
    if (kind == FILTER_BLOOM) {
        uint64_t bytes = (uint64_t)part->units * FILTER_BLOOM_BLOCK_BYTES;
        return part->shape == FILTER_BLOOM_BLOCK_BYTES && bytes <= FILTER_DATA_BYTES_MAX ? bytes : UINT64_MAX;
    }
    bool power_of_two = (part->shape & (part->shape - 1)) == 0;
    if (!power_of_two || part->shape < 4 || part->shape > FILTER_FUSE_SEGMENT_BYTES_MAX) {
        return UINT64_MAX;
    }
    uint64_t bytes = fuse_data_bytes(part);
    return bytes <= FILTER_DATA_BYTES_MAX ? bytes : UINT64_MAX;
}

/* Verifies the parts' fields, whose data begin behind the directory; *ret_end: where they end. */
static const char *filter_parts_verify(const uint8_t *image, size_t bytes, uint64_t *ret_end) {
    if (bytes < FILTER_HEADER_BYTES) {
        return "filter is shorter than its header";
    }
    uint32_t kind = load_u32(image);
    uint32_t parts = load_u32(image + 4);
    if (kind != FILTER_BLOOM && kind != FILTER_FUSE) {
        return "filter of a kind that this version does not know";
    }
    if (parts == 0 || parts > (bytes - FILTER_HEADER_BYTES) / FILTER_PART_BYTES) {
        return "filter with more parts than it has room for, or none";
    }
    uint64_t at = filter_align(FILTER_HEADER_BYTES + (uint64_t)parts * FILTER_PART_BYTES);
    for (uint32_t i = 0; i < parts; i++) {
        struct filter_part part = filter_part_load(image, i);
        uint64_t data_bytes = filter_part_announced(kind, &part);
        if (data_bytes == UINT64_MAX) {
            return "filter part of an impossible shape";
        }
        if (part.data_at != at) {
            return "filter part at the wrong place";
        }
        at += filter_align(data_bytes); /* at most 2^28 parts of 2^32 bytes: no overflow */
    }
    *ret_end = at;
    return NULL;
}

const char *filter_verify(const uint8_t *image, size_t bytes) {
    uint64_t end = 0;
    const char *wrong = filter_parts_verify(image, bytes, &end);
    return wrong != NULL ? wrong : end == bytes ? NULL : "filter of the wrong length";
}

size_t filter_directory_bytes(const uint8_t *image) {
    return (size_t)filter_align(FILTER_HEADER_BYTES + (uint64_t)filter_parts(image) * FILTER_PART_BYTES);
}

const char *filter_directory_verify(const uint8_t *directory, size_t bytes, uint64_t *ret_image_bytes) {
    const char *wrong = filter_parts_verify(directory, bytes, ret_image_bytes);
    return wrong != NULL ? wrong : filter_directory_bytes(directory) == bytes ? NULL : "filter of the wrong length";
}

uint32_t filter_parts(const uint8_t *directory) {
    return load_u32(directory + 4);
}

void filter_part_place(const uint8_t *directory, uint32_t part, uint64_t *ret_at, uint64_t *ret_bytes) {
    struct filter_part fields = filter_part_load(directory, part);
    *ret_at = fields.data_at;
    *ret_bytes = filter_align(filter_part_announced(load_u32(directory), &fields));
}

/* ---- questions -------------------------------------------------------------------------------------------------- */

/* The data of the part that is asked, in a whole image. */
static const uint8_t *filter_data(const uint8_t *image, const struct filter_question *question) {
    return image + filter_part_load(image, question->part).data_at;
}

bool filter_may_contain(const uint8_t *image, uint64_t hash) {
    struct filter_question question = filter_question_of(image, hash);
    return filter_answer(&question, filter_data(image, &question));
}

void filter_prefetch(const uint8_t *image, uint64_t hash) {
    struct filter_question question = filter_question_of(image, hash);
    filter_answer_prefetch(&question, filter_data(image, &question));
}
