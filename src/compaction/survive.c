/* survive.c - see survive.h. */
#include "compaction/survive.h"

#include "base/assert.h"
#include "base/bytes.h"
#include "base/mutation.h"

void survive_init(struct survive *survive, const struct tree *tree, unsigned level_first, size_t level0_first) {
    ASSERT(level_first >= 1 && level_first <= LIMIT_LEVELS);
    *survive = (struct survive){.tree = tree, .level_first = level_first, .level0_first = level0_first};
}

bool survive_can_drop(struct survive *survive, const uint8_t *key, size_t key_bytes) {
    const struct level *level0 = &survive->tree->levels[0];
    if (MUTATION(compact_survive)) {
        return true;
    }
    for (size_t i = survive->level0_first; i < level0->count; i++) {
        const struct table_meta *meta = &level0->tables[i]->meta;
        if (key_compare(meta->smallest, meta->smallest_bytes, key, key_bytes) <= 0 &&
            key_compare(meta->largest, meta->largest_bytes, key, key_bytes) >= 0) {
            return false;
        }
    }
    for (unsigned l = survive->level_first; l < LIMIT_LEVELS; l++) {
        const struct level *level = &survive->tree->levels[l];
        size_t *index = &survive->indexes[l];
        while (*index < level->count && key_compare(level->tables[*index]->meta.largest,
                                                    level->tables[*index]->meta.largest_bytes, key, key_bytes) < 0) {
            ++*index;
        }
        if (*index < level->count) {
            const struct table_meta *meta = &level->tables[*index]->meta;
            if (key_compare(meta->smallest, meta->smallest_bytes, key, key_bytes) <= 0) {
                return false;
            }
        }
    }
    return true;
}
