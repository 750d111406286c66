/* table_keep.c - see table_keep.h. */
#include "sstable/table_keep.h"

#include "base/assert.h"
#include "sstable/table_internal.h"

struct table_kept {
    struct cache_frame *frame;
    uint32_t block;
    uint8_t score;
};

static size_t table_keep_count(const struct table_keep *keep) {
    return keep->frames.bytes / sizeof(struct table_kept);
}

static struct table_kept *table_keep_at(const struct table_keep *keep, size_t i) {
    return (struct table_kept *)(void *)keep->frames.data + i;
}

void table_keep_block(struct table_keep *keep, const struct table_store *store, uint32_t block, const uint8_t *image,
                      size_t image_bytes, uint8_t score) {
    struct table_kept kept = {cache_prepare(store->cache, image, image_bytes), block, score};
    if (kept.frame != NULL && table_bytes_append(store->mem, &keep->frames, &kept, sizeof kept, NULL) < 0) {
        cache_discard(store->cache, kept.frame); /* KE2 */
    }
}

void table_keep_give(struct table_keep *keep, const struct table_store *store, struct table *table) {
    for (size_t i = 0; i < table_keep_count(keep); i++) {
        const struct table_kept *kept = table_keep_at(keep, i);
        ASSERT(kept->block < table->index.blocks);
        cache_adopt(store->cache, &table->index.slots[kept->block], kept->frame, kept->score);
    }
    keep->frames.bytes = 0;
}

void table_keep_fini(struct table_keep *keep, const struct table_store *store) {
    for (size_t i = 0; i < table_keep_count(keep); i++) {
        cache_discard(store->cache, table_keep_at(keep, i)->frame);
    }
    mem_free(store->mem, keep->frames.data);
    keep->frames = (struct table_bytes){0};
}
