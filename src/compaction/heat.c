/* heat.c - see heat.h. */
#include "compaction/heat.h"

#include "base/bytes.h"

void heat_init(struct heat *heat, const struct tree *tree) {
    *heat = (struct heat){.tree = tree};
}

struct table *heat_opened(const struct table_ref *ref) {
    return atomic_load_explicit(&ref->table, memory_order_acquire); /* pairs with the release in table_ref_open */
}

static bool heat_covers(const struct table_meta *meta, struct pleat_slice key) {
    return key_compare(meta->smallest, meta->smallest_bytes, key.data, key.bytes) <= 0 &&
           key_compare(meta->largest, meta->largest_bytes, key.data, key.bytes) >= 0;
}

/* The deepest table of the tree whose range holds the key, or NULL. */
static struct table_ref *heat_deepest(const struct tree *tree, struct pleat_slice key) {
    for (unsigned l = LIMIT_LEVELS - 1; l > 0; l--) {
        const struct level *level = &tree->levels[l];
        size_t i = level_find(level, key.data, key.bytes);
        if (i < level->count && heat_covers(&level->tables[i]->meta, key)) {
            return level->tables[i];
        }
    }
    const struct level *zero = &tree->levels[0];
    for (size_t i = zero->count; i > 0; i--) {
        if (heat_covers(&zero->tables[i - 1]->meta, key)) {
            return zero->tables[i - 1];
        }
    }
    return NULL;
}

uint8_t heat_at(struct heat *heat, struct pleat_slice key) {
    struct table_ref *ref = heat_deepest(heat->tree, key);
    struct table *table = ref != NULL ? heat_opened(ref) : NULL;
    if (table == NULL) {
        return 0;
    }
    struct table_place place;
    table_locate_cached(table, key.data, key.bytes, &place);
    if (place.node == NULL) {
        return 0; /* a page of the index that was not worth its room: nor are the blocks under it */
    }
    if (table != heat->table || place.block != heat->block) {
        heat->ref = ref;
        heat->table = table;
        heat->block = place.block;
        heat->score = table_block_score(table, place.block);
    }
    return heat->score;
}
