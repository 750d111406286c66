/*
 * version_verify.c - whether deeper levels are older (V3), to the key.
 *
 * Tables hold no sequences, only their files' metas do: from which commits they were flushed. A key that stands in a
 * table whose last commit lies before the first one of a deeper table that holds it, too, convicts. Ranges alone do
 * not: a merge whose inputs leave a gap writes a table that spans it, and newer tables may have gone down through the
 * gap.
 *
 *     level 0   [a ........ z]  commits 1..8      spans what lies below, shares no key with it
 *     level 5        [m n]      commits 9..10     went down while a and z were two tables
 *
 * So the metas name the suspects, and only those are read: keys of both, leaping over each other.
 */
#include "base/bytes.h"
#include "base/error.h"
#include "version/registry_internal.h"

/* Whether the two tables hold a key in common: 0 no, 1 yes, or an error. */
static int tables_share_key(struct source *a, struct source *b, struct pleat_error *err) {
    int rc = a->ops->first(a);
    while (rc == 0) {
        rc = b->ops->seek(b, a->entry.key, a->entry.key_bytes);
        if (rc == 0 && key_compare(a->entry.key, a->entry.key_bytes, b->entry.key, b->entry.key_bytes) == 0) {
            return 1;
        }
        struct source *swap = a; /* b is ahead now: it leads the next step */
        a = b;
        b = swap;
    }
    return rc == PLEAT_END ? 0 : error_set(err, rc, a->error.os_errno, "%s", a->error.message);
}

static int suspects_verify(struct table_ref *above, unsigned upper, struct table_ref *below, unsigned lower,
                           struct pleat_error *err) {
    static const struct source_bounds all = {.keys_only = true};
    struct table *tables[2];
    struct source *sources[2] = {NULL, NULL};
    int rc = table_ref_open(above, &tables[0], err);
    rc = rc < 0 ? rc : table_ref_open(below, &tables[1], err);
    rc = rc < 0 ? rc : table_source_new(tables[0], &all, &sources[0], err);
    rc = rc < 0 ? rc : table_source_new(tables[1], &all, &sources[1], err);
    rc = rc < 0 ? rc : tables_share_key(sources[0], sources[1], err);
    source_free(sources[0]);
    source_free(sources[1]);
    if (rc <= 0) {
        return rc;
    }
    char name[TABLE_NAME_BYTES];
    table_name(above->meta.number, name);
    return error_set(err, PLEAT_ERR_CORRUPT, 0,
                     "%s: level %u holds a key that table %llu of level %u has from a later commit: last commit "
                     "expected at least %llu, found %llu",
                     name, upper, (unsigned long long)below->meta.number, lower,
                     (unsigned long long)below->meta.sequence_min, (unsigned long long)above->meta.sequence_max);
}

/* The table against one deeper level. */
static int table_verify_above(struct table_ref *above, unsigned upper, const struct level *level, unsigned lower,
                              struct pleat_error *err) {
    const struct table_meta *meta = &above->meta;
    int rc = 0;
    for (size_t i = level_find(level, meta->smallest, meta->smallest_bytes); rc == 0 && i < level->count; i++) {
        const struct table_meta *below = &level->tables[i]->meta;
        if (key_compare(below->smallest, below->smallest_bytes, meta->largest, meta->largest_bytes) > 0) {
            break;
        }
        if (meta->sequence_max < below->sequence_min) {
            rc = suspects_verify(above, upper, level->tables[i], lower, err);
        }
    }
    return rc;
}

int version_verify(const struct version *version, struct pleat_error *err) {
    if (!version_check(version)) {
        return error_set(err, PLEAT_ERR_CORRUPT, 0, "MANIFEST: the tables of a level overlap");
    }
    int rc = 0;
    for (uint32_t slot = 0; slot < version->slots; slot++) {
        const struct tree *tree = version->trees[slot];
        for (unsigned upper = 0; tree != NULL && upper < LIMIT_LEVELS; upper++) {
            for (size_t i = 0; i < tree->levels[upper].count; i++) {
                for (unsigned lower = upper + 1; rc == 0 && lower < LIMIT_LEVELS; lower++) {
                    rc = table_verify_above(tree->levels[upper].tables[i], upper, &tree->levels[lower], lower, err);
                }
            }
        }
    }
    return rc;
}
